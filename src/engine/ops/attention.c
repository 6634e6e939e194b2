/*
 * engine/ops/attention.c
 *		Self-attention over the tokens of each entry (Vaswani et al. 2017).
 *
 * The input holds queries, keys and values of all heads side by side, as one
 * linear layer makes them; the output the heads' results side by side.
 */
#include "engine/ops/layers.h"

static bool
attention_shape(EngPlan *plan, EngOp *op, EngStatus *status)
{
	const EngTensor *in = eng_op_in(plan, op, 0);
	EngTensor  *out = eng_op_out(plan, op, 0);
	int32_t		size = in->c / (3 * op->heads);

	if (in->c % (3 * op->heads) != 0 || size > ENG_ATTENTION_SIZE ||
		(int64_t) in->h * in->w > ENG_ATTENTION_TOKENS)
		return eng_fail(status, ENG_UNSUPPORTED,
						"attention of %d heads over %d x %d tokens of %d features is not supported",
						op->heads, in->h, in->w, in->c);
	out->n = in->n;
	out->h = in->h;
	out->w = in->w;
	out->c = in->c / 3;
	return true;
}

static EngAttentionShape
shape_of(const EngPlan *plan, const EngOp *op)
{
	const EngTensor *in = eng_op_in(plan, op, 0);
	EngAttentionShape shape = {
		.n = in->n, .tokens = in->h * in->w, .heads = op->heads,
		.size = in->c / (3 * op->heads), .causal = op->causal,
		.type = in->type
	};

	return shape;
}

/* Products are counted whole, be the attention causal or not. */
static bool
attention_prepare(EngPlan *plan, EngOp *op, EngStatus *status)
{
	EngAttentionShape s = shape_of(plan, op);

	(void) status;
	op->flops_forward = 4.0 * s.n * s.heads * s.tokens * s.tokens * s.size;
	return true;
}

static bool
attention_forward(EngPlan *plan, EngOp *op, EngStatus *status)
{
	EngAttentionShape shape = shape_of(plan, op);

	(void) status;
	plan->backend->attention(plan->backend, eng_op_out_value(plan, op, 0),
							 eng_op_in_value(plan, op, 0), &shape);
	return true;
}

const EngOpClass eng_attention_class = {
	.kind = "attention",
	.shape = attention_shape,
	.prepare = attention_prepare,
	.forward = attention_forward
};

int32_t
eng_layer_attention(EngModel *model, const char *name, int32_t heads,
					bool causal, int32_t input)
{
	int32_t		output = eng_model_tensor(model, name);
	EngOp	   *op = eng_model_op(model, &eng_attention_class, name);

	/* one type of queries, keys, values and result */
	model->tensors[output].full = model->tensors[input].full;
	op->heads = heads;
	op->causal = causal;
	eng_op_input(op, input);
	eng_op_output(op, output);
	return output;
}
