/*
 * image/resize.h
 *		Antialiased resampling of 8-bit pictures, equal to Pillow's.
 */
#ifndef ENG_IMAGE_RESIZE_H
#define ENG_IMAGE_RESIZE_H

#include <stdbool.h>

#include "engine/status.h"
#include "image/image.h"

typedef enum EngResizeFilter
{
	ENG_RESIZE_BILINEAR,		/* triangle, support 1 */
	ENG_RESIZE_BICUBIC,			/* a = -0.5, support 2 */
	ENG_RESIZE_LANCZOS			/* sinc window, support 3 */
} EngResizeFilter;

/*
 * Resample in to out's size; both have the same channels, and out's pixels
 * are the caller's.  Horizontal pass first, each pass rounded to 8 bits
 * with 22-bit fixed point weights (Pillow's Image.resize without a box).
 */
bool		eng_resize(EngImage *out, const EngImage *in,
					   EngResizeFilter filter, EngStatus *status);

/*
 * The same for many pictures: the weights and the picture between the passes
 * are kept, and made again only for other sizes or another filter.  From a
 * picture of four channels to one of one, its grey is resized.  A resizer is
 * used by one thread at a time.  NULL if there is no memory.
 */
typedef struct EngResizer EngResizer;

EngResizer *eng_resizer_create(void);
void		eng_resizer_free(EngResizer *resizer);
bool		eng_resizer_run(EngResizer *resizer, EngImage *out,
							const EngImage *in, EngResizeFilter filter,
							EngStatus *status);

/*
 * The square in the middle of a picture, as OpenAI's CLIP sees it: the short
 * side resized to out's, bicubic, the long one in proportion (rounded down),
 * then a crop whose offsets round a half to the even number.  Only what is
 * left of the picture is computed.  out is square.
 */
bool		eng_resizer_square(EngResizer *resizer, EngImage *out,
							   const EngImage *in, EngStatus *status);

#endif							/* ENG_IMAGE_RESIZE_H */
