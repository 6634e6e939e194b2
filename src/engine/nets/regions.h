/*
 * engine/nets/regions.h
 *		What the detection operations of one plan share.
 *
 * Everything between the networks: ground truth of the batch, anchors,
 * proposals, samples, RoIs, losses, detections.  Arrays are padded to fixed
 * maxima, with counts.  One block of scratch a thread serves the functions
 * of ops/detection.h.
 */
#ifndef ENG_NETS_REGIONS_H
#define ENG_NETS_REGIONS_H

#include "engine/core/plan.h"
#include "engine/nets/detector.h"

typedef struct EngRegions
{
	const EngDetectorConfig *config;
	bool		train;
	int32_t		images;
	int32_t		threads;

	/* the batch; set by the input step */
	EngSize		padded;
	EngSize    *resized;		/* (images) */
	EngSize    *original;
	int64_t    *frame_id;
	uint64_t   *position;
	EngGroundTruth *truth;		/* boxes point into truth_boxes */
	float	   *truth_boxes;
	int32_t		truth_capacity; /* boxes */
	uint64_t	seed;
	uint64_t	step;
	float		loss_scale;		/* of the gradients */
	EngMt19937 *mt;				/* torch's generator, or NULL */
	const EngDetectorHooks *hooks;

	/* region proposals */
	EngPyramid	pyramid;
	float	   *anchors;		/* (anchors, 4) */
	int32_t		post_top_n;
	float	   *proposals;		/* (images, post_top_n, 4) */
	float	   *objectness;		/* (images, post_top_n) */
	EngBoxes   *proposal_lists; /* (images): the above, or what was given */
	int32_t    *match;			/* (images, anchors) */
	int32_t    *rpn_samples;	/* (images, 2, rpn batch) */
	EngRpnTarget *rpn_targets;	/* (images) */

	/* regions of interest */
	int32_t		rois_per_image; /* most */
	int32_t		row_count;		/* images * rois_per_image */
	int32_t		live;			/* rows in use, one image after another */
	EngRoiSelection *selections;	/* (images) */
	float	   *selected_boxes; /* (images, rois_per_image, 4) */
	float	   *selected_targets;
	int32_t    *selected_labels;
	int32_t    *roi_match;		/* (images, post_top_n + truth) */
	int32_t		roi_match_stride;
	float	   *roi_boxes;		/* (rows, 4) */
	float	   *roi_targets;	/* (rows, 4) */
	int32_t    *roi_labels;		/* (rows), -1 beyond live */
	int32_t    *roi_image;		/* (rows), -1 beyond live */
	int32_t    *roi_level;		/* (rows) */

	/* results */
	EngRpnLoss	rpn_loss;
	EngRoiLoss	roi_loss;
	double		rpn_divisor;	/* of the losses, over all ranks; alone 0 */
	double		roi_divisor;
	EngDetectionList *detections;	/* (images) */
	float	   *detection_boxes;
	float	   *detection_scores;
	int32_t    *detection_labels;

	uint8_t    *scratch;		/* (threads, scratch_size) */
	size_t		scratch_size;
	void	  **blocks;			/* everything allocated, for free */
	int32_t		block_count;
	size_t		bytes;			/* all of the above */
	size_t		most_bytes;		/* that they may become; 0: no limit */
	void	   *device;			/* arrays of a backend with its own memory */
	uint64_t	moves;			/* how often these changed places */
	EngStatus  *making;			/* where eng_regions_create reports to */
} EngRegions;

typedef struct EngRegionsLimits
{
	int32_t		threads;
	size_t		most_bytes;		/* 0: no limit */
} EngRegionsLimits;

extern EngRegions *eng_regions_create(const EngDetectorConfig *config,
									  const EngPlanRequest *request,
									  EngRegionsLimits limits,
									  EngStatus *status);
extern void eng_regions_free(EngRegions *regions);

/* Room for the batch's boxes; keeps nothing. */
extern bool eng_regions_truth_room(EngRegions *regions, int32_t boxes,
								   EngStatus *status);

/*
 * Say that so many bytes come in place of others, before they are allocated;
 * false: that is over the limit.
 */
extern bool eng_regions_account(EngRegions *regions, size_t bytes,
								size_t instead_of, EngStatus *status);

/* At least size bytes of scratch for each thread. */
extern bool eng_regions_scratch(EngRegions *regions, size_t size,
								EngStatus *status);
extern void *eng_regions_thread_scratch(const EngRegions *regions,
										int32_t thread);

/* Where the samples of image i come from. */
extern EngSampleSource eng_regions_sample_source(const EngRegions *regions,
												 int32_t i, EngRandomUse use);

/* Whether images must be gone through in order (one generator for all). */
extern bool eng_regions_in_order(const EngRegions *regions);

/*
 * Of ranks on the host: what the losses are divided by, of all ranks from
 * each one's share, and then the two losses.  Alone they stay.
 */
extern double eng_regions_divisor(EngBackend *backend, double share);
extern void eng_regions_share_loss(EngBackend *backend, float *first,
								   float *second);

/* The operations, described by rpn.c and roi_heads.c. */
extern const EngOpClass eng_proposals_class;
extern const EngOpClass eng_rpn_loss_class;
extern const EngOpClass eng_roi_select_class;
extern const EngOpClass eng_roi_align_class;
extern const EngOpClass eng_roi_loss_class;
extern const EngOpClass eng_postprocess_class;

#endif
