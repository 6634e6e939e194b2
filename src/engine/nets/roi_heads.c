/*
 * engine/nets/roi_heads.c
 *		Regions of interest: which, their features, classes and boxes.
 *
 * Girshick 2015, with RoIAlign (He et al. 2017) on four levels of the
 * pyramid.  Rows of RoIs are packed, one image after another; rows beyond
 * the live ones are zero both ways.
 */
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "engine/nets/nets.h"
#include "engine/nets/region_ops.h"
#include "engine/ops/layers.h"

static bool
no_shape(EngPlan *plan, EngOp *op, EngStatus *status)
{
	(void) plan;
	(void) op;
	(void) status;
	return true;
}

/* ---- selection -------------------------------------------------------------- */

static bool
select_prepare(EngPlan *plan, EngOp *op, EngStatus *status)
{
	(void) plan;
	(void) op;
	(void) status;
	return true;
}

static bool
select_image(EngRegions *r, int32_t i, int32_t thread, EngStatus *status)
{
	const EngDetectorConfig *c = r->config;
	EngRoiRule	rule = {
		.match = {c->box_fg_iou_thresh, c->box_bg_iou_thresh, false},
		.sample = {c->box_batch_size_per_image, c->box_positive_fraction}
	};
	EngSampleSource source = eng_regions_sample_source(r, i,
													   ENG_USE_ROI_SAMPLE);

	memcpy(rule.weights, c->bbox_reg_weights, sizeof(rule.weights));
	r->selections[i].match = r->roi_match + (size_t) i * r->roi_match_stride;
	return eng_roi_select(&r->selections[i], r->proposal_lists[i],
						  &r->truth[i], &rule, &source,
						  eng_regions_thread_scratch(r, thread), status);
}

/*
 * Move the live rows of all images together.
 */
static void
pack_selected(EngRegions *r)
{
	int32_t		row = 0;
	int32_t		i;
	int32_t		j;

	for (i = 0; i < r->images; i++)
	{
		const EngRoiSelection *s = &r->selections[i];

		memcpy(r->roi_boxes + (size_t) row * 4, s->boxes,
			   sizeof(float) * 4 * s->count);
		memcpy(r->roi_targets + (size_t) row * 4, s->targets,
			   sizeof(float) * 4 * s->count);
		memcpy(r->roi_labels + row, s->labels, sizeof(int32_t) * s->count);
		for (j = 0; j < s->count; j++)
			r->roi_image[row + j] = i;
		row += s->count;
	}
	r->live = row;
	for (; row < r->row_count; row++)
	{
		memset(r->roi_targets + (size_t) row * 4, 0, sizeof(float) * 4);
		r->roi_labels[row] = -1;
	}
}

static void
pack_proposals(EngRegions *r)
{
	int32_t		row = 0;
	int32_t		i;
	int32_t		j;

	for (i = 0; i < r->images; i++)
	{
		memcpy(r->roi_boxes + (size_t) row * 4, r->proposal_lists[i].boxes,
			   sizeof(float) * 4 * r->proposal_lists[i].count);
		for (j = 0; j < r->proposal_lists[i].count; j++)
			r->roi_image[row++] = i;
	}
	r->live = row;
}

static void
finish_rows(EngPlan *plan, EngRegions *r)
{
	int32_t		row;

	eng_roi_levels(r->roi_level, r->roi_boxes, r->live);
	for (row = r->live; row < r->row_count; row++)
	{
		memset(r->roi_boxes + (size_t) row * 4, 0, sizeof(float) * 4);
		r->roi_image[row] = -1;
		r->roi_level[row] = 0;
	}
	plan->live_rois = r->live;
}

static bool
select_training(EngRegions *r, EngStatus *status)
{
	bool		ok = true;
	size_t		need = 0;
	int32_t		i;

	for (i = 0; i < r->images; i++)
	{
		size_t		size =
			eng_roi_select_scratch_bytes(r->proposal_lists[i].count,
										 r->truth[i].count);

		if (size > need)
			need = size;
	}
	if (!eng_regions_scratch(r, need, status))
		return false;
#pragma omp parallel for schedule(static, 1) if (!eng_regions_in_order(r))
	for (i = 0; i < r->images; i++)
	{
		EngStatus	own = {ENG_OK, ""};

		if (select_image(r, i, omp_get_thread_num(), &own))
			continue;
#pragma omp critical (eng_roi_status)
		{
			ok = false;
			eng_fail(status, own.code, "%s", own.message);
		}
	}
	return ok;
}

static bool
select_forward(EngPlan *plan, EngOp *op, EngStatus *status)
{
	EngRegions *r = plan->request.context;

	(void) op;
	if (plan->backend->regions != NULL)
		return plan->backend->regions->select(plan, r, status);
	if (r->train)
	{
		if (!select_training(r, status))
			return false;
		pack_selected(r);
	}
	else
		pack_proposals(r);
	finish_rows(plan, r);
	return true;
}

const EngOpClass eng_roi_select_class = {
	.kind = "roi_select",
	.shape = no_shape,
	.prepare = select_prepare,
	.forward = select_forward
};

/* ---- features ----------------------------------------------------------------- */

static bool
align_shape(EngPlan *plan, EngOp *op, EngStatus *status)
{
	const EngRegions *r = plan->request.context;
	EngTensor  *out = eng_op_out(plan, op, 0);

	(void) status;
	out->n = r->row_count;
	out->h = out->w = r->config->box_roi_pool_output_size;
	out->c = eng_op_in(plan, op, 0)->c;
	out->per_roi = true;
	return true;
}

static EngRoiMaps
roi_maps(const EngPlan *plan, const EngOp *op)
{
	const EngRegions *r = plan->request.context;
	EngRoiMaps	maps = {
		.images = plan->request.n,
		.output = r->config->box_roi_pool_output_size,
		.sampling = r->config->box_roi_pool_sampling_ratio,
		.threads = plan->backend->threads
	};
	int			level;

	for (level = 0; level < ENG_ROI_LEVELS; level++)
	{
		const EngTensor *in = eng_op_in(plan, op, level);

		maps.map[level] = eng_op_in_value(plan, op, level);
		maps.size[level] = (EngSize) {in->h, in->w};
		maps.scale[level] = 0.25f / (float) (1 << level);
		maps.channels = in->c;
		maps.type = in->type;
	}
	return maps;
}

static bool
align_prepare(EngPlan *plan, EngOp *op, EngStatus *status)
{
	EngRoiMaps	maps = roi_maps(plan, op);

	(void) status;
	if (op->backward_active)
		op->workspace = eng_roi_align_workspace(&maps);
	return true;
}

static EngRois
rois(const EngPlan *plan)
{
	const EngRegions *r = plan->request.context;
	EngRois		list = {r->roi_boxes, r->roi_image, r->roi_level,
	r->row_count};

	if (plan->backend->regions != NULL)
		return plan->backend->regions->rois(r);
	return list;
}

static bool
align_forward(EngPlan *plan, EngOp *op, EngStatus *status)
{
	EngRoiMaps	maps = roi_maps(plan, op);
	EngRois		list = rois(plan);

	(void) status;
	plan->backend->roi_align(plan->backend, eng_op_out_value(plan, op, 0),
							 &maps, &list);
	return true;
}

static bool
align_backward(EngPlan *plan, EngOp *op, EngStatus *status)
{
	EngRoiMaps	maps = roi_maps(plan, op);
	EngRois		list = rois(plan);
	void	   *dmap[ENG_ROI_LEVELS];
	int			level;

	(void) status;
	for (level = 0; level < ENG_ROI_LEVELS; level++)
	{
		if (!op->want_gradient[level])
			return true;
		dmap[level] = eng_plan_gradient(plan, op->input[level]);
	}
	plan->backend->roi_align_backward(plan->backend, dmap, op->add_gradient,
									  eng_plan_gradient(plan, op->output[0]),
									  &maps, &list, plan->scratch);
	return true;
}

const EngOpClass eng_roi_align_class = {
	.kind = "roi_align",
	.shape = align_shape,
	.prepare = align_prepare,
	.forward = align_forward,
	.backward = align_backward
};

/* ---- losses --------------------------------------------------------------------- */

static bool
roi_loss_prepare(EngPlan *plan, EngOp *op, EngStatus *status)
{
	(void) plan;
	(void) status;
	op->keeps_inputs = 3;
	return true;
}

static EngRoiBatch
roi_batch(const EngPlan *plan, const EngOp *op, const EngRegions *r)
{
	EngRoiBatch batch = {
		.logits = eng_op_in_value(plan, op, 0),
		.deltas = eng_op_in_value(plan, op, 1),
		.labels = r->roi_labels, .targets = r->roi_targets,
		.rows = plan->request.idle ? 0 : r->row_count,
		.classes = r->config->num_classes, .divisor = r->roi_divisor
	};

	return batch;
}

static bool
roi_loss_forward(EngPlan *plan, EngOp *op, EngStatus *status)
{
	EngRegions *r = plan->request.context;
	EngRoiBatch batch = roi_batch(plan, op, r);

	if (plan->backend->regions != NULL)
		return plan->backend->regions->roi_loss(plan, r, batch.logits,
												batch.deltas, status);
	batch.divisor = r->roi_divisor =
		eng_regions_divisor(plan->backend,
							plan->request.idle ? 0 : (double) r->live);
	r->roi_loss = eng_roi_loss(NULL, NULL, &batch, r->loss_scale);
	eng_regions_share_loss(plan->backend, &r->roi_loss.classifier,
						   &r->roi_loss.box);
	return true;
}

static bool
roi_loss_backward(EngPlan *plan, EngOp *op, EngStatus *status)
{
	EngRegions *r = plan->request.context;
	EngRoiBatch batch = roi_batch(plan, op, r);
	float	   *dlogits = eng_plan_gradient(plan, op->input[0]);
	float	   *ddeltas = eng_plan_gradient(plan, op->input[1]);

	if (plan->request.idle)
		return true;
	if (plan->backend->regions != NULL)
		return plan->backend->regions->roi_loss_backward(plan, r,
														 batch.logits,
														 batch.deltas,
														 dlogits, ddeltas,
														 status);
	(void) eng_roi_loss(dlogits, ddeltas, &batch, r->loss_scale);
	return true;
}

const EngOpClass eng_roi_loss_class = {
	.kind = "roi_loss",
	.meets = true,
	.shape = no_shape,
	.prepare = roi_loss_prepare,
	.forward = roi_loss_forward,
	.backward = roi_loss_backward
};

/* ---- detections ------------------------------------------------------------------ */

static bool
postprocess_prepare(EngPlan *plan, EngOp *op, EngStatus *status)
{
	EngRegions *r = plan->request.context;

	(void) op;
	if (plan->backend->regions != NULL)
		return true;
	return eng_regions_scratch(r, eng_postprocess_scratch_bytes(
								   r->post_top_n, r->config->num_classes),
							   status);
}

static void
postprocess_image(EngRegions *r, int32_t i, int32_t row, const float *logits,
				  const float *deltas)
{
	const EngDetectorConfig *c = r->config;
	EngPostprocessRule rule = {
		.score_threshold = c->box_score_thresh,
		.nms_threshold = c->box_nms_thresh, .nms = c->nms_kind,
		.detections = c->box_detections_per_img, .min_size = 1e-2f
	};
	EngPostprocessInput input = {
		.logits = logits + (size_t) row * c->num_classes,
		.deltas = deltas + (size_t) row * c->num_classes * 4,
		.proposals = r->roi_boxes + (size_t) row * 4,
		.count = r->proposal_lists[i].count, .classes = c->num_classes,
		.image = r->resized[i], .original = r->original[i]
	};

	memcpy(rule.weights, c->bbox_reg_weights, sizeof(rule.weights));
	eng_postprocess(&r->detections[i], &input, &rule,
					eng_regions_thread_scratch(r, omp_get_thread_num()));
}

static bool
postprocess_forward(EngPlan *plan, EngOp *op, EngStatus *status)
{
	EngRegions *r = plan->request.context;
	const float *logits = eng_op_in_value(plan, op, 0);
	const float *deltas = eng_op_in_value(plan, op, 1);
	int32_t		i;

	if (plan->backend->regions != NULL)
		return plan->backend->regions->postprocess(plan, r, logits, deltas,
												   status);
#pragma omp parallel for schedule(static, 1)
	for (i = 0; i < r->images; i++)
	{
		int32_t		row = 0;
		int32_t		j;

		for (j = 0; j < i; j++)
			row += r->proposal_lists[j].count;
		postprocess_image(r, i, row, logits, deltas);
	}
	return true;
}

const EngOpClass eng_postprocess_class = {
	.kind = "postprocess",
	.shape = no_shape,
	.prepare = postprocess_prepare,
	.forward = postprocess_forward
};

/* ---- the heads -------------------------------------------------------------------- */

/*
 * A linear layer with torch's default bounds; its name is that of the
 * tensor it makes.  Those without ReLU are the predictors.
 */
static int32_t
linear(EngModel *model, EngWeightSpec weight, const char *name, bool relu,
	   int32_t input)
{
	EngConvSpec spec = {.name = name, .label = "roi_heads", .relu = relu,
						.full = !relu};
	float		bound = 1.0f / sqrtf((float) weight.in);

	weight.body_stage = -1;
	weight.init = ENG_INIT_UNIFORM;
	weight.scale = bound;
	spec.weight = eng_net_linear_weight(model, &weight);
	spec.bias = eng_net_bias(model, &weight, bound);
	spec.channels = weight.out;
	return eng_layer_linear(model, &spec, input);
}

static int32_t
box_head_convs(EngModel *model, const EngDetectorConfig *config, int32_t x)
{
	int32_t		channels = config->fpn_channels;
	int			i;

	for (i = 0; i < config->box_head_convs; i++)
	{
		EngWeightSpec weight = {
			.out = channels, .in = channels, .k = 3, .body_stage = -1,
			.init = ENG_INIT_NORMAL,
			.scale = sqrtf(2.0f / (float) (channels * 9))
		};
		EngConvSpec conv = {.name = "", .label = "roi_heads", .bias = -1,
							.channels = channels, .k = 3, .stride = 1};
		EngNormSpec norm = {.name = "", .label = "roi_heads", .relu = true,
							.add = -1};
		char		prefix[48];

		snprintf(prefix, sizeof(prefix), "roi_heads.box_head.%d.0", i);
		weight.prefix = prefix;
		conv.weight = eng_net_conv_weight(model, &weight);
		x = eng_layer_conv(model, &conv, x);
		snprintf(prefix, sizeof(prefix), "roi_heads.box_head.%d.1", i);
		norm.parameters = eng_net_norm(model, prefix, channels, -1,
									   ENG_NORM_BATCH, ENG_NORM_EPS);
		x = eng_layer_norm(model, &norm, x);
	}
	return x;
}

static int32_t
box_head(EngModel *model, const EngDetectorConfig *config, int32_t x)
{
	int32_t		side = config->box_roi_pool_output_size;
	EngWeightSpec weight = {
		.out = config->representation_size,
		.in = config->fpn_channels * side * side,
		.map_size = side
	};
	char		prefix[48];

	if (config->box_head_convs > 0)
	{
		x = box_head_convs(model, config, x);
		/* the place of the flattening counts in torch's numbering */
		snprintf(prefix, sizeof(prefix), "roi_heads.box_head.%d",
				 (int) config->box_head_convs + 1);
		weight.prefix = prefix;
		return linear(model, weight, "box_feature", true, x);
	}
	weight.prefix = "roi_heads.box_head.fc6";
	x = linear(model, weight, "", true, x);
	weight.prefix = "roi_heads.box_head.fc7";
	weight.in = config->representation_size;
	weight.map_size = 0;
	return linear(model, weight, "box_feature", true, x);
}

static int32_t
append_align(EngModel *model, const int32_t pyramid[ENG_RPN_LEVELS])
{
	int32_t		x = eng_model_tensor(model, "roi_align");
	EngOp	   *op = eng_model_op(model, &eng_roi_align_class, "roi_align");
	int			level;

	for (level = 0; level < ENG_ROI_LEVELS; level++)
		eng_op_input(op, pyramid[level]);
	eng_op_output(op, x);
	return x;
}

void
eng_roi_heads(EngModel *model, const EngDetectorConfig *config,
			  const int32_t pyramid[ENG_RPN_LEVELS], bool train)
{
	EngWeightSpec weight = {.in = config->representation_size};
	int32_t		x;
	int32_t		logits;
	int32_t		deltas;
	EngOp	   *op;

	(void) eng_model_op(model, &eng_roi_select_class, "roi_select");
	x = box_head(model, config, append_align(model, pyramid));
	weight.out = config->num_classes;
	weight.prefix = "roi_heads.box_predictor.cls_score";
	logits = linear(model, weight, "class_logits", false, x);
	weight.out = 4 * config->num_classes;
	weight.prefix = "roi_heads.box_predictor.bbox_pred";
	deltas = linear(model, weight, "box_deltas", false, x);
	op = eng_model_op(model, train ? &eng_roi_loss_class :
					  &eng_postprocess_class,
					  train ? "roi_loss" : "postprocess");
	eng_op_input(op, logits);
	eng_op_input(op, deltas);
}
