/*
 * evaluation/result.c
 *		An evaluation's rows in the catalog: matches, figures, classes.
 *
 * Matches are written while the job runs; nobody sees them before the
 * evaluation's own row, which comes last.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "evaluation/result.h"

struct AvcResultWriter
{
	int64		evaluation;
	const AvcEvaluatedClass *classes;
	int			class_count;
	SPIPlanPtr	insert;			/* one row of matches; NULL until needed */
};

/* Parameters of the insert, in its order. */
enum MatchColumn
{
	EVALUATION, FRAME_ID, LABEL, SCORE, IOU, TRUTH_NO, DETECTION_NO, KIND,
	CATEGORY, BOX, TRUTH_BOX, MATCH_COLUMNS
};

AvcResultWriter *
avc_result_open(MemoryContext context, int64 evaluation,
				const AvcEvaluatedClass *classes, int class_count)
{
	AvcResultWriter *writer = MemoryContextAllocZero(context,
													 sizeof(AvcResultWriter));

	writer->evaluation = evaluation;
	writer->classes = classes;
	writer->class_count = class_count;
	return writer;
}

void
avc_result_clear(AvcResultWriter *writer)
{
	AvcRoleScope scope;
	AvcParam	param = AVC_INT8(writer->evaluation);

	SPI_connect();
	avc_catalog_enter(&scope);
	avc_spi_exec("DELETE FROM _avcurate.matches WHERE evaluation = $1", 1,
				 &param, false, 0);
	avc_spi_exec("DELETE FROM _avcurate.matches WHERE evaluation IN ("
				 "SELECT job FROM _avcurate.jobs WHERE kind = 'evaluate' "
				 "AND state IN ('failed', 'cancelled'))", 0, NULL, false, 0);
	avc_catalog_leave(&scope);
	SPI_finish();
}

static void
prepare_insert(AvcResultWriter *writer)
{
	Oid			types[MATCH_COLUMNS] = {
		INT8OID, INT8OID, INT4OID, FLOAT4OID, FLOAT4OID, INT4OID, INT4OID,
		TEXTOID, TEXTOID, FLOAT4ARRAYOID, FLOAT4ARRAYOID
	};

	writer->insert = SPI_prepare("INSERT INTO _avcurate.matches (evaluation, "
								 "frame_id, label, score, iou, truth_no, "
								 "detection_no, kind, category, box, "
								 "truth_box) VALUES ($1, $2, $3, $4, $5, $6, "
								 "$7, $8, $9, $10, $11)",
								 MATCH_COLUMNS, types);
	if (writer->insert == NULL || SPI_keepplan(writer->insert) != 0)
		elog(ERROR, "could not prepare the insertion of matches");
}

/* x1 y1 x2 y2 of a box given as x, y, width, height. */
static Datum
corners(const double box[4])
{
	Datum		elements[4];

	elements[0] = Float4GetDatum((float4) box[0]);
	elements[1] = Float4GetDatum((float4) box[1]);
	elements[2] = Float4GetDatum((float4) (box[0] + box[2]));
	elements[3] = Float4GetDatum((float4) (box[1] + box[3]));
	return PointerGetDatum(construct_array(elements, 4, FLOAT4OID, 4, true,
										   TYPALIGN_INT));
}

/* Insert one row: a detection, a truth, or both. */
static void
insert_match(AvcResultWriter *writer, int64 frame_id, const char *kind,
			 const AvcImageDetection *detection, const AvcImageTruth *truth)
{
	int			category = detection ? detection->category : truth->category;
	Datum		values[MATCH_COLUMNS] = {0};
	char		nulls[MATCH_COLUMNS];
	int			result;

	memset(nulls, ' ', sizeof(nulls));
	values[EVALUATION] = Int64GetDatum(writer->evaluation);
	values[FRAME_ID] = Int64GetDatum(frame_id);
	values[LABEL] = Int32GetDatum(writer->classes[category].label);
	values[KIND] = CStringGetTextDatum(kind);
	values[CATEGORY] = CStringGetTextDatum(writer->classes[category].category);
	nulls[SCORE] = nulls[BOX] = nulls[DETECTION_NO] = detection ? ' ' : 'n';
	nulls[IOU] = detection && truth ? ' ' : 'n';
	nulls[TRUTH_NO] = nulls[TRUTH_BOX] = truth ? ' ' : 'n';
	if (detection)
	{
		values[SCORE] = Float4GetDatum((float4) detection->detection.score);
		values[BOX] = corners(detection->detection.box);
		values[DETECTION_NO] = Int32GetDatum(detection->rank + 1);
		values[IOU] = Float4GetDatum((float4) detection->iou);
	}
	if (truth)
	{
		values[TRUTH_NO] = Int32GetDatum(truth->truth_no);
		values[TRUTH_BOX] = corners(truth->truth.box);
	}
	result = SPI_execute_plan(writer->insert, values, nulls, false, 0);
	if (result != SPI_OK_INSERT)
		elog(ERROR, "could not insert a match: %s",
			 SPI_result_code_string(result));
}

void
avc_result_frame(AvcResultWriter *writer, int64 frame_id,
				 const AvcImageTruth *truths, int truth_count,
				 const AvcImageDetection *detections, int detection_count)
{
	AvcRoleScope scope;
	int			i;

	SPI_connect();
	avc_catalog_enter(&scope);
	if (writer->insert == NULL)
		prepare_insert(writer);
	for (i = 0; i < detection_count; i++)
	{
		const AvcImageDetection *detection = &detections[i];
		const AvcImageTruth *truth = NULL;

		if (!detection->is_counted)
			continue;
		if (detection->truth >= 0)
			truth = &truths[detection->truth];
		insert_match(writer, frame_id, truth == NULL ? "false_positive" :
					 truth->truth.crowd ? "ignored" : "true_positive",
					 detection, truth);
	}
	for (i = 0; i < truth_count; i++)
		if (!truths[i].is_matched)
			insert_match(writer, frame_id,
						 truths[i].truth.crowd ? "ignored" : "missed", NULL,
						 &truths[i]);
	avc_catalog_leave(&scope);
	SPI_finish();
}

AvcParam
avc_figure_param(const AvcCocoClass *figures, int count,
				 enum AvcCocoMetric metric)
{
	double		value;

	if (!avc_coco_summary(figures, count, metric, &value))
		return AVC_NULL(FLOAT8OID);
	return AVC_FLOAT8(value);
}

static void
insert_classes(AvcResultWriter *writer, const AvcEvaluator *evaluator,
			   const AvcCocoClass *figures)
{
	int			i;

	for (i = 0; i < writer->class_count; i++)
	{
		int64		truths = avc_evaluator_truths(evaluator, i);
		int64		detections = avc_evaluator_detections(evaluator, i);
		AvcParam	params[8];

		if (truths + detections == 0)
			continue;
		params[0] = AVC_INT8(writer->evaluation);
		params[1] = AVC_INT4(writer->classes[i].label);
		params[2] = AVC_TEXT(writer->classes[i].category);
		params[3] = avc_figure_param(&figures[i], 1, AVC_METRIC_AP);
		params[4] = avc_figure_param(&figures[i], 1, AVC_METRIC_AP50);
		params[5] = avc_figure_param(&figures[i], 1, AVC_METRIC_RECALL50);
		params[6] = AVC_INT8(truths);
		params[7] = AVC_INT8(detections);
		avc_spi_exec("INSERT INTO _avcurate.evaluation_classes (evaluation, "
					 "label, category, ap, ap50, recall50, truths, "
					 "detections) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
					 8, params, false, 0);
	}
}

void
avc_result_finish(AvcResultWriter *writer, const AvcEvaluationRow *row,
				  const AvcEvaluator *evaluator, const AvcCocoClass *figures,
				  const AvcLancedbFigures *lancedb)
{
	static const enum AvcCocoMetric metrics[] = {
		AVC_METRIC_AP, AVC_METRIC_AP50, AVC_METRIC_AP75, AVC_METRIC_APS,
		AVC_METRIC_APM, AVC_METRIC_APL, AVC_METRIC_RECALL50, AVC_METRIC_AR100
	};
	AvcParam	params[20];
	AvcRoleScope scope;
	bool		has_lancedb = lancedb != NULL && lancedb->has_truths;
	int			i;

	params[0] = AVC_INT8(row->evaluation);
	params[1] = AVC_INT8(row->checkpoint);
	params[2] = AVC_INT8(row->slice_id);
	params[3] = AVC_INT8(row->version);
	params[4] = AVC_INT8(row->frames);
	params[5] = AVC_TEXT(row->lancedb ? "lancedb" : "coco");
	params[6] = AVC_FLOAT8(row->min_score);
	params[7] = AVC_TEXT(row->label_map);
	params[8] = AVC_OID(row->role);
	for (i = 0; i < lengthof(metrics); i++)
		params[9 + i] = avc_figure_param(figures, writer->class_count,
										 metrics[i]);
	params[17] = params[18] = params[19] = AVC_NULL(FLOAT8OID);
	if (has_lancedb)
	{
		params[17] = AVC_FLOAT8(lancedb->precision);
		params[18] = AVC_FLOAT8(lancedb->map_50);
		params[19] = AVC_FLOAT8(lancedb->recall);
	}
	SPI_connect();
	avc_catalog_enter(&scope);
	avc_spi_exec("INSERT INTO _avcurate.evaluations (evaluation, checkpoint, "
				 "slice_id, version, frames, mode, min_score, label_map, "
				 "finished_at, role, ap, ap50, ap75, ap_small, ap_medium, ap_large, "
				 "recall50, recall, \"precision\", map_50, recall_micro) "
				 "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, pg_catalog.clock_timestamp(), "
				 "$9::pg_catalog.regrole, $10, $11, $12, $13, $14, $15, $16, "
				 "$17, $18, $19, $20)", 20, params, false, 0);
	insert_classes(writer, evaluator, figures);
	avc_catalog_leave(&scope);
	SPI_finish();
}

void
avc_evaluation_find(AvcEvaluationInfo *info, int64 evaluation)
{
	MemoryContext caller = CurrentMemoryContext;
	AvcParam	param = AVC_INT8(evaluation);
	AvcRoleScope scope;
	Oid			role = InvalidOid;
	bool		is_null;

	SPI_connect();
	avc_catalog_enter(&scope);
	if (avc_spi_exec("SELECT e.checkpoint, e.slice_id, e.version, e.frames, "
					 "e.role::pg_catalog.oid AS role, c.model "
					 "FROM _avcurate.evaluations AS e "
					 "JOIN _avcurate.checkpoints AS c USING (checkpoint) "
					 "WHERE e.evaluation = $1", 1, &param, true, 1) > 0)
	{
		role = DatumGetObjectId(avc_spi_column(0, "role", &is_null));
		info->evaluation = evaluation;
		info->checkpoint =
			DatumGetInt64(avc_spi_column(0, "checkpoint", &is_null));
		info->slice_id = DatumGetInt64(avc_spi_column(0, "slice_id",
													  &is_null));
		info->version = DatumGetInt64(avc_spi_column(0, "version", &is_null));
		info->frames = DatumGetInt64(avc_spi_column(0, "frames", &is_null));
		info->model = MemoryContextStrdup(caller,
										  TextDatumGetCString(avc_spi_column(0, "model",
																			 &is_null)));
	}
	avc_catalog_leave(&scope);
	SPI_finish();
	if (!OidIsValid(role) ||
		(!has_privs_of_role(GetUserId(), role) &&
		 !pg_database_ownercheck(MyDatabaseId, GetUserId())))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("evaluation %lld does not exist",
						(long long) evaluation),
				 errhint("avcurate.evaluations lists the finished evaluations of your roles.")));
}
