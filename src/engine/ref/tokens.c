/*
 * engine/ref/tokens.c
 *		The operations of transformers by their definition, sums in double.
 */
#include <math.h>

#include "engine/ref/ref.h"

static double
layer_norm_input(const EngLayerNormArgs *a, int64_t i)
{
	float		sum = a->x[i] + (a->add != NULL ? a->add[i] : 0);

	if (a->add != NULL)
		a->sum[i] = sum;
	return sum;
}

static void
ref_layer_norm(EngBackend *backend, const EngLayerNormArgs *a)
{
	int64_t		r;

	(void) backend;
	for (r = 0; r < a->rows; r++)
	{
		int64_t		first = r * a->channels;
		double		sum = 0;
		double		squares = 0;
		double		mean;
		double		scale;
		int32_t		c;

		for (c = 0; c < a->channels; c++)
			sum += layer_norm_input(a, first + c);
		mean = sum / a->channels;
		for (c = 0; c < a->channels; c++)
		{
			double		d = layer_norm_input(a, first + c) - mean;

			squares += d * d;
		}
		scale = 1 / sqrt(squares / a->channels + a->eps);
		for (c = 0; c < a->channels; c++)
			eng_store(a->y, a->type, first + c,
					  (float) ((layer_norm_input(a, first + c) - mean) *
							   scale * a->weight[c] + a->bias[c]));
	}
}

/* Index of feature 0 of one head of q, k or v (part 0, 1, 2) of a token. */
static int64_t
part_index(const EngAttentionShape *s, int64_t entry, int32_t token,
		   int part, int32_t head)
{
	return (((entry * s->tokens + token) * 3 + part) * s->heads + head) *
		s->size;
}

/*
 * One token of one head: its weights of the tokens that it sees, then the sum
 * of their values.
 */
static void
attend(const EngAttentionShape *s, void *y, const void *qkv, int64_t entry,
	   int32_t head, int32_t token)
{
	double		weights[ENG_ATTENTION_TOKENS];
	int32_t		seen = s->causal ? token + 1 : s->tokens;
	int64_t		q = part_index(s, entry, token, 0, head);
	double		largest = -INFINITY;
	double		total = 0;
	int32_t		t;
	int32_t		c;

	for (t = 0; t < seen; t++)
	{
		int64_t		k = part_index(s, entry, t, 1, head);

		weights[t] = 0;
		for (c = 0; c < s->size; c++)
			weights[t] += (double) eng_load(qkv, s->type, q + c) *
				eng_load(qkv, s->type, k + c);
		weights[t] /= sqrt(s->size);
		largest = fmax(largest, weights[t]);
	}
	for (t = 0; t < seen; t++)
	{
		weights[t] = exp(weights[t] - largest);
		total += weights[t];
	}
	for (c = 0; c < s->size; c++)
	{
		double		sum = 0;

		for (t = 0; t < seen; t++)
			sum += weights[t] *
				eng_load(qkv, s->type, part_index(s, entry, t, 2, head) + c);
		eng_store(y, s->type,
				  ((entry * s->tokens + token) * s->heads + head) * s->size +
				  c, (float) (sum / total));
	}
}

static void
ref_attention(EngBackend *backend, void *y, const void *qkv,
			  const EngAttentionShape *s)
{
	int64_t		rows = (int64_t) s->n * s->heads * s->tokens;
	int64_t		r;

	(void) backend;
#pragma omp parallel for schedule(static)
	for (r = 0; r < rows; r++)
		attend(s, y, qkv, r / s->tokens / s->heads,
			   (int32_t) (r / s->tokens % s->heads), (int32_t) (r % s->tokens));
}

static void
ref_join_tokens(EngBackend *backend, float *y, const float *x,
				const float *first, const float *positions,
				const EngTokens *s)
{
	int64_t		row;
	int32_t		c;

	(void) backend;
	for (row = 0; row < (int64_t) s->n * s->tokens; row++)
	{
		int64_t		entry = row / s->tokens;
		int64_t		token = row % s->tokens;
		const float *from = token == 0 ? first :
			x + (entry * (s->tokens - 1) + token - 1) * s->channels;

		for (c = 0; c < s->channels; c++)
			y[row * s->channels + c] = from[c] +
				positions[token * s->channels + c];
	}
}

static void
ref_embed_tokens(EngBackend *backend, float *y, const float *ids,
				 const float *table, const float *positions,
				 const EngTokens *s)
{
	int64_t		row;
	int32_t		c;

	(void) backend;
	for (row = 0; row < (int64_t) s->n * s->tokens; row++)
		for (c = 0; c < s->channels; c++)
			y[row * s->channels + c] =
				table[(int64_t) ids[row] * s->channels + c] +
				positions[row % s->tokens * s->channels + c];
}

static void
ref_pick_tokens(EngBackend *backend, EngType type, void *y, const void *x,
				const float *ids, const EngTokens *s)
{
	int64_t		entry;
	int32_t		c;

	(void) backend;
	for (entry = 0; entry < s->n; entry++)
	{
		int32_t		best = 0;
		int32_t		t;

		for (t = 1; ids != NULL && t < s->tokens; t++)
			if (ids[entry * s->tokens + t] > ids[entry * s->tokens + best])
				best = t;
		for (c = 0; c < s->channels; c++)
			eng_store(y, type, entry * s->channels + c,
					  eng_load(x, type, (entry * s->tokens + best) *
							   s->channels + c));
	}
}

void
eng_ref_token_operations(EngBackend *backend)
{
	backend->layer_norm = ref_layer_norm;
	backend->attention = ref_attention;
	backend->join_tokens = ref_join_tokens;
	backend->embed_tokens = ref_embed_tokens;
	backend->pick_tokens = ref_pick_tokens;
}
