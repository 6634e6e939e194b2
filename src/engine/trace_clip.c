/*
 * engine/trace_clip.c
 *		Run a recorded CLIP network: both towers, and their cosines.
 */
#include <string.h>

#include "engine/nets/clip.h"
#include "engine/trace_steps.h"
#include "image/resize.h"

#define MOST_PICTURES	16

typedef struct ClipCase
{
	EngTraceCase *trace;
	EngClip    *clip;
	int32_t		dimensions;
	int32_t		pictures;
	int32_t		texts;
	const uint8_t *squares[MOST_PICTURES];
	float	   *image_embeddings;	/* of length 1 once they are put out */
	float	   *text_embeddings;
} ClipCase;

/* ---- material ------------------------------------------------------------- */

static bool
set_weights(ClipCase *c)
{
	int32_t		n = eng_clip_parameter_count(c->clip);
	int32_t		i;

	for (i = 0; i < n; i++)
	{
		EngParameterInfo info;
		float	   *value;

		eng_clip_parameter_info(c->clip, i, &info);
		value = eng_trace_weights(c->trace, info.name, info.count);
		if (value == NULL)
			return false;
		eng_clip_parameter_write(c->clip, i, value);
	}
	return true;
}

/* A picture that lies in the case under the name that its config says. */
static bool
read_tensor(ClipCase *c, const char *name, EngImage *image)
{
	const char *bare = strncmp(name, "in.", 3) == 0 ? name + 3 : name;
	const EngFileTensor *tensor = eng_trace_tensor(c->trace, "%s", bare);

	image->pixels = eng_trace_bytes(c->trace, "%s", bare);
	if (image->pixels == NULL || tensor->rank != 3 || tensor->shape[2] != 3 ||
		tensor->shape[0] < 1 || tensor->shape[1] < 1)
		return eng_fail(eng_trace_status(c->trace), ENG_BAD_FILE,
						"\"%s\" is no picture", name);
	image->height = (int32_t) tensor->shape[0];
	image->width = (int32_t) tensor->shape[1];
	image->channels = 3;
	return true;
}

static bool
take_picture(ClipCase *c, int32_t i, const json_t *entry, const char *folder)
{
	EngStatus  *status = eng_trace_status(c->trace);
	const char *frame = json_string_value(json_object_get(entry, "frame"));
	const char *tensor = json_string_value(json_object_get(entry, "tensor"));
	const int64_t shape[4] = {ENG_CLIP_SIDE, ENG_CLIP_SIDE, 3};
	const size_t bytes = (size_t) ENG_CLIP_SIDE * ENG_CLIP_SIDE * 3;
	EngTraceOut out = eng_trace_out(3, shape, "pixels.%d", i);
	EngResizer *resizer;
	EngImage	image;
	EngImage	square = {NULL, ENG_CLIP_SIDE, ENG_CLIP_SIDE, 3};
	int32_t    *wide;
	bool		done;
	size_t		j;

	if (frame == NULL && tensor == NULL)
		return eng_fail(status, ENG_BAD_FILE, "image %d is none", i);
	if (frame != NULL ?
		!eng_trace_read_frame(c->trace, folder, frame, &image) :
		!read_tensor(c, tensor, &image))
		return false;
	square.pixels = eng_trace_alloc(c->trace, bytes);
	wide = eng_trace_alloc(c->trace, bytes * sizeof(int32_t));
	resizer = eng_resizer_create();
	done = square.pixels != NULL && wide != NULL && resizer != NULL &&
		eng_resizer_square(resizer, &square, &image, status);
	eng_resizer_free(resizer);
	if (!done)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	c->squares[i] = square.pixels;
	for (j = 0; j < bytes; j++)
		wide[j] = square.pixels[j];
	return eng_trace_put_ints(c->trace, &out, wide);
}

static bool
take_pictures(ClipCase *c, const char *folder)
{
	const json_t *images = json_object_get(eng_trace_config(c->trace),
										   "images");
	int32_t		i;

	c->pictures = (int32_t) json_array_size(images);
	if (c->pictures < 1 || c->pictures > MOST_PICTURES)
		return eng_fail(eng_trace_status(c->trace), ENG_BAD_FILE,
						"the case has %d images, but 1 to %d can be run",
						c->pictures, MOST_PICTURES);
	for (i = 0; i < c->pictures; i++)
		if (!take_picture(c, i, json_array_get(images, i), folder))
			return false;
	return true;
}

/* ---- outputs ------------------------------------------------------------------ */

/* (rows, columns) under a name. */
static bool
put_matrix(ClipCase *c, const char *name, int32_t rows, int32_t columns,
		   const float *data)
{
	const int64_t shape[4] = {rows, columns};
	EngTraceOut out = eng_trace_out(2, shape, "%s", name);

	return eng_trace_put_floats(c->trace, &out, data);
}

/* Of every entry of a stage the first `tokens` tokens. */
static bool
put_tokens(ClipCase *c, const char *side, const char *name, int32_t tokens)
{
	const int64_t row = sizeof(float);
	EngStage	stage;
	EngTraceOut out;
	float	   *copy;
	int32_t		i;

	if (!eng_trace_wants(c->trace, "%s.%s", side, name))
		return true;
	if (!eng_clip_stage(c->clip, name, &stage))
		return eng_fail(eng_trace_status(c->trace), ENG_UNSUPPORTED,
						"no stage \"%s\"", name);
	if (tokens > stage.h)
		tokens = stage.h;
	out = eng_trace_out(3, (int64_t[4]) {stage.n, tokens, stage.c}, "%s.%s",
						side, name);
	copy = eng_trace_alloc(c->trace, row * stage.n * tokens * stage.c);
	if (copy == NULL)
		return false;
	for (i = 0; i < stage.n; i++)
		memcpy(copy + (int64_t) i * tokens * stage.c,
			   stage.data + (int64_t) i * stage.h * stage.c,
			   row * tokens * stage.c);
	return eng_trace_put_floats(c->trace, &out, copy);
}

static bool
put_stages(ClipCase *c, const char *side, const char *final_norm,
		   int32_t tokens)
{
	static const char *const blocks[] = {"ln_pre", "block1", "block6",
	"block12"};
	size_t		i;

	for (i = 0; i < sizeof(blocks) / sizeof(blocks[0]); i++)
		if (!put_tokens(c, side, blocks[i], tokens))
			return false;
	return put_tokens(c, side, final_norm, tokens);
}

/* The patches' features as torch has them, (n, c, h, w). */
static bool
put_patches(ClipCase *c)
{
	EngStage	stage;
	EngTraceShape shape;
	EngTraceOut out;
	float	   *copy;

	if (!eng_trace_wants(c->trace, "image.patches"))
		return true;
	if (!eng_clip_stage(c->clip, "patches", &stage))
		return eng_fail(eng_trace_status(c->trace), ENG_INTERNAL,
						"no patches");
	shape = (EngTraceShape) {stage.n, stage.c, 7, 7};
	copy = eng_trace_alloc(c->trace,
						   sizeof(float) * stage.n * stage.h * stage.c);
	if (copy == NULL)
		return false;
	eng_trace_to_nchw(copy, stage.data, shape, stage.c);
	out = eng_trace_out(4, (int64_t[4]) {stage.n, stage.c, 7, 7},
						"image.patches");
	return eng_trace_put_floats(c->trace, &out, copy);
}

/* Embeddings as they come, and of length 1. */
static bool
put_embeddings(ClipCase *c, const char *raw, const char *unit, int32_t n,
			   float *embeddings)
{
	return put_matrix(c, raw, n, c->dimensions, embeddings) &&
		eng_clip_unit(embeddings, n, c->dimensions,
					  eng_trace_status(c->trace)) &&
		put_matrix(c, unit, n, c->dimensions, embeddings);
}

static bool
put_cosines(ClipCase *c, const char *name, const float *a, int32_t rows,
			const float *b, int32_t columns)
{
	float	   *out = eng_trace_alloc(c->trace,
									  sizeof(float) * rows * columns);
	int32_t		i;
	int32_t		j;
	int32_t		k;

	if (out == NULL)
		return false;
	for (i = 0; i < rows; i++)
		for (j = 0; j < columns; j++)
		{
			double		sum = 0;

			for (k = 0; k < c->dimensions; k++)
				sum += (double) a[i * c->dimensions + k] *
					b[j * c->dimensions + k];
			out[i * columns + j] = (float) sum;
		}
	return put_matrix(c, name, rows, columns, out);
}

/* ---- running ------------------------------------------------------------------- */

static bool
run_images(ClipCase *c)
{
	size_t		bytes = sizeof(float) * c->pictures * c->dimensions;

	c->image_embeddings = eng_trace_alloc(c->trace, bytes);
	return c->image_embeddings != NULL &&
		eng_clip_images(c->clip, c->squares, c->pictures,
						c->image_embeddings, eng_trace_status(c->trace)) &&
		put_patches(c) &&
		put_stages(c, "image", "ln_post", INT32_MAX) &&
		put_embeddings(c, "image_embedding", "image_normalized", c->pictures,
					   c->image_embeddings);
}

static bool
run_texts(ClipCase *c)
{
	const json_t *stored = json_object_get(eng_trace_config(c->trace),
										   "text_positions_stored");
	const EngFileTensor *tensor = eng_trace_tensor(c->trace, "token_ids");
	int32_t    *ids = eng_trace_ints(c->trace, "token_ids");
	EngClipText texts[MOST_PICTURES];
	int32_t		i;

	if (ids == NULL)
		return false;
	if (tensor->rank != 2 || tensor->shape[0] < 1 ||
		tensor->shape[0] > MOST_PICTURES || tensor->shape[1] < 1 ||
		tensor->shape[1] > eng_clip_config(c->clip)->tokens)
		return eng_fail(eng_trace_status(c->trace), ENG_BAD_FILE,
						"token_ids hold no texts");
	c->texts = (int32_t) tensor->shape[0];
	for (i = 0; i < c->texts; i++)
		texts[i] = (EngClipText) {ids + i * tensor->shape[1],
								  (int32_t) tensor->shape[1]};
	c->text_embeddings = eng_trace_alloc(c->trace, sizeof(float) *
										 c->texts * c->dimensions);
	return c->text_embeddings != NULL &&
		eng_clip_texts(c->clip, texts, c->texts, c->text_embeddings,
					   eng_trace_status(c->trace)) &&
		put_stages(c, "text", "ln_final",
				   json_is_integer(stored) ?
				   (int32_t) json_integer_value(stored) : INT32_MAX) &&
		put_embeddings(c, "text_embedding", "text_normalized", c->texts,
					   c->text_embeddings);
}

static bool
run(ClipCase *c, const EngTraceOptions *options)
{
	if (!eng_clip_set_precision(c->clip, options->precision,
								eng_trace_status(c->trace)))
		return false;
	eng_clip_keep_all(c->clip, true);
	return set_weights(c) && take_pictures(c, options->frames) &&
		run_images(c) && run_texts(c) &&
		put_cosines(c, "cosine", c->image_embeddings, c->pictures,
					c->text_embeddings, c->texts) &&
		put_cosines(c, "image_cosine", c->image_embeddings, c->pictures,
					c->image_embeddings, c->pictures);
}

bool
eng_trace_clip(EngTraceCase *trace, const EngTraceOptions *options)
{
	const json_t *quick = json_object_get(eng_trace_config(trace),
										  "quick_gelu");
	EngClipConfig config;
	ClipCase	c = {.trace = trace};
	bool		done;

	eng_clip_config_default(&config);
	config.quick_gelu = json_is_true(quick);
	c.dimensions = config.dimensions;
	c.clip = eng_clip_create(&config, options->backend, options->threads,
							 eng_trace_status(trace));
	if (c.clip == NULL)
		return false;
	done = run(&c, options);
	eng_clip_free(c.clip);
	return done;
}
