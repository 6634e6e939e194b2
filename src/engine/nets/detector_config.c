/*
 * engine/nets/detector_config.c
 *		Everything that makes one detector different from another.
 */
#include "engine/nets/detector_config.h"

#include <stdio.h>
#include <string.h>

const char *
eng_detector_architectures(void)
{
	return "fasterrcnn_resnet18_fpn, fasterrcnn_resnet18_fpn_v2, "
		"fasterrcnn_resnet34_fpn, fasterrcnn_resnet34_fpn_v2, "
		"fasterrcnn_resnet50_fpn, fasterrcnn_resnet50_fpn_v2, small";
}

static void
set_widths(EngDetectorConfig *c, int32_t first)
{
	int			i;

	for (i = 0; i < 4; i++)
		c->widths[i] = first << i;
}

void
eng_detector_anchors(EngAnchorRule *rule, float smallest)
{
	int			level;

	memset(rule, 0, sizeof(*rule));
	for (level = 0; level < ENG_RPN_LEVELS; level++)
	{
		rule->sizes[level][0] = smallest * (float) (1 << level);
		rule->ratios[level][0] = 0.5f;
		rule->ratios[level][1] = 1.0f;
		rule->ratios[level][2] = 2.0f;
	}
	rule->size_count = 1;
	rule->ratio_count = 3;
}

EngResizeRule
eng_detector_resize(const EngDetectorConfig *config, bool train)
{
	EngResizeRule rule = {
		.min_size = config->min_sizes[config->min_size_count - 1],
		.max_size = config->max_size, .scale = config->scale_rule,
		.keep = train && config->skip_resize,
		.fixed_width = config->fixed_width,
		.fixed_height = config->fixed_height
	};

	return rule;
}

/*
 * torchvision's defaults of FasterRCNN.
 */
static void
set_defaults(EngDetectorConfig *c)
{
	static const float mean[3] = {0.485f, 0.456f, 0.406f};
	static const float std[3] = {0.229f, 0.224f, 0.225f};
	static const float weights[4] = {10, 10, 5, 5};

	memset(c, 0, sizeof(*c));
	c->num_classes = 91;
	c->body_layers = 50;
	set_widths(c, 64);
	c->norm_eps = ENG_NORM_EPS;
	c->fpn_channels = 256;
	c->rpn_conv_depth = 1;
	eng_detector_anchors(&c->anchors, 32);
	c->rpn_pre_nms_top_n_train = 2000;
	c->rpn_pre_nms_top_n_test = 1000;
	c->rpn_post_nms_top_n_train = 2000;
	c->rpn_post_nms_top_n_test = 1000;
	c->rpn_nms_thresh = 0.7;
	c->rpn_fg_iou_thresh = 0.7f;
	c->rpn_bg_iou_thresh = 0.3f;
	c->rpn_batch_size_per_image = 256;
	c->rpn_positive_fraction = 0.5f;
	c->representation_size = 1024;
	c->box_roi_pool_output_size = 7;
	c->box_roi_pool_sampling_ratio = 2;
	c->box_score_thresh = 0.05f;
	c->box_nms_thresh = 0.5;
	c->box_detections_per_img = 100;
	c->box_fg_iou_thresh = 0.5f;
	c->box_bg_iou_thresh = 0.5f;
	c->box_batch_size_per_image = 512;
	c->box_positive_fraction = 0.25f;
	memcpy(c->bbox_reg_weights, weights, sizeof(weights));
	c->min_sizes[0] = 800;
	c->min_size_count = 1;
	c->max_size = 1333;
	memcpy(c->image_mean, mean, sizeof(mean));
	memcpy(c->image_std, std, sizeof(std));
	c->size_divisible = 32;
}

/*
 * A detector for frames of 320x180 on machines without a GPU.
 */
static void
set_small(EngDetectorConfig *c)
{
	c->body_layers = 18;
	set_widths(c, 32);
	c->fpn_channels = 64;
	c->representation_size = 256;
	eng_detector_anchors(&c->anchors, 8);
	c->rpn_batch_size_per_image = 128;
	c->rpn_pre_nms_top_n_train = c->rpn_pre_nms_top_n_test = 300;
	c->rpn_post_nms_top_n_train = 200;
	c->rpn_post_nms_top_n_test = 150;
	c->box_batch_size_per_image = 32;
	c->min_sizes[0] = 180;
	c->max_size = 320;
}

static bool
set_architecture(EngDetectorConfig *c, const char *name, EngStatus *status)
{
	static const int32_t layers[3] = {18, 34, 50};
	char		known[48];
	int			i;

	set_defaults(c);
	snprintf(c->architecture, sizeof(c->architecture), "%s", name);
	if (strcmp(name, "small") == 0)
	{
		set_small(c);
		return true;
	}
	for (i = 0; i < 3; i++)
	{
		c->body_layers = layers[i];
		snprintf(known, sizeof(known), "fasterrcnn_resnet%d_fpn",
				 (int) layers[i]);
		if (strcmp(name, known) == 0)
			return true;
		strcat(known, "_v2");
		if (strcmp(name, known) == 0)
		{
			c->fpn_norm = true;
			c->rpn_conv_depth = 2;
			c->box_head_convs = 4;
			return true;
		}
	}
	return eng_fail(status, ENG_BAD_ARGUMENT,
					"unknown architecture \"%.64s\"; known are %s, clip_vit_b32", name,
					eng_detector_architectures());
}

bool
eng_detector_config_check(const EngDetectorConfig *c, EngStatus *status)
{
	if (c->num_classes < 2 || c->num_classes > 10000)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"a detector has 2 to 10000 classes, background included, not %d",
						c->num_classes);
	if (c->anchors.size_count * c->anchors.ratio_count > ENG_CELL_ANCHORS)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"options \"anchor_sizes\" and \"aspect_ratios\" make %d anchors a cell, more than %d",
						c->anchors.size_count * c->anchors.ratio_count,
						ENG_CELL_ANCHORS);
	if (c->rpn_bg_iou_thresh > c->rpn_fg_iou_thresh)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"option \"rpn_bg_iou_thresh\" is above \"rpn_fg_iou_thresh\"");
	if (c->box_bg_iou_thresh > c->box_fg_iou_thresh)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"option \"box_bg_iou_thresh\" is above \"box_fg_iou_thresh\"");
	if (c->size_divisible % 32 != 0)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"option \"size_divisible\" must be a multiple of 32, the body's stride");
	if (c->box_roi_pool_output_size * c->box_roi_pool_sampling_ratio >
		ENG_ROI_SAMPLES)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"option \"box_roi_pool_output_size\" times \"box_roi_pool_sampling_ratio\" is above %d",
						ENG_ROI_SAMPLES);
	return true;
}

bool
eng_detector_config_parse(EngDetectorConfig *config, const char *architecture,
						  const char *options_json, int num_classes,
						  EngStatus *status)
{
	if (!set_architecture(config, architecture, status))
		return false;
	if (num_classes != 0)
		config->num_classes = num_classes;
	if (options_json != NULL && options_json[0] != '\0' &&
		!eng_detector_options_read(config, options_json, status))
		return false;
	return eng_detector_config_check(config, status);
}
