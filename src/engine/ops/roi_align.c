/*
 * engine/ops/roi_align.c
 *		Fixed-size features of boxes on the pyramid (He et al., 2017), the
 *		variant without half-pixel shift.
 *
 * Vectors run over channels.  Forward shares out RoIs among threads.
 * Backward shares out images and slices of channels, and each share visits
 * its RoIs in order, so every sum has one order whatever the thread count.
 */
#include <math.h>
#include <string.h>

#include "engine/core/clones.h"
#include "engine/ops/detection.h"

#define MOST_SAMPLES 64			/* samples along one axis of a box */
#define SLICE		16			/* channels in a vector */

typedef float Vector __attribute__((vector_size(SLICE * sizeof(float)),
									aligned(4), may_alias));

void
eng_roi_levels(int32_t *levels, const float *boxes, int32_t n)
{
	for (int32_t i = 0; i < n; i++)
	{
		const float *b = boxes + 4 * (size_t) i;
		float		size = sqrtf((b[2] - b[0]) * (b[3] - b[1]));
		float		k = floorf(4.0f + log2f(size / 224.0f) + 1e-6f);

		/* an empty box gives -inf, and a NaN goes to level 0 too */
		levels[i] = k > 5.0f ? 3 : k >= 2.0f ? (int32_t) k - 2 : 0;
	}
}

/* Where one sample lies along one axis. */
typedef struct Sample
{
	bool		inside;
	int32_t		low;
	int32_t		high;
	float		low_weight;
	float		high_weight;
} Sample;

static Sample
sample_at(float position, int32_t size)
{
	Sample		s;

	s.inside = !(position < -1.0f || position > (float) size);
	if (!(position > 0.0f))
		position = 0.0f;
	s.low = s.inside ? (int32_t) position : 0;
	if (s.low >= size - 1)
	{
		s.low = s.high = size - 1;
		position = (float) s.low;
	}
	else
		s.high = s.low + 1;
	s.high_weight = position - (float) s.low;
	s.low_weight = 1.0f - s.high_weight;
	return s;
}

/* All samples of a box along one axis. */
static void
sample_axis(Sample *samples, float low, float high, const EngRoiMaps *maps,
			int32_t level, bool vertical)
{
	float		scale = maps->scale[level];
	int32_t		size = vertical ? maps->size[level].height :
		maps->size[level].width;
	float		start = low * scale;
	float		length = high * scale - start;
	float		bin;

	if (!(length > 1.0f))
		length = 1.0f;
	bin = length / (float) maps->output;
	for (int32_t p = 0; p < maps->output; p++)
		for (int32_t i = 0; i < maps->sampling; i++)
			*samples++ = sample_at(start + (float) p * bin +
								   ((float) i + 0.5f) * bin /
								   (float) maps->sampling, size);
}

/* Corners that a bin reads: offsets in elements and weights, by fours. */
typedef struct Corners
{
	int32_t		count;
	size_t		offset[4 * MOST_SAMPLES];
	float		weight[4 * MOST_SAMPLES];
} Corners;

static void
bin_corners(Corners *corners, const Sample *ys, const Sample *xs,
			const EngRoiMaps *maps, int32_t level)
{
	size_t		pitch = (size_t) maps->size[level].width * maps->channels;
	size_t		step = (size_t) maps->channels;
	int32_t		n = 0;

	for (int32_t i = 0; i < maps->sampling; i++)
		for (int32_t j = 0; j < maps->sampling; j++)
		{
			const Sample *y = ys + i;
			const Sample *x = xs + j;

			if (!y->inside || !x->inside)
				continue;
			corners->offset[n] = y->low * pitch + x->low * step;
			corners->weight[n++] = y->low_weight * x->low_weight;
			corners->offset[n] = y->low * pitch + x->high * step;
			corners->weight[n++] = y->low_weight * x->high_weight;
			corners->offset[n] = y->high * pitch + x->low * step;
			corners->weight[n++] = y->high_weight * x->low_weight;
			corners->offset[n] = y->high * pitch + x->high * step;
			corners->weight[n++] = y->high_weight * x->high_weight;
		}
	corners->count = n;
}

/* out[c] = sum over samples of the sum of four corners, times factor. */
ENG_CLONES static void
gather_bin(float *out, const float *map, const Corners *corners,
		   int32_t channels, float factor)
{
	int32_t		c = 0;

	for (; c + SLICE <= channels; c += SLICE)
	{
		Vector		sum = {0};

		for (int32_t k = 0; k < corners->count; k += 4)
		{
			const size_t *o = corners->offset + k;
			const float *w = corners->weight + k;

			sum += *(const Vector *) (map + o[0] + c) * w[0] +
				*(const Vector *) (map + o[1] + c) * w[1] +
				*(const Vector *) (map + o[2] + c) * w[2] +
				*(const Vector *) (map + o[3] + c) * w[3];
		}
		*(Vector *) (out + c) = sum * factor;
	}
	for (; c < channels; c++)
	{
		float		sum = 0.0f;

		for (int32_t k = 0; k < corners->count; k += 4)
		{
			const size_t *o = corners->offset + k;
			const float *w = corners->weight + k;

			sum += map[o[0] + c] * w[0] + map[o[1] + c] * w[1] +
				map[o[2] + c] * w[2] + map[o[3] + c] * w[3];
		}
		out[c] = sum * factor;
	}
}

/* The reverse, for channels [first, last): map[c] += gradient * weight. */
ENG_CLONES static void
scatter_bin(float *map, const float *gradient, const Corners *corners,
			int32_t first, int32_t last, float factor)
{
	for (int32_t k = 0; k < corners->count; k++)
	{
		float	   *to = map + corners->offset[k];
		float		w = corners->weight[k] * factor;
		int32_t		c = first;

		for (; c + SLICE <= last; c += SLICE)
			*(Vector *) (to + c) += *(const Vector *) (gradient + c) * w;
		for (; c < last; c++)
			to[c] += gradient[c] * w;
	}
}

/* Samples of a RoI along both axes. */
typedef struct RoiSamples
{
	Sample		y[MOST_SAMPLES];
	Sample		x[MOST_SAMPLES];
	size_t		base;			/* first element of its image in the map */
} RoiSamples;

static void
roi_samples(RoiSamples *s, const EngRoiMaps *maps, const EngRois *rois,
			int32_t r)
{
	const float *box = rois->boxes + 4 * (size_t) r;
	int32_t		level = rois->level[r];

	sample_axis(s->x, box[0], box[2], maps, level, false);
	sample_axis(s->y, box[1], box[3], maps, level, true);
	s->base = (size_t) rois->image[r] * maps->size[level].height *
		maps->size[level].width * maps->channels;
}

static void
align_one(float *out, const EngRoiMaps *maps, const EngRois *rois, int32_t r)
{
	int32_t		level = rois->level[r];
	float		factor = 1.0f / (float) (maps->sampling * maps->sampling);
	RoiSamples	s;
	Corners		corners;

	roi_samples(&s, maps, rois, r);
	for (int32_t p = 0; p < maps->output; p++)
		for (int32_t q = 0; q < maps->output; q++)
		{
			bin_corners(&corners, s.y + p * maps->sampling,
						s.x + q * maps->sampling, maps, level);
			gather_bin(out, maps->map[level] + s.base, &corners,
					   maps->channels, factor);
			out += maps->channels;
		}
}

void
eng_roi_align(float *out, const EngRoiMaps *maps, const EngRois *rois)
{
	size_t		row = (size_t) maps->output * maps->output * maps->channels;

#pragma omp parallel for schedule(static) num_threads(maps->threads)
	for (int32_t r = 0; r < rois->count; r++)
	{
		if (rois->image[r] < 0)
			memset(out + row * r, 0, row * sizeof(float));
		else
			align_one(out + row * r, maps, rois, r);
	}
}

/* Gradients of one image's RoIs for channels [first, last). */
static void
scatter_image(float *const dmap[ENG_ROI_LEVELS], const float *dout,
			  const EngRoiMaps *maps, const EngRois *rois, int32_t image,
			  const int32_t slice[2])
{
	float		factor = 1.0f / (float) (maps->sampling * maps->sampling);
	RoiSamples	s;
	Corners		corners;

	for (int32_t r = 0; r < rois->count; r++)
	{
		int32_t		level = rois->level[r];
		const float *gradient = dout + (size_t) r * maps->output *
			maps->output * maps->channels;

		if (rois->image[r] != image)
			continue;
		roi_samples(&s, maps, rois, r);
		for (int32_t p = 0; p < maps->output; p++)
			for (int32_t q = 0; q < maps->output; q++)
			{
				bin_corners(&corners, s.y + p * maps->sampling,
							s.x + q * maps->sampling, maps, level);
				scatter_bin(dmap[level] + s.base, gradient, &corners,
							slice[0], slice[1], factor);
				gradient += maps->channels;
			}
	}
}

void
eng_roi_align_backward(float *const dmap[ENG_ROI_LEVELS], const float *dout,
					   const EngRoiMaps *maps, const EngRois *rois)
{
	int32_t		slices = 1;
	int32_t		width;

	/* few images: split the channels, so that all threads have work */
	if (maps->images < 2 * maps->threads)
		slices = (2 * maps->threads + maps->images - 1) / maps->images;
	width = (maps->channels / slices + SLICE - 1) / SLICE * SLICE;
	if (width < SLICE)
		width = SLICE;
	slices = (maps->channels + width - 1) / width;

#pragma omp parallel for schedule(dynamic) num_threads(maps->threads)
	for (int32_t share = 0; share < maps->images * slices; share++)
	{
		int32_t		slice[2];

		slice[0] = share % slices * width;
		slice[1] = slice[0] + width < maps->channels ?
			slice[0] + width : maps->channels;
		scatter_image(dmap, dout, maps, rois, share / slices, slice);
	}
}
