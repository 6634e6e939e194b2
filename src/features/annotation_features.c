/*
 * features/annotation_features.c
 *		Functions of the annotation arrays, for features and conditions.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "datasets/category.h"

PG_FUNCTION_INFO_V1(avc_has_category);
PG_FUNCTION_INFO_V1(avc_largest_box_area_pct);
PG_FUNCTION_INFO_V1(avc_scene_text);

static bool
is_category(Datum element, const char *name, size_t len)
{
	text	   *value = DatumGetTextPP(element);

	return avc_category_equal(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value),
							  name, len);
}

/* avc_category_equal() for a name that was folded before. */
static bool
is_wanted(text *value, text *name, const char *folded)
{
	if (VARSIZE_ANY_EXHDR(value) == VARSIZE_ANY_EXHDR(name) &&
		memcmp(VARDATA_ANY(value), VARDATA_ANY(name),
			   VARSIZE_ANY_EXHDR(name)) == 0)
		return true;
	return folded != NULL &&
		avc_category_fold(VARDATA_ANY(value),
						  VARSIZE_ANY_EXHDR(value)) == folded;
}

/*
 * has_category(ann_categories text[], VARIADIC wanted text[]): does the
 * frame have a box of any of the classes, in whatever spelling?
 */
Datum
avc_has_category(PG_FUNCTION_ARGS)
{
	Datum	   *categories;
	bool	   *category_nulls;
	int			category_count;
	Datum	   *wanted;
	bool	   *wanted_nulls;
	int			wanted_count;
	int			i,
				j;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false,
					  TYPALIGN_INT, &categories, &category_nulls,
					  &category_count);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), TEXTOID, -1, false,
					  TYPALIGN_INT, &wanted, &wanted_nulls, &wanted_count);
	for (j = 0; j < wanted_count; j++)
	{
		text	   *name;
		const char *folded;

		if (wanted_nulls[j])
			continue;
		name = DatumGetTextPP(wanted[j]);
		folded = avc_category_fold(VARDATA_ANY(name),
								   VARSIZE_ANY_EXHDR(name));
		for (i = 0; i < category_count; i++)
		{
			if (!category_nulls[i] &&
				is_wanted(DatumGetTextPP(categories[i]), name, folded))
				PG_RETURN_BOOL(true);
		}
	}
	PG_RETURN_BOOL(false);
}

/*
 * largest_box_area_pct(ann_categories text[], ann_bboxes real[], width int,
 * height int, category text): area of the largest box of the class in
 * percent of the frame; NULL if it has none.
 */
Datum
avc_largest_box_area_pct(PG_FUNCTION_ARGS)
{
	ArrayType  *boxes = PG_GETARG_ARRAYTYPE_P(1);
	double		frame_area = (double) PG_GETARG_INT32(2) * PG_GETARG_INT32(3);
	text	   *category = PG_GETARG_TEXT_PP(4);
	const float4 *box = (const float4 *) ARR_DATA_PTR(boxes);
	Datum	   *categories;
	bool	   *nulls;
	int			count;
	double		largest = -1;
	int			i;

	if (PG_GETARG_INT32(2) <= 0 || PG_GETARG_INT32(3) <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("width and height of a frame must be positive")));
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false,
					  TYPALIGN_INT, &categories, &nulls, &count);
	if (count == 0 && ARR_NDIM(boxes) == 0)
		PG_RETURN_NULL();
	if (ARR_NDIM(boxes) != 2 || ARR_DIMS(boxes)[0] != count ||
		ARR_DIMS(boxes)[1] != 4 || array_contains_nulls(boxes))
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("boxes are not an array of %d x 4 numbers", count),
				 errhint("Give one x1, y1, x2, y2 for each category.")));
	for (i = 0; i < count; i++, box += 4)
	{
		double		area = ((double) box[2] - box[0]) *
			((double) box[3] - box[1]);

		if (area > largest && !nulls[i] &&
			is_category(categories[i], VARDATA_ANY(category),
						VARSIZE_ANY_EXHDR(category)))
			largest = area;
	}
	if (largest < 0)
		PG_RETURN_NULL();
	PG_RETURN_FLOAT4((float4) (100.0 * largest / frame_area));
}

/* ---- text ------------------------------------------------------------ */

static int
compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

/* " with bus, car": each class once, in its folded spelling. */
static void
append_categories(StringInfo sentence, ArrayType *categories)
{
	Datum	   *values;
	bool	   *nulls;
	char	  **names;
	const char *before = " with ";
	int			name_count = 0;
	int			count;
	int			i;

	deconstruct_array(categories, TEXTOID, -1, false, TYPALIGN_INT, &values,
					  &nulls, &count);
	names = palloc(Max(count, 1) * sizeof(char *));
	for (i = 0; i < count; i++)
	{
		char	   *name;
		const char *folded;

		if (nulls[i])
			continue;
		name = TextDatumGetCString(values[i]);
		folded = avc_category_fold(name, strlen(name));
		names[name_count++] = folded == NULL ? name : unconstify(char *, folded);
	}
	qsort(names, name_count, sizeof(char *), compare_names);
	for (i = 0; i < name_count; i++)
	{
		if (i > 0 && strcmp(names[i], names[i - 1]) == 0)
			continue;
		appendStringInfo(sentence, "%s%s", before, names[i]);
		before = ", ";
	}
}

/*
 * scene_text(weather, scene, timeofday, ann_categories): a sentence such as
 * "night rainy scene on a highway with bus, car".  What is not known, NULL
 * or "undefined" in the labels, is left out.
 */
Datum
avc_scene_text(PG_FUNCTION_ARGS)
{
	static const struct
	{
		int			argument;
		const char *format;
	}			parts[] = {{2, "%s "}, {0, "%s scene"}, {1, " on a %s"}};
	StringInfoData sentence;
	int			i;

	initStringInfo(&sentence);
	for (i = 0; i < lengthof(parts); i++)
	{
		char	   *value = PG_ARGISNULL(parts[i].argument) ? NULL :
		text_to_cstring(PG_GETARG_TEXT_PP(parts[i].argument));

		if (value != NULL && value[0] != '\0' &&
			strcmp(value, "undefined") != 0)
			appendStringInfo(&sentence, parts[i].format, value);
		else if (parts[i].argument == 0)
			appendStringInfoString(&sentence, "scene");
	}
	if (!PG_ARGISNULL(3))
		append_categories(&sentence, PG_GETARG_ARRAYTYPE_P(3));
	PG_RETURN_TEXT_P(cstring_to_text_with_len(sentence.data, sentence.len));
}
