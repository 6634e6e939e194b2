/*
 * models/clip_vocabulary.c
 *		The vocabulary that goes with a CLIP model.
 *
 * The lines that are used are stored with the model, so that a dump and a
 * replica have them and no file of the server is needed again.
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "common/sha2.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "models/model.h"

PG_FUNCTION_INFO_V1(avc_set_vocabulary);
PG_FUNCTION_INFO_V1(avc_set_vocabulary_file);

#define SHA256_HEX	(2 * PG_SHA256_DIGEST_LENGTH)

/* The vocabulary that was used last. */
static AvcVocabulary *vocabulary = NULL;
static char vocabulary_sha256[SHA256_HEX + 1];

/* ---- in -------------------------------------------------------------- */

static void
free_buffer(void *buffer)
{
	eng_buffer_free(buffer);
}

static void
raise_bad_vocabulary(const EngStatus *status)
{
	ereport(ERROR,
			(errcode(status->code == ENG_NO_MEMORY ?
					 ERRCODE_OUT_OF_MEMORY : ERRCODE_DATA_EXCEPTION),
			 errmsg("%s", status->message),
			 errhint("A vocabulary is OpenAI's bpe_simple_vocab_16e6.txt.gz, as it is or unpacked, or Hugging Face's merges.txt.")));
}

/* The lines of a file that are used, after a look at each of them. */
static AvcFileImage
used_lines(const void *file, size_t size)
{
	EngBuffer  *lines = palloc0(sizeof(EngBuffer));
	MemoryContextCallback *callback = palloc(sizeof(MemoryContextCallback));
	EngStatus	status = {ENG_OK, ""};
	AvcVocabulary *parsed = NULL;
	AvcFileImage image;

	callback->func = free_buffer;
	callback->arg = lines;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, callback);
	if (avc_vocabulary_unpack(file, size, lines, &status))
		parsed = avc_vocabulary_parse((char *) lines->data, lines->size,
									  &status);
	if (parsed == NULL)
		raise_bad_vocabulary(&status);
	avc_vocabulary_free(parsed);
	image.data = (char *) lines->data;
	image.len = lines->size;
	return image;
}

AvcFileImage
avc_clip_vocabulary_read(const char *path)
{
	AvcFileImage file;

	if (!has_privs_of_role(GetUserId(), ROLE_PG_READ_SERVER_FILES))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to read files of the server"),
				 errhint("Make the model without a vocabulary and give it the file's bytes with avcurate.set_vocabulary().")));
	file = avc_server_file_image(path, AVC_CLIP_MAX_FILE);
	return used_lines(file.data, file.len);
}

static void
raise_other_vocabulary(const char *model)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("model \"%s\" has another vocabulary", model),
			 errhint("Make a new model, so that embeddings of the same text stay the same.")));
}

void
avc_clip_vocabulary_store(const char *model, AvcFileImage lines)
{
	bytea	   *bytes = palloc(VARHDRSZ + lines.len);
	AvcRoleScope scope;
	bool		is_same;

	SET_VARSIZE(bytes, VARHDRSZ + lines.len);
	memcpy(VARDATA(bytes), lines.data, lines.len);
	avc_catalog_enter(&scope);
	SPI_connect();
	{
		AvcParam	params[] = {
			AVC_TEXT(model), {BYTEAOID, PointerGetDatum(bytes), false}
		};

		avc_spi_exec("INSERT INTO _avcurate.vocabularies (model, sha256, lines) "
					 "VALUES ($1, pg_catalog.encode(pg_catalog.sha256($2), 'hex'), $2) "
					 "ON CONFLICT (model) DO NOTHING",
					 lengthof(params), params, false, 0);
		is_same = avc_spi_int64("SELECT pg_catalog.count(*) "
								"FROM _avcurate.vocabularies "
								"WHERE model = $1 AND lines = $2",
								lengthof(params), params, 0) == 1;
	}
	SPI_finish();
	avc_catalog_leave(&scope);
	if (!is_same)
		raise_other_vocabulary(model);
}

/* ---- out ------------------------------------------------------------- */

static void
raise_no_vocabulary(const AvcModel *model)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("model \"%s\" has no vocabulary, so it cannot read texts",
					model->model),
			 errhint("Give it one: SELECT avcurate.set_vocabulary(%s, '/path/of/bpe_simple_vocab_16e6.txt.gz').",
					 quote_literal_cstr(model->model))));
}

/* Parse stored lines for the rest of the session. */
static void
take_lines(const bytea *lines, const char *sha256)
{
	EngStatus	status = {ENG_OK, ""};
	AvcVocabulary *parsed = avc_vocabulary_parse(VARDATA_ANY(lines),
												 VARSIZE_ANY_EXHDR(lines),
												 &status);

	if (parsed == NULL)
		raise_bad_vocabulary(&status);
	avc_vocabulary_free(vocabulary);
	vocabulary = parsed;
	strlcpy(vocabulary_sha256, sha256, sizeof(vocabulary_sha256));
}

const AvcVocabulary *
avc_clip_vocabulary(const AvcModel *model)
{
	MemoryContext context = CurrentMemoryContext;
	AvcRoleScope scope;
	AvcParam	params[] = {AVC_TEXT(model->model)};
	Datum		value;
	bool		is_null;
	char	   *sha256 = NULL;

	avc_catalog_enter(&scope);
	SPI_connect();
	value = avc_spi_value("SELECT sha256 FROM _avcurate.vocabularies "
						  "WHERE model = $1", lengthof(params), params,
						  context, &is_null);
	if (!is_null)
		sha256 = TextDatumGetCString(value);
	if (sha256 != NULL &&
		(vocabulary == NULL || strcmp(sha256, vocabulary_sha256) != 0))
	{
		value = avc_spi_value("SELECT lines FROM _avcurate.vocabularies "
							  "WHERE model = $1", lengthof(params), params,
							  CurrentMemoryContext, &is_null);
		take_lines(DatumGetByteaPP(value), sha256);
	}
	SPI_finish();
	avc_catalog_leave(&scope);
	if (sha256 == NULL)
		raise_no_vocabulary(model);
	return vocabulary;
}

/* ---- SQL ------------------------------------------------------------- */

/* The model of argument 0, which embeds and which the user may use. */
static AvcModel *
model_argument(FunctionCallInfo fcinfo)
{
	AvcModel   *model = avc_model_find(text_to_cstring(PG_GETARG_TEXT_PP(0)),
									   false);

	PreventCommandIfReadOnly("set_vocabulary()");
	avc_model_check_usable(model);
	if (!avc_model_is_clip(model))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("model \"%s\" is a detector, which reads no texts",
						model->model)));
	return model;
}

/*
 * set_vocabulary(model, file bytea) returns void.
 */
Datum
avc_set_vocabulary(PG_FUNCTION_ARGS)
{
	AvcModel   *model = model_argument(fcinfo);
	bytea	   *file = PG_GETARG_BYTEA_PP(1);

	avc_clip_vocabulary_store(model->model,
							  used_lines(VARDATA_ANY(file),
										 VARSIZE_ANY_EXHDR(file)));
	PG_RETURN_VOID();
}

/*
 * set_vocabulary(model, path text) returns void.
 */
Datum
avc_set_vocabulary_file(PG_FUNCTION_ARGS)
{
	AvcModel   *model = model_argument(fcinfo);
	char	   *path = text_to_cstring(PG_GETARG_TEXT_PP(1));

	avc_clip_vocabulary_store(model->model, avc_clip_vocabulary_read(path));
	PG_RETURN_VOID();
}
