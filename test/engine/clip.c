/*
 * test/engine/clip.c
 *		CLIP: cpu (or the backend named in the environment) against ref, groups
 *		against single entries, repetition.
 */
#include <omp.h>
#include <sched.h>

#include "clip_tiny.h"
#include "engine/core/backend.h"

static Questions questions;

/* ---- single operations ------------------------------------------------------ */

static float *
noise(int64_t count, int seed)
{
	float	   *x = malloc(sizeof(float) * count);
	int64_t		i;

	for (i = 0; i < count; i++)
		x[i] = 4 * eng_random_uniform(seed, 0, 0, ENG_USE_TEST, i) - 2;
	return x;
}

/* The same numbers as bf16. */
static uint16_t *
rounded(const float *x, int64_t count)
{
	uint16_t   *y = malloc(sizeof(uint16_t) * count);
	int64_t		i;

	for (i = 0; i < count; i++)
		y[i] = eng_bf16_from_float(x[i]);
	return y;
}

/* Largest difference of two arrays of a type, relative to the largest. */
static double
apart(const void *a, const void *b, EngType type, int64_t count)
{
	float	   *x = malloc(sizeof(float) * count);
	float	   *y = malloc(sizeof(float) * count);
	double		worst;
	int64_t		i;

	for (i = 0; i < count; i++)
	{
		x[i] = eng_load(a, type, i);
		y[i] = eng_load(b, type, i);
	}
	worst = difference(x, y, count);
	free(x);
	free(y);
	return worst;
}

static void
check_attention(EngBackend *cpu, EngBackend *ref, int32_t tokens,
				int32_t heads, int32_t size, bool causal, EngType type)
{
	EngAttentionShape shape = {3, tokens, heads, size, causal, type};
	int64_t		count = (int64_t) 3 * tokens * heads * size;
	float	   *x = noise(3 * count, tokens);
	uint16_t   *half = rounded(x, 3 * count);
	const void *qkv = type == ENG_BF16 ? (void *) half : x;
	float	   *a = malloc(sizeof(float) * count);
	float	   *b = malloc(sizeof(float) * count);
	double		worst;

	cpu->attention(cpu, a, qkv, &shape);
	ref->attention(ref, b, qkv, &shape);
	worst = apart(a, b, type, count);
	tap_ok(worst < (type == ENG_BF16 ? 0.01 : 1e-5),
		   "attention, %d tokens, %d heads of %d%s, %s: %.1e", tokens, heads,
		   size, causal ? ", causal" : "", eng_type_name(type), worst);
	free(x);
	free(half);
	free(a);
	free(b);
}

static void
check_layer_norm(EngBackend *cpu, EngBackend *ref, int32_t channels,
				 bool add, EngType type)
{
	int64_t		count = (int64_t) 7 * channels;
	float	   *x = noise(count, 1);
	float	   *more = noise(count, 2);
	float	   *weight = noise(channels, 3);
	float	   *bias = noise(channels, 4);
	float	   *out[4];
	EngLayerNormArgs args = {
		.rows = 7, .channels = channels, .eps = 1e-5f, .x = x,
		.type = type, .weight = weight, .bias = bias
	};
	double		worst;
	int			i;

	for (i = 0; i < 4; i++)
		out[i] = calloc(count, sizeof(float));
	for (i = 0; i < 2; i++)
	{
		args.y = out[2 * i];
		args.add = add ? more : NULL;
		args.sum = add ? out[2 * i + 1] : NULL;
		if (i == 0)
			cpu->layer_norm(cpu, &args);
		else
			ref->layer_norm(ref, &args);
	}
	worst = apart(out[0], out[2], type, count);
	tap_ok(worst < (type == ENG_BF16 ? 0.01 : 1e-5) &&
		   memcmp(out[1], out[3], sizeof(float) * count) == 0,
		   "layer norm of %d channels%s, %s: %.1e", channels,
		   add ? " and a sum" : "", eng_type_name(type), worst);
	for (i = 0; i < 4; i++)
		free(out[i]);
	free(x);
	free(more);
	free(weight);
	free(bias);
}

/* Ways into tokens and out of them: no rounding, so the same bits. */
static void
check_tokens(EngBackend *cpu, EngBackend *ref)
{
	EngTokens	shape = {4, 6, 10};
	float	   *x = noise(4 * 6 * 10, 1);
	float	   *table = noise(30 * 10, 2);
	float	   *positions = noise(6 * 10, 3);
	float		ids[4 * 6];
	float		a[4 * 6 * 10];
	float		b[4 * 6 * 10];
	int			i;

	for (i = 0; i < 4 * 6; i++)
		ids[i] = (float) (i * 7 % 30);
	ids[6] = ids[8] = ids[10] = 29;
	cpu->join_tokens(cpu, a, x, table, positions, &shape);
	ref->join_tokens(ref, b, x, table, positions, &shape);
	tap_ok(memcmp(a, b, sizeof(a)) == 0 && a[0] == table[0] + positions[0] &&
		   a[60] == table[0] + positions[0] &&
		   a[70] == x[50] + positions[10], "patches behind a first token");
	cpu->embed_tokens(cpu, a, ids, table, positions, &shape);
	ref->embed_tokens(ref, b, ids, table, positions, &shape);
	tap_ok(memcmp(a, b, sizeof(a)) == 0 && a[10] == table[70] + positions[10],
		   "tokens by id");
	cpu->pick_tokens(cpu, ENG_F32, a, x, ids, &shape);
	ref->pick_tokens(ref, ENG_F32, b, x, ids, &shape);
	tap_ok(memcmp(a, b, sizeof(float) * 40) == 0 && a[10] == x[60],
		   "the token with the largest id, the first of them");
	cpu->pick_tokens(cpu, ENG_F32, a, x, NULL, &shape);
	ref->pick_tokens(ref, ENG_F32, b, x, NULL, &shape);
	tap_ok(memcmp(a, b, sizeof(float) * 40) == 0 && a[10] == x[60] &&
		   a[20] == x[120], "the first token");
	free(x);
	free(table);
	free(positions);
}

static void
test_operations(void)
{
	EngStatus	status = {0};
	EngBackend *cpu = eng_backend_open("cpu", 2, &status);
	EngBackend *ref = eng_backend_open("ref", 2, &status);
	int			type;

	for (type = ENG_F32; type <= ENG_BF16; type++)
	{
		if (type == ENG_BF16 && cpu->lacks_bf16 != NULL)
		{
			tap_skip("bf16", cpu->lacks_bf16);
			continue;
		}
		cpu->enter(cpu);
		check_attention(cpu, ref, 1, 2, 64, true, type);
		check_attention(cpu, ref, 5, 3, 20, true, type);
		check_attention(cpu, ref, 50, 12, 64, false, type);
		check_attention(cpu, ref, 77, 8, 64, true, type);
		check_attention(cpu, ref, 257, 2, 33, false, type);
		check_attention(cpu, ref, ENG_ATTENTION_TOKENS, 1, 1, true, type);
		check_layer_norm(cpu, ref, 768, true, type);
		check_layer_norm(cpu, ref, 40, false, type);
		check_layer_norm(cpu, ref, 3, true, type);
	}
	check_tokens(cpu, ref);
	cpu->close(cpu);
	ref->close(ref);
}

/* ---- whole networks --------------------------------------------------------------- */

static bool
on_device(void)
{
	return strncmp(tap_backend(), "cuda", 4) == 0;
}

/* In a narrow type, beside what ref gives in float. */
static void
check_narrow(const EngClipConfig *config, EngType type, const float *want,
			 int texts)
{
	EngClip    *clip = make_clip(config, tap_backend(), 2, type);
	float	   *got;
	double		cosine;

	if (clip == NULL)
	{
		tap_skip(eng_type_name(type), "the backend lacks it");
		return;
	}
	got = ask(clip, &questions, 5, texts);
	cosine = least_cosine(got, want, 5, config->dimensions);
	tap_ok(cosine > 0.999, "and in %s: cosine %.6f", eng_type_name(type),
		   cosine);
	free(got);
	eng_clip_free(clip);
}

static void
test_backends(bool quick_gelu)
{
	EngClipConfig config = tiny;
	EngClip    *ref;
	EngClip    *own;
	int			texts;

	config.quick_gelu = quick_gelu;
	ref = make_clip(&config, "ref", 2, ENG_F32);
	own = make_clip(&config, tap_backend(), 2, ENG_F32);
	for (texts = 0; texts < 2; texts++)
	{
		float	   *want = ask(ref, &questions, 5, texts);
		float	   *got = ask(own, &questions, 5, texts);
		double		worst = difference(got, want, 5 * config.dimensions);

		tap_ok(worst < 1e-5, "%s, %s GELU, %s against ref: %.1e",
			   texts ? "texts" : "pictures", quick_gelu ? "quick" : "exact",
			   tap_backend(), worst);
		free(got);
		check_narrow(&config, ENG_BF16, want, texts);
		if (on_device())
			check_narrow(&config, ENG_F16, want, texts);
		free(want);
	}
	eng_clip_free(ref);
	eng_clip_free(own);
}

/* The activations differ, so the flag must matter. */
static void
test_flag(void)
{
	EngClipConfig config = tiny;
	EngClip    *quick = make_clip(&config, tap_backend(), 2, ENG_F32);
	EngClip    *exact;
	float	   *a;
	float	   *b;

	config.quick_gelu = false;
	exact = make_clip(&config, tap_backend(), 2, ENG_F32);
	a = ask(quick, &questions, 2, false);
	b = ask(exact, &questions, 2, false);
	tap_ok(difference(a, b, 2 * config.dimensions) > 1e-4,
		   "quick and exact GELU give different embeddings");
	free(a);
	free(b);
	eng_clip_free(quick);
	eng_clip_free(exact);
}

/* Alone, among others, once more, and after other sizes. */
static void
test_groups(EngType type)
{
	EngClip    *clip = make_clip(&tiny, tap_backend(), 2, type);
	int32_t		dimensions = tiny.dimensions;
	int			texts;

	for (texts = 0; clip != NULL && texts < 2; texts++)
	{
		float	   *all = ask(clip, &questions, 45, texts);
		float	   *again;
		double		worst = 0;
		Questions	one = questions;
		int			i;

		for (i = 0; i < 45; i++)
		{
			float	   *alone;

			one.pictures[0] = questions.pictures[i];
			one.texts[0] = questions.texts[i];
			alone = ask(clip, &one, 1, texts);
			worst = fmax(worst, difference(alone, all + i * dimensions,
										   dimensions));
			free(alone);
		}
		tap_ok(worst < (type == ENG_BF16 ? 0.02 : 1e-5),
			   "%s of 45 alone and together, %s: %.1e",
			   texts ? "texts" : "pictures", eng_type_name(type), worst);
		again = ask(clip, &questions, 45, texts);
		tap_ok(memcmp(all, again, sizeof(float) * 45 * dimensions) == 0,
			   "the same bits once more");
		free(all);
		free(again);
	}
	eng_clip_free(clip);
}

/* One processor for the same number of threads: the same bits. */
static void
test_pinning(void)
{
	EngClip    *clip = make_clip(&tiny, tap_backend(), 2, ENG_F32);
	float	   *free_ones = ask(clip, &questions, 9, false);
	float	   *pinned;
	cpu_set_t	before;
	cpu_set_t	one;

	sched_getaffinity(0, sizeof(before), &before);
	CPU_ZERO(&one);
	for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; i++)
		if (CPU_ISSET(i, &before))
			CPU_SET(i, &one);
	eng_clip_free(clip);
	sched_setaffinity(0, sizeof(one), &one);
	clip = make_clip(&tiny, tap_backend(), 2, ENG_F32);
	pinned = ask(clip, &questions, 9, false);
	sched_setaffinity(0, sizeof(before), &before);
	tap_ok(memcmp(free_ones, pinned,
				  sizeof(float) * 9 * tiny.dimensions) == 0,
		   "pinned to one processor: the same bits");
	free(free_ones);
	free(pinned);
	eng_clip_free(clip);
}

/* What lies behind the end of a text does not matter, nor do two ends. */
static void
test_padding(void)
{
	EngClip    *clip = make_clip(&tiny, tap_backend(), 2, ENG_F32);
	int32_t		ids[3][21] = {{3, 9, 4, 102}};
	EngClipText texts[3];
	float		out[3][24];
	EngStatus	status = {0};
	int			i;

	memcpy(ids[1], ids[0], sizeof(ids[0]));
	memcpy(ids[2], ids[0], sizeof(ids[0]));
	for (i = 4; i < 21; i++)
		ids[2][i] = 102;
	texts[0] = (EngClipText) {ids[0], 4};
	texts[1] = (EngClipText) {ids[1], 21};
	texts[2] = (EngClipText) {ids[2], 21};
	for (i = 0; i < 3; i++)
		eng_clip_texts(clip, &texts[i], 1, out[i], &status);
	tap_ok(status.code == ENG_OK &&
		   memcmp(out[0], out[1], sizeof(out[0])) == 0 &&
		   memcmp(out[0], out[2], sizeof(out[0])) == 0,
		   "padding by zeros or by ends of text changes nothing");
	eng_clip_free(clip);
}

/* ---- refusals -------------------------------------------------------------------------- */

static void
check_text(const EngClip *clip, const int32_t *ids, int32_t count,
		   const char *what)
{
	EngClipText text = {ids, count};
	EngStatus	status = {0};

	tap_ok(!eng_clip_check_text(clip, &text, &status) &&
		   status.code == ENG_BAD_ARGUMENT, "%s: %s", what, status.message);
}

static void
test_refusals(void)
{
	EngClip    *clip = make_clip(&tiny, tap_backend(), 1, ENG_F32);
	int32_t		ids[22] = {-1, 103};
	EngClipConfig config = tiny;
	EngStatus	status = {0};
	const EngStatus fine = {0};
	float		embeddings[2][3] = {{3, 0, 4}, {0, 0, 0}};
	EngMemory	memory;
	float	   *out;

	check_text(clip, ids, 1, "a negative token");
	check_text(clip, ids + 1, 1, "a token that is too large");
	check_text(clip, ids + 2, 0, "no token");
	check_text(clip, ids, 22, "too many tokens");
	out = malloc(sizeof(float) * 1025 * tiny.dimensions);
	tap_ok(!eng_clip_images(clip, questions.pictures, 0, out, &status) &&
		   !eng_clip_images(clip, questions.pictures, 1025, out, &status),
		   "no pictures, or too many: %s", status.message);
	status = fine;
	tap_ok(eng_clip_unit(embeddings[0], 1, 3, &status) &&
		   embeddings[0][0] == 0.6f && embeddings[0][2] == 0.8f,
		   "length 1");
	status = fine;
	tap_ok(!eng_clip_unit(embeddings[1], 1, 3, &status) &&
		   status.code == ENG_NUMERIC, "no length: %s", status.message);
	status = fine;
	embeddings[1][1] = NAN;
	tap_ok(!eng_clip_unit(embeddings[1], 1, 3, &status) &&
		   status.code == ENG_NUMERIC, "not a number: %s", status.message);
	status = fine;
	config.image.heads = 7;
	tap_ok(eng_clip_create(&config, "cpu", 1, &status) == NULL,
		   "heads that do not divide: %s", status.message);
	status = fine;
	tap_ok(!eng_clip_config_parse(&config, "{\"vocabulary\": 1}", &status) &&
		   !eng_clip_config_parse(&config, "{\"quick_gelu\": 1}", &status),
		   "options that there are not: %s", status.message);
	status = fine;
	eng_clip_memory(clip, &memory);
	eng_clip_set_memory_limit(clip, eng_memory_total(&memory) + 100000);
	tap_ok(!eng_clip_images(clip, questions.pictures, 32, out, &status) &&
		   status.code == ENG_NO_MEMORY, "memory: %s", status.message);
	status = fine;
	eng_clip_set_memory_limit(clip, 0);
	tap_ok(eng_clip_images(clip, questions.pictures, 32, out, &status),
		   "and without a limit");
	free(out);
	eng_clip_free(clip);
}

int
main(void)
{
	make_questions(&questions, &tiny);
	test_operations();
	test_backends(true);
	test_backends(false);
	test_flag();
	test_groups(ENG_F32);
	test_groups(ENG_BF16);
	test_pinning();
	test_padding();
	test_refusals();
	free(questions.pixels);
	return tap_done();
}
