/*
 * engine/core/ranks.h
 *		Backends of one process that train one network together.
 *
 * Each has a thread and a device of its own.  What is summed over the whole
 * batch (statistics of norms, losses, gradients) is summed over the ranks by
 * EngBackend.all_reduce, to the same bits on all, so that all decide alike
 * without asking each other.  Where one may fail and the others not, they
 * agree before they go on; after that a failure breaks the ranks for good:
 * who waits is woken, and nothing more is summed.
 */
#ifndef ENG_CORE_RANKS_H
#define ENG_CORE_RANKS_H

#include "engine/core/backend.h"

#define ENG_MOST_RANKS	ENG_MOST_DEVICES

typedef struct EngRanks EngRanks;

/*
 * Make the backends ranks 0 to world - 1 of one job, before anything is
 * planned for them.  They must be of one kind.
 */
extern EngRanks *eng_ranks_create(EngBackend *const *backends, int32_t world,
								  EngStatus *status);
/* After the backends have been closed. */
extern void eng_ranks_free(EngRanks *ranks);

/* Wait for all ranks; whether all of them are fine.  Alone: fine. */
extern bool eng_ranks_agree(EngBackend *backend, bool fine);

/* This rank cannot go on. */
extern void eng_ranks_break(EngRanks *ranks);
extern bool eng_ranks_are_broken(const EngRanks *ranks);

static inline bool
eng_backend_is_rank(const EngBackend *backend)
{
	return backend->world > 1;
}

/* Whether nothing has broken the ranks so far.  Alone: true. */
static inline bool
eng_ranks_check(const EngBackend *backend)
{
	return !eng_backend_is_rank(backend) ||
		!eng_ranks_are_broken(backend->ranks);
}

#endif
