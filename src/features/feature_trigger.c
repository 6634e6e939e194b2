/*
 * features/feature_trigger.c
 *		The row trigger that sets features back, and the event triggers that
 *		keep it and the registry as the dataset's columns are.
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "access/table.h"
#include "commands/event_trigger.h"
#include "commands/extension.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "common/catalog.h"
#include "common/dropped.h"
#include "common/spi.h"
#include "features/feature.h"

PG_FUNCTION_INFO_V1(avc_feature_dropped);
PG_FUNCTION_INFO_V1(avc_feature_renamed);

#define TRIGGER_NAME "avc_reset_features"

/* ---- the row trigger ------------------------------------------------- */

/* The row trigger sets these from the image, whatever the UPDATE names. */
static bool
follows_image(const char *column)
{
	return strcmp(column, "width") == 0 || strcmp(column, "height") == 0 ||
		strcmp(column, "image_sha256") == 0;
}

/* The trigger is being rebuilt, so its drop means nothing. */
static bool is_rebuilding = false;

static void
run_trigger_ddl(const AvcDataset *dataset, const char *sql)
{
	AvcRoleScope scope;

	avc_role_enter(&scope, dataset->owner);
	(void) set_config_option("client_min_messages", "warning", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	is_rebuilding = true;
	PG_TRY();
	{
		avc_spi_exec(sql, 0, NULL, false, 0);
	}
	PG_FINALLY();
	{
		is_rebuilding = false;
	}
	PG_END_TRY();
	avc_role_leave(&scope);
}

/*
 * The columns whose change may change an input: itself, and if it is
 * generated, those that it is made of.  A row trigger fires before generated
 * columns are computed, and so cannot see them change.
 */
static List *
sources_of(Relation rel, const char *input)
{
	TupleDesc	desc = RelationGetDescr(rel);
	AttrNumber	number = get_attnum(RelationGetRelid(rel), input);
	List	   *sources = NIL;
	Bitmapset  *read = NULL;
	int			member = -1;

	/* a column that is gone cannot change any more */
	if (number <= InvalidAttrNumber)
		return NIL;
	sources = list_make1(pstrdup(input));
	if (TupleDescAttr(desc, number - 1)->attgenerated == '\0')
		return sources;
	pull_varattnos(build_column_default(rel, number), 1, &read);
	while ((member = bms_next_member(read, member)) >= 0)
	{
		number = member + FirstLowInvalidHeapAttributeNumber;
		if (number > InvalidAttrNumber)
			sources = avc_add_name(sources,
								   get_attname(RelationGetRelid(rel), number,
											   false));
	}
	return sources;
}

/* A column, and the features that depend on it. */
typedef struct Dependents
{
	char	   *column;
	StringInfoData numbers;		/* with commas */
} Dependents;

static Dependents *
find_dependents(List **all, char *column)
{
	Dependents *dependents;
	ListCell   *cell;

	foreach(cell, *all)
	{
		dependents = lfirst(cell);
		if (strcmp(dependents->column, column) == 0)
			return dependents;
	}
	dependents = palloc(sizeof(Dependents));
	dependents->column = column;
	initStringInfo(&dependents->numbers);
	*all = lappend(*all, dependents);
	return dependents;
}

/* Note the columns that a feature depends on. */
static void
add_feature(List **all, Relation rel, const AvcFeature *feature)
{
	List	   *sources = NIL;
	ListCell   *cell,
			   *source;

	foreach(cell, feature->inputs)
	{
		foreach(source, sources_of(rel, lfirst(cell)))
			sources = avc_add_name(sources, lfirst(source));
	}
	foreach(cell, sources)
	{
		StringInfo	numbers = &find_dependents(all, lfirst(cell))->numbers;

		appendStringInfo(numbers, "%s%d", numbers->len > 0 ? "," : "",
						 feature->number);
	}
}

/* The features' columns and numbers, of all features. */
static List *
load_dependents(const AvcDataset *dataset)
{
	Relation	rel = table_open(dataset->relid, AccessShareLock);
	List	   *all = NIL;
	ListCell   *cell;

	foreach(cell, avc_features_load(dataset->relid))
		add_feature(&all, rel, lfirst(cell));
	/* the DDL to come wants nobody to have it open */
	table_close(rel, NoLock);
	return all;
}

/* The columns that the trigger fires for, as a list of SQL. */
static char *
column_list(const AvcDataset *dataset, List *all)
{
	List	   *columns = NIL;
	StringInfoData sql;
	ListCell   *cell;

	foreach(cell, all)
	{
		char	   *column = ((Dependents *) lfirst(cell))->column;

		columns = avc_add_name(columns, column);
		if (follows_image(column) &&
			get_attnum(dataset->relid, "image_bytes") != InvalidAttrNumber)
			columns = avc_add_name(columns, "image_bytes");
	}
	initStringInfo(&sql);
	foreach(cell, columns)
		appendStringInfo(&sql, "%s%s", foreach_current_index(cell) ? ", " : "",
						 quote_identifier(lfirst(cell)));
	return sql.data;
}

/*
 * Make the trigger that sets features back to pending fire for the columns
 * that they depend on now.  It carries the definitions as its arguments, so
 * that it reads no table and is dumped and restored with the dataset.
 */
void
avc_feature_trigger_make(const AvcDataset *dataset)
{
	List	   *all = load_dependents(dataset);
	StringInfoData sql;
	ListCell   *cell;

	initStringInfo(&sql);
	appendStringInfo(&sql, "DROP TRIGGER IF EXISTS " TRIGGER_NAME " ON %s;",
					 dataset->quoted_name);
	if (all != NIL)
	{
		appendStringInfo(&sql, "CREATE TRIGGER " TRIGGER_NAME
						 " BEFORE UPDATE OF %s ON %s FOR EACH ROW"
						 " EXECUTE FUNCTION avcurate.reset_features(",
						 column_list(dataset, all), dataset->quoted_name);
		foreach(cell, all)
		{
			Dependents *dependents = lfirst(cell);

			appendStringInfo(&sql, "%s%s, '%s'",
							 foreach_current_index(cell) ? ", " : "",
							 quote_literal_cstr(dependents->column),
							 dependents->numbers.data);
		}
		/* what replication writes is an update like any other */
		appendStringInfo(&sql, ");ALTER TABLE %s ENABLE ALWAYS TRIGGER "
						 TRIGGER_NAME, dataset->quoted_name);
	}
	run_trigger_ddl(dataset, sql.data);
}

/* ---- event triggers -------------------------------------------------- */

/*
 * DROP COLUMN ... CASCADE of a column that features read takes the trigger
 * along: make it again for the features that are left.
 */
static void
restore_triggers(void)
{
	uint64		count;
	uint64		i;
	Oid		   *relids;
	bool		is_null;
	AvcRoleScope scope;

	if (is_rebuilding)
		return;
	avc_catalog_enter(&scope);
	count = avc_spi_exec("SELECT DISTINCT f.dataset::pg_catalog.oid"
						 " FROM pg_catalog.pg_event_trigger_dropped_objects() o"
						 " JOIN _avcurate.features f ON f.dataset ="
						 " pg_catalog.to_regclass(pg_catalog.format('%I.%I', o.address_names[1], o.address_names[2]))"
						 " WHERE o.object_type = 'trigger'"
						 " AND o.address_names[3] = '" TRIGGER_NAME "'",
						 0, NULL, false, 0);
	relids = palloc((count + 1) * sizeof(Oid));
	for (i = 0; i < count; i++)
		relids[i] = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i],
												   SPI_tuptable->tupdesc, 1,
												   &is_null));
	avc_catalog_leave(&scope);
	for (i = 0; i < count; i++)
		avc_feature_trigger_make(avc_dataset_find(relids[i], false));
}

/*
 * Event trigger on sql_drop: forget the features of datasets and columns
 * that are gone.
 */
Datum
avc_feature_dropped(PG_FUNCTION_ARGS)
{
	static const char *const statements[] = {
		"DELETE FROM _avcurate.features f USING pg_catalog.pg_event_trigger_dropped_objects() o"
		" WHERE o.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND f.dataset::pg_catalog.oid = o.objid"
		" AND (o.objsubid = 0 OR f.feature = o.address_names[3])",
		"DELETE FROM _avcurate.feature_errors e USING pg_catalog.pg_event_trigger_dropped_objects() o"
		" WHERE o.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND e.dataset::pg_catalog.oid = o.objid"
		" AND (o.objsubid = 0 OR e.feature = o.address_names[3])",
	};

	if (!avc_forget_dropped(fcinfo, "feature_dropped", statements,
							lengthof(statements)))
		PG_RETURN_NULL();
	SPI_connect();
	restore_triggers();
	SPI_finish();
	PG_RETURN_NULL();
}

/* The first value of a query as a name, or NULL. */
static char *
find_name(const char *sql)
{
	AvcRoleScope scope;
	bool		is_null;
	Datum		value;

	avc_catalog_enter(&scope);
	value = avc_spi_value(sql, 0, NULL, CurrentMemoryContext, &is_null);
	avc_catalog_leave(&scope);
	return is_null ? NULL : NameStr(*DatumGetName(value));
}

#define ALTERED "pg_catalog.pg_event_trigger_ddl_commands() c"

/*
 * Event trigger at the end of ALTER TABLE: the registry goes by names, so the
 * column of a feature keeps its own (a dropped one has left the registry),
 * and so do those that features read, which are the ones that the row trigger
 * fires for.
 */
Datum
avc_feature_renamed(PG_FUNCTION_ARGS)
{
	char	   *name;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("feature_renamed is an event trigger")));
	SPI_connect();
	name = find_name("SELECT f.feature FROM _avcurate.features f JOIN " ALTERED
					 " ON c.classid = 'pg_catalog.pg_class'::pg_catalog.regclass"
					 " AND c.objid = f.dataset::pg_catalog.oid"
					 " WHERE NOT EXISTS (SELECT 1"
					 " FROM pg_catalog.pg_attribute a"
					 " WHERE a.attrelid = f.dataset AND a.attname = f.feature)");
	if (name != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot rename the column of feature \"%s\"", name),
				 errhint("Add a feature of the new name and drop this one with avcurate.drop_feature().")));
	/* only a renamed column has a number here */
	name = find_name("SELECT a.attname FROM pg_catalog.pg_trigger t JOIN "
					 ALTERED " ON c.objid = t.tgrelid"
					 " AND c.classid = 'pg_catalog.pg_class'::pg_catalog.regclass"
					 " JOIN pg_catalog.pg_attribute a ON a.attrelid = t.tgrelid"
					 " AND a.attnum = c.objsubid"
					 " WHERE t.tgname = '" TRIGGER_NAME "'"
					 " AND a.attnum = ANY (t.tgattr)");
	if (name != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot rename a column to \"%s\" because features read it",
						name),
				 errdetail("Their expressions know it by its name."),
				 errhint("Drop these features first, or make a view in which the column has the new name.")));
	SPI_finish();
	PG_RETURN_NULL();
}
