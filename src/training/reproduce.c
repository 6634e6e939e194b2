/*
 * training/reproduce.c
 *		The same training once more, and whether it gave the same weights.
 *
 * The job is a training with the recorded options on the recorded version.
 * It stores no checkpoint: its result is one sentence.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "models/model.h"
#include "slices/slice.h"
#include "training/provenance.h"
#include "training/reproduce.h"

PG_FUNCTION_INFO_V1(avc_reproduce);

/* Keys whose values differ between two JSON objects, as text. */
static char *
different_keys(const char *one, const char *other)
{
	AvcParam	params[] = {AVC_TEXT(one), AVC_TEXT(other)};
	MemoryContext context = CurrentMemoryContext;
	bool		is_null;
	Datum		keys;

	SPI_connect();
	keys = avc_spi_value("SELECT pg_catalog.string_agg(key || ' was ' || "
						 "COALESCE(a.value::text, 'nothing') || ', is ' || "
						 "COALESCE(b.value::text, 'nothing'), '; ' "
						 "ORDER BY key) "
						 "FROM pg_catalog.jsonb_each($1::jsonb) AS a "
						 "FULL JOIN pg_catalog.jsonb_each($2::jsonb) AS b "
						 "USING (key) WHERE a.value IS DISTINCT FROM b.value",
						 2, params, context, &is_null);
	SPI_finish();
	return is_null ? NULL : TextDatumGetCString(keys);
}

/* Frames erased from the version since it trained the checkpoint. */
static int64
erased_since(int64 checkpoint)
{
	AvcParam	param = AVC_INT8(checkpoint);
	AvcRoleScope scope;
	int64		erased;

	avc_catalog_enter(&scope);
	SPI_connect();
	erased = avc_spi_int64("SELECT c.rows - (v.rows - v.erased) "
						   "FROM _avcurate.checkpoints AS c "
						   "JOIN _avcurate.slice_versions AS v "
						   "USING (slice_id, version) WHERE c.checkpoint = $1",
						   1, &param, 0);
	SPI_finish();
	avc_catalog_leave(&scope);
	return erased;
}

void
avc_reproduce_compare(AvcJob *job, const AvcReply *saved,
					  const char *environment)
{
	AvcCheckpoint *original = avc_checkpoint_find(job->checkpoint, false);
	EngTensorFile *file = avc_tensor_file_open(saved->blob, saved->blob_len);
	char	   *sha256 = avc_weights_sha256(file);
	int64		erased = erased_since(job->checkpoint);
	char	   *differs;
	char	   *result;
	AvcRoleScope scope;

	differs = different_keys(avc_train_environment_of(original->provenance),
							 environment);
	if (original->weights_sha256 != NULL &&
		strcmp(sha256, original->weights_sha256) == 0)
		result = "same weights";
	else if (erased > 0)
		result = psprintf("not comparable: " INT64_FORMAT " frames of the version were erased since",
						  erased);
	else if (differs != NULL)
		result = psprintf("not comparable: %s", differs);
	else
		result = "different weights";

	avc_catalog_enter(&scope);
	SPI_connect();
	{
		AvcParam	params[] = {AVC_INT8(job->job), AVC_TEXT(result)};

		avc_spi_exec("UPDATE _avcurate.jobs SET result = $2 WHERE job = $1",
					 2, params, false, 0);
	}
	SPI_finish();
	avc_catalog_leave(&scope);
	avc_job_log(job, "info", "%s as checkpoint " INT64_FORMAT, result,
				job->checkpoint);
}

/* The options that the checkpoint was trained with. */
static Jsonb *
recorded_options(const AvcCheckpoint *checkpoint)
{
	JsonbValue	value;

	if (checkpoint->slice_id == 0 ||
		getKeyJsonValueFromContainer(&checkpoint->provenance->root, "options",
									 strlen("options"), &value) == NULL ||
		value.type != jbvBinary)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("checkpoint " INT64_FORMAT " was not trained here",
						checkpoint->checkpoint)));
	return JsonbValueToJsonb(&value);
}

static char *
device_of(Jsonb *options)
{
	JsonbValue	value;

	if (getKeyJsonValueFromContainer(&options->root, "device",
									 strlen("device"), &value) == NULL ||
		value.type != jbvString)
		return NULL;
	return pnstrdup(value.val.string.val, value.val.string.len);
}

/*
 * reproduce(checkpoint) returns bigint: the job.
 */
Datum
avc_reproduce(PG_FUNCTION_ARGS)
{
	AvcCheckpoint *checkpoint = avc_checkpoint_find(PG_GETARG_INT64(0), false);
	AvcSlice   *slice;
	AvcJobRequest request;

	PreventCommandIfReadOnly("reproduce()");
	avc_model_check_usable(checkpoint->model);
	memset(&request, 0, sizeof(request));
	request.options = recorded_options(checkpoint);
	request.device = device_of(request.options);
	if (request.device != NULL)
		request.device = avc_model_queue_device(request.device);
	slice = avc_slice_find_by_id(checkpoint->slice_id, false);
	request.kind = AVC_REPRODUCE_KIND;
	request.body = "avc_job_train";
	request.dataset = slice->dataset;
	request.slice_id = checkpoint->slice_id;
	request.version = avc_slice_version_pin(slice, checkpoint->version);
	request.model = checkpoint->model->model;
	request.checkpoint = checkpoint->checkpoint;
	PG_RETURN_INT64(avc_job_add(&request));
}
