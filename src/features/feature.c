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
#include "miscadmin.h"
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
	AvcFeature *feature = avc_feature_find(features, name);

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
	AvcDataset *dataset = avc_dataset_lock_owned(PG_GETARG_OID(0), AccessExclusiveLock);
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
	avc_feature_trigger_make(dataset);
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
		AvcFeature *read = avc_feature_find(features, lfirst(cell));

		if (read != NULL &&
			(read == feature ||
			 list_member_ptr(read->all_needs, feature)))
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
					 AVC_NAME(feature->name),
					 AVC_INT4(next_feature_no(dataset->relid))}, false, 0);
	avc_spi_exec("DELETE FROM _avcurate.feature_errors"
				 " WHERE dataset = $1 AND feature = $2", 2,
				 (AvcParam[]) {AVC_REGCLASS(dataset->relid),
					 AVC_NAME(feature->name)},
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
	AvcDataset *dataset = avc_dataset_lock_owned(PG_GETARG_OID(0), AccessExclusiveLock);
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
		AvcFeature *other = lfirst(cell);

		if (list_member_ptr(other->all_needs, feature))
			renumber(dataset, other);
	}
	avc_catalog_leave(&scope);
	avc_feature_trigger_make(dataset);
	comment_feature(dataset, name, expression->shown);
	SPI_finish();
	PG_RETURN_VOID();
}

Datum
avc_drop_feature(PG_FUNCTION_ARGS)
{
	AvcDataset *dataset = avc_dataset_lock_owned(PG_GETARG_OID(0), AccessExclusiveLock);
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
	avc_feature_trigger_make(dataset);
	run_as_owner(dataset, psprintf("ALTER TABLE %s DROP COLUMN %s",
								   dataset->quoted_name,
								   quote_identifier(name)));
	SPI_finish();
	PG_RETURN_VOID();
}

Datum
avc_retry_feature(PG_FUNCTION_ARGS)
{
	AvcDataset *dataset = avc_dataset_lock_owned(PG_GETARG_OID(0), RowExclusiveLock);
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
