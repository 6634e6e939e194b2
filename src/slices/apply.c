/*
 * slices/apply.c
 *		Write a difference into a materialized view.
 *
 * SQL cannot write to a materialized view, so this goes through the table
 * access method, with the index maintenance of the executor.  A row that
 * changed is updated in place, which costs no index entry at all where no
 * indexed column changed and its page has room (HOT).  But rows may swap the
 * values of a unique index: a row that changes any of these is deleted and
 * inserted again, and all such deletions come before the first insertion.
 * frame_id's own index is no such case, since rows are paired by frame_id.
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "commands/tablecmds.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "common/catalog.h"
#include "slices/refresh.h"
#include "slices/row_writer.h"

typedef struct Application
{
	const AvcSlice *slice;
	Relation	rel;
	AttrNumber	key;
	Bitmapset  *unique_columns; /* a row that changes one cannot stay */
	AvcRowWriter *writer;
	AvcDeltaReader reader;
	TupleTableSlot *old;		/* the row as it is in the view */
	MemoryContext scratch;		/* of one row */
	bool	   *is_written;		/* of opened rows: nothing is left to do */
	int64		opened;			/* opened rows read so far */
} Application;

static void
refuse(const Application *application)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access due to concurrent refresh of slice %s",
					application->slice->name)));
}

static void
delete_row(Application *application, ItemPointer place)
{
	TM_FailureData failure;
	TM_Result	result;

	result = table_tuple_delete(application->rel, place,
								GetCurrentCommandId(true),
								GetActiveSnapshot(), InvalidSnapshot, true,
								&failure, false);
	if (result == TM_Updated || result == TM_Deleted)
		refuse(application);
	if (result != TM_Ok)
		elog(ERROR, "could not delete a row of slice %s: %d",
			 application->slice->name, result);
}

/*
 * Give the new row the old one's values where these are the same, so that
 * what is stored out of line stays where it is, and tell which are not.
 */
static Bitmapset *
keep_values(Application *application, Datum *values, bool *nulls)
{
	TupleDesc	desc = RelationGetDescr(application->rel);
	TupleTableSlot *old = application->old;
	Bitmapset  *changed = NULL;
	int			i;

	slot_getallattrs(old);
	for (i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);

		if (nulls[i] && old->tts_isnull[i])
			continue;
		if (nulls[i] == old->tts_isnull[i] &&
			datum_image_eq(values[i], old->tts_values[i], column->attbyval,
						   column->attlen))
			values[i] = old->tts_values[i];
		else
			changed = bms_add_member(changed, i + 1 -
									 FirstLowInvalidHeapAttributeNumber);
	}
	/* the row as a whole, which an index expression can mean, too */
	return bms_add_member(changed, 0 - FirstLowInvalidHeapAttributeNumber);
}

/* Update a row in place; false if it has to be moved. */
static bool
update_row(Application *application, ItemPointer place)
{
	TupleDesc	desc = RelationGetDescr(application->rel);
	TupleTableSlot *opened = application->reader.opened;
	Datum	   *values = palloc_array(Datum, desc->natts);
	bool	   *nulls = palloc_array(bool, desc->natts);
	Bitmapset  *changed;
	bool		stays;

	if (!table_tuple_fetch_row_version(application->rel, place, SnapshotAny,
									   application->old))
		elog(ERROR, "slice %s has lost a row", application->slice->name);
	slot_getallattrs(opened);
	memcpy(values, opened->tts_values, desc->natts * sizeof(Datum));
	memcpy(nulls, opened->tts_isnull, desc->natts * sizeof(bool));
	changed = keep_values(application, values, nulls);
	stays = !bms_overlap(changed, application->unique_columns);
	if (stays && !avc_row_writer_update(application->writer, place,
										heap_form_tuple(desc, values, nulls),
										changed))
		refuse(application);
	ExecClearTuple(application->old);
	return stays;
}

/* Rows that leave are deleted, rows that change updated or deleted. */
static void
remove_rows(Application *application)
{
	AvcDeltaReader *reader = &application->reader;

	while (avc_delta_read(reader))
	{
		MemoryContext old = MemoryContextSwitchTo(application->scratch);
		bool		is_opened = reader->is_opened;

		CHECK_FOR_INTERRUPTS();
		if (reader->is_closed)
		{
			if (reader->place == NULL)
				elog(ERROR, "no place of a row of slice %s",
					 application->slice->name);
			if (is_opened && update_row(application, reader->place))
				application->is_written[application->opened] = true;
			else
				delete_row(application, reader->place);
		}
		if (is_opened)
			application->opened++;
		MemoryContextSwitchTo(old);
		MemoryContextReset(application->scratch);
	}
}

/* Rows that enter, and those that were deleted to be moved. */
static void
insert_rows(Application *application, const AvcDelta *delta)
{
	TupleTableSlot *slot = application->reader.opened;
	int64		i;

	tuplestore_rescan(delta->opened);
	for (i = 0; tuplestore_gettupleslot(delta->opened, true, false, slot); i++)
	{
		HeapTuple	row;

		CHECK_FOR_INTERRUPTS();
		if (application->is_written[i])
			continue;
		row = ExecCopySlotHeapTuple(slot);
		avc_row_writer_insert(application->writer, row);
		heap_freetuple(row);
	}
}

static void
write_delta(const AvcSlice *slice, Relation rel, const AvcDelta *delta)
{
	Application application = {slice, rel};

	application.key = get_attnum(RelationGetRelid(rel), "frame_id");
	application.writer = avc_row_writer_open(rel);
	application.unique_columns =
		avc_row_writer_unique_columns(application.writer, application.key);
	application.old = table_slot_create(rel, NULL);
	application.scratch = AllocSetContextCreate(CurrentMemoryContext,
												"row to apply",
												ALLOCSET_DEFAULT_SIZES);
	application.is_written =
		MemoryContextAllocExtended(CurrentMemoryContext,
								   delta->added + delta->changed + 1,
								   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	avc_delta_read_begin(&application.reader, delta);
	if (delta->removed + delta->changed > 0)
		remove_rows(&application);
	avc_row_writer_flush(application.writer);
	insert_rows(&application, delta);
	avc_row_writer_close(application.writer);
	avc_delta_read_end(&application.reader);
	ExecDropSingleTupleTableSlot(application.old);
	MemoryContextDelete(application.scratch);
	pfree(application.is_written);
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
	write_delta(slice, rel, delta);
	PopActiveSnapshot();
	avc_role_leave(&scope);
	CommandCounterIncrement();
}
