/*
 * engine/cpu/update.c
 *		Steps of the optimizers and the norm of the gradient.
 */
#include <math.h>

#include "engine/core/clones.h"
#include "engine/cpu/cpu.h"

#define PIECE_COUNT	16384
#define PIECES		64			/* partial sums kept at a time */

ENG_CLONES static double
square_sum_flat(const float *x, int64_t count)
{
	double		sum = 0;
	int64_t		i;

#pragma omp simd reduction(+:sum)
	for (i = 0; i < count; i++)
		sum += (double) x[i] * x[i];
	return sum;
}

/*
 * Pieces of fixed size, added in order.
 */
static double
cpu_square_sum(EngBackend *backend, const float *x, int64_t count)
{
	double		total = 0;
	int64_t		base;

	(void) backend;
	for (base = 0; base < count; base += (int64_t) PIECES * PIECE_COUNT)
	{
		double		sums[PIECES];
		int			p;

#pragma omp parallel for schedule(static)
		for (p = 0; p < PIECES; p++)
		{
			int64_t		first = base + (int64_t) p * PIECE_COUNT;
			int64_t		left = count - first;

			sums[p] = left <= 0 ? 0 :
				square_sum_flat(x + first,
								left < PIECE_COUNT ? left : PIECE_COUNT);
		}
		for (p = 0; p < PIECES; p++)
			total += sums[p];
	}
	return total;
}

ENG_CLONES static void
sgd_flat(const EngUpdate *u, int64_t first, int64_t last)
{
	float	   *value = u->value;
	float	   *slot = u->slot0;
	const float *gradient = u->gradient;
	float		scale = u->scale;
	float		decay = u->weight_decay;
	float		momentum = u->momentum;
	float		lr = u->lr;
	int64_t		i;

#pragma omp simd
	for (i = first; i < last; i++)
	{
		float		g = gradient[i] * scale + decay * value[i];
		float		m = momentum * slot[i] + g;

		slot[i] = m;
		value[i] -= lr * m;
	}
}

ENG_CLONES static void
adamw_flat(const EngUpdate *u, int64_t first, int64_t last)
{
	float	   *value = u->value;
	float	   *mean = u->slot0;
	float	   *square = u->slot1;
	const float *gradient = u->gradient;
	float		scale = u->scale;
	float		beta1 = u->beta1;
	float		beta2 = u->beta2;
	float		eps = u->eps;
	float		keep = (float) (1 - (double) u->lr * u->weight_decay);
	float		rate = (float) (u->lr / u->correction1);
	float		root = (float) (1 / sqrt(u->correction2));
	int64_t		i;

#pragma omp simd
	for (i = first; i < last; i++)
	{
		float		g = gradient[i] * scale;
		float		m = mean[i] + (1 - beta1) * (g - mean[i]);
		float		v = beta2 * square[i] + (1 - beta2) * (g * g);

		mean[i] = m;
		square[i] = v;
		value[i] = value[i] * keep - rate * m / (sqrtf(v) * root + eps);
	}
}

static void
cpu_update_sgd(EngBackend *backend, const EngUpdate *update)
{
	int64_t		first;

	(void) backend;
#pragma omp parallel for schedule(static)
	for (first = 0; first < update->count; first += PIECE_COUNT)
		sgd_flat(update, first, first + PIECE_COUNT < update->count ?
				 first + PIECE_COUNT : update->count);
}

static void
cpu_update_adamw(EngBackend *backend, const EngUpdate *update)
{
	int64_t		first;

	(void) backend;
#pragma omp parallel for schedule(static)
	for (first = 0; first < update->count; first += PIECE_COUNT)
		adamw_flat(update, first, first + PIECE_COUNT < update->count ?
				   first + PIECE_COUNT : update->count);
}

void
eng_cpu_update_operations(EngBackend *backend)
{
	backend->square_sum = cpu_square_sum;
	backend->update_sgd = cpu_update_sgd;
	backend->update_adamw = cpu_update_adamw;
}
