/*
 * engine/bench_peak.c
 *		The limits of the machine: products and memory, measured here and now.
 */
#include "engine/bench.h"

#include <stdlib.h>
#include <string.h>

#include "engine/core/arena.h"
#include "engine/core/backend.h"
#include "engine/core/clones.h"
#include "engine/feed.h"

#define SIDE			2048	/* of the matrices */
#define REF_SIDE		128		/* for the backend of plain loops */
#define STREAM_FLOATS	((int64_t) 32 << 20)	/* far more than caches hold */
#define LEAST_RUNS		5
#define LEAST_SECONDS	1.0		/* a neighbour's slices of time are shorter */

/*
 * Forget the most bytes resident so far; where that is not to be had, they
 * count in what follows.
 */
static void
reset_resident(void)
{
	FILE	   *out = fopen("/proc/self/clear_refs", "w");

	if (out == NULL)
		return;
	(void) fputs("5", out);
	(void) fclose(out);
}

/*
 * Whether to measure the i-th time: what disturbs does so for a while, and
 * the best of many is what the machine can do.
 */
static bool
goes_on(int i, double start)
{
	return i < LEAST_RUNS || eng_feed_clock() - start < LEAST_SECONDS;
}

/*
 * Best time of a product of square matrices, which is what a linear layer
 * is.
 */
static bool
time_product(double *best, EngBackend *backend, EngType type, int32_t side,
			 float *memory, EngStatus *status)
{
	EngConvShape shape = {
		.n = side, .h = 1, .w = 1, .c = side, .oh = 1, .ow = 1, .oc = side,
		.k = 1, .stride = 1, .x_type = type, .y_type = type
	};
	int64_t		size = (int64_t) side * side;
	EngKernel  *kernel = backend->linear_plan(backend, &shape, status);
	double		begin = eng_feed_clock();
	void	   *workspace;
	bool		fine;
	int			i;

	if (kernel == NULL)
		return false;
	workspace = eng_arena_alloc(backend->kernel_workspace(kernel));
	fine = workspace != NULL;
	for (i = 0; fine && goes_on(i, begin); i++)
	{
		double		start = eng_feed_clock();

		fine = backend->conv_forward(kernel, memory, memory + size,
									 memory + 2 * size, NULL, 1, workspace,
									 status);
		start = eng_feed_clock() - start;
		if (i == 0 || start < *best)
			*best = start;
	}
	eng_arena_free(workspace, backend->kernel_workspace(kernel));
	backend->kernel_free(kernel);
	return fine;
}

ENG_CLONES static void
multiply_add(float *y, const float *x, int64_t first, int64_t last)
{
	int64_t		i;

	for (i = first; i < last; i++)
		y[i] = 0.5f * x[i] + y[i];
}

static double
time_stream(float *memory, int threads)
{
	double		begin = eng_feed_clock();
	double		best = 0;
	int			i;

	for (i = 0; goes_on(i, begin); i++)
	{
		double		start = eng_feed_clock();
		int			t;

#pragma omp parallel for schedule(static) num_threads(threads)
		for (t = 0; t < threads; t++)
			multiply_add(memory, memory + STREAM_FLOATS,
						 STREAM_FLOATS * t / threads,
						 STREAM_FLOATS * (t + 1) / threads);
		start = eng_feed_clock() - start;
		if (i == 0 || start < best)
			best = start;
	}
	return best;
}

bool
eng_bench_peak(EngPeak *peak, const EngChoice *choice, FILE *out,
			   EngStatus *status)
{
	EngBackend *backend = eng_backend_open(choice->device,
										   (int) choice->threads, status);
	size_t		bytes = 2 * STREAM_FLOATS * sizeof(float);
	float	   *memory = eng_arena_alloc(bytes);
	double		seconds = 0;
	bool		fine = backend != NULL && memory != NULL;
	int64_t		i;

	if (memory == NULL)
		eng_fail(status, ENG_NO_MEMORY, "out of memory");
	if (fine)
		backend->enter(backend);
	if (fine && backend->device)
		fine = eng_bench_peak_device(peak, backend, choice->type, status);
	else if (fine)
	{
		/* every page its own: small numbers that never grow */
		for (i = 0; i < 2 * STREAM_FLOATS; i++)
			memory[i] = (float) (i % 7) * 1e-3f;
		peak->side = strcmp(choice->device, "ref") == 0 ? REF_SIDE : SIDE;
		fine = time_product(&seconds, backend, choice->type, peak->side, memory,
							status);
		if (fine)
		{
			peak->flops = 2.0 * peak->side * peak->side * peak->side / seconds;
			peak->bytes = 3 * STREAM_FLOATS * sizeof(float) /
				time_stream(memory, backend->threads);
		}
	}
	if (fine)
		fprintf(out, "peak: %.1f GFLOP/s of a product of %dx%d matrices, memory %.1f GB/s%s%s\n",
				peak->flops / 1e9, peak->side, peak->side, peak->bytes / 1e9,
				backend->device_name[0] != '\0' ? ", " : "",
				backend->device_name);
	eng_arena_free(memory, bytes);
	reset_resident();
	if (backend != NULL)
		backend->close(backend);
	return fine;
}

size_t
eng_bench_resident(void)
{
	FILE	   *in = fopen("/proc/self/status", "r");
	char		line[128];
	long long	kib = 0;

	while (in != NULL && fgets(line, sizeof(line), in) != NULL)
		if (sscanf(line, "VmHWM: %lld kB", &kib) == 1)
			break;
	if (in != NULL)
		fclose(in);
	return (size_t) kib << 10;
}
