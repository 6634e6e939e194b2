/*
 * jobs/helpers.c
 *		Workers that help the one that has claimed a job.
 *
 * The job stays its worker's: that one reports, ends it and is what a cancel
 * reaches.  Helpers come and go without a trace in the job's row; what they
 * share with it is the body's business.  They leave when the job has ended
 * or lost its worker, and one that fails leaves its share to the others.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "common/catalog.h"
#include "common/engine_client.h"
#include "common/settings.h"
#include "common/spi.h"
#include "common/worker.h"
#include "jobs/queue.h"
#include "jobs/state.h"

extern PGDLLEXPORT void avc_job_helper_main(Datum arg);

struct AvcJobHelpers
{
	int			count;
	BackgroundWorkerHandle *handles[FLEXIBLE_ARRAY_MEMBER];
};

AvcJobHelpers *
avc_job_helpers_start(AvcJob *job, int wanted)
{
	/* a slot of one's own looks free */
	int			slots = avc_job_slot_free_count(avc_max_workers) - 1;
	int			most = Max(Min(wanted, slots), 0);
	AvcJobHelpers *helpers = MemoryContextAllocZero(job->context,
													offsetof(AvcJobHelpers, handles) +
													most * sizeof(BackgroundWorkerHandle *));
	MemoryContext old = MemoryContextSwitchTo(job->context);

	while (helpers->count < most)
	{
		BackgroundWorkerHandle *handle;

		handle = avc_worker_start("avc_job_helper_main",
								  "avcurate job helper",
								  Int64GetDatum(job->job));
		if (handle == NULL)
			break;
		helpers->handles[helpers->count++] = handle;
	}
	MemoryContextSwitchTo(old);
	if (helpers->count < wanted)
		avc_job_log(job, "notice", "%d of %d workers: %s",
					helpers->count + 1, wanted + 1,
					helpers->count < most ?
					"the server has no more worker slots (max_worker_processes)" :
					"avcurate.max_workers allows no more now");
	return helpers;
}

void
avc_job_helpers_wait(AvcJobHelpers *helpers)
{
	int			i;

	for (i = 0; i < helpers->count; i++)
		(void) WaitForBackgroundWorkerShutdown(helpers->handles[i]);
}

void
avc_job_helpers_stop(AvcJobHelpers *helpers)
{
	int			i;

	for (i = 0; i < helpers->count; i++)
		TerminateBackgroundWorker(helpers->handles[i]);
}

bool
avc_job_is_wanted(const AvcJob *job)
{
	static SPIPlanPtr plan = NULL;
	AvcRoleScope scope;
	bool		is_running;

	avc_catalog_enter(&scope);
	SPI_connect();
	is_running = avc_spi_exec_kept(&plan, "SELECT 1 FROM _avcurate.jobs "
								   "WHERE job = $1 AND state = 'running' "
								   "AND NOT cancel_requested", 1,
								   (AvcParam[]) {AVC_INT8(job->job)},
								   false, 0) > 0;
	SPI_finish();
	avc_catalog_leave(&scope);
	return is_running && avc_job_is_alive(job->job);
}

/* Log what a helper ended with; the job's worker goes on without it. */
static void
report_failure(AvcJob *job)
{
	ErrorData  *edata;

	HOLD_INTERRUPTS();
	MemoryContextSwitchTo(job->context);
	edata = CopyErrorData();
	EmitErrorReport();
	AbortOutOfAnyTransaction();
	FlushErrorState();
	RESUME_INTERRUPTS();
	avc_job_log(job, "warning", "a worker has left the job: %s",
				edata->message ? edata->message : "unknown error");
}

static void
help(AvcJob *job)
{
	PG_TRY();
	{
		avc_job_call_body(job);
	}
	PG_CATCH();
	{
		report_failure(job);
	}
	PG_END_TRY();
}

/*
 * Entry of a helper of job "arg".
 */
void
avc_job_helper_main(Datum arg)
{
	AvcJob	   *job;

	/* SIGINT stays as set there: a lock timeout comes as one */
	if (!avc_worker_begin())
		return;
	SetConfigOption("search_path", "pg_catalog, pg_temp", PGC_USERSET,
					PGC_S_SESSION);
	/* counted as free a moment ago, but another job may have been faster */
	if (avc_job_slot_take(avc_max_workers) < 0)
		return;
	job = avc_job_join(DatumGetInt64(arg));
	if (job == NULL)
		return;
	pgstat_report_activity(STATE_RUNNING,
						   psprintf("job " INT64_FORMAT ": %s", job->job,
									job->kind));
	help(job);
	avc_engine_stop_all();
}
