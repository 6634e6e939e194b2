/*
 * engine/io/file.h
 *		Whole files in and out of memory.
 */
#ifndef ENG_IO_FILE_H
#define ENG_IO_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/io/safetensors.h"
#include "engine/status.h"

/* Append the bytes of an ordinary file; one over most bytes is refused. */
extern bool eng_file_read(const char *path, size_t most, EngBuffer *out,
						  EngStatus *status);

/*
 * Write a file so that at any moment the path names the old one or the whole
 * new one: into a file of a new name beside it, fsync, rename.
 */
extern bool eng_file_write(const char *path, const void *data, size_t size,
						   EngStatus *status);

#endif							/* ENG_IO_FILE_H */
