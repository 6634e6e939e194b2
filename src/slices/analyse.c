/*
 * slices/analyse.c
 *		May a slice be refreshed by difference?  Told from the parse tree of
 *		its view; nothing is planned or evaluated here.
 *
 * A difference is right if the view's row of a frame depends on the frame's
 * row in the dataset alone: then rows that did not change need no look.  So
 * the definition must read one plain table, give every frame at most one row
 * under its own frame_id, and call immutable functions only.  Functions that
 * somebody declared immutable are trusted, as indexes trust them; replacing
 * one changes the fingerprint, and everything is recomputed.
 *
 * The fingerprint says under which definition rows were computed: the rule,
 * the functions it calls, the triggers that note deleted frames.  Catalog
 * rows enter it with their place and writer, so that a function replaced and
 * put back, or a trigger disabled for a while, counts as changed.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/heap.h"
#include "catalog/namespace.h"
#include "catalog/pg_am_d.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_rewrite.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "nodes/nodeFuncs.h"
#include "nodes/primnodes.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteSupport.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "slices/evaluate.h"

PG_FUNCTION_INFO_V1(avc_slice_obstacle);

typedef struct Analysis
{
	Oid			function;		/* the one that is in the way */
	uint64		hash;
	List	   *writers;		/* of the functions */
	const char *obstacle;
} Analysis;

/*
 * Declared immutable, but the text they make depends on extra_float_digits
 * or bytea_output: rows computed at different times would differ.
 */
static const Oid functions_of_settings[] = {
	F_FLOAT4OUT, F_FLOAT8OUT, F_BYTEAOUT, F_POINT_OUT, F_LSEG_OUT, F_PATH_OUT,
	F_BOX_OUT, F_POLY_OUT, F_LINE_OUT, F_CIRCLE_OUT
};

/* ---- fingerprint ---- */

static void
add_bytes(uint64 *hash, const void *bytes, int length)
{
	*hash = hash_bytes_extended(bytes, length, *hash);
}

/* A catalog row: who wrote it, where it is, what it says. */
static void
add_tuple(uint64 *hash, HeapTuple tuple)
{
	TransactionId xmin = HeapTupleHeaderGetRawXmin(tuple->t_data);

	add_bytes(hash, &xmin, sizeof(xmin));
	add_bytes(hash, &tuple->t_self, sizeof(tuple->t_self));
	add_bytes(hash, (char *) tuple->t_data + tuple->t_data->t_hoff,
			  tuple->t_len - tuple->t_data->t_hoff);
}

static void
add_rule(uint64 *hash, Oid relid)
{
	HeapTuple	tuple = SearchSysCache2(RULERELNAME, ObjectIdGetDatum(relid),
										CStringGetDatum(ViewSelectRuleName));

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "view %u has no rule", relid);
	add_tuple(hash, tuple);
	ReleaseSysCache(tuple);
}

/* ---- expressions ---- */

static bool
depends_on_settings(Oid function)
{
	int			i;

	for (i = 0; i < lengthof(functions_of_settings); i++)
	{
		if (functions_of_settings[i] == function)
			return true;
	}
	return false;
}

/* True if the function is in the way; called by check_functions_in_node. */
static bool
check_function(Oid function, void *arg)
{
	Analysis   *analysis = arg;
	HeapTuple	tuple;
	bool		is_mutable;

	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	is_mutable = ((Form_pg_proc) GETSTRUCT(tuple))->provolatile !=
		PROVOLATILE_IMMUTABLE;
	/* those that come with the server change with it only */
	if (function >= FirstNormalObjectId)
	{
		add_tuple(&analysis->hash, tuple);
		if (!HeapTupleHeaderXminFrozen(tuple->t_data))
			analysis->writers = lappend_int(analysis->writers,
											(int) HeapTupleHeaderGetRawXmin(tuple->t_data));
	}
	ReleaseSysCache(tuple);
	if (!is_mutable && !depends_on_settings(function))
		return false;
	analysis->function = function;
	return true;
}

static const char *
describe_cast(Oid from, Oid to)
{
	return psprintf("casts %s to %s", format_type_be(from),
					format_type_be(to));
}

/* What the node does by calling the function. */
static const char *
describe_call(const Node *node, Oid function)
{
	switch (nodeTag(node))
	{
		case T_OpExpr:
		case T_DistinctExpr:
		case T_NullIfExpr:
			return psprintf("uses operator %s",
							format_operator(((const OpExpr *) node)->opno));
		case T_ScalarArrayOpExpr:
			return psprintf("uses operator %s",
							format_operator(((const ScalarArrayOpExpr *) node)->opno));
		case T_CoerceViaIO:
			return describe_cast(exprType((Node *) ((const CoerceViaIO *) node)->arg),
								 ((const CoerceViaIO *) node)->resulttype);
		case T_FuncExpr:
			{
				const FuncExpr *call = (const FuncExpr *) node;

				if (call->funcformat == COERCE_EXPLICIT_CAST ||
					call->funcformat == COERCE_IMPLICIT_CAST)
					return describe_cast(exprType(linitial(call->args)),
										 call->funcresulttype);
			}
			break;
		default:
			break;
	}
	return psprintf("calls %s()", get_func_name(function));
}

static const char *
describe_sql_value(SQLValueFunctionOp op)
{
	switch (op)
	{
		case SVFOP_CURRENT_DATE:
			return "current_date";
		case SVFOP_CURRENT_TIME:
		case SVFOP_CURRENT_TIME_N:
			return "current_time";
		case SVFOP_CURRENT_TIMESTAMP:
		case SVFOP_CURRENT_TIMESTAMP_N:
			return "current_timestamp";
		case SVFOP_LOCALTIME:
		case SVFOP_LOCALTIME_N:
			return "localtime";
		case SVFOP_LOCALTIMESTAMP:
		case SVFOP_LOCALTIMESTAMP_N:
			return "localtimestamp";
		case SVFOP_SESSION_USER:
			return "session_user";
		case SVFOP_CURRENT_CATALOG:
			return "current_catalog";
		case SVFOP_CURRENT_SCHEMA:
			return "current_schema";
		default:
			return "current_user";
	}
}

static const char *
check_var(const Var *var)
{
	if (var->varattno == InvalidAttrNumber)
		return "the definition uses whole rows of the dataset";
	if (var->varattno < 0 && var->varattno != TableOidAttributeNumber)
		return psprintf("the definition reads system column %s",
						NameStr(SystemAttributeDefinition(var->varattno)->attname));
	return NULL;
}

/* What is wrong with the node itself, its functions aside. */
static const char *
check_node(const Node *node)
{
	switch (nodeTag(node))
	{
		case T_Var:
			return check_var((const Var *) node);
		case T_SQLValueFunction:
			return psprintf("the definition uses %s, which is not immutable",
							describe_sql_value(((const SQLValueFunction *) node)->op));
		case T_CoerceToDomain:
			/* its conditions can be altered, and call anything */
			return psprintf("the definition casts to domain %s",
							format_type_be(((const CoerceToDomain *) node)->resulttype));
		case T_XmlExpr:
			return "the definition makes XML, which depends on settings";
		case T_NullTest:
			/* ALTER TYPE ADD ATTRIBUTE turns the answer */
			if (((const NullTest *) node)->argisrow)
				return "the definition tests a composite value for NULL";
			return NULL;
		case T_List:
		case T_TargetEntry:
		case T_Const:
		case T_FuncExpr:
		case T_NamedArgExpr:
		case T_OpExpr:
		case T_DistinctExpr:
		case T_NullIfExpr:
		case T_ScalarArrayOpExpr:
		case T_BoolExpr:
		case T_RelabelType:
		case T_CoerceViaIO:
		case T_ArrayCoerceExpr:
		case T_ConvertRowtypeExpr:
		case T_CollateExpr:
		case T_CaseExpr:
		case T_CaseWhen:
		case T_CaseTestExpr:
		case T_ArrayExpr:
		case T_RowExpr:
		case T_RowCompareExpr:
		case T_CoalesceExpr:
		case T_MinMaxExpr:
		case T_BooleanTest:
		case T_SubscriptingRef:
		case T_FieldSelect:
			return NULL;
		default:
			return "the definition has an expression that a row alone does not decide";
	}
}

/*
 * The default arguments of a call that leaves some out: they join the call
 * when it is planned.
 */
static Node *
default_arguments(const FuncExpr *call)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(call->funcid));
	Node	   *arguments = NULL;
	Datum		value;
	bool		is_null;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", call->funcid);
	if (list_length(call->args) <
		((Form_pg_proc) GETSTRUCT(tuple))->pronargs)
	{
		value = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_proargdefaults,
								&is_null);
		if (!is_null)
			arguments = stringToNode(TextDatumGetCString(value));
	}
	ReleaseSysCache(tuple);
	return arguments;
}

static bool
find_obstacle(Node *node, void *arg)
{
	Analysis   *analysis = arg;

	if (node == NULL)
		return false;
	analysis->obstacle = check_node(node);
	if (analysis->obstacle)
		return true;
	if (check_functions_in_node(node, check_function, analysis))
	{
		analysis->obstacle =
			psprintf("the definition %s, which %s",
					 describe_call(node, analysis->function),
					 depends_on_settings(analysis->function) ?
					 "depends on settings" : "is not immutable");
		return true;
	}
	if (IsA(node, FuncExpr) &&
		find_obstacle(default_arguments((FuncExpr *) node), arg))
		return true;
	return expression_tree_walker(node, find_obstacle, arg);
}

/* ---- query ---- */

/* What is more than SELECT expressions FROM one WHERE condition. */
static const char *
check_clauses(const Query *query)
{
	if (query->cteList)
		return "the definition has a WITH clause";
	if (query->setOperations)
		return "the definition has UNION, INTERSECT or EXCEPT";
	if (query->hasAggs || query->groupClause || query->groupingSets ||
		query->havingQual)
		return "the definition groups or aggregates rows";
	if (query->hasWindowFuncs)
		return "the definition has window functions";
	if (query->distinctClause)
		return "the definition has DISTINCT";
	if (query->limitCount || query->limitOffset)
		return "the definition has LIMIT or OFFSET";
	if (query->rowMarks)
		return "the definition locks rows";
	if (query->hasTargetSRFs)
		return "the definition has set-returning functions";
	if (query->hasSubLinks)
		return "the definition has subqueries";
	return NULL;
}

static bool
has_children(Relation base)
{
	return base->rd_rel->relhassubclass &&
		find_inheritance_children(RelationGetRelid(base), NoLock) != NIL;
}

/* The one table that is read, if it is one. */
static const char *
check_from(const Query *query, Relation base)
{
	const List *from = query->jointree->fromlist;
	RangeTblEntry *entry;

	if (from == NIL)
		return "the definition reads no table";
	if (list_length(from) > 1 || !IsA(linitial(from), RangeTblRef))
		return "the definition joins several tables";
	entry = rt_fetch(linitial_node(RangeTblRef, from)->rtindex,
					 query->rtable);
	if (entry->rtekind != RTE_RELATION)
		return "the definition reads something else than a table";
	if (entry->relid != RelationGetRelid(base))
		return psprintf("the definition reads %s, which is not the dataset",
						get_rel_name(entry->relid));
	if (entry->tablesample)
		return "the definition has TABLESAMPLE";
	/* without ONLY */
	if (entry->inh && has_children(base))
		return psprintf("dataset %s has child tables",
						RelationGetRelationName(base));
	return NULL;
}

/* frame_id of the view must be that of the dataset, straight. */
static const char *
check_key(const Query *query, const AvcDefinition *definition)
{
	ListCell   *cell;

	foreach(cell, query->targetList)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, cell);

		if (!entry->resjunk && entry->resno == definition->key &&
			IsA(entry->expr, Var) &&
			((Var *) entry->expr)->varattno == definition->base_key)
			return NULL;
	}
	return "frame_id of the view is not frame_id of the dataset";
}

static const char *
check_query(AvcDefinition *definition, Relation base, Analysis *analysis)
{
	const Query *query = definition->query;
	const char *obstacle = check_clauses(query);

	if (!obstacle)
		obstacle = check_from(query, base);
	if (!obstacle)
		obstacle = check_key(query, definition);
	if (!obstacle &&
		(find_obstacle((Node *) query->targetList, analysis) ||
		 find_obstacle(query->jointree->quals, analysis)))
		obstacle = analysis->obstacle;
	return obstacle;
}

/* ---- dataset ---- */

/* One row a frame, or a row that is out could not be told from one that is in. */
static bool
is_key(Relation base, AttrNumber column)
{
	Bitmapset  *key = RelationGetIndexAttrBitmap(base,
												 INDEX_ATTR_BITMAP_PRIMARY_KEY);

	return bms_membership(key) == BMS_SINGLETON &&
		bms_is_member(column - FirstLowInvalidHeapAttributeNumber, key);
}

/* The trigger function of tombstones.c, whatever the caller's rights. */
static Oid
note_deleted(void)
{
	return GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
						   CStringGetDatum("note_deleted"),
						   PointerGetDatum(buildoidvector(NULL, 0)),
						   ObjectIdGetDatum(get_namespace_oid("_avcurate",
															  true)));
}

/*
 * Are deleted frames noted, whatever deletes them?  The function is out of
 * reach of users, so a condition on the UPDATE trigger is our own.  The
 * triggers are those of the snapshot; NULL = of now.
 */
static bool
notes_deleted(Relation base, Snapshot snapshot, uint64 *hash)
{
	Oid			function = note_deleted();
	Relation	triggers = table_open(TriggerRelationId, AccessShareLock);
	bool		on_delete = false;
	bool		on_update = false;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_trigger_tgrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(RelationGetRelid(base)));
	scan = systable_beginscan(triggers, TriggerRelidNameIndexId, true,
							  snapshot, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_trigger form = (Form_pg_trigger) GETSTRUCT(tuple);

		if (form->tgfoid != function)
			continue;
		add_tuple(hash, tuple);
		if (form->tgenabled != TRIGGER_FIRES_ALWAYS ||
			!TRIGGER_FOR_ROW(form->tgtype) ||
			!TRIGGER_FOR_AFTER(form->tgtype))
			continue;
		if (TRIGGER_FOR_DELETE(form->tgtype) &&
			heap_attisnull(tuple, Anum_pg_trigger_tgqual,
						   RelationGetDescr(triggers)))
			on_delete = true;
		if (TRIGGER_FOR_UPDATE(form->tgtype) && form->tgattr.dim1 == 0)
			on_update = true;
	}
	systable_endscan(scan);
	table_close(triggers, AccessShareLock);
	return on_delete && on_update;
}

static const char *
check_dataset(Relation base, AvcDefinition *definition, Oid owner)
{
	Form_pg_class form = base->rd_rel;
	const char *name = RelationGetRelationName(base);

	if (form->relkind != RELKIND_RELATION || form->relam != HEAP_TABLE_AM_OID)
		return psprintf("dataset %s is not a plain table", name);
	if (form->relpersistence != RELPERSISTENCE_PERMANENT)
		return psprintf("dataset %s is unlogged", name);
	if (!is_key(base, definition->base_key))
		return psprintf("dataset %s has no primary key on frame_id", name);
	if (check_enable_rls(RelationGetRelid(base), owner, true) == RLS_ENABLED)
		return psprintf("row security of dataset %s applies to the view's owner",
						name);
	if (!notes_deleted(base, NULL, &definition->triggers))
		return psprintf("triggers of dataset %s that note deleted frames are missing or not ENABLE ALWAYS: see doctor()",
						name);
	return NULL;
}

/* ---- entry ---- */

static void
analyse(AvcDefinition *definition, Relation view, Relation base)
{
	Oid			relid = RelationGetRelid(view);
	Analysis	analysis = {0};

	/* ON SELECT rule, one action: as matview.c takes it */
	definition->query = copyObject(linitial_node(Query,
												 view->rd_rules->rules[0]->actions));
	definition->key = get_attnum(relid, "frame_id");
	if (!base)
		definition->obstacle = "the dataset was dropped";
	else
	{
		definition->base_key = get_attnum(RelationGetRelid(base), "frame_id");
		definition->obstacle = check_query(definition, base, &analysis);
	}
	if (!definition->obstacle)
		definition->obstacle = check_dataset(base, definition,
											 view->rd_rel->relowner);

	if (definition->obstacle)
		return;
	add_rule(&analysis.hash, relid);
	definition->fingerprint = hash_combine64(analysis.hash,
											 definition->triggers);
	definition->writers = analysis.writers;
}

AvcDefinition *
avc_definition_analyse(Oid relid, Oid dataset)
{
	AvcDefinition *definition = palloc0_object(AvcDefinition);
	Relation	base = NULL;
	Relation	view;

	if (OidIsValid(dataset))
		base = try_relation_open(dataset, AccessShareLock);
	view = try_relation_open(relid, AccessShareLock);
	if (!view)
		definition->obstacle = "the view was dropped";
	else if (view->rd_rel->relkind != RELKIND_MATVIEW)
		definition->obstacle = "it is not a materialized view";
	else
		analyse(definition, view, base);
	if (view)
		relation_close(view, AccessShareLock);
	if (base)
		relation_close(base, AccessShareLock);
	return definition;
}

bool
avc_definition_held(const AvcDefinition *definition, Relation base,
					Snapshot snapshot)
{
	uint64		triggers = 0;
	ListCell   *cell;

	foreach(cell, definition->writers)
	{
		TransactionId writer = (TransactionId) lfirst_int(cell);

		if (TransactionIdIsCurrentTransactionId(writer) ||
			XidInMVCCSnapshot(writer, snapshot))
			return false;
	}
	return notes_deleted(base, snapshot, &triggers) &&
		triggers == definition->triggers;
}

/* Why the slice cannot be refreshed by difference; NULL if it can. */
Datum
avc_slice_obstacle(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_ARGISNULL(0) ? InvalidOid : PG_GETARG_OID(0);
	Oid			dataset = PG_ARGISNULL(1) ? InvalidOid : PG_GETARG_OID(1);
	AvcDefinition *definition = avc_definition_analyse(relid, dataset);

	if (!definition->obstacle)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(definition->obstacle));
}
