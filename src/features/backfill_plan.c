/*
 * features/backfill_plan.c
 *		What a backfill computes, and the statements that do it.
 *
 * All statements walk frame_id ranges ($1 <= frame_id <= $2) by the primary
 * key.  One UPDATE serves all features of a level, which do not read each
 * other: a row is written once and its image decoded once.  Role and
 * search_path are those of the dataset's owner, as avc_role_enter pins them.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "common/attempt.h"
#include "common/catalog.h"
#include "common/spi.h"
#include "features/backfill.h"
#include "features/engine_calls.h"

#define RANGE_CONDITION "frame.frame_id OPERATOR(pg_catalog.>=) $1" \
	" AND frame.frame_id OPERATOR(pg_catalog.<=) $2"

static void
free_plans(void *arg)
{
	AvcBackfill *run = arg;
	ListCell   *cell;

	foreach(cell, run->plans)
		SPI_freeplan(lfirst(cell));
	run->plans = NIL;
}

/*
 * Plan what is not planned, or has to be planned anew.  The plan is generic
 * and held to the primary key: planned for its numbers, or on a table that
 * was never analysed, a short range might be read by scanning everything.
 */
static void
plan_statement(SPIPlanPtr plan)
{
	static const char *const others[] = {
		"enable_seqscan", "enable_bitmapscan", "enable_sort"
	};
	int			level = NewGUCNestLevel();
	CachedPlan *cached;
	int			i;

	for (i = 0; i < lengthof(others); i++)
		(void) set_config_option(others[i], "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	cached = SPI_plan_get_cached_plan(plan);
	if (cached != NULL)
		ReleaseCachedPlan(cached, CurrentResourceOwner);
	AtEOXact_GUC(false, level);
}

SPIPlanPtr
avc_backfill_prepare(AvcBackfill *run, const char *sql, int nargs, Oid *types)
{
	MemoryContext old = CurrentMemoryContext;
	SPIPlanPtr	plan = SPI_prepare_cursor(sql, nargs, types,
										  CURSOR_OPT_GENERIC_PLAN);

	MemoryContextSwitchTo(old);
	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql,
			 SPI_result_code_string(SPI_result));
	SPI_keepplan(plan);
	PG_TRY();
	{
		plan_statement(plan);
	}
	PG_CATCH();
	{
		SPI_freeplan(plan);
		PG_RE_THROW();
	}
	PG_END_TRY();
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

static AvcTarget *
make_target(const AvcFeature *feature)
{
	AvcTarget	   *target = palloc0(sizeof(AvcTarget));

	target->feature = feature;
	target->needs = numbers_literal(feature->needs);
	target->ready = psprintf("avcurate.feature_open(frame." AVC_MARKS_COLUMN
							 ", %d, %s, '{}')", feature->number,
							 target->needs);
	return target;
}

/*
 * UPDATE that computes the targets where they are ready.  feature_row() notes
 * which row it is at, should an expression fail.
 */
static SPIPlanPtr
prepare_store(AvcBackfill *run, List *targets)
{
	Oid			types[2] = {INT8OID, INT8OID};
	StringInfoData sql;
	char	   *marks = "frame." AVC_MARKS_COLUMN;
	ListCell   *cell;

	initStringInfo(&sql);
	appendStringInfo(&sql, "UPDATE ONLY %s AS frame SET ",
					 run->dataset->quoted_name);
	foreach(cell, targets)
	{
		AvcTarget	   *target = lfirst(cell);
		const char *column = quote_identifier(target->feature->name);

		appendStringInfo(&sql, "%s = CASE WHEN %s THEN (%s) ELSE frame.%s END, ",
						 column, target->ready, target->feature->expression,
						 column);
		marks = psprintf("avcurate.feature_marked(%s, %d, 0, 1, %s)", marks,
						 target->feature->number, target->needs);
	}
	appendStringInfo(&sql, AVC_MARKS_COLUMN " = %s"
					 " WHERE " RANGE_CONDITION
					 " AND avcurate.feature_row(frame.frame_id) AND (",
					 marks);
	foreach(cell, targets)
		appendStringInfo(&sql, "%s%s", foreach_current_index(cell) ? " OR " : "",
						 ((AvcTarget *) lfirst(cell))->ready);
	appendStringInfoString(&sql, ")");
	return avc_backfill_prepare(run, sql.data, 2, types);
}

/*
 * SELECT that sends what the rows of a range ask ahead to the shared engine;
 * NULL if no expression asks it.
 */
static SPIPlanPtr
prepare_ahead(AvcBackfill *run, List *targets)
{
	Oid			types[2] = {INT8OID, INT8OID};
	StringInfoData sql;
	ListCell   *cell,
			   *call;

	initStringInfo(&sql);
	foreach(cell, targets)
	{
		AvcTarget  *target = lfirst(cell);

		foreach(call, avc_engine_calls_ahead(run->dataset, target->feature))
			appendStringInfo(&sql, "%s CASE WHEN %s THEN %s END",
							 sql.len == 0 ? "SELECT" : ",", target->ready,
							 (char *) lfirst(call));
	}
	if (sql.len == 0)
		return NULL;
	appendStringInfo(&sql, " FROM ONLY %s AS frame WHERE " RANGE_CONDITION,
					 run->dataset->quoted_name);
	return avc_backfill_prepare(run, sql.data, 2, types);
}

/* ---- can it be computed? ---------------------------------------------- */

typedef struct PrepareStep
{
	AvcBackfill *run;
	AvcTarget  *target;
} PrepareStep;

static void
prepare_target(void *arg)
{
	PrepareStep *step = arg;

	if (step->target->store == NULL)
		step->target->store = prepare_store(step->run,
											list_make1(step->target));
	else
		plan_statement(step->target->store);
}

/*
 * Plan the feature by itself.  If what it calls is gone, or an error comes up
 * while constants are computed, it is broken.  Returns whether it is, now.
 */
static bool
find_broken(AvcBackfill *run, AvcTarget *target)
{
	PrepareStep step = {run, target};
	MemoryContext old;
	AvcFailure	why;

	if (target->broken != NULL || avc_attempt(prepare_target, &step, &why))
		return false;
	old = MemoryContextSwitchTo(run->context);
	target->broken = palloc(sizeof(AvcFailure));
	target->broken->sqlstate = why.sqlstate;
	target->broken->message = pstrdup(why.message);
	MemoryContextSwitchTo(old);
	return true;
}

/* Is the feature one of the run? */
static bool
is_target(const AvcBackfill *run, const AvcFeature *feature)
{
	ListCell   *cell;

	foreach(cell, run->targets)
	{
		if (((AvcTarget *) lfirst(cell))->feature == feature)
			return true;
	}
	return false;
}

/*
 * SELECT of the first $3 rows of a range that have something to do: a target
 * that is pending, what it reads from outside the run being done, and nothing
 * that it reads having failed.
 */
static char *
find_statement(const AvcBackfill *run)
{
	StringInfoData sql;
	ListCell   *cell,
			   *need;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT frame.frame_id FROM ONLY %s AS frame"
					 " WHERE " RANGE_CONDITION " AND (",
					 run->dataset->quoted_name);
	foreach(cell, run->targets)
	{
		const AvcFeature *feature = ((AvcTarget *) lfirst(cell))->feature;
		List	   *outside = NIL;
		List	   *inside = NIL;

		foreach(need, feature->all_needs)
		{
			if (is_target(run, lfirst(need)))
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
	appendStringInfoString(&sql, ") ORDER BY frame.frame_id LIMIT $3");
	return sql.data;
}

/* Rows of a range in which the target is to be computed. */
static SPIPlanPtr
prepare_open(AvcBackfill *run, const AvcTarget *target)
{
	Oid			types[3] = {INT8OID, INT8OID, INT8OID};

	return avc_backfill_prepare(run,
								psprintf("SELECT frame.frame_id"
										 " FROM ONLY %s AS frame"
										 " WHERE " RANGE_CONDITION " AND %s"
										 " ORDER BY frame.frame_id LIMIT $3",
										 run->dataset->quoted_name,
										 target->ready), 3, types);
}

/* Put the targets, which are in dependency order, into levels. */
static void
make_levels(AvcBackfill *run)
{
	AvcLevel   *level = NULL;
	int			height = -1;
	ListCell   *cell;

	run->levels = NIL;
	foreach(cell, run->targets)
	{
		AvcTarget  *target = lfirst(cell);

		if (target->feature->level != height)
		{
			level = palloc0(sizeof(AvcLevel));
			run->levels = lappend(run->levels, level);
			height = target->feature->level;
		}
		if (target->broken != NULL)
			level->broken = lappend(level->broken, target);
		else
			level->targets = lappend(level->targets, target);
	}
}

/* Prepare the statements of the levels. */
static void
prepare_levels(AvcBackfill *run)
{
	ListCell   *cell,
			   *target;

	make_levels(run);
	run->first_ahead = run->last_ahead = NULL;
	foreach(cell, run->levels)
	{
		AvcLevel   *level = lfirst(cell);

		if (list_length(level->targets) > 1)
			level->store = prepare_store(run, level->targets);
		else if (level->targets != NIL)
			level->store = ((AvcTarget *) linitial(level->targets))->store;
		level->ahead = prepare_ahead(run, level->targets);
		if (level->ahead != NULL)
		{
			run->last_ahead = level;
			if (run->first_ahead == NULL)
				run->first_ahead = level;
		}
		foreach(target, level->broken)
			((AvcTarget *) lfirst(target))->open =
				prepare_open(run, lfirst(target));
	}
	if (run->first_ahead == NULL)
		return;
	run->settle = avc_backfill_prepare(run, "SELECT avcurate.detect_settle()",
									   0, NULL);
	run->next = avc_backfill_prepare(run, "SELECT avcurate.detect_next()",
									 0, NULL);
}

/* Prepare what finds the rows; their marks are all that it looks at. */
static void
prepare_find(AvcBackfill *run)
{
	Oid			types[3] = {INT8OID, INT8OID, INT8OID};
	char	   *find = find_statement(run);

	run->find = avc_backfill_prepare(run, find, 3, types);
	run->lock = avc_backfill_prepare(run,
									 psprintf("%s FOR NO KEY UPDATE SKIP LOCKED",
											  find), 3, types);
}

static void
plan_all(void *arg)
{
	AvcBackfill *run = arg;
	ListCell   *cell;

	foreach(cell, run->plans)
		plan_statement(lfirst(cell));
}

/*
 * Go on without statements of expressions that can no longer be planned: with
 * new ones for the levels, and those of before forgotten.
 */
static void
sort_out_broken(AvcBackfill *run)
{
	MemoryContext old = MemoryContextSwitchTo(run->context);
	ListCell   *cell;
	bool		is_changed = false;

	foreach(cell, run->targets)
		is_changed |= find_broken(run, lfirst(cell));
	if (!is_changed)
		plan_all(run);			/* whatever it is, say it */
	free_plans(run);
	foreach(cell, run->targets)
	{
		AvcTarget  *target = lfirst(cell);

		target->store = target->fail = target->open = NULL;
		if (target->broken == NULL)
			target->store = prepare_store(run, list_make1(target));
	}
	prepare_find(run);
	prepare_levels(run);
	MemoryContextSwitchTo(old);
}

void
avc_backfill_plan_statements(AvcBackfill *run)
{
	AvcFailure	why;

	if (!avc_attempt(plan_all, run, &why))
		sort_out_broken(run);
}

/* Choose what to compute: the feature of that name, or all. */
static void
choose_targets(AvcBackfill *run, const char *feature)
{
	ListCell   *cell;

	run->features = avc_features_load(run->dataset->relid);
	foreach(cell, run->features)
	{
		AvcTarget  *target = make_target(lfirst(cell));

		if (feature == NULL || strcmp(target->feature->name, feature) == 0)
			run->targets = lappend(run->targets, target);
	}
	if (run->targets == NIL && feature != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("dataset \"%s\" has no feature \"%s\"",
						run->dataset->table_name, feature),
				 errhint("See avcurate.features.")));
}

static void
prepare_run(AvcBackfill *run)
{
	AvcRoleScope scope;
	ListCell   *cell;

	if (run->targets == NIL)
		return;
	avc_role_enter(&scope, run->dataset->owner);
	foreach(cell, run->targets)
		(void) find_broken(run, lfirst(cell));
	prepare_find(run);
	prepare_levels(run);
	avc_role_leave(&scope);
}

void
avc_backfill_clear_passed(AvcBackfill *run)
{
	run->passed_first = PG_INT64_MAX;
	run->passed_last = PG_INT64_MIN;
}

int64
avc_backfill_count_waiting(AvcBackfill *run)
{
	const AvcFeature *feature;
	AvcRoleScope scope;
	int64		count;

	if (list_length(run->targets) != 1)
		return 0;
	feature = ((AvcTarget *) linitial(run->targets))->feature;
	if (feature->needs == NIL)
		return 0;
	avc_dataset_hold(run->dataset, AccessShareLock);
	avc_role_enter(&scope, run->dataset->owner);
	count = avc_spi_int64(psprintf("SELECT pg_catalog.count(*) FROM ONLY %s"
								   " WHERE avcurate.feature_state("
								   AVC_MARKS_COLUMN ", %d)"
								   " OPERATOR(pg_catalog.=) 0",
								   run->dataset->quoted_name,
								   feature->number), 0, NULL, 0);
	avc_role_leave(&scope);
	return count;
}

AvcBackfill *
avc_backfill_plan(const AvcDataset *dataset, const char *feature)
{
	AvcBackfill *run = palloc0(sizeof(AvcBackfill));
	MemoryContextCallback *callback = palloc0(sizeof(MemoryContextCallback));

	run->dataset = dataset;
	run->context = CurrentMemoryContext;
	run->batch = AllocSetContextCreate(run->context, "backfill batch",
									   ALLOCSET_DEFAULT_SIZES);
	run->piece = AVC_MAX_BATCH;
	avc_backfill_clear_passed(run);
	callback->func = free_plans;
	callback->arg = run;
	MemoryContextRegisterResetCallback(run->context, callback);
	choose_targets(run, feature);
	prepare_run(run);
	return run;
}
