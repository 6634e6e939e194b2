/*
 * datasets/ingest_writer.c
 *		Write the frames of a batch: new rows inserted, changed rows updated.
 *
 * A row is compared column by column before anything is written or locked,
 * so taking the same footage twice writes nothing at all.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "common/spi.h"
#include "datasets/frame.h"
#include "datasets/ingest_writer.h"

#define INSERT_ROWS 16			/* of one INSERT, where there are as many */

static const Oid column_types[INGEST_COLUMNS] = {
	TEXTOID, TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID,
	TEXTARRAYOID, FLOAT4ARRAYOID, BOOLARRAYOID, BOOLARRAYOID, BOOLARRAYOID,
	FLOAT4ARRAYOID
};

#define COLUMN_LIST "split, weather, scene, timeofday, frame_time," \
	" ann_categories, ann_bboxes, ann_occluded, ann_truncated, ann_ignored," \
	" ann_area"

#define INSERT_COLUMNS (INGEST_COLUMNS + 2) /* image_id, image_bytes */

struct AvcIngestWriter
{
	const AvcDataset *dataset;
	SPIPlanPtr	find;
	SPIPlanPtr	find_locked;
	SPIPlanPtr	insert;
	SPIPlanPtr	insert_many;	/* INSERT_ROWS at once */
	SPIPlanPtr	update_all;
	SPIPlanPtr	update_rest;	/* all but the image */
	AvcIngestCounts *counts;	/* of the batch being written */
};

/* Prepare a statement that lives as long as the session. */
static SPIPlanPtr
prepare(const char *sql, int nargs, Oid *types)
{
	MemoryContext context = CurrentMemoryContext;
	SPIPlanPtr	plan = SPI_prepare(sql, nargs, types);

	MemoryContextSwitchTo(context);
	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql,
			 SPI_result_code_string(SPI_result));
	SPI_keepplan(plan);
	return plan;
}

/* An INSERT of so many rows, skipping those that are there. */
static SPIPlanPtr
prepare_insert(const char *table, int rows)
{
	Oid			types[INSERT_ROWS * INSERT_COLUMNS];
	StringInfoData sql;
	int			i;

	initStringInfo(&sql);
	appendStringInfo(&sql, "INSERT INTO %s (" COLUMN_LIST
					 ", image_id, image_bytes) VALUES ", table);
	for (i = 0; i < rows * INSERT_COLUMNS; i++)
	{
		int			column = i % INSERT_COLUMNS;

		types[i] = column < INGEST_COLUMNS ? column_types[column] :
			column == INGEST_COLUMNS ? TEXTOID : BYTEAOID;
		appendStringInfo(&sql, "%s$%d%s",
						 column > 0 ? ", " : i > 0 ? ", (" : "(", i + 1,
						 column == INSERT_COLUMNS - 1 ? ")" : "");
	}
	appendStringInfoString(&sql, " ON CONFLICT (image_id) DO NOTHING");
	return prepare(sql.data, rows * INSERT_COLUMNS, types);
}

static void
prepare_plans(AvcIngestWriter *writer)
{
	const char *table = writer->dataset->quoted_name;
	const char *find;
	Oid			types[INGEST_COLUMNS + 2];
	int			i;

	types[0] = TEXTARRAYOID;
	find = psprintf("SELECT frame_id, image_sha256, " COLUMN_LIST ", image_id"
					" FROM ONLY %s WHERE image_id OPERATOR(pg_catalog.=)"
					" ANY ($1)", table);
	writer->find = prepare(find, 1, types);
	/* no two runs wait for each other: all lock and write in one order */
	writer->find_locked = prepare(psprintf("%s ORDER BY pg_catalog.length(image_id),"
										   " image_id COLLATE pg_catalog.\"C\""
										   " FOR NO KEY UPDATE", find),
								  1, types);
	for (i = 0; i < INGEST_COLUMNS; i++)
		types[i] = column_types[i];
	types[INGEST_COLUMNS + 1] = BYTEAOID;
	writer->insert = prepare_insert(table, 1);
	writer->insert_many = prepare_insert(table, INSERT_ROWS);
	types[INGEST_COLUMNS] = INT8OID;
	writer->update_all = prepare(psprintf("UPDATE ONLY %s SET (" COLUMN_LIST
										  ", image_bytes) = ROW($1, $2, $3, $4,"
										  " $5, $6, $7, $8, $9, $10, $11, $13)"
										  " WHERE frame_id OPERATOR(pg_catalog.=) $12",
										  table),
								 INGEST_COLUMNS + 2, types);
	writer->update_rest = prepare(psprintf("UPDATE ONLY %s SET (" COLUMN_LIST ")"
										   " = ROW($1, $2, $3, $4, $5, $6, $7,"
										   " $8, $9, $10, $11)"
										   " WHERE frame_id OPERATOR(pg_catalog.=) $12",
										   table),
								  INGEST_COLUMNS + 1, types);
}

static void
free_plans(void *arg)
{
	AvcIngestWriter *writer = arg;
	SPIPlanPtr *plans[] = {
		&writer->find, &writer->find_locked, &writer->insert,
		&writer->insert_many, &writer->update_all, &writer->update_rest
	};
	int			i;

	for (i = 0; i < lengthof(plans); i++)
	{
		if (*plans[i] != NULL)
			SPI_freeplan(*plans[i]);
		*plans[i] = NULL;
	}
}

AvcIngestWriter *
avc_ingest_writer_create(const AvcDataset *dataset)
{
	AvcIngestWriter *writer = palloc0(sizeof(AvcIngestWriter));
	MemoryContextCallback *callback = palloc0(sizeof(MemoryContextCallback));

	writer->dataset = dataset;
	callback->func = free_plans;
	callback->arg = writer;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, callback);
	prepare_plans(writer);
	return writer;
}

static uint64
execute(SPIPlanPtr plan, Datum *values, char *nulls)
{
	MemoryContext context = CurrentMemoryContext;
	int			result = SPI_execute_plan(plan, values, nulls, false, 0);

	/* SPI leaves its own context current, which lives until SPI_finish */
	MemoryContextSwitchTo(context);
	if (result < 0)
		elog(ERROR, "could not write a frame: %s",
			 SPI_result_code_string(result));
	return SPI_processed;
}

/*
 * Insert frames that are not there, one or INSERT_ROWS of them.  Returns how
 * many: somebody else may just write the others.
 */
static uint64
insert_frames(AvcIngestWriter *writer, AvcIngestRow *const *frames, int count)
{
	Datum		values[INSERT_ROWS * INSERT_COLUMNS];
	char		nulls[INSERT_ROWS * INSERT_COLUMNS];
	int			n = 0;
	int			i;
	int			j;

	for (i = 0; i < count; i++)
	{
		for (j = 0; j < INGEST_COLUMNS; j++, n++)
		{
			values[n] = frames[i]->value[j];
			nulls[n] = frames[i]->is_null[j] ? 'n' : ' ';
		}
		values[n] = CStringGetTextDatum(frames[i]->image_id);
		nulls[n++] = ' ';
		values[n] = PointerGetDatum(frames[i]->image);
		nulls[n++] = ' ';
	}
	return execute(count == 1 ? writer->insert : writer->insert_many, values,
				   nulls);
}

static bool
is_equal(int column, Datum a, Datum b)
{
	if (column == COL_FRAME_TIME)
		return DatumGetTimestampTz(a) == DatumGetTimestampTz(b);
	return datum_image_eq(a, b, false, -1);
}

/* What an existing row is to become. */
typedef struct RowChange
{
	Datum		values[INGEST_COLUMNS + 2];
	char		nulls[INGEST_COLUMNS + 2];
	bool		is_changed;
	bool		is_image_changed;
} RowChange;

static void
compare(RowChange *change, const AvcIngestRow *frame, HeapTuple row,
		TupleDesc desc)
{
	uint8		digest[AVC_SHA256_BYTES];
	bytea	   *stored;
	bool		is_null;
	int			i;

	change->is_changed = false;
	for (i = 0; i < INGEST_COLUMNS; i++)
	{
		Datum		old = SPI_getbinval(row, desc, i + 3, &is_null);
		bool		keep = avc_ingest_row_is_unsaid(frame, i);

		change->values[i] = keep ? old : frame->value[i];
		change->nulls[i] = (keep ? is_null : frame->is_null[i]) ? 'n' : ' ';
		if (!keep && (is_null != frame->is_null[i] ||
					  (!is_null && !is_equal(i, old, frame->value[i]))))
			change->is_changed = true;
	}
	change->values[INGEST_COLUMNS] = SPI_getbinval(row, desc, 1, &is_null);
	change->values[INGEST_COLUMNS + 1] = PointerGetDatum(frame->image);
	change->nulls[INGEST_COLUMNS] = change->nulls[INGEST_COLUMNS + 1] = ' ';
	stored = DatumGetByteaPP(SPI_getbinval(row, desc, 2, &is_null));
	avc_frame_sha256(digest, (uint8 *) VARDATA(frame->image),
					 VARSIZE(frame->image) - VARHDRSZ);
	change->is_image_changed =
		VARSIZE_ANY_EXHDR(stored) != AVC_SHA256_BYTES ||
		memcmp(VARDATA_ANY(stored), digest, AVC_SHA256_BYTES) != 0;
	change->is_changed |= change->is_image_changed;
}

/*
 * The rows that some frames have already, locked against other writers or
 * not.  The caller frees them: SPI would keep them until the procedure ends.
 */
static SPITupleTable *
find_frames(SPIPlanPtr find, AvcIngestRow *const *frames, int count)
{
	Datum		ids[AVC_INGEST_BATCH];
	Datum		array;
	int			level;
	int			i;

	for (i = 0; i < count; i++)
		ids[i] = CStringGetTextDatum(frames[i]->image_id);
	array = PointerGetDatum(construct_array(ids, count, TEXTOID, -1, false,
											TYPALIGN_INT));
	/* a plan made while the table was small must do when it is large */
	level = NewGUCNestLevel();
	(void) set_config_option("enable_seqscan", "off", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	execute(find, &array, NULL);
	AtEOXact_GUC(false, level);
	return SPI_tuptable;
}

/* The row of a frame among those that were found, or NULL. */
static HeapTuple
row_of_frame(const AvcIngestRow *frame, const SPITupleTable *found)
{
	size_t		len = strlen(frame->image_id);
	bool		is_null;
	uint64		i;

	for (i = 0; i < found->numvals; i++)
	{
		Datum		id = SPI_getbinval(found->vals[i], found->tupdesc,
									   INGEST_COLUMNS + 3, &is_null);
		struct varlena *text = (struct varlena *) DatumGetPointer(id);

		if (VARSIZE_ANY_EXHDR(text) == len &&
			memcmp(VARDATA_ANY(text), frame->image_id, len) == 0)
			return found->vals[i];
	}
	return NULL;
}

static void
raise_hidden(const AvcIngestRow *frame)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNIQUE_VIOLATION),
			 errmsg("another session is writing frame \"%s\", or its row is hidden or may not be updated",
					frame->image_id),
			 errhint("Run the procedure again, as a role that sees and may update all rows.")));
}

/*
 * Update the rows of frames that differed when they were looked at.  They are
 * locked and looked at again: what others have written since then stays,
 * as far as the source does not speak of it.
 */
static void
update_frames(AvcIngestWriter *writer, AvcIngestRow **frames, int count)
{
	SPITupleTable *found;
	int			i;

	if (count == 0)
		return;
	found = find_frames(writer->find_locked, frames, count);
	for (i = 0; i < count; i++)
	{
		HeapTuple	row = row_of_frame(frames[i], found);
		RowChange	change;

		if (row == NULL)
		{
			/* deleted since then, or not for us to see */
			if (insert_frames(writer, frames + i, 1) != 1)
				raise_hidden(frames[i]);
			writer->counts->inserted++;
			continue;
		}
		compare(&change, frames[i], row, found->tupdesc);
		if (!change.is_changed)
		{
			writer->counts->unchanged++;
			continue;
		}
		if (execute(change.is_image_changed ? writer->update_all :
					writer->update_rest, change.values, change.nulls) == 0)
			raise_hidden(frames[i]);
		writer->counts->updated++;
	}
	SPI_freetuptable(found);
}

/* Write a frame that the dataset did not have when the batch began. */
static void
write_new_frame(AvcIngestWriter *writer, AvcIngestRow *frame)
{
	if (insert_frames(writer, &frame, 1) == 1)
		writer->counts->inserted++;
	else
		/* somebody else has just written it */
		update_frames(writer, &frame, 1);
}

static void
write_new_frames(AvcIngestWriter *writer, AvcIngestRow **frames, int count)
{
	int			i = 0;

	for (; i + INSERT_ROWS <= count; i += INSERT_ROWS)
	{
		/* which one somebody else has written comes out one by one */
		if (insert_frames(writer, frames + i, INSERT_ROWS) != INSERT_ROWS)
			ereport(ERROR,
					(errcode(ERRCODE_UNIQUE_VIOLATION),
					 errmsg("another session is writing frames of the batch")));
		writer->counts->inserted += INSERT_ROWS;
	}
	for (; i < count; i++)
		write_new_frame(writer, frames[i]);
}

/* The order of writing: short names first, so that numbers count up. */
static int
compare_names(const void *a, const void *b)
{
	const AvcIngestRow *const *rows[2] = {a, b};
	const char *names[2] = {(*rows[0])->image_id, (*rows[1])->image_id};
	int			lengths[2];
	int			i;

	for (i = 0; i < 2; i++)
		lengths[i] = pg_mbstrlen(names[i]);
	if (lengths[0] != lengths[1])
		return lengths[0] < lengths[1] ? -1 : 1;
	return strcmp(names[0], names[1]);
}

void
avc_ingest_writer_begin(AvcIngestWriter *writer, AvcIngestRow **frames,
						int count)
{
	avc_dataset_hold(writer->dataset, RowExclusiveLock);
	qsort(frames, count, sizeof(AvcIngestRow *), compare_names);
}

void
avc_ingest_writer_write(AvcIngestWriter *writer, AvcIngestRow **frames,
						int count, AvcIngestCounts *counts)
{
	AvcIngestRow *absent[AVC_INGEST_BATCH];
	AvcIngestRow *differing[AVC_INGEST_BATCH];
	int			absent_count = 0;
	int			differing_count = 0;
	SPITupleTable *found;
	int			i;

	writer->counts = counts;
	/* boxes of existing rows are read from TOAST */
	PushActiveSnapshot(GetTransactionSnapshot());
	found = find_frames(writer->find, frames, count);
	for (i = 0; i < count; i++)
	{
		HeapTuple	row = row_of_frame(frames[i], found);
		RowChange	change;

		if (row == NULL)
		{
			absent[absent_count++] = frames[i];
			continue;
		}
		compare(&change, frames[i], row, found->tupdesc);
		if (change.is_changed)
			differing[differing_count++] = frames[i];
		else
			counts->unchanged++;
	}
	SPI_freetuptable(found);
	update_frames(writer, differing, differing_count);
	write_new_frames(writer, absent, absent_count);
	PopActiveSnapshot();
}
