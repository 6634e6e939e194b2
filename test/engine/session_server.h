/*
 * test/engine/session_server.h
 *		A session on a thread, with a detector that does nothing.
 */
#ifndef TEST_ENGINE_SESSION_SERVER_H
#define TEST_ENGINE_SESSION_SERVER_H


#include "fake_detector.h"
#include "session_thread.h"

static void
stop_detector(void)
{
	fake_stop = 1;
}

static void
server_start(Server *server)
{
	fake_stop = 0;
	server_open(server, stop_detector);
}

static void
server_join(Server *server)
{
	if (server->fd >= 0)
		close(server->fd);
	server->fd = -1;
	pthread_join(server->thread, NULL);
}

static const char load_json[] =
"{\"architecture\":\"small\",\"options\":{},\"num_classes\":11,\"mode\":\"train\","
"\"device\":\"cpu\",\"threads\":1,\"seed\":5,\"init\":true,\"strict\":true,"
"\"optimizer\":{\"name\":\"adamw\",\"momentum\":0.9,\"betas\":[0.9,0.999],\"eps\":1e-8,"
"\"weight_decay\":0.01,\"clip_norm\":10,\"decay_rule\":\"matrices\"},"
"\"trainable_layers\":5,\"freeze_norm\":false,\"hflip\":0.5,\"memory_limit\":0}";

/* The blob of steps: two JPEGs of one length each. */
static EngBuffer jpegs;
static size_t jpeg_bytes[2];
static char step_json[1024];
static char detect_json[1024];

static const char *
make_step(int step)
{
	snprintf(step_json, sizeof(step_json),
			 "{\"step\":%d,\"lr\":0.5,\"frames\":["
			 "{\"frame_id\":71,\"position\":%d,\"bytes\":%zu,\"labels\":[1,2],"
			 "\"boxes\":[[1,2,30,40],[5.5,6,20,21]]},"
			 "{\"frame_id\":72,\"position\":%d,\"bytes\":%zu,\"labels\":[],\"boxes\":[]}]}",
			 step, 2 * step, jpeg_bytes[0], 2 * step + 1, jpeg_bytes[1]);
	return step_json;
}

static void
make_pictures(void)
{
	jpeg_bytes[0] = append_jpeg(&jpegs, 64, 48, 1, NULL, 0);
	jpeg_bytes[1] = append_jpeg(&jpegs, 80, 56, 2, NULL, 0);
	snprintf(detect_json, sizeof(detect_json),
			 "{\"min_score\":0.5,\"frames\":[{\"frame_id\":71,\"bytes\":%zu},"
			 "{\"frame_id\":72,\"bytes\":%zu}]}", jpeg_bytes[0], jpeg_bytes[1]);
}

static bool __attribute__((unused))
load_ok(Server *server)
{
	Reply		reply = client_call(server->fd, ENG_KIND_LOAD, load_json, NULL);
	bool		fine = reply.kind == ENG_KIND_OK;

	if (!fine)
		tap_note("%s", reply_text(&reply, "message"));
	reply_free(&reply);
	return fine;
}

static bool __attribute__((unused))
step_ok(Server *server, int step)
{
	Reply		reply = client_call(server->fd, ENG_KIND_STEP, make_step(step),
									&jpegs);
	bool		fine = reply.kind == ENG_KIND_OK &&
		reply_number(&reply, "step") == step;

	if (!fine)
		tap_note("%s", reply_text(&reply, "message"));
	reply_free(&reply);
	return fine;
}

#endif							/* TEST_ENGINE_SESSION_SERVER_H */
