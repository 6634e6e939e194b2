/*
 * evaluation/lancedb_eval.c
 *		The figures of LanceDB's training example.
 *
 * They differ from COCO's and are kept for comparison with that example.
 * Per image, only detections of classes that the image's truths hold count.
 * A detection takes its best truth of the class, at IoU 0.5 or more; if that
 * truth is taken already, no second one is tried.  Average precision is the
 * sum over detections by falling score of (rise of recall) x precision, not
 * interpolated, and the first detection's own rise is left out.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "evaluation/lancedb_eval.h"

typedef struct Verdict
{
	double		score;
	int64		number;			/* keeps the order of equal scores */
	bool		is_hit;
} Verdict;

typedef struct ClassVerdicts
{
	Verdict    *items;
	int64		count;
	int64		space;
	int64		truths;
} ClassVerdicts;

struct AvcLancedbEval
{
	MemoryContext context;
	int			category_count;
	ClassVerdicts *classes;
};

AvcLancedbEval *
avc_lancedb_create(MemoryContext context, int categories)
{
	AvcLancedbEval *eval = MemoryContextAllocZero(context,
												  sizeof(AvcLancedbEval));

	eval->context = context;
	eval->category_count = categories;
	eval->classes = MemoryContextAllocZero(context, sizeof(ClassVerdicts) *
										   Max(categories, 1));
	return eval;
}

static void
add_verdict(AvcLancedbEval *eval, ClassVerdicts *class, double score,
			bool is_hit)
{
	if (class->count == class->space)
	{
		class->space = Max(2 * class->space, 256);
		if (class->items == NULL)
			class->items = MemoryContextAllocHuge(eval->context,
												  sizeof(Verdict) *
												  class->space);
		else
			class->items = repalloc_huge(class->items,
										 sizeof(Verdict) * class->space);
	}
	class->items[class->count].score = score;
	class->items[class->count].number = class->count;
	class->items[class->count].is_hit = is_hit;
	class->count++;
}

static double
plain_iou(const double a[4], const double b[4])
{
	double		w = Min(a[0] + a[2], b[0] + b[2]) - Max(a[0], b[0]);
	double		h = Min(a[1] + a[3], b[1] + b[3]) - Max(a[1], b[1]);
	double		inter = Max(w, 0.0) * Max(h, 0.0);

	return inter / Max(a[2] * a[3] + b[2] * b[3] - inter, 1e-6);
}

void
avc_lancedb_add(AvcLancedbEval *eval, const AvcImageTruth *truths,
				int truth_count, const AvcImageDetection *detections,
				int detection_count)
{
	bool	   *taken = palloc0(Max(truth_count, 1));
	int			d;
	int			t;

	for (t = 0; t < truth_count; t++)
		if (!truths[t].truth.crowd)
			eval->classes[truths[t].category].truths++;
	for (d = 0; d < detection_count; d++)
	{
		const AvcImageDetection *detection = &detections[d];
		double		best = -1;
		int			found = -1;

		for (t = 0; t < truth_count; t++)
		{
			double		iou;

			if (truths[t].category != detection->category ||
				truths[t].truth.crowd)
				continue;
			iou = plain_iou(detection->detection.box, truths[t].truth.box);
			if (iou > best)
			{
				best = iou;
				found = t;
			}
		}
		if (found < 0)
			continue;
		add_verdict(eval, &eval->classes[detection->category],
					detection->detection.score,
					best >= 0.5 && !taken[found]);
		if (best >= 0.5)
			taken[found] = true;
	}
	pfree(taken);
}

static int
compare_verdicts(const void *a, const void *b)
{
	const Verdict *x = a;
	const Verdict *y = b;

	if (x->score != y->score)
		return x->score > y->score ? -1 : 1;
	return (x->number > y->number) - (x->number < y->number);
}

static double
class_average(ClassVerdicts *class, int64 *hits)
{
	double		sum = 0;
	double		recall = 0;
	int64		tp = 0;
	int64		i;

	qsort(class->items, class->count, sizeof(Verdict), compare_verdicts);
	for (i = 0; i < class->count; i++)
	{
		double		before = recall;

		tp += class->items[i].is_hit;
		recall = (double) tp / class->truths;
		if (i > 0)
			sum += (recall - before) * ((double) tp / (i + 1));
	}
	*hits = tp;
	return sum;
}

AvcLancedbFigures
avc_lancedb_finish(AvcLancedbEval *eval)
{
	AvcLancedbFigures figures = {false, 0, 0, 0};
	int64		truths = 0;
	int64		detections = 0;
	int64		hits = 0;
	int			classes = 0;
	double		sum = 0;
	int			i;

	for (i = 0; i < eval->category_count; i++)
	{
		ClassVerdicts *class = &eval->classes[i];
		int64		class_hits;

		if (class->truths == 0)
			continue;
		sum += class_average(class, &class_hits);
		hits += class_hits;
		truths += class->truths;
		detections += class->count;
		classes++;
	}
	if (classes == 0)
		return figures;
	figures.has_truths = true;
	figures.map_50 = sum / classes;
	figures.precision = detections > 0 ? (double) hits / detections : 0;
	figures.recall = (double) hits / truths;
	return figures;
}
