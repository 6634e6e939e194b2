/*
 * engine/io/pickle_objects.c
 *		The names that a pickle may use, and what they make.
 *
 * Nothing is called: a name stands for one of a few rules below, each of
 * which checks the number and the types of its arguments.
 */
#include "engine/io/pickle_objects.h"

#include <stdlib.h>
#include <string.h>

typedef enum Rule
{
	RULE_STORAGE,				/* a class of storages; never called */
	RULE_ORDERED_DICT,
	RULE_TENSOR,
	RULE_PARAMETER,
	RULE_SIZE,
	RULE_OPAQUE					/* settings and counts beside the weights */
} Rule;

typedef struct Global
{
	const char *module;
	const char *name;
	Rule		rule;
	int			dtype;			/* of a storage */
} Global;

static const Global globals[] = {
	{"torch", "FloatStorage", RULE_STORAGE, ENG_FILE_F32},
	{"torch", "DoubleStorage", RULE_STORAGE, ENG_FILE_F64},
	{"torch", "HalfStorage", RULE_STORAGE, ENG_FILE_F16},
	{"torch", "BFloat16Storage", RULE_STORAGE, ENG_FILE_BF16},
	{"torch", "LongStorage", RULE_STORAGE, ENG_FILE_I64},
	{"torch", "IntStorage", RULE_STORAGE, ENG_FILE_I32},
	{"torch", "ShortStorage", RULE_STORAGE, ENG_FILE_I16},
	{"torch", "CharStorage", RULE_STORAGE, ENG_FILE_I8},
	{"torch", "ByteStorage", RULE_STORAGE, ENG_FILE_U8},
	{"torch", "BoolStorage", RULE_STORAGE, ENG_FILE_BOOL},
	{"collections", "OrderedDict", RULE_ORDERED_DICT, 0},
	{"torch._utils", "_rebuild_tensor_v2", RULE_TENSOR, 0},
	{"torch._utils", "_rebuild_parameter", RULE_PARAMETER, 0},
	{"torch", "Size", RULE_SIZE, 0},
	/* in checkpoints of torchvision's reference scripts: args, lr_scheduler */
	{"argparse", "Namespace", RULE_OPAQUE, 0},
	{"collections", "Counter", RULE_OPAQUE, 0}
};

#define GLOBALS ((int) (sizeof(globals) / sizeof(globals[0])))

int
eng_pickle_global_find(const char *module, const char *name)
{
	int			i;

	for (i = 0; i < GLOBALS; i++)
		if (strcmp(globals[i].module, module) == 0 &&
			strcmp(globals[i].name, name) == 0)
			return i;
	return -1;
}

const char *
eng_pickle_refusal(const char *module, const char *name)
{
	if (strncmp(module, "torch.nn.", 9) == 0 ||
		strncmp(module, "torchvision.", 12) == 0 ||
		strcmp(module, "__main__") == 0)
		return "a whole model was saved, not its state dict; save model.state_dict()";
	if (strcmp(module, "torch._utils") != 0)
		return "no plain state dict holds that";
	if (strcmp(name, "_rebuild_tensor_v3") == 0)
		return "a tensor is of float8 or an unsigned type, which no network here has";
	if (strcmp(name, "_rebuild_qtensor") == 0)
		return "quantized tensors are not read";
	if (strcmp(name, "_rebuild_sparse_tensor") == 0)
		return "sparse tensors are not read";
	return "no plain state dict holds that";
}

const char *
eng_pickle_storage_class(int dtype)
{
	int			i;

	for (i = 0; i < GLOBALS; i++)
		if (globals[i].rule == RULE_STORAGE && globals[i].dtype == dtype)
			return globals[i].name;
	return NULL;
}

static bool
call_fail(EngStatus *status, const char *what)
{
	return eng_fail(status, ENG_BAD_FILE, "pickle: wrong arguments of %s",
					what);
}

static bool
is_type(const EngPickleValue *tuple, size_t i, EngPickleType type)
{
	return i < tuple->count && tuple->items[i]->type == type;
}

/*
 * Share the items of a container: the result owns a copy of the list.
 */
static bool
copy_items(EngPickleValue *result, const EngPickleValue *from,
		   EngStatus *status)
{
	if (from->count == 0)
		return true;
	result->items = malloc(sizeof(*result->items) * from->count);
	if (result->items == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "could not allocate values");
	memcpy(result->items, from->items, sizeof(*result->items) * from->count);
	result->count = result->capacity = from->count;
	return true;
}

/*
 * OrderedDict(), or as Python 2 writes it, OrderedDict([[key, value], ...]).
 */
static bool
call_ordered_dict(EngPickleValue *result, const EngPickleValue *arguments,
				  EngStatus *status)
{
	const EngPickleValue *list;
	size_t		i;

	result->type = ENG_PICKLE_DICT;
	if (arguments->count == 0)
		return true;
	if (arguments->count != 1 || !is_type(arguments, 0, ENG_PICKLE_LIST))
		return call_fail(status, "OrderedDict");
	list = arguments->items[0];
	result->items = malloc(sizeof(*result->items) * (2 * list->count + 1));
	if (result->items == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "could not allocate values");
	result->capacity = 2 * list->count + 1;
	for (i = 0; i < list->count; i++)
	{
		const EngPickleValue *pair = list->items[i];

		if ((pair->type != ENG_PICKLE_LIST &&
			 pair->type != ENG_PICKLE_TUPLE) || pair->count != 2)
			return call_fail(status, "OrderedDict");
		result->items[result->count++] = pair->items[0];
		result->items[result->count++] = pair->items[1];
	}
	return true;
}

/*
 * A tuple of non-negative integers of at most as many as dimensions may be.
 */
static bool
read_sizes(const EngPickleValue *value, int64_t *sizes, int32_t *count,
		   EngStatus *status)
{
	size_t		i;

	if (value->type != ENG_PICKLE_TUPLE || value->count > ENG_FILE_MAX_RANK)
		return call_fail(status, "a tensor: size or stride");
	for (i = 0; i < value->count; i++)
	{
		if (!is_type(value, i, ENG_PICKLE_INTEGER) ||
			value->items[i]->integer < 0)
			return call_fail(status, "a tensor: size or stride");
		sizes[i] = value->items[i]->integer;
	}
	*count = (int32_t) value->count;
	return true;
}

/*
 * Every element must lie in the storage.
 */
static bool
check_extent(const EngPickleTensor *tensor, EngStatus *status)
{
	int64_t		last = tensor->offset;
	int64_t		count = 1;
	int32_t		i;

	for (i = 0; i < tensor->rank; i++)
		if (__builtin_mul_overflow(count, tensor->shape[i], &count))
			return eng_fail(status, ENG_BAD_FILE,
							"pickle: tensor has too many elements");
	if (count == 0)
		return true;
	for (i = 0; i < tensor->rank; i++)
	{
		int64_t		reach;

		if (__builtin_mul_overflow(tensor->shape[i] - 1, tensor->stride[i],
								   &reach) ||
			__builtin_add_overflow(last, reach, &last))
			return eng_fail(status, ENG_BAD_FILE,
							"pickle: tensor reaches too far");
	}
	if (last >= tensor->storage->count)
		return eng_fail(status, ENG_BAD_FILE,
						"pickle: tensor reaches beyond its storage");
	return true;
}

/*
 * _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)
 * and, in newer files, metadata.
 */
static bool
call_tensor(EngPickleValue *result, const EngPickleValue *arguments,
			EngStatus *status)
{
	EngPickleTensor *tensor;
	int32_t		strides;

	if (arguments->count < 6 || arguments->count > 7 ||
		!is_type(arguments, 0, ENG_PICKLE_STORAGE) ||
		!is_type(arguments, 1, ENG_PICKLE_INTEGER) ||
		arguments->items[1]->integer < 0 ||
		!is_type(arguments, 4, ENG_PICKLE_BOOLEAN) ||
		!is_type(arguments, 5, ENG_PICKLE_DICT) ||
		arguments->items[5]->count != 0)
		return call_fail(status, "a tensor");
	tensor = calloc(1, sizeof(*tensor));
	if (tensor == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "could not allocate a tensor");
	result->type = ENG_PICKLE_TENSOR;
	result->tensor = tensor;
	tensor->storage = &arguments->items[0]->storage;
	tensor->offset = arguments->items[1]->integer;
	if (!read_sizes(arguments->items[2], tensor->shape, &tensor->rank,
					status) ||
		!read_sizes(arguments->items[3], tensor->stride, &strides, status))
		return false;
	if (strides != tensor->rank)
		return call_fail(status, "a tensor: size or stride");
	return check_extent(tensor, status);
}

/*
 * _rebuild_parameter(tensor, requires_grad, hooks) is its tensor.
 */
static bool
call_parameter(EngPickleValue *result, const EngPickleValue *arguments,
			   EngStatus *status)
{
	if (arguments->count != 3 ||
		!is_type(arguments, 0, ENG_PICKLE_TENSOR) ||
		!is_type(arguments, 1, ENG_PICKLE_BOOLEAN) ||
		!is_type(arguments, 2, ENG_PICKLE_DICT))
		return call_fail(status, "a parameter");
	result->tensor = malloc(sizeof(*result->tensor));
	if (result->tensor == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "could not allocate a tensor");
	result->type = ENG_PICKLE_TENSOR;
	*result->tensor = *arguments->items[0]->tensor;
	return true;
}

/*
 * A Namespace of nothing yet, a Counter of a dict.
 */
static bool
call_opaque(EngPickleValue *result, const EngPickleValue *arguments,
			EngStatus *status)
{
	if (arguments->count > 1 || (arguments->count == 1 &&
								 !is_type(arguments, 0, ENG_PICKLE_DICT)))
		return call_fail(status, "an object");
	result->type = ENG_PICKLE_OPAQUE;
	return true;
}

bool
eng_pickle_new(EngPickleValue *result, int global,
			   const EngPickleValue *arguments, EngStatus *status)
{
	if (globals[global].rule != RULE_OPAQUE)
		return call_fail(status, "a new object");
	return call_opaque(result, arguments, status);
}

bool
eng_pickle_call(EngPickleValue *result, int global,
				const EngPickleValue *arguments, EngStatus *status)
{
	switch (globals[global].rule)
	{
		case RULE_ORDERED_DICT:
			return call_ordered_dict(result, arguments, status);
		case RULE_TENSOR:
			return call_tensor(result, arguments, status);
		case RULE_PARAMETER:
			return call_parameter(result, arguments, status);
		case RULE_SIZE:
			if (arguments->count != 1 ||
				!is_type(arguments, 0, ENG_PICKLE_TUPLE))
				return call_fail(status, "Size");
			result->type = ENG_PICKLE_TUPLE;
			return copy_items(result, arguments->items[0], status);
		case RULE_OPAQUE:
			return call_opaque(result, arguments, status);
		default:
			return call_fail(status, "a storage");
	}
}

/*
 * ('storage', class, key, location, elements) and, in old files, a view of
 * another storage, which must be None.
 */
bool
eng_pickle_storage(EngPickleValue *result, const EngPickleValue *id,
				   EngStatus *status)
{
	if (id->type != ENG_PICKLE_TUPLE || id->count < 5 || id->count > 6 ||
		!is_type(id, 0, ENG_PICKLE_STRING) ||
		strcmp(id->items[0]->text, "storage") != 0 ||
		!is_type(id, 1, ENG_PICKLE_GLOBAL) ||
		globals[id->items[1]->integer].rule != RULE_STORAGE ||
		!is_type(id, 2, ENG_PICKLE_STRING) ||
		!is_type(id, 3, ENG_PICKLE_STRING) ||
		!is_type(id, 4, ENG_PICKLE_INTEGER) || id->items[4]->integer < 0)
		return call_fail(status, "a persistent id");
	if (id->count == 6 && id->items[5]->type != ENG_PICKLE_NONE)
		return eng_fail(status, ENG_UNSUPPORTED,
						"pickle: storages that view another are not read");
	result->storage.dtype = globals[id->items[1]->integer].dtype;
	result->storage.key = id->items[2]->text;
	result->storage.count = id->items[4]->integer;
	return true;
}
