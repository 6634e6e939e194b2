/*
 * engine/core/backend.c
 *		Opening a backend by name.
 */
#include "engine/core/plugin.h"

#include <omp.h>
#include <string.h>

EngBackend *
eng_backend_open(const char *name, int threads, EngStatus *status)
{
	if (threads <= 0)
		threads = omp_get_num_procs();
	if (threads > 256)
	{
		eng_fail(status, ENG_BAD_ARGUMENT, "%d threads are too many",
				 threads);
		return NULL;
	}
	if (strcmp(name, "cpu") == 0)
		return eng_backend_open_cpu(threads, status);
	if (strcmp(name, "ref") == 0)
		return eng_backend_open_ref(threads, status);
	if (strcmp(name, "cuda") == 0 || strncmp(name, "cuda:", 5) == 0)
		return eng_plugin_open(name, threads, status);
	eng_fail(status, ENG_UNSUPPORTED,
			 "unknown backend \"%s\"; this build has cpu, cuda, ref", name);
	return NULL;
}
