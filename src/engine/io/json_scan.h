/*
 * engine/io/json_scan.h
 *		A strict scanner of JSON text, for documents of a known form.
 *
 * The caller walks the text in the order that it expects; every function
 * skips white space first, returns false and sets the status if something
 * else stands there, and moves on if not.  Nothing is allocated: strings are
 * decoded into a block of the caller's that is at least as long as the text.
 */
#ifndef ENG_IO_JSON_SCAN_H
#define ENG_IO_JSON_SCAN_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/status.h"

typedef struct EngScanner
{
	const uint8_t *start;
	const uint8_t *at;
	const uint8_t *end;
	char	   *strings;		/* where the next decoded string goes */
	EngStatus  *status;
} EngScanner;

/* Set the status to "safetensors header: WHAT at byte N".  Returns false. */
extern bool eng_scan_fail(EngScanner *scanner, const char *what);

extern void eng_scan_space(EngScanner *scanner);

/* Take the character if it comes next; expect: fail if it does not. */
extern bool eng_scan_take(EngScanner *scanner, char wanted);
extern bool eng_scan_expect(EngScanner *scanner, char wanted);

/* After an element of a list: a comma (*more is true) or the end of it. */
extern bool eng_scan_next(EngScanner *scanner, char close, bool *more);

/*
 * Decode a string; it ends with a zero byte and holds none, as the escape
 * for that character is refused.
 */
extern bool eng_scan_string(EngScanner *scanner, const char **out);

/* A plain integer from 0 to 2^63 - 1: no sign, fraction or exponent. */
extern bool eng_scan_integer(EngScanner *scanner, uint64_t *out);

#endif							/* ENG_IO_JSON_SCAN_H */
