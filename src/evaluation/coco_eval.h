/*
 * evaluation/coco_eval.h
 *		Detections against truths by the COCO protocol; plain C on arrays.
 *
 * Nothing here knows the server or allocates memory.  Boxes are x, y, width,
 * height in pixels; all arithmetic is double.
 */
#ifndef AVC_EVALUATION_COCO_EVAL_H
#define AVC_EVALUATION_COCO_EVAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AVC_COCO_THRESHOLDS 10	/* IoU 0.50, 0.55 .. 0.95 */
#define AVC_COCO_RECALLS 101	/* recall 0.00, 0.01 .. 1.00 */
#define AVC_COCO_DETECTIONS 100 /* per image and category */

/* Ranges of box area, both ends included. */
enum AvcCocoArea
{
	AVC_AREA_ALL,
	AVC_AREA_SMALL,				/* up to 32 x 32 pixels */
	AVC_AREA_MEDIUM,			/* up to 96 x 96 */
	AVC_AREA_LARGE,
	AVC_COCO_AREAS
};

/* Limits on detections per image and category. */
enum AvcCocoLimit
{
	AVC_LIMIT_1,
	AVC_LIMIT_10,
	AVC_LIMIT_100,
	AVC_COCO_LIMITS
};

typedef struct AvcCocoTruth
{
	double		box[4];
	double		area;			/* of the annotation, not always w x h */
	bool		crowd;			/* matches any number, counts for none */
} AvcCocoTruth;

typedef struct AvcCocoDetection
{
	double		box[4];
	double		score;
} AvcCocoDetection;

/* One image and category. */
typedef struct AvcCocoImage
{
	const AvcCocoTruth *truths; /* in the document's order */
	int			truth_count;
	const AvcCocoDetection *detections; /* by falling score */
	int			count;			/* at most AVC_COCO_DETECTIONS */
} AvcCocoImage;

/* What became of one detection; bit area * AVC_COCO_THRESHOLDS + threshold. */
typedef struct AvcCocoOutcome
{
	double		score;
	uint64_t	matched;
	uint64_t	ignored;
	int32_t		rank;			/* within image and category, from 0 */
	int32_t		truth;			/* matched at IoU 0.5, all areas; -1 = none */
	double		iou;			/* with that truth */
} AvcCocoOutcome;

/* One category; a range without truths has no value (has_truths false). */
typedef struct AvcCocoClass
{
	bool		has_truths[AVC_COCO_AREAS];
	double		ap[AVC_COCO_AREAS][AVC_COCO_THRESHOLDS];	/* 100 detections */
	double		recall[AVC_COCO_AREAS][AVC_COCO_LIMITS][AVC_COCO_THRESHOLDS];
} AvcCocoClass;

/* The twelve figures of COCO's summary. */
enum AvcCocoMetric
{
	AVC_METRIC_AP, AVC_METRIC_AP50, AVC_METRIC_AP75,
	AVC_METRIC_APS, AVC_METRIC_APM, AVC_METRIC_APL,
	AVC_METRIC_AR1, AVC_METRIC_AR10, AVC_METRIC_AR100,
	AVC_METRIC_ARS, AVC_METRIC_ARM, AVC_METRIC_ARL,
	AVC_METRIC_RECALL50,		/* ours: final recall at IoU 0.5 */
	AVC_COCO_METRICS
};

extern const char *const avc_coco_metric_names[AVC_COCO_METRICS];

/* ---- coco_eval.c ---- */

/* Bytes of scratch that avc_coco_match needs. */
extern size_t avc_coco_match_scratch(int truths, int detections);

/*
 * Match the detections of one image and category with its truths, for every
 * area range and threshold.  Writes one outcome a detection and adds the
 * truths that count to positives[area].
 */
extern void avc_coco_match(const AvcCocoImage *image, void *scratch,
						   AvcCocoOutcome *outcomes,
						   int64_t positives[AVC_COCO_AREAS]);

/*
 * Precision and recall of one category.  The outcomes are those of all
 * images in image order; they are sorted by falling score, ties kept.
 * scratch: (count, 3) doubles.
 */
extern void avc_coco_accumulate(AvcCocoOutcome *outcomes, int64_t count,
								const int64_t positives[AVC_COCO_AREAS],
								double *scratch, AvcCocoClass *result);

/*
 * A figure as the mean over those of the classes that have a value; with
 * one class, its own.  False if none has.
 */
extern bool avc_coco_summary(const AvcCocoClass *classes, int count,
							 enum AvcCocoMetric metric, double *value);

/*
 * The mean of interpolated precision at the 101 recalls, from n points at
 * which recall rises: recall[i] rising, precision[i] not yet interpolated
 * (it is, afterwards).
 */
extern double avc_coco_average_precision(const double *recall,
										 double *precision, int64_t n);

/* Overlap; for a crowd the union is the detection alone. */
extern double avc_coco_iou(const double detection[4], const double truth[4],
						   bool crowd);

#endif							/* AVC_EVALUATION_COCO_EVAL_H */
