/*
 * features/feature.c
 *		Define features: add, alter, drop, retry.
 *
 * Whoever changes a definition locks the dataset first (ALTER TABLE and
 * CREATE TRIGGER do), so a backfill, which locks it at the start of each
 * batch and then looks whether its definitions still stand, never stores a
 * value of an expression that was replaced.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/event_trigger.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "features/feature.h"
#include "features/marks.h"

PG_FUNCTION_INFO_V1(avc_add_feature);
PG_FUNCTION_INFO_V1(avc_alter_feature);
PG_FUNCTION_INFO_V1(avc_drop_feature);
PG_FUNCTION_INFO_V1(avc_retry_feature);
PG_FUNCTION_INFO_V1(avc_feature_dropped);
PG_FUNCTION_INFO_V1(avc_feature_renamed);

#define TRIGGER_NAME "avc_reset_features"

static AvcFeature *
find_feature(List *features, const char *name)
{
	ListCell   *cell;

	foreach(cell, features)
	{
		if (strcmp(((AvcFeature *) lfirst(cell))->name, name) == 0)
			return lfirst(cell);
	}
	return NULL;
}

/* A name[] as a list of C strings. */
static List *
names_to_list(Datum array)
{
	Datum	   *names;
	int			count;
	int			i;
	List	   *list = NIL;

	deconstruct_array(DatumGetArrayTypeP(array), NAMEOID, NAMEDATALEN, false,
					  TYPALIGN_CHAR, &names, NULL, &count);
	for (i = 0; i < count; i++)
		list = lappend(list, pstrdup(NameStr(*DatumGetName(names[i]))));
	return list;
}

static AvcParam
list_to_names(List *list)
{
	Datum	   *names = palloc(Max(list_length(list), 1) * sizeof(Datum));
	int			count = 0;
	ListCell   *cell;

	foreach(cell, list)
		names[count++] = DirectFunctionCall1(namein,
											 CStringGetDatum(lfirst(cell)));
	return (AvcParam) {NAMEARRAYOID,
		PointerGetDatum(construct_array(names, count, NAMEOID, NAMEDATALEN,
										false, TYPALIGN_CHAR)), false};
}

/* Link each feature to those that it reads and order them by level. */
static List *
sort_features(List *features)
{
	List	   *sorted = NIL;
	ListCell   *cell,
			   *read;
	int			level;
	bool		is_moved;

	foreach(cell, features)
	{
		AvcFeature *feature = lfirst(cell);

		foreach(read, feature->reads)
		{
			AvcFeature *need = find_feature(features, lfirst(read));

			if (need != NULL)
				feature->needs = lappend(feature->needs, need);
		}
	}
	do
	{
		is_moved = false;
		foreach(cell, features)
		{
			AvcFeature *feature = lfirst(cell);

			foreach(read, feature->needs)
			{
				level = ((AvcFeature *) lfirst(read))->level + 1;
				if (level <= feature->level)
					continue;
				/* add_feature and alter_feature let no cycle in */
				if (level > list_length(features))
					elog(ERROR, "features read each other in a circle");
				feature->level = level;
				is_moved = true;
			}
		}
	} while (is_moved);
	for (level = 0; list_length(sorted) < list_length(features); level++)
	{
		foreach(cell, features)
		{
			if (((AvcFeature *) lfirst(cell))->level == level)
				sorted = lappend(sorted, lfirst(cell));
		}
	}
	return sorted;
}

List *
avc_features_load(Oid dataset)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *features = NIL;
	AvcRoleScope scope;
	uint64		count;
	uint64		i;
	bool		is_null;

	avc_catalog_enter(&scope);
	count = avc_spi_exec("SELECT feature, feature_no, resolved, reads"
						 " FROM _avcurate.features WHERE dataset = $1"
						 " ORDER BY feature_no",
						 1, (AvcParam[]) {AVC_REGCLASS(dataset)}, false, 0);
	for (i = 0; i < count; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		AvcFeature *feature = palloc0(sizeof(AvcFeature));

		feature->name = pstrdup(NameStr(*DatumGetName(avc_spi_column(i, "feature", &is_null))));
		feature->number = DatumGetInt32(avc_spi_column(i, "feature_no",
													   &is_null));
		feature->expression = TextDatumGetCString(avc_spi_column(i, "resolved",
																 &is_null));
		feature->reads = names_to_list(avc_spi_column(i, "reads", &is_null));
		features = lappend(features, feature);
		MemoryContextSwitchTo(old);
	}
	SPI_freetuptable(SPI_tuptable);
	avc_catalog_leave(&scope);
	return sort_features(features);
}

static List *
add_distinct(List *names, char *name)
{
	ListCell   *cell;

	foreach(cell, names)
	{
		if (strcmp(lfirst(cell), name) == 0)
			return names;
	}
	return lappend(names, name);
}

List *
avc_feature_all_needs(const AvcFeature *feature)
{
	List	   *all = list_copy(feature->needs);
	ListCell   *cell;

	foreach(cell, feature->needs)
		all = list_concat_unique_ptr(all, avc_feature_all_needs(lfirst(cell)));
	return all;
}

List *
avc_feature_inputs(const AvcFeature *feature)
{
	List	   *inputs = list_copy(feature->reads);
	ListCell   *cell,
			   *input;

	foreach(cell, feature->needs)
	{
		foreach(input, avc_feature_inputs(lfirst(cell)))
			inputs = add_distinct(inputs, lfirst(input));
	}
	return inputs;
}

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
 * Make the trigger that sets features back to pending fire for the columns
 * that they depend on now.  It carries the definitions as its arguments, so
 * that it reads no table and is dumped and restored with the dataset.
 */
static void
rebuild_trigger(const AvcDataset *dataset)
{
	List	   *features = avc_features_load(dataset->relid);
	List	   *columns = NIL;
	StringInfoData sql;
	StringInfoData args;
	ListCell   *cell,
			   *input;

	initStringInfo(&sql);
	initStringInfo(&args);
	foreach(cell, features)
	{
		AvcFeature *feature = lfirst(cell);

		foreach(input, avc_feature_inputs(feature))
		{
			/* a column that is gone cannot change any more */
			if (get_attnum(dataset->relid, lfirst(input)) == InvalidAttrNumber)
				continue;
			columns = add_distinct(columns, lfirst(input));
			if (follows_image(lfirst(input)) &&
				get_attnum(dataset->relid, "image_bytes") != InvalidAttrNumber)
				columns = add_distinct(columns, "image_bytes");
			appendStringInfo(&args, "%s'%d', %s", args.len > 0 ? ", " : "",
							 feature->number,
							 quote_literal_cstr(lfirst(input)));
		}
	}
	appendStringInfo(&sql, "DROP TRIGGER IF EXISTS " TRIGGER_NAME " ON %s;",
					 dataset->quoted_name);
	if (columns != NIL)
	{
		appendStringInfoString(&sql, "CREATE TRIGGER " TRIGGER_NAME
							   " BEFORE UPDATE OF ");
		foreach(cell, columns)
			appendStringInfo(&sql, "%s%s", foreach_current_index(cell) ? ", " : "",
							 quote_identifier(lfirst(cell)));
		appendStringInfo(&sql, " ON %s FOR EACH ROW EXECUTE FUNCTION"
						 " avcurate.reset_features(%s)", dataset->quoted_name,
						 args.data);
	}
	run_trigger_ddl(dataset, sql.data);
}

static int
next_feature_no(Oid dataset)
{
	int64		number;

	number = avc_spi_int64("UPDATE _avcurate.datasets SET features_made ="
						   " features_made + 1 WHERE dataset = $1"
						   " RETURNING features_made::pg_catalog.int8 - 1", 1,
						   (AvcParam[]) {AVC_REGCLASS(dataset)}, -1);
	if (number < 0)
		elog(ERROR, "dataset %u is not in the registry", dataset);
	if (number > AVC_MAX_FEATURE_NO)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("dataset \"%s\" has had too many features",
						get_rel_name(dataset)),
				 errhint("Copy its frames into a new dataset.")));
	return (int) number;
}

static AvcFeature *
require_feature(List *features, const AvcDataset *dataset, const char *name)
{
	AvcFeature *feature = find_feature(features, name);

	if (feature == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("dataset \"%s\" has no feature \"%s\"",
						dataset->table_name, name),
				 errhint("See avcurate.features.")));
	return feature;
}

void
avc_feature_require(const AvcDataset *dataset, const char *name)
{
	SPI_connect();
	(void) require_feature(avc_features_load(dataset->relid), dataset, name);
	SPI_finish();
}

/* The dataset of the call, owned by the caller and locked for its DDL. */
static AvcDataset *
lock_dataset(Oid relid, LOCKMODE mode)
{
	AvcDataset *dataset = avc_dataset_find_owned(relid);

	LockRelationOid(relid, mode);
	return dataset;
}

static void
run_as_owner(const AvcDataset *dataset, const char *sql)
{
	AvcRoleScope scope;

	avc_role_enter(&scope, dataset->owner);
	avc_spi_exec(sql, 0, NULL, false, 0);
	avc_role_leave(&scope);
}

static void
comment_feature(const AvcDataset *dataset, const char *feature,
				const char *text)
{
	run_as_owner(dataset,
				 psprintf("COMMENT ON COLUMN %s.%s IS %s",
						  dataset->quoted_name, quote_identifier(feature),
						  quote_literal_cstr(psprintf("feature: %s", text))));
}

Datum
avc_add_feature(PG_FUNCTION_ARGS)
{
	AvcDataset *dataset = lock_dataset(PG_GETARG_OID(0), AccessExclusiveLock);
	char	   *feature = NameStr(*PG_GETARG_NAME(1));
	char	   *typed = text_to_cstring(PG_GETARG_TEXT_PP(2));
	AvcExpression *expression;
	AvcRoleScope scope;

	if (feature[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("feature needs a name")));
	if (get_attnum(dataset->relid, feature) != InvalidAttrNumber)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_COLUMN),
				 errmsg("dataset \"%s\" already has a column \"%s\"",
						dataset->table_name, feature),
				 errhint("Choose another name, or change a feature with avcurate.alter_feature().")));
	expression = avc_expression_analyze(dataset, typed);

	SPI_connect();
	run_as_owner(dataset, psprintf("ALTER TABLE %s ADD COLUMN %s %s",
								   dataset->quoted_name,
								   quote_identifier(feature),
								   expression->type));
	avc_catalog_enter(&scope);
	avc_spi_exec("INSERT INTO _avcurate.features (dataset, feature,"
				 " feature_no, expression, resolved, reads)"
				 " VALUES ($1, $2, $3, $4, $5, $6)",
				 6, (AvcParam[]) {AVC_REGCLASS(dataset->relid),
					 {NAMEOID, PG_GETARG_DATUM(1), false},
					 AVC_INT4(next_feature_no(dataset->relid)),
					 AVC_TEXT(expression->shown),
					 AVC_TEXT(expression->resolved),
					 list_to_names(expression->reads)}, false, 0);
	avc_catalog_leave(&scope);
	rebuild_trigger(dataset);
	comment_feature(dataset, feature, expression->shown);
	SPI_finish();
	PG_RETURN_VOID();
}

/* Would the feature read itself through what it is to read? */
static void
check_no_circle(List *features, const AvcFeature *feature, List *reads)
{
	ListCell   *cell;

	foreach(cell, reads)
	{
		AvcFeature *read = find_feature(features, lfirst(cell));

		if (read != NULL &&
			(read == feature ||
			 list_member_ptr(avc_feature_all_needs(read), feature)))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
					 errmsg("feature \"%s\" would read itself",
							feature->name),
					 errdetail("It would read \"%s\".", read->name),
					 errhint("Features may read other features, but not in a circle.")));
	}
}

/* A new number makes the feature pending in every row. */
static void
renumber(const AvcDataset *dataset, const AvcFeature *feature)
{
	avc_spi_exec("UPDATE _avcurate.features SET feature_no = $3"
				 " WHERE dataset = $1 AND feature = $2", 3,
				 (AvcParam[]) {AVC_REGCLASS(dataset->relid),
					 {NAMEOID, CStringGetDatum(feature->name), false},
					 AVC_INT4(next_feature_no(dataset->relid))}, false, 0);
	avc_spi_exec("DELETE FROM _avcurate.feature_errors"
				 " WHERE dataset = $1 AND feature = $2", 2,
				 (AvcParam[]) {AVC_REGCLASS(dataset->relid),
					 {NAMEOID, CStringGetDatum(feature->name), false}},
				 false, 0);
}

/* The type of the column, in the form that avc_expression_analyze gives. */
static char *
column_type(const AvcDataset *dataset, const char *column)
{
	Oid			type;
	int32		typmod;
	Oid			collation;

	get_atttypetypmodcoll(dataset->relid, get_attnum(dataset->relid, column),
						  &type, &typmod, &collation);
	return format_type_extended(type, typmod, FORMAT_TYPE_TYPEMOD_GIVEN |
								FORMAT_TYPE_FORCE_QUALIFY);
}

/* Values of another type cannot stay until they are computed anew. */
static void
change_type(const AvcDataset *dataset, List *features,
			const AvcFeature *feature, const char *type)
{
	char	   *old_type = column_type(dataset, feature->name);
	ListCell   *cell;

	if (strcmp(old_type, type) == 0)
		return;
	foreach(cell, features)
	{
		AvcFeature *other = lfirst(cell);

		if (list_member_ptr(other->needs, (void *) feature))
			ereport(ERROR,
					(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					 errmsg("cannot change feature \"%s\" from type %s to %s because feature \"%s\" reads it",
							feature->name, old_type, type, other->name),
					 errhint("Cast the expression to %s, or drop that feature first.",
							 old_type)));
	}
	avc_feature_check_unread(dataset, feature->name, "change the type of");
	run_as_owner(dataset,
				 psprintf("ALTER TABLE %s ALTER COLUMN %s TYPE %s USING NULL",
						  dataset->quoted_name,
						  quote_identifier(feature->name), type));
}

Datum
avc_alter_feature(PG_FUNCTION_ARGS)
{
	AvcDataset *dataset = lock_dataset(PG_GETARG_OID(0), AccessExclusiveLock);
	char	   *name = NameStr(*PG_GETARG_NAME(1));
	char	   *typed = text_to_cstring(PG_GETARG_TEXT_PP(2));
	AvcExpression *expression;
	AvcFeature *feature;
	AvcRoleScope scope;
	List	   *features;
	ListCell   *cell;

	SPI_connect();
	features = avc_features_load(dataset->relid);
	feature = require_feature(features, dataset, name);
	expression = avc_expression_analyze(dataset, typed);
	check_no_circle(features, feature, expression->reads);
	change_type(dataset, features, feature, expression->type);
	avc_catalog_enter(&scope);
	avc_spi_exec("UPDATE _avcurate.features SET expression = $3,"
				 " resolved = $4, reads = $5,"
				 " altered_at = pg_catalog.now()"
				 " WHERE dataset = $1 AND feature = $2", 5,
				 (AvcParam[]) {AVC_REGCLASS(dataset->relid),
					 {NAMEOID, PG_GETARG_DATUM(1), false},
					 AVC_TEXT(expression->shown),
					 AVC_TEXT(expression->resolved),
					 list_to_names(expression->reads)}, false, 0);
	renumber(dataset, feature);
	foreach(cell, features)
	{
		if (list_member_ptr(avc_feature_all_needs(lfirst(cell)), feature))
			renumber(dataset, lfirst(cell));
	}
	avc_catalog_leave(&scope);
	rebuild_trigger(dataset);
	comment_feature(dataset, name, expression->shown);
	SPI_finish();
	PG_RETURN_VOID();
}

Datum
avc_drop_feature(PG_FUNCTION_ARGS)
{
	AvcDataset *dataset = lock_dataset(PG_GETARG_OID(0), AccessExclusiveLock);
	char	   *name = NameStr(*PG_GETARG_NAME(1));
	AvcFeature *feature;
	AvcRoleScope scope;
	List	   *features;
	ListCell   *cell;

	SPI_connect();
	features = avc_features_load(dataset->relid);
	feature = require_feature(features, dataset, name);
	foreach(cell, features)
	{
		AvcFeature *other = lfirst(cell);

		if (list_member_ptr(other->needs, feature))
			ereport(ERROR,
					(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					 errmsg("cannot drop feature \"%s\" because feature \"%s\" reads it",
							name, other->name),
					 errhint("Drop or alter that feature first.")));
	}
	avc_feature_check_unread(dataset, name, "drop");
	avc_catalog_enter(&scope);
	avc_spi_exec("DELETE FROM _avcurate.features"
				 " WHERE dataset = $1 AND feature = $2", 2,
				 (AvcParam[]) {AVC_REGCLASS(dataset->relid),
					 {NAMEOID, PG_GETARG_DATUM(1), false}}, false, 0);
	avc_catalog_leave(&scope);
	/* the trigger must not name the column when that goes */
	rebuild_trigger(dataset);
	run_as_owner(dataset, psprintf("ALTER TABLE %s DROP COLUMN %s",
								   dataset->quoted_name,
								   quote_identifier(name)));
	SPI_finish();
	PG_RETURN_VOID();
}

Datum
avc_retry_feature(PG_FUNCTION_ARGS)
{
	AvcDataset *dataset = lock_dataset(PG_GETARG_OID(0), RowExclusiveLock);
	AvcFeature *feature;
	AvcRoleScope scope;
	uint64		count;

	SPI_connect();
	feature = require_feature(avc_features_load(dataset->relid), dataset,
							  NameStr(*PG_GETARG_NAME(1)));
	avc_role_enter(&scope, dataset->owner);
	count = avc_spi_exec(psprintf("UPDATE ONLY %s SET " AVC_MARKS_COLUMN
								  " = avcurate.feature_marked("
								  AVC_MARKS_COLUMN ", %d, 2, 0, '{}')"
								  " WHERE avcurate.feature_state("
								  AVC_MARKS_COLUMN ", %d) = 2",
								  dataset->quoted_name, feature->number,
								  feature->number),
						 0, NULL, false, 0);
	avc_role_leave(&scope);
	SPI_finish();
	PG_RETURN_INT64(count);
}

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
		rebuild_trigger(avc_dataset_find(relids[i], false));
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
	AvcRoleScope scope;
	int			i;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("feature_dropped is an event trigger")));
	/* DROP EXTENSION drops the registry itself */
	if (!OidIsValid(get_extension_oid("avcurate", true)))
		PG_RETURN_NULL();
	SPI_connect();
	avc_catalog_enter(&scope);
	for (i = 0; i < lengthof(statements); i++)
		avc_spi_exec(statements[i], 0, NULL, false, 0);
	avc_catalog_leave(&scope);
	restore_triggers();
	SPI_finish();
	PG_RETURN_NULL();
}

/*
 * Event trigger at the end of ALTER TABLE: the registry goes by names, so the
 * column of a feature keeps its own.  (A dropped one has left the registry.)
 */
Datum
avc_feature_renamed(PG_FUNCTION_ARGS)
{
	AvcRoleScope scope;
	char	   *feature = NULL;
	bool		is_null;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("feature_renamed is an event trigger")));
	SPI_connect();
	avc_catalog_enter(&scope);
	if (avc_spi_exec("SELECT f.feature FROM _avcurate.features f"
					 " JOIN pg_catalog.pg_event_trigger_ddl_commands() c"
					 " ON c.classid = 'pg_catalog.pg_class'::pg_catalog.regclass"
					 " AND c.objid = f.dataset::pg_catalog.oid"
					 " WHERE NOT EXISTS (SELECT 1"
					 " FROM pg_catalog.pg_attribute a"
					 " WHERE a.attrelid = f.dataset AND a.attname = f.feature)",
					 0, NULL, false, 1) > 0)
		feature = NameStr(*DatumGetName(avc_spi_column(0, "feature",
													   &is_null)));
	avc_catalog_leave(&scope);
	if (feature != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot rename the column of feature \"%s\"", feature),
				 errhint("Add a feature of the new name and drop this one with avcurate.drop_feature().")));
	SPI_finish();
	PG_RETURN_NULL();
}
