/*
 * engine/core/plan.c
 *		From a described network to one with shapes, kernels and memory.
 */
#include "engine/core/plan.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/ops/layers.h"

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
 * A folded norm's sum and ReLU become the convolution's, too, where the
 * backend has kernels for that.
 */
static void
fold_sum(EngPlan *plan, EngOp *conv, EngOp *norm)
{
	EngType		type = plan->tensors[conv->output[0]].type;

	if (plan->backend->conv_forward_sum == NULL || norm->input_count != 2 ||
		!norm->relu || plan->tensors[conv->input[0]].type != type ||
		plan->tensors[norm->input[1]].type != type ||
		plan->tensors[norm->output[0]].type != type)
		return;
	eng_op_input(conv, norm->input[1]);
	norm->input_count = 1;
}

/*
 * Without training, a norm behind a convolution becomes part of it.  In bf16
 * that saves a rounding, so that what is kept to be looked at does it too.
 */
static void
plan_folding(EngPlan *plan)
{
	int32_t		i;

	if (plan->request.train ||
		(plan->request.keep_all && plan->request.type == ENG_F32))
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
		fold_sum(plan, conv, norm);
		conv->relu = norm->relu && norm->input_count == 1;
		norm->folded = i;
		if (plan->tensors[norm->output[0]].type ==
			plan->tensors[conv->output[0]].type)
			plan->tensors[norm->output[0]].root =
				plan->tensors[conv->output[0]].root;
	}
}

static bool
takes_part(const EngPlan *plan, const EngOp *op)
{
	return !plan->request.idle || op->class->meets;
}

static EngType
tensor_type(const EngPlan *plan, const EngTensor *tensor)
{
	EngType		type = plan->request.type;

	return tensor->full || (tensor->full_in_bf16 && type == ENG_BF16) ?
		ENG_F32 : type;
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
		plan->tensors[i].type = tensor_type(plan, &plan->tensors[i]);
	for (i = 0; i < plan->op_count; i++)
		if (!plan->ops[i].class->shape(plan, &plan->ops[i], status))
			return false;
	plan_gradients(plan);
	plan_folding(plan);
	for (i = 0; i < plan->op_count; i++)
		if (takes_part(plan, &plan->ops[i]) &&
			!plan->ops[i].class->prepare(plan, &plan->ops[i], status))
			return false;
	return eng_plan_lives(plan, status) && eng_plan_place(plan, status);
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
	free(plan->again);
	free(plan);
}

size_t
eng_plan_kernel_bytes(const EngPlan *plan)
{
	size_t		bytes = 0;
	int32_t		i;

	for (i = 0; i < plan->op_count; i++)
		if (plan->ops[i].kernel != NULL)
			bytes += plan->backend->kernel_bytes(plan->ops[i].kernel);
	return bytes;
}

static double
now_seconds(const EngPlan *plan)
{
	struct timespec now;

	if (!plan->profile)
		return 0;
	if (plan->backend->device)
	{
		EngStatus	failure = {0};
		float		word;

		/* reading anything waits for what was queued before */
		(void) plan->backend->download(plan->backend, &word, plan->arena,
									   sizeof(word), &failure);
	}
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec * 1e-9;
}

bool
eng_plan_forward(EngPlan *plan, EngStatus *status)
{
	int32_t		i;

	for (i = 0; i < plan->again_count; i++)
	{
		EngTensor  *made = eng_op_out(plan, &plan->ops[plan->again[i]], 0);

		made->value_offset = made->offset;
	}
	for (i = 0; i < plan->op_count; i++)
	{
		EngOp	   *op = &plan->ops[i];
		double		start;

		if (!takes_part(plan, op))
			continue;
		start = now_seconds(plan);
		if (!op->class->forward(plan, op, status))
			return false;
		op->seconds_forward += now_seconds(plan) - start;
	}
	return true;
}

/*
 * Make the values again that the backward of operation i is the first to
 * need.  *next goes through plan->again.
 */
static bool
make_again(EngPlan *plan, int32_t i, int32_t *next, EngStatus *status)
{
	for (; *next < plan->again_count; (*next)++)
	{
		EngOp	   *op = &plan->ops[plan->again[*next]];
		EngTensor  *out = eng_op_out(plan, op, 0);
		double		start = now_seconds(plan);

		if (op->again_before != i)
			break;
		out->value_offset = out->again_offset;
		if (!op->class->again(plan, op, status))
			return false;
		op->seconds_backward += now_seconds(plan) - start;
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
			plan->backend->copy(plan->backend,
								plan->arena + tensor->seen_offset,
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
	int32_t		next = 0;
	int32_t		i;

	for (i = plan->op_count - 1; i >= 0; i--)
	{
		EngOp	   *op = &plan->ops[i];
		double		start;

		if (!op->backward_active || !takes_part(plan, op))
			continue;
		if (!plan->request.idle && !make_again(plan, i, &next, status))
			return false;
		start = now_seconds(plan);
		if (plan->request.keep_all)
			see_gradients(plan, op);
		if (!op->class->backward(plan, op, status))
			return false;
		op->seconds_backward += now_seconds(plan) - start;
	}
	return true;
}
