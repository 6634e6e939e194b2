/*
 * engine/nets/detector_scale.c
 *		The loss scale of a training in f16, as the host sees it.
 *
 * The device changes it by itself and tells at the end of a step, so that the
 * host's is the device's between steps.  It belongs to the optimizer's state:
 * a training that goes on has the one that it stopped with.
 */
#include <math.h>
#include <string.h>

#include "engine/nets/detector_match.h"
#include "engine/nets/detector_private.h"

#define SCALE	ENG_OPTIMIZER_PREFIX "loss_scale"
#define STEPS	ENG_OPTIMIZER_PREFIX "loss_scale_steps"

void
eng_detector_reset_scale(EngDetector *detector)
{
	detector->loss_scale = (EngLossScale)
	{
		detector->precision == ENG_F16 ? ENG_LOSS_SCALE_FIRST : 0, 0
	};
	detector->loss_scale_sent = false;
}

bool
eng_detector_send_scale(EngDetector *detector, EngStatus *status)
{
	EngBackend *backend = detector->backend;

	detector->gradient_scale = detector->loss_scale.scale;
	if (detector->loss_scale_sent || !backend->device)
		return true;
	detector->loss_scale_sent =
		backend->set_loss_scale(backend, &detector->loss_scale, status);
	return detector->loss_scale_sent;
}

void
eng_detector_take_scale(EngDetector *detector, const EngStepOutcome *outcome,
						EngStepResult *result)
{
	result->loss_scale = detector->loss_scale.scale;
	result->overflow = detector->loss_scale.scale > 0 &&
		!isfinite(outcome->norm);
	detector->loss_scale = outcome->loss_scale;
}

bool
eng_detector_save_scale(const EngDetector *detector, EngTensorWriter *writer,
						EngStatus *status)
{
	const EngLossScale *s = &detector->loss_scale;
	EngFileTensor scale = {
		.name = SCALE, .dtype = ENG_FILE_F32, .count = 1,
		.data = (const uint8_t *) &s->scale, .bytes = sizeof(s->scale)
	};
	EngFileTensor steps = {
		.name = STEPS, .dtype = ENG_FILE_I32, .count = 1,
		.data = (const uint8_t *) &s->good_steps,
		.bytes = sizeof(s->good_steps)
	};

	return s->scale == 0 ||
		(eng_tensor_writer_add(writer, &scale, status) &&
		 eng_tensor_writer_add(writer, &steps, status));
}

bool
eng_detector_load_scale(EngDetector *detector, const EngTensorFile *file,
						EngStatus *status)
{
	const EngFileTensor *scale = eng_tensor_file_find(file, SCALE);
	const EngFileTensor *steps = eng_tensor_file_find(file, STEPS);
	EngLossScale s;

	if (detector->precision != ENG_F16 || scale == NULL || steps == NULL)
		return true;
	if (scale->dtype != ENG_FILE_F32 || scale->count != 1 ||
		steps->dtype != ENG_FILE_I32 || steps->count != 1)
		return eng_fail(status, ENG_BAD_FILE,
						"tensors \"" SCALE "\" and \"" STEPS "\" are not a float32 and an int32");
	memcpy(&s.scale, scale->data, sizeof(s.scale));
	memcpy(&s.good_steps, steps->data, sizeof(s.good_steps));
	if (!(s.scale >= ENG_LOSS_SCALE_LEAST && isfinite(s.scale)) ||
		s.good_steps < 0 || s.good_steps >= ENG_LOSS_SCALE_STEPS)
		return eng_fail(status, ENG_BAD_FILE,
						"tensors \"" SCALE "\" and \"" STEPS "\" are %g and %d, which no training leaves",
						s.scale, (int) s.good_steps);
	detector->loss_scale = s;
	detector->loss_scale_sent = false;
	return true;
}
