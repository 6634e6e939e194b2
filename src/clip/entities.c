/*
 * clip/entities.c
 *		HTML's names for characters.
 *
 * The rule is HTML5's, as Python's html.unescape follows it: a number may do
 * without its semicolon, and so may the names of Latin-1, of which the
 * longest counts that the text begins with.  Of HTML's other names only the
 * common ones below are known; the rest stays as it is written.
 */
#include <stdbool.h>
#include <string.h>

#include "clip/text.h"

#define LONGEST		32			/* characters of a name */

typedef struct Entity
{
	const char *name;
	int32_t		character;
	bool		needs_semicolon;
} Entity;

/* 160 to 255 in their order */
static const char *const latin[] = {
	"nbsp", "iexcl", "cent", "pound", "curren", "yen", "brvbar", "sect",
	"uml", "copy", "ordf", "laquo", "not", "shy", "reg", "macr",
	"deg", "plusmn", "sup2", "sup3", "acute", "micro", "para", "middot",
	"cedil", "sup1", "ordm", "raquo", "frac14", "frac12", "frac34", "iquest",
	"Agrave", "Aacute", "Acirc", "Atilde", "Auml", "Aring", "AElig", "Ccedil",
	"Egrave", "Eacute", "Ecirc", "Euml", "Igrave", "Iacute", "Icirc", "Iuml",
	"ETH", "Ntilde", "Ograve", "Oacute", "Ocirc", "Otilde", "Ouml", "times",
	"Oslash", "Ugrave", "Uacute", "Ucirc", "Uuml", "Yacute", "THORN", "szlig",
	"agrave", "aacute", "acirc", "atilde", "auml", "aring", "aelig", "ccedil",
	"egrave", "eacute", "ecirc", "euml", "igrave", "iacute", "icirc", "iuml",
	"eth", "ntilde", "ograve", "oacute", "ocirc", "otilde", "ouml", "divide",
	"oslash", "ugrave", "uacute", "ucirc", "uuml", "yacute", "thorn", "yuml"
};

static const Entity others[] = {
	{"amp", '&', false}, {"AMP", '&', false},
	{"lt", '<', false}, {"LT", '<', false},
	{"gt", '>', false}, {"GT", '>', false},
	{"quot", '"', false}, {"QUOT", '"', false},
	{"apos", '\'', true},
	{"OElig", 0x152, true}, {"oelig", 0x153, true},
	{"Scaron", 0x160, true}, {"scaron", 0x161, true},
	{"ndash", 0x2013, true}, {"mdash", 0x2014, true},
	{"lsquo", 0x2018, true}, {"rsquo", 0x2019, true},
	{"sbquo", 0x201a, true}, {"ldquo", 0x201c, true},
	{"rdquo", 0x201d, true}, {"bdquo", 0x201e, true},
	{"bull", 0x2022, true}, {"hellip", 0x2026, true},
	{"lsaquo", 0x2039, true}, {"rsaquo", 0x203a, true},
	{"euro", 0x20ac, true}, {"trade", 0x2122, true}
};

/* What browsers take the numbers 128 to 159 for. */
static const int32_t windows[32] = {
	0x20ac, 0x81, 0x201a, 0x192, 0x201e, 0x2026, 0x2020, 0x2021,
	0x2c6, 0x2030, 0x160, 0x2039, 0x152, 0x8d, 0x17d, 0x8f,
	0x90, 0x2018, 0x2019, 0x201c, 0x201d, 0x2022, 0x2013, 0x2014,
	0x2dc, 0x2122, 0x161, 0x203a, 0x153, 0x9d, 0x17e, 0x178
};

/* ---- numbers --------------------------------------------------------- */

/* The character of a number, or -1 if HTML has none for it. */
static int32_t
character_of_number(int32_t number)
{
	if (number == 0 || number > 0x10ffff ||
		(number >= 0xd800 && number <= 0xdfff))
		return 0xfffd;
	if (number == 13)
		return '\r';
	if (number >= 0x80 && number <= 0x9f)
		return windows[number - 0x80];
	if (number < 9 || number == 11 || (number >= 14 && number <= 31) ||
		number == 127 || (number >= 0xfdd0 && number <= 0xfdef) ||
		(number & 0xfffe) == 0xfffe)
		return -1;
	return number;
}

static int
digit_of(int32_t character, int base)
{
	if (character >= '0' && character <= '9')
		return character - '0';
	if (base == 16 && character >= 'a' && character <= 'f')
		return character - 'a' + 10;
	if (base == 16 && character >= 'A' && character <= 'F')
		return character - 'A' + 10;
	return -1;
}

/*
 * "#" and digits at the text, its semicolon included: how many characters it
 * takes, 0 if it is no number.  *found is -1 where nothing takes its place.
 */
static size_t
read_number(const int32_t *text, size_t count, int32_t *found)
{
	int			base = count > 1 && (text[1] == 'x' || text[1] == 'X') ? 16 : 10;
	size_t		first = base == 16 ? 2 : 1;
	size_t		at = first;
	int32_t		number = 0;

	while (at < count && digit_of(text[at], base) >= 0)
	{
		if (number <= 0x10ffff)
			number = number * base + digit_of(text[at], base);
		at++;
	}
	if (at == first)
		return 0;
	*found = character_of_number(number);
	return at + (at < count && text[at] == ';');
}

/* ---- names ----------------------------------------------------------- */

static bool
is_named(const char *name, const char *text, size_t size)
{
	return strlen(name) == size && memcmp(name, text, size) == 0;
}

/* The character of this name, or 0. */
static int32_t
find_name(const char *text, size_t size, bool has_semicolon)
{
	size_t		i;

	for (i = 0; i < sizeof(latin) / sizeof(latin[0]); i++)
		if (is_named(latin[i], text, size))
			return 160 + (int32_t) i;
	for (i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		if ((has_semicolon || !others[i].needs_semicolon) &&
			is_named(others[i].name, text, size))
			return others[i].character;
	return 0;
}

/* A name at the text: how many characters it takes, 0 if it is none. */
static size_t
read_name(const int32_t *text, size_t count, int32_t *found)
{
	char		name[LONGEST];
	size_t		size = 0;
	size_t		length;

	while (size < count && size < LONGEST && text[size] < 128 &&
		   (digit_of(text[size], 10) >= 0 ||
			((text[size] | 32) >= 'a' && (text[size] | 32) <= 'z')))
	{
		name[size] = (char) text[size];
		size++;
	}
	if (size < count && text[size] == ';' &&
		(*found = find_name(name, size, true)) != 0)
		return size + 1;
	for (length = size; length > 1; length--)
		if ((*found = find_name(name, length, false)) != 0)
			return length;
	return 0;
}

void
avc_entities_resolve(AvcCharacters *text)
{
	size_t		to = 0;
	size_t		at = 0;

	while (at < text->count)
	{
		const int32_t *next = text->at + at + 1;
		size_t		left = text->count - at - 1;
		int32_t		found = text->at[at];
		size_t		taken = 0;

		if (found == '&' && left > 0)
			taken = next[0] == '#' ? read_number(next, left, &found)
				: read_name(next, left, &found);
		if (taken == 0)
			found = text->at[at];
		at += 1 + taken;
		if (found >= 0)
			text->at[to++] = found;
	}
	text->count = to;
}
