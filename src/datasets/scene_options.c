/*
 * datasets/scene_options.c
 *		The options of rendered scenes: their names, presets and limits.
 */
#include "datasets/scene.h"

#include <string.h>

const char *const avc_scene_presets[] = {"base", "pool", NULL};

#define OPTION(name, low, high) \
	{#name, offsetof(AvcSceneOptions, name), low, high}

const AvcSceneOptionInfo avc_scene_option_infos[] = {
	OPTION(width, 64, 2048),
	OPTION(height, 64, 2048),
	OPTION(daytime, 0, 1),
	OPTION(dawn_dusk, 0, 1),
	OPTION(night, 0, 1),
	OPTION(clear, 0, 1),
	OPTION(overcast, 0, 1),
	OPTION(rainy, 0, 1),
	OPTION(foggy, 0, 1),
	OPTION(snowy, 0, 1),
	OPTION(rider, 0, 1),
	OPTION(riderless, 0, 1),
	OPTION(person, 0, 1),
	OPTION(distant, 0, 1),
	OPTION(person_near, 4, 100),
	OPTION(person_far, 4, 100),
	OPTION(distant_near, 4, 100),
	OPTION(distant_far, 4, 100),
	OPTION(rider_near, 4, 100),
	OPTION(rider_far, 4, 100),
	OPTION(vehicles, 1, 12),
	OPTION(traffic_light, 0, 1),
	OPTION(zebra, 0, 1),
	{NULL, 0, 0, 0}
};

static const AvcSceneOptions base_options = {
	.width = 320, .height = 180,
	.daytime = 0.88, .dawn_dusk = 0.12, .night = 0.0,
	.clear = 0.45, .overcast = 0.30, .rainy = 0.10, .foggy = 0.05,
	.snowy = 0.10,
	.rider = 0.04, .riderless = 0.22,
	.person = 0.55, .distant = 0.10,
	.person_near = 6, .person_far = 26,
	.distant_near = 24, .distant_far = 55,
	.rider_near = 8, .rider_far = 28,
	.vehicles = 6, .traffic_light = 0.50, .zebra = 0.35
};

bool
avc_scene_preset(AvcSceneOptions *options, const char *name)
{
	*options = base_options;
	if (strcmp(name, "base") == 0)
		return true;
	if (strcmp(name, "pool") != 0)
		return false;
	options->daytime = 0.50;
	options->dawn_dusk = 0.12;
	options->night = 0.38;
	options->clear = 0.40;
	options->overcast = 0.25;
	options->rainy = 0.17;
	options->foggy = 0.06;
	options->snowy = 0.12;
	options->rider = 0.12;
	options->person = 0.60;
	options->distant = 0.25;
	options->person_far = 40;
	return true;
}

const AvcSceneOptionInfo *
avc_scene_option_find(const char *name)
{
	const AvcSceneOptionInfo *info;

	for (info = avc_scene_option_infos; info->name != NULL; info++)
		if (strcmp(info->name, name) == 0)
			return info;
	return NULL;
}

double *
avc_scene_option_value(AvcSceneOptions *options,
					   const AvcSceneOptionInfo *info)
{
	return (double *) ((char *) options + info->offset);
}

static bool
check_range(const char *low_name, double low, const char *high_name,
			double high, EngStatus *status)
{
	if (low <= high)
		return true;
	return eng_fail(status, ENG_BAD_ARGUMENT,
					"option \"%s\" is larger than option \"%s\"", low_name,
					high_name);
}

static bool
is_even(double value)
{
	return value == 2.0 * (int) (value / 2.0);
}

bool
avc_scene_options_check(const AvcSceneOptions *options, EngStatus *status)
{
	AvcSceneOptions copy = *options;
	const AvcSceneOptionInfo *info;

	for (info = avc_scene_option_infos; info->name != NULL; info++)
	{
		double		value = *avc_scene_option_value(&copy, info);

		if (!(value >= info->low && value <= info->high))
			return eng_fail(status, ENG_BAD_ARGUMENT,
							"option \"%s\" must be between %g and %g",
							info->name, info->low, info->high);
	}
	if (!is_even(options->width) || !is_even(options->height))
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"options \"width\" and \"height\" must be even numbers");
	if (options->vehicles != (int) options->vehicles)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"option \"vehicles\" must be a whole number");
	if (options->daytime + options->dawn_dusk + options->night <= 0.0)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"the shares of daytime, dawn_dusk and night are all zero");
	if (options->clear + options->overcast + options->rainy +
		options->foggy + options->snowy <= 0.0)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"the shares of clear, overcast, rainy, foggy and snowy are all zero");
	return check_range("person_near", options->person_near, "person_far",
					   options->person_far, status) &&
		check_range("distant_near", options->distant_near, "distant_far",
					options->distant_far, status) &&
		check_range("rider_near", options->rider_near, "rider_far",
					options->rider_far, status);
}
