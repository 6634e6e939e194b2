/*
 * engine/nets/region_ops.h
 *		The operations between the networks, for a backend with a memory of
 *		its own.
 *
 * On the host, rpn.c, roi_heads.c and detector_step.c go through the images
 * with the functions of ops/detection.h.  A device has no use for these: its
 * arrays are where the host cannot look, and what comes of one operation (how
 * many proposals, which samples) must be found by the next without waiting
 * for the host.  So it has the operations whole, each for all images, and
 * keeps its arrays beside the EngRegions of a plan, in ->device.
 *
 * The host's EngRegions says what the batch is (sizes, positions, ground
 * truth, seed, step); losses or detections come back to it in `results`,
 * everything else that a test may look at in `look`.
 */
#ifndef ENG_NETS_REGION_OPS_H
#define ENG_NETS_REGION_OPS_H

#include "engine/nets/regions.h"

typedef struct EngRegionOps
{
	/* arrays for a plan whose shapes are known; pyramid is set */
	bool		(*open) (EngPlan *plan, EngRegions *regions,
						 EngStatus *status);
	void		(*close) (EngBackend *backend, EngRegions *regions);

	/* the batch's pixels into the plan's input, its truth beside it */
	bool		(*input) (EngPlan *plan, EngRegions *regions,
						  const EngFrame *frames, EngStatus *status);

	/* maps: logits of all levels, then their deltas, on the device */
	bool		(*proposals) (EngPlan *plan, EngRegions *regions,
							  const EngRpnMaps *maps, EngStatus *status);
	bool		(*rpn_loss) (EngPlan *plan, EngRegions *regions,
							 const EngRpnMaps *maps, EngStatus *status);
	bool		(*rpn_loss_backward) (EngPlan *plan, EngRegions *regions,
									  const EngRpnMaps *maps,
									  const EngRpnGradients *gradients,
									  EngStatus *status);

	/* the rows of RoIs; sets plan->live_entries */
	bool		(*select) (EngPlan *plan, EngRegions *regions,
						   EngStatus *status);
	EngRois		(*rois) (const EngRegions *regions);

	bool		(*roi_loss) (EngPlan *plan, EngRegions *regions,
							 const float *logits, const float *deltas,
							 EngStatus *status);
	bool		(*roi_loss_backward) (EngPlan *plan, EngRegions *regions,
									  const float *logits,
									  const float *deltas, float *dlogits,
									  float *ddeltas, EngStatus *status);
	bool		(*postprocess) (EngPlan *plan, EngRegions *regions,
								const float *logits, const float *deltas,
								EngStatus *status);

	/* waits: losses, or detections, into the host's regions */
	bool		(*results) (EngPlan *plan, EngRegions *regions,
							EngStatus *status);
	/* proposals, matches, samples, RoIs into the host's regions */
	bool		(*look) (EngPlan *plan, EngRegions *regions,
						 EngStatus *status);
} EngRegionOps;

#endif
