/*
 * image/jpeg.h
 *		Read the header of a JPEG, decode it at a scale, encode one.
 *
 * Nothing here trusts its input: every length of the header is checked, a
 * picture larger than the limits is refused before a pixel is decoded, and
 * a body that is cut off or damaged is an error, never a grey picture.
 */
#ifndef ENG_IMAGE_JPEG_H
#define ENG_IMAGE_JPEG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/status.h"
#include "image/image.h"

/* Largest side of a picture that is decoded or encoded, in pixels. */
#define ENG_JPEG_MAX_SIDE 8192

/*
 * Most scans of a picture that is decoded.  Every scan of a progressive file
 * goes over all blocks of the picture, and a few bytes are enough for one;
 * encoders write about ten.  At this many and at the largest size, the cheapest
 * scans take as long as the picture itself: about a second.
 */
#define ENG_JPEG_MAX_SCANS 64

typedef struct EngJpegInfo
{
	int32_t		width;			/* pixels, 1 .. 65535 */
	int32_t		height;			/* pixels, 1 .. 65535 */
	int32_t		components;		/* 1 grey, 3 colour, 4 CMYK (not decoded) */
	bool		progressive;
} EngJpegInfo;

typedef enum EngJpegSampling
{
	ENG_JPEG_420,				/* chroma at half size, both ways */
	ENG_JPEG_422,				/* chroma at half width */
	ENG_JPEG_444				/* chroma at full size */
} EngJpegSampling;

/* A decoder or encoder is used by one thread at a time and any number of
 * times; its buffers are kept between calls. */
typedef struct EngJpegDecoder EngJpegDecoder;
typedef struct EngJpegEncoder EngJpegEncoder;

/*
 * Size and kind of the picture, from the markers up to the frame header
 * alone; the rest of the file may be missing.  Refuses what is no JPEG,
 * and lossless, arithmetic, hierarchical and non-8-bit ones.
 */
bool		eng_jpeg_read_header(EngJpegInfo *info, const uint8_t *data,
								 size_t size, EngStatus *status);

/*
 * Does the file go on to the end of the picture?  A look at its markers from
 * behind, where an end mark is found at once unless the file was cut off; what
 * follows it is passed over.  "data" has a header that can be read.
 */
bool		eng_jpeg_has_end(const uint8_t *data, size_t size);

/* Side of a picture decoded at 1/scale, scale 1, 2, 4 or 8. */
static inline int32_t
eng_jpeg_scaled_side(int32_t side, int32_t scale)
{
	return (side + scale - 1) / scale;
}

EngJpegDecoder *eng_jpeg_decoder_create(EngStatus *status);
void		eng_jpeg_decoder_free(EngJpegDecoder *decoder);

/*
 * Read the header and fill in out's sizes for this scale; its channels are
 * the caller's.  Refuses what cannot be decoded, as far as the header tells.
 */
bool		eng_jpeg_scaled_size(EngImage *out, const uint8_t *data,
								 size_t size, int32_t scale,
								 EngStatus *status);

/*
 * Decode at 1/scale into the caller's picture, whose width and height must
 * be the header's sides scaled (eng_jpeg_scaled_side) and whose channels
 * choose grey, RGB or RGB with a filler.  Exact inverse DCT, smooth chroma upsampling.  On
 * failure the contents of the picture are undefined.
 */
bool		eng_jpeg_decode(EngJpegDecoder *decoder, EngImage *out,
							const uint8_t *data, size_t size, int32_t scale,
							EngStatus *status);

/*
 * Read the header, fill in out's sizes for this scale and channel count,
 * grow the decoder's own buffer and decode into it.  out->pixels belongs to
 * the decoder and holds until its next use.
 */
bool		eng_jpeg_decode_alloc(EngJpegDecoder *decoder, EngImage *out,
								  const uint8_t *data, size_t size,
								  int32_t scale, EngStatus *status);

EngJpegEncoder *eng_jpeg_encoder_create(EngStatus *status);
void		eng_jpeg_encoder_free(EngJpegEncoder *encoder);

/*
 * Encode RGB or grey, quality 1 .. 100, exact forward DCT.  The bytes depend
 * on the libjpeg-turbo release, but not on the machine.
 */
bool		eng_jpeg_encode(EngJpegEncoder *encoder, const EngImage *image,
							int quality, EngJpegSampling sampling,
							EngStatus *status);

/* The file last encoded; the encoder's, and holds until its next use. */
const uint8_t *eng_jpeg_encoded(const EngJpegEncoder *encoder, size_t *size);

#endif							/* ENG_IMAGE_JPEG_H */
