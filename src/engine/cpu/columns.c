/*
 * engine/cpu/columns.c
 *		Weight gradient by unrolling the input into columns.
 *
 * dweight (oc, k * k * c) += dy (rows, oc)^T columns (rows, k * k * c), where
 * row r of columns is the window of output cell r.  Each thread unrolls its
 * share of the rows, a piece at a time that stays in its cache, and sums into
 * a gradient of its own; the threads' gradients are added in their order, so
 * equal threads give equal bits.
 */
#include <omp.h>
#include <string.h>

#include "engine/core/arena.h"
#include "engine/core/clones.h"
#include "engine/cpu/cpu.h"

#define STEM_RUN	(21 * sizeof(float))	/* 7 cells of 3 channels */
#define PIECE_BYTES	((size_t) 192 << 10)

int64_t
eng_cpu_column_rows(const EngConvShape *s)
{
	int64_t		rows = (int64_t) (PIECE_BYTES / sizeof(float)) /
		((int64_t) s->k * s->k * s->c);

	return rows < 48 ? 48 : rows / 16 * 16;
}

static size_t
piece_bytes(const EngConvShape *s)
{
	return eng_align(sizeof(float) * eng_cpu_column_rows(s) * s->k * s->k *
					 s->c);
}

static size_t
gradient_bytes(const EngConvShape *s)
{
	return eng_align(sizeof(float) * s->oc * s->k * s->k * s->c);
}

size_t
eng_cpu_column_workspace(const EngConvShape *s, int threads)
{
	return (piece_bytes(s) + gradient_bytes(s)) * threads;
}

/*
 * The stem's runs are too short for a call each.
 */
static inline void
copy_run(void *out, const void *in, size_t run)
{
	if (run == STEM_RUN)
		memcpy(out, in, STEM_RUN);
	else
		memcpy(out, in, run);
}

/*
 * The window of one output cell: k runs of k * c elements, zero outside.
 */
static inline void
unroll_cell(const EngConvShape *s, uint8_t *out, const uint8_t *image,
			int32_t top, int32_t left)
{
	size_t		cell = s->c * eng_type_size(s->x_type);
	size_t		run = s->k * cell;
	int32_t		u;
	int32_t		v;

	for (u = 0; u < s->k; u++, out += run)
	{
		const uint8_t *line = image + (int64_t) (top + u) * s->w *
			(int64_t) cell;

		if (top + u < 0 || top + u >= s->h)
			memset(out, 0, run);
		else if (left >= 0 && left + s->k <= s->w)
			copy_run(out, line + left * cell, run);
		else
			for (v = 0; v < s->k; v++)
			{
				if (left + v < 0 || left + v >= s->w)
					memset(out + v * cell, 0, cell);
				else
					memcpy(out + v * cell, line + (left + v) * cell, cell);
			}
	}
}

void
eng_cpu_unroll(const EngConvShape *s, void *columns, const void *x,
			   int64_t first, int64_t rows)
{
	int64_t		cells = (int64_t) s->oh * s->ow;
	int64_t		width = (int64_t) s->k * s->k * s->c;
	int64_t		r;

	for (r = first; r < first + rows; r++)
	{
		int32_t		i = (int32_t) (r % cells / s->ow);
		int32_t		j = (int32_t) (r % s->ow);

		unroll_cell(s, columns,
					eng_at(x, s->x_type, r / cells * s->h * s->w * s->c),
					i * s->stride - s->pad, j * s->stride - s->pad);
		columns = eng_at(columns, s->x_type, width);
	}
}

static bool
thread_share(const EngConvShape *s, float *gradient, float *columns,
			 const float *x, const float *dy, int64_t first, int64_t last)
{
	int64_t		most = eng_cpu_column_rows(s);
	EngGemm		gemm = {.ta = true, .m = s->oc,
						.n = (int64_t) s->k * s->k * s->c};
	int64_t		r;

	for (r = first; r < last; r += most)
	{
		gemm.k = last - r < most ? last - r : most;
		gemm.add = r > first;
		eng_cpu_unroll(s, columns, x, r, gemm.k);
		if (!eng_gemm(&gemm, gradient, dy + r * s->oc, columns, NULL))
			return false;
	}
	if (first >= last)
		memset(gradient, 0, gradient_bytes(s));
	return true;
}

ENG_CLONES static void
sum_gradients(float *out, const float *gradients, size_t stride, int count,
			  int64_t first, int64_t last)
{
	int64_t		i;
	int			t;

	for (t = 0; t < count; t++)
	{
		const float *in = gradients + t * stride;

		for (i = first; i < last; i++)
			out[i] += in[i];
	}
}

bool
eng_cpu_column_weight(const EngConvShape *s, int threads, float *dweight,
					  const float *x, const float *dy, void *workspace,
					  EngStatus *status)
{
	int64_t		rows = (int64_t) s->n * s->oh * s->ow;
	int64_t		share = ((rows + threads - 1) / threads + 15) / 16 * 16;
	int64_t		count = (int64_t) s->oc * s->k * s->k * s->c;
	size_t		stride = gradient_bytes(s) / sizeof(float);
	float	   *gradients = workspace;
	float	   *pieces = gradients + stride * threads;
	bool		ok = true;
	int			t;

#pragma omp parallel for schedule(static) num_threads(threads)
	for (t = 0; t < threads; t++)
	{
		int64_t		first = share * t < rows ? share * t : rows;
		int64_t		last = first + share < rows ? first + share : rows;

		if (!thread_share(s, gradients + stride * t,
						  pieces + piece_bytes(s) / sizeof(float) * t,
						  x, dy, first, last))
		{
#pragma omp atomic write
			ok = false;
		}
	}
	if (!ok)
		return eng_fail(status, ENG_INTERNAL, "matrix product failed");
#pragma omp parallel for schedule(static) num_threads(threads)
	for (t = 0; t < threads; t++)
		sum_gradients(dweight, gradients, stride, threads,
					  count * t / threads, count * (t + 1) / threads);
	return true;
}
