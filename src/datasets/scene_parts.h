/*
 * datasets/scene_parts.h
 *		What the files of the scene renderer share; nobody else includes it.
 *
 * Metres: x to the right of the middle lane's middle, y up from the ground,
 * z ahead of the camera.  Headings: 0 looks the way the camera looks, a
 * quarter turn looks to the right.
 */
#ifndef AVC_DATASETS_SCENE_PARTS_H
#define AVC_DATASETS_SCENE_PARTS_H

#include "datasets/scene.h"
#include "datasets/scene_canvas.h"
#include "datasets/scene_math.h"

#define SCENE_PI 3.14159265358979323846
#define SCENE_ROAD_HALF 5.25	/* three lanes of 3.5 m */
#define SCENE_LANE 3.5

typedef enum SceneTime
{
	SCENE_DAY,
	SCENE_DUSK,
	SCENE_NIGHT
} SceneTime;

typedef enum SceneWeather
{
	SCENE_CLEAR,
	SCENE_OVERCAST,
	SCENE_RAINY,
	SCENE_FOGGY,
	SCENE_SNOWY
} SceneWeather;

typedef enum SceneKind
{
	SCENE_CAR,
	SCENE_TRUCK,
	SCENE_BUS,
	SCENE_PERSON,
	SCENE_RIDER,				/* the person; the machine is its partner */
	SCENE_BIKE,
	SCENE_MOTOR,
	SCENE_LIGHT,				/* the traffic light; the pole is separate */
	SCENE_LIGHT_POLE,			/* from here on: never labelled */
	SCENE_TREE,
	SCENE_LAMP_POLE,
	SCENE_SIGN,
	SCENE_BIN,
	SCENE_POST
} SceneKind;

/* Uses of random numbers; a new one goes to the end. */
typedef enum SceneUse
{
	SCENE_USE_WORLD = 1,
	SCENE_USE_BACKDROP,
	SCENE_USE_VEHICLES,
	SCENE_USE_PERSONS,
	SCENE_USE_RIDERS,
	SCENE_USE_MACHINES,
	SCENE_USE_LIGHTS,
	SCENE_USE_DISTRACTORS,
	SCENE_USE_WEATHER,
	SCENE_USE_SENSOR,
	SCENE_USE_NOISE
} SceneUse;

/*
 * Double, although the canvas is float: GCC 12, vectorising a value that
 * goes from double to float and back, leaves the rounding out, and then
 * pixels differ between levels of optimisation.  So nothing is rounded to
 * float on the way to the canvas.
 */
typedef struct SceneColour
{
	double		red;			/* 0 .. 255, as seen in full daylight */
	double		green;
	double		blue;
} SceneColour;

typedef struct SceneThing
{
	SceneKind	kind;
	double		x;				/* middle of the footprint, metres */
	double		z;
	double		heading;
	double		sine;			/* of the heading, set with the corners */
	double		cosine;
	double		length;			/* of the footprint along the heading */
	double		width;			/* across it */
	double		height;
	double		base;			/* height of its lower end over the ground */
	double		view;			/* figures: 1 = side view, 0 = end-on */
	double		reach;			/* light poles: arm length, signed */
	bool		is_lit;			/* its lamps shine */
	bool		is_dropped;		/* neither drawn nor labelled */
	int			partner;		/* of rider and machine: each other; or -1 */
	SceneRandom random;			/* details; copied, never advanced */
	ScenePoint	corners[4];		/* footprint, (x, z) in x and y */
} SceneThing;

typedef struct Scene
{
	const AvcSceneOptions *options;
	uint64_t	seed;
	uint64_t	frame;
	SceneTime	time;
	SceneWeather weather;
	bool		is_residential;

	/* camera; lengths in canvas pixels or metres */
	double		focal;
	double		horizon;
	double		middle;			/* column of straight ahead */
	double		camera_height;
	double		camera_x;

	/* light: colour x ambient, then towards fog by 1 - exp(-z / fog_length) */
	double		ambient[3];
	double		headlight;		/* 0 by day */
	SceneColour fog;
	double		fog_length;

	/* street */
	double		pavement[2];	/* width on the left and on the right */
	double		zebra;			/* distance, 0 = none */
	bool		is_yellow;		/* lane lines */

	int			thing_count;
	SceneThing	things[SCENE_MAX_THINGS];
	int			order[SCENE_MAX_THINGS];	/* far to near */
} Scene;

/* ---- scene.c ---- */
extern void avc_scene_compose(Scene *scene, const AvcSceneOptions *options,
							  uint64_t seed, uint64_t frame);

/* ---- scene_footprint.c ---- */

/* What a thing spans on the canvas, as if it were a block. */
typedef struct SceneOutline
{
	double		x1;
	double		y1;
	double		x2;
	double		y2;
} SceneOutline;

extern void avc_scene_set_corners(SceneThing *thing);
extern int	avc_scene_compare(const Scene *scene, const SceneThing *a,
							  const SceneThing *b, double gap);
extern SceneOutline avc_scene_outline(const Scene *scene,
									  const SceneThing *thing);
extern double avc_scene_covered_share(const SceneOutline *a,
									  const SceneOutline *b);
extern void avc_scene_order(Scene *scene);

/* ---- scene_render.c ---- */
extern ScenePoint avc_scene_project(const Scene *scene, double x, double y,
									double z);

/* A colour at place (x, z), shaded, lit and dimmed by fog. */
extern ScenePaint avc_scene_lit(const Scene *scene, SceneColour colour,
								double shade, double x, double z);

/* A colour that shines by itself, dimmed by fog alone. */
extern ScenePaint avc_scene_shining(const Scene *scene, SceneColour colour,
									double z);

/* ---- how things look ---- */
extern void avc_scene_draw_backdrop(const Scene *scene, SceneCanvas *canvas);
extern void avc_scene_draw_weather(const Scene *scene, SceneCanvas *canvas);
extern void avc_scene_draw_vehicle(const Scene *scene, SceneCanvas *canvas,
								   const SceneThing *thing);
extern void avc_scene_draw_person(const Scene *scene, SceneCanvas *canvas,
								  const SceneThing *thing);
extern void avc_scene_draw_rider(const Scene *scene, SceneCanvas *canvas,
								 const SceneThing *thing);
extern void avc_scene_draw_machine(const Scene *scene, SceneCanvas *canvas,
								   const SceneThing *thing);
extern void avc_scene_draw_street_thing(const Scene *scene,
										SceneCanvas *canvas,
										const SceneThing *thing);

static inline SceneColour
scene_scaled(SceneColour colour, double factor)
{
	SceneColour scaled = {colour.red * factor, colour.green * factor,
	colour.blue * factor};

	return scaled;
}

/*
 * One of the colours, its brightness varied.  Two statements, because C
 * leaves open in which order arguments are evaluated.
 */
static inline SceneColour
scene_pick(SceneRandom *random, const SceneColour *colours, int count,
		   double low, double high)
{
	SceneColour colour = colours[scene_integer(random, 0, count - 1)];

	return scene_scaled(colour, scene_between(random, low, high));
}

#endif							/* AVC_DATASETS_SCENE_PARTS_H */
