/*
 * engine/ops/roi_select.c
 *		Which proposals train the RoI heads, and towards what.
 */
#include <string.h>

#include "engine/ops/detection.h"

typedef struct SelectRoom
{
	float	   *boxes;			/* (proposals + gt, 4) */
	int32_t    *match;			/* (proposals + gt) */
	int32_t    *positives;		/* (proposals + gt) */
	int32_t    *negatives;
	void	   *scratch;
} SelectRoom;

static size_t
round_up(size_t bytes)
{
	return (bytes + 63) / 64 * 64;
}

static size_t
larger(size_t a, size_t b)
{
	return a > b ? a : b;
}

size_t
eng_roi_select_scratch_bytes(int32_t proposal_count, int32_t gt_count)
{
	int32_t		n = proposal_count + gt_count;

	return round_up((size_t) n * 4 * sizeof(float)) +
		3 * round_up((size_t) n * sizeof(int32_t)) +
		larger(eng_match_scratch_bytes(n, gt_count),
			   eng_sample_scratch_bytes(n));
}

static SelectRoom
select_room(void *scratch, int32_t n)
{
	SelectRoom	room;
	size_t		list = round_up((size_t) n * sizeof(int32_t));
	char	   *p = scratch;

	room.boxes = (float *) p;
	p += round_up((size_t) n * 4 * sizeof(float));
	room.match = (int32_t *) p;
	room.positives = (int32_t *) (p + list);
	room.negatives = (int32_t *) (p + 2 * list);
	room.scratch = p + 3 * list;
	return room;
}

/* Row `row` of the selection becomes candidate `index`. */
static void
put_row(EngRoiSelection *selection, int32_t row, int32_t index,
		const SelectRoom *room, const EngGroundTruth *gt,
		const float weights[4])
{
	static const float no_box[4] = {0.0f, 0.0f, 0.0f, 0.0f};
	const float *box = room->boxes + 4 * (size_t) index;
	int32_t		match = room->match[index];
	const float *target = no_box;

	/* unmatched candidates are encoded against box 0, as torchvision does */
	if (gt->count > 0)
		target = gt->boxes + 4 * (match > 0 ? match : 0);
	memcpy(selection->boxes + 4 * row, box, 4 * sizeof(float));
	selection->labels[row] = match >= 0 ? gt->labels[match] : 0;
	eng_boxes_encode(selection->targets + 4 * row, target, box, 1, weights);
}

bool
eng_roi_select(EngRoiSelection *selection, EngBoxes proposals,
			   const EngGroundTruth *gt, const EngRoiRule *rule,
			   const EngSampleSource *source, void *scratch,
			   EngStatus *status)
{
	int32_t		n = proposals.count + gt->count;
	SelectRoom	room = select_room(scratch, n);
	EngBoxes	candidates = {room.boxes, n};
	EngBoxes	truth = {gt->boxes, gt->count};
	EngSample	sample = {room.positives, room.negatives, 0, 0};
	int32_t		p = 0;
	int32_t		q = 0;
	int32_t		row = 0;

	if (proposals.count > 0)
		memcpy(room.boxes, proposals.boxes,
			   (size_t) proposals.count * 4 * sizeof(float));
	if (gt->count > 0)
		memcpy(room.boxes + 4 * (size_t) proposals.count, gt->boxes,
			   (size_t) gt->count * 4 * sizeof(float));
	eng_match(room.match, candidates, truth, &rule->match, room.scratch);
	if (selection->match != NULL && n > 0)
		memcpy(selection->match, room.match, (size_t) n * sizeof(int32_t));
	if (!eng_sample(&sample, room.match, n, &rule->sample, source,
					room.scratch, status))
		return false;
	while (p < sample.positive_count || q < sample.negative_count)
	{
		bool		positive = q == sample.negative_count ||
			(p < sample.positive_count &&
			 sample.positives[p] < sample.negatives[q]);
		int32_t		index = positive ? sample.positives[p++] :
			sample.negatives[q++];

		put_row(selection, row++, index, &room, gt, rule->weights);
	}
	selection->count = row;
	selection->positive_count = sample.positive_count;
	for (; row < rule->sample.batch_size; row++)
	{
		memset(selection->boxes + 4 * row, 0, 4 * sizeof(float));
		memset(selection->targets + 4 * row, 0, 4 * sizeof(float));
		selection->labels[row] = -1;
	}
	return true;
}
