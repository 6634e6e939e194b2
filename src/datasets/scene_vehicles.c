/*
 * datasets/scene_vehicles.c
 *		Cars, trucks and buses out of boxes with tapered tops.
 *
 * A vehicle's own axes: a forward, b to its right, y up, origin on the
 * ground in the middle of its footprint.
 */
#include "datasets/scene_parts.h"

/* A box whose top may be smaller than its bottom. */
typedef struct Solid
{
	double		a[4];			/* rear and front below, rear and front above */
	double		b[2];			/* half width below and above */
	double		y[2];			/* lower and upper end */
	SceneColour colour;
} Solid;

typedef enum Face
{
	FACE_REAR,
	FACE_FRONT,
	FACE_RIGHT,
	FACE_LEFT,
	FACE_TOP,
	FACE_COUNT
} Face;

/*
 * Corners are numbered rear left, rear right, front right, front left, and
 * the same again above.  Those of a face, seen from outside: lower left,
 * lower right, upper right, upper left.
 */
static const int face_corners[FACE_COUNT][4] = {
	{0, 1, 5, 4}, {2, 3, 7, 6}, {1, 2, 6, 5}, {3, 0, 4, 7}, {4, 5, 6, 7}
};

static const double face_shades[FACE_COUNT] = {0.90, 0.94, 0.76, 0.76, 1.10};

/* A rectangle of a face: from its lower left corner, 0 .. 1 each way. */
typedef struct Patch
{
	double		s1;
	double		t1;
	double		s2;
	double		t2;
} Patch;

/* A point in space, metres of the world. */
typedef struct Place
{
	double		x;
	double		y;
	double		z;
} Place;

/* What is needed to draw on one vehicle. */
typedef struct Brush
{
	const Scene *scene;
	SceneCanvas *canvas;
	const SceneThing *thing;
	Place		corners[8];		/* of the solid at hand */
} Brush;

static const SceneColour glass = {38, 46, 56};
static const SceneColour rubber = {26, 26, 28};
static const SceneColour metal = {140, 142, 146};
static const SceneColour white_lamp = {255, 244, 214};
static const SceneColour red_lamp = {255, 46, 30};
static const SceneColour dull_white = {205, 208, 210};
static const SceneColour dull_red = {150, 28, 24};

static Place
place_of(const Brush *brush, double a, double b, double y)
{
	Place		place;

	place.x = brush->thing->x + a * brush->thing->sine + b * brush->thing->cosine;
	place.y = y;
	place.z = brush->thing->z + a * brush->thing->cosine - b * brush->thing->sine;
	return place;
}

static ScenePoint
project(const Brush *brush, Place place)
{
	return avc_scene_project(brush->scene, place.x, place.y, place.z);
}

static void
set_solid(Brush *brush, const Solid *solid)
{
	int			upper;

	for (upper = 0; upper < 2; upper++)
	{
		Place	   *corner = brush->corners + 4 * upper;
		double		rear = solid->a[2 * upper];
		double		front = solid->a[2 * upper + 1];
		double		b = solid->b[upper];
		double		y = solid->y[upper];

		corner[0] = place_of(brush, rear, -b, y);
		corner[1] = place_of(brush, rear, b, y);
		corner[2] = place_of(brush, front, b, y);
		corner[3] = place_of(brush, front, -b, y);
	}
}

/* Point of a face at (s, t), s from left to right, t upwards. */
static Place
on_face(const Brush *brush, Face face, double s, double t)
{
	const int  *corner = face_corners[face];
	double		weights[4];
	Place		place = {0, 0, 0};
	int			i;

	weights[0] = (1 - s) * (1 - t);
	weights[1] = s * (1 - t);
	weights[2] = s * t;
	weights[3] = (1 - s) * t;
	for (i = 0; i < 4; i++)
	{
		place.x += weights[i] * brush->corners[corner[i]].x;
		place.y += weights[i] * brush->corners[corner[i]].y;
		place.z += weights[i] * brush->corners[corner[i]].z;
	}
	return place;
}

/* Does the camera see the face from outside? */
static bool
is_seen(const Brush *brush, Face face)
{
	const int  *corner = face_corners[face];
	double		area = 0.0;
	ScenePoint	p[4];
	int			i;

	for (i = 0; i < 4; i++)
		p[i] = project(brush, brush->corners[corner[i]]);
	for (i = 0; i < 4; i++)
		area += p[i].x * p[(i + 1) % 4].y - p[(i + 1) % 4].x * p[i].y;
	return area < 0.0;
}

static void
patch_paint(const Brush *brush, Face face, Patch patch, ScenePaint paint)
{
	ScenePoint	p[4];

	p[0] = project(brush, on_face(brush, face, patch.s1, patch.t1));
	p[1] = project(brush, on_face(brush, face, patch.s2, patch.t1));
	p[2] = project(brush, on_face(brush, face, patch.s2, patch.t2));
	p[3] = project(brush, on_face(brush, face, patch.s1, patch.t2));
	avc_canvas_polygon(brush->canvas, p, 4, paint);
}

/* Part of a face in a colour. */
static void
draw_patch(const Brush *brush, Face face, Patch patch, SceneColour colour)
{
	Place		middle = on_face(brush, face, (patch.s1 + patch.s2) / 2,
								 (patch.t1 + patch.t2) / 2);

	patch_paint(brush, face, patch,
				avc_scene_lit(brush->scene, colour, face_shades[face],
							  middle.x, middle.z));
}

/* The patch and its mirror image: two lamps. */
static void
lamp_pair(const Brush *brush, Face face, Patch patch, SceneColour lit,
		  SceneColour dull)
{
	Patch		mirrored = {1 - patch.s2, patch.t1, 1 - patch.s1, patch.t2};
	Place		middle = on_face(brush, face, 0.5, patch.t1);
	ScenePaint	paint = brush->thing->is_lit ?
		avc_scene_shining(brush->scene, lit, middle.z) :
		avc_scene_lit(brush->scene, dull, 1.0, middle.x, middle.z);

	patch_paint(brush, face, patch, paint);
	patch_paint(brush, face, mirrored, paint);
}

/* Take the solid in hand and draw the faces that are seen, in its colour. */
static void
draw_solid(Brush *brush, const Solid *solid)
{
	int			face;

	set_solid(brush, solid);
	for (face = 0; face < FACE_COUNT; face++)
		if (is_seen(brush, face))
			draw_patch(brush, face, (Patch) {0, 0, 1, 1}, solid->colour);
}

/* A wheel on the vehicle's side (-1 left, 1 right). */
static void
draw_wheel(const Brush *brush, double a, double side, double radius)
{
	static const double ring[12][2] = {
		{1.0, 0.0}, {0.866, 0.5}, {0.5, 0.866}, {0.0, 1.0}, {-0.5, 0.866},
		{-0.866, 0.5}, {-1.0, 0.0}, {-0.866, -0.5}, {-0.5, -0.866},
		{0.0, -1.0}, {0.5, -0.866}, {0.866, -0.5}
	};
	double		b = side * (brush->thing->width / 2.0 + 0.01);
	Place		hub = place_of(brush, a, b, radius);
	ScenePoint	p[12];
	int			part;
	int			i;

	for (part = 0; part < 2; part++)
	{
		double		r = radius * (part == 0 ? 1.0 : 0.55);

		for (i = 0; i < 12; i++)
			p[i] = project(brush, place_of(brush, a + r * ring[i][0], b,
										   radius + r * ring[i][1]));
		avc_canvas_polygon(brush->canvas, p, 12,
						   avc_scene_lit(brush->scene,
										 part == 0 ? rubber : metal, 0.9,
										 hub.x, hub.z));
	}
}

/* Wheels at these places along the vehicle, on the sides that are seen. */
static void
draw_wheels(const Brush *brush, const double *places, int count,
			double radius)
{
	int			i;

	for (i = 0; i < count; i++)
	{
		if (is_seen(brush, FACE_LEFT))
			draw_wheel(brush, places[i], -1.0, radius);
		if (is_seen(brush, FACE_RIGHT))
			draw_wheel(brush, places[i], 1.0, radius);
	}
}

/* Dark underside and tyres, seen below the body from the front or rear. */
static void
draw_underside(Brush *brush, double clearance)
{
	double		half = brush->thing->length / 2.0 - 0.25;
	double		b = brush->thing->width / 2.0 - 0.06;
	Solid		shade = {{-half, half, -half, half}, {b, b},
	{clearance * 0.55, clearance}, {22, 22, 24}};
	static const Patch tyres[2] = {{0, 0, 0.13, 1}, {0.87, 0, 1, 1}};
	Face		face;
	int			side;

	draw_solid(brush, &shade);
	for (face = FACE_REAR; face <= FACE_FRONT; face++)
	{
		Solid		tyre = {{-half, half, -half, half}, {b, b},
		{0.0, clearance}, rubber};

		set_solid(brush, &tyre);
		if (!is_seen(brush, face))
			continue;
		for (side = 0; side < 2; side++)
			draw_patch(brush, face, tyres[side], rubber);
	}
}

static SceneColour
car_colour(SceneRandom *random)
{
	static const SceneColour colours[11] = {
		{225, 226, 224}, {176, 180, 184}, {118, 122, 127}, {66, 69, 74},
		{34, 35, 39}, {176, 36, 34}, {112, 26, 32}, {44, 84, 158},
		{28, 44, 84}, {46, 98, 66}, {204, 172, 96}
	};

	return scene_pick(random, colours, 11, 0.85, 1.15);
}

/* ---- cars ------------------------------------------------------------ */

static void
draw_car_ends(Brush *brush, SceneColour colour)
{
	static const Patch rear_lamps = {0.03, 0.58, 0.20, 0.86};
	static const Patch front_lamps = {0.04, 0.55, 0.24, 0.82};
	static const SceneColour bumper = {52, 54, 58};
	static const SceneColour plate = {222, 220, 196};

	if (is_seen(brush, FACE_REAR))
	{
		draw_patch(brush, FACE_REAR, (Patch) {0, 0, 1, 0.24}, bumper);
		draw_patch(brush, FACE_REAR, (Patch) {0.36, 0.34, 0.64, 0.54}, plate);
		lamp_pair(brush, FACE_REAR, rear_lamps, red_lamp, dull_red);
	}
	if (is_seen(brush, FACE_FRONT))
	{
		draw_patch(brush, FACE_FRONT, (Patch) {0, 0, 1, 0.26}, bumper);
		draw_patch(brush, FACE_FRONT, (Patch) {0.30, 0.44, 0.70, 0.74},
				   rubber);
		draw_patch(brush, FACE_FRONT, (Patch) {0.37, 0.20, 0.63, 0.36}, plate);
		lamp_pair(brush, FACE_FRONT, front_lamps, white_lamp, dull_white);
	}
}

static void
draw_car(Brush *brush, SceneRandom *random)
{
	static const double wheels[2] = {-1.28, 1.32};
	SceneColour colour = car_colour(random);
	bool		tall = brush->thing->height > 1.6;
	double		belt = tall ? 0.98 : 0.82;
	double		roof = brush->thing->height - 0.07;
	Solid		body = {{-2.1, 2.1, -2.06, 1.98}, {0.89, 0.86},
	{0.24, belt}, colour};
	Solid		cabin = {{-1.80, 0.98, -1.22, 0.30}, {0.82, 0.66},
	{belt, roof}, glass};
	Solid		top = {{-1.22, 0.30, -1.16, 0.24}, {0.66, 0.63},
	{roof, roof + 0.07}, colour};
	Face		face;

	if (tall)
	{
		cabin.a[0] = -2.04;
		cabin.a[2] = top.a[0] = -1.90;
		cabin.a[3] = top.a[1] = 0.42;
		top.a[2] = -1.85;
		top.a[3] = 0.36;
		cabin.b[1] = top.b[0] = 0.74;
		top.b[1] = 0.70;
	}
	draw_underside(brush, 0.26);
	draw_solid(brush, &body);
	draw_car_ends(brush, colour);
	draw_wheels(brush, wheels, 2, 0.33);
	draw_solid(brush, &cabin);
	for (face = FACE_RIGHT; face <= FACE_LEFT; face++)
		if (is_seen(brush, face))
		{
			/* pillars: the body's colour between the windows */
			draw_patch(brush, face, (Patch) {0, 0, 0.09, 1}, colour);
			draw_patch(brush, face, (Patch) {0.46, 0, 0.54, 1}, colour);
			draw_patch(brush, face, (Patch) {0.92, 0, 1, 1}, colour);
		}
	for (face = FACE_REAR; face <= FACE_FRONT; face++)
		if (is_seen(brush, face))
		{
			draw_patch(brush, face, (Patch) {0, 0, 0.07, 1}, colour);
			draw_patch(brush, face, (Patch) {0.93, 0, 1, 1}, colour);
		}
	draw_solid(brush, &top);
}

/* ---- trucks ---------------------------------------------------------- */

static void
draw_cargo(Brush *brush, SceneRandom *random)
{
	static const Patch lamps = {0.02, 0.02, 0.13, 0.09};
	static const SceneColour colours[6] = {
		{222, 222, 218}, {196, 198, 200}, {160, 164, 150}, {70, 96, 150},
		{170, 70, 52}, {206, 176, 90}
	};
	SceneColour colour = scene_pick(random, colours, 6, 0.85, 1.15);
	SceneColour stripe = car_colour(random);
	bool		has_stripe = scene_chance(random, 0.5);
	Solid		cargo = {{-3.25, 1.35, -3.25, 1.35}, {1.1, 1.1},
	{0.62, brush->thing->height}, colour};
	Face		face;

	draw_solid(brush, &cargo);
	for (face = FACE_RIGHT; face <= FACE_LEFT && has_stripe; face++)
		if (is_seen(brush, face))
			draw_patch(brush, face, (Patch) {0.1, 0.4, 0.9, 0.62}, stripe);
	if (is_seen(brush, FACE_REAR))
	{
		SceneColour seam = scene_scaled(colour, 0.55);

		draw_patch(brush, FACE_REAR, (Patch) {0.485, 0.05, 0.515, 1}, seam);
		draw_patch(brush, FACE_REAR, (Patch) {0, 0.95, 1, 1}, seam);
		draw_patch(brush, FACE_REAR, (Patch) {0, 0, 1, 0.10}, rubber);
		lamp_pair(brush, FACE_REAR, lamps, red_lamp, dull_red);
	}
}

static void
draw_cab(Brush *brush, SceneColour colour)
{
	static const Patch lamps = {0.05, 0.08, 0.22, 0.20};
	Solid		cab = {{1.55, 3.25, 1.60, 2.95}, {1.05, 1.0}, {0.45, 2.35},
	colour};
	Face		face;

	draw_solid(brush, &cab);
	if (is_seen(brush, FACE_FRONT))
	{
		draw_patch(brush, FACE_FRONT, (Patch) {0.06, 0.50, 0.94, 0.90}, glass);
		draw_patch(brush, FACE_FRONT, (Patch) {0.22, 0.10, 0.78, 0.34},
				   rubber);
		lamp_pair(brush, FACE_FRONT, lamps, white_lamp, dull_white);
	}
	for (face = FACE_RIGHT; face <= FACE_LEFT; face++)
		if (is_seen(brush, face))
			draw_patch(brush, face, (Patch) {0.25, 0.50, 0.85, 0.88}, glass);
}

static void
draw_truck(Brush *brush, SceneRandom *random)
{
	static const double wheels[3] = {-2.5, -1.5, 2.2};
	SceneColour colour = car_colour(random);
	Solid		chassis = {{-3.2, 3.1, -3.2, 3.1}, {1.0, 1.0}, {0.40, 0.68},
	{40, 41, 44}};
	bool		rear_first;

	draw_underside(brush, 0.45);
	draw_solid(brush, &chassis);
	draw_wheels(brush, wheels, 3, 0.46);
	/* whichever end points away is hidden by the other */
	rear_first = brush->thing->cosine * brush->thing->z +
		brush->thing->sine * (brush->thing->x - brush->scene->camera_x) < 0.0;
	if (rear_first)
		draw_cargo(brush, random);
	draw_cab(brush, colour);
	if (!rear_first)
		draw_cargo(brush, random);
}

/* ---- buses ----------------------------------------------------------- */

static void
draw_bus_side(Brush *brush, Face face, SceneColour stripe, bool is_lit)
{
	static const SceneColour inside = {236, 214, 150};
	int			i;

	draw_patch(brush, face, (Patch) {0, 0.26, 1, 0.36}, stripe);
	for (i = 0; i < 7; i++)
	{
		Patch		window = {0.035 + i * 0.135, 0.50,
		0.155 + i * 0.135, 0.84};
		Place		middle = on_face(brush, face,
									 (window.s1 + window.s2) / 2, 0.7);

		if (is_lit)
			patch_paint(brush, face, window,
						avc_scene_shining(brush->scene,
										  scene_scaled(inside, 0.55),
										  middle.z));
		else
			draw_patch(brush, face, window, glass);
	}
}

static void
draw_bus(Brush *brush, SceneRandom *random)
{
	static const double wheels[2] = {-2.9, 3.3};
	static const Patch rear_lamps = {0.03, 0.10, 0.13, 0.24};
	static const Patch front_lamps = {0.06, 0.08, 0.22, 0.16};
	static const SceneColour colours[5] = {
		{196, 40, 38}, {226, 184, 48}, {42, 92, 170}, {224, 226, 224},
		{56, 128, 80}
	};
	SceneColour colour = scene_pick(random, colours, 5, 0.85, 1.15);
	SceneColour stripe = scene_scaled(colour, 0.6);
	bool		is_lit = scene_chance(random, 0.6) &&
		brush->scene->time == SCENE_NIGHT;
	Solid		body = {{-5.0, 5.0, -4.96, 4.9}, {1.25, 1.2}, {0.34, 3.05},
	colour};

	draw_underside(brush, 0.36);
	draw_solid(brush, &body);
	if (is_seen(brush, FACE_LEFT))
		draw_bus_side(brush, FACE_LEFT, stripe, is_lit);
	if (is_seen(brush, FACE_RIGHT))
		draw_bus_side(brush, FACE_RIGHT, stripe, is_lit);
	if (is_seen(brush, FACE_REAR))
	{
		draw_patch(brush, FACE_REAR, (Patch) {0.10, 0.56, 0.90, 0.86}, glass);
		draw_patch(brush, FACE_REAR, (Patch) {0.2, 0.12, 0.8, 0.36}, stripe);
		lamp_pair(brush, FACE_REAR, rear_lamps, red_lamp, dull_red);
	}
	if (is_seen(brush, FACE_FRONT))
	{
		draw_patch(brush, FACE_FRONT, (Patch) {0.05, 0.36, 0.95, 0.82}, glass);
		draw_patch(brush, FACE_FRONT, (Patch) {0.22, 0.86, 0.78, 0.96},
				   rubber);
		lamp_pair(brush, FACE_FRONT, front_lamps, white_lamp, dull_white);
	}
	draw_wheels(brush, wheels, 2, 0.48);
}

void
avc_scene_draw_vehicle(const Scene *scene, SceneCanvas *canvas,
					   const SceneThing *thing)
{
	SceneRandom random = thing->random;
	Brush		brush = {scene, canvas, thing};

	if (thing->kind == SCENE_CAR)
		draw_car(&brush, &random);
	else if (thing->kind == SCENE_TRUCK)
		draw_truck(&brush, &random);
	else
		draw_bus(&brush, &random);
}
