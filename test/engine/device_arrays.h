/*
 * test/engine/device_arrays.h
 *		A device beside ref, and arrays that both have, for tests of its
 *		operations.
 */
#ifndef TEST_ENGINE_DEVICE_ARRAYS_H
#define TEST_ENGINE_DEVICE_ARRAYS_H

#include "tap.h"

#include "engine/core/backend.h"
#include "engine/core/random.h"

static EngBackend *ref;
static EngBackend *gpu;
static EngStatus status = {ENG_OK, ""};
static uint64_t counter;

/* An array on both sides; the device's may be of another type. */
typedef struct Both
{
	void	   *host;			/* of the type, as ref takes it */
	void	   *device;
	EngType		type;
	int64_t		count;
} Both;

static size_t
bytes(const Both *b)
{
	return eng_type_size(b->type) * b->count;
}

/* Uniform in [low, low + 2). */
static Both
noise(EngType type, int64_t count, float low)
{
	Both		b = {calloc(count + 1, sizeof(float)), NULL, type, count};
	int64_t		i;

	for (i = 0; i < count; i++)
		eng_store(b.host, type, i, low + 2 *
				  eng_random_uniform(7, 0, 0, ENG_USE_TEST, counter++));
	b.device = gpu->alloc(gpu, bytes(&b) + 64);
	if (b.device == NULL ||
		!gpu->upload(gpu, b.device, b.host, bytes(&b), &status))
		tap_ok(false, "an array on the device: %s", status.message);
	return b;
}

static Both __attribute__((unused))
ints(const int32_t *values, int64_t count)
{
	Both		b = noise(ENG_F32, count, 0);

	memcpy(b.host, values, sizeof(int32_t) * count);
	gpu->upload(gpu, b.device, b.host, bytes(&b), &status);
	return b;
}

static void
drop(Both *b)
{
	free(b->host);
	gpu->free(gpu, b->device, bytes(b));
}

/* Largest difference over the largest element. */
static double
distance(const Both *b)
{
	void	   *got = calloc(b->count + 1, sizeof(float));
	double		worst = 0;
	double		most = 1e-9;
	int64_t		i;

	if (!gpu->download(gpu, got, b->device, bytes(b), &status))
		return INFINITY;
	for (i = 0; i < b->count; i++)
	{
		double		x = eng_load(got, b->type, i);
		double		y = eng_load(b->host, b->type, i);

		/* written so that what is not a number is a distance */
		if (!(fabs(x - y) <= worst))
			worst = fabs(x - y);
		most = fmax(most, fabs(y));
	}
	free(got);
	return worst / most;
}

/* Rounded once more or less, or only the order of sums. */
static double
allowed(EngType type)
{
	return type == ENG_F32 ? 2e-5 : 1e-2;
}

static void
same(const Both *b, const char *what, EngType type)
{
	double		d = distance(b);

	tap_ok(d <= allowed(type), "%s, %s: %.1e", what, eng_type_name(type), d);
}

/* false: AVC_TEST_BACKEND names no device, or one that does not open. */
static bool
open_both(void)
{
	const char *name = tap_backend();

	if (strncmp(name, "cuda", 4) != 0)
	{
		tap_skip("operations of a device", "AVC_TEST_BACKEND names none");
		return false;
	}
	ref = eng_backend_open("ref", 1, &status);
	gpu = eng_backend_open(name, 1, &status);
	if (!tap_ok(ref != NULL && gpu != NULL && gpu->device, "%s opens %s",
				name, status.message))
		return false;
	gpu->enter(gpu);
	return true;
}

static void
close_both(void)
{
	gpu->close(gpu);
	ref->close(ref);
}

#endif
