/*
 * engine/core/arena.h
 *		Large zeroed memory straight from the system, on huge pages if it can.
 */
#ifndef ENG_CORE_ARENA_H
#define ENG_CORE_ARENA_H

#include <stddef.h>

/* Every piece inside an arena starts at a multiple of this many bytes. */
#define ENG_ALIGN	64

static inline size_t
eng_align(size_t size)
{
	return (size + ENG_ALIGN - 1) & ~(size_t) (ENG_ALIGN - 1);
}

/* NULL when there is no memory; size 0 gives a piece that can be freed. */
extern void *eng_arena_alloc(size_t size);
extern void eng_arena_free(void *memory, size_t size);

#endif
