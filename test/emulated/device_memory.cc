/*
 * test/emulated/device_memory.cc
 *		Memory of devices, pinned memory, copies.
 *
 * A device's memory is a range of addresses, closed but while work runs:
 * whoever touches it else ends by a signal.  What is new is full of bits that
 * are no number.  Behind each piece is a gap, looked at when it is freed.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "runtime.h"

#define REGION_SIZE	((size_t) 8 << 30)	/* of addresses; pages come with use */
#define PAGE		((size_t) 4096)
#define STEP		((size_t) 2 << 20)	/* opened and closed as a whole: a huge
										 * page */
#define ALIGNMENT	((size_t) 256)
#define GAP			ALIGNMENT
#define GAP_BYTE	0xa5
#define STAGED		((size_t) 64 << 10)	/* pageable copies that do not wait */

struct Piece
{
	size_t		size;			/* with the gap */
	size_t		asked;			/* 0: free */
};

struct Region
{
	uint8_t    *start;
	size_t		used;
	size_t		asked;			/* bytes given out */
	int			openings;
	std::map<size_t, Piece> pieces; /* by offset, one behind the other */
};

static Region regions[EMULATED_DEVICES];
static std::map<uintptr_t, size_t> pinned;

/* ---- open and closed -------------------------------------------------------- */

static void
protect(const Region *region, size_t from, size_t to, int protection)
{
	size_t		first = from / STEP * STEP;

	if (to > from && mprotect(region->start + first,
							  (to + STEP - 1) / STEP * STEP - first,
							  protection) != 0)
		emulated_stop("memory cannot be protected");
}

void
emulated_memory_open(int device)
{
	Region	   *region = &regions[device];

	if (region->openings++ == 0)
		protect(region, 0, region->used, PROT_READ | PROT_WRITE);
}

void
emulated_memory_close(int device)
{
	Region	   *region = &regions[device];

	if (--region->openings == 0)
		protect(region, 0, region->used, PROT_NONE);
}

void
emulated_close_all(std::vector<int> *which)
{
	for (int d = 0; d < EMULATED_DEVICES; d++)
		while (regions[d].openings > 0)
		{
			which->push_back(d);
			emulated_memory_close(d);
		}
}

void
emulated_open_again(const std::vector<int> &which)
{
	for (size_t i = 0; i < which.size(); i++)
		emulated_memory_open(which[i]);
}

/* ---- whose memory it is ------------------------------------------------------- */

/* The device whose addresses these are, or -1. */
static int
device_of(const void *at)
{
	for (int d = 0; d < EMULATED_DEVICES; d++)
		if (regions[d].start != NULL &&
			(const uint8_t *) at >= regions[d].start &&
			(const uint8_t *) at < regions[d].start + REGION_SIZE)
			return d;
	return -1;
}

static bool
holds(int device, const void *at, size_t size)
{
	const Region *region = &regions[device];
	size_t		offset = (size_t) ((const uint8_t *) at - region->start);
	std::map<size_t, Piece>::const_iterator piece =
		region->pieces.upper_bound(offset);

	if (piece == region->pieces.begin())
		return false;
	--piece;
	return offset - piece->first <= piece->second.asked &&
		size <= piece->second.asked - (offset - piece->first);
}

bool
emulated_memory_holds(const void *at, size_t size)
{
	Locked		locked;
	int			device = device_of(at);

	return device >= 0 && device == emulated_device_current() &&
		holds(device, at, size);
}

static bool
is_pinned(const void *at, size_t size)
{
	std::map<uintptr_t, size_t>::const_iterator piece =
		pinned.upper_bound((uintptr_t) at);

	if (piece == pinned.begin())
		return false;
	--piece;
	return (uintptr_t) at + size <= piece->first + piece->second;
}

/* ---- pieces ---------------------------------------------------------------- */

static void
join_free(Region *region, std::map<size_t, Piece>::iterator piece)
{
	std::map<size_t, Piece>::iterator next = std::next(piece);

	while (next != region->pieces.end() && next->second.asked == 0)
	{
		piece->second.size += next->second.size;
		next = region->pieces.erase(next);
	}
}

/* Offset of a free piece of a size, or REGION_SIZE. */
static size_t
find_piece(Region *region, size_t size)
{
	size_t		at;

	for (std::map<size_t, Piece>::iterator i = region->pieces.begin();
		 i != region->pieces.end(); ++i)
	{
		if (i->second.asked != 0)
			continue;
		join_free(region, i);
		if (i->second.size < size)
			continue;
		if (i->second.size > size)
			region->pieces[i->first + size] = {i->second.size - size, 0};
		i->second.size = size;
		return i->first;
	}
	if (size > REGION_SIZE - region->used)
		return REGION_SIZE;
	at = region->used;
	region->used += size;
	region->pieces[at] = {size, 0};
	return at;
}

static bool
start_region(Region *region)
{
	void	   *start;

	if (region->start != NULL)
		return true;
	start = mmap(NULL, REGION_SIZE + STEP, PROT_NONE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (start == MAP_FAILED)
		return false;
	region->start = (uint8_t *) (((uintptr_t) start + STEP - 1) / STEP * STEP);
	(void) madvise(region->start, REGION_SIZE, MADV_HUGEPAGE);
	return true;
}

static size_t
limit()
{
	return (size_t) emulated_setting("AVC_EMULATED_MEMORY", 2048) << 20;
}

static cudaError_t
take(int device, void **memory, size_t size)
{
	Region	   *region = &regions[device];
	size_t		whole = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT + GAP;
	size_t		at;

	if (size > limit() || region->asked > limit() - size ||
		!start_region(region))
		return cudaErrorMemoryAllocation;
	at = find_piece(region, whole);
	if (at == REGION_SIZE)
		return cudaErrorMemoryAllocation;
	region->pieces[at].asked = size;
	region->asked += size;
	protect(region, at, at + whole, PROT_READ | PROT_WRITE);
	memset(region->start + at, 0xff, size);
	memset(region->start + at + size, GAP_BYTE, whole - size);
	if (region->openings == 0)
		protect(region, at, at + whole, PROT_NONE);
	*memory = region->start + at;
	return cudaSuccess;
}

static void
look_at_gap(const Region *region, size_t at, const Piece *piece)
{
	size_t		gap = at + piece->asked;
	size_t		end = at + piece->size;

	protect(region, gap, end, PROT_READ | PROT_WRITE);
	for (size_t i = gap; i < end; i++)
		if (region->start[i] != GAP_BYTE)
			emulated_stop("something wrote behind a piece of memory");
	if (region->openings == 0)
		protect(region, gap, end, PROT_NONE);
}

cudaError_t
cudaMalloc(void **memory, size_t size)
{
	Locked		locked;
	cudaError_t code = emulated_forbidden_in_capture();

	*memory = NULL;
	if (code == cudaSuccess && emulated_fails("malloc"))
		code = cudaErrorMemoryAllocation;
	if (code == cudaSuccess && size > 0)
		code = take(emulated_device_current(), memory, size);
	return emulated_error(code);
}

cudaError_t
cudaFree(void *memory)
{
	Locked		locked;
	cudaError_t code = emulated_forbidden_in_capture();
	int			device = device_of(memory);

	if (memory == NULL || code != cudaSuccess)
		return emulated_error(code);
	if (device < 0)
		return emulated_error(cudaErrorInvalidValue);

	Region	   *region = &regions[device];
	std::map<size_t, Piece>::iterator piece =
		region->pieces.find((size_t) ((uint8_t *) memory - region->start));

	if (piece == region->pieces.end() || piece->second.asked == 0)
		return emulated_error(cudaErrorInvalidValue);
	emulated_run_device(device);
	look_at_gap(region, piece->first, &piece->second);
	region->asked -= piece->second.asked;
	piece->second.asked = 0;
	return cudaSuccess;
}

cudaError_t
cudaMemGetInfo(size_t *unused, size_t *total)
{
	Locked		locked;

	*total = limit();
	*unused = limit() - regions[emulated_device_current()].asked;
	return cudaSuccess;
}

/* ---- pinned memory of the host -------------------------------------------------- */

cudaError_t
cudaHostAlloc(void **memory, size_t size, unsigned int flags)
{
	Locked		locked;
	cudaError_t code = emulated_forbidden_in_capture();

	(void) flags;
	*memory = NULL;
	if (code != cudaSuccess || size == 0)
		return emulated_error(code);
	if (!emulated_fails("host_alloc"))
		*memory = aligned_alloc(PAGE, (size + PAGE - 1) / PAGE * PAGE);
	if (*memory == NULL)
		return emulated_error(cudaErrorMemoryAllocation);
	memset(*memory, 0xff, size);
	pinned[(uintptr_t) *memory] = size;
	return cudaSuccess;
}

cudaError_t
cudaMallocHost(void **memory, size_t size)
{
	return cudaHostAlloc(memory, size, cudaHostAllocDefault);
}

cudaError_t
cudaFreeHost(void *memory)
{
	Locked		locked;
	cudaError_t code = emulated_forbidden_in_capture();

	if (memory == NULL || code != cudaSuccess)
		return emulated_error(code);
	if (pinned.count((uintptr_t) memory) == 0)
		return emulated_error(cudaErrorInvalidValue);
	emulated_run_device(emulated_device_current());
	pinned.erase((uintptr_t) memory);
	free(memory);
	return cudaSuccess;
}

cudaError_t
cudaPointerGetAttributes(struct cudaPointerAttributes *attributes,
						 const void *at)
{
	Locked		locked;
	int			device = device_of(at);

	memset(attributes, 0, sizeof(*attributes));
	attributes->type = device >= 0 ? cudaMemoryTypeDevice :
		is_pinned(at, 1) ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
	attributes->device = device >= 0 ? device : emulated_device_current();
	if (device >= 0)
		attributes->devicePointer = (void *) at;
	if (attributes->type == cudaMemoryTypeHost)
		attributes->hostPointer = attributes->devicePointer = (void *) at;
	return cudaSuccess;
}

/* ---- copies ----------------------------------------------------------------- */

/* What a copy or memset has at one of its ends. */
struct End
{
	int			device;			/* -1: the host */
	bool		pageable;
	bool		valid;
};

static End
end_of(const void *at, size_t size)
{
	End			end;

	end.device = device_of(at);
	end.valid = end.device < 0 ? at != NULL : holds(end.device, at, size);
	end.pageable = end.device < 0 && !is_pinned(at, size);
	return end;
}

static bool
fits_kind(cudaMemcpyKind kind, const End *to, const End *from)
{
	switch (kind)
	{
		case cudaMemcpyHostToHost:
			return to->device < 0 && from->device < 0;
		case cudaMemcpyHostToDevice:
			return to->device >= 0 && from->device < 0;
		case cudaMemcpyDeviceToHost:
			return to->device < 0 && from->device >= 0;
		case cudaMemcpyDeviceToDevice:
			return to->device >= 0 && from->device >= 0;
		case cudaMemcpyDefault:
			return true;
	}
	return false;
}

static void
move(void *to, const void *from, size_t size, int to_device, int from_device)
{
	if (to_device >= 0)
		emulated_memory_open(to_device);
	if (from_device >= 0)
		emulated_memory_open(from_device);
	memmove(to, from, size);
	if (to_device >= 0)
		emulated_memory_close(to_device);
	if (from_device >= 0)
		emulated_memory_close(from_device);
}

/*
 * From or to pageable memory: small ones from it are read at once and written
 * in their turn; others wait for what came before.
 */
static cudaError_t
copy_pageable(Stream *stream, void *to, const void *from, size_t size,
			  const End *to_end, const End *from_end)
{
	int			to_device = to_end->device;
	int			from_device = from_end->device;

	if (stream->capture != NULL)
		return emulated_break_capture(stream,
									  cudaErrorStreamCaptureUnsupported);
	if (to_device >= 0 && size <= STAGED)
	{
		std::shared_ptr<std::vector<uint8_t>> staged =
			std::make_shared<std::vector<uint8_t>>(
				(const uint8_t *) from, (const uint8_t *) from + size);

		return emulated_submit(stream, [=]() {
			move(to, staged->data(), size, to_device, -1);
			return true;
		});
	}
	emulated_run(stream, stream->submitted);
	move(to, from, size, to_device, from_device);
	return cudaSuccess;
}

static cudaError_t
copy(void *to, const void *from, size_t size, cudaMemcpyKind kind,
	 Stream *stream)
{
	End			to_end = end_of(to, size);
	End			from_end = end_of(from, size);
	int			to_device = to_end.device;
	int			from_device = from_end.device;

	if (size == 0)
		return cudaSuccess;
	if (stream == NULL)
		return cudaErrorInvalidResourceHandle;
	if (!to_end.valid || !from_end.valid ||
		!fits_kind(kind, &to_end, &from_end))
		return cudaErrorInvalidValue;
	if (to_end.pageable || from_end.pageable)
		return copy_pageable(stream, to, from, size, &to_end, &from_end);
	return emulated_submit(stream, [=]() {
		move(to, from, size, to_device, from_device);
		return true;
	});
}

cudaError_t
cudaMemcpyAsync(void *to, const void *from, size_t size,
				enum cudaMemcpyKind kind, cudaStream_t stream)
{
	Locked		locked;

	return emulated_error(copy(to, from, size, kind,
							   emulated_stream(stream)));
}

cudaError_t
cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind)
{
	Locked		locked;
	Stream	   *stream = emulated_stream(NULL);
	cudaError_t code = emulated_forbidden_in_capture();

	if (code == cudaSuccess)
		code = copy(to, from, size, kind, stream);
	if (code == cudaSuccess)
		emulated_run(stream, stream->submitted);
	return emulated_error(code);
}

cudaError_t
cudaMemsetAsync(void *memory, int value, size_t size, cudaStream_t handle)
{
	Locked		locked;
	Stream	   *stream = emulated_stream(handle);
	End			end = end_of(memory, size);

	if (size == 0)
		return cudaSuccess;
	if (stream == NULL)
		return emulated_error(cudaErrorInvalidResourceHandle);
	if (!end.valid || end.device < 0)
		return emulated_error(cudaErrorInvalidValue);
	return emulated_error(emulated_submit(stream, [=]() {
		emulated_memory_open(end.device);
		memset(memory, value, size);
		emulated_memory_close(end.device);
		return true;
	}));
}
