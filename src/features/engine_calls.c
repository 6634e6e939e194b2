/*
 * features/engine_calls.c
 *		Calls in a feature's expression that ask the shared engine.
 *
 * They are found by name and schema: what a user's own function does inside
 * is not looked into.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "parser/analyze.h"
#include "parser/parse_func.h"
#include "parser/parser.h"
#include "rewrite/rewriteManip.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"

#include "common/catalog.h"
#include "features/engine_calls.h"

/* A function whose second argument is a checkpoint. */
typedef struct EngineFunction
{
	const char *name;
	const char *resolve;		/* function of what a NULL stands for */
	const char *ahead;			/* function that sends ahead */
} EngineFunction;

static const EngineFunction engine_functions[] = {
	{"detect", "detector", "detect_ahead"},
	{"person_bbox_area_pct", "detector", "detect_ahead"},
	{"clip_embedding", "clip_model", "clip_ahead"},
	{"clip_text_embedding", "clip_model", "clip_text_ahead"}
};

/* What the call asks, or NULL if it is none of the engine's. */
static const EngineFunction *
engine_function(const FuncExpr *call)
{
	const char *name;
	int			i;

	if (get_func_namespace(call->funcid) != get_namespace_oid("avcurate", true))
		return NULL;
	name = get_func_name(call->funcid);
	for (i = 0; i < lengthof(engine_functions); i++)
		if (strcmp(name, engine_functions[i].name) == 0)
			return &engine_functions[i];
	return NULL;
}

/* ---- the checkpoint -------------------------------------------------- */

/*
 * avcurate.detector(checkpoint) or its like: it, or what NULL stands for, if
 * usable.
 */
static int64
resolve_checkpoint(const EngineFunction *asked, const Const *given)
{
	Oid			types[1] = {INT8OID};
	Oid			function = LookupFuncName(list_make2(makeString("avcurate"),
													 makeString(pstrdup(asked->resolve))),
										  1, types, false);
	FmgrInfo	info;
	LOCAL_FCINFO(fcinfo, 1);

	fmgr_info(function, &info);
	InitFunctionCallInfoData(*fcinfo, &info, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = given->constvalue;
	fcinfo->args[0].isnull = given->constisnull;
	return DatumGetInt64(FunctionCallInvoke(fcinfo));
}

typedef struct PinContext
{
	const AvcDataset *dataset;
	bool		is_pinned;		/* a NULL was replaced */
} PinContext;

/* The argument's value, computed as backfill would. */
static Node *
evaluate(const AvcDataset *dataset, Node *argument)
{
	AvcRoleScope scope;
	Node	   *value;

	avc_role_enter(&scope, dataset->owner);
	value = eval_const_expressions(NULL, argument);
	avc_role_leave(&scope);
	return value;
}

static void
pin_call(FuncExpr *call, const EngineFunction *asked, PinContext *context)
{
	HeapTuple	function = SearchSysCache1(PROCOID,
										   ObjectIdGetDatum(call->funcid));
	Node	   *checkpoint;

	if (!HeapTupleIsValid(function))
		elog(ERROR, "cache lookup failed for function %u", call->funcid);
	call->args = expand_function_arguments(call->args, false,
										   call->funcresulttype, function);
	ReleaseSysCache(function);
	checkpoint = evaluate(context->dataset, lsecond(call->args));
	if (!IsA(checkpoint, Const))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("expression of a feature cannot choose a checkpoint row by row"),
				 errhint("Give the checkpoint of %s() as a number; a column never mixes two networks.",
						 asked->name)));
	context->is_pinned |= ((Const *) checkpoint)->constisnull;
	lsecond(call->args) = makeConst(INT8OID, -1, InvalidOid, sizeof(int64),
									Int64GetDatum(resolve_checkpoint(asked, (Const *) checkpoint)),
									false, FLOAT8PASSBYVAL);
}

static Node *
pin_calls(Node *node, void *arg)
{
	const EngineFunction *asked;

	if (node == NULL)
		return NULL;
	if (IsA(node, Query))
		return (Node *) query_tree_mutator((Query *) node, pin_calls, arg, 0);
	node = expression_tree_mutator(node, pin_calls, arg);
	if (IsA(node, FuncExpr) &&
		(asked = engine_function((FuncExpr *) node)) != NULL)
		pin_call((FuncExpr *) node, asked, arg);
	return node;
}

Node *
avc_engine_calls_pin(const AvcDataset *dataset, Node *expression,
					 bool *is_pinned)
{
	PinContext	context = {dataset, false};

	expression = pin_calls(expression, &context);
	*is_pinned = context.is_pinned;
	return expression;
}

/* ---- ahead ----------------------------------------------------------- */

typedef struct AheadContext
{
	const AvcDataset *dataset;
	int			depth;			/* of the query around the node */
	List	   *calls;			/* char * */
} AheadContext;

/* Does it depend on anything but the row itself, seen from that depth? */
static bool
reads_elsewhere(Node *node, void *arg)
{
	const int  *depth = arg;

	if (node == NULL)
		return false;
	if (IsA(node, Var))
		return ((Var *) node)->varlevelsup != *depth;
	if (IsA(node, SubLink) || IsA(node, Param) || IsA(node, Aggref))
		return true;
	return expression_tree_walker(node, reads_elsewhere, arg);
}

static void
add_call(AheadContext *context, const FuncExpr *call,
		 const EngineFunction *asked)
{
	Node	   *what = copyObject(linitial(call->args));
	Node	   *checkpoint;
	char	   *text;
	ListCell   *cell;

	if (list_length(call->args) < 2 ||
		reads_elsewhere(what, &context->depth))
		return;
	checkpoint = eval_const_expressions(NULL, lsecond(call->args));
	if (!IsA(checkpoint, Const) || ((Const *) checkpoint)->constisnull)
		return;
	if (context->depth > 0)
		IncrementVarSublevelsUp(what, -context->depth, context->depth);
	text = psprintf("avcurate.%s(%s, " INT64_FORMAT ")", asked->ahead,
					deparse_expression(what,
									   deparse_context_for("frame",
														   context->dataset->relid),
									   true, false),
					DatumGetInt64(((Const *) checkpoint)->constvalue));
	foreach(cell, context->calls)
		if (strcmp(lfirst(cell), text) == 0)
			return;
	context->calls = lappend(context->calls, text);
}

/* Calls that are made whatever is in the row: none below a choice. */
static bool
collect_calls(Node *node, void *arg)
{
	AheadContext *context = arg;
	const EngineFunction *asked;

	if (node == NULL)
		return false;
	if (IsA(node, CaseExpr) || IsA(node, CoalesceExpr) || IsA(node, BoolExpr))
		return false;
	if (IsA(node, Query))
	{
		context->depth++;
		(void) query_tree_walker((Query *) node, collect_calls, arg, 0);
		context->depth--;
		return false;
	}
	if (IsA(node, FuncExpr) &&
		(asked = engine_function((FuncExpr *) node)) != NULL)
		add_call(context, (FuncExpr *) node, asked);
	return expression_tree_walker(node, collect_calls, arg);
}

List *
avc_engine_calls_ahead(const AvcDataset *dataset, const AvcFeature *feature)
{
	AheadContext context = {dataset, 0, NIL};
	char	   *sql;
	List	   *statements;
	Query	   *query;
	bool		may_ask = false;
	int			i;

	/* most expressions do not: spare them the analysis */
	for (i = 0; i < lengthof(engine_functions); i++)
		may_ask |= strstr(feature->expression,
						  engine_functions[i].name) != NULL;
	if (!may_ask)
		return NIL;
	sql = psprintf("SELECT (%s) FROM ONLY %s AS frame", feature->expression,
				   dataset->quoted_name);
	statements = raw_parser(sql, RAW_PARSE_DEFAULT);
	query = parse_analyze_fixedparams(linitial_node(RawStmt, statements), sql,
									  NULL, 0, NULL);
	(void) collect_calls((Node *) linitial_node(TargetEntry,
												query->targetList)->expr,
						 &context);
	return context.calls;
}
