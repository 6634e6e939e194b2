/*
 * engine/core/clones.h
 *		Compile a function for several instruction sets; the loader picks.
 *
 * Only for functions whose results do not depend on the vector width, that
 * is for element-wise loops and for sums with a fixed order.
 */
#ifndef ENG_CORE_CLONES_H
#define ENG_CORE_CLONES_H

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
#define ENG_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define ENG_CLONES
#endif

#endif
