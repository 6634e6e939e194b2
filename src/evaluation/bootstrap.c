/*
 * evaluation/bootstrap.c
 *		Figures of several evaluations of the same frames, on draws of them.
 *
 * A draw is a weight per frame (how often it was drawn), and precision and
 * recall are computed with these weights over the detections sorted once, so
 * a draw costs one pass and no copying.
 *
 * The stored matches are all detections and truths of the evaluations, so
 * they are matched again, at all thresholds.
 */
#include "postgres.h"

#include <float.h>
#include <math.h>

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "evaluation/bootstrap.h"
#include "evaluation/coco_eval.h"
#include "features/feature.h"

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
	Side	   *sides;			/* one an evaluation */
	int32	   *truth_frames;	/* frame of each truth that counts */
	int64		truth_space;
	int64	   *truths;			/* of each evaluation: must be as many */
} ComparedClass;

struct AvcBootstrap
{
	int			count;			/* evaluations */
	int			thresholds;		/* that are looked at, from IoU 0.5 */
	int64		frame_count;	/* of each evaluation */
	int64	   *frame_ids;		/* those with matches, ascending */
	int64		known_frames;
	ComparedClass *classes;		/* by label */
	int			class_count;
	double	   *scratch;		/* (2, most entries of a side) */
	int32	   *weights;		/* of the frames in frame_ids */
};

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

static AvcParam
evaluation_numbers(const AvcEvaluationInfo *infos, int count)
{
	int64	   *numbers = palloc_array(int64, count);
	int			i;

	for (i = 0; i < count; i++)
		numbers[i] = infos[i].evaluation;
	return avc_id_array(numbers, count);
}

/* The frames and classes of all evaluations. */
static void
read_frames_and_classes(AvcBootstrap *bootstrap, MemoryContext context,
						const AvcEvaluationInfo *infos)
{
	AvcParam	param = evaluation_numbers(infos, bootstrap->count);
	MemoryContext old;
	bool		is_null;
	uint64		rows;
	uint64		i;

	rows = avc_spi_exec("SELECT DISTINCT frame_id FROM _avcurate.matches "
						"WHERE evaluation = ANY ($1) ORDER BY frame_id",
						1, &param, true, 0);
	bootstrap->frame_ids = MemoryContextAllocHuge(context,
												   sizeof(int64) * (rows + 1));
	for (i = 0; i < rows; i++)
		bootstrap->frame_ids[i] =
			DatumGetInt64(avc_spi_column(i, "frame_id", &is_null));
	bootstrap->known_frames = (int64) rows;
	SPI_freetuptable(SPI_tuptable);

	rows = avc_spi_exec("SELECT label, pg_catalog.min(category) AS category "
						"FROM _avcurate.evaluation_classes "
						"WHERE evaluation = ANY ($1) "
						"GROUP BY label ORDER BY label", 1, &param, true, 0);
	old = MemoryContextSwitchTo(context);
	bootstrap->classes = palloc0(sizeof(ComparedClass) * (rows + 1));
	for (i = 0; i < rows; i++)
	{
		ComparedClass *class = &bootstrap->classes[i];

		class->label = DatumGetInt32(avc_spi_column(i, "label", &is_null));
		class->category = TextDatumGetCString(avc_spi_column(i, "category",
															 &is_null));
		class->sides = palloc0_array(Side, bootstrap->count);
		class->truths = palloc0_array(int64, bootstrap->count);
	}
	MemoryContextSwitchTo(old);
	bootstrap->class_count = (int) rows;
	SPI_freetuptable(SPI_tuptable);
}

static int32
find_frame(const AvcBootstrap *bootstrap, int64 frame_id)
{
	int64		low = 0;
	int64		high = bootstrap->known_frames - 1;

	while (low < high)
	{
		int64		middle = (low + high) / 2;

		if (bootstrap->frame_ids[middle] < frame_id)
			low = middle + 1;
		else
			high = middle;
	}
	return (int32) low;
}

static ComparedClass *
find_class(const AvcBootstrap *bootstrap, int32 label)
{
	int			i;

	for (i = 0; i < bootstrap->class_count; i++)
		if (bootstrap->classes[i].label == label)
			return &bootstrap->classes[i];
	elog(ERROR, "matches of label %d have no class", label);
	return NULL;
}

/* Match one frame and class, and keep what the figures need. */
static void
close_group(AvcBootstrap *bootstrap, BoxGroup *group, int side)
{
	ComparedClass *class = find_class(bootstrap, group->label);
	Side	   *to = &class->sides[side];
	AvcCocoOutcome outcomes[AVC_COCO_DETECTIONS];
	int64		positives[AVC_COCO_AREAS] = {0};
	int32		frame = find_frame(bootstrap, group->frame_id);
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
	for (i = 0; side == 0 && i < positives[AVC_AREA_ALL]; i++)
	{
		class->truth_frames = grow(class->truth_frames, class->truths[0] + i,
								   &class->truth_space, sizeof(int32));
		class->truth_frames[class->truths[0] + i] = frame;
	}
	class->truths[side] += positives[AVC_AREA_ALL];
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
read_side(AvcBootstrap *bootstrap, MemoryContext context, int64 evaluation,
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
				close_group(bootstrap, &group, side);
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
		close_group(bootstrap, &group, side);
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

/* An error unless every evaluation has the truths of the first one. */
static void
check_same_truths(const AvcBootstrap *bootstrap,
				  const AvcEvaluationInfo *infos)
{
	int			c;
	int			side;

	for (c = 0; c < bootstrap->class_count; c++)
	{
		const ComparedClass *class = &bootstrap->classes[c];

		for (side = 1; side < bootstrap->count; side++)
			if (class->truths[side] != class->truths[0])
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("evaluations %lld and %lld have different truths of category \"%s\"",
								(long long) infos[0].evaluation,
								(long long) infos[side].evaluation,
								class->category),
						 errhint("Compare evaluations that used the same label map.")));
	}
}

static void
check_same_frames(const AvcEvaluationInfo *infos, int count)
{
	int			i;

	for (i = 1; i < count; i++)
		if (infos[0].slice_id != infos[i].slice_id ||
			infos[0].version != infos[i].version ||
			infos[0].frames != infos[i].frames)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("evaluations %lld and %lld are not of the same frames",
							(long long) infos[0].evaluation,
							(long long) infos[i].evaluation),
					 errhint("Evaluate both checkpoints on the same version of a slice, with the same max_frames.")));
}

/* Sort the entries of all sides and make room for work on the largest. */
static void
sort_entries(AvcBootstrap *bootstrap)
{
	int64		most = 1;
	int			c;
	int			side;

	for (c = 0; c < bootstrap->class_count; c++)
		for (side = 0; side < bootstrap->count; side++)
		{
			Side	   *one = &bootstrap->classes[c].sides[side];

			qsort(one->entries, one->count, sizeof(Entry), compare_entries);
			most = Max(most, one->count);
		}
	bootstrap->scratch = palloc_extended(sizeof(double) * 2 * most,
										 MCXT_ALLOC_HUGE);
	bootstrap->weights = palloc_extended(sizeof(int32) *
										 (bootstrap->known_frames + 1),
										 MCXT_ALLOC_HUGE);
}

AvcBootstrap *
avc_bootstrap_open(const AvcEvaluationInfo *infos, int count, bool ap50_only)
{
	AvcBootstrap *bootstrap = palloc0_object(AvcBootstrap);
	MemoryContext context = CurrentMemoryContext;
	AvcRoleScope scope;
	int			side;

	check_same_frames(infos, count);
	bootstrap->count = count;
	bootstrap->thresholds = ap50_only ? 1 : AVC_COCO_THRESHOLDS;
	bootstrap->frame_count = infos[0].frames;
	SPI_connect();
	avc_catalog_enter(&scope);
	read_frames_and_classes(bootstrap, context, infos);
	for (side = 0; side < count; side++)
		read_side(bootstrap, context, infos[side].evaluation, side);
	avc_catalog_leave(&scope);
	SPI_finish();
	check_same_truths(bootstrap, infos);
	sort_entries(bootstrap);
	return bootstrap;
}

int
avc_bootstrap_rows(const AvcBootstrap *bootstrap)
{
	return bootstrap->class_count + 1;
}

const char *
avc_bootstrap_category(const AvcBootstrap *bootstrap, int row)
{
	return row == 0 ? NULL : bootstrap->classes[row - 1].category;
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

/* Figures of one class and each evaluation; false without truths. */
static bool
class_figures(const AvcBootstrap *bootstrap, const ComparedClass *class,
			  AvcFigureRow *figures)
{
	int64		positives = 0;
	int64		i;
	int			side;
	int			t;

	for (i = 0; i < class->truths[0]; i++)
		positives += bootstrap->weights[class->truth_frames[i]];
	if (positives == 0)
		return false;
	for (side = 0; side < bootstrap->count; side++)
	{
		double		sum = 0;

		for (t = 0; t < bootstrap->thresholds; t++)
		{
			double		recall;
			double		ap = weighted_ap(&class->sides[side], t,
										 bootstrap->weights, positives,
										 bootstrap->scratch, &recall);

			sum += ap;
			if (t == 0)
			{
				figures[side][AVC_FIGURE_AP50] = ap;
				figures[side][AVC_FIGURE_RECALL50] = recall;
			}
		}
		figures[side][AVC_FIGURE_AP] =
			bootstrap->thresholds == AVC_COCO_THRESHOLDS ?
			sum / AVC_COCO_THRESHOLDS : NAN;
	}
	return true;
}

/* All figures under the weights. */
static void
all_figures(const AvcBootstrap *bootstrap, AvcFigureRow *figures)
{
	int			width = bootstrap->count;
	int			found = 0;
	int			c;
	int			side;
	int			f;

	memset(figures, 0, sizeof(AvcFigureRow) * width);
	for (c = 0; c < bootstrap->class_count; c++)
	{
		AvcFigureRow *row = figures + (c + 1) * width;
		bool		has = class_figures(bootstrap, &bootstrap->classes[c],
										row);

		found += has;
		for (side = 0; side < width; side++)
			for (f = 0; f < AVC_FIGURES; f++)
			{
				if (has)
					figures[side][f] += row[side][f];
				else
					row[side][f] = NAN;
			}
	}
	for (side = 0; side < width; side++)
		for (f = 0; f < AVC_FIGURES; f++)
			figures[side][f] /= found;	/* NaN for none */
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
draw_weights(AvcBootstrap *bootstrap, uint64 seed, uint64 draw)
{
	int32	   *weights = bootstrap->weights;
	uint64		frames = (uint64) bootstrap->frame_count;
	uint64		i;

	memset(weights, 0, sizeof(int32) * bootstrap->known_frames);
	for (i = 0; i < frames; i++)
	{
		uint64		number = random_number(seed, draw * frames + i) >> 32;
		uint64		frame = number * frames >> 32;

		if (frame < (uint64) bootstrap->known_frames)
			weights[frame]++;
	}
}

void
avc_bootstrap_whole(AvcBootstrap *bootstrap, AvcFigureRow *figures)
{
	int64		i;

	for (i = 0; i < bootstrap->known_frames; i++)
		bootstrap->weights[i] = 1;
	all_figures(bootstrap, figures);
}

void
avc_bootstrap_draw(AvcBootstrap *bootstrap, uint64 seed, uint64 draw,
				   AvcFigureRow *figures)
{
	draw_weights(bootstrap, seed, draw);
	all_figures(bootstrap, figures);
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

bool
avc_bootstrap_interval(double *differences, int64 count, double *low,
					   double *high)
{
	int64		kept = 0;
	int64		i;

	for (i = 0; i < count; i++)
		if (!isnan(differences[i]))
			differences[kept++] = differences[i];
	if (kept == 0)
		return false;
	qsort(differences, kept, sizeof(double), compare_doubles);
	*low = quantile(differences, kept, 0.025);
	*high = quantile(differences, kept, 0.975);
	return true;
}
