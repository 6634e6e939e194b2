/*
 * engine/nets/resnet.c
 *		The body: a residual network without its classifier.
 *
 * He, Zhang, Ren, Sun 2015, in torchvision's form (v1.5: a bottleneck's
 * stride is at its 3x3 convolution).
 *
 * What is rounded at the start goes through all the rest: three quarters of
 * the detections that bf16 loses or moves are due to the stem and the first
 * stage.  A full start keeps them float; the sum that ends the first stage is
 * rounded, and all behind it is bf16.  f16 has three bits more and needs none.
 */
#include <math.h>
#include <stdio.h>

#include "engine/nets/nets.h"
#include "engine/ops/layers.h"

typedef struct Body
{
	EngModel   *model;
	const EngDetectorConfig *config;
	int32_t		expansion;		/* of a bottleneck's output: 4, else 1 */
	bool		full;			/* this part is float in bf16, too */
} Body;

typedef struct ConvNorm
{
	int32_t		weight;
	EngNormParameters norm;
	int32_t		out;
	int32_t		k;
	int32_t		stride;
} ConvNorm;

typedef struct Block
{
	ConvNorm	convs[3];
	int32_t		conv_count;
	ConvNorm	downsample;
	bool		has_downsample;
} Block;

static ConvNorm
conv_norm(Body *body, const char *prefix, const char *conv, const char *norm,
		  EngWeightSpec spec, int32_t stride)
{
	ConvNorm	layer;
	char		name[80];

	snprintf(name, sizeof(name), "%s%s", prefix, conv);
	spec.prefix = name;
	spec.init = ENG_INIT_NORMAL;
	spec.scale = sqrtf(2.0f / (float) (spec.out * spec.k * spec.k));
	layer.weight = eng_net_conv_weight(body->model, &spec);
	snprintf(name, sizeof(name), "%s%s", prefix, norm);
	layer.norm = eng_net_norm(body->model, name, spec.out, spec.body_stage,
							  body->config->body_norm,
							  body->config->norm_eps);
	layer.out = spec.out;
	layer.k = spec.k;
	layer.stride = stride;
	return layer;
}

/* What is done behind a convolution's norm. */
typedef struct Ending
{
	const char *name;			/* of the tensor it makes */
	bool		relu;
	bool		round;			/* ends what is float in bf16, too */
	int32_t		add;			/* tensor added before the ReLU, -1: none */
} Ending;

static int32_t
run_conv_norm(Body *body, const ConvNorm *layer, int32_t input,
			  const Ending *ending)
{
	EngConvSpec conv = {
		.name = "", .label = "body", .weight = layer->weight, .bias = -1,
		.channels = layer->out, .k = layer->k, .stride = layer->stride,
		.full_in_bf16 = body->full
	};
	EngNormSpec norm = {
		.name = ending->name, .label = "body", .parameters = layer->norm,
		.relu = ending->relu, .add = ending->add,
		.full_in_bf16 = body->full && !ending->round
	};

	return eng_layer_norm(body->model, &norm,
						  eng_layer_conv(body->model, &conv, input));
}

/*
 * Register the weights of a block in torch's order.
 */
static Block
describe_block(Body *body, int32_t stage, int32_t index, int32_t in)
{
	int32_t		width = body->config->widths[stage - 1];
	int32_t		out = width * body->expansion;
	int32_t		stride = stage > 1 && index == 0 ? 2 : 1;
	EngWeightSpec spec = {.out = width, .in = in, .k = 3,
						  .body_stage = stage};
	Block		block;
	char		prefix[48];

	snprintf(prefix, sizeof(prefix), "backbone.body.layer%d.%d.",
			 (int) stage, (int) index);
	block.conv_count = body->expansion == 1 ? 2 : 3;
	if (body->expansion == 1)
	{
		block.convs[0] = conv_norm(body, prefix, "conv1", "bn1", spec, stride);
		spec.in = width;
		block.convs[1] = conv_norm(body, prefix, "conv2", "bn2", spec, 1);
	}
	else
	{
		spec.k = 1;
		block.convs[0] = conv_norm(body, prefix, "conv1", "bn1", spec, 1);
		spec.k = 3;
		spec.in = width;
		block.convs[1] = conv_norm(body, prefix, "conv2", "bn2", spec, stride);
		spec.k = 1;
		spec.out = out;
		block.convs[2] = conv_norm(body, prefix, "conv3", "bn3", spec, 1);
	}
	block.has_downsample = stride != 1 || in != out;
	if (block.has_downsample)
	{
		spec.k = 1;
		spec.in = in;
		spec.out = out;
		block.downsample = conv_norm(body, prefix, "downsample.0",
									 "downsample.1", spec, stride);
	}
	return block;
}

/* name: "" but for the last block of a stage, which rounds. */
static int32_t
run_block(Body *body, const Block *block, int32_t input, const char *name)
{
	static const Ending inner = {.name = "", .relu = true, .add = -1};
	static const Ending side = {.name = "", .add = -1};
	Ending		last = {
		.name = name, .relu = true, .round = name[0] != '\0', .add = input
	};
	int32_t		x = input;
	int			i;

	if (block->has_downsample)
		last.add = run_conv_norm(body, &block->downsample, input, &side);
	for (i = 0; i < block->conv_count - 1; i++)
		x = run_conv_norm(body, &block->convs[i], x, &inner);
	return run_conv_norm(body, &block->convs[i], x, &last);
}

int32_t
eng_resnet_channels(const EngDetectorConfig *config, int32_t stage)
{
	return config->widths[stage] * (config->body_layers >= 50 ? 4 : 1);
}

void
eng_resnet(EngModel *model, const EngDetectorConfig *config, bool full_start,
		   int32_t maps[ENG_BODY_STAGES])
{
	static const Ending opening = {.name = "", .relu = true, .add = -1};
	static const int32_t shallow[4] = {2, 2, 2, 2};
	static const int32_t deep[4] = {3, 4, 6, 3};
	static const char *const names[4] = {"c2", "c3", "c4", "c5"};
	const int32_t *blocks = config->body_layers == 18 ? shallow : deep;
	Body		body = {model, config, config->body_layers >= 50 ? 4 : 1,
	full_start};
	EngWeightSpec spec = {.out = config->widths[0], .in = 3, .k = 7};
	ConvNorm	stem;
	int32_t		channels = config->widths[0];
	int32_t		x;
	int32_t		stage;
	int32_t		i;

	stem = conv_norm(&body, "backbone.body.", "conv1", "bn1", spec, 2);
	if (model->status.code == ENG_OK)
		model->tensors[model->input].full_in_bf16 = full_start;
	x = run_conv_norm(&body, &stem, model->input, &opening);
	x = eng_layer_maxpool(model, "", x);
	for (stage = 1; stage <= ENG_BODY_STAGES; stage++)
	{
		body.full = full_start && stage == 1;
		for (i = 0; i < blocks[stage - 1]; i++)
		{
			Block		block = describe_block(&body, stage, i, channels);

			x = run_block(&body, &block, x,
						  i == blocks[stage - 1] - 1 ? names[stage - 1] : "");
			channels = block.convs[block.conv_count - 1].out;
		}
		maps[stage - 1] = x;
	}
}
