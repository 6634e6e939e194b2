/*
 * slices/evaluate.h
 *		May a slice be refreshed by difference, and its definition applied to
 *		one row of the dataset without SQL.
 */
#ifndef AVC_SLICES_EVALUATE_H
#define AVC_SLICES_EVALUATE_H

#include "access/attnum.h"
#include "access/htup.h"
#include "executor/tuptable.h"
#include "nodes/parsenodes.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

typedef struct AvcDefinition
{
	Query	   *query;			/* the view's rule, a copy */
	const char *obstacle;		/* why only recomputing will do; NULL = not */
	AttrNumber	key;			/* frame_id in the view */
	AttrNumber	base_key;		/* frame_id in the dataset */
	uint64		fingerprint;	/* of the rule, of the functions it calls and
								 * of the triggers that note deleted rows; 0
								 * if there is an obstacle */
	uint64		triggers;		/* the latter alone */
	List	   *writers;		/* int: transaction ids that made the functions */
} AvcDefinition;

/* ---- analyse.c ---- */

/*
 * Look at the view's parse tree; nothing is planned or evaluated.  "dataset"
 * is the slice's; Invalid = dropped.  What was dropped is an obstacle, not an
 * error.  To build on the result, hold a lock on the dataset from before the
 * call to the end of the transaction; it does not hold the triggers, see
 * below.
 */
extern AvcDefinition *avc_definition_analyse(Oid relid, Oid dataset);

/*
 * Does the snapshot see the triggers and functions that the definition was
 * analysed with?  Else somebody changed them in between: frames that he
 * deleted meanwhile were not noted, and rows may have been computed with the
 * function before.  Functions of the own transaction count as unseen.
 */
extern bool avc_definition_held(const AvcDefinition *definition,
								Relation base, Snapshot snapshot);

/* ---- evaluate.c ---- */

typedef struct AvcEvaluator AvcEvaluator;

/*
 * Make ready to evaluate a definition without obstacle, which must outlive
 * the evaluator.  The caller has entered the role of the view's owner and
 * stays in it while rows are evaluated, under the snapshot that is active;
 * the rights to the columns that the definition reads are checked here.
 */
extern AvcEvaluator *avc_evaluator_begin(const AvcDefinition *definition,
										 Relation base, Relation view);

/*
 * The view's row that the definition makes of a dataset's row, in a virtual
 * slot with the view's descriptor, valid until the next call and as long as
 * base_row, which values may point into; NULL if the row does not pass.
 */
extern TupleTableSlot *avc_evaluator_row(AvcEvaluator *evaluator,
										 HeapTuple base_row);
extern void avc_evaluator_end(AvcEvaluator *evaluator);

#endif
