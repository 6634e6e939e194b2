/*
 * evaluation/result.h
 *		An evaluation's rows in the catalog: matches, figures, classes.
 */
#ifndef AVC_EVALUATION_RESULT_H
#define AVC_EVALUATION_RESULT_H

#include "common/spi.h"
#include "evaluation/evaluator.h"
#include "evaluation/lancedb_eval.h"

/* A class of the label map; its place is the evaluator's category. */
typedef struct AvcEvaluatedClass
{
	int32		label;
	const char *category;
} AvcEvaluatedClass;

/* The row of _avcurate.evaluations, apart from figures. */
typedef struct AvcEvaluationRow
{
	int64		evaluation;
	int64		checkpoint;
	int64		slice_id;
	int64		version;
	int64		frames;
	bool		lancedb;
	double		min_score;
	const char *label_map;
	Oid			role;
} AvcEvaluationRow;

/* A finished evaluation, as it is looked up. */
typedef struct AvcEvaluationInfo
{
	int64		evaluation;
	int64		checkpoint;
	int64		slice_id;
	int64		version;
	int64		frames;
	char	   *model;
} AvcEvaluationInfo;

typedef struct AvcResultWriter AvcResultWriter;

/* ---- result.c ---- */

/* A figure over the classes as a float8, NULL where none has a value. */
extern AvcParam avc_figure_param(const AvcCocoClass *figures, int count,
								 enum AvcCocoMetric metric);

/* All within the caller's transaction; the writer lives in the context. */
extern AvcResultWriter *avc_result_open(MemoryContext context,
										int64 evaluation,
										const AvcEvaluatedClass *classes,
										int class_count);

/*
 * Remove what an earlier attempt of the job left, and what failed and
 * cancelled jobs did: nobody else would.
 */
extern void avc_result_clear(AvcResultWriter *writer);

/* Write the matches of one frame, its arrays as avc_evaluator_add left them. */
extern void avc_result_frame(AvcResultWriter *writer, int64 frame_id,
							 const AvcImageTruth *truths, int truth_count,
							 const AvcImageDetection *detections,
							 int detection_count);

/* Write the figures: the evaluation is there for others to see. */
extern void avc_result_finish(AvcResultWriter *writer,
							  const AvcEvaluationRow *row,
							  const AvcEvaluator *evaluator,
							  const AvcCocoClass *figures,
							  const AvcLancedbFigures *lancedb);

/*
 * Look a finished evaluation up; an error if there is none that the current
 * user may see.
 */
extern void avc_evaluation_find(AvcEvaluationInfo *info, int64 evaluation);

#endif							/* AVC_EVALUATION_RESULT_H */
