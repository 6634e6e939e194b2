/*
 * evaluation/lancedb_eval.h
 *		The figures of LanceDB's training example, for comparison with it.
 */
#ifndef AVC_EVALUATION_LANCEDB_EVAL_H
#define AVC_EVALUATION_LANCEDB_EVAL_H

#include "evaluation/evaluator.h"

typedef struct AvcLancedbEval AvcLancedbEval;

typedef struct AvcLancedbFigures
{
	bool		has_truths;		/* else there are no figures */
	double		map_50;
	double		precision;
	double		recall;
} AvcLancedbFigures;

/* ---- lancedb_eval.c ---- */

extern AvcLancedbEval *avc_lancedb_create(MemoryContext context,
										  int categories);

/*
 * Add an image, its arrays as avc_evaluator_add left them: by category, and
 * detections by falling score.  Crowds are no truths here.
 */
extern void avc_lancedb_add(AvcLancedbEval *eval,
							const AvcImageTruth *truths, int truth_count,
							const AvcImageDetection *detections,
							int detection_count);

extern AvcLancedbFigures avc_lancedb_finish(AvcLancedbEval *eval);

#endif							/* AVC_EVALUATION_LANCEDB_EVAL_H */
