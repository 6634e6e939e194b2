/*
 * engine/nets/rpn.c
 *		Region proposals: the head on every level, and what comes of it.
 *
 * Ren et al. 2015.  The head's weights are shared by the five levels.  The
 * proposals carry no gradient; the losses reach the head at sampled anchors.
 */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/nets/nets.h"
#include "engine/nets/region_ops.h"
#include "engine/ops/layers.h"

/* Inputs of both operations: logits of five levels, then their deltas. */
static EngRpnMaps
input_maps(const EngPlan *plan, const EngOp *op)
{
	EngRpnMaps	maps;
	int			level;

	for (level = 0; level < ENG_RPN_LEVELS; level++)
	{
		maps.logits[level] = eng_op_in_value(plan, op, level);
		maps.deltas[level] = eng_op_in_value(plan, op, ENG_RPN_LEVELS + level);
	}
	return maps;
}

static bool
no_shape(EngPlan *plan, EngOp *op, EngStatus *status)
{
	(void) plan;
	(void) op;
	(void) status;
	return true;
}

/* ---- proposals ------------------------------------------------------------ */

static EngProposalRule
proposal_rule(const EngRegions *r)
{
	const EngDetectorConfig *c = r->config;
	EngProposalRule rule = {
		.pre_nms_top_n = r->train ? c->rpn_pre_nms_top_n_train :
			c->rpn_pre_nms_top_n_test,
		.post_nms_top_n = r->post_top_n,
		.nms_threshold = c->rpn_nms_thresh,
		.score_threshold = c->rpn_score_thresh,
		.min_size = 1e-3f,
		.nms = c->nms_kind
	};

	return rule;
}

static bool
proposals_prepare(EngPlan *plan, EngOp *op, EngStatus *status)
{
	EngRegions *r = plan->request.context;
	EngProposalRule rule = proposal_rule(r);
	EngSize		map[ENG_RPN_LEVELS];
	int			level;
	size_t		anchors;

	for (level = 0; level < ENG_RPN_LEVELS; level++)
	{
		map[level].height = eng_op_in(plan, op, level)->h;
		map[level].width = eng_op_in(plan, op, level)->w;
	}
	eng_pyramid_set(&r->pyramid, r->padded, map, &r->config->anchors);
	if (plan->backend->regions != NULL)
		return true;
	anchors = r->pyramid.first[ENG_RPN_LEVELS];
	if (!eng_regions_account(r, sizeof(float) * 4 * anchors +
							 (r->train ? sizeof(int32_t) * anchors *
							  r->images : 0), 0, status))
		return false;
	r->anchors = malloc(sizeof(float) * 4 * anchors);
	if (r->train)
		r->match = malloc(sizeof(int32_t) * anchors * r->images);
	if (r->anchors == NULL || (r->train && r->match == NULL))
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	eng_anchors(r->anchors, &r->pyramid, &r->config->anchors);
	return eng_regions_scratch(r, eng_proposals_scratch_bytes(&r->pyramid,
															  &rule), status);
}

static const EngGiven *
given_proposals(const EngRegions *r, int32_t i)
{
	if (r->hooks == NULL || r->hooks->given == NULL ||
		i >= r->hooks->given_count ||
		r->hooks->given[i].proposal_count < 0)
		return NULL;
	return &r->hooks->given[i];
}

static bool
proposals_forward(EngPlan *plan, EngOp *op, EngStatus *status)
{
	EngRegions *r = plan->request.context;
	EngProposalRule rule = proposal_rule(r);
	EngRpnMaps	maps = input_maps(plan, op);
	int32_t		i;

	if (plan->backend->regions != NULL)
		return plan->backend->regions->proposals(plan, r, &maps, status);
#pragma omp parallel for schedule(static, 1)
	for (i = 0; i < r->images; i++)
	{
		EngProposalInput input = {
			.maps = eng_rpn_maps_image(&maps, &r->pyramid, i),
			.pyramid = &r->pyramid, .anchors = r->anchors,
			.image = r->resized[i]
		};
		float	   *boxes = r->proposals + (size_t) i * r->post_top_n * 4;

		r->proposal_lists[i].boxes = boxes;
		r->proposal_lists[i].count =
			eng_proposals(boxes, r->objectness + (size_t) i * r->post_top_n,
						  &input, &rule,
						  eng_regions_thread_scratch(r,
													 omp_get_thread_num()));
	}
	for (i = 0; i < r->images; i++)
	{
		const EngGiven *given = given_proposals(r, i);

		if (given == NULL)
			continue;
		if (given->proposal_count > r->post_top_n)
			return eng_fail(status, ENG_BAD_ARGUMENT,
							"%d proposals were given, at most %d fit",
							given->proposal_count, r->post_top_n);
		r->proposal_lists[i].boxes = given->proposals;
		r->proposal_lists[i].count = given->proposal_count;
	}
	return true;
}

const EngOpClass eng_proposals_class = {
	.kind = "proposals",
	.shape = no_shape,
	.prepare = proposals_prepare,
	.forward = proposals_forward
};

/* ---- losses --------------------------------------------------------------- */

static bool
rpn_loss_prepare(EngPlan *plan, EngOp *op, EngStatus *status)
{
	EngRegions *r = plan->request.context;

	op->keeps_inputs = (1u << 2 * ENG_RPN_LEVELS) - 1;
	if (plan->backend->regions != NULL)
		return true;
	return eng_regions_scratch(r, eng_sample_scratch_bytes(
								   r->pyramid.first[ENG_RPN_LEVELS]), status);
}

static bool
sample_image(EngRegions *r, int32_t i, int32_t thread, EngStatus *status)
{
	const EngDetectorConfig *c = r->config;
	int32_t		anchors = r->pyramid.first[ENG_RPN_LEVELS];
	int32_t    *match = r->match + (size_t) i * anchors;
	EngMatchRule rule = {c->rpn_fg_iou_thresh, c->rpn_bg_iou_thresh, true};
	EngSampleRule sample = {c->rpn_batch_size_per_image,
	c->rpn_positive_fraction};
	EngSampleSource source = eng_regions_sample_source(r, i,
													   ENG_USE_RPN_SAMPLE);
	EngBoxes	boxes = {r->anchors, anchors};
	EngBoxes	truth = {r->truth[i].boxes, r->truth[i].count};
	void	   *scratch = eng_regions_thread_scratch(r, thread);

	eng_match(match, boxes, truth, &rule, scratch);
	r->rpn_targets[i].match = match;
	r->rpn_targets[i].gt = r->truth[i].boxes;
	return eng_sample(&r->rpn_targets[i].sample, match, anchors, &sample,
					  &source, scratch, status);
}

static EngRpnBatch
rpn_batch(const EngPlan *plan, const EngOp *op, const EngRegions *r)
{
	EngRpnBatch batch = {
		.maps = input_maps(plan, op), .targets = r->rpn_targets,
		.images = r->images, .pyramid = &r->pyramid, .anchors = r->anchors,
		.divisor = r->rpn_divisor
	};

	return batch;
}

static int32_t
most_truth(const EngRegions *r)
{
	int32_t		most = 0;
	int32_t		i;

	for (i = 0; i < r->images; i++)
		if (r->truth[i].count > most)
			most = r->truth[i].count;
	return most;
}

/*
 * Match and sample the anchors of all images.
 */
static bool
sample_images(EngRegions *r, EngStatus *status)
{
	bool		ok = true;
	int32_t		i;

	if (!eng_regions_scratch(r, eng_match_scratch_bytes(
								 r->pyramid.first[ENG_RPN_LEVELS],
								 most_truth(r)), status))
		return false;
#pragma omp parallel for schedule(static, 1) if (!eng_regions_in_order(r))
	for (i = 0; i < r->images; i++)
	{
		EngStatus	own = {ENG_OK, ""};

		if (sample_image(r, i, omp_get_thread_num(), &own))
			continue;
#pragma omp critical (eng_rpn_status)
		{
			ok = false;
			eng_fail(status, own.code, "%s", own.message);
		}
	}
	return ok;
}

static bool
rpn_loss_forward(EngPlan *plan, EngOp *op, EngStatus *status)
{
	EngRegions *r = plan->request.context;
	EngRpnBatch batch = rpn_batch(plan, op, r);

	if (plan->backend->regions != NULL)
		return plan->backend->regions->rpn_loss(plan, r, &batch.maps, status);
	if (plan->request.idle)
		batch.images = 0;
	else if (!sample_images(r, status))
		return false;
	batch.divisor = r->rpn_divisor =
		eng_regions_divisor(plan->backend, (double) eng_rpn_sampled(&batch));
	r->rpn_loss = eng_rpn_loss(NULL, &batch, r->loss_scale);
	eng_regions_share_loss(plan->backend, &r->rpn_loss.objectness,
						   &r->rpn_loss.box);
	return true;
}

static bool
rpn_loss_backward(EngPlan *plan, EngOp *op, EngStatus *status)
{
	EngRegions *r = plan->request.context;
	EngRpnBatch batch = rpn_batch(plan, op, r);
	EngRpnGradients gradients;
	int			level;

	if (plan->request.idle)
		return true;
	for (level = 0; level < ENG_RPN_LEVELS; level++)
	{
		gradients.logits[level] = eng_plan_gradient(plan, op->input[level]);
		gradients.deltas[level] =
			eng_plan_gradient(plan, op->input[ENG_RPN_LEVELS + level]);
	}
	if (plan->backend->regions != NULL)
		return plan->backend->regions->rpn_loss_backward(plan, r,
														 &batch.maps,
														 &gradients, status);
	(void) eng_rpn_loss(&gradients, &batch, r->loss_scale);
	return true;
}

const EngOpClass eng_rpn_loss_class = {
	.kind = "rpn_loss",
	.meets = true,
	.shape = no_shape,
	.prepare = rpn_loss_prepare,
	.forward = rpn_loss_forward,
	.backward = rpn_loss_backward
};

/* ---- the head -------------------------------------------------------------- */

typedef struct Head
{
	int32_t		conv[8];
	int32_t		conv_bias[8];
	int32_t		logits;
	int32_t		logits_bias;
	int32_t		deltas;
	int32_t		deltas_bias;
} Head;

static int32_t
head_weight(EngModel *model, EngWeightSpec spec, const char *prefix,
			int32_t *bias)
{
	int32_t		weight;

	spec.prefix = prefix;
	spec.body_stage = -1;
	spec.init = ENG_INIT_NORMAL;
	spec.scale = 0.01f;
	weight = eng_net_conv_weight(model, &spec);
	*bias = eng_net_bias(model, &spec, 0);
	return weight;
}

static Head
describe_head(EngModel *model, const EngDetectorConfig *config)
{
	int32_t		anchors = config->anchors.size_count *
		config->anchors.ratio_count;
	EngWeightSpec spec = {.out = config->fpn_channels,
						  .in = config->fpn_channels, .k = 3};
	Head		head;
	int			i;

	for (i = 0; i < config->rpn_conv_depth; i++)
	{
		char		prefix[40];

		snprintf(prefix, sizeof(prefix), "rpn.head.conv.%d.0", i);
		head.conv[i] = head_weight(model, spec, prefix, &head.conv_bias[i]);
	}
	spec.k = 1;
	spec.out = anchors;
	head.logits = head_weight(model, spec, "rpn.head.cls_logits",
							  &head.logits_bias);
	spec.out = 4 * anchors;
	head.deltas = head_weight(model, spec, "rpn.head.bbox_pred",
							  &head.deltas_bias);
	return head;
}

/*
 * Appends the head on one level; sets its two results.
 */
static void
run_head(EngModel *model, const EngDetectorConfig *config, const Head *head,
		 int32_t level, int32_t x, int32_t result[2])
{
	int32_t		anchors = config->anchors.size_count *
		config->anchors.ratio_count;
	EngConvSpec spec = {.name = "", .label = "rpn", .k = 3, .stride = 1,
						.channels = config->fpn_channels, .relu = true,
						.sparse = true};
	char		name[24];
	int			i;

	for (i = 0; i < config->rpn_conv_depth; i++)
	{
		spec.weight = head->conv[i];
		spec.bias = head->conv_bias[i];
		x = eng_layer_conv(model, &spec, x);
	}
	spec.name = name;
	spec.k = 1;
	spec.relu = false;
	spec.full = true;
	snprintf(name, sizeof(name), "rpn_logits.%d", (int) level);
	spec.weight = head->logits;
	spec.bias = head->logits_bias;
	spec.channels = anchors;
	result[0] = eng_layer_conv(model, &spec, x);
	snprintf(name, sizeof(name), "rpn_deltas.%d", (int) level);
	spec.weight = head->deltas;
	spec.bias = head->deltas_bias;
	spec.channels = 4 * anchors;
	result[1] = eng_layer_conv(model, &spec, x);
}

void
eng_rpn(EngModel *model, const EngDetectorConfig *config,
		const int32_t pyramid[ENG_RPN_LEVELS], bool train)
{
	Head		head = describe_head(model, config);
	int32_t		results[ENG_RPN_LEVELS][2];
	EngOp	   *op;
	int			pass;
	int			level;

	for (level = 0; level < ENG_RPN_LEVELS; level++)
		run_head(model, config, &head, level, pyramid[level],
				 results[level]);
	for (pass = 0; pass < (train ? 2 : 1); pass++)
	{
		op = eng_model_op(model, pass == 0 ? &eng_proposals_class :
						  &eng_rpn_loss_class,
						  pass == 0 ? "proposals" : "rpn_loss");
		for (level = 0; level < ENG_RPN_LEVELS; level++)
			eng_op_input(op, results[level][0]);
		for (level = 0; level < ENG_RPN_LEVELS; level++)
			eng_op_input(op, results[level][1]);
	}
}
