/*
 * engine/nets/plan_row.c
 *		An operation of a plan, for people.
 */
#include "engine/nets/plan_row.h"

#include "engine/ops/layers.h"

EngPlanRow
eng_plan_row(const EngPlan *plan, const EngOp *op)
{
	EngPlanRow	row = {.kind = op->class->kind, .name = op->name,
					   .kernel = ""};
	int32_t		parameter = op->weight >= 0 ? op->weight :
		op->class == &eng_norm_class ? op->norm.weight : -1;

	if (parameter >= 0)
		row.name = plan->parameters->list[parameter].name;
	if (op->output_count > 0)
	{
		const EngTensor *out = eng_op_out(plan, op, 0);

		row.output[0] = out->n;
		row.output[1] = out->h;
		row.output[2] = out->w;
		row.output[3] = out->c;
	}
	if (op->kernel != NULL)
		row.kernel = plan->backend->kernel_text(op->kernel);
	else if (op->folded >= 0)
		row.kernel = op->input_count > 1 ? "folded, sum" : "folded";
	row.again = op->again_before >= 0;
	row.k = op->k;
	row.stride = op->stride;
	row.sparse = op->sparse && plan->request.train;
	eng_plan_traffic(plan, op, &row.bytes_forward, &row.bytes_backward);
	row.flops_forward = op->flops_forward;
	row.flops_backward = op->flops_backward;
	row.seconds_forward = op->seconds_forward;
	row.seconds_backward = op->seconds_backward;
	return row;
}
