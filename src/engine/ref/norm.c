/*
 * engine/ref/norm.c
 *		Batch norm by its definition, statistics and sums in double.
 */
#include <math.h>

#include "engine/core/ranks.h"
#include "engine/ref/ref.h"

/* Of ranks: two sums a channel, and the rows that they are over. */
size_t
eng_ref_norm_workspace(const EngBackend *backend, int64_t rows,
					   int32_t channels)
{
	(void) rows;
	return eng_backend_is_rank(backend) ?
		sizeof(double) * (2 * (size_t) channels + 1) : 0;
}

/*
 * Mean and 1 / sqrt(var + eps) of channel c, and the running statistics.
 */
static void
set_statistics(const EngNormArgs *a, int32_t c, double mean, double var,
			   double rows)
{
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
 * The same over the rows of all ranks.
 */
static void
share_statistics(EngBackend *backend, const EngNormArgs *a)
{
	double	   *sums = a->workspace;
	double		rows;
	int64_t		r;
	int32_t		c;

	for (c = 0; c < 2 * a->channels; c++)
		sums[c] = 0;
	for (r = 0; r < a->live; r++)
		for (c = 0; c < a->channels; c++)
		{
			double		x = eng_load(a->x, a->type, r * a->channels + c);

			sums[c] += x;
			sums[a->channels + c] += x * x;
		}
	sums[2 * a->channels] = (double) a->live;
	backend->all_reduce(backend, sums, 2 * a->channels + 1, ENG_SUM_F64);
	rows = sums[2 * a->channels];
	for (c = 0; c < a->channels; c++)
	{
		double		mean = sums[c] / rows;
		double		var = sums[a->channels + c] / rows - mean * mean;

		if (rows == 0)
			a->mean[c] = a->rstd[c] = 0;
		else
			set_statistics(a, c, mean, var < 0 ? 0 : var, rows);
	}
}

static void
statistics(const EngNormArgs *a, int32_t c)
{
	double		mean = 0;
	double		var = 0;
	int64_t		r;

	if (!a->batch)
	{
		a->mean[c] = a->running_mean[c];
		a->rstd[c] = (float) (1 / sqrt((double) a->running_var[c] + a->eps));
		return;
	}
	if (a->live == 0)
	{
		a->mean[c] = a->rstd[c] = 0;
		return;
	}
	for (r = 0; r < a->live; r++)
		mean += eng_load(a->x, a->type, r * a->channels + c);
	mean /= a->live;
	for (r = 0; r < a->live; r++)
	{
		double		d = eng_load(a->x, a->type, r * a->channels + c) - mean;

		var += d * d;
	}
	set_statistics(a, c, mean, var / a->live, (double) a->live);
}

/* Element i, of channel c, before the ReLU. */
static double
value(const EngNormArgs *a, int64_t i, int32_t c)
{
	double		y = ((double) eng_load(a->x, a->type, i) - a->mean[c]) *
		a->rstd[c] * a->weight[c] + a->bias[c];

	return a->add != NULL ? y + eng_load(a->add, a->type, i) : y;
}

void
eng_ref_norm_forward(EngBackend *backend, const EngNormArgs *a)
{
	bool		shared = eng_backend_is_rank(backend) && a->batch;
	int32_t		c;

	if (shared && !a->again)
		share_statistics(backend, a);
#pragma omp parallel for schedule(static)
	for (c = 0; c < a->channels; c++)
	{
		int64_t		r;

		if (!shared && !a->again)
			statistics(a, c);
		for (r = 0; r < a->rows; r++)
		{
			int64_t		i = r * a->channels + c;
			double		y = value(a, i, c);

			if ((a->relu && y < 0) || r >= a->live)
				y = 0;
			eng_store(a->y, a->type, i, (float) y);
		}
	}
}

static void
store(void *out, EngType type, int64_t i, double x, bool add)
{
	eng_store(out, type, i,
			  (float) (add ? eng_load(out, type, i) + x : x));
}

static bool
hidden(const EngNormArgs *a, int64_t i, int32_t c)
{
	float		y = a->y != NULL ? eng_load(a->y, a->type, i) :
		(float) value(a, i, c);

	return a->relu && !(y > 0);
}

/* What a channel's gradients add up to, over how many rows. */
typedef struct Sums
{
	double		sum;			/* of the gradients */
	double		moment;			/* times the input, normed */
	double		rows;
} Sums;

/*
 * Hide what the ReLU hid, pass it on to the sum and add it up.
 */
static Sums
channel_sums(const EngNormArgs *a, int32_t c)
{
	Sums		sums = {0, 0, (double) a->live};
	int64_t		r;

	for (r = 0; r < a->rows; r++)
	{
		int64_t		i = r * a->channels + c;
		double		d = eng_load(a->dy, a->type, i);

		if (r >= a->live || hidden(a, i, c))
			d = 0;
		store(a->dy, a->type, i, d, false);
		sums.sum += d;
		sums.moment += d * (((double) eng_load(a->x, a->type, i) -
							 a->mean[c]) * a->rstd[c]);
		if (a->dadd != NULL)
			store(a->dadd, a->type, i, d, a->dadd_add);
	}
	if (a->dweight != NULL)
		store(a->dweight, ENG_F32, c, sums.moment, true);
	if (a->dbias != NULL)
		store(a->dbias, ENG_F32, c, sums.sum, true);
	return sums;
}

static void
channel_gradient(const EngNormArgs *a, int32_t c, Sums sums)
{
	int64_t		r;

	for (r = 0; a->dx != NULL && r < a->rows; r++)
	{
		int64_t		i = r * a->channels + c;
		double		d = eng_load(a->dy, a->type, i);

		if (a->batch && r < a->live)
			d -= (sums.sum + ((double) eng_load(a->x, a->type, i) -
							  a->mean[c]) * a->rstd[c] * sums.moment) /
				sums.rows;
		store(a->dx, a->type, i, d * a->rstd[c] * a->weight[c], a->dx_add);
	}
}

static void
share_gradients(EngBackend *backend, const EngNormArgs *a)
{
	double	   *all = a->workspace;
	int32_t		c;

#pragma omp parallel for schedule(static)
	for (c = 0; c < a->channels; c++)
	{
		Sums		sums = channel_sums(a, c);

		all[c] = sums.sum;
		all[a->channels + c] = sums.moment;
	}
	all[2 * a->channels] = (double) a->live;
	backend->all_reduce(backend, all, 2 * a->channels + 1, ENG_SUM_F64);
#pragma omp parallel for schedule(static)
	for (c = 0; c < a->channels; c++)
		channel_gradient(a, c, (Sums) {all[c], all[a->channels + c],
						 all[2 * a->channels]});
}

void
eng_ref_norm_backward(EngBackend *backend, const EngNormArgs *a)
{
	int32_t		c;

	if (eng_backend_is_rank(backend) && a->batch && a->dx != NULL)
	{
		share_gradients(backend, a);
		return;
	}
#pragma omp parallel for schedule(static)
	for (c = 0; c < a->channels; c++)
		channel_gradient(a, c, channel_sums(a, c));
}
