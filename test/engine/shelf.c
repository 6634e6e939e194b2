/*
 * test/engine/shelf.c
 *		Networks that stay loaded under names, within one memory limit.
 */
#include "session_server.h"

/* The limit is in MiB. */
static const char *
load_named(const char *name, int limit)
{
	static char json[300];

	snprintf(json, sizeof(json),
			 "{\"architecture\":\"small\",\"mode\":\"infer\",\"init\":true,"
			 "\"weights\":\"%s\",\"memory_limit\":%d}", name, limit << 20);
	return json;
}

static const char *
detect_named(const char *name, size_t first, size_t second)
{
	static char json[300];

	snprintf(json, sizeof(json),
			 "{\"weights\":\"%s\",\"min_score\":0.5,\"frames\":["
			 "{\"frame_id\":71,\"bytes\":%zu},{\"frame_id\":72,\"bytes\":%zu}]}",
			 name, first, second);
	return json;
}

/* The code of the answer, "ok" for OK. */
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

static const char *
detect_code(Server *server, const char *name)
{
	return code_of(server, ENG_KIND_DETECT,
				   detect_named(name, jpeg_bytes[0], jpeg_bytes[1]), &jpegs);
}

static void
test_names(void)
{
	Server		server;
	char		name[80];

	server_start(&server);
	tap_ok(strcmp(detect_code(&server, "a"), "not_loaded") == 0,
		   "a name that was not loaded");
	tap_ok(strcmp(code_of(&server, ENG_KIND_LOAD, load_named("a", 0), NULL),
				  "ok") == 0, "LOAD under a name");
	tap_ok(strcmp(code_of(&server, ENG_KIND_LOAD, load_named("b", 0), NULL),
				  "ok") == 0, "and another");
	tap_ok(load_ok(&server) && step_ok(&server, 1),
		   "and one without a name, to train");
	tap_ok(strcmp(detect_code(&server, "a"), "ok") == 0 &&
		   strcmp(detect_code(&server, "b"), "ok") == 0 && step_ok(&server, 2),
		   "stay loaded beside each other");
	tap_ok(fake_detectors == 3, "three detectors");
	code_of(&server, ENG_KIND_LOAD, load_named("a", 0), NULL);
	tap_ok(fake_detectors == 3, "what is loaded is not loaded again");
	tap_ok(strcmp(code_of(&server, ENG_KIND_LOAD, load_named("", 0), NULL),
				  "bad_argument") == 0, "an empty name is refused");
	memset(name, 'x', 65);
	name[65] = '\0';
	tap_ok(strcmp(code_of(&server, ENG_KIND_LOAD, load_named(name, 0), NULL),
				  "bad_argument") == 0, "and one that is too long");
	tap_ok(strcmp(code_of(&server, ENG_KIND_LOAD,
						  "{\"architecture\":\"small\",\"mode\":\"train\",\"init\":true,\"weights\":\"t\"}",
						  NULL), "bad_argument") == 0,
		   "a detector to train has no name");
	server_join(&server);
	tap_ok(fake_detectors == 0, "all freed");
}

static bool
is_detection(const uint8_t *at)
{
	int32_t		label;
	float		numbers[5];

	memcpy(&label, at, 4);
	memcpy(numbers, at + 4, 20);
	return label == 3 && numbers[0] == 0.625f && numbers[1] == 0 &&
		numbers[3] == 7.25f && numbers[4] == 7.25f;
}

/* A frame that the detector does not take, before one that it does. */
static void
test_vanishing(Server *server)
{
	EngBuffer	blob = {0};
	EngStatus	status = {0};
	size_t		bytes = append_jpeg(&blob, 320, 1, 1, NULL, 0);
	json_t	   *frames;
	Reply		reply;

	eng_buffer_append(&blob, jpegs.data, jpeg_bytes[0], &status);
	reply = client_call(server->fd, ENG_KIND_DETECT,
						detect_named("a", bytes, jpeg_bytes[0]), &blob);
	frames = json_object_get(reply.json, "frames");
	tap_ok(reply.kind == ENG_KIND_OK && json_array_size(frames) == 2 &&
		   strstr(json_string_value(json_object_get(json_array_get(frames, 0),
													"message")),
				  "vanishes") != NULL &&
		   json_integer_value(json_object_get(json_array_get(frames, 1),
											  "count")) == 1,
		   "a frame that vanishes fails alone");
	reply_free(&reply);
	eng_buffer_free(&blob);
}

static void
test_answers(void)
{
	Server		server;
	EngBuffer	cut = {0};
	EngStatus	status = {0};
	json_t	   *frames;
	Reply		reply;

	server_start(&server);
	code_of(&server, ENG_KIND_LOAD, load_named("a", 0), NULL);
	reply = client_call(server.fd, ENG_KIND_DETECT,
						detect_named("a", jpeg_bytes[0], jpeg_bytes[1]),
						&jpegs);
	frames = json_object_get(reply.json, "frames");
	tap_ok(json_array_size(frames) == 2 &&
		   json_integer_value(json_object_get(json_array_get(frames, 1),
											  "count")) == 1 &&
		   reply.blob.size == 2 * ENG_PROTOCOL_DETECTION &&
		   is_detection(reply.blob.data) &&
		   is_detection(reply.blob.data + ENG_PROTOCOL_DETECTION),
		   "detections are in the blob");
	reply_free(&reply);

	/* the first picture loses its end, the second is whole */
	eng_buffer_append(&cut, jpegs.data, jpeg_bytes[0] - 300, &status);
	eng_buffer_append(&cut, jpegs.data + jpeg_bytes[0], jpeg_bytes[1],
					  &status);
	reply = client_call(server.fd, ENG_KIND_DETECT,
						detect_named("a", jpeg_bytes[0] - 300, jpeg_bytes[1]),
						&cut);
	frames = json_object_get(reply.json, "frames");
	tap_ok(reply.kind == ENG_KIND_OK && json_array_size(frames) == 2 &&
		   strcmp(json_string_value(json_object_get(json_array_get(frames, 0),
													"code")), "bad_file") == 0 &&
		   json_integer_value(json_object_get(json_array_get(frames, 1),
											  "count")) == 1 &&
		   reply.blob.size == ENG_PROTOCOL_DETECTION,
		   "a picture that is cut fails alone");
	reply_free(&reply);
	test_vanishing(&server);
	load_ok(&server);
	tap_ok(strcmp(code_of(&server, ENG_KIND_DETECT,
						  detect_named("a", jpeg_bytes[0] - 300, 0), &cut),
				  "bad_argument") == 0, "lengths are checked as ever");
	eng_buffer_free(&cut);
	server_join(&server);
}

static void
test_limit(void)
{
	Server		server;
	char		name[2] = "a";

	server_start(&server);
	tap_ok(strcmp(code_of(&server, ENG_KIND_LOAD, load_named("a", 3), NULL),
				  "no_memory") == 0 && fake_detectors == 0,
		   "weights above the limit are refused");
	code_of(&server, ENG_KIND_LOAD, load_named("a", 10), NULL);
	code_of(&server, ENG_KIND_LOAD, load_named("b", 10), NULL);
	tap_ok(fake_detectors == 2, "two fit");
	detect_code(&server, "a");
	code_of(&server, ENG_KIND_LOAD, load_named("c", 10), NULL);
	tap_ok(fake_detectors == 2 &&
		   strcmp(detect_code(&server, "b"), "not_loaded") == 0 &&
		   strcmp(detect_code(&server, "a"), "ok") == 0,
		   "a third takes the place of the one used longest ago");
	fake_needs = 5;
	tap_ok(strcmp(detect_code(&server, "a"), "ok") == 0 &&
		   fake_detectors == 1, "inference takes what it needs of the others");
	fake_needs = 7;
	tap_ok(strcmp(detect_code(&server, "a"), "no_memory") == 0 &&
		   fake_detectors == 1, "but not more than there is");
	fake_needs = 0;
	tap_ok(strcmp(detect_code(&server, "a"), "ok") == 0, "and goes on");
	for (; name[0] <= 'z'; name[0]++)
		code_of(&server, ENG_KIND_LOAD, load_named(name, 0), NULL);
	tap_ok(fake_detectors == 8, "eight at most");
	server_join(&server);
	tap_ok(fake_detectors == 0, "all freed");
}

/* Weights that no message holds are refused, and the session goes on. */
static void
test_vast_weights(void)
{
	Server		server;

	server_start(&server);
	load_ok(&server);
	fake_weights = ENG_PROTOCOL_MAX_BLOB + 1;
	tap_ok(strcmp(code_of(&server, ENG_KIND_SAVE, "{}", NULL),
				  "unsupported") == 0, "weights over 4 GB are not saved");
	fake_weights = (size_t) 4 << 20;
	tap_ok(strcmp(code_of(&server, ENG_KIND_SAVE, "{}", NULL), "ok") == 0,
		   "others are");
	server_join(&server);
}

/* Two pictures without a name, within a limit in bytes. */
static Reply
detect_within(Server *server, int limit)
{
	char		json[200];

	snprintf(json, sizeof(json), "{\"architecture\":\"small\",\"mode\":\"infer\","
			 "\"init\":true,\"memory_limit\":%d}", limit);
	code_of(server, ENG_KIND_LOAD, json, NULL);
	snprintf(json, sizeof(json), "{\"frames\":["
			 "{\"frame_id\":71,\"bytes\":%zu},{\"frame_id\":72,\"bytes\":%zu}]}",
			 jpeg_bytes[0], jpeg_bytes[1]);
	return client_call(server->fd, ENG_KIND_DETECT, json, &jpegs);
}

/* What the feed decodes ahead counts, and is refused before it is made. */
static void
test_pictures(void)
{
	int			all = ENG_PROTOCOL_AHEAD * 3 * (64 * 48 + 80 * 56);
	Server		server;
	Reply		reply;

	server_start(&server);
	reply = detect_within(&server, 0);
	tap_ok(reply.kind == ENG_KIND_OK && fake_pictures == (size_t) all,
		   "pictures of all messages that are held count: %zu",
		   fake_pictures);
	reply_free(&reply);
	fake_pictures = 0;
	code_of(&server, ENG_KIND_LOAD, load_named("a", 9), NULL);
	tap_ok(strcmp(detect_code(&server, "a"), "ok") == 0 &&
		   fake_pictures == (size_t) all, "for named weights too");
	reply = detect_within(&server, all);
	tap_ok(strcmp(reply_text(&reply, "message"), "batch of 2 needs more") == 0,
		   "pictures within the limit reach the detector");
	reply_free(&reply);
	reply = detect_within(&server, all - 1);
	tap_ok(reply.kind == ENG_KIND_ERROR &&
		   strcmp(reply_text(&reply, "code"), "no_memory") == 0 &&
		   json_integer_value(json_object_get(reply.json, "frame_id")) == 72,
		   "more than the limit is not decoded: %s",
		   reply_text(&reply, "message"));
	reply_free(&reply);
	server_join(&server);
}

int
main(void)
{
	make_pictures();
	test_names();
	test_answers();
	test_limit();
	test_pictures();
	test_vast_weights();
	eng_buffer_free(&jpegs);
	return tap_done();
}
