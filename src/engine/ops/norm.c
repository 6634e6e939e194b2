/*
 * engine/ops/norm.c
 *		Batch norm, with the sum and the ReLU behind it where asked.
 *
 * y = relu((x - mean) / sqrt(var + eps) * weight + bias + add), per channel.
 * Batch statistics in training unless the norm is frozen: biased variance
 * for the result, unbiased for the running one.  In inference it is folded
 * into the convolution before it, and only the sum and its ReLU remain; they
 * may round what was float so far.
 */
#include "engine/ops/layers.h"

static bool
norm_shape(EngPlan *plan, EngOp *op, EngStatus *status)
{
	const EngTensor *in = eng_op_in(plan, op, 0);
	EngTensor  *out = eng_op_out(plan, op, 0);

	(void) status;
	out->n = in->n;
	out->h = in->h;
	out->w = in->w;
	out->c = in->c;
	out->per_roi = in->per_roi;
	return true;
}

static bool
uses_batch(const EngPlan *plan, const EngOp *op)
{
	return plan->request.train && !plan->request.freeze_norm &&
		op->norm.counter >= 0;
}

static size_t
statistics_size(const EngOp *op)
{
	return 2 * sizeof(float) * op->channels;
}

static bool
norm_prepare(EngPlan *plan, EngOp *op, EngStatus *status)
{
	const EngTensor *in = eng_op_in(plan, op, 0);

	op->channels = in->c;
	if (in->type != eng_op_out(plan, op, 0)->type &&
		(op->folded < 0 || op->input_count == 1))
		return eng_fail(status, ENG_INTERNAL,
						"norm \"%s\" cannot change the type", op->name);
	if (op->folded >= 0)
		return true;
	op->aux_size = statistics_size(op);
	op->workspace =
		plan->backend->norm_workspace(plan->backend,
									  (int64_t) in->n * in->h * in->w,
									  in->c);
	op->keeps_inputs = uses_batch(plan, op) ||
		plan->parameters->list[op->norm.weight].trainable ? 1 : 0;
	/* what the ReLU hid is seen from the input, unless a sum came between */
	op->keeps_output = op->relu &&
		(op->keeps_inputs == 0 || op->input_count > 1);
	op->in_place = 3;
	return true;
}

static EngNormArgs
norm_args(EngPlan *plan, EngOp *op)
{
	const EngTensor *in = eng_op_in(plan, op, 0);
	EngNormArgs args = {0};

	args.rows = (int64_t) in->n * in->h * in->w;
	args.live = eng_plan_live_rows(plan, in);
	args.live_entries = in->per_roi ? plan->live_entries : NULL;
	args.entry_rows = in->h * in->w;
	args.channels = in->c;
	args.eps = op->norm.eps;
	args.momentum = 0.1f;
	args.type = in->type;
	args.x = eng_op_in_value(plan, op, 0);
	args.add = op->input_count > 1 ? eng_op_in_value(plan, op, 1) : NULL;
	args.y = eng_op_out_value(plan, op, 0);
	args.weight = eng_op_weight(plan, op->norm.weight);
	args.bias = eng_op_weight(plan, op->norm.bias);
	args.running_mean = eng_op_weight(plan, op->norm.running_mean);
	args.running_var = eng_op_weight(plan, op->norm.running_var);
	args.mean = (float *) (plan->arena + op->aux_offset);
	args.rstd = args.mean + in->c;
	args.relu = op->relu;
	args.batch = uses_batch(plan, op);
	args.workspace = plan->scratch;
	if (plan->request.idle)
	{
		args.rows = args.live = 0;
		args.live_entries = NULL;
	}
	return args;
}

static bool
norm_forward(EngPlan *plan, EngOp *op, EngStatus *status)
{
	EngNormArgs args;

	(void) status;
	if (op->folded >= 0)
	{
		const EngTensor *out = eng_op_out(plan, op, 0);

		if (op->input_count > 1)
			plan->backend->add_relu(plan->backend, out->type,
									eng_op_out_value(plan, op, 0),
									eng_op_in(plan, op, 0)->type,
									eng_op_in_value(plan, op, 0),
									eng_op_in_value(plan, op, 1),
									eng_tensor_count(out));
		return true;
	}
	args = norm_args(plan, op);
	plan->backend->norm_forward(plan->backend, &args);
	return true;
}

/*
 * Not in norm_forward, which a device may repeat without the host.
 */
void
eng_plan_count_batch(EngPlan *plan)
{
	EngParameters *parameters = plan->parameters;
	int32_t		i;

	for (i = 0; i < plan->op_count; i++)
	{
		const EngOp *op = &plan->ops[i];

		if (op->class == &eng_norm_class && uses_batch(plan, op))
			parameters->counter_values[
				parameters->list[op->norm.counter].offset]++;
	}
}

static bool
norm_again(EngPlan *plan, EngOp *op, EngStatus *status)
{
	EngNormArgs args = norm_args(plan, op);

	(void) status;
	args.again = true;
	plan->backend->norm_forward(plan->backend, &args);
	return true;
}

static bool
norm_backward(EngPlan *plan, EngOp *op, EngStatus *status)
{
	EngNormArgs args = norm_args(plan, op);

	(void) status;
	if (!op->keeps_output)
		args.y = NULL;
	args.dy = eng_plan_gradient(plan, op->output[0]);
	if (op->want_gradient[0])
	{
		args.dx = eng_plan_gradient(plan, op->input[0]);
		args.dx_add = op->add_gradient[0];
	}
	/* where the sum's gradient takes over this memory, it is there already */
	if (op->input_count > 1 && op->want_gradient[1] &&
		eng_plan_gradient(plan, op->input[1]) != args.dy)
	{
		args.dadd = eng_plan_gradient(plan, op->input[1]);
		args.dadd_add = op->add_gradient[1];
	}
	args.dweight = eng_op_weight_gradient(plan, op->norm.weight);
	args.dbias = eng_op_weight_gradient(plan, op->norm.bias);
	plan->backend->norm_backward(plan->backend, &args);
	return true;
}

const EngOpClass eng_norm_class = {
	.kind = "norm",
	.meets = true,
	.shape = norm_shape,
	.prepare = norm_prepare,
	.forward = norm_forward,
	.again = norm_again,
	.backward = norm_backward
};

int32_t
eng_layer_norm(EngModel *model, const EngNormSpec *spec, int32_t input)
{
	int32_t		output = eng_model_tensor(model, spec->name);
	EngOp	   *op = eng_model_op(model, &eng_norm_class, spec->label);

	if (model->status.code == ENG_OK)
		model->tensors[output].full_in_bf16 = spec->full_in_bf16;
	op->norm = spec->parameters;
	op->relu = spec->relu;
	eng_op_input(op, input);
	if (spec->add >= 0)
		eng_op_input(op, spec->add);
	eng_op_output(op, output);
	return output;
}
