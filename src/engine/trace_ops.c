/*
 * engine/trace_ops.c
 *		Recorded operations between the networks: boxes, losses, pixels.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/core/random.h"
#include "engine/nets/detector_config.h"
#include "engine/ops/detection.h"
#include "engine/trace_steps.h"

/* Shape of an output in one line. */
#define SHAPE(...) ((const int64_t[4]) {__VA_ARGS__})

static bool
put_floats(EngTraceCase *trace, const char *name, const char *part,
		   const float *data, int32_t rank, const int64_t *shape)
{
	EngTraceOut out = eng_trace_out(rank, shape, "%s.%s", name, part);

	return eng_trace_put_floats(trace, &out, data);
}

static bool
put_ints(EngTraceCase *trace, const char *name, const char *part,
		 const int32_t *data, int32_t rank, const int64_t *shape)
{
	EngTraceOut out = eng_trace_out(rank, shape, "%s.%s", name, part);

	return eng_trace_put_ints(trace, &out, data);
}

static int32_t
rows_of(const EngTraceCase *trace, const char *name, const char *part)
{
	const EngFileTensor *tensor = eng_trace_tensor(trace, "%s.%s", name, part);

	return tensor != NULL && tensor->rank > 0 ? (int32_t) tensor->shape[0] : 0;
}

static EngAnchorRule
standard_anchors(void)
{
	EngAnchorRule rule;

	eng_detector_anchors(&rule, 32);
	return rule;
}

/* Sizes of the maps of a ResNet with pyramid for a padded input. */
static EngPyramid
pyramid_of(EngSize padded, const EngAnchorRule *rule)
{
	EngPyramid	pyramid;
	EngSize		map[ENG_RPN_LEVELS];

	for (int l = 0; l < 4; l++)
	{
		map[l].height = padded.height >> (l + 2);
		map[l].width = padded.width >> (l + 2);
	}
	map[4].height = (map[3].height + 1) / 2;
	map[4].width = (map[3].width + 1) / 2;
	eng_pyramid_set(&pyramid, padded, map, rule);
	return pyramid;
}

static float *
all_anchors(EngTraceCase *trace, EngSize padded, int32_t *count)
{
	EngAnchorRule rule = standard_anchors();
	EngPyramid	pyramid = pyramid_of(padded, &rule);
	float	   *anchors;

	*count = pyramid.first[ENG_RPN_LEVELS];
	anchors = eng_trace_alloc(trace, (size_t) *count * 4 * sizeof(float));
	if (anchors != NULL)
		eng_anchors(anchors, &pyramid, &rule);
	return anchors;
}

static bool
step_anchors(EngTraceCase *trace, EngBackend *backend, const char *name)
{
	int32_t    *index = eng_trace_ints(trace, "%s.index", name);
	int32_t		n = rows_of(trace, name, "index");
	EngSize		padded = {0, 0};
	float	   *out = eng_trace_alloc(trace, (size_t) n * 16);
	int32_t		count;
	float	   *anchors;

	if (sscanf(name, "anchors_%dx%d", &padded.height, &padded.width) != 2 ||
		padded.height < 32 || padded.width < 32 || padded.height > 8192 ||
		padded.width > 8192)
		return eng_fail(eng_trace_status(trace), ENG_BAD_FILE,
						"no size in \"%s\"", name);
	anchors = all_anchors(trace, padded, &count);
	if (anchors == NULL || index == NULL || out == NULL)
		return false;
	for (int32_t i = 0; i < n; i++)
	{
		if (index[i] < 0 || index[i] >= count)
			return eng_fail(eng_trace_status(trace), ENG_BAD_FILE,
							"anchor %d does not exist", index[i]);
		memcpy(out + 4 * i, anchors + 4 * (size_t) index[i], 16);
	}
	return put_floats(trace, name, "boxes", out, 2, SHAPE(n, 4));
}

/* The weights that a case states, or else those of its name. */
static void
coder_weights(float weights[4], const EngTraceCase *trace, const char *name)
{
	const json_t *cases = json_object_get(eng_trace_config(trace), "cases");
	const json_t *stated = json_object_get(json_object_get(cases, name),
										   "weights");

	memcpy(weights, strcmp(name, "box_coder_roi") == 0 ?
		   eng_roi_box_weights : eng_rpn_box_weights, 4 * sizeof(float));
	for (size_t i = 0; json_array_size(stated) == 4 && i < 4; i++)
		weights[i] = (float) json_number_value(json_array_get(stated, i));
}

static bool
step_box_coder(EngTraceCase *trace, EngBackend *backend, const char *name)
{
	float		weights[4];
	float	   *gt = eng_trace_floats(trace, "%s.gt", name);
	float	   *boxes = eng_trace_floats(trace, "%s.proposals", name);
	float	   *deltas = eng_trace_floats(trace, "%s.deltas", name);
	int32_t		n = rows_of(trace, name, "proposals");
	float	   *encoded = eng_trace_alloc(trace, (size_t) n * 16);
	float	   *decoded = eng_trace_alloc(trace, (size_t) n * 32);

	if (gt == NULL || boxes == NULL || deltas == NULL || encoded == NULL ||
		decoded == NULL)
		return false;
	if (!eng_trace_expect(trace, 4 * n, "%s.proposals", name) ||
		!eng_trace_expect(trace, 4 * n, "%s.gt", name) ||
		!eng_trace_expect(trace, 8 * n, "%s.deltas", name))
		return false;
	coder_weights(weights, trace, name);
	eng_boxes_encode(encoded, gt, boxes, n, weights);
	eng_boxes_decode(decoded, deltas, boxes, n, 2, weights);
	return put_floats(trace, name, "encoded", encoded, 2, SHAPE(n, 4)) &&
		put_floats(trace, name, "decoded", decoded, 3, SHAPE(n, 2, 4));
}

static bool
step_levels(EngTraceCase *trace, EngBackend *backend, const char *name)
{
	float	   *boxes = eng_trace_floats(trace, "%s.boxes", name);
	int32_t		n = rows_of(trace, name, "boxes");
	int32_t    *levels = eng_trace_alloc(trace, (size_t) n * 4);

	if (boxes == NULL || levels == NULL)
		return false;
	if (!eng_trace_expect(trace, 4 * n, "%s.boxes", name))
		return false;
	eng_roi_levels(levels, boxes, n);
	return put_ints(trace, name, "level", levels, 1, SHAPE(n));
}

static bool
step_nms(EngTraceCase *trace, EngBackend *backend, const char *name)
{
	bool		batched = strncmp(name, "batched", 7) == 0;
	float	   *boxes = eng_trace_floats(trace, "%s.boxes", name);
	float	   *scores = eng_trace_floats(trace, "%s.scores", name);
	int32_t    *group = batched ? eng_trace_ints(trace, "%s.group", name) :
		NULL;
	int32_t		n = rows_of(trace, name, "boxes");
	EngNmsRule	rule = {0.5, ENG_NMS_AUTO, 0};
	EngBoxes	list = {boxes, n};
	int32_t    *keep = eng_trace_alloc(trace, (size_t) n * 4);
	void	   *scratch = eng_trace_alloc(trace, eng_nms_scratch_bytes(n));
	int32_t		count;

	if (boxes == NULL || scores == NULL || keep == NULL || scratch == NULL ||
		(batched && group == NULL))
		return false;
	if (!eng_trace_expect(trace, 4 * n, "%s.boxes", name) ||
		!eng_trace_expect(trace, n, "%s.scores", name) ||
		(batched && !eng_trace_expect(trace, n, "%s.group", name)))
		return false;
	rule.threshold = eng_trace_option(trace, name, "threshold", 0.5);
	count = eng_nms(keep, list, scores, group, &rule, scratch);
	return put_ints(trace, name, "keep", keep, 1, SHAPE(count));
}

static bool
step_matcher(EngTraceCase *trace, EngBackend *backend, const char *name)
{
	bool		rpn = !eng_trace_has(trace, "%s.boxes", name);
	EngMatchRule rule = {0.5f, 0.5f, rpn};
	EngSize		padded = {160, 160};
	float	   *gt = eng_trace_floats(trace, "%s.gt", name);
	EngBoxes	truth = {gt, rows_of(trace, name, "gt")};
	EngBoxes	boxes = {NULL, 0};
	int32_t    *match;
	float	   *iou;
	void	   *scratch;

	if (rpn)
		boxes.boxes = all_anchors(trace, padded, &boxes.count);
	else
	{
		boxes.boxes = eng_trace_floats(trace, "%s.boxes", name);
		boxes.count = rows_of(trace, name, "boxes");
	}
	rule.high = (float) eng_trace_option(trace, name, "high", 0.5);
	rule.low = (float) eng_trace_option(trace, name, "low", 0.5);
	match = eng_trace_alloc(trace, (size_t) boxes.count * 4);
	iou = eng_trace_alloc(trace, (size_t) boxes.count * truth.count * 4);
	scratch = eng_trace_alloc(trace, eng_match_scratch_bytes(boxes.count,
															 truth.count));
	if (gt == NULL || boxes.boxes == NULL || match == NULL || iou == NULL ||
		scratch == NULL)
		return false;
	if (!eng_trace_expect(trace, 4 * truth.count, "%s.gt", name) ||
		(!rpn && !eng_trace_expect(trace, 4 * boxes.count, "%s.boxes", name)))
		return false;
	eng_match(match, boxes, truth, &rule, scratch);
	eng_iou(iou, truth, boxes);
	return put_ints(trace, name, "match", match, 1, SHAPE(boxes.count)) &&
		put_floats(trace, name, "iou", iou, 2,
				   SHAPE(truth.count, boxes.count));
}

static bool
step_loss_objectness(EngTraceCase *trace, EngBackend *backend,
					 const char *name)
{
	float	   *x = eng_trace_floats(trace, "%s.x", name);
	float	   *target = eng_trace_floats(trace, "%s.target", name);
	float	   *gy = eng_trace_floats(trace, "%s.gy", name);
	int32_t		n = rows_of(trace, name, "x");
	float	   *dx = eng_trace_alloc(trace, (size_t) n * 4);
	float		loss;

	if (x == NULL || target == NULL || gy == NULL || dx == NULL)
		return false;
	if (!eng_trace_expect(trace, n, "%s.target", name) ||
		!eng_trace_expect(trace, 1, "%s.gy", name))
		return false;
	loss = eng_objectness_loss(dx, x, target, n, gy[0]);
	return put_floats(trace, name, "y", &loss, 1, SHAPE(1)) &&
		put_floats(trace, name, "g_x", dx, 1, SHAPE(n));
}

static bool
step_loss_rpn_box(EngTraceCase *trace, EngBackend *backend, const char *name)
{
	float	   *x = eng_trace_floats(trace, "%s.x", name);
	float	   *target = eng_trace_floats(trace, "%s.target", name);
	float	   *gy = eng_trace_floats(trace, "%s.gy", name);
	int32_t		n = rows_of(trace, name, "x");
	float	   *dx = eng_trace_alloc(trace, (size_t) n * 16);
	float		loss;

	if (x == NULL || target == NULL || gy == NULL || dx == NULL)
		return false;
	if (!eng_trace_expect(trace, 4 * n, "%s.x", name) ||
		!eng_trace_expect(trace, 4 * n, "%s.target", name) ||
		!eng_trace_expect(trace, 1, "%s.gy", name))
		return false;
	loss = eng_smooth_l1_loss(dx, x, target, 4 * n,
							  (float) eng_trace_option(trace, name, "sampled",
													   n), gy[0]);
	return put_floats(trace, name, "y", &loss, 1, SHAPE(1)) &&
		put_floats(trace, name, "g_x", dx, 2, SHAPE(n, 4));
}

/* Rows, classes and labels must fit together. */
static bool
check_roi_batch(EngTraceCase *trace, const char *name,
				const EngRoiBatch *batch)
{
	int64_t		cells = (int64_t) batch->rows * batch->classes;

	for (int32_t r = 0; r < batch->rows; r++)
		if (eng_trace_tensor(trace, "%s.labels", name)->count != batch->rows ||
			batch->labels[r] < -1 || batch->labels[r] >= batch->classes)
			return eng_fail(eng_trace_status(trace), ENG_BAD_FILE,
							"the labels of \"%s\" do not fit", name);
	return eng_trace_expect(trace, cells, "%s.logits", name) &&
		eng_trace_expect(trace, 4 * cells, "%s.deltas", name) &&
		eng_trace_expect(trace, 4 * (int64_t) batch->rows, "%s.targets",
						 name) &&
		eng_trace_expect(trace, 2, "%s.gy", name);
}

static bool
step_loss_roi(EngTraceCase *trace, EngBackend *backend, const char *name)
{
	const EngFileTensor *shape = eng_trace_tensor(trace, "%s.logits", name);
	EngRoiBatch batch = {eng_trace_floats(trace, "%s.logits", name),
		eng_trace_floats(trace, "%s.deltas", name),
		eng_trace_ints(trace, "%s.labels", name),
	eng_trace_floats(trace, "%s.targets", name), 0, 0};
	float	   *gy = eng_trace_floats(trace, "%s.gy", name);
	float	   *dlogits;
	float	   *ddeltas;
	EngRoiLoss	loss;

	if (shape == NULL || batch.logits == NULL || batch.deltas == NULL ||
		batch.labels == NULL || batch.targets == NULL || gy == NULL)
		return false;
	batch.rows = (int32_t) shape->shape[0];
	batch.classes = (int32_t) shape->shape[1];
	dlogits = eng_trace_alloc(trace, (size_t) shape->count * 4);
	ddeltas = eng_trace_alloc(trace, (size_t) shape->count * 16);
	if (dlogits == NULL || ddeltas == NULL)
		return false;
	if (!check_roi_batch(trace, name, &batch))
		return false;
	/* each loss has a gradient of its own here */
	eng_roi_loss(dlogits, NULL, &batch, gy[0]);
	loss = eng_roi_loss(NULL, ddeltas, &batch, gy[1]);
	return put_floats(trace, name, "y", (float[2])
					  {
						  loss.classifier, loss.box
					  }, 1, SHAPE(2)) &&
		put_floats(trace, name, "g_logits", dlogits, 2,
				   SHAPE(batch.rows, batch.classes)) &&
		put_floats(trace, name, "g_deltas", ddeltas, 2,
				   SHAPE(batch.rows, 4 * batch.classes));
}

static bool
step_softmax(EngTraceCase *trace, EngBackend *backend, const char *name)
{
	const EngFileTensor *shape = eng_trace_tensor(trace, "%s.x", name);
	float	   *x = eng_trace_floats(trace, "%s.x", name);

	if (x == NULL || shape->rank != 2 || shape->shape[1] < 1)
		return eng_fail(eng_trace_status(trace), ENG_BAD_FILE,
						"\"%s\" has no rows", name);
	eng_softmax(x, x, (int32_t) shape->shape[0], (int32_t) shape->shape[1]);
	return put_floats(trace, name, "y", x, 2, shape->shape);
}

static bool
step_resize_sizes(EngTraceCase *trace, EngBackend *backend, const char *name)
{
	int32_t    *in = eng_trace_ints(trace, "%s.h_w_min_max", name);
	int32_t		n = rows_of(trace, name, "h_w_min_max");
	int32_t    *out = eng_trace_alloc(trace, (size_t) n * 8);

	if (in == NULL || out == NULL)
		return false;
	if (!eng_trace_expect(trace, 4 * n, "%s.h_w_min_max", name))
		return false;
	for (int32_t i = 0; i < 2 * n; i++)
		if (in[i / 2 * 4 + i % 2] < 1)
			return eng_fail(eng_trace_status(trace), ENG_BAD_FILE,
							"a size in \"%s\" is not positive", name);
	for (int scale = 0; scale < 2; scale++)
	{
		for (int32_t i = 0; i < n; i++)
		{
			EngSize		image = {in[4 * i], in[4 * i + 1]};
			EngResizeRule rule = {in[4 * i + 2], in[4 * i + 3],
			scale == 0 ? ENG_SCALE_F64 : ENG_SCALE_F32};
			EngSize		size = eng_resize_size(image, &rule);

			out[2 * i] = size.height;
			out[2 * i + 1] = size.width;
		}
		if (!put_ints(trace, name, scale == 0 ? "f64" : "f32", out, 2,
					  SHAPE(n, 2)))
			return false;
	}
	return true;
}

/* The last rows and columns of the padded batch, at most 70 of each. */
static bool
put_crop(EngTraceCase *trace, const char *name, const float *batch,
		 EngSize padded)
{
	int32_t		h = padded.height < 70 ? padded.height : 70;
	int32_t		w = padded.width < 70 ? padded.width : 70;
	float	   *crop = eng_trace_alloc(trace, (size_t) 3 * h * w * 4);

	if (crop == NULL)
		return false;
	for (int c = 0; c < 3; c++)
		for (int32_t y = 0; y < h; y++)
			for (int32_t x = 0; x < w; x++)
				crop[(c * h + y) * w + x] =
					batch[((size_t) (padded.height - h + y) * padded.width +
						   padded.width - w + x) * 3 + c];
	return put_floats(trace, name, "batch_crop", crop, 3, SHAPE(3, h, w));
}

static bool
step_transform(EngTraceCase *trace, EngBackend *backend, const char *name)
{
	const EngFileTensor *shape = eng_trace_tensor(trace, "%s.image", name);
	uint8_t    *rgb = eng_trace_bytes(trace, "%s.image", name);
	EngPixels	image = {rgb, {0, 0}, {0, 0}, {0, 0},
	{0.485f, 0.456f, 0.406f}, {0.229f, 0.224f, 0.225f}, false};
	EngResizeRule rule = {0, 0, ENG_SCALE_F64};
	float	   *batch;
	void	   *scratch;

	if (rgb == NULL || shape->rank != 3 || shape->shape[2] != 3 ||
		shape->shape[0] < 1 || shape->shape[1] < 1)
		return eng_fail(eng_trace_status(trace), ENG_BAD_FILE,
						"the image of \"%s\" is none", name);
	rule.min_size = (int32_t) eng_trace_option(trace, name, "min_size", 800);
	rule.max_size = (int32_t) eng_trace_option(trace, name, "max_size", 1333);
	image.size.height = (int32_t) shape->shape[0];
	image.size.width = (int32_t) shape->shape[1];
	image.resized = eng_resize_size(image.size, &rule);
	image.padded.height = eng_padded_size(image.resized.height, 32);
	image.padded.width = eng_padded_size(image.resized.width, 32);
	batch = eng_trace_alloc(trace, (size_t) image.padded.height *
							image.padded.width * 12);
	scratch = eng_trace_alloc(trace,
							  eng_image_input_scratch_bytes(image.resized,
															image.size));
	if (batch == NULL || scratch == NULL)
		return false;
	eng_image_input(batch, 3, &image, scratch);
	{
		/* the boxes that were recorded follow from the size of the image */
		float		boxes[8] = {1, 2, image.size.width - 3.0f,
		image.size.height - 4.0f, 10.5f, 20.25f, 30.75f, 33};
		int32_t		size[4] = {image.resized.height, image.resized.width,
		image.padded.height, image.padded.width};

		eng_boxes_scale(boxes, boxes, 2, image.size, image.resized);
		return put_crop(trace, name, batch, image.padded) &&
			put_floats(trace, name, "boxes", boxes, 2, SHAPE(2, 4)) &&
			put_ints(trace, name, "size", size, 1, SHAPE(4));
	}
}

static bool
step_rng(EngTraceCase *trace, EngBackend *backend, const char *name)
{
	uint64_t	seed = strtoull(name + strlen("rng_"), NULL, 10);
	EngMt19937	mt;
	float		uniform[8];
	float		draw;
	int32_t    *long_list = eng_trace_alloc(trace, 5000 * 4);
	int32_t		short_list[10];

	if (long_list == NULL)
		return false;
	eng_mt19937_seed(&mt, seed);
	for (int i = 0; i < 8; i++)
		uniform[i] = eng_mt19937_uniform(&mt);
	eng_mt19937_seed(&mt, seed);
	eng_mt19937_randperm(short_list, 10, &mt);
	eng_mt19937_seed(&mt, seed);
	draw = eng_mt19937_uniform(&mt);
	eng_mt19937_randperm(long_list, 5000, &mt);
	return put_floats(trace, name, "uniform", uniform, 1, SHAPE(8)) &&
		put_floats(trace, name, "draw", &draw, 1, SHAPE(1)) &&
		put_ints(trace, name, "randperm10", short_list, 1, SHAPE(10)) &&
		put_ints(trace, name, "draw_then_randperm5000", long_list, 1,
				 SHAPE(64));
}

EngTraceStep
eng_trace_find_op(const char *name)
{
	static const struct
	{
		const char *prefix;
		EngTraceStep step;
	}			steps[] =
	{
		{"anchors_", step_anchors},
		{"box_coder_", step_box_coder},
		{"levels", step_levels},
		{"nms", step_nms},
		{"batched_nms", step_nms},
		{"matcher_", step_matcher},
		{"loss_objectness", step_loss_objectness},
		{"loss_rpn_box", step_loss_rpn_box},
		{"loss_roi", step_loss_roi},
		{"softmax", step_softmax},
		{"resize_sizes", step_resize_sizes},
		{"transform_", step_transform},
		{"rng_", step_rng}
	};

	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
		if (strncmp(name, steps[i].prefix, strlen(steps[i].prefix)) == 0)
			return steps[i].step;
	return NULL;
}
