/*
 * test/engine/detection_roi.c
 *		Selection of RoIs, their levels, RoIAlign, and the losses.
 */
#include "boxes.h"

static void
random_floats(float *x, int64_t n, uint64_t stream, float low, float high)
{
	for (int64_t i = 0; i < n; i++)
		x[i] = random_between(stream, i, low, high);
}

/* ---- selection ------------------------------------------------------------- */

static void
check_select(void)
{
	float		proposals[16] = {0, 0, 10, 10, 100, 100, 140, 140,
	1, 0, 10, 10, 300, 300, 310, 310};
	float		truth[8] = {0, 0, 10, 10, 100, 100, 150, 140};
	int32_t		truth_labels[2] = {3, 2};
	EngGroundTruth gt = {truth, truth_labels, 2};
	EngRoiRule	rule = {{0.5f, 0.5f, false}, {8, 0.5}, {10, 10, 5, 5}};
	EngSampleSource source = {ENG_SAMPLE_COUNTER, 1, 2, 3, ENG_USE_ROI_SAMPLE};
	float		boxes[32],
				targets[32];
	int32_t		labels[8],
				match[6];
	EngRoiSelection out = {boxes, labels, targets, match, 0, 0};
	EngBoxes	list = {proposals, 4};
	EngStatus	status = {ENG_OK, ""};
	void	   *scratch = room(eng_roi_select_scratch_bytes(4, 2));
	float		more[64],
				more_targets[64];
	int32_t		more_labels[16];
	static const int32_t want_match[6] = {0, 1, 0, -1, 0, 1};

	eng_roi_select(&out, list, &gt, &rule, &source, scratch, &status);
	/* five candidates are positive, four of them fit, one is background */
	tap_ok(out.count == 5 && out.positive_count == 4,
		   "half of the batch is positive, then what background there is");
	tap_ok(memcmp(match, want_match, sizeof(match)) == 0,
		   "ground truth is appended and matches itself");
	tap_ok(labels[5] == -1 && boxes[4 * 5] == 0 && labels[7] == -1,
		   "rows beyond the count are padding");
	rule.sample.batch_size = 16;
	out.boxes = more;
	out.targets = more_targets;
	out.labels = more_labels;
	eng_roi_select(&out, list, &gt, &rule, &source, scratch, &status);
	tap_ok(out.count == 6 && more_labels[0] == 3 && more_labels[1] == 2 &&
		   more_labels[3] == 0 && more_labels[5] == 2 && more[4 * 3] == 300,
		   "rows are in index order with their labels");
	tap_ok(more_targets[0] == 0 && more_targets[2] == 0 &&
		   fabsf(more_targets[4] - 10.0f * 5.0f / 40.0f) < 1e-6f &&
		   fabsf(more_targets[6] - 5.0f * logf(50.0f / 40.0f)) < 1e-6f,
		   "targets are weighted offsets");
	gt.count = 0;
	gt.boxes = NULL;
	gt.labels = NULL;
	eng_roi_select(&out, list, &gt, &rule, &source, scratch, &status);
	tap_ok(out.count == 4 && out.labels[0] == 0 && out.labels[3] == 0,
		   "without ground truth all is background");
}

static void
check_levels(void)
{
	float		boxes[28] = {0, 0, 111, 112, 0, 0, 112, 112, 0, 0, 224, 224,
		0, 0, 447, 448, 0, 0, 448, 448, 5, 5, 5, 5, 0, 0, 2000, 2000
	};
	static const int32_t want[7] = {0, 1, 2, 2, 3, 0, 3};
	int32_t		got[7];

	eng_roi_levels(got, boxes, 7);
	tap_ok(memcmp(got, want, sizeof(got)) == 0, "levels change at powers of two");
}

/* ---- RoIAlign ----------------------------------------------------------------- */

#define IMAGES 3

/* A set of maps, RoIs on them, and the gradients of both sides. */
typedef struct AlignTest
{
	EngRoiMaps	maps;
	EngRois		rois;
	float	   *boxes;
	int32_t    *image;
	int32_t    *level;
	float	   *map[4];
	float	   *dmap[4];
	float	   *out;
	float	   *dout;
	int64_t		map_count[4];
	int64_t		out_count;
} AlignTest;

static void
align_test(AlignTest *t, int32_t count, int32_t channels)
{
	memset(t, 0, sizeof(*t));
	t->maps.images = IMAGES;
	t->maps.channels = channels;
	t->maps.output = 7;
	t->maps.sampling = 2;
	t->maps.threads = 2;
	for (int l = 0; l < 4; l++)
	{
		t->maps.size[l].height = 24 >> l;
		t->maps.size[l].width = 40 >> l;
		t->maps.scale[l] = 0.25f / (1 << l);
		t->map_count[l] = (int64_t) IMAGES * (24 >> l) * (40 >> l) * channels;
		t->map[l] = room(sizeof(float) * t->map_count[l]);
		t->dmap[l] = room(sizeof(float) * t->map_count[l]);
		random_floats(t->map[l], t->map_count[l], 200 + l, -1, 1);
		t->maps.map[l] = t->map[l];
	}
	t->boxes = room(16 * (size_t) count);
	t->image = room(4 * (size_t) count);
	t->level = room(4 * (size_t) count);
	random_boxes(t->boxes, count, 210, 160.0f, 0.0f);
	for (int32_t r = 0; r < count; r++)
	{
		t->image[r] = r % 11 == 10 ? -1 : r % IMAGES;
		t->level[r] = r % 4;
		/* some reach out of the map, some are tiny */
		if (r % 5 == 1)
			t->boxes[4 * r] -= 90.0f;
		if (r % 7 == 2)
			t->boxes[4 * r + 3] = t->boxes[4 * r + 1] + 1.0f;
	}
	t->rois.boxes = t->boxes;
	t->rois.image = t->image;
	t->rois.level = t->level;
	t->rois.count = count;
	t->out_count = (int64_t) count * 49 * channels;
	t->out = room(sizeof(float) * t->out_count);
	t->dout = room(sizeof(float) * t->out_count);
	random_floats(t->dout, t->out_count, 220, -1, 1);
}

static void
align_backward(AlignTest *t)
{
	static const bool add[4] = {false, false, false, false};
	void	   *const dmap[4] = {t->dmap[0], t->dmap[1], t->dmap[2],
	t->dmap[3]};

	eng_roi_align_backward(dmap, add, t->dout, &t->maps, &t->rois, NULL);
}

/* Bilinear value of one channel in double, straight from the definition. */
static double
value_at(const AlignTest *t, int32_t r, double y, double x, int32_t c)
{
	int32_t		l = t->level[r];
	int32_t		h = t->maps.size[l].height;
	int32_t		w = t->maps.size[l].width;
	int32_t		y0,
				x0,
				y1,
				x1;
	const float *map = t->map[l] +
		(size_t) t->image[r] * h * w * t->maps.channels + c;

	if (y < -1 || y > h || x < -1 || x > w)
		return 0.0;
	y = y < 0 ? 0 : y > h - 1 ? h - 1 : y;
	x = x < 0 ? 0 : x > w - 1 ? w - 1 : x;
	y0 = (int32_t) y;
	x0 = (int32_t) x;
	y1 = y0 < h - 1 ? y0 + 1 : y0;
	x1 = x0 < w - 1 ? x0 + 1 : x0;
	y -= y0;
	x -= x0;
#define AT(i, j) map[((size_t) (i) * w + (j)) * t->maps.channels]
	return (1 - y) * ((1 - x) * AT(y0, x0) + x * AT(y0, x1)) +
		y * ((1 - x) * AT(y1, x0) + x * AT(y1, x1));
#undef AT
}

static double
bin_by_definition(const AlignTest *t, int32_t r, int p, int q, int32_t c)
{
	const float *b = t->boxes + 4 * r;
	double		scale = t->maps.scale[t->level[r]];
	double		w = fmax((b[2] - b[0]) * scale, 1.0) / 7;
	double		h = fmax((b[3] - b[1]) * scale, 1.0) / 7;
	double		sum = 0.0;

	for (int i = 0; i < 2; i++)
		for (int j = 0; j < 2; j++)
			sum += value_at(t, r, b[1] * scale + p * h + (i + 0.5) * h / 2,
							b[0] * scale + q * w + (j + 0.5) * w / 2, c);
	return sum / 4;
}

static void
check_align_forward(int32_t channels)
{
	AlignTest	t;
	double		worst = 0.0;

	align_test(&t, 40, channels);
	eng_roi_align(t.out, &t.maps, &t.rois);
	for (int32_t r = 0; r < t.rois.count; r++)
		for (int p = 0; p < 7; p++)
			for (int q = 0; q < 7; q++)
				for (int32_t c = 0; c < channels; c++)
				{
					double		want = t.image[r] < 0 ? 0.0 :
						bin_by_definition(&t, r, p, q, c);
					double		got = t.out[((r * 7 + p) * 7 + q) *
											channels + c];

					worst = fmax(worst, fabs(want - got));
				}
	tap_ok(worst < 2e-5, "RoIAlign of %d channels (worst %.1e)", channels,
		   worst);
}

/* The operation is linear: <dout, align(map)> = <backward(dout), map>. */
static void
check_align_backward(int32_t channels)
{
	AlignTest	t;
	double		left = 0.0,
				right = 0.0;
	double		worst = 0.0;

	align_test(&t, 60, channels);
	eng_roi_align(t.out, &t.maps, &t.rois);
	align_backward(&t);
	for (int64_t i = 0; i < t.out_count; i++)
		left += (double) t.out[i] * t.dout[i];
	for (int l = 0; l < 4; l++)
		for (int64_t i = 0; i < t.map_count[l]; i++)
			right += (double) t.map[l][i] * t.dmap[l][i];
	tap_ok(fabs(left - right) < 1e-4 * fabs(left) + 1e-4,
		   "backward is the transpose, %d channels (%.6f, %.6f)", channels,
		   left, right);
	/* single elements by finite differences; linear, so any step serves */
	for (int k = 0; k < 24; k++)
	{
		int			l = k % 4;
		int64_t		i = (int64_t) random_between(230, k, 0.0f,
												 (float) t.map_count[l]);
		float		old = t.map[l][i];
		double		up = 0.0;

		t.map[l][i] = old + 1.0f;
		eng_roi_align(t.out, &t.maps, &t.rois);
		for (int64_t j = 0; j < t.out_count; j++)
			up += (double) t.out[j] * t.dout[j];
		t.map[l][i] = old;
		worst = fmax(worst, fabs(up - left - t.dmap[l][i]));
	}
	tap_ok(worst < 1e-3, "single gradients by finite differences (worst %.1e)",
		   worst);
}

static void
check_align_repeats(void)
{
	AlignTest	t;
	float	   *first[4];
	float	   *out;
	int			wrong = 0;

	align_test(&t, 300, 48);
	t.maps.threads = 1;
	align_backward(&t);
	eng_roi_align(t.out, &t.maps, &t.rois);
	out = room(sizeof(float) * t.out_count);
	memcpy(out, t.out, sizeof(float) * t.out_count);
	for (int l = 0; l < 4; l++)
	{
		first[l] = room(sizeof(float) * t.map_count[l]);
		memcpy(first[l], t.dmap[l], sizeof(float) * t.map_count[l]);
	}
	for (int run = 0; run < 6; run++)
	{
		t.maps.threads = 1 + run;
		align_backward(&t);
		eng_roi_align(t.out, &t.maps, &t.rois);
		for (int l = 0; l < 4; l++)
			wrong += memcmp(first[l], t.dmap[l],
							sizeof(float) * t.map_count[l]) != 0;
		wrong += memcmp(out, t.out, sizeof(float) * t.out_count) != 0;
	}
	tap_ok(wrong == 0, "the same bits with one to six threads");
}

/* ---- losses ---------------------------------------------------------------------- */

#define PYRAMID_IMAGES 2

typedef struct RpnTest
{
	EngPyramid	pyramid;
	float	   *anchors;
	float	   *logits[5];
	float	   *deltas[5];
	EngRpnGradients gradients;
	EngRpnTarget targets[PYRAMID_IMAGES];
	EngRpnBatch batch;
} RpnTest;

static void
rpn_test(RpnTest *t)
{
	EngAnchorRule rule;
	EngSize		padded = {64, 96};
	EngSize		maps[5] = {{16, 24}, {8, 12}, {4, 6}, {2, 3}, {1, 2}};
	EngMatchRule match_rule = {0.7f, 0.3f, true};
	EngSampleRule sample_rule = {32, 0.5};
	EngStatus	status = {ENG_OK, ""};
	int32_t		n;

	eng_detector_anchors(&rule, 8);
	eng_pyramid_set(&t->pyramid, padded, maps, &rule);
	n = t->pyramid.first[5];
	t->anchors = room(16 * (size_t) n);
	eng_anchors(t->anchors, &t->pyramid, &rule);
	for (int l = 0; l < 5; l++)
	{
		int64_t		m = (int64_t) PYRAMID_IMAGES *
			(t->pyramid.first[l + 1] - t->pyramid.first[l]);

		t->logits[l] = room(4 * m);
		t->deltas[l] = room(16 * m);
		t->gradients.logits[l] = room(4 * m);
		t->gradients.deltas[l] = room(16 * m);
		random_floats(t->logits[l], m, 300 + l, -3, 3);
		random_floats(t->deltas[l], 4 * m, 310 + l, -0.5f, 0.5f);
		t->batch.maps.logits[l] = t->logits[l];
		t->batch.maps.deltas[l] = t->deltas[l];
	}
	for (int i = 0; i < PYRAMID_IMAGES; i++)
	{
		EngSampleSource source = {ENG_SAMPLE_COUNTER, 1, 1, i,
		ENG_USE_RPN_SAMPLE};
		float	   *gt = room(16 * 4);
		int32_t    *match = room(4 * (size_t) n);
		EngBoxes	boxes = {t->anchors, n};
		EngBoxes	truth = {gt, i == 0 ? 4 : 0};

		random_boxes(gt, 4, 320, 60.0f, 0.0f);
		eng_match(match, boxes, truth, &match_rule,
				  room(eng_match_scratch_bytes(n, 4)));
		t->targets[i].sample.positives = room(4 * 32);
		t->targets[i].sample.negatives = room(4 * 32);
		eng_sample(&t->targets[i].sample, match, n, &sample_rule, &source,
				   room(eng_sample_scratch_bytes(n)), &status);
		t->targets[i].match = match;
		t->targets[i].gt = gt;
	}
	t->batch.targets = t->targets;
	t->batch.images = PYRAMID_IMAGES;
	t->batch.pyramid = &t->pyramid;
	t->batch.anchors = t->anchors;
}

static double
rpn_sum(const RpnTest *t)
{
	EngRpnLoss	loss = eng_rpn_loss(NULL, &t->batch, 1.0f);

	return (double) loss.objectness + loss.box;
}

/* Central differences of a loss at x against the gradient; worst error. */
static double
difference(RpnTest *t, float *x, float gradient, float scale)
{
	float		old = *x;
	float		high = old + 0.01f;
	float		low = old - 0.01f;
	double		up,
				down;

	*x = high;
	up = rpn_sum(t);
	*x = low;
	down = rpn_sum(t);
	*x = old;
	return fabs(scale * (up - down) / ((double) high - low) - gradient);
}

static void
check_rpn_loss(void)
{
	RpnTest		t;
	double		worst = 0.0;
	double		largest = 0.0;
	int64_t		nonzero = 0;
	int32_t		sampled = 0;
	EngRpnLoss	loss;

	rpn_test(&t);
	loss = eng_rpn_loss(&t.gradients, &t.batch, 8.0f);
	for (int i = 0; i < PYRAMID_IMAGES; i++)
		sampled += t.targets[i].sample.positive_count +
			t.targets[i].sample.negative_count;
	for (int l = 0; l < 5; l++)
	{
		int32_t		m = PYRAMID_IMAGES *
			(t.pyramid.first[l + 1] - t.pyramid.first[l]);

		for (int32_t i = 0; i < m; i++)
		{
			float		g = t.gradients.logits[l][i];

			nonzero += g != 0.0f;
			largest = fmax(largest, fabs(g));
			if (g != 0.0f || i % 50 == 0)
				worst = fmax(worst, difference(&t, t.logits[l] + i, g, 8.0f));
		}
		for (int32_t i = 0; i < 4 * m; i++)
		{
			float		g = t.gradients.deltas[l][i];

			/* central differences across the bend of smooth L1 are off */
			if (g != 0.0f || i % 200 == 0)
				worst = fmax(worst, difference(&t, t.deltas[l] + i, g, 8.0f));
		}
	}
	tap_ok(nonzero == sampled, "only the %d sampled anchors get a gradient",
		   sampled);
	tap_ok(worst < 2e-2 * largest && loss.box > 0.0f,
		   "gradients of the RPN's losses (worst %.1e of %.1e)", worst,
		   largest);
}

static void
check_single_losses(void)
{
	float		x[4] = {0.0f, 2.0f, -100.0f, 100.0f};
	float		y[4] = {1.0f, 0.0f, 0.0f, 1.0f};
	float		dx[4];
	float		d[3] = {0.05f, -1.0f, 0.0f};
	float		zero[3] = {0, 0, 0};
	double		want = (log(2.0) + 2.0 + log1p(exp(-2.0))) / 4;
	float		beta = 1.0f / 9;

	tap_ok(fabs(eng_objectness_loss(dx, x, y, 4, 1.0f) - want) < 1e-6 &&
		   fabsf(dx[0] + 0.125f) < 1e-6f && fabsf(dx[2]) < 1e-30f,
		   "cross-entropy of logits, large ones too");
	want = (0.5 * 0.05 * 0.05 / beta + 1.0 - 0.5 * beta) / 10;
	tap_ok(fabs(eng_smooth_l1_loss(dx, d, zero, 3, 10.0f, 1.0f) - want) < 1e-6
		   && fabsf(dx[0] - 0.05f / beta / 10) < 1e-6f && dx[1] == -0.1f &&
		   dx[2] == 0.0f, "smooth L1 with beta 1/9");
	tap_ok(eng_objectness_loss(NULL, x, y, 0, 1.0f) == 0.0f,
		   "no element, no loss");
}

#define ROWS 24
#define CLASSES 6

static void
check_roi_loss(void)
{
	float	   *logits = room(4 * ROWS * CLASSES);
	float	   *deltas = room(16 * ROWS * CLASSES);
	float	   *dlogits = room(4 * ROWS * CLASSES);
	float	   *ddeltas = room(16 * ROWS * CLASSES);
	float		targets[4 * ROWS];
	int32_t		labels[ROWS];
	EngRoiBatch batch = {logits, deltas, labels, targets, ROWS, CLASSES};
	double		worst = 0.0;
	int			stray = 0;
	EngRoiLoss	loss;

	random_floats(logits, ROWS * CLASSES, 400, -4, 4);
	random_floats(deltas, 4 * ROWS * CLASSES, 401, -1, 1);
	random_floats(targets, 4 * ROWS, 402, -1, 1);
	for (int r = 0; r < ROWS; r++)
		labels[r] = r % 5 == 4 ? -1 : r % CLASSES;
	/* row 12 is background against a zero box: its targets are infinite */
	targets[4 * 12 + 2] = -INFINITY;
	loss = eng_roi_loss(dlogits, ddeltas, &batch, 1.0f);
	for (int i = 0; i < 5 * ROWS * CLASSES; i++)
	{
		bool		is_logit = i < ROWS * CLASSES;
		float	   *x = is_logit ? logits + i : deltas + i - ROWS * CLASSES;
		float		g = is_logit ? dlogits[i] : ddeltas[i - ROWS * CLASSES];
		float		old = *x;
		float		high = old + 0.01f;
		float		low = old - 0.01f;
		EngRoiLoss	up,
					down;

		*x = high;
		up = eng_roi_loss(NULL, NULL, &batch, 1.0f);
		*x = low;
		down = eng_roi_loss(NULL, NULL, &batch, 1.0f);
		*x = old;
		worst = fmax(worst, fabs(((double) up.classifier - down.classifier +
								  up.box - down.box) /
								 ((double) high - low) - g));
	}
	for (int r = 0; r < ROWS; r++)
		for (int c = 0; c < 4 * CLASSES; c++)
			stray += ddeltas[r * 4 * CLASSES + c] != 0.0f &&
				(labels[r] <= 0 || c / 4 != labels[r]);
	tap_ok(isfinite(loss.classifier) && isfinite(loss.box) && worst < 2e-3,
		   "gradients of the RoI losses (worst %.1e)", worst);
	tap_ok(stray == 0, "only the deltas of the target class get one");
	for (int r = 0; r < ROWS; r++)
		labels[r] = -1;
	loss = eng_roi_loss(dlogits, ddeltas, &batch, 1.0f);
	tap_ok(loss.classifier == 0.0f && loss.box == 0.0f && dlogits[0] == 0.0f,
		   "no live row, no loss");
}

int
main(void)
{
	check_select();
	check_levels();
	check_align_forward(1);
	check_align_forward(19);
	check_align_forward(32);
	check_align_backward(5);
	check_align_backward(33);
	check_align_repeats();
	check_rpn_loss();
	check_single_losses();
	check_roi_loss();
	return tap_done();
}
