/*
 * engine/core/ranks.c
 *		Backends of one process that train one network together.
 */
#include "engine/core/ranks.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct EngRanks
{
	pthread_mutex_t lock;
	pthread_cond_t moved;		/* a meeting is over, or there are none more */
	int32_t		world;
	int32_t		there;			/* at this meeting */
	uint64_t	meetings;		/* that are over */
	bool		fine;			/* all who are there */
	bool		verdict;		/* of the last meeting */
	bool		broken;			/* atomic: read without the lock */
	void	   *arrays[ENG_MOST_RANKS]; /* that the host's sum goes over */
};

bool
eng_ranks_are_broken(const EngRanks *ranks)
{
	return __atomic_load_n(&ranks->broken, __ATOMIC_ACQUIRE);
}

void
eng_ranks_break(EngRanks *ranks)
{
	pthread_mutex_lock(&ranks->lock);
	__atomic_store_n(&ranks->broken, true, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&ranks->moved);
	pthread_mutex_unlock(&ranks->lock);
}

/*
 * Wait until all are here.  The verdict stays until the next meeting is
 * over, for which the one who reads it must come.
 */
static bool
meet(EngRanks *ranks, bool fine)
{
	bool		verdict;

	pthread_mutex_lock(&ranks->lock);
	ranks->fine = ranks->fine && fine;
	if (++ranks->there == ranks->world)
	{
		ranks->verdict = ranks->fine;
		ranks->fine = true;
		ranks->there = 0;
		ranks->meetings++;
		pthread_cond_broadcast(&ranks->moved);
	}
	else
	{
		uint64_t	mine = ranks->meetings;

		while (ranks->meetings == mine && !ranks->broken)
			pthread_cond_wait(&ranks->moved, &ranks->lock);
	}
	verdict = ranks->verdict && !ranks->broken;
	pthread_mutex_unlock(&ranks->lock);
	return verdict;
}

bool
eng_ranks_agree(EngBackend *backend, bool fine)
{
	return eng_backend_is_rank(backend) ? meet(backend->ranks, fine) : fine;
}

/*
 * Sum elements first to before last of all ranks' arrays, in double and in
 * the order of the ranks, and give the sums to all of them.
 */
static void
sum_floats(EngRanks *ranks, int64_t first, int64_t last)
{
	int64_t		i;
	int32_t		r;

	for (i = first; i < last; i++)
	{
		double		sum = 0;

		for (r = 0; r < ranks->world; r++)
			sum += ((const float *) ranks->arrays[r])[i];
		for (r = 0; r < ranks->world; r++)
			((float *) ranks->arrays[r])[i] = (float) sum;
	}
}

static void
sum_doubles(EngRanks *ranks, int64_t first, int64_t last)
{
	int64_t		i;
	int32_t		r;

	for (i = first; i < last; i++)
	{
		double		sum = 0;

		for (r = 0; r < ranks->world; r++)
			sum += ((const double *) ranks->arrays[r])[i];
		for (r = 0; r < ranks->world; r++)
			((double *) ranks->arrays[r])[i] = sum;
	}
}

/*
 * Each rank sums its share of the elements, between two meetings: all arrays
 * must be filled before, and all sums be there after.
 */
static void
host_all_reduce(EngBackend *backend, void *x, int64_t count, EngSumType type)
{
	EngRanks   *ranks = backend->ranks;
	int64_t		first = count * backend->rank / ranks->world;
	int64_t		last = count * (backend->rank + 1) / ranks->world;

	if (eng_ranks_are_broken(ranks))
		return;
	ranks->arrays[backend->rank] = x;
	if (!meet(ranks, true))
		return;
	if (type == ENG_SUM_F64)
		sum_doubles(ranks, first, last);
	else
		sum_floats(ranks, first, last);
	(void) meet(ranks, true);
}

EngRanks *
eng_ranks_create(EngBackend *const *backends, int32_t world,
				 EngStatus *status)
{
	EngRanks   *ranks;
	int32_t		r;

	if (world < 2 || world > ENG_MOST_RANKS)
	{
		eng_fail(status, ENG_BAD_ARGUMENT,
				 "a job has 2 to %d devices, not %d", ENG_MOST_RANKS, world);
		return NULL;
	}
	ranks = calloc(1, sizeof(EngRanks));
	if (ranks == NULL)
	{
		eng_fail(status, ENG_NO_MEMORY, "out of memory");
		return NULL;
	}
	pthread_mutex_init(&ranks->lock, NULL);
	pthread_cond_init(&ranks->moved, NULL);
	ranks->world = world;
	ranks->fine = true;
	for (r = 0; r < world; r++)
	{
		backends[r]->rank = r;
		backends[r]->world = world;
		backends[r]->ranks = ranks;
		backends[r]->all_reduce = host_all_reduce;
	}
	if (backends[0]->join != NULL &&
		!backends[0]->join(backends, world, status))
	{
		for (r = 0; r < world; r++)
		{
			backends[r]->world = 0;
			backends[r]->ranks = NULL;
		}
		eng_ranks_free(ranks);
		return NULL;
	}
	return ranks;
}

void
eng_ranks_free(EngRanks *ranks)
{
	if (ranks == NULL)
		return;
	pthread_cond_destroy(&ranks->moved);
	pthread_mutex_destroy(&ranks->lock);
	free(ranks);
}
