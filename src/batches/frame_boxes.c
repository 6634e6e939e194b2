/*
 * batches/frame_boxes.c
 *		Unpack a frame's annotation arrays; decode them through a label map.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "utils/array.h"

#include "batches/frame_scan.h"

static void
raise_bad_arrays(const AvcFrameRow *row, const char *column)
{
	ereport(ERROR,
			(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
			 errmsg("array \"%s\" of frame " INT64_FORMAT " does not fit its categories",
					column, row->frame_id)));
}

/* An optional array of "count" elements; NULL without it. */
static Datum *
optional_elements(const AvcFrameRow *row, const char *column, Datum value,
				  int count, bool **nulls)
{
	bool		is_flag = strcmp(column, "ann_ignored") == 0;
	Datum	   *elements;
	int			found;

	if (value == (Datum) 0)
		return NULL;
	deconstruct_array(DatumGetArrayTypeP(value),
					  is_flag ? BOOLOID : FLOAT4OID, is_flag ? 1 : 4, true,
					  is_flag ? TYPALIGN_CHAR : TYPALIGN_INT,
					  &elements, nulls, &found);
	if (found != count)
		raise_bad_arrays(row, column);
	return elements;
}

static bool *
read_ignored(const AvcFrameRow *row, int count)
{
	bool	   *ignored = palloc0(sizeof(bool) * Max(count, 1));
	bool	   *nulls;
	Datum	   *elements = optional_elements(row, "ann_ignored", row->ignored,
											 count, &nulls);
	int			i;

	for (i = 0; elements != NULL && i < count; i++)
		ignored[i] = !nulls[i] && DatumGetBool(elements[i]);
	return ignored;
}

static float *
read_areas(const AvcFrameRow *row, int count)
{
	float	   *areas = palloc(sizeof(float) * Max(count, 1));
	bool	   *nulls;
	Datum	   *elements = optional_elements(row, "ann_area", row->areas,
											 count, &nulls);
	int			i;

	for (i = 0; i < count; i++)
		areas[i] = elements == NULL || nulls[i] ? (float) NAN :
			DatumGetFloat4(elements[i]);
	return areas;
}

static const float *
read_corners(const AvcFrameRow *row, int count)
{
	ArrayType  *array;

	if (row->bboxes == (Datum) 0)
		raise_bad_arrays(row, "ann_bboxes");
	array = DatumGetArrayTypeP(row->bboxes);
	if (count == 0 && ARR_NDIM(array) == 0)
		return NULL;
	if (ARR_NDIM(array) != 2 || ARR_DIMS(array)[0] != count ||
		ARR_DIMS(array)[1] != 4 || array_contains_nulls(array))
		raise_bad_arrays(row, "ann_bboxes");
	return (const float *) ARR_DATA_PTR(array);
}

void
avc_frame_arrays_read(AvcFrameArrays *arrays, const AvcFrameRow *row)
{
	deconstruct_array(DatumGetArrayTypeP(row->categories), TEXTOID, -1, false,
					  TYPALIGN_INT, &arrays->categories,
					  &arrays->category_nulls, &arrays->count);
	arrays->boxes = read_corners(row, arrays->count);
	arrays->ignored = read_ignored(row, arrays->count);
	arrays->areas = read_areas(row, arrays->count);
}

static void
reserve(AvcFrameBoxes *boxes, int count)
{
	memset(boxes, 0, sizeof(*boxes));
	count = Max(count, 1);
	boxes->labels = palloc(sizeof(int32) * count);
	boxes->boxes = palloc(sizeof(float) * 4 * count);
	boxes->ignored = palloc(sizeof(bool) * count);
	boxes->areas = palloc(sizeof(double) * count);
	boxes->truth_nos = palloc(sizeof(int32) * count);
}

void
avc_frame_boxes_decode(AvcFrameBoxes *boxes, const AvcFrameRow *row,
					   const AvcLabelMap *map, bool with_ignored)
{
	AvcFrameArrays arrays;
	int			i;

	Assert(row->labelled);
	avc_frame_arrays_read(&arrays, row);
	reserve(boxes, arrays.count);
	for (i = 0; i < arrays.count; i++)
	{
		const float *box = arrays.boxes + 4 * i;
		struct varlena *category;
		int32		label;
		int			n = boxes->count;

		if (!(box[0] < box[2] && box[1] < box[3]) ||
			arrays.category_nulls[i] || (arrays.ignored[i] && !with_ignored))
			continue;
		category = PG_DETOAST_DATUM_PACKED(arrays.categories[i]);
		label = avc_label_map_label(map, VARDATA_ANY(category),
									VARSIZE_ANY_EXHDR(category));
		if (label == 0)
			continue;
		boxes->labels[n] = label;
		memcpy(&boxes->boxes[4 * n], box, 4 * sizeof(float));
		boxes->ignored[n] = arrays.ignored[i];
		boxes->areas[n] = !isnan(arrays.areas[i]) ? arrays.areas[i] :
			((double) box[2] - box[0]) * ((double) box[3] - box[1]);
		boxes->truth_nos[n] = i + 1;
		boxes->count++;
	}
}
