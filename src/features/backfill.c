/*
 * features/backfill.c
 *		The procedure backfill: compute what is pending, batch by batch.
 *
 * A batch is one transaction: claim rows in frame_id order, skipping what
 * others have locked, and run one UPDATE a level of features that evaluates
 * the expressions and marks them done.  The rows stay locked from the claim
 * to the commit, so no row can change under its computation, and a crash
 * leaves only pending marks behind.  Features that read features are a level
 * above them and follow in the same batch.
 *
 * If an UPDATE fails, it is tried again in pieces of 16 rows and then row by
 * row and feature by feature, each in a subtransaction: a bad row costs at
 * most three evaluations of its neighbours.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/timestamp.h"

#include "common/attempt.h"
#include "common/catalog.h"
#include "common/spi.h"
#include "datasets/ingest.h"
#include "features/feature.h"

PG_FUNCTION_INFO_V1(avc_backfill);

#define MAX_BATCH 100000
#define PIECE_ROWS 16
#define NOTICE_MS 5000			/* between two progress messages */

/* One feature to compute. */
typedef struct Target
{
	const AvcFeature *feature;
	char	   *ready;			/* condition: may it be computed in this row? */
	char	   *needs;			/* int[] literal of what must be done first */
	SPIPlanPtr	store;			/* this feature alone */
	SPIPlanPtr	fail;			/* made when needed */
	int64		failed;			/* rows, in this run */
} Target;

typedef struct Level
{
	List	   *targets;		/* Target * */
	SPIPlanPtr	store;			/* all of them at once */
} Level;

typedef struct Backfill
{
	const AvcDataset *dataset;
	MemoryContext context;		/* of the run */
	MemoryContext batch;		/* reset with every batch */
	List	   *targets;		/* Target *, in dependency order */
	List	   *levels;			/* Level * */
	SPIPlanPtr	claim;
	List	   *plans;			/* every plan, to be freed */
	List	   *failures;		/* AvcFeatureFailure *, of the batch */
	int64		rows;			/* taken in this run */
	int64		failed;
	TimestampTz last_notice;
} Backfill;

static void
free_plans(void *arg)
{
	Backfill   *run = arg;
	ListCell   *cell;

	foreach(cell, run->plans)
		SPI_freeplan(lfirst(cell));
	run->plans = NIL;
}

/* Prepare a statement for the run; the role and path of backfill are set. */
static SPIPlanPtr
prepare(Backfill *run, const char *sql, int nargs, Oid *types)
{
	MemoryContext old = CurrentMemoryContext;
	SPIPlanPtr	plan = SPI_prepare(sql, nargs, types);

	MemoryContextSwitchTo(old);
	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql,
			 SPI_result_code_string(SPI_result));
	SPI_keepplan(plan);
	MemoryContextSwitchTo(run->context);
	run->plans = lappend(run->plans, plan);
	MemoryContextSwitchTo(old);
	return plan;
}

static char *
numbers_literal(List *features)
{
	StringInfoData text;
	ListCell   *cell;

	initStringInfo(&text);
	appendStringInfoString(&text, "'{");
	foreach(cell, features)
		appendStringInfo(&text, "%s%d", foreach_current_index(cell) ? "," : "",
						 ((AvcFeature *) lfirst(cell))->number);
	appendStringInfoString(&text, "}'");
	return text.data;
}

static Target *
make_target(const AvcFeature *feature)
{
	Target	   *target = palloc0(sizeof(Target));

	target->feature = feature;
	target->needs = numbers_literal(feature->needs);
	target->ready = psprintf("avcurate.feature_open(frame." AVC_MARKS_COLUMN
							 ", %d, %s, '{}')", feature->number,
							 target->needs);
	return target;
}

/* UPDATE that computes the targets in the rows $1 where they are ready. */
static SPIPlanPtr
prepare_store(Backfill *run, List *targets)
{
	Oid			types[1] = {INT8ARRAYOID};
	StringInfoData sql;
	char	   *marks = "frame." AVC_MARKS_COLUMN;
	ListCell   *cell;

	initStringInfo(&sql);
	appendStringInfo(&sql, "UPDATE ONLY %s AS frame SET ",
					 run->dataset->quoted_name);
	foreach(cell, targets)
	{
		Target	   *target = lfirst(cell);
		const char *column = quote_identifier(target->feature->name);

		appendStringInfo(&sql, "%s = CASE WHEN %s THEN (%s) ELSE frame.%s END, ",
						 column, target->ready, target->feature->expression,
						 column);
		marks = psprintf("avcurate.feature_marked(%s, %d, 0, 1, %s)", marks,
						 target->feature->number, target->needs);
	}
	appendStringInfo(&sql, AVC_MARKS_COLUMN " = %s"
					 " WHERE frame.frame_id OPERATOR(pg_catalog.=) ANY ($1) AND (",
					 marks);
	foreach(cell, targets)
		appendStringInfo(&sql, "%s%s", foreach_current_index(cell) ? " OR " : "",
						 ((Target *) lfirst(cell))->ready);
	appendStringInfoString(&sql, ")");
	return prepare(run, sql.data, 1, types);
}

typedef struct PrepareStep
{
	Backfill   *run;
	Target	   *target;
} PrepareStep;

static void
prepare_target(void *arg)
{
	PrepareStep *step = arg;

	step->target->store = prepare_store(step->run, list_make1(step->target));
}

/*
 * Can the feature be computed at all?  If what it calls is gone, that is an
 * error when it was asked for by name; else the others go on without it.
 */
static bool
is_computable(Backfill *run, Target *target, bool is_named)
{
	PrepareStep step = {run, target};
	AvcFailure	why;

	if (avc_attempt(prepare_target, &step, &why))
		return true;
	ereport(is_named ? ERROR : WARNING,
			(errcode(why.sqlstate),
			 errmsg("could not compute feature \"%s\": %s",
					target->feature->name, why.message),
			 errhint("Change its expression with avcurate.alter_feature().")));
	return false;
}

/*
 * SELECT of the next rows that have something to do: a target that is
 * pending, what it reads from outside the run being done, and nothing that
 * it reads having failed.
 */
static void
prepare_claim(Backfill *run)
{
	Oid			types[2] = {INT8OID, INT8OID};
	StringInfoData sql;
	ListCell   *cell,
			   *need;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT frame.frame_id FROM ONLY %s AS frame"
					 " WHERE frame.frame_id OPERATOR(pg_catalog.>) $1 AND (",
					 run->dataset->quoted_name);
	foreach(cell, run->targets)
	{
		const AvcFeature *feature = ((Target *) lfirst(cell))->feature;
		List	   *outside = NIL;
		List	   *inside = NIL;

		foreach(need, avc_feature_all_needs(feature))
		{
			ListCell   *other;
			bool		is_inside = false;

			foreach(other, run->targets)
				is_inside |= ((Target *) lfirst(other))->feature == lfirst(need);
			if (is_inside)
				inside = lappend(inside, lfirst(need));
			else if (list_member_ptr(feature->needs, lfirst(need)))
				outside = lappend(outside, lfirst(need));
		}
		appendStringInfo(&sql, "%savcurate.feature_open(frame."
						 AVC_MARKS_COLUMN ", %d, %s, %s)",
						 foreach_current_index(cell) ? " OR " : "",
						 feature->number, numbers_literal(outside),
						 numbers_literal(inside));
	}
	appendStringInfoString(&sql, ") ORDER BY frame.frame_id LIMIT $2"
						   " FOR NO KEY UPDATE SKIP LOCKED");
	run->claim = prepare(run, sql.data, 2, types);
}

/* Choose what to compute and prepare it. */
static void
plan_run(Backfill *run, const char *name)
{
	List	   *features = avc_features_load(run->dataset->relid);
	AvcRoleScope scope;
	ListCell   *cell;
	bool		is_found = false;
	int			level = -1;

	avc_role_enter(&scope, run->dataset->owner);
	foreach(cell, features)
	{
		Target	   *target = make_target(lfirst(cell));

		if (name != NULL && strcmp(target->feature->name, name) != 0)
			continue;
		is_found = true;
		if (is_computable(run, target, name != NULL))
			run->targets = lappend(run->targets, target);
	}
	avc_role_leave(&scope);
	if (!is_found && name != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("dataset \"%s\" has no feature \"%s\"",
						run->dataset->table_name, name),
				 errhint("See avcurate.features.")));
	if (run->targets == NIL)
		return;
	foreach(cell, run->targets)
	{
		Target	   *target = lfirst(cell);

		if (target->feature->level != level)
		{
			run->levels = lappend(run->levels, palloc0(sizeof(Level)));
			level = target->feature->level;
		}
		((Level *) llast(run->levels))->targets =
			lappend(((Level *) llast(run->levels))->targets, target);
	}
	avc_role_enter(&scope, run->dataset->owner);
	prepare_claim(run);
	foreach(cell, run->levels)
		((Level *) lfirst(cell))->store =
			prepare_store(run, ((Level *) lfirst(cell))->targets);
	avc_role_leave(&scope);
}

/*
 * Do the definitions of the run still stand?  With the lock taken here they
 * will until the end of the transaction.
 */
static void
check_definitions(Backfill *run)
{
	Datum	   *numbers = palloc(list_length(run->targets) * sizeof(Datum));
	AvcRoleScope scope;
	ListCell   *cell;
	int64		count;

	LockRelationOid(run->dataset->relid, RowExclusiveLock);
	foreach(cell, run->targets)
		numbers[foreach_current_index(cell)] =
			Int32GetDatum(((Target *) lfirst(cell))->feature->number);
	avc_catalog_enter(&scope);
	count = avc_spi_exec("SELECT 1 FROM _avcurate.features"
						 " WHERE dataset = $1 AND feature_no = ANY ($2)", 2,
						 (AvcParam[]) {AVC_REGCLASS(run->dataset->relid),
							 {INT4ARRAYOID,
								 PointerGetDatum(construct_array(numbers,
																 list_length(run->targets),
																 INT4OID, 4, true,
																 TYPALIGN_INT)),
							 false}}, false, 0);
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

/*
 * Lock up to "limit" rows after "after"; their ids, ascending.  The planner
 * is held to the index, or each batch might scan and sort the whole table.
 */
static int
claim_rows(Backfill *run, int64 after, int64 limit, int64 **ids)
{
	static const char *const others[] = {
		"enable_seqscan", "enable_bitmapscan", "enable_sort"
	};
	Datum		values[2];
	int			level = NewGUCNestLevel();
	int			count;
	int			i;
	bool		is_null;

	for (i = 0; i < lengthof(others); i++)
		(void) set_config_option(others[i], "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	values[0] = Int64GetDatum(after);
	values[1] = Int64GetDatum(limit);
	count = execute(run->claim, values);
	AtEOXact_GUC(false, level);
	*ids = palloc(Max(count, 1) * sizeof(int64));
	for (i = 0; i < count; i++)
		(*ids)[i] = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i],
												SPI_tuptable->tupdesc, 1,
												&is_null));
	SPI_freetuptable(SPI_tuptable);
	return count;
}

typedef struct StoreStep
{
	SPIPlanPtr	plan;
	const int64 *ids;
	int			count;
} StoreStep;

static void
store_rows(void *arg)
{
	StoreStep  *step = arg;
	Datum	   *values = palloc(step->count * sizeof(Datum));
	Datum		array;
	int			i;

	for (i = 0; i < step->count; i++)
		values[i] = Int64GetDatum(step->ids[i]);
	array = PointerGetDatum(construct_array(values, step->count, INT8OID, 8,
											FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	execute(step->plan, &array);
}

/*
 * Errors that are not of one row: what the expression calls is gone or may
 * not be used.  They end the backfill, or every row would be marked failed.
 */
static void
check_is_of_row(const Target *target, const AvcFailure *why)
{
	switch (why->sqlstate)
	{
		case ERRCODE_INSUFFICIENT_PRIVILEGE:
		case ERRCODE_UNDEFINED_FUNCTION:
		case ERRCODE_UNDEFINED_TABLE:
		case ERRCODE_UNDEFINED_COLUMN:
			ereport(ERROR,
					(errcode(why->sqlstate),
					 errmsg("could not compute feature \"%s\": %s",
							target->feature->name, why->message),
					 errhint("The expression runs as the dataset's owner; change it with avcurate.alter_feature().")));
	}
}

static void
mark_failed(Backfill *run, Target *target, int64 frame_id,
			const AvcFailure *why)
{
	Datum		value = Int64GetDatum(frame_id);
	Oid			types[1] = {INT8OID};
	const char *column = quote_identifier(target->feature->name);
	AvcFeatureFailure *failure;

	check_is_of_row(target, why);
	if (target->fail == NULL)
		target->fail = prepare(run, psprintf("UPDATE ONLY %s AS frame SET %s"
											 " = NULL, " AVC_MARKS_COLUMN
											 " = avcurate.feature_marked(frame."
											 AVC_MARKS_COLUMN ", %d, 0, 2, '{}')"
											 " WHERE frame.frame_id"
											 " OPERATOR(pg_catalog.=) $1",
											 run->dataset->quoted_name, column,
											 target->feature->number),
							   1, types);
	execute(target->fail, &value);
	failure = palloc(sizeof(AvcFeatureFailure));
	failure->feature = target->feature;
	failure->frame_id = frame_id;
	failure->why = *why;
	run->failures = lappend(run->failures, failure);
	target->failed++;
	run->failed++;
}

/* One row in which the level as a whole failed: feature by feature. */
static void
store_row(Backfill *run, Level *level, const int64 *id,
		  const AvcFailure *why)
{
	ListCell   *cell;

	if (list_length(level->targets) == 1)
	{
		mark_failed(run, linitial(level->targets), *id, why);
		return;
	}
	foreach(cell, level->targets)
	{
		Target	   *target = lfirst(cell);
		StoreStep	step = {NULL, id, 1};
		AvcFailure	own;

		step.plan = target->store;
		if (!avc_attempt(store_rows, &step, &own))
			mark_failed(run, target, *id, &own);
	}
}

/* Compute a level in some rows; on failure in ever smaller pieces. */
static void
store_level(Backfill *run, Level *level, const int64 *ids, int count)
{
	StoreStep	step = {level->store, ids, count};
	AvcFailure	why;
	int			piece = count > PIECE_ROWS ? PIECE_ROWS : 1;
	int			i;

	CHECK_FOR_INTERRUPTS();
	if (avc_attempt(store_rows, &step, &why))
		return;
	if (count == 1)
	{
		store_row(run, level, ids, &why);
		return;
	}
	for (i = 0; i < count; i += piece)
		store_level(run, level, ids + i, Min(piece, count - i));
}

static void
say_progress(Backfill *run)
{
	TimestampTz now = GetCurrentTimestamp();

	if (!TimestampDifferenceExceeds(run->last_notice, now, NOTICE_MS))
		return;
	run->last_notice = now;
	ereport(NOTICE,
			(errmsg("backfilled " INT64_FORMAT " rows of \"%s\", "
					INT64_FORMAT " errors",
					run->rows, run->dataset->table_name, run->failed)));
}

/* One batch: one transaction.  Returns how many rows it took. */
static int
run_batch(Backfill *run, int64 *after, int64 limit)
{
	MemoryContext old = MemoryContextSwitchTo(run->batch);
	AvcRoleScope scope;
	ListCell   *cell;
	int64	   *ids;
	int			count;

	check_definitions(run);
	avc_role_enter(&scope, run->dataset->owner);
	count = claim_rows(run, *after, limit, &ids);
	foreach(cell, run->levels)
	{
		if (count > 0)
			store_level(run, lfirst(cell), ids, count);
	}
	avc_role_leave(&scope);
	if (count > 0)
	{
		foreach(cell, run->targets)
			avc_feature_errors_settle(run->dataset->relid,
									  ((Target *) lfirst(cell))->feature,
									  ids, count, run->failures);
		*after = ids[count - 1];
		run->rows += count;
	}
	SPI_commit();
	MemoryContextSwitchTo(old);
	run->failures = NIL;
	MemoryContextReset(run->batch);
	say_progress(run);
	return count;
}

static Backfill *
begin_run(FunctionCallInfo fcinfo)
{
	Backfill   *run = palloc0(sizeof(Backfill));
	MemoryContextCallback *callback = palloc0(sizeof(MemoryContextCallback));

	if (PG_ARGISNULL(0) || PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("dataset and batch_size must not be NULL")));
	if (PG_GETARG_INT32(2) < 1 || PG_GETARG_INT32(2) > MAX_BATCH)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("batch_size %d is not between 1 and %d",
						PG_GETARG_INT32(2), MAX_BATCH)));
	if (!PG_ARGISNULL(3) && PG_GETARG_INT64(3) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_rows must not be negative")));
	run->context = CurrentMemoryContext;
	run->batch = AllocSetContextCreate(run->context, "backfill batch",
									   ALLOCSET_DEFAULT_SIZES);
	run->last_notice = GetCurrentTimestamp();
	callback->func = free_plans;
	callback->arg = run;
	MemoryContextRegisterResetCallback(run->context, callback);
	run->dataset = avc_dataset_find_owned(PG_GETARG_OID(0));
	plan_run(run, PG_ARGISNULL(1) ? NULL : NameStr(*PG_GETARG_NAME(1)));
	return run;
}

Datum
avc_backfill(PG_FUNCTION_ARGS)
{
	MemoryContext context;
	MemoryContext old;
	Backfill   *run;
	int64		after = PG_INT64_MIN;
	int64		limit;
	int64		left;

	avc_procedure_enter(fcinfo, "backfill");
	context = AllocSetContextCreate(PortalContext, "backfill",
									ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	run = begin_run(fcinfo);
	left = PG_ARGISNULL(3) ? PG_INT64_MAX : PG_GETARG_INT64(3);
	limit = PG_GETARG_INT32(2);
	/* do not keep locks of begin_run longer than a batch would */
	SPI_commit();
	while (run->targets != NIL && left > 0)
	{
		int			count = run_batch(run, &after, Min(limit, left));

		left -= count;
		if (count == 0)
			break;
	}
	avc_feature_errors_forget(run->dataset);
	ereport(NOTICE,
			(errmsg("backfilled " INT64_FORMAT " rows of \"%s\", "
					INT64_FORMAT " errors",
					run->rows, run->dataset->table_name, run->failed),
			 run->failed > 0 ?
			 errhint("See avcurate.feature_errors; avcurate.retry_feature() tries failed rows again.") : 0));
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	SPI_finish();
	PG_RETURN_VOID();
}
