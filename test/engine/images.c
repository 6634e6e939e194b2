/*
 * test/engine/images.c
 *		JPEG headers and bodies, whole and damaged; resampling and drawing.
 */
#include "image/draw.h"
#include "image/jpeg.h"
#include "image/measure.h"
#include "image/resize.h"
#include "tap.h"

#define WIDTH 61
#define HEIGHT 37

/* A small picture with some detail. */
static EngImage
make_picture(int32_t channels)
{
	EngImage	image = {NULL, WIDTH, HEIGHT, channels};
	size_t		i;

	image.pixels = malloc(eng_image_bytes(&image));
	for (i = 0; i < eng_image_bytes(&image); i++)
		image.pixels[i] = (uint8_t) (i * 7 + i / 50 * 13 + (i % 11) * (i % 5));
	return image;
}

/* A random number; the state is a Weyl sequence. */
static uint64_t
next_random(uint64_t *state)
{
	uint64_t	z = (*state += UINT64_C(0x9E3779B97F4A7C15));

	z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
	return z ^ (z >> 31);
}

/* A copy of exactly that size, so that a sanitizer sees any read behind. */
static uint8_t *
exact_copy(const uint8_t *bytes, size_t size)
{
	uint8_t    *copy = malloc(size > 0 ? size : 1);

	memcpy(copy, bytes, size);
	return copy;
}

static bool
header_says(const uint8_t *bytes, size_t size, const char *message)
{
	EngJpegInfo info;
	EngStatus	status = {0};
	uint8_t    *copy = exact_copy(bytes, size);
	bool		done = eng_jpeg_read_header(&info, copy, size, &status);

	free(copy);
	if (message == NULL)
		return done;
	return !done && strstr(status.message, message) != NULL;
}

/* ---- headers --------------------------------------------------------- */

/* SOI and a frame header of these properties. */
static size_t
write_header(uint8_t *bytes, int marker, int precision, int width,
			 int components)
{
	int			i;
	size_t		at = 0;

	bytes[at++] = 0xFF;
	bytes[at++] = 0xD8;
	bytes[at++] = 0xFF;
	bytes[at++] = (uint8_t) marker;
	bytes[at++] = 0;
	bytes[at++] = (uint8_t) (8 + 3 * components);
	bytes[at++] = (uint8_t) precision;
	bytes[at++] = 0;
	bytes[at++] = 16;
	bytes[at++] = (uint8_t) (width >> 8);
	bytes[at++] = (uint8_t) width;
	bytes[at++] = (uint8_t) components;
	for (i = 0; i < components; i++)
	{
		bytes[at++] = (uint8_t) (i + 1);
		bytes[at++] = 0x11;
		bytes[at++] = 0;
	}
	return at;
}

static void
test_headers(void)
{
	static const uint8_t png[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 26, '\n'};
	uint8_t		bytes[64];
	size_t		size = write_header(bytes, 0xC0, 8, 24, 3);
	EngJpegInfo info = {0};
	EngStatus	status = {0};
	size_t		i;
	bool		refused = true;

	tap_ok(eng_jpeg_read_header(&info, bytes, size, &status) &&
		   info.width == 24 && info.height == 16 && info.components == 3 &&
		   !info.progressive, "a frame header is read");
	for (i = 0; i < size; i++)
		refused = refused && !header_says(bytes, i, NULL);
	tap_ok(refused, "a header cut off anywhere is refused");
	tap_ok(header_says(bytes, 0, "image is empty"), "no bytes at all");
	tap_ok(header_says(png, 8, "not a JPEG"), "a PNG is no JPEG");
	size = write_header(bytes, 0xC2, 8, 24, 1);
	tap_ok(eng_jpeg_read_header(&info, bytes, size, &status) &&
		   info.progressive && info.components == 1, "progressive, grey");
	size = write_header(bytes, 0xC3, 8, 24, 3);
	tap_ok(header_says(bytes, size, "lossless"), "lossless is refused");
	size = write_header(bytes, 0xC9, 8, 24, 3);
	tap_ok(header_says(bytes, size, "arithmetic"), "arithmetic is refused");
	size = write_header(bytes, 0xC5, 8, 24, 3);
	tap_ok(header_says(bytes, size, "hierarchical"),
		   "hierarchical is refused");
	size = write_header(bytes, 0xC1, 12, 24, 3);
	tap_ok(header_says(bytes, size, "12 bits"), "12 bits are refused");
	size = write_header(bytes, 0xC0, 8, 0, 3);
	tap_ok(header_says(bytes, size, "size 0x16"), "a width of 0 is refused");
	size = write_header(bytes, 0xC0, 8, 24, 2);
	tap_ok(header_says(bytes, size, "2 components"),
		   "two components are refused");
	size = write_header(bytes, 0xC0, 8, 24, 3);
	bytes[5]++;
	tap_ok(header_says(bytes, size + 1, "wrong length"),
		   "a frame header of a wrong length is refused");
	size = write_header(bytes, 0xDA, 8, 24, 3);
	tap_ok(header_says(bytes, size, "no frame header"),
		   "a scan before the frame header is refused");
}

/* ---- bodies ---------------------------------------------------------- */

static bool
decode_copy(EngJpegDecoder *decoder, const uint8_t *bytes, size_t size,
			EngStatus *status)
{
	EngImage	out = {NULL, 0, 0, 3};
	uint8_t    *copy = exact_copy(bytes, size);
	bool		done;

	memset(status, 0, sizeof(*status));
	done = eng_jpeg_decode_alloc(decoder, &out, copy, size, 1, status);
	free(copy);
	return done;
}

static void
test_round_trip(EngJpegDecoder *decoder, EngJpegEncoder *encoder)
{
	EngImage	image = {malloc(48 * 32 * 3), 48, 32, 3};
	EngImage	out = {malloc(48 * 32 * 3), 48, 32, 3};
	EngStatus	status = {0};
	const uint8_t *bytes;
	size_t		size;
	int			scale;
	int			worst = 0;
	bool		sizes_fit = true;
	size_t		i;

	for (i = 0; i < eng_image_bytes(&image); i++)
		image.pixels[i] = (uint8_t) (i % 3 * 60 + i / 144 * 3);
	tap_ok(eng_jpeg_encode(encoder, &image, 95, ENG_JPEG_444, &status),
		   "a picture is encoded");
	bytes = eng_jpeg_encoded(encoder, &size);
	tap_ok(eng_jpeg_decode(decoder, &out, bytes, size, 1, &status),
		   "and decoded again");
	for (i = 0; i < eng_image_bytes(&image); i++)
		if (abs(image.pixels[i] - out.pixels[i]) > worst)
			worst = abs(image.pixels[i] - out.pixels[i]);
	tap_ok(worst <= 6, "with errors of up to %d levels", worst);
	for (scale = 1; scale <= 8; scale *= 2)
	{
		EngImage	small = {NULL, 0, 0, scale == 4 ? 4 : 1};

		sizes_fit = sizes_fit &&
			eng_jpeg_decode_alloc(decoder, &small, bytes, size, scale,
								  &status) &&
			small.width == 48 / scale && small.height == 32 / scale;
	}
	tap_ok(sizes_fit, "at every scale, in grey");
	tap_ok(!eng_jpeg_decode(decoder, &out, bytes, size, 3, &status) &&
		   status.code == ENG_BAD_ARGUMENT, "but not at 1/3");
	memset(&status, 0, sizeof(status));
	out.width = 47;
	tap_ok(!eng_jpeg_decode(decoder, &out, bytes, size, 1, &status) &&
		   status.code == ENG_BAD_ARGUMENT,
		   "nor into a picture of another size");
	free(image.pixels);
	free(out.pixels);
}

static void
test_damage(EngJpegDecoder *decoder, EngJpegEncoder *encoder)
{
	EngImage	image = make_picture(3);
	EngStatus	status = {0};
	const uint8_t *bytes;
	uint8_t    *longer;
	uint8_t		bomb[64];
	size_t		size;
	size_t		cut;
	size_t		taken = 0;

	eng_jpeg_encode(encoder, &image, 90, ENG_JPEG_420, &status);
	bytes = eng_jpeg_encoded(encoder, &size);
	for (cut = 0; cut < size; cut++)
		taken += decode_copy(decoder, bytes, cut, &status);
	tap_ok(taken == 0, "cut off at %zu places: refused each time", size);
	tap_ok(decode_copy(decoder, bytes, size, &status),
		   "the decoder is fine after that");
	longer = calloc(1, size + 100);
	memcpy(longer, bytes, size);
	tap_ok(decode_copy(decoder, longer, size + 100, &status),
		   "bytes after the end do no harm");
	size = write_header(bomb, 0xC0, 8, 65500, 3);
	tap_ok(!decode_copy(decoder, bomb, size, &status) &&
		   strstr(status.message, "too large") != NULL,
		   "a picture of 65500 columns is not decoded: %s", status.message);
	size = write_header(bomb, 0xC0, 8, 64, 4);
	tap_ok(!decode_copy(decoder, bomb, size, &status) &&
		   strstr(status.message, "CMYK") != NULL, "nor one in CMYK");
	size = write_header(bomb, 0xC2, 8, 8192, 3);
	bomb[7] = 32;				/* of 8208 rows */
	bomb[8] = 0;				/* of 8192 */
	tap_ok(!decode_copy(decoder, bomb, size, &status) &&
		   strstr(status.message, "cannot hold") != NULL,
		   "nor one of fewer bytes than its blocks need: %s",
		   status.message);
	free(longer);
	free(image.pixels);
}

static size_t
append(uint8_t *bytes, size_t at, const void *more, size_t size)
{
	memcpy(bytes + at, more, size);
	return at + size;
}

/* Tables and frame header of a grey picture of 24 x 16, all codes "0". */
static size_t
write_tables(uint8_t *bytes, int marker, int components)
{
	static const uint8_t dc[] = {0xFF, 0xC4, 0, 20, 0x00, 1, 0, 0, 0, 0, 0,
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
	uint8_t		ac[sizeof(dc)];
	uint8_t		quanta[69] = {0xFF, 0xDB, 0, 67, 0};
	size_t		at = write_header(bytes, marker, 8, 24, components);

	memset(quanta + 5, 1, 64);
	memcpy(ac, dc, sizeof(dc));
	ac[4] = 0x10;
	at = append(bytes, at, quanta, sizeof(quanta));
	at = append(bytes, at, dc, sizeof(dc));
	return append(bytes, at, ac, sizeof(ac));
}

/*
 * A progressive picture of so many scans: the levels, then one bit after the
 * other of one coefficient after the other, all of them 0.
 */
static size_t
write_scans(uint8_t *bytes, int scans)
{
	uint8_t		levels[] = {0xFF, 0xDA, 0, 8, 1, 1, 0, 0, 0, 0, 0x03};
	size_t		at = write_tables(bytes, 0xC2, 1);
	int			i;

	at = append(bytes, at, levels, sizeof(levels));
	for (i = 0; i < scans - 1; i++)
	{
		int			low = 13 - i % 14;
		uint8_t		scan[] = {0xFF, 0xDA, 0, 8, 1, 1, 0, 1 + i / 14,
			1 + i / 14, (low == 13 ? 0 : low + 1) << 4 | low, 0x03};

		at = append(bytes, at, scan, sizeof(scan));
	}
	return append(bytes, at, "\xFF\xD9", 2);
}

/* The same number of scans of the first of two components, in a plain file. */
static size_t
write_plain_scans(uint8_t *bytes, int scans)
{
	static const uint8_t scan[] = {0xFF, 0xDA, 0, 8, 1, 1, 0, 0, 63, 0, 0x00,
	0x0F};
	size_t		at = write_tables(bytes, 0xC0, 3);

	while (scans-- > 0)
		at = append(bytes, at, scan, sizeof(scan));
	return append(bytes, at, "\xFF\xD9", 2);
}

/* Every scan costs a walk over all blocks, and next to no bytes. */
static void
test_scans(EngJpegDecoder *decoder)
{
	static uint8_t bytes[10000];
	static uint8_t noted[20000] = {0xFF, 0xD8, 0xFF, 0xE1, 0, 202};
	EngStatus	status = {0};
	size_t		size = write_scans(bytes, ENG_JPEG_MAX_SCANS);
	size_t		i;

	tap_ok(decode_copy(decoder, bytes, size, &status),
		   "%d scans are decoded: %s", ENG_JPEG_MAX_SCANS, status.message);
	for (i = 6; i < 206; i++)
		noted[i] = i % 2 == 0 ? 0xFF : 0xDA;
	memcpy(noted + 206, bytes + 2, size - 2);
	tap_ok(decode_copy(decoder, noted, size + 204, &status),
		   "what looks like scans in a note is none: %s", status.message);
	size = write_scans(bytes, ENG_JPEG_MAX_SCANS + 1);
	tap_ok(!decode_copy(decoder, bytes, size, &status) &&
		   status.code == ENG_UNSUPPORTED &&
		   strcmp(status.message, "JPEG with more than 64 scans is not supported") == 0,
		   "one more is refused: %s", status.message);
	for (i = 0; i <= size; i++)
		(void) decode_copy(decoder, bytes, i, &status);
	tap_ok(status.code == ENG_UNSUPPORTED, "wherever such a file is cut off");
	size = write_plain_scans(bytes, ENG_JPEG_MAX_SCANS + 1);
	tap_ok(!decode_copy(decoder, bytes, size, &status) &&
		   strstr(status.message, "more than 64 scans") != NULL,
		   "nor are they taken one component at a time: %s", status.message);
	size = write_plain_scans(bytes, ENG_JPEG_MAX_SCANS);
	tap_ok(decode_copy(decoder, bytes, size, &status),
		   "as few as that are: %s", status.message);
}

/* Nothing may be read out of bounds, whatever the bytes are. */
static void
test_mutations(EngJpegDecoder *decoder, EngJpegEncoder *encoder)
{
	EngImage	image = make_picture(3);
	EngStatus	status = {0};
	uint64_t	state = 42;
	const uint8_t *bytes;
	size_t		size;
	int			round;
	int			headers = 0;
	int			bodies = 0;

	eng_jpeg_encode(encoder, &image, 60, ENG_JPEG_420, &status);
	bytes = eng_jpeg_encoded(encoder, &size);
	for (round = 0; round < 10000; round++)
	{
		size_t		length = next_random(&state) % 4 == 0 ?
			next_random(&state) % (size + 1) : size;
		uint8_t    *copy = exact_copy(bytes, length);
		int			changes = 1 + (int) (next_random(&state) % 8);
		EngJpegInfo info;

		/* most changes fall into the header */
		while (changes-- > 0 && length > 0)
			copy[next_random(&state) %
				 (next_random(&state) % 4 == 0 || length < 200 ?
				  length : 200)] = (uint8_t) next_random(&state);
		memset(&status, 0, sizeof(status));
		if (eng_jpeg_read_header(&info, copy, length, &status))
		{
			EngImage	out = {NULL, 0, 0, 3};

			headers++;
			/* large ones are slow, and no different */
			if (info.width <= 512 && info.height <= 512)
				bodies += eng_jpeg_decode_alloc(decoder, &out, copy, length,
												1 << round % 4, &status);
		}
		free(copy);
	}
	tap_ok(headers > 0 && headers < 10000 && bodies < headers,
		   "10000 mutations: %d headers and %d bodies are taken", headers,
		   bodies);
	free(image.pixels);
}

/* ---- resampling ------------------------------------------------------ */

/*
 * Known answers, worked out from the rule apart from this code: weights in
 * double, normalised, 22-bit fixed point, each pass rounded.
 */
static void
test_known_answers(void)
{
	static const uint8_t ramp[8] = {0, 10, 20, 30, 200, 210, 220, 230};
	static const uint8_t step[4] = {0, 0, 255, 255};
	uint8_t		result[8];
	EngImage	in = {(uint8_t *) ramp, 8, 1, 1};
	EngImage	out = {result, 4, 1, 1};
	EngStatus	status = {0};

	/* triangle over four samples: 1 3 3 1, at the ends 3 3 1; so the
	 * second is (10 + 60 + 90 + 200) / 8 */
	eng_resize(&out, &in, ENG_RESIZE_BILINEAR, &status);
	tap_ok(result[0] == 7 && result[1] == 45 && result[2] == 185 &&
		   result[3] == 223, "bilinear by half: %d %d %d %d", result[0],
		   result[1], result[2], result[3]);
	/* enlarging: centres at 0.25, 0.75, ... of the samples */
	in = (EngImage) {(uint8_t *) step, 4, 1, 1};
	out.width = 8;
	eng_resize(&out, &in, ENG_RESIZE_BILINEAR, &status);
	tap_ok(result[2] == 0 && result[3] == 64 && result[4] == 191 &&
		   result[5] == 255, "bilinear to double: %d %d %d %d", result[2],
		   result[3], result[4], result[5]);
	/* overshoot is clamped */
	eng_resize(&out, &in, ENG_RESIZE_LANCZOS, &status);
	tap_ok(result[0] == 10 && result[1] == 0 && result[2] == 0 &&
		   result[3] == 54 && result[4] == 201 && result[5] == 255,
		   "Lanczos to double: %d %d %d %d %d %d", result[0], result[1],
		   result[2], result[3], result[4], result[5]);
	eng_resize(&out, &in, ENG_RESIZE_BICUBIC, &status);
	tap_ok(result[2] == 0 && result[3] == 52 && result[4] == 203 &&
		   result[5] == 255, "bicubic to double: %d %d %d %d", result[2],
		   result[3], result[4], result[5]);
}

static void
test_resize(void)
{
	EngImage	image = make_picture(3);
	EngImage	flat = {calloc(1, 100 * 40), 100, 40, 1};
	EngImage	small = {malloc(3 * 100 * 100), 9, 8, 1};
	EngStatus	status = {0};
	bool		is_flat = true;
	int			i;

	memset(flat.pixels, 77, 100 * 40);
	eng_resize(&small, &flat, ENG_RESIZE_LANCZOS, &status);
	for (i = 0; i < 72; i++)
		is_flat = is_flat && small.pixels[i] == 77;
	tap_ok(is_flat, "a flat picture stays flat");
	small = (EngImage) {small.pixels, WIDTH, HEIGHT, 3};
	eng_resize(&small, &image, ENG_RESIZE_BICUBIC, &status);
	tap_ok(memcmp(small.pixels, image.pixels, eng_image_bytes(&image)) == 0,
		   "the same size is a copy");
	small.channels = 1;
	tap_ok(!eng_resize(&small, &image, ENG_RESIZE_BICUBIC, &status),
		   "channels must agree");
	test_known_answers();
	free(image.pixels);
	free(flat.pixels);
	free(small.pixels);
}

/* The same weights, sums and rounding in 64 bits, sample by sample. */
static uint8_t
weigh_slowly(const uint8_t *from, int32_t in, int32_t out, int32_t i)
{
	double		scale = (double) in / out;
	double		support = 3.0 * (scale > 1.0 ? scale : 1.0);
	double		centre = (i + 0.5) * scale;
	int32_t		low = (int32_t) fmax(centre - support + 0.5, 0.0);
	int32_t		high = (int32_t) fmin(centre + support + 0.5, in);
	double		total = 0.0;
	double		sum = 0.0;
	int32_t		j;

	for (j = low; j < high; j++)
	{
		double		x = (j - centre + 0.5) / (support / 3.0);
		double		weight = x == 0.0 ? 1.0 :
			sin(M_PI * x) / (M_PI * x) * sin(M_PI * x / 3.0) / (M_PI * x / 3.0);

		weight = x < -3.0 || x >= 3.0 ? 0.0 : weight;
		total += weight;
		sum += weight * from[j];
	}
	sum = sum / total + 0.5;
	return sum < 0.0 ? 0 : sum > 255.0 ? 255 : (uint8_t) sum;
}

/* Rows of every width shrunk to 9 by one resizer, narrow weights or wide. */
static void
test_resizer(void)
{
	EngResizer *resizer = eng_resizer_create();
	EngStatus	status = {0};
	uint8_t    *row = malloc(2000);
	uint8_t		cells[9];
	uint64_t	state = 7;
	int			worst = 0;
	int			i;
	int32_t		width;

	for (width = 10; width <= 2000; width += width / 7 + 1)
	{
		EngImage	in = {row, width, 1, 1};
		EngImage	out = {cells, 9, 1, 1};

		for (i = 0; i < width; i++)
			row[i] = (uint8_t) next_random(&state);
		memset(cells, 0, sizeof(cells));
		eng_resizer_run(resizer, &out, &in, ENG_RESIZE_LANCZOS, &status);
		for (i = 0; i < 9; i++)
		{
			int			error = abs(cells[i] - weigh_slowly(row, width, 9, i));

			worst = error > worst ? error : worst;
		}
	}
	tap_ok(worst <= 1 && status.code == ENG_OK,
		   "one resizer for many widths: off by %d at most", worst);
	eng_resizer_free(resizer);
	free(row);
}

/* ---- measures -------------------------------------------------------- */

static double
slow_variance(const EngImage *grey)
{
	double		sum = 0.0;
	double		squares = 0.0;
	double		count = (double) (grey->width - 2) * (grey->height - 2);
	int			x;
	int			y;

	for (y = 1; y < grey->height - 1; y++)
		for (x = 1; x < grey->width - 1; x++)
		{
			const uint8_t *p = grey->pixels + y * grey->width + x;
			double		value = -4.0 * p[0] + p[-1] + p[1] +
				p[-grey->width] + p[grey->width];

			sum += value;
			squares += value * value;
		}
	return squares / count - sum / count * (sum / count);
}

/* The worst case of every stretch: black and white in turn. */
static void
test_laplacian(void)
{
	EngImage	grey = {malloc(5000 * 5), 5000, 5, 1};
	uint64_t	state = 3;
	int			i;

	for (i = 0; i < 5000 * 5; i++)
		grey.pixels[i] = (i % 5000 + i / 5000) % 2 * 255;
	tap_ok(fabs(eng_laplacian_variance(&grey) - slow_variance(&grey)) < 1e-3,
		   "sums of the largest Laplacians do not overflow");
	for (i = 0; i < 5000 * 5; i++)
		grey.pixels[i] = (uint8_t) next_random(&state);
	tap_ok(fabs(eng_laplacian_variance(&grey) / slow_variance(&grey) - 1.0) <
		   1e-9, "variance of the Laplacian of noise");
	grey.width = 2;
	tap_ok(eng_laplacian_variance(&grey) == 0.0, "0 without inner pixels");
	free(grey.pixels);
}

/* Shrinking a colour picture to grey is shrinking its grey. */
static void
test_grey_of_colour(const EngImage *grey, const EngImage *colour)
{
	static const int32_t sizes[][2] = {{9, 8}, {41, 8}, {9, 99}, {41, 99}};
	EngResizer *resizer = eng_resizer_create();
	EngImage	from_grey = {grey->pixels, 41, 99, 1};
	EngImage	from_colour = {colour->pixels, 41, 99, 4};
	EngImage	a = {malloc(41 * 99), 0, 0, 1};
	EngImage	b = {malloc(41 * 99), 0, 0, 1};
	EngStatus	status = {0};
	bool		is_same = true;
	int			i;

	for (i = 0; i < 4; i++)
	{
		a.width = b.width = sizes[i][0];
		a.height = b.height = sizes[i][1];
		is_same = is_same &&
			eng_resizer_run(resizer, &a, &from_grey, ENG_RESIZE_LANCZOS,
							&status) &&
			eng_resizer_run(resizer, &b, &from_colour, ENG_RESIZE_LANCZOS,
							&status) &&
			memcmp(a.pixels, b.pixels, eng_image_bytes(&a)) == 0;
	}
	tap_ok(is_same, "a colour picture is shrunk as its grey");
	from_colour.channels = 3;
	tap_ok(!eng_resizer_run(resizer, &b, &from_colour, ENG_RESIZE_LANCZOS,
							&status), "but not one of three channels");
	eng_resizer_free(resizer);
	free(a.pixels);
	free(b.pixels);
}

/* Odd sizes, so that loops over many samples at once end early. */
static void
test_colours(void)
{
	EngImage	colour = {malloc(4 * 4099), 4099, 1, 4};
	EngImage	grey = {malloc(4099), 4099, 1, 1};
	double		sums[3] = {0, 0, 0};
	double		means[3];
	double		sum = 0.0;
	uint64_t	state = 5;
	bool		is_right = true;
	int			i;
	int			c;

	for (i = 0; i < 4 * 4099; i++)
		colour.pixels[i] = (uint8_t) next_random(&state);
	eng_grey_from_colour(grey.pixels, colour.pixels, 4099);
	for (i = 0; i < 4099; i++)
	{
		const uint8_t *p = colour.pixels + 4 * i;

		for (c = 0; c < 3; c++)
			sums[c] += p[c];
		sum += grey.pixels[i];
		is_right = is_right &&
			grey.pixels[i] == (19595 * p[0] + 38470 * p[1] + 7471 * p[2] +
							   32768) / 65536;
	}
	tap_ok(is_right, "grey of colours, by Pillow's weights");
	test_grey_of_colour(&grey, &colour);
	eng_mean_colour(means, &colour);
	for (c = 0; c < 3; c++)
		is_right = is_right && fabs(means[c] - sums[c] / 4099) < 1e-9;
	tap_ok(is_right && fabs(eng_mean_grey(&grey) - sum / 4099) < 1e-9,
		   "means of colours and of grey");
	free(colour.pixels);
	free(grey.pixels);
}

/* ---- drawing --------------------------------------------------------- */

static void
test_draw(void)
{
	EngImage	image = {calloc(1, 40 * 30 * 3), 40, 30, 3};
	EngColour	white = {255, 255, 255, 255};
	const uint8_t *pixel;
	size_t		lit = 0;
	size_t		i;

	eng_draw_filled(&image, (EngRectangle) {1.5f, 1, 3, 2}, white);
	pixel = image.pixels + 40 * 3;
	tap_ok(pixel[0] == 0 && pixel[3] == 128 && pixel[6] == 255 &&
		   pixel[9] == 0, "half a pixel is half covered");
	memset(image.pixels, 0, 40 * 30 * 3);
	eng_draw_outline(&image, (EngRectangle) {5, 5, 15, 15}, 1, white);
	for (i = 0; i < 40 * 30; i++)
		lit += image.pixels[3 * i] == 255;
	tap_ok(lit == 36, "an outline of 10 x 10 has 36 pixels");
	/* out of the picture in every way */
	eng_draw_filled(&image, (EngRectangle) {-1e9f, -1e9f, 1e9f, 1e9f}, white);
	eng_draw_filled(&image, (EngRectangle) {NAN, 0, 5, 5}, white);
	eng_draw_line(&image, (EngRectangle) {-100, -50, 300, 1e30f}, 3, white);
	eng_draw_line(&image, (EngRectangle) {NAN, 0, 1, 1}, 3, white);
	eng_draw_text(&image, -3, 25, 2, "person 0.97 \xC3\xA4", white);
	eng_draw_text(&image, 38, -4, 3, "~", white);
	tap_ok(eng_draw_text_width("car", 2) == 36,
		   "shapes are clipped; text knows its width");
	free(image.pixels);
}

int
main(void)
{
	EngStatus	status = {0};
	EngJpegDecoder *decoder = eng_jpeg_decoder_create(&status);
	EngJpegEncoder *encoder = eng_jpeg_encoder_create(&status);

	test_headers();
	test_round_trip(decoder, encoder);
	test_scans(decoder);
	test_damage(decoder, encoder);
	test_mutations(decoder, encoder);
	test_resize();
	test_resizer();
	test_laplacian();
	test_colours();
	test_draw();
	eng_jpeg_decoder_free(decoder);
	eng_jpeg_encoder_free(encoder);
	return tap_done();
}
