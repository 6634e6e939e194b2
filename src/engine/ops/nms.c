/*
 * engine/ops/nms.c
 *		Order by score, and suppression of boxes that overlap a better one.
 *
 * Scores are compared as whole numbers that order like the floats do, so a
 * stable radix sort gives "higher score, then lower index".  A candidate is
 * compared with the boxes kept so far, in vectors, until one suppresses it.
 */
#include <math.h>
#include <string.h>

#include "engine/core/clones.h"
#include "engine/ops/detection.h"

#define RADIX_BITS	11
#define RADIX_SIZE	(1 << RADIX_BITS)
#define FEW			48			/* sorted by insertion */
#define LANES		16			/* kept boxes compared at a time */
#define AUTO_LIMIT	1000		/* torchvision's switch on a CPU */

static size_t
round_up(size_t bytes)
{
	return (bytes + 63) / 64 * 64;
}

/*
 * A whole number that falls as the score rises: 0 for NaN with all bits.
 * -0 and +0 are one score.
 */
static inline uint32_t
falling_key(float score)
{
	uint32_t	bits;
	float		value = score + 0.0f;

	memcpy(&bits, &value, sizeof(bits));
	if (isnan(score))
		return 0;
	return (bits & UINT32_C(0x80000000)) ? bits : ~bits ^ UINT32_C(0x80000000);
}

static void
sort_few(uint64_t *items, int32_t n)
{
	for (int32_t i = 1; i < n; i++)
	{
		uint64_t	v = items[i];
		int32_t		j = i;

		for (; j > 0 && items[j - 1] > v; j--)
			items[j] = items[j - 1];
		items[j] = v;
	}
}

/*
 * Sort items, key in the upper and index in the lower half, by key; items of
 * one key keep their order, which is that of the index.
 */
static void
sort_items(uint64_t *items, uint64_t *spare, int32_t n)
{
	uint64_t   *from = items;
	uint64_t   *to = spare;

	if (n <= FEW)
	{
		sort_few(items, n);
		return;
	}
	for (int shift = 32; shift < 64; shift += RADIX_BITS)
	{
		uint32_t	start[RADIX_SIZE] = {0};
		uint32_t	sum = 0;
		uint64_t   *swap = from;

		for (int32_t i = 0; i < n; i++)
			start[(from[i] >> shift) & (RADIX_SIZE - 1)]++;
		for (int b = 0; b < RADIX_SIZE; b++)
		{
			uint32_t	count = start[b];

			start[b] = sum;
			sum += count;
		}
		for (int32_t i = 0; i < n; i++)
			to[start[(from[i] >> shift) & (RADIX_SIZE - 1)]++] = from[i];
		from = to;
		to = swap;
	}
	/* three passes end in the spare array */
	memcpy(items, from, n * sizeof(uint64_t));
}

size_t
eng_sort_scratch_bytes(int32_t n)
{
	return 2 * round_up((size_t) n * sizeof(uint64_t)) + 64;
}

void
eng_sort_scores(int32_t *order, const float *scores, int32_t n, void *scratch)
{
	uint64_t   *items = scratch;

	for (int32_t i = 0; i < n; i++)
		items[i] = ((uint64_t) falling_key(scores[i]) << 32) | (uint32_t) i;
	sort_items(items, items + n, n);
	for (int32_t i = 0; i < n; i++)
		order[i] = (int32_t) (items[i] & UINT32_MAX);
}

size_t
eng_top_scratch_bytes(int32_t n)
{
	return eng_sort_scratch_bytes(n);
}

/*
 * The key of the item that comes k-th, and how many items of that very key
 * belong to the first k.  Digits are fixed from the top; keys is worked on.
 */
static uint32_t
find_cut(uint32_t *keys, int32_t n, int32_t k, int32_t *ties)
{
	uint32_t	cut = 0;

	for (int shift = 21; shift >= 0; shift -= shift == 10 ? 10 : RADIX_BITS)
	{
		uint32_t	counts[RADIX_SIZE] = {0};
		uint32_t	mask = shift == 0 ? (1 << 10) - 1 : RADIX_SIZE - 1;
		uint32_t	digit = 0;
		int32_t		left = 0;

		for (int32_t i = 0; i < n; i++)
			counts[(keys[i] >> shift) & mask]++;
		while (k > (int32_t) counts[digit])
			k -= counts[digit++];
		cut |= digit << shift;
		for (int32_t i = 0; i < n; i++)
			if (((keys[i] >> shift) & mask) == digit)
				keys[left++] = keys[i];
		n = left;
	}
	*ties = k;
	return cut;
}

int32_t
eng_top_scores(int32_t *order, const float *scores, int32_t n, int32_t k,
			   void *scratch)
{
	uint64_t   *items = scratch;
	uint32_t   *keys = (uint32_t *) scratch;
	int32_t		ties;
	int32_t		found = 0;
	uint32_t	cut;

	if (k >= n)
	{
		eng_sort_scores(order, scores, n, scratch);
		return n;
	}
	if (k <= 0)
		return 0;
	for (int32_t i = 0; i < n; i++)
		keys[i] = falling_key(scores[i]);
	cut = find_cut(keys, n, k, &ties);
	for (int32_t i = 0; i < n; i++)
	{
		uint32_t	key = falling_key(scores[i]);

		if (key > cut || (key == cut && ties-- <= 0))
			continue;
		items[found++] = ((uint64_t) key << 32) | (uint32_t) i;
	}
	sort_items(items, items + k, k);
	for (int32_t i = 0; i < k; i++)
		order[i] = (int32_t) (items[i] & UINT32_MAX);
	return k;
}

/* Kept boxes by coordinate, in whole vectors. */
typedef struct Kept
{
	float	   *x1;
	float	   *y1;
	float	   *x2;
	float	   *y2;
	float	   *area;
	int32_t		count;
} Kept;

static size_t
kept_room(int32_t n)
{
	return ((size_t) n + LANES - 1) / LANES * LANES;
}

static void
kept_clear(Kept *kept, float *room, int32_t n)
{
	size_t		pitch = kept_room(n);

	kept->x1 = room;
	kept->y1 = room + pitch;
	kept->x2 = room + 2 * pitch;
	kept->y2 = room + 3 * pitch;
	kept->area = room + 4 * pitch;
	kept->count = 0;
}

static void
kept_add(Kept *kept, const float *box, float area)
{
	int32_t		i = kept->count++;

	if (i % LANES == 0)
	{
		/* boxes that overlap nothing fill the new vector */
		for (int k = i; k < i + LANES; k++)
		{
			kept->x1[k] = kept->y1[k] = INFINITY;
			kept->x2[k] = kept->y2[k] = -INFINITY;
			kept->area[k] = 1.0f;
		}
	}
	kept->x1[i] = box[0];
	kept->y1[i] = box[1];
	kept->x2[i] = box[2];
	kept->y2[i] = box[3];
	kept->area[i] = area;
}

/* Does a kept box overlap this one by at least `least`? */
ENG_CLONES static bool
kept_overlaps(const Kept *kept, const float *box, float area, float least)
{
	float		bx1 = box[0],
				by1 = box[1],
				bx2 = box[2],
				by2 = box[3];

	for (int32_t start = 0; start < kept->count; start += LANES)
	{
		const float *x1 = kept->x1 + start;
		const float *y1 = kept->y1 + start;
		const float *x2 = kept->x2 + start;
		const float *y2 = kept->y2 + start;
		const float *kept_area = kept->area + start;
		int			hits = 0;

		for (int i = 0; i < LANES; i++)
		{
			float		left = x1[i] > bx1 ? x1[i] : bx1;
			float		top = y1[i] > by1 ? y1[i] : by1;
			float		right = x2[i] < bx2 ? x2[i] : bx2;
			float		bottom = y2[i] < by2 ? y2[i] : by2;
			float		w = right - left > 0.0f ? right - left : 0.0f;
			float		h = bottom - top > 0.0f ? bottom - top : 0.0f;
			float		inter = w * h;

			hits += inter / (kept_area[i] + area - inter) >= least;
		}
		if (hits > 0)
			return true;
	}
	return false;
}

/* The smallest float above a threshold given in double. */
static float
least_above(double threshold)
{
	float		value = (float) threshold;

	return (double) value > threshold ? value : nextafterf(value, INFINITY);
}

/*
 * Go through order[n], keep what no kept box suppresses; writes the kept
 * indices to keep (which may be order itself) and returns their number.
 * Reads boxes[4 * index].
 */
static int32_t
suppress(int32_t *keep, const int32_t *order, int32_t n, const float *boxes,
		 const EngNmsRule *rule, float *room)
{
	float		least = least_above(rule->threshold);
	int32_t		limit = rule->limit > 0 ? rule->limit : n;
	Kept		kept;

	kept_clear(&kept, room, n);
	for (int32_t i = 0; i < n && kept.count < limit; i++)
	{
		int32_t		index = order[i];
		const float *box = boxes + 4 * (size_t) index;
		float		area = (box[2] - box[0]) * (box[3] - box[1]);

		if (kept_overlaps(&kept, box, area, least))
			continue;
		keep[kept.count] = index;
		kept_add(&kept, box, area);
	}
	return kept.count;
}

typedef struct NmsRoom
{
	int32_t    *order;			/* (n) */
	int32_t    *part;			/* (n): one group's indices, by score */
	float	   *shifted;		/* (n, 4) */
	float	   *kept;			/* 5 vectors of n */
	void	   *sort;
} NmsRoom;

static NmsRoom
nms_room(void *scratch, int32_t n)
{
	NmsRoom		room;
	char	   *p = scratch;

	room.order = (int32_t *) p;
	p += round_up((size_t) n * sizeof(int32_t));
	room.part = (int32_t *) p;
	p += round_up((size_t) n * sizeof(int32_t));
	room.shifted = (float *) p;
	p += round_up((size_t) n * 4 * sizeof(float));
	room.kept = (float *) p;
	p += round_up(kept_room(n) * 5 * sizeof(float));
	room.sort = p;
	return room;
}

size_t
eng_nms_scratch_bytes(int32_t n)
{
	return 2 * round_up((size_t) n * sizeof(int32_t)) +
		round_up((size_t) n * 4 * sizeof(float)) +
		round_up(kept_room(n) * 5 * sizeof(float)) +
		eng_sort_scratch_bytes(n);
}

/* Move every group to coordinates of its own; costs precision by design. */
static void
shift_groups(float *out, EngBoxes boxes, const int32_t *group)
{
	float		high = boxes.count > 0 ? boxes.boxes[0] : 0.0f;

	for (int32_t i = 1; i < 4 * boxes.count; i++)
		if (boxes.boxes[i] > high)
			high = boxes.boxes[i];
	for (int32_t i = 0; i < boxes.count; i++)
	{
		float		offset = (float) group[i] * (high + 1.0f);

		for (int c = 0; c < 4; c++)
			out[4 * i + c] = boxes.boxes[4 * i + c] + offset;
	}
}

/*
 * One suppression a group.  Items are sorted by group, then by rank in the
 * order of scores; what remains is sorted by rank again at the end.
 */
static int32_t
suppress_groups(int32_t *keep, EngBoxes boxes, const int32_t *group,
				const EngNmsRule *rule, NmsRoom *room)
{
	uint64_t   *items = room->sort;
	int32_t		n = boxes.count;
	int32_t		total = 0;

	for (int32_t i = 0; i < n; i++)
		items[i] = ((uint64_t) (uint32_t) group[room->order[i]] << 32) |
			(uint32_t) i;
	sort_items(items, items + n, n);
	for (int32_t start = 0; start < n;)
	{
		int32_t		end = start;

		while (end < n && items[end] >> 32 == items[start] >> 32)
		{
			room->part[end] = room->order[items[end] & UINT32_MAX];
			end++;
		}
		total += suppress(keep + total, room->part + start, end - start,
						  boxes.boxes, rule, room->kept);
		start = end;
	}
	/* highest score first, over all groups */
	for (int32_t i = 0; i < n; i++)
		room->part[room->order[i]] = i;
	for (int32_t i = 0; i < total; i++)
		items[i] = (uint64_t) room->part[keep[i]] << 32 | (uint32_t) keep[i];
	sort_items(items, items + total, total);
	for (int32_t i = 0; i < total; i++)
		keep[i] = (int32_t) (items[i] & UINT32_MAX);
	return rule->limit > 0 && total > rule->limit ? rule->limit : total;
}

int32_t
eng_nms(int32_t *keep, EngBoxes boxes, const float *scores,
		const int32_t *group, const EngNmsRule *rule, void *scratch)
{
	NmsRoom		room = nms_room(scratch, boxes.count);
	EngNmsKind	kind = rule->kind;

	eng_sort_scores(room.order, scores, boxes.count, room.sort);
	if (group == NULL)
		return suppress(keep, room.order, boxes.count, boxes.boxes, rule,
						room.kept);
	if (kind == ENG_NMS_AUTO)
		kind = boxes.count > AUTO_LIMIT ? ENG_NMS_LOOP : ENG_NMS_OFFSET;
	if (kind == ENG_NMS_LOOP)
		return suppress_groups(keep, boxes, group, rule, &room);
	shift_groups(room.shifted, boxes, group);
	return suppress(keep, room.order, boxes.count, room.shifted, rule,
					room.kept);
}
