/*
 * engine/nets/plan_row.h
 *		An operation of a plan, for people.
 */
#ifndef ENG_NETS_PLAN_ROW_H
#define ENG_NETS_PLAN_ROW_H

#include "engine/core/plan.h"
#include "engine/nets/detector.h"

extern EngPlanRow eng_plan_row(const EngPlan *plan, const EngOp *op);

#endif
