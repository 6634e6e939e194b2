/*
 * test/engine/devices.c
 *		Which device a name gives, and what the answers say of it.
 *
 * The GPU is emulated (test/emulated); AVC_CUDA_PLUGIN names it, or what is
 * not there.
 */
#include <limits.h>

#include "engine/core/devices.h"
#include "engine/nets/clip.h"
#include "session_real.h"

static char emulated[PATH_MAX];
static char other[PATH_MAX];

static void
use_plugin(const char *path)
{
	if (path != NULL)
		setenv("AVC_CUDA_PLUGIN", path, 1);
	else
		unsetenv("AVC_CUDA_PLUGIN");
}

/* Files beside this program's folder. */
static void
find_plugins(void)
{
	char		folder[PATH_MAX - 64] = "";
	ssize_t		length = readlink("/proc/self/exe", folder, sizeof(folder) - 1);
	char	   *slash;

	folder[length > 0 ? length : 0] = '\0';
	slash = strrchr(folder, '/');
	if (slash != NULL)
		*slash = '\0';
	snprintf(emulated, sizeof(emulated), "%s/../emulated/avcurate_cuda.so",
			 folder);
	snprintf(other, sizeof(other), "%s/../emulated/other.so", folder);
}

static void
test_names(void)
{
	static const char *const good[] = {
		"auto", "cpu", "ref", "cuda", "cuda:0", "cuda:15"
	};
	static const char *const bad[] = {
		"", "gpu", "CPU", "cuda:", "cuda:-1", "cuda:1x", "cuda: 1",
		"cuda:10000", "cuda0", "cpu "
	};
	size_t		i;

	for (i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		tap_ok(eng_device_is_known(good[i]), "\"%s\" is a device", good[i]);
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		tap_ok(!eng_device_is_known(bad[i]), "\"%s\" is none", bad[i]);
}

/*
 * Open a device: the backend's name, "" if it fails; its note or the failure's
 * message holds what is wanted.
 */
static void
check_open(const char *device, const char *plugin, const char *name,
		   const char *note, EngType type)
{
	EngStatus	status = {0};
	EngBackend *backend;

	use_plugin(plugin);
	backend = eng_backend_open(device, 1, &status);
	if (backend == NULL)
		tap_ok(name[0] == '\0' && strstr(status.message, note) != NULL,
			   "%s is refused: %s", device, status.message);
	else
		tap_ok(strcmp(backend->name, name) == 0 &&
			   (note[0] == '\0' ? backend->note[0] == '\0' :
				strstr(backend->note, note) != NULL) &&
			   eng_backend_usual_type(backend) == type,
			   "%s gives %s, %s; %s", device, backend->name,
			   eng_type_name(type), backend->note);
	if (backend != NULL)
		backend->close(backend);
}

static void
test_opening(void)
{
	check_open("auto", emulated, "cuda", "", ENG_BF16);
	check_open("cuda", emulated, "cuda", "", ENG_BF16);
	check_open("cuda:0", emulated, "cuda", "", ENG_BF16);
	check_open("auto", "/nonexistent.so", "cpu", "could not load", ENG_F32);
	check_open("cuda", "/nonexistent.so", "", "could not load", ENG_F32);
	check_open("auto", other, "cpu", "another version", ENG_F32);
	check_open("cuda:0", other, "", "another version", ENG_F32);
	check_open("cpu", emulated, "cpu", "", ENG_F32);
	use_plugin(NULL);
	if (eng_device_gpu_seen())
		tap_skip("auto without a GPU", "this machine has one");
	else
		check_open("auto", NULL, "cpu", "", ENG_F32);
}

/* Machines whose GPUs are others, or not enough. */
static void
test_machines(void)
{
	setenv("AVC_EMULATED_DEVICES", "2", 1);
	check_open("cuda:1", emulated, "cuda", "", ENG_BF16);
	check_open("cuda:2", emulated, "", "this machine has 2", ENG_F32);
	setenv("AVC_EMULATED_DEVICES", "0", 1);
	check_open("cuda:0", emulated, "", "has no GPU", ENG_F32);
	check_open("auto", emulated, "cpu", "has no GPU", ENG_F32);
	unsetenv("AVC_EMULATED_DEVICES");
	setenv("AVC_EMULATED_COMPUTE", "70", 1);
	check_open("cuda:0", emulated, "", "too old", ENG_F32);
	check_open("auto", emulated, "cpu", "too old", ENG_F32);
	setenv("AVC_EMULATED_COMPUTE", "75", 1);
	check_open("cuda:0", emulated, "cuda", "", ENG_F16);
	unsetenv("AVC_EMULATED_COMPUTE");
	setenv("AVC_EMULATED_MEMORY", "0", 1);
	check_open("cuda:0", emulated, "", "out of memory", ENG_F32);
	unsetenv("AVC_EMULATED_MEMORY");
}

/* A LOAD: what it says of the device, and a DETECT after it. */
static void
check_load(Server *server, const char *device, const char *more,
		   const char *name, const char *precision)
{
	char		json[400];
	Reply		reply;
	Reply		found;

	snprintf(json, sizeof(json),
			 "{\"architecture\":\"small\",\"num_classes\":4,\"init\":true,"
			 "\"options\":{\"min_size\":64,\"max_size\":96},"
			 "\"threads\":1,\"device\":\"%s\"%s}", device, more);
	reply = client_call(server->fd, ENG_KIND_LOAD, json, NULL);
	found = client_call(server->fd, ENG_KIND_DETECT, detect_json, &jpegs);
	if (reply.kind != ENG_KIND_OK)
		tap_note("%s", reply_text(&reply, "message"));
	tap_ok(reply.kind == ENG_KIND_OK && found.kind == ENG_KIND_OK &&
		   strcmp(reply_text(&reply, "device"), name) == 0 &&
		   strcmp(reply_text(&reply, "precision"), precision) == 0 &&
		   (json_object_get(reply.json, "device_name") != NULL) ==
		   (strcmp(name, "cuda") == 0),
		   "device %s%s: %s, %s", device, more, name, precision);
	tap_ok((json_object_get(reply.json, "device_note") != NULL) ==
		   (strcmp(device, "auto") == 0 && strcmp(name, "cpu") == 0),
		   "a note where auto met a GPU that is none");
	reply_free(&reply);
	reply_free(&found);
}

static void
check_hello(Server *server, const char *json, const char *key)
{
	Reply		reply = client_call(server->fd, ENG_KIND_HELLO, json, NULL);
	size_t		count = json_array_size(json_object_get(reply.json, "devices"));

	tap_ok(reply.kind == ENG_KIND_OK &&
		   (json_object_get(reply.json, "gpu") != NULL) ==
		   (strcmp(key, "gpu") == 0) &&
		   (json_object_get(reply.json, "gpu_missing") != NULL) ==
		   (strcmp(key, "gpu_missing") == 0) &&
		   count == (strcmp(key, "gpu_missing") == 0 ? 2 : 3),
		   "HELLO %s says %s", json, key[0] != '\0' ? key : "nothing of it");
	reply_free(&reply);
}

/* A LOAD in a precision that the device does not have. */
static void
check_refused(Server *server, const char *device, const char *precision,
			  const char *message)
{
	char		json[200];
	Reply		reply;

	snprintf(json, sizeof(json),
			 "{\"architecture\":\"small\",\"init\":true,\"device\":\"%s\","
			 "\"precision\":\"%s\"}", device, precision);
	reply = client_call(server->fd, ENG_KIND_LOAD, json, NULL);
	tap_ok(reply.kind == ENG_KIND_ERROR &&
		   strstr(reply_text(&reply, "message"), message) != NULL,
		   "%s on %s: %s", precision, device, reply_text(&reply, "message"));
	reply_free(&reply);
}

/* A GPU without bf16, and what a step in f16 tells. */
static void
check_f16(Server *server)
{
	EngBuffer	jpeg = {0};
	char		json[300];
	Reply		load;
	Reply		reply;

	setenv("AVC_EMULATED_COMPUTE", "75", 1);
	check_load(server, "auto", "", "cuda", "f16");
	check_refused(server, "cuda:0", "bf16",
				  "the GPU lacks compute capability 8.0");
	unsetenv("AVC_EMULATED_COMPUTE");
	check_refused(server, "cpu", "f16", "GPUs alone");
	check_refused(server, "cuda:0", "fp16", "must be \"f32\"");
	load = client_call(server->fd, ENG_KIND_LOAD,
					   "{\"architecture\":\"small\",\"num_classes\":4,"
					   "\"options\":{\"min_size\":32,\"max_size\":64},"
					   "\"mode\":\"train\",\"init\":true,\"device\":\"cuda\","
					   "\"precision\":\"f16\"}", NULL);
	snprintf(json, sizeof(json),
			 "{\"step\":0,\"lr\":0.001,\"frames\":[{\"frame_id\":1,"
			 "\"position\":0,\"bytes\":%zu,\"labels\":[1],"
			 "\"boxes\":[[4,4,40,30]]}]}",
			 append_jpeg(&jpeg, 64, 40, 1, NULL, 0));
	reply = client_call(server->fd, ENG_KIND_STEP, json, &jpeg);
	tap_ok(load.kind == ENG_KIND_OK && reply.kind == ENG_KIND_OK &&
		   reply_number(&reply, "loss_scale") == ENG_LOSS_SCALE_FIRST &&
		   json_is_boolean(json_object_get(reply.json, "overflow")),
		   "a step in f16 tells its loss scale %s",
		   reply.kind == ENG_KIND_OK ? "" : reply_text(&reply, "message"));
	reply_free(&load);
	reply_free(&reply);
	eng_buffer_free(&jpeg);
}

static void
test_session(void)
{
	Server		server;
	Reply		reply;

	server_start(&server);
	use_plugin(emulated);
	check_hello(&server, "{\"protocol\":1}", "");
	check_hello(&server, "{\"protocol\":1,\"look\":true}", "gpu");
	check_load(&server, "auto", "", "cuda", "bf16");
	check_load(&server, "cuda:0", ",\"precision\":\"f32\"", "cuda", "f32");
	check_load(&server, "cpu", "", "cpu", "f32");
	check_f16(&server);
	reply = client_call(server.fd, ENG_KIND_LOAD,
						"{\"architecture\":\"small\",\"init\":true,"
						"\"device\":\"cuda\",\"device_memory_limit\":1000}",
						NULL);
	tap_ok(strcmp(reply_text(&reply, "code"), "no_memory") == 0,
		   "the device's own limit: %s", reply_text(&reply, "message"));
	reply_free(&reply);
	use_plugin("/nonexistent.so");
	check_hello(&server, "{\"protocol\":1,\"look\":true}", "gpu_missing");
	check_load(&server, "auto", "", "cpu", "f32");
	reply = client_call(server.fd, ENG_KIND_LOAD,
						"{\"architecture\":\"small\",\"init\":true,"
						"\"device\":\"cuda:0\"}", NULL);
	tap_ok(strcmp(reply_text(&reply, "code"), "unsupported") == 0,
		   "cuda:0 falls back to nothing: %s", reply_text(&reply, "message"));
	reply_free(&reply);
	server_stop(&server);
}

static void
test_clip(void)
{
	const EngClipConfig tiny = {
		.quick_gelu = true, .side = 64, .patch = 32, .tokens = 16,
		.vocabulary = 100, .dimensions = 24,
		.image = {.width = 64, .layers = 1, .heads = 1},
		.text = {.width = 64, .layers = 1, .heads = 1}
	};
	EngStatus	status = {0};
	EngClip    *clip;

	use_plugin(emulated);
	clip = eng_clip_create(&tiny, "auto", 1, &status);
	tap_ok(clip != NULL && eng_clip_backend(clip)->device &&
		   eng_clip_backend(clip)->note[0] == '\0' &&
		   eng_clip_usual_type(clip) == ENG_F16 &&
		   eng_clip_set_precision(clip, ENG_F16, &status),
		   "auto takes the GPU for CLIP, too, in f16 %s", status.message);
	eng_clip_free(clip);
	use_plugin(other);
	clip = eng_clip_create(&tiny, "auto", 1, &status);
	tap_ok(clip != NULL && !eng_clip_backend(clip)->device &&
		   eng_clip_usual_type(clip) == ENG_F32 &&
		   strstr(eng_clip_backend(clip)->note, "version") != NULL,
		   "or the processor, and why");
	eng_clip_free(clip);
	tap_ok(eng_clip_create(&tiny, "cuda", 1, &status) == NULL &&
		   status.code == ENG_UNSUPPORTED, "cuda does not: %s",
		   status.message);
}

int
main(void)
{
	find_plugins();
	make_pictures();
	test_names();
	test_opening();
	test_machines();
	test_session();
	test_clip();
	eng_buffer_free(&jpegs);
	return tap_done();
}
