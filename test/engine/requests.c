/*
 * test/engine/requests.c
 *		What a session refuses in a request, and mutations of every request.
 */
#include <signal.h>

#include "session_server.h"

#define MUTATIONS	4000		/* of each message */

/* One request that must be answered by an error of this code and words. */
static void
check_error(Server *server, int kind, const char *json, const EngBuffer *blob,
			const char *code, const char *words)
{
	Reply		reply = client_call(server->fd, kind, json, blob);

	if (!tap_ok(reply.kind == ENG_KIND_ERROR &&
				strcmp(reply_text(&reply, "code"), code) == 0 &&
				strstr(reply_text(&reply, "message"), words) != NULL &&
				json_object_get(reply.json, "fatal") == NULL,
				"%s: %s", code, words))
		tap_note("kind %d, %s: %s", reply.kind, reply_text(&reply, "code"),
				 reply_text(&reply, "message"));
	reply_free(&reply);
}

/* LOAD with one field replaced. */
static void
check_load(Server *server, const char *json, const char *words)
{
	check_error(server, ENG_KIND_LOAD, json, NULL, "bad_argument", words);
}

static void
test_load_refusals(void)
{
	EngBuffer	blob = {(uint8_t *) "not a file of weights", 21, 21};
	Server		server;

#define A "{\"architecture\":\"small\",\"init\":true,"
	server_start(&server);
	check_error(&server, ENG_KIND_LOAD, "", NULL, "bad_file", "JSON is malformed");
	check_error(&server, ENG_KIND_LOAD, "[]", NULL, "bad_file", "not an object");
	check_error(&server, ENG_KIND_LOAD, "{\"a\":1,\"a\":2}", NULL, "bad_file",
				"duplicate");
	check_load(&server, "{}", "\"architecture\" is missing");
	check_load(&server, "{\"architecture\":1}", "\"architecture\" is not a string");
	check_load(&server, "{\"architecture\":\"big\",\"init\":true}", "unknown architecture");
	check_load(&server, "{\"architecture\":\"small\"}", "no weights");
	check_load(&server, A "\"colour\":1}", "unknown field \"colour\"");
	check_load(&server, A "\"options\":[]}", "\"options\" is not an object");
	check_load(&server, A "\"num_classes\":1}", "\"num_classes\" is 1");
	check_load(&server, A "\"num_classes\":2.5}", "\"num_classes\" is not an integer");
	check_load(&server, A "\"mode\":\"both\"}", "\"mode\" must be");
	check_load(&server, A "\"mode\":true}", "\"mode\" is not a string");
	check_error(&server, ENG_KIND_LOAD, A "\"device\":\"tpu\"}", NULL, "unsupported",
				"device \"tpu\"");
	check_load(&server, A "\"threads\":-1}", "\"threads\" is -1");
	check_load(&server, A "\"threads\":\"2\"}", "\"threads\" is not an integer");
	check_load(&server, A "\"seed\":0.5}", "\"seed\" is not an integer");
	check_load(&server, "{\"architecture\":\"small\",\"init\":1}", "\"init\" is not true");
	check_load(&server, A "\"strict\":\"yes\"}", "\"strict\" is not true");
	check_load(&server, A "\"optimizer\":\"sgd\"}", "\"optimizer\" is not an object");
	check_load(&server, A "\"optimizer\":{\"name\":\"lion\"}}", "\"name\" must be");
	check_load(&server, A "\"optimizer\":{\"nesterov\":true}}", "unknown field");
	check_load(&server, A "\"optimizer\":{\"momentum\":2}}", "\"momentum\" is 2");
	check_load(&server, A "\"optimizer\":{\"betas\":[0.9]}}", "\"betas\" must hold two");
	check_load(&server, A "\"optimizer\":{\"betas\":[0.9,1]}}", "\"betas\" must hold");
	check_load(&server, A "\"optimizer\":{\"betas\":[0.9,null]}}", "\"betas\" must hold");
	check_load(&server, A "\"optimizer\":{\"eps\":null,\"weight_decay\":-1}}",
			   "\"weight_decay\" is -1");
	check_load(&server, A "\"optimizer\":{\"clip_norm\":-1}}", "\"clip_norm\" is -1");
	check_load(&server, A "\"optimizer\":{\"decay_rule\":\"some\"}}", "\"decay_rule\" must be");
	check_load(&server, A "\"trainable_layers\":6}", "\"trainable_layers\" is 6");
	check_load(&server, A "\"freeze_norm\":0}", "\"freeze_norm\" is not true");
	check_load(&server, A "\"hflip\":1.5}", "\"hflip\" is 1.5");
	check_load(&server, A "\"memory_limit\":-1}", "\"memory_limit\" is -1");
	check_error(&server, ENG_KIND_LOAD, "{\"architecture\":\"small\"}", &blob,
				"bad_file", "safetensors");
	check_error(&server, ENG_KIND_STEP, make_step(1), &jpegs, "bad_argument",
				"nothing is loaded");
	check_error(&server, ENG_KIND_SAVE, "{}", NULL, "bad_argument",
				"nothing is loaded");
	tap_ok(load_ok(&server) && step_ok(&server, 1),
		   "after all that the session is usable");
	check_load(&server, "{}", "missing");
	check_error(&server, ENG_KIND_DETECT, detect_json, &jpegs, "bad_argument",
				"nothing is loaded");
	server_join(&server);
#undef A
}

/* A step of one frame, with the text of its fields. */
static void
check_step(Server *server, const char *frame, const char *words)
{
	char		json[1024];
	EngBuffer	blob = {jpegs.data, jpeg_bytes[0], jpeg_bytes[0]};

	snprintf(json, sizeof(json), "{\"step\":1,\"lr\":0,\"frames\":[{%s}]}", frame);
	check_error(server, ENG_KIND_STEP, json, &blob, "bad_argument", words);
}

static void
test_step_refusals(void)
{
	char		frame[256];
	Server		server;
	EngBuffer	blob = {jpegs.data, jpeg_bytes[0], jpeg_bytes[0]};

#define F "\"frame_id\":9,\"position\":0,\"bytes\":1"
	server_start(&server);
	load_ok(&server);
	check_error(&server, ENG_KIND_STEP, "{}", NULL, "bad_argument", "\"step\" is missing");
	check_error(&server, ENG_KIND_STEP, "{\"step\":-1}", NULL, "bad_argument",
				"\"step\" is -1");
	check_error(&server, ENG_KIND_STEP, "{\"step\":1}", NULL, "bad_argument",
				"\"lr\" is missing");
	check_error(&server, ENG_KIND_STEP, "{\"step\":1,\"lr\":\"x\"}", NULL, "bad_argument",
				"\"lr\" is not a number");
	check_error(&server, ENG_KIND_STEP, "{\"step\":1,\"lr\":1}", NULL, "bad_argument",
				"\"frames\" is missing");
	check_error(&server, ENG_KIND_STEP, "{\"step\":1,\"lr\":1,\"frames\":{}}", NULL,
				"bad_argument", "\"frames\" is not an array");
	check_error(&server, ENG_KIND_STEP, "{\"step\":1,\"lr\":1,\"frames\":[]}", NULL,
				"bad_argument", "has 0 frames");
	check_error(&server, ENG_KIND_STEP, "{\"step\":1,\"lr\":1,\"frames\":[1]}", NULL,
				"bad_argument", "a frame is not an object");
	check_error(&server, ENG_KIND_STEP,
				"{\"step\":1,\"lr\":1,\"accumulate_count\":2,\"accumulate_index\":2,\"frames\":[1]}",
				NULL, "bad_argument", "\"accumulate_index\" is 2");
	check_step(&server, "", "\"frame_id\" is missing");
	check_step(&server, "\"frame_id\":\"a\"", "\"frame_id\" is not an integer");
	check_step(&server, "\"frame_id\":1", "\"bytes\" is missing");
	check_step(&server, "\"frame_id\":1,\"bytes\":0", "\"bytes\" is 0");
	check_step(&server, "\"frame_id\":1,\"bytes\":1", "\"position\" is missing");
	check_step(&server, "\"frame_id\":1,\"bytes\":1,\"position\":-1", "\"position\" is -1");
	check_step(&server, F, "\"labels\" is missing");
	check_step(&server, F ",\"labels\":[1]", "\"boxes\" is missing");
	check_step(&server, F ",\"labels\":{},\"boxes\":[]", "\"labels\" is not an array");
	check_step(&server, F ",\"labels\":[],\"boxes\":[[1,2,3,4]]", "0 labels, but 1 boxes");
	check_step(&server, F ",\"labels\":[0],\"boxes\":[[1,2,3,4]]", "a label is not");
	check_step(&server, F ",\"labels\":[1.5],\"boxes\":[[1,2,3,4]]", "a label is not");
	check_step(&server, F ",\"labels\":[1],\"boxes\":[1]", "a box is not");
	check_step(&server, F ",\"labels\":[1],\"boxes\":[[1,2,3]]", "a box is not");
	check_step(&server, F ",\"labels\":[1],\"boxes\":[[1,2,3,4,5]]", "a box is not");
	check_step(&server, F ",\"labels\":[1],\"boxes\":[[1,2,3,\"4\"]]", "a box is not");
	check_step(&server, F ",\"labels\":[1],\"boxes\":[[1,2,3,1e300]]", "too large");
	check_step(&server, F ",\"labels\":[1],\"boxes\":[[3,2,3,4]]", "a box is empty");
	check_step(&server, F ",\"labels\":[1],\"boxes\":[[1,4,3,2]]", "a box is empty");
	check_step(&server, F ",\"labels\":[],\"boxes\":[],\"crowd\":1", "unknown field");
	check_step(&server, F ",\"labels\":[],\"boxes\":[]", "but the blob holds");
	snprintf(frame, sizeof(frame),
			 "\"frame_id\":9,\"position\":0,\"bytes\":%zu,\"labels\":[11],\"boxes\":[[1,2,3,4]]",
			 jpeg_bytes[0]);
	check_step(&server, frame, "frame 9 has label 11");
	check_error(&server, ENG_KIND_DETECT, "{\"min_score\":2,\"frames\":[]}", NULL,
				"bad_argument", "\"min_score\" is 2");
	check_error(&server, ENG_KIND_DETECT,
				"{\"frames\":[{\"frame_id\":1,\"bytes\":1,\"labels\":[]}]}", &blob,
				"bad_argument", "unknown field");
	check_error(&server, ENG_KIND_SAVE, "{\"with_optimizer\":1}", NULL, "bad_argument",
				"\"with_optimizer\" is not true");
	check_error(&server, ENG_KIND_HELLO, "{}", NULL, "bad_argument", "\"protocol\" is missing");
	check_error(&server, ENG_KIND_HELLO, "{\"protocol\":2}", NULL, "unsupported", "protocol 2");
	check_error(&server, 9, "{}", NULL, "unsupported", "unknown kind 9");
	check_error(&server, ENG_KIND_OK, "{}", NULL, "unsupported", "unknown kind 100");
	check_error(&server, 65535, "{}", NULL, "unsupported", "unknown kind 65535");
	tap_ok(step_ok(&server, 2), "after all that the session is usable");
	server_join(&server);
#undef F
}

/* A damaged picture names its frame and harms no other step. */
static void
test_corrupt_jpeg(void)
{
	Server		server;
	Reply		reply;
	EngBuffer	bad = {0};
	EngStatus	status = {0};
	int			named = 0;
	int			i;

	server_start(&server);
	load_ok(&server);
	for (i = 0; i < 3; i++)
	{
		bad.size = 0;
		eng_buffer_append(&bad, jpegs.data, jpegs.size, &status);
		if (i == 0)
			memset(bad.data + jpeg_bytes[0], 0x20, jpeg_bytes[1]);
		else if (i == 1)
			memset(bad.data + jpeg_bytes[0] + jpeg_bytes[1] - 64, 0, 64);
		else
			memset(bad.data + jpeg_bytes[0] + 2, 0xff, 40);
		reply = client_call(server.fd, ENG_KIND_STEP, make_step(1), &bad);
		named += reply.kind == ENG_KIND_ERROR &&
			strcmp(reply_text(&reply, "code"), "bad_file") == 0 &&
			reply_number(&reply, "frame_id") == 72;
		if (reply.kind != ENG_KIND_ERROR)
			tap_note("damage %d was not noticed", i);
		reply_free(&reply);
	}
	tap_ok(named == 3, "a corrupt JPEG is an error that names its frame");
	tap_ok(step_ok(&server, 2), "and the next step is done");
	eng_buffer_free(&bad);
	server_join(&server);
}

static uint32_t
flips_of(int seed, int step)
{
	char		json[sizeof(load_json) + 16];
	const char *at = strstr(load_json, "\"seed\":5");
	Server		server;

	snprintf(json, sizeof(json), "%.*s\"seed\":%d%s",
			 (int) (at - load_json), load_json, seed, at + 8);
	server_start(&server);
	{
		Reply		reply = client_call(server.fd, ENG_KIND_LOAD, json, NULL);

		reply_free(&reply);
	}
	step_ok(&server, step);
	server_join(&server);
	return fake_flips;
}

static void
test_flips(void)
{
	uint32_t	first[40];
	int			same = 0;
	int			other = 0;
	int			set = 0;
	int			i;

	for (i = 0; i < 40; i++)
	{
		first[i] = flips_of(5, i);
		set += (first[i] & 1) + (first[i] >> 1);
	}
	for (i = 0; i < 40; i++)
	{
		same += flips_of(5, i) == first[i];
		other += flips_of(6, i) == first[i];
	}
	tap_ok(same == 40, "flips are a function of seed, step and position");
	tap_ok(other < 30 && set > 20 && set < 60,
		   "and another seed makes others (%d of 80 flipped)", set);
}

static void
test_numeric(void)
{
	Server		server;

	server_start(&server);
	load_ok(&server);
	fake_not_finite = true;
	check_error(&server, ENG_KIND_STEP, make_step(9), &jpegs, "numeric",
				"the loss is not finite");
	fake_not_finite = false;
	tap_ok(step_ok(&server, 10), "a loss that is not finite leaves the session usable");
	server_join(&server);
}

/* Change one to three bytes of a text, in place or by a token. */
static void
mutate(char *text, size_t *length, uint64_t round, uint64_t kind)
{
	static const char *const tokens[] = {
		"null", "true", "-1", "1e999", "\"", "[", "]", "{", "}", ",", ":",
		"9223372036854775808", "\\u0000", "\xff", "[[[[", "0.5", "1024", " ",
		"\"frames\":", "[1,2,3,4]"
	};
	uint64_t	counter = 0;
#define DRAW(n) (eng_random_u64(3, round, kind, ENG_USE_TEST, counter++) % (n))
	int			changes = 1 + (int) DRAW(3);

	while (changes-- > 0 && *length > 2)
	{
		size_t		at = DRAW(*length);
		const char *token = tokens[DRAW(sizeof(tokens) / sizeof(tokens[0]))];
		size_t		cut = DRAW(3) == 0 ? DRAW(12) : DRAW(2);

		if (DRAW(4) == 0)
		{
			text[at] = (char) DRAW(256);
			if (text[at] == '\0')
				text[at] = ' ';
			continue;
		}
		if (cut > *length - at)
			cut = *length - at;
		memmove(text + at + strlen(token), text + at + cut,
				*length - at - cut);
		memcpy(text + at, token, strlen(token));
		*length += strlen(token) - cut;
		text[*length] = '\0';
	}
#undef DRAW
}

/* A value of any type, chosen by one number. */
static json_t *
other_value(uint64_t draw)
{
	switch (draw % 12)
	{
		case 0:
			return json_null();
		case 1:
			return json_true();
		case 2:
			return json_integer(-1);
		case 3:
			return json_integer(INT64_MAX);
		case 4:
			return json_integer(0);
		case 5:
			return json_real(1e300);
		case 6:
			return json_real(0.5);
		case 7:
			return json_string("");
		case 8:
			return json_string("ref");
		case 9:
			return json_array();
		case 10:
			return json_pack("[[i,i,i,i]]", 1, 2, 3, 4);
		default:
			return json_pack("{s:i}", "x", 1);
	}
}

/*
 * Walk down to some member and replace, remove or double it.
 */
static void
mutate_tree(json_t *node, uint64_t round, uint64_t depth)
{
	uint64_t	draw = eng_random_u64(4, round, depth, ENG_USE_TEST, 0);
	uint64_t	pick = eng_random_u64(4, round, depth, ENG_USE_TEST, 1);
	uint64_t	act = eng_random_u64(4, round, depth, ENG_USE_TEST, 2) % 4;
	json_t	   *child;

	if (json_is_object(node) && json_object_size(node) > 0)
	{
		void	   *at = json_object_iter(node);
		size_t		skip = pick % json_object_size(node);

		while (skip-- > 0)
			at = json_object_iter_next(node, at);
		child = json_object_iter_value(at);
		if (act > 0 && (json_is_object(child) || json_is_array(child)))
			mutate_tree(child, round, depth + 1);
		else if (draw % 6 == 0)
			json_object_del(node, json_object_iter_key(at));
		else
			json_object_iter_set_new(node, at, other_value(draw));
	}
	else if (json_is_array(node) && json_array_size(node) > 0)
	{
		size_t		i = pick % json_array_size(node);

		child = json_array_get(node, i);
		if (act > 0 && (json_is_object(child) || json_is_array(child)))
			mutate_tree(child, round, depth + 1);
		else if (draw % 6 == 0)
			json_array_remove(node, i);
		else if (draw % 6 == 1)
			json_array_append(node, child);
		else
			json_array_set_new(node, i, other_value(draw));
	}
}

/* A mutation of a message: of its text or of its tree. */
static void
make_mutation(char *text, size_t size, const char *from, uint64_t round,
			  uint64_t kind)
{
	size_t		length = strlen(from);
	json_t	   *tree;
	char	   *dump;

	memcpy(text, from, length + 1);
	if (round % 2 == 0)
	{
		mutate(text, &length, round, kind);
		return;
	}
	tree = json_loads(from, 0, NULL);
	mutate_tree(tree, round, 0);
	dump = json_dumps(tree, JSON_COMPACT);
	snprintf(text, size, "%s", dump);
	free(dump);
	json_decref(tree);
}

static bool
good_answer(const Reply *reply)
{
	const char *message = reply_text(reply, "message");

	if (reply->kind == ENG_KIND_OK)
		return true;
	return reply->kind == ENG_KIND_ERROR && message[0] != '\0' &&
		strpbrk(message, "\n\r") == NULL &&
		strcmp(reply_text(reply, "code"), "internal") != 0 &&
		json_object_get(reply->json, "fatal") == NULL;
}

static void
test_mutations(void)
{
	static const int kinds[] = {
		ENG_KIND_HELLO, ENG_KIND_LOAD, ENG_KIND_STEP, ENG_KIND_DETECT,
		ENG_KIND_SAVE
	};
	const char *texts[] = {
		"{\"protocol\":1}", load_json, make_step(1), detect_json,
		"{\"with_optimizer\":true}"
	};
	char	   *step = strdup(texts[2]);
	Server		server;
	size_t		k;

	texts[2] = step;
	server_start(&server);
	load_ok(&server);
	for (k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++)
	{
		int			good = 0;
		int			accepted = 0;
		int			round;

		for (round = 0; round < MUTATIONS; round++)
		{
			char		text[2048];
			Reply		reply;

			make_mutation(text, sizeof(text), texts[k], round, k);
			reply = client_call(server.fd, kinds[k], text,
								k == 2 || k == 3 ? &jpegs : NULL);
			good += good_answer(&reply);
			accepted += reply.kind == ENG_KIND_OK;
			if (!good_answer(&reply) && good + 5 > round)
				tap_note("kind %d %s: %s", reply.kind,
						 reply_text(&reply, "message"), text);
			reply_free(&reply);
		}
		tap_ok(good == MUTATIONS,
			   "%d mutations of message %d: all answered, %d accepted",
			   MUTATIONS, kinds[k], accepted);
		load_ok(&server);
	}
	tap_ok(step_ok(&server, 5), "after all that the session is usable");
	free(step);
	server_join(&server);
}

int
main(void)
{
	signal(SIGPIPE, SIG_IGN);
	make_pictures();
	test_load_refusals();
	test_step_refusals();
	test_corrupt_jpeg();
	test_flips();
	test_numeric();
	test_mutations();
	eng_buffer_free(&jpegs);
	return tap_done();
}
