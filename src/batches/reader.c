/*
 * batches/reader.c
 *		Batches of a pinned version for background workers.
 *
 * A reader outlives transactions: it keeps the packed frame ids, the label
 * map and the pin in its own context, and nothing of the server's (snapshot,
 * lock, open table) between two calls.  The version's rows are immutable and
 * its images are in the dataset or in the archive whatever the snapshot, so
 * each read may use a snapshot of its own.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "batches/batches.h"
#include "batches/frame_scan.h"
#include "batches/pin.h"

struct AvcBatchReader
{
	MemoryContext context;		/* holds the reader and all it points to */
	AvcBatchOptions options;
	AvcPin		pin;
	AvcFrameIds *ids;
	AvcLabelMap *map;
	AvcPermutation order;
	int64		unlabelled;
};

/* True if a snapshot was pushed, which the caller pops. */
static bool
need_snapshot(void)
{
	if (ActiveSnapshotSet())
		return false;
	PushActiveSnapshot(GetTransactionSnapshot());
	return true;
}

AvcBatchReader *
avc_batch_reader_open(const AvcBatchOptions *options, MemoryContext context)
{
	AvcBatchReader *reader;
	AvcFrameChoice choice = {0};
	MemoryContext own;
	MemoryContext old;
	bool		pushed = need_snapshot();

	own = AllocSetContextCreate(context, "avcurate batch reader",
								ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(own);
	reader = palloc0(sizeof(AvcBatchReader));
	reader->context = own;
	reader->options = *options;
	if (reader->options.world_size == 0)
		reader->options.world_size = 1;
	avc_batch_options_check(&reader->options);
	avc_pin_open(&reader->pin, options->slice, options->slice_id,
				 options->version);
	avc_pin_check_images(&reader->pin);
	reader->map = avc_label_map_load(options->label_map ?
									 options->label_map : "coco", own);
	choice.max_frames = options->max_frames;
	choice.labelled_only = options->labelled_only;
	choice.across_transactions = true;
	reader->ids = avc_pin_ids_read(&reader->pin, &choice, own,
								   &reader->unlabelled);
	avc_batch_reader_set_epoch(reader, options->epoch);
	MemoryContextSwitchTo(old);
	if (pushed)
		PopActiveSnapshot();
	return reader;
}

void
avc_batch_reader_set_epoch(AvcBatchReader *reader, int32 epoch)
{
	reader->options.epoch = epoch;
	avc_permutation_init(&reader->order, avc_frame_ids_count(reader->ids),
						 reader->pin.version, reader->options.seed, epoch);
}

int64
avc_batch_reader_count(const AvcBatchReader *reader)
{
	return avc_batch_total(&reader->options,
						   avc_frame_ids_count(reader->ids));
}

int64
avc_batch_reader_frames(const AvcBatchReader *reader)
{
	return avc_frame_ids_count(reader->ids);
}

int64
avc_batch_reader_unlabelled(const AvcBatchReader *reader)
{
	return reader->unlabelled;
}

/* Copy one row out of the scan into the current context. */
static void
copy_frame(const AvcBatchReader *reader, const AvcFrameRow *row,
		   int64 position, AvcBatchFrame *frame)
{
	AvcFrameBoxes boxes;

	memset(frame, 0, sizeof(*frame));
	frame->position = position;
	frame->frame_id = row->frame_id;
	frame->image = PG_DETOAST_DATUM_COPY(row->image);
	frame->width = row->width;
	frame->height = row->height;
	frame->labelled = row->labelled;
	if (!row->labelled)
		return;
	avc_frame_boxes_decode(&boxes, row, reader->map,
						   reader->options.with_ignored);
	frame->box_count = boxes.count;
	frame->labels = boxes.labels;
	frame->boxes = boxes.boxes;
	frame->ignored = boxes.ignored;
	frame->areas = boxes.areas;
	frame->truth_nos = boxes.truth_nos;
}

int
avc_batch_reader_read(AvcBatchReader *reader, int64 n, MemoryContext context,
					  AvcBatchFrame **frames)
{
	int64		first = n * reader->options.batch_size;
	int64		frame_count = avc_frame_ids_count(reader->ids);
	int			count = (int) Min(reader->options.batch_size,
								  frame_count - first);
	AvcFrameScan *scan;
	MemoryContext old;
	bool		pushed;
	int			i;

	if (n < 0 || n >= avc_batch_reader_count(reader))
		elog(ERROR, "batch %lld does not exist", (long long) n);
	pushed = need_snapshot();
	scan = avc_frame_scan_open(&reader->pin);
	old = MemoryContextSwitchTo(context);
	*frames = palloc(sizeof(AvcBatchFrame) * count);
	for (i = 0; i < count; i++)
	{
		int64		rank = first + i;
		AvcFrameRow row;

		CHECK_FOR_INTERRUPTS();
		if (reader->options.shuffle)
			rank = avc_permutation_at(&reader->order, rank);
		avc_frame_scan_find(scan, avc_frame_ids_at(reader->ids, rank), &row);
		copy_frame(reader, &row, first + i, &(*frames)[i]);
	}
	MemoryContextSwitchTo(old);
	avc_frame_scan_close(scan);
	if (pushed)
		PopActiveSnapshot();
	return count;
}

void
avc_batch_reader_close(AvcBatchReader *reader)
{
	avc_frame_ids_free(reader->ids);
	MemoryContextDelete(reader->context);
}
