/*
 * test/emulated/cudnn_graph.c
 *		What descriptors must say before they are finalized, and which graphs
 *		are understood.
 *
 * Tensors are of four dimensions, channels together in memory.  A graph is a
 * convolution, forward with a sum, a bias and a ReLU behind it in this order,
 * all optional but for the bias where anything follows; what lies between
 * operations is virtual and float.
 */
#include "cudnn.h"

#include <string.h>

#define BAD(...)	emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM, __VA_ARGS__)
#define UNKNOWN(...) \
	emulated_cudnn_fail(CUDNN_STATUS_NOT_SUPPORTED_GRAPH_PATTERN, __VA_ARGS__)

static const int64_t *
numbers(const CudnnContents *contents, cudnnBackendAttributeName_t name,
		int64_t count)
{
	const CudnnAttribute *a = emulated_cudnn_find(contents, name);

	return a->count == count ? a->values : NULL;
}

static int
choice(const CudnnContents *contents, cudnnBackendAttributeName_t name)
{
	int			value;

	memcpy(&value, emulated_cudnn_find(contents, name)->values,
		   sizeof(value));
	return value;
}

static float
factor(const CudnnContents *contents, cudnnBackendAttributeName_t name)
{
	return *(const float *) emulated_cudnn_find(contents, name)->values;
}

static int64_t
type_size(cudnnDataType_t type)
{
	return type == CUDNN_DATA_FLOAT ? 4 : 2;
}

int64_t
emulated_cudnn_bytes(const CudnnTensor *t)
{
	return t->size[0] * t->size[1] * t->size[2] * t->size[3] *
		type_size(t->type);
}

/* ---- parts ---------------------------------------------------------------- */

static cudnnStatus_t
check_tensor(const CudnnContents *c)
{
	int			type = choice(c, CUDNN_ATTR_TENSOR_DATA_TYPE);
	const int64_t *size = numbers(c, CUDNN_ATTR_TENSOR_DIMENSIONS, 4);
	const int64_t *stride = numbers(c, CUDNN_ATTR_TENSOR_STRIDES, 4);
	int64_t		alignment = *numbers(c, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, 1);
	int			i;

	if (type != CUDNN_DATA_FLOAT && type != CUDNN_DATA_HALF &&
		type != CUDNN_DATA_BFLOAT16)
		return emulated_cudnn_fail(CUDNN_STATUS_NOT_SUPPORTED_DATA_TYPE,
								   "elements of type %d", type);
	if (size == NULL || stride == NULL)
		return BAD("a tensor of other than four dimensions");
	for (i = 0; i < 4; i++)
		if (size[i] < 1 || size[i] > INT32_MAX)
			return BAD("dimension %d of a tensor is %lld", i,
					   (long long) size[i]);
	if (alignment < type_size(type) || (alignment & (alignment - 1)) != 0)
		return BAD("an alignment of %lld", (long long) alignment);
	if (stride[1] != 1 || stride[3] != size[1] ||
		stride[2] != size[3] * stride[3] || stride[0] != size[2] * stride[2])
		return emulated_cudnn_fail(CUDNN_STATUS_NOT_SUPPORTED_LAYOUT,
								   "channels do not lie together");
	return CUDNN_STATUS_SUCCESS;
}

static CudnnTensor
read_tensor(const CudnnContents *c)
{
	const CudnnAttribute *hidden =
		emulated_cudnn_find(c, CUDNN_ATTR_TENSOR_IS_VIRTUAL);
	CudnnTensor t;

	t.id = *numbers(c, CUDNN_ATTR_TENSOR_UNIQUE_ID, 1);
	t.type = choice(c, CUDNN_ATTR_TENSOR_DATA_TYPE);
	memcpy(t.size, numbers(c, CUDNN_ATTR_TENSOR_DIMENSIONS, 4),
		   sizeof(t.size));
	t.alignment = *numbers(c, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, 1);
	t.is_virtual = hidden != NULL && *(const bool *) hidden->values;
	return t;
}

static cudnnStatus_t
check_convolution(const CudnnContents *c)
{
	const int64_t *dims = numbers(c, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, 1);
	const int64_t *stride = numbers(c, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, 2);
	const int64_t *before = numbers(c, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, 2);
	const int64_t *after = numbers(c, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, 2);
	const int64_t *dilation = numbers(c, CUDNN_ATTR_CONVOLUTION_DILATIONS, 2);
	int			i;

	if (choice(c, CUDNN_ATTR_CONVOLUTION_COMP_TYPE) != CUDNN_DATA_FLOAT)
		return emulated_cudnn_fail(CUDNN_STATUS_NOT_SUPPORTED_DATA_TYPE,
								   "sums in other than float");
	if (choice(c, CUDNN_ATTR_CONVOLUTION_CONV_MODE) != CUDNN_CROSS_CORRELATION)
		return emulated_cudnn_fail(CUDNN_STATUS_NOT_SUPPORTED,
								   "turned kernels are not emulated");
	if (*dims != 2 || stride == NULL || before == NULL || after == NULL ||
		dilation == NULL)
		return BAD("a convolution of other than two dimensions");
	for (i = 0; i < 2; i++)
		if (stride[i] < 1 || before[i] < 0 || after[i] != before[i] ||
			dilation[i] != 1)
			return BAD("strides, paddings or dilations");
	return CUDNN_STATUS_SUCCESS;
}

/* ---- operations ------------------------------------------------------------ */

typedef struct Names
{
	cudnnBackendDescriptorType_t type;
	cudnnBackendAttributeName_t convolution;
	cudnnBackendAttributeName_t alpha;
	cudnnBackendAttributeName_t beta;
	cudnnBackendAttributeName_t x;
	cudnnBackendAttributeName_t w;
	cudnnBackendAttributeName_t y;
} Names;

static const Names names[] = {
	{CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
		CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
		CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
		CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
		CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
		CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
	CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y},
	{CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
		CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
		CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
		CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA,
		CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
		CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
	CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY},
	{CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
		CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
		CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
		CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA,
		CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
		CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
	CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY}
};

/* The direction of a convolution; -1: another operation. */
static int
direction_of(const CudnnContents *operation)
{
	int			d;

	for (d = 0; d < 3; d++)
		if (names[d].type == operation->type)
			return d;
	return -1;
}

static cudnnStatus_t
read_operation(CudnnProblem *p, const CudnnContents *operation)
{
	int			d = direction_of(operation);
	const Names *n = &names[d];
	const CudnnContents *convolution =
		emulated_cudnn_find_contents(operation, n->convolution);
	int			i;

	memset(p, 0, sizeof(*p));
	p->direction = d;
	p->alpha = factor(operation, n->alpha);
	p->beta = factor(operation, n->beta);
	p->x = read_tensor(emulated_cudnn_find_contents(operation, n->x));
	p->w = read_tensor(emulated_cudnn_find_contents(operation, n->w));
	p->y = read_tensor(emulated_cudnn_find_contents(operation, n->y));
	memcpy(p->stride, numbers(convolution,
							  CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, 2),
		   sizeof(p->stride));
	memcpy(p->pad, numbers(convolution, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, 2),
		   sizeof(p->pad));
	if (p->x.size[0] != p->y.size[0] || p->x.size[1] != p->w.size[1] ||
		p->w.size[0] != p->y.size[1])
		return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH,
								   "numbers of pictures or channels differ");
	for (i = 0; i < 2; i++)
	{
		int64_t		room = p->x.size[2 + i] + 2 * p->pad[i] -
			p->w.size[2 + i];

		if (room < 0 || room / p->stride[i] + 1 != p->y.size[2 + i])
			return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH,
									   "sizes of the maps do not go together");
	}
	return CUDNN_STATUS_SUCCESS;
}

/* A sum or a ReLU; the result is as large as what goes in. */
static cudnnStatus_t
check_pointwise(const CudnnContents *operation)
{
	int			mode =
		choice(emulated_cudnn_find_contents(operation,
											CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR),
			   CUDNN_ATTR_POINTWISE_MODE);
	CudnnContents *other =
		emulated_cudnn_find_contents(operation,
									 CUDNN_ATTR_OPERATION_POINTWISE_BDESC);
	CudnnTensor x =
		read_tensor(emulated_cudnn_find_contents(operation,
												 CUDNN_ATTR_OPERATION_POINTWISE_XDESC));
	CudnnTensor y =
		read_tensor(emulated_cudnn_find_contents(operation,
												 CUDNN_ATTR_OPERATION_POINTWISE_YDESC));
	int			i;

	if (memcmp(x.size, y.size, sizeof(x.size)) != 0)
		return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH,
								   "a pointwise operation changes the size");
	if ((mode == CUDNN_POINTWISE_ADD) != (other != NULL))
		return BAD("pointwise operation %d with%s a second tensor", mode,
				   other == NULL ? "out" : "");
	if (other == NULL)
		return CUDNN_STATUS_SUCCESS;
	x = read_tensor(other);
	for (i = 0; i < 4; i++)
		if (x.size[i] != y.size[i] && x.size[i] != 1)
			return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH,
									   "what is added does not fit");
	return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t
check_pointwise_kind(const CudnnContents *c)
{
	int			mode = choice(c, CUDNN_ATTR_POINTWISE_MODE);

	if (mode != CUDNN_POINTWISE_ADD && mode != CUDNN_POINTWISE_RELU_FWD)
		return emulated_cudnn_fail(CUDNN_STATUS_NOT_SUPPORTED,
								   "pointwise operation %d is not emulated",
								   mode);
	if (choice(c, CUDNN_ATTR_POINTWISE_MATH_PREC) != CUDNN_DATA_FLOAT)
		return emulated_cudnn_fail(CUDNN_STATUS_NOT_SUPPORTED_DATA_TYPE,
								   "pointwise in other than float");
	return CUDNN_STATUS_SUCCESS;
}

/* ---- graphs ----------------------------------------------------------------- */

static bool
is_bias(const CudnnTensor *t, const CudnnTensor *y)
{
	return t->size[0] == 1 && t->size[1] == y->size[1] && t->size[2] == 1 &&
		t->size[3] == 1;
}

/* One more operation behind those that are in the problem. */
static cudnnStatus_t
append(CudnnProblem *p, const CudnnContents *operation)
{
	CudnnContents *other =
		emulated_cudnn_find_contents(operation,
									 CUDNN_ATTR_OPERATION_POINTWISE_BDESC);
	CudnnTensor x =
		read_tensor(emulated_cudnn_find_contents(operation,
												 CUDNN_ATTR_OPERATION_POINTWISE_XDESC));

	if (x.id != p->y.id || !p->y.is_virtual || p->y.type != CUDNN_DATA_FLOAT)
		return UNKNOWN("operations are not joined by a virtual float tensor");
	if (p->relu)
		return UNKNOWN("something follows the ReLU");
	p->y = read_tensor(emulated_cudnn_find_contents(operation,
													CUDNN_ATTR_OPERATION_POINTWISE_YDESC));
	if (other == NULL)
	{
		p->relu = true;
		return p->has_bias ? CUDNN_STATUS_SUCCESS :
			UNKNOWN("no engine has a ReLU without a bias");
	}
	x = read_tensor(other);
	if (is_bias(&x, &p->y) && !p->has_bias)
	{
		p->bias = x;
		p->has_bias = true;
		return CUDNN_STATUS_SUCCESS;
	}
	if (p->has_add || p->has_bias ||
		memcmp(x.size, p->y.size, sizeof(x.size)) != 0)
		return UNKNOWN("no engine adds like this");
	p->add = x;
	p->has_add = true;
	return CUDNN_STATUS_SUCCESS;
}

/* What the library's kernels want of a graph as a whole. */
static cudnnStatus_t
check_problem(const CudnnProblem *p)
{
	const CudnnTensor *all[5] = {&p->x, &p->w, &p->y, &p->bias, &p->add};
	bool		there[5] = {true, true, true, p->has_bias, p->has_add};
	int			i;
	int			j;

	for (i = 0; i < 5; i++)
	{
		if (!there[i])
			continue;
		if (all[i]->is_virtual)
			return UNKNOWN("a graph begins or ends in a virtual tensor");
		if (all[i]->type != p->x.type)
			return UNKNOWN("a tensor has another type than x");
		for (j = 0; j < i; j++)
			if (there[j] && all[j]->id == all[i]->id)
				return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM_DUPLICATED_ENTRIES,
										   "two tensors have one id");
	}
	if (p->has_add && !p->has_bias)
		return UNKNOWN("no engine has a sum without a bias");
	return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t
check_graph(CudnnContents *graph)
{
	const CudnnAttribute *ops =
		emulated_cudnn_find(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS);
	CudnnContents **list = ops->values;
	cudnnStatus_t status;
	int64_t		i;

	if (direction_of(list[0]) < 0)
		return UNKNOWN("a graph does not begin with a convolution");
	status = read_operation(&graph->problem, list[0]);
	if (status == CUDNN_STATUS_SUCCESS && ops->count > 1 &&
		(graph->problem.direction != CUDNN_FORWARD ||
		 graph->problem.beta != 0))
		status = UNKNOWN("something follows what is no plain forward");
	for (i = 1; status == CUDNN_STATUS_SUCCESS && i < ops->count; i++)
		status = direction_of(list[i]) >= 0 ?
			UNKNOWN("two convolutions in a graph") :
			append(&graph->problem, list[i]);
	return status == CUDNN_STATUS_SUCCESS ? check_problem(&graph->problem) :
		status;
}

static cudnnStatus_t
check_pack(const CudnnContents *pack)
{
	const CudnnAttribute *ids =
		emulated_cudnn_find(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
	const CudnnAttribute *pointers =
		emulated_cudnn_find(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);

	return ids->count == pointers->count ? CUDNN_STATUS_SUCCESS :
		BAD("a variant pack of %d ids and %d pointers", (int) ids->count,
			(int) pointers->count);
}

cudnnStatus_t
emulated_cudnn_check(CudnnContents *contents)
{
	CudnnProblem ignored;

	switch ((int) contents->type)
	{
		case CUDNN_BACKEND_TENSOR_DESCRIPTOR:
			return check_tensor(contents);
		case CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR:
			return check_convolution(contents);
		case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR:
		case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR:
		case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR:
			return read_operation(&ignored, contents);
		case CUDNN_BACKEND_POINTWISE_DESCRIPTOR:
			return check_pointwise_kind(contents);
		case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR:
			return check_pointwise(contents);
		case CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR:
			return check_graph(contents);
		case CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR:
			return emulated_cudnn_propose(contents);
		case CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR:
			return emulated_cudnn_plan(contents);
		case CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR:
			return check_pack(contents);
		case CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR:
			return *(const char *)
				emulated_cudnn_find(contents,
									CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION)->values == '{' ?
				CUDNN_STATUS_SUCCESS : BAD("no properties of a device");
		default:
			return emulated_cudnn_fail(CUDNN_STATUS_NOT_SUPPORTED,
									   "descriptors of type %d are filled, not finalized",
									   (int) contents->type);
	}
}
