/*
 * engine/io/json_scan.c
 *		A strict scanner of JSON text, for documents of a known form.
 */
#include "engine/io/json_scan.h"

#include <string.h>

bool
eng_scan_fail(EngScanner *scanner, const char *what)
{
	return eng_fail(scanner->status, ENG_BAD_FILE,
					"safetensors header: %s at byte %zu", what,
					(size_t) (scanner->at - scanner->start));
}

void
eng_scan_space(EngScanner *scanner)
{
	while (scanner->at < scanner->end &&
		   (*scanner->at == ' ' || *scanner->at == '\n' ||
			*scanner->at == '\r' || *scanner->at == '\t'))
		scanner->at++;
}

/*
 * Take the character if it comes next, spaces before it included.
 */
bool
eng_scan_take(EngScanner *scanner, char wanted)
{
	eng_scan_space(scanner);
	if (scanner->at >= scanner->end || *scanner->at != (uint8_t) wanted)
		return false;
	scanner->at++;
	return true;
}

bool
eng_scan_expect(EngScanner *scanner, char wanted)
{
	char		what[] = "'?' expected";

	if (eng_scan_take(scanner, wanted))
		return true;
	what[1] = wanted;
	return eng_scan_fail(scanner, what);
}

/*
 * After an element of a list: true with *more = a comma came, or the list's
 * end came.
 */
bool
eng_scan_next(EngScanner *scanner, char close, bool *more)
{
	*more = eng_scan_take(scanner, ',');
	return *more || eng_scan_expect(scanner, close);
}

static bool
scan_hex4(EngScanner *scanner, uint32_t *out)
{
	uint32_t	value = 0;
	int			i;

	if (scanner->end - scanner->at < 4)
		return eng_scan_fail(scanner, "incomplete escape");
	for (i = 0; i < 4; i++)
	{
		uint8_t		c = *scanner->at;
		uint32_t	digit;

		if (c >= '0' && c <= '9')
			digit = c - '0';
		else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
			digit = (c | 0x20) - 'a' + 10;
		else
			return eng_scan_fail(scanner, "wrong hexadecimal digit");
		value = value << 4 | digit;
		scanner->at++;
	}
	*out = value;
	return true;
}

static void
put_utf8(EngScanner *scanner, uint32_t code)
{
	char	   *out = scanner->strings;

	if (code < 0x80)
		*out++ = (char) code;
	else if (code < 0x800)
	{
		*out++ = (char) (0xc0 | code >> 6);
		*out++ = (char) (0x80 | (code & 0x3f));
	}
	else if (code < 0x10000)
	{
		*out++ = (char) (0xe0 | code >> 12);
		*out++ = (char) (0x80 | (code >> 6 & 0x3f));
		*out++ = (char) (0x80 | (code & 0x3f));
	}
	else
	{
		*out++ = (char) (0xf0 | code >> 18);
		*out++ = (char) (0x80 | (code >> 12 & 0x3f));
		*out++ = (char) (0x80 | (code >> 6 & 0x3f));
		*out++ = (char) (0x80 | (code & 0x3f));
	}
	scanner->strings = out;
}

/*
 * The part of an escape after \u; a pair of surrogates makes one character.
 */
static bool
scan_unicode_escape(EngScanner *scanner)
{
	uint32_t	code = 0;
	uint32_t	low = 0;

	if (!scan_hex4(scanner, &code))
		return false;
	if (code == 0)
		return eng_scan_fail(scanner, "zero character in a string");
	if (code >= 0xd800 && code < 0xe000)
	{
		if (code >= 0xdc00 || scanner->end - scanner->at < 6 ||
			scanner->at[0] != '\\' || scanner->at[1] != 'u')
			return eng_scan_fail(scanner, "unpaired surrogate");
		scanner->at += 2;
		if (!scan_hex4(scanner, &low))
			return false;
		if (low < 0xdc00 || low >= 0xe000)
			return eng_scan_fail(scanner, "unpaired surrogate");
		code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
	}
	put_utf8(scanner, code);
	return true;
}

static bool
scan_escape(EngScanner *scanner)
{
	static const char from[] = "\"\\/bfnrt";
	static const char to[] = "\"\\/\b\f\n\r\t";
	const char *found;

	if (scanner->at >= scanner->end)
		return eng_scan_fail(scanner, "unfinished string");
	if (*scanner->at == 'u')
	{
		scanner->at++;
		return scan_unicode_escape(scanner);
	}
	if (*scanner->at == '\0' ||
		(found = strchr(from, *scanner->at)) == NULL)
		return eng_scan_fail(scanner, "unknown escape");
	*scanner->strings++ = to[found - from];
	scanner->at++;
	return true;
}

/*
 * Copy one character of two to four bytes, which must be the shortest form
 * of a code that is no surrogate and not over 0x10ffff.
 */
static bool
scan_multibyte(EngScanner *scanner)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	uint8_t		first = *scanner->at;
	uint32_t	code = 0;
	int			length;
	int			i;

	if (first >= 0xf8 || first < 0xc0)
		return eng_scan_fail(scanner, "text is not UTF-8");
	length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
	code = first & (0x7f >> length);
	if (scanner->end - scanner->at < length)
		return eng_scan_fail(scanner, "text is not UTF-8");
	for (i = 1; i < length; i++)
	{
		if ((scanner->at[i] & 0xc0) != 0x80)
			return eng_scan_fail(scanner, "text is not UTF-8");
		code = code << 6 | (scanner->at[i] & 0x3f);
	}
	if (code < least[length] || code > 0x10ffff ||
		(code >= 0xd800 && code < 0xe000))
		return eng_scan_fail(scanner, "text is not UTF-8");
	memcpy(scanner->strings, scanner->at, length);
	scanner->strings += length;
	scanner->at += length;
	return true;
}

/*
 * Decode a string into the block of strings.
 */
bool
eng_scan_string(EngScanner *scanner, const char **out)
{
	if (!eng_scan_expect(scanner, '"'))
		return false;
	*out = scanner->strings;
	for (;;)
	{
		uint8_t		c;
		bool		fine = true;

		if (scanner->at >= scanner->end)
			return eng_scan_fail(scanner, "unfinished string");
		c = *scanner->at;
		if (c == '"')
			break;
		if (c < 0x20)
			return eng_scan_fail(scanner, "control character in a string");
		if (c == '\\')
		{
			scanner->at++;
			fine = scan_escape(scanner);
		}
		else if (c >= 0x80)
			fine = scan_multibyte(scanner);
		else
		{
			*scanner->strings++ = (char) c;
			scanner->at++;
		}
		if (!fine)
			return false;
	}
	scanner->at++;
	*scanner->strings++ = '\0';
	return true;
}

/*
 * A plain non-negative integer below 2^63: no sign, fraction or exponent.
 */
bool
eng_scan_integer(EngScanner *scanner, uint64_t *out)
{
	uint64_t	value = 0;
	const uint8_t *first;

	eng_scan_space(scanner);
	first = scanner->at;
	while (scanner->at < scanner->end &&
		   *scanner->at >= '0' && *scanner->at <= '9')
	{
		if (__builtin_mul_overflow(value, 10, &value) ||
			__builtin_add_overflow(value, *scanner->at - '0', &value) ||
			value > INT64_MAX)
			return eng_scan_fail(scanner, "integer is too large");
		scanner->at++;
	}
	if (scanner->at == first ||
		(*first == '0' && scanner->at - first > 1) ||
		(scanner->at < scanner->end &&
		 strchr(".eE", *scanner->at) != NULL && *scanner->at != '\0'))
		return eng_scan_fail(scanner, "non-negative integer expected");
	*out = value;
	return true;
}
