/*
 * test/engine/scenes.c
 *		Rendered scenes: the same pixels everywhere, honest labels, and the
 *		shares that the presets promise.
 */
#include "datasets/scene.h"
#include "tap.h"

/* A renderer of a preset with one picture for it. */
typedef struct Studio
{
	AvcSceneOptions options;
	AvcSceneRenderer *renderer;
	EngImage	image;
	AvcSceneTruth truth;
} Studio;

static void
open_studio(Studio *studio, const char *preset, double width, double height)
{
	EngStatus	status = {0};

	avc_scene_preset(&studio->options, preset);
	studio->options.width = width;
	studio->options.height = height;
	studio->renderer = avc_scene_renderer_create(&studio->options, &status);
	studio->image = (EngImage) {NULL, (int32_t) width, (int32_t) height, 3};
	studio->image.pixels = malloc(eng_image_bytes(&studio->image));
}

static void
close_studio(Studio *studio)
{
	avc_scene_renderer_free(studio->renderer);
	free(studio->image.pixels);
}

static uint64_t
hash_bytes(uint64_t hash, const void *bytes, size_t size)
{
	const uint8_t *at = bytes;
	size_t		i;

	for (i = 0; i < size; i++)
		hash = (hash ^ at[i]) * UINT64_C(0x100000001B3);
	return hash;
}

/* FNV-1a over pixels and labels of a frame. */
static uint64_t
hash_frame(Studio *studio, uint64_t seed, uint64_t frame)
{
	uint64_t	hash = UINT64_C(0xCBF29CE484222325);
	int			i;

	avc_scene_render(studio->renderer, seed, frame, &studio->image,
					 &studio->truth);
	hash = hash_bytes(hash, studio->image.pixels,
					  eng_image_bytes(&studio->image));
	for (i = 0; i < studio->truth.label_count; i++)
	{
		const AvcSceneLabel *label = &studio->truth.labels[i];

		hash = hash_bytes(hash, label->category, strlen(label->category));
		hash = hash_bytes(hash, label->box, sizeof(label->box));
		hash = hash_bytes(hash, &label->occluded, 1);
		hash = hash_bytes(hash, &label->truncated, 1);
	}
	return hash;
}

/* ---- sameness -------------------------------------------------------- */

typedef struct Pin
{
	const char *preset;
	double		width;
	double		height;
	uint64_t	seed;
	uint64_t	frame;
	uint64_t	hash;
} Pin;

/*
 * Hashes of pixels and labels.  They change when the renderer is changed on
 * purpose, and with nothing else: not with compiler, optimisation, machine
 * or C library.
 */
static const Pin pins[] = {
	{"base", 320, 180, 1, 0, UINT64_C(0x49A7CCD6892F800E)},
	{"base", 320, 180, 1, 1, UINT64_C(0xB1FF55EF39B9E49C)},
	{"base", 320, 180, 2, 299, UINT64_C(0x31619F59FF7794FD)},
	{"pool", 320, 180, 3, 0, UINT64_C(0xF9AFA3F75B42C5AC)},
	{"pool", 320, 180, 3, 1, UINT64_C(0x68A4205BC3D53E2F)},
	{"pool", 320, 180, 3, 2, UINT64_C(0xAA7350A18E0BF33E)},
	{"pool", 320, 180, 4, 899, UINT64_C(0xC6329F75168C53D0)},
	{"pool", 640, 360, 3, 7, UINT64_C(0x13006602EA71A9D0)},
	{"pool", 200, 130, 77, 123456789, UINT64_C(0x6E84D2249A4533AD)}
};

static void
test_pins(void)
{
	size_t		i;

	for (i = 0; i < sizeof(pins) / sizeof(pins[0]); i++)
	{
		const Pin  *pin = &pins[i];
		Studio		studio;
		uint64_t	hash;

		open_studio(&studio, pin->preset, pin->width, pin->height);
		hash = hash_frame(&studio, pin->seed, pin->frame);
		tap_ok(hash == pin->hash,
			   "{\"%s\", %g, %g, %llu, %llu, UINT64_C(0x%016llX)}, %s",
			   pin->preset, pin->width, pin->height,
			   (unsigned long long) pin->seed,
			   (unsigned long long) pin->frame, (unsigned long long) hash,
			   studio.truth.weather);
		close_studio(&studio);
	}
}

static void
test_independence(void)
{
	Studio		studio;
	uint64_t	alone;
	uint64_t	later;
	uint64_t	other;

	open_studio(&studio, "pool", 320, 180);
	alone = hash_frame(&studio, 5, 17);
	hash_frame(&studio, 5, 3);
	hash_frame(&studio, 9, 4);
	later = hash_frame(&studio, 5, 17);
	tap_ok(alone == later, "a frame does not depend on those before it");
	other = hash_frame(&studio, 6, 17);
	tap_ok(other != alone && hash_frame(&studio, 5, 18) != alone,
		   "but on its number and the seed");
	close_studio(&studio);
}

/* ---- labels ---------------------------------------------------------- */

typedef struct Tally
{
	const char *category;
	double		width;			/* median box, pixels, that is asked for */
	double		height;
	int			count;
	int			frames;
	float	   *widths;
	float	   *heights;
} Tally;

static Tally tallies[] = {
	{.category = "person", .width = 8, .height = 20},
	{.category = "rider", .width = 11, .height = 26},
	{.category = "car", .width = 36, .height = 22},
	{.category = "truck", .width = 30, .height = 28},
	{.category = "bus", .width = 36, .height = 31},
	{.category = "bicycle", .width = 16, .height = 17},
	{.category = "motorcycle", .width = 20, .height = 18},
	{.category = "traffic light", .width = 8, .height = 18}
};

#define TALLIES (sizeof(tallies) / sizeof(tallies[0]))

typedef struct Census
{
	int			frames;
	int			boxes;
	int			occluded;
	int			truncated;
	int			night;
	int			dusk;
	int			night_person;
	int			distant_person;
	int			bad_boxes;		/* outside, too small or of no known class */
	int			lone_riders;	/* frames with more riders than machines */
} Census;

static int
by_value(const void *a, const void *b)
{
	float		x = *(const float *) a;
	float		y = *(const float *) b;

	return (x > y) - (x < y);
}

static float
median(float *values, int count)
{
	qsort(values, count, sizeof(float), by_value);
	return count > 0 ? values[count / 2] : 0.0f;
}

static void
count_label(Census *census, const AvcSceneLabel *label, int *here)
{
	float		width = label->box[2] - label->box[0];
	float		height = label->box[3] - label->box[1];
	size_t		i;

	census->boxes++;
	census->occluded += label->occluded;
	census->truncated += label->truncated;
	for (i = 0; i < TALLIES; i++)
		if (strcmp(tallies[i].category, label->category) == 0)
			break;
	if (i == TALLIES || !(label->box[0] >= 0.0f) || !(label->box[1] >= 0.0f) ||
		!(label->box[2] <= 320.0f) || !(label->box[3] <= 180.0f) ||
		width < 3.0f || height < 7.0f || width * height < 32.0f)
	{
		census->bad_boxes++;
		return;
	}
	here[i]++;
	tallies[i].widths[tallies[i].count] = width;
	tallies[i].heights[tallies[i].count++] = height;
}

static void
count_frame(Census *census, const AvcSceneTruth *truth)
{
	int			here[TALLIES] = {0};
	float		largest = 0.0f;
	bool		is_night = strcmp(truth->timeofday, "night") == 0;
	int			l;
	size_t		i;

	census->frames++;
	census->night += is_night;
	census->dusk += strcmp(truth->timeofday, "dawn/dusk") == 0;
	for (l = 0; l < truth->label_count; l++)
	{
		const AvcSceneLabel *label = &truth->labels[l];
		float		area = (label->box[2] - label->box[0]) *
			(label->box[3] - label->box[1]);

		count_label(census, label, here);
		if (strcmp(label->category, "person") == 0 && area > largest)
			largest = area;
	}
	for (i = 0; i < TALLIES; i++)
		tallies[i].frames += here[i] > 0;
	census->night_person += is_night && here[0] > 0;
	census->distant_person += here[0] > 0 &&
		largest < 0.005f * 320.0f * 180.0f;
	/* a bike or motor may stand alone, a rider never does */
	census->lone_riders += here[1] > here[5] + here[6];
}

static void
near_share(int count, int of, double expected, double slack, const char *what)
{
	double		share = (double) count / of;

	tap_ok(fabs(share - expected) <= slack, "%s: %.3f, expected %.3f +- %.3f",
		   what, share, expected, slack);
}

static void
test_census(void)
{
	int			frames = getenv("AVC_SANITIZED") != NULL ? 300 : 1200;
	double		slack = frames < 1000 ? 2.0 : 1.0;
	Census		census = {0};
	Studio		studio;
	int			i;
	size_t		t;

	for (t = 0; t < TALLIES; t++)
	{
		tallies[t].widths = malloc(sizeof(float) * frames * 16);
		tallies[t].heights = malloc(sizeof(float) * frames * 16);
	}
	open_studio(&studio, "pool", 320, 180);
	for (i = 0; i < frames; i++)
	{
		avc_scene_render(studio.renderer, 3, i, &studio.image, &studio.truth);
		count_frame(&census, &studio.truth);
	}
	close_studio(&studio);
	tap_ok(census.bad_boxes == 0,
		   "every box has a class, lies in the frame and is large enough");
	tap_ok(census.lone_riders == 0, "no rider without a machine");
	near_share(census.boxes, frames, 5.2, 0.6 * slack, "boxes a frame");
	near_share(census.occluded, census.boxes, 0.12, 0.03 * slack, "occluded");
	near_share(census.truncated, census.boxes, 0.06, 0.02 * slack,
			   "truncated");
	near_share(census.night, frames, 0.38, 0.04 * slack, "night");
	near_share(census.dusk, frames, 0.12, 0.03 * slack, "dawn and dusk");
	near_share(tallies[1].frames, frames, 290 / 2500.0, 0.025 * slack,
			   "frames with a rider");
	near_share(tallies[0].frames, frames, 0.58, 0.04 * slack,
			   "frames with a person");
	near_share(census.night_person, frames, 526 / 2500.0, 0.04 * slack,
			   "frames with a person at night");
	near_share(census.distant_person, frames, 671 / 2500.0, 0.05 * slack,
			   "frames with distant persons only");
	for (t = 0; t < TALLIES; t++)
	{
		float		width = median(tallies[t].widths, tallies[t].count);
		float		height = median(tallies[t].heights, tallies[t].count);

		tap_ok(fabs(width / tallies[t].width - 1.0) <= 0.2 * slack &&
			   fabs(height / tallies[t].height - 1.0) <= 0.2 * slack,
			   "median %s: %.1fx%.1f, expected about %gx%g",
			   tallies[t].category, width, height, tallies[t].width,
			   tallies[t].height);
		free(tallies[t].widths);
		free(tallies[t].heights);
	}
}

/* ---- options --------------------------------------------------------- */

static bool
is_refused(const char *name, double value)
{
	AvcSceneOptions options;
	EngStatus	status = {0};

	avc_scene_preset(&options, "base");
	*avc_scene_option_value(&options, avc_scene_option_find(name)) = value;
	return !avc_scene_options_check(&options, &status) &&
		status.message[0] != '\0';
}

static void
test_options(void)
{
	AvcSceneOptions options;
	EngStatus	status = {0};
	Studio		studio;

	tap_ok(avc_scene_preset(&options, "base") &&
		   avc_scene_options_check(&options, &status) &&
		   avc_scene_preset(&options, "pool") &&
		   avc_scene_options_check(&options, &status) &&
		   !avc_scene_preset(&options, "bass"), "presets");
	tap_ok(avc_scene_option_find("widht") == NULL, "an unknown option");
	tap_ok(is_refused("width", 321) && is_refused("width", 1e9) &&
		   is_refused("height", 0) && is_refused("height", NAN),
		   "absurd sizes are refused");
	tap_ok(is_refused("rider", 1.5) && is_refused("person", -0.1) &&
		   is_refused("vehicles", 2.5), "and shares that are none");
	tap_ok(is_refused("person_near", 90), "and ranges upside down");
	open_studio(&studio, "pool", 64, 64);
	avc_scene_render(studio.renderer, 1, 1, &studio.image, &studio.truth);
	close_studio(&studio);
	open_studio(&studio, "pool", 1280, 720);
	avc_scene_render(studio.renderer, 1, 1, &studio.image, &studio.truth);
	tap_ok(studio.truth.label_count > 0, "small and large frames render");
	close_studio(&studio);
}

int
main(void)
{
	test_pins();
	test_independence();
	test_census();
	test_options();
	return tap_done();
}
