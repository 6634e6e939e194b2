/*
 * experiments/arguments.c
 *		The arguments of run_experiment, checked by themselves.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"

#include "common/spi.h"
#include "experiments/experiment.h"
#include "models/model.h"
#include "training/options.h"

#define MAX_SEEDS 100
#define MAX_SLICES 100
#define MAX_NAME 200			/* bytes */
#define HUGE_COUNT (INT64CONST(1) << 53)

static void
check_not_null(FunctionCallInfo fcinfo)
{
	static const char *const names[] = {
		"experiment", "base", "train_slices", "val_slices", "options"
	};
	int			i;

	for (i = 0; i < lengthof(names); i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s must not be NULL", names[i])));
}

static char *
read_name(text *argument)
{
	char	   *name = text_to_cstring(argument);

	if (name[0] == '\0' || strlen(name) > MAX_NAME)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("name of an experiment must have 1 to %d bytes",
						MAX_NAME)));
	return name;
}

void
avc_experiment_check_role(const char *name, Oid role)
{
	if (!has_privs_of_role(GetUserId(), role) &&
		!pg_database_ownercheck(MyDatabaseId, GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for experiment \"%s\"", name),
				 errdetail("It belongs to another role."),
				 errhint("Choose another name.")));
}

/* ---- slices ---- */

static AvcSlice *
read_slice(Oid relid)
{
	AvcSlice   *slice = avc_slice_find(relid, false);

	avc_slice_check_readable(slice);
	avc_slice_check_complete(slice);
	if (!OidIsValid(slice->dataset))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the dataset of slice %s was dropped", slice->name)));
	return slice;
}

static AvcPinnedSlice *
read_slices(ArrayType *array, const char *argument, int *count)
{
	AvcPinnedSlice *slices;
	Datum	   *elements;
	bool	   *nulls;
	int			i;
	int			j;

	deconstruct_array(array, REGCLASSOID, sizeof(Oid), true, TYPALIGN_INT,
					  &elements, &nulls, count);
	if (*count < 1 || *count > MAX_SLICES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must name 1 to %d slices, not %d", argument,
						MAX_SLICES, *count)));
	slices = palloc0_array(AvcPinnedSlice, *count);
	for (i = 0; i < *count; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s must not contain NULL", argument)));
		slices[i].slice = read_slice(DatumGetObjectId(elements[i]));
		for (j = 0; j < i; j++)
			if (slices[j].slice->slice_id == slices[i].slice->slice_id)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("%s names slice %s twice", argument,
								slices[i].slice->name)));
	}
	return slices;
}

/* ---- options ---- */

static void
refuse_option(const char *name, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("run_experiment sets option \"%s\" of train itself",
					name),
			 errhint("%s", hint)));
}

static int64
whole_number(const JsonbValue *value, const char *name, int64 least)
{
	double		number = 0;

	if (value->type == jbvNumeric)
		number = DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow,
													NumericGetDatum(value->val.numeric)));
	if (value->type != jbvNumeric || !(number >= least) ||
		number > HUGE_COUNT || number != (double) (int64) number)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" of run_experiment must hold whole numbers from %lld",
						name, (long long) least)));
	return (int64) number;
}

static void
read_seeds(AvcExperiment *experiment, const JsonbValue *value)
{
	JsonbContainer *list = value->val.binary.data;
	int			count;
	int			i;
	int			j;

	if (value->type != jbvBinary || !JsonContainerIsArray(list) ||
		JsonContainerIsScalar(list) || JsonContainerSize(list) == 0 ||
		JsonContainerSize(list) > MAX_SEEDS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"seeds\" of run_experiment must be a list of 1 to %d numbers",
						MAX_SEEDS)));
	count = JsonContainerSize(list);
	experiment->seeds = palloc_array(int64, count);
	for (i = 0; i < count; i++)
	{
		experiment->seeds[i] =
			whole_number(getIthJsonbValueFromContainer(list, i), "seeds", 0);
		for (j = 0; j < i; j++)
			if (experiment->seeds[j] == experiment->seeds[i])
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("option \"seeds\" of run_experiment holds %lld twice",
								(long long) experiment->seeds[i])));
	}
	experiment->seed_count = count;
}

static JsonbValue *
option_of(const AvcExperiment *experiment, const char *name)
{
	JsonbValue *value = getKeyJsonValueFromContainer(&experiment->options->root,
													 name, strlen(name), NULL);

	return value == NULL || value->type == jbvNull ? NULL : value;
}

/* What is chosen by a val slice must not be judged by it. */
static void
check_val_slice(const AvcExperiment *experiment, Oid relid)
{
	int			i;

	for (i = 0; i < experiment->val_count; i++)
		if (experiment->vals[i].slice->relid == relid)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("option \"val_slice\" names slice %s, which the experiment is judged on",
							experiment->vals[i].slice->name),
					 errdetail("Weights chosen by their figures on a slice look better there than they are."),
					 errhint("Use a slice of other frames.")));
}

/* Options val_slice and val_version; train() says what else is wrong. */
static void
read_val_slice(AvcExperiment *experiment, const JsonbValue *value)
{
	JsonbValue *version = option_of(experiment, "val_version");
	AvcParam	param;
	Oid			relid;
	bool		is_null;

	if (value->type != jbvString)
		return;
	SPI_connect();
	param = AVC_TEXT(pnstrdup(value->val.string.val, value->val.string.len));
	relid = DatumGetObjectId(avc_spi_value("SELECT pg_catalog.to_regclass($1)",
										   1, &param, CurrentMemoryContext,
										   &is_null));
	SPI_finish();
	if (is_null)
		return;
	check_val_slice(experiment, relid);
	experiment->chooser.slice = read_slice(relid);
	experiment->chooser.version = version != NULL ?
		whole_number(version, "val_version", 1) :
		experiment->chooser.slice->version;
}

/* The options without those that are not train()'s. */
static Jsonb *
options_of_train(const AvcExperiment *experiment)
{
	MemoryContext context = CurrentMemoryContext;
	AvcParam	param = {JSONBOID, JsonbPGetDatum(experiment->options), false};
	Datum		value;
	bool		is_null;

	SPI_connect();
	value = avc_spi_value("SELECT $1 OPERATOR(pg_catalog.-) "
						  "'{seeds,control,eval_max_frames}'::pg_catalog.text[]",
						  1, &param, context, &is_null);
	SPI_finish();
	return DatumGetJsonbP(value);
}

static void
read_options(AvcExperiment *experiment)
{
	static const char *const own[] = {
		"seeds", "control", "eval_max_frames", NULL
	};
	static const char *const set_by_us[] = {
		"seed", "from_checkpoint", "version", NULL
	};
	JsonbValue *value;

	if (!JB_ROOT_IS_OBJECT(experiment->options))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options of run_experiment must be a JSON object")));
	avc_train_options_check_names(experiment->options, "run_experiment", own,
								  set_by_us);
	if (option_of(experiment, "seed"))
		refuse_option("seed", "Give a list of seeds as option \"seeds\".");
	if (option_of(experiment, "from_checkpoint"))
		refuse_option("from_checkpoint",
					  "The trainings begin with the argument \"base\".");
	if (option_of(experiment, "version"))
		refuse_option("version",
					  "The slices are pinned at their current versions.");

	experiment->seeds = palloc0_array(int64, 1);
	experiment->seed_count = 1;
	if ((value = option_of(experiment, "seeds")) != NULL)
		read_seeds(experiment, value);
	experiment->has_control = true;
	if ((value = option_of(experiment, "control")) != NULL)
	{
		if (value->type != jbvBool)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("option \"control\" of run_experiment must be true or false")));
		experiment->has_control = value->val.boolean;
	}
	if ((value = option_of(experiment, "max_frames")) != NULL)
		experiment->max_frames = whole_number(value, "max_frames", 1);
	if ((value = option_of(experiment, "eval_max_frames")) != NULL)
		experiment->eval_max_frames = whole_number(value, "eval_max_frames",
												   1);
	if ((value = option_of(experiment, "val_slice")) != NULL)
		read_val_slice(experiment, value);
	experiment->train_options = options_of_train(experiment);
}

AvcExperiment *
avc_experiment_arguments(FunctionCallInfo fcinfo)
{
	AvcExperiment *experiment = palloc0_object(AvcExperiment);
	AvcCheckpoint *base;

	check_not_null(fcinfo);
	experiment->context = CurrentMemoryContext;
	experiment->name = read_name(PG_GETARG_TEXT_PP(0));
	experiment->base = PG_GETARG_INT64(1);
	experiment->options = DatumGetJsonbPCopy(PG_GETARG_DATUM(4));
	base = avc_checkpoint_find(experiment->base, false);
	avc_model_check_usable(base->model);
	avc_model_check_detector(base->model);
	experiment->model = base->model->model;
	experiment->trains = read_slices(PG_GETARG_ARRAYTYPE_P(2), "train_slices",
									 &experiment->train_count);
	experiment->vals = read_slices(PG_GETARG_ARRAYTYPE_P(3), "val_slices",
								   &experiment->val_count);
	experiment->controls = palloc0_array(AvcPinnedSlice,
										 experiment->train_count);
	read_options(experiment);
	return experiment;
}
