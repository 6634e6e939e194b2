/*
 * engine/ref/backend.c
 *		The reference backend's table.
 */
#include <omp.h>
#include <stdlib.h>

#include "engine/ref/ref.h"

static void
ref_close(EngBackend *backend)
{
	free(backend);
}

static void
ref_enter(EngBackend *backend)
{
	omp_set_num_threads(backend->threads);
}

EngBackend *
eng_backend_open_ref(int threads, EngStatus *status)
{
	EngBackend *backend = calloc(1, sizeof(EngBackend));

	if (backend == NULL)
	{
		eng_fail(status, ENG_NO_MEMORY, "out of memory");
		return NULL;
	}
	backend->version = ENG_BACKEND_VERSION;
	backend->name = "ref";
	backend->threads = threads;
	backend->close = ref_close;
	backend->enter = ref_enter;
	eng_host_operations(backend);
	backend->norm_workspace = eng_ref_norm_workspace;
	backend->norm_forward = eng_ref_norm_forward;
	backend->norm_backward = eng_ref_norm_backward;
	eng_ref_conv_operations(backend);
	eng_ref_map_operations(backend);
	eng_ref_token_operations(backend);
	return backend;
}
