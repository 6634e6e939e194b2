/*
 * image/image.h
 *		A picture in memory: tightly packed rows of 8-bit samples.
 */
#ifndef ENG_IMAGE_IMAGE_H
#define ENG_IMAGE_IMAGE_H

#include <stddef.h>
#include <stdint.h>

typedef struct EngImage
{
	uint8_t    *pixels;			/* (height, width, channels), caller's */
	int32_t		width;			/* pixels */
	int32_t		height;			/* pixels */
	int32_t		channels;		/* 1 grey, 3 RGB, 4 RGB and a filler */
} EngImage;

static inline size_t
eng_image_bytes(const EngImage *image)
{
	return (size_t) image->width * image->height * image->channels;
}

#endif							/* ENG_IMAGE_IMAGE_H */
