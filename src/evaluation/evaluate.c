/*
 * evaluation/evaluate.c
 *		evaluate(): a detector on a pinned version, as a job.
 *
 * job->context holds what lives as long as the job.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "batches/batches.h"
#include "common/settings.h"
#include "evaluation/options.h"
#include "evaluation/result.h"
#include "evaluation/run.h"
#include "jobs/job.h"
#include "models/model.h"
#include "slices/slice.h"

typedef struct Evaluation
{
	AvcJob	   *job;
	AvcEvaluateOptions options;
	AvcCheckpoint *checkpoint;
	AvcRun	   *run;
	AvcLancedbEval *lancedb;	/* NULL in mode coco */
	AvcResultWriter *writer;
} Evaluation;

PG_FUNCTION_INFO_V1(avc_evaluate);

extern PGDLLEXPORT void avc_job_evaluate(AvcJob *job);

static void
open_run(Evaluation *evaluation)
{
	AvcJob	   *job = evaluation->job;
	const AvcEvaluatedClass *classes;
	AvcRunSource source = {job};
	int			class_count;

	source.model = evaluation->checkpoint->model;
	source.slice_id = job->slice_id;
	source.version = job->version;
	source.max_frames = evaluation->options.max_frames;
	source.min_score = evaluation->options.min_score;
	source.device = evaluation->options.device;
	source.threads = evaluation->options.threads;
	source.amp = evaluation->options.amp;
	evaluation->run = avc_run_open(&source, job->context);
	classes = avc_run_classes(evaluation->run, &class_count);
	evaluation->writer = avc_result_open(job->context, job->job, classes,
										 class_count);
	avc_result_clear(evaluation->writer);
	if (evaluation->options.lancedb)
		evaluation->lancedb = avc_lancedb_create(job->context, class_count);
}

/*
 * Everything that needs the catalog before the engine is started.  The
 * weights go into a context of their own.
 */
static AvcFileImage
prepare(Evaluation *evaluation, MemoryContext weights_context)
{
	AvcJob	   *job = evaluation->job;
	AvcFileImage weights;
	int64		unlabelled;

	avc_job_begin(job);
	MemoryContextSwitchTo(job->context);
	avc_evaluate_options_read(&evaluation->options, job->options);
	evaluation->checkpoint = avc_checkpoint_find(job->checkpoint, false);
	avc_model_check_usable(evaluation->checkpoint->model);
	avc_model_check_labels(evaluation->checkpoint->model);
	open_run(evaluation);
	MemoryContextSwitchTo(weights_context);
	weights = avc_checkpoint_read(job->checkpoint, false);
	MemoryContextSwitchTo(job->context);
	unlabelled = avc_run_unlabelled(evaluation->run);
	if (unlabelled > 0)
		avc_job_log(job, "notice", "left out %lld frames without labels",
					(long long) unlabelled);
	avc_job_commit(job);
	return weights;
}

static void
take_frame(void *arg, const AvcRunFrame *frame)
{
	Evaluation *evaluation = arg;

	if (evaluation->lancedb)
		avc_lancedb_add(evaluation->lancedb, frame->truths,
						frame->truth_count, frame->detections,
						frame->detection_count);
	avc_result_frame(evaluation->writer, frame->frame_id, frame->truths,
					 frame->truth_count, frame->detections,
					 frame->detection_count);
}

static void
take_batch(void *arg, double done, double images_per_s)
{
	avc_job_progress(((Evaluation *) arg)->job, done, images_per_s);
}

/* Figures, and the end of the job, in one transaction. */
static void
store_figures(Evaluation *evaluation, AvcEvaluator *evaluator)
{
	AvcJob	   *job = evaluation->job;
	AvcEvaluationRow row = {0};
	AvcCocoClass *figures = avc_evaluator_finish(evaluator);
	AvcLancedbFigures lancedb;

	row.evaluation = job->job;
	row.checkpoint = job->checkpoint;
	row.slice_id = job->slice_id;
	row.version = job->version;
	row.frames = avc_run_frames(evaluation->run);
	row.lancedb = evaluation->options.lancedb;
	row.min_score = evaluation->options.min_score;
	row.label_map = evaluation->checkpoint->model->label_map;
	row.role = job->role;
	if (evaluation->lancedb)
		lancedb = avc_lancedb_finish(evaluation->lancedb);
	avc_job_begin(job);
	avc_result_finish(evaluation->writer, &row, evaluator, figures,
					  evaluation->lancedb ? &lancedb : NULL);
	avc_job_finish(job, 0);
	avc_job_commit(job);
}

/* The body of evaluate's jobs. */
void
avc_job_evaluate(AvcJob *job)
{
	Evaluation *evaluation = MemoryContextAllocZero(job->context,
													sizeof(Evaluation));
	AvcRunHooks hooks = {take_frame, take_batch, evaluation};
	MemoryContext weights_context;
	AvcFileImage weights;

	evaluation->job = job;
	weights_context = AllocSetContextCreate(job->context,
											"avcurate evaluation weights",
											ALLOCSET_DEFAULT_SIZES);
	weights = prepare(evaluation, weights_context);
	avc_run_load(evaluation->run, &weights);
	MemoryContextDelete(weights_context);
	store_figures(evaluation, avc_run_pass(evaluation->run, &hooks));
	avc_run_close(evaluation->run);
}

/* Fail now for what would fail the job: rights, columns, no such map. */
static void
check_readable(AvcSlice *slice, int64 version)
{
	AvcBatchOptions options = {0};
	AvcBatchReader *reader;

	options.slice_id = slice->slice_id;
	options.version = version;
	options.batch_size = 1;
	options.max_frames = 1;
	reader = avc_batch_reader_open(&options, CurrentMemoryContext);
	avc_batch_reader_close(reader);
}

Datum
avc_evaluate(PG_FUNCTION_ARGS)
{
	int64		checkpoint_id = PG_GETARG_INT64(0);
	Oid			relid = PG_GETARG_OID(1);
	AvcEvaluateOptions options;
	AvcCheckpoint *checkpoint;
	AvcSlice   *slice;
	AvcJobRequest request = {0};

	PreventCommandIfReadOnly("evaluate()");
	avc_evaluate_options_read(&options, PG_GETARG_JSONB_P(2));
	checkpoint = avc_checkpoint_find(checkpoint_id, false);
	avc_model_check_usable(checkpoint->model);
	avc_model_check_labels(checkpoint->model);
	slice = avc_slice_find(relid, false);
	avc_slice_check_readable(slice);
	/* Settings of the caller, which the worker does not have. */
	options.device = avc_model_device(options.device);
	avc_model_check_device(options.device);
	if (options.threads < 0)
		options.threads = avc_threads;
	options.version = avc_slice_version_pin(slice, options.version);
	check_readable(slice, options.version);

	request.kind = "evaluate";
	request.body = "avc_job_evaluate";
	request.dataset = slice->dataset;
	request.slice_id = slice->slice_id;
	request.version = options.version;
	request.model = checkpoint->model->model;
	request.checkpoint = checkpoint_id;
	request.options = avc_evaluate_options_json(&options);
	request.device = avc_model_queue_device(options.device);
	PG_RETURN_INT64(avc_job_add(&request));
}
