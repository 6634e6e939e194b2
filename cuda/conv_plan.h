/*
 * cuda/conv_plan.h
 *		One direction of a convolution as a plan of cuDNN's.
 *
 * Made for the device of a handle, or, to see what would be chosen there,
 * for properties of a device that is not here.  A plan must be deterministic
 * and precompiled, keep its inputs' precision, and find room in
 * ENG_CONV_WORKSPACE bytes; the first that cuDNN proposes is taken.
 */
#ifndef ENG_CUDA_CONV_PLAN_H
#define ENG_CUDA_CONV_PLAN_H

#include "engine/core/backend.h"

#define ENG_CONV_WORKSPACE	((int64_t) 1 << 30)

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

typedef struct EngConvPlan EngConvPlan;

/* Properties of a device in cuDNN's JSON. */
extern bool eng_conv_properties(void **properties, const char *json,
								EngStatus *status);
extern void eng_conv_properties_free(void *properties);

/* add: to what is there; only where cuDNN has a plan for that */
extern EngConvPlan *eng_conv_plan(const EngConvPlace *place,
								  const EngConvShape *shape,
								  EngConvDirection direction, bool add,
								  EngStatus *status);
extern void eng_conv_plan_free(EngConvPlan *plan);
extern size_t eng_conv_plan_workspace(const EngConvPlan *plan);
/* "engine 39, tensor cores" */
extern const char *eng_conv_plan_text(const EngConvPlan *plan);
extern bool eng_conv_plan_run(EngConvPlan *plan, const void *x,
							  const void *w, const void *y, void *workspace,
							  EngStatus *status);

#endif
