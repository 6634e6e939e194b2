/*
 * datasets/ingest.c
 *		Write frames into a dataset: new rows inserted, changed rows updated,
 *		equal rows left untouched, bad ones recorded.
 *
 * Memory: the AvcIngest, its writer and the room for the images of a batch
 * live as long as the procedure (children of PortalContext); "batch" holds what else there is of the frames that wait to be written and
 * is reset with every commit.
 *
 * A batch is written in one subtransaction.  Only if that fails is it
 * written again frame by frame, to find the one that the dataset refuses.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/portal.h"

#include "common/attempt.h"
#include "common/message.h"
#include "common/procedure.h"
#include "common/spi.h"
#include "datasets/frame.h"
#include "datasets/ingest_log.h"
#include "datasets/ingest_row.h"
#include "datasets/ingest_writer.h"
#include "image/jpeg.h"

#define BATCH_BYTES (16 * 1024 * 1024)

struct AvcIngest
{
	MemoryContext context;
	MemoryContext batch;
	AvcIngestLog log;
	AvcIngestRow *frames[AVC_INGEST_BATCH];
	int			frame_count;
	char	   *images;			/* BATCH_BYTES for those of frames */
	size_t		images_used;
	bytea	   *room;			/* handed out for the next one, or NULL */
	AvcIngestCounts tried;		/* counts of the batch being written */
	AvcIngestWriter *writer;
};

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
avc_ingest_begin(const AvcDataset *dataset, const char *source,
				 const char *labels, int64 total)
{
	MemoryContext context;
	MemoryContext old;
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
	ingest->log.relid = dataset->relid;
	ingest->log.source = avc_ingest_clean_text(source);
	if (labels != NULL)
		ingest->log.labels = avc_ingest_clean_text(labels);
	ingest->log.total = total;
	ingest->writer = avc_ingest_writer_create(dataset);

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
	if (list_length(ingest->log.errors) >= AVC_INGEST_BATCH)
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
	if (ingest->frame_count == AVC_INGEST_BATCH ||
		frame->image_len > BATCH_BYTES / 2)
		avc_ingest_flush(ingest);
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

	avc_ingest_writer_write(step->ingest->writer,
							step->ingest->frames + step->first, step->count,
							&step->ingest->tried);
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

	if (ingest->frame_count == 0)
		return;
	avc_ingest_writer_begin(ingest->writer, ingest->frames,
							ingest->frame_count);
	if (try_frames(ingest, 0, ingest->frame_count, &failure))
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
