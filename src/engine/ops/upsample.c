/*
 * engine/ops/upsample.c
 *		The way down of a feature pyramid: larger += nearest(smaller).
 *
 * In place: the larger map is the operation's first input and its output, so
 * its gradient passes through untouched.  Every cell (y, x) takes the cell
 * (y / 2, x / 2) of the smaller map; sizes of padded inputs are even.
 */
#include "engine/ops/layers.h"

static bool
upsample_shape(EngPlan *plan, EngOp *op, EngStatus *status)
{
	const EngTensor *larger = eng_op_in(plan, op, 0);
	const EngTensor *smaller = eng_op_in(plan, op, 1);

	if (larger->h != 2 * smaller->h || larger->w != 2 * smaller->w ||
		larger->c != smaller->c)
		return eng_fail(status, ENG_INTERNAL,
						"maps of %dx%d and %dx%d do not join",
						larger->w, larger->h, smaller->w, smaller->h);
	return true;
}

static EngScaleShape
join_shape(const EngPlan *plan, const EngOp *op)
{
	const EngTensor *larger = eng_op_in(plan, op, 0);
	const EngTensor *smaller = eng_op_in(plan, op, 1);

	return (EngScaleShape)
	{
		larger->n, larger->h, larger->w, larger->c, smaller->h, smaller->w,
			larger->type
	};
}

static bool
upsample_prepare(EngPlan *plan, EngOp *op, EngStatus *status)
{
	(void) plan;
	(void) op;
	(void) status;
	return true;
}

static bool
upsample_forward(EngPlan *plan, EngOp *op, EngStatus *status)
{
	EngScaleShape shape = join_shape(plan, op);

	(void) status;
	plan->backend->upsample_add(plan->backend, eng_op_out_value(plan, op, 0),
								eng_op_in_value(plan, op, 1), &shape);
	return true;
}

static bool
upsample_backward(EngPlan *plan, EngOp *op, EngStatus *status)
{
	EngScaleShape shape = join_shape(plan, op);

	(void) status;
	if (op->want_gradient[1])
		plan->backend->upsample_backward(plan->backend,
										 eng_plan_gradient(plan,
														   op->input[1]),
										 eng_plan_gradient(plan,
														   op->output[0]),
										 &shape, op->add_gradient[1]);
	return true;
}

const EngOpClass eng_upsample_add_class = {
	.kind = "upsample_add",
	.shape = upsample_shape,
	.prepare = upsample_prepare,
	.forward = upsample_forward,
	.backward = upsample_backward
};

void
eng_layer_upsample_add(EngModel *model, int32_t larger, int32_t smaller)
{
	EngOp	   *op = eng_model_op(model, &eng_upsample_add_class,
								  "upsample_add");

	eng_op_input(op, larger);
	eng_op_input(op, smaller);
	eng_op_output(op, larger);
}
