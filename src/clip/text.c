/*
 * clip/text.c
 *		Clean a text for the tokenizer.
 */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "clip/text.h"

#define EXPANDED	18			/* most characters that one becomes */

/* ---- what Unicode says ----------------------------------------------- */

bool
avc_character_is_letter(int32_t character)
{
	utf8proc_category_t category = utf8proc_category(character);

	return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

bool
avc_character_is_number(int32_t character)
{
	utf8proc_category_t category = utf8proc_category(character);

	return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}

/* The property White_Space, and the separators that Python adds. */
bool
avc_character_is_space(int32_t character)
{
	return (character >= 9 && character <= 13) ||
		(character >= 28 && character <= 32) || character == 0x85 ||
		utf8proc_category(character) == UTF8PROC_CATEGORY_ZS ||
		character == 0x2028 || character == 0x2029;
}

static bool
is_cased(int32_t character)
{
	utf8proc_category_t category = utf8proc_category(character);

	return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LT;
}

/* What stands in a word and has no case of its own. */
static bool
is_ignored_by_case(int32_t character)
{
	switch (utf8proc_category(character))
	{
		case UTF8PROC_CATEGORY_MN:
		case UTF8PROC_CATEGORY_ME:
		case UTF8PROC_CATEGORY_CF:
		case UTF8PROC_CATEGORY_LM:
		case UTF8PROC_CATEGORY_SK:
			return true;
		default:
			return character == '\'' || character == '.' ||
				character == ':' || character == 0xb7 ||
				character == 0x2019;
	}
}

/* ---- between bytes and characters ------------------------------------ */

void
avc_characters_free(AvcCharacters *characters)
{
	free(characters->at);
	characters->at = NULL;
	characters->count = 0;
}

static bool
reserve(AvcCharacters *characters, size_t most, EngStatus *status)
{
	characters->count = 0;
	characters->at = malloc((most + 1) * sizeof(int32_t));
	if (characters->at == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	return true;
}

static bool
decode(AvcCharacters *characters, const uint8_t *text, size_t size,
	   EngStatus *status)
{
	size_t		at = 0;

	if (!reserve(characters, size, status))
		return false;
	while (at < size)
	{
		utf8proc_int32_t character;
		utf8proc_ssize_t length = utf8proc_iterate(text + at, size - at,
												   &character);

		if (length <= 0)
			return eng_fail(status, ENG_BAD_ARGUMENT,
							"text is not valid UTF-8");
		characters->at[characters->count++] = character;
		at += length;
	}
	return true;
}

/* Bytes of the text that are looked at, which end with a whole character. */
static size_t
cut(const char *text, size_t size)
{
	if (size <= AVC_CLIP_MAX_TEXT)
		return size;
	size = AVC_CLIP_MAX_TEXT;
	while (size > 0 && ((uint8_t) text[size] & 0xc0) == 0x80)
		size--;
	return size;
}

/* ---- repairs --------------------------------------------------------- */

/* Letters that have a plain form: ligatures, and wide or narrow ones. */
static bool
has_plain_form(int32_t c)
{
	return c == 0x132 || c == 0x133 || c == 0x149 ||
		(c >= 0x1c4 && c <= 0x1cc) || (c >= 0x1f1 && c <= 0x1f3) ||
		(c >= 0xfb00 && c <= 0xfb06) || (c >= 0xff01 && c <= 0xffef) ||
		c == 0x3000;
}

/* Control characters that mean nothing in a text. */
static bool
is_removed(int32_t c)
{
	return (c < 32 && c != '\t' && c != '\n' && c != '\f' && c != '\r') ||
		c == 127 || (c >= 0x206a && c <= 0x206f) || c == 0xfeff ||
		(c >= 0xfff9 && c <= 0xfffc);
}

static int32_t
straight_quote(int32_t c)
{
	if (c == 0x2bc || (c >= 0x2018 && c <= 0x201b))
		return '\'';
	if (c >= 0x201c && c <= 0x201f)
		return '"';
	return c;
}

static bool
repair(AvcCharacters *to, const AvcCharacters *from, EngStatus *status)
{
	size_t		i;

	if (!reserve(to, from->count * EXPANDED, status))
		return false;
	for (i = 0; i < from->count; i++)
	{
		utf8proc_int32_t plain[EXPANDED] = {from->at[i]};
		utf8proc_ssize_t count = 1;
		int			boundary = 0;
		utf8proc_ssize_t k;

		if (is_removed(from->at[i]))
			continue;
		if (has_plain_form(from->at[i]))
			count = utf8proc_decompose_char(from->at[i], plain, EXPANDED,
											UTF8PROC_COMPAT | UTF8PROC_DECOMPOSE,
											&boundary);
		if (count < 0 || count > EXPANDED)
			return eng_fail(status, ENG_INTERNAL,
							"a character could not be decomposed");
		for (k = 0; k < count; k++)
			to->at[to->count++] = straight_quote(plain[k]);
	}
	return true;
}

/* Normal form C; the characters are replaced. */
static bool
compose(AvcCharacters *characters, EngStatus *status)
{
	uint8_t    *text = malloc(characters->count * 4 + 1);
	utf8proc_uint8_t *composed = NULL;
	utf8proc_ssize_t size = 0;
	size_t		i;
	bool		ok;

	if (text == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	for (i = 0; i < characters->count; i++)
		size += utf8proc_encode_char(characters->at[i], text + size);
	size = utf8proc_map(text, size, &composed,
						UTF8PROC_STABLE | UTF8PROC_COMPOSE);
	free(text);
	if (size < 0)
		return eng_fail(status, ENG_NO_MEMORY,
						"could not normalize a text: %s",
						utf8proc_errmsg(size));
	avc_characters_free(characters);
	ok = decode(characters, composed, size, status);
	free(composed);
	return ok;
}

/* ---- blanks and case ------------------------------------------------- */

static void
collapse(AvcCharacters *text)
{
	size_t		to = 0;
	size_t		i;

	for (i = 0; i < text->count; i++)
	{
		if (!avc_character_is_space(text->at[i]))
			text->at[to++] = text->at[i];
		else if (to > 0 && text->at[to - 1] != ' ')
			text->at[to++] = ' ';
	}
	text->count = to > 0 && text->at[to - 1] == ' ' ? to - 1 : to;
}

/* Is the sigma at i the last letter of a word of more than one? */
static bool
is_final(const AvcCharacters *text, size_t i)
{
	size_t		before = i;
	size_t		behind = i + 1;

	while (before > 0 && is_ignored_by_case(text->at[before - 1]))
		before--;
	while (behind < text->count && is_ignored_by_case(text->at[behind]))
		behind++;
	return before > 0 && is_cased(text->at[before - 1]) &&
		!(behind < text->count && is_cased(text->at[behind]));
}

static bool
lower(AvcCharacters *to, const AvcCharacters *from, EngStatus *status)
{
	size_t		i;

	if (!reserve(to, from->count * 2, status))
		return false;
	for (i = 0; i < from->count; i++)
	{
		if (from->at[i] == 0x130)
		{
			/* the one letter whose lower case is two characters */
			to->at[to->count++] = 'i';
			to->at[to->count++] = 0x307;
		}
		else if (from->at[i] == 0x3a3)
			to->at[to->count++] = is_final(from, i) ? 0x3c2 : 0x3c3;
		else
			to->at[to->count++] = utf8proc_tolower(from->at[i]);
	}
	return true;
}

bool
avc_text_clean(AvcCharacters *clean, const char *text, size_t size,
			   EngStatus *status)
{
	AvcCharacters given = {NULL, 0};
	AvcCharacters repaired = {NULL, 0};
	bool		ok;

	memset(clean, 0, sizeof(*clean));
	ok = decode(&given, (const uint8_t *) text, cut(text, size), status);
	if (ok)
	{
		avc_entities_resolve(&given);
		avc_entities_resolve(&given);
		ok = repair(&repaired, &given, status) && compose(&repaired, status);
	}
	if (ok)
	{
		collapse(&repaired);
		ok = lower(clean, &repaired, status);
	}
	avc_characters_free(&given);
	avc_characters_free(&repaired);
	return ok;
}
