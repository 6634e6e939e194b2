/*
 * test/engine/archives.c
 *		Archives of PyTorch's: what is refused and why, and our own ones.
 */
#include "engine/io/crc32.h"
#include "engine/io/file.h"
#include "engine/io/pth.h"
#include "engine/io/zip.h"
#include "engine/io/zip_write.h"
#include "tap.h"

#define SEED_PATH	"test/data/state_zip.pth"

static EngBuffer seed;			/* an archive that is fine */

/* A copy of the seed to be spoilt; ends exactly at its last byte. */
static EngBuffer
copy_seed(void)
{
	EngBuffer	copy = {0};
	EngStatus	status = {0};

	eng_buffer_append(&copy, seed.data, seed.size, &status);
	return copy;
}

/* Where the directory has entry i, from 0. */
static uint8_t *
find_central(const EngBuffer *zip, int i)
{
	size_t		at;

	for (at = 0; at + 46 <= zip->size; at++)
		if (memcmp(zip->data + at, "PK\1\2", 4) == 0 && i-- == 0)
			return zip->data + at;
	return NULL;
}

static uint32_t
get32(const uint8_t *at)
{
	return at[0] | at[1] << 8 | at[2] << 16 | (uint32_t) at[3] << 24;
}

static void
put64(uint8_t *at, uint64_t value, int bytes)
{
	while (bytes-- > 0)
	{
		*at++ = (uint8_t) value;
		value >>= 8;
	}
}

/* The archive must be refused with these words; it is given back. */
static void
check_refused(const char *name, EngBuffer *zip, const char *words)
{
	EngBuffer	out = {0};
	EngStatus	status = {0};

	if (!tap_ok(!eng_pth_convert(zip->data, zip->size, &out, &status) &&
				strstr(status.message, words) != NULL, "refused: %s", name))
		tap_note("%s", status.message);
	eng_buffer_free(&out);
	eng_buffer_free(zip);
}

static void
check_taken(const char *name, EngBuffer *zip)
{
	EngBuffer	expected = {0};
	EngBuffer	out = {0};
	EngStatus	status = {0};

	eng_pth_convert(seed.data, seed.size, &expected, &status);
	if (!tap_ok(eng_pth_convert(zip->data, zip->size, &out, &status) &&
				out.size == expected.size &&
				memcmp(out.data, expected.data, out.size) == 0, "%s", name))
		tap_note("%s", status.message);
	eng_buffer_free(&expected);
	eng_buffer_free(&out);
	eng_buffer_free(zip);
}

static void
test_checksums(void)
{
	EngBuffer	zip = copy_seed();
	EngCrc32	crc;
	int			i;

	eng_crc32_prepare(&crc);
	tap_ok(eng_crc32(&crc, "123456789", 9) == 0xcbf43926 &&
		   eng_crc32(&crc, "", 0) == 0, "CRC-32 of the standard's text");
	zip.data[get32(find_central(&zip, 2) + 42) + 100] ^= 4;
	check_refused("a changed byte of a tensor", &zip,
				  "\"state/data/0\" is damaged: its CRC-32 is wrong");
	zip = copy_seed();
	find_central(&zip, 0)[16] ^= 1;
	check_refused("a changed checksum", &zip, "CRC-32");
	zip = copy_seed();
	for (i = 0; find_central(&zip, i) != NULL; i++)
		memset(find_central(&zip, i) + 16, 0, 4);
	check_taken("an archive without checksums", &zip);
}

static void
test_entries(void)
{
	EngBuffer	zip = copy_seed();

	find_central(&zip, 1)[8] |= 1;
	check_refused("an encrypted entry", &zip, "encrypted");
	zip = copy_seed();
	zip.data[get32(find_central(&zip, 3) + 42) + 6] |= 1;
	check_refused("an entry whose own header says encrypted", &zip,
				  "encrypted");
	zip = copy_seed();
	find_central(&zip, 2)[10] = 8;
	check_refused("a deflated entry", &zip, "compressed");
	zip = copy_seed();
	put64(find_central(&zip, 2) + 24, 0x7fffffff, 4);
	check_refused("an entry that unfolds into 2 GB", &zip, "compressed");
	zip = copy_seed();
	put64(find_central(&zip, 2) + 20, 0x7fffffff, 4);
	check_refused("an entry that is longer than the file", &zip,
				  "lies outside");
	zip = copy_seed();
	put64(find_central(&zip, 2) + 42, 0x7fffffff, 4);
	check_refused("an entry beyond the file", &zip, "lies outside");
	zip = copy_seed();
	put64(find_central(&zip, 2) + 42, get32(find_central(&zip, 1) + 42), 4);
	check_refused("an entry at another's place", &zip, "two names");
	zip = copy_seed();
	memcpy(find_central(&zip, 1) + 46, "state/../xxx/data", 5 + 4);
	check_refused("a way up", &zip, "\"..\"");
}

/* Every beginning of a file is refused; none is read beyond its end. */
static void
test_cut(const char *path)
{
	EngBuffer	file = {0};
	EngStatus	status = {0};
	size_t		size;
	int			taken = 0;

	eng_file_read(path, 1 << 20, &file, &status);
	for (size = 0; size < file.size; size++)
	{
		uint8_t    *exact = malloc(size + 1);
		EngBuffer	out = {0};

		memset(&status, 0, sizeof(status));
		memcpy(exact, file.data, size);
		taken += eng_pth_convert(exact, size, &out, &status) ||
			status.message[0] == '\0';
		eng_buffer_free(&out);
		free(exact);
	}
	tap_ok(file.size > 1000 && taken == 0, "%s cut at each of %zu bytes",
		   path, file.size);
	eng_buffer_free(&file);
}

typedef struct Part
{
	const char *name;
	const char *data;
	size_t		size;
} Part;

/* An archive of our own; parts end with one without a name. */
static EngBuffer
make_archive(const Part *parts)
{
	EngBuffer	out = {0};
	EngStatus	status = {0};
	EngZipWriter writer;

	eng_zip_begin(&writer, &out);
	for (; parts->name != NULL; parts++)
		eng_zip_add(&writer, parts->name, parts->data, parts->size, &status);
	eng_zip_finish(&writer, &status);
	eng_zip_end(&writer);
	return out;
}

#define TENSOR	"\x80\2}U\1actorch._utils\n_rebuild_tensor_v2\n((U\7storage" \
	"ctorch\nFloatStorage\nU\1" "0U\3cpuK\2tQK\0K\2\x85K\1\x85\x89}tRs."
#define TEXT(text)	text, sizeof(text) - 1

static void
test_contents(void)
{
	static const Part fine[] = {
		{"x/data.pkl", TEXT(TENSOR)}, {"x/data/0", TEXT("\0\0\x80?\0\0\0@")},
		{NULL}
	};
	static const Part script[] = {
		{"x/data.pkl", TEXT(TENSOR)}, {"x/code/a.py", TEXT("")}, {NULL}
	};
	static const Part constants[] = {
		{"x/data.pkl", TEXT(TENSOR)}, {"x/constants.pkl", TEXT("")}, {NULL}
	};
	static const Part two[] = {
		{"x/data.pkl", TEXT(TENSOR)}, {"y/data.pkl", TEXT(TENSOR)}, {NULL}
	};
	static const Part none[] = {{"x/data/0", TEXT("")}, {NULL}};
	static const Part twice[] = {
		{"x/data.pkl", TEXT(TENSOR)}, {"x/data.pkl", TEXT(TENSOR)}, {NULL}
	};
	static const Part lacking[] = {{"x/data.pkl", TEXT(TENSOR)}, {NULL}};
	static const Part small[] = {
		{"x/data.pkl", TEXT(TENSOR)}, {"x/data/0", TEXT("1234567")}, {NULL}
	};
	static const Part big_endian[] = {
		{"x/data.pkl", TEXT(TENSOR)}, {"x/byteorder", TEXT("big")}, {NULL}
	};
	static const Part evil[] = {
		{"x/data.pkl", TEXT("\x80\2cposix\nsystem\nU\2id\x85R.")}, {NULL}
	};
	static const Part number[] = {{"x/data.pkl", TEXT("\x80\2K\1.")}, {NULL}};
	static const Part *const lists[] = {
		script, constants, two, none, twice, lacking, small, big_endian,
		evil, number
	};
	static const char *const words[] = {
		"TorchScript", "TorchScript", "several pickles", "no data.pkl",
		"appears twice", "is missing", "another size", "little-endian",
		"names \"posix system\"", "no state dict"
	};
	EngBuffer	zip = make_archive(fine);
	EngBuffer	out = {0};
	EngStatus	status = {0};
	size_t		i;

	tap_ok(eng_pth_convert(zip.data, zip.size, &out, &status),
		   "an archive of two entries %s", status.message);
	eng_buffer_free(&out);
	eng_buffer_free(&zip);
	for (i = 0; i < sizeof(lists) / sizeof(*lists); i++)
	{
		zip = make_archive(lists[i]);
		check_refused(words[i], &zip, words[i]);
	}
}

/* An entry inside another's data: how small files unfold into large ones. */
static void
test_overlap(void)
{
	Part		inner[] = {{"b", TEXT("bytes")}, {NULL}};
	EngBuffer	alone = make_archive(inner);
	Part		outer[] = {
		{"a", (const char *) alone.data, 64 + 5}, {"b", TEXT("bytes")}, {NULL}
	};
	EngBuffer	zip = make_archive(outer);

	put64(find_central(&zip, 1) + 42, 64, 4);
	check_refused("an entry inside another", &zip, "entries overlap");
	eng_buffer_free(&alone);
}

/* The seed again, its sizes and offsets in zip64's fields. */
static EngBuffer
make_zip64(void)
{
	EngBuffer	out = {0};
	EngStatus	status = {0};
	size_t		end = seed.size - 22;
	size_t		start = get32(seed.data + end + 16);
	uint8_t		record[56 + 20] = "PK\6\6";
	const uint8_t *at = seed.data + start;
	int			count = 0;

	eng_buffer_append(&out, seed.data, start, &status);
	for (; at < seed.data + end; count++)
	{
		size_t		name = at[28] | at[29] << 8;
		size_t		rest = (at[30] | at[31] << 8) + (at[32] | at[33] << 8);
		uint8_t		entry[46];
		uint8_t		extra[28] = {1, 0, 24, 0};

		memcpy(entry, at, 46);
		put64(extra + 4, get32(at + 24), 8);
		put64(extra + 12, get32(at + 20), 8);
		put64(extra + 20, get32(at + 42), 8);
		memset(entry + 20, 0xff, 8);
		memset(entry + 42, 0xff, 4);
		put64(entry + 30, sizeof(extra), 2);
		put64(entry + 32, 0, 2);
		eng_buffer_append(&out, entry, 46, &status);
		eng_buffer_append(&out, at + 46, name, &status);
		eng_buffer_append(&out, extra, sizeof(extra), &status);
		at += 46 + name + rest;
	}
	put64(record + 32, count, 8);
	put64(record + 40, out.size - start, 8);
	put64(record + 48, start, 8);
	memcpy(record + 56, "PK\6\7", 4);
	put64(record + 56 + 8, out.size, 8);
	eng_buffer_append(&out, record, sizeof(record), &status);
	eng_buffer_append(&out, seed.data + end, 22, &status);
	memset(out.data + out.size - 14, 0xff, 12);
	return out;
}

static void
test_zip64(void)
{
	EngBuffer	zip = make_zip64();
	size_t		record = zip.size - 22 - 20 - 56;

	check_taken("an archive with zip64 sizes", &zip);
	zip = make_zip64();
	put64(zip.data + record + 48, UINT64_MAX - 5, 8);
	check_refused("a directory beyond 64 bits", &zip, "directory lies outside");
	zip = make_zip64();
	put64(zip.data + record + 32, UINT64_MAX, 8);
	check_refused("more entries than bytes", &zip, "too many entries");
	zip = make_zip64();
	put64(find_central(&zip, 1) + 46 + 15 + 4 + 16, UINT64_MAX - 40, 8);
	check_refused("an entry beyond 64 bits", &zip, "lies outside");
}

/* Tensors of every type that torch has come back with their metadata. */
static void
test_writer(void)
{
	static const EngFileDtype types[] = {
		ENG_FILE_F32, ENG_FILE_F64, ENG_FILE_F16, ENG_FILE_BF16, ENG_FILE_I64,
		ENG_FILE_I32, ENG_FILE_I16, ENG_FILE_I8, ENG_FILE_U8, ENG_FILE_BOOL
	};
	static const uint8_t data[8 * 70000];
	EngTensorWriter *writer;
	EngBuffer	first = {0};
	EngBuffer	pth = {0};
	EngBuffer	last = {0};
	EngStatus	status = {0};
	EngTensorFile *file;
	int			i;

	writer = eng_tensor_writer_create(&status);
	eng_tensor_writer_metadata(writer, "format", "pt", &status);
	eng_tensor_writer_metadata(writer, "a text", "\"\xc3\xa9\\\n", &status);
	for (i = 0; i < 10; i++)
	{
		EngFileTensor tensor = {.dtype = types[i], .rank = i % 4,
			.shape = {i == 5 ? 0 : 3, i == 2 ? 70000 / 3 : 1, 300},
			.data = data};

		tensor.name = eng_file_dtype_name(types[i]);
		eng_tensor_writer_add(writer, &tensor, &status);
	}
	eng_tensor_writer_finish(writer, &first, &status);
	eng_tensor_writer_free(writer);
	file = eng_tensor_file_open(first.data, first.size, &status);
	tap_ok(file != NULL && eng_pth_write(file, &pth, &status) &&
		   eng_pth_recognise(pth.data, pth.size) &&
		   eng_pth_convert(pth.data, pth.size, &last, &status) &&
		   last.size == first.size &&
		   memcmp(first.data, last.data, last.size) == 0,
		   "out as PyTorch's form and back %s", status.message);
	eng_tensor_file_free(file);
	eng_buffer_free(&first);
	eng_buffer_free(&pth);
	eng_buffer_free(&last);
}

static void
test_recognise(void)
{
	static const uint8_t headers[][9] = {
		"\x80\2\0\0\0\0\0\0{", "PK\3\4\0\0\0\0{", "\x80\2\x8a\x0al\xfc\x9c""F\xf9",
		"PK\3\4\0\0\0\0\0", "\x80\4\x95\1\2\3\4\5\6"
	};
	EngBuffer	tar = {0};
	EngStatus	status = {0};
	int			i;

	for (i = 0; i < 5; i++)
		tap_ok(eng_pth_recognise(headers[i], 9) == (i >= 2),
			   "the start of a %s file", i >= 2 ? "PyTorch" : "safetensors");
	eng_buffer_reserve(&tar, 1024, &status);
	memset(tar.data, 'x', 1024);
	memcpy(tar.data + 257, "ustar", 5);
	tar.size = 1024;
	check_refused("a tar archive", &tar, "tar archives");
}

int
main(void)
{
	EngStatus	status = {0};

	if (!eng_file_read(SEED_PATH, 1 << 20, &seed, &status))
	{
		printf("Bail out! %s\n", status.message);
		return 1;
	}
	test_checksums();
	test_entries();
	test_cut(SEED_PATH);
	test_cut("test/data/state_stream.pth");
	test_contents();
	test_overlap();
	test_zip64();
	test_writer();
	test_recognise();
	eng_buffer_free(&seed);
	return tap_done();
}
