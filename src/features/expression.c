/*
 * features/expression.c
 *		Understand the expression of a feature.
 *
 * The text is parsed as one expression, so nothing else can be smuggled into
 * the statements that backfill builds from it.  It is analysed with the
 * search_path of the person who typed it and stored deparsed under the
 * pinned path of backfill: names mean later what they meant then.
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "nodes/nodeFuncs.h"
#include "parser/analyze.h"
#include "parser/parser.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"

#include "common/catalog.h"
#include "features/engine_calls.h"
#include "features/feature.h"

#define PINNED_PATH "pg_catalog, avcurate, pg_temp"

typedef struct ReadsContext
{
	const AvcDataset *dataset;
	int			depth;			/* of the query around the node */
	List	   *reads;
} ReadsContext;

static void
refuse(const char *what, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("expression of a feature cannot contain %s", what),
			 errhint("%s", hint)));
}

/* The text must be one expression and nothing more. */
static void
check_is_expression(const char *text)
{
	List	   *statements = raw_parser(text, RAW_PARSE_PLPGSQL_EXPR);
	SelectStmt *select = NULL;

	if (list_length(statements) == 1)
		select = (SelectStmt *) linitial_node(RawStmt, statements)->stmt;
	if (select == NULL || !IsA(select, SelectStmt) ||
		list_length(select->targetList) != 1 ||
		select->distinctClause != NIL || select->intoClause != NULL ||
		select->fromClause != NIL || select->whereClause != NULL ||
		select->groupClause != NIL || select->havingClause != NULL ||
		select->windowClause != NIL || select->sortClause != NIL ||
		select->limitOffset != NULL || select->limitCount != NULL ||
		select->lockingClause != NIL || select->withClause != NULL ||
		select->valuesLists != NIL || select->op != SETOP_NONE ||
		linitial_node(ResTarget, select->targetList)->name != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("\"%s\" is not one expression", text),
				 errhint("Give what could stand in a SELECT list, without an alias.")));
}

/* row.* is one in the text, but not what it stands for. */
static void
check_is_one_value(const Query *query, const char *text)
{
	if (list_length(query->targetList) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("\"%s\" stands for %d values, not one", text,
						list_length(query->targetList)),
				 errhint("Name the column that is meant.")));
}

static void
add_read(ReadsContext *context, AttrNumber number)
{
	char	   *column;
	ListCell   *cell;

	if (number == InvalidAttrNumber)
		refuse("the whole row", "Name the columns that it reads.");
	if (number < 0)
		refuse("system columns", "They change whenever a row is stored.");
	column = get_attname(context->dataset->relid, number, false);
	if (strcmp(column, AVC_MARKS_COLUMN) == 0)
		refuse("column \"" AVC_MARKS_COLUMN "\"",
			   "It is bookkeeping and changes with every feature.");
	foreach(cell, context->reads)
	{
		if (strcmp(lfirst(cell), column) == 0)
			return;
	}
	context->reads = lappend(context->reads, column);
}

/* What lives in the schema of a session is not there for a worker. */
static void
refuse_temporary(Oid schema, const char *kind, const char *name)
{
	if (isAnyTempNamespace(schema))
		refuse(psprintf("temporary %s \"%s\"", kind, name),
			   "Other sessions compute it, too: make it in another schema.");
}

static bool
check_function(Oid function, void *arg)
{
	refuse_temporary(get_func_namespace(function), "function",
					 get_func_name(function));
	return false;
}

static void
check_type(Oid type)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	Oid			schema = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		schema = ((Form_pg_type) GETSTRUCT(tuple))->typnamespace;
		ReleaseSysCache(tuple);
	}
	refuse_temporary(schema, "type", format_type_be(type));
}

static bool
collect_reads(Node *node, void *arg)
{
	ReadsContext *context = arg;

	if (node == NULL)
		return false;
	(void) check_functions_in_node(node, check_function, NULL);
	if (IsA(node, Var))
	{
		Var		   *var = (Var *) node;

		/* of the outermost query: the row itself */
		if (var->varlevelsup == context->depth && var->varno == 1)
			add_read(context, var->varattno);
		return false;
	}
	if (IsA(node, Query))
	{
		Query	   *query = (Query *) node;
		ListCell   *cell;
		bool		result;

		foreach(cell, query->rtable)
		{
			RangeTblEntry *rte = lfirst_node(RangeTblEntry, cell);

			if (rte->rtekind == RTE_RELATION)
				refuse(psprintf("table \"%s\"", get_rel_name(rte->relid)),
					   "It can read the columns of its own row only; what comes from elsewhere would go stale unseen.");
		}
		context->depth++;
		result = query_tree_walker(query, collect_reads, arg, 0);
		context->depth--;
		return result;
	}
	return expression_tree_walker(node, collect_reads, arg);
}

/* Analyse SELECT (text) FROM dataset under the caller's path and avcurate. */
static Query *
analyze(const AvcDataset *dataset, const char *text)
{
	char	   *sql = psprintf("SELECT (\n%s\n) FROM ONLY %s", text,
							   dataset->quoted_name);
	List	   *statements = raw_parser(sql, RAW_PARSE_DEFAULT);
	int			level = NewGUCNestLevel();
	Query	   *query;

	(void) set_config_option("search_path",
							 namespace_search_path[0] == '\0' ? "avcurate" :
							 psprintf("%s, avcurate", namespace_search_path),
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
	query = parse_analyze_fixedparams(linitial_node(RawStmt, statements), sql,
									  NULL, 0, NULL);
	AtEOXact_GUC(false, level);
	return query;
}

static char *
deparse(const AvcDataset *dataset, Node *expression)
{
	int			level = NewGUCNestLevel();
	char	   *text;

	(void) set_config_option("search_path", PINNED_PATH, PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	avc_pin_text_format();
	text = deparse_expression(expression,
							  deparse_context_for("frame", dataset->relid),
							  false, false);
	AtEOXact_GUC(false, level);
	return text;
}

/*
 * Typmod of the expression, or -1.  Results of functions carry none, but the
 * width of our hashes is known, and a column may as well say it.
 */
static int32
find_typmod(Node *node)
{
	static const char *const hashes[] = {
		"dhash", "dhash_scaled", "dhash256", "dhash256_scaled"
	};
	Oid			function;
	int			i;

	if (!IsA(node, FuncExpr) || exprTypmod(node) != -1)
		return exprTypmod(node);
	function = ((FuncExpr *) node)->funcid;
	if (get_func_namespace(function) != get_namespace_oid("avcurate", true))
		return -1;
	for (i = 0; i < lengthof(hashes); i++)
	{
		if (strcmp(get_func_name(function), hashes[i]) == 0)
			return i < 2 ? 64 : 256;
	}
	return -1;
}

AvcExpression *
avc_expression_analyze(const AvcDataset *dataset, const char *text)
{
	AvcExpression *expression = palloc0(sizeof(AvcExpression));
	ReadsContext context = {dataset, 0, NIL};
	Query	   *query;
	Node	   *node;
	bool		is_pinned = false;
	Oid			type;

	check_is_expression(text);
	query = analyze(dataset, text);
	check_is_one_value(query, text);
	if (query->hasAggs || query->hasWindowFuncs)
		refuse("aggregate or window functions",
			   "It is computed from one row; a subquery over unnest() of the row's arrays may aggregate.");
	if (query->hasTargetSRFs)
		refuse("set-returning functions",
			   "It has one value a row; make an array of them.");
	node = (Node *) linitial_node(TargetEntry, query->targetList)->expr;
	(void) collect_reads(node, &context);
	type = exprType(node);
	check_type(type);
	if (get_typtype(type) == TYPTYPE_PSEUDO)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("expression of a feature has type %s, which no column can have",
						format_type_be(type)),
				 errhint("Cast it to the type that the feature is to have.")));
	node = avc_engine_calls_pin(dataset, node, &is_pinned);
	/* with its typmod: "bit" alone would be bit(1) */
	expression->type = format_type_extended(type, find_typmod(node),
											FORMAT_TYPE_TYPEMOD_GIVEN |
											FORMAT_TYPE_FORCE_QUALIFY);
	expression->resolved = deparse(dataset, node);
	expression->reads = context.reads;
	expression->shown = is_pinned ? expression->resolved : text;
	return expression;
}
