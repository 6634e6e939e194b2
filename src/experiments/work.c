/*
 * experiments/work.c
 *		The jobs of an experiment: queue them, follow them, cancel them.
 *
 * Jobs are queued by the SQL functions train and evaluate, as the caller.
 * Which job does what is written down in the transaction that queues it, so
 * a session that goes on with the experiment finds every job again.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "experiments/experiment.h"

/* A run, as its row has it. */
typedef struct Run
{
	int			train;			/* 0 = the base */
	bool		is_control;
	int64		seed;
	int64		job;			/* of the training, 0 = none */
	int64		checkpoint;		/* 0 = none yet */
} Run;

/* All jobs, with what they are for; $1 is the experiment. */
#define JOBS \
	"(SELECT r.train, r.control, r.seed, 0 AS val, r.job " \
	"FROM _avcurate.experiment_runs AS r " \
	"WHERE r.experiment_id = $1 AND r.job IS NOT NULL " \
	"UNION ALL SELECT e.train, e.control, e.seed, e.val, e.job " \
	"FROM _avcurate.experiment_evaluations AS e " \
	"WHERE e.experiment_id = $1) AS m JOIN _avcurate.jobs AS j USING (job)"

#define BROKEN "j.state IN ('failed', 'cancelled')"

static const AvcPinnedSlice *
slice_of(const AvcExperiment *experiment, int train, bool is_control)
{
	return is_control ? &experiment->controls[train - 1] :
		&experiment->trains[train - 1];
}

/* Run a statement on the catalog's tables and forget its rows. */
static void
execute(const char *sql, int nparams, const AvcParam *params)
{
	AvcRoleScope scope;

	avc_catalog_enter(&scope);
	SPI_connect();
	avc_spi_exec(sql, nparams, params, false, 0);
	SPI_finish();
	avc_catalog_leave(&scope);
}

/* Runs that satisfy the condition, in a palloc'd array. */
static Run *
read_runs(const AvcExperiment *experiment, const char *condition, int *count)
{
	AvcParam	param = AVC_INT8(experiment->id);
	MemoryContext context = CurrentMemoryContext;
	AvcRoleScope scope;
	Run		   *runs;
	uint64		i;

	avc_catalog_enter(&scope);
	SPI_connect();
	*count = (int) avc_spi_exec(psprintf("SELECT r.train, r.control, r.seed, "
										 "r.job, r.checkpoint "
										 "FROM _avcurate.experiment_runs AS r "
										 "WHERE r.experiment_id = $1 AND %s "
										 "ORDER BY r.seed, r.train, r.control",
										 condition),
								1, &param, false, 0);
	runs = MemoryContextAllocZero(context, sizeof(Run) * (*count + 1));
	for (i = 0; i < (uint64) *count; i++)
	{
		bool		is_null;
		Datum		value;

		runs[i].train = DatumGetInt32(avc_spi_column(i, "train", &is_null));
		runs[i].is_control = DatumGetBool(avc_spi_column(i, "control",
														 &is_null));
		runs[i].seed = DatumGetInt64(avc_spi_column(i, "seed", &is_null));
		value = avc_spi_column(i, "job", &is_null);
		runs[i].job = is_null ? 0 : DatumGetInt64(value);
		value = avc_spi_column(i, "checkpoint", &is_null);
		runs[i].checkpoint = is_null ? 0 : DatumGetInt64(value);
	}
	SPI_finish();
	avc_catalog_leave(&scope);
	return runs;
}

/* ---- queue ---------------------------------------------------------- */

static int64
call_for_job(const char *sql, int nparams, const AvcParam *params)
{
	int64		job;

	SPI_connect();
	job = avc_spi_int64(sql, nparams, params, 0);
	SPI_finish();
	return job;
}

/* The relation of a pinned slice, which may have been dropped by now. */
static Oid
relation_of(const AvcPinnedSlice *slice)
{
	if (!OidIsValid(slice->slice->relid) ||
		get_rel_name(slice->slice->relid) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("slice %s was dropped while an experiment needs it",
						slice->slice->name),
				 errhint("Drop the experiment with avcurate.drop_experiment and start another.")));
	return slice->slice->relid;
}

static void
queue_training(const AvcExperiment *experiment, const Run *run)
{
	const AvcPinnedSlice *slice = slice_of(experiment, run->train,
										   run->is_control);
	AvcParam	call[] = {
		AVC_REGCLASS(relation_of(slice)), AVC_TEXT(experiment->model),
		{JSONBOID, JsonbPGetDatum(experiment->train_options), false},
		AVC_INT8(experiment->base), AVC_INT8(run->seed),
		AVC_INT8(slice->version)
	};
	AvcParam	note[5];

	note[0] = AVC_INT8(experiment->id);
	note[1] = AVC_INT4(run->train);
	note[2] = AVC_BOOL(run->is_control);
	note[3] = AVC_INT8(run->seed);
	note[4] = AVC_INT8(call_for_job("SELECT avcurate.train($1, $2, "
									"$3 OPERATOR(pg_catalog.||) "
									"pg_catalog.jsonb_build_object("
									"'from_checkpoint', $4, 'seed', $5, "
									"'version', $6))", lengthof(call), call));
	execute("UPDATE _avcurate.experiment_runs SET job = $5 "
			"WHERE experiment_id = $1 AND train = $2 AND control = $3 "
			"AND seed = $4", lengthof(note), note);
}

static void
queue_evaluation(const AvcExperiment *experiment, const Run *run, int val)
{
	const AvcPinnedSlice *slice = &experiment->vals[val - 1];
	AvcParam	call[] = {
		AVC_INT8(run->checkpoint), AVC_REGCLASS(relation_of(slice)),
		AVC_INT8(slice->version),
		{INT8OID, Int64GetDatum(experiment->eval_max_frames),
		experiment->eval_max_frames == 0},
		{JSONBOID, JsonbPGetDatum(experiment->train_options), false}
	};
	AvcParam	note[6];

	note[0] = AVC_INT8(experiment->id);
	note[1] = AVC_INT4(run->train);
	note[2] = AVC_BOOL(run->is_control);
	note[3] = AVC_INT8(run->seed);
	note[4] = AVC_INT4(val);
	note[5] = AVC_INT8(call_for_job("SELECT avcurate.evaluate($1, $2, "
									"pg_catalog.jsonb_strip_nulls("
									"pg_catalog.jsonb_build_object("
									"'version', $3, 'max_frames', $4, "
									"'device', $5 OPERATOR(pg_catalog.->) 'device', "
									"'threads', $5 OPERATOR(pg_catalog.->) 'threads')))",
									lengthof(call), call));
	execute("INSERT INTO _avcurate.experiment_evaluations "
			"(experiment_id, train, control, seed, val, job) "
			"VALUES ($1, $2, $3, $4, $5, $6)", lengthof(note), note);
}

/* Note the checkpoints of trainings that have succeeded. */
static void
note_checkpoints(const AvcExperiment *experiment)
{
	AvcParam	param = AVC_INT8(experiment->id);

	execute("UPDATE _avcurate.experiment_runs AS r "
			"SET checkpoint = j.checkpoint FROM _avcurate.jobs AS j "
			"WHERE r.experiment_id = $1 AND r.checkpoint IS NULL "
			"AND j.job = r.job AND j.state = 'succeeded'", 1, &param);
}

/* Evaluations of runs that have weights; all of a run are queued at once. */
static void
queue_evaluations(const AvcExperiment *experiment)
{
	int			count;
	Run		   *runs = read_runs(experiment, "r.checkpoint IS NOT NULL AND "
								 "NOT EXISTS (SELECT FROM _avcurate.experiment_evaluations AS e "
								 "WHERE e.experiment_id = r.experiment_id "
								 "AND e.train = r.train AND e.control = r.control "
								 "AND e.seed = r.seed)", &count);
	int			i;
	int			val;

	for (i = 0; i < count; i++)
		for (val = 1; val <= experiment->val_count; val++)
			queue_evaluation(experiment, &runs[i], val);
}

/* Numbers of the experiment's jobs (j) that satisfy a condition, by age. */
static List *
jobs_where(const AvcExperiment *experiment, const char *condition)
{
	AvcParam	param = AVC_INT8(experiment->id);
	MemoryContext context = CurrentMemoryContext;
	AvcRoleScope scope;
	List	   *jobs = NIL;
	uint64		rows;
	uint64		i;

	avc_catalog_enter(&scope);
	SPI_connect();
	rows = avc_spi_exec(psprintf("SELECT job FROM " JOBS
								 " WHERE %s ORDER BY job",
								 condition), 1, &param, false, 0);
	for (i = 0; i < rows; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		bool		is_null;
		int64	   *job = palloc_object(int64);

		*job = DatumGetInt64(avc_spi_column(i, "job", &is_null));
		jobs = lappend(jobs, job);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	avc_catalog_leave(&scope);
	return jobs;
}

/* Call a function of a job's number for each of the jobs. */
static void
call_each(List *jobs, const char *sql)
{
	ListCell   *cell;

	foreach(cell, jobs)
	{
		AvcParam	param = AVC_INT8(*(int64 *) lfirst(cell));

		SPI_connect();
		avc_spi_exec(sql, 1, &param, false, 0);
		SPI_finish();
	}
}

void
avc_experiment_queue(const AvcExperiment *experiment)
{
	int			count;
	Run		   *runs;
	int			i;

	call_each(jobs_where(experiment, BROKEN),
			  "SELECT avcurate.resume_job($1)");
	note_checkpoints(experiment);
	queue_evaluations(experiment);
	runs = read_runs(experiment, "r.job IS NULL AND r.checkpoint IS NULL",
					 &count);
	for (i = 0; i < count; i++)
		queue_training(experiment, &runs[i]);
}

void
avc_experiment_cancel_jobs(const AvcExperiment *experiment)
{
	call_each(jobs_where(experiment, "j.state IN ('pending', 'running')"),
			  "SELECT avcurate.cancel_job($1)");
}

static int64
first_of(List *jobs)
{
	return jobs == NIL ? 0 : *(int64 *) linitial(jobs);
}

int64
avc_experiment_broken_job(const AvcExperiment *experiment)
{
	return first_of(jobs_where(experiment, BROKEN));
}

int64
avc_experiment_cancelled_job(const AvcExperiment *experiment)
{
	return first_of(jobs_where(experiment, "j.state = 'running' "
							   "AND j.cancel_requested"));
}

/* ---- follow --------------------------------------------------------- */

/* "training on public.riders, seed 0", "evaluating the base on public.val" */
static char *
describe(const AvcExperiment *experiment, const Run *run, int val)
{
	char	   *what = "the base";

	if (run->train > 0)
		what = psprintf("%s, seed %lld",
						slice_of(experiment, run->train,
								 run->is_control)->slice->name,
						(long long) run->seed);
	if (val == 0)
		return psprintf("training on %s", what);
	return psprintf("evaluating %s%s on %s", run->train > 0 ? "what was trained on " : "",
					what, experiment->vals[val - 1].slice->name);
}

/* The oldest job that has not succeeded. */
static void
find_open(const AvcExperiment *experiment, AvcExperimentWork *work)
{
	AvcParam	param = AVC_INT8(experiment->id);
	MemoryContext context = CurrentMemoryContext;
	AvcRoleScope scope;
	bool		is_null;

	work->open_job = 0;
	avc_catalog_enter(&scope);
	SPI_connect();
	work->done = (int) avc_spi_int64("SELECT count(*) FROM " JOBS
									 " WHERE j.state = 'succeeded'", 1,
									 &param, 0);
	if (avc_spi_exec("SELECT job, m.train, m.control, m.seed, m.val, "
					 "j.progress, COALESCE(j.images_per_s, 0) AS images_per_s "
					 "FROM " JOBS " WHERE j.state <> 'succeeded' "
					 "ORDER BY j.state = 'running' DESC, job LIMIT 1", 1,
					 &param, false, 0) > 0)
	{
		Run			run = {0};
		int			val;
		MemoryContext old;

		work->open_job = DatumGetInt64(avc_spi_column(0, "job", &is_null));
		work->progress = DatumGetFloat4(avc_spi_column(0, "progress",
													   &is_null));
		work->images_per_s =
			DatumGetFloat4(avc_spi_column(0, "images_per_s", &is_null));
		run.train = DatumGetInt32(avc_spi_column(0, "train", &is_null));
		run.is_control = DatumGetBool(avc_spi_column(0, "control", &is_null));
		run.seed = DatumGetInt64(avc_spi_column(0, "seed", &is_null));
		val = DatumGetInt32(avc_spi_column(0, "val", &is_null));
		old = MemoryContextSwitchTo(context);
		work->doing = describe(experiment, &run, val);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	avc_catalog_leave(&scope);
}

void
avc_experiment_advance(const AvcExperiment *experiment,
					   AvcExperimentWork *work)
{
	int			trainings = experiment->train_count *
	experiment->seed_count * (experiment->has_control ? 2 : 1);

	note_checkpoints(experiment);
	queue_evaluations(experiment);
	work->total = trainings + (trainings + 1) * experiment->val_count;
	find_open(experiment, work);
}
