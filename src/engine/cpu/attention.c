/*
 * engine/cpu/attention.c
 *		Self-attention, one head of one entry at a time.
 *
 * A head of 50 or 77 tokens of 64 features fits into the nearest cache.  Its
 * queries, keys (turned) and values are copied to rows of whole vectors,
 * padded with zeros; then both products are of one form, (rows, k) by
 * (k, columns), done in blocks that stay in registers.  A head is the work of
 * one thread, and its sums have a fixed order.
 */
#include <math.h>
#include <string.h>

#include "engine/core/clones.h"
#include "engine/cpu/cpu.h"

#define TOKENS	ENG_ATTENTION_TOKENS
#define SIZE	ENG_ATTENTION_SIZE
#define ROWS	4				/* of a block in registers */
#define COLUMNS	32
#define LANES	16				/* of a vector */

typedef float Lanes __attribute__((vector_size(4 * LANES), may_alias));

typedef struct Head
{
	float		q[TOKENS + ROWS][SIZE];
	float		k[SIZE][TOKENS];	/* turned */
	float		v[TOKENS][SIZE];
	float		weights[ROWS][TOKENS];
	float		sums[ROWS][SIZE];
} __attribute__((aligned(64))) Head;

/*
 * ROWS x COLUMNS of out = a b; all rows start at multiples of a vector but
 * those of a.
 */
ENG_INLINE void
block(float *out, int32_t out_row, const float *a, int32_t a_row,
	  const float *b, int32_t b_row, int32_t k)
{
	Lanes		s00 = {0};
	Lanes		s01 = {0};
	Lanes		s10 = {0};
	Lanes		s11 = {0};
	Lanes		s20 = {0};
	Lanes		s21 = {0};
	Lanes		s30 = {0};
	Lanes		s31 = {0};
	int32_t		i;

	for (i = 0; i < k; i++)
	{
		const Lanes *row = (const Lanes *) (b + (int64_t) i * b_row);
		Lanes		b0 = row[0];
		Lanes		b1 = row[1];
		float		x0 = a[i];
		float		x1 = a[a_row + i];
		float		x2 = a[2 * a_row + i];
		float		x3 = a[3 * a_row + i];

		s00 += x0 * b0;
		s01 += x0 * b1;
		s10 += x1 * b0;
		s11 += x1 * b1;
		s20 += x2 * b0;
		s21 += x2 * b1;
		s30 += x3 * b0;
		s31 += x3 * b1;
	}
	((Lanes *) out)[0] = s00;
	((Lanes *) out)[1] = s01;
	((Lanes *) (out + out_row))[0] = s10;
	((Lanes *) (out + out_row))[1] = s11;
	((Lanes *) (out + 2 * out_row))[0] = s20;
	((Lanes *) (out + 2 * out_row))[1] = s21;
	((Lanes *) (out + 3 * out_row))[0] = s30;
	((Lanes *) (out + 3 * out_row))[1] = s31;
}

/*
 * e to the power x, x <= 0, to 2e-7 relative (0 from -87 on): a polynomial on
 * the fraction of the power of two, whose whole part goes into the exponent.
 */
ENG_INLINE float
power(float x)
{
	float		turns = (x < -87.0f ? -87.0f : x) * 1.44269504f;
	float		shifted = turns + 12582912.0f;	/* rounds to whole */
	float		whole = shifted - 12582912.0f;
	float		f = (turns - whole) * 0.693147181f;
	float		p = 1.0f / 720;
	uint32_t	bits;
	float		scale;

	p = p * f + 1.0f / 120;
	p = p * f + 1.0f / 24;
	p = p * f + 1.0f / 6;
	p = p * f + 0.5f;
	p = p * f + 1.0f;
	p = p * f + 1.0f;
	bits = (uint32_t) ((int32_t) whole + 127) << 23;
	memcpy(&scale, &bits, sizeof(scale));
	return x < -87.0f ? 0 : p * scale;
}

/*
 * Weights of what one token sees, from its products; what lies behind, up to
 * width, becomes 0.
 */
ENG_INLINE void
soften(float *weights, int32_t seen, int32_t width, float scale)
{
	float		part[LANES] = {0};
	float		largest = weights[0];
	float		total = 0;
	int32_t		i;
	int32_t		j;

	for (i = 1; i < seen; i++)
		largest = weights[i] > largest ? weights[i] : largest;
	for (i = 0; i < width; i++)
		weights[i] = i < seen ? power((weights[i] - largest) * scale) : 0;
	for (i = 0; i < width; i += LANES)
		for (j = 0; j < LANES; j++)
			part[j] += weights[i + j];
	for (j = 0; j < LANES; j++)
		total += part[j];
	for (i = 0; i < width; i++)
		weights[i] /= total;
}

/* Copy one head out of qkv; columns of tokens that are not there are 0. */
ENG_INLINE void
take_head(Head *head, const void *qkv, const EngAttentionShape *s,
		  int64_t entry, int32_t index, int32_t width, EngType type)
{
	int64_t		channels = (int64_t) s->heads * s->size;
	int32_t		t;
	int32_t		c;

	for (t = 0; t < s->tokens; t++)
	{
		int64_t		first = (entry * s->tokens + t) * 3 * channels +
			(int64_t) index * s->size;

		for (c = 0; c < s->size; c++)
		{
			head->q[t][c] = eng_load(qkv, type, first + c);
			head->v[t][c] = eng_load(qkv, type, first + 2 * channels + c);
		}
		for (c = 0; c < s->size; c++)
			head->k[c][t] = eng_load(qkv, type, first + channels + c);
	}
	for (c = 0; c < s->size; c++)
		for (t = s->tokens; t < width; t++)
			head->k[c][t] = 0;
}

ENG_INLINE void
attend(void *y, const void *qkv, const EngAttentionShape *s, int64_t entry,
	   int32_t index, EngType type)
{
	Head		head;
	int32_t		width = (s->tokens + COLUMNS - 1) / COLUMNS * COLUMNS;
	float		scale = 1 / sqrtf((float) s->size);
	int32_t		first;
	int32_t		r;
	int32_t		c;

	memset(head.q, 0, sizeof(float) * SIZE * (s->tokens + ROWS));
	memset(head.v, 0, sizeof(float) * SIZE * s->tokens);
	take_head(&head, qkv, s, entry, index, width, type);
	for (first = 0; first < s->tokens; first += ROWS)
	{
		for (c = 0; c < width; c += COLUMNS)
			block(&head.weights[0][c], TOKENS, head.q[first], SIZE,
				  &head.k[0][c], TOKENS, s->size);
		for (r = 0; r < ROWS; r++)
			soften(head.weights[r], s->causal && first + r < s->tokens ?
				   first + r + 1 : s->tokens, width, scale);
		for (c = 0; c < s->size; c += COLUMNS)
			block(&head.sums[0][c], SIZE, head.weights[0], TOKENS,
				  &head.v[0][c], SIZE, s->tokens);
		for (r = 0; r < ROWS && first + r < s->tokens; r++)
			for (c = 0; c < s->size; c++)
				eng_store(y, type,
						  ((entry * s->tokens + first + r) * s->heads +
						   index) * s->size + c, head.sums[r][c]);
	}
}

ENG_CLONES static void
attend_f32(void *y, const void *qkv, const EngAttentionShape *s,
		   int64_t entry, int32_t index)
{
	attend(y, qkv, s, entry, index, ENG_F32);
}

ENG_FOR_BF16 static void
attend_bf16(void *y, const void *qkv, const EngAttentionShape *s,
			int64_t entry, int32_t index)
{
	attend(y, qkv, s, entry, index, ENG_BF16);
}

void
eng_cpu_attention(EngBackend *backend, void *y, const void *qkv,
				  const EngAttentionShape *s)
{
	int64_t		count = (int64_t) s->n * s->heads;
	int64_t		i;

	(void) backend;
#pragma omp parallel for schedule(static)
	for (i = 0; i < count; i++)
	{
		int64_t		entry = i / s->heads;
		int32_t		index = (int32_t) (i % s->heads);

		if (s->type == ENG_BF16)
			attend_bf16(y, qkv, s, entry, index);
		else
			attend_f32(y, qkv, s, entry, index);
	}
}
