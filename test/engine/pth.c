/*
 * test/engine/pth.c
 *		PyTorch's files: both containers, refusals, mutated files.
 *
 * test/data/state_{zip,stream}.pth hold one state dict, pickled by CPython
 * with stand-ins for torch's classes: a plain tensor of 0.5, 1.5 ... (3, 4),
 * its transpose and a slice of it (views of the same storage), a counter, a
 * half, a channels-last tensor, an empty one and a parameter.  The stream is
 * a training checkpoint whose state dict stands under "model".
 */
#include "engine/core/random.h"
#include "engine/io/file.h"
#include "engine/io/pickle.h"
#include "engine/io/pth.h"
#include "tap.h"

#define MUTATIONS	30000		/* of each file */

static const char *const paths[] = {
	"test/data/state_zip.pth", "test/data/state_stream.pth"
};

static bool
is_floats(const EngTensorFile *file, const char *name,
		  const float *expected, int64_t count)
{
	const EngFileTensor *tensor = eng_tensor_file_find(file, name);

	return tensor != NULL && tensor->dtype == ENG_FILE_F32 &&
		tensor->count == count &&
		memcmp(tensor->data, expected, sizeof(float) * count) == 0;
}

static void
test_values(const char *path)
{
	static const float transposed[] = {
		0.5, 4.5, 8.5, 1.5, 5.5, 9.5, 2.5, 6.5, 10.5, 3.5, 7.5, 11.5
	};
	static const float slice[] = {5.5, 7.5, 9.5, 11.5};
	static const float parameter[] = {4.5, 5.5, 6.5, 7.5};
	float		plain[12];
	float		last[24];
	EngBuffer	in = {0};
	EngBuffer	out = {0};
	EngStatus	status = {0};
	EngTensorFile *file = NULL;
	const EngFileTensor *counter;
	int			i;

	for (i = 0; i < 12; i++)
		plain[i] = i + 0.5f;
	for (i = 0; i < 24; i++)
		last[i] = (float) (i % 8 * 3 + i / 8);
	if (eng_file_read(path, 1 << 20, &in, &status) &&
		eng_pth_convert(in.data, in.size, &out, &status))
		file = eng_tensor_file_open(out.data, out.size, &status);
	if (!tap_ok(file != NULL && file->count == 8, "%s is read", path))
	{
		tap_note("%s", status.message);
		return;
	}
	counter = eng_tensor_file_find(file, "bn.num_batches_tracked");
	tap_ok(counter != NULL && counter->dtype == ENG_FILE_I64 &&
		   counter->rank == 0 &&
		   *(const int64_t *) counter->data == INT64_C(1234567890123),
		   "a counter");
	tap_ok(is_floats(file, "conv.weight", plain, 12), "a plain tensor");
	tap_ok(is_floats(file, "conv.transposed", transposed, 12),
		   "a transposed view");
	tap_ok(is_floats(file, "conv.slice", slice, 4), "a slice");
	tap_ok(is_floats(file, "last", last, 24), "channels last");
	tap_ok(is_floats(file, "parameter", parameter, 4), "a parameter");
	tap_ok(is_floats(file, "empty", plain, 0), "an empty tensor");
	tap_ok(eng_tensor_file_find(file, "half")->dtype == ENG_FILE_F16,
		   "a tensor of halves");
	eng_tensor_file_free(file);
	eng_buffer_free(&in);
	eng_buffer_free(&out);
}

/* A pickle of these bytes must fail with these words. */
static void
check_refused(const char *name, const char *bytes, size_t size,
			  const char *words)
{
	EngStatus	status = {0};
	EngPickle  *pickle = eng_pickle_create(&status);
	uint8_t    *copy = malloc(size);
	const uint8_t *at = copy;

	memcpy(copy, bytes, size);
	if (!tap_ok(eng_pickle_read(pickle, &at, copy + size, &status) == NULL &&
				strstr(status.message, words) != NULL, "refused: %s", name))
		tap_note("%s", status.message);
	eng_pickle_free(pickle);
	free(copy);
}

#define REFUSED(NAME, BYTES, WORDS) \
	check_refused(NAME, BYTES, sizeof(BYTES) - 1, WORDS)

#define TENSOR	"ctorch._utils\n_rebuild_tensor_v2\n"
#define STORAGE	"(U\7storagectorch\nFloatStorage\nU\1" "0U\3cpuK\4tQ"

static void
test_machine(void)
{
	REFUSED("no bytes", "\x80", "cut off");
	REFUSED("no end", "\x80\2", "cut off");
	REFUSED("nothing made", "\x80\2.", "stack is empty");
	REFUSED("values left over", "\x80\2NN.", "left over");
	REFUSED("protocol 4", "\x80\4N.", "protocol 4");
	REFUSED("a whole model", "ctorchvision.models.detection.faster_rcnn\nFasterRCNN\n)R.",
			"save model.state_dict()");
	REFUSED("a tensor of float8", "ctorch._utils\n_rebuild_tensor_v3\n)R.",
			"float8");
	REFUSED("a quantized tensor", "ctorch._utils\n_rebuild_qtensor\n)R.",
			"quantized");
	REFUSED("a system call", "cos\nsystem\nU\4true\x85R.", "names \"os system\"");
	REFUSED("a builtin", "c__builtin__\neval\n.", "names \"__builtin__ eval\"");
	REFUSED("a name that is cut off", "ctorch\nSi", "cut off");
	REFUSED("a stack global", "\x80\2U\2osU\6system\x93.", "0x93 at byte");
	REFUSED("an instance", "(ios\nsystem\n.", "0x69 at byte");
	REFUSED("an object", "(ctorch\nSize\no.", "0x6f at byte");
	REFUSED("an extension", "\x82\1.", "0x82 at byte");
	REFUSED("a new object", "ctorch\nSize\n)\x81.", "a new object");
	REFUSED("a new object of texts", "cargparse\nNamespace\nU\1a\x85\x81.",
			"an object");
	REFUSED("attributes of an object that are no dict",
			"cargparse\nNamespace\n)\x81]b.", "no dict");
	REFUSED("a textual persistent id", "P1\n.", "0x50 at byte");
	REFUSED("a call of a number", "K\1)R.", "no function");
	REFUSED("a call without a tuple", "ctorch\nSize\nK\1R.", "no function");
	REFUSED("a call of a storage class", "ctorch\nFloatStorage\n)R.", "a storage");
	REFUSED("a call of nothing", "R.", "stack is empty");
	REFUSED("a memo that is not there", "h\1.", "memo");
	REFUSED("a memo of nothing", "q\1.", "stack is empty");
	REFUSED("a memo too far out", "Nr\xff\xff\xff\xff.", "memo is too large");
	REFUSED("a tuple without a mark", "Nt.", "mark is missing");
	REFUSED("a tuple of too little", "N\x86.", "stack is empty");
	REFUSED("a mark in a tuple", "((N\x86.", "mark inside");
	REFUSED("an item for a tuple", ")Na.", "no list or dict");
	REFUSED("an item for a dict", "}Na.", "no list or dict");
	REFUSED("a pair for a list", "]NNs.", "no list or dict");
	REFUSED("half a pair", "}(Nu.", "without a value");
	REFUSED("pairs for nothing", "(NNu.", "stack is empty");
	REFUSED("a mark as a result", "(.", "stack is empty");
	REFUSED("attributes of a list", "]}b.", "no dict");
	REFUSED("attributes that are a list", "}]b.", "no dict");
	REFUSED("a long string", "X\xff\xff\xff\xff.", "too long");
	REFUSED("a cut string", "U\5ab.", "cut off");
	REFUSED("a zero byte in a string", "U\3a\0b.", "zero byte");
	REFUSED("a cut integer", "J\1\2.", "cut off");
	REFUSED("a persistent id of a number", "K\1Q.", "persistent id");
	REFUSED("a persistent id of another kind", "(U\6moduleNNNNtQ.", "persistent id");
	REFUSED("a persistent id of another class",
			"(U\7storagectorch\nSize\nU\1" "0U\3cpuK\4tQ.", "persistent id");
	REFUSED("a negative storage",
			"(U\7storagectorch\nFloatStorage\nU\1" "0U\3cpuJ\xff\xff\xff\xfftQ.",
			"persistent id");
}

static void
test_tensors(void)
{
	REFUSED("a tensor of nothing", TENSOR ")R.", "a tensor");
	REFUSED("a tensor of numbers", TENSOR "(NNNNNNtR.", "a tensor");
	REFUSED("a negative offset",
			TENSOR "(" STORAGE "J\xff\xff\xff\xff))\x89}tR.", "a tensor");
	REFUSED("a size that is no number",
			TENSOR "(" STORAGE "K\0N\x85K\1\x85\x89}tR.", "size or stride");
	REFUSED("a negative stride",
			TENSOR "(" STORAGE "K\0K\2\x85J\xff\xff\xff\xff\x85\x89}tR.", "size or stride");
	REFUSED("more sizes than strides",
			TENSOR "(" STORAGE "K\0K\2K\2\x86K\1\x85\x89}tR.", "size or stride");
	REFUSED("hooks", TENSOR "(" STORAGE "K\0))\x89}NNstR.", "a tensor");
	REFUSED("a tensor beyond its storage",
			TENSOR "(" STORAGE "K\1K\4\x85K\1\x85\x89}tR.", "beyond its storage");
	REFUSED("an offset beyond the storage",
			TENSOR "(" STORAGE "K\4))\x89}tR.", "beyond its storage");
	REFUSED("strides that overflow",
			TENSOR "(" STORAGE "K\0K\3\x85\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85\x89}tR.",
			"too far");
	REFUSED("sizes that overflow",
			TENSOR "(" STORAGE "K\0"
			"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x86"
			"K\0K\0\x86\x89}tR.", "too many elements");
	REFUSED("a parameter of a number",
			"ctorch._utils\n_rebuild_parameter\nK\1\x88}\x87R.", "a parameter");
	REFUSED("an ordered dict of a number",
			"ccollections\nOrderedDict\nK\1\x85R.", "OrderedDict");
	REFUSED("an ordered dict of one item",
			"ccollections\nOrderedDict\n]N\x85" "a\x85R.", "OrderedDict");
}

/*
 * A list that is copied again and again: few bytes, much memory, if nobody
 * counted.
 */
static void
test_bomb(void)
{
	EngBuffer	bytes = {0};
	EngStatus	status = {0};
	int			i;

	eng_buffer_append(&bytes, "](", 2, &status);
	for (i = 0; i < 20000; i++)
		eng_buffer_append(&bytes, "]K\1aNa", 6, &status);
	eng_buffer_append(&bytes, "eq\0", 3, &status);
	for (i = 0; i < 200000; i++)
		eng_buffer_append(&bytes, "ccollections\nOrderedDict\nh\0\x85R", 29,
						  &status);
	check_refused("a bomb of copies", (char *) bytes.data, bytes.size,
				  "too many values");
	bytes.size = 0;
	for (i = 0; i < 3000000; i++)
		eng_buffer_append(&bytes, "(", 1, &status);
	check_refused("a bomb of marks", (char *) bytes.data, bytes.size, "too");
	bytes.size = 0;
	eng_buffer_append(&bytes, "(", 1, &status);
	for (i = 0; i < 3000000; i++)
		eng_buffer_append(&bytes, "N\x85", 2, &status);
	check_refused("a bomb of tuples", (char *) bytes.data, bytes.size, "too");
	eng_buffer_free(&bytes);
}

/* Change a few bytes, cut or repeat; returns the new size. */
static size_t
mutate(uint8_t *bytes, size_t size, uint64_t round)
{
	static const char codes[] = "().0]}NRabcehjqrstuKMJUXQG\x80\x85\x86\x87\x88\x89\x8a\xff";
	uint64_t	counter = 0;
#define DRAW(n) (eng_random_u64(9, round, 0, ENG_USE_TEST, counter++) % (n))
	int			changes = 1 + (int) DRAW(3);

	while (changes-- > 0 && size > 8)
	{
		size_t		at = DRAW(size);
		size_t		from = DRAW(size);
		size_t		length = DRAW(9);

		if (length > size - (at > from ? at : from))
			length = 0;
		switch (DRAW(6))
		{
			case 0:
				bytes[at] ^= (uint8_t) (1u << DRAW(8));
				break;
			case 1:
				bytes[at] = (uint8_t) codes[DRAW(sizeof(codes) - 1)];
				break;
			case 2:
				bytes[at] = (uint8_t) DRAW(256);
				break;
			case 3:
				memset(bytes + at, DRAW(2) ? 0xff : 0, length);
				break;
			case 4:
				memmove(bytes + at, bytes + from, length);
				break;
			default:
				if (DRAW(4) == 0)
					size = 1 + DRAW(size);
		}
	}
#undef DRAW
	return size;
}

static void
test_mutations(const char *path)
{
	EngBuffer	in = {0};
	EngStatus	status = {0};
	int			accepted = 0;
	int			wrong = 0;
	uint64_t	round;

	if (!eng_file_read(path, 1 << 20, &in, &status))
		return;
	for (round = 0; round < MUTATIONS; round++)
	{
		uint8_t    *bytes = malloc(in.size + 16);
		EngBuffer	out = {0};
		uint8_t    *exact;
		size_t		size;

		memcpy(bytes, in.data, in.size);
		size = mutate(bytes, in.size, round);
		exact = malloc(size);
		memcpy(exact, bytes, size);
		memset(&status, 0, sizeof(status));
		if (eng_pth_convert(exact, size, &out, &status))
		{
			EngTensorFile *file = eng_tensor_file_open(out.data, out.size,
													   &status);

			accepted++;
			/* a name may have become one that is no UTF-8 */
			wrong += file == NULL &&
				strstr(status.message, "UTF-8") == NULL;
			eng_tensor_file_free(file);
		}
		else
			wrong += status.code == ENG_OK || status.code == ENG_INTERNAL ||
				status.message[0] == '\0';
		eng_buffer_free(&out);
		free(exact);
		free(bytes);
	}
	tap_ok(wrong == 0 && accepted > 0 && accepted < MUTATIONS,
		   "%d mutations of %s: %d accepted, the rest refused", MUTATIONS,
		   path, accepted);
	eng_buffer_free(&in);
}

static void
test_containers(void)
{
	EngBuffer	out = {0};
	EngStatus	status = {0};

	tap_ok(!eng_pth_recognise((const uint8_t *) "{}", 2) &&
		   !eng_pth_convert((const uint8_t *) "12345678", 8, &out,
							&status), "another file is not PyTorch's");
	memset(&status, 0, sizeof(status));
	tap_ok(!eng_pth_convert((const uint8_t *) "PK\3\4", 4, &out, &status),
		   "a zip archive of four bytes");
	memset(&status, 0, sizeof(status));
	tap_ok(!eng_pth_convert((const uint8_t *) "\x80\x02\x8a\x0a", 4, &out,
							&status), "a stream of four bytes");
	eng_buffer_free(&out);
}

int
main(void)
{
	test_values(paths[0]);
	test_values(paths[1]);
	test_machine();
	test_tensors();
	test_bomb();
	test_containers();
	test_mutations(paths[0]);
	test_mutations(paths[1]);
	return tap_done();
}
