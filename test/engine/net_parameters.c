/*
 * test/engine/net_parameters.c
 *		Names, shapes and order of weights; options; what is refused.
 */
#include "frames.h"
#include "tap.h"

static EngDetector *
make(const char *architecture, const char *options, int classes, bool train,
	 EngStatus *status)
{
	EngDetectorConfig config;

	if (!eng_detector_config_parse(&config, architecture, options, classes,
								   status))
		return NULL;
	return eng_detector_create(&config, "cpu", 1, train, status);
}

/* ---- names ---------------------------------------------------------------------- */

/* "64x3x7x7" or "scalar". */
static void
shape_text(char *out, size_t size, const EngParameterInfo *info)
{
	size_t		used = 0;
	int32_t		i;

	snprintf(out, size, "scalar");
	for (i = 0; i < info->rank; i++)
		used += snprintf(out + used, size - used, "%s%d", i ? "x" : "",
						 (int) info->shape[i]);
}

/*
 * Compare with a list of torch's state-dict: name, shape, type, kind.
 */
static void
test_names(const char *architecture, const char *options, const char *list,
		   int64_t total)
{
	EngStatus	status = {ENG_OK, ""};
	EngDetector *detector = make(architecture, options, 91, false, &status);
	char		path[300];
	char		line[300];
	int32_t		index = 0;
	int			wrong = 0;
	int64_t		count = 0;
	FILE	   *file;

	snprintf(path, sizeof(path), "%s/test/data/keys/%s",
			 getenv("AVC_ROOT") ? getenv("AVC_ROOT") : ".", list);
	file = fopen(path, "r");
	if (detector == NULL || file == NULL || !fgets(line, sizeof(line), file))
	{
		tap_ok(false, "%s: %s", path, status.message);
		eng_detector_free(detector);
		return;
	}
	for (; fgets(line, sizeof(line), file); index++)
	{
		char		name[100];
		char		shape[50];
		char		have[50];
		EngParameterInfo info;

		if (sscanf(line, "%99s %49s", name, shape) != 2 ||
			index >= eng_detector_parameter_count(detector))
		{
			wrong++;
			continue;
		}
		eng_detector_parameter_info(detector, index, &info);
		shape_text(have, sizeof(have), &info);
		if (!info.is_counter && !strstr(name, "running_"))
			count += info.count;
		if (strcmp(name, info.name) == 0 && strcmp(shape, have) == 0 &&
			info.is_buffer == (strstr(line, "buffer") != NULL))
			continue;
		tap_note("%s %s, not %s %s", info.name, have, name, shape);
		wrong++;
	}
	fclose(file);
	tap_ok(wrong == 0 && index == eng_detector_parameter_count(detector),
		   "%s: %d names, shapes and kinds are torch's", list, (int) index);
	tap_ok(count == total, "%s: %lld values", list, (long long) count);
	eng_detector_free(detector);
}

/*
 * Values go in and come out in torch's order; the layout differs inside.
 */
static void
test_exact(void)
{
	EngStatus	status = {ENG_OK, ""};
	EngDetector *detector = make("small", NULL, 11, true, &status);
	int32_t		wrong = 0;
	int32_t		i;

	for (i = 0; i < eng_detector_parameter_count(detector); i++)
	{
		EngParameterInfo info;
		float	   *in;
		float	   *out;
		int64_t		j;

		eng_detector_parameter_info(detector, i, &info);
		in = malloc(sizeof(float) * info.count);
		out = malloc(sizeof(float) * info.count);
		for (j = 0; j < info.count; j++)
			in[j] = (float) (i * 1000 + j % 1000);
		if (!eng_detector_parameter_write(detector, i, ENG_PART_VALUE, in) ||
			!eng_detector_parameter_read(detector, i, ENG_PART_VALUE, out) ||
			memcmp(in, out, sizeof(float) * info.count) != 0)
			wrong++;
		free(in);
		free(out);
	}
	tap_ok(wrong == 0, "values come back as they went in");
	eng_detector_free(detector);
}

/*
 * Initial weights: bounds and deviations of torchvision's rules.
 */
static void
test_init(void)
{
	EngStatus	status = {ENG_OK, ""};
	EngDetector *detector = make("small", NULL, 11, true, &status);
	int64_t		total = 0;
	int32_t		i;

	(void) eng_detector_init(detector, 1, &status);
	for (i = 0; i < eng_detector_parameter_count(detector); i++)
	{
		EngParameterInfo info;
		float	   *x;
		double		square = 0;
		double		most = 0;
		double		want = 0;
		int64_t		j;

		eng_detector_parameter_info(detector, i, &info);
		if (!info.is_buffer)
			total += info.count;
		if (info.rank < 2 || info.count < 1000)
			continue;
		x = malloc(sizeof(float) * info.count);
		eng_detector_parameter_read(detector, i, ENG_PART_VALUE, x);
		for (j = 0; j < info.count; j++)
		{
			square += (double) x[j] * x[j];
			most = fmax(most, fabs(x[j]));
		}
		square = sqrt(square / info.count);
		if (strstr(info.name, "body"))
			want = sqrt(2.0 / (info.shape[0] * info.shape[2] * info.shape[3]));
		else if (strstr(info.name, "fpn"))
			want = 1 / sqrt((double) info.shape[1] * info.shape[2] *
							info.shape[3]);
		else if (strstr(info.name, "rpn"))
			want = 0.01;
		else
			want = 1 / sqrt(3.0 * info.shape[1]);
		if (fabs(square / want - 1) > 0.1 ||
			(strstr(info.name, "roi_heads") && most > want * sqrt(3)))
			tap_ok(false, "%s: deviation %g, expected %g", info.name, square,
				   want);
		free(x);
	}
	tap_ok(total > 3850000 && total < 3950000,
		   "small has %.2f million parameters", total / 1e6);
	eng_detector_free(detector);
}

/* ---- options ---------------------------------------------------------------------- */

static void
refuse(const char *architecture, const char *options, int classes,
	   const char *expected)
{
	EngStatus	status = {ENG_OK, ""};
	EngDetectorConfig config;
	bool		pass = eng_detector_config_parse(&config, architecture,
												 options, classes, &status);

	tap_ok(!pass && status.code == ENG_BAD_ARGUMENT &&
		   strstr(status.message, expected) != NULL, "refused: %.90s",
		   status.message);
}

static void
test_options(void)
{
	EngStatus	status = {ENG_OK, ""};
	EngDetectorConfig c;

	refuse("yolo", NULL, 2, "known are fasterrcnn_resnet18_fpn");
	refuse("small", "{\"min_sise\":3}", 2, "known are _skip_resize, anchor_sizes");
	refuse("small", "{\"min_sise\":3}", 2, "widths");
	refuse("small", "{\"min_size\":0}", 2, "\"min_size\" must be a number from 1 to 16384");
	refuse("small", "{\"num_classes\":4}", 2, "unknown option \"num_classes\"");
	refuse("small", "{\"min_size\":64.5}", 2, "whole numbers");
	refuse("small", "{\"min_size\":\"64\"}", 2, "a number");
	refuse("small", "{\"min_size\":[]}", 2, "1 to 16 elements");
	refuse("small", "{\"size_divisible\":48}", 2, "a multiple of 32");
	refuse("small", "{\"size_divisible\":16}", 2, "from 32 to 1024");
	refuse("small", "{\"box_roi_pool_sampling_ratio\":0}", 2, "from 1 to 8");
	refuse("small", "{\"box_roi_pool_sampling_ratio\":-1}", 2, "from 1 to 8");
	refuse("small", "{\"fixed_size\":[100]}", 2, "must have 2 elements");
	refuse("small", "{\"fixed_size\":[100,0]}", 2, "from 1 to 16384");
	refuse("small", "{\"_skip_resize\":1}", 2, "true or false");
	refuse("small", "{\"sampler\":\"torch\"}", 2, "counter, mt19937");
	refuse("small", "{\"box_roi_pool_output_size\":33}", 2, "from 1 to 32");
	refuse("small", "{\"box_roi_pool_sampling_ratio\":0}", 2, "from 1 to 8");
	refuse("small", "{\"box_roi_pool_output_size\":14,"
		   "\"box_roi_pool_sampling_ratio\":5}", 2, "is above 64");
	refuse("small", "{\"bbox_reg_weights\":[1,1,1]}", 2, "4 elements");
	refuse("small", "{\"aspect_ratios\":[[1],[1],[1]]}", 2, "array of 5");
	refuse("small", "{\"aspect_ratios\":[[1],[1],[1],[1],[1,2]]}", 2,
		   "one length");
	refuse("small", "{\"anchor_sizes\":[[1,2,3,4,5,6,7,8],[1,2,3,4,5,6,7,8],"
		   "[1,2,3,4,5,6,7,8],[1,2,3,4,5,6,7,8],[1,2,3,4,5,6,7,8]],"
		   "\"aspect_ratios\":[0.5,1,2,3,4]}", 2, "40 anchors a cell");
	refuse("small", "{\"box_detections_per_img\":1e9}", 2, "from 1 to 10000");
	refuse("small", "{\"rpn_score_thresh\":null,\"box_nms_thresh\":\"x\"}", 2,
		   "\"box_nms_thresh\" must be a number from 0 to 1");
	refuse("small", "{\"norm\":\"layer\"}", 2, "batch, frozen");
	refuse("small", "{\"fpn_norm\":1}", 2, "true or false");
	refuse("small", "{\"anchor_sizes\":[8,16]}", 2, "array of 5");
	refuse("small", "{\"image_std\":[1,1,0]}", 2, "image_std");
	refuse("small", "{\"rpn_nms_thresh\":1.5}", 2, "from 0 to 1");
	refuse("small", "{\"rpn_bg_iou_thresh\":0.9}", 2, "is above");
	refuse("small", "{\"norm\":\"batch\",\"norm\":\"frozen\"}", 2, "not JSON");
	refuse("small", "[]", 2, "JSON object");
	refuse("small", "{", 2, "not JSON");
	refuse("small", NULL, 1, "2 to 10000 classes");
	tap_ok(eng_detector_config_parse(&c, "fasterrcnn_resnet34_fpn_v2",
									 "{\"min_size\":[480,800],"
									 "\"box_head\":\"mlp\","
									 "\"widths\":[16,16,24,32],"
									 "\"image_mean\":null,"
									 "\"aspect_ratios\":[[1],[2],[3],[4],[5]],"
									 "\"fixed_size\":[640,360],"
									 "\"sampler\":\"mt19937\","
									 "\"anchor_sizes\":[[8,9],[16,17],[32,33],"
									 "[64,65],[128,129]],\"scale_rule\":"
									 "\"f32\"}", 0, &status) &&
		   c.num_classes == 91 && c.min_size_count == 2 &&
		   c.min_sizes[1] == 800 && c.box_head_convs == 0 && c.fpn_norm &&
		   c.widths[2] == 24 && c.anchors.size_count == 2 &&
		   c.anchors.sizes[4][1] == 129 && c.anchors.ratio_count == 1 &&
		   c.anchors.ratios[3][0] == 4 && c.image_mean[0] == 0.485f &&
		   c.fixed_width == 640 && c.fixed_height == 360 &&
		   c.sampler == ENG_SAMPLE_MT19937 && c.scale_rule == ENG_SCALE_F32 &&
		   c.rpn_nms_thresh == 0.7, "options are taken %s", status.message);
}

/* ---- frames ------------------------------------------------------------------------- */

static bool
step(EngDetector *detector, EngFrame *frames, int n, EngStepResult *result,
	 EngStatus *status)
{
	EngStepInfo info = {.seed = 1, .step = 7, .lr = 1e-3f};

	memset(status, 0, sizeof(*status));
	return eng_detector_train_step(detector, frames, n, &info, result,
								   status);
}

static void
test_sizes(EngDetector *detector)
{
	static const int32_t sizes[][2] = {
		{320, 180}, {33, 500}, {500, 33}, {1, 1}, {2, 2}, {321, 181},
		{2, 300}, {1, 320}, {8192, 8192}, {8192, 26}, {26, 8192}
	};
	EngStatus	status = {ENG_OK, ""};
	EngStepResult result;
	EngDetections list;
	size_t		i;

	for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
	{
		EngFrame	frame;
		float		box[4] = {0, 0, 1, 1};
		bool		pass;

		frame_make(&frame, 20 + i, sizes[i][0], sizes[i][1], 1, 2);
		memcpy((float *) frame.boxes, box, sizeof(box));
		pass = step(detector, &frame, 1, &result, &status) &&
			eng_detector_infer(detector, &frame, 1, &list, &status);
		tap_ok(pass && isfinite(result.loss), "a frame of %dx%d %s",
			   sizes[i][0], sizes[i][1], status.message);
		frame_free(&frame);
	}
}

/* Of every shape in one batch, and one with hundreds of boxes. */
static void
test_mixed(EngDetector *detector)
{
	static const int32_t sizes[][3] = {
		{1, 1, 0}, {8192, 26, 1}, {64, 60, 400}, {26, 8192, 1}, {320, 180, 0}
	};
	EngStatus	status = {ENG_OK, ""};
	EngFrame	frames[5];
	EngStepResult result;
	EngDetections lists[5];
	bool		pass;
	int			i;

	for (i = 0; i < 5; i++)
		frame_make(&frames[i], 40 + i, sizes[i][0], sizes[i][1], sizes[i][2],
				   4);
	pass = step(detector, frames, 5, &result, &status) &&
		eng_detector_infer(detector, frames, 5, lists, &status);
	tap_ok(pass && result.boxes == 402 && isfinite(result.loss),
		   "a batch of five shapes, 402 boxes %s", status.message);
	for (i = 0; i < 5; i++)
		frame_free(&frames[i]);
}

static void
test_refused(EngDetector *detector, EngFrame *frame)
{
	EngStatus	status = {ENG_OK, ""};
	EngStepResult result;
	EngFrame	bad = *frame;
	float		box[4] = {5, 5, 5, 9};
	int32_t		label = 4;

	bad.width = 1;
	bad.height = 321;
	bad.frame_id = 4711;
	tap_ok(!step(detector, &bad, 1, &result, &status) &&
		   status.code == ENG_BAD_ARGUMENT &&
		   strstr(status.message, "frame 4711 of 1x321") != NULL &&
		   strstr(status.message, "0x320") != NULL, "%s", status.message);
	bad.width = 0;
	tap_ok(!step(detector, &bad, 1, &result, &status), "%s", status.message);
	bad = *frame;
	bad.boxes = box;
	bad.box_count = 1;
	tap_ok(!step(detector, &bad, 1, &result, &status) &&
		   status.code == ENG_BAD_ARGUMENT, "%s", status.message);
	box[2] = NAN;
	tap_ok(!step(detector, &bad, 1, &result, &status), "%s", status.message);
	box[2] = 9;
	bad.labels = &label;
	tap_ok(!step(detector, &bad, 1, &result, &status), "%s", status.message);
	tap_ok(!step(detector, &bad, 0, &result, &status), "%s", status.message);
	bad.boxes = NULL;
	tap_ok(!step(detector, &bad, 1, &result, &status), "%s", status.message);
	bad = *frame;
	bad.box_count = 0;
	tap_ok(step(detector, &bad, 1, &result, &status) && result.skipped,
		   "a batch without boxes is skipped");
	tap_ok(step(detector, frame, 1, &result, &status) && !result.skipped,
		   "the detector works after all that %s", status.message);
}

/*
 * A weight that is not finite shows in the loss, and the step names it.
 */
static void
test_numeric(EngDetector *detector, EngFrame *frame)
{
	EngStatus	status = {ENG_OK, ""};
	EngStepResult result;
	EngParameterInfo info;
	float	   *x;

	eng_detector_parameter_info(detector, 0, &info);
	x = malloc(sizeof(float) * info.count);
	eng_detector_parameter_read(detector, 0, ENG_PART_VALUE, x);
	x[3] = INFINITY;
	eng_detector_parameter_write(detector, 0, ENG_PART_VALUE, x);
	tap_ok(!step(detector, frame, 1, &result, &status) &&
		   status.code == ENG_NUMERIC && strstr(status.message, "step 7"),
		   "%s", status.message);
	memset(&status, 0, sizeof(status));
	tap_ok(!eng_detector_check_finite(detector, &status) &&
		   status.code == ENG_NUMERIC &&
		   strstr(status.message, "\"backbone.body.conv1.weight\"") != NULL,
		   "%s", status.message);
	x[3] = NAN;
	eng_detector_parameter_write(detector, 0, ENG_PART_VALUE, x);
	memset(&status, 0, sizeof(status));
	tap_ok(!eng_detector_check_finite(detector, &status), "a NaN is seen too");
	x[3] = 3e38f;
	eng_detector_parameter_write(detector, 0, ENG_PART_VALUE, x);
	memset(&status, 0, sizeof(status));
	/* the statistics behind it are gone since the step */
	tap_ok(!eng_detector_check_finite(detector, &status) &&
		   strstr(status.message, "running_mean") != NULL,
		   "a large weight is finite: %s", status.message);
	free(x);
}

static void
test_frames(void)
{
	EngStatus	status = {ENG_OK, ""};
	EngDetector *detector = make("small", "{\"widths\":[8,16,24,32],"
								 "\"fpn_channels\":16,"
								 "\"representation_size\":16}", 4, true,
								 &status);
	EngFrame	frames[3];
	EngStepResult result;
	int			i;

	for (i = 0; i < 3; i++)
		frame_make(&frames[i], i, 64 + 16 * i, 60, i, 4);
	(void) eng_detector_init(detector, 1, &status);
	tap_ok(step(detector, frames, 3, &result, &status) && result.boxes == 3,
		   "frames of three sizes, one without a box %s", status.message);
	test_sizes(detector);
	test_mixed(detector);
	test_refused(detector, &frames[2]);
	eng_detector_set_memory_limit(detector, 1 << 20);
	tap_ok(!step(detector, frames, 2, &result, &status) &&
		   status.code == ENG_NO_MEMORY, "%s", status.message);
	eng_detector_set_memory_limit(detector, 0);
	test_numeric(detector, &frames[2]);
	for (i = 0; i < 3; i++)
		frame_free(&frames[i]);
	eng_detector_free(detector);
}

/*
 * Weights that do not fit: strict names the first; else they are reported.
 */
static void
test_load(void)
{
	EngStatus	status = {ENG_OK, ""};
	const char *tiny = "{\"widths\":[8,16,24,32],\"fpn_channels\":16,"
	"\"representation_size\":16}";
	EngDetector *a = make("small", tiny, 4, false, &status);
	EngDetector *b = make("small", tiny, 6, false, &status);
	EngLoadOptions options = {.strict = true};
	EngBuffer	image = {0};
	EngTensorFile *file;
	bool		pass;

	(void) eng_detector_init(a, 1, &status);
	(void) eng_detector_init(b, 2, &status);
	(void) eng_detector_save(a, false, &image, &status);
	file = eng_tensor_file_open(image.data, image.size, &status);
	tap_ok(file != NULL && !eng_detector_load(b, file, &options, &status) &&
		   status.code == ENG_BAD_FILE &&
		   strstr(status.message, "box_predictor.cls_score"), "%s",
		   status.message);
	memset(&status, 0, sizeof(status));
	options.strict = false;
	pass = eng_detector_load(b, file, &options, &status);
	tap_ok(pass && options.new_count == 4 && options.unused_count == 0,
		   "a head of another class count stays new (%d tensors) %s",
		   options.new_count, status.message);
	eng_tensor_file_free(file);
	eng_buffer_free(&image);
	eng_detector_free(a);
	eng_detector_free(b);
}

int
main(void)
{
	test_names("fasterrcnn_resnet18_fpn", NULL,
			   "fasterrcnn_resnet18_fpn_v1style_bn.91.tsv", 28739606);
	test_names("fasterrcnn_resnet18_fpn_v2", NULL,
			   "fasterrcnn_resnet18_fpn_v2style.91.tsv", 30643478);
	test_names("fasterrcnn_resnet50_fpn", NULL,
			   "fasterrcnn_resnet50_fpn_v1_bn.91.tsv", 41808406);
	test_names("fasterrcnn_resnet50_fpn", "{\"norm\":\"frozen\"}",
			   "fasterrcnn_resnet50_fpn_v1_frozenbn.91.tsv", 41808406);
	test_names("fasterrcnn_resnet50_fpn_v2", NULL,
			   "fasterrcnn_resnet50_fpn_v2.91.tsv", 43712278);
	test_exact();
	test_init();
	test_options();
	test_load();
	test_frames();
	return tap_done();
}
