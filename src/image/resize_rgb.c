/*
 * image/resize_rgb.c
 *		The horizontal pass of a resampling for pictures of three channels.
 *
 * A block is four pixels.  Their samples are put in pairs of one channel,
 * two pixels in each half of a register, beside pairs of weights; a multiply
 * and add of pairs leaves red, green and blue in each half.
 */
#include "image/resize_rgb.h"

#include <string.h>

#define LOW_BITS	11			/* of a weight, in the lower of its parts */
#define HALF		(1 << 21)	/* a half in 22 fractional bits */

void
eng_rgb_split(int16_t *split, const int32_t *weight, int32_t count)
{
	int32_t		blocks = eng_rgb_blocks(count);
	int32_t		j;
	int32_t		k;

	for (j = 0; j < blocks * ENG_RGB_TAPS; j++)
	{
		int32_t		w = j < count ? weight[j] : 0;
		int32_t		at = j % ENG_RGB_TAPS;
		int16_t    *low = split + j / ENG_RGB_TAPS * ENG_RGB_BLOCK +
			at / 2 * 8 + at % 2;

		for (k = 0; k < 8; k += 2)
		{
			low[k] = (int16_t) (w & ((1 << LOW_BITS) - 1));
			low[k + 16] = (int16_t) (w >> LOW_BITS);
		}
	}
}

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

bool
eng_rgb_is_here(void)
{
	return __builtin_cpu_supports("avx2");
}

/* Red, green and blue of one output, rounded and clamped. */
static inline __attribute__((always_inline, target("avx2"))) void
put_pixel(uint8_t *out, __m256i low, __m256i high)
{
	__m256i		both = _mm256_add_epi32(low,
										_mm256_slli_epi32(high, LOW_BITS));
	__m128i		sum = _mm_add_epi32(_mm256_castsi256_si128(both),
									_mm256_extracti128_si256(both, 1));
	uint32_t	pixel;

	sum = _mm_srai_epi32(_mm_add_epi32(sum, _mm_set1_epi32(HALF)), 22);
	sum = _mm_packs_epi32(sum, sum);
	pixel = (uint32_t) _mm_cvtsi128_si32(_mm_packus_epi16(sum, sum));
	out[0] = (uint8_t) pixel;
	out[1] = (uint8_t) (pixel >> 8);
	out[2] = (uint8_t) (pixel >> 16);
}

static __attribute__((target("avx2"))) void
run_blocks(const EngRgbTaps *taps, int32_t i, int32_t first,
		   const int16_t *split, int32_t blocks)
{
	const __m256i pairs = _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1,
										   2, -1, 5, -1, -1, -1, -1, -1,
										   6, -1, 9, -1, 7, -1, 10, -1,
										   8, -1, 11, -1, -1, -1, -1, -1);
	__m256i		low[ENG_RGB_ROWS];
	__m256i		high[ENG_RGB_ROWS];
	int32_t		b;
	int32_t		r;

#pragma GCC unroll 4
	for (r = 0; r < ENG_RGB_ROWS; r++)
		low[r] = high[r] = _mm256_setzero_si256();
	for (b = 0; b < blocks; b++)
	{
		const __m256i *weights = (const __m256i *) (split + b * ENG_RGB_BLOCK);
		__m256i		w_low = _mm256_loadu_si256(weights);
		__m256i		w_high = _mm256_loadu_si256(weights + 1);
		size_t		at = 3 * ((size_t) first + (size_t) b * ENG_RGB_TAPS);

#pragma GCC unroll 4
		for (r = 0; r < ENG_RGB_ROWS; r++)
		{
			__m128i		four = _mm_loadu_si128((const __m128i *) (taps->in[r] + at));
			__m256i		samples = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(four),
													  pairs);

			low[r] = _mm256_add_epi32(low[r],
									  _mm256_madd_epi16(samples, w_low));
			high[r] = _mm256_add_epi32(high[r],
									   _mm256_madd_epi16(samples, w_high));
		}
	}
#pragma GCC unroll 4
	for (r = 0; r < ENG_RGB_ROWS; r++)
		put_pixel(taps->out[r] + 3 * (size_t) i, low[r], high[r]);
}

bool
eng_rgb_run(const EngRgbTaps *taps, int32_t i, int32_t first,
			const int16_t *split, int32_t blocks)
{
	/* a load is of 16 bytes, 4 more than its pixels have */
	if (3 * ((int64_t) first + (int64_t) blocks * ENG_RGB_TAPS) + 4 >
		3 * (int64_t) taps->width)
		return false;
	run_blocks(taps, i, first, split, blocks);
	return true;
}
#else
bool
eng_rgb_is_here(void)
{
	return false;
}

bool
eng_rgb_run(const EngRgbTaps *taps, int32_t i, int32_t first,
			const int16_t *split, int32_t blocks)
{
	return false;
}
#endif
