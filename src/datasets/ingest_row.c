/*
 * datasets/ingest_row.c
 *		A frame as the row that it is to become.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "datasets/ingest_row.h"

#define MAX_TEXT_BYTES 1024		/* a source is the key of ingest_errors */
#define SLACK 1.0f				/* pixels that a box may reach out */

char *
avc_ingest_clean_text(const char *text)
{
	char	   *copy = pnstrdup(text, Min(strlen(text), MAX_TEXT_BYTES * 4));
	int			len;

	if (!pg_verifymbstr(copy, strlen(copy), true))
	{
		char	   *byte;

		for (byte = copy; *byte != '\0'; byte++)
		{
			if (IS_HIGHBIT_SET(*byte))
				*byte = '?';
		}
	}
	len = pg_mbcliplen(copy, strlen(copy), MAX_TEXT_BYTES);
	copy[len] = '\0';
	return copy;
}

static void
set_text(AvcIngestRow *row, IngestColumn column, const char *text)
{
	row->is_null[column] = text == NULL;
	if (text != NULL)
		row->value[column] = CStringGetTextDatum(text);
}

/*
 * Which boxes stay: those that have an area once clipped to the frame.
 * Boxes that reach out by no more than the slack keep their raw corners.
 */
static int
clip_boxes(AvcIngestCounts *counts, const AvcIngestFrame *frame, int width,
		   int height, int *kept, float4 *boxes)
{
	int			count = 0;
	int			i;

	for (i = 0; i < frame->box_count; i++)
	{
		float4	   *box = boxes + 4 * count;

		memcpy(box, frame->boxes + 4 * i, 4 * sizeof(float4));
		if (box[0] < -SLACK || box[1] < -SLACK ||
			box[2] > width + SLACK || box[3] > height + SLACK)
		{
			box[0] = Max(box[0], 0);
			box[1] = Max(box[1], 0);
			box[2] = Min(box[2], width);
			box[3] = Min(box[3], height);
			if (box[0] < box[2] && box[1] < box[3])
				counts->clipped_boxes++;
		}
		if (box[0] < box[2] && box[1] < box[3])
			kept[count++] = i;
		else
			counts->outside_boxes++;
	}
	return count;
}

/* The kept elements of a flag array; NULL when nothing is known. */
static void
set_flags(AvcIngestRow *row, AvcAnnotationArray which, const int8 *flags,
		  const int *kept, int count)
{
	Datum	   *values = palloc(Max(count, 1) * sizeof(Datum));
	bool	   *nulls = palloc(Max(count, 1) * sizeof(bool));
	bool		is_known = false;
	int			lower = 1;
	int			i;

	for (i = 0; i < count && flags != NULL; i++)
	{
		nulls[i] = flags[kept[i]] < 0;
		values[i] = BoolGetDatum(flags[kept[i]] > 0);
		is_known |= !nulls[i];
	}
	row->is_null[COL_ANNOTATIONS + which] = !is_known;
	if (is_known)
		row->value[COL_ANNOTATIONS + which] =
			PointerGetDatum(construct_md_array(values, nulls, 1, &count,
											   &lower, BOOLOID, 1, true,
											   TYPALIGN_CHAR));
}

/* ann_ignored: NULL when no box is ignored. */
static void
set_ignored(AvcIngestRow *row, const bool *ignored, const int *kept,
			int count)
{
	Datum	   *values = palloc(Max(count, 1) * sizeof(Datum));
	bool		has_ignored = false;
	int			i;

	for (i = 0; i < count && ignored != NULL; i++)
	{
		values[i] = BoolGetDatum(ignored[kept[i]]);
		has_ignored |= ignored[kept[i]];
	}
	row->is_null[COL_ANNOTATIONS + AVC_ANN_IGNORED] = !has_ignored;
	if (has_ignored)
		row->value[COL_ANNOTATIONS + AVC_ANN_IGNORED] =
			PointerGetDatum(construct_array(values, count, BOOLOID, 1, true,
											TYPALIGN_CHAR));
}

static ArrayType *
float_array(const float4 *numbers, int ndim, int *dims)
{
	int			count = ndim == 2 ? dims[0] * dims[1] : dims[0];
	int			lower[2] = {1, 1};
	Datum	   *values;
	int			i;

	if (count == 0)
		return construct_empty_array(FLOAT4OID);
	values = palloc(count * sizeof(Datum));
	for (i = 0; i < count; i++)
		values[i] = Float4GetDatum(numbers[i]);
	return construct_md_array(values, NULL, ndim, dims, lower, FLOAT4OID,
							  sizeof(float4), true, TYPALIGN_INT);
}

/*
 * The area of a box as the source means it.  That of a box that is cut to the
 * frame is said, for it is no longer width times height.
 */
static float
area_of_box(const AvcIngestFrame *frame, int i, const float4 *box)
{
	const float *raw = frame->boxes + 4 * i;

	if (!isnan(frame->area[i]) || memcmp(raw, box, 4 * sizeof(float4)) == 0)
		return frame->area[i];
	return (float) (((double) raw[2] - raw[0]) * ((double) raw[3] - raw[1]));
}

/* ann_area: NULL when that of no box is known. */
static void
set_area(AvcIngestRow *row, const AvcIngestFrame *frame, const int *kept,
		 int count, const float4 *boxes)
{
	Datum	   *values = palloc(Max(count, 1) * sizeof(Datum));
	bool	   *nulls = palloc(Max(count, 1) * sizeof(bool));
	bool		is_known = false;
	int			lower = 1;
	int			i;

	for (i = 0; i < count && frame->area != NULL; i++)
	{
		float		area = area_of_box(frame, kept[i], boxes + 4 * i);

		nulls[i] = isnan(area);
		values[i] = Float4GetDatum(area);
		is_known |= !nulls[i];
	}
	row->is_null[COL_ANNOTATIONS + AVC_ANN_AREA] = !is_known;
	if (is_known)
		row->value[COL_ANNOTATIONS + AVC_ANN_AREA] =
			PointerGetDatum(construct_md_array(values, nulls, 1, &count,
											   &lower, FLOAT4OID,
											   sizeof(float4), true,
											   TYPALIGN_INT));
}

static void
set_annotations(AvcIngestCounts *counts, AvcIngestRow *row,
				const AvcIngestFrame *frame, int width, int height)
{
	int		   *kept = palloc(Max(frame->box_count, 1) * sizeof(int));
	float4	   *boxes = palloc(Max(frame->box_count, 1) * 4 * sizeof(float4));
	Datum	   *categories;
	int			dims[2];
	int			i;

	dims[0] = clip_boxes(counts, frame, width, height, kept, boxes);
	dims[1] = 4;
	categories = palloc(Max(dims[0], 1) * sizeof(Datum));
	for (i = 0; i < dims[0]; i++)
		categories[i] = CStringGetTextDatum(frame->categories[kept[i]]);
	row->value[COL_ANNOTATIONS + AVC_ANN_CATEGORIES] =
		PointerGetDatum(construct_array(categories, dims[0], TEXTOID, -1,
										false, TYPALIGN_INT));
	row->value[COL_ANNOTATIONS + AVC_ANN_BBOXES] =
		PointerGetDatum(float_array(boxes, 2, dims));
	row->is_null[COL_ANNOTATIONS + AVC_ANN_CATEGORIES] = false;
	row->is_null[COL_ANNOTATIONS + AVC_ANN_BBOXES] = false;
	set_flags(row, AVC_ANN_OCCLUDED, frame->occluded, kept, dims[0]);
	set_flags(row, AVC_ANN_TRUNCATED, frame->truncated, kept, dims[0]);
	set_ignored(row, frame->ignored, kept, dims[0]);
	set_area(row, frame, kept, dims[0], boxes);
}

AvcIngestRow *
avc_ingest_row_build(const AvcIngestFrame *frame, bytea *image, int width,
					 int height, AvcIngestCounts *counts)
{
	AvcIngestRow *row = palloc0(sizeof(AvcIngestRow));

	memset(row->is_null, true, sizeof(row->is_null));
	row->source = avc_ingest_clean_text(frame->source);
	row->image_id = pstrdup(frame->image_id);
	row->image = image;
	row->has_labels = frame->has_labels;
	set_text(row, COL_SPLIT, frame->split);
	if (frame->has_frame_time)
	{
		row->value[COL_FRAME_TIME] = TimestampTzGetDatum(frame->frame_time);
		row->is_null[COL_FRAME_TIME] = false;
	}
	set_text(row, COL_WEATHER, frame->weather);
	set_text(row, COL_SCENE, frame->scene);
	set_text(row, COL_TIMEOFDAY, frame->timeofday);
	if (frame->has_labels)
		set_annotations(counts, row, frame, width, height);
	return row;
}

bool
avc_ingest_row_is_unsaid(const AvcIngestRow *row, int column)
{
	return column < COL_ANNOTATIONS ? row->is_null[column] : !row->has_labels;
}
