/*
 * evaluation/coco_eval.c
 *		Detections against truths by the COCO protocol.
 *
 * Written from the description of the protocol; what is easy to get wrong:
 * detections and truths keep their order among equals, a later truth wins an
 * equal overlap, crowds may be matched again and again, an area on the border
 * of two ranges belongs to both, and an unmatched detection is ignored where
 * its own area lies outside the range.
 */
#include "evaluation/coco_eval.h"

#include <stdlib.h>
#include <string.h>

/* Added to the denominator of precision, the spacing of doubles at 1. */
#define SPACING 2.220446049250313e-16
#define IOU_CAP (1.0 - 1e-10)

const char *const avc_coco_metric_names[AVC_COCO_METRICS] = {
	"AP", "AP50", "AP75", "APs", "APm", "APl",
	"AR1", "AR10", "AR100", "ARs", "ARm", "ARl", "recall50"
};

static const double area_ranges[AVC_COCO_AREAS][2] = {
	{0.0, 1e10}, {0.0, 1024.0}, {1024.0, 9216.0}, {9216.0, 1e10}
};

/* Threshold i as start + i * step, the last one exactly the end. */
static double
iou_threshold(int i)
{
	double		step = (0.95 - 0.5) / (AVC_COCO_THRESHOLDS - 1);

	return i == AVC_COCO_THRESHOLDS - 1 ? 0.95 : 0.5 + i * step;
}

static double
recall_threshold(int i)
{
	return i == AVC_COCO_RECALLS - 1 ? 1.0 :
		i * (1.0 / (AVC_COCO_RECALLS - 1));
}

static bool
in_range(double area, int range)
{
	return area >= area_ranges[range][0] && area <= area_ranges[range][1];
}

double
avc_coco_iou(const double a[4], const double b[4], bool crowd)
{
	double		right = a[0] + a[2] < b[0] + b[2] ? a[0] + a[2] : b[0] + b[2];
	double		bottom = a[1] + a[3] < b[1] + b[3] ? a[1] + a[3] : b[1] + b[3];
	double		w = right - (a[0] > b[0] ? a[0] : b[0]);
	double		h = bottom - (a[1] > b[1] ? a[1] : b[1]);
	double		inter;

	if (w <= 0 || h <= 0)
		return 0;
	inter = w * h;
	return inter / (crowd ? a[2] * a[3] :
					a[2] * a[3] + b[2] * b[3] - inter);
}

size_t
avc_coco_match_scratch(int truths, int detections)
{
	return sizeof(double) * truths * detections +
		sizeof(int32_t) * truths + 2 * sizeof(bool) * truths;
}

/* What one matching pass works on. */
typedef struct Pass
{
	const double *ious;			/* (detections, truths) */
	const int32_t *order;		/* truths, those that count first */
	const AvcCocoTruth *truths;
	int			truth_count;
	int			counted;		/* first "counted" of order are not ignored */
	bool	   *taken;
} Pass;

/* The truth that a detection takes at a threshold, or -1. */
static int
best_truth(const Pass *pass, int detection, double threshold)
{
	const double *ious = pass->ious + (size_t) detection * pass->truth_count;
	double		best = threshold < IOU_CAP ? threshold : IOU_CAP;
	int			found = -1;
	int			i;

	for (i = 0; i < pass->truth_count; i++)
	{
		int			truth = pass->order[i];

		if (i == pass->counted && found >= 0)
			break;
		if (ious[truth] < best ||
			(pass->taken[truth] && !pass->truths[truth].crowd))
			continue;
		best = ious[truth];
		found = truth;
	}
	return found;
}

/* Put the truths that count in an area range first, in their order. */
static int
order_truths(const AvcCocoTruth *truths, int count, int range,
			 int32_t *order, bool *ignored)
{
	int			counted = 0;
	int			n;
	int			i;

	for (i = 0; i < count; i++)
	{
		ignored[i] = truths[i].crowd || !in_range(truths[i].area, range);
		if (!ignored[i])
			order[counted++] = i;
	}
	n = counted;
	for (i = 0; i < count; i++)
		if (ignored[i])
			order[n++] = i;
	return counted;
}

/* All overlaps, (detections, truths), and blank outcomes. */
static void
start_outcomes(const AvcCocoImage *image, double *ious,
			   AvcCocoOutcome *outcomes)
{
	int			d;
	int			g;

	memset(outcomes, 0, sizeof(*outcomes) * image->count);
	for (d = 0; d < image->count; d++)
	{
		outcomes[d].score = image->detections[d].score;
		outcomes[d].rank = d;
		outcomes[d].truth = -1;
		for (g = 0; g < image->truth_count; g++)
			ious[(size_t) d * image->truth_count + g] =
				avc_coco_iou(image->detections[d].box, image->truths[g].box,
							 image->truths[g].crowd);
	}
}

void
avc_coco_match(const AvcCocoImage *image, void *scratch,
			   AvcCocoOutcome *outcomes, int64_t positives[AVC_COCO_AREAS])
{
	int			truth_count = image->truth_count;
	double	   *ious = scratch;
	int32_t    *order = (int32_t *) (ious + (size_t) truth_count *
									 image->count);
	bool	   *ignored = (bool *) (order + truth_count);
	Pass		pass = {ious, order, image->truths, truth_count, 0,
	ignored + truth_count};
	int			range;
	int			d;
	int			t;

	start_outcomes(image, ious, outcomes);
	for (range = 0; range < AVC_COCO_AREAS; range++)
	{
		pass.counted = order_truths(image->truths, truth_count, range, order,
									ignored);
		positives[range] += pass.counted;
		for (t = 0; t < AVC_COCO_THRESHOLDS; t++)
		{
			uint64_t	bit = UINT64_C(1) << (range * AVC_COCO_THRESHOLDS + t);

			memset(pass.taken, 0, truth_count * sizeof(bool));
			for (d = 0; d < image->count; d++)
			{
				int			truth = best_truth(&pass, d, iou_threshold(t));
				const double *box = image->detections[d].box;

				if (truth >= 0)
				{
					outcomes[d].matched |= bit;
					pass.taken[truth] = true;
				}
				if (truth >= 0 ? ignored[truth] :
					!in_range(box[2] * box[3], range))
					outcomes[d].ignored |= bit;
				if (bit == 1 && truth >= 0)
				{
					outcomes[d].truth = truth;
					outcomes[d].iou = ious[(size_t) d * truth_count + truth];
				}
			}
		}
	}
}

/* Merge two sorted halves; an equal score keeps the left one first. */
static void
merge_sort(AvcCocoOutcome **list, AvcCocoOutcome **buffer, int64_t count)
{
	int64_t		half = count / 2;
	int64_t		left = 0;
	int64_t		right = half;
	int64_t		n = 0;

	if (count < 2)
		return;
	merge_sort(list, buffer, half);
	merge_sort(list + half, buffer, count - half);
	if (list[half - 1]->score >= list[half]->score)
		return;
	while (left < half && right < count)
		buffer[n++] = list[left]->score >= list[right]->score ?
			list[left++] : list[right++];
	while (left < half)
		buffer[n++] = list[left++];
	memcpy(list, buffer, n * sizeof(*list));
}

double
avc_coco_average_precision(const double *recall, double *precision, int64_t n)
{
	double		sum = 0;
	int64_t		i;
	int			r;

	for (i = n - 1; i > 0; i--)
		if (precision[i - 1] < precision[i])
			precision[i - 1] = precision[i];
	i = 0;
	for (r = 0; r < AVC_COCO_RECALLS; r++)
	{
		while (i < n && recall[i] < recall_threshold(r))
			i++;
		if (i == n)
			break;
		sum += precision[i];
	}
	return sum / AVC_COCO_RECALLS;
}

/*
 * Average precision at one range and threshold.  Precision falls at each
 * false positive and recall stays, so the points at which recall rises are
 * all that interpolation can pick.
 */
static double
average_precision(AvcCocoOutcome *const *sorted, int64_t count, uint64_t bit,
				  int64_t positives, double *scratch)
{
	double	   *recall = scratch;
	double	   *precision = scratch + count;
	int64_t		tp = 0;
	int64_t		fp = 0;
	int64_t		i;

	for (i = 0; i < count; i++)
	{
		if (sorted[i]->ignored & bit)
			continue;
		if (!(sorted[i]->matched & bit))
		{
			fp++;
			continue;
		}
		recall[tp] = (double) (tp + 1) / positives;
		precision[tp] = (tp + 1) / ((double) (tp + 1 + fp) + SPACING);
		tp++;
	}
	return avc_coco_average_precision(recall, precision, tp);
}

static void
final_recalls(AvcCocoOutcome *const *sorted, int64_t count, int range,
			  int64_t positives, AvcCocoClass *result)
{
	static const int limits[AVC_COCO_LIMITS] = {1, 10, 100};
	int			limit;
	int			t;

	for (limit = 0; limit < AVC_COCO_LIMITS; limit++)
		for (t = 0; t < AVC_COCO_THRESHOLDS; t++)
		{
			uint64_t	bit = UINT64_C(1) << (range * AVC_COCO_THRESHOLDS + t);
			int64_t		tp = 0;
			int64_t		i;

			for (i = 0; i < count; i++)
				if (sorted[i]->rank < limits[limit] &&
					(sorted[i]->matched & bit) && !(sorted[i]->ignored & bit))
					tp++;
			result->recall[range][limit][t] = (double) tp / positives;
		}
}

void
avc_coco_accumulate(AvcCocoOutcome *outcomes, int64_t count,
					const int64_t positives[AVC_COCO_AREAS], double *scratch,
					AvcCocoClass *result)
{
	AvcCocoOutcome **sorted = (AvcCocoOutcome **) (scratch + 2 * count);
	int64_t		i;
	int			range;
	int			t;

	memset(result, 0, sizeof(*result));
	for (i = 0; i < count; i++)
		sorted[i] = &outcomes[i];
	merge_sort(sorted, (AvcCocoOutcome **) scratch, count);
	for (range = 0; range < AVC_COCO_AREAS; range++)
	{
		if (positives[range] == 0)
			continue;
		result->has_truths[range] = true;
		for (t = 0; t < AVC_COCO_THRESHOLDS; t++)
			result->ap[range][t] =
				average_precision(sorted, count,
								  UINT64_C(1) << (range * AVC_COCO_THRESHOLDS + t),
								  positives[range], scratch);
		final_recalls(sorted, count, range, positives[range], result);
	}
}

static double
mean_of(const double *values)
{
	double		sum = 0;
	int			t;

	for (t = 0; t < AVC_COCO_THRESHOLDS; t++)
		sum += values[t];
	return sum / AVC_COCO_THRESHOLDS;
}

/* One class's figure in an area range. */
static double
class_value(const AvcCocoClass *class, enum AvcCocoMetric metric, int range)
{
	switch (metric)
	{
		case AVC_METRIC_AP50:
			return class->ap[range][0];
		case AVC_METRIC_AP75:
			return class->ap[range][5];
		case AVC_METRIC_AR1:
			return mean_of(class->recall[range][AVC_LIMIT_1]);
		case AVC_METRIC_AR10:
			return mean_of(class->recall[range][AVC_LIMIT_10]);
		case AVC_METRIC_AR100:
		case AVC_METRIC_ARS:
		case AVC_METRIC_ARM:
		case AVC_METRIC_ARL:
			return mean_of(class->recall[range][AVC_LIMIT_100]);
		case AVC_METRIC_RECALL50:
			return class->recall[range][AVC_LIMIT_100][0];
		default:
			return mean_of(class->ap[range]);
	}
}

bool
avc_coco_summary(const AvcCocoClass *classes, int count,
				 enum AvcCocoMetric metric, double *value)
{
	int			range = AVC_AREA_ALL;
	int			found = 0;
	double		sum = 0;
	int			i;

	if (metric >= AVC_METRIC_APS && metric <= AVC_METRIC_APL)
		range = AVC_AREA_SMALL + (metric - AVC_METRIC_APS);
	if (metric >= AVC_METRIC_ARS && metric <= AVC_METRIC_ARL)
		range = AVC_AREA_SMALL + (metric - AVC_METRIC_ARS);
	for (i = 0; i < count; i++)
		if (classes[i].has_truths[range])
		{
			sum += class_value(&classes[i], metric, range);
			found++;
		}
	if (found == 0)
		return false;
	*value = sum / found;
	return true;
}
