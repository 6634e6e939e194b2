/*
 * engine/core/backend.c
 *		Opening a backend by name.
 */
#include "engine/core/devices.h"
#include "engine/core/plugin.h"

#include <omp.h>
#include <stdio.h>
#include <string.h>

/* The processor instead of a GPU, and why. */
static EngBackend *
open_instead(int threads, const char *why, EngStatus *status)
{
	EngBackend *backend = eng_backend_open_cpu(threads, status);

	if (backend != NULL)
		snprintf(backend->note, sizeof(backend->note), "%.500s", why);
	return backend;
}

static EngBackend *
open_auto(int threads, EngStatus *status)
{
	EngBackend *backend;
	EngStatus	why = {0};

	if (!eng_device_gpu_seen())
		return eng_backend_open_cpu(threads, status);
	backend = eng_plugin_open("cuda", threads, &why);
	return backend != NULL ? backend :
		open_instead(threads, why.message, status);
}

int
eng_backend_list(const char *name, EngDeviceName devices[ENG_MOST_DEVICES],
				 EngStatus *status)
{
	int			count = eng_device_list(name, devices);

	if (count == 0 && eng_device_is_known(name))
	{
		count = eng_plugin_count(status);
		if (count > ENG_MOST_DEVICES)
			count = ENG_MOST_DEVICES;
		for (int i = 0; i < count; i++)
			snprintf(devices[i], sizeof(EngDeviceName), "cuda:%d", i);
	}
	else if (count == 0)
		eng_fail(status, ENG_BAD_ARGUMENT,
				 "\"%s\" is no list of devices; cuda:0,1 is one", name);
	return count;
}

/*
 * For those who know nothing of ranks.
 */
static EngBackend *
open_first(const char *name, int threads, EngStatus *status)
{
	EngDeviceName devices[ENG_MOST_DEVICES];

	return eng_backend_list(name, devices, status) == 0 ? NULL :
		eng_plugin_open(devices[0], threads, status);
}

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
	if (eng_device_is_list(name))
		return open_first(name, threads, status);
	if (strcmp(name, "auto") == 0)
		return open_auto(threads, status);
	if (strcmp(name, "cpu") == 0)
		return eng_backend_open_cpu(threads, status);
	if (strcmp(name, "ref") == 0)
		return eng_backend_open_ref(threads, status);
	if (strncmp(name, ENG_PLAN_PREFIX, strlen(ENG_PLAN_PREFIX)) == 0)
		return eng_plugin_plan(name + strlen(ENG_PLAN_PREFIX), status);
	if (strcmp(name, "cuda") == 0 || strncmp(name, "cuda:", 5) == 0)
		return eng_plugin_open(name, threads, status);
	eng_fail(status, ENG_UNSUPPORTED,
			 "unknown backend \"%s\"; this build has auto, cpu, cuda, ref",
			 name);
	return NULL;
}

EngType
eng_backend_usual_type(const EngBackend *backend)
{
	if (!backend->device)
		return ENG_F32;
	return backend->lacks_bf16 == NULL ? ENG_BF16 : ENG_F16;
}

bool
eng_backend_check_type(const EngBackend *backend, EngType type,
					   EngStatus *status)
{
	if (type == ENG_BF16 && backend->lacks_bf16 != NULL)
		return eng_fail(status, ENG_UNSUPPORTED,
						"precision bf16 cannot be used: the %s lacks %s",
						backend->takes_f16 ? "GPU" : "processor",
						backend->lacks_bf16);
	if (type == ENG_F16 && !backend->takes_f16)
		return eng_fail(status, ENG_UNSUPPORTED,
						"precision f16 cannot be used: GPUs alone compute in it");
	return true;
}

bool
eng_backend_grow(EngBackend *backend, uint8_t **memory, size_t *have,
				 size_t size, EngStatus *status)
{
	if (*memory != NULL && size <= *have)
		return true;
	backend->free(backend, *memory, *have);
	*have = 0;
	*memory = backend->alloc(backend, size);
	if (*memory == NULL)
		return eng_fail(status, ENG_NO_MEMORY,
						"out of memory: %zu bytes for activations", size);
	*have = size;
	return true;
}
