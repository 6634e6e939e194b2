/*
 * slices/history_columns.c
 *		The columns of a history table when those of its slice change.
 *
 * A history table has the columns of all versions of its slice.  A version
 * says which of them are its own (slice_versions.columns); what a row has in
 * others means nothing to it, for a row may belong to versions from before
 * and after a change of columns.  So columns are only ever added.  When one
 * comes back with another type, the old one makes way under another name,
 * which old versions then know it by; digests are over values, not names.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "slices/refresh.h"

/* "weather (1)": a name that no column of a dataset is likely to have. */
static char *
aside_name(const AvcSlice *slice, const char *name)
{
	int			number;

	for (number = 1;; number++)
	{
		char	   *tail = psprintf(" (%d)", number);
		int			length = pg_mbcliplen(name, strlen(name),
										  NAMEDATALEN - 1 - strlen(tail));
		char	   *found = psprintf("%.*s%s", length, name, tail);

		if (get_attnum(slice->history, found) == InvalidAttrNumber)
			return found;
	}
}

/* Does a name look like one of these? */
static bool
is_aside(const char *name)
{
	int			length = strlen(name);

	return length > 4 && name[length - 1] == ')' &&
		strstr(name, " (") != NULL;
}

static bool
is_member(const List *names, const char *name)
{
	const ListCell *cell;

	foreach(cell, names)
	{
		if (strcmp(lfirst(cell), name) == 0)
			return true;
	}
	return false;
}

static void
rename_column(const AvcSlice *slice, const char *from, const char *to)
{
	AvcParam	params[3];

	params[0] = AVC_INT8(slice->slice_id);
	params[1] = AVC_TEXT(from);
	params[2] = AVC_TEXT(to);
	avc_spi_exec(psprintf("ALTER TABLE %s RENAME COLUMN %s TO %s",
						  slice->history_name, quote_identifier(from),
						  quote_identifier(to)), 0, NULL, false, 0);
	avc_spi_exec("UPDATE _avcurate.slice_versions SET columns = "
				 "array_replace(columns, $2::name, $3::name) "
				 "WHERE slice_id = $1 AND $2::name = ANY (columns)",
				 3, params, false, 0);
}

void
avc_history_rename(const AvcSlice *slice, const char *from, const char *to)
{
	AvcRoleScope scope;

	avc_catalog_enter(&scope);
	SPI_connect();
	if (get_attnum(slice->history, to) != InvalidAttrNumber)
		rename_column(slice, to, aside_name(slice, to));
	rename_column(slice, from, to);
	SPI_finish();
	avc_catalog_leave(&scope);
}

static void
fit_column(const AvcSlice *slice, Form_pg_attribute column)
{
	const char *name = NameStr(column->attname);
	AttrNumber	number = get_attnum(slice->history, name);
	StringInfoData sql;

	if (number != InvalidAttrNumber)
	{
		Oid			type;
		int32		typmod;
		Oid			collation;
		int32		wanted_typmod;
		Oid			wanted = avc_history_type(column, &wanted_typmod);

		get_atttypetypmodcoll(slice->history, number, &type, &typmod,
							  &collation);
		if (type == wanted && typmod == wanted_typmod &&
			collation == column->attcollation &&
			(!is_aside(name) || is_member(slice->columns, name)))
			return;
		rename_column(slice, name, aside_name(slice, name));
	}
	initStringInfo(&sql);
	appendStringInfo(&sql, "ALTER TABLE %s ADD COLUMN ", slice->history_name);
	avc_history_describe_column(&sql, column);
	avc_spi_exec(sql.data, 0, NULL, false, 0);
}

void
avc_history_fit(const AvcSlice *slice, Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	AvcRoleScope scope;
	int			i;

	avc_catalog_enter(&scope);
	SPI_connect();
	for (i = 0; i < desc->natts; i++)
		fit_column(slice, TupleDescAttr(desc, i));
	SPI_finish();
	avc_catalog_leave(&scope);
	table_close(rel, AccessShareLock);
}

char *
avc_history_columns(const AvcSlice *slice, const AvcVersion *version,
					const char *table)
{
	StringInfoData list;
	ListCell   *cell;

	initStringInfo(&list);
	foreach(cell, slice->columns)
		appendStringInfo(&list, is_member(version->columns, lfirst(cell)) ?
						 "%s%s.%s" : "%sCASE WHEN false THEN %s.%s END",
						 list.len > 0 ? ", " : "", table,
						 quote_identifier(lfirst(cell)));
	return list.data;
}

/*
 * A row that stayed the newest at "version" may hold values in columns that
 * came back just then: old versions have them, and "version" has a NULL.
 * Such a row is closed and goes on without them.
 */
void
avc_history_blank(const AvcSlice *slice, const List *columns, int64 version)
{
	AvcParam	param = AVC_INT8(version);
	StringInfoData values;
	StringInfoData holds;
	AvcRoleScope scope;
	ListCell   *cell;

	if (columns == NIL)
		return;
	initStringInfo(&values);
	initStringInfo(&holds);
	foreach(cell, slice->columns)
	{
		const char *name = quote_identifier(lfirst(cell));
		bool		is_blank = is_member(columns, lfirst(cell));

		appendStringInfo(&values, "%s%s", values.len > 0 ? ", " : "",
						 is_blank ? "NULL" : name);
		if (is_blank)
			appendStringInfo(&holds, "%s%s IS DISTINCT FROM NULL",
							 holds.len > 0 ? " OR " : "", name);
	}
	avc_catalog_enter(&scope);
	SPI_connect();
	avc_spi_exec(psprintf("WITH closed AS (UPDATE %s SET to_version = $1 "
						  "WHERE to_version IS NULL AND from_version < $1 "
						  "AND (%s) RETURNING *) "
						  "INSERT INTO %s (%s, from_version) "
						  "SELECT %s, $1 FROM closed",
						  slice->history_name, holds.data,
						  slice->history_name,
						  avc_column_list(NULL, slice->columns), values.data),
				 1, &param, false, 0);
	SPI_finish();
	avc_catalog_leave(&scope);
}
