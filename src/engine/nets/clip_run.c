/*
 * engine/nets/clip_run.c
 *		What a CLIP network does with pictures and texts.
 *
 * A call's entries are worked on in groups of a power of two, the largest
 * first, so that few plans serve every number; plans of a tower share their
 * packed weights.  Texts of a group run at the length of the longest, rounded
 * up.  An entry's result does not depend on the others of its group but for
 * the last bits, as kernels are chosen by shape.
 */
#include <math.h>
#include <stdlib.h>

#include "engine/core/clones.h"
#include "engine/core/mirror.h"
#include "engine/nets/clip_private.h"

#define GROUP		32			/* entries at most */
#define TEXT_STEP	8			/* lengths of texts are multiples of this */
#define MOST_PATCH	256			/* pixels of a patch's side */

/* Of red, green and blue: what OpenAI trained with. */
static const float channel_mean[3] = {0.48145466f, 0.4578275f, 0.40821073f};
static const float channel_std[3] = {0.26862954f, 0.26130258f, 0.27577711f};

int32_t
eng_clip_group(int32_t n)
{
	int32_t		size = GROUP;

	while (size > n)
		size /= 2;
	return size;
}

/* ---- in and out ---------------------------------------------------------------- */

/*
 * Where the host writes a group's input: the plan's own tensor, or a buffer
 * whose contents the run takes to a device.
 */
static void *
input_of(EngClip *clip, const EngPlan *plan, EngStatus *status)
{
	size_t		bytes = eng_tensor_bytes(&plan->tensors[plan->input]);

	if (!clip->backend->device)
		return eng_plan_value(plan, plan->input);
	if (bytes > clip->input_size)
	{
		free(clip->input);
		clip->input = malloc(bytes);
		clip->input_size = clip->input != NULL ? bytes : 0;
	}
	if (clip->input == NULL)
		eng_fail(status, ENG_NO_MEMORY, "out of memory");
	return clip->input;
}

/*
 * Run the plan on what is in its input and copy what comes out.
 */
static bool
run(EngClip *clip, EngPlan *plan, float *out, EngStatus *status)
{
	EngBackend *backend = clip->backend;
	const EngTensor *input = &plan->tensors[plan->input];
	int32_t		embedding = eng_plan_find(plan, "embedding");

	return eng_mirror_to_device(&clip->parameters, status) &&
		(!backend->device ||
		 backend->upload(backend, eng_plan_value(plan, plan->input),
						 clip->input, eng_tensor_bytes(input), status)) &&
		eng_plan_forward(plan, status) &&
		backend->download(backend, out, eng_plan_value(plan, embedding),
						  eng_tensor_bytes(&plan->tensors[embedding]),
						  status);
}

/* ---- pictures ---------------------------------------------------------------- */

/* (x / 255 - mean) / std of one row of a patch, each step rounded. */
ENG_INLINE void
normalize_row(void *out, int64_t first, const uint8_t *rgb,
			  const float *mean, const float *std, int32_t count,
			  EngType type)
{
	int32_t		i;

	for (i = 0; i < count; i++)
		eng_store(out, type, first + i,
				  ((float) rgb[i] / 255.0f - mean[i]) / std[i]);
}

ENG_CLONES static void
normalize_f32(void *out, int64_t first, const uint8_t *rgb,
			  const float *mean, const float *std, int32_t count)
{
	normalize_row(out, first, rgb, mean, std, count, ENG_F32);
}

ENG_FOR_BF16 static void
normalize_bf16(void *out, int64_t first, const uint8_t *rgb,
			   const float *mean, const float *std, int32_t count)
{
	normalize_row(out, first, rgb, mean, std, count, ENG_BF16);
}

/* For a device, beside which any processor may stand. */
static void
normalize_for_device(void *out, int64_t first, const uint8_t *rgb,
					 const float *mean, const float *std, int32_t count,
					 EngType type)
{
	if (type == ENG_BF16)
		normalize_row(out, first, rgb, mean, std, count, ENG_BF16);
	else if (type == ENG_F16)
		normalize_row(out, first, rgb, mean, std, count, ENG_F16);
	else
		normalize_row(out, first, rgb, mean, std, count, ENG_F32);
}

/*
 * A picture as rows of its patches' pixels: patches row by row, each (y, x,
 * channel), from element `first` of out on.
 */
static void
fill_picture(void *out, int64_t first, const uint8_t *rgb,
			 const EngClip *clip, EngType type)
{
	const EngClipConfig *c = &clip->config;
	float		mean[3 * MOST_PATCH];
	float		std[3 * MOST_PATCH];
	int32_t		across = c->side / c->patch;
	int32_t		row = 3 * c->patch;
	int32_t		y;
	int32_t		x;
	int32_t		i;

	for (i = 0; i < row; i++)
	{
		mean[i] = channel_mean[i % 3];
		std[i] = channel_std[i % 3];
	}
	for (y = 0; y < c->side; y++)
		for (x = 0; x < across; x++)
		{
			int64_t		patch = (int64_t) (y / c->patch) * across + x;
			int64_t		at = first + (patch * c->patch + y % c->patch) * row;
			const uint8_t *from = rgb + ((int64_t) y * across + x) * row;

			if (clip->backend->device)
				normalize_for_device(out, at, from, mean, std, row, type);
			else if (type == ENG_BF16)
				normalize_bf16(out, at, from, mean, std, row);
			else
				normalize_f32(out, at, from, mean, std, row);
		}
}

static bool
run_pictures(EngClip *clip, const uint8_t *const *pictures, int32_t n,
			 float *out, EngStatus *status)
{
	const EngClipConfig *c = &clip->config;
	int64_t		size = (int64_t) c->side * c->side * 3;
	EngPlan    *plan = eng_clip_plan(clip, ENG_CLIP_IMAGE, n, 0, status);
	EngType		type;
	void	   *input;
	int32_t		i;

	if (plan == NULL)
		return false;
	type = plan->tensors[plan->input].type;
	input = input_of(clip, plan, status);
	if (input == NULL)
		return false;
#pragma omp parallel for schedule(static, 1)
	for (i = 0; i < n; i++)
		fill_picture(input, i * size, pictures[i], clip, type);
	return run(clip, plan, out, status);
}

static bool
check_count(int32_t n, EngStatus *status)
{
	if (n < 1 || n > ENG_CLIP_MOST)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"a call has 1 to %d entries, not %d", ENG_CLIP_MOST,
						n);
	return true;
}

bool
eng_clip_images(EngClip *clip, const uint8_t *const *pictures, int32_t n,
				float *out, EngStatus *status)
{
	int32_t		first;
	int32_t		size;

	if (!check_count(n, status))
		return false;
	clip->backend->enter(clip->backend);
	for (first = 0; first < n; first += size)
	{
		size = eng_clip_group(n - first);
		if (!run_pictures(clip, pictures + first, size,
						  out + (int64_t) first * clip->config.dimensions,
						  status))
			return false;
	}
	return true;
}

/* ---- texts --------------------------------------------------------------------- */

bool
eng_clip_check_text(const EngClip *clip, const EngClipText *text,
					EngStatus *status)
{
	int32_t		i;

	if (text->count < 1 || text->count > clip->config.tokens)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"a text has 1 to %d tokens, not %d",
						clip->config.tokens, text->count);
	for (i = 0; i < text->count; i++)
		if (text->ids[i] < 0 || text->ids[i] >= clip->config.vocabulary)
			return eng_fail(status, ENG_BAD_ARGUMENT,
							"token %d is not one of 0 to %d", text->ids[i],
							clip->config.vocabulary - 1);
	return true;
}

/*
 * Tokens up to the largest, which is the end of the text: none sees those
 * behind it.
 */
static int32_t
used_tokens(const EngClipText *text)
{
	int32_t		best = 0;
	int32_t		i;

	for (i = 1; i < text->count; i++)
		if (text->ids[i] > text->ids[best])
			best = i;
	return best + 1;
}

int32_t
eng_clip_tokens(const EngClipConfig *config, int32_t longest)
{
	int32_t		tokens = (longest + TEXT_STEP - 1) / TEXT_STEP * TEXT_STEP;

	return tokens < config->tokens ? tokens : config->tokens;
}

/* Tokens that a group of texts is run at. */
static int32_t
group_tokens(const EngClip *clip, const EngClipText *texts, int32_t n)
{
	int32_t		longest = 0;
	int32_t		i;

	if (clip->keep_all)
		return clip->config.tokens;
	for (i = 0; i < n; i++)
	{
		int32_t		used = used_tokens(&texts[i]);

		if (used > longest)
			longest = used;
	}
	return eng_clip_tokens(&clip->config, longest);
}

static bool
run_texts(EngClip *clip, const EngClipText *texts, int32_t n, float *out,
		  EngStatus *status)
{
	int32_t		tokens = group_tokens(clip, texts, n);
	EngPlan    *plan = eng_clip_plan(clip, ENG_CLIP_TEXT, n, tokens, status);
	float	   *input;
	int32_t		i;
	int32_t		t;

	input = plan == NULL ? NULL : input_of(clip, plan, status);
	if (input == NULL)
		return false;
	for (i = 0; i < n; i++)
		for (t = 0; t < tokens; t++)
			*input++ = t < texts[i].count ? (float) texts[i].ids[t] : 0;
	return run(clip, plan, out, status);
}

bool
eng_clip_texts(EngClip *clip, const EngClipText *texts, int32_t n, float *out,
			   EngStatus *status)
{
	int32_t		first;
	int32_t		size;
	int32_t		i;

	if (!check_count(n, status))
		return false;
	for (i = 0; i < n; i++)
		if (!eng_clip_check_text(clip, &texts[i], status))
			return false;
	clip->backend->enter(clip->backend);
	for (first = 0; first < n; first += size)
	{
		size = eng_clip_group(n - first);
		if (!run_texts(clip, texts + first, size,
					   out + (int64_t) first * clip->config.dimensions,
					   status))
			return false;
	}
	return true;
}

/* ---- length 1 -------------------------------------------------------------------- */

bool
eng_clip_unit(float *embeddings, int32_t n, int32_t dimensions,
			  EngStatus *status)
{
	int32_t		i;
	int32_t		c;

	for (i = 0; i < n; i++)
	{
		float	   *own = embeddings + (int64_t) i * dimensions;
		double		squares = 0;
		double		length;

		for (c = 0; c < dimensions; c++)
			squares += (double) own[c] * own[c];
		length = sqrt(squares);
		if (!isfinite(length) || length == 0)
			return eng_fail(status, ENG_NUMERIC,
							"embedding %d of %d has no length: %g",
							i + 1, n, length);
		for (c = 0; c < dimensions; c++)
			own[c] = (float) (own[c] / length);
	}
	return true;
}
