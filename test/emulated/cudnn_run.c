/*
 * test/emulated/cudnn_run.c
 *		Handles, and plans that run on their streams.
 */
#include "cudnn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stream.h"

#define HANDLE	0x68616e64

/* A plan on its way through a stream. */
typedef struct Run
{
	CudnnProblem problem;
	CudnnPlaces places;
	void	   *workspace;
	int64_t		workspace_size;
	bool		tensor_cores;
} Run;

/* ---- handles -------------------------------------------------------------- */

cudnnStatus_t
cudnnCreate(cudnnHandle_t *handle)
{
	cudnnHandle_t made = calloc(1, sizeof(*made));

	if (made == NULL)
		abort();
	made->mark = HANDLE;
	made->device = emulated_device_current();
	*handle = made;
	return CUDNN_STATUS_SUCCESS;
}

bool
emulated_cudnn_is_handle(cudnnHandle_t handle)
{
	return handle != NULL && handle->mark == HANDLE;
}

cudnnStatus_t
cudnnDestroy(cudnnHandle_t handle)
{
	if (!emulated_cudnn_is_handle(handle))
		abort();
	memset(handle, 0x5a, sizeof(*handle));
	free(handle);
	return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t
cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream)
{
	if (!emulated_cudnn_is_handle(handle))
		return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM, "no handle");
	if (emulated_stream_device(stream) != handle->device)
		return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM_STREAM_MISMATCH,
								   "a stream of another device");
	handle->stream = stream;
	return CUDNN_STATUS_SUCCESS;
}

size_t
cudnnGetVersion(void)
{
	return CUDNN_VERSION;
}

/* ---- variant packs ---------------------------------------------------------- */

/*
 * Where a tensor is, by the pack; an error unless it is all in the device's
 * memory and aligned as was said.
 */
static cudnnStatus_t
place(const CudnnContents *pack, const CudnnTensor *tensor, void **at)
{
	const CudnnAttribute *ids =
		emulated_cudnn_find(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
	void	   *const *pointers =
		emulated_cudnn_find(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS)->values;
	int64_t		i;

	*at = NULL;
	for (i = 0; i < ids->count; i++)
		if (((const int64_t *) ids->values)[i] == tensor->id)
		{
			if (*at != NULL)
				return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM_DUPLICATED_ENTRIES,
										   "tensor %lld is given twice",
										   (long long) tensor->id);
			*at = pointers[i];
		}
	if (*at == NULL)
		return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM_NULL_POINTER,
								   "tensor %lld is not given",
								   (long long) tensor->id);
	if ((uintptr_t) *at % tensor->alignment != 0)
		return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER,
								   "tensor %lld is not aligned to %lld",
								   (long long) tensor->id,
								   (long long) tensor->alignment);
	if (!emulated_memory_holds(*at, emulated_cudnn_bytes(tensor)))
		return emulated_cudnn_fail(CUDNN_STATUS_EXECUTION_FAILED_CUDA_DRIVER,
								   "tensor %lld is not in the device's memory",
								   (long long) tensor->id);
	return CUDNN_STATUS_SUCCESS;
}

static bool
overlap(const void *a, int64_t a_size, const void *b, int64_t b_size)
{
	return (const char *) a < (const char *) b + b_size &&
		(const char *) b < (const char *) a + a_size;
}

/* The workspace is there, and nothing else in it. */
static cudnnStatus_t
check_workspace(const Run *run)
{
	const CudnnProblem *p = &run->problem;
	const CudnnTensor *tensors[5] = {&p->x, &p->w, &p->y, &p->add, &p->bias};
	void	   *const at[5] = {run->places.x, run->places.w, run->places.y,
		run->places.add, run->places.bias};
	int			i;

	if (run->workspace_size == 0)
		return CUDNN_STATUS_SUCCESS;
	if (run->workspace == NULL)
		return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM_NULL_POINTER,
								   "no workspace");
	/* cuDNN does not say how; as what cudaMalloc gives */
	if ((uintptr_t) run->workspace % 256 != 0)
		return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER,
								   "the workspace is not aligned");
	if (!emulated_memory_holds(run->workspace, run->workspace_size))
		return emulated_cudnn_fail(CUDNN_STATUS_EXECUTION_FAILED_CUDA_DRIVER,
								   "the workspace is too small");
	for (i = 0; i < 5; i++)
		if (at[i] != NULL &&
			overlap(at[i], emulated_cudnn_bytes(tensors[i]), run->workspace,
					run->workspace_size))
			return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM,
									   "tensor %lld lies in the workspace",
									   (long long) tensors[i]->id);
	return CUDNN_STATUS_SUCCESS;
}

/* What is written must not be read, but for a sum in place. */
static cudnnStatus_t
check_result(const Run *run)
{
	const CudnnProblem *p = &run->problem;
	const CudnnTensor *tensors[5] = {&p->x, &p->w, &p->y, &p->add, &p->bias};
	void	   *const at[5] = {run->places.x, run->places.w, run->places.y,
		run->places.add, run->places.bias};
	int			result = p->direction == CUDNN_FORWARD ? 2 :
		p->direction == CUDNN_DATA ? 0 : 1;
	int			i;

	for (i = 0; i < 5; i++)
		if (i != result && at[i] != NULL && !(i == 3 && at[i] == at[result]) &&
			overlap(at[i], emulated_cudnn_bytes(tensors[i]), at[result],
					emulated_cudnn_bytes(tensors[result])))
			return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM,
									   "the result lies over tensor %lld",
									   (long long) tensors[i]->id);
	return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t
fill_run(Run *run, const CudnnContents *plan, const CudnnContents *pack)
{
	const CudnnContents *config =
		emulated_cudnn_find_contents(plan,
									 CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG);
	const CudnnContents *engine =
		emulated_cudnn_find_contents(config, CUDNN_ATTR_ENGINECFG_ENGINE);
	const CudnnAttribute *workspace =
		emulated_cudnn_find(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE);
	CudnnProblem *p = &run->problem;
	cudnnStatus_t status;
	int			i;

	memset(run, 0, sizeof(*run));
	*p = emulated_cudnn_find_contents(engine,
									  CUDNN_ATTR_ENGINE_OPERATION_GRAPH)->problem;
	run->workspace_size = plan->engine->workspace;
	for (i = 0; i < plan->engine->note_count; i++)
		if (plan->engine->notes[i] == CUDNN_NUMERICAL_NOTE_TENSOR_CORE)
			run->tensor_cores = true;
	run->workspace = workspace == NULL ? NULL :
		*(void *const *) workspace->values;
	if (emulated_cudnn_find(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS)->count !=
		3 + p->has_add + p->has_bias)
		return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM,
								   "the graph has another number of tensors");
	status = place(pack, &p->x, &run->places.x);
	if (status == CUDNN_STATUS_SUCCESS)
		status = place(pack, &p->w, &run->places.w);
	if (status == CUDNN_STATUS_SUCCESS)
		status = place(pack, &p->y, &run->places.y);
	if (status == CUDNN_STATUS_SUCCESS && p->has_add)
		status = place(pack, &p->add, &run->places.add);
	if (status == CUDNN_STATUS_SUCCESS && p->has_bias)
		status = place(pack, &p->bias, &run->places.bias);
	if (status == CUDNN_STATUS_SUCCESS)
		status = check_workspace(run);
	return status == CUDNN_STATUS_SUCCESS ? check_result(run) : status;
}

/* ---- running ---------------------------------------------------------------- */

static void
work(void *argument)
{
	const Run  *run = argument;

	/* nobody may count on what was there */
	if (run->workspace_size > 0)
		memset(run->workspace, 0xff, run->workspace_size);
	emulated_cudnn_compute(&run->problem, &run->places, run->tensor_cores);
}

static cudnnStatus_t
check_call(cudnnHandle_t handle, const CudnnContents *plan,
		   const CudnnContents *pack)
{
	const CudnnAttribute *owner;

	if (!emulated_cudnn_is_handle(handle) || plan == NULL || pack == NULL)
		return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM_NULL_POINTER,
								   "nothing to run, or nowhere");
	if (plan->type != CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR ||
		pack->type != CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)
		return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM_DESCRIPTOR_TYPE,
								   "no plan, or no variant pack");
	if (!plan->finalized || !pack->finalized)
		return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED,
								   "plan or variant pack are not finalized");
	owner = emulated_cudnn_find(plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE);
	if (owner == NULL || *(const cudnnHandle_t *) owner->values != handle)
		return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM,
								   "a plan of another handle");
	if (emulated_device_current() != handle->device)
		return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM,
								   "another device is the current one");
	if (!plan->engine->wanted)
		return emulated_cudnn_fail(CUDNN_STATUS_INTERNAL_ERROR,
								   "engine %d should not have been chosen",
								   (int) plan->engine->index);
	return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t
cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan,
					cudnnBackendDescriptor_t pack)
{
	const CudnnContents *plan_contents = emulated_cudnn_contents(plan);
	const CudnnContents *pack_contents = emulated_cudnn_contents(pack);
	cudnnStatus_t status = check_call(handle, plan_contents, pack_contents);
	Run		   *run;

	if (status != CUDNN_STATUS_SUCCESS)
		return status;
	run = malloc(sizeof(Run));
	if (run == NULL)
		abort();
	status = fill_run(run, plan_contents, pack_contents);
	if (status != CUDNN_STATUS_SUCCESS)
	{
		free(run);
		return status;
	}
	if (!emulated_stream_run(handle->stream, work, run, free))
		return emulated_cudnn_fail(CUDNN_STATUS_EXECUTION_FAILED_CUDART,
								   "the stream takes nothing");
	return CUDNN_STATUS_SUCCESS;
}
