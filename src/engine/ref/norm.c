/*
 * engine/ref/norm.c
 *		Batch norm by its definition, statistics and sums in double.
 */
#include <math.h>

#include "engine/ref/ref.h"

size_t
eng_ref_norm_workspace(const EngBackend *backend, int64_t rows,
					   int32_t channels)
{
	(void) backend;
	(void) rows;
	(void) channels;
	return 0;
}

/*
 * Mean and 1 / sqrt(var + eps) of channel c, and the running statistics.
 */
static void
statistics(const EngNormArgs *a, int32_t c)
{
	double		mean = 0;
	double		var = 0;
	int64_t		r;

	if (a->again)
		return;
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
	var /= a->live;
	a->mean[c] = (float) mean;
	a->rstd[c] = (float) (1 / sqrt(var + a->eps));
	if (a->live > 1)
		var *= (double) a->live / (a->live - 1);
	a->running_mean[c] = (float) (a->running_mean[c] +
								  a->momentum * (mean - a->running_mean[c]));
	a->running_var[c] = (float) (a->running_var[c] +
								 a->momentum * (var - a->running_var[c]));
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
	int32_t		c;

	(void) backend;
#pragma omp parallel for schedule(static)
	for (c = 0; c < a->channels; c++)
	{
		int64_t		r;

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

void
eng_ref_norm_backward(EngBackend *backend, const EngNormArgs *a)
{
	int32_t		c;

	(void) backend;
#pragma omp parallel for schedule(static)
	for (c = 0; c < a->channels; c++)
	{
		double		sum = 0;
		double		moment = 0;
		int64_t		r;

		for (r = 0; r < a->rows; r++)
		{
			int64_t		i = r * a->channels + c;
			double		d = eng_load(a->dy, a->type, i);

			if (r >= a->live || hidden(a, i, c))
				d = 0;
			store(a->dy, a->type, i, d, false);
			sum += d;
			moment += d * (((double) eng_load(a->x, a->type, i) - a->mean[c]) *
						   a->rstd[c]);
			if (a->dadd != NULL)
				store(a->dadd, a->type, i, d, a->dadd_add);
		}
		if (a->dweight != NULL)
			store(a->dweight, ENG_F32, c, moment, true);
		if (a->dbias != NULL)
			store(a->dbias, ENG_F32, c, sum, true);
		for (r = 0; a->dx != NULL && r < a->rows; r++)
		{
			int64_t		i = r * a->channels + c;
			double		d = eng_load(a->dy, a->type, i);

			if (a->batch && r < a->live)
				d -= (sum + ((double) eng_load(a->x, a->type, i) -
							 a->mean[c]) * a->rstd[c] * moment) / a->live;
			store(a->dx, a->type, i, d * a->rstd[c] * a->weight[c],
				  a->dx_add);
		}
	}
}
