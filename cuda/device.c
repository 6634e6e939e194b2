/*
 * cuda/device.c
 *		Memory of the device, copies, and what went wrong there.
 */
#include <cuda_runtime_api.h>

#include "cuda/cuda.h"

/*
 * Turn a failure into words; what a kernel did wrong shows at any later
 * call.
 */
static bool
check(EngCuda *cuda, cudaError_t code, EngStatus *status)
{
	if (code == cudaSuccess)
		return true;
	if (code == cudaErrorMemoryAllocation)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory on %s",
						cuda->name);
	return eng_fail(status, ENG_DEVICE, "%s failed: %s", cuda->name,
					cudaGetErrorString(code));
}

void *
eng_device_alloc(EngCuda *cuda, size_t size)
{
	void	   *memory = NULL;

	if (cudaMalloc(&memory, size + 256) != cudaSuccess)
	{
		/* running out is no failure of the device */
		(void) cudaGetLastError();
		return NULL;
	}
	eng_device_zero(cuda, memory, size);
	return memory;
}

void
eng_device_free(EngCuda *cuda, void *memory)
{
	(void) cuda;
	if (memory != NULL)
		(void) cudaFree(memory);
}

void
eng_device_zero(EngCuda *cuda, void *memory, size_t size)
{
	if (size > 0)
		(void) cudaMemsetAsync(memory, 0, size, cuda->stream);
}

bool
eng_device_upload(EngCuda *cuda, void *to, const void *from, size_t size,
				  EngStatus *status)
{
	/* from memory that is not pinned, this returns when it has been read */
	return size == 0 ||
		check(cuda, cudaMemcpyAsync(to, from, size, cudaMemcpyHostToDevice,
									cuda->stream), status);
}

bool
eng_device_download(EngCuda *cuda, void *to, const void *from, size_t size,
					EngStatus *status)
{
	return (size == 0 ||
			check(cuda, cudaMemcpyAsync(to, from, size,
										cudaMemcpyDeviceToHost,
										cuda->stream), status)) &&
		eng_device_check(cuda, status);
}

void
eng_device_copy(EngCuda *cuda, void *to, const void *from, size_t size)
{
	if (size > 0)
		(void) cudaMemcpyAsync(to, from, size, cudaMemcpyDeviceToDevice,
							   cuda->stream);
}

bool
eng_device_check(EngCuda *cuda, EngStatus *status)
{
	return check(cuda, cudaGetLastError(), status) &&
		check(cuda, cudaStreamSynchronize(cuda->stream), status);
}
