/*
 * engine/nets/detector_config.h
 *		Everything that makes one detector different from another.
 *
 * The fields carry torchvision's constructor arguments under torchvision's
 * names and defaults; what torchvision leaves to other constructors (channels
 * of the pyramid, anchors, norm) has names of ours.  detector_config.c and
 * detector_options.c know nothing of networks: the server links them to check
 * options early.
 */
#ifndef ENG_NETS_DETECTOR_CONFIG_H
#define ENG_NETS_DETECTOR_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/ops/detection.h"
#include "engine/status.h"

#define ENG_MIN_SIZES_MAX	16
#define ENG_NORM_EPS		1e-5f

typedef enum EngNormKind
{
	ENG_NORM_BATCH = 0,			/* batch statistics in training */
	ENG_NORM_FROZEN,			/* four buffers, nothing to train */
	ENG_NORM_NONE
} EngNormKind;

typedef struct EngDetectorConfig
{
	char		architecture[48];
	int32_t		num_classes;	/* background included */

	/* body: a ResNet */
	int32_t		body_layers;	/* 18, 34 or 50 */
	int32_t		widths[4];		/* of layer1..4, the stem as layer1: 64.. */
	EngNormKind body_norm;		/* option "norm": "batch" or "frozen" */
	float		norm_eps;		/* of the body's norms, the others have
								 * ENG_NORM_EPS; v1 weights of torchvision: 0 */

	/* feature pyramid */
	int32_t		fpn_channels;	/* 256 */
	bool		fpn_norm;		/* v2: convolution without bias, then norm */

	/* region proposals */
	int32_t		rpn_conv_depth; /* v1 1, v2 2 */
	EngAnchorRule anchors;		/* options "anchor_sizes", "aspect_ratios" */
	int32_t		rpn_pre_nms_top_n_train;
	int32_t		rpn_pre_nms_top_n_test;
	int32_t		rpn_post_nms_top_n_train;
	int32_t		rpn_post_nms_top_n_test;
	double		rpn_nms_thresh; /* in double, as torch compares it */
	float		rpn_fg_iou_thresh;
	float		rpn_bg_iou_thresh;
	int32_t		rpn_batch_size_per_image;
	double		rpn_positive_fraction;
	float		rpn_score_thresh;

	/* heads of the regions of interest */
	int32_t		box_head_convs; /* option "box_head": "mlp" 0: two linear
								 * layers (v1); "conv" 4, then one (v2) */
	int32_t		representation_size;	/* 1024 */
	int32_t		box_roi_pool_output_size;	/* 7: cells a side */
	int32_t		box_roi_pool_sampling_ratio;	/* 2: samples a cell and axis */
	float		box_score_thresh;
	double		box_nms_thresh;
	int32_t		box_detections_per_img;
	float		box_fg_iou_thresh;
	float		box_bg_iou_thresh;
	int32_t		box_batch_size_per_image;
	double		box_positive_fraction;
	float		bbox_reg_weights[4];

	/* input */
	int32_t		min_sizes[ENG_MIN_SIZES_MAX];	/* option "min_size": one, or
												 * several: drawn in training,
												 * the last in inference */
	int32_t		min_size_count;
	int32_t		max_size;
	float		image_mean[3];
	float		image_std[3];
	int32_t		size_divisible; /* 32, or a multiple */
	int32_t		fixed_width;	/* option "fixed_size", [width, height]: every
								 * frame becomes this large; 0: none */
	int32_t		fixed_height;
	bool		skip_resize;	/* option "_skip_resize": no resize in training */
	EngScaleRule scale_rule;	/* option "scale_rule": "f64" or "f32" */
	EngNmsKind	nms_kind;		/* option "nms": "auto", "offset", "loop" */
	EngSampleMode sampler;		/* option "sampler": "counter", or "mt19937",
								 * torch's after manual_seed(seed + batch) */
} EngDetectorConfig;

/*
 * Fill in the configuration of an architecture:
 * fasterrcnn_{resnet18,resnet34,resnet50}_fpn, the same with _v2, small;
 * then apply options_json, a JSON object, or NULL.  num_classes 0: 91.
 * An unknown architecture or option is an error that lists the known ones.
 */
extern bool eng_detector_config_parse(EngDetectorConfig *config,
									  const char *architecture,
									  const char *options_json,
									  int num_classes, EngStatus *status);

/* detector_options.c: the options alone; no check that they fit together. */
extern bool eng_detector_options_read(EngDetectorConfig *config,
									  const char *options_json,
									  EngStatus *status);

/* Check that the fields fit together; parse has done so already. */
extern bool eng_detector_config_check(const EngDetectorConfig *config,
									  EngStatus *status);

/* Names of all architectures, of all options, separated by ", ". */
extern const char *eng_detector_architectures(void);
extern void eng_detector_option_names(char *out, int32_t size);

/* Anchors of torchvision's form: one size a level, doubling, three ratios. */
extern void eng_detector_anchors(EngAnchorRule *rule, float smallest);

/* How frames are resized; training may still draw min_size. */
extern EngResizeRule eng_detector_resize(const EngDetectorConfig *config,
										 bool train);

#endif
