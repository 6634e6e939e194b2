/*
 * engine/nets/fpn.c
 *		The feature pyramid: every map gets the meaning of the deepest one.
 *
 * Lin et al. 2017.  Down from c5: 1x1 convolution, plus the upsampled map
 * above, then a 3x3 convolution; p6 is every second cell of p5.
 */
#include <math.h>
#include <stdio.h>

#include "engine/nets/nets.h"
#include "engine/ops/layers.h"

typedef struct PyramidConv
{
	int32_t		weight;
	int32_t		bias;
	EngNormParameters norm;
	int32_t		k;
} PyramidConv;

static PyramidConv
describe(EngModel *model, const EngDetectorConfig *config, const char *kind,
		 int32_t level, int32_t in, int32_t k)
{
	EngWeightSpec spec = {
		.out = config->fpn_channels, .in = in, .k = k, .body_stage = -1,
		.init = ENG_INIT_UNIFORM, .scale = sqrtf(3.0f / (float) (in * k * k))
	};
	PyramidConv conv = {.bias = -1, .k = k};
	char		prefix[60];
	char		norm[60];

	snprintf(prefix, sizeof(prefix), "backbone.fpn.%s.%d.0", kind,
			 (int) level);
	snprintf(norm, sizeof(norm), "backbone.fpn.%s.%d.1", kind, (int) level);
	spec.prefix = prefix;
	conv.weight = eng_net_conv_weight(model, &spec);
	if (config->fpn_norm)
		conv.norm = eng_net_norm(model, norm, spec.out, -1, ENG_NORM_BATCH,
								 ENG_NORM_EPS);
	else
		conv.bias = eng_net_bias(model, &spec, 0);
	return conv;
}

static int32_t
run(EngModel *model, const EngDetectorConfig *config, const PyramidConv *conv,
	int32_t input, const char *name)
{
	EngConvSpec spec = {
		.name = config->fpn_norm ? "" : name, .label = "fpn",
		.weight = conv->weight, .bias = conv->bias,
		.channels = config->fpn_channels, .k = conv->k, .stride = 1
	};
	EngNormSpec norm = {
		.name = name, .label = "fpn", .parameters = conv->norm, .add = -1
	};
	int32_t		x = eng_layer_conv(model, &spec, input);

	return config->fpn_norm ? eng_layer_norm(model, &norm, x) : x;
}

void
eng_fpn(EngModel *model, const EngDetectorConfig *config,
		const int32_t maps[ENG_BODY_STAGES], int32_t pyramid[ENG_RPN_LEVELS])
{
	static const char *const names[4] = {"p2", "p3", "p4", "p5"};
	PyramidConv inner[ENG_BODY_STAGES];
	PyramidConv layer[ENG_BODY_STAGES];
	int32_t		above = -1;
	int			i;

	for (i = 0; i < ENG_BODY_STAGES; i++)
		inner[i] = describe(model, config, "inner_blocks", i,
							eng_resnet_channels(config, i), 1);
	for (i = 0; i < ENG_BODY_STAGES; i++)
		layer[i] = describe(model, config, "layer_blocks", i,
							config->fpn_channels, 3);
	for (i = ENG_BODY_STAGES - 1; i >= 0; i--)
	{
		int32_t		x = run(model, config, &inner[i], maps[i], "");

		if (above >= 0)
			eng_layer_upsample_add(model, x, above);
		above = x;
		pyramid[i] = run(model, config, &layer[i], x, names[i]);
	}
	pyramid[4] = eng_layer_subsample(model, "p6", pyramid[3]);
}
