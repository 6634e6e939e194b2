/*
 * engine/cpu/norm.h
 *		What both ways through a batch norm share: pieces of rows, their sums.
 */
#ifndef ENG_CPU_NORM_H
#define ENG_CPU_NORM_H

#include <string.h>

#include "engine/core/arena.h"
#include "engine/cpu/cpu.h"

#define PIECE_ROWS	256
#define BLOCK		64			/* channels worked on at a time */

static inline int64_t
piece_count(int64_t rows)
{
	return (rows + PIECE_ROWS - 1) / PIECE_ROWS;
}

/* Two sums a channel and piece, then at most five numbers a channel. */
static inline size_t
own_workspace(int64_t rows, int32_t channels)
{
	return eng_align(sizeof(float) * channels *
					 (2 * piece_count(rows) + 5));
}

static inline double *
shared_sums(const EngNormArgs *a)
{
	return (double *) ((uint8_t *) a->workspace +
					   own_workspace(a->rows, a->channels));
}

/*
 * The totals of both sums of all pieces, for count channels from first: row
 * by row, as they lie.
 */
static inline void
total_sums(double sum[BLOCK], double other[BLOCK], const EngNormArgs *a,
		   const float *sums, int32_t first, int32_t count)
{
	int64_t		p;
	int32_t		c;

	for (c = 0; c < count; c++)
		sum[c] = other[c] = 0;
	for (p = 0; p < piece_count(a->live); p++, sums += 2 * a->channels)
		for (c = 0; c < count; c++)
		{
			sum[c] += sums[first + c];
			other[c] += sums[a->channels + first + c];
		}
}

/*
 * Rows behind the live ones are zero.
 */
static inline void
clear_rest(void *x, const EngNormArgs *a)
{
	if (a->rows > a->live)
		memset(eng_at(x, a->type, a->live * a->channels), 0,
			   eng_type_size(a->type) * (a->rows - a->live) * a->channels);
}

/*
 * Of y = relu(x * scale + shift + add).
 */
static inline void
set_affine(const EngNormArgs *a, float *scale, float *shift)
{
	int32_t		c;

	for (c = 0; c < a->channels; c++)
	{
		scale[c] = a->rstd[c] * a->weight[c];
		shift[c] = a->bias[c] - a->mean[c] * scale[c];
	}
}

#endif
