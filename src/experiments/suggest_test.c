/*
 * experiments/suggest_test.c
 *		Does a detector miss more in a group of frames than elsewhere?
 *
 * Boxes of one frame are missed together, so frames are the units.  Under
 * the hypothesis that the group is any n of the universe's N frames, the sum
 *
 *		S = sum over the group of (missed - rate x truths)
 *
 * with the universe's overall rate has the distribution of a sum drawn
 * without replacement from residuals that add up to 0.  Its moments are
 * known exactly (Cochran, Sampling Techniques, 1977, chapter 2):
 *
 *		variance = m2 n (N - n) / (N - 1)
 *		third    = m3 n (N - n) (N - 2n) / ((N - 1) (N - 2))
 *
 * where m2, m3 are moments of the residuals.  The tail is that of the Pearson
 * type III distribution with these three moments, as in Mielke and Berry,
 * Permutation Methods, 2007: residuals are skewed, and a normal tail would
 * find too much in small groups.
 */
#include "postgres.h"

#include <math.h>

#include "port/pg_bitutils.h"

#include "experiments/suggest.h"

#define ITERATIONS 100000
#define PRECISION 1e-12

/* Sums over a set of frames. */
typedef struct Sums
{
	int64		frames;
	double		truths;
	double		missed;
} Sums;

static void
add_up(const AvcTruthCounts *counts, const uint64 *a, const uint64 *b,
	   int words, Sums *sums)
{
	int64		truths = 0;
	int64		missed = 0;
	int			w;

	sums->frames = 0;
	for (w = 0; w < words; w++)
	{
		uint64		word = a[w] & b[w];
		const int32 *t = counts->truths + (int64) w * 64;
		const int32 *m = counts->missed + (int64) w * 64;

		sums->frames += pg_popcount64(word);
		for (; word != 0; word &= word - 1)
		{
			int			bit = pg_rightmost_one_pos64(word);

			truths += t[bit];
			missed += m[bit];
		}
	}
	sums->truths = (double) truths;
	sums->missed = (double) missed;
}

void
avc_universe_open(AvcUniverse *universe, const AvcTruthCounts *counts,
				  const uint64 *frames, int words)
{
	Sums		sums;
	double		rate;
	double		second = 0;
	double		third = 0;
	int			w;

	add_up(counts, frames, frames, words, &sums);
	universe->counts = counts;
	universe->frames = frames;
	universe->words = words;
	universe->frame_count = sums.frames;
	universe->truths = (int64) sums.truths;
	universe->missed = (int64) sums.missed;
	rate = sums.truths > 0 ? sums.missed / sums.truths : 0;
	for (w = 0; w < words; w++)
	{
		uint64		word = frames[w];

		for (; word != 0; word &= word - 1)
		{
			int64		i = (int64) w * 64 + pg_rightmost_one_pos64(word);
			double		rest = counts->missed[i] - rate * counts->truths[i];

			second += rest * rest;
			third += rest * rest * rest;
		}
	}
	universe->variance = second / Max(sums.frames, 1);
	universe->third = third / Max(sums.frames, 1);
}

/* ---- the tail ------------------------------------------------------- */

/* Logarithm of the upper tail of the standard normal distribution. */
static double
log_normal_tail(double z)
{
	if (z < 30)
		return log(0.5 * erfc(z * M_SQRT1_2));
	return -0.5 * z * z - log(z * sqrt(2 * M_PI));
}

/*
 * Logarithm of the regularized incomplete gamma function: of the lower tail
 * by its series, of the upper by its continued fraction (Abramowitz and
 * Stegun 6.5.29 and 6.5.31, the latter evaluated by Lentz's method).
 */
static double
log_gamma_lower(double a, double x)
{
	double		term = 1 / a;
	double		sum = term;
	int			n;

	for (n = 1; n < ITERATIONS && term > sum * PRECISION; n++)
	{
		term *= x / (a + n);
		sum += term;
	}
	return log(sum) - x + a * log(x) - lgamma(a);
}

static double
log_gamma_upper(double a, double x)
{
	double		b = x + 1 - a;
	double		c = 1e300;
	double		d = 1 / b;
	double		h = d;
	int			n;

	for (n = 1; n < ITERATIONS; n++)
	{
		double		an = -n * (n - a);
		double		step;

		b += 2;
		d = an * d + b;
		d = 1 / (fabs(d) < 1e-300 ? 1e-300 : d);
		c = b + an / c;
		c = fabs(c) < 1e-300 ? 1e-300 : c;
		step = d * c;
		h *= step;
		if (fabs(step - 1) < PRECISION)
			break;
	}
	return log(h) - x + a * log(x) - lgamma(a);
}

/* Of P(Z > z), z > 0, for Pearson type III with mean 0 and variance 1. */
static double
log_tail(double z, double skewness)
{
	double		shape = 4 / (skewness * skewness);
	double		x = shape + 2 * z / skewness;

	/* so little skewness changes nothing, and the series would be long */
	if (fabs(skewness) < 0.004)
		return log_normal_tail(z);
	if (skewness > 0)
		return log_gamma_upper(shape, x);	/* x > shape + 1: it converges */
	if (x <= 0)
		return -INFINITY;
	return log_gamma_lower(shape, x);
}

void
avc_universe_test(const AvcUniverse *universe, const uint64 *frames,
				  AvcGroupTest *test)
{
	double		all = (double) universe->frame_count;
	double		rate = universe->truths > 0 ?
	(double) universe->missed / universe->truths : 0;
	double		n;
	double		sum;
	double		variance;
	double		third;
	Sums		sums;

	add_up(universe->counts, frames, universe->frames, universe->words, &sums);
	test->frames = sums.frames;
	test->truths = (int64) sums.truths;
	test->missed = (int64) sums.missed;
	test->truths_elsewhere = universe->truths - test->truths;
	test->missed_elsewhere = universe->missed - test->missed;
	test->log_p = 0;
	n = (double) sums.frames;
	sum = sums.missed - rate * sums.truths;
	if (all < 3 || n < 1 || n >= all || sum <= 0 || universe->variance <= 0)
		return;
	variance = universe->variance * n * (all - n) / (all - 1);
	third = universe->third * n * (all - n) * (all - 2 * n) /
		((all - 1) * (all - 2));
	test->log_p = Min(0, log_tail(sum / sqrt(variance),
								  third / (variance * sqrt(variance))));
}
