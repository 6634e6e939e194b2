/*
 * slices/refresh.c
 *		One refresh, one version.
 *
 * refresh_slice finds the difference between the view and what its definition
 * yields, from the rows that changed in the dataset or by computing all of it,
 * writes it into the view and records it as the next version.  Where the view
 * has lost its rows, and for REFRESH typed by a user, PostgreSQL fills it
 * between avc_refresh_begin and avc_refresh_finish.  All is one transaction,
 * so a reader never sees half of a version.  Two refreshes of one slice queue
 * on the view's lock, which is taken before the registry row.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "slices/refresh.h"

PG_FUNCTION_INFO_V1(avc_refresh_slice);
PG_FUNCTION_INFO_V1(avc_refresh_slices);

bool
avc_refresh_can_be_concurrent(Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	bool		can;

	/* the new rows are gathered in a temporary table of the view's owner */
	can = RelationIsPopulated(rel) && avc_definition_has_key(rel) &&
		pg_database_aclcheck(MyDatabaseId, rel->rd_rel->relowner,
							 ACL_CREATE_TEMP) == ACLCHECK_OK;
	table_close(rel, AccessShareLock);
	return can;
}

/* What refreshes and erasures leave in the registry, as a snapshot sees it. */
typedef struct Trace
{
	int64		version;
	int64		erasures;
	TransactionId watermark;	/* who wrote it */
} Trace;

static void
read_trace(const AvcSlice *slice, Snapshot snapshot, Trace *trace)
{
	static SPIPlanPtr plan = NULL;
	AvcParam	param = AVC_INT8(slice->slice_id);
	AvcRoleScope scope;
	bool		is_null;

	memset(trace, 0, sizeof(*trace));
	PushActiveSnapshot(snapshot);
	avc_catalog_enter(&scope);
	SPI_connect();
	if (avc_spi_exec_kept(&plan, "SELECT s.version, s.erasures, w.xmin "
						  "FROM _avcurate.slices s "
						  "LEFT JOIN _avcurate.slice_watermarks w "
						  "ON w.slice_id = s.slice_id "
						  "WHERE s.slice_id = $1", 1, &param, true, 1) > 0)
	{
		Datum		value = avc_spi_column(0, "xmin", &is_null);

		trace->watermark = is_null ? InvalidTransactionId :
			DatumGetTransactionId(value);
		trace->version = DatumGetInt64(avc_spi_column(0, "version",
													  &is_null));
		trace->erasures = DatumGetInt64(avc_spi_column(0, "erasures",
													   &is_null));
	}
	SPI_finish();
	avc_catalog_leave(&scope);
	PopActiveSnapshot();
}

/*
 * TRUNCATE and ALTER TABLE give a table a new file, which older snapshots
 * see as empty; the table's row in pg_class they see as it was.
 */
static bool
is_file_seen(Oid dataset, Snapshot snapshot)
{
	Relation	catalog = table_open(RelationRelationId, AccessShareLock);
	Relation	base = table_open(dataset, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		is_seen;

	ScanKeyInit(&key, Anum_pg_class_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(dataset));
	scan = systable_beginscan(catalog, ClassOidIndexId, true, snapshot, 1,
							  &key);
	tuple = systable_getnext(scan);
	is_seen = HeapTupleIsValid(tuple) &&
		((Form_pg_class) GETSTRUCT(tuple))->relfilenode ==
		base->rd_rel->relfilenode;
	systable_endscan(scan);
	table_close(base, NoLock);
	table_close(catalog, AccessShareLock);
	return is_seen;
}

bool
avc_refresh_is_missed(const AvcSlice *slice, Snapshot snapshot)
{
	Trace		seen;
	Trace		newest;

	if (OidIsValid(slice->dataset) && !is_file_seen(slice->dataset, snapshot))
		return true;
	read_trace(slice, snapshot, &seen);
	read_trace(slice, GetLatestSnapshot(), &newest);
	return seen.version != newest.version ||
		seen.erasures != newest.erasures ||
		seen.watermark != newest.watermark;
}

/*
 * With one snapshot for the whole transaction the view, the history and the
 * registry would be read as of different versions.
 */
static void
check_serializable(const AvcSlice *slice)
{
	Trace		newest;

	if (!IsolationUsesXactSnapshot())
		return;
	if (OidIsValid(slice->dataset) &&
		!is_file_seen(slice->dataset, GetTransactionSnapshot()))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent truncation or rewriting of dataset \"%s\"",
						get_rel_name(slice->dataset)),
				 errhint("Retry the transaction.")));
	read_trace(slice, GetLatestSnapshot(), &newest);
	if (slice->version == newest.version &&
		slice->erasures == newest.erasures)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access due to concurrent refresh of slice %s",
					slice->name),
			 errhint("Retry the transaction.")));
}

static void
check_key(const AvcSlice *slice)
{
	Relation	rel = table_open(slice->relid, NoLock);
	bool		has_key = avc_definition_has_key(rel);

	table_close(rel, NoLock);
	if (!has_key)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("slice %s has no unique index on frame_id",
						slice->name),
				 errhint("CREATE UNIQUE INDEX ON %s (frame_id).",
						 slice->name)));
}

static AvcRefresh *
begin(AvcSlice *slice, bool is_concurrent)
{
	AvcRefresh *refresh = palloc0_object(AvcRefresh);

	refresh->slice = slice;
	refresh->version_before = slice->version;
	refresh->role = GetUserNameFromId(GetUserId(), false);
	check_key(slice);
	if (OidIsValid(slice->dataset))
		avc_archive_hold(slice->dataset);
	if (slice->version == 0)
		return refresh;
	check_serializable(slice);
	/* otherwise statements that read start now that the lock is held */
	refresh->is_stale = IsolationUsesXactSnapshot() &&
		avc_refresh_is_missed(slice, GetTransactionSnapshot());
	if (is_concurrent)
		refresh->before = RegisterSnapshot(GetLatestSnapshot());
	return refresh;
}

AvcRefresh *
avc_refresh_begin(Oid relid, bool is_concurrent)
{
	return begin(avc_slice_find(relid, false), is_concurrent);
}

/*
 * May a statement under way have deleted frames that the row triggers at its
 * end have yet to note?  While one of them runs, or a trigger at the end of
 * the statement, it is pending itself; so the counts have a say, too.
 */
static bool
may_be_unnoted(Relation base)
{
	PgStat_TableXactStatus *counts;

	if (!AfterTriggerPendingOnRel(RelationGetRelid(base)))
		return false;
	if (!pgstat_should_count_relation(base))
		return true;
	for (counts = base->pgstat_info->trans; counts; counts = counts->upper)
	{
		if (counts->tuples_deleted > 0 || counts->tuples_updated > 0)
			return true;
	}
	return false;
}

void
avc_refresh_mark(AvcRefresh *refresh, Snapshot used)
{
	AvcSlice   *slice = refresh->slice;
	Relation	base;

	if (refresh->mark)
		avc_watermark_release(refresh->mark);
	refresh->mark = NULL;
	refresh->rule = avc_definition_analyse(slice->relid, slice->dataset);
	refresh->obstacle = refresh->rule->obstacle;
	if (refresh->obstacle)
		return;
	base = table_open(slice->dataset, AccessShareLock);
	refresh->old = avc_watermark_load(slice->slice_id);
	refresh->mark = avc_watermark_take(base, refresh->rule, used);
	if (!avc_definition_held(refresh->rule, base,
							 avc_watermark_snapshot(refresh->mark)))
	{
		avc_watermark_release(refresh->mark);
		refresh->mark = NULL;
		refresh->obstacle = "triggers of the dataset or functions of the definition were changed meanwhile";
	}
	else if (may_be_unnoted(base))
		refresh->obstacle = "a statement under way may have deleted frames that its triggers have yet to note";
	else if (slice->must_recompute)
		refresh->obstacle = "the last refresh used a snapshot older than the one before it";
	else if (IsolationIsSerializable())
		refresh->obstacle = "a serializable transaction has to read the whole dataset";
	else
		refresh->obstacle = avc_watermark_obstacle(refresh->old,
												   refresh->mark, base);
	table_close(base, NoLock);
}

void
avc_refresh_run(Oid relid, bool is_concurrent)
{
	int			guc_level = NewGUCNestLevel();

	(void) set_config_option("search_path", "pg_catalog, avcurate, pg_temp",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
	avc_typed_refresh_suppress(relid);
	SPI_connect();
	avc_spi_exec(psprintf("REFRESH MATERIALIZED VIEW %s %s",
						  is_concurrent ? "CONCURRENTLY" : "",
						  avc_relation_name(relid)), 0, NULL, false, 0);
	SPI_finish();
	avc_typed_refresh_resume(relid);
	AtEOXact_GUC(false, guc_level);
}

static void
warn_of_unseen(const AvcSlice *slice)
{
	ereport(WARNING,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("version " INT64_FORMAT " of slice %s is not what the view held before this refresh",
					slice->version, slice->name),
			 errdetail("The view was filled with event triggers disabled or by a restore in parts, or the history was changed by hand."),
			 errhint("The next version is right again; avcurate.verify_slice tells which are not.")));
}

/*
 * May the view hold what no version does, because REFRESH was not seen?  Then
 * only a comparison with the newest version helps.
 */
static bool
may_be_ahead(const AvcRefresh *refresh)
{
	return refresh->old && refresh->mark &&
		!avc_watermark_is_watched(refresh->old, refresh->mark);
}

/* Compute the definition and make the view what it yields. */
static AvcDelta *
recompute(AvcRefresh *refresh, Relation rel)
{
	const AvcDefinition *rule = refresh->rule;
	bool		fits = avc_delta_fits_view(refresh->slice, rel);
	AvcDelta   *delta;

	/* columns and a condition over one dataset yield each frame once */
	delta = avc_delta_by_definition(refresh->slice, rel, refresh->definition,
									refresh->definition ||
									(rule && rule->obstacle == NULL));
	avc_apply(refresh->slice, rel, delta);
	if (fits && !may_be_ahead(refresh))
		return delta;
	if (!fits)
		warn_of_unseen(refresh->slice);
	avc_delta_free(delta);
	return avc_delta_by_comparison(refresh->slice, rel, true);
}

/* The same from the rows that changed, or by recomputing after all. */
static AvcDelta *
write_view(AvcRefresh *refresh, Relation rel)
{
	AvcDelta   *delta = NULL;
	Relation	base;

	if (refresh->mark && refresh->obstacle == NULL && !refresh->is_altered)
	{
		base = table_open(refresh->slice->dataset, AccessShareLock);
		delta = avc_delta_by_rows(refresh, rel, base, false);
		table_close(base, NoLock);
	}
	refresh->is_incremental = delta != NULL;
	if (delta == NULL)
		return recompute(refresh, rel);
	avc_apply(refresh->slice, rel, delta);
	return delta;
}

static AvcDelta *
find_delta(AvcRefresh *refresh, Relation rel)
{
	AvcDelta   *delta;

	if (refresh->writes_view)
		return write_view(refresh, rel);
	if (refresh->before == NULL)
		return avc_delta_by_comparison(refresh->slice, rel,
									   refresh->is_altered);
	delta = avc_delta_by_visibility(refresh->slice, rel, refresh->before);
	UnregisterSnapshot(refresh->before);
	refresh->before = NULL;
	if (delta && !may_be_ahead(refresh))
		return delta;
	if (delta)
		avc_delta_free(delta);
	else
		warn_of_unseen(refresh->slice);
	return avc_delta_by_comparison(refresh->slice, rel, true);
}

static const char *
mode_of(const AvcRefresh *refresh)
{
	if (refresh->version_before == 0)
		return "initial";
	return refresh->is_incremental ? "incremental" : "full";
}

/* A snapshot older than another refresh's was used, and no newer to be had. */
static bool
is_outdated(const AvcRefresh *refresh)
{
	return refresh->is_stale && IsolationUsesXactSnapshot();
}

static void
write_version(const AvcRefresh *refresh, const AvcDelta *delta, int64 version)
{
	static SPIPlanPtr update = NULL;
	static SPIPlanPtr insert = NULL;
	const AvcSlice *slice = refresh->slice;
	AvcParam	params[11];
	AvcRoleScope scope;

	params[0] = AVC_INT8(slice->slice_id);
	params[1] = AVC_INT8(version);
	params[2] = AVC_BOOL(is_outdated(refresh));
	params[3] = AVC_TEXT(refresh->role);
	params[4] = AVC_INT8(delta->rows);
	params[5] = AVC_INT8(delta->added);
	params[6] = AVC_INT8(delta->removed);
	params[7] = AVC_INT8(delta->changed);
	params[8] = AVC_TEXT(mode_of(refresh));
	params[9] = AVC_TEXT(delta->digest);
	params[10] = AVC_TEXT(refresh->note);

	avc_catalog_enter(&scope);
	avc_pin_text_format();
	SPI_connect();
	if (avc_spi_exec_kept(&update, "UPDATE _avcurate.slices SET version = $2, "
						  "must_recompute = $3, "
						  "definition = pg_catalog.pg_get_viewdef(slice) "
						  "WHERE slice_id = $1 AND version = $2 - 1",
						  3, params, false, 0) != 1)
		elog(ERROR, "registry of slice %s changed during its refresh",
			 slice->name);
	avc_spi_exec_kept(&insert, "INSERT INTO _avcurate.slice_versions "
					  "(slice_id, version, created_by, rows, added, removed, "
					  "changed, mode, definition, columns, digest_format, "
					  "digest, note) "
					  "SELECT $1, $2, $4, $5, $6, $7, $8, $9, definition, "
					  "columns, " CppAsString2(AVC_DIGEST_FORMAT) ", $10, $11 "
					  "FROM _avcurate.slices WHERE slice_id = $1",
					  11, params, false, 0);
	SPI_finish();
	avc_catalog_leave(&scope);
}

/* The view is what its definition says again. */
static void
unmark_recompute(AvcSlice *slice)
{
	AvcParam	param = AVC_INT8(slice->slice_id);
	AvcRoleScope scope;

	avc_catalog_enter(&scope);
	SPI_connect();
	avc_spi_exec("UPDATE _avcurate.slices SET must_recompute = false "
				 "WHERE slice_id = $1", 1, &param, false, 0);
	SPI_finish();
	avc_catalog_leave(&scope);
	slice->must_recompute = false;
}

/*
 * Leave what the next refresh starts from.  An outdated refresh leaves what
 * there is: if it changed no row, the view still is what that stands for, and
 * if it did, the slice is marked to be recomputed.
 */
static void
leave_watermark(AvcRefresh *refresh, bool has_changed)
{
	int64		slice_id = refresh->slice->slice_id;
	Relation	base;

	if (refresh->mark == NULL)
		avc_watermark_forget(slice_id);
	else if (!is_outdated(refresh))
	{
		base = table_open(refresh->slice->dataset, NoLock);
		avc_watermark_save(slice_id, refresh->old, refresh->mark, base,
						   has_changed || !refresh->is_incremental);
		table_close(base, NoLock);
	}
	if (refresh->mark)
		avc_watermark_release(refresh->mark);
	refresh->mark = NULL;
}

void
avc_refresh_remember(AvcRefresh *refresh, Snapshot used)
{
	avc_refresh_mark(refresh, used);
	leave_watermark(refresh, true);
}

int64
avc_refresh_finish(AvcRefresh *refresh)
{
	AvcSlice   *slice = refresh->slice;
	Relation	rel = table_open(slice->relid, NoLock);
	AvcDelta   *delta = find_delta(refresh, rel);
	bool		has_changed = delta->added + delta->removed +
		delta->changed > 0;

	refresh->added = delta->added;
	refresh->removed = delta->removed;
	refresh->changed = delta->changed;
	if (slice->version == 0 || refresh->is_altered || has_changed)
	{
		slice->version++;
		write_version(refresh, delta, slice->version);
		avc_history_apply(slice, delta, slice->version);
	}
	else if (slice->must_recompute && !is_outdated(refresh))
		unmark_recompute(slice);
	leave_watermark(refresh, has_changed);
	avc_delta_free(delta);
	table_close(rel, NoLock);
	return slice->version;
}

static bool
is_populated(Oid relid)
{
	Relation	rel = table_open(relid, NoLock);
	bool		populated = RelationIsPopulated(rel);

	table_close(rel, NoLock);
	return populated;
}

/* Refresh one slice as its owner; tells what changed. */
static AvcRefresh *
refresh_owned(Oid relid, const char *note)
{
	AvcRefresh *refresh;

	PreventCommandIfReadOnly("refresh_slice()");
	PreventCommandIfParallelMode("refresh_slice()");
	refresh = begin(avc_slice_lock(relid, ExclusiveLock), false);
	relid = refresh->slice->relid;
	refresh->note = note;
	refresh->writes_view = is_populated(relid);
	avc_refresh_mark(refresh, NULL);
	if (!refresh->writes_view)
	{
		LockRelationOid(relid, AccessExclusiveLock);
		avc_refresh_run(relid, false);
	}
	(void) avc_refresh_finish(refresh);
	return refresh;
}

Datum
avc_refresh_slice(PG_FUNCTION_ARGS)
{
	AvcRefresh *refresh;
	char	   *note;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	note = PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1));
	refresh = refresh_owned(PG_GETARG_OID(0), note);
	if (note && refresh->slice->version == refresh->version_before)
		ereport(NOTICE,
				(errmsg("the note is not kept, because slice %s has not changed",
						refresh->slice->name),
				 errdetail("A note belongs to the version that a refresh makes, and none was made.")));
	PG_RETURN_INT64(refresh->slice->version);
}

/* OIDs of the tracked slices of a dataset (Invalid: of all), ascending. */
static List *
slices_of(Oid dataset)
{
	AvcParam	param = AVC_REGCLASS(dataset);
	MemoryContext caller = CurrentMemoryContext;
	List	   *slices = NIL;
	AvcRoleScope scope;
	uint64		i;

	avc_catalog_enter(&scope);
	SPI_connect();
	avc_spi_exec("SELECT slice FROM _avcurate.slices WHERE slice IS NOT NULL "
				 "AND ($1 = 0::oid OR dataset = $1) ORDER BY slice::oid",
				 1, &param, false, 0);
	for (i = 0; i < SPI_processed; i++)
	{
		bool		is_null;
		Oid			relid = DatumGetObjectId(avc_spi_column(i, "slice",
															&is_null));
		MemoryContext old = MemoryContextSwitchTo(caller);

		slices = lappend_oid(slices, relid);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	avc_catalog_leave(&scope);
	return slices;
}

static void
put_refresh(ReturnSetInfo *result, Oid relid)
{
	TimestampTz start = GetCurrentTimestamp();
	Datum		values[10];
	bool		nulls[10] = {false};
	AvcRefresh *refresh = refresh_owned(relid, NULL);
	AvcSlice   *slice = refresh->slice;
	int64		rows = avc_slice_version_rows(slice, slice->version);

	values[0] = ObjectIdGetDatum(relid);
	values[1] = Int64GetDatum(refresh->version_before);
	values[2] = Int64GetDatum(slice->version);
	values[3] = Int64GetDatum(rows - refresh->added + refresh->removed);
	values[4] = Int64GetDatum(rows);
	values[5] = Int64GetDatum(refresh->added);
	values[6] = Int64GetDatum(refresh->removed);
	values[7] = Int64GetDatum(refresh->changed);
	values[8] = CStringGetTextDatum(mode_of(refresh));
	values[9] = DirectFunctionCall2(timestamp_mi,
									TimestampTzGetDatum(GetCurrentTimestamp()),
									TimestampTzGetDatum(start));
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* Of many slices, the one that failed should be named. */
static void
name_slice(void *arg)
{
	errcontext("refresh of slice %s", (const char *) arg);
}

static void
put_named_refresh(ReturnSetInfo *result, Oid relid)
{
	ErrorContextCallback callback = {
		.previous = error_context_stack,
		.callback = name_slice,
		.arg = avc_relation_name(relid)
	};

	error_context_stack = &callback;
	put_refresh(result, relid);
	error_context_stack = callback.previous;
}

Datum
avc_refresh_slices(PG_FUNCTION_ARGS)
{
	Oid			dataset = PG_ARGISNULL(0) ? InvalidOid : PG_GETARG_OID(0);
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext,
												  "refresh of many slices",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old;
	ListCell   *cell;

	InitMaterializedSRF(fcinfo, 0);
	/* in the order of their OIDs, so that two calls cannot deadlock */
	foreach(cell, slices_of(dataset))
	{
		/* unless it was dropped since */
		if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(lfirst_oid(cell))) ||
			!pg_class_ownercheck(lfirst_oid(cell), GetUserId()))
			continue;
		old = MemoryContextSwitchTo(scratch);
		put_named_refresh((ReturnSetInfo *) fcinfo->resultinfo,
						  lfirst_oid(cell));
		MemoryContextSwitchTo(old);
		MemoryContextReset(scratch);
	}
	MemoryContextDelete(scratch);
	return (Datum) 0;
}
