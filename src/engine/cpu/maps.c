/*
 * engine/cpu/maps.c
 *		Pooling, joining of maps and other work that memory bounds.
 */
#include <string.h>

#include "engine/core/arena.h"
#include "engine/core/clones.h"
#include "engine/cpu/cpu.h"

#define PIECE_COUNT	8192		/* elements of a flat piece */

static int64_t
piece_size(int64_t first, int64_t count)
{
	return count - first < PIECE_COUNT ? count - first : PIECE_COUNT;
}

ENG_CLONES static void
relu_backward_flat(float *dy, const float *y, int64_t count)
{
	int64_t		i;

	for (i = 0; i < count; i++)
		dy[i] = y[i] > 0 ? dy[i] : 0;
}

static void
cpu_relu_backward(EngBackend *backend, float *dy, const float *y,
				  int64_t count)
{
	int64_t		first;

	(void) backend;
#pragma omp parallel for schedule(static)
	for (first = 0; first < count; first += PIECE_COUNT)
		relu_backward_flat(dy + first, y + first, piece_size(first, count));
}

ENG_CLONES static void
add_relu_flat(float *y, const float *x, const float *add, int64_t count)
{
	int64_t		i;

	for (i = 0; i < count; i++)
	{
		float		sum = x[i] + add[i];

		y[i] = sum < 0 ? 0 : sum;
	}
}

static void
cpu_add_relu(EngBackend *backend, float *y, const float *x, const float *add,
			 int64_t count)
{
	int64_t		first;

	(void) backend;
#pragma omp parallel for schedule(static)
	for (first = 0; first < count; first += PIECE_COUNT)
		add_relu_flat(y + first, x + first, add + first,
					  piece_size(first, count));
}

/*
 * One output cell: the window's first largest element a channel.
 */
ENG_CLONES static void
pool_cell(float *y, uint8_t *which, const float *const window[9],
		  int32_t channels)
{
	bool		first = true;
	int32_t		c;
	int			p;

	for (p = 0; p < 9; p++)
	{
		const float *x = window[p];

		if (x == NULL)
			continue;
		if (first)
		{
			memcpy(y, x, sizeof(float) * channels);
			if (which != NULL)
				memset(which, p, channels);
			first = false;
			continue;
		}
		if (which != NULL)
			for (c = 0; c < channels; c++)
				which[c] = x[c] > y[c] ? (uint8_t) p : which[c];
		for (c = 0; c < channels; c++)
			y[c] = x[c] > y[c] ? x[c] : y[c];
	}
}

static void
cpu_maxpool_forward(EngBackend *backend, float *y, uint8_t *which,
					const float *x, const EngPoolShape *s)
{
	int64_t		row;

	(void) backend;
#pragma omp parallel for schedule(static)
	for (row = 0; row < (int64_t) s->n * s->oh; row++)
	{
		const float *image = x + row / s->oh * s->h * s->w * s->c;
		int32_t		top = (int32_t) (row % s->oh) * 2 - 1;
		int32_t		j;

		for (j = 0; j < s->ow; j++)
		{
			const float *window[9];
			int64_t		out = (row * s->ow + j) * s->c;
			int			p;

			for (p = 0; p < 9; p++)
			{
				int32_t		i = top + p / 3;
				int32_t		column = 2 * j - 1 + p % 3;

				window[p] = i < 0 || i >= s->h || column < 0 ||
					column >= s->w ? NULL :
					image + ((int64_t) i * s->w + column) * s->c;
			}
			pool_cell(y + out, which == NULL ? NULL : which + out, window,
					  s->c);
		}
	}
}

/*
 * dx of one input cell: from each window that holds it, where it was chosen.
 */
ENG_CLONES static void
unpool_cell(float *dx, const float *const dy[4], const uint8_t *const which[4],
			const uint8_t place[4], int32_t channels)
{
	int			p;
	int32_t		c;

	for (p = 0; p < 4; p++)
	{
		const float *d = dy[p];
		const uint8_t *w = which[p];
		uint8_t		here = place[p];

		if (d == NULL)
			continue;
		for (c = 0; c < channels; c++)
			dx[c] += w[c] == here ? d[c] : 0;
	}
}

static void
unpool_row(float *dx, const float *dy, const uint8_t *which,
		   const EngPoolShape *s, int64_t row)
{
	int64_t		image = row / s->h;
	int32_t		i = (int32_t) (row % s->h);
	int32_t		j;

	for (j = 0; j < s->w; j++)
	{
		const float *d[4];
		const uint8_t *w[4];
		uint8_t		place[4];
		int			p;

		for (p = 0; p < 4; p++)
		{
			/* windows (i + 1) / 2 and, for odd i, the one before */
			int32_t		a = p / 2 == 0 ? i / 2 : (i + 1) / 2;
			int32_t		b = p % 2 == 0 ? j / 2 : (j + 1) / 2;
			int64_t		at;

			d[p] = NULL;
			if (a >= s->oh || b >= s->ow || (p / 2 == 1 && i % 2 == 0) ||
				(p % 2 == 1 && j % 2 == 0))
				continue;
			at = ((image * s->oh + a) * s->ow + b) * s->c;
			d[p] = dy + at;
			w[p] = which + at;
			place[p] = (uint8_t) ((i - (2 * a - 1)) * 3 + j - (2 * b - 1));
		}
		unpool_cell(dx + (row * s->w + j) * s->c, d, w, place, s->c);
	}
}

static void
cpu_maxpool_backward(EngBackend *backend, float *dx, const float *dy,
					 const uint8_t *which, const EngPoolShape *s, bool add)
{
	int64_t		row;

	(void) backend;
#pragma omp parallel for schedule(static)
	for (row = 0; row < (int64_t) s->n * s->h; row++)
	{
		if (!add)
			memset(dx + row * s->w * s->c, 0, sizeof(float) * s->w * s->c);
		unpool_row(dx, dy, which, s, row);
	}
}

/*
 * Two cells of the larger row take one of the smaller.
 */
ENG_CLONES static void
upsample_row(float *y, const float *x, int32_t width, int32_t channels)
{
	int32_t		j;
	int32_t		c;

	for (j = 0; j < width; j++)
	{
		const float *in = x + (int64_t) (j / 2) * channels;
		float	   *out = y + (int64_t) j * channels;

		for (c = 0; c < channels; c++)
			out[c] += in[c];
	}
}

static void
cpu_upsample_add(EngBackend *backend, float *y, const float *x,
				 const EngScaleShape *s)
{
	int64_t		row;

	(void) backend;
#pragma omp parallel for schedule(static)
	for (row = 0; row < (int64_t) s->n * s->h; row++)
		upsample_row(y + row * s->w * s->c,
					 x + (row / s->h * s->oh + row % s->h / 2) * s->ow * s->c,
					 s->w, s->c);
}

ENG_CLONES static void
downsum_row(float *dx, const float *upper, const float *lower,
			int32_t width, int32_t channels, bool add)
{
	int32_t		j;
	int32_t		c;

	for (j = 0; j < width; j++)
	{
		const float *a = upper + (int64_t) 2 * j * channels;
		const float *b = lower + (int64_t) 2 * j * channels;
		float	   *out = dx + (int64_t) j * channels;

		for (c = 0; c < channels; c++)
		{
			float		sum = (a[c] + a[channels + c]) +
				(b[c] + b[channels + c]);

			out[c] = add ? out[c] + sum : sum;
		}
	}
}

static void
cpu_upsample_backward(EngBackend *backend, float *dx, const float *dy,
					  const EngScaleShape *s, bool add)
{
	int64_t		row;

	(void) backend;
#pragma omp parallel for schedule(static)
	for (row = 0; row < (int64_t) s->n * s->oh; row++)
	{
		const float *upper = dy + (row / s->oh * s->h + row % s->oh * 2) *
			s->w * s->c;

		downsum_row(dx + row * s->ow * s->c, upper,
					upper + (int64_t) s->w * s->c, s->ow, s->c, add);
	}
}

static void
cpu_subsample(EngBackend *backend, float *y, const float *x,
			  const EngScaleShape *s)
{
	int64_t		row;
	int32_t		j;

	(void) backend;
	for (row = 0; row < (int64_t) s->n * s->oh; row++)
		for (j = 0; j < s->ow; j++)
			memcpy(y + (row * s->ow + j) * s->c,
				   x + ((row / s->oh * s->h + row % s->oh * 2) * s->w +
						2 * j) * s->c, sizeof(float) * s->c);
}

static void
cpu_subsample_backward(EngBackend *backend, float *dx, const float *dy,
					   const EngScaleShape *s, bool add)
{
	int64_t		row;
	int32_t		j;
	int32_t		c;

	(void) backend;
	if (!add)
		memset(dx, 0, sizeof(float) * s->n * s->h * s->w * s->c);
	for (row = 0; row < (int64_t) s->n * s->oh; row++)
		for (j = 0; j < s->ow; j++)
		{
			float	   *out = dx + ((row / s->oh * s->h +
									 row % s->oh * 2) * s->w + 2 * j) * s->c;
			const float *in = dy + (row * s->ow + j) * s->c;

			for (c = 0; c < s->c; c++)
				out[c] += in[c];
		}
}

static void
cpu_roi_align(EngBackend *backend, float *out, const EngRoiMaps *maps,
			  const EngRois *rois)
{
	(void) backend;
	eng_roi_align(out, maps, rois);
}

static void
cpu_roi_align_backward(EngBackend *backend, float *const dmap[ENG_ROI_LEVELS],
					   const float *dout, const EngRoiMaps *maps,
					   const EngRois *rois)
{
	(void) backend;
	eng_roi_align_backward(dmap, dout, maps, rois);
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
