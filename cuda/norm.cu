/*
 * cuda/norm.cu
 *		Batch norm with the sum and the ReLU behind it, and its way back.
 *
 * A block takes a span of rows and up to ENG_THREADS vectors of channels; a
 * thread keeps its channels and steps over rows, so that what belongs to a
 * channel stays in registers.  Sums are made in two stages of fixed shape:
 * a pair of floats a span and channel, about the value of the first row,
 * which keeps small variances from drowning in large means; then doubles
 * over the spans.
 */
#include "cuda/kernel.h"

#define MOST_SPANS		1024
#define SPAN_ROWS		64		/* rows of a span at least, times the rows
								 * that a block takes at once */
#define FINISH_LANES	32		/* threads that add up one channel */
#define FINISH_CHANNELS	8		/* channels of a finishing block */

/* How a block's threads share out rows and vectors of channels. */
struct Spread
{
	int32_t		vectors;		/* of a row */
	int32_t		lanes;			/* of them in a block */
	int32_t		height;			/* rows that a block takes at once */
	int32_t		spans;
	int64_t		span;			/* rows */
};

static Spread
spread_of(int64_t rows, int32_t channels, int v)
{
	Spread		s;
	int64_t		least;

	s.vectors = channels / v;
	s.lanes = s.vectors < ENG_THREADS ? s.vectors : ENG_THREADS;
	s.height = ENG_THREADS / s.lanes;
	least = (int64_t) s.height * SPAN_ROWS;
	s.span = (rows + MOST_SPANS - 1) / MOST_SPANS;
	if (s.span < least)
		s.span = least;
	s.spans = (int32_t) ((rows + s.span - 1) / s.span);
	if (s.spans < 1)
		s.spans = 1;
	return s;
}

static dim3
blocks_of(const Spread *s)
{
	return dim3((unsigned) s->spans, blocks_for(s->vectors, s->lanes));
}

/* A vector that one thread works on, and its rows. */
struct Place
{
	bool		mine;
	int32_t		channel;		/* first */
	int32_t		y;
	int64_t		first;
	int64_t		last;
};

static __device__ __forceinline__ Place
place_of(const Spread &s, int64_t rows, int v)
{
	Place		p;
	int32_t		vector = blockIdx.y * s.lanes + threadIdx.x % s.lanes;

	p.y = threadIdx.x / s.lanes;
	p.mine = p.y < s.height && vector < s.vectors;
	p.channel = vector * v;
	p.first = blockIdx.x * s.span;
	p.last = p.first + s.span < rows ? p.first + s.span : rows;
	return p;
}

static __device__ __forceinline__ int64_t
live_rows(const EngNormArgs &a)
{
	return a.live_entries != NULL ?
		(int64_t) *a.live_entries * a.entry_rows : a.live;
}

/*
 * Add up a block's pairs over its rows, thread by thread, and store them:
 * partial (spans, 2, channels).
 */
template <int V>
static __device__ void
store_partial(float *partial, const Spread &s, const Place &p,
			  int32_t channels, const float sum[V], const float moment[V])
{
	__shared__ float shared[2][ENG_THREADS];

#pragma unroll
	for (int v = 0; v < V; v++)
	{
		shared[0][threadIdx.x] = sum[v];
		shared[1][threadIdx.x] = moment[v];
		__syncthreads();
		if (p.mine && p.y == 0)
		{
			float		a = 0;
			float		b = 0;
			float	   *to = partial + (int64_t) blockIdx.x * 2 * channels +
				p.channel + v;

			for (int y = 0; y < s.height; y++)
			{
				a += shared[0][y * s.lanes + threadIdx.x];
				b += shared[1][y * s.lanes + threadIdx.x];
			}
			to[0] = a;
			to[channels] = b;
		}
		__syncthreads();
	}
}

template <typename T, int V>
static __global__ void
statistics_kernel(EngNormArgs a, Spread s, float *partial)
{
	Place		p = place_of(s, live_rows(a), V);
	const T    *x = (const T *) a.x;
	float		pivot[V];
	float		sum[V];
	float		square[V];

	for (int v = 0; v < V; v++)
		sum[v] = square[v] = 0;
	if (p.mine && p.first + p.y < p.last)
	{
		Vector<T, V>::load(pivot, x, p.channel);
		for (int64_t r = p.first + p.y; r < p.last; r += s.height)
		{
			float		in[V];

			Vector<T, V>::load(in, x, r * a.channels + p.channel);
			for (int v = 0; v < V; v++)
			{
				float		d = in[v] - pivot[v];

				sum[v] += d;
				square[v] += d * d;
			}
		}
	}
	store_partial<V>(partial, s, p, a.channels, sum, square);
}

/*
 * The two sums of a channel over all spans; every thread of the channel's
 * lanes gets them.
 */
static __device__ void
finish_sums(double out[2], const float *partial, int32_t spans,
			int32_t channels, int32_t channel, bool mine)
{
	__shared__ double shared[2][FINISH_CHANNELS][FINISH_LANES];
	int			lane = threadIdx.x % FINISH_LANES;
	int			row = threadIdx.x / FINISH_LANES;
	double		sum[2] = {0, 0};

	for (int32_t i = lane; mine && i < spans; i += FINISH_LANES)
		for (int k = 0; k < 2; k++)
			sum[k] += partial[((int64_t) i * 2 + k) * channels + channel];
	for (int k = 0; k < 2; k++)
		shared[k][row][lane] = sum[k];
	__syncthreads();
	for (int k = 0; k < 2; k++)
	{
		out[k] = 0;
		for (int i = 0; i < FINISH_LANES; i++)
			out[k] += shared[k][row][i];
	}
}

/* Mean, deviation and running statistics of a channel; var is biased. */
static __device__ void
set_statistics(const EngNormArgs &a, int32_t c, double mean, double var,
			   double rows)
{
	a.mean[c] = (float) mean;
	a.rstd[c] = (float) (1 / sqrt(var + a.eps));
	if (rows > 1)
		var *= rows / (rows - 1);
	a.running_mean[c] = (float) (a.running_mean[c] +
								 a.momentum * (mean - a.running_mean[c]));
	a.running_var[c] = (float) (a.running_var[c] +
								a.momentum * (var - a.running_var[c]));
}

/*
 * shared NULL: the statistics; else what ranks sum for them, (2, channels) of
 * x and its squares, and the rows.
 */
template <typename T>
static __global__ void
finish_statistics(EngNormArgs a, int32_t spans, const float *partial,
				  double *shared)
{
	int32_t		c = blockIdx.x * FINISH_CHANNELS + threadIdx.x / FINISH_LANES;
	bool		mine = c < a.channels;
	int64_t		live = live_rows(a);
	double		sums[2];
	double		pivot;
	double		mean;
	double		var;

	finish_sums(sums, partial, spans, a.channels, c, mine);
	if (!mine || threadIdx.x % FINISH_LANES != 0)
		return;
	pivot = live > 0 ? (double) get((const T *) a.x, c) : 0;
	if (shared != NULL)
	{
		shared[c] = sums[0] + live * pivot;
		shared[a.channels + c] = sums[1] + 2 * pivot * sums[0] +
			live * pivot * pivot;
		if (c == 0)
			shared[2 * a.channels] = (double) live;
		return;
	}
	if (live == 0)
	{
		a.mean[c] = a.rstd[c] = 0;
		return;
	}
	mean = sums[0] / live;
	var = sums[1] / live - mean * mean;
	var = var < 0 ? 0 : var;	/* but what is not a number stays so */
	set_statistics(a, c, mean + pivot, var, (double) live);
}

/* The statistics from the sums of all ranks. */
static __global__ void
shared_statistics(EngNormArgs a, const double *shared)
{
	int32_t		c = blockIdx.x * blockDim.x + threadIdx.x;
	double		rows = shared[2 * a.channels];
	double		mean;
	double		var;

	if (c >= a.channels)
		return;
	if (rows == 0)
	{
		a.mean[c] = a.rstd[c] = 0;
		return;
	}
	mean = shared[c] / rows;
	var = shared[a.channels + c] / rows - mean * mean;
	set_statistics(a, c, mean, var < 0 ? 0 : var, rows);
}

static __global__ void
take_running(EngNormArgs a)
{
	int32_t		c = blockIdx.x * blockDim.x + threadIdx.x;

	if (c >= a.channels)
		return;
	a.mean[c] = a.running_mean[c];
	a.rstd[c] = (float) (1 / sqrt((double) a.running_var[c] + a.eps));
}

/* What a channel multiplies and adds: y = (x - mean) * scale + bias. */
template <int V>
struct Affine
{
	float		mean[V];
	float		scale[V];
	float		bias[V];
};

template <int V>
static __device__ __forceinline__ void
load_affine(Affine<V> *f, const EngNormArgs &a, int32_t channel)
{
	for (int v = 0; v < V; v++)
	{
		f->mean[v] = a.mean[channel + v];
		f->scale[v] = a.rstd[channel + v] * a.weight[channel + v];
		f->bias[v] = a.bias[channel + v];
	}
}

template <typename T, int V>
static __global__ void
forward_kernel(EngNormArgs a, Spread s)
{
	Place		p = place_of(s, a.rows, V);
	int64_t		live = live_rows(a);
	Affine<V>	f;

	if (!p.mine)
		return;
	load_affine(&f, a, p.channel);
	for (int64_t r = p.first + p.y; r < p.last; r += s.height)
	{
		int64_t		i = r * a.channels + p.channel;
		float		x[V];
		float		add[V];

		Vector<T, V>::load(x, (const T *) a.x, i);
		if (a.add != NULL)
			Vector<T, V>::load(add, (const T *) a.add, i);
		for (int v = 0; v < V; v++)
		{
			x[v] = fmaf(x[v] - f.mean[v], f.scale[v], f.bias[v]);
			if (a.add != NULL)
				x[v] += add[v];
			if (a.relu)
				x[v] = relu(x[v]);
			if (r >= live)
				x[v] = 0;
		}
		Vector<T, V>::store((T *) a.y, i, x);
	}
}

/*
 * The gradient behind the ReLU of one vector, and the input without its
 * mean.  Where nothing asks for the input, it has not been kept.
 */
template <typename T, int V>
static __device__ __forceinline__ void
load_gradient(float d[V], float x[V], const EngNormArgs &a,
			  const Affine<V> &f, int64_t i, bool with_x, bool alive)
{
	float		y[V];

	Vector<T, V>::load(d, (const T *) a.dy, i);
	if (with_x)
		Vector<T, V>::load(x, (const T *) a.x, i);
	if (a.relu && a.y != NULL)
		Vector<T, V>::load(y, (const T *) a.y, i);
	for (int v = 0; v < V; v++)
	{
		x[v] = with_x ? x[v] - f.mean[v] : 0;
		if (a.relu && a.y == NULL)
			y[v] = fmaf(x[v], f.scale[v], f.bias[v]);
		if (!alive || (a.relu && !(y[v] > 0)))
			d[v] = 0;
	}
}

template <typename T, int V>
static __global__ void
gradient_sums(EngNormArgs a, Spread s, float *partial)
{
	int64_t		live = live_rows(a);
	Place		p = place_of(s, live, V);
	float		sum[V];
	float		moment[V];

	for (int v = 0; v < V; v++)
		sum[v] = moment[v] = 0;
	if (p.mine)
	{
		Affine<V>	f;

		load_affine(&f, a, p.channel);
		for (int64_t r = p.first + p.y; r < p.last; r += s.height)
		{
			float		d[V];
			float		x[V];

			load_gradient<T, V>(d, x, a, f, r * a.channels + p.channel, true,
								true);
			for (int v = 0; v < V; v++)
			{
				sum[v] += d[v];
				moment[v] += d[v] * x[v];
			}
		}
	}
	store_partial<V>(partial, s, p, a.channels, sum, moment);
}

/*
 * mean (2, channels): the sums of gradients divided by the live rows, the
 * second of x without its mean, not yet divided by the deviation
 */
static __device__ void
set_mean(float *mean, const EngNormArgs &a, int32_t c, double sum,
		 double moment, double rows)
{
	mean[c] = rows > 0 ? (float) (sum / rows) : 0;
	mean[a.channels + c] = rows > 0 ?
		(float) (moment * a.rstd[c] / rows) : 0;
}

/*
 * The gradients of weight and bias, and the means; shared: what ranks sum for
 * these instead, as in finish_statistics.
 */
static __global__ void
finish_gradients(EngNormArgs a, int32_t spans, const float *partial,
				 float *mean, double *shared)
{
	int32_t		c = blockIdx.x * FINISH_CHANNELS + threadIdx.x / FINISH_LANES;
	bool		mine = c < a.channels;
	int64_t		live = live_rows(a);
	double		sums[2];

	finish_sums(sums, partial, spans, a.channels, c, mine);
	if (!mine || threadIdx.x % FINISH_LANES != 0)
		return;
	sums[1] *= a.rstd[c];
	if (a.dweight != NULL)
		a.dweight[c] = (float) (a.dweight[c] + sums[1]);
	if (a.dbias != NULL)
		a.dbias[c] = (float) (a.dbias[c] + sums[0]);
	if (shared == NULL)
	{
		set_mean(mean, a, c, sums[0], sums[1], (double) live);
		return;
	}
	shared[c] = sums[0];
	shared[a.channels + c] = sums[1];
	if (c == 0)
		shared[2 * a.channels] = (double) live;
}

static __global__ void
shared_gradients(EngNormArgs a, const double *shared, float *mean)
{
	int32_t		c = blockIdx.x * blockDim.x + threadIdx.x;

	if (c < a.channels)
		set_mean(mean, a, c, shared[c], shared[a.channels + c],
				 shared[2 * a.channels]);
}

template <typename T, int V>
static __device__ __forceinline__ void
store_sum(T *to, int64_t i, const float d[V], bool add)
{
	float		sum[V];

	for (int v = 0; v < V; v++)
		sum[v] = 0;
	if (add)
		Vector<T, V>::load(sum, to, i);
	for (int v = 0; v < V; v++)
		sum[v] += d[v];
	Vector<T, V>::store(to, i, sum);
}

/*
 * keep_hidden: what comes after reads dy as the sum's gradient, so what the
 * ReLU hid is cleared there.
 */
template <typename T, int V>
static __global__ void
backward_kernel(EngNormArgs a, Spread s, const float *mean, bool keep_hidden)
{
	Place		p = place_of(s, a.rows, V);
	int64_t		live = live_rows(a);
	Affine<V>	f;
	float		mean_d[V];
	float		mean_dx[V];
	bool		with_x = a.batch || (a.relu && a.y == NULL);

	if (!p.mine)
		return;
	load_affine(&f, a, p.channel);
	for (int v = 0; v < V; v++)
	{
		mean_d[v] = a.batch ? mean[p.channel + v] : 0;
		mean_dx[v] = a.batch ? mean[a.channels + p.channel + v] : 0;
	}
	for (int64_t r = p.first + p.y; r < p.last; r += s.height)
	{
		int64_t		i = r * a.channels + p.channel;
		float		d[V];
		float		x[V];

		load_gradient<T, V>(d, x, a, f, i, with_x, r < live);
		if (keep_hidden)
			Vector<T, V>::store((T *) a.dy, i, d);
		if (a.dadd != NULL)
			store_sum<T, V>((T *) a.dadd, i, d, a.dadd_add);
		if (a.dx == NULL)
			continue;
		for (int v = 0; v < V; v++)
		{
			if (r < live)
				d[v] -= mean_d[v] + x[v] * mean_dx[v];
			d[v] *= f.scale[v];
		}
		store_sum<T, V>((T *) a.dx, i, d, a.dx_add);
	}
}

size_t
eng_cuda_norm_workspace(int64_t rows, int32_t channels)
{
	Spread		s = spread_of(rows, channels, 1);
	int32_t		spans = s.spans;

	for (int v = 4; v <= 8; v *= 2)
		if (channels % v == 0)
		{
			s = spread_of(rows, channels, v);
			spans = s.spans > spans ? s.spans : spans;
		}
	/* doubles may lie behind */
	return (((size_t) spans * 2 + 2) * channels * sizeof(float) + 7) / 8 * 8;
}

size_t
eng_cuda_norm_shared(int32_t channels)
{
	return (2 * (size_t) channels + 1) * sizeof(double);
}

/* Behind the partial sums and their means. */
static double *
shared_of(const EngCuda *cuda, const EngNormArgs *a)
{
	return cuda->ranks == NULL ? NULL :
		(double *) ((char *) a->workspace +
					eng_cuda_norm_workspace(a->rows, a->channels));
}

static void
sum_over_ranks(EngCuda *cuda, const EngNormArgs *a, double *shared)
{
	eng_cuda_all_reduce(cuda, shared, 2 * (int64_t) a->channels + 1,
						ENG_SUM_F64);
}

template <typename T, int V>
static void
forward(EngCuda *cuda, const EngNormArgs *a)
{
	Spread		s = spread_of(a->rows, a->channels, V);
	float	   *partial = (float *) a->workspace;
	double	   *shared = shared_of(cuda, a);

	if (a->batch && !a->again)
	{
		ENG_LAUNCH_MEETING((statistics_kernel<T, V>), blocks_of(&s),
						   ENG_THREADS, cuda, *a, s, partial);
		ENG_LAUNCH_MEETING((finish_statistics<T>),
						   blocks_for(a->channels, FINISH_CHANNELS),
						   FINISH_LANES * FINISH_CHANNELS, cuda, *a, s.spans,
						   partial, shared);
		if (shared != NULL)
		{
			sum_over_ranks(cuda, a, shared);
			ENG_LAUNCH(shared_statistics,
					   blocks_for(a->channels, ENG_THREADS), ENG_THREADS,
					   cuda, *a, shared);
		}
	}
	else if (!a->again)
		ENG_LAUNCH(take_running, blocks_for(a->channels, ENG_THREADS),
				   ENG_THREADS, cuda, *a);
	ENG_LAUNCH((forward_kernel<T, V>), blocks_of(&s), ENG_THREADS, cuda, *a,
			   s);
}

template <typename T, int V>
static void
backward(EngCuda *cuda, const EngNormArgs *a)
{
	Spread		s = spread_of(a->rows, a->channels, V);
	float	   *partial = (float *) a->workspace;
	float	   *mean = partial + (int64_t) s.spans * 2 * a->channels;
	double	   *shared = a->batch && a->dx != NULL ? shared_of(cuda, a) : NULL;

	if (a->batch || a->dweight != NULL || a->dbias != NULL)
	{
		ENG_LAUNCH_MEETING((gradient_sums<T, V>), blocks_of(&s), ENG_THREADS,
						   cuda, *a, s, partial);
		ENG_LAUNCH_MEETING(finish_gradients,
						   blocks_for(a->channels, FINISH_CHANNELS),
						   FINISH_LANES * FINISH_CHANNELS, cuda, *a, s.spans,
						   partial, mean, shared);
	}
	if (shared != NULL)
	{
		sum_over_ranks(cuda, a, shared);
		ENG_LAUNCH(shared_gradients, blocks_for(a->channels, ENG_THREADS),
				   ENG_THREADS, cuda, *a, shared, mean);
	}
	ENG_LAUNCH((backward_kernel<T, V>), blocks_of(&s), ENG_THREADS, cuda, *a,
			   s, mean, a->relu && a->add != NULL && a->dx != a->dy);
}

void
eng_cuda_norm_forward(EngCuda *cuda, const EngNormArgs *args)
{
	/* a rank without rows takes part in the sums */
	if (args->rows == 0 && cuda->ranks == NULL)
		return;
	ENG_WITH_TYPE(args->type,
				  if (args->channels % V == 0)
					  forward<T, V>(cuda, args);
				  else
					  forward<T, 1>(cuda, args););
}

void
eng_cuda_norm_backward(EngCuda *cuda, const EngNormArgs *args)
{
	/* a rank without rows takes part in the sums */
	if (args->rows == 0 && cuda->ranks == NULL)
		return;
	ENG_WITH_TYPE(args->type,
				  if (args->channels % V == 0)
					  backward<T, V>(cuda, args);
				  else
					  backward<T, 1>(cuda, args););
}

/* ---- sums of columns ------------------------------------------------------ */

template <typename T, int V>
static __global__ void
column_kernel(const T *x, int64_t rows, int32_t channels, Spread s,
			  float *partial)
{
	Place		p = place_of(s, rows, V);
	float		sum[V];
	float		none[V];

	for (int v = 0; v < V; v++)
		sum[v] = none[v] = 0;
	for (int64_t r = p.first + p.y; p.mine && r < p.last; r += s.height)
	{
		float		in[V];

		Vector<T, V>::load(in, x, r * channels + p.channel);
		for (int v = 0; v < V; v++)
			sum[v] += in[v];
	}
	store_partial<V>(partial, s, p, channels, sum, none);
}

static __global__ void
finish_columns(float *sum, int32_t channels, int32_t spans,
			   const float *partial)
{
	int32_t		c = blockIdx.x * FINISH_CHANNELS + threadIdx.x / FINISH_LANES;
	bool		mine = c < channels;
	double		sums[2];

	finish_sums(sums, partial, spans, channels, c, mine);
	if (mine && threadIdx.x % FINISH_LANES == 0)
		sum[c] = (float) (sum[c] + sums[0]);
}

template <typename T, int V>
static void
column_sums(EngCuda *cuda, float *sum, const void *x, int64_t rows,
			int32_t channels, void *workspace)
{
	Spread		s = spread_of(rows, channels, V);

	ENG_LAUNCH_MEETING((column_kernel<T, V>), blocks_of(&s), ENG_THREADS,
					   cuda, (const T *) x, rows, channels, s,
					   (float *) workspace);
	ENG_LAUNCH_MEETING(finish_columns, blocks_for(channels, FINISH_CHANNELS),
					   FINISH_LANES * FINISH_CHANNELS, cuda, sum, channels,
					   s.spans, (const float *) workspace);
}

void
eng_cuda_column_sums(EngCuda *cuda, float *sum, const void *x, EngType type,
					 int64_t rows, int32_t channels, void *workspace)
{
	ENG_WITH_TYPE(type,
				  if (channels % V == 0)
					  column_sums<T, V>(cuda, sum, x, rows, channels,
										workspace);
				  else
					  column_sums<T, 1>(cuda, sum, x, rows, channels,
										workspace););
}
