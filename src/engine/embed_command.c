/*
 * engine/embed_command.c
 *		Embeddings of JPEG files, as JSON lines.
 */
#include "engine/choice.h"
#include "engine/commands.h"
#include "engine/io/file.h"
#include "engine/io/json.h"
#include "engine/io/pth.h"
#include "engine/nets/clip.h"
#include "image/jpeg.h"
#include "image/resize.h"

#include <stdlib.h>

#define MAX_WEIGHTS		((size_t) 64 << 30)
#define MAX_JPEG		((size_t) 256 << 20)

const char	eng_embed_help[] =
"usage: avcurate-engine embed WEIGHTS JPEG... [OPTIONS]\n"
"\n"
"Print one line of JSON a picture: file, and CLIP's embedding of length 1.\n"
"WEIGHTS are CLIP ViT-B/32's, safetensors or PyTorch's, under the names of\n"
"OpenAI and open_clip or of Hugging Face.\n"
"  --options JSON   {\"quick_gelu\": false} where the file's metadata do not say\n"
"                   that it was trained with the exact GELU\n"
ENG_CHOICE_MACHINE_HELP;

/* What stays the same from picture to picture. */
typedef struct Embedding
{
	EngClip    *clip;
	EngJpegDecoder *decoder;
	EngResizer *resizer;
	uint8_t    *square;
	float	   *values;
	FILE	   *out;
} Embedding;

/*
 * A network with what is in the bytes of a file.
 */
static EngClip *
load(const EngChoice *choice, EngBuffer *bytes, EngStatus *status)
{
	EngBuffer	converted = {0};
	EngTensorFile *file = NULL;
	EngClipConfig config;
	EngClip    *clip = NULL;
	const char *options = choice->options;
	int32_t		unused;

	if (!eng_pth_recognise(bytes->data, bytes->size))
		file = eng_tensor_file_open(bytes->data, bytes->size, status);
	else if (eng_pth_convert(bytes->data, bytes->size, &converted, status))
		file = eng_tensor_file_open(converted.data, converted.size, status);
	if (file != NULL && options == NULL)
		options = eng_tensor_file_metadata(file, "options");
	if (file != NULL && eng_clip_config_parse(&config, options, status))
		clip = eng_clip_create(&config, choice->device,
							   (int) choice->threads, status);
	if (clip != NULL &&
		(!eng_clip_set_precision(clip, choice->type, status) ||
		 !eng_clip_load(clip, file, &unused, status)))
	{
		eng_clip_free(clip);
		clip = NULL;
	}
	eng_tensor_file_free(file);
	eng_buffer_free(&converted);
	return clip;
}

static bool
print_line(const Embedding *e, const char *path, EngStatus *status)
{
	int32_t		count = eng_clip_config(e->clip)->dimensions;
	json_t	   *values = json_array();
	json_t	   *line;
	bool		fine;
	int32_t		i;

	for (i = 0; i < count; i++)
		json_array_append_new(values, eng_json_real(e->values[i]));
	line = json_pack("{s:o, s:o}", "file", eng_json_text(path), "embedding",
					 values);
	fine = line != NULL &&
		json_dumpf(line, e->out, JSON_COMPACT | JSON_REAL_PRECISION(9)) == 0;
	json_decref(line);
	fputc('\n', e->out);
	if (!fine)
		return eng_fail(status, ENG_IO, "could not print a line");
	return true;
}

static bool
embed_picture(const Embedding *e, const char *path, const EngBuffer *bytes,
			  EngStatus *status)
{
	const EngClipConfig *config = eng_clip_config(e->clip);
	const uint8_t *pictures[1] = {e->square};
	EngStatus	failure = {0};
	EngImage	image = {.channels = 3};
	EngImage	square = {e->square, config->side, config->side, 3};

	if (!eng_jpeg_decode_alloc(e->decoder, &image, bytes->data, bytes->size,
							   1, &failure) ||
		!eng_resizer_square(e->resizer, &square, &image, &failure))
		return eng_fail(status, failure.code, "\"%.200s\": %.250s", path,
						failure.message);
	return eng_clip_images(e->clip, pictures, 1, e->values, status) &&
		eng_clip_unit(e->values, 1, config->dimensions, status) &&
		print_line(e, path, status);
}

static bool
embed_file(const Embedding *e, const char *path, EngStatus *status)
{
	EngBuffer	bytes = {0};
	bool		fine;

	fine = eng_file_read(path, MAX_JPEG, &bytes, status) &&
		embed_picture(e, path, &bytes, status);
	eng_buffer_free(&bytes);
	return fine;
}

/* Room and tools for one picture at a time. */
static bool
prepare(Embedding *e, EngStatus *status)
{
	const EngClipConfig *config = eng_clip_config(e->clip);

	e->decoder = eng_jpeg_decoder_create(status);
	if (e->decoder == NULL)
		return false;
	e->resizer = eng_resizer_create();
	e->square = malloc((size_t) config->side * config->side * 3);
	e->values = malloc(sizeof(float) * config->dimensions);
	if (e->resizer == NULL || e->square == NULL || e->values == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	return true;
}

bool
eng_embed_run(int argc, char **argv, FILE *out, EngStatus *status)
{
	EngOption	options[] = {{"options"}, ENG_CHOICE_MACHINE, {NULL}};
	EngChoice	choice = {0};
	Embedding	e = {.out = out};
	EngBuffer	weights = {0};
	EngArguments arguments;
	bool		fine;
	int			i;

	if (!eng_arguments_read(&arguments, argc, argv, options, 2, INT32_MAX,
							status) ||
		!eng_choice_read(&choice, options, status))
		return false;
	if (eng_file_read(arguments.places[0], MAX_WEIGHTS, &weights, status))
		e.clip = load(&choice, &weights, status);
	eng_buffer_free(&weights);
	fine = e.clip != NULL && prepare(&e, status);
	for (i = 1; fine && i < arguments.count; i++)
		fine = embed_file(&e, arguments.places[i], status);
	eng_jpeg_decoder_free(e.decoder);
	eng_resizer_free(e.resizer);
	free(e.square);
	free(e.values);
	eng_clip_free(e.clip);
	return fine;
}
