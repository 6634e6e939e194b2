/*
 * test/engine/safetensors.c
 *		The safetensors reader and writer: rules, round trips, mutated files.
 */
#include <unistd.h>

#include "engine/core/random.h"
#include "engine/io/file.h"
#include "engine/io/safetensors.h"
#include "tap.h"

#define MUTATIONS	40000

/* A file of this header text and this many bytes of data. */
static EngBuffer
make_file(const char *header, size_t length, size_t data)
{
	EngBuffer	file = {0};
	EngStatus	status = {0};
	uint8_t		size[8];
	size_t		i;

	for (i = 0; i < 8; i++)
		size[i] = (uint8_t) ((uint64_t) length >> (8 * i));
	eng_buffer_append(&file, size, 8, &status);
	eng_buffer_append(&file, header, length, &status);
	eng_buffer_reserve(&file, data, &status);
	for (i = 0; i < data; i++)
		file.data[file.size++] = (uint8_t) i;
	return file;
}

/* The reader gets a copy of exactly the file's size, so that a sanitizer
 * sees every byte read beyond it. */
static EngTensorFile *
open_copy(const void *data, size_t size, uint8_t **copy, EngStatus *status)
{
	*copy = malloc(size > 0 ? size : 1);
	memcpy(*copy, data, size);
	return eng_tensor_file_open(*copy, size, status);
}

static void
check_refused(const char *what, const char *header, size_t data,
			  const char *words)
{
	EngBuffer	image = make_file(header, strlen(header), data);
	EngStatus	status = {0};
	uint8_t    *copy;
	EngTensorFile *file = open_copy(image.data, image.size, &copy, &status);

	if (!tap_ok(file == NULL && status.code == ENG_BAD_FILE &&
				strstr(status.message, words) != NULL, "refused: %s", what))
		tap_note("%s: %s", file ? "accepted" : "refused", status.message);
	eng_tensor_file_free(file);
	free(copy);
	eng_buffer_free(&image);
}

static void
check_accepted(const char *what, const char *header, size_t data)
{
	EngBuffer	image = make_file(header, strlen(header), data);
	EngStatus	status = {0};
	uint8_t    *copy;
	EngTensorFile *file = open_copy(image.data, image.size, &copy, &status);

	if (!tap_ok(file != NULL, "accepted: %s", what))
		tap_note("%s", status.message);
	eng_tensor_file_free(file);
	free(copy);
	eng_buffer_free(&image);
}

#define T(NAME, DTYPE, SHAPE, BEGIN, END) \
	"\"" NAME "\":{\"dtype\":\"" DTYPE "\",\"shape\":" SHAPE \
	",\"data_offsets\":[" BEGIN "," END "]}"

static void
test_accepted(void)
{
	check_accepted("no tensors", "{}", 0);
	check_accepted("one tensor", "{" T("a", "F32", "[2,3]", "0", "24") "}", 24);
	check_accepted("scalar", "{" T("a", "F32", "[]", "0", "4") "}", 4);
	check_accepted("empty tensors at one place",
				   "{" T("a", "F32", "[0]", "0", "0") "," T("b", "F32", "[3,0]", "0", "0") ","
				   T("c", "U8", "[3]", "0", "3") "," T("d", "I64", "[0]", "3", "3") "}", 3);
	check_accepted("any order",
				   "{" T("b", "U8", "[3]", "4", "7") "," T("a", "F32", "[1]", "0", "4") "}", 7);
	check_accepted("fields in any order, spaces",
				   "{ \"a\" : { \"shape\" : [ 1 ] , \"data_offsets\" : [ 0 , 1 ] ,\n\t\"dtype\" : \"BOOL\" } }   ", 1);
	check_accepted("four-bit elements", "{" T("a", "F4", "[6]", "0", "3") "}", 3);
	check_accepted("metadata", "{\"__metadata__\":{\"format\":\"pt\",\"x\":\"\"}}", 0);
	check_accepted("empty metadata", "{\"__metadata__\":{}}", 0);
	check_accepted("escapes",
				   "{\"__metadata__\":{\"\\u00e9\\ud83d\\ude00\\n\":\"\\\"\\\\\\/\\b\\f\\r\\t\"}}", 0);
	check_accepted("eight dimensions",
				   "{" T("a", "U8", "[1,1,1,1,1,1,1,2]", "0", "2") "}", 2);
}

static void
test_json(void)
{
	check_refused("an array", "[]", 0, "'{' expected");
	check_refused("a space before the object", " {}", 0, "'{' expected");
	check_refused("text after the end", "{}x", 0, "after the end");
	check_refused("two objects", "{}{}", 0, "after the end");
	check_refused("an unfinished object", "{\"a\"", 0, "':' expected");
	check_refused("a trailing comma", "{" T("a", "U8", "[1]", "0", "1") ",}", 1,
				  "'\"' expected");
	check_refused("an unfinished string", "{\"abc", 0, "unfinished string");
	check_refused("a line break in a string", "{\"a\nb\":{}}", 0, "control");
	check_refused("an unknown escape", "{\"\\x\":{}}", 0, "unknown escape");
	check_refused("a cut escape", "{\"\\u12", 0, "incomplete escape");
	check_refused("a wrong escape", "{\"\\u12g4\":{}}", 0, "hexadecimal");
	check_refused("a high surrogate alone", "{\"\\ud800\":{}}", 0, "surrogate");
	check_refused("a low surrogate alone", "{\"\\udc00\":{}}", 0, "surrogate");
	check_refused("two high surrogates", "{\"\\ud800\\ud800\":{}}", 0, "surrogate");
	check_refused("a zero character", "{\"a\\u0000b\":{}}", 0, "zero character");
	check_refused("a byte that is not UTF-8", "{\"\xff\":{}}", 0, "UTF-8");
	check_refused("an overlong character", "{\"\xc0\xaf\":{}}", 0, "UTF-8");
	check_refused("a cut character", "{\"\xe2\x82\":{}}", 0, "UTF-8");
	check_refused("a surrogate in UTF-8", "{\"\xed\xa0\x80\":{}}", 0, "UTF-8");
	check_refused("a code over the last", "{\"\xf4\x90\x80\x80\":{}}", 0, "UTF-8");
	check_refused("a number for a tensor", "{\"a\":1}", 0, "'{' expected");
	check_refused("metadata of a number", "{\"__metadata__\":{\"a\":1}}", 0,
				  "'\"' expected");
	check_refused("metadata of an object", "{\"__metadata__\":{\"a\":{}}}", 0,
				  "'\"' expected");
}

static void
test_fields(void)
{
	check_refused("an unknown dtype", "{" T("a", "F31", "[1]", "0", "4") "}", 4,
				  "no known dtype");
	check_refused("a lower-case dtype", "{" T("a", "f32", "[1]", "0", "4") "}", 4,
				  "no known dtype");
	check_refused("an unknown field",
				  "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"strides\":[1]}}",
				  1, "no known field");
	check_refused("a field twice",
				  "{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
				  1, "twice in one tensor");
	check_refused("a missing field", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1,
				  "lacks");
	check_refused("no field", "{\"a\":{}}", 0, "expected");
	check_refused("a negative size", "{" T("a", "U8", "[-1]", "0", "1") "}", 1,
				  "integer expected");
	check_refused("a fraction", "{" T("a", "U8", "[1.0]", "0", "1") "}", 1,
				  "integer expected");
	check_refused("an exponent", "{" T("a", "U8", "[1e0]", "0", "1") "}", 1,
				  "integer expected");
	check_refused("a leading zero", "{" T("a", "U8", "[01]", "0", "1") "}", 1,
				  "integer expected");
	check_refused("an integer over 64 bits",
				  "{" T("a", "U8", "[99999999999999999999]", "0", "1") "}", 1, "too large");
	check_refused("nine dimensions",
				  "{" T("a", "U8", "[1,1,1,1,1,1,1,1,1]", "0", "1") "}", 1, "dimensions");
	check_refused("three offsets",
				  "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,2]}}", 1,
				  "']' expected");
}

static void
test_layout(void)
{
	check_refused("a product that overflows",
				  "{" T("a", "U8", "[4294967296,4294967296]", "0", "0") "}", 0, "too many");
	check_refused("bits that overflow",
				  "{" T("a", "F64", "[2305843009213693952]", "0", "0") "}", 0, "too many");
	check_refused("half a byte", "{" T("a", "F4", "[3]", "0", "2") "}", 2, "whole bytes");
	check_refused("an end before the begin", "{" T("a", "U8", "[1]", "1", "0") "}", 1,
				  "do not fit");
	check_refused("a range too long", "{" T("a", "F32", "[1]", "0", "8") "}", 8,
				  "do not fit");
	check_refused("a gap at the start", "{" T("a", "U8", "[1]", "1", "2") "}", 2, "a gap");
	check_refused("a gap between",
				  "{" T("a", "U8", "[1]", "0", "1") "," T("b", "U8", "[1]", "2", "3") "}", 3,
				  "a gap");
	check_refused("an overlap",
				  "{" T("a", "U8", "[2]", "0", "2") "," T("b", "U8", "[2]", "1", "3") "}", 3,
				  "an overlap");
	check_refused("one range twice",
				  "{" T("a", "U8", "[2]", "0", "2") "," T("b", "U8", "[2]", "0", "2") "}", 2,
				  "an overlap");
	check_refused("data after the last", "{" T("a", "U8", "[1]", "0", "1") "}", 2,
				  "but its header describes");
	check_refused("data that are missing", "{" T("a", "U8", "[9]", "0", "9") "}", 8,
				  "but its header describes");
	check_refused("data and no tensors", "{}", 1, "but its header describes");
	check_refused("a name twice",
				  "{" T("a", "U8", "[1]", "0", "1") "," T("b", "U8", "[1]", "1", "2") ","
				  T("a", "U8", "[1]", "2", "3") "}", 3, "appears twice");
	check_refused("a name twice, once escaped",
				  "{" T("a", "U8", "[1]", "0", "1") "," T("\\u0061", "U8", "[1]", "1", "2")
				  "}", 2, "appears twice");
	check_refused("metadata twice", "{\"__metadata__\":{},\"__metadata__\":{}}", 0,
				  "second");
	check_refused("a metadata key twice", "{\"__metadata__\":{\"a\":\"\",\"a\":\"\"}}", 0,
				  "twice in the metadata");
}

static void
test_lengths(void)
{
	static const uint64_t lengths[] = {
		0, 1, 3, 100000001, UINT64_MAX, UINT64_MAX - 7, (uint64_t) 1 << 63
	};
	EngStatus	status = {0};
	uint8_t		bytes[10] = {2, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
	uint8_t    *copy;
	EngTensorFile *file;
	size_t		i;
	int			refused = 0;

	for (i = 0; i < sizeof(bytes); i++)
	{
		memset(&status, 0, sizeof(status));
		file = open_copy(bytes, i, &copy, &status);
		refused += file == NULL;
		eng_tensor_file_free(file);
		free(copy);
	}
	tap_ok(refused == 10, "refused: every cut of the smallest file");
	refused = 0;
	for (i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++)
	{
		memcpy(bytes, &lengths[i], 8);
		memset(&status, 0, sizeof(status));
		file = open_copy(bytes, sizeof(bytes), &copy, &status);
		refused += file == NULL && status.code == ENG_BAD_FILE;
		eng_tensor_file_free(file);
		free(copy);
	}
	tap_ok(refused == i, "refused: header lengths that cannot be");
}

/* Add one tensor of random bits. */
static void
add_random(EngTensorWriter *writer, const char *name, EngFileDtype dtype,
		   int32_t rank, const int64_t *shape, uint8_t *data)
{
	EngFileTensor tensor = {.name = name, .dtype = dtype, .rank = rank};
	EngStatus	status = {0};
	int64_t		bytes = eng_file_dtype_bits(dtype) / 8;
	int64_t		i;

	for (i = 0; i < rank; i++)
	{
		tensor.shape[i] = shape[i];
		bytes *= shape[i];
	}
	for (i = 0; i < bytes; i++)
		data[i] = (uint8_t) eng_random_u64(1, 2, eng_random_name(name),
										   ENG_USE_TEST, i);
	tensor.data = data;
	if (!eng_tensor_writer_add(writer, &tensor, &status))
		tap_note("%s", status.message);
}

/* A file of a few tensors; the caller frees it. */
static EngBuffer
sample(uint8_t data[4][4096])
{
	static const int64_t shape[] = {3, 4, 5};
	EngStatus	status = {0};
	EngTensorWriter *writer = eng_tensor_writer_create(&status);
	EngBuffer	out = {0};

	eng_tensor_writer_metadata(writer, "format", "pt", &status);
	eng_tensor_writer_metadata(writer, "odd \"\\\n\x01", "\xc3\xa9", &status);
	add_random(writer, "b.weight", ENG_FILE_F32, 3, shape, data[0]);
	add_random(writer, "a.weight", ENG_FILE_F32, 2, shape, data[1]);
	add_random(writer, "c", ENG_FILE_I64, 0, shape, data[2]);
	add_random(writer, "d\"\\", ENG_FILE_U8, 1, shape, data[3]);
	if (!eng_tensor_writer_finish(writer, &out, &status))
		tap_note("%s", status.message);
	eng_tensor_writer_free(writer);
	return out;
}

static void
test_round_trip(void)
{
	static uint8_t data[4][4096];
	static const char *const names[] = {"b.weight", "a.weight", "c", "d\"\\"};
	EngBuffer	image = sample(data);
	EngStatus	status = {0};
	EngTensorFile *file = eng_tensor_file_open(image.data, image.size,
											   &status);
	int			same = 0;
	int			i;

	if (!tap_ok(file != NULL && file->count == 4, "what is written is read"))
	{
		tap_note("%s", status.message);
		return;
	}
	for (i = 0; i < 4; i++)
	{
		const EngFileTensor *tensor = eng_tensor_file_find(file, names[i]);

		same += tensor != NULL &&
			memcmp(tensor->data, data[i], tensor->bytes) == 0 &&
			(uintptr_t) (tensor->data - image.data) %
			(eng_file_dtype_bits(tensor->dtype) / 8) == 0;
	}
	tap_ok(same == 4, "every tensor comes back bit by bit and is aligned");
	tap_ok(eng_tensor_file_find(file, "e") == NULL, "no tensor of another name");
	tap_ok(strcmp(eng_tensor_file_metadata(file, "format"), "pt") == 0 &&
		   strcmp(eng_tensor_file_metadata(file, "odd \"\\\n\x01"),
				  "\xc3\xa9") == 0, "metadata come back");
	/* I64, then F32 by name, then U8 */
	tap_ok(eng_tensor_file_find(file, "c")->data <
		   eng_tensor_file_find(file, "a.weight")->data &&
		   eng_tensor_file_find(file, "a.weight")->data <
		   eng_tensor_file_find(file, "b.weight")->data &&
		   eng_tensor_file_find(file, "b.weight")->data <
		   eng_tensor_file_find(file, "d\"\\")->data, "order of the reference");
	tap_ok((eng_tensor_file_find(file, "c")->data - image.data) % 8 == 0,
		   "data start at a multiple of 8");
	eng_tensor_file_free(file);
	eng_buffer_free(&image);
}

static void
test_writer_refusals(void)
{
	EngStatus	status = {0};
	EngTensorWriter *writer = eng_tensor_writer_create(&status);
	EngFileTensor tensor = {.name = "a", .dtype = ENG_FILE_F32, .rank = 1,
	.shape = {-1}};
	EngBuffer	out = {0};

	tap_ok(!eng_tensor_writer_add(writer, &tensor, &status),
		   "writer refuses a negative size");
	memset(&status, 0, sizeof(status));
	tensor.shape[0] = 1;
	tensor.name = "__metadata__";
	tap_ok(!eng_tensor_writer_add(writer, &tensor, &status),
		   "writer refuses the reserved name");
	memset(&status, 0, sizeof(status));
	tensor.name = "a";
	eng_tensor_writer_add(writer, &tensor, &status);
	tensor.dtype = ENG_FILE_I64;
	eng_tensor_writer_add(writer, &tensor, &status);
	tap_ok(status.code == ENG_OK &&
		   !eng_tensor_writer_finish(writer, &out, &status),
		   "writer refuses a name twice");
	eng_tensor_writer_free(writer);
	eng_buffer_free(&out);
}

/* The writer counts what the header will hold before it copies it. */
static void
test_writer_limits(void)
{
	const size_t length = 1000000;
	EngStatus	status = {0};
	EngTensorWriter *writer = eng_tensor_writer_create(&status);
	EngFileTensor tensor = {.name = "a", .dtype = ENG_FILE_F32};
	char	   *text = malloc(length + 1);
	EngBuffer	out = {0};
	int			taken = 0;

	memset(text, '\1', length);
	text[length] = '\0';
	tensor.name = text;
	while (taken < 100 && eng_tensor_writer_add(writer, &tensor, &status))
		taken++;
	tap_ok(taken == 16 && status.code == ENG_UNSUPPORTED,
		   "names stop at what a header can hold, escapes counted");
	tap_ok(!eng_tensor_writer_metadata(writer, "key", text, &status),
		   "and so do texts");
	eng_tensor_writer_free(writer);
	free(text);

	memset(&status, 0, sizeof(status));
	writer = eng_tensor_writer_create(&status);
	tap_ok(eng_tensor_writer_metadata(writer, "key", "1", &status) &&
		   eng_tensor_writer_metadata(writer, "key", "2", &status) &&
		   !eng_tensor_writer_finish(writer, &out, &status) &&
		   strstr(status.message, "\"key\" is given twice") != NULL,
		   "a key of the metadata cannot be given twice");
	eng_tensor_writer_free(writer);
	eng_buffer_free(&out);
}

static void
test_place(void)
{
	EngStatus	status = {0};
	EngTensorWriter *writer = eng_tensor_writer_create(&status);
	EngFileTensor tensor = {.name = "a", .dtype = ENG_FILE_F32, .rank = 1,
	.shape = {2}};
	float		values[2] = {1.5f, -2.0f};
	EngBuffer	out = {0};
	EngTensorFile *file;

	eng_tensor_writer_add(writer, &tensor, &status);
	eng_tensor_writer_finish(writer, &out, &status);
	memcpy(eng_tensor_writer_place(writer, &out, "a"), values,
		   sizeof(values));
	file = eng_tensor_file_open(out.data, out.size, &status);
	tap_ok(file != NULL &&
		   memcmp(eng_tensor_file_find(file, "a")->data, values, 8) == 0 &&
		   eng_tensor_writer_place(writer, &out, "b") == NULL,
		   "a tensor is filled in its place");
	eng_tensor_file_free(file);
	eng_tensor_writer_free(writer);
	eng_buffer_free(&out);
}

static void
test_floats(void)
{
	static const uint16_t halves[] = {
		0x0000, 0x8000, 0x3c00, 0xc000, 0x7bff, 0x0001, 0x03ff, 0x0400,
		0x7c00, 0x7e00
	};
	static const float expected[] = {
		0.0f, -0.0f, 1.0f, -2.0f, 65504.0f, 0x1p-24f, 0x1.ff8p-15f, 0x1p-14f
	};
	EngFileTensor tensor = {.name = "a", .dtype = ENG_FILE_F16, .rank = 1,
		.shape = {10}, .count = 10, .data = (const uint8_t *) halves,
	.bytes = 20};
	EngStatus	status = {0};
	float		out[10];
	uint16_t	brain = 0x4049;
	double		wide = 0.1;
	int64_t		whole = -16777217;
	int32_t		small = -7;
	bool		fine;

	fine = eng_file_tensor_floats(&tensor, out, &status) &&
		memcmp(out, expected, sizeof(expected)) == 0 && isinf(out[8]) &&
		isnan(out[9]);
	tap_ok(fine, "half precision to float is exact");
	tensor.dtype = ENG_FILE_BF16;
	tensor.count = 1;
	tensor.data = (const uint8_t *) &brain;
	tap_ok(eng_file_tensor_floats(&tensor, out, &status) &&
		   out[0] == 3.140625f, "bfloat16 to float is exact");
	tensor.dtype = ENG_FILE_F64;
	tensor.data = (const uint8_t *) &wide;
	tap_ok(eng_file_tensor_floats(&tensor, out, &status) && out[0] == 0.1f,
		   "double to float is rounded");
	tensor.dtype = ENG_FILE_I64;
	tensor.data = (const uint8_t *) &whole;
	tap_ok(eng_file_tensor_floats(&tensor, out, &status) &&
		   out[0] == -16777216.0f, "a long integer to float is rounded");
	tensor.dtype = ENG_FILE_I32;
	tensor.data = (const uint8_t *) &small;
	tap_ok(eng_file_tensor_floats(&tensor, out, &status) && out[0] == -7,
		   "an integer to float");
	tensor.dtype = ENG_FILE_I8;
	tap_ok(!eng_file_tensor_floats(&tensor, out, &status) &&
		   status.code == ENG_UNSUPPORTED, "bytes are no floats");
}

/* Whatever the reader accepts must lie inside the image. */
static bool
holds(const EngTensorFile *file, const uint8_t *image, size_t size)
{
	int32_t		i;

	for (i = 0; i < file->count; i++)
	{
		const EngFileTensor *tensor = &file->tensors[i];

		if (tensor->data < image || tensor->bytes > size ||
			tensor->data + tensor->bytes > image + size ||
			(i > 0 && strcmp(tensor[-1].name, tensor->name) >= 0))
			return false;
	}
	return true;
}

/* Change some bytes, cut or lengthen; returns the new size. */
static size_t
mutate(uint8_t *bytes, size_t size, uint64_t round)
{
	static const char tokens[] = "{}[],:\"\\0123456789-.eEu \x80\xff";
	uint64_t	counter = 0;
#define DRAW(n) \
	(eng_random_u64(7, round, 0, ENG_USE_TEST, counter++) % (n))
	int			changes = 1 + (int) DRAW(3);

	while (changes-- > 0)
	{
		/* most changes fall on the header, where the rules are */
		size_t		at = DRAW(4) > 0 && size > 8 ?
			8 + DRAW(size < 400 ? size - 8 : 392) : DRAW(size);

		switch (DRAW(5))
		{
			case 0:
				bytes[at] ^= (uint8_t) (1u << DRAW(8));
				break;
			case 1:
				bytes[at] = (uint8_t) tokens[DRAW(sizeof(tokens) - 1)];
				break;
			case 2:
				memmove(bytes + at, bytes + at + 1, size - at - 1);
				size--;
				break;
			case 3:
				memmove(bytes + at + 1, bytes + at, size - at);
				size++;
				break;
			default:
				if (DRAW(4) == 0)
					size = 1 + DRAW(size);
				else if (at + 16 < size)
					memcpy(bytes + at, bytes + DRAW(size - 8), 8);
		}
	}
#undef DRAW
	return size;
}

static void
test_mutations(void)
{
	static uint8_t data[4][4096];
	EngBuffer	image = sample(data);
	int			accepted = 0;
	int			wrong = 0;
	uint64_t	round;

	for (round = 0; round < MUTATIONS; round++)
	{
		uint8_t    *bytes = malloc(image.size + 8);
		EngStatus	status = {0};
		EngTensorFile *file;
		uint8_t    *copy;
		size_t		size;

		memcpy(bytes, image.data, image.size);
		size = mutate(bytes, image.size, round);
		/* half of them keep a length that fits, to get past the first check */
		if (round % 2 == 0)
		{
			uint64_t	length = image.size - 8 - 4 * 60 - 4 * 12 - 8 - 3;

			length += size - image.size;
			memcpy(bytes, &length, size < 8 ? size : 8);
		}
		file = open_copy(bytes, size, &copy, &status);
		if (file == NULL)
			wrong += status.code != ENG_BAD_FILE ||
				status.message[0] == '\0' ||
				strpbrk(status.message, "\n\r") != NULL;
		else
		{
			accepted++;
			wrong += !holds(file, copy, size);
		}
		eng_tensor_file_free(file);
		free(copy);
		free(bytes);
	}
	tap_ok(wrong == 0 && accepted > 0 && accepted < MUTATIONS / 2,
		   "%d mutated files: %d accepted, the rest refused in one line",
		   MUTATIONS, accepted);
	eng_buffer_free(&image);
}

static void
test_files(void)
{
	char		path[256];
	EngBuffer	in = {0};
	EngStatus	status = {0};

	tap_scratch(path, sizeof(path), "safetensors");
	tap_ok(eng_file_write(path, "abc", 3, &status) &&
		   eng_file_write(path, "defg", 4, &status) &&
		   eng_file_read(path, 100, &in, &status) && in.size == 4 &&
		   memcmp(in.data, "defg", 4) == 0, "a file is replaced whole");
	tap_ok(!eng_file_read(path, 3, &in, &status) &&
		   status.code == ENG_BAD_FILE, "a file over the limit is refused");
	unlink(path);
	memset(&status, 0, sizeof(status));
	tap_ok(!eng_file_read(path, 3, &in, &status) && status.code == ENG_IO,
		   "a missing file is an error");
	memset(&status, 0, sizeof(status));
	tap_ok(!eng_file_read("/tmp", 3, &in, &status) && status.code == ENG_IO,
		   "a folder is no file");
	memset(&status, 0, sizeof(status));
	tap_ok(!eng_file_write("/nowhere/at/all", "a", 1, &status) &&
		   status.code == ENG_IO, "a folder that is missing is an error");
	eng_buffer_free(&in);
}

/* Recorded files, written again: the same tensors in the same bytes. */
static void
test_recorded(void)
{
	const char *shared = getenv("AVC_SHARED");
	char		path[1024];
	EngBuffer	in = {0};
	EngBuffer	out = {0};
	EngStatus	status = {0};
	EngTensorFile *file;
	EngTensorWriter *writer;
	size_t		data;
	int32_t		i;

	snprintf(path, sizeof(path), "%s/golden/detector/ops.safetensors",
			 shared != NULL ? shared : "../shared");
	if (!eng_file_read(path, (size_t) 1 << 30, &in, &status))
	{
		tap_skip("a recorded file", "no recorded files here");
		return;
	}
	file = eng_tensor_file_open(in.data, in.size, &status);
	writer = eng_tensor_writer_create(&status);
	for (i = 0; file != NULL && i < file->metadata_count; i++)
		eng_tensor_writer_metadata(writer, file->metadata[i].key,
								   file->metadata[i].value, &status);
	for (i = 0; file != NULL && i < file->count; i++)
		eng_tensor_writer_add(writer, &file->tensors[i], &status);
	eng_tensor_writer_finish(writer, &out, &status);
	for (data = 0, i = 0; file != NULL && i < file->count; i++)
		data += file->tensors[i].bytes;
	tap_ok(file != NULL && out.size == in.size &&
		   memcmp(out.data + out.size - data, in.data + in.size - data,
				  data) == 0,
		   "a file of the reference writer comes out in the same order");
	eng_tensor_writer_free(writer);
	eng_tensor_file_free(file);
	eng_buffer_free(&in);
	eng_buffer_free(&out);
}

int
main(void)
{
	test_accepted();
	test_json();
	test_fields();
	test_layout();
	test_lengths();
	test_round_trip();
	test_writer_refusals();
	test_writer_limits();
	test_place();
	test_floats();
	test_mutations();
	test_files();
	test_recorded();
	return tap_done();
}
