/*
 * test/engine/pth_limits.c
 *		What is written in PyTorch's form is read again, up to the last byte
 *		that the reader takes; what it would not take is refused at writing.
 */
#include "engine/io/pickle.h"
#include "engine/io/pth.h"
#include "tap.h"

#define MIB		((size_t) 1 << 20)

/* A file being put together, whose texts are generated. */
typedef struct Content
{
	int			tensors;		/* without elements, of 8 dimensions */
	int			texts;			/* of text_size bytes each */
	size_t		text_size;
	const char *name;			/* of one tensor more, or NULL */
	int64_t		shape[2];		/* of that tensor */
} Content;

static char *
repeat(size_t size)
{
	char	   *text = malloc(size + 1);

	memset(text, 'x', size);
	text[size] = '\0';
	return text;
}

/* The content as a safetensors file. */
static EngBuffer
make(const Content *content)
{
	EngStatus	status = {ENG_OK, ""};
	EngTensorWriter *writer = eng_tensor_writer_create(&status);
	char	   *text = repeat(content->text_size);
	EngBuffer	out = {0};
	char		name[32];
	int			i;

	eng_tensor_writer_metadata(writer, "format", "pt", &status);
	for (i = 1; i < content->texts; i++)
	{
		snprintf(name, sizeof(name), "key %d", i);
		eng_tensor_writer_metadata(writer, name, text, &status);
	}
	for (i = 0; i < content->tensors; i++)
	{
		EngFileTensor tensor = {.name = name, .dtype = ENG_FILE_F32,
			.rank = ENG_FILE_MAX_RANK
		};

		snprintf(name, sizeof(name), "t%d", i);
		eng_tensor_writer_add(writer, &tensor, &status);
	}
	if (content->name != NULL)
	{
		EngFileTensor tensor = {.name = content->name,
			.dtype = ENG_FILE_F32, .rank = 3,
			.shape = {0, content->shape[0], content->shape[1]}
		};

		eng_tensor_writer_add(writer, &tensor, &status);
	}
	if (!eng_tensor_writer_finish(writer, &out, &status))
		tap_note("%s", status.message);
	eng_tensor_writer_free(writer);
	free(text);
	return out;
}

/*
 * With pattern NULL the content goes out and comes back with the same bytes;
 * else it is refused at writing with words that hold pattern.
 */
static void
check(const char *what, const Content *content, const char *pattern)
{
	EngStatus	status = {ENG_OK, ""};
	EngBuffer	plain = make(content);
	EngTensorFile *file = eng_tensor_file_open(plain.data, plain.size,
											   &status);
	EngBuffer	pth = {0};
	EngBuffer	back = {0};
	bool		fine;

	fine = file != NULL && eng_pth_write(file, &pth, &status);
	if (pattern != NULL)
		fine = file != NULL && !fine && status.code == ENG_UNSUPPORTED &&
			strstr(status.message, pattern) != NULL;
	else
		fine = fine &&
			eng_pth_convert(pth.data, pth.size, &back, &status) &&
			back.size == plain.size &&
			memcmp(back.data, plain.data, plain.size) == 0;
	if (!tap_ok(fine, "%s %s", what, pattern != NULL ? "is refused" :
				"comes back"))
		tap_note("%s", status.message);
	eng_tensor_file_free(file);
	eng_buffer_free(&plain);
	eng_buffer_free(&pth);
	eng_buffer_free(&back);
}

static void
test_texts(void)
{
	char	   *most = repeat(ENG_PICKLE_MAX_TEXT);
	char	   *more = repeat(ENG_PICKLE_MAX_TEXT + 1);

	check("a text of 1 MiB",
		  &(Content) {.texts = 2, .text_size = ENG_PICKLE_MAX_TEXT}, NULL);
	check("a text of a byte more",
		  &(Content) {.texts = 2, .text_size = ENG_PICKLE_MAX_TEXT + 1},
		  "of 1048577 bytes is longer than the 1048576");
	check("a name of 1 MiB", &(Content) {.texts = 1, .name = most}, NULL);
	check("a name of a byte more", &(Content) {.texts = 1, .name = more},
		  "longer than");
	check("1000 texts",
		  &(Content) {.texts = ENG_PTH_MAX_TEXTS, .text_size = 9}, NULL);
	check("a text more",
		  &(Content) {.texts = ENG_PTH_MAX_TEXTS + 1, .text_size = 9},
		  "1001 texts are more than the 1000");
	check("63 MiB of texts",
		  &(Content) {.texts = 64, .text_size = MIB}, NULL);
	check("64 MiB and what they need",
		  &(Content) {.texts = 65, .text_size = MIB}, "64 MiB");
	free(most);
	free(more);
}

/*
 * A name of half a million modules: each is a text of its own among the
 * versions.
 */
static void
test_modules(void)
{
	char	   *name = repeat(ENG_PICKLE_MAX_TEXT);
	size_t		i;

	for (i = 1; i < ENG_PICKLE_MAX_TEXT; i += 2)
		name[i] = '.';
	name[ENG_PICKLE_MAX_TEXT - 1] = 'x';
	check("a name of many modules", &(Content) {.texts = 1, .name = name},
		  "64 MiB");
	name[1001] = '\0';
	check("one of 500 modules", &(Content) {.texts = 1, .name = name}, NULL);
	check("a name of dots",
		  &(Content) {.texts = 1, .name = "..a..b."}, NULL);
	free(name);
}

/*
 * A tensor of 8 dimensions makes 38 values, all else 18, a text 2.
 */
static void
test_values(void)
{
	int			most = (ENG_PICKLE_MAX_VALUES - 18) / 38;
	int			texts = (ENG_PICKLE_MAX_VALUES - 18 - 38 * most) / 2;

	check("a pickle of 2000000 values",
		  &(Content) {.tensors = most, .texts = texts}, NULL);
	check("a pickle of more",
		  &(Content) {.tensors = most, .texts = texts + 1},
		  "2000000 values");
	check("a tensor of no elements",
		  &(Content) {.name = "empty", .shape = {3, 5}, .texts = 1}, NULL);
	check("one whose sides overflow",
		  &(Content) {.name = "empty", .texts = 1,
		  .shape = {INT64_C(1) << 62, 5}}, "are too large");
}

/* The value under a key of a dict's attributes, or NULL. */
static const EngPickleValue *
attribute(const EngPickleValue *dict, const char *key)
{
	return dict->attributes != NULL ? eng_pickle_get(dict->attributes, key) :
		NULL;
}

/* A module's version, or 0. */
static int
version_of(const EngPickleValue *versions, const char *module)
{
	const EngPickleValue *entry = versions != NULL ?
		eng_pickle_get(versions, module) : NULL;
	const EngPickleValue *version = entry != NULL &&
		entry->type == ENG_PICKLE_DICT ?
		eng_pickle_get(entry, "version") : NULL;

	return version != NULL && version->type == ENG_PICKLE_INTEGER ?
		(int) version->integer : 0;
}

static void
add_names(EngTensorWriter *writer, EngStatus *status)
{
	static const char *const names[] = {
		"backbone.body.bn1.num_batches_tracked",
		"backbone.body.bn1.running_mean", "backbone.body.conv1.weight",
		"backbone.body.layer1.0.conv1.weight",
		"backbone.body.frozen.running_mean",
		"backbone.fpn.inner_blocks.0.0.weight",
		"backbone.fpn.layer_blocks.0.0.weight", "rpn.head.cls_logits.weight",
		"rpn.head.conv.0.0.weight", "rpn.head.conv.0.0-weight"
	};
	size_t		i;

	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
	{
		EngFileTensor tensor = {.name = names[i], .dtype = ENG_FILE_F32,
			.rank = 1
		};

		eng_tensor_writer_add(writer, &tensor, status);
	}
}

/* The versions that torchvision 0.29's own state dict has for these. */
static void
check_versions(const EngPickleValue *versions)
{
	static const struct
	{
		const char *module;
		int			version;
	}			expected[] = {
		{"", 1}, {"backbone", 1}, {"backbone.body", 2},
		{"backbone.body.bn1", 2}, {"backbone.body.conv1", 1},
		{"backbone.body.frozen", 1}, {"backbone.body.layer1", 1},
		{"backbone.body.layer1.0", 1}, {"backbone.body.layer1.0.conv1", 1},
		{"backbone.fpn", 2}, {"backbone.fpn.inner_blocks", 1},
		{"backbone.fpn.inner_blocks.0", 1},
		{"backbone.fpn.inner_blocks.0.0", 1},
		{"backbone.fpn.layer_blocks", 1},
		{"backbone.fpn.layer_blocks.0", 1},
		{"backbone.fpn.layer_blocks.0.0", 1}, {"rpn", 1}, {"rpn.head", 2},
		{"rpn.head.cls_logits", 1}, {"rpn.head.conv", 1},
		{"rpn.head.conv.0", 1}, {"rpn.head.conv.0.0", 1}
	};
	size_t		count = sizeof(expected) / sizeof(expected[0]);
	size_t		i;

	tap_ok(versions != NULL && versions->type == ENG_PICKLE_DICT &&
		   versions->count == 2 * count, "every module has one version");
	for (i = 0; i < count; i++)
		tap_ok(version_of(versions, expected[i].module) ==
			   expected[i].version, "version of \"%s\"", expected[i].module);
}

static void
test_versions(void)
{
	EngStatus	status = {ENG_OK, ""};
	EngTensorWriter *writer = eng_tensor_writer_create(&status);
	EngPickle  *pickle = eng_pickle_create(&status);
	EngBuffer	plain = {0};
	EngBuffer	pth = {0};
	EngTensorFile *file;
	const EngPickleValue *root;
	const uint8_t *at;

	add_names(writer, &status);
	eng_tensor_writer_finish(writer, &plain, &status);
	file = eng_tensor_file_open(plain.data, plain.size, &status);
	if (file == NULL || !eng_pth_write(file, &pth, &status))
	{
		printf("Bail out! %s\n", status.message);
		exit(1);
	}
	/* the archive's first entry: its pickle starts at a multiple of 64 */
	at = pth.data + 64;
	root = eng_pickle_read(pickle, &at, pth.data + pth.size, &status);
	if (tap_ok(root != NULL && root->type == ENG_PICKLE_DICT,
			   "the pickle is a dict"))
		check_versions(attribute(root, "_metadata"));
	eng_pickle_free(pickle);
	eng_tensor_file_free(file);
	eng_tensor_writer_free(writer);
	eng_buffer_free(&plain);
	eng_buffer_free(&pth);
}

int
main(void)
{
	test_texts();
	test_modules();
	test_values();
	test_versions();
	return tap_done();
}
