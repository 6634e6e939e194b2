/*
 * test/engine/clip_session.c
 *		Embeddings over the protocol, CLIP beside a detector on the shelf.
 *
 * The session is the real one; its CLIP is small, because this file is what
 * says how large it is.
 */
#include "engine/io/json.h"
#include "engine/nets/clip.h"
#include "image/resize.h"
#include "session_thread.h"

#define DIMENSIONS	48

/* ---- what there is for clip_config.c ------------------------------------------ */

void
eng_clip_config_default(EngClipConfig *config)
{
	*config = (EngClipConfig) {
		.quick_gelu = true, .side = ENG_CLIP_SIDE, .patch = 32,
		.tokens = 77, .vocabulary = 49408, .dimensions = DIMENSIONS,
		.image = {.width = 64, .layers = 2, .heads = 2},
		.text = {.width = 32, .layers = 2, .heads = 2}
	};
}

bool
eng_clip_config_parse(EngClipConfig *config, const char *options,
					  EngStatus *status)
{
	eng_clip_config_default(config);
	if (options != NULL && strstr(options, "vocabulary") != NULL)
		return eng_fail(status, ENG_BAD_ARGUMENT, "unknown option");
	config->quick_gelu = options == NULL || strstr(options, "false") == NULL;
	return true;
}

bool
eng_clip_config_check(const EngClipConfig *config, EngStatus *status)
{
	return true;
}

bool
eng_clip_is_architecture(const char *name)
{
	return strcmp(name, ENG_CLIP_ARCHITECTURE) == 0;
}

/* ---- the session ----------------------------------------------------------------- */

/* The code of an answer, "ok" for OK. */
static const char *
code_of(Server *server, int kind, const char *json, const EngBuffer *blob)
{
	static char code[40];
	Reply		reply = client_call(server->fd, kind, json, blob);

	snprintf(code, sizeof(code), "%s", reply.kind == ENG_KIND_OK ? "ok" :
			 reply_text(&reply, "code"));
	if (reply.kind == ENG_KIND_ERROR)
		tap_note("%s", reply_text(&reply, "message"));
	reply_free(&reply);
	return code;
}

static void
check_code(Server *server, int kind, const char *json, const EngBuffer *blob,
		   const char *code, const char *what)
{
	const char *got = code_of(server, kind, json, blob);

	tap_ok(strcmp(got, code) == 0, "%s: %s", what, got);
}

static const char *
load_named(const char *architecture, const char *name, size_t limit)
{
	static char json[400];

	snprintf(json, sizeof(json),
			 "{\"architecture\":\"%s\",\"init\":true,\"seed\":9,\"threads\":2,"
			 "\"weights\":\"%s\",\"memory_limit\":%zu}", architecture, name,
			 limit);
	return json;
}

/* ---- pictures ----------------------------------------------------------------------- */

static EngBuffer jpegs;
static size_t jpeg_bytes[3];

static void
make_pictures(void)
{
	jpeg_bytes[0] = append_jpeg(&jpegs, 320, 240, 1, NULL, 0);
	jpeg_bytes[1] = append_jpeg(&jpegs, 100, 301, 2, NULL, 0);
	jpeg_bytes[2] = append_jpeg(&jpegs, 224, 224, 3, NULL, 0);
}

static const char *
images_json(const char *name, const size_t bytes[3])
{
	static char json[400];

	snprintf(json, sizeof(json),
			 "{%s%s%s\"frames\":[{\"frame_id\":71,\"bytes\":%zu},"
			 "{\"frame_id\":72,\"bytes\":%zu},{\"frame_id\":73,\"bytes\":%zu}]}",
			 name != NULL ? "\"weights\":\"" : "", name != NULL ? name : "",
			 name != NULL ? "\"," : "", bytes[0], bytes[1], bytes[2]);
	return json;
}

/* What the engine should answer, made without it. */
static void
expect_images(float *out, const EngBuffer *weights)
{
	EngStatus	status = {0};
	EngClipConfig config;
	EngClip    *clip;
	EngTensorFile *file = eng_tensor_file_open(weights->data, weights->size,
											   &status);
	EngJpegDecoder *decoder = eng_jpeg_decoder_create(&status);
	EngResizer *resizer = eng_resizer_create();
	uint8_t    *squares[3];
	size_t		at = 0;
	int32_t		unused;
	int			i;

	eng_clip_config_default(&config);
	clip = eng_clip_create(&config, "cpu", 2, &status);
	eng_clip_load(clip, file, &unused, &status);
	for (i = 0; i < 3; i++)
	{
		EngImage	image = {.channels = 3};
		EngImage	square = {NULL, ENG_CLIP_SIDE, ENG_CLIP_SIDE, 3};

		squares[i] = square.pixels = malloc(eng_image_bytes(&square));
		eng_jpeg_decode_alloc(decoder, &image, jpegs.data + at,
							  jpeg_bytes[i], 1, &status);
		eng_resizer_square(resizer, &square, &image, &status);
		at += jpeg_bytes[i];
	}
	eng_clip_images(clip, (const uint8_t *const *) squares, 3, out, &status);
	eng_clip_unit(out, 3, DIMENSIONS, &status);
	if (status.code != ENG_OK)
		tap_note("%s", status.message);
	for (i = 0; i < 3; i++)
		free(squares[i]);
	eng_resizer_free(resizer);
	eng_jpeg_decoder_free(decoder);
	eng_tensor_file_free(file);
	eng_clip_free(clip);
}

static void
test_images(Server *server)
{
	Reply		reply;
	Reply		saved;
	float		want[3 * DIMENSIONS];

	check_code(server, ENG_KIND_EMBED_IMAGES, images_json("a", jpeg_bytes),
			   &jpegs, "not_loaded", "a name that was not loaded");
	check_code(server, ENG_KIND_EMBED_IMAGES, images_json(NULL, jpeg_bytes),
			   &jpegs, "bad_argument", "nothing loaded");
	check_code(server, ENG_KIND_LOAD, load_named("clip_vit_b32", "a", 0),
			   NULL, "ok", "LOAD under a name");
	reply = client_call(server->fd, ENG_KIND_LOAD,
						"{\"architecture\":\"clip_vit_b32\",\"init\":true,"
						"\"seed\":9,\"threads\":2}", NULL);
	tap_ok(reply.kind == ENG_KIND_OK && reply_number(&reply, "parameters") > 1e6 &&
		   strcmp(reply_text(&reply, "precision"), "f32") == 0,
		   "LOAD without one");
	reply_free(&reply);
	saved = client_call(server->fd, ENG_KIND_SAVE, "{}", NULL);
	tap_ok(saved.kind == ENG_KIND_OK &&
		   reply_number(&saved, "tensors") == 14 + 12 * 4, "SAVE");
	reply = client_call(server->fd, ENG_KIND_EMBED_IMAGES,
						images_json("a", jpeg_bytes), &jpegs);
	expect_images(want, &saved.blob);
	tap_ok(reply.kind == ENG_KIND_OK &&
		   reply_number(&reply, "dimensions") == DIMENSIONS &&
		   reply.blob.size == sizeof(want) &&
		   memcmp(reply.blob.data, want, sizeof(want)) == 0,
		   "three pictures: the bits of the same network elsewhere");
	reply_free(&reply);
	reply = client_call(server->fd, ENG_KIND_EMBED_IMAGES,
						images_json(NULL, jpeg_bytes), &jpegs);
	tap_ok(reply.kind == ENG_KIND_OK &&
		   memcmp(reply.blob.data, want, sizeof(want)) == 0,
		   "and without a name");
	reply_free(&reply);
	reply_free(&saved);
}

/* The second picture loses its end. */
static void
test_cut_picture(Server *server)
{
	size_t		bytes[3] = {jpeg_bytes[0], jpeg_bytes[1] - 300,
	jpeg_bytes[2]};
	EngBuffer	cut = {0};
	EngStatus	status = {0};
	json_t	   *frames;
	Reply		reply;

	eng_buffer_append(&cut, jpegs.data, jpeg_bytes[0] + bytes[1], &status);
	eng_buffer_append(&cut, jpegs.data + jpeg_bytes[0] + jpeg_bytes[1],
					  jpeg_bytes[2], &status);
	reply = client_call(server->fd, ENG_KIND_EMBED_IMAGES,
						images_json("a", bytes), &cut);
	frames = json_object_get(reply.json, "frames");
	tap_ok(reply.kind == ENG_KIND_OK && json_array_size(frames) == 3 &&
		   strcmp(json_string_value(json_object_get(json_array_get(frames, 1),
													"code")), "bad_file") == 0 &&
		   json_integer_value(json_object_get(json_array_get(frames, 2),
											  "count")) == 1 &&
		   reply.blob.size == 2 * DIMENSIONS * sizeof(float),
		   "a picture that is cut fails alone");
	reply_free(&reply);
	reply = client_call(server->fd, ENG_KIND_EMBED_IMAGES,
						images_json(NULL, bytes), &cut);
	tap_ok(reply.kind == ENG_KIND_ERROR &&
		   reply_number(&reply, "frame_id") == 72,
		   "without a name it fails the message, which names it");
	reply_free(&reply);
	eng_buffer_free(&cut);
}

/* ---- texts ------------------------------------------------------------------------------ */

static void
append_ids(EngBuffer *blob, const int32_t *ids, int count)
{
	EngStatus	status = {0};

	eng_buffer_append(blob, ids, sizeof(int32_t) * (size_t) count, &status);
}

static void
test_texts(Server *server)
{
	static const int32_t cat[] = {49406, 320, 1125, 539, 320, 2368, 49407, 0, 0};
	static const int32_t empty[] = {49406, 49407};
	static const int32_t wrong[] = {49406, 49408, -1};
	EngBuffer	blob = {0};
	EngBuffer	bad = {0};
	Reply		reply;
	double		squares = 0;
	float		x[3][DIMENSIONS];
	int			i;

	append_ids(&blob, cat, 7);
	append_ids(&blob, empty, 2);
	append_ids(&blob, cat, 9);
	reply = client_call(server->fd, ENG_KIND_EMBED_TEXTS,
						"{\"weights\":\"a\",\"lengths\":[7,2,9]}", &blob);
	tap_ok(reply.kind == ENG_KIND_OK && reply.blob.size == sizeof(x) &&
		   reply_number(&reply, "texts") == 3 &&
		   reply_number(&reply, "dimensions") == DIMENSIONS, "three texts");
	memcpy(x, reply.blob.data, sizeof(x));
	reply_free(&reply);
	for (i = 0; i < DIMENSIONS; i++)
		squares += (double) x[0][i] * x[0][i];
	tap_ok(fabs(squares - 1) < 1e-6 && memcmp(x[0], x[1], sizeof(x[0])) != 0,
		   "of length 1, different for different texts");
	for (i = 0, squares = 0; i < DIMENSIONS; i++)
		squares = fmax(squares, fabs((double) x[0][i] - x[2][i]));
	tap_ok(squares < 1e-6, "padding changes nothing: %.1e", squares);
	check_code(server, ENG_KIND_EMBED_TEXTS, "{\"weights\":\"a\",\"lengths\":[7,2]}",
			   &blob, "bad_argument", "lengths that do not add up");
	check_code(server, ENG_KIND_EMBED_TEXTS, "{\"weights\":\"a\",\"lengths\":[]}",
			   NULL, "bad_argument", "no text");
	check_code(server, ENG_KIND_EMBED_TEXTS, "{\"weights\":\"a\",\"lengths\":[0,18]}",
			   &blob, "bad_argument", "a text without tokens");
	check_code(server, ENG_KIND_EMBED_TEXTS, "{\"weights\":\"a\",\"lengths\":[78]}",
			   &blob, "bad_argument", "a text that is too long");
	check_code(server, ENG_KIND_EMBED_TEXTS, "{\"weights\":\"a\",\"lengths\":[1.5]}",
			   &blob, "bad_argument", "a length that is no whole number");
	check_code(server, ENG_KIND_EMBED_TEXTS, "{\"lengths\":[18],\"x\":1}",
			   &blob, "bad_argument", "a field that is not known");
	append_ids(&bad, wrong, 2);
	check_code(server, ENG_KIND_EMBED_TEXTS, "{\"weights\":\"a\",\"lengths\":[2]}",
			   &bad, "bad_argument", "a token above the vocabulary");
	eng_buffer_free(&bad);
	append_ids(&bad, wrong + 2, 1);
	check_code(server, ENG_KIND_EMBED_TEXTS, "{\"weights\":\"a\",\"lengths\":[1]}",
			   &bad, "bad_argument", "a negative token");
	eng_buffer_free(&bad);
	eng_buffer_free(&blob);
}

/* ---- both kinds ---------------------------------------------------------------------------- */

static void
test_kinds(Server *server)
{
	size_t		all[3] = {jpegs.size, 0, 0};
	char		json[200];

	check_code(server, ENG_KIND_LOAD, load_named("small", "d", 0), NULL, "ok",
			   "a detector beside CLIP");
	check_code(server, ENG_KIND_EMBED_IMAGES, images_json("d", jpeg_bytes),
			   &jpegs, "bad_argument", "a detector embeds nothing");
	snprintf(json, sizeof(json),
			 "{\"weights\":\"a\",\"frames\":[{\"frame_id\":1,\"bytes\":%zu}]}",
			 all[0]);
	check_code(server, ENG_KIND_DETECT, json, &jpegs, "bad_argument",
			   "CLIP detects nothing");
	snprintf(json, sizeof(json),
			 "{\"frames\":[{\"frame_id\":1,\"bytes\":%zu}]}", all[0]);
	check_code(server, ENG_KIND_DETECT, json, &jpegs, "bad_argument",
			   "nor without a name");
	check_code(server, ENG_KIND_SAVE, "{\"with_optimizer\":true}", NULL,
			   "bad_argument", "CLIP has no optimizer");
	check_code(server, ENG_KIND_LOAD,
			   "{\"architecture\":\"clip_vit_b32\",\"init\":true,\"mode\":\"train\"}",
			   NULL, "bad_argument", "CLIP is not trained");
	check_code(server, ENG_KIND_LOAD,
			   "{\"architecture\":\"clip_vit_b32\",\"init\":true,\"num_classes\":5}",
			   NULL, "bad_argument", "CLIP has no classes");
	check_code(server, ENG_KIND_LOAD,
			   "{\"architecture\":\"clip_vit_b32\",\"init\":true,"
			   "\"options\":{\"vocabulary\":\"x\"}}",
			   NULL, "bad_argument", "an option that the engine has not");
	check_code(server, ENG_KIND_LOAD, "{\"architecture\":\"clip_vit_b32\"}",
			   &jpegs, "bad_file", "a JPEG for weights");
	check_code(server, ENG_KIND_EMBED_IMAGES, images_json("a", jpeg_bytes),
			   &jpegs, "ok", "what has a name is still there");
}

/* CLIP and a detector in turn, in memory for one of them. */
static void
test_limit(Server *server)
{
	Reply		reply = client_call(server->fd, ENG_KIND_LOAD,
									load_named("clip_vit_b32", "m", 0), NULL);
	size_t		bytes = (size_t)
		json_integer_value(json_object_get(json_object_get(reply.json,
														   "arena_bytes"),
										   "parameters"));

	reply_free(&reply);
	check_code(server, ENG_KIND_LOAD,
			   load_named("clip_vit_b32", "n", bytes / 2), NULL, "no_memory",
			   "weights above the limit");
	check_code(server, ENG_KIND_LOAD,
			   load_named("clip_vit_b32", "n", bytes + bytes / 2), NULL, "ok",
			   "a limit for one");
	check_code(server, ENG_KIND_EMBED_IMAGES, images_json("a", jpeg_bytes),
			   &jpegs, "not_loaded", "the others went");
	check_code(server, ENG_KIND_EMBED_IMAGES, images_json("n", jpeg_bytes),
			   &jpegs, "ok", "the one that is left works");
	check_code(server, ENG_KIND_LOAD, load_named("clip_vit_b32", "n", 0),
			   NULL, "ok", "what is loaded is not loaded again");
}

/* Any lengths and bytes: an answer, and the session goes on. */
static void
test_noise(Server *server)
{
	int			answered = 0;
	int			round;

	for (round = 0; round < 200; round++)
	{
		char		json[400];
		EngBuffer	blob = {0};
		EngStatus	status = {0};
		uint32_t	draw[8];
		uint8_t		bytes[400];
		Reply		reply;
		int			i;

		for (i = 0; i < 8; i++)
			draw[i] = eng_random_below(eng_random_u64(3, round, i,
													  ENG_USE_TEST, 0), 90);
		for (i = 0; i < 400; i++)
			bytes[i] = (uint8_t) (i % 4 < 2 ? eng_random_u64(4, round, i,
															 ENG_USE_TEST, 0) :
								  0);
		eng_buffer_append(&blob, bytes, 4 * draw[0] + round % 2, &status);
		if (round % 3 != 0)
			snprintf(json, sizeof(json),
					 "{\"weights\":\"n\",\"lengths\":[%u,%d,%u]}", draw[1] / 4,
					 (int) draw[0] - (int) (draw[1] / 4) - (int) (draw[2] / 9),
					 draw[2] / 9);
		else
			snprintf(json, sizeof(json),
					 "{\"weights\":\"n\",\"frames\":[{\"frame_id\":1,\"bytes\":%u},"
					 "{\"frame_id\":2,\"bytes\":%d}]}", 4 * draw[3],
					 (int) blob.size - (int) (4 * draw[3]));
		reply = client_call(server->fd, round % 3 != 0 ?
							ENG_KIND_EMBED_TEXTS : ENG_KIND_EMBED_IMAGES,
							json, &blob);
		answered += reply.kind == ENG_KIND_OK || reply.kind == ENG_KIND_ERROR;
		reply_free(&reply);
		eng_buffer_free(&blob);
	}
	tap_ok(answered == 200, "200 requests of any lengths are answered: %d",
		   answered);
}

int
main(void)
{
	Server		server;

	make_pictures();
	server_open(&server, NULL);
	test_images(&server);
	test_cut_picture(&server);
	test_texts(&server);
	test_kinds(&server);
	test_limit(&server);
	test_noise(&server);
	server_stop(&server);
	eng_buffer_free(&jpegs);
	return tap_done();
}
