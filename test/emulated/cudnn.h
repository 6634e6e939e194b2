/*
 * test/emulated/cudnn.h
 *		Inside the stand-in for cuDNN's backend descriptors.
 *
 * What the library demands of its caller is demanded here: types and numbers
 * of attributes, what must be set and finalized before what, sizes that fit
 * together, every tensor of a graph in the variant pack at an address aligned
 * as was promised, room for the workspace, one device and handle.  What it is
 * asked for, it computes with plain loops in float.
 *
 * A descriptor that a caller holds is a grip on contents that are counted:
 * contents that others need outlive it, as with the library, and a grip that
 * was destroyed is known as such for a while.
 */
#ifndef EMULATED_CUDNN_H
#define EMULATED_CUDNN_H

#include <cudnn_graph.h>
#include <stdbool.h>
#include <stdint.h>

#define CUDNN_MOST_ATTRIBUTES	16	/* of a descriptor */
#define CUDNN_MOST_OPS			4	/* of a graph */

typedef enum CudnnDirection
{
	CUDNN_FORWARD = 0,
	CUDNN_DATA,
	CUDNN_FILTER
} CudnnDirection;

typedef struct CudnnTensor
{
	int64_t		id;
	cudnnDataType_t type;
	int64_t		size[4];		/* n, c, h, w; of weights oc, c, h, w */
	int64_t		alignment;
	bool		is_virtual;
} CudnnTensor;

/* A graph that is understood: a convolution, and forward what follows it. */
typedef struct CudnnProblem
{
	CudnnDirection direction;
	CudnnTensor x;				/* or its gradient, like the others */
	CudnnTensor w;
	CudnnTensor y;				/* after all operations */
	CudnnTensor add;
	CudnnTensor bias;
	bool		has_add;
	bool		has_bias;
	bool		relu;
	float		alpha;
	float		beta;
	int64_t		stride[2];
	int64_t		pad[2];			/* before */
} CudnnProblem;

/* Where a problem's tensors are; add and bias NULL where it has none. */
typedef struct CudnnPlaces
{
	void	   *x;
	void	   *w;
	void	   *y;
	void	   *add;
	void	   *bias;
} CudnnPlaces;

/* A kind of kernel, in one configuration each. */
typedef struct CudnnEngine
{
	int64_t		index;
	cudnnBackendNumericalNote_t notes[3];
	int			note_count;
	bool		compiled_at_run_time;
	bool		fails;			/* no plan of it can be finalized */
	bool		wanted;			/* may be run; the others must not be taken */
	int64_t		workspace;		/* bytes */
} CudnnEngine;

typedef struct CudnnContents CudnnContents;

typedef struct CudnnAttribute
{
	cudnnBackendAttributeName_t name;
	cudnnBackendAttributeType_t type;
	int64_t		count;
	void	   *values;			/* of descriptors: CudnnContents *, counted */
} CudnnAttribute;

struct CudnnContents
{
	cudnnBackendDescriptorType_t type;
	int			users;			/* grips and other contents */
	bool		finalized;
	CudnnAttribute attributes[CUDNN_MOST_ATTRIBUTES];
	int			attribute_count;
	CudnnProblem problem;		/* of a graph */
	const CudnnEngine *engine;	/* of an engine, its configuration, a plan */
};

struct cudnnContext
{
	uint32_t	mark;
	int			device;
	cudaStream_t stream;
};

/* ---- cudnn_attributes.c ------------------------------------------------------ */

/* Remember what was wrong, for cudnnGetLastErrorString. */
extern cudnnStatus_t emulated_cudnn_fail(cudnnStatus_t status,
										 const char *format,...)
			__attribute__((format(printf, 2, 3)));
extern CudnnContents *emulated_cudnn_contents(cudnnBackendDescriptor_t grip);
extern CudnnContents *emulated_cudnn_new(cudnnBackendDescriptorType_t type);
extern void emulated_cudnn_release(CudnnContents *contents);
/* NULL: was not set */
extern const CudnnAttribute *emulated_cudnn_find(const CudnnContents *contents,
												 cudnnBackendAttributeName_t name);
extern CudnnContents *emulated_cudnn_find_contents(const CudnnContents *contents,
												   cudnnBackendAttributeName_t name);
/* values of a rule's type; keeps the contents that they name */
extern void emulated_cudnn_keep(CudnnContents *contents,
								cudnnBackendAttributeName_t name,
								cudnnBackendAttributeType_t type,
								int64_t count, const void *values);

/* ---- cudnn_graph.c ------------------------------------------------------------ */

/* What a descriptor's attributes must be before it is finalized. */
extern cudnnStatus_t emulated_cudnn_check(CudnnContents *contents);
extern int64_t emulated_cudnn_bytes(const CudnnTensor *tensor);

/* ---- cudnn_engines.c ---------------------------------------------------------- */

extern cudnnStatus_t emulated_cudnn_propose(CudnnContents *heuristics);
extern cudnnStatus_t emulated_cudnn_plan(CudnnContents *plan);

/* ---- cudnn_run.c --------------------------------------------------------------- */

extern bool emulated_cudnn_is_handle(cudnnHandle_t handle);

/* ---- cudnn_loops.c ------------------------------------------------------------- */

/* in memory that can be touched; tensor cores: floats are rounded to TF32 */
extern void emulated_cudnn_compute(const CudnnProblem *problem,
								   const CudnnPlaces *places,
								   bool tensor_cores);

#endif
