/*
 * avcurate.c
 *		Module magic and settings; nothing else happens at load.
 */
#include "postgres.h"

#include "fmgr.h"

#include "common/settings.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

void
_PG_init(void)
{
	avc_settings_define();
}
