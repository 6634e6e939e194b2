/*
 * cuda/roi_align.cu
 *		Fixed-size features of boxes on the pyramid, and their way back.
 *
 * As ops/roi_align.c: the variant without half-pixel shift.  Forward, a
 * block has a row of bins of one RoI.  Backward goes the other way round, so
 * that no two threads add to one element: a block has a tile of cells of one
 * map and a group of channels, finds the RoIs that reach the tile, and adds
 * their bins in ascending order, a thread to its own channel.
 */
#include "cuda/kernel.h"

#define ALIGN_THREADS	128
#define TILE			4		/* cells along one side */
#define LIST			256		/* RoIs looked at together */

/* Where one sample lies along one axis. */
struct Sample
{
	int32_t		inside;
	int32_t		low;
	int32_t		high;
	float		low_weight;
	float		high_weight;
};

static __device__ Sample
sample_at(float position, int32_t size)
{
	Sample		s;

	s.inside = !(position < -1.0f || position > (float) size);
	if (!(position > 0.0f))
		position = 0.0f;
	/* cells ascend along the axis outside too, where nothing is read */
	if (position > (float) size)
		position = (float) size;
	s.low = (int32_t) position;
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

/* Sample k of a box along one axis. */
static __device__ Sample
box_sample(const float *box, const EngRoiMaps &maps, int32_t level,
		   bool vertical, int32_t k)
{
	float		scale = maps.scale[level];
	int32_t		size = vertical ? maps.size[level].height :
		maps.size[level].width;
	float		start = box[vertical ? 1 : 0] * scale;
	float		length = box[vertical ? 3 : 2] * scale - start;
	int32_t		p = k / maps.sampling;
	int32_t		i = k % maps.sampling;
	float		bin;

	if (!(length > 1.0f))
		length = 1.0f;
	bin = length / (float) maps.output;
	return sample_at(start + (float) p * bin +
					 ((float) i + 0.5f) * bin / (float) maps.sampling, size);
}

template <typename T>
static __global__ void
align_kernel(T *out, EngRoiMaps maps, EngRois rois)
{
	__shared__ Sample ys[ENG_ROI_SAMPLES];
	__shared__ Sample xs[ENG_ROI_SAMPLES];
	int32_t		r = blockIdx.x;
	int32_t		p = blockIdx.y;
	int32_t		image = rois.image[r];
	int32_t		level = rois.level[r];
	int32_t		n = maps.output * maps.sampling;
	int32_t		w = maps.size[level].width;
	float		factor = 1.0f / (float) (maps.sampling * maps.sampling);
	const T    *map = (const T *) maps.map[level];
	int64_t		to = ((int64_t) r * maps.output + p) * maps.output *
		maps.channels;

	for (int32_t k = threadIdx.x; image >= 0 && k < n; k += blockDim.x)
	{
		xs[k] = box_sample(rois.boxes + 4 * (int64_t) r, maps, level, false,
						   k);
		ys[k] = box_sample(rois.boxes + 4 * (int64_t) r, maps, level, true,
						   k);
	}
	__syncthreads();
	map += (int64_t) (image < 0 ? 0 : image) * maps.size[level].height * w *
		maps.channels;
	for (int32_t k = threadIdx.x; k < maps.output * maps.channels;
		 k += blockDim.x)
	{
		int32_t		q = k / maps.channels;
		int32_t		c = k % maps.channels;
		float		sum = 0;

		for (int32_t i = 0; image >= 0 && i < maps.sampling; i++)
			for (int32_t j = 0; j < maps.sampling; j++)
			{
				const Sample &y = ys[p * maps.sampling + i];
				const Sample &x = xs[q * maps.sampling + j];
				const T    *low = map + (int64_t) y.low * w * maps.channels +
					c;
				const T    *high = map + (int64_t) y.high * w *
					maps.channels + c;

				if (!y.inside || !x.inside)
					continue;
				sum += get(low, (int64_t) x.low * maps.channels) *
					(y.low_weight * x.low_weight) +
					get(low, (int64_t) x.high * maps.channels) *
					(y.low_weight * x.high_weight) +
					get(high, (int64_t) x.low * maps.channels) *
					(y.high_weight * x.low_weight) +
					get(high, (int64_t) x.high * maps.channels) *
					(y.high_weight * x.high_weight);
			}
		put(out, to + k, sum * factor);
	}
}

/* The cells of a tile, clipped to the map: rows top .. bottom - 1. */
struct Tile
{
	int32_t		image;
	int32_t		top;
	int32_t		left;
	int32_t		bottom;
	int32_t		right;
};

static __device__ __forceinline__ Tile
tile_of(const EngRoiMaps &maps, int32_t level)
{
	int32_t		h = maps.size[level].height;
	int32_t		w = maps.size[level].width;
	int32_t		across = (w + TILE - 1) / TILE;
	int32_t		down = (h + TILE - 1) / TILE;
	int32_t		i = blockIdx.x;
	Tile		t;

	t.left = i % across * TILE;
	i /= across;
	t.top = i % down * TILE;
	t.image = i / down;
	t.bottom = t.top + TILE < h ? t.top + TILE : h;
	t.right = t.left + TILE < w ? t.left + TILE : w;
	return t;
}

/* Whether samples of a RoI can reach a tile: along an axis they ascend. */
static __device__ bool
reaches(const EngRoiMaps &maps, const EngRois &rois, int32_t r,
		int32_t level, const Tile &t)
{
	const float *box = rois.boxes + 4 * (int64_t) r;
	int32_t		last = maps.output * maps.sampling - 1;

	if (rois.image[r] != t.image || rois.level[r] != level)
		return false;
	return box_sample(box, maps, level, true, 0).low < t.bottom &&
		box_sample(box, maps, level, true, last).high >= t.top &&
		box_sample(box, maps, level, false, 0).low < t.right &&
		box_sample(box, maps, level, false, last).high >= t.left;
}

/* Sum of a tile's element, by the cell's place in the tile. */
typedef float TileSums[TILE * TILE][ALIGN_THREADS];

static __device__ __forceinline__ void
add_cell(TileSums sums, const Tile &t, int32_t row, int32_t column,
		 float value)
{
	if (row >= t.top && row < t.bottom && column >= t.left &&
		column < t.right)
		sums[(row - t.top) * TILE + column - t.left][threadIdx.x] += value;
}

/* Whether samples of a bin touch lines first .. last - 1. */
static __device__ __forceinline__ bool
bin_touches(const Sample *samples, int32_t count, int32_t first,
			int32_t last)
{
	return samples[0].low < last && samples[count - 1].high >= first;
}

template <typename T>
static __device__ void
add_roi(TileSums sums, const T *dout, const EngRoiMaps &maps, const Tile &t,
		const Sample *ys, const Sample *xs)
{
	float		factor = 1.0f / (float) (maps.sampling * maps.sampling);
	int32_t		n = maps.sampling;

	for (int32_t p = 0; p < maps.output; p++)
	{
		if (!bin_touches(ys + p * n, n, t.top, t.bottom))
			continue;
		for (int32_t q = 0; q < maps.output; q++)
		{
			float		d;

			if (!bin_touches(xs + q * n, n, t.left, t.right))
				continue;
			d = get(dout, (int64_t) (p * maps.output + q) * maps.channels);
			for (int32_t i = 0; i < n; i++)
				for (int32_t j = 0; j < n; j++)
				{
					const Sample &y = ys[p * n + i];
					const Sample &x = xs[q * n + j];

					if (!y.inside || !x.inside)
						continue;
					add_cell(sums, t, y.low, x.low,
							 d * (y.low_weight * x.low_weight * factor));
					add_cell(sums, t, y.low, x.high,
							 d * (y.low_weight * x.high_weight * factor));
					add_cell(sums, t, y.high, x.low,
							 d * (y.high_weight * x.low_weight * factor));
					add_cell(sums, t, y.high, x.high,
							 d * (y.high_weight * x.high_weight * factor));
				}
		}
	}
}

/*
 * The RoIs among first .. first + LIST - 1 that reach the tile, in order;
 * returns how many.
 */
static __device__ int32_t
list_rois(int32_t *list, const EngRoiMaps &maps, const EngRois &rois,
		  int32_t first, int32_t level, const Tile &t)
{
	__shared__ uint32_t found[LIST / 32];
	bool		any = false;
	int32_t		count = 0;

	for (int32_t k = threadIdx.x; k < LIST / 32; k += blockDim.x)
		found[k] = 0;
	__syncthreads();
	for (int32_t k = threadIdx.x; k < LIST && first + k < rois.count;
		 k += blockDim.x)
		if (reaches(maps, rois, first + k, level, t))
		{
			atomicOr(&found[k / 32], UINT32_C(1) << k % 32);
			any = true;
		}
	if (!__syncthreads_or(any))
		return 0;
	for (int32_t k = threadIdx.x; k < LIST; k += blockDim.x)
	{
		uint32_t	bit = UINT32_C(1) << k % 32;
		int32_t		place = __popc(found[k / 32] & (bit - 1));

		for (int32_t i = 0; i < k / 32; i++)
			place += __popc(found[i]);
		if (found[k / 32] & bit)
			list[place] = first + k;
	}
	for (int32_t i = 0; i < LIST / 32; i++)
		count += __popc(found[i]);
	__syncthreads();
	return count;
}

template <typename T>
static __global__ void
align_backward_kernel(T *dmap, const T *dout, EngRoiMaps maps, EngRois rois,
					  int32_t level, bool add)
{
	__shared__ TileSums sums;
	__shared__ Sample ys[ENG_ROI_SAMPLES];
	__shared__ Sample xs[ENG_ROI_SAMPLES];
	__shared__ int32_t list[LIST];
	Tile		t = tile_of(maps, level);
	int32_t		c = blockIdx.y * ALIGN_THREADS + threadIdx.x;
	bool		mine = c < maps.channels;
	int32_t		n = maps.output * maps.sampling;
	int32_t		h = maps.size[level].height;
	int32_t		w = maps.size[level].width;

	for (int32_t row = t.top; row < t.top + TILE; row++)
		for (int32_t column = t.left; column < t.left + TILE; column++)
		{
			float		start = 0;

			if (add && mine && row < t.bottom && column < t.right)
				start = get(dmap, (((int64_t) t.image * h + row) * w +
								   column) * maps.channels + c);
			sums[(row - t.top) * TILE + column - t.left][threadIdx.x] = start;
		}
	for (int32_t first = 0; first < rois.count; first += LIST)
	{
		int32_t		count = list_rois(list, maps, rois, first, level, t);

		for (int32_t k = 0; k < count; k++)
		{
			int32_t		r = list[k];
			const float *box = rois.boxes + 4 * (int64_t) r;

			for (int32_t i = threadIdx.x; i < n; i += blockDim.x)
			{
				xs[i] = box_sample(box, maps, level, false, i);
				ys[i] = box_sample(box, maps, level, true, i);
			}
			__syncthreads();
			if (mine)
				add_roi(sums, dout + (int64_t) r * maps.output *
						maps.output * maps.channels + c, maps, t, ys, xs);
			__syncthreads();
		}
	}
	for (int32_t row = t.top; mine && row < t.bottom; row++)
		for (int32_t column = t.left; column < t.right; column++)
			put(dmap, (((int64_t) t.image * h + row) * w + column) *
				maps.channels + c,
				sums[(row - t.top) * TILE + column - t.left][threadIdx.x]);
}

void
eng_cuda_roi_align(EngCuda *cuda, void *out, const EngRoiMaps *maps,
				   const EngRois *rois)
{
	dim3		blocks(rois->count, maps->output);

	if (rois->count == 0)
		return;
	ENG_WITH_TYPE(maps->type,
				  (void) V;
				  ENG_LAUNCH_MEETING((align_kernel<T>), blocks, ENG_THREADS,
									 cuda, (T *) out, *maps, *rois););
}

void
eng_cuda_roi_align_backward(EngCuda *cuda, void *const dmap[ENG_ROI_LEVELS],
							const bool add[ENG_ROI_LEVELS], const void *dout,
							const EngRoiMaps *maps, const EngRois *rois)
{
	for (int32_t level = 0; level < ENG_ROI_LEVELS; level++)
	{
		const EngSize *size = &maps->size[level];
		int64_t		tiles = (int64_t) maps->images *
			((size->height + TILE - 1) / TILE) *
			((size->width + TILE - 1) / TILE);
		dim3		blocks((unsigned) tiles,
						   blocks_for(maps->channels, ALIGN_THREADS));

		if (tiles == 0)
			continue;
		ENG_WITH_TYPE(maps->type,
					  (void) V;
					  ENG_LAUNCH_MEETING((align_backward_kernel<T>), blocks,
										 ALIGN_THREADS, cuda,
										 (T *) dmap[level], (const T *) dout,
										 *maps, *rois, level, add[level]););
	}
}
