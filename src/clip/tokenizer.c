/*
 * clip/tokenizer.c
 *		Byte-pair encoding, as OpenAI's CLIP does it.
 *
 * A clean text is cut into pieces: runs of letters, single digits, runs of
 * anything else, and English endings like 's.  In each piece the pair of
 * neighbours whose merge stands first in the vocabulary becomes one token,
 * wherever it is, from left to right, and so on until no pair is left.  A
 * merge makes only pairs that stand behind it in the vocabulary, so a heap of
 * rank and place gives the same order in n log n steps.
 */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "clip/text.h"
#include "clip/tokenizer.h"

/* A token of the piece; its place is that of its first byte. */
typedef struct Node
{
	int32_t		id;				/* -1: part of the one before it */
	int32_t		previous;		/* places, -1: none */
	int32_t		next;
} Node;

/* Working space for one piece after the other. */
typedef struct Encoder
{
	const AvcVocabulary *vocabulary;
	uint8_t    *bytes;			/* the piece in UTF-8 */
	int32_t		size;
	Node	   *nodes;
	uint64_t   *heap;			/* rank << 32 | place, smallest first */
	size_t		heap_count;
	int32_t    *ids;			/* the caller's */
	int			count;
} Encoder;

static bool
is_full(const Encoder *encoder)
{
	return encoder->count == AVC_CLIP_MAX_TOKENS - 1;
}

static void
add_id(Encoder *encoder, int32_t id)
{
	if (!is_full(encoder))
		encoder->ids[encoder->count++] = id;
}

/* ---- the heap -------------------------------------------------------- */

static void
heap_push(Encoder *encoder, uint64_t entry)
{
	size_t		at = encoder->heap_count++;

	while (at > 0 && encoder->heap[(at - 1) / 2] > entry)
	{
		encoder->heap[at] = encoder->heap[(at - 1) / 2];
		at = (at - 1) / 2;
	}
	encoder->heap[at] = entry;
}

static uint64_t
heap_pop(Encoder *encoder)
{
	uint64_t	top = encoder->heap[0];
	uint64_t	entry = encoder->heap[--encoder->heap_count];
	size_t		at = 0;

	for (;;)
	{
		size_t		child = 2 * at + 1;

		if (child + 1 < encoder->heap_count &&
			encoder->heap[child + 1] < encoder->heap[child])
			child++;
		if (child >= encoder->heap_count || encoder->heap[child] >= entry)
			break;
		encoder->heap[at] = encoder->heap[child];
		at = child;
	}
	encoder->heap[at] = entry;
	return top;
}

/* ---- merges ---------------------------------------------------------- */

/* What joins the token at a place with the next, or -1. */
static int32_t
rank_at(const Encoder *encoder, int32_t place)
{
	const Node *node = &encoder->nodes[place];

	if (node->id < 0 || node->next < 0)
		return -1;
	return avc_vocabulary_rank(encoder->vocabulary, node->id,
							   encoder->nodes[node->next].id);
}

static void
push_pair(Encoder *encoder, int32_t place)
{
	int32_t		rank = place >= 0 ? rank_at(encoder, place) : -1;

	if (rank >= 0)
		heap_push(encoder, (uint64_t) rank << 32 | (uint64_t) place);
}

static void
merge(Encoder *encoder, int32_t place, int32_t rank)
{
	Node	   *node = &encoder->nodes[place];
	Node	   *gone = &encoder->nodes[node->next];

	node->id = AVC_CLIP_FIRST_MERGE + rank;
	node->next = gone->next;
	gone->id = -1;
	if (node->next >= 0)
		encoder->nodes[node->next].previous = place;
	push_pair(encoder, node->previous);
	push_pair(encoder, place);
}

/* Each byte a token, the last one that of a word's end. */
static void
split_into_bytes(Encoder *encoder)
{
	int32_t		i;

	for (i = 0; i < encoder->size; i++)
	{
		Node	   *node = &encoder->nodes[i];

		node->id = avc_vocabulary_byte(encoder->bytes[i]);
		node->previous = i - 1;
		node->next = i + 1;
	}
	encoder->nodes[encoder->size - 1].id += AVC_CLIP_WORD_END;
	encoder->nodes[encoder->size - 1].next = -1;
}

static void
encode_piece(Encoder *encoder)
{
	int32_t		place;

	split_into_bytes(encoder);
	encoder->heap_count = 0;
	for (place = 0; place < encoder->size; place++)
		push_pair(encoder, place);
	while (encoder->heap_count > 0)
	{
		uint64_t	entry = heap_pop(encoder);
		int32_t		rank = (int32_t) (entry >> 32);

		place = (int32_t) (entry & 0xffffffff);
		/* another merge may have taken one of the two */
		if (rank_at(encoder, place) == rank)
			merge(encoder, place, rank);
	}
	for (place = 0; place >= 0; place = encoder->nodes[place].next)
		add_id(encoder, encoder->nodes[place].id);
}

/* ---- pieces ---------------------------------------------------------- */

/* Does the text go on with these characters?  How many they are, else 0. */
static size_t
match(const AvcCharacters *text, size_t at, const char *word)
{
	size_t		i;

	for (i = 0; word[i] != '\0'; i++)
		if (at + i >= text->count || text->at[at + i] != word[i])
			return 0;
	return i;
}

static size_t
match_ending(const AvcCharacters *text, size_t at)
{
	static const char *const endings[] = {
		"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"
	};
	size_t		length = 0;
	size_t		i;

	for (i = 0; i < sizeof(endings) / sizeof(endings[0]) && length == 0; i++)
		length = match(text, at, endings[i]);
	return length;
}

static bool
is_other(int32_t character)
{
	return !avc_character_is_space(character) &&
		!avc_character_is_letter(character) &&
		!avc_character_is_number(character);
}

/* Characters of the piece that begins here, which is no blank. */
static size_t
length_of_piece(const AvcCharacters *text, size_t at)
{
	size_t		end = at + 1;
	size_t		ending = match_ending(text, at);

	if (ending > 0)
		return ending;
	if (avc_character_is_number(text->at[at]))
		return 1;
	if (avc_character_is_letter(text->at[at]))
		while (end < text->count && avc_character_is_letter(text->at[end]))
			end++;
	else
		while (end < text->count && is_other(text->at[end]))
			end++;
	return end - at;
}

/* The words for start and end are tokens in a text, too. */
static size_t
take_special(Encoder *encoder, const AvcCharacters *text, size_t at)
{
	size_t		length = match(text, at, "<|startoftext|>");
	int32_t		id = AVC_CLIP_START;

	if (length == 0)
	{
		length = match(text, at, "<|endoftext|>");
		id = AVC_CLIP_END;
	}
	if (length > 0)
		add_id(encoder, id);
	return length;
}

static size_t
take_piece(Encoder *encoder, const AvcCharacters *text, size_t at)
{
	size_t		length = take_special(encoder, text, at);
	size_t		i;

	if (length > 0)
		return length;
	length = length_of_piece(text, at);
	encoder->size = 0;
	for (i = 0; i < length; i++)
		encoder->size += utf8proc_encode_char(text->at[at + i],
											  encoder->bytes + encoder->size);
	encode_piece(encoder);
	return length;
}

static void
encode_text(Encoder *encoder, const AvcCharacters *text)
{
	size_t		at = 0;

	while (at < text->count && !is_full(encoder))
	{
		if (avc_character_is_space(text->at[at]))
			at++;
		else
			at += take_piece(encoder, text, at);
	}
}

bool
avc_clip_tokenize(const AvcVocabulary *vocabulary, const char *text,
				  size_t size, int32_t ids[AVC_CLIP_MAX_TOKENS], int *count,
				  EngStatus *status)
{
	Encoder		encoder = {vocabulary, NULL, 0, NULL, NULL, 0, ids, 0};
	AvcCharacters clean;
	size_t		most;
	bool		ok = avc_text_clean(&clean, text, size, status);

	if (ok)
	{
		most = clean.count * 4 + 1;
		encoder.bytes = malloc(most);
		encoder.nodes = malloc(most * sizeof(Node));
		/* a pair for each byte, and two more for each merge */
		encoder.heap = malloc(most * 3 * sizeof(uint64_t));
		if (encoder.bytes == NULL || encoder.nodes == NULL ||
			encoder.heap == NULL)
			ok = eng_fail(status, ENG_NO_MEMORY, "out of memory");
	}
	if (ok)
	{
		add_id(&encoder, AVC_CLIP_START);
		encode_text(&encoder, &clean);
		ids[encoder.count++] = AVC_CLIP_END;
		*count = encoder.count;
	}
	free(encoder.bytes);
	free(encoder.nodes);
	free(encoder.heap);
	avc_characters_free(&clean);
	return ok;
}
