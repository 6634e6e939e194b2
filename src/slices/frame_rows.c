/*
 * slices/frame_rows.c
 *		The rows of a frame in a dataset or a view, without SQL.
 *
 * Policies, privileges and rules do not come into it: what must find a frame
 * to erase it, or tell whether its image is there, cannot be kept from it.
 * Nothing of a user's is evaluated.  Without an index on frame_id each
 * look-up reads the whole relation.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relscan.h"
#include "access/skey.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_am.h"
#include "catalog/pg_opfamily.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "slices/refresh.h"

struct AvcFrameRows
{
	Relation	rel;
	Relation	index;			/* NULL: there is none */
	IndexScanDesc index_scan;
	TableScanDesc table_scan;
	ScanKeyData key;
	TupleTableSlot *slot;
	MemoryContext context;		/* where the scan keeps what it found */
};

Relation
avc_frame_index_open(Relation rel, AttrNumber frame_id, LOCKMODE lock)
{
	ListCell   *cell;

	foreach(cell, RelationGetIndexList(rel))
	{
		Relation	index = index_open(lfirst_oid(cell), lock);
		Form_pg_index form = index->rd_index;

		/* RelationGetIndexPredicate would evaluate what a user wrote */
		if (form->indisvalid && form->indkey.values[0] == frame_id &&
			index->rd_rel->relam == BTREE_AM_OID &&
			index->rd_opfamily[0] == INTEGER_BTREE_FAM_OID &&
			heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred,
						   NULL))
			return index;
		index_close(index, lock);
	}
	return NULL;
}

AvcFrameRows *
avc_frame_rows_begin(Relation rel, Snapshot snapshot)
{
	AvcFrameRows *rows = palloc0_object(AvcFrameRows);
	AttrNumber	frame_id = get_attnum(RelationGetRelid(rel), "frame_id");

	if (frame_id <= 0 ||
		TupleDescAttr(RelationGetDescr(rel), frame_id - 1)->atttypid != INT8OID)
		elog(ERROR, "relation \"%s\" has no frame_id",
			 RelationGetRelationName(rel));
	rows->context = CurrentMemoryContext;
	rows->rel = rel;
	rows->slot = table_slot_create(rel, NULL);
	rows->index = avc_frame_index_open(rel, frame_id, AccessShareLock);
	ScanKeyInit(&rows->key, rows->index ? 1 : frame_id,
				BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(0));
	if (rows->index)
		rows->index_scan = index_beginscan(rel, rows->index, snapshot, 1, 0);
	else
		rows->table_scan = table_beginscan(rel, snapshot, 1, &rows->key);
	return rows;
}

void
avc_frame_rows_seek(AvcFrameRows *rows, int64 frame_id)
{
	MemoryContext old = MemoryContextSwitchTo(rows->context);

	CHECK_FOR_INTERRUPTS();
	rows->key.sk_argument = Int64GetDatum(frame_id);
	if (rows->index)
		index_rescan(rows->index_scan, &rows->key, 1, NULL, 0);
	else
		table_rescan(rows->table_scan, &rows->key);
	MemoryContextSwitchTo(old);
}

TupleTableSlot *
avc_frame_rows_next(AvcFrameRows *rows)
{
	MemoryContext old = MemoryContextSwitchTo(rows->context);
	bool		found;

	if (rows->index)
		found = index_getnext_slot(rows->index_scan, ForwardScanDirection,
								   rows->slot);
	else
		found = table_scan_getnextslot(rows->table_scan, ForwardScanDirection,
									   rows->slot);
	MemoryContextSwitchTo(old);
	return found ? rows->slot : NULL;
}

void
avc_frame_rows_end(AvcFrameRows *rows)
{
	ExecDropSingleTupleTableSlot(rows->slot);
	if (rows->index)
	{
		index_endscan(rows->index_scan);
		index_close(rows->index, AccessShareLock);
	}
	else
		table_endscan(rows->table_scan);
	pfree(rows);
}
