/*
 * evaluation/evaluate.c
 *		evaluate(): a detector on a pinned version, as a job.
 *
 * The body reads batches in frame_id order, each in a transaction of its
 * own, keeps a few of them on their way to the engine, and matches what comes
 * back in the order in which it was sent.  job->context holds what lives as
 * long as the job; each batch on its way has a context of its own, from
 * reading to the end of its matching.
 */
#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

#include "batches/batches.h"
#include "common/engine_client.h"
#include "common/settings.h"
#include "engine/protocol.h"
#include "evaluation/options.h"
#include "evaluation/result.h"
#include "jobs/job.h"
#include "models/model.h"
#include "slices/slice.h"

#define BATCH_FRAMES 8
#define BATCHES_AHEAD 3

/* A batch between its reading and its matching. */
typedef struct Flight
{
	MemoryContext context;
	AvcBatchFrame *frames;
	int			count;
} Flight;

typedef struct Evaluation
{
	AvcJob	   *job;
	AvcEvaluateOptions options;
	AvcCheckpoint *checkpoint;
	AvcEvaluatedClass *classes; /* by label, ascending */
	int			class_count;
	AvcBatchReader *reader;
	AvcSlice   *slice;
	int64		erased;			/* rows of the version that were, at first */
	AvcEngine  *engine;
	AvcEvaluator *evaluator;
	AvcLancedbEval *lancedb;	/* NULL in mode coco */
	AvcResultWriter *writer;
	Flight		flights[BATCHES_AHEAD];
	int64		batches;
	int64		sent;			/* batches */
	int64		done;			/* batches */
	int64		frames;			/* frames done */
} Evaluation;

PG_FUNCTION_INFO_V1(avc_evaluate);

extern PGDLLEXPORT void avc_job_evaluate(AvcJob *job);

/* Class of a label, or -1 if the map has none. */
static int
find_class(const Evaluation *evaluation, int32 label)
{
	int			low = 0;
	int			high = evaluation->class_count - 1;

	while (low <= high)
	{
		int			middle = (low + high) / 2;
		int32		found = evaluation->classes[middle].label;

		if (found == label)
			return middle;
		if (found < label)
			low = middle + 1;
		else
			high = middle - 1;
	}
	return -1;
}

/* The labels of the model's map in their order, with names. */
static void
list_classes(Evaluation *evaluation)
{
	AvcLabelMap *map;
	int32		most;
	int32		label;

	map = avc_label_map_load(evaluation->checkpoint->model->label_map,
							 evaluation->job->context);
	most = avc_label_map_max(map);
	evaluation->classes = palloc(sizeof(AvcEvaluatedClass) * (most + 1));
	for (label = 1; label <= most; label++)
	{
		const char *category = avc_label_map_category(map, label);

		if (category == NULL)
			continue;
		evaluation->classes[evaluation->class_count].label = label;
		evaluation->classes[evaluation->class_count].category = category;
		evaluation->class_count++;
	}
}

static void
open_reader(Evaluation *evaluation)
{
	AvcJob	   *job = evaluation->job;
	AvcBatchOptions options = {0};

	evaluation->slice = avc_slice_find_by_id(job->slice_id, false);
	evaluation->erased = avc_slice_version_erased(evaluation->slice,
												  job->version);
	options.slice_id = job->slice_id;
	options.version = job->version;
	options.batch_size = BATCH_FRAMES;
	options.label_map = evaluation->checkpoint->model->label_map;
	options.max_frames = evaluation->options.max_frames;
	options.labelled_only = true;
	options.with_ignored = true;
	evaluation->reader = avc_batch_reader_open(&options, job->context);
	evaluation->batches = avc_batch_reader_count(evaluation->reader);
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
	list_classes(evaluation);
	open_reader(evaluation);
	evaluation->writer = avc_result_open(job->context, job->job,
										 evaluation->classes,
										 evaluation->class_count);
	avc_result_clear(evaluation->writer);
	MemoryContextSwitchTo(weights_context);
	weights = avc_checkpoint_read(job->checkpoint, false);
	MemoryContextSwitchTo(job->context);
	unlabelled = avc_batch_reader_unlabelled(evaluation->reader);
	if (unlabelled > 0)
		avc_job_log(job, "notice", "left out %lld frames without labels",
					(long long) unlabelled);
	avc_job_commit(job);
	evaluation->evaluator = avc_evaluator_create(job->context,
												 evaluation->class_count);
	if (evaluation->options.lancedb)
		evaluation->lancedb = avc_lancedb_create(job->context,
												 evaluation->class_count);
	return weights;
}

static void
load_model(Evaluation *evaluation, const AvcFileImage *weights)
{
	AvcLoad		load = {"infer", NULL, 0, 0, false, true, NULL};

	load.device = evaluation->options.device;
	load.threads = evaluation->options.threads;
	evaluation->engine = avc_engine_start();
	avc_reply_free(avc_model_load(evaluation->engine,
								  evaluation->checkpoint->model, &load,
								  weights));
}

/* Read the next batch and put it on its way. */
static void
send_batch(Evaluation *evaluation)
{
	Flight	   *flight = &evaluation->flights[evaluation->sent %
											  BATCHES_AHEAD];
	AvcBlobPart parts[BATCH_FRAMES];
	AvcMessage	message = {ENG_KIND_DETECT, NULL, parts, 0};
	StringInfoData json;
	MemoryContext old;
	int			i;

	flight->context = AllocSetContextCreate(evaluation->job->context,
											"avcurate evaluation batch",
											ALLOCSET_DEFAULT_SIZES);
	avc_job_begin(evaluation->job);
	flight->count = avc_batch_reader_read(evaluation->reader,
										  evaluation->sent, flight->context,
										  &flight->frames);
	avc_job_commit(evaluation->job);

	old = MemoryContextSwitchTo(flight->context);
	initStringInfo(&json);
	appendStringInfo(&json, "{\"min_score\": %.15g, \"frames\": [",
					 evaluation->options.min_score);
	for (i = 0; i < flight->count; i++)
	{
		const AvcBatchFrame *frame = &flight->frames[i];

		parts[i].data = VARDATA(frame->image);
		parts[i].len = VARSIZE(frame->image) - VARHDRSZ;
		appendStringInfo(&json, "%s{\"frame_id\": %lld, \"bytes\": %zu}",
						 i > 0 ? ", " : "", (long long) frame->frame_id,
						 parts[i].len);
	}
	appendStringInfoString(&json, "]}");
	message.json = json.data;
	message.part_count = flight->count;
	avc_engine_send(evaluation->engine, &message);
	for (i = 0; i < flight->count; i++)
	{
		pfree(flight->frames[i].image);
		flight->frames[i].image = NULL;
	}
	MemoryContextSwitchTo(old);
	evaluation->sent++;
}

static AvcImageTruth *
frame_truths(const Evaluation *evaluation, const AvcBatchFrame *frame,
			 int *count)
{
	AvcImageTruth *truths = palloc0(sizeof(AvcImageTruth) *
									(frame->box_count + 1));
	int			i;

	*count = 0;
	for (i = 0; i < frame->box_count; i++)
	{
		const float *box = &frame->boxes[4 * i];
		AvcImageTruth *truth = &truths[*count];

		truth->category = find_class(evaluation, frame->labels[i]);
		if (truth->category < 0)
			continue;
		truth->truth.box[0] = box[0];
		truth->truth.box[1] = box[1];
		truth->truth.box[2] = (double) box[2] - box[0];
		truth->truth.box[3] = (double) box[3] - box[1];
		truth->truth.area = frame->areas[i];
		truth->truth.crowd = frame->ignored[i];
		truth->truth_no = frame->truth_nos[i];
		(*count)++;
	}
	return truths;
}

static void
raise_bad_reply(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROTOCOL_VIOLATION),
			 errmsg("the engine's detections do not have the form agreed on")));
}

/* A list of an object, which must be there. */
static JsonbContainer *
list_field(JsonbContainer *object, const char *name)
{
	JsonbValue	value;

	if (!JsonContainerIsObject(object) ||
		getKeyJsonValueFromContainer(object, name, strlen(name),
									 &value) == NULL ||
		value.type != jbvBinary ||
		!JsonContainerIsArray(value.val.binary.data))
		raise_bad_reply();
	return value.val.binary.data;
}

/* An element of a list that is a list or an object itself. */
static JsonbContainer *
container_at(JsonbContainer *list, uint32 index)
{
	JsonbValue *value = getIthJsonbValueFromContainer(list, index);

	if (value == NULL || value->type != jbvBinary)
		raise_bad_reply();
	return value->val.binary.data;
}

/* A number as the float that the engine wrote. */
static float
float_value(const JsonbValue *value)
{
	if (value == NULL || value->type != jbvNumeric)
		raise_bad_reply();
	return DatumGetFloat4(DirectFunctionCall1(numeric_float4,
											  NumericGetDatum(value->val.numeric)));
}

static float
number_at(JsonbContainer *list, uint32 index)
{
	return float_value(getIthJsonbValueFromContainer(list, index));
}

static void
check_frame_id(JsonbContainer *frame, int64 frame_id)
{
	JsonbValue	value;

	if (!JsonContainerIsObject(frame) ||
		getKeyJsonValueFromContainer(frame, "frame_id", strlen("frame_id"),
									 &value) == NULL ||
		value.type != jbvNumeric ||
		DatumGetInt64(DirectFunctionCall1(numeric_int8,
										  NumericGetDatum(value.val.numeric))) != frame_id)
		raise_bad_reply();
}

/* Detections of one frame of the reply; those of unmapped labels are left. */
static AvcImageDetection *
frame_detections(const Evaluation *evaluation, JsonbContainer *frame,
				 int64 frame_id, int *count)
{
	JsonbContainer *labels = list_field(frame, "labels");
	JsonbContainer *scores = list_field(frame, "scores");
	JsonbContainer *boxes = list_field(frame, "boxes");
	uint32		size = JsonContainerSize(labels);
	AvcImageDetection *detections;
	uint32		i;

	check_frame_id(frame, frame_id);
	if (JsonContainerSize(scores) != size || JsonContainerSize(boxes) != size)
		raise_bad_reply();
	detections = palloc0(sizeof(AvcImageDetection) * (size + 1));
	*count = 0;
	for (i = 0; i < size; i++)
	{
		AvcImageDetection *to = &detections[*count];
		JsonbContainer *box = container_at(boxes, i);
		float		corner[4];
		int			k;

		for (k = 0; k < 4; k++)
			corner[k] = number_at(box, k);
		to->category = find_class(evaluation, (int32) number_at(labels, i));
		to->detection.score = number_at(scores, i);
		if (to->category < 0 ||
			to->detection.score < (float) evaluation->options.min_score)
			continue;
		to->detection.box[0] = corner[0];
		to->detection.box[1] = corner[1];
		to->detection.box[2] = (double) corner[2] - corner[0];
		to->detection.box[3] = (double) corner[3] - corner[1];
		(*count)++;
	}
	return detections;
}

static void
match_frame(Evaluation *evaluation, const AvcBatchFrame *frame,
			JsonbContainer *reply)
{
	AvcImageTruth *truths;
	AvcImageDetection *detections;
	int			truth_count;
	int			detection_count;

	truths = frame_truths(evaluation, frame, &truth_count);
	detections = frame_detections(evaluation, reply, frame->frame_id,
								  &detection_count);
	avc_evaluator_add(evaluation->evaluator, truths, truth_count, detections,
					  detection_count);
	if (evaluation->lancedb)
		avc_lancedb_add(evaluation->lancedb, truths, truth_count, detections,
						detection_count);
	avc_result_frame(evaluation->writer, frame->frame_id, truths, truth_count,
					 detections, detection_count);
}

/*
 * Nothing may be written about a frame that is erased.  Which one it was is
 * not asked: the figures of the frames before it would not fit either.
 */
static void
check_erased(Evaluation *evaluation)
{
	AvcJob	   *job = evaluation->job;

	if (avc_slice_version_erased(evaluation->slice, job->version) !=
		evaluation->erased)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("frames were erased from version %lld of slice %s while it was evaluated",
						(long long) job->version, evaluation->slice->name),
				 errhint("Evaluate again.")));
}

/* Take the answer to the oldest batch, match it and store the matches. */
static void
receive_batch(Evaluation *evaluation)
{
	Flight	   *flight = &evaluation->flights[evaluation->done %
											  BATCHES_AHEAD];
	MemoryContext old = MemoryContextSwitchTo(flight->context);
	AvcReply   *reply = avc_engine_receive(evaluation->engine);
	JsonbContainer *frames;
	Jsonb	   *root;
	int			i;

	avc_job_begin(evaluation->job);
	MemoryContextSwitchTo(flight->context);
	check_erased(evaluation);
	root = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
											  CStringGetDatum(reply->json)));
	frames = list_field(&root->root, "frames");
	if (JsonContainerSize(frames) != flight->count)
		raise_bad_reply();
	for (i = 0; i < flight->count; i++)
		match_frame(evaluation, &flight->frames[i], container_at(frames, i));
	avc_job_commit(evaluation->job);
	evaluation->frames += flight->count;
	evaluation->done++;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(flight->context);
}

/* Figures, and the end of the job, in one transaction. */
static void
store_figures(Evaluation *evaluation)
{
	AvcJob	   *job = evaluation->job;
	AvcEvaluationRow row = {0};
	AvcCocoClass *figures = avc_evaluator_finish(evaluation->evaluator);
	AvcLancedbFigures lancedb;

	row.evaluation = job->job;
	row.checkpoint = job->checkpoint;
	row.slice_id = job->slice_id;
	row.version = job->version;
	row.frames = evaluation->frames;
	row.lancedb = evaluation->options.lancedb;
	row.min_score = evaluation->options.min_score;
	row.label_map = evaluation->checkpoint->model->label_map;
	row.role = job->role;
	if (evaluation->lancedb)
		lancedb = avc_lancedb_finish(evaluation->lancedb);
	avc_job_begin(job);
	avc_result_finish(evaluation->writer, &row, evaluation->evaluator,
					  figures, evaluation->lancedb ? &lancedb : NULL);
	avc_job_finish(job, 0);
	avc_job_commit(job);
}

/* The body of evaluate's jobs. */
void
avc_job_evaluate(AvcJob *job)
{
	Evaluation *evaluation = MemoryContextAllocZero(job->context,
													sizeof(Evaluation));
	MemoryContext weights_context;
	AvcFileImage weights;
	instr_time	start;

	evaluation->job = job;
	weights_context = AllocSetContextCreate(job->context,
											"avcurate evaluation weights",
											ALLOCSET_DEFAULT_SIZES);
	weights = prepare(evaluation, weights_context);
	load_model(evaluation, &weights);
	MemoryContextDelete(weights_context);
	INSTR_TIME_SET_CURRENT(start);
	while (evaluation->done < evaluation->batches)
	{
		instr_time	now;
		double		seconds;

		avc_job_check_cancel(job);
		while (evaluation->sent < evaluation->batches &&
			   evaluation->sent - evaluation->done < BATCHES_AHEAD)
			send_batch(evaluation);
		receive_batch(evaluation);
		INSTR_TIME_SET_CURRENT(now);
		INSTR_TIME_SUBTRACT(now, start);
		seconds = INSTR_TIME_GET_DOUBLE(now);
		avc_job_progress(job, (double) evaluation->done / evaluation->batches,
						 evaluation->frames / Max(seconds, 1e-3));
	}
	avc_engine_stop(evaluation->engine);
	store_figures(evaluation);
	avc_batch_reader_close(evaluation->reader);
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
	request.device = options.device;
	PG_RETURN_INT64(avc_job_add(&request));
}
