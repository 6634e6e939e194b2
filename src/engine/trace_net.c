/*
 * engine/trace_net.c
 *		Run a recorded detector: inference, then the recorded training steps.
 *
 * Weights are a formula of their names, so the case holds its parameters
 * only.  Later stages are given the recorded proposals and samples: a tie
 * decided otherwise early in the net would spoil all that follows.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/trace_net.h"
#include "engine/trace_steps.h"

/* ---- configuration ----------------------------------------------------------- */

static int64_t
integer_of(const json_t *object, const char *key, int64_t otherwise)
{
	const json_t *value = json_object_get(object, key);

	return json_is_integer(value) ? json_integer_value(value) : otherwise;
}

static double
number_of(const json_t *object, const char *key, double otherwise)
{
	const json_t *value = json_object_get(object, key);

	return json_is_number(value) ? json_number_value(value) : otherwise;
}

static const char *
text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text != NULL ? text : "";
}

/*
 * What a case says of the architecture, as options of ours.  Widths of the
 * head's convolutions other than the pyramid's are beyond us.
 */
static json_t *
architecture_options(const json_t *config)
{
	static const char *const names[][2] = {
		{"out_channels", "fpn_channels"},
		{"representation_size", "representation_size"},
		{"frozen_bn_eps", "norm_eps"},
		{"rpn_conv_depth", "rpn_conv_depth"},
		{"anchor_sizes", "anchor_sizes"},
		{"anchor_ratios", "aspect_ratios"},
		{"roi_output_size", "box_roi_pool_output_size"},
		{"roi_sampling_ratio", "box_roi_pool_sampling_ratio"}
	};
	const json_t *arch = json_object_get(config, "arch");
	json_t	   *options = json_object();

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
	{
		json_t	   *value = json_object_get(arch, names[i][0]);

		if (value != NULL)
			json_object_set(options, names[i][1], value);
	}
	json_object_set_new(options, "norm",
						json_string(strcmp(text_of(arch, "body_norm"),
										   "frozen") == 0 ?
									"frozen" : "batch"));
	json_object_set_new(options, "fpn_norm",
						json_boolean(json_is_string(json_object_get(arch,
																	"fpn_norm"))));
	if (json_is_string(json_object_get(config, "scale_rule")))
		json_object_set(options, "scale_rule",
						json_object_get(config, "scale_rule"));
	json_object_update(options, json_object_get(config, "options"));
	return options;
}

/* The case's options are torchvision's: the parser takes them as they are. */
static bool
read_config(EngTraceNet *net)
{
	EngStatus  *status = eng_trace_status(net->trace);
	const json_t *config = eng_trace_config(net->trace);
	const json_t *arch = json_object_get(config, "arch");
	json_t	   *options;
	const char *body = text_of(arch, "body");
	EngDetectorConfig *c = &net->config;
	char		name[48];
	char	   *text;
	bool		done;

	if (!json_is_object(json_object_get(config, "options")))
		return eng_fail(status, ENG_BAD_FILE, "the case has no options");
	options = architecture_options(config);
	snprintf(name, sizeof(name), "fasterrcnn_%s_fpn%s", body,
			 strcmp(text_of(arch, "style"), "v2") == 0 ? "_v2" : "");
	text = json_dumps(options, JSON_COMPACT);
	json_decref(options);
	done = text != NULL &&
		eng_detector_config_parse(c, name, text,
								  (int) integer_of(config, "num_classes", 91),
								  status);
	free(text);
	if (!done)
		return false;
	c->box_head_convs = (int32_t)
		json_array_size(json_object_get(arch, "box_head_convs"));
	return true;
}

static bool
set_optimizer(EngTraceNet *net)
{
	const json_t *config = eng_trace_config(net->trace);
	const json_t *sgd = json_object_get(config, "sgd");
	EngOptimizerConfig optimizer;

	eng_optimizer_config_default(&optimizer);
	optimizer.kind = ENG_OPTIMIZER_SGD;
	optimizer.momentum = (float) number_of(sgd, "momentum", 0.0);
	optimizer.weight_decay = (float) number_of(sgd, "weight_decay", 0.0);
	optimizer.decay_matrices_only = false;
	optimizer.clip_norm = (float) number_of(sgd, "clip_norm", 0.0);
	optimizer.trainable_layers = (int32_t)
		integer_of(json_object_get(config, "arch"), "trainable_layers", 5);
	optimizer.freeze_norm = false;
	return eng_detector_set_optimizer(net->detector, &optimizer,
									  eng_trace_status(net->trace));
}

/* ---- weights ------------------------------------------------------------------- */

static bool
set_weights(EngTraceNet *net)
{
	EngTraceCase *trace = net->trace;
	int32_t		n = eng_detector_parameter_count(net->detector);

	for (int32_t i = 0; i < n; i++)
	{
		EngParameterInfo info;
		float	   *value;

		eng_detector_parameter_info(net->detector, i, &info);
		if (info.is_counter)
			continue;
		value = eng_trace_weights(trace, info.name, info.count);
		if (value == NULL)
			return false;
		if (!eng_detector_parameter_write(net->detector, i, ENG_PART_VALUE,
										  value))
			return eng_fail(eng_trace_status(trace), ENG_INTERNAL,
							"could not set \"%s\"", info.name);
	}
	return true;
}

/* ---- frames ---------------------------------------------------------------------- */

static bool
load_frame(EngTraceNet *net, int32_t i, const json_t *image,
		   const char *folder)
{
	EngTraceCase *trace = net->trace;
	EngFrame   *frame = net->frames + i;
	const EngFileTensor *tensor;

	if (eng_trace_has(trace, "image.%d", i))
	{
		tensor = eng_trace_tensor(trace, "image.%d", i);
		frame->rgb = eng_trace_bytes(trace, "image.%d", i);
		if (frame->rgb == NULL || tensor->rank != 3 || tensor->shape[2] != 3 ||
			tensor->shape[0] < 1 || tensor->shape[1] < 1)
			return eng_fail(eng_trace_status(trace), ENG_BAD_FILE,
							"image %d is none", i);
		frame->height = (int32_t) tensor->shape[0];
		frame->width = (int32_t) tensor->shape[1];
	}
	else
	{
		EngImage	picture;

		if (!eng_trace_read_frame(trace, folder, text_of(image, "frame"),
								  &picture))
			return false;
		frame->rgb = picture.pixels;
		frame->width = picture.width;
		frame->height = picture.height;
	}
	tensor = eng_trace_tensor(trace, "boxes.%d", i);
	frame->boxes = eng_trace_floats(trace, "boxes.%d", i);
	frame->labels = eng_trace_ints(trace, "labels.%d", i);
	if (frame->boxes == NULL || frame->labels == NULL)
		return false;
	frame->box_count = (int32_t) (tensor->count / 4);
	if (!eng_trace_expect(trace, 4 * (int64_t) frame->box_count, "boxes.%d",
						  i) ||
		!eng_trace_expect(trace, frame->box_count, "labels.%d", i))
		return false;
	frame->frame_id = i;
	frame->position = i;
	frame->flip = false;
	return true;
}

static bool
load_frames(EngTraceNet *net, const char *folder)
{
	const json_t *images = json_object_get(eng_trace_config(net->trace),
										   "images");

	net->frame_count = (int32_t) json_array_size(images);
	if (net->frame_count < 1 || net->frame_count > ENG_TRACE_FRAMES)
		return eng_fail(eng_trace_status(net->trace), ENG_BAD_FILE,
						"the case has %d images, but 1 to %d can be run",
						net->frame_count, ENG_TRACE_FRAMES);
	for (int32_t i = 0; i < net->frame_count; i++)
		if (!load_frame(net, i, json_array_get(images, i), folder))
			return false;
	return true;
}

/* ---- running ---------------------------------------------------------------------- */

static void
set_hooks(EngTraceNet *net, EngSampleMode mode)
{
	EngDetectorHooks hooks;

	memset(&hooks, 0, sizeof(hooks));
	hooks.keep_all = true;
	hooks.sample_mode = mode;
	hooks.mt = &net->mt;
	hooks.given = net->given;
	hooks.given_count = net->frame_count;
	eng_detector_set_hooks(net->detector, &hooks);
}

static bool
run_inference(EngTraceNet *net, bool free_running)
{
	EngTraceCase *trace = net->trace;
	EngDetections detections[ENG_TRACE_FRAMES];

	memset(net->given, 0, sizeof(net->given));
	for (int32_t i = 0; i < net->frame_count; i++)
	{
		EngGiven   *given = net->given + i;

		given->proposal_count = -1;
		if (!free_running)
			given->proposals = eng_trace_recorded(trace,
												  &given->proposal_count,
												  "eval.proposals.%d", i);
	}
	set_hooks(net, ENG_SAMPLE_COUNTER);
	return eng_detector_infer(net->detector, net->frames, net->frame_count,
							  detections, eng_trace_status(trace)) &&
		eng_trace_put_stages(net, "eval") &&
		eng_trace_put_proposals(net, "eval", true) &&
		eng_trace_put_detections(net, detections);
}

/* Recorded proposals and samples of a step. */
static bool
give_step(EngTraceNet *net, int step)
{
	EngTraceCase *trace = net->trace;

	for (int32_t i = 0; i < net->frame_count; i++)
	{
		EngGiven   *g = net->given + i;
		const int32_t *list[4];
		int32_t		count[4];
		static const char *const parts[4] = {"rpn_pos", "rpn_neg", "roi_pos",
		"roi_neg"};

		for (int k = 0; k < 4; k++)
		{
			const EngFileTensor *tensor = eng_trace_tensor(trace,
														   "step%d.%s.%d",
														   step, parts[k], i);

			list[k] = eng_trace_ints(trace, "step%d.%s.%d", step, parts[k],
									 i);
			if (list[k] == NULL)
				return false;
			count[k] = (int32_t) tensor->count;
		}
		g->rpn_positives = list[0];
		g->rpn_negatives = list[1];
		g->roi_positives = list[2];
		g->roi_negatives = list[3];
		g->rpn_positive_count = count[0];
		g->rpn_negative_count = count[1];
		g->roi_positive_count = count[2];
		g->roi_negative_count = count[3];
		g->proposals = eng_trace_floats(trace, "step%d.proposals.%d", step, i);
		if (g->proposals == NULL)
			return false;
		g->proposal_count = (int32_t)
			(eng_trace_tensor(trace, "step%d.proposals.%d", step, i)->count / 4);
	}
	return true;
}

static bool
put_number(EngTraceCase *trace, int step, const char *name, float value)
{
	static const int64_t one[4] = {1};
	EngTraceOut out = eng_trace_out(1, one, "step%d.%s", step, name);

	return eng_trace_put_floats(trace, &out, &value);
}

/* One part of every parameter under PREFIX.NAME. */
static bool
put_parameters(const EngTraceNet *net, const char *prefix,
			   EngParameterPart part, bool buffers)
{
	int32_t		n = eng_detector_parameter_count(net->detector);

	for (int32_t i = 0; i < n; i++)
	{
		EngParameterInfo info;
		EngTraceOut out;
		float	   *value;

		eng_detector_parameter_info(net->detector, i, &info);
		if (info.is_buffer != buffers || info.is_counter ||
			!eng_trace_wants(net->trace, "%s.%s", prefix, info.name))
			continue;
		value = eng_trace_alloc(net->trace, (size_t) info.count * 4);
		if (value == NULL)
			return false;
		if (!eng_detector_parameter_read(net->detector, i, part, value))
			continue;
		out = eng_trace_out(info.rank, info.shape, "%s.%s", prefix, info.name);
		if (!eng_trace_put_floats(net->trace, &out, value))
			return false;
	}
	return true;
}

static bool
put_after_step(const EngTraceNet *net, int step)
{
	char		prefix[32];

	snprintf(prefix, sizeof(prefix), "step%d.param", step);
	if (!put_parameters(net, prefix, ENG_PART_VALUE, false))
		return false;
	snprintf(prefix, sizeof(prefix), "step%d.momentum", step);
	if (!put_parameters(net, prefix, ENG_PART_SLOT0, false))
		return false;
	snprintf(prefix, sizeof(prefix), "step%d.buffer", step);
	return put_parameters(net, prefix, ENG_PART_VALUE, true);
}

static bool
run_step(EngTraceNet *net, int step)
{
	EngTraceCase *trace = net->trace;
	EngStepInfo info;
	EngStepResult result;

	memset(&info, 0, sizeof(info));
	info.step = (uint64_t) step;
	info.with_empty = true;
	info.lr = (float) number_of(json_object_get(eng_trace_config(trace), "sgd"),
								"lr", 0.0);
	if (!give_step(net, step))
		return false;
	eng_mt19937_seed(&net->mt, (uint64_t)
					 integer_of(eng_trace_config(trace), "torch_seed", 0) +
					 (uint64_t) step - 1);
	set_hooks(net, net->draw ? ENG_SAMPLE_MT19937 : ENG_SAMPLE_GIVEN);
	if (!eng_detector_train_step(net->detector, net->frames, net->frame_count,
								 &info, &result, eng_trace_status(trace)))
		return false;
	if (step == 1 && !(eng_trace_put_stages(net, "train") &&
					   eng_trace_put_proposals(net, "train", false) &&
					   eng_trace_put_targets(net) &&
					   eng_trace_put_stage_gradients(net) &&
					   put_parameters(net, "grad", ENG_PART_GRADIENT, false)))
		return false;
	return put_number(trace, step, "loss_classifier", result.loss_classifier) &&
		put_number(trace, step, "loss_box_reg", result.loss_box_reg) &&
		put_number(trace, step, "loss_objectness", result.loss_objectness) &&
		put_number(trace, step, "loss_rpn_box_reg", result.loss_rpn_box_reg) &&
		put_number(trace, step, "grad_norm", result.grad_norm) &&
		put_after_step(net, step);
}

bool
eng_trace_detector(EngTraceCase *trace, const EngTraceOptions *options)
{
	EngTraceNet *net = eng_trace_alloc(trace, sizeof(EngTraceNet));
	int			steps = (int) integer_of(eng_trace_config(trace),
										 "train_steps", 0);
	bool		done;

	if (net == NULL)
		return false;
	net->trace = trace;
	net->draw = options->draw;
	if (!read_config(net) || !load_frames(net, options->frames))
		return eng_fail(eng_trace_status(trace), ENG_BAD_FILE,
						"the case could not be read");
	net->detector = eng_detector_create(&net->config, options->backend,
										options->threads, true,
										eng_trace_status(trace));
	if (net->detector == NULL)
		return false;
	done = eng_detector_set_precision(net->detector, options->precision,
									  eng_trace_status(trace)) &&
		set_optimizer(net) && set_weights(net) &&
		run_inference(net, options->free_running);
	for (int step = 1; done && !options->free_running && step <= steps; step++)
		done = run_step(net, step);
	eng_detector_free(net->detector);
	return done || eng_fail(eng_trace_status(trace), ENG_INTERNAL,
							"the case could not be run");
}
