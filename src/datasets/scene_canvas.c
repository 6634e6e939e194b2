/*
 * datasets/scene_canvas.c
 *		Scan conversion of convex polygons and ellipses, and the glow.
 *
 * A pixel belongs to a shape when its centre lies inside.  The picture is
 * averaged down by two afterwards, which softens the edges.
 */
#include "datasets/scene_canvas.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "datasets/scene_math.h"

#define GLOW_STEP 4				/* canvas pixels to one of the glow's */
#define GLOW_MAX_RADIUS 32

bool
avc_canvas_alloc(SceneCanvas *canvas, int width, int height)
{
	size_t		pixels = (size_t) width * height;
	size_t		glow = (size_t) ((width + GLOW_STEP - 1) / GLOW_STEP) *
		((height + GLOW_STEP - 1) / GLOW_STEP);

	memset(canvas, 0, sizeof(*canvas));
	canvas->width = width;
	canvas->height = height;
	canvas->pixels = malloc(pixels * 4 * sizeof(float));
	canvas->things = malloc(pixels);
	canvas->glow = malloc(glow * 3 * sizeof(float));
	canvas->glow_scratch = malloc(glow * 3 * sizeof(float));
	return canvas->pixels != NULL && canvas->things != NULL &&
		canvas->glow != NULL && canvas->glow_scratch != NULL;
}

void
avc_canvas_free(SceneCanvas *canvas)
{
	free(canvas->pixels);
	free(canvas->things);
	free(canvas->glow);
	free(canvas->glow_scratch);
	memset(canvas, 0, sizeof(*canvas));
}

/* ---- counting -------------------------------------------------------- */

void
avc_canvas_count_begin(SceneCanvas *canvas)
{
	memset(canvas->things, SCENE_NO_THING,
		   (size_t) canvas->width * canvas->height);
	canvas->counting = true;
}

void
avc_canvas_thing(SceneCanvas *canvas, int thing, int partner)
{
	SceneSilhouette *shape = &canvas->silhouettes[thing];

	canvas->thing = thing;
	canvas->partner = partner;
	canvas->is_measured = true;
	if (canvas->counting)
	{
		memset(shape, 0, sizeof(*shape));
		shape->x1 = shape->y1 = 1e9;
		shape->x2 = shape->y2 = -1e9;
	}
}

void
avc_canvas_count_end(SceneCanvas *canvas, int things)
{
	size_t		pixels = (size_t) canvas->width * canvas->height;
	int			seen[256] = {0};
	size_t		i;
	int			thing;

	for (i = 0; i < pixels; i++)
		seen[canvas->things[i]]++;
	for (thing = 0; thing < things; thing++)
		canvas->silhouettes[thing].visible = seen[thing];
	canvas->counting = false;
}

static void
extend(SceneCanvas *canvas, double x1, double y1, double x2, double y2)
{
	SceneSilhouette *shape = &canvas->silhouettes[canvas->thing];

	if (!canvas->counting || !canvas->is_measured)
		return;
	shape->x1 = x1 < shape->x1 ? x1 : shape->x1;
	shape->y1 = y1 < shape->y1 ? y1 : shape->y1;
	shape->x2 = x2 > shape->x2 ? x2 : shape->x2;
	shape->y2 = y2 > shape->y2 ? y2 : shape->y2;
}

static void
count_span(SceneCanvas *canvas, int y, int x1, int x2)
{
	SceneSilhouette *shape = &canvas->silhouettes[canvas->thing];
	uint8_t    *row = canvas->things + (size_t) y * canvas->width;
	int			x;

	for (x = x1; x < x2; x++)
	{
		if (row[x] == canvas->thing)
			continue;
		if (row[x] == canvas->partner)
			canvas->silhouettes[canvas->partner].covered++;
		row[x] = canvas->thing;
		shape->total++;
	}
}

/* ---- spans ----------------------------------------------------------- */

void
avc_canvas_span(SceneCanvas *canvas, int y, int x1, int x2, ScenePaint paint)
{
	float	   *pixel = canvas->pixels + ((size_t) y * canvas->width + x1) * 4;
	float	   *end = canvas->pixels + ((size_t) y * canvas->width + x2) * 4;
	float		a = paint.alpha;
	float		b = 1.0f - a;

	if (a >= 1.0f)
		for (; pixel < end; pixel += 4)
		{
			pixel[0] = paint.red;
			pixel[1] = paint.green;
			pixel[2] = paint.blue;
			pixel[3] = paint.shine;
		}
	else
		for (; pixel < end; pixel += 4)
		{
			pixel[0] = pixel[0] * b + paint.red * a;
			pixel[1] = pixel[1] * b + paint.green * a;
			pixel[2] = pixel[2] * b + paint.blue * a;
			pixel[3] = pixel[3] * b + paint.shine * a;
		}
}

/* Pixels of row y whose centres lie in [left, right). */
static void
draw_span(SceneCanvas *canvas, int y, double left, double right,
		  const ScenePaint *paint)
{
	int			x1;
	int			x2;

	if (left < 0.5)
		left = 0.5;
	if (right > canvas->width + 0.5)
		right = canvas->width + 0.5;
	if (!(left < right))
		return;
	/* the first centre at or after left is at ceil(left - 0.5) */
	x1 = (int) left;
	x1 += x1 + 0.5 < left;
	x2 = (int) right;
	x2 += x2 + 0.5 < right;
	if (x2 > canvas->width)
		x2 = canvas->width;
	if (x1 >= x2)
		return;
	if (!canvas->counting)
		avc_canvas_span(canvas, y, x1, x2, *paint);
	else if (canvas->is_measured && paint->alpha >= 1.0f)
		count_span(canvas, y, x1, x2);
}

/* First and last row whose centre lies in [top, bottom); first > last if
 * there is none. */
static void
row_range(const SceneCanvas *canvas, double top, double bottom, int *first,
		  int *last)
{
	if (top < 0.5)
		top = 0.5;
	if (bottom > canvas->height + 0.5)
		bottom = canvas->height + 0.5;
	if (!(top < bottom))
	{
		*first = 1;
		*last = 0;
		return;
	}
	*first = (int) top;
	*first += *first + 0.5 < top;
	*last = (int) bottom;
	*last += *last + 0.5 < bottom;
	*last = (*last > canvas->height ? canvas->height : *last) - 1;
}

/* ---- shapes ---------------------------------------------------------- */

void
avc_canvas_polygon(SceneCanvas *canvas, const ScenePoint *points, int count,
				   ScenePaint paint)
{
	double		left = points[0].x;
	double		right = points[0].x;
	double		top = points[0].y;
	double		bottom = points[0].y;
	int			first;
	int			last;
	int			y;
	int			i;

	for (i = 1; i < count; i++)
	{
		left = points[i].x < left ? points[i].x : left;
		right = points[i].x > right ? points[i].x : right;
		top = points[i].y < top ? points[i].y : top;
		bottom = points[i].y > bottom ? points[i].y : bottom;
	}
	if (paint.alpha >= 1.0f)
		extend(canvas, left, top, right, bottom);
	row_range(canvas, top, bottom, &first, &last);
	for (y = first; y <= last; y++)
	{
		double		centre = y + 0.5;
		double		from = 1e9;
		double		to = -1e9;

		for (i = 0; i < count; i++)
		{
			ScenePoint	a = points[i];
			ScenePoint	b = points[i + 1 < count ? i + 1 : 0];
			double		x;

			if ((a.y <= centre) == (b.y <= centre))
				continue;
			x = a.x + (b.x - a.x) * (centre - a.y) / (b.y - a.y);
			from = x < from ? x : from;
			to = x > to ? x : to;
		}
		draw_span(canvas, y, from, to, &paint);
	}
}

void
avc_canvas_ellipse(SceneCanvas *canvas, ScenePoint centre, double rx,
				   double ry, ScenePaint paint)
{
	int			first;
	int			last;
	int			y;

	if (!(rx > 0.0) || !(ry > 0.0))
		return;
	if (paint.alpha >= 1.0f)
		extend(canvas, centre.x - rx, centre.y - ry, centre.x + rx,
			   centre.y + ry);
	row_range(canvas, centre.y - ry, centre.y + ry, &first, &last);
	for (y = first; y <= last; y++)
	{
		double		t = (y + 0.5 - centre.y) / ry;
		double		half = t * t < 1.0 ? rx * sqrt(1.0 - t * t) : 0.0;

		draw_span(canvas, y, centre.x - half, centre.x + half, &paint);
	}
}

void
avc_canvas_ring(SceneCanvas *canvas, ScenePoint centre, ScenePoint radius,
				double thickness, ScenePaint paint)
{
	double		inner_x = radius.x - thickness;
	double		inner_y = radius.y - thickness;
	int			first;
	int			last;
	int			y;

	if (inner_x <= 0.0 || inner_y <= 0.0)
	{
		avc_canvas_ellipse(canvas, centre, radius.x, radius.y, paint);
		return;
	}
	if (paint.alpha >= 1.0f)
		extend(canvas, centre.x - radius.x, centre.y - radius.y,
			   centre.x + radius.x, centre.y + radius.y);
	row_range(canvas, centre.y - radius.y, centre.y + radius.y, &first, &last);
	for (y = first; y <= last; y++)
	{
		double		t = (y + 0.5 - centre.y) / radius.y;
		double		s = (y + 0.5 - centre.y) / inner_y;
		double		outer = t * t < 1.0 ? radius.x * sqrt(1.0 - t * t) : 0.0;
		double		inner = s * s < 1.0 ? inner_x * sqrt(1.0 - s * s) : 0.0;

		draw_span(canvas, y, centre.x - outer, centre.x - inner, &paint);
		draw_span(canvas, y, centre.x + inner, centre.x + outer, &paint);
	}
}

void
avc_canvas_limb(SceneCanvas *canvas, ScenePoint from, ScenePoint to,
				double from_width, double to_width, ScenePaint paint)
{
	double		dx = to.x - from.x;
	double		dy = to.y - from.y;
	double		length = sqrt(dx * dx + dy * dy);
	ScenePoint	corners[4];

	if (length < 1e-6)
	{
		dx = 0.0;
		dy = length = 1.0;
	}
	/* unit normal, times half a width at each end */
	dx /= length * 2.0;
	dy /= length * 2.0;
	corners[0] = (ScenePoint) {from.x - dy * from_width,
	from.y + dx * from_width};
	corners[1] = (ScenePoint) {from.x + dy * from_width,
	from.y - dx * from_width};
	corners[2] = (ScenePoint) {to.x + dy * to_width, to.y - dx * to_width};
	corners[3] = (ScenePoint) {to.x - dy * to_width, to.y + dx * to_width};
	avc_canvas_polygon(canvas, corners, 4, paint);
}

void
avc_canvas_rectangle(SceneCanvas *canvas, ScenePoint low, ScenePoint high,
					 ScenePaint paint)
{
	ScenePoint	corners[4];

	corners[0] = low;
	corners[1] = (ScenePoint) {high.x, low.y};
	corners[2] = high;
	corners[3] = (ScenePoint) {low.x, high.y};
	avc_canvas_polygon(canvas, corners, 4, paint);
}

/* ---- glow ------------------------------------------------------------ */

/* Average of what shines over each square of GLOW_STEP pixels. */
static bool
collect_glow(SceneCanvas *canvas, int width, int height)
{
	bool		any = false;
	int			x;
	int			y;

	memset(canvas->glow, 0, sizeof(float) * 3 * width * height);
	for (y = 0; y < canvas->height; y++)
	{
		const float *pixel = canvas->pixels + (size_t) y * canvas->width * 4;
		float	   *row = canvas->glow + (size_t) (y / GLOW_STEP) * width * 3;

		for (x = 0; x < canvas->width; x++, pixel += 4)
		{
			float	   *sum = row + x / GLOW_STEP * 3;
			float		weight = pixel[3] / (GLOW_STEP * GLOW_STEP);

			if (pixel[3] <= 0.0f)
				continue;
			any = true;
			sum[0] += pixel[0] * weight;
			sum[1] += pixel[1] * weight;
			sum[2] += pixel[2] * weight;
		}
	}
	return any;
}

/* Blur along one axis: "step" floats from one sample to the next. */
static void
blur_line(float *out, const float *in, int count, int step,
		  const float *weights, int radius)
{
	int			i;
	int			j;
	int			c;

	for (i = 0; i < count; i++)
		for (c = 0; c < 3; c++)
		{
			float		sum = 0.0f;
			int			low = i < radius ? -i : -radius;
			int			high = i + radius >= count ? count - 1 - i : radius;

			for (j = low; j <= high; j++)
				sum += in[(size_t) (i + j) * step + c] *
					weights[j < 0 ? -j : j];
			out[(size_t) i * step + c] = sum;
		}
}

void
avc_canvas_make_glow(SceneCanvas *canvas, double sigma)
{
	int			width = (canvas->width + GLOW_STEP - 1) / GLOW_STEP;
	int			height = (canvas->height + GLOW_STEP - 1) / GLOW_STEP;
	float		weights[GLOW_MAX_RADIUS + 1];
	double		sum = 1.0;
	int			radius;
	int			i;

	if (!collect_glow(canvas, width, height))
		return;
	sigma /= GLOW_STEP;
	radius = (int) (3.0 * sigma) + 1;
	if (radius > GLOW_MAX_RADIUS)
		radius = GLOW_MAX_RADIUS;
	for (i = 1; i <= radius; i++)
		sum += 2.0 * avc_scene_exp(-0.5 * i * i / (sigma * sigma));
	for (i = 0; i <= radius; i++)
		weights[i] = (float) (avc_scene_exp(-0.5 * i * i / (sigma * sigma)) /
							  sum);
	for (i = 0; i < height; i++)
		blur_line(canvas->glow_scratch + (size_t) i * width * 3,
				  canvas->glow + (size_t) i * width * 3, width, 3, weights,
				  radius);
	for (i = 0; i < width; i++)
		blur_line(canvas->glow + i * 3, canvas->glow_scratch + i * 3, height,
				  width * 3, weights, radius);
}
