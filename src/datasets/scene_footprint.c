/*
 * datasets/scene_footprint.c
 *		Where things stand on the ground, seen from above: which of two is
 *		nearer, what they span on the canvas, and the order of drawing.
 */
#include "datasets/scene_parts.h"

#include <string.h>

void
avc_scene_set_corners(SceneThing *thing)
{
	static const int along[4] = {-1, -1, 1, 1};
	static const int across[4] = {-1, 1, 1, -1};
	int			i;

	thing->sine = avc_scene_sin(thing->heading);
	thing->cosine = avc_scene_cos(thing->heading);
	for (i = 0; i < 4; i++)
	{
		double		a = along[i] * thing->length / 2.0;
		double		b = across[i] * thing->width / 2.0;

		thing->corners[i].x = thing->x + a * thing->sine + b * thing->cosine;
		thing->corners[i].y = thing->z + a * thing->cosine - b * thing->sine;
	}
}

/* Extent of a footprint along the direction (dx, dz). */
static void
span_along(const SceneThing *thing, double dx, double dz, double *low,
		   double *high)
{
	int			i;

	*low = *high = thing->corners[0].x * dx + thing->corners[0].y * dz;
	for (i = 1; i < 4; i++)
	{
		double		p = thing->corners[i].x * dx + thing->corners[i].y * dz;

		*low = p < *low ? p : *low;
		*high = p > *high ? p : *high;
	}
}

/*
 * How two rectangles on the ground lie, seen from the camera: 0 they come
 * closer than "gap", 1 the first is nearer (may hide the second), -1 the
 * second is.  The line that parts them decides: what lies on the camera's
 * side of it cannot be hidden by what lies beyond.
 */
int
avc_scene_compare(const Scene *scene, const SceneThing *a,
				   const SceneThing *b, double gap)
{
	int			i;

	for (i = 0; i < 4; i++)
	{
		const SceneThing *thing = i < 2 ? a : b;
		double		dx = i % 2 ? thing->cosine : thing->sine;
		double		dz = i % 2 ? -thing->sine : thing->cosine;
		double		camera = scene->camera_x * dx;
		double		a_low;
		double		a_high;
		double		b_low;
		double		b_high;

		span_along(a, dx, dz, &a_low, &a_high);
		span_along(b, dx, dz, &b_low, &b_high);
		if (a_high + gap <= b_low)
			return camera <= (a_high + b_low) / 2.0 ? 1 : -1;
		if (b_high + gap <= a_low)
			return camera <= (b_high + a_low) / 2.0 ? -1 : 1;
	}
	return 0;
}

SceneOutline
avc_scene_outline(const Scene *scene, const SceneThing *thing)
{
	SceneOutline outline = {1e9, 1e9, -1e9, -1e9};
	int			i;

	for (i = 0; i < 8; i++)
	{
		ScenePoint	p = avc_scene_project(scene, thing->corners[i % 4].x,
										  i < 4 ? 0.0 : thing->height,
										  thing->corners[i % 4].y);

		outline.x1 = p.x < outline.x1 ? p.x : outline.x1;
		outline.y1 = p.y < outline.y1 ? p.y : outline.y1;
		outline.x2 = p.x > outline.x2 ? p.x : outline.x2;
		outline.y2 = p.y > outline.y2 ? p.y : outline.y2;
	}
	return outline;
}

/* Share of b that a covers, both being blocks. */
double
avc_scene_covered_share(const SceneOutline *a, const SceneOutline *b)
{
	double		width = (a->x2 < b->x2 ? a->x2 : b->x2) -
		(a->x1 > b->x1 ? a->x1 : b->x1);
	double		height = (a->y2 < b->y2 ? a->y2 : b->y2) -
		(a->y1 > b->y1 ? a->y1 : b->y1);

	if (width <= 0.0 || height <= 0.0)
		return 0.0;
	return width * height / ((b->x2 - b->x1) * (b->y2 - b->y1));
}

/* Columns of the canvas that a footprint spans. */
static void
columns_of(const Scene *scene, const SceneThing *thing, double *low,
		   double *high)
{
	int			i;

	*low = 1e9;
	*high = -1e9;
	for (i = 0; i < 4; i++)
	{
		double		u = (thing->corners[i].x - scene->camera_x) /
			thing->corners[i].y;

		*low = u < *low ? u : *low;
		*high = u > *high ? u : *high;
	}
	if (thing->kind == SCENE_TREE)
	{
		*low -= 3.0 / thing->z;
		*high += 3.0 / thing->z;
	}
}

/*
 * hides[i][j]: thing i may hide thing j, which is then drawn before it;
 * waits[i]: for how many others thing i has to wait.
 */
typedef struct DrawOrder
{
	bool		hides[SCENE_MAX_THINGS][SCENE_MAX_THINGS];
	bool		drawn[SCENE_MAX_THINGS];
	int			waits[SCENE_MAX_THINGS];
	int			count;
} DrawOrder;

static void
find_hiding(const Scene *scene, DrawOrder *order)
{
	double		low[SCENE_MAX_THINGS];
	double		high[SCENE_MAX_THINGS];
	int			i;
	int			j;

	for (i = 0; i < scene->thing_count; i++)
		columns_of(scene, &scene->things[i], &low[i], &high[i]);
	for (i = 0; i < scene->thing_count; i++)
		for (j = 0; j < scene->thing_count; j++)
		{
			const SceneThing *thing = &scene->things[i];

			order->hides[i][j] = j != i && j != thing->partner &&
				low[i] < high[j] && low[j] < high[i] &&
				avc_scene_compare(scene, thing, &scene->things[j], 0.0) > 0;
			order->waits[i] += order->hides[i][j];
		}
}

static void
draw_next(Scene *scene, DrawOrder *order, int thing)
{
	int			i;

	order->drawn[thing] = true;
	scene->order[order->count++] = thing;
	for (i = 0; i < scene->thing_count; i++)
		order->waits[i] -= order->hides[i][thing];
}

/*
 * Far to near.  The middle of a long bus may be farther off than a person
 * behind its rear, so distances alone are not enough: a thing waits until
 * all that it may hide is drawn, and of those that wait for nothing the
 * farthest comes next; of all, should they wait in a circle.  A rider comes
 * right after its machine.
 */
void
avc_scene_order(Scene *scene)
{
	DrawOrder	order;
	int			i;

	memset(&order, 0, sizeof(order));
	find_hiding(scene, &order);
	while (order.count < scene->thing_count)
	{
		int			best = -1;

		for (i = 0; i < scene->thing_count; i++)
		{
			const SceneThing *thing = &scene->things[i];

			if (order.drawn[i] || thing->kind == SCENE_RIDER)
				continue;
			if (best < 0 ||
				(order.waits[i] == 0) > (order.waits[best] == 0) ||
				((order.waits[i] == 0) == (order.waits[best] == 0) &&
				 thing->z > scene->things[best].z))
				best = i;
		}
		draw_next(scene, &order, best);
		if (scene->things[best].partner >= 0)
			draw_next(scene, &order, scene->things[best].partner);
	}
}
