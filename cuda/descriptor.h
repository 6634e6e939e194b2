/*
 * cuda/descriptor.h
 *		cuDNN's descriptors: made, filled, freed.
 */
#ifndef ENG_CUDA_DESCRIPTOR_H
#define ENG_CUDA_DESCRIPTOR_H

#include <cudnn_graph.h>
#include <stdbool.h>

#include "engine/status.h"

/* Whether code is a failure, which status then tells of. */
extern bool eng_cudnn_failed(EngStatus *status, cudnnStatus_t code,
							 const char *what);
extern bool eng_cudnn_create(cudnnBackendDescriptor_t *descriptor,
							 cudnnBackendDescriptorType_t type,
							 EngStatus *status);
extern bool eng_cudnn_set(cudnnBackendDescriptor_t descriptor,
						  cudnnBackendAttributeName_t name,
						  cudnnBackendAttributeType_t type, int64_t count,
						  const void *values, EngStatus *status);
extern bool eng_cudnn_finalize(cudnnBackendDescriptor_t descriptor,
							   EngStatus *status);
/* NULL does no harm */
extern void eng_cudnn_destroy(cudnnBackendDescriptor_t descriptor);

#endif
