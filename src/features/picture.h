/*
 * features/picture.h
 *		The decoded image of a frame, shared by the functions of its pixels.
 */
#ifndef AVC_FEATURES_PICTURE_H
#define AVC_FEATURES_PICTURE_H

#include "fmgr.h"

#include "engine/status.h"
#include "image/image.h"

/* The forms in which a decoded image is kept. */
typedef enum AvcPictureForm
{
	AVC_PICTURE_SMALL_GREY,		/* 1/8 of the sides, the file's brightness */
	AVC_PICTURE_GREY,			/* the file's brightness */
	AVC_PICTURE_COLOUR,			/* RGB and a filler */
	AVC_PICTURE_FORMS
} AvcPictureForm;

/*
 * The image decoded to a form; raises an error if it cannot be.  It holds
 * until the next call with another image and is not to be changed.
 */
extern const EngImage *avc_picture(Datum image, AvcPictureForm form);

/* Difference hashes, by the sides of the picture that they are made of. */
typedef enum AvcHash
{
	AVC_HASH_COARSE,			/* 8: 64 bits */
	AVC_HASH_FINE,				/* 16: 256 bits */
	AVC_HASHES
} AvcHash;

static inline int
avc_hash_side(AvcHash kind)
{
	return kind == AVC_HASH_FINE ? 16 : 8;
}

/* Difference hash of the image, shrunk from that form: side x side bits. */
extern void avc_picture_hash(uint8 *bits, Datum image, AvcPictureForm form,
							 AvcHash kind);

/* The image as a JPEG of that width, or of its own if that is less. */
extern bytea *avc_picture_thumbnail(Datum image, int width);

/* The error of a status that says what went wrong. */
extern void avc_picture_fail(const EngStatus *status) pg_attribute_noreturn();

#endif							/* AVC_FEATURES_PICTURE_H */
