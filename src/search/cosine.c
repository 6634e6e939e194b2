/*
 * search/cosine.c
 *		Cosines of vectors: exact, and by codes of one byte a number.
 *
 * Plain C on arrays.  The loops are cut into lanes that the compiler adds up
 * side by side; a lane's sum is the same whether it does so or not.
 */
#include "search/cosine.h"

#include <math.h>
#include <string.h>

#include "image/vector.h"
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

#define LANES 8

typedef struct Sums
{
	double		ab;
	double		aa;
	double		bb;
} Sums;

ENG_LOOP
add_products_loop(const float *restrict a, const float *restrict b, int n,
				  Sums *sums)
{
	double		ab[LANES] = {0};
	double		aa[LANES] = {0};
	double		bb[LANES] = {0};
	int			whole = n / LANES * LANES;
	int			i;
	int			lane;

	for (i = 0; i < whole; i += LANES)
	{
		for (lane = 0; lane < LANES; lane++)
		{
			double		x = a[i + lane];
			double		y = b[i + lane];

			ab[lane] += x * y;
			aa[lane] += x * x;
			bb[lane] += y * y;
		}
	}
	for (i = whole; i < n; i++)
	{
		ab[i - whole] += (double) a[i] * b[i];
		aa[i - whole] += (double) a[i] * a[i];
		bb[i - whole] += (double) b[i] * b[i];
	}
	sums->ab = sums->aa = sums->bb = 0;
	for (lane = 0; lane < LANES; lane++)
	{
		sums->ab += ab[lane];
		sums->aa += aa[lane];
		sums->bb += bb[lane];
	}
}

ENG_VECTOR(add_products,
		   (const float *a, const float *b, int n, Sums *sums),
		   (a, b, n, sums))

/* Squares of floats fit into double: a sum that is not finite had none. */
static bool
is_direction(double square)
{
	return isfinite(square) && square > 0;
}

bool
avc_cosine(const float *a, const float *b, int n, float *similarity)
{
	Sums		sums;
	double		cosine;

	add_products(a, b, n, &sums);
	if (!is_direction(sums.aa) || !is_direction(sums.bb))
		return false;
	cosine = sums.ab / (sqrt(sums.aa) * sqrt(sums.bb));
	*similarity = cosine > 1 ? 1 : cosine < -1 ? -1 : cosine;
	return true;
}

bool
avc_cosine_exists(const float *vector, int n)
{
	Sums		sums;

	add_products(vector, vector, n, &sums);
	return is_direction(sums.aa);
}

/* ---- codes ---- */

static float
largest(const float *vector, int n)
{
	float		most = 0;
	int			i;

	for (i = 0; i < n; i++)
		most = fmaxf(most, fabsf(vector[i]));
	return most;
}

/* A float no less than the square root. */
static float
root_above(double square)
{
	return nextafterf((float) (sqrt(square) * (1 + 1e-9)), INFINITY);
}

bool
avc_codes_make(const float *vector, int n, int8_t *codes, float *scale,
			   float *error)
{
	Sums		sums;
	double		length;
	double		step;
	double		square = 0;
	int			i;

	add_products(vector, vector, n, &sums);
	if (!is_direction(sums.aa))
		return false;
	length = sqrt(sums.aa);
	*scale = (float) (largest(vector, n) / length / 127);
	step = *scale * length;
	for (i = 0; i < n; i++)
	{
		double		code = rint(vector[i] / step);
		double		rest;

		code = code > 127 ? 127 : code < -127 ? -127 : code;
		rest = (vector[i] - code * step) / length;
		codes[i] = (int8_t) code;
		square += rest * rest;
	}
	memset(codes + n, 0, AVC_CODE_BYTES(n) - n);
	*error = root_above(square);
	return true;
}

bool
avc_query_codes_make(const float *vector, int n, AvcQueryCodes *query)
{
	/* the sum of n products with codes of a byte fits into 31 bits */
	double		most = fmin(INT16_MAX, floor(INT32_MAX / 127.0 / n));
	Sums		sums;
	double		length;
	double		step;
	double		square = 0;
	int			i;

	add_products(vector, vector, n, &sums);
	if (!is_direction(sums.aa))
		return false;
	length = sqrt(sums.aa);
	query->bytes = AVC_CODE_BYTES(n);
	query->scale = (float) (largest(vector, n) / length / most);
	step = query->scale * length;
	for (i = 0; i < n; i++)
	{
		double		code = rint(vector[i] / step);
		double		rest;

		code = code > most ? most : code < -most ? -most : code;
		rest = (vector[i] - code * step) / length;
		query->codes[i] = (int16_t) code;
		square += rest * rest;
	}
	memset(query->codes + n, 0, sizeof(int16_t) * (query->bytes - n));
	query->error = root_above(square);
	return true;
}

/* ---- their product ---- */

static int32_t
product_plain(const int8_t *codes, const int16_t *query, int bytes)
{
	int32_t		sum = 0;
	int			i;

	for (i = 0; i < bytes; i++)
		sum += (int32_t) codes[i] * query[i];
	return sum;
}

#if defined(__x86_64__) && defined(__GNUC__)
/* Sixteen codes made 16 bits wide, times sixteen of the query. */
static inline __attribute__((always_inline, target("avx2"))) __m256i
step_avx2(__m256i sum, const int8_t *codes, const int16_t *query)
{
	__m256i		wide = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *) codes));

	return _mm256_add_epi32(sum, _mm256_madd_epi16(wide, _mm256_loadu_si256((const __m256i *) query)));
}

static __attribute__((target("avx2"))) int32_t
product_avx2(const int8_t *codes, const int16_t *query, int bytes)
{
	__m256i		a = _mm256_setzero_si256();
	__m256i		b = a;
	__m128i		half;
	int			i;

	for (i = 0; i < bytes; i += 64)
	{
		a = step_avx2(a, codes + i, query + i);
		b = step_avx2(b, codes + i + 16, query + i + 16);
		a = step_avx2(a, codes + i + 32, query + i + 32);
		b = step_avx2(b, codes + i + 48, query + i + 48);
	}
	a = _mm256_add_epi32(a, b);
	half = _mm_add_epi32(_mm256_castsi256_si128(a),
						 _mm256_extracti128_si256(a, 1));
	half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
	half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1));
	return _mm_cvtsi128_si32(half);
}

int32_t
avc_codes_product(const int8_t *codes, const AvcQueryCodes *query)
{
	if (__builtin_cpu_supports("avx2"))
		return product_avx2(codes, query->codes, query->bytes);
	return product_plain(codes, query->codes, query->bytes);
}
#else
int32_t
avc_codes_product(const int8_t *codes, const AvcQueryCodes *query)
{
	return product_plain(codes, query->codes, query->bytes);
}
#endif
