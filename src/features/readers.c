/*
 * features/readers.c
 *		Slices and other views that read the column of a feature.
 *
 * PostgreSQL would refuse too, but its hint is DROP ... CASCADE, which takes
 * a slice along with its versions.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/lsyscache.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "features/feature.h"

/* "slice public.night" of row i */
static char *
reader(uint64 i)
{
	return SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1);
}

void
avc_feature_check_unread(const AvcDataset *dataset, const char *feature,
						 const char *what_for)
{
	AvcParam	params[2] = {AVC_OID(dataset->relid), AVC_TEXT(feature)};
	StringInfoData others;
	AvcRoleScope scope;
	uint64		count;
	uint64		i;

	avc_catalog_enter(&scope);
	count = avc_spi_exec("SELECT DISTINCT CASE "
						 "WHEN s.slice IS NOT NULL THEN 'slice' "
						 "WHEN c.relkind = 'm' THEN 'materialized view' "
						 "WHEN c.relkind = 'v' THEN 'view' "
						 "ELSE 'rule of table' END || ' ' || c.oid::regclass "
						 "FROM pg_catalog.pg_depend d "
						 "JOIN pg_catalog.pg_attribute a "
						 "ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid "
						 "JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid "
						 "JOIN pg_catalog.pg_class c ON c.oid = r.ev_class "
						 "LEFT JOIN _avcurate.slices s ON s.slice = c.oid "
						 "WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass "
						 "AND d.refclassid = 'pg_catalog.pg_class'::regclass "
						 "AND d.refobjid = $1 AND a.attname = $2::name "
						 "ORDER BY 1", 2, params, false, 0);
	avc_catalog_leave(&scope);
	if (count == 0)
		return;
	initStringInfo(&others);
	for (i = 1; i < count; i++)
		appendStringInfo(&others, "%s%s", i > 1 ? ", " : "", reader(i));
	ereport(ERROR,
			(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
			 errmsg("cannot %s feature \"%s\" because %s reads it", what_for,
					feature, reader(0)),
			 count > 1 ? errdetail("So do: %s.", others.data) : 0,
			 errhint("Give slices a filter and columns without it with avcurate.alter_slice; drop other views first.")));
}
