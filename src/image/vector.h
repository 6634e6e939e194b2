/*
 * image/vector.h
 *		Two builds of one loop: for any processor, and for one with AVX2.
 *
 * A loop over samples is written once, as a static function that is always
 * inlined; ENG_VECTOR makes the function that the rest calls, and which picks
 * the build when it runs.  The arithmetic is of integers, so both give the
 * same numbers.
 */
#ifndef ENG_IMAGE_VECTOR_H
#define ENG_IMAGE_VECTOR_H

#define ENG_LOOP static inline __attribute__((always_inline)) void

#if defined(__x86_64__) && defined(__GNUC__)
#define ENG_VECTOR(name, parameters, arguments) \
static void __attribute__((target("avx2"))) \
name##_avx2 parameters \
{ \
	name##_loop arguments; \
} \
static void \
name parameters \
{ \
	if (__builtin_cpu_supports("avx2")) \
		name##_avx2 arguments; \
	else \
		name##_loop arguments; \
}
#else
#define ENG_VECTOR(name, parameters, arguments) \
static void \
name parameters \
{ \
	name##_loop arguments; \
}
#endif

#endif							/* ENG_IMAGE_VECTOR_H */
