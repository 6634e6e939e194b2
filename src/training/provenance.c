/*
 * training/provenance.c
 *		What a trained checkpoint says about where it comes from.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "common/catalog.h"
#include "common/server_jansson.h"
#include "common/spi.h"
#include "models/model.h"
#include "training/provenance.h"

/* A text column of the first row in the given context; "{}" for NULL. */
static char *
text_of(const char *column, MemoryContext context)
{
	bool		is_null;
	Datum		value = avc_spi_column(0, column, &is_null);

	return MemoryContextStrdup(context, is_null ? "{}"
							   : TextDatumGetCString(value));
}

void
avc_train_read_pin(AvcTrainPin *pin, int64 slice_id, int64 version)
{
	MemoryContext context = CurrentMemoryContext;
	AvcRoleScope scope;
	AvcParam	params[] = {AVC_INT8(slice_id), AVC_INT8(version)};
	bool		is_null;

	avc_catalog_enter(&scope);
	SPI_connect();
	if (avc_spi_exec("SELECT s.slice_name, v.digest, v.erased, "
					 "v.rows - v.erased AS rows, v.definition, "
					 "(SELECT pg_catalog.jsonb_object_agg(f.feature, "
					 "f.expression) FROM avcurate.features AS f "
					 "WHERE f.dataset = s.dataset)::text AS features, "
					 "(SELECT COALESCE(pg_catalog.jsonb_agg(f.feature "
					 "ORDER BY f.feature), '[]') FROM avcurate.features AS f "
					 "WHERE f.dataset = s.dataset AND GREATEST(f.created_at, "
					 "f.altered_at) > v.created_at)::text AS altered "
					 "FROM _avcurate.slice_versions AS v "
					 "JOIN _avcurate.slices AS s USING (slice_id) "
					 "WHERE v.slice_id = $1 AND v.version = $2",
					 2, params, true, 0) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("pinned version " INT64_FORMAT " is gone", version)));
	pin->version = version;
	pin->slice = text_of("slice_name", context);
	pin->digest = text_of("digest", context);
	pin->definition = text_of("definition", context);
	pin->features = text_of("features", context);
	pin->altered = text_of("altered", context);
	pin->rows = DatumGetInt64(avc_spi_column(0, "rows", &is_null));
	pin->erased = DatumGetInt64(avc_spi_column(0, "erased", &is_null));
	SPI_finish();
	avc_catalog_leave(&scope);
}

void
avc_train_add_pin(StringInfo json, const AvcTrainPin *pin)
{
	avc_json_add(json, "slice", pin->slice);
	avc_json_add_int(json, "version", pin->version);
	avc_json_add(json, "digest", pin->digest);
	avc_json_add_int(json, "rows", pin->rows);
	if (pin->erased > 0)
		avc_json_add_int(json, "erased", pin->erased);
	avc_json_add(json, "definition", pin->definition);
	avc_json_add_raw(json, "features", pin->features);
	/* the version's rows have these by other definitions, or not at all */
	avc_json_add_raw(json, "features_altered", pin->altered);
}

char *
avc_train_read_labels(const char *label_map)
{
	MemoryContext context = CurrentMemoryContext;
	AvcRoleScope scope;
	AvcParam	params[] = {AVC_TEXT(label_map)};
	char	   *labels;

	avc_catalog_enter(&scope);
	SPI_connect();
	avc_spi_exec("SELECT pg_catalog.jsonb_object_agg(category, label)::text "
				 "AS labels FROM _avcurate.label_maps WHERE label_map = $1",
				 1, params, true, 0);
	labels = text_of("labels", context);
	SPI_finish();
	avc_catalog_leave(&scope);
	return labels;
}

char *
avc_train_environment(const AvcEngine *engine, const char *load_reply,
					  const char *device)
{
	json_t	   *reply = json_loads(load_reply, 0, NULL);
	json_int_t	threads = json_integer_value(json_object_get(reply, "threads"));
	const char *precision =
		json_string_value(json_object_get(reply, "precision"));
	const char *said = json_string_value(json_object_get(reply, "device"));
	const char *name = json_string_value(json_object_get(reply,
														 "device_name"));
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	avc_model_add_versions(&json, engine);
	avc_json_add(&json, "device", said != NULL ? said : device);
	if (name != NULL)
		avc_json_add(&json, "device_name", name);
	avc_json_add_int(&json, "threads", threads);
	avc_json_add(&json, "precision", precision != NULL ? precision : "f32");
	appendStringInfoChar(&json, '}');
	json_decref(reply);
	return json.data;
}

Jsonb *
avc_train_state_provenance(const char *environment)
{
	return avc_json_to_jsonb(psprintf("{\"environment\": %s}", environment));
}

char *
avc_train_environment_of(Jsonb *provenance)
{
	JsonbValue	value;

	if (getKeyJsonValueFromContainer(&provenance->root, "environment",
									 strlen("environment"), &value) == NULL ||
		value.type != jbvBinary)
		return pstrdup("{}");
	return JsonbToCString(NULL, value.val.binary.data, value.val.binary.len);
}
