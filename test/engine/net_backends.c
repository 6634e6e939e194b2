/*
 * test/engine/net_backends.c
 *		Whole small detectors: cpu (or the backend named in the environment)
 *		against ref, losses, gradients, detections.
 */
#include "frames.h"
#include "tap.h"

#include <unistd.h>

#define CLASSES	4

typedef struct Case
{
	const char *name;
	const char *architecture;
	const char *options;
	int32_t		width;
	int32_t		height;
	int			frames;
	bool		freeze_norm;
	int32_t		trainable_layers;
	double		tolerance;		/* of the gradients */
	bool		as_torch;		/* torch's generator samples */
} Case;

#define TINY "\"widths\":[8,16,32,64],\"fpn_channels\":16,\"representation_size\":24," \
	"\"max_size\":128,\"anchor_sizes\":[8,16,32,64,128]," \
	"\"rpn_batch_size_per_image\":32,\"box_batch_size_per_image\":16," \
	"\"rpn_pre_nms_top_n_train\":50,\"rpn_post_nms_top_n_train\":40," \
	"\"rpn_pre_nms_top_n_test\":50,\"rpn_post_nms_top_n_test\":30"

#define SIZE ",\"min_size\":64"

static const Case cases[] = {
	{"small", "small", "{" TINY SIZE "}", 96, 64, 2, false, 5,
	1e-3},
	{"frozen norm", "fasterrcnn_resnet18_fpn",
	"{" TINY SIZE ",\"norm\":\"frozen\"}", 90, 64, 1, false, 3, 1e-4},
	{"version 2", "fasterrcnn_resnet18_fpn_v2", "{" TINY SIZE "}", 96, 70, 2,
	false, 5, 1e-3},
	{"bottlenecks", "fasterrcnn_resnet50_fpn",
	"{" TINY SIZE ",\"norm\":\"frozen\"}", 64, 64, 2, false, 3, 1e-3},
	/* one ReLU that flips at rounding moves statistics over few cells */
	{"bottlenecks with batch norm", "fasterrcnn_resnet50_fpn_v2",
	"{" TINY ",\"min_size\":128}", 64, 64, 2, false, 3, 0.2},
	{"torch's generator", "small", "{" TINY SIZE "}", 96, 64, 3, false, 5,
	1e-3, true},
	{"norms frozen by the optimizer", "fasterrcnn_resnet34_fpn",
	"{" TINY SIZE "}", 100, 65, 1, true, 5, 1e-3}
};

/* What one step left behind. */
typedef struct Outcome
{
	EngDetector *detector;
	EngStepResult result;
	EngDetections detections[4];
} Outcome;

static bool
run(Outcome *outcome, const Case *test, const char *backend, int threads,
	const EngFrame *frames, EngStatus *status)
{
	EngDetectorConfig config;
	EngOptimizerConfig optimizer;
	EngStepInfo info = {.seed = 3, .step = 1, .lr = 0, .no_update = true};
	EngDetectorHooks hooks = {.keep_all = true};
	EngMt19937	mt;

	eng_mt19937_seed(&mt, 11);
	if (test->as_torch)
	{
		hooks.sample_mode = ENG_SAMPLE_MT19937;
		hooks.mt = &mt;
	}
	eng_optimizer_config_default(&optimizer);
	optimizer.trainable_layers = test->trainable_layers;
	optimizer.freeze_norm = test->freeze_norm;
	if (!eng_detector_config_parse(&config, test->architecture, test->options,
								   CLASSES, status))
		return false;
	outcome->detector = eng_detector_create(&config, backend, threads, true,
											status);
	if (outcome->detector == NULL)
		return false;
	eng_detector_set_hooks(outcome->detector, &hooks);
	return eng_detector_set_optimizer(outcome->detector, &optimizer, status) &&
		eng_detector_init(outcome->detector, 8, status) &&
		eng_detector_train_step(outcome->detector, frames, test->frames,
								&info, &outcome->result, status);
}

/*
 * Largest relative L2 difference of a parameter's gradient.
 */
static double
gradient_difference(const Outcome *a, const Outcome *b, const char **where)
{
	double		worst = 0;
	int32_t		i;

	for (i = 0; i < eng_detector_parameter_count(a->detector); i++)
	{
		EngParameterInfo info;
		float	   *left;
		float	   *right;
		double		difference = 0;
		double		size = 0;
		int64_t		j;

		eng_detector_parameter_info(a->detector, i, &info);
		if (!info.is_trainable)
			continue;
		left = malloc(sizeof(float) * info.count);
		right = malloc(sizeof(float) * info.count);
		eng_detector_parameter_read(a->detector, i, ENG_PART_GRADIENT, left);
		eng_detector_parameter_read(b->detector, i, ENG_PART_GRADIENT, right);
		for (j = 0; j < info.count; j++)
		{
			difference += ((double) left[j] - right[j]) *
				((double) left[j] - right[j]);
			size += (double) right[j] * right[j];
		}
		difference = sqrt(difference) / (sqrt(size) + 1e-6);
		if (difference > worst)
		{
			worst = difference;
			*where = info.name;
		}
		free(left);
		free(right);
	}
	return worst;
}

static bool
near(double a, double b, double tolerance)
{
	return fabs(a - b) <= tolerance * (1 + fabs(b));
}

/*
 * Give a the statistics of b: those of few cells differ by a flipped ReLU.
 */
static void
copy_values(Outcome *a, const Outcome *b)
{
	int32_t		i;

	for (i = 0; i < eng_detector_parameter_count(a->detector); i++)
	{
		EngParameterInfo info;
		float	   *values;

		eng_detector_parameter_info(a->detector, i, &info);
		if (info.is_counter)
			continue;
		values = malloc(sizeof(float) * info.count);
		eng_detector_parameter_read(b->detector, i, ENG_PART_VALUE, values);
		eng_detector_parameter_write(a->detector, i, ENG_PART_VALUE, values);
		free(values);
	}
}

static void
compare_detections(const Case *test, Outcome *a, Outcome *b,
				   const EngFrame *frames)
{
	EngStatus	status = {ENG_OK, ""};
	int32_t		different = 0;
	int32_t		total = 0;
	int			i;
	int32_t		j;

	eng_detector_set_hooks(a->detector, NULL);
	copy_values(a, b);
	if (!eng_detector_infer(a->detector, frames, test->frames, a->detections,
							&status) ||
		!eng_detector_infer(b->detector, frames, test->frames, b->detections,
							&status))
	{
		tap_ok(false, "%s: inference: %s", test->name, status.message);
		return;
	}
	for (i = 0; i < test->frames; i++)
	{
		EngDetections *x = &a->detections[i];
		EngDetections *y = &b->detections[i];

		total += y->count;
		different += abs(x->count - y->count);
		for (j = 0; j < x->count && j < y->count; j++)
			if (!near(x->scores[j], y->scores[j], 1e-3))
				different++;
	}
	/* at a near tie one goes and another comes, and moves those behind it */
	tap_ok(different <= (total > 50 ? total / 25 : 2),
		   "%s: equal scores, folded on one side (%d differ)",
		   test->name, (int) different);
}

static void
compare(const Case *test)
{
	EngStatus	status = {ENG_OK, ""};
	EngFrame	frames[4];
	Outcome		ref = {0};
	Outcome		cpu = {0};
	const char *where = "";
	double		worst;
	int			i;

	for (i = 0; i < test->frames; i++)
		frame_make(&frames[i], i + 1, test->width, test->height,
				   i == 1 ? 1 : FRAME_BOXES, CLASSES);
	if (!run(&ref, test, "ref", 1, frames, &status) ||
		!run(&cpu, test, tap_backend(), 2, frames, &status))
		tap_ok(false, "%s: %s", test->name, status.message);
	else
	{
		tap_ok(near(cpu.result.loss, ref.result.loss, 1e-4) &&
			   ref.result.loss > 0, "%s: equal losses (%g, %g)", test->name,
			   cpu.result.loss, ref.result.loss);
		tap_ok(near(cpu.result.grad_norm, ref.result.grad_norm, 1e-2),
			   "%s: equal norms of the gradient (%g, %g)", test->name,
			   cpu.result.grad_norm, ref.result.grad_norm);
		worst = gradient_difference(&cpu, &ref, &where);
		tap_ok(worst < test->tolerance, "%s: equal gradients (%.1e at %s)", test->name,
			   worst, where);
		compare_detections(test, &cpu, &ref, frames);
	}
	eng_detector_free(ref.detector);
	eng_detector_free(cpu.detector);
	for (i = 0; i < test->frames; i++)
		frame_free(&frames[i]);
}

int
main(void)
{
	size_t		i;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		compare(&cases[i]);
	return tap_done();
}
