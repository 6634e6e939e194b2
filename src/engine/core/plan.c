/*
 * engine/core/plan.c
 *		From a described network to one with shapes, kernels and memory.
 */
#include "engine/core/plan.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/core/arena.h"
#include "engine/ops/layers.h"

/* A piece of the arena: value, gradient or private memory of an operation. */
typedef struct Piece
{
	size_t		size;
	size_t	   *offset;
	int32_t		first;
	int32_t		last;
	int32_t		order;			/* makes the sort total */
} Piece;

int64_t
eng_tensor_count(const EngTensor *tensor)
{
	return (int64_t) tensor->n * tensor->h * tensor->w * tensor->c;
}

size_t
eng_tensor_bytes(const EngTensor *tensor)
{
	return eng_tensor_count(tensor) * eng_type_size(tensor->type);
}

void *
eng_plan_value(const EngPlan *plan, int32_t tensor)
{
	const EngTensor *root = &plan->tensors[plan->tensors[tensor].root];

	return plan->arena + root->offset;
}

void *
eng_plan_gradient(const EngPlan *plan, int32_t tensor)
{
	const EngTensor *t = &plan->tensors[tensor];

	if (t->grad_first < 0)
		return NULL;
	return plan->arena + t->grad_offset;
}

int64_t
eng_plan_live_rows(const EngPlan *plan, const EngTensor *tensor)
{
	int64_t		entries = tensor->per_roi ? plan->live_rois : tensor->n;

	return entries * tensor->h * tensor->w;
}

int32_t
eng_plan_find(const EngPlan *plan, const char *name)
{
	int32_t		i;

	for (i = 0; i < plan->tensor_count; i++)
		if (strcmp(plan->tensors[i].name, name) == 0)
			return i;
	return -1;
}

static bool
parameter_trains(const EngPlan *plan, int32_t parameter)
{
	return parameter >= 0 && plan->parameters->list[parameter].trainable;
}

static bool
op_trains(const EngPlan *plan, const EngOp *op)
{
	return parameter_trains(plan, op->weight) ||
		parameter_trains(plan, op->bias) ||
		(op->class == &eng_norm_class &&
		 (parameter_trains(plan, op->norm.weight) ||
		  parameter_trains(plan, op->norm.bias)));
}

/*
 * Which tensors have gradients, who writes them first, who is active on the
 * way back.
 */
static void
plan_gradients(EngPlan *plan)
{
	int32_t		i;
	int32_t		j;

	for (i = 0; i < plan->tensor_count; i++)
		plan->tensors[i].grad_first = -1;
	if (!plan->request.train)
		return;
	for (i = 0; i < plan->op_count; i++)
	{
		EngOp	   *op = &plan->ops[i];
		bool		any = op_trains(plan, op);

		for (j = 0; j < op->input_count; j++)
			any = any || eng_op_in(plan, op, j)->requires_grad;
		op->backward_active = any && op->class->backward != NULL;
		for (j = 0; j < op->output_count; j++)
			if (op->backward_active)
				eng_op_out(plan, op, j)->requires_grad = true;
	}
	for (i = plan->op_count - 1; i >= 0; i--)
	{
		EngOp	   *op = &plan->ops[i];
		int32_t		now = 2 * plan->op_count - 1 - i;

		if (op->output_count > 0 && eng_op_out(plan, op, 0)->grad_first < 0)
			op->backward_active = false;	/* nothing comes back to it */
		if (!op->backward_active)
			continue;
		for (j = 0; j < op->input_count; j++)
		{
			EngTensor  *input = eng_op_in(plan, op, j);

			if (!input->requires_grad ||
				(op->output_count > 0 && op->input[j] == op->output[0]))
				continue;
			op->want_gradient[j] = true;
			op->add_gradient[j] = input->grad_first >= 0;
			if (input->grad_first < 0)
				input->grad_first = now;
			input->grad_last = now;
		}
		for (j = 0; j < op->output_count; j++)
			eng_op_out(plan, op, j)->grad_last = now;
	}
}

/*
 * Without training, a norm behind a convolution becomes part of it.
 */
static void
plan_folding(EngPlan *plan)
{
	int32_t		i;

	if (plan->request.train || plan->request.keep_all)
		return;
	for (i = 0; i + 1 < plan->op_count; i++)
	{
		EngOp	   *conv = &plan->ops[i];
		EngOp	   *norm = &plan->ops[i + 1];

		if (conv->class != &eng_conv_class || conv->relu ||
			norm->class != &eng_norm_class ||
			norm->input[0] != conv->output[0])
			continue;
		conv->folded = i + 1;
		conv->relu = norm->relu && norm->input_count == 1;
		norm->folded = i;
		plan->tensors[norm->output[0]].root =
			plan->tensors[conv->output[0]].root;
	}
}

static void
extend(EngTensor *tensors, int32_t index, int32_t now)
{
	EngTensor  *root = &tensors[tensors[index].root];

	if (now < root->first)
		root->first = now;
	if (now > root->last)
		root->last = now;
}

static void
plan_lives(EngPlan *plan)
{
	int32_t		i;
	int32_t		j;

	for (i = 0; i < plan->tensor_count; i++)
	{
		plan->tensors[i].first = INT32_MAX;
		plan->tensors[i].last = -1;
	}
	extend(plan->tensors, plan->input, 0);
	for (i = 0; i < plan->op_count; i++)
	{
		EngOp	   *op = &plan->ops[i];
		int32_t		back = 2 * plan->op_count - 1 - i;

		for (j = 0; j < op->input_count; j++)
		{
			extend(plan->tensors, op->input[j], i);
			if (op->backward_active && (op->keeps_inputs >> j & 1))
				extend(plan->tensors, op->input[j], back);
		}
		for (j = 0; j < op->output_count; j++)
		{
			extend(plan->tensors, op->output[j], i);
			if (op->backward_active && op->keeps_output)
				extend(plan->tensors, op->output[j], back);
		}
	}
}

static int
compare_pieces(const void *a, const void *b)
{
	const Piece *left = a;
	const Piece *right = b;

	if (left->size != right->size)
		return left->size < right->size ? 1 : -1;
	return left->order - right->order;
}

/*
 * First fit, large pieces first: the lowest offset at which the piece meets
 * no other of an overlapping life.  placed[] is kept sorted by offset.
 */
static size_t
place_pieces(Piece *pieces, int32_t count, bool keep_all, Piece **placed)
{
	size_t		total = 0;
	int32_t		done = 0;
	int32_t		i;
	int32_t		j;

	qsort(pieces, count, sizeof(Piece), compare_pieces);
	for (i = 0; i < count; i++)
	{
		Piece	   *piece = &pieces[i];
		size_t		offset = 0;

		for (j = 0; j < done; j++)
		{
			Piece	   *other = placed[j];

			if (!keep_all && (other->last < piece->first ||
							  other->first > piece->last))
				continue;
			if (offset + piece->size <= *other->offset)
				break;
			if (*other->offset + other->size > offset)
				offset = *other->offset + other->size;
		}
		*piece->offset = offset;
		if (offset + piece->size > total)
			total = offset + piece->size;
		for (j = done; j > 0 && *placed[j - 1]->offset > offset; j--)
			placed[j] = placed[j - 1];
		placed[j] = piece;
		done++;
	}
	return total;
}

static void
add_piece(Piece *pieces, int32_t *count, Piece piece)
{
	if (piece.size == 0)
		return;
	piece.size = eng_align(piece.size);
	piece.order = *count;
	pieces[(*count)++] = piece;
}

static bool
plan_memory(EngPlan *plan, EngStatus *status)
{
	int32_t		most = 3 * plan->tensor_count + plan->op_count;
	Piece	   *pieces = calloc(most + 1, sizeof(Piece));
	Piece	  **placed = calloc(most + 1, sizeof(Piece *));
	int32_t		count = 0;
	int32_t		i;

	if (pieces == NULL || placed == NULL)
	{
		free(pieces);
		free(placed);
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	}
	plan_lives(plan);
	for (i = 0; i < plan->tensor_count; i++)
	{
		EngTensor  *tensor = &plan->tensors[i];
		size_t		size = eng_tensor_bytes(tensor);

		if (tensor->root == i && tensor->last >= 0)
			add_piece(pieces, &count,
					  (Piece) {size, &tensor->offset,
							   tensor->first, tensor->last});
		if (tensor->grad_first >= 0)
			add_piece(pieces, &count,
					  (Piece) {size, &tensor->grad_offset,
							   tensor->grad_first, tensor->grad_last});
		tensor->grad_seen = plan->request.keep_all && tensor->name[0] != '\0' &&
			tensor->grad_first >= 0;
		if (tensor->grad_seen)
			add_piece(pieces, &count,
					  (Piece) {size, &tensor->seen_offset,
							   tensor->grad_first, tensor->grad_last});
	}
	for (i = 0; i < plan->op_count; i++)
	{
		EngOp	   *op = &plan->ops[i];
		int32_t		back = 2 * plan->op_count - 1 - i;

		add_piece(pieces, &count,
				  (Piece) {op->aux_size, &op->aux_offset, i,
						   op->backward_active ? back : i});
		if (op->workspace > plan->workspace)
			plan->workspace = op->workspace;
	}
	plan->activations = place_pieces(pieces, count,
									 plan->request.keep_all, placed);
	free(pieces);
	free(placed);
	return true;
}

static bool
plan_build(EngPlan *plan, EngStatus *status)
{
	EngTensor  *input = &plan->tensors[plan->input];
	int32_t		i;

	input->n = plan->request.n;
	input->h = plan->request.h;
	input->w = plan->request.w;
	input->c = plan->request.c;
	for (i = 0; i < plan->tensor_count; i++)
		plan->tensors[i].type = plan->tensors[i].full ? ENG_F32 :
			plan->request.type;
	for (i = 0; i < plan->op_count; i++)
		if (!plan->ops[i].class->shape(plan, &plan->ops[i], status))
			return false;
	plan_gradients(plan);
	plan_folding(plan);
	for (i = 0; i < plan->op_count; i++)
		if (!plan->ops[i].class->prepare(plan, &plan->ops[i], status))
			return false;
	return plan_memory(plan, status);
}

EngPlan *
eng_plan_create(const EngModel *model, EngBackend *backend,
				const EngPlanRequest *request, EngStatus *status)
{
	EngPlan    *plan = calloc(1, sizeof(EngPlan));

	if (plan == NULL)
	{
		eng_fail(status, ENG_NO_MEMORY, "out of memory");
		return NULL;
	}
	plan->request = *request;
	plan->backend = backend;
	plan->parameters = model->parameters;
	plan->input = model->input;
	plan->tensors = malloc((model->tensor_count + 1) * sizeof(EngTensor));
	plan->ops = malloc((model->op_count + 1) * sizeof(EngOp));
	if (plan->tensors == NULL || plan->ops == NULL)
	{
		eng_fail(status, ENG_NO_MEMORY, "out of memory");
		eng_plan_free(plan);
		return NULL;
	}
	plan->tensor_count = model->tensor_count;
	plan->op_count = model->op_count;
	memcpy(plan->tensors, model->tensors,
		   model->tensor_count * sizeof(EngTensor));
	memcpy(plan->ops, model->ops, model->op_count * sizeof(EngOp));
	if (!plan_build(plan, status))
	{
		eng_plan_free(plan);
		return NULL;
	}
	return plan;
}

void
eng_plan_free(EngPlan *plan)
{
	int32_t		i;

	if (plan == NULL)
		return;
	for (i = 0; i < plan->op_count; i++)
	{
		EngOp	   *op = &plan->ops[i];

		if (op->class->finish != NULL)
			op->class->finish(plan, op);
		if (op->kernel != NULL)
			plan->backend->kernel_free(op->kernel);
	}
	free(plan->tensors);
	free(plan->ops);
	free(plan);
}

static double
now_seconds(const EngPlan *plan)
{
	struct timespec now;

	if (!plan->profile)
		return 0;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec * 1e-9;
}

bool
eng_plan_forward(EngPlan *plan, EngStatus *status)
{
	int32_t		i;

	for (i = 0; i < plan->op_count; i++)
	{
		EngOp	   *op = &plan->ops[i];
		double		start = now_seconds(plan);

		if (!op->class->forward(plan, op, status))
			return false;
		op->seconds_forward += now_seconds(plan) - start;
	}
	return true;
}

/* Backward of an operation may clear what its ReLU hid: copy before. */
static void
see_gradients(EngPlan *plan, const EngOp *op)
{
	for (int32_t i = 0; i < op->output_count; i++)
	{
		const EngTensor *tensor = &plan->tensors[op->output[i]];

		if (tensor->grad_seen)
			memcpy(plan->arena + tensor->seen_offset,
				   plan->arena + tensor->grad_offset,
				   eng_tensor_bytes(tensor));
	}
}

void *
eng_plan_gradient_seen(const EngPlan *plan, int32_t tensor)
{
	const EngTensor *t = &plan->tensors[tensor];

	return t->grad_seen ? plan->arena + t->seen_offset : NULL;
}

bool
eng_plan_backward(EngPlan *plan, EngStatus *status)
{
	int32_t		i;

	for (i = plan->op_count - 1; i >= 0; i--)
	{
		EngOp	   *op = &plan->ops[i];
		double		start = now_seconds(plan);

		if (!op->backward_active)
			continue;
		if (plan->request.keep_all)
			see_gradients(plan, op);
		if (!op->class->backward(plan, op, status))
			return false;
		op->seconds_backward += now_seconds(plan) - start;
	}
	return true;
}
