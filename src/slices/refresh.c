/*
 * slices/refresh.c
 *		One refresh, one version.
 *
 * refresh_slice compares the view with what its definition yields, writes the
 * difference into the view and records it as the next version.  Where the view
 * has lost its rows, and for REFRESH typed by a user, PostgreSQL fills it
 * between avc_refresh_begin and avc_refresh_finish.  All is one transaction,
 * so a reader never sees half of a version.  Two refreshes of one slice queue
 * on the view's lock, which is taken before the registry row.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
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
PG_FUNCTION_INFO_V1(avc_explain_refresh);

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

/* Does the snapshot see the slice at its newest version, erasures included? */
static bool
is_seen(const AvcSlice *slice, Snapshot snapshot)
{
	AvcParam	params[3] = {AVC_INT8(slice->slice_id),
	AVC_INT8(slice->version), AVC_INT8(slice->erasures)};
	AvcRoleScope scope;
	bool		found;

	PushActiveSnapshot(snapshot);
	avc_catalog_enter(&scope);
	SPI_connect();
	found = avc_spi_exec("SELECT 1 FROM _avcurate.slices "
						 "WHERE slice_id = $1 AND version = $2 "
						 "AND erasures = $3", 3, params, true, 1) > 0;
	SPI_finish();
	avc_catalog_leave(&scope);
	PopActiveSnapshot();
	return found;
}

/*
 * With one snapshot for the whole transaction the view, the history and the
 * registry would be read as of different refreshes.
 */
static void
check_serializable(const AvcSlice *slice)
{
	if (!IsolationUsesXactSnapshot() || is_seen(slice, GetLatestSnapshot()))
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

AvcRefresh *
avc_refresh_begin(Oid relid, bool is_concurrent)
{
	AvcRefresh *refresh = palloc0_object(AvcRefresh);

	refresh->slice = avc_slice_find(relid, false);
	refresh->role = GetUserNameFromId(GetUserId(), false);
	check_key(refresh->slice);
	if (OidIsValid(refresh->slice->dataset))
		avc_archive_hold(refresh->slice->dataset);
	if (refresh->slice->version == 0)
		return refresh;
	check_serializable(refresh->slice);
	refresh->is_stale = !is_seen(refresh->slice, GetActiveSnapshot());
	if (is_concurrent)
		refresh->before = RegisterSnapshot(GetLatestSnapshot());
	return refresh;
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

static AvcDelta *
find_delta(AvcRefresh *refresh, Relation rel)
{
	AvcDelta   *delta;

	if (refresh->writes_view)
	{
		delta = avc_delta_by_definition(refresh->slice, rel,
										refresh->definition);
		avc_apply(refresh->slice, rel, delta);
		return delta;
	}
	if (refresh->before == NULL)
		return avc_delta_by_comparison(refresh->slice, rel,
									   refresh->is_altered);
	delta = avc_delta_by_visibility(refresh->slice, rel, refresh->before);
	UnregisterSnapshot(refresh->before);
	refresh->before = NULL;
	if (delta)
		return delta;
	ereport(WARNING,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("version " INT64_FORMAT " of slice %s is not what the view held before this refresh",
					refresh->slice->version, refresh->slice->name),
			 errdetail("The view was refreshed with event triggers disabled, or the history was changed by hand."),
			 errhint("The next version is right again; avcurate.verify_slice tells which are not.")));
	return avc_delta_by_comparison(refresh->slice, rel, true);
}

static void
write_version(const AvcRefresh *refresh, const AvcDelta *delta, int64 version)
{
	const AvcSlice *slice = refresh->slice;
	AvcParam	params[12];
	AvcRoleScope scope;

	params[0] = AVC_INT8(slice->slice_id);
	params[1] = AVC_INT8(version);
	params[2] = AVC_BOOL(refresh->is_stale && IsolationUsesXactSnapshot());
	params[3] = AVC_INT8(delta->added);
	params[4] = AVC_INT8(delta->removed);
	params[5] = AVC_INT8(delta->changed);
	params[6] = AVC_TEXT(version == 1 ? "initial" : "full");
	params[7] = AVC_INT4(AVC_DIGEST_FORMAT);
	params[8] = AVC_TEXT(delta->digest);
	params[9] = AVC_TEXT(refresh->note);
	params[10] = AVC_TEXT(refresh->role);
	params[11] = AVC_INT8(delta->rows);

	avc_catalog_enter(&scope);
	avc_pin_text_format();
	SPI_connect();
	if (avc_spi_exec("UPDATE _avcurate.slices SET version = $2, "
					 "must_recompute = $3, "
					 "definition = pg_catalog.pg_get_viewdef(slice) "
					 "WHERE slice_id = $1 AND version = $2 - 1",
					 3, params, false, 0) != 1)
		elog(ERROR, "registry of slice %s changed during its refresh",
			 slice->name);
	avc_spi_exec("INSERT INTO _avcurate.slice_versions (slice_id, version, "
				 "created_by, rows, added, removed, changed, mode, "
				 "definition, columns, digest_format, digest, note) "
				 "SELECT $1, $2, $11, $12, $4, $5, $6, $7, "
				 "definition, columns, $8, $9, $10 "
				 "FROM _avcurate.slices WHERE slice_id = $1",
				 12, params, false, 0);
	SPI_finish();
	avc_catalog_leave(&scope);
}

int64
avc_refresh_finish(AvcRefresh *refresh)
{
	AvcSlice   *slice = refresh->slice;
	Relation	rel = table_open(slice->relid, NoLock);
	AvcDelta   *delta = find_delta(refresh, rel);

	refresh->added = delta->added;
	refresh->removed = delta->removed;
	refresh->changed = delta->changed;
	if (slice->version == 0 || refresh->is_altered ||
		delta->added + delta->removed + delta->changed > 0)
	{
		slice->version++;
		write_version(refresh, delta, slice->version);
		avc_history_apply(slice, delta, slice->version);
	}
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

/* Refresh one slice as its owner; *refresh tells what changed. */
static int64
refresh_owned(Oid relid, const char *note, AvcRefresh **refresh)
{
	PreventCommandIfReadOnly("refresh_slice()");
	PreventCommandIfParallelMode("refresh_slice()");
	relid = avc_slice_lock(relid, ExclusiveLock)->relid;
	*refresh = avc_refresh_begin(relid, false);
	(*refresh)->note = note;
	/* the statement that recomputes starts now that the lock is held */
	(*refresh)->is_stale = false;
	(*refresh)->writes_view = is_populated(relid);
	if (!(*refresh)->writes_view)
	{
		LockRelationOid(relid, AccessExclusiveLock);
		avc_refresh_run(relid, false);
	}
	return avc_refresh_finish(*refresh);
}

Datum
avc_refresh_slice(PG_FUNCTION_ARGS)
{
	AvcRefresh *refresh;
	char	   *note;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	note = PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1));
	PG_RETURN_INT64(refresh_owned(PG_GETARG_OID(0), note, &refresh));
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
	AvcRefresh *refresh;
	AvcSlice   *slice = avc_slice_find(relid, false);
	int64		rows_before = avc_slice_version_rows(slice, slice->version);
	int64		version = refresh_owned(relid, NULL, &refresh);

	values[0] = ObjectIdGetDatum(relid);
	values[1] = Int64GetDatum(slice->version);
	values[2] = Int64GetDatum(version);
	values[3] = Int64GetDatum(rows_before);
	values[4] = Int64GetDatum(avc_slice_version_rows(refresh->slice, version));
	values[5] = Int64GetDatum(refresh->added);
	values[6] = Int64GetDatum(refresh->removed);
	values[7] = Int64GetDatum(refresh->changed);
	values[8] = CStringGetTextDatum("full");
	values[9] = DirectFunctionCall2(timestamp_mi,
									TimestampTzGetDatum(GetCurrentTimestamp()),
									TimestampTzGetDatum(start));
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

Datum
avc_refresh_slices(PG_FUNCTION_ARGS)
{
	Oid			dataset = PG_ARGISNULL(0) ? InvalidOid : PG_GETARG_OID(0);
	ListCell   *cell;

	InitMaterializedSRF(fcinfo, 0);
	/* in the order of their OIDs, so that two calls cannot deadlock */
	foreach(cell, slices_of(dataset))
	{
		if (pg_class_ownercheck(lfirst_oid(cell), GetUserId()))
			put_refresh((ReturnSetInfo *) fcinfo->resultinfo,
						lfirst_oid(cell));
	}
	return (Datum) 0;
}

Datum
avc_explain_refresh(PG_FUNCTION_ARGS)
{
	AvcSlice   *slice = avc_slice_find(PG_GETARG_OID(0), false);
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum		values[3];
	bool		nulls[3] = {false, false, true};
	Relation	rel;
	const char *reason;

	avc_slice_check_readable(slice);
	InitMaterializedSRF(fcinfo, 0);
	rel = table_open(slice->relid, AccessShareLock);
	if (!RelationIsPopulated(rel))
		reason = "the view holds no rows: it is filled again and compared with its newest version";
	else if (!avc_definition_has_key(rel))
		reason = "the view has no unique index on frame_id: the refresh would fail";
	else if (slice->must_recompute)
		reason = "the last refresh used a snapshot older than the one before it";
	else
		reason = "the definition is recomputed and the difference is written";
	table_close(rel, AccessShareLock);
	values[0] = CStringGetTextDatum("full");
	values[1] = CStringGetTextDatum(reason);
	values[2] = (Datum) 0;
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	return (Datum) 0;
}
