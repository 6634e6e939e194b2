/*
 * engine/bench.c
 *		Time a detector by operation, on pictures of noise.
 */
#include "engine/choice.h"
#include "engine/commands.h"
#include "engine/core/random.h"
#include "engine/feed.h"

#include <stdlib.h>
#include <string.h>

#define BOXES			6		/* of one frame */
#define MAX_KINDS		64

const char	eng_bench_help[] =
"usage: avcurate-engine bench ARCHITECTURE [OPTIONS]\n"
"\n"
"Train and infer on generated pictures; print images per second and the time\n"
"by kind of operation.\n"
ENG_CHOICE_HELP
"  --frames N       frames in a batch (8)\n"
"  --size WxH       size of a frame in pixels (16:9, as the detector takes)\n"
"  --steps N        steps that are timed, after one that is not (5)\n"
"  --rows           the time of each operation too\n"
"  --infer          inference alone\n";

typedef struct Bench
{
	EngDetector *detector;
	EngFrame   *frames;
	int			count;
	int			steps;
	EngSize		padded;
	bool		rows;
	FILE	   *out;
} Bench;

/* The sums of one kind of operation. */
typedef struct Kind
{
	const char *name;
	double		seconds[2];		/* forward, backward */
	double		flops[2];
} Kind;

/*
 * Smooth noise and boxes with sides of a tenth to four tenths of the frame.
 */
static bool
fill_frame(EngFrame *frame, int index, EngSize size, int32_t classes,
		   EngStatus *status)
{
	size_t		bytes = (size_t) size.width * size.height * 3;
	uint8_t    *rgb = malloc(bytes);
	float	   *boxes = malloc(sizeof(float) * 4 * BOXES);
	int32_t    *labels = malloc(sizeof(int32_t) * BOXES);
	size_t		i;
	int			j;

	frame->rgb = rgb;
	frame->boxes = boxes;
	frame->labels = labels;
	if (rgb == NULL || boxes == NULL || labels == NULL)
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
		free((void *) bench->frames[i].rgb);
		free((void *) bench->frames[i].boxes);
		free((void *) bench->frames[i].labels);
	}
	free(bench->frames);
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

static int
add_kind(Kind *kinds, int count, const EngPlanRow *row)
{
	int			i;

	for (i = 0; i < count; i++)
		if (strcmp(kinds[i].name, row->kind) == 0)
			break;
	if (i == MAX_KINDS)
		return count;
	if (i == count)
	{
		memset(&kinds[i], 0, sizeof(kinds[i]));
		kinds[i].name = row->kind;
		count++;
	}
	kinds[i].seconds[0] += row->seconds_forward;
	kinds[i].seconds[1] += row->seconds_backward;
	kinds[i].flops[0] += row->flops_forward;
	kinds[i].flops[1] += row->flops_backward;
	return count;
}

static int
compare_kinds(const void *a, const void *b)
{
	const Kind *left = a;
	const Kind *right = b;
	double		difference = right->seconds[0] + right->seconds[1] -
		left->seconds[0] - left->seconds[1];

	return (difference > 0) - (difference < 0);
}

static void
print_line(const Bench *bench, const char *name, const double *seconds,
		   const double *flops, double total)
{
	double		sum = seconds[0] + seconds[1];
	double		work = (flops[0] + flops[1]) * bench->steps;

	fprintf(bench->out, "  %-44s %9.3f %9.3f %6.1f %9.1f\n", name,
			1e3 * seconds[0] / bench->steps, 1e3 * seconds[1] / bench->steps,
			total > 0 ? 100 * sum / total : 0.0,
			sum > 0 ? work / sum / 1e9 : 0.0);
}

static bool
print_operations(Bench *bench, bool train, double total, EngStatus *status)
{
	Kind		kinds[MAX_KINDS];
	const EngPlanRow *rows;
	double		listed = 0;
	int32_t		count;
	int			kind_count = 0;
	int			i;

	if (!eng_detector_explain(bench->detector, bench->padded, bench->count,
							  train, &rows, &count, status))
		return false;
	fprintf(bench->out, "  %-44s %9s %9s %6s %9s\n", "a step of it",
			"ms fwd", "ms back", "share", "GFLOP/s");
	for (i = 0; i < count; i++)
	{
		double		seconds[2] = {rows[i].seconds_forward,
		rows[i].seconds_backward};
		double		flops[2] = {rows[i].flops_forward,
		train ? rows[i].flops_backward : 0};

		kind_count = add_kind(kinds, kind_count, &rows[i]);
		listed += seconds[0] + seconds[1];
		if (bench->rows)
			print_line(bench, rows[i].name, seconds, flops, total);
	}
	qsort(kinds, kind_count, sizeof(kinds[0]), compare_kinds);
	for (i = 0; i < kind_count; i++)
	{
		if (!train)
			kinds[i].flops[1] = 0;
		print_line(bench, kinds[i].name, kinds[i].seconds, kinds[i].flops,
				   total);
	}
	fprintf(bench->out, "  outside of operations: %.1f %%\n",
			total > 0 ? 100 * (total - listed) / total : 0.0);
	return true;
}

static bool
measure(Bench *bench, bool train, EngStatus *status)
{
	EngDetections *found = calloc(bench->count, sizeof(*found));
	double		start;
	double		total;
	bool		fine = found != NULL;
	int			i;

	/* the first run makes the plan */
	fine = fine && run_once(bench, train, 0, found, status);
	eng_detector_profile(bench->detector, true);
	start = eng_feed_clock();
	for (i = 1; fine && i <= bench->steps; i++)
		fine = run_once(bench, train, i, found, status);
	total = eng_feed_clock() - start;
	free(found);
	if (!fine)
		return eng_fail(status, ENG_NO_MEMORY, "could not keep detections");
	fprintf(bench->out, "%s: %.1f images/s, %.1f ms for %d\n",
			train ? "training" : "inference",
			bench->count * bench->steps / total, 1e3 * total / bench->steps,
			bench->count);
	return print_operations(bench, train, total, status);
}

static bool
prepare(Bench *bench, const EngOption *options, EngStatus *status)
{
	const EngDetectorConfig *config = eng_detector_config(bench->detector);
	EngSize		size = eng_choice_frame_size(config);
	int			i;

	if (!eng_choice_size(options, &size, status))
		return false;
	bench->padded = eng_choice_padded(config, size);
	bench->frames = calloc(bench->count, sizeof(*bench->frames));
	if (bench->frames == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "could not make the frames");
	for (i = 0; i < bench->count; i++)
		if (!fill_frame(&bench->frames[i], i, size, config->num_classes,
						status))
			return false;
	return true;
}

static bool
run_bench(Bench *bench, const EngChoice *choice, const EngOption *options,
		  EngStatus *status)
{
	bool		train = eng_option_value(options, "infer") == NULL;
	EngOptimizerConfig optimizer;
	bool		fine;

	bench->detector = eng_choice_create(choice, train, status);
	if (bench->detector == NULL)
		return false;
	eng_optimizer_config_default(&optimizer);
	fine = prepare(bench, options, status) &&
		(!train || eng_detector_set_optimizer(bench->detector, &optimizer,
											  status)) &&
		eng_detector_init(bench->detector, (uint64_t) choice->seed, status) &&
		(!train || measure(bench, true, status)) &&
		measure(bench, false, status);
	free_frames(bench);
	eng_detector_free(bench->detector);
	return fine;
}

bool
eng_bench_run(int argc, char **argv, FILE *out, EngStatus *status)
{
	EngOption	options[] = {
		ENG_CHOICE_OPTIONS, {"frames"}, {"size"}, {"steps"}, {"rows", true},
		{"infer", true}, {NULL}
	};
	EngChoice	choice = {0};
	Bench		bench = {.out = out};
	EngArguments arguments;
	int64_t		frames = 8;
	int64_t		steps = 5;

	if (!eng_arguments_read(&arguments, argc, argv, options, 1, 1, status) ||
		!eng_choice_read(&choice, options, status) ||
		!eng_option_integer(options, "frames", 1, 1024, &frames, status) ||
		!eng_option_integer(options, "steps", 1, 10000, &steps, status))
		return false;
	choice.architecture = arguments.places[0];
	bench.count = (int) frames;
	bench.steps = (int) steps;
	bench.rows = eng_option_value(options, "rows") != NULL;
	return run_bench(&bench, &choice, options, status);
}
