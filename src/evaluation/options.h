/*
 * evaluation/options.h
 *		What evaluate() may be told.
 */
#ifndef AVC_EVALUATION_OPTIONS_H
#define AVC_EVALUATION_OPTIONS_H

#include "utils/jsonb.h"

typedef struct AvcEvaluateOptions
{
	int64		version;		/* 0 = current */
	bool		lancedb;		/* mode */
	double		min_score;
	int64		max_frames;		/* 0 = all */
	const char *device;			/* NULL = the setting */
	int			threads;		/* -1 = the setting */
	const char *amp;			/* "f32", "bf16", "fp16" or NULL = auto */
} AvcEvaluateOptions;

/* ---- options.c ---- */

/* Read and check; an unknown option is an error that lists the known ones. */
extern void avc_evaluate_options_read(AvcEvaluateOptions *options,
									  Jsonb *json);

/* All options with their values, for the job's row. */
extern Jsonb *avc_evaluate_options_json(const AvcEvaluateOptions *options);

#endif							/* AVC_EVALUATION_OPTIONS_H */
