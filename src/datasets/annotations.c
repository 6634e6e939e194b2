/*
 * datasets/annotations.c
 *		The parallel annotation arrays of a frame and their rules.
 *
 * One trigger applies the rules, not CHECK constraints: those would be
 * evaluated at every UPDATE, also when a backfill stores a feature.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#include "datasets/annotations.h"

PG_FUNCTION_INFO_V1(avc_frame_boxes);

#define SLACK 1.0f				/* pixels that a box may reach out */

const char *const avc_annotation_columns[AVC_ANN_ARRAYS] = {
	"ann_categories", "ann_bboxes", "ann_occluded", "ann_truncated",
	"ann_ignored", "ann_area"
};

static void
refuse(const char *dataset, AvcAnnotationArray which, const char *rule,
	   const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_CHECK_VIOLATION),
			 errmsg("column \"%s\" of dataset \"%s\": %s",
					avc_annotation_columns[which], dataset, rule),
			 errhint("%s", hint)));
}

/* The array behind a column, numbered from 1, with "ndim" dimensions. */
static ArrayType *
check_shape(const AvcAnnotations *annotations, AvcAnnotationArray which,
			int ndim, const char *dataset)
{
	ArrayType  *array = DatumGetArrayTypeP(annotations->value[which]);
	int			i;

	if (ARR_NDIM(array) != 0 && ARR_NDIM(array) != ndim)
		refuse(dataset, which,
			   psprintf("array has %d dimensions, not %d",
						ARR_NDIM(array), ndim),
			   ndim == 2 ? "Give one row of x1, y1, x2, y2 for each box, as in ARRAY[[0,0,10,10]]." :
			   "Give one element for each box.");
	for (i = 0; i < ARR_NDIM(array); i++)
	{
		if (ARR_LBOUND(array)[i] != 1)
			refuse(dataset, which, "array is not numbered from 1",
				   "Leave out the bounds of the array.");
	}
	return array;
}

static int
box_count(const ArrayType *array)
{
	return ARR_NDIM(array) == 0 ? 0 : ARR_DIMS(array)[0];
}

static void
check_boxes(const ArrayType *array, int width, int height,
			const char *dataset)
{
	const float4 *box = (const float4 *) ARR_DATA_PTR(array);
	int			count = box_count(array);
	int			i,
				j;

	if (count == 0)
		return;
	if (ARR_DIMS(array)[1] != 4)
		refuse(dataset, AVC_ANN_BBOXES,
			   psprintf("boxes have %d numbers, not 4", ARR_DIMS(array)[1]),
			   "A box is x1, y1, x2, y2 in pixels.");
	if (array_contains_nulls((ArrayType *) array))
		refuse(dataset, AVC_ANN_BBOXES, "a box contains NULL",
			   "A box is x1, y1, x2, y2 in pixels.");
	for (i = 0; i < count; i++, box += 4)
	{
		for (j = 0; j < 4; j++)
		{
			if (!isfinite(box[j]))
				refuse(dataset, AVC_ANN_BBOXES,
					   psprintf("box %d is not finite", i + 1),
					   "A box is x1, y1, x2, y2 in pixels.");
		}
		if (box[0] > box[2] || box[1] > box[3])
			refuse(dataset, AVC_ANN_BBOXES,
				   psprintf("box %d does not have x1 <= x2 and y1 <= y2",
							i + 1),
				   "A box is its upper left and lower right corner, not corner and size.");
		if (box[0] < -SLACK || box[1] < -SLACK ||
			box[2] > width + SLACK || box[3] > height + SLACK)
			refuse(dataset, AVC_ANN_BBOXES,
				   psprintf("box %d is not inside the %d x %d frame",
							i + 1, width, height),
				   "Clip the box to the frame, or check that it belongs to this image.");
	}
}

static void
check_area(const ArrayType *array, const char *dataset)
{
	Datum	   *values;
	bool	   *nulls;
	int			count;
	int			i;

	deconstruct_array((ArrayType *) array, FLOAT4OID, sizeof(float4), true,
					  TYPALIGN_INT, &values, &nulls, &count);
	for (i = 0; i < count; i++)
	{
		if (nulls[i])
			continue;
		if (!isfinite(DatumGetFloat4(values[i])) ||
			DatumGetFloat4(values[i]) < 0)
			refuse(dataset, AVC_ANN_AREA,
				   psprintf("area %d is not a finite number from 0 on", i + 1),
				   "Leave the area NULL to have width times height.");
	}
}

void
avc_annotations_check(const AvcAnnotations *annotations, int width,
					  int height, const char *dataset)
{
	ArrayType  *array;
	int			count;
	int			i;

	if (annotations->is_null[AVC_ANN_CATEGORIES])
	{
		for (i = AVC_ANN_BBOXES; i < AVC_ANN_ARRAYS; i++)
		{
			if (!annotations->is_null[i])
				refuse(dataset, i,
					   "array is given, but \"ann_categories\" is NULL",
					   "A frame without labels has NULL in all annotation columns; a labelled frame without boxes has empty arrays.");
		}
		return;
	}

	array = check_shape(annotations, AVC_ANN_CATEGORIES, 1, dataset);
	if (array_contains_nulls(array))
		refuse(dataset, AVC_ANN_CATEGORIES, "a category is NULL",
			   "Name the class of every box.");
	count = box_count(array);

	if (annotations->is_null[AVC_ANN_BBOXES])
		refuse(dataset, AVC_ANN_BBOXES,
			   "array is NULL, but \"ann_categories\" is given",
			   "Give one box for each category; a labelled frame without boxes has empty arrays.");
	for (i = AVC_ANN_BBOXES; i < AVC_ANN_ARRAYS; i++)
	{
		if (annotations->is_null[i])
			continue;
		array = check_shape(annotations, i, i == AVC_ANN_BBOXES ? 2 : 1,
							dataset);
		if (box_count(array) != count)
			refuse(dataset, i,
				   psprintf("array has %d elements, but \"ann_categories\" has %d",
							box_count(array), count),
				   "All annotation arrays of a frame have one element for each box.");
		if (i == AVC_ANN_BBOXES)
			check_boxes(array, width, height, dataset);
		else if (i == AVC_ANN_AREA)
			check_area(array, dataset);
	}
}

/* Element "number" (from 0) of a boolean array, NULL if it is missing. */
static Datum
optional_flag(ArrayType *array, int number, bool *is_null)
{
	int			subscript = number + 1;

	*is_null = true;
	if (array == NULL || number >= box_count(array))
		return (Datum) 0;
	return array_get_element(PointerGetDatum(array), 1, &subscript, -1, 1,
							 true, TYPALIGN_CHAR, is_null);
}

/*
 * frame_boxes(ann_categories, ann_bboxes, ann_occluded, ann_truncated,
 * ann_ignored, width, height): one row a box.  Unpacks the arrays once a
 * frame, where subscripts in SQL would fetch them from TOAST for each number.
 */
Datum
avc_frame_boxes(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	ArrayType  *boxes;
	const float4 *box;
	Datum	   *categories;
	bool	   *category_nulls;
	ArrayType  *flags[3];
	double		frame_area = 0;
	int			count;
	int			i,
				j;

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		return (Datum) 0;
	boxes = PG_GETARG_ARRAYTYPE_P(1);
	if (box_count(boxes) == 0)
		return (Datum) 0;
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false,
					  TYPALIGN_INT, &categories, &category_nulls, &count);
	if (ARR_NDIM(boxes) != 2 || ARR_DIMS(boxes)[1] != 4 ||
		ARR_DIMS(boxes)[0] != count || array_contains_nulls(boxes))
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("boxes are not an array of %d x 4 numbers", count)));
	if (!PG_ARGISNULL(5) && !PG_ARGISNULL(6))
		frame_area = (double) PG_GETARG_INT32(5) * PG_GETARG_INT32(6);

	for (i = 0; i < lengthof(flags); i++)
		flags[i] = PG_ARGISNULL(2 + i) ? NULL : PG_GETARG_ARRAYTYPE_P(2 + i);
	box = (const float4 *) ARR_DATA_PTR(boxes);
	for (i = 0; i < count; i++, box += 4)
	{
		Datum		values[10];
		bool		nulls[10] = {0};

		values[0] = Int32GetDatum(i + 1);
		values[1] = categories[i];
		nulls[1] = category_nulls[i];
		for (j = 0; j < 4; j++)
			values[2 + j] = Float4GetDatum(box[j]);
		nulls[6] = frame_area <= 0;
		values[6] = Float4GetDatum(nulls[6] ? 0 :
								   (float4) (100.0 * ((double) box[2] - box[0]) *
											 ((double) box[3] - box[1]) /
											 frame_area));
		for (j = 0; j < lengthof(flags); j++)
			values[7 + j] = optional_flag(flags[j], i, &nulls[7 + j]);
		tuplestore_putvalues(result->setResult, result->setDesc, values,
							 nulls);
	}
	return (Datum) 0;
}
