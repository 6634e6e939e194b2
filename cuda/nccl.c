/*
 * cuda/nccl.c
 *		Opening NCCL.
 */
#include <dlfcn.h>

#include "cuda/nccl_api.h"

#if defined(__has_include) && __has_include(<nccl.h>)
#include <nccl.h>

_Static_assert(ENG_NCCL_SUCCESS == ncclSuccess &&
			   ENG_NCCL_IN_PROGRESS == ncclInProgress &&
			   ENG_NCCL_FLOAT32 == ncclFloat32 &&
			   ENG_NCCL_FLOAT64 == ncclFloat64 && ENG_NCCL_SUM == ncclSum &&
			   sizeof(ncclResult_t) == sizeof(int) &&
			   sizeof(ncclDataType_t) == sizeof(int) &&
			   sizeof(ncclRedOp_t) == sizeof(int),
			   "NCCL's numbers have changed");

/* The same arguments, but for enumerations, which are ints. */
static inline bool __attribute__((unused))
same_arguments(EngNcclComm comm, void *stream)
{
	int			result;

	return ncclCommInitAll(&comm, 1, &result) == ncclSuccess &&
		ncclAllReduce(stream, stream, (size_t) 1, ncclFloat64, ncclSum, comm,
					  stream) == ncclSuccess &&
		ncclCommGetAsyncError(comm, (ncclResult_t *) &result) == ncclSuccess &&
		ncclCommDestroy(comm) == ncclSuccess &&
		ncclCommAbort(comm) == ncclSuccess &&
		ncclGetErrorString(ncclSuccess) != NULL;
}
#endif

#define LIBRARY	"libnccl.so.2"

static bool
find(void *library, const char *name, void *function, EngStatus *status)
{
	/* a pointer to a function has the size of one to data */
	void	   *found = dlsym(library, name);

	if (found == NULL)
		return eng_fail(status, ENG_UNSUPPORTED, LIBRARY " has no %s", name);
	*(void **) function = found;
	return true;
}

const EngNccl *
eng_nccl_open(EngStatus *status)
{
	static EngNccl table;
	void	   *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);

	if (library == NULL)
	{
		eng_fail(status, ENG_UNSUPPORTED,
				 "several GPUs need NVIDIA's NCCL: %s; install it (package libnccl2 or nvidia-nccl-cu13) where the loader finds it, or name one device",
				 dlerror());
		return NULL;
	}
	return find(library, "ncclCommInitAll", &table.init_all, status) &&
		find(library, "ncclAllReduce", &table.all_reduce, status) &&
		find(library, "ncclCommGetAsyncError", &table.async_error, status) &&
		find(library, "ncclCommDestroy", &table.destroy, status) &&
		find(library, "ncclCommAbort", &table.abort, status) &&
		find(library, "ncclGetErrorString", &table.error_string, status) ?
		&table : NULL;
}
