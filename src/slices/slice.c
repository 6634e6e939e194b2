/*
 * slices/slice.c
 *		The registry: look slices and versions up, enter and remove them.
 *
 * The registry is keyed by the view's OID, so renaming or moving a view needs
 * nothing, and a view made again under an old name is another slice.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "slices/refresh.h"

char *
avc_relation_name(Oid relid)
{
	char	   *name = get_rel_name(relid);

	if (name == NULL)
		elog(ERROR, "relation %u is gone", relid);
	return quote_qualified_identifier(
									  get_namespace_name(get_rel_namespace(relid)), name);
}

List *
avc_names_from_array(Datum array)
{
	Datum	   *elements;
	List	   *names = NIL;
	int			count;
	int			i;

	deconstruct_array(DatumGetArrayTypeP(array), NAMEOID, NAMEDATALEN, false,
					  TYPALIGN_CHAR, &elements, NULL, &count);
	for (i = 0; i < count; i++)
		names = lappend(names, pstrdup(NameStr(*DatumGetName(elements[i]))));
	return names;
}

Datum
avc_names_to_array(const List *names)
{
	Datum	   *elements = palloc_array(Datum, list_length(names) + 1);
	ListCell   *cell;
	int			count = 0;

	foreach(cell, names)
		elements[count++] = DirectFunctionCall1(namein,
												CStringGetDatum(lfirst(cell)));
	return PointerGetDatum(construct_array(elements, count, NAMEOID,
										   NAMEDATALEN, false,
										   TYPALIGN_CHAR));
}

char *
avc_column_list(const char *prefix, const List *columns)
{
	StringInfoData list;
	ListCell   *cell;

	initStringInfo(&list);
	foreach(cell, columns)
	{
		if (list.len > 0)
			appendStringInfoString(&list, ", ");
		if (prefix)
			appendStringInfo(&list, "%s.", prefix);
		appendStringInfoString(&list, quote_identifier(lfirst(cell)));
	}
	return list.data;
}

/* ---- look-ups ---- */

/* The slice in row 0 of SPI_tuptable, in the context given. */
static AvcSlice *
slice_from_row(MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	AvcSlice   *slice = palloc0_object(AvcSlice);
	bool		is_null;
	Datum		value;

	slice->slice_id = DatumGetInt64(avc_spi_column(0, "slice_id", &is_null));
	value = avc_spi_column(0, "slice", &is_null);
	slice->relid = is_null ? InvalidOid : DatumGetObjectId(value);
	/* dropped while event triggers were off: as if they had seen it */
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(slice->relid)))
		slice->relid = InvalidOid;
	value = avc_spi_column(0, "dataset", &is_null);
	slice->dataset = is_null ? InvalidOid : DatumGetObjectId(value);
	slice->complete = DatumGetBool(avc_spi_column(0, "complete", &is_null));
	slice->must_recompute =
		DatumGetBool(avc_spi_column(0, "must_recompute", &is_null));
	slice->version = DatumGetInt64(avc_spi_column(0, "version", &is_null));
	slice->erasures = DatumGetInt64(avc_spi_column(0, "erasures", &is_null));
	slice->columns = avc_names_from_array(avc_spi_column(0, "columns",
														 &is_null));
	if (OidIsValid(slice->relid))
		slice->name = avc_relation_name(slice->relid);
	else
		slice->name = TextDatumGetCString(avc_spi_column(0, "slice_name",
														 &is_null));
	slice->history_name = avc_history_name(slice->slice_id);
	slice->history = get_relname_relid(slice->history_name +
									   strlen("_avcurate."),
									   get_namespace_oid("_avcurate", false));
	MemoryContextSwitchTo(old);
	return slice;
}

static AvcSlice *
slice_find(SPIPlanPtr *plan, const char *sql, AvcParam param)
{
	MemoryContext caller = CurrentMemoryContext;
	AvcSlice   *slice = NULL;
	AvcRoleScope scope;

	avc_catalog_enter(&scope);
	SPI_connect();
	if (avc_spi_exec_kept(plan, sql, 1, &param, false, 1) > 0)
		slice = slice_from_row(caller);
	SPI_finish();
	avc_catalog_leave(&scope);
	return slice;
}

/*
 * With one snapshot for the whole transaction a view that was tracked or made
 * again since is not in the registry yet.
 */
static void
check_not_newer(Oid relid)
{
	AvcParam	param = AVC_REGCLASS(relid);
	AvcRoleScope scope;
	bool		is_newer;

	if (!IsolationUsesXactSnapshot())
		return;
	PushActiveSnapshot(GetLatestSnapshot());
	avc_catalog_enter(&scope);
	SPI_connect();
	is_newer = avc_spi_exec("SELECT FROM _avcurate.slices WHERE slice = $1",
							1, &param, true, 1) > 0;
	SPI_finish();
	avc_catalog_leave(&scope);
	PopActiveSnapshot();
	if (is_newer)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent change of slice %s",
						avc_relation_name(relid)),
				 errhint("Retry the transaction.")));
}

AvcSlice *
avc_slice_find(Oid relid, bool missing_ok)
{
	static SPIPlanPtr plan = NULL;
	AvcSlice   *slice = slice_find(&plan, "SELECT * FROM _avcurate.slices "
								   "WHERE slice = $1", AVC_REGCLASS(relid));
	char	   *name;

	if (slice != NULL || missing_ok)
		return slice;
	name = get_rel_name(relid);
	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	if (get_rel_relkind(relid) != RELKIND_MATVIEW)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a slice", name),
				 errdetail("A slice is a materialized view.")));
	check_not_newer(relid);
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("materialized view \"%s\" is not a tracked slice", name),
			 errhint("Use avcurate.track_slice to make its refreshes versions.")));
}

AvcSlice *
avc_slice_find_by_id(int64 slice_id, bool missing_ok)
{
	static SPIPlanPtr plan = NULL;
	AvcSlice   *slice = slice_find(&plan, "SELECT * FROM _avcurate.slices "
								   "WHERE slice_id = $1",
								   AVC_INT8(slice_id));

	if (slice == NULL && !missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("slice number " INT64_FORMAT " does not exist",
						slice_id)));
	return slice;
}

AvcSlice *
avc_slice_find_owned(Oid relid)
{
	AvcSlice   *slice = avc_slice_find(relid, false);

	avc_require_owner(relid);
	return slice;
}

AvcSlice *
avc_slice_lock(Oid relid, LOCKMODE mode)
{
	AvcSlice   *slice = avc_slice_find_owned(relid);
	int64		slice_id = slice->slice_id;

	if (OidIsValid(slice->dataset))
		LockRelationOid(slice->dataset, AccessShareLock);
	for (;;)
	{
		LockRelationOid(relid, mode);
		slice = avc_slice_find_by_id(slice_id, true);
		if (slice == NULL || !OidIsValid(slice->relid))
			break;
		if (slice->relid != relid)
		{
			UnlockRelationOid(relid, mode);
			relid = slice->relid;
			continue;
		}
		if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
			break;
		avc_require_owner(relid);
		return slice;
	}
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent change of a slice"),
				 errhint("Retry the transaction.")));
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_TABLE),
			 errmsg("slice was dropped while this command waited for it")));
}

void
avc_slice_check_readable(const AvcSlice *slice)
{
	AclResult	result = ACLCHECK_OK;

	if (OidIsValid(slice->relid))
		result = pg_class_aclcheck(slice->relid, GetUserId(), ACL_SELECT);
	else if (!superuser())
		result = ACLCHECK_NO_PRIV;
	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_MATVIEW, slice->name);
}

void
avc_slice_check_complete(const AvcSlice *slice)
{
	char	   *missing;

	if (slice->complete)
		return;
	missing = OidIsValid(slice->relid) ?
		avc_definition_missing(slice->relid) : NULL;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("slice %s lacks what a training needs", slice->name),
			 missing ? errdetail("Missing columns: %s.", missing) : 0,
			 errhint("Take these columns of the dataset into the view.")));
}

/* ---- versions ---- */

AvcVersion *
avc_version_find(const AvcSlice *slice, int64 version, bool read_only)
{
	static SPIPlanPtr plan = NULL;
	AvcParam	params[2] = {AVC_INT8(slice->slice_id), AVC_INT8(version)};
	AvcVersion *found;
	bool		is_null;

	if (avc_spi_exec_kept(&plan, "SELECT * FROM _avcurate.slice_versions "
						  "WHERE slice_id = $1 AND version = $2",
						  2, params, read_only, 1) == 0)
		return NULL;
	found = palloc0_object(AvcVersion);
	found->version = version;
	found->rows = DatumGetInt64(avc_spi_column(0, "rows", &is_null));
	found->digest_format =
		DatumGetInt32(avc_spi_column(0, "digest_format", &is_null));
	found->digest = TextDatumGetCString(avc_spi_column(0, "digest", &is_null));
	found->erased = DatumGetInt64(avc_spi_column(0, "erased", &is_null));
	found->erased_digest =
		TextDatumGetCString(avc_spi_column(0, "erased_digest", &is_null));
	found->columns = avc_names_from_array(avc_spi_column(0, "columns",
														 &is_null));
	return found;
}

void
avc_version_leave_erased(AvcVersion *version)
{
	version->rows -= version->erased;
	version->digest = avc_digest_minus(version->digest,
									   version->erased_digest);
	version->erased = 0;
	version->erased_digest = NULL;
}

void
avc_version_missing(const AvcSlice *slice, int64 version)
{
	if (version >= 1 && version < slice->version)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("version " INT64_FORMAT " of slice %s was pruned",
						version, slice->name),
				 errhint("The view avcurate.slice_versions lists what is left; a tag keeps a version.")));
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("slice %s has no version " INT64_FORMAT, slice->name,
					version),
			 errdetail("Its newest version is " INT64_FORMAT ".",
					   slice->version)));
}

/*
 * Value of one column of a version's row as text, for callers that have no
 * SPI connection; NULL if there is no such version.
 */
static char *
version_value(const AvcSlice *slice, int64 version, const char *column,
			  const char *locking)
{
	AvcParam	params[2] = {AVC_INT8(slice->slice_id), AVC_INT8(version)};
	MemoryContext caller = CurrentMemoryContext;
	AvcRoleScope scope;
	Datum		value;
	bool		is_null;
	char	   *found = NULL;

	avc_catalog_enter(&scope);
	SPI_connect();
	value = avc_spi_value(psprintf("SELECT %s::text "
								   "FROM _avcurate.slice_versions "
								   "WHERE slice_id = $1 AND version = $2 %s",
								   column, locking), 2, params, caller,
						  &is_null);
	SPI_finish();
	avc_catalog_leave(&scope);
	if (!is_null)
		found = TextDatumGetCString(value);
	return found;
}

static int64
version_check(AvcSlice *slice, int64 version, const char *locking)
{
	if (version == 0)
		version = slice->version;
	if (version_value(slice, version, "version", locking) == NULL)
		avc_version_missing(slice, version);
	return version;
}

int64
avc_slice_version_check(AvcSlice *slice, int64 version)
{
	return version_check(slice, version, "");
}

int64
avc_slice_version_pin(AvcSlice *slice, int64 version)
{
	return version_check(slice, version, "FOR KEY SHARE");
}

static int64
version_number(const AvcSlice *slice, int64 version, const char *value,
			   const char *locking)
{
	char	   *number = version_value(slice, version, value, locking);

	if (number == NULL)
		avc_version_missing(slice, version);
	return pg_strtoint64(number);
}

int64
avc_slice_version_rows(const AvcSlice *slice, int64 version)
{
	return version_number(slice, version, "(rows - erased)", "");
}

int64
avc_slice_version_erased(const AvcSlice *slice, int64 version)
{
	return version_number(slice, version, "erased", "FOR SHARE");
}

/* ---- entering and removing ---- */

static List *
relation_columns(Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	List	   *columns = NIL;
	int			i;

	for (i = 0; i < desc->natts; i++)
		columns = lappend(columns,
						  pstrdup(NameStr(TupleDescAttr(desc, i)->attname)));
	table_close(rel, AccessShareLock);
	return columns;
}

void
avc_slice_register(Oid relid, Oid dataset, const char *filter, Snapshot used)
{
	AvcParam	params[6];
	AvcRefresh *refresh;
	AvcRoleScope scope;
	int64		slice_id;

	params[0] = AVC_REGCLASS(relid);
	params[1] = AVC_TEXT(avc_relation_name(relid));
	params[2] = AVC_REGCLASS(dataset);
	params[3] = AVC_TEXT(filter);
	params[4] = (AvcParam) {NAMEARRAYOID,
		avc_names_to_array(relation_columns(relid)), false};
	params[5] = AVC_BOOL(avc_definition_missing(relid) == NULL);

	avc_catalog_enter(&scope);
	avc_pin_text_format();
	SPI_connect();
	slice_id = avc_spi_int64("INSERT INTO _avcurate.slices (slice, slice_name, "
							 "dataset, filter, definition, columns, complete) "
							 "VALUES ($1, $2, $3, $4, "
							 "pg_catalog.pg_get_viewdef($1), $5, $6) "
							 "RETURNING slice_id", 6, params, 0);
	SPI_finish();
	avc_catalog_leave(&scope);

	avc_history_create(slice_id, relid);
	refresh = avc_refresh_begin(relid, false);
	if (used)
		avc_refresh_mark(refresh, used);
	avc_refresh_finish(refresh);
}
