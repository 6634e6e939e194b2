/*
 * cuda/boxes.h
 *		What kernels do with one box, and with lists in order.
 *
 * Every float operation is rounded by itself (-fmad=false), as in ops/: what
 * matches or suppresses is decided by exact ties.
 */
#ifndef ENG_CUDA_BOXES_H
#define ENG_CUDA_BOXES_H

#include "cuda/kernel.h"
#include "cuda/regions.h"

#define LIST_THREADS	1024	/* of blocks that sort and count */
#define SHARED_ITEMS	4096	/* sorted in shared memory */

static __device__ __forceinline__ float
box_area(const float *b)
{
	return (b[2] - b[0]) * (b[3] - b[1]);
}

/* Intersection over union. */
static __device__ __forceinline__ float
box_overlap(const float *a, float a_area, const float *b, float b_area)
{
	float		left = a[0] > b[0] ? a[0] : b[0];
	float		top = a[1] > b[1] ? a[1] : b[1];
	float		right = a[2] < b[2] ? a[2] : b[2];
	float		bottom = a[3] < b[3] ? a[3] : b[3];
	float		w = right - left > 0.0f ? right - left : 0.0f;
	float		h = bottom - top > 0.0f ? bottom - top : 0.0f;
	float		inter = w * h;

	return inter / (a_area + b_area - inter);
}

static __device__ __forceinline__ float
clip_to(float value, float limit)
{
	/* what is not a number stays so and is dropped as a small box */
	if (value < 0.0f)
		return 0.0f;
	return value > limit ? limit : value;
}

/* A box moved by deltas and clipped to the image. */
static __device__ __forceinline__ void
box_decode(float out[4], const float *d, const float *b,
		   const float weights[4], EngSize image)
{
	const float clamp = (float) 4.135166556742356;	/* ln(1000 / 16) */
	float		width = b[2] - b[0];
	float		height = b[3] - b[1];
	float		dw = d[2] / weights[2];
	float		dh = d[3] / weights[3];
	float		cx = d[0] / weights[0] * width + (b[0] + 0.5f * width);
	float		cy = d[1] / weights[1] * height + (b[1] + 0.5f * height);
	float		w = 0.5f * (expf(dw > clamp ? clamp : dw) * width);
	float		h = 0.5f * (expf(dh > clamp ? clamp : dh) * height);

	out[0] = clip_to(cx - w, (float) image.width);
	out[1] = clip_to(cy - h, (float) image.height);
	out[2] = clip_to(cx + w, (float) image.width);
	out[3] = clip_to(cy + h, (float) image.height);
}

static __device__ __forceinline__ void
box_encode(float t[4], const float *g, const float *b, const float weights[4])
{
	float		width = b[2] - b[0];
	float		height = b[3] - b[1];
	float		x = b[0] + 0.5f * width;
	float		y = b[1] + 0.5f * height;
	float		gt_width = g[2] - g[0];
	float		gt_height = g[3] - g[1];
	float		gt_x = g[0] + 0.5f * gt_width;
	float		gt_y = g[1] + 0.5f * gt_height;

	t[0] = weights[0] * (gt_x - x) / width;
	t[1] = weights[1] * (gt_y - y) / height;
	t[2] = weights[2] * logf(gt_width / width);
	t[3] = weights[3] * logf(gt_height / height);
}

static __device__ __forceinline__ int32_t
box_level(const float *b)
{
	float		size = sqrtf((b[2] - b[0]) * (b[3] - b[1]));
	float		k = floorf(4.0f + log2f(size / 224.0f) + 1e-6f);

	return k > 5.0f ? 3 : k >= 2.0f ? (int32_t) k - 2 : 0;
}

/*
 * A whole number that falls as the score rises: 0 for what is not a number.
 * -0 and +0 are one score.
 */
static __device__ __forceinline__ uint32_t
falling_key(float score)
{
	uint32_t	bits = __float_as_uint(score + 0.0f);

	if (score != score)
		return 0;
	return (bits & UINT32_C(0x80000000)) ? bits :
		~bits ^ UINT32_C(0x80000000);
}

/* How many of the n ascending items are less than item. */
template <typename T>
static __device__ __forceinline__ int32_t
count_less(const T *items, int32_t n, T item)
{
	int32_t		low = 0;

	while (n > 0)
	{
		int32_t		half = n / 2;

		if (items[low + half] < item)
		{
			low += half + 1;
			n -= half + 1;
		}
		else
			n = half;
	}
	return low;
}

/*
 * Sort n items, a power of two, ascending, by all threads of the block
 * (Batcher's bitonic network).
 */
static __device__ inline void
sort_network(uint64_t *items, int32_t n)
{
	for (int32_t size = 2; size <= n; size *= 2)
		for (int32_t step = size / 2; step > 0; step /= 2)
		{
			__syncthreads();
			for (int32_t k = threadIdx.x; k < n / 2; k += blockDim.x)
			{
				int32_t		i = k / step * 2 * step + k % step;
				uint64_t	a = items[i];
				uint64_t	b = items[i + step];

				if ((a > b) == ((i & size) == 0))
				{
					items[i] = b;
					items[i + step] = a;
				}
			}
		}
	__syncthreads();
}

static __device__ __forceinline__ int32_t
power_of_two(int32_t n)
{
	int32_t		p = 1;

	while (p < n)
		p *= 2;
	return p;
}

/*
 * Sort the first n items; there is room for the power of two above n, and
 * shared for SHARED_ITEMS.
 */
static __device__ inline void
sort_items(uint64_t *items, int32_t n, uint64_t *shared)
{
	int32_t		all = power_of_two(n);
	uint64_t   *at = all <= SHARED_ITEMS ? shared : items;

	__syncthreads();
	for (int32_t i = threadIdx.x; i < all; i += blockDim.x)
		at[i] = i < n ? items[i] : UINT64_MAX;
	sort_network(at, all);
	for (int32_t i = threadIdx.x; at == shared && i < n; i += blockDim.x)
		items[i] = at[i];
	__syncthreads();
}

#endif
