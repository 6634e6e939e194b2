/*
 * cuda/attention.cu
 *		Self-attention of transformers with few tokens.
 *
 * A block takes some queries of one head of one entry: all their products
 * with the keys, the softmax of whole rows, then the sums of the values.
 * Keys and values come by tiles into shared memory as floats, padded with
 * zeros to whole vectors; a thread has four queries by four keys, and then by
 * four channels, in registers.  All arithmetic is float.
 */
#include "cuda/kernel.h"

#define KEYS		64			/* of a tile */
#define LANES		16			/* threads that share four queries */
#define EACH		4			/* queries, keys, channels of a thread */
#define PITCH		(ENG_ATTENTION_SIZE + 4)	/* keeps rows in other banks */
#define SHORT		96			/* tokens of pictures and of texts */

/* What a block keeps: Q queries, up to TOKENS keys in whole tiles. */
template <int Q, int TOKENS>
struct alignas(16) AttentionShared
{
	float		q[Q][PITCH];
	float		tile[KEYS][PITCH];	/* of keys, then of values */
	float		weights[Q][TOKENS + 4];
	float		part[Q][LANES];
};

/* Where features of a token's head lie: part 0, 1, 2 is q, k, v. */
static __device__ __forceinline__ int64_t
head_index(const EngAttentionShape &s, int32_t token, int part)
{
	int64_t		entry = blockIdx.x / s.heads;
	int64_t		head = blockIdx.x % s.heads;

	return (((entry * s.tokens + token) * 3 + part) * s.heads + head) *
		s.size;
}

/*
 * Tokens from first on as rows of floats; rows of tokens that are not there
 * and columns beyond the head's size are 0.
 */
template <typename T, int V>
static __device__ __forceinline__ void
load_rows(float (*out)[PITCH], const T *qkv, const EngAttentionShape &s,
		  int part, int32_t first, int32_t rows)
{
	const int	across = ENG_ATTENTION_SIZE / V;

	for (int32_t i = threadIdx.x; i < rows * across; i += blockDim.x)
	{
		int32_t		row = i / across;
		int32_t		column = i % across * V;
		float		value[V];

		for (int v = 0; v < V; v++)
			value[v] = 0;
		if (first + row < s.tokens && column < s.size)
			Vector<T, V>::load(value, qkv,
							   head_index(s, first + row, part) + column);
		store_floats<V>(out[row], column, value);
	}
}

/* sum[i][j] += a row of four queries times a row of four keys. */
static __device__ __forceinline__ void
multiply_keys(float sum[EACH][EACH], const float (*q)[PITCH],
			  const float (*k)[PITCH], int32_t size)
{
	int			lane = threadIdx.x % LANES;
	int			query = threadIdx.x / LANES * EACH;

	for (int32_t c = 0; c < size; c += EACH)
	{
		float		a[EACH][EACH];
		float		b[EACH][EACH];

#pragma unroll
		for (int i = 0; i < EACH; i++)
		{
			load_floats<EACH>(a[i], q[query + i], c);
			load_floats<EACH>(b[i], k[lane + i * LANES], c);
		}
#pragma unroll
		for (int i = 0; i < EACH; i++)
#pragma unroll
			for (int j = 0; j < EACH; j++)
#pragma unroll
				for (int v = 0; v < EACH; v++)
					sum[i][j] = fmaf(a[i][v], b[j][v], sum[i][j]);
	}
}

/* Products of the block's queries with all keys up to last. */
template <typename T, int V, int Q, int TOKENS>
static __device__ void
score(AttentionShared<Q, TOKENS> &shared, const T *qkv,
	  const EngAttentionShape &s, int32_t last)
{
	int			lane = threadIdx.x % LANES;
	int			query = threadIdx.x / LANES * EACH;

	for (int32_t first = 0; first < last; first += KEYS)
	{
		float		sum[EACH][EACH] = {};

		__syncthreads();
		load_rows<T, V>(shared.tile, qkv, s, 1, first, KEYS);
		__syncthreads();
		multiply_keys(sum, shared.q, shared.tile, s.size);
#pragma unroll
		for (int i = 0; i < EACH; i++)
#pragma unroll
			for (int j = 0; j < EACH; j++)
				if (first + lane + j * LANES < TOKENS)
					shared.weights[query + i][first + lane + j * LANES] =
						sum[i][j];
	}
}

/*
 * e to the power of what is below the row's largest, 0 for what is not seen,
 * up to a whole number of vectors.  total: of the thread's four rows.
 */
template <int Q, int TOKENS>
static __device__ void
soften(float total[EACH], AttentionShared<Q, TOKENS> &shared,
	   const EngAttentionShape &s, int32_t first_query, int32_t last)
{
	int			lane = threadIdx.x % LANES;
	int			query = threadIdx.x / LANES * EACH;
	int32_t		padded = (last + EACH - 1) / EACH * EACH;
	float		scale = 1 / sqrtf((float) s.size);
	float		largest[EACH];
	int32_t		seen[EACH];

	for (int i = 0; i < EACH; i++)
	{
		float	   *row = shared.weights[query + i];
		int32_t		token = first_query + query + i;

		seen[i] = s.causal && token < s.tokens ? token + 1 : s.tokens;
		largest[i] = row[0];
		for (int32_t t = lane; t < seen[i]; t += LANES)
			largest[i] = row[t] > largest[i] ? row[t] : largest[i];
		shared.part[query + i][lane] = largest[i];
	}
	__syncthreads();
	for (int i = 0; i < EACH; i++)
	{
		float	   *row = shared.weights[query + i];

		for (int l = 0; l < LANES; l++)
			largest[i] = shared.part[query + i][l] > largest[i] ?
				shared.part[query + i][l] : largest[i];
		total[i] = 0;
		for (int32_t t = lane; t < padded; t += LANES)
		{
			row[t] = t < seen[i] ? expf((row[t] - largest[i]) * scale) : 0;
			total[i] += row[t];
		}
	}
	__syncthreads();
	for (int i = 0; i < EACH; i++)
		shared.part[query + i][lane] = total[i];
	__syncthreads();
	for (int i = 0; i < EACH; i++)
	{
		total[i] = 0;
		for (int l = 0; l < LANES; l++)
			total[i] += shared.part[query + i][l];
	}
}

/* sum[i] += weights of a tile's tokens times four channels of their values. */
static __device__ __forceinline__ void
multiply_values(float sum[EACH][EACH], const float *weights, int pitch,
				const float (*values)[PITCH], int32_t tokens)
{
	int			channel = threadIdx.x % LANES * EACH;

	for (int32_t t = 0; t < tokens; t += EACH)
	{
		float		a[EACH][EACH];
		float		b[EACH][EACH];

#pragma unroll
		for (int i = 0; i < EACH; i++)
		{
			load_floats<EACH>(a[i], weights, i * pitch + t);
			load_floats<EACH>(b[i], values[t + i], channel);
		}
#pragma unroll
		for (int i = 0; i < EACH; i++)
#pragma unroll
			for (int v = 0; v < EACH; v++)
#pragma unroll
				for (int j = 0; j < EACH; j++)
					sum[i][j] = fmaf(a[i][v], b[v][j], sum[i][j]);
	}
}

template <typename T, int V, int Q, int TOKENS>
static __global__ void
attention_kernel(T *y, const T *qkv, EngAttentionShape s)
{
	__shared__ AttentionShared<Q, TOKENS> shared;
	int			channel = threadIdx.x % LANES * EACH;
	int			query = threadIdx.x / LANES * EACH;
	int32_t		first_query = blockIdx.y * Q;
	int32_t		last = s.causal && first_query + Q < s.tokens ?
		first_query + Q : s.tokens;
	float		sum[EACH][EACH] = {};
	float		total[EACH];

	load_rows<T, V>(shared.q, qkv, s, 0, first_query, Q);
	score<T, V, Q, TOKENS>(shared, qkv, s, last);
	__syncthreads();
	soften(total, shared, s, first_query, last);
	for (int32_t first = 0; first < last; first += KEYS)
	{
		int32_t		tokens = last - first < KEYS ? last - first : KEYS;

		__syncthreads();
		load_rows<T, V>(shared.tile, qkv, s, 2, first, KEYS);
		__syncthreads();
		multiply_values(sum, &shared.weights[query][first], TOKENS + 4,
						shared.tile, tokens);
	}
	for (int i = 0; i < EACH; i++)
	{
		int32_t		token = first_query + query + i;
		int64_t		entry = blockIdx.x / s.heads;
		int64_t		head = blockIdx.x % s.heads;
		int64_t		at = ((entry * s.tokens + token) * s.heads + head) *
			s.size + channel;

		for (int j = 0; j < EACH; j++)
			if (token < s.tokens && channel + j < s.size)
				put(y, at + j, sum[i][j] / total[i]);
	}
}

template <typename T, int V>
static void
launch(EngCuda *cuda, T *y, const T *qkv, const EngAttentionShape *s)
{
	unsigned	heads = (unsigned) s->n * s->heads;

	/* either fits into 48 KiB of shared memory */
	if (s->tokens <= SHORT)
		ENG_LAUNCH_MEETING((attention_kernel<T, V, 32, SHORT>),
						   dim3(heads, blocks_for(s->tokens, 32)),
						   32 / EACH * LANES, cuda, y, qkv, *s);
	else
		ENG_LAUNCH_MEETING((attention_kernel<T, V, 16, ENG_ATTENTION_TOKENS>),
						   dim3(heads, blocks_for(s->tokens, 16)),
						   16 / EACH * LANES, cuda, y, qkv, *s);
}

void
eng_cuda_attention(EngCuda *cuda, void *y, const void *qkv,
				   const EngAttentionShape *s)
{
	if (s->n == 0)
		return;
	ENG_WITH_TYPE(s->type,
				  if (s->size % V == 0)
					  launch<T, V>(cuda, (T *) y, (const T *) qkv, s);
				  else
					  launch<T, 1>(cuda, (T *) y, (const T *) qkv, s););
}
