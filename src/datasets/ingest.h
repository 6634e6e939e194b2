/*
 * datasets/ingest.h
 *		Write frames into a dataset: new rows inserted, changed rows updated,
 *		equal rows left untouched, bad ones recorded.
 *
 * Used by the ingest procedures.  Frames are collected in small batches; a
 * batch is one transaction, committed by avc_ingest_add or avc_ingest_finish,
 * so the caller must be a procedure in a non-atomic SPI connection
 * (avc_procedure_run) and must keep what it needs in a context that outlives
 * transactions (PortalContext).  Rows are written with the rights
 * of the caller; progress and errors go to the catalog.
 */
#ifndef AVC_DATASETS_INGEST_H
#define AVC_DATASETS_INGEST_H

#include "datatype/timestamp.h"
#include "fmgr.h"

#include "datasets/dataset.h"

typedef struct AvcIngest AvcIngest;

/* One frame, in the caller's memory; copied by avc_ingest_add. */
typedef struct AvcIngestFrame
{
	const char *source;			/* file, or what else names it in errors */
	const char *image_id;
	const char *split;			/* NULL = unknown, as the next three */
	const char *weather;
	const char *scene;
	const char *timeofday;
	TimestampTz frame_time;
	bool		has_frame_time;
	const uint8 *image;			/* JPEG bytes, in avc_ingest_image_room or not */
	size_t		image_len;

	int			label_width;	/* of the picture that the labels are of; */
	int			label_height;	/* 0 = they do not say */

	/*
	 * What the source does not say, a row that exists keeps, and in a new
	 * row it is NULL.  Does the source say anything of labels?
	 */
	bool		has_labels;
	int			box_count;
	const char *const *categories;	/* box_count names, already folded */
	const float *boxes;			/* (box_count, 4) x1 y1 x2 y2 pixels */
	const int8 *occluded;		/* box_count of 0, 1, -1 = not known; NULL */
	const int8 *truncated;		/* the same */
	const bool *ignored;		/* box_count; NULL = none is ignored */
	const float *area;			/* box_count, NaN = that of the box; NULL: not known */
} AvcIngestFrame;

typedef struct AvcIngestCounts
{
	int64		inserted;
	int64		updated;
	int64		unchanged;
	int64		unlabelled;		/* of these, frames that no label file names */
	int64		errors;			/* rows written to ingest_errors */
	int64		dropped_boxes;	/* no area; the caller counts these itself */
	int64		outside_boxes;	/* dropped: not in the frame at all */
	int64		clipped_boxes;	/* reached out of the frame and were cut */
} AvcIngestCounts;

/*
 * Start: "source" names the run in the progress view (folder, or seed and
 * options), "labels" the file or folder of labels, or NULL; "total" is the
 * number of frames to come or -1.  The result lives in PortalContext.
 */
extern AvcIngest *avc_ingest_begin(const AvcDataset *dataset,
								   const char *source, const char *labels,
								   int64 total);

/* The number of frames to come, once it is known. */
extern void avc_ingest_set_total(AvcIngest *ingest, int64 total);

/*
 * Room for the image of the next frame, which is then not copied again.  May
 * write and commit what is collected.
 */
extern uint8 *avc_ingest_image_room(AvcIngest *ingest, size_t len);

/*
 * Take one frame.  Writes and commits when a batch is full.  A frame that
 * the dataset refuses becomes a row of ingest_errors.
 */
extern void avc_ingest_add(AvcIngest *ingest, const AvcIngestFrame *frame);

/* Record one thing that could not be taken.  The message is a whole line. */
extern void avc_ingest_error(AvcIngest *ingest, const char *source,
							 int sqlstate, const char *format,...)
			pg_attribute_printf(4, 5);

/* Write what is collected and commit. */
extern void avc_ingest_flush(AvcIngest *ingest);

/* Flush, mark the run finished, commit. */
extern void avc_ingest_finish(AvcIngest *ingest);

/*
 * Say what has become of the frames of a run that is finished.  The caller
 * counts files passed over, labels without a box, and entries whose image is
 * not there.
 */
extern void avc_ingest_say_summary(AvcIngest *ingest, int64 passed_over,
								   int64 without_box, int64 without_image);

/* Counts so far; frames collected but not yet written are not in them. */
extern AvcIngestCounts *avc_ingest_counts(AvcIngest *ingest);

#endif
