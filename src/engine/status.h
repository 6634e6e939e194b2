/*
 * engine/status.h
 *		How functions that know nothing of the server report failure.
 *
 * A function that can fail returns bool (or a pointer) and takes the status
 * as its last argument.  Nothing is printed and nothing exits: the caller
 * passes the status on, and only main.c, or the server's side of the
 * library, turns it into words for a person.
 */
#ifndef ENG_STATUS_H
#define ENG_STATUS_H

#include <stdbool.h>

typedef enum EngCode
{
	ENG_OK = 0,
	ENG_BAD_ARGUMENT,			/* an option or argument that cannot be */
	ENG_BAD_FILE,				/* malformed image, weights or message */
	ENG_NO_MEMORY,
	ENG_UNSUPPORTED,			/* well-formed, but not for this build */
	ENG_IO,						/* the operating system said no */
	ENG_NUMERIC,				/* a loss or gradient that is not finite */
	ENG_INTERNAL,				/* our own mistake */
	ENG_NOT_LOADED,				/* weights that are asked for by name */
	ENG_DEVICE					/* no such device, or it failed */
} EngCode;

typedef struct EngStatus
{
	EngCode		code;
	char		message[4096];	/* one line, no trailing period or newline;
								 * as long as a list of some dozen names */
} EngStatus;

/* Record a failure; the first one recorded is kept.  Returns false. */
extern bool eng_fail(EngStatus *status, EngCode code, const char *format,...)
			__attribute__((format(printf, 3, 4)));

/* Word of a code in the engine's protocol ("bad_argument", ...). */
extern const char *eng_code_name(EngCode code);

#endif
