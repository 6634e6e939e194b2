/*
 * slices/ddl.c
 *		Slices and datasets that are dropped, renamed or moved.
 *
 * A dropped slice takes its history along, unless a version of it is pinned:
 * then the registry row stays without a view, and what was trained on it can
 * still be verified and reproduced.  A dropped dataset takes its archive
 * along.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/event_trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "slices/refresh.h"

PG_FUNCTION_INFO_V1(avc_slice_dropped);
PG_FUNCTION_INFO_V1(avc_slice_altered);

static void
check_event_trigger(FunctionCallInfo fcinfo)
{
	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function was not called by an event trigger")));
}

List *
avc_slice_ids(const char *sql)
{
	MemoryContext caller = CurrentMemoryContext;
	List	   *ids = NIL;
	AvcRoleScope scope;
	uint64		i;

	avc_catalog_enter(&scope);
	SPI_connect();
	avc_spi_exec(sql, 0, NULL, false, 0);
	for (i = 0; i < SPI_processed; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(caller);
		int64	   *id = palloc_object(int64);
		bool		is_null;

		*id = DatumGetInt64(avc_spi_column(i, "slice_id", &is_null));
		ids = lappend(ids, id);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	avc_catalog_leave(&scope);
	return ids;
}

static void
exec_as_owner(const char *sql, int count, const AvcParam *params)
{
	AvcRoleScope scope;

	avc_catalog_enter(&scope);
	SPI_connect();
	avc_spi_exec(sql, count, params, false, 0);
	SPI_finish();
	avc_catalog_leave(&scope);
}

static void
drop_slice(int64 slice_id)
{
	AvcParam	param = AVC_INT8(slice_id);
	Oid			dataset = avc_slice_find_by_id(slice_id, false)->dataset;
	char	   *what;

	if (!avc_slice_is_pinned(slice_id, &what))
	{
		avc_slice_forget(slice_id);
		CommandCounterIncrement();
		/* not if it is dropped with its slice: its images go anyway */
		if (OidIsValid(dataset) &&
			SearchSysCacheExists1(RELOID, ObjectIdGetDatum(dataset)))
			(void) avc_archive_free(dataset);
		return;
	}
	exec_as_owner("UPDATE _avcurate.slices SET slice = NULL, "
				  "dropped_at = now() WHERE slice_id = $1", 1, &param);
	ereport(NOTICE,
			(errmsg("the history of the slice is kept"),
			 errdetail("Pinned is %s.", what)));
}

Datum
avc_slice_dropped(PG_FUNCTION_ARGS)
{
	ListCell   *cell;

	check_event_trigger(fcinfo);
	/* the name that a pinned slice is known by from now on */
	exec_as_owner("UPDATE _avcurate.slices s "
				  "SET slice_name = d.object_identity "
				  "FROM pg_event_trigger_dropped_objects() d "
				  "WHERE s.slice = d.objid "
				  "AND d.classid = 'pg_class'::regclass "
				  "AND d.objsubid = 0 AND s.slice_name <> d.object_identity",
				  0, NULL);
	foreach(cell, avc_slice_ids("SELECT s.slice_id "
							"FROM pg_event_trigger_dropped_objects() d "
							"JOIN _avcurate.slices s ON s.slice = d.objid "
							"WHERE d.classid = 'pg_class'::regclass "
							"AND d.objsubid = 0 ORDER BY 1"))
		drop_slice(*(int64 *) lfirst(cell));

	/* datasets go after their slices */
	exec_as_owner("WITH gone AS (SELECT d.objid "
				  "FROM pg_event_trigger_dropped_objects() d "
				  "WHERE d.classid = 'pg_class'::regclass "
				  "AND d.objsubid = 0 AND d.object_type = 'table'), "
				  "images AS (DELETE FROM _avcurate.archive a "
				  "USING gone WHERE a.dataset = gone.objid), "
				  "erasures AS (UPDATE _avcurate.erasures e "
				  "SET dataset = NULL FROM gone "
				  "WHERE e.dataset = gone.objid) "
				  "UPDATE _avcurate.slices s SET dataset = NULL "
				  "FROM gone WHERE s.dataset = gone.objid", 0, NULL);
	PG_RETURN_NULL();
}

/* ---- renamed and moved ---- */

static void
rename_column(const AvcSlice *slice, const char *from, const char *to)
{
	AvcParam	params[4];

	if (strcmp(from, "frame_id") == 0 ||
		(strcmp(from, "image_sha256") == 0 &&
		 avc_history_has_images(slice->slice_id)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot rename column \"%s\" of slice %s", from,
						slice->name),
				 errdetail("Versions find their frames and images by this name."),
				 errhint("Use avcurate.untrack_slice first.")));
	if (strcmp(to, "from_version") == 0 || strcmp(to, "to_version") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_RESERVED_NAME),
				 errmsg("column name \"%s\" is reserved in a slice", to)));
	params[0] = AVC_INT8(slice->slice_id);
	params[1] = AVC_TEXT(from);
	params[2] = AVC_TEXT(to);
	params[3] = AVC_BOOL(avc_definition_missing(slice->relid) == NULL);
	avc_history_rename(slice, from, to);
	exec_as_owner("UPDATE _avcurate.slices SET complete = $4, columns = "
				  "array_replace(columns, $2::name, $3::name) "
				  "WHERE slice_id = $1", 4, params);
}

static void
follow_alter(int64 slice_id)
{
	AvcSlice   *slice = avc_slice_find_by_id(slice_id, false);
	AvcParam	params[2] = {AVC_INT8(slice_id), AVC_TEXT(slice->name)};
	Relation	rel = table_open(slice->relid, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	ListCell   *cell;
	int			i = 0;

	if (desc->natts != list_length(slice->columns))
		elog(ERROR, "columns of slice %s do not fit its history",
			 slice->name);
	foreach(cell, slice->columns)
	{
		char	   *name = NameStr(TupleDescAttr(desc, i++)->attname);

		if (strcmp(name, lfirst(cell)) != 0)
			rename_column(slice, lfirst(cell), name);
	}
	table_close(rel, AccessShareLock);
	exec_as_owner("UPDATE _avcurate.slices SET slice_name = $2 "
				  "WHERE slice_id = $1 AND slice_name <> $2", 2, params);
}

/*
 * Digests are over the text of rows: with another label no version that has
 * the old one would verify, nor any that is counted on from it.
 */
static void
check_label(const AlterEnumStmt *statement)
{
	AvcRoleScope scope;
	bool		is_null;

	if (statement->oldVal == NULL)
		return;
	avc_catalog_enter(&scope);
	SPI_connect();
	/* the type, and all types that are made of it */
	if (avc_spi_exec("WITH RECURSIVE types(id) AS (SELECT d.objid "
					 "FROM pg_event_trigger_ddl_commands() d "
					 "WHERE d.classid = 'pg_type'::regclass "
					 "UNION SELECT o.id FROM types t, LATERAL ("
					 "SELECT typarray FROM pg_type WHERE oid = t.id UNION ALL "
					 "SELECT oid FROM pg_type WHERE typbasetype = t.id UNION ALL "
					 "SELECT c.reltype FROM pg_attribute a "
					 "JOIN pg_class c ON c.oid = a.attrelid "
					 "WHERE a.atttypid = t.id UNION ALL "
					 "SELECT unnest(ARRAY[rngtypid, rngmultitypid]) "
					 "FROM pg_range WHERE rngsubtype = t.id) o(id) "
					 "WHERE o.id <> 0) "
					 "SELECT s.slice_name, a.attname::text FROM types t "
					 "JOIN pg_attribute a ON a.atttypid = t.id "
					 "AND NOT a.attisdropped "
					 "JOIN pg_class c ON c.oid = a.attrelid "
					 "AND c.relnamespace = '_avcurate'::regnamespace "
					 "JOIN _avcurate.slices s "
					 "ON c.relname = 'history_' || s.slice_id ORDER BY 1, 2",
					 0, NULL, false, 1) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot rename value \"%s\" because column \"%s\" of slice %s has its type",
						statement->oldVal,
						TextDatumGetCString(avc_spi_column(0, "attname",
														   &is_null)),
						TextDatumGetCString(avc_spi_column(0, "slice_name",
														   &is_null))),
				 errdetail("Versions are verified by the text of their rows, which would be another."),
				 errhint("Add the new value with ALTER TYPE ... ADD VALUE and update the frames.")));
	SPI_finish();
	avc_catalog_leave(&scope);
}

Datum
avc_slice_altered(PG_FUNCTION_ARGS)
{
	const Node *statement;
	ListCell   *cell;

	check_event_trigger(fcinfo);
	statement = ((EventTriggerData *) fcinfo->context)->parsetree;
	if (IsA(statement, AlterEnumStmt))
		check_label((const AlterEnumStmt *) statement);
	foreach(cell, avc_slice_ids("SELECT DISTINCT s.slice_id "
							"FROM pg_event_trigger_ddl_commands() d "
							"JOIN _avcurate.slices s ON true "
							"JOIN pg_class c ON c.oid = s.slice "
							"WHERE (d.classid, d.objid) IN "
							"(('pg_class'::regclass, c.oid), "
							"('pg_namespace'::regclass, c.relnamespace))"))
		follow_alter(*(int64 *) lfirst(cell));
	PG_RETURN_NULL();
}
