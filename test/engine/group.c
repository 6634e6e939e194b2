/*
 * test/engine/group.c
 *		One network on several devices against one device with the whole batch.
 *
 * Ranks are backends of the host here, each with a thread: AVC_TEST_BACKEND
 * "cuda" takes GPUs 0 and 1 instead (emulated, or real ones).  A step is the
 * same but for the order of sums.
 */
#include <math.h>

#include "engine/core/mirror.h"
#include "engine/core/plugin.h"
#include "engine/nets/detector_private.h"
#include "engine/nets/group.h"
#include "frames.h"
#include "tap.h"

#define CLASSES	4
#define POOL	6
#define STEPS	4
#define MOST	5				/* frames of a batch */

#define SMALL "\"widths\":[8,16,24,32],\"fpn_channels\":16," \
	"\"representation_size\":32,\"max_size\":96," \
	"\"rpn_batch_size_per_image\":32,\"box_batch_size_per_image\":16," \
	"\"rpn_pre_nms_top_n_train\":60,\"rpn_post_nms_top_n_train\":40," \
	"\"rpn_pre_nms_top_n_test\":60,\"rpn_post_nms_top_n_test\":30"

typedef struct Variant
{
	const char *name;
	const char *architecture;
	const char *options;
	int			accumulate;
	bool		freeze_norm;
	EngOptimizerKind optimizer;
} Variant;

static const Variant variants[] = {
	{"batch norms, drawn sizes", "small",
	"{" SMALL ",\"min_size\":[48,56,64]}", 1, false, ENG_OPTIMIZER_SGD},
	{"norms in the heads, micro-batches", "fasterrcnn_resnet18_fpn_v2",
	"{" SMALL ",\"min_size\":48}", 2, false, ENG_OPTIMIZER_SGD},
	{"frozen norms", "fasterrcnn_resnet18_fpn",
	"{" SMALL ",\"min_size\":48,\"norm\":\"frozen\"}", 1, false,
	ENG_OPTIMIZER_ADAMW},
	{"norms frozen by the optimizer", "fasterrcnn_resnet18_fpn",
	"{" SMALL ",\"min_size\":48}", 1, true, ENG_OPTIMIZER_SGD}
};

static const EngDeviceName host_names[] = {"ref", "ref", "ref"};
static const EngDeviceName cpu_names[] = {"cpu", "cpu", "cpu"};
static const EngDeviceName gpu_names[] = {"cuda:0", "cuda:1", "cuda:2"};

static EngFrame pool[POOL];

/* How many frames steps have: uneven shares, and ranks without any. */
static const int sizes[STEPS] = {5, 1, 3, 4};

/*
 * What may differ from ref or cpu alone.  A GPU's sums of norms are rounded to
 * float, and over the few cells of these maps a ReLU that flips moves much.
 */
typedef struct Bounds
{
	int			steps;
	double		first_loss;
	double		gradient;
	double		losses;
	double		weights;
} Bounds;

static const Bounds host_bounds = {STEPS, 1e-5, 2e-3, 2e-3, 5e-3};
static const Bounds gpu_bounds = {2, 1e-4, 2e-2, 5e-2, 0.1};
static const Bounds *bounds = &host_bounds;

static EngDetector *
make(const Variant *variant, const EngDeviceName *names, int count,
	 EngStatus *status)
{
	EngDetectorConfig config;
	EngOptimizerConfig optimizer;
	EngDetector *detector;

	eng_optimizer_config_default(&optimizer);
	optimizer.kind = variant->optimizer;
	optimizer.freeze_norm = variant->freeze_norm;
	if (!eng_detector_config_parse(&config, variant->architecture,
								   variant->options, CLASSES, status))
		return NULL;
	detector = count == 1 ?
		eng_detector_create(&config, names[0], 1, true, status) :
		eng_group_create(&config, names, count, count, true, status);
	if (detector != NULL &&
		eng_detector_set_optimizer(detector, &optimizer, status) &&
		eng_detector_init(detector, 5, status))
		return detector;
	eng_detector_free(detector);
	return NULL;
}

/* Step by step, the first frame of a batch has no box: ranks may have none. */
static bool
train(EngDetector *detector, const Variant *variant, int first, int last,
	  EngStepResult *results, EngStatus *status)
{
	int			step;
	int			k;
	int			i;

	for (step = first; step < last; step++)
		for (k = 0; k < variant->accumulate; k++)
		{
			EngStepInfo info = {
				.seed = 3, .step = (uint64_t) step, .lr = 1e-3f,
				.accumulate_index = k, .accumulate_count = variant->accumulate
			};
			EngFrame	frames[MOST];
			int			n = sizes[(step + k) % STEPS];

			for (i = 0; i < n; i++)
			{
				frames[i] = pool[n == 1 ? 1 : i];
				frames[i].position = step * 100 + k * 10 + i;
				frames[i].flip = (step + i) % 2;
			}
			if (!eng_detector_train_step(detector, frames, n, &info,
										 &results[step * variant->accumulate +
												  k], status))
				return false;
		}
	return true;
}

/* Largest difference of a part over all parameters, beside its largest. */
static double
difference(EngDetector *a, EngDetector *b, EngParameterPart part)
{
	double		worst = 0;
	int32_t		i;
	int64_t		j;

	for (i = 0; i < eng_detector_parameter_count(a); i++)
	{
		EngParameterInfo info;
		float	   *x;
		float	   *y;
		/* what starts at zero has moved by little */
		double		high = part == ENG_PART_VALUE ? 1e-4 : 1e-6;
		double		apart = 0;

		eng_detector_parameter_info(a, i, &info);
		x = malloc(sizeof(float) * (info.count + 1));
		y = malloc(sizeof(float) * (info.count + 1));
		if (eng_detector_parameter_read(a, i, part, x) &&
			eng_detector_parameter_read(b, i, part, y))
			for (j = 0; j < info.count; j++)
			{
				high = fmax(high, fabs(x[j]));
				/* not a number is far from everything */
				apart = !(fabs(x[j] - y[j]) <= apart) ? fabs(x[j] - y[j]) :
					apart;
			}
		if (!(apart / high <= worst))
			worst = apart / high;
		free(x);
		free(y);
	}
	return worst;
}

static double
loss_difference(const EngStepResult *a, const EngStepResult *b, int count)
{
	double		worst = 0;
	int			i;

	for (i = 0; i < count; i++)
	{
		worst = fmax(worst, fabs(a[i].loss - b[i].loss) / a[i].loss);
		worst = fmax(worst, fabs(a[i].loss_box_reg - b[i].loss_box_reg));
		worst = fmax(worst, fabs(a[i].loss_rpn_box_reg -
								 b[i].loss_rpn_box_reg));
		worst = fmax(worst, fabs(a[i].grad_norm - b[i].grad_norm) /
					 (a[i].grad_norm + 1e-3));
		if (a[i].boxes != b[i].boxes || a[i].skipped != b[i].skipped)
			worst = INFINITY;
	}
	return worst;
}

static void
test_variant(const Variant *variant, const EngDeviceName *names, int world)
{
	EngStatus	status = {ENG_OK, ""};
	EngStepResult alone_results[2 * STEPS];
	EngStepResult group_results[2 * STEPS];
	EngDetector *alone = make(variant, names == gpu_names ? host_names : names,
							  1, &status);
	EngDetector *group = make(variant, names, world, &status);
	EngBuffer	image = {0};
	double		gradient;
	double		losses;
	double		weights;

	if (alone == NULL || group == NULL ||
		!train(alone, variant, 0, 1, alone_results, &status) ||
		!train(group, variant, 0, 1, group_results, &status))
	{
		tap_ok(false, "%s, %d of %s: %s", variant->name, world, names[0],
			   status.message);
		eng_detector_free(alone);
		eng_detector_free(group);
		return;
	}
	gradient = difference(alone, group, ENG_PART_GRADIENT);
	losses = fabs(alone_results[0].loss - group_results[0].loss);
	tap_ok(gradient < bounds->gradient && losses < bounds->first_loss,
		   "%s, %d of %s: losses of a step differ by %.1e, gradients by %.1e",
		   variant->name, world, names[0], losses, gradient);
	if (!train(alone, variant, 1, bounds->steps, alone_results, &status) ||
		!train(group, variant, 1, bounds->steps, group_results, &status))
		tap_ok(false, "%s: %s", variant->name, status.message);
	losses = loss_difference(alone_results, group_results,
							 bounds->steps * variant->accumulate);
	weights = difference(alone, group, ENG_PART_VALUE);
	tap_ok(losses < bounds->losses && weights < bounds->weights,
		   "and over %d steps losses by %.1e, weights and statistics by %.1e",
		   bounds->steps, losses, weights);
	tap_ok(eng_detector_save(group, true, &image, &status),
		   "all ranks hold the same bits %s", status.message);
	eng_buffer_free(&image);
	eng_detector_free(alone);
	eng_detector_free(group);
}

static bool
same(const EngBuffer *a, const EngBuffer *b)
{
	return a->size == b->size && a->size > 0 &&
		memcmp(a->data, b->data, a->size) == 0;
}

static void
test_resume(const EngDeviceName *names)
{
	const Variant *variant = &variants[names == gpu_names ? 0 : 1];
	EngStatus	status = {ENG_OK, ""};
	EngLoadOptions options = {.strict = true};
	EngStepResult results[2 * STEPS];
	EngBuffer	half = {0};
	EngBuffer	whole = {0};
	EngBuffer	resumed = {0};
	EngTensorFile *file = NULL;
	EngDetector *first = make(variant, names, 2, &status);
	EngDetector *second = make(variant, names, 2, &status);
	bool		fine;

	fine = first != NULL && second != NULL &&
		train(first, variant, 0, 1, results, &status) &&
		eng_detector_save(first, true, &half, &status) &&
		train(first, variant, 1, bounds->steps, results, &status) &&
		eng_detector_save(first, true, &whole, &status);
	if (fine)
		file = eng_tensor_file_open(half.data, half.size, &status);
	fine = file != NULL &&
		eng_detector_load(second, file, &options, &status) &&
		train(second, variant, 1, bounds->steps, results, &status) &&
		eng_detector_save(second, true, &resumed, &status);
	tap_ok(fine && same(&whole, &resumed),
		   "resumed from a checkpoint it ends with the same bits %s",
		   status.message);
	eng_tensor_file_free(file);
	eng_buffer_free(&half);
	eng_buffer_free(&whole);
	eng_buffer_free(&resumed);
	eng_detector_free(first);
	eng_detector_free(second);
}

static void
test_infer(const EngDeviceName *names, int world)
{
	EngStatus	status = {ENG_OK, ""};
	EngDetector *alone = make(&variants[0], names, 1, &status);
	EngDetector *group = make(&variants[0], names, world, &status);
	EngDetections a[POOL];
	EngDetections b[POOL];
	double		worst = 0;
	int			n;
	int			i;
	int32_t		j;

	for (n = 3; alone != NULL && group != NULL && n >= 1; n -= 2)
	{
		if (!eng_detector_infer(alone, pool, n, a, &status) ||
			!eng_detector_infer(group, pool, n, b, &status))
			break;
		for (i = 0; i < n; i++)
		{
			if (a[i].count != b[i].count || a[i].count == 0)
				worst = INFINITY;
			for (j = 0; j < a[i].count && j < b[i].count; j++)
				worst = fmax(worst, fabs(a[i].scores[j] - b[i].scores[j]));
		}
	}
	tap_ok(status.code == ENG_OK && alone != NULL && group != NULL &&
		   worst < 1e-4, "%d devices share out detections: scores differ by %.1e %s",
		   world, worst, status.message);
	eng_detector_free(alone);
	eng_detector_free(group);
}

/* ---- failures ----------------------------------------------------------------- */

static bool
step(EngDetector *detector, const EngFrame *frames, int n, uint64_t number,
	 EngStepResult *result, EngStatus *status)
{
	EngStepInfo info = {.seed = 3, .step = number, .lr = 1e-3f};

	memset(status, 0, sizeof(*status));
	return eng_detector_train_step(detector, frames, n, &info, result,
								   status);
}

static void
test_empty(EngDetector *group)
{
	EngFrame	frames[2] = {pool[0], pool[0]};
	EngStepInfo info = {.seed = 3, .step = 7, .lr = 1e-3f,
						.with_empty = true};
	EngStepResult result;
	EngStatus	status;

	tap_ok(step(group, frames, 2, 7, &result, &status) && result.skipped,
		   "a batch without boxes is skipped %s", status.message);
	tap_ok(eng_detector_train_step(group, frames, 2, &info, &result,
								   &status) &&
		   !result.skipped && result.loss > 0,
		   "or trains where that is asked for %s", status.message);
}

static void
test_bad_frame(EngDetector *group)
{
	EngFrame	frames[4] = {pool[1], pool[2], pool[3], pool[4]};
	float		box[4] = {20, 20, 20, 30};	/* no width */
	EngStepResult result;
	EngStatus	status;

	frames[3].boxes = box;
	frames[3].box_count = 1;
	tap_ok(!step(group, frames, 4, 8, &result, &status) &&
		   status.code == ENG_BAD_ARGUMENT,
		   "a bad frame of the last rank ends the step of all: %s",
		   status.message);
	frames[3] = pool[4];
	frames[1].labels = NULL;
	tap_ok(!step(group, frames, 4, 8, &result, &status) &&
		   status.code == ENG_BAD_ARGUMENT, "so does one of the first: %s",
		   status.message);
	frames[1] = pool[2];
	tap_ok(step(group, frames, 4, 8, &result, &status),
		   "and the next step goes on %s", status.message);
}

static bool
set_limit(EngDetector *detector, const void *limit, EngStatus *status)
{
	(void) status;
	detector->memory_limit = *(const size_t *) limit;
	return true;
}

static void
test_memory(EngDetector *group, const char *name)
{
	EngMemory	memory;
	EngStepResult result;
	EngStatus	status = {ENG_OK, ""};
	size_t		limit;

	eng_detector_memory(group, &memory);
	limit = memory.parameters + memory.gradients + memory.optimizer + 1000;
	(void) eng_group_each(group->group, set_limit, &limit, &status);
	/* shapes that no rank has a plan for */
	tap_ok(!step(group, pool + 1, 5, 9, &result, &status) &&
		   status.code == ENG_NO_MEMORY &&
		   strncmp(status.message, name, strlen(name)) == 0,
		   "out of memory on one device ends the step of all: %s",
		   status.message);
	limit = 0;
	(void) eng_group_each(group->group, set_limit, &limit, &status);
	tap_ok(step(group, pool + 1, 5, 9, &result, &status),
		   "and the next step goes on %s", status.message);
}

/* The last bit of one weight of a rank. */
static bool
change_bit(EngDetector *detector, const void *argument, EngStatus *status)
{
	uint32_t	bits;

	(void) argument;
	if (!eng_mirror_to_host(&detector->parameters, status))
		return false;
	memcpy(&bits, detector->parameters.values + 17, sizeof(bits));
	bits ^= 1;
	memcpy(detector->parameters.values + 17, &bits, sizeof(bits));
	eng_mirror_host_changed(&detector->parameters);
	return true;
}

static void
test_disagreement(EngDetector *group)
{
	EngBuffer	image = {0};
	EngStatus	status = {ENG_OK, ""};

	(void) eng_group_each(group->group, change_bit, NULL, &status);
	tap_ok(!eng_detector_save(group, true, &image, &status) &&
		   status.code == ENG_DEVICE, "ranks that differ save nothing: %s",
		   status.message);
	eng_buffer_free(&image);
	memset(&status, 0, sizeof(status));
	(void) eng_group_each(group->group, change_bit, NULL, &status);
}

static bool
fail_convolution(EngKernel *kernel, void *dx, const void *dy, const float *weight,
			 uint64_t version, void *workspace, EngStatus *status)
{
	(void) kernel;
	(void) dx;
	(void) dy;
	(void) weight;
	(void) version;
	(void) workspace;
	return eng_fail(status, ENG_DEVICE, "fell off the bus");
}

static bool
break_device(EngDetector *detector, const void *argument, EngStatus *status)
{
	(void) argument;
	(void) status;
	detector->backend->conv_backward_data = fail_convolution;
	return true;
}

static void
test_broken(EngDetector *group, const char *name)
{
	EngBuffer	image = {0};
	EngStepResult result;
	EngStatus	status = {ENG_OK, ""};

	(void) eng_group_each(group->group, break_device, NULL, &status);
	tap_ok(!step(group, pool, 4, 10, &result, &status) &&
		   status.code == ENG_DEVICE &&
		   strncmp(status.message, name, strlen(name)) == 0 &&
		   strstr(status.message, "bus") != NULL,
		   "a device that fails in the middle ends the step of all: %s",
		   status.message);
	tap_ok(!step(group, pool, 4, 11, &result, &status) &&
		   status.code == ENG_DEVICE, "and all later ones: %s",
		   status.message);
	memset(&status, 0, sizeof(status));
	tap_ok(!eng_detector_save(group, true, &image, &status),
		   "nothing is saved of it: %s", status.message);
	eng_buffer_free(&image);
}

static void
test_failures(const EngDeviceName *names)
{
	EngStatus	status = {ENG_OK, ""};
	EngStepResult results[STEPS];
	EngDetector *group = make(&variants[0], names, 2, &status);

	if (group == NULL ||
		!train(group, &variants[0], 0, 1, results, &status))
		tap_ok(false, "two devices: %s", status.message);
	else
	{
		tap_note("on %s", eng_detector_backend(group)->device_name);
		test_empty(group);
		test_bad_frame(group);
		test_memory(group, names[1]);
		test_disagreement(group);
		test_broken(group, names[1]);
	}
	eng_detector_free(group);
}

static void
test_refusals(void)
{
	static const EngDeviceName mixed[] = {"ref", "cpu"};
	Variant		torch = variants[0];
	EngStatus	status = {ENG_OK, ""};

	tap_ok(make(&variants[0], mixed, 2, &status) == NULL &&
		   status.code == ENG_BAD_ARGUMENT, "unlike devices: %s",
		   status.message);
	memset(&status, 0, sizeof(status));
	torch.options = "{\"sampler\":\"mt19937\"}";
	tap_ok(make(&torch, host_names, 2, &status) == NULL &&
		   status.code == ENG_UNSUPPORTED, "torch's generator: %s",
		   status.message);
}

int
main(void)
{
	bool		gpu = strncmp(tap_backend(), "cuda", 4) == 0;
	const EngDeviceName *names = gpu ? gpu_names : host_names;
	EngStatus	why = {ENG_OK, ""};
	int			devices = gpu ? eng_plugin_count(&why) : 3;
	size_t		v;
	int			i;

	if (devices < 2)
	{
		printf("1..0 # SKIP one GPU or none: %s\n", why.message);
		return 0;
	}
	if (gpu)
		bounds = &gpu_bounds;
	for (i = 0; i < POOL; i++)
		frame_make(&pool[i], 40 + i, 64 + 8 * (i % 3), 48 + 8 * (i % 2),
				   i == 0 ? 0 : FRAME_BOXES, CLASSES);
	for (v = 0; v < sizeof(variants) / sizeof(variants[0]); v++)
	{
		/* an emulated GPU takes its time */
		if (gpu && v % 2 == 1)
			continue;
		if (!gpu || v > 0)
			test_variant(&variants[v], names, 2);
		if (v < (gpu ? 1 : 2))
			test_variant(&variants[v], names, devices > 2 ? 3 : 2);
		if (v < 2 && !gpu)
			test_variant(&variants[v], cpu_names, 2);
	}
	test_resume(names);
	test_infer(names, 2);
	test_failures(names);
	if (!gpu)
		test_refusals();
	for (i = 0; i < POOL; i++)
		frame_free(&pool[i]);
	return tap_done();
}
