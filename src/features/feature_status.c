/*
 * features/feature_status.c
 *		Count the rows of a dataset by the state of their features.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/tuplestore.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "features/feature.h"
#include "features/marks.h"

PG_FUNCTION_INFO_V1(avc_feature_counts);

/*
 * feature_counts(dataset) returns (feature, total, done, pending, failed) a
 * feature, counted in one scan; no rows where the caller does not see all.
 */
Datum
avc_feature_counts(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	AvcDataset *dataset = avc_dataset_find(PG_GETARG_OID(0), true);
	StringInfoData sql;
	List	   *features;
	ListCell   *cell;
	AvcRoleScope scope;
	AttrNumber	marks;
	bool		is_null;

	InitMaterializedSRF(fcinfo, 0);
	if (dataset == NULL || !avc_dataset_is_countable(dataset))
		return (Datum) 0;
	marks = avc_dataset_column(dataset, AVC_MARKS_COLUMN);
	if (marks <= 0 || get_atttype(dataset->relid, marks) != BYTEAOID)
		return (Datum) 0;
	SPI_connect();
	features = avc_features_load(dataset->relid);
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT pg_catalog.count(*)");
	foreach(cell, features)
	{
		int			number = ((AvcFeature *) lfirst(cell))->number;
		int			state;

		for (state = AVC_MARK_DONE; state <= AVC_MARK_FAILED; state++)
			appendStringInfo(&sql, ", pg_catalog.count(*) FILTER (WHERE"
							 " avcurate.feature_state(" AVC_MARKS_COLUMN
							 ", %d) OPERATOR(pg_catalog.=) %d)",
							 number, state);
	}
	appendStringInfo(&sql, " FROM ONLY %s", dataset->quoted_name);
	avc_role_enter(&scope, dataset->owner);
	avc_spi_exec(sql.data, 0, NULL, true, 0);
	avc_role_leave(&scope);
	foreach(cell, features)
	{
		AvcFeature *feature = lfirst(cell);
		int			column = 2 + 2 * foreach_current_index(cell);
		HeapTuple	row = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		int64		total = DatumGetInt64(SPI_getbinval(row, desc, 1, &is_null));
		int64		done = DatumGetInt64(SPI_getbinval(row, desc, column,
													   &is_null));
		int64		failed = DatumGetInt64(SPI_getbinval(row, desc, column + 1,
														 &is_null));
		Datum		values[5];
		bool		nulls[5] = {0};

		values[0] = DirectFunctionCall1(namein, CStringGetDatum(feature->name));
		values[1] = Int64GetDatum(total);
		values[2] = Int64GetDatum(done);
		values[3] = Int64GetDatum(total - done - failed);
		values[4] = Int64GetDatum(failed);
		tuplestore_putvalues(result->setResult, result->setDesc, values,
							 nulls);
	}
	SPI_finish();
	return (Datum) 0;
}
