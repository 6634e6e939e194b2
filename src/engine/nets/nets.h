/*
 * engine/nets/nets.h
 *		Parts that a Faster R-CNN is put together from.
 *
 * Each function appends operations to a model and registers their weights in
 * torch's order under torch's names.
 */
#ifndef ENG_NETS_NETS_H
#define ENG_NETS_NETS_H

#include "engine/core/plan.h"
#include "engine/nets/detector_config.h"

#define ENG_BODY_STAGES		4	/* c2..c5 */

typedef struct EngWeightSpec
{
	const char *prefix;			/* "backbone.body.conv1" */
	int32_t		out;
	int32_t		in;
	int32_t		k;
	int32_t		map_size;		/* linear layer behind RoI maps: 7, else 0 */
	int32_t		body_stage;		/* -1: not of the body */
	EngInitRule init;
	float		scale;
} EngWeightSpec;

/* weights.c */
extern int32_t eng_net_conv_weight(EngModel *model,
								   const EngWeightSpec *spec);
extern int32_t eng_net_linear_weight(EngModel *model,
									 const EngWeightSpec *spec);
/* bias of spec->out elements: uniform of +-bound, 0 for zero */
extern int32_t eng_net_bias(EngModel *model, const EngWeightSpec *spec,
							float bound);
extern EngNormParameters eng_net_norm(EngModel *model, const char *prefix,
									  int32_t channels, int32_t body_stage,
									  EngNormKind kind, float eps);

/*
 * resnet.c: c2..c5 of the model's input; full_start: float up to c2 in bf16,
 * too, without training
 */
extern void eng_resnet(EngModel *model, const EngDetectorConfig *config,
					   bool full_start, int32_t maps[ENG_BODY_STAGES]);
/* Channels of map stage, 0 for c2. */
extern int32_t eng_resnet_channels(const EngDetectorConfig *config,
								   int32_t stage);

/* fpn.c: p2..p6 from c2..c5 */
extern void eng_fpn(EngModel *model, const EngDetectorConfig *config,
					const int32_t maps[ENG_BODY_STAGES],
					int32_t pyramid[ENG_RPN_LEVELS]);

/* rpn.c: head on p2..p6, proposals and, in training, losses */
extern void eng_rpn(EngModel *model, const EngDetectorConfig *config,
					const int32_t pyramid[ENG_RPN_LEVELS], bool train);

/* roi_heads.c: RoIs, head, predictor, and losses or detections */
extern void eng_roi_heads(EngModel *model, const EngDetectorConfig *config,
						  const int32_t pyramid[ENG_RPN_LEVELS], bool train);

#endif
