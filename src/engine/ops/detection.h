/*
 * engine/ops/detection.h
 *		Operations between the networks of the detector.
 *
 * Pure functions on arrays.  Every float32 operation is rounded by itself
 * (this folder is built with -ffp-contract=off): matching depends on exact
 * ties of intersection over union.  Nothing is allocated; what needs room
 * takes `scratch`, at least eng_..._scratch_bytes() bytes, aligned to 64.
 * A function without EngStatus cannot fail.  Functions on one image have no
 * shared state, so images may go through them in parallel.
 *
 * Boxes are (n, 4): x1, y1, x2, y2.  Maps are NHWC.  The rules are those of
 * torchvision's Faster R-CNN; results do not depend on the thread count.
 */
#ifndef ENG_OPS_DETECTION_H
#define ENG_OPS_DETECTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/core/element.h"
#include "engine/core/random.h"
#include "engine/status.h"

#define ENG_RPN_LEVELS	5		/* feature maps "0".."3" and "pool" */
#define ENG_ROI_LEVELS	4		/* feature maps "0".."3" */
#define ENG_ANCHOR_LIST	8		/* most sizes, and most ratios, of a level */
#define ENG_CELL_ANCHORS 32		/* most anchors a cell can have */
#define ENG_ROI_SAMPLES	64		/* most samples of a RoI along one axis */

typedef struct EngBoxes
{
	const float *boxes;			/* (count, 4) */
	int32_t		count;
} EngBoxes;

/* ---- resize.c: size of the network's input, boxes, pixels -------------- */

typedef enum EngScaleRule
{
	ENG_SCALE_F64 = 0,			/* quotients in double (torchvision >= 0.16) */
	ENG_SCALE_F32				/* quotients in float (torchvision <= 0.15) */
} EngScaleRule;

typedef struct EngResizeRule
{
	int32_t		min_size;
	int32_t		max_size;
	EngScaleRule scale;
	bool		keep;			/* the image's own size, whatever the above */
	int32_t		fixed_width;	/* > 0: this size for every image */
	int32_t		fixed_height;
} EngResizeRule;

typedef struct EngSize
{
	int32_t		height;
	int32_t		width;
} EngSize;

/*
 * Size that an image is resized to, before padding.  A side may come out as
 * 0: such an image cannot be used.
 */
extern EngSize eng_resize_size(EngSize image, const EngResizeRule *rule);

/* Smallest multiple of divisor that holds size. */
extern int32_t eng_padded_size(int32_t size, int32_t divisor);

/* out (n, 4) = boxes scaled from one image size to another; may be in place. */
extern void eng_boxes_scale(float *out, const float *boxes, int32_t n,
							EngSize from, EngSize to);

/* out (n, 4) = boxes of the mirrored image: x1' = width - x2, x2' = width - x1. */
extern void eng_boxes_flip(float *out, const float *boxes, int32_t n,
						   int32_t width);

/*
 * Refuse boxes without positive width and height (checked after scaling).
 * The message names the frame.
 */
extern bool eng_boxes_check(const float *boxes, int32_t n, int64_t frame_id,
							EngStatus *status);

typedef struct EngPixels
{
	const uint8_t *rgb;			/* (height, width, 3) */
	EngSize		size;			/* of rgb */
	EngSize		resized;		/* eng_resize_size() of it */
	EngSize		padded;			/* of the batch */
	float		mean[3];
	float		std[3];
	bool		flip;			/* mirror before resizing */
	EngType		type;			/* of the input made */
} EngPixels;

/*
 * One image of the network's input: out (padded height, padded width,
 * channels) with channels >= 3; the channels above 3 and the padding are 0.
 * (x / 255 - mean) / std in float32, then bilinear without antialiasing,
 * the value interpolated along x first.  scratch: two rows of
 * 3 * resized.width floats and 4 bytes a column more:
 * eng_image_input_scratch_bytes().
 */
extern size_t eng_image_input_scratch_bytes(EngSize resized, EngSize image);
extern void eng_image_input(void *out, int32_t channels,
							const EngPixels *image, void *scratch);

/* ---- anchors.c ---------------------------------------------------------- */

typedef struct EngAnchorRule
{
	float		sizes[ENG_RPN_LEVELS][ENG_ANCHOR_LIST]; /* of each level */
	int32_t		size_count;		/* of every level, >= 1 */
	float		ratios[ENG_RPN_LEVELS][ENG_ANCHOR_LIST];	/* height / width */
	int32_t		ratio_count;	/* of every level, >= 1 */
} EngAnchorRule;

/* Geometry of the RPN's maps for one padded input size. */
typedef struct EngPyramid
{
	EngSize		padded;			/* input of the network */
	EngSize		map[ENG_RPN_LEVELS];
	EngSize		stride[ENG_RPN_LEVELS]; /* padded / map, whole numbers */
	int32_t		cell_anchors;	/* a: anchors a cell */
	int32_t		first[ENG_RPN_LEVELS + 1];	/* first anchor of a level; the
											 * last entry is the total */
} EngPyramid;

/* Fill in all of *pyramid from the padded size and the sizes of the maps. */
extern void eng_pyramid_set(EngPyramid *pyramid, EngSize padded,
							const EngSize map[ENG_RPN_LEVELS],
							const EngAnchorRule *rule);

/* Base anchors of a level: base (a, 4), ratio outer, size inner. */
extern void eng_anchors_base(float *base, const EngAnchorRule *rule,
							 int32_t level);

/* All anchors (pyramid->first[ENG_RPN_LEVELS], 4); level, row, column, anchor. */
extern void eng_anchors(float *anchors, const EngPyramid *pyramid,
						const EngAnchorRule *rule);

/* ---- box_coder.c -------------------------------------------------------- */

extern const float eng_rpn_box_weights[4];	/* 1, 1, 1, 1 */
extern const float eng_roi_box_weights[4];	/* 10, 10, 5, 5 */

/* targets (n, 4) that take boxes (n, 4) to gt (n, 4). */
extern void eng_boxes_encode(float *targets, const float *gt,
							 const float *boxes, int32_t n,
							 const float weights[4]);

/*
 * out (n, k, 4) = boxes (n, 4) moved by deltas (n, k, 4); dw and dh are
 * clamped from above to ln(1000 / 16).
 */
extern void eng_boxes_decode(float *out, const float *deltas,
							 const float *boxes, int32_t n, int32_t k,
							 const float weights[4]);

/* Clip in place to [0, width] x [0, height]. */
extern void eng_boxes_clip(float *boxes, int32_t n, EngSize image);

/* ---- matcher.c ---------------------------------------------------------- */

typedef struct EngMatchRule
{
	float		high;			/* >= high: matched */
	float		low;			/* < low: background; else ignored */
	bool		allow_low_quality;	/* best anchors of each box, exact ties */
} EngMatchRule;

#define ENG_MATCH_BACKGROUND	(-1)
#define ENG_MATCH_IGNORED		(-2)

/* Intersection over union, out (a.count, b.count). */
extern void eng_iou(float *out, EngBoxes a, EngBoxes b);

/*
 * match[boxes.count]: index into gt, ENG_MATCH_BACKGROUND or
 * ENG_MATCH_IGNORED.  Streams over the boxes in blocks.
 */
extern size_t eng_match_scratch_bytes(int32_t box_count, int32_t gt_count);
extern void eng_match(int32_t *match, EngBoxes boxes, EngBoxes gt,
					  const EngMatchRule *rule, void *scratch);

/* ---- sampler.c ---------------------------------------------------------- */

typedef enum EngSampleMode
{
	ENG_SAMPLE_COUNTER = 0,		/* keyed by seed, step, position, use */
	ENG_SAMPLE_MT19937,			/* torch's permutations */
	ENG_SAMPLE_GIVEN			/* indices supplied */
} EngSampleMode;

typedef struct EngSampleSource
{
	EngSampleMode mode;
	uint64_t	seed;			/* ENG_SAMPLE_COUNTER */
	uint64_t	step;
	uint64_t	position;		/* of the frame in the global batch */
	EngRandomUse use;
	EngMt19937 *mt;				/* ENG_SAMPLE_MT19937: images in order, one
								 * after the other */
	const int32_t *positives;	/* ENG_SAMPLE_GIVEN */
	const int32_t *negatives;
	int32_t		positive_count;
	int32_t		negative_count;
} EngSampleSource;

typedef struct EngSampleRule
{
	int32_t		batch_size;		/* most that are sampled */
	double		positive_fraction;	/* in double, as the product is truncated */
} EngSampleRule;

/* Both lists ascending; each array has room for batch_size. */
typedef struct EngSample
{
	int32_t    *positives;
	int32_t    *negatives;
	int32_t		positive_count;
	int32_t		negative_count;
} EngSample;

/*
 * Sample from match[n]: >= 0 is positive, ENG_MATCH_BACKGROUND negative.
 * Fails (ENG_BAD_ARGUMENT) only for given indices that are out of range or
 * too many.
 */
extern size_t eng_sample_scratch_bytes(int32_t n);
extern bool eng_sample(EngSample *sample, const int32_t *match, int32_t n,
					   const EngSampleRule *rule,
					   const EngSampleSource *source, void *scratch,
					   EngStatus *status);

/* ---- nms.c --------------------------------------------------------------- */

typedef enum EngNmsKind
{
	ENG_NMS_AUTO = 0,			/* as torchvision on a CPU: offsets up to 1000
								 * boxes, else a loop over the groups */
	ENG_NMS_OFFSET,				/* groups moved apart, one suppression */
	ENG_NMS_LOOP				/* one suppression a group: the exact one */
} EngNmsKind;

typedef struct EngNmsRule
{
	double		threshold;		/* suppressed when IoU > threshold */
	EngNmsKind	kind;
	int32_t		limit;			/* keep the first limit; 0 = all */
} EngNmsRule;

/*
 * order[n]: indices by score, highest first, equal scores by index.
 * NaN counts as highest, as in torch.
 */
extern size_t eng_sort_scratch_bytes(int32_t n);
extern void eng_sort_scores(int32_t *order, const float *scores, int32_t n,
							void *scratch);

/*
 * The first k of that order without sorting all n; returns min(k, n).
 */
extern size_t eng_top_scratch_bytes(int32_t n);
extern int32_t eng_top_scores(int32_t *order, const float *scores, int32_t n,
							  int32_t k, void *scratch);

/*
 * keep[]: indices of the kept boxes, highest score first; returns their
 * number.  group NULL: plain suppression.  Room for boxes.count in keep.
 */
extern size_t eng_nms_scratch_bytes(int32_t n);
extern int32_t eng_nms(int32_t *keep, EngBoxes boxes, const float *scores,
					   const int32_t *group, const EngNmsRule *rule,
					   void *scratch);

/* ---- proposals.c --------------------------------------------------------- */

/*
 * Maps of the RPN's head, per level: logits (images, h, w, a), deltas
 * (images, h, w, 4 * a).
 */
typedef struct EngRpnMaps
{
	const float *logits[ENG_RPN_LEVELS];
	const float *deltas[ENG_RPN_LEVELS];
} EngRpnMaps;

/* The maps of image i of a batch. */
extern EngRpnMaps eng_rpn_maps_image(const EngRpnMaps *batch,
									 const EngPyramid *pyramid, int32_t i);

typedef struct EngProposalRule
{
	int32_t		pre_nms_top_n;	/* a level */
	int32_t		post_nms_top_n; /* an image */
	double		nms_threshold;
	float		score_threshold;
	float		min_size;		/* 1e-3 */
	EngNmsKind	nms;
} EngProposalRule;

typedef struct EngProposalInput
{
	EngRpnMaps	maps;			/* of one image */
	const EngPyramid *pyramid;
	const float *anchors;		/* eng_anchors() */
	EngSize		image;			/* resized, not padded */
} EngProposalInput;

/*
 * Proposals of one image: boxes (post_nms_top_n, 4) and probabilities
 * (post_nms_top_n; NULL: not wanted), zero beyond the count returned.
 */
extern size_t eng_proposals_scratch_bytes(const EngPyramid *pyramid,
										  const EngProposalRule *rule);
extern int32_t eng_proposals(float *boxes, float *scores,
							 const EngProposalInput *input,
							 const EngProposalRule *rule, void *scratch);

/* ---- roi_select.c: training targets of the RoI heads --------------------- */

typedef struct EngRoiRule
{
	EngMatchRule match;			/* 0.5, 0.5, no low-quality matches */
	EngSampleRule sample;
	float		weights[4];		/* of the box coder */
} EngRoiRule;

typedef struct EngGroundTruth
{
	const float *boxes;			/* (count, 4), in the resized image */
	const int32_t *labels;		/* >= 1 */
	int32_t		count;
} EngGroundTruth;

/* Sampled RoIs of one image in ascending index order. */
typedef struct EngRoiSelection
{
	float	   *boxes;			/* (batch_size, 4), 0 beyond count */
	int32_t    *labels;			/* (batch_size), 0 background, -1 beyond count */
	float	   *targets;		/* (batch_size, 4), 0 beyond count */
	int32_t    *match;			/* (proposals + gt) or NULL: not wanted */
	int32_t		count;
	int32_t		positive_count;
} EngRoiSelection;

/*
 * Append the ground truth to the proposals, match, sample, encode.  Targets
 * of an image without ground truth hold infinities and are not used.
 */
extern size_t eng_roi_select_scratch_bytes(int32_t proposal_count,
										   int32_t gt_count);
extern bool eng_roi_select(EngRoiSelection *selection, EngBoxes proposals,
						   const EngGroundTruth *gt, const EngRoiRule *rule,
						   const EngSampleSource *source, void *scratch,
						   EngStatus *status);

/* ---- roi_align.c ----------------------------------------------------------- */

/*
 * FPN level 0..3 of each box: floor(4 + log2(sqrt(area) / 224) + 1e-6),
 * clamped to 2..5, minus 2; float32.
 */
extern void eng_roi_levels(int32_t *levels, const float *boxes, int32_t n);

typedef struct EngRoiMaps
{
	EngType		type;			/* of the maps and of what is made of them */
	const void *map[ENG_ROI_LEVELS];	/* (images, h, w, channels) */
	EngSize		size[ENG_ROI_LEVELS];
	float		scale[ENG_ROI_LEVELS];	/* 1/4, 1/8, 1/16, 1/32 */
	int32_t		images;
	int32_t		channels;
	int32_t		output;			/* 7 */
	int32_t		sampling;		/* samples a bin and axis: 2; output times
								 * sampling is at most ENG_ROI_SAMPLES */
	int32_t		threads;		/* OpenMP threads to use, >= 1 */
} EngRoiMaps;

typedef struct EngRois
{
	const float *boxes;			/* (count, 4) */
	const int32_t *image;		/* (count), < 0: a row of padding */
	const int32_t *level;		/* (count) */
	int32_t		count;
} EngRois;

/* out (count, output, output, channels), aligned = false; padding rows are 0. */
extern void eng_roi_align(void *out, const EngRoiMaps *maps,
						  const EngRois *rois);

/*
 * dmap[level] (images, h, w, channels) = the gradients that dout (count,
 * output, output, channels) sends there, added to what is there if
 * add[level].  maps->map is not read.  The sum at every element runs over
 * the RoIs in ascending order, in float; bf16 rounds it once, for which
 * workspace has eng_roi_align_workspace() bytes.
 */
extern size_t eng_roi_align_workspace(const EngRoiMaps *maps);
extern void eng_roi_align_backward(void *const dmap[ENG_ROI_LEVELS],
								   const bool add[ENG_ROI_LEVELS],
								   const void *dout, const EngRoiMaps *maps,
								   const EngRois *rois, void *workspace);

/* ---- detection_loss.c ------------------------------------------------------ */

/* What the losses of the RPN need of one image. */
typedef struct EngRpnTarget
{
	EngSample	sample;			/* of the anchors */
	const int32_t *match;		/* (anchors) */
	const float *gt;			/* (gt count, 4), in the resized image */
} EngRpnTarget;

typedef struct EngRpnBatch
{
	EngRpnMaps	maps;			/* of all images */
	const EngRpnTarget *targets;	/* (images) */
	int32_t		images;
	const EngPyramid *pyramid;
	const float *anchors;
	double		divisor;		/* sampled anchors of all ranks; 0: these are all */
} EngRpnBatch;

typedef struct EngRpnGradients
{
	float	   *logits[ENG_RPN_LEVELS]; /* shapes of the maps */
	float	   *deltas[ENG_RPN_LEVELS];
} EngRpnGradients;

typedef struct EngRpnLoss
{
	float		objectness;
	float		box;
} EngRpnLoss;

/*
 * Losses of the RPN over the batch: mean binary cross-entropy over the
 * sampled anchors; smooth L1 (beta 1/9) over the positives, divided by the
 * number of all sampled ones.  gradients (NULL: not wanted) are those of
 * scale * (objectness + box): zero but at sampled anchors, all elements of
 * the maps are written.
 */
extern int64_t eng_rpn_sampled(const EngRpnBatch *batch);
extern EngRpnLoss eng_rpn_loss(const EngRpnGradients *gradients,
							   const EngRpnBatch *batch, float scale);

typedef struct EngRoiBatch
{
	const float *logits;		/* (rows, classes) */
	const float *deltas;		/* (rows, 4 * classes) */
	const int32_t *labels;		/* (rows), -1: a row of padding */
	const float *targets;		/* (rows, 4) */
	int32_t		rows;
	int32_t		classes;
	double		divisor;		/* live rows of all ranks; 0: these are all */
} EngRoiBatch;

typedef struct EngRoiLoss
{
	float		classifier;
	float		box;
} EngRoiLoss;

/*
 * Mean cross-entropy over the live rows; smooth L1 (beta 1/9) of the target
 * class's deltas over rows with label > 0, divided by the live rows.
 * dlogits and ddeltas (NULL: not wanted): gradients of scale * (classifier +
 * box), all elements written.
 */
extern EngRoiLoss eng_roi_loss(float *dlogits, float *ddeltas,
							   const EngRoiBatch *batch, float scale);

/* Single losses, for tests and traces.  dx: gradient of scale * loss or NULL. */
extern float eng_objectness_loss(float *dx, const float *x,
								 const float *target, int32_t n, float scale);
extern float eng_smooth_l1_loss(float *dx, const float *x,
								const float *target, int32_t n, float divisor,
								float scale);

/* Row-wise softmax, y (rows, columns); may be in place. */
extern void eng_softmax(float *y, const float *x, int32_t rows,
						int32_t columns);

/* ---- postprocess.c ---------------------------------------------------------- */

typedef struct EngPostprocessRule
{
	float		score_threshold;	/* kept when score > threshold */
	double		nms_threshold;
	EngNmsKind	nms;
	int32_t		detections;		/* most that are returned */
	float		min_size;		/* 1e-2 */
	float		weights[4];		/* of the box coder */
} EngPostprocessRule;

typedef struct EngPostprocessInput
{
	const float *logits;		/* (count, classes) of one image */
	const float *deltas;		/* (count, 4 * classes) */
	const float *proposals;		/* (count, 4) */
	int32_t		count;			/* live rows */
	int32_t		classes;
	EngSize		image;			/* resized, not padded */
	EngSize		original;		/* detections come back in its pixels */
} EngPostprocessInput;

/* Arrays with room for `detections`, or (candidates) count * (classes - 1). */
typedef struct EngDetectionList
{
	float	   *boxes;			/* (count, 4) */
	float	   *scores;
	int32_t    *labels;
	int32_t		count;
} EngDetectionList;

/*
 * What enters the class-wise suppression: clipped boxes of the resized
 * image, proposal-major; scratch: `classes` floats.
 */
extern void eng_postprocess_candidates(EngDetectionList *candidates,
									   const EngPostprocessInput *input,
									   const EngPostprocessRule *rule,
									   float *scratch);

/* Detections of one image, highest score first. */
extern size_t eng_postprocess_scratch_bytes(int32_t count, int32_t classes);
extern void eng_postprocess(EngDetectionList *detections,
							const EngPostprocessInput *input,
							const EngPostprocessRule *rule, void *scratch);

#endif
