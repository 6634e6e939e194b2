/*
 * engine/explain.c
 *		Print the plan of a detector: operation, shape, kernel, cost.
 */
#include "engine/choice.h"
#include "engine/clip_commands.h"
#include "engine/commands.h"
#include "engine/core/backend.h"
#include "engine/protocol.h"

#include <string.h>

const char	eng_explain_help[] =
"usage: avcurate-engine explain ARCHITECTURE [OPTIONS]\n"
"\n"
"Print the plan: for each operation the shape of its output, its GFLOP and the\n"
"MB that it moves at least, forward and backward, and its kernels: forward,\n"
"gradient of the input, gradient of the weights.  Then the bytes of every arena,\n"
"and of the decoded pictures that a server's worker has waiting.\n"
ENG_CHOICE_NETWORK_HELP
ENG_CHOICE_MACHINE_HELP
"  --frames N       frames in a batch (1)\n"
"  --size WxH       size of a frame in pixels (16:9, as the detector takes)\n"
"  --train          the plan of a training step\n"
"  --device-properties FILE\n"
"                   plan for the GPU whose properties are in FILE, in cuDNN's\n"
"                   JSON; none needs to be here\n"
"  --limit BYTES    refuse a plan over the limit, as a server's setting does\n"
ENG_CLIP_HELP;

void
eng_explain_rows(FILE *out, const EngPlanRow *rows, int32_t count, bool train)
{
	double		sums[4] = {0};
	int32_t		i;

	fprintf(out, "%-12s %-44s %-20s %9s %9s %9s %9s  %s\n", "operation",
			"name", "output", "GFLOP", "backward", "MB", "backward",
			"kernel");
	for (i = 0; i < count; i++)
	{
		const EngPlanRow *row = &rows[i];
		char		shape[64];

		snprintf(shape, sizeof(shape), "%dx%dx%dx%d", row->output[0],
				 row->output[1], row->output[2], row->output[3]);
		fprintf(out, "%-12s %-44s %-20s %9.4f %9.4f %9.3f %9.3f  %s%s%s\n",
				row->kind, row->name, shape, row->flops_forward / 1e9,
				row->flops_backward / 1e9, row->bytes_forward / 1e6,
				row->bytes_backward / 1e6,
				row->kernel != NULL ? row->kernel : "",
				train && row->sparse ? ", sparse gradient" : "",
				row->again ? "again in backward" : "");
		sums[0] += row->flops_forward;
		sums[1] += row->flops_backward;
		sums[2] += row->bytes_forward;
		sums[3] += row->bytes_backward;
	}
	fprintf(out, "%-12s %-44d %-20s %9.4f %9.4f %9.3f %9.3f\n", "all", count,
			"", sums[0] / 1e9, sums[1] / 1e9, sums[2] / 1e6, sums[3] / 1e6);
}

void
eng_explain_memory(FILE *out, const EngMemory *memory)
{
	fprintf(out, "memory, MB: parameters %.1f, gradients %.1f, optimizer %.1f, activations %.1f, workspace %.1f, kernels %.1f, boxes %.1f, pictures %.1f\n",
			memory->parameters / 1e6, memory->gradients / 1e6,
			memory->optimizer / 1e6, memory->activations / 1e6,
			memory->workspace / 1e6, memory->kernels / 1e6,
			memory->boxes / 1e6, memory->pictures / 1e6);
	fprintf(out, "activations alive at once, MB: %.1f, so no arena is smaller\n",
			memory->alive / 1e6);
}

static bool
explain(const EngChoice *choice, const EngOption *options, FILE *out,
		EngStatus *status)
{
	bool		train = eng_option_value(options, "train") != NULL;
	int64_t		frames = 1;
	int64_t		limit = 0;
	const EngDetectorConfig *config;
	const EngPlanRow *rows;
	EngDetector *detector;
	EngMemory	memory;
	int32_t		count;
	EngSize		size;
	bool		fine;

	if (!eng_option_integer(options, "frames", 1, 1024, &frames, status) ||
		!eng_option_integer(options, "limit", 1, INT64_MAX, &limit, status))
		return false;
	detector = eng_choice_create(choice, train, status);
	if (detector == NULL)
		return false;
	eng_detector_set_memory_limit(detector, (size_t) limit);
	config = eng_detector_config(detector);
	size = eng_choice_frame_size(config);
	fine = eng_choice_size(options, &size, status);
	if (fine)
	{
		eng_detector_set_pictures(detector, (size_t) size.width *
								  size.height * 3 * (size_t) frames *
								  ENG_PROTOCOL_AHEAD);
		size = eng_choice_padded(config, size);
		fine = eng_detector_explain(detector, size, (int) frames, train,
									&rows, &count, status);
	}
	if (fine)
	{
		fprintf(out, "%s, %s, %s, %d threads, input %d x %d x %d x 3\n",
				choice->architecture, train ? "training" : "inference",
				eng_detector_backend(detector)->name,
				eng_detector_threads(detector),
				(int) frames, size.height, size.width);
		eng_explain_rows(out, rows, count, train);
		eng_detector_memory(detector, &memory);
		eng_explain_memory(out, &memory);
	}
	eng_detector_free(detector);
	return fine;
}

bool
eng_explain_run(int argc, char **argv, FILE *out, EngStatus *status)
{
	EngOption	options[] = {
		ENG_CHOICE_NETWORK, ENG_CHOICE_MACHINE, {"frames"}, {"size"},
		{"train", true}, {"limit"}, {"device-properties"},
		ENG_CLIP_OPTIONS, {NULL}
	};
	EngChoice	choice = {0};
	EngArguments arguments;
	char		device[ENG_CHOICE_DEVICE];

	if (eng_clip_is_named(argc, argv))
		return eng_clip_explain_run(argc, argv, out, status);
	if (!eng_arguments_read(&arguments, argc, argv, options, 1, 1, status) ||
		!eng_clip_refuse_options(options, status) ||
		!eng_choice_read(&choice, options, status) ||
		!eng_choice_planned(&choice, options, device, status))
		return false;
	choice.architecture = arguments.places[0];
	return explain(&choice, options, out, status);
}
