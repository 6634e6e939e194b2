/*
 * test/engine/clip_tiny.h
 *		A CLIP network small enough for tests, and things to ask it.
 */
#ifndef TEST_ENGINE_CLIP_TINY_H
#define TEST_ENGINE_CLIP_TINY_H

#include <stdlib.h>

#include "engine/core/random.h"
#include "engine/nets/clip.h"
#include "tap.h"

#define TINY_MOST	64			/* pictures or texts */

/* Sizes that fill no whole vector, heads of two sizes. */
static const EngClipConfig tiny = {
	.quick_gelu = true, .side = 64, .patch = 16, .tokens = 21,
	.vocabulary = 103, .dimensions = 24,
	.image = {.width = 96, .layers = 3, .heads = 3},
	.text = {.width = 40, .layers = 2, .heads = 2}
};

typedef struct Questions
{
	uint8_t    *pixels;
	int32_t		ids[TINY_MOST][21];
	const uint8_t *pictures[TINY_MOST];
	EngClipText texts[TINY_MOST];
} Questions;

static void
make_questions(Questions *q, const EngClipConfig *config)
{
	size_t		bytes = (size_t) config->side * config->side * 3;
	size_t		i;
	int			n;
	int			t;

	q->pixels = malloc(bytes * TINY_MOST);
	for (i = 0; i < bytes * TINY_MOST; i++)
		q->pixels[i] = (uint8_t) (eng_random_u64(7, 0, 0, ENG_USE_TEST, i) %
								  200 + i / bytes % 40);
	for (n = 0; n < TINY_MOST; n++)
	{
		int32_t		length = 2 + n * 7 % 20;

		for (t = 0; t < length - 1; t++)
			q->ids[n][t] = (int32_t) (eng_random_u64(8, n, t, ENG_USE_TEST, 0)
									  % (uint64_t) (config->vocabulary - 1));
		q->ids[n][length - 1] = config->vocabulary - 1;
		q->texts[n] = (EngClipText) {q->ids[n], length};
		q->pictures[n] = q->pixels + bytes * (size_t) n;
	}
}

static EngClip *
make_clip(const EngClipConfig *config, const char *backend, int threads,
		  EngType type)
{
	EngStatus	status = {0};
	EngClip    *clip = eng_clip_create(config, backend, threads, &status);

	if (clip == NULL || !eng_clip_set_precision(clip, type, &status))
	{
		tap_note("%s", status.message);
		eng_clip_free(clip);
		return NULL;
	}
	eng_clip_init(clip, 5);
	return clip;
}

/* Embeddings of the first n questions; texts: of those. */
static float *
ask(EngClip *clip, const Questions *q, int n, bool texts)
{
	int32_t		dimensions = eng_clip_config(clip)->dimensions;
	float	   *out = calloc((size_t) n * dimensions, sizeof(float));
	EngStatus	status = {0};
	bool		fine;

	fine = texts ? eng_clip_texts(clip, q->texts, n, out, &status) :
		eng_clip_images(clip, q->pictures, n, out, &status);
	if (!fine)
	{
		tap_note("%s", status.message);
		out[0] = NAN;
	}
	return out;
}

/* Least cosine of n pairs of embeddings. */
static double __attribute__((unused))
least_cosine(const float *a, const float *b, int n, int dimensions)
{
	double		least = 1;
	int			i;
	int			c;

	for (i = 0; i < n; i++)
	{
		double		ab = 0;
		double		aa = 0;
		double		bb = 0;

		for (c = 0; c < dimensions; c++)
		{
			double		x = a[i * dimensions + c];
			double		y = b[i * dimensions + c];

			ab += x * y;
			aa += x * x;
			bb += y * y;
		}
		least = fmin(least, ab / sqrt(aa * bb));
		if (!isfinite(ab))
			return -1;
	}
	return least;
}

/* Largest difference relative to the largest value. */
static double __attribute__((unused))
difference(const float *a, const float *b, int64_t count)
{
	double		largest = 0;
	double		worst = 0;
	int64_t		i;

	for (i = 0; i < count; i++)
	{
		if (!isfinite(a[i]) || !isfinite(b[i]))
			return INFINITY;
		largest = fmax(largest, fabs(b[i]));
		worst = fmax(worst, fabs((double) a[i] - b[i]));
	}
	return worst / largest;
}

#endif
