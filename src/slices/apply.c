/*
 * slices/apply.c
 *		Write a difference into a materialized view.
 *
 * SQL cannot write to a materialized view, so this goes through the table
 * access method, with the index maintenance of the executor; unique, partial
 * and expression indexes and TOAST need nothing more.  All old rows are
 * deleted before new ones are inserted, so that rows may swap the values of
 * a unique column.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "commands/tablecmds.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "common/catalog.h"
#include "slices/refresh.h"

static void
delete_rows(const AvcSlice *slice, Relation rel, const AvcDelta *delta)
{
	CommandId	cid = GetCurrentCommandId(true);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(delta->closed_desc,
													&TTSOpsMinimalTuple);

	tuplestore_rescan(delta->closed);
	while (tuplestore_gettupleslot(delta->closed, true, false, slot))
	{
		TM_FailureData failure;
		TM_Result	result;
		bool		is_null;
		Datum		place = slot_getattr(slot, 2, &is_null);

		CHECK_FOR_INTERRUPTS();
		if (is_null)
			elog(ERROR, "no place of a row of slice %s", slice->name);
		result = table_tuple_delete(rel, (ItemPointer) DatumGetPointer(place),
									cid, GetActiveSnapshot(), InvalidSnapshot,
									true, &failure, false);
		if (result == TM_Updated || result == TM_Deleted)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("could not serialize access due to concurrent refresh of slice %s",
							slice->name)));
		if (result != TM_Ok)
			elog(ERROR, "could not delete a row of slice %s: %d",
				 slice->name, result);
	}
	ExecDropSingleTupleTableSlot(slot);
}

/* An executor state that knows one relation, for its indexes. */
static EState *
open_target(Relation rel, ResultRelInfo *target)
{
	EState	   *estate = CreateExecutorState();
	RangeTblEntry *entry = makeNode(RangeTblEntry);

	entry->rtekind = RTE_RELATION;
	entry->relid = RelationGetRelid(rel);
	entry->relkind = rel->rd_rel->relkind;
	entry->rellockmode = ExclusiveLock;
	ExecInitRangeTable(estate, list_make1(entry));
	InitResultRelInfo(target, rel, 1, NULL, 0);
	ExecOpenIndices(target, false);
	return estate;
}

static void
insert_rows(Relation rel, const AvcDelta *delta)
{
	CommandId	cid = GetCurrentCommandId(true);
	BulkInsertState bulk = GetBulkInsertState();
	ResultRelInfo *target = makeNode(ResultRelInfo);
	EState	   *estate = open_target(rel, target);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(delta->opened_desc,
													&TTSOpsMinimalTuple);

	tuplestore_rescan(delta->opened);
	while (tuplestore_gettupleslot(delta->opened, true, false, slot))
	{
		CHECK_FOR_INTERRUPTS();
		table_tuple_insert(rel, slot, cid, 0, bulk);
		if (target->ri_NumIndices > 0)
			(void) ExecInsertIndexTuples(target, slot, estate, false, false,
										 NULL, NIL);
		ResetPerTupleExprContext(estate);
	}
	ExecDropSingleTupleTableSlot(slot);
	ExecCloseIndices(target);
	FreeExecutorState(estate);
	FreeBulkInsertState(bulk);
	table_finish_bulk_insert(rel, 0);
}

void
avc_apply(const AvcSlice *slice, Relation rel, const AvcDelta *delta)
{
	AvcRoleScope scope;

	if (delta->added + delta->removed + delta->changed == 0)
		return;
	CheckTableNotInUse(rel, "refresh");
	avc_role_enter(&scope, rel->rd_rel->relowner);
	PushActiveSnapshot(GetTransactionSnapshot());
	delete_rows(slice, rel, delta);
	insert_rows(rel, delta);
	PopActiveSnapshot();
	avc_role_leave(&scope);
	CommandCounterIncrement();
}
