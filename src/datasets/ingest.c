/*
 * datasets/ingest.c
 *		Write frames into a dataset: new rows inserted, changed rows updated,
 *		equal rows left untouched, bad ones recorded.
 *
 * Memory: the AvcIngest, its prepared statements and the room for the images
 * of a batch live as long as the procedure (children of PortalContext);
 * "batch" holds what else there is of the frames that wait to be written and
 * is reset with every commit.
 *
 * A batch is written in one subtransaction.  Only if that fails is it
 * written again frame by frame, to find the one that the dataset refuses.
 * A row is compared column by column before anything is written, so taking
 * the same footage twice writes nothing at all.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "common/attempt.h"
#include "common/message.h"
#include "common/procedure.h"
#include "common/spi.h"
#include "datasets/frame.h"
#include "datasets/ingest_log.h"
#include "datasets/ingest_row.h"
#include "image/jpeg.h"

#define BATCH_FRAMES 128
#define INSERT_ROWS 16			/* of one INSERT, where there are as many */
#define BATCH_BYTES (16 * 1024 * 1024)

static const Oid column_types[INGEST_COLUMNS] = {
	TEXTOID, TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID,
	TEXTARRAYOID, FLOAT4ARRAYOID, BOOLARRAYOID, BOOLARRAYOID, BOOLARRAYOID,
	FLOAT4ARRAYOID
};

#define COLUMN_LIST "split, weather, scene, timeofday, frame_time," \
	" ann_categories, ann_bboxes, ann_occluded, ann_truncated, ann_ignored," \
	" ann_area"

#define INSERT_COLUMNS (INGEST_COLUMNS + 2) /* image_id, image_bytes */

struct AvcIngest
{
	const AvcDataset *dataset;
	MemoryContext context;
	MemoryContext batch;
	AvcIngestLog log;
	AvcIngestRow *frames[BATCH_FRAMES];
	int			frame_count;
	char	   *images;			/* BATCH_BYTES for those of frames */
	size_t		images_used;
	bytea	   *room;			/* handed out for the next one, or NULL */
	AvcIngestCounts tried;		/* counts of the batch being written */
	SPIPlanPtr	find;
	SPIPlanPtr	insert;
	SPIPlanPtr	insert_many;	/* INSERT_ROWS at once */
	SPIPlanPtr	update_all;
	SPIPlanPtr	update_rest;	/* all but the image */
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
prepare_plans(AvcIngest *ingest)
{
	const char *table = ingest->dataset->quoted_name;
	Oid			types[INGEST_COLUMNS + 2];
	int			i;

	types[0] = TEXTARRAYOID;
	ingest->find = prepare(psprintf("SELECT frame_id, image_sha256, "
									COLUMN_LIST ", image_id FROM %s"
									" WHERE image_id OPERATOR(pg_catalog.=)"
									" ANY ($1)", table), 1, types);
	for (i = 0; i < INGEST_COLUMNS; i++)
		types[i] = column_types[i];
	types[INGEST_COLUMNS + 1] = BYTEAOID;
	ingest->insert = prepare_insert(table, 1);
	ingest->insert_many = prepare_insert(table, INSERT_ROWS);
	types[INGEST_COLUMNS] = INT8OID;
	ingest->update_all = prepare(psprintf("UPDATE %s SET (" COLUMN_LIST
										  ", image_bytes) = ROW($1, $2, $3, $4,"
										  " $5, $6, $7, $8, $9, $10, $11, $13)"
										  " WHERE frame_id OPERATOR(pg_catalog.=) $12",
										  table),
								 INGEST_COLUMNS + 2, types);
	ingest->update_rest = prepare(psprintf("UPDATE %s SET (" COLUMN_LIST ")"
										   " = ROW($1, $2, $3, $4, $5, $6, $7,"
										   " $8, $9, $10, $11)"
										   " WHERE frame_id OPERATOR(pg_catalog.=) $12",
										   table),
								  INGEST_COLUMNS + 1, types);
}

static void
free_plans(void *arg)
{
	AvcIngest  *ingest = arg;
	SPIPlanPtr *plans[] = {
		&ingest->find, &ingest->insert, &ingest->insert_many,
		&ingest->update_all, &ingest->update_rest
	};
	int			i;

	for (i = 0; i < lengthof(plans); i++)
	{
		if (*plans[i] != NULL)
			SPI_freeplan(*plans[i]);
		*plans[i] = NULL;
	}
}

/*
 * Commit without waiting for the disk, unless it is the last time: a crash
 * may take the batches of the last second, whole ones with their progress,
 * and the next run takes them again.
 */
static void
commit(bool is_last)
{
	if (!is_last && synchronous_commit > SYNCHRONOUS_COMMIT_OFF)
		(void) set_config_option("synchronous_commit", "off", PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0,
								 false);
	avc_procedure_commit();
}

AvcIngest *
avc_ingest_begin(const AvcDataset *dataset, const char *source, int64 total)
{
	MemoryContext context;
	MemoryContext old;
	MemoryContextCallback *callback;
	AvcIngest  *ingest;
	AclMode		needed = ACL_SELECT | ACL_INSERT | ACL_UPDATE;
	AclResult	acl;

	/* found out here, or every frame would be an error of its own */
	acl = pg_class_aclmask(dataset->relid, GetUserId(), needed,
						   ACLMASK_ALL) == needed ?
		ACLCHECK_OK : ACLCHECK_NO_PRIV;
	if (acl != ACLCHECK_OK)
		aclcheck_error(acl, OBJECT_TABLE, dataset->table_name);
	context = AllocSetContextCreate(PortalContext, "ingest",
									ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	ingest = palloc0(sizeof(AvcIngest));
	ingest->context = context;
	ingest->batch = AllocSetContextCreate(context, "ingest batch",
										  ALLOCSET_DEFAULT_SIZES);
	/* kept, for fresh memory costs as much as reading a file into it */
	ingest->images = palloc(BATCH_BYTES);
	ingest->dataset = dataset;
	ingest->log.relid = dataset->relid;
	ingest->log.source = avc_ingest_clean_text(source);
	ingest->log.total = total;
	callback = palloc0(sizeof(MemoryContextCallback));
	callback->func = free_plans;
	callback->arg = ingest;
	MemoryContextRegisterResetCallback(context, callback);
	prepare_plans(ingest);

	avc_ingest_log_begin(&ingest->log);
	commit(false);
	MemoryContextSwitchTo(old);
	return ingest;
}

void
avc_ingest_set_total(AvcIngest *ingest, int64 total)
{
	ingest->log.total = total;
}

AvcIngestCounts *
avc_ingest_counts(AvcIngest *ingest)
{
	return &ingest->log.counts;
}

static void
add_error(AvcIngest *ingest, const char *source, int sqlstate,
		  const char *message)
{
	MemoryContext old = MemoryContextSwitchTo(ingest->batch);

	avc_ingest_log_error(&ingest->log, source, sqlstate, message);
	MemoryContextSwitchTo(old);
}

void
avc_ingest_error(AvcIngest *ingest, const char *source, int sqlstate,
				 const char *format,...)
{
	va_list		args;
	char	   *message;

	va_start(args, format);
	message = avc_message(format, args);
	va_end(args);
	add_error(ingest, source, sqlstate, message);
	pfree(message);
	if (list_length(ingest->log.errors) >= BATCH_FRAMES)
		avc_ingest_flush(ingest);
}

uint8 *
avc_ingest_image_room(AvcIngest *ingest, size_t len)
{
	size_t		size = MAXALIGN(VARHDRSZ + len);

	if (size > BATCH_BYTES)
		ingest->room = MemoryContextAlloc(ingest->batch, size);
	else
	{
		if (size > BATCH_BYTES - ingest->images_used)
			avc_ingest_flush(ingest);
		ingest->room = (bytea *) (ingest->images + ingest->images_used);
	}
	return (uint8 *) VARDATA(ingest->room);
}

/* The image of a frame as a value, in the room for it. */
static bytea *
keep_image(AvcIngest *ingest, const AvcIngestFrame *frame)
{
	bytea	   *image;

	if (ingest->room == NULL || frame->image != (uint8 *) VARDATA(ingest->room))
		memcpy(avc_ingest_image_room(ingest, frame->image_len), frame->image,
			   frame->image_len);
	image = ingest->room;
	ingest->room = NULL;
	SET_VARSIZE(image, VARHDRSZ + frame->image_len);
	if ((char *) image == ingest->images + ingest->images_used)
		ingest->images_used += MAXALIGN(VARHDRSZ + frame->image_len);
	return image;
}

void
avc_ingest_add(AvcIngest *ingest, const AvcIngestFrame *frame)
{
	MemoryContext old;
	AvcIngestRow *queued;
	bytea	   *image;
	const char *problem;
	int			width,
				height;

	CHECK_FOR_INTERRUPTS();
	problem = avc_frame_size(&width, &height, frame->image, frame->image_len);
	if (problem == NULL &&
		!eng_jpeg_has_end(frame->image, frame->image_len))
		problem = "JPEG is cut off";
	if (problem != NULL)
	{
		avc_ingest_error(ingest, frame->source,
						 ERRCODE_INVALID_BINARY_REPRESENTATION,
						 "no usable JPEG: %s", problem);
		return;
	}
	if ((frame->label_width > 0 && frame->label_width != width) ||
		(frame->label_height > 0 && frame->label_height != height))
	{
		avc_ingest_error(ingest, frame->source, ERRCODE_DATA_EXCEPTION,
						 "image is %d x %d pixels, and its labels are of %d x %d",
						 width, height, frame->label_width,
						 frame->label_height);
		return;
	}
	image = keep_image(ingest, frame);
	old = MemoryContextSwitchTo(ingest->batch);
	queued = avc_ingest_row_build(frame, image, width, height,
								  &ingest->log.counts);
	if (!frame->has_labels)
		ingest->log.counts.unlabelled++;
	ingest->frames[ingest->frame_count++] = queued;
	MemoryContextSwitchTo(old);
	/* one that has no place beside others does not wait for them */
	if (ingest->frame_count == BATCH_FRAMES ||
		frame->image_len > BATCH_BYTES / 2)
		avc_ingest_flush(ingest);
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
insert_frames(AvcIngest *ingest, AvcIngestRow *const *frames, int count)
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
	return execute(count == 1 ? ingest->insert : ingest->insert_many, values,
				   nulls);
}

static bool
is_equal(int column, Datum a, Datum b)
{
	if (column == COL_FRAME_TIME)
		return DatumGetTimestampTz(a) == DatumGetTimestampTz(b);
	return datum_image_eq(a, b, false, -1);
}

/* Compare with the row that was found, update it if it differs. */
static void
update_frame(AvcIngest *ingest, const AvcIngestRow *frame, HeapTuple row,
			 TupleDesc desc)
{
	Datum		values[INGEST_COLUMNS + 2];
	char		nulls[INGEST_COLUMNS + 2];
	uint8		digest[AVC_SHA256_BYTES];
	bytea	   *stored;
	bool		is_null;
	bool		is_changed = false;
	bool		is_image_changed;
	int			i;

	for (i = 0; i < INGEST_COLUMNS; i++)
	{
		Datum		old = SPI_getbinval(row, desc, i + 3, &is_null);
		bool		keep = avc_ingest_row_is_unsaid(frame, i);

		values[i] = keep ? old : frame->value[i];
		nulls[i] = (keep ? is_null : frame->is_null[i]) ? 'n' : ' ';
		if (!keep && (is_null != frame->is_null[i] ||
					  (!is_null && !is_equal(i, old, frame->value[i]))))
			is_changed = true;
	}
	stored = DatumGetByteaPP(SPI_getbinval(row, desc, 2, &is_null));
	avc_frame_sha256(digest, (uint8 *) VARDATA(frame->image),
					 VARSIZE(frame->image) - VARHDRSZ);
	is_image_changed = VARSIZE_ANY_EXHDR(stored) != AVC_SHA256_BYTES ||
		memcmp(VARDATA_ANY(stored), digest, AVC_SHA256_BYTES) != 0;
	if (!is_changed && !is_image_changed)
	{
		ingest->tried.unchanged++;
		return;
	}
	values[INGEST_COLUMNS] = SPI_getbinval(row, desc, 1, &is_null);
	values[INGEST_COLUMNS + 1] = PointerGetDatum(frame->image);
	nulls[INGEST_COLUMNS] = nulls[INGEST_COLUMNS + 1] = ' ';
	if (execute(is_image_changed ? ingest->update_all : ingest->update_rest,
				values, nulls) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("frame \"%s\" was deleted meanwhile or may not be updated",
						frame->image_id)));
	ingest->tried.updated++;
}

/*
 * The rows that some frames have already.  The caller frees them: SPI would
 * keep them until the procedure ends.
 */
static SPITupleTable *
find_frames(AvcIngest *ingest, AvcIngestRow *const *frames, int count)
{
	Datum		ids[BATCH_FRAMES];
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
	execute(ingest->find, &array, NULL);
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

/* Write a frame that the dataset did not have when the batch began. */
static void
write_new_frame(AvcIngest *ingest, AvcIngestRow *frame)
{
	SPITupleTable *other;

	if (insert_frames(ingest, &frame, 1) == 1)
	{
		ingest->tried.inserted++;
		return;
	}
	/* somebody else has just written it */
	other = find_frames(ingest, &frame, 1);
	if (other->numvals == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNIQUE_VIOLATION),
				 errmsg("another session is writing frame \"%s\", or its row is hidden",
						frame->image_id)));
	update_frame(ingest, frame, other->vals[0], other->tupdesc);
	SPI_freetuptable(other);
}

static void
write_new_frames(AvcIngest *ingest, AvcIngestRow **frames, int count)
{
	int			i = 0;

	for (; i + INSERT_ROWS <= count; i += INSERT_ROWS)
	{
		/* which one somebody else has written comes out one by one */
		if (insert_frames(ingest, frames + i, INSERT_ROWS) != INSERT_ROWS)
			ereport(ERROR,
					(errcode(ERRCODE_UNIQUE_VIOLATION),
					 errmsg("another session is writing frames of the batch")));
		ingest->tried.inserted += INSERT_ROWS;
	}
	for (; i < count; i++)
		write_new_frame(ingest, frames[i]);
}

typedef struct WriteStep
{
	AvcIngest  *ingest;
	int			first;
	int			count;
} WriteStep;

static void
write_frames(void *arg)
{
	WriteStep  *step = arg;
	AvcIngestRow **frames = step->ingest->frames + step->first;
	AvcIngestRow *absent[BATCH_FRAMES];
	int			absent_count = 0;
	SPITupleTable *found;
	int			i;

	/* boxes of existing rows are read from TOAST */
	PushActiveSnapshot(GetTransactionSnapshot());
	found = find_frames(step->ingest, frames, step->count);
	for (i = 0; i < step->count; i++)
	{
		HeapTuple	row = row_of_frame(frames[i], found);

		if (row != NULL)
			update_frame(step->ingest, frames[i], row, found->tupdesc);
		else
			absent[absent_count++] = frames[i];
	}
	SPI_freetuptable(found);
	write_new_frames(step->ingest, absent, absent_count);
	PopActiveSnapshot();
}

/* Write some frames in a subtransaction and count them if that went well. */
static bool
try_frames(AvcIngest *ingest, int first, int count, AvcFailure *failure)
{
	WriteStep	step = {ingest, first, count};

	memset(&ingest->tried, 0, sizeof(ingest->tried));
	if (!avc_attempt(write_frames, &step, failure))
		return false;
	ingest->log.counts.inserted += ingest->tried.inserted;
	ingest->log.counts.updated += ingest->tried.updated;
	ingest->log.counts.unchanged += ingest->tried.unchanged;
	return true;
}

static void
write_batch(AvcIngest *ingest)
{
	AvcFailure	failure;
	int			i;

	if (ingest->frame_count == 0 ||
		try_frames(ingest, 0, ingest->frame_count, &failure))
		return;
	for (i = 0; i < ingest->frame_count; i++)
	{
		if (!try_frames(ingest, i, 1, &failure))
			add_error(ingest, ingest->frames[i]->source, failure.sqlstate,
					  failure.message);
	}
}

static void
flush(AvcIngest *ingest, bool is_last)
{
	MemoryContext old = MemoryContextSwitchTo(ingest->batch);

	write_batch(ingest);
	avc_ingest_log_write(&ingest->log, is_last);
	commit(is_last);
	MemoryContextSwitchTo(old);

	ingest->frame_count = 0;
	ingest->images_used = 0;
	MemoryContextReset(ingest->batch);
	avc_ingest_log_say(&ingest->log);
}

void
avc_ingest_flush(AvcIngest *ingest)
{
	flush(ingest, false);
}

void
avc_ingest_finish(AvcIngest *ingest)
{
	flush(ingest, true);
}

void
avc_ingest_say_summary(AvcIngest *ingest, int64 passed_over,
					   int64 without_box, int64 without_image)
{
	avc_ingest_log_summary(&ingest->log, passed_over, without_box,
						   without_image);
}
