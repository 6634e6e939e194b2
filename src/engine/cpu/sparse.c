/*
 * engine/cpu/sparse.c
 *		Backward of a convolution most of whose output gradient is zero.
 *
 * The losses of region proposals reach their head at a few hundred sampled
 * cells of many thousands.  The rows of dy that are not zero are gathered,
 * and both gradients become small matrix products:
 *		dweight += rows^T columns, dx += the columns of (rows weight).
 * With more such rows than a quarter the ordinary kernels are used.
 */
#include <string.h>

#include "engine/core/arena.h"
#include "engine/core/clones.h"
#include "engine/cpu/cpu.h"

#define PIECE_ROWS	256

typedef struct Rows
{
	uint8_t    *flags;			/* (rows): whether dy is not zero there */
	int32_t    *index;			/* (count) of those rows, ascending */
	float	   *dy;				/* (count, oc) */
	float	   *columns;		/* (count, k * k * c) */
	int64_t		count;
} Rows;

static int64_t
row_count(const EngConvShape *s)
{
	return (int64_t) s->n * s->oh * s->ow;
}

static int64_t
most_rows(const EngConvShape *s)
{
	return row_count(s) / 4;
}

static size_t
width(const EngConvShape *s)
{
	return (size_t) s->k * s->k * s->c;
}

size_t
eng_cpu_sparse_workspace(const EngConvShape *s)
{
	return eng_align(row_count(s)) +
		eng_align(sizeof(int32_t) * most_rows(s)) +
		eng_align(sizeof(float) * most_rows(s) * s->oc) +
		eng_align(sizeof(float) * most_rows(s) * width(s));
}

ENG_CLONES static void
flag_rows(uint8_t *flags, const float *dy, int64_t rows, int32_t channels)
{
	int64_t		r;
	int32_t		c;

	for (r = 0; r < rows; r++, dy += channels)
	{
		uint32_t	any = 0;

		for (c = 0; c < channels; c++)
		{
			uint32_t	bits;

			memcpy(&bits, &dy[c], sizeof(bits));
			any |= bits << 1;	/* -0 is 0 */
		}
		flags[r] = any != 0;
	}
}

/*
 * Gather the rows of dy that are not zero; false if they are too many.
 */
static bool
gather(Rows *rows, const EngConvShape *s, const float *dy, void *workspace)
{
	uint8_t    *at = workspace;
	int64_t		total = row_count(s);
	int64_t		r;

	rows->flags = at;
	at += eng_align(total);
	rows->index = (int32_t *) at;
	at += eng_align(sizeof(int32_t) * most_rows(s));
	rows->dy = (float *) at;
	at += eng_align(sizeof(float) * most_rows(s) * s->oc);
	rows->columns = (float *) at;
	rows->count = 0;
#pragma omp parallel for schedule(static)
	for (r = 0; r < total; r += PIECE_ROWS)
		flag_rows(rows->flags + r, dy + r * s->oc,
				  total - r < PIECE_ROWS ? total - r : PIECE_ROWS, s->oc);
	for (r = 0; r < total; r++)
	{
		if (!rows->flags[r])
			continue;
		if (rows->count == most_rows(s))
			return false;
		memcpy(rows->dy + rows->count * s->oc, dy + r * s->oc,
			   sizeof(float) * s->oc);
		rows->index[rows->count++] = (int32_t) r;
	}
	return true;
}

bool
eng_cpu_sparse_weight(const EngConvShape *s, float *dweight, float *dbias,
					  const float *x, const float *dy, void *workspace,
					  bool *done, EngStatus *status)
{
	EngGemm		gemm = {.ta = true, .m = s->oc, .n = (int64_t) width(s),
						.add = true};
	Rows		rows;
	int64_t		i;

	*done = gather(&rows, s, dy, workspace);
	if (!*done || rows.count == 0)
		return true;
	for (i = 0; i < rows.count; i++)
		eng_cpu_unroll(s, rows.columns + i * width(s), x, rows.index[i], 1);
	if (dbias != NULL)
		eng_cpu_column_sums(dbias, rows.dy, rows.count, s->oc);
	gemm.k = rows.count;
	return eng_gemm(&gemm, dweight, rows.dy, rows.columns, status);
}

/*
 * Add the window of one output cell back to the input's gradient.
 */
ENG_CLONES static void
roll_cell(const EngConvShape *s, float *image, const float *columns,
		  int32_t top, int32_t left)
{
	int32_t		v0 = left < 0 ? -left : 0;
	int32_t		v1 = left + s->k > s->w ? s->w - left : s->k;
	int32_t		u;
	int32_t		i;

	for (u = 0; u < s->k; u++)
	{
		float	   *out = image + ((int64_t) (top + u) * s->w + left + v0) *
			s->c;
		const float *in = columns + ((int64_t) u * s->k + v0) * s->c;

		if (top + u < 0 || top + u >= s->h)
			continue;
		for (i = 0; i < (v1 - v0) * s->c; i++)
			out[i] += in[i];
	}
}

static void
roll_image(const EngConvShape *s, float *dx, const Rows *rows, int32_t image)
{
	int64_t		cells = (int64_t) s->oh * s->ow;
	float	   *out = dx + (int64_t) image * s->h * s->w * s->c;
	int64_t		i;

	if (!s->add_data)
		memset(out, 0, sizeof(float) * s->h * s->w * s->c);
	for (i = 0; i < rows->count; i++)
	{
		int32_t		cell = (int32_t) (rows->index[i] % cells);

		if (rows->index[i] / cells == image)
			roll_cell(s, out, rows->columns + i * width(s),
					  cell / s->ow * s->stride - s->pad,
					  cell % s->ow * s->stride - s->pad);
	}
}

bool
eng_cpu_sparse_data(const EngConvShape *s, float *dx, const float *dy,
					const float *weight, void *workspace, bool *done,
					EngStatus *status)
{
	EngGemm		gemm = {.n = (int64_t) width(s), .k = s->oc};
	Rows		rows;
	int32_t		image;

	*done = gather(&rows, s, dy, workspace);
	if (!*done)
		return true;
	gemm.m = rows.count;
	if (rows.count > 0 &&
		!eng_gemm(&gemm, rows.columns, rows.dy, weight, status))
		return false;
#pragma omp parallel for schedule(static)
	for (image = 0; image < s->n; image++)
		roll_image(s, dx, &rows, image);
	return true;
}
