/*
 * features/backfill.c
 *		The procedure backfill: compute what is pending in this session.
 *
 * A batch is one transaction, so a cancel or a crash keeps what was finished
 * and leaves only pending marks behind.
 */
#include "postgres.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/timestamp.h"

#include "common/procedure.h"
#include "common/spi.h"
#include "features/backfill.h"

PG_FUNCTION_INFO_V1(avc_backfill);

#define NOTICE_MS 5000			/* between two progress messages */

/* What the caller asked for, and what he has been told. */
typedef struct Wish
{
	char	   *feature;		/* NULL = all */
	int			batch_size;
	int64		max_rows;
	TimestampTz last_notice;
} Wish;

static void
read_wish(FunctionCallInfo fcinfo, Wish *wish)
{
	if (PG_ARGISNULL(0) || PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("dataset and batch_size must not be NULL")));
	wish->feature = PG_ARGISNULL(1) ? NULL :
		pstrdup(NameStr(*PG_GETARG_NAME(1)));
	wish->last_notice = GetCurrentTimestamp();
	wish->batch_size = PG_GETARG_INT32(2);
	wish->max_rows = PG_ARGISNULL(3) ? PG_INT64_MAX : PG_GETARG_INT64(3);
	if (wish->batch_size < 1 || wish->batch_size > AVC_MAX_BATCH)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("batch_size %d is not between 1 and %d",
						wish->batch_size, AVC_MAX_BATCH)));
	if (wish->max_rows < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_rows must not be negative")));
}

static void
say_progress(AvcBackfill *run, Wish *wish)
{
	TimestampTz now = GetCurrentTimestamp();

	if (!TimestampDifferenceExceeds(wish->last_notice, now, NOTICE_MS))
		return;
	wish->last_notice = now;
	ereport(NOTICE,
			(errmsg("backfilled " INT64_FORMAT " rows of \"%s\", "
					INT64_FORMAT " errors",
					run->rows, run->dataset->table_name, run->failed)));
}

/* Walk over a range of ids, a batch a transaction; rows that are in use. */
static int64
walk(AvcBackfill *run, Wish *wish, int64 first, int64 last)
{
	int64		busy = 0;

	/* do not keep locks of planning longer than a batch would */
	avc_procedure_commit();
	while (run->targets != NIL && run->rows < wish->max_rows)
	{
		int64		limit = Min(wish->batch_size, wish->max_rows - run->rows);
		AvcBatch	batch = avc_backfill_batch(run, first, last, limit,
											   wish->max_rows - run->rows -
											   limit);

		avc_procedure_commit();
		say_progress(run, wish);
		busy += batch.busy;
		if (batch.is_end)
			break;
		first = batch.next;
	}
	return busy;
}

/* What was in use gets a second chance. */
static int64
walk_all(AvcBackfill *run, Wish *wish)
{
	int64		first;
	int64		last;

	if (walk(run, wish, PG_INT64_MIN, PG_INT64_MAX) == 0)
		return 0;
	first = run->passed_first;
	last = run->passed_last;
	avc_backfill_clear_passed(run);
	return walk(run, wish, first, last);
}

/* What is left, and why; NULL if nothing is. */
static char *
describe_rest(AvcBackfill *run, int64 busy)
{
	int64		waiting;

	if (busy > 0)
		return psprintf("Rows in use by others were passed over: "
						INT64_FORMAT ".", busy);
	waiting = avc_backfill_count_waiting(run);
	if (waiting > 0)
		return psprintf("Rows that wait for features that this one reads: "
						INT64_FORMAT ".", waiting);
	return NULL;
}

static void
say_end(AvcBackfill *run, const Wish *wish, int64 busy)
{
	char	   *rest = run->rows < wish->max_rows ?
		describe_rest(run, busy) : NULL;

	ereport(NOTICE,
			(errmsg("backfilled " INT64_FORMAT " rows of \"%s\", "
					INT64_FORMAT " errors",
					run->rows, run->dataset->table_name, run->failed),
			 rest != NULL ? errdetail("%s", rest) : 0,
			 run->failed > 0 ?
			 errhint("See avcurate.feature_errors; avcurate.retry_feature() tries failed rows again.") : 0));
}

static void
backfill(FunctionCallInfo fcinfo)
{
	AvcBackfill *run;
	Wish		wish;
	int64		busy;

	read_wish(fcinfo, &wish);
	run = avc_backfill_plan(avc_dataset_find_owned(PG_GETARG_OID(0)),
							wish.feature);
	busy = walk_all(run, &wish);
	avc_feature_errors_forget(run->dataset);
	say_end(run, &wish, busy);
}

Datum
avc_backfill(PG_FUNCTION_ARGS)
{
	return avc_procedure_run(fcinfo, "backfill", backfill);
}
