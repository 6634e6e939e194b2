/*
 * test/engine/protocol.c
 *		A session over a socket: order, garbage, cut messages, hanging up.
 */
#include <signal.h>

#include "session_server.h"

static void
test_whole_session(void)
{
	Server		server;
	Reply		reply;

	server_start(&server);
	reply = client_call(server.fd, ENG_KIND_HELLO, "{\"protocol\":1}", NULL);
	tap_ok(reply.kind == ENG_KIND_OK &&
		   json_is_string(json_object_get(reply.json, "engine_version")) &&
		   json_is_object(json_object_get(reply.json, "libraries")) &&
		   json_is_string(json_object_get(reply.json, "isa")) &&
		   json_is_boolean(json_object_get(reply.json, "bf16")) &&
		   reply_number(&reply, "cpu_threads") >= 1 &&
		   json_is_array(json_object_get(reply.json, "devices")),
		   "HELLO describes the machine");
	reply_free(&reply);
	reply = client_call(server.fd, ENG_KIND_LOAD, load_json, NULL);
	tap_ok(reply.kind == ENG_KIND_OK && reply_number(&reply, "threads") == 1 &&
		   json_is_array(json_object_get(reply.json, "new_tensors")) &&
		   json_is_object(json_object_get(reply.json, "arena_bytes")),
		   "LOAD");
	reply_free(&reply);
	reply = client_call(server.fd, ENG_KIND_STEP, make_step(3), &jpegs);
	tap_ok(reply.kind == ENG_KIND_OK && reply_number(&reply, "step") == 3 &&
		   reply_number(&reply, "loss") == 5.5 &&
		   reply_number(&reply, "frames") == 2 &&
		   json_is_real(json_object_get(reply.json, "wait_s")) &&
		   json_is_real(json_object_get(reply.json, "busy_s")) &&
		   fake_width == 64 && fake_boxes == 2 && fake_last_box[0] == 1 &&
		   fake_last_box[3] == 40, "STEP hands frames and boxes on");
	reply_free(&reply);
	reply = client_call(server.fd, ENG_KIND_DETECT, detect_json, &jpegs);
	tap_ok(reply.kind == ENG_KIND_OK &&
		   json_array_size(json_object_get(reply.json, "frames")) == 2,
		   "DETECT answers for every frame");
	reply_free(&reply);
	reply = client_call(server.fd, ENG_KIND_SAVE, "{\"with_optimizer\":true}",
						NULL);
	tap_ok(reply.kind == ENG_KIND_OK && reply_number(&reply, "tensors") == 1 &&
		   reply.blob.size > 0, "SAVE");
	reply_free(&reply);
	reply = client_call(server.fd, ENG_KIND_BYE, "{}", NULL);
	tap_ok(reply.kind == ENG_KIND_OK, "BYE is answered");
	reply_free(&reply);
	reply = client_receive(server.fd);
	tap_ok(reply.kind == 0, "and the connection ends");
	reply_free(&reply);
	server_join(&server);
	tap_ok(server.result && fake_detectors == 0, "session ends well, all freed");
}

/* Bytes that are no frame: one fatal error, then the end. */
static void
check_garbage(const char *name, size_t at, uint8_t value)
{
	uint8_t		bytes[ENG_PROTOCOL_HEADER];
	EngFrameHeader header = {.kind = ENG_KIND_HELLO, .json_length = 2};
	Server		server;
	Reply		reply;
	Reply		end;

	eng_frame_header_pack(bytes, &header);
	bytes[at] = value;
	server_start(&server);
	(void) !write(server.fd, bytes, sizeof(bytes));
	(void) !write(server.fd, "{}", 2);
	reply = client_receive(server.fd);
	end = client_receive(server.fd);
	tap_ok(reply.kind == ENG_KIND_ERROR &&
		   json_is_true(json_object_get(reply.json, "fatal")) &&
		   end.kind == 0, "garbage ends the session: %s", name);
	reply_free(&reply);
	reply_free(&end);
	server_join(&server);
	tap_ok(!server.result && server.status.message[0] != '\0',
		   "and says why: %s", server.status.message);
}

static void
test_garbage(void)
{
	check_garbage("magic", 0, 'B');
	check_garbage("version", 4, 2);
	check_garbage("version, high byte", 5, 1);
	check_garbage("reserved field", 13, 1);
	check_garbage("json length", 11, 0x7f);
	check_garbage("blob length", 23, 0x80);
	check_garbage("blob length over 4 GiB", 20, 2);
}

/* Part of a step, then the end of the connection. */
static void
test_truncated(void)
{
	static const size_t cuts[] = {0, 1, 23, 24, 25, 200};
	size_t		i;

	for (i = 0; i <= sizeof(cuts) / sizeof(cuts[0]); i++)
	{
		const char *json = make_step(1);
		size_t		length = strlen(json);
		EngFrameHeader header = {ENG_KIND_STEP, (uint32_t) length, jpegs.size};
		EngBuffer	all = {0};
		EngStatus	status = {0};
		uint8_t		bytes[ENG_PROTOCOL_HEADER];
		Server		server;
		size_t		cut;

		eng_frame_header_pack(bytes, &header);
		eng_buffer_append(&all, bytes, sizeof(bytes), &status);
		eng_buffer_append(&all, json, length, &status);
		eng_buffer_append(&all, jpegs.data, jpegs.size, &status);
		cut = i < sizeof(cuts) / sizeof(cuts[0]) ? cuts[i] : all.size - 1;
		server_start(&server);
		(void) !write(server.fd, all.data, cut);
		server_join(&server);
		tap_ok(!server.result && server.status.code == ENG_IO &&
			   server.lost == 0, "connection closed after %zu bytes: %s", cut,
			   server.status.message);
		eng_buffer_free(&all);
	}
}

/* A length that promises 4 GiB costs nothing until the bytes come. */
static void
test_promised_length(void)
{
	EngFrameHeader header = {ENG_KIND_LOAD, 2, ENG_PROTOCOL_MAX_BLOB};
	uint8_t		bytes[ENG_PROTOCOL_HEADER];
	Server		server;

	eng_frame_header_pack(bytes, &header);
	server_start(&server);
	(void) !write(server.fd, bytes, sizeof(bytes));
	(void) !write(server.fd, "{}some", 6);
	server_join(&server);
	tap_ok(!server.result && server.status.code == ENG_IO,
		   "a blob that is promised and does not come");
}

static void
test_byte_by_byte(void)
{
	const char *json = "{\"protocol\":1}";
	EngFrameHeader header = {ENG_KIND_HELLO, 14, 0};
	uint8_t		bytes[ENG_PROTOCOL_HEADER + 14];
	Server		server;
	Reply		reply;
	size_t		i;

	eng_frame_header_pack(bytes, &header);
	memcpy(bytes + ENG_PROTOCOL_HEADER, json, 14);
	server_start(&server);
	for (i = 0; i < sizeof(bytes); i++)
	{
		(void) !write(server.fd, bytes + i, 1);
		usleep(500);
	}
	reply = client_receive(server.fd);
	tap_ok(reply.kind == ENG_KIND_OK, "a message that comes byte by byte");
	reply_free(&reply);
	server_join(&server);
}

static void
test_ahead(void)
{
	Server		server;
	double		waits = 0;
	int			in_order = 0;
	int			sent = 0;
	int			i;

	server_start(&server);
	load_ok(&server);
	fake_step_ms = 30;
	for (i = 0; i < 12; i++)
	{
		Reply		reply;

		for (; sent < 12 && sent < i + ENG_PROTOCOL_AHEAD; sent++)
			client_send(server.fd, ENG_KIND_STEP, make_step(sent), &jpegs);
		reply = client_receive(server.fd);
		in_order += reply.kind == ENG_KIND_OK && reply_number(&reply, "step") == i;
		if (i > 0)
			waits += reply_number(&reply, "wait_s");
		reply_free(&reply);
	}
	fake_step_ms = 0;
	tap_ok(in_order == 12, "steps sent ahead are answered in order");
	tap_ok(waits < 11 * 0.03, "the step loop hardly waits for them");
	tap_note("waited %.4f s in 11 steps of 30 ms", waits);
	server_join(&server);
}

/* The peer is gone while an operation runs: told to the owner in time. */
static void
test_hang_up_in_step(void)
{
	Server		server;
	double		start;
	double		taken;

	server_start(&server);
	load_ok(&server);
	fake_step_ms = 20000;
	client_send(server.fd, ENG_KIND_STEP, make_step(1), &jpegs);
	client_send(server.fd, ENG_KIND_STEP, make_step(2), &jpegs);
	usleep(100000);
	start = eng_feed_clock();
	server_join(&server);
	taken = eng_feed_clock() - start;
	fake_step_ms = 0;
	tap_ok(!server.result && server.lost > 0 && taken < 2.5,
		   "hanging up inside a step ends it");
	tap_note("after %.2f s", taken);
}

/* The same with as many messages waiting as there may be. */
static void
test_hang_up_when_full(void)
{
	Server		server;
	double		start;
	double		taken;
	int			i;

	server_start(&server);
	load_ok(&server);
	fake_step_ms = 20000;
	for (i = 0; i < ENG_PROTOCOL_AHEAD + 1; i++)
		client_send(server.fd, ENG_KIND_STEP, make_step(i), &jpegs);
	usleep(100000);
	start = eng_feed_clock();
	server_join(&server);
	taken = eng_feed_clock() - start;
	fake_step_ms = 0;
	tap_ok(!server.result && server.lost > 0 && taken < 2.5,
		   "hanging up with a full queue ends it");
}

static void
test_half_closed(void)
{
	Server		server;
	Reply		reply;
	int			answered = 0;
	int			i;

	server_start(&server);
	load_ok(&server);
	for (i = 0; i < 3; i++)
		client_send(server.fd, ENG_KIND_STEP, make_step(i), &jpegs);
	client_send(server.fd, ENG_KIND_BYE, "{}", NULL);
	shutdown(server.fd, SHUT_WR);
	for (i = 0; i < 4; i++)
	{
		reply = client_receive(server.fd);
		answered += reply.kind == ENG_KIND_OK;
		reply_free(&reply);
	}
	server_join(&server);
	tap_ok(answered == 4 && server.result,
		   "what was sent before the writing end closed is answered");
}

static void
test_not_a_socket(void)
{
	EngFeedEnd	end = {server_lost, NULL};
	EngStatus	status = {0};

	tap_ok(!eng_serve(12345, &end, &status) &&
		   status.code == ENG_BAD_ARGUMENT, "a descriptor that is no socket");
}

int
main(void)
{
	signal(SIGPIPE, SIG_IGN);
	make_pictures();
	test_whole_session();
	test_garbage();
	test_truncated();
	test_promised_length();
	test_byte_by_byte();
	test_ahead();
	test_hang_up_in_step();
	test_hang_up_when_full();
	test_half_closed();
	test_not_a_socket();
	eng_buffer_free(&jpegs);
	return tap_done();
}
