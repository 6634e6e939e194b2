/*
 * cuda/nccl_api.h
 *		What is called of NCCL, which is opened where several GPUs are used.
 *
 * Declared here, so that nothing of NCCL's is needed to build; nccl.c holds
 * it against NCCL's own header where there is one.
 */
#ifndef ENG_CUDA_NCCL_API_H
#define ENG_CUDA_NCCL_API_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/status.h"

typedef struct ncclComm *EngNcclComm;

#define ENG_NCCL_SUCCESS		0
#define ENG_NCCL_IN_PROGRESS	7
#define ENG_NCCL_FLOAT32		7	/* types */
#define ENG_NCCL_FLOAT64		8
#define ENG_NCCL_SUM			0	/* operation */

typedef struct EngNccl
{
	int			(*init_all) (EngNcclComm *comms, int count,
							 const int *devices);
	int			(*all_reduce) (const void *from, void *to, size_t count,
							   int type, int operation, EngNcclComm comm,
							   void *stream);
	int			(*async_error) (EngNcclComm comm, int *result);
	int			(*destroy) (EngNcclComm comm);
	int			(*abort) (EngNcclComm comm);
	const char *(*error_string) (int result);
} EngNccl;

/* NULL: status says what is missing.  It stays open for good. */
extern const EngNccl *eng_nccl_open(EngStatus *status);

#endif
