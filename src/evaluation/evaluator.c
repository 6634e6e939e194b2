/*
 * evaluation/evaluator.c
 *		Collect one image after another, then compute the figures.
 *
 * Boxes are matched image by image and forgotten; what stays is one outcome
 * of 48 bytes a detection, in an array a category.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "evaluation/evaluator.h"

/* What is known of a category. */
typedef struct CategoryState
{
	AvcCocoOutcome *outcomes;
	int64		count;
	int64		space;
	int64		positives[AVC_COCO_AREAS];
} CategoryState;

struct AvcEvaluator
{
	MemoryContext context;
	int			category_count;
	CategoryState *categories;
	void	   *scratch;		/* of avc_coco_match */
	Size		scratch_size;
	AvcCocoTruth *truths;		/* of one image and category */
	int			truth_space;
	AvcCocoDetection detections[AVC_COCO_DETECTIONS];
};

AvcEvaluator *
avc_evaluator_create(MemoryContext context, int categories)
{
	AvcEvaluator *evaluator = MemoryContextAllocZero(context,
													 sizeof(AvcEvaluator));

	evaluator->context = context;
	evaluator->category_count = categories;
	evaluator->categories =
		MemoryContextAllocZero(context, sizeof(CategoryState) *
							   Max(categories, 1));
	return evaluator;
}

static int
compare_truths(const void *a, const void *b)
{
	const AvcImageTruth *x = a;
	const AvcImageTruth *y = b;

	if (x->category != y->category)
		return x->category < y->category ? -1 : 1;
	return (x->truth_no > y->truth_no) - (x->truth_no < y->truth_no);
}

static int
compare_detections(const void *a, const void *b)
{
	const AvcImageDetection *x = a;
	const AvcImageDetection *y = b;

	if (x->category != y->category)
		return x->category < y->category ? -1 : 1;
	if (x->detection.score != y->detection.score)
		return x->detection.score > y->detection.score ? -1 : 1;
	return x->order - y->order;
}

/* Room for one more group in scratch, truths and the category's outcomes. */
static void
reserve(AvcEvaluator *evaluator, CategoryState *state, int truths,
		int detections)
{
	Size		need = avc_coco_match_scratch(truths, detections) + 1;

	if (need > evaluator->scratch_size)
	{
		if (evaluator->scratch)
			pfree(evaluator->scratch);
		evaluator->scratch_size = 2 * need;
		evaluator->scratch =
			MemoryContextAllocHuge(evaluator->context,
								   evaluator->scratch_size);
	}
	if (truths > evaluator->truth_space)
	{
		if (evaluator->truths)
			pfree(evaluator->truths);
		evaluator->truth_space = 2 * truths;
		evaluator->truths =
			MemoryContextAllocHuge(evaluator->context,
								   sizeof(AvcCocoTruth) *
								   evaluator->truth_space);
	}
	if (state->count + detections > state->space)
	{
		state->space = Max(2 * state->space, 1024);
		if (state->outcomes == NULL)
			state->outcomes =
				MemoryContextAllocHuge(evaluator->context,
									   sizeof(AvcCocoOutcome) * state->space);
		else
			state->outcomes = repalloc_huge(state->outcomes,
											sizeof(AvcCocoOutcome) *
											state->space);
	}
}

/* One category of an image; detections get indexes into "truths". */
static void
add_group(AvcEvaluator *evaluator, int category, AvcImageTruth *truths,
		  int tn, AvcImageDetection *detections, int dn)
{
	CategoryState *state = &evaluator->categories[category];
	AvcCocoOutcome *outcomes;
	int			used = Min(dn, AVC_COCO_DETECTIONS);
	AvcCocoImage image;
	int			i;

	reserve(evaluator, state, tn, used);
	outcomes = state->outcomes + state->count;
	for (i = 0; i < tn; i++)
		evaluator->truths[i] = truths[i].truth;
	for (i = 0; i < used; i++)
		evaluator->detections[i] = detections[i].detection;
	image.truths = evaluator->truths;
	image.truth_count = tn;
	image.detections = evaluator->detections;
	image.count = used;
	avc_coco_match(&image, evaluator->scratch, outcomes, state->positives);
	for (i = 0; i < used; i++)
	{
		detections[i].rank = i;
		detections[i].is_counted = true;
		if (outcomes[i].truth < 0)
			continue;
		detections[i].truth = outcomes[i].truth;
		detections[i].iou = outcomes[i].iou;
		truths[outcomes[i].truth].is_matched = true;
	}
	state->count += used;
}

void
avc_evaluator_add(AvcEvaluator *evaluator, AvcImageTruth *truths,
				  int truth_count, AvcImageDetection *detections,
				  int detection_count)
{
	int			t = 0;
	int			d = 0;
	int			i;

	for (i = 0; i < truth_count; i++)
		truths[i].is_matched = false;
	for (i = 0; i < detection_count; i++)
	{
		detections[i].order = i;
		detections[i].is_counted = false;
		detections[i].truth = -1;
		detections[i].iou = 0;
	}
	qsort(truths, truth_count, sizeof(*truths), compare_truths);
	qsort(detections, detection_count, sizeof(*detections),
		  compare_detections);
	while (t < truth_count || d < detection_count)
	{
		int			category;
		int			tn = 0;
		int			dn = 0;

		CHECK_FOR_INTERRUPTS();
		if (d == detection_count ||
			(t < truth_count && truths[t].category <= detections[d].category))
			category = truths[t].category;
		else
			category = detections[d].category;
		while (t + tn < truth_count && truths[t + tn].category == category)
			tn++;
		while (d + dn < detection_count &&
			   detections[d + dn].category == category)
			dn++;
		add_group(evaluator, category, truths + t, tn, detections + d, dn);
		for (i = 0; i < dn; i++)
			if (detections[d + i].truth >= 0)
				detections[d + i].truth += t;
		t += tn;
		d += dn;
	}
}

AvcCocoClass *
avc_evaluator_finish(AvcEvaluator *evaluator)
{
	AvcCocoClass *classes =
	MemoryContextAllocZero(evaluator->context, sizeof(AvcCocoClass) *
						   Max(evaluator->category_count, 1));
	int			i;

	for (i = 0; i < evaluator->category_count; i++)
	{
		CategoryState *state = &evaluator->categories[i];
		double	   *scratch;

		CHECK_FOR_INTERRUPTS();
		scratch = MemoryContextAllocHuge(evaluator->context,
										 sizeof(double) * 3 *
										 (state->count + 1));
		avc_coco_accumulate(state->outcomes, state->count, state->positives,
							scratch, &classes[i]);
		pfree(scratch);
		if (state->outcomes)
			pfree(state->outcomes);
		state->outcomes = NULL;
	}
	return classes;
}

int64
avc_evaluator_truths(const AvcEvaluator *evaluator, int category)
{
	return evaluator->categories[category].positives[AVC_AREA_ALL];
}

int64
avc_evaluator_detections(const AvcEvaluator *evaluator, int category)
{
	return evaluator->categories[category].count;
}
