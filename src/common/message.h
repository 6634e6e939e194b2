/*
 * common/message.h
 *		Text of a format and its arguments.
 */
#ifndef AVC_COMMON_MESSAGE_H
#define AVC_COMMON_MESSAGE_H

#include <stdarg.h>

/*
 * What psprintf gives, for functions that have their arguments as a va_list;
 * palloc'd in the current context.  %m means errno as it is at the call.
 */
extern char *avc_message(const char *format, va_list args)
			pg_attribute_printf(1, 0);

#endif
