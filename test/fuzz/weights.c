/*
 * test/fuzz/weights.c
 *		The readers of weight files over files that are nearly right.
 *
 * Seeds are both of PyTorch's forms and a safetensors file.  Checksums would
 * keep most changed archives from being looked into, so some have none, and
 * of some only the pickle is changed and put into a sound archive again.
 * What is taken must be a whole safetensors file that goes out as PyTorch's
 * form and comes back with the same bytes.  The bytes end where a page
 * without access begins, so reading one too many ends the program even
 * without a sanitizer.
 */
#include <stdbool.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/io/file.h"
#include "engine/io/pth.h"
#include "engine/io/zip.h"
#include "engine/io/zip_write.h"
#include "mutate.h"

#define SEED(text) {text, sizeof(text) - 1}
#define PICKLE	"state/data.pkl"	/* where the archive of the seeds has it */

typedef enum Kind
{
	KIND_ZIP,
	KIND_UNSUMMED,				/* an archive without checksums */
	KIND_STREAM,
	KIND_PICKLE,				/* changed inside a sound archive */
	KIND_SAFETENSORS,
	KINDS
} Kind;

static const char *const kind_names[KINDS] = {
	"archive", "archive without checksums", "stream", "pickle", "safetensors"
};

static const Token tokens[] = {
	SEED("("), SEED(")"), SEED("."), SEED("}"), SEED("]"), SEED("N"),
	SEED("R"), SEED("b"), SEED("Q"), SEED("t"), SEED("u"), SEED("s"),
	SEED("e"), SEED("a"), SEED("h\0"), SEED("q\0"), SEED("\x81"),
	SEED("\x85"), SEED("\x86"), SEED("\x87"), SEED("\x88"), SEED("\x89"),
	SEED("K\0"), SEED("K\1"), SEED("K\2"), SEED("J\xff\xff\xff\x7f"),
	SEED("\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f"),
	SEED("\x8a\x01\xff"), SEED("X\1\0\0\0a"), SEED("U\1" "0"),
	SEED("ctorch\nFloatStorage\n"), SEED("ctorch\nHalfStorage\n"),
	SEED("ctorch\nLongStorage\n"), SEED("ctorch\nSize\n"),
	SEED("ctorch._utils\n_rebuild_tensor_v2\n"),
	SEED("ctorch._utils\n_rebuild_parameter\n"),
	SEED("ccollections\nOrderedDict\n)R"), SEED("ccollections\nCounter\n"),
	SEED("cargparse\nNamespace\n)\x81}b"), SEED("cos\nsystem\n"),
	SEED("PK\1\2"), SEED("PK\3\4"), SEED("PK\5\6"), SEED("PK\6\6"),
	SEED("PK\6\7"), SEED("\1\0\x18\0"), SEED("\xff\xff\xff\xff"),
	SEED("\xff\xff"), SEED("\0\0\0\0"), SEED("\0\0"), SEED("\x80\x02"),
	SEED("\""), SEED("\"F32\""), SEED("\"I64\""), SEED("\"F4\""), SEED(","),
	SEED("9223372036854775807"), SEED("18446744073709551615"), SEED("0"),
	SEED("\"shape\":"), SEED("\"data_offsets\":[0,0]"), SEED("\\ud800"),
	SEED("\"__metadata__\":{"), SEED("{"), SEED("\xc3"), SEED("[")
};

static EngBuffer files[KINDS];	/* the seeds; of KIND_PICKLE the pickle */
static EngZip *sound;			/* over files[KIND_ZIP] */
static unsigned char *memory;	/* ends before a page without access */
static size_t room;

/* Give a zip archive's entries no checksums. */
static void
drop_checksums(EngBuffer *zip)
{
	size_t		i;

	for (i = 0; i + 46 <= zip->size; i++)
		if (memcmp(zip->data + i, "PK\1\2", 4) == 0)
			memset(zip->data + i + 16, 0, 4);
}

/* Read the seeds; false if one of them is not taken as it is. */
static bool
read_seeds(EngStatus *status)
{
	const EngZipEntry *pickle;

	if (!eng_file_read("test/data/state_zip.pth", MAX_INPUT / 2,
					   &files[KIND_ZIP], status) ||
		!eng_file_read("test/data/state_stream.pth", MAX_INPUT / 2,
					   &files[KIND_STREAM], status) ||
		!eng_buffer_append(&files[KIND_UNSUMMED], files[KIND_ZIP].data,
						   files[KIND_ZIP].size, status))
		return false;
	drop_checksums(&files[KIND_UNSUMMED]);
	sound = eng_zip_open(files[KIND_ZIP].data, files[KIND_ZIP].size, status);
	pickle = sound == NULL ? NULL : eng_zip_find(sound, PICKLE);
	return pickle != NULL &&
		eng_buffer_append(&files[KIND_PICKLE], pickle->data, pickle->size,
						  status) &&
		eng_pth_convert(files[KIND_STREAM].data, files[KIND_STREAM].size,
						&files[KIND_SAFETENSORS], status);
}

/* The archive of the seeds with another pickle. */
static bool
wrap_pickle(const Input *input, EngBuffer *out, EngStatus *status)
{
	EngZipWriter writer;
	bool		fine = true;
	int32_t		i;

	eng_zip_begin(&writer, out);
	for (i = 0; fine && i < sound->count; i++)
	{
		const EngZipEntry *entry = &sound->entries[i];
		bool		is_pickle = strcmp(entry->name, PICKLE) == 0;

		fine = eng_zip_add(&writer, entry->name,
						   is_pickle ? input->bytes : entry->data,
						   is_pickle ? input->len : entry->size, status);
	}
	fine = fine && eng_zip_finish(&writer, status);
	eng_zip_end(&writer);
	return fine;
}

/*
 * Out as PyTorch's form and back: the same bytes.  Types that torch has no
 * storage for are refused on the way out, never on the way back.
 */
static bool
comes_back(const EngTensorFile *file, const EngBuffer *bytes,
		   EngStatus *status)
{
	EngBuffer	pth = {0};
	EngBuffer	back = {0};
	bool		same;

	if (eng_pth_write(file, &pth, status))
		same = eng_pth_convert(pth.data, pth.size, &back, status) &&
			back.size == bytes->size &&
			memcmp(back.data, bytes->data, back.size) == 0;
	else
		same = status->code == ENG_UNSUPPORTED;
	eng_buffer_free(&pth);
	eng_buffer_free(&back);
	return same;
}

/* Every tensor's elements can be read. */
static bool
read_tensors(const EngTensorFile *file)
{
	bool		fine = true;
	int32_t		i;

	for (i = 0; fine && i < file->count; i++)
	{
		EngStatus	status = {ENG_OK, ""};
		float	   *floats = malloc(sizeof(float) *
									(file->tensors[i].count + 1));

		if (!eng_file_tensor_floats(&file->tensors[i], floats, &status))
			fine = status.code == ENG_UNSUPPORTED;
		free(floats);
	}
	return fine;
}

/* Read one file as an import does; *taken tells whether it was accepted. */
static bool
try_file(const uint8_t *bytes, size_t size, bool *taken, EngStatus *status)
{
	EngBuffer	converted = {0};
	EngTensorFile *file = NULL;
	bool		is_pth = eng_pth_recognise(bytes, size);
	bool		fine = true;

	if (!is_pth)
		file = eng_tensor_file_open(bytes, size, status);
	else if (eng_pth_convert(bytes, size, &converted, status))
		file = eng_tensor_file_open(converted.data, converted.size, status);
	*taken = file != NULL;
	if (file != NULL)
		fine = read_tensors(file) &&
			(!is_pth || comes_back(file, &converted, status));
	else
		fine = status->code != ENG_OK && status->code != ENG_INTERNAL &&
			status->message[0] != '\0';
	eng_tensor_file_free(file);
	eng_buffer_free(&converted);
	return fine;
}

/* One changed file of a kind. */
static bool
try_input(Input *input, Kind kind, bool *taken, EngStatus *status)
{
	Token		seed = {(const char *) files[kind].data, files[kind].size};
	EngBuffer	wrapped = {0};
	const uint8_t *bytes = input->bytes;
	size_t		size;
	bool		fine;

	make_input(input, &seed, 1, tokens, sizeof(tokens) / sizeof(*tokens));
	size = input->len;
	if (kind == KIND_PICKLE)
	{
		if (!wrap_pickle(input, &wrapped, status))
			return false;
		bytes = wrapped.data;
		size = wrapped.size;
	}
	memcpy(memory + room - size, bytes, size);
	fine = try_file(memory + room - size, size, taken, status);
	eng_buffer_free(&wrapped);
	return fine;
}

int
main(void)
{
	static Input input;
	long		count = setting("AVC_FUZZ", 50000);
	long		first = setting("AVC_SEED", 1);
	size_t		page = sysconf(_SC_PAGESIZE);
	long		taken[KINDS] = {0};
	EngStatus	status = {ENG_OK, ""};
	long		i;
	int			kind;

	room = (2 * MAX_INPUT + page - 1) / page * page;
	memory = mmap(NULL, room + page, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED || mprotect(memory + room, page, PROT_NONE) != 0)
		return 1;
	printf("1..%d\n", KINDS);
	if (!read_seeds(&status))
	{
		printf("Bail out! %s\n", status.message);
		return 1;
	}
	for (i = 0; i < count; i++)
	{
		bool		was_taken = false;

		memset(&status, 0, sizeof(status));
		random_state = first + i;
		kind = (first + i) % KINDS;
		if (!try_input(&input, kind, &was_taken, &status))
		{
			printf("not ok 1 - %s, seed %ld: %s\n", kind_names[kind],
				   first + i, status.message);
			return 1;
		}
		taken[kind] += was_taken;
	}
	for (kind = 0; kind < KINDS; kind++)
		printf("%s %d - %s: of %ld inputs, %ld taken\n",
			   taken[kind] > 0 && taken[kind] < count / KINDS ? "ok" : "not ok",
			   kind + 1, kind_names[kind], count / KINDS, taken[kind]);
	return 0;
}
