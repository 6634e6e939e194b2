/*
 * test/engine/session_frames.c
 *		A training over a session whose pictures stay on the device.
 *
 * The frames come again and again, one of them with another picture later on.
 * What is kept must change nothing: neither where it is found nor where it is
 * not, in pinned memory or in any other, after another LOAD or the first.
 */
#include "engine/frame_key.h"
#include "session_thread.h"

#define STEPS	6
#define LOAD	"{\"architecture\":\"small\",\"init\":true,\"mode\":\"train\"," \
	"\"seed\":4,\"num_classes\":4,\"device\":\"%s\",\"precision\":\"f32\"," \
	"\"hflip\":0.5,\"options\":{\"widths\":[8,8,8,8],\"fpn_channels\":8," \
	"\"representation_size\":16,\"min_size\":48,\"max_size\":80," \
	"\"rpn_batch_size_per_image\":16,\"box_batch_size_per_image\":8," \
	"\"rpn_pre_nms_top_n_train\":30,\"rpn_post_nms_top_n_train\":20}}"

static const float box[4] = {10, 10, 40, 36};

/* SipHash-2-4-128 of nothing and of one zero, key 0, 1, ... 15: published. */
static void
test_hash(void)
{
	static const uint8_t expected[2][16] = {
		{0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6,
			0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55, 0x02, 0x93},
		{0xda, 0x87, 0xc1, 0xd8, 0x6b, 0x99, 0xaf, 0x44,
			0x34, 0x76, 0x59, 0x11, 0x9b, 0x22, 0xfc, 0x45}
	};
	static const uint8_t zeroes[40] = {0};
	uint64_t	key[2] = {0x0706050403020100, 0x0f0e0d0c0b0a0908};
	uint64_t	out[2];
	uint64_t	other[2];
	EngFrameKey a;
	EngFrameKey b;
	int			i;

	for (i = 0; i < 2; i++)
	{
		eng_siphash(out, key, zeroes, i);
		tap_ok(memcmp(out, expected[i], 16) == 0, "hash of %d bytes", i);
	}
	eng_siphash(out, key, zeroes, 39);
	eng_siphash(other, key, zeroes, 40);
	a = eng_frame_key(zeroes, 40);
	b = eng_frame_key(zeroes, 40);
	tap_ok(memcmp(out, other, 16) != 0 && memcmp(&a, &b, sizeof(a)) == 0 &&
		   eng_frame_key_is_set(&a), "keys are of length and contents");
}

/* Queue a STEP with frames 1 and 2; the second one's picture changes. */
static void
send_step(int fd, int step)
{
	EngBuffer	blob = {0};
	size_t		first = append_jpeg(&blob, 64, 48, 1, box, 1);
	size_t		second = append_jpeg(&blob, 56, 48, step < 3 ? 2 : 3, box, 1);
	char		json[500];

	snprintf(json, sizeof(json),
			 "{\"step\":%d,\"lr\":0.01,\"frames\":["
			 "{\"frame_id\":1,\"position\":%d,\"bytes\":%zu,\"labels\":[1],"
			 "\"boxes\":[[10,10,40,36]]},"
			 "{\"frame_id\":2,\"position\":%d,\"bytes\":%zu,\"labels\":[2],"
			 "\"boxes\":[[10,10,40,36]]}]}", step, 2 * step, first,
			 2 * step + 1, second);
	client_send(fd, ENG_KIND_STEP, json, &blob);
	eng_buffer_free(&blob);
}

/*
 * LOAD, the steps, two of them sent ahead, SAVE; false with a note.  *kept:
 * pictures that the device had already.
 */
static bool
train(int fd, EngBuffer *weights, int *kept)
{
	char		load[800];
	Reply		reply;
	bool		ok;
	int			step;

	snprintf(load, sizeof(load), LOAD, tap_backend());
	reply = client_call(fd, ENG_KIND_LOAD, load, NULL);
	ok = reply.kind == ENG_KIND_OK;
	if (!ok)
		tap_note("LOAD: %s", reply_text(&reply, "message"));
	reply_free(&reply);
	for (step = 0; ok && step < STEPS + 2; step++)
	{
		if (step < STEPS)
			send_step(fd, step);
		if (step < 2)
			continue;
		reply = client_receive(fd);
		ok = reply.kind == ENG_KIND_OK;
		*kept += (int) reply_number(&reply, "kept");
		if (!ok)
			tap_note("STEP: %s", reply_text(&reply, "message"));
		reply_free(&reply);
	}
	if (!ok)
		return false;
	reply = client_call(fd, ENG_KIND_SAVE, "{\"with_optimizer\":true}", NULL);
	ok = reply.kind == ENG_KIND_OK;
	*weights = reply.blob;
	memset(&reply.blob, 0, sizeof(reply.blob));
	reply_free(&reply);
	return ok;
}

/* Two trainings in one session, both to end with the expected weights. */
static void
check_session(const char *name, const char *variable, const char *value,
			  EngBuffer *expected, bool keeps)
{
	Server		server;
	int			kept = 0;
	int			i;

	if (variable != NULL)
		setenv(variable, value, 1);
	server_open(&server, NULL);
	for (i = 0; i < 2; i++)
	{
		EngBuffer	weights = {0};
		bool		ok = train(server.fd, &weights, &kept);

		if (expected->size == 0)
		{
			*expected = weights;
			tap_ok(ok, "%s: a training", name);
			continue;
		}
		tap_ok(ok && weights.size == expected->size &&
			   memcmp(weights.data, expected->data, weights.size) == 0,
			   "%s: equal weights", name);
		eng_buffer_free(&weights);
	}
	tap_ok(keeps ? kept >= 4 : kept == 0, "%s: %d pictures were there", name,
		   kept);
	server_stop(&server);
	if (variable != NULL)
		unsetenv(variable);
}

int
main(void)
{
	EngBuffer	expected = {0};
	bool		keeps = strncmp(tap_backend(), "cuda", 4) == 0;

	test_hash();
	check_session("nothing kept", "AVC_GPU_FRAME_CACHE", "0", &expected,
				  false);
	check_session("pictures kept", NULL, NULL, &expected, keeps);
	check_session("memory cannot be pinned", "AVC_EMULATED_FAIL",
				  "host_alloc", &expected, keeps);
	eng_buffer_free(&expected);
	return tap_done();
}
