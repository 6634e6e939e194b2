/*
 * engine/cpu/norm.c
 *		Batch norm with the sum and the ReLU behind it, in two passes each way.
 *
 * Rows are cut into pieces of fixed size.  A piece's sums are in float and
 * relative to the first row, the total is in double and in order: results do
 * not depend on the number of threads, and large means cost no digits.
 */
#include <math.h>
#include <string.h>

#include "engine/core/arena.h"
#include "engine/core/clones.h"
#include "engine/cpu/cpu.h"

#define PIECE_ROWS	256
#define BLOCK		64			/* channels worked on at a time */

static int64_t
piece_count(int64_t rows)
{
	return (rows + PIECE_ROWS - 1) / PIECE_ROWS;
}

/* Two sums a channel and piece, then three coefficients a channel. */
size_t
eng_cpu_norm_workspace(const EngBackend *backend, int64_t rows,
					   int32_t channels)
{
	(void) backend;
	return eng_align(sizeof(float) * channels *
					 (2 * piece_count(rows) + 3));
}

/*
 * sums[0, c] = sum of x - origin, sums[1, c] = sum of its square.
 */
ENG_CLONES static void
forward_sums(float *sums, const float *x, const float *origin, int64_t rows,
			 int32_t channels)
{
	int32_t		first;

	for (first = 0; first < channels; first += BLOCK)
	{
		int32_t		count = channels - first < BLOCK ? channels - first : BLOCK;
		float		sum[BLOCK] = {0};
		float		square[BLOCK] = {0};
		const float *at = x + first;
		int64_t		r;
		int32_t		c;

		for (r = 0; r < rows; r++, at += channels)
			for (c = 0; c < count; c++)
			{
				float		d = at[c] - origin[first + c];

				sum[c] += d;
				square[c] += d * d;
			}
		memcpy(sums + first, sum, sizeof(float) * count);
		memcpy(sums + channels + first, square, sizeof(float) * count);
	}
}

/*
 * Mean and variance of channel c from the pieces' sums.
 */
static void
finish_statistics(const EngNormArgs *a, const float *sums, int32_t c)
{
	int64_t		pieces = piece_count(a->live);
	double		sum = 0;
	double		square = 0;
	double		mean;
	double		var;
	int64_t		p;

	for (p = 0; p < pieces; p++)
	{
		sum += sums[2 * p * a->channels + c];
		square += sums[(2 * p + 1) * a->channels + c];
	}
	sum /= a->live;
	mean = a->x[c] + sum;
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
	int64_t		p;
	int32_t		c;

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
#pragma omp parallel for schedule(static)
	for (p = 0; p < pieces; p++)
		forward_sums(sums + 2 * p * a->channels,
					 a->x + p * PIECE_ROWS * a->channels, a->x,
					 a->live - p * PIECE_ROWS < PIECE_ROWS ?
					 a->live - p * PIECE_ROWS : PIECE_ROWS, a->channels);
	for (c = 0; c < a->channels; c++)
		finish_statistics(a, sums, c);
}

/*
 * y = [relu] (x * scale + shift [+ add]) on some rows.
 */
ENG_CLONES static void
apply_rows(const EngNormArgs *a, const float *scale, const float *shift,
		   int64_t first, int64_t rows)
{
	int32_t		channels = a->channels;
	const float *x = a->x + first * channels;
	const float *add = a->add == NULL ? NULL : a->add + first * channels;
	float	   *y = a->y + first * channels;
	int64_t		r;
	int32_t		c;

	for (r = 0; r < rows; r++, x += channels, y += channels)
	{
		if (add != NULL)
		{
			for (c = 0; c < channels; c++)
			{
				float		value = x[c] * scale[c] + shift[c] + add[c];

				y[c] = a->relu && value < 0 ? 0 : value;
			}
			add += channels;
		}
		else if (a->relu)
			for (c = 0; c < channels; c++)
			{
				float		value = x[c] * scale[c] + shift[c];

				y[c] = value < 0 ? 0 : value;
			}
		else
			for (c = 0; c < channels; c++)
				y[c] = x[c] * scale[c] + shift[c];
	}
}

void
eng_cpu_norm_forward(EngBackend *backend, const EngNormArgs *a)
{
	float	   *scale = (float *) a->workspace +
		2 * piece_count(a->rows) * a->channels;
	float	   *shift = scale + a->channels;
	int64_t		p;
	int32_t		c;

	(void) backend;
	set_statistics(a);
	for (c = 0; c < a->channels; c++)
	{
		scale[c] = a->rstd[c] * a->weight[c];
		shift[c] = a->bias[c] - a->mean[c] * scale[c];
	}
#pragma omp parallel for schedule(static)
	for (p = 0; p < piece_count(a->live); p++)
		apply_rows(a, scale, shift, p * PIECE_ROWS,
				   a->live - p * PIECE_ROWS < PIECE_ROWS ?
				   a->live - p * PIECE_ROWS : PIECE_ROWS);
	if (a->rows > a->live)
		memset(a->y + a->live * a->channels, 0,
			   sizeof(float) * (a->rows - a->live) * a->channels);
}

/*
 * Hide dy where the ReLU did; sums[0, c] = sum of dy, sums[1, c] = sum of
 * dy * (x - mean) * rstd; pass dy on to the added tensor.
 */
ENG_CLONES static void
backward_sums(const EngNormArgs *a, float *sums, int64_t first, int64_t rows)
{
	int32_t		channels = a->channels;
	int32_t		block;

	for (block = 0; block < channels; block += BLOCK)
	{
		int32_t		count = channels - block < BLOCK ? channels - block : BLOCK;
		float		sum[BLOCK] = {0};
		float		moment[BLOCK] = {0};
		int64_t		i = first * channels + block;
		int64_t		r;
		int32_t		c;

		for (r = 0; r < rows; r++, i += channels)
		{
			float	   *dy = a->dy + i;
			const float *x = a->x + i;
			const float *y = a->y + i;

			if (a->relu)
				for (c = 0; c < count; c++)
					dy[c] = y[c] > 0 ? dy[c] : 0;
			for (c = 0; c < count; c++)
			{
				sum[c] += dy[c];
				moment[c] += dy[c] * (x[c] - a->mean[block + c]);
			}
			if (a->dadd != NULL && a->dadd_add)
				for (c = 0; c < count; c++)
					a->dadd[i + c] += dy[c];
			else if (a->dadd != NULL)
				for (c = 0; c < count; c++)
					a->dadd[i + c] = dy[c];
		}
		for (c = 0; c < count; c++)
		{
			sums[block + c] = sum[c];
			sums[channels + block + c] = moment[c] * a->rstd[block + c];
		}
	}
}

/*
 * dx = dy * k0 + x * k1 + k2, the coefficients in one array.
 */
ENG_CLONES static void
backward_rows(const EngNormArgs *a, const float *k, int64_t first,
			  int64_t rows)
{
	int32_t		channels = a->channels;
	const float *k0 = k;
	const float *k1 = k + channels;
	const float *k2 = k + 2 * channels;
	const float *dy = a->dy + first * channels;
	const float *x = a->x + first * channels;
	float	   *dx = a->dx + first * channels;
	int64_t		r;
	int32_t		c;

	for (r = 0; r < rows; r++)
	{
		if (!a->batch && a->dx_add)
			for (c = 0; c < channels; c++)
				dx[c] += dy[c] * k0[c];
		else if (!a->batch)
			for (c = 0; c < channels; c++)
				dx[c] = dy[c] * k0[c];
		else if (a->dx_add)
			for (c = 0; c < channels; c++)
				dx[c] += dy[c] * k0[c] + (x[c] * k1[c] + k2[c]);
		else
			for (c = 0; c < channels; c++)
				dx[c] = dy[c] * k0[c] + (x[c] * k1[c] + k2[c]);
		dy += channels;
		x += channels;
		dx += channels;
	}
}

/*
 * Parameter gradients and the coefficients of dx:
 * dx = w rstd (dy - sum / n - (x - mean) rstd moment / n).
 */
static void
finish_gradients(const EngNormArgs *a, const float *sums, float *k)
{
	int32_t		c;

	for (c = 0; c < a->channels; c++)
	{
		double		sum = 0;
		double		moment = 0;
		double		scale = (double) a->rstd[c] * a->weight[c];
		int64_t		p;

		for (p = 0; p < piece_count(a->live); p++)
		{
			sum += sums[2 * p * a->channels + c];
			moment += sums[(2 * p + 1) * a->channels + c];
		}
		if (a->dweight != NULL)
			a->dweight[c] += (float) moment;
		if (a->dbias != NULL)
			a->dbias[c] += (float) sum;
		moment *= a->rstd[c];
		k[c] = (float) scale;
		k[a->channels + c] = (float) (-scale * moment / a->live);
		k[2 * a->channels + c] =
			(float) (scale * (moment * a->mean[c] - sum) / a->live);
	}
}

/*
 * A frozen norm without affine gradients: one pass.
 */
ENG_CLONES static void
frozen_rows(const EngNormArgs *a, int64_t first, int64_t rows)
{
	int64_t		i = first * a->channels;
	int64_t		end = (first + rows) * a->channels;

	if (a->relu)
		for (; i < end; i++)
			a->dy[i] = a->y[i] > 0 ? a->dy[i] : 0;
	if (a->dadd == NULL)
		return;
	i = first * a->channels;
	if (a->dadd_add)
		for (; i < end; i++)
			a->dadd[i] += a->dy[i];
	else
		for (; i < end; i++)
			a->dadd[i] = a->dy[i];
}

void
eng_cpu_norm_backward(EngBackend *backend, const EngNormArgs *a)
{
	float	   *sums = a->workspace;
	float	   *k = sums + 2 * piece_count(a->rows) * a->channels;
	bool		need_sums = a->batch || a->dweight != NULL || a->dbias != NULL;
	int64_t		pieces = piece_count(a->live);
	int64_t		p;
	int32_t		c;

	(void) backend;
	if (a->rows > a->live)
		memset(a->dy + a->live * a->channels, 0,
			   sizeof(float) * (a->rows - a->live) * a->channels);
#pragma omp parallel for schedule(static)
	for (p = 0; p < pieces; p++)
	{
		int64_t		first = p * PIECE_ROWS;
		int64_t		rows = a->live - first < PIECE_ROWS ?
			a->live - first : PIECE_ROWS;

		if (need_sums)
			backward_sums(a, sums + 2 * p * a->channels, first, rows);
		else
			frozen_rows(a, first, rows);
	}
	if (need_sums && a->live > 0)
		finish_gradients(a, sums, k);
	else
		for (c = 0; c < a->channels; c++)
			k[c] = a->rstd[c] * a->weight[c];
	if (a->rows > a->live)
	{
		int64_t		i = a->live * a->channels;
		size_t		size = sizeof(float) * (a->rows - a->live) * a->channels;

		if (a->dx != NULL && !a->dx_add)
			memset(a->dx + i, 0, size);
		if (a->dadd != NULL && !a->dadd_add)
			memset(a->dadd + i, 0, size);
	}
	if (a->dx == NULL)
		return;
#pragma omp parallel for schedule(static)
	for (p = 0; p < pieces; p++)
		backward_rows(a, k, p * PIECE_ROWS,
					  a->live - p * PIECE_ROWS < PIECE_ROWS ?
					  a->live - p * PIECE_ROWS : PIECE_ROWS);
}
