/*
 * engine/io/safetensors_write.c
 *		Write safetensors files into memory; convert elements to float.
 *
 * The order is that of the format's reference writer: element types from the
 * most to the least aligned, then names, offsets in that order, the header
 * padded with spaces so that the data start at a multiple of 8.  So every
 * tensor is aligned to its element within the file.  Metadata go by key, so
 * that equal contents give equal bytes.
 */
#include "engine/io/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct Entry
{
	EngFileTensor tensor;
	char	   *name;			/* owned */
	size_t		offset;			/* into the file, set by finish */
} Entry;

struct EngTensorWriter
{
	Entry	   *entries;
	int32_t		count;
	int32_t		capacity;
	EngFileText *metadata;		/* texts owned */
	int32_t		metadata_count;
	int32_t		metadata_capacity;
	size_t		text_bytes;		/* of names and metadata in the header */
};

EngTensorWriter *
eng_tensor_writer_create(EngStatus *status)
{
	EngTensorWriter *writer = calloc(1, sizeof(*writer));

	if (writer == NULL)
		eng_fail(status, ENG_NO_MEMORY, "could not allocate a file writer");
	return writer;
}

void
eng_tensor_writer_free(EngTensorWriter *writer)
{
	int32_t		i;

	if (writer == NULL)
		return;
	for (i = 0; i < writer->count; i++)
		free(writer->entries[i].name);
	for (i = 0; i < writer->metadata_count; i++)
	{
		free((char *) writer->metadata[i].key);
		free((char *) writer->metadata[i].value);
	}
	free(writer->entries);
	free(writer->metadata);
	free(writer);
}

/*
 * Bytes of one character inside a JSON string.
 */
static int
escaped_length(unsigned char c)
{
	return c == '"' || c == '\\' ? 2 : c < 0x20 ? 6 : 1;
}

/*
 * Count a text of the header before it is copied: a small PyTorch file can
 * name one long text very often.
 */
static bool
count_text(EngTensorWriter *writer, const char *text, EngStatus *status)
{
	const char *at;

	for (at = text; *at != '\0'; at++)
		writer->text_bytes += escaped_length((unsigned char) *at);
	if (writer->text_bytes > ENG_FILE_MAX_HEADER)
		return eng_fail(status, ENG_UNSUPPORTED,
						"safetensors header would be over 100 MB");
	return true;
}

bool
eng_tensor_writer_metadata(EngTensorWriter *writer, const char *key,
						   const char *value, EngStatus *status)
{
	char	   *own_key;
	char	   *own_value;

	if (!count_text(writer, key, status) ||
		!count_text(writer, value, status))
		return false;
	if (writer->metadata_count == writer->metadata_capacity)
	{
		int32_t		capacity = writer->metadata_capacity * 2 + 16;
		EngFileText *larger = realloc(writer->metadata,
									  sizeof(*larger) * capacity);

		if (larger == NULL)
			return eng_fail(status, ENG_NO_MEMORY,
							"could not keep metadata");
		writer->metadata = larger;
		writer->metadata_capacity = capacity;
	}
	own_key = strdup(key);
	own_value = strdup(value);
	if (own_key == NULL || own_value == NULL)
	{
		free(own_key);
		free(own_value);
		return eng_fail(status, ENG_NO_MEMORY, "could not keep metadata");
	}
	writer->metadata[writer->metadata_count].key = own_key;
	writer->metadata[writer->metadata_count].value = own_value;
	writer->metadata_count++;
	return true;
}

/*
 * Fill count and bytes of a tensor from its shape and type.
 */
static bool
measure(EngFileTensor *tensor, EngStatus *status)
{
	int64_t		count = 1;
	int64_t		bits = eng_file_dtype_bits(tensor->dtype);
	int32_t		i;

	if (bits < 0 || tensor->rank < 0 || tensor->rank > ENG_FILE_MAX_RANK)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"tensor \"%.96s\" has a wrong type or rank",
						tensor->name);
	for (i = 0; i < tensor->rank; i++)
		if (tensor->shape[i] < 0 ||
			__builtin_mul_overflow(count, tensor->shape[i], &count))
			return eng_fail(status, ENG_BAD_ARGUMENT,
							"tensor \"%.96s\" has a wrong shape",
							tensor->name);
	if (__builtin_mul_overflow(count, bits, &bits) || bits % 8 != 0)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"tensor \"%.96s\" has a wrong size", tensor->name);
	tensor->count = count;
	tensor->bytes = (size_t) (bits / 8);
	return true;
}

bool
eng_tensor_writer_add(EngTensorWriter *writer, const EngFileTensor *tensor,
					  EngStatus *status)
{
	Entry		entry = {.tensor = *tensor};

	if (strcmp(tensor->name, "__metadata__") == 0)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"no tensor can be named \"__metadata__\"");
	if (!measure(&entry.tensor, status) ||
		!count_text(writer, tensor->name, status))
		return false;
	if (writer->count == writer->capacity)
	{
		int32_t		capacity = writer->capacity * 2 + 64;
		Entry	   *larger = realloc(writer->entries,
									 sizeof(*larger) * capacity);

		if (larger == NULL)
			return eng_fail(status, ENG_NO_MEMORY,
							"could not allocate a list of tensors");
		writer->entries = larger;
		writer->capacity = capacity;
	}
	entry.name = strdup(tensor->name);
	if (entry.name == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "could not keep a name");
	entry.tensor.name = entry.name;
	writer->entries[writer->count++] = entry;
	return true;
}

/*
 * Append text as a JSON string.
 */
static bool
put_string(EngBuffer *out, const char *text, EngStatus *status)
{
	const char *at;

	if (!eng_buffer_append(out, "\"", 1, status))
		return false;
	for (at = text; *at != '\0'; at++)
	{
		char		escaped[8];
		unsigned char c = (unsigned char) *at;
		int			length = escaped_length(c);

		escaped[0] = length == 1 ? *at : '\\';
		escaped[1] = *at;
		if (length == 6)
			snprintf(escaped, sizeof(escaped), "\\u%04x", c);
		if (!eng_buffer_append(out, escaped, length, status))
			return false;
	}
	return eng_buffer_append(out, "\"", 1, status);
}

static bool
put_text(EngBuffer *out, const char *text, EngStatus *status)
{
	return eng_buffer_append(out, text, strlen(text), status);
}

static bool
put_metadata(const EngTensorWriter *writer, EngBuffer *out,
			 EngStatus *status)
{
	int32_t		i;

	if (!put_text(out, "\"__metadata__\":{", status))
		return false;
	for (i = 0; i < writer->metadata_count; i++)
		if ((i > 0 && !put_text(out, ",", status)) ||
			!put_string(out, writer->metadata[i].key, status) ||
			!put_text(out, ":", status) ||
			!put_string(out, writer->metadata[i].value, status))
			return false;
	return put_text(out, "}", status);
}

/*
 * The header's line of one tensor that starts at begin.
 */
static bool
put_tensor(const EngFileTensor *tensor, size_t begin, EngBuffer *out,
		   EngStatus *status)
{
	char		text[96];
	int32_t		i;

	snprintf(text, sizeof(text), ":{\"dtype\":\"%s\",\"shape\":[",
			 eng_file_dtype_name(tensor->dtype));
	if (!put_string(out, tensor->name, status) ||
		!put_text(out, text, status))
		return false;
	for (i = 0; i < tensor->rank; i++)
	{
		snprintf(text, sizeof(text), "%s%lld", i > 0 ? "," : "",
				 (long long) tensor->shape[i]);
		if (!put_text(out, text, status))
			return false;
	}
	snprintf(text, sizeof(text), "],\"data_offsets\":[%zu,%zu]}",
			 begin, begin + tensor->bytes);
	return put_text(out, text, status);
}

static int
compare_entries(const void *a, const void *b)
{
	const EngFileTensor *left = &((const Entry *) a)->tensor;
	const EngFileTensor *right = &((const Entry *) b)->tensor;

	if (left->dtype != right->dtype)
		return left->dtype > right->dtype ? -1 : 1;
	return strcmp(left->name, right->name);
}

static int
compare_entry_names(const void *a, const void *b)
{
	return strcmp((*(const Entry *const *) a)->name,
				  (*(const Entry *const *) b)->name);
}

static int
compare_texts(const void *a, const void *b)
{
	return strcmp(((const EngFileText *) a)->key,
				  ((const EngFileText *) b)->key);
}

/*
 * Sort the metadata by key; equal neighbours are duplicates.
 */
static bool
sort_metadata(EngTensorWriter *writer, EngStatus *status)
{
	int32_t		i;

	if (writer->metadata_count > 0)
		qsort(writer->metadata, writer->metadata_count,
			  sizeof(*writer->metadata), compare_texts);
	for (i = 1; i < writer->metadata_count; i++)
		if (compare_texts(&writer->metadata[i - 1],
						  &writer->metadata[i]) == 0)
			return eng_fail(status, ENG_BAD_ARGUMENT,
							"metadata \"%.96s\" is given twice",
							writer->metadata[i].key);
	return true;
}

/*
 * Names are unique across types too, which the order of the file hides.
 */
static bool
check_names(const EngTensorWriter *writer, EngStatus *status)
{
	const Entry **sorted = malloc(sizeof(*sorted) * (writer->count + 1));
	bool		fine = true;
	int32_t		i;

	if (sorted == NULL)
		return eng_fail(status, ENG_NO_MEMORY,
						"could not allocate a list of tensors");
	for (i = 0; i < writer->count; i++)
		sorted[i] = &writer->entries[i];
	qsort(sorted, writer->count, sizeof(*sorted), compare_entry_names);
	for (i = 1; i < writer->count && fine; i++)
		if (strcmp(sorted[i - 1]->name, sorted[i]->name) == 0)
			fine = eng_fail(status, ENG_BAD_ARGUMENT,
							"tensor \"%.96s\" is given twice",
							sorted[i]->name);
	free(sorted);
	return fine;
}

/*
 * Append the length and the padded header; offsets of entries become places
 * in the data, *total their sum.
 */
static bool
put_header(EngTensorWriter *writer, EngBuffer *out, size_t *total,
		   EngStatus *status)
{
	uint64_t	length;
	int32_t		i;

	*total = 0;
	if (!put_text(out, "........{", status))
		return false;
	if (writer->metadata_count > 0 && !put_metadata(writer, out, status))
		return false;
	for (i = 0; i < writer->count; i++)
	{
		Entry	   *entry = &writer->entries[i];

		if (((i > 0 || writer->metadata_count > 0) &&
			 !put_text(out, ",", status)) ||
			!put_tensor(&entry->tensor, *total, out, status))
			return false;
		entry->offset = *total;
		if (__builtin_add_overflow(*total, entry->tensor.bytes, total))
			return eng_fail(status, ENG_NO_MEMORY, "file is too large");
	}
	if (!put_text(out, "}", status))
		return false;
	while (out->size % 8 != 0)
		if (!put_text(out, " ", status))
			return false;
	length = out->size - 8;
	if (length > ENG_FILE_MAX_HEADER)
		return eng_fail(status, ENG_UNSUPPORTED,
						"safetensors header would be over 100 MB");
	for (i = 0; i < 8; i++)
		out->data[i] = (uint8_t) (length >> (8 * i));
	return true;
}

bool
eng_tensor_writer_finish(EngTensorWriter *writer, EngBuffer *out,
						 EngStatus *status)
{
	size_t		start;
	size_t		total;
	int32_t		i;

	if (out->size != 0)
		return eng_fail(status, ENG_INTERNAL, "output buffer is not empty");
	if (!check_names(writer, status) || !sort_metadata(writer, status))
		return false;
	if (writer->count > 0)
		qsort(writer->entries, writer->count, sizeof(*writer->entries),
			  compare_entries);
	if (!put_header(writer, out, &total, status) ||
		!eng_buffer_reserve(out, total, status))
		return false;
	start = out->size;
	for (i = 0; i < writer->count; i++)
	{
		Entry	   *entry = &writer->entries[i];
		size_t		bytes = entry->tensor.bytes;

		entry->offset += start;
		if (bytes == 0)
			continue;
		if (entry->tensor.data != NULL)
			memcpy(out->data + entry->offset, entry->tensor.data, bytes);
		else
			memset(out->data + entry->offset, 0, bytes);
	}
	out->size += total;
	return true;
}

void *
eng_tensor_writer_place(const EngTensorWriter *writer, const EngBuffer *out,
						const char *name)
{
	Entry		key = {.tensor.name = name};
	int			dtype;

	/* finish has sorted the entries by type first */
	for (dtype = 0; dtype < ENG_FILE_DTYPES && writer->count > 0; dtype++)
	{
		const Entry *found;

		key.tensor.dtype = (EngFileDtype) dtype;
		found = bsearch(&key, writer->entries, writer->count, sizeof(key),
						compare_entries);
		if (found != NULL)
			return out->data + found->offset;
	}
	return NULL;
}

static float
float_from_bits(uint32_t bits)
{
	float		value;

	memcpy(&value, &bits, sizeof(value));
	return value;
}

/*
 * A half is sign, 5 bits of exponent, 10 of fraction; every one of them is a
 * float.
 */
static float
float_from_half(uint16_t half)
{
	uint32_t	sign = (uint32_t) (half & 0x8000) << 16;
	uint32_t	exponent = half >> 10 & 0x1f;
	uint32_t	fraction = half & 0x3ff;

	if (exponent == 0x1f)
		return float_from_bits(sign | 0x7f800000 | fraction << 13);
	if (exponent != 0)
		return float_from_bits(sign | (exponent + 112) << 23 |
							   fraction << 13);
	/* a subnormal half is fraction * 2^-24 */
	return (sign ? -1.0f : 1.0f) * (float) fraction * 0x1p-24f;
}

static float
float_from_element(EngFileDtype dtype, const uint8_t *at)
{
	double		wide;
	int64_t		whole;
	int32_t		small;

	switch (dtype)
	{
		case ENG_FILE_F64:
			memcpy(&wide, at, sizeof(wide));
			return (float) wide;
		case ENG_FILE_I64:
			memcpy(&whole, at, sizeof(whole));
			return (float) whole;
		default:
			memcpy(&small, at, sizeof(small));
			return (float) small;
	}
}

bool
eng_file_tensor_floats(const EngFileTensor *tensor, float *out,
					   EngStatus *status)
{
	int64_t		i;

	switch (tensor->dtype)
	{
		case ENG_FILE_F32:
			if (tensor->bytes > 0)
				memcpy(out, tensor->data, tensor->bytes);
			return true;
		case ENG_FILE_F16:
		case ENG_FILE_BF16:
			for (i = 0; i < tensor->count; i++)
			{
				uint16_t	half;

				memcpy(&half, tensor->data + 2 * i, sizeof(half));
				out[i] = tensor->dtype == ENG_FILE_F16 ?
					float_from_half(half) :
					float_from_bits((uint32_t) half << 16);
			}
			return true;
		case ENG_FILE_F64:
		case ENG_FILE_I64:
		case ENG_FILE_I32:
			for (i = 0; i < tensor->count; i++)
				out[i] = float_from_element(tensor->dtype, tensor->data +
											i * (tensor->dtype ==
												 ENG_FILE_I32 ? 4 : 8));
			return true;
		default:
			return eng_fail(status, ENG_UNSUPPORTED,
							"tensor \"%.96s\" of type %s cannot be read as floats",
							tensor->name, eng_file_dtype_name(tensor->dtype));
	}
}
