/*
 * engine/nets/detector_options.c
 *		Options of a detector, by name: their kinds and ranges.
 *
 * null stands for the default of every option, as None does in torchvision.
 */
#include <jansson.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "engine/nets/detector_config.h"

#define LIST_MOST	16			/* numbers in one array */

typedef struct Option Option;

typedef bool (*Reader) (EngDetectorConfig *config, const Option *option,
						const json_t *value, EngStatus *status);

struct Option
{
	const char *name;
	Reader		read;
	size_t		offset;			/* of the field */
	double		least;
	double		most;
};

static bool
bad_value(const Option *option, const char *want, EngStatus *status)
{
	return eng_fail(status, ENG_BAD_ARGUMENT,
					"option \"%s\" must be %s", option->name, want);
}

/* ---- numbers ------------------------------------------------------------- */

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

static bool
whole_in_range(const Option *option, const json_t *value, int32_t *out,
			   EngStatus *status)
{
	double		number = 0;

	if (!number_in_range(option, value, &number, status))
		return false;
	*out = (int32_t) number;
	return *out == number || bad_value(option, "a whole number", status);
}

static bool
read_int(EngDetectorConfig *c, const Option *option, const json_t *value,
		 EngStatus *status)
{
	return whole_in_range(option, value,
						  (int32_t *) ((char *) c + option->offset), status);
}

static bool
read_float(EngDetectorConfig *c, const Option *option, const json_t *value,
		   EngStatus *status)
{
	double		number = 0;

	if (!number_in_range(option, value, &number, status))
		return false;
	*(float *) ((char *) c + option->offset) = (float) number;
	return true;
}

static bool
read_double(EngDetectorConfig *c, const Option *option, const json_t *value,
			EngStatus *status)
{
	return number_in_range(option, value,
						   (double *) ((char *) c + option->offset), status);
}

static bool
read_bool(EngDetectorConfig *c, const Option *option, const json_t *value,
		  EngStatus *status)
{
	if (!json_is_boolean(value))
		return bad_value(option, "true or false", status);
	*(bool *) ((char *) c + option->offset) = json_is_true(value);
	return true;
}

/*
 * A number, or an array of 1 to `most` numbers; *count is set.
 */
static bool
read_list(const Option *option, const json_t *value, float *out,
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
	float		numbers[LIST_MOST];
	int32_t		got = 0;

	if (!read_list(option, value, numbers, &got, LIST_MOST, status))
		return false;
	if (got != count)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"option \"%s\" must have %d elements", option->name,
						count);
	memcpy(out, numbers, count * sizeof(float));
	return true;
}

/* Three numbers, one a channel. */
static bool
read_colour(EngDetectorConfig *c, const Option *option, const json_t *value,
			EngStatus *status)
{
	return read_exactly(option, value,
						(float *) ((char *) c + option->offset), 3, status);
}

/* Four numbers, one a coordinate. */
static bool
read_weights(EngDetectorConfig *c, const Option *option, const json_t *value,
			 EngStatus *status)
{
	return read_exactly(option, value, c->bbox_reg_weights, 4, status);
}

/*
 * Whole numbers: `count` of them, or any number if *count is 0 (then set).
 */
static bool
read_whole_list(const Option *option, const json_t *value, int32_t *out,
				int32_t *count, EngStatus *status)
{
	float		numbers[LIST_MOST];
	int32_t		want = *count;
	int32_t		i;

	if (want == 0 ?
		!read_list(option, value, numbers, count, LIST_MOST, status) :
		!read_exactly(option, value, numbers, want, status))
		return false;
	for (i = 0; i < *count; i++)
	{
		out[i] = (int32_t) numbers[i];
		if (out[i] != numbers[i])
			return bad_value(option, "whole numbers", status);
	}
	return true;
}

static bool
read_min_size(EngDetectorConfig *c, const Option *option,
			  const json_t *value, EngStatus *status)
{
	c->min_size_count = 0;
	return read_whole_list(option, value, c->min_sizes, &c->min_size_count,
						   status);
}

static bool
read_widths(EngDetectorConfig *c, const Option *option, const json_t *value,
			EngStatus *status)
{
	int32_t		count = 4;

	return read_whole_list(option, value, c->widths, &count, status);
}

/* Width and height. */
static bool
read_fixed_size(EngDetectorConfig *c, const Option *option,
				const json_t *value, EngStatus *status)
{
	int32_t		sides[2] = {0, 0};
	int32_t		count = 2;

	if (!read_whole_list(option, value, sides, &count, status))
		return false;
	c->fixed_width = sides[0];
	c->fixed_height = sides[1];
	return true;
}

/* ---- anchors ------------------------------------------------------------- */

/*
 * Five elements, one a level; each a number or an array of numbers, as many
 * on every level.
 */
static bool
read_levels(const Option *option, const json_t *value,
			float out[ENG_RPN_LEVELS][ENG_ANCHOR_LIST], int32_t *count,
			EngStatus *status)
{
	int			level;

	if (!json_is_array(value) || json_array_size(value) != ENG_RPN_LEVELS)
		return bad_value(option, "an array of 5 numbers or arrays of numbers",
						 status);
	for (level = 0; level < ENG_RPN_LEVELS; level++)
	{
		int32_t		have;

		if (!read_list(option, json_array_get(value, level), out[level],
					   &have, ENG_ANCHOR_LIST, status))
			return false;
		if (level > 0 && have != *count)
			return bad_value(option, "of one length on every level", status);
		*count = have;
	}
	return true;
}

static bool
read_anchor_sizes(EngDetectorConfig *c, const Option *option,
				  const json_t *value, EngStatus *status)
{
	return read_levels(option, value, c->anchors.sizes,
					   &c->anchors.size_count, status);
}

/* One list for every level, or a list of lists. */
static bool
read_aspect_ratios(EngDetectorConfig *c, const Option *option,
				   const json_t *value, EngStatus *status)
{
	int			level;

	if (json_is_array(json_array_get(value, 0)))
		return read_levels(option, value, c->anchors.ratios,
						   &c->anchors.ratio_count, status);
	for (level = 0; level < ENG_RPN_LEVELS; level++)
		if (!read_list(option, value, c->anchors.ratios[level],
					   &c->anchors.ratio_count, ENG_ANCHOR_LIST, status))
			return false;
	return true;
}

/* ---- words --------------------------------------------------------------- */

/*
 * One of two or three words; *out is its place.
 */
static bool
read_word(const Option *option, const json_t *value,
		  const char *const words[3], int *out, EngStatus *status)
{
	char		want[80];
	int			i;

	for (i = 0; i < 3 && words[i] != NULL; i++)
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
read_box_head(EngDetectorConfig *c, const Option *option,
			  const json_t *value, EngStatus *status)
{
	static const char *const words[3] = {"mlp", "conv"};
	int			word = 0;

	if (!read_word(option, value, words, &word, status))
		return false;
	c->box_head_convs = word == 0 ? 0 : 4;
	return true;
}

static bool
read_nms(EngDetectorConfig *c, const Option *option, const json_t *value,
		 EngStatus *status)
{
	static const char *const words[3] = {"auto", "offset", "loop"};
	int			word = 0;

	if (!read_word(option, value, words, &word, status))
		return false;
	c->nms_kind = (EngNmsKind) word;
	return true;
}

static bool
read_norm(EngDetectorConfig *c, const Option *option, const json_t *value,
		  EngStatus *status)
{
	static const char *const words[3] = {"batch", "frozen"};
	int			word = 0;

	if (!read_word(option, value, words, &word, status))
		return false;
	c->body_norm = (EngNormKind) word;
	return true;
}

static bool
read_sampler(EngDetectorConfig *c, const Option *option, const json_t *value,
			 EngStatus *status)
{
	static const char *const words[3] = {"counter", "mt19937"};
	int			word = 0;

	if (!read_word(option, value, words, &word, status))
		return false;
	c->sampler = (EngSampleMode) word;
	return true;
}

static bool
read_scale_rule(EngDetectorConfig *c, const Option *option,
				const json_t *value, EngStatus *status)
{
	static const char *const words[3] = {"f64", "f32"};
	int			word = 0;

	if (!read_word(option, value, words, &word, status))
		return false;
	c->scale_rule = (EngScaleRule) word;
	return true;
}

/* ---- all of them --------------------------------------------------------- */

#define FIELD(kind, name, least, most) \
	{#name, read_##kind, offsetof(EngDetectorConfig, name), least, most}

/* By name. */
static const Option options[] = {
	{"_skip_resize", read_bool, offsetof(EngDetectorConfig, skip_resize)},
	{"anchor_sizes", read_anchor_sizes, 0, 1, 4096},
	{"aspect_ratios", read_aspect_ratios, 0, 0.01, 100},
	{"bbox_reg_weights", read_weights, 0, 0.001, 1000},
	FIELD(int, box_batch_size_per_image, 1, 4096),
	FIELD(float, box_bg_iou_thresh, 0, 1),
	FIELD(int, box_detections_per_img, 1, 10000),
	FIELD(float, box_fg_iou_thresh, 0, 1),
	{"box_head", read_box_head},
	FIELD(double, box_nms_thresh, 0, 1),
	FIELD(double, box_positive_fraction, 0, 1),
	FIELD(int, box_roi_pool_output_size, 1, 32),
	FIELD(int, box_roi_pool_sampling_ratio, 1, 8),
	FIELD(float, box_score_thresh, 0, 1),
	{"fixed_size", read_fixed_size, 0, 1, 16384},
	FIELD(int, fpn_channels, 4, 2048),
	FIELD(bool, fpn_norm, 0, 1),
	FIELD(colour, image_mean, -100, 100),
	FIELD(colour, image_std, 1e-6, 100),
	FIELD(int, max_size, 1, 16384),
	{"min_size", read_min_size, 0, 1, 16384},
	{"nms", read_nms},
	{"norm", read_norm},
	FIELD(float, norm_eps, 0, 1),
	FIELD(int, representation_size, 4, 8192),
	FIELD(int, rpn_batch_size_per_image, 1, 4096),
	FIELD(float, rpn_bg_iou_thresh, 0, 1),
	FIELD(int, rpn_conv_depth, 1, 8),
	FIELD(float, rpn_fg_iou_thresh, 0, 1),
	FIELD(double, rpn_nms_thresh, 0, 1),
	FIELD(double, rpn_positive_fraction, 0, 1),
	FIELD(int, rpn_post_nms_top_n_test, 1, 20000),
	FIELD(int, rpn_post_nms_top_n_train, 1, 20000),
	FIELD(int, rpn_pre_nms_top_n_test, 1, 20000),
	FIELD(int, rpn_pre_nms_top_n_train, 1, 20000),
	FIELD(float, rpn_score_thresh, 0, 1),
	{"sampler", read_sampler},
	{"scale_rule", read_scale_rule},
	FIELD(int, size_divisible, 32, 1024),
	{"widths", read_widths, 0, 4, 4096}
};

#define OPTION_COUNT	((int) (sizeof(options) / sizeof(options[0])))

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

static bool
read_option(EngDetectorConfig *c, const char *name, const json_t *value,
			EngStatus *status)
{
	char		names[1024];
	int			i;

	for (i = 0; i < OPTION_COUNT; i++)
		if (strcmp(options[i].name, name) == 0)
			return json_is_null(value) ||
				options[i].read(c, &options[i], value, status);
	eng_detector_option_names(names, sizeof(names));
	return eng_fail(status, ENG_BAD_ARGUMENT,
					"unknown option \"%.40s\" of a detector; known are %s",
					name, names);
}

bool
eng_detector_options_read(EngDetectorConfig *config, const char *text,
						  EngStatus *status)
{
	json_error_t error;
	json_t	   *root = json_loads(text, JSON_REJECT_DUPLICATES, &error);
	const char *name;
	json_t	   *value;
	bool		ok = true;

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
		ok = read_option(config, name, value, status);
		if (!ok)
			break;
	}
	json_decref(root);
	return ok;
}
