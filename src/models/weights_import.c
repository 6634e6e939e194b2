/*
 * models/weights_import.c
 *		Weights into the database from files.
 *
 * A file, safetensors or PyTorch's, passes through an engine: it is loaded
 * strictly into the model's network and saved again, so names, shapes and
 * types are known to be the network's own before anything is stored.  A file
 * of a classification network gives the body alone; the rest is drawn.
 */
#include "postgres.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "common/catalog.h"
#include "common/server_jansson.h"
#include "common/settings.h"
#include "common/spi.h"
#include "engine/io/pth.h"
#include "engine/nets/clip.h"
#include "engine/nets/detector_config.h"
#include "engine/protocol.h"
#include "models/model.h"

PG_FUNCTION_INFO_V1(avc_import_checkpoint);
PG_FUNCTION_INFO_V1(avc_import_checkpoint_file);
PG_FUNCTION_INFO_V1(avc_import_backbone);
PG_FUNCTION_INFO_V1(avc_import_backbone_file);

/*
 * Longest metadata string, in bytes, that a provenance keeps.  Each way out
 * and in quotes the provenance once more, which doubles its backslashes.
 */
#define MAX_METADATA 16384

/* What is imported, and how. */
typedef struct Import
{
	AvcModel   *model;
	AvcFileImage file;			/* data NULL once they are of no more use */
	bool		is_pth;			/* one of PyTorch's */
	const char *path;			/* NULL: the file came as bytea */
	bool		new_head;		/* the predictor is drawn, not taken */
	bool		backbone_only;	/* all is drawn but the body */
	int64		seed;			/* of the draw */
	const char *metadata;		/* JSON: what the file says about itself */
} Import;

/* ---- what a safetensors file says about itself ----------------------- */

/* Would both sets of options make the same network of the model's weights? */
static bool
is_same_network(const AvcModel *model, const char *architecture,
				const char *options)
{
	EngStatus	status = {ENG_OK, ""};
	EngDetectorConfig theirs;
	EngDetectorConfig ours;
	EngClipConfig their_clip;
	EngClipConfig our_clip;

	if (avc_model_is_clip(model))
		return !eng_clip_is_architecture(architecture) ||
			!eng_clip_config_parse(&their_clip, options, &status) ||
			!eng_clip_config_parse(&our_clip, model->options, &status) ||
			their_clip.quick_gelu == our_clip.quick_gelu;
	return !eng_detector_config_parse(&theirs, architecture, options,
									  model->num_classes, &status) ||
		!eng_detector_config_parse(&ours, model->architecture,
								   model->options, model->num_classes,
								   &status) ||
		memcmp(&theirs, &ours, sizeof(ours)) == 0;
}

/*
 * The file may name the network that it was written for.  What differs in
 * more than the number of classes (norm_eps, sizes, thresholds, the kind of
 * GELU) shows in no tensor, so it is said here.
 */
static void
compare_options(const AvcModel *model, const EngTensorFile *tensors)
{
	const char *architecture = eng_tensor_file_metadata(tensors,
														"architecture");
	const char *options = eng_tensor_file_metadata(tensors, "options");

	if (architecture == NULL || options == NULL ||
		strlen(options) > MAX_METADATA ||
		is_same_network(model, architecture, options))
		return;
	ereport(NOTICE,
			(errmsg("the file was written for another network than model \"%s\"",
					model->model),
			 errdetail("The file says architecture \"%s\" with options %s, the model is \"%s\" with options %s.",
					   architecture, options, model->architecture,
					   model->options)));
}

/*
 * A text of a file, which is UTF-8, in the database's encoding; NULL if it
 * has characters that this one lacks.
 */
static const char *
server_text(const char *text)
{
	int			encoding = GetDatabaseEncoding();
	int			length = strlen(text);
	int			room = length * MAX_CONVERSION_GROWTH + 1;
	Oid			conversion;
	char	   *out;

	if (encoding == PG_UTF8 || encoding == PG_SQL_ASCII || length == 0)
		return text;
	conversion = FindDefaultConversionProc(PG_UTF8, encoding);
	if (!OidIsValid(conversion))
		return NULL;
	out = palloc(room);
	if (pg_do_encoding_conversion_buf(conversion, PG_UTF8, encoding,
									  (unsigned char *) unconstify(char *, text),
									  length, (unsigned char *) out, room,
									  true) != length)
		return NULL;
	return out;
}

/*
 * The file's metadata as JSON; what is too long is counted instead, what the
 * database cannot write is left out.
 */
static char *
file_metadata(const Import *import)
{
	EngTensorFile *tensors = avc_tensor_file_open(import->file.data,
												  import->file.len);
	StringInfoData metadata;
	int			i;

	compare_options(import->model, tensors);
	initStringInfo(&metadata);
	appendStringInfoChar(&metadata, '{');
	for (i = 0; i < tensors->metadata_count; i++)
	{
		const char *key = tensors->metadata[i].key;
		const char *value = tensors->metadata[i].value;
		size_t		len = strlen(value);

		if (strlen(key) > MAX_METADATA)
			continue;
		key = server_text(key);
		value = len > MAX_METADATA ?
			psprintf("(%zu bytes are left out)", len) : server_text(value);
		if (key != NULL && value != NULL)
			avc_json_add(&metadata, key, value);
	}
	appendStringInfoChar(&metadata, '}');
	return metadata.data;
}

/* ---- the old names ---------------------------------------------------- */

/* Does anything but fresh weights hold the model to the eps that it has? */
static void
check_eps_free(const AvcModel *model)
{
	AvcParam	params[] = {AVC_TEXT(model->model)};

	if (avc_spi_exec("SELECT FROM _avcurate.checkpoints WHERE model = $1 "
					 "AND provenance ->> 'origin' IS DISTINCT FROM 'initialised' "
					 "UNION ALL SELECT FROM _avcurate.jobs WHERE model = $1 "
					 "AND state IN ('pending', 'running')",
					 lengthof(params), params, false, 1) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("norm_eps of model \"%s\" cannot become 0 as this file needs: other checkpoints or jobs use the model",
						model->model),
				 errhint("Import the file into a new model, or give the new model the option norm_eps yourself.")));
}

static bool
has_frozen_norms(const AvcModel *model)
{
	EngDetectorConfig config;

	avc_model_config(&config, model->architecture, model->options,
					 model->num_classes);
	return config.body_norm == ENG_NORM_FROZEN;
}

/*
 * torchvision's v1 weights of 2019 were trained with norms of eps 0, and it
 * sets that when it loads them; only their names tell.
 */
static void
set_norm_eps(const AvcModel *model)
{
	AvcParam	params[] = {AVC_TEXT(model->model)};
	AvcRoleScope scope;
	bool		is_null;
	bool		is_set;
	bool		is_zero;

	avc_catalog_enter(&scope);
	SPI_connect();
	avc_spi_exec("SELECT options ? 'norm_eps' AS is_set, "
				 "(options ->> 'norm_eps')::float8 = 0 AS is_zero "
				 "FROM _avcurate.models WHERE model = $1 FOR UPDATE",
				 lengthof(params), params, false, 0);
	is_set = DatumGetBool(avc_spi_column(0, "is_set", &is_null));
	is_zero = DatumGetBool(avc_spi_column(0, "is_zero", &is_null)) &&
		!is_null;
	if (!is_set)
	{
		check_eps_free(model);
		avc_spi_exec("UPDATE _avcurate.models SET options = options || "
					 "'{\"norm_eps\": 0}'::jsonb WHERE model = $1",
					 lengthof(params), params, false, 0);
	}
	SPI_finish();
	avc_catalog_leave(&scope);
	if (!is_set)
		ereport(NOTICE,
				(errmsg("option norm_eps of model \"%s\" is 0 now",
						model->model),
				 errdetail("The file has the tensor names of torchvision's first Faster R-CNN weights, which go with frozen norms of eps 0."),
				 has_frozen_norms(model) ? 0 :
				 errhint("Give the model the option \"norm\": \"frozen\" to train it as torchvision does.")));
	else if (!is_zero)
		ereport(NOTICE,
				(errmsg("model \"%s\" keeps its option norm_eps",
						model->model),
				 errdetail("The file has the tensor names of torchvision's first Faster R-CNN weights, which go with norm_eps 0.")));
}

/* ---- in --------------------------------------------------------------- */

static char *
import_provenance(const Import *import, const AvcEngine *engine)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	avc_json_add(&json, "origin", "imported");
	if (import->path != NULL)
		avc_json_add(&json, "path", import->path);
	avc_json_add_int(&json, "file_bytes", (int64) import->file.len);
	avc_json_add(&json, "file_format",
				 import->is_pth ? "pth" : "safetensors");
	avc_json_add_raw(&json, "file_metadata", import->metadata);
	if (import->new_head)
		avc_json_add_raw(&json, "new_head", "true");
	if (import->backbone_only)
		avc_json_add_raw(&json, "backbone_only", "true");
	if (import->new_head || import->backbone_only)
		avc_json_add_int(&json, "seed", import->seed);
	avc_model_add_identity(&json, import->model);
	avc_model_add_versions(&json, engine);
	appendStringInfoChar(&json, '}');
	return json.data;
}

/* Have the engine load the file; tells whether it has the old names. */
static bool
load_into(AvcEngine *engine, const Import *import)
{
	AvcLoad		load = {"infer", NULL, 0, 0, false, true, NULL};
	AvcReply   *reply;
	json_t	   *answer;
	bool		old_names;

	load.device = "cpu";		/* nothing is computed */
	load.threads = avc_threads;
	load.seed = import->seed;
	load.more = import->new_head ? ", \"new_head\": true" :
		import->backbone_only ? ", \"backbone_only\": true" : NULL;
	reply = avc_model_load(engine, import->model, &load, &import->file);
	answer = json_loads(reply->json, 0, NULL);
	old_names = json_is_true(json_object_get(answer, "old_names"));
	json_decref(answer);
	avc_reply_free(reply);
	return old_names;
}

static void
notice_drawn(const Import *import)
{
	if (import->new_head)
		ereport(NOTICE,
				(errmsg("the box predictor of the checkpoint is fresh"),
				 errdetail("The four tensors of roi_heads.box_predictor were drawn with seed " INT64_FORMAT ", the others are the file's.",
						   import->seed)));
	if (import->backbone_only)
		ereport(NOTICE,
				(errmsg("all of the checkpoint but its body is fresh"),
				 errdetail("The tensors of backbone.body are the file's, the others were drawn with seed " INT64_FORMAT ".",
						   import->seed)));
}

static int64
import_file(Import *import)
{
	AvcMessage	save = {ENG_KIND_SAVE, "{\"with_optimizer\": false}", NULL, 0};
	AvcCheckpointRow row;
	AvcEngine  *engine;
	AvcReply   *reply;
	int64		checkpoint;

	/*
	 * PyTorch's own files hold a pickle: only the engine, which cannot hurt
	 * the server, looks into them.  Another that is malformed is refused
	 * before an engine is started for it.
	 */
	import->is_pth = eng_pth_recognise((const uint8 *) import->file.data,
									   import->file.len);
	import->metadata = import->is_pth ? "{}" : file_metadata(import);
	engine = avc_engine_start();
	if (load_into(engine, import))
	{
		set_norm_eps(import->model);
		import->model = avc_model_find(import->model->model, false);
	}
	if (import->path != NULL)
		pfree(import->file.data);
	import->file.data = NULL;
	reply = avc_engine_call(engine, &save);
	memset(&row, 0, sizeof(row));
	row.model = import->model->model;
	row.provenance = avc_json_to_jsonb(import_provenance(import, engine));
	avc_engine_stop(engine);
	notice_drawn(import);
	checkpoint = avc_checkpoint_store(&row, reply->blob, reply->blob_len);
	avc_reply_free(reply);
	return checkpoint;
}

/*
 * What all of the functions have first, the name of a model.
 */
static void
find_model(FunctionCallInfo fcinfo, Import *import)
{
	char	   *model = text_to_cstring(PG_GETARG_TEXT_PP(0));

	PreventCommandIfReadOnly(import->backbone_only ? "import_backbone()" :
							 "import_checkpoint()");
	import->model = avc_model_find(model, false);
	avc_model_check_usable(import->model);
	if ((import->new_head || import->backbone_only) &&
		avc_model_is_clip(import->model))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("model \"%s\" is CLIP, whose weights are imported as a whole",
						model),
				 errhint("Use import_checkpoint(model, file).")));
}

/*
 * new_head and seed, which one form of import_checkpoint has and the other
 * has not.
 */
static void
read_new_head(FunctionCallInfo fcinfo, Import *import)
{
	if (PG_NARGS() <= 2)
		return;
	import->new_head = PG_GETARG_BOOL(2);
	import->seed = PG_GETARG_INT64(3);
}

static int64
import_bytes(FunctionCallInfo fcinfo, Import *import)
{
	bytea	   *bytes = PG_GETARG_BYTEA_PP(1);

	find_model(fcinfo, import);
	import->file.data = VARDATA_ANY(bytes);
	import->file.len = VARSIZE_ANY_EXHDR(bytes);
	return import_file(import);
}

void
avc_check_file_role(Oid role, const char *verb)
{
	if (!has_privs_of_role(GetUserId(), role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to %s files of the server", verb),
				 errhint("Use the form that takes or returns bytea.")));
}

static void
check_readable(const char *path, const struct stat *found, uint64 most)
{
	if (!S_ISREG(found->st_mode))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a regular file", path)));
	if (found->st_size > (off_t) most)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("file \"%s\" is larger than %s", path,
						most == ENG_PROTOCOL_MAX_BLOB ? "4 GB" :
						psprintf(UINT64_FORMAT " MB", most >> 20))));
}

AvcFileImage
avc_server_file_image(const char *path, uint64 most)
{
	AvcFileImage file;
	struct stat found;
	int			fd;
	size_t		got = 0;

	/* Looked at before it is opened: to open a pipe would wait for ever. */
	if (stat(path, &found) == 0)
		check_readable(path, &found, most);
	fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
	if (fd < 0 || fstat(fd, &found) < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	check_readable(path, &found, most);
	file.len = found.st_size;
	file.data = MemoryContextAllocHuge(CurrentMemoryContext, file.len + 1);
	while (got < file.len)
	{
		ssize_t		n = read(fd, file.data + got,
							 Min(file.len - got, (size_t) 8 << 20));

		if (n < 0)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not read file \"%s\": %m", path)));
		if (n == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_EXCEPTION),
					 errmsg("file \"%s\" became shorter while it was read",
							path)));
		got += n;
		CHECK_FOR_INTERRUPTS();
	}
	CloseTransientFile(fd);
	return file;
}

static int64
import_path(FunctionCallInfo fcinfo, Import *import)
{
	char	   *path = text_to_cstring(PG_GETARG_TEXT_PP(1));

	avc_check_file_role(ROLE_PG_READ_SERVER_FILES, "read");
	find_model(fcinfo, import);
	import->path = path;
	import->file = avc_server_file_image(path, ENG_PROTOCOL_MAX_BLOB);
	return import_file(import);
}

/*
 * import_checkpoint(model, file bytea [, new_head, seed]) returns bigint.
 */
Datum
avc_import_checkpoint(PG_FUNCTION_ARGS)
{
	Import		import = {0};

	read_new_head(fcinfo, &import);
	PG_RETURN_INT64(import_bytes(fcinfo, &import));
}

/*
 * import_checkpoint(model, path text [, new_head, seed]) returns bigint.
 */
Datum
avc_import_checkpoint_file(PG_FUNCTION_ARGS)
{
	Import		import = {0};

	read_new_head(fcinfo, &import);
	PG_RETURN_INT64(import_path(fcinfo, &import));
}

/*
 * import_backbone(model, file bytea, seed) returns bigint.
 */
Datum
avc_import_backbone(PG_FUNCTION_ARGS)
{
	Import		import = {.backbone_only = true};

	import.seed = PG_GETARG_INT64(2);
	PG_RETURN_INT64(import_bytes(fcinfo, &import));
}

/*
 * import_backbone(model, path text, seed) returns bigint.
 */
Datum
avc_import_backbone_file(PG_FUNCTION_ARGS)
{
	Import		import = {.backbone_only = true};

	import.seed = PG_GETARG_INT64(2);
	PG_RETURN_INT64(import_path(fcinfo, &import));
}
