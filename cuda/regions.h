/*
 * cuda/regions.h
 *		The arrays of the operations between the networks, on the device.
 *
 * Passed to kernels by value.  Pointers are the device's; P is the number of
 * images, L of levels, K of candidates a level at most, R of RoIs an image.
 */
#ifndef ENG_CUDA_REGIONS_H
#define ENG_CUDA_REGIONS_H

#include "cuda/cuda.h"

#ifdef __cplusplus
extern "C"
{
#endif

/*
 * What is the batch's goes to the device at its start in one block: this, the
 * images, labels and boxes of the ground truth.
 */
typedef struct EngCudaBatch
{
	uint64_t	seed;
	uint64_t	step;
	float		loss_scale;
} EngCudaBatch;

typedef struct EngCudaImage
{
	EngSize		resized;
	EngSize		original;
	uint64_t	position;
	const uint8_t *pixels;		/* (height, width, 3) of the original */
	int32_t		truth_first;	/* box */
	int32_t		truth_count;
	int32_t		flip;
} EngCudaImage;

typedef struct EngCudaRegions
{
	/* of the plan */
	int32_t		images;
	int32_t		post_top_n;
	int32_t		candidates;		/* K */
	int32_t		places;			/* power of two of at least K */
	int32_t		rois_per_image;
	int32_t		rows;			/* P * R */
	int32_t		classes;
	int32_t		detections;		/* most an image */
	bool		train;
	EngPyramid	pyramid;
	EngProposalRule proposal;
	float		proposal_least; /* overlap that suppresses */
	EngMatchRule rpn_match;
	EngSampleRule rpn_sample;
	EngMatchRule roi_match;
	EngSampleRule roi_sample;
	float		roi_weights[4];
	EngPostprocessRule post;
	float		post_least;
	float		mean[3];
	float		std[3];

	/* of the batch */
	EngCudaBatch *batch;
	EngCudaImage *image;		/* (P) */
	uint8_t    *pixels;			/* of pictures that are not kept */
	size_t		pixel_room;		/* bytes */
	float	   *truth_boxes;	/* (truth_room, 4) */
	int32_t    *truth_labels;
	uint32_t   *truth_high;		/* largest overlap, as bits */
	int32_t		truth_room;

	/* proposals */
	float	   *anchors;		/* (anchors, 4) */
	uint64_t   *items;			/* (P, L, places): falling score, candidate */
	float	   *boxes;			/* (P, L, K, 4) by candidate */
	float	   *scores;			/* (P, L, K) */
	int32_t    *item_count;		/* (P, L) */
	uint32_t   *high;			/* (P): largest coordinate, as bits */
	uint64_t   *kept;			/* (P, L, K): falling score, L * K + candidate */
	float	   *kept_boxes;		/* (P, L, K, 5): corners, area */
	int32_t    *kept_count;		/* (P, L) */
	float	   *proposals;		/* (P, post_top_n, 4) */
	float	   *objectness;		/* (P, post_top_n) */
	int32_t    *proposal_count; /* (P) */

	/* training */
	EngMt19937 *mt;				/* torch's generator, if it samples */
	int32_t    *match;			/* (P, anchors) */
	int32_t    *best;			/* (P, anchors or RoI candidates) */
	int32_t    *list;			/* (P, 2, anchors or RoI candidates) */
	int32_t    *rpn_sampled;	/* (P, 2, rpn batch): positives, negatives */
	int32_t    *rpn_sampled_count;	/* (P, 2) */
	float	   *roi_candidates; /* (P, roi_room, 4) */
	int32_t    *roi_match_of;	/* (P, roi_room) */
	int32_t    *roi_candidate_count;	/* (P) */
	int32_t		roi_room;		/* post_top_n + truth_room */
	int32_t		list_room;		/* the larger of anchors and roi_room */
	int32_t    *roi_sampled;	/* (P, 2, R) */
	int32_t    *roi_sampled_count;	/* (P, 2) */
	float	   *roi_targets;	/* (rows, 4) */
	int32_t    *roi_labels;		/* (rows), -1 beyond the live ones */

	/* rows of RoIs, one image after another */
	float	   *roi_boxes;		/* (rows, 4) */
	int32_t    *roi_image;		/* (rows), -1 beyond the live ones */
	int32_t    *roi_level;		/* (rows) */
	int32_t    *live;			/* how many */

	/* detections; C: classes but the background */
	uint64_t   *found;			/* (P, C, R): falling score, row */
	int32_t    *found_count;	/* (P, C) */
	float	   *found_boxes;	/* (P, C, R, 4) by row */
	float	   *found_scores;	/* (P, C, R) */
	int32_t    *found_keep;		/* (P, C, R): places of the kept ones */
	float	   *found_kept;		/* (P, C, R, 5): corners, area */
	int32_t    *found_kept_count;	/* (P, C) */
	int32_t		found_places;	/* power of two of at least R */
	float	   *detection_boxes;	/* (P, detections, 4) */
	float	   *detection_scores;
	int32_t    *detection_labels;
	int32_t    *detection_count;	/* (P) */
} EngCudaRegions;

/* ---- image.cu ---------------------------------------------------------------- */

/* The batch's pixels into the network's input (P, height, width, 3). */
extern void eng_cuda_image_input(EngCuda *cuda, void *out, EngType type,
								 const EngCudaRegions *r);

/* ---- proposals.cu ------------------------------------------------------------ */

extern void eng_cuda_proposals(EngCuda *cuda, const EngCudaRegions *r,
							   const EngRpnMaps *maps);

/* ---- postprocess.cu ---------------------------------------------------------- */

/* RoIs without training: the proposals, one image after another. */
extern void eng_cuda_pack_proposals(EngCuda *cuda, const EngCudaRegions *r);
extern void eng_cuda_postprocess(EngCuda *cuda, const EngCudaRegions *r,
								 const float *logits, const float *deltas);

/* ---- targets.cu -------------------------------------------------------------- */

/* Match the anchors with the ground truth. */
extern void eng_cuda_rpn_match(EngCuda *cuda, const EngCudaRegions *r);
/* as_torch: from the generator in r->mt, one image after the other */
extern void eng_cuda_rpn_sample(EngCuda *cuda, const EngCudaRegions *r,
								bool as_torch);
/* Proposals and ground truth: match, sample, rows with their targets. */
extern void eng_cuda_roi_match(EngCuda *cuda, const EngCudaRegions *r);
extern void eng_cuda_roi_sample(EngCuda *cuda, const EngCudaRegions *r,
								bool as_torch);
extern void eng_cuda_roi_rows(EngCuda *cuda, const EngCudaRegions *r);

/* ---- losses.cu --------------------------------------------------------------- */

/* gradients NULL: the losses alone, into cuda->step */
extern void eng_cuda_rpn_loss(EngCuda *cuda, const EngCudaRegions *r,
							  const EngRpnMaps *maps,
							  const EngRpnGradients *gradients);
/* of a rank without frames: its part in the losses of all */
extern void eng_cuda_no_rpn_loss(EngCuda *cuda);
extern void eng_cuda_no_roi_loss(EngCuda *cuda);
/* dlogits NULL: the losses alone */
extern void eng_cuda_roi_loss(EngCuda *cuda, const EngCudaRegions *r,
							  const float *logits, const float *deltas,
							  float *dlogits, float *ddeltas);

#ifdef __cplusplus
}
#endif

#endif
