/*
 * jobs/launcher.c
 *		Workers of the queue: start them, recover what a crash left, run one
 *		job after another.
 *
 * A worker takes one of avcurate.max_workers slots or leaves.  Its first act
 * is to put jobs back whose worker is gone.  When it finds nothing more to
 * do it gives its slot back and looks once more: a job queued while all
 * slots were taken is thus never left behind.
 *
 * A job's memory is one context that is deleted when the job ends.
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
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

PG_FUNCTION_INFO_V1(avc_run_pending);

extern PGDLLEXPORT void avc_job_worker_main(Datum arg);

/* ---- recovery ------------------------------------------------------- */

static void
recover_one(int64 job, int attempts, int max_attempts)
{
	if (attempts < max_attempts)
		avc_job_state_change(job, AVC_JOB_RUNNING, AVC_JOB_PENDING, NULL);
	else
		avc_job_state_change(job, AVC_JOB_RUNNING, AVC_JOB_FAILED,
							 psprintf("worker ended without a result, %d times",
									  attempts));
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
	rows = avc_spi_exec("SELECT job, attempts, max_attempts, "
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

/*
 * Record how a job ended.  error is NULL if its body returned; a cancel
 * that came too late to interrupt the body still counts, unless the body has
 * already marked the job as succeeded.
 */
static void
record_end(AvcJob *job, const char *error, bool was_cancelled)
{
	AvcRoleScope scope;
	AvcParam	params[] = {AVC_INT8(job->job)};
	bool		is_null;
	bool		requested;

	avc_job_access_begin(&scope);
	requested = DatumGetBool(avc_spi_value("SELECT cancel_requested FROM "
										   "_avcurate.jobs WHERE job = $1 "
										   "AND state = 'running' FOR NO KEY UPDATE",
										   1, params, CurrentMemoryContext,
										   &is_null));
	if (is_null)
		requested = false;		/* the body finished it, or it is gone */
	else if (was_cancelled || (requested && error == NULL))
		avc_job_state_change(job->job, AVC_JOB_RUNNING, AVC_JOB_CANCELLED,
							 NULL);
	else if (error != NULL)
		avc_job_state_change(job->job, AVC_JOB_RUNNING, AVC_JOB_FAILED,
							 error);
	else
		avc_job_state_change(job->job, AVC_JOB_RUNNING, AVC_JOB_SUCCEEDED,
							 NULL);
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

/*
 * Call the body.  Returns NULL, or the text of the error that it ended with.
 */
static char *
try_body(AvcJob *job, bool *was_cancelled)
{
	volatile bool cancelled = false;
	char	   *volatile error = NULL;

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
		cancelled = edata->sqlerrcode == ERRCODE_QUERY_CANCELED;
		error = error_text(edata);
		if (!cancelled)
			EmitErrorReport();
		AbortOutOfAnyTransaction();
		FlushErrorState();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	pqsignal(SIGINT, SIG_IGN);
	QueryCancelPending = false;
	*was_cancelled = cancelled;
	return error;
}

static void
run_job(AvcJob *job)
{
	char	   *error;
	bool		was_cancelled;

	pgstat_report_activity(STATE_RUNNING,
						   psprintf("job " INT64_FORMAT ": %s", job->job,
									job->kind));
	error = try_body(job, &was_cancelled);
	avc_engine_stop_all();
	record_end(job, error, was_cancelled);
	avc_job_unlock(job->job);
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextDelete(job->context);
	pgstat_report_activity(STATE_IDLE, NULL);
}

static bool
has_pending(void)
{
	AvcRoleScope scope;
	int64		count;

	avc_job_access_begin(&scope);
	count = avc_spi_int64("SELECT job FROM _avcurate.jobs "
						  "WHERE state = 'pending' LIMIT 1 "
						  "FOR NO KEY UPDATE SKIP LOCKED", 0, NULL, 0);
	avc_job_access_end(&scope);
	return count != 0;
}

/*
 * Entry of the queue's workers.
 */
void
avc_job_worker_main(Datum arg)
{
	int			slot = -1;

	if (!avc_worker_begin())
		return;
	SetConfigOption("search_path", "pg_catalog, pg_temp", PGC_USERSET,
					PGC_S_SESSION);
	pqsignal(SIGINT, SIG_IGN);
	recover_jobs();
	for (;;)
	{
		AvcJob	   *job;

		CHECK_FOR_INTERRUPTS();
		avc_worker_reload();
		if (slot < 0)
			slot = avc_job_slot_take(avc_max_workers);
		if (slot < 0)
			return;
		job = avc_job_claim();
		if (job != NULL)
		{
			run_job(job);
			continue;
		}
		avc_job_slot_release(slot);
		slot = -1;
		if (!has_pending())
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
