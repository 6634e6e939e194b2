/*
 * datasets/scene_figures.c
 *		Persons, riders, and the bikes and motors that they ride.
 *
 * A figure is flat and faces the camera: its own axes are x across the view
 * and y up, in metres from where it stands.  What it would show from its
 * side is narrowed as it turns.
 */
#include "datasets/scene_parts.h"

#include <math.h>

static const SceneColour coats[9] = {
	{168, 44, 42}, {48, 74, 136}, {58, 62, 70}, {34, 34, 38},
	{196, 160, 66}, {64, 108, 70}, {202, 198, 190}, {122, 82, 58},
	{136, 84, 132}
};

static const SceneColour trousers[5] = {
	{44, 52, 78}, {36, 36, 40}, {92, 84, 70}, {120, 118, 112}, {62, 70, 96}
};

static const SceneColour skins[4] = {
	{226, 182, 152}, {202, 156, 122}, {150, 104, 76}, {98, 68, 52}
};

static const SceneColour hairs[4] = {
	{36, 28, 24}, {84, 56, 36}, {176, 140, 84}, {128, 124, 120}
};

static const SceneColour rubber = {28, 28, 30};
static const SceneColour shoe = {30, 28, 28};

/* Draws the parts of one figure. */
typedef struct Pencil
{
	const Scene *scene;
	SceneCanvas *canvas;
	const SceneThing *thing;
	double		direction;		/* 1 or -1: which way it looks */
	double		scale;			/* canvas pixels to a metre */
} Pencil;

static Pencil
make_pencil(const Scene *scene, SceneCanvas *canvas, const SceneThing *thing,
			SceneRandom *random)
{
	Pencil		pencil = {scene, canvas, thing};

	pencil.direction = scene_chance(random, 0.5) ? 1.0 : -1.0;
	pencil.scale = scene->focal / thing->z;
	return pencil;
}

static ScenePoint
at(const Pencil *pencil, double x, double y)
{
	return avc_scene_project(pencil->scene,
							 pencil->thing->x + pencil->direction * x, y,
							 pencil->thing->z);
}

static ScenePaint
lit(const Pencil *pencil, SceneColour colour, double shade)
{
	return avc_scene_lit(pencil->scene, colour, shade, pencil->thing->x,
						 pencil->thing->z);
}

/* Widths in metres; never thinner than most of a canvas pixel. */
static void
limb(const Pencil *pencil, const double *ends, double from_width,
	 double to_width, ScenePaint paint)
{
	double		from = from_width * pencil->scale;
	double		to = to_width * pencil->scale;

	avc_canvas_limb(pencil->canvas, at(pencil, ends[0], ends[1]),
					at(pencil, ends[2], ends[3]), from < 0.8 ? 0.8 : from,
					to < 0.8 ? 0.8 : to, paint);
}

static void
blob(const Pencil *pencil, double x, double y, double rx, double ry,
	 ScenePaint paint)
{
	avc_canvas_ellipse(pencil->canvas, at(pencil, x, y),
					   rx * pencil->scale, ry * pencil->scale, paint);
}

static SceneColour
pick(SceneRandom *random, const SceneColour *colours, int count)
{
	return scene_pick(random, colours, count, 0.85, 1.15);
}

/* ---- persons --------------------------------------------------------- */

static void
draw_legs(const Pencil *pencil, double h, double hip, double stride,
		  SceneColour colour)
{
	int			leg;

	for (leg = 0; leg < 2; leg++)
	{
		double		side = leg == 0 ? -1.0 : 1.0;
		double		foot = side * (stride + 0.35 * hip);
		double		upper[4] = {side * hip * 0.45, 0.50 * h,
		side * hip * 0.45 + (foot - side * hip * 0.45) * 0.45, 0.27 * h};
		double		lower[4] = {upper[2], upper[3], foot, 0.03 * h};
		ScenePaint	paint = lit(pencil, colour, leg == 0 ? 0.78 : 1.0);

		limb(pencil, upper, 0.095 * h, 0.075 * h, paint);
		limb(pencil, lower, 0.075 * h, 0.055 * h, paint);
		blob(pencil, foot + 0.02 * h, 0.02 * h, 0.055 * h, 0.022 * h,
			 lit(pencil, shoe, 1.0));
	}
}

static void
draw_torso(const Pencil *pencil, double h, double shoulder, double hip,
		   ScenePaint paint)
{
	ScenePoint	points[6];

	points[0] = at(pencil, -hip, 0.45 * h);
	points[1] = at(pencil, hip, 0.45 * h);
	points[2] = at(pencil, shoulder, 0.76 * h);
	points[3] = at(pencil, shoulder * 0.62, 0.835 * h);
	points[4] = at(pencil, -shoulder * 0.62, 0.835 * h);
	points[5] = at(pencil, -shoulder, 0.76 * h);
	avc_canvas_polygon(pencil->canvas, points, 6, paint);
}

static void
draw_arm(const Pencil *pencil, double h, double x, double swing,
		 const ScenePaint *paints)
{
	double		upper[4] = {x, 0.80 * h, x + swing * 0.4, 0.62 * h};
	double		lower[4] = {upper[2], upper[3], x + swing, 0.47 * h};

	limb(pencil, upper, 0.065 * h, 0.055 * h, paints[0]);
	limb(pencil, lower, 0.055 * h, 0.045 * h, paints[0]);
	blob(pencil, lower[2], lower[3] - 0.01 * h, 0.024 * h, 0.028 * h,
		 paints[1]);
}

static void
draw_head(const Pencil *pencil, double h, double lean, SceneColour skin,
		  SceneColour hair)
{
	double		neck[4] = {0.0, 0.82 * h, lean, 0.88 * h};

	limb(pencil, neck, 0.06 * h, 0.055 * h, lit(pencil, skin, 0.85));
	blob(pencil, lean, 0.930 * h, 0.053 * h, 0.070 * h,
		 lit(pencil, hair, 1.0));
	blob(pencil, lean + 0.012 * h, 0.912 * h, 0.044 * h, 0.052 * h,
		 lit(pencil, skin, 1.0));
}

void
avc_scene_draw_person(const Scene *scene, SceneCanvas *canvas,
					  const SceneThing *thing)
{
	SceneRandom random = thing->random;
	Pencil		pencil = make_pencil(scene, canvas, thing, &random);
	double		h = thing->height;
	double		factor = 1.0 - 0.38 * thing->view;
	double		shoulder = 0.145 * h * factor;
	double		hip = 0.105 * h * factor;
	double		stride = scene_between(&random, 0.0, 0.20) * h *
		(0.25 + 0.75 * thing->view);
	double		swing = stride * 0.9 + 0.02 * h;
	SceneColour coat = pick(&random, coats, 9);
	SceneColour skin = pick(&random, skins, 4);
	SceneColour hair = pick(&random, hairs, 4);
	SceneColour cloth = pick(&random, trousers, 5);
	ScenePaint	arms[2];

	draw_legs(&pencil, h, hip, stride, cloth);
	arms[0] = lit(&pencil, coat, 0.72);
	arms[1] = lit(&pencil, skin, 0.8);
	draw_arm(&pencil, h, -shoulder * 0.92, -swing, arms);
	draw_torso(&pencil, h, shoulder, hip, lit(&pencil, coat, 1.0));
	arms[0] = lit(&pencil, coat, 0.86);
	arms[1] = lit(&pencil, skin, 1.0);
	draw_arm(&pencil, h, shoulder * 0.92, swing, arms);
	if (scene_chance(&random, 0.25))
	{
		double		bag[4] = {-shoulder - 0.03 * h, 0.50 * h,
		-shoulder - 0.03 * h, 0.34 * h};

		limb(&pencil, bag, 0.13 * h, 0.15 * h,
			 lit(&pencil, pick(&random, coats, 9), 0.8));
	}
	draw_head(&pencil, h, 0.02 * h * thing->view, skin, hair);
}

/* ---- machines -------------------------------------------------------- */

/* Where rider and machine meet; metres, before narrowing. */
typedef struct Machine
{
	double		rear;			/* wheel hubs */
	double		front;
	double		radius;
	double		seat_x;
	double		seat_y;
	double		bar_x;
	double		bar_y;
	double		foot_x;
	double		foot_y;
} Machine;

static const Machine bike = {
	-0.52, 0.54, 0.34, -0.20, 0.94, 0.38, 1.04, -0.02, 0.24
};

static const Machine motor = {
	-0.68, 0.70, 0.31, -0.22, 0.82, 0.42, 1.04, 0.02, 0.34
};

/* Share of a lateral width that is seen: all end-on, little side-on. */
static double
lateral(const SceneThing *thing)
{
	return sqrt(1.0 - 0.94 * thing->view * thing->view);
}

/* Handlebar, lamp: what is across the machine. */
static void
draw_bar(const Pencil *pencil, const Machine *m, ScenePaint paint)
{
	double		k = pencil->thing->view;
	double		half = 0.30 * lateral(pencil->thing) + 0.03;
	double		bar[4] = {m->bar_x * k - half, m->bar_y,
	m->bar_x * k + half, m->bar_y};

	limb(pencil, bar, 0.05, 0.05, paint);
}

static void
draw_lamps(const Pencil *pencil, const Machine *m, double y, double radius)
{
	static const SceneColour head = {255, 246, 220};
	static const SceneColour tail = {255, 44, 30};
	double		k = pencil->thing->view;
	double		z = pencil->thing->z;

	if (!pencil->thing->is_lit)
		return;
	if (k > 0.4)
	{
		blob(pencil, m->front * k * 0.8, y, radius, radius,
			 avc_scene_shining(pencil->scene, head, z));
		blob(pencil, m->rear * k, y * 0.8, radius * 0.7, radius * 0.7,
			 avc_scene_shining(pencil->scene, tail, z));
	}
	else
		blob(pencil, 0.0, y, radius, radius,
			 avc_scene_shining(pencil->scene,
							   pencil->direction > 0.0 ? head : tail, z));
}

static void
draw_bike(const Pencil *pencil, SceneRandom *random)
{
	static const SceneColour colours[6] = {
		{186, 40, 36}, {40, 90, 170}, {40, 42, 46}, {210, 210, 206},
		{60, 136, 84}, {214, 140, 44}
	};
	/* rear hub, pedals, seat tube, head tube, fork */
	static const double tubes[7][4] = {
		{-0.52, 0.34, -0.06, 0.29}, {-0.06, 0.29, -0.20, 0.90},
		{-0.52, 0.34, -0.17, 0.76}, {-0.17, 0.76, 0.33, 0.80},
		{-0.06, 0.29, 0.33, 0.76}, {0.31, 0.92, 0.54, 0.34},
		{0.31, 0.90, 0.38, 1.04}
	};
	double		k = pencil->thing->view;
	double		s = pencil->scale;
	SceneColour colour = pick(random, colours, 6);
	ScenePaint	tyre = lit(pencil, rubber, 1.0);
	ScenePaint	frame = lit(pencil, colour, 1.0);
	ScenePoint	radius = {(bike.radius * k + 0.02) * s, bike.radius * s};
	double		seat[4] = {-0.32 * k - 0.05, 0.95, -0.08 * k + 0.05, 0.95};
	double		thick = 0.055 * s < 1.0 ? 1.0 : 0.055 * s;
	int			i;

	avc_canvas_ring(pencil->canvas, at(pencil, bike.rear * k, bike.radius),
					radius, thick, tyre);
	avc_canvas_ring(pencil->canvas, at(pencil, bike.front * k, bike.radius),
					radius, thick, tyre);
	for (i = 0; i < 7; i++)
	{
		double		tube[4] = {tubes[i][0] * k, tubes[i][1],
		tubes[i][2] * k, tubes[i][3]};

		limb(pencil, tube, 0.05, 0.05, frame);
	}
	limb(pencil, seat, 0.07, 0.07, tyre);
	draw_bar(pencil, &bike, tyre);
	draw_lamps(pencil, &bike, 0.80, 0.045);
}

static void
draw_motor(const Pencil *pencil, SceneRandom *random)
{
	static const SceneColour colours[5] = {
		{190, 34, 30}, {36, 72, 160}, {38, 40, 44}, {60, 140, 70},
		{222, 150, 40}
	};
	static const SceneColour metal = {150, 152, 156};
	/* fairing and tank from seat to fork, then the tail */
	static const double fairing[6][2] = {
		{-0.28, 0.46}, {0.30, 0.36}, {0.62, 0.62}, {0.46, 1.00},
		{0.16, 0.98}, {-0.20, 0.78}
	};
	static const double tail[4][2] = {
		{-0.20, 0.66}, {-0.10, 0.82}, {-0.66, 0.90}, {-0.86, 0.80}
	};
	double		k = pencil->thing->view;
	double		s = pencil->scale;
	double		wide = 0.20 * lateral(pencil->thing);
	SceneColour colour = pick(random, colours, 5);
	ScenePaint	tyre = lit(pencil, rubber, 1.0);
	double		engine[4] = {-0.30 * k, 0.42, 0.32 * k, 0.42};
	double		fork[4] = {0.46 * k, 0.94, 0.70 * k, 0.31};
	ScenePoint	points[6];
	int			wheel;
	int			i;

	for (wheel = 0; wheel < 2; wheel++)
	{
		double		hub = (wheel == 0 ? motor.rear : motor.front) * k;

		avc_canvas_ellipse(pencil->canvas, at(pencil, hub, motor.radius),
						   (motor.radius * k + 0.06) * s, motor.radius * s,
						   tyre);
		blob(pencil, hub, motor.radius, 0.12 * k, 0.12,
			 lit(pencil, metal, 0.9));
	}
	limb(pencil, fork, 0.07, 0.07, lit(pencil, metal, 1.0));
	limb(pencil, engine, 0.30 + wide, 0.30 + wide, lit(pencil, metal, 0.5));
	for (i = 0; i < 4; i++)
		points[i] = at(pencil, tail[i][0] * k +
					   (i == 0 || i == 3 ? -wide * 0.5 : wide * 0.5),
					   tail[i][1]);
	avc_canvas_polygon(pencil->canvas, points, 4, lit(pencil, colour, 0.72));
	for (i = 0; i < 6; i++)
		points[i] = at(pencil, fairing[i][0] * k +
					   (i == 0 || i == 5 || i == 4 ? -wide : wide),
					   fairing[i][1]);
	avc_canvas_polygon(pencil->canvas, points, 6, lit(pencil, colour, 1.0));
	draw_bar(pencil, &motor, tyre);
	draw_lamps(pencil, &motor, 0.86, 0.085);
}

void
avc_scene_draw_machine(const Scene *scene, SceneCanvas *canvas,
					   const SceneThing *thing)
{
	SceneRandom random = thing->random;
	Pencil		pencil = make_pencil(scene, canvas, thing, &random);

	if (thing->kind == SCENE_BIKE)
		draw_bike(&pencil, &random);
	else
		draw_motor(&pencil, &random);
}

/* ---- riders ---------------------------------------------------------- */

static void
draw_rider_leg(const Pencil *pencil, const Machine *m, double side,
			   ScenePaint paint)
{
	double		k = pencil->thing->view;
	double		across = side * 0.13 * lateral(pencil->thing);
	double		lift = side > 0.0 ? 0.0 : 0.16;
	double		thigh[4] = {m->seat_x * k + across * 0.7, m->seat_y - 0.02,
	(m->foot_x + 0.26) * k + across, (m->seat_y + m->foot_y) / 2 + 0.08 + lift * 0.5};
	double		shin[4] = {thigh[2], thigh[3],
	(m->foot_x - 0.02) * k + across, m->foot_y + lift};

	limb(pencil, thigh, 0.17, 0.13, paint);
	limb(pencil, shin, 0.13, 0.09, paint);
	blob(pencil, shin[2] + 0.05 * k, shin[3] - 0.02, 0.06 + 0.06 * k, 0.045,
		 lit(pencil, shoe, 1.0));
}

static void
draw_rider_head(const Pencil *pencil, double x, double y, bool has_helmet,
				SceneRandom *random)
{
	static const SceneColour helmets[5] = {
		{210, 210, 206}, {190, 40, 36}, {40, 42, 48}, {220, 180, 50},
		{44, 86, 160}
	};
	static const SceneColour visor = {24, 28, 36};
	SceneColour skin = pick(random, skins, 4);
	SceneColour hair = pick(random, hairs, 4);
	SceneColour helmet = pick(random, helmets, 5);
	double		k = pencil->thing->view;

	if (pencil->thing->kind == SCENE_RIDER && has_helmet)
	{
		blob(pencil, x, y, 0.135, 0.145, lit(pencil, helmet, 1.0));
		blob(pencil, x + 0.05 * k, y - 0.03, 0.085, 0.055,
			 lit(pencil, k < 0.4 && pencil->direction < 0.0 ? helmet :
				 visor, 0.9));
		return;
	}
	blob(pencil, x, y + 0.01, 0.105, 0.125, lit(pencil, hair, 1.0));
	blob(pencil, x + 0.03 * k, y - 0.025, 0.085, 0.095,
		 lit(pencil, skin, 1.0));
}

void
avc_scene_draw_rider(const Scene *scene, SceneCanvas *canvas,
					 const SceneThing *thing)
{
	const SceneThing *machine = &scene->things[thing->partner];
	const Machine *m = machine->kind == SCENE_BIKE ? &bike : &motor;
	SceneRandom random = thing->random;
	Pencil		pencil = make_pencil(scene, canvas, thing, &random);
	SceneRandom own = scene_branch(&random);
	double		k = thing->view;
	double		wide = 0.17 * lateral(thing);
	double		lean = scene_between(&own, 0.22, 0.40);
	double		neck_x = (m->seat_x + lean) * k;
	double		neck_y = m->seat_y + 0.56 - 0.25 * lean;
	SceneColour coat = pick(&own, coats, 9);
	SceneColour cloth = pick(&own, trousers, 5);
	ScenePaint	sleeve = lit(&pencil, coat, 0.82);
	bool		has_helmet = scene_chance(&own, 0.6) || m == &motor;
	double		body[4] = {m->seat_x * k, m->seat_y - 0.06, neck_x, neck_y};
	int			side;

	draw_rider_leg(&pencil, m, -1.0, lit(&pencil, cloth, 0.75));
	for (side = -1; side <= 1; side += 2)
	{
		double		arm[4] = {neck_x + side * wide * 0.9, neck_y - 0.06,
			m->bar_x * k * 0.55 + neck_x * 0.35 + side * wide * 1.25,
		(neck_y + m->bar_y) / 2 - 0.06};
		double		fore[4] = {arm[2], arm[3], m->bar_x * k + side * wide * 1.2,
		m->bar_y + 0.02};

		if (side > 0)
			limb(&pencil, body, 0.25 + wide * 0.8, 0.27 + wide * 1.2,
				 lit(&pencil, coat, 1.0));
		limb(&pencil, arm, 0.11, 0.10, sleeve);
		limb(&pencil, fore, 0.10, 0.08, sleeve);
	}
	draw_rider_leg(&pencil, m, 1.0, lit(&pencil, cloth, 1.0));
	draw_rider_head(&pencil, neck_x + 0.07 * k, neck_y + 0.16, has_helmet,
					&own);
}
