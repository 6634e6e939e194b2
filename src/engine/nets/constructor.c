/*
 * engine/nets/constructor.c
 *		The Python expression that makes a detector's twin in torchvision.
 *
 * torchvision's two factories make the networks that have their names; every
 * other one is put together from the parts that they use.  Arguments that
 * are torchvision's defaults are left out.
 */
#include "engine/nets/constructor.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DETECTION	"torchvision.models.detection."
#define LIVE_NORM	"torch.nn.BatchNorm2d"

typedef enum ArgumentKind
{
	ARGUMENT_INT,
	ARGUMENT_FLOAT,
	ARGUMENT_DOUBLE
} ArgumentKind;

/* An argument of torchvision.models.detection.FasterRCNN. */
typedef struct Argument
{
	const char *name;
	ArgumentKind kind;
	size_t		offset;
	int			count;			/* over 1: a list */
} Argument;

#define ARGUMENT(name, kind) \
	{#name, kind, offsetof(EngDetectorConfig, name), 1}
#define ARGUMENTS(name, count) \
	{#name, ARGUMENT_FLOAT, offsetof(EngDetectorConfig, name), count}

static const Argument arguments[] = {
	ARGUMENT(max_size, ARGUMENT_INT),
	ARGUMENTS(image_mean, 3),
	ARGUMENTS(image_std, 3),
	ARGUMENT(size_divisible, ARGUMENT_INT),
	ARGUMENT(rpn_pre_nms_top_n_train, ARGUMENT_INT),
	ARGUMENT(rpn_pre_nms_top_n_test, ARGUMENT_INT),
	ARGUMENT(rpn_post_nms_top_n_train, ARGUMENT_INT),
	ARGUMENT(rpn_post_nms_top_n_test, ARGUMENT_INT),
	ARGUMENT(rpn_nms_thresh, ARGUMENT_DOUBLE),
	ARGUMENT(rpn_fg_iou_thresh, ARGUMENT_FLOAT),
	ARGUMENT(rpn_bg_iou_thresh, ARGUMENT_FLOAT),
	ARGUMENT(rpn_batch_size_per_image, ARGUMENT_INT),
	ARGUMENT(rpn_positive_fraction, ARGUMENT_DOUBLE),
	ARGUMENT(rpn_score_thresh, ARGUMENT_FLOAT),
	ARGUMENT(box_score_thresh, ARGUMENT_FLOAT),
	ARGUMENT(box_nms_thresh, ARGUMENT_DOUBLE),
	ARGUMENT(box_detections_per_img, ARGUMENT_INT),
	ARGUMENT(box_fg_iou_thresh, ARGUMENT_FLOAT),
	ARGUMENT(box_bg_iou_thresh, ARGUMENT_FLOAT),
	ARGUMENT(box_batch_size_per_image, ARGUMENT_INT),
	ARGUMENT(box_positive_fraction, ARGUMENT_DOUBLE),
	ARGUMENTS(bbox_reg_weights, 4)
};

#define ARGUMENT_COUNT	((int) (sizeof(arguments) / sizeof(arguments[0])))

static void
put(char *out, const char *format,...) __attribute__((format(printf, 2, 3)));

static void
put(char *out, const char *format,...)
{
	size_t		used = strlen(out);
	va_list		args;

	va_start(args, format);
	vsnprintf(out + used, ENG_CONSTRUCTOR_MAX - used, format, args);
	va_end(args);
}

/*
 * The shortest digits that give the same number back.
 */
static void
put_number(char *out, double value, bool is_float)
{
	char		text[40];
	int			digits = 1;

	do
		snprintf(text, sizeof(text), "%.*g", digits, value);
	while (digits++ < 17 &&
		   (is_float ? strtof(text, NULL) != (float) value :
			strtod(text, NULL) != value));
	put(out, "%s%s", text,
		strpbrk(text, ".e") == NULL && !is_float ? ".0" : "");
}

static void
put_element(char *out, const Argument *argument, const char *field, int i)
{
	switch (argument->kind)
	{
		case ARGUMENT_INT:
			put(out, "%d", ((const int32_t *) field)[i]);
			break;
		case ARGUMENT_FLOAT:
			put_number(out, ((const float *) field)[i], true);
			break;
		case ARGUMENT_DOUBLE:
			put_number(out, ((const double *) field)[i], false);
			break;
	}
}

static void
put_argument(char *out, const Argument *argument,
			 const EngDetectorConfig *config,
			 const EngDetectorConfig *defaults)
{
	size_t		size = argument->kind == ARGUMENT_DOUBLE ? 8 : 4;
	const char *field = (const char *) config + argument->offset;
	int			i;

	if (memcmp(field, (const char *) defaults + argument->offset,
			   size * argument->count) == 0)
		return;
	put(out, ", %s=%s", argument->name, argument->count > 1 ? "[" : "");
	for (i = 0; i < argument->count; i++)
	{
		put(out, "%s", i > 0 ? ", " : "");
		put_element(out, argument, field, i);
	}
	put(out, "%s", argument->count > 1 ? "]" : "");
}

static void
put_arguments(char *out, const EngDetectorConfig *config,
			  const EngDetectorConfig *defaults)
{
	int			i;

	if (config->min_size_count > 1)
	{
		put(out, ", min_size=[");
		for (i = 0; i < config->min_size_count; i++)
			put(out, "%s%d", i > 0 ? ", " : "", (int) config->min_sizes[i]);
		put(out, "]");
	}
	else if (config->min_sizes[0] != defaults->min_sizes[0])
		put(out, ", min_size=%d", (int) config->min_sizes[0]);
	if (config->fixed_width > 0)
		put(out, ", fixed_size=(%d, %d)", (int) config->fixed_width,
			(int) config->fixed_height);
	if (config->skip_resize)
		put(out, ", _skip_resize=True");
	if (config->box_roi_pool_output_size !=
		defaults->box_roi_pool_output_size ||
		config->box_roi_pool_sampling_ratio !=
		defaults->box_roi_pool_sampling_ratio)
		put(out, ", box_roi_pool=torchvision.ops.MultiScaleRoIAlign([\"0\", \"1\", \"2\", \"3\"], %d, %d)",
			(int) config->box_roi_pool_output_size,
			(int) config->box_roi_pool_sampling_ratio);
	for (i = 0; i < ARGUMENT_COUNT; i++)
		put_argument(out, &arguments[i], config, defaults);
}

/*
 * The class of the body's norms, whose eps can be chosen.
 */
static void
put_body_norm(char *out, const EngDetectorConfig *config,
			  const EngDetectorConfig *defaults)
{
	const char *class = config->body_norm == ENG_NORM_FROZEN ?
		"torchvision.ops.FrozenBatchNorm2d" : LIVE_NORM;

	if (config->norm_eps == defaults->norm_eps)
		put(out, "%s", class);
	else
	{
		put(out, "functools.partial(%s, eps=", class);
		put_number(out, config->norm_eps, true);
		put(out, ")");
	}
}

static void
put_backbone(char *out, const EngDetectorConfig *config,
			 const EngDetectorConfig *defaults)
{
	int			expansion = config->body_layers >= 50 ? 4 : 1;
	int			i;

	put(out, DETECTION "backbone_utils.BackboneWithFPN("
		"torchvision.models.resnet%d(weights=None, norm_layer=",
		(int) config->body_layers);
	put_body_norm(out, config, defaults);
	put(out, "), {\"layer1\": \"0\", \"layer2\": \"1\", \"layer3\": \"2\", "
		"\"layer4\": \"3\"}, [");
	for (i = 0; i < 4; i++)
		put(out, "%s%d", i > 0 ? ", " : "",
			(int) config->widths[i] * expansion);
	put(out, "], %d, norm_layer=%s)", (int) config->fpn_channels,
		config->fpn_norm ? LIVE_NORM : "None");
}

/*
 * A tuple of numbers for each level.
 */
static void
put_lists(char *out, const float lists[ENG_RPN_LEVELS][ENG_ANCHOR_LIST],
		  int count)
{
	int			level;
	int			i;

	for (level = 0; level < ENG_RPN_LEVELS; level++)
	{
		put(out, "%s(", level > 0 ? ", " : "");
		for (i = 0; i < count; i++)
		{
			put_number(out, lists[level][i], true);
			put(out, "%s", i < count - 1 ? ", " : count == 1 ? "," : "");
		}
		put(out, ")");
	}
}

static void
put_anchors(char *out, const EngAnchorRule *rule)
{
	put(out, ", rpn_anchor_generator=" DETECTION
		"anchor_utils.AnchorGenerator((");
	put_lists(out, rule->sizes, rule->size_count);
	put(out, "), (");
	put_lists(out, rule->ratios, rule->ratio_count);
	put(out, "))");
}

static void
put_heads(char *out, const EngDetectorConfig *config)
{
	int			channels = config->fpn_channels;
	int			side = config->box_roi_pool_output_size;

	put(out, ", rpn_head=" DETECTION "rpn.RPNHead(%d, %d, conv_depth=%d)",
		channels,
		(int) (config->anchors.size_count * config->anchors.ratio_count),
		(int) config->rpn_conv_depth);
	if (config->box_head_convs > 0)
		put(out, ", box_head=" DETECTION
			"faster_rcnn.FastRCNNConvFCHead((%d, %d, %d), [%d] * %d, [%d], norm_layer=" LIVE_NORM ")",
			channels, side, side, channels, (int) config->box_head_convs,
			(int) config->representation_size);
	else
		put(out, ", box_head=" DETECTION
			"faster_rcnn.TwoMLPHead(%d, %d)", channels * side * side,
			(int) config->representation_size);
	put(out, ", box_predictor=" DETECTION
		"faster_rcnn.FastRCNNPredictor(%d, %d)",
		(int) config->representation_size, (int) config->num_classes);
}

/*
 * The factory that makes this network, or NULL.
 */
static const char *
factory(const EngDetectorConfig *config)
{
	static const char *const names[] = {
		"fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2"
	};
	int			i;

	for (i = 0; i < 2; i++)
	{
		EngDetectorConfig made;
		EngStatus	status = {ENG_OK, ""};

		if (eng_detector_config_parse(&made, names[i], NULL, 0, &status) &&
			made.body_layers == config->body_layers &&
			made.body_norm == config->body_norm &&
			made.norm_eps == config->norm_eps &&
			made.fpn_channels == config->fpn_channels &&
			made.fpn_norm == config->fpn_norm &&
			made.rpn_conv_depth == config->rpn_conv_depth &&
			made.box_head_convs == config->box_head_convs &&
			made.representation_size == config->representation_size &&
			made.box_roi_pool_output_size ==
			config->box_roi_pool_output_size &&
			memcmp(&made.anchors, &config->anchors,
				   sizeof(made.anchors)) == 0)
			return names[i];
	}
	return NULL;
}

bool
eng_detector_constructor(const EngDetectorConfig *config,
						 char out[ENG_CONSTRUCTOR_MAX])
{
	EngDetectorConfig defaults;
	EngStatus	status = {ENG_OK, ""};

	out[0] = '\0';
	if (!eng_detector_config_parse(&defaults, "fasterrcnn_resnet50_fpn", NULL,
								   0, &status) ||
		memcmp(config->widths, defaults.widths, sizeof(defaults.widths)) != 0)
	{
		put(out, "none: torchvision has no ResNet-%d of these widths",
			(int) config->body_layers);
		return false;
	}
	if (factory(config) != NULL)
		put(out, DETECTION "%s(weights=None, weights_backbone=None, num_classes=%d",
			factory(config), (int) config->num_classes);
	else
	{
		put(out, DETECTION "FasterRCNN(");
		put_backbone(out, config, &defaults);
		put(out, ", num_classes=None");
		put_anchors(out, &config->anchors);
		put_heads(out, config);
	}
	put_arguments(out, config, &defaults);
	put(out, ")");
	if (strlen(out) < ENG_CONSTRUCTOR_MAX - 1)
		return true;
	strcpy(out, "none: the expression is too long");
	return false;
}
