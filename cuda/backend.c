/*
 * cuda/backend.c
 *		Opening a GPU, and the one symbol of the library.
 */
#include <cuda_runtime_api.h>
#include <cudnn_graph.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/kernels.h"
#include "engine/core/plugin.h"

#define OLDEST	75				/* compute capability */

static void
cuda_close(EngBackend *backend)
{
	EngCuda    *cuda = backend->state;

	/* what is freed below waits for the device */
	eng_cuda_leave(cuda);
	if (cuda->step != NULL || cuda->sums != NULL)
		eng_cuda_close_step(cuda);
	eng_cuda_close_frames(cuda);
	eng_cuda_close_staging(cuda);
	eng_cuda_close_blas(cuda);
	if (cuda->cudnn != NULL)
		(void) cudnnDestroy(cuda->cudnn);
	if (cuda->stream != NULL)
		(void) cudaStreamDestroy(cuda->stream);
	free(cuda);
	free(backend);
}

static void
cuda_enter(EngBackend *backend)
{
	const EngCuda *cuda = backend->state;

	(void) cudaSetDevice(cuda->device);
}

/*
 * How many GPUs there are, or why there is none.
 */
static bool
count_devices(int *count, EngStatus *status)
{
	cudaError_t code = cudaGetDeviceCount(count);

	if (code == cudaErrorInsufficientDriver)
		return eng_fail(status, ENG_DEVICE,
						"this machine has no NVIDIA driver, or one older than this build's CUDA %d.%d",
						CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
	if (code == cudaErrorNoDevice || (code == cudaSuccess && *count == 0))
		return eng_fail(status, ENG_DEVICE, "this machine has no GPU");
	if (code != cudaSuccess)
		return eng_fail(status, ENG_DEVICE, "the GPU cannot be asked: %s",
						cudaGetErrorString(code));
	return true;
}

static bool
take_device(EngCuda *cuda, int device, EngStatus *status)
{
	struct cudaDeviceProp properties;
	cudaError_t code;
	int			count = 0;

	if (!count_devices(&count, status))
		return false;
	if (device >= count)
		return eng_fail(status, ENG_DEVICE,
						"there is no device cuda:%d, this machine has %d",
						device, count);
	cuda->device = device < 0 ? 0 : device;
	code = cudaGetDeviceProperties(&properties, cuda->device);
	if (code != cudaSuccess)
		return eng_fail(status, ENG_DEVICE, "cuda:%d cannot be asked: %s",
						cuda->device, cudaGetErrorString(code));
	snprintf(cuda->name, sizeof(cuda->name), "%.200s, sm_%d%d",
			 properties.name, properties.major, properties.minor);
	cuda->compute = 10 * properties.major + properties.minor;
	cuda->memory = properties.totalGlobalMem;
	if (cuda->compute < OLDEST)
		return eng_fail(status, ENG_DEVICE,
						"%s is too old: its compute capability is %d.%d, %d.%d is needed",
						cuda->name, properties.major, properties.minor,
						OLDEST / 10, OLDEST % 10);
	return true;
}

static bool
start(EngCuda *cuda, EngStatus *status)
{
	cudaStream_t stream;
	cudnnHandle_t handle;
	cudnnStatus_t made;

	if (cudaSetDevice(cuda->device) != cudaSuccess ||
		cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) !=
		cudaSuccess)
		return eng_fail(status, ENG_DEVICE, "%s does not start: %s",
						cuda->name, cudaGetErrorString(cudaGetLastError()));
	cuda->stream = stream;
	made = cudnnCreate(&handle);
	if (made != CUDNN_STATUS_SUCCESS)
		return eng_fail(status, ENG_DEVICE, "cuDNN does not start on %s: %s",
						cuda->name, cudnnGetErrorString(made));
	cuda->cudnn = handle;
	if (cudnnSetStream(handle, stream) != CUDNN_STATUS_SUCCESS)
		return eng_fail(status, ENG_DEVICE, "cuDNN takes no stream");
	return eng_cuda_open_staging(cuda, status) &&
		eng_cuda_open_frames(cuda, status) &&
		eng_cuda_open_blas(cuda, status) &&
		eng_cuda_open_step(cuda, status);
}

static EngBackend *
cuda_open(int device, int threads, EngStatus *status)
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
	backend->threads = threads;
	backend->gpu = true;
	eng_cuda_set_table(backend);
	eng_cuda_kernel_operations(backend);
	backend->close = cuda_close;
	backend->enter = cuda_enter;
	if (!take_device(cuda, device, status) || !start(cuda, status))
	{
		cuda_close(backend);
		return NULL;
	}
	snprintf(backend->device_name, sizeof(backend->device_name), "%s",
			 cuda->name);
	backend->memory = cuda->memory;
	backend->host_memory = (EngHostMemory) {
		eng_device_host_alloc, eng_device_host_free, cuda->device
	};
	eng_cuda_set_graphs(backend);
	eng_cuda_set_frames(backend);
	if (cuda->compute < 80)
		backend->lacks_bf16 = "compute capability 8.0";
	return backend;
}

static int
cuda_count(EngStatus *status)
{
	int			count = 0;

	return count_devices(&count, status) ? count : 0;
}

const EngPlugin avcurate_cuda_plugin = {
	ENG_BACKEND_VERSION, sizeof(EngBackend), cuda_open, eng_cuda_open_planner,
	cuda_count
};
