/*
 * engine/answer.c
 *		The JSON of answers.
 */
#include "engine/answer.h"

#include "engine/io/json.h"

static json_t *
describe_memory(const EngMemory *memory)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}",
					 "parameters", (json_int_t) memory->parameters,
					 "gradients", (json_int_t) memory->gradients,
					 "optimizer", (json_int_t) memory->optimizer,
					 "activations", (json_int_t) memory->activations,
					 "workspace", (json_int_t) memory->workspace,
					 "kernels", (json_int_t) memory->kernels,
					 "boxes", (json_int_t) memory->boxes,
					 "pictures", (json_int_t) memory->pictures);
}

/*
 * Add what computes the network.
 */
static json_t *
add_device(json_t *answer, const EngBackend *backend)
{
	if (answer == NULL)
		return NULL;
	json_object_set_new(answer, "device", json_string(backend->name));
	if (backend->device_name[0] != '\0')
		json_object_set_new(answer, "device_name",
							eng_json_text(backend->device_name));
	if (backend->note[0] != '\0')
		json_object_set_new(answer, "device_note",
							eng_json_text(backend->note));
	return answer;
}

json_t *
eng_answer_load(const EngDetector *detector, const EngLoadOptions *options)
{
	json_t	   *names = json_array();
	json_t	   *answer;
	EngMemory	memory;
	int64_t		parameters = 0;
	int32_t		i;

	eng_detector_memory(detector, &memory);
	for (i = 0; i < options->new_count; i++)
		json_array_append_new(names, eng_json_text(options->new_names[i]));
	for (i = 0; i < eng_detector_parameter_count(detector); i++)
	{
		EngParameterInfo info;

		eng_detector_parameter_info(detector, i, &info);
		if (!info.is_buffer)
			parameters += info.count;
	}
	answer = json_pack("{s:I, s:o, s:i, s:s, s:o, s:i, s:i, s:b}",
					   "parameters", (json_int_t) parameters,
					   "arena_bytes", describe_memory(&memory),
					   "threads", (int) eng_detector_threads(detector),
					   "precision",
					   eng_type_name(eng_detector_precision(detector)),
					   "new_tensors", names,
					   "unused_tensors", (int) options->unused_count,
					   "optimizer_tensors", (int) options->optimizer_loaded,
					   "old_names", (int) options->old_names);
	return add_device(answer, eng_detector_backend(detector));
}

json_t *
eng_answer_load_clip(const EngClip *clip, int32_t unused)
{
	json_t	   *answer;
	EngMemory	memory;
	int64_t		parameters = 0;
	int32_t		i;

	for (i = 0; i < eng_clip_parameter_count(clip); i++)
	{
		EngParameterInfo info;

		eng_clip_parameter_info(clip, i, &info);
		parameters += info.count;
	}
	eng_clip_memory(clip, &memory);
	answer = json_pack("{s:I, s:o, s:i, s:s, s:[], s:i, s:i, s:b}",
					   "parameters", (json_int_t) parameters,
					   "arena_bytes", describe_memory(&memory),
					   "threads", (int) eng_clip_threads(clip),
					   "precision", eng_type_name(eng_clip_precision(clip)),
					   "new_tensors", "unused_tensors", (int) unused,
					   "optimizer_tensors", 0, "old_names", 0);
	return add_device(answer, eng_clip_backend(clip));
}

json_t *
eng_answer_step(const EngBatchRequest *batch, const EngStepResult *result)
{
	json_t	   *answer;

	answer = json_pack("{s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:i, s:b}",
					   "step", (json_int_t) batch->step,
					   "loss", eng_json_real(result->loss),
					   "loss_classifier",
					   eng_json_real(result->loss_classifier),
					   "loss_box_reg", eng_json_real(result->loss_box_reg),
					   "loss_objectness",
					   eng_json_real(result->loss_objectness),
					   "loss_rpn_box_reg",
					   eng_json_real(result->loss_rpn_box_reg),
					   "grad_norm", eng_json_real(result->grad_norm),
					   "frames", (int) batch->frame_count,
					   "skipped", (int) result->skipped);
	if (answer != NULL && result->loss_scale > 0)
	{
		json_object_set_new(answer, "loss_scale",
							eng_json_real(result->loss_scale));
		json_object_set_new(answer, "overflow",
							json_boolean(result->overflow));
	}
	return answer;
}

json_t *
eng_answer_detections(const EngDetections *detections, double min_score)
{
	json_t	   *labels = json_array();
	json_t	   *scores = json_array();
	json_t	   *boxes = json_array();
	int32_t		i;
	int			j;

	for (i = 0; i < detections->count; i++)
	{
		json_t	   *box;

		if (detections->scores[i] < min_score)
			continue;
		box = json_array();
		for (j = 0; j < 4; j++)
			json_array_append_new(box,
								  eng_json_real(detections->boxes[4 * i + j]));
		json_array_append_new(boxes, box);
		json_array_append_new(labels, json_integer(detections->labels[i]));
		json_array_append_new(scores, eng_json_real(detections->scores[i]));
	}
	return json_pack("{s:o, s:o, s:o}", "labels", labels, "scores", scores,
					 "boxes", boxes);
}

json_t *
eng_answer_failed_frame(json_int_t frame_id, EngCode code,
						const char *message)
{
	return json_pack("{s:I, s:s, s:o}", "frame_id", frame_id, "code",
					 eng_code_name(code), "message", eng_json_text(message));
}

void
eng_answer_times(json_t *answer, double wait_s, double busy_s)
{
	json_object_set_new(answer, "wait_s", eng_json_real(wait_s));
	json_object_set_new(answer, "busy_s", eng_json_real(busy_s));
}

json_t *
eng_answer_error(const EngStatus *failure, const EngBatchRequest *batch,
				 bool fatal)
{
	json_t	   *json = json_pack("{s:s, s:o}", "code",
								 eng_code_name(failure->code), "message",
								 eng_json_text(failure->message));

	if (json != NULL && fatal)
		json_object_set_new(json, "fatal", json_true());
	if (json != NULL && batch->has_bad_frame)
		json_object_set_new(json, "frame_id",
							json_integer(batch->bad_frame));
	return json;
}
