/*
 * datasets/scene.h
 *		Rendered driving scenes with exact labels.
 *
 * Frame n of a seed is a pure function of (options, seed, n): it depends on
 * no other frame, and its pixels are the same on every machine.  Plain C,
 * no server headers, no global state.
 *
 *		scene_options.c	names, presets and limits of the options
 *		scene.c			what stands on the road
 *		scene_footprint.c	the ground seen from above, the order of drawing
 *		scene_render.c	the order of drawing, visibility, labels, the sensor
 *		scene_backdrop.c, scene_vehicles.c, scene_figures.c,
 *		scene_street.c	how things look
 *		scene_canvas.c	polygons and ellipses in light and fog
 *		scene_math.c	random numbers and functions
 */
#ifndef AVC_DATASETS_SCENE_H
#define AVC_DATASETS_SCENE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/status.h"
#include "image/image.h"

/* Shares are between 0 and 1; a group of shares is used by its ratios. */
typedef struct AvcSceneOptions
{
	double		width;			/* pixels of the frame, even */
	double		height;
	double		daytime;		/* group: time of day */
	double		dawn_dusk;
	double		night;
	double		clear;			/* group: weather */
	double		overcast;
	double		rainy;
	double		foggy;
	double		snowy;
	double		rider;			/* share of frames with a rider */
	double		riderless;		/* ... with a parked bike or motor */
	double		person;			/* ... with persons */
	double		distant;		/* of these: all of them far away */
	double		person_near;	/* metres, nearest and farthest person */
	double		person_far;
	double		distant_near;	/* the same where all are far away */
	double		distant_far;
	double		rider_near;
	double		rider_far;
	double		vehicles;		/* most vehicles a frame; fewest is 1 */
	double		traffic_light;	/* share of frames with traffic lights */
	double		zebra;			/* ... with a zebra crossing */
} AvcSceneOptions;

/* One option by name; all are numbers. */
typedef struct AvcSceneOptionInfo
{
	const char *name;
	size_t		offset;			/* in AvcSceneOptions */
	double		low;			/* allowed range, both ends included */
	double		high;
} AvcSceneOptionInfo;

/* Most labelled things in a frame, and most things altogether. */
#define AVC_SCENE_MAX_LABELS 48

typedef struct AvcSceneLabel
{
	const char *category;		/* folded spelling, static */
	float		box[4];			/* x1 y1 x2 y2, pixels of the frame */
	bool		occluded;		/* less than 80 % of it is visible */
	bool		truncated;		/* it leaves the frame */
} AvcSceneLabel;

typedef struct AvcSceneTruth
{
	const char *weather;		/* BDD100K's words, static */
	const char *scene;
	const char *timeofday;
	int			label_count;
	AvcSceneLabel labels[AVC_SCENE_MAX_LABELS];
} AvcSceneTruth;

/* Names of the presets, and of the options; each ends with a NULL name. */
extern const char *const avc_scene_presets[];
extern const AvcSceneOptionInfo avc_scene_option_infos[];

/* Fill in the options of a preset; false if there is none of that name. */
extern bool avc_scene_preset(AvcSceneOptions *options, const char *name);

/*
 * The option of that name, or NULL.  Value of an option:
 * avc_scene_option_value(options, info).
 */
extern const AvcSceneOptionInfo *avc_scene_option_find(const char *name);
extern double *avc_scene_option_value(AvcSceneOptions *options,
									  const AvcSceneOptionInfo *info);

/* Each in its range, distances in order, groups not all zero. */
extern bool avc_scene_options_check(const AvcSceneOptions *options,
									EngStatus *status);

/* Buffers for frames of one size; for one thread at a time. */
typedef struct AvcSceneRenderer AvcSceneRenderer;

extern AvcSceneRenderer *avc_scene_renderer_create(const AvcSceneOptions *options,
												   EngStatus *status);
extern void avc_scene_renderer_free(AvcSceneRenderer *renderer);

/*
 * Draw frame number "frame" of the seed into the caller's RGB picture of
 * the options' size and say what is in it.
 */
extern void avc_scene_render(AvcSceneRenderer *renderer, uint64_t seed,
							 uint64_t frame, EngImage *out,
							 AvcSceneTruth *truth);

#endif							/* AVC_DATASETS_SCENE_H */
