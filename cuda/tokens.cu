/*
 * cuda/tokens.cu
 *		Transformers but their products: layer norm, activations, the ways
 *		into tokens and out of them.  All bound by memory.
 */
#include "cuda/kernel.h"

#define NORM_THREADS	128		/* of a row */

/* ---- layer norm ------------------------------------------------------------- */

/* The sum over the block's threads, in a fixed order; all get it. */
static __device__ __forceinline__ float
block_sum(float value)
{
	__shared__ float shared[NORM_THREADS];

	__syncthreads();
	shared[threadIdx.x] = value;
	__syncthreads();
	for (int half = NORM_THREADS / 2; half > 0; half /= 2)
	{
		if ((int) threadIdx.x < half)
			shared[threadIdx.x] += shared[threadIdx.x + half];
		__syncthreads();
	}
	return shared[0];
}

/*
 * A block takes a row.  What the row is the norm of lies in memory after the
 * first pass; a thread reads again what itself has written.
 */
template <typename T, int V>
static __global__ void
layer_norm_kernel(EngLayerNormArgs a)
{
	int64_t		first = (int64_t) blockIdx.x * a.channels;
	const float *row = a.add != NULL ? a.sum : a.x;
	float		sum = 0;
	float		squares = 0;
	float		mean;
	float		scale;

	for (int32_t c = threadIdx.x * V; c < a.channels; c += NORM_THREADS * V)
	{
		float		x[V];
		float		add[V];

		load_floats<V>(x, a.x, first + c);
		if (a.add != NULL)
		{
			load_floats<V>(add, a.add, first + c);
			for (int v = 0; v < V; v++)
				x[v] += add[v];
			store_floats<V>(a.sum, first + c, x);
		}
		for (int v = 0; v < V; v++)
			sum += x[v];
	}
	mean = block_sum(sum) / a.channels;
	for (int32_t c = threadIdx.x * V; c < a.channels; c += NORM_THREADS * V)
	{
		float		x[V];

		load_floats<V>(x, row, first + c);
		for (int v = 0; v < V; v++)
			squares += (x[v] - mean) * (x[v] - mean);
	}
	scale = 1 / sqrtf(block_sum(squares) / a.channels + a.eps);
	for (int32_t c = threadIdx.x * V; c < a.channels; c += NORM_THREADS * V)
	{
		float		x[V];
		float		weight[V];
		float		bias[V];

		load_floats<V>(x, row, first + c);
		load_floats<V>(weight, a.weight, c);
		load_floats<V>(bias, a.bias, c);
		for (int v = 0; v < V; v++)
			x[v] = (x[v] - mean) * scale * weight[v] + bias[v];
		Vector<T, V>::store((T *) a.y, first + c, x);
	}
}

void
eng_cuda_layer_norm(EngCuda *cuda, const EngLayerNormArgs *args)
{
	unsigned	rows = (unsigned) args->rows;

	if (rows == 0)
		return;
	ENG_WITH_TYPE(args->type,
				  if (args->channels % V == 0)
					  ENG_LAUNCH_MEETING((layer_norm_kernel<T, V>), rows,
										 NORM_THREADS, cuda, *args);
				  else
					  ENG_LAUNCH_MEETING((layer_norm_kernel<T, 1>), rows,
										 NORM_THREADS, cuda, *args););
}

/* ---- activations -------------------------------------------------------------- */

static __device__ __forceinline__ float
activate(float x, EngActivation activation)
{
	switch (activation)
	{
		case ENG_ACTIVATION_QUICK_GELU:
			return x / (1 + expf(-1.702f * x));
		case ENG_ACTIVATION_GELU:
			return 0.5f * x * (1 + erff(x * 0.70710678f));
		case ENG_ACTIVATION_NONE:
			break;
	}
	return x;
}

template <typename T, int V>
static __global__ void
bias_activation_kernel(T *y, const float *bias, int64_t vectors,
					   int32_t channels, EngActivation activation)
{
	int64_t		i = (int64_t) blockIdx.x * blockDim.x + threadIdx.x;
	int32_t		c = (int32_t) (i % (channels / V)) * V;
	float		value[V];
	float		add[V];

	if (i >= vectors)
		return;
	Vector<T, V>::load(value, y, i * V);
	for (int v = 0; v < V; v++)
		add[v] = 0;
	if (bias != NULL)
		load_floats<V>(add, bias, c);
	for (int v = 0; v < V; v++)
		value[v] = activate(value[v] + add[v], activation);
	Vector<T, V>::store(y, i * V, value);
}

void
eng_cuda_bias_activation(EngCuda *cuda, EngType type, void *y,
						 const float *bias, int64_t rows, int32_t channels,
						 EngActivation activation)
{
	int64_t		count = rows * channels;

	if (count == 0)
		return;
	ENG_WITH_TYPE(type,
				  if (channels % V == 0)
					  ENG_LAUNCH((bias_activation_kernel<T, V>),
								 blocks_for(count / V, ENG_THREADS),
								 ENG_THREADS, cuda, (T *) y, bias, count / V,
								 channels, activation);
				  else
					  ENG_LAUNCH((bias_activation_kernel<T, 1>),
								 blocks_for(count, ENG_THREADS), ENG_THREADS,
								 cuda, (T *) y, bias, count, channels,
								 activation););
}

/* ---- into tokens ---------------------------------------------------------------- */

/*
 * Rows of tokens with their positions: patches behind a first token where ids
 * are NULL, else rows of the table x.
 */
template <int V>
static __global__ void
place_tokens_kernel(float *y, const float *x, const float *first,
					const float *ids, const float *positions, EngTokens s)
{
	int64_t		i = (int64_t) blockIdx.x * blockDim.x + threadIdx.x;
	int32_t		across = s.channels / V;
	int64_t		row = i / across;
	int32_t		c = (int32_t) (i % across) * V;
	int32_t		token = (int32_t) (row % s.tokens);
	const float *from = first;
	float		value[V];
	float		position[V];

	if (row >= (int64_t) s.n * s.tokens)
		return;
	if (ids != NULL)
		from = x + (int64_t) ids[row] * s.channels;
	else if (token > 0)
		from = x + (row / s.tokens * (s.tokens - 1) + token - 1) * s.channels;
	load_floats<V>(value, from, c);
	load_floats<V>(position, positions, (int64_t) token * s.channels + c);
	for (int v = 0; v < V; v++)
		value[v] += position[v];
	store_floats<V>(y, row * s.channels + c, value);
}

static void
place_tokens(EngCuda *cuda, float *y, const float *x, const float *first,
			 const float *ids, const float *positions, const EngTokens *s)
{
	int64_t		count = (int64_t) s->n * s->tokens * s->channels;

	if (count == 0)
		return;
	if (s->channels % 4 == 0)
		ENG_LAUNCH((place_tokens_kernel<4>),
				   blocks_for(count / 4, ENG_THREADS), ENG_THREADS, cuda, y,
				   x, first, ids, positions, *s);
	else
		ENG_LAUNCH((place_tokens_kernel<1>), blocks_for(count, ENG_THREADS),
				   ENG_THREADS, cuda, y, x, first, ids, positions, *s);
}

void
eng_cuda_join_tokens(EngCuda *cuda, float *y, const float *x,
					 const float *first, const float *positions,
					 const EngTokens *s)
{
	place_tokens(cuda, y, x, first, NULL, positions, s);
}

void
eng_cuda_embed_tokens(EngCuda *cuda, float *y, const float *ids,
					  const float *table, const float *positions,
					  const EngTokens *s)
{
	place_tokens(cuda, y, table, NULL, ids, positions, s);
}

/* ---- out of tokens ---------------------------------------------------------------- */

/* An entry's threads all find its token: ids are few. */
template <typename T>
static __global__ void
pick_tokens_kernel(T *y, const T *x, const float *ids, EngTokens s)
{
	int64_t		entry = blockIdx.x;
	int32_t		c = blockIdx.y * blockDim.x + threadIdx.x;
	int32_t		best = 0;

	if (c >= s.channels)
		return;
	for (int32_t t = 1; ids != NULL && t < s.tokens; t++)
		if (ids[entry * s.tokens + t] > ids[entry * s.tokens + best])
			best = t;
	y[entry * s.channels + c] = x[(entry * s.tokens + best) * s.channels + c];
}

void
eng_cuda_pick_tokens(EngCuda *cuda, EngType type, void *y, const void *x,
					 const float *ids, const EngTokens *s)
{
	dim3		blocks(s->n, blocks_for(s->channels, ENG_THREADS));

	if (s->n == 0)
		return;
	ENG_WITH_TYPE(type,
				  (void) V;
				  ENG_LAUNCH((pick_tokens_kernel<T>), blocks, ENG_THREADS,
							 cuda, (T *) y, (const T *) x, ids, *s););
}
