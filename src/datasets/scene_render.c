/*
 * datasets/scene_render.c
 *		From a composed scene to pixels and labels.
 *
 * First every thing is counted: how much of it lies in the frame, and how
 * much of that is seen.  What is hardly there is taken out and the rest
 * counted again, until all that is left deserves its label; so nothing is
 * ever drawn that a detector could find and the labels do not tell.
 */
#include "datasets/scene_parts.h"

#include <math.h>
#include <stdlib.h>

/* A thing below these is not drawn; sizes in pixels of the frame. */
#define MIN_VISIBLE 0.35
#define MIN_IN_FRAME 0.40
#define MIN_HEIGHT 7.0
#define MIN_WIDTH 3.0
#define MIN_AREA 32.0

#define OCCLUDED_BELOW 0.80
#define GLOW_GAIN 0.55f

struct AvcSceneRenderer
{
	AvcSceneOptions options;
	Scene		scene;
	SceneCanvas canvas;
};

/* ---- camera and light ------------------------------------------------ */

ScenePoint
avc_scene_project(const Scene *scene, double x, double y, double z)
{
	double		scale = scene->focal / z;
	ScenePoint	point;

	point.x = scene->middle + scale * (x - scene->camera_x);
	point.y = scene->horizon + scale * (scene->camera_height - y);
	return point;
}

/* How much of the own headlights reaches (x, z). */
static double
headlight_at(const Scene *scene, double x, double z)
{
	double		t;
	double		far = 1.0;

	if (scene->headlight <= 0.0)
		return 0.0;
	t = (x - scene->camera_x) / (1.5 + 0.28 * z);
	if (z > 11.0)
		far = avc_scene_exp(1.6 * avc_scene_log(11.0 / z));
	return scene->headlight * far * avc_scene_exp(-t * t);
}

static ScenePaint
through_fog(const Scene *scene, SceneColour colour, double z)
{
	double		clear = avc_scene_exp(-z / scene->fog_length);
	ScenePaint	paint;

	paint.red = (float) (colour.red * clear +
						 scene->fog.red * (1.0 - clear));
	paint.green = (float) (colour.green * clear +
						   scene->fog.green * (1.0 - clear));
	paint.blue = (float) (colour.blue * clear +
						  scene->fog.blue * (1.0 - clear));
	paint.shine = 0.0f;
	paint.alpha = 1.0f;
	return paint;
}

ScenePaint
avc_scene_lit(const Scene *scene, SceneColour colour, double shade, double x,
			  double z)
{
	double		beam = headlight_at(scene, x, z);
	SceneColour lit;

	lit.red = colour.red * shade * (scene->ambient[0] + beam);
	lit.green = colour.green * shade * (scene->ambient[1] + 0.95 * beam);
	lit.blue = colour.blue * shade * (scene->ambient[2] + 0.82 * beam);
	return through_fog(scene, lit, z);
}

ScenePaint
avc_scene_shining(const Scene *scene, SceneColour colour, double z)
{
	ScenePaint	paint = through_fog(scene, colour, z);

	paint.shine = (float) avc_scene_exp(-z / scene->fog_length);
	return paint;
}

/* ---- things ---------------------------------------------------------- */

/* Dark patch where a thing stands. */
static void
draw_shadow(const Scene *scene, SceneCanvas *canvas, const SceneThing *thing)
{
	ScenePoint	low = {1e9, 1e9};
	ScenePoint	high = {-1e9, -1e9};
	ScenePoint	centre;
	ScenePaint	paint = {0.0f, 0.0f, 0.0f, 0.0f, 0.5f};
	int			i;

	if (thing->base > 0.0 || canvas->counting)
		return;
	for (i = 0; i < 4; i++)
	{
		ScenePoint	p = avc_scene_project(scene, thing->corners[i].x, 0.0,
										  thing->corners[i].y);

		low.x = p.x < low.x ? p.x : low.x;
		low.y = p.y < low.y ? p.y : low.y;
		high.x = p.x > high.x ? p.x : high.x;
		high.y = p.y > high.y ? p.y : high.y;
	}
	centre.x = (low.x + high.x) / 2.0;
	centre.y = (low.y + high.y) / 2.0;
	paint.alpha *= (float) avc_scene_exp(-thing->z / scene->fog_length);
	avc_canvas_ellipse(canvas, centre, (high.x - low.x) * 0.58,
					   (high.y - low.y) * 0.55 + 1.0, paint);
}

static void
draw_thing(const Scene *scene, SceneCanvas *canvas, int number)
{
	const SceneThing *thing = &scene->things[number];

	avc_canvas_thing(canvas, number,
					 thing->kind == SCENE_RIDER ? thing->partner : -1);
	if (thing->is_dropped)
		return;
	switch (thing->kind)
	{
		case SCENE_CAR:
		case SCENE_TRUCK:
		case SCENE_BUS:
			draw_shadow(scene, canvas, thing);
			avc_scene_draw_vehicle(scene, canvas, thing);
			break;
		case SCENE_PERSON:
			draw_shadow(scene, canvas, thing);
			avc_scene_draw_person(scene, canvas, thing);
			break;
		case SCENE_RIDER:
			avc_scene_draw_rider(scene, canvas, thing);
			break;
		case SCENE_BIKE:
		case SCENE_MOTOR:
			draw_shadow(scene, canvas, thing);
			avc_scene_draw_machine(scene, canvas, thing);
			break;
		default:
			draw_shadow(scene, canvas, thing);
			avc_scene_draw_street_thing(scene, canvas, thing);
			break;
	}
}

static void
draw_things(const Scene *scene, SceneCanvas *canvas)
{
	int			i;

	for (i = 0; i < scene->thing_count; i++)
		draw_thing(scene, canvas, scene->order[i]);
}

/* ---- labels ---------------------------------------------------------- */

static const char *
category_of(SceneKind kind)
{
	switch (kind)
	{
		case SCENE_CAR:
			return "car";
		case SCENE_TRUCK:
			return "truck";
		case SCENE_BUS:
			return "bus";
		case SCENE_PERSON:
			return "person";
		case SCENE_RIDER:
			return "rider";
		case SCENE_BIKE:
			return "bicycle";
		case SCENE_MOTOR:
			return "motorcycle";
		case SCENE_LIGHT:
			return "traffic light";
		default:
			return NULL;
	}
}

/* Box of a silhouette in pixels of the frame, clipped; its share inside. */
static double
clip_box(const Scene *scene, const SceneSilhouette *shape, double *box)
{
	double		width = scene->options->width;
	double		height = scene->options->height;
	double		full = (shape->x2 - shape->x1) * (shape->y2 - shape->y1) / 4.0;

	box[0] = shape->x1 / 2.0 > 0.0 ? shape->x1 / 2.0 : 0.0;
	box[1] = shape->y1 / 2.0 > 0.0 ? shape->y1 / 2.0 : 0.0;
	box[2] = shape->x2 / 2.0 < width ? shape->x2 / 2.0 : width;
	box[3] = shape->y2 / 2.0 < height ? shape->y2 / 2.0 : height;
	if (!(box[0] < box[2]) || !(box[1] < box[3]) || full <= 0.0)
		return 0.0;
	return (box[2] - box[0]) * (box[3] - box[1]) / full;
}

/*
 * Share of a thing that is seen, of what lies in the frame; what its own
 * rider covers of a machine does not count.
 */
static double
visible_share(const SceneSilhouette *shape)
{
	int			free_pixels = shape->total - shape->covered;

	if (free_pixels <= 0)
		return 0.0;
	return (double) shape->visible / free_pixels;
}

static bool
deserves_label(const Scene *scene, const SceneSilhouette *shape)
{
	double		box[4];

	if (clip_box(scene, shape, box) < MIN_IN_FRAME)
		return false;
	if (box[3] - box[1] < MIN_HEIGHT || box[2] - box[0] < MIN_WIDTH ||
		(box[2] - box[0]) * (box[3] - box[1]) < MIN_AREA)
		return false;
	return visible_share(shape) >= MIN_VISIBLE;
}

/* Take out what deserves no label; true if something was. */
static bool
drop_unseen(Scene *scene, const SceneCanvas *canvas)
{
	bool		dropped = false;
	int			i;

	for (i = 0; i < scene->thing_count; i++)
	{
		SceneThing *thing = &scene->things[i];

		if (thing->is_dropped || category_of(thing->kind) == NULL ||
			deserves_label(scene, &canvas->silhouettes[i]))
			continue;
		thing->is_dropped = true;
		if (thing->partner >= 0)
			scene->things[thing->partner].is_dropped = true;
		/* the pole of a light that goes is left standing */
		dropped = true;
	}
	return dropped;
}

static void
write_labels(const Scene *scene, const SceneCanvas *canvas,
			 AvcSceneTruth *truth)
{
	int			i;
	int			c;

	truth->label_count = 0;
	for (i = 0; i < scene->thing_count; i++)
	{
		const SceneThing *thing = &scene->things[i];
		const SceneSilhouette *shape = &canvas->silhouettes[i];
		AvcSceneLabel *label = &truth->labels[truth->label_count];
		double		box[4];
		double		inside;

		if (thing->is_dropped || category_of(thing->kind) == NULL ||
			truth->label_count >= AVC_SCENE_MAX_LABELS)
			continue;
		inside = clip_box(scene, shape, box);
		label->category = category_of(thing->kind);
		for (c = 0; c < 4; c++)
			label->box[c] = (float) box[c];
		label->occluded = visible_share(shape) < OCCLUDED_BELOW;
		label->truncated = inside < 0.999;
		truth->label_count++;
	}
}

static void
describe(const Scene *scene, AvcSceneTruth *truth)
{
	static const char *const times[] = {"daytime", "dawn/dusk", "night"};
	static const char *const weathers[] = {
		"clear", "overcast", "rainy", "foggy", "snowy"
	};

	truth->timeofday = times[scene->time];
	truth->weather = weathers[scene->weather];
	truth->scene = scene->is_residential ? "residential" : "city street";
}

/* ---- sensor ---------------------------------------------------------- */

/* Four bytes summed: nearly normal, mean 0 and deviation 1. */
static inline float
noise_of(uint32_t bits)
{
	int			sum = (int) (bits & 255) + (int) (bits >> 8 & 255) +
		(int) (bits >> 16 & 255) + (int) (bits >> 24);

	/* the deviation of a byte is 73.9, that of four 147.8 */
	return (sum - 510) * (1.0f / 147.8f);
}

static inline uint8_t
to_byte(float value)
{
	value += 0.5f;
	return value < 0.0f ? 0 : value > 255.0f ? 255 : (uint8_t) value;
}

/* Bilinear look-up in the glow, whose samples are 2 frame pixels apart. */
static void
glow_row(const SceneCanvas *canvas, int y, float *row, int width)
{
	int			glow_width = (canvas->width + 3) / 4;
	int			glow_height = (canvas->height + 3) / 4;
	int			top = (y - 1 + (y & 1)) / 2;
	int			bottom;
	float		down = y & 1 ? 0.25f : 0.75f;
	const float *a;
	const float *b;
	int			x;
	int			c;

	/* sample k lies at 2k + 0.5 in frame pixels */
	if (!(y & 1))
		top = y / 2 - 1;
	bottom = top + 1 < glow_height ? top + 1 : glow_height - 1;
	top = top < 0 ? 0 : top;
	a = canvas->glow + (size_t) top * glow_width * 3;
	b = canvas->glow + (size_t) bottom * glow_width * 3;
	for (x = 0; x < width; x++)
	{
		int			left = x & 1 ? x / 2 : x / 2 - 1;
		int			right = left + 1 < glow_width ? left + 1 : glow_width - 1;
		float		along = x & 1 ? 0.25f : 0.75f;

		left = left < 0 ? 0 : left;
		for (c = 0; c < 3; c++)
		{
			float		l = a[left * 3 + c] +
				(b[left * 3 + c] - a[left * 3 + c]) * down;
			float		r = a[right * 3 + c] +
				(b[right * 3 + c] - a[right * 3 + c]) * down;

			row[x * 3 + c] = l + (r - l) * along;
		}
	}
}

/* Average the canvas down by two, add glow, gain and noise. */
static void
develop(const Scene *scene, const SceneCanvas *canvas, float *glow,
		EngImage *out)
{
	static const double sigmas[] = {3.0, 5.0, 9.0};
	SceneRandom random = scene_random(scene->seed, scene->frame,
									  SCENE_USE_SENSOR);
	float		gain = (float) scene_between(&random, 0.92, 1.08);
	float		sigma = (float) (sigmas[scene->time] *
								 scene_between(&random, 0.7, 1.3));
	SceneRandom noise = scene_random(scene->seed, scene->frame,
									 SCENE_USE_NOISE);
	int			x;
	int			y;
	int			c;

	for (y = 0; y < out->height; y++)
	{
		const float *a = canvas->pixels + (size_t) 2 * y * canvas->width * 4;
		const float *b = a + (size_t) canvas->width * 4;
		uint8_t    *pixel = out->pixels + (size_t) y * out->width * 3;

		glow_row(canvas, y, glow, out->width);
		for (x = 0; x < out->width; x++, a += 8, b += 8, pixel += 3)
		{
			uint64_t	first = scene_bits(&noise);
			uint64_t	second = scene_bits(&noise);
			float		grey = noise_of((uint32_t) first);
			float		own[3];

			own[0] = noise_of((uint32_t) (first >> 32));
			own[1] = noise_of((uint32_t) second);
			own[2] = noise_of((uint32_t) (second >> 32));
			for (c = 0; c < 3; c++)
			{
				float		sum = (a[c] + a[c + 4] + b[c] + b[c + 4]) * 0.25f;

				sum += GLOW_GAIN * glow[x * 3 + c];
				pixel[c] = to_byte(sum * gain +
								   sigma * (grey + 0.5f * own[c]));
			}
		}
	}
}

/* ---- frames ---------------------------------------------------------- */

AvcSceneRenderer *
avc_scene_renderer_create(const AvcSceneOptions *options, EngStatus *status)
{
	AvcSceneRenderer *renderer;

	if (!avc_scene_options_check(options, status))
		return NULL;
	renderer = calloc(1, sizeof(AvcSceneRenderer));
	if (renderer == NULL ||
		!avc_canvas_alloc(&renderer->canvas, 2 * (int) options->width,
						  2 * (int) options->height))
	{
		avc_scene_renderer_free(renderer);
		eng_fail(status, ENG_NO_MEMORY, "out of memory for the canvas");
		return NULL;
	}
	renderer->options = *options;
	return renderer;
}

void
avc_scene_renderer_free(AvcSceneRenderer *renderer)
{
	if (renderer == NULL)
		return;
	avc_canvas_free(&renderer->canvas);
	free(renderer);
}

void
avc_scene_render(AvcSceneRenderer *renderer, uint64_t seed, uint64_t frame,
				 EngImage *out, AvcSceneTruth *truth)
{
	Scene	   *scene = &renderer->scene;
	SceneCanvas *canvas = &renderer->canvas;

	avc_scene_compose(scene, &renderer->options, seed, frame);
	do
	{
		avc_canvas_count_begin(canvas);
		draw_things(scene, canvas);
		avc_canvas_count_end(canvas, scene->thing_count);
	} while (drop_unseen(scene, canvas));
	describe(scene, truth);
	write_labels(scene, canvas, truth);

	avc_scene_draw_backdrop(scene, canvas);
	draw_things(scene, canvas);
	avc_canvas_make_glow(canvas, 5.0 * canvas->width / 640.0);
	avc_scene_draw_weather(scene, canvas);
	/* the blur's scratch is free again: one row of glow at frame size */
	develop(scene, canvas, canvas->glow_scratch, out);
}
