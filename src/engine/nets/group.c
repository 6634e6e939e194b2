/*
 * engine/nets/group.c
 *		One network on several devices.
 *
 * Members are made, asked and freed by their own threads, as a device belongs
 * to a thread.  The caller's thread is the first rank's.
 */
#include "engine/nets/group.h"

#include <omp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/mirror.h"
#include "engine/core/ranks.h"

/* What every rank does in one round. */
typedef bool (*Work) (EngGroup *group, int32_t rank, void *context,
					  EngStatus *status);

typedef struct Member
{
	EngGroup   *group;
	int32_t		rank;
	EngDetector *detector;
	EngDeviceName name;
	pthread_t	thread;			/* not of the first */
	EngStatus	status;			/* of the last round */
	bool		fine;
} Member;

struct EngGroup
{
	Member		members[ENG_MOST_RANKS];
	int32_t		world;
	int32_t		threads;		/* that run; the first rank has none */
	EngRanks   *ranks;
	bool		stale;			/* the others must take the first's weights */
	pthread_mutex_t lock;
	pthread_cond_t begun;
	pthread_cond_t done;
	uint64_t	rounds;			/* begun */
	int32_t		busy;			/* threads that are at this one */
	Work		work;			/* NULL: end */
	void	   *context;
};

/* ---- threads ---------------------------------------------------------------- */

static void
work_on(Member *member, Work work, void *context)
{
	memset(&member->status, 0, sizeof(member->status));
	member->fine = work(member->group, member->rank, context,
						&member->status);
}

static void *
member_main(void *argument)
{
	Member	   *member = argument;
	EngGroup   *group = member->group;
	uint64_t	seen = 0;
	Work		work;

	pthread_mutex_lock(&group->lock);
	do
	{
		while (group->rounds == seen)
			pthread_cond_wait(&group->begun, &group->lock);
		seen = group->rounds;
		work = group->work;
		if (work != NULL)
		{
			pthread_mutex_unlock(&group->lock);
			work_on(member, work, group->context);
			pthread_mutex_lock(&group->lock);
		}
		if (--group->busy == 0)
			pthread_cond_signal(&group->done);
	} while (work != NULL);
	pthread_mutex_unlock(&group->lock);
	return NULL;
}

/* Start a round of the members' threads. */
static void
begin(EngGroup *group, Work work, void *context)
{
	pthread_mutex_lock(&group->lock);
	group->work = work;
	group->context = context;
	group->busy = group->threads;
	group->rounds++;
	pthread_cond_broadcast(&group->begun);
	pthread_mutex_unlock(&group->lock);
}

static void
finish(EngGroup *group)
{
	pthread_mutex_lock(&group->lock);
	while (group->busy > 0)
		pthread_cond_wait(&group->done, &group->lock);
	pthread_mutex_unlock(&group->lock);
}

/* Whether a failure is one of a device, which its name explains. */
static bool
is_of_device(EngCode code)
{
	return code != ENG_NUMERIC && code != ENG_BAD_ARGUMENT &&
		code != ENG_BAD_FILE;
}

/*
 * The failure of the round: of the first who knows of one by himself; the
 * others have only learned of it.
 */
static bool
judge(const EngGroup *group, EngStatus *status)
{
	bool		fine = true;
	int32_t		r;

	for (r = 0; r < group->world; r++)
	{
		const Member *m = &group->members[r];

		fine = fine && m->fine;
		if (m->fine || m->status.code == ENG_OK)
			continue;
		return eng_fail(status, m->status.code, "%s%s%s",
						is_of_device(m->status.code) ? m->name : "",
						is_of_device(m->status.code) ? ": " : "",
						m->status.message);
	}
	return fine || eng_fail(status, ENG_DEVICE,
							"the devices of the job have lost each other");
}

static bool
run_round(EngGroup *group, Work work, void *context, EngStatus *status)
{
	if (group->ranks != NULL && eng_ranks_are_broken(group->ranks))
		return eng_fail(status, ENG_DEVICE,
						"a device of the job has failed: the network must be loaded again");
	begin(group, work, context);
	work_on(&group->members[0], work, context);
	finish(group);
	return judge(group, status);
}

/* ---- life --------------------------------------------------------------------- */

typedef struct Making
{
	const EngDetectorConfig *config;
	int			threads;
	bool		train;
} Making;

static bool
make_member(EngGroup *group, int32_t rank, void *context, EngStatus *status)
{
	const Making *making = context;
	Member	   *m = &group->members[rank];

	m->detector = eng_detector_create_alone(making->config, m->name,
											making->threads, making->train,
											status);
	return m->detector != NULL;
}

static bool
free_member(EngGroup *group, int32_t rank, void *context, EngStatus *status)
{
	(void) context;
	(void) status;
	if (rank > 0)
		eng_detector_free(group->members[rank].detector);
	return true;
}

static bool
start_threads(EngGroup *group, EngStatus *status)
{
	int32_t		r;

	for (r = 1; r < group->world; r++)
	{
		Member	   *m = &group->members[r];

		if (pthread_create(&m->thread, NULL, member_main, m) != 0)
			return eng_fail(status, ENG_IO,
							"could not start a thread for %s", m->name);
		group->threads++;
	}
	return true;
}

static bool
join_ranks(EngGroup *group, EngStatus *status)
{
	EngBackend *backends[ENG_MOST_RANKS];
	int32_t		r;

	for (r = 0; r < group->world; r++)
	{
		backends[r] = group->members[r].detector->backend;
		if (strcmp(backends[r]->name, backends[0]->name) != 0)
			return eng_fail(status, ENG_BAD_ARGUMENT,
							"devices of one job must be of one kind, not %s and %s",
							backends[0]->name, backends[r]->name);
	}
	group->ranks = eng_ranks_create(backends, group->world, status);
	backends[0]->enter(backends[0]);
	return group->ranks != NULL;
}

/*
 * What the first one's backend is called: all of them.
 */
static void
name_devices(EngGroup *group)
{
	EngBackend *first = group->members[0].detector->backend;
	char		text[sizeof(first->device_name)] = "";
	size_t		used = 0;
	int32_t		r;

	for (r = 0; r < group->world && used < sizeof(text); r++)
		used += snprintf(text + used, sizeof(text) - used, "%s%s",
						 r == 0 ? "" : ", ", group->members[r].name);
	if (used < sizeof(text))
		snprintf(text + used, sizeof(text) - used, ": %.160s%s",
				 first->device_name[0] != '\0' ? first->device_name :
				 first->name, group->world > 1 ? ", each" : "");
	memcpy(first->device_name, text, sizeof(text));
}

static bool
check_config(const EngDetectorConfig *config, EngStatus *status)
{
	if (config->sampler == ENG_SAMPLE_MT19937)
		return eng_fail(status, ENG_UNSUPPORTED,
						"option \"sampler\" can be mt19937 on one device only");
	return true;
}

EngDetector *
eng_group_create(const EngDetectorConfig *config, const EngDeviceName *names,
				 int32_t count, int threads, bool train, EngStatus *status)
{
	EngGroup   *group;
	Making		making = {config, threads, train};
	int32_t		r;

	if (!check_config(config, status))
		return NULL;
	group = calloc(1, sizeof(EngGroup));
	if (group == NULL)
	{
		eng_fail(status, ENG_NO_MEMORY, "out of memory");
		return NULL;
	}
	pthread_mutex_init(&group->lock, NULL);
	pthread_cond_init(&group->begun, NULL);
	pthread_cond_init(&group->done, NULL);
	if (threads <= 0)
		threads = omp_get_num_procs();
	making.threads = threads > count ? threads / count : 1;
	group->world = count;
	group->stale = true;
	for (r = 0; r < count; r++)
	{
		group->members[r].group = group;
		group->members[r].rank = r;
		memcpy(group->members[r].name, names[r], sizeof(EngDeviceName));
	}
	if (!start_threads(group, status) ||
		!run_round(group, make_member, &making, status) ||
		!join_ranks(group, status))
	{
		eng_group_stop(group);
		eng_detector_free(group->members[0].detector);
		eng_group_free(group);
		return NULL;
	}
	name_devices(group);
	group->members[0].detector->group = group;
	return group->members[0].detector;
}

void
eng_group_stop(EngGroup *group)
{
	int32_t		r;

	if (group == NULL)
		return;
	begin(group, free_member, NULL);
	finish(group);
	begin(group, NULL, NULL);
	for (r = 1; r <= group->threads; r++)
		pthread_join(group->members[r].thread, NULL);
}

void
eng_group_free(EngGroup *group)
{
	if (group == NULL)
		return;
	pthread_cond_destroy(&group->begun);
	pthread_cond_destroy(&group->done);
	pthread_mutex_destroy(&group->lock);
	eng_ranks_free(group->ranks);
	free(group);
}

typedef struct Call
{
	EngGroupCall call;
	const void *argument;
} Call;

static bool
call_member(EngGroup *group, int32_t rank, void *context, EngStatus *status)
{
	const Call *call = context;
	EngDetector *detector = group->members[rank].detector;

	if (rank == 0)
		return true;
	detector->backend->enter(detector->backend);
	return call->call(detector, call->argument, status);
}

bool
eng_group_each(EngGroup *group, EngGroupCall call, const void *argument,
			   EngStatus *status)
{
	Call		each = {call, argument};

	return group == NULL || run_round(group, call_member, &each, status);
}

/* ---- weights -------------------------------------------------------------------- */

void
eng_group_weights_changed(EngGroup *group)
{
	if (group != NULL)
		group->stale = true;
}

/* The arrays that must be equal on all ranks. */
typedef struct Array
{
	const char *what;
	float	   *floats;
	int64_t		count;
} Array;

#define ARRAYS	3

static void
list_arrays(Array arrays[ARRAYS], const EngParameters *p)
{
	arrays[0] = (Array) {"weights", p->values, p->total};
	arrays[1] = (Array) {"optimizer's state", p->slots[0], p->trained};
	arrays[2] = (Array) {"optimizer's state", p->slots[1], p->trained};
}

static bool
to_host(EngGroup *group, int32_t rank, void *context, EngStatus *status)
{
	EngDetector *detector = group->members[rank].detector;

	(void) context;
	detector->backend->enter(detector->backend);
	return eng_mirror_to_host(&detector->parameters, status);
}

/*
 * Give the first rank's weights to the others, if they may differ.
 */
static bool
follow(EngGroup *group, EngStatus *status)
{
	const EngDetector *first = group->members[0].detector;
	Array		from[ARRAYS];
	int32_t		r;
	int			i;

	if (!group->stale)
		return true;
	if (!run_round(group, to_host, NULL, status))
		return false;
	list_arrays(from, &first->parameters);
	for (r = 1; r < group->world; r++)
	{
		EngDetector *detector = group->members[r].detector;
		EngParameters *p = &detector->parameters;
		Array		to[ARRAYS];

		list_arrays(to, p);
		for (i = 0; i < ARRAYS; i++)
			if (to[i].floats != NULL)
				memcpy(to[i].floats, from[i].floats,
					   sizeof(float) * to[i].count);
		memcpy(p->counter_values, first->parameters.counter_values,
			   sizeof(int64_t) * p->counters);
		p->version++;
		eng_mirror_host_changed(p);
		detector->updates = first->updates;
		detector->loss_scale = first->loss_scale;
		detector->loss_scale_sent = false;
	}
	group->stale = false;
	return true;
}

static bool
same_counts(const EngDetector *a, const EngDetector *b)
{
	return a->updates == b->updates &&
		a->loss_scale.scale == b->loss_scale.scale &&
		a->loss_scale.good_steps == b->loss_scale.good_steps &&
		memcmp(a->parameters.counter_values, b->parameters.counter_values,
			   sizeof(int64_t) * a->parameters.counters) == 0;
}

bool
eng_group_check_same(EngGroup *group, EngStatus *status)
{
	const EngDetector *first = group->members[0].detector;
	Array		a[ARRAYS];
	int32_t		r;
	int			i;

	if (group->stale)
		return true;
	if (!run_round(group, to_host, NULL, status))
		return false;
	list_arrays(a, &first->parameters);
	for (r = 1; r < group->world; r++)
	{
		const Member *m = &group->members[r];
		Array		b[ARRAYS];

		list_arrays(b, &m->detector->parameters);
		for (i = 0; i < ARRAYS; i++)
			if (a[i].floats != NULL &&
				memcmp(a[i].floats, b[i].floats,
					   sizeof(float) * a[i].count) != 0)
				return eng_fail(status, ENG_DEVICE,
								"%s and %s disagree on the %s after %lld updates: one of them computes wrongly",
								group->members[0].name, m->name, a[i].what,
								(long long) first->updates);
		if (!same_counts(first, m->detector))
			return eng_fail(status, ENG_INTERNAL,
							"%s and %s disagree on the number of updates or the loss scale",
							group->members[0].name, m->name);
	}
	return true;
}

/* ---- batches -------------------------------------------------------------------- */

typedef struct Batch
{
	const EngShare *whole;
	EngSize		padded;
	const EngStepInfo *info;	/* NULL: inference */
	EngStepResult results[ENG_MOST_RANKS];
	EngDetections *out;
} Batch;

/* Contiguous shares whose sizes differ by one at most, larger ones first. */
static int
first_of_share(int n, int32_t world, int32_t rank)
{
	int			rest = n % world;

	return rank * (n / world) + (rank < rest ? rank : rest);
}

static EngShare
share_of(const EngGroup *group, const Batch *batch, int32_t rank)
{
	EngShare	share = *batch->whole;
	int			first = first_of_share(share.batch_count, group->world, rank);

	share.frames = share.batch + first;
	share.n = first_of_share(share.batch_count, group->world, rank + 1) -
		first;
	share.padded = batch->padded;
	return share;
}

static bool
train_share(EngGroup *group, int32_t rank, void *context, EngStatus *status)
{
	Batch	   *batch = context;
	EngShare	share = share_of(group, batch, rank);

	return eng_detector_train_share(group->members[rank].detector, &share,
									batch->info, &batch->results[rank],
									status);
}

static bool
infer_share(EngGroup *group, int32_t rank, void *context, EngStatus *status)
{
	Batch	   *batch = context;
	EngShare	share = share_of(group, batch, rank);

	return share.n == 0 ||
		eng_detector_infer_share(group->members[rank].detector, &share,
								 batch->out + (share.frames - share.batch),
								 status);
}

static bool
check_hooks(const EngDetector *detector, EngStatus *status)
{
	if (detector->has_hooks &&
		(detector->hooks.given != NULL || detector->hooks.mt != NULL ||
		 detector->hooks.sample_mode != ENG_SAMPLE_COUNTER))
		return eng_fail(status, ENG_UNSUPPORTED,
						"recorded runs are compared on one device only");
	return true;
}

bool
eng_group_train(EngGroup *group, const EngShare *whole,
				const EngStepInfo *info, EngStepResult *result,
				EngStatus *status)
{
	EngDetector *first = group->members[0].detector;
	Batch		batch = {.whole = whole, .info = info};

	if (!check_hooks(first, status) || !follow(group, status))
		return false;
	batch.padded = eng_detector_padded(first, whole->frames, whole->n, info);
	if (!run_round(group, train_share, &batch, status))
		return false;
	*result = batch.results[0];
	return true;
}

bool
eng_group_infer(EngGroup *group, const EngShare *whole, EngDetections *out,
				EngStatus *status)
{
	EngDetector *first = group->members[0].detector;
	Batch		batch = {.whole = whole, .out = out};

	if (!check_hooks(first, status) || !follow(group, status))
		return false;
	batch.padded = eng_detector_padded(first, whole->frames, whole->n, NULL);
	return run_round(group, infer_share, &batch, status);
}
