/*
 * slices/history.c
 *		The history table of a slice: one row a frame and content.
 *
 * The newest version is in it too.  pg_dump keeps no contents of a view, and
 * WITH NO DATA drops them; a pin must survive both, so the history never
 * needs the view.  Writing happens as the extension's owner, after the view's
 * lock was taken.
 *
 * Values of a domain are kept as those of its base type.  The conditions of a
 * domain are code of a user, which ALTER TABLE and casts would evaluate with
 * our rights; and an old version holds what was allowed when it was made.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/portal.h"
#include "utils/queryenvironment.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "slices/refresh.h"

/*
 * Closing a row leaves its frame_id as it is, which alone is indexed, and so
 * needs no index entry where the page has room for one more row.  The room
 * comes back: the row as it was before is gone when nobody sees it any more.
 */
#define FILLFACTOR "90"

char *
avc_history_name(int64 slice_id)
{
	return psprintf("_avcurate.history_" INT64_FORMAT, slice_id);
}

bool
avc_history_has_images(int64 slice_id)
{
	Oid			history;
	AttrNumber	number;

	history = get_relname_relid(avc_history_name(slice_id) +
								strlen("_avcurate."),
								get_namespace_oid("_avcurate", false));
	if (!OidIsValid(history))
		return false;
	number = get_attnum(history, "image_sha256");
	return number > 0 && get_atttype(history, number) == BYTEAOID;
}

Oid
avc_history_type(const FormData_pg_attribute *column, int32 *typmod)
{
	*typmod = column->atttypmod;
	return getBaseTypeAndTypmod(column->atttypid, typmod);
}

void
avc_history_describe_column(StringInfo sql, Form_pg_attribute column)
{
	int32		typmod;
	Oid			type = avc_history_type(column, &typmod);

	appendStringInfo(sql, "%s %s",
					 quote_identifier(NameStr(column->attname)),
					 format_type_with_typemod(type, typmod));
	if (OidIsValid(column->attcollation) &&
		column->attcollation != get_typcollation(type))
		appendStringInfo(sql, " COLLATE %s",
						 generate_collation_name(column->attcollation));
	if (strcmp(NameStr(column->attname), "frame_id") == 0)
		appendStringInfoString(sql, " NOT NULL");
}

void
avc_history_create(int64 slice_id, Oid relid)
{
	char	   *name = avc_history_name(slice_id);
	Relation	rel = table_open(relid, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	AvcRoleScope scope;
	StringInfoData sql;
	int			i;

	avc_catalog_enter(&scope);
	initStringInfo(&sql);
	appendStringInfo(&sql, "CREATE TABLE %s (", name);
	for (i = 0; i < desc->natts; i++)
	{
		avc_history_describe_column(&sql, TupleDescAttr(desc, i));
		appendStringInfoString(&sql, ", ");
	}
	appendStringInfoString(&sql, "from_version bigint NOT NULL, "
						   "to_version bigint, "
						   "CHECK (from_version < to_version)) USING heap "
						   "WITH (fillfactor = " FILLFACTOR ")");
	table_close(rel, AccessShareLock);

	SPI_connect();
	avc_spi_exec(sql.data, 0, NULL, false, 0);
	avc_spi_exec(psprintf("CREATE INDEX history_" INT64_FORMAT
						  "_frame_id ON %s (frame_id)",
						  slice_id, name), 0, NULL, false, 0);
	/* without a key, a publication FOR ALL TABLES would forbid to prune */
	avc_spi_exec(psprintf("ALTER TABLE %s REPLICA IDENTITY FULL", name),
				 0, NULL, false, 0);
	avc_spi_exec(psprintf("COMMENT ON TABLE %s IS "
						  "'rows of all versions of slice " INT64_FORMAT "'",
						  name, slice_id), 0, NULL, false, 0);
	SPI_finish();
	avc_catalog_leave(&scope);
}

void
avc_history_drop(int64 slice_id)
{
	AvcRoleScope scope;

	avc_catalog_enter(&scope);
	SPI_connect();
	avc_spi_exec(psprintf("DROP TABLE IF EXISTS %s",
						  avc_history_name(slice_id)), 0, NULL, false, 0);
	SPI_finish();
	avc_catalog_leave(&scope);
}

void
avc_rows_register(const char *name, Tuplestorestate *rows, TupleDesc desc)
{
	EphemeralNamedRelation relation = palloc0_object(EphemeralNamedRelationData);
	int			result;

	relation->md.name = pstrdup(name);
	relation->md.reliddesc = InvalidOid;
	relation->md.tupdesc = desc;
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = tuplestore_tuple_count(rows);
	relation->reldata = rows;
	result = SPI_register_relation(relation);
	if (result != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register rows: %s",
			 SPI_result_code_string(result));
}

Tuplestorestate *
avc_rows_collect(const char *sql, int count, const AvcParam *params,
				 bool read_only, TupleDesc *desc)
{
	MemoryContext context = CurrentMemoryContext;
	Tuplestorestate *rows = tuplestore_begin_heap(false, false, work_mem);
	Portal		portal = avc_spi_cursor(sql, count, params, read_only);

	MemoryContextSwitchTo(context);
	if (desc)
		*desc = CreateTupleDescCopy(portal->tupDesc);
	avc_spi_store(portal, rows);
	MemoryContextSwitchTo(context);
	return rows;
}

