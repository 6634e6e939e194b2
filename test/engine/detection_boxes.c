/*
 * test/engine/detection_boxes.c
 *		Sizes, pixels, anchors, box coder, matcher and sampler.
 */
#include "boxes.h"

/* ---- sizes and pixels ---------------------------------------------------- */

typedef struct SizeCase
{
	EngSize		in;
	EngSize		out;
	EngSize		padded;
	EngSize		out_f32;
} SizeCase;

static void
check_sizes(void)
{
	static const SizeCase cases[] = {
		{{720, 1280}, {749, 1333}, {768, 1344}, {749, 1333}},
		{{1080, 1920}, {749, 1333}, {768, 1344}, {749, 1333}},
		{{480, 640}, {800, 1066}, {800, 1088}, {799, 1066}},
		{{427, 640}, {800, 1199}, {800, 1216}, {800, 1199}},
		{{426, 640}, {800, 1201}, {800, 1216}, {799, 1201}},
		{{640, 480}, {1066, 800}, {1088, 800}, {1066, 799}},
		{{375, 500}, {800, 1066}, {800, 1088}, {800, 1066}},
		{{333, 500}, {800, 1201}, {800, 1216}, {799, 1201}},
		{{512, 512}, {800, 800}, {800, 800}, {800, 800}},
		{{1208, 1920}, {800, 1271}, {800, 1280}, {799, 1271}},
		{{100, 1000}, {133, 1333}, {160, 1344}, {133, 1332}}
	};
	int			wrong = 0;
	int			short_by_one = 0;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		EngResizeRule rule = {800, 1333, ENG_SCALE_F64};
		EngSize		size = eng_resize_size(cases[i].in, &rule);

		wrong += size.height != cases[i].out.height ||
			size.width != cases[i].out.width ||
			eng_padded_size(size.height, 32) != cases[i].padded.height ||
			eng_padded_size(size.width, 32) != cases[i].padded.width;
		rule.scale = ENG_SCALE_F32;
		size = eng_resize_size(cases[i].in, &rule);
		wrong += size.height != cases[i].out_f32.height ||
			size.width != cases[i].out_f32.width;
	}
	tap_ok(wrong == 0, "resized and padded sizes of eleven images");
	for (int h = 200; h < 1300; h++)
	{
		EngResizeRule rule = {800, 100000, ENG_SCALE_F64};
		EngSize		in = {h, 2 * h};

		short_by_one += eng_resize_size(in, &rule).height == 799;
	}
	tap_ok(short_by_one == 46, "46 heights lose a row to rounding (%d)",
		   short_by_one);
}

/* Value of channel c at (y, x), straight from the definition. */
static float
pixel_by_definition(const EngPixels *image, int y, int x, int c)
{
	float		sy = (float) image->size.height / image->resized.height;
	float		sx = (float) image->size.width / image->resized.width;
	float		fy = fmaxf(sy * (y + 0.5f) - 0.5f, 0.0f);
	float		fx = fmaxf(sx * (x + 0.5f) - 0.5f, 0.0f);
	int			y0 = (int) fy;
	int			x0 = (int) fx;
	float		p[2][2];

	for (int i = 0; i < 2; i++)
		for (int j = 0; j < 2; j++)
		{
			int			row = y0 + i < image->size.height ? y0 + i : y0;
			int			col = x0 + j < image->size.width ? x0 + j : x0;

			if (image->flip)
				col = image->size.width - 1 - col;
			p[i][j] = (image->rgb[3 * (row * image->size.width + col) + c] /
					   255.0f - image->mean[c]) / image->std[c];
		}
	fy -= y0;
	fx -= x0;
	return (1.0f - fy) * ((1.0f - fx) * p[0][0] + fx * p[0][1]) +
		fy * ((1.0f - fx) * p[1][0] + fx * p[1][1]);
}

static void
check_pixels(EngSize in, EngSize out, int channels, bool flip)
{
	EngPixels	image = {NULL, in, out, {0, 0}, {0.485f, 0.456f, 0.406f},
	{0.229f, 0.224f, 0.225f}, flip};
	uint8_t    *rgb = room((size_t) in.height * in.width * 3);
	float	   *got;
	int			wrong = 0;

	for (int i = 0; i < in.height * in.width * 3; i++)
		rgb[i] = (uint8_t) eng_random_u64(5, 0, 0, ENG_USE_TEST, i);
	image.rgb = rgb;
	image.padded.height = eng_padded_size(out.height, 32);
	image.padded.width = eng_padded_size(out.width, 32) + 32;
	got = room(sizeof(float) * image.padded.height * image.padded.width *
			   channels);
	eng_image_input(got, channels, &image,
					room(eng_image_input_scratch_bytes(out, in)));
	for (int y = 0; y < image.padded.height; y++)
		for (int x = 0; x < image.padded.width; x++)
			for (int c = 0; c < channels; c++)
			{
				float		want = 0.0f;

				if (y < out.height && x < out.width && c < 3)
					want = pixel_by_definition(&image, y, x, c);
				wrong += got[(y * image.padded.width + x) * channels + c] !=
					want;
			}
	tap_ok(wrong == 0, "pixels %dx%d to %dx%d, %d channels%s", in.height,
		   in.width, out.height, out.width, channels, flip ? ", mirrored" : "");
}

static void
check_box_helpers(void)
{
	float		box[4] = {10, 20, 30, 60};
	float		bad[8] = {0, 0, 1, 1, 5, 5, 5, 9};
	float		nan_box[4] = {0, 0, NAN, 1};
	EngSize		from = {100, 50};
	EngSize		to = {50, 100};
	EngStatus	status = {ENG_OK, ""};

	eng_boxes_scale(box, box, 1, from, to);
	tap_ok(box[0] == 20 && box[1] == 10 && box[2] == 60 && box[3] == 30,
		   "boxes scale with the image");
	eng_boxes_flip(box, box, 1, 100);
	tap_ok(box[0] == 40 && box[1] == 10 && box[2] == 80 && box[3] == 30,
		   "boxes mirror with the image");
	tap_ok(eng_boxes_check(box, 1, 7, &status), "a good box passes");
	tap_ok(!eng_boxes_check(bad, 2, 7, &status) &&
		   strstr(status.message, "box 2 of frame 7") != NULL,
		   "a box without width is refused: %s", status.message);
	status.code = ENG_OK;
	tap_ok(!eng_boxes_check(nan_box, 1, 7, &status), "a NaN box is refused");
}

/* ---- anchors and coder ------------------------------------------------- */

static EngAnchorRule
standard_anchors(void)
{
	EngAnchorRule rule;

	eng_detector_anchors(&rule, 32);
	return rule;
}

static void
check_anchors(void)
{
	static const float want[5][12] = {
		{-23, -11, 23, 11, -16, -16, 16, 16, -11, -23, 11, 23},
		{-45, -23, 45, 23, -32, -32, 32, 32, -23, -45, 23, 45},
		{-91, -45, 91, 45, -64, -64, 64, 64, -45, -91, 45, 91},
		{-181, -91, 181, 91, -128, -128, 128, 128, -91, -181, 91, 181},
		{-362, -181, 362, 181, -256, -256, 256, 256, -181, -362, 181, 362}
	};
	EngAnchorRule rule = standard_anchors();
	EngPyramid	pyramid;
	EngSize		padded = {800, 1088};
	EngSize		maps[5] = {{200, 272}, {100, 136}, {50, 68}, {25, 34}, {13, 17}};
	float		base[12];
	float	   *anchors;
	const float *at;
	int			wrong = 0;

	for (int l = 0; l < 5; l++)
	{
		eng_anchors_base(base, &rule, l);
		wrong += memcmp(base, want[l], sizeof(base)) != 0;
	}
	tap_ok(wrong == 0, "base anchors of five sizes and three ratios");
	eng_pyramid_set(&pyramid, padded, maps, &rule);
	tap_ok(pyramid.first[5] == 217413 && pyramid.stride[4].height == 61 &&
		   pyramid.stride[4].width == 64 && pyramid.stride[3].height == 32,
		   "an odd map gives the pool level a stride of 61");
	anchors = room(sizeof(float) * 4 * pyramid.first[5]);
	eng_anchors(anchors, &pyramid, &rule);
	at = anchors + 4 * (pyramid.first[4] + (2 * 17 + 3) * 3 + 1);
	tap_ok(at[0] == 3 * 64 - 256 && at[1] == 2 * 61 - 256 &&
		   at[2] == 3 * 64 + 256 && at[3] == 2 * 61 + 256,
		   "anchors are ordered by level, row, column, ratio");
}

static void
check_coder(void)
{
	int32_t		n = 200;
	float	   *boxes = room(16 * n);
	float	   *gt = room(16 * n);
	float	   *deltas = room(16 * n);
	float	   *back = room(16 * n);
	float		big[4] = {0, 0, 100, 100};
	float		box[4] = {10, 20, 30, 60};
	float		worst = 0.0f;

	random_boxes(boxes, n, 1, 300.0f, 0.0f);
	random_boxes(gt, n, 2, 300.0f, 0.0f);
	eng_boxes_encode(deltas, gt, boxes, n, eng_roi_box_weights);
	eng_boxes_decode(back, deltas, boxes, n, 1, eng_roi_box_weights);
	for (int i = 0; i < 4 * n; i++)
		worst = fmaxf(worst, fabsf(back[i] - gt[i]));
	tap_ok(worst < 1e-3f, "decoding undoes encoding (worst %.1e px)", worst);
	eng_boxes_decode(back, big, box, 1, 1, eng_rpn_box_weights);
	tap_ok(fabsf(back[2] - back[0] - 20 * 62.5f) < 1e-2f &&
		   fabsf(back[3] - back[1] - 40 * 62.5f) < 1e-2f,
		   "growth is clamped to 62.5");
	{
		float		out[8] = {-5, -6, 700, 800, 3, 4, 5, 6};
		EngSize		image = {480, 640};

		eng_boxes_clip(out, 2, image);
		tap_ok(out[0] == 0 && out[1] == 0 && out[2] == 640 && out[3] == 480 &&
			   out[4] == 3 && out[7] == 6, "boxes are clipped to the image");
	}
}

/* ---- matcher -------------------------------------------------------------- */

/* The definition, over the whole matrix. */
static void
match_by_definition(int32_t *match, const float *iou, int32_t n, int32_t m,
					const EngMatchRule *rule)
{
	int32_t    *best = room(sizeof(int32_t) * n);

	for (int32_t i = 0; i < n; i++)
	{
		float		value = -1.0f;

		for (int32_t g = 0; g < m; g++)
			if (iou[(size_t) g * n + i] > value)
			{
				value = iou[(size_t) g * n + i];
				best[i] = g;
			}
		match[i] = m == 0 || value < rule->low ? -1 :
			value < rule->high ? -2 : best[i];
	}
	for (int32_t g = 0; rule->allow_low_quality && g < m; g++)
	{
		float		high = 0.0f;

		for (int32_t i = 0; i < n; i++)
			high = fmaxf(high, iou[(size_t) g * n + i]);
		for (int32_t i = 0; i < n; i++)
			if (iou[(size_t) g * n + i] == high)
				match[i] = best[i];
	}
	free(best);
}

static void
check_matcher(int32_t n, int32_t m, uint64_t stream, float grid)
{
	EngMatchRule rules[2] = {{0.7f, 0.3f, true}, {0.5f, 0.5f, false}};
	float	   *boxes = room(16 * (size_t) n);
	float	   *gt = room(16 * (size_t) m);
	float	   *iou = room(sizeof(float) * n * m);
	int32_t    *want = room(sizeof(int32_t) * n);
	int32_t    *got = room(sizeof(int32_t) * n);
	void	   *scratch = room(eng_match_scratch_bytes(n, m));
	EngBoxes	a = {boxes, n};
	EngBoxes	b = {gt, m};

	random_boxes(boxes, n, stream, 400.0f, grid);
	random_boxes(gt, m, stream + 1, 400.0f, grid);
	eng_iou(iou, b, a);
	for (int r = 0; r < 2; r++)
	{
		match_by_definition(want, iou, n, m, &rules[r]);
		eng_match(got, a, b, &rules[r], scratch);
		tap_ok(memcmp(want, got, sizeof(int32_t) * n) == 0,
			   "%d boxes against %d, corners on a grid of %g, rule %d", n, m,
			   grid, r + 1);
	}
}

/* One scalar overlap, each operation rounded. */
static float
iou_by_definition(const float *a, const float *b)
{
	volatile float w = fmaxf(fminf(a[2], b[2]) - fmaxf(a[0], b[0]), 0.0f);
	volatile float h = fmaxf(fminf(a[3], b[3]) - fmaxf(a[1], b[1]), 0.0f);
	volatile float inter = w * h;
	volatile float area_a = (a[2] - a[0]) * (a[3] - a[1]);
	volatile float area_b = (b[2] - b[0]) * (b[3] - b[1]);
	volatile float both = area_a + area_b;
	volatile float rest = both - inter;

	return inter / rest;
}

static void
check_iou_bits(void)
{
	int32_t		n = 700;
	int32_t		m = 9;
	float	   *a = room(16 * n);
	float	   *b = room(16 * m);
	float	   *iou = room(sizeof(float) * n * m);
	EngBoxes	x = {b, m};
	EngBoxes	y = {a, n};
	int			wrong = 0;

	random_boxes(a, n, 31, 500.0f, 0.0f);
	random_boxes(b, m, 32, 500.0f, 0.0f);
	eng_iou(iou, x, y);
	for (int g = 0; g < m; g++)
		for (int i = 0; i < n; i++)
			wrong += iou[g * n + i] != iou_by_definition(b + 4 * g, a + 4 * i);
	tap_ok(wrong == 0, "overlaps have the bits of unfused operations");
}

/* A small box between anchors: the ties that only exact floats keep. */
static void
check_ties(void)
{
	EngAnchorRule rule = standard_anchors();
	EngMatchRule match_rule = {0.7f, 0.3f, true};
	EngPyramid	pyramid;
	EngSize		padded = {160, 160};
	EngSize		maps[5] = {{40, 40}, {20, 20}, {10, 10}, {5, 5}, {3, 3}};
	float		gt[4] = {41.0f, 41.0f, 47.0f, 47.0f};
	int32_t		n;
	int			matched = 0;
	float	   *anchors;
	int32_t    *match;
	EngBoxes	boxes;
	EngBoxes	truth = {gt, 1};

	eng_pyramid_set(&pyramid, padded, maps, &rule);
	n = pyramid.first[5];
	anchors = room(16 * (size_t) n);
	match = room(sizeof(int32_t) * n);
	eng_anchors(anchors, &pyramid, &rule);
	boxes.boxes = anchors;
	boxes.count = n;
	eng_match(match, boxes, truth, &match_rule,
			  room(eng_match_scratch_bytes(n, 1)));
	for (int i = 0; i < n; i++)
		matched += match[i] == 0;
	/* every anchor that covers the box whole has the same overlap */
	tap_ok(matched > 10, "a tiny box is matched by all %d tied anchors",
		   matched);
}

/* ---- sampler ---------------------------------------------------------------- */

typedef struct SampleTest
{
	int32_t		n;
	int32_t    *match;
	int32_t		positives[64];
	int32_t		negatives[64];
	EngSample	sample;
	void	   *scratch;
} SampleTest;

static void
sample_test(SampleTest *t, int32_t n, int32_t positives, int32_t ignored)
{
	t->n = n;
	t->match = room(sizeof(int32_t) * n);
	for (int32_t i = 0; i < n; i++)
		t->match[i] = i % 3 == 0 && i / 3 < positives ? i % 5 :
			i % 3 == 1 && i / 3 < ignored ? ENG_MATCH_IGNORED :
			ENG_MATCH_BACKGROUND;
	t->sample.positives = t->positives;
	t->sample.negatives = t->negatives;
	t->scratch = room(eng_sample_scratch_bytes(n));
}

static bool
sample_is_sound(const SampleTest *t)
{
	const EngSample *s = &t->sample;
	bool		sound = true;

	for (int i = 0; i < s->positive_count; i++)
		sound = sound && t->match[s->positives[i]] >= 0 &&
			(i == 0 || s->positives[i] > s->positives[i - 1]);
	for (int i = 0; i < s->negative_count; i++)
		sound = sound && t->match[s->negatives[i]] == -1 &&
			(i == 0 || s->negatives[i] > s->negatives[i - 1]);
	return sound;
}

static void
check_sampler(void)
{
	EngSampleRule rule = {64, 0.25};
	EngSampleSource source = {ENG_SAMPLE_COUNTER, 5, 1, 9, ENG_USE_RPN_SAMPLE};
	EngMt19937	mt;
	EngStatus	status = {ENG_OK, ""};
	SampleTest	t;
	int32_t		first[64];
	int			hits[40] = {0};
	int			low = 1 << 30,
				high = 0;

	sample_test(&t, 1000, 40, 100);
	eng_sample(&t.sample, t.match, t.n, &rule, &source, t.scratch, &status);
	tap_ok(t.sample.positive_count == 16 && t.sample.negative_count == 48 &&
		   sample_is_sound(&t), "a quarter of positives, the rest negatives");
	memcpy(first, t.positives, sizeof(first));
	eng_sample(&t.sample, t.match, t.n, &rule, &source, t.scratch, &status);
	tap_ok(memcmp(first, t.positives, 16 * sizeof(int32_t)) == 0,
		   "the same key samples the same");
	source.position = 10;
	eng_sample(&t.sample, t.match, t.n, &rule, &source, t.scratch, &status);
	tap_ok(memcmp(first, t.positives, 16 * sizeof(int32_t)) != 0,
		   "another frame samples others");
	for (int step = 0; step < 2000; step++)
	{
		source.step = step;
		eng_sample(&t.sample, t.match, t.n, &rule, &source, t.scratch,
				   &status);
		for (int i = 0; i < 16; i++)
			hits[t.positives[i] / 3]++;
	}
	for (int i = 0; i < 40; i++)
	{
		low = hits[i] < low ? hits[i] : low;
		high = hits[i] > high ? hits[i] : high;
	}
	/* 800 expected, standard deviation 22 */
	tap_ok(low > 690 && high < 910, "every positive has its chance: %d..%d",
		   low, high);
	source.mode = ENG_SAMPLE_MT19937;
	source.mt = &mt;
	eng_mt19937_seed(&mt, 1);
	eng_sample(&t.sample, t.match, t.n, &rule, &source, t.scratch, &status);
	{
		EngMt19937	other;
		int32_t		perm[1000];

		eng_mt19937_seed(&other, 1);
		eng_mt19937_randperm(perm, 40, &other);
		memset(hits, 0, sizeof(hits));
		for (int i = 0; i < 16; i++)
			hits[perm[i]] = 1;
		low = 0;
		for (int i = 0; i < 16; i++)
			low += hits[t.positives[i] / 3];
		eng_mt19937_randperm(perm, 860, &other);
		tap_ok(low == 16 && eng_mt19937_u32(&mt) == eng_mt19937_u32(&other),
			   "torch's way takes the heads of two permutations");
	}
}

static void
check_sampler_limits(void)
{
	EngSampleRule rule = {64, 0.5};
	EngSampleSource source = {ENG_SAMPLE_COUNTER, 5, 1, 9, ENG_USE_ROI_SAMPLE};
	static const int32_t some[3] = {30, 3, 9};
	static const int32_t wrong[1] = {100};
	EngStatus	status = {ENG_OK, ""};
	SampleTest	t;

	sample_test(&t, 100, 5, 0);
	eng_sample(&t.sample, t.match, t.n, &rule, &source, t.scratch, &status);
	tap_ok(t.sample.positive_count == 5 && t.sample.negative_count == 59 &&
		   sample_is_sound(&t), "negatives fill up");
	sample_test(&t, 40, 13, 13);
	eng_sample(&t.sample, t.match, t.n, &rule, &source, t.scratch, &status);
	tap_ok(t.sample.positive_count == 13 && t.sample.negative_count == 14 &&
		   sample_is_sound(&t), "what there is, when there is little");
	source.mode = ENG_SAMPLE_GIVEN;
	source.positives = some;
	source.positive_count = 3;
	source.negatives = wrong;
	source.negative_count = 0;
	tap_ok(eng_sample(&t.sample, t.match, t.n, &rule, &source, t.scratch,
					  &status) && t.positives[0] == 3 &&
		   t.positives[2] == 30, "given indices are taken and sorted");
	source.negative_count = 1;
	tap_ok(!eng_sample(&t.sample, t.match, t.n, &rule, &source, t.scratch,
					   &status) && status.code == ENG_BAD_ARGUMENT,
		   "an index out of range is refused: %s", status.message);
	status.code = ENG_OK;
	source.positive_count = 65;
	tap_ok(!eng_sample(&t.sample, t.match, t.n, &rule, &source, t.scratch,
					   &status), "too many are refused: %s", status.message);
}

int
main(void)
{
	EngSize		a = {37, 61};
	EngSize		up = {64, 105};
	EngSize		down = {20, 33};

	check_sizes();
	check_pixels(a, up, 4, false);
	check_pixels(a, down, 3, true);
	check_pixels(a, a, 8, true);
	check_box_helpers();
	check_anchors();
	check_coder();
	check_iou_bits();
	check_matcher(1000, 7, 10, 0.0f);
	check_matcher(1500, 20, 12, 8.0f);
	check_matcher(300, 40, 14, 16.0f);
	check_matcher(40, 0, 16, 0.0f);
	check_matcher(1, 1, 18, 0.0f);
	check_matcher(256, 3, 20, 32.0f);
	check_ties();
	check_sampler();
	check_sampler_limits();
	return tap_done();
}
