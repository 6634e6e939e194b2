/*
 * engine/ops/layer_norm.c
 *		Layer norm of tokens, with the sum of a residual branch before it.
 *
 * y = (s - mean) / sqrt(var + eps) * weight + bias over the channels of each
 * token (Ba et al. 2016), s = x + add.  x, add and s are float in every
 * precision: they carry what all blocks add up.
 */
#include "engine/ops/layers.h"

static void
same_shape(EngTensor *out, const EngTensor *in)
{
	out->n = in->n;
	out->h = in->h;
	out->w = in->w;
	out->c = in->c;
}

static bool
layer_norm_shape(EngPlan *plan, EngOp *op, EngStatus *status)
{
	int32_t		i;

	(void) status;
	for (i = 0; i < op->output_count; i++)
		same_shape(eng_op_out(plan, op, i), eng_op_in(plan, op, 0));
	return true;
}

static bool
layer_norm_prepare(EngPlan *plan, EngOp *op, EngStatus *status)
{
	(void) plan;
	(void) op;
	(void) status;
	return true;
}

static bool
layer_norm_forward(EngPlan *plan, EngOp *op, EngStatus *status)
{
	const EngTensor *in = eng_op_in(plan, op, 0);
	EngLayerNormArgs args = {
		.rows = (int64_t) in->n * in->h * in->w, .channels = in->c,
		.eps = op->norm.eps, .x = eng_op_in_value(plan, op, 0),
		.y = eng_op_out_value(plan, op, 0),
		.type = eng_op_out(plan, op, 0)->type,
		.weight = eng_op_weight(plan, op->weight),
		.bias = eng_op_weight(plan, op->bias)
	};

	(void) status;
	if (op->input_count > 1)
		args.add = eng_op_in_value(plan, op, 1);
	if (op->output_count > 1)
		args.sum = eng_op_out_value(plan, op, 1);
	plan->backend->layer_norm(plan->backend, &args);
	return true;
}

const EngOpClass eng_layer_norm_class = {
	.kind = "layer norm",
	.shape = layer_norm_shape,
	.prepare = layer_norm_prepare,
	.forward = layer_norm_forward
};

int32_t
eng_layer_layer_norm(EngModel *model, const EngLayerNormSpec *spec,
					 int32_t input, int32_t *sum)
{
	int32_t		output = eng_model_tensor(model, spec->name);
	EngOp	   *op;

	model->tensors[output].full = spec->full;
	if (spec->add >= 0)
	{
		*sum = eng_model_tensor(model, spec->sum_name);
		model->tensors[*sum].full = true;
	}
	op = eng_model_op(model, &eng_layer_norm_class, spec->name);
	op->weight = spec->weight;
	op->bias = spec->bias;
	op->norm.eps = spec->eps;
	eng_op_input(op, input);
	eng_op_output(op, output);
	if (spec->add >= 0)
	{
		eng_op_input(op, spec->add);
		eng_op_output(op, *sum);
	}
	return output;
}
