/*
 * engine/io/pth.h
 *		Read PyTorch's own files of weights (.pth, .pt).
 */
#ifndef ENG_IO_PTH_H
#define ENG_IO_PTH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/io/safetensors.h"
#include "engine/status.h"

/* True if the bytes start as one of PyTorch's files does. */
extern bool eng_pth_recognise(const uint8_t *image, size_t size);

/*
 * Turn the state dict of a file, zip archive or older stream, into the image
 * of a safetensors file, appended to out, which must be empty.  A training
 * checkpoint gives what is under "model" or "state_dict".  Tensors become
 * contiguous; prefix, if not NULL, is taken off names that start with it.
 */
extern bool eng_pth_convert(const uint8_t *image, size_t size,
							const char *prefix, EngBuffer *out,
							EngStatus *status);

#endif							/* ENG_IO_PTH_H */
