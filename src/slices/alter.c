/*
 * slices/alter.c
 *		Give a slice another filter or other columns.
 *
 * A filter is replaced in place.  The rows of the new query are computed and
 * written while readers go on; only then is the view's rule replaced, which
 * keeps them out until the transaction ends.  Other columns need the view to
 * be made again, so nobody reads it from the start: its OID is another, and a
 * reader would come back to a view that is gone.  Either way the registry
 * row, the history, tags and pins are the slice's as before, and the change is
 * one version, even if no row is another.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "commands/tablecmds.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "slices/refresh.h"

PG_FUNCTION_INFO_V1(avc_alter_slice);

static void
exec_in_catalog(const char *sql, int count, const AvcParam *params)
{
	AvcRoleScope scope;

	avc_catalog_enter(&scope);
	avc_pin_text_format();
	SPI_connect();
	if (avc_spi_exec(sql, count, params, false, 0) != 1)
		elog(ERROR, "registry of a slice changed while it was altered");
	SPI_finish();
	avc_catalog_leave(&scope);
}

void
avc_slice_note_filter(Oid relid, Oid dataset, const char *filter)
{
	AvcForm    *form = avc_form_read(relid, dataset);
	AvcParam	params[3];

	if (form == NULL)
		elog(ERROR, "view %s was made of another table",
			 avc_relation_name(relid));
	params[0] = AVC_REGCLASS(relid);
	params[1] = AVC_TEXT(filter);
	params[2] = AVC_TEXT(form->condition);
	exec_in_catalog("UPDATE _avcurate.slices SET filter = $2, condition = $3 "
					"WHERE slice = $1", 3, params);
}

static AvcSlice *
lock_slice(Oid relid, LOCKMODE mode)
{
	AvcSlice   *slice = avc_slice_lock(relid, mode);

	if (!OidIsValid(slice->dataset))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the dataset of slice %s was dropped", slice->name)));
	avc_archive_hold(slice->dataset);
	return slice;
}

static AvcForm *
form_of(const AvcSlice *slice)
{
	AvcForm    *form = avc_form_read(slice->relid, slice->dataset);

	if (form == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("slice %s cannot be altered", slice->name),
				 errdetail("Its query is more than columns of one dataset and a condition, so it has no filter to replace."),
				 errhint("Make a view of the new query with CREATE MATERIALIZED VIEW and adopt it with avcurate.track_slice.")));
	return form;
}

static bool
same_names(const List *a, const List *b)
{
	ListCell   *x;
	ListCell   *y;

	if (list_length(a) != list_length(b))
		return false;
	forboth(x, a, y, b)
	{
		if (strcmp(lfirst(x), lfirst(y)) != 0)
			return false;
	}
	return true;
}

static AvcRefresh *
begin_version(Oid relid)
{
	AvcRefresh *refresh = avc_refresh_begin(relid, false);

	refresh->is_altered = true;
	return refresh;
}

/* ---- another filter ---- */

static void
replace_rule(const AvcSlice *slice, Oid owner, const char *sql)
{
	AvcRoleScope scope;

	avc_role_enter(&scope, owner);
	avc_rule_replace(slice->relid, sql);
	avc_role_leave(&scope);
	avc_definition_check_lasting(slice->relid);
}

/* The version was recorded with the definition that the view had then. */
static void
note_definition(const AvcSlice *slice, int64 version)
{
	AvcParam	params[2] = {AVC_INT8(slice->slice_id), AVC_INT8(version)};

	exec_in_catalog("UPDATE _avcurate.slices SET definition = "
					"pg_catalog.pg_get_viewdef(slice) WHERE slice_id = $1",
					1, params);
	exec_in_catalog("UPDATE _avcurate.slice_versions v "
					"SET definition = s.definition FROM _avcurate.slices s "
					"WHERE s.slice_id = $1 AND v.slice_id = $1 "
					"AND v.version = $2", 2, params);
}

static int64
alter_rule(AvcSlice *slice, const char *sql)
{
	Relation	rel = table_open(slice->relid, NoLock);
	Oid			owner = rel->rd_rel->relowner;
	bool		is_populated = RelationIsPopulated(rel);
	AvcRefresh *refresh = begin_version(slice->relid);
	Snapshot	before = RegisterSnapshot(GetTransactionSnapshot());
	int64		version;

	CheckTableNotInUse(rel, "alter");
	table_close(rel, NoLock);
	if (is_populated)
	{
		refresh->writes_view = true;
		refresh->definition = sql;
		version = avc_refresh_finish(refresh);
		replace_rule(slice, owner, sql);
		note_definition(slice, version);
		avc_refresh_remember(refresh, before);
	}
	else
	{
		replace_rule(slice, owner, sql);
		avc_refresh_run(slice->relid, false);
		avc_refresh_mark(refresh, before);
		version = avc_refresh_finish(refresh);
	}
	UnregisterSnapshot(before);
	return version;
}

/* ---- other columns ---- */

/* Names of the one list that are not in the other. */
static List *
names_without(const List *names, const List *others)
{
	List	   *left = NIL;
	ListCell   *cell;
	ListCell   *other;

	foreach(cell, names)
	{
		bool		found = false;

		foreach(other, others)
			found = found || strcmp(lfirst(other), lfirst(cell)) == 0;
		if (!found)
			left = lappend(left, lfirst(cell));
	}
	return left;
}

static int64
alter_columns(AvcSlice *slice, const AvcForm *form, const char *sql)
{
	AvcParam	params[4];
	List	   *added = names_without(form->names, slice->columns);
	AvcRefresh *refresh;
	Snapshot	before;
	int64		version;
	Oid			relid;

	/* the old view is dropped, and the slice is not */
	params[0] = AVC_INT8(slice->slice_id);
	exec_in_catalog("UPDATE _avcurate.slices SET slice = NULL "
					"WHERE slice_id = $1", 1, params);
	before = RegisterSnapshot(GetTransactionSnapshot());
	relid = avc_view_remake(slice->relid, sql);
	avc_refresh_run(relid, false);
	(void) avc_definition_check_view(relid);
	avc_history_fit(slice, relid);
	params[1] = AVC_REGCLASS(relid);
	params[2] = (AvcParam) {NAMEARRAYOID, avc_names_to_array(form->names), false};
	params[3] = AVC_BOOL(avc_definition_missing(relid) == NULL);
	exec_in_catalog("UPDATE _avcurate.slices SET slice = $2, columns = $3, "
					"complete = $4 WHERE slice_id = $1", 4, params);
	refresh = begin_version(relid);
	avc_refresh_mark(refresh, before);
	version = avc_refresh_finish(refresh);
	UnregisterSnapshot(before);
	avc_history_blank(refresh->slice, added, version);
	return version;
}

Datum
avc_alter_slice(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	char	   *filter = NULL;
	AvcSlice   *slice;
	AvcForm    *form;
	AvcForm		wanted;
	int64		version;
	char	   *sql;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	if (PG_ARGISNULL(1) && PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("nothing to alter: filter and columns are NULL"),
				 errhint("Give a new filter, new columns, or both; the filter 'true' takes every frame.")));
	PreventCommandIfReadOnly("alter_slice()");
	PreventCommandIfParallelMode("alter_slice()");
	slice = lock_slice(relid, PG_ARGISNULL(2) ? ExclusiveLock :
					   AccessExclusiveLock);
	form = form_of(slice);
	wanted = *form;
	if (!PG_ARGISNULL(1))
	{
		filter = text_to_cstring(PG_GETARG_TEXT_PP(1));
		wanted.condition = avc_filter_condition(slice->dataset, filter);
	}
	if (!PG_ARGISNULL(2))
		wanted.sources = wanted.names =
			avc_definition_columns(slice->dataset, PG_GETARG_DATUM(2), false);
	sql = avc_form_query(slice->dataset, &wanted);
	if (same_names(wanted.sources, form->sources) &&
		same_names(wanted.names, form->names))
		version = alter_rule(slice, sql);
	else
		version = alter_columns(slice, &wanted, sql);
	if (filter)
	{
		slice = avc_slice_find_by_id(slice->slice_id, false);
		avc_slice_note_filter(slice->relid, slice->dataset, filter);
	}
	PG_RETURN_INT64(version);
}
