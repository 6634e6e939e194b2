/*
 * engine/bench.c
 *		Time a detector by operation, on pictures of noise.
 */
#include "engine/bench.h"
#include "engine/clip_commands.h"
#include "engine/commands.h"
#include "engine/core/random.h"
#include "engine/feed.h"
#include "engine/frame_key.h"

#include <stdlib.h>
#include <string.h>

#define BOXES			6		/* of one frame */

const char	eng_bench_help[] =
"usage: avcurate-engine bench ARCHITECTURE [OPTIONS]\n"
"\n"
"Train and infer on generated pictures; print images per second, the most\n"
"memory resident at once, and by kind of operation: milliseconds of a step\n"
"forward and backward, share of the step, GFLOP/s, percent of the peak and the\n"
"milliseconds that the machine allows.  The peak is the rate of one large matrix\n"
"product, measured first, as is the rate of memory; operations are bound by one\n"
"or the other.  GFLOP of backward do not count where the gradient is sparse.\n"
ENG_CHOICE_NETWORK_HELP
ENG_CHOICE_MACHINE_HELP
ENG_CHOICE_SEED_HELP
"  --frames N       frames in a batch (8)\n"
"  --size WxH       size of a frame in pixels (16:9, as the detector takes)\n"
"  --steps N        steps that are timed, after one that is not (5)\n"
"  --rows           the time of each operation too\n"
"  --infer          inference alone\n"
"  --train          training alone\n"
"  --feed           instead: how many pictures a second the processor decodes\n"
"                   and sends to the device\n"
"  --save FILE      write weights and frames to a safetensors file: weights\n"
"                   under torch's names, bench.frames, bench.boxes,\n"
"                   bench.labels\n"
ENG_CLIP_HELP;

typedef struct Bench
{
	EngDetector *detector;
	EngFrame   *frames;
	EngPixelRoom pixels;		/* as a feed has them */
	int			count;
	int			steps;
	EngSize		padded;
	EngPeak		peak;
	bool		rows;
	FILE	   *out;
} Bench;

/*
 * Smooth noise and boxes with sides of a tenth to four tenths of the frame.
 */
static bool
fill_frame(EngFrame *frame, uint8_t *rgb, int index, EngSize size,
		   int32_t classes, EngStatus *status)
{
	size_t		bytes = (size_t) size.width * size.height * 3;
	float	   *boxes = malloc(sizeof(float) * 4 * BOXES);
	int32_t    *labels = malloc(sizeof(int32_t) * BOXES);
	size_t		i;
	int			j;

	frame->rgb = rgb;
	frame->boxes = boxes;
	frame->labels = labels;
	if (boxes == NULL || labels == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "could not make a frame");
	for (i = 0; i < bytes; i++)
		rgb[i] = (uint8_t) (i / 3 % 97 + i / 3 / size.width % 89 +
							eng_random_u64(1, 0, index, ENG_USE_TEST, i) % 64);
	for (j = 0; j < BOXES; j++)
	{
		float		u[4];
		int			k;

		for (k = 0; k < 4; k++)
			u[k] = eng_random_uniform(2, j, index, ENG_USE_TEST, k);
		boxes[4 * j] = u[0] * 0.6f * size.width;
		boxes[4 * j + 1] = u[1] * 0.6f * size.height;
		boxes[4 * j + 2] = boxes[4 * j] + (0.1f + 0.3f * u[2]) * size.width;
		boxes[4 * j + 3] = boxes[4 * j + 1] +
			(0.1f + 0.3f * u[3]) * size.height;
		labels[j] = 1 + j % (classes - 1);
	}
	frame->width = size.width;
	frame->height = size.height;
	frame->box_count = BOXES;
	frame->frame_id = index;
	frame->position = index;
	return true;
}

static void
free_frames(Bench *bench)
{
	int			i;

	for (i = 0; bench->frames != NULL && i < bench->count; i++)
	{
		free((void *) bench->frames[i].boxes);
		free((void *) bench->frames[i].labels);
	}
	free(bench->frames);
	eng_pixel_room_free(&bench->pixels);
}

static bool
run_once(Bench *bench, bool train, int step, EngDetections *found,
		 EngStatus *status)
{
	EngStepInfo info = {.step = (uint64_t) step, .lr = 1e-4f};
	EngStepResult result;

	if (train)
		return eng_detector_train_step(bench->detector, bench->frames,
									   bench->count, &info, &result, status);
	return eng_detector_infer(bench->detector, bench->frames, bench->count,
							  found, status);
}

static void
print_graphs(const Bench *bench)
{
	const char *note;
	int64_t		count = eng_detector_graphs_run(bench->detector, &note);

	fprintf(bench->out, "  passes as recorded graphs so far: %lld%s%s\n",
			(long long) count, note[0] != '\0' ? "; " : "", note);
}

static bool
measure(Bench *bench, bool train, EngStatus *status)
{
	EngDetections *found = calloc(bench->count, sizeof(*found));
	EngBenchTimes times = {.steps = bench->steps, .each = bench->rows};
	bool		is_device = eng_detector_backend(bench->detector)->device;
	double		start;
	bool		fine = found != NULL;
	int			i;

	/* the first run makes the plan, a device's second one its graph */
	for (i = 0; fine && i < (is_device ? 3 : 1); i++)
		fine = run_once(bench, train, 0, found, status);
	eng_detector_profile(bench->detector, !is_device);
	start = eng_feed_clock();
	for (i = 1; fine && i <= bench->steps; i++)
		fine = run_once(bench, train, i, found, status);
	times.seconds = eng_feed_clock() - start;
	/* a GPU is waited for at each operation to measure it: not in the total */
	eng_detector_profile(bench->detector, true);
	for (; is_device && fine && i <= 2 * bench->steps; i++)
		fine = run_once(bench, train, i, found, status);
	free(found);
	if (!fine)
		return eng_fail(status, ENG_NO_MEMORY, "could not keep detections");
	fprintf(bench->out, "%s: %.1f images/s, %.1f ms for %d, resident at most %.0f MB\n",
			train ? "training" : "inference",
			bench->count * bench->steps / times.seconds,
			1e3 * times.seconds / bench->steps, bench->count,
			eng_bench_resident() / 1e6);
	if (is_device)
		print_graphs(bench);
	if (!eng_detector_explain(bench->detector, bench->padded, bench->count,
							  train, &times.rows, &times.count, status))
		return false;
	eng_bench_report(bench->out, &times, &bench->peak);
	return true;
}

static bool
prepare(Bench *bench, const EngOption *options, EngStatus *status)
{
	const EngDetectorConfig *config = eng_detector_config(bench->detector);
	EngSize		size = eng_choice_frame_size(config);
	size_t		bytes;
	int			i;

	if (!eng_choice_size(options, &size, status))
		return false;
	bench->padded = eng_choice_padded(config, size);
	bench->frames = calloc(bench->count, sizeof(*bench->frames));
	if (bench->frames == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "could not make the frames");
	bytes = (size_t) size.width * size.height * 3;
	if (!eng_pixel_room(&bench->pixels, bytes * bench->count,
						&eng_detector_backend(bench->detector)->host_memory,
						status))
		return false;
	for (i = 0; i < bench->count; i++)
		if (!fill_frame(&bench->frames[i], bench->pixels.data + bytes * i, i,
						size, config->num_classes, status))
			return false;
	return true;
}

static bool
run_bench(Bench *bench, const EngChoice *choice, const EngOption *options,
		  EngStatus *status)
{
	bool		train = eng_option_value(options, "infer") == NULL;
	bool		infer = eng_option_value(options, "train") == NULL;
	const char *path = eng_option_value(options, "save");
	EngOptimizerConfig optimizer;
	bool		fine;

	if (!train && !infer)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"options \"--train\" and \"--infer\" exclude each other");
	bench->detector = eng_choice_create(choice, train, status);
	if (bench->detector == NULL)
		return false;
	eng_optimizer_config_default(&optimizer);
	fine = prepare(bench, options, status) &&
		eng_bench_peak(&bench->peak, choice, bench->out, status) &&
		(!train || eng_detector_set_optimizer(bench->detector, &optimizer,
											  status)) &&
		eng_detector_init(bench->detector, (uint64_t) choice->seed, status) &&
		(path == NULL || eng_bench_save(path, bench->detector, bench->frames,
										bench->count, status)) &&
		(!train || measure(bench, true, status)) &&
		(!infer || measure(bench, false, status));
	free_frames(bench);
	eng_detector_free(bench->detector);
	return fine;
}

static bool
measure_feed(const EngChoice *choice, const EngOption *options, FILE *out,
			 EngStatus *status)
{
	EngSize		size = {720, 1280};

	return eng_choice_size(options, &size, status) &&
		eng_bench_feed(choice, size, out, status);
}

bool
eng_bench_run(int argc, char **argv, FILE *out, EngStatus *status)
{
	EngOption	options[] = {
		ENG_CHOICE_NETWORK, ENG_CHOICE_MACHINE, ENG_CHOICE_SEED, {"frames"},
		{"size"}, {"steps"}, {"rows", true}, {"infer", true},
		{"train", true}, {"feed", true}, {"save"}, ENG_CLIP_OPTIONS, {NULL}
	};
	EngChoice	choice = {0};
	Bench		bench = {.out = out};
	EngArguments arguments;
	int64_t		frames = 8;
	int64_t		steps = 5;

	if (eng_clip_is_named(argc, argv))
		return eng_clip_bench_run(argc, argv, out, status);
	if (!eng_arguments_read(&arguments, argc, argv, options, 1, 1, status) ||
		!eng_clip_refuse_options(options, status) ||
		!eng_choice_read(&choice, options, status) ||
		!eng_option_integer(options, "frames", 1, 1024, &frames, status) ||
		!eng_option_integer(options, "steps", 1, 10000, &steps, status))
		return false;
	choice.architecture = arguments.places[0];
	if (eng_option_value(options, "feed") != NULL)
		return measure_feed(&choice, options, out, status);
	bench.count = (int) frames;
	bench.steps = (int) steps;
	bench.rows = eng_option_value(options, "rows") != NULL;
	return run_bench(&bench, &choice, options, status);
}
