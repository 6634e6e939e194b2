/*
 * engine/ops/proposals.c
 *		From the maps of the region proposal network to proposals.
 *
 * Only the anchors that survive the selection by logit are decoded, which
 * gives the same boxes as decoding all of them first.
 */
#include <math.h>
#include <string.h>

#include "engine/ops/detection.h"

typedef struct ProposalRoom
{
	int32_t    *order;			/* (k): candidates of a level, then kept ones */
	int32_t    *group;			/* (k): level */
	float	   *scores;			/* (k) */
	float	   *boxes;			/* (k, 4) */
	void	   *scratch;
} ProposalRoom;

static size_t
round_up(size_t bytes)
{
	return (bytes + 63) / 64 * 64;
}

static int32_t
level_count(const EngPyramid *pyramid, int32_t level)
{
	return pyramid->first[level + 1] - pyramid->first[level];
}

/* Candidates of all levels together. */
static int32_t
candidate_count(const EngPyramid *pyramid, const EngProposalRule *rule)
{
	int32_t		k = 0;

	for (int32_t l = 0; l < ENG_RPN_LEVELS; l++)
	{
		int32_t		n = level_count(pyramid, l);

		k += n < rule->pre_nms_top_n ? n : rule->pre_nms_top_n;
	}
	return k;
}

static ProposalRoom
proposal_room(void *scratch, int32_t k)
{
	ProposalRoom room;
	char	   *p = scratch;

	room.order = (int32_t *) p;
	p += round_up((size_t) k * sizeof(int32_t));
	room.group = (int32_t *) p;
	p += round_up((size_t) k * sizeof(int32_t));
	room.scores = (float *) p;
	p += round_up((size_t) k * sizeof(float));
	room.boxes = (float *) p;
	p += round_up((size_t) k * 4 * sizeof(float));
	room.scratch = p;
	return room;
}

size_t
eng_proposals_scratch_bytes(const EngPyramid *pyramid,
							const EngProposalRule *rule)
{
	int32_t		k = candidate_count(pyramid, rule);
	size_t		most = eng_nms_scratch_bytes(k);

	for (int32_t l = 0; l < ENG_RPN_LEVELS; l++)
	{
		size_t		top = eng_top_scratch_bytes(level_count(pyramid, l));

		if (top > most)
			most = top;
	}
	/* order has room for a level's candidates and for the kept ones */
	return 3 * round_up((size_t) k * sizeof(int32_t)) +
		round_up((size_t) k * 4 * sizeof(float)) + most;
}

EngRpnMaps
eng_rpn_maps_image(const EngRpnMaps *batch, const EngPyramid *pyramid,
				   int32_t i)
{
	EngRpnMaps	maps;

	for (int32_t l = 0; l < ENG_RPN_LEVELS; l++)
	{
		size_t		n = (size_t) level_count(pyramid, l);

		maps.logits[l] = batch->logits[l] + n * i;
		maps.deltas[l] = batch->deltas[l] + 4 * n * i;
	}
	return maps;
}

/* Decode the best anchors of a level; those that pass are appended. */
static int32_t
add_level(ProposalRoom *room, int32_t count, const EngProposalInput *input,
		  const EngProposalRule *rule, int32_t level)
{
	const EngPyramid *pyramid = input->pyramid;
	const float *logits = input->maps.logits[level];
	const float *anchors = input->anchors +
		4 * (size_t) pyramid->first[level];
	int32_t		k;

	k = eng_top_scores(room->order, logits, level_count(pyramid, level),
					   rule->pre_nms_top_n, room->scratch);
	for (int32_t i = 0; i < k; i++)
	{
		int32_t		index = room->order[i];
		float	   *box = room->boxes + 4 * (size_t) count;
		float		score = 1.0f / (1.0f + expf(-logits[index]));

		eng_boxes_decode(box, input->maps.deltas[level] + 4 * (size_t) index,
						 anchors + 4 * (size_t) index, 1, 1,
						 eng_rpn_box_weights);
		eng_boxes_clip(box, 1, input->image);
		if (!(box[2] - box[0] >= rule->min_size &&
			  box[3] - box[1] >= rule->min_size &&
			  score >= rule->score_threshold))
			continue;
		room->scores[count] = score;
		room->group[count] = level;
		count++;
	}
	return count;
}

int32_t
eng_proposals(float *boxes, float *scores, const EngProposalInput *input,
			  const EngProposalRule *rule, void *scratch)
{
	ProposalRoom room;
	EngNmsRule	nms;
	EngBoxes	candidates;
	int32_t		count = 0;

	room = proposal_room(scratch, candidate_count(input->pyramid, rule));
	for (int32_t l = 0; l < ENG_RPN_LEVELS; l++)
		count = add_level(&room, count, input, rule, l);
	candidates.boxes = room.boxes;
	candidates.count = count;
	nms.threshold = rule->nms_threshold;
	nms.kind = rule->nms;
	nms.limit = rule->post_nms_top_n;
	count = eng_nms(room.order, candidates, room.scores, room.group, &nms,
					room.scratch);
	for (int32_t i = 0; i < rule->post_nms_top_n; i++)
	{
		int32_t		index = i < count ? room.order[i] : 0;

		for (int c = 0; c < 4; c++)
			boxes[4 * i + c] = i < count ?
				room.boxes[4 * (size_t) index + c] : 0.0f;
		if (scores != NULL)
			scores[i] = i < count ? room.scores[index] : 0.0f;
	}
	return count;
}
