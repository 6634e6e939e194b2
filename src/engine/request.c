/*
 * engine/request.c
 *		What a request's JSON asks for, checked field by field.
 */
#include "engine/request.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/devices.h"
#include "engine/io/json.h"

#define MAX_THREADS		1024
#define MAX_CLASSES		10000

static const char *const load_keys[] = {
	"architecture", "options", "num_classes", "mode", "device", "threads",
	"seed", "init", "strict", "new_head", "backbone_only", "optimizer",
	"trainable_layers", "freeze_norm", "hflip", "memory_limit",
	"device_memory_limit", "weights", "precision", NULL
};
static const char *const optimizer_keys[] = {
	"name", "momentum", "betas", "eps", "weight_decay", "clip_norm",
	"decay_rule", NULL
};
static const char *const step_keys[] = {
	"step", "lr", "frames", "accumulate_index", "accumulate_count", NULL
};
static const char *const step_frame_keys[] = {
	"frame_id", "position", "bytes", "labels", "boxes", NULL
};
static const char *const detect_keys[] = {
	"min_score", "weights", "frames", NULL
};
static const char *const embed_images_keys[] = {"weights", "frames", NULL};
static const char *const embed_texts_keys[] = {"weights", "lengths", NULL};
static const char *const detect_frame_keys[] = {"frame_id", "bytes", NULL};

static json_t *
parse(const EngMessage *message, EngStatus *status)
{
	return eng_json_parse((const char *) message->json.data,
						  message->json.size, status);
}

/*
 * A string of two values; *second tells which one it is.
 */
static bool
read_choice(const json_t *object, const char *key, const char *first_word,
			const char *second_word, bool *second, EngStatus *status)
{
	const char *word = NULL;

	if (!eng_json_string(object, key, false, &word, status))
		return false;
	if (word == NULL)
		return true;
	*second = strcmp(word, second_word) == 0;
	if (!*second && strcmp(word, first_word) != 0)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"field \"%s\" must be \"%s\" or \"%s\"", key,
						first_word, second_word);
	return true;
}

static bool
read_float(const json_t *object, const char *key, double least, double most,
		   float *out, EngStatus *status)
{
	double		value = *out;

	if (!eng_json_number(object, key, least, most, false, &value, status))
		return false;
	*out = (float) value;
	return true;
}

static bool
read_betas(const json_t *object, EngOptimizerConfig *config,
		   EngStatus *status)
{
	json_t	   *betas;
	double		values[2];
	int			i;

	if (!eng_json_array(object, "betas", false, &betas, status))
		return false;
	if (betas == NULL)
		return true;
	if (json_array_size(betas) != 2)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"field \"betas\" must hold two numbers");
	for (i = 0; i < 2; i++)
	{
		json_t	   *item = json_array_get(betas, i);

		values[i] = json_number_value(item);
		if (!json_is_number(item) || !(values[i] >= 0 && values[i] < 1))
			return eng_fail(status, ENG_BAD_ARGUMENT,
							"field \"betas\" must hold numbers from 0 to below 1");
	}
	config->beta1 = (float) values[0];
	config->beta2 = (float) values[1];
	return true;
}

static bool
read_optimizer(const json_t *root, EngOptimizerConfig *config,
			   EngStatus *status)
{
	json_t	   *object;
	bool		adamw = false;

	if (!eng_json_object(root, "optimizer", false, &object, status))
		return false;
	if (object == NULL)
		return true;
	if (!eng_json_known(object, optimizer_keys, "the optimizer", status) ||
		!read_choice(object, "name", "sgd", "adamw", &adamw, status))
		return false;
	config->kind = adamw ? ENG_OPTIMIZER_ADAMW : ENG_OPTIMIZER_SGD;
	config->decay_matrices_only = adamw;
	return read_float(object, "momentum", 0, 1, &config->momentum, status) &&
		read_betas(object, config, status) &&
		read_float(object, "eps", 0, 1, &config->eps, status) &&
		read_float(object, "weight_decay", 0, 1000, &config->weight_decay,
				   status) &&
		read_float(object, "clip_norm", 0, FLT_MAX, &config->clip_norm,
				   status) &&
		read_choice(object, "decay_rule", "all", "matrices",
					&config->decay_matrices_only, status);
}

/*
 * An integer field that has a default and fits into 32 bits.
 */
static bool
read_int32(const json_t *object, const char *key, int64_t least,
		   int64_t most, int32_t *out, EngStatus *status)
{
	EngJsonRange range = {least, most, false};
	int64_t		value = *out;

	if (!eng_json_integer(object, key, range, &value, status))
		return false;
	*out = (int32_t) value;
	return true;
}

static bool
read_device(const json_t *root, const char **device, EngStatus *status)
{
	if (!eng_json_string(root, "device", false, device, status))
		return false;
	if (!eng_device_is_known(*device))
		return eng_fail(status, ENG_UNSUPPORTED,
						"device \"%.64s\" is not known; auto, cpu, ref, cuda, cuda:N, lists like cuda:0,1 and cuda:all are",
						*device);
	return true;
}

static bool
read_options(const json_t *root, char **options, EngStatus *status)
{
	json_t	   *object;

	if (!eng_json_object(root, "options", false, &object, status))
		return false;
	if (object == NULL)
		return true;
	*options = json_dumps(object, JSON_COMPACT);
	if (*options == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "could not copy the options");
	return true;
}

/*
 * The name under which weights are kept.
 */
static bool
read_weights(const json_t *root, const char **name, EngStatus *status)
{
	if (!eng_json_string(root, "weights", false, name, status))
		return false;
	if (*name != NULL &&
		(**name == '\0' || strlen(*name) > ENG_PROTOCOL_MAX_WEIGHTS))
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"field \"weights\" must have 1 to %d bytes",
						ENG_PROTOCOL_MAX_WEIGHTS);
	return true;
}

/* The same, copied to where "" is none. */
static bool
copy_weights(const json_t *root, char out[ENG_PROTOCOL_MAX_WEIGHTS + 1],
			 EngStatus *status)
{
	const char *name = NULL;

	if (!read_weights(root, &name, status))
		return false;
	strcpy(out, name != NULL ? name : "");
	return true;
}

static bool
read_precision(const json_t *root, EngLoadRequest *request,
			   EngStatus *status)
{
	const char *word = NULL;

	if (!eng_json_string(root, "precision", false, &word, status))
		return false;
	request->usual = word == NULL;
	return word == NULL || eng_type_find(word, &request->precision) ||
		eng_fail(status, ENG_BAD_ARGUMENT,
				 "field \"precision\" must be \"f32\", \"bf16\" or \"f16\"");
}

static bool
read_load(EngLoadRequest *request, EngStatus *status)
{
	const json_t *root = request->root;
	EngJsonRange any = {0, INT64_MAX, false};
	int64_t		seed = 0;

	if (!eng_json_known(root, load_keys, "LOAD", status) ||
		!eng_json_string(root, "architecture", true, &request->architecture,
						 status) ||
		!read_options(root, &request->options, status) ||
		!read_int32(root, "num_classes", 2, MAX_CLASSES,
					&request->num_classes, status) ||
		!read_choice(root, "mode", "infer", "train", &request->train,
					 status) ||
		!read_device(root, &request->device, status) ||
		!read_int32(root, "threads", 0, MAX_THREADS, &request->threads,
					status) ||
		!read_precision(root, request, status) ||
		!eng_json_integer(root, "device_memory_limit", any,
						  &request->device_memory_limit, status) ||
		!eng_json_integer(root, "seed",
						  (EngJsonRange) {INT64_MIN, INT64_MAX, false},
						  &seed, status) ||
		!eng_json_boolean(root, "init", &request->init, status) ||
		!eng_json_boolean(root, "strict", &request->strict, status) ||
		!eng_json_boolean(root, "new_head", &request->new_head, status) ||
		!eng_json_boolean(root, "backbone_only", &request->backbone_only,
						  status) ||
		!read_optimizer(root, &request->optimizer, status) ||
		!read_int32(root, "trainable_layers", 0, 5,
					&request->optimizer.trainable_layers, status) ||
		!eng_json_boolean(root, "freeze_norm",
						  &request->optimizer.freeze_norm, status) ||
		!eng_json_number(root, "hflip", 0, 1, false, &request->hflip,
						 status) ||
		!eng_json_integer(root, "memory_limit", any, &request->memory_limit,
						  status) ||
		!read_weights(root, &request->weights, status))
		return false;
	if (request->weights != NULL && request->train)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"weights to train are not kept under a name");
	request->seed = (uint64_t) seed;
	return true;
}

bool
eng_load_request_parse(EngLoadRequest *request, const EngMessage *message,
					   EngStatus *status)
{
	memset(request, 0, sizeof(*request));
	request->device = "cpu";
	request->strict = true;
	eng_optimizer_config_default(&request->optimizer);
	request->root = parse(message, status);
	return request->root != NULL && read_load(request, status);
}

void
eng_load_request_free(EngLoadRequest *request)
{
	free(request->options);
	if (request->root != NULL)
		json_decref(request->root);
	memset(request, 0, sizeof(*request));
}

/*
 * One [x1, y1, x2, y2]: four finite numbers that enclose something.
 */
static bool
read_box(const json_t *item, float *box, EngStatus *status)
{
	int			i;

	if (!json_is_array(item) || json_array_size(item) != 4)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"a box is not an array of four numbers");
	for (i = 0; i < 4; i++)
	{
		const json_t *side = json_array_get(item, i);

		if (!json_is_number(side))
			return eng_fail(status, ENG_BAD_ARGUMENT,
							"a box is not an array of four numbers");
		box[i] = (float) json_number_value(side);
		if (!isfinite(box[i]))
			return eng_fail(status, ENG_BAD_ARGUMENT,
							"a box has a side that is too large");
	}
	if (!(box[2] > box[0] && box[3] > box[1]))
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"a box is empty: x1 >= x2 or y1 >= y2");
	return true;
}

/*
 * Labels and boxes of one frame, behind those of the frames before it.
 */
static bool
read_truth(const json_t *item, EngBatchRequest *request,
		   EngFrameRequest *frame, EngStatus *status)
{
	json_t	   *labels;
	json_t	   *boxes;
	size_t		count;
	size_t		i;

	if (!eng_json_array(item, "labels", true, &labels, status) ||
		!eng_json_array(item, "boxes", true, &boxes, status))
		return false;
	count = json_array_size(boxes);
	if (json_array_size(labels) != count)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"frame has %zu labels, but %zu boxes",
						json_array_size(labels), count);
	frame->first_box = request->box_count;
	frame->box_count = (int32_t) count;
	for (i = 0; i < count; i++)
	{
		int32_t		at = request->box_count++;
		const json_t *label = json_array_get(labels, i);

		if (!json_is_integer(label) || json_integer_value(label) < 1 ||
			json_integer_value(label) > MAX_CLASSES)
			return eng_fail(status, ENG_BAD_ARGUMENT,
							"a label is not an integer from 1 to %d",
							MAX_CLASSES);
		request->labels[at] = (int32_t) json_integer_value(label);
		if (!read_box(json_array_get(boxes, i), &request->boxes[4 * at],
					  status))
			return false;
	}
	return true;
}

/*
 * One element of "frames"; room for its boxes has been made.
 */
static bool
read_frame(const json_t *item, bool is_step, size_t *offset,
		   EngBatchRequest *request, EngStatus *status)
{
	EngFrameRequest *frame = &request->frames[request->frame_count];
	EngJsonRange any = {INT64_MIN, INT64_MAX, true};
	int64_t		bytes = 0;

	if (!json_is_object(item))
		return eng_fail(status, ENG_BAD_ARGUMENT, "a frame is not an object");
	if (!eng_json_integer(item, "frame_id", any, &frame->frame_id, status))
		return false;
	request->has_bad_frame = true;
	request->bad_frame = frame->frame_id;
	any.least = 1;
	if (!eng_json_known(item, is_step ? step_frame_keys : detect_frame_keys,
						"a frame", status) ||
		!eng_json_integer(item, "bytes", any, &bytes, status))
		return false;
	any.least = 0;
	if (is_step &&
		(!eng_json_integer(item, "position", any, &frame->position, status) ||
		 !read_truth(item, request, frame, status)))
		return false;
	request->has_bad_frame = false;
	frame->offset = *offset;
	frame->bytes = (size_t) bytes;
	if (__builtin_add_overflow(*offset, (size_t) bytes, offset))
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"lengths of the frames overflow");
	request->frame_count++;
	return true;
}

/*
 * Allocate for the frames and for as many boxes as they claim.
 */
static bool
make_room(const json_t *frames, EngBatchRequest *request, EngStatus *status)
{
	size_t		count = json_array_size(frames);
	size_t		boxes = 0;
	size_t		i;

	if (count < 1 || count > ENG_PROTOCOL_MAX_FRAMES)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"message has %zu frames, but must have 1 to %d",
						count, ENG_PROTOCOL_MAX_FRAMES);
	for (i = 0; i < count; i++)
	{
		json_t	   *item = json_array_get(frames, i);
		size_t		n = json_array_size(json_object_get(item, "boxes"));

		if (n > ENG_PROTOCOL_MAX_BOXES)
			return eng_fail(status, ENG_BAD_ARGUMENT,
							"a frame has %zu boxes, but %d are the most",
							n, ENG_PROTOCOL_MAX_BOXES);
		boxes += n;
	}
	request->frames = calloc(count, sizeof(*request->frames));
	request->boxes = malloc(sizeof(*request->boxes) * 4 * (boxes + 1));
	request->labels = malloc(sizeof(*request->labels) * (boxes + 1));
	if (request->frames == NULL || request->boxes == NULL ||
		request->labels == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "could not keep %zu boxes",
						boxes);
	return true;
}

static bool
read_frames(const json_t *root, bool is_step, size_t blob_size,
			EngBatchRequest *request, EngStatus *status)
{
	json_t	   *frames;
	size_t		offset = 0;
	size_t		i;

	if (!eng_json_array(root, "frames", true, &frames, status) ||
		!make_room(frames, request, status))
		return false;
	for (i = 0; i < json_array_size(frames); i++)
		if (!read_frame(json_array_get(frames, i), is_step, &offset, request,
						status))
			return false;
	if (offset != blob_size)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"frames are %zu bytes long, but the blob holds %zu",
						offset, blob_size);
	return true;
}

static bool
read_batch(const json_t *root, uint16_t kind, size_t blob_size,
		   EngBatchRequest *request, EngStatus *status)
{
	EngJsonRange any = {0, INT64_MAX, true};
	bool		is_step = kind == ENG_KIND_STEP;

	if (is_step)
	{
		if (!eng_json_known(root, step_keys, "STEP", status) ||
			!eng_json_integer(root, "step", any, &request->step, status) ||
			!eng_json_number(root, "lr", 0, 1e6, true, &request->lr,
							 status) ||
			!read_int32(root, "accumulate_count", 1, 1 << 20,
						&request->accumulate_count, status) ||
			!read_int32(root, "accumulate_index", 0,
						request->accumulate_count - 1,
						&request->accumulate_index, status))
			return false;
	}
	else if (kind == ENG_KIND_EMBED_IMAGES)
	{
		if (!eng_json_known(root, embed_images_keys, "EMBED_IMAGES", status) ||
			!copy_weights(root, request->weights, status))
			return false;
	}
	else if (!eng_json_known(root, detect_keys, "DETECT", status) ||
			 !eng_json_number(root, "min_score", 0, 1, false,
							  &request->min_score, status) ||
			 !copy_weights(root, request->weights, status))
		return false;
	return read_frames(root, is_step, blob_size, request, status);
}

bool
eng_batch_request_parse(EngBatchRequest *request, const EngMessage *message,
						EngStatus *status)
{
	json_t	   *root;
	bool		fine;

	memset(request, 0, sizeof(*request));
	request->accumulate_count = 1;
	root = parse(message, status);
	if (root == NULL)
		return false;
	fine = read_batch(root, message->kind, message->blob.size, request, status);
	json_decref(root);
	return fine;
}

void
eng_batch_request_free(EngBatchRequest *request)
{
	free(request->frames);
	free(request->boxes);
	free(request->labels);
	memset(request, 0, sizeof(*request));
}

/*
 * The lengths of the texts; *total is the number of their tokens.
 */
static bool
read_lengths(const json_t *root, EngTextsRequest *request, size_t *total,
			 EngStatus *status)
{
	json_t	   *lengths;
	size_t		count;
	size_t		i;

	if (!eng_json_array(root, "lengths", true, &lengths, status))
		return false;
	count = json_array_size(lengths);
	if (count < 1 || count > ENG_PROTOCOL_MAX_TEXTS)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"message has %zu texts, but must have 1 to %d", count,
						ENG_PROTOCOL_MAX_TEXTS);
	request->lengths = malloc(sizeof(int32_t) * count);
	if (request->lengths == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "could not keep the texts");
	for (i = 0; i < count; i++)
	{
		const json_t *item = json_array_get(lengths, i);
		json_int_t	length = json_integer_value(item);

		if (!json_is_integer(item) || length < 1 ||
			length > ENG_PROTOCOL_TOKENS)
			return eng_fail(status, ENG_BAD_ARGUMENT,
							"length of text %zu is not an integer from 1 to %d",
							i + 1, ENG_PROTOCOL_TOKENS);
		request->lengths[i] = (int32_t) length;
		*total += (size_t) length;
	}
	request->count = (int32_t) count;
	return true;
}

static bool
read_ids(EngTextsRequest *request, const EngMessage *message, size_t total,
		 EngStatus *status)
{
	size_t		i;

	if (message->blob.size != total * sizeof(int32_t))
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"%zu tokens are %zu bytes long, but the blob holds %zu",
						total, total * sizeof(int32_t), message->blob.size);
	request->ids = malloc(message->blob.size);
	if (request->ids == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "could not keep the texts");
	memcpy(request->ids, message->blob.data, message->blob.size);
	for (i = 0; i < total; i++)
		if (request->ids[i] < 0 ||
			request->ids[i] >= ENG_PROTOCOL_VOCABULARY)
			return eng_fail(status, ENG_BAD_ARGUMENT,
							"token %d is not one of 0 to %d",
							request->ids[i], ENG_PROTOCOL_VOCABULARY - 1);
	return true;
}

bool
eng_texts_request_parse(EngTextsRequest *request, const EngMessage *message,
						EngStatus *status)
{
	json_t	   *root;
	size_t		total = 0;
	bool		fine;

	memset(request, 0, sizeof(*request));
	root = parse(message, status);
	if (root == NULL)
		return false;
	fine = eng_json_known(root, embed_texts_keys, "EMBED_TEXTS", status) &&
		copy_weights(root, request->weights, status) &&
		read_lengths(root, request, &total, status) &&
		read_ids(request, message, total, status);
	json_decref(root);
	return fine;
}

void
eng_texts_request_free(EngTextsRequest *request)
{
	free(request->lengths);
	free(request->ids);
	memset(request, 0, sizeof(*request));
}

bool
eng_hello_request_parse(const EngMessage *message, bool *look,
						EngStatus *status)
{
	static const char *const keys[] = {"protocol", "look", NULL};
	EngJsonRange any = {0, INT64_MAX, true};
	json_t	   *root = parse(message, status);
	int64_t		version = 0;
	bool		fine;

	if (root == NULL)
		return false;
	*look = false;
	fine = eng_json_known(root, keys, "HELLO", status) &&
		eng_json_integer(root, "protocol", any, &version, status) &&
		eng_json_boolean(root, "look", look, status);
	json_decref(root);
	if (fine && version != ENG_PROTOCOL_VERSION)
		return eng_fail(status, ENG_UNSUPPORTED,
						"protocol %lld is not spoken here, but %d",
						(long long) version, ENG_PROTOCOL_VERSION);
	return fine;
}

bool
eng_save_request_parse(const EngMessage *message, bool *with_optimizer,
					   EngStatus *status)
{
	static const char *const keys[] = {"with_optimizer", NULL};
	json_t	   *root = parse(message, status);
	bool		fine;

	*with_optimizer = false;
	if (root == NULL)
		return false;
	fine = eng_json_known(root, keys, "SAVE", status) &&
		eng_json_boolean(root, "with_optimizer", with_optimizer, status);
	json_decref(root);
	return fine;
}
