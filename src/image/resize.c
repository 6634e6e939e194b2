/*
 * image/resize.c
 *		Pillow's 8-bit resampling: two passes with fixed point weights.
 *
 * For output i of one axis the centre is c = (i + 0.5) * scale in the
 * input's coordinates, scale = in / out; the filter is stretched by
 * max(scale, 1) so that shrinking averages instead of skipping.  Weights are
 * made in double, normalised, and rounded to 22 fractional bits; each pass
 * rounds and clamps to 8 bits.  The horizontal pass comes first.
 *
 * Shrinking a frame to a few pixels has weights that fit into 16 bits; then
 * rows of one channel take a loop with 16-bit factors, which processors do
 * many at once.  The sums are the same.
 */
#include "image/resize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "image/measure.h"
#include "image/resize_rgb.h"
#include "image/vector.h"

#define WEIGHT_BITS 22

/* Weights of one axis. */
typedef struct AxisWeights
{
	int32_t	   *first;			/* (out) first input sample of each output */
	int32_t	   *count;			/* (out) number of input samples */
	int32_t	   *weight;			/* (out, most) fixed point */
	int16_t    *narrow;			/* the same, if all fit; else NULL */
	int16_t    *split;			/* the same for resize_rgb.c, or NULL */
	int32_t		most;			/* largest possible count */
	int32_t		in;				/* samples; 0 = nothing made yet */
	int32_t		out;
	int32_t		whole;			/* samples of the whole result, of which out
								 * from begin on are made */
	int32_t		begin;
	EngResizeFilter filter;
} AxisWeights;

/* One axis of a request. */
typedef struct AxisSizes
{
	int32_t		in;
	int32_t		out;
	int32_t		whole;
	int32_t		begin;
} AxisSizes;

struct EngResizer
{
	AxisWeights across;
	AxisWeights down;
	uint8_t    *middle;			/* between the passes */
	size_t		capacity;		/* bytes at middle */
	uint8_t    *row;			/* grey of a row of a colour picture */
	int32_t		row_width;		/* bytes at row */
};

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
	free(axis->narrow);
	free(axis->split);
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
	double		centre = (axis->begin + i + 0.5) * scale;
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

/* Keep a narrow copy of the weights if they all fit. */
static bool
narrow_weights(AxisWeights *axis)
{
	size_t		count = (size_t) axis->out * axis->most;
	size_t		i;

	for (i = 0; i < count; i++)
	{
		if (axis->weight[i] < INT16_MIN || axis->weight[i] > INT16_MAX)
			return true;
	}
	axis->narrow = malloc(sizeof(int16_t) * count);
	if (axis->narrow == NULL)
		return false;
	for (i = 0; i < count; i++)
		axis->narrow[i] = (int16_t) axis->weight[i];
	return true;
}

static size_t
split_size(const AxisWeights *axis)
{
	return (size_t) eng_rgb_blocks(axis->most) * ENG_RGB_BLOCK;
}

/* Split the weights for pictures of three channels, if that is of use. */
static bool
split_weights(AxisWeights *axis)
{
	size_t		size = split_size(axis);
	int32_t		i;

	if (axis->split != NULL || !eng_rgb_is_here())
		return true;
	axis->split = malloc(sizeof(int16_t) * size * axis->out);
	if (axis->split == NULL)
		return false;
	for (i = 0; i < axis->out; i++)
		eng_rgb_split(axis->split + i * size,
					  axis->weight + (size_t) i * axis->most, axis->count[i]);
	return true;
}

/* Make the weights, unless they are there from the last picture. */
static bool
make_weights(AxisWeights *axis, const AxisSizes *sizes,
			 EngResizeFilter filter)
{
	int32_t		in = sizes->in;
	int32_t		out = sizes->out;
	double		scale = (double) in / sizes->whole;
	double		stretch = scale > 1.0 ? scale : 1.0;
	double	   *value = NULL;
	int32_t		i;

	if (axis->in == in && axis->out == out && axis->filter == filter &&
		axis->whole == sizes->whole && axis->begin == sizes->begin)
		return true;
	free_weights(axis);
	axis->begin = sizes->begin;
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
	axis->out = out;
	axis->whole = sizes->whole;
	axis->filter = filter;
	if (!narrow_weights(axis))
	{
		free_weights(axis);
		return false;
	}
	axis->in = in;
	return true;
}

static inline uint8_t
clamp_sum(int32_t sum)
{
	sum >>= WEIGHT_BITS;
	return sum < 0 ? 0 : sum > 255 ? 255 : (uint8_t) sum;
}

/* Output i of one row. */
static void
resize_pixel(uint8_t *out, const uint8_t *in, int32_t channels,
			 const AxisWeights *axis, int32_t i)
{
	const int32_t *weight = axis->weight + (size_t) i * axis->most;
	int32_t		c;
	int32_t		j;

	for (c = 0; c < channels; c++)
	{
		const uint8_t *from = in + (size_t) axis->first[i] * channels + c;
		int32_t		sum = 1 << (WEIGHT_BITS - 1);

		for (j = 0; j < axis->count[i]; j++)
			sum += from[(size_t) j * channels] * weight[j];
		out[(size_t) i * channels + c] = clamp_sum(sum);
	}
}

/* One row: out samples of 'channels' from the weights along the row. */
static void
resize_row(uint8_t *out, const uint8_t *in, int32_t out_width,
		   int32_t channels, const AxisWeights *axis)
{
	int32_t		i;

	for (i = 0; i < out_width; i++)
		resize_pixel(out, in, channels, axis, i);
}

/* Rows of three channels, by split weights. */
static void
resize_rgb_rows(const EngRgbTaps *rows, int32_t out_width,
				const AxisWeights *axis)
{
	size_t		size = split_size(axis);
	int32_t		i;
	int32_t		r;

	for (i = 0; i < out_width; i++)
	{
		if (eng_rgb_run(rows, i, axis->first[i], axis->split + i * size,
						eng_rgb_blocks(axis->count[i])))
			continue;
		for (r = 0; r < ENG_RGB_ROWS; r++)
			resize_pixel(rows->out[r], rows->in[r], 3, axis, i);
	}
}

/* The same for one channel and weights of 16 bits. */
ENG_LOOP
resize_grey_row_loop(uint8_t *out, const uint8_t *in, int32_t out_width,
					 const AxisWeights *axis)
{
	int32_t		i;
	int32_t		j;

	for (i = 0; i < out_width; i++)
	{
		const int16_t *weight = axis->narrow + (size_t) i * axis->most;
		const uint8_t *from = in + axis->first[i];
		int32_t		count = axis->count[i];
		int32_t		sum = 1 << (WEIGHT_BITS - 1);

		for (j = 0; j < count; j++)
			sum += (int16_t) from[j] * weight[j];
		out[i] = clamp_sum(sum);
	}
}

ENG_VECTOR(resize_grey_row,
		   (uint8_t *out, const uint8_t *in, int32_t out_width,
			const AxisWeights *axis),
		   (out, in, out_width, axis))

/* One output row as a weighted sum of input rows; sums is scratch. */
ENG_LOOP
resize_column_loop(uint8_t *out, const uint8_t *in, size_t stride,
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

ENG_VECTOR(resize_column,
		   (uint8_t *out, const uint8_t *in, size_t stride,
			const AxisWeights *axis, int32_t i, int32_t *sums),
		   (out, in, stride, axis, i, sums))

/* Rows of a picture from first on, before end. */
typedef struct RowRange
{
	int32_t		first;
	int32_t		end;
} RowRange;

/* Several rows at a time; the last one again where they do not come out. */
static void
horizontal_rgb_pass(const AxisWeights *axis, EngImage *out,
					const EngImage *in, RowRange range)
{
	size_t		out_stride = (size_t) out->width * 3;
	size_t		in_stride = (size_t) in->width * 3;
	EngRgbTaps	rows = {.width = in->width};
	int32_t		y;
	int32_t		r;

	for (y = range.first; y < range.end; y += ENG_RGB_ROWS)
	{
		for (r = 0; r < ENG_RGB_ROWS; r++)
		{
			int32_t		row = y + r < range.end ? y + r : range.end - 1;

			rows.in[r] = in->pixels + row * in_stride;
			rows.out[r] = out->pixels + row * out_stride;
		}
		resize_rgb_rows(&rows, out->width, axis);
	}
}

/* Row by row, so that the grey of a colour picture stays near. */
static void
horizontal_pass(EngResizer *resizer, EngImage *out, const EngImage *in,
				RowRange range)
{
	const AxisWeights *axis = &resizer->across;
	size_t		out_stride = (size_t) out->width * out->channels;
	size_t		in_stride = (size_t) in->width * in->channels;
	int32_t		y;

	if (in->channels == 3 && axis->split != NULL)
	{
		horizontal_rgb_pass(axis, out, in, range);
		return;
	}
	for (y = range.first; y < range.end; y++)
	{
		uint8_t    *to = out->pixels + y * out_stride;
		const uint8_t *from = in->pixels + y * in_stride;

		if (in->channels != out->channels)
		{
			eng_grey_from_colour(resizer->row, from, in->width);
			from = resizer->row;
		}
		if (out->channels == 1 && axis->narrow != NULL)
			resize_grey_row(to, from, out->width, axis);
		else
			resize_row(to, from, out->width, out->channels, axis);
	}
}

static bool
vertical_pass(EngImage *out, const EngImage *in, const AxisWeights *axis)
{
	size_t		stride = (size_t) in->width * in->channels;
	int32_t    *sums = malloc(sizeof(int32_t) * stride);
	int32_t		i;

	if (sums == NULL)
		return false;
	for (i = 0; i < out->height; i++)
		resize_column(out->pixels + i * stride, in->pixels, stride, axis, i,
					  sums);
	free(sums);
	return true;
}

static bool
is_grey_of_colour(const EngImage *out, const EngImage *in)
{
	return in->channels == 4 && out->channels == 1;
}

static bool
check_sizes(const EngImage *out, const EngImage *in, EngStatus *status)
{
	if (in->width < 1 || in->height < 1 || out->width < 1 ||
		out->height < 1 || in->channels < 1 ||
		(in->channels != out->channels && !is_grey_of_colour(out, in)))
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"cannot resize a picture of %dx%dx%d to %dx%dx%d",
						in->width, in->height, in->channels, out->width,
						out->height, out->channels);
	return true;
}

/* Room for the picture between the passes and for a row of grey. */
static bool
grow(EngResizer *resizer, size_t bytes, int32_t width)
{
	if (bytes > resizer->capacity)
	{
		free(resizer->middle);
		resizer->middle = malloc(bytes);
		resizer->capacity = resizer->middle != NULL ? bytes : 0;
	}
	if (width > resizer->row_width)
	{
		free(resizer->row);
		resizer->row = malloc(width);
		resizer->row_width = resizer->row != NULL ? width : 0;
	}
	return resizer->capacity >= bytes && resizer->row_width >= width;
}

/* Whether a pass would change nothing. */
static bool
is_copy(const AxisSizes *axis)
{
	return axis->whole == axis->in && axis->out == axis->in;
}

/* The rows that the vertical pass reads; both ends of them grow with i. */
static RowRange
rows_read(const AxisWeights *axis)
{
	int32_t		last = axis->out - 1;

	return (RowRange) {axis->first[0], axis->first[last] + axis->count[last]};
}

static bool
run_passes(EngResizer *resizer, EngImage *out, const EngImage *in,
		   const AxisSizes *across, const AxisSizes *down,
		   EngResizeFilter filter)
{
	EngImage	middle = *out;
	bool		is_across = !is_copy(across) || is_grey_of_colour(out, in);
	bool		is_down = !is_copy(down);
	RowRange	range = {0, in->height};

	if (is_across && !make_weights(&resizer->across, across, filter))
		return false;
	if (is_down && !make_weights(&resizer->down, down, filter))
		return false;
	if (!is_across)
		return vertical_pass(out, in, &resizer->down);
	if (in->channels == 3 && !split_weights(&resizer->across))
		return false;
	middle.height = in->height;
	if (!grow(resizer, is_down ? eng_image_bytes(&middle) : 0,
			  is_grey_of_colour(out, in) ? in->width : 0))
		return false;
	if (is_down)
	{
		middle.pixels = resizer->middle;
		range = rows_read(&resizer->down);
	}
	horizontal_pass(resizer, &middle, in, range);
	if (!is_down)
		return true;
	return vertical_pass(out, &middle, &resizer->down);
}

EngResizer *
eng_resizer_create(void)
{
	return calloc(1, sizeof(EngResizer));
}

static void
empty(EngResizer *resizer)
{
	free_weights(&resizer->across);
	free_weights(&resizer->down);
	free(resizer->middle);
	free(resizer->row);
}

void
eng_resizer_free(EngResizer *resizer)
{
	if (resizer == NULL)
		return;
	empty(resizer);
	free(resizer);
}

static bool
run(EngResizer *resizer, EngImage *out, const EngImage *in,
	const AxisSizes *across, const AxisSizes *down, EngResizeFilter filter,
	EngStatus *status)
{
	if (!check_sizes(out, in, status))
		return false;
	if (is_copy(across) && is_copy(down) && in->channels == out->channels)
	{
		memcpy(out->pixels, in->pixels, eng_image_bytes(in));
		return true;
	}
	if (!run_passes(resizer, out, in, across, down, filter))
		return eng_fail(status, ENG_NO_MEMORY,
						"out of memory while resizing a picture");
	return true;
}

bool
eng_resizer_run(EngResizer *resizer, EngImage *out, const EngImage *in,
				EngResizeFilter filter, EngStatus *status)
{
	AxisSizes	across = {in->width, out->width, out->width, 0};
	AxisSizes	down = {in->height, out->height, out->height, 0};

	return run(resizer, out, in, &across, &down, filter, status);
}

/* Half of an even or odd number, a half rounded to the even neighbour. */
static int32_t
half_to_even(int32_t x)
{
	return x % 4 == 3 ? x / 2 + 1 : x / 2;
}

bool
eng_resizer_square(EngResizer *resizer, EngImage *out, const EngImage *in,
				   EngStatus *status)
{
	int64_t		side = out->width;
	AxisSizes	across = {in->width, out->width, out->width, 0};
	AxisSizes	down = {in->height, out->height, out->height, 0};
	int64_t		longer;

	if (out->width != out->height || in->width < 1 || in->height < 1)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"cannot cut a square of %dx%d from a picture of %dx%d",
						out->width, out->height, in->width, in->height);
	longer = in->width > in->height ? side * in->width / in->height :
		side * in->height / in->width;
	if (longer > INT32_MAX / 8)
		return eng_fail(status, ENG_UNSUPPORTED,
						"picture of %dx%d is too narrow for a square",
						in->width, in->height);
	if (in->width > in->height)
		across.whole = (int32_t) longer;
	else
		down.whole = (int32_t) longer;
	across.begin = half_to_even(across.whole - out->width);
	down.begin = half_to_even(down.whole - out->height);
	return run(resizer, out, in, &across, &down, ENG_RESIZE_BICUBIC, status);
}

bool
eng_resize(EngImage *out, const EngImage *in, EngResizeFilter filter,
		   EngStatus *status)
{
	EngResizer	resizer = {0};
	bool		done = eng_resizer_run(&resizer, out, in, filter, status);

	empty(&resizer);
	return done;
}
