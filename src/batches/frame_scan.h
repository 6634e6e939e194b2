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

/* The annotation arrays of a labelled frame: "count" elements each. */
typedef struct AvcFrameArrays
{
	int			count;
	Datum	   *categories;		/* text */
	bool	   *category_nulls;
	const float *boxes;			/* (count, 4) x1 y1 x2 y2 pixels */
	bool	   *ignored;
	float	   *areas;			/* NaN = width times height of the box */
} AvcFrameArrays;

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
 * Start look-ups under the active snapshot, in the current context.  Error
 * unless the current user may read the images (avc_pin_check_images).  The
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
 * Unpack the annotation arrays of a row into the current context.  The
 * dataset's trigger keeps them of one length, but a view that a user made may
 * hold anything: an error names the array that does not fit.
 */
extern void avc_frame_arrays_read(AvcFrameArrays *arrays,
								  const AvcFrameRow *row);

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
