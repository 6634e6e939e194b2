/*
 * avcurate.c
 *		Module magic, settings and, where preloaded, the launcher.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "common/settings.h"
#include "common/worker.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

void
_PG_init(void)
{
	avc_settings_define();
	/* pg_upgrade's servers are not for jobs */
	if (process_shared_preload_libraries_in_progress && !IsBinaryUpgrade)
		avc_worker_preload("avc_launcher_main", "avcurate launcher");
}
