/*
 * slices/definition.c
 *		What a slice is made of: its filter, its columns, its dataset.
 *
 * A filter is never pasted into a statement as the user typed it.  It is
 * parsed as one expression over the dataset and written out again from the
 * parse tree with every name qualified, so it cannot break out of its place
 * and means the same whatever search_path is set later.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_am_d.h"
#include "catalog/pg_index.h"
#include "catalog/pg_opfamily.h"
#include "catalog/pg_type.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "optimizer/optimizer.h"
#include "parser/analyze.h"
#include "parser/parse_clause.h"
#include "parser/parse_collate.h"
#include "parser/parse_node.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "rewrite/prs2lock.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "datasets/dataset.h"
#include "slices/refresh.h"

/* What batches, train and evaluate read, and its type. */
static const struct
{
	const char *name;
	Oid			type;
} needed_columns[] =
{
	{"frame_id", INT8OID},
	{"image_sha256", BYTEAOID},
	{"width", INT4OID},
	{"height", INT4OID},
	{"ann_categories", TEXTARRAYOID},
	{"ann_bboxes", FLOAT4ARRAYOID},
	{"ann_occluded", BOOLARRAYOID},
	{"ann_truncated", BOOLARRAYOID},
	{"ann_ignored", BOOLARRAYOID},
	{"ann_area", FLOAT4ARRAYOID},
};

/* ---- filter ---- */

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
	errcontext("filter of a slice");
}

static bool
is_bare_expression(const SelectStmt *select)
{
	return select->op == SETOP_NONE && list_length(select->targetList) == 1 &&
		linitial_node(ResTarget, select->targetList)->name == NULL &&
		!select->distinctClause && !select->intoClause &&
		!select->fromClause && !select->whereClause && !select->groupClause &&
		!select->havingClause && !select->windowClause &&
		!select->valuesLists && !select->sortClause && !select->limitOffset &&
		!select->limitCount && !select->lockingClause && !select->withClause;
}

Node *
avc_filter_parse(const char *filter)
{
	List	   *parsed = raw_parser(filter, RAW_PARSE_PLPGSQL_EXPR);
	Node	   *statement = linitial_node(RawStmt, parsed)->stmt;

	if (!IsA(statement, SelectStmt) ||
		!is_bare_expression((SelectStmt *) statement))
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("filter is not a single expression: %s", filter),
				 errhint("Give a condition on the columns of the dataset, as after WHERE.")));
	return linitial_node(ResTarget,
						 ((SelectStmt *) statement)->targetList)->val;
}

int
avc_path_with_avcurate(void)
{
	int			guc_level = NewGUCNestLevel();
	char	   *path = psprintf("%s%savcurate", namespace_search_path,
								namespace_search_path[0] ? ", " : "");

	(void) set_config_option("search_path", path, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	return guc_level;
}

char *
avc_condition_text(Node *condition, Oid dataset)
{
	int			guc_level = NewGUCNestLevel();
	char	   *text;

	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
	avc_pin_text_format();
	text = deparse_expression(condition,
							  deparse_context_for(get_rel_name(dataset),
												  dataset), false, false);
	AtEOXact_GUC(false, guc_level);
	return text;
}

char *
avc_filter_condition(Oid dataset, const char *filter)
{
	Relation	rel = table_open(dataset, AccessShareLock);
	ParseState *state = make_parsestate(NULL);
	ErrorContextCallback callback;
	ParseNamespaceItem *item;
	Node	   *condition;
	int			guc_level;

	callback.callback = point_into_filter;
	callback.arg = unconstify(char *, filter);
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	guc_level = avc_path_with_avcurate();
	state->p_sourcetext = filter;
	item = addRangeTableEntryForRelation(state, rel, AccessShareLock, NULL,
										 false, true);
	addNSItemToQuery(state, item, true, true, true);
	condition = transformWhereClause(state, avc_filter_parse(filter),
									 EXPR_KIND_WHERE, "WHERE");
	assign_expr_collations(state, condition);
	AtEOXact_GUC(false, guc_level);

	error_context_stack = callback.previous;
	free_parsestate(state);
	table_close(rel, NoLock);
	return avc_condition_text(condition, dataset);
}

/* ---- columns ---- */

static bool
is_needed(const char *name)
{
	int			i;

	for (i = 0; i < lengthof(needed_columns); i++)
	{
		if (strcmp(needed_columns[i].name, name) == 0)
			return true;
	}
	return false;
}

static bool
contains(const List *names, const char *name)
{
	ListCell   *cell;

	foreach(cell, names)
	{
		if (strcmp(lfirst(cell), name) == 0)
			return true;
	}
	return false;
}

static void
check_wanted(Oid dataset, const List *wanted)
{
	ListCell   *cell;

	foreach(cell, wanted)
	{
		const char *name = lfirst(cell);

		if (get_attnum(dataset, name) <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of dataset \"%s\" does not exist",
							name, get_rel_name(dataset))));
		if (strcmp(name, "image_bytes") == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("a slice cannot hold \"image_bytes\""),
					 errhint("It holds image_sha256; batches read the images from the dataset.")));
		if (strcmp(name, AVC_MARKS_COLUMN) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("a slice cannot hold \"%s\"", name),
					 errdetail("It is bookkeeping of the dataset's features.")));
	}
}

List *
avc_definition_columns(Oid dataset, Datum wanted, bool wanted_is_null)
{
	List	   *names = wanted_is_null ? NIL : avc_names_from_array(wanted);
	Relation	rel = table_open(dataset, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	List	   *columns = NIL;
	int			i;

	check_wanted(dataset, names);
	for (i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);
		char	   *name = NameStr(column->attname);

		if (column->attisdropped || strcmp(name, "image_bytes") == 0 ||
			strcmp(name, AVC_MARKS_COLUMN) == 0)
			continue;
		if (wanted_is_null || is_needed(name) || contains(names, name))
			columns = lappend(columns, pstrdup(name));
	}
	/* locked until they are in a view */
	table_close(rel, NoLock);
	return columns;
}

char *
avc_definition_missing(Oid relid)
{
	StringInfoData missing;
	int			i;

	initStringInfo(&missing);
	for (i = 0; i < lengthof(needed_columns); i++)
	{
		AttrNumber	number = get_attnum(relid, needed_columns[i].name);

		if (number > 0 &&
			get_atttype(relid, number) == needed_columns[i].type)
			continue;
		appendStringInfo(&missing, "%s%s %s", missing.len ? ", " : "",
						 needed_columns[i].name,
						 format_type_be(needed_columns[i].type));
	}
	return missing.len ? missing.data : NULL;
}

char *
avc_definition_source(Oid dataset)
{
	const char *column;

	LockRelationOid(dataset, AccessShareLock);
	/* in PostgreSQL 15 an owner can still turn an empty table into a view */
	if (get_rel_relkind(dataset) != RELKIND_RELATION)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("dataset with OID %u is not a table", dataset)));
	column = avc_dataset_strange_column(dataset);
	if (column != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of dataset \"%s\" is missing or has another type than it was made with",
						column, get_rel_name(dataset)),
				 errhint("Give the column its type back with ALTER TABLE.")));
	return psprintf("ONLY %s", avc_relation_name(dataset));
}

/* ---- views made by users ---- */

/* The table that the view's frame_id comes from, if it comes from one. */
static Oid
origin_of_frame_id(Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	Query	   *query;
	ListCell   *cell;
	Oid			origin = InvalidOid;

	/* ON SELECT rule, one action: as matview.c takes it */
	query = linitial_node(Query, rel->rd_rules->rules[0]->actions);
	foreach(cell, query->targetList)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, cell);

		if (!entry->resjunk && entry->resname &&
			entry->resno == get_attnum(relid, "frame_id"))
			origin = entry->resorigtbl;
	}
	table_close(rel, AccessShareLock);
	return origin;
}

Oid
avc_definition_dataset(Oid relid)
{
	AvcParam	param = AVC_OID(relid);
	Oid			dataset = origin_of_frame_id(relid);
	AvcRoleScope scope;
	bool		is_null;
	uint64		count;

	if (OidIsValid(dataset) && avc_dataset_find(dataset, true) != NULL)
		return dataset;
	avc_catalog_enter(&scope);
	SPI_connect();
	count = avc_spi_exec("WITH RECURSIVE reads(relid) AS (SELECT $1 UNION "
						 "SELECT d.refobjid FROM reads r "
						 "JOIN pg_rewrite w ON w.ev_class = r.relid "
						 "JOIN pg_depend d ON d.objid = w.oid "
						 "AND d.classid = 'pg_rewrite'::regclass "
						 "AND d.refclassid = 'pg_class'::regclass) "
						 "SELECT dataset FROM _avcurate.datasets "
						 "WHERE dataset IN (SELECT relid FROM reads)",
						 1, &param, false, 2);
	if (count == 1)
		dataset = DatumGetObjectId(avc_spi_column(0, "dataset", &is_null));
	SPI_finish();
	avc_catalog_leave(&scope);
	if (count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("materialized view \"%s\" reads no dataset",
						get_rel_name(relid)),
				 errhint("Make the table with avcurate.create_dataset.")));
	if (count > 1)
		ereport(ERROR,
				(errcode(ERRCODE_AMBIGUOUS_COLUMN),
				 errmsg("materialized view \"%s\" reads several datasets",
						get_rel_name(relid)),
				 errhint("Its column frame_id must come straight from one of them.")));
	return dataset;
}

Oid
avc_definition_key_index(Relation rel)
{
	AttrNumber	frame_id = get_attnum(RelationGetRelid(rel), "frame_id");
	ListCell   *cell;
	Oid			found = InvalidOid;

	foreach(cell, RelationGetIndexList(rel))
	{
		Relation	index = index_open(lfirst_oid(cell), AccessShareLock);
		Form_pg_index form = index->rd_index;

		if (form->indisunique && form->indimmediate && form->indisvalid &&
			index->rd_rel->relam == BTREE_AM_OID &&
			form->indnkeyatts == 1 && form->indkey.values[0] == frame_id &&
			index->rd_opfamily[0] == INTEGER_BTREE_FAM_OID &&
			heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred,
						   NULL))
			found = lfirst_oid(cell);
		index_close(index, AccessShareLock);
		if (OidIsValid(found))
			break;
	}
	return found;
}

bool
avc_definition_has_key(Relation rel)
{
	return OidIsValid(avc_definition_key_index(rel));
}

void
avc_definition_check_lasting(Oid relid)
{
	AvcParam	param = AVC_OID(relid);
	AvcRoleScope scope;
	bool		is_null;

	avc_catalog_enter(&scope);
	SPI_connect();
	if (avc_spi_exec("WITH own(classid, objid) AS ("
					 "SELECT 'pg_class'::regclass, $1 UNION ALL "
					 "SELECT 'pg_rewrite'::regclass, oid FROM pg_rewrite "
					 "WHERE ev_class = $1) "
					 "SELECT pg_describe_object(d.refclassid, d.refobjid, 0) "
					 "AS what FROM own JOIN pg_depend d USING (classid, objid), "
					 "pg_identify_object(d.refclassid, d.refobjid, 0) i "
					 "WHERE i.schema LIKE 'pg\\_temp\\_%'",
					 1, &param, false, 1) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("slice \"%s\" must not use %s, which is temporary",
						get_rel_name(relid),
						TextDatumGetCString(avc_spi_column(0, "what",
														   &is_null))),
				 errdetail("At the end of the session the slice would be dropped with it."),
				 errhint("Make it in a schema that lasts.")));
	SPI_finish();
	avc_catalog_leave(&scope);
}

bool
avc_definition_check_view(Oid relid)
{
	const char *name = get_rel_name(relid);
	AttrNumber	frame_id = get_attnum(relid, "frame_id");
	Relation	rel;
	bool		has_key;

	if (get_rel_relkind(relid) != RELKIND_MATVIEW)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a materialized view", name)));
	if (frame_id <= 0 || get_atttype(relid, frame_id) != INT8OID)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("materialized view \"%s\" has no column \"frame_id\" of type bigint",
						name)));
	if (get_attnum(relid, "from_version") > 0 ||
		get_attnum(relid, "to_version") > 0)
		ereport(ERROR,
				(errcode(ERRCODE_RESERVED_NAME),
				 errmsg("materialized view \"%s\" has a column with a reserved name",
						name),
				 errdetail("from_version and to_version are columns of the history.")));
	rel = table_open(relid, AccessShareLock);
	if (!RelationIsPopulated(rel))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("materialized view \"%s\" has not been populated",
						name),
				 errhint("Run REFRESH MATERIALIZED VIEW first.")));
	has_key = avc_definition_has_key(rel);
	table_close(rel, AccessShareLock);
	avc_definition_check_lasting(relid);
	return has_key;
}
