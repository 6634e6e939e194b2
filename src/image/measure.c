/*
 * image/measure.c
 *		Grey levels and plain measures of a picture.
 *
 * Sums are of integers and exact; only the last division rounds.  The loops
 * are cut into stretches whose 32-bit sums cannot overflow, which lets the
 * compiler do many samples at once.
 */
#include "image/measure.h"

#include <string.h>

#include "image/vector.h"

/* Samples of 8 bits, or squares of +-1020, whose sum stays below 2^31. */
#define STRETCH 2048

/* Four samples in one load, the first in the lowest byte. */
static inline uint32_t
load_pixel(const uint8_t *colour)
{
	uint32_t	pixel;

	memcpy(&pixel, colour, sizeof(pixel));
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	pixel = __builtin_bswap32(pixel);
#endif
	return pixel;
}

/* ---- grey ------------------------------------------------------------ */

ENG_LOOP
convert_grey_loop(uint8_t *restrict grey, const uint8_t *restrict colour,
				  size_t pixels)
{
	size_t		i;

	for (i = 0; i < pixels; i++)
	{
		uint32_t	pixel = load_pixel(colour + 4 * i);

		grey[i] = (19595 * (pixel & 255) + 38470 * (pixel >> 8 & 255) +
				   7471 * (pixel >> 16 & 255) + 32768) >> 16;
	}
}

ENG_VECTOR(convert_grey,
		   (uint8_t *grey, const uint8_t *colour, size_t pixels),
		   (grey, colour, pixels))

void
eng_grey_from_colour(uint8_t *grey, const uint8_t *colour, size_t pixels)
{
	convert_grey(grey, colour, pixels);
}

/* ---- means ----------------------------------------------------------- */

double
eng_mean_grey(const EngImage *grey)
{
	size_t		count = eng_image_bytes(grey);
	uint64_t	sum = 0;
	size_t		i;

	for (i = 0; i < count; i++)
		sum += grey->pixels[i];
	return (double) sum / count;
}

/* Add up to STRETCH pixels' red, green and blue to the sums. */
ENG_LOOP
sum_colours_loop(uint64_t sums[3], const uint8_t *colour, int pixels)
{
	uint32_t	red = 0;
	uint32_t	green = 0;
	uint32_t	blue = 0;
	int			i;

	for (i = 0; i < pixels; i++)
	{
		uint32_t	pixel = load_pixel(colour + 4 * i);

		red += pixel & 255;
		green += pixel >> 8 & 255;
		blue += pixel >> 16 & 255;
	}
	sums[0] += red;
	sums[1] += green;
	sums[2] += blue;
}

ENG_VECTOR(sum_colours,
		   (uint64_t sums[3], const uint8_t *colour, int pixels),
		   (sums, colour, pixels))

void
eng_mean_colour(double mean[3], const EngImage *colour)
{
	size_t		count = (size_t) colour->width * colour->height;
	uint64_t	sums[3] = {0, 0, 0};
	size_t		i;
	int			c;

	for (i = 0; i < count; i += STRETCH)
		sum_colours(sums, colour->pixels + 4 * i,
					count - i < STRETCH ? (int) (count - i) : STRETCH);
	for (c = 0; c < 3; c++)
		mean[c] = (double) sums[c] / count;
}

/* ---- Laplacian ------------------------------------------------------- */

typedef struct LaplacianSums
{
	int64_t		values;
	int64_t		squares;
} LaplacianSums;

/* Add up to STRETCH pixels of a row to the sums. */
ENG_LOOP
sum_laplacian_loop(LaplacianSums *sums, const uint8_t *row, int stride,
				   int pixels)
{
	const uint8_t *above = row - stride;
	const uint8_t *below = row + stride;
	int32_t		values = 0;
	int32_t		squares = 0;
	int			x;

	for (x = 0; x < pixels; x++)
	{
		int16_t		value = (int16_t) (above[x] + below[x] + row[x - 1] +
									   row[x + 1] - 4 * row[x]);

		values += value;
		squares += value * value;
	}
	sums->values += values;
	sums->squares += squares;
}

ENG_VECTOR(sum_laplacian,
		   (LaplacianSums *sums, const uint8_t *row, int stride, int pixels),
		   (sums, row, stride, pixels))

double
eng_laplacian_variance(const EngImage *grey)
{
	double		count = (double) (grey->width - 2) * (grey->height - 2);
	LaplacianSums sums = {0, 0};
	double		mean;
	int			x;
	int			y;

	if (grey->width < 3 || grey->height < 3)
		return 0.0;
	for (y = 1; y < grey->height - 1; y++)
	{
		const uint8_t *row = grey->pixels + (size_t) y * grey->width;

		for (x = 1; x < grey->width - 1; x += STRETCH)
		{
			int			left = grey->width - 1 - x;

			sum_laplacian(&sums, row + x, grey->width,
						  left < STRETCH ? left : STRETCH);
		}
	}
	mean = sums.values / count;
	return sums.squares / count - mean * mean;
}
