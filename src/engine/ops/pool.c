/*
 * engine/ops/pool.c
 *		Max-pool 3x3 stride 2, and the subsampling that makes the pool level.
 */
#include "engine/ops/layers.h"

static bool
half_shape(EngPlan *plan, EngOp *op, EngStatus *status)
{
	const EngTensor *in = eng_op_in(plan, op, 0);
	EngTensor  *out = eng_op_out(plan, op, 0);

	(void) status;
	out->n = in->n;
	out->h = (in->h + 1) / 2;
	out->w = (in->w + 1) / 2;
	out->c = in->c;
	return true;
}

static EngPoolShape
pool_shape(const EngPlan *plan, const EngOp *op)
{
	const EngTensor *in = eng_op_in(plan, op, 0);
	const EngTensor *out = eng_op_out(plan, op, 0);

	return (EngPoolShape)
	{
		in->n, in->h, in->w, in->c, out->h, out->w, in->type
	};
}

static EngScaleShape
scale_shape(const EngPlan *plan, const EngOp *op)
{
	const EngTensor *in = eng_op_in(plan, op, 0);
	const EngTensor *out = eng_op_out(plan, op, 0);

	return (EngScaleShape)
	{
		in->n, in->h, in->w, in->c, out->h, out->w, in->type
	};
}

static bool
maxpool_prepare(EngPlan *plan, EngOp *op, EngStatus *status)
{
	(void) status;
	op->aux_size = plan->request.train ?
		eng_tensor_count(eng_op_out(plan, op, 0)) : 0;
	return true;
}

static bool
maxpool_forward(EngPlan *plan, EngOp *op, EngStatus *status)
{
	EngPoolShape shape = pool_shape(plan, op);

	(void) status;
	plan->backend->maxpool_forward(plan->backend,
								   eng_op_out_value(plan, op, 0),
								   op->aux_size > 0 ?
								   plan->arena + op->aux_offset : NULL,
								   eng_op_in_value(plan, op, 0), &shape);
	return true;
}

static bool
maxpool_backward(EngPlan *plan, EngOp *op, EngStatus *status)
{
	EngPoolShape shape = pool_shape(plan, op);

	(void) status;
	if (op->want_gradient[0])
		plan->backend->maxpool_backward(plan->backend,
										eng_plan_gradient(plan, op->input[0]),
										eng_plan_gradient(plan,
														  op->output[0]),
										plan->arena + op->aux_offset,
										&shape, op->add_gradient[0]);
	return true;
}

static bool
subsample_prepare(EngPlan *plan, EngOp *op, EngStatus *status)
{
	(void) plan;
	(void) op;
	(void) status;
	return true;
}

static bool
subsample_forward(EngPlan *plan, EngOp *op, EngStatus *status)
{
	EngScaleShape shape = scale_shape(plan, op);

	(void) status;
	plan->backend->subsample(plan->backend, eng_op_out_value(plan, op, 0),
							 eng_op_in_value(plan, op, 0), &shape);
	return true;
}

static bool
subsample_backward(EngPlan *plan, EngOp *op, EngStatus *status)
{
	EngScaleShape shape = scale_shape(plan, op);

	(void) status;
	if (op->want_gradient[0])
		plan->backend->subsample_backward(plan->backend,
										  eng_plan_gradient(plan,
															op->input[0]),
										  eng_plan_gradient(plan,
															op->output[0]),
										  &shape, op->add_gradient[0]);
	return true;
}

const EngOpClass eng_maxpool_class = {
	.kind = "maxpool",
	.shape = half_shape,
	.prepare = maxpool_prepare,
	.forward = maxpool_forward,
	.backward = maxpool_backward
};

const EngOpClass eng_subsample_class = {
	.kind = "subsample",
	.shape = half_shape,
	.prepare = subsample_prepare,
	.forward = subsample_forward,
	.backward = subsample_backward
};

static int32_t
append(EngModel *model, const EngOpClass *class, const char *name,
	   int32_t input)
{
	int32_t		output = eng_model_tensor(model, name);
	EngOp	   *op = eng_model_op(model, class, class->kind);

	if (model->status.code == ENG_OK)
	{
		model->tensors[output].full = model->tensors[input].full;
		model->tensors[output].full_in_bf16 =
			model->tensors[input].full_in_bf16;
	}
	eng_op_input(op, input);
	eng_op_output(op, output);
	return output;
}

int32_t
eng_layer_maxpool(EngModel *model, const char *name, int32_t input)
{
	return append(model, &eng_maxpool_class, name, input);
}

int32_t
eng_layer_subsample(EngModel *model, const char *name, int32_t input)
{
	return append(model, &eng_subsample_class, name, input);
}
