/*
 * engine/io/zip.c
 *		Find stored entries of a zip archive held in memory.
 *
 * An archive ends with a record that names the place of the directory; the
 * directory names the place of each entry's local header; the data follow
 * that header.  Sizes that do not fit into 32 bits are all ones there and
 * stand in an extra field (zip64).
 */
#include "engine/io/zip.h"

#include <stdlib.h>
#include <string.h>

#include "engine/io/crc32.h"

#define END_SIZE			22	/* end record without its comment */
#define END_SEARCH			(END_SIZE + 65535)
#define LOCATOR_SIZE		20	/* of the zip64 end record */
#define END64_SIZE			56
#define CENTRAL_SIZE		46	/* of one entry, without its texts */
#define LOCAL_SIZE			30
#define MAX_ENTRIES			1000000

/* Where the directory is. */
typedef struct Directory
{
	uint64_t	offset;
	uint64_t	size;
	uint64_t	count;
} Directory;

/* One entry of the directory. */
typedef struct Central
{
	uint16_t	flags;
	uint16_t	method;
	uint32_t	crc;
	uint64_t	stored;			/* bytes in the archive */
	uint64_t	size;			/* bytes once unpacked */
	uint64_t	local;			/* offset of the local header */
	const uint8_t *name;
	uint16_t	name_length;
} Central;

/* The bytes from an entry's local header to the end of its data. */
typedef struct Span
{
	size_t		start;
	size_t		end;
} Span;

/* What is known of an archive only once all its entries have been read. */
typedef struct Reading
{
	const uint8_t *image;
	Directory	directory;
	EngZip	   *zip;
	Span	   *spans;			/* one an entry */
	uint32_t   *checksums;		/* as recorded, one an entry */
} Reading;

static uint64_t
get(const uint8_t *at, int bytes)
{
	uint64_t	value = 0;

	while (bytes-- > 0)
		value = value << 8 | at[bytes];
	return value;
}

static bool
zip_fail(EngStatus *status, const char *what)
{
	eng_fail(status, ENG_BAD_FILE, "zip archive: %s", what);
	return false;
}

/*
 * The zip64 end record, if a locator stands before the end record.
 */
static bool
read_end64(const uint8_t *image, size_t end, Directory *directory,
		   EngStatus *status)
{
	const uint8_t *locator;
	const uint8_t *record;
	uint64_t	offset;

	if (end < LOCATOR_SIZE ||
		get(image + end - LOCATOR_SIZE, 4) != 0x07064b50)
		return true;
	locator = image + end - LOCATOR_SIZE;
	offset = get(locator + 8, 8);
	if (end - LOCATOR_SIZE < END64_SIZE ||
		offset > end - LOCATOR_SIZE - END64_SIZE)
		return zip_fail(status, "its zip64 record lies outside");
	record = image + offset;
	if (get(record, 4) != 0x06064b50)
		return zip_fail(status, "it has no zip64 record where it should be");
	directory->count = get(record + 32, 8);
	directory->size = get(record + 40, 8);
	directory->offset = get(record + 48, 8);
	return true;
}

static bool
find_directory(const uint8_t *image, size_t size, Directory *directory,
			   EngStatus *status)
{
	size_t		least = size > END_SEARCH ? size - END_SEARCH : 0;
	size_t		at;

	if (size < END_SIZE)
		return zip_fail(status, "it is too short");
	for (at = size - END_SIZE;; at--)
	{
		if (get(image + at, 4) == 0x06054b50 &&
			get(image + at + 20, 2) == size - END_SIZE - at)
			break;
		if (at == least)
			return zip_fail(status, "it has no end record; it may be cut off");
	}
	directory->count = get(image + at + 10, 2);
	directory->size = get(image + at + 12, 4);
	directory->offset = get(image + at + 16, 4);
	if (!read_end64(image, at, directory, status))
		return false;
	if (directory->offset > at || directory->size > at - directory->offset)
		return zip_fail(status, "its directory lies outside");
	if (directory->count > MAX_ENTRIES ||
		directory->count > directory->size / CENTRAL_SIZE)
		return zip_fail(status, "its directory has too many entries");
	return true;
}

/*
 * Take the 64-bit values of those fields that are all ones, in this order.
 */
static bool
read_extra64(const uint8_t *extra, size_t length, Central *central,
			 EngStatus *status)
{
	uint64_t   *wide[3];
	int			wanted = 0;
	int			i;

	if (central->size == UINT32_MAX)
		wide[wanted++] = &central->size;
	if (central->stored == UINT32_MAX)
		wide[wanted++] = &central->stored;
	if (central->local == UINT32_MAX)
		wide[wanted++] = &central->local;
	while (wanted > 0 && length >= 4)
	{
		size_t		field = get(extra + 2, 2);

		if (field > length - 4)
			break;
		if (get(extra, 2) == 1 && field >= (size_t) wanted * 8)
		{
			for (i = 0; i < wanted; i++)
				*wide[i] = get(extra + 4 + 8 * i, 8);
			return true;
		}
		extra += 4 + field;
		length -= 4 + field;
	}
	if (wanted > 0)
		return zip_fail(status, "an entry lacks its zip64 sizes");
	return true;
}

/*
 * Read the entry at *at, which moves behind it.
 */
static bool
read_central(const uint8_t **at, const uint8_t *end, Central *central,
			 EngStatus *status)
{
	const uint8_t *entry = *at;
	size_t		left = (size_t) (end - entry);
	size_t		extra;
	size_t		comment;

	if (left < CENTRAL_SIZE || get(entry, 4) != 0x02014b50)
		return zip_fail(status, "its directory is damaged");
	central->flags = (uint16_t) get(entry + 8, 2);
	central->method = (uint16_t) get(entry + 10, 2);
	central->crc = (uint32_t) get(entry + 16, 4);
	central->stored = get(entry + 20, 4);
	central->size = get(entry + 24, 4);
	central->name_length = (uint16_t) get(entry + 28, 2);
	extra = get(entry + 30, 2);
	comment = get(entry + 32, 2);
	central->local = get(entry + 42, 4);
	central->name = entry + CENTRAL_SIZE;
	if (left - CENTRAL_SIZE < central->name_length + extra + comment)
		return zip_fail(status, "its directory is damaged");
	*at = central->name + central->name_length + extra + comment;
	return read_extra64(central->name + central->name_length, extra, central,
						status);
}

/*
 * Why an entry is not read, or NULL.  PyTorch neither packs nor encrypts
 * tensors, and an entry that is as long as its data cannot unfold into more
 * than the file.
 */
static const char *
find_problem(const Central *central, const uint8_t *local)
{
	if (((central->flags | get(local + 6, 2)) & 0x2041) != 0)
		return "an entry is encrypted";
	if (central->method != 0 || get(local + 8, 2) != 0 ||
		central->stored != central->size)
		return "an entry is compressed; PyTorch stores its own as they are";
	return NULL;
}

/*
 * Find the data of an entry behind its local header; all of it must lie
 * before the directory.
 */
static bool
locate(const Reading *reading, const Central *central, EngZipEntry *entry,
	   Span *span, EngStatus *status)
{
	uint64_t	limit = reading->directory.offset;
	const uint8_t *local;
	const char *problem;
	uint64_t	start;

	if (limit < LOCAL_SIZE || central->local > limit - LOCAL_SIZE)
		return zip_fail(status, "an entry lies outside");
	local = reading->image + central->local;
	if (get(local, 4) != 0x04034b50)
		return zip_fail(status, "an entry has no local header");
	start = central->local + LOCAL_SIZE + get(local + 26, 2) +
		get(local + 28, 2);
	if (start > limit || central->stored > limit - start ||
		get(local + 26, 2) != central->name_length ||
		memcmp(local + LOCAL_SIZE, central->name, central->name_length) != 0)
		return zip_fail(status, "an entry lies outside or has two names");
	problem = find_problem(central, local);
	if (problem != NULL)
		reading->zip->problem = problem;
	entry->data = problem == NULL ? reading->image + start : NULL;
	entry->size = problem == NULL ? (size_t) central->size : 0;
	span->start = (size_t) central->local;
	span->end = (size_t) (start + central->stored);
	return true;
}

/*
 * Read the directory's entries in its order.
 */
static bool
read_entries(Reading *reading, EngStatus *status)
{
	EngZip	   *zip = reading->zip;
	const uint8_t *at = reading->image + reading->directory.offset;
	const uint8_t *end = at + reading->directory.size;
	char	   *name = zip->names;
	uint64_t	i;

	for (i = 0; i < reading->directory.count; i++)
	{
		EngZipEntry *entry = &zip->entries[i];
		Central		central = {0};

		if (!read_central(&at, end, &central, status))
			return false;
		if (memchr(central.name, '\0', central.name_length) != NULL)
			return zip_fail(status, "a name holds a zero byte");
		memcpy(name, central.name, central.name_length);
		name[central.name_length] = '\0';
		entry->name = name;
		name += central.name_length + 1;
		if (strstr(entry->name, "..") != NULL)
			return zip_fail(status, "a name holds \"..\"");
		if (!locate(reading, &central, entry, &reading->spans[i], status))
			return false;
		reading->checksums[i] = central.crc;
		zip->count++;
	}
	return true;
}

static int
compare_spans(const void *a, const void *b)
{
	size_t		left = ((const Span *) a)->start;
	size_t		right = ((const Span *) b)->start;

	return (left > right) - (left < right);
}

/*
 * Entries that share bytes could make much of a small file.
 */
static bool
check_overlap(const Reading *reading, EngStatus *status)
{
	int32_t		i;

	qsort(reading->spans, reading->zip->count, sizeof(*reading->spans),
		  compare_spans);
	for (i = 1; i < reading->zip->count; i++)
		if (reading->spans[i].start < reading->spans[i - 1].end)
			return zip_fail(status, "entries overlap");
	return true;
}

/*
 * Entries are in the directory's order here.  An archive in which every
 * checksum is 0 was written without: torch.serialization.set_crc32_options.
 */
static bool
check_sums(const Reading *reading, EngStatus *status)
{
	const EngZip *zip = reading->zip;
	EngCrc32	crc;
	int32_t		i;

	for (i = 0; i < zip->count && reading->checksums[i] == 0; i++)
		;
	if (i == zip->count)
		return true;
	eng_crc32_prepare(&crc);
	for (i = 0; i < zip->count; i++)
		if (zip->entries[i].data != NULL &&
			eng_crc32(&crc, zip->entries[i].data, zip->entries[i].size) !=
			reading->checksums[i])
			return eng_fail(status, ENG_BAD_FILE,
							"zip archive: entry \"%.96s\" is damaged: its CRC-32 is wrong",
							zip->entries[i].name);
	return true;
}

static int
compare_entries(const void *a, const void *b)
{
	return strcmp(((const EngZipEntry *) a)->name,
				  ((const EngZipEntry *) b)->name);
}

static bool
sort_names(EngZip *zip, EngStatus *status)
{
	int32_t		i;

	qsort(zip->entries, zip->count, sizeof(*zip->entries), compare_entries);
	for (i = 1; i < zip->count; i++)
		if (strcmp(zip->entries[i - 1].name, zip->entries[i].name) == 0)
			return zip_fail(status, "a name appears twice");
	return true;
}

static bool
read_archive(Reading *reading, EngStatus *status)
{
	EngZip	   *zip = reading->zip;
	size_t		count = reading->directory.count + 1;
	bool		fine;

	zip->entries = malloc(sizeof(*zip->entries) * count);
	/* a name and its end are shorter than its entry */
	zip->names = malloc(reading->directory.size + 1);
	reading->spans = malloc(sizeof(*reading->spans) * count);
	reading->checksums = malloc(sizeof(*reading->checksums) * count);
	if (zip->entries == NULL || zip->names == NULL ||
		reading->spans == NULL || reading->checksums == NULL)
		fine = eng_fail(status, ENG_NO_MEMORY,
						"could not allocate an archive");
	else
		fine = read_entries(reading, status) &&
			check_overlap(reading, status) && check_sums(reading, status) &&
			sort_names(zip, status);
	free(reading->spans);
	free(reading->checksums);
	return fine;
}

EngZip *
eng_zip_open(const uint8_t *image, size_t size, EngStatus *status)
{
	Reading		reading = {.image = image};

	if (!find_directory(image, size, &reading.directory, status))
		return NULL;
	reading.zip = calloc(1, sizeof(*reading.zip));
	if (reading.zip == NULL)
	{
		eng_fail(status, ENG_NO_MEMORY, "could not allocate an archive");
		return NULL;
	}
	if (read_archive(&reading, status))
		return reading.zip;
	eng_zip_free(reading.zip);
	return NULL;
}

void
eng_zip_free(EngZip *zip)
{
	if (zip == NULL)
		return;
	free(zip->entries);
	free(zip->names);
	free(zip);
}

const EngZipEntry *
eng_zip_find(const EngZip *zip, const char *name)
{
	EngZipEntry key = {.name = name};

	if (zip->count == 0)
		return NULL;
	return bsearch(&key, zip->entries, zip->count, sizeof(key),
				   compare_entries);
}
