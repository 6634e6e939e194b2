/*
 * test/emulated/include/cuda_runtime_api.h
 *		The part of CUDA's header that is used here, for machines without it.
 *
 * Names and numbers are CUDA's; where its own header is, that one is taken
 * instead.  cudaDeviceProp is shorter than the real one.
 */
#ifndef EMULATED_CUDA_RUNTIME_API_H
#define EMULATED_CUDA_RUNTIME_API_H

#include <stddef.h>

#include "library_types.h"

#ifdef __cplusplus
extern "C"
{
#endif

#define cudaStreamDefault	0
#define cudaStreamNonBlocking	1
#define cudaEventDefault	0
#define cudaEventDisableTiming	2
#define cudaHostAllocDefault	0
#define cudaHostAllocPortable	1
#define CUDART_VERSION	13000
#define cudaStreamLegacy	((cudaStream_t) 0x1)

enum cudaError
{
	cudaSuccess = 0,
	cudaErrorInvalidValue = 1,
	cudaErrorMemoryAllocation = 2,
	cudaErrorInvalidConfiguration = 9,
	cudaErrorInsufficientDriver = 35,
	cudaErrorNoDevice = 100,
	cudaErrorInvalidDevice = 101,
	cudaErrorInvalidResourceHandle = 400,
	cudaErrorIllegalState = 401,
	cudaErrorNotReady = 600,
	cudaErrorStreamCaptureUnsupported = 900,
	cudaErrorStreamCaptureInvalidated = 901,
	cudaErrorStreamCaptureMerge = 902,
	cudaErrorStreamCaptureUnmatched = 903,
	cudaErrorStreamCaptureUnjoined = 904,
	cudaErrorStreamCaptureIsolation = 905,
	cudaErrorStreamCaptureImplicit = 906,
	cudaErrorCapturedEvent = 907,
	cudaErrorStreamCaptureWrongThread = 908
};

typedef enum cudaError cudaError_t;

enum cudaMemcpyKind
{
	cudaMemcpyHostToHost = 0,
	cudaMemcpyHostToDevice = 1,
	cudaMemcpyDeviceToHost = 2,
	cudaMemcpyDeviceToDevice = 3,
	cudaMemcpyDefault = 4
};

enum cudaMemoryType
{
	cudaMemoryTypeUnregistered = 0,
	cudaMemoryTypeHost = 1,
	cudaMemoryTypeDevice = 2
};

enum cudaStreamCaptureMode
{
	cudaStreamCaptureModeGlobal = 0,
	cudaStreamCaptureModeThreadLocal = 1,
	cudaStreamCaptureModeRelaxed = 2
};

enum cudaStreamCaptureStatus
{
	cudaStreamCaptureStatusNone = 0,
	cudaStreamCaptureStatusActive = 1,
	cudaStreamCaptureStatusInvalidated = 2
};

typedef struct CUstream_st *cudaStream_t;
typedef struct CUevent_st *cudaEvent_t;
typedef struct CUgraph_st *cudaGraph_t;
typedef struct CUgraphExec_st *cudaGraphExec_t;
typedef struct CUgraphNode_st *cudaGraphNode_t;

struct cudaDeviceProp
{
	char		name[256];
	size_t		totalGlobalMem;
	size_t		sharedMemPerBlock;
	int			maxThreadsPerBlock;
	int			major;
	int			minor;
	int			multiProcessorCount;
	int			pciBusID;
};

struct cudaPointerAttributes
{
	enum cudaMemoryType type;
	int			device;
	void	   *devicePointer;
	void	   *hostPointer;
};

/* ---- devices ---- */

extern cudaError_t cudaGetDeviceCount(int *count);
extern cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties,
										   int device);
extern cudaError_t cudaSetDevice(int device);
extern cudaError_t cudaGetDevice(int *device);
extern cudaError_t cudaDeviceSynchronize(void);
extern cudaError_t cudaGetLastError(void);
extern cudaError_t cudaPeekAtLastError(void);
extern const char *cudaGetErrorString(cudaError_t code);
extern const char *cudaGetErrorName(cudaError_t code);

/* ---- memory ---- */

extern cudaError_t cudaMalloc(void **memory, size_t size);
extern cudaError_t cudaFree(void *memory);
extern cudaError_t cudaMemGetInfo(size_t *unused, size_t *total);
extern cudaError_t cudaHostAlloc(void **memory, size_t size,
								 unsigned int flags);
extern cudaError_t cudaMallocHost(void **memory, size_t size);
extern cudaError_t cudaFreeHost(void *memory);
extern cudaError_t cudaPointerGetAttributes(
	struct cudaPointerAttributes *attributes, const void *at);
extern cudaError_t cudaMemcpy(void *to, const void *from, size_t size,
							  enum cudaMemcpyKind kind);
extern cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size,
								   enum cudaMemcpyKind kind,
								   cudaStream_t stream);
extern cudaError_t cudaMemsetAsync(void *memory, int value, size_t size,
								   cudaStream_t stream);

/* ---- streams and events ---- */

extern cudaError_t cudaStreamCreate(cudaStream_t *made);
extern cudaError_t cudaStreamCreateWithFlags(cudaStream_t *made,
											 unsigned int flags);
extern cudaError_t cudaStreamDestroy(cudaStream_t stream);
extern cudaError_t cudaStreamSynchronize(cudaStream_t stream);
extern cudaError_t cudaStreamQuery(cudaStream_t stream);
extern cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event,
									   unsigned int flags);
extern cudaError_t cudaEventCreate(cudaEvent_t *made);
extern cudaError_t cudaEventCreateWithFlags(cudaEvent_t *made,
											unsigned int flags);
extern cudaError_t cudaEventDestroy(cudaEvent_t event);
extern cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
extern cudaError_t cudaEventSynchronize(cudaEvent_t event);
extern cudaError_t cudaEventQuery(cudaEvent_t event);
extern cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start,
										cudaEvent_t end);

/* ---- graphs ---- */

extern cudaError_t cudaStreamBeginCapture(cudaStream_t stream,
										  enum cudaStreamCaptureMode mode);
extern cudaError_t cudaStreamEndCapture(cudaStream_t stream,
										cudaGraph_t *graph);
extern cudaError_t cudaStreamIsCapturing(cudaStream_t stream,
										 enum cudaStreamCaptureStatus *status);
extern cudaError_t cudaGraphGetNodes(cudaGraph_t graph,
									 cudaGraphNode_t *nodes, size_t *count);
extern cudaError_t cudaGraphInstantiate(cudaGraphExec_t *made,
										cudaGraph_t graph,
										unsigned long long flags);
extern cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream);
extern cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
extern cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
extern cudaError_t cudaGraphDestroy(cudaGraph_t graph);

#ifdef __cplusplus
}
#endif

#endif
