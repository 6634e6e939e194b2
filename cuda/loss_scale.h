/*
 * cuda/loss_scale.h
 *		What the losses' gradients are multiplied by.
 */
#ifndef ENG_CUDA_LOSS_SCALE_H
#define ENG_CUDA_LOSS_SCALE_H

#include "cuda/kernel.h"

static __device__ __forceinline__ float
loss_scale_of(const EngCudaStep *step)
{
	return step->loss_scale.scale > 0 ? step->loss_scale.scale : 1;
}

#endif
