/*
 * datasets/synthetic.c
 *		The procedure ingest_synthetic: rendered scenes with their labels.
 *
 * The name of a frame tells all that it was made from: a hash of options
 * and split, the seed and the frame's number.  A run that was cut short is
 * simply run again: frames are rendered anew and those that the dataset has
 * already are found equal and left alone.
 *
 * Memory: "run" lives as long as the procedure, with renderer and encoder
 * freed by its callback; "work" is reset with every frame.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "common/procedure.h"
#include "datasets/dataset.h"
#include "datasets/ingest.h"
#include "datasets/scene.h"
#include "image/jpeg.h"

PG_FUNCTION_INFO_V1(avc_ingest_synthetic);

#define MAX_FRAMES 10000000
#define JPEG_QUALITY 90
#define VAL_EVERY 5				/* one frame in five, where split is NULL */

typedef struct SyntheticRun
{
	AvcIngest  *ingest;
	MemoryContext work;
	AvcSceneOptions options;
	AvcSceneRenderer *renderer;
	EngJpegEncoder *encoder;
	EngImage	image;
	uint32		key;			/* hash of options and split */
	int64		seed;
	int			frames;
	const char *split;			/* NULL = some of both */
	int64		boxes;
} SyntheticRun;

/* ---- options --------------------------------------------------------- */

static void
raise_status(const EngStatus *status)
{
	ereport(ERROR,
			(errcode(status->code == ENG_NO_MEMORY ? ERRCODE_OUT_OF_MEMORY :
					 ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s", status->message)));
}

static pg_attribute_noreturn() void
refuse_unknown_option(const char *name)
{
	const AvcSceneOptionInfo *info;
	StringInfoData known;

	initStringInfo(&known);
	appendStringInfoString(&known, "preset");
	for (info = avc_scene_option_infos; info->name != NULL; info++)
		appendStringInfo(&known, ", %s", info->name);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown option \"%s\"", name),
			 errhint("The options are: %s.", known.data)));
}

static void
set_preset(AvcSceneOptions *options, const JsonbValue *value)
{
	StringInfoData known;
	char	   *name;
	int			i;

	if (value->type != jbvString)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"preset\" must be a string")));
	name = pnstrdup(value->val.string.val, value->val.string.len);
	if (avc_scene_preset(options, name))
		return;
	initStringInfo(&known);
	for (i = 0; avc_scene_presets[i] != NULL; i++)
		appendStringInfo(&known, "%s%s", i == 0 ? "" : ", ",
						 avc_scene_presets[i]);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown preset \"%s\"", name),
			 errhint("The presets are: %s.", known.data)));
}

static void
set_option(AvcSceneOptions *options, const char *name,
		   const JsonbValue *value)
{
	const AvcSceneOptionInfo *info = avc_scene_option_find(name);

	if (info == NULL)
		refuse_unknown_option(name);
	if (value->type != jbvNumeric)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" must be a number", name)));
	*avc_scene_option_value(options, info) =
		DatumGetFloat8(DirectFunctionCall1(numeric_float8,
										   NumericGetDatum(value->val.numeric)));
}

/*
 * The options that the document asks for.  The preset comes first, whatever
 * its place in the document, and single options change it.
 */
static void
parse_options(AvcSceneOptions *options, Jsonb *document)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	value;
	JsonbValue	preset;
	EngStatus	status = {0};

	if (!JB_ROOT_IS_OBJECT(document))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options must be a JSON object")));
	avc_scene_preset(options, avc_scene_presets[0]);
	if (getKeyJsonValueFromContainer(&document->root, "preset", 6,
									 &preset) != NULL)
		set_preset(options, &preset);
	iterator = JsonbIteratorInit(&document->root);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		char	   *name;

		if (token != WJB_KEY)
			continue;
		name = pnstrdup(value.val.string.val, value.val.string.len);
		JsonbIteratorNext(&iterator, &value, true);
		if (strcmp(name, "preset") != 0)
			set_option(options, name, &value);
	}
	if (!avc_scene_options_check(options, &status))
		raise_status(&status);
}

/*
 * A hash of what the frames are made from besides seed and number: the
 * options that differ from the first preset, so that an option added later
 * renames no frame, and the split.  FNV-1a, folded to 32 bits.
 */
static uint32
key_of(const AvcSceneOptions *options, const char *split)
{
	AvcSceneOptions copy = *options;
	AvcSceneOptions usual;
	const AvcSceneOptionInfo *info;
	StringInfoData text;
	uint64		hash = UINT64CONST(0xCBF29CE484222325);
	int			i;

	avc_scene_preset(&usual, avc_scene_presets[0]);
	initStringInfo(&text);
	for (info = avc_scene_option_infos; info->name != NULL; info++)
	{
		double		value = *avc_scene_option_value(&copy, info);

		if (value != *avc_scene_option_value(&usual, info))
			appendStringInfo(&text, "%s=%.15g;", info->name, value);
	}
	appendStringInfo(&text, "split%s%s", split == NULL ? "" : "=",
					 split == NULL ? "" : split);
	for (i = 0; i < text.len; i++)
		hash = (hash ^ (unsigned char) text.data[i]) *
			UINT64CONST(0x100000001B3);
	return (uint32) (hash ^ (hash >> 32));
}

/* ---- frames ---------------------------------------------------------- */

static void
free_run(void *arg)
{
	SyntheticRun *run = arg;

	avc_scene_renderer_free(run->renderer);
	eng_jpeg_encoder_free(run->encoder);
	run->renderer = NULL;
	run->encoder = NULL;
}

static void
start_renderer(SyntheticRun *run)
{
	MemoryContextCallback *callback = palloc0(sizeof(*callback));
	EngStatus	status = {0};

	callback->func = free_run;
	callback->arg = run;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, callback);
	run->image.width = (int32) run->options.width;
	run->image.height = (int32) run->options.height;
	run->image.channels = 3;
	run->image.pixels = palloc(eng_image_bytes(&run->image));
	run->renderer = avc_scene_renderer_create(&run->options, &status);
	if (run->renderer != NULL)
		run->encoder = eng_jpeg_encoder_create(&status);
	if (run->encoder == NULL)
		raise_status(&status);
}

/* Hand a rendered frame to the dataset; called in the work context. */
static void
add_frame(SyntheticRun *run, int number, const AvcSceneTruth *truth)
{
	AvcIngestFrame frame = {0};
	const char *categories[AVC_SCENE_MAX_LABELS];
	float		boxes[AVC_SCENE_MAX_LABELS][4];
	int8		occluded[AVC_SCENE_MAX_LABELS];
	int8		truncated[AVC_SCENE_MAX_LABELS];
	int			i;

	for (i = 0; i < truth->label_count; i++)
	{
		categories[i] = truth->labels[i].category;
		memcpy(boxes[i], truth->labels[i].box, sizeof(boxes[i]));
		occluded[i] = truth->labels[i].occluded;
		truncated[i] = truth->labels[i].truncated;
	}
	frame.image_id = psprintf("syn-%08x-" INT64_FORMAT "-%d", run->key,
							  run->seed, number);
	frame.source = frame.image_id;
	frame.split = run->split != NULL ? run->split :
		number % VAL_EVERY == VAL_EVERY - 1 ? "val" : "train";
	frame.weather = truth->weather;
	frame.scene = truth->scene;
	frame.timeofday = truth->timeofday;
	frame.image = eng_jpeg_encoded(run->encoder, &frame.image_len);
	frame.has_labels = true;
	frame.box_count = truth->label_count;
	frame.categories = categories;
	frame.boxes = &boxes[0][0];
	frame.occluded = occluded;
	frame.truncated = truncated;
	avc_ingest_add(run->ingest, &frame);
	run->boxes += truth->label_count;
}

static void
render_frames(SyntheticRun *run)
{
	int			number;

	for (number = 0; number < run->frames; number++)
	{
		MemoryContext old = MemoryContextSwitchTo(run->work);
		AvcSceneTruth truth;
		EngStatus	status = {0};

		CHECK_FOR_INTERRUPTS();
		avc_scene_render(run->renderer, (uint64) run->seed, (uint64) number,
						 &run->image, &truth);
		if (!eng_jpeg_encode(run->encoder, &run->image, JPEG_QUALITY,
							 ENG_JPEG_420, &status))
			raise_status(&status);
		add_frame(run, number, &truth);
		MemoryContextSwitchTo(old);
		MemoryContextReset(run->work);
	}
}

/* ---- entry point ----------------------------------------------------- */

/* Check the arguments and get ready; called in the run's context. */
static SyntheticRun *
begin_run(FunctionCallInfo fcinfo)
{
	SyntheticRun *run = palloc0(sizeof(SyntheticRun));
	AvcDataset *dataset;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("dataset, frames and seed must not be NULL")));
	run->frames = PG_GETARG_INT32(1);
	if (run->frames < 1 || run->frames > MAX_FRAMES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("frames must be between 1 and %d", MAX_FRAMES)));
	run->seed = PG_GETARG_INT64(2);
	if (!PG_ARGISNULL(3))
		run->split = text_to_cstring(PG_GETARG_TEXT_PP(3));
	if (PG_ARGISNULL(4))
		avc_scene_preset(&run->options, avc_scene_presets[0]);
	else
		parse_options(&run->options, PG_GETARG_JSONB_P(4));
	run->key = key_of(&run->options, run->split);
	run->work = AllocSetContextCreate(CurrentMemoryContext,
									  "synthetic frame",
									  ALLOCSET_DEFAULT_SIZES);
	dataset = avc_dataset_find(PG_GETARG_OID(0), false);
	start_renderer(run);
	run->ingest = avc_ingest_begin(dataset,
								   psprintf("syn-%08x-" INT64_FORMAT,
											run->key, run->seed),
								   NULL, run->frames);
	return run;
}

static void
ingest_synthetic(FunctionCallInfo fcinfo)
{
	SyntheticRun *run = begin_run(fcinfo);
	const AvcIngestCounts *counts;

	render_frames(run);
	avc_ingest_finish(run->ingest);
	counts = avc_ingest_counts(run->ingest);
	ereport(NOTICE,
			(errmsg("rendered %d frames with " INT64_FORMAT " boxes: "
					INT64_FORMAT " new, " INT64_FORMAT " updated, "
					INT64_FORMAT " unchanged, " INT64_FORMAT " errors",
					run->frames, run->boxes, counts->inserted,
					counts->updated, counts->unchanged, counts->errors),
			 counts->errors > 0 ?
			 errhint("See avcurate.ingest_errors.") : 0));
}

Datum
avc_ingest_synthetic(PG_FUNCTION_ARGS)
{
	return avc_procedure_run(fcinfo, "ingest_synthetic", ingest_synthetic);
}
