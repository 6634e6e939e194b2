/*
 * engine/ops/tokens.c
 *		Into the tokens of a transformer, and out of them.
 *
 * In: patches behind a learned first token (Dosovitskiy et al. 2021), or rows
 * of a table by id; learned positions are added to both.  Out: one token of
 * each entry.
 */
#include "engine/ops/layers.h"

static bool
no_kernel(EngPlan *plan, EngOp *op, EngStatus *status)
{
	(void) plan;
	(void) op;
	(void) status;
	return true;
}

static EngTokens
tokens_of(const EngTensor *tensor)
{
	return (EngTokens) {tensor->n, tensor->h * tensor->w, tensor->c};
}

/*
 * The output has `tokens` tokens of what the table of positions is wide;
 * fails if the table is too short.
 */
static bool
set_tokens(EngPlan *plan, EngOp *op, int32_t tokens, EngStatus *status)
{
	const EngParameter *positions = &plan->parameters->list[op->bias];
	EngTensor  *out = eng_op_out(plan, op, 0);

	if (tokens > positions->shape[0])
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"%d tokens are more than the %lld positions known",
						tokens, (long long) positions->shape[0]);
	out->n = eng_op_in(plan, op, 0)->n;
	out->h = tokens;
	out->w = 1;
	out->c = (int32_t) positions->shape[1];
	return true;
}

/* ---- patches behind a first token ------------------------------------- */

static bool
join_shape(EngPlan *plan, EngOp *op, EngStatus *status)
{
	const EngTensor *in = eng_op_in(plan, op, 0);

	return set_tokens(plan, op, in->h * in->w + 1, status);
}

static bool
join_forward(EngPlan *plan, EngOp *op, EngStatus *status)
{
	EngTokens	shape = tokens_of(eng_op_out(plan, op, 0));

	(void) status;
	plan->backend->join_tokens(plan->backend, eng_op_out_value(plan, op, 0),
							   eng_op_in_value(plan, op, 0),
							   eng_op_weight(plan, op->weight),
							   eng_op_weight(plan, op->bias), &shape);
	return true;
}

static const EngOpClass join_class = {
	.kind = "join tokens",
	.shape = join_shape,
	.prepare = no_kernel,
	.forward = join_forward
};

/* ---- tokens by id ------------------------------------------------------- */

static bool
embed_shape(EngPlan *plan, EngOp *op, EngStatus *status)
{
	const EngTensor *in = eng_op_in(plan, op, 0);

	return set_tokens(plan, op, in->h * in->w, status);
}

static bool
embed_forward(EngPlan *plan, EngOp *op, EngStatus *status)
{
	EngTokens	shape = tokens_of(eng_op_out(plan, op, 0));

	(void) status;
	plan->backend->embed_tokens(plan->backend, eng_op_out_value(plan, op, 0),
								eng_op_in_value(plan, op, 0),
								eng_op_weight(plan, op->weight),
								eng_op_weight(plan, op->bias), &shape);
	return true;
}

static const EngOpClass embed_class = {
	.kind = "embed tokens",
	.shape = embed_shape,
	.prepare = no_kernel,
	.forward = embed_forward
};

/* ---- one token of each entry --------------------------------------------- */

static bool
pick_shape(EngPlan *plan, EngOp *op, EngStatus *status)
{
	const EngTensor *in = eng_op_in(plan, op, 0);
	EngTensor  *out = eng_op_out(plan, op, 0);

	(void) status;
	out->n = in->n;
	out->h = out->w = 1;
	out->c = in->c;
	return true;
}

static bool
pick_forward(EngPlan *plan, EngOp *op, EngStatus *status)
{
	const EngTensor *in = eng_op_in(plan, op, 0);
	EngTokens	shape = tokens_of(in);
	const float *ids = op->input_count > 1 ? eng_op_in_value(plan, op, 1) :
		NULL;

	(void) status;
	plan->backend->pick_tokens(plan->backend, in->type,
							   eng_op_out_value(plan, op, 0),
							   eng_op_in_value(plan, op, 0), ids, &shape);
	return true;
}

static const EngOpClass pick_class = {
	.kind = "pick token",
	.shape = pick_shape,
	.prepare = no_kernel,
	.forward = pick_forward
};

/* ---- describe -------------------------------------------------------------- */

static int32_t
into_tokens(EngModel *model, const EngOpClass *class, const char *name,
			int32_t rows, int32_t positions, int32_t input)
{
	int32_t		output = eng_model_tensor(model, name);
	EngOp	   *op = eng_model_op(model, class, name);

	model->tensors[output].full = true;
	op->weight = rows;
	op->bias = positions;
	eng_op_input(op, input);
	eng_op_output(op, output);
	return output;
}

int32_t
eng_layer_join_tokens(EngModel *model, const char *name, int32_t first,
					  int32_t positions, int32_t input)
{
	return into_tokens(model, &join_class, name, first, positions, input);
}

int32_t
eng_layer_embed_tokens(EngModel *model, const char *name, int32_t table,
					   int32_t positions, int32_t ids)
{
	return into_tokens(model, &embed_class, name, table, positions, ids);
}

int32_t
eng_layer_pick_tokens(EngModel *model, const char *name, int32_t ids,
					  int32_t input)
{
	int32_t		output = eng_model_tensor(model, name);
	EngOp	   *op = eng_model_op(model, &pick_class, name);

	model->tensors[output].full = model->tensors[input].full;
	eng_op_input(op, input);
	if (ids >= 0)
		eng_op_input(op, ids);
	eng_op_output(op, output);
	return output;
}
