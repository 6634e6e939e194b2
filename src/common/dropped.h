/*
 * common/dropped.h
 *		What the registry forgets when objects are dropped.
 */
#ifndef AVC_COMMON_DROPPED_H
#define AVC_COMMON_DROPPED_H

#include "fmgr.h"

/*
 * Body of a sql_drop event trigger function "name": run statements as the
 * extension's owner.  False, and nothing is done, while the extension itself
 * is dropped: its registry goes with it.
 */
extern bool avc_forget_dropped(FunctionCallInfo fcinfo, const char *name,
							   const char *const *statements, int count);

#endif
