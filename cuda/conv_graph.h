/*
 * cuda/conv_graph.h
 *		A convolution and what follows it, as cuDNN is told of it.
 *
 * All tensors of a graph are of x's type; what lies between its operations is
 * float and stays in the kernel.  cuDNN has kernels for a sum, a bias and a
 * ReLU in this order, but none without the bias, and none whose bias is float
 * where the rest is not.
 */
#ifndef ENG_CUDA_CONV_GRAPH_H
#define ENG_CUDA_CONV_GRAPH_H

#include "cuda/descriptor.h"
#include "engine/core/backend.h"

#define ENG_CONV_TENSORS	5

typedef enum EngConvDirection
{
	ENG_CONV_FORWARD = 0,		/* x, w to y */
	ENG_CONV_DATA,				/* w, y to x */
	ENG_CONV_WEIGHT				/* x, y to w */
} EngConvDirection;

/* Where plans are for: a handle, or properties without a device. */
typedef struct EngConvPlace
{
	void	   *handle;			/* cudnnHandle_t or NULL */
	void	   *properties;		/* descriptor or NULL */
} EngConvPlace;

typedef struct EngConvWork
{
	EngConvDirection direction;
	bool		add;			/* the result is added to what is there */
	/* forward only: y = relu(products + sum + bias) */
	bool		sum;			/* (n, oh, ow, oc) */
	bool		bias;			/* (oc) */
	bool		relu;
} EngConvWork;

/* What a graph is put together from; freed when a plan is made. */
typedef struct EngConvGraph
{
	cudnnBackendDescriptor_t tensor[ENG_CONV_TENSORS];	/* x, w, y, sum, bias */
	cudnnBackendDescriptor_t between[3];	/* results of all but the last */
	cudnnBackendDescriptor_t convolution;
	cudnnBackendDescriptor_t operation[4];
	cudnnBackendDescriptor_t pointwise[2];	/* adding, ReLU */
	int64_t		operations;
	cudnnBackendDescriptor_t graph;
} EngConvGraph;

/* The name of a tensor in a graph and its variant packs. */
extern int64_t eng_conv_tensor_id(int tensor);
/* graph is zeroed; to be freed whatever comes of it */
extern bool eng_conv_graph(EngConvGraph *graph, const EngConvPlace *place,
						   const EngConvShape *shape,
						   const EngConvWork *work, EngStatus *status);
extern void eng_conv_graph_free(EngConvGraph *graph);

#endif
