/*
 * engine/core/simd.h
 *		Kernels in one source, compiled for several instruction sets.
 *
 * ENG_CLONES goes before a static function: the loader picks the version for
 * the processor.  OpenMP regions must stand outside: what the compiler
 * outlines of them is not cloned.
 */
#ifndef ENG_CORE_SIMD_H
#define ENG_CORE_SIMD_H

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
#define ENG_CLONES	__attribute__((target_clones("arch=x86-64-v4", \
												 "arch=x86-64-v3", \
												 "default")))
#else
#define ENG_CLONES
#endif

#endif
