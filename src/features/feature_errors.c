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
#include "features/backfill.h"

AvcParam
avc_id_array(const int64 *ids, int count)
{
	Datum	   *values = palloc(Max(count, 1) * sizeof(Datum));
	int			i;

	for (i = 0; i < count; i++)
		values[i] = Int64GetDatum(ids[i]);
	return (AvcParam) {INT8ARRAYOID,
		PointerGetDatum(construct_array(values, count, INT8OID, 8,
										FLOAT8PASSBYVAL, TYPALIGN_DOUBLE)),
		false};
}

static AvcParam
text_array(Datum *texts, int count)
{
	return (AvcParam) {TEXTARRAYOID,
		PointerGetDatum(construct_array(texts, count, TEXTOID, -1, false,
										TYPALIGN_INT)), false};
}

/* The failures of one feature, in one statement. */
static void
record_failures(AvcParam dataset, AvcParam feature, int64 *ids,
				Datum *codes, Datum *messages, int count)
{
	avc_spi_exec("INSERT INTO _avcurate.feature_errors AS e (dataset,"
				 " feature, frame_id, sqlstate, message)"
				 " SELECT $1, $2, u.id, u.code, u.message"
				 " FROM ROWS FROM (pg_catalog.unnest($3),"
				 " pg_catalog.unnest($4), pg_catalog.unnest($5))"
				 " u(id, code, message)"
				 " ON CONFLICT (dataset, feature, frame_id) DO UPDATE SET"
				 " attempts = e.attempts + 1, last_at = EXCLUDED.last_at,"
				 " sqlstate = EXCLUDED.sqlstate,"
				 " message = EXCLUDED.message", 5,
				 (AvcParam[]) {dataset, feature, avc_id_array(ids, count),
					 text_array(codes, count), text_array(messages, count)},
				 false, 0);
}

/* Record what failed of one feature, drop what has gone through. */
static void
settle_feature(AvcParam dataset, const AvcFeature *feature, AvcParam rows,
			   List *failures)
{
	AvcParam	name = {NAMEOID, CStringGetDatum(feature->name), false};
	int64	   *bad = palloc((list_length(failures) + 1) * sizeof(int64));
	Datum	   *codes = palloc((list_length(failures) + 1) * sizeof(Datum));
	Datum	   *messages = palloc((list_length(failures) + 1) * sizeof(Datum));
	int			count = 0;
	ListCell   *cell;

	foreach(cell, failures)
	{
		AvcFeatureFailure *failure = lfirst(cell);

		if (failure->feature != feature)
			continue;
		codes[count] = CStringGetTextDatum(unpack_sql_state(failure->why.sqlstate));
		messages[count] = CStringGetTextDatum(failure->why.message);
		bad[count++] = failure->frame_id;
	}
	if (count > 0)
		record_failures(dataset, name, bad, codes, messages, count);
	avc_spi_exec("DELETE FROM _avcurate.feature_errors"
				 " WHERE dataset = $1 AND feature = $2"
				 " AND frame_id = ANY ($3) AND frame_id <> ALL ($4)", 4,
				 (AvcParam[]) {dataset, name, rows, avc_id_array(bad, count)},
				 false, 0);
}

/* Has one of the features errors between these ids? */
static bool
has_errors(AvcParam dataset, List *targets, int64 first, int64 last)
{
	static SPIPlanPtr plan = NULL;
	Datum	   *names = palloc((list_length(targets) + 1) * sizeof(Datum));
	ListCell   *cell;

	foreach(cell, targets)
		names[foreach_current_index(cell)] =
			DirectFunctionCall1(namein, CStringGetDatum(((AvcTarget *) lfirst(cell))->feature->name));
	return avc_spi_exec_kept(&plan, "SELECT 1 FROM _avcurate.feature_errors"
							 " WHERE dataset = $1 AND feature = ANY ($2)"
							 " AND frame_id BETWEEN $3 AND $4", 4,
							 (AvcParam[]) {dataset,
								 {NAMEARRAYOID,
									 PointerGetDatum(construct_array(names,
																	 list_length(targets),
																	 NAMEOID, NAMEDATALEN,
																	 false, TYPALIGN_CHAR)),
								 false},
								 AVC_INT8(first), AVC_INT8(last)},
							 false, 1) > 0;
}

void
avc_feature_errors_settle(Oid dataset, List *targets, const int64 *ids,
						  int count, List *failures)
{
	AvcParam	relid = AVC_REGCLASS(dataset);
	AvcRoleScope scope;
	ListCell   *cell;

	avc_catalog_enter(&scope);
	if (failures != NIL ||
		has_errors(relid, targets, ids[0], ids[count - 1]))
	{
		AvcParam	rows = avc_id_array(ids, count);

		foreach(cell, targets)
			settle_feature(relid, ((AvcTarget *) lfirst(cell))->feature,
						   rows, failures);
	}
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
