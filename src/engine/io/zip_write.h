/*
 * engine/io/zip_write.h
 *		Write a zip archive of stored entries into memory.
 */
#ifndef ENG_IO_ZIP_WRITE_H
#define ENG_IO_ZIP_WRITE_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/io/crc32.h"
#include "engine/io/safetensors.h"
#include "engine/status.h"

typedef struct EngZipWriter
{
	EngBuffer  *out;			/* the archive, from its first byte on */
	EngBuffer	directory;
	int32_t		count;
	EngCrc32	crc;
} EngZipWriter;

/* Begin an archive in out, which must be empty.  End it in any case. */
extern void eng_zip_begin(EngZipWriter *writer, EngBuffer *out);

/*
 * Append an entry, whose data begin at a multiple of 64 bytes, as PyTorch
 * wants to map them.  Archives of 4 GB or more are refused (unsupported).
 */
extern bool eng_zip_add(EngZipWriter *writer, const char *name,
						const void *data, size_t size, EngStatus *status);

/* Append the directory. */
extern bool eng_zip_finish(EngZipWriter *writer, EngStatus *status);
extern void eng_zip_end(EngZipWriter *writer);

#endif							/* ENG_IO_ZIP_WRITE_H */
