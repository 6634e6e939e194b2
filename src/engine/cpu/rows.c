/*
 * engine/cpu/rows.c
 *		Work on (rows, channels) arrays, split over the threads.
 *
 * Rows are cut into pieces of fixed size whose partial sums are added in
 * order, so that results do not depend on the number of threads.
 */
#include <string.h>

#include "engine/core/clones.h"
#include "engine/cpu/cpu.h"

#define PIECE_ROWS		512
#define PIECE_COUNT		8192	/* elements of a flat piece */
#define SUM_CHANNELS	64		/* columns summed at a time */

ENG_CLONES static void
bias_relu_rows(float *y, const float *bias, int64_t rows, int32_t channels,
			   bool relu)
{
	int64_t		r;
	int32_t		c;

	for (r = 0; r < rows; r++, y += channels)
	{
		if (bias != NULL)
			for (c = 0; c < channels; c++)
				y[c] += bias[c];
		if (relu)
			for (c = 0; c < channels; c++)
				y[c] = y[c] < 0 ? 0 : y[c];
	}
}

void
eng_cpu_bias_relu(float *y, const float *bias, int64_t rows,
				  int32_t channels, bool relu)
{
	int64_t		first;

#pragma omp parallel for schedule(static)
	for (first = 0; first < rows; first += PIECE_ROWS)
		bias_relu_rows(y + first * channels, bias,
					   rows - first < PIECE_ROWS ? rows - first : PIECE_ROWS,
					   channels, relu);
}

ENG_INLINE void
sum_columns_typed(float *sum, const void *x, int64_t rows, int32_t stride,
				  int32_t count, EngType type)
{
	double		total[SUM_CHANNELS] = {0};
	int64_t		first;

	for (first = 0; first < rows; first += PIECE_ROWS)
	{
		float		part[SUM_CHANNELS] = {0};
		int64_t		last = rows - first < PIECE_ROWS ? rows :
			first + PIECE_ROWS;
		int64_t		r;
		int32_t		c;

		for (r = first; r < last; r++)
			for (c = 0; c < count; c++)
				part[c] += eng_load(x, type, r * stride + c);
		for (c = 0; c < count; c++)
			total[c] += part[c];
	}
	for (first = 0; first < count; first++)
		sum[first] += (float) total[first];
}

/*
 * Sums of at most SUM_CHANNELS columns: pieces of PIECE_ROWS in float, their
 * total in double.
 */
ENG_CLONES static void
sum_columns_f32(float *sum, const void *x, int64_t rows, int32_t stride,
				int32_t count)
{
	sum_columns_typed(sum, x, rows, stride, count, ENG_F32);
}

ENG_FOR_BF16 static void
sum_columns_bf16(float *sum, const void *x, int64_t rows, int32_t stride,
				 int32_t count)
{
	sum_columns_typed(sum, x, rows, stride, count, ENG_BF16);
}

static void
sum_columns(float *sum, const void *x, int64_t rows, int32_t stride,
			int32_t count, EngType type)
{
	if (type == ENG_BF16)
		sum_columns_bf16(sum, x, rows, stride, count);
	else
		sum_columns_f32(sum, x, rows, stride, count);
}

void
eng_cpu_column_sums(float *sum, const void *x, EngType type, int64_t rows,
					int32_t channels)
{
	int32_t		width = channels > 2 * SUM_CHANNELS - 32 ? SUM_CHANNELS :
		(channels + 31) / 32 * 16;
	int32_t		first;

#pragma omp parallel for schedule(static)
	for (first = 0; first < channels; first += width)
		sum_columns(sum + first, eng_at(x, type, first), rows, channels,
					channels - first < width ? channels - first : width,
					type);
}

ENG_INLINE void
add_typed(void *y, const void *x, int64_t count, EngType type)
{
	int64_t		i;

#pragma omp simd
	for (i = 0; i < count; i++)
		eng_store(y, type, i, eng_load(y, type, i) + eng_load(x, type, i));
}

ENG_CLONES static void
add_f32(void *y, const void *x, int64_t count)
{
	add_typed(y, x, count, ENG_F32);
}

ENG_FOR_BF16 static void
add_bf16(void *y, const void *x, int64_t count)
{
	add_typed(y, x, count, ENG_BF16);
}

void
eng_cpu_add_cell(void *y, const void *x, EngType type, int64_t count)
{
	if (type == ENG_BF16)
		add_bf16(y, x, count);
	else
		add_f32(y, x, count);
}

void
eng_cpu_add(void *y, const void *x, EngType type, int64_t count)
{
	int64_t		first;

#pragma omp parallel for schedule(static)
	for (first = 0; first < count; first += PIECE_COUNT)
		eng_cpu_add_cell(eng_at(y, type, first), eng_at(x, type, first),
						 type, count - first < PIECE_COUNT ? count - first :
						 PIECE_COUNT);
}

ENG_FOR_BF16 static void
widen_flat(float *y, const void *x, int64_t count)
{
	int64_t		i;

	for (i = 0; i < count; i++)
		y[i] = eng_load(x, ENG_BF16, i);
}

void
eng_cpu_widen(float *y, const void *x, EngType type, int64_t count)
{
	if (type == ENG_BF16)
		widen_flat(y, x, count);
	else
		memcpy(y, x, sizeof(float) * count);
}

ENG_FOR_BF16 static void
round_flat(uint16_t *y, const float *x, int64_t count)
{
	int64_t		i;

	for (i = 0; i < count; i++)
		y[i] = eng_bf16_from_float(x[i]);
}

void
eng_cpu_round(uint16_t *y, const float *x, int64_t count)
{
	int64_t		first;

#pragma omp parallel for schedule(static)
	for (first = 0; first < count; first += PIECE_COUNT)
		round_flat(y + first, x + first,
				   count - first < PIECE_COUNT ? count - first : PIECE_COUNT);
}
