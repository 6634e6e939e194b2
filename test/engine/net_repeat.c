/*
 * test/engine/net_repeat.c
 *		A training repeats itself bit for bit: over runs, over interruptions at
 *		any step, whatever else the detector did, with everything drawn that
 *		can be drawn.
 *
 * Frames differ in size, so that steps take plans of several shapes, more
 * than are kept.  A disturbed run meets the shapes in another order: its
 * plans lie elsewhere in the arena, on what other plans have left there.
 */
#include <time.h>
#include <unistd.h>

#include "frames.h"
#include "tap.h"

#define CLASSES	4
#define POOL	6				/* frames of different sizes */
#define BATCH	3
#define STEPS	6

#define SMALL "\"widths\":[8,16,24,32],\"fpn_channels\":16," \
	"\"representation_size\":32,\"max_size\":128," \
	"\"rpn_batch_size_per_image\":32,\"box_batch_size_per_image\":16," \
	"\"rpn_pre_nms_top_n_train\":60,\"rpn_post_nms_top_n_train\":40," \
	"\"rpn_pre_nms_top_n_test\":60,\"rpn_post_nms_top_n_test\":30"

typedef struct Variant
{
	const char *name;
	const char *architecture;
	const char *options;
	EngOptimizerKind optimizer;
	int			accumulate;		/* micro-batches a step */
	bool		freeze_norm;
	EngType		precision;
} Variant;

static const Variant variants[] = {
	{"sgd, flips, drawn sizes", "small",
		"{" SMALL ",\"min_size\":[48,64,80]}", ENG_OPTIMIZER_SGD, 1, false},
	{"adamw, torch's generator, drawn sizes", "small",
		"{" SMALL ",\"min_size\":[48,64,80],\"sampler\":\"mt19937\"}",
	ENG_OPTIMIZER_ADAMW, 1, false},
	{"v2, torch's generator, micro-batches", "fasterrcnn_resnet18_fpn_v2",
		"{" SMALL ",\"min_size\":64,\"sampler\":\"mt19937\"}",
	ENG_OPTIMIZER_SGD, 2, false},
	{"frozen norms, frames as they are", "fasterrcnn_resnet18_fpn",
		"{" SMALL ",\"norm\":\"frozen\",\"_skip_resize\":true}",
	ENG_OPTIMIZER_SGD, 1, true},
	{"bf16, drawn sizes", "fasterrcnn_resnet18_fpn_v2",
		"{" SMALL ",\"min_size\":[48,64,80]}", ENG_OPTIMIZER_SGD, 1, false,
	ENG_BF16}
};

static EngFrame pool[POOL];

static EngDetector *
make(const Variant *variant, EngStatus *status)
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
	detector = eng_detector_create(&config, tap_backend(), 2, true, status);
	if (detector == NULL ||
		!eng_detector_set_precision(detector, variant->precision, status) ||
		!eng_detector_set_optimizer(detector, &optimizer, status) ||
		!eng_detector_init(detector, 5, status))
	{
		eng_detector_free(detector);
		return NULL;
	}
	return detector;
}

/* The frames of a micro-batch: a function of its number, as in a worker. */
static void
choose_frames(EngFrame frames[BATCH], int batch)
{
	int			i;

	for (i = 0; i < BATCH; i++)
	{
		int64_t		position = (int64_t) batch * BATCH + i;

		frames[i] = pool[frame_draw(7, (uint64_t) position, POOL)];
		frames[i].position = position;
		frames[i].flip = eng_random_uniform(3, (uint64_t) batch,
											(uint64_t) position,
											ENG_USE_FLIP, 0) < 0.5f;
	}
}

static bool
train(EngDetector *detector, const Variant *variant, int first, int last,
	  float *losses, EngStatus *status)
{
	int			step;
	int			k;

	for (step = first; step < last; step++)
		for (k = 0; k < variant->accumulate; k++)
		{
			EngStepInfo info = {
				.seed = 3, .step = (uint64_t) step, .lr = 2e-3f,
				.accumulate_index = k, .accumulate_count = variant->accumulate
			};
			EngFrame	frames[BATCH];
			EngStepResult result;

			choose_frames(frames, step * variant->accumulate + k);
			if (!eng_detector_train_step(detector, frames, BATCH, &info,
										 &result, status))
				return false;
			losses[step * variant->accumulate + k] = result.loss;
		}
	return true;
}

/* What a worker may do between two steps: look at frames, of all sizes. */
static bool
disturb(EngDetector *detector, uint64_t seed, EngStatus *status)
{
	uint64_t	i;

	for (i = 0; i < 3; i++)
	{
		EngDetections found;

		if (!eng_detector_infer(detector, &pool[frame_draw(seed, i, POOL)], 1,
								&found, status))
			return false;
	}
	return true;
}

/* Save, forget, and go on with a detector that has only what was saved. */
static EngDetector *
interrupt(EngDetector *detector, const Variant *variant, EngStatus *status)
{
	EngLoadOptions options = {.strict = true};
	EngBuffer	image = {0};
	EngTensorFile *file = NULL;
	EngDetector *next = NULL;

	if (eng_detector_save(detector, true, &image, status))
		file = eng_tensor_file_open(image.data, image.size, status);
	eng_detector_free(detector);
	if (file != NULL)
		next = make(variant, status);
	if (next != NULL && !eng_detector_load(next, file, &options, status))
	{
		eng_detector_free(next);
		next = NULL;
	}
	eng_tensor_file_free(file);
	eng_buffer_free(&image);
	return next;
}

/*
 * Train all steps; disturbed by looks at frames before every step, and with
 * interruptions before the steps whose bits are set.
 */
static bool
run(const Variant *variant, bool disturbed, unsigned interruptions,
	float *losses, EngBuffer *image, EngStatus *status)
{
	EngDetector *detector = make(variant, status);
	bool		ok = detector != NULL;
	int			step;

	memset(image, 0, sizeof(*image));
	for (step = 0; ok && step < STEPS; step++)
	{
		if (interruptions >> step & 1)
			detector = interrupt(detector, variant, status);
		ok = detector != NULL &&
			(!disturbed || disturb(detector, 100 + step, status)) &&
			train(detector, variant, step, step + 1, losses, status);
	}
	ok = ok && eng_detector_save(detector, true, image, status);
	eng_detector_free(detector);
	return ok;
}

static void
test_variant(const Variant *variant, uint64_t seed)
{
	EngStatus	status = {ENG_OK, ""};
	float		losses[4][2 * STEPS];
	EngBuffer	images[4];
	unsigned	cuts[2];
	bool		ok;
	int			i;

	for (i = 0; i < 2; i++)
		cuts[i] = 1 + frame_draw((int64_t) seed, i, (1 << STEPS) - 1);
	memset(losses, 0, sizeof(losses));
	ok = run(variant, false, 0, losses[0], &images[0], &status) &&
		run(variant, true, 0, losses[1], &images[1], &status) &&
		run(variant, false, cuts[0], losses[2], &images[2], &status) &&
		run(variant, true, cuts[1], losses[3], &images[3], &status);
	if (status.code == ENG_UNSUPPORTED)
	{
		tap_skip(variant->name, status.message);
		return;
	}
	tap_ok(ok, "%s: four runs %s", variant->name, status.message);
	for (i = 1; ok && i < 4; i++)
		tap_ok(memcmp(losses[i], losses[0], sizeof(losses[0])) == 0 &&
			   images[i].size == images[0].size &&
			   memcmp(images[i].data, images[0].data, images[0].size) == 0,
			   "%s: %s, interrupted %#x: equal losses and weights",
			   variant->name, i % 2 == 1 ? "disturbed" : "undisturbed",
			   i < 2 ? 0 : cuts[i - 2]);
	for (i = 0; ok && i < 4; i++)
		eng_buffer_free(&images[i]);
}

/*
 * The option "sampler" draws as torch does after manual_seed(seed + step),
 * sizes of frames included.
 */
static void
test_generator(void)
{
	const Variant *drawn = &variants[1];
	EngStatus	status = {ENG_OK, ""};
	EngDetector *own = make(drawn, &status);
	EngDetector *given = make(drawn, &status);
	EngMt19937	mt;
	EngDetectorHooks hooks = {.sample_mode = ENG_SAMPLE_MT19937, .mt = &mt};
	EngStepInfo info = {.seed = 9, .step = 4, .no_update = true};
	EngStepResult results[3];
	bool		ok = own != NULL && given != NULL;

	if (ok)
		eng_detector_set_hooks(given, &hooks);
	eng_mt19937_seed(&mt, 13);
	ok = ok &&
		eng_detector_train_step(own, pool, BATCH, &info, &results[0],
								&status) &&
		eng_detector_train_step(given, pool, BATCH, &info, &results[1],
								&status);
	info.step = 5;
	ok = ok && eng_detector_train_step(own, pool, BATCH, &info, &results[2],
									   &status);
	tap_ok(ok && results[0].loss == results[1].loss &&
		   results[0].grad_norm == results[1].grad_norm &&
		   results[0].loss != results[2].loss,
		   "torch's generator is seeded with seed and step %s",
		   status.message);
	eng_detector_free(own);
	eng_detector_free(given);
}

int
main(void)
{
	const char *given = getenv("AVC_SEED");
	uint64_t	seed = given != NULL ? strtoull(given, NULL, 10) :
		(uint64_t) time(NULL) * 1000 + (uint64_t) getpid() % 1000;
	size_t		i;

	tap_note("AVC_SEED=%llu", (unsigned long long) seed);
	for (i = 0; i < POOL; i++)
		frame_make(&pool[i], (int64_t) i + 1, 40 + 13 * (int32_t) i,
				   90 - 7 * (int32_t) i, 1 + i % FRAME_BOXES, CLASSES);
	for (i = 0; i < sizeof(variants) / sizeof(variants[0]); i++)
		test_variant(&variants[i], seed + i);
	test_generator();
	for (i = 0; i < POOL; i++)
		frame_free(&pool[i]);
	return tap_done();
}
