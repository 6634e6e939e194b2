/*
 * datasets/scene_street.c
 *		What stands at the side of the street: traffic lights, which are
 *		labelled, and trees, lamps, signs, bins and posts, which are not.
 */
#include "datasets/scene_parts.h"

static const SceneColour pole_grey = {92, 96, 100};

/* Draws the parts of one thing; metres from where it stands. */
typedef struct Pencil
{
	const Scene *scene;
	SceneCanvas *canvas;
	const SceneThing *thing;
	double		scale;			/* canvas pixels to a metre */
} Pencil;

static ScenePoint
at(const Pencil *pencil, double x, double y)
{
	return avc_scene_project(pencil->scene, pencil->thing->x + x, y,
							 pencil->thing->z);
}

static ScenePaint
lit(const Pencil *pencil, SceneColour colour, double shade)
{
	return avc_scene_lit(pencil->scene, colour, shade, pencil->thing->x,
						 pencil->thing->z);
}

/* A bar from (x1, y1) to (x2, y2), not thinner than a canvas pixel. */
static void
bar(const Pencil *pencil, const double *ends, double width, ScenePaint paint)
{
	double		wide = width * pencil->scale;

	wide = wide < 1.0 ? 1.0 : wide;
	avc_canvas_limb(pencil->canvas, at(pencil, ends[0], ends[1]),
					at(pencil, ends[2], ends[3]), wide, wide, paint);
}

static void
blob(const Pencil *pencil, double x, double y, double rx, double ry,
	 ScenePaint paint)
{
	avc_canvas_ellipse(pencil->canvas, at(pencil, x, y), rx * pencil->scale,
					   ry * pencil->scale, paint);
}

static void
block(const Pencil *pencil, double x, double y1, double width, double y2,
	  ScenePaint paint)
{
	avc_canvas_rectangle(pencil->canvas, at(pencil, x - width / 2.0, y2),
						 at(pencil, x + width / 2.0, y1), paint);
}

/* ---- traffic lights -------------------------------------------------- */

static void
draw_light_pole(const Pencil *pencil)
{
	const SceneThing *thing = pencil->thing;
	double		upright[4] = {0, 0, 0, thing->height};
	double		arm[4] = {0, thing->height, thing->reach, thing->height};

	bar(pencil, upright, 0.16, lit(pencil, pole_grey, 0.9));
	if (thing->reach != 0.0)
		bar(pencil, arm, 0.11, lit(pencil, pole_grey, 0.8));
}

static void
draw_light(const Pencil *pencil, SceneRandom *random)
{
	static const SceneColour housing = {38, 40, 38};
	static const SceneColour lamps[3] = {
		{255, 58, 36}, {255, 186, 40}, {60, 255, 140}
	};
	static const SceneColour dark[3] = {
		{66, 24, 20}, {64, 52, 20}, {18, 56, 34}
	};
	double		h = pencil->thing->height;
	double		base = pencil->thing->base;
	double		radius = 0.138 * h;
	double		draw = scene_unit(random);
	int			on = draw < 0.45 ? 0 : draw < 0.55 ? 1 : 2;
	int			i;

	block(pencil, 0.0, base, 0.46 * h, base + h, lit(pencil, housing, 1.0));
	for (i = 0; i < 3; i++)
		blob(pencil, 0.0, base + h * (0.825 - 0.325 * i), radius, radius,
			 i == on ? avc_scene_shining(pencil->scene, lamps[i],
										 pencil->thing->z) :
			 lit(pencil, dark[i], 1.0));
}

/* ---- furniture ------------------------------------------------------- */

static void
draw_tree(const Pencil *pencil, SceneRandom *random)
{
	static const SceneColour bark = {84, 66, 50};
	static const SceneColour greens[4] = {
		{58, 96, 48}, {78, 112, 52}, {46, 80, 50}, {122, 108, 48}
	};
	static const SceneColour snow = {210, 214, 218};
	SceneColour leaf = scene_pick(random, greens, 4, 0.8, 1.15);
	double		h = scene_between(random, 3.4, 6.5);
	double		trunk[4] = {0, 0, 0, 0.55 * h};
	int			i;

	if (pencil->scene->weather == SCENE_SNOWY)
		leaf = scene_scaled(snow, scene_between(random, 0.7, 0.9));
	bar(pencil, trunk, scene_between(random, 0.16, 0.34),
		lit(pencil, bark, 0.9));
	for (i = 0; i < 7; i++)
	{
		double		x = scene_between(random, -0.22, 0.22) * h;
		double		y = scene_between(random, 0.58, 0.9) * h;
		double		r = scene_between(random, 0.10, 0.19) * h;

		blob(pencil, x, y, r * 1.1, r,
			 lit(pencil, leaf, 0.68 + 0.42 * (y / h - 0.5) +
				 scene_between(random, 0.0, 0.2)));
	}
}

static void
draw_lamp_pole(const Pencil *pencil, SceneRandom *random)
{
	static const SceneColour lamp = {255, 214, 140};
	static const SceneColour dull = {190, 190, 180};
	double		h = scene_between(random, 5.0, 7.5);
	double		reach = pencil->thing->x > 0.0 ? -1.5 : 1.5;
	double		upright[4] = {0, 0, 0, h};
	double		arm[4] = {0, h, reach, h + 0.1};

	bar(pencil, upright, 0.14, lit(pencil, pole_grey, 0.9));
	bar(pencil, arm, 0.09, lit(pencil, pole_grey, 0.8));
	blob(pencil, reach, h + 0.04, 0.34, 0.12, pencil->thing->is_lit ?
		 avc_scene_shining(pencil->scene, lamp, pencil->thing->z) :
		 lit(pencil, dull, 1.0));
}

static void
draw_sign(const Pencil *pencil, SceneRandom *random)
{
	static const SceneColour rims[3] = {
		{196, 36, 34}, {36, 76, 160}, {226, 190, 50}
	};
	static const SceneColour inner = {226, 226, 222};
	double		h = scene_between(random, 2.1, 2.9);
	double		upright[4] = {0, 0, 0, h};
	int			kind = scene_integer(random, 0, 2);

	bar(pencil, upright, 0.08, lit(pencil, pole_grey, 1.0));
	if (kind == 2)
		block(pencil, 0.0, h - 0.3, 0.66, h + 0.36,
			  lit(pencil, rims[kind], 1.0));
	else
	{
		blob(pencil, 0.0, h, 0.36, 0.36, lit(pencil, rims[kind], 1.0));
		if (kind == 0)
			blob(pencil, 0.0, h, 0.25, 0.25, lit(pencil, inner, 1.0));
	}
}

static void
draw_bin(const Pencil *pencil, SceneRandom *random)
{
	static const SceneColour colours[4] = {
		{60, 84, 62}, {70, 72, 76}, {46, 66, 104}, {120, 90, 50}
	};
	SceneColour colour = colours[scene_integer(random, 0, 3)];
	double		h = scene_between(random, 0.85, 1.15);
	double		width = scene_between(random, 0.45, 0.7);

	block(pencil, 0.0, 0.0, width * 0.9, h, lit(pencil, colour, 0.85));
	block(pencil, 0.0, h - 0.12, width, h, lit(pencil, colour, 1.15));
}

/* A bollard or a hydrant: as tall as a child, with a round top. */
static void
draw_post(const Pencil *pencil, SceneRandom *random)
{
	static const SceneColour colours[4] = {
		{150, 48, 42}, {84, 86, 90}, {54, 58, 66}, {180, 170, 150}
	};
	SceneColour colour = scene_pick(random, colours, 4, 0.8, 1.15);
	double		h = scene_between(random, 0.95, 1.65);
	double		width = scene_between(random, 0.22, 0.40);

	block(pencil, 0.0, 0.0, width, h, lit(pencil, colour, 0.85));
	blob(pencil, 0.0, h, width * 0.55, width * 0.5,
		 lit(pencil, colour, 1.05));
	block(pencil, 0.0, h * 0.62, width * 1.04, h * 0.70,
		  lit(pencil, scene_scaled(colour, 1.5), 1.0));
}

void
avc_scene_draw_street_thing(const Scene *scene, SceneCanvas *canvas,
							const SceneThing *thing)
{
	SceneRandom random = thing->random;
	Pencil		pencil = {scene, canvas, thing, scene->focal / thing->z};

	switch (thing->kind)
	{
		case SCENE_LIGHT_POLE:
			draw_light_pole(&pencil);
			break;
		case SCENE_LIGHT:
			draw_light(&pencil, &random);
			break;
		case SCENE_TREE:
			draw_tree(&pencil, &random);
			break;
		case SCENE_LAMP_POLE:
			draw_lamp_pole(&pencil, &random);
			break;
		case SCENE_SIGN:
			draw_sign(&pencil, &random);
			break;
		case SCENE_BIN:
			draw_bin(&pencil, &random);
			break;
		default:
			draw_post(&pencil, &random);
			break;
	}
}
