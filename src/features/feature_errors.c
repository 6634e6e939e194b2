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

/* Record what failed of one feature. */
static void
record_feature(AvcParam dataset, const AvcFeature *feature, List *failures)
{
	int64	   *ids = palloc((list_length(failures) + 1) * sizeof(int64));
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
		ids[count++] = failure->frame_id;
	}
	if (count > 0)
		record_failures(dataset, AVC_NAME(feature->name), ids, codes,
						messages, count);
}

/* Frames between these ids that have an error of the feature. */
static int64 *
find_errors(AvcParam dataset, const AvcFeature *feature, int64 first,
			int64 last, int *count)
{
	static SPIPlanPtr plan = NULL;
	int64	   *ids;
	bool		is_null;
	int			i;

	*count = (int) avc_spi_exec_kept(&plan, "SELECT frame_id"
									 " FROM _avcurate.feature_errors"
									 " WHERE dataset = $1 AND feature = $2"
									 " AND frame_id BETWEEN $3 AND $4", 4,
									 (AvcParam[]) {dataset,
										 AVC_NAME(feature->name),
										 AVC_INT8(first), AVC_INT8(last)},
									 false, 0);
	ids = palloc((*count + 1) * sizeof(int64));
	for (i = 0; i < *count; i++)
		ids[i] = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i],
											 SPI_tuptable->tupdesc, 1,
											 &is_null));
	SPI_freetuptable(SPI_tuptable);
	return ids;
}

/* Those of the frames in which the feature is done, as an array, or NULL. */
static Datum
pick_done(const AvcDataset *dataset, const AvcFeature *feature,
		  const int64 *ids, int count, bool *is_none)
{
	AvcParam	array = avc_id_array(ids, count);
	AvcRoleScope scope;
	Datum		done;

	avc_role_enter(&scope, dataset->owner);
	done = avc_spi_value(psprintf("SELECT pg_catalog.array_agg(frame.frame_id)"
								  " FROM ONLY %s AS frame"
								  " WHERE frame.frame_id"
								  " OPERATOR(pg_catalog.=) ANY ($1)"
								  " AND avcurate.feature_state(frame."
								  AVC_MARKS_COLUMN ", %d)"
								  " OPERATOR(pg_catalog.=) 1",
								  dataset->quoted_name, feature->number),
						 1, &array, CurrentMemoryContext, is_none);
	avc_role_leave(&scope);
	return done;
}

/*
 * Drop the errors of a feature in rows where it is done.  The marks say so,
 * and not that the row was in the batch: it may have been there for another
 * feature, or passed over.
 */
static void
drop_settled(const AvcDataset *dataset, const AvcFeature *feature,
			 int64 first, int64 last)
{
	AvcParam	relid = AVC_REGCLASS(dataset->relid);
	AvcRoleScope scope;
	int			count;
	int64	   *ids;
	Datum		done;
	bool		is_none;

	avc_catalog_enter(&scope);
	ids = find_errors(relid, feature, first, last, &count);
	avc_catalog_leave(&scope);
	if (count == 0)
		return;
	done = pick_done(dataset, feature, ids, count, &is_none);
	if (is_none)
		return;
	avc_catalog_enter(&scope);
	avc_spi_exec("DELETE FROM _avcurate.feature_errors WHERE dataset = $1"
				 " AND feature = $2 AND frame_id = ANY ($3)", 3,
				 (AvcParam[]) {relid, AVC_NAME(feature->name),
					 {INT8ARRAYOID, done, false}}, false, 0);
	avc_catalog_leave(&scope);
}

void
avc_feature_errors_settle(const AvcDataset *dataset, List *targets,
						  int64 first, int64 last, List *failures)
{
	AvcRoleScope scope;
	ListCell   *cell;

	foreach(cell, targets)
		drop_settled(dataset, ((AvcTarget *) lfirst(cell))->feature, first,
					 last);
	if (failures == NIL)
		return;
	avc_catalog_enter(&scope);
	foreach(cell, targets)
		record_feature(AVC_REGCLASS(dataset->relid),
					   ((AvcTarget *) lfirst(cell))->feature, failures);
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
	avc_dataset_hold(dataset, AccessShareLock);
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
	/* who has one locked is about to do the same */
	avc_spi_exec("DELETE FROM _avcurate.feature_errors WHERE ctid = ANY"
				 " (ARRAY(SELECT e.ctid FROM _avcurate.feature_errors e"
				 " WHERE e.dataset = $1 AND e.frame_id = ANY ($2)"
				 " FOR UPDATE SKIP LOCKED))", 2,
				 (AvcParam[]) {relid, {INT8ARRAYOID, ids, false}}, false, 0);
	avc_catalog_leave(&scope);
}
