/*
 * test/emulated/device.cc
 *		Which devices there are, whose turn it is, errors.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime.h"

static thread_local int current;
static thread_local cudaError_t last_error = cudaSuccess;

void
emulated_stop(const char *what)
{
	fprintf(stderr, "emulated GPU: %s\n", what);
	abort();
}

long
emulated_setting(const char *name, long usual)
{
	const char *text = getenv(name);

	return text == NULL || text[0] == '\0' ? usual : strtol(text, NULL, 10);
}

bool
emulated_fails(const char *what)
{
	const char *list = getenv("AVC_EMULATED_FAIL");
	size_t		length = strlen(what);

	while (list != NULL)
	{
		if (strncmp(list, what, length) == 0 &&
			(list[length] == ',' || list[length] == '\0'))
			return true;
		list = strchr(list, ',');
		list = list != NULL ? list + 1 : NULL;
	}
	return false;
}

int
emulated_device_count()
{
	long		count = emulated_setting("AVC_EMULATED_DEVICES", 1);

	return count < 0 ? 0 : count > EMULATED_DEVICES ? EMULATED_DEVICES :
		(int) count;
}

int
emulated_device_current(void)
{
	return current;
}

int
emulated_device_compute(void)
{
	return (int) emulated_setting("AVC_EMULATED_COMPUTE", 90);
}

cudaError_t
emulated_error(cudaError_t code)
{
	if (code != cudaSuccess)
		last_error = code;
	return code;
}

cudaError_t
cudaGetLastError(void)
{
	cudaError_t code = last_error;

	last_error = cudaSuccess;
	return code;
}

cudaError_t
cudaPeekAtLastError(void)
{
	return last_error;
}

const char *
cudaGetErrorName(cudaError_t code)
{
	return cudaGetErrorString(code);
}

const char *
cudaGetErrorString(cudaError_t code)
{
	static thread_local char other[40];

	switch ((int) code)
	{
		case cudaSuccess:
			return "no error";
		case cudaErrorInvalidValue:
			return "invalid argument";
		case cudaErrorMemoryAllocation:
			return "out of memory";
		case cudaErrorInvalidConfiguration:
			return "invalid configuration argument";
		case cudaErrorNoDevice:
			return "no CUDA-capable device is detected";
		case cudaErrorInvalidDevice:
			return "invalid device ordinal";
		case cudaErrorInvalidResourceHandle:
			return "invalid resource handle";
		case cudaErrorNotReady:
			return "device not ready";
		case cudaErrorStreamCaptureUnsupported:
			return "operation not permitted when stream is capturing";
		case cudaErrorStreamCaptureInvalidated:
			return "operation failed due to a previous error during capture";
		default:
			snprintf(other, sizeof(other), "error %d", (int) code);
			return other;
	}
}

cudaError_t
cudaGetDeviceCount(int *count)
{
	*count = emulated_device_count();
	return emulated_error(*count > 0 ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t
cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device)
{
	int			compute = emulated_device_compute();

	if (device < 0 || device >= emulated_device_count())
		return emulated_error(cudaErrorInvalidDevice);
	memset(properties, 0, sizeof(*properties));
	snprintf(properties->name, sizeof(properties->name),
			 "a processor that plays a GPU");
	properties->major = compute / 10;
	properties->minor = compute % 10;
	properties->totalGlobalMem =
		(size_t) emulated_setting("AVC_EMULATED_MEMORY", 2048) << 20;
	properties->sharedMemPerBlock = 48 << 10;
	properties->maxThreadsPerBlock = 1024;
	properties->multiProcessorCount = 1;
	properties->pciBusID = device + 1;
	return cudaSuccess;
}

cudaError_t
cudaSetDevice(int device)
{
	if (device < 0 || device >= emulated_device_count())
		return emulated_error(cudaErrorInvalidDevice);
	current = device;
	return cudaSuccess;
}

cudaError_t
cudaGetDevice(int *device)
{
	*device = current;
	return cudaSuccess;
}
