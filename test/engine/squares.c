/*
 * test/engine/squares.c
 *		Squares of colour pictures beside those of their channels.
 */
#include <stdlib.h>

#include "image/resize.h"
#include "tap.h"

static uint8_t
next_random(uint64_t *state)
{
	*state = *state * 6364136223846793005u + 1442695040888963407u;
	return (uint8_t) (*state >> 56);
}

/* Cut a square of one channel, or of three. */
static bool
make_square(EngResizer *resizer, uint8_t *out, uint8_t *in,
			const int32_t size[2], int32_t channels)
{
	EngImage	whole = {in, size[0], size[1], channels};
	EngImage	square = {out, 48, 48, channels};
	EngStatus	status = {0};

	return eng_resizer_square(resizer, &square, &whole, &status);
}

/* Three channels, which have a loop of their own, are three pictures. */
static void
test_planes(void)
{
	static const int32_t sizes[][2] = {{160, 96}, {97, 161}, {48, 48},
	{49, 48}, {48, 300}, {30, 20}, {7, 600}, {700, 9}, {1, 1}, {3, 2}};
	EngResizer *resizer = eng_resizer_create();
	uint8_t    *colour = malloc(3 * 160 * 161);
	uint8_t    *plane = malloc(160 * 161);
	uint8_t		squares[2][48 * 48 * 3];
	uint64_t	state = 11;
	int			wrong = 0;
	int			i;
	int			k;
	int			c;

	for (i = 0; i < 3 * 160 * 161; i++)
		colour[i] = next_random(&state) % 3 == 0 ? 255 :
			next_random(&state);
	for (i = 0; i < 10; i++)
	{
		wrong += !make_square(resizer, squares[0], colour, sizes[i], 3);
		for (c = 0; c < 3; c++)
		{
			for (k = 0; k < sizes[i][0] * sizes[i][1]; k++)
				plane[k] = colour[3 * k + c];
			wrong += !make_square(resizer, squares[1], plane, sizes[i], 1);
			for (k = 0; k < 48 * 48; k++)
				wrong += squares[0][3 * k + c] != squares[1][k];
		}
	}
	tap_ok(wrong == 0, "squares of ten colour pictures are those of their channels (%d samples differ)",
		   wrong);
	eng_resizer_free(resizer);
	free(colour);
	free(plane);
}

int
main(void)
{
	test_planes();
	return tap_done();
}
