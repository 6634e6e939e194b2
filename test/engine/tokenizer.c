/*
 * test/engine/tokenizer.c
 *		CLIP's tokenizer: golden ids, long and strange texts, broken files.
 *
 * The vocabulary has the merges of test/data/clip_merges.txt at their places
 * and, everywhere else, merges of control characters, which no text has.  With
 * AVC_CLIP_VOCABULARY the golden ids are checked with the whole file, too.
 */
#include <zlib.h>

#include "clip/text.h"
#include "clip/tokenizer.h"
#include "engine/io/file.h"
#include "tap.h"

#define MERGES_FILE "test/data/clip_merges.txt"
#define CONTROLS	32			/* bytes 0 to 31, written U+0100 and up */

/* ---- a vocabulary ---------------------------------------------------- */

static void
add_text(EngBuffer *out, const char *text)
{
	EngStatus	status = {0};

	if (!eng_buffer_append(out, text, strlen(text), &status))
		exit(1);
}

/* The merge of control characters with this number. */
static void
add_filler(EngBuffer *out, int number)
{
	char		line[64];
	int			pairs = CONTROLS * CONTROLS;
	int			pair = number < pairs ? number : (number - pairs) / CONTROLS % pairs;
	int			third = (number - pairs) % CONTROLS;
	int			a = 0x80 + pair / CONTROLS;
	int			b = 0x80 + pair % CONTROLS;

	/* the characters are two bytes each: 0xc4 and these */
	if (number < pairs)
		snprintf(line, sizeof(line), "\xc4%c \xc4%c\n", a, b);
	else
		snprintf(line, sizeof(line), "\xc4%c\xc4%c \xc4%c%s\n", a, b,
				 0x80 + third,
				 number < pairs + pairs * CONTROLS ? "" : "</w>");
	add_text(out, line);
}

/* The whole file; false if the merges that it is made of are not there. */
static bool
make_vocabulary(EngBuffer *out)
{
	FILE	   *file = fopen(MERGES_FILE, "r");
	char		line[256];
	char		merge[200];
	int			place;
	int			at = 0;
	int			filler = 0;

	if (file == NULL)
		return false;
	add_text(out, "\"made by a test#version: 0.2\n");
	while (fgets(line, sizeof(line), file) != NULL)
	{
		if (sscanf(line, "%d %199[^\n]", &place, merge) != 2)
			continue;
		while (at++ < place)
			add_filler(out, filler++);
		add_text(out, merge);
		add_text(out, "\n");
	}
	fclose(file);
	while (at++ < AVC_CLIP_MERGES)
		add_filler(out, filler++);
	return true;
}

/* ---- golden ids ------------------------------------------------------ */

typedef struct Golden
{
	const char *text;
	const char *ids;			/* between start and end */
} Golden;

#define TEN_A "aaaaaaaaaa"

static const Golden golden[] = {
	{"", ""},
	{" \t\n ", ""},
	{"a photo of a cat", "320 1125 539 320 2368 "},
	{"A PHOTO\tof a\n cat", "320 1125 539 320 2368 "},
	{"a photo of a dog", "320 1125 539 320 1929 "},
	{"hello world!", "3306 1002 256 "},
	{"A person far away walking on a dark road at night",
	"320 2533 2384 1520 3941 525 320 3144 1759 536 930 "},
	{"cyclist riding a bicycle in the rain",
	"20686 6765 320 11652 530 518 2443 "},
	{"pedestrian crossing at an intersection", "18256 8673 536 550 19210 "},
	{"person riding a bicycle or motorcycle",
	"2533 6765 320 11652 541 10297 "},
	{"it's 2024, isn't it?",
	"585 568 273 271 273 275 267 2923 713 585 286 "},
	{"it\342\200\231s \357\274\222\357\274\220\357\274\222\357\274\224, isn&#8217;t it?",
	"585 568 273 271 273 275 267 2923 713 585 286 "},
	{"don't   stop\n\nnow", "847 713 1691 692 "},
	{"foggy highway 1280x720", "19770 7620 272 273 279 271 343 278 273 271 "},
	{"traffic light: red/green (2)",
	"3399 1395 281 736 270 1901 263 273 264 "},
	{"&amp;lt;b&amp;gt; bold", "283 321 285 8911 "},
	{"Z\303\274rich caf\303\251 \345\214\227\344\272\254 \360\237\232\227",
	"89 6522 4021 15304 161 234 245 21078 361 22783 "},
	{"Zu\314\210rich cafe\314\201 \345\214\227\344\272\254 \360\237\232\227",
	"89 6522 4021 15304 161 234 245 21078 361 22783 "},
	{"Z&uuml;rich caf&eacute &#21271;&#x4eac; &#128663",
	"89 6522 4021 15304 161 234 245 21078 361 22783 "},
	{TEN_A TEN_A TEN_A TEN_A, "23126 23126 23126 23126 6727 19336 "},
	{"a<|endoftext|>dog", "320 49407 1929 "}
};

static void
list_ids(char *list, size_t size, const int32_t *ids, int count)
{
	size_t		used = 0;
	int			i;

	list[0] = '\0';
	for (i = 1; i < count - 1; i++)
		used += snprintf(list + used, size - used, "%d ", ids[i]);
}

static void
check_golden(const AvcVocabulary *vocabulary, const char *which)
{
	size_t		i;

	for (i = 0; i < sizeof(golden) / sizeof(golden[0]); i++)
	{
		EngStatus	status = {0};
		int32_t		ids[AVC_CLIP_MAX_TOKENS] = {0};
		int			count = 2;
		char		list[1024];
		bool		ok = avc_clip_tokenize(vocabulary, golden[i].text,
										   strlen(golden[i].text), ids,
										   &count, &status);

		list_ids(list, sizeof(list), ids, count);
		if (!tap_ok(ok && ids[0] == AVC_CLIP_START &&
					ids[count - 1] == AVC_CLIP_END &&
					strcmp(list, golden[i].ids) == 0,
					"%s: ids of text %zu", which, i))
			tap_note("got %s%s", list, status.message);
	}
}

/* ---- other texts ----------------------------------------------------- */

static bool
tokenize(const AvcVocabulary *vocabulary, const char *text, size_t size,
		 int32_t *ids, int *count)
{
	EngStatus	status = {0};

	return avc_clip_tokenize(vocabulary, text, size, ids, count, &status);
}

static void
check_lengths(const AvcVocabulary *vocabulary)
{
	static char text[8 * AVC_CLIP_MAX_TEXT];
	int32_t		ids[AVC_CLIP_MAX_TOKENS];
	int			count = 0;
	size_t		i;

	for (i = 0; i < 76; i++)
		memcpy(text + 4 * i, "dog ", 4);
	tap_ok(tokenize(vocabulary, text, 4 * 75, ids, &count) && count == 77 &&
		   ids[75] == 1929 && ids[76] == AVC_CLIP_END,
		   "75 words and two marks fit");
	tap_ok(tokenize(vocabulary, text, 4 * 76, ids, &count) && count == 77 &&
		   ids[75] == 1929 && ids[76] == AVC_CLIP_END,
		   "of 76 words the last is cut off");
	memset(text, 'a', sizeof(text));
	tap_ok(tokenize(vocabulary, text, sizeof(text), ids, &count) &&
		   count == 77 && ids[1] == 23126 && ids[75] == 23126,
		   "a word of 128 kB is cut off");
	/* marks that sort against each other are the worst for normal form C */
	for (i = 0; i + 4 <= sizeof(text); i += 4)
		memcpy(text + i, "\314\201\314\247", 4);
	tap_ok(tokenize(vocabulary, text, sizeof(text), ids, &count) &&
		   count == 77, "so is a heap of marks");
}

static void
check_refusals(const AvcVocabulary *vocabulary)
{
	static const char *const bad[] = {
		"\377", "a\300\200", "\355\240\200", "caf\303", "\364\220\200\200"
	};
	int32_t		ids[AVC_CLIP_MAX_TOKENS];
	int			count;
	size_t		i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		tap_ok(!tokenize(vocabulary, bad[i], strlen(bad[i]), ids, &count),
			   "malformed UTF-8 %zu is refused", i);
}

/* ---- cleaning -------------------------------------------------------- */

static void
check_clean(const char *text, const char *want)
{
	AvcCharacters clean;
	EngStatus	status = {0};
	bool		ok = avc_text_clean(&clean, text, strlen(text), &status);
	char		got[256];
	size_t		i;
	size_t		used = 0;

	for (i = 0; ok && i < clean.count; i++)
		used += snprintf(got + used, sizeof(got) - used,
						 clean.at[i] < 127 ? "%c" : "<%x>", clean.at[i]);
	got[used] = '\0';
	if (!tap_ok(ok && strcmp(got, want) == 0, "\"%s\" is cleaned", text))
		tap_note("got %s, not %s", got, want);
	avc_characters_free(&clean);
}

static void
check_cleaning(void)
{
	check_clean("&#0;&#128;&#x110000;&#xd800;", "<fffd><20ac><fffd><fffd>");
	check_clean("&#1;&#99999999999999999999;", "<fffd>");
	check_clean("&;&#;&#x;&unknown; &", "&;&#;&#x;&unknown; &");
	check_clean("&notit; &AMPamp;", "<ac>it; &");
	check_clean("&apos;&apos", "'&apos");
	check_clean("\357\254\201sh \001\177o\357\273\277k", "fish ok");
	check_clean("\342\200\234x\342\200\235\343\200\200\302\240y", "\"x\" y");
	check_clean("\304\260\316\243 \316\221\316\243 \316\221\316\243\316\221",
				"i<307><3c2> <3b1><3c2> <3b1><3c3><3b1>");
	check_clean("\346\274\242\303\204\312\243", "<6f22><e4><2a3>");
}

/* ---- broken files ---------------------------------------------------- */

static bool
is_refused(const void *file, size_t size, const char *message)
{
	EngBuffer	text = {0};
	EngStatus	status = {0};
	AvcVocabulary *vocabulary = NULL;

	if (avc_vocabulary_unpack(file, size, &text, &status))
		vocabulary = avc_vocabulary_parse((char *) text.data, text.size,
										  &status);
	eng_buffer_free(&text);
	avc_vocabulary_free(vocabulary);
	if (vocabulary == NULL && strstr(status.message, message) != NULL)
		return true;
	tap_note("got \"%s\"", status.message);
	return false;
}

/* The file with its line of this number replaced. */
static bool
is_line_refused(const EngBuffer *file, int number, const char *line,
				const char *message)
{
	EngBuffer	changed = {0};
	EngStatus	status = {0};
	const char *at = (char *) file->data;
	const char *end;
	bool		refused;
	int			i;

	for (i = 1; i < number; i++)
		at = memchr(at, '\n', file->size) + 1;
	end = memchr(at, '\n', file->size);
	eng_buffer_append(&changed, file->data, at - (char *) file->data, &status);
	add_text(&changed, line);
	eng_buffer_append(&changed, end, (char *) file->data + file->size - end,
					  &status);
	refused = is_refused(changed.data, changed.size, message);
	eng_buffer_free(&changed);
	return refused;
}

static void
check_broken(const EngBuffer *file)
{
	const char *last = memrchr(file->data, '\n', file->size - 1);

	tap_ok(is_refused("", 0, "is empty"), "an empty file");
	tap_ok(is_refused("{\"a\": 1}", 8, "merges.txt"), "vocab.json");
	tap_ok(is_refused("i n\nt h\n", 8, "#version"), "no version");
	tap_ok(is_refused(file->data, last - (char *) file->data + 1,
					  "fewer than 48894"), "a merge is missing");
	tap_ok(is_line_refused(file, 2, "in", "line 2"), "one token");
	tap_ok(is_line_refused(file, 2, "i  n", "line 2"), "two blanks");
	tap_ok(is_line_refused(file, 3, "t ", "line 3"), "an empty token");
	tap_ok(is_line_refused(file, 2, "zz n", "line 2"), "a token of later on");
	tap_ok(is_line_refused(file, 3, "i n", "there already"), "a merge twice");
	tap_ok(is_line_refused(file, 2, "i</w> n", "line 2"),
		   "an end before another token");
	tap_ok(is_line_refused(file, 2, "i \343\201\202", "line 2"),
		   "a character that is no byte");
	tap_ok(is_line_refused(file, 2, "i \304", "line 2"), "half a character");
	tap_ok(is_line_refused(file, 48895, "i", "line 48895"), "the last line");
}

static size_t
pack(const void *data, size_t size, uint8_t *out, size_t room)
{
	z_stream	stream = {0};

	deflateInit2(&stream, 9, Z_DEFLATED, 16 + MAX_WBITS, 9,
				 Z_DEFAULT_STRATEGY);
	stream.next_in = (Bytef *) data;
	stream.avail_in = size;
	stream.next_out = out;
	stream.avail_out = room;
	(void) deflate(&stream, Z_FINISH);
	deflateEnd(&stream);
	return room - stream.avail_out;
}

static void
check_packed(const EngBuffer *file)
{
	static uint8_t packed[1 << 20];
	size_t		size = pack(file->data, file->size, packed, sizeof(packed));
	EngBuffer	out = {0};
	EngStatus	status = {0};
	char	   *zeros = calloc(1, AVC_CLIP_MAX_FILE * 4);

	tap_ok(avc_vocabulary_unpack(packed, size, &out, &status) &&
		   out.size == file->size &&
		   memcmp(out.data, file->data, out.size) == 0,
		   "a gzipped file is unpacked");
	eng_buffer_free(&out);
	tap_ok(is_refused(packed, size / 2, "ends early"), "half of it");
	packed[size - 8] ^= 1;
	tap_ok(is_refused(packed, size, "damaged"), "a wrong checksum");
	size = pack(zeros, AVC_CLIP_MAX_FILE * 4, packed, sizeof(packed));
	tap_ok(is_refused(packed, size, "larger than 16 MB"),
		   "64 MB in %zu kB", size / 1024);
	tap_ok(is_refused(zeros, AVC_CLIP_MAX_FILE + 1, "larger than 16 MB"),
		   "a large file");
	free(zeros);
}

/* ---------------------------------------------------------------------- */

static void
check_whole_file(const char *path)
{
	EngBuffer	file = {0};
	EngBuffer	text = {0};
	EngStatus	status = {0};
	AvcVocabulary *vocabulary = NULL;

	if (eng_file_read(path, AVC_CLIP_MAX_FILE, &file, &status) &&
		avc_vocabulary_unpack(file.data, file.size, &text, &status))
		vocabulary = avc_vocabulary_parse((char *) text.data, text.size,
										  &status);
	if (!tap_ok(vocabulary != NULL, "%s is read", path))
		tap_note("%s", status.message);
	else
		check_golden(vocabulary, "whole vocabulary");
	avc_vocabulary_free(vocabulary);
	eng_buffer_free(&file);
	eng_buffer_free(&text);
}

int
main(void)
{
	const char *whole = getenv("AVC_CLIP_VOCABULARY");
	EngBuffer	file = {0};
	EngStatus	status = {0};
	AvcVocabulary *vocabulary;

	if (!tap_ok(make_vocabulary(&file), "%s is there", MERGES_FILE))
		return tap_done();
	vocabulary = avc_vocabulary_parse((char *) file.data, file.size, &status);
	if (!tap_ok(vocabulary != NULL, "a vocabulary is read"))
		tap_note("%s", status.message);
	else
	{
		check_golden(vocabulary, "merges of the texts");
		check_lengths(vocabulary);
		check_refusals(vocabulary);
	}
	check_cleaning();
	check_broken(&file);
	check_packed(&file);
	avc_vocabulary_free(vocabulary);
	eng_buffer_free(&file);
	if (whole != NULL && whole[0] != '\0')
		check_whole_file(whole);
	else
		tap_skip("golden ids with the whole vocabulary",
				 "AVC_CLIP_VOCABULARY does not name it");
	return tap_done();
}
