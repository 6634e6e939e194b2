/*
 * engine/cpu/maps.c
 *		Pooling, joining of maps and other work that memory bounds.
 *
 * Each loop is written once, for elements of `type`, and compiled for both
 * types: in the function that its ..._typed one is inlined into.
 */
#include <string.h>

#include "engine/core/arena.h"
#include "engine/core/clones.h"
#include "engine/cpu/cpu.h"

#define PIECE_COUNT	8192		/* elements of a flat piece */
#define BLOCK		64			/* channels worked on at a time */

static int64_t
piece_size(int64_t first, int64_t count)
{
	return count - first < PIECE_COUNT ? count - first : PIECE_COUNT;
}

ENG_INLINE void
relu_backward_typed(void *dy, const void *y, int64_t count, EngType type)
{
	int64_t		i;

#pragma omp simd
	for (i = 0; i < count; i++)
		eng_store(dy, type, i,
				  eng_load(y, type, i) > 0 ? eng_load(dy, type, i) : 0);
}

ENG_CLONES static void
relu_backward_flat_f32(void *dy, const void *y, int64_t count)
{
	relu_backward_typed(dy, y, count, ENG_F32);
}

ENG_FOR_BF16 static void
relu_backward_flat_bf16(void *dy, const void *y, int64_t count)
{
	relu_backward_typed(dy, y, count, ENG_BF16);
}

static void
relu_backward_flat(void *dy, const void *y, int64_t count, EngType type)
{
	if (type == ENG_BF16)
		relu_backward_flat_bf16(dy, y, count);
	else
		relu_backward_flat_f32(dy, y, count);
}

static void
cpu_relu_backward(EngBackend *backend, EngType type, void *dy, const void *y,
				  int64_t count)
{
	int64_t		first;

	(void) backend;
#pragma omp parallel for schedule(static)
	for (first = 0; first < count; first += PIECE_COUNT)
		relu_backward_flat(eng_at(dy, type, first), eng_at(y, type, first),
						   piece_size(first, count), type);
}

ENG_INLINE void
add_relu_typed(void *y, EngType y_type, const void *x, const void *add,
			   EngType type, int64_t count)
{
	int64_t		i;

#pragma omp simd
	for (i = 0; i < count; i++)
	{
		float		sum = eng_load(x, type, i) + eng_load(add, type, i);

		eng_store(y, y_type, i, sum < 0 ? 0 : sum);
	}
}

ENG_CLONES static void
add_relu_flat_f32(void *y, const void *x, const void *add, int64_t count)
{
	add_relu_typed(y, ENG_F32, x, add, ENG_F32, count);
}

ENG_FOR_BF16 static void
add_relu_flat_bf16(void *y, const void *x, const void *add, int64_t count)
{
	add_relu_typed(y, ENG_BF16, x, add, ENG_BF16, count);
}

ENG_FOR_BF16 static void
add_relu_flat_rounded(void *y, const void *x, const void *add, int64_t count)
{
	add_relu_typed(y, ENG_BF16, x, add, ENG_F32, count);
}

/* To bf16 from either type, to float from float. */
static void
add_relu_flat(void *y, EngType y_type, const void *x, const void *add,
			  EngType type, int64_t count)
{
	if (type == ENG_BF16)
		add_relu_flat_bf16(y, x, add, count);
	else if (y_type == ENG_BF16)
		add_relu_flat_rounded(y, x, add, count);
	else
		add_relu_flat_f32(y, x, add, count);
}

static void
cpu_add_relu(EngBackend *backend, EngType y_type, void *y, EngType type,
			 const void *x, const void *add, int64_t count)
{
	int64_t		first;

	(void) backend;
#pragma omp parallel for schedule(static)
	for (first = 0; first < count; first += PIECE_COUNT)
		add_relu_flat(eng_at(y, y_type, first), y_type,
					  eng_at(x, type, first), eng_at(add, type, first), type,
					  piece_size(first, count));
}

/* What is not a number is the largest, so that a broken net shows. */
ENG_INLINE bool
takes_over(float x, float most)
{
	return (x > most) | (x != x);
}

ENG_INLINE void
pool_cell_typed(void *y, uint8_t *which, const void *const window[9],
				int32_t channels, EngType type)
{
	bool		first = true;
	int32_t		c;
	int			p;

	for (p = 0; p < 9; p++)
	{
		const void *x = window[p];

		if (x == NULL)
			continue;
		if (first)
		{
			memcpy(y, x, eng_type_size(type) * channels);
			if (which != NULL)
				memset(which, p, channels);
			first = false;
			continue;
		}
		if (which != NULL)
#pragma omp simd
			for (c = 0; c < channels; c++)
				which[c] = takes_over(eng_load(x, type, c),
									  eng_load(y, type, c)) ?
					(uint8_t) p : which[c];
#pragma omp simd
		for (c = 0; c < channels; c++)
			eng_store(y, type, c, takes_over(eng_load(x, type, c),
											 eng_load(y, type, c)) ?
					  eng_load(x, type, c) : eng_load(y, type, c));
	}
}

/*
 * One output cell: the window's first largest element a channel.
 */
ENG_CLONES static void
pool_cell_f32(void *y, uint8_t *which, const void *const window[9],
			  int32_t channels)
{
	pool_cell_typed(y, which, window, channels, ENG_F32);
}

ENG_FOR_BF16 static void
pool_cell_bf16(void *y, uint8_t *which, const void *const window[9],
			  int32_t channels)
{
	pool_cell_typed(y, which, window, channels, ENG_BF16);
}

static void
pool_cell(void *y, uint8_t *which, const void *const window[9],
		  int32_t channels, EngType type)
{
	if (type == ENG_BF16)
		pool_cell_bf16(y, which, window, channels);
	else
		pool_cell_f32(y, which, window, channels);
}

static void
cpu_maxpool_forward(EngBackend *backend, void *y, uint8_t *which,
					const void *x, const EngPoolShape *s)
{
	int64_t		row;

	(void) backend;
#pragma omp parallel for schedule(static)
	for (row = 0; row < (int64_t) s->n * s->oh; row++)
	{
		int64_t		image = row / s->oh * s->h * s->w;
		int32_t		top = (int32_t) (row % s->oh) * 2 - 1;
		int32_t		j;

		for (j = 0; j < s->ow; j++)
		{
			const void *window[9];
			int64_t		out = (row * s->ow + j) * s->c;
			int			p;

			for (p = 0; p < 9; p++)
			{
				int32_t		i = top + p / 3;
				int32_t		column = 2 * j - 1 + p % 3;

				window[p] = i < 0 || i >= s->h || column < 0 ||
					column >= s->w ? NULL :
					eng_at(x, s->type,
						   (image + (int64_t) i * s->w + column) * s->c);
			}
			pool_cell(eng_at(y, s->type, out),
					  which == NULL ? NULL : which + out, window, s->c,
					  s->type);
		}
	}
}

/* The windows that hold an input cell, at most four. */
typedef struct Windows
{
	const void *dy[4];			/* NULL: no such window */
	const uint8_t *which[4];
	uint8_t		place[4];		/* of the cell in the window */
} Windows;

ENG_INLINE void
unpool_cell_typed(void *dx, const Windows *w, int32_t channels, EngType type)
{
	int32_t		first;

	for (first = 0; first < channels; first += BLOCK)
	{
		int32_t		count = channels - first < BLOCK ? channels - first : BLOCK;
		float		sum[BLOCK];
		int			p;
		int32_t		c;

		for (c = 0; c < count; c++)
			sum[c] = eng_load(dx, type, first + c);
		for (p = 0; p < 4; p++)
		{
			const void *dy = w->dy[p];
			const uint8_t *which = w->which[p];
			uint32_t	here = w->place[p];

			if (dy == NULL)
				continue;
			for (c = 0; c < count; c++)
			{
				float		d = eng_load(dy, type, first + c);

				sum[c] += which[first + c] == here ? d : 0;
			}
		}
		for (c = 0; c < count; c++)
			eng_store(dx, type, first + c, sum[c]);
	}
}

/*
 * dx of one input cell: from each window that holds it, where it was chosen.
 */
ENG_CLONES static void
unpool_cell_f32(void *dx, const Windows *w, int32_t channels)
{
	unpool_cell_typed(dx, w, channels, ENG_F32);
}

ENG_FOR_BF16 static void
unpool_cell_bf16(void *dx, const Windows *w, int32_t channels)
{
	unpool_cell_typed(dx, w, channels, ENG_BF16);
}

static void
unpool_cell(void *dx, const Windows *w, int32_t channels, EngType type)
{
	if (type == ENG_BF16)
		unpool_cell_bf16(dx, w, channels);
	else
		unpool_cell_f32(dx, w, channels);
}

static void
unpool_row(void *dx, const void *dy, const uint8_t *which,
		   const EngPoolShape *s, int64_t row)
{
	int64_t		image = row / s->h;
	int32_t		i = (int32_t) (row % s->h);
	int32_t		j;

	for (j = 0; j < s->w; j++)
	{
		Windows		w;
		int			p;

		for (p = 0; p < 4; p++)
		{
			/* windows (i + 1) / 2 and, for odd i, the one before */
			int32_t		a = p / 2 == 0 ? i / 2 : (i + 1) / 2;
			int32_t		b = p % 2 == 0 ? j / 2 : (j + 1) / 2;
			int64_t		at;

			w.dy[p] = NULL;
			if (a >= s->oh || b >= s->ow || (p / 2 == 1 && i % 2 == 0) ||
				(p % 2 == 1 && j % 2 == 0))
				continue;
			at = ((image * s->oh + a) * s->ow + b) * s->c;
			w.dy[p] = eng_at(dy, s->type, at);
			w.which[p] = which + at;
			w.place[p] = (uint8_t) ((i - (2 * a - 1)) * 3 + j - (2 * b - 1));
		}
		unpool_cell(eng_at(dx, s->type, (row * s->w + j) * s->c), &w, s->c,
					s->type);
	}
}

static void
cpu_maxpool_backward(EngBackend *backend, void *dx, const void *dy,
					 const uint8_t *which, const EngPoolShape *s, bool add)
{
	int64_t		row;

	(void) backend;
#pragma omp parallel for schedule(static)
	for (row = 0; row < (int64_t) s->n * s->h; row++)
	{
		if (!add)
			memset(eng_at(dx, s->type, row * s->w * s->c), 0,
				   eng_type_size(s->type) * s->w * s->c);
		unpool_row(dx, dy, which, s, row);
	}
}

ENG_INLINE void
upsample_row_typed(void *y, const void *x, int32_t width, int32_t channels,
				   EngType type)
{
	int32_t		j;
	int32_t		c;

	for (j = 0; j < width; j++)
	{
		const void *in = eng_at(x, type, (int64_t) (j / 2) * channels);
		void	   *out = eng_at(y, type, (int64_t) j * channels);

#pragma omp simd
		for (c = 0; c < channels; c++)
			eng_store(out, type, c,
					  eng_load(out, type, c) + eng_load(in, type, c));
	}
}

/*
 * Two cells of the larger row take one of the smaller.
 */
ENG_CLONES static void
upsample_row_f32(void *y, const void *x, const EngScaleShape *s)
{
	upsample_row_typed(y, x, s->w, s->c, ENG_F32);
}

ENG_FOR_BF16 static void
upsample_row_bf16(void *y, const void *x, const EngScaleShape *s)
{
	upsample_row_typed(y, x, s->w, s->c, ENG_BF16);
}

static void
upsample_row(void *y, const void *x, const EngScaleShape *s)
{
	if (s->type == ENG_BF16)
		upsample_row_bf16(y, x, s);
	else
		upsample_row_f32(y, x, s);
}

static void
cpu_upsample_add(EngBackend *backend, void *y, const void *x,
				 const EngScaleShape *s)
{
	int64_t		row;

	(void) backend;
#pragma omp parallel for schedule(static)
	for (row = 0; row < (int64_t) s->n * s->h; row++)
	{
		int64_t		from = row / s->h * s->oh + row % s->h / 2;

		upsample_row(eng_at(y, s->type, row * s->w * s->c),
					 eng_at(x, s->type, from * s->ow * s->c), s);
	}
}

ENG_INLINE void
downsum_row_typed(void *dx, const void *dy, const EngScaleShape *s, bool add,
				  EngType type)
{
	int32_t		channels = s->c;
	int64_t		below = (int64_t) s->w * channels;
	int32_t		j;
	int32_t		c;

	for (j = 0; j < s->ow; j++)
	{
		const void *a = eng_at(dy, type, (int64_t) 2 * j * channels);
		const void *b = eng_at(a, type, below);
		void	   *out = eng_at(dx, type, (int64_t) j * channels);

#pragma omp simd
		for (c = 0; c < channels; c++)
		{
			float		sum =
				(eng_load(a, type, c) + eng_load(a, type, channels + c)) +
				(eng_load(b, type, c) + eng_load(b, type, channels + c));

			eng_store(out, type, c,
					  add ? eng_load(out, type, c) + sum : sum);
		}
	}
}

/*
 * One cell of the smaller row takes two of this row and two of the one below.
 */
ENG_CLONES static void
downsum_row_f32(void *dx, const void *dy, const EngScaleShape *s, bool add)
{
	downsum_row_typed(dx, dy, s, add, ENG_F32);
}

ENG_FOR_BF16 static void
downsum_row_bf16(void *dx, const void *dy, const EngScaleShape *s, bool add)
{
	downsum_row_typed(dx, dy, s, add, ENG_BF16);
}

static void
downsum_row(void *dx, const void *dy, const EngScaleShape *s, bool add)
{
	if (s->type == ENG_BF16)
		downsum_row_bf16(dx, dy, s, add);
	else
		downsum_row_f32(dx, dy, s, add);
}

static void
cpu_upsample_backward(EngBackend *backend, void *dx, const void *dy,
					  const EngScaleShape *s, bool add)
{
	int64_t		row;

	(void) backend;
#pragma omp parallel for schedule(static)
	for (row = 0; row < (int64_t) s->n * s->oh; row++)
	{
		int64_t		from = row / s->oh * s->h + row % s->oh * 2;

		downsum_row(eng_at(dx, s->type, row * s->ow * s->c),
					eng_at(dy, s->type, from * s->w * s->c), s, add);
	}
}

/* First element of the cell that cell j of a row of the smaller map is. */
static int64_t
corner(const EngScaleShape *s, int64_t row, int32_t j)
{
	return ((row / s->oh * s->h + row % s->oh * 2) * s->w + 2 * j) * s->c;
}

static void
cpu_subsample(EngBackend *backend, void *y, const void *x,
			  const EngScaleShape *s)
{
	int64_t		row;
	int32_t		j;

	(void) backend;
	for (row = 0; row < (int64_t) s->n * s->oh; row++)
		for (j = 0; j < s->ow; j++)
			memcpy(eng_at(y, s->type, (row * s->ow + j) * s->c),
				   eng_at(x, s->type, corner(s, row, j)),
				   eng_type_size(s->type) * s->c);
}

static void
cpu_subsample_backward(EngBackend *backend, void *dx, const void *dy,
					   const EngScaleShape *s, bool add)
{
	int64_t		row;
	int32_t		j;
	int32_t		c;

	(void) backend;
	if (!add)
		memset(dx, 0, eng_type_size(s->type) * s->n * s->h * s->w * s->c);
	for (row = 0; row < (int64_t) s->n * s->oh; row++)
		for (j = 0; j < s->ow; j++)
		{
			void	   *out = eng_at(dx, s->type, corner(s, row, j));
			const void *in = eng_at(dy, s->type, (row * s->ow + j) * s->c);

			for (c = 0; c < s->c; c++)
				eng_store(out, s->type, c, eng_load(out, s->type, c) +
						  eng_load(in, s->type, c));
		}
}

static void
cpu_roi_align(EngBackend *backend, void *out, const EngRoiMaps *maps,
			  const EngRois *rois)
{
	(void) backend;
	eng_roi_align(out, maps, rois);
}

static void
cpu_roi_align_backward(EngBackend *backend, void *const dmap[ENG_ROI_LEVELS],
					   const bool add[ENG_ROI_LEVELS], const void *dout,
					   const EngRoiMaps *maps, const EngRois *rois,
					   void *workspace)
{
	(void) backend;
	eng_roi_align_backward(dmap, add, dout, maps, rois, workspace);
}

static void
cpu_fill(EngBackend *backend, float *x, int64_t count)
{
	int64_t		first;

	(void) backend;
#pragma omp parallel for schedule(static)
	for (first = 0; first < count; first += PIECE_COUNT)
		memset(x + first, 0, sizeof(float) * piece_size(first, count));
}

void
eng_cpu_map_operations(EngBackend *backend)
{
	backend->relu_backward = cpu_relu_backward;
	backend->add_relu = cpu_add_relu;
	backend->maxpool_forward = cpu_maxpool_forward;
	backend->maxpool_backward = cpu_maxpool_backward;
	backend->upsample_add = cpu_upsample_add;
	backend->upsample_backward = cpu_upsample_backward;
	backend->subsample = cpu_subsample;
	backend->subsample_backward = cpu_subsample_backward;
	backend->roi_align = cpu_roi_align;
	backend->roi_align_backward = cpu_roi_align_backward;
	backend->fill = cpu_fill;
}
