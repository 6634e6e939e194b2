/*
 * evaluation/compare.c
 *		compare_evaluations(): is the difference more than luck?
 *
 * Paired bootstrap: frames are drawn with replacement, the same draw for both
 * evaluations, and each figure's difference is computed on it; the middle 95
 * percent of the differences are the interval.  A draw is a weight per frame
 * (how often it was drawn), and precision and recall are computed with these
 * weights over the detections sorted once, so a draw costs one pass and no
 * copying.
 *
 * The stored matches are all detections and truths of the evaluations, so
 * they are matched again, at all thresholds.
 */
#include "postgres.h"

#include <float.h>
#include <math.h>

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "evaluation/coco_eval.h"
#include "evaluation/result.h"

#define MAX_RESAMPLES 1000000
#define GOLDEN UINT64CONST(0x9E3779B97F4A7C15)

/* One detection; bit t of the masks is IoU threshold t. */
typedef struct Entry
{
	double		score;
	int32		number;			/* order of equal scores */
	int32		frame;			/* index into the weights */
	uint16		matched;
	uint16		ignored;
} Entry;

/* A class in one evaluation. */
typedef struct Side
{
	Entry	   *entries;		/* by falling score */
	int64		count;
	int64		space;
} Side;

typedef struct ComparedClass
{
	int32		label;
	char	   *category;
	Side		sides[2];		/* base, tuned */
	int32	   *truth_frames;	/* frame of each truth that counts */
	int64		truths;
	int64		truth_space;
	int64		truths_of_tuned;	/* must be as many */
} ComparedClass;

enum Figure
{
	FIGURE_AP, FIGURE_AP50, FIGURE_RECALL50, FIGURES
};

static const char *const figure_names[FIGURES] = {"ap", "ap50", "recall50"};

typedef struct Comparison
{
	int64		frame_count;	/* of either evaluation */
	int64	   *frame_ids;		/* those with matches, ascending */
	int64		known_frames;
	ComparedClass *classes;		/* by label */
	int			class_count;
	double	   *scratch;		/* (2, most entries of a side) */
} Comparison;

/* Boxes of one frame and class while they are read. */
typedef struct BoxGroup
{
	AvcCocoTruth *truths;
	int64		truth_count;
	int64		truth_space;
	AvcCocoDetection detections[AVC_COCO_DETECTIONS];
	int			detection_count;
	int64		frame_id;
	int32		label;
} BoxGroup;

PG_FUNCTION_INFO_V1(avc_compare_evaluations);

/* Grow an array of the current context to hold one element more. */
static void *
grow(void *array, int64 count, int64 *space, Size element)
{
	if (count < *space)
		return array;
	*space = Max(2 * *space, 64);
	if (array == NULL)
		return palloc_extended(element * *space, MCXT_ALLOC_HUGE);
	return repalloc_huge(array, element * *space);
}

/* The frames and classes of both evaluations. */
static void
read_frames_and_classes(Comparison *comparison, MemoryContext context,
						int64 base, int64 tuned)
{
	AvcParam	params[] = {AVC_INT8(base), AVC_INT8(tuned)};
	bool		is_null;
	uint64		rows;
	uint64		i;

	rows = avc_spi_exec("SELECT DISTINCT frame_id FROM _avcurate.matches "
						"WHERE evaluation IN ($1, $2) ORDER BY frame_id",
						2, params, true, 0);
	comparison->frame_ids = MemoryContextAllocHuge(context,
												   sizeof(int64) * (rows + 1));
	for (i = 0; i < rows; i++)
		comparison->frame_ids[i] =
			DatumGetInt64(avc_spi_column(i, "frame_id", &is_null));
	comparison->known_frames = (int64) rows;
	SPI_freetuptable(SPI_tuptable);

	rows = avc_spi_exec("SELECT label, pg_catalog.min(category) AS category "
						"FROM _avcurate.evaluation_classes "
						"WHERE evaluation IN ($1, $2) "
						"GROUP BY label ORDER BY label", 2, params, true, 0);
	comparison->classes = MemoryContextAllocZero(context,
												 sizeof(ComparedClass) *
												 (rows + 1));
	for (i = 0; i < rows; i++)
	{
		ComparedClass *class = &comparison->classes[i];

		class->label = DatumGetInt32(avc_spi_column(i, "label", &is_null));
		class->category =
			MemoryContextStrdup(context,
								TextDatumGetCString(avc_spi_column(i, "category",
																   &is_null)));
	}
	comparison->class_count = (int) rows;
	SPI_freetuptable(SPI_tuptable);
}

static int32
find_frame(const Comparison *comparison, int64 frame_id)
{
	int64		low = 0;
	int64		high = comparison->known_frames - 1;

	while (low < high)
	{
		int64		middle = (low + high) / 2;

		if (comparison->frame_ids[middle] < frame_id)
			low = middle + 1;
		else
			high = middle;
	}
	return (int32) low;
}

static ComparedClass *
find_class(const Comparison *comparison, int32 label)
{
	int			i;

	for (i = 0; i < comparison->class_count; i++)
		if (comparison->classes[i].label == label)
			return &comparison->classes[i];
	elog(ERROR, "matches of label %d have no class", label);
	return NULL;
}

/* Match one frame and class, and keep what the figures need. */
static void
close_group(Comparison *comparison, BoxGroup *group, int side)
{
	ComparedClass *class = find_class(comparison, group->label);
	Side	   *to = &class->sides[side];
	AvcCocoOutcome outcomes[AVC_COCO_DETECTIONS];
	int64		positives[AVC_COCO_AREAS] = {0};
	int32		frame = find_frame(comparison, group->frame_id);
	uint64		mask = (1 << AVC_COCO_THRESHOLDS) - 1;
	AvcCocoImage image = {group->truths, (int) group->truth_count,
		group->detections, group->detection_count
	};
	void	   *scratch;
	int64		i;

	scratch = palloc(avc_coco_match_scratch(group->truth_count,
											group->detection_count) + 1);
	avc_coco_match(&image, scratch, outcomes, positives);
	pfree(scratch);
	for (i = 0; i < group->detection_count; i++)
	{
		Entry	   *entry;

		to->entries = grow(to->entries, to->count, &to->space, sizeof(Entry));
		entry = &to->entries[to->count];
		entry->score = outcomes[i].score;
		entry->number = (int32) to->count++;
		entry->frame = frame;
		entry->matched = (uint16) (outcomes[i].matched & mask);
		entry->ignored = (uint16) (outcomes[i].ignored & mask);
	}
	if (side == 1)
		class->truths_of_tuned += positives[AVC_AREA_ALL];
	for (i = 0; side == 0 && i < positives[AVC_AREA_ALL]; i++)
	{
		class->truth_frames = grow(class->truth_frames, class->truths,
								   &class->truth_space, sizeof(int32));
		class->truth_frames[class->truths++] = frame;
	}
	group->truth_count = group->detection_count = 0;
}

/* x, y, width, height of a stored box. */
static void
read_box(Datum value, double box[4])
{
	ArrayType  *array = DatumGetArrayTypeP(value);
	const float4 *corner = (const float4 *) ARR_DATA_PTR(array);

	if (ARR_NDIM(array) != 1 || ARR_DIMS(array)[0] != 4 ||
		ARR_HASNULL(array))
		elog(ERROR, "stored box is not four numbers");
	box[0] = corner[0];
	box[1] = corner[1];
	box[2] = (double) corner[2] - corner[0];
	box[3] = (double) corner[3] - corner[1];
}

/* Columns of the query in read_side. */
enum BoxColumn
{
	BOX_FRAME = 1, BOX_LABEL, BOX_DETECTION, BOX_NO, BOX_BOX, BOX_SCORE,
	BOX_CROWD
};

static void
add_box(BoxGroup *group, HeapTuple row, TupleDesc desc)
{
	bool		is_null;
	Datum		box = SPI_getbinval(row, desc, BOX_BOX, &is_null);

	if (DatumGetInt32(SPI_getbinval(row, desc, BOX_DETECTION, &is_null)))
	{
		AvcCocoDetection *detection;

		if (group->detection_count == AVC_COCO_DETECTIONS)
			elog(ERROR, "frame %lld has too many stored detections",
				 (long long) group->frame_id);
		detection = &group->detections[group->detection_count++];
		read_box(box, detection->box);
		detection->score = DatumGetFloat4(SPI_getbinval(row, desc, BOX_SCORE,
														&is_null));
	}
	else
	{
		AvcCocoTruth *truth;

		group->truths = grow(group->truths, group->truth_count,
							 &group->truth_space, sizeof(AvcCocoTruth));
		truth = &group->truths[group->truth_count++];
		read_box(box, truth->box);
		truth->area = truth->box[2] * truth->box[3];
		truth->crowd = DatumGetBool(SPI_getbinval(row, desc, BOX_CROWD,
												  &is_null));
	}
}

/* Read one evaluation's boxes, frame by frame and class by class. */
static void
read_side(Comparison *comparison, MemoryContext context, int64 evaluation,
		  int side)
{
	Oid			type = INT8OID;
	Datum		value = Int64GetDatum(evaluation);
	BoxGroup		group = {0};
	Portal		cursor;
	MemoryContext old;

	cursor = SPI_cursor_open_with_args(NULL,
									   "SELECT frame_id, label, 0, truth_no, truth_box, NULL::real, "
									   "pg_catalog.bool_or(kind = 'ignored') "
									   "FROM _avcurate.matches "
									   "WHERE evaluation = $1 AND truth_box IS NOT NULL "
									   "GROUP BY frame_id, label, truth_no, truth_box "
									   "UNION ALL "
									   "SELECT frame_id, label, 1, detection_no, box, score, false "
									   "FROM _avcurate.matches "
									   "WHERE evaluation = $1 AND box IS NOT NULL "
									   "ORDER BY 1, 2, 3, 4",
									   1, &type, &value, NULL, true,
									   CURSOR_OPT_NO_SCROLL);
	for (;;)
	{
		uint64		i;

		CHECK_FOR_INTERRUPTS();
		SPI_cursor_fetch(cursor, true, 10000);
		if (SPI_processed == 0)
			break;
		old = MemoryContextSwitchTo(context);
		for (i = 0; i < SPI_processed; i++)
		{
			HeapTuple	row = SPI_tuptable->vals[i];
			TupleDesc	desc = SPI_tuptable->tupdesc;
			bool		is_null;
			int64		frame;
			int32		label;

			frame = DatumGetInt64(SPI_getbinval(row, desc, BOX_FRAME,
												&is_null));
			label = DatumGetInt32(SPI_getbinval(row, desc, BOX_LABEL,
												&is_null));
			if (group.truth_count + group.detection_count > 0 &&
				(frame != group.frame_id || label != group.label))
				close_group(comparison, &group, side);
			group.frame_id = frame;
			group.label = label;
			add_box(&group, row, desc);
		}
		MemoryContextSwitchTo(old);
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(cursor);
	old = MemoryContextSwitchTo(context);
	if (group.truth_count + group.detection_count > 0)
		close_group(comparison, &group, side);
	MemoryContextSwitchTo(old);
}

static int
compare_entries(const void *a, const void *b)
{
	const Entry *x = a;
	const Entry *y = b;

	if (x->score != y->score)
		return x->score > y->score ? -1 : 1;
	return (x->number > y->number) - (x->number < y->number);
}

static void
read_comparison(Comparison *comparison, const AvcEvaluationInfo infos[2])
{
	MemoryContext context = CurrentMemoryContext;
	AvcRoleScope scope;
	int64		most = 1;
	int			c;
	int			side;

	memset(comparison, 0, sizeof(*comparison));
	comparison->frame_count = infos[0].frames;
	SPI_connect();
	avc_catalog_enter(&scope);
	read_frames_and_classes(comparison, context, infos[0].evaluation,
							infos[1].evaluation);
	for (side = 0; side < 2; side++)
		read_side(comparison, context, infos[side].evaluation, side);
	avc_catalog_leave(&scope);
	SPI_finish();
	for (c = 0; c < comparison->class_count; c++)
	{
		ComparedClass *class = &comparison->classes[c];

		if (class->truths != class->truths_of_tuned)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("evaluations %lld and %lld have different truths of category \"%s\"",
							(long long) infos[0].evaluation,
							(long long) infos[1].evaluation, class->category),
					 errhint("Compare evaluations that used the same label map.")));
		for (side = 0; side < 2; side++)
		{
			qsort(class->sides[side].entries, class->sides[side].count,
				  sizeof(Entry), compare_entries);
			most = Max(most, class->sides[side].count);
		}
	}
	comparison->scratch = palloc_extended(sizeof(double) * 2 * most,
										  MCXT_ALLOC_HUGE);
}

/*
 * Average precision at a threshold with weighted frames, and the final
 * recall.  A detection of weight w is w of equal score.
 */
static double
weighted_ap(const Side *side, int threshold, const int32 *weights,
			int64 positives, double *scratch, double *final_recall)
{
	double	   *recall = scratch;
	double	   *precision = scratch + side->count;
	uint16		bit = 1 << threshold;
	int64		tp = 0;
	int64		fp = 0;
	int64		n = 0;
	int64		i;

	for (i = 0; i < side->count; i++)
	{
		const Entry *entry = &side->entries[i];
		int32		weight = weights[entry->frame];

		if (weight == 0 || (entry->ignored & bit))
			continue;
		if (!(entry->matched & bit))
		{
			fp += weight;
			continue;
		}
		tp += weight;
		recall[n] = (double) tp / positives;
		precision[n] = tp / ((double) (tp + fp) + DBL_EPSILON);
		n++;
	}
	*final_recall = (double) tp / positives;
	return avc_coco_average_precision(recall, precision, n);
}

/* Figures of one class under some weights; false without truths. */
static bool
class_figures(const Comparison *comparison, const ComparedClass *class,
			  const int32 *weights, double figures[2][FIGURES])
{
	int64		positives = 0;
	int64		i;
	int			side;
	int			t;

	for (i = 0; i < class->truths; i++)
		positives += weights[class->truth_frames[i]];
	if (positives == 0)
		return false;
	for (side = 0; side < 2; side++)
	{
		double		sum = 0;

		for (t = 0; t < AVC_COCO_THRESHOLDS; t++)
		{
			double		recall;
			double		ap = weighted_ap(&class->sides[side], t, weights,
										 positives, comparison->scratch,
										 &recall);

			sum += ap;
			if (t == 0)
			{
				figures[side][FIGURE_AP50] = ap;
				figures[side][FIGURE_RECALL50] = recall;
			}
		}
		figures[side][FIGURE_AP] = sum / AVC_COCO_THRESHOLDS;
	}
	return true;
}

/*
 * All figures under some weights: row 0 is the mean over classes, row c + 1
 * is class c.  What has no truths is NaN.
 */
static void
all_figures(const Comparison *comparison, const int32 *weights,
			double (*rows)[2][FIGURES])
{
	int			found = 0;
	int			c;
	int			side;
	int			f;

	memset(rows[0], 0, sizeof(rows[0]));
	for (c = 0; c < comparison->class_count; c++)
	{
		bool		has = class_figures(comparison, &comparison->classes[c],
										weights, rows[c + 1]);

		found += has;
		for (side = 0; side < 2; side++)
			for (f = 0; f < FIGURES; f++)
			{
				if (has)
					rows[0][side][f] += rows[c + 1][side][f];
				else
					rows[c + 1][side][f] = NAN;
			}
	}
	for (side = 0; side < 2; side++)
		for (f = 0; f < FIGURES; f++)
			rows[0][side][f] /= found;	/* NaN for none */
}

/* Number k of a stream: the same numbers for the same seed everywhere. */
static uint64
random_number(uint64 seed, uint64 k)
{
	uint64		z = seed * GOLDEN + (k + 1) * UINT64CONST(0xD1342543DE82EF95);

	z = (z ^ (z >> 30)) * UINT64CONST(0xBF58476D1CE4E5B9);
	z = (z ^ (z >> 27)) * UINT64CONST(0x94D049BB133111EB);
	return z ^ (z >> 31);
}

/* Draw as many frames as there are; those without a match weigh nothing. */
static void
draw_weights(const Comparison *comparison, uint64 seed, uint64 draw,
			 int32 *weights)
{
	uint64		frames = (uint64) comparison->frame_count;
	uint64		i;

	memset(weights, 0, sizeof(int32) * comparison->known_frames);
	for (i = 0; i < frames; i++)
	{
		uint64		number = random_number(seed, draw * frames + i) >> 32;
		uint64		frame = number * frames >> 32;

		if (frame < (uint64) comparison->known_frames)
			weights[frame]++;
	}
}

static int
compare_doubles(const void *a, const void *b)
{
	double		x = *(const double *) a;
	double		y = *(const double *) b;

	return (x > y) - (x < y);
}

/* Quantile of sorted values, linear between neighbours. */
static double
quantile(const double *values, int64 count, double q)
{
	double		place = q * (count - 1);
	int64		low = (int64) place;

	if (low + 1 >= count)
		return values[count - 1];
	return values[low] + (place - low) * (values[low + 1] - values[low]);
}

/* One row of the result; differences (NaN left out) are sorted in place. */
static void
put_row(ReturnSetInfo *result, const char *metric, double base, double tuned,
		double *differences, int64 count)
{
	Datum		values[6];
	bool		nulls[6] = {false};
	int64		kept = 0;
	int64		i;

	for (i = 0; i < count; i++)
		if (!isnan(differences[i]))
			differences[kept++] = differences[i];
	values[0] = CStringGetTextDatum(metric);
	values[1] = Float8GetDatum(base);
	values[2] = Float8GetDatum(tuned);
	values[3] = Float8GetDatum(tuned - base);
	nulls[4] = nulls[5] = kept == 0;
	if (kept > 0)
	{
		qsort(differences, kept, sizeof(double), compare_doubles);
		values[4] = Float8GetDatum(quantile(differences, kept, 0.025));
		values[5] = Float8GetDatum(quantile(differences, kept, 0.975));
	}
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

static void
check_same_frames(const AvcEvaluationInfo infos[2])
{
	if (infos[0].slice_id != infos[1].slice_id ||
		infos[0].version != infos[1].version ||
		infos[0].frames != infos[1].frames)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("evaluations %lld and %lld are not of the same frames",
						(long long) infos[0].evaluation,
						(long long) infos[1].evaluation),
				 errhint("Evaluate both checkpoints on the same version of a slice, with the same max_frames.")));
}

/* Figures of the whole, then "resamples" draws, then one row a figure. */
static void
compare(ReturnSetInfo *result, const Comparison *comparison, int resamples,
		uint64 seed)
{
	int			rows = comparison->class_count + 1;
	double		(*whole)[2][FIGURES] = palloc(sizeof(*whole) * rows);
	double		(*drawn)[2][FIGURES] = palloc(sizeof(*drawn) * rows);
	int32	   *weights = palloc_extended(sizeof(int32) *
										  (comparison->known_frames + 1),
										  MCXT_ALLOC_HUGE);
	double	   *differences = palloc_extended(sizeof(double) * rows *
											  FIGURES * (resamples + 1),
											  MCXT_ALLOC_HUGE);
	int64		i;
	int			row;
	int			f;

	for (i = 0; i < comparison->known_frames; i++)
		weights[i] = 1;
	all_figures(comparison, weights, whole);
	for (i = 0; i < resamples; i++)
	{
		CHECK_FOR_INTERRUPTS();
		draw_weights(comparison, seed, (uint64) i, weights);
		all_figures(comparison, weights, drawn);
		for (row = 0; row < rows; row++)
			for (f = 0; f < FIGURES; f++)
				differences[((int64) row * FIGURES + f) * resamples + i] =
					drawn[row][1][f] - drawn[row][0][f];
	}
	for (row = 0; row < rows; row++)
		for (f = 0; f < FIGURES; f++)
		{
			const char *name = figure_names[f];

			if (isnan(whole[row][0][f]))
				continue;
			if (row > 0)
				name = psprintf("%s %s", name,
								comparison->classes[row - 1].category);
			put_row(result, name, whole[row][0][f], whole[row][1][f],
					differences + ((int64) row * FIGURES + f) * resamples,
					resamples);
		}
}

Datum
avc_compare_evaluations(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	int32		resamples = PG_GETARG_INT32(2);
	AvcEvaluationInfo infos[2];
	Comparison	comparison;

	if (resamples < 0 || resamples > MAX_RESAMPLES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"resamples\" is %d, but must be between 0 and %d",
						resamples, MAX_RESAMPLES)));
	InitMaterializedSRF(fcinfo, 0);
	avc_evaluation_find(&infos[0], PG_GETARG_INT64(0));
	avc_evaluation_find(&infos[1], PG_GETARG_INT64(1));
	check_same_frames(infos);
	read_comparison(&comparison, infos);
	compare(result, &comparison, resamples, (uint64) PG_GETARG_INT64(3));
	return (Datum) 0;
}
