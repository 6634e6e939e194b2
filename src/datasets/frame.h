/*
 * datasets/frame.h
 *		What follows from a frame's image bytes.
 */
#ifndef AVC_DATASETS_FRAME_H
#define AVC_DATASETS_FRAME_H

#include "common/sha2.h"

#define AVC_SHA256_BYTES PG_SHA256_DIGEST_LENGTH

/* sha256 of "len" bytes into "digest" (AVC_SHA256_BYTES). */
extern void avc_frame_sha256(uint8 *digest, const uint8 *image, size_t len);

/*
 * Width and height in pixels from the JPEG header alone.  NULL, or why the
 * bytes are no usable JPEG (palloc'd, one line).
 */
extern const char *avc_frame_size(int *width, int *height,
								  const uint8 *image, size_t len);

#endif
