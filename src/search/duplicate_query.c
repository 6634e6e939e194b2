/*
 * search/duplicate_query.c
 *		What duplicate_groups() and mark_duplicates() are asked for.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "search/duplicates.h"

/* Arguments of both functions, in this order. */
enum
{
	ARG_DATASET, ARG_MAX_DISTANCE, ARG_FEATURE, ARG_FINE, ARG_FINE_DISTANCE,
	ARG_PREFER
};

/*
 * The one feature that is that function of the image, or else its scaled form;
 * NULL if there is none.  Expressions are kept as they read where avcurate is
 * in the search_path.
 */
static char *
find_feature(const AvcDataset *dataset, const char *function,
			 const char *argument)
{
	MemoryContext caller = CurrentMemoryContext;
	AvcParam	params[] = {AVC_REGCLASS(dataset->relid), AVC_TEXT(function)};
	AvcRoleScope scope;
	char	   *found[2] = {NULL, NULL};
	uint64		count;
	uint64		i;

	SPI_connect();
	avc_catalog_enter(&scope);
	count = avc_spi_exec("SELECT feature::text FROM _avcurate.features WHERE dataset = $1 "
						 "AND resolved = (SELECT min(resolved COLLATE \"C\") FROM _avcurate.features WHERE dataset = $1 "
						 "AND resolved IN ($2 || '(image_bytes)', $2 || '_scaled(image_bytes)')) ORDER BY 1",
						 lengthof(params), params, true, 2);
	for (i = 0; i < count; i++)
		found[i] = MemoryContextStrdup(caller,
									   SPI_getvalue(SPI_tuptable->vals[i],
													SPI_tuptable->tupdesc, 1));
	avc_catalog_leave(&scope);
	SPI_finish();
	if (count > 1)
		ereport(ERROR,
				(errcode(ERRCODE_AMBIGUOUS_PARAMETER),
				 errmsg("dataset %s has several features of %s()",
						dataset->quoted_name, function),
				 errhint("Name one in argument \"%s\", as \"%s\" or \"%s\".",
						 argument, found[0], found[1])));
	return found[0];
}

/* Error unless the column holds that many bits. */
static void
check_column(const AvcDataset *dataset, const char *column, int bits)
{
	AttrNumber	number = avc_dataset_column(dataset, column);
	Oid			type;
	int32		typmod;
	Oid			collation;

	if (number == InvalidAttrNumber)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("dataset %s has no column \"%s\"", dataset->quoted_name,
						column)));
	get_atttypetypmodcoll(dataset->relid, number, &type, &typmod, &collation);
	if (bits > 0 && (type != BITOID || (typmod != bits && typmod != -1)))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of dataset %s is of type %s, but must be of type bit(%d)",
						column, dataset->quoted_name,
						format_type_with_typemod(type, typmod), bits)));
}

static int
read_distance(FunctionCallInfo fcinfo, int argument, const char *name, int most)
{
	int32		distance = PG_GETARG_INT32(argument);

	if (distance < 0 || distance > most)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" is %d, but must be between 0 and %d",
						name, distance, most)));
	return distance;
}

static char *
read_name(FunctionCallInfo fcinfo, int argument)
{
	return PG_ARGISNULL(argument) ? NULL :
		pstrdup(NameStr(*PG_GETARG_NAME(argument)));
}

/* Arguments that NULL says nothing for. */
static void
check_given(FunctionCallInfo fcinfo, int argument, const char *name)
{
	if (PG_ARGISNULL(argument))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" must not be null", name)));
}

/* Is the hash what dhash() or dhash_scaled() say of the images? */
static bool
is_of_images(AvcDuplicateQuery *query)
{
	AvcParam	params[] = {
		AVC_REGCLASS(query->dataset->relid), AVC_TEXT(query->hash)
	};
	AvcRoleScope scope;
	bool		is_found;
	bool		is_null;

	SPI_connect();
	avc_catalog_enter(&scope);
	is_found = avc_spi_exec("SELECT resolved = 'dhash_scaled(image_bytes)' AS is_scaled FROM _avcurate.features "
							"WHERE dataset = $1 AND feature = $2::name "
							"AND resolved IN ('dhash(image_bytes)', 'dhash_scaled(image_bytes)')",
							lengthof(params), params, true, 1) > 0;
	if (is_found)
		query->is_scaled = DatumGetBool(avc_spi_column(0, "is_scaled", &is_null));
	avc_catalog_leave(&scope);
	SPI_finish();
	return is_found;
}

/* Whether images will be read must not depend on what the hashes are. */
static void
check_images(const AvcDataset *dataset)
{
	AttrNumber	number = avc_dataset_column(dataset, "image_bytes");

	if (pg_class_aclcheck(dataset->relid, GetUserId(), ACL_SELECT) == ACLCHECK_OK ||
		pg_attribute_aclcheck(dataset->relid, number, GetUserId(), ACL_SELECT) == ACLCHECK_OK)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for column \"image_bytes\" of dataset %s",
					dataset->quoted_name),
			 errdetail("The dataset has no feature of dhash256(), so that images decide which frames are duplicates."),
			 errhint("Call duplicate_groups with fine_distance => NULL to compare 64 bits alone.")));
}

/*
 * What the caller, duplicate_groups() or mark_duplicates(), is asked for;
 * holds the dataset's columns until the end of the transaction.
 */
AvcDuplicateQuery
avc_duplicate_query(FunctionCallInfo fcinfo)
{
	AvcDuplicateQuery query = {0};

	check_given(fcinfo, ARG_DATASET, "dataset");
	check_given(fcinfo, ARG_MAX_DISTANCE, "max_distance");
	query.dataset = avc_dataset_find(PG_GETARG_OID(ARG_DATASET), false);
	/* columns stay as they are found */
	avc_dataset_hold(query.dataset, AccessShareLock);
	query.max_distance = read_distance(fcinfo, ARG_MAX_DISTANCE,
									   "max_distance", AVC_COVER_BITS);
	query.hash = read_name(fcinfo, ARG_FEATURE);
	if (query.hash == NULL)
		query.hash = find_feature(query.dataset, "dhash", "feature");
	if (query.hash == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("dataset %s has no feature of dhash()",
						query.dataset->quoted_name),
				 errhint("Run SELECT avcurate.add_feature('%s', 'dhash', 'avcurate.dhash(image_bytes)'), "
						 "then CALL avcurate.backfill('%s').",
						 query.dataset->quoted_name,
						 query.dataset->quoted_name)));
	check_column(query.dataset, query.hash, AVC_COVER_BITS);
	query.fine = read_name(fcinfo, ARG_FINE);
	if (PG_ARGISNULL(ARG_FINE_DISTANCE))
		query.fine = NULL;
	else
	{
		if (query.fine == NULL)
			query.fine = find_feature(query.dataset, "dhash256", "fine");
		query.fine_distance = read_distance(fcinfo, ARG_FINE_DISTANCE,
											"fine_distance",
											AVC_COVER_FINE_WORDS * 64);
	}
	if (query.fine != NULL)
		check_column(query.dataset, query.fine, AVC_COVER_FINE_WORDS * 64);
	else if (!PG_ARGISNULL(ARG_FINE_DISTANCE))
		query.looks_at_images = is_of_images(&query);
	if (query.looks_at_images)
		check_images(query.dataset);
	query.prefer = read_name(fcinfo, ARG_PREFER);
	if (query.prefer != NULL)
		check_column(query.dataset, query.prefer, 0);
	return query;
}
