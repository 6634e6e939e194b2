/*
 * engine/nets/weights.c
 *		Registering weights under torch's names.
 */
#include <stdio.h>
#include <string.h>

#include "engine/nets/nets.h"

static int32_t
add(EngModel *model, EngParameter *parameter)
{
	parameter->trainable = !parameter->is_buffer;
	return eng_parameters_add(model->parameters, parameter, &model->status);
}

static EngParameter
template_for(const char *prefix, const char *suffix)
{
	EngParameter parameter;

	memset(&parameter, 0, sizeof(parameter));
	snprintf(parameter.name, sizeof(parameter.name), "%s.%s", prefix, suffix);
	parameter.body_stage = -1;
	return parameter;
}

int32_t
eng_net_conv_weight(EngModel *model, const EngWeightSpec *spec)
{
	EngParameter parameter = template_for(spec->prefix, "weight");

	parameter.layout = ENG_LAYOUT_CONV;
	parameter.rank = 4;
	parameter.shape[0] = spec->out;
	parameter.shape[1] = spec->in;
	parameter.shape[2] = parameter.shape[3] = spec->k;
	parameter.body_stage = spec->body_stage;
	parameter.init = spec->init;
	parameter.init_scale = spec->scale;
	return add(model, &parameter);
}

int32_t
eng_net_linear_weight(EngModel *model, const EngWeightSpec *spec)
{
	EngParameter parameter = template_for(spec->prefix, "weight");

	parameter.layout = spec->map_size > 0 ? ENG_LAYOUT_MAP_LINEAR :
		ENG_LAYOUT_PLAIN;
	parameter.map_size = spec->map_size;
	parameter.rank = 2;
	parameter.shape[0] = spec->out;
	parameter.shape[1] = spec->in;
	parameter.body_stage = spec->body_stage;
	parameter.init = spec->init;
	parameter.init_scale = spec->scale;
	return add(model, &parameter);
}

int32_t
eng_net_bias(EngModel *model, const EngWeightSpec *spec, float bound)
{
	EngParameter parameter = template_for(spec->prefix, "bias");

	parameter.rank = 1;
	parameter.shape[0] = spec->out;
	parameter.body_stage = spec->body_stage;
	parameter.init = bound > 0 ? ENG_INIT_UNIFORM : ENG_INIT_CONSTANT;
	parameter.init_scale = bound;
	return add(model, &parameter);
}

static int32_t
norm_vector(EngModel *model, const EngParameter *like, const char *prefix,
			const char *suffix, float value)
{
	EngParameter parameter = template_for(prefix, suffix);

	parameter.rank = 1;
	parameter.shape[0] = like->shape[0];
	parameter.body_stage = like->body_stage;
	parameter.is_norm = true;
	parameter.is_buffer = like->is_buffer ||
		strncmp(suffix, "running", 7) == 0;
	parameter.init_scale = value;
	return add(model, &parameter);
}

EngNormParameters
eng_net_norm(EngModel *model, const char *prefix, int32_t channels,
			 int32_t body_stage, EngNormKind kind, float eps)
{
	EngNormParameters norm;
	EngParameter like;

	memset(&like, 0, sizeof(like));
	like.shape[0] = channels;
	like.body_stage = body_stage;
	like.is_buffer = kind == ENG_NORM_FROZEN;
	norm.weight = norm_vector(model, &like, prefix, "weight", 1);
	norm.bias = norm_vector(model, &like, prefix, "bias", 0);
	norm.running_mean = norm_vector(model, &like, prefix, "running_mean", 0);
	norm.running_var = norm_vector(model, &like, prefix, "running_var", 1);
	norm.counter = -1;
	norm.eps = eps;
	if (kind == ENG_NORM_BATCH)
	{
		EngParameter counter = template_for(prefix, "num_batches_tracked");

		counter.layout = ENG_LAYOUT_COUNTER;
		counter.is_buffer = true;
		norm.counter = add(model, &counter);
	}
	return norm;
}
