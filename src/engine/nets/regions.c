/*
 * engine/nets/regions.c
 *		What the detection operations of one plan share.
 */
#include "engine/nets/regions.h"

#include <stdlib.h>
#include <string.h>

#include "engine/core/arena.h"
#include "engine/core/ranks.h"

#define MOST_BLOCKS	32

bool
eng_regions_account(EngRegions *r, size_t bytes, size_t instead_of,
					EngStatus *status)
{
	size_t		rest = r->bytes - instead_of;

	if (bytes > SIZE_MAX - rest ||
		(r->most_bytes > 0 && rest + bytes > r->most_bytes))
		return eng_fail(status, ENG_NO_MEMORY,
						"boxes and scores of a batch of %d at %dx%d need %zu bytes, the limit leaves %zu",
						r->images, r->padded.width, r->padded.height,
						rest + bytes, r->most_bytes);
	r->bytes = rest + bytes;
	return true;
}

static void *
block(EngRegions *regions, size_t count, size_t size)
{
	void	   *memory;

	if (regions->block_count == MOST_BLOCKS || count > SIZE_MAX / size - 1 ||
		!eng_regions_account(regions, (count + 1) * size, 0,
							 regions->making))
		return NULL;
	memory = calloc(count + 1, size);
	if (memory != NULL)
		regions->blocks[regions->block_count++] = memory;
	return memory;
}

static bool
create_training(EngRegions *r, EngStatus *status)
{
	const EngDetectorConfig *c = r->config;
	size_t		rows = (size_t) r->images * r->rois_per_image;
	int32_t		i;

	r->rpn_samples = block(r, (size_t) r->images * 2 *
						   c->rpn_batch_size_per_image, sizeof(int32_t));
	r->rpn_targets = block(r, r->images, sizeof(EngRpnTarget));
	r->selections = block(r, r->images, sizeof(EngRoiSelection));
	r->selected_boxes = block(r, rows * 4, sizeof(float));
	r->selected_targets = block(r, rows * 4, sizeof(float));
	r->selected_labels = block(r, rows, sizeof(int32_t));
	r->roi_targets = block(r, rows * 4, sizeof(float));
	r->roi_labels = block(r, rows, sizeof(int32_t));
	if (r->rpn_samples == NULL || r->rpn_targets == NULL ||
		r->selections == NULL || r->selected_boxes == NULL ||
		r->selected_targets == NULL || r->selected_labels == NULL ||
		r->roi_targets == NULL || r->roi_labels == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	for (i = 0; i < r->images; i++)
	{
		int32_t		batch = c->rpn_batch_size_per_image;

		r->rpn_targets[i].sample.positives = r->rpn_samples + 2 * i * batch;
		r->rpn_targets[i].sample.negatives =
			r->rpn_samples + (2 * i + 1) * batch;
		r->selections[i].boxes = r->selected_boxes +
			(size_t) i * r->rois_per_image * 4;
		r->selections[i].targets = r->selected_targets +
			(size_t) i * r->rois_per_image * 4;
		r->selections[i].labels = r->selected_labels +
			(size_t) i * r->rois_per_image;
	}
	return true;
}

static bool
create_inference(EngRegions *r, EngStatus *status)
{
	size_t		most = r->config->box_detections_per_img;
	int32_t		i;

	r->detections = block(r, r->images, sizeof(EngDetectionList));
	r->detection_boxes = block(r, r->images * most * 4, sizeof(float));
	r->detection_scores = block(r, r->images * most, sizeof(float));
	r->detection_labels = block(r, r->images * most, sizeof(int32_t));
	if (r->detections == NULL || r->detection_boxes == NULL ||
		r->detection_scores == NULL || r->detection_labels == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	for (i = 0; i < r->images; i++)
	{
		r->detections[i].boxes = r->detection_boxes + i * most * 4;
		r->detections[i].scores = r->detection_scores + i * most;
		r->detections[i].labels = r->detection_labels + i * most;
	}
	return true;
}

static bool
create_common(EngRegions *r, EngStatus *status)
{
	size_t		rows = (size_t) r->images * r->rois_per_image;

	r->resized = block(r, r->images, sizeof(EngSize));
	r->original = block(r, r->images, sizeof(EngSize));
	r->frame_id = block(r, r->images, sizeof(int64_t));
	r->position = block(r, r->images, sizeof(uint64_t));
	r->truth = block(r, r->images, sizeof(EngGroundTruth));
	r->proposals = block(r, (size_t) r->images * r->post_top_n * 4,
						 sizeof(float));
	r->objectness = block(r, (size_t) r->images * r->post_top_n,
						  sizeof(float));
	r->proposal_lists = block(r, r->images, sizeof(EngBoxes));
	r->roi_boxes = block(r, rows * 4, sizeof(float));
	r->roi_image = block(r, rows, sizeof(int32_t));
	r->roi_level = block(r, rows, sizeof(int32_t));
	if (r->resized == NULL || r->original == NULL || r->frame_id == NULL ||
		r->position == NULL || r->truth == NULL || r->proposals == NULL ||
		r->objectness == NULL || r->proposal_lists == NULL ||
		r->roi_boxes == NULL || r->roi_image == NULL || r->roi_level == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	return true;
}

EngRegions *
eng_regions_create(const EngDetectorConfig *config,
				   const EngPlanRequest *request, EngRegionsLimits limits,
				   EngStatus *status)
{
	EngRegions *r = calloc(1, sizeof(EngRegions));
	bool		ok;

	if (r == NULL)
	{
		eng_fail(status, ENG_NO_MEMORY, "out of memory");
		return NULL;
	}
	r->config = config;
	r->train = request->train;
	r->images = request->n;
	r->threads = limits.threads;
	r->most_bytes = limits.most_bytes;
	r->making = status;
	r->padded = (EngSize) {request->h, request->w};
	r->post_top_n = r->train ? config->rpn_post_nms_top_n_train :
		config->rpn_post_nms_top_n_test;
	r->rois_per_image = r->train ? config->box_batch_size_per_image :
		r->post_top_n;
	r->row_count = r->images * r->rois_per_image;
	r->blocks = calloc(MOST_BLOCKS, sizeof(void *));
	ok = r->blocks != NULL && create_common(r, status) &&
		(r->train ? create_training(r, status) : create_inference(r, status));
	if (!ok)
	{
		eng_fail(status, ENG_NO_MEMORY, "out of memory");
		eng_regions_free(r);
		return NULL;
	}
	r->making = NULL;
	return r;
}

void
eng_regions_free(EngRegions *regions)
{
	int32_t		i;

	if (regions == NULL)
		return;
	for (i = 0; i < regions->block_count; i++)
		free(regions->blocks[i]);
	free(regions->blocks);
	free(regions->anchors);
	free(regions->match);
	free(regions->truth_boxes);
	free(regions->roi_match);
	eng_arena_free(regions->scratch,
				   regions->scratch_size * regions->threads);
	free(regions);
}

bool
eng_regions_truth_room(EngRegions *r, int32_t boxes, EngStatus *status)
{
	int32_t		capacity = boxes + boxes / 2 + 64;
	size_t		had = r->truth_capacity * sizeof(float) * 4 +
		r->images * sizeof(int32_t) * r->roi_match_stride;
	float	   *grown;
	int32_t    *match;

	if (r->truth_boxes != NULL && boxes <= r->truth_capacity)
		return true;
	if (!eng_regions_account(r, capacity * sizeof(float) * 4 +
							 r->images * sizeof(int32_t) *
							 ((size_t) r->post_top_n + capacity), had,
							 status))
		return false;
	grown = realloc(r->truth_boxes, sizeof(float) * 4 * capacity);
	if (grown != NULL)
		r->truth_boxes = grown;
	match = realloc(r->roi_match, sizeof(int32_t) * r->images *
					((size_t) r->post_top_n + capacity));
	if (match != NULL)
		r->roi_match = match;
	if (grown == NULL || match == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	r->truth_capacity = capacity;
	r->roi_match_stride = r->post_top_n + capacity;
	return true;
}

bool
eng_regions_scratch(EngRegions *r, size_t size, EngStatus *status)
{
	uint8_t    *memory;

	size = eng_align(size);
	if (size <= r->scratch_size)
		return true;
	if (!eng_regions_account(r, size * r->threads,
							 r->scratch_size * r->threads, status))
		return false;
	memory = eng_arena_alloc(size * r->threads);
	if (memory == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	eng_arena_free(r->scratch, r->scratch_size * r->threads);
	r->scratch = memory;
	r->scratch_size = size;
	return true;
}

void *
eng_regions_thread_scratch(const EngRegions *r, int32_t thread)
{
	return r->scratch + r->scratch_size * thread;
}

EngSampleSource
eng_regions_sample_source(const EngRegions *r, int32_t i, EngRandomUse use)
{
	EngSampleSource source = {
		.mode = r->config->sampler, .seed = r->seed, .step = r->step,
		.position = r->position[i], .use = use, .mt = r->mt
	};
	const EngGiven *given;

	if (r->hooks == NULL)
		return source;
	source.mode = r->hooks->sample_mode;
	if (source.mode != ENG_SAMPLE_GIVEN || r->hooks->given == NULL ||
		i >= r->hooks->given_count)
		return source;
	given = &r->hooks->given[i];
	if (use == ENG_USE_RPN_SAMPLE)
	{
		source.positives = given->rpn_positives;
		source.negatives = given->rpn_negatives;
		source.positive_count = given->rpn_positive_count;
		source.negative_count = given->rpn_negative_count;
	}
	else
	{
		source.positives = given->roi_positives;
		source.negatives = given->roi_negatives;
		source.positive_count = given->roi_positive_count;
		source.negative_count = given->roi_negative_count;
	}
	return source;
}

double
eng_regions_divisor(EngBackend *backend, double share)
{
	if (!eng_backend_is_rank(backend))
		return 0;
	backend->all_reduce(backend, &share, 1, ENG_SUM_F64);
	return share;
}

void
eng_regions_share_loss(EngBackend *backend, float *first, float *second)
{
	double		losses[2] = {*first, *second};

	if (!eng_backend_is_rank(backend))
		return;
	backend->all_reduce(backend, losses, 2, ENG_SUM_F64);
	*first = (float) losses[0];
	*second = (float) losses[1];
}

bool
eng_regions_in_order(const EngRegions *r)
{
	return (r->hooks != NULL ? r->hooks->sample_mode : r->config->sampler) ==
		ENG_SAMPLE_MT19937;
}
