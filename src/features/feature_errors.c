/*
 * features/feature_errors.c
 *		The table of rows whose expression failed.
 *
 * It says why and how often; that a row has failed is in the row's marks.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "features/feature.h"

static AvcParam
id_array(Datum *ids, int count)
{
	return (AvcParam) {INT8ARRAYOID,
		PointerGetDatum(construct_array(ids, count, INT8OID, 8,
										FLOAT8PASSBYVAL, TYPALIGN_DOUBLE)),
		false};
}

static void
record_failure(AvcParam dataset, AvcParam feature,
			   const AvcFeatureFailure *failure)
{
	avc_spi_exec("INSERT INTO _avcurate.feature_errors AS e (dataset,"
				 " feature, frame_id, sqlstate, message)"
				 " VALUES ($1, $2, $3, $4, $5)"
				 " ON CONFLICT (dataset, feature, frame_id) DO UPDATE SET"
				 " attempts = e.attempts + 1, last_at = EXCLUDED.last_at,"
				 " sqlstate = EXCLUDED.sqlstate,"
				 " message = EXCLUDED.message", 5,
				 (AvcParam[]) {dataset, feature, AVC_INT8(failure->frame_id),
					 AVC_TEXT(unpack_sql_state(failure->why.sqlstate)),
					 AVC_TEXT(failure->why.message)}, false, 0);
}

void
avc_feature_errors_settle(Oid dataset, const AvcFeature *feature,
						  const int64 *ids, int count, List *failures)
{
	AvcParam	relid = AVC_REGCLASS(dataset);
	AvcParam	name = {NAMEOID, CStringGetDatum(feature->name), false};
	Datum	   *rows = palloc(Max(count, 1) * sizeof(Datum));
	Datum	   *bad = palloc((list_length(failures) + 1) * sizeof(Datum));
	int			bad_count = 0;
	AvcRoleScope scope;
	ListCell   *cell;
	int			i;

	for (i = 0; i < count; i++)
		rows[i] = Int64GetDatum(ids[i]);
	avc_catalog_enter(&scope);
	foreach(cell, failures)
	{
		AvcFeatureFailure *failure = lfirst(cell);

		if (failure->feature != feature)
			continue;
		record_failure(relid, name, failure);
		bad[bad_count++] = Int64GetDatum(failure->frame_id);
	}
	avc_spi_exec("DELETE FROM _avcurate.feature_errors"
				 " WHERE dataset = $1 AND feature = $2"
				 " AND frame_id = ANY ($3) AND frame_id <> ALL ($4)", 4,
				 (AvcParam[]) {relid, name, id_array(rows, count),
					 id_array(bad, bad_count)}, false, 0);
	avc_catalog_leave(&scope);
}

/*
 * Errors of frames that were deleted meanwhile.  The dataset is looked into
 * as its owner: nothing of a user's may run with the catalog's rights.
 */
void
avc_feature_errors_forget(const AvcDataset *dataset)
{
	AvcParam	relid = AVC_REGCLASS(dataset->relid);
	AvcRoleScope scope;
	Datum		ids;
	bool		is_null;

	avc_catalog_enter(&scope);
	ids = avc_spi_value("SELECT pg_catalog.array_agg(DISTINCT frame_id)"
						" FROM _avcurate.feature_errors WHERE dataset = $1",
						1, &relid, CurrentMemoryContext, &is_null);
	avc_catalog_leave(&scope);
	if (is_null)
		return;
	avc_role_enter(&scope, dataset->owner);
	ids = avc_spi_value(psprintf("SELECT pg_catalog.array_agg(i.id)"
								 " FROM pg_catalog.unnest($1) i(id)"
								 " WHERE NOT EXISTS (SELECT 1 FROM ONLY %s f"
								 " WHERE f.frame_id OPERATOR(pg_catalog.=) i.id)",
								 dataset->quoted_name),
						1, (AvcParam[]) {{INT8ARRAYOID, ids, false}},
						CurrentMemoryContext, &is_null);
	avc_role_leave(&scope);
	if (is_null)
		return;
	avc_catalog_enter(&scope);
	avc_spi_exec("DELETE FROM _avcurate.feature_errors"
				 " WHERE dataset = $1 AND frame_id = ANY ($2)", 2,
				 (AvcParam[]) {relid, {INT8ARRAYOID, ids, false}}, false, 0);
	avc_catalog_leave(&scope);
}
