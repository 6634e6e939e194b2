/*
 * test/engine/net_f16.c
 *		Training in f16: it learns, its loss scale falls and grows by the rules,
 *		what overflows changes no weights, a resumed run ends equal, and what
 *		nothing helps ends with an error.
 *
 * GPUs alone compute in f16, real or emulated ones (AVC_TEST_BACKEND=cuda).
 */
#include "frames.h"
#include "tap.h"

#define CLASSES	3
#define FRAMES	2

#define OPTIONS "{\"widths\":[8,8,16,16],\"fpn_channels\":16," \
	"\"representation_size\":32,\"min_size\":32,\"max_size\":64," \
	"\"anchor_sizes\":[[8],[16],[32],[64],[128]]," \
	"\"rpn_batch_size_per_image\":32,\"box_batch_size_per_image\":16," \
	"\"rpn_pre_nms_top_n_train\":40,\"rpn_post_nms_top_n_train\":20," \
	"\"rpn_pre_nms_top_n_test\":40,\"rpn_post_nms_top_n_test\":20}"

static EngFrame frames[FRAMES];
static EngStatus status = {ENG_OK, ""};

static EngDetector *
make(void)
{
	EngDetectorConfig config;
	EngOptimizerConfig optimizer;
	EngDetector *detector;

	eng_optimizer_config_default(&optimizer);
	optimizer.kind = ENG_OPTIMIZER_ADAMW;
	if (!eng_detector_config_parse(&config, "small", OPTIONS, CLASSES,
								   &status))
		return NULL;
	detector = eng_detector_create(&config, tap_backend(), 1, true, &status);
	if (detector == NULL ||
		!eng_detector_set_precision(detector, ENG_F16, &status) ||
		!eng_detector_set_optimizer(detector, &optimizer, &status) ||
		!eng_detector_init(detector, 11, &status))
	{
		eng_detector_free(detector);
		return NULL;
	}
	return detector;
}

static bool
train(EngDetector *detector, int first, int last, EngStepResult *result)
{
	int			step;
	int			i;

	for (step = first; step < last; step++)
	{
		EngStepInfo info = {.seed = 1, .step = step, .lr = 4e-3f};

		for (i = 0; i < FRAMES; i++)
			frames[i].position = step * FRAMES + i;
		if (!eng_detector_train_step(detector, frames, FRAMES, &info, result,
									 &status))
			return false;
	}
	return true;
}

static bool
save(EngDetector *detector, EngBuffer *out)
{
	eng_buffer_free(out);
	return eng_detector_save(detector, true, out, &status);
}

static bool
load(EngDetector *detector, const EngBuffer *saved)
{
	EngLoadOptions options = {.strict = true};
	EngTensorFile *file = eng_tensor_file_open(saved->data, saved->size,
											   &status);
	bool		ok = file != NULL &&
		eng_detector_load(detector, file, &options, &status) &&
		options.optimizer_loaded > 0;

	eng_tensor_file_free(file);
	return ok;
}

/* Write 4 bytes over a tensor of a saved file, or read them. */
static bool
patch(EngBuffer *saved, const char *name, void *bytes, bool write)
{
	EngTensorFile *file = eng_tensor_file_open(saved->data, saved->size,
											   &status);
	const EngFileTensor *tensor = file == NULL ? NULL :
		eng_tensor_file_find(file, name);

	if (tensor != NULL && tensor->bytes == 4 && write)
		memcpy(saved->data + (tensor->data - saved->data), bytes, 4);
	else if (tensor != NULL && tensor->bytes == 4)
		memcpy(bytes, tensor->data, 4);
	eng_tensor_file_free(file);
	return tensor != NULL;
}

/* Give the detector a loss scale that has been good for so many steps. */
static bool
set_scale(EngDetector *detector, float scale, int32_t good)
{
	EngBuffer	saved = {0};
	bool		ok;

	ok = save(detector, &saved) &&
		patch(&saved, "optimizer.loss_scale", &scale, true) &&
		patch(&saved, "optimizer.loss_scale_steps", &good, true) &&
		load(detector, &saved);
	eng_buffer_free(&saved);
	return ok;
}

static float
scale_of(EngDetector *detector)
{
	EngBuffer	saved = {0};
	float		scale = -1;

	if (!save(detector, &saved) ||
		!patch(&saved, "optimizer.loss_scale", &scale, false))
		scale = -1;
	eng_buffer_free(&saved);
	return scale;
}

/* Tensors that differ, but for statistics of norms and the loss scale. */
static int
differences(const EngBuffer *a, const EngBuffer *b)
{
	EngTensorFile *left = eng_tensor_file_open(a->data, a->size, &status);
	EngTensorFile *right = eng_tensor_file_open(b->data, b->size, &status);
	int			count = 0;
	int32_t		i;

	for (i = 0; i < left->count; i++)
	{
		const EngFileTensor *t = &left->tensors[i];
		const EngFileTensor *u = &right->tensors[i];

		count += strstr(t->name, "running_") == NULL &&
			strstr(t->name, "num_batches") == NULL &&
			strstr(t->name, "loss_scale") == NULL &&
			(t->bytes != u->bytes || memcmp(t->data, u->data, t->bytes) != 0);
	}
	eng_tensor_file_free(left);
	eng_tensor_file_free(right);
	return count;
}

static void
test_refused(void)
{
	static const char *const devices[] = {"cpu", "ref"};
	EngDetectorConfig config;
	size_t		i;

	for (i = 0; i < 2; i++)
	{
		EngStatus	refused = {ENG_OK, ""};
		EngDetector *detector;

		(void) eng_detector_config_parse(&config, "small", OPTIONS, CLASSES,
										 &refused);
		detector = eng_detector_create(&config, devices[i], 1, false,
									   &refused);
		tap_ok(!eng_detector_set_precision(detector, ENG_F16, &refused) &&
			   refused.code == ENG_UNSUPPORTED &&
			   strstr(refused.message, "GPUs alone") != NULL &&
			   eng_detector_precision(detector) == ENG_F32,
			   "%s: %s", devices[i], refused.message);
		eng_detector_free(detector);
	}
}

/*
 * A step's gradients beside those in float: alike, as far as both sample the
 * same proposals, and read without the scale.
 */
static void
test_gradients(void)
{
	EngDetector *half = make();
	EngDetector *full = make();
	EngStepResult a = {0};
	EngStepResult b = {0};
	double		both = 0;
	double		squares[2] = {0, 0};
	float	   *x = calloc(100000, sizeof(float));
	float	   *y = calloc(100000, sizeof(float));
	int32_t		i;
	int64_t		j;
	bool		ok;

	ok = eng_detector_set_precision(full, ENG_F32, &status) &&
		train(half, 0, 1, &a) && train(full, 0, 1, &b);
	tap_ok(ok && a.loss_scale == ENG_LOSS_SCALE_FIRST && !a.overflow &&
		   b.loss_scale == 0 && fabsf(a.loss - b.loss) < 0.02f * b.loss,
		   "a step in f16: loss %g, in f32 %g %s", a.loss, b.loss,
		   status.message);
	for (i = 0; ok && i < eng_detector_parameter_count(half); i++)
	{
		EngParameterInfo info;

		eng_detector_parameter_info(half, i, &info);
		if (info.count > 100000 || info.is_buffer ||
			!eng_detector_parameter_read(half, i, ENG_PART_GRADIENT, x) ||
			!eng_detector_parameter_read(full, i, ENG_PART_GRADIENT, y))
			continue;
		for (j = 0; j < info.count; j++)
		{
			both += (double) x[j] * y[j];
			squares[0] += (double) x[j] * x[j];
			squares[1] += (double) y[j] * y[j];
		}
	}
	tap_ok(fabs(sqrt(squares[0]) - a.grad_norm) < 1e-4 * a.grad_norm &&
		   fabs(sqrt(squares[1]) - b.grad_norm) < 1e-4 * b.grad_norm &&
		   both > 0.9 * sqrt(squares[0] * squares[1]),
		   "gradients of norm %g, in f32 %g, cosine %.5f", a.grad_norm,
		   b.grad_norm, both / sqrt(squares[0] * squares[1]));
	free(x);
	free(y);
	eng_detector_free(half);
	eng_detector_free(full);
}

#define TOO_LARGE	0x1p22f		/* a loss scale that overflows */
#define STEPS		18

/*
 * Train with too large a scale: what overflows changes nothing but the scale,
 * then the detector learns; so does one that was stopped in between.
 */
static void
test_overflow(void)
{
	EngDetector *a = make();
	EngDetector *b = make();
	EngStepResult result = {0};
	EngStepResult other = {0};
	EngBuffer	before = {0};
	EngBuffer	after = {0};
	EngBuffer	half = {0};
	EngBuffer	end = {0};
	float		first;
	int			skipped = 0;
	int			step;
	bool		ok;

	ok = set_scale(a, TOO_LARGE, 7) && save(a, &before) &&
		train(a, 0, 1, &result) && save(a, &after);
	first = result.loss;
	tap_ok(ok && result.overflow && result.loss_scale == TOO_LARGE &&
		   result.grad_norm == 0 && scale_of(a) == TOO_LARGE / 2,
		   "a scale of 2^22 overflows and is halved %s", status.message);
	tap_ok(ok && differences(&before, &after) == 0,
		   "and no weight, no slot, no count of updates has changed");
	ok = ok && load(b, &after);
	for (step = 1; ok && step < STEPS; step++)
	{
		ok = train(a, step, step + 1, &result);
		skipped += result.overflow;
		ok = ok && result.loss_scale == TOO_LARGE / 2 /
			(float) (1 << (skipped - result.overflow));
		if (step == 2)
			ok = ok && save(a, &half);
		if (step == 5)
			ok = ok && save(a, &end);
	}
	tap_ok(ok && skipped < 10 && !result.overflow,
		   "after %d more it is small enough %s", skipped, status.message);
	tap_ok(ok && result.loss < first * 0.7f && isfinite(result.grad_norm),
		   "and the loss falls from %g to %g", first, result.loss);
	ok = ok && train(b, 1, 3, &other) && save(b, &after);
	tap_ok(ok && after.size == half.size &&
		   memcmp(after.data, half.data, half.size) == 0,
		   "resumed after an overflow: the same bytes %s",
		   status.message);
	ok = ok && load(b, &half) && train(b, 3, 6, &other) && save(b, &after);
	tap_ok(ok && after.size == end.size &&
		   memcmp(after.data, end.data, end.size) == 0,
		   "and again: the same bytes, the same scale %s", status.message);
	eng_buffer_free(&before);
	eng_buffer_free(&after);
	eng_buffer_free(&half);
	eng_buffer_free(&end);
	eng_detector_free(a);
	eng_detector_free(b);
}

/* A scale grows after 2000 good steps, and what is no scale is refused. */
static void
test_growth(void)
{
	EngDetector *detector = make();
	EngStepResult result = {0};
	EngBuffer	saved = {0};
	EngStatus	refused = {ENG_OK, ""};
	EngTensorFile *file;
	EngLoadOptions options = {.strict = true};
	bool		ok;

	ok = set_scale(detector, 256, 1999) && train(detector, 0, 1, &result);
	tap_ok(ok && result.loss_scale == 256 && scale_of(detector) == 512,
		   "doubled after the 2000th good step %s", status.message);
	ok = ok && train(detector, 1, 2, &result);
	tap_ok(ok && result.loss_scale == 512 && scale_of(detector) == 512,
		   "and not after the next");
	ok = save(detector, &saved) &&
		patch(&saved, "optimizer.loss_scale", &(float) {NAN}, true);
	file = eng_tensor_file_open(saved.data, saved.size, &status);
	tap_ok(ok && !eng_detector_load(detector, file, &options, &refused) &&
		   refused.code == ENG_BAD_FILE, "refused: %s", refused.message);
	eng_tensor_file_free(file);
	ok = eng_detector_set_precision(detector, ENG_F32, &status);
	tap_ok(ok && scale_of(detector) == -1, "in f32 nothing is scaled");
	eng_buffer_free(&saved);
	eng_detector_free(detector);
}

static void
set_all(EngDetector *detector, const char *name, float value)
{
	int32_t		i;
	int64_t		j;

	for (i = 0; i < eng_detector_parameter_count(detector); i++)
	{
		EngParameterInfo info;
		float	   *values;

		eng_detector_parameter_info(detector, i, &info);
		if (strcmp(info.name, name) != 0)
			continue;
		values = calloc(info.count, sizeof(float));
		for (j = 0; j < info.count; j++)
			/* classes but the first are the opposite */
			values[j] = info.rank == 2 && info.shape[0] == CLASSES &&
				j >= info.shape[1] ? -value : value;
		(void) eng_detector_parameter_write(detector, i, ENG_PART_VALUE,
											values);
		free(values);
	}
}

/*
 * Weights so large that gradients overflow whatever the scale, while the loss
 * is finite: an error, once the scale has fallen to its limit.
 */
static void
test_endless(void)
{
	EngDetector *detector = make();
	EngStepResult result = {0};
	bool		ok;

	set_all(detector, "roi_heads.box_head.fc6.weight", 0);
	set_all(detector, "roi_heads.box_head.fc6.bias", 0.01f);
	set_all(detector, "roi_heads.box_head.fc7.weight", 60000);
	set_all(detector, "roi_heads.box_predictor.cls_score.weight", 60000);
	ok = set_scale(detector, 2 * ENG_LOSS_SCALE_LEAST, 0) &&
		train(detector, 0, 1, &result);
	tap_ok(ok && result.overflow && isfinite(result.loss) && result.loss > 0,
		   "gradients too large for 2^-13, of a loss of %g %s", result.loss,
		   status.message);
	tap_ok(!train(detector, 1, 2, &result), "an error at the limit");
	tap_ok(status.code == ENG_NUMERIC &&
		   strstr(status.message, "loss scale") != NULL &&
		   strstr(status.message, "step 1, frames") != NULL, "%s",
		   status.message);
	eng_detector_free(detector);
}

/* Maps and scores in f16 beside those in f32, of the same weights. */
static void
test_inference(void)
{
	EngDetector *detector = make();
	EngDetections found[FRAMES];
	EngStage	stage = {0};
	float	   *half = NULL;
	int64_t		count = 0;
	double		worst = 0;
	double		most = 0;
	int64_t		i;
	bool		ok;

	status = (EngStatus) {ENG_OK, ""};	/* the failure that was wanted */
	ok = eng_detector_infer(detector, frames, FRAMES, found, &status) &&
		eng_detector_stage(detector, "p4", &stage);
	if (ok)
	{
		count = (int64_t) stage.n * stage.h * stage.w * stage.c;
		half = malloc(sizeof(float) * count);
		memcpy(half, stage.data, sizeof(float) * count);
	}
	ok = ok && eng_detector_set_precision(detector, ENG_F32, &status) &&
		eng_detector_infer(detector, frames, FRAMES, found, &status) &&
		eng_detector_stage(detector, "p4", &stage);
	for (i = 0; ok && i < count; i++)
	{
		worst = fmax(worst, fabs(half[i] - stage.data[i]));
		most = fmax(most, fabs(stage.data[i]));
	}
	tap_ok(ok && worst > 0 && worst < 0.01 * most,
		   "a map in f16 differs from f32 by %.1e %s", worst / most,
		   status.message);
	free(half);
	eng_detector_free(detector);
}

int
main(void)
{
	int			i;

	test_refused();
	if (strncmp(tap_backend(), "cuda", 4) != 0)
	{
		tap_skip("f16", "AVC_TEST_BACKEND names no GPU");
		return tap_done();
	}
	for (i = 0; i < FRAMES; i++)
		frame_make(&frames[i], i + 1, 64, 40, 2, CLASSES);
	test_gradients();
	test_overflow();
	test_growth();
	test_endless();
	test_inference();
	for (i = 0; i < FRAMES; i++)
		frame_free(&frames[i]);
	return tap_done();
}
