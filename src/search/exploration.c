/*
 * search/exploration.c
 *		scene_counts(), box_sizes(), category_pairs(), slice_drift(): what is in
 *		a dataset, a slice or one of its versions.
 *
 * Everything is read as the current user.  A version is read with slice_at,
 * which has its own rules on who may.
 *
 * Drift is the Jensen-Shannon divergence of two distributions P and Q (Lin,
 * "Divergence measures based on the Shannon entropy", IEEE Transactions on
 * Information Theory 37, 1991), with logarithms to base 2: 0 where they are
 * equal, 1 where they have nothing in common, and finite where a value occurs
 * on one side alone.  With M = (P + Q) / 2 it is the sum over values of
 * p log2(p / m) / 2 + q log2(q / m) / 2; each value's term is its part.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

#include "common/spi.h"
#include "search/tally.h"

PG_FUNCTION_INFO_V1(avc_scene_counts);
PG_FUNCTION_INFO_V1(avc_box_sizes);
PG_FUNCTION_INFO_V1(avc_category_pairs);
PG_FUNCTION_INFO_V1(avc_slice_drift);
PG_FUNCTION_INFO_V1(avc_slice_drift_values);

#define MAX_COLUMNS 9

static const char *const scene_columns[] = {"weather", "timeofday", "scene"};
static const char *const label_columns[] = {
	"ann_categories", "ann_ignored", "ann_bboxes", "ann_area", "width", "height"
};
static const char *const size_names[] = {"small", "medium", "large"};

/* ---- what is read ---------------------------------------------------- */

static void
check_columns(Oid relid, const char *const *columns, int count)
{
	int			i;

	if (get_rel_name(relid) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	for (i = 0; i < count; i++)
		if (get_attnum(relid, columns[i]) == InvalidAttrNumber)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("relation \"%s\" has no column \"%s\"",
							get_rel_name(relid), columns[i]),
					 errhint("Name a dataset, or a slice or view that has this column.")));
}

/* A FROM item; $1 is the version if there is one. */
static char *
from_item(Oid relid, bool has_version)
{
	char	   *name = quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
												  get_rel_name(relid));

	return has_version ? psprintf("avcurate.slice_at(NULL::%s, $1) AS f", name) :
		psprintf("%s AS f", name);
}

static AvcTally *
tally(FunctionCallInfo fcinfo, int relation, int version, int what)
{
	Oid			relid = PG_GETARG_OID(relation);
	bool		has_version = !PG_ARGISNULL(version);

	if (what & AVC_TALLY_SCENES)
		check_columns(relid, scene_columns, lengthof(scene_columns));
	if (what & (AVC_TALLY_BOXES | AVC_TALLY_PAIRS))
		check_columns(relid, label_columns,
					  what & AVC_TALLY_BOXES ? lengthof(label_columns) : 2);
	return avc_tally(from_item(relid, has_version),
					 has_version ? PG_GETARG_INT64(version) : 0, what);
}

static void
put_row(FunctionCallInfo fcinfo, Datum *values, bool *nulls)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* ---- counts ---------------------------------------------------------- */

/* Boxes that are ignored, by SQL; most frames have none and are passed by. */
#define IGNORED "coalesce(pg_catalog.sum(pg_catalog.cardinality(pg_catalog.array_positions(" \
	"ann_ignored::pg_catalog.bool[], true))) FILTER (WHERE ann_categories IS NOT NULL AND " \
	"true OPERATOR(pg_catalog.=) ANY (ann_ignored::pg_catalog.bool[])), 0)::pg_catalog.int8"

/*
 * scene_counts(source, version): a row for each weather, time of day and
 * scene that occur together, most frames first.
 */
Datum
avc_scene_counts(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	bool		has_version = !PG_ARGISNULL(1);
	AvcParam	params[] = {AVC_NULL(INT8OID)};
	uint64		rows;
	uint64		i;

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0))
		return (Datum) 0;
	check_columns(PG_GETARG_OID(0), scene_columns, lengthof(scene_columns));
	check_columns(PG_GETARG_OID(0), label_columns, 2);
	if (has_version)
		params[0] = AVC_INT8(PG_GETARG_INT64(1));
	SPI_connect();
	rows = avc_spi_exec(psprintf("SELECT weather::pg_catalog.text, timeofday::pg_catalog.text, "
								 "scene::pg_catalog.text, pg_catalog.count(*), pg_catalog.count(ann_categories), "
								 "coalesce(pg_catalog.sum(pg_catalog.cardinality(ann_categories)), 0)::pg_catalog.int8 - "
								 IGNORED ", (100.0 * pg_catalog.count(*) / pg_catalog.sum(pg_catalog.count(*)) OVER ())::pg_catalog.float8, "
								 IGNORED " "
								 "FROM %s GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3",
								 from_item(PG_GETARG_OID(0), has_version)),
						has_version ? 1 : 0, params, true, 0);
	for (i = 0; i < rows; i++)
		tuplestore_puttuple(result->setResult, SPI_tuptable->vals[i]);
	SPI_finish();
	return (Datum) 0;
}

static int
more_boxes(const void *a, const void *b, void *argument)
{
	const AvcTally *counted = argument;
	const AvcCategoryCount *left = &counted->counts[*(const int *) a];
	const AvcCategoryCount *right = &counted->counts[*(const int *) b];

	if (left->boxes != right->boxes)
		return left->boxes > right->boxes ? -1 : 1;
	return strcmp(counted->categories.names[*(const int *) a],
				  counted->categories.names[*(const int *) b]);
}

/* Numbers of the categories, most boxes first. */
static int *
sort_categories(AvcTally *counted)
{
	int		   *order = palloc_array(int, AVC_TALLY_NAMES);
	int			i;

	for (i = 0; i < counted->categories.count; i++)
		order[i] = i;
	qsort_arg(order, counted->categories.count, sizeof(int), more_boxes,
			  counted);
	return order;
}

/*
 * box_sizes(source, version): a row for each category, most boxes first.
 */
Datum
avc_box_sizes(PG_FUNCTION_ARGS)
{
	AvcTally   *counted;
	int		   *order;
	int			i;

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0))
		return (Datum) 0;
	counted = tally(fcinfo, 0, 1, AVC_TALLY_BOXES);
	order = sort_categories(counted);
	for (i = 0; i < counted->categories.count; i++)
	{
		const AvcCategoryCount *count = &counted->counts[order[i]];
		int64		measured = count->sizes[AVC_BOX_SMALL] +
		count->sizes[AVC_BOX_MEDIUM] + count->sizes[AVC_BOX_LARGE];
		Datum		values[MAX_COLUMNS];
		bool		nulls[MAX_COLUMNS] = {false};

		values[0] = CStringGetTextDatum(counted->categories.names[order[i]]);
		values[1] = Int64GetDatum(count->frames);
		values[2] = Int64GetDatum(count->boxes);
		values[3] = Int64GetDatum(count->sizes[AVC_BOX_SMALL]);
		values[4] = Int64GetDatum(count->sizes[AVC_BOX_MEDIUM]);
		values[5] = Int64GetDatum(count->sizes[AVC_BOX_LARGE]);
		nulls[6] = nulls[7] = measured == 0;
		values[6] = Float8GetDatum(nulls[6] ? 0 : count->pct_sum / measured);
		values[7] = Float8GetDatum(count->pct_max);
		values[8] = Int64GetDatum(count->ignored);
		put_row(fcinfo, values, nulls);
	}
	return (Datum) 0;
}

/*
 * category_pairs(source, version): a row for each two categories that occur in
 * a frame together, the one with more boxes first.
 */
Datum
avc_category_pairs(PG_FUNCTION_ARGS)
{
	AvcTally   *counted;
	int		   *order;
	int			i;
	int			j;

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0))
		return (Datum) 0;
	counted = tally(fcinfo, 0, 1, AVC_TALLY_PAIRS);
	order = sort_categories(counted);
	for (i = 0; i < counted->categories.count; i++)
		for (j = i + 1; j < counted->categories.count; j++)
		{
			int64		both = counted->pairs[Min(order[i], order[j]) * AVC_TALLY_PAIR_NAMES +
											  Max(order[i], order[j])];
			double		first = counted->counts[order[i]].frames;
			double		second = counted->counts[order[j]].frames;
			Datum		values[6];
			bool		nulls[6] = {false};

			if (both == 0)
				continue;
			values[0] = CStringGetTextDatum(counted->categories.names[order[i]]);
			values[1] = CStringGetTextDatum(counted->categories.names[order[j]]);
			values[2] = Int64GetDatum(both);
			values[3] = Float8GetDatum(both / first);
			values[4] = Float8GetDatum(both / second);
			values[5] = Float8GetDatum(both * (double) counted->labelled /
									   (first * second));
			put_row(fcinfo, values, nulls);
		}
	return (Datum) 0;
}

/* ---- drift ----------------------------------------------------------- */

/* How often a value of a variable occurs on each side. */
typedef struct DriftValue
{
	const char *name;			/* NULL = not known */
	int64		counts[2];
	double		part;			/* of the divergence */
} DriftValue;

typedef struct DriftVariable
{
	const char *name;
	DriftValue *values;
	int			count;
	int64		totals[2];
	double		divergence;		/* NAN where a side is empty */
} DriftVariable;

#define DRIFT_VARIABLES (AVC_SCENE_COLUMNS + 2)

static void
add_count(DriftVariable *variable, const char *name, int side, int64 count)
{
	DriftValue *value = variable->values;
	DriftValue *end = variable->values + variable->count;

	if (count == 0)
		return;
	/* thousands of values are looked through for each of thousands */
	CHECK_FOR_INTERRUPTS();
	while (value < end &&
		   (value->name == NULL || name == NULL ? value->name != name :
			strcmp(value->name, name) != 0))
		value++;
	if (value == end)
	{
		*value = (DriftValue) {name};
		variable->count++;
	}
	value->counts[side] += count;
	variable->totals[side] += count;
}

/* What one side adds to the five variables. */
static void
add_side(DriftVariable *variables, AvcTally *counted, int side)
{
	DriftVariable *category = &variables[AVC_SCENE_COLUMNS];
	DriftVariable *size = category + 1;
	int			i;
	int			j;

	for (i = 0; i < AVC_SCENE_COLUMNS; i++)
	{
		for (j = 0; j < counted->values[i].count; j++)
			add_count(&variables[i], counted->values[i].names[j], side,
					  counted->value_counts[i][j]);
		add_count(&variables[i], NULL, side, counted->unknown[i]);
	}
	for (i = 0; i < counted->categories.count; i++)
	{
		add_count(category, counted->categories.names[i], side,
				  counted->counts[i].boxes);
		for (j = 0; j < AVC_BOX_SIZES; j++)
			add_count(size, size_names[j], side, counted->counts[i].sizes[j]);
	}
}

static double
half_term(double share, double mean)
{
	return share > 0 ? share * log2(share / mean) / 2 : 0;
}

/* Larger parts first. */
static int
larger_part(const void *a, const void *b)
{
	const DriftValue *left = a;
	const DriftValue *right = b;

	if (left->part != right->part)
		return left->part > right->part ? -1 : 1;
	return left->name == NULL ? right->name != NULL :
		right->name == NULL ? -1 : strcmp(left->name, right->name);
}

static void
measure_drift(DriftVariable *variable)
{
	int			i;

	variable->divergence = variable->totals[0] == 0 ||
		variable->totals[1] == 0 ? NAN : 0;
	for (i = 0; i < variable->count && !isnan(variable->divergence); i++)
	{
		DriftValue *value = &variable->values[i];
		double		before = (double) value->counts[0] / variable->totals[0];
		double		after = (double) value->counts[1] / variable->totals[1];
		double		mean = (before + after) / 2;

		/* rounding must not make a part of equal shares negative */
		value->part = Max(0, half_term(before, mean) + half_term(after, mean));
		variable->divergence += value->part;
	}
	/* nor the sum of many parts more than all */
	if (variable->divergence > 1)
		variable->divergence = 1;
	qsort(variable->values, variable->count, sizeof(DriftValue), larger_part);
}

/*
 * The variables of both sides: slice, from_version, to_version, other are the
 * arguments.
 */
static DriftVariable *
find_drift(FunctionCallInfo fcinfo)
{
	DriftVariable *variables = palloc0_array(DriftVariable, DRIFT_VARIABLES);
	int			i;

	for (i = 0; i < DRIFT_VARIABLES; i++)
	{
		variables[i].name = i < AVC_SCENE_COLUMNS ? scene_columns[i] :
			i == AVC_SCENE_COLUMNS ? "category" : "box size";
		variables[i].values = palloc_array(DriftValue, 2 * AVC_TALLY_NAMES + 1);
	}
	add_side(variables, tally(fcinfo, 0, 1, AVC_TALLY_SCENES | AVC_TALLY_BOXES), 0);
	add_side(variables, tally(fcinfo, PG_ARGISNULL(3) ? 0 : 3, 2,
							  AVC_TALLY_SCENES | AVC_TALLY_BOXES), 1);
	for (i = 0; i < DRIFT_VARIABLES; i++)
		measure_drift(&variables[i]);
	return variables;
}

/*
 * slice_drift(slice, from_version, to_version, other): a row a variable.
 */
Datum
avc_slice_drift(PG_FUNCTION_ARGS)
{
	DriftVariable *variables;
	int			i;

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0))
		return (Datum) 0;
	variables = find_drift(fcinfo);
	for (i = 0; i < DRIFT_VARIABLES; i++)
	{
		const DriftVariable *variable = &variables[i];
		Datum		values[5];
		bool		nulls[5] = {false};

		values[0] = CStringGetTextDatum(variable->name);
		values[1] = Int64GetDatum(variable->totals[0]);
		values[2] = Int64GetDatum(variable->totals[1]);
		nulls[3] = isnan(variable->divergence);
		values[3] = Float8GetDatum(variable->divergence);
		nulls[4] = nulls[3] || variable->count == 0 ||
			variable->values[0].part == 0 || variable->values[0].name == NULL;
		values[4] = nulls[4] ? (Datum) 0 :
			CStringGetTextDatum(variable->values[0].name);
		put_row(fcinfo, values, nulls);
	}
	return (Datum) 0;
}

/*
 * slice_drift_values(the same): a row for each value of each variable.
 */
Datum
avc_slice_drift_values(PG_FUNCTION_ARGS)
{
	DriftVariable *variables;
	int			i;
	int			j;

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0))
		return (Datum) 0;
	variables = find_drift(fcinfo);
	for (i = 0; i < DRIFT_VARIABLES; i++)
		for (j = 0; j < variables[i].count; j++)
		{
			const DriftVariable *variable = &variables[i];
			const DriftValue *value = &variable->values[j];
			Datum		values[7];
			bool		nulls[7] = {false};

			values[0] = CStringGetTextDatum(variable->name);
			nulls[1] = value->name == NULL;
			values[1] = nulls[1] ? (Datum) 0 : CStringGetTextDatum(value->name);
			values[2] = Int64GetDatum(value->counts[0]);
			values[3] = Int64GetDatum(value->counts[1]);
			nulls[4] = variable->totals[0] == 0;
			values[4] = Float8GetDatum((double) value->counts[0] / Max(variable->totals[0], 1));
			nulls[5] = variable->totals[1] == 0;
			values[5] = Float8GetDatum((double) value->counts[1] / Max(variable->totals[1], 1));
			nulls[6] = isnan(variable->divergence);
			values[6] = Float8GetDatum(value->part);
			put_row(fcinfo, values, nulls);
		}
	return (Datum) 0;
}
