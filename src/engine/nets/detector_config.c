/*
 * engine/nets/detector_config.c
 *		Everything that makes one detector different from another.
 */
#include "engine/nets/detector_config.h"

#include <jansson.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

typedef enum OptionKind
{
	OPTION_INT,
	OPTION_FLOAT,
	OPTION_DOUBLE,
	OPTION_BOOL,
	OPTION_SPECIAL				/* has a function of its own */
} OptionKind;

typedef struct Option
{
	const char *name;
	OptionKind	kind;
	size_t		offset;
	double		least;
	double		most;
} Option;

#define INT_OPTION(name, least, most) \
	{#name, OPTION_INT, offsetof(EngDetectorConfig, name), least, most}
#define FLOAT_OPTION(name, least, most) \
	{#name, OPTION_FLOAT, offsetof(EngDetectorConfig, name), least, most}
#define DOUBLE_OPTION(name, least, most) \
	{#name, OPTION_DOUBLE, offsetof(EngDetectorConfig, name), least, most}

/* By name. */
static const Option options[] = {
	{"anchor_sizes", OPTION_SPECIAL, 0, 1, 4096},
	{"aspect_ratios", OPTION_SPECIAL, 0, 0.01, 100},
	{"bbox_reg_weights", OPTION_SPECIAL, 0, 0.001, 1000},
	FLOAT_OPTION(box_bg_iou_thresh, 0, 1),
	INT_OPTION(box_batch_size_per_image, 1, 4096),
	INT_OPTION(box_detections_per_img, 1, 10000),
	FLOAT_OPTION(box_fg_iou_thresh, 0, 1),
	{"box_head", OPTION_SPECIAL, 0, 0, 0},
	DOUBLE_OPTION(box_nms_thresh, 0, 1),
	DOUBLE_OPTION(box_positive_fraction, 0, 1),
	FLOAT_OPTION(box_score_thresh, 0, 1),
	INT_OPTION(fpn_channels, 4, 2048),
	{"fpn_norm", OPTION_BOOL, offsetof(EngDetectorConfig, fpn_norm), 0, 1},
	{"image_mean", OPTION_SPECIAL, 0, -100, 100},
	{"image_std", OPTION_SPECIAL, 0, 1e-6, 100},
	INT_OPTION(max_size, 32, 16384),
	{"min_size", OPTION_SPECIAL, 0, 32, 16384},
	{"nms", OPTION_SPECIAL, 0, 0, 0},
	{"norm", OPTION_SPECIAL, 0, 0, 0},
	FLOAT_OPTION(norm_eps, 0, 1),
	INT_OPTION(representation_size, 4, 8192),
	INT_OPTION(rpn_batch_size_per_image, 1, 4096),
	FLOAT_OPTION(rpn_bg_iou_thresh, 0, 1),
	INT_OPTION(rpn_conv_depth, 1, 8),
	FLOAT_OPTION(rpn_fg_iou_thresh, 0, 1),
	DOUBLE_OPTION(rpn_nms_thresh, 0, 1),
	DOUBLE_OPTION(rpn_positive_fraction, 0, 1),
	INT_OPTION(rpn_post_nms_top_n_test, 1, 20000),
	INT_OPTION(rpn_post_nms_top_n_train, 1, 20000),
	INT_OPTION(rpn_pre_nms_top_n_test, 1, 20000),
	INT_OPTION(rpn_pre_nms_top_n_train, 1, 20000),
	FLOAT_OPTION(rpn_score_thresh, 0, 1),
	{"scale_rule", OPTION_SPECIAL, 0, 0, 0},
	{"widths", OPTION_SPECIAL, 0, 4, 4096}
};

#define OPTION_COUNT	((int) (sizeof(options) / sizeof(options[0])))

const char *
eng_detector_architectures(void)
{
	return "fasterrcnn_resnet18_fpn, fasterrcnn_resnet18_fpn_v2, "
		"fasterrcnn_resnet34_fpn, fasterrcnn_resnet34_fpn_v2, "
		"fasterrcnn_resnet50_fpn, fasterrcnn_resnet50_fpn_v2, small";
}

void
eng_detector_option_names(char *out, int32_t size)
{
	int32_t		used = 0;
	int			i;

	out[0] = '\0';
	for (i = 0; i < OPTION_COUNT && used < size; i++)
		used += snprintf(out + used, size - used, "%s%s", i ? ", " : "",
						 options[i].name);
}

static void
set_widths(EngDetectorConfig *c, int32_t first)
{
	int			i;

	for (i = 0; i < 4; i++)
		c->widths[i] = first << i;
}

static void
set_anchor_sizes(EngAnchorRule *rule, float smallest)
{
	int			level;

	memset(rule, 0, sizeof(*rule));
	for (level = 0; level < ENG_RPN_LEVELS; level++)
		rule->sizes[level][0] = smallest * (float) (1 << level);
	rule->size_count = 1;
	rule->ratios[0] = 0.5f;
	rule->ratios[1] = 1.0f;
	rule->ratios[2] = 2.0f;
	rule->ratio_count = 3;
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
	c->norm_eps = 1e-5f;
	c->fpn_channels = 256;
	c->rpn_conv_depth = 1;
	set_anchor_sizes(&c->anchors, 32);
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
	set_anchor_sizes(&c->anchors, 8);
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
					"unknown architecture \"%s\"; known are %s", name,
					eng_detector_architectures());
}

static bool
bad_value(const Option *option, const char *want, EngStatus *status)
{
	return eng_fail(status, ENG_BAD_ARGUMENT,
					"option \"%s\" must be %s", option->name, want);
}

static bool
number_in_range(const Option *option, const json_t *value, double *out,
				EngStatus *status)
{
	char		want[80];

	if (json_is_number(value))
	{
		*out = json_number_value(value);
		if (isfinite(*out) && *out >= option->least && *out <= option->most)
			return true;
	}
	snprintf(want, sizeof(want), "a number from %g to %g", option->least,
			 option->most);
	return bad_value(option, want, status);
}

/*
 * A number, or an array of least..most numbers; *count is set.
 */
static bool
read_numbers(const Option *option, const json_t *value, float *out,
			 int32_t *count, int32_t most, EngStatus *status)
{
	double		number = 0;
	size_t		i;

	if (!json_is_array(value))
	{
		*count = 1;
		if (!number_in_range(option, value, &number, status))
			return false;
		out[0] = (float) number;
		return true;
	}
	if (json_array_size(value) < 1 || json_array_size(value) > (size_t) most)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"option \"%s\" must have 1 to %d elements",
						option->name, most);
	*count = (int32_t) json_array_size(value);
	for (i = 0; i < json_array_size(value); i++)
	{
		if (!number_in_range(option, json_array_get(value, i), &number,
							 status))
			return false;
		out[i] = (float) number;
	}
	return true;
}

static bool
read_exactly(const Option *option, const json_t *value, float *out,
			 int32_t count, EngStatus *status)
{
	float		numbers[8];
	int32_t		got;

	if (!read_numbers(option, value, numbers, &got, 8, status))
		return false;
	if (got != count)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"option \"%s\" must have %d elements", option->name,
						count);
	memcpy(out, numbers, count * sizeof(float));
	return true;
}

/*
 * Five elements, one a level; each a size or an array of sizes.
 */
static bool
read_anchor_sizes(EngDetectorConfig *c, const Option *option,
				  const json_t *value, EngStatus *status)
{
	int			level;

	if (!json_is_array(value) || json_array_size(value) != ENG_RPN_LEVELS)
		return bad_value(option, "an array of 5 sizes or arrays of sizes",
						 status);
	for (level = 0; level < ENG_RPN_LEVELS; level++)
	{
		int32_t		count;

		if (!read_numbers(option, json_array_get(value, level),
						  c->anchors.sizes[level], &count, 4, status))
			return false;
		if (level > 0 && count != c->anchors.size_count)
			return bad_value(option, "of one length on every level", status);
		c->anchors.size_count = count;
	}
	return true;
}

static bool
read_min_size(EngDetectorConfig *c, const Option *option,
			  const json_t *value, EngStatus *status)
{
	float		sizes[ENG_MIN_SIZES_MAX];
	int			i;

	if (!read_numbers(option, value, sizes, &c->min_size_count,
					  ENG_MIN_SIZES_MAX, status))
		return false;
	for (i = 0; i < c->min_size_count; i++)
	{
		c->min_sizes[i] = (int32_t) sizes[i];
		if (c->min_sizes[i] != sizes[i])
			return bad_value(option, "whole numbers", status);
	}
	return true;
}

static bool
read_widths(EngDetectorConfig *c, const Option *option, const json_t *value,
			EngStatus *status)
{
	float		widths[4];
	int			i;

	if (!read_exactly(option, value, widths, 4, status))
		return false;
	for (i = 0; i < 4; i++)
	{
		c->widths[i] = (int32_t) widths[i];
		if (c->widths[i] != widths[i])
			return bad_value(option, "whole numbers", status);
	}
	return true;
}

/*
 * One of several words; *out is its place.
 */
static bool
read_word(const Option *option, const json_t *value,
		  const char *const *words, int *out, EngStatus *status)
{
	char		want[80];
	int			i;

	for (i = 0; words[i] != NULL; i++)
		if (json_is_string(value) &&
			strcmp(json_string_value(value), words[i]) == 0)
		{
			*out = i;
			return true;
		}
	snprintf(want, sizeof(want), "one of %s, %s%s%s", words[0], words[1],
			 words[2] ? ", " : "", words[2] ? words[2] : "");
	return bad_value(option, want, status);
}

static bool
read_special(EngDetectorConfig *c, const Option *option, const json_t *value,
			 EngStatus *status)
{
	static const char *const heads[] = {"mlp", "conv", NULL};
	static const char *const norms[] = {"batch", "frozen", NULL};
	static const char *const rules[] = {"f64", "f32", NULL};
	static const char *const kinds[] = {"auto", "offset", "loop", NULL};
	const char *name = option->name;
	int			word = 0;

	if (strcmp(name, "anchor_sizes") == 0)
		return read_anchor_sizes(c, option, value, status);
	if (strcmp(name, "aspect_ratios") == 0)
		return read_numbers(option, value, c->anchors.ratios,
							&c->anchors.ratio_count, 4, status);
	if (strcmp(name, "bbox_reg_weights") == 0)
		return read_exactly(option, value, c->bbox_reg_weights, 4, status);
	if (strcmp(name, "image_mean") == 0)
		return read_exactly(option, value, c->image_mean, 3, status);
	if (strcmp(name, "image_std") == 0)
		return read_exactly(option, value, c->image_std, 3, status);
	if (strcmp(name, "min_size") == 0)
		return read_min_size(c, option, value, status);
	if (strcmp(name, "widths") == 0)
		return read_widths(c, option, value, status);
	if (strcmp(name, "box_head") == 0)
	{
		if (!read_word(option, value, heads, &word, status))
			return false;
		c->box_head_convs = word == 0 ? 0 : 4;
	}
	else if (strcmp(name, "nms") == 0)
	{
		if (!read_word(option, value, kinds, &word, status))
			return false;
		c->nms_kind = (EngNmsKind) word;
	}
	else if (strcmp(name, "norm") == 0)
	{
		if (!read_word(option, value, norms, &word, status))
			return false;
		c->body_norm = (EngNormKind) word;
	}
	else
	{
		if (!read_word(option, value, rules, &word, status))
			return false;
		c->scale_rule = (EngScaleRule) word;
	}
	return true;
}

static bool
read_option(EngDetectorConfig *c, const Option *option, const json_t *value,
			EngStatus *status)
{
	void	   *field = (char *) c + option->offset;
	double		number = 0;
	int32_t		whole;

	switch (option->kind)
	{
		case OPTION_INT:
			if (!number_in_range(option, value, &number, status))
				return false;
			whole = (int32_t) number;
			if (whole != number)
				return bad_value(option, "a whole number", status);
			memcpy(field, &whole, sizeof(whole));
			return true;
		case OPTION_FLOAT:
			if (!number_in_range(option, value, &number, status))
				return false;
			*(float *) field = (float) number;
			return true;
		case OPTION_DOUBLE:
			if (!number_in_range(option, value, &number, status))
				return false;
			*(double *) field = number;
			return true;
		case OPTION_BOOL:
			if (!json_is_boolean(value))
				return bad_value(option, "true or false", status);
			*(bool *) field = json_is_true(value);
			return true;
		case OPTION_SPECIAL:
			break;
	}
	return read_special(c, option, value, status);
}

static bool
unknown_option(const char *name, EngStatus *status)
{
	char		names[1024];

	eng_detector_option_names(names, sizeof(names));
	return eng_fail(status, ENG_BAD_ARGUMENT,
					"unknown option \"%.40s\" of a detector; known are %s",
					name, names);
}

static bool
read_options(EngDetectorConfig *c, const char *text, EngStatus *status)
{
	json_error_t error;
	json_t	   *root = json_loads(text, JSON_REJECT_DUPLICATES, &error);
	const char *name;
	json_t	   *value;
	bool		ok = true;
	int			i;

	if (root == NULL)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"options of the detector are not JSON: %s",
						error.text);
	if (!json_is_object(root))
	{
		json_decref(root);
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"options of the detector must be a JSON object");
	}
	json_object_foreach(root, name, value)
	{
		for (i = 0; i < OPTION_COUNT; i++)
			if (strcmp(options[i].name, name) == 0)
				break;
		ok = i < OPTION_COUNT ? read_option(c, &options[i], value, status) :
			unknown_option(name, status);
		if (!ok)
			break;
	}
	json_decref(root);
	return ok;
}

bool
eng_detector_config_check(const EngDetectorConfig *c, EngStatus *status)
{
	int			i;

	if (c->num_classes < 2 || c->num_classes > 10000)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"a detector has 2 to 10000 classes, background included, not %d",
						c->num_classes);
	if (c->anchors.size_count * c->anchors.ratio_count > ENG_CELL_ANCHORS)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"more than %d anchors a cell", ENG_CELL_ANCHORS);
	if (c->rpn_bg_iou_thresh > c->rpn_fg_iou_thresh)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"option \"rpn_bg_iou_thresh\" is above \"rpn_fg_iou_thresh\"");
	if (c->box_bg_iou_thresh > c->box_fg_iou_thresh)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"option \"box_bg_iou_thresh\" is above \"box_fg_iou_thresh\"");
	for (i = 0; i < c->min_size_count; i++)
		if (c->min_sizes[i] > c->max_size)
			return eng_fail(status, ENG_BAD_ARGUMENT,
							"option \"min_size\" is above \"max_size\"");
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
		!read_options(config, options_json, status))
		return false;
	return eng_detector_config_check(config, status);
}
