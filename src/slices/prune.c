/*
 * slices/prune.c
 *		What holds versions, and dropping those that nothing holds.
 *
 * A version is held by its tags, by checkpoints, evaluations and experiments
 * that name it and by jobs that are not finished.  Whoever writes such a row has a key
 * share lock on the version's row (a foreign key, or avc_slice_version_pin);
 * pruning locks the rows first and looks at what holds them afterwards, so
 * neither can slip past the other.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "slices/refresh.h"
#include "slices/watermark.h"

PG_FUNCTION_INFO_V1(avc_slice_pins);
PG_FUNCTION_INFO_V1(avc_prune_slice);

/* Tables of higher floors with columns slice_id and version. */
static const struct
{
	const char *table;
	const char *key;
	const char *kind;
	const char *condition;
} holders[] =
{
	{"checkpoints", "checkpoint", "checkpoint", "NOT state"},
	{"evaluations", "evaluation", "evaluation", "true"},
	{"jobs", "job", "job", "state IN ('pending', 'running')"},
	{"validation_pins", "job", "job", "job IN (SELECT job "
		"FROM _avcurate.jobs WHERE state IN ('pending', 'running'))"},
	{"experiment_slices", "experiment_id", "experiment", "true"},
};

/* A query for (slice_id, version, kind text, id bigint, tag text). */
static char *
pins_query(void)
{
	Oid			schema = get_namespace_oid("_avcurate", false);
	StringInfoData sql;
	int			i;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT slice_id, version, 'tag' AS kind, "
						   "NULL::bigint AS id, tag "
						   "FROM _avcurate.slice_tags");
	for (i = 0; i < lengthof(holders); i++)
	{
		Oid			table = get_relname_relid(holders[i].table, schema);

		if (!OidIsValid(table) ||
			get_attnum(table, "slice_id") <= 0 ||
			get_attnum(table, "version") <= 0 ||
			get_attnum(table, holders[i].key) <= 0)
			continue;
		appendStringInfo(&sql, " UNION ALL SELECT slice_id, version, '%s', "
						 "%s, NULL FROM _avcurate.%s WHERE %s "
						 "AND version IS NOT NULL",
						 holders[i].kind, holders[i].key, holders[i].table,
						 holders[i].condition);
	}
	return sql.data;
}

Datum
avc_slice_pins(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	AvcRoleScope scope;
	uint64		i;

	InitMaterializedSRF(fcinfo, 0);
	avc_catalog_enter(&scope);
	SPI_connect();
	avc_spi_exec(pins_query(), 0, NULL, true, 0);
	for (i = 0; i < SPI_processed; i++)
		tuplestore_puttuple(result->setResult, SPI_tuptable->vals[i]);
	SPI_finish();
	avc_catalog_leave(&scope);
	return (Datum) 0;
}

bool
avc_slice_is_pinned(int64 slice_id, char **what)
{
	AvcParam	param = AVC_INT8(slice_id);
	MemoryContext caller = CurrentMemoryContext;
	AvcRoleScope scope;
	Datum		value;
	bool		is_null;

	avc_catalog_enter(&scope);
	SPI_connect();
	avc_spi_exec("SELECT 1 FROM _avcurate.slice_versions "
				 "WHERE slice_id = $1 FOR UPDATE", 1, &param, false, 0);
	value = avc_spi_value(psprintf("SELECT 'version ' || version || ' by ' || "
								   "kind || ' ' || coalesce(id::text, tag) "
								   "FROM (%s) pins WHERE slice_id = $1 "
								   "ORDER BY version, kind, id, tag",
								   pins_query()), 1, &param, caller, &is_null);
	SPI_finish();
	avc_catalog_leave(&scope);
	if (!is_null && what)
		*what = TextDatumGetCString(value);
	return !is_null;
}

/*
 * Free the weights that failed and cancelled trainings would go on from:
 * without their version they cannot.  NULL versions are all of the slice.
 */
static void
free_states(int64 slice_id, AvcParam versions)
{
	AvcParam	params[] = {AVC_INT8(slice_id), versions};

	avc_spi_exec("DELETE FROM _avcurate.checkpoints WHERE state AND job IN "
				 "(SELECT job FROM _avcurate.jobs WHERE slice_id = $1 "
				 "AND ($2 IS NULL OR version = ANY ($2)))",
				 lengthof(params), params, false, 0);
}

void
avc_slice_forget(int64 slice_id)
{
	AvcParam	param = AVC_INT8(slice_id);
	AvcRoleScope scope;

	avc_catalog_enter(&scope);
	SPI_connect();
	free_states(slice_id, AVC_NULL(INT8ARRAYOID));
	avc_spi_exec("DELETE FROM _avcurate.slice_tags WHERE slice_id = $1",
				 1, &param, false, 0);
	avc_spi_exec("DELETE FROM _avcurate.slice_versions WHERE slice_id = $1",
				 1, &param, false, 0);
	avc_spi_exec("DELETE FROM _avcurate.slices WHERE slice_id = $1",
				 1, &param, false, 0);
	SPI_finish();
	avc_catalog_leave(&scope);
	avc_history_drop(slice_id);
}

/* Forget dropped slices whose last pin is gone. */
static void
forget_dropped(void)
{
	List	   *ids;
	ListCell   *cell;

	ids = avc_slice_ids(psprintf("SELECT slice_id FROM _avcurate.slices "
								 "WHERE slice IS NULL AND slice_id NOT IN "
								 "(SELECT p.slice_id FROM (%s) p WHERE p.slice_id IS NOT NULL) "
								 "FOR UPDATE SKIP LOCKED", pins_query()));
	CommandCounterIncrement();
	foreach(cell, ids)
	{
		if (!avc_slice_is_pinned(*(int64 *) lfirst(cell), NULL))
			avc_slice_forget(*(int64 *) lfirst(cell));
	}
}

/*
 * Decide on every version: (version, pruned, kept_because).
 * $1 slice, $2 keep, $3 older_than, $4 newest version.
 */
static void
decide(AvcParam *params)
{
	char	   *sql;

	avc_spi_exec("SELECT 1 FROM _avcurate.slice_versions "
				 "WHERE slice_id = $1 FOR UPDATE", 1, params, false, 0);
	sql = psprintf("WITH pins AS (SELECT version, string_agg("
				   "kind || ' ' || coalesce(id::text, tag), ', ' "
				   "ORDER BY kind DESC, id, tag) AS held "
				   "FROM (%s) p WHERE slice_id = $1 GROUP BY version), "
				   "ranked AS (SELECT version, created_at, "
				   "rank() OVER (ORDER BY version DESC) AS place "
				   "FROM _avcurate.slice_versions WHERE slice_id = $1), "
				   "reasons AS (SELECT version, nullif(concat_ws(', ', "
				   "CASE WHEN version = $4 THEN 'newest version' "
				   "WHEN place <= $2 THEN 'among the newest ' || $2 END, "
				   "CASE WHEN created_at > now() - $3 "
				   "THEN 'younger than ' || $3 END, held), '') AS reason "
				   "FROM ranked LEFT JOIN pins USING (version)) "
				   "SELECT version, reason IS NULL, reason "
				   "FROM reasons ORDER BY version", pins_query());
	avc_spi_exec(sql, 4, params, false, 0);
}

/* The versions in SPI_tuptable that are pruned, or those that are not. */
static AvcParam
versions_where(bool is_pruned)
{
	Datum	   *versions = palloc_array(Datum, SPI_processed + 1);
	int			count = 0;
	uint64		i;

	for (i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		is_null;

		if (DatumGetBool(SPI_getbinval(row, desc, 2, &is_null)) == is_pruned)
			versions[count++] = SPI_getbinval(row, desc, 1, &is_null);
	}
	return (AvcParam) {INT8ARRAYOID,
		PointerGetDatum(construct_array(versions, count, INT8OID, 8,
										FLOAT8PASSBYVAL, TYPALIGN_DOUBLE)),
		false};
}

/*
 * Delete the versions that were decided to go, then the rows that no version
 * left holds: those before and after which the same number of kept versions
 * comes.  width_bucket counts them by bisection, so this reads the history
 * once, however many versions there are.
 */
static void
delete_versions(const AvcSlice *slice)
{
	AvcParam	params[2] = {AVC_INT8(slice->slice_id), versions_where(true)};
	AvcParam	kept = versions_where(false);

	free_states(slice->slice_id, params[1]);
	if (avc_spi_exec("DELETE FROM _avcurate.slice_versions "
					 "WHERE slice_id = $1 AND version = ANY ($2)",
					 2, params, false, 0) == 0)
		return;
	avc_spi_exec(psprintf("DELETE FROM %s WHERE to_version IS NOT NULL "
						  "AND width_bucket(from_version - 1, $1) = "
						  "width_bucket(to_version - 1, $1)",
						  slice->history_name), 1, &kept, false, 0);
}

static void
free_images(Oid dataset)
{
	char	   *why = avc_archive_free(dataset);

	if (why)
		ereport(NOTICE,
				(errmsg("some archived images were not freed"),
				 errdetail("%s", why),
				 errhint("The next prune_slice of a slice of the dataset frees them.")));
}

Datum
avc_prune_slice(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	AvcParam	params[4];
	AvcSlice   *slice;
	AvcRoleScope scope;
	uint64		i;

	PreventCommandIfReadOnly("prune_slice()");
	if (PG_ARGISNULL(1) || PG_GETARG_INT32(1) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("keep must be at least 1"),
				 errdetail("The newest version is what the view holds.")));
	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0))
		return (Datum) 0;
	slice = avc_slice_lock(PG_GETARG_OID(0), ExclusiveLock);
	params[0] = AVC_INT8(slice->slice_id);
	params[1] = AVC_INT4(PG_GETARG_INT32(1));
	params[2] = (AvcParam) {INTERVALOID, PG_ARGISNULL(2) ? (Datum) 0 :
		PG_GETARG_DATUM(2), PG_ARGISNULL(2)};
	params[3] = AVC_INT8(slice->version);

	avc_catalog_enter(&scope);
	SPI_connect();
	decide(params);
	for (i = 0; i < SPI_processed; i++)
		tuplestore_puttuple(result->setResult, SPI_tuptable->vals[i]);
	delete_versions(slice);
	SPI_finish();
	avc_catalog_leave(&scope);

	forget_dropped();
	CommandCounterIncrement();
	if (OidIsValid(slice->dataset))
		free_images(slice->dataset);
	avc_tombstones_prune();
	return (Datum) 0;
}
