/*
 * cuda/conv_plan.h
 *		A graph around a convolution as a plan of cuDNN's.
 *
 * Made for the device of a handle, or, to see what would be chosen there,
 * for properties of a device that is not here.  A plan must be deterministic
 * and precompiled, keep its inputs' precision (of floats that may be rounded,
 * TF32's), and find room in ENG_CONV_WORKSPACE bytes; the first that cuDNN
 * proposes is taken.  Nothing is timed, so that equal runs give equal bits.
 */
#ifndef ENG_CUDA_CONV_PLAN_H
#define ENG_CUDA_CONV_PLAN_H

#include "cuda/conv_graph.h"

#define ENG_CONV_WORKSPACE	((int64_t) 1 << 30)

typedef struct EngConvPlan EngConvPlan;

/* Where the tensors of a run are, aligned to 16 bytes; sum, bias or NULL. */
typedef struct EngConvArrays
{
	const void *x;
	const void *w;
	const void *y;
	const void *sum;
	const void *bias;
} EngConvArrays;

/* Properties of a device in cuDNN's JSON. */
extern bool eng_conv_properties(void **properties, const char *json,
								EngStatus *status);
extern void eng_conv_properties_free(void *properties);

/* Only where cuDNN has a plan for all of the work together. */
extern EngConvPlan *eng_conv_plan(const EngConvPlace *place,
								  const EngConvShape *shape,
								  const EngConvWork *work,
								  EngStatus *status);
extern void eng_conv_plan_free(EngConvPlan *plan);
extern size_t eng_conv_plan_workspace(const EngConvPlan *plan);
extern const EngConvWork *eng_conv_plan_work(const EngConvPlan *plan);
extern bool eng_conv_plan_tensor_cores(const EngConvPlan *plan);
/* "engine 39, tensor cores" */
extern const char *eng_conv_plan_text(const EngConvPlan *plan);
extern bool eng_conv_plan_run(EngConvPlan *plan, const EngConvArrays *arrays,
							  void *workspace, EngStatus *status);

#endif
