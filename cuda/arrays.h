/*
 * cuda/arrays.h
 *		What a plan's regions have on the device.
 */
#ifndef ENG_CUDA_ARRAYS_H
#define ENG_CUDA_ARRAYS_H

#include "cuda/regions.h"
#include "engine/nets/region_ops.h"

#define ENG_CUDA_BLOCKS		64

typedef struct EngCudaArrays
{
	EngCudaRegions r;
	void	   *blocks[ENG_CUDA_BLOCKS];	/* on the device */
	size_t		sizes[ENG_CUDA_BLOCKS];
	int			block_count;
	size_t		bytes;
	uint8_t    *head;			/* the host's copy of the batch's block, */
	size_t		images_at;		/* behind r.batch; as are */
	size_t		labels_at;
	size_t		boxes_at;
	bool		failed;
} EngCudaArrays;

static inline EngCudaArrays *
eng_cuda_arrays(const EngRegions *regions)
{
	return regions->device;
}

/* What a recorded run gives image i, or NULL. */
static inline const EngGiven *
eng_cuda_given(const EngRegions *regions, int32_t i)
{
	if (regions->hooks == NULL || regions->hooks->given == NULL ||
		i >= regions->hooks->given_count)
		return NULL;
	return &regions->hooks->given[i];
}

/* regions.c: give a block back and take a larger one in its place */
extern void *eng_cuda_larger_block(EngCuda *cuda, EngCudaArrays *a, void *old,
								   size_t count, size_t size);
/* what is the batch's, and what grows with its ground truth */
extern void eng_cuda_make_truth(EngCuda *cuda, EngCudaArrays *a,
								int32_t boxes);
extern bool eng_cuda_no_room(const EngCudaRegions *r, EngStatus *status);

/* batch.c: the batch's pixels into the plan's input, its truth beside it */
extern bool eng_cuda_input(EngPlan *plan, EngRegions *regions,
						   const EngFrame *frames, EngStatus *status);

/* look.c: proposals, matches, samples, RoIs into the host's regions */
extern bool eng_cuda_look(EngPlan *plan, EngRegions *regions,
						  EngStatus *status);

#endif
