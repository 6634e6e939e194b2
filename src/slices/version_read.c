/*
 * slices/version_read.c
 *		Reading versions: slice_at, slice_diff, verify_slice.
 *
 * The version's row and its rows are read with one snapshot, so that a
 * version pruned meanwhile is missing and never half there.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

#include "common/catalog.h"
#include "common/message.h"
#include "common/spi.h"
#include "slices/refresh.h"

PG_FUNCTION_INFO_V1(avc_slice_at);
PG_FUNCTION_INFO_V1(avc_slice_diff);
PG_FUNCTION_INFO_V1(avc_verify_slice);

/* rows of version $n in a table h */
#define COVERS(n) "(h.from_version <= " n " AND " \
	"(h.to_version IS NULL OR " n " < h.to_version))"

#define FETCH_ROWS 1000

typedef struct Reading
{
	AvcSlice   *slice;
	AvcRoleScope scope;
} Reading;

/* Look at the slice's tables with one new snapshot. */
static void
reading_begin(Reading *reading, AvcSlice *slice)
{
	reading->slice = slice;
	PushActiveSnapshot(GetTransactionSnapshot());
	avc_catalog_enter(&reading->scope);
	SPI_connect();
}

static void
reading_end(Reading *reading)
{
	SPI_finish();
	avc_catalog_leave(&reading->scope);
	PopActiveSnapshot();
}

static AvcVersion *
reading_version(Reading *reading, int64 version)
{
	AvcVersion *found = avc_version_find(reading->slice, version, true);

	if (found == NULL)
		avc_version_missing(reading->slice, version);
	return found;
}

/*
 * The slice whose row type the first argument has, kept from being dropped,
 * if the current user may read it.
 */
static AvcSlice *
slice_of_row_type(FunctionCallInfo fcinfo)
{
	Oid			type = get_fn_expr_argtype(fcinfo->flinfo, 0);
	Oid			relid = OidIsValid(type) ? get_typ_typrelid(type) : InvalidOid;
	AvcSlice   *slice;

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("row_type is not the row type of a slice"),
				 errhint("Write NULL::name_of_the_slice.")));
	LockRelationOid(relid, AccessShareLock);
	slice = avc_slice_find(relid, false);
	avc_slice_check_readable(slice);
	return slice;
}

static int64
version_argument(FunctionCallInfo fcinfo, int number)
{
	if (PG_ARGISNULL(number))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("version must not be NULL")));
	return PG_GETARG_INT64(number);
}

/* Put a query's rows into the result as they are. */
static uint64
put_query(ReturnSetInfo *result, const char *sql, int count,
		  const AvcParam *params)
{
	return avc_spi_store(avc_spi_cursor(sql, count, params, true),
						 result->setResult);
}

/*
 * A materialized result with the row type of the slice: what the caller's
 * column list expects is not known where the function is in a SELECT list.
 */
static void
begin_result_of(FunctionCallInfo fcinfo, Oid relid)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext old;

	if (result == NULL || !IsA(result, ReturnSetInfo) ||
		!(result->allowedModes & SFRM_Materialize))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("set-valued function called in context that cannot accept a set")));
	old = MemoryContextSwitchTo(result->econtext->ecxt_per_query_memory);
	result->returnMode = SFRM_Materialize;
	result->setResult = tuplestore_begin_heap(result->allowedModes &
											  SFRM_Materialize_Random,
											  false, work_mem);
	result->setDesc =
		lookup_rowtype_tupdesc_copy(get_rel_type_id(relid), -1);
	MemoryContextSwitchTo(old);
}

Datum
avc_slice_at(PG_FUNCTION_ARGS)
{
	AvcSlice   *slice = slice_of_row_type(fcinfo);
	AvcParam	param = AVC_INT8(version_argument(fcinfo, 1));
	AvcVersion *version;
	Reading		reading;
	uint64		rows;

	begin_result_of(fcinfo, slice->relid);
	reading_begin(&reading, slice);
	version = reading_version(&reading, PG_GETARG_INT64(1));
	rows = put_query((ReturnSetInfo *) fcinfo->resultinfo,
					 psprintf("SELECT %s FROM %s h WHERE " COVERS("$1"),
							  avc_history_columns(slice, version, "h"),
							  slice->history_name), 1, &param);
	if (rows != version->rows - version->erased)
		ereport(WARNING,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("version " INT64_FORMAT " of slice %s has " UINT64_FORMAT " rows instead of " INT64_FORMAT,
						version->version, slice->name, rows,
						version->rows - version->erased),
				 errhint("avcurate.verify_slice tells more.")));
	reading_end(&reading);
	return (Datum) 0;
}

/* Have the two versions the same of the slice's present columns? */
static bool
same_columns(const AvcSlice *slice, const AvcVersion *a, const AvcVersion *b)
{
	return strcmp(avc_history_columns(slice, a, "h"),
				  avc_history_columns(slice, b, "h")) == 0;
}

/*
 * The rows of version "mine", whose number is $mine, that may not be in
 * version "other" as they are: with other columns even those of both.
 */
static char *
rows_only_in(const AvcSlice *slice, const AvcVersion *mine,
			 const AvcVersion *other, const char *mine_param,
			 const char *other_param)
{
	const char *except = "";

	if (same_columns(slice, mine, other))
		except = psprintf(" AND NOT (h.from_version <= %s AND "
						  "(h.to_version IS NULL OR %s < h.to_version))",
						  other_param, other_param);
	return psprintf("(SELECT h.frame_id, ROW(%s) AS whole FROM %s h "
					"WHERE (h.from_version <= %s AND "
					"(h.to_version IS NULL OR %s < h.to_version))%s)",
					avc_history_columns(slice, mine, "h"),
					slice->history_name,
					mine_param, mine_param, except);
}

/*
 * Put a row of slice_diff's query into the result, the slice's rows in it with
 * their type.  Not by a cast: that would evaluate the conditions of domains.
 */
static void
put_change(ReturnSetInfo *result, Oid row_type, HeapTuple change,
		   TupleDesc desc)
{
	Datum		values[4];
	bool		nulls[4];
	int			i;

	heap_deform_tuple(change, desc, values, nulls);
	for (i = 2; i < 4; i++)
	{
		HeapTupleHeader row;

		if (nulls[i])
			continue;
		row = DatumGetHeapTupleHeaderCopy(values[i]);
		HeapTupleHeaderSetTypeId(row, row_type);
		HeapTupleHeaderSetTypMod(row, -1);
		values[i] = PointerGetDatum(row);
	}
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	for (i = 2; i < 4; i++)
	{
		if (!nulls[i])
			pfree(DatumGetPointer(values[i]));
	}
}

static void
put_changes(ReturnSetInfo *result, Oid row_type, Portal portal)
{
	uint64		i;

	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		if (SPI_processed == 0)
			break;
		for (i = 0; i < SPI_processed; i++)
			put_change(result, row_type, SPI_tuptable->vals[i],
					   SPI_tuptable->tupdesc);
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(portal);
}

Datum
avc_slice_diff(PG_FUNCTION_ARGS)
{
	AvcSlice   *slice = slice_of_row_type(fcinfo);
	AvcParam	params[2];
	AvcVersion *from;
	AvcVersion *to;
	Reading		reading;
	StringInfoData sql;

	params[0] = AVC_INT8(version_argument(fcinfo, 1));
	params[1] = AVC_INT8(version_argument(fcinfo, 2));
	InitMaterializedSRF(fcinfo, 0);
	reading_begin(&reading, slice);
	from = reading_version(&reading, PG_GETARG_INT64(1));
	to = reading_version(&reading, PG_GETARG_INT64(2));
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT coalesce(b.frame_id, a.frame_id), "
					 "CASE WHEN b.frame_id IS NULL THEN 'added' "
					 "WHEN a.frame_id IS NULL THEN 'removed' "
					 "ELSE 'changed' END, b.whole, a.whole "
					 "FROM %s b FULL JOIN %s a ON a.frame_id = b.frame_id "
					 "WHERE b.frame_id IS NULL OR a.frame_id IS NULL "
					 "OR b.whole OPERATOR(pg_catalog.*<>) a.whole ORDER BY 1",
					 rows_only_in(slice, from, to, "$1", "$2"),
					 rows_only_in(slice, to, from, "$2", "$1"));
	put_changes((ReturnSetInfo *) fcinfo->resultinfo,
				get_rel_type_id(slice->relid),
				avc_spi_cursor(sql.data, 2, params, true));
	reading_end(&reading);
	return (Datum) 0;
}

/* ---- verify ---- */

typedef struct Verdict
{
	int64		rows;
	char	   *digest;
	StringInfoData faults;
	bool		has_images;
} Verdict;

static void
add_fault(Verdict *verdict, const char *format,...) pg_attribute_printf(2, 3);

static void
add_fault(Verdict *verdict, const char *format,...)
{
	StringInfo	faults = &verdict->faults;
	va_list		args;

	if (faults->len > 0)
		appendStringInfoString(faults, "; ");
	va_start(args, format);
	appendStringInfoString(faults, avc_message(format, args));
	va_end(args);
}

/* Count and digest the version's rows afresh. */
static void
verify_rows(Reading *reading, const AvcVersion *version, Verdict *verdict)
{
	AvcParam	param = AVC_INT8(version->version);

	verdict->digest = avc_digest_query(psprintf("SELECT ROW(%s) FROM %s h "
												"WHERE " COVERS("$1"),
												avc_column_list("h", version->columns),
												reading->slice->history_name),
									   1, &param, true, &verdict->rows);
	verdict->digest = avc_digest_plus(verdict->digest,
									  version->erased_digest);
	if (verdict->rows != version->rows - version->erased)
		add_fault(verdict, version->erased > 0 ?
				  "rows recorded: " INT64_FORMAT " minus " INT64_FORMAT " erased" :
				  "rows recorded: " INT64_FORMAT,
				  version->rows, version->erased);
	if (version->digest_format != AVC_DIGEST_FORMAT)
		add_fault(verdict, "digest of unknown format: %d",
				  version->digest_format);
	else if (strcmp(verdict->digest, version->digest) != 0)
		add_fault(verdict, "digest recorded: %s", version->digest);
}

/* Hash the images of the version, where they are now. */
static void
verify_images(Reading *reading, const AvcVersion *version, Verdict *verdict)
{
	AvcSlice   *slice = reading->slice;
	AvcImageFaults faults;

	if (!avc_history_has_images(slice->slice_id))
		return;
	verdict->has_images = true;
	if (!OidIsValid(slice->dataset))
	{
		add_fault(verdict, "its dataset was dropped, so its images are gone");
		return;
	}
	avc_images_check(slice, version->version, true, &faults);
	if (faults.missing > 0)
		add_fault(verdict, "images missing: " INT64_FORMAT ", first of frame " INT64_FORMAT,
				  faults.missing, faults.first_missing);
	if (faults.changed > 0)
		add_fault(verdict, "images that do not match their hash: " INT64_FORMAT ", first of frame " INT64_FORMAT,
				  faults.changed, faults.first_changed);
}

/* The newest version must be what the view holds. */
static void
verify_view(Reading *reading, const AvcVersion *version, Verdict *verdict)
{
	AvcSlice   *slice = reading->slice;
	char	   *columns = avc_column_list(NULL, slice->columns);
	Tuplestorestate *newest;
	TupleDesc	types;			/* the view's: the history has no domains */
	AvcRoleScope scope;
	Relation	rel;
	Oid			owner;
	bool		is_populated;
	bool		is_null;
	int64		differing;

	if (version->version != slice->version || !OidIsValid(slice->relid))
		return;
	rel = table_open(slice->relid, AccessShareLock);
	is_populated = RelationIsPopulated(rel);
	owner = rel->rd_rel->relowner;
	types = CreateTupleDescCopy(RelationGetDescr(rel));
	table_close(rel, AccessShareLock);
	if (!is_populated)
		return;
	newest = avc_rows_collect(psprintf("SELECT %s FROM %s "
									   "WHERE to_version IS NULL",
									   columns, slice->history_name),
							  0, NULL, true, NULL);
	avc_rows_register("newest_rows", newest, types);
	avc_role_enter(&scope, owner);
	avc_spi_exec(psprintf("SELECT count(*) FROM "
						  "(SELECT frame_id, ROW(%s) AS whole "
						  "FROM newest_rows) h FULL JOIN "
						  "(SELECT frame_id, ROW(%s) AS whole FROM %s) v "
						  "ON h.frame_id = v.frame_id "
						  "WHERE h.frame_id IS NULL OR v.frame_id IS NULL "
						  "OR h.whole OPERATOR(pg_catalog.*<>) v.whole",
						  columns, columns, slice->name), 0, NULL, true, 1);
	differing = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
											SPI_tuptable->tupdesc, 1,
											&is_null));
	avc_role_leave(&scope);
	tuplestore_end(newest);
	if (differing > 0)
		add_fault(verdict, "rows in which the view differs: " INT64_FORMAT,
				  differing);
}

static const char *
match_detail(const AvcVersion *version, const Verdict *verdict)
{
	const char *match = verdict->has_images ? "rows and images match" :
	"rows match";

	if (version->erased == 0)
		return match;
	return psprintf(INT64_FORMAT " rows minus " INT64_FORMAT " erased: %s",
					version->rows, version->erased, match);
}

/*
 * Keep what a verification reads as it is.  The slice is looked up again: while
 * this waits, views may change their names.
 */
static AvcSlice *
lock_to_verify(const AvcSlice *slice)
{
	AvcSlice   *locked;

	/* what TRUNCATE empties is empty for older snapshots, too */
	if (OidIsValid(slice->dataset))
		LockRelationOid(slice->dataset, AccessShareLock);
	if (OidIsValid(slice->relid))
		LockRelationOid(slice->relid, AccessShareLock);
	locked = avc_slice_find_by_id(slice->slice_id, true);
	if (locked == NULL || locked->relid != slice->relid)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("slice %s was dropped or made again while this command waited for it",
						slice->name)));
	return locked;
}

AvcVerdict *
avc_slice_verify(AvcSlice *slice, int64 number)
{
	AvcVerdict *result = palloc0_object(AvcVerdict);
	MemoryContext caller = CurrentMemoryContext;
	Verdict		verdict = {0};
	AvcVersion *version;
	Reading		reading;

	slice = lock_to_verify(slice);
	reading_begin(&reading, slice);
	version = reading_version(&reading, number == 0 ? slice->version : number);
	initStringInfo(&verdict.faults);
	verify_rows(&reading, version, &verdict);
	verify_images(&reading, version, &verdict);
	verify_view(&reading, version, &verdict);

	result->version = version->version;
	result->rows = verdict.rows;
	result->erased = version->erased;
	result->is_verified = verdict.faults.len == 0;
	result->digest = MemoryContextStrdup(caller, verdict.digest);
	result->detail = MemoryContextStrdup(caller, verdict.faults.len ?
										 verdict.faults.data :
										 match_detail(version, &verdict));
	reading_end(&reading);
	return result;
}

Datum
avc_verify_slice(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum		values[6];
	bool		nulls[6] = {false};
	AvcSlice   *slice;
	AvcVerdict *verdict;

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0))
		return (Datum) 0;
	slice = avc_slice_find(PG_GETARG_OID(0), false);
	avc_slice_check_readable(slice);
	if (!PG_ARGISNULL(1) && PG_GETARG_INT64(1) == 0)
		avc_version_missing(slice, 0);
	verdict = avc_slice_verify(slice, PG_ARGISNULL(1) ? 0 :
							   PG_GETARG_INT64(1));
	values[0] = Int64GetDatum(verdict->version);
	values[1] = Int64GetDatum(verdict->rows);
	values[2] = Int64GetDatum(verdict->erased);
	values[3] = CStringGetTextDatum(verdict->digest);
	values[4] = BoolGetDatum(verdict->is_verified);
	values[5] = CStringGetTextDatum(verdict->detail);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	return (Datum) 0;
}
