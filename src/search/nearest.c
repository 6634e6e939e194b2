/*
 * search/nearest.c
 *		nearest_frames(): the frames whose vectors come closest to a query.
 *
 * What it returns is defined by
 *
 *		SELECT frame_id, avcurate.cosine_similarity(feature, query)
 *		FROM ONLY dataset WHERE filter
 *		ORDER BY 2 DESC NULLS LAST, frame_id LIMIT k
 *
 * without the rows where it is NULL.  That statement is what runs where
 * there is no pack to be had (README says when); else the pack is searched,
 * and what it finds is looked up under the same snapshot.
 *
 * A filter is parsed as one expression and put into the parse tree of a
 * statement of our own, which runs with the rights, the search_path and the
 * policies of the caller, as if it had been typed after WHERE.
 */
#include "postgres.h"

#include <math.h>

#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "parser/parser.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"

#include "search/cosine.h"
#include "search/pack_scan.h"
#include "search/search.h"
#include "slices/refresh.h"

PG_FUNCTION_INFO_V1(avc_cosine_similarity);
PG_FUNCTION_INFO_V1(avc_nearest_frames);

/* ---- vectors ---- */

/* The numbers of a vector; NULL if some are SQL NULLs. */
static const float *
numbers_of(ArrayType *array, int *count)
{
	*count = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("vector has %d dimensions, not one",
						ARR_NDIM(array))));
	if (ARR_HASNULL(array) && array_contains_nulls(array))
		return NULL;
	return (const float *) ARR_DATA_PTR(array);
}

Datum
avc_cosine_similarity(PG_FUNCTION_ARGS)
{
	int			a_count;
	int			b_count;
	const float *a = numbers_of(PG_GETARG_ARRAYTYPE_P(0), &a_count);
	const float *b = numbers_of(PG_GETARG_ARRAYTYPE_P(1), &b_count);
	float		similarity;

	if (a_count != b_count)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("vectors of %d and %d numbers cannot be compared",
						a_count, b_count),
				 errhint("Compare vectors that the same model has computed.")));
	if (a == NULL || b == NULL || !avc_cosine(a, b, a_count, &similarity))
		PG_RETURN_NULL();
	PG_RETURN_FLOAT4(similarity);
}

/* ---- statements with a filter ---- */

/* Errors point into the filter, not into the statement around it. */
static void
point_into_filter(void *arg)
{
	int			position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery((const char *) arg);
	}
	errcontext("filter of a search");
}

/*
 * Plan a SELECT of ours whose WHERE is to be the filter; $1 is the query
 * vector.
 */
static PlannedStmt *
plan(const AvcSearch *search, const char *sql, ParamListInfo params)
{
	RawStmt    *raw = linitial_node(RawStmt,
									raw_parser(sql, RAW_PARSE_DEFAULT));
	const char *source = search->filter ? search->filter : sql;
	Oid			type = FLOAT4ARRAYOID;
	List	   *queries;
	int			guc_level;

	if (search->filter)
		castNode(SelectStmt, raw->stmt)->whereClause =
			avc_filter_parse(search->filter);
	guc_level = avc_path_with_avcurate();
	queries = pg_analyze_and_rewrite_fixedparams(raw, source, &type, 1, NULL);
	AtEOXact_GUC(false, guc_level);
	return pg_plan_query(linitial_node(Query, queries), source,
						 CURSOR_OPT_PARALLEL_OK, params);
}

/* Run it under the caller's snapshot. */
static void
run(const AvcSearch *search, const char *sql, DestReceiver *receiver)
{
	ParamListInfo params = makeParamList(1);
	ErrorContextCallback callback;
	QueryDesc  *desc;

	callback.callback = point_into_filter;
	callback.arg = search->filter;
	callback.previous = error_context_stack;
	if (search->filter)
		error_context_stack = &callback;
	params->params[0].value = search->query;
	params->params[0].isnull = false;
	params->params[0].pflags = PARAM_FLAG_CONST;
	params->params[0].ptype = FLOAT4ARRAYOID;
	desc = CreateQueryDesc(plan(search, sql, params), sql,
						   GetActiveSnapshot(), InvalidSnapshot, receiver,
						   params, NULL, 0);
	ExecutorStart(desc, 0);
	ExecutorRun(desc, ForwardScanDirection, 0, true);
	ExecutorFinish(desc);
	ExecutorEnd(desc);
	error_context_stack = callback.previous;
	FreeQueryDesc(desc);
}

/* ---- without a pack ---- */

typedef struct RowReceiver
{
	DestReceiver receiver;
	ReturnSetInfo *result;
} RowReceiver;

static void
rows_startup(DestReceiver *self, int operation, TupleDesc desc)
{
}

static void
rows_shutdown(DestReceiver *self)
{
}

static bool
rows_receive(TupleTableSlot *slot, DestReceiver *self)
{
	ReturnSetInfo *result = ((RowReceiver *) self)->result;

	slot_getallattrs(slot);
	if (!slot->tts_isnull[1])
		tuplestore_putvalues(result->setResult, result->setDesc,
							 slot->tts_values, slot->tts_isnull);
	return true;
}

static void
search_table(const AvcSearch *search, ReturnSetInfo *result)
{
	RowReceiver rows = {{rows_receive, rows_startup, rows_shutdown,
	rows_shutdown, DestNone}, result};

	run(search,
		psprintf("SELECT frame_id, avcurate.cosine_similarity(%s, $1) "
				 "FROM ONLY %s ORDER BY 2 DESC NULLS LAST, 1 LIMIT %d",
				 quote_identifier(search->feature),
				 search->dataset->quoted_name, search->k),
		&rows.receiver);
}

/* ---- with a pack ---- */

/* The frames that a filter or policies let through. */
static AvcIdSet *
frames_among(const AvcSearch *search)
{
	AvcIdSet   *set = avc_id_set_make();

	run(search, psprintf("SELECT frame_id FROM ONLY %s",
						 search->dataset->quoted_name),
		avc_id_set_receiver(set));
	avc_id_set_finish(set);
	return set;
}

/*
 * The first k of what a scan found that the snapshot sees, into "seen".  False
 * if more would have to be known: rows that it does not see have taken the
 * places of others.
 */
static bool
pick_seen(const AvcPack *pack, Relation rel, const AvcFound *found,
		  uint32 count, float floor, int k, AvcFound *seen, int *seen_count)
{
	Snapshot	snapshot = GetActiveSnapshot();
	uint32		i;

	*seen_count = 0;
	for (i = 0; i < count && *seen_count < k; i++)
	{
		if (found[i].similarity < floor)
			return false;
		if (avc_pack_row_is(rel, &pack->tuples[found[i].slot], snapshot))
			seen[(*seen_count)++] = found[i];
	}
	return *seen_count == k || isinf(floor);
}

static void
return_seen(const AvcFound *seen, int count, ReturnSetInfo *result)
{
	bool		nulls[2] = {false};
	int			i;

	for (i = 0; i < count; i++)
	{
		Datum		values[2];

		values[0] = Int64GetDatum(seen[i].frame_id);
		values[1] = Float4GetDatum(seen[i].similarity);
		tuplestore_putvalues(result->setResult, result->setDesc, values,
							 nulls);
	}
}

static void
search_pack(const AvcSearch *search, const AvcPack *pack, Relation rel,
			const AvcIdSet *among, ReturnSetInfo *result)
{
	const float *query = (const float *)
	ARR_DATA_PTR(DatumGetArrayTypeP(search->query));
	uint32		k = Min(search->k, pack->slots);
	uint64		wanted = k + k / 4 + 8;
	AvcFound   *seen = MemoryContextAllocHuge(CurrentMemoryContext,
											  sizeof(AvcFound) *
											  ((Size) k + 1));
	AvcFound   *found;
	int			seen_count;
	uint32		count;
	float		floor;

	for (;;)
	{
		count = avc_pack_scan(pack, query, Min(wanted, PG_UINT32_MAX), among,
							  &found, &floor);
		if (pick_seen(pack, rel, found, count, floor, k, seen, &seen_count))
			break;
		pfree(found);
		wanted *= 4;
	}
	return_seen(seen, seen_count, result);
	pfree(found);
	pfree(seen);
}

/* ---- the function ---- */

static void
check_column_right(Relation rel, const char *column)
{
	Oid			relid = RelationGetRelid(rel);

	if (pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) == ACLCHECK_OK ||
		pg_attribute_aclcheck(relid, get_attnum(relid, column), GetUserId(),
							  ACL_SELECT) == ACLCHECK_OK)
		return;
	aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE,
				   RelationGetRelationName(rel));
}

/* A relation is not to be read by its number where it cannot be by its name. */
static void
check_schema_right(Oid relid)
{
	Oid			schema = get_rel_namespace(relid);
	AclResult	result = pg_namespace_aclcheck(schema, GetUserId(), ACL_USAGE);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_SCHEMA, get_namespace_name(schema));
}

static void
check_query(const AvcSearch *search)
{
	int			count;
	const float *numbers = numbers_of(DatumGetArrayTypeP(search->query),
									  &count);

	if (numbers == NULL || count == 0 || count > AVC_MAX_NUMBERS ||
		!avc_cosine_exists(numbers, count))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("query has no direction"),
				 errdetail("It is empty, or all zero, or has a NULL, NaN or infinite number in it."),
				 errhint("Give a vector that is computed as those of feature \"%s\" are.",
						 search->feature)));
}

static void
check_numbers(const AvcSearch *search, const AvcPack *pack)
{
	ArrayType  *query = DatumGetArrayTypeP(search->query);
	int			count = ArrayGetNItems(ARR_NDIM(query), ARR_DIMS(query));

	if (pack->numbers == 0 || pack->numbers == count)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("query has %d numbers, but vectors of feature \"%s\" have %d",
					count, search->feature, pack->numbers),
			 errhint("Give a vector that is computed as those of the feature are.")));
}

void
avc_search_nearest(FunctionCallInfo fcinfo, const AvcSearch *search)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid			relid = search->dataset->relid;
	Relation	rel = table_open(relid, AccessShareLock);
	AvcIdSet   *among = NULL;
	const char *why;
	AvcPack    *pack;

	check_column_right(rel, "frame_id");
	check_column_right(rel, search->feature);
	check_query(search);
	InitMaterializedSRF(fcinfo, 0);

	pack = avc_pack_open(rel, get_attnum(relid, search->feature),
						 GetActiveSnapshot(), &why);
	if (pack && pack->odd == 0 &&
		(search->filter ||
		 check_enable_rls(relid, InvalidOid, false) == RLS_ENABLED))
	{
		check_numbers(search, pack);
		among = frames_among(search);
		/* the filter may have searched, and others written meanwhile */
		pack = avc_pack_open(rel, get_attnum(relid, search->feature),
							 GetActiveSnapshot(), &why);
	}
	if (pack && pack->odd == 0)
	{
		check_numbers(search, pack);
		search_pack(search, pack, rel, among, result);
	}
	else
	{
		if (why)
			elog(DEBUG1, "vectors are read from the dataset: %s", why);
		search_table(search, result);
	}
	table_close(rel, NoLock);
}

void
avc_search_arguments(FunctionCallInfo fcinfo, AvcSearch *search)
{
	static const char *const names[] = {"dataset", "query", "k"};
	int			i;

	for (i = 0; i < lengthof(names); i++)
	{
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s must not be null", names[i])));
	}
	search->dataset = avc_dataset_find(PG_GETARG_OID(0), false);
	check_schema_right(search->dataset->relid);
	search->k = PG_GETARG_INT32(2);
	search->filter = PG_ARGISNULL(3) ? NULL :
		text_to_cstring(PG_GETARG_TEXT_PP(3));
	if (search->k < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("k is %d, but must be at least 1", search->k),
				 errhint("k is how many frames to return.")));
	search->feature = avc_search_feature(search->dataset,
										 PG_ARGISNULL(4) ? NULL :
										 NameStr(*PG_GETARG_NAME(4)));
}

Datum
avc_nearest_frames(PG_FUNCTION_ARGS)
{
	AvcSearch	search;

	avc_search_arguments(fcinfo, &search);
	search.query = PointerGetDatum(PG_GETARG_ARRAYTYPE_P(1));
	avc_search_nearest(fcinfo, &search);
	return (Datum) 0;
}
