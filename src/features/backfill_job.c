/*
 * features/backfill_job.c
 *		start_backfill: the same in background workers.
 *
 * The workers of a job share ranges of frame_id (_avcurate.backfill_ranges).
 * Who has nothing to do takes an open range with SKIP LOCKED and cuts off as
 * much as it can do in about half a second; what is left is the next range.  A
 * batch locks its range, computes rows of it and moves next_id on, all in
 * one transaction: so a range has one worker at a time, and what a crash or
 * a cancel leaves behind is an open range that starts after the last batch
 * that was committed.  Nobody has to notice that its worker is gone.
 *
 * The first worker, which has claimed the job, reports and ends it.
 */
#include "postgres.h"

#include <unistd.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/wait_event.h"

#include "common/catalog.h"
#include "common/settings.h"
#include "common/spi.h"
#include "features/backfill.h"
#include "jobs/job.h"

PG_FUNCTION_INFO_V1(avc_start_backfill);

extern PGDLLEXPORT void avc_job_backfill(AvcJob *job);

#define MAX_JOB_WORKERS 256
#define POLL_MS			10		/* all open ranges are in work */
#define REPORT_MS		1000
#define BATCH_MS		100		/* what a batch should take */
#define AHEAD_BATCH_MS	2000	/* where it waits for the shared engine, which
								 * is given little more than the batch */
#define FIRST_BATCH		64		/* rows, before that is known */
#define LEAST_BATCH		16
#define MOST_BATCH		8192
#define BATCHES_OF_RANGE 4
#define MOST_STRIDE		16		/* growth of ranges where nothing is to do */
#define SECOND_LOOK		PG_INT64_MIN	/* first_id of the range of all that
										 * were in use */

/* What a worker knows of the job it works on. */
typedef struct Share
{
	AvcJob	   *job;
	AvcBackfill *run;
	AvcJobHelpers *helpers;		/* the first worker's */
	int64		first_id;		/* of the range it works on */
	bool		has_range;
	int			limit;			/* rows of its next batch */
	int			stride;			/* factor of the next range's size */
	int64		reported_rows;
	TimestampTz reported_at;
	double		rate;			/* rows a second, smoothed; < 0 = unknown */
} Share;

/* A range as it is in the table. */
typedef struct Range
{
	int64		next;
	int64		last;
} Range;

/* The sums over all ranges of a job. */
typedef struct Totals
{
	int64		rows;
	int64		failed;
	int64		busy;
	int64		open;			/* ranges */
	double		fraction;		/* of the ids, looked at */
} Totals;

/* ---- options --------------------------------------------------------- */

static Jsonb *
make_options(const char *feature, int workers)
{
	JsonbParseState *state = NULL;
	JsonbValue	value;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	if (feature != NULL)
	{
		value.type = jbvString;
		value.val.string.val = "feature";
		value.val.string.len = strlen("feature");
		pushJsonbValue(&state, WJB_KEY, &value);
		value.val.string.val = unconstify(char *, feature);
		value.val.string.len = strlen(feature);
		pushJsonbValue(&state, WJB_VALUE, &value);
	}
	value.type = jbvString;
	value.val.string.val = "workers";
	value.val.string.len = strlen("workers");
	pushJsonbValue(&state, WJB_KEY, &value);
	value.type = jbvNumeric;
	value.val.numeric = int64_to_numeric(workers);
	pushJsonbValue(&state, WJB_VALUE, &value);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

static JsonbValue *
find_option(const AvcJob *job, const char *name)
{
	return getKeyJsonValueFromContainer(&job->options->root, name,
										strlen(name), NULL);
}

/* The feature that was asked for, or NULL. */
static char *
option_feature(const AvcJob *job)
{
	JsonbValue *value = find_option(job, "feature");

	if (value == NULL || value->type != jbvString)
		return NULL;
	return pnstrdup(value->val.string.val, value->val.string.len);
}

static int
option_workers(const AvcJob *job)
{
	JsonbValue *value = find_option(job, "workers");

	if (value == NULL || value->type != jbvNumeric)
		return 1;
	return DatumGetInt32(DirectFunctionCall1(numeric_int4,
											 NumericGetDatum(value->val.numeric)));
}

/* ---- transactions ---------------------------------------------------- */

static void
begin(Share *share)
{
	avc_job_begin(share->job);
	SPI_connect();
	MemoryContextSwitchTo(share->run->batch);
}

static void
commit(Share *share)
{
	SPI_finish();
	avc_job_commit(share->job);
}

/* Losing this commit in a crash would cost nothing that matters. */
static void
relax_commit(void)
{
	(void) set_config_option("synchronous_commit", "off", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
}

/* ---- ranges ---------------------------------------------------------- */

static int64
column(int number)
{
	bool		is_null;

	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
									   SPI_tuptable->tupdesc, number,
									   &is_null));
}

static void
insert_range(Share *share, int64 first, int64 next, int64 last)
{
	AvcRoleScope scope;

	avc_catalog_enter(&scope);
	avc_spi_exec("INSERT INTO _avcurate.backfill_ranges"
				 " (job, first_id, next_id, last_id) VALUES ($1, $2, $3, $4)",
				 4, (AvcParam[]) {AVC_INT8(share->job->job), AVC_INT8(first),
					 AVC_INT8(next), AVC_INT8(last)}, false, 0);
	avc_catalog_leave(&scope);
}

/* First and last id of the dataset; false if it is empty. */
static bool
find_ends(Share *share, int64 *first, int64 *last)
{
	const AvcDataset *dataset = share->run->dataset;
	AvcRoleScope scope;
	bool		is_null;

	avc_dataset_hold(dataset, RowExclusiveLock);
	avc_role_enter(&scope, dataset->owner);
	avc_spi_exec(psprintf("SELECT pg_catalog.min(frame_id),"
						  " pg_catalog.max(frame_id) FROM ONLY %s",
						  dataset->quoted_name), 0, NULL, true, 0);
	(void) SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
						 &is_null);
	*first = is_null ? 0 : column(1);
	*last = is_null ? -1 : column(2);
	avc_role_leave(&scope);
	return !is_null;
}

/*
 * The ranges that the job begins with: all frames, and those that are still
 * to come.  A job that lost its worker goes on with those that it had.
 */
static void
make_ranges(Share *share)
{
	AvcParam	job = AVC_INT8(share->job->job);
	AvcRoleScope scope;
	int64		first;
	int64		last;
	bool		has_some;

	avc_catalog_enter(&scope);
	if (share->job->attempt == 1)
		avc_spi_exec("DELETE FROM _avcurate.backfill_ranges WHERE job = $1",
					 1, &job, false, 0);
	has_some = avc_spi_exec("SELECT 1 FROM _avcurate.backfill_ranges"
							" WHERE job = $1", 1, &job, false, 1) > 0;
	avc_catalog_leave(&scope);
	if (has_some || !find_ends(share, &first, &last))
		return;
	insert_range(share, first, first, last);
	if (last < PG_INT64_MAX)
		insert_range(share, last + 1, last + 1, PG_INT64_MAX);
}

/* Run a query for a range and lock it; false if somebody else has it. */
static bool
lock_range(Share *share, SPIPlanPtr *plan, const char *sql, int nparams,
		   Range *range)
{
	AvcRoleScope scope;
	bool		is_found;

	avc_catalog_enter(&scope);
	is_found = avc_spi_exec_kept(plan, sql, nparams,
								 (AvcParam[]) {AVC_INT8(share->job->job),
									 AVC_INT8(share->first_id)},
								 false, 0) > 0;
	if (is_found)
	{
		share->first_id = column(1);
		range->next = column(2);
		range->last = column(3);
	}
	avc_catalog_leave(&scope);
	return is_found;
}

/* Lock an open range that nobody works on; false if there is none. */
static bool
take_open_range(Share *share, Range *range)
{
	static SPIPlanPtr plan = NULL;

	return lock_range(share, &plan, "SELECT first_id, next_id, last_id"
					  " FROM _avcurate.backfill_ranges"
					  " WHERE job = $1 AND is_open"
					  " ORDER BY first_id LIMIT 1 FOR UPDATE SKIP LOCKED",
					  1, range);
}

/* Lock the range that this worker has; false if somebody else took it. */
static bool
lock_own_range(Share *share, Range *range)
{
	static SPIPlanPtr plan = NULL;

	return lock_range(share, &plan, "SELECT first_id, next_id, last_id"
					  " FROM _avcurate.backfill_ranges"
					  " WHERE job = $1 AND first_id = $2 AND is_open"
					  " FOR UPDATE SKIP LOCKED", 2, range);
}

/* Leave to others what is more than this worker does in a while. */
static void
cut_range(Share *share, const Range *range)
{
	const AvcDataset *dataset = share->run->dataset;
	int64		most = (int64) share->limit * BATCHES_OF_RANGE * share->stride;
	AvcRoleScope scope;
	int64		rest;

	avc_dataset_hold(dataset, RowExclusiveLock);
	avc_role_enter(&scope, dataset->owner);
	rest = avc_spi_int64(psprintf("SELECT frame_id FROM ONLY %s"
								  " WHERE frame_id OPERATOR(pg_catalog.>=) $1"
								  " AND frame_id OPERATOR(pg_catalog.<=) $2"
								  " ORDER BY frame_id OFFSET $3 LIMIT 1",
								  dataset->quoted_name), 3,
						 (AvcParam[]) {AVC_INT8(range->next),
							 AVC_INT8(range->last), AVC_INT8(most)},
						 range->next);
	avc_role_leave(&scope);
	if (rest <= range->next)
		return;
	avc_catalog_enter(&scope);
	avc_spi_exec("UPDATE _avcurate.backfill_ranges SET last_id = $3"
				 " WHERE job = $1 AND first_id = $2", 3,
				 (AvcParam[]) {AVC_INT8(share->job->job),
					 AVC_INT8(share->first_id), AVC_INT8(rest - 1)},
				 false, 0);
	avc_catalog_leave(&scope);
	insert_range(share, rest, rest, range->last);
}

static Totals
sum_ranges(Share *share)
{
	AvcRoleScope scope;
	Totals		totals;
	bool		is_null;

	avc_catalog_enter(&scope);
	/* the fraction is of the ids that were there at the start, counted once */
	avc_spi_exec("SELECT COALESCE(sum(rows), 0)::int8,"
				 " COALESCE(sum(failed), 0)::int8,"
				 " COALESCE(sum(busy), 0)::int8,"
				 " count(*) FILTER (WHERE is_open),"
				 " COALESCE(sum(CASE WHEN is_open THEN next_id::float8"
				 " ELSE last_id::float8 + 1 END - first_id)"
				 " FILTER (WHERE first_id > $2 AND last_id < $3)"
				 " / sum(last_id::float8 + 1 - first_id)"
				 " FILTER (WHERE first_id > $2 AND last_id < $3), 1)"
				 " FROM _avcurate.backfill_ranges WHERE job = $1", 3,
				 (AvcParam[]) {AVC_INT8(share->job->job),
					 AVC_INT8(SECOND_LOOK), AVC_INT8(PG_INT64_MAX)}, true, 0);
	totals.rows = column(1);
	totals.failed = column(2);
	totals.busy = column(3);
	totals.open = column(4);
	totals.fraction =
		DatumGetFloat8(SPI_getbinval(SPI_tuptable->vals[0],
									 SPI_tuptable->tupdesc, 5, &is_null));
	avc_catalog_leave(&scope);
	return totals;
}

/* ---- work ------------------------------------------------------------- */

typedef enum Claim
{
	CLAIM_RANGE,				/* has one */
	CLAIM_WAIT,					/* all that are open are in work */
	CLAIM_NONE					/* nothing is left */
} Claim;

/* Get a range to work on, in a transaction of its own. */
static Claim
claim_range(Share *share)
{
	Range		range;
	Claim		claim = CLAIM_RANGE;

	begin(share);
	relax_commit();
	if (share->job->is_helper && !avc_job_is_wanted(share->job))
		claim = CLAIM_NONE;
	else if (take_open_range(share, &range))
	{
		/* its parts would be called as those before them */
		if (share->first_id != SECOND_LOOK)
			cut_range(share, &range);
	}
	else
		claim = sum_ranges(share).open > 0 ? CLAIM_WAIT : CLAIM_NONE;
	commit(share);
	share->has_range = claim == CLAIM_RANGE;
	return claim;
}

static void
move_range(Share *share, const AvcBatch *batch)
{
	static SPIPlanPtr plan = NULL;
	AvcRoleScope scope;

	avc_catalog_enter(&scope);
	(void) avc_spi_exec_kept(&plan, "UPDATE _avcurate.backfill_ranges"
							 " SET next_id = $3, is_open = $4,"
							 " rows = rows + $5, failed = failed + $6,"
							 " busy = busy + $7"
							 " WHERE job = $1 AND first_id = $2", 7,
							 (AvcParam[]) {AVC_INT8(share->job->job),
								 AVC_INT8(share->first_id),
								 AVC_INT8(batch->next),
								 AVC_BOOL(!batch->is_end),
								 AVC_INT8(batch->rows),
								 AVC_INT8(batch->failed),
								 AVC_INT8(batch->busy)}, false, 0);
	avc_catalog_leave(&scope);
	share->has_range = !batch->is_end;
}

/* Milliseconds that a batch should take. */
static int
batch_ms(const AvcBackfill *run)
{
	return run->first_ahead != NULL ? AHEAD_BATCH_MS : BATCH_MS;
}

/* Batches shall take their time, and ranges with nothing to do be long. */
static void
adapt(Share *share, const AvcBatch *batch, TimestampTz start)
{
	long		took = TimestampDifferenceMilliseconds(start,
													   GetCurrentTimestamp());
	int			wanted = batch_ms(share->run);

	if (batch->rows == 0)
	{
		share->stride = Min(2 * share->stride, MOST_STRIDE);
		return;
	}
	share->stride = 1;
	if (batch->rows == share->limit && took < wanted)
		share->limit = Min(2 * share->limit, MOST_BATCH);
	else if (took > 2 * wanted)
		share->limit = Max(share->limit / 2, LEAST_BATCH);
}

/* One batch of the worker's range; one transaction. */
static void
work_on_range(Share *share)
{
	TimestampTz start = GetCurrentTimestamp();
	AvcBatch	batch = {0};
	Range		range;

	begin(share);
	if (lock_own_range(share, &range))
	{
		batch = avc_backfill_batch(share->run, range.next, range.last,
								   share->limit, PG_INT64_MAX);
		move_range(share, &batch);
	}
	else
		share->has_range = false;
	commit(share);
	adapt(share, &batch, start);
}

static void
wait_a_little(void)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 POLL_MS, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* ---- report ----------------------------------------------------------- */

/* Progress, speed and errors so far, in the job's row. */
static void
report(Share *share)
{
	TimestampTz now = GetCurrentTimestamp();
	AvcRoleScope scope;
	Totals		totals;
	double		rate;

	if (!TimestampDifferenceExceeds(share->reported_at, now, REPORT_MS))
		return;
	begin(share);
	relax_commit();
	totals = sum_ranges(share);
	rate = (totals.rows - share->reported_rows) * 1e6 /
		(now - share->reported_at);
	share->rate = share->rate < 0 ? rate : 0.7 * share->rate + 0.3 * rate;
	share->reported_rows = totals.rows;
	share->reported_at = now;
	avc_catalog_enter(&scope);
	avc_spi_exec("UPDATE _avcurate.jobs SET failed_rows = $2 WHERE job = $1",
				 2, (AvcParam[]) {AVC_INT8(share->job->job),
					 AVC_INT8(totals.failed)}, false, 0);
	avc_catalog_leave(&scope);
	avc_job_progress(share->job, Min(totals.fraction, 0.999), share->rate);
	commit(share);
}

/* Work until no range is open. */
static void
walk_ranges(Share *share)
{
	for (;;)
	{
		Claim		claim = share->has_range ? CLAIM_RANGE :
			claim_range(share);

		CHECK_FOR_INTERRUPTS();
		if (claim == CLAIM_NONE)
			return;
		if (claim == CLAIM_WAIT)
			wait_a_little();
		else
			work_on_range(share);
		if (!share->job->is_helper)
			report(share);
	}
}

/* ---- the job ---------------------------------------------------------- */

/* Rows that were in use get a second chance.  Returns whether there are. */
static bool
look_again(Share *share)
{
	int64		first;
	int64		last;
	bool		is_needed;

	begin(share);
	is_needed = sum_ranges(share).busy > 0 &&
		find_ends(share, &first, &last);
	if (is_needed)
	{
		AvcRoleScope scope;
		AvcParam	job = AVC_INT8(share->job->job);

		avc_catalog_enter(&scope);
		avc_spi_exec("UPDATE _avcurate.backfill_ranges SET busy = 0"
					 " WHERE job = $1", 1, &job, false, 0);
		avc_spi_exec("DELETE FROM _avcurate.backfill_ranges"
					 " WHERE job = $1 AND first_id = $2", 2,
					 (AvcParam[]) {job, AVC_INT8(SECOND_LOOK)}, false, 0);
		avc_catalog_leave(&scope);
		insert_range(share, SECOND_LOOK, first, last);
	}
	commit(share);
	return is_needed;
}

static void
finish(Share *share)
{
	AvcJob	   *job = share->job;
	AvcRoleScope scope;
	Totals		totals;
	int64		waiting;

	begin(share);
	totals = sum_ranges(share);
	avc_feature_errors_forget(share->run->dataset);
	avc_catalog_enter(&scope);
	avc_spi_exec("DELETE FROM _avcurate.backfill_ranges WHERE job = $1", 1,
				 (AvcParam[]) {AVC_INT8(job->job)}, false, 0);
	avc_spi_exec("UPDATE _avcurate.jobs SET failed_rows = $2 WHERE job = $1",
				 2, (AvcParam[]) {AVC_INT8(job->job),
					 AVC_INT8(totals.failed)}, false, 0);
	avc_catalog_leave(&scope);
	avc_job_log(job, "info", "backfilled " INT64_FORMAT " rows of \"%s\", "
				INT64_FORMAT " errors", totals.rows,
				share->run->dataset->table_name, totals.failed);
	if (totals.busy > 0)
		avc_job_log(job, "notice", "rows in use by others were passed over: "
					INT64_FORMAT, totals.busy);
	waiting = avc_backfill_count_waiting(share->run);
	if (waiting > 0)
		avc_job_log(job, "notice", "rows that wait for features that this one reads: "
					INT64_FORMAT, waiting);
	avc_job_finish(job, totals.failed);
	commit(share);
}

/* What the first worker does beside the work. */
static void
lead(Share *share)
{
	int			wanted = option_workers(share->job) - 1;

	begin(share);
	make_ranges(share);
	share->reported_rows = sum_ranges(share).rows;
	commit(share);
	share->helpers = avc_job_helpers_start(share->job, wanted);
	PG_TRY();
	{
		walk_ranges(share);
		if (look_again(share))
			walk_ranges(share);
		avc_job_helpers_wait(share->helpers);
	}
	PG_CATCH();
	{
		avc_job_helpers_stop(share->helpers);
		PG_RE_THROW();
	}
	PG_END_TRY();
	finish(share);
}

/*
 * Body of the job and of its helpers.
 */
void
avc_job_backfill(AvcJob *job)
{
	Share		share = {job};

	share.limit = FIRST_BATCH;
	share.stride = 1;
	share.rate = -1;
	share.reported_at = GetCurrentTimestamp();
	avc_job_begin(job);
	SPI_connect();
	MemoryContextSwitchTo(job->context);
	share.run = avc_backfill_plan(avc_dataset_find_owned(job->dataset),
								  option_feature(job));
	commit(&share);
	if (job->is_helper)
		walk_ranges(&share);
	else
		lead(&share);
}

/*
 * start_backfill(dataset, feature, workers) returns bigint: the job.
 */
Datum
avc_start_backfill(PG_FUNCTION_ARGS)
{
	AvcJobRequest request = {0};
	AvcDataset *dataset;
	char	   *feature;
	int			workers;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("dataset must not be NULL")));
	dataset = avc_dataset_find_owned(PG_GETARG_OID(0));
	feature = PG_ARGISNULL(1) ? NULL : NameStr(*PG_GETARG_NAME(1));
	workers = PG_ARGISNULL(2) ?
		Min(avc_max_workers, Max((int) sysconf(_SC_NPROCESSORS_ONLN), 1)) :
		PG_GETARG_INT32(2);
	if (workers < 1 || workers > MAX_JOB_WORKERS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%d workers is not between 1 and %d", workers,
						MAX_JOB_WORKERS)));
	if (feature != NULL)
		avc_feature_require(dataset, feature);
	request.kind = "backfill";
	request.body = "avc_job_backfill";
	request.dataset = dataset->relid;
	request.options = make_options(feature, workers);
	PG_RETURN_INT64(avc_job_add(&request));
}
