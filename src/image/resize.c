/*
 * image/resize.c
 *		Pillow's 8-bit resampling: two passes with fixed point weights.
 *
 * For output i of one axis the centre is c = (i + 0.5) * scale in the
 * input's coordinates, scale = in / out; the filter is stretched by
 * max(scale, 1) so that shrinking averages instead of skipping.  Weights are
 * made in double, normalised, and rounded to 22 fractional bits; each pass
 * rounds and clamps to 8 bits.  The horizontal pass comes first.
 */
#include "image/resize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WEIGHT_BITS 22

/* Weights of one axis. */
typedef struct AxisWeights
{
	int32_t	   *first;			/* (out) first input sample of each output */
	int32_t	   *count;			/* (out) number of input samples */
	int32_t	   *weight;			/* (out, most) fixed point */
	int32_t		most;			/* largest possible count */
} AxisWeights;

static double
triangle(double x)
{
	x = fabs(x);
	return x < 1.0 ? 1.0 - x : 0.0;
}

static double
cubic(double x)
{
	const double a = -0.5;

	x = fabs(x);
	if (x < 1.0)
		return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
	if (x < 2.0)
		return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
	return 0.0;
}

static double
sinc(double x)
{
	if (x == 0.0)
		return 1.0;
	x *= 3.14159265358979323846;
	return sin(x) / x;
}

static double
lanczos(double x)
{
	if (x < -3.0 || x >= 3.0)
		return 0.0;
	return sinc(x) * sinc(x / 3.0);
}

static double
filter_value(EngResizeFilter filter, double x)
{
	switch (filter)
	{
		case ENG_RESIZE_BILINEAR:
			return triangle(x);
		case ENG_RESIZE_BICUBIC:
			return cubic(x);
		case ENG_RESIZE_LANCZOS:
			return lanczos(x);
	}
	return 0.0;
}

static double
filter_support(EngResizeFilter filter)
{
	switch (filter)
	{
		case ENG_RESIZE_BILINEAR:
			return 1.0;
		case ENG_RESIZE_BICUBIC:
			return 2.0;
		case ENG_RESIZE_LANCZOS:
			return 3.0;
	}
	return 0.0;
}

static void
free_weights(AxisWeights *axis)
{
	free(axis->first);
	free(axis->count);
	free(axis->weight);
	memset(axis, 0, sizeof(*axis));
}

static bool
alloc_weights(AxisWeights *axis, int32_t out, double support)
{
	axis->most = (int32_t) ceil(support) * 2 + 1;
	axis->first = malloc(sizeof(int32_t) * out);
	axis->count = malloc(sizeof(int32_t) * out);
	axis->weight = calloc((size_t) out * axis->most, sizeof(int32_t));
	return axis->first != NULL && axis->count != NULL &&
		axis->weight != NULL;
}

/* Fill in the weights of one output; value is scratch of axis->most. */
static void
weigh_output(AxisWeights *axis, int32_t i, int32_t in, double scale,
			 EngResizeFilter filter, double *value)
{
	double		stretch = scale > 1.0 ? scale : 1.0;
	double		support = filter_support(filter) * stretch;
	double		centre = (i + 0.5) * scale;
	double		sum = 0.0;
	int32_t		low = (int32_t) (centre - support + 0.5);
	int32_t		high = (int32_t) (centre + support + 0.5);
	int32_t    *weight = axis->weight + (size_t) i * axis->most;
	int32_t		j;

	if (low < 0)
		low = 0;
	if (high > in)
		high = in;
	for (j = low; j < high; j++)
	{
		value[j - low] = filter_value(filter,
									  (j - centre + 0.5) * (1.0 / stretch));
		sum += value[j - low];
	}
	for (j = 0; j < high - low; j++)
	{
		double		fixed = (sum != 0.0 ? value[j] / sum : value[j]) *
			(1 << WEIGHT_BITS);

		weight[j] = (int32_t) (fixed < 0.0 ? fixed - 0.5 : fixed + 0.5);
	}
	axis->first[i] = low;
	axis->count[i] = high - low;
}

static bool
make_weights(AxisWeights *axis, int32_t out, int32_t in,
			 EngResizeFilter filter)
{
	double		scale = (double) in / out;
	double		stretch = scale > 1.0 ? scale : 1.0;
	double	   *value = NULL;
	int32_t		i;

	memset(axis, 0, sizeof(*axis));
	if (alloc_weights(axis, out, filter_support(filter) * stretch))
		value = malloc(sizeof(double) * axis->most);
	if (value == NULL)
	{
		free_weights(axis);
		return false;
	}
	for (i = 0; i < out; i++)
		weigh_output(axis, i, in, scale, filter, value);
	free(value);
	return true;
}

static inline uint8_t
clamp_sum(int32_t sum)
{
	sum >>= WEIGHT_BITS;
	return sum < 0 ? 0 : sum > 255 ? 255 : (uint8_t) sum;
}

/* One row: out samples of 'channels' from the weights along the row. */
static void
resize_row(uint8_t *out, const uint8_t *in, int32_t out_width,
		   int32_t channels, const AxisWeights *axis)
{
	int32_t		i;
	int32_t		c;
	int32_t		j;

	for (i = 0; i < out_width; i++)
	{
		const int32_t *weight = axis->weight + (size_t) i * axis->most;

		for (c = 0; c < channels; c++)
		{
			const uint8_t *from = in + (size_t) axis->first[i] * channels + c;
			int32_t		sum = 1 << (WEIGHT_BITS - 1);

			for (j = 0; j < axis->count[i]; j++)
				sum += from[(size_t) j * channels] * weight[j];
			out[(size_t) i * channels + c] = clamp_sum(sum);
		}
	}
}

/* One output row as a weighted sum of input rows; sums is scratch. */
static void
resize_column(uint8_t *out, const uint8_t *in, size_t stride,
			  const AxisWeights *axis, int32_t i, int32_t *sums)
{
	const int32_t *weight = axis->weight + (size_t) i * axis->most;
	size_t		x;
	int32_t		j;

	for (x = 0; x < stride; x++)
		sums[x] = 1 << (WEIGHT_BITS - 1);
	for (j = 0; j < axis->count[i]; j++)
	{
		const uint8_t *from = in + (size_t) (axis->first[i] + j) * stride;
		int32_t		w = weight[j];

		for (x = 0; x < stride; x++)
			sums[x] += from[x] * w;
	}
	for (x = 0; x < stride; x++)
		out[x] = clamp_sum(sums[x]);
}

static bool
horizontal_pass(EngImage *out, const EngImage *in, EngResizeFilter filter)
{
	AxisWeights axis;
	int32_t		y;

	if (!make_weights(&axis, out->width, in->width, filter))
		return false;
	for (y = 0; y < in->height; y++)
		resize_row(out->pixels + (size_t) y * out->width * out->channels,
				   in->pixels + (size_t) y * in->width * in->channels,
				   out->width, in->channels, &axis);
	free_weights(&axis);
	return true;
}

static bool
vertical_pass(EngImage *out, const EngImage *in, EngResizeFilter filter)
{
	AxisWeights axis;
	size_t		stride = (size_t) in->width * in->channels;
	int32_t    *sums = malloc(sizeof(int32_t) * stride);
	int32_t		i;

	if (sums == NULL)
		return false;
	if (!make_weights(&axis, out->height, in->height, filter))
	{
		free(sums);
		return false;
	}
	for (i = 0; i < out->height; i++)
		resize_column(out->pixels + i * stride, in->pixels, stride, &axis, i,
					  sums);
	free_weights(&axis);
	free(sums);
	return true;
}

static bool
check_sizes(const EngImage *out, const EngImage *in, EngStatus *status)
{
	if (in->width < 1 || in->height < 1 || out->width < 1 ||
		out->height < 1 || in->channels < 1 || in->channels != out->channels)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"cannot resize a picture of %dx%dx%d to %dx%dx%d",
						in->width, in->height, in->channels, out->width,
						out->height, out->channels);
	return true;
}

bool
eng_resize(EngImage *out, const EngImage *in, EngResizeFilter filter,
		   EngStatus *status)
{
	EngImage	middle = *out;
	bool		done;

	if (!check_sizes(out, in, status))
		return false;
	if (in->width == out->width && in->height == out->height)
	{
		memcpy(out->pixels, in->pixels, eng_image_bytes(in));
		return true;
	}
	if (in->height == out->height)
		done = horizontal_pass(out, in, filter);
	else if (in->width == out->width)
		done = vertical_pass(out, in, filter);
	else
	{
		middle.height = in->height;
		middle.pixels = malloc(eng_image_bytes(&middle));
		done = middle.pixels != NULL &&
			horizontal_pass(&middle, in, filter) &&
			vertical_pass(out, &middle, filter);
		free(middle.pixels);
	}
	if (!done)
		return eng_fail(status, ENG_NO_MEMORY,
						"out of memory while resizing a picture");
	return true;
}

void
eng_grey_from_rgb(uint8_t *grey, const uint8_t *rgb, size_t pixels)
{
	size_t		i;

	for (i = 0; i < pixels; i++)
		grey[i] = (19595 * rgb[3 * i] + 38470 * rgb[3 * i + 1] +
				   7471 * rgb[3 * i + 2] + 32768) >> 16;
}
