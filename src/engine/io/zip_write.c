/*
 * engine/io/zip_write.c
 *		Write a zip archive of stored entries into memory.
 *
 * Offsets and sizes are kept below 4 GB, so no zip64 record is needed.  Dates
 * are the format's first, so that equal contents give equal bytes.
 */
#include "engine/io/zip_write.h"

#include <string.h>

#define ALIGNMENT		64
#define FIRST_DATE		0x21	/* 1 January 1980 */
#define UTF8_NAMES		0x800
#define MAX_ARCHIVE		((size_t) UINT32_MAX - 65536)	/* room for an entry more */
#define LOCAL_SIZE		30
#define PADDING_ID		0x4246	/* "FB", as PyTorch's own */

/* A record under construction: little-endian fields one after another. */
typedef struct Record
{
	uint8_t		bytes[64];
	size_t		size;
} Record;

static void
put(Record *record, uint64_t value, int bytes)
{
	while (bytes-- > 0)
	{
		record->bytes[record->size++] = (uint8_t) value;
		value >>= 8;
	}
}

/* The fields that the local header and the directory have in common. */
static void
put_entry(Record *record, uint32_t crc, size_t size, size_t name_length,
		  size_t extra)
{
	put(record, 0, 2);			/* version to read it: any */
	put(record, UTF8_NAMES, 2);
	put(record, 0, 2);			/* stored */
	put(record, 0, 2);			/* time */
	put(record, FIRST_DATE, 2);
	put(record, crc, 4);
	put(record, size, 4);
	put(record, size, 4);
	put(record, name_length, 2);
	put(record, extra, 2);
}

void
eng_zip_begin(EngZipWriter *writer, EngBuffer *out)
{
	memset(writer, 0, sizeof(*writer));
	writer->out = out;
	eng_crc32_prepare(&writer->crc);
}

void
eng_zip_end(EngZipWriter *writer)
{
	eng_buffer_free(&writer->directory);
}

static bool
add_directory(EngZipWriter *writer, const char *name, uint32_t crc,
			  size_t size, size_t offset, EngStatus *status)
{
	Record		record = {.size = 0};

	put(&record, 0x02014b50, 4);
	put(&record, 0, 2);			/* written by nothing in particular */
	put_entry(&record, crc, size, strlen(name), 0);
	put(&record, 0, 2);			/* comment */
	put(&record, 0, 2);			/* disk */
	put(&record, 0, 2);			/* attributes */
	put(&record, 0, 4);
	put(&record, offset, 4);
	writer->count++;
	return eng_buffer_append(&writer->directory, record.bytes, record.size,
							 status) &&
		eng_buffer_append(&writer->directory, name, strlen(name), status);
}

bool
eng_zip_add(EngZipWriter *writer, const char *name, const void *data,
			size_t size, EngStatus *status)
{
	char		padding[ALIGNMENT];
	size_t		offset = writer->out->size;
	size_t		bare = offset + LOCAL_SIZE + strlen(name) + 4;
	size_t		fill = (ALIGNMENT - bare % ALIGNMENT) % ALIGNMENT;
	uint32_t	crc = eng_crc32(&writer->crc, data, size);
	Record		record = {.size = 0};

	if (writer->count == UINT16_MAX - 1 || size > MAX_ARCHIVE ||
		bare + fill + size + writer->directory.size > MAX_ARCHIVE)
		return eng_fail(status, ENG_UNSUPPORTED,
						"zip archive would be too large; write safetensors instead");
	put(&record, 0x04034b50, 4);
	put_entry(&record, crc, size, strlen(name), 4 + fill);
	if (!eng_buffer_append(writer->out, record.bytes, record.size, status) ||
		!eng_buffer_append(writer->out, name, strlen(name), status))
		return false;
	memset(padding, 'Z', sizeof(padding));
	record.size = 0;
	put(&record, PADDING_ID, 2);
	put(&record, fill, 2);
	return eng_buffer_append(writer->out, record.bytes, record.size,
							 status) &&
		eng_buffer_append(writer->out, padding, fill, status) &&
		eng_buffer_append(writer->out, data, size, status) &&
		add_directory(writer, name, crc, size, offset, status);
}

bool
eng_zip_finish(EngZipWriter *writer, EngStatus *status)
{
	size_t		offset = writer->out->size;
	Record		record = {.size = 0};

	put(&record, 0x06054b50, 4);
	put(&record, 0, 2);			/* disks */
	put(&record, 0, 2);
	put(&record, writer->count, 2);
	put(&record, writer->count, 2);
	put(&record, writer->directory.size, 4);
	put(&record, offset, 4);
	put(&record, 0, 2);			/* comment */
	return eng_buffer_append(writer->out, writer->directory.data,
							 writer->directory.size, status) &&
		eng_buffer_append(writer->out, record.bytes, record.size, status);
}
