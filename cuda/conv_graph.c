/*
 * cuda/conv_graph.c
 *		A convolution and what follows it, as cuDNN is told of it.
 */
#include "cuda/conv_graph.h"

#include <string.h>

/* Names of tensors: those that have places, then those between operations. */
#define FIRST_ID		1
#define FIRST_BETWEEN	11

int64_t
eng_conv_tensor_id(int tensor)
{
	return FIRST_ID + tensor;
}

void
eng_conv_graph_free(EngConvGraph *g)
{
	int			i;

	eng_cudnn_destroy(g->graph);
	for (i = 0; i < 4; i++)
		eng_cudnn_destroy(g->operation[i]);
	for (i = 0; i < 2; i++)
		eng_cudnn_destroy(g->pointwise[i]);
	eng_cudnn_destroy(g->convolution);
	for (i = 0; i < 3; i++)
		eng_cudnn_destroy(g->between[i]);
	for (i = 0; i < ENG_CONV_TENSORS; i++)
		eng_cudnn_destroy(g->tensor[i]);
}

/* ---- tensors -------------------------------------------------------------- */

static cudnnDataType_t
data_type(EngType type)
{
	return type == ENG_BF16 ? CUDNN_DATA_BFLOAT16 :
		type == ENG_F16 ? CUDNN_DATA_HALF : CUDNN_DATA_FLOAT;
}

/* (n, c, h, w) whose channels lie together; NULL type: between operations */
static bool
make_tensor(cudnnBackendDescriptor_t *tensor, int64_t id,
			const EngType *type, const int64_t sizes[4], EngStatus *status)
{
	cudnnDataType_t data = type == NULL ? CUDNN_DATA_FLOAT : data_type(*type);
	int64_t		alignment = 16;
	int64_t		strides[4];
	bool		inside = type == NULL;

	strides[1] = 1;
	strides[3] = sizes[1];
	strides[2] = sizes[3] * strides[3];
	strides[0] = sizes[2] * strides[2];
	return eng_cudnn_create(tensor, CUDNN_BACKEND_TENSOR_DESCRIPTOR,
							status) &&
		eng_cudnn_set(*tensor, CUDNN_ATTR_TENSOR_DATA_TYPE,
					  CUDNN_TYPE_DATA_TYPE, 1, &data, status) &&
		eng_cudnn_set(*tensor, CUDNN_ATTR_TENSOR_DIMENSIONS,
					  CUDNN_TYPE_INT64, 4, sizes, status) &&
		eng_cudnn_set(*tensor, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64,
					  4, strides, status) &&
		eng_cudnn_set(*tensor, CUDNN_ATTR_TENSOR_UNIQUE_ID,
					  CUDNN_TYPE_INT64, 1, &id, status) &&
		eng_cudnn_set(*tensor, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT,
					  CUDNN_TYPE_INT64, 1, &alignment, status) &&
		(!inside ||
		 eng_cudnn_set(*tensor, CUDNN_ATTR_TENSOR_IS_VIRTUAL,
					   CUDNN_TYPE_BOOLEAN, 1, &inside, status)) &&
		eng_cudnn_finalize(*tensor, status);
}

static bool
make_tensors(EngConvGraph *g, const EngConvShape *s, const EngConvWork *work,
			 EngStatus *status)
{
	const int64_t sizes[ENG_CONV_TENSORS][4] = {
		{s->n, s->c, s->h, s->w},
		{s->oc, s->c, s->k, s->k},
		{s->n, s->oc, s->oh, s->ow},
		{s->n, s->oc, s->oh, s->ow},
		{1, s->oc, 1, 1}
	};
	bool		there[ENG_CONV_TENSORS] = {true, true, true, work->sum,
	work->bias};
	int64_t		inner = (int64_t) work->sum + work->bias + work->relu;
	int64_t		i;

	for (i = 0; i < ENG_CONV_TENSORS; i++)
		if (there[i] &&
			!make_tensor(&g->tensor[i], eng_conv_tensor_id(i), &s->x_type,
						 sizes[i], status))
			return false;
	for (i = 0; i < inner; i++)
		if (!make_tensor(&g->between[i], FIRST_BETWEEN + i, NULL, sizes[2],
						 status))
			return false;
	return true;
}

/* ---- the convolution -------------------------------------------------------- */

static bool
make_convolution(EngConvGraph *g, const EngConvShape *s, EngStatus *status)
{
	cudnnBackendDescriptor_t *c = &g->convolution;
	cudnnDataType_t type = CUDNN_DATA_FLOAT;
	cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
	int64_t		dims = 2;
	int64_t		strides[2] = {s->stride, s->stride};
	int64_t		pads[2] = {s->pad, s->pad};
	int64_t		dilations[2] = {1, 1};

	return eng_cudnn_create(c, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR,
							status) &&
		eng_cudnn_set(*c, CUDNN_ATTR_CONVOLUTION_COMP_TYPE,
					  CUDNN_TYPE_DATA_TYPE, 1, &type, status) &&
		eng_cudnn_set(*c, CUDNN_ATTR_CONVOLUTION_CONV_MODE,
					  CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode, status) &&
		eng_cudnn_set(*c, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS,
					  CUDNN_TYPE_INT64, 1, &dims, status) &&
		eng_cudnn_set(*c, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES,
					  CUDNN_TYPE_INT64, 2, strides, status) &&
		eng_cudnn_set(*c, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS,
					  CUDNN_TYPE_INT64, 2, pads, status) &&
		eng_cudnn_set(*c, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS,
					  CUDNN_TYPE_INT64, 2, pads, status) &&
		eng_cudnn_set(*c, CUDNN_ATTR_CONVOLUTION_DILATIONS,
					  CUDNN_TYPE_INT64, 2, dilations, status) &&
		eng_cudnn_finalize(*c, status);
}

/* The names of one direction's attributes. */
typedef struct Names
{
	cudnnBackendDescriptorType_t type;
	cudnnBackendAttributeName_t alpha;
	cudnnBackendAttributeName_t beta;
	cudnnBackendAttributeName_t convolution;
	cudnnBackendAttributeName_t tensor[3];	/* x, w, y */
} Names;

static const Names names[] = {
	{
		CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
		CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
		CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
		CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
		{CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
			CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
		CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y}
	},
	{
		CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
		CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
		CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA,
		CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
		{CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
			CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
		CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY}
	},
	{
		CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
		CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
		CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA,
		CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
		{CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
			CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
		CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY}
	}
};

static bool
set_tensor(cudnnBackendDescriptor_t operation,
		   cudnnBackendAttributeName_t name, cudnnBackendDescriptor_t tensor,
		   EngStatus *status)
{
	return eng_cudnn_set(operation, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
						 &tensor, status);
}

/* The result of the operation that comes next. */
static cudnnBackendDescriptor_t
next_result(const EngConvGraph *g)
{
	return g->operations < 3 && g->between[g->operations] != NULL ?
		g->between[g->operations] : g->tensor[2];
}

static bool
append_convolution(EngConvGraph *g, const EngConvWork *work,
				   EngStatus *status)
{
	const Names *n = &names[work->direction];
	cudnnBackendDescriptor_t *o = &g->operation[g->operations];
	float		alpha = 1;
	float		beta = work->add ? 1 : 0;

	if (!eng_cudnn_create(o, n->type, status) ||
		!eng_cudnn_set(*o, n->alpha, CUDNN_TYPE_FLOAT, 1, &alpha, status) ||
		!eng_cudnn_set(*o, n->beta, CUDNN_TYPE_FLOAT, 1, &beta, status) ||
		!set_tensor(*o, n->convolution, g->convolution, status) ||
		!set_tensor(*o, n->tensor[0], g->tensor[0], status) ||
		!set_tensor(*o, n->tensor[1], g->tensor[1], status) ||
		!set_tensor(*o, n->tensor[2], next_result(g), status))
		return false;
	g->operations++;
	return eng_cudnn_finalize(*o, status);
}

/* ---- what follows ------------------------------------------------------------ */

static bool
make_pointwise(cudnnBackendDescriptor_t *kind, cudnnPointwiseMode_t mode,
			   EngStatus *status)
{
	cudnnDataType_t type = CUDNN_DATA_FLOAT;

	return *kind != NULL ||
		(eng_cudnn_create(kind, CUDNN_BACKEND_POINTWISE_DESCRIPTOR,
						  status) &&
		 eng_cudnn_set(*kind, CUDNN_ATTR_POINTWISE_MODE,
					   CUDNN_TYPE_POINTWISE_MODE, 1, &mode, status) &&
		 eng_cudnn_set(*kind, CUDNN_ATTR_POINTWISE_MATH_PREC,
					   CUDNN_TYPE_DATA_TYPE, 1, &type, status) &&
		 eng_cudnn_finalize(*kind, status));
}

/* other is added to what there is so far; NULL: a ReLU of it */
static bool
append_pointwise(EngConvGraph *g, cudnnBackendDescriptor_t other,
				 EngStatus *status)
{
	cudnnBackendDescriptor_t *o = &g->operation[g->operations];
	cudnnBackendDescriptor_t *kind = &g->pointwise[other == NULL];

	if (!make_pointwise(kind, other == NULL ? CUDNN_POINTWISE_RELU_FWD :
						CUDNN_POINTWISE_ADD, status) ||
		!eng_cudnn_create(o, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR,
						  status) ||
		!set_tensor(*o, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, *kind,
					status) ||
		!set_tensor(*o, CUDNN_ATTR_OPERATION_POINTWISE_XDESC,
					g->between[g->operations - 1], status) ||
		(other != NULL &&
		 !set_tensor(*o, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, other,
					 status)) ||
		!set_tensor(*o, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, next_result(g),
					status))
		return false;
	g->operations++;
	return eng_cudnn_finalize(*o, status);
}

bool
eng_conv_graph(EngConvGraph *g, const EngConvPlace *place,
			   const EngConvShape *shape, const EngConvWork *work,
			   EngStatus *status)
{
	return make_tensors(g, shape, work, status) &&
		make_convolution(g, shape, status) &&
		append_convolution(g, work, status) &&
		(!work->sum || append_pointwise(g, g->tensor[3], status)) &&
		(!work->bias || append_pointwise(g, g->tensor[4], status)) &&
		(!work->relu || append_pointwise(g, NULL, status)) &&
		eng_cudnn_create(&g->graph, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR,
						 status) &&
		eng_cudnn_set(g->graph, CUDNN_ATTR_OPERATIONGRAPH_OPS,
					  CUDNN_TYPE_BACKEND_DESCRIPTOR, g->operations,
					  g->operation, status) &&
		(place->handle == NULL ||
		 eng_cudnn_set(g->graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE,
					   CUDNN_TYPE_HANDLE, 1, &place->handle, status)) &&
		eng_cudnn_finalize(g->graph, status);
}
