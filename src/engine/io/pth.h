/*
 * engine/io/pth.h
 *		Read and write PyTorch's own files of weights (.pth, .pt).
 */
#ifndef ENG_IO_PTH_H
#define ENG_IO_PTH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "engine/io/safetensors.h"
#include "engine/status.h"

/* Limits of such a file beside those of its pickle, read or written. */
#define ENG_PTH_MAX_TENSORS	100000
#define ENG_PTH_MAX_TEXTS	1000

/* Attribute of a state dict under which our files have their texts. */
#define ENG_PTH_TEXTS	"avcurate"

/*
 * True if the bytes start as one of PyTorch's files does: a zip archive, a
 * pickle, or the tar archive of its first versions, which is refused later.
 * Those of a safetensors file start with a length, which can be any bytes,
 * but then have a brace.  Here, so that the server can ask too.
 */
static inline bool
eng_pth_recognise(const uint8_t *image, size_t size)
{
	if (size < 4 || (size > 8 && image[8] == '{'))
		return false;
	return memcmp(image, "PK\3\4", 4) == 0 ||
		(image[0] == 0x80 && image[1] >= 1 && image[1] <= 5) ||
		(size > 262 && memcmp(image + 257, "ustar", 5) == 0);
}

/*
 * Turn the state dict of a file, zip archive or older stream, into the image
 * of a safetensors file, appended to out, which must be empty.  A training
 * checkpoint gives what is under "model", "state_dict", "model_state_dict"
 * or "model_ema", the first of them that it has.  Tensors become contiguous.
 * Texts that eng_pth_write left with the state dict become metadata again.
 */
extern bool eng_pth_convert(const uint8_t *image, size_t size,
							EngBuffer *out, EngStatus *status);

/*
 * Write the tensors and the metadata of a file as a zip archive of PyTorch's
 * to out, which must be empty.  Of equal files the bytes are equal.  What
 * eng_pth_convert would not read back (unsupported): over 1000 metadata, a
 * name or text over 1 MiB, all of them over 64 MiB, a type that torch's
 * storages lack; and over 4 GB or some 65000 tensors.
 */
extern bool eng_pth_write(const EngTensorFile *file, EngBuffer *out,
						  EngStatus *status);

#endif							/* ENG_IO_PTH_H */
