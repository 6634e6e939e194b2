/*
 * cuda/look.c
 *		What tests look at, from the device to where the host would have it.
 */
#include <stdlib.h>

#include "cuda/arrays.h"

static bool
look_at_proposals(EngCuda *cuda, const EngCudaRegions *r,
				  EngRegions *regions, EngStatus *status)
{
	size_t		most = (size_t) r->images * r->post_top_n;
	int32_t		i;

	if (!eng_device_download(cuda, regions->proposals, r->proposals,
							 sizeof(float) * 4 * most, status) ||
		!eng_device_download(cuda, regions->objectness, r->objectness,
							 sizeof(float) * most, status))
		return false;
	for (i = 0; i < r->images; i++)
	{
		const EngGiven *given = eng_cuda_given(regions, i);
		EngBoxes   *list = &regions->proposal_lists[i];

		list->boxes = regions->proposals + (size_t) i * r->post_top_n * 4;
		if (given != NULL && given->proposal_count >= 0)
			list->boxes = given->proposals;
		if (!eng_device_download(cuda, &list->count, r->proposal_count + i,
								 sizeof(int32_t), status))
			return false;
	}
	return true;
}

static bool
look_at_anchors(EngCuda *cuda, const EngCudaRegions *r, EngRegions *regions,
				EngStatus *status)
{
	int32_t		anchors = r->pyramid.first[ENG_RPN_LEVELS];
	size_t		size = sizeof(int32_t) * anchors * r->images;
	int32_t		i;

	if (regions->match == NULL)
		regions->match = malloc(size);
	if (regions->match == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	if (!eng_device_download(cuda, regions->match, r->match, size, status) ||
		!eng_device_download(cuda, regions->rpn_samples, r->rpn_sampled,
							 sizeof(int32_t) * 2 * r->images *
							 r->rpn_sample.batch_size, status))
		return false;
	for (i = 0; i < r->images; i++)
	{
		EngRpnTarget *target = &regions->rpn_targets[i];
		int32_t		counts[2];

		if (!eng_device_download(cuda, counts, r->rpn_sampled_count + 2 * i,
								 sizeof(counts), status))
			return false;
		target->match = regions->match + (size_t) i * anchors;
		target->gt = regions->truth[i].boxes;
		target->sample.positive_count = counts[0];
		target->sample.negative_count = counts[1];
	}
	return true;
}

/* Rows of the images lie one after another; a selection has its own. */
static bool
look_at_rois(EngCuda *cuda, const EngCudaRegions *r, EngRegions *regions,
			 EngStatus *status)
{
	int32_t		row = 0;
	int32_t		i;

	for (i = 0; i < r->images; i++)
	{
		EngRoiSelection *s = &regions->selections[i];
		int32_t		counts[2];
		int32_t		all;

		if (!eng_device_download(cuda, counts, r->roi_sampled_count + 2 * i,
								 sizeof(counts), status) ||
			!eng_device_download(cuda, &all, r->roi_candidate_count + i,
								 sizeof(all), status))
			return false;
		s->positive_count = counts[0];
		s->count = counts[0] + counts[1];
		s->match = regions->roi_match +
			(size_t) i * regions->roi_match_stride;
		if (!eng_device_download(cuda, s->boxes, r->roi_boxes + 4 * row,
								 sizeof(float) * 4 * s->count, status) ||
			!eng_device_download(cuda, s->targets, r->roi_targets + 4 * row,
								 sizeof(float) * 4 * s->count, status) ||
			!eng_device_download(cuda, s->labels, r->roi_labels + row,
								 sizeof(int32_t) * s->count, status) ||
			!eng_device_download(cuda, s->match, r->roi_match_of +
								 (size_t) i * r->roi_room,
								 sizeof(int32_t) * all, status))
			return false;
		row += s->count;
	}
	return true;
}

bool
eng_cuda_look(EngPlan *plan, EngRegions *regions, EngStatus *status)
{
	EngCuda    *cuda = plan->backend->state;
	const EngCudaRegions *r = &eng_cuda_arrays(regions)->r;

	if (!look_at_proposals(cuda, r, regions, status))
		return false;
	return !r->train || (look_at_anchors(cuda, r, regions, status) &&
						 look_at_rois(cuda, r, regions, status));
}
