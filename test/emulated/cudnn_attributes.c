/*
 * test/emulated/cudnn_attributes.c
 *		Descriptors as bags of attributes: what may be set, and what was.
 */
#include "cudnn.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIVE	0x6c697665
#define DEAD	0x64656164
#define BURIED	4096			/* destroyed grips that are still known */

/* What a caller holds. */
typedef struct Grip
{
	uint32_t	mark;
	CudnnContents *contents;
} Grip;

enum
{
	MUST = 1,					/* be set before the descriptor is finalized */
	GET = 2,					/* can be read when it is */
	NOT_SET = 4					/* follows from the others */
};

typedef struct Rule
{
	cudnnBackendDescriptorType_t descriptor;
	cudnnBackendAttributeName_t name;
	cudnnBackendAttributeType_t type;
	int64_t		least;			/* elements */
	int64_t		most;
	int			flags;
	cudnnBackendDescriptorType_t element;	/* of attributes of descriptors */
} Rule;

#define TENSOR		CUDNN_BACKEND_TENSOR_DESCRIPTOR
#define CONVOLUTION	CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR
#define FORWARD		CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR
#define DATA		CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR
#define FILTER		CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR
#define POINTWISE	CUDNN_BACKEND_POINTWISE_DESCRIPTOR
#define POINT_OP	CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR
#define GRAPH		CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR
#define HEURISTICS	CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR
#define ENGINE		CUDNN_BACKEND_ENGINE_DESCRIPTOR
#define CONFIG		CUDNN_BACKEND_ENGINECFG_DESCRIPTOR
#define PLAN		CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR
#define PACK		CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR
#define PROPERTIES	CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR
#define OTHERS		CUDNN_TYPE_BACKEND_DESCRIPTOR
#define ANY			((cudnnBackendDescriptorType_t) 999)	/* operation */

static const Rule rules[] = {
	{TENSOR, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, 1, MUST, 0},
	{TENSOR, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 1, 8, MUST, 0},
	{TENSOR, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 1, 8, MUST, 0},
	{TENSOR, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, 1, MUST, 0},
	{TENSOR, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, 1, MUST, 0},
	{TENSOR, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, 1, 0, 0},
	{CONVOLUTION, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, 1, MUST, 0},
	{CONVOLUTION, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, 1, MUST, 0},
	{CONVOLUTION, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, 1, MUST, 0},
	{CONVOLUTION, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 1, 6, MUST, 0},
	{CONVOLUTION, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 1, 6, MUST, 0},
	{CONVOLUTION, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 1, 6, MUST, 0},
	{CONVOLUTION, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 1, 6, MUST, 0},
	{FORWARD, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_TYPE_FLOAT, 1, 1, MUST, 0},
	{FORWARD, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, CUDNN_TYPE_FLOAT, 1, 1, MUST, 0},
	{FORWARD, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, OTHERS, 1, 1, MUST, CONVOLUTION},
	{FORWARD, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, OTHERS, 1, 1, MUST, TENSOR},
	{FORWARD, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, OTHERS, 1, 1, MUST, TENSOR},
	{FORWARD, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, OTHERS, 1, 1, MUST, TENSOR},
	{DATA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA, CUDNN_TYPE_FLOAT, 1, 1, MUST, 0},
	{DATA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA, CUDNN_TYPE_FLOAT, 1, 1, MUST, 0},
	{DATA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC, OTHERS, 1, 1, MUST, CONVOLUTION},
	{DATA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX, OTHERS, 1, 1, MUST, TENSOR},
	{DATA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W, OTHERS, 1, 1, MUST, TENSOR},
	{DATA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY, OTHERS, 1, 1, MUST, TENSOR},
	{FILTER, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA, CUDNN_TYPE_FLOAT, 1, 1, MUST, 0},
	{FILTER, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA, CUDNN_TYPE_FLOAT, 1, 1, MUST, 0},
	{FILTER, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC, OTHERS, 1, 1, MUST, CONVOLUTION},
	{FILTER, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X, OTHERS, 1, 1, MUST, TENSOR},
	{FILTER, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW, OTHERS, 1, 1, MUST, TENSOR},
	{FILTER, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY, OTHERS, 1, 1, MUST, TENSOR},
	{POINTWISE, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, 1, MUST, 0},
	{POINTWISE, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, 1, MUST, 0},
	{POINT_OP, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, OTHERS, 1, 1, MUST, POINTWISE},
	{POINT_OP, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, OTHERS, 1, 1, MUST, TENSOR},
	{POINT_OP, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, OTHERS, 1, 1, 0, TENSOR},
	{POINT_OP, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, OTHERS, 1, 1, MUST, TENSOR},
	{GRAPH, CUDNN_ATTR_OPERATIONGRAPH_OPS, OTHERS, 1, CUDNN_MOST_OPS, MUST, ANY},
	{GRAPH, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, 1, 0, 0},
	{HEURISTICS, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, OTHERS, 1, 1, MUST, GRAPH},
	{HEURISTICS, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, 1, MUST, 0},
	{HEURISTICS, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, OTHERS, 1, 1, 0, PROPERTIES},
	{HEURISTICS, CUDNN_ATTR_ENGINEHEUR_RESULTS, OTHERS, 1, 4096, GET | NOT_SET, CONFIG},
	{CONFIG, CUDNN_ATTR_ENGINECFG_ENGINE, OTHERS, 1, 1, MUST | GET, ENGINE},
	{ENGINE, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, OTHERS, 1, 1, MUST, GRAPH},
	{ENGINE, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, 1, MUST | GET, 0},
	{ENGINE, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, 0, 4096, GET | NOT_SET, 0},
	{ENGINE, CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE, CUDNN_TYPE_BEHAVIOR_NOTE, 0, 4096, GET | NOT_SET, 0},
	{PLAN, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, OTHERS, 1, 1, MUST, CONFIG},
	{PLAN, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, 1, 0, 0},
	{PLAN, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, OTHERS, 1, 1, 0, PROPERTIES},
	{PLAN, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, 1, GET | NOT_SET, 0},
	{PACK, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, 1, 64, MUST, 0},
	{PACK, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, 1, 64, MUST, 0},
	{PACK, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, 1, 0, 0},
	{PROPERTIES, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, 1, 1 << 20, MUST, 0}
};

#define RULES	((int) (sizeof(rules) / sizeof(rules[0])))

static __thread char last_error[512];
static Grip *buried[BURIED];
static unsigned burials;
static pthread_mutex_t burial = PTHREAD_MUTEX_INITIALIZER;

cudnnStatus_t
emulated_cudnn_fail(cudnnStatus_t status, const char *format,...)
{
	va_list		args;

	va_start(args, format);
	vsnprintf(last_error, sizeof(last_error), format, args);
	va_end(args);
	return status;
}

void
cudnnGetLastErrorString(char *message, size_t size)
{
	if (size > 0)
		snprintf(message, size, "%s", last_error);
}

const char *
cudnnGetErrorString(cudnnStatus_t status)
{
	switch (status / 1000)
	{
		case 0:
			return "CUDNN_STATUS_SUCCESS";
		case 1:
			return "CUDNN_STATUS_NOT_INITIALIZED";
		case 2:
			return "CUDNN_STATUS_BAD_PARAM";
		case 3:
			return "CUDNN_STATUS_NOT_SUPPORTED";
		case 4:
			return "CUDNN_STATUS_INTERNAL_ERROR";
		default:
			return "CUDNN_STATUS_EXECUTION_FAILED";
	}
}

/* ---- contents ------------------------------------------------------------- */

CudnnContents *
emulated_cudnn_new(cudnnBackendDescriptorType_t type)
{
	CudnnContents *contents = calloc(1, sizeof(CudnnContents));

	if (contents == NULL)
		abort();
	contents->type = type;
	contents->users = 1;
	return contents;
}

static CudnnContents *
use(CudnnContents *contents)
{
	__atomic_add_fetch(&contents->users, 1, __ATOMIC_ACQ_REL);
	return contents;
}

static void
drop_values(CudnnAttribute *attribute)
{
	CudnnContents **others = attribute->values;
	int64_t		i;

	if (attribute->type == OTHERS)
		for (i = 0; i < attribute->count; i++)
			emulated_cudnn_release(others[i]);
	free(attribute->values);
}

void
emulated_cudnn_release(CudnnContents *contents)
{
	int			i;

	if (__atomic_sub_fetch(&contents->users, 1, __ATOMIC_ACQ_REL) > 0)
		return;
	for (i = 0; i < contents->attribute_count; i++)
		drop_values(&contents->attributes[i]);
	memset(contents, 0x5a, sizeof(*contents));
	free(contents);
}

const CudnnAttribute *
emulated_cudnn_find(const CudnnContents *contents,
					cudnnBackendAttributeName_t name)
{
	int			i;

	for (i = 0; i < contents->attribute_count; i++)
		if (contents->attributes[i].name == name)
			return &contents->attributes[i];
	return NULL;
}

CudnnContents *
emulated_cudnn_find_contents(const CudnnContents *contents,
							 cudnnBackendAttributeName_t name)
{
	const CudnnAttribute *a = emulated_cudnn_find(contents, name);

	return a == NULL ? NULL : ((CudnnContents **) a->values)[0];
}

static size_t
element_size(cudnnBackendAttributeType_t type)
{
	switch (type)
	{
		case CUDNN_TYPE_HANDLE:
		case CUDNN_TYPE_VOID_PTR:
		case CUDNN_TYPE_BACKEND_DESCRIPTOR:
			return sizeof(void *);
		case CUDNN_TYPE_INT64:
			return sizeof(int64_t);
		case CUDNN_TYPE_BOOLEAN:
		case CUDNN_TYPE_CHAR:
			return 1;
		default:
			return 4;			/* enumerations and floats */
	}
}

void
emulated_cudnn_keep(CudnnContents *contents, cudnnBackendAttributeName_t name,
					cudnnBackendAttributeType_t type, int64_t count,
					const void *values)
{
	CudnnAttribute *a = (CudnnAttribute *) emulated_cudnn_find(contents, name);
	size_t		size = element_size(type) * count;
	int64_t		i;

	if (a != NULL)
		drop_values(a);
	else if (contents->attribute_count == CUDNN_MOST_ATTRIBUTES)
		abort();
	else
		a = &contents->attributes[contents->attribute_count++];
	a->name = name;
	a->type = type;
	a->count = count;
	a->values = malloc(size + 1);
	if (a->values == NULL)
		abort();
	if (size > 0)
		memcpy(a->values, values, size);
	if (type == OTHERS)
		for (i = 0; i < count; i++)
			use(((CudnnContents **) a->values)[i]);
}

/* ---- grips ------------------------------------------------------------------ */

CudnnContents *
emulated_cudnn_contents(cudnnBackendDescriptor_t descriptor)
{
	Grip	   *grip = descriptor;

	if (grip == NULL)
		return NULL;
	if (grip->mark == DEAD)
	{
		fprintf(stderr, "emulated cuDNN: a destroyed descriptor is used\n");
		abort();
	}
	if (grip->mark != LIVE)
	{
		fprintf(stderr, "emulated cuDNN: what is used is no descriptor\n");
		abort();
	}
	return grip->contents;
}

cudnnStatus_t
cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type,
							 cudnnBackendDescriptor_t *descriptor)
{
	Grip	   *grip;
	int			i;

	if (descriptor == NULL)
		return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM_NULL_POINTER,
								   "nowhere to put a descriptor");
	for (i = 0; i < RULES && rules[i].descriptor != type;)
		i++;
	if (i == RULES)
		return emulated_cudnn_fail(CUDNN_STATUS_NOT_SUPPORTED,
								   "descriptors of type %d are not emulated",
								   (int) type);
	grip = malloc(sizeof(Grip));
	if (grip == NULL)
		abort();
	grip->mark = LIVE;
	grip->contents = emulated_cudnn_new(type);
	*descriptor = grip;
	return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t
cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor)
{
	Grip	   *grip = descriptor;
	Grip	   *oldest;

	emulated_cudnn_release(emulated_cudnn_contents(descriptor));
	grip->contents = NULL;
	grip->mark = DEAD;
	pthread_mutex_lock(&burial);
	oldest = buried[burials % BURIED];
	buried[burials++ % BURIED] = grip;
	pthread_mutex_unlock(&burial);
	free(oldest);
	return CUDNN_STATUS_SUCCESS;
}

/* ---- rules ------------------------------------------------------------------ */

static const Rule *
find_rule(const CudnnContents *contents, cudnnBackendAttributeName_t name)
{
	int			i;

	for (i = 0; i < RULES; i++)
		if (rules[i].descriptor == contents->type && rules[i].name == name)
			return &rules[i];
	return NULL;
}

static bool
fits(const Rule *rule, const CudnnContents *contents)
{
	if (rule->element == ANY)
		return contents->type == FORWARD || contents->type == DATA ||
			contents->type == FILTER || contents->type == POINT_OP;
	return contents->type == rule->element;
}

/* Descriptors in an attribute: finalized, and of the right kind. */
static cudnnStatus_t
set_others(CudnnContents *contents, const Rule *rule, int64_t count,
		   const void *values)
{
	CudnnContents *others[64];
	int64_t		i;

	for (i = 0; i < count; i++)
	{
		others[i] = emulated_cudnn_contents(((Grip *const *) values)[i]);
		if (others[i] == NULL)
			return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM_NULL_POINTER,
									   "attribute %d of no descriptor",
									   (int) rule->name);
		if (!fits(rule, others[i]))
			return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM_DESCRIPTOR_TYPE,
									   "attribute %d is no descriptor of type %d",
									   (int) rule->name,
									   (int) others[i]->type);
		if (!others[i]->finalized)
			return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED,
									   "attribute %d is not finalized",
									   (int) rule->name);
	}
	emulated_cudnn_keep(contents, rule->name, rule->type, count, others);
	return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t
cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor,
						 cudnnBackendAttributeName_t name,
						 cudnnBackendAttributeType_t type, int64_t count,
						 const void *values)
{
	CudnnContents *contents = emulated_cudnn_contents(descriptor);
	const Rule *rule;

	if (contents == NULL || values == NULL)
		return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM_NULL_POINTER,
								   "attribute %d of or from nothing",
								   (int) name);
	if (contents->finalized)
		return emulated_cudnn_fail(CUDNN_STATUS_NOT_INITIALIZED,
								   "attribute %d after finalizing",
								   (int) name);
	rule = find_rule(contents, name);
	if (rule == NULL || (rule->flags & NOT_SET) != 0)
		return emulated_cudnn_fail(CUDNN_STATUS_NOT_SUPPORTED,
								   "a descriptor of type %d takes no attribute %d",
								   (int) contents->type, (int) name);
	if (rule->type != type)
		return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE,
								   "attribute %d of type %d", (int) name,
								   (int) type);
	if (count < rule->least || count > rule->most)
		return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM_OUT_OF_BOUND,
								   "%lld elements in attribute %d",
								   (long long) count, (int) name);
	if (type == OTHERS)
		return set_others(contents, rule, count, values);
	if (type == CUDNN_TYPE_HANDLE &&
		!emulated_cudnn_is_handle(*(const cudnnHandle_t *) values))
		return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM, "no handle");
	emulated_cudnn_keep(contents, name, type, count, values);
	return CUDNN_STATUS_SUCCESS;
}

/* Descriptors that the caller made are filled, once each. */
static cudnnStatus_t
give_others(const Rule *rule, const CudnnAttribute *attribute, int64_t room,
			int64_t *count, void *values)
{
	Grip	  **grips = values;
	int64_t		i;

	*count = attribute->count;
	for (i = 0; i < attribute->count && i < room; i++)
	{
		CudnnContents *old = emulated_cudnn_contents(grips[i]);

		if (old == NULL || old->type != rule->element || old->finalized)
			return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM,
									   "attribute %d needs fresh descriptors",
									   (int) rule->name);
		grips[i]->contents = use(((CudnnContents **) attribute->values)[i]);
		emulated_cudnn_release(old);
	}
	return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t
cudnnBackendGetAttribute(cudnnBackendDescriptor_t const descriptor,
						 cudnnBackendAttributeName_t name,
						 cudnnBackendAttributeType_t type, int64_t room,
						 int64_t *count, void *values)
{
	CudnnContents *contents = emulated_cudnn_contents(descriptor);
	const CudnnAttribute *attribute;
	const Rule *rule;
	int64_t		number;

	if (contents == NULL || (room > 0 && values == NULL))
		return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM_NULL_POINTER,
								   "attribute %d of or to nothing",
								   (int) name);
	if (!contents->finalized)
		return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED,
								   "attribute %d before finalizing",
								   (int) name);
	rule = find_rule(contents, name);
	if (rule == NULL || (rule->flags & GET) == 0)
		return emulated_cudnn_fail(CUDNN_STATUS_NOT_SUPPORTED,
								   "a descriptor of type %d gives no attribute %d",
								   (int) contents->type, (int) name);
	if (rule->type != type)
		return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE,
								   "attribute %d of type %d", (int) name,
								   (int) type);
	if (count == NULL)
		count = &number;
	attribute = emulated_cudnn_find(contents, name);
	if (attribute == NULL)
	{
		*count = 0;
		return CUDNN_STATUS_SUCCESS;
	}
	if (type == OTHERS)
		return give_others(rule, attribute, room, count, values);
	*count = attribute->count;
	if (attribute->count > 0 && room > 0)
		memcpy(values, attribute->values, element_size(type) *
			   (attribute->count < room ? attribute->count : room));
	return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t
cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor)
{
	CudnnContents *contents = emulated_cudnn_contents(descriptor);
	cudnnStatus_t status;
	int			i;

	if (contents == NULL)
		return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM_NULL_POINTER,
								   "nothing to finalize");
	if (contents->finalized)
		return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM,
								   "finalized a second time");
	for (i = 0; i < RULES; i++)
		if (rules[i].descriptor == contents->type &&
			(rules[i].flags & MUST) != 0 &&
			emulated_cudnn_find(contents, rules[i].name) == NULL)
			return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM,
									   "attribute %d is not set",
									   (int) rules[i].name);
	status = emulated_cudnn_check(contents);
	contents->finalized = status == CUDNN_STATUS_SUCCESS;
	return status;
}
