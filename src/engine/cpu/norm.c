/*
 * engine/cpu/norm.c
 *		Batch norm with the sum and the ReLU behind it, in two passes each way:
 *		forward.  norm_gradient.c goes back.
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

#include "engine/core/clones.h"
#include "engine/core/ranks.h"
#include "engine/cpu/norm.h"
#include "engine/cpu/stream.h"

#define SAMPLE_ROWS	256			/* rows whose mean is about that of all */
#define STAGE		4096		/* channels of a row that is streamed, at most */

/* Behind its own, of ranks, two sums a channel and the rows that they are over. */
size_t
eng_cpu_norm_workspace(const EngBackend *backend, int64_t rows,
					   int32_t channels)
{
	return own_workspace(rows, channels) +
		(eng_backend_is_rank(backend) ?
		 eng_align(sizeof(double) * (2 * (size_t) channels + 1)) : 0);
}

ENG_INLINE void
sample_mean_typed(float *origin, const EngNormArgs *a, EngType type)
{
	int64_t		step = (a->live + SAMPLE_ROWS - 1) / SAMPLE_ROWS;
	float		factor;
	int64_t		r;
	int32_t		c;

	memset(origin, 0, sizeof(float) * a->channels);
	if (a->live == 0)
		return;
	factor = 1.0f / (float) ((a->live + step - 1) / step);
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

static void
set_channel(const EngNormArgs *a, int32_t c, double mean, double var,
			double rows)
{
	if (var < 0)
		var = 0;
	a->mean[c] = (float) mean;
	a->rstd[c] = (float) (1 / sqrt(var + a->eps));
	if (rows > 1)
		var *= rows / (rows - 1);
	a->running_mean[c] = (float) (a->running_mean[c] +
								  a->momentum * (mean - a->running_mean[c]));
	a->running_var[c] = (float) (a->running_var[c] +
								 a->momentum * (var - a->running_var[c]));
}

/*
 * Mean and variance of channel c from the totals.
 */
static void
finish_statistics(const EngNormArgs *a, double sum, double square,
				  float origin, int32_t c)
{
	sum /= a->live;
	set_channel(a, c, origin + sum, square / a->live - sum * sum,
				(double) a->live);
}

/*
 * The totals of channel c, as those of x itself, for the sum over ranks.
 */
static void
keep_statistics(const EngNormArgs *a, double sum, double square,
				double origin, int32_t c)
{
	double	   *all = shared_sums(a);

	all[c] = sum + (double) a->live * origin;
	all[a->channels + c] = square + 2 * origin * sum +
		(double) a->live * origin * origin;
}

/*
 * Mean and variance over the rows of all ranks.
 */
static void
share_statistics(EngBackend *backend, const EngNormArgs *a)
{
	double	   *all = shared_sums(a);
	double		rows;
	int32_t		c;

	all[2 * a->channels] = (double) a->live;
	backend->all_reduce(backend, all, 2 * a->channels + 1, ENG_SUM_F64);
	rows = all[2 * a->channels];
	for (c = 0; c < a->channels; c++)
	{
		double		mean = all[c] / rows;

		if (rows > 0)
			set_channel(a, c, mean,
						all[a->channels + c] / rows - mean * mean, rows);
		else
			a->mean[c] = a->rstd[c] = 0;
	}
}

static void
take_running(const EngNormArgs *a)
{
	int32_t		c;

	for (c = 0; c < a->channels; c++)
	{
		a->mean[c] = a->batch ? 0 : a->running_mean[c];
		a->rstd[c] = a->batch ? 0 :
			(float) (1 / sqrt((double) a->running_var[c] + a->eps));
	}
}

static void
set_statistics(EngBackend *backend, const EngNormArgs *a)
{
	bool		shared = eng_backend_is_rank(backend);
	float	   *sums = a->workspace;
	int64_t		pieces = piece_count(a->live);
	float	   *origin = sums + 2 * pieces * a->channels;
	int32_t		block;
	int64_t		p;

	if (a->again)
		return;
	if (!a->batch || (a->live == 0 && !shared))
	{
		take_running(a);
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
			if (shared)
				keep_statistics(a, sum[i], square[i], origin[block + i],
								block + i);
			else
				finish_statistics(a, sum[i], square[i], origin[block + i],
								  block + i);
	}
	if (shared)
		share_statistics(backend, a);
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

void
eng_cpu_norm_forward(EngBackend *backend, const EngNormArgs *a)
{
	float	   *scale = (float *) a->workspace +
		2 * piece_count(a->rows) * a->channels;
	float	   *shift = scale + a->channels;
	int64_t		p;

	set_statistics(backend, a);
	set_affine(a, scale, shift);
#pragma omp parallel for schedule(static)
	for (p = 0; p < piece_count(a->live); p++)
		apply_rows(a, scale, shift, p * PIECE_ROWS,
				   a->live - p * PIECE_ROWS < PIECE_ROWS ?
				   a->live - p * PIECE_ROWS : PIECE_ROWS);
	clear_rest(a->y, a);
}
