/*
 * test/engine/boxes.h
 *		Made-up boxes for the tests of the detection operations.
 */
#ifndef TEST_ENGINE_BOXES_H
#define TEST_ENGINE_BOXES_H

#include "engine/nets/detector_config.h"
#include "engine/ops/detection.h"
#include "tap.h"

/* A number in [low, high), a function of (stream, counter). */
static float random_between(uint64_t stream, uint64_t counter, float low,
							float high) __attribute__((unused));

/* n boxes in a square of this extent; grid > 0 rounds corners to it. */
static void random_boxes(float *boxes, int32_t n, uint64_t stream,
						 float extent, float grid) __attribute__((unused));

/* Room that no test has to free: it stays reachable to the end. */
static void *room(size_t bytes) __attribute__((unused));

static float
random_between(uint64_t stream, uint64_t counter, float low, float high)
{
	return low + (high - low) *
		eng_random_uniform(77, stream, 0, ENG_USE_TEST, counter);
}

static void
random_boxes(float *boxes, int32_t n, uint64_t stream, float extent,
			 float grid)
{
	for (int32_t i = 0; i < n; i++)
		for (int axis = 0; axis < 2; axis++)
		{
			uint64_t	at = 4 * (uint64_t) i + 2 * axis;
			float		low = random_between(stream, at, 0.0f, 0.8f * extent);
			float		size = random_between(stream, at + 1, 0.02f * extent,
											  0.3f * extent);

			if (grid > 0.0f)
			{
				low = grid * floorf(low / grid);
				size = grid * ceilf(size / grid);
			}
			boxes[4 * i + axis] = low;
			boxes[4 * i + 2 + axis] = low + size;
		}
}

static void *
room(size_t bytes)
{
	static void *rooms[65536];
	static int	count;
	void	   *p = NULL;

	if (count == 65536 || posix_memalign(&p, 64, bytes + 64) != 0)
		abort();
	memset(p, 0xA5, bytes + 64);
	rooms[count++] = p;
	return rooms[count - 1];
}

#endif
