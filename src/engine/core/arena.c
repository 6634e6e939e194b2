/*
 * engine/core/arena.c
 *		Large zeroed memory straight from the system, on huge pages if it can.
 */
#include "engine/core/arena.h"

#include <stdint.h>
#include <sys/mman.h>

#define HUGE_PAGE	((size_t) 2 << 20)

/*
 * Huge pages need an address of their own alignment, which mmap does not
 * promise: small pieces take what comes, large ones are rounded up to whole
 * huge pages and most kernels then align them.
 */
static size_t
mapped_size(size_t size)
{
	size_t		unit = size >= HUGE_PAGE ? HUGE_PAGE : 4096;

	if (size == 0)
		size = 1;
	if (size > SIZE_MAX - unit)
		return 0;
	return (size + unit - 1) / unit * unit;
}

void *
eng_arena_alloc(size_t size)
{
	size_t		mapped = mapped_size(size);
	void	   *memory;

	if (mapped == 0)
		return NULL;
	memory = mmap(NULL, mapped, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return NULL;
	if (mapped >= HUGE_PAGE)
		(void) madvise(memory, mapped, MADV_HUGEPAGE);
	return memory;
}

void
eng_arena_free(void *memory, size_t size)
{
	if (memory != NULL)
		(void) munmap(memory, mapped_size(size));
}
