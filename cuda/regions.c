/*
 * cuda/regions.c
 *		The operations between the networks: arrays, order of launches, and
 *		what comes back.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/arrays.h"
#include "cuda/table.h"

static EngCuda *
cuda_of(const EngPlan *plan)
{
	return plan->backend->state;
}

/* ---- making them ----------------------------------------------------------- */

static void *
block(EngCuda *cuda, EngCudaArrays *a, size_t count, size_t size)
{
	void	   *memory;

	if (a->block_count == ENG_CUDA_BLOCKS)
		return NULL;
	memory = eng_device_alloc(cuda, (count + 1) * size);
	if (memory == NULL)
		a->failed = true;
	else
	{
		a->sizes[a->block_count] = (count + 1) * size;
		a->bytes += a->sizes[a->block_count];
		a->blocks[a->block_count++] = memory;
	}
	return memory;
}

void *
eng_cuda_larger_block(EngCuda *cuda, EngCudaArrays *a, void *old,
					  size_t count, size_t size)
{
	int			i;

	for (i = 0; i < a->block_count; i++)
		if (old != NULL && a->blocks[i] == old)
		{
			eng_device_free(cuda, old);
			a->bytes -= a->sizes[i];
			a->blocks[i] = a->blocks[--a->block_count];
			a->sizes[i] = a->sizes[a->block_count];
			break;
		}
	return block(cuda, a, count, size);
}

static int32_t
power_of_two(int32_t n)
{
	int32_t		p = 1;

	while (p < n)
		p *= 2;
	return p;
}

/* The smallest float above a threshold given in double. */
static float
least_above(double threshold)
{
	float		value = (float) threshold;

	return (double) value > threshold ? value : nextafterf(value, INFINITY);
}

static void
set_rules(EngCudaRegions *r, const EngRegions *regions)
{
	const EngDetectorConfig *c = regions->config;

	r->images = regions->images;
	r->post_top_n = regions->post_top_n;
	r->rois_per_image = regions->rois_per_image;
	r->rows = regions->row_count;
	r->classes = c->num_classes;
	r->detections = c->box_detections_per_img;
	r->train = regions->train;
	r->pyramid = regions->pyramid;
	r->proposal = (EngProposalRule) {
		.pre_nms_top_n = r->train ? c->rpn_pre_nms_top_n_train :
			c->rpn_pre_nms_top_n_test,
		.post_nms_top_n = r->post_top_n,
		.nms_threshold = c->rpn_nms_thresh,
		.score_threshold = c->rpn_score_thresh,
		.min_size = 1e-3f, .nms = c->nms_kind
	};
	r->proposal_least = least_above(c->rpn_nms_thresh);
	r->rpn_match = (EngMatchRule) {c->rpn_fg_iou_thresh,
		c->rpn_bg_iou_thresh, true};
	r->rpn_sample = (EngSampleRule) {c->rpn_batch_size_per_image,
		c->rpn_positive_fraction};
	r->roi_match = (EngMatchRule) {c->box_fg_iou_thresh,
		c->box_bg_iou_thresh, false};
	r->roi_sample = (EngSampleRule) {c->box_batch_size_per_image,
		c->box_positive_fraction};
	memcpy(r->roi_weights, c->bbox_reg_weights, sizeof(r->roi_weights));
	r->post = (EngPostprocessRule) {
		.score_threshold = c->box_score_thresh,
		.nms_threshold = c->box_nms_thresh, .nms = c->nms_kind,
		.detections = c->box_detections_per_img, .min_size = 1e-2f
	};
	memcpy(r->post.weights, c->bbox_reg_weights, sizeof(r->post.weights));
	r->post_least = least_above(c->box_nms_thresh);
	memcpy(r->mean, c->image_mean, sizeof(r->mean));
	memcpy(r->std, c->image_std, sizeof(r->std));
}

static void
make_proposals(EngCuda *cuda, EngCudaArrays *a)
{
	EngCudaRegions *r = &a->r;
	size_t		lists = (size_t) r->images * ENG_RPN_LEVELS;
	int			level;

	for (level = 0; level < ENG_RPN_LEVELS; level++)
	{
		int32_t		n = r->pyramid.first[level + 1] -
			r->pyramid.first[level];

		if (n > r->proposal.pre_nms_top_n)
			n = r->proposal.pre_nms_top_n;
		if (n > r->candidates)
			r->candidates = n;
	}
	r->places = power_of_two(r->candidates);
	r->anchors = block(cuda, a, r->pyramid.first[ENG_RPN_LEVELS],
					   4 * sizeof(float));
	r->items = block(cuda, a, lists * r->places, sizeof(uint64_t));
	r->boxes = block(cuda, a, lists * r->candidates, 4 * sizeof(float));
	r->scores = block(cuda, a, lists * r->candidates, sizeof(float));
	r->item_count = block(cuda, a, lists, sizeof(int32_t));
	r->high = block(cuda, a, r->images, sizeof(uint32_t));
	r->kept = block(cuda, a, lists * r->candidates, sizeof(uint64_t));
	r->kept_boxes = block(cuda, a, lists * r->candidates, 5 * sizeof(float));
	r->kept_count = block(cuda, a, lists, sizeof(int32_t));
	r->proposals = block(cuda, a, (size_t) r->images * r->post_top_n,
						 4 * sizeof(float));
	r->objectness = block(cuda, a, (size_t) r->images * r->post_top_n,
						  sizeof(float));
	r->proposal_count = block(cuda, a, r->images, sizeof(int32_t));
}

static void
make_training(EngCuda *cuda, EngCudaArrays *a)
{
	EngCudaRegions *r = &a->r;
	size_t		anchors = (size_t) r->images *
		r->pyramid.first[ENG_RPN_LEVELS];

	r->mt = block(cuda, a, 1, sizeof(EngMt19937));
	r->match = block(cuda, a, anchors, sizeof(int32_t));
	r->rpn_sampled = block(cuda, a, (size_t) r->images * 2 *
						   r->rpn_sample.batch_size, sizeof(int32_t));
	r->rpn_sampled_count = block(cuda, a, (size_t) r->images * 2,
								 sizeof(int32_t));
	r->roi_candidate_count = block(cuda, a, r->images, sizeof(int32_t));
	r->roi_sampled = block(cuda, a, (size_t) r->images * 2 *
						   r->roi_sample.batch_size, sizeof(int32_t));
	r->roi_sampled_count = block(cuda, a, (size_t) r->images * 2,
								 sizeof(int32_t));
	r->roi_targets = block(cuda, a, r->rows, 4 * sizeof(float));
	r->roi_labels = block(cuda, a, r->rows, sizeof(int32_t));
}

static void
make_detections(EngCuda *cuda, EngCudaArrays *a)
{
	EngCudaRegions *r = &a->r;
	size_t		lists = (size_t) r->images * (r->classes - 1);
	size_t		rows = lists * r->rois_per_image;
	size_t		most = (size_t) r->images * r->detections;

	r->found_places = power_of_two(r->rois_per_image);
	r->found = block(cuda, a, lists * r->found_places, sizeof(uint64_t));
	r->found_count = block(cuda, a, lists, sizeof(int32_t));
	r->found_boxes = block(cuda, a, rows, 4 * sizeof(float));
	r->found_scores = block(cuda, a, rows, sizeof(float));
	r->found_keep = block(cuda, a, rows, sizeof(int32_t));
	r->found_kept = block(cuda, a, rows, 5 * sizeof(float));
	r->found_kept_count = block(cuda, a, lists, sizeof(int32_t));
	r->detection_boxes = block(cuda, a, most, 4 * sizeof(float));
	r->detection_scores = block(cuda, a, most, sizeof(float));
	r->detection_labels = block(cuda, a, most, sizeof(int32_t));
	r->detection_count = block(cuda, a, r->images, sizeof(int32_t));
}

static bool
upload_anchors(EngCuda *cuda, const EngCudaArrays *a, const EngRegions *regions,
			   EngStatus *status)
{
	size_t		size = sizeof(float) * 4 *
		a->r.pyramid.first[ENG_RPN_LEVELS];
	float	   *anchors = malloc(size + 1);
	bool		ok;

	if (anchors == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	eng_anchors(anchors, &a->r.pyramid, &regions->config->anchors);
	ok = eng_device_upload(cuda, a->r.anchors, anchors, size, status);
	free(anchors);
	return ok;
}

/* Where the parts of the batch's block lie, for so many boxes. */
static void
place_head(EngCudaArrays *a)
{
	EngCudaRegions *r = &a->r;
	size_t		images = (sizeof(EngCudaBatch) + 15) / 16 * 16;
	size_t		labels = images + sizeof(EngCudaImage) * r->images;

	a->images_at = images;
	a->labels_at = labels;
	a->boxes_at = (labels + sizeof(int32_t) * r->truth_room + 15) / 16 * 16;
}

void
eng_cuda_make_truth(EngCuda *cuda, EngCudaArrays *a, int32_t boxes)
{
	EngCudaRegions *r = &a->r;
	size_t		images = r->images;
	uint8_t    *head;
	size_t		size;

	r->truth_room = boxes + boxes / 2 + 64;
	place_head(a);
	size = a->boxes_at + sizeof(float) * 4 * r->truth_room;
	free(a->head);
	a->head = calloc(1, size);
	head = eng_cuda_larger_block(cuda, a, r->batch, size, 1);
	r->truth_high = eng_cuda_larger_block(cuda, a, r->truth_high,
										  r->truth_room, sizeof(uint32_t));
	if (a->head == NULL || head == NULL)
	{
		a->failed = true;
		return;
	}
	r->batch = (EngCudaBatch *) head;
	r->image = (EngCudaImage *) (head + a->images_at);
	r->truth_labels = (int32_t *) (head + a->labels_at);
	r->truth_boxes = (float *) (head + a->boxes_at);
	if (!r->train)
		return;
	r->roi_room = r->post_top_n + r->truth_room;
	r->list_room = r->pyramid.first[ENG_RPN_LEVELS];
	if (r->list_room < r->roi_room)
		r->list_room = r->roi_room;
	r->best = eng_cuda_larger_block(cuda, a, r->best, images * r->list_room,
									sizeof(int32_t));
	r->list = eng_cuda_larger_block(cuda, a, r->list,
									images * 2 * r->list_room,
									sizeof(int32_t));
	r->roi_candidates = eng_cuda_larger_block(cuda, a, r->roi_candidates,
											  images * r->roi_room,
											  4 * sizeof(float));
	r->roi_match_of = eng_cuda_larger_block(cuda, a, r->roi_match_of,
											images * r->roi_room,
											sizeof(int32_t));
}

bool
eng_cuda_no_room(const EngCudaRegions *r, EngStatus *status)
{
	return eng_fail(status, ENG_NO_MEMORY,
					"out of memory on the device for boxes and scores of %d frames",
					r->images);
}

static void
regions_close(EngBackend *backend, EngRegions *regions)
{
	EngCudaArrays *a = eng_cuda_arrays(regions);
	int			i;

	for (i = 0; a != NULL && i < a->block_count; i++)
		eng_device_free(backend->state, a->blocks[i]);
	if (a != NULL)
		free(a->head);
	free(a);
	regions->device = NULL;
}

static bool
regions_open(EngPlan *plan, EngRegions *regions, EngStatus *status)
{
	EngCuda    *cuda = cuda_of(plan);
	EngCudaArrays *a = calloc(1, sizeof(EngCudaArrays));

	regions->device = a;
	if (a == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	set_rules(&a->r, regions);
	a->r.roi_boxes = block(cuda, a, a->r.rows, 4 * sizeof(float));
	a->r.roi_image = block(cuda, a, a->r.rows, sizeof(int32_t));
	a->r.roi_level = block(cuda, a, a->r.rows, sizeof(int32_t));
	a->r.live = block(cuda, a, 1, sizeof(int32_t));
	make_proposals(cuda, a);
	if (a->r.train)
		make_training(cuda, a);
	else
		make_detections(cuda, a);
	eng_cuda_make_truth(cuda, a, 0);
	if (a->failed)
		return eng_cuda_no_room(&a->r, status);
	regions->bytes += a->bytes;
	plan->live_entries = a->r.live;
	return upload_anchors(cuda, a, regions, status);
}

/* ---- what recorded runs give instead ---------------------------------------- */

static bool
give_proposals(EngCuda *cuda, const EngCudaRegions *r,
			   const EngRegions *regions, EngStatus *status)
{
	int32_t		i;

	for (i = 0; i < r->images; i++)
	{
		const EngGiven *given = eng_cuda_given(regions, i);

		if (given == NULL || given->proposal_count < 0)
			continue;
		if (given->proposal_count > r->post_top_n)
			return eng_fail(status, ENG_BAD_ARGUMENT,
							"%d proposals were given, at most %d fit",
							given->proposal_count, r->post_top_n);
		if (!eng_device_upload(cuda, r->proposals +
							   (size_t) i * r->post_top_n * 4,
							   given->proposals, sizeof(float) * 4 *
							   given->proposal_count, status) ||
			!eng_device_upload(cuda, r->proposal_count + i,
							   &given->proposal_count, sizeof(int32_t),
							   status))
			return false;
	}
	return true;
}

/* Samples that are given, checked and sorted as on the host. */
static bool
give_sample(EngCuda *cuda, const EngRegions *regions, int32_t image,
			EngRandomUse use, int32_t n, const EngSampleRule *rule,
			int32_t *sampled, int32_t *count, EngStatus *status)
{
	EngSampleSource source = eng_regions_sample_source(regions, image, use);
	int32_t    *lists = calloc(2 * rule->batch_size, sizeof(int32_t));
	EngSample	sample = {lists, lists + rule->batch_size, 0, 0};
	int32_t		counts[2];
	bool		ok;

	if (lists == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	ok = eng_sample(&sample, NULL, n, rule, &source, NULL, status);
	counts[0] = sample.positive_count;
	counts[1] = sample.negative_count;
	ok = ok && eng_device_upload(cuda, sampled + (size_t) 2 * image *
								 rule->batch_size, lists,
								 sizeof(int32_t) * 2 * rule->batch_size,
								 status) &&
		eng_device_upload(cuda, count + 2 * image, counts, sizeof(counts),
						  status);
	free(lists);
	return ok;
}

static bool
are_given(const EngRegions *regions)
{
	return regions->hooks != NULL &&
		regions->hooks->sample_mode == ENG_SAMPLE_GIVEN;
}

/* ---- operations --------------------------------------------------------------- */

static bool
regions_proposals(EngPlan *plan, EngRegions *regions, const EngRpnMaps *maps,
				  EngStatus *status)
{
	const EngCudaRegions *r = &eng_cuda_arrays(regions)->r;

	eng_cuda_proposals(cuda_of(plan), r, maps);
	return give_proposals(cuda_of(plan), r, regions, status);
}

static bool
regions_rpn_loss(EngPlan *plan, EngRegions *regions, const EngRpnMaps *maps,
				 EngStatus *status)
{
	EngCuda    *cuda = cuda_of(plan);
	const EngCudaRegions *r;
	int32_t		i;

	if (plan->request.idle)
	{
		eng_cuda_no_rpn_loss(cuda);
		return true;
	}
	r = &eng_cuda_arrays(regions)->r;
	eng_cuda_rpn_match(cuda, r);
	if (!are_given(regions))
		eng_cuda_rpn_sample(cuda, r, eng_regions_in_order(regions));
	for (i = 0; are_given(regions) && i < r->images; i++)
		if (!give_sample(cuda, regions, i, ENG_USE_RPN_SAMPLE,
						 r->pyramid.first[ENG_RPN_LEVELS], &r->rpn_sample,
						 r->rpn_sampled, r->rpn_sampled_count, status))
			return false;
	eng_cuda_rpn_loss(cuda, r, maps, NULL);
	return true;
}

static bool
regions_rpn_loss_backward(EngPlan *plan, EngRegions *regions,
						  const EngRpnMaps *maps,
						  const EngRpnGradients *gradients, EngStatus *status)
{
	(void) status;
	eng_cuda_rpn_loss(cuda_of(plan), &eng_cuda_arrays(regions)->r, maps,
					  gradients);
	return true;
}

static bool
give_rois(EngCuda *cuda, const EngCudaRegions *r, const EngRegions *regions,
		  EngStatus *status)
{
	int32_t		i;

	for (i = 0; i < r->images; i++)
	{
		int32_t		count;

		if (!eng_device_download(cuda, &count, r->roi_candidate_count + i,
								 sizeof(count), status) ||
			!give_sample(cuda, regions, i, ENG_USE_ROI_SAMPLE, count,
						 &r->roi_sample, r->roi_sampled,
						 r->roi_sampled_count, status))
			return false;
	}
	return true;
}

static bool
regions_select(EngPlan *plan, EngRegions *regions, EngStatus *status)
{
	EngCuda    *cuda = cuda_of(plan);
	const EngCudaRegions *r = &eng_cuda_arrays(regions)->r;

	if (!r->train)
	{
		eng_cuda_pack_proposals(cuda, r);
		return true;
	}
	eng_cuda_roi_match(cuda, r);
	if (!are_given(regions))
		eng_cuda_roi_sample(cuda, r, eng_regions_in_order(regions));
	else if (!give_rois(cuda, r, regions, status))
		return false;
	eng_cuda_roi_rows(cuda, r);
	return true;
}

static EngRois
regions_rois(const EngRegions *regions)
{
	const EngCudaRegions *r = &eng_cuda_arrays(regions)->r;
	EngRois		rois = {r->roi_boxes, r->roi_image, r->roi_level, r->rows};

	return rois;
}

static bool
regions_roi_loss(EngPlan *plan, EngRegions *regions, const float *logits,
				 const float *deltas, EngStatus *status)
{
	(void) status;
	if (plan->request.idle)
		eng_cuda_no_roi_loss(cuda_of(plan));
	else
		eng_cuda_roi_loss(cuda_of(plan), &eng_cuda_arrays(regions)->r,
						  logits, deltas, NULL, NULL);
	return true;
}

static bool
regions_roi_loss_backward(EngPlan *plan, EngRegions *regions,
						  const float *logits, const float *deltas,
						  float *dlogits, float *ddeltas, EngStatus *status)
{
	(void) status;
	eng_cuda_roi_loss(cuda_of(plan), &eng_cuda_arrays(regions)->r, logits, deltas,
					  dlogits, ddeltas);
	return true;
}

static bool
regions_postprocess(EngPlan *plan, EngRegions *regions, const float *logits,
					const float *deltas, EngStatus *status)
{
	(void) status;
	eng_cuda_postprocess(cuda_of(plan), &eng_cuda_arrays(regions)->r, logits,
						 deltas);
	return true;
}

/* ---- results ------------------------------------------------------------------ */

static bool
read_detections(EngCuda *cuda, const EngCudaRegions *r, EngRegions *regions,
				int32_t *live, EngStatus *status)
{
	size_t		most = (size_t) r->images * r->detections;
	int32_t    *counts = calloc(r->images, sizeof(int32_t));
	EngFetch	parts[] = {
		{live, r->live, sizeof(*live)},
		{counts, r->detection_count, sizeof(int32_t) * r->images},
		{regions->detection_boxes, r->detection_boxes,
		sizeof(float) * 4 * most},
		{regions->detection_scores, r->detection_scores,
		sizeof(float) * most},
		{regions->detection_labels, r->detection_labels,
		sizeof(int32_t) * most}
	};
	int32_t		i;
	bool		ok;

	if (counts == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	ok = eng_device_fetch(cuda, parts, 5, status);
	for (i = 0; ok && i < r->images; i++)
		regions->detections[i].count = counts[i];
	free(counts);
	return ok;
}

static bool
read_losses(EngCuda *cuda, const EngCudaRegions *r, EngRegions *regions,
			int32_t *live, EngStatus *status)
{
	EngCudaStep step;
	EngFetch	parts[] = {
		{&step, cuda->step, sizeof(step)},
		{live, r == NULL ? NULL : r->live, sizeof(*live)}
	};

	/* a rank without frames has no arrays */
	if (!eng_device_fetch(cuda, parts, r == NULL ? 1 : 2, status))
		return false;
	regions->rpn_loss = (EngRpnLoss) {step.rpn_loss[0], step.rpn_loss[1]};
	regions->roi_loss = (EngRoiLoss) {step.roi_loss[0], step.roi_loss[1]};
	return true;
}

static bool
regions_results(EngPlan *plan, EngRegions *regions, EngStatus *status)
{
	EngCuda    *cuda = cuda_of(plan);
	const EngCudaArrays *a = eng_cuda_arrays(regions);
	int32_t		live = 0;

	if (!(plan->request.train ?
		  read_losses(cuda, a == NULL ? NULL : &a->r, regions, &live,
					  status) :
		  read_detections(cuda, &a->r, regions, &live, status)))
		return false;
	plan->live_rois = regions->live = live;
	return true;
}

const EngRegionOps eng_cuda_region_ops = {
	.open = regions_open,
	.close = regions_close,
	.input = eng_cuda_input,
	.proposals = regions_proposals,
	.rpn_loss = regions_rpn_loss,
	.rpn_loss_backward = regions_rpn_loss_backward,
	.select = regions_select,
	.rois = regions_rois,
	.roi_loss = regions_roi_loss,
	.roi_loss_backward = regions_roi_loss_backward,
	.postprocess = regions_postprocess,
	.results = regions_results,
	.look = eng_cuda_look
};
