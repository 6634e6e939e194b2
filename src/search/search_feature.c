/*
 * search/search_feature.c
 *		Which vectors are meant.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "parser/parser.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "features/feature.h"
#include "search/search.h"

/* ---- expressions ---- */

/* Is the call one of our clip_embedding, as deparse writes it? */
static bool
is_embedding(const FuncCall *call)
{
	int			names = list_length(call->funcname);

	if (strcmp(strVal(llast(call->funcname)), "clip_embedding") != 0)
		return false;
	return names == 1 ||
		(names == 2 && strcmp(strVal(linitial(call->funcname)),
							  "avcurate") == 0);
}

static bool
find_embedding(Node *node, void *arg)
{
	if (node == NULL)
		return false;
	if (IsA(node, FuncCall) && is_embedding((FuncCall *) node))
	{
		*(FuncCall **) arg = (FuncCall *) node;
		return true;
	}
	return raw_expression_tree_walker(node, find_embedding, arg);
}

/* The call of clip_embedding in a feature's expression; NULL if none. */
static FuncCall *
embedding_of(const AvcFeature *feature)
{
	List	   *parsed = raw_parser(feature->expression,
									RAW_PARSE_PLPGSQL_EXPR);
	FuncCall   *call = NULL;

	(void) find_embedding(linitial_node(RawStmt, parsed)->stmt, &call);
	return call;
}

static List *
features_of(const AvcDataset *dataset)
{
	MemoryContext outer = CurrentMemoryContext;
	List	   *features;

	SPI_connect();
	(void) MemoryContextSwitchTo(outer);
	features = avc_features_load(dataset->relid);
	SPI_finish();
	return features;
}

bool
avc_search_has_embedding(const AvcDataset *dataset)
{
	ListCell   *cell;

	foreach(cell, features_of(dataset))
	{
		if (embedding_of(lfirst(cell)) != NULL)
			return true;
	}
	return false;
}

/* ---- the choice ---- */

static bool
is_vector(const AvcDataset *dataset, const char *column)
{
	AttrNumber	number = get_attnum(dataset->relid, column);

	return number > 0 &&
		get_atttype(dataset->relid, number) == FLOAT4ARRAYOID;
}

static char *
quoted_names(const List *names)
{
	StringInfoData out;
	ListCell   *cell;

	initStringInfo(&out);
	foreach(cell, names)
		appendStringInfo(&out, "%s\"%s\"", out.len ? ", " : "",
						 (char *) lfirst(cell));
	return out.data;
}

static void
check_wanted(const AvcDataset *dataset, const char *wanted)
{
	if (get_attnum(dataset->relid, wanted) <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("dataset \"%s\" has no feature \"%s\"",
						dataset->table_name, wanted),
				 errhint("See SELECT feature, type FROM avcurate.features; a feature of vectors has type real[].")));
	if (!is_vector(dataset, wanted))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("feature \"%s\" has type %s, not real[]", wanted,
						format_type_be(get_atttype(dataset->relid,
												   get_attnum(dataset->relid, wanted)))),
				 errhint("Frames are compared by vectors, such as those of avcurate.clip_embedding(image_bytes).")));
}

static char *
only_one(const AvcDataset *dataset, const List *names)
{
	if (list_length(names) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_AMBIGUOUS_COLUMN),
				 errmsg("dataset \"%s\" has more than one feature of vectors: %s",
						dataset->table_name, quoted_names(names)),
				 errhint("Say which one: feature => '%s'.",
						 (char *) linitial(names))));
	return linitial(names);
}

char *
avc_search_feature(const AvcDataset *dataset, const char *wanted)
{
	List	   *embeddings = NIL;
	List	   *vectors = NIL;
	ListCell   *cell;

	if (wanted)
	{
		check_wanted(dataset, wanted);
		return pstrdup(wanted);
	}
	foreach(cell, features_of(dataset))
	{
		AvcFeature *feature = lfirst(cell);

		if (!is_vector(dataset, feature->name))
			continue;
		vectors = lappend(vectors, feature->name);
		if (embedding_of(feature) != NULL)
			embeddings = lappend(embeddings, feature->name);
	}
	if (vectors == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("dataset \"%s\" has no feature of vectors",
						dataset->table_name),
				 errhint("Add one: SELECT avcurate.add_feature('%s', 'clip', 'avcurate.clip_embedding(image_bytes)'); then CALL avcurate.backfill('%s').",
						 dataset->table_name, dataset->table_name)));
	return only_one(dataset, embeddings ? embeddings : vectors);
}

/* ---- the checkpoint ---- */

/* A number that stands in an expression, with or without a cast. */
static bool
constant_of(Node *node, int64 *value)
{
	A_Const    *constant;

	while (IsA(node, TypeCast))
		node = ((TypeCast *) node)->arg;
	if (!IsA(node, A_Const) || ((A_Const *) node)->isnull)
		return false;
	constant = (A_Const *) node;
	if (IsA(&constant->val, Integer))
		*value = intVal(&constant->val);
	else if (IsA(&constant->val, String))
		*value = DatumGetInt64(DirectFunctionCall1(int8in,
												   CStringGetDatum(strVal(&constant->val))));
	else
		return false;
	return true;
}

int64
avc_search_checkpoint(const AvcDataset *dataset, const char *feature)
{
	AvcFeature *found;
	FuncCall   *call;
	int64		checkpoint = 0;

	found = avc_feature_find(features_of(dataset), feature);
	call = found ? embedding_of(found) : NULL;
	if (call == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("feature \"%s\" is not computed by clip_embedding()",
						feature),
				 errhint("A text can be compared with vectors of the same CLIP model; use nearest_frames() with a vector of your own.")));
	if (list_length(call->args) < 2 ||
		!constant_of(lsecond(call->args), &checkpoint))
		elog(ERROR, "feature \"%s\" does not name its checkpoint", feature);
	return checkpoint;
}
