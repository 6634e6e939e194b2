/*
 * slices/delta_read.c
 *		A difference, frame by frame.
 *
 * Both stores of a difference are in ascending frame_id, so they are merged.
 */
#include "postgres.h"

#include "access/tupdesc.h"
#include "executor/executor.h"

#include "slices/refresh.h"

void
avc_delta_read_begin(AvcDeltaReader *reader, const AvcDelta *delta)
{
	TupleDesc	desc = delta->opened_desc;
	int			i;

	memset(reader, 0, sizeof(AvcDeltaReader));
	reader->delta = delta;
	reader->closed = MakeSingleTupleTableSlot(delta->closed_desc,
											  &TTSOpsMinimalTuple);
	reader->opened = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	for (i = 0; i < desc->natts; i++)
	{
		if (strcmp(NameStr(TupleDescAttr(desc, i)->attname), "frame_id") == 0)
			reader->key = i + 1;
	}
	if (reader->key == 0)
		elog(ERROR, "a difference has no frame_id");
	tuplestore_rescan(delta->closed);
	tuplestore_rescan(delta->opened);
	/* as if rows before the first ones had been read */
	reader->is_closed = true;
	reader->is_opened = true;
}

void
avc_delta_read_end(AvcDeltaReader *reader)
{
	ExecDropSingleTupleTableSlot(reader->closed);
	ExecDropSingleTupleTableSlot(reader->opened);
}

/* The store's next row into the slot and its frame; false at the end. */
static bool
advance(Tuplestorestate *rows, TupleTableSlot *slot, AttrNumber key,
		int64 *frame_id)
{
	bool		is_first = TupIsNull(slot);
	int64		last = *frame_id;
	bool		is_null;

	if (!tuplestore_gettupleslot(rows, true, false, slot))
		return false;
	*frame_id = DatumGetInt64(slot_getattr(slot, key, &is_null));
	if (is_null)
		elog(ERROR, "a row of a difference has no frame_id");
	if (!is_first && *frame_id <= last)
		ereport(ERROR,
				(errcode(ERRCODE_UNIQUE_VIOLATION),
				 errmsg("the definition yields frame " INT64_FORMAT " more than once",
						*frame_id)));
	return true;
}

bool
avc_delta_read(AvcDeltaReader *reader)
{
	if (reader->is_closed)
		reader->has_closed = advance(reader->delta->closed, reader->closed, 1,
									 &reader->closed_id);
	if (reader->is_opened)
		reader->has_opened = advance(reader->delta->opened, reader->opened,
									 reader->key, &reader->opened_id);
	reader->is_closed = reader->has_closed &&
		(!reader->has_opened || reader->closed_id <= reader->opened_id);
	reader->is_opened = reader->has_opened &&
		(!reader->has_closed || reader->opened_id <= reader->closed_id);
	reader->frame_id = reader->is_closed ? reader->closed_id :
		reader->opened_id;
	reader->place = NULL;
	if (reader->is_closed)
	{
		bool		is_null;
		Datum		place = slot_getattr(reader->closed, 2, &is_null);

		if (!is_null)
			reader->place = (ItemPointer) DatumGetPointer(place);
	}
	return reader->is_closed || reader->is_opened;
}
