/*
 * experiments/suggest_survey.c
 *		Truths and misses of an evaluation, frame by frame and by category.
 *
 * A truth's category is that of the frame's annotation, not that of the
 * label map's class: under the map "coco" a rider is a person, but riders
 * are what a slice can be cut for.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "datasets/category.h"
#include "datasets/dataset.h"
#include "experiments/suggest.h"
#include "features/feature.h"
#include "slices/slice.h"

#define FETCH_ROWS 10000
#define MAX_CATEGORIES 200

/* A truth, as the matches have it. */
typedef struct Truth
{
	int64		frame_id;
	int32		number;			/* in the annotation arrays, from 1 */
	bool		is_found;
} Truth;

typedef struct Truths
{
	Truth	   *rows;			/* by frame */
	int64		count;
	int64		space;
} Truths;

Oid
avc_survey_dataset(const AvcEvaluationInfo *info)
{
	AvcSlice   *slice = avc_slice_find_by_id(info->slice_id, false);

	if (!OidIsValid(slice->dataset))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the dataset of slice %s was dropped", slice->name)));
	return slice->dataset;
}

int64
avc_survey_place(const AvcSurvey *survey, int64 frame_id)
{
	int64		low = 0;
	int64		high = survey->frame_count - 1;

	while (low <= high)
	{
		int64		middle = (low + high) / 2;

		if (survey->frame_ids[middle] == frame_id)
			return middle;
		if (survey->frame_ids[middle] < frame_id)
			low = middle + 1;
		else
			high = middle - 1;
	}
	return -1;
}

/* ---- matches -------------------------------------------------------- */

static void
add_truths(Truths *truths)
{
	TupleDesc	desc = SPI_tuptable->tupdesc;
	uint64		i;

	if (truths->count + (int64) SPI_processed > truths->space)
	{
		truths->space = 2 * truths->space + FETCH_ROWS;
		truths->rows = truths->rows == NULL ?
			palloc_extended(sizeof(Truth) * truths->space, MCXT_ALLOC_HUGE) :
			repalloc_huge(truths->rows, sizeof(Truth) * truths->space);
	}
	for (i = 0; i < SPI_processed; i++)
	{
		Truth	   *truth = &truths->rows[truths->count++];
		HeapTuple	row = SPI_tuptable->vals[i];
		bool		is_null;

		truth->frame_id = DatumGetInt64(SPI_getbinval(row, desc, 1, &is_null));
		truth->number = DatumGetInt32(SPI_getbinval(row, desc, 2, &is_null));
		truth->is_found = DatumGetBool(SPI_getbinval(row, desc, 3, &is_null));
	}
}

static void
read_truths(const AvcEvaluationInfo *info, double match_score, Truths *truths)
{
	AvcParam	params[] = {AVC_INT8(info->evaluation),
	AVC_FLOAT8(match_score)};
	MemoryContext context = CurrentMemoryContext;
	AvcRoleScope scope;
	Portal		cursor;

	memset(truths, 0, sizeof(*truths));
	avc_catalog_enter(&scope);
	SPI_connect();
	cursor = avc_spi_cursor("SELECT frame_id, truth_no, "
							"kind = 'true_positive' AND score >= $2 "
							"FROM _avcurate.matches WHERE evaluation = $1 "
							"AND kind IN ('true_positive', 'missed') "
							"ORDER BY frame_id", lengthof(params), params,
							true);
	for (;;)
	{
		MemoryContext old;

		CHECK_FOR_INTERRUPTS();
		SPI_cursor_fetch(cursor, true, FETCH_ROWS);
		if (SPI_processed == 0)
			break;
		old = MemoryContextSwitchTo(context);
		add_truths(truths);
		MemoryContextSwitchTo(old);
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(cursor);
	SPI_finish();
	avc_catalog_leave(&scope);
}

/* ---- categories ----------------------------------------------------- */

/* Place of a category in the counts, which grow by it; 0 if there are too many. */
static int
find_category(AvcSurvey *survey, Datum element)
{
	text	   *value = DatumGetTextPP(element);
	const char *folded = avc_category_fold(VARDATA_ANY(value),
										   VARSIZE_ANY_EXHDR(value));
	char	   *name = folded != NULL ? pstrdup(folded) : text_to_cstring(value);
	AvcTruthCounts *counts;
	int			c;

	for (c = 1; c <= survey->category_count; c++)
		if (strcmp(survey->counts[c].category, name) == 0)
		{
			pfree(name);
			return c;
		}
	if (survey->category_count == MAX_CATEGORIES)
		return 0;
	counts = &survey->counts[++survey->category_count];
	counts->category = name;
	counts->truths = palloc0_array(int32, (int64) survey->words * 64);
	counts->missed = palloc0_array(int32, (int64) survey->words * 64);
	counts->frames = palloc0_array(uint64, survey->words);
	return survey->category_count;
}

static void
count_truth(AvcTruthCounts *counts, int64 place, bool is_found)
{
	counts->truths[place]++;
	counts->missed[place] += !is_found;
	counts->frames[place / 64] |= UINT64CONST(1) << (place % 64);
}

/* Count a frame's truths by the categories of its annotations. */
static void
count_frame(AvcSurvey *survey, int64 place, const Truth *truths, int64 count,
			Datum categories)
{
	Datum	   *elements;
	bool	   *nulls;
	int			names;
	int64		i;

	deconstruct_array(DatumGetArrayTypeP(categories), TEXTOID, -1, false,
					  TYPALIGN_INT, &elements, &nulls, &names);
	for (i = 0; i < count; i++)
	{
		int			number = truths[i].number;
		int			c = 0;

		count_truth(&survey->counts[0], place, truths[i].is_found);
		/* annotations may have been changed since */
		if (number >= 1 && number <= names && !nulls[number - 1])
			c = find_category(survey, elements[number - 1]);
		if (c > 0)
			count_truth(&survey->counts[c], place, truths[i].is_found);
	}
}

/* ---- frames --------------------------------------------------------- */

/* Distinct frames of the truths, as a parameter. */
static AvcParam
frame_ids(const Truths *truths)
{
	int64	   *ids = palloc_extended(sizeof(int64) * (truths->count + 1),
									  MCXT_ALLOC_HUGE);
	int			count = 0;
	int64		i;

	for (i = 0; i < truths->count; i++)
		if (count == 0 || ids[count - 1] != truths->rows[i].frame_id)
			ids[count++] = truths->rows[i].frame_id;
	return avc_id_array(ids, count);
}

static void
make_counts(AvcSurvey *survey, int64 frames)
{
	survey->words = (int) ((frames + 63) / 64);
	survey->frame_ids = palloc_array(int64, frames + 1);
	survey->counts = palloc0_array(AvcTruthCounts, MAX_CATEGORIES + 1);
	survey->counts[0].truths = palloc0_array(int32, (int64) survey->words * 64);
	survey->counts[0].missed = palloc0_array(int32, (int64) survey->words * 64);
	survey->counts[0].frames = palloc0_array(uint64, survey->words);
}

/* Count the truths of the frames that the dataset still has. */
static void
count_truths(AvcSurvey *survey, const Truths *truths, Oid dataset)
{
	AvcParam	param = frame_ids(truths);
	AvcDataset *of = avc_dataset_find(dataset, false);
	MemoryContext context = CurrentMemoryContext;
	int64		at = 0;
	uint64		rows;
	uint64		i;

	SPI_connect();
	/* types are as they are read, whatever was done to the table */
	rows = avc_spi_exec(psprintf("SELECT frame_id::pg_catalog.int8, "
								 "ann_categories::pg_catalog.text[] "
								 "FROM ONLY %s WHERE frame_id "
								 "OPERATOR(pg_catalog.=) ANY ($1) "
								 "AND ann_categories IS NOT NULL "
								 "ORDER BY frame_id", of->quoted_name),
						1, &param, true, 0);
	MemoryContextSwitchTo(context);
	make_counts(survey, (int64) rows);
	for (i = 0; i < rows; i++)
	{
		bool		is_null;
		int64		frame = DatumGetInt64(avc_spi_column(i, "frame_id",
														 &is_null));
		int64		end;

		while (at < truths->count && truths->rows[at].frame_id < frame)
			at++;
		for (end = at; end < truths->count &&
			 truths->rows[end].frame_id == frame; end++)
			 /* nothing */ ;
		survey->frame_ids[survey->frame_count] = frame;
		count_frame(survey, survey->frame_count++, &truths->rows[at],
					end - at, avc_spi_column(i, "ann_categories", &is_null));
		at = end;
	}
	SPI_finish();
	MemoryContextSwitchTo(context);
}

AvcSurvey *
avc_survey_open(const AvcEvaluationInfo *info, double match_score)
{
	AvcSurvey  *survey = palloc0_object(AvcSurvey);
	Oid			dataset = avc_survey_dataset(info);
	Truths		truths;

	read_truths(info, match_score, &truths);
	count_truths(survey, &truths, dataset);
	if (truths.rows != NULL)
		pfree(truths.rows);
	return survey;
}
