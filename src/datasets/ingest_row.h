/*
 * datasets/ingest_row.h
 *		A frame as the row that it is to become.
 */
#ifndef AVC_DATASETS_INGEST_ROW_H
#define AVC_DATASETS_INGEST_ROW_H

#include "datasets/annotations.h"
#include "datasets/ingest.h"

/* The columns that are compared and written, after image_id. */
typedef enum IngestColumn
{
	COL_SPLIT,
	COL_WEATHER,
	COL_SCENE,
	COL_TIMEOFDAY,
	COL_FRAME_TIME,
	COL_ANNOTATIONS,			/* the first of AVC_ANN_ARRAYS */
	INGEST_COLUMNS = COL_ANNOTATIONS + AVC_ANN_ARRAYS
} IngestColumn;

/* A frame of the batch as the row that it is to become. */
typedef struct AvcIngestRow
{
	char	   *source;
	char	   *image_id;
	bytea	   *image;
	bool		has_labels;
	Datum		value[INGEST_COLUMNS];
	bool		is_null[INGEST_COLUMNS];
} AvcIngestRow;

/*
 * Build the row of a frame in the current memory context.  Its image, which
 * the row only points at, is width x height pixels.  Boxes are clipped to the
 * frame and counted.
 */
extern AvcIngestRow *avc_ingest_row_build(const AvcIngestFrame *frame,
										  bytea *image, int width, int height,
										  AvcIngestCounts *counts);

/* Does the source leave this column of an existing row as it is? */
extern bool avc_ingest_row_is_unsaid(const AvcIngestRow *row, int column);

/* A source or message as it can be stored: limited, in valid encoding. */
extern char *avc_ingest_clean_text(const char *text);

#endif
