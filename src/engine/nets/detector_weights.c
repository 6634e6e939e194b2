/*
 * engine/nets/detector_weights.c
 *		Weights in and out of a detector.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/mirror.h"
#include "engine/nets/detector_match.h"
#include "engine/nets/detector_private.h"
#include "engine/nets/group.h"
#include "engine/optim/optimizer.h"

#define OPTIMIZER_PREFIX	ENG_OPTIMIZER_PREFIX
#define OPTIMIZER_STEP		"optimizer.step"

/* ---- single parameters ----------------------------------------------------- */

int32_t
eng_detector_parameter_count(const EngDetector *detector)
{
	return detector->parameters.count;
}

void
eng_detector_parameter_info(const EngDetector *detector, int32_t i,
							EngParameterInfo *info)
{
	const EngParameter *p = &detector->parameters.list[i];

	memset(info, 0, sizeof(*info));
	info->name = p->name;
	info->rank = p->rank;
	memcpy(info->shape, p->shape, sizeof(info->shape));
	info->count = p->count;
	info->is_buffer = p->is_buffer;
	info->is_counter = p->layout == ENG_LAYOUT_COUNTER;
	info->is_trainable = p->trainable;
}

/*
 * Our array of a part of parameter p, or NULL.
 */
static float *
part_array(const EngDetector *detector, const EngParameter *p,
		   EngParameterPart part)
{
	const EngParameters *all = &detector->parameters;
	float	   *base = NULL;

	if (p->layout == ENG_LAYOUT_COUNTER)
		return NULL;
	if (part == ENG_PART_VALUE)
		return all->values + p->offset;
	if (p->is_buffer)
		return NULL;
	switch (part)
	{
		case ENG_PART_GRADIENT:
			base = all->gradients;
			break;
		case ENG_PART_SLOT0:
			base = all->slots[0];
			break;
		case ENG_PART_SLOT1:
			base = all->slots[1];
			break;
		case ENG_PART_VALUE:
			break;
	}
	return base == NULL ? NULL : base + p->offset;
}

bool
eng_detector_parameter_read(const EngDetector *detector, int32_t i,
							EngParameterPart part, float *out)
{
	const EngParameter *p = &detector->parameters.list[i];
	const float *array = part_array(detector, p, part);
	EngStatus	status = {ENG_OK, ""};

	if (!eng_mirror_to_host(&detector->parameters, &status))
		return false;
	if (array == NULL)
	{
		if (p->layout != ENG_LAYOUT_COUNTER || part != ENG_PART_VALUE)
			return false;
		*out = (float) detector->parameters.counter_values[p->offset];
		return true;
	}
	eng_parameter_to_torch(p, out, array);
	for (int64_t j = 0; part == ENG_PART_GRADIENT &&
		 detector->gradient_scale > 0 && j < p->count; j++)
		out[j] /= detector->gradient_scale;
	return true;
}

bool
eng_detector_parameter_write(EngDetector *detector, int32_t i,
							 EngParameterPart part, const float *in)
{
	const EngParameter *p = &detector->parameters.list[i];
	float	   *array = part_array(detector, p, part);
	EngStatus	status = {ENG_OK, ""};

	if (!eng_mirror_to_host(&detector->parameters, &status))
		return false;
	if (array == NULL)
	{
		if (p->layout != ENG_LAYOUT_COUNTER || part != ENG_PART_VALUE)
			return false;
		detector->parameters.counter_values[p->offset] = (int64_t) *in;
		eng_group_weights_changed(detector->group);
		return true;
	}
	eng_parameter_from_torch(p, array, in);
	detector->parameters.version++;
	eng_mirror_host_changed(&detector->parameters);
	eng_group_weights_changed(detector->group);
	return true;
}

/* ---- load -------------------------------------------------------------------- */

/*
 * A count as any type of number may hold it.
 */
static bool
take_counter(int64_t *counter, const EngFileTensor *tensor,
			 EngStatus *status)
{
	float		value = 0;

	if (tensor->dtype == ENG_FILE_I64)
	{
		memcpy(counter, tensor->data, sizeof(*counter));
		return true;
	}
	if (!eng_file_tensor_floats(tensor, &value, status))
		return false;
	if (!(value >= 0 && value < 0x1p62f))
		return eng_fail(status, ENG_BAD_FILE,
						"tensor \"%.96s\" is no count", tensor->name);
	*counter = (int64_t) value;
	return true;
}

/*
 * Copy a tensor of the file into an array of ours, or into a counter.
 */
static bool
take_tensor(EngDetector *detector, const EngParameter *p, float *array,
			const EngFileTensor *tensor, EngStatus *status)
{
	float	   *floats;
	bool		ok;

	if (p->layout == ENG_LAYOUT_COUNTER)
		return take_counter(&detector->parameters.counter_values[p->offset],
							tensor, status);
	floats = malloc(sizeof(float) * (p->count + 1));
	if (floats == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	ok = eng_file_tensor_floats(tensor, floats, status);
	if (ok)
		eng_parameter_from_torch(p, array, floats);
	free(floats);
	return ok;
}

static bool
take_tensors(EngDetector *detector, const EngMatch *match,
			 EngLoadOptions *options, EngStatus *status)
{
	const EngParameters *all = &detector->parameters;
	int32_t		i;

	detector->parameters.version++;
	for (i = 0; i < all->count; i++)
	{
		const EngParameter *p = &all->list[i];

		if (match->found[i] == NULL)
			continue;
		if (!take_tensor(detector, p, part_array(detector, p, ENG_PART_VALUE),
						 match->found[i], status))
			return false;
		options->loaded++;
	}
	return true;
}

static bool
load_slot(EngDetector *detector, const EngTensorFile *file,
		  const EngParameter *p, int slot, EngLoadOptions *options,
		  EngStatus *status)
{
	const EngFileTensor *tensor;
	char		name[160];

	snprintf(name, sizeof(name), OPTIMIZER_PREFIX "%s.%s",
			 eng_optimizer_slot_name(detector->optimizer.kind, slot),
			 p->name);
	tensor = eng_tensor_file_find(file, name);
	if (tensor == NULL || !eng_weights_match_shape(tensor, p))
		return true;
	if (!take_tensor(detector, p,
					 part_array(detector, p, ENG_PART_SLOT0 + slot), tensor,
					 status))
		return false;
	options->optimizer_loaded++;
	return true;
}

static bool
load_optimizer(EngDetector *detector, const EngTensorFile *file,
			   EngLoadOptions *options, EngStatus *status)
{
	const EngFileTensor *step = eng_tensor_file_find(file, OPTIMIZER_STEP);
	int			slots = eng_optimizer_slots(detector->optimizer.kind);
	int32_t		i;
	int			slot;

	for (i = 0; i < detector->parameters.count; i++)
		for (slot = 0; slot < slots; slot++)
			if (!detector->parameters.list[i].is_buffer &&
				!load_slot(detector, file, &detector->parameters.list[i],
						   slot, options, status))
				return false;
	if (step != NULL && step->dtype == ENG_FILE_I64 && step->count == 1 &&
		options->optimizer_loaded > 0)
		memcpy(&detector->updates, step->data, sizeof(int64_t));
	return options->optimizer_loaded == 0 ||
		eng_detector_load_scale(detector, file, status);
}

/*
 * Names for the caller, which stay until the next load.
 */
static bool
keep_names(EngDetector *detector, const EngMatch *match,
		   EngLoadOptions *options, EngStatus *status)
{
	size_t		count = (size_t) match->missing_count +
		match->misshapen_count + match->unexpected_count + 1;
	const char **names = malloc(sizeof(*names) * count);
	int32_t		i;

	if (names == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	free(detector->load_names);
	detector->load_names = names;
	options->new_names = names;
	options->new_count = match->missing_count + match->misshapen_count;
	for (i = 0; i < match->missing_count; i++)
		*names++ = match->missing[i];
	for (i = 0; i < match->misshapen_count; i++)
		*names++ = match->misshapen[i]->name;
	options->unused_names = names;
	options->unused_count = match->unexpected_count;
	for (i = 0; i < match->unexpected_count; i++)
		*names++ = match->unexpected[i];
	options->old_names = match->old_names;
	return true;
}

bool
eng_detector_load(EngDetector *detector, const EngTensorFile *file,
				  EngLoadOptions *options, EngStatus *status)
{
	EngMatch	match;
	bool		fine;

	options->loaded = options->optimizer_loaded = 0;
	options->new_count = options->unused_count = 0;
	fine = eng_weights_match(&match, &detector->parameters, file, options, status) &&
		keep_names(detector, &match, options, status) &&
		eng_mirror_to_host(&detector->parameters, status) &&
		take_tensors(detector, &match, options, status);
	eng_weights_match_free(&match);
	eng_mirror_host_changed(&detector->parameters);
	eng_group_weights_changed(detector->group);
	if (!fine)
		return false;
	detector->updates = 0;
	eng_detector_reset_scale(detector);
	return !detector->has_optimizer ||
		load_optimizer(detector, file, options, status);
}

/* ---- save -------------------------------------------------------------------- */

static bool
add_parameter(EngTensorWriter *writer, const EngParameter *p,
			  const char *name, EngStatus *status)
{
	EngFileTensor tensor = {.name = name, .rank = p->rank,
							.count = p->count};

	tensor.dtype = p->layout == ENG_LAYOUT_COUNTER ? ENG_FILE_I64 :
		ENG_FILE_F32;
	memcpy(tensor.shape, p->shape, sizeof(int64_t) * p->rank);
	return eng_tensor_writer_add(writer, &tensor, status);
}

static void
place_parameter(const EngDetector *detector, const EngParameter *p,
				EngParameterPart part, void *place)
{
	if (p->layout == ENG_LAYOUT_COUNTER)
		memcpy(place, &detector->parameters.counter_values[p->offset],
			   sizeof(int64_t));
	else
		eng_parameter_to_torch(p, place, part_array(detector, p, part));
}

static void
slot_name(char *out, size_t size, const EngDetector *detector,
		  const EngParameter *p, int slot)
{
	snprintf(out, size, OPTIMIZER_PREFIX "%s.%s",
			 eng_optimizer_slot_name(detector->optimizer.kind, slot),
			 p->name);
}

static bool
add_all(EngDetector *detector, EngTensorWriter *writer, int slots,
		EngStatus *status)
{
	const EngParameters *all = &detector->parameters;
	EngFileTensor step = {
		.name = OPTIMIZER_STEP, .dtype = ENG_FILE_I64, .count = 1,
		.data = (const uint8_t *) &detector->updates, .bytes = sizeof(int64_t)
	};
	char		name[160];
	int32_t		i;
	int			slot;

	for (i = 0; i < all->count; i++)
	{
		const EngParameter *p = &all->list[i];

		if (!add_parameter(writer, p, p->name, status))
			return false;
		for (slot = 0; slot < slots && !p->is_buffer; slot++)
		{
			slot_name(name, sizeof(name), detector, p, slot);
			if (!add_parameter(writer, p, name, status))
				return false;
		}
	}
	return slots == 0 ||
		(eng_tensor_writer_add(writer, &step, status) &&
		 eng_detector_save_scale(detector, writer, status));
}

static void
place_all(const EngDetector *detector, const EngTensorWriter *writer,
		  const EngBuffer *out, int slots)
{
	const EngParameters *all = &detector->parameters;
	char		name[160];
	int32_t		i;
	int			slot;

	for (i = 0; i < all->count; i++)
	{
		const EngParameter *p = &all->list[i];

		place_parameter(detector, p, ENG_PART_VALUE,
						eng_tensor_writer_place(writer, out, p->name));
		for (slot = 0; slot < slots && !p->is_buffer; slot++)
		{
			slot_name(name, sizeof(name), detector, p, slot);
			place_parameter(detector, p, ENG_PART_SLOT0 + slot,
							eng_tensor_writer_place(writer, out, name));
		}
	}
}

bool
eng_detector_save(EngDetector *detector, bool with_optimizer, EngBuffer *out,
				  EngStatus *status)
{
	EngTensorWriter *writer = eng_tensor_writer_create(status);
	int			slots = with_optimizer && detector->has_optimizer ?
		eng_optimizer_slots(detector->optimizer.kind) : 0;
	bool		ok;

	ok = writer != NULL &&
		(detector->group == NULL ||
		 eng_group_check_same(detector->group, status)) &&
		eng_mirror_to_host(&detector->parameters, status) &&
		eng_tensor_writer_metadata(writer, "format", "pt", status) &&
		add_all(detector, writer, slots, status) &&
		eng_tensor_writer_finish(writer, out, status);
	if (ok)
		place_all(detector, writer, out, slots);
	eng_tensor_writer_free(writer);
	return ok;
}
