/*
 * training/train.c
 *		The training job: train() queues it, avc_job_train runs it.
 *
 * The slice's version is pinned when train is called.  The job reads its
 * batches in short transactions, keeps the engine's queue filled and writes
 * one progress row a step.  Every checkpoint_every steps the weights with
 * the optimizer's state are stored as a step checkpoint; a job that starts
 * again goes on after the newest one.  Everything random depends on (seed,
 * step, position) alone, so a resumed run ends with the weights of an
 * undisturbed one.
 *
 * Memory: job->context holds what lives as long as the job; one batch at a
 * time is in the feed's context.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "common/catalog.h"
#include "common/server_jansson.h"
#include "common/spi.h"
#include "engine/protocol.h"
#include "jobs/job.h"
#include "models/model.h"
#include "slices/slice.h"
#include "training/feed.h"
#include "training/provenance.h"
#include "training/reproduce.h"
#include "training/validation.h"

PG_FUNCTION_INFO_V1(avc_train);

extern PGDLLEXPORT void avc_job_train(AvcJob *job);

/* Steps that the mean loss of the provenance is taken over. */
#define LOSS_WINDOW 50

typedef struct Training
{
	AvcJob	   *job;
	AvcTrainOptions options;
	AvcModel   *model;
	AvcFeed		feed;
	/* for the provenance, as they were when the frames were opened */
	AvcTrainPin pin;
	char	   *labels;			/* JSON: category to class id */
	char	   *environment;	/* JSON: versions, device, threads */
	char	   *device_note;	/* why it is not on the GPU, or NULL */
	int64		first_step;		/* where this attempt begins */
	int64		last_step;		/* where it ends, without early_stop */
	AvcValidation *validation;	/* NULL = none */
	instr_time	last_answer;
	/* of the micro-batches of the step under way, weighted by frames */
	AvcJobStep	sums;
	int			frames;
	double		wait_s;
	int			skipped;
	double		loss_scale;		/* of the last update in fp16, or 0 */
	bool		overflow;		/* its gradients were too large */
	/* for the provenance */
	double		losses[LOSS_WINDOW];
	int64		loss_count;
	int64		skipped_steps;
	int64		overflow_steps; /* of a training in fp16 */
	double		rate;			/* smoothed images a second */
} Training;

/* ---- answers -------------------------------------------------------- */

static double
number(const json_t *object, const char *key)
{
	json_t	   *value = json_object_get(object, key);

	return json_is_number(value) ? json_number_value(value) : NAN;
}

static void
store_state(Training *training, const AvcFeedItem *item,
			const AvcReply *reply)
{
	AvcJob	   *job = training->job;
	AvcCheckpointRow row;

	memset(&row, 0, sizeof(row));
	row.model = job->model;
	row.job = job->job;
	row.parent = training->options.from_checkpoint;
	row.step = item->step;
	row.epoch = (int) item->epoch;
	row.has_state = true;
	avc_job_begin(job);
	row.provenance = avc_train_state_provenance(training->environment);
	avc_checkpoint_store(&row, reply->blob, reply->blob_len);
	avc_checkpoint_prune_states(job->job, (int) training->options.keep_last);
	avc_job_advanced(job);
	avc_job_commit(job);
}

/* Add one micro-batch to the sums of its step. */
static void
add_answer(Training *training, const AvcFeedItem *item, const char *text,
		   size_t len)
{
	json_t	   *json = json_loadb(text, len, 0, NULL);
	AvcJobStep *sums = &training->sums;

	if (training->frames == 0)
		memset(sums, 0, sizeof(*sums));
	training->frames += item->frames;
	training->wait_s += json == NULL ? 0 : number(json, "wait_s");
	if (json_is_true(json_object_get(json, "skipped")))
		training->skipped += item->frames;
	else
	{
		sums->loss += item->frames * number(json, "loss");
		sums->loss_classifier += item->frames * number(json, "loss_classifier");
		sums->loss_box_reg += item->frames * number(json, "loss_box_reg");
		sums->loss_objectness += item->frames * number(json, "loss_objectness");
		sums->loss_rpn_box_reg += item->frames * number(json, "loss_rpn_box_reg");
		sums->grad_norm = number(json, "grad_norm");
	}
	training->overflow = json_is_true(json_object_get(json, "overflow"));
	if (json_object_get(json, "loss_scale") != NULL)
		training->loss_scale = number(json, "loss_scale");
	if (training->overflow)
		sums->grad_norm = NAN;
	json_decref(json);
}

/* The sums become means; what was skipped has no losses. */
static void
finish_means(AvcJobStep *sums, int frames)
{
	double		scale = frames > 0 ? 1.0 / frames : NAN;

	sums->loss *= scale;
	sums->loss_classifier *= scale;
	sums->loss_box_reg *= scale;
	sums->loss_objectness *= scale;
	sums->loss_rpn_box_reg *= scale;
	if (frames == 0)
		sums->grad_norm = NAN;
}

static void
record_step(Training *training, const AvcFeedItem *item)
{
	AvcJob	   *job = training->job;
	AvcJobStep	step = training->sums;
	instr_time	now;
	instr_time	wall;
	double		seconds;
	double		rate;

	INSTR_TIME_SET_CURRENT(now);
	wall = now;
	INSTR_TIME_SUBTRACT(wall, training->last_answer);
	training->last_answer = now;
	seconds = Max(INSTR_TIME_GET_DOUBLE(wall), 1e-6);
	rate = training->frames / seconds;
	training->rate = training->rate > 0 ?
		0.9 * training->rate + 0.1 * rate : rate;

	finish_means(&step, training->frames - training->skipped);
	step.step = item->step + 1;
	step.epoch = (int) item->epoch;
	step.lr = item->lr;
	step.images_per_s = rate;
	step.engine_busy = 1.0 - Min(Max(training->wait_s / seconds, 0.0), 1.0);
	if (training->skipped < training->frames && !isfinite(step.loss))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("loss of step " INT64_FORMAT " is not finite",
						step.step)));
	if (isfinite(step.loss))
		training->losses[training->loss_count++ % LOSS_WINDOW] = step.loss;

	avc_job_begin(job);
	if (training->skipped == training->frames)
	{
		training->skipped_steps++;
		avc_job_log(job, "notice", "step " INT64_FORMAT
					" was skipped: none of its %d frames has a box",
					step.step, training->frames);
	}
	if (training->overflow)
	{
		training->overflow_steps++;
		avc_job_log(job, "info", "step " INT64_FORMAT
					" changed no weights: its gradients are not finite in fp16 with a loss scale of %g, which is halved",
					step.step, training->loss_scale);
	}
	avc_job_step(job, &step);
	/* 1 is for the stored result. */
	avc_job_progress(job, Min((double) step.step / training->last_step,
							  0.999), training->rate);
	avc_job_commit(job);
	training->frames = 0;
	training->skipped = 0;
	training->wait_s = 0;
}

static void
take_answer(void *arg, const AvcFeedItem *item, const AvcReply *reply)
{
	Training   *training = arg;

	if (item->is_save)
	{
		store_state(training, item, reply);
		return;
	}
	add_answer(training, item, reply->json, reply->json_len);
	if (item->is_last)
		record_step(training, item);
}

/* ---- start ---------------------------------------------------------- */

static void
open_reader(Training *training)
{
	AvcJob	   *job = training->job;
	AvcBatchOptions options;

	memset(&options, 0, sizeof(options));
	options.slice_id = job->slice_id;
	options.version = job->version;
	options.batch_size = (int32) training->options.batch_size;
	options.seed = training->options.seed;
	options.shuffle = true;
	options.label_map = training->model->label_map;
	options.max_frames = training->options.max_frames;
	options.labelled_only = true;
	training->feed.reader = avc_batch_reader_open(&options, job->context);
}

/*
 * Load the weights to begin with: the newest step checkpoint, the checkpoint
 * to start from, or fresh ones.
 */
static void
load_weights(Training *training, int64 state)
{
	AvcJob	   *job = training->job;
	MemoryContext context = AllocSetContextCreate(job->context,
												  "avcurate load",
												  ALLOCSET_DEFAULT_SIZES);
	AvcLoad		load = {"train", NULL, 0, 0, false, true, NULL};
	AvcFileImage file = {NULL, 0};
	int64		from = state != 0 ? state : training->options.from_checkpoint;
	AvcReply   *reply;

	if (from != 0)
	{
		avc_job_begin(job);
		MemoryContextSwitchTo(context);
		file = avc_checkpoint_read(from, state != 0);
		avc_job_commit(job);
	}
	MemoryContextSwitchTo(context);
	load.device = training->options.device;
	load.threads = (int) training->options.threads;
	load.seed = training->options.seed;
	load.init = from == 0;
	load.more = avc_train_options_load(&training->options);
	reply = avc_model_load(training->feed.engine, training->model, &load,
						   from != 0 ? &file : NULL);
	MemoryContextSwitchTo(job->context);
	training->environment =
		avc_train_environment(training->feed.engine, reply->json,
							  training->options.device);
	training->device_note = avc_model_device_note(reply->json);
	MemoryContextDelete(context);
}

/* A resume elsewhere goes on, but not bit for bit: say so. */
static void
compare_environment(Training *training, const AvcCheckpoint *state)
{
	char	   *before = avc_train_environment_of(state->provenance);
	char	   *now = avc_train_environment_of(
							avc_train_state_provenance(training->environment));

	if (strcmp(before, now) != 0)
		avc_job_log(training->job, "warning",
					"the job goes on in another environment, so its weights may differ from an undisturbed run's: was %s, is %s",
					before, now);
}

static void
log_start(Training *training, int64 state)
{
	AvcJob	   *job = training->job;
	AvcTrainOptions *options = &training->options;
	int64		unlabelled;

	unlabelled = avc_batch_reader_unlabelled(training->feed.reader);
	if (training->device_note != NULL)
		avc_job_log(job, "warning", "trains on the CPU: %s",
					training->device_note);
	if (unlabelled > 0)
		avc_job_log(job, "notice", INT64_FORMAT
					" frames without labels are left out", unlabelled);
	if (options->accumulate > 1 && !options->freeze_norm)
		avc_job_log(job, "notice",
					"micro-batches equal the large batch only with freeze_norm: batch statistics are taken over each");
	if (state != 0)
		avc_job_log(job, "info", "resumed after step " INT64_FORMAT " of "
					INT64_FORMAT, training->first_step, training->feed.total);
	else
		avc_job_log(job, "info", INT64_FORMAT " steps on " INT64_FORMAT
					" frames, " INT64_FORMAT " steps an epoch",
					training->feed.total,
					avc_batch_reader_frames(training->feed.reader),
					training->feed.per_epoch);
}

/* The steps after which a checkpoint to be reproduced was taken; else 0. */
static int64
reproduced_step(const AvcJob *job)
{
	if (strcmp(job->kind, AVC_REPRODUCE_KIND) != 0)
		return 0;
	return avc_checkpoint_find(job->checkpoint, false)->step;
}

static void
prepare(Training *training)
{
	AvcJob	   *job = training->job;
	AvcFeed    *feed = &training->feed;
	AvcCheckpoint *found = NULL;
	int64		state;

	avc_job_begin(job);
	MemoryContextSwitchTo(job->context);
	training->model = avc_model_find(job->model, false);
	avc_model_check_usable(training->model);
	avc_model_check_labels(training->model);
	avc_train_options_resolve(&training->options, job->options,
							  training->model);
	open_reader(training);
	avc_train_read_pin(&training->pin, job->slice_id, job->version);
	training->labels = avc_train_read_labels(training->model->label_map);
	state = avc_checkpoint_newest_state(job->job);
	if (state != 0)
		found = avc_checkpoint_find(state, false);
	training->first_step = found != NULL ? found->step : 0;
	training->last_step = reproduced_step(job);
	if (training->last_step == 0)
		training->validation = avc_validation_open(job, &training->options,
												   training->model,
												   training->first_step);
	avc_job_commit(job);

	feed->job = job;
	feed->options = &training->options;
	feed->per_epoch = avc_batch_reader_count(feed->reader);
	feed->total = training->options.max_steps > 0 ?
		training->options.max_steps :
		training->options.epochs * feed->per_epoch;
	if (training->last_step == 0)
		training->last_step = feed->total;
	feed->context = AllocSetContextCreate(job->context, "avcurate batch",
										  ALLOCSET_DEFAULT_SIZES);
	if (feed->per_epoch == 0)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("version " INT64_FORMAT " has no labelled frame",
						job->version)));
	feed->engine = avc_engine_start();
	load_weights(training, state);
	if (found != NULL)
		compare_environment(training, found);
	log_start(training, state);
}

/* ---- end ------------------------------------------------------------ */

static void
add_metrics(Training *training, StringInfo json)
{
	int64		count = Min(training->loss_count, LOSS_WINDOW);
	double		sum = 0;
	int64		i;

	appendStringInfoString(json, ", \"metrics\": {");
	for (i = 0; i < count; i++)
		sum += training->losses[i];
	if (count > 0)
	{
		avc_json_add_raw(json, "loss",
						 psprintf("%.9g", training->losses[(training->loss_count - 1) % LOSS_WINDOW]));
		avc_json_add_raw(json, "mean_loss", psprintf("%.9g", sum / count));
		avc_json_add_int(json, "mean_loss_steps", count);
	}
	avc_json_add_int(json, "skipped_steps", training->skipped_steps);
	if (training->loss_scale > 0)
		avc_json_add_int(json, "overflow_steps", training->overflow_steps);
	appendStringInfoChar(json, '}');
}

static void
set_result(AvcJob *job, int64 checkpoint)
{
	AvcRoleScope scope;
	AvcParam	params[] = {AVC_INT8(job->job), AVC_INT8(checkpoint)};

	avc_catalog_enter(&scope);
	SPI_connect();
	avc_spi_exec("UPDATE _avcurate.jobs SET checkpoint = $2 WHERE job = $1",
				 2, params, false, 0);
	SPI_finish();
	avc_catalog_leave(&scope);
}

/* Everything that made the weights after these steps. */
static Jsonb *
describe_weights(Training *training, int64 steps)
{
	AvcJob	   *job = training->job;
	AvcFeed    *feed = &training->feed;
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	avc_json_add(&json, "origin", "trained");
	avc_model_add_identity(&json, training->model);
	avc_train_add_pin(&json, &training->pin);
	avc_json_add_raw(&json, "labels", training->labels);
	avc_json_add_int(&json, "job", job->job);
	avc_json_add_int(&json, "frames", avc_batch_reader_frames(feed->reader));
	avc_json_add_int(&json, "unlabelled_frames",
					 avc_batch_reader_unlabelled(feed->reader));
	avc_json_add_raw(&json, "options", avc_jsonb_to_text(job->options));
	avc_json_add_int(&json, "seed", training->options.seed);
	avc_json_add_int(&json, "step", steps);
	avc_json_add_int(&json, "epoch", (steps - 1) / feed->per_epoch);
	if (training->options.from_checkpoint != 0)
		avc_json_add_int(&json, "parent", training->options.from_checkpoint);
	avc_json_add_raw(&json, "environment", training->environment);
	avc_json_add(&json, "device", training->options.device);
	add_metrics(training, &json);
	appendStringInfoChar(&json, '}');
	return avc_json_to_jsonb(json.data);
}

static int64
store_weights(Training *training, int64 steps, bool is_hidden,
			  const AvcReply *saved)
{
	AvcJob	   *job = training->job;
	AvcCheckpointRow row;

	memset(&row, 0, sizeof(row));
	row.model = job->model;
	row.job = job->job;
	row.slice_id = job->slice_id;
	row.version = job->version;
	row.digest = training->pin.digest;
	row.rows = training->pin.rows;
	row.parent = training->options.from_checkpoint;
	row.step = steps;
	row.epoch = (int) ((steps - 1) / training->feed.per_epoch);
	row.has_state = is_hidden;
	row.provenance = describe_weights(training, steps);
	return avc_checkpoint_store(&row, saved->blob, saved->blob_len);
}

static AvcReply *
fetch_weights(Training *training)
{
	AvcMessage	save = {ENG_KIND_SAVE, "{\"with_optimizer\": false}", NULL, 0};

	return avc_engine_call(training->feed.engine, &save);
}

/* Evaluate the weights as they are after these steps, all answered. */
static void
validate(Training *training, int64 steps)
{
	AvcJob	   *job = training->job;
	AvcFeed    *feed = &training->feed;
	AvcReply   *saved = fetch_weights(training);
	AvcFileImage weights = {saved->blob, saved->blob_len};

	if (avc_validation_run(training->validation, steps,
						   (int) ((steps - 1) / feed->per_epoch), &weights,
						   (double) steps / training->last_step * 0.999) &&
		training->options.keep_best)
	{
		avc_job_begin(job);
		avc_validation_keep(training->validation,
							store_weights(training, steps, true, saved));
		avc_job_commit(job);
	}
	avc_reply_free(saved);
	INSTR_TIME_SET_CURRENT(training->last_answer);
}

/* The best weights become the result; false if they are not kept. */
static bool
publish_best(Training *training, int64 steps)
{
	AvcJob	   *job = training->job;
	int64		best = avc_validation_best_step(training->validation);
	int64		checkpoint;

	if (best == 0 || !training->options.keep_best)
		return false;
	checkpoint = avc_validation_publish(training->validation);
	if (checkpoint == 0)
	{
		avc_job_log(job, "warning", "the best weights, of step " INT64_FORMAT
					", were lost in a restart: the result is of step "
					INT64_FORMAT, best, steps);
		return false;
	}
	set_result(job, checkpoint);
	return true;
}

/* The weights, their pin and the job's success become visible together. */
static void
store_result(Training *training, int64 steps)
{
	AvcJob	   *job = training->job;
	AvcReply   *saved = fetch_weights(training);

	avc_engine_stop(training->feed.engine);
	avc_job_begin(job);
	if (strcmp(job->kind, AVC_REPRODUCE_KIND) == 0)
		avc_reproduce_compare(job, saved, training->environment);
	else if (!publish_best(training, steps))
		set_result(job, store_weights(training, steps, false, saved));
	avc_checkpoint_prune_states(job->job, 0);
	avc_job_progress(job, 1.0, training->rate);
	avc_job_finish(job, 0);
	avc_job_commit(job);
	avc_reply_free(saved);
}

/* Evaluate if that is due after these steps; true if the training is over. */
static bool
check_validation(Training *training, int64 steps)
{
	AvcFeed    *feed = &training->feed;

	if (steps > 0 && avc_validation_is_due(training->validation, steps,
										   feed->per_epoch,
										   training->last_step))
	{
		avc_feed_drain(feed, 0, take_answer, training);
		validate(training, steps);
	}
	if (!avc_validation_is_over(training->validation))
		return false;
	if (steps < training->last_step)
		avc_job_log(training->job, "info", "stopped after step " INT64_FORMAT
					" of " INT64_FORMAT ": no gain in " INT64_FORMAT
					" evaluations", steps, training->last_step,
					training->options.early_stop);
	return true;
}

/*
 * Body of a training job.
 */
void
avc_job_train(AvcJob *job)
{
	Training   *training = MemoryContextAllocZero(job->context,
												  sizeof(Training));
	AvcFeed    *feed = &training->feed;
	int64		every;
	int64		step;

	training->job = job;
	prepare(training);
	every = training->options.checkpoint_every;
	INSTR_TIME_SET_CURRENT(training->last_answer);
	step = training->first_step;
	while (!check_validation(training, step) && step < training->last_step)
	{
		avc_job_check_cancel(job);
		avc_feed_step(feed, step++, take_answer, training);
		if (every > 0 && step % every == 0 && step < training->last_step)
			avc_feed_save(feed, step, take_answer, training);
	}
	avc_feed_drain(feed, 0, take_answer, training);
	store_result(training, step);
	avc_batch_reader_close(feed->reader);
}

/* ---- SQL ------------------------------------------------------------ */

/* The batches of the pinned version, opened once to see what there is. */
static void
check_frames(const AvcSlice *slice, const AvcTrainOptions *options,
			 const AvcModel *model)
{
	AvcBatchOptions batch;
	AvcBatchReader *reader;

	memset(&batch, 0, sizeof(batch));
	batch.slice = slice->relid;
	batch.version = options->version;
	batch.batch_size = (int32) options->batch_size;
	batch.seed = options->seed;
	batch.shuffle = true;
	batch.label_map = model->label_map;
	batch.max_frames = options->max_frames;
	batch.labelled_only = true;
	reader = avc_batch_reader_open(&batch, CurrentMemoryContext);
	if (avc_batch_reader_frames(reader) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("version " INT64_FORMAT " of slice %s has no labelled frame",
						options->version, slice->name),
				 errhint("Refresh the slice, or widen its filter.")));
	avc_batch_reader_close(reader);
}

/*
 * train(slice, model, options) returns bigint: the job.
 */
Datum
avc_train(PG_FUNCTION_ARGS)
{
	AvcSlice   *slice = avc_slice_find(PG_GETARG_OID(0), false);
	AvcModel   *model;
	AvcTrainOptions options;
	AvcJobRequest request;
	int64		val_slice = 0;
	int64		job;

	PreventCommandIfReadOnly("train()");
	avc_slice_check_readable(slice);
	avc_slice_check_complete(slice);
	model = avc_model_find(text_to_cstring(PG_GETARG_TEXT_PP(1)), false);
	avc_model_check_usable(model);
	avc_model_check_labels(model);
	avc_train_options_resolve(&options, PG_GETARG_JSONB_P(2), model);
	if (options.from_checkpoint != 0)
	{
		AvcModel   *from = avc_checkpoint_find(options.from_checkpoint,
											   false)->model;

		avc_model_check_usable(from);
		avc_model_check_detector(from);
	}
	options.version = avc_slice_version_pin(slice, options.version);
	if (options.val_slice != NULL)
		val_slice = avc_validation_pin(&options);
	check_frames(slice, &options, model);

	memset(&request, 0, sizeof(request));
	request.kind = "train";
	request.body = "avc_job_train";
	request.dataset = slice->dataset;
	request.slice_id = slice->slice_id;
	request.version = options.version;
	request.model = model->model;
	request.options = avc_train_options_to_jsonb(&options);
	request.device = avc_model_queue_device(options.device);
	job = avc_job_add(&request);
	if (options.val_slice != NULL)
		avc_validation_keep_pin(job, val_slice, options.val_version);
	PG_RETURN_INT64(job);
}
