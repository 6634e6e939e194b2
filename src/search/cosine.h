/*
 * search/cosine.h
 *		Cosines of vectors: exact, and by codes of one byte a number with a
 *		bound of what they may be wrong by.
 *
 * The code of x is  x / |x| = scale * codes + rest,  codes in -127..127, and
 * "error" is no less than |rest|.  A query q is likewise scale * codes + rest
 * with codes of 15 bits or less.  As |x / |x|| = |q / |q|| = 1, the cosine and
 * the product of the two codes differ by at most
 *
 *		error(x) + (1 + error(x)) * error(q)
 *
 * by Cauchy and Schwarz, which avc_cosine_bounds adds up with what rounding
 * may do.
 */
#ifndef AVC_SEARCH_COSINE_H
#define AVC_SEARCH_COSINE_H

#include <stdbool.h>
#include <stdint.h>

/* Codes of a vector take this many bytes, zeros at the end. */
#define AVC_CODE_BYTES(n) (((n) + 63) / 64 * 64)

/* Numbers that a vector of an index may have: 64 MB of them. */
#define AVC_MAX_NUMBERS (16 * 1024 * 1024)

typedef struct AvcQueryCodes
{
	int			bytes;			/* codes of a vector that it goes with */
	int16_t    *codes;			/* "bytes" of them, owned by the caller */
	float		scale;
	float		error;			/* no less than |rest| */
} AvcQueryCodes;

/*
 * The cosine of two vectors of n numbers, summed up in double precision in an
 * order that does not depend on the processor, and rounded once.  False where
 * there is none: a vector is zero, or a number is NaN or infinite.
 */
extern bool avc_cosine(const float *a, const float *b, int n,
					   float *similarity);

/* Has the vector a direction: finite numbers, not all zero? */
extern bool avc_cosine_exists(const float *vector, int n);

/*
 * Codes of a vector, AVC_CODE_BYTES(n) of them.  False if it has no
 * direction; then nothing is written.
 */
extern bool avc_codes_make(const float *vector, int n, int8_t *codes,
						   float *scale, float *error);

/* The same of a query; n is at most AVC_MAX_NUMBERS. */
extern bool avc_query_codes_make(const float *vector, int n,
								 AvcQueryCodes *query);

/* The sum of the products of codes; it fits. */
extern int32_t avc_codes_product(const int8_t *codes,
								 const AvcQueryCodes *query);

/* What the cosine of a vector and the query lies between. */
static inline void
avc_cosine_bounds(int32_t product, float scale, float error,
				  const AvcQueryCodes *query, float *lower, float *upper)
{
	float		middle = scale * query->scale * (float) product;

	/* 4e-6: a dozen roundings of numbers up to 2, 6e-8 each, and room */
	float		width = error + (1.0f + error) * query->error + 4e-6f;

	*lower = middle - width;
	*upper = middle + width;
}

#endif
