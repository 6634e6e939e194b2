/*
 * test/emulated/kernels.c
 *		Convolutions and linear layers on the device, by the loops of ref.
 */
#include <cuda_runtime_api.h>
#include <cudnn_graph.h>
#include <stdlib.h>

#include "cuda/kernels.h"
#include "stream.h"

static EngBackend *ref;

typedef struct Planned
{
	EngKernel  *kernel;			/* of ref */
	EngCuda    *cuda;
} Planned;

typedef struct Run
{
	EngKernel  *kernel;
	int			what;
	void	   *to;
	float	   *bias;
	const void *a;
	const void *b;
} Run;

static void
run(void *argument)
{
	Run		   *r = argument;
	EngStatus	status = {ENG_OK, ""};
	bool		ok;

	if (r->what == ENG_CONV_FORWARD)
		ok = ref->conv_forward(r->kernel, r->to, r->a, r->b, r->bias, 0, NULL,
							   &status);
	else if (r->what == ENG_CONV_DATA)
		ok = ref->conv_backward_data(r->kernel, r->to, r->a, r->b, 0, NULL,
									 &status);
	else
		ok = ref->conv_backward_weight(r->kernel, r->to, r->bias, r->a, r->b,
									   NULL, &status);
	if (!ok)
		emulated_stop(status.message);
}

static bool
queue(EngKernel *kernel, int what, void *to, const float *bias, const void *a,
	  const void *b)
{
	Planned    *planned = (Planned *) kernel;
	Run		   *r = malloc(sizeof(Run));

	if (r == NULL)
		emulated_stop("no memory");
	*r = (Run) {planned->kernel, what, to, (float *) bias, a, b};
	return emulated_stream_run(planned->cuda->stream, run, r, free);
}

static EngKernel *
conv_plan(EngBackend *backend, const EngConvShape *shape, EngStatus *status)
{
	Planned    *planned = malloc(sizeof(Planned));

	if (planned == NULL)
		emulated_stop("no memory");
	planned->kernel = ref->conv_plan(ref, shape, status);
	planned->cuda = backend->state;
	return (EngKernel *) planned;
}

static void
kernel_free(EngKernel *kernel)
{
	if (kernel == NULL)
		return;
	(void) cudaDeviceSynchronize();
	ref->kernel_free(((Planned *) kernel)->kernel);
	free(kernel);
}

static size_t
kernel_size(const EngKernel *kernel)
{
	(void) kernel;
	return 0;
}

static const char *
kernel_text(const EngKernel *kernel)
{
	(void) kernel;
	return "loops";
}

static bool
conv_forward(EngKernel *kernel, void *y, const void *x, const float *weight,
			 const float *bias, uint64_t version, void *workspace,
			 EngStatus *status)
{
	(void) version;
	(void) workspace;
	(void) status;
	return queue(kernel, ENG_CONV_FORWARD, y, bias, x, weight);
}

static bool
conv_backward_data(EngKernel *kernel, void *dx, const void *dy,
				   const float *weight, uint64_t version, void *workspace,
				   EngStatus *status)
{
	(void) version;
	(void) workspace;
	(void) status;
	return queue(kernel, ENG_CONV_DATA, dx, NULL, dy, weight);
}

static bool
conv_backward_weight(EngKernel *kernel, float *dweight, float *dbias,
					 const void *x, const void *dy, void *workspace,
					 EngStatus *status)
{
	(void) workspace;
	(void) status;
	return queue(kernel, ENG_CONV_WEIGHT, dweight, dbias, x, dy);
}

void
eng_cuda_kernel_operations(EngBackend *backend)
{
	EngStatus	status = {ENG_OK, ""};

	if (ref == NULL)
		ref = eng_backend_open_ref(1, &status);
	if (ref == NULL)
		emulated_stop(status.message);
	backend->conv_plan = conv_plan;
	backend->linear_plan = conv_plan;
	backend->kernel_free = kernel_free;
	backend->kernel_workspace = kernel_size;
	backend->kernel_bytes = kernel_size;
	backend->kernel_text = kernel_text;
	backend->conv_forward = conv_forward;
	backend->conv_backward_data = conv_backward_data;
	backend->conv_backward_weight = conv_backward_weight;
}

EngBackend *
eng_cuda_open_planner(const char *json, EngStatus *status)
{
	(void) json;
	eng_fail(status, ENG_UNSUPPORTED, "nothing is planned here");
	return NULL;
}

bool
eng_cuda_open_blas(EngCuda *cuda, EngStatus *status)
{
	(void) cuda;
	(void) status;
	return true;
}

void
eng_cuda_close_blas(EngCuda *cuda)
{
	(void) cuda;
}

cudnnStatus_t
cudnnCreate(cudnnHandle_t *handle)
{
	*handle = malloc(1);
	return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t
cudnnDestroy(cudnnHandle_t handle)
{
	free(handle);
	return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t
cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream)
{
	(void) handle;
	(void) stream;
	return CUDNN_STATUS_SUCCESS;
}

const char *
cudnnGetErrorString(cudnnStatus_t status)
{
	(void) status;
	return "error";
}
