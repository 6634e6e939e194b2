/*
 * engine/bench_peak_device.c
 *		The limits of a GPU: products and memory, measured here and now.
 *
 * Work is queued several times before it is waited for, as a step queues it.
 */
#include "engine/bench.h"

#include <stdlib.h>
#include <string.h>

#include "engine/core/backend.h"
#include "engine/feed.h"

#define SIDE			8192	/* of the matrices */
#define EMULATED_SIDE	64
#define STREAM_BYTES	((size_t) 1 << 30)
#define QUEUED			8
#define ROUNDS			5

/* Memory of the device. */
typedef struct Place
{
	uint8_t    *base;
	size_t		size;
	size_t		side;
} Place;

static bool
wait_for_it(EngBackend *backend, const Place *place, EngStatus *status)
{
	float		word;

	return backend->download(backend, &word, place->base, sizeof(word),
							 status);
}

/*
 * Small numbers of the type, all over the matrices.
 */
static bool
fill(EngBackend *backend, const Place *place, EngType type,
	 EngStatus *status)
{
	size_t		count = 3 * place->side * place->side;
	float	   *host = malloc(count * sizeof(float));
	uint16_t   *half = (uint16_t *) host;
	size_t		i;
	bool		fine;

	if (host == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	for (i = 0; i < count; i++)
	{
		float		value = (float) (i * 2654435761u % 1021) * 1e-3f - 0.5f;
		uint32_t	bits;

		memcpy(&bits, &value, sizeof(bits));
		/*
		 * The weights, behind the other two matrices, are always float; the
		 * upper halves are finite in either narrow type.
		 */
		if (type != ENG_F32 && i < count / 3 * 2)
		{
			half[2 * i] = (uint16_t) (bits >> 16);
			half[2 * i + 1] = (uint16_t) (bits >> 16);
		}
		else
			host[i] = value;
	}
	fine = backend->upload(backend, place->base, host, count * sizeof(float),
						   status);
	free(host);
	return fine;
}

/*
 * Best time of one product of square matrices, which is what a linear layer
 * is.
 */
static bool
time_product(double *best, EngBackend *backend, EngType type,
			 const Place *place, EngStatus *status)
{
	int32_t		side = (int32_t) place->side;
	size_t		bytes = place->side * place->side * sizeof(float);
	EngConvShape shape = {
		.n = side, .h = 1, .w = 1, .c = side, .oh = 1, .ow = 1, .oc = side,
		.k = 1, .stride = 1, .x_type = type, .y_type = type
	};
	EngKernel  *kernel = backend->linear_plan(backend, &shape, status);
	size_t		size = kernel != NULL ? backend->kernel_workspace(kernel) : 0;
	void	   *workspace = size > 0 ? backend->alloc(backend, size) : NULL;
	bool		fine = kernel != NULL && (size == 0 || workspace != NULL);
	double		start = 0;
	int			i;

	for (i = 0; fine && i <= ROUNDS * QUEUED; i++)
	{
		if (i % QUEUED == 1)
			start = eng_feed_clock();
		/* the first run packs the weights */
		fine = backend->conv_forward(kernel, place->base + bytes,
									 place->base,
									 (float *) (place->base + 2 * bytes), NULL,
									 1, workspace, status) &&
			(i % QUEUED != 0 || wait_for_it(backend, place, status));
		if (i > 0 && i % QUEUED == 0)
		{
			double		each = (eng_feed_clock() - start) / QUEUED;

			if (i == QUEUED || each < *best)
				*best = each;
		}
	}
	if (kernel != NULL)
		backend->kernel_free(kernel);
	if (workspace != NULL)
		backend->free(backend, workspace, size);
	return fine;
}

/* Best time of a copy of half of the place. */
static bool
time_copy(double *best, EngBackend *backend, const Place *place,
		  EngStatus *status)
{
	bool		fine = true;
	int			i;
	int			j;

	for (i = 0; fine && i <= ROUNDS; i++)
	{
		double		start = eng_feed_clock();
		double		each;

		for (j = 0; j < QUEUED; j++)
			backend->copy(backend, place->base,
						  place->base + place->size / 2, place->size / 2);
		fine = wait_for_it(backend, place, status);
		each = (eng_feed_clock() - start) / QUEUED;
		if (i <= 1 || each < *best)
			*best = each;
	}
	return fine;
}

bool
eng_bench_peak_device(EngPeak *peak, EngBackend *backend, EngType type,
					  EngStatus *status)
{
	/* the emulation says what it is */
	bool		real = strstr(backend->device_name, "plays a GPU") == NULL;
	Place		place = {.side = real ? SIDE : EMULATED_SIDE};
	double		product = 0;
	double		copy = 0;
	bool		fine;

	place.size = 3 * place.side * place.side * sizeof(float);
	if (real && place.size < STREAM_BYTES)
		place.size = STREAM_BYTES;
	place.base = backend->alloc(backend, place.size);
	if (place.base == NULL)
		return eng_fail(status, ENG_NO_MEMORY,
						"the GPU has no %zu bytes to measure with",
						place.size);
	fine = fill(backend, &place, type, status) &&
		time_product(&product, backend, type, &place, status) &&
		time_copy(&copy, backend, &place, status);
	backend->free(backend, place.base, place.size);
	if (!fine)
		return false;
	peak->side = (int32_t) place.side;
	peak->flops = 2.0 * place.side * place.side * place.side / product;
	peak->bytes = place.size / copy;	/* half is read, and written */
	return true;
}
