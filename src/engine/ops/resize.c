/*
 * engine/ops/resize.c
 *		From the pixels of a frame to the input of the network.
 *
 * Sizes follow torchvision's GeneralizedRCNNTransform to the last rounding:
 * the output size is floor(size * scale) with the product in double, which
 * gives 799 rows for some heights although 800 were asked for.  Sampling
 * positions come from the ratio of the sizes, not from that scale.
 */
#include <math.h>
#include <string.h>

#include "engine/ops/detection.h"

EngSize
eng_resize_size(EngSize image, const EngResizeRule *rule)
{
	int32_t		small = image.height < image.width ? image.height : image.width;
	int32_t		large = image.height < image.width ? image.width : image.height;
	double		scale;
	EngSize		out;

	if (rule->keep)
		return image;
	if (rule->fixed_width > 0)
		return (EngSize) {rule->fixed_height, rule->fixed_width};
	if (rule->scale == ENG_SCALE_F32)
	{
		float		a = (float) rule->min_size / (float) small;
		float		b = (float) rule->max_size / (float) large;

		scale = (double) (a < b ? a : b);
	}
	else
	{
		double		a = (double) rule->min_size / (double) small;
		double		b = (double) rule->max_size / (double) large;

		scale = a < b ? a : b;
	}
	out.height = (int32_t) floor((double) image.height * scale);
	out.width = (int32_t) floor((double) image.width * scale);
	return out;
}

int32_t
eng_padded_size(int32_t size, int32_t divisor)
{
	return (size + divisor - 1) / divisor * divisor;
}

void
eng_boxes_scale(float *out, const float *boxes, int32_t n, EngSize from,
				EngSize to)
{
	float		y = (float) to.height / (float) from.height;
	float		x = (float) to.width / (float) from.width;

	for (int32_t i = 0; i < n; i++)
	{
		out[4 * i] = boxes[4 * i] * x;
		out[4 * i + 1] = boxes[4 * i + 1] * y;
		out[4 * i + 2] = boxes[4 * i + 2] * x;
		out[4 * i + 3] = boxes[4 * i + 3] * y;
	}
}

void
eng_boxes_flip(float *out, const float *boxes, int32_t n, int32_t width)
{
	for (int32_t i = 0; i < n; i++)
	{
		float		x1 = (float) width - boxes[4 * i + 2];
		float		x2 = (float) width - boxes[4 * i];

		out[4 * i] = x1;
		out[4 * i + 1] = boxes[4 * i + 1];
		out[4 * i + 2] = x2;
		out[4 * i + 3] = boxes[4 * i + 3];
	}
}

bool
eng_boxes_check(const float *boxes, int32_t n, int64_t frame_id,
				EngStatus *status)
{
	for (int32_t i = 0; i < n; i++)
	{
		const float *b = boxes + 4 * i;

		/* written so that a NaN is refused too */
		if (!(b[2] > b[0] && b[3] > b[1]))
			return eng_fail(status, ENG_BAD_ARGUMENT,
							"box %d of frame %lld has no positive width and height: [%g, %g, %g, %g]",
							i + 1, (long long) frame_id,
							b[0], b[1], b[2], b[3]);
		if (!isfinite(b[0]) || !isfinite(b[1]) || !isfinite(b[2]) ||
			!isfinite(b[3]))
			return eng_fail(status, ENG_BAD_ARGUMENT,
							"box %d of frame %lld is not finite",
							i + 1, (long long) frame_id);
	}
	return true;
}

/* Where an output index samples the input along one axis. */
typedef struct Tap
{
	int32_t		low;
	int32_t		high;
	float		weight;			/* of high */
} Tap;

static Tap
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

/* One source row, normalised and interpolated along x: out (width, 3). */
static void
stretch_row(float *out, const uint8_t *row, const Tap *taps, int32_t width,
			float table[3][256])
{
	for (int32_t x = 0; x < width; x++)
	{
		const uint8_t *low = row + 3 * (size_t) taps[x].low;
		const uint8_t *high = row + 3 * (size_t) taps[x].high;
		float		w1 = taps[x].weight;
		float		w0 = 1.0f - w1;

		for (int c = 0; c < 3; c++)
			out[3 * x + c] = w0 * table[c][low[c]] + w1 * table[c][high[c]];
	}
}

ENG_INLINE void
blend_rows(void *out, int32_t channels, float *const row[2], float weight,
		   int32_t width, EngType type)
{
	float		w0 = 1.0f - weight;
	int64_t		at = 0;

	for (int32_t x = 0; x < width; x++)
	{
		for (int c = 0; c < 3; c++)
			eng_store(out, type, at + c,
					  w0 * row[0][3 * x + c] + weight * row[1][3 * x + c]);
		for (int c = 3; c < channels; c++)
			eng_store(out, type, at + c, 0.0f);
		at += channels;
	}
}

size_t
eng_image_input_scratch_bytes(EngSize resized, EngSize image)
{
	(void) image;
	return (size_t) resized.width * (6 * sizeof(float) + sizeof(Tap)) + 64;
}

void
eng_image_input(void *out, int32_t channels, const EngPixels *image,
				void *scratch)
{
	EngType		type = image->type;
	int32_t		width = image->resized.width;
	int32_t		height = image->resized.height;
	Tap		   *taps = scratch;
	float	   *row[2];
	int32_t		held[2] = {-1, -1};
	size_t		pitch = (size_t) image->padded.width * channels;
	float		table[3][256];

	row[0] = (float *) (taps + width);
	row[1] = row[0] + 3 * (size_t) width;
	for (int c = 0; c < 3; c++)
		for (int v = 0; v < 256; v++)
			table[c][v] = ((float) v / 255.0f - image->mean[c]) /
				image->std[c];
	for (int32_t x = 0; x < width; x++)
	{
		taps[x] = sample_tap(x, width, image->size.width);
		if (image->flip)
		{
			taps[x].low = image->size.width - 1 - taps[x].low;
			taps[x].high = image->size.width - 1 - taps[x].high;
		}
	}
	for (int32_t y = 0; y < height; y++)
	{
		Tap			tap = sample_tap(y, height, image->size.height);
		int32_t		want[2] = {tap.low, tap.high};
		void	   *to = eng_at(out, type, (int64_t) (y * pitch));

		if (held[1] == tap.low && held[0] != tap.low)
		{
			float	   *t = row[0];

			row[0] = row[1];
			row[1] = t;
			held[1] = held[0];
			held[0] = tap.low;
		}
		for (int k = 0; k < 2; k++)
		{
			if (held[k] == want[k])
				continue;
			stretch_row(row[k], image->rgb + (size_t) want[k] * 3 *
						image->size.width, taps, width, table);
			held[k] = want[k];
		}
		if (type == ENG_BF16)
			blend_rows(to, channels, row, tap.weight, width, ENG_BF16);
		else if (type == ENG_F16)
			blend_rows(to, channels, row, tap.weight, width, ENG_F16);
		else
			blend_rows(to, channels, row, tap.weight, width, ENG_F32);
		memset(eng_at(to, type, (int64_t) width * channels), 0,
			   (pitch - (size_t) width * channels) * eng_type_size(type));
	}
	memset(eng_at(out, type, (int64_t) (height * pitch)), 0,
		   (size_t) (image->padded.height - height) * pitch *
		   eng_type_size(type));
}
