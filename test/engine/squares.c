/*
 * test/engine/squares.c
 *		The square of a picture that CLIP sees.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/core/random.h"
#include "image/resize.h"
#include "tap.h"

/*
 * The square of a picture against all of it resized and then cut, at offsets
 * rounded as Python's round() does: half to even.
 */
static bool
square_is_cut(EngResizer *resizer, int32_t width, int32_t height,
			  int32_t side)
{
	int32_t		wide = width > height ? (int32_t)
		((double) side * width / height) : side;
	int32_t		high = width > height ? side : (int32_t)
		((double) side * height / width);
	EngImage	in = {malloc((size_t) width * height * 3), width, height, 3};
	EngImage	all = {malloc((size_t) wide * high * 3), wide, high, 3};
	EngImage	square = {calloc(1, (size_t) side * side * 3), side, side, 3};
	int32_t		left = (int32_t) nearbyint((wide - side) / 2.0);
	int32_t		top = (int32_t) nearbyint((high - side) / 2.0);
	EngStatus	status = {0};
	bool		same = true;
	size_t		i;
	int32_t		y;

	for (i = 0; i < eng_image_bytes(&in); i++)
		in.pixels[i] = (uint8_t) eng_random_u64(11, 0, 0, ENG_USE_TEST, i);
	same = eng_resize(&all, &in, ENG_RESIZE_BICUBIC, &status) &&
		eng_resizer_square(resizer, &square, &in, &status);
	for (y = 0; same && y < side; y++)
		same = memcmp(square.pixels + (size_t) y * side * 3,
					  all.pixels + ((size_t) (top + y) * wide + left) * 3,
					  (size_t) side * 3) == 0;
	free(in.pixels);
	free(all.pixels);
	free(square.pixels);
	return same;
}

static void
test_square(void)
{
	static const int32_t sizes[][2] = {
		{1280, 720}, {720, 1280}, {224, 224}, {300, 300}, {225, 224},
		{227, 224}, {224, 229}, {231, 224}, {100, 301}, {640, 13}, {1, 40}
	};
	EngResizer *resizer = eng_resizer_create();
	EngImage	in = {NULL, 10, 10, 3};
	EngImage	out = {NULL, 10, 9, 3};
	EngStatus	status = {0};
	int			same = 0;
	size_t		i;

	for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		if (square_is_cut(resizer, sizes[i][0], sizes[i][1], 224))
			same++;
		else
			tap_note("%dx%d differs", sizes[i][0], sizes[i][1]);
	tap_ok(same == (int) i, "squares are what is cut from whole pictures");
	tap_ok(!eng_resizer_square(resizer, &out, &in, &status) &&
		   status.code == ENG_BAD_ARGUMENT, "a square has equal sides: %s",
		   status.message);
	eng_resizer_free(resizer);
}

int
main(void)
{
	test_square();
	return tap_done();
}
