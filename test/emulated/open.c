/*
 * test/emulated/open.c
 *		The GPU backend without a GPU: its kernels emulated, its convolutions
 *		and linear layers those of ref.
 */
#include "memory.h"

#include <stdio.h>
#include <stdlib.h>

#include "cuda/table.h"
#include "engine/core/plugin.h"

static EngBackend *ref;			/* whose kernels run in the device's memory */

static void
emulated_close(EngBackend *backend)
{
	eng_cuda_close_step(backend->state);
	free(backend->state);
	free(backend);
}

static void
emulated_enter(EngBackend *backend)
{
	(void) backend;
	ref->enter(ref);
}

static bool
conv_forward(EngKernel *kernel, void *y, const void *x, const float *weight,
			 const float *bias, uint64_t version, void *workspace,
			 EngStatus *status)
{
	bool		ok;

	emulated_memory_open();
	ok = ref->conv_forward(kernel, y, x, weight, bias, version, workspace,
						   status);
	emulated_memory_close();
	return ok;
}

static bool
conv_backward_data(EngKernel *kernel, void *dx, const void *dy,
				   const float *weight, uint64_t version, void *workspace,
				   EngStatus *status)
{
	bool		ok;

	emulated_memory_open();
	ok = ref->conv_backward_data(kernel, dx, dy, weight, version, workspace,
								 status);
	emulated_memory_close();
	return ok;
}

static bool
conv_backward_weight(EngKernel *kernel, float *dweight, float *dbias,
					 const void *x, const void *dy, void *workspace,
					 EngStatus *status)
{
	bool		ok;

	emulated_memory_open();
	ok = ref->conv_backward_weight(kernel, dweight, dbias, x, dy, workspace,
								   status);
	emulated_memory_close();
	return ok;
}

static EngBackend *
emulated_open(int device, int threads, EngStatus *status)
{
	EngBackend *backend = calloc(1, sizeof(EngBackend));
	EngCuda    *cuda = calloc(1, sizeof(EngCuda));

	(void) device;
	if (ref == NULL)
		ref = eng_backend_open_ref(1, status);
	if (backend == NULL || cuda == NULL || ref == NULL)
	{
		free(backend);
		free(cuda);
		eng_fail(status, ENG_NO_MEMORY, "out of memory");
		return NULL;
	}
	eng_cuda_set_table(backend);
	backend->name = "emulated";
	snprintf(backend->device_name, sizeof(backend->device_name),
			 "a processor that plays a GPU");
	backend->state = cuda;
	backend->threads = threads;
	backend->close = emulated_close;
	backend->enter = emulated_enter;
	backend->conv_plan = ref->conv_plan;
	backend->linear_plan = ref->linear_plan;
	backend->kernel_free = ref->kernel_free;
	backend->kernel_workspace = ref->kernel_workspace;
	backend->kernel_bytes = ref->kernel_bytes;
	backend->kernel_text = ref->kernel_text;
	backend->conv_forward = conv_forward;
	backend->conv_backward_data = conv_backward_data;
	backend->conv_backward_weight = conv_backward_weight;
	if (!eng_cuda_open_step(cuda, status))
	{
		emulated_close(backend);
		return NULL;
	}
	return backend;
}

const EngPlugin avcurate_cuda_plugin = {
	ENG_BACKEND_VERSION, sizeof(EngBackend), emulated_open
};
