/*
 * common/doctor.c
 *		version() and doctor(): what is installed and whether it works here.
 *
 * Nothing here raises an error for what it examines: a check that fails is a
 * row with ok = false and a hint.
 */
#include "postgres.h"

#include <unistd.h>

#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "postmaster/bgworker_internals.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/jsonb.h"

#include "common/attempt.h"
#include "common/engine_client.h"
#include "common/engine_service.h"
#include "common/server_jansson.h"
#include "common/settings.h"
#include "common/spi.h"
#include "engine/core/devices.h"
#include "engine/protocol.h"

/* What the engine said of itself, or why it could not. */
typedef struct EngineReport
{
	Jsonb	   *hello;			/* NULL if it did not start */
	char	   *error;			/* NULL if it did */
} EngineReport;

typedef struct Report
{
	ReturnSetInfo *result;
	EngineReport engine;
} Report;

PG_FUNCTION_INFO_V1(avc_version);
PG_FUNCTION_INFO_V1(avc_doctor);

static void
greet_engine(void *arg)
{
	EngineReport *report = arg;
	AvcEngine  *engine = avc_engine_start();
	AvcMessage	look = {ENG_KIND_HELLO, "{\"protocol\": 1, \"look\": true}",
	NULL, 0};
	AvcReply   *reply = avc_engine_call(engine, &look);

	report->hello = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
													   CStringGetDatum(reply->json)));
	avc_reply_free(reply);
	avc_engine_stop(engine);
}

/* Start an engine, keep its greeting or why there is none, and end it. */
static EngineReport
ask_engine(void)
{
	EngineReport report = {NULL, NULL};
	AvcFailure	why;

	if (!avc_examine(greet_engine, &report, &why))
		report.error = why.message;
	return report;
}

/* Text of a top-level key of the greeting; "" if there is none. */
static char *
hello_text(const EngineReport *report, const char *key)
{
	JsonbValue	buffer;
	JsonbValue *value;

	if (report->hello == NULL || !JB_ROOT_IS_OBJECT(report->hello))
		return "";
	value = getKeyJsonValueFromContainer(&report->hello->root, key,
										 strlen(key), &buffer);
	if (value == NULL)
		return "";
	switch (value->type)
	{
		case jbvString:
			return pnstrdup(value->val.string.val, value->val.string.len);
		case jbvNumeric:
			return DatumGetCString(DirectFunctionCall1(numeric_out,
													   NumericGetDatum(value->val.numeric)));
		case jbvBool:
			return value->val.boolean ? "true" : "false";
		case jbvBinary:
			return JsonbToCString(NULL, value->val.binary.data,
								  value->val.binary.len);
		default:
			return "";
	}
}

Datum
avc_version(PG_FUNCTION_ARGS)
{
	EngineReport engine = ask_engine();
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfo(&text, "%s", AVC_VERSION);
	if (engine.error != NULL)
		appendStringInfo(&text, ", no engine (%s)", engine.error);
	else
	{
		appendStringInfo(&text,
						 ", engine %s, libraries %s, %s, devices %s",
						 hello_text(&engine, "engine_version"),
						 hello_text(&engine, "libraries"),
						 hello_text(&engine, "isa"),
						 hello_text(&engine, "devices"));
		if (hello_text(&engine, "gpu")[0] != '\0')
			appendStringInfo(&text, ", %s", hello_text(&engine, "gpu"));
	}
	PG_RETURN_TEXT_P(cstring_to_text_with_len(text.data, text.len));
}

static void
add_check(Report *report, const char *name, bool ok, const char *detail,
		  const char *hint)
{
	Datum		values[4];
	bool		nulls[4] = {false, false, false, hint == NULL};

	values[0] = CStringGetTextDatum(name);
	values[1] = BoolGetDatum(ok);
	values[2] = CStringGetTextDatum(detail);
	values[3] = hint ? CStringGetTextDatum(hint) : (Datum) 0;
	tuplestore_putvalues(report->result->setResult,
						 report->result->setDesc, values, nulls);
}

static void
check_extension(Report *report)
{
	bool		is_null;
	char	   *installed;
	Datum		value;

	value = avc_spi_value("SELECT extversion FROM pg_catalog.pg_extension "
						  "WHERE extname = 'avcurate'", 0, NULL,
						  CurrentMemoryContext, &is_null);
	installed = is_null ? "none" : TextDatumGetCString(value);
	add_check(report, "extension", strcmp(installed, AVC_VERSION) == 0,
			  psprintf("SQL objects %s, library %s", installed, AVC_VERSION),
			  strcmp(installed, AVC_VERSION) == 0 ? NULL :
			  "Run ALTER EXTENSION avcurate UPDATE, and start new sessions.");
}

static void
check_gpu(Report *report)
{
	const char *name = hello_text(&report->engine, "gpu");
	const char *missing = hello_text(&report->engine, "gpu_missing");

	if (missing[0] != '\0')
		add_check(report, "gpu", false,
				  psprintf("cannot be used: %s", missing),
				  "Set avcurate.device to \"cpu\", or install what is missing and restart the server.");
	else
		add_check(report, "gpu", true, name[0] != '\0' ? name :
				  "none found: networks run on the CPU", NULL);
}

static void
check_engine(Report *report)
{
	EngineReport *engine = &report->engine;
	const char *version = hello_text(engine, "engine_version");
	bool		same = strcmp(version, AVC_VERSION) == 0;

	if (engine->error != NULL)
	{
		add_check(report, "engine", false, engine->error,
				  "Install avcurate-engine beside the server's programs, or set avcurate.engine_path.");
		return;
	}
	add_check(report, "engine", same,
			  psprintf("avcurate-engine %s, %s", version,
					   hello_text(engine, "libraries")),
			  same ? NULL : "Install the engine and the library of one version.");
	add_check(report, "processor", true,
			  psprintf("%s, %s threads, bf16 %s", hello_text(engine, "isa"),
					   hello_text(engine, "cpu_threads"),
					   strcmp(hello_text(engine, "bf16"), "true") == 0 ?
					   "in hardware" : "not available: f32 only"),
			  NULL);
	check_gpu(report);
}

static int
status_number(json_t *status, const char *key)
{
	return (int) json_integer_value(json_object_get(status, key));
}

/* Ask the shared engine's worker; NULL if there is none.  Starts none. */
static json_t *
ask_service(const char *device)
{
	AvcService *service = avc_service(device);
	AvcFrame   *frame = NULL;
	json_t	   *status;

	if (avc_service_is_running(device))
		frame = avc_service_receive(service,
									avc_service_send(service,
													 AVC_KIND_STATUS, "",
													 NULL, 0));
	if (frame == NULL)
		return NULL;
	status = json_loadb(frame->json, frame->json_len, 0, NULL);
	MemoryContextDelete(frame->context);
	return status;
}

static void
check_service(Report *report)
{
	const char *device = strcmp(avc_device, "auto") == 0 &&
		!eng_device_gpu_seen() ? "cpu" : avc_device;
	json_t	   *status = ask_service(device);
	const char *detail = "not running: the first call of detect() or clip_embedding() starts it";
	int			networks = status_number(status, "networks");
	int			requests = status_number(status, "requests");
	int			batches = status_number(status, "batches");

	if (status != NULL)
		detail = psprintf("running on %s, %d network%s loaded, %d request%s in %d batch%s, %.1f s at work, worker %d",
						  device, networks, networks == 1 ? "" : "s",
						  requests, requests == 1 ? "" : "s", batches,
						  batches == 1 ? "" : "es",
						  json_number_value(json_object_get(status, "busy_s")),
						  status_number(status, "worker_pid"));
	json_decref(status);
	add_check(report, "shared engine", true, detail, NULL);
}

static void
check_workers(Report *report)
{
	int64		used = avc_spi_int64("SELECT count(*) FROM pg_catalog.pg_stat_activity "
									 "WHERE backend_type LIKE 'avcurate%' "
									 "OR backend_type IN ('parallel worker', 'logical replication launcher', 'logical replication worker')",
									 0, NULL, 0);
	bool		ok = max_worker_processes - used >= avc_max_workers;

	add_check(report, "worker slots", ok,
			  psprintf("%d slots, " INT64_FORMAT " in use, avcurate.max_workers %d",
					   max_worker_processes, used, avc_max_workers),
			  ok ? NULL : "Raise max_worker_processes and restart, or lower avcurate.max_workers.");
}

static void
check_preload(Report *report)
{
	const char *libraries = GetConfigOption("shared_preload_libraries", true,
											false);
	bool		loaded = libraries && strstr(libraries, "avcurate") != NULL;

	add_check(report, "preload", true,
			  loaded ? "preloaded" :
			  "not preloaded (not needed): jobs left by a restart wait for run_pending()",
			  NULL);
}

/*
 * An extension that can be done without; the hint says what it is for.
 */
static void
check_optional(Report *report, const char *check_name, const char *extension,
			   const char *hint)
{
	bool		installed = OidIsValid(get_extension_oid(extension, true));
	bool		available = avc_spi_int64(psprintf("SELECT count(*) FROM pg_catalog.pg_available_extensions "
												   "WHERE name = '%s'", extension),
										  0, NULL, 0) > 0;

	add_check(report, check_name, true,
			  installed ? "installed" :
			  available ? "available, not installed in this database (optional)" :
			  "not available (optional)",
			  installed ? NULL : hint);
}

static void
check_triggers(Report *report)
{
	int64		off = avc_spi_int64("SELECT count(*) FROM pg_catalog.pg_event_trigger t "
									"JOIN pg_catalog.pg_depend d ON d.objid = t.oid AND d.deptype = 'e' "
									"JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'avcurate' "
									"WHERE t.evtenabled NOT IN ('A', 'O')", 0, NULL, 0);

	add_check(report, "event triggers", off == 0,
			  off == 0 ? "all enabled: every REFRESH makes a version" :
			  psprintf(INT64_FORMAT " disabled", off),
			  off == 0 ? NULL : "Run ALTER EVENT TRIGGER ... ENABLE ALWAYS as a superuser.");
}

/*
 * Names of the datasets with triggers (t) of functions (p) of that schema that
 * the condition selects and that, taken together, the HAVING clause, if any,
 * keeps; NULL if there is none.
 */
static char *
datasets_by_triggers(const char *schema, const char *condition,
					 const char *having)
{
	bool		is_null;
	Datum		names = avc_spi_value(psprintf("SELECT pg_catalog.string_agg(dataset, ', ' ORDER BY dataset) FROM "
											   "(SELECT t.tgrelid::pg_catalog.regclass::text AS dataset "
											   "FROM pg_catalog.pg_trigger t "
											   "JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid "
											   "JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace "
											   "WHERE n.nspname = '%s' AND (%s) "
											   "GROUP BY t.tgrelid %s) d",
											   schema, condition, having),
									  0, NULL, CurrentMemoryContext, &is_null);

	return is_null ? NULL : TextDatumGetCString(names);
}

/*
 * Datasets whose triggers of ours are not as a slice needs them.  ALTER TABLE
 * DISABLE TRIGGER ALL, ENABLE TRIGGER ALL (as pg_restore does it, too) leaves
 * them enabled, but not ALWAYS.
 */
static void
check_dataset_triggers(Report *report)
{
	char	   *off = datasets_by_triggers("_avcurate",
										   "p.proname IN ('archive_row', 'archive_table', 'note_deleted')",
										   "HAVING count(*) FILTER (WHERE t.tgenabled = 'A') < 5");

	add_check(report, "dataset triggers", off == NULL,
			  off == NULL ? "all enabled: deleted frames and old images are noted" :
			  psprintf("missing or not ENABLE ALWAYS on %s: images of old versions may get lost, slices are recomputed",
					   off),
			  off == NULL ? NULL :
			  "Run ALTER TABLE ... ENABLE ALWAYS TRIGGER for each avcurate_* trigger of the dataset; create_slice() on it puts all back, dropped ones too.");
}

/*
 * Datasets that do not notice what is written to them: frames go in unchecked,
 * and features keep values that no longer hold.
 */
static void
check_row_triggers(Report *report)
{
	char	   *off = datasets_by_triggers("avcurate",
										   "p.proname = 'check_frame' AND t.tgenabled NOT IN ('A', 'O') "
										   "OR p.proname = 'reset_features' AND t.tgenabled <> 'A'", "");

	add_check(report, "row triggers", off == NULL,
			  off == NULL ? "all enabled: frames are checked, features follow their inputs" :
			  psprintf("disabled or not ENABLE ALWAYS on %s: frames may go in unchecked, features miss changes",
					   off),
			  off == NULL ? NULL :
			  "Run ALTER TABLE ... ENABLE TRIGGER avc_check_frame, ENABLE ALWAYS TRIGGER avc_reset_features; where frames were changed meanwhile, have features computed anew with alter_feature().");
}

/* The checkpoint that the setting names, for clip_embedding() and search. */
static void
check_clip(Report *report)
{
	AvcParam	params[] = {AVC_INT8(avc_clip_model)};
	bool		is_null;
	Datum		value;
	char	   *problem;

	if (avc_clip_model == 0)
	{
		add_check(report, "clip", true,
				  "avcurate.clip_model is not set (needed to search by text)",
				  "Import weights of CLIP ViT-B/32 into a model of architecture clip_vit_b32, and SET avcurate.clip_model to the checkpoint.");
		return;
	}
	value = avc_spi_value("SELECT CASE WHEN m.architecture <> 'clip_vit_b32' THEN 'is a detector''s' "
						  "WHEN m.vocabulary IS NULL THEN 'has no vocabulary, so it embeds images alone' "
						  "ELSE '' END "
						  "FROM avcurate.checkpoints AS c JOIN avcurate.models AS m USING (model) "
						  "WHERE c.checkpoint = $1", lengthof(params), params,
						  CurrentMemoryContext, &is_null);
	problem = is_null ? "does not exist, or not for you" : TextDatumGetCString(value);
	add_check(report, "clip", problem[0] == '\0',
			  psprintf("checkpoint %d of avcurate.clip_model %s", avc_clip_model,
					   problem[0] == '\0' ? "embeds images and texts" : problem),
			  problem[0] == '\0' ? NULL :
			  "SET avcurate.clip_model to a checkpoint of a model of architecture clip_vit_b32; avcurate.set_vocabulary() gives it its vocabulary.");
}

static void
check_memory(Report *report)
{
	int64		machine = (int64) sysconf(_SC_PHYS_PAGES) *
	sysconf(_SC_PAGESIZE) / (1024 * 1024);
	int64		limit = avc_engine_memory_bytes() / (1024 * 1024);

	add_check(report, "memory", limit <= machine,
			  psprintf("engine limit " INT64_FORMAT " MB of " INT64_FORMAT " MB",
					   limit, machine),
			  limit <= machine ? NULL : "Lower avcurate.engine_memory_limit.");
}

Datum
avc_doctor(PG_FUNCTION_ARGS)
{
	Report		report;

	SetSingleFuncCall(fcinfo, 0);
	report.result = (ReturnSetInfo *) fcinfo->resultinfo;
	report.engine = ask_engine();
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	check_extension(&report);
	check_engine(&report);
	check_service(&report);
	check_workers(&report);
	check_preload(&report);
	check_optional(&report, "pg_cron", "pg_cron",
				   "For schedules, install postgresql-15-cron, or call run_pending() from any other scheduler.");
	check_optional(&report, "pgvector", "vector",
				   "For approximate search in many millions of rows, CREATE EXTENSION vector and index a feature's cast: USING hnsw ((feature::vector(512)) vector_cosine_ops).");
	check_triggers(&report);
	check_dataset_triggers(&report);
	check_row_triggers(&report);
	check_memory(&report);
	check_clip(&report);
	SPI_finish();
	return (Datum) 0;
}
