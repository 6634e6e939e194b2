/*
 * features/backfill_batch.c
 *		One batch of a backfill: find rows, compute, store, sort out failures.
 *
 * No row is locked while nothing is known against it: an UPDATE evaluates
 * the expressions and stores what they give, and where another transaction
 * was faster, PostgreSQL evaluates them again on the newer row.  Only if an
 * UPDATE meets a lock that is not given back at once, the rest of the batch
 * and of some batches to come is locked first, without what others hold
 * (SKIP LOCKED).
 *
 * If an expression fails, the row is known (feature_row).  The rows before
 * it are computed again, it is locked and tried by itself, feature by
 * feature, and the walk goes on behind it in pieces that shrink with every
 * failure and grow with every success.  So each row is computed three times
 * at most, and rarely more than once where few rows fail.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "common/attempt.h"
#include "common/catalog.h"
#include "common/spi.h"
#include "features/backfill.h"

PG_FUNCTION_INFO_V1(avc_feature_row);

/* How long an UPDATE waits for a row of somebody else. */
#define LOCK_WAIT "20ms"

/* After a lock was waited for in vain, so many batches lock first. */
#define CAREFUL_BATCHES 32

/* After a failure, this many rows are tried at once at most. */
#define PIECE_AFTER_FAILURE 16

/*
 * So many rows are sent to the shared engine before what is asked of them is
 * stored: its answers are kept in memory meanwhile.
 */
#define AHEAD_ROWS 1024

/*
 * Of the rows after them so many are sent before that, so that the engine has
 * work until the next are sent; as many as may be under way.
 */
#define NEXT_ROWS 96

/* The rows of a batch. */
typedef struct Rows
{
	int64	   *ids;			/* ascending */
	bool	   *is_busy;		/* locked by others */
	bool		is_locked;		/* all others are locked by us */
	int			count;
	int			known;			/* ids: count, and some of the next batch */
	int			busy;			/* how many are */
	int64		stored;			/* in this level, failures included */
} Rows;

/* The row that an UPDATE of a backfill is at. */
static int64 current_row;

/*
 * feature_row(frame_id) returns true: notes the row whose features are
 * computed next.
 */
Datum
avc_feature_row(PG_FUNCTION_ARGS)
{
	current_row = PG_GETARG_INT64(0);
	PG_RETURN_BOOL(true);
}

/*
 * Do the definitions of the run still stand?  With the lock taken here they
 * will until the end of the transaction.
 */
static void
check_definitions(AvcBackfill *run)
{
	static SPIPlanPtr plan = NULL;
	Datum	   *numbers = palloc(list_length(run->targets) * sizeof(Datum));
	AvcParam	params[2] = {AVC_REGCLASS(run->dataset->relid)};
	AvcRoleScope scope;
	ListCell   *cell;
	int64		count;

	avc_dataset_hold(run->dataset, RowExclusiveLock);
	foreach(cell, run->targets)
		numbers[foreach_current_index(cell)] =
			Int32GetDatum(((AvcTarget *) lfirst(cell))->feature->number);
	params[1] = (AvcParam) {INT4ARRAYOID,
		PointerGetDatum(construct_array(numbers, list_length(run->targets),
										INT4OID, 4, true, TYPALIGN_INT)),
		false};
	avc_catalog_enter(&scope);
	count = avc_spi_exec_kept(&plan, "SELECT 1 FROM _avcurate.features"
							  " WHERE dataset = $1 AND feature_no = ANY ($2)",
							  2, params, false, 0);
	SPI_freetuptable(SPI_tuptable);
	avc_catalog_leave(&scope);
	if (count != list_length(run->targets))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("features of dataset \"%s\" were changed during the backfill",
						run->dataset->table_name),
				 errhint("Run the backfill again.")));
}

static uint64
execute(SPIPlanPtr plan, Datum *values)
{
	MemoryContext context = CurrentMemoryContext;
	int			result = SPI_execute_plan(plan, values, NULL, false, 0);

	/* SPI leaves its own context current, which lives until SPI_finish */
	MemoryContextSwitchTo(context);
	if (result < 0)
		elog(ERROR, "could not run a statement of the backfill: %s",
			 SPI_result_code_string(result));
	return SPI_processed;
}

/* Run find or lock; the ids that it gives, ascending. */
static int
find_rows(SPIPlanPtr plan, int64 first, int64 last, int64 limit, int64 **ids)
{
	Datum		values[3] = {
		Int64GetDatum(first), Int64GetDatum(last), Int64GetDatum(limit)
	};
	int			count = (int) execute(plan, values);
	int			i;
	bool		is_null;

	*ids = palloc(Max(count, 1) * sizeof(int64));
	for (i = 0; i < count; i++)
		(*ids)[i] = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i],
												SPI_tuptable->tupdesc, 1,
												&is_null));
	SPI_freetuptable(SPI_tuptable);
	return count;
}

/* ---- one UPDATE ------------------------------------------------------ */

typedef struct StoreStep
{
	SPIPlanPtr	plan;
	int64		first;
	int64		last;
	int64		stored;			/* rows */
} StoreStep;

static void
store_range(void *arg)
{
	StoreStep  *step = arg;
	Datum		values[2] = {
		Int64GetDatum(step->first), Int64GetDatum(step->last)
	};

	current_row = step->first;
	step->stored = execute(step->plan, values);
}

/* Rows may be in use: wait for them no longer than LOCK_WAIT. */
static void
store_open_range(void *arg)
{
	int			level = NewGUCNestLevel();

	(void) set_config_option("lock_timeout", LOCK_WAIT, PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	store_range(arg);
	AtEOXact_GUC(false, level);
}

/*
 * Compute and store in a range of ids and return how many rows that were; -1
 * and why if it failed.  Where the rows are locked by us, or only read, the
 * locks that an expression itself may wait for have their time.
 */
static int64
try_range(SPIPlanPtr plan, int64 first, int64 last, bool is_locked,
		  AvcFailure *why)
{
	StoreStep	step = {plan, first, last, 0};

	CHECK_FOR_INTERRUPTS();
	if (avc_attempt(is_locked ? store_range : store_open_range, &step, why))
		return step.stored;
	/* the disk, a missing program: not a matter of rows */
	if (ERRCODE_TO_CATEGORY(why->sqlstate) == ERRCODE_SYSTEM_ERROR)
		ereport(ERROR,
				(errcode(why->sqlstate),
				 errmsg("could not go on with the backfill: %s",
						why->message)));
	return -1;
}

/* ---- a row by itself -------------------------------------------------- */

static void
note_failure(AvcBackfill *run, AvcTarget *target, int64 frame_id,
			 const AvcFailure *why)
{
	AvcFeatureFailure *failure = palloc(sizeof(AvcFeatureFailure));

	failure->feature = target->feature;
	failure->frame_id = frame_id;
	failure->why = *why;
	run->failures = lappend(run->failures, failure);
}

/* Pass over a row; the run may look once more where it has passed over. */
static void
note_busy(AvcBackfill *run, Rows *rows, int at)
{
	if (rows->is_busy[at])
		return;
	rows->is_busy[at] = true;
	rows->busy++;
	run->passed_first = Min(run->passed_first, rows->ids[at]);
	run->passed_last = Max(run->passed_last, rows->ids[at]);
}

/*
 * Feature by feature, under a lock: who fails has failed in the row as it
 * will be when it is marked.  False if one failed.
 */
static bool
store_row(AvcBackfill *run, AvcLevel *level, Rows *rows, int at)
{
	int64		frame_id = rows->ids[at];
	ListCell   *cell;
	int64	   *locked;
	AvcFailure	why;
	bool		is_stored = true;

	if (find_rows(run->lock, frame_id, frame_id, 1, &locked) == 0)
	{
		note_busy(run, rows, at);
		return true;
	}
	foreach(cell, level->targets)
	{
		AvcTarget  *target = lfirst(cell);

		if (try_range(target->store, frame_id, frame_id, true, &why) >= 0)
			continue;
		note_failure(run, target, frame_id, &why);
		is_stored = false;
	}
	rows->stored++;
	return is_stored;
}

/* ---- a level ----------------------------------------------------------- */

/* Lock what is left from "from" on, and note what others hold. */
static void
lock_rest(AvcBackfill *run, Rows *rows, int from)
{
	int64	   *locked;
	int			count = find_rows(run->lock, rows->ids[from],
								  rows->ids[rows->count - 1],
								  rows->count - from, &locked);
	int			next = 0;
	int			i;

	rows->is_locked = true;
	for (i = from; i < rows->count; i++)
	{
		while (next < count && locked[next] < rows->ids[i])
			next++;
		if (next >= count || locked[next] != rows->ids[i])
			note_busy(run, rows, i);
	}
}

/* Position of the first row that is not below the id. */
static int
position_of(const Rows *rows, int from, int64 id)
{
	while (from < rows->count && rows->ids[from] < id)
		from++;
	return from;
}

/* Where a piece that starts at "from" ends: before a row in use. */
static int
end_of_piece(const AvcBackfill *run, const Rows *rows, int from, int limit)
{
	int			end = from + Min(run->piece, limit - from);
	int			i;

	for (i = from; i < end; i++)
	{
		if (rows->is_busy[i])
			return i;
	}
	return end;
}

/* A step of sending ahead.  What fails here fails again where it belongs. */
static void
try_ahead(SPIPlanPtr plan, int64 first, int64 last)
{
	AvcFailure	why;

	if (try_range(plan, first, last, true, &why) >= 0)
		SPI_freetuptable(SPI_tuptable);
}

/*
 * Give the shared engine rows of a level before anything waits for what it
 * says, so that it works on several at once and the UPDATE, which locks rows,
 * is short.  Those to come are under way when their turn comes, which may be
 * in the next transaction.
 */
static void
send_ahead(AvcBackfill *run, AvcLevel *level, const Rows *rows, int from,
		   int to)
{
	AvcLevel   *next = level;
	int			end = rows->count;

	if (to == rows->count && level == run->last_ahead)
	{
		next = run->first_ahead;
		end = rows->known;
	}
	end = Min(to + NEXT_ROWS, end);
	try_ahead(level->ahead, rows->ids[from], rows->ids[to - 1]);
	try_ahead(run->next, 0, 0);
	if (to < end)
		try_ahead(next->ahead, rows->ids[to], rows->ids[end - 1]);
	try_ahead(run->settle, 0, 0);
}

/* Compute what is computable of a level in rows from "at" up to "to". */
static void
store_rows(AvcBackfill *run, AvcLevel *level, Rows *rows, int at, int to)
{
	int			bad = to;		/* no piece goes beyond it */
	AvcFailure	why;
	int64		stored;

	while (at < to)
	{
		int			end = end_of_piece(run, rows, at, bad);

		if (rows->is_busy[at])
			at++;
		else if (at == bad || run->piece == 1)
		{
			if (store_row(run, level, rows, at) && at != bad)
				run->piece = 2;
			at++;
		}
		else if ((stored = try_range(level->store, rows->ids[at],
									 rows->ids[end - 1], rows->is_locked,
									 &why)) >= 0)
		{
			rows->stored += stored;
			run->piece = Min(run->piece + run->piece / 4 + 1,
							 AVC_MAX_BATCH);
			at = end;
		}
		else if (why.sqlstate == ERRCODE_LOCK_NOT_AVAILABLE &&
				 !rows->is_locked)
		{
			run->careful = CAREFUL_BATCHES;
			lock_rest(run, rows, at);
		}
		else
		{
			bad = Min(position_of(rows, at, current_row), end - 1);
			run->piece = Max(Min(run->piece / 2, PIECE_AFTER_FAILURE), 1);
			continue;
		}
		if (at > bad)
			bad = to;
	}
}

static void
store_level(AvcBackfill *run, AvcLevel *level, Rows *rows)
{
	int			from = 0;
	int			to;

	for (; from < rows->count; from = to)
	{
		to = rows->count;
		if (level->ahead != NULL)
		{
			to = Min(from + AHEAD_ROWS, to);
			send_ahead(run, level, rows, from, to);
		}
		store_rows(run, level, rows, from, to);
	}
}

/*
 * An expression that cannot be planned fails in every row that it was to be
 * computed in, for the same reason.
 */
static void
fail_rows(AvcBackfill *run, AvcTarget *target, Rows *rows)
{
	int64	   *open;
	int			count;
	int			at = 0;
	int			i;

	if (!rows->is_locked)
		lock_rest(run, rows, 0);
	count = find_rows(target->open, rows->ids[0], rows->ids[rows->count - 1],
					  rows->count, &open);
	for (i = 0; i < count; i++)
	{
		at = position_of(rows, at, open[i]);
		if (at == rows->count || rows->ids[at] != open[i] ||
			rows->is_busy[at])
			continue;
		note_failure(run, target, open[i], target->broken);
		rows->stored++;
	}
}

/* ---- a batch ----------------------------------------------------------- */

static int64 *
failed_ids(const AvcBackfill *run, const AvcTarget *target, int *count)
{
	int64	   *ids = palloc(list_length(run->failures) * sizeof(int64));
	ListCell   *cell;

	*count = 0;
	foreach(cell, run->failures)
	{
		AvcFeatureFailure *failure = lfirst(cell);

		if (failure->feature == target->feature)
			ids[(*count)++] = failure->frame_id;
	}
	return ids;
}

/* What rows are marked failed; for those who forbid it. */
typedef struct Marking
{
	const char *feature;
	int64		first;			/* of the frames */
} Marking;

static void
describe_marking(void *arg)
{
	Marking    *marking = arg;
	int			category = ERRCODE_TO_CATEGORY(geterrcode());

	errcontext("marking rows in which feature \"%s\" has failed, from frame "
			   INT64_FORMAT " on", marking->feature, marking->first);
	if (category != ERRCODE_OPERATOR_INTERVENTION &&
		category != ERRCODE_TRANSACTION_ROLLBACK &&
		category != ERRCODE_INSUFFICIENT_RESOURCES)
		errhint("Such rows have NULL in the feature's column: drop what forbids it, and make constraints NOT DEFERRABLE.");
}

/*
 * UPDATE that marks rows failed.  NULL stands in the column, and in those of
 * features that read it: they wait for a value that may never come, and what
 * they hold was computed from another.
 */
static SPIPlanPtr
prepare_fail(AvcBackfill *run, const AvcFeature *feature)
{
	Oid			types[1] = {INT8ARRAYOID};
	StringInfoData sql;
	ListCell   *cell;

	initStringInfo(&sql);
	appendStringInfo(&sql, "UPDATE ONLY %s AS frame SET %s = NULL, ",
					 run->dataset->quoted_name,
					 quote_identifier(feature->name));
	foreach(cell, run->features)
	{
		AvcFeature *other = lfirst(cell);

		if (list_member_ptr(other->all_needs, feature))
			appendStringInfo(&sql, "%s = NULL, ",
							 quote_identifier(other->name));
	}
	appendStringInfo(&sql, AVC_MARKS_COLUMN " = avcurate.feature_marked(frame."
					 AVC_MARKS_COLUMN ", %d, 0, 2, '{}')"
					 " WHERE frame.frame_id OPERATOR(pg_catalog.=) ANY ($1)",
					 feature->number);
	return avc_backfill_prepare(run, sql.data, 1, types);
}

/* The rows are locked since they failed. */
static void
mark_failed(AvcBackfill *run, AvcTarget *target)
{
	int			count;
	int64	   *ids = failed_ids(run, target, &count);
	Datum		array;
	Marking		marking = {target->feature->name, count > 0 ? ids[0] : 0};
	ErrorContextCallback callback = {error_context_stack, describe_marking,
	&marking};

	if (count == 0)
		return;
	if (target->fail == NULL)
		target->fail = prepare_fail(run, target->feature);
	array = avc_id_array(ids, count).value;
	error_context_stack = &callback;
	execute(target->fail, &array);
	error_context_stack = callback.previous;
	run->failed += count;
}

/* Compute a level in the rows, and mark those in which something failed. */
static void
finish_level(AvcBackfill *run, AvcLevel *level, Rows *rows)
{
	ListCell   *cell;

	rows->stored = 0;
	if (level->store != NULL)
		store_level(run, level, rows);
	foreach(cell, level->broken)
		fail_rows(run, lfirst(cell), rows);
	foreach(cell, level->targets)
		mark_failed(run, lfirst(cell));
	foreach(cell, level->broken)
		mark_failed(run, lfirst(cell));
}

/* How many rows something was stored in. */
static int64
store_levels(AvcBackfill *run, Rows *rows)
{
	int64		stored = 0;
	ListCell   *cell;

	rows->is_busy = palloc0(rows->count * sizeof(bool));
	if (run->careful > 0)
	{
		run->careful--;
		lock_rest(run, rows, 0);
	}
	foreach(cell, run->levels)
	{
		finish_level(run, lfirst(cell), rows);
		stored += rows->stored;
	}
	/* a row may be stored in once a level */
	return Min(stored, rows->count - rows->busy);
}

AvcBatch
avc_backfill_batch(AvcBackfill *run, int64 first, int64 last, int64 limit,
				   int64 rest)
{
	MemoryContext old;
	AvcBatch	batch = {0, 0, 0, first, true};
	int64		failed_before = run->failed;
	AvcRoleScope scope;
	Rows		rows = {0};

	MemoryContextReset(run->batch);
	run->failures = NIL;
	if (run->targets == NIL)
		return batch;
	old = MemoryContextSwitchTo(run->batch);
	check_definitions(run);
	avc_role_enter(&scope, run->dataset->owner);
	avc_backfill_plan_statements(run);
	rows.known = find_rows(run->find, first, last, limit +
						   (run->first_ahead != NULL ?
							Min(rest, NEXT_ROWS) : 0),
						   &rows.ids);
	rows.count = Min(rows.known, limit);
	if (rows.count > 0)
		batch.rows = (int) store_levels(run, &rows);
	avc_role_leave(&scope);
	if (rows.count > 0)
		avc_feature_errors_settle(run->dataset, run->targets, rows.ids[0],
								  rows.ids[rows.count - 1], run->failures);
	batch.failed = (int) (run->failed - failed_before);
	batch.is_end = rows.count < limit || rows.ids[rows.count - 1] == last;
	if (!batch.is_end)
		batch.next = rows.ids[rows.count - 1] + 1;
	batch.busy = rows.busy;
	run->rows += batch.rows;
	MemoryContextSwitchTo(old);
	return batch;
}
