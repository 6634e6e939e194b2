/*
 * engine/ops/roi_align.c
 *		Fixed-size features of boxes on the pyramid (He et al., 2017), the
 *		variant without half-pixel shift.
 *
 * Vectors run over channels.  Forward shares out RoIs among threads.
 * Backward shares out images and slices of channels, and each share visits
 * its RoIs in order, so every sum has one order whatever the thread count.
 * Gradients of float maps are summed in place; those of narrower maps in
 * float maps of the share's own, which hold its slice alone.
 */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "engine/core/arena.h"
#include "engine/core/clones.h"
#include "engine/ops/detection.h"

#define SLICE		16			/* channels in a vector */
#define OWN_SLICE	32			/* channels of a map of a share's own */

typedef uint16_t Halves __attribute__((vector_size(SLICE * sizeof(uint16_t)),
									   aligned(2), may_alias));
typedef uint32_t Bits __attribute__((vector_size(SLICE * sizeof(uint32_t))));
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
	size_t		offset[4 * ENG_ROI_SAMPLES];
	float		weight[4 * ENG_ROI_SAMPLES];
} Corners;

/* step: elements from a cell to the next. */
static void
bin_corners(Corners *corners, const Sample *ys, const Sample *xs,
			const EngRoiMaps *maps, int32_t level, size_t step)
{
	size_t		pitch = (size_t) maps->size[level].width * step;
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

/* SLICE elements from the i-th. */
ENG_INLINE void
load_vector(Vector *out, const void *x, EngType type, size_t i)
{
	if (type == ENG_BF16)
		*out = (Vector) (__builtin_convertvector(
			*(const Halves *) ((const uint16_t *) x + i), Bits) << 16);
	else if (type == ENG_F16)
		for (int32_t j = 0; j < SLICE; j++)
			(*out)[j] = eng_load(x, type, (int64_t) i + j);
	else
		*out = *(const Vector *) ((const float *) x + i);
}

/* As eng_store, for each of them. */
ENG_INLINE void
store_vector(void *x, EngType type, size_t i, const Vector *value)
{
	if (type == ENG_BF16)
	{
		Bits		bits = (Bits) *value;
		Bits		rounded = bits + 0x7fff + (bits >> 16 & 1);
		Bits		broken = (Bits) (*value != *value);

		*(Halves *) ((uint16_t *) x + i) = __builtin_convertvector(
			((broken & (bits | 0x400000)) | (~broken & rounded)) >> 16, Halves);
	}
	else if (type == ENG_F16)
		for (int32_t j = 0; j < SLICE; j++)
			eng_store(x, type, (int64_t) i + j, (*value)[j]);
	else
		*(Vector *) ((float *) x + i) = *value;
}

ENG_INLINE void
gather_bin_typed(void *out, const void *map, const Corners *corners,
				 int32_t channels, float factor, EngType type)
{
	int32_t		c = 0;

	for (; c + SLICE <= channels; c += SLICE)
	{
		Vector		sum = {0};

		for (int32_t k = 0; k < corners->count; k += 4)
		{
			const size_t *o = corners->offset + k;
			const float *w = corners->weight + k;

			Vector		at[4];

			for (int32_t i = 0; i < 4; i++)
				load_vector(&at[i], map, type, o[i] + c);
			sum += at[0] * w[0] + at[1] * w[1] + at[2] * w[2] + at[3] * w[3];
		}
		sum *= factor;
		store_vector(out, type, c, &sum);
	}
	for (; c < channels; c++)
	{
		float		sum = 0.0f;

		for (int32_t k = 0; k < corners->count; k += 4)
		{
			const size_t *o = corners->offset + k;
			const float *w = corners->weight + k;

			sum += eng_load(map, type, o[0] + c) * w[0] +
				eng_load(map, type, o[1] + c) * w[1] +
				eng_load(map, type, o[2] + c) * w[2] +
				eng_load(map, type, o[3] + c) * w[3];
		}
		eng_store(out, type, c, sum * factor);
	}
}

/* out[c] = sum over samples of the sum of four corners, times factor. */
ENG_CLONES static void
gather_bin_f32(void *out, const void *map, const Corners *corners,
			   int32_t channels, float factor)
{
	gather_bin_typed(out, map, corners, channels, factor, ENG_F32);
}

ENG_FOR_BF16 static void
gather_bin_bf16(void *out, const void *map, const Corners *corners,
				int32_t channels, float factor)
{
	gather_bin_typed(out, map, corners, channels, factor, ENG_BF16);
}

static void
gather_bin(void *out, const void *map, const Corners *corners,
		   const EngRoiMaps *maps, float factor)
{
	if (maps->type == ENG_BF16)
		gather_bin_bf16(out, map, corners, maps->channels, factor);
	else if (maps->type == ENG_F16)
		gather_bin_typed(out, map, corners, maps->channels, factor, ENG_F16);
	else
		gather_bin_f32(out, map, corners, maps->channels, factor);
}

ENG_INLINE void
scatter_bin_typed(float *map, const void *gradient, const Corners *corners,
				  int32_t count, float factor, EngType type)
{
	for (int32_t k = 0; k < corners->count; k++)
	{
		float	   *to = map + corners->offset[k];
		float		w = corners->weight[k] * factor;
		int32_t		c = 0;

		for (; c + SLICE <= count; c += SLICE)
		{
			Vector		d;

			load_vector(&d, gradient, type, c);
			*(Vector *) (to + c) += d * w;
		}
		for (; c < count; c++)
			to[c] += eng_load(gradient, type, c) * w;
	}
}

/* The reverse, for count channels: map[c] += gradient[c] * weight. */
ENG_CLONES static void
scatter_bin_f32(float *map, const void *gradient, const Corners *corners,
				int32_t count, float factor)
{
	scatter_bin_typed(map, gradient, corners, count, factor, ENG_F32);
}

ENG_FOR_BF16 static void
scatter_bin_bf16(float *map, const void *gradient, const Corners *corners,
				 int32_t count, float factor)
{
	scatter_bin_typed(map, gradient, corners, count, factor, ENG_BF16);
}

static void
scatter_bin(float *map, const void *gradient, const Corners *corners,
			int32_t count, float factor, EngType type)
{
	if (type == ENG_BF16)
		scatter_bin_bf16(map, gradient, corners, count, factor);
	else if (type == ENG_F16)
		scatter_bin_typed(map, gradient, corners, count, factor, ENG_F16);
	else
		scatter_bin_f32(map, gradient, corners, count, factor);
}

/* Samples of a RoI along both axes. */
typedef struct RoiSamples
{
	Sample		y[ENG_ROI_SAMPLES];
	Sample		x[ENG_ROI_SAMPLES];
} RoiSamples;

static void
roi_samples(RoiSamples *s, const EngRoiMaps *maps, const EngRois *rois,
			int32_t r)
{
	const float *box = rois->boxes + 4 * (size_t) r;
	int32_t		level = rois->level[r];

	sample_axis(s->x, box[0], box[2], maps, level, false);
	sample_axis(s->y, box[1], box[3], maps, level, true);
}

/* Cells of one image's map. */
static size_t
map_cells(const EngRoiMaps *maps, int32_t level)
{
	return (size_t) maps->size[level].height * maps->size[level].width;
}

static void
align_one(void *out, const EngRoiMaps *maps, const EngRois *rois, int32_t r)
{
	int32_t		level = rois->level[r];
	const void *map = eng_at(maps->map[level], maps->type,
							 rois->image[r] * map_cells(maps, level) *
							 maps->channels);
	float		factor = 1.0f / (float) (maps->sampling * maps->sampling);
	RoiSamples	s;
	Corners		corners;

	roi_samples(&s, maps, rois, r);
	for (int32_t p = 0; p < maps->output; p++)
		for (int32_t q = 0; q < maps->output; q++)
		{
			bin_corners(&corners, s.y + p * maps->sampling,
						s.x + q * maps->sampling, maps, level,
						maps->channels);
			gather_bin(out, map, &corners, maps, factor);
			out = eng_at(out, maps->type, maps->channels);
		}
}

void
eng_roi_align(void *out, const EngRoiMaps *maps, const EngRois *rois)
{
	size_t		row = (size_t) maps->output * maps->output * maps->channels;

#pragma omp parallel for schedule(static) num_threads(maps->threads)
	for (int32_t r = 0; r < rois->count; r++)
	{
		void	   *at = eng_at(out, maps->type, row * r);

		if (rois->image[r] < 0)
			memset(at, 0, row * eng_type_size(maps->type));
		else
			align_one(at, maps, rois, r);
	}
}

/* Where one share of the backward pass sums: channels of one image. */
typedef struct Share
{
	int32_t		image;
	int32_t		first;			/* channel */
	int32_t		count;
	size_t		step;			/* elements from a cell to the next */
	float	   *sum[ENG_ROI_LEVELS];	/* of the first channel */
} Share;

static void
scatter_share(const Share *share, const void *dout, const EngRoiMaps *maps,
			  const EngRois *rois)
{
	float		factor = 1.0f / (float) (maps->sampling * maps->sampling);
	size_t		row = (size_t) maps->output * maps->output * maps->channels;
	RoiSamples	s;
	Corners		corners;

	for (int32_t r = 0; r < rois->count; r++)
	{
		int32_t		level = rois->level[r];
		const void *gradient = eng_at(dout, maps->type,
									  row * r + share->first);

		if (rois->image[r] != share->image)
			continue;
		roi_samples(&s, maps, rois, r);
		for (int32_t p = 0; p < maps->output; p++)
			for (int32_t q = 0; q < maps->output; q++)
			{
				bin_corners(&corners, s.y + p * maps->sampling,
							s.x + q * maps->sampling, maps, level,
							share->step);
				scatter_bin(share->sum[level], gradient, &corners,
							share->count, factor, maps->type);
				gradient = eng_at(gradient, maps->type, maps->channels);
			}
	}
}

/* Floats of a share's own maps. */
static size_t
own_size(const EngRoiMaps *maps)
{
	size_t		cells = 0;

	for (int32_t level = 0; level < ENG_ROI_LEVELS; level++)
		cells += map_cells(maps, level);
	return eng_align(cells * OWN_SLICE * sizeof(float)) / sizeof(float);
}

size_t
eng_roi_align_workspace(const EngRoiMaps *maps)
{
	return maps->type == ENG_F32 ? 0 :
		own_size(maps) * maps->threads * sizeof(float);
}

ENG_INLINE void
round_level_typed(uint16_t *dmap, const float *sum, const Share *share,
				  size_t cells, int32_t channels, bool add, EngType type)
{
	for (size_t i = 0; i < cells; i++)
	{
		uint16_t   *to = dmap + i * channels;
		const float *from = sum + i * share->step;

		if (add)
			for (int32_t c = 0; c < share->count; c++)
				eng_store(to, type, c, eng_load(to, type, c) + from[c]);
		else
			for (int32_t c = 0; c < share->count; c++)
				eng_store(to, type, c, from[c]);
	}
}

ENG_FOR_BF16 static void
round_level_bf16(uint16_t *dmap, const float *sum, const Share *share,
				 size_t cells, int32_t channels, bool add)
{
	round_level_typed(dmap, sum, share, cells, channels, add, ENG_BF16);
}

/* One level of a share's own maps, rounded into the narrower one. */
static void
round_level(uint16_t *dmap, const float *sum, const Share *share,
			size_t cells, const EngRoiMaps *maps, bool add)
{
	if (maps->type == ENG_BF16)
		round_level_bf16(dmap, sum, share, cells, maps->channels, add);
	else
		round_level_typed(dmap, sum, share, cells, maps->channels, add,
						  ENG_F16);
}

static void
run_own_share(Share *share, void *const dmap[ENG_ROI_LEVELS],
			  const bool add[ENG_ROI_LEVELS], const void *dout,
			  const EngRoiMaps *maps, const EngRois *rois, float *own)
{
	float	   *next = own;

	share->step = OWN_SLICE;
	for (int32_t level = 0; level < ENG_ROI_LEVELS; level++)
	{
		share->sum[level] = next;
		next += map_cells(maps, level) * OWN_SLICE;
	}
	memset(own, 0, own_size(maps) * sizeof(float));
	scatter_share(share, dout, maps, rois);
	for (int32_t level = 0; level < ENG_ROI_LEVELS; level++)
	{
		size_t		cells = map_cells(maps, level);

		round_level((uint16_t *) dmap[level] + share->image * cells *
					maps->channels + share->first, share->sum[level], share,
					cells, maps, add[level]);
	}
}

static void
run_share(Share *share, void *const dmap[ENG_ROI_LEVELS],
		  const void *dout, const EngRoiMaps *maps, const EngRois *rois)
{
	share->step = maps->channels;
	for (int32_t level = 0; level < ENG_ROI_LEVELS; level++)
		share->sum[level] = (float *) dmap[level] + share->image *
			map_cells(maps, level) * maps->channels + share->first;
	scatter_share(share, dout, maps, rois);
}

/* Channels that a share takes. */
static int32_t
share_width(const EngRoiMaps *maps)
{
	int32_t		slices = 1;
	int32_t		width;

	/* few images: split the channels, so that all threads have work */
	if (maps->images < 2 * maps->threads)
		slices = (2 * maps->threads + maps->images - 1) / maps->images;
	width = (maps->channels / slices + SLICE - 1) / SLICE * SLICE;
	if (width < SLICE)
		width = SLICE;
	return maps->type != ENG_F32 && width > OWN_SLICE ? OWN_SLICE : width;
}

void
eng_roi_align_backward(void *const dmap[ENG_ROI_LEVELS],
					   const bool add[ENG_ROI_LEVELS], const void *dout,
					   const EngRoiMaps *maps, const EngRois *rois,
					   void *workspace)
{
	int32_t		width = share_width(maps);
	int32_t		slices = (maps->channels + width - 1) / width;

	for (int32_t level = 0; level < ENG_ROI_LEVELS; level++)
		if (maps->type == ENG_F32 && !add[level] &&
			map_cells(maps, level) > 0)
			memset(dmap[level], 0, sizeof(float) * maps->images *
				   map_cells(maps, level) * maps->channels);
#pragma omp parallel for schedule(dynamic) num_threads(maps->threads)
	for (int32_t i = 0; i < maps->images * slices; i++)
	{
		Share		share = {.image = i / slices, .first = i % slices * width};

		share.count = maps->channels - share.first < width ?
			maps->channels - share.first : width;
		if (maps->type == ENG_F32)
			run_share(&share, dmap, dout, maps, rois);
		else
			run_own_share(&share, dmap, add, dout, maps, rois,
						  (float *) workspace +
						  own_size(maps) * omp_get_thread_num());
	}
}
