/*
 * common/message.c
 *		Text of a format and its arguments.
 */
#include "postgres.h"

#include "lib/stringinfo.h"

#include "common/message.h"

char *
avc_message(const char *format, va_list args)
{
	int			saved_errno = errno;
	StringInfoData text;

	initStringInfo(&text);
	for (;;)
	{
		va_list		copy;
		int			needed;

		errno = saved_errno;
		va_copy(copy, args);
		needed = appendStringInfoVA(&text, format, copy);
		va_end(copy);
		if (needed == 0)
			return text.data;
		enlargeStringInfo(&text, needed);
	}
}
