/*
 * image/draw.h
 *		Rectangles, lines and text on RGB pictures.
 *
 * Everything is clipped to the picture; coordinates may lie anywhere.
 */
#ifndef ENG_IMAGE_DRAW_H
#define ENG_IMAGE_DRAW_H

#include "image/image.h"

typedef struct EngColour
{
	uint8_t		red;
	uint8_t		green;
	uint8_t		blue;
	uint8_t		alpha;			/* 255 = opaque */
} EngColour;

/* Corners in pixels; x2 and y2 are the first column and row outside. */
typedef struct EngRectangle
{
	float		x1;
	float		y1;
	float		x2;
	float		y2;
} EngRectangle;

/* Cell of a character at scale 1, in pixels, its gap included. */
#define ENG_FONT_WIDTH 6
#define ENG_FONT_HEIGHT 9

/* Fill a rectangle; parts of pixels are covered in proportion. */
void		eng_draw_filled(EngImage *image, EngRectangle rectangle,
							EngColour colour);

/* Outline of a rectangle, thickness in pixels, grown inwards. */
void		eng_draw_outline(EngImage *image, EngRectangle rectangle,
							 float thickness, EngColour colour);

/* Straight line from (x1, y1) to (x2, y2) with soft edges. */
void		eng_draw_line(EngImage *image, EngRectangle ends,
						  float thickness, EngColour colour);

/*
 * Text in the built-in font (ASCII; other bytes show as a block), top left
 * corner at (x, y), each font pixel scale x scale pixels.
 */
void		eng_draw_text(EngImage *image, int x, int y, int scale,
						  const char *text, EngColour colour);

/* Width of the text in pixels at this scale. */
int			eng_draw_text_width(const char *text, int scale);

#endif							/* ENG_IMAGE_DRAW_H */
