/*
 * test/engine/weight_files.c
 *		Files of weights into networks: names, types, what does not fit; and
 *		the expression that makes the network in torchvision.
 */
#include "engine/nets/constructor.h"
#include "engine/nets/detector.h"
#include "tap.h"

#define TINY	"\"widths\":[8,16,24,32],\"fpn_channels\":16," \
	"\"representation_size\":16"

#define BODY	"backbone.body."

/* How to_file changes the tensors of a network. */
typedef struct Change
{
	const char *prefix;			/* before every name */
	bool		old_names;		/* those of torchvision's file of 2019 */
	bool		body_alone;		/* under a ResNet's own names */
	const char *leave_out;		/* names with this text */
	const char *reshape;		/* the one name that gets a dimension more */
	EngFileDtype type;			/* of the floats; 0: as they are */
	EngFileDtype counter_type;	/* of the counters; 0: as they are */
	const char *more[3];		/* tensors of one float besides, ended by NULL */
} Change;

static EngDetector *
make(const char *options, int classes, uint64_t seed)
{
	EngStatus	status = {ENG_OK, ""};
	EngDetectorConfig config;
	EngDetector *detector = NULL;

	if (eng_detector_config_parse(&config, "fasterrcnn_resnet18_fpn", options,
								  classes, &status))
		detector = eng_detector_create(&config, "cpu", 1, false, &status);
	if (detector == NULL || !eng_detector_init(detector, seed, &status))
	{
		printf("Bail out! %s\n", status.message);
		exit(1);
	}
	return detector;
}

/* A float as an element of another type: those that are exact. */
static size_t
put_element(uint8_t *out, EngFileDtype type, float value)
{
	double		wide = value;
	uint32_t	bits;
	uint16_t	brain;

	memcpy(&bits, &value, 4);
	brain = (uint16_t) (bits >> 16);
	switch (type)
	{
		case ENG_FILE_F64:
			memcpy(out, &wide, 8);
			return 8;
		case ENG_FILE_BF16:
			memcpy(out, &brain, 2);
			return 2;
		default:
			memset(out, 1, 1);
			return 1;
	}
}

static const uint8_t *
convert_tensor(EngFileTensor *tensor, const Change *change)
{
	bool		is_counter = tensor->dtype == ENG_FILE_I64;
	EngFileDtype type = is_counter ? change->counter_type : change->type;
	uint8_t    *out;
	size_t		at = 0;
	int64_t		i;

	if (type == 0)
		return NULL;
	out = calloc(tensor->count + 1, 8);
	if (is_counter && type == ENG_FILE_I32)
		memcpy(out, tensor->data, 4);	/* little-endian */
	for (i = 0; !is_counter && i < tensor->count; i++)
	{
		float		value;

		memcpy(&value, tensor->data + 4 * i, 4);
		at += put_element(out + at, type, value);
	}
	tensor->dtype = type;
	return out;
}

static void
change_name(char *out, size_t size, const char *name, const Change *change)
{
	const char *dot;

	if (change->body_alone)
		name += sizeof(BODY) - 1;
	snprintf(out, size, "%s%s", change->prefix ? change->prefix : "", name);
	if (!change->old_names)
		return;
	if (strstr(out, "rpn.head.conv.0.0.") != NULL)
		snprintf(out, size, "rpn.head.conv.%s", name + 18);
	else if (strstr(out, "_blocks.") != NULL)
	{
		dot = strstr(name, "_blocks.") + 9;
		snprintf(out, size, "%.*s%s", (int) (dot - name), name, dot + 2);
	}
}

/* The network's weights as a file, changed. */
static EngBuffer
to_file(EngDetector *detector, const Change *change)
{
	static const float one = 1;
	EngStatus	status = {ENG_OK, ""};
	EngTensorWriter *writer = eng_tensor_writer_create(&status);
	EngBuffer	saved = {0};
	EngBuffer	out = {0};
	EngTensorFile *file;
	const uint8_t **made;
	int32_t		i;

	eng_detector_save(detector, false, &saved, &status);
	file = eng_tensor_file_open(saved.data, saved.size, &status);
	made = calloc(file->count, sizeof(*made));
	for (i = 0; i < file->count; i++)
	{
		EngFileTensor tensor = file->tensors[i];
		char		name[200];

		if (change->body_alone && strncmp(tensor.name, BODY, sizeof(BODY) - 1))
			continue;
		if (change->leave_out && strstr(tensor.name, change->leave_out))
			continue;
		if (change->reshape && strcmp(tensor.name, change->reshape) == 0)
			tensor.shape[tensor.rank++] = 1;
		change_name(name, sizeof(name), tensor.name, change);
		tensor.name = name;
		made[i] = convert_tensor(&tensor, change);
		if (made[i] != NULL)
			tensor.data = made[i];
		eng_tensor_writer_add(writer, &tensor, &status);
	}
	for (i = 0; change->more[i] != NULL; i++)
	{
		EngFileTensor tensor = {.name = change->more[i],
			.dtype = ENG_FILE_F32, .data = (const uint8_t *) &one};

		eng_tensor_writer_add(writer, &tensor, &status);
	}
	eng_tensor_writer_finish(writer, &out, &status);
	eng_tensor_writer_free(writer);
	for (i = 0; i < file->count; i++)
		free((void *) made[i]);
	free(made);
	eng_tensor_file_free(file);
	eng_buffer_free(&saved);
	if (status.code != ENG_OK)
		tap_ok(false, "%s", status.message);
	return out;
}

static bool
same_weights(EngDetector *a, EngDetector *b)
{
	EngStatus	status = {ENG_OK, ""};
	EngBuffer	left = {0};
	EngBuffer	right = {0};
	bool		same;

	same = eng_detector_save(a, false, &left, &status) &&
		eng_detector_save(b, false, &right, &status) &&
		left.size == right.size &&
		memcmp(left.data, right.data, left.size) == 0;
	eng_buffer_free(&left);
	eng_buffer_free(&right);
	return same;
}

static bool
load(EngDetector *detector, const EngBuffer *bytes, EngLoadOptions *options,
	 EngStatus *status)
{
	EngTensorFile *file;
	bool		fine;

	memset(status, 0, sizeof(*status));
	file = eng_tensor_file_open(bytes->data, bytes->size, status);
	fine = file != NULL && eng_detector_load(detector, file, options, status);
	eng_tensor_file_free(file);
	return fine;
}

/* What goes in changed arrives as it was. */
static void
check_same(const char *name, const char *options, Change change,
		   bool old_names)
{
	EngDetector *a = make(options, 4, 1);
	EngDetector *b = make(options, 4, 2);
	EngBuffer	file = to_file(a, &change);
	EngLoadOptions load_options = {.strict = true};
	EngStatus	status;
	bool		fine = load(b, &file, &load_options, &status);

	tap_ok(fine && load_options.old_names == old_names &&
		   (change.type == ENG_FILE_BF16 || same_weights(a, b)) &&
		   load_options.new_count == 0 && load_options.unused_count == 0,
		   "%s %s", name, status.message);
	eng_buffer_free(&file);
	eng_detector_free(a);
	eng_detector_free(b);
}

/* Refused with these words, and nothing of it was taken. */
static void
check_refused(const char *name, const char *options, Change change,
			  const char *const *words)
{
	EngDetector *a = make(options, 4, 1);
	EngDetector *b = make(options, 4, 2);
	EngDetector *untouched = make(options, 4, 2);
	EngBuffer	file = to_file(a, &change);
	EngLoadOptions load_options = {.strict = true};
	EngStatus	status;
	bool		fine = !load(b, &file, &load_options, &status) &&
	status.code == ENG_BAD_FILE && same_weights(b, untouched);

	for (; *words != NULL; words++)
		fine = fine && strstr(status.message, *words) != NULL;
	if (!tap_ok(fine, "refused: %s", name))
		tap_note("%s", status.message);
	eng_buffer_free(&file);
	eng_detector_free(a);
	eng_detector_free(b);
	eng_detector_free(untouched);
}

static void
test_taken(void)
{
	static const char live[] = "{" TINY "}";
	static const char frozen[] = "{" TINY ",\"norm\":\"frozen\"}";

	check_same("as it is", live, (Change) {NULL}, false);
	check_same("behind module.", live, (Change) {.prefix = "module."}, false);
	check_same("behind module._orig_mod.", live,
			   (Change) {.prefix = "module._orig_mod."}, false);
	check_same("averaged weights", live,
			   (Change) {.prefix = "module.", .more = {"n_averaged"}}, false);
	check_same("beside an optimizer", live,
			   (Change) {.more = {"optimizer.step"}}, false);
	check_same("old names", frozen, (Change) {.old_names = true}, true);
	check_same("old names and live norms", live, (Change) {.old_names = true},
			   true);
	check_same("doubles", live, (Change) {.type = ENG_FILE_F64}, false);
	check_same("counters of 32 bits", live,
			   (Change) {.counter_type = ENG_FILE_I32}, false);
	check_same("bfloat16", live, (Change) {.type = ENG_FILE_BF16}, false);
	check_same("live norms without counters", live,
			   (Change) {.leave_out = "num_batches_tracked"}, false);
	check_same("counters for frozen norms", frozen,
			   (Change) {.more = {"backbone.body.bn1.num_batches_tracked"}},
			   false);
}

static void
test_refused(void)
{
	static const char live[] = "{" TINY "}";

	check_refused("a missing tensor", live,
				  (Change) {.leave_out = "body.conv1.weight"},
				  (const char *const[]) {"1 missing: backbone.body.conv1.weight",
				  NULL});
	check_refused("an unexpected tensor", live,
				  (Change) {.more = {"fc.weight"}},
				  (const char *const[]) {"1 unexpected: fc.weight", NULL});
	check_refused("a counter of no norm", live,
				  (Change) {.more = {"fc.num_batches_tracked"}},
				  (const char *const[]) {"1 unexpected: fc.num", NULL});
	check_refused("a tensor of another shape", live,
				  (Change) {.reshape = "backbone.body.bn1.bias"},
				  (const char *const[]) {
				  "1 of another shape: backbone.body.bn1.bias is (8, 1), not (8)",
				  NULL});
	check_refused("all three", live,
				  (Change) {.leave_out = "fc6", .more = {"a", "b"},
				  .reshape = "rpn.head.cls_logits.bias"},
				  (const char *const[]) {
				  "2 missing: roi_heads.box_head.fc6.weight, roi_heads.box_head.fc6.bias; ",
				  "2 unexpected: a, b; ", "1 of another shape: rpn.head.cls",
				  NULL});
	check_refused("another network", live,
				  (Change) {.prefix = "x."},
				  (const char *const[]) {"missing: backbone.body.conv1.weight",
				  "and 110 more; 150 unexpected: x.backbone", "and 130 more",
				  NULL});
	check_refused("a prefix of some names", live,
				  (Change) {.prefix = "module.", .more = {"other"}},
				  (const char *const[]) {"missing: ", "unexpected: module.",
				  NULL});
}

static void
test_types(void)
{
	EngDetector *a = make("{" TINY "}", 4, 1);
	Change		change = {.type = ENG_FILE_I8};
	EngBuffer	file = to_file(a, &change);
	EngLoadOptions options = {.strict = true};
	EngStatus	status;

	tap_ok(!load(a, &file, &options, &status) &&
		   status.code == ENG_UNSUPPORTED &&
		   strstr(status.message, "of type I8"), "%s", status.message);
	eng_buffer_free(&file);
	eng_detector_free(a);
}

/* How many tensors are equal in body and elsewhere, counters aside. */
static void
count_equal(EngDetector *a, EngDetector *b, int equal[2], int all[2])
{
	static float left[1 << 20];
	static float right[1 << 20];
	int			i;

	memset(equal, 0, sizeof(int) * 2);
	memset(all, 0, sizeof(int) * 2);
	for (i = 0; i < eng_detector_parameter_count(a); i++)
	{
		EngParameterInfo info;
		bool		body;

		eng_detector_parameter_info(a, i, &info);
		body = strncmp(info.name, BODY, sizeof(BODY) - 1) == 0;
		eng_detector_parameter_read(a, i, ENG_PART_VALUE, left);
		eng_detector_parameter_read(b, i, ENG_PART_VALUE, right);
		all[body]++;
		equal[body] += memcmp(left, right, sizeof(float) * info.count) == 0;
	}
}

/* A classification network's file gives the body and nothing else. */
static void
test_backbone(const char *options_text, const Change *change)
{
	EngDetector *a = make(options_text, 4, 1);
	EngDetector *b = make(options_text, 6, 2);
	EngDetector *fresh = make(options_text, 6, 2);
	EngBuffer	file = to_file(a, change);
	EngLoadOptions options = {.strict = true};
	EngStatus	status;
	int			equal[2];
	int			all[2];
	bool		fine;

	tap_ok(!load(b, &file, &options, &status) &&
		   strstr(status.message, "import_backbone()"), "%s", status.message);
	count_equal(b, fresh, equal, all);
	tap_ok(equal[0] == all[0] && equal[1] == all[1], "changes nothing");
	options.backbone_only = true;
	fine = load(b, &file, &options, &status);
	count_equal(a, b, equal, all);
	tap_ok(fine && equal[1] == all[1] && equal[0] < all[0] &&
		   options.new_count > 0 && options.unused_count == 0,
		   "a body of %d tensors is taken %s", all[1], status.message);
	count_equal(fresh, b, equal, all);
	tap_ok(equal[0] == all[0], "%d others stay", all[0]);
	eng_buffer_free(&file);
	eng_detector_free(a);
	eng_detector_free(b);
	eng_detector_free(fresh);
}

/* What is no whole body is named. */
static void
test_backbone_refusals(void)
{
	EngDetector *a = make("{" TINY "}", 4, 1);
	EngBuffer	whole = to_file(a, &(Change) {NULL});
	EngBuffer	less = to_file(a, &(Change) {.body_alone = true,
		.leave_out = "layer2.0.conv1"});
	EngBuffer	other = to_file(a, &(Change) {.body_alone = true,
		.reshape = "backbone.body.bn1.bias", .more = {"fc.weight", "odd"}});
	EngBuffer	body = to_file(a, &(Change) {.body_alone = true});
	EngDetector *frozen = make("{\"norm\":\"frozen\"," TINY "}", 4, 1);
	EngLoadOptions options = {.strict = true, .backbone_only = true};
	EngStatus	status;

	tap_ok(load(frozen, &body, &options, &status) && options.loaded == 100,
		   "frozen norms leave the counters of live ones %s", status.message);
	tap_ok(!load(a, &whole, &options, &status) &&
		   strstr(status.message, " missing: backbone.body.conv1.weight, ") &&
		   strstr(status.message, " unexpected: backbone.body."),
		   "a whole detector is no backbone");
	tap_ok(!load(a, &less, &options, &status) &&
		   strstr(status.message, "; 1 missing: backbone.body.layer2.0.conv1.weight") &&
		   !strstr(status.message, "unexpected"), "%s", status.message);
	tap_ok(!load(a, &other, &options, &status) &&
		   strstr(status.message, "; 1 unexpected: odd; 1 of another shape: backbone.body.bn1.bias is (8, 1), not (8)"),
		   "%s", status.message);
	eng_buffer_free(&whole);
	eng_buffer_free(&less);
	eng_buffer_free(&other);
	eng_buffer_free(&body);
	eng_detector_free(frozen);
	eng_detector_free(a);
}

/* Only what new_head asks for may be another. */
static void
test_new_head(void)
{
	static const char head[] = "roi_heads.box_predictor.";
	EngDetector *a = make("{" TINY "}", 4, 1);
	EngDetector *b = make("{" TINY "}", 6, 2);
	EngDetector *fresh = make("{" TINY "}", 6, 2);
	EngBuffer	file = to_file(a, &(Change) {NULL});
	EngBuffer	without = to_file(a, &(Change) {.leave_out = head});
	EngBuffer	less = to_file(a, &(Change) {.leave_out = "fc6.bias"});
	EngLoadOptions options = {.strict = true};
	EngStatus	status;
	bool		fine;
	int			equal = 0;
	int			i;

	tap_ok(!load(b, &file, &options, &status) &&
		   strstr(status.message, "only the box predictor differs: new_head"),
		   "%s", status.message);
	options.new_head = true;
	fine = load(b, &file, &options, &status);
	for (i = 0; i < 4 && i < options.new_count; i++)
		equal += strncmp(options.new_names[i], head, sizeof(head) - 1) == 0;
	tap_ok(fine && options.new_count == 4 && equal == 4, "a new head %s",
		   status.message);
	for (i = equal = 0; i < eng_detector_parameter_count(b); i++)
	{
		EngParameterInfo info;
		float	   *x;
		float	   *y;

		eng_detector_parameter_info(b, i, &info);
		x = malloc(sizeof(float) * info.count);
		y = malloc(sizeof(float) * info.count);
		eng_detector_parameter_read(b, i, ENG_PART_VALUE, x);
		eng_detector_parameter_read(strncmp(info.name, head,
											sizeof(head) - 1) == 0 ? fresh : a,
									i, ENG_PART_VALUE, y);
		equal += memcmp(x, y, sizeof(float) * info.count) == 0;
		free(x);
		free(y);
	}
	tap_ok(equal == i, "the head is the network's, all else is the file's");
	tap_ok(load(b, &without, &options, &status) && options.new_count == 4,
		   "a file without a head %s", status.message);
	tap_ok(!load(b, &less, &options, &status) &&
		   strstr(status.message, "; 1 missing: roi_heads.box_head.fc6.bias"),
		   "%s", status.message);
	eng_buffer_free(&file);
	eng_buffer_free(&without);
	eng_buffer_free(&less);
	eng_detector_free(a);
	eng_detector_free(b);
	eng_detector_free(fresh);
}

static void
check_constructor(const char *architecture, const char *options, int classes,
				  const char *expected)
{
	EngStatus	status = {ENG_OK, ""};
	EngDetectorConfig config;
	char		out[ENG_CONSTRUCTOR_MAX];

	eng_detector_config_parse(&config, architecture, options, classes,
							  &status);
	if (!tap_ok(eng_detector_constructor(&config, out) ==
				(strncmp(expected, "none", 4) != 0) &&
				strcmp(out, expected) == 0, "%s with %s", architecture,
				options))
		tap_note("%s", out);
}

#define TV	"torchvision.models.detection."
#define R18 TV "FasterRCNN(" TV "backbone_utils.BackboneWithFPN(" \
	"torchvision.models.resnet18(weights=None, norm_layer="
#define LEVELS	"), {\"layer1\": \"0\", \"layer2\": \"1\", \"layer3\": \"2\", \"layer4\": \"3\"}, "
#define ANCHORS	", num_classes=None, rpn_anchor_generator=" TV \
	"anchor_utils.AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), " \
	"((0.5, 1, 2), (0.5, 1, 2), (0.5, 1, 2), (0.5, 1, 2), (0.5, 1, 2)))"

static void
test_constructors(void)
{
	check_constructor("fasterrcnn_resnet50_fpn", "{}", 0,
					  TV "fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)");
	check_constructor("fasterrcnn_resnet50_fpn_v2",
					  "{\"min_size\":[600,800],\"rpn_nms_thresh\":0.65,\"box_score_thresh\":0.1,\"bbox_reg_weights\":[1,2,3,0.1]}",
					  11,
					  TV "fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=11, min_size=[600, 800], rpn_nms_thresh=0.65, box_score_thresh=0.1, bbox_reg_weights=[1, 2, 3, 0.1])");
	check_constructor("fasterrcnn_resnet18_fpn_v2", "{\"norm_eps\":0.001}", 91,
					  R18 "functools.partial(torch.nn.BatchNorm2d, eps=0.001)" LEVELS
					  "[64, 128, 256, 512], 256, norm_layer=torch.nn.BatchNorm2d)" ANCHORS
					  ", rpn_head=" TV "rpn.RPNHead(256, 3, conv_depth=2), box_head=" TV
					  "faster_rcnn.FastRCNNConvFCHead((256, 7, 7), [256] * 4, [1024], norm_layer=torch.nn.BatchNorm2d), box_predictor="
					  TV "faster_rcnn.FastRCNNPredictor(1024, 91))");
	check_constructor("fasterrcnn_resnet18_fpn",
					  "{\"norm\":\"frozen\",\"fpn_channels\":64}", 91,
					  R18 "torchvision.ops.FrozenBatchNorm2d" LEVELS
					  "[64, 128, 256, 512], 64, norm_layer=None)" ANCHORS
					  ", rpn_head=" TV "rpn.RPNHead(64, 3, conv_depth=1), box_head=" TV
					  "faster_rcnn.TwoMLPHead(3136, 1024), box_predictor="
					  TV "faster_rcnn.FastRCNNPredictor(1024, 91))");
	check_constructor("small", "{}", 11,
					  "none: torchvision has no ResNet-18 of these widths");
}

int
main(void)
{
	test_taken();
	test_refused();
	test_types();
	test_new_head();
	test_backbone("{" TINY "}", &(Change) {.body_alone = true,
				  .more = {"fc.weight", "fc.bias"}});
	test_backbone("{" TINY "}", &(Change) {.body_alone = true,
				  .prefix = "module.", .leave_out = "num_batches_tracked"});
	test_backbone_refusals();
	test_constructors();
	return tap_done();
}
