/*
 * test/engine/clip_weights.c
 *		Files of CLIP's weights: both schemes of names, what is refused.
 */
#include "clip_tiny.h"
#include "engine/io/pth.h"

static Questions questions;

/* A file being made out of another. */
typedef struct Made
{
	EngTensorWriter *writer;
	char		names[1000][160];
	float	   *copies[1000];
	int			count;
	EngStatus	status;
} Made;

static void
made_add(Made *made, const char *name, const EngFileTensor *like,
		 const int64_t *shape, int32_t rank, const void *data)
{
	EngFileTensor tensor = {.dtype = like->dtype, .rank = rank, .count = 1};
	int32_t		i;

	for (i = 0; i < rank; i++)
	{
		tensor.shape[i] = shape[i];
		tensor.count *= shape[i];
	}
	snprintf(made->names[made->count], sizeof(made->names[0]), "%s", name);
	tensor.name = made->names[made->count];
	tensor.bytes = (size_t) tensor.count *
		(size_t) eng_file_dtype_bits(like->dtype) / 8;
	made->copies[made->count] = malloc(tensor.bytes + 1);
	memcpy(made->copies[made->count], data, tensor.bytes);
	tensor.data = (uint8_t *) made->copies[made->count];
	made->count++;
	eng_tensor_writer_add(made->writer, &tensor, &made->status);
}

static EngBuffer
made_finish(Made *made)
{
	EngBuffer	out = {0};
	int			i;

	if (!eng_tensor_writer_finish(made->writer, &out, &made->status))
		tap_note("%s", made->status.message);
	eng_tensor_writer_free(made->writer);
	for (i = 0; i < made->count; i++)
		free(made->copies[i]);
	free(made);
	return out;
}

static Made *
made_start(void)
{
	Made	   *made = calloc(1, sizeof(*made));

	made->writer = eng_tensor_writer_create(&made->status);
	return made;
}

/* How a file differs from what the network wrote. */
typedef struct Change
{
	const char *prefix;
	const char *leave;			/* name left out */
	const char *reshape;		/* name made one longer at the front */
	const char *add;			/* name of one more */
	bool		half;			/* all numbers as F16 */
	const char *name;
} Change;

static bool
is_name(const char *name, const char *which)
{
	return which != NULL && strcmp(name, which) == 0;
}

/* A half of a float that needs no rounding of weights as small as these. */
static uint16_t
to_half(float value)
{
	uint32_t	bits;
	int32_t		exponent;

	memcpy(&bits, &value, 4);
	exponent = (int32_t) (bits >> 23 & 255) - 112;
	if (exponent <= 0)
		return (uint16_t) (bits >> 16 & 0x8000);
	return (uint16_t) ((bits >> 16 & 0x8000) | (uint32_t) exponent << 10 |
					   (bits >> 13 & 1023));
}

static void
add_changed(Made *made, const EngFileTensor *t, const Change *change)
{
	char		name[200];
	int64_t		shape[4];
	EngFileTensor like = *t;
	uint16_t   *halves;
	int64_t		i;

	if (is_name(t->name, change->leave))
		return;
	memcpy(shape, t->shape, sizeof(shape));
	snprintf(name, sizeof(name), "%s%s",
			 change->prefix != NULL ? change->prefix : "", t->name);
	if (is_name(t->name, change->reshape))
	{
		shape[0]--;
		made_add(made, name, t, shape, t->rank, t->data);
		return;
	}
	if (!change->half)
	{
		made_add(made, name, t, shape, t->rank, t->data);
		return;
	}
	halves = malloc(sizeof(uint16_t) * t->count);
	for (i = 0; i < t->count; i++)
	{
		float		value;

		memcpy(&value, t->data + 4 * i, 4);
		halves[i] = to_half(value);
	}
	like.dtype = ENG_FILE_F16;
	made_add(made, name, &like, shape, t->rank, halves);
	free(halves);
}

static EngBuffer
changed(const EngTensorFile *file, const Change *change)
{
	static const float zeros[4];
	Made	   *made = made_start();
	EngFileTensor like = {.dtype = ENG_FILE_F32};
	int32_t		i;

	for (i = 0; i < file->count; i++)
		add_changed(made, &file->tensors[i], change);
	if (change->add != NULL)
		made_add(made, change->add, &like, (int64_t[]) {2}, 1, zeros);
	return made_finish(made);
}

/* ---- Hugging Face's names, made by the rules of the table in keys/ ------------- */

static const char *const block_names[][2] = {
	{"attn.out_proj.weight", "self_attn.out_proj.weight"},
	{"attn.out_proj.bias", "self_attn.out_proj.bias"},
	{"ln_1.weight", "layer_norm1.weight"}, {"ln_1.bias", "layer_norm1.bias"},
	{"ln_2.weight", "layer_norm2.weight"}, {"ln_2.bias", "layer_norm2.bias"},
	{"mlp.c_fc.weight", "mlp.fc1.weight"}, {"mlp.c_fc.bias", "mlp.fc1.bias"},
	{"mlp.c_proj.weight", "mlp.fc2.weight"},
	{"mlp.c_proj.bias", "mlp.fc2.bias"}
};
static const char *const outer_names[][2] = {
	{"logit_scale", "logit_scale"},
	{"positional_embedding", "text_model.embeddings.position_embedding.weight"},
	{"token_embedding.weight", "text_model.embeddings.token_embedding.weight"},
	{"ln_final.weight", "text_model.final_layer_norm.weight"},
	{"ln_final.bias", "text_model.final_layer_norm.bias"},
	{"visual.class_embedding", "vision_model.embeddings.class_embedding"},
	{"visual.positional_embedding",
	"vision_model.embeddings.position_embedding.weight"},
	{"visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight"},
	{"visual.ln_pre.weight", "vision_model.pre_layrnorm.weight"},
	{"visual.ln_pre.bias", "vision_model.pre_layrnorm.bias"},
	{"visual.ln_post.weight", "vision_model.post_layernorm.weight"},
	{"visual.ln_post.bias", "vision_model.post_layernorm.bias"}
};

/* Queries, keys and values apart. */
static void
add_thirds(Made *made, const EngFileTensor *t, const char *start,
		   const char *what)
{
	int64_t		shape[2] = {t->shape[0] / 3, t->rank > 1 ? t->shape[1] : 1};
	int			i;

	for (i = 0; i < 3; i++)
	{
		char		name[160];

		snprintf(name, sizeof(name), "%sself_attn.%c_proj.%s", start,
				 "qkv"[i], what);
		made_add(made, name, t, shape, t->rank,
				 t->data + t->bytes / 3 * (size_t) i);
	}
}

static void
add_turned(Made *made, const EngFileTensor *t, const char *name)
{
	int64_t		shape[2] = {t->shape[1], t->shape[0]};
	const float *from = (const float *) t->data;
	float	   *turned = malloc(t->bytes);
	int64_t		r;
	int64_t		c;

	for (r = 0; r < t->shape[0]; r++)
		for (c = 0; c < t->shape[1]; c++)
			memcpy(&turned[c * t->shape[0] + r], &from[r * t->shape[1] + c],
				   sizeof(float));
	made_add(made, name, t, shape, 2, turned);
	free(turned);
}

static void
add_of_block(Made *made, const EngFileTensor *t, const char *at)
{
	char		start[100];
	char		name[160];
	const char *rest = strchr(at, '.');
	size_t		i;

	snprintf(start, sizeof(start), "%s_model.encoder.layers.%.*s.",
			 at - strlen("transformer.resblocks.") != t->name ? "vision" :
			 "text", (int) (rest - at), at);
	rest++;
	if (strcmp(rest, "attn.in_proj_weight") == 0)
		add_thirds(made, t, start, "weight");
	else if (strcmp(rest, "attn.in_proj_bias") == 0)
		add_thirds(made, t, start, "bias");
	for (i = 0; i < sizeof(block_names) / sizeof(block_names[0]); i++)
		if (strcmp(rest, block_names[i][0]) == 0)
		{
			snprintf(name, sizeof(name), "%s%s", start, block_names[i][1]);
			made_add(made, name, t, t->shape, t->rank, t->data);
		}
}

static EngBuffer
hugging_face(const EngTensorFile *file)
{
	static const char blocks[] = "transformer.resblocks.";
	static const int64_t positions[17];
	EngFileTensor like = {.dtype = ENG_FILE_I64};
	Made	   *made = made_start();
	int32_t		i;
	size_t		j;

	for (i = 0; i < file->count; i++)
	{
		const EngFileTensor *t = &file->tensors[i];
		const char *at = strstr(t->name, blocks);

		if (at != NULL)
			add_of_block(made, t, at + strlen(blocks));
		if (strcmp(t->name, "visual.proj") == 0)
			add_turned(made, t, "visual_projection.weight");
		if (strcmp(t->name, "text_projection") == 0)
			add_turned(made, t, "text_projection.weight");
		for (j = 0; j < sizeof(outer_names) / sizeof(outer_names[0]); j++)
			if (strcmp(t->name, outer_names[j][0]) == 0)
				made_add(made, outer_names[j][1], t, t->shape, t->rank,
						 t->data);
	}
	made_add(made, "vision_model.embeddings.position_ids", &like,
			 (int64_t[]) {1, 17}, 2, positions);
	return made_finish(made);
}

/* ---- tests ------------------------------------------------------------------------ */

/* Load bytes into a network of the same sizes; NULL: status says why. */
static EngClip *
load_into(const EngClipConfig *config, const EngBuffer *bytes,
		  EngStatus *status)
{
	EngClip    *clip = eng_clip_create(config, tap_backend(), 2, status);
	EngTensorFile *file = eng_tensor_file_open(bytes->data, bytes->size,
											   status);
	int32_t		unused;

	if (file == NULL || !eng_clip_load(clip, file, &unused, status))
	{
		eng_clip_free(clip);
		clip = NULL;
	}
	eng_tensor_file_free(file);
	return clip;
}

/* Both towers give what they gave before, to the bit or nearly. */
static void
check_same(const EngClipConfig *config, const EngBuffer *bytes,
		   float *const want[2], double least, const char *what)
{
	EngStatus	status = {0};
	EngClip    *clip = load_into(config, bytes, &status);
	float	   *got[2];
	int			i;

	if (clip == NULL)
	{
		tap_ok(false, "%s: %s", what, status.message);
		return;
	}
	for (i = 0; i < 2; i++)
		got[i] = ask(clip, &questions, 3, i);
	tap_ok(least == 1 ?
		   memcmp(got[0], want[0], sizeof(float) * 3 * config->dimensions) == 0 &&
		   memcmp(got[1], want[1], sizeof(float) * 3 * config->dimensions) == 0 :
		   least_cosine(got[0], want[0], 3, config->dimensions) > least &&
		   least_cosine(got[1], want[1], 3, config->dimensions) > least,
		   "%s", what);
	free(got[0]);
	free(got[1]);
	eng_clip_free(clip);
}

static void
check_refused(const EngClipConfig *config, const EngTensorFile *file,
			  const Change *change, const char *words)
{
	EngBuffer	bytes = changed(file, change);
	EngStatus	status = {0};
	EngClip    *clip = load_into(config, &bytes, &status);

	tap_ok(clip == NULL && status.code == ENG_BAD_FILE &&
		   strstr(status.message, words) != NULL, "%s: %s", change->name,
		   status.message);
	eng_clip_free(clip);
	eng_buffer_free(&bytes);
}

static void
test_changes(const EngClipConfig *config, const EngTensorFile *file,
			 float *const want[2])
{
	static const Change same[] = {
		{.name = "names of a wrapper", .prefix = "module."},
		{.name = "and of two", .prefix = "module._orig_mod."},
		{.name = "constants beside", .add = "input_resolution"},
		{.name = "an optimizer's tensor beside", .add = "optimizer.step"}
	};
	static const Change half = {.name = "half precision", .half = true};
	size_t		i;
	EngBuffer	bytes;

	for (i = 0; i < sizeof(same) / sizeof(same[0]); i++)
	{
		bytes = changed(file, &same[i]);
		check_same(config, &bytes, want, 1, same[i].name);
		eng_buffer_free(&bytes);
	}
	bytes = changed(file, &half);
	check_same(config, &bytes, want, 0.99999, half.name);
	eng_buffer_free(&bytes);
	check_refused(config, file, &(Change) {
				  .name = "a tensor is missing", .leave = "ln_final.bias"},
				  "1 missing: ln_final.bias");
	check_refused(config, file, &(Change) {
				  .name = "a tensor too many", .add = "visual.ln_mid.weight"},
				  "1 unexpected: visual.ln_mid.weight");
	check_refused(config, file, &(Change) {
				  .name = "another shape", .reshape = "positional_embedding"},
				  "positional_embedding is (20, 40), not (21, 40)");
	check_refused(config, file, &(Change) {
				  .name = "no image tower", .leave = "visual.conv1.weight"},
				  "no image tower of CLIP");
}

static void
test_hugging_face(const EngClipConfig *config, const EngTensorFile *file,
				  float *const want[2])
{
	EngBuffer	bytes = hugging_face(file);
	EngTensorFile *theirs;
	EngStatus	status = {0};

	check_same(config, &bytes, want, 1, "Hugging Face's names");
	theirs = eng_tensor_file_open(bytes.data, bytes.size, &status);
	tap_ok(theirs->count == file->count + 2 * 2 * 5 + 1,
		   "queries, keys and values were apart");
	check_refused(config, theirs, &(Change) {
				  .name = "keys are missing",
				  .leave = "text_model.encoder.layers.1.self_attn.k_proj.bias"},
				  "1 missing: text_model.encoder.layers.1.self_attn.k_proj.bias");
	check_refused(config, theirs, &(Change) {
				  .name = "a third of another shape",
				  .reshape = "vision_model.encoder.layers.0.self_attn.v_proj.bias"},
				  "v_proj.bias is (95), not (96)");
	eng_tensor_file_free(theirs);
	eng_buffer_free(&bytes);
}

/* PyTorch's file of the same tensors, as an export is. */
static void
test_pytorch(const EngClipConfig *config, const EngTensorFile *file,
			 float *const want[2])
{
	EngBuffer	pth = {0};
	EngBuffer	back = {0};
	EngStatus	status = {0};

	tap_ok(eng_pth_write(file, &pth, &status) &&
		   eng_pth_convert(pth.data, pth.size, &back, &status),
		   "to PyTorch's form and back %s", status.message);
	check_same(config, &back, want, 1, "the same network");
	eng_buffer_free(&pth);
	eng_buffer_free(&back);
}

int
main(void)
{
	EngClipConfig config = tiny;
	EngClip    *clip;
	EngBuffer	saved = {0};
	EngTensorFile *file;
	EngStatus	status = {0};
	float	   *want[2];

	/* a square projection hides that it is turned */
	config.dimensions = config.text.width;
	make_questions(&questions, &config);
	clip = make_clip(&config, tap_backend(), 2, ENG_F32);
	want[0] = ask(clip, &questions, 3, false);
	want[1] = ask(clip, &questions, 3, true);
	tap_ok(eng_clip_save(clip, &saved, &status), "save");
	file = eng_tensor_file_open(saved.data, saved.size, &status);
	tap_ok(file->count == 14 + 12 * 5, "all tensors of OpenAI's names");
	check_same(&config, &saved, want, 1, "what was saved gives the same");
	test_changes(&config, file, want);
	test_hugging_face(&config, file, want);
	test_pytorch(&config, file, want);
	eng_tensor_file_free(file);
	eng_buffer_free(&saved);
	free(want[0]);
	free(want[1]);
	free(questions.pixels);
	eng_clip_free(clip);
	return tap_done();
}
