/*
 * engine/ops/matcher.c
 *		Which ground-truth box an anchor or proposal belongs to.
 *
 * A low-quality match is an anchor whose overlap with a ground-truth box
 * equals, as a float, the largest overlap any anchor has with it.  Anchors
 * stand on a grid, so such ties are common and decide labels; therefore
 * both passes compute the overlap by the same function, and no operation in
 * it may be fused.  Boxes are taken in blocks that stay in the cache; for
 * every block and ground-truth box the largest overlap is kept, so that the
 * second pass visits only blocks that hold a tie.
 */
#include <string.h>

#include "engine/core/clones.h"
#include "engine/ops/detection.h"

#define BLOCK 256

/* A block of boxes by coordinate, so that loops over it vectorise. */
typedef struct Block
{
	float		x1[BLOCK];
	float		y1[BLOCK];
	float		x2[BLOCK];
	float		y2[BLOCK];
	float		area[BLOCK];
} Block;

static void
load_block(Block *block, const float *boxes, int32_t n)
{
	/* a short last block is filled up with empty boxes far away */
	for (int32_t i = 0; i < BLOCK; i++)
	{
		static const float none[4] = {-1e9f, -1e9f, -1e9f, -1e9f};
		const float *b = i < n ? boxes + 4 * i : none;

		block->x1[i] = b[0];
		block->y1[i] = b[1];
		block->x2[i] = b[2];
		block->y2[i] = b[3];
		block->area[i] = (b[2] - b[0]) * (b[3] - b[1]);
	}
}

/* Overlap of one ground-truth box with every box of a block. */
ENG_CLONES static void
block_iou(float *restrict iou, const Block *restrict block,
		  const float *restrict gt)
{
	float		gx1 = gt[0],
				gy1 = gt[1],
				gx2 = gt[2],
				gy2 = gt[3];
	float		gt_area = (gx2 - gx1) * (gy2 - gy1);

	for (int i = 0; i < BLOCK; i++)
	{
		float		left = block->x1[i] > gx1 ? block->x1[i] : gx1;
		float		top = block->y1[i] > gy1 ? block->y1[i] : gy1;
		float		right = block->x2[i] < gx2 ? block->x2[i] : gx2;
		float		bottom = block->y2[i] < gy2 ? block->y2[i] : gy2;
		float		w = right - left > 0.0f ? right - left : 0.0f;
		float		h = bottom - top > 0.0f ? bottom - top : 0.0f;
		float		inter = w * h;

		iou[i] = inter / (gt_area + block->area[i] - inter);
	}
}

/* Take over what is better than the best so far; the first maximum stays. */
ENG_CLONES static float
block_best(float *restrict best, int32_t *restrict index,
		   const float *restrict iou, int32_t gt)
{
	float		high = 0.0f;

	for (int i = 0; i < BLOCK; i++)
	{
		index[i] = iou[i] > best[i] ? gt : index[i];
		best[i] = iou[i] > best[i] ? iou[i] : best[i];
	}
	/* a maximum has no rounding, so its order is free */
	for (int i = 0; i < BLOCK; i += 8)
	{
		float		m = iou[i];

		for (int k = 1; k < 8; k++)
			m = iou[i + k] > m ? iou[i + k] : m;
		high = m > high ? m : high;
	}
	return high;
}

void
eng_iou(float *out, EngBoxes a, EngBoxes b)
{
	Block		block;
	float		iou[BLOCK];

	for (int32_t start = 0; start < b.count; start += BLOCK)
	{
		int32_t		n = b.count - start < BLOCK ? b.count - start : BLOCK;

		load_block(&block, b.boxes + 4 * (size_t) start, n);
		for (int32_t g = 0; g < a.count; g++)
		{
			block_iou(iou, &block, a.boxes + 4 * (size_t) g);
			memcpy(out + (size_t) g * b.count + start, iou,
				   n * sizeof(float));
		}
	}
}

static size_t
block_count(int32_t n)
{
	return ((size_t) n + BLOCK - 1) / BLOCK;
}

size_t
eng_match_scratch_bytes(int32_t box_count, int32_t gt_count)
{
	size_t		blocks = block_count(box_count);

	/* best index of every box, maximum of every block and box, and box */
	return (blocks * BLOCK + (blocks + 1) * (size_t) gt_count + 16) *
		sizeof(float);
}

/* Boxes that tie for the largest overlap with some gt get their best back. */
static void
restore_low_quality(int32_t *match, EngBoxes boxes, EngBoxes gt,
					const int32_t *best, const float *block_high,
					const float *gt_high)
{
	Block		block;
	float		iou[BLOCK];
	size_t		blocks = block_count(boxes.count);

	for (size_t k = 0; k < blocks; k++)
	{
		int32_t		start = (int32_t) k * BLOCK;
		int32_t		n = boxes.count - start < BLOCK ?
			boxes.count - start : BLOCK;
		bool		loaded = false;

		for (int32_t g = 0; g < gt.count; g++)
		{
			if (block_high[k * gt.count + g] != gt_high[g])
				continue;
			if (!loaded)
				load_block(&block, boxes.boxes + 4 * (size_t) start, n);
			loaded = true;
			block_iou(iou, &block, gt.boxes + 4 * g);
			for (int32_t i = 0; i < n; i++)
				if (iou[i] == gt_high[g])
					match[start + i] = best[start + i];
		}
	}
}

void
eng_match(int32_t *match, EngBoxes boxes, EngBoxes gt,
		  const EngMatchRule *rule, void *scratch)
{
	size_t		blocks = block_count(boxes.count);
	int32_t    *best = scratch;
	float	   *block_high = (float *) (best + blocks * BLOCK);
	float	   *gt_high = block_high + blocks * gt.count;
	Block		block;
	float		iou[BLOCK];
	float		value[BLOCK];

	for (int32_t g = 0; g < gt.count; g++)
		gt_high[g] = 0.0f;
	for (size_t k = 0; k < blocks; k++)
	{
		int32_t		start = (int32_t) k * BLOCK;
		int32_t		n = boxes.count - start < BLOCK ?
			boxes.count - start : BLOCK;

		load_block(&block, boxes.boxes + 4 * (size_t) start, n);
		memset(best + start, 0, BLOCK * sizeof(int32_t));
		memset(value, 0, sizeof(value));
		for (int32_t g = 0; g < gt.count; g++)
		{
			float		high;

			block_iou(iou, &block, gt.boxes + 4 * g);
			high = block_best(value, best + start, iou, g);
			block_high[k * gt.count + g] = high;
			if (high > gt_high[g])
				gt_high[g] = high;
		}
		for (int32_t i = 0; i < n; i++)
		{
			int32_t		m = best[start + i];

			if (gt.count == 0 || value[i] < rule->low)
				m = ENG_MATCH_BACKGROUND;
			else if (value[i] < rule->high)
				m = ENG_MATCH_IGNORED;
			match[start + i] = m;
		}
	}
	if (rule->allow_low_quality && gt.count > 0)
		restore_low_quality(match, boxes, gt, best, block_high, gt_high);
}
