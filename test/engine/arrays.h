/*
 * test/engine/arrays.h
 *		Arrays of noise, their products and distances; both backends.
 */
#ifndef TEST_ENGINE_ARRAYS_H
#define TEST_ENGINE_ARRAYS_H

#include "tap.h"

#include "engine/core/arena.h"
#include "engine/core/backend.h"
#include "engine/core/random.h"

static EngBackend *ref;
static EngBackend *cpu;
static uint64_t counter;

static float *
make(int64_t count)
{
	return calloc(count + 1, sizeof(float));
}

/* Uniform in [-1, 1). */
static float *
noise(int64_t count)
{
	float	   *x = make(count);
	int64_t		i;

	for (i = 0; i < count; i++)
		x[i] = 2 * eng_random_uniform(7, 0, 0, ENG_USE_TEST, counter++) - 1;
	return x;
}

static inline float *
copy(const float *x, int64_t count)
{
	float	   *y = make(count);

	memcpy(y, x, sizeof(float) * count);
	return y;
}

/* x as an array of a type. */
static inline void *
typed(const float *x, EngType type, int64_t count)
{
	void	   *y = malloc(eng_type_size(type) * (count + 1));
	int64_t		i;

	for (i = 0; i < count; i++)
		eng_store(y, type, i, x[i]);
	return y;
}

/* The array y of a type back into x; y is freed. */
static inline void
untyped(float *x, void *y, EngType type, int64_t count)
{
	int64_t		i;

	for (i = 0; i < count; i++)
		x[i] = eng_load(y, type, i);
	free(y);
}

static double
inner(const float *a, const float *b, int64_t count)
{
	double		sum = 0;
	int64_t		i;

	for (i = 0; i < count; i++)
		sum += (double) a[i] * b[i];
	return sum;
}

/* Largest difference over the largest element. */
static double
distance(const float *a, const float *b, int64_t count)
{
	double		worst = 0;
	double		most = 1e-9;
	int64_t		i;

	for (i = 0; i < count; i++)
	{
		worst = fmax(worst, fabs((double) a[i] - b[i]));
		most = fmax(most, fabs(b[i]));
	}
	return worst / most;
}

static void
shift(float *out, const float *x, const float *v, double e, int64_t count)
{
	int64_t		i;

	for (i = 0; i < count; i++)
		out[i] = (float) (x[i] + e * v[i]);
}

static bool
agrees(double a, double b)
{
	return fabs(a - b) <= 2e-3 * (fabs(b) + 0.05);
}

/*
 * Two results of one type may differ by the last digit that it holds, of the
 * largest element.
 */
static inline double
allowed(EngType type)
{
	return type == ENG_BF16 ? 1.0 / 128 : 1e-5;
}

static bool
open_backends(void)
{
	EngStatus	status = {ENG_OK, ""};

	ref = eng_backend_open("ref", 1, &status);
	cpu = eng_backend_open("cpu", 2, &status);
	return tap_ok(ref != NULL && cpu != NULL, "both backends %s",
				  status.message);
}

static void
close_backends(void)
{
	ref->close(ref);
	cpu->close(cpu);
}

#endif
