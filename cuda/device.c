/*
 * cuda/device.c
 *		Memory of the device, copies, and what went wrong there.
 *
 * Nothing waits but downloads.  What is small goes through a ring of pinned
 * slots, as copies from other memory may wait for the stream; a slot is used
 * again once its last copy is through.  Where memory cannot be pinned, copies
 * are made without: slower, the same bytes.
 */
#include <cuda_runtime_api.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/cuda.h"

#define SLOTS		8
#define SLOT_SIZE	((size_t) 256 << 10)

struct EngStaging
{
	uint8_t    *memory;			/* (SLOTS, SLOT_SIZE), pinned */
	cudaEvent_t through[SLOTS]; /* of a slot's last copy */
	int			events;			/* that were made */
	int			next;
	bool		sending;		/* pictures may not have been read yet */
};

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

/* ---- memory ----------------------------------------------------------------- */

void *
eng_device_try_alloc(EngCuda *cuda, size_t size)
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

void *
eng_device_alloc(EngCuda *cuda, size_t size)
{
	void	   *memory = eng_device_try_alloc(cuda, size);

	/* kept pictures are what can be done without */
	if (memory == NULL && eng_cuda_frames_give_up(cuda))
		memory = eng_device_try_alloc(cuda, size);
	return memory;
}

void
eng_device_free(EngCuda *cuda, void *memory)
{
	(void) cuda;
	if (memory != NULL)
		(void) cudaFree(memory);
}

size_t
eng_device_left(EngCuda *cuda)
{
	size_t		left = 0;
	size_t		all = 0;

	(void) cuda;
	if (cudaMemGetInfo(&left, &all) == cudaSuccess)
		return left;
	(void) cudaGetLastError();
	return 0;
}

void
eng_device_zero(EngCuda *cuda, void *memory, size_t size)
{
	if (size > 0)
		(void) cudaMemsetAsync(memory, 0, size, cuda->stream);
}

void
eng_device_copy(EngCuda *cuda, void *to, const void *from, size_t size)
{
	if (size > 0)
		(void) cudaMemcpyAsync(to, from, size, cudaMemcpyDeviceToDevice,
							   cuda->stream);
}

/* ---- pinned memory ------------------------------------------------------------ */

void *
eng_device_host_alloc(int device, size_t size)
{
	void	   *memory = NULL;

	if (cudaSetDevice(device) == cudaSuccess &&
		cudaHostAlloc(&memory, size, cudaHostAllocPortable) == cudaSuccess)
		return memory;
	(void) cudaGetLastError();
	return NULL;
}

void
eng_device_host_free(void *memory)
{
	if (memory != NULL)
		(void) cudaFreeHost(memory);
}

static bool
is_pinned(const void *memory)
{
	struct cudaPointerAttributes attributes;

	if (cudaPointerGetAttributes(&attributes, memory) == cudaSuccess)
		return attributes.type == cudaMemoryTypeHost;
	(void) cudaGetLastError();
	return false;
}

bool
eng_cuda_open_staging(EngCuda *cuda, EngStatus *status)
{
	EngStaging *staging = calloc(1, sizeof(EngStaging));

	cuda->staging = staging;
	if (staging == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	while (staging->events < SLOTS &&
		   cudaEventCreateWithFlags(&staging->through[staging->events],
									cudaEventDisableTiming) == cudaSuccess)
		staging->events++;
	if (staging->events == SLOTS)
		staging->memory = eng_device_host_alloc(cuda->device,
												SLOTS * SLOT_SIZE);
	/* without it, copies are slower */
	(void) cudaGetLastError();
	return true;
}

void
eng_cuda_close_staging(EngCuda *cuda)
{
	EngStaging *staging = cuda->staging;
	int			i;

	if (staging == NULL)
		return;
	for (i = 0; i < staging->events; i++)
		(void) cudaEventDestroy(staging->through[i]);
	eng_device_host_free(staging->memory);
	free(staging);
	cuda->staging = NULL;
}

/*
 * A slot that nothing is copied from or to; NULL: none of that size.
 */
static uint8_t *
take_slot(EngCuda *cuda, size_t size)
{
	EngStaging *staging = cuda->staging;

	if (staging == NULL || staging->memory == NULL || size > SLOT_SIZE)
		return NULL;
	staging->next = (staging->next + 1) % SLOTS;
	/* an event that was never recorded is through */
	if (cudaEventSynchronize(staging->through[staging->next]) != cudaSuccess)
		return NULL;
	return staging->memory + SLOT_SIZE * staging->next;
}

/* ---- up ------------------------------------------------------------------------- */

bool
eng_device_upload(EngCuda *cuda, void *to, const void *from, size_t size,
				  EngStatus *status)
{
	uint8_t    *slot = size == 0 ? NULL : take_slot(cuda, size);

	if (size == 0)
		return true;
	if (slot != NULL)
	{
		memcpy(slot, from, size);
		return check(cuda, cudaMemcpyAsync(to, slot, size,
										   cudaMemcpyHostToDevice,
										   cuda->stream), status) &&
			check(cuda, cudaEventRecord(cuda->staging->through[
											cuda->staging->next],
										cuda->stream), status);
	}
	/* from memory that is not pinned, this returns when it has been read */
	return check(cuda, cudaMemcpyAsync(to, from, size, cudaMemcpyHostToDevice,
									   cuda->stream), status) &&
		(!is_pinned(from) || eng_device_check(cuda, status));
}

bool
eng_device_send(EngCuda *cuda, void *to, const void *from, size_t size,
				EngStatus *status)
{
	cuda->staging->sending = true;
	return size == 0 ||
		check(cuda, cudaMemcpyAsync(to, from, size, cudaMemcpyHostToDevice,
									cuda->stream), status);
}

void
eng_device_settle(EngCuda *cuda)
{
	EngStatus	ignored = {ENG_OK, ""};

	if (cuda->staging->sending && cuda->ranks != NULL)
		(void) eng_cuda_wait(cuda, &ignored);
	else if (cuda->staging->sending)
		(void) cudaStreamSynchronize(cuda->stream);
	cuda->staging->sending = false;
}

/* ---- down ----------------------------------------------------------------------- */

bool
eng_device_fetch(EngCuda *cuda, const EngFetch *parts, int count,
				 EngStatus *status)
{
	size_t		total = 0;
	uint8_t    *slot;
	int			i;

	for (i = 0; i < count; i++)
		total += parts[i].size;
	slot = take_slot(cuda, total);
	/* a copy to memory that is not pinned would wait, whatever happens */
	if (slot == NULL && cuda->ranks != NULL && !eng_cuda_wait(cuda, status))
		return false;
	total = 0;
	for (i = 0; i < count; i++)
	{
		void	   *to = slot != NULL ? slot + total : parts[i].to;

		if (parts[i].size > 0 &&
			!check(cuda, cudaMemcpyAsync(to, parts[i].from, parts[i].size,
										 cudaMemcpyDeviceToHost,
										 cuda->stream), status))
			return false;
		total += parts[i].size;
	}
	if (!eng_device_check(cuda, status))
		return false;
	total = 0;
	for (i = 0; slot != NULL && i < count; i++)
	{
		memcpy(parts[i].to, slot + total, parts[i].size);
		total += parts[i].size;
	}
	return true;
}

bool
eng_device_download(EngCuda *cuda, void *to, const void *from, size_t size,
					EngStatus *status)
{
	EngFetch	part = {to, from, size};

	return eng_device_fetch(cuda, &part, 1, status);
}

bool
eng_device_check(EngCuda *cuda, EngStatus *status)
{
	if (!check(cuda, cudaGetLastError(), status) ||
		(cuda->ranks != NULL && !eng_cuda_wait(cuda, status)) ||
		!check(cuda, cudaStreamSynchronize(cuda->stream), status))
		return false;
	if (cuda->staging != NULL)
		cuda->staging->sending = false;
	return true;
}
