/*
 * engine/ops/conv.c
 *		Convolution, with bias, a sum and ReLU where asked.
 *
 * y[n, i, j, o] = relu(bias[o] + add[n, i, j, o] + sum over (u, v, c) of
 *		x[n, i * stride + u - pad, j * stride + v - pad, c] * w[o, u, v, c])
 */
#include <stdlib.h>

#include "engine/ops/layers.h"

/* Weights with the norm behind them multiplied in (inference). */
typedef struct Folded
{
	float	   *weight;
	float	   *bias;
	size_t		weight_size;	/* bytes */
	size_t		bias_size;
	uint64_t	version;
} Folded;

static bool
conv_shape(EngPlan *plan, EngOp *op, EngStatus *status)
{
	const EngTensor *in = eng_op_in(plan, op, 0);
	EngTensor  *out = eng_op_out(plan, op, 0);

	if (in->h + 2 * op->pad < op->k || in->w + 2 * op->pad < op->k)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"input of %dx%d is too small for \"%s\"",
						in->w, in->h, op->name);
	out->n = in->n;
	out->h = (in->h + 2 * op->pad - op->k) / op->stride + 1;
	out->w = (in->w + 2 * op->pad - op->k) / op->stride + 1;
	out->c = op->channels;
	out->per_roi = in->per_roi;
	return true;
}

static bool
prepare_folding(EngPlan *plan, EngOp *op, const EngConvShape *shape,
				EngStatus *status)
{
	Folded	   *folded = calloc(1, sizeof(Folded));

	op->state = folded;
	if (folded == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	folded->weight_size = sizeof(float) * shape->oc * shape->k * shape->k *
		shape->c;
	folded->bias_size = sizeof(float) * shape->oc;
	folded->weight = plan->backend->alloc(plan->backend, folded->weight_size);
	folded->bias = plan->backend->alloc(plan->backend, folded->bias_size);
	if (folded->weight == NULL || folded->bias == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	return true;
}

static bool
conv_prepare(EngPlan *plan, EngOp *op, EngStatus *status)
{
	const EngTensor *in = eng_op_in(plan, op, 0);
	const EngTensor *out = eng_op_out(plan, op, 0);
	EngConvShape shape = {0};

	shape.n = in->n;
	shape.h = in->h;
	shape.w = in->w;
	shape.c = in->c;
	shape.oh = out->h;
	shape.ow = out->w;
	shape.oc = out->c;
	shape.k = op->k;
	shape.stride = op->stride;
	shape.pad = op->pad;
	shape.x_type = in->type;
	shape.y_type = out->type;
	shape.tf32 = in->type == ENG_F32 && plan->request.type != ENG_F32;
	shape.bias = op->bias >= 0 || op->folded >= 0;
	shape.relu = op->relu;
	shape.sum = op->input_count > 1;
	shape.sparse = op->sparse;
	shape.need_data = op->want_gradient[0];
	shape.add_data = op->add_gradient[0];
	shape.need_weight = op->backward_active &&
		plan->parameters->list[op->weight].trainable;
	op->kernel = plan->backend->conv_plan(plan->backend, &shape, status);
	if (op->kernel == NULL)
		return false;
	if (op->folded >= 0 && !prepare_folding(plan, op, &shape, status))
		return false;
	op->workspace = plan->backend->kernel_workspace(op->kernel);
	op->keeps_inputs = shape.need_weight ? 1 : 0;
	op->keeps_output = op->relu;
	op->flops_forward = 2.0 * eng_tensor_count(out) * op->k * op->k * in->c;
	op->flops_backward = op->flops_forward *
		((shape.need_data ? 1 : 0) + (shape.need_weight ? 1 : 0));
	return true;
}

static void
fold(EngPlan *plan, EngOp *op)
{
	const EngNormParameters *norm = &plan->ops[op->folded].norm;
	Folded	   *folded = op->state;
	EngFold		fold = {
		.weight = folded->weight, .bias = folded->bias,
		.from = eng_op_weight(plan, op->weight),
		.from_bias = eng_op_weight(plan, op->bias),
		.norm_weight = eng_op_weight(plan, norm->weight),
		.norm_bias = eng_op_weight(plan, norm->bias),
		.mean = eng_op_weight(plan, norm->running_mean),
		.var = eng_op_weight(plan, norm->running_var),
		.eps = norm->eps, .oc = op->channels,
		.size = plan->parameters->list[op->weight].count / op->channels
	};

	if (folded->version == plan->parameters->version)
		return;
	plan->backend->fold(plan->backend, &fold);
	folded->version = plan->parameters->version;
}

static bool
conv_forward(EngPlan *plan, EngOp *op, EngStatus *status)
{
	const float *weight = eng_op_weight(plan, op->weight);
	const float *bias = eng_op_weight(plan, op->bias);

	if (op->folded >= 0)
	{
		const Folded *folded = op->state;

		fold(plan, op);
		weight = folded->weight;
		bias = folded->bias;
	}
	if (op->input_count > 1)
		return plan->backend->conv_forward_sum(op->kernel,
											   eng_op_out_value(plan, op, 0),
											   eng_op_in_value(plan, op, 0),
											   eng_op_in_value(plan, op, 1),
											   weight, bias,
											   plan->parameters->version,
											   plan->scratch, status);
	return plan->backend->conv_forward(op->kernel,
									   eng_op_out_value(plan, op, 0),
									   eng_op_in_value(plan, op, 0),
									   weight, bias,
									   plan->parameters->version,
									   plan->scratch, status);
}

bool
eng_conv_backward(EngPlan *plan, EngOp *op, EngStatus *status)
{
	EngBackend *backend = plan->backend;
	const EngTensor *out = eng_op_out(plan, op, 0);
	void	   *dy = eng_plan_gradient(plan, op->output[0]);
	float	   *dweight = eng_op_weight_gradient(plan, op->weight);

	if (op->relu)
		backend->relu_backward(backend, out->type, dy,
							   eng_op_out_value(plan, op, 0),
							   eng_tensor_count(out));
	if (dweight != NULL &&
		!backend->conv_backward_weight(op->kernel, dweight,
									   eng_op_weight_gradient(plan, op->bias),
									   eng_op_in_value(plan, op, 0), dy,
									   plan->scratch, status))
		return false;
	if (!op->want_gradient[0])
		return true;
	return backend->conv_backward_data(op->kernel,
									   eng_plan_gradient(plan, op->input[0]),
									   dy, eng_op_weight(plan, op->weight),
									   plan->parameters->version,
									   plan->scratch, status);
}

static void
conv_finish(EngPlan *plan, EngOp *op)
{
	Folded	   *folded = op->state;

	if (folded == NULL)
		return;
	plan->backend->free(plan->backend, folded->weight, folded->weight_size);
	plan->backend->free(plan->backend, folded->bias, folded->bias_size);
	free(folded);
}

const EngOpClass eng_conv_class = {
	.kind = "conv",
	.shape = conv_shape,
	.prepare = conv_prepare,
	.forward = conv_forward,
	.backward = eng_conv_backward,
	.finish = conv_finish
};

int32_t
eng_conv_tensor(EngModel *model, const EngConvSpec *spec)
{
	int32_t		output = eng_model_tensor(model, spec->name);

	if (model->status.code == ENG_OK)
	{
		model->tensors[output].full = spec->full;
		model->tensors[output].full_in_bf16 = spec->full_in_bf16;
	}
	return output;
}

int32_t
eng_layer_conv(EngModel *model, const EngConvSpec *spec, int32_t input)
{
	int32_t		output = eng_conv_tensor(model, spec);
	EngOp	   *op = eng_model_op(model, &eng_conv_class, spec->label);

	op->weight = spec->weight;
	op->bias = spec->bias;
	op->channels = spec->channels;
	op->k = spec->k;
	op->stride = spec->stride;
	op->pad = spec->k / 2;
	op->relu = spec->relu;
	op->sparse = spec->sparse;
	eng_op_input(op, input);
	eng_op_output(op, output);
	return output;
}
