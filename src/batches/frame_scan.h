/*
 * batches/frame_scan.h
 *		Look up frames of a pinned version: annotations and image.
 */
#ifndef AVC_BATCHES_FRAME_SCAN_H
#define AVC_BATCHES_FRAME_SCAN_H

#include "batches/batches.h"
#include "batches/pin.h"

typedef struct AvcFrameScan AvcFrameScan;

/* What the version says of a frame; Datums are 0 where they are NULL. */
typedef struct AvcFrameRow
{
	int64		frame_id;
	int32		width;
	int32		height;
	Datum		image;			/* a TOAST pointer, or an inline bytea */
	Datum		categories;
	Datum		bboxes;
	Datum		ignored;
	Datum		areas;
	bool		labelled;		/* categories and bboxes are there */
} AvcFrameRow;

/* Boxes of one frame that a label map knows; arrays as in AvcBatchFrame. */
typedef struct AvcFrameBoxes
{
	int32		count;
	int32	   *labels;
	float	   *boxes;
	bool	   *ignored;
	double	   *areas;
	int32	   *truth_nos;
} AvcFrameBoxes;

/* ---- frame_scan.c ---- */

/*
 * Start look-ups under the active snapshot, in the current context.  The
 * locks on the tables are kept to the end of the transaction, so that TOAST
 * pointers stay good as long as that snapshot does.
 */
extern AvcFrameScan *avc_frame_scan_open(const AvcPin *pin);
extern void avc_frame_scan_close(AvcFrameScan *scan);

/*
 * Find a frame.  The row's Datums hold until the next call and, as far as
 * they are not inline, as long as the snapshot.  Errors: the version has no
 * such frame any more; its image is in neither dataset nor archive.
 */
extern void avc_frame_scan_find(AvcFrameScan *scan, int64 frame_id,
								AvcFrameRow *row);

/* ---- frame_boxes.c ---- */

/*
 * Decode the annotations of a labelled row into the current context.
 * Degenerate boxes and unmapped categories are left out, and ignored ones
 * unless with_ignored.
 */
extern void avc_frame_boxes_decode(AvcFrameBoxes *boxes,
								   const AvcFrameRow *row,
								   const AvcLabelMap *map,
								   bool with_ignored);

#endif							/* AVC_BATCHES_FRAME_SCAN_H */
