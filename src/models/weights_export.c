/*
 * models/weights_export.c
 *		Weights out of the database as files.
 *
 * A file is safetensors or PyTorch's own.  Either carries texts about the
 * weights: as metadata strings, or as the attribute "avcurate" of the state
 * dict.  The engine's own program reads architecture, options and num_classes;
 * avcurate.constructor is the Python expression, after "import functools,
 * torch, torchvision", or "import open_clip" for CLIP, of a network that takes
 * the weights strictly.
 */
#include "postgres.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "catalog/pg_authid.h"
#include "common/pg_prng.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "engine/io/pth.h"
#include "engine/nets/clip.h"
#include "engine/nets/constructor.h"
#include "models/model.h"

PG_FUNCTION_INFO_V1(avc_export_checkpoint);
PG_FUNCTION_INFO_V1(avc_export_checkpoint_file);

#define MAX_TEXTS_BYTES	(1024 * 1024)	/* room for them in a bytea */

/* True for PyTorch's form. */
static bool
read_format(const text *argument)
{
	const char *format = text_to_cstring(argument);

	if (strcmp(format, "safetensors") != 0 && strcmp(format, "pth") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown format \"%s\" of weights", format),
				 errhint("Known formats are \"safetensors\" and \"pth\".")));
	return format[0] == 'p';
}

static bool
is_same_tower(const EngClipTower *a, const EngClipTower *b)
{
	return a->width == b->width && a->layers == b->layers &&
		a->heads == b->heads;
}

static const char *
clip_constructor(const AvcModel *model)
{
	EngClipConfig config;
	EngClipConfig published;
	EngStatus	status = {ENG_OK, ""};

	if (!eng_clip_config_parse(&config, model->options, &status))
		avc_raise_status(&status);
	eng_clip_config_default(&published);
	if (!is_same_tower(&config.image, &published.image) ||
		!is_same_tower(&config.text, &published.text) ||
		config.dimensions != published.dimensions)
		return "(open_clip has no network of these sizes)";
	return config.quick_gelu ? "open_clip.create_model('ViT-B-32-quickgelu')" :
		"open_clip.create_model('ViT-B-32')";
}

static const char *
constructor_of(const AvcModel *model)
{
	char	   *constructor = palloc(ENG_CONSTRUCTOR_MAX);
	EngDetectorConfig config;

	if (avc_model_is_clip(model))
		return clip_constructor(model);
	avc_model_config(&config, model->architecture, model->options,
					 model->num_classes);
	(void) eng_detector_constructor(&config, constructor);
	return constructor;
}

static void
free_written(void *buffer)
{
	eng_buffer_free(buffer);
}

/*
 * The safetensors file of an image as one of PyTorch's, which goes with a
 * memory context of the caller's.
 */
static AvcFileImage
as_pth(const AvcFileImage *image, MemoryContext context)
{
	EngTensorFile *file = avc_tensor_file_open(image->data, image->len);
	EngBuffer  *out = MemoryContextAllocZero(context, sizeof(EngBuffer));
	MemoryContextCallback *callback =
	MemoryContextAlloc(context, sizeof(MemoryContextCallback));
	EngStatus	status = {ENG_OK, ""};
	AvcFileImage result;

	callback->func = free_written;
	callback->arg = out;
	MemoryContextRegisterResetCallback(context, callback);
	if (!eng_pth_write(file, out, &status))
		avc_raise_status(&status);
	result.data = (char *) out->data;
	result.len = out->size;
	return result;
}

/* Files hold UTF-8, whatever the database's encoding is. */
static const char *
utf8(const char *text)
{
	return text == NULL ? NULL :
		pg_server_to_any(text, strlen(text), PG_UTF8);
}

/* The checkpoint's file with everything that one should know about it. */
static AvcFileImage
export_image(const AvcCheckpoint *checkpoint, bool pth)
{
	const AvcModel *model = checkpoint->model;
	const EngFileText texts[] = {
		{"architecture", model->architecture},
		{"options", utf8(model->options)},
		{"avcurate.checkpoint", psprintf(INT64_FORMAT, checkpoint->checkpoint)},
		{"avcurate.model", utf8(model->model)},
		{"avcurate.constructor", constructor_of(model)},
		{"avcurate.provenance",
		utf8(avc_jsonb_to_text(checkpoint->provenance))},
		/* of detectors alone */
		{"num_classes", psprintf("%d", model->num_classes)},
		{"avcurate.label_map", utf8(model->label_map)}
	};
	int			text_count = lengthof(texts) - (avc_model_is_clip(model) ? 2 : 0);
	MemoryContext plain = AllocSetContextCreate(CurrentMemoryContext,
												"avcurate safetensors",
												ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = CurrentMemoryContext;
	AvcFileImage image;

	if (pth)
		MemoryContextSwitchTo(plain);
	image = avc_checkpoint_read_with(checkpoint->checkpoint, texts,
									 text_count);
	if (pth)
		image = as_pth(&image, old);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(plain);
	return image;
}

static AvcCheckpoint *
find_usable(int64 number)
{
	AvcCheckpoint *checkpoint = avc_checkpoint_find(number, false);

	avc_model_check_usable(checkpoint->model);
	return checkpoint;
}

static void
check_bytea_size(uint64 size)
{
	if (size > MaxAllocSize - VARHDRSZ)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("checkpoint is larger than 1 GB, the most that a bytea holds"),
				 errhint("Write it to a file of the server: export_checkpoint(checkpoint, path, format).")));
}

/*
 * export_checkpoint(checkpoint, format) returns bytea.
 */
Datum
avc_export_checkpoint(PG_FUNCTION_ARGS)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "avcurate export",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	AvcCheckpoint *checkpoint = find_usable(PG_GETARG_INT64(0));
	bool		pth = read_format(PG_GETARG_TEXT_PP(1));
	AvcFileImage image;
	bytea	   *result;

	/* What is far too large is not read first. */
	if (!checkpoint->has_state && checkpoint->bytes > MAX_TEXTS_BYTES)
		check_bytea_size(checkpoint->bytes - MAX_TEXTS_BYTES);
	image = export_image(checkpoint, pth);
	check_bytea_size(image.len);
	MemoryContextSwitchTo(old);
	result = palloc(VARHDRSZ + image.len);
	SET_VARSIZE(result, VARHDRSZ + image.len);
	memcpy(VARDATA(result), image.data, image.len);
	MemoryContextDelete(context);
	PG_RETURN_BYTEA_P(result);
}

static void
write_all(int fd, const char *path, const AvcFileImage *image)
{
	size_t		done = 0;

	while (done < image->len)
	{
		ssize_t		n;

		CHECK_FOR_INTERRUPTS();
		errno = 0;
		n = write(fd, image->data + done,
				  Min(image->len - done, (size_t) 8 << 20));
		if (n <= 0)
		{
			if (errno == 0)
				errno = ENOSPC;
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not write file \"%s\": %m", path)));
		}
		done += n;
	}
}

/* A new file that others may read, as COPY TO makes it. */
static int
create_file(const char *path)
{
	mode_t		mask = umask(S_IWGRP | S_IWOTH);
	int			fd;

	PG_TRY();
	{
		fd = OpenTransientFilePerm(path, O_WRONLY | O_CREAT | O_EXCL |
								   PG_BINARY, 0644);
	}
	PG_FINALLY();
	{
		umask(mask);
	}
	PG_END_TRY();
	return fd;
}

/*
 * Whole or not at all: a new file beside it, then renamed, both made
 * durable.  Nothing is left behind when that fails or is cancelled.
 */
static void
write_server_file(const char *path, const AvcFileImage *image)
{
	char	   *temporary = psprintf("%s.%d.%08x.tmp", path, MyProcPid,
									 pg_prng_uint32(&pg_global_prng_state));
	struct stat found;
	int			fd;

	/* A rename replaces whatever has the name, devices and pipes included. */
	if (stat(path, &found) == 0 && !S_ISREG(found.st_mode))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a regular file", path)));
	fd = create_file(temporary);
	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", temporary)));
	PG_TRY();
	{
		write_all(fd, path, image);
		if (CloseTransientFile(fd) != 0)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not close file \"%s\": %m", path)));
		durable_rename(temporary, path, ERROR);
	}
	PG_CATCH();
	{
		(void) unlink(temporary);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/*
 * export_checkpoint(checkpoint, path, format) returns bigint: bytes written.
 */
Datum
avc_export_checkpoint_file(PG_FUNCTION_ARGS)
{
	AvcCheckpoint *checkpoint = find_usable(PG_GETARG_INT64(0));
	char	   *path = text_to_cstring(PG_GETARG_TEXT_PP(1));
	bool		pth;
	AvcFileImage image;

	avc_check_file_role(ROLE_PG_WRITE_SERVER_FILES, "write");
	pth = read_format(PG_GETARG_TEXT_PP(2));
	if (!is_absolute_path(path))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("path \"%s\" is not absolute", path)));
	image = export_image(checkpoint, pth);
	write_server_file(path, &image);
	PG_RETURN_INT64((int64) image.len);
}
