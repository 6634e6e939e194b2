/*
 * experiments/control.c
 *		The random control of a train slice, drawn as a slice of its own.
 *
 * Candidates are the labelled frames of the train slice's dataset that have
 * one of the splits of the slice's frames and are in no val slice; frames of
 * the train slice itself are among them, as a random sample has them.  They
 * are ordered by a hash of frame_id, keyed by a number that follows from the
 * names of experiment and slice, and the first n are the control.  So the
 * filter is a threshold on the hash: short, immutable, and refreshed by
 * difference like any other slice.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "datasets/dataset.h"
#include "experiments/experiment.h"

/* Rows of the version $n of a history table. */
#define IN_VERSION(n) "from_version <= " n " AND (to_version IS NULL OR " n " < to_version)"
#define LABELLED "ann_categories IS NOT NULL AND ann_bboxes IS NOT NULL"

/* What the frames of a control are drawn from. */
typedef struct Pool
{
	AvcDataset *dataset;
	char	   *condition;		/* labels and split, as the filter says it */
	AvcParam	val_frames;		/* of this dataset */
	int64		key;			/* of the hash */
} Pool;

/* A bigint of the catalog's tables. */
static int64
count_history(const char *sql, int nparams, const AvcParam *params)
{
	AvcRoleScope scope;
	int64		count;

	avc_catalog_enter(&scope);
	SPI_connect();
	count = avc_spi_int64(sql, nparams, params, 0);
	SPI_finish();
	avc_catalog_leave(&scope);
	return count;
}

/* An array of frame ids of the catalog's tables, in the current context. */
static Datum
read_ids(const char *sql, int nparams, const AvcParam *params)
{
	MemoryContext context = CurrentMemoryContext;
	AvcRoleScope scope;
	bool		is_null;
	Datum		ids;

	avc_catalog_enter(&scope);
	SPI_connect();
	ids = avc_spi_value(sql, nparams, params, context, &is_null);
	SPI_finish();
	avc_catalog_leave(&scope);
	return ids;
}

int64
avc_experiment_frames(const AvcExperiment *experiment,
					  const AvcPinnedSlice *slice)
{
	AvcParam	param = AVC_INT8(slice->version);
	int64		frames;

	frames = count_history(psprintf("SELECT count(*) FROM %s WHERE "
									LABELLED " AND " IN_VERSION("$1"),
									slice->slice->history_name), 1, &param);
	if (experiment->max_frames > 0)
		frames = Min(frames, experiment->max_frames);
	return frames;
}

/*
 * Within a dataset a frame is its number; a copy of it in another dataset has
 * the same image.
 */
static int64
count_shared(const AvcPinnedSlice *train, const AvcPinnedSlice *val)
{
	AvcParam	params[] = {AVC_INT8(train->version), AVC_INT8(val->version)};
	const char *column = train->slice->dataset == val->slice->dataset ?
	"frame_id" : "image_sha256";

	return count_history(psprintf("SELECT count(*) FROM %s WHERE "
								  IN_VERSION("$1") " AND %s IN "
								  "(SELECT %s FROM %s WHERE "
								  IN_VERSION("$2") ")",
								  train->slice->history_name, column, column,
								  val->slice->history_name),
						 lengthof(params), params);
}

static void
check_shares_nothing(const AvcPinnedSlice *train, const AvcPinnedSlice *val,
					 const char *what, const char *reason)
{
	int64		shared = count_shared(train, val);

	if (shared > 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%lld frames of train slice %s are in %s %s, too",
						(long long) shared, train->slice->name, what,
						val->slice->name),
				 errdetail("%s", reason),
				 errhint("Exclude them: give both filters a condition that keeps them apart, such as split = 'train' and split = 'val'.")));
}

void
avc_experiment_check_apart(const AvcExperiment *experiment)
{
	int			t;
	int			v;

	for (t = 0; t < experiment->train_count; t++)
	{
		const AvcPinnedSlice *train = &experiment->trains[t];

		for (v = 0; v < experiment->val_count; v++)
			check_shares_nothing(train, &experiment->vals[v], "val slice",
								 "What was trained on cannot be held against it.");
		if (experiment->chooser.slice != NULL)
			check_shares_nothing(train, &experiment->chooser,
								 "option \"val_slice\"",
								 "What was trained on cannot tell which weights are best.");
	}
}

/* ---- the pool ------------------------------------------------------- */

/* The condition that a frame's split is one of those of the slice's frames. */
static char *
split_condition(const AvcDataset *dataset, Datum train_frames)
{
	AvcParam	param = {INT8ARRAYOID, train_frames, false};
	MemoryContext context = CurrentMemoryContext;
	MemoryContext old;
	StringInfoData values;
	bool		has_null = false;
	uint64		i;

	initStringInfo(&values);
	SPI_connect();
	avc_spi_exec(psprintf("SELECT DISTINCT split FROM ONLY %s "
						  "WHERE frame_id OPERATOR(pg_catalog.=) ANY ($1) "
						  "ORDER BY split", dataset->quoted_name),
				 1, &param, false, 0);
	old = MemoryContextSwitchTo(context);
	for (i = 0; i < SPI_processed; i++)
	{
		bool		is_null;
		Datum		split = avc_spi_column(i, "split", &is_null);

		if (is_null)
			has_null = true;
		else
			appendStringInfo(&values, "%s%s", values.len > 0 ? ", " : "",
							 quote_literal_cstr(TextDatumGetCString(split)));
	}
	MemoryContextSwitchTo(old);
	SPI_finish();
	if (values.len == 0)
		return "split IS NULL";
	return psprintf(has_null ? "(split IN (%s) OR split IS NULL)" :
					"split IN (%s)", values.data);
}

/* Add a query of the frames of a slice, if it is of the dataset. */
static void
add_frames(StringInfo sql, const AvcPinnedSlice *slice, Oid dataset)
{
	char	   *version = psprintf(INT64_FORMAT, slice->version);

	if (slice->slice == NULL || slice->slice->dataset != dataset)
		return;
	appendStringInfo(sql, "SELECT frame_id FROM %s WHERE from_version <= "
					 "%s AND (to_version IS NULL OR %s < to_version) "
					 "UNION ", slice->slice->history_name, version, version);
}

/* Ids of all frames to evaluate on, also while training, of the dataset. */
static Datum
val_frames(const AvcExperiment *experiment, Oid dataset)
{
	StringInfoData sql;
	int			v;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT COALESCE(pg_catalog.array_agg("
						   "frame_id ORDER BY frame_id), '{}') FROM (");
	for (v = 0; v < experiment->val_count; v++)
		add_frames(&sql, &experiment->vals[v], dataset);
	add_frames(&sql, &experiment->chooser, dataset);
	appendStringInfoString(&sql, "SELECT NULL::pg_catalog.int8 WHERE false) AS v");
	return read_ids(sql.data, 0, NULL);
}

static void
open_pool(const AvcExperiment *experiment, const AvcPinnedSlice *train,
		  Pool *pool)
{
	AvcParam	param = AVC_INT8(train->version);
	char	   *names = psprintf("%s %s", experiment->name,
								 train->slice->name);
	Datum		frames;

	pool->dataset = avc_dataset_find(train->slice->dataset, false);
	frames = read_ids(psprintf("SELECT pg_catalog.array_agg(frame_id) FROM %s "
							   "WHERE " LABELLED " AND " IN_VERSION("$1"),
							   train->slice->history_name), 1, &param);
	pool->condition = psprintf("%s AND " LABELLED,
							   split_condition(pool->dataset, frames));
	pool->val_frames = (AvcParam) {INT8ARRAYOID,
		val_frames(experiment, train->slice->dataset), false
	};
	/* a short number: it is read in the filter */
	pool->key = hash_bytes((const unsigned char *) names, strlen(names)) % 1000;
}

static int64
count_pool(const Pool *pool)
{
	int64		count;

	SPI_connect();
	count = avc_spi_int64(psprintf("SELECT pg_catalog.count(*) FROM ONLY %s "
								   "WHERE %s AND frame_id "
								   "OPERATOR(pg_catalog.<>) ALL ($1)",
								   pool->dataset->quoted_name,
								   pool->condition),
						  1, &pool->val_frames, 0);
	SPI_finish();
	return count;
}

/* A control that is all there is to draw from would be the slice itself. */
static void
check_pool(const Pool *pool, const AvcSlice *train, int64 wanted)
{
	int64		count = count_pool(pool);

	if (count <= wanted)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the control of slice %s needs more than %lld frames to be drawn from, but there are %lld",
						train->name, (long long) wanted, (long long) count),
				 errdetail("They are frames of \"%s\" with labels and the slice's split that are in no val slice.",
						   pool->dataset->table_name),
				 errhint("Ingest more frames, lower option \"max_frames\", or set option \"control\" to false.")));
	if (count < 2 * wanted)
		ereport(NOTICE,
				(errmsg("the control of slice %s is drawn from only %lld frames, so it has many of the slice's own",
						train->name, (long long) count)));
}

/* The hash of the n-th candidate. */
static int64
find_threshold(const Pool *pool, int64 n)
{
	AvcParam	params[] = {pool->val_frames, AVC_INT8(pool->key),
	AVC_INT8(n - 1)};
	int64		threshold;

	SPI_connect();
	threshold = avc_spi_int64(psprintf("SELECT pg_catalog.hashint8extended("
									   "frame_id, $2) FROM ONLY %s WHERE %s "
									   "AND frame_id "
									   "OPERATOR(pg_catalog.<>) ALL ($1) "
									   "ORDER BY 1 OFFSET $3 LIMIT 1",
									   pool->dataset->quoted_name,
									   pool->condition),
							  lengthof(params), params, 0);
	SPI_finish();
	return threshold;
}

/*
 * What the threshold alone would let in of the val slices; normally nothing,
 * because their split is another one.
 */
static char *
exclude_val_frames(const Pool *pool, const char *filter)
{
	MemoryContext context = CurrentMemoryContext;
	Datum		ids;
	bool		is_null;
	char	   *result = "";

	SPI_connect();
	ids = avc_spi_value(psprintf("SELECT pg_catalog.array_agg(frame_id "
								 "ORDER BY frame_id)::pg_catalog.text "
								 "FROM ONLY %s WHERE %s AND frame_id "
								 "OPERATOR(pg_catalog.=) ANY ($1)",
								 pool->dataset->quoted_name, filter),
						1, &pool->val_frames, context, &is_null);
	SPI_finish();
	if (!is_null)
		result = psprintf(" AND frame_id <> ALL ('%s'::bigint[])",
						  TextDatumGetCString(ids));
	return result;
}

/* ---- the slice ------------------------------------------------------ */

/* In the train slice's schema, named after experiment and slice. */
static char *
control_name(const AvcExperiment *experiment, const AvcSlice *train)
{
	Oid			schema = get_rel_namespace(train->relid);
	char	   *name;

	if (pg_namespace_aclcheck(schema, GetUserId(),
							  ACL_CREATE) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for schema %s",
						get_namespace_name(schema)),
				 errdetail("The control of slice %s is made there.",
						   train->name),
				 errhint("Grant CREATE on the schema, or set option \"control\" to false.")));
	name = ChooseRelationName(experiment->name, get_rel_name(train->relid),
							  "control", schema, false);
	return quote_qualified_identifier(get_namespace_name(schema), name);
}

static Oid
create_slice(const char *name, Oid dataset, const char *filter)
{
	AvcParam	params[] = {AVC_TEXT(name), AVC_REGCLASS(dataset),
	AVC_TEXT(filter)};
	bool		is_null;
	Datum		relid;

	SPI_connect();
	relid = avc_spi_value("SELECT avcurate.create_slice($1, $2, $3)",
						  lengthof(params), params, CurrentMemoryContext,
						  &is_null);
	SPI_finish();
	CommandCounterIncrement();
	return DatumGetObjectId(relid);
}

void
avc_experiment_draw_control(AvcExperiment *experiment, int train)
{
	const AvcPinnedSlice *of = &experiment->trains[train];
	AvcPinnedSlice *control = &experiment->controls[train];
	int64		wanted = avc_experiment_frames(experiment, of);
	int64		threshold;
	char	   *filter;
	Pool		pool;

	if (wanted == 0)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("version %lld of slice %s has no labelled frame",
						(long long) of->version, of->slice->name),
				 errhint("Refresh the slice, or widen its filter.")));
	open_pool(experiment, of, &pool);
	check_pool(&pool, of->slice, wanted);
	threshold = find_threshold(&pool, wanted);
	filter = psprintf("%s AND hashint8extended(frame_id, %lld) <= %lld",
					  pool.condition, (long long) pool.key,
					  (long long) threshold);
	filter = psprintf("%s%s", filter, exclude_val_frames(&pool, filter));
	control->slice =
		avc_slice_find(create_slice(control_name(experiment, of->slice),
									of->slice->dataset, filter), false);
	control->version = control->slice->version;
	/* the statements above each had a snapshot of their own */
	if (avc_slice_version_rows(control->slice, control->version) != wanted)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("frames of \"%s\" were changed while a control was drawn from them",
						pool.dataset->table_name),
				 errhint("Call run_experiment again.")));
}
