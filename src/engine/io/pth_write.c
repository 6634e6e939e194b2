/*
 * engine/io/pth_write.c
 *		Write PyTorch's own files of weights.
 *
 * The archive is what torch.save writes since 1.6 (SPEC: io/pth.c): a pickle
 * of protocol 2 that builds an OrderedDict of names and tensors, and one
 * record a tensor.  torch.load takes it with weights_only=True.  The file's
 * metadata go along as an attribute of the dict, ENG_PTH_TEXTS, a dict of
 * texts; load_state_dict does not look at it.
 */
#include "engine/io/pth.h"

#include <stdio.h>

#include "engine/io/pickle_objects.h"
#include "engine/io/zip_write.h"

#define TOP		"archive/"		/* the folder of all records */

static bool
put_bytes(EngBuffer *out, const char *bytes, EngStatus *status)
{
	return eng_buffer_append(out, bytes, strlen(bytes), status);
}

static bool
put_text(EngBuffer *out, const char *text, EngStatus *status)
{
	size_t		length = strlen(text);
	uint8_t		head[5] = {'X', (uint8_t) length, (uint8_t) (length >> 8),
		(uint8_t) (length >> 16), (uint8_t) (length >> 24)
	};

	if (length > UINT32_MAX)
		return eng_fail(status, ENG_UNSUPPORTED, "text is too long");
	return eng_buffer_append(out, head, sizeof(head), status) &&
		eng_buffer_append(out, text, length, status);
}

/*
 * A non-negative integer in the shortest form that torch.save uses.
 */
static bool
put_integer(EngBuffer *out, int64_t value, EngStatus *status)
{
	uint8_t		bytes[10] = {0x8a, 8};
	int			start = 2;
	int			size = 8;
	int			i;

	if (value <= INT32_MAX)
	{
		start = 1;
		size = value < 256 ? 1 : value < 65536 ? 2 : 4;
		bytes[0] = size == 1 ? 'K' : size == 2 ? 'M' : 'J';
	}
	for (i = 0; i < size; i++)
		bytes[start + i] = (uint8_t) (value >> (8 * i));
	return eng_buffer_append(out, bytes, (size_t) (start + size), status);
}

static bool
put_sizes(EngBuffer *out, const int64_t *sizes, int32_t rank,
		  EngStatus *status)
{
	int32_t		i;

	if (!put_bytes(out, "(", status))
		return false;
	for (i = 0; i < rank; i++)
		if (!put_integer(out, sizes[i], status))
			return false;
	return put_bytes(out, "t", status);
}

/*
 * ('storage', class, key, 'cpu', elements) as a persistent id.
 */
static bool
put_storage(EngBuffer *out, const EngFileTensor *tensor, int32_t key,
			EngStatus *status)
{
	const char *class = eng_pickle_storage_class(tensor->dtype);
	char		text[32];

	if (class == NULL)
		return eng_fail(status, ENG_UNSUPPORTED,
						"tensor \"%.96s\" of type %s has no place in a file of PyTorch's",
						tensor->name, eng_file_dtype_name(tensor->dtype));
	snprintf(text, sizeof(text), "%d", (int) key);
	return put_bytes(out, "(", status) &&
		put_text(out, "storage", status) &&
		put_bytes(out, "ctorch\n", status) &&
		put_bytes(out, class, status) &&
		put_bytes(out, "\n", status) &&
		put_text(out, text, status) &&
		put_text(out, "cpu", status) &&
		put_integer(out, tensor->count, status) &&
		put_bytes(out, "tQ", status);
}

/*
 * Name and tensor: a call of torch's function with storage, offset, size,
 * stride, requires_grad and hooks.
 */
static bool
put_tensor(EngBuffer *out, const EngFileTensor *tensor, int32_t key,
		   EngStatus *status)
{
	int64_t		stride[ENG_FILE_MAX_RANK];
	int64_t		next = 1;
	int32_t		i;

	for (i = tensor->rank - 1; i >= 0; i--)
	{
		stride[i] = next;
		next *= tensor->shape[i] > 0 ? tensor->shape[i] : 1;
	}
	return put_text(out, tensor->name, status) &&
		put_bytes(out, "ctorch._utils\n_rebuild_tensor_v2\n(", status) &&
		put_storage(out, tensor, key, status) &&
		put_integer(out, 0, status) &&
		put_sizes(out, tensor->shape, tensor->rank, status) &&
		put_sizes(out, stride, tensor->rank, status) &&
		put_bytes(out, "\x89" "ccollections\nOrderedDict\n)RtR", status);
}

static bool
put_texts(EngBuffer *out, const EngTensorFile *file, EngStatus *status)
{
	int32_t		i;

	if (!put_bytes(out, "}", status) ||
		!put_text(out, ENG_PTH_TEXTS, status) ||
		!put_bytes(out, "}(", status))
		return false;
	for (i = 0; i < file->metadata_count; i++)
		if (!put_text(out, file->metadata[i].key, status) ||
			!put_text(out, file->metadata[i].value, status))
			return false;
	return put_bytes(out, "usb", status);
}

static bool
put_pickle(EngBuffer *out, const EngTensorFile *file, EngStatus *status)
{
	int32_t		i;

	if (!put_bytes(out, "\x80\x02" "ccollections\nOrderedDict\n)R(", status))
		return false;
	for (i = 0; i < file->count; i++)
		if (!put_tensor(out, &file->tensors[i], i, status))
			return false;
	return put_bytes(out, "u", status) && put_texts(out, file, status) &&
		put_bytes(out, ".", status);
}

static bool
add_records(EngZipWriter *writer, const EngTensorFile *file,
			const EngBuffer *pickle, EngStatus *status)
{
	char		name[64];
	int32_t		i;

	if (!eng_zip_add(writer, TOP "data.pkl", pickle->data, pickle->size,
					 status) ||
		!eng_zip_add(writer, TOP "byteorder", "little", 6, status))
		return false;
	for (i = 0; i < file->count; i++)
	{
		snprintf(name, sizeof(name), TOP "data/%d", (int) i);
		if (!eng_zip_add(writer, name, file->tensors[i].data,
						 file->tensors[i].bytes, status))
			return false;
	}
	return eng_zip_add(writer, TOP "version", "3\n", 2, status) &&
		eng_zip_finish(writer, status);
}

bool
eng_pth_write(const EngTensorFile *file, EngBuffer *out, EngStatus *status)
{
	EngBuffer	pickle = {0};
	EngZipWriter writer;
	size_t		total = 65536;
	bool		fine;
	int32_t		i;

	if (out->size != 0)
		return eng_fail(status, ENG_INTERNAL, "output buffer is not empty");
	/* headers of an entry, its padding and its line of the directory */
	for (i = 0; i < file->count; i++)
		total += file->tensors[i].bytes + 256;
	eng_zip_begin(&writer, out);
	fine = put_pickle(&pickle, file, status) &&
		eng_buffer_reserve(out, total + pickle.size, status) &&
		add_records(&writer, file, &pickle, status);
	eng_zip_end(&writer);
	eng_buffer_free(&pickle);
	return fine;
}
