/*
 * clip/text.h
 *		A text as the tokenizer sees it: repaired, lower-cased, with single
 *		blanks.
 *
 * What is done to it, in this order:
 *
 *	 1	HTML entities are resolved, twice: numbers, and the names of
 *		entities.c.
 *	 2	What ftfy repairs and needs no guess: typographic quotes become
 *		straight ones, ligatures and full-width letters plain ones, control
 *		characters go.  Text in a wrong encoding is not repaired.
 *	 3	Normal form C of Unicode.
 *	 4	Runs of white space become one blank; none is left at the ends.
 *	 5	Lower case, as Unicode and Python have it.
 */
#ifndef AVC_CLIP_TEXT_H
#define AVC_CLIP_TEXT_H

#include <stddef.h>
#include <stdint.h>

#include "engine/status.h"

/* No more bytes of a text are looked at. */
#define AVC_CLIP_MAX_TEXT	16384

typedef struct AvcCharacters
{
	int32_t    *at;				/* code points, malloc'ed */
	size_t		count;
} AvcCharacters;

/* ---- text.c ---- */

/*
 * Clean a text in UTF-8.  It is an error if that is malformed.  Free with
 * avc_characters_free, after a failure too.
 */
extern bool avc_text_clean(AvcCharacters *clean, const char *text,
						   size_t size, EngStatus *status);
extern void avc_characters_free(AvcCharacters *characters);

/* What Unicode says of a character. */
extern bool avc_character_is_letter(int32_t character);
extern bool avc_character_is_number(int32_t character);
extern bool avc_character_is_space(int32_t character);

/* ---- entities.c ---- */

/* Resolve the entities of a text in place; it never grows. */
extern void avc_entities_resolve(AvcCharacters *text);

#endif
