/*
 * models/model.c
 *		Named network architectures, and how an engine is told of one.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"

#include "common/catalog.h"
#include "common/server_jansson.h"
#include "common/settings.h"
#include "common/spi.h"
#include "engine/core/devices.h"
#include "engine/nets/clip.h"
#include "engine/nets/detector_config.h"
#include "engine/protocol.h"
#include "models/model.h"

PG_FUNCTION_INFO_V1(avc_create_model);

/* ---- JSON ----------------------------------------------------------- */

void
avc_json_add_raw(StringInfo json, const char *key, const char *value)
{
	if (json->len > 0 && json->data[json->len - 1] != '{')
		appendStringInfoString(json, ", ");
	escape_json(json, key);
	appendStringInfoString(json, ": ");
	appendStringInfoString(json, value);
}

void
avc_json_add(StringInfo json, const char *key, const char *value)
{
	avc_json_add_raw(json, key, "");
	if (value != NULL)
		escape_json(json, value);
	else
		appendStringInfoString(json, "null");
}

void
avc_json_add_int(StringInfo json, const char *key, int64 value)
{
	avc_json_add_raw(json, key, psprintf(INT64_FORMAT, value));
}

Jsonb *
avc_json_to_jsonb(const char *json)
{
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json)));
}

char *
avc_jsonb_to_text(Jsonb *jsonb)
{
	return JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb));
}

/*
 * The engine's code cuts messages at a number of bytes, which may be in the
 * middle of a character; what is no text in this encoding becomes "?".
 */
static char *
valid_text(const char *message)
{
	char	   *text = pstrdup(message);
	char	   *at = text;
	int			left = strlen(text);

	for (;;)
	{
		int			valid = pg_encoding_verifymbstr(GetDatabaseEncoding(), at,
													left);

		if (valid >= left)
			return text;
		at[valid] = '?';
		at += valid + 1;
		left -= valid + 1;
	}
}

void
avc_raise_status(const EngStatus *status)
{
	int			state = ERRCODE_EXTERNAL_ROUTINE_EXCEPTION;

	if (status->code == ENG_BAD_ARGUMENT)
		state = ERRCODE_INVALID_PARAMETER_VALUE;
	else if (status->code == ENG_BAD_FILE)
		state = ERRCODE_DATA_EXCEPTION;
	else if (status->code == ENG_NO_MEMORY)
		state = ERRCODE_OUT_OF_MEMORY;
	else if (status->code == ENG_UNSUPPORTED)
		state = ERRCODE_FEATURE_NOT_SUPPORTED;
	ereport(ERROR, (errcode(state), errmsg("%s", valid_text(status->message))));
	pg_unreachable();
}

/* ---- the engine's side ---------------------------------------------- */

const char *
avc_model_device(const char *device)
{
	if (device == NULL)
		device = avc_device;
	return strcmp(device, "auto") == 0 && !eng_device_gpu_seen() ? "cpu" :
		device;
}

bool
avc_model_is_gpu(const char *device)
{
	return strcmp(device, "cpu") != 0 && strcmp(device, "ref") != 0;
}

const char *
avc_model_queue_device(const char *device)
{
	return strcmp(device, "auto") == 0 || strcmp(device, "cuda") == 0 ?
		"cuda:0" : device;
}

const char *
avc_model_precision(const char *amp)
{
	if (strcmp(amp, "auto") == 0)
		return "";
	return psprintf(", \"precision\": \"%s\"",
					strcmp(amp, "fp16") == 0 ? "f16" : amp);
}

void
avc_model_check_device(const char *device)
{
	if (!eng_device_is_known(device))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("device \"%s\" is not known", device),
				 errhint("Devices are \"auto\", \"cpu\", \"cuda:N\", and for several GPUs \"cuda:0,1\" or \"cuda:all\".")));
	if (avc_model_is_gpu(device) && !eng_device_gpu_seen())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("device \"%s\" is not available", device),
				 errdetail("The driver of a GPU has made no files in /dev."),
				 errhint("Set avcurate.device to \"auto\" or \"cpu\"; avcurate.doctor() tells what the engine finds.")));
}

char *
avc_model_device_note(const char *load_reply)
{
	json_t	   *reply = json_loads(load_reply, 0, NULL);
	const char *note = json_string_value(json_object_get(reply,
														 "device_note"));
	char	   *copy = note != NULL ? valid_text(note) : NULL;

	json_decref(reply);
	return copy;
}

char *
avc_model_load_json(const AvcModel *model, const AvcLoad *load)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	avc_model_add_network(&json, model);
	avc_json_add(&json, "mode", load->mode);
	avc_json_add(&json, "device", load->device);
	avc_json_add_int(&json, "threads", load->threads);
	avc_json_add_int(&json, "seed", load->seed);
	avc_json_add_raw(&json, "init", load->init ? "true" : "false");
	avc_json_add_raw(&json, "strict", load->strict ? "true" : "false");
	avc_json_add_int(&json, "memory_limit", avc_engine_memory_bytes());
	avc_json_add_int(&json, "device_memory_limit",
					 avc_engine_device_memory_bytes());
	if (load->more != NULL)
		appendStringInfoString(&json, load->more);
	appendStringInfoChar(&json, '}');
	return json.data;
}

AvcReply *
avc_model_load(AvcEngine *engine, const AvcModel *model, const AvcLoad *load,
			   const AvcFileImage *file)
{
	AvcBlobPart part;
	AvcMessage	message = {ENG_KIND_LOAD, NULL, NULL, 0};

	message.json = avc_model_load_json(model, load);
	if (file != NULL)
	{
		part.data = file->data;
		part.len = file->len;
		message.parts = &part;
		message.part_count = 1;
	}
	return avc_engine_call(engine, &message);
}

void
avc_model_add_versions(StringInfo json, const AvcEngine *engine)
{
	static const char *const keys[] = {"engine_version", "libraries", "isa"};
	json_t	   *hello = json_loads(avc_engine_hello(engine), 0, NULL);
	int			i;

	avc_json_add(json, "extension_version", AVC_VERSION);
	for (i = 0; i < lengthof(keys); i++)
	{
		char	   *value = json_dumps(json_object_get(hello, keys[i]),
									   JSON_ENCODE_ANY | JSON_SORT_KEYS);

		if (value != NULL)
			avc_json_add_raw(json, keys[i], value);
		free(value);
	}
	json_decref(hello);
}

void
avc_model_add_network(StringInfo json, const AvcModel *model)
{
	avc_json_add(json, "architecture", model->architecture);
	avc_json_add_raw(json, "options", model->options);
	if (!avc_model_is_clip(model))
		avc_json_add_int(json, "num_classes", model->num_classes);
}

void
avc_model_add_identity(StringInfo json, const AvcModel *model)
{
	avc_json_add(json, "model", model->model);
	avc_json_add(json, "architecture", model->architecture);
	avc_json_add_raw(json, "model_options", model->options);
	if (avc_model_is_clip(model))
		return;
	avc_json_add(json, "label_map", model->label_map);
	avc_json_add_int(json, "num_classes", model->num_classes);
}

/* ---- registry ------------------------------------------------------- */

/* The row at hand. */
static AvcModel *
read_model(const char *name)
{
	AvcModel   *model = palloc0(sizeof(AvcModel));
	bool		is_null;
	Datum		value;

	model->model = pstrdup(name);
	model->architecture =
		TextDatumGetCString(avc_spi_column(0, "architecture", &is_null));
	model->options =
		TextDatumGetCString(avc_spi_column(0, "options", &is_null));
	value = avc_spi_column(0, "label_map", &is_null);
	model->label_map = is_null ? NULL : TextDatumGetCString(value);
	value = avc_spi_column(0, "num_classes", &is_null);
	model->num_classes = is_null ? 0 : DatumGetInt32(value);
	model->owner = DatumGetObjectId(avc_spi_column(0, "owner", &is_null));
	return model;
}

AvcModel *
avc_model_find(const char *name, bool missing_ok)
{
	MemoryContext context = CurrentMemoryContext;
	MemoryContext old;
	AvcModel   *model = NULL;
	AvcRoleScope scope;
	AvcParam	params[] = {AVC_TEXT(name)};

	avc_catalog_enter(&scope);
	SPI_connect();
	if (avc_spi_exec("SELECT architecture, options::text AS options, "
					 "label_map, num_classes, owner::oid AS owner "
					 "FROM _avcurate.models WHERE model = $1",
					 1, params, false, 0) > 0)
	{
		old = MemoryContextSwitchTo(context);
		model = read_model(name);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	avc_catalog_leave(&scope);
	if (model == NULL && !missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("model \"%s\" does not exist", name),
				 errhint("Make it with avcurate.create_model().")));
	return model;
}

void
avc_model_check_usable(const AvcModel *model)
{
	if (!has_privs_of_role(GetUserId(), model->owner) &&
		!pg_database_ownercheck(MyDatabaseId, GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for model \"%s\"", model->model),
				 errhint("It may be used by members of the role that made it.")));
}

bool
avc_model_is_clip(const AvcModel *model)
{
	return eng_clip_is_architecture(model->architecture);
}

void
avc_model_check_detector(const AvcModel *model)
{
	if (avc_model_is_clip(model))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("model \"%s\" is CLIP, which does not detect",
						model->model),
				 errhint("Use a detector here; CLIP serves clip_embedding() and clip_text_embedding().")));
}

static void
check_new_name(const char *name)
{
	if (name[0] == '\0' || strlen(name) > 200)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("name of a model must have 1 to 200 bytes")));
	if (avc_model_find(name, true) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("model \"%s\" already exists", name)));
}

/* Classes of a label map, background included. */
static int
count_classes(const char *label_map)
{
	AvcRoleScope scope;
	AvcParam	params[] = {AVC_TEXT(label_map)};
	bool		is_null;
	int			label;

	avc_catalog_enter(&scope);
	SPI_connect();
	label = DatumGetInt32(avc_spi_value("SELECT pg_catalog.max(label) "
										"FROM _avcurate.label_maps "
										"WHERE label_map = $1", 1, params,
										CurrentMemoryContext, &is_null));
	SPI_finish();
	avc_catalog_leave(&scope);
	if (is_null)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("label map \"%s\" does not exist", label_map),
				 errhint("Label maps are listed in avcurate.label_maps.")));
	return label + 1;
}

void
avc_model_check_labels(const AvcModel *model)
{
	int			classes;

	avc_model_check_detector(model);
	classes = count_classes(model->label_map);
	if (classes > model->num_classes)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("label map \"%s\" goes up to label %d, but model \"%s\" was made for labels up to %d",
						model->label_map, classes - 1, model->model,
						model->num_classes - 1),
				 errhint("Make a new model with avcurate.create_model().")));
}

void
avc_model_config(EngDetectorConfig *config, const char *architecture,
				 const char *options, int num_classes)
{
	EngStatus	status = {ENG_OK, ""};

	if (!eng_detector_config_parse(config, architecture, options,
								   num_classes, &status))
		avc_raise_status(&status);
}

static char *
text_argument(FunctionCallInfo fcinfo, int number, const char *name)
{
	if (PG_ARGISNULL(number))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be NULL", name)));
	return text_to_cstring(PG_GETARG_TEXT_PP(number));
}

/* The options as an object; NULL is one without members. */
static Jsonb *
options_argument(FunctionCallInfo fcinfo)
{
	Jsonb	   *options = PG_ARGISNULL(2) ? avc_json_to_jsonb("{}")
		: PG_GETARG_JSONB_P(2);

	if (!JB_ROOT_IS_OBJECT(options))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options of a model must be a JSON object")));
	return options;
}

/* Classes and options of a detector, checked. */
static void
describe_detector(AvcModel *model, FunctionCallInfo fcinfo)
{
	EngDetectorConfig config;

	if (!PG_ARGISNULL(3))
		model->label_map = text_to_cstring(PG_GETARG_TEXT_PP(3));
	else
		model->label_map = strcmp(model->architecture, "small") == 0 ?
			"bdd100k" : "coco";
	model->options = avc_jsonb_to_text(options_argument(fcinfo));
	model->num_classes = count_classes(model->label_map);
	avc_model_config(&config, model->architecture, model->options,
					 model->num_classes);
}

/*
 * Options of CLIP, checked, and the vocabulary that one of them names; its
 * data is NULL if none does.
 */
static AvcFileImage
describe_clip(AvcModel *model, FunctionCallInfo fcinfo)
{
	Jsonb	   *options = options_argument(fcinfo);
	JsonbValue	buffer;
	JsonbValue *path = getKeyJsonValueFromContainer(&options->root,
													"vocabulary",
													strlen("vocabulary"),
													&buffer);
	AvcFileImage vocabulary = {NULL, 0};
	EngClipConfig config;
	EngStatus	status = {ENG_OK, ""};
	Datum		others;

	if (!PG_ARGISNULL(3))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a CLIP model has no label map")));
	others = DirectFunctionCall2(jsonb_delete, JsonbPGetDatum(options),
								 CStringGetTextDatum("vocabulary"));
	model->options = avc_jsonb_to_text(DatumGetJsonbP(others));
	if (!eng_clip_config_parse(&config, model->options, &status) ||
		!eng_clip_config_check(&config, &status))
		avc_raise_status(&status);
	if (path == NULL || path->type == jbvNull)
		return vocabulary;
	if (path->type != jbvString)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"vocabulary\" must be the path of a file")));
	return avc_clip_vocabulary_read(pnstrdup(path->val.string.val,
										path->val.string.len));
}

static void
insert_model(const AvcModel *model)
{
	AvcRoleScope scope;
	AvcParam	params[] = {
		AVC_TEXT(model->model), AVC_TEXT(model->architecture),
		AVC_TEXT(model->options), AVC_TEXT(model->label_map),
		{INT4OID, Int32GetDatum(model->num_classes), model->num_classes == 0},
		{REGROLEOID, ObjectIdGetDatum(model->owner), false}
	};

	avc_catalog_enter(&scope);
	SPI_connect();
	avc_spi_exec("INSERT INTO _avcurate.models (model, architecture, "
				 "options, label_map, num_classes, owner) "
				 "VALUES ($1, $2, $3::jsonb, $4, $5, $6)",
				 lengthof(params), params, false, 0);
	SPI_finish();
	avc_catalog_leave(&scope);
}

/*
 * create_model(model, architecture, options, label_map) returns void.
 */
Datum
avc_create_model(PG_FUNCTION_ARGS)
{
	AvcModel	model = {NULL};
	AvcFileImage vocabulary = {NULL, 0};

	PreventCommandIfReadOnly("create_model()");
	model.owner = GetUserId();
	model.model = text_argument(fcinfo, 0, "model");
	model.architecture = text_argument(fcinfo, 1, "architecture");
	check_new_name(model.model);
	if (avc_model_is_clip(&model))
		vocabulary = describe_clip(&model, fcinfo);
	else
		describe_detector(&model, fcinfo);
	insert_model(&model);
	if (vocabulary.data != NULL)
		avc_clip_vocabulary_store(model.model, vocabulary);
	PG_RETURN_VOID();
}
