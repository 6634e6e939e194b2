/*
 * image/resize_rgb.h
 *		The horizontal pass of a resampling for pictures of three channels.
 *
 * A weight of 22 fractional bits is split into its lower 11 bits and the
 * rest, which both fit into 16 bits, so that an instruction multiplies and
 * adds 16 of them.  The sums are the same 32-bit integers as without.
 */
#ifndef ENG_IMAGE_RESIZE_RGB_H
#define ENG_IMAGE_RESIZE_RGB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ENG_RGB_ROWS	4		/* worked on together */
#define ENG_RGB_TAPS	4		/* weights of a block */
#define ENG_RGB_BLOCK	32		/* numbers that a block is split into */

/* Whether this processor can. */
bool		eng_rgb_is_here(void);

static inline int32_t
eng_rgb_blocks(int32_t taps)
{
	return (taps + ENG_RGB_TAPS - 1) / ENG_RGB_TAPS;
}

/* Write eng_rgb_blocks(count) blocks of an output's weights. */
void		eng_rgb_split(int16_t *split, const int32_t *weight,
						  int32_t count);

/* Samples of a picture that one output needs, in each of several rows. */
typedef struct EngRgbTaps
{
	const uint8_t *in[ENG_RGB_ROWS];	/* rows */
	uint8_t    *out[ENG_RGB_ROWS];
	int32_t		width;			/* of the rows of in, pixels */
} EngRgbTaps;

/*
 * Output i in all rows, from its first pixel on.  False if the blocks reach
 * over the end of the rows: nothing is written then.
 */
bool		eng_rgb_run(const EngRgbTaps *taps, int32_t i, int32_t first,
						const int16_t *split, int32_t blocks);

#endif							/* ENG_IMAGE_RESIZE_RGB_H */
