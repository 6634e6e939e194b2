/*
 * test/engine/fake_detector.h
 *		A detector that does nothing, in the place of the real one.
 *
 * Included by one test program: the linker then takes these functions and
 * leaves the real ones in the library, so the session is tested alone, fast,
 * and with steps that last as long as the test wants.
 */
#ifndef TEST_ENGINE_FAKE_DETECTOR_H
#define TEST_ENGINE_FAKE_DETECTOR_H

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/nets/detector.h"

struct EngDetector
{
	EngDetectorConfig config;
	EngType		precision;
	float		weight;
	float		boxes[4];
	float		score;
	int32_t		label;
	size_t		limit;			/* bytes, 0 = none */
	size_t		pictures;		/* bytes, as the session says */
	size_t		activations;	/* bytes that it keeps after inference */
};

/* What the fake is to do, and what it saw; set and read between calls. */
static int	fake_step_ms;
static volatile int fake_stop;
static bool fake_not_finite;
static int	fake_detectors;
static size_t fake_needs;		/* MiB of inference */
static size_t fake_pictures;	/* bytes that the last inference was told */
static size_t fake_weights = (size_t) 4 << 20;	/* bytes */
static uint32_t fake_flips;		/* bit i: frame i of the last step */
static int32_t fake_width;
static int32_t fake_boxes;
static float fake_last_box[4];

bool
eng_detector_config_parse(EngDetectorConfig *config, const char *architecture,
						  const char *options_json, int num_classes,
						  EngStatus *status)
{
	memset(config, 0, sizeof(*config));
	if (strcmp(architecture, "small") != 0)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"unknown architecture \"%.40s\"", architecture);
	config->num_classes = num_classes != 0 ? num_classes : 11;
	return true;
}

EngDetector *
eng_detector_create(const EngDetectorConfig *config, const char *backend,
					int threads, bool train, EngStatus *status)
{
	EngDetector *detector = calloc(1, sizeof(*detector));

	(void) backend;
	(void) threads;
	(void) train;
	(void) status;
	detector->config = *config;
	detector->boxes[2] = detector->boxes[3] = 7.25f;
	detector->score = 0.625f;
	detector->label = 3;
	fake_detectors++;
	return detector;
}

void
eng_detector_free(EngDetector *detector)
{
	if (detector != NULL)
		fake_detectors--;
	free(detector);
}

bool
eng_detector_init(EngDetector *detector, uint64_t seed, EngStatus *status)
{
	(void) status;
	detector->weight = (float) (seed % 1000);
	return true;
}

bool
eng_detector_load(EngDetector *detector, const EngTensorFile *file,
				  EngLoadOptions *options, EngStatus *status)
{
	const EngFileTensor *tensor = eng_tensor_file_find(file, "w");

	if (tensor == NULL || tensor->count != 1)
		return eng_fail(status, ENG_BAD_FILE, "no tensor w");
	options->loaded = 1;
	return eng_file_tensor_floats(tensor, &detector->weight, status);
}

bool
eng_detector_save(EngDetector *detector, bool with_optimizer, EngBuffer *out,
				  EngStatus *status)
{
	EngTensorWriter *writer = eng_tensor_writer_create(status);
	EngFileTensor tensor = {.name = "w", .dtype = ENG_FILE_F32};
	bool		fine;

	(void) with_optimizer;
	tensor.data = (const uint8_t *) &detector->weight;
	fine = eng_tensor_writer_add(writer, &tensor, status) &&
		eng_tensor_writer_finish(writer, out, status);
	eng_tensor_writer_free(writer);
	return fine;
}

void
eng_optimizer_config_default(EngOptimizerConfig *config)
{
	memset(config, 0, sizeof(*config));
}

bool
eng_detector_set_precision(EngDetector *detector, EngType type,
						   EngStatus *status)
{
	(void) status;
	detector->precision = type;
	return true;
}

EngType
eng_detector_precision(const EngDetector *detector)
{
	return detector->precision;
}

bool
eng_detector_set_optimizer(EngDetector *detector,
						   const EngOptimizerConfig *config,
						   EngStatus *status)
{
	(void) detector;
	(void) config;
	(void) status;
	return true;
}

/* Frames one pixel high vanish; labels have a limit. */
bool
eng_detector_check_frame(const EngDetector *detector, const EngFrame *frame,
						 bool train, EngStatus *status)
{
	int			i;

	if (frame->height == 1)
		return eng_fail(status, ENG_BAD_ARGUMENT, "frame %d vanishes",
						(int) frame->frame_id);
	for (i = 0; train && i < frame->box_count; i++)
		if (frame->labels[i] >= detector->config.num_classes)
			return eng_fail(status, ENG_BAD_ARGUMENT,
							"frame %d has label %d", (int) frame->frame_id,
							frame->labels[i]);
	return true;
}

bool
eng_detector_check_finite(const EngDetector *detector, EngStatus *status)
{
	if (isfinite(detector->weight))
		return true;
	return eng_fail(status, ENG_NUMERIC, "weights are not finite");
}

bool
eng_detector_train_step(EngDetector *detector, const EngFrame *frames, int n,
						const EngStepInfo *info, EngStepResult *result,
						EngStatus *status)
{
	int			left = fake_step_ms;
	int			i;

	for (; left > 0 && !fake_stop; left -= 5)
		usleep(5000);
	memset(result, 0, sizeof(*result));
	fake_flips = 0;
	for (i = 0; i < n; i++)
	{
		fake_flips |= (uint32_t) frames[i].flip << i;
		result->boxes += frames[i].box_count;
		if (frames[i].box_count > 0)
			memcpy(fake_last_box, frames[i].boxes, sizeof(fake_last_box));
	}
	fake_width = frames[0].width;
	fake_boxes = result->boxes;
	if (fake_not_finite)
		return eng_fail(status, ENG_NUMERIC, "the loss is not finite");
	detector->weight += info->lr;
	result->loss = detector->weight;
	result->skipped = result->boxes == 0;
	return true;
}

bool
eng_detector_infer(EngDetector *detector, const EngFrame *frames, int n,
				   EngDetections *out, EngStatus *status)
{
	int			i;

	(void) frames;
	fake_pictures = detector->pictures;
	if (detector->limit > 0 &&
		fake_weights + (fake_needs << 20) > detector->limit)
		return eng_fail(status, ENG_NO_MEMORY, "batch of %d needs more", n);
	detector->activations = fake_needs << 20;
	for (i = 0; i < n; i++)
	{
		out[i].boxes = detector->boxes;
		out[i].scores = &detector->score;
		out[i].labels = &detector->label;
		out[i].count = 1;
	}
	return true;
}

void
eng_detector_memory(const EngDetector *detector, EngMemory *memory)
{
	memset(memory, 0, sizeof(*memory));
	memory->parameters = fake_weights;
	memory->activations = detector->activations;
}

size_t
eng_memory_total(const EngMemory *memory)
{
	return memory->parameters + memory->activations;
}

bool
eng_detector_check_memory(const EngDetector *detector, EngStatus *status)
{
	(void) detector;
	(void) status;
	return true;
}

void
eng_detector_set_pictures(EngDetector *detector, size_t bytes)
{
	detector->pictures = bytes;
}

void
eng_detector_set_memory_limit(EngDetector *detector, size_t limit)
{
	detector->limit = limit;
}

EngBackend *
eng_detector_keeper(EngDetector *detector)
{
	return NULL;
}

const EngBackend *
eng_detector_backend(const EngDetector *detector)
{
	static EngBackend backend = {.name = "fake"};

	(void) detector;
	return &backend;
}

int32_t
eng_detector_threads(const EngDetector *detector)
{
	(void) detector;
	return 1;
}

const EngDetectorConfig *
eng_detector_config(const EngDetector *detector)
{
	return &detector->config;
}

int32_t
eng_detector_parameter_count(const EngDetector *detector)
{
	(void) detector;
	return 1;
}

void
eng_detector_parameter_info(const EngDetector *detector, int32_t i,
							EngParameterInfo *info)
{
	(void) detector;
	(void) i;
	memset(info, 0, sizeof(*info));
	info->name = "w";
	info->count = 1;
}

#endif							/* TEST_ENGINE_FAKE_DETECTOR_H */
