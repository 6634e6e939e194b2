/*
 * jobs/wait.c
 *		wait_job() and await_job: until a job has ended.
 *
 * Both look at the job's row every moment, each time with a fresh snapshot,
 * tell how far it is, and see to it that somebody runs it.  wait_job is a
 * function, so its statement's snapshot holds VACUUM back meanwhile;
 * await_job is a procedure and commits between looks.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "common/procedure.h"
#include "common/settings.h"
#include "jobs/queue.h"

PG_FUNCTION_INFO_V1(avc_wait_job);
PG_FUNCTION_INFO_V1(avc_await_job);

#define POLL_MS			100		/* between two looks at a job's state */
#define NUDGE_MS		1000	/* between two looks at who runs it */
#define WAITING_NOTICE_MS 2000	/* pending for longer: say why */
#define PROGRESS_NOTICE_MS 10000	/* between two notices of progress */

/* What wait_job has done so far. */
typedef struct Waiting
{
	int64		job;
	TimestampTz started;
	TimestampTz end;			/* of the caller's patience */
	TimestampTz looked;			/* last look at who runs the job */
	TimestampTz told_progress;
	bool		told;			/* the notice was given */
} Waiting;

/*
 * See to it that somebody runs the job: a worker may have found no slot, or
 * ended in the middle.
 */
static void
look_after(const AvcJobRow *row, Waiting *waiting)
{
	TimestampTz now = GetCurrentTimestamp();
	int			free_slots;

	if (RecoveryInProgress() ||
		!TimestampDifferenceExceeds(waiting->looked, now, NUDGE_MS))
		return;
	waiting->looked = now;
	if (row->state == AVC_JOB_RUNNING ? avc_job_is_alive(waiting->job) : !row->is_due)
		return;
	free_slots = avc_job_slot_free_count(avc_max_workers);
	if (free_slots > 0 && avc_job_worker_register(false))
		return;
	if (waiting->told ||
		!TimestampDifferenceExceeds(waiting->started, now, WAITING_NOTICE_MS))
		return;
	waiting->told = true;
	if (free_slots == 0)
		ereport(NOTICE,
				(errmsg("job " INT64_FORMAT " waits until another job has ended",
						waiting->job),
				 errhint("avcurate.max_workers (%d) is how many run at once.",
						 avc_max_workers)));
	else
		ereport(NOTICE,
				(errmsg("job " INT64_FORMAT " waits for a worker slot of the server",
						waiting->job),
				 errhint("Raise max_worker_processes.")));
}

static void
tell_progress(const AvcJobRow *row, Waiting *waiting)
{
	TimestampTz now = GetCurrentTimestamp();

	if (row->state != AVC_JOB_RUNNING || row->progress <= 0 ||
		!TimestampDifferenceExceeds(waiting->told_progress, now,
									PROGRESS_NOTICE_MS))
		return;
	waiting->told_progress = now;
	if (row->images_per_s > 0)
		ereport(NOTICE,
				(errmsg("job " INT64_FORMAT ": %d %% done, %.1f images/s", waiting->job,
						(int) (100 * row->progress), row->images_per_s)));
	else
		ereport(NOTICE,
				(errmsg("job " INT64_FORMAT ": %d %% done", waiting->job,
						(int) (100 * row->progress))));
}

static void
begin_waiting(Waiting *waiting, FunctionCallInfo fcinfo)
{
	memset(waiting, 0, sizeof(*waiting));
	waiting->job = PG_GETARG_INT64(0);
	waiting->started = GetCurrentTimestamp();
	waiting->looked = waiting->told_progress = waiting->started;
	waiting->end = DT_NOEND;
	if (!PG_ARGISNULL(1))
		waiting->end =
			DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
													TimestampTzGetDatum(waiting->started),
													PG_GETARG_DATUM(1)));
}

/*
 * One look: the name of the state to return, or NULL to go on waiting.
 * Raises a failed job's error.
 */
static const char *
look(Waiting *waiting)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "avcurate wait",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	int64		job = waiting->job;
	bool		is_over;
	AvcJobRow	row;

	avc_job_read(job, false, &row);
	if (row.is_mine)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("job " INT64_FORMAT " was queued or changed by this transaction and cannot go on before it commits",
						job),
				 errhint("Commit first, then call avcurate.wait_job(" INT64_FORMAT ").",
						 job)));
	if (row.state == AVC_JOB_FAILED)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("job " INT64_FORMAT " failed: %s", job,
						row.error ? row.error : "no reason recorded")));
	is_over = (row.state != AVC_JOB_PENDING && row.state != AVC_JOB_RUNNING) ||
		GetCurrentTimestamp() >= waiting->end;
	if (!is_over)
	{
		look_after(&row, waiting);
		tell_progress(&row, waiting);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return is_over ? avc_job_state_name(row.state) : NULL;
}

static void
pause_looking(void)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 POLL_MS, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/*
 * wait_job(job, timeout) returns text: the state in which the job ended, or
 * the one it is in when the time is over.
 */
Datum
avc_wait_job(PG_FUNCTION_ARGS)
{
	Waiting		waiting;
	const char *state;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	begin_waiting(&waiting, fcinfo);
	while ((state = look(&waiting)) == NULL)
		pause_looking();
	PG_RETURN_TEXT_P(cstring_to_text(state));
}

static void
await_job(FunctionCallInfo fcinfo)
{
	Waiting		waiting;
	const char *state;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("job must not be null")));
	begin_waiting(&waiting, fcinfo);
	while ((state = look(&waiting)) == NULL)
	{
		avc_procedure_commit();
		pause_looking();
	}
	if (strcmp(state, avc_job_state_name(AVC_JOB_SUCCEEDED)) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("job " INT64_FORMAT " is %s", waiting.job, state)));
}

/*
 * await_job(job, timeout): until the job has succeeded; anything else, the
 * end of the time included, is an error.
 */
Datum
avc_await_job(PG_FUNCTION_ARGS)
{
	return avc_procedure_run(fcinfo, "avcurate.await_job", await_job);
}
