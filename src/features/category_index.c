/*
 * features/category_index.c
 *		GIN operator class of categories: has_category() by index.
 *
 * The keys of a frame are its categories as they are spelled once folded
 * (datasets/category.c), so the index finds what has_category() finds, in
 * whatever spelling either side is.  The operator ~&& is has_category()
 * under another name; the planner support function offers it where such an
 * index exists.
 */
#include "postgres.h"

#include "access/gin.h"
#include "access/stratnum.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "nodes/makefuncs.h"
#include "nodes/supportnodes.h"
#include "optimizer/optimizer.h"
#include "optimizer/plancat.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "datasets/category.h"

PG_FUNCTION_INFO_V1(avc_category_extract_value);
PG_FUNCTION_INFO_V1(avc_category_extract_query);
PG_FUNCTION_INFO_V1(avc_category_consistent);
PG_FUNCTION_INFO_V1(avc_category_selectivity);
PG_FUNCTION_INFO_V1(avc_has_category_support);

/* ---- keys ------------------------------------------------------------ */

/* The folded elements of an array, NULLs left out; GIN drops doubles. */
static Datum *
make_keys(ArrayType *categories, int32 *key_count)
{
	Datum	   *values;
	bool	   *nulls;
	int			count;
	int			i;

	deconstruct_array(categories, TEXTOID, -1, false, TYPALIGN_INT, &values,
					  &nulls, &count);
	*key_count = 0;
	for (i = 0; i < count; i++)
	{
		text	   *value;
		const char *folded;

		if (nulls[i])
			continue;
		value = DatumGetTextPP(values[i]);
		folded = avc_category_fold(VARDATA_ANY(value),
								   VARSIZE_ANY_EXHDR(value));
		values[(*key_count)++] = folded == NULL ? values[i] :
			CStringGetTextDatum(folded);
	}
	return values;
}

Datum
avc_category_extract_value(PG_FUNCTION_ARGS)
{
	int32	   *count = (int32 *) PG_GETARG_POINTER(1);

	PG_RETURN_POINTER(make_keys(PG_GETARG_ARRAYTYPE_P(0), count));
}

/* Without a wanted category there are no keys, and so no frames. */
Datum
avc_category_extract_query(PG_FUNCTION_ARGS)
{
	int32	   *count = (int32 *) PG_GETARG_POINTER(1);

	PG_RETURN_POINTER(make_keys(PG_GETARG_ARRAYTYPE_P(0), count));
}

/* One of the keys is enough, and is the whole truth. */
Datum
avc_category_consistent(PG_FUNCTION_ARGS)
{
	const bool *check = (const bool *) PG_GETARG_POINTER(0);
	int32		count = PG_GETARG_INT32(3);
	bool	   *recheck = (bool *) PG_GETARG_POINTER(5);
	int			i;

	*recheck = false;
	for (i = 0; i < count; i++)
	{
		if (check[i])
			PG_RETURN_BOOL(true);
	}
	PG_RETURN_BOOL(false);
}

/* ---- planning -------------------------------------------------------- */

/* As of arrays that overlap: the stored spelling is mostly the folded one. */
Datum
avc_category_selectivity(PG_FUNCTION_ARGS)
{
	PlannerInfo *root = (PlannerInfo *) PG_GETARG_POINTER(0);
	List	   *args = (List *) PG_GETARG_POINTER(2);

	PG_RETURN_FLOAT8(restriction_selectivity(root, OID_ARRAY_OVERLAP_OP,
											 args, PG_GET_COLLATION(),
											 PG_GETARG_INT32(3)));
}

/* has_category(column, wanted) as a condition on an index of the column. */
static List *
index_condition(SupportRequestIndexCondition *request)
{
	FuncExpr   *call = (FuncExpr *) request->node;
	Oid			operator;
	Expr	   *condition;

	if (!IsA(call, FuncExpr) || list_length(call->args) != 2 ||
		request->indexarg != 0)
		return NIL;
	operator = get_opfamily_member(request->opfamily, TEXTARRAYOID,
								   TEXTARRAYOID, 1);
	if (!OidIsValid(operator) || get_opcode(operator) != request->funcid ||
		!is_pseudo_constant_for_index(request->root, lsecond(call->args),
									  request->index))
		return NIL;
	condition = make_opclause(operator, BOOLOID, false,
							  linitial(call->args), lsecond(call->args),
							  InvalidOid, request->indexcollation);
	request->lossy = false;
	return list_make1(condition);
}

Datum
avc_has_category_support(PG_FUNCTION_ARGS)
{
	Node	   *node = (Node *) PG_GETARG_POINTER(0);

	if (IsA(node, SupportRequestIndexCondition))
		PG_RETURN_POINTER(index_condition((SupportRequestIndexCondition *) node));
	if (IsA(node, SupportRequestSelectivity))
	{
		SupportRequestSelectivity *request = (SupportRequestSelectivity *) node;

		if (!request->is_join && list_length(request->args) == 2)
		{
			request->selectivity =
				restriction_selectivity(request->root, OID_ARRAY_OVERLAP_OP,
										request->args, request->inputcollid,
										request->varRelid);
			PG_RETURN_POINTER(request);
		}
	}
	PG_RETURN_POINTER(NULL);
}
