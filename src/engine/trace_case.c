/*
 * engine/trace_case.c
 *		Reading a recorded case and writing outputs in its form.
 */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/io/file.h"
#include "engine/trace_case.h"

#define CASE_LIMIT	((size_t) 1 << 31)	/* bytes of a case */

/* A piece of memory that goes with the case. */
typedef struct Piece
{
	struct Piece *next;
	double		data[];
} Piece;

struct EngTraceCase
{
	EngBuffer	image;
	EngTensorFile *file;
	EngTensorWriter *writer;
	json_t	   *config;
	EngStatus  *status;
	Piece	   *pieces;
};

EngTraceCase *
eng_trace_case_open(const char *path, EngStatus *status)
{
	EngTraceCase *trace = calloc(1, sizeof(EngTraceCase));
	const char *text;

	if (trace == NULL)
	{
		eng_fail(status, ENG_NO_MEMORY, "out of memory");
		return NULL;
	}
	trace->status = status;
	if (!eng_file_read(path, CASE_LIMIT, &trace->image, status) ||
		(trace->file = eng_tensor_file_open(trace->image.data,
											trace->image.size,
											status)) == NULL ||
		(trace->writer = eng_tensor_writer_create(status)) == NULL)
	{
		eng_trace_case_close(trace);
		return NULL;
	}
	text = eng_tensor_file_metadata(trace->file, "config");
	trace->config = json_loads(text != NULL ? text : "", 0, NULL);
	if (!json_is_object(trace->config))
	{
		eng_fail(status, ENG_BAD_FILE,
				 "\"%s\" is not a recorded case: it has no config", path);
		eng_trace_case_close(trace);
		return NULL;
	}
	return trace;
}

void
eng_trace_case_close(EngTraceCase *trace)
{
	if (trace == NULL)
		return;
	while (trace->pieces != NULL)
	{
		Piece	   *piece = trace->pieces;

		trace->pieces = piece->next;
		free(piece);
	}
	json_decref(trace->config);
	eng_tensor_writer_free(trace->writer);
	eng_tensor_file_free(trace->file);
	eng_buffer_free(&trace->image);
	free(trace);
}

const json_t *
eng_trace_config(const EngTraceCase *trace)
{
	return trace->config;
}

const char *
eng_trace_text(const EngTraceCase *trace, const char *key)
{
	const char *text = eng_tensor_file_metadata(trace->file, key);

	return text != NULL ? text : "";
}

const char *
eng_trace_name(const EngTraceCase *trace, int32_t i)
{
	return i < trace->file->count ? trace->file->tensors[i].name : NULL;
}

EngStatus *
eng_trace_status(const EngTraceCase *trace)
{
	return trace->status;
}

void *
eng_trace_alloc(EngTraceCase *trace, size_t size)
{
	Piece	   *piece;
	char	   *data;

	/* vectors want 64 bytes of alignment */
	piece = calloc(1, sizeof(Piece) + size + 128);
	if (piece == NULL)
	{
		eng_fail(trace->status, ENG_NO_MEMORY, "out of memory");
		return NULL;
	}
	piece->next = trace->pieces;
	trace->pieces = piece;
	data = (char *) piece->data;
	return data + (64 - (uintptr_t) data % 64) % 64;
}

/* Print a name with a prefix; too long a one finds nothing. */
#define FORMAT_NAME(name, prefix) \
	do { \
		va_list		args; \
		size_t		used = strlen(prefix); \
		memcpy(name, prefix, used); \
		va_start(args, format); \
		vsnprintf(name + used, sizeof(name) - used, format, args); \
		va_end(args); \
	} while (0)

bool
eng_trace_has(const EngTraceCase *trace, const char *format,...)
{
	char		name[192];

	FORMAT_NAME(name, "in.");
	return eng_tensor_file_find(trace->file, name) != NULL;
}

bool
eng_trace_wants(const EngTraceCase *trace, const char *format,...)
{
	char		name[192];

	FORMAT_NAME(name, "out.");
	if (eng_tensor_file_find(trace->file, name) != NULL)
		return true;
	strncat(name, "#r", sizeof(name) - strlen(name) - 1);
	return eng_tensor_file_find(trace->file, name) != NULL;
}

static const EngFileTensor *
find_input(const EngTraceCase *trace, const char *name)
{
	const EngFileTensor *tensor = eng_tensor_file_find(trace->file, name);

	if (tensor == NULL)
		eng_fail(trace->status, ENG_BAD_FILE, "the case lacks tensor \"%s\"",
				 name);
	return tensor;
}

const EngFileTensor *
eng_trace_tensor(const EngTraceCase *trace, const char *format,...)
{
	char		name[192];

	FORMAT_NAME(name, "in.");
	return find_input(trace, name);
}

bool
eng_trace_expect(const EngTraceCase *trace, int64_t count,
				 const char *format,...)
{
	char		name[192];
	const EngFileTensor *tensor;

	FORMAT_NAME(name, "in.");
	tensor = find_input(trace, name);
	if (tensor == NULL || tensor->count == count)
		return tensor != NULL;
	return eng_fail(trace->status, ENG_BAD_FILE,
					"tensor \"%s\" has %lld elements, but %lld are needed",
					name, (long long) tensor->count, (long long) count);
}

float *
eng_trace_floats(EngTraceCase *trace, const char *format,...)
{
	char		name[192];
	const EngFileTensor *tensor;
	float	   *out;

	FORMAT_NAME(name, "in.");
	tensor = find_input(trace, name);
	if (tensor == NULL)
		return NULL;
	out = eng_trace_alloc(trace, (size_t) tensor->count * sizeof(float));
	if (out == NULL || !eng_file_tensor_floats(tensor, out, trace->status))
		return NULL;
	return out;
}

int32_t *
eng_trace_ints(EngTraceCase *trace, const char *format,...)
{
	char		name[192];
	const EngFileTensor *tensor;
	int32_t    *out;

	FORMAT_NAME(name, "in.");
	tensor = find_input(trace, name);
	if (tensor == NULL)
		return NULL;
	out = eng_trace_alloc(trace, (size_t) tensor->count * sizeof(int32_t));
	if (out == NULL)
		return NULL;
	for (int64_t i = 0; i < tensor->count; i++)
	{
		int64_t		wide;

		if (tensor->dtype == ENG_FILE_I32)
			memcpy(out + i, tensor->data + 4 * i, sizeof(int32_t));
		else if (tensor->dtype == ENG_FILE_I64)
		{
			memcpy(&wide, tensor->data + 8 * i, sizeof(wide));
			out[i] = (int32_t) wide;
		}
		else
		{
			eng_fail(trace->status, ENG_BAD_FILE,
					 "tensor \"%s\" does not hold whole numbers", name);
			return NULL;
		}
	}
	return out;
}

uint8_t *
eng_trace_bytes(EngTraceCase *trace, const char *format,...)
{
	char		name[192];
	const EngFileTensor *tensor;
	uint8_t    *out;

	FORMAT_NAME(name, "in.");
	tensor = find_input(trace, name);
	if (tensor == NULL)
		return NULL;
	if (tensor->dtype != ENG_FILE_U8)
	{
		eng_fail(trace->status, ENG_BAD_FILE,
				 "tensor \"%s\" does not hold bytes", name);
		return NULL;
	}
	out = eng_trace_alloc(trace, tensor->bytes);
	if (out != NULL)
		memcpy(out, tensor->data, tensor->bytes);
	return out;
}

float *
eng_trace_recorded(EngTraceCase *trace, int32_t *rows, const char *format,...)
{
	char		name[192];
	const EngFileTensor *tensor;
	float	   *out;

	FORMAT_NAME(name, "out.");
	tensor = eng_tensor_file_find(trace->file, name);
	if (tensor == NULL || tensor->rank != 2 || tensor->shape[1] != 4)
		return NULL;
	out = eng_trace_alloc(trace, (size_t) tensor->count * sizeof(float));
	if (out == NULL || !eng_file_tensor_floats(tensor, out, trace->status))
		return NULL;
	*rows = (int32_t) tensor->shape[0];
	return out;
}

EngTraceOut
eng_trace_out(int32_t rank, const int64_t shape[4], const char *format,...)
{
	EngTraceOut out;

	out.rank = rank;
	for (int i = 0; i < 4; i++)
		out.shape[i] = i < rank ? shape[i] : 1;
	FORMAT_NAME(out.name, "out.");
	return out;
}

/* Data as float64 in the reduced form of `golden`. */
static bool
put_reduced(EngTraceCase *trace, EngFileTensor *tensor,
			const EngFileTensor *golden, const float *data)
{
	int64_t		n = tensor->count;
	int64_t		stride;
	double	   *out;
	double		head;
	double		sum = 0.0,
				squares = 0.0,
				largest = 0.0;

	if (golden->dtype != ENG_FILE_F64 || golden->count < 5)
		return eng_fail(trace->status, ENG_BAD_FILE,
						"tensor \"%s\" is not a reduced one", golden->name);
	memcpy(&head, golden->data + 4 * sizeof(double), sizeof(double));
	stride = head >= 1.0 && head < 1e15 ? (int64_t) head : 1;
	out = eng_trace_alloc(trace, golden->bytes);
	if (out == NULL)
		return false;
	for (int64_t i = 0; i < n; i++)
	{
		double		v = data[i];

		sum += v;
		squares += v * v;
		largest = fabs(v) > largest ? fabs(v) : largest;
	}
	out[0] = sum;
	out[1] = sqrt(squares);
	out[2] = largest;
	out[3] = (double) n;
	out[4] = (double) stride;
	for (int64_t j = 5; j < golden->count; j++)
		out[j] = (j - 5) * stride < n ? data[(j - 5) * stride] : NAN;
	tensor->name = golden->name;
	tensor->dtype = ENG_FILE_F64;
	tensor->rank = 1;
	tensor->shape[0] = tensor->count = golden->count;
	tensor->data = (const uint8_t *) out;
	tensor->bytes = golden->bytes;
	return eng_tensor_writer_add(trace->writer, tensor, trace->status);
}

static bool
put_whole(EngTraceCase *trace, EngFileTensor *tensor,
		  const EngFileTensor *golden, const void *data)
{
	void	   *copy;

	tensor->bytes = (size_t) tensor->count * 4;
	copy = eng_trace_alloc(trace, tensor->bytes);
	if (copy == NULL)
		return false;
	if (tensor->bytes > 0)
		memcpy(copy, data, tensor->bytes);
	tensor->name = golden->name;
	tensor->data = copy;
	return eng_tensor_writer_add(trace->writer, tensor, trace->status);
}

static bool
put(EngTraceCase *trace, const EngTraceOut *out, const void *data,
	EngFileDtype dtype)
{
	char		name[192];
	EngFileTensor tensor;
	const EngFileTensor *golden;

	memset(&tensor, 0, sizeof(tensor));
	tensor.dtype = dtype;
	tensor.rank = out->rank;
	tensor.count = 1;
	for (int i = 0; i < out->rank; i++)
	{
		tensor.shape[i] = out->shape[i];
		tensor.count *= out->shape[i];
	}
	golden = eng_tensor_file_find(trace->file, out->name);
	if (golden != NULL)
		return put_whole(trace, &tensor, golden, data);
	snprintf(name, sizeof(name), "%s#r", out->name);
	golden = eng_tensor_file_find(trace->file, name);
	if (golden == NULL)
		return true;
	if (dtype == ENG_FILE_I32)
	{
		/* long lists of whole numbers are reduced as floats */
		float	   *copy = eng_trace_alloc(trace, tensor.count * 4);

		if (copy == NULL)
			return false;
		for (int64_t i = 0; i < tensor.count; i++)
			copy[i] = (float) ((const int32_t *) data)[i];
		data = copy;
	}
	return put_reduced(trace, &tensor, golden, data);
}

bool
eng_trace_put_floats(EngTraceCase *trace, const EngTraceOut *out,
					 const float *data)
{
	return put(trace, out, data, ENG_FILE_F32);
}

bool
eng_trace_put_ints(EngTraceCase *trace, const EngTraceOut *out,
				   const int32_t *data)
{
	return put(trace, out, data, ENG_FILE_I32);
}

bool
eng_trace_case_write(EngTraceCase *trace, const char *path)
{
	EngBuffer	out = {NULL, 0, 0};
	bool		done;

	done = eng_tensor_writer_metadata(trace->writer, "format", "pt",
									  trace->status) &&
		eng_tensor_writer_finish(trace->writer, &out, trace->status) &&
		eng_file_write(path, out.data, out.size, trace->status);
	eng_buffer_free(&out);
	return done;
}

void
eng_trace_to_nhwc(float *out, const float *in, EngTraceShape s)
{
	size_t		plane = (size_t) s.h * s.w;

	for (int32_t n = 0; n < s.n; n++)
		for (int32_t c = 0; c < s.c; c++)
			for (size_t i = 0; i < plane; i++)
				out[(n * plane + i) * s.c + c] =
					in[((size_t) n * s.c + c) * plane + i];
}

void
eng_trace_to_nchw(float *out, const float *in, EngTraceShape s, int32_t pitch)
{
	size_t		plane = (size_t) s.h * s.w;

	for (int32_t n = 0; n < s.n; n++)
		for (int32_t c = 0; c < s.c; c++)
			for (size_t i = 0; i < plane; i++)
				out[((size_t) n * s.c + c) * plane + i] =
					in[(n * plane + i) * pitch + c];
}
