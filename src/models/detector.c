/*
 * models/detector.c
 *		detect() and what is made of it: a checkpoint asked about one image.
 *
 * A call site keeps the checkpoint that it looked up (fn_extra), so a query
 * over many frames reads the catalog once.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "common/catalog.h"
#include "common/settings.h"
#include "common/spi.h"
#include "models/detect.h"
#include "models/model.h"

PG_FUNCTION_INFO_V1(avc_detect);
PG_FUNCTION_INFO_V1(avc_detect_ahead);
PG_FUNCTION_INFO_V1(avc_detect_next);
PG_FUNCTION_INFO_V1(avc_detect_settle);
PG_FUNCTION_INFO_V1(avc_detector_number);
PG_FUNCTION_INFO_V1(avc_person_bbox_area_pct);

/* ---- a checkpoint that can be asked ---------------------------------- */

int64
avc_detector_default(void)
{
	if (avc_detector == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("no checkpoint is given and avcurate.detector is not set"),
				 errhint("Give the number of a checkpoint, or SET avcurate.detector to it; see avcurate.checkpoints.")));
	return avc_detector;
}

/* The first category in name order names a label. */
static void
read_categories(AvcDetector *detector, const AvcModel *model)
{
	MemoryContext context = CurrentMemoryContext;
	MemoryContext old;
	AvcParam	param = AVC_TEXT(model->label_map);
	AvcRoleScope scope;
	bool		is_null;
	uint64		rows;
	uint64		i;

	detector->label_count = model->num_classes;
	detector->categories = palloc0(sizeof(char *) * model->num_classes);
	avc_catalog_enter(&scope);
	SPI_connect();
	rows = avc_spi_exec("SELECT label, category "
						"FROM _avcurate.label_maps WHERE label_map = $1 "
						"ORDER BY category COLLATE \"C\" DESC", 1, &param,
						true, 0);
	old = MemoryContextSwitchTo(context);
	for (i = 0; i < rows; i++)
	{
		int			label = DatumGetInt32(avc_spi_column(i, "label",
														 &is_null));
		char	   *category = TextDatumGetCString(avc_spi_column(i, "category",
																  &is_null));

		if (label > 0 && label < detector->label_count)
			detector->categories[label] = category;
		if (strcmp(category, "person") == 0)
			detector->person = label;
	}
	MemoryContextSwitchTo(old);
	SPI_finish();
	avc_catalog_leave(&scope);
}

static AvcNetwork *
make_detector(const AvcCheckpoint *checkpoint)
{
	AvcDetector *detector = palloc0(sizeof(AvcDetector));

	avc_network_open(&detector->network, checkpoint);
	avc_model_check_labels(checkpoint->model);
	read_categories(detector, checkpoint->model);
	return &detector->network;
}

/* The call site's detector; argument 1 is the checkpoint or NULL. */
static const AvcDetector *
get_detector(FunctionCallInfo fcinfo)
{
	int64		checkpoint = PG_ARGISNULL(1) ? avc_detector_default()
		: PG_GETARG_INT64(1);

	return (AvcDetector *) avc_network_of_call(fcinfo, checkpoint,
											   make_detector);
}

/* ---- SQL ------------------------------------------------------------- */

/* Argument 2 of both functions. */
static float
read_min_score(FunctionCallInfo fcinfo)
{
	float		score;

	if (PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("min_score must not be NULL")));
	score = PG_GETARG_FLOAT4(2);
	if (!(score >= 0 && score <= 1))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("min_score must be from 0 to 1")));
	return score;
}

static const char *
category_of(const AvcDetector *detector, int32 label)
{
	if (label < 0 || label >= detector->label_count)
		return NULL;
	return detector->categories[label];
}

/*
 * detect(image, checkpoint, min_score) returns setof (category, label, score,
 * x1, y1, x2, y2), highest score first; labels without a name are left out,
 * as evaluate does.
 */
Datum
avc_detect(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	float		min_score = read_min_score(fcinfo);
	const AvcDetector *detector;
	AvcDetections detections;
	int			i;
	int			k;

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0))
		return (Datum) 0;
	detector = get_detector(fcinfo);
	detections = avc_detections_of(detector, PG_GETARG_BYTEA_PP(0));
	for (i = 0; i < detections.count; i++)
	{
		const AvcDetection *one = &detections.found[i];
		const char *category = category_of(detector, one->label);
		Datum		values[7];
		bool		nulls[7] = {false};

		if (category == NULL || one->score < min_score)
			continue;
		values[0] = CStringGetTextDatum(category);
		values[1] = Int32GetDatum(one->label);
		values[2] = Float4GetDatum(one->score);
		for (k = 0; k < 4; k++)
			values[3 + k] = Float4GetDatum(one->box[k]);
		tuplestore_putvalues(result->setResult, result->setDesc, values,
							 nulls);
	}
	return (Datum) 0;
}

/*
 * person_bbox_area_pct(image, checkpoint, min_score) returns real.
 */
Datum
avc_person_bbox_area_pct(PG_FUNCTION_ARGS)
{
	float		min_score = read_min_score(fcinfo);
	const AvcDetector *detector;
	AvcDetections detections;
	double		largest = 0;
	int			i;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	detector = get_detector(fcinfo);
	if (detector->person == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the label map of checkpoint " INT64_FORMAT " has no category \"person\"",
						detector->network.checkpoint)));
	detections = avc_detections_of(detector, PG_GETARG_BYTEA_PP(0));
	for (i = 0; i < detections.count; i++)
	{
		const AvcDetection *one = &detections.found[i];

		if (one->label == detector->person && one->score >= min_score)
			largest = Max(largest, ((double) one->box[2] - one->box[0]) *
						  ((double) one->box[3] - one->box[1]));
	}
	PG_RETURN_FLOAT4((float4) (100 * largest / detections.width /
							   detections.height));
}

/* detect_ahead(image, checkpoint) returns void: what a backfill calls first. */
Datum
avc_detect_ahead(PG_FUNCTION_ARGS)
{
	if (!PG_ARGISNULL(0))
		avc_detections_ahead(get_detector(fcinfo), PG_GETARG_BYTEA_PP(0));
	PG_RETURN_VOID();
}

/*
 * detect_settle(): wait for what detect_ahead() and the like have sent for
 * this transaction.  What came to nothing is asked for again by whoever wants
 * it.
 */
Datum
avc_detect_settle(PG_FUNCTION_ARGS)
{
	avc_network_settle();
	PG_RETURN_VOID();
}

/*
 * detect_next(): what detect_ahead() and the like send from now on is for the
 * next transaction, and stays under way when this one commits.
 */
Datum
avc_detect_next(PG_FUNCTION_ARGS)
{
	avc_network_next();
	PG_RETURN_VOID();
}

/* detector(checkpoint) returns bigint: the one that a call would use. */
Datum
avc_detector_number(PG_FUNCTION_ARGS)
{
	int64		checkpoint = PG_ARGISNULL(0) ? avc_detector_default()
		: PG_GETARG_INT64(0);
	AvcModel   *model;

	model = avc_checkpoint_find(checkpoint, false)->model;
	avc_model_check_usable(model);
	avc_model_check_detector(model);
	PG_RETURN_INT64(checkpoint);
}
