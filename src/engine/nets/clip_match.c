/*
 * engine/nets/clip_match.c
 *		A file of weights beside the CLIP network that it is for.
 *
 * Two schemes of names are in use: OpenAI's, which open_clip has too, and
 * that of Hugging Face, where queries, keys and values are tensors of their
 * own and the two projections lie turned.  Ours are OpenAI's.  Prefixes come
 * from wrappers (DistributedDataParallel, torch.compile, trainers).
 */
#include "engine/nets/clip_match.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/nets/misfit.h"

#define OPENAI_MARK			"visual.conv1.weight"
#define HUGGING_FACE_MARK	"vision_model.embeddings.patch_embedding.weight"

typedef struct Pair
{
	const char *ours;			/* start of OpenAI's name */
	const char *theirs;			/* what stands there for Hugging Face */
} Pair;

/* Whole names. */
static const Pair outer[] = {
	{"positional_embedding", "text_model.embeddings.position_embedding.weight"},
	{"token_embedding.weight", "text_model.embeddings.token_embedding.weight"},
	{"text_projection", "text_projection.weight"},
	{"ln_final.weight", "text_model.final_layer_norm.weight"},
	{"ln_final.bias", "text_model.final_layer_norm.bias"},
	{"visual.class_embedding", "vision_model.embeddings.class_embedding"},
	{"visual.positional_embedding",
	"vision_model.embeddings.position_embedding.weight"},
	{"visual.proj", "visual_projection.weight"},
	{OPENAI_MARK, HUGGING_FACE_MARK},
	{"visual.ln_pre.weight", "vision_model.pre_layrnorm.weight"},
	{"visual.ln_pre.bias", "vision_model.pre_layrnorm.bias"},
	{"visual.ln_post.weight", "vision_model.post_layernorm.weight"},
	{"visual.ln_post.bias", "vision_model.post_layernorm.bias"}
};

/* Within a block; %c: q, k or v. */
static const Pair inner[] = {
	{"attn.in_proj_weight", "self_attn.%c_proj.weight"},
	{"attn.in_proj_bias", "self_attn.%c_proj.bias"},
	{"attn.out_proj.weight", "self_attn.out_proj.weight"},
	{"attn.out_proj.bias", "self_attn.out_proj.bias"},
	{"ln_1.weight", "layer_norm1.weight"},
	{"ln_1.bias", "layer_norm1.bias"},
	{"ln_2.weight", "layer_norm2.weight"},
	{"ln_2.bias", "layer_norm2.bias"},
	{"mlp.c_fc.weight", "mlp.fc1.weight"},
	{"mlp.c_fc.bias", "mlp.fc1.bias"},
	{"mlp.c_proj.weight", "mlp.fc2.weight"},
	{"mlp.c_proj.bias", "mlp.fc2.bias"}
};

static const char *
lookup(const Pair *pairs, size_t count, const char *name)
{
	size_t		i;

	for (i = 0; i < count; i++)
		if (strcmp(pairs[i].ours, name) == 0)
			return pairs[i].theirs;
	return name;				/* logit_scale */
}

static bool
ends_with(const char *text, const char *end)
{
	size_t		length = strlen(text);

	return length >= strlen(end) &&
		strcmp(text + length - strlen(end), end) == 0;
}

/*
 * Names of a block's tensors: "REST" is what follows the layer's number.
 */
static void
block_source(EngClipSource *source, const char *prefix, bool vision,
			 int layer, const char *rest)
{
	const char *theirs = lookup(inner, sizeof(inner) / sizeof(inner[0]), rest);
	const char *letter = strstr(theirs, "%c");
	int			before = letter != NULL ? (int) (letter - theirs) :
		(int) strlen(theirs);
	int			i;

	source->parts = letter != NULL ? 3 : 1;
	for (i = 0; i < source->parts; i++)
		snprintf(source->names[i], ENG_CLIP_NAME,
				 "%s%s_model.encoder.layers.%d.%.*s%.1s%s", prefix,
				 vision ? "vision" : "text", layer, before, theirs,
				 letter != NULL ? &"qkv"[i] : "",
				 letter != NULL ? letter + 2 : "");
}

EngClipSource
eng_clip_source(const EngClipMatch *match, const char *name)
{
	static const char blocks[] = "transformer.resblocks.";
	EngClipSource source = {.parts = 1};
	const char *at = strstr(name, blocks);
	int			layer;
	int			length;

	if (!match->hugging_face)
		snprintf(source.names[0], ENG_CLIP_NAME, "%s%s", match->prefix, name);
	else if (at != NULL &&
			 sscanf(at + strlen(blocks), "%d.%n", &layer, &length) == 1)
		block_source(&source, match->prefix, at != name, layer,
					 at + strlen(blocks) + length);
	else
	{
		source.turned = strcmp(name, "text_projection") == 0 ||
			strcmp(name, "visual.proj") == 0;
		snprintf(source.names[0], ENG_CLIP_NAME, "%s%s", match->prefix,
				 lookup(outer, sizeof(outer) / sizeof(outer[0]), name));
	}
	return source;
}

/*
 * The scheme and the prefix, from the one tensor that tells.
 */
static bool
find_scheme(EngClipMatch *match, EngStatus *status)
{
	int32_t		i;

	for (i = 0; i < match->file->count; i++)
	{
		const char *name = match->file->tensors[i].name;
		bool		hugging_face = ends_with(name, HUGGING_FACE_MARK);
		const char *mark = hugging_face ? HUGGING_FACE_MARK : OPENAI_MARK;
		size_t		before = strlen(name) - strlen(mark);

		if (!ends_with(name, mark) || before >= sizeof(match->prefix))
			continue;
		match->hugging_face = hugging_face;
		memcpy(match->prefix, name, before);
		match->prefix[before] = '\0';
		return true;
	}
	return eng_fail(status, ENG_BAD_FILE,
					"file holds no image tower of CLIP: neither \"" OPENAI_MARK "\" nor \"" HUGGING_FACE_MARK "\" is among its %d tensors",
					match->file->count);
}

/*
 * Tensors that a file may have beside a network's: constants, masks and the
 * state of what trained it.
 */
static bool
is_beside(const EngClipMatch *match, const char *name)
{
	static const char *const known[] = {
		"input_resolution", "context_length", "vocab_size", "attn_mask",
		"text_model.embeddings.position_ids",
		"vision_model.embeddings.position_ids"
	};
	size_t		bare = strlen(match->prefix);
	size_t		i;

	if (strncmp(name, "optimizer.", 10) == 0 ||
		strcmp(name, "n_averaged") == 0)
		return true;
	if (strncmp(name, match->prefix, bare) != 0)
		return false;
	for (i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (strcmp(name + bare, known[i]) == 0)
			return true;
	return false;
}

/* Shape of one part of a parameter in the file. */
static int32_t
part_shape(int64_t shape[4], const EngParameter *p,
		   const EngClipSource *source)
{
	memcpy(shape, p->shape, sizeof(p->shape));
	if (source->turned)
	{
		shape[0] = p->shape[1];
		shape[1] = p->shape[0];
	}
	shape[0] /= source->parts;
	return p->rank;
}

static bool
fits(const EngFileTensor *tensor, const int64_t *shape, int32_t rank)
{
	if (rank == 0)
		return tensor->count == 1;
	return tensor->rank == rank &&
		memcmp(tensor->shape, shape, sizeof(int64_t) * rank) == 0;
}

static void
match_parameter(EngClipMatch *match, int32_t index, EngMisfits *misfits)
{
	const EngParameter *p = &match->parameters->list[index];
	EngClipSource source = eng_clip_source(match, p->name);
	int64_t		shape[4];
	int32_t		rank = part_shape(shape, p, &source);
	int32_t		i;

	for (i = 0; i < source.parts; i++)
	{
		const EngFileTensor *tensor = eng_tensor_file_find(match->file,
														   source.names[i]);

		if (tensor == NULL)
		{
			eng_misfit_name(misfits, ENG_MISFIT_MISSING, source.names[i]);
			continue;
		}
		match->used[tensor - match->file->tensors] = true;
		if (fits(tensor, shape, rank))
			match->found[index * ENG_CLIP_PARTS + i] = tensor;
		else
			eng_misfit_shape(misfits, source.names[i],
							 (EngMisfitShape) {tensor->shape, tensor->rank},
							 (EngMisfitShape) {shape, rank});
	}
}

bool
eng_clip_match(EngClipMatch *match, const EngParameters *parameters,
			   const EngTensorFile *file, EngStatus *status)
{
	EngMisfits	misfits = {{0}};
	int32_t		i;

	memset(match, 0, sizeof(*match));
	match->parameters = parameters;
	match->file = file;
	match->found = calloc((size_t) parameters->count * ENG_CLIP_PARTS + 1,
						  sizeof(*match->found));
	match->used = calloc((size_t) file->count + 1, sizeof(*match->used));
	if (match->found == NULL || match->used == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	if (!find_scheme(match, status))
		return false;
	for (i = 0; i < parameters->count; i++)
		match_parameter(match, i, &misfits);
	for (i = 0; i < file->count; i++)
	{
		if (match->used[i])
			continue;
		match->unused++;
		if (!is_beside(match, file->tensors[i].name))
			eng_misfit_name(&misfits, ENG_MISFIT_UNEXPECTED,
							file->tensors[i].name);
	}
	return eng_misfit_report(&misfits, "", status);
}

void
eng_clip_match_free(EngClipMatch *match)
{
	free(match->found);
	free(match->used);
}
