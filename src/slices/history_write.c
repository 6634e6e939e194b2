/*
 * slices/history_write.c
 *		A difference into the history table of a slice.
 *
 * A row of the newest version that is gone or changed is closed: it gets a
 * to_version.  What came is a new row.  The table is written through its
 * access method and not through SQL, whose planning and execution would cost
 * several times as much as the writing itself; it has no triggers, and its
 * one constraint, from_version < to_version, holds because to_version is
 * greater than any version there is.  The caller holds the lock of a refresh
 * on the view, so nobody else writes here.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relscan.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "common/catalog.h"
#include "slices/index_prefetch.h"
#include "slices/refresh.h"
#include "slices/row_writer.h"

typedef struct Writing
{
	const AvcSlice *slice;
	int64		version;		/* that the rows enter or leave */
	Relation	rel;
	Relation	index;
	IndexScanDesc scan;			/* of the open rows of one frame */
	TupleTableSlot *found;
	int64		newest;			/* frames above it have no row at all */
	AttrNumber	from_version;
	AttrNumber	to_version;
	AttrNumber *columns;		/* in the history, of the view's columns */
	AvcRowWriter *writer;
	Bitmapset  *closing;		/* what closing a row changes */
	MemoryContext context;		/* of all of this */
	MemoryContext scratch;		/* of one row */
} Writing;

static void
lost(const Writing *writing, int64 frame_id)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("history of slice %s does not fit what the view held of frame " INT64_FORMAT,
					writing->slice->name, frame_id),
			 errdetail("The view was refreshed with event triggers disabled, or the history was changed by hand."),
			 errhint("REFRESH MATERIALIZED VIEW %s WITH NO DATA, then REFRESH it: that compares all rows.",
					 writing->slice->name)));
}

/* ---- opening ---- */

static Relation
open_index(Relation rel, AttrNumber key)
{
	Relation	index = avc_frame_index_open(rel, key, RowExclusiveLock);

	if (index != NULL)
		return index;
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("table \"%s\" has no valid index on column \"frame_id\"",
					RelationGetRelationName(rel)),
			 errhint("Make one with CREATE INDEX, or REINDEX the invalid one.")));
}

static AttrNumber
find_column(Relation rel, const char *name)
{
	AttrNumber	number = get_attnum(RelationGetRelid(rel), name);

	if (number <= 0)
		elog(ERROR, "table \"%s\" has no column \"%s\"",
			 RelationGetRelationName(rel), name);
	return number;
}

static void
map_columns(Writing *writing, TupleDesc view)
{
	TupleDesc	desc = RelationGetDescr(writing->rel);
	int			i;

	writing->columns = palloc_array(AttrNumber, view->natts);
	for (i = 0; i < view->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(view, i);
		AttrNumber	number = find_column(writing->rel,
										 NameStr(column->attname));
		int32		typmod;

		if (TupleDescAttr(desc, number - 1)->atttypid !=
			avc_history_type(column, &typmod))
			elog(ERROR, "column \"%s\" of table \"%s\" is not of the view's type",
				 NameStr(column->attname),
				 RelationGetRelationName(writing->rel));
		writing->columns[i] = number;
	}
}

/* The greatest frame_id of any row, which the last index entry has. */
static int64
greatest_frame(Writing *writing, AttrNumber key)
{
	ScanKeyData all;
	bool		is_null;

	ScanKeyInit(&all, 1, BTLessEqualStrategyNumber, F_INT8LE,
				Int64GetDatum(PG_INT64_MAX));
	index_rescan(writing->scan, &all, 1, NULL, 0);
	if (!index_getnext_slot(writing->scan, BackwardScanDirection,
							writing->found))
		return PG_INT64_MIN;
	return DatumGetInt64(slot_getattr(writing->found, key, &is_null));
}

static void
begin(Writing *writing, const AvcDelta *delta)
{
	Relation	rel = table_open(writing->slice->history, RowExclusiveLock);
	AttrNumber	key = find_column(rel, "frame_id");

	writing->rel = rel;
	writing->context = CurrentMemoryContext;
	writing->from_version = find_column(rel, "from_version");
	writing->to_version = find_column(rel, "to_version");
	map_columns(writing, delta->opened_desc);
	writing->closing =
		bms_make_singleton(writing->to_version -
						   FirstLowInvalidHeapAttributeNumber);
	writing->scratch = AllocSetContextCreate(CurrentMemoryContext,
											 "row of a history",
											 ALLOCSET_DEFAULT_SIZES);
	writing->writer = avc_row_writer_open(rel);
	writing->index = open_index(rel, key);
	writing->found = table_slot_create(rel, NULL);
	writing->scan = index_beginscan(rel, writing->index, GetActiveSnapshot(),
									1, 0);
	writing->newest = greatest_frame(writing, key);
}

static void
end(Writing *writing)
{
	avc_row_writer_close(writing->writer);
	index_endscan(writing->scan);
	ExecDropSingleTupleTableSlot(writing->found);
	index_close(writing->index, NoLock);
	table_close(writing->rel, NoLock);
	MemoryContextDelete(writing->scratch);
}

/* ---- rows ---- */

/*
 * Put the frame's open row into the slot.  There is one or none, and as a
 * rule it was written last and so comes last.
 */
static bool
find_open(Writing *writing, int64 frame_id)
{
	MemoryContext old;
	ScanKeyData key;
	bool		is_open = false;

	if (frame_id > writing->newest)
		return false;
	/* the scan keeps what it allocates */
	old = MemoryContextSwitchTo(writing->context);
	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(frame_id));
	index_rescan(writing->scan, &key, 1, NULL, 0);
	while (!is_open && index_getnext_slot(writing->scan,
										  BackwardScanDirection,
										  writing->found))
		is_open = slot_attisnull(writing->found, writing->to_version);
	MemoryContextSwitchTo(old);
	return is_open;
}

static void
close_row(Writing *writing, int64 frame_id)
{
	TupleDesc	desc = RelationGetDescr(writing->rel);
	Datum		version = Int64GetDatum(writing->version);
	int			column = writing->to_version;
	bool		is_null = false;
	ItemPointerData place;
	HeapTuple	row;
	HeapTuple	closed;

	if (!find_open(writing, frame_id))
		lost(writing, frame_id);
	row = ExecFetchSlotHeapTuple(writing->found, false, NULL);
	place = row->t_self;
	closed = heap_modify_tuple_by_cols(row, desc, 1, &column, &version,
									   &is_null);
	if (!avc_row_writer_update(writing->writer, &place, closed,
							   writing->closing))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent refresh of slice %s",
						writing->slice->name)));
}

static void
open_row(Writing *writing, TupleTableSlot *opened)
{
	TupleDesc	desc = RelationGetDescr(writing->rel);
	Datum	   *values = palloc0_array(Datum, desc->natts);
	bool	   *nulls = palloc_array(bool, desc->natts);
	int			i;

	memset(nulls, true, desc->natts);
	slot_getallattrs(opened);
	for (i = 0; i < opened->tts_tupleDescriptor->natts; i++)
	{
		values[writing->columns[i] - 1] = opened->tts_values[i];
		nulls[writing->columns[i] - 1] = opened->tts_isnull[i];
	}
	values[writing->from_version - 1] = Int64GetDatum(writing->version);
	nulls[writing->from_version - 1] = false;
	avc_row_writer_insert(writing->writer,
						  heap_form_tuple(desc, values, nulls));
}

/* The frames of the closed rows, ascending. */
static int64 *
closed_frames(const AvcDelta *delta)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(delta->closed_desc,
													&TTSOpsMinimalTuple);
	int64	   *frames;
	int64		count = 0;
	bool		is_null;

	frames = MemoryContextAllocHuge(CurrentMemoryContext,
									(delta->removed + delta->changed + 1) *
									sizeof(int64));
	tuplestore_rescan(delta->closed);
	while (count < delta->removed + delta->changed &&
		   tuplestore_gettupleslot(delta->closed, true, false, slot))
		frames[count++] = DatumGetInt64(slot_getattr(slot, 1, &is_null));
	ExecDropSingleTupleTableSlot(slot);
	return frames;
}

static void
write_delta(Writing *writing, const AvcDelta *delta)
{
	AvcIndexPrefetch *prefetch = avc_index_prefetch_begin(writing->index,
														  writing->rel);
	int64	   *frames = closed_frames(delta);
	int64		total = delta->removed + delta->changed;
	int64		closed = 0;
	AvcDeltaReader reader;

	avc_delta_read_begin(&reader, delta);
	while (avc_delta_read(&reader))
	{
		MemoryContext old = MemoryContextSwitchTo(writing->scratch);

		CHECK_FOR_INTERRUPTS();
		if (reader.is_closed && closed % AVC_PREFETCH_KEYS == 0)
			avc_index_prefetch(prefetch, frames + closed,
							   Min(total - closed, AVC_PREFETCH_KEYS));
		closed += reader.is_closed;
		if (reader.is_closed)
			close_row(writing, reader.frame_id);
		else if (find_open(writing, reader.frame_id))
			lost(writing, reader.frame_id);
		if (reader.is_opened)
			open_row(writing, reader.opened);
		MemoryContextSwitchTo(old);
		MemoryContextReset(writing->scratch);
	}
	avc_delta_read_end(&reader);
	pfree(frames);
}

void
avc_history_apply(const AvcSlice *slice, const AvcDelta *delta, int64 version)
{
	Writing		writing = {slice, version};
	AvcRoleScope scope;

	if (delta->added + delta->removed + delta->changed == 0)
		return;
	avc_catalog_enter(&scope);
	PushActiveSnapshot(GetTransactionSnapshot());
	begin(&writing, delta);
	write_delta(&writing, delta);
	end(&writing);
	PopActiveSnapshot();
	CommandCounterIncrement();
	avc_catalog_leave(&scope);
}

/* ---- comparison ---- */

/* Is the newest row of that frame this row of the view? */
static bool
is_newest(Writing *writing, TupleTableSlot *row, AttrNumber key)
{
	TupleDesc	desc = row->tts_tupleDescriptor;
	int			i;

	slot_getallattrs(row);
	if (!find_open(writing, DatumGetInt64(row->tts_values[key - 1])))
		return false;
	for (i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);
		bool		is_null;
		Datum		value = slot_getattr(writing->found, writing->columns[i],
										 &is_null);

		if (is_null != row->tts_isnull[i] ||
			(!is_null && !datum_image_eq(value, row->tts_values[i],
										 column->attbyval, column->attlen)))
			return false;
	}
	return true;
}

/* Are all these rows the newest of their frames? */
static bool
are_newest(Writing *writing, Tuplestorestate *rows, TupleDesc desc)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(desc,
													&TTSOpsMinimalTuple);
	AttrNumber	key = SPI_fnumber(desc, "frame_id");
	bool		fits = true;

	/* a query may have read them with a pointer of its own */
	tuplestore_select_read_pointer(rows, 0);
	tuplestore_rescan(rows);
	while (fits && tuplestore_gettupleslot(rows, true, false, slot))
	{
		MemoryContext old = MemoryContextSwitchTo(writing->scratch);

		CHECK_FOR_INTERRUPTS();
		fits = is_newest(writing, slot, key);
		MemoryContextSwitchTo(old);
		MemoryContextReset(writing->scratch);
	}
	ExecDropSingleTupleTableSlot(slot);
	return fits;
}

/* Are the frames that came not in the newest version? */
static bool
are_new(Writing *writing, const AvcDelta *delta)
{
	AvcDeltaReader reader;
	bool		fits = true;

	avc_delta_read_begin(&reader, delta);
	while (fits && avc_delta_read(&reader))
	{
		CHECK_FOR_INTERRUPTS();
		fits = reader.is_closed || !find_open(writing, reader.frame_id);
	}
	avc_delta_read_end(&reader);
	return fits;
}

bool
avc_history_fits(const AvcSlice *slice, const AvcDelta *delta,
				 Tuplestorestate *removed)
{
	Writing		writing = {slice, slice->version};
	AvcRoleScope scope;
	bool		fits;

	if (tuplestore_tuple_count(removed) == 0 && delta->added == 0)
		return true;
	avc_catalog_enter(&scope);
	PushActiveSnapshot(GetTransactionSnapshot());
	begin(&writing, delta);
	fits = are_newest(&writing, removed, delta->opened_desc) &&
		are_new(&writing, delta);
	end(&writing);
	PopActiveSnapshot();
	avc_catalog_leave(&scope);
	return fits;
}
