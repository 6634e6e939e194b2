/*
 * test/emulated/memory.c
 *		The "device's" memory, and the backend over it.
 *
 * One region of address space, closed while the host runs: whoever touches
 * it there ends by a signal.  Pieces lie one behind the other, each behind a
 * header; the first free one that is large enough is given out.
 */
#include "memory.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cuda/cuda.h"

#define REGION_SIZE	((size_t) 2 << 30)	/* of addresses; pages come with use */
#define GAP			4096
#define HEADER		256			/* before a piece */
#define IN_USE		0x75736564
#define FREE		0x66726565

static uint8_t *region;
static size_t used;
static int	openings;

typedef struct Piece
{
	size_t		size;			/* with the header */
	uint32_t	state;			/* IN_USE, FREE */
} Piece;

static void
protect(int protection)
{
	if (region != NULL && used > 0 &&
		mprotect(region, (used + GAP - 1) / GAP * GAP, protection) != 0)
		abort();
}

void
emulated_memory_open(void)
{
	if (openings++ == 0)
		protect(PROT_READ | PROT_WRITE);
}

void
emulated_memory_close(void)
{
	if (--openings == 0)
		protect(PROT_NONE);
}

/* One piece and all free ones behind it. */
static Piece *
joined(size_t at)
{
	Piece	   *piece = (Piece *) (region + at);

	while (piece->state == FREE && at + piece->size < used)
	{
		Piece	   *next = (Piece *) (region + at + piece->size);

		if (next->state != FREE)
			break;
		piece->size += next->size;
	}
	return piece;
}

static Piece *
find_piece(size_t size)
{
	Piece	   *piece;
	size_t		at;

	for (at = 0; at < used; at += piece->size)
	{
		piece = joined(at);
		if (piece->state != FREE || piece->size < size)
			continue;
		if (piece->size > size)
		{
			Piece	   *rest = (Piece *) (region + at + size);

			rest->size = piece->size - size;
			rest->state = FREE;
			piece->size = size;
		}
		return piece;
	}
	if (size > REGION_SIZE - used)
		return NULL;
	piece = (Piece *) (region + used);
	used += size;
	protect(PROT_READ | PROT_WRITE);
	piece->size = size;
	return piece;
}

void *
eng_device_alloc(EngCuda *cuda, size_t size)
{
	Piece	   *piece;

	(void) cuda;
	if (region == NULL)
	{
		region = mmap(NULL, REGION_SIZE, PROT_NONE,
					  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (region == MAP_FAILED)
			abort();
	}
	if (size > REGION_SIZE - 2 * GAP)
		return NULL;
	size = (size + HEADER - 1) / HEADER * HEADER + HEADER;
	emulated_memory_open();
	piece = find_piece(size);
	if (piece != NULL)
	{
		piece->state = IN_USE;
		memset((uint8_t *) piece + HEADER, 0, size - HEADER);
	}
	emulated_memory_close();
	return piece == NULL ? NULL : (uint8_t *) piece + HEADER;
}

void
eng_device_free(EngCuda *cuda, void *memory)
{
	uint8_t    *piece = memory;

	(void) cuda;
	if (memory == NULL)
		return;
	if (piece < region + HEADER || piece >= region + used)
		abort();
	emulated_memory_open();
	if (((Piece *) (piece - HEADER))->state != IN_USE)
		abort();
	((Piece *) (piece - HEADER))->state = FREE;
	emulated_memory_close();
}

void
eng_device_zero(EngCuda *cuda, void *memory, size_t size)
{
	(void) cuda;
	emulated_memory_open();
	memset(memory, 0, size);
	emulated_memory_close();
}

static bool
move(void *to, const void *from, size_t size)
{
	emulated_memory_open();
	memcpy(to, from, size);
	emulated_memory_close();
	return true;
}

bool
eng_device_upload(EngCuda *cuda, void *to, const void *from, size_t size,
				  EngStatus *status)
{
	(void) cuda;
	(void) status;
	return move(to, from, size);
}

bool
eng_device_download(EngCuda *cuda, void *to, const void *from, size_t size,
					EngStatus *status)
{
	(void) cuda;
	(void) status;
	return move(to, from, size);
}

void
eng_device_copy(EngCuda *cuda, void *to, const void *from, size_t size)
{
	(void) cuda;
	(void) move(to, from, size);
}

bool
eng_device_check(EngCuda *cuda, EngStatus *status)
{
	(void) cuda;
	(void) status;
	return true;
}
