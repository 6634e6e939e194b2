/*
 * engine/io/safetensors.c
 *		Read safetensors files held in memory; element types; buffers.
 *
 * The header is read by a parser of its own rather than by a JSON library:
 * the grammar is small, a duplicate key must be noticed at every level,
 * integers must be plain and a header may be 100 MB long.  It accepts strict
 * JSON only, in valid UTF-8, and no key but those of the format.
 *
 * Names, keys and values are decoded into one block of N bytes: a decoded
 * string and its end byte are never longer than the source with its quotes.
 */
#include "engine/io/json_scan.h"
#include "engine/io/safetensors.h"

#include <stdlib.h>
#include <string.h>

#define HEADER_START	8		/* bytes before the JSON text */
#define SHOWN_NAME		96		/* bytes of a name shown in a message */

typedef struct DtypeRow
{
	const char *name;
	int			bits;
} DtypeRow;

/* The range of one tensor, for the check that ranges cover the data. */
typedef struct Range
{
	uint64_t	begin;
	uint64_t	end;
} Range;

/* What a header being read has given so far. */
typedef struct HeaderParts
{
	EngTensorFile *file;
	Range	   *ranges;			/* one a tensor */
	int32_t		capacity;		/* of tensors and ranges */
	int32_t		metadata_capacity;
	bool		has_metadata;
} HeaderParts;

static const DtypeRow dtypes[ENG_FILE_DTYPES] = {
	[ENG_FILE_BOOL] = {"BOOL", 8},
	[ENG_FILE_F4] = {"F4", 4},
	[ENG_FILE_F6_E2M3] = {"F6_E2M3", 6},
	[ENG_FILE_F6_E3M2] = {"F6_E3M2", 6},
	[ENG_FILE_U8] = {"U8", 8},
	[ENG_FILE_I8] = {"I8", 8},
	[ENG_FILE_F8_E5M2] = {"F8_E5M2", 8},
	[ENG_FILE_F8_E4M3] = {"F8_E4M3", 8},
	[ENG_FILE_F8_E8M0] = {"F8_E8M0", 8},
	[ENG_FILE_F8_E4M3FNUZ] = {"F8_E4M3FNUZ", 8},
	[ENG_FILE_F8_E5M2FNUZ] = {"F8_E5M2FNUZ", 8},
	[ENG_FILE_I16] = {"I16", 16},
	[ENG_FILE_U16] = {"U16", 16},
	[ENG_FILE_F16] = {"F16", 16},
	[ENG_FILE_BF16] = {"BF16", 16},
	[ENG_FILE_I32] = {"I32", 32},
	[ENG_FILE_U32] = {"U32", 32},
	[ENG_FILE_F32] = {"F32", 32},
	[ENG_FILE_C64] = {"C64", 64},
	[ENG_FILE_F64] = {"F64", 64},
	[ENG_FILE_I64] = {"I64", 64},
	[ENG_FILE_U64] = {"U64", 64}
};

bool
eng_buffer_reserve(EngBuffer *buffer, size_t extra, EngStatus *status)
{
	size_t		need;
	size_t		capacity = buffer->capacity;
	uint8_t    *data;

	if (__builtin_add_overflow(buffer->size, extra, &need))
		return eng_fail(status, ENG_NO_MEMORY, "buffer is too large");
	if (need <= capacity)
		return true;
	if (capacity > SIZE_MAX / 2 || need > capacity * 2)
		capacity = need;
	else
		capacity *= 2;
	data = realloc(buffer->data, capacity);
	if (data == NULL)
		return eng_fail(status, ENG_NO_MEMORY,
						"could not allocate %zu bytes", capacity);
	buffer->data = data;
	buffer->capacity = capacity;
	return true;
}

bool
eng_buffer_append(EngBuffer *buffer, const void *data, size_t size,
				  EngStatus *status)
{
	if (!eng_buffer_reserve(buffer, size, status))
		return false;
	if (size > 0)
		memcpy(buffer->data + buffer->size, data, size);
	buffer->size += size;
	return true;
}

void
eng_buffer_free(EngBuffer *buffer)
{
	free(buffer->data);
	memset(buffer, 0, sizeof(*buffer));
}

const char *
eng_file_dtype_name(EngFileDtype dtype)
{
	return (unsigned) dtype < ENG_FILE_DTYPES ? dtypes[dtype].name : NULL;
}

int
eng_file_dtype_bits(EngFileDtype dtype)
{
	return (unsigned) dtype < ENG_FILE_DTYPES ? dtypes[dtype].bits : -1;
}

int
eng_file_dtype_find(const char *name)
{
	int			i;

	for (i = 0; i < ENG_FILE_DTYPES; i++)
		if (strcmp(dtypes[i].name, name) == 0)
			return i;
	return -1;
}

/*
 * A failure that concerns one name; what an unknown file calls its tensors
 * must not break a one-line message.
 */
static bool
name_fail(EngStatus *status, const char *name, const char *what)
{
	char		shown[SHOWN_NAME + 1];
	size_t		i;

	for (i = 0; i < SHOWN_NAME && name[i] != '\0'; i++)
		shown[i] = (unsigned char) name[i] < 0x20 || name[i] == 0x7f ?
			'?' : name[i];
	while (i == SHOWN_NAME && i > 0 && (shown[i - 1] & 0x80) != 0)
		i--;
	shown[i] = '\0';
	return eng_fail(status, ENG_BAD_FILE, "safetensors header: \"%s\" %s",
					shown, what);
}

static bool
scan_shape(EngScanner *scanner, EngFileTensor *tensor)
{
	bool		more;

	if (!eng_scan_expect(scanner, '['))
		return false;
	if (eng_scan_take(scanner, ']'))
		return true;
	do
	{
		uint64_t	size;

		if (tensor->rank == ENG_FILE_MAX_RANK)
			return eng_scan_fail(scanner, "more than 8 dimensions");
		if (!eng_scan_integer(scanner, &size) ||
			!eng_scan_next(scanner, ']', &more))
			return false;
		tensor->shape[tensor->rank++] = (int64_t) size;
	} while (more);
	return true;
}

static bool
scan_dtype(EngScanner *scanner, EngFileTensor *tensor)
{
	const char *word;
	int			dtype;

	if (!eng_scan_string(scanner, &word))
		return false;
	dtype = eng_file_dtype_find(word);
	if (dtype < 0)
		return name_fail(scanner->status, word, "is no known dtype");
	tensor->dtype = (EngFileDtype) dtype;
	scanner->strings = (char *) word;	/* not kept */
	return true;
}

static bool
scan_offsets(EngScanner *scanner, Range *range)
{
	return eng_scan_expect(scanner, '[') && eng_scan_integer(scanner, &range->begin) &&
		eng_scan_expect(scanner, ',') && eng_scan_integer(scanner, &range->end) &&
		eng_scan_expect(scanner, ']');
}

/*
 * The three fields of one tensor, each exactly once, in any order.
 */
static bool
scan_fields(EngScanner *scanner, EngFileTensor *tensor, Range *range)
{
	static const char *const fields[] = {"dtype", "shape", "data_offsets"};
	unsigned	seen = 0;
	bool		more;

	if (!eng_scan_expect(scanner, '{'))
		return false;
	do
	{
		const char *word;
		unsigned	i;

		if (!eng_scan_string(scanner, &word) || !eng_scan_expect(scanner, ':'))
			return false;
		for (i = 0; i < 3; i++)
			if (strcmp(word, fields[i]) == 0)
				break;
		scanner->strings = (char *) word;
		if (i == 3)
			return name_fail(scanner->status, word, "is no known field");
		if (seen & 1u << i)
			return name_fail(scanner->status, word,
							 "appears twice in one tensor");
		seen |= 1u << i;
		if (!(i == 0 ? scan_dtype(scanner, tensor) :
			  i == 1 ? scan_shape(scanner, tensor) :
			  scan_offsets(scanner, range)) ||
			!eng_scan_next(scanner, '}', &more))
			return false;
	} while (more);
	if (seen != 7)
		return name_fail(scanner->status, tensor->name,
						 "lacks dtype, shape or data_offsets");
	return true;
}

/*
 * Fill count, and hold the range against it.
 */
static bool
check_size(EngFileTensor *tensor, const Range *range, EngStatus *status)
{
	int64_t		count = 1;
	int64_t		bits;
	int32_t		i;

	for (i = 0; i < tensor->rank; i++)
		if (__builtin_mul_overflow(count, tensor->shape[i], &count))
			return name_fail(status, tensor->name, "has too many elements");
	if (__builtin_mul_overflow(count, eng_file_dtype_bits(tensor->dtype),
							   &bits))
		return name_fail(status, tensor->name, "has too many elements");
	if (bits % 8 != 0)
		return name_fail(status, tensor->name, "does not fill whole bytes");
	if (range->end < range->begin ||
		range->end - range->begin != (uint64_t) bits / 8)
		return name_fail(status, tensor->name,
						 "has data_offsets that do not fit its shape");
	tensor->count = count;
	tensor->bytes = (size_t) (bits / 8);
	return true;
}

static bool
grow(void **array, size_t element, int32_t count, int32_t capacity,
	 EngStatus *status)
{
	void	   *larger;

	if (count < capacity)
		return true;
	larger = realloc(*array, element * ((size_t) capacity * 2 + 64));
	if (larger == NULL)
		return eng_fail(status, ENG_NO_MEMORY,
						"could not allocate a list of tensors");
	*array = larger;
	return true;
}

static bool
scan_tensor(EngScanner *scanner, HeaderParts *parts, const char *name)
{
	EngTensorFile *file = parts->file;
	EngFileTensor *tensor;
	Range	   *range;

	if (!grow((void **) &file->tensors, sizeof(*file->tensors), file->count,
			  parts->capacity, scanner->status) ||
		!grow((void **) &parts->ranges, sizeof(*parts->ranges), file->count,
			  parts->capacity, scanner->status))
		return false;
	if (file->count == parts->capacity)
		parts->capacity = parts->capacity * 2 + 64;
	tensor = &file->tensors[file->count];
	range = &parts->ranges[file->count];
	memset(tensor, 0, sizeof(*tensor));
	tensor->name = name;
	if (!scan_fields(scanner, tensor, range) ||
		!check_size(tensor, range, scanner->status))
		return false;
	/* for now the offset; the address once coverage has been checked */
	tensor->data = (const uint8_t *) (uintptr_t) range->begin;
	file->count++;
	return true;
}

static bool
scan_metadata(EngScanner *scanner, HeaderParts *parts)
{
	EngTensorFile *file = parts->file;
	bool		more;

	if (parts->has_metadata)
		return eng_scan_fail(scanner, "second \"__metadata__\"");
	parts->has_metadata = true;
	if (!eng_scan_expect(scanner, '{'))
		return false;
	if (eng_scan_take(scanner, '}'))
		return true;
	do
	{
		EngFileText *text;

		if (!grow((void **) &file->metadata, sizeof(*file->metadata),
				  file->metadata_count, parts->metadata_capacity,
				  scanner->status))
			return false;
		if (file->metadata_count == parts->metadata_capacity)
			parts->metadata_capacity = parts->metadata_capacity * 2 + 64;
		text = &file->metadata[file->metadata_count];
		if (!eng_scan_string(scanner, &text->key) || !eng_scan_expect(scanner, ':') ||
			!eng_scan_string(scanner, &text->value) ||
			!eng_scan_next(scanner, '}', &more))
			return false;
		file->metadata_count++;
	} while (more);
	return true;
}

static bool
scan_header(EngScanner *scanner, HeaderParts *parts)
{
	bool		more;

	if (*scanner->at != '{')
		return eng_scan_fail(scanner, "'{' expected");
	scanner->at++;
	more = !eng_scan_take(scanner, '}');
	while (more)
	{
		const char *name;
		bool		fine;

		if (!eng_scan_string(scanner, &name) || !eng_scan_expect(scanner, ':'))
			return false;
		if (strcmp(name, "__metadata__") == 0)
			fine = scan_metadata(scanner, parts);
		else
			fine = scan_tensor(scanner, parts, name);
		if (!fine || !eng_scan_next(scanner, '}', &more))
			return false;
	}
	eng_scan_space(scanner);
	if (scanner->at != scanner->end)
		return eng_scan_fail(scanner, "text after the end");
	return true;
}

static int
compare_ranges(const void *a, const void *b)
{
	const Range *left = a;
	const Range *right = b;

	if (left->begin != right->begin)
		return left->begin < right->begin ? -1 : 1;
	return (left->end > right->end) - (left->end < right->end);
}

/*
 * Sorted, the ranges must follow one another from 0 to the end of the data.
 * Sorts the ranges in place.
 */
static bool
check_coverage(Range *ranges, int32_t count, uint64_t size,
			   EngStatus *status)
{
	uint64_t	at = 0;
	int32_t		i;

	if (count > 0)
		qsort(ranges, count, sizeof(*ranges), compare_ranges);
	for (i = 0; i < count; i++)
	{
		if (ranges[i].begin != at)
			return eng_fail(status, ENG_BAD_FILE,
							"safetensors data has %s at byte %llu",
							ranges[i].begin < at ? "an overlap" : "a gap",
							(unsigned long long) at);
		at = ranges[i].end;
	}
	if (at != size)
		return eng_fail(status, ENG_BAD_FILE,
						"safetensors data is %llu bytes long, but its header describes %llu",
						(unsigned long long) size, (unsigned long long) at);
	return true;
}

static int
compare_tensors(const void *a, const void *b)
{
	return strcmp(((const EngFileTensor *) a)->name,
				  ((const EngFileTensor *) b)->name);
}

static int
compare_texts(const void *a, const void *b)
{
	return strcmp(((const EngFileText *) a)->key,
				  ((const EngFileText *) b)->key);
}

/*
 * Sort tensors and metadata for look-up; equal neighbours are duplicates.
 */
static bool
sort_names(EngTensorFile *file, EngStatus *status)
{
	int32_t		i;

	if (file->count > 0)
		qsort(file->tensors, file->count, sizeof(*file->tensors),
			  compare_tensors);
	for (i = 1; i < file->count; i++)
		if (compare_tensors(&file->tensors[i - 1], &file->tensors[i]) == 0)
			return name_fail(status, file->tensors[i].name, "appears twice");
	if (file->metadata_count > 0)
		qsort(file->metadata, file->metadata_count, sizeof(*file->metadata),
			  compare_texts);
	for (i = 1; i < file->metadata_count; i++)
		if (compare_texts(&file->metadata[i - 1], &file->metadata[i]) == 0)
			return name_fail(status, file->metadata[i].key,
							 "appears twice in the metadata");
	return true;
}

/*
 * Read the N bytes of header into file; the data that follow are size bytes.
 */
static bool
read_header(EngTensorFile *file, const uint8_t *header, size_t length,
			size_t size, EngStatus *status)
{
	const uint8_t *data = header + length;
	HeaderParts parts = {.file = file};
	EngScanner	scanner = {header, header, header + length, NULL, status};
	bool		fine;
	int32_t		i;

	file->strings = malloc(length + 1);
	if (file->strings == NULL)
		return eng_fail(status, ENG_NO_MEMORY,
						"could not allocate %zu bytes", length + 1);
	scanner.strings = file->strings;
	fine = scan_header(&scanner, &parts) &&
		check_coverage(parts.ranges, file->count, size, status) &&
		sort_names(file, status);
	free(parts.ranges);
	if (!fine)
		return false;
	for (i = 0; i < file->count; i++)
		file->tensors[i].data = data + (uintptr_t) file->tensors[i].data;
	return true;
}

EngTensorFile *
eng_tensor_file_open(const void *image, size_t size, EngStatus *status)
{
	const uint8_t *bytes = image;
	EngTensorFile *file;
	uint64_t	length = 0;
	int			i;

	if (size < HEADER_START + 2)
	{
		eng_fail(status, ENG_BAD_FILE,
				 "safetensors file is only %zu bytes long", size);
		return NULL;
	}
	for (i = HEADER_START - 1; i >= 0; i--)
		length = length << 8 | bytes[i];
	if (length > ENG_FILE_MAX_HEADER || length < 2 ||
		length > size - HEADER_START)
	{
		eng_fail(status, ENG_BAD_FILE,
				 "safetensors file of %zu bytes cannot have a header of %llu bytes",
				 size, (unsigned long long) length);
		return NULL;
	}
	file = calloc(1, sizeof(*file));
	if (file == NULL)
	{
		eng_fail(status, ENG_NO_MEMORY, "could not allocate a file object");
		return NULL;
	}
	if (!read_header(file, bytes + HEADER_START, (size_t) length,
					 size - HEADER_START - (size_t) length, status))
	{
		eng_tensor_file_free(file);
		return NULL;
	}
	return file;
}

void
eng_tensor_file_free(EngTensorFile *file)
{
	if (file == NULL)
		return;
	free(file->tensors);
	free(file->metadata);
	free(file->strings);
	free(file);
}

const EngFileTensor *
eng_tensor_file_find(const EngTensorFile *file, const char *name)
{
	EngFileTensor key = {.name = name};

	if (file->count == 0)
		return NULL;
	return bsearch(&key, file->tensors, file->count, sizeof(key),
				   compare_tensors);
}

const char *
eng_tensor_file_metadata(const EngTensorFile *file, const char *key)
{
	EngFileText wanted = {.key = key};
	const EngFileText *found = NULL;

	if (file->metadata_count > 0)
		found = bsearch(&wanted, file->metadata, file->metadata_count,
						sizeof(wanted), compare_texts);
	return found ? found->value : NULL;
}
