/*
 * models/weights_file.c
 *		Weights in and out of the database as files.
 *
 * A file that comes in, safetensors or PyTorch's, passes through an engine:
 * it is loaded strictly into the model's network and saved again, so names,
 * shapes and types are known to be the network's own before anything is
 * stored.  A file that goes out carries format "pt" and the checkpoint's
 * provenance as metadata strings.
 */
#include "postgres.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "catalog/pg_authid.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "common/settings.h"
#include "engine/protocol.h"
#include "models/model.h"

PG_FUNCTION_INFO_V1(avc_import_checkpoint);
PG_FUNCTION_INFO_V1(avc_import_checkpoint_file);
PG_FUNCTION_INFO_V1(avc_export_checkpoint);
PG_FUNCTION_INFO_V1(avc_export_checkpoint_file);

/*
 * Longest metadata string, in bytes, that a provenance keeps.  Each way out
 * and in quotes the provenance once more, which doubles its backslashes.
 */
#define MAX_METADATA 16384

/* ---- in ------------------------------------------------------------- */

/*
 * PyTorch's own files hold a pickle: only the engine, which cannot hurt the
 * server, looks into them.
 */
static bool
is_pytorch_file(const AvcFileImage *file)
{
	const uint8 *bytes = (const uint8 *) file->data;

	return file->len >= 2 && ((bytes[0] == 'P' && bytes[1] == 'K') ||
							  bytes[0] == 0x80);
}

/* What a safetensors file says about itself. */
static char *
file_metadata(const AvcFileImage *file)
{
	EngTensorFile *tensors = avc_tensor_file_open(file->data, file->len);
	StringInfoData metadata;
	int			i;

	initStringInfo(&metadata);
	appendStringInfoChar(&metadata, '{');
	for (i = 0; i < tensors->metadata_count; i++)
	{
		const char *value = tensors->metadata[i].value;
		size_t		len = strlen(value);

		if (len > MAX_METADATA)
			value = psprintf("(%zu bytes are left out)", len);
		if (strlen(tensors->metadata[i].key) <= MAX_METADATA)
			avc_json_add(&metadata, tensors->metadata[i].key, value);
	}
	appendStringInfoChar(&metadata, '}');
	return metadata.data;
}

static char *
import_provenance(const AvcModel *model, const AvcEngine *engine,
				  const AvcFileImage *file, const char *metadata,
				  const char *path)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	avc_json_add(&json, "origin", "imported");
	if (path != NULL)
		avc_json_add(&json, "path", path);
	avc_json_add_int(&json, "file_bytes", (int64) file->len);
	avc_json_add(&json, "file_format",
				 is_pytorch_file(file) ? "pth" : "safetensors");
	avc_json_add_raw(&json, "file_metadata", metadata);
	avc_model_add_identity(&json, model);
	avc_model_add_versions(&json, engine);
	appendStringInfoChar(&json, '}');
	return json.data;
}

static int64
import_file(const char *name, const AvcFileImage *file, const char *path)
{
	AvcModel   *model = avc_model_find(name, false);
	AvcLoad		load = {"infer", NULL, 0, 0, false, true, NULL};
	AvcMessage	save = {ENG_KIND_SAVE, "{\"with_optimizer\": false}", NULL, 0};
	AvcCheckpointRow row;
	AvcEngine  *engine;
	AvcReply   *reply;
	const char *metadata = "{}";
	int64		checkpoint;

	PreventCommandIfReadOnly("import_checkpoint()");
	avc_model_check_usable(model);
	load.device = avc_model_device(NULL);
	load.threads = avc_threads;
	memset(&row, 0, sizeof(row));
	row.model = model->model;

	/* A malformed file is refused before an engine is started for it. */
	if (!is_pytorch_file(file))
		metadata = file_metadata(file);
	engine = avc_engine_start();
	avc_reply_free(avc_model_load(engine, model, &load, file));
	reply = avc_engine_call(engine, &save);
	row.provenance = avc_json_to_jsonb(import_provenance(model, engine, file,
														 metadata, path));
	avc_engine_stop(engine);
	checkpoint = avc_checkpoint_store(&row, reply->blob, reply->blob_len);
	avc_reply_free(reply);
	return checkpoint;
}

/*
 * import_checkpoint(model, file bytea) returns bigint.
 */
Datum
avc_import_checkpoint(PG_FUNCTION_ARGS)
{
	char	   *model = text_to_cstring(PG_GETARG_TEXT_PP(0));
	bytea	   *bytes = PG_GETARG_BYTEA_PP(1);
	AvcFileImage file;

	file.data = VARDATA_ANY(bytes);
	file.len = VARSIZE_ANY_EXHDR(bytes);
	PG_RETURN_INT64(import_file(model, &file, NULL));
}

static void
check_file_role(Oid role, const char *verb)
{
	if (!has_privs_of_role(GetUserId(), role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to %s files of the server", verb),
				 errhint("Use the form that takes or returns bytea.")));
}

static AvcFileImage
read_server_file(const char *path)
{
	AvcFileImage file;
	struct stat st;
	int			fd;
	size_t		got = 0;

	fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a regular file", path)));
	if (st.st_size > (off_t) ENG_PROTOCOL_MAX_BLOB)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("file \"%s\" is larger than 4 GB", path)));
	file.len = st.st_size;
	file.data = MemoryContextAllocHuge(CurrentMemoryContext, file.len + 1);
	while (got < file.len)
	{
		ssize_t		n = read(fd, file.data + got,
							 Min(file.len - got, (size_t) 8 << 20));

		if (n <= 0)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not read file \"%s\": %m", path)));
		got += n;
		CHECK_FOR_INTERRUPTS();
	}
	CloseTransientFile(fd);
	return file;
}

/*
 * import_checkpoint(model, path text) returns bigint.
 */
Datum
avc_import_checkpoint_file(PG_FUNCTION_ARGS)
{
	char	   *model = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *path = text_to_cstring(PG_GETARG_TEXT_PP(1));
	AvcFileImage file;

	check_file_role(ROLE_PG_READ_SERVER_FILES, "read");
	file = read_server_file(path);
	PG_RETURN_INT64(import_file(model, &file, path));
}

/* ---- out ------------------------------------------------------------ */

static void
check_format(const char *format)
{
	if (strcmp(format, "safetensors") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown format \"%s\" of weights", format),
				 errhint("The known format is \"safetensors\".")));
}

/* The constructor call of torchvision that accepts these weights. */
static char *
constructor_call(const AvcModel *model)
{
	if (strcmp(model->architecture, "small") == 0)
		return pstrdup("none: preset of avcurate");
	return psprintf("torchvision.models.detection.%s(weights=None, "
					"weights_backbone=None, num_classes=%d)",
					model->architecture, model->num_classes);
}

static void
free_written(void *buffer)
{
	eng_buffer_free(buffer);
}

/* The checkpoint's file with everything that one should know about it. */
static AvcFileImage
export_image(const AvcCheckpoint *checkpoint)
{
	AvcFileImage plain = avc_checkpoint_read(checkpoint->checkpoint, false);
	EngTensorFile *file = avc_tensor_file_open(plain.data, plain.len);
	EngStatus	status = {ENG_OK, ""};
	EngTensorWriter *writer = eng_tensor_writer_create(&status);
	EngBuffer  *out = palloc0(sizeof(EngBuffer));
	MemoryContextCallback *callback = palloc(sizeof(MemoryContextCallback));
	AvcFileImage image;
	/* The engine's own program reads the first four. */
	const char *metadata[][2] = {
		{"format", "pt"},
		{"architecture", checkpoint->model->architecture},
		{"options", checkpoint->model->options},
		{"num_classes", psprintf("%d", checkpoint->model->num_classes)},
		{"avcurate.checkpoint", psprintf(INT64_FORMAT, checkpoint->checkpoint)},
		{"avcurate.model", checkpoint->model->model},
		{"avcurate.label_map", checkpoint->model->label_map},
		{"avcurate.constructor", constructor_call(checkpoint->model)},
		{"avcurate.provenance", avc_jsonb_to_text(checkpoint->provenance)}
	};
	bool		ok = writer != NULL;
	int			i;

	callback->func = free_written;
	callback->arg = out;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, callback);
	for (i = 0; ok && i < lengthof(metadata); i++)
		ok = eng_tensor_writer_metadata(writer, metadata[i][0], metadata[i][1],
										&status);
	for (i = 0; ok && i < file->count; i++)
		ok = eng_tensor_writer_add(writer, &file->tensors[i], &status);
	ok = ok && eng_tensor_writer_finish(writer, out, &status);
	eng_tensor_writer_free(writer);
	if (!ok)
		avc_raise_status(&status);
	image.data = (char *) out->data;
	image.len = out->size;
	return image;
}

static AvcCheckpoint *
find_usable(int64 number)
{
	AvcCheckpoint *checkpoint = avc_checkpoint_find(number, false);

	avc_model_check_usable(checkpoint->model);
	return checkpoint;
}

/*
 * export_checkpoint(checkpoint, format) returns bytea.
 */
Datum
avc_export_checkpoint(PG_FUNCTION_ARGS)
{
	AvcCheckpoint *checkpoint = find_usable(PG_GETARG_INT64(0));
	AvcFileImage image;
	bytea	   *result;

	check_format(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	image = export_image(checkpoint);
	if (image.len > MaxAllocSize - VARHDRSZ)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("checkpoint is larger than 1 GB"),
				 errhint("Write it to a file of the server.")));
	result = palloc(VARHDRSZ + image.len);
	SET_VARSIZE(result, VARHDRSZ + image.len);
	memcpy(VARDATA(result), image.data, image.len);
	PG_RETURN_BYTEA_P(result);
}

/* False with errno set if the bytes are not all in the file. */
static bool
write_all(int fd, const AvcFileImage *image)
{
	size_t		done = 0;

	while (done < image->len)
	{
		ssize_t		n = write(fd, image->data + done,
							  Min(image->len - done, (size_t) 8 << 20));

		if (n == 0)
			errno = ENOSPC;
		if (n <= 0)
			return false;
		done += n;
	}
	return pg_fsync(fd) == 0;
}

/*
 * Whole or not at all: a new file beside it, synced, then renamed.  Nothing
 * is left behind when that fails.
 */
static void
write_server_file(const char *path, const AvcFileImage *image)
{
	char	   *temporary = psprintf("%s.tmp.%d", path, MyProcPid);
	struct stat found;
	int			error = 0;
	int			fd;

	/* A rename replaces whatever has the name, devices and pipes included. */
	if (stat(path, &found) == 0 && !S_ISREG(found.st_mode))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a regular file", path)));
	(void) unlink(temporary);
	fd = OpenTransientFilePerm(temporary, O_WRONLY | O_CREAT | O_EXCL |
							   PG_BINARY, 0644);
	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", temporary)));
	if (!write_all(fd, image))
		error = errno;
	if (CloseTransientFile(fd) != 0 && error == 0)
		error = errno;
	if (error == 0 && rename(temporary, path) != 0)
		error = errno;
	if (error != 0)
	{
		(void) unlink(temporary);
		errno = error;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", path)));
	}
}

/*
 * export_checkpoint(checkpoint, path, format) returns bigint: bytes written.
 */
Datum
avc_export_checkpoint_file(PG_FUNCTION_ARGS)
{
	AvcCheckpoint *checkpoint = find_usable(PG_GETARG_INT64(0));
	char	   *path = text_to_cstring(PG_GETARG_TEXT_PP(1));
	AvcFileImage image;

	check_file_role(ROLE_PG_WRITE_SERVER_FILES, "write");
	check_format(text_to_cstring(PG_GETARG_TEXT_PP(2)));
	if (!is_absolute_path(path))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("path \"%s\" is not absolute", path)));
	image = export_image(checkpoint);
	write_server_file(path, &image);
	PG_RETURN_INT64((int64) image.len);
}
