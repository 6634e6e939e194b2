/*
 * engine/cpu/tokens.c
 *		Layer norm, and the ways into and out of tokens: all bound by memory.
 *
 * Work is split by rows, and a row's sums have a fixed order: results do not
 * depend on the number of threads.
 */
#include <math.h>
#include <string.h>

#include "engine/core/clones.h"
#include "engine/cpu/cpu.h"

#define SUMS	16				/* of a row, side by side */

/*
 * What one row is the norm of: x, or the sum with what is added.
 */
ENG_INLINE const float *
add_row(const EngLayerNormArgs *a, int64_t first)
{
	const float *x = a->x + first;
	const float *add;
	float	   *sum;
	int32_t		c;

	if (a->add == NULL)
		return x;
	add = a->add + first;
	sum = a->sum + first;
	for (c = 0; c < a->channels; c++)
		sum[c] = x[c] + add[c];
	return sum;
}

ENG_INLINE float
total_of(const float part[SUMS])
{
	float		total = 0;
	int			j;

	for (j = 0; j < SUMS; j++)
		total += part[j];
	return total;
}

ENG_INLINE void
normalize_row(const EngLayerNormArgs *a, int64_t row, EngType type)
{
	int64_t		first = row * a->channels;
	const float *s = add_row(a, first);
	void	   *y = eng_at(a->y, type, first);
	int32_t		whole = a->channels / SUMS * SUMS;
	float		part[SUMS] = {0};
	float		mean;
	float		scale;
	int32_t		c;
	int			j;

	for (c = 0; c < whole; c += SUMS)
		for (j = 0; j < SUMS; j++)
			part[j] += s[c + j];
	for (; c < a->channels; c++)
		part[c - whole] += s[c];
	mean = total_of(part) / a->channels;
	memset(part, 0, sizeof(part));
	for (c = 0; c < whole; c += SUMS)
		for (j = 0; j < SUMS; j++)
		{
			float		d = s[c + j] - mean;

			part[j] += d * d;
		}
	for (; c < a->channels; c++)
		part[c - whole] += (s[c] - mean) * (s[c] - mean);
	scale = 1 / sqrtf(total_of(part) / a->channels + a->eps);
	for (c = 0; c < a->channels; c++)
		eng_store(y, type, c, (s[c] - mean) * scale * a->weight[c] +
				  a->bias[c]);
}

ENG_CLONES static void
normalize_f32(const EngLayerNormArgs *a, int64_t row)
{
	normalize_row(a, row, ENG_F32);
}

ENG_FOR_BF16 static void
normalize_bf16(const EngLayerNormArgs *a, int64_t row)
{
	normalize_row(a, row, ENG_BF16);
}

static void
cpu_layer_norm(EngBackend *backend, const EngLayerNormArgs *a)
{
	int64_t		row;

	(void) backend;
#pragma omp parallel for schedule(static)
	for (row = 0; row < a->rows; row++)
	{
		if (a->type == ENG_BF16)
			normalize_bf16(a, row);
		else
			normalize_f32(a, row);
	}
}

ENG_CLONES static void
add_rows(float *y, const float *a, const float *b, int32_t channels)
{
	int32_t		c;

	for (c = 0; c < channels; c++)
		y[c] = a[c] + b[c];
}

static void
cpu_join_tokens(EngBackend *backend, float *y, const float *x,
				const float *first, const float *positions,
				const EngTokens *s)
{
	int64_t		row;

	(void) backend;
#pragma omp parallel for schedule(static)
	for (row = 0; row < (int64_t) s->n * s->tokens; row++)
	{
		int64_t		entry = row / s->tokens;
		int64_t		token = row % s->tokens;
		const float *from = token == 0 ? first :
			x + (entry * (s->tokens - 1) + token - 1) * s->channels;

		add_rows(y + row * s->channels, from,
				 positions + token * s->channels, s->channels);
	}
}

static void
cpu_embed_tokens(EngBackend *backend, float *y, const float *ids,
				 const float *table, const float *positions,
				 const EngTokens *s)
{
	int64_t		row;

	(void) backend;
#pragma omp parallel for schedule(static)
	for (row = 0; row < (int64_t) s->n * s->tokens; row++)
		add_rows(y + row * s->channels,
				 table + (int64_t) ids[row] * s->channels,
				 positions + row % s->tokens * s->channels, s->channels);
}

static void
cpu_pick_tokens(EngBackend *backend, EngType type, void *y, const void *x,
				const float *ids, const EngTokens *s)
{
	int64_t		entry;

	(void) backend;
	for (entry = 0; entry < s->n; entry++)
	{
		const float *own = ids == NULL ? NULL : ids + entry * s->tokens;
		int32_t		best = 0;
		int32_t		t;

		for (t = 1; own != NULL && t < s->tokens; t++)
			if (own[t] > own[best])
				best = t;
		memcpy(eng_at(y, type, entry * s->channels),
			   eng_at(x, type, (entry * s->tokens + best) * s->channels),
			   eng_type_size(type) * s->channels);
	}
}

void
eng_cpu_token_operations(EngBackend *backend)
{
	backend->layer_norm = cpu_layer_norm;
	backend->attention = eng_cpu_attention;
	backend->join_tokens = cpu_join_tokens;
	backend->embed_tokens = cpu_embed_tokens;
	backend->pick_tokens = cpu_pick_tokens;
}
