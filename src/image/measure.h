/*
 * image/measure.h
 *		Grey levels and plain measures of a picture.
 */
#ifndef ENG_IMAGE_MEASURE_H
#define ENG_IMAGE_MEASURE_H

#include "image/image.h"

/* Grey of colour pixels of four samples, by Pillow's weights (mode "L"). */
void		eng_grey_from_colour(uint8_t *grey, const uint8_t *colour,
								 size_t pixels);

/* Mean of all samples of a grey picture. */
double		eng_mean_grey(const EngImage *grey);

/* Mean red, green and blue of a picture of four channels. */
void		eng_mean_colour(double mean[3], const EngImage *colour);

/*
 * Variance of the Laplacian with four neighbours over the inner pixels of a
 * grey picture; 0 for a picture with none.
 */
double		eng_laplacian_variance(const EngImage *grey);

#endif							/* ENG_IMAGE_MEASURE_H */
