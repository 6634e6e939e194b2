/*
 * engine/ops/linear.c
 *		Fully connected layer on rows, with bias and ReLU where asked.
 *
 * y[r, o] = relu(bias[o] + sum over i of x[r, i] * w[o, i]).  A row is one
 * whole entry of the input's batch: its maps are read as they lie, (h, w, c),
 * and the weights are stored in that order; or, by cell, a row is the c
 * features of one cell.
 */
#include "engine/ops/layers.h"

static bool
linear_shape(EngPlan *plan, EngOp *op, EngStatus *status)
{
	const EngTensor *in = eng_op_in(plan, op, 0);
	EngTensor  *out = eng_op_out(plan, op, 0);

	(void) status;
	out->n = in->n;
	out->h = op->by_cell ? in->h : 1;
	out->w = op->by_cell ? in->w : 1;
	out->c = op->channels;
	out->per_roi = in->per_roi;
	return true;
}

static bool
linear_prepare(EngPlan *plan, EngOp *op, EngStatus *status)
{
	const EngTensor *in = eng_op_in(plan, op, 0);
	EngConvShape shape = {0};

	shape.n = op->by_cell ? in->n * in->h * in->w : in->n;
	shape.h = shape.w = shape.oh = shape.ow = 1;
	shape.c = op->by_cell ? in->c : in->h * in->w * in->c;
	shape.oc = op->channels;
	shape.k = shape.stride = 1;
	shape.x_type = in->type;
	shape.y_type = eng_op_out(plan, op, 0)->type;
	shape.bias = op->bias >= 0;
	shape.relu = op->relu;
	shape.activation = op->activation;
	if (op->by_cell && !plan->request.train)
		shape.lasting = eng_op_weight(plan, op->weight);
	shape.need_data = op->want_gradient[0];
	shape.add_data = op->add_gradient[0];
	shape.need_weight = op->backward_active &&
		plan->parameters->list[op->weight].trainable;
	op->kernel = plan->backend->linear_plan(plan->backend, &shape, status);
	if (op->kernel == NULL)
		return false;
	op->workspace = plan->backend->kernel_workspace(op->kernel);
	op->keeps_inputs = shape.need_weight ? 1 : 0;
	op->keeps_output = op->relu;
	op->flops_forward = 2.0 * shape.n * shape.c * shape.oc;
	op->flops_backward = op->flops_forward *
		((shape.need_data ? 1 : 0) + (shape.need_weight ? 1 : 0));
	return true;
}

static bool
linear_forward(EngPlan *plan, EngOp *op, EngStatus *status)
{
	return plan->backend->conv_forward(op->kernel,
									   eng_op_out_value(plan, op, 0),
									   eng_op_in_value(plan, op, 0),
									   eng_op_weight(plan, op->weight),
									   eng_op_weight(plan, op->bias),
									   plan->parameters->version,
									   plan->scratch, status);
}

const EngOpClass eng_linear_class = {
	.kind = "linear",
	.shape = linear_shape,
	.prepare = linear_prepare,
	.forward = linear_forward,
	.backward = eng_conv_backward
};

int32_t
eng_layer_linear(EngModel *model, const EngConvSpec *spec, int32_t input)
{
	int32_t		output = eng_conv_tensor(model, spec);
	EngOp	   *op = eng_model_op(model, &eng_linear_class, spec->label);

	op->weight = spec->weight;
	op->bias = spec->bias;
	op->channels = spec->channels;
	op->relu = spec->relu;
	op->by_cell = spec->by_cell;
	op->activation = spec->activation;
	eng_op_input(op, input);
	eng_op_output(op, output);
	return output;
}
