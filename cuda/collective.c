/*
 * cuda/collective.c
 *		Several GPUs: sums over the ranks of a job, by NCCL.
 *
 * A communicator is used by its rank's thread alone and on its stream, in the
 * order of the calls, so that nothing needs events; sums are recorded into
 * graphs like kernels.  NCCL gives all ranks the same bits, in an order that
 * depends on the machine's topology and the number of elements.
 *
 * A kernel of NCCL's waits on the device for the other ranks.  When one of
 * these has failed it would wait for good, so the host does not wait for the
 * stream: it asks whether it is done, and gives the communicator up when the
 * ranks are broken, when NCCL knows of a failure, or after a long time.
 */
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "cuda/cuda.h"
#include "cuda/nccl_api.h"
#include "engine/core/ranks.h"

#define LONGEST_WAIT	600		/* seconds for what a step has queued */
#define FIRST_PAUSE		20000	/* nanoseconds between questions, */
#define LAST_PAUSE		200000	/* at first and in the end */

struct EngCudaRanks
{
	const EngNccl *nccl;
	EngNcclComm comm;			/* NULL: given up */
	EngRanks   *shared;
	int			result;			/* of NCCL's first failure */
};

/* What is to be aborted; the thread's own. */
typedef struct Abort
{
	const EngNccl *nccl;
	EngNcclComm comm;
} Abort;

static void *
abort_main(void *argument)
{
	Abort		work = *(Abort *) argument;

	free(argument);
	(void) work.nccl->abort(work.comm);
	return NULL;
}

/*
 * NCCL lets its kernels go at once, but then waits until every graph that
 * holds sums of the communicator is gone, and the last rank does so for all:
 * a thread of its own, as the graphs are dropped behind this.
 */
static bool
abort_aside(const struct EngCudaRanks *ranks)
{
	Abort	   *work = malloc(sizeof(Abort));
	pthread_t	thread;
	sigset_t	all;
	sigset_t	old;
	bool		made;

	if (work == NULL)
		return false;
	*work = (Abort) {ranks->nccl, ranks->comm};
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	made = pthread_create(&thread, NULL, abort_main, work) == 0;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (made)
		pthread_detach(thread);
	else
		free(work);
	return made;
}

static void
give_up(EngCuda *cuda)
{
	struct EngCudaRanks *ranks = cuda->ranks;

	if (ranks->comm == NULL)
		return;
	eng_ranks_break(ranks->shared);
	if (!abort_aside(ranks))
		(void) ranks->nccl->abort(ranks->comm);
	ranks->comm = NULL;
}

void
eng_cuda_all_reduce(EngCuda *cuda, void *x, int64_t count, EngSumType type)
{
	struct EngCudaRanks *ranks = cuda->ranks;
	int			result;

	if (eng_ranks_are_broken(ranks->shared))
		give_up(cuda);
	if (ranks->comm == NULL || count == 0)
		return;
	result = ranks->nccl->all_reduce(x, x, (size_t) count,
									 type == ENG_SUM_F64 ? ENG_NCCL_FLOAT64 :
									 ENG_NCCL_FLOAT32, ENG_NCCL_SUM,
									 ranks->comm, cuda->stream);
	if (result == ENG_NCCL_SUCCESS)
		return;
	ranks->result = result;
	give_up(cuda);
}

static void
all_reduce(EngBackend *backend, void *x, int64_t count, EngSumType type)
{
	eng_cuda_all_reduce(backend->state, x, count, type);
}

static double
seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec * 1e-9;
}

/*
 * Whether NCCL and the other ranks are well.
 */
static bool
all_well(struct EngCudaRanks *ranks)
{
	int			result = ENG_NCCL_SUCCESS;

	if (ranks->comm == NULL || eng_ranks_are_broken(ranks->shared))
		return false;
	if (ranks->nccl->async_error(ranks->comm, &result) != ENG_NCCL_SUCCESS ||
		(result != ENG_NCCL_SUCCESS && result != ENG_NCCL_IN_PROGRESS))
	{
		ranks->result = result;
		return false;
	}
	return true;
}

/* Nothing is said of a failure that another rank knows more about. */
static bool
say_failure(const EngCuda *cuda, EngStatus *status)
{
	const struct EngCudaRanks *ranks = cuda->ranks;

	if (ranks->result == ENG_NCCL_SUCCESS)
		return false;
	return eng_fail(status, ENG_DEVICE, "the sum over GPUs failed: %s",
					ranks->nccl->error_string(ranks->result));
}

bool
eng_cuda_wait(EngCuda *cuda, EngStatus *status)
{
	struct EngCudaRanks *ranks = cuda->ranks;
	struct timespec pause = {0, FIRST_PAUSE};
	double		until = seconds() + LONGEST_WAIT;
	/* of launches before, which the questions below would cover up */
	cudaError_t code = cudaGetLastError();

	while (code == cudaSuccess &&
		   (code = cudaStreamQuery(cuda->stream)) == cudaErrorNotReady)
	{
		/* which is no failure */
		(void) cudaGetLastError();
		code = cudaSuccess;
		if (!all_well(ranks))
		{
			give_up(cuda);
			return say_failure(cuda, status);
		}
		if (seconds() > until)
		{
			give_up(cuda);
			return eng_fail(status, ENG_DEVICE,
							"the other GPUs of the job did not answer for %d s",
							LONGEST_WAIT);
		}
		nanosleep(&pause, NULL);
		if (pause.tv_nsec < LAST_PAUSE)
			pause.tv_nsec += FIRST_PAUSE;
	}
	if (code != cudaSuccess)
	{
		give_up(cuda);
		return eng_fail(status, ENG_DEVICE, "%s failed: %s", cuda->name,
						cudaGetErrorString(code));
	}
	/* what was queued is done, but perhaps without a sum */
	return ranks->comm != NULL || say_failure(cuda, status);
}

/*
 * The sums of a job are first made here, so that what NCCL lacks shows before
 * any work: it connects the devices at the first use.
 */
static bool
connect(EngBackend *const *backends, int32_t world, EngNcclComm *comms,
		const EngNccl *nccl, EngStatus *status)
{
	int			devices[ENG_MOST_RANKS];
	int			result;
	int32_t		r;

	for (r = 0; r < world; r++)
		devices[r] = ((EngCuda *) backends[r]->state)->device;
	result = nccl->init_all(comms, world, devices);
	if (result != ENG_NCCL_SUCCESS)
		return eng_fail(status, ENG_DEVICE,
						"NCCL does not connect the %d GPUs: %s", world,
						nccl->error_string(result));
	return true;
}

bool
eng_cuda_join(EngBackend *const *backends, int32_t world, EngStatus *status)
{
	const EngNccl *nccl = eng_nccl_open(status);
	EngNcclComm comms[ENG_MOST_RANKS] = {NULL};
	bool		fine = true;
	int32_t		r;

	if (nccl == NULL || !connect(backends, world, comms, nccl, status))
		return false;
	for (r = 0; r < world; r++)
	{
		EngCuda    *cuda = backends[r]->state;

		cuda->ranks = calloc(1, sizeof(struct EngCudaRanks));
		if (cuda->ranks == NULL)
		{
			fine = eng_fail(status, ENG_NO_MEMORY, "out of memory");
			(void) nccl->abort(comms[r]);
			continue;
		}
		*cuda->ranks = (struct EngCudaRanks) {nccl, comms[r],
			backends[r]->ranks, ENG_NCCL_SUCCESS};
		backends[r]->all_reduce = all_reduce;
	}
	for (r = 0; !fine && r < world; r++)
	{
		EngCuda    *cuda = backends[r]->state;

		if (cuda->ranks != NULL)
			give_up(cuda);
		free(cuda->ranks);
		cuda->ranks = NULL;
	}
	return fine;
}

void
eng_cuda_leave(EngCuda *cuda)
{
	struct EngCudaRanks *ranks = cuda->ranks;

	if (ranks == NULL)
		return;
	if (eng_ranks_are_broken(ranks->shared))
		give_up(cuda);
	else if (ranks->comm != NULL)
		(void) ranks->nccl->destroy(ranks->comm);
	free(ranks);
	cuda->ranks = NULL;
}
