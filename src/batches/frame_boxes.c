/*
 * batches/frame_boxes.c
 *		Decode a frame's annotation arrays through a label map.
 *
 * The dataset's trigger keeps the arrays of one length, but a view that a
 * user made may hold anything, so the shapes are checked again.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"

#include "batches/frame_scan.h"

static void
raise_bad_arrays(const AvcFrameRow *row, const char *column)
{
	ereport(ERROR,
			(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
			 errmsg("array \"%s\" of frame %lld does not fit its categories",
					column, (long long) row->frame_id)));
}

/* Elements of an optional array of "count" elements; NULL without it. */
static Datum *
optional_elements(const AvcFrameRow *row, const char *column, Datum value,
				  int count, bool **nulls)
{
	ArrayType  *array;
	Datum	   *elements;
	int			found;
	bool		is_bool = strcmp(column, "ann_ignored") == 0;

	if (value == (Datum) 0)
		return NULL;
	array = DatumGetArrayTypeP(value);
	deconstruct_array(array, is_bool ? BOOLOID : FLOAT4OID,
					  is_bool ? 1 : 4, true,
					  is_bool ? TYPALIGN_CHAR : TYPALIGN_INT,
					  &elements, nulls, &found);
	if (found != count)
		raise_bad_arrays(row, column);
	return elements;
}

/* The (count, 4) floats of ann_bboxes. */
static const float *
box_corners(const AvcFrameRow *row, int count)
{
	ArrayType  *array = DatumGetArrayTypeP(row->bboxes);

	if (count == 0 && ARR_NDIM(array) == 0)
		return NULL;
	if (ARR_NDIM(array) != 2 || ARR_DIMS(array)[0] != count ||
		ARR_DIMS(array)[1] != 4 || array_contains_nulls(array))
		raise_bad_arrays(row, "ann_bboxes");
	return (const float *) ARR_DATA_PTR(array);
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
	Datum	   *categories;
	bool	   *category_nulls;
	Datum	   *ignored;
	bool	   *ignored_nulls = NULL;
	Datum	   *areas;
	bool	   *area_nulls = NULL;
	const float *corners;
	int			count;
	int			i;

	Assert(row->labelled);
	deconstruct_array(DatumGetArrayTypeP(row->categories), TEXTOID, -1, false,
					  TYPALIGN_INT, &categories, &category_nulls, &count);
	corners = box_corners(row, count);
	ignored = optional_elements(row, "ann_ignored", row->ignored, count,
								&ignored_nulls);
	areas = optional_elements(row, "ann_area", row->areas, count,
							  &area_nulls);
	reserve(boxes, count);
	for (i = 0; i < count; i++)
	{
		const float *box = corners + 4 * i;
		struct varlena *category;
		bool		is_ignored;
		int32		label;
		int			n = boxes->count;

		is_ignored = ignored && !ignored_nulls[i] && DatumGetBool(ignored[i]);
		if (!(box[0] < box[2] && box[1] < box[3]) || category_nulls[i] ||
			(is_ignored && !with_ignored))
			continue;
		category = PG_DETOAST_DATUM_PACKED(categories[i]);
		label = avc_label_map_label(map, VARDATA_ANY(category),
									VARSIZE_ANY_EXHDR(category));
		if (label == 0)
			continue;
		boxes->labels[n] = label;
		memcpy(&boxes->boxes[4 * n], box, 4 * sizeof(float));
		boxes->ignored[n] = is_ignored;
		boxes->areas[n] = areas && !area_nulls[i] ? DatumGetFloat4(areas[i]) :
			((double) box[2] - box[0]) * ((double) box[3] - box[1]);
		boxes->truth_nos[n] = i + 1;
		boxes->count++;
	}
}
