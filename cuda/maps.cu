/*
 * cuda/maps.cu
 *		Element by element: ReLU, sums, pooling, joining, other types.
 *
 * A thread has one vector of channels, or one element where the channels
 * are no whole vectors.
 */
#include "cuda/kernel.h"

/* ---- flat arrays ----------------------------------------------------------- */

template <typename T, int V>
static __global__ void
relu_backward_kernel(T *dy, const T *y, int64_t vectors)
{
	int64_t		i = (int64_t) blockIdx.x * blockDim.x + threadIdx.x;
	float		d[V];
	float		value[V];

	if (i >= vectors)
		return;
	Vector<T, V>::load(d, dy, i * V);
	Vector<T, V>::load(value, y, i * V);
	for (int v = 0; v < V; v++)
		if (!(value[v] > 0))
			d[v] = 0;
	Vector<T, V>::store(dy, i * V, d);
}

template <typename T, int V>
static __global__ void
add_relu_kernel(T *y, const T *x, const T *add, int64_t vectors)
{
	int64_t		i = (int64_t) blockIdx.x * blockDim.x + threadIdx.x;
	float		sum[V];
	float		other[V];

	if (i >= vectors)
		return;
	Vector<T, V>::load(sum, x, i * V);
	Vector<T, V>::load(other, add, i * V);
	for (int v = 0; v < V; v++)
		sum[v] = relu(sum[v] + other[v]);
	Vector<T, V>::store(y, i * V, sum);
}

template <typename To, typename From>
static __global__ void
add_relu_cast_kernel(To *y, const From *x, const From *add, int64_t count)
{
	int64_t		i = (int64_t) blockIdx.x * blockDim.x + threadIdx.x;

	if (i < count)
		put(y, i, relu(get(x, i) + get(add, i)));
}

template <typename To, typename From>
static __global__ void
cast_kernel(To *y, const From *x, int64_t count, bool add)
{
	int64_t		i = (int64_t) blockIdx.x * blockDim.x + threadIdx.x;

	if (i < count)
		put(y, i, add ? get(y, i) + get(x, i) : get(x, i));
}

template <typename T, int V>
static __global__ void
bias_relu_kernel(T *y, const T *x, const float *bias, int64_t vectors,
				 int32_t channels, bool with_relu)
{
	int64_t		i = (int64_t) blockIdx.x * blockDim.x + threadIdx.x;
	int32_t		c = (int32_t) (i % (channels / V)) * V;
	float		value[V];

	if (i >= vectors)
		return;
	Vector<T, V>::load(value, x, i * V);
	for (int v = 0; v < V; v++)
	{
		if (bias != NULL)
			value[v] += bias[c + v];
		if (with_relu)
			value[v] = relu(value[v]);
	}
	Vector<T, V>::store(y, i * V, value);
}

void
eng_cuda_relu_backward(EngCuda *cuda, EngType type, void *dy, const void *y,
					   int64_t count)
{
	if (count == 0)
		return;
	ENG_WITH_TYPE(type,
				  if (count % V == 0)
					  ENG_LAUNCH((relu_backward_kernel<T, V>),
								 blocks_for(count / V, ENG_THREADS),
								 ENG_THREADS, cuda, (T *) dy, (const T *) y,
								 count / V);
				  else
					  ENG_LAUNCH((relu_backward_kernel<T, 1>),
								 blocks_for(count, ENG_THREADS), ENG_THREADS,
								 cuda, (T *) dy, (const T *) y, count););
}

template <typename From>
static void
add_relu_from(EngCuda *cuda, EngType y_type, void *y, const From *x,
			  const From *add, int64_t count)
{
	unsigned	blocks = blocks_for(count, ENG_THREADS);

	ENG_WITH_TYPE(y_type,
				  (void) V;
				  ENG_LAUNCH((add_relu_cast_kernel<T, From>), blocks,
							 ENG_THREADS, cuda, (T *) y, x, add, count););
}

void
eng_cuda_add_relu(EngCuda *cuda, EngType y_type, void *y, EngType type,
				  const void *x, const void *add, int64_t count)
{
	if (count == 0)
		return;
	if (y_type != type)
	{
		ENG_WITH_TYPE(type,
					  (void) V;
					  add_relu_from(cuda, y_type, y, (const T *) x,
									(const T *) add, count););
		return;
	}
	ENG_WITH_TYPE(type,
				  if (count % V == 0)
					  ENG_LAUNCH((add_relu_kernel<T, V>),
								 blocks_for(count / V, ENG_THREADS),
								 ENG_THREADS, cuda, (T *) y, (const T *) x,
								 (const T *) add, count / V);
				  else
					  ENG_LAUNCH((add_relu_kernel<T, 1>),
								 blocks_for(count, ENG_THREADS), ENG_THREADS,
								 cuda, (T *) y, (const T *) x,
								 (const T *) add, count););
}

template <typename From>
static void
cast_from(EngCuda *cuda, EngType y_type, void *y, const From *x,
		  int64_t count, bool add)
{
	unsigned	blocks = blocks_for(count, ENG_THREADS);

	ENG_WITH_TYPE(y_type,
				  (void) V;
				  ENG_LAUNCH((cast_kernel<T, From>), blocks, ENG_THREADS,
							 cuda, (T *) y, x, count, add););
}

void
eng_cuda_cast(EngCuda *cuda, EngType y_type, void *y, EngType x_type,
			  const void *x, int64_t count, bool add)
{
	if (count == 0)
		return;
	ENG_WITH_TYPE(x_type,
				  (void) V;
				  cast_from(cuda, y_type, y, (const T *) x, count, add););
}

void
eng_cuda_bias_relu(EngCuda *cuda, EngType type, void *y, const void *x,
				   const float *bias, int64_t rows, int32_t channels,
				   bool with_relu)
{
	int64_t		count = rows * channels;

	if (rows == 0)
		return;
	ENG_WITH_TYPE(type,
				  if (channels % V == 0)
					  ENG_LAUNCH((bias_relu_kernel<T, V>),
								 blocks_for(count / V, ENG_THREADS),
								 ENG_THREADS, cuda, (T *) y, (const T *) x,
								 bias, count / V, channels, with_relu);
				  else
					  ENG_LAUNCH((bias_relu_kernel<T, 1>),
								 blocks_for(count, ENG_THREADS), ENG_THREADS,
								 cuda, (T *) y, (const T *) x, bias, count,
								 channels, with_relu););
}

/* ---- maps ------------------------------------------------------------------- */

/* A vector of a map (n, h, w, c). */
struct Cell
{
	int64_t		image;
	int32_t		row;
	int32_t		column;
	int32_t		channel;
	bool		inside;
};

static __device__ __forceinline__ Cell
cell_of(int32_t n, int32_t h, int32_t w, int32_t c, int v)
{
	int64_t		i = (int64_t) blockIdx.x * blockDim.x + threadIdx.x;
	int32_t		vectors = c / v;
	Cell		cell;

	cell.inside = i < (int64_t) n * h * w * vectors;
	cell.channel = (int32_t) (i % vectors) * v;
	i /= vectors;
	cell.column = (int32_t) (i % w);
	i /= w;
	cell.row = (int32_t) (i % h);
	cell.image = i / h;
	return cell;
}

static __device__ __forceinline__ int64_t
index_of(int64_t image, int32_t row, int32_t column, int32_t channel,
		 int32_t h, int32_t w, int32_t c)
{
	return ((image * h + row) * w + column) * c + channel;
}

/*
 * The window's first largest element, or what is not a number; padding
 * never.
 */
template <typename T, int V>
static __global__ void
maxpool_kernel(T *y, uint8_t *which, const T *x, EngPoolShape s)
{
	Cell		cell = cell_of(s.n, s.oh, s.ow, s.c, V);
	float		best[V];
	uint8_t		place[V];
	bool		any = false;
	int64_t		to;

	if (!cell.inside)
		return;
	for (int v = 0; v < V; v++)
	{
		best[v] = 0;
		place[v] = 0;
	}
	for (int p = 0; p < 9; p++)
	{
		int32_t		row = 2 * cell.row - 1 + p / 3;
		int32_t		column = 2 * cell.column - 1 + p % 3;
		float		in[V];

		if (row < 0 || row >= s.h || column < 0 || column >= s.w)
			continue;
		Vector<T, V>::load(in, x, index_of(cell.image, row, column,
										   cell.channel, s.h, s.w, s.c));
		for (int v = 0; v < V; v++)
			if (!any || in[v] > best[v] || in[v] != in[v])
			{
				best[v] = in[v];
				place[v] = (uint8_t) p;
			}
		any = true;
	}
	to = index_of(cell.image, cell.row, cell.column, cell.channel, s.oh,
				  s.ow, s.c);
	Vector<T, V>::store(y, to, best);
	for (int v = 0; which != NULL && v < V; v++)
		which[to + v] = place[v];
}

/* Each input cell asks the windows that it lies in, in order. */
template <typename T, int V>
static __global__ void
maxpool_backward_kernel(T *dx, const T *dy, const uint8_t *which,
						EngPoolShape s, bool add)
{
	Cell		cell = cell_of(s.n, s.h, s.w, s.c, V);
	float		sum[V];
	int64_t		to;

	if (!cell.inside)
		return;
	to = index_of(cell.image, cell.row, cell.column, cell.channel, s.h, s.w,
				  s.c);
	for (int v = 0; v < V; v++)
		sum[v] = 0;
	if (add)
		Vector<T, V>::load(sum, dx, to);
	for (int32_t i = cell.row / 2; i <= (cell.row + 1) / 2 && i < s.oh; i++)
		for (int32_t j = cell.column / 2;
			 j <= (cell.column + 1) / 2 && j < s.ow; j++)
		{
			int			place = (cell.row - 2 * i + 1) * 3 +
				cell.column - 2 * j + 1;
			int64_t		from = index_of(cell.image, i, j, cell.channel, s.oh,
										s.ow, s.c);
			float		d[V];

			Vector<T, V>::load(d, dy, from);
			for (int v = 0; v < V; v++)
				if (which[from + v] == place)
					sum[v] += d[v];
		}
	Vector<T, V>::store(dx, to, sum);
}

template <typename T, int V>
static __global__ void
upsample_add_kernel(T *y, const T *x, EngScaleShape s)
{
	Cell		cell = cell_of(s.n, s.h, s.w, s.c, V);
	float		sum[V];
	float		in[V];
	int64_t		to;

	if (!cell.inside)
		return;
	to = index_of(cell.image, cell.row, cell.column, cell.channel, s.h, s.w,
				  s.c);
	Vector<T, V>::load(sum, y, to);
	Vector<T, V>::load(in, x, index_of(cell.image, cell.row / 2,
									   cell.column / 2, cell.channel, s.oh,
									   s.ow, s.c));
	for (int v = 0; v < V; v++)
		sum[v] += in[v];
	Vector<T, V>::store(y, to, sum);
}

template <typename T, int V>
static __global__ void
upsample_backward_kernel(T *dx, const T *dy, EngScaleShape s, bool add)
{
	Cell		cell = cell_of(s.n, s.oh, s.ow, s.c, V);
	float		sum[V];
	int64_t		to;

	if (!cell.inside)
		return;
	to = index_of(cell.image, cell.row, cell.column, cell.channel, s.oh,
				  s.ow, s.c);
	for (int v = 0; v < V; v++)
		sum[v] = 0;
	if (add)
		Vector<T, V>::load(sum, dx, to);
	for (int k = 0; k < 4; k++)
	{
		float		d[V];

		Vector<T, V>::load(d, dy, index_of(cell.image, 2 * cell.row + k / 2,
										   2 * cell.column + k % 2,
										   cell.channel, s.h, s.w, s.c));
		for (int v = 0; v < V; v++)
			sum[v] += d[v];
	}
	Vector<T, V>::store(dx, to, sum);
}

template <typename T, int V>
static __global__ void
subsample_kernel(T *y, const T *x, EngScaleShape s)
{
	Cell		cell = cell_of(s.n, s.oh, s.ow, s.c, V);
	float		in[V];

	if (!cell.inside)
		return;
	Vector<T, V>::load(in, x, index_of(cell.image, 2 * cell.row,
									   2 * cell.column, cell.channel, s.h,
									   s.w, s.c));
	Vector<T, V>::store(y, index_of(cell.image, cell.row, cell.column,
									cell.channel, s.oh, s.ow, s.c), in);
}

template <typename T, int V>
static __global__ void
subsample_backward_kernel(T *dx, const T *dy, EngScaleShape s, bool add)
{
	Cell		cell = cell_of(s.n, s.h, s.w, s.c, V);
	float		sum[V];
	float		d[V];
	int64_t		to;

	if (!cell.inside)
		return;
	to = index_of(cell.image, cell.row, cell.column, cell.channel, s.h, s.w,
				  s.c);
	for (int v = 0; v < V; v++)
		sum[v] = d[v] = 0;
	if (add)
		Vector<T, V>::load(sum, dx, to);
	if (cell.row % 2 == 0 && cell.column % 2 == 0)
		Vector<T, V>::load(d, dy, index_of(cell.image, cell.row / 2,
										   cell.column / 2, cell.channel,
										   s.oh, s.ow, s.c));
	for (int v = 0; v < V; v++)
		sum[v] += d[v];
	Vector<T, V>::store(dx, to, sum);
}

/* One thread a vector of cells' channels. */
#define LAUNCH_MAP(kernel, type, cells, c, ...) \
	do \
	{ \
		int64_t		all = (int64_t) (cells); \
		if (all == 0) \
			return; \
		ENG_WITH_TYPE(type, \
					  if ((c) % V == 0) \
						  ENG_LAUNCH((kernel<T, V>), \
									 blocks_for(all * (c) / V, ENG_THREADS), \
									 ENG_THREADS, cuda, __VA_ARGS__); \
					  else \
						  ENG_LAUNCH((kernel<T, 1>), \
									 blocks_for(all * (c), ENG_THREADS), \
									 ENG_THREADS, cuda, __VA_ARGS__);); \
	} while (0)

static int64_t
cells(int32_t n, int32_t h, int32_t w)
{
	return (int64_t) n * h * w;
}

void
eng_cuda_maxpool_forward(EngCuda *cuda, void *y, uint8_t *which,
						 const void *x, const EngPoolShape *s)
{
	LAUNCH_MAP(maxpool_kernel, s->type, cells(s->n, s->oh, s->ow), s->c,
			   (T *) y, which, (const T *) x, *s);
}

void
eng_cuda_maxpool_backward(EngCuda *cuda, void *dx, const void *dy,
						  const uint8_t *which, const EngPoolShape *s,
						  bool add)
{
	LAUNCH_MAP(maxpool_backward_kernel, s->type, cells(s->n, s->h, s->w),
			   s->c, (T *) dx, (const T *) dy, which, *s, add);
}

void
eng_cuda_upsample_add(EngCuda *cuda, void *y, const void *x,
					  const EngScaleShape *s)
{
	LAUNCH_MAP(upsample_add_kernel, s->type, cells(s->n, s->h, s->w), s->c,
			   (T *) y, (const T *) x, *s);
}

void
eng_cuda_upsample_backward(EngCuda *cuda, void *dx, const void *dy,
						   const EngScaleShape *s, bool add)
{
	LAUNCH_MAP(upsample_backward_kernel, s->type,
			   cells(s->n, s->oh, s->ow), s->c, (T *) dx, (const T *) dy, *s,
			   add);
}

void
eng_cuda_subsample(EngCuda *cuda, void *y, const void *x,
				   const EngScaleShape *s)
{
	LAUNCH_MAP(subsample_kernel, s->type, cells(s->n, s->oh, s->ow), s->c,
			   (T *) y, (const T *) x, *s);
}

void
eng_cuda_subsample_backward(EngCuda *cuda, void *dx, const void *dy,
							const EngScaleShape *s, bool add)
{
	LAUNCH_MAP(subsample_backward_kernel, s->type, cells(s->n, s->h, s->w),
			   s->c, (T *) dx, (const T *) dy, *s, add);
}

/* ---- weights with a norm multiplied in --------------------------------------- */

static __device__ __forceinline__ float
fold_scale(const EngFold &f, int32_t o)
{
	return (float) (f.norm_weight[o] / sqrt((double) f.var[o] + f.eps));
}

static __global__ void
fold_weight(EngFold f)
{
	int64_t		i = (int64_t) blockIdx.x * blockDim.x + threadIdx.x;

	if (i < f.size * f.oc)
		f.weight[i] = f.from[i] * fold_scale(f, (int32_t) (i / f.size));
}

static __global__ void
fold_bias(EngFold f)
{
	int32_t		o = blockIdx.x * blockDim.x + threadIdx.x;
	float		scale;

	if (o >= f.oc)
		return;
	scale = fold_scale(f, o);
	f.bias[o] = f.norm_bias[o] - f.mean[o] * scale +
		(f.from_bias != NULL ? f.from_bias[o] * scale : 0);
}

void
eng_cuda_fold(EngCuda *cuda, const EngFold *fold)
{
	ENG_LAUNCH(fold_weight, blocks_for(fold->size * fold->oc, ENG_THREADS),
			   ENG_THREADS, cuda, *fold);
	ENG_LAUNCH(fold_bias, blocks_for(fold->oc, ENG_THREADS), ENG_THREADS,
			   cuda, *fold);
}
