/*
 * datasets/scene_backdrop.c
 *		What lies behind the things: sky, skyline, ground, road with its
 *		markings and rows of buildings; and the weather before them.
 */
#include "datasets/scene_parts.h"

#include <math.h>

#define FLOOR_HEIGHT 3.0
#define FAR_AWAY 90.0			/* where the rows of buildings end, metres */

static ScenePaint
plain(SceneColour colour)
{
	ScenePaint	paint = {(float) colour.red, (float) colour.green,
	(float) colour.blue, 0.0f, 1.0f};

	return paint;
}

static SceneColour
between(SceneColour a, SceneColour b, double t)
{
	SceneColour mixed = {a.red + (b.red - a.red) * t,
		a.green + (b.green - a.green) * t,
	a.blue + (b.blue - a.blue) * t};

	return mixed;
}

/* ---- sky ------------------------------------------------------------- */

static SceneColour
sky_top(const Scene *scene)
{
	static const SceneColour tops[][5] = {
		{{96, 146, 208}, {156, 161, 168}, {122, 128, 136}, {186, 190, 194},
		{184, 189, 196}},
		{{72, 76, 118}, {92, 88, 96}, {74, 72, 80}, {130, 120, 118},
		{112, 108, 116}},
		{{7, 9, 20}, {12, 13, 19}, {10, 11, 16}, {24, 25, 29}, {20, 22, 30}}
	};

	return tops[scene->time][scene->weather];
}

static void
draw_clouds(const Scene *scene, SceneCanvas *canvas, SceneRandom *random)
{
	static const SceneColour white = {228, 230, 234};
	static const SceneColour rose = {206, 150, 134};
	int			count = scene_integer(random, 0, 4);
	int			i;
	int			puff;

	if (scene->weather != SCENE_CLEAR || scene->time == SCENE_NIGHT)
		return;
	for (i = 0; i < count; i++)
	{
		double		x = scene_unit(random) * canvas->width;
		double		y = scene_between(random, 0.05, 0.7) * scene->horizon;
		double		size = scene_between(random, 0.04, 0.10) * canvas->width;
		ScenePaint	paint = plain(scene->time == SCENE_DAY ? white : rose);

		paint.alpha = 0.35f;
		for (puff = 0; puff < 4; puff++)
		{
			ScenePoint	centre;
			double		rx = size * scene_between(random, 0.5, 0.9);
			double		ry = size * scene_between(random, 0.12, 0.25);

			centre.x = x + scene_between(random, -1.0, 1.0) * size;
			centre.y = y + scene_between(random, -0.12, 0.12) * size;
			avc_canvas_ellipse(canvas, centre, rx, ry, paint);
		}
	}
}

static void
draw_sky(const Scene *scene, SceneCanvas *canvas)
{
	SceneColour top = sky_top(scene);
	int			rows = (int) scene->horizon + 1;
	int			y;

	for (y = 0; y < rows && y < canvas->height; y++)
		avc_canvas_span(canvas, y, 0, canvas->width,
						plain(between(top, scene->fog, (y + 0.5) / rows)));
}

static void
draw_skyline(const Scene *scene, SceneCanvas *canvas, SceneRandom *random)
{
	static const SceneColour stone = {118, 122, 132};
	double		x = -10.0;
	double		unit = canvas->width / 640.0;

	while (x < canvas->width)
	{
		double		width = scene_between(random, 14.0, 60.0) * unit;
		double		height = scene_between(random, 2.0, 30.0) * unit;
		double		z = scene_between(random, 120.0, 260.0);
		ScenePoint	low = {x, scene->horizon - height};
		ScenePoint	high = {x + width, scene->horizon + 2.0};

		avc_canvas_rectangle(canvas, low, high,
							 avc_scene_lit(scene, stone,
										   scene_between(random, 0.7, 1.1),
										   scene->camera_x, z));
		x += width;
	}
}

/* ---- ground ---------------------------------------------------------- */

typedef struct Strip
{
	double		until;			/* right end, metres */
	SceneColour colour;
} Strip;

/*
 * One row of the ground at distance z.  At night the light falls off
 * sideways as well, so the row is drawn in short pieces.
 */
static void
draw_ground_row(const Scene *scene, SceneCanvas *canvas, int y, double z,
				const Strip *strips)
{
	int			piece = scene->headlight > 0.0 ? 8 : canvas->width;
	int			x = 0;
	int			i;

	for (i = 0; i < 5; i++)
	{
		double		end = scene->middle +
			scene->focal * (strips[i].until - scene->camera_x) / z;
		int			to = end < 0.0 ? 0 : end > canvas->width ?
			canvas->width : (int) (end + 0.5);

		while (x < to)
		{
			int			next = (x / piece + 1) * piece;
			double		u;

			next = next < to ? next : to;
			u = ((x + next) / 2.0 - scene->middle) * z / scene->focal;
			avc_canvas_span(canvas, y, x, next,
							avc_scene_lit(scene, strips[i].colour, 1.0,
										  u + scene->camera_x, z));
			x = next;
		}
	}
}

static void
draw_ground(const Scene *scene, SceneCanvas *canvas, SceneRandom *random)
{
	static const SceneColour snow = {226, 229, 233};
	static const SceneColour slush = {172, 175, 180};
	static const SceneColour grass = {96, 112, 70};
	static const SceneColour soil = {128, 118, 100};
	static const SceneColour asphalt = {96, 97, 100};
	static const SceneColour slabs = {146, 142, 136};
	static const SceneColour kerb = {168, 166, 160};
	double		shade = scene_between(random, 0.82, 1.15);
	bool		is_snowy = scene->weather == SCENE_SNOWY;
	SceneColour road = scene_scaled(is_snowy ? slush : asphalt,
									scene->weather == SCENE_RAINY ?
									shade * 0.78 : shade);
	SceneColour side = is_snowy ? snow : scene->is_residential ? grass : soil;
	SceneColour walk = is_snowy ? snow : slabs;
	Strip		strips[5];
	int			y;

	strips[0] = (Strip) {-SCENE_ROAD_HALF - scene->pavement[0], side};
	strips[1] = (Strip) {-SCENE_ROAD_HALF, walk};
	strips[2] = (Strip) {SCENE_ROAD_HALF, road};
	strips[3] = (Strip) {SCENE_ROAD_HALF + scene->pavement[1], walk};
	strips[4] = (Strip) {1e6, side};
	for (y = (int) scene->horizon; y < canvas->height; y++)
	{
		double		below = y + 0.5 - scene->horizon;
		double		z = below < 0.5 ? 1000.0 :
			scene->focal * scene->camera_height / below;

		draw_ground_row(scene, canvas, y, z > 1000.0 ? 1000.0 : z, strips);
	}
	if (!is_snowy)
		for (y = -1; y <= 1; y += 2)
		{
			double		x = y * SCENE_ROAD_HALF;
			ScenePoint	line[4] = {
				avc_scene_project(scene, x, 0.0, 60.0),
				avc_scene_project(scene, x + y * 0.15, 0.0, 60.0),
				avc_scene_project(scene, x + y * 0.15, 0.0, 3.0),
				avc_scene_project(scene, x, 0.0, 3.0)
			};

			avc_canvas_polygon(canvas, line, 4,
							   avc_scene_lit(scene, kerb, 1.0, x, 12.0));
		}
}

/* A rectangle painted on the ground. */
static void
draw_marking(const Scene *scene, SceneCanvas *canvas, ScenePoint low,
			 ScenePoint high, SceneColour colour)
{
	ScenePoint	points[4];

	points[0] = avc_scene_project(scene, low.x, 0.0, low.y);
	points[1] = avc_scene_project(scene, high.x, 0.0, low.y);
	points[2] = avc_scene_project(scene, high.x, 0.0, high.y);
	points[3] = avc_scene_project(scene, low.x, 0.0, high.y);
	avc_canvas_polygon(canvas, points, 4,
					   avc_scene_lit(scene, colour, 1.0,
									 (low.x + high.x) / 2.0,
									 (low.y + high.y) / 2.0));
}

static void
draw_markings(const Scene *scene, SceneCanvas *canvas, SceneRandom *random)
{
	static const SceneColour white = {212, 212, 208};
	static const SceneColour yellow = {216, 176, 62};
	double		start = scene_between(random, 2.5, 8.5);
	double		wear = scene_between(random, 0.75, 1.0);
	SceneColour line = scene_scaled(scene->is_yellow ? yellow : white, wear);
	double		x;
	double		z;
	int			side;

	for (z = start; z < 70.0; z += 6.0)
		for (side = -1; side <= 1; side += 2)
		{
			x = side * SCENE_LANE / 2.0;
			draw_marking(scene, canvas, (ScenePoint) {x - 0.08, z},
						 (ScenePoint) {x + 0.08, z + 3.0}, line);
		}
	if (scene->zebra > 0.0)
		for (x = -SCENE_ROAD_HALF + 0.3; x < SCENE_ROAD_HALF - 0.5; x += 1.0)
			draw_marking(scene, canvas, (ScenePoint) {x, scene->zebra},
						 (ScenePoint) {x + 0.5, scene->zebra + 3.0},
						 scene_scaled(white, wear));
}

/* ---- buildings ------------------------------------------------------- */

typedef struct Building
{
	double		x;				/* plane of the wall at the street */
	double		near;			/* distances of its ends */
	double		far;
	double		height;
	SceneColour wall;
	double		lit_share;		/* of the windows */
} Building;

/* Part of the wall at the street: from z1 to z2, y1 to y2. */
static void
wall_part(const Scene *scene, SceneCanvas *canvas, const Building *b,
		  ScenePoint low, ScenePoint high, ScenePaint paint)
{
	ScenePoint	points[4];

	points[0] = avc_scene_project(scene, b->x, low.y, low.x);
	points[1] = avc_scene_project(scene, b->x, low.y, high.x);
	points[2] = avc_scene_project(scene, b->x, high.y, high.x);
	points[3] = avc_scene_project(scene, b->x, high.y, low.x);
	avc_canvas_polygon(canvas, points, 4, paint);
}

static ScenePaint
window_paint(const Scene *scene, const Building *b, SceneRandom *random,
			 double z)
{
	static const SceneColour pane = {58, 68, 82};
	static const SceneColour warm = {236, 196, 118};

	if (scene_chance(random, b->lit_share))
		return avc_scene_shining(scene,
								 scene_scaled(warm,
											  scene_between(random, 0.4,
															0.9)), z);
	return avc_scene_lit(scene, pane, scene_between(random, 0.7, 1.2), b->x,
						 z);
}

/* The wall along the street, one upright strip a column of windows. */
static void
draw_street_wall(const Scene *scene, SceneCanvas *canvas, const Building *b,
				 SceneRandom *random)
{
	int			columns = (int) ((b->far - b->near) / 2.8);
	double		step = (b->far - b->near) / columns;
	int			i;

	for (i = columns - 1; i >= 0; i--)
	{
		double		z = b->near + i * step;
		ScenePaint	wall = avc_scene_lit(scene, b->wall, 0.86, b->x,
										 z + step / 2.0);
		double		y;

		wall_part(scene, canvas, b, (ScenePoint) {z, 0.0},
				  (ScenePoint) {z + step * 1.01, b->height}, wall);
		for (y = 1.0; y + 1.7 < b->height; y += FLOOR_HEIGHT)
			wall_part(scene, canvas, b, (ScenePoint) {z + step * 0.25, y},
					  (ScenePoint) {z + step * 0.75, y + 1.5},
					  window_paint(scene, b, random, z + step / 2.0));
	}
}

/* The wall that faces the camera. */
static void
draw_end_wall(const Scene *scene, SceneCanvas *canvas, const Building *b,
			  SceneRandom *random)
{
	double		outer = b->x + (b->x > 0.0 ? 9.0 : -9.0);
	double		left = b->x < outer ? b->x : outer;
	int			i;
	double		y;

	avc_canvas_rectangle(canvas,
						 avc_scene_project(scene, left, b->height, b->near),
						 avc_scene_project(scene, left + 9.0, 0.0, b->near),
						 avc_scene_lit(scene, b->wall, 1.0, b->x, b->near));
	for (i = 0; i < 3; i++)
		for (y = 1.0; y + 1.7 < b->height; y += FLOOR_HEIGHT)
		{
			double		x = left + 0.8 + i * 2.9;

			avc_canvas_rectangle(canvas,
								 avc_scene_project(scene, x, y + 1.5, b->near),
								 avc_scene_project(scene, x + 1.4, y, b->near),
								 window_paint(scene, b, random, b->near));
		}
}

static void
draw_building_row(const Scene *scene, SceneCanvas *canvas, int side,
				  SceneRandom *random)
{
	static const SceneColour walls[8] = {
		{164, 128, 104}, {190, 180, 162}, {142, 138, 134}, {176, 150, 122},
		{128, 96, 84}, {206, 200, 188}, {150, 156, 164}, {186, 160, 110}
	};
	Building	row[16];
	double		z = scene_between(random, -6.0, 6.0);
	double		set_back = scene->is_residential ?
		scene_between(random, 1.5, 5.0) : scene_between(random, 0.0, 0.8);
	int			count = 0;

	while (z < FAR_AWAY && count < 16)
	{
		Building   *b = &row[count];

		b->x = (side ? 1.0 : -1.0) *
			(SCENE_ROAD_HALF + scene->pavement[side] + set_back);
		b->near = z < 3.0 ? 3.0 : z;
		b->far = z + scene_between(random, 7.0, 21.0);
		b->height = scene_between(random, 4.0,
								  scene->is_residential ? 8.0 : 13.0);
		b->wall = scene_pick(random, walls, 8, 0.8, 1.1);
		b->lit_share = scene->time == SCENE_NIGHT ?
			scene_between(random, 0.05, 0.45) :
			scene->time == SCENE_DUSK ? scene_between(random, 0.0, 0.25) : 0.0;
		z = b->far + scene_between(random, 0.0, 1.5);
		if (!scene_chance(random, 0.2) && b->far > b->near + 2.8)
			count++;
	}
	while (--count >= 0)
	{
		SceneRandom own = scene_branch(random);

		draw_street_wall(scene, canvas, &row[count], &own);
		draw_end_wall(scene, canvas, &row[count], &own);
	}
}

void
avc_scene_draw_backdrop(const Scene *scene, SceneCanvas *canvas)
{
	SceneRandom random = scene_random(scene->seed, scene->frame,
									  SCENE_USE_BACKDROP);
	SceneRandom clouds = scene_branch(&random);
	SceneRandom ground = scene_branch(&random);
	SceneRandom markings = scene_branch(&random);
	SceneRandom skyline = scene_branch(&random);
	SceneRandom left = scene_branch(&random);
	SceneRandom right = scene_branch(&random);

	draw_sky(scene, canvas);
	draw_clouds(scene, canvas, &clouds);
	draw_skyline(scene, canvas, &skyline);
	draw_ground(scene, canvas, &ground);
	draw_markings(scene, canvas, &markings);
	draw_building_row(scene, canvas, 0, &left);
	draw_building_row(scene, canvas, 1, &right);
}

/* ---- weather --------------------------------------------------------- */

/* Somewhere on the canvas. */
static ScenePoint
scatter(const SceneCanvas *canvas, SceneRandom *random)
{
	ScenePoint	point;

	point.x = scene_unit(random) * canvas->width;
	point.y = scene_unit(random) * canvas->height;
	return point;
}

void
avc_scene_draw_weather(const Scene *scene, SceneCanvas *canvas)
{
	static const double light[] = {1.0, 0.75, 0.45};
	SceneRandom random = scene_random(scene->seed, scene->frame,
									  SCENE_USE_WEATHER);
	double		unit = canvas->width / 640.0;
	double		slant = scene_between(&random, -0.25, 0.25);
	float		grey = (float) (215.0 * light[scene->time]);
	ScenePaint	paint = {grey, grey, grey, 0.0f, 0.30f};
	int			i;

	for (i = 0; scene->weather == SCENE_RAINY && i < 90; i++)
	{
		double		length = scene_between(&random, 10.0, 26.0) * unit;
		ScenePoint	from = scatter(canvas, &random);
		ScenePoint	to = {from.x + slant * length, from.y + length};

		avc_canvas_limb(canvas, from, to, 1.2 * unit, 1.2 * unit, paint);
	}
	paint.alpha = 0.8f;
	for (i = 0; scene->weather == SCENE_SNOWY && i < 150; i++)
	{
		ScenePoint	centre = scatter(canvas, &random);
		double		radius = scene_between(&random, 0.7, 2.2) * unit;

		avc_canvas_ellipse(canvas, centre, radius, radius, paint);
	}
}
