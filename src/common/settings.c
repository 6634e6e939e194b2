/*
 * common/settings.c
 *		Definition of the avcurate.* settings.
 */
#include "postgres.h"

#include <limits.h>
#include <unistd.h>

#include "utils/guc.h"

#include "common/settings.h"
#include "engine/core/devices.h"

char	   *avc_device = NULL;
int			avc_threads = 0;
int			avc_detector = 0;
int			avc_clip_model = 0;
int			avc_max_workers = 4;
int			avc_max_device_jobs = 0;
int			avc_retry_delay = 5000;
int			avc_launcher_interval = 60;
int			avc_engine_idle_timeout = 300;
int			avc_engine_stall_timeout = 300;
int			avc_engine_memory_limit = 0;
char	   *avc_engine_path = NULL;
double		avc_refresh_full_threshold = 0.5;

static bool
check_device(char **newval, void **extra, GucSource source)
{
	if (strcmp(*newval, "auto") == 0 || strcmp(*newval, "cpu") == 0 ||
		(strncmp(*newval, "cuda:", 5) == 0 && eng_device_is_known(*newval)))
		return true;
	GUC_check_errdetail("Devices are \"auto\", \"cpu\", \"cuda:N\", and for several GPUs \"cuda:0,1\" or \"cuda:all\".");
	return false;
}

int64
avc_engine_memory_bytes(void)
{
	if (avc_engine_memory_limit > 0)
		return (int64) avc_engine_memory_limit << 20;
	return (int64) sysconf(_SC_PHYS_PAGES) / 2 * sysconf(_SC_PAGESIZE);
}

int64
avc_engine_device_memory_bytes(void)
{
	return (int64) avc_engine_memory_limit << 20;
}

void
avc_settings_define(void)
{
	DefineCustomStringVariable("avcurate.device",
							   "Device that networks run on.",
							   "\"auto\" takes a GPU when there is one.",
							   &avc_device, "auto", PGC_USERSET, 0,
							   check_device, NULL, NULL);
	DefineCustomIntVariable("avcurate.threads",
							"Threads of an engine on a CPU; 0 means all cores.",
							NULL, &avc_threads, 0, 0, 1024, PGC_USERSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("avcurate.detector",
							"Checkpoint used by detect() when none is named.",
							NULL, &avc_detector, 0, 0, INT_MAX, PGC_USERSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("avcurate.clip_model",
							"Checkpoint used for embeddings when none is named.",
							NULL, &avc_clip_model, 0, 0, INT_MAX, PGC_USERSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("avcurate.max_workers",
							"Jobs that may run at the same time.",
							NULL, &avc_max_workers, 4, 1, 256, PGC_SUSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("avcurate.max_device_jobs",
							"Jobs that may run on one device at the same time.",
							"0 means one on a GPU and any number on the CPU.",
							&avc_max_device_jobs, 0, 0, 256, PGC_SUSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("avcurate.retry_delay",
							"Time before a job that failed for a passing reason is started again.",
							"It doubles with each start that leads to nothing; 0 never starts again by itself.",
							&avc_retry_delay, 5000, 0, 3600000, PGC_SUSET,
							GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("avcurate.launcher_interval",
							"Time between two looks of the launcher for jobs that nobody runs.",
							"The launcher exists where the library is preloaded.",
							&avc_launcher_interval, 60, 1, 86400, PGC_SIGHUP,
							GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("avcurate.engine_idle_timeout",
							"Time after which a shared engine is stopped.",
							NULL, &avc_engine_idle_timeout, 300, 1, 86400,
							PGC_SUSET, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("avcurate.engine_stall_timeout",
							"Time after which a job's engine that uses no processor time counts as hanging.",
							"The job fails for a passing reason, so it is started again; 0 waits for ever.",
							&avc_engine_stall_timeout, 300, 0, 86400,
							PGC_SUSET, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("avcurate.engine_memory_limit",
							"Most memory an engine may plan for; 0 means half of the machine's, 7/8 of a GPU's.",
							NULL, &avc_engine_memory_limit, 0, 0, INT_MAX,
							PGC_SUSET, GUC_UNIT_MB, NULL, NULL, NULL);
	DefineCustomStringVariable("avcurate.engine_path",
							   "The engine program; empty means beside the server's programs.",
							   NULL, &avc_engine_path, "", PGC_SUSET, 0,
							   NULL, NULL, NULL);
	DefineCustomRealVariable("avcurate.refresh_full_threshold",
							 "Share of a dataset's rows that may change before a refresh recomputes.",
							 "0 always recomputes when a row changed, 1 never for this reason.",
							 &avc_refresh_full_threshold, 0.5, 0.0, 1.0,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	MarkGUCPrefixReserved("avcurate");
}
