/*
 * engine/cpu/sparse.c
 *		Backward of a convolution most of whose output gradient is zero.
 *
 * The losses of region proposals reach their head at a few hundred sampled
 * cells of many thousands.  The rows of dy that are not zero are gathered,
 * and both gradients become small matrix products:
 *		dweight += rows^T columns, dx += the columns of (rows weight),
 * a piece of the rows at a time.  With more such rows than a quarter the
 * ordinary kernels are used.  Being small, the products are of floats
 * whatever the tensors are.
 */
#include <string.h>

#include "engine/core/arena.h"
#include "engine/core/clones.h"
#include "engine/cpu/cpu.h"

#define FLAG_ROWS	256			/* looked through at a time */
#define PIECE_ROWS	1024		/* multiplied at a time */

typedef struct Rows
{
	uint8_t    *flags;			/* (rows): whether dy is not zero there */
	int32_t    *index;			/* (count) of those rows, ascending */
	int64_t		count;
	float	   *dy;				/* (PIECE_ROWS, oc) */
	float	   *columns;		/* (PIECE_ROWS, k * k * c) */
	uint16_t   *window;			/* (k * k * c): one cell's, of bf16 input */
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
		eng_align(sizeof(float) * PIECE_ROWS * s->oc) +
		eng_align(sizeof(float) * PIECE_ROWS * width(s)) +
		eng_align(sizeof(uint16_t) * width(s));
}

ENG_INLINE void
flag_rows_typed(uint8_t *flags, const void *dy, int64_t rows,
				int32_t channels, EngType type)
{
	int64_t		r;
	int32_t		c;

	for (r = 0; r < rows; r++, dy = eng_at(dy, type, channels))
	{
		bool		any = false;

		for (c = 0; c < channels; c++)
			any |= !(eng_load(dy, type, c) == 0);
		flags[r] = any;
	}
}

/*
 * Whether a row holds anything; what is not a number is something.
 */
ENG_CLONES static void
flag_rows(uint8_t *flags, const void *dy, int64_t rows, int32_t channels,
		  EngType type)
{
	if (type == ENG_BF16)
		flag_rows_typed(flags, dy, rows, channels, ENG_BF16);
	else
		flag_rows_typed(flags, dy, rows, channels, ENG_F32);
}

/*
 * Find the rows of dy that are not zero; false if they are too many.
 */
static bool
find_rows(Rows *rows, const EngConvShape *s, const void *dy, void *workspace)
{
	uint8_t    *at = workspace;
	int64_t		total = row_count(s);
	int64_t		r;

	rows->flags = at;
	at += eng_align(total);
	rows->index = (int32_t *) at;
	at += eng_align(sizeof(int32_t) * most_rows(s));
	rows->dy = (float *) at;
	at += eng_align(sizeof(float) * PIECE_ROWS * s->oc);
	rows->columns = (float *) at;
	at += eng_align(sizeof(float) * PIECE_ROWS * width(s));
	rows->window = (uint16_t *) at;
	rows->count = 0;
#pragma omp parallel for schedule(static)
	for (r = 0; r < total; r += FLAG_ROWS)
		flag_rows(rows->flags + r, eng_at(dy, s->y_type, r * s->oc),
				  total - r < FLAG_ROWS ? total - r : FLAG_ROWS, s->oc,
				  s->y_type);
	for (r = 0; r < total; r++)
	{
		if (!rows->flags[r])
			continue;
		if (rows->count == most_rows(s))
			return false;
		rows->index[rows->count++] = (int32_t) r;
	}
	return true;
}

/*
 * Gather the piece of the rows that begins at first; returns its rows.
 */
static int64_t
gather(Rows *rows, const EngConvShape *s, const void *dy, int64_t first)
{
	int64_t		count = rows->count - first < PIECE_ROWS ?
		rows->count - first : PIECE_ROWS;
	int64_t		i;

	for (i = 0; i < count; i++)
		eng_cpu_widen(rows->dy + i * s->oc,
					  eng_at(dy, s->y_type,
							 (int64_t) rows->index[first + i] * s->oc),
					  s->y_type, s->oc);
	return count;
}

/*
 * The window of output cell row as floats, for row i of the piece.
 */
static void
gather_window(Rows *rows, const EngConvShape *s, const void *x, int64_t i,
			  int32_t row)
{
	float	   *columns = rows->columns + i * width(s);

	if (s->x_type == ENG_F32)
	{
		eng_cpu_unroll(s, columns, x, row, 1);
		return;
	}
	eng_cpu_unroll(s, rows->window, x, row, 1);
	eng_cpu_widen(columns, rows->window, ENG_BF16, width(s));
}

bool
eng_cpu_sparse_weight(const EngConvShape *s, float *dweight, float *dbias,
					  const void *x, const void *dy, void *workspace,
					  bool *done, EngStatus *status)
{
	EngGemm		gemm = {.ta = true, .m = s->oc, .n = (int64_t) width(s),
						.add = true};
	Rows		rows;
	int64_t		first;
	int64_t		i;

	*done = find_rows(&rows, s, dy, workspace);
	if (!*done)
		return true;
	for (first = 0; first < rows.count; first += PIECE_ROWS)
	{
		gemm.k = gather(&rows, s, dy, first);
		for (i = 0; i < gemm.k; i++)
			gather_window(&rows, s, x, i, rows.index[first + i]);
		if (dbias != NULL)
			eng_cpu_column_sums(dbias, rows.dy, ENG_F32, gemm.k, s->oc);
		if (!eng_gemm(&gemm, dweight, rows.dy, rows.columns, status))
			return false;
	}
	return true;
}

ENG_INLINE void
roll_cell_typed(const EngConvShape *s, void *image, const float *columns,
				int32_t top, int32_t left, EngType type)
{
	int32_t		v0 = left < 0 ? -left : 0;
	int32_t		v1 = left + s->k > s->w ? s->w - left : s->k;
	int32_t		u;
	int32_t		i;

	for (u = 0; u < s->k; u++)
	{
		void	   *out;
		const float *in = columns + ((int64_t) u * s->k + v0) * s->c;

		if (top + u < 0 || top + u >= s->h)
			continue;
		out = eng_at(image, type,
					 ((int64_t) (top + u) * s->w + left + v0) * s->c);
		for (i = 0; i < (v1 - v0) * s->c; i++)
			eng_store(out, type, i, eng_load(out, type, i) + in[i]);
	}
}

/*
 * Add the window of one output cell back to the input's gradient.
 */
ENG_CLONES static void
roll_cell(const EngConvShape *s, void *image, const float *columns,
		  int32_t top, int32_t left)
{
	if (s->x_type == ENG_BF16)
		roll_cell_typed(s, image, columns, top, left, ENG_BF16);
	else
		roll_cell_typed(s, image, columns, top, left, ENG_F32);
}

/*
 * Add what the piece of count rows from first gives to one image.
 */
static void
roll_image(const EngConvShape *s, void *dx, const Rows *rows, int64_t first,
		   int64_t count, int32_t image)
{
	int64_t		cells = (int64_t) s->oh * s->ow;
	void	   *out = eng_at(dx, s->x_type,
							 (int64_t) image * s->h * s->w * s->c);
	int64_t		i;

	for (i = 0; i < count; i++)
	{
		int32_t		row = rows->index[first + i];
		int32_t		cell = (int32_t) (row % cells);

		if (row / cells == image)
			roll_cell(s, out, rows->columns + i * width(s),
					  cell / s->ow * s->stride - s->pad,
					  cell % s->ow * s->stride - s->pad);
	}
}

static void
clear(const EngConvShape *s, void *dx)
{
	int64_t		line = (int64_t) s->w * s->c;
	int64_t		i;

#pragma omp parallel for schedule(static)
	for (i = 0; i < (int64_t) s->n * s->h; i++)
		memset(eng_at(dx, s->x_type, i * line), 0,
			   line * eng_type_size(s->x_type));
}

bool
eng_cpu_sparse_data(const EngConvShape *s, void *dx, const void *dy,
					const float *weight, void *workspace, bool *done,
					EngStatus *status)
{
	EngGemm		gemm = {.n = (int64_t) width(s), .k = s->oc};
	Rows		rows;
	int64_t		first;
	int32_t		image;

	*done = find_rows(&rows, s, dy, workspace);
	if (!*done)
		return true;
	if (!s->add_data)
		clear(s, dx);
	for (first = 0; first < rows.count; first += PIECE_ROWS)
	{
		gemm.m = gather(&rows, s, dy, first);
		if (!eng_gemm(&gemm, rows.columns, rows.dy, weight, status))
			return false;
#pragma omp parallel for schedule(static)
		for (image = 0; image < s->n; image++)
			roll_image(s, dx, &rows, first, gemm.m, image);
	}
	return true;
}
