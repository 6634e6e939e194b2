/*
 * test/engine/net_graphs.c
 *		What a device repeats, keeps and reads by itself changes nothing.
 *
 * One history of a small detector: steps of two shapes, micro-batches, a
 * batch without boxes, one with more boxes than there was room for, looks at
 * frames in between.  It is run with passes recorded and not, with pictures
 * kept and not, and with what makes these impossible; the bits are the same.
 */
#include "frames.h"
#include "tap.h"

#define CLASSES	4
#define POOL	6
#define MANY	90				/* boxes of the last frame */
#define STEPS	9

#define OPTIONS "{\"widths\":[8,16,24,32],\"fpn_channels\":16," \
	"\"representation_size\":32,\"max_size\":96,\"min_size\":48," \
	"\"rpn_batch_size_per_image\":32,\"box_batch_size_per_image\":16," \
	"\"rpn_pre_nms_top_n_train\":40,\"rpn_post_nms_top_n_train\":30," \
	"\"rpn_pre_nms_top_n_test\":40,\"rpn_post_nms_top_n_test\":20}"

/* One batch: frames of the pool, and how it is used. */
typedef struct Batch
{
	int			first;
	int			count;
	int			index;			/* of how many micro-batches */
	int			micro;
	bool		look;			/* infer instead */
} Batch;

static const Batch history[STEPS + 3] = {
	{0, 2, 0, 1}, {0, 2, 0, 1}, {0, 2, 0, 1},	/* normal, recorded, run */
	{2, 2, 0, 2}, {2, 2, 1, 2},					/* another shape, gathered */
	{2, 1, 0, 1, true}, {2, 1, 0, 1, true}, {2, 1, 0, 1, true},
	{4, 1, 0, 1},								/* no boxes */
	{5, 1, 0, 1},								/* many */
	{0, 2, 0, 1}, {2, 2, 0, 1}
};

typedef struct Outcome
{
	float		seen[3 * (STEPS + 3)];	/* losses, norms or scores */
	EngBuffer	weights;
	int64_t		graphs;
	bool		noted;			/* why there are no graphs */
	int			held;			/* pictures that were not given again */
	size_t		kept;			/* bytes of pictures on the device */
} Outcome;

static EngFrame pool[POOL];
static EngType precision;

static EngDetector *
make(EngStatus *status)
{
	EngDetectorConfig config;
	EngDetector *detector;

	if (!eng_detector_config_parse(&config, "fasterrcnn_resnet18_fpn_v2",
								   OPTIONS, CLASSES, status))
		return NULL;
	detector = eng_detector_create(&config, tap_backend(), 2, true, status);
	if (detector == NULL ||
		!eng_detector_set_precision(detector, precision, status) ||
		!eng_detector_init(detector, 5, status))
	{
		eng_detector_free(detector);
		return NULL;
	}
	return detector;
}

/*
 * Frames of a batch; under a key, a picture that the device has is not given.
 */
static int
choose(EngDetector *detector, const Batch *batch, bool keyed,
	   EngFrame frames[2])
{
	EngBackend *keeper = keyed ? eng_detector_keeper(detector) : NULL;
	int			held = 0;
	int			i;

	for (i = 0; i < batch->count; i++)
	{
		frames[i] = pool[batch->first + i];
		frames[i].position = 10 * batch->first + i;
		frames[i].flip = (batch->first + i) % 2 == 1;
		if (keeper == NULL)
			continue;
		frames[i].key = (EngFrameKey) {{(uint64_t) frames[i].frame_id, 7}};
		if (!keeper->frame_hold(keeper, &frames[i].key))
			continue;
		frames[i].rgb = NULL;
		held++;
	}
	return held;
}

static void
let_go(EngDetector *detector, const Batch *batch, const EngFrame frames[2])
{
	EngBackend *keeper = eng_detector_keeper(detector);
	int			i;

	for (i = 0; i < batch->count; i++)
		if (frames[i].rgb == NULL)
			keeper->frame_release(keeper, &frames[i].key);
}

static bool
run_batch(EngDetector *detector, const Batch *batch, int step,
		  const EngFrame frames[2], float seen[3], EngStatus *status)
{
	EngStepInfo info = {
		.seed = 3, .step = (uint64_t) step, .lr = 1e-3f * (float) (step + 1),
		.accumulate_index = batch->index, .accumulate_count = batch->micro
	};
	EngStepResult result;
	EngDetections found;

	if (batch->look)
	{
		if (!eng_detector_infer(detector, frames, batch->count, &found,
								status))
			return false;
		seen[0] = (float) found.count;
		seen[1] = found.count > 0 ? found.scores[0] : 0;
		seen[2] = found.count > 0 ? found.boxes[2] : 0;
		return true;
	}
	if (!eng_detector_train_step(detector, frames, batch->count, &info,
								 &result, status))
		return false;
	seen[0] = result.loss;
	seen[1] = result.grad_norm;
	seen[2] = result.skipped;
	return true;
}

static bool
run(bool keyed, Outcome *out, EngStatus *status)
{
	EngDetector *detector = make(status);
	const char *note;
	bool		ok = detector != NULL;
	int			i;

	memset(out, 0, sizeof(*out));
	for (i = 0; ok && i < (int) (sizeof(history) / sizeof(history[0])); i++)
	{
		EngFrame	frames[2];

		out->held += choose(detector, &history[i], keyed, frames);
		ok = run_batch(detector, &history[i], i, frames, &out->seen[3 * i],
					   status);
		if (keyed)
			let_go(detector, &history[i], frames);
	}
	ok = ok && eng_detector_save(detector, true, &out->weights, status);
	if (ok)
	{
		EngBackend *keeper = eng_detector_keeper(detector);

		out->graphs = eng_detector_graphs_run(detector, &note);
		out->noted = note[0] != '\0';
		out->kept = keeper == NULL ? 0 : keeper->frame_bytes(keeper);
	}
	eng_detector_free(detector);
	return ok;
}

/*
 * A run with a variable of the environment set, beside the expected one.
 */
static Outcome
compare(const char *name, const char *variable, const char *value, bool keyed,
		const Outcome *expected)
{
	EngStatus	status = {ENG_OK, ""};
	Outcome		out;

	if (variable != NULL)
		setenv(variable, value, 1);
	tap_ok(run(keyed, &out, &status) &&
		   memcmp(out.seen, expected->seen, sizeof(out.seen)) == 0 &&
		   out.weights.size == expected->weights.size &&
		   memcmp(out.weights.data, expected->weights.data,
				  out.weights.size) == 0,
		   "%s: equal losses, detections and weights %s", name,
		   status.message);
	if (variable != NULL)
		unsetenv(variable);
	eng_buffer_free(&out.weights);
	return out;
}

static void
test_graphs(const Outcome *plain)
{
	Outcome		out = compare("recorded", NULL, NULL, false, plain);

	tap_ok(plain->graphs == 0 && out.graphs >= 4 && !out.noted,
		   "passes that came again were run as graphs: %lld",
		   (long long) out.graphs);
}

static void
test_refusals(const Outcome *plain)
{
	Outcome		out = compare("no recording is possible",
							  "AVC_EMULATED_FAIL", "capture", false, plain);

	tap_ok(out.graphs == 0 && out.noted, "and it is noted why");
	(void) compare("no memory can be pinned", "AVC_EMULATED_FAIL",
				   "host_alloc", false, plain);
}

static void
test_frames(const Outcome *plain)
{
	Outcome		out = compare("pictures kept", NULL, NULL, true, plain);

	tap_ok(out.held >= 8 && out.kept > 0,
		   "pictures that came again were not sent: %d", out.held);
	out = compare("no pictures kept", "AVC_GPU_FRAME_CACHE", "0", true,
				  plain);
	tap_ok(out.held == 0 && out.kept == 0, "none was kept");
}

/*
 * Pictures fill the memory; a batch that needs it gets it back.
 */
static void
test_pressure(void)
{
	EngStatus	status = {ENG_OK, ""};
	EngFrame	large[3];
	EngDetector *detector;
	size_t		kept[2] = {0, 0};
	bool		ok;
	int			i;

	setenv("AVC_EMULATED_MEMORY", "160", 1);
	setenv("AVC_GPU_FRAME_CACHE", "100000", 1);
	detector = make(&status);
	unsetenv("AVC_GPU_FRAME_CACHE");
	ok = detector != NULL;
	for (i = 0; i < 3; i++)
	{
		/* slabs of about 60 MB; the last needs as much beside them */
		frame_make(&large[i], 20 + i, i < 2 ? 1000 + 40 * i : 4500,
				   i < 2 ? 800 : 4000, 2, CLASSES);
		large[i].key = (EngFrameKey) {{(uint64_t) i + 1, 1}};
	}
	large[2].key = (EngFrameKey) {{0, 0}};
	for (i = 0; ok && i < 3; i++)
	{
		EngStepInfo info = {.seed = 1, .step = (uint64_t) i, .lr = 1e-3f};
		EngStepResult result;
		EngBackend *keeper = eng_detector_keeper(detector);

		ok = eng_detector_train_step(detector, &large[i], 1, &info, &result,
									 &status);
		kept[i == 2] = keeper->frame_bytes(keeper);
	}
	tap_ok(ok && kept[0] > ((size_t) 50 << 20) && kept[1] < kept[0],
		   "kept pictures make room: %zu, then %zu bytes %s", kept[0],
		   kept[1], status.message);
	eng_detector_free(detector);
	unsetenv("AVC_EMULATED_MEMORY");
	for (i = 0; i < 3; i++)
		frame_free(&large[i]);
}

static void
make_pool(void)
{
	int			i;

	for (i = 0; i < POOL; i++)
		frame_make(&pool[i], i + 1, i < 2 ? 64 : 50, i < 2 ? 48 : 70,
				   i == 4 ? 0 : i == 5 ? MANY : 2, CLASSES);
}

int
main(void)
{
	EngStatus	status = {ENG_OK, ""};
	EngBackend *backend = eng_backend_open(tap_backend(), 1, &status);
	bool		is_device = backend != NULL && backend->device;
	bool		emulated = is_device &&
		strstr(backend->device_name, "plays a GPU") != NULL;
	Outcome		plain;

	if (backend != NULL)
		backend->close(backend);
	if (!is_device)
	{
		tap_skip("graphs", "the backend is no device");
		return tap_done();
	}
	make_pool();
	for (precision = ENG_F32; precision <= ENG_BF16; precision++)
	{
		setenv("AVC_GPU_GRAPHS", "0", 1);
		tap_ok(run(false, &plain, &status), "plain: %s", status.message);
		unsetenv("AVC_GPU_GRAPHS");
		test_graphs(&plain);
		if (precision == ENG_F32)
			test_frames(&plain);
		if (precision == ENG_F32 && emulated)
			test_refusals(&plain);
		eng_buffer_free(&plain.weights);
	}
	if (emulated)
		test_pressure();
	for (int i = 0; i < POOL; i++)
		frame_free(&pool[i]);
	return tap_done();
}
