/*
 * test/engine/net_training.c
 *		A small detector learns, repeats itself bit for bit, and resumes.
 */
#include "frames.h"
#include "tap.h"

#define CLASSES	4
#define FRAMES	4

#define OPTIONS "{\"widths\":[16,32,64,128],\"fpn_channels\":32," \
	"\"representation_size\":64,\"min_size\":64,\"max_size\":96," \
	"\"rpn_batch_size_per_image\":64,\"box_batch_size_per_image\":32," \
	"\"rpn_pre_nms_top_n_train\":100,\"rpn_post_nms_top_n_train\":60," \
	"\"rpn_pre_nms_top_n_test\":100,\"rpn_post_nms_top_n_test\":40}"

static EngType precision;		/* of the detectors made */

static EngDetector *
make(const char *backend, int threads, EngOptimizerKind kind,
	 EngStatus *status)
{
	EngDetectorConfig config;
	EngOptimizerConfig optimizer;
	EngDetector *detector;

	eng_optimizer_config_default(&optimizer);
	optimizer.kind = kind;
	if (!eng_detector_config_parse(&config, "small", OPTIONS, CLASSES,
								   status))
		return NULL;
	detector = eng_detector_create(&config, backend, threads, true, status);
	if (detector == NULL ||
		!eng_detector_set_precision(detector, precision, status) ||
		!eng_detector_set_optimizer(detector, &optimizer, status) ||
		!eng_detector_init(detector, 11, status))
	{
		eng_detector_free(detector);
		return NULL;
	}
	return detector;
}

static bool
train(EngDetector *detector, EngFrame *frames, int first, int last, float lr,
	  EngStepResult *result, EngStatus *status)
{
	int			step;

	for (step = first; step < last; step++)
	{
		EngStepInfo info = {.seed = 1, .step = step, .lr = lr};
		int			i;

		for (i = 0; i < FRAMES; i++)
		{
			frames[i].position = step * FRAMES + i;
			frames[i].flip = eng_random_uniform(1, step, i, ENG_USE_FLIP,
												0) < 0.5f;
		}
		if (!eng_detector_train_step(detector, frames, FRAMES, &info, result,
									 status))
			return false;
	}
	return true;
}

static bool
save(EngDetector *detector, EngBuffer *out)
{
	EngStatus	status = {ENG_OK, ""};

	memset(out, 0, sizeof(*out));
	return eng_detector_save(detector, true, out, &status);
}

static bool
same(const EngBuffer *a, const EngBuffer *b)
{
	return a->size == b->size && a->size > 0 &&
		memcmp(a->data, b->data, a->size) == 0;
}

static double
overlap(const float *a, const float *b)
{
	double		w = fmin(a[2], b[2]) - fmax(a[0], b[0]);
	double		h = fmin(a[3], b[3]) - fmax(a[1], b[1]);
	double		both = w > 0 && h > 0 ? w * h : 0;

	return both / ((double) (a[2] - a[0]) * (a[3] - a[1]) +
				   (double) (b[2] - b[0]) * (b[3] - b[1]) - both);
}

/* Boxes that a detection of their class covers. */
static int
found(const EngFrame *frame, const EngDetections *list)
{
	int			count = 0;
	int32_t		i;
	int32_t		j;

	for (i = 0; i < frame->box_count; i++)
		for (j = 0; j < list->count; j++)
			if (list->labels[j] == frame->labels[i] &&
				list->scores[j] > 0.5f &&
				overlap(list->boxes + 4 * j, frame->boxes + 4 * i) > 0.5)
			{
				count++;
				break;
			}
	return count;
}

static void
test_overfit(EngFrame *frames, EngOptimizerKind kind, float lr, int steps)
{
	EngStatus	status = {ENG_OK, ""};
	EngDetector *detector = make(tap_backend(), 1, kind, &status);
	EngDetections lists[FRAMES];
	EngStepResult start;
	EngStepResult end;
	int			hits = 0;
	int			boxes = 0;
	int			i;

	if (detector == NULL ||
		!train(detector, frames, 0, 1, lr, &start, &status) ||
		!train(detector, frames, 1, steps, lr, &end, &status) ||
		!eng_detector_infer(detector, frames, FRAMES, lists, &status))
	{
		tap_ok(false, "overfit: %s", status.message);
		eng_detector_free(detector);
		return;
	}
	tap_ok(end.loss < start.loss / 2, "%s, %s: loss falls from %g to %g",
		   kind == ENG_OPTIMIZER_SGD ? "sgd" : "adamw",
		   eng_type_name(precision), start.loss, end.loss);
	for (i = 0; i < FRAMES; i++)
	{
		frames[i].flip = false;
		boxes += frames[i].box_count;
	}
	(void) eng_detector_infer(detector, frames, FRAMES, lists, &status);
	for (i = 0; i < FRAMES; i++)
		hits += found(&frames[i], &lists[i]);
	tap_ok(hits * 4 >= boxes * 3, "%s, %s: finds %d of %d boxes",
		   kind == ENG_OPTIMIZER_SGD ? "sgd" : "adamw",
		   eng_type_name(precision), hits, boxes);
	eng_detector_free(detector);
}

/*
 * Two runs of equal threads give equal bytes; so do a run and its halves.
 */
static void
test_repeat(EngFrame *frames, EngOptimizerKind kind)
{
	const char *name = kind == ENG_OPTIMIZER_SGD ? "sgd" : "adamw";
	EngStatus	status = {ENG_OK, ""};
	EngDetector *a = make(tap_backend(), 2, kind, &status);
	EngDetector *b = make(tap_backend(), 2, kind, &status);
	EngDetector *c = make(tap_backend(), 2, kind, &status);
	EngLoadOptions options = {.strict = true};
	EngStepResult ra;
	EngStepResult rb;
	EngBuffer	sa = {0};
	EngBuffer	sb = {0};
	EngBuffer	half = {0};
	EngBuffer	sc = {0};
	EngTensorFile *file = NULL;
	bool		ok;

	ok = a && b && c && train(a, frames, 0, 4, 1e-3f, &ra, &status) &&
		train(b, frames, 0, 2, 1e-3f, &rb, &status) && save(b, &half) &&
		train(b, frames, 2, 4, 1e-3f, &rb, &status) && save(a, &sa) &&
		save(b, &sb);
	tap_ok(ok && same(&sa, &sb) && ra.loss == rb.loss,
		   "%s: equal runs give equal bytes %s", name, status.message);
	file = ok ? eng_tensor_file_open(half.data, half.size, &status) : NULL;
	ok = file != NULL && eng_detector_load(c, file, &options, &status) &&
		save(c, &sc);
	tap_ok(ok && same(&half, &sc), "%s: load and save is exact %s", name,
		   status.message);
	tap_ok(options.new_count == 0 && options.unused_count == 0 &&
		   options.optimizer_loaded > 0, "%s: all is taken", name);
	eng_buffer_free(&sc);
	ok = ok && train(c, frames, 2, 4, 1e-3f, &rb, &status) && save(c, &sc);
	tap_ok(ok && same(&sa, &sc), "%s: a resumed run ends equal %s", name,
		   status.message);
	eng_tensor_file_free(file);
	eng_buffer_free(&sa);
	eng_buffer_free(&sb);
	eng_buffer_free(&sc);
	eng_buffer_free(&half);
	eng_detector_free(a);
	eng_detector_free(b);
	eng_detector_free(c);
}

/*
 * With frozen norms two micro-batches of n frames act as one of 2n.
 */
static void
test_accumulate(EngFrame *frames)
{
	EngStatus	status = {ENG_OK, ""};
	EngDetector *a = make(tap_backend(), 1, ENG_OPTIMIZER_SGD, &status);
	EngOptimizerConfig optimizer;
	EngStepResult result;
	EngStepInfo info = {.seed = 1, .step = 0, .lr = 0};
	float		norm;
	int			i;

	eng_optimizer_config_default(&optimizer);
	optimizer.freeze_norm = true;
	(void) eng_detector_set_optimizer(a, &optimizer, &status);
	info.accumulate_count = 2;
	for (i = 0; i < 2; i++)
	{
		info.accumulate_index = i;
		(void) eng_detector_train_step(a, frames, 1, &info, &result, &status);
	}
	norm = result.grad_norm;
	info.accumulate_count = info.accumulate_index = 0;
	(void) eng_detector_train_step(a, frames, 1, &info, &result, &status);
	tap_ok(status.code == ENG_OK && norm > 0 &&
		   fabsf(norm - result.grad_norm) < 1e-4f * norm,
		   "equal micro-batches sum to the batch (%g, %g) %s", norm,
		   result.grad_norm, status.message);
	eng_detector_free(a);
}

/*
 * Only what trains moves.
 */
static void
test_frozen(EngFrame *frames)
{
	EngStatus	status = {ENG_OK, ""};
	EngDetector *a = make(tap_backend(), 1, ENG_OPTIMIZER_SGD, &status);
	EngOptimizerConfig optimizer;
	EngStepResult result;
	int			wrong = 0;
	int32_t		count = eng_detector_parameter_count(a);
	float	  **before = calloc(count, sizeof(float *));
	int32_t		i;

	eng_optimizer_config_default(&optimizer);
	optimizer.trainable_layers = 2;
	(void) eng_detector_set_optimizer(a, &optimizer, &status);
	for (i = 0; i < count; i++)
	{
		EngParameterInfo info;

		eng_detector_parameter_info(a, i, &info);
		before[i] = malloc(sizeof(float) * info.count);
		eng_detector_parameter_read(a, i, ENG_PART_VALUE, before[i]);
	}
	(void) train(a, frames, 0, 2, 1e-2f, &result, &status);
	for (i = 0; i < count; i++)
	{
		EngParameterInfo info;
		float	   *after;
		bool		moved;
		bool		frozen;

		eng_detector_parameter_info(a, i, &info);
		after = malloc(sizeof(float) * info.count);
		eng_detector_parameter_read(a, i, ENG_PART_VALUE, after);
		moved = memcmp(after, before[i], sizeof(float) * info.count) != 0;
		frozen = !info.is_buffer &&
			(strstr(info.name, "body.conv1") || strstr(info.name, "body.bn1") ||
			 strstr(info.name, "layer1") || strstr(info.name, "layer2"));
		if (frozen == moved)
		{
			tap_note("%s %s", info.name, moved ? "moved" : "did not move");
			wrong++;
		}
		free(after);
		free(before[i]);
	}
	tap_ok(wrong == 0, "two layers train, statistics of all norms move %s",
		   status.message);
	free(before);
	eng_detector_free(a);
}

/*
 * Whether this processor multiplies bf16; without, the refusal is judged.
 */
static bool
takes_bf16(void)
{
	EngStatus	status = {ENG_OK, ""};
	EngDetector *detector = make(tap_backend(), 1, ENG_OPTIMIZER_SGD, &status);
	bool		taken = eng_detector_set_precision(detector, ENG_BF16,
												   &status);

	tap_ok(taken || (status.code == ENG_UNSUPPORTED &&
					 strstr(status.message, "AVX512_BF16") != NULL &&
					 eng_detector_precision(detector) == ENG_F32),
		   "bf16 is taken or refused by name %s", status.message);
	eng_detector_free(detector);
	return taken;
}

int
main(void)
{
	EngFrame	frames[FRAMES];
	int			i;

	for (i = 0; i < FRAMES; i++)
		frame_make(&frames[i], i + 1, 96, 64, FRAME_BOXES, CLASSES);
	test_overfit(frames, ENG_OPTIMIZER_ADAMW, 2e-3f, 80);
	test_overfit(frames, ENG_OPTIMIZER_SGD, 1e-2f, 100);
	test_repeat(frames, ENG_OPTIMIZER_SGD);
	test_repeat(frames, ENG_OPTIMIZER_ADAMW);
	test_accumulate(frames);
	test_frozen(frames);
	if (takes_bf16())
	{
		precision = ENG_BF16;
		test_overfit(frames, ENG_OPTIMIZER_ADAMW, 2e-3f, 80);
		test_repeat(frames, ENG_OPTIMIZER_SGD);
		test_repeat(frames, ENG_OPTIMIZER_ADAMW);
	}
	for (i = 0; i < FRAMES; i++)
		frame_free(&frames[i]);
	return tap_done();
}
