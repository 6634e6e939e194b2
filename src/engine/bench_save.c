/*
 * engine/bench_save.c
 *		What a bench works on, for another program to do the same.
 */
#include "engine/bench.h"

#include <stdlib.h>
#include <string.h>

#include "engine/io/file.h"
#include "engine/io/safetensors.h"

/* Arrays of all frames, one after another. */
typedef struct Arrays
{
	uint8_t    *pixels;
	float	   *boxes;
	int64_t    *labels;
	int64_t		count;			/* of boxes */
} Arrays;

static bool
gather(Arrays *arrays, const EngFrame *frames, int n, EngStatus *status)
{
	size_t		size = (size_t) frames[0].width * frames[0].height * 3;
	int			i;
	int32_t		j;

	for (i = 0; i < n; i++)
		arrays->count += frames[i].box_count;
	arrays->pixels = malloc(size * n);
	arrays->boxes = malloc(sizeof(float) * 4 * (arrays->count + 1));
	arrays->labels = malloc(sizeof(int64_t) * (arrays->count + 1));
	if (arrays->pixels == NULL || arrays->boxes == NULL ||
		arrays->labels == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	arrays->count = 0;
	for (i = 0; i < n; i++)
	{
		memcpy(arrays->pixels + size * i, frames[i].rgb, size);
		memcpy(arrays->boxes + 4 * arrays->count, frames[i].boxes,
			   sizeof(float) * 4 * frames[i].box_count);
		for (j = 0; j < frames[i].box_count; j++)
			arrays->labels[arrays->count++] = frames[i].labels[j];
	}
	return true;
}

static bool
add_arrays(EngTensorWriter *writer, const Arrays *arrays,
		   const EngFrame *frames, int n, EngStatus *status)
{
	int64_t		each = frames[0].box_count;
	EngFileTensor tensors[3] = {
		{.name = "bench.frames", .dtype = ENG_FILE_U8, .rank = 4,
		 .shape = {n, frames[0].height, frames[0].width, 3},
		 .data = arrays->pixels},
		{.name = "bench.boxes", .dtype = ENG_FILE_F32, .rank = 3,
		 .shape = {n, each, 4}, .data = (const uint8_t *) arrays->boxes},
		{.name = "bench.labels", .dtype = ENG_FILE_I64, .rank = 2,
		 .shape = {n, each}, .data = (const uint8_t *) arrays->labels}
	};
	int			i;
	int			j;

	for (i = 0; i < 3; i++)
	{
		tensors[i].count = 1;
		for (j = 0; j < tensors[i].rank; j++)
			tensors[i].count *= tensors[i].shape[j];
		tensors[i].bytes = tensors[i].count *
			eng_file_dtype_bits(tensors[i].dtype) / 8;
		if (!eng_tensor_writer_add(writer, &tensors[i], status))
			return false;
	}
	return true;
}

bool
eng_bench_save(const char *path, EngDetector *detector,
			   const EngFrame *frames, int n, EngStatus *status)
{
	EngBuffer	weights = {0};
	EngBuffer	out = {0};
	Arrays		arrays = {0};
	EngTensorFile *file = NULL;
	EngTensorWriter *writer = eng_tensor_writer_create(status);
	bool		fine = writer != NULL &&
		eng_detector_save(detector, false, &weights, status);
	int32_t		i;

	if (fine)
		file = eng_tensor_file_open(weights.data, weights.size, status);
	fine = file != NULL;
	for (i = 0; fine && i < file->count; i++)
		fine = eng_tensor_writer_add(writer, &file->tensors[i], status);
	fine = fine && gather(&arrays, frames, n, status) &&
		add_arrays(writer, &arrays, frames, n, status) &&
		eng_tensor_writer_finish(writer, &out, status) &&
		eng_file_write(path, out.data, out.size, status);
	free(arrays.pixels);
	free(arrays.boxes);
	free(arrays.labels);
	eng_tensor_writer_free(writer);
	eng_tensor_file_free(file);
	eng_buffer_free(&weights);
	eng_buffer_free(&out);
	return fine;
}
