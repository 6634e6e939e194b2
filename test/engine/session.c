/*
 * test/engine/session.c
 *		The program itself: train, save, resume, detect, and being ended.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client.h"
#include "engine/feed.h"
#include "tap.h"

#define FRAMES		4			/* of a step */
/* a sanitizer makes a step ten times as long */
#define STEPS		(getenv("AVC_SANITIZED") != NULL ? 10 : 24)
#define MOST_STEPS	24

typedef struct Engine
{
	pid_t		pid;
	int			fd;
	int			errors;			/* its stderr */
} Engine;

static EngBuffer jpegs;
static size_t jpeg_bytes[FRAMES];
static float boxes[FRAMES][8];	/* two boxes a frame */

static const char *
engine_path(void)
{
	const char *path = getenv("AVC_ENGINE");

	return path != NULL ? path : "./avcurate-engine";
}

/* Start the program as a worker does, descriptor 3 being the socket. */
static void
engine_start(Engine *engine)
{
	int			pair[2];
	int			errors[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0 ||
		pipe2(errors, O_CLOEXEC) != 0)
		exit(1);
	engine->pid = fork();
	if (engine->pid == 0)
	{
		sigset_t	all;

		/* a worker's mask must not reach the engine's work */
		sigfillset(&all);
		sigprocmask(SIG_SETMASK, &all, NULL);
		dup2(errors[1], 2);
		if (pair[1] == 3)
			fcntl(3, F_SETFD, 0);
		else
			dup2(pair[1], 3);
		execl(engine_path(), "avcurate-engine", "serve", "--fd", "3", NULL);
		_exit(127);
	}
	close(pair[1]);
	close(errors[1]);
	engine->fd = pair[0];
	engine->errors = errors[0];
}

/* Wait for its end; returns the wait status, or -1 after the limit. */
static int
engine_wait(Engine *engine, double limit)
{
	double		start = eng_feed_clock();
	int			status;

	while (waitpid(engine->pid, &status, WNOHANG) == 0)
	{
		if (eng_feed_clock() - start > limit)
		{
			kill(engine->pid, SIGKILL);
			waitpid(engine->pid, &status, 0);
			return -1;
		}
		usleep(5000);
	}
	return status;
}

/* What it wrote to stderr; one line at most is allowed. */
static bool
engine_errors(Engine *engine, char *text, size_t size)
{
	ssize_t		n = read(engine->errors, text, size - 1);
	char	   *end;

	text[n > 0 ? n : 0] = '\0';
	close(engine->errors);
	end = strchr(text, '\n');
	if (end == NULL)
		return text[0] == '\0';
	*end = '\0';
	return end[1] == '\0';
}

static bool
engine_bye(Engine *engine)
{
	Reply		reply = client_call(engine->fd, ENG_KIND_BYE, "{}", NULL);
	char		text[1024];
	int			status;
	bool		fine = reply.kind == ENG_KIND_OK;

	reply_free(&reply);
	status = engine_wait(engine, 5);
	close(engine->fd);
	return engine_errors(engine, text, sizeof(text)) && fine && status == 0;
}

static void
make_pictures(void)
{
	int			i;

	for (i = 0; i < FRAMES; i++)
	{
		float		made[8] = {30 + 40 * i, 40, 90 + 40 * i, 110,
		200 - 30 * i, 120, 260 - 30 * i, 160};

		memcpy(boxes[i], made, sizeof(made));
		jpeg_bytes[i] = append_jpeg(&jpegs, 320, 180, i, boxes[i], 2);
	}
}

static const char *
make_step(int step, double lr)
{
	static char json[4096];
	int			length;
	int			i;

	length = snprintf(json, sizeof(json), "{\"step\":%d,\"lr\":%g,\"frames\":[",
					  step, lr);
	for (i = 0; i < FRAMES; i++)
		length += snprintf(json + length, sizeof(json) - length,
						   "%s{\"frame_id\":%d,\"position\":%d,\"bytes\":%zu,"
						   "\"labels\":[3,2],\"boxes\":[[%g,%g,%g,%g],[%g,%g,%g,%g]]}",
						   i > 0 ? "," : "", 100 + i, step * FRAMES + i,
						   jpeg_bytes[i], boxes[i][0], boxes[i][1],
						   boxes[i][2], boxes[i][3], boxes[i][4],
						   boxes[i][5], boxes[i][6], boxes[i][7]);
	snprintf(json + length, sizeof(json) - length, "]}");
	return json;
}

static double
learning_rate(int step)
{
	return 1e-3 * (step < 8 ? (step + 1) / 8.0 : 1);
}

static const char train_json[] =
"{\"architecture\":\"small\",\"num_classes\":11,\"mode\":\"train\",\"threads\":2,"
"\"seed\":7,\"init\":%s,\"hflip\":0.5,"
"\"optimizer\":{\"name\":\"adamw\",\"weight_decay\":0.01,\"clip_norm\":10}}";

static bool
load(Engine *engine, const char *json, const EngBuffer *blob)
{
	Reply		reply = client_call(engine->fd, ENG_KIND_LOAD, json, blob);
	bool		fine = reply.kind == ENG_KIND_OK;

	if (!fine)
		tap_note("LOAD: kind %d, %s", reply.kind, reply_text(&reply, "message"));
	reply_free(&reply);
	return fine;
}

static bool
load_to_train(Engine *engine, const EngBuffer *blob)
{
	char		json[1024];

	snprintf(json, sizeof(json), train_json, blob != NULL ? "false" : "true");
	return load(engine, json, blob);
}

/* Steps from first to last, sent ahead; their losses. */
static bool
train(Engine *engine, int first, int last, double *losses)
{
	bool		fine = true;
	int			sent = first;
	int			i;

	for (i = first; i <= last && fine; i++)
	{
		Reply		reply;

		for (; sent <= last && sent < i + ENG_PROTOCOL_AHEAD; sent++)
			client_send(engine->fd, ENG_KIND_STEP,
						make_step(sent, learning_rate(sent)), &jpegs);
		reply = client_receive(engine->fd);
		fine = reply.kind == ENG_KIND_OK && reply_number(&reply, "step") == i;
		losses[i] = reply_number(&reply, "loss");
		if (!fine)
			tap_note("STEP %d: %s", i, reply_text(&reply, "message"));
		reply_free(&reply);
	}
	return fine;
}

static EngBuffer
save(Engine *engine, bool with_optimizer)
{
	Reply		reply = client_call(engine->fd, ENG_KIND_SAVE,
									with_optimizer ? "{\"with_optimizer\":true}" :
									"{}", NULL);
	EngBuffer	blob = reply.blob;

	memset(&reply.blob, 0, sizeof(reply.blob));
	if (reply.kind != ENG_KIND_OK)
		tap_note("SAVE: %s", reply_text(&reply, "message"));
	reply_free(&reply);
	return blob;
}

/* The program's settings, read where it put them. */
static void
test_environment(const Engine *engine)
{
	char		path[64];
	char		text[65536];
	ssize_t		n;
	ssize_t		i;
	bool		found = false;
	int			fd;

	snprintf(path, sizeof(path), "/proc/%d/environ", (int) engine->pid);
	fd = open(path, O_RDONLY);
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n > 0 ? n : 0] = '\0';
	for (i = 0; i < n; i += strlen(text + i) + 1)
		found = found || strncmp(text + i, "OMP_WAIT_POLICY=", 16) == 0;
	tap_ok(found, "the program runs with waiting threads asleep");
}

/*
 * Train; save in the middle; the rest from there gives the same bits.
 */
static EngBuffer
test_training(void)
{
	double		losses[MOST_STEPS + 8];
	double		again[MOST_STEPS + 8];
	Engine		engine;
	EngBuffer	state;
	EngBuffer	end;
	EngBuffer	resumed;
	EngBuffer	weights;

	engine_start(&engine);
	if (!tap_ok(load_to_train(&engine, NULL), "LOAD with fresh weights"))
		exit(tap_done());
	test_environment(&engine);
	tap_ok(train(&engine, 0, STEPS - 1, losses), "%d steps", STEPS);
	tap_ok(losses[STEPS - 1] + losses[STEPS - 2] <
		   0.8 * (losses[0] + losses[1]), "the loss falls: %.3f to %.3f",
		   losses[0], losses[STEPS - 1]);
	state = save(&engine, true);
	tap_ok(state.size > 0, "SAVE with the optimizer");
	tap_ok(train(&engine, STEPS, STEPS + 3, losses), "four more steps");
	end = save(&engine, true);
	weights = save(&engine, false);
	tap_ok(weights.size > 0 && weights.size < end.size / 2,
		   "SAVE without the optimizer is smaller");
	tap_ok(engine_bye(&engine), "BYE ends the program with status 0, in silence");
	engine_start(&engine);
	tap_ok(load_to_train(&engine, &state) &&
		   train(&engine, STEPS, STEPS + 3, again),
		   "another process goes on from the saved state");
	tap_ok(memcmp(losses + STEPS, again + STEPS, 4 * sizeof(double)) == 0,
		   "with the same losses");
	resumed = save(&engine, true);
	tap_ok(resumed.size == end.size &&
		   memcmp(resumed.data, end.data, end.size) == 0,
		   "and, bit by bit, the same weights and optimizer");
	engine_bye(&engine);
	eng_buffer_free(&state);
	eng_buffer_free(&end);
	eng_buffer_free(&resumed);
	return weights;
}

static const char *
detect_request(void)
{
	static char json[1024];
	int			length;
	int			i;

	length = snprintf(json, sizeof(json), "{\"min_score\":0.05,\"frames\":[");
	for (i = 0; i < FRAMES; i++)
		length += snprintf(json + length, sizeof(json) - length,
						   "%s{\"frame_id\":%d,\"bytes\":%zu}",
						   i > 0 ? "," : "", 100 + i, jpeg_bytes[i]);
	snprintf(json + length, sizeof(json) - length, "]}");
	return json;
}

/* Every frame answered in order, arrays of one length, boxes inside. */
static bool
good_detections(const Reply *reply, int *found)
{
	json_t	   *frames = json_object_get(reply->json, "frames");
	size_t		i;
	size_t		j;

	*found = 0;
	if (reply->kind != ENG_KIND_OK || json_array_size(frames) != FRAMES)
		return false;
	for (i = 0; i < FRAMES; i++)
	{
		json_t	   *frame = json_array_get(frames, i);
		json_t	   *list = json_object_get(frame, "boxes");
		size_t		count = json_array_size(list);

		if (json_integer_value(json_object_get(frame, "frame_id")) !=
			100 + (int) i ||
			json_array_size(json_object_get(frame, "labels")) != count ||
			json_array_size(json_object_get(frame, "scores")) != count)
			return false;
		for (j = 0; j < count; j++)
		{
			double		x2 = json_number_value(json_array_get(json_array_get(list, j), 2));

			if (x2 < 0 || x2 > 320)
				return false;
		}
		*found += (int) count;
	}
	return true;
}

static void
test_detection(const EngBuffer *weights)
{
	static const char infer[] = "{\"architecture\":\"small\",\"num_classes\":11}";
	Engine		engine;
	Reply		reply;
	Reply		again;
	int			found;

	engine_start(&engine);
	tap_ok(load(&engine, infer, weights), "LOAD of saved weights to infer");
	reply = client_call(engine.fd, ENG_KIND_DETECT, detect_request(), &jpegs);
	again = client_call(engine.fd, ENG_KIND_DETECT, detect_request(), &jpegs);
	tap_ok(good_detections(&reply, &found), "DETECT");
	tap_note("%d detections", found);
	tap_ok(json_equal(json_object_get(reply.json, "frames"),
					  json_object_get(again.json, "frames")),
		   "DETECT twice says the same");
	reply_free(&reply);
	reply_free(&again);
	reply = client_call(engine.fd, ENG_KIND_STEP, make_step(1, 0), &jpegs);
	tap_ok(reply.kind == ENG_KIND_ERROR &&
		   strstr(reply_text(&reply, "message"), "not loaded to train"),
		   "STEP needs a detector loaded to train");
	reply_free(&reply);
	engine_bye(&engine);
}

static void
test_other_head(const EngBuffer *weights)
{
	static const char strict[] =
	"{\"architecture\":\"small\",\"num_classes\":5,\"strict\":true}";
	static const char loose[] =
	"{\"architecture\":\"small\",\"num_classes\":5,\"strict\":false}";
	Engine		engine;
	Reply		reply;

	engine_start(&engine);
	reply = client_call(engine.fd, ENG_KIND_LOAD, strict, weights);
	tap_ok(reply.kind == ENG_KIND_ERROR &&
		   strstr(reply_text(&reply, "message"), "box_predictor") != NULL,
		   "weights of other classes are refused by name");
	tap_note("%s", reply_text(&reply, "message"));
	reply_free(&reply);
	reply = client_call(engine.fd, ENG_KIND_LOAD, loose, weights);
	tap_ok(reply.kind == ENG_KIND_OK &&
		   json_array_size(json_object_get(reply.json, "new_tensors")) == 4,
		   "or taken, and the new tensors are listed");
	reply_free(&reply);
	engine_bye(&engine);
}

static void
test_memory_limit(void)
{
	Engine		engine;
	Reply		reply;

	engine_start(&engine);
	reply = client_call(engine.fd, ENG_KIND_LOAD,
						"{\"architecture\":\"small\",\"mode\":\"train\",\"init\":true,\"memory_limit\":100000000}",
						NULL);
	if (reply.kind == ENG_KIND_OK)
	{
		reply_free(&reply);
		reply = client_call(engine.fd, ENG_KIND_STEP, make_step(0, 0), &jpegs);
	}
	tap_ok(reply.kind == ENG_KIND_ERROR &&
		   strcmp(reply_text(&reply, "code"), "no_memory") == 0 &&
		   strstr(reply_text(&reply, "message"), "pictures ") != NULL &&
		   strstr(reply_text(&reply, "message"), "pictures 0") == NULL,
		   "a plan over the memory limit is refused: %s",
		   reply_text(&reply, "message"));
	reply_free(&reply);
	tap_ok(engine_bye(&engine), "and the session goes on");
}

/* Frames of several sizes, then none with a box. */
static void
test_odd_batches(void)
{
	char		json[1024];
	EngBuffer	blob = {0};
	size_t		bytes[2];
	Engine		engine;
	Reply		reply;

	bytes[0] = append_jpeg(&blob, 200, 180, 1, NULL, 0);
	bytes[1] = append_jpeg(&blob, 320, 90, 2, NULL, 0);
	engine_start(&engine);
	load_to_train(&engine, NULL);
	snprintf(json, sizeof(json),
			 "{\"step\":0,\"lr\":0.001,\"frames\":["
			 "{\"frame_id\":1,\"position\":0,\"bytes\":%zu,\"labels\":[1],\"boxes\":[[1,1,90,80]]},"
			 "{\"frame_id\":2,\"position\":1,\"bytes\":%zu,\"labels\":[],\"boxes\":[]}]}",
			 bytes[0], bytes[1]);
	reply = client_call(engine.fd, ENG_KIND_STEP, json, &blob);
	tap_ok(reply.kind == ENG_KIND_OK &&
		   json_is_false(json_object_get(reply.json, "skipped")),
		   "frames of two sizes in one step");
	if (reply.kind != ENG_KIND_OK)
		tap_note("%s", reply_text(&reply, "message"));
	reply_free(&reply);
	snprintf(json, sizeof(json),
			 "{\"step\":1,\"lr\":0.001,\"frames\":["
			 "{\"frame_id\":1,\"position\":2,\"bytes\":%zu,\"labels\":[],\"boxes\":[]},"
			 "{\"frame_id\":2,\"position\":3,\"bytes\":%zu,\"labels\":[],\"boxes\":[]}]}",
			 bytes[0], bytes[1]);
	reply = client_call(engine.fd, ENG_KIND_STEP, json, &blob);
	tap_ok(reply.kind == ENG_KIND_OK &&
		   json_is_true(json_object_get(reply.json, "skipped")),
		   "a step without any box is skipped");
	reply_free(&reply);
	engine_bye(&engine);
	eng_buffer_free(&blob);
}

/* A rate at which nothing can stay finite: named, and not the end. */
static void
test_not_finite(void)
{
	Engine		engine;
	Reply		reply;
	int			i;

	engine_start(&engine);
	load(&engine,
		 "{\"architecture\":\"small\",\"mode\":\"train\",\"init\":true,"
		 "\"optimizer\":{\"name\":\"sgd\",\"clip_norm\":0}}", NULL);
	for (i = 0; i < 4; i++)
	{
		reply = client_call(engine.fd, ENG_KIND_STEP, make_step(i, 1e6),
							&jpegs);
		if (reply.kind == ENG_KIND_ERROR)
			break;
		reply_free(&reply);
	}
	tap_ok(i < 4 && strcmp(reply_text(&reply, "code"), "numeric") == 0 &&
		   strstr(reply_text(&reply, "message"), "100, 101, 102, 103") != NULL,
		   "a loss that is not finite names step and frames: %s",
		   i < 4 ? reply_text(&reply, "message") : "");
	if (i < 4)
		reply_free(&reply);
	tap_ok(engine_bye(&engine), "and the session goes on");
}

/* End the program inside a step that lasts for seconds. */
static void
test_ending(bool by_signal)
{
	static const char slow[] =
	"{\"architecture\":\"small\",\"mode\":\"train\",\"init\":true,\"device\":\"ref\"}";
	Engine		engine;
	char		text[1024];
	double		start;
	int			status;
	bool		one_line;

	engine_start(&engine);
	load(&engine, slow, NULL);
	client_send(engine.fd, ENG_KIND_STEP, make_step(0, 0), &jpegs);
	usleep(300000);
	tap_ok(waitpid(engine.pid, &status, WNOHANG) == 0, "a long step runs");
	start = eng_feed_clock();
	if (by_signal)
		kill(engine.pid, SIGTERM);
	else
		close(engine.fd);
	status = engine_wait(&engine, 10);
	start = eng_feed_clock() - start;
	tap_ok(status != -1 && start < 2, "%s ends it within a second (%.2f s)",
		   by_signal ? "SIGTERM" : "hanging up", start);
	if (by_signal)
		close(engine.fd);
	one_line = engine_errors(&engine, text, sizeof(text));
	tap_ok(one_line && text[0] != '\0' && WIFEXITED(status) &&
		   WEXITSTATUS(status) == (by_signal ? 128 + SIGTERM : 1),
		   "with one line: %s", text);
}

static void
test_garbage(void)
{
	Engine		engine;
	char		text[1024];
	int			status;

	engine_start(&engine);
	(void) !write(engine.fd, "GET / HTTP/1.0\r\nHost: x\r\n\r\n", 27);
	status = engine_wait(&engine, 5);
	close(engine.fd);
	tap_ok(engine_errors(&engine, text, sizeof(text)) &&
		   strstr(text, "magic") != NULL && WIFEXITED(status) &&
		   WEXITSTATUS(status) == 1, "garbage ends it: %s", text);
}

/* What the session costs beside the detector. */
static void
test_throughput(void)
{
	double		losses[20];
	double		start;
	double		wait = 0;
	double		busy = 0;
	Engine		engine;
	Reply		reply;
	int			i;

	engine_start(&engine);
	load_to_train(&engine, NULL);
	train(&engine, 0, 0, losses);
	start = eng_feed_clock();
	for (i = 1; i <= 3; i++)
		client_send(engine.fd, ENG_KIND_STEP, make_step(i, 1e-4), &jpegs);
	for (i = 1; i <= 12; i++)
	{
		reply = client_receive(engine.fd);
		if (i + 3 <= 12)
			client_send(engine.fd, ENG_KIND_STEP, make_step(i + 3, 1e-4), &jpegs);
		wait += i > 1 ? reply_number(&reply, "wait_s") : 0;
		busy += reply_number(&reply, "busy_s");
		reply_free(&reply);
	}
	start = eng_feed_clock() - start;
	tap_ok(wait < 0.2 * busy, "the step loop waits for nothing");
	tap_note("%.1f images/s in steps of %d, waited %.2f %% of the time",
			 12 * FRAMES / start, FRAMES, 100 * wait / start);
	engine_bye(&engine);
}

int
main(void)
{
	EngBuffer	weights;

	signal(SIGPIPE, SIG_IGN);
	make_pictures();
	weights = test_training();
	test_detection(&weights);
	test_other_head(&weights);
	test_memory_limit();
	test_odd_batches();
	test_not_finite();
	test_ending(true);
	test_ending(false);
	test_garbage();
	test_throughput();
	eng_buffer_free(&weights);
	eng_buffer_free(&jpegs);
	return tap_done();
}
