/*
 * test/emulated/nccl.c
 *		A stand-in for NCCL: sums over the devices of one process.
 *
 * Strict about what NCCL leaves undefined: ranks that sum different things,
 * one that is captured where another is not, memory that is not the rank's
 * device's, a communicator used by two threads or after its end.
 *
 * AVC_EMULATED_NCCL	none: there is no such library; failing: sums fail
 */
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/nccl_api.h"
#include "stream.h"

#define MOST	16

typedef struct Sum Sum;

/* Communicators that were made together; the machine's lock guards it. */
typedef struct Clique
{
	int			world;
	int			users;			/* communicators and sums, atomic */
	Sum		   *there[MOST];	/* of this round */
	int			arrived;
	int			left;
	bool		summed;
} Clique;

struct ncclComm
{
	Clique	   *clique;
	int			rank;
	int			device;
	int			users;			/* itself and its sums, atomic */
	int			pending;		/* sums that are queued, atomic */
	bool		aborted;		/* atomic */
	bool		has_thread;
	pthread_t	thread;
};

struct Sum
{
	EngNcclComm comm;
	void	   *x;
	size_t		count;
	int			type;
	bool		captured;
	bool		waits;			/* arrived at this round */
};

static void
drop_comm(EngNcclComm comm)
{
	if (__atomic_sub_fetch(&comm->users, 1, __ATOMIC_ACQ_REL) > 0)
		return;
	if (__atomic_sub_fetch(&comm->clique->users, 1, __ATOMIC_ACQ_REL) == 0)
		free(comm->clique);
	free(comm);
}

static int
init_all(EngNcclComm *comms, int count, const int *devices)
{
	Clique	   *clique = calloc(1, sizeof(Clique));
	int			before = emulated_device_current();
	int			i;
	int			j;

	if (clique == NULL || count < 1 || count > MOST)
		emulated_stop("ncclCommInitAll: number of devices");
	clique->world = clique->users = count;
	for (i = 0; i < count; i++)
	{
		for (j = 0; j < i; j++)
			if (devices[i] == devices[j])
				emulated_stop("ncclCommInitAll: a device twice");
		if (cudaSetDevice(devices[i]) != cudaSuccess)
			emulated_stop("ncclCommInitAll: no such device");
		comms[i] = calloc(1, sizeof(struct ncclComm));
		if (comms[i] == NULL)
			emulated_stop("no memory");
		comms[i]->clique = clique;
		comms[i]->rank = i;
		comms[i]->device = devices[i];
		comms[i]->users = 1;
	}
	(void) cudaSetDevice(before);
	return ENG_NCCL_SUCCESS;
}

static size_t
size_of(const Sum *sum)
{
	return sum->count * (sum->type == ENG_NCCL_FLOAT64 ? 8 : 4);
}

/* With all devices' memory open, in the order of the ranks. */
static void
add_up(const Clique *clique, size_t i, int type)
{
	double		doubles = 0;
	float		floats = 0;
	int			r;

	for (r = 0; r < clique->world; r++)
		if (type == ENG_NCCL_FLOAT64)
			doubles += ((const double *) clique->there[r]->x)[i];
		else
			floats += ((const float *) clique->there[r]->x)[i];
	for (r = 0; r < clique->world; r++)
		if (type == ENG_NCCL_FLOAT64)
			((double *) clique->there[r]->x)[i] = doubles;
		else
			((float *) clique->there[r]->x)[i] = floats;
}

static void
sum_all(Clique *clique)
{
	const Sum  *first = clique->there[0];
	size_t		i;
	int			r;

	for (r = 0; r < clique->world; r++)
	{
		const Sum  *sum = clique->there[r];

		if (sum->count != first->count || sum->type != first->type)
			emulated_stop("ncclAllReduce: ranks sum different things");
		if (sum->captured != first->captured)
			emulated_stop("ncclAllReduce: captured by some ranks only");
		emulated_memory_open(sum->comm->device);
	}
	for (i = 0; i < first->count; i++)
		add_up(clique, i, first->type);
	for (r = 0; r < clique->world; r++)
		emulated_memory_close(clique->there[r]->comm->device);
	clique->summed = true;
}

/*
 * Come to the round, once the one before is over; the last one sums; all
 * leave.  An aborted communicator waits for nobody.
 */
static bool
take_part(void *argument)
{
	Sum		   *sum = argument;
	Clique	   *clique = sum->comm->clique;

	if (__atomic_load_n(&sum->comm->aborted, __ATOMIC_ACQUIRE))
		return true;
	if (!sum->waits && clique->there[sum->comm->rank] == NULL &&
		!clique->summed)
	{
		sum->waits = true;
		clique->there[sum->comm->rank] = sum;
		if (++clique->arrived == clique->world)
			sum_all(clique);
	}
	if (!sum->waits || !clique->summed)
		return false;
	sum->waits = false;
	clique->there[sum->comm->rank] = NULL;
	if (++clique->left == clique->world)
	{
		clique->arrived = clique->left = 0;
		clique->summed = false;
	}
	if (!sum->captured)
		__atomic_sub_fetch(&sum->comm->pending, 1, __ATOMIC_ACQ_REL);
	return true;
}

static void
release(void *argument)
{
	Sum		   *sum = argument;

	drop_comm(sum->comm);
	free(sum);
}

static void
check_use(EngNcclComm comm)
{
	if (comm->aborted)
		emulated_stop("NCCL: a communicator that was given up");
	if (emulated_device_current() != comm->device)
		emulated_stop("NCCL: the thread's device is not the communicator's");
	if (comm->has_thread && !pthread_equal(comm->thread, pthread_self()))
		emulated_stop("NCCL: a communicator of another thread");
	comm->thread = pthread_self();
	comm->has_thread = true;
}

static int
all_reduce(const void *from, void *to, size_t count, int type, int operation,
		   EngNcclComm comm, void *stream)
{
	enum cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
	const char *how = getenv("AVC_EMULATED_NCCL");
	Sum		   *sum = calloc(1, sizeof(Sum));

	check_use(comm);
	if (sum == NULL || from != to || operation != ENG_NCCL_SUM ||
		(type != ENG_NCCL_FLOAT32 && type != ENG_NCCL_FLOAT64) || count == 0)
		emulated_stop("ncclAllReduce: arguments");
	if (emulated_stream_device(stream) != comm->device)
		emulated_stop("ncclAllReduce: the stream of another device");
	(void) cudaStreamIsCapturing(stream, &capture);
	*sum = (Sum) {comm, to, count, type,
		capture == cudaStreamCaptureStatusActive, false};
	if (!emulated_memory_holds(to, size_of(sum)))
		emulated_stop("ncclAllReduce: memory that is not the device's");
	if (how != NULL && strcmp(how, "failing") == 0)
	{
		free(sum);
		return 2;				/* a failure of the system's */
	}
	__atomic_add_fetch(&comm->users, 1, __ATOMIC_ACQ_REL);
	if (!sum->captured)
		__atomic_add_fetch(&comm->pending, 1, __ATOMIC_ACQ_REL);
	return emulated_stream_await(stream, take_part, sum, release) ?
		ENG_NCCL_SUCCESS : 1;
}

static int
async_error(EngNcclComm comm, int *result)
{
	check_use(comm);
	*result = ENG_NCCL_SUCCESS;
	return ENG_NCCL_SUCCESS;
}

static int
destroy(EngNcclComm comm)
{
	if (comm->aborted)
		emulated_stop("ncclCommDestroy: a communicator that was given up");
	if (__atomic_load_n(&comm->pending, __ATOMIC_ACQUIRE) > 0)
		emulated_stop("ncclCommDestroy: sums are still queued");
	drop_comm(comm);
	return ENG_NCCL_SUCCESS;
}

static int
give_up(EngNcclComm comm)
{
	if (__atomic_exchange_n(&comm->aborted, true, __ATOMIC_ACQ_REL))
		emulated_stop("ncclCommAbort: twice");
	drop_comm(comm);
	return ENG_NCCL_SUCCESS;
}

static const char *
error_string(int result)
{
	return result == ENG_NCCL_SUCCESS ? "no error" :
		result == 2 ? "unhandled system error" : "unhandled cuda error";
}

const EngNccl *
eng_nccl_open(EngStatus *status)
{
	static const EngNccl table = {
		init_all, all_reduce, async_error, destroy, give_up, error_string
	};
	const char *how = getenv("AVC_EMULATED_NCCL");

	if (how == NULL || strcmp(how, "none") != 0)
		return &table;
	eng_fail(status, ENG_UNSUPPORTED,
			 "several GPUs need NVIDIA's NCCL: the emulation has none");
	return NULL;
}
