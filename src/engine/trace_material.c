/*
 * engine/trace_material.c
 *		What recorded networks are fed with: weights by a formula, frames.
 */
#include <stdio.h>
#include <string.h>

#include "engine/core/random.h"
#include "engine/io/file.h"
#include "engine/trace_steps.h"
#include "image/jpeg.h"

#define FRAME_LIMIT ((size_t) 1 << 28)	/* bytes of a JPEG */

static inline uint64_t
mix(uint64_t z)
{
	z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
	return z ^ (z >> 31);
}

/* value[i] = base + t * bound, t in [-1, 1) from the name, seed and i. */
static void
weights_by_rule(float *value, int64_t count, const char *name, uint64_t seed,
				const float rule[2])
{
	const uint64_t gamma = UINT64_C(0x9E3779B97F4A7C15);
	uint64_t	key = eng_random_name(name) ^ (seed * gamma);

	for (int64_t i = 0; i < count; i++)
	{
		uint64_t	z = mix(key + ((uint64_t) i + 1) * gamma);
		float		t = (float) ((double) (z >> 40) * 0x1p-23 - 1.0);

		value[i] = t * rule[1];
		if (rule[0] != 0.0f)
			value[i] = rule[0] + value[i];
	}
}

float *
eng_trace_weights(EngTraceCase *trace, const char *name, int64_t count)
{
	const json_t *seed = json_object_get(eng_trace_config(trace), "seed");
	float	   *rule;
	float	   *value;

	if (eng_trace_has(trace, "value.%s", name))
	{
		value = eng_trace_floats(trace, "value.%s", name);
		if (!eng_trace_expect(trace, count, "value.%s", name))
			return NULL;
		return value;
	}
	rule = eng_trace_floats(trace, "rule.%s", name);
	value = eng_trace_alloc(trace, (size_t) count * sizeof(float));
	if (rule == NULL || value == NULL ||
		!eng_trace_expect(trace, 2, "rule.%s", name))
		return NULL;
	weights_by_rule(value, count, name,
					(uint64_t) json_integer_value(seed), rule);
	return value;
}

bool
eng_trace_read_frame(EngTraceCase *trace, const char *folder,
					 const char *name, EngImage *image)
{
	EngStatus  *status = eng_trace_status(trace);
	EngBuffer	file = {NULL, 0, 0};
	EngJpegDecoder *decoder;
	EngJpegInfo info;
	char		path[4096];
	bool		done = false;

	memset(image, 0, sizeof(*image));
	if (folder == NULL)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"the case needs frame \"%s\": say --frames", name);
	snprintf(path, sizeof(path), "%s/%s", folder, name);
	decoder = eng_jpeg_decoder_create(status);
	if (decoder != NULL && eng_file_read(path, FRAME_LIMIT, &file, status) &&
		eng_jpeg_read_header(&info, file.data, file.size, status))
	{
		*image = (EngImage) {NULL, info.width, info.height, 3};
		image->pixels = eng_trace_alloc(trace, eng_image_bytes(image));
		done = image->pixels != NULL &&
			eng_jpeg_decode(decoder, image, file.data, file.size, 1, status);
	}
	eng_jpeg_decoder_free(decoder);
	eng_buffer_free(&file);
	return done;
}
