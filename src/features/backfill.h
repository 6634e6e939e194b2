/*
 * features/backfill.h
 *		Compute what is pending: what the procedure and the workers share.
 */
#ifndef AVC_FEATURES_BACKFILL_H
#define AVC_FEATURES_BACKFILL_H

#include "executor/spi.h"
#include "utils/timestamp.h"

#include "features/feature.h"

/* One feature to compute. */
typedef struct AvcTarget
{
	const AvcFeature *feature;
	char	   *ready;			/* condition: may it be computed in this row? */
	char	   *needs;			/* int[] literal of what must be done first */
	SPIPlanPtr	store;			/* this feature alone */
	SPIPlanPtr	fail;			/* mark rows failed; made when needed */
	SPIPlanPtr	open;			/* rows that it is to be computed in; made when
								 * it is broken */
	AvcFailure *broken;			/* why nothing can be computed, in any row;
								 * else NULL */
} AvcTarget;

/* Features that do not read each other: computed by one UPDATE. */
typedef struct AvcLevel
{
	List	   *targets;		/* AvcTarget *, those that are not broken */
	List	   *broken;			/* AvcTarget * */
	SPIPlanPtr	store;			/* all targets at once; NULL if there are none */
	SPIPlanPtr	ahead;			/* sends rows to the engine, or NULL */
} AvcLevel;

typedef struct AvcBackfill
{
	const AvcDataset *dataset;
	MemoryContext context;		/* of the run */
	MemoryContext batch;		/* reset with every batch */
	List	   *features;		/* AvcFeature *: all of the dataset */
	List	   *targets;		/* AvcTarget *, in dependency order */
	List	   *levels;			/* AvcLevel * */
	SPIPlanPtr	find;			/* rows with something to do */
	SPIPlanPtr	lock;			/* the same, locked, those of others skipped */
	AvcLevel   *first_ahead;	/* levels that send ahead, or NULL */
	AvcLevel   *last_ahead;
	SPIPlanPtr	settle;			/* waits for the engine's answers; these two
								 * only if some level sends ahead */
	SPIPlanPtr	next;			/* what is sent now is for the next batch */
	List	   *plans;			/* every plan, to be freed */
	List	   *failures;		/* AvcFeatureFailure *, of the batch */
	int64		passed_first;	/* ids between which rows were in use and */
	int64		passed_last;	/* passed over; none if last < first */
	int			piece;			/* rows that are tried at once */
	int			careful;		/* batches to come that lock rows first */
	int64		rows;			/* taken in this run */
	int64		failed;			/* errors in this run */
} AvcBackfill;

/* What became of a batch. */
typedef struct AvcBatch
{
	int			rows;			/* taken */
	int			failed;			/* errors recorded */
	int			busy;			/* rows that others had locked */
	int64		next;			/* where to go on, unless is_end */
	bool		is_end;			/* nothing is left in the range */
} AvcBatch;

/* More rows than this are never locked at once. */
#define AVC_MAX_BATCH 100000

/*
 * backfill_plan.c
 *
 * Choose what to compute (a feature by name, or all for NULL) and prepare
 * its statements; the run lives in the current context.  A feature whose
 * expression cannot be planned, because what it calls is gone or constants of
 * it fail, is one that fails in every row.  SPI must be connected, as for the
 * rest.
 */
extern AvcBackfill *avc_backfill_plan(const AvcDataset *dataset,
									  const char *feature);

/* Forget which rows were passed over. */
extern void avc_backfill_clear_passed(AvcBackfill *run);

/* Prepare a statement of the run, with the role and path of the caller. */
extern SPIPlanPtr avc_backfill_prepare(AvcBackfill *run, const char *sql,
									   int nargs, Oid *types);

/*
 * Have a plan for each statement; at the start of a batch.  What an expression
 * needs may be gone since the last.
 */
extern void avc_backfill_plan_statements(AvcBackfill *run);

/*
 * Rows that were left because they wait for features that were not asked for:
 * how many have a target pending, where there is just one and it reads
 * features; else 0.
 */
extern int64 avc_backfill_count_waiting(AvcBackfill *run);

/*
 * backfill_batch.c
 *
 * Take up to "limit" rows with first <= frame_id <= last, in the current
 * transaction, which the caller commits.  As he is going to go on with what
 * follows in the range, of up to "rest" rows there the shared engine may be
 * given some already.  The memory of the batch is kept until the next.
 */
extern AvcBatch avc_backfill_batch(AvcBackfill *run, int64 first, int64 last,
								   int64 limit, int64 rest);

#endif
