/*
 * slices/rule.c
 *		The query of a view that create_slice makes, taken apart and put
 *		together: columns of one dataset that pass a condition.
 *
 * Such a query is written with ONLY.  A dataset's frames are the rows of its
 * own table: batches, features, the archive and the row triggers know no
 * child tables, so a row of one would be a frame without an image.
 *
 * A new filter replaces the view's rule in place, as CREATE OR REPLACE VIEW
 * does; the new query comes out of the parser as that of CREATE MATERIALIZED
 * VIEW does, with its checks and with the columns whose privileges a refresh
 * asks for.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_rewrite.h"
#include "commands/view.h"
#include "fmgr.h"
#include "nodes/parsenodes.h"
#include "parser/analyze.h"
#include "parser/parser.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "rewrite/rewriteSupport.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "slices/refresh.h"

PG_FUNCTION_INFO_V1(avc_slice_filter);

/* The view's query, read as pg_get_viewdef does: without a lock. */
static Query *
query_of_view(Oid relid)
{
	HeapTuple	tuple = SearchSysCache2(RULERELNAME, ObjectIdGetDatum(relid),
										PointerGetDatum(ViewSelectRuleName));
	Query	   *query;
	Datum		action;
	bool		is_null;

	if (!HeapTupleIsValid(tuple))
		return NULL;
	action = SysCacheGetAttr(RULERELNAME, tuple, Anum_pg_rewrite_ev_action,
							 &is_null);
	query = linitial_node(Query, stringToNode(TextDatumGetCString(action)));
	ReleaseSysCache(tuple);
	return query;
}

/* Nothing but SELECT columns FROM one relation WHERE. */
static bool
is_plain_select(const Query *query)
{
	return query->commandType == CMD_SELECT && !query->hasAggs &&
		!query->hasWindowFuncs && !query->hasTargetSRFs &&
		!query->hasDistinctOn && !query->hasModifyingCTE &&
		!query->hasForUpdate && !query->cteList && !query->groupClause &&
		!query->groupingSets && !query->havingQual && !query->windowClause &&
		!query->distinctClause && !query->sortClause && !query->limitOffset &&
		!query->limitCount && !query->rowMarks && !query->setOperations &&
		list_length(query->jointree->fromlist) == 1 &&
		IsA(linitial(query->jointree->fromlist), RangeTblRef);
}

/* Attribute number of the dataset that an entry shows, 0 if it is more. */
static AttrNumber
plain_column(const TargetEntry *entry, int varno)
{
	const Var  *var = (const Var *) entry->expr;

	if (!IsA(var, Var) || var->varno != varno || var->varlevelsup != 0 ||
		var->varattno <= 0)
		return 0;
	return var->varattno;
}

/* Columns that the view shows; false if it shows more than columns. */
static bool
read_columns(const Query *query, int varno, Oid relid, Oid dataset,
			 AvcForm *form)
{
	ListCell   *cell;

	foreach(cell, query->targetList)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, cell);
		AttrNumber	column = plain_column(entry, varno);

		if (entry->resjunk || column == 0)
			return false;
		form->sources = lappend(form->sources,
								get_attname(dataset, column, false));
		/* the view's column may have been renamed since */
		form->names = lappend(form->names,
							  get_attname(relid, entry->resno, false));
	}
	return true;
}

AvcForm *
avc_form_read(Oid relid, Oid dataset)
{
	Query	   *query = query_of_view(relid);
	AvcForm    *form = palloc0_object(AvcForm);
	RangeTblEntry *entry;
	int			varno;

	if (query == NULL || !is_plain_select(query))
		return NULL;
	varno = linitial_node(RangeTblRef, query->jointree->fromlist)->rtindex;
	entry = rt_fetch(varno, query->rtable);
	if (entry->rtekind != RTE_RELATION || entry->relid != dataset ||
		entry->tablesample ||
		!read_columns(query, varno, relid, dataset, form))
		return NULL;
	form->has_children = entry->inh;
	form->condition = "true";
	if (query->jointree->quals)
	{
		/* OLD and NEW come first in a rule */
		ChangeVarNodes(query->jointree->quals, varno, 1, 0);
		form->condition = avc_condition_text(query->jointree->quals, dataset);
	}
	return form;
}

char *
avc_form_query(Oid dataset, const AvcForm *form)
{
	const char *alias = quote_identifier(get_rel_name(dataset));
	StringInfoData sql;
	ListCell   *source;
	ListCell   *name;

	initStringInfo(&sql);
	forboth(source, form->sources, name, form->names)
	{
		appendStringInfo(&sql, "%s %s.%s", sql.len > 0 ? "," : "SELECT",
						 alias, quote_identifier(lfirst(source)));
		appendStringInfo(&sql, " AS %s", quote_identifier(lfirst(name)));
	}
	appendStringInfo(&sql, " FROM %s%s AS %s WHERE %s",
					 form->has_children ? "" : "ONLY ",
					 avc_relation_name(dataset), alias, form->condition);
	return sql.data;
}

/* The query as CREATE MATERIALIZED VIEW would store it. */
static Query *
analyse_query(const char *sql)
{
	/* the name is never looked up */
	char	   *statement = psprintf("CREATE MATERIALIZED VIEW v AS %s", sql);
	List	   *parsed = raw_parser(statement, RAW_PARSE_DEFAULT);
	Query	   *query = parse_analyze_fixedparams(linitial_node(RawStmt, parsed),
												  statement, NULL, 0, NULL);
	IntoClause *into = castNode(CreateTableAsStmt, query->utilityStmt)->into;

	return castNode(Query, copyObject(into->viewQuery));
}

void
avc_rule_replace(Oid relid, const char *sql)
{
	StoreViewQuery(relid, analyse_query(sql), true);
	CommandCounterIncrement();
}

/*
 * _avcurate.slice_filter(slice, dataset, filter, condition): the filter as it
 * was typed while it still says what the view's rule says, else the rule's
 * condition.  Columns, functions and types may have been renamed since.
 */
Datum
avc_slice_filter(PG_FUNCTION_ARGS)
{
	AvcForm    *form;

	if (PG_ARGISNULL(2))
		PG_RETURN_NULL();
	form = PG_ARGISNULL(0) || PG_ARGISNULL(1) ||
		get_rel_name(PG_GETARG_OID(1)) == NULL ? NULL :
		avc_form_read(PG_GETARG_OID(0), PG_GETARG_OID(1));
	if (form == NULL ||
		(!PG_ARGISNULL(3) &&
		 strcmp(form->condition, text_to_cstring(PG_GETARG_TEXT_PP(3))) == 0))
		PG_RETURN_DATUM(PG_GETARG_DATUM(2));
	PG_RETURN_TEXT_P(cstring_to_text(form->condition));
}
