/*
 * datasets/scene.c
 *		What stands on the road: weather and light, and the placing of
 *		vehicles, persons, riders, lights and street furniture.
 *
 * Every kind draws from a stream of random numbers of its own, so a change
 * in one leaves the others where they were.  No two footprints overlap.
 */
#include "datasets/scene_parts.h"

#include <math.h>
#include <string.h>

/* ---- light and camera ------------------------------------------------ */

/* Index drawn with the given weights. */
static int
choose(SceneRandom *random, const double *weights, int count)
{
	double		sum = 0.0;
	double		at;
	int			i;

	for (i = 0; i < count; i++)
		sum += weights[i];
	at = scene_unit(random) * sum;
	for (i = 0; i < count - 1; i++)
	{
		at -= weights[i];
		if (at < 0.0)
			return i;
	}
	/* not one of weight zero, should rounding have led here */
	while (i > 0 && weights[i] <= 0.0)
		i--;
	return i;
}

static void
set_light(Scene *scene, SceneRandom *random)
{
	static const double strength[] = {1.0, 0.62, 0.24};
	static const double tints[][3] = {
		{1.02, 1.00, 0.97}, {1.16, 0.95, 0.74}, {0.84, 0.92, 1.10}
	};
	static const double lengths[] = {400, 250, 110, 38, 90};
	static const SceneColour fogs[][5] = {
		{{186, 204, 222}, {188, 192, 197}, {160, 166, 172}, {200, 203, 206},
		{208, 212, 217}},
		{{196, 146, 112}, {150, 132, 122}, {124, 112, 108}, {158, 142, 132},
		{160, 146, 140}},
		{{24, 26, 36}, {26, 27, 34}, {28, 29, 34}, {38, 39, 44}, {40, 42, 50}}
	};
	double		ambient = strength[scene->time] *
		scene_between(random, 0.88, 1.12);
	int			c;

	if (scene->weather == SCENE_RAINY)
		ambient *= 0.82;
	else if (scene->weather == SCENE_OVERCAST)
		ambient *= 0.92;
	for (c = 0; c < 3; c++)
		scene->ambient[c] = ambient * tints[scene->time][c];
	scene->headlight = scene->time == SCENE_NIGHT ? 0.20 : 0.0;
	scene->fog = fogs[scene->time][scene->weather];
	scene->fog_length = lengths[scene->weather] *
		scene_between(random, 0.7, 1.3);
}

static void
set_world(Scene *scene)
{
	const AvcSceneOptions *o = scene->options;
	SceneRandom random = scene_random(scene->seed, scene->frame,
									  SCENE_USE_WORLD);
	double		times[3] = {o->daytime, o->dawn_dusk, o->night};
	double		weathers[5] = {o->clear, o->overcast, o->rainy, o->foggy,
	o->snowy};
	double		width = 2.0 * o->width;
	double		height = 2.0 * o->height;

	scene->time = choose(&random, times, 3);
	scene->weather = choose(&random, weathers, 5);
	scene->is_residential = scene_chance(&random, 0.3);
	scene->focal = scene_between(&random, 0.80, 0.90) * width;
	scene->horizon = scene_between(&random, 0.41, 0.47) * height;
	scene->middle = width / 2.0;
	scene->camera_height = scene_between(&random, 1.25, 1.55);
	scene->camera_x = 0.6 * avc_scene_normal(&random);
	scene->pavement[0] = scene_between(&random, 2.2, 3.7);
	scene->pavement[1] = scene_between(&random, 2.2, 3.7);
	scene->is_yellow = scene_chance(&random, 0.3);
	scene->zebra = scene_between(&random, 9.0, 25.0);
	if (!scene_chance(&random, o->zebra))
		scene->zebra = 0.0;
	set_light(scene, &random);
}

/* ---- room -------------------------------------------------------------- */

static bool
is_free(const Scene *scene, const SceneThing *thing)
{
	int			i;

	for (i = 0; i < 4; i++)
		if (thing->corners[i].y < 2.5)
			return false;
	for (i = 0; i < scene->thing_count; i++)
		if (avc_scene_compare(scene, thing, &scene->things[i], 0.25) == 0)
			return false;
	return true;
}

/* Is the middle of a thing inside the frame, give or take "slack" of it? */
static bool
is_in_view(const Scene *scene, const SceneThing *thing, double slack)
{
	double		u = scene->focal * (thing->x - scene->camera_x) / thing->z;

	return u > -scene->middle * (1.0 + slack) &&
		u < scene->middle * (1.0 + slack);
}

/* Add the thing if there is room for it; its number, or -1. */
static int
add_thing(Scene *scene, SceneThing *thing, SceneRandom *random)
{
	thing->random = scene_branch(random);
	thing->partner = -1;
	thing->is_dropped = false;
	if (scene->thing_count >= SCENE_MAX_THINGS)
		return -1;
	avc_scene_set_corners(thing);
	if (!is_free(scene, thing))
		return -1;
	scene->things[scene->thing_count] = *thing;
	return scene->thing_count++;
}

/* ---- vehicles ---------------------------------------------------------- */

/*
 * Would the vehicle hide a person or rider for the most part?  They are
 * what the slices are made of, so the place is given up then; hiding some
 * of a figure is fine.
 */
static bool
hides_figure(const Scene *scene, const SceneThing *vehicle)
{
	SceneOutline own = avc_scene_outline(scene, vehicle);
	int			i;

	for (i = 0; i < scene->thing_count; i++)
	{
		const SceneThing *thing = &scene->things[i];
		SceneOutline other;

		if ((thing->kind != SCENE_PERSON && thing->kind != SCENE_RIDER) ||
			avc_scene_compare(scene, vehicle, thing, 0.0) <= 0)
			continue;
		other = avc_scene_outline(scene, thing);
		if (avc_scene_covered_share(&own, &other) > 0.6)
			return true;
	}
	return false;
}

static void
size_vehicle(SceneThing *thing, SceneRandom *random)
{
	static const double kinds[] = {0.74, 0.15, 0.11};

	thing->kind = SCENE_CAR + choose(random, kinds, 3);
	if (thing->kind == SCENE_CAR)
	{
		thing->length = 4.2;
		thing->width = 1.78;
		thing->height = scene_chance(random, 0.35) ? 1.70 : 1.45;
	}
	else if (thing->kind == SCENE_TRUCK)
	{
		thing->length = 6.5;
		thing->width = 2.2;
		thing->height = scene_between(random, 2.7, 3.2);
	}
	else
	{
		thing->length = 10.0;
		thing->width = 2.5;
		thing->height = 3.05;
	}
}

/* Which way it goes and where that is. */
static void
steer_vehicle(Scene *scene, SceneThing *thing, SceneRandom *random)
{
	static const double ways[] = {0.35, 0.20, 0.35, 0.10};
	double		side = scene_chance(random, 0.5) ? 1.0 : -1.0;
	double		wobble = 0.04 * avc_scene_normal(random);

	thing->z = avc_scene_log_between(random, 8.0, 60.0);
	switch (choose(random, ways, 4))
	{
		case 0:
			thing->heading = wobble;
			thing->x = scene_chance(random, 0.5) ? 0.0 : SCENE_LANE;
			break;
		case 1:
			thing->heading = SCENE_PI + wobble;
			thing->x = -SCENE_LANE;
			break;
		case 2:
			thing->heading = (side > 0.0 ? 0.0 : SCENE_PI) + wobble;
			thing->x = side * (SCENE_ROAD_HALF - thing->width / 2.0 -
							   scene_between(random, 0.1, 0.4));
			break;
		default:
			thing->heading = side * SCENE_PI / 2.0 + 3.0 * wobble;
			thing->x = scene_between(random, -7.0, 7.0);
			break;
	}
	thing->x += 0.2 * avc_scene_normal(random);
	/* what is longer than a car keeps its middle farther off */
	thing->z += thing->length - 4.2;
}

static void
place_vehicles(Scene *scene)
{
	SceneRandom random = scene_random(scene->seed, scene->frame,
									  SCENE_USE_VEHICLES);
	int			count = scene_integer(&random, 1,
									  (int) scene->options->vehicles);
	int			i;
	int			attempt;

	for (i = 0; i < count; i++)
	{
		SceneRandom own = scene_branch(&random);
		SceneThing	thing = {0};

		size_vehicle(&thing, &own);
		thing.is_lit = scene->time == SCENE_NIGHT || scene_chance(&own, 0.25);
		for (attempt = 0; attempt < 10; attempt++)
		{
			steer_vehicle(scene, &thing, &own);
			avc_scene_set_corners(&thing);
			if (is_in_view(scene, &thing, 0.1) &&
				!hides_figure(scene, &thing) &&
				add_thing(scene, &thing, &own) >= 0)
				break;
		}
	}
}

/* ---- people ---------------------------------------------------------- */

/* Is a figure this far away large enough to be labelled, width in metres? */
static bool
is_large_enough(const Scene *scene, const SceneThing *thing, double width)
{
	double		scale = scene->focal / 2.0 / thing->z;

	return scale * width > 3.0 && scale * thing->height > 7.0 &&
		scale * scale * width * thing->height > 32.0;
}

/* A place on the pavement or on the road, in view. */
static bool
place_figure(Scene *scene, SceneThing *thing, double pavement_share,
			 SceneRandom *random)
{
	int			attempt;

	for (attempt = 0; attempt < 12; attempt++)
	{
		int			side = scene_integer(random, 0, 1);

		if (scene_chance(random, pavement_share))
			thing->x = (side ? 1.0 : -1.0) *
				(SCENE_ROAD_HALF +
				 scene_between(random, 0.3, scene->pavement[side] - 0.3));
		else
			thing->x = scene_between(random, -SCENE_ROAD_HALF,
									 SCENE_ROAD_HALF);
		if (is_in_view(scene, thing, 0.0))
			return true;
	}
	return false;
}

static void
place_persons(Scene *scene)
{
	static const double counts[] = {0.50, 0.25, 0.13, 0.08, 0.04};
	const AvcSceneOptions *o = scene->options;
	SceneRandom random = scene_random(scene->seed, scene->frame,
									  SCENE_USE_PERSONS);
	bool		any = scene_chance(&random, o->person);
	bool		distant = scene_chance(&random, o->distant);
	int			count = 1 + choose(&random, counts, 5);
	int			i;
	int			attempt;

	for (i = 0; any && i < count; i++)
	{
		SceneRandom own = scene_branch(&random);
		SceneThing	thing = {.kind = SCENE_PERSON};

		thing.height = scene_chance(&own, 0.12) ?
			scene_between(&own, 1.15, 1.35) :
			1.72 + 0.10 * avc_scene_normal(&own);
		thing.view = scene_unit(&own);
		thing.length = thing.width = 0.6;
		for (attempt = 0; attempt < 8; attempt++)
		{
			thing.z = distant ?
				avc_scene_log_between(&own, o->distant_near, o->distant_far) :
				avc_scene_log_between(&own, o->person_near, o->person_far);
			if (is_large_enough(scene, &thing, 0.36 * thing.height) &&
				place_figure(scene, &thing, 0.75, &own) &&
				add_thing(scene, &thing, &own) >= 0)
				break;
		}
	}
}

/* Footprint and view of a bike or motor; a tenth each way is random. */
static void
size_machine(SceneThing *thing, SceneRandom *random)
{
	static const double kinds[] = {0.67, 0.33};
	static const double views[] = {0.40, 0.25, 0.35};
	double		depth;

	thing->kind = SCENE_BIKE + choose(random, kinds, 2);
	switch (choose(random, views, 3))
	{
		case 0:
			thing->view = scene_between(random, 0.18, 0.30);
			break;
		case 1:
			thing->view = scene_between(random, 0.45, 0.80);
			break;
		default:
			thing->view = 1.0;
			break;
	}
	thing->height = 1.1;
	depth = sqrt(1.0 - 0.96 * thing->view * thing->view);
	/* heading 0, so the length lies along z */
	thing->length = 0.6 + 1.2 * depth;
	thing->width = 0.6 + 1.4 * thing->view;
}

static void
place_riders(Scene *scene)
{
	const AvcSceneOptions *o = scene->options;
	SceneRandom random = scene_random(scene->seed, scene->frame,
									  SCENE_USE_RIDERS);
	bool		any = scene_chance(&random, o->rider);
	int			count = scene_chance(&random, 0.2) ? 2 : 1;
	int			i;
	int			attempt;

	for (i = 0; any && i < count; i++)
	{
		SceneRandom own = scene_branch(&random);
		SceneThing	machine = {0};

		size_machine(&machine, &own);
		machine.is_lit = scene->time == SCENE_NIGHT;
		for (attempt = 0; attempt < 12; attempt++)
		{
			int			at;

			machine.z = avc_scene_log_between(&own, o->rider_near,
											  o->rider_far);
			if (!place_figure(scene, &machine, 0.15, &own))
				continue;
			at = add_thing(scene, &machine, &own);
			if (at < 0)
				continue;
			if (scene->thing_count >= SCENE_MAX_THINGS)
			{
				scene->thing_count--;
				break;
			}
			/* the rider sits on the same footprint, and comes next */
			scene->things[at + 1] = scene->things[at];
			scene->things[at + 1].kind = SCENE_RIDER;
			scene->things[at + 1].partner = at;
			scene->things[at].partner = at + 1;
			scene->thing_count++;
			break;
		}
	}
}

/* A bike or motor that stands at the kerb with nobody on it. */
static void
place_riderless(Scene *scene)
{
	SceneRandom random = scene_random(scene->seed, scene->frame,
									  SCENE_USE_MACHINES);
	SceneThing	thing = {0};
	int			attempt;

	if (!scene_chance(&random, scene->options->riderless))
		return;
	size_machine(&thing, &random);
	for (attempt = 0; attempt < 10; attempt++)
	{
		thing.z = avc_scene_log_between(&random, 7.0, 42.0);
		if (place_figure(scene, &thing, 0.85, &random) &&
			add_thing(scene, &thing, &random) >= 0)
			return;
	}
}

/* ---- lights and furniture -------------------------------------------- */

static void
place_lights(Scene *scene)
{
	SceneRandom random = scene_random(scene->seed, scene->frame,
									  SCENE_USE_LIGHTS);
	bool		any = scene_chance(&random, scene->options->traffic_light);
	int			count = scene_integer(&random, 1, 3);
	int			i;
	int			attempt;

	for (i = 0; any && i < count; i++)
	{
		SceneRandom own = scene_branch(&random);

		for (attempt = 0; attempt < 10; attempt++)
		{
			double		side = scene_chance(&own, 0.5) ? 1.0 : -1.0;
			bool		on_arm = scene_chance(&own, 0.6);
			SceneThing	pole = {.kind = SCENE_LIGHT_POLE};
			SceneThing	light = {.kind = SCENE_LIGHT};
			double		v;

			pole.z = avc_scene_log_between(&own, 11.0, 34.0);
			pole.x = side * (SCENE_ROAD_HALF + scene_between(&own, 0.3, 0.8));
			pole.length = pole.width = 0.2;
			pole.reach = on_arm ? -side * scene_between(&own, 2.0, 5.5) : 0.0;
			light.height = scene_between(&own, 1.25, 1.50);
			light.base = on_arm ? scene_between(&own, 4.2, 5.2) :
				scene_between(&own, 2.2, 3.2);
			pole.height = light.base + light.height * 0.6;
			light.x = pole.x + pole.reach;
			light.z = pole.z;
			v = scene->horizon + scene->focal *
				(scene->camera_height - light.base - light.height) / pole.z;
			if (v < 0.0 || !is_in_view(scene, &light, -0.03) ||
				scene->thing_count + 2 > SCENE_MAX_THINGS ||
				add_thing(scene, &pole, &own) < 0)
				continue;
			/* it hangs over the road: it needs no ground of its own */
			light.length = light.width = 0.01;
			light.random = scene_branch(&own);
			light.partner = -1;
			avc_scene_set_corners(&light);
			scene->things[scene->thing_count++] = light;
			break;
		}
	}
}

static void
place_distractors(Scene *scene)
{
	static const double kinds[] = {0.38, 0.17, 0.17, 0.12, 0.16};
	SceneRandom random = scene_random(scene->seed, scene->frame,
									  SCENE_USE_DISTRACTORS);
	int			count = scene_integer(&random, 3, 10);
	int			i;

	for (i = 0; i < count; i++)
	{
		SceneRandom own = scene_branch(&random);
		SceneThing	thing = {0};
		int			side = scene_integer(&own, 0, 1);

		thing.kind = SCENE_TREE + choose(&own, kinds, 5);
		thing.z = avc_scene_log_between(&own, 7.0, 55.0);
		thing.x = (side ? 1.0 : -1.0) *
			(SCENE_ROAD_HALF +
			 scene_between(&own, 0.3, scene->pavement[side] + 0.6));
		thing.is_lit = scene->time == SCENE_NIGHT ||
			(scene->time == SCENE_DUSK && scene_chance(&own, 0.5));
		thing.length = thing.width = 0.5;
		if (is_in_view(scene, &thing, 0.1))
			add_thing(scene, &thing, &own);
	}
}

/* ---- the scene --------------------------------------------------------- */

void
avc_scene_compose(Scene *scene, const AvcSceneOptions *options, uint64_t seed,
				  uint64_t frame)
{
	memset(scene, 0, offsetof(Scene, things));
	scene->options = options;
	scene->seed = seed;
	scene->frame = frame;
	set_world(scene);
	place_riders(scene);
	place_persons(scene);
	place_vehicles(scene);
	place_riderless(scene);
	place_lights(scene);
	place_distractors(scene);
	avc_scene_order(scene);
}
