/*
 * evaluation/run.c
 *		The frames of a pinned version through a detector, and their matching.
 *
 * Batches are read in frame_id order, each in a transaction of its own; a
 * few of them are on their way to the engine, and what comes back is matched
 * in the order in which it was sent.  The run's context holds what lives as
 * long as the run; each batch on its way has a context of its own, from
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
#include "engine/protocol.h"
#include "evaluation/run.h"
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

struct AvcRun
{
	AvcRunSource source;
	MemoryContext context;
	AvcEvaluatedClass *classes; /* by label, ascending */
	int			class_count;
	AvcBatchReader *reader;
	AvcSlice   *slice;
	int64		erased;			/* rows of the version that were, at first */
	int64		batches;
	/* of the pass under way */
	const AvcRunHooks *hooks;
	AvcEngine  *engine;
	AvcEvaluator *evaluator;
	Flight		flights[BATCHES_AHEAD];
	int64		sent;			/* batches */
	int64		done;			/* batches */
	int64		frames;			/* frames done */
};

/* Class of a label, or -1 if the map has none. */
static int
find_class(const AvcRun *run, int32 label)
{
	int			low = 0;
	int			high = run->class_count - 1;

	while (low <= high)
	{
		int			middle = (low + high) / 2;
		int32		found = run->classes[middle].label;

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
list_classes(AvcRun *run)
{
	AvcLabelMap *map;
	int32		most;
	int32		label;

	map = avc_label_map_load(run->source.model->label_map,
							 run->context);
	most = avc_label_map_max(map);
	run->classes = palloc(sizeof(AvcEvaluatedClass) * (most + 1));
	for (label = 1; label <= most; label++)
	{
		const char *category = avc_label_map_category(map, label);

		if (category == NULL)
			continue;
		run->classes[run->class_count].label = label;
		run->classes[run->class_count].category = category;
		run->class_count++;
	}
}

AvcRun *
avc_run_open(const AvcRunSource *source, MemoryContext context)
{
	AvcRun	   *run = MemoryContextAllocZero(context, sizeof(AvcRun));
	MemoryContext old = MemoryContextSwitchTo(context);
	AvcBatchOptions options = {0};

	run->source = *source;
	run->context = context;
	list_classes(run);
	run->slice = avc_slice_find_by_id(source->slice_id, false);
	run->erased = avc_slice_version_erased(run->slice, source->version);
	options.slice_id = source->slice_id;
	options.version = source->version;
	options.batch_size = BATCH_FRAMES;
	options.label_map = source->model->label_map;
	options.max_frames = source->max_frames;
	options.labelled_only = true;
	options.with_ignored = true;
	run->reader = avc_batch_reader_open(&options, context);
	run->batches = avc_batch_reader_count(run->reader);
	MemoryContextSwitchTo(old);
	return run;
}

void
avc_run_close(AvcRun *run)
{
	avc_batch_reader_close(run->reader);
}

const AvcEvaluatedClass *
avc_run_classes(const AvcRun *run, int *count)
{
	*count = run->class_count;
	return run->classes;
}

int64
avc_run_unlabelled(const AvcRun *run)
{
	return avc_batch_reader_unlabelled(run->reader);
}

static AvcImageTruth *
frame_truths(const AvcRun *run, const AvcBatchFrame *frame,
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

		truth->category = find_class(run, frame->labels[i]);
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
frame_detections(const AvcRun *run, JsonbContainer *frame,
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
		to->category = find_class(run, (int32) number_at(labels, i));
		to->detection.score = number_at(scores, i);
		if (to->category < 0 ||
			to->detection.score < (float) run->source.min_score)
			continue;
		to->detection.box[0] = corner[0];
		to->detection.box[1] = corner[1];
		to->detection.box[2] = (double) corner[2] - corner[0];
		to->detection.box[3] = (double) corner[3] - corner[1];
		(*count)++;
	}
	return detections;
}

/* Match one frame; whoever asked is told. */
static void
match_frame(AvcRun *run, const AvcBatchFrame *frame, JsonbContainer *reply)
{
	AvcRunFrame result = {frame->frame_id};

	result.truths = frame_truths(run, frame, &result.truth_count);
	result.detections = frame_detections(run, reply, frame->frame_id,
										 &result.detection_count);
	avc_evaluator_add(run->evaluator, result.truths, result.truth_count,
					  result.detections, result.detection_count);
	if (run->hooks->frame != NULL)
		run->hooks->frame(run->hooks->arg, &result);
}

/* Read the next batch and put it on its way. */
static void
send_batch(AvcRun *run)
{
	Flight	   *flight = &run->flights[run->sent %
											  BATCHES_AHEAD];
	AvcBlobPart parts[BATCH_FRAMES];
	AvcMessage	message = {ENG_KIND_DETECT, NULL, parts, 0};
	StringInfoData json;
	MemoryContext old;
	int			i;

	flight->context = AllocSetContextCreate(run->context,
											"avcurate evaluation batch",
											ALLOCSET_DEFAULT_SIZES);
	avc_job_begin(run->source.job);
	flight->count = avc_batch_reader_read(run->reader,
										  run->sent, flight->context,
										  &flight->frames);
	avc_job_commit(run->source.job);

	old = MemoryContextSwitchTo(flight->context);
	initStringInfo(&json);
	appendStringInfo(&json, "{\"min_score\": %.15g, \"frames\": [",
					 run->source.min_score);
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
	avc_engine_send(run->engine, &message);
	for (i = 0; i < flight->count; i++)
	{
		pfree(flight->frames[i].image);
		flight->frames[i].image = NULL;
	}
	MemoryContextSwitchTo(old);
	run->sent++;
}

/*
 * Nothing may be written about a frame that is erased.  Which one it was is
 * not asked: the figures of the frames before it would not fit either.
 */
static void
check_erased(AvcRun *run)
{
	if (avc_slice_version_erased(run->slice, run->source.version) !=
		run->erased)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("frames were erased from version %lld of slice %s while it was evaluated",
						(long long) run->source.version, run->slice->name),
				 errhint("Evaluate again.")));
}

/* Take the answer to the oldest batch, match it and store the matches. */
static void
receive_batch(AvcRun *run)
{
	Flight	   *flight = &run->flights[run->done %
											  BATCHES_AHEAD];
	MemoryContext old = MemoryContextSwitchTo(flight->context);
	AvcReply   *reply = avc_engine_receive(run->engine);
	JsonbContainer *frames;
	Jsonb	   *root;
	int			i;

	avc_job_begin(run->source.job);
	MemoryContextSwitchTo(flight->context);
	check_erased(run);
	root = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
											  CStringGetDatum(reply->json)));
	frames = list_field(&root->root, "frames");
	if (JsonContainerSize(frames) != flight->count)
		raise_bad_reply();
	for (i = 0; i < flight->count; i++)
		match_frame(run, &flight->frames[i], container_at(frames, i));
	avc_job_commit(run->source.job);
	run->frames += flight->count;
	run->done++;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(flight->context);
}

/* Say why the job is not on a GPU although one is to be seen. */
static void
note_device(AvcRun *run, const AvcReply *loaded)
{
	char	   *note = avc_model_device_note(loaded->json);

	if (note == NULL || run->source.is_part)
		return;
	avc_job_begin(run->source.job);
	avc_job_log(run->source.job, "warning", "evaluates on the CPU: %s", note);
	avc_job_commit(run->source.job);
}

void
avc_run_load(AvcRun *run, const AvcFileImage *weights)
{
	AvcLoad		load = {"infer", NULL, 0, 0, false, true, NULL};
	AvcReply   *reply;

	load.device = run->source.device;
	load.threads = run->source.threads;
	if (run->source.amp != NULL)
		load.more = avc_model_precision(run->source.amp);
	run->engine = avc_engine_start();
	reply = avc_model_load(run->engine, run->source.model, &load, weights);
	note_device(run, reply);
	avc_reply_free(reply);
}

AvcEvaluator *
avc_run_pass(AvcRun *run, const AvcRunHooks *hooks)
{
	instr_time	start;

	run->hooks = hooks;
	run->sent = run->done = run->frames = 0;
	run->evaluator = avc_evaluator_create(run->context, run->class_count);
	INSTR_TIME_SET_CURRENT(start);
	while (run->done < run->batches)
	{
		instr_time	now;

		avc_job_check_cancel(run->source.job);
		while (run->sent < run->batches &&
			   run->sent - run->done < BATCHES_AHEAD)
			send_batch(run);
		receive_batch(run);
		INSTR_TIME_SET_CURRENT(now);
		INSTR_TIME_SUBTRACT(now, start);
		hooks->batch(hooks->arg, (double) run->done / run->batches,
					 run->frames / Max(INSTR_TIME_GET_DOUBLE(now), 1e-3));
	}
	avc_engine_stop(run->engine);
	run->engine = NULL;
	return run->evaluator;
}

int64
avc_run_frames(const AvcRun *run)
{
	return run->frames;
}
