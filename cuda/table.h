/*
 * cuda/table.h
 *		The backend's table, filled from its parts.
 */
#ifndef ENG_CUDA_TABLE_H
#define ENG_CUDA_TABLE_H

#include "cuda/cuda.h"
#include "engine/nets/region_ops.h"

/* regions.c */
extern const EngRegionOps eng_cuda_region_ops;

/* table.c: everything but opening, convolutions and linear layers */
extern void eng_cuda_set_table(EngBackend *backend);
/* step and sums on the device; then free them */
extern bool eng_cuda_open_step(EngCuda *cuda, EngStatus *status);
extern void eng_cuda_close_step(EngCuda *cuda);

/* graph.c */
extern void eng_cuda_set_graphs(EngBackend *backend);

#endif
