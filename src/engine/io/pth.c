/*
 * engine/io/pth.c
 *		Read PyTorch's own files of weights.
 *
 * Two containers hold the same pickle.  A zip archive (since 1.6) has it in
 * X/data.pkl and each storage in X/data/KEY, X being any folder.  The older
 * stream is five pickles (a magic number, a version, facts of the machine,
 * the object, the list of storage keys) and then, for each key of the list,
 * an element count of 8 bytes and the elements.
 */
#include "engine/io/pth.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/io/pickle.h"
#include "engine/io/zip.h"

#define GROWTH			4		/* bytes out may be so many times those in */
#define GROWTH_BASE		((size_t) 1 << 20)
#define STREAM_VERSION	1001

/* The number that starts a stream, as a pickle stores it. */
static const uint8_t magic[10] = {
	0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19
};

/* Where a stream has the elements of one storage. */
typedef struct Storage
{
	const char *key;
	int			dtype;
	int64_t		count;			/* elements */
	const uint8_t *data;		/* NULL until it has been found */
} Storage;

typedef struct Source
{
	const uint8_t *image;
	size_t		size;
	EngPickle  *pickle;
	const EngPickleValue *root;
	EngZip	   *zip;			/* NULL for a stream */
	size_t		prefix_length;	/* zip: of "X/" in the names */
	const char *prefix;
	Storage    *storages;		/* stream: sorted by key, each key once */
	size_t		storage_count;
} Source;

static bool
pth_fail(EngStatus *status, const char *what)
{
	eng_fail(status, ENG_BAD_FILE, "PyTorch file: %s", what);
	return false;
}

/*
 * An entry of the archive's one folder, or NULL.
 */
static const EngZipEntry *
find_entry(const Source *source, const char *name)
{
	char		path[1024];

	if (source->prefix_length + strlen(name) >= sizeof(path))
		return NULL;
	memcpy(path, source->prefix, source->prefix_length);
	strcpy(path + source->prefix_length, name);
	return eng_zip_find(source->zip, path);
}

static bool
find_prefix(Source *source, EngStatus *status)
{
	static const char wanted[] = "/data.pkl";
	const EngZip *zip = source->zip;
	int32_t		i;

	for (i = 0; i < zip->count; i++)
	{
		const char *name = zip->entries[i].name;
		const char *slash = strchr(name, '/');

		if (slash == NULL || strcmp(slash, wanted) != 0)
			continue;
		if (source->prefix != NULL)
			return pth_fail(status, "archive holds several pickles");
		source->prefix = name;
		source->prefix_length = (size_t) (slash - name) + 1;
	}
	if (source->prefix == NULL)
		return pth_fail(status, "archive holds no data.pkl");
	return true;
}

static bool
open_zip(Source *source, EngStatus *status)
{
	const EngZipEntry *entry;
	const uint8_t *at;
	int32_t		i;

	source->zip = eng_zip_open(source->image, source->size, status);
	if (source->zip == NULL || !find_prefix(source, status))
		return false;
	for (i = 0; i < source->zip->count; i++)
	{
		const char *name = source->zip->entries[i].name;

		if (strncmp(name, source->prefix, source->prefix_length) == 0 &&
			strncmp(name + source->prefix_length, "code/", 5) == 0)
			break;
	}
	if (i < source->zip->count || find_entry(source, "constants.pkl") != NULL)
		return eng_fail(status, ENG_UNSUPPORTED,
						"PyTorch file: TorchScript programs are not read, only state dicts");
	if (source->zip->problem != NULL)
		return eng_fail(status, ENG_UNSUPPORTED, "zip archive: %s",
						source->zip->problem);
	entry = find_entry(source, "byteorder");
	if (entry != NULL &&
		(entry->size < 6 || memcmp(entry->data, "little", 6) != 0))
		return eng_fail(status, ENG_UNSUPPORTED,
						"PyTorch file: byte order is not little-endian");
	entry = find_entry(source, "data.pkl");
	if (entry == NULL)
		return pth_fail(status, "name of its folder is too long");
	at = entry->data;
	source->root = eng_pickle_read(source->pickle, &at,
								   entry->data + entry->size, status);
	return source->root != NULL;
}

static int
compare_storages(const void *a, const void *b)
{
	return strcmp(((const Storage *) a)->key, ((const Storage *) b)->key);
}

/*
 * List what the pickle says of its storages, each key once.
 */
static bool
list_storages(Source *source, EngStatus *status)
{
	size_t		count;
	const EngPickleStorage *const *named =
	eng_pickle_storages(source->pickle, &count);
	Storage    *storages = calloc(count + 1, sizeof(*storages));
	size_t		kept = 0;
	size_t		i;

	if (storages == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "could not keep storages");
	source->storages = storages;
	for (i = 0; i < count; i++)
	{
		storages[i].key = named[i]->key;
		storages[i].dtype = named[i]->dtype;
		storages[i].count = named[i]->count;
	}
	qsort(storages, count, sizeof(*storages), compare_storages);
	for (i = 0; i < count; i++)
	{
		if (kept == 0 ||
			compare_storages(&storages[kept - 1], &storages[i]) != 0)
			storages[kept++] = storages[i];
		else if (storages[kept - 1].dtype != storages[i].dtype ||
				 storages[kept - 1].count != storages[i].count)
			return pth_fail(status, "storage has two types or sizes");
	}
	source->storage_count = kept;
	return true;
}

static Storage *
find_listed(const Source *source, const char *key)
{
	Storage		wanted = {.key = key};

	if (source->storage_count == 0)
		return NULL;
	return bsearch(&wanted, source->storages, source->storage_count,
				   sizeof(wanted), compare_storages);
}

/*
 * Find the storages that follow the pickles of a stream, in the order of
 * keys.
 */
static bool
read_storages(Source *source, const EngPickleValue *keys, const uint8_t *at,
			  EngStatus *status)
{
	const uint8_t *end = source->image + source->size;
	size_t		i;

	if (keys->type != ENG_PICKLE_LIST || !list_storages(source, status))
		return pth_fail(status, "list of storages is wrong");
	for (i = 0; i < keys->count; i++)
	{
		Storage    *storage;
		int64_t		count;
		int			bytes;

		storage = keys->items[i]->type == ENG_PICKLE_STRING ?
			find_listed(source, keys->items[i]->text) : NULL;
		if (storage == NULL || storage->data != NULL)
			return pth_fail(status, "list of storages is wrong");
		if (end - at < 8)
			return pth_fail(status, "cut off");
		memcpy(&count, at, 8);
		at += 8;
		bytes = eng_file_dtype_bits((EngFileDtype) storage->dtype) / 8;
		if (count != storage->count || count > (end - at) / bytes)
			return pth_fail(status, "cut off, or a storage has another size");
		storage->data = at;
		at += count * bytes;
	}
	return true;
}

static bool
check_magic(const EngPickleValue *number, EngStatus *status)
{
	if (number->type != ENG_PICKLE_LONG || number->length != sizeof(magic) ||
		memcmp(number->text, magic, sizeof(magic)) != 0)
		return pth_fail(status, "magic number is wrong: it is a pickle, but not one of torch.save");
	return true;
}

static bool
check_facts(const EngPickleValue *version, const EngPickleValue *facts,
			EngStatus *status)
{
	const EngPickleValue *little;

	if (version->type != ENG_PICKLE_INTEGER ||
		version->integer != STREAM_VERSION)
		return eng_fail(status, ENG_UNSUPPORTED,
						"PyTorch file: version of the stream is not 1001");
	little = facts->type == ENG_PICKLE_DICT ?
		eng_pickle_get(facts, "little_endian") : NULL;
	if (little == NULL || little->type != ENG_PICKLE_BOOLEAN ||
		!little->integer)
		return eng_fail(status, ENG_UNSUPPORTED,
						"PyTorch file: byte order is not little-endian");
	return true;
}

static bool
open_stream(Source *source, EngStatus *status)
{
	const uint8_t *at = source->image;
	const EngPickleValue *values[5];
	int			i;

	for (i = 0; i < 5; i++)
	{
		values[i] = eng_pickle_read(source->pickle, &at,
									source->image + source->size, status);
		if (values[i] == NULL || (i == 0 && !check_magic(values[i], status)))
			return false;
	}
	source->root = values[3];
	if (!check_facts(values[1], values[2], status))
		return false;
	if (source->root->type != ENG_PICKLE_DICT)
		return pth_fail(status, "object is no state dict");
	return read_storages(source, values[4], at, status);
}

static bool
find_storage(const Source *source, const EngPickleStorage *wanted,
			 const uint8_t **data, EngStatus *status)
{
	int			bits = eng_file_dtype_bits((EngFileDtype) wanted->dtype);
	int64_t		bytes;

	if (__builtin_mul_overflow(wanted->count, bits / 8, &bytes))
		return pth_fail(status, "storage is too large");
	if (source->zip != NULL)
	{
		char		name[1024];
		const EngZipEntry *entry;

		if ((size_t) snprintf(name, sizeof(name), "data/%s", wanted->key) >=
			sizeof(name))
			return pth_fail(status, "key of a storage is too long");
		entry = find_entry(source, name);
		if (entry == NULL || entry->size != (size_t) bytes)
			return pth_fail(status, "storage is missing or has another size");
		*data = entry->data;
	}
	else
	{
		const Storage *found = find_listed(source, wanted->key);

		if (found == NULL || found->data == NULL)
			return pth_fail(status, "storage is missing");
		*data = found->data;
	}
	return true;
}

/*
 * Dimensions of more than one element: their number, sizes and strides.
 * The stride of the others may be any number and is never walked.
 */
static int
walked_dimensions(const EngPickleTensor *tensor, int64_t *shape,
				  int64_t *stride)
{
	int			rank = 0;
	int			i;

	for (i = 0; i < tensor->rank; i++)
		if (tensor->shape[i] > 1)
		{
			shape[rank] = tensor->shape[i];
			stride[rank++] = tensor->stride[i];
		}
	return rank;
}

/*
 * Copy the elements in row-major order, whatever the strides are.
 */
static void
gather(uint8_t *out, const EngPickleTensor *tensor, const uint8_t *data,
	   int64_t count, int bytes)
{
	int64_t		shape[ENG_FILE_MAX_RANK];
	int64_t		stride[ENG_FILE_MAX_RANK];
	int64_t		index[ENG_FILE_MAX_RANK] = {0};
	int64_t		from = tensor->offset;
	int64_t		expected = 1;
	bool		plain = true;
	int			rank = walked_dimensions(tensor, shape, stride);
	int64_t		n;
	int			i;

	for (i = rank - 1; i >= 0; i--)
	{
		plain = plain && stride[i] == expected;
		expected *= shape[i];
	}
	if (plain)
	{
		memcpy(out, data + from * bytes, (size_t) count * bytes);
		return;
	}
	for (n = 0; n < count; n++)
	{
		memcpy(out + n * bytes, data + from * bytes, bytes);
		for (i = rank - 1; i >= 0; i--)
		{
			from += stride[i];
			if (++index[i] < shape[i])
				break;
			from -= stride[i] * shape[i];
			index[i] = 0;
		}
	}
}

/*
 * The state dict: the object itself, or what a training checkpoint holds.
 */
static const EngPickleValue *
state_dict(const EngPickleValue *root)
{
	static const char *const keys[] = {
		"model", "state_dict", "model_state_dict", "model_ema"
	};
	int			i;

	for (i = 0; i < 4; i++)
	{
		const EngPickleValue *inner = eng_pickle_get(root, keys[i]);

		if (inner != NULL && inner->type == ENG_PICKLE_DICT)
			return inner;
	}
	return root;
}

/*
 * Announce every tensor to the writer; nothing is copied yet.
 */
static bool
add_tensors(const EngPickleValue *dict, size_t limit, EngTensorWriter *writer,
			EngStatus *status)
{
	size_t		total = 0;
	size_t		i;

	if (dict->count / 2 > ENG_PTH_MAX_TENSORS)
		return pth_fail(status, "too many tensors");
	for (i = 0; i < dict->count; i += 2)
	{
		const EngPickleTensor *from = dict->items[i + 1]->tensor;
		EngFileTensor tensor = {0};
		int64_t		count = 1;
		int32_t		j;

		if (dict->items[i]->type != ENG_PICKLE_STRING)
			return pth_fail(status, "name of a tensor is no string");
		if (dict->items[i + 1]->type != ENG_PICKLE_TENSOR)
			return eng_fail(status, ENG_BAD_FILE,
							"PyTorch file: \"%.96s\" is no tensor",
							dict->items[i]->text);
		tensor.name = dict->items[i]->text;
		tensor.dtype = (EngFileDtype) from->storage->dtype;
		tensor.rank = from->rank;
		memcpy(tensor.shape, from->shape, sizeof(tensor.shape));
		for (j = 0; j < from->rank; j++)
			count *= from->shape[j];	/* checked when it was read */
		if (__builtin_mul_overflow((size_t) count,
								   (size_t) eng_file_dtype_bits(tensor.dtype) / 8,
								   &tensor.bytes) ||
			__builtin_add_overflow(total, tensor.bytes, &total) ||
			total > limit)
			return pth_fail(status, "tensors would be much larger than the file");
		if (!eng_tensor_writer_add(writer, &tensor, status))
			return false;
	}
	return true;
}

static bool
copy_tensors(const Source *source, const EngPickleValue *dict,
			 const EngTensorWriter *writer, EngBuffer *out,
			 EngStatus *status)
{
	size_t		i;

	for (i = 0; i < dict->count; i += 2)
	{
		const EngPickleTensor *tensor = dict->items[i + 1]->tensor;
		const uint8_t *data = NULL;
		int64_t		count = 1;
		int32_t		j;

		if (!find_storage(source, tensor->storage, &data, status))
			return false;
		for (j = 0; j < tensor->rank; j++)
			count *= tensor->shape[j];
		if (count > 0)
			gather(eng_tensor_writer_place(writer, out,
										   dict->items[i]->text),
				   tensor, data, count,
				   eng_file_dtype_bits((EngFileDtype)
									   tensor->storage->dtype) / 8);
	}
	return true;
}

/*
 * Texts that stand as ENG_PTH_TEXTS among the dict's attributes.
 */
static bool
add_texts(const EngPickleValue *dict, EngTensorWriter *writer,
		  EngStatus *status)
{
	const EngPickleValue *texts = dict->attributes == NULL ? NULL :
		eng_pickle_get(dict->attributes, ENG_PTH_TEXTS);
	size_t		i;

	if (texts == NULL || texts->type != ENG_PICKLE_DICT)
		return true;
	if (texts->count / 2 > ENG_PTH_MAX_TEXTS)
		return pth_fail(status, "too many texts");
	for (i = 0; i < texts->count; i += 2)
		if (texts->items[i]->type == ENG_PICKLE_STRING &&
			texts->items[i + 1]->type == ENG_PICKLE_STRING &&
			strcmp(texts->items[i]->text, "format") != 0 &&
			!eng_tensor_writer_metadata(writer, texts->items[i]->text,
										texts->items[i + 1]->text, status))
			return false;
	return true;
}

static bool
convert(Source *source, EngBuffer *out, EngStatus *status)
{
	const EngPickleValue *dict;
	EngTensorWriter *writer;
	size_t		limit = source->size * GROWTH + GROWTH_BASE;
	bool		fine;

	if (source->root->type != ENG_PICKLE_DICT)
		return pth_fail(status, "object is no state dict");
	dict = state_dict(source->root);
	writer = eng_tensor_writer_create(status);
	if (writer == NULL)
		return false;
	fine = eng_tensor_writer_metadata(writer, "format", "pt", status) &&
		add_texts(dict, writer, status) &&
		add_tensors(dict, limit, writer, status) &&
		eng_tensor_writer_finish(writer, out, status) &&
		copy_tensors(source, dict, writer, out, status);
	eng_tensor_writer_free(writer);
	return fine;
}

bool
eng_pth_convert(const uint8_t *image, size_t size, EngBuffer *out,
				EngStatus *status)
{
	Source		source = {.image = image, .size = size};
	bool		fine;

	source.pickle = eng_pickle_create(status);
	if (source.pickle == NULL)
		return false;
	if (size >= 4 && memcmp(image, "PK\3\4", 4) == 0)
		fine = open_zip(&source, status);
	else if (eng_pth_recognise(image, size) && image[0] == 0x80)
		fine = open_stream(&source, status);
	else if (eng_pth_recognise(image, size))
		fine = eng_fail(status, ENG_UNSUPPORTED,
						"PyTorch file: tar archives, as its first versions wrote, are not read; save it again with a newer one");
	else
		fine = pth_fail(status, "it starts like no file of PyTorch's");
	fine = fine && convert(&source, out, status);
	free(source.storages);
	eng_zip_free(source.zip);
	eng_pickle_free(source.pickle);
	return fine;
}
