/*
 * jobs/launcher.c
 *		Workers of the queue: start them, recover what a crash left, run one
 *		job after another.
 *
 * A worker takes one of avcurate.max_workers slots or leaves.  Its first act
 * is to put jobs back whose worker is gone.  When it finds nothing more to
 * do it gives its slot back and looks once more: a job queued while all
 * slots were taken is thus never left behind.  One worker of a database waits
 * without a slot for jobs that went back with a delay, and for those that
 * only jobs of other databases hold up.
 *
 * A job's memory is one context that is deleted when the job ends.
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "common/catalog.h"
#include "common/engine_client.h"
#include "common/settings.h"
#include "common/spi.h"
#include "common/worker.h"
#include "jobs/queue.h"
#include "jobs/state.h"

#define MAX_RETRY_DELAY_MS	3600000
#define RETRY_LOOK_MS		10000	/* looks for other jobs while waiting */
#define LOCKED_LOOK_MS		500		/* a due job whose row somebody locks */

PG_FUNCTION_INFO_V1(avc_run_pending);

extern PGDLLEXPORT void avc_job_worker_main(Datum arg);

/* ---- recovery ------------------------------------------------------- */

static void
recover_one(int64 job, int fruitless, int max_attempts)
{
	if (fruitless < max_attempts)
		avc_job_state_change(job, AVC_JOB_RUNNING, AVC_JOB_PENDING, NULL);
	else
		avc_job_state_change(job, AVC_JOB_RUNNING, AVC_JOB_FAILED,
							 psprintf("worker ended without a result, %d times",
									  fruitless));
}

/* Put running jobs back whose worker is gone. */
static void
recover_jobs(void)
{
	AvcRoleScope scope;
	uint64		rows;
	uint64		i;
	SPITupleTable *table;

	avc_job_access_begin(&scope);
	rows = avc_spi_exec("SELECT job, fruitless, max_attempts, "
						"cancel_requested FROM _avcurate.jobs "
						"WHERE state = 'running' ORDER BY job "
						"FOR NO KEY UPDATE SKIP LOCKED", 0, NULL, false, 0);
	table = SPI_tuptable;
	for (i = 0; i < rows; i++)
	{
		HeapTuple	tuple = table->vals[i];
		bool		is_null;
		int64		job = DatumGetInt64(SPI_getbinval(tuple, table->tupdesc, 1,
													  &is_null));

		if (avc_job_is_alive(job))
			continue;
		if (DatumGetBool(SPI_getbinval(tuple, table->tupdesc, 4, &is_null)))
			avc_job_state_change(job, AVC_JOB_RUNNING, AVC_JOB_CANCELLED,
								 NULL);
		else
			recover_one(job,
						DatumGetInt32(SPI_getbinval(tuple, table->tupdesc, 2,
													&is_null)),
						DatumGetInt32(SPI_getbinval(tuple, table->tupdesc, 3,
													&is_null)));
	}
	avc_job_access_end(&scope);
}

/* ---- one job -------------------------------------------------------- */

/* What jobs.error keeps of an error: message and detail. */
static char *
error_text(const ErrorData *edata)
{
	const char *message = edata->message ? edata->message : "unknown error";

	if (edata->detail != NULL)
		return psprintf("%s (%s)", message, edata->detail);
	return pstrdup(message);
}

/* How a body came to its end. */
typedef struct JobEnd
{
	char	   *error;			/* NULL = it returned */
	int			sqlstate;		/* of the error */
	bool		was_cancelled;
} JobEnd;

/*
 * May the same work well the next time?  What the engine refuses for its
 * memory limit is the same each time, so running out of memory does not count.
 */
static bool
is_passing(int sqlstate)
{
	switch (ERRCODE_TO_CATEGORY(sqlstate))
	{
		case ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES):
			return sqlstate != ERRCODE_OUT_OF_MEMORY &&
				sqlstate != ERRCODE_CONFIGURATION_LIMIT_EXCEEDED;
		case ERRCODE_TO_CATEGORY(ERRCODE_SYSTEM_ERROR):
		case ERRCODE_TO_CATEGORY(ERRCODE_TRANSACTION_ROLLBACK):
			return true;
		default:
			return sqlstate == ERRCODE_LOCK_NOT_AVAILABLE;
	}
}

/* Put the job back if it may be tried again; false if it may not. */
static bool
retry(const AvcJob *job, const JobEnd *end, int fruitless, int max_attempts)
{
	int64		delay = (int64) avc_retry_delay << Min(Max(fruitless - 1, 0), 10);
	AvcParam	params[] = {
		AVC_INT8(job->job),
		AVC_TEXT(psprintf("starts again in %.3g s after: %s", delay / 1e3,
						  end->error))
	};

	if (!is_passing(end->sqlstate) || avc_retry_delay == 0 ||
		fruitless >= max_attempts)
		return false;
	avc_job_put_back(job->job, end->error, Min(delay, MAX_RETRY_DELAY_MS));
	avc_spi_exec("INSERT INTO _avcurate.job_log (job, level, message) "
				 "VALUES ($1, 'warning', $2)", lengthof(params), params,
				 false, 0);
	return true;
}

/*
 * Record how a job ended.  A cancel that came too late to interrupt the body
 * still counts, unless the body has already marked the job as succeeded.
 */
static void
record_end(AvcJob *job, const JobEnd *end)
{
	AvcRoleScope scope;
	AvcParam	params[] = {AVC_INT8(job->job)};
	bool		is_null;

	avc_job_access_begin(&scope);
	if (avc_spi_exec("SELECT cancel_requested, fruitless, max_attempts "
					 "FROM _avcurate.jobs WHERE job = $1 "
					 "AND state = 'running' FOR NO KEY UPDATE",
					 1, params, false, 0) > 0)
	{
		bool		requested = DatumGetBool(avc_spi_column(0, "cancel_requested",
															&is_null));
		int			fruitless = DatumGetInt32(avc_spi_column(0, "fruitless",
															 &is_null));
		int			most = DatumGetInt32(avc_spi_column(0, "max_attempts",
														&is_null));

		if (end->was_cancelled || requested)
			avc_job_state_change(job->job, AVC_JOB_RUNNING, AVC_JOB_CANCELLED,
								 NULL);
		else if (end->error == NULL)
			avc_job_state_change(job->job, AVC_JOB_RUNNING, AVC_JOB_SUCCEEDED,
								 NULL);
		else if (!retry(job, end, fruitless, most))
			avc_job_state_change(job->job, AVC_JOB_RUNNING, AVC_JOB_FAILED,
								 end->error);
	}
	avc_job_access_end(&scope);
}

void
avc_job_call_body(AvcJob *job)
{
	AvcJobBody	body;

	body = (AvcJobBody) load_external_function("$libdir/avcurate", job->body,
											   true, NULL);
	MemoryContextSwitchTo(job->context);
	body(job);
}

static void
try_body(AvcJob *job, JobEnd *end)
{
	memset(end, 0, sizeof(*end));
	pqsignal(SIGINT, StatementCancelHandler);
	PG_TRY();
	{
		avc_job_call_body(job);
		if (IsTransactionState())
			elog(ERROR, "body of job " INT64_FORMAT " left a transaction open",
				 job->job);
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		/* From here on a cancel has nothing left to cancel. */
		pqsignal(SIGINT, SIG_IGN);
		HOLD_INTERRUPTS();
		QueryCancelPending = false;
		MemoryContextSwitchTo(job->context);
		edata = CopyErrorData();
		end->was_cancelled = edata->sqlerrcode == ERRCODE_QUERY_CANCELED;
		end->sqlstate = edata->sqlerrcode;
		end->error = error_text(edata);
		if (!end->was_cancelled)
			EmitErrorReport();
		AbortOutOfAnyTransaction();
		FlushErrorState();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	pqsignal(SIGINT, SIG_IGN);
	QueryCancelPending = false;
}

static void
run_job(AvcJob *job)
{
	JobEnd		end;

	pgstat_report_activity(STATE_RUNNING,
						   psprintf("job " INT64_FORMAT ": %s", job->job,
									job->kind));
	try_body(job, &end);
	avc_engine_stop_all();
	record_end(job, &end);
	avc_job_device_release(job->device, job->device_slot);
	avc_job_unlock(job->job);
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextDelete(job->context);
	pgstat_report_activity(STATE_IDLE, NULL);
}

/*
 * Nothing could be claimed: look again, at once if a job is due (it was
 * queued meanwhile) and that was not done yet, else when one may be.  False
 * if this worker is not needed: nothing waits, or another worker waits for it
 * already.
 */
static bool
wait_for_jobs(bool has_slot, bool *looked_again)
{
	int64		wait = avc_job_next_start(has_slot);

	if (wait < 0)
		return false;
	*looked_again = wait == 0 && !*looked_again;
	if (*looked_again)
		return true;
	if (!avc_job_retries_take())
		return false;
	pgstat_report_activity(STATE_IDLE, "waiting for a job");
	wait = Min(Max(wait, LOCKED_LOOK_MS), RETRY_LOOK_MS);
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 (long) wait, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	avc_job_retries_release();
	return true;
}

/*
 * Entry of the queue's workers.
 */
void
avc_job_worker_main(Datum arg)
{
	bool		looked_again = false;
	int			slot = -1;

	if (!avc_worker_begin())
		return;
	SetConfigOption("search_path", "pg_catalog, pg_temp", PGC_USERSET,
					PGC_S_SESSION);
	pqsignal(SIGINT, SIG_IGN);
	recover_jobs();
	for (;;)
	{
		AvcJob	   *job = NULL;
		bool		has_slot;

		CHECK_FOR_INTERRUPTS();
		avc_worker_reload();
		if (slot < 0)
			slot = avc_job_slot_take(avc_max_workers);
		has_slot = slot >= 0;
		if (has_slot)
			job = avc_job_claim();
		if (job != NULL)
		{
			run_job(job);
			looked_again = false;
			continue;
		}
		if (has_slot)
			avc_job_slot_release(slot);
		slot = -1;
		if (!wait_for_jobs(has_slot, &looked_again))
			return;
	}
}

/*
 * run_pending(max_jobs) returns int: workers started for jobs that wait.
 */
Datum
avc_run_pending(PG_FUNCTION_ARGS)
{
	int64		wanted;
	int			started = 0;

	PreventCommandIfReadOnly("run_pending()");
	if (!PG_ARGISNULL(0) && PG_GETARG_INT32(0) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_jobs must not be negative")));
	wanted = Min(avc_job_count_waiting(),
				 avc_job_slot_free_count(avc_max_workers));
	if (!PG_ARGISNULL(0))
		wanted = Min(wanted, PG_GETARG_INT32(0));
	while (started < wanted && avc_job_worker_register(false))
		started++;
	if (started < wanted)
		ereport(NOTICE,
				(errmsg("jobs stay pending: no worker slot of the server is free"),
				 errhint("Raise max_worker_processes.")));
	PG_RETURN_INT32(started);
}
