/*
 * engine/core/parameters.c
 *		The registry of weights: names, shapes, places.
 */
#include "engine/core/parameters.h"

#include <stdlib.h>
#include <string.h>

#include "engine/core/arena.h"
#include "engine/core/random.h"

#define ALIGN_FLOATS	(ENG_ALIGN / (int64_t) sizeof(float))

int32_t
eng_parameters_find(const EngParameters *parameters, const char *name)
{
	int32_t		i;

	for (i = 0; i < parameters->count; i++)
		if (strcmp(parameters->list[i].name, name) == 0)
			return i;
	return -1;
}

static bool
grow(EngParameters *parameters, EngStatus *status)
{
	int32_t		capacity = parameters->capacity ? parameters->capacity * 2 : 64;
	EngParameter *list;

	list = realloc(parameters->list, capacity * sizeof(EngParameter));
	if (list == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	parameters->list = list;
	parameters->capacity = capacity;
	return true;
}

int32_t
eng_parameters_add(EngParameters *parameters, const EngParameter *template,
				   EngStatus *status)
{
	int32_t		index = eng_parameters_find(parameters, template->name);
	EngParameter *parameter;
	int			i;

	if (index >= 0)
	{
		parameter = &parameters->list[index];
		if (parameter->layout != template->layout ||
			parameter->rank != template->rank ||
			memcmp(parameter->shape, template->shape,
				   parameter->rank * sizeof(int64_t)) != 0)
		{
			eng_fail(status, ENG_INTERNAL,
					 "parameter \"%s\" is described with two shapes",
					 template->name);
			return -1;
		}
		return index;
	}
	if (parameters->laid_out)
	{
		eng_fail(status, ENG_INTERNAL, "parameter \"%s\" comes too late",
				 template->name);
		return -1;
	}
	if (parameters->count == parameters->capacity &&
		!grow(parameters, status))
		return -1;
	index = parameters->count++;
	parameter = &parameters->list[index];
	*parameter = *template;
	parameter->count = 1;
	for (i = 0; i < parameter->rank; i++)
		parameter->count *= parameter->shape[i];
	return index;
}

static int64_t
place(EngParameters *parameters, bool buffers, int64_t offset)
{
	int32_t		i;

	for (i = 0; i < parameters->count; i++)
	{
		EngParameter *parameter = &parameters->list[i];

		if (parameter->layout == ENG_LAYOUT_COUNTER ||
			parameter->is_buffer != buffers)
			continue;
		parameter->offset = offset;
		offset += (parameter->count + ALIGN_FLOATS - 1) /
			ALIGN_FLOATS * ALIGN_FLOATS;
	}
	return offset;
}

bool
eng_parameters_layout(EngParameters *parameters, bool train,
					  EngStatus *status)
{
	int32_t		i;

	parameters->trained = place(parameters, false, 0);
	parameters->total = place(parameters, true, parameters->trained);
	for (i = 0; i < parameters->count; i++)
		if (parameters->list[i].layout == ENG_LAYOUT_COUNTER)
			parameters->list[i].offset = parameters->counters++;
	parameters->values =
		eng_arena_alloc(parameters->total * sizeof(float));
	parameters->counter_values = calloc(parameters->counters + 1,
										sizeof(int64_t));
	if (train)
		parameters->gradients =
			eng_arena_alloc(parameters->trained * sizeof(float));
	parameters->run.values = parameters->values;
	parameters->run.gradients = parameters->gradients;
	parameters->laid_out = true;
	parameters->version = 1;
	if (parameters->values == NULL || parameters->counter_values == NULL ||
		(train && parameters->gradients == NULL))
		return eng_fail(status, ENG_NO_MEMORY,
						"out of memory for %lld parameters",
						(long long) parameters->total);
	return true;
}

bool
eng_parameters_slots(EngParameters *parameters, int count,
					 EngStatus *status)
{
	size_t		size = parameters->trained * sizeof(float);
	int			i;

	for (i = 0; i < 2; i++)
	{
		eng_arena_free(parameters->slots[i], size);
		parameters->slots[i] = NULL;
	}
	for (i = 0; i < count; i++)
	{
		parameters->slots[i] = eng_arena_alloc(size);
		if (parameters->slots[i] == NULL)
			return eng_fail(status, ENG_NO_MEMORY,
							"out of memory for the optimizer's state");
	}
	if (parameters->mirror == NULL)
		memcpy(parameters->run.slots, parameters->slots,
			   sizeof(parameters->slots));
	return true;
}

void
eng_parameters_free(EngParameters *parameters)
{
	(void) eng_parameters_slots(parameters, 0, NULL);
	eng_arena_free(parameters->values, parameters->total * sizeof(float));
	eng_arena_free(parameters->gradients,
				   parameters->trained * sizeof(float));
	free(parameters->counter_values);
	free(parameters->list);
	memset(parameters, 0, sizeof(*parameters));
}

static float
draw(const EngParameter *parameter, uint64_t seed, uint64_t key, int64_t i)
{
	switch (parameter->init)
	{
		case ENG_INIT_NORMAL:
			return parameter->init_scale *
				eng_random_normal(seed, 0, key, ENG_USE_INIT, (uint64_t) i);
		case ENG_INIT_UNIFORM:
			return parameter->init_scale *
				(2.0f * eng_random_uniform(seed, 0, key, ENG_USE_INIT,
										   (uint64_t) i) - 1.0f);
		case ENG_INIT_CONSTANT:
			break;
	}
	return parameter->init_scale;
}

/*
 * Index in our layout of the element at torch's flat index i.
 */
static int64_t
our_index(const EngParameter *parameter, int64_t i)
{
	int64_t		inner;
	int64_t		channels;
	int64_t		cells;

	switch (parameter->layout)
	{
		case ENG_LAYOUT_CONV:
			channels = parameter->shape[1];
			cells = parameter->shape[2] * parameter->shape[3];
			break;
		case ENG_LAYOUT_MAP_LINEAR:
			cells = (int64_t) parameter->map_size * parameter->map_size;
			channels = parameter->shape[1] / cells;
			break;
		case ENG_LAYOUT_TURNED:
			return i % parameter->shape[1] * parameter->shape[0] +
				i / parameter->shape[1];
		default:
			return i;
	}
	inner = i % (channels * cells);
	return i - inner + inner % cells * channels + inner / cells;
}

void
eng_parameters_init(EngParameters *parameters, uint64_t seed)
{
	int32_t		p;

	for (p = 0; p < parameters->count; p++)
	{
		const EngParameter *parameter = &parameters->list[p];
		uint64_t	key = eng_random_name(parameter->name);
		int64_t		i;

		if (parameter->layout == ENG_LAYOUT_COUNTER)
		{
			parameters->counter_values[parameter->offset] = 0;
			continue;
		}
#pragma omp parallel for schedule(static)
		for (i = 0; i < parameter->count; i++)
			parameters->values[parameter->offset + our_index(parameter, i)] =
				draw(parameter, seed, key, i);
	}
	parameters->version++;
}

void
eng_parameter_to_torch(const EngParameter *parameter, float *out,
					   const float *ours)
{
	int64_t		i;

	for (i = 0; i < parameter->count; i++)
		out[i] = ours[our_index(parameter, i)];
}

void
eng_parameter_from_torch(const EngParameter *parameter, float *ours,
						 const float *in)
{
	int64_t		i;

	for (i = 0; i < parameter->count; i++)
		ours[our_index(parameter, i)] = in[i];
}
