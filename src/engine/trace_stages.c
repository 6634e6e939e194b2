/*
 * engine/trace_stages.c
 *		Outputs of a recorded detector, stage by stage.
 */
#include <string.h>

#include "engine/trace_net.h"

#define SHAPE(...) ((const int64_t[4]) {__VA_ARGS__})

static const char *const map_names[] = {"c2", "c3", "c4", "c5", "p2", "p3",
	"p4", "p5", "p6", "rpn_logits.0", "rpn_logits.1", "rpn_logits.2",
	"rpn_logits.3", "rpn_logits.4", "rpn_deltas.0", "rpn_deltas.1",
	"rpn_deltas.2", "rpn_deltas.3", "rpn_deltas.4", NULL
};
static const char *const roi_names[] = {"roi_align", "box_feature",
	"class_logits", "box_deltas", NULL
};

static bool
missing(const EngTraceNet *net, const char *name)
{
	return eng_fail(eng_trace_status(net->trace), ENG_INTERNAL,
					"the detector has no stage \"%s\"", name);
}

/* A map (or, for rank 2, its rows) in torch's layout. */
static bool
put_stage(const EngTraceNet *net, const EngTraceOut *out,
		  const EngStage *stage, int32_t n)
{
	EngTraceShape shape = {n, (int32_t) out->shape[1], stage->h, stage->w};
	float	   *data;

	data = eng_trace_alloc(net->trace, (size_t) n * shape.c * shape.h *
						   shape.w * sizeof(float));
	if (data == NULL)
		return false;
	eng_trace_to_nchw(data, stage->data, shape, stage->c);
	return eng_trace_put_floats(net->trace, out, data);
}

static bool
put_map(const EngTraceNet *net, const char *prefix, const char *name,
		const EngStage *stage, int32_t channels)
{
	EngTraceOut out = eng_trace_out(4, SHAPE(stage->n, channels, stage->h,
											 stage->w), "%s.%s", prefix, name);

	return put_stage(net, &out, stage, stage->n);
}

static bool
put_rows(const EngTraceNet *net, const char *prefix, const char *name,
		 const EngStage *stage)
{
	int32_t		rank = stage->h * stage->w > 1 ? 4 : 2;
	EngTraceOut out = eng_trace_out(rank, SHAPE(stage->rows, stage->c,
												stage->h, stage->w), "%s.%s",
									prefix, name);

	return put_stage(net, &out, stage, stage->rows);
}

bool
eng_trace_put_stages(const EngTraceNet *net, const char *phase)
{
	EngStage	stage;

	if (eng_trace_wants(net->trace, "%s.batch", phase))
	{
		if (!eng_detector_stage(net->detector, "batch", &stage))
			return missing(net, "batch");
		if (!put_map(net, phase, "batch", &stage, 3))
			return false;
	}
	for (int i = 0; map_names[i] != NULL; i++)
	{
		if (!eng_detector_stage(net->detector, map_names[i], &stage))
			return missing(net, map_names[i]);
		if (!put_map(net, phase, map_names[i], &stage, stage.c))
			return false;
	}
	for (int i = 0; roi_names[i] != NULL; i++)
	{
		if (!eng_detector_stage(net->detector, roi_names[i], &stage))
			return missing(net, roi_names[i]);
		if (!put_rows(net, phase, roi_names[i], &stage))
			return false;
	}
	return true;
}

bool
eng_trace_put_stage_gradients(const EngTraceNet *net)
{
	EngStage	stage;

	for (int i = 0; map_names[i] != NULL; i++)
	{
		if (!eng_trace_wants(net->trace, "grad_act.%s", map_names[i]))
			continue;
		if (!eng_detector_stage_gradient(net->detector, map_names[i], &stage))
			return missing(net, map_names[i]);
		if (!put_map(net, "grad_act", map_names[i], &stage, stage.c))
			return false;
	}
	for (int i = 0; roi_names[i] != NULL; i++)
	{
		if (!eng_trace_wants(net->trace, "grad_act.%s", roi_names[i]))
			continue;
		if (!eng_detector_stage_gradient(net->detector, roi_names[i], &stage))
			return missing(net, roi_names[i]);
		if (!put_rows(net, "grad_act", roi_names[i], &stage))
			return false;
	}
	return true;
}

/* ---- anchors and proposals ------------------------------------------------------ */

/* The RPN's maps of the last call, its pyramid and anchors. */
typedef struct RpnView
{
	EngPyramid	pyramid;
	EngRpnMaps	maps;
	float	   *anchors;
	int32_t		count;			/* anchors of an image */
} RpnView;

/*
 * A copy of a stage, which the next one may take the place of; NULL: missing.
 */
static float *
keep_stage(const EngTraceNet *net, const char *name, EngStage *stage)
{
	size_t		bytes;
	float	   *copy;

	if (!eng_detector_stage(net->detector, name, stage))
	{
		(void) missing(net, name);
		return NULL;
	}
	bytes = sizeof(float) * (size_t) stage->n * stage->h * stage->w * stage->c;
	copy = eng_trace_alloc(net->trace, bytes);
	if (copy != NULL)
		memcpy(copy, stage->data, bytes);
	return copy;
}

static bool
view_rpn(RpnView *view, const EngTraceNet *net)
{
	EngSize		map[ENG_RPN_LEVELS];
	EngFrameTrace frame;
	EngStage	stage;
	char		name[24];

	for (int l = 0; l < ENG_RPN_LEVELS; l++)
	{
		snprintf(name, sizeof(name), "rpn_logits.%d", l);
		view->maps.logits[l] = keep_stage(net, name, &stage);
		map[l].height = stage.h;
		map[l].width = stage.w;
		snprintf(name, sizeof(name), "rpn_deltas.%d", l);
		view->maps.deltas[l] = keep_stage(net, name, &stage);
		if (view->maps.logits[l] == NULL || view->maps.deltas[l] == NULL)
			return false;
	}
	if (!eng_detector_frame_trace(net->detector, 0, &frame))
		return missing(net, "frame");
	eng_pyramid_set(&view->pyramid, frame.padded, map, &net->config.anchors);
	view->count = view->pyramid.first[ENG_RPN_LEVELS];
	view->anchors = eng_trace_alloc(net->trace, (size_t) view->count * 16);
	if (view->anchors == NULL)
		return false;
	eng_anchors(view->anchors, &view->pyramid, &net->config.anchors);
	return true;
}

static bool
put_decoded(const EngTraceNet *net, const char *phase, const RpnView *view)
{
	int32_t		n = net->frame_count;
	float	   *boxes = eng_trace_alloc(net->trace,
										(size_t) n * view->count * 16);
	EngTraceOut out = eng_trace_out(2, SHAPE(view->count, 4), "%s.anchors",
									phase);
	const EngPyramid *p = &view->pyramid;

	if (boxes == NULL ||
		!eng_trace_put_floats(net->trace, &out, view->anchors))
		return false;
	for (int32_t i = 0; i < n; i++)
	{
		EngRpnMaps	maps = eng_rpn_maps_image(&view->maps, p, i);

		for (int l = 0; l < ENG_RPN_LEVELS; l++)
			eng_boxes_decode(boxes + 4 * ((size_t) i * view->count +
										  p->first[l]), maps.deltas[l],
							 view->anchors + 4 * (size_t) p->first[l],
							 p->first[l + 1] - p->first[l], 1,
							 eng_rpn_box_weights);
	}
	out = eng_trace_out(3, SHAPE(n, view->count, 4), "%s.decoded", phase);
	return eng_trace_put_floats(net->trace, &out, boxes);
}

static EngProposalRule
proposal_rule(const EngDetectorConfig *config, bool eval)
{
	EngProposalRule rule;

	rule.pre_nms_top_n = eval ? config->rpn_pre_nms_top_n_test :
		config->rpn_pre_nms_top_n_train;
	rule.post_nms_top_n = eval ? config->rpn_post_nms_top_n_test :
		config->rpn_post_nms_top_n_train;
	rule.nms_threshold = config->rpn_nms_thresh;
	rule.score_threshold = config->rpn_score_thresh;
	rule.min_size = 1e-3f;
	rule.nms = config->nms_kind;
	return rule;
}

/* Our own proposals: the detector was given recorded ones. */
static bool
put_proposals_of(const EngTraceNet *net, const char *phase,
				 const RpnView *view, const EngProposalRule *rule, int32_t i)
{
	EngProposalInput input = {eng_rpn_maps_image(&view->maps, &view->pyramid,
												 i), &view->pyramid,
	view->anchors, {0, 0}};
	float	   *boxes = eng_trace_alloc(net->trace,
										(size_t) rule->post_nms_top_n * 16);
	float	   *scores = eng_trace_alloc(net->trace,
										 (size_t) rule->post_nms_top_n * 4);
	void	   *scratch = eng_trace_alloc(net->trace,
										  eng_proposals_scratch_bytes(&view->pyramid,
																	  rule));
	EngFrameTrace frame;
	EngTraceOut out;
	int32_t		count;

	if (boxes == NULL || scores == NULL || scratch == NULL ||
		!eng_detector_frame_trace(net->detector, i, &frame))
		return missing(net, "proposals");
	input.image = frame.resized;
	count = eng_proposals(boxes, scores, &input, rule, scratch);
	out = eng_trace_out(2, SHAPE(count, 4), "%s.proposals.%d", phase, i);
	if (!eng_trace_put_floats(net->trace, &out, boxes))
		return false;
	out = eng_trace_out(1, SHAPE(count), "%s.objectness.%d", phase, i);
	return eng_trace_put_floats(net->trace, &out, scores);
}

bool
eng_trace_put_proposals(const EngTraceNet *net, const char *phase, bool eval)
{
	EngProposalRule rule = proposal_rule(&net->config, eval);
	RpnView		view;

	if (!view_rpn(&view, net) || !put_decoded(net, phase, &view))
		return false;
	for (int32_t i = 0; i < net->frame_count; i++)
		if (!put_proposals_of(net, phase, &view, &rule, i))
			return false;
	return true;
}

/* ---- detections ------------------------------------------------------------------- */

static bool
put_list(const EngTraceNet *net, const char *prefix, int32_t i,
		 const EngDetectionList *list)
{
	EngTraceOut out = eng_trace_out(2, SHAPE(list->count, 4), "%sboxes.%d",
									prefix, i);

	if (!eng_trace_put_floats(net->trace, &out, list->boxes))
		return false;
	out = eng_trace_out(1, SHAPE(list->count), "%sscores.%d", prefix, i);
	if (!eng_trace_put_floats(net->trace, &out, list->scores))
		return false;
	out = eng_trace_out(1, SHAPE(list->count), "%slabels.%d", prefix, i);
	return eng_trace_put_ints(net->trace, &out, list->labels);
}

/* What enters the class-wise suppression; rows of frame i start at `row`. */
static bool
put_candidates(const EngTraceNet *net, int32_t i, int32_t row,
			   const EngFrameTrace *frame)
{
	const EngDetectorConfig *config = &net->config;
	int32_t		classes = config->num_classes;
	size_t		most = (size_t) frame->proposals.count * classes + 1;
	EngDetectionList list = {eng_trace_alloc(net->trace, most * 16),
		eng_trace_alloc(net->trace, most * 4),
	eng_trace_alloc(net->trace, most * 4), 0};
	float	   *scratch = eng_trace_alloc(net->trace, (size_t) classes * 4);
	EngPostprocessRule rule;
	EngPostprocessInput input;
	EngStage	logits;
	EngStage	deltas;

	if (list.boxes == NULL || list.scores == NULL || list.labels == NULL ||
		scratch == NULL)
		return false;
	logits.data = keep_stage(net, "class_logits", &logits);
	if (logits.data == NULL)
		return false;
	if (!eng_detector_stage(net->detector, "box_deltas", &deltas))
		return missing(net, "box_deltas");
	memset(&rule, 0, sizeof(rule));
	rule.score_threshold = config->box_score_thresh;
	rule.min_size = 1e-2f;
	memcpy(rule.weights, config->bbox_reg_weights, sizeof(rule.weights));
	input.logits = logits.data + (size_t) row * classes;
	input.deltas = deltas.data + (size_t) row * classes * 4;
	input.proposals = frame->proposals.boxes;
	input.count = frame->proposals.count;
	input.classes = classes;
	input.image = frame->resized;
	input.original = frame->resized;
	eng_postprocess_candidates(&list, &input, &rule, scratch);
	return put_list(net, "eval.nms_in_", i, &list);
}

bool
eng_trace_put_detections(const EngTraceNet *net,
						 const EngDetections *detections)
{
	int32_t		sizes[2 * ENG_TRACE_FRAMES];
	int32_t		row = 0;
	int32_t    *levels;
	EngTraceOut out;
	EngStage	stage;

	if (!eng_detector_stage(net->detector, "roi_align", &stage))
		return missing(net, "roi_align");
	levels = eng_trace_alloc(net->trace, (size_t) stage.rows * 4);
	if (levels == NULL)
		return false;
	for (int32_t i = 0; i < net->frame_count; i++)
	{
		EngFrameTrace frame;

		if (!eng_detector_frame_trace(net->detector, i, &frame) ||
			row + frame.proposals.count > stage.rows)
			return missing(net, "frame");
		sizes[2 * i] = frame.resized.height;
		sizes[2 * i + 1] = frame.resized.width;
		if (!put_candidates(net, i, row, &frame) ||
			!put_list(net, "eval.", i, detections + i))
			return false;
		eng_roi_levels(levels + row, frame.proposals.boxes,
					   frame.proposals.count);
		row += frame.proposals.count;
	}
	out = eng_trace_out(1, SHAPE(row), "eval.roi_levels");
	if (!eng_trace_put_ints(net->trace, &out, levels))
		return false;
	out = eng_trace_out(2, SHAPE(net->frame_count, 2), "eval.image_sizes");
	return eng_trace_put_ints(net->trace, &out, sizes);
}

/* ---- targets ------------------------------------------------------------------------ */

/* Anchors that are not background, and what they match. */
static bool
put_rpn_match(const EngTraceNet *net, int32_t i, const EngFrameTrace *frame,
			  int32_t anchors)
{
	int32_t    *index = eng_trace_alloc(net->trace, (size_t) anchors * 4);
	int32_t    *value = eng_trace_alloc(net->trace, (size_t) anchors * 4);
	int32_t		n = 0;
	EngTraceOut out;

	if (index == NULL || value == NULL)
		return false;
	for (int32_t a = 0; a < anchors; a++)
		if (frame->rpn_match[a] != ENG_MATCH_BACKGROUND)
		{
			index[n] = a;
			value[n++] = frame->rpn_match[a];
		}
	out = eng_trace_out(1, SHAPE(n), "train.rpn_match_index.%d", i);
	if (!eng_trace_put_ints(net->trace, &out, index))
		return false;
	out = eng_trace_out(1, SHAPE(n), "train.rpn_match_value.%d", i);
	return eng_trace_put_ints(net->trace, &out, value);
}

static bool
put_rois(const EngTraceNet *net, int32_t i, const EngFrameTrace *frame)
{
	const EngRoiSelection *rois = &frame->rois;
	int32_t		candidates = frame->proposals.count + frame->truth.count;
	EngTraceOut out;

	out = eng_trace_out(2, SHAPE(frame->truth.count, 4),
						"train.scaled_boxes.%d", i);
	if (!eng_trace_put_floats(net->trace, &out, frame->truth.boxes))
		return false;
	out = eng_trace_out(1, SHAPE(candidates), "train.roi_match.%d", i);
	if (rois->match == NULL ||
		!eng_trace_put_ints(net->trace, &out, rois->match))
		return missing(net, "roi_match");
	out = eng_trace_out(2, SHAPE(rois->count, 4), "train.roi_boxes.%d", i);
	if (!eng_trace_put_floats(net->trace, &out, rois->boxes))
		return false;
	out = eng_trace_out(1, SHAPE(rois->count), "train.roi_labels.%d", i);
	if (!eng_trace_put_ints(net->trace, &out, rois->labels))
		return false;
	out = eng_trace_out(2, SHAPE(rois->count, 4), "train.roi_targets.%d", i);
	return eng_trace_put_floats(net->trace, &out, rois->targets);
}

bool
eng_trace_put_targets(const EngTraceNet *net)
{
	RpnView		view;
	EngStage	stage;
	EngTraceOut out;
	int32_t    *levels;
	int32_t		row = 0;

	if (!view_rpn(&view, net))
		return false;
	if (!eng_detector_stage(net->detector, "roi_align", &stage))
		return missing(net, "roi_align");
	levels = eng_trace_alloc(net->trace, (size_t) stage.rows * 4);
	if (levels == NULL)
		return false;
	for (int32_t i = 0; i < net->frame_count; i++)
	{
		EngFrameTrace frame;

		if (!eng_detector_frame_trace(net->detector, i, &frame) ||
			frame.rpn_match == NULL || row + frame.rois.count > stage.rows)
			return missing(net, "frame");
		if (!put_rpn_match(net, i, &frame, view.count) ||
			!put_rois(net, i, &frame))
			return false;
		eng_roi_levels(levels + row, frame.rois.boxes, frame.rois.count);
		row += frame.rois.count;
	}
	out = eng_trace_out(1, SHAPE(row), "train.roi_levels");
	return eng_trace_put_ints(net->trace, &out, levels);
}
