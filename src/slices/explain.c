/*
 * slices/explain.c
 *		What the next refresh of a slice would do, and why.
 *
 * It goes the way that the refresh would go and only counts.  Nothing is
 * written, so it works in a read-only transaction and on a standby.
 */
#include "postgres.h"

#include "access/table.h"
#include "fmgr.h"
#include "funcapi.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/rel.h"

#include "slices/refresh.h"

PG_FUNCTION_INFO_V1(avc_explain_refresh);

/* Why the slice is recomputed whatever changed; NULL if it may not be. */
static const char *
reason_of_view(Relation rel)
{
	if (!RelationIsPopulated(rel))
		return "the view holds no rows: it is filled again and compared with its newest version";
	if (!avc_definition_has_key(rel))
		return "the view has no unique index on frame_id: the refresh would fail";
	return NULL;
}

/* Rows that a refresh would change now, -1 if it would recompute. */
static int64
count_changes(AvcRefresh *refresh, Relation rel)
{
	AvcDelta   *delta = NULL;
	int64		changes = -1;
	Relation	base;

	avc_refresh_mark(refresh, NULL);
	if (refresh->obstacle == NULL)
	{
		base = table_open(refresh->slice->dataset, AccessShareLock);
		delta = avc_delta_by_rows(refresh, rel, base, true);
		table_close(base, NoLock);
	}
	if (delta)
	{
		changes = delta->added + delta->removed + delta->changed;
		avc_delta_free(delta);
	}
	if (refresh->mark)
		avc_watermark_release(refresh->mark);
	return changes;
}

Datum
avc_explain_refresh(PG_FUNCTION_ARGS)
{
	AvcRefresh	refresh = {.slice = avc_slice_find(PG_GETARG_OID(0), false)};
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum		values[3];
	bool		nulls[3] = {false, false, false};
	int64		changes = -1;
	Relation	rel;

	avc_slice_check_readable(refresh.slice);
	InitMaterializedSRF(fcinfo, 0);
	if (OidIsValid(refresh.slice->dataset))
		LockRelationOid(refresh.slice->dataset, AccessShareLock);
	rel = table_open(refresh.slice->relid, AccessShareLock);
	refresh.obstacle = reason_of_view(rel);
	if (refresh.obstacle == NULL)
		changes = count_changes(&refresh, rel);
	table_close(rel, NoLock);

	values[0] = CStringGetTextDatum(changes < 0 ? "full" :
									changes > 0 ? "incremental" : "none");
	values[1] = CStringGetTextDatum(refresh.obstacle ? refresh.obstacle :
									changes > 0 ?
									"only the rows that changed since the last refresh are read" :
									"nothing that the slice reads has changed since the last refresh");
	values[2] = Int64GetDatum(changes);
	nulls[2] = changes < 0;
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	return (Datum) 0;
}
