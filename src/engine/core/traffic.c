/*
 * engine/core/traffic.c
 *		Bytes that an operation moves at least.
 *
 * Every tensor and weight that it reads or writes counts once, and twice
 * where an algorithm needs two passes: statistics first, then what uses them.
 */
#include "engine/core/plan.h"
#include "engine/ops/layers.h"

static double
value_bytes(const EngPlan *plan, int32_t tensor)
{
	return (double) eng_tensor_bytes(&plan->tensors[tensor]);
}

/*
 * Weights and bias, in float.
 */
static double
parameter_bytes(const EngPlan *plan, const EngOp *op, bool trained)
{
	int32_t		parameters[2] = {op->weight, op->bias};
	double		bytes = 0;
	int			i;

	for (i = 0; i < 2; i++)
		if (parameters[i] >= 0 &&
			(!trained ||
			 plan->parameters->list[parameters[i]].trainable))
			bytes += sizeof(float) *
				(double) plan->parameters->list[parameters[i]].count;
	return bytes;
}

static double
forward_bytes(const EngPlan *plan, const EngOp *op)
{
	double		bytes = parameter_bytes(plan, op, false);
	int32_t		i;

	for (i = 0; i < op->input_count; i++)
		bytes += value_bytes(plan, op->input[i]);
	for (i = 0; i < op->output_count; i++)
		bytes += value_bytes(plan, op->output[i]);
	return bytes;
}

/*
 * Gradients in and out, and the values that they need.
 */
static double
backward_bytes(const EngPlan *plan, const EngOp *op)
{
	double		bytes = parameter_bytes(plan, op, false) +
		2 * parameter_bytes(plan, op, true);
	int32_t		i;

	for (i = 0; i < op->output_count; i++)
		bytes += value_bytes(plan, op->output[i]) * (op->keeps_output ? 2 : 1);
	for (i = 0; i < op->input_count; i++)
	{
		double		size = value_bytes(plan, op->input[i]);

		if (op->keeps_inputs >> i & 1)
			bytes += size;
		/* what takes over the output's memory is there already */
		if (op->want_gradient[i] &&
			(op->output_count == 0 ||
			 eng_plan_gradient(plan, op->input[i]) !=
			 eng_plan_gradient(plan, op->output[0])))
			bytes += size * (op->add_gradient[i] ? 2 : 1);
	}
	return bytes;
}

void
eng_plan_traffic(const EngPlan *plan, const EngOp *op, double *forward,
				 double *backward)
{
	bool		norm = op->class == &eng_norm_class;

	*forward = *backward = 0;
	if (norm && op->folded >= 0)
	{
		/* only the sum is left: y = relu(x + add) */
		if (op->input_count > 1)
			*forward = forward_bytes(plan, op);
		return;
	}
	*forward = forward_bytes(plan, op);
	if (op->backward_active)
		*backward = backward_bytes(plan, op);
	if (norm && op->keeps_inputs != 0)
	{
		/* the second pass each way, and dx or what the ReLU hid in dy */
		*forward += value_bytes(plan, op->input[0]);
		if (op->backward_active)
			*backward += 3 * value_bytes(plan, op->input[0]);
	}
	if (op->again_before >= 0)
		*backward += forward_bytes(plan, op);
}
