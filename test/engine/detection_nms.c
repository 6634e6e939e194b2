/*
 * test/engine/detection_nms.c
 *		Order by score, suppression, proposals and post-processing.
 */
#include "boxes.h"

static float
overlap(const float *a, const float *b)
{
	float		w = fmaxf(fminf(a[2], b[2]) - fmaxf(a[0], b[0]), 0.0f);
	float		h = fmaxf(fminf(a[3], b[3]) - fmaxf(a[1], b[1]), 0.0f);
	float		inter = w * h;

	return inter / ((a[2] - a[0]) * (a[3] - a[1]) +
					(b[2] - b[0]) * (b[3] - b[1]) - inter);
}

/* Indices by score, highest first, then index: insertion sort. */
static void
order_by_definition(int32_t *order, const float *scores, int32_t n)
{
	for (int32_t i = 0; i < n; i++)
	{
		int32_t		j = i;

		for (; j > 0 && scores[order[j - 1]] < scores[i]; j--)
			order[j] = order[j - 1];
		order[j] = i;
	}
}

/* Suppression over all pairs of one group, or all for group NULL. */
static int32_t
nms_by_definition(int32_t *keep, const float *boxes, const float *scores,
				  const int32_t *group, int32_t n, double threshold)
{
	int32_t    *order = room(sizeof(int32_t) * n);
	bool	   *gone = calloc(n + 1, 1);
	int32_t		count = 0;

	order_by_definition(order, scores, n);
	for (int32_t i = 0; i < n; i++)
	{
		int32_t		a = order[i];

		if (gone[a])
			continue;
		keep[count++] = a;
		for (int32_t j = i + 1; j < n; j++)
		{
			int32_t		b = order[j];

			if ((group == NULL || group[a] == group[b]) &&
				overlap(boxes + 4 * a, boxes + 4 * b) > threshold)
				gone[b] = true;
		}
	}
	free(gone);
	free(order);
	return count;
}

static void
random_scores(float *scores, int32_t n, uint64_t stream, int levels)
{
	for (int32_t i = 0; i < n; i++)
	{
		scores[i] = random_between(stream, i, -3.0f, 3.0f);
		if (levels > 0)
			scores[i] = floorf(scores[i] * levels) / levels;
	}
}

static void
check_order(int32_t n, int32_t k, int levels)
{
	float	   *scores = room(sizeof(float) * n);
	int32_t    *want = room(sizeof(int32_t) * n);
	int32_t    *got = room(sizeof(int32_t) * n);
	void	   *scratch = room(eng_top_scratch_bytes(n));
	int32_t		count;

	random_scores(scores, n, 40 + n, levels);
	for (int32_t i = 0; i < n; i += 7)
		scores[i] = i % 2 ? 0.0f : -0.0f;
	order_by_definition(want, scores, n);
	eng_sort_scores(got, scores, n, scratch);
	tap_ok(memcmp(want, got, sizeof(int32_t) * n) == 0,
		   "%d scores of %d a unit in order", n, levels);
	count = eng_top_scores(got, scores, n, k, scratch);
	tap_ok(count == (k < n ? k : n) &&
		   memcmp(want, got, sizeof(int32_t) * count) == 0,
		   "the first %d of %d", k, n);
}

static void
check_special_scores(void)
{
	float		scores[8] = {-INFINITY, 1, NAN, INFINITY, -1, 0, 1, -2};
	static const int32_t want[8] = {2, 3, 1, 6, 5, 4, 7, 0};
	int32_t		got[8];
	float		many[200];
	int32_t		order[200];
	void	   *scratch = room(eng_top_scratch_bytes(200));

	eng_sort_scores(got, scores, 8, scratch);
	tap_ok(memcmp(got, want, sizeof(got)) == 0,
		   "infinities stand at the ends, NaN first");
	for (int i = 0; i < 200; i++)
		many[i] = scores[i % 8];
	eng_top_scores(order, many, 200, 120, scratch);
	tap_ok(order[0] == 2 && order[24] == 194 && order[25] == 3 &&
		   order[50] == 1 && order[51] == 6 && order[119] == 157,
		   "the same among many");
}

static void
check_nms(int32_t n, double threshold, float grid, int levels)
{
	float	   *boxes = room(16 * (size_t) n);
	float	   *scores = room(sizeof(float) * n);
	int32_t    *group = room(sizeof(int32_t) * n);
	int32_t    *want = room(sizeof(int32_t) * n);
	int32_t    *got = room(sizeof(int32_t) * n);
	void	   *scratch = room(eng_nms_scratch_bytes(n));
	EngBoxes	list = {boxes, n};
	EngNmsRule	rule = {threshold, ENG_NMS_AUTO, 0};
	int32_t		count;
	int32_t		kept;

	random_boxes(boxes, n, 60 + n, 300.0f, grid);
	random_scores(scores, n, 61 + n, levels);
	for (int32_t i = 0; i < n; i++)
		group[i] = (int32_t) random_between(62 + n, i, 0.0f, 5.0f);
	count = nms_by_definition(want, boxes, scores, NULL, n, threshold);
	kept = eng_nms(got, list, scores, NULL, &rule, scratch);
	tap_ok(kept == count && memcmp(want, got, sizeof(int32_t) * count) == 0,
		   "suppression of %d boxes at %g keeps %d", n, threshold, count);
	rule.limit = 10;
	kept = eng_nms(got, list, scores, NULL, &rule, scratch);
	tap_ok(kept == (count < 10 ? count : 10) &&
		   memcmp(want, got, sizeof(int32_t) * kept) == 0,
		   "a limit takes the first of them");
	rule.limit = 0;
	rule.kind = ENG_NMS_LOOP;
	count = nms_by_definition(want, boxes, scores, group, n, threshold);
	kept = eng_nms(got, list, scores, group, &rule, scratch);
	tap_ok(kept == count && memcmp(want, got, sizeof(int32_t) * count) == 0,
		   "within five groups %d stay", count);
	rule.limit = 17;
	kept = eng_nms(got, list, scores, group, &rule, scratch);
	tap_ok(kept == (count < 17 ? count : 17) &&
		   memcmp(want, got, sizeof(int32_t) * kept) == 0,
		   "and a limit takes the best of all groups");
	/* corners on a grid and few groups: offsets lose nothing here */
	if (grid > 0.0f)
	{
		rule.limit = 0;
		rule.kind = ENG_NMS_OFFSET;
		kept = eng_nms(got, list, scores, group, &rule, scratch);
		tap_ok(kept == count &&
			   memcmp(want, got, sizeof(int32_t) * count) == 0,
			   "moving the groups apart gives the same");
	}
}

static void
check_threshold(void)
{
	/* overlap exactly a half, and above it by one unit in the last place */
	float		half[8] = {0, 0, 2, 1, 0, 0, 1, 1};
	float		scores[2] = {2, 1};
	int32_t		keep[2];
	EngBoxes	boxes = {half, 2};
	EngNmsRule	rule = {0.5, ENG_NMS_AUTO, 0};
	void	   *scratch = room(eng_nms_scratch_bytes(2));

	tap_ok(eng_nms(keep, boxes, scores, NULL, &rule, scratch) == 2,
		   "an overlap equal to the threshold suppresses nothing");
	half[6] = 1.00001f;
	tap_ok(eng_nms(keep, boxes, scores, NULL, &rule, scratch) == 1 &&
		   keep[0] == 0, "one just above it does");
	boxes.count = 0;
	tap_ok(eng_nms(keep, boxes, scores, NULL, &rule, scratch) == 0,
		   "no boxes, nothing kept");
}

/* ---- proposals -------------------------------------------------------------- */

static EngPyramid
small_pyramid(const EngAnchorRule *rule)
{
	EngPyramid	pyramid;
	EngSize		padded = {192, 320};
	EngSize		maps[5] = {{48, 80}, {24, 40}, {12, 20}, {6, 10}, {3, 5}};

	eng_pyramid_set(&pyramid, padded, maps, rule);
	return pyramid;
}

static EngAnchorRule
small_anchors(void)
{
	EngAnchorRule rule;

	eng_detector_anchors(&rule, 8);
	return rule;
}

/*
 * Decode everything, order everything, suppress over all pairs.  Returns the
 * number of proposals.
 */
static int32_t
proposals_by_definition(float *boxes, const EngProposalInput *in,
						const EngProposalRule *rule)
{
	const EngPyramid *p = in->pyramid;
	int32_t		n = p->first[5];
	float	   *all = room(16 * (size_t) n);
	float	   *scores = room(sizeof(float) * n);
	int32_t    *group = room(sizeof(int32_t) * n);
	int32_t    *order = room(sizeof(int32_t) * n);
	int32_t		k = 0;
	int32_t		count;

	for (int l = 0; l < 5; l++)
	{
		int32_t		m = p->first[l + 1] - p->first[l];

		order_by_definition(order, in->maps.logits[l], m);
		for (int32_t i = 0; i < m && i < rule->pre_nms_top_n; i++)
		{
			float	   *b = all + 4 * k;

			eng_boxes_decode(b, in->maps.deltas[l] + 4 * order[i],
							 in->anchors + 4 * (p->first[l] + order[i]), 1, 1,
							 eng_rpn_box_weights);
			eng_boxes_clip(b, 1, in->image);
			if (b[2] - b[0] < rule->min_size || b[3] - b[1] < rule->min_size)
				continue;
			scores[k] = 1.0f / (1.0f + expf(-in->maps.logits[l][order[i]]));
			group[k++] = l;
		}
	}
	count = nms_by_definition(order, all, scores, group, k,
							  rule->nms_threshold);
	if (count > rule->post_nms_top_n)
		count = rule->post_nms_top_n;
	for (int32_t i = 0; i < count; i++)
		memcpy(boxes + 4 * i, all + 4 * order[i], 16);
	return count;
}

static void
check_proposals(float spread, int32_t post)
{
	EngAnchorRule anchor_rule = small_anchors();
	EngPyramid	pyramid = small_pyramid(&anchor_rule);
	EngProposalRule rule = {300, post, 0.7, 0.0f, 1e-3f, ENG_NMS_LOOP};
	EngProposalInput in = {{{NULL}, {NULL}}, &pyramid, NULL, {180, 320}};
	float	   *anchors = room(16 * (size_t) pyramid.first[5]);
	float	   *want = room(16 * (size_t) post);
	float	   *got = room(16 * (size_t) post);
	float	   *scores = room(sizeof(float) * post);
	int32_t		count;
	int32_t		found;
	bool		rest = true;
	bool		falling = true;

	eng_anchors(anchors, &pyramid, &anchor_rule);
	in.anchors = anchors;
	for (int l = 0; l < 5; l++)
	{
		int32_t		n = pyramid.first[l + 1] - pyramid.first[l];
		float	   *logits = room(sizeof(float) * n);
		float	   *deltas = room(16 * (size_t) n);

		for (int i = 0; i < n; i++)
			logits[i] = random_between(80 + l, i, -4.0f, 2.0f);
		for (int i = 0; i < 4 * n; i++)
			deltas[i] = random_between(90 + l, i, -spread, spread);
		in.maps.logits[l] = logits;
		in.maps.deltas[l] = deltas;
	}
	count = proposals_by_definition(want, &in, &rule);
	found = eng_proposals(got, scores, &in, &rule,
						  room(eng_proposals_scratch_bytes(&pyramid, &rule)));
	tap_ok(found == count && memcmp(got, want, 16 * (size_t) count) == 0,
		   "%d proposals of a pyramid, deltas up to %g", count, spread);
	for (int32_t i = count; i < post; i++)
		rest = rest && got[4 * i] == 0 && got[4 * i + 3] == 0 &&
			scores[i] == 0;
	for (int32_t i = 1; i < count; i++)
		falling = falling && scores[i] <= scores[i - 1];
	tap_ok(rest && falling, "scores fall, and zeros follow");
}

/* ---- post-processing ---------------------------------------------------------- */

static void
check_postprocess_by_hand(void)
{
	/* two proposals, two classes and the background */
	float		logits[6] = {0, 5, -9, -9, 4, 4};
	float		deltas[24] = {0};
	float		proposals[8] = {10, 10, 50, 30, 12, 10, 50, 30};
	EngPostprocessRule rule = {0.05f, 0.5, ENG_NMS_AUTO, 3, 1e-2f,
	{10, 10, 5, 5}};
	EngPostprocessInput in = {logits, deltas, proposals, 2, 3, {100, 200},
	{200, 400}};
	float		boxes[12],
				scores[3];
	int32_t		labels[3];
	EngDetectionList out = {boxes, scores, labels, 0};

	eng_postprocess(&out, &in, &rule,
					room(eng_postprocess_scratch_bytes(2, 3)));
	/* class 1: the second proposal is suppressed; class 2: it stands alone */
	tap_ok(out.count == 2 && labels[0] == 1 && labels[1] == 2,
		   "classes do not suppress each other");
	tap_ok(fabsf(scores[0] - 1.0f / (1.0f + expf(-5))) < 1e-4f &&
		   fabsf(scores[1] - 0.5f) < 1e-4f, "scores are softmax probabilities");
	tap_ok(boxes[0] == 20 && boxes[1] == 20 && boxes[2] == 100 &&
		   boxes[3] == 60 && boxes[4] == 24,
		   "boxes come back in pixels of the original");
	logits[0] = 9;
	logits[4] = logits[5] = -9;
	logits[3] = 9;
	logits[1] = 9 + logf(0.05f / 0.95f) - 1e-3f;
	eng_postprocess(&out, &in, &rule,
					room(eng_postprocess_scratch_bytes(2, 3)));
	tap_ok(out.count == 0, "nothing at or below the score threshold");
}

static void
check_postprocess(int32_t n, int32_t classes, int32_t limit)
{
	float	   *logits = room(sizeof(float) * n * classes);
	float	   *deltas = room(sizeof(float) * n * classes * 4);
	float	   *proposals = room(16 * (size_t) n);
	size_t		most = (size_t) n * classes;
	EngDetectionList all = {room(16 * most), room(4 * most), room(4 * most), 0};
	EngDetectionList out = {room(16 * most), room(4 * most), room(4 * most), 0};
	EngPostprocessRule rule = {0.05f, 0.5, ENG_NMS_LOOP, limit, 1e-2f,
	{10, 10, 5, 5}};
	EngPostprocessInput in = {logits, deltas, proposals, n, classes,
	{300, 300}, {300, 300}};
	int32_t    *keep = room(4 * most);
	int32_t		count;
	int			wrong = 0;

	random_boxes(proposals, n, 100, 300.0f, 0.0f);
	random_scores(logits, n * classes, 101, 0);
	random_scores(deltas, n * classes * 4, 102, 0);
	eng_postprocess_candidates(&all, &in, &rule, room(4 * classes));
	count = nms_by_definition(keep, all.boxes, all.scores, all.labels,
							  all.count, 0.5);
	if (count > limit)
		count = limit;
	eng_postprocess(&out, &in, &rule,
					room(eng_postprocess_scratch_bytes(n, classes)));
	for (int i = 0; i < out.count && i < count; i++)
		wrong += memcmp(out.boxes + 4 * i, all.boxes + 4 * keep[i], 16) != 0 ||
			out.labels[i] != all.labels[keep[i]] ||
			out.scores[i] != all.scores[keep[i]];
	tap_ok(out.count == count && wrong == 0,
		   "%d detections of %d candidates, %d classes", count, all.count,
		   classes);
}

int
main(void)
{
	check_order(1, 1, 0);
	check_order(40, 7, 4);
	check_order(700, 300, 0);
	check_order(3000, 1000, 5);
	check_order(3000, 2999, 1);
	check_order(500, 0, 2);
	check_special_scores();
	check_nms(1, 0.5, 0.0f, 0);
	check_nms(30, 0.5, 0.0f, 0);
	check_nms(333, 0.5, 0.0f, 3);
	check_nms(900, 0.7, 4.0f, 2);
	check_nms(1500, 0.3, 16.0f, 0);
	check_threshold();
	check_proposals(0.5f, 200);
	check_proposals(3.0f, 2000);
	check_postprocess_by_hand();
	check_postprocess(150, 11, 100);
	check_postprocess(60, 2, 1000);
	return tap_done();
}
