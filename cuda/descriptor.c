/*
 * cuda/descriptor.c
 *		cuDNN's descriptors: made, filled, freed.
 */
#include "cuda/descriptor.h"

/*
 * What a failure means for the caller: statuses come in categories of a
 * thousand, of which the sixth is what went wrong on the device.
 */
static EngCode
meaning(cudnnStatus_t code)
{
	if (code == CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED ||
		code == CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED)
		return ENG_NO_MEMORY;
	return code >= CUDNN_STATUS_EXECUTION_FAILED ? ENG_DEVICE :
		ENG_UNSUPPORTED;
}

bool
eng_cudnn_failed(EngStatus *status, cudnnStatus_t code, const char *what)
{
	char		reason[512] = "";

	if (code == CUDNN_STATUS_SUCCESS)
		return false;
	cudnnGetLastErrorString(reason, sizeof(reason));
	eng_fail(status, meaning(code), "cuDNN %s: %s%s%.400s", what,
			 cudnnGetErrorString(code), reason[0] ? ": " : "", reason);
	return true;
}

bool
eng_cudnn_create(cudnnBackendDescriptor_t *descriptor,
				 cudnnBackendDescriptorType_t type, EngStatus *status)
{
	return !eng_cudnn_failed(status,
							 cudnnBackendCreateDescriptor(type, descriptor),
							 "makes no descriptor");
}

bool
eng_cudnn_set(cudnnBackendDescriptor_t descriptor,
			  cudnnBackendAttributeName_t name,
			  cudnnBackendAttributeType_t type, int64_t count,
			  const void *values, EngStatus *status)
{
	return !eng_cudnn_failed(status,
							 cudnnBackendSetAttribute(descriptor, name, type,
													  count, values),
							 "takes no attribute");
}

bool
eng_cudnn_finalize(cudnnBackendDescriptor_t descriptor, EngStatus *status)
{
	return !eng_cudnn_failed(status, cudnnBackendFinalize(descriptor),
							 "takes no description");
}

void
eng_cudnn_destroy(cudnnBackendDescriptor_t descriptor)
{
	if (descriptor != NULL)
		cudnnBackendDestroyDescriptor(descriptor);
}
