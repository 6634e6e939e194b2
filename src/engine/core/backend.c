/*
 * engine/core/backend.c
 *		Opening a backend by name.
 */
#include "engine/core/backend.h"

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
	eng_fail(status, ENG_UNSUPPORTED,
			 "unknown backend \"%s\"; this build has cpu, ref", name);
	return NULL;
}
