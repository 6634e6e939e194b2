/*
 * engine/status.c
 *		Failure codes, their names and the recording of a failure.
 */
#include "engine/status.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

static const char *const code_names[] = {
	[ENG_OK] = "ok",
	[ENG_BAD_ARGUMENT] = "bad_argument",
	[ENG_BAD_FILE] = "bad_file",
	[ENG_NO_MEMORY] = "no_memory",
	[ENG_UNSUPPORTED] = "unsupported",
	[ENG_IO] = "io",
	[ENG_NUMERIC] = "numeric",
	[ENG_INTERNAL] = "internal",
	[ENG_NOT_LOADED] = "not_loaded",
	[ENG_DEVICE] = "device"
};

bool
eng_fail(EngStatus *status, EngCode code, const char *format,...)
{
	va_list		args;
	char	   *at;

	if (status == NULL || status->code != ENG_OK)
		return false;
	status->code = code;
	va_start(args, format);
	vsnprintf(status->message, sizeof(status->message), format, args);
	va_end(args);
	/* names out of unknown files must not break or colour the line */
	for (at = status->message; *at != '\0'; at++)
		if ((unsigned char) *at < 0x20 || *at == 0x7f)
			*at = '?';
	return false;
}

const char *
eng_code_name(EngCode code)
{
	if ((size_t) code >= sizeof(code_names) / sizeof(code_names[0]))
		return "internal";
	return code_names[code];
}
