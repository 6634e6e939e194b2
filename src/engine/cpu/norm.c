/*
 * engine/cpu/norm.c
 *		Batch norm with the sum and the ReLU behind it, in two passes each way.
 *
 * Rows are cut into pieces of fixed size.  A piece's sums are in float and
 * relative to the mean of some rows, the total is in double and in order:
 * results do not depend on the number of threads, and means cost no digits.
 *
 * Each loop is written once, for elements of `type`, and compiled for both
 * types: in the functions that its ..._typed one is inlined into.
 *
 * Memory bounds all of it.  Without a sum before the ReLU, the way back finds
 * what the ReLU hid from x, which it reads anyway, and leaves dy alone.
 */
#include <math.h>
#include <string.h>

#include "engine/core/arena.h"
#include "engine/core/clones.h"
#include "engine/cpu/cpu.h"
#include "engine/cpu/stream.h"

#define PIECE_ROWS	256
#define BLOCK		64			/* channels worked on at a time */
#define SAMPLE_ROWS	256			/* rows whose mean is about that of all */
#define STAGE		4096		/* channels of a row that is streamed, at most */

static int64_t
piece_count(int64_t rows)
{
	return (rows + PIECE_ROWS - 1) / PIECE_ROWS;
}

/* Two sums a channel and piece, then at most five numbers a channel. */
size_t
eng_cpu_norm_workspace(const EngBackend *backend, int64_t rows,
					   int32_t channels)
{
	return eng_align(sizeof(float) * channels *
					 (2 * piece_count(rows) + 5));
}

ENG_INLINE void
sample_mean_typed(float *origin, const EngNormArgs *a, EngType type)
{
	int64_t		step = (a->live + SAMPLE_ROWS - 1) / SAMPLE_ROWS;
	float		factor = 1.0f / (float) ((a->live + step - 1) / step);
	int64_t		r;
	int32_t		c;

	memset(origin, 0, sizeof(float) * a->channels);
	for (r = 0; r < a->live; r += step)
	{
		const void *x = eng_at(a->x, type, r * a->channels);

#pragma omp simd
		for (c = 0; c < a->channels; c++)
			origin[c] += eng_load(x, type, c);
	}
	for (c = 0; c < a->channels; c++)
		origin[c] *= factor;
}

/*
 * Something near the mean of each channel: sums relative to it are as exact
 * as the variance allows.  One row would not do, it may lie far outside.
 */
ENG_CLONES static void
sample_mean_f32(float *origin, const EngNormArgs *a)
{
	sample_mean_typed(origin, a, ENG_F32);
}

ENG_FOR_BF16 static void
sample_mean_bf16(float *origin, const EngNormArgs *a)
{
	sample_mean_typed(origin, a, ENG_BF16);
}

static void
sample_mean(float *origin, const EngNormArgs *a)
{
	if (a->type == ENG_BF16)
		sample_mean_bf16(origin, a);
	else
		sample_mean_f32(origin, a);
}

ENG_INLINE void
forward_sums_typed(float *sums, const EngNormArgs *a, const float *origin,
				   const int64_t rows[2], EngType type)
{
	int32_t		channels = a->channels;
	int32_t		first;

	for (first = 0; first < channels; first += BLOCK)
	{
		int32_t		count = channels - first < BLOCK ? channels - first : BLOCK;
		float		sum[BLOCK] = {0};
		float		square[BLOCK] = {0};
		float		centre[BLOCK];
		int64_t		r;
		int32_t		c;

		memcpy(centre, origin + first, sizeof(float) * count);
		for (r = rows[0]; r < rows[1]; r++)
		{
			const void *x = eng_at(a->x, type, r * channels + first);

#pragma omp simd
			for (c = 0; c < count; c++)
			{
				float		d = eng_load(x, type, c) - centre[c];

				sum[c] += d;
				square[c] += d * d;
			}
		}
		memcpy(sums + first, sum, sizeof(float) * count);
		memcpy(sums + channels + first, square, sizeof(float) * count);
	}
}

/*
 * sums[0, c] = sum of x - origin, sums[1, c] = sum of its square, over rows
 * from rows[0] to before rows[1].
 */
ENG_CLONES static void
forward_sums_f32(float *sums, const EngNormArgs *a, const float *origin,
				 const int64_t rows[2])
{
	forward_sums_typed(sums, a, origin, rows, ENG_F32);
}

ENG_FOR_BF16 static void
forward_sums_bf16(float *sums, const EngNormArgs *a, const float *origin,
				  const int64_t rows[2])
{
	forward_sums_typed(sums, a, origin, rows, ENG_BF16);
}

static void
forward_sums(float *sums, const EngNormArgs *a, const float *origin,
			 const int64_t rows[2])
{
	if (a->type == ENG_BF16)
		forward_sums_bf16(sums, a, origin, rows);
	else
		forward_sums_f32(sums, a, origin, rows);
}

/*
 * The totals of both sums of all pieces, for count channels from first: row
 * by row, as they lie.
 */
static void
total_sums(double sum[BLOCK], double other[BLOCK], const EngNormArgs *a,
		   const float *sums, int32_t first, int32_t count)
{
	int64_t		p;
	int32_t		c;

	for (c = 0; c < count; c++)
		sum[c] = other[c] = 0;
	for (p = 0; p < piece_count(a->live); p++, sums += 2 * a->channels)
		for (c = 0; c < count; c++)
		{
			sum[c] += sums[first + c];
			other[c] += sums[a->channels + first + c];
		}
}

/*
 * Mean and variance of channel c from the totals.
 */
static void
finish_statistics(const EngNormArgs *a, double sum, double square,
				  float origin, int32_t c)
{
	double		mean;
	double		var;

	sum /= a->live;
	mean = origin + sum;
	var = square / a->live - sum * sum;
	if (var < 0)
		var = 0;
	a->mean[c] = (float) mean;
	a->rstd[c] = (float) (1 / sqrt(var + a->eps));
	if (a->live > 1)
		var *= (double) a->live / (a->live - 1);
	a->running_mean[c] = (float) (a->running_mean[c] +
								  a->momentum * (mean - a->running_mean[c]));
	a->running_var[c] = (float) (a->running_var[c] +
								 a->momentum * (var - a->running_var[c]));
}

static void
set_statistics(const EngNormArgs *a)
{
	float	   *sums = a->workspace;
	int64_t		pieces = piece_count(a->live);
	float	   *origin = sums + 2 * pieces * a->channels;
	int32_t		block;
	int64_t		p;
	int32_t		c;

	if (a->again)
		return;
	if (!a->batch || a->live == 0)
	{
		for (c = 0; c < a->channels; c++)
		{
			a->mean[c] = a->batch ? 0 : a->running_mean[c];
			a->rstd[c] = a->batch ? 0 :
				(float) (1 / sqrt((double) a->running_var[c] + a->eps));
		}
		return;
	}
	sample_mean(origin, a);
#pragma omp parallel for schedule(static)
	for (p = 0; p < pieces; p++)
	{
		int64_t		rows[2] = {p * PIECE_ROWS, (p + 1) * PIECE_ROWS};

		if (rows[1] > a->live)
			rows[1] = a->live;
		forward_sums(sums + 2 * p * a->channels, a, origin, rows);
	}
#pragma omp parallel for schedule(static)
	for (block = 0; block < a->channels; block += BLOCK)
	{
		int32_t		count = a->channels - block < BLOCK ?
			a->channels - block : BLOCK;
		double		sum[BLOCK];
		double		square[BLOCK];
		int32_t		i;

		total_sums(sum, square, a, sums, block, count);
		for (i = 0; i < count; i++)
			finish_statistics(a, sum[i], square[i], origin[block + i],
							  block + i);
	}
}

ENG_INLINE void
apply_row_typed(const EngNormArgs *a, void *y, int64_t row,
				const float *scale, const float *shift, EngType type)
{
	int32_t		channels = a->channels;
	const void *x = eng_at(a->x, type, row * channels);
	int32_t		c;

	if (a->add != NULL)
	{
		const void *add = eng_at(a->add, type, row * channels);

#pragma omp simd
		for (c = 0; c < channels; c++)
		{
			float		value = eng_load(x, type, c) * scale[c] + shift[c] +
				eng_load(add, type, c);

			eng_store(y, type, c, a->relu && value < 0 ? 0 : value);
		}
	}
	else if (a->relu)
#pragma omp simd
		for (c = 0; c < channels; c++)
		{
			float		value = eng_load(x, type, c) * scale[c] + shift[c];

			eng_store(y, type, c, value < 0 ? 0 : value);
		}
	else
#pragma omp simd
		for (c = 0; c < channels; c++)
			eng_store(y, type, c, eng_load(x, type, c) * scale[c] + shift[c]);
}

ENG_INLINE void
apply_rows_typed(const EngNormArgs *a, const float *scale,
				 const float *shift, int64_t first, int64_t rows,
				 EngType type)
{
	float		stage[STAGE] __attribute__((aligned(64)));
	size_t		row = eng_type_size(type) * a->channels;
	bool		streamed = a->channels <= STAGE &&
		eng_streams(a->y, row, a->rows);
	int64_t		r;

	for (r = first; r < first + rows; r++)
	{
		void	   *y = eng_at(a->y, type, r * a->channels);

		apply_row_typed(a, streamed ? stage : y, r, scale, shift, type);
		if (streamed)
			eng_stream(y, stage, row);
	}
	if (streamed)
		eng_stream_end();
}

/*
 * y = [relu] (x * scale + shift [+ add]) on some rows.
 */
ENG_CLONES static void
apply_rows_f32(const EngNormArgs *a, const float *scale, const float *shift,
			   int64_t first, int64_t rows)
{
	apply_rows_typed(a, scale, shift, first, rows, ENG_F32);
}

ENG_FOR_BF16 static void
apply_rows_bf16(const EngNormArgs *a, const float *scale, const float *shift,
				int64_t first, int64_t rows)
{
	apply_rows_typed(a, scale, shift, first, rows, ENG_BF16);
}

static void
apply_rows(const EngNormArgs *a, const float *scale, const float *shift,
		   int64_t first, int64_t rows)
{
	if (a->type == ENG_BF16)
		apply_rows_bf16(a, scale, shift, first, rows);
	else
		apply_rows_f32(a, scale, shift, first, rows);
}

/*
 * Rows behind the live ones are zero.
 */
static void
clear_rest(void *x, const EngNormArgs *a)
{
	if (a->rows > a->live)
		memset(eng_at(x, a->type, a->live * a->channels), 0,
			   eng_type_size(a->type) * (a->rows - a->live) * a->channels);
}

/*
 * y = relu(x * scale + shift + add).
 */
static void
set_affine(const EngNormArgs *a, float *scale, float *shift)
{
	int32_t		c;

	for (c = 0; c < a->channels; c++)
	{
		scale[c] = a->rstd[c] * a->weight[c];
		shift[c] = a->bias[c] - a->mean[c] * scale[c];
	}
}

void
eng_cpu_norm_forward(EngBackend *backend, const EngNormArgs *a)
{
	float	   *scale = (float *) a->workspace +
		2 * piece_count(a->rows) * a->channels;
	float	   *shift = scale + a->channels;
	int64_t		p;

	set_statistics(a);
	set_affine(a, scale, shift);
#pragma omp parallel for schedule(static)
	for (p = 0; p < piece_count(a->live); p++)
		apply_rows(a, scale, shift, p * PIECE_ROWS,
				   a->live - p * PIECE_ROWS < PIECE_ROWS ?
				   a->live - p * PIECE_ROWS : PIECE_ROWS);
	clear_rest(a->y, a);
}

/* What the way back multiplies with; arrays of one element a channel. */
typedef struct Coefficients
{
	float	   *dy;				/* dx = dy * this + x * x + one */
	float	   *x;
	float	   *one;
	float	   *scale;			/* of the way forward */
	float	   *shift;
} Coefficients;

/* Whether the ReLU's mask comes from x: y is not there. */
static inline bool
masks_by_x(const EngNormArgs *a)
{
	return a->relu && a->y == NULL;
}

/*
 * dy = 0 where the ReLU gave 0; pass dy on to the added tensor; for count
 * elements from the i-th.
 */
ENG_INLINE void
hide_and_pass(const EngNormArgs *a, int64_t i, int64_t count, EngType type)
{
	void	   *dy = eng_at(a->dy, type, i);
	void	   *dadd = a->dadd == NULL ? NULL : eng_at(a->dadd, type, i);
	int64_t		c;

	if (a->relu)
	{
		const void *y = eng_at(a->y, type, i);

#pragma omp simd
		for (c = 0; c < count; c++)
			eng_store(dy, type, c, eng_load(y, type, c) > 0 ?
					  eng_load(dy, type, c) : 0);
	}
	if (dadd != NULL && a->dadd_add)
#pragma omp simd
		for (c = 0; c < count; c++)
			eng_store(dadd, type, c, eng_load(dadd, type, c) +
					  eng_load(dy, type, c));
	else if (dadd != NULL)
		memcpy(dadd, dy, eng_type_size(type) * count);
}

/*
 * dy at c, hidden where the ReLU gave 0: the expression of apply_rows.
 */
ENG_INLINE float
masked(const void *dy, const void *x, EngType type, int32_t c,
	   const float *scale, const float *shift)
{
	float		d = eng_load(dy, type, c);

	return eng_load(x, type, c) * scale[c] + shift[c] > 0 ? d : 0;
}

ENG_INLINE void
backward_sums_typed(const EngNormArgs *a, const Coefficients *k, float *sums,
					int64_t first, int64_t rows, EngType type)
{
	bool		by_x = masks_by_x(a);
	int32_t		channels = a->channels;
	int32_t		block;

	for (block = 0; block < channels; block += BLOCK)
	{
		int32_t		count = channels - block < BLOCK ? channels - block : BLOCK;
		const float *mean = a->mean + block;
		const float *scale = k->scale + block;
		const float *shift = k->shift + block;
		float		sum[BLOCK] = {0};
		float		moment[BLOCK] = {0};
		int64_t		i = first * channels + block;
		int64_t		r;
		int32_t		c;

		for (r = 0; r < rows; r++, i += channels)
		{
			const void *dy = eng_at(a->dy, type, i);
			const void *x = eng_at(a->x, type, i);

			if (by_x)
			{
#pragma omp simd
				for (c = 0; c < count; c++)
				{
					float		d = masked(dy, x, type, c, scale, shift);

					sum[c] += d;
					moment[c] += d * (eng_load(x, type, c) - mean[c]);
				}
				continue;
			}
			hide_and_pass(a, i, count, type);
#pragma omp simd
			for (c = 0; c < count; c++)
			{
				float		d = eng_load(dy, type, c);

				sum[c] += d;
				moment[c] += d * (eng_load(x, type, c) - mean[c]);
			}
		}
		for (c = 0; c < count; c++)
		{
			sums[block + c] = sum[c];
			sums[channels + block + c] = moment[c] * a->rstd[block + c];
		}
	}
}

/*
 * Hide dy where the ReLU did and pass it on; sums[0, c] = sum of dy,
 * sums[1, c] = sum of dy * (x - mean) * rstd.
 */
ENG_CLONES static void
backward_sums_f32(const EngNormArgs *a, const Coefficients *k, float *sums,
				  int64_t first, int64_t rows)
{
	backward_sums_typed(a, k, sums, first, rows, ENG_F32);
}

ENG_FOR_BF16 static void
backward_sums_bf16(const EngNormArgs *a, const Coefficients *k, float *sums,
				   int64_t first, int64_t rows)
{
	backward_sums_typed(a, k, sums, first, rows, ENG_BF16);
}

static void
backward_sums(const EngNormArgs *a, const Coefficients *k, float *sums,
			  int64_t first, int64_t rows)
{
	if (a->type == ENG_BF16)
		backward_sums_bf16(a, k, sums, first, rows);
	else
		backward_sums_f32(a, k, sums, first, rows);
}

ENG_INLINE void
backward_rows_typed(const EngNormArgs *a, const Coefficients *k,
					int64_t first, int64_t rows, EngType type)
{
	bool		by_x = masks_by_x(a);
	int32_t		channels = a->channels;
	int64_t		r;
	int32_t		c;

	for (r = first; r < first + rows; r++)
	{
		const void *dy = eng_at(a->dy, type, r * channels);
		const void *x = eng_at(a->x, type, r * channels);
		void	   *dx = eng_at(a->dx, type, r * channels);

		if (!a->batch && a->dx_add)
#pragma omp simd
			for (c = 0; c < channels; c++)
				eng_store(dx, type, c, eng_load(dx, type, c) +
						  (by_x ? masked(dy, x, type, c, k->scale, k->shift) :
						   eng_load(dy, type, c)) * k->dy[c]);
		else if (!a->batch)
#pragma omp simd
			for (c = 0; c < channels; c++)
				eng_store(dx, type, c,
						  (by_x ? masked(dy, x, type, c, k->scale, k->shift) :
						   eng_load(dy, type, c)) * k->dy[c]);
		else if (a->dx_add)
#pragma omp simd
			for (c = 0; c < channels; c++)
				eng_store(dx, type, c, eng_load(dx, type, c) +
						  ((by_x ?
							masked(dy, x, type, c, k->scale, k->shift) :
							eng_load(dy, type, c)) * k->dy[c] +
						   (eng_load(x, type, c) * k->x[c] + k->one[c])));
		else if (by_x)
#pragma omp simd
			for (c = 0; c < channels; c++)
				eng_store(dx, type, c,
						  masked(dy, x, type, c, k->scale, k->shift) *
						  k->dy[c] +
						  (eng_load(x, type, c) * k->x[c] + k->one[c]));
		else
#pragma omp simd
			for (c = 0; c < channels; c++)
				eng_store(dx, type, c, eng_load(dy, type, c) * k->dy[c] +
						  (eng_load(x, type, c) * k->x[c] + k->one[c]));
	}
}

/*
 * dx = dy * k->dy + x * k->x + k->one.
 */
ENG_CLONES static void
backward_rows_f32(const EngNormArgs *a, const Coefficients *k, int64_t first,
				  int64_t rows)
{
	backward_rows_typed(a, k, first, rows, ENG_F32);
}

ENG_FOR_BF16 static void
backward_rows_bf16(const EngNormArgs *a, const Coefficients *k, int64_t first,
				   int64_t rows)
{
	backward_rows_typed(a, k, first, rows, ENG_BF16);
}

static void
backward_rows(const EngNormArgs *a, const Coefficients *k, int64_t first,
			  int64_t rows)
{
	if (a->type == ENG_BF16)
		backward_rows_bf16(a, k, first, rows);
	else
		backward_rows_f32(a, k, first, rows);
}

/*
 * Parameter gradients of channel c and the coefficients of dx:
 * dx = w rstd (dy - sum / n - (x - mean) rstd moment / n).
 */
static void
finish_channel(const EngNormArgs *a, double sum, double moment,
			   const Coefficients *k, int32_t c)
{
	double		scale = (double) a->rstd[c] * a->weight[c];

	if (a->dweight != NULL)
		a->dweight[c] += (float) moment;
	if (a->dbias != NULL)
		a->dbias[c] += (float) sum;
	moment *= a->rstd[c];
	k->dy[c] = (float) scale;
	k->x[c] = (float) (-scale * moment / a->live);
	k->one[c] = (float) (scale * (moment * a->mean[c] - sum) / a->live);
}

static void
finish_gradients(const EngNormArgs *a, const float *sums,
				 const Coefficients *k)
{
	int32_t		block;

#pragma omp parallel for schedule(static)
	for (block = 0; block < a->channels; block += BLOCK)
	{
		int32_t		count = a->channels - block < BLOCK ?
			a->channels - block : BLOCK;
		double		sum[BLOCK];
		double		moment[BLOCK];
		int32_t		i;

		total_sums(sum, moment, a, sums, block, count);
		for (i = 0; i < count; i++)
			finish_channel(a, sum[i], moment[i], k, block + i);
	}
}

/*
 * A frozen norm without affine gradients: one pass.
 */
ENG_CLONES static void
frozen_rows_f32(const EngNormArgs *a, int64_t first, int64_t rows)
{
	hide_and_pass(a, first * a->channels, rows * a->channels, ENG_F32);
}

ENG_FOR_BF16 static void
frozen_rows_bf16(const EngNormArgs *a, int64_t first, int64_t rows)
{
	hide_and_pass(a, first * a->channels, rows * a->channels, ENG_BF16);
}

static void
frozen_rows(const EngNormArgs *a, int64_t first, int64_t rows)
{
	if (a->type == ENG_BF16)
		frozen_rows_bf16(a, first, rows);
	else
		frozen_rows_f32(a, first, rows);
}

void
eng_cpu_norm_backward(EngBackend *backend, const EngNormArgs *a)
{
	float	   *sums = a->workspace;
	float	   *at = sums + 2 * piece_count(a->rows) * a->channels;
	Coefficients k = {at, at + a->channels, at + 2 * a->channels,
	at + 3 * a->channels, at + 4 * a->channels};
	bool		need_sums = a->batch || a->dweight != NULL || a->dbias != NULL;
	int64_t		pieces = piece_count(a->live);
	int64_t		p;

	clear_rest(a->dy, a);
	set_affine(a, k.scale, k.shift);
#pragma omp parallel for schedule(static)
	for (p = 0; p < pieces; p++)
	{
		int64_t		first = p * PIECE_ROWS;
		int64_t		rows = a->live - first < PIECE_ROWS ?
			a->live - first : PIECE_ROWS;

		if (need_sums)
			backward_sums(a, &k, sums + 2 * p * a->channels, first, rows);
		else if (!masks_by_x(a))
			frozen_rows(a, first, rows);
	}
	if (need_sums && a->live > 0)
		finish_gradients(a, sums, &k);
	else
		memcpy(k.dy, k.scale, sizeof(float) * a->channels);
	if (a->dx != NULL && !a->dx_add)
		clear_rest(a->dx, a);
	if (a->dadd != NULL && !a->dadd_add)
		clear_rest(a->dadd, a);
	if (a->dx == NULL)
		return;
#pragma omp parallel for schedule(static)
	for (p = 0; p < pieces; p++)
		backward_rows(a, &k, p * PIECE_ROWS,
					  a->live - p * PIECE_ROWS < PIECE_ROWS ?
					  a->live - p * PIECE_ROWS : PIECE_ROWS);
}
