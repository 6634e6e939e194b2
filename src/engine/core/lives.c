/*
 * engine/core/lives.c
 *		When each value and gradient of a plan is alive.
 *
 * A value that backward reads need not be kept if it can be made again from
 * others that are kept anyway.  It then has two lives, and the memory between
 * them serves something else: see plan.h for the measure of time.
 */
#include "engine/core/plan.h"

#include <stdlib.h>
#include <string.h>

#define NEVER	INT32_MAX

/* What backward asks of one tensor. */
typedef struct Need
{
	int32_t		first;			/* time of the first use; NEVER: none */
	int32_t		last;
	int32_t		maker;			/* the one operation that writes it, or -1 */
	bool		kept;			/* read by backward itself */
	bool		possible;		/* can be made again */
} Need;

static int32_t
backward_time(const EngPlan *plan, int32_t op)
{
	return 2 * plan->op_count - 1 - op;
}

static void
use(Need *need, int32_t first, int32_t last)
{
	if (first < need->first)
		need->first = first;
	if (last > need->last)
		need->last = last;
}

static void
find_needs(const EngPlan *plan, Need *needs)
{
	int32_t		i;
	int32_t		j;

	for (i = 0; i < plan->tensor_count; i++)
		needs[i] = (Need) {.first = NEVER, .last = -1, .maker = -1};
	for (i = 0; i < plan->op_count; i++)
	{
		const EngOp *op = &plan->ops[i];
		int32_t		back = backward_time(plan, i);

		for (j = 0; j < op->input_count; j++)
			if (op->backward_active && (op->keeps_inputs >> j & 1))
			{
				use(&needs[op->input[j]], back, back);
				needs[op->input[j]].kept = true;
			}
		for (j = 0; j < op->output_count; j++)
		{
			Need	   *need = &needs[op->output[j]];

			if (op->backward_active && op->keeps_output)
			{
				use(need, back, back);
				need->kept = true;
			}
			/* -2: more than one writes it, in place */
			need->maker = need->maker == -1 ? i : -2;
		}
	}
}

/*
 * In order of execution: what its operation can make again once its inputs
 * are there, which are kept or can be made again themselves.
 */
static void
find_possible(const EngPlan *plan, Need *needs)
{
	int32_t		i;
	int32_t		j;

	for (i = 0; i < plan->op_count; i++)
	{
		const EngOp *op = &plan->ops[i];
		Need	   *need;

		if (op->class->again == NULL || op->output_count != 1)
			continue;
		need = &needs[op->output[0]];
		need->possible = need->maker == i;
		for (j = 0; j < op->input_count; j++)
			if (!needs[op->input[j]].kept && !needs[op->input[j]].possible)
				need->possible = false;
	}
}

/*
 * Against the order of execution, so that who needs a value to make another
 * again has said so before.
 */
static void
choose_again(EngPlan *plan, Need *needs)
{
	int32_t		i;
	int32_t		j;

	for (i = plan->op_count - 1; i >= 0; i--)
	{
		EngOp	   *op = &plan->ops[i];
		Need	   *need;

		if (op->output_count != 1)
			continue;
		need = &needs[op->output[0]];
		if (!need->possible || need->last < 0)
			continue;
		op->again_before = 2 * plan->op_count - 1 - need->first;
		eng_op_out(plan, op, 0)->again_first = need->first;
		eng_op_out(plan, op, 0)->again_last = need->last;
		for (j = 0; j < op->input_count; j++)
			use(&needs[op->input[j]], need->first, need->first);
	}
}

static int32_t
list_again(EngPlan *plan)
{
	int32_t		count = 0;
	int32_t		before;
	int32_t		i;

	for (before = plan->op_count - 1; before >= 0; before--)
		for (i = 0; i <= before; i++)
			if (plan->ops[i].again_before == before)
				plan->again[count++] = i;
	return count;
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
set_lives(EngPlan *plan, const Need *needs)
{
	int32_t		i;
	int32_t		j;

	for (i = 0; i < plan->tensor_count; i++)
	{
		plan->tensors[i].first = NEVER;
		plan->tensors[i].last = -1;
	}
	extend(plan->tensors, plan->input, 0);
	for (i = 0; i < plan->op_count; i++)
	{
		const EngOp *op = &plan->ops[i];

		for (j = 0; j < op->input_count; j++)
			extend(plan->tensors, op->input[j], i);
		for (j = 0; j < op->output_count; j++)
			extend(plan->tensors, op->output[j], i);
	}
	for (i = 0; i < plan->tensor_count; i++)
		if (needs[i].last >= 0 && plan->tensors[i].again_first < 0)
			extend(plan->tensors, i, needs[i].last);
}

/*
 * The gradient of an operation's input may take over the memory of the
 * output's, which is read by nobody after that operation's backward.
 */
static void
share_gradients(EngPlan *plan)
{
	int32_t		i;
	int32_t		j;

	for (i = plan->op_count - 1; i >= 0; i--)
	{
		EngOp	   *op = &plan->ops[i];
		const EngTensor *out;

		if (!op->backward_active || op->in_place == 0 ||
			op->output_count != 1)
			continue;
		out = eng_op_out(plan, op, 0);
		/* the later input is read unchanged, so it comes first */
		for (j = op->input_count - 1; j >= 0; j--)
		{
			EngTensor  *in = eng_op_in(plan, op, j);
			EngTensor  *root = &plan->tensors[out->grad_root];

			if (!(op->in_place >> j & 1) || !op->want_gradient[j] ||
				op->add_gradient[j] ||
				in->type != out->type ||
				eng_tensor_bytes(in) != eng_tensor_bytes(out) ||
				out->grad_last != backward_time(plan, i))
				continue;
			in->grad_root = out->grad_root;
			if (in->grad_last > root->grad_last)
				root->grad_last = in->grad_last;
			break;
		}
	}
}

bool
eng_plan_lives(EngPlan *plan, EngStatus *status)
{
	Need	   *needs = calloc(plan->tensor_count + 1, sizeof(Need));
	int32_t		i;

	plan->again = calloc(plan->op_count + 1, sizeof(int32_t));
	if (needs == NULL || plan->again == NULL)
	{
		free(needs);
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	}
	for (i = 0; i < plan->tensor_count; i++)
	{
		plan->tensors[i].again_first = plan->tensors[i].again_last = -1;
		plan->tensors[i].grad_root = i;
	}
	for (i = 0; i < plan->op_count; i++)
		plan->ops[i].again_before = -1;
	find_needs(plan, needs);
	if (plan->request.train && !plan->request.keep_all)
	{
		find_possible(plan, needs);
		choose_again(plan, needs);
		share_gradients(plan);
	}
	plan->again_count = list_again(plan);
	set_lives(plan, needs);
	free(needs);
	return true;
}
