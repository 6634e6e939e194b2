/*
 * evaluation/evaluator.h
 *		Collect one image after another, then compute the figures.
 */
#ifndef AVC_EVALUATION_EVALUATOR_H
#define AVC_EVALUATION_EVALUATOR_H

#include "utils/palloc.h"

#include "evaluation/coco_eval.h"

typedef struct AvcEvaluator AvcEvaluator;

/* A truth of an image; category counts from 0. */
typedef struct AvcImageTruth
{
	int32		category;
	AvcCocoTruth truth;
	int32		truth_no;		/* the caller's */
	bool		is_matched;		/* result: taken at IoU 0.5 */
} AvcImageTruth;

/* A detection of an image, and what became of it at IoU 0.5. */
typedef struct AvcImageDetection
{
	int32		category;
	AvcCocoDetection detection;
	int32		order;			/* set by the evaluator: place when given */
	int32		rank;			/* result: place in its category, from 0 */
	bool		is_counted;		/* result: among the first 100 */
	int32		truth;			/* result: index of its truth, -1 = none */
	double		iou;			/* result: with that truth */
} AvcImageDetection;

/* ---- evaluator.c ---- */

/* "categories" is their number; all memory comes from the context. */
extern AvcEvaluator *avc_evaluator_create(MemoryContext context,
										  int categories);

/*
 * Add an image; images come in id order, truths and detections in theirs.
 * Both arrays are sorted by category in place (detections also by falling
 * score), and their results filled in.
 */
extern void avc_evaluator_add(AvcEvaluator *evaluator, AvcImageTruth *truths,
							  int truth_count, AvcImageDetection *detections,
							  int detection_count);

/* Figures of all categories; the evaluator is of no use afterwards. */
extern AvcCocoClass *avc_evaluator_finish(AvcEvaluator *evaluator);

/* Truths that count, and detections, of a category so far. */
extern int64 avc_evaluator_truths(const AvcEvaluator *evaluator,
								  int category);
extern int64 avc_evaluator_detections(const AvcEvaluator *evaluator,
									  int category);

#endif							/* AVC_EVALUATION_EVALUATOR_H */
