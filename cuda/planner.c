/*
 * cuda/planner.c
 *		Plans for a device that is not here.
 *
 * A backend that knows the properties of a GPU and nothing else: networks are
 * planned on it as they would be there, but never run.  cuBLASLt has no way
 * of choosing without a device, so linear layers are taken on trust.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/kernels.h"
#include "engine/core/arena.h"

static void
planner_close(EngBackend *backend)
{
	EngCuda    *cuda = backend->state;

	eng_conv_properties_free(cuda->properties);
	free(cuda);
	free(backend);
}

static void
planner_enter(EngBackend *backend)
{
	(void) backend;
}

/* Pages come with their use, and nothing is used. */
static void *
planner_alloc(EngBackend *backend, size_t size)
{
	(void) backend;
	return eng_arena_alloc(size);
}

static void
planner_free(EngBackend *backend, void *memory, size_t size)
{
	(void) backend;
	eng_arena_free(memory, size);
}

/*
 * The compute capability, by which cuDNN's text has it: 900 for 9.0.
 */
static int
read_compute(const char *json)
{
	const char *key = strstr(json, "\"deviceVer\"");
	const char *colon = key != NULL ? strchr(key, ':') : NULL;

	return colon != NULL ? (int) strtol(colon + 1, NULL, 10) / 10 : 0;
}

EngBackend *
eng_cuda_open_planner(const char *json, EngStatus *status)
{
	EngBackend *backend = calloc(1, sizeof(EngBackend));
	EngCuda    *cuda = calloc(1, sizeof(EngCuda));

	if (backend == NULL || cuda == NULL)
	{
		free(backend);
		free(cuda);
		eng_fail(status, ENG_NO_MEMORY, "out of memory");
		return NULL;
	}
	backend->state = cuda;
	backend->name = "cuda";
	backend->threads = 1;
	eng_cuda_set_table(backend);
	eng_cuda_kernel_operations(backend);
	backend->device = false;
	backend->gpu = true;
	backend->regions = NULL;
	backend->close = planner_close;
	backend->enter = planner_enter;
	backend->alloc = planner_alloc;
	backend->free = planner_free;
	if (!eng_conv_properties(&cuda->properties, json, status))
	{
		planner_close(backend);
		return NULL;
	}
	cuda->compute = read_compute(json);
	if (cuda->compute < 80)
		backend->lacks_bf16 = "compute capability 8.0";
	return backend;
}
