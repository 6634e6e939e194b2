/*
 * engine/io/pth_write.c
 *		Write PyTorch's own files of weights.
 *
 * The archive is what torch.save writes since 1.6 (SPEC: io/pth.c): a pickle
 * of protocol 2 that builds an OrderedDict of names and tensors, and one
 * record a tensor.  torch.load takes it with weights_only=True.  The dict has
 * two attributes: "_metadata", the versions of modules that load_state_dict
 * looks at (pth_versions.c), and ENG_PTH_TEXTS, the file's own metadata as a
 * dict of texts, which it does not look at.
 *
 * What the reader would refuse for its length or number is refused here, by
 * the same limits: bytes and values of the pickle, bytes and number of texts.
 */
#include "engine/io/pth.h"

#include <stdio.h>

#include "engine/io/pickle_objects.h"
#include "engine/io/pth_versions.h"
#include "engine/io/zip_write.h"

#define TOP		"archive/"		/* the folder of all records */

/* A pickle being written. */
typedef struct Pickler
{
	EngBuffer	bytes;
	int64_t		values;			/* that reading it makes */
	EngStatus  *status;
} Pickler;

static bool
put(Pickler *out, const void *bytes, size_t size, int values)
{
	out->values += values;
	if (size > ENG_PICKLE_MAX_BYTES - out->bytes.size ||
		out->values > ENG_PICKLE_MAX_VALUES)
		return eng_fail(out->status, ENG_UNSUPPORTED,
						"names, texts and tensors are more than a file of PyTorch's may have here: %d MiB and %d values in its pickle",
						(int) (ENG_PICKLE_MAX_BYTES >> 20),
						ENG_PICKLE_MAX_VALUES);
	return eng_buffer_append(&out->bytes, bytes, size, out->status);
}

/*
 * Operations as they are, and how many values they make.
 */
static bool
put_operations(Pickler *out, const char *operations, int values)
{
	return put(out, operations, strlen(operations), values);
}

static bool
put_bytes_of_text(Pickler *out, const char *text, size_t length)
{
	uint8_t		head[5] = {'X', (uint8_t) length, (uint8_t) (length >> 8),
		(uint8_t) (length >> 16), (uint8_t) (length >> 24)
	};

	if (length > ENG_PICKLE_MAX_TEXT)
		return eng_fail(out->status, ENG_UNSUPPORTED,
						"text \"%.48s...\" of %zu bytes is longer than the %d that a file of PyTorch's may have here",
						text, length, (int) ENG_PICKLE_MAX_TEXT);
	return put(out, head, sizeof(head), 1) && put(out, text, length, 0);
}

static bool
put_text(Pickler *out, const char *text)
{
	return put_bytes_of_text(out, text, strlen(text));
}

/*
 * A non-negative integer in the shortest form that torch.save uses.
 */
static bool
put_integer(Pickler *out, int64_t value)
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
	return put(out, bytes, (size_t) (start + size), 1);
}

static bool
put_sizes(Pickler *out, const int64_t *sizes, int32_t rank)
{
	int32_t		i;

	if (!put_operations(out, "(", 1))
		return false;
	for (i = 0; i < rank; i++)
		if (!put_integer(out, sizes[i]))
			return false;
	return put_operations(out, "t", 1);
}

/*
 * ('storage', class, key, 'cpu', elements) as a persistent id.
 */
static bool
put_storage(Pickler *out, const EngFileTensor *tensor, int32_t key)
{
	const char *class = eng_pickle_storage_class(tensor->dtype);
	char		text[32];

	if (class == NULL)
		return eng_fail(out->status, ENG_UNSUPPORTED,
						"tensor \"%.96s\" of type %s has no place in a file of PyTorch's",
						tensor->name, eng_file_dtype_name(tensor->dtype));
	snprintf(text, sizeof(text), "%d", (int) key);
	return put_operations(out, "(", 1) &&
		put_text(out, "storage") &&
		put_operations(out, "ctorch\n", 0) &&
		put_operations(out, class, 0) &&
		put_operations(out, "\n", 1) &&
		put_text(out, text) &&
		put_text(out, "cpu") &&
		put_integer(out, tensor->count) &&
		put_operations(out, "tQ", 2);
}

/*
 * Elements from one index to the next, for each dimension.  A tensor without
 * elements can have any sides: torch's strides count one for those of 0.
 */
static bool
find_strides(const EngFileTensor *tensor, int64_t *stride, EngStatus *status)
{
	int64_t		next = 1;
	int32_t		i;

	for (i = tensor->rank - 1; i >= 0; i--)
	{
		stride[i] = next;
		if (tensor->shape[i] > 0 &&
			__builtin_mul_overflow(next, tensor->shape[i], &next))
			return eng_fail(status, ENG_UNSUPPORTED,
							"sides of tensor \"%.96s\" are too large for a file of PyTorch's",
							tensor->name);
	}
	return true;
}

/*
 * Name and tensor: a call of torch's function with storage, offset, size,
 * stride, requires_grad and hooks.
 */
static bool
put_tensor(Pickler *out, const EngFileTensor *tensor, int32_t key)
{
	int64_t		stride[ENG_FILE_MAX_RANK];

	return find_strides(tensor, stride, out->status) &&
		put_text(out, tensor->name) &&
		put_operations(out, "ctorch._utils\n_rebuild_tensor_v2\n(", 2) &&
		put_storage(out, tensor, key) &&
		put_integer(out, 0) &&
		put_sizes(out, tensor->shape, tensor->rank) &&
		put_sizes(out, stride, tensor->rank) &&
		put_operations(out, "\x89" "ccollections\nOrderedDict\n)RtR", 6);
}

/*
 * {"version": N} under the module's name.
 */
static bool
put_version(void *context, const char *name, size_t length, int version)
{
	Pickler    *out = context;

	return put_bytes_of_text(out, name, length) &&
		put_operations(out, "}", 1) &&
		put_text(out, "version") &&
		put_integer(out, version) &&
		put_operations(out, "s", 0);
}

static bool
put_versions(Pickler *out, const EngTensorFile *file)
{
	return put_text(out, "_metadata") &&
		put_operations(out, "ccollections\nOrderedDict\n)R(", 4) &&
		eng_pth_versions(file, put_version, out) &&
		put_operations(out, "u", 0);
}

static bool
put_texts(Pickler *out, const EngTensorFile *file)
{
	int32_t		i;

	if (file->metadata_count > ENG_PTH_MAX_TEXTS)
		return eng_fail(out->status, ENG_UNSUPPORTED,
						"metadata of %d texts are more than the %d that a file of PyTorch's may have here",
						(int) file->metadata_count, ENG_PTH_MAX_TEXTS);
	if (!put_text(out, ENG_PTH_TEXTS) || !put_operations(out, "}(", 2))
		return false;
	for (i = 0; i < file->metadata_count; i++)
		if (!put_text(out, file->metadata[i].key) ||
			!put_text(out, file->metadata[i].value))
			return false;
	return put_operations(out, "u", 0);
}

static bool
put_pickle(Pickler *out, const EngTensorFile *file)
{
	int32_t		i;

	if (file->count > ENG_PTH_MAX_TENSORS)
		return eng_fail(out->status, ENG_UNSUPPORTED,
						"%d tensors are more than the %d that a file of PyTorch's may have here",
						(int) file->count, ENG_PTH_MAX_TENSORS);
	if (!put_operations(out, "\x80\x02" "ccollections\nOrderedDict\n)R(", 4))
		return false;
	for (i = 0; i < file->count; i++)
		if (!put_tensor(out, &file->tensors[i], i))
			return false;
	return put_operations(out, "u}(", 2) &&
		put_versions(out, file) && put_texts(out, file) &&
		put_operations(out, "ub.", 0);
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
	Pickler		pickle = {.status = status};
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
	fine = put_pickle(&pickle, file) &&
		eng_buffer_reserve(out, total + pickle.bytes.size, status) &&
		add_records(&writer, file, &pickle.bytes, status);
	eng_zip_end(&writer);
	eng_buffer_free(&pickle.bytes);
	return fine;
}
