/*
 * experiments/experiment.c
 *		The procedure run_experiment: queue, commit, wait, go on.
 *
 * Everything is done by jobs of the queue.  The procedure writes down which
 * job does what, so it may end at any moment: called again with the same
 * arguments, by whoever has the rights of the role, it goes on where it was.
 *
 *		running -> succeeded | failed | cancelled
 *		failed, cancelled -> running	by calling it again
 *
 * A session that is killed leaves the state at running and its jobs to the
 * workers.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "common/procedure.h"
#include "common/spi.h"
#include "experiments/experiment.h"

PG_FUNCTION_INFO_V1(avc_run_experiment);

#define PROGRESS_MS 10000		/* between two notices of the same job */
#define NEWS_MS 2000			/* between notices of jobs that ended */

/* wait_job looks after workers once a second; see what else ended then. */
#define WAIT "SELECT avcurate.wait_job($1, '1.5 s')"

/* What the caller was told last. */
typedef struct Told
{
	TimestampTz at;
	int			done;
} Told;

static void
tell_progress(const AvcExperiment *experiment, const AvcExperimentWork *work,
			  Told *told)
{
	TimestampTz now = GetCurrentTimestamp();
	int			wait = work->done != told->done ? NEWS_MS : PROGRESS_MS;

	if (told->at != 0 && !TimestampDifferenceExceeds(told->at, now, wait))
		return;
	told->at = now;
	told->done = work->done;
	if (work->images_per_s > 0)
		ereport(NOTICE,
				(errmsg("experiment \"%s\": %d of %d jobs done; %s: %d %%, %.1f images/s",
						experiment->name, work->done, work->total, work->doing,
						(int) (100 * work->progress), work->images_per_s)));
	else
		ereport(NOTICE,
				(errmsg("experiment \"%s\": %d of %d jobs done; %s",
						experiment->name, work->done, work->total,
						work->doing)));
}

/* Wait for a job a while; an error if it failed or was cancelled. */
static void
wait_for(const AvcExperiment *experiment, int64 job)
{
	AvcParam	param = AVC_INT8(job);
	bool		is_null;
	Datum		state;

	SPI_connect();
	state = avc_spi_value(WAIT, 1, &param, CurrentMemoryContext, &is_null);
	if (strcmp(TextDatumGetCString(state), "cancelled") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("job %lld of experiment \"%s\" was cancelled",
						(long long) job, experiment->name),
				 errhint("CALL run_experiment again to go on.")));
	SPI_finish();
}

/* A job that is being cancelled cannot be taken up again yet. */
static void
wait_for_cancels(const AvcExperiment *experiment)
{
	int64		job;

	while ((job = avc_experiment_cancelled_job(experiment)) != 0)
	{
		AvcParam	param = AVC_INT8(job);

		SPI_connect();
		avc_spi_exec(WAIT, 1, &param, false, 0);
		SPI_finish();
		avc_procedure_commit();
		MemoryContextSwitchTo(experiment->context);
	}
}

/* Until every job has succeeded. */
static void
follow(const AvcExperiment *experiment)
{
	MemoryContext context = AllocSetContextCreate(experiment->context,
												  "experiment round",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Told		told = {0};

	for (;;)
	{
		AvcExperimentWork work;
		int64		broken;

		MemoryContextReset(context);
		CHECK_FOR_INTERRUPTS();
		avc_experiment_advance(experiment, &work);
		avc_procedure_commit();
		MemoryContextSwitchTo(context);
		if (work.open_job == 0)
			break;
		tell_progress(experiment, &work, &told);
		broken = avc_experiment_broken_job(experiment);
		wait_for(experiment, broken != 0 ? broken : work.open_job);
		avc_procedure_commit();
		MemoryContextSwitchTo(context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

static void
tell_result(const AvcExperiment *experiment, int worse)
{
	if (worse > 0)
		ereport(WARNING,
				(errmsg("experiment \"%s\": %d of %d pairs of train and val slice are worse than the base",
						experiment->name, worse,
						experiment->train_count * experiment->val_count),
				 errhint("See avcurate.experiment_summary.")));
	else
		ereport(NOTICE,
				(errmsg("experiment \"%s\" succeeded", experiment->name),
				 errhint("See avcurate.experiment_summary.")));
}

/* From the first commit on: what was begun is ended one way or the other. */
static void
work_to_the_end(AvcExperiment *experiment, bool is_new)
{
	int			worse;

	if (!is_new)
	{
		wait_for_cancels(experiment);
		avc_experiment_set_state(experiment, "running", NULL);
		avc_experiment_queue(experiment);
		avc_procedure_commit();
		MemoryContextSwitchTo(experiment->context);
	}
	follow(experiment);
	worse = avc_experiment_summarise(experiment);
	avc_experiment_set_state(experiment, "succeeded", NULL);
	avc_procedure_commit();
	MemoryContextSwitchTo(experiment->context);
	tell_result(experiment, worse);
}

/*
 * The open jobs of an experiment that cannot go on have no use; a failure
 * that the caller repairs is taken up again by calling once more.
 */
static void
give_up(const AvcExperiment *experiment, const ErrorData *error)
{
	bool		is_cancelled = error->sqlerrcode == ERRCODE_QUERY_CANCELED;

	avc_experiment_cancel_jobs(experiment);
	avc_experiment_set_state(experiment,
							 is_cancelled ? "cancelled" : "failed",
							 error->message);
	avc_procedure_commit();
}

/* In a new transaction after an error: give up and raise it again. */
static void
clean_up(const AvcExperiment *experiment, ErrorData *error, bool is_begun)
{
	PG_TRY();
	{
		if (is_begun)
			give_up(experiment, error);
	}
	PG_CATCH();
	{
		avc_experiment_unlock(experiment);
		PG_RE_THROW();
	}
	PG_END_TRY();
	avc_experiment_unlock(experiment);
	ReThrowError(error);
}

static void
run(AvcExperiment *experiment)
{
	volatile bool is_begun = false;

	PG_TRY();
	{
		bool		is_new = avc_experiment_open(experiment);

		if (is_new)
		{
			avc_experiment_plan(experiment);
			avc_experiment_queue(experiment);
		}
		if (is_new || !avc_experiment_is(experiment, "succeeded"))
		{
			avc_procedure_commit();
			MemoryContextSwitchTo(experiment->context);
			is_begun = true;
			work_to_the_end(experiment, is_new);
		}
		else
			ereport(NOTICE,
					(errmsg("experiment \"%s\" has succeeded already",
							experiment->name),
					 errhint("See avcurate.experiment_summary.")));
	}
	PG_CATCH();
	{
		clean_up(experiment, avc_procedure_rescue(experiment->context),
				 is_begun);
	}
	PG_END_TRY();
	avc_experiment_unlock(experiment);
}

static void
run_experiment(FunctionCallInfo fcinfo)
{
	run(avc_experiment_arguments(fcinfo));
}

Datum
avc_run_experiment(PG_FUNCTION_ARGS)
{
	return avc_procedure_run(fcinfo, "run_experiment", run_experiment);
}
