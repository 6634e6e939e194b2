/*
 * engine/cpu/backend.c
 *		The table of the backend for ordinary processors.
 */
#include <omp.h>
#include <stdlib.h>

#include "engine/cpu/cpu.h"

static void
cpu_close(EngBackend *backend)
{
	eng_dnnl_close(backend->state);
	free(backend);
}

/* oneDNN fixes a primitive's threads when it is made: never change them. */
static void
cpu_enter(EngBackend *backend)
{
	omp_set_dynamic(0);
	omp_set_num_threads(backend->threads);
}

static void
cpu_kernel_free(EngKernel *kernel)
{
	eng_dnnl_conv_free(kernel->forward);
	eng_dnnl_conv_free(kernel->data);
	eng_cpu_shares_free(kernel->weight);
	free(kernel);
}

static size_t
cpu_kernel_workspace(const EngKernel *kernel)
{
	size_t		sparse = kernel->shape.sparse &&
		(kernel->shape.need_data || kernel->shape.need_weight) ?
		eng_cpu_sparse_workspace(&kernel->shape) : 0;

	return sparse > kernel->workspace ? sparse : kernel->workspace;
}

static size_t
cpu_kernel_bytes(const EngKernel *kernel)
{
	return (kernel->forward ? eng_dnnl_conv_packed(kernel->forward) : 0) +
		(kernel->data ? eng_dnnl_conv_packed(kernel->data) : 0);
}

static const char *
cpu_kernel_text(const EngKernel *kernel)
{
	return kernel->text;
}

static bool
cpu_conv_forward(EngKernel *kernel, void *y, const void *x,
				 const float *weight, const float *bias, uint64_t version,
				 void *workspace, EngStatus *status)
{
	return kernel->class->forward(kernel, y, x, weight, bias, version,
								  workspace, status);
}

static bool
cpu_conv_backward_data(EngKernel *kernel, void *dx, const void *dy,
					   const float *weight, uint64_t version,
					   void *workspace, EngStatus *status)
{
	bool		done = false;

	if (kernel->shape.sparse &&
		!eng_cpu_sparse_data(&kernel->shape, dx, dy, weight, workspace,
							 &done, status))
		return false;
	if (done)
		return true;
	return kernel->class->backward_data(kernel, dx, dy, weight, version,
										workspace, status);
}

static bool
cpu_conv_backward_weight(EngKernel *kernel, float *dweight, float *dbias,
						 const void *x, const void *dy, void *workspace,
						 EngStatus *status)
{
	bool		done = false;

	if (kernel->shape.sparse &&
		!eng_cpu_sparse_weight(&kernel->shape, dweight, dbias, x, dy,
							   workspace, &done, status))
		return false;
	if (done)
		return true;
	return kernel->class->backward_weight(kernel, dweight, dbias, x, dy,
										  workspace, status);
}

static void
set_operations(EngBackend *backend)
{
	backend->close = cpu_close;
	backend->enter = cpu_enter;
	eng_host_operations(backend);
	backend->conv_plan = eng_cpu_conv_plan;
	backend->linear_plan = eng_cpu_linear_plan;
	backend->kernel_free = cpu_kernel_free;
	backend->kernel_workspace = cpu_kernel_workspace;
	backend->kernel_bytes = cpu_kernel_bytes;
	backend->kernel_text = cpu_kernel_text;
	backend->conv_forward = cpu_conv_forward;
	backend->conv_backward_data = cpu_conv_backward_data;
	backend->conv_backward_weight = cpu_conv_backward_weight;
	backend->norm_workspace = eng_cpu_norm_workspace;
	backend->norm_forward = eng_cpu_norm_forward;
	backend->norm_backward = eng_cpu_norm_backward;
	eng_cpu_map_operations(backend);
	eng_cpu_token_operations(backend);
	eng_cpu_update_operations(backend);
}

EngBackend *
eng_backend_open_cpu(int threads, EngStatus *status)
{
	EngBackend *backend = calloc(1, sizeof(EngBackend));

	if (backend == NULL)
	{
		eng_fail(status, ENG_NO_MEMORY, "out of memory");
		return NULL;
	}
	backend->version = ENG_BACKEND_VERSION;
	backend->name = "cpu";
	backend->threads = threads;
	set_operations(backend);
	cpu_enter(backend);
	backend->state = eng_dnnl_open(status);
	if (backend->state == NULL)
	{
		free(backend);
		return NULL;
	}
	if (!eng_dnnl_has_bf16())
		backend->lacks_bf16 = "AVX512_BF16";
	return backend;
}
