/*
 * clip/vocabulary.c
 *		Read the merges, and find the one that joins two tokens.
 *
 * In the file a byte is written as a character that can be printed: itself
 * where it is one, else U+0100 and up.  A token is kept here as its plain
 * bytes and whether it ends a word ("</w>" in the file).
 */
#include <stdlib.h>
#include <string.h>

#include "clip/vocabulary.h"

#define TOKENS		(AVC_CLIP_FIRST_MERGE + AVC_CLIP_MERGES)
#define SLOTS		131072		/* a power of two, more than twice the tokens */

/* A pair of tokens, 16 bits each, and what joins it; rank -1: unused. */
typedef struct Slot
{
	uint32_t	pair;
	int32_t		rank;
} Slot;

struct AvcVocabulary
{
	Slot		slots[SLOTS];
};

/* A token's bytes. */
typedef struct Token
{
	const uint8_t *bytes;		/* in the reading's arena */
	uint32_t	size;
	bool		ends_word;
} Token;

/* What is needed while the file is read. */
typedef struct Reading
{
	Token		tokens[TOKENS];
	int32_t		count;
	int32_t		names[SLOTS];	/* ids by hash of their token, -1: unused */
	uint8_t    *arena;			/* bytes of all tokens */
	size_t		used;
	AvcVocabulary *vocabulary;
} Reading;

/* ---- the alphabet ---------------------------------------------------- */

static bool
is_itself(uint32_t character)
{
	return (character >= 33 && character <= 126) ||
		(character >= 161 && character <= 172) ||
		(character >= 174 && character <= 255);
}

/* The printable bytes come first, then the others, both in their order. */
int32_t
avc_vocabulary_byte(uint8_t byte)
{
	if (byte <= 32)
		return 188 + byte;
	if (byte <= 126)
		return byte - 33;
	if (byte <= 160)
		return 221 + byte - 127;
	if (byte <= 172)
		return 94 + byte - 161;
	if (byte == 173)
		return 255;
	return 106 + byte - 174;
}

/* The byte that a character stands for, or -1. */
static int
byte_of_character(uint32_t character)
{
	uint32_t	n;

	if (character < 256)
		return is_itself(character) ? (int) character : -1;
	n = character - 256;
	if (n <= 32)
		return (int) n;
	if (n <= 66)
		return (int) (127 + n - 33);
	return n == 67 ? 173 : -1;
}

/* ---- tokens by name -------------------------------------------------- */

static uint32_t
hash_token(const Token *token)
{
	uint32_t	hash = token->ends_word ? UINT32_C(0x9747b28c)
		: UINT32_C(0x811c9dc5);
	uint32_t	i;

	for (i = 0; i < token->size; i++)
		hash = (hash ^ token->bytes[i]) * UINT32_C(0x01000193);
	return (hash ^ hash >> 15) & (SLOTS - 1);
}

static bool
are_equal(const Token *a, const Token *b)
{
	return a->size == b->size && a->ends_word == b->ends_word &&
		memcmp(a->bytes, b->bytes, a->size) == 0;
}

/* Where the token is among the names, or would be. */
static uint32_t
find_name(const Reading *reading, const Token *token)
{
	uint32_t	at = hash_token(token);

	while (reading->names[at] >= 0 &&
		   !are_equal(&reading->tokens[reading->names[at]], token))
		at = (at + 1) & (SLOTS - 1);
	return at;
}

/* False if there is such a token already. */
static bool
add_token(Reading *reading, const Token *token)
{
	uint32_t	at = find_name(reading, token);

	if (reading->names[at] >= 0)
		return false;
	reading->names[at] = reading->count;
	reading->tokens[reading->count++] = *token;
	return true;
}

/* Ids 0 to 511, in their order. */
static void
add_bytes(Reading *reading)
{
	uint8_t    *bytes = reading->arena;
	int			byte;
	int			i;

	for (byte = 0; byte < 256; byte++)
		bytes[avc_vocabulary_byte((uint8_t) byte)] = (uint8_t) byte;
	reading->used = 256;
	for (i = 0; i < AVC_CLIP_FIRST_MERGE; i++)
	{
		Token		token = {bytes + i % 256, 1, i >= AVC_CLIP_WORD_END};

		(void) add_token(reading, &token);
	}
}

/* ---- lines ----------------------------------------------------------- */

/* A character of one or two bytes of UTF-8; 0 if it is another. */
static uint32_t
next_character(const char *text, size_t size, size_t *at)
{
	uint8_t		first = (uint8_t) text[*at];

	if (first < 0x80)
	{
		(*at)++;
		return first;
	}
	if (first < 0xc2 || first > 0xdf || size - *at < 2 ||
		((uint8_t) text[*at + 1] & 0xc0) != 0x80)
		return 0;
	*at += 2;
	return (first & 0x1fu) << 6 | ((uint8_t) text[*at - 1] & 0x3fu);
}

/* Read a token behind what the arena holds; false if it is malformed. */
static bool
read_token(Reading *reading, const char *text, size_t size, Token *token)
{
	uint8_t    *bytes = reading->arena + reading->used;
	size_t		at = 0;

	token->bytes = bytes;
	token->size = 0;
	token->ends_word = size > 4 && memcmp(text + size - 4, "</w>", 4) == 0;
	if (token->ends_word)
		size -= 4;
	while (at < size)
	{
		int			byte = byte_of_character(next_character(text, size, &at));

		if (byte < 0)
			return false;
		bytes[token->size++] = (uint8_t) byte;
	}
	return token->size > 0;
}

/* The id of a token that is there, or -1. */
static int32_t
read_known(Reading *reading, const char *text, size_t size, Token *token)
{
	if (!read_token(reading, text, size, token))
		return -1;
	reading->used += token->size;
	return reading->names[find_name(reading, token)];
}

static void
add_pair(AvcVocabulary *vocabulary, int32_t left, int32_t right, int32_t rank)
{
	uint32_t	pair = (uint32_t) left << 16 | (uint32_t) right;
	uint32_t	at = pair * UINT32_C(0x9e3779b1) >> 15;

	while (vocabulary->slots[at].rank >= 0)
		at = (at + 1) & (SLOTS - 1);
	vocabulary->slots[at].pair = pair;
	vocabulary->slots[at].rank = rank;
}

/* One merge: two tokens that are there, which make one that is not. */
static bool
read_merge(Reading *reading, const char *line, size_t size, EngStatus *status)
{
	int32_t		rank = reading->count - AVC_CLIP_FIRST_MERGE;
	int			number = rank + 2;	/* of the line, from 1 */
	const char *blank = memchr(line, ' ', size);
	size_t		start = reading->used;
	size_t		left_size = blank != NULL ? (size_t) (blank - line) : 0;
	Token		token;
	int32_t		left;
	int32_t		right;

	if (blank == NULL)
		return eng_fail(status, ENG_BAD_FILE,
						"line %d of the vocabulary is not two tokens", number);
	left = read_known(reading, line, left_size, &token);
	if (left < 0 || token.ends_word)
		return eng_fail(status, ENG_BAD_FILE,
						"line %d of the vocabulary begins with an unknown token",
						number);
	right = read_known(reading, blank + 1, size - left_size - 1, &token);
	if (right < 0)
		return eng_fail(status, ENG_BAD_FILE,
						"line %d of the vocabulary ends with an unknown token",
						number);
	/* left and right lie side by side in the arena */
	token.bytes = reading->arena + start;
	token.size = (uint32_t) (reading->used - start);
	if (!add_token(reading, &token))
		return eng_fail(status, ENG_BAD_FILE,
						"line %d of the vocabulary makes a token that is there already",
						number);
	add_pair(reading->vocabulary, left, right, rank);
	return true;
}

static bool
read_lines(Reading *reading, const char *text, size_t size, EngStatus *status)
{
	size_t		at = 0;
	int			number;

	for (number = 0; number <= AVC_CLIP_MERGES; number++)
	{
		const char *end;
		size_t		line;

		if (at >= size)
			return eng_fail(status, ENG_BAD_FILE,
							"vocabulary has fewer than %d merges",
							AVC_CLIP_MERGES);
		end = memchr(text + at, '\n', size - at);
		line = end != NULL ? (size_t) (end - text) - at : size - at;
		/* of a file that went through Windows */
		if (number > 0 &&
			!read_merge(reading, text + at,
						line > 0 && text[at + line - 1] == '\r' ? line - 1 : line,
						status))
			return false;
		at += line + 1;
	}
	return true;
}

AvcVocabulary *
avc_vocabulary_parse(const char *text, size_t size, EngStatus *status)
{
	AvcVocabulary *vocabulary = malloc(sizeof(AvcVocabulary));
	Reading    *reading = malloc(sizeof(Reading));
	/* no token has more bytes than the characters that wrote it */
	uint8_t    *arena = size <= AVC_CLIP_MAX_FILE ? malloc(size + 256) : NULL;
	bool		ok = false;

	if (size > AVC_CLIP_MAX_FILE)
		eng_fail(status, ENG_BAD_FILE, "vocabulary is larger than 16 MB");
	else if (vocabulary == NULL || reading == NULL || arena == NULL)
		eng_fail(status, ENG_NO_MEMORY, "out of memory");
	else
	{
		/* every byte 255: -1 in all places */
		memset(vocabulary, 0xff, sizeof(*vocabulary));
		memset(reading->names, 0xff, sizeof(reading->names));
		reading->count = 0;
		reading->arena = arena;
		reading->vocabulary = vocabulary;
		add_bytes(reading);
		ok = read_lines(reading, text, size, status);
	}
	free(arena);
	free(reading);
	if (!ok)
	{
		free(vocabulary);
		vocabulary = NULL;
	}
	return vocabulary;
}

void
avc_vocabulary_free(AvcVocabulary *vocabulary)
{
	free(vocabulary);
}

int32_t
avc_vocabulary_rank(const AvcVocabulary *vocabulary, int32_t left,
					int32_t right)
{
	uint32_t	pair = (uint32_t) left << 16 | (uint32_t) right;
	uint32_t	at = pair * UINT32_C(0x9e3779b1) >> 15;

	while (vocabulary->slots[at].rank >= 0)
	{
		if (vocabulary->slots[at].pair == pair)
			return vocabulary->slots[at].rank;
		at = (at + 1) & (SLOTS - 1);
	}
	return -1;
}
