/*
 * slices/tombstones.c
 *		Which frames were deleted.
 *
 * A row that is gone cannot tell, so row triggers on a dataset note the
 * frame_id of every row that is deleted or gets another frame_id.  They are
 * enabled always: a statement trigger would not fire for deletes that
 * logical replication applies.  The row goes straight into the heap, whoever
 * deletes: nobody but us may write to the table.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

PG_FUNCTION_INFO_V1(avc_note_deleted);

static Oid
tombstones_relid(void)
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
	tombstones = table_open(tombstones_relid(), RowExclusiveLock);
	tuple = heap_form_tuple(RelationGetDescr(tombstones), values, nulls);
	simple_heap_insert(tombstones, tuple);
	heap_freetuple(tuple);
	table_close(tombstones, NoLock);
	return PointerGetDatum(NULL);
}
