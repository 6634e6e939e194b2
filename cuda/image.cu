/*
 * cuda/image.cu
 *		From the pixels of the frames to the input of the network.
 *
 * As ops/resize.c: normalised, then bilinear without antialiasing, along x
 * first; a thread makes one pixel.
 */
#include "cuda/kernel.h"
#include "cuda/regions.h"

/* Where an output index samples the input along one axis. */
struct Tap
{
	int32_t		low;
	int32_t		high;
	float		weight;			/* of high */
};

static __device__ __forceinline__ Tap
sample_tap(int32_t index, int32_t out_size, int32_t in_size)
{
	float		scale = (float) in_size / (float) out_size;
	float		src = scale * ((float) index + 0.5f) - 0.5f;
	Tap			tap;

	if (src < 0.0f)
		src = 0.0f;
	tap.low = (int32_t) src;
	if (tap.low > in_size - 1)
		tap.low = in_size - 1;
	tap.high = tap.low < in_size - 1 ? tap.low + 1 : tap.low;
	tap.weight = src - (float) tap.low;
	if (tap.weight < 0.0f)
		tap.weight = 0.0f;
	if (tap.weight > 1.0f)
		tap.weight = 1.0f;
	return tap;
}

static __device__ __forceinline__ float
normalised(uint8_t value, float mean, float std)
{
	return ((float) value / 255.0f - mean) / std;
}

template <typename T>
static __global__ void
image_kernel(T *out, EngCudaRegions r)
{
	EngCudaImage image = r.image[blockIdx.y];
	int32_t		width = r.pyramid.padded.width;
	int64_t		cells = (int64_t) r.pyramid.padded.height * width;
	int64_t		cell = (int64_t) blockIdx.x * blockDim.x + threadIdx.x;
	int32_t		x = (int32_t) (cell % width);
	int32_t		y = (int32_t) (cell / width);
	const uint8_t *rgb = image.pixels;
	int64_t		pitch = 3 * (int64_t) image.original.width;
	bool		inside;
	Tap			across = {};
	Tap			down = {};

	if (cell >= cells)
		return;
	out += 3 * (blockIdx.y * cells + cell);
	inside = x < image.resized.width && y < image.resized.height;
	if (inside)
	{
		across = sample_tap(x, image.resized.width, image.original.width);
		down = sample_tap(y, image.resized.height, image.original.height);
		if (image.flip)
		{
			across.low = image.original.width - 1 - across.low;
			across.high = image.original.width - 1 - across.high;
		}
	}
	for (int c = 0; c < 3; c++)
	{
		float		row[2];

		for (int k = 0; inside && k < 2; k++)
		{
			const uint8_t *from = rgb + (k ? down.high : down.low) * pitch +
				c;

			row[k] = (1.0f - across.weight) *
				normalised(from[3 * across.low], r.mean[c], r.std[c]) +
				across.weight *
				normalised(from[3 * across.high], r.mean[c], r.std[c]);
		}
		put(out, c, inside ? (1.0f - down.weight) * row[0] +
			down.weight * row[1] : 0.0f);
	}
}

void
eng_cuda_image_input(EngCuda *cuda, void *out, EngType type,
					 const EngCudaRegions *r)
{
	int64_t		cells = (int64_t) r->pyramid.padded.height *
		r->pyramid.padded.width;
	dim3		blocks(blocks_for(cells, ENG_THREADS), r->images);

	ENG_WITH_TYPE(type,
				  (void) V;
				  ENG_LAUNCH((image_kernel<T>), blocks, ENG_THREADS, cuda,
							 (T *) out, *r););
}
