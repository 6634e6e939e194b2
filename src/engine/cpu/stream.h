/*
 * engine/cpu/stream.h
 *		Write an array past the caches.
 *
 * A store that misses the caches fetches its line first, a third of the bytes
 * of a pass that reads one array and writes another.
 */
#ifndef ENG_CPU_STREAM_H
#define ENG_CPU_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* Bytes of an array that caches do not keep until it is read. */
#define ENG_STREAMED	((size_t) 16 << 20)

/* Whether to write rows of so many bytes, without gaps from out, that way. */
static inline bool
eng_streams(const void *out, size_t row, int64_t rows)
{
#ifdef __SSE2__
	return row * rows >= ENG_STREAMED && row % sizeof(__m128i) == 0 &&
		(uintptr_t) out % sizeof(__m128i) == 0;
#else
	return false;
#endif
}

/* One row, from memory of the alignment of a vector. */
static inline void
eng_stream(void *out, const void *in, size_t row)
{
#ifdef __SSE2__
	size_t		i;

	for (i = 0; i < row / sizeof(__m128i); i++)
		_mm_stream_si128((__m128i *) out + i,
						 _mm_load_si128((const __m128i *) in + i));
#endif
}

/* What was streamed is seen by who sees what is written later. */
static inline void
eng_stream_end(void)
{
#ifdef __SSE2__
	_mm_sfence();
#endif
}

#endif
