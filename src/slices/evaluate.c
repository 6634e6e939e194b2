/*
 * slices/evaluate.c
 *		Apply a slice's definition to one row of its dataset.
 *
 * The condition and the columns are compiled once, as the executor does for
 * a scan, and run on the dataset's tuple itself: no statement, no plan.
 * Whatever is compiled or run here may be a user's function, so all of it
 * happens in the role of the view's owner, who is the one that REFRESH runs
 * them as.
 */
#include "postgres.h"

#include "executor/executor.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/prep.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "slices/evaluate.h"

struct AvcEvaluator
{
	MemoryContext context;		/* holds all of it but the query */
	const Query *query;			/* the definition's */
	ExprContext *econtext;		/* its per-tuple memory is reset every row */
	TupleTableSlot *base_slot;
	TupleTableSlot *view_slot;
	ExprState  *condition;		/* NULL = always true */
	ProjectionInfo *columns;	/* NULL = not compiled yet */
};

typedef struct Clause
{
	Expr	   *expr;
	Cost		cost;
} Clause;

/*
 * Cheap clauses first, equals as they were written: the order in which a scan
 * tests them, so that a clause which guards another one does it here, too.
 */
static List *
order_clauses(List *clauses)
{
	Clause	   *ordered = palloc_array(Clause, list_length(clauses) + 1);
	List	   *result = NIL;
	ListCell   *cell;
	int			count = 0;
	int			i;

	foreach(cell, clauses)
	{
		QualCost	cost;

		cost_qual_eval_node(&cost, lfirst(cell), NULL);
		for (i = count++; i > 0 && cost.per_tuple < ordered[i - 1].cost; i--)
			ordered[i] = ordered[i - 1];
		ordered[i].expr = lfirst(cell);
		ordered[i].cost = cost.per_tuple;
	}
	for (i = 0; i < count; i++)
		result = lappend(result, ordered[i].expr);
	return result;
}

static ExprState *
compile_condition(const Query *query)
{
	Expr	   *condition = copyObject((Expr *) query->jointree->quals);
	List	   *clauses;

	if (condition == NULL)
		return NULL;
	condition = canonicalize_qual(expression_planner(condition), false);
	convert_saop_to_hashed_saop((Node *) condition);
	clauses = make_ands_implicit(condition);
	return ExecInitQual(order_clauses(clauses), NULL);
}

/* The columns of the view; what only ORDER BY needs is left out. */
static List *
plan_columns(const Query *query)
{
	List	   *columns = NIL;
	ListCell   *cell;

	foreach(cell, query->targetList)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, cell);

		if (entry->resjunk)
			continue;
		entry = copyObject(entry);
		entry->expr = expression_planner(entry->expr);
		convert_saop_to_hashed_saop((Node *) entry->expr);
		columns = lappend(columns, entry);
	}
	return columns;
}

AvcEvaluator *
avc_evaluator_begin(const AvcDefinition *definition, Relation base,
					Relation view)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "avcurate evaluator",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	AvcEvaluator *evaluator = palloc0_object(AvcEvaluator);

	Assert(definition->obstacle == NULL);
	Assert(GetUserId() == view->rd_rel->relowner);
	Assert(InSecurityRestrictedOperation());

	/* checkAsUser of the rule's entries is the view's owner */
	ExecCheckRTPerms(definition->query->rtable, true);
	evaluator->query = definition->query;
	evaluator->context = context;
	evaluator->econtext = CreateStandaloneExprContext();
	evaluator->base_slot = MakeSingleTupleTableSlot(RelationGetDescr(base),
													&TTSOpsHeapTuple);
	evaluator->view_slot = MakeSingleTupleTableSlot(RelationGetDescr(view),
													&TTSOpsVirtual);
	evaluator->econtext->ecxt_scantuple = evaluator->base_slot;
	MemoryContextSwitchTo(caller);
	return evaluator;
}

/* Not before there is a row: a long list of constants takes milliseconds. */
static void
compile(AvcEvaluator *evaluator)
{
	MemoryContext caller = MemoryContextSwitchTo(evaluator->context);
	List	   *columns = plan_columns(evaluator->query);

	Assert(list_length(columns) ==
		   evaluator->view_slot->tts_tupleDescriptor->natts);
	Assert(InSecurityRestrictedOperation());
	Assert(ActiveSnapshotSet());
	evaluator->condition = compile_condition(evaluator->query);
	evaluator->columns =
		ExecBuildProjectionInfo(columns, evaluator->econtext,
								evaluator->view_slot, NULL,
								evaluator->base_slot->tts_tupleDescriptor);
	MemoryContextSwitchTo(caller);
}

TupleTableSlot *
avc_evaluator_row(AvcEvaluator *evaluator, HeapTuple base_row)
{
	ExprContext *econtext = evaluator->econtext;

	if (evaluator->columns == NULL)
		compile(evaluator);
	/* frees what the row before was made of */
	ExecClearTuple(evaluator->view_slot);
	ResetExprContext(econtext);
	ExecStoreHeapTuple(base_row, evaluator->base_slot, false);
	if (!ExecQual(evaluator->condition, econtext))
		return NULL;
	return ExecProject(evaluator->columns);
}

void
avc_evaluator_end(AvcEvaluator *evaluator)
{
	ExecDropSingleTupleTableSlot(evaluator->base_slot);
	ExecDropSingleTupleTableSlot(evaluator->view_slot);
	FreeExprContext(evaluator->econtext, true);
	MemoryContextDelete(evaluator->context);
}
