/*
 * engine/io/zip.h
 *		Find stored entries of a zip archive held in memory.
 *
 * Only what a file of weights needs: entries without compression and
 * encryption, zip64 included.  Every offset is checked against the archive,
 * entries must not overlap, and their checksums must be right.
 */
#ifndef ENG_IO_ZIP_H
#define ENG_IO_ZIP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/status.h"

typedef struct EngZipEntry
{
	const char *name;			/* zero-terminated, owned by the archive */
	const uint8_t *data;		/* into the caller's image */
	size_t		size;
} EngZipEntry;

typedef struct EngZip
{
	EngZipEntry *entries;		/* sorted by name; no name twice */
	int32_t		count;
	char	   *names;
	const char *problem;		/* why some entries cannot be read and have no
								 * data here, or NULL */
} EngZip;

/*
 * Read the directory; NULL with status set if anything is wrong.  Entries
 * that are compressed or encrypted are listed only, and problem says so.  The
 * image must stay as long as the result.
 */
extern EngZip *eng_zip_open(const uint8_t *image, size_t size,
							EngStatus *status);
extern void eng_zip_free(EngZip *zip);

/* The entry of that name, or NULL. */
extern const EngZipEntry *eng_zip_find(const EngZip *zip, const char *name);

#endif							/* ENG_IO_ZIP_H */
