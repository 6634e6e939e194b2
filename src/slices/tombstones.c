/*
 * slices/tombstones.c
 *		Which frames were deleted.
 *
 * A row that is gone cannot tell, so row triggers on a dataset note the
 * frame_id of every row that is deleted or gets another frame_id.  They are
 * enabled always: a statement trigger would not fire for deletes that
 * logical replication applies.  The row goes straight into the heap, whoever
 * deletes: nobody but us may write to the table.
 *
 * A tombstone goes when every snapshot there is and every stored watermark of
 * the dataset sees it, and no transaction that refreshed a slice of the
 * dataset is open (avc_archive_hold): the watermark that it is about to leave
 * may need it, too.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "slices/watermark_state.h"

PG_FUNCTION_INFO_V1(avc_note_deleted);

/* ---- noting ---- */

Oid
avc_tombstones_relid(void)
{
	return get_relname_relid("tombstones",
							 get_namespace_oid("_avcurate", false));
}

static Datum
deleted_frame(TriggerData *data, bool *is_null)
{
	TupleDesc	desc = RelationGetDescr(data->tg_relation);
	int			number = SPI_fnumber(desc, "frame_id");

	if (number <= 0 || TupleDescAttr(desc, number - 1)->atttypid != INT8OID)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("dataset \"%s\" has no column \"%s\" of type %s",
						RelationGetRelationName(data->tg_relation),
						"frame_id", format_type_be(INT8OID))));
	return heap_getattr(data->tg_trigtuple, number, desc, is_null);
}

/* AFTER DELETE or UPDATE, for each row. */
Datum
avc_note_deleted(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	Relation	tombstones;
	HeapTuple	tuple;
	Datum		values[2];
	bool		nulls[2] = {false};

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_FOR_ROW(data->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function was not called by a row trigger")));
	values[0] = ObjectIdGetDatum(RelationGetRelid(data->tg_relation));
	values[1] = deleted_frame(data, &nulls[1]);
	if (nulls[1])
		return PointerGetDatum(NULL);
	/* the lock stays to the end: avc_watermark_take looks at it */
	tombstones = table_open(avc_tombstones_relid(), RowExclusiveLock);
	tuple = heap_form_tuple(RelationGetDescr(tombstones), values, nulls);
	simple_heap_insert(tombstones, tuple);
	heap_freetuple(tuple);
	table_close(tombstones, NoLock);
	return PointerGetDatum(NULL);
}

/* ---- pruning ---- */

BlockNumber
avc_tombstones_pages(void)
{
	Relation	tombstones = table_open(avc_tombstones_relid(),
										AccessShareLock);
	BlockNumber pages = RelationGetNumberOfBlocks(tombstones);

	table_close(tombstones, NoLock);
	return pages;
}

/* Who needs the tombstones of one dataset. */
typedef struct Mourner
{
	Oid			dataset;
	bool		is_busy;		/* somebody refreshes a slice of it */
	List	   *marks;			/* AvcWatermark *, stored by now */
} Mourner;

static Mourner *
find_mourner(List **mourners, Oid dataset)
{
	Mourner    *mourner;
	LOCKTAG		tag;
	ListCell   *cell;

	foreach(cell, *mourners)
	{
		mourner = lfirst(cell);
		if (mourner->dataset == dataset)
			return mourner;
	}
	mourner = palloc0_object(Mourner);
	mourner->dataset = dataset;
	*mourners = lappend(*mourners, mourner);
	/*
	 * Once nobody is at it, a moment is enough: whoever begins later has a
	 * snapshot that sees what is deleted here, or one that was there before.
	 */
	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, RelationRelationId, dataset, 0);
	mourner->is_busy = LockAcquire(&tag, ExclusiveLock, false, true) ==
		LOCKACQUIRE_NOT_AVAIL;
	if (!mourner->is_busy)
	{
		LockRelease(&tag, ExclusiveLock, false);
		mourner->marks = avc_watermarks_of(dataset);
	}
	return mourner;
}

static bool
is_needed(const Mourner *mourner, TransactionId xid)
{
	ListCell   *cell;

	foreach(cell, mourner->marks)
	{
		const AvcWatermark *mark = lfirst(cell);

		if (avc_watermark_misses(mark, xid, avc_watermark_span(mark)))
			return true;
	}
	return mourner->is_busy;
}

static void
prune(Relation tombstones)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TransactionId horizon = GetOldestNonRemovableTransactionId(tombstones);
	TableScanDesc scan = table_beginscan(tombstones, snapshot, 0, NULL);
	TupleDesc	desc = RelationGetDescr(tombstones);
	List	   *mourners = NIL;
	HeapTuple	tuple;

	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		bool		is_null;
		Oid			dataset = DatumGetObjectId(heap_getattr(tuple, 1, desc,
															&is_null));
		TransactionId xid = HeapTupleHeaderGetRawXmin(tuple->t_data);
		TM_FailureData failure;

		CHECK_FOR_INTERRUPTS();
		if (!HeapTupleHeaderXminFrozen(tuple->t_data) &&
			!TransactionIdPrecedes(xid, horizon))
			continue;
		if (is_needed(find_mourner(&mourners, dataset), xid))
			continue;
		/* what another transaction is deleting already is left to it */
		(void) heap_delete(tombstones, &tuple->t_self,
						   GetCurrentCommandId(true), InvalidSnapshot, false,
						   &failure, false);
	}
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
}

void
avc_tombstones_prune(void)
{
	Relation	tombstones = table_open(avc_tombstones_relid(),
										RowExclusiveLock);
	AvcRoleScope scope;

	avc_catalog_enter(&scope);
	SPI_connect();
	prune(tombstones);
	SPI_finish();
	avc_catalog_leave(&scope);
	table_close(tombstones, NoLock);
	CommandCounterIncrement();
}
