/*
 * engine/nets/clip.c
 *		The two towers of CLIP, as the papers describe them.
 *
 * A vision transformer on patches (Dosovitskiy et al. 2021) and a causal
 * transformer on tokens (Radford et al. 2019), both with the norm before each
 * branch; Radford et al. 2021.  Names of weights are OpenAI's, in the order of
 * its state dict within a tower.
 *
 * First values have the deviations of OpenAI's, drawn evenly: nobody trains
 * from them here, and 151 million normal numbers take their time.
 *
 * A branch's result waits to be added by the norm that follows it.  Only one
 * token of the last block is asked for: what comes behind its attention is
 * done for that one alone.
 */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/nets/clip_private.h"
#include "engine/ops/layers.h"

#define EPS		1e-5f

typedef struct Tower
{
	EngModel   *model;
	const EngClipTower *size;
	const char *prefix;			/* of its names */
	const char *final_norm;
	EngActivation activation;
	bool		causal;
	bool		all;			/* every token to the end */
	bool		float_start;	/* the first products are of floats */
	int32_t		ids;			/* tensor that tells the token, -1: first */
} Tower;

/* Shape and first values of a parameter. */
typedef struct Weight
{
	int32_t		rank;
	int64_t		shape[4];
	EngParameterLayout layout;
	EngInitRule init;
	float		scale;
} Weight;

static int32_t __attribute__((format(printf, 3, 4)))
add_weight(EngModel *model, const Weight *weight, const char *format,...)
{
	EngParameter parameter = {
		.layout = weight->layout, .rank = weight->rank, .body_stage = -1,
		.init = weight->init, .init_scale = weight->scale
	};
	va_list		arguments;

	va_start(arguments, format);
	vsnprintf(parameter.name, sizeof(parameter.name), format, arguments);
	va_end(arguments);
	memcpy(parameter.shape, weight->shape, sizeof(parameter.shape));
	return eng_parameters_add(model->parameters, &parameter, &model->status);
}

static Weight
vector(int64_t count, EngInitRule init, float scale)
{
	return (Weight) {
		.rank = 1, .shape = {count}, .init = init, .scale = scale
	};
}

/* Largest of numbers drawn evenly around 0 that have this deviation. */
static float
bound(double deviation)
{
	return (float) (sqrt(3) * deviation);
}

static Weight
matrix(int64_t rows, int64_t columns, double deviation)
{
	return (Weight) {
		.rank = 2, .shape = {rows, columns}, .init = ENG_INIT_UNIFORM,
		.scale = bound(deviation)
	};
}

/* ---- one block ------------------------------------------------------------ */

/* Names of a block's parts begin with this, of both towers. */
#define BLOCK	"%stransformer.resblocks.%d."

static int32_t
block_vector(const Tower *tower, int32_t layer, const char *name,
			 int64_t count, float value)
{
	Weight		weight = vector(count, ENG_INIT_CONSTANT, value);

	return add_weight(tower->model, &weight, BLOCK "%s", tower->prefix, layer,
					  name);
}

/* What is rounded first costs most (README): how far floats are multiplied. */
static bool
is_start(const Tower *tower, int32_t layer)
{
	return tower->float_start && layer == 0;
}

/* Tokens of `add` (-1: none) are added to *x; norm NAME of the block. */
static int32_t
block_norm(const Tower *tower, int32_t layer, const char *name, int32_t add,
		   int32_t *x)
{
	char		sum[24] = "";
	char		weight[16];
	char		bias[16];
	EngLayerNormSpec spec = {
		.name = "", .sum_name = sum, .eps = EPS, .add = add
	};

	/* the first norm adds what the block before has left */
	if (strcmp(name, "ln_1") == 0)
	{
		snprintf(sum, sizeof(sum), "block%d", layer);
		spec.full = is_start(tower, layer);
	}
	snprintf(weight, sizeof(weight), "%s.weight", name);
	snprintf(bias, sizeof(bias), "%s.bias", name);
	spec.weight = block_vector(tower, layer, weight, tower->size->width, 1);
	spec.bias = block_vector(tower, layer, bias, tower->size->width, 0);
	return eng_layer_layer_norm(tower->model, &spec, *x, x);
}

typedef struct Product
{
	const char *weight;
	const char *bias;
	int32_t		out;
	int32_t		in;
	double		deviation;
	EngActivation activation;
	bool		full;
} Product;

static int32_t
block_linear(const Tower *tower, int32_t layer, const Product *product,
			 int32_t input)
{
	Weight		weight = matrix(product->out, product->in,
								product->deviation);
	EngConvSpec spec = {
		.name = "", .label = product->weight, .channels = product->out,
		.by_cell = true, .full = product->full,
		.activation = product->activation
	};

	spec.weight = add_weight(tower->model, &weight, BLOCK "%s",
							 tower->prefix, layer, product->weight);
	spec.bias = block_vector(tower, layer, product->bias, product->out, 0);
	return eng_layer_linear(tower->model, &spec, input);
}

/*
 * x + attention(norm(x)), then x + mlp(norm(x)); what the second branch adds
 * is returned, and nothing has been added to *x yet.
 */
static int32_t
block(const Tower *tower, int32_t layer, int32_t add, int32_t *x)
{
	int32_t		width = tower->size->width;
	double		narrow = 1 / sqrt(width);
	double		deep = narrow / sqrt(2.0 * tower->size->layers);
	Product		qkv = {"attn.in_proj_weight", "attn.in_proj_bias",
		3 * width, width, narrow, ENG_ACTIVATION_NONE,
		is_start(tower, layer)};
	Product		join = {"attn.out_proj.weight", "attn.out_proj.bias",
		width, width, deep, ENG_ACTIVATION_NONE, true};
	Product		widen = {"mlp.c_fc.weight", "mlp.c_fc.bias",
		4 * width, width, narrow * M_SQRT1_2, tower->activation, false};
	Product		shrink = {"mlp.c_proj.weight", "mlp.c_proj.bias",
		width, 4 * width, deep, ENG_ACTIVATION_NONE, true};
	int32_t		t;

	t = block_norm(tower, layer, "ln_1", add, x);
	t = block_linear(tower, layer, &qkv, t);
	t = eng_layer_attention(tower->model, "attention", tower->size->heads,
							tower->causal, t);
	if (layer == tower->size->layers - 1 && !tower->all)
	{
		t = eng_layer_pick_tokens(tower->model, "picked", tower->ids, t);
		*x = eng_layer_pick_tokens(tower->model, "residual", tower->ids, *x);
	}
	t = block_linear(tower, layer, &join, t);
	t = block_norm(tower, layer, "ln_2", t, x);
	t = block_linear(tower, layer, &widen, t);
	return block_linear(tower, layer, &shrink, t);
}

/* ---- a tower ---------------------------------------------------------------- */

static int32_t
outer_norm(const Tower *tower, const char *name, const char *sum, int32_t add,
		   bool full, int32_t *x)
{
	Weight		ones = vector(tower->size->width, ENG_INIT_CONSTANT, 1);
	Weight		zeros = vector(tower->size->width, ENG_INIT_CONSTANT, 0);
	EngLayerNormSpec spec = {
		.name = name, .sum_name = sum, .eps = EPS, .add = add, .full = full
	};

	spec.weight = add_weight(tower->model, &ones, "%s%s.weight",
							 tower->prefix, name);
	spec.bias = add_weight(tower->model, &zeros, "%s%s.bias", tower->prefix,
						   name);
	return eng_layer_layer_norm(tower->model, &spec, *x, x);
}

/*
 * All blocks on x, the norm behind them, and of the one token that stands for
 * its entry the product with the projection.
 */
static void
finish_tower(const Tower *tower, int32_t x, const char *projection,
			 int32_t dimensions)
{
	Weight		weight = matrix(tower->size->width, dimensions,
								1 / sqrt(tower->size->width));
	EngConvSpec spec = {
		.name = "embedding", .label = projection, .bias = -1,
		.channels = dimensions, .by_cell = true, .full = true
	};
	char		sum[24];
	int32_t		add = -1;
	int32_t		layer;
	int32_t		t;

	for (layer = 0; layer < tower->size->layers; layer++)
		add = block(tower, layer, add, &x);
	snprintf(sum, sizeof(sum), "block%d", tower->size->layers);
	t = outer_norm(tower, tower->final_norm, sum, add, false, &x);
	if (tower->all)
		t = eng_layer_pick_tokens(tower->model, "picked", tower->ids, t);
	weight.layout = ENG_LAYOUT_TURNED;
	spec.weight = add_weight(tower->model, &weight, "%s", projection);
	(void) eng_layer_linear(tower->model, &spec, t);
}

/*
 * Patches come as rows of their pixels, (y, x, channel) as the weights lie.
 */
static void
image_tower(Tower *tower, const EngClipConfig *c)
{
	int32_t		width = tower->size->width;
	double		narrow = 1 / sqrt(width);
	int32_t		side = c->side / c->patch;
	Weight		patch = {
		.rank = 4, .shape = {width, 3, c->patch, c->patch},
		.layout = ENG_LAYOUT_CONV, .init = ENG_INIT_UNIFORM,
		.scale = bound(1 / sqrt(3.0 * c->patch * c->patch))
	};
	Weight		first = vector(width, ENG_INIT_UNIFORM, bound(narrow));
	Weight		position = matrix(1 + side * side, width, narrow);
	EngConvSpec spec = {
		.name = "patches", .label = "patches", .bias = -1,
		.channels = width, .by_cell = true, .full = true
	};
	int32_t		class;
	int32_t		positions;
	int32_t		x;

	tower->model->tensors[tower->model->input].full = tower->float_start;
	class = add_weight(tower->model, &first, "visual.class_embedding");
	positions = add_weight(tower->model, &position,
						   "visual.positional_embedding");
	spec.weight = add_weight(tower->model, &patch, "visual.conv1.weight");
	x = eng_layer_linear(tower->model, &spec, tower->model->input);
	x = eng_layer_join_tokens(tower->model, "tokens", class, positions, x);
	x = outer_norm(tower, "ln_pre", "", -1, true, &x);
	finish_tower(tower, x, "visual.proj", c->dimensions);
}

static void
text_tower(Tower *tower, const EngClipConfig *c)
{
	Weight		position = matrix(c->tokens, tower->size->width, 0.01);
	Weight		row = matrix(c->vocabulary, tower->size->width, 0.02);
	Weight		scale = {
		.rank = 0, .init = ENG_INIT_CONSTANT, .scale = logf(1 / 0.07f)
	};
	int32_t		positions;
	int32_t		table;
	int32_t		x;

	tower->ids = tower->model->input;
	tower->model->tensors[tower->ids].full = true;
	positions = add_weight(tower->model, &position, "positional_embedding");
	table = add_weight(tower->model, &row, "token_embedding.weight");
	/* what similarities are multiplied by in training: carried along */
	(void) add_weight(tower->model, &scale, "logit_scale");
	x = eng_layer_embed_tokens(tower->model, "tokens", table, positions,
							   tower->ids);
	finish_tower(tower, x, "text_projection", c->dimensions);
}

bool
eng_clip_describe(EngModel *model, const EngClipConfig *config,
				  EngClipSide side, bool all, bool float_start,
				  EngStatus *status)
{
	bool		is_image = side == ENG_CLIP_IMAGE;
	Tower		tower = {
		.model = model, .size = is_image ? &config->image : &config->text,
		.prefix = is_image ? "visual." : "",
		.final_norm = is_image ? "ln_post" : "ln_final",
		.activation = config->quick_gelu ? ENG_ACTIVATION_QUICK_GELU :
			ENG_ACTIVATION_GELU,
		.causal = !is_image, .all = all,
		.float_start = is_image && float_start, .ids = -1
	};

	model->input = eng_model_tensor(model, "input");
	if (is_image)
		image_tower(&tower, config);
	else
		text_tower(&tower, config);
	if (model->status.code != ENG_OK)
		return eng_fail(status, model->status.code, "%s",
						model->status.message);
	return true;
}
