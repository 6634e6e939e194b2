/*
 * models/checkpoint.c
 *		Weights of models in tables: store, read, check, make fresh ones.
 *
 * A checkpoint is a row and one row a tensor.  weights_sha256 in its
 * provenance is the SHA-256 over the tensors in bytewise order of their
 * names, optimizer.* left out; each adds its name, dtype and shape ("F32",
 * "64,3,7,7"), every one followed by a zero byte, and its bytes.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "common/catalog.h"
#include "common/settings.h"
#include "common/spi.h"
#include "engine/protocol.h"
#include "models/model.h"
#include "slices/slice.h"

PG_FUNCTION_INFO_V1(avc_create_checkpoint);
PG_FUNCTION_INFO_V1(avc_verify_checkpoint);

#define FETCH_TENSORS 8			/* rows of tensors held at once */

/* ---- safetensors objects and memory contexts ------------------------ */

static void
free_file(void *file)
{
	eng_tensor_file_free(file);
}

static void
free_writer(void *writer)
{
	eng_tensor_writer_free(writer);
}

static void
free_buffer(void *buffer)
{
	eng_buffer_free(buffer);
}

/* Have the current memory context give a malloc'ed object back. */
static void
free_with_context(void (*give_back) (void *), void *object)
{
	MemoryContextCallback *callback = palloc(sizeof(MemoryContextCallback));

	callback->func = give_back;
	callback->arg = object;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, callback);
}

EngTensorFile *
avc_tensor_file_open(const char *data, size_t len)
{
	EngStatus	status = {ENG_OK, ""};
	EngTensorFile *file = eng_tensor_file_open(data, len, &status);

	if (file == NULL)
		avc_raise_status(&status);
	free_with_context(free_file, file);
	return file;
}

static bool
is_weight(const char *name)
{
	return strncmp(name, "optimizer.", 10) != 0;
}

char *
avc_weights_sha256(const EngTensorFile *file)
{
	pg_cryptohash_ctx *hash = pg_cryptohash_create(PG_SHA256);
	uint8		digest[PG_SHA256_DIGEST_LENGTH];
	char	   *hex = palloc(2 * sizeof(digest) + 1);
	bool		ok = hash != NULL && pg_cryptohash_init(hash) >= 0;
	int			i;
	int			j;

	for (i = 0; ok && i < file->count; i++)
	{
		const EngFileTensor *tensor = &file->tensors[i];
		StringInfoData head;

		if (!is_weight(tensor->name))
			continue;
		initStringInfo(&head);
		appendBinaryStringInfo(&head, tensor->name, strlen(tensor->name) + 1);
		appendStringInfoString(&head, eng_file_dtype_name(tensor->dtype));
		appendStringInfoChar(&head, '\0');
		for (j = 0; j < tensor->rank; j++)
			appendStringInfo(&head, "%s" INT64_FORMAT, j > 0 ? "," : "",
							 (int64) tensor->shape[j]);
		appendStringInfoChar(&head, '\0');
		ok = pg_cryptohash_update(hash, (uint8 *) head.data, head.len) >= 0 &&
			pg_cryptohash_update(hash, tensor->data, tensor->bytes) >= 0;
		pfree(head.data);
	}
	if (!ok || pg_cryptohash_final(hash, digest, sizeof(digest)) < 0)
		elog(ERROR, "could not compute a SHA-256");
	pg_cryptohash_free(hash);
	hex_encode((char *) digest, sizeof(digest), hex);
	hex[2 * sizeof(digest)] = '\0';
	return hex;
}

/* ---- store ---------------------------------------------------------- */

static void
store_tensors(int64 checkpoint, const EngTensorFile *file)
{
	Oid			types[] = {INT8OID, INT4OID, TEXTOID, TEXTOID, INT8ARRAYOID,
	BYTEAOID};
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "avcurate tensor",
												  ALLOCSET_DEFAULT_SIZES);
	SPIPlanPtr	plan;
	int			i;

	plan = SPI_prepare("INSERT INTO _avcurate.checkpoint_tensors "
					   "(checkpoint, tensor, name, dtype, shape, data) "
					   "VALUES ($1, $2, $3, $4, $5, $6)",
					   lengthof(types), types);
	if (plan == NULL)
		elog(ERROR, "could not prepare the insert of tensors");
	for (i = 0; i < file->count; i++)
	{
		const EngFileTensor *tensor = &file->tensors[i];
		MemoryContext old = MemoryContextSwitchTo(context);
		Datum		shape[ENG_FILE_MAX_RANK];
		Datum		values[6];
		bytea	   *data;
		int			j;

		if (tensor->bytes > MaxAllocSize - VARHDRSZ)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("tensor \"%s\" is larger than 1 GB",
							tensor->name)));
		for (j = 0; j < tensor->rank; j++)
			shape[j] = Int64GetDatum(tensor->shape[j]);
		data = palloc(VARHDRSZ + tensor->bytes);
		SET_VARSIZE(data, VARHDRSZ + tensor->bytes);
		memcpy(VARDATA(data), tensor->data, tensor->bytes);
		values[0] = Int64GetDatum(checkpoint);
		values[1] = Int32GetDatum(i);
		values[2] = CStringGetTextDatum(tensor->name);
		values[3] = CStringGetTextDatum(eng_file_dtype_name(tensor->dtype));
		values[4] = PointerGetDatum(construct_array(shape, tensor->rank,
													INT8OID, 8, true, 'd'));
		values[5] = PointerGetDatum(data);
		MemoryContextSwitchTo(old);
		if (SPI_execute_plan(plan, values, NULL, false, 0) != SPI_OK_INSERT)
			elog(ERROR, "could not store tensor \"%s\"", tensor->name);
		MemoryContextReset(context);
		CHECK_FOR_INTERRUPTS();
	}
	MemoryContextDelete(context);
}

static Jsonb *
with_sha256(Jsonb *provenance, const char *sha256)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	avc_json_add(&json, "weights_sha256", sha256);
	appendStringInfoChar(&json, '}');
	return DatumGetJsonbP(DirectFunctionCall2(jsonb_concat,
											  JsonbPGetDatum(provenance),
											  JsonbPGetDatum(avc_json_to_jsonb(json.data))));
}

int64
avc_checkpoint_store(const AvcCheckpointRow *row, const char *data,
					 size_t len)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "avcurate store",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	EngTensorFile *file = avc_tensor_file_open(data, len);
	Jsonb	   *provenance = with_sha256(row->provenance,
										 avc_weights_sha256(file));
	AvcRoleScope scope;
	int64		checkpoint;
	AvcParam	params[] = {
		AVC_TEXT(row->model),
		{INT8OID, Int64GetDatum(row->job), row->job == 0},
		{INT8OID, Int64GetDatum(row->slice_id), row->slice_id == 0},
		{INT8OID, Int64GetDatum(row->version), row->version == 0},
		AVC_TEXT(row->digest),
		{INT8OID, Int64GetDatum(row->rows), row->slice_id == 0},
		{INT8OID, Int64GetDatum(row->parent), row->parent == 0},
		AVC_INT8(row->step), AVC_INT4(row->epoch), AVC_BOOL(row->has_state),
		AVC_INT8((int64) len),
		{JSONBOID, JsonbPGetDatum(provenance), false}
	};

	avc_catalog_enter(&scope);
	SPI_connect();
	checkpoint = avc_spi_int64("INSERT INTO _avcurate.checkpoints (model, "
							   "job, slice_id, version, digest, rows, parent, "
							   "step, epoch, state, bytes, provenance) VALUES "
							   "($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, "
							   "$11, $12) RETURNING checkpoint",
							   lengthof(params), params, 0);
	store_tensors(checkpoint, file);
	SPI_finish();
	avc_catalog_leave(&scope);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return checkpoint;
}

int64
avc_checkpoint_newest_state(int64 job)
{
	AvcRoleScope scope;
	AvcParam	params[] = {AVC_INT8(job)};
	int64		checkpoint;

	avc_catalog_enter(&scope);
	SPI_connect();
	checkpoint = avc_spi_int64("SELECT checkpoint FROM _avcurate.checkpoints "
							   "WHERE job = $1 AND state AND slice_id IS NULL "
							   "ORDER BY step DESC LIMIT 1", 1, params, 0);
	SPI_finish();
	avc_catalog_leave(&scope);
	return checkpoint;
}

void
avc_checkpoint_prune_states(int64 job, int keep)
{
	AvcRoleScope scope;
	AvcParam	params[] = {AVC_INT8(job), AVC_INT4(keep)};

	avc_catalog_enter(&scope);
	SPI_connect();
	avc_spi_exec("DELETE FROM _avcurate.checkpoints WHERE checkpoint IN "
				 "(SELECT checkpoint FROM _avcurate.checkpoints "
				 "WHERE job = $1 AND state AND slice_id IS NULL "
				 "ORDER BY step DESC, checkpoint OFFSET $2)",
				 2, params, false, 0);
	SPI_finish();
	avc_catalog_leave(&scope);
}

/* ---- read ----------------------------------------------------------- */

/* The row of tensors at hand as the safetensors code wants it. */
static void
tensor_of_row(HeapTuple tuple, TupleDesc desc, EngFileTensor *tensor)
{
	bool		is_null;
	ArrayType  *shape;
	int			dtype;
	int			i;

	memset(tensor, 0, sizeof(*tensor));
	tensor->name = TextDatumGetCString(SPI_getbinval(tuple, desc, 1,
													 &is_null));
	dtype = eng_file_dtype_find(TextDatumGetCString(SPI_getbinval(tuple, desc,
																  2, &is_null)));
	shape = DatumGetArrayTypeP(SPI_getbinval(tuple, desc, 3, &is_null));
	tensor->rank = ArrayGetNItems(ARR_NDIM(shape), ARR_DIMS(shape));
	if (dtype < 0 || tensor->rank > ENG_FILE_MAX_RANK || ARR_HASNULL(shape))
		elog(ERROR, "stored tensor \"%s\" is malformed", tensor->name);
	tensor->dtype = (EngFileDtype) dtype;
	tensor->count = 1;
	for (i = 0; i < tensor->rank; i++)
	{
		tensor->shape[i] = ((int64 *) ARR_DATA_PTR(shape))[i];
		tensor->count *= tensor->shape[i];
	}
	tensor->bytes = tensor->count * eng_file_dtype_bits(tensor->dtype) / 8;
}

/* What is to be read. */
typedef struct Reading
{
	int64		checkpoint;
	bool		with_optimizer;
	const EngFileText *texts;	/* metadata of the file */
	int			text_count;
} Reading;

/* Names, types and shapes: lay the file out, without data yet. */
static EngTensorWriter *
lay_out(const Reading *reading, EngBuffer *out)
{
	AvcParam	params[] = {
		AVC_INT8(reading->checkpoint), AVC_BOOL(reading->with_optimizer)
	};
	EngStatus	status = {ENG_OK, ""};
	EngTensorWriter *writer = eng_tensor_writer_create(&status);
	bool		ok = true;
	int			k;
	uint64		rows;
	uint64		i;

	if (writer == NULL)
		avc_raise_status(&status);
	free_with_context(free_writer, writer);
	rows = avc_spi_exec("SELECT name, dtype, shape "
						"FROM _avcurate.checkpoint_tensors "
						"WHERE checkpoint = $1 "
						"AND ($2 OR name NOT LIKE 'optimizer.%') "
						"ORDER BY tensor", 2, params, true, 0);
	if (rows == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("checkpoint " INT64_FORMAT " has no tensors (any more)",
						reading->checkpoint)));
	for (i = 0; i < rows; i++)
	{
		EngFileTensor tensor;

		tensor_of_row(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, &tensor);
		if (!eng_tensor_writer_add(writer, &tensor, &status))
			avc_raise_status(&status);
	}
	for (k = 0; ok && k < reading->text_count; k++)
		ok = eng_tensor_writer_metadata(writer, reading->texts[k].key,
										reading->texts[k].value, &status);
	if (!ok || !eng_tensor_writer_metadata(writer, "format", "pt", &status) ||
		!eng_tensor_writer_finish(writer, out, &status))
		avc_raise_status(&status);
	return writer;
}

/* Copy the data of the tensors at hand into their places. */
static void
fill_in(const EngTensorWriter *writer, const EngBuffer *out)
{
	uint64		i;

	for (i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		EngFileTensor tensor;
		bool		is_null;
		Datum		stored = SPI_getbinval(tuple, desc, 4, &is_null);
		bytea	   *data = DatumGetByteaPP(stored);
		void	   *place;

		tensor_of_row(tuple, desc, &tensor);
		place = eng_tensor_writer_place(writer, out, tensor.name);
		if (place == NULL || VARSIZE_ANY_EXHDR(data) != tensor.bytes)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("stored tensor \"%s\" has %zu bytes, not %zu",
							tensor.name, (size_t) VARSIZE_ANY_EXHDR(data),
							tensor.bytes)));
		memcpy(place, VARDATA_ANY(data), tensor.bytes);
		if ((Pointer) data != DatumGetPointer(stored))
			pfree(data);
	}
}

static AvcFileImage
read_file(const Reading *reading)
{
	AvcFileImage image;
	EngBuffer  *out = palloc0(sizeof(EngBuffer));
	EngTensorWriter *writer;
	AvcRoleScope scope;
	Oid			types[] = {INT8OID, BOOLOID};
	Datum		values[] = {
		Int64GetDatum(reading->checkpoint),
		BoolGetDatum(reading->with_optimizer)
	};
	Portal		portal;

	free_with_context(free_buffer, out);
	avc_catalog_enter(&scope);
	/* both queries see the same tensors, those just stored too */
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	writer = lay_out(reading, out);
	portal = SPI_cursor_open_with_args(NULL, "SELECT name, dtype, shape, data "
									   "FROM _avcurate.checkpoint_tensors "
									   "WHERE checkpoint = $1 "
									   "AND ($2 OR name NOT LIKE 'optimizer.%')",
									   2, types, values, NULL, true, 0);
	for (;;)
	{
		SPI_cursor_fetch(portal, true, FETCH_TENSORS);
		if (SPI_processed == 0)
			break;
		fill_in(writer, out);
		SPI_freetuptable(SPI_tuptable);
		CHECK_FOR_INTERRUPTS();
	}
	SPI_cursor_close(portal);
	SPI_finish();
	PopActiveSnapshot();
	avc_catalog_leave(&scope);
	image.data = (char *) out->data;
	image.len = out->size;
	return image;
}

AvcFileImage
avc_checkpoint_read(int64 checkpoint, bool with_optimizer)
{
	Reading		reading = {checkpoint, with_optimizer, NULL, 0};

	return read_file(&reading);
}

AvcFileImage
avc_checkpoint_read_with(int64 checkpoint, const EngFileText *texts,
						 int text_count)
{
	Reading		reading = {checkpoint, false, texts, text_count};

	return read_file(&reading);
}

static void
read_row(AvcCheckpoint *found, char **model)
{
	bool		is_null;
	Datum		value;

	value = avc_spi_column(0, "slice_id", &is_null);
	found->slice_id = is_null ? 0 : DatumGetInt64(value);
	value = avc_spi_column(0, "version", &is_null);
	found->version = is_null ? 0 : DatumGetInt64(value);
	value = avc_spi_column(0, "step", &is_null);
	found->step = is_null ? 0 : DatumGetInt64(value);
	value = avc_spi_column(0, "epoch", &is_null);
	found->epoch = is_null ? 0 : DatumGetInt32(value);
	found->has_state = DatumGetBool(avc_spi_column(0, "state", &is_null));
	found->bytes = DatumGetInt64(avc_spi_column(0, "bytes", &is_null));
	value = avc_spi_column(0, "sha256", &is_null);
	found->weights_sha256 = is_null ? NULL : TextDatumGetCString(value);
	found->provenance = DatumGetJsonbPCopy(avc_spi_column(0, "provenance",
														  &is_null));
	*model = TextDatumGetCString(avc_spi_column(0, "model", &is_null));
}

AvcCheckpoint *
avc_checkpoint_find(int64 checkpoint, bool missing_ok)
{
	MemoryContext context = CurrentMemoryContext;
	MemoryContext old;
	AvcCheckpoint *found = NULL;
	AvcRoleScope scope;
	AvcParam	params[] = {AVC_INT8(checkpoint)};
	char	   *model = NULL;

	avc_catalog_enter(&scope);
	SPI_connect();
	if (avc_spi_exec("SELECT model, slice_id, version, step, epoch, state, "
					 "bytes, provenance, provenance ->> 'weights_sha256' AS sha256 "
					 "FROM _avcurate.checkpoints WHERE checkpoint = $1",
					 1, params, false, 0) > 0)
	{
		old = MemoryContextSwitchTo(context);
		found = palloc0(sizeof(AvcCheckpoint));
		found->checkpoint = checkpoint;
		read_row(found, &model);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	avc_catalog_leave(&scope);
	if (found != NULL)
		found->model = avc_model_find(model, false);
	else if (!missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("checkpoint " INT64_FORMAT " does not exist",
						checkpoint)));
	return found;
}

/* ---- SQL ------------------------------------------------------------ */

/*
 * create_checkpoint(model, seed) returns bigint: freshly initialised weights.
 */
Datum
avc_create_checkpoint(PG_FUNCTION_ARGS)
{
	AvcModel   *model = avc_model_find(text_to_cstring(PG_GETARG_TEXT_PP(0)),
									   false);
	int64		seed = PG_GETARG_INT64(1);
	AvcLoad		load = {"infer", NULL, 0, 0, true, true, NULL};
	AvcMessage	save = {ENG_KIND_SAVE, "{\"with_optimizer\": false}", NULL, 0};
	AvcCheckpointRow row;
	AvcEngine  *engine;
	AvcReply   *reply;
	StringInfoData json;
	int64		checkpoint;

	PreventCommandIfReadOnly("create_checkpoint()");
	avc_model_check_usable(model);
	load.device = "cpu";		/* nothing is computed */
	load.threads = avc_threads;
	load.seed = seed;
	engine = avc_engine_start();
	avc_reply_free(avc_model_load(engine, model, &load, NULL));
	reply = avc_engine_call(engine, &save);

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	avc_json_add(&json, "origin", "initialised");
	avc_model_add_identity(&json, model);
	avc_json_add_int(&json, "seed", seed);
	avc_model_add_versions(&json, engine);
	appendStringInfoChar(&json, '}');
	avc_engine_stop(engine);

	memset(&row, 0, sizeof(row));
	row.model = model->model;
	row.provenance = avc_json_to_jsonb(json.data);
	checkpoint = avc_checkpoint_store(&row, reply->blob, reply->blob_len);
	avc_reply_free(reply);
	PG_RETURN_INT64(checkpoint);
}

static void
add_check(ReturnSetInfo *result, const char *name, bool ok,
		  const char *detail)
{
	Datum		values[3];
	bool		nulls[3] = {false, false, false};

	values[0] = CStringGetTextDatum(name);
	values[1] = BoolGetDatum(ok);
	values[2] = CStringGetTextDatum(detail);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

static void
check_tensors(ReturnSetInfo *result, const AvcCheckpoint *checkpoint)
{
	AvcFileImage image = avc_checkpoint_read(checkpoint->checkpoint, false);
	EngTensorFile *file = avc_tensor_file_open(image.data, image.len);
	char	   *sha256 = avc_weights_sha256(file);
	bool		ok = checkpoint->weights_sha256 != NULL &&
	strcmp(sha256, checkpoint->weights_sha256) == 0;

	add_check(result, "tensors", ok,
			  ok ? psprintf("%d tensors match their SHA-256 %s", file->count,
							sha256)
			  : psprintf("the tensors' SHA-256 is %s, recorded is %s", sha256,
						 checkpoint->weights_sha256 ?
						 checkpoint->weights_sha256 : "none"));
}

/* The rows of the pinned version give the digest that was recorded. */
static void
check_pin(ReturnSetInfo *result, const AvcCheckpoint *checkpoint,
		  const char *recorded)
{
	AvcSlice   *slice = avc_slice_find_by_id(checkpoint->slice_id, true);
	AvcVerdict *verdict;
	bool		ok;

	if (slice == NULL)
	{
		add_check(result, "pin", false, "the slice is gone");
		return;
	}
	verdict = avc_slice_verify(slice, checkpoint->version);
	ok = verdict->is_verified && recorded != NULL &&
		strcmp(verdict->digest, recorded) == 0;
	add_check(result, "pin", ok,
			  psprintf("version " INT64_FORMAT " of %s, digest %s: %s",
					   checkpoint->version, slice->name, verdict->digest,
					   verdict->detail));
}

static char *
recorded_digest(int64 checkpoint)
{
	MemoryContext context = CurrentMemoryContext;
	AvcRoleScope scope;
	AvcParam	params[] = {AVC_INT8(checkpoint)};
	Datum		value;
	bool		is_null;

	avc_catalog_enter(&scope);
	SPI_connect();
	value = avc_spi_value("SELECT digest FROM _avcurate.checkpoints "
						  "WHERE checkpoint = $1", 1, params, context,
						  &is_null);
	SPI_finish();
	avc_catalog_leave(&scope);
	return is_null ? NULL : TextDatumGetCString(value);
}

/*
 * verify_checkpoint(checkpoint) returns table (check_name, ok, detail).
 */
Datum
avc_verify_checkpoint(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	AvcCheckpoint *checkpoint = avc_checkpoint_find(PG_GETARG_INT64(0), false);

	avc_model_check_usable(checkpoint->model);
	InitMaterializedSRF(fcinfo, 0);
	check_tensors(result, checkpoint);
	if (checkpoint->slice_id != 0)
		check_pin(result, checkpoint,
				  recorded_digest(checkpoint->checkpoint));
	return (Datum) 0;
}
