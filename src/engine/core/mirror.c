/*
 * engine/core/mirror.c
 *		The weights on a device, beside those of the host.
 */
#include "engine/core/mirror.h"

#include <stdlib.h>

struct EngMirror
{
	EngBackend *backend;
	bool		host_newer;
	bool		device_newer;
};

/* One of the parallel arrays, on both sides. */
typedef struct Pair
{
	float	   *host;
	float	  **device;
	size_t		size;
} Pair;

#define PAIRS	4

static void
list_pairs(Pair pairs[PAIRS], const EngParameters *p, EngRunArrays *run)
{
	size_t		trained = p->trained * sizeof(float);

	pairs[0] = (Pair) {p->values, &run->values, p->total * sizeof(float)};
	pairs[1] = (Pair) {p->gradients, &run->gradients, trained};
	pairs[2] = (Pair) {p->slots[0], &run->slots[0], trained};
	pairs[3] = (Pair) {p->slots[1], &run->slots[1], trained};
}

/*
 * Make the pairs from first on the device what they are on the host.
 */
static bool
follow(EngParameters *parameters, int first, EngStatus *status)
{
	EngBackend *backend = parameters->mirror->backend;
	Pair		pairs[PAIRS];
	int			i;

	list_pairs(pairs, parameters, &parameters->run);
	for (i = first; i < PAIRS; i++)
	{
		*pairs[i].device = NULL;
		if (pairs[i].host == NULL)
			continue;
		*pairs[i].device = backend->alloc(backend, pairs[i].size);
		if (*pairs[i].device == NULL)
			return eng_fail(status, ENG_NO_MEMORY,
							"out of memory on the device: %zu bytes for weights and the optimizer's state",
							pairs[i].size);
	}
	return true;
}

static void
drop(EngParameters *parameters, int first)
{
	EngBackend *backend = parameters->mirror->backend;
	Pair		pairs[PAIRS];
	int			i;

	list_pairs(pairs, parameters, &parameters->run);
	for (i = first; i < PAIRS; i++)
	{
		if (*pairs[i].device != NULL)
			backend->free(backend, *pairs[i].device, pairs[i].size);
		*pairs[i].device = NULL;
	}
}

bool
eng_mirror_open(EngParameters *parameters, EngBackend *backend,
				EngStatus *status)
{
	if (!backend->device)
		return true;
	parameters->mirror = calloc(1, sizeof(EngMirror));
	if (parameters->mirror == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	parameters->mirror->backend = backend;
	parameters->mirror->host_newer = true;
	return follow(parameters, 0, status);
}

bool
eng_mirror_slots(EngParameters *parameters, EngStatus *status)
{
	if (parameters->mirror == NULL)
		return true;
	drop(parameters, 2);
	return follow(parameters, 2, status);
}

void
eng_mirror_close(EngParameters *parameters)
{
	if (parameters->mirror == NULL)
		return;
	drop(parameters, 0);
	free(parameters->mirror);
	parameters->mirror = NULL;
}

bool
eng_mirror_to_device(EngParameters *parameters, EngStatus *status)
{
	EngMirror  *mirror = parameters->mirror;
	Pair		pairs[PAIRS];
	int			i;

	if (mirror == NULL || !mirror->host_newer)
		return true;
	list_pairs(pairs, parameters, &parameters->run);
	for (i = 0; i < PAIRS; i++)
		if (pairs[i].host != NULL &&
			!mirror->backend->upload(mirror->backend, *pairs[i].device,
									 pairs[i].host, pairs[i].size, status))
			return false;
	mirror->host_newer = false;
	return true;
}

bool
eng_mirror_to_host(const EngParameters *parameters, EngStatus *status)
{
	EngMirror  *mirror = parameters->mirror;
	EngRunArrays run = parameters->run;
	Pair		pairs[PAIRS];
	int			i;

	if (mirror == NULL || !mirror->device_newer)
		return true;
	list_pairs(pairs, parameters, &run);
	for (i = 0; i < PAIRS; i++)
		if (pairs[i].host != NULL &&
			!mirror->backend->download(mirror->backend, pairs[i].host,
									   *pairs[i].device, pairs[i].size,
									   status))
			return false;
	mirror->device_newer = false;
	return true;
}

void
eng_mirror_host_changed(const EngParameters *parameters)
{
	if (parameters->mirror != NULL)
		parameters->mirror->host_newer = true;
}

void
eng_mirror_device_changed(const EngParameters *parameters)
{
	if (parameters->mirror != NULL)
		parameters->mirror->device_newer = true;
}
