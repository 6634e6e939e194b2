/*
 * engine/io/pth_versions.h
 *		Versions of the modules in a state dict.
 */
#ifndef ENG_IO_PTH_VERSIONS_H
#define ENG_IO_PTH_VERSIONS_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/io/safetensors.h"

/* Takes one module: length bytes of its name, "" for the outermost. */
typedef bool (*EngPthVersion) (void *context, const char *name,
							   size_t length, int version);

/*
 * Call for each module that the tensors' names show, in their order; stops
 * and returns false when the function does.
 */
extern bool eng_pth_versions(const EngTensorFile *file, EngPthVersion take,
							 void *context);

#endif							/* ENG_IO_PTH_VERSIONS_H */
