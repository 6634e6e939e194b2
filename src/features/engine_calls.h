/*
 * features/engine_calls.h
 *		Calls in a feature's expression that ask the shared engine.
 */
#ifndef AVC_FEATURES_ENGINE_CALLS_H
#define AVC_FEATURES_ENGINE_CALLS_H

#include "nodes/primnodes.h"

#include "features/feature.h"

/*
 * The expression with the checkpoint of every call of detect(),
 * clip_embedding() and the like written out, so that a column never mixes two
 * networks.  Error if one is no constant, or the current user cannot use it.
 * *is_pinned is set if NULL stood for one.
 */
extern Node *avc_engine_calls_pin(const AvcDataset *dataset, Node *expression,
								  bool *is_pinned);

/*
 * What a backfill may evaluate for a row before it computes the feature in
 * it, so that the engine has more than one image or text to work on: calls of
 * detect_ahead() and the like over "frame", char *, none if the expression
 * does not ask the engine about every row.  SPI must be connected, and role
 * and path be those of the backfill.
 */
extern List *avc_engine_calls_ahead(const AvcDataset *dataset,
									const AvcFeature *feature);

#endif
