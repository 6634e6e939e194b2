/*
 * training/validation.c
 *		Evaluations of a training on a slice of its own, while it runs.
 *
 * The slice's version is pinned when train is called.  Each evaluation is a
 * row of _avcurate.validations, and best is the highest ap50, the earliest
 * of equals.  What early_stop and keep_best decide is read from these rows,
 * so an attempt that goes on after a crash decides the same.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/varlena.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "evaluation/run.h"
#include "models/model.h"
#include "slices/slice.h"
#include "training/validation.h"

/* Scores below it are left out, as evaluate does by default. */
#define MIN_SCORE 0.05

struct AvcValidation
{
	AvcRunSource source;
	int64		every;			/* epochs */
	int64		early_stop;		/* evaluations without gain, 0 = never */
	int64		newest_step;	/* of the evaluations made, 0 = none */
	int64		best_step;		/* 0 = none */
	double		best_ap50;
	int64		since_best;		/* evaluations */
	double		progress;		/* of the job, while a pass runs */
};

/* ---- the pin -------------------------------------------------------- */

int64
avc_validation_pin(AvcTrainOptions *options)
{
	List	   *names = textToQualifiedNameList(cstring_to_text(options->val_slice));
	Oid			relid = RangeVarGetRelid(makeRangeVarFromNameList(names),
										 NoLock, false);
	AvcSlice   *slice = avc_slice_find(relid, false);

	avc_slice_check_readable(slice);
	avc_slice_check_complete(slice);
	options->val_slice =
		quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
								   get_rel_name(relid));
	options->val_version = avc_slice_version_pin(slice, options->val_version);
	return slice->slice_id;
}

void
avc_validation_keep_pin(int64 job, int64 slice_id, int64 version)
{
	AvcParam	params[] = {AVC_INT8(job), AVC_INT8(slice_id), AVC_INT8(version)};
	AvcRoleScope scope;

	avc_catalog_enter(&scope);
	SPI_connect();
	avc_spi_exec("INSERT INTO _avcurate.validation_pins "
				 "(job, slice_id, version) VALUES ($1, $2, $3)",
				 lengthof(params), params, false, 0);
	SPI_finish();
	avc_catalog_leave(&scope);
}

/* ---- what is known -------------------------------------------------- */

static void
count_in(AvcValidation *validation, int64 step, double ap50)
{
	validation->newest_step = step;
	validation->since_best++;
	if (validation->best_step != 0 && !(ap50 > validation->best_ap50))
		return;
	validation->best_step = step;
	validation->best_ap50 = ap50;
	validation->since_best = 0;
}

/*
 * The rows of earlier attempts; no value counts as 0.  Where an attempt ended
 * between the row of a new best and its weights, the row is made again: the
 * weights of first_step are at hand.
 */
static void
read_earlier(AvcValidation *validation, int64 first_step, bool keep_best)
{
	AvcParam	params[] = {AVC_INT8(validation->source.job->job),
	AVC_INT8(first_step), AVC_BOOL(keep_best)};
	bool		is_null;
	uint64		i;

	avc_spi_exec("WITH gone AS (DELETE FROM _avcurate.validations AS v "
				 "WHERE job = $1 AND (step > $2 OR ($3 AND step = $2 "
				 "AND checkpoint IS NULL AND NOT EXISTS (SELECT 1 "
				 "FROM _avcurate.validations AS e WHERE e.job = $1 "
				 "AND e.step < $2 AND COALESCE(e.ap50, 0) >= "
				 "COALESCE(v.ap50, 0)))) RETURNING checkpoint) "
				 "DELETE FROM _avcurate.checkpoints WHERE checkpoint IN "
				 "(SELECT checkpoint FROM gone)",
				 lengthof(params), params, false, 0);
	avc_spi_exec("SELECT step, COALESCE(ap50, 0) AS ap50 "
				 "FROM _avcurate.validations WHERE job = $1 ORDER BY step",
				 1, params, false, 0);
	for (i = 0; i < SPI_processed; i++)
		count_in(validation, DatumGetInt64(avc_spi_column(i, "step", &is_null)),
				 DatumGetFloat8(avc_spi_column(i, "ap50", &is_null)));
}

AvcValidation *
avc_validation_open(AvcJob *job, const AvcTrainOptions *options,
					const AvcModel *model, int64 first_step)
{
	AvcValidation *validation;
	AvcParam	param = AVC_INT8(job->job);
	AvcRoleScope scope;
	bool		is_null;

	if (options->val_slice == NULL)
		return NULL;
	validation = MemoryContextAllocZero(job->context, sizeof(AvcValidation));
	validation->source.job = job;
	validation->source.model = model;
	validation->source.min_score = MIN_SCORE;
	validation->source.device = options->device;
	validation->source.is_part = true;
	validation->source.threads = (int) options->threads;
	validation->every = options->eval_every;
	validation->early_stop = options->early_stop;
	avc_catalog_enter(&scope);
	SPI_connect();
	if (avc_spi_exec("SELECT slice_id, version FROM _avcurate.validation_pins "
					 "WHERE job = $1", 1, &param, true, 0) == 0)
		elog(ERROR, "job " INT64_FORMAT " has no pinned version of its val_slice",
			 job->job);
	validation->source.slice_id =
		DatumGetInt64(avc_spi_column(0, "slice_id", &is_null));
	validation->source.version =
		DatumGetInt64(avc_spi_column(0, "version", &is_null));
	read_earlier(validation, first_step, options->keep_best);
	SPI_finish();
	avc_catalog_leave(&scope);
	return validation;
}

bool
avc_validation_is_due(const AvcValidation *validation, int64 steps_done,
					  int64 per_epoch, int64 total)
{
	return validation != NULL && steps_done > validation->newest_step &&
		(steps_done == total ||
		 steps_done % (validation->every * per_epoch) == 0);
}

bool
avc_validation_is_over(const AvcValidation *validation)
{
	return validation != NULL && validation->early_stop > 0 &&
		validation->since_best >= validation->early_stop;
}

int64
avc_validation_best_step(const AvcValidation *validation)
{
	return validation == NULL ? 0 : validation->best_step;
}

/* ---- an evaluation -------------------------------------------------- */

static void
take_batch(void *arg, double done, double images_per_s)
{
	AvcValidation *validation = arg;

	avc_job_progress(validation->source.job, validation->progress, -1);
}

/* Write the row; returns ap50, 0 where no class has a value. */
static double
record(const AvcValidation *validation, int64 step, int epoch, int64 frames,
	   const AvcCocoClass *figures, int classes)
{
	AvcParam	params[] = {
		AVC_INT8(validation->source.job->job), AVC_INT8(step), AVC_INT4(epoch),
		AVC_INT8(frames),
		avc_figure_param(figures, classes, AVC_METRIC_AP),
		avc_figure_param(figures, classes, AVC_METRIC_AP50),
		avc_figure_param(figures, classes, AVC_METRIC_AP75),
		avc_figure_param(figures, classes, AVC_METRIC_RECALL50),
		avc_figure_param(figures, classes, AVC_METRIC_AR100)
	};
	AvcRoleScope scope;

	avc_catalog_enter(&scope);
	SPI_connect();
	avc_spi_exec("INSERT INTO _avcurate.validations (job, step, epoch, "
				 "frames, ap, ap50, ap75, recall50, recall) "
				 "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
				 lengthof(params), params, false, 0);
	SPI_finish();
	avc_catalog_leave(&scope);
	return params[5].is_null ? 0 : DatumGetFloat8(params[5].value);
}

bool
avc_validation_run(AvcValidation *validation, int64 steps_done, int epoch,
				   const AvcFileImage *weights, double progress)
{
	AvcJob	   *job = validation->source.job;
	MemoryContext context = AllocSetContextCreate(job->context,
												  "avcurate validation",
												  ALLOCSET_DEFAULT_SIZES);
	AvcRunHooks hooks = {NULL, take_batch, validation};
	AvcCocoClass *figures;
	AvcRun	   *run;
	double		ap50;
	int			classes;

	validation->progress = progress;
	avc_job_begin(job);
	run = avc_run_open(&validation->source, context);
	avc_job_commit(job);
	avc_run_load(run, weights);
	figures = avc_evaluator_finish(avc_run_pass(run, &hooks));
	(void) avc_run_classes(run, &classes);
	avc_job_begin(job);
	ap50 = record(validation, steps_done, epoch, avc_run_frames(run), figures,
				  classes);
	avc_job_log(job, "info", "ap50 %.4f on %s after step " INT64_FORMAT,
				ap50, avc_slice_find_by_id(validation->source.slice_id, false)->name,
				steps_done);
	avc_job_commit(job);
	avc_run_close(run);
	MemoryContextDelete(context);
	count_in(validation, steps_done, ap50);
	return validation->best_step == steps_done;
}

/* ---- the best weights ----------------------------------------------- */

void
avc_validation_keep(AvcValidation *validation, int64 checkpoint)
{
	AvcParam	params[] = {AVC_INT8(validation->source.job->job),
	AVC_INT8(validation->best_step), AVC_INT8(checkpoint)};
	AvcRoleScope scope;

	avc_catalog_enter(&scope);
	SPI_connect();
	avc_spi_exec("DELETE FROM _avcurate.checkpoints WHERE checkpoint IN "
				 "(SELECT checkpoint FROM _avcurate.validations "
				 "WHERE job = $1)", 1, params, false, 0);
	avc_spi_exec("UPDATE _avcurate.validations SET checkpoint = "
				 "CASE WHEN step = $2 THEN $3 END WHERE job = $1 "
				 "AND (step = $2 OR checkpoint IS NOT NULL)",
				 lengthof(params), params, false, 0);
	SPI_finish();
	avc_catalog_leave(&scope);
}

int64
avc_validation_publish(AvcValidation *validation)
{
	AvcParam	param = AVC_INT8(validation->source.job->job);
	AvcRoleScope scope;
	int64		checkpoint;

	avc_catalog_enter(&scope);
	SPI_connect();
	checkpoint = avc_spi_int64("UPDATE _avcurate.checkpoints AS c "
							   "SET state = false "
							   "FROM _avcurate.validations AS v "
							   "WHERE v.job = $1 "
							   "AND c.checkpoint = v.checkpoint "
							   "RETURNING c.checkpoint", 1, &param, 0);
	SPI_finish();
	avc_catalog_leave(&scope);
	return checkpoint;
}
