/*
 * engine/ops/postprocess.c
 *		From the outputs of the RoI heads to detections.
 *
 * A box is decoded only when its score passes; a proposal may give a
 * detection of several classes.
 */
#include <string.h>

#include "engine/ops/detection.h"

typedef struct PostRoom
{
	EngDetectionList candidates;
	int32_t    *keep;
	float	   *row;			/* scores of one proposal */
	void	   *scratch;
} PostRoom;

static size_t
round_up(size_t bytes)
{
	return (bytes + 63) / 64 * 64;
}

void
eng_postprocess_candidates(EngDetectionList *candidates,
						   const EngPostprocessInput *input,
						   const EngPostprocessRule *rule, float *scratch)
{
	int32_t		classes = input->classes;
	int32_t		n = 0;

	for (int32_t r = 0; r < input->count; r++)
	{
		const float *deltas = input->deltas + 4 * (size_t) r * classes;

		eng_softmax(scratch, input->logits + (size_t) r * classes, 1,
					classes);
		for (int32_t c = 1; c < classes; c++)
		{
			float	   *box = candidates->boxes + 4 * (size_t) n;

			if (!(scratch[c] > rule->score_threshold))
				continue;
			eng_boxes_decode(box, deltas + 4 * c,
							 input->proposals + 4 * (size_t) r, 1, 1,
							 rule->weights);
			eng_boxes_clip(box, 1, input->image);
			if (!(box[2] - box[0] >= rule->min_size &&
				  box[3] - box[1] >= rule->min_size))
				continue;
			candidates->scores[n] = scratch[c];
			candidates->labels[n] = c;
			n++;
		}
	}
	candidates->count = n;
}

static size_t
most_candidates(int32_t count, int32_t classes)
{
	/* a row that is just being decided needs a place */
	return (size_t) count * (classes - 1) + 1;
}

static PostRoom
post_room(void *scratch, int32_t count, int32_t classes)
{
	PostRoom	room;
	size_t		most = most_candidates(count, classes);
	char	   *p = scratch;

	room.candidates.boxes = (float *) p;
	p += round_up(most * 4 * sizeof(float));
	room.candidates.scores = (float *) p;
	p += round_up(most * sizeof(float));
	room.candidates.labels = (int32_t *) p;
	p += round_up(most * sizeof(int32_t));
	room.candidates.count = 0;
	room.keep = (int32_t *) p;
	p += round_up(most * sizeof(int32_t));
	room.row = (float *) p;
	p += round_up((size_t) classes * sizeof(float));
	room.scratch = p;
	return room;
}

size_t
eng_postprocess_scratch_bytes(int32_t count, int32_t classes)
{
	size_t		most = most_candidates(count, classes);

	return round_up(most * 4 * sizeof(float)) +
		3 * round_up(most * sizeof(float)) +
		round_up((size_t) classes * sizeof(float)) +
		eng_nms_scratch_bytes((int32_t) most);
}

void
eng_postprocess(EngDetectionList *detections, const EngPostprocessInput *input,
				const EngPostprocessRule *rule, void *scratch)
{
	PostRoom	room = post_room(scratch, input->count, input->classes);
	EngDetectionList *found = &room.candidates;
	EngBoxes	boxes;
	EngNmsRule	nms;

	eng_postprocess_candidates(found, input, rule, room.row);
	boxes.boxes = found->boxes;
	boxes.count = found->count;
	nms.threshold = rule->nms_threshold;
	nms.kind = rule->nms;
	nms.limit = rule->detections;
	detections->count = eng_nms(room.keep, boxes, found->scores,
								found->labels, &nms, room.scratch);
	for (int32_t i = 0; i < detections->count; i++)
	{
		int32_t		k = room.keep[i];

		memcpy(detections->boxes + 4 * (size_t) i,
			   found->boxes + 4 * (size_t) k, 4 * sizeof(float));
		detections->scores[i] = found->scores[k];
		detections->labels[i] = found->labels[k];
	}
	eng_boxes_scale(detections->boxes, detections->boxes, detections->count,
					input->image, input->original);
}
