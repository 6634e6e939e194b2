/*
 * engine/nets/detector_weights.c
 *		Weights in and out of a detector.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/nets/detector_private.h"
#include "engine/optim/optimizer.h"

#define OPTIMIZER_PREFIX	"optimizer."
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

	if (array == NULL)
	{
		if (p->layout != ENG_LAYOUT_COUNTER || part != ENG_PART_VALUE)
			return false;
		*out = (float) detector->parameters.counter_values[p->offset];
		return true;
	}
	eng_parameter_to_torch(p, out, array);
	return true;
}

bool
eng_detector_parameter_write(EngDetector *detector, int32_t i,
							 EngParameterPart part, const float *in)
{
	const EngParameter *p = &detector->parameters.list[i];
	float	   *array = part_array(detector, p, part);

	if (array == NULL)
	{
		if (p->layout != ENG_LAYOUT_COUNTER || part != ENG_PART_VALUE)
			return false;
		detector->parameters.counter_values[p->offset] = (int64_t) *in;
		return true;
	}
	eng_parameter_from_torch(p, array, in);
	detector->parameters.version++;
	return true;
}

/* ---- load -------------------------------------------------------------------- */

/*
 * Name of old v1 files: without the ".0" that a later module added.
 */
static bool
old_name(char *out, size_t size, const char *name)
{
	static const char *const prefixes[] = {
		"rpn.head.conv.0.0.", "backbone.fpn.inner_blocks.",
		"backbone.fpn.layer_blocks."
	};
	int			i;

	for (i = 0; i < 3; i++)
	{
		size_t		length = strlen(prefixes[i]);

		if (strncmp(name, prefixes[i], length) != 0)
			continue;
		if (i == 0)
			snprintf(out, size, "rpn.head.conv.%s", name + length);
		else if (strlen(name) > length + 4)
			snprintf(out, size, "%s%c.%s", prefixes[i], name[length],
					 name + length + 4);
		else
			return false;
		return true;
	}
	return false;
}

static const EngFileTensor *
find_tensor(const EngTensorFile *file, const EngParameter *p)
{
	const EngFileTensor *tensor = eng_tensor_file_find(file, p->name);
	char		old[96];

	if (tensor == NULL && old_name(old, sizeof(old), p->name))
		tensor = eng_tensor_file_find(file, old);
	return tensor;
}

static bool
same_shape(const EngFileTensor *tensor, const EngParameter *p)
{
	return tensor->rank == p->rank &&
		memcmp(tensor->shape, p->shape, sizeof(int64_t) * p->rank) == 0;
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
	{
		if (tensor->dtype != ENG_FILE_I64)
			return eng_fail(status, ENG_BAD_FILE,
							"tensor \"%s\" is not of type I64", tensor->name);
		memcpy(&detector->parameters.counter_values[p->offset], tensor->data,
			   sizeof(int64_t));
		return true;
	}
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
load_parameter(EngDetector *detector, const EngTensorFile *file,
			   const EngParameter *p, EngLoadOptions *options,
			   EngStatus *status)
{
	const EngFileTensor *tensor = find_tensor(file, p);

	if (tensor == NULL && options->strict &&
		p->layout != ENG_LAYOUT_COUNTER)
		return eng_fail(status, ENG_BAD_FILE,
						"weights lack tensor \"%s\"", p->name);
	if (tensor != NULL && !same_shape(tensor, p))
	{
		if (options->strict)
			return eng_fail(status, ENG_BAD_FILE,
							"tensor \"%s\" of the weights has another shape than the network's",
							p->name);
		tensor = NULL;
	}
	if (tensor == NULL)
	{
		if (p->layout != ENG_LAYOUT_COUNTER)
			detector->load_names[options->new_count++] = p->name;
		return true;
	}
	if (!take_tensor(detector, p, part_array(detector, p, ENG_PART_VALUE),
					 tensor, status))
		return false;
	options->loaded++;
	return true;
}

/*
 * Whether a tensor of the file belongs to the network under any name.
 */
static bool
is_known(const EngDetector *detector, const EngFileTensor *tensor)
{
	const EngParameters *all = &detector->parameters;
	const char *end = strrchr(tensor->name, '.');
	char		old[96];
	int32_t		i;

	/* of frozen norms, which count nothing */
	if (end != NULL && strcmp(end, ".num_batches_tracked") == 0)
		return true;
	if (eng_parameters_find(all, tensor->name) >= 0)
		return true;
	for (i = 0; i < all->count; i++)
		if (old_name(old, sizeof(old), all->list[i].name) &&
			strcmp(old, tensor->name) == 0)
			return true;
	return false;
}

static bool
report_unused(EngDetector *detector, const EngTensorFile *file,
			  EngLoadOptions *options, EngStatus *status)
{
	const char **unused = detector->load_names + detector->parameters.count;
	int32_t		i;

	for (i = 0; i < file->count; i++)
	{
		const EngFileTensor *tensor = &file->tensors[i];

		if (strncmp(tensor->name, OPTIMIZER_PREFIX,
					strlen(OPTIMIZER_PREFIX)) == 0 ||
			is_known(detector, tensor))
			continue;
		if (options->strict)
			return eng_fail(status, ENG_BAD_FILE,
							"the network has no tensor \"%.200s\"",
							tensor->name);
		unused[options->unused_count++] = tensor->name;
	}
	options->unused_names = unused;
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
	if (tensor == NULL || !same_shape(tensor, p))
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
	return true;
}

bool
eng_detector_load(EngDetector *detector, const EngTensorFile *file,
				  EngLoadOptions *options, EngStatus *status)
{
	size_t		names = (size_t) detector->parameters.count + file->count + 1;
	int32_t		i;

	options->loaded = options->optimizer_loaded = 0;
	options->new_count = options->unused_count = 0;
	free(detector->load_names);
	detector->load_names = malloc(sizeof(char *) * names);
	if (detector->load_names == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	options->new_names = detector->load_names;
	detector->parameters.version++;
	for (i = 0; i < detector->parameters.count; i++)
		if (!load_parameter(detector, file, &detector->parameters.list[i],
							options, status))
			return false;
	if (!report_unused(detector, file, options, status))
		return false;
	detector->updates = 0;
	if (detector->has_optimizer &&
		!load_optimizer(detector, file, options, status))
		return false;
	return true;
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
	return slots == 0 || eng_tensor_writer_add(writer, &step, status);
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
		eng_tensor_writer_metadata(writer, "format", "pt", status) &&
		add_all(detector, writer, slots, status) &&
		eng_tensor_writer_finish(writer, out, status);
	if (ok)
		place_all(detector, writer, out, slots);
	eng_tensor_writer_free(writer);
	return ok;
}
