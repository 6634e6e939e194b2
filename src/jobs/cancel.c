/*
 * jobs/cancel.c
 *		Cancel jobs, and put those that ended back into the queue.
 *
 * A job that nobody runs is cancelled at once.  A running one is cancelled
 * when the transaction that asks for it commits: until then its row is not
 * locked, so its worker goes on, and a rollback has changed nothing (unless
 * SET CONSTRAINTS ALL IMMEDIATE asked for it to happen before).  What is
 * asked for is a row of _avcurate.cancel_requests, whose deferred trigger does
 * the work, so it goes with its savepoint, too.
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/rel.h"
#include "utils/resowner.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "jobs/queue.h"

PG_FUNCTION_INFO_V1(avc_cancel_job);
PG_FUNCTION_INFO_V1(avc_cancel_at_commit);
PG_FUNCTION_INFO_V1(avc_resume_job);

static void
change_state(int64 job, AvcJobState from, AvcJobState to)
{
	AvcRoleScope scope;

	avc_catalog_enter(&scope);
	SPI_connect();
	avc_job_state_change(job, from, to, NULL);
	SPI_finish();
	avc_catalog_leave(&scope);
}

/* Run a statement of one job's number on the catalog's tables. */
static void
execute(const char *sql, int64 job)
{
	AvcParam	param = AVC_INT8(job);
	AvcRoleScope scope;

	avc_catalog_enter(&scope);
	SPI_connect();
	avc_spi_exec(sql, 1, &param, false, 0);
	SPI_finish();
	avc_catalog_leave(&scope);
}

static bool
has_worker(int64 job, const AvcJobRow *row)
{
	return row->state == AVC_JOB_RUNNING && avc_job_is_alive(job);
}

static bool
has_ended(const AvcJobRow *row)
{
	return row->state != AVC_JOB_PENDING && row->state != AVC_JOB_RUNNING;
}

/*
 * Lock the row and cancel the job if nobody runs it; the lock goes again if
 * somebody does, or it would hold that worker up until this transaction ends.
 */
static bool
cancel_idle(int64 job)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	bool		is_idle;
	AvcJobRow	row;

	BeginInternalSubTransaction(NULL);
	avc_job_read(job, true, &row);
	is_idle = !has_ended(&row) && !has_worker(job, &row);
	if (is_idle)
	{
		change_state(job, row.state, AVC_JOB_CANCELLED);
		ReleaseCurrentSubTransaction();
	}
	else
		RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return is_idle;
}

/*
 * cancel_job(job) returns boolean: false if the job had already ended.
 */
Datum
avc_cancel_job(PG_FUNCTION_ARGS)
{
	int64		job = PG_GETARG_INT64(0);

	PreventCommandIfReadOnly("cancel_job()");
	for (;;)
	{
		AvcJobRow	row;

		CHECK_FOR_INTERRUPTS();
		avc_job_read(job, false, &row);
		if (has_ended(&row))
			PG_RETURN_BOOL(false);
		if (has_worker(job, &row))
			break;
		if (cancel_idle(job))
			PG_RETURN_BOOL(true);
		/* a worker claimed it or put it back meanwhile */
	}
	execute("INSERT INTO _avcurate.cancel_requests (job) VALUES ($1)", job);
	PG_RETURN_BOOL(true);
}

/* The worker is signalled while the row is locked (jobs/queue.c). */
static void
cancel_now(int64 job)
{
	AvcJobRow	row;

	if (!avc_job_find(job, true, &row) || has_ended(&row))
		return;
	if (!has_worker(job, &row))
	{
		change_state(job, row.state, AVC_JOB_CANCELLED);
		return;
	}
	execute("UPDATE _avcurate.jobs SET cancel_requested = true "
			"WHERE job = $1", job);
	if (row.worker_pid > 0)
		(void) kill(row.worker_pid, SIGINT);
}

/* Deferred trigger of _avcurate.cancel_requests: whoever asked had the right. */
Datum
avc_cancel_at_commit(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	bool		is_null;
	int64		job;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_AFTER(trigger->tg_event) ||
		!TRIGGER_FIRED_BY_INSERT(trigger->tg_event) ||
		strcmp(RelationGetRelationName(trigger->tg_relation),
			   "cancel_requests") != 0 ||
		RelationGetForm(trigger->tg_relation)->relowner !=
		avc_extension_owner())
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("avc_cancel_at_commit must be fired by _avcurate.cancel_requests")));
	job = DatumGetInt64(heap_getattr(trigger->tg_trigtuple, 1,
									 RelationGetDescr(trigger->tg_relation),
									 &is_null));
	execute("DELETE FROM _avcurate.cancel_requests WHERE job = $1", job);
	cancel_now(job);
	return PointerGetDatum(NULL);
}

/*
 * resume_job(job) returns boolean: a failed or cancelled job is pending
 * again; false if it is pending, running or done.
 */
Datum
avc_resume_job(PG_FUNCTION_ARGS)
{
	int64		job = PG_GETARG_INT64(0);
	AvcJobRow	row;

	PreventCommandIfReadOnly("resume_job()");
	avc_job_read(job, true, &row);
	if (row.state != AVC_JOB_FAILED && row.state != AVC_JOB_CANCELLED)
		PG_RETURN_BOOL(false);
	change_state(job, row.state, AVC_JOB_PENDING);
	if (!avc_job_worker_register(true))
		ereport(NOTICE,
				(errmsg("job " INT64_FORMAT " stays pending: no worker slot of the server is free",
						job),
				 errhint("Run avcurate.run_pending() later, or raise max_worker_processes.")));
	PG_RETURN_BOOL(true);
}
