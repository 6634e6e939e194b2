/*
 * experiments/suggest.h
 *		What suggest_slices knows of an evaluation's frames, and its test.
 *
 * Sets of frames are bitsets over the survey's frames, words uint64.
 */
#ifndef AVC_EXPERIMENTS_SUGGEST_H
#define AVC_EXPERIMENTS_SUGGEST_H

#include "evaluation/result.h"

/* A condition on a frame's row. */
typedef struct AvcCondition
{
	char	   *sql;			/* ready to be joined with AND */
	int			attribute;		/* conditions on one are not combined */
	int			category;		/* that it is about, -1 = none */
	bool		is_presence;	/* says that the category is there, no more */
	uint64	   *frames;			/* that satisfy it */
} AvcCondition;

/* Truths of one category, or of all, frame by frame. */
typedef struct AvcTruthCounts
{
	char	   *category;		/* NULL = all */
	int32	   *truths;
	int32	   *missed;
	uint64	   *frames;			/* that have a truth */
} AvcTruthCounts;

typedef struct AvcSurvey
{
	int64		frame_count;	/* with a truth that counts */
	int			words;			/* of a set */
	int64	   *frame_ids;		/* ascending */
	AvcTruthCounts *counts;		/* 0 = all categories, c + 1 = category c */
	int			category_count;
	AvcCondition *conditions;
	int			condition_count;
	int			condition_space;
} AvcSurvey;

/* ---- suggest_survey.c ---- */

/*
 * Count the truths of an evaluation frame by frame; those matched by a
 * detection below match_score are missed.  Frames that the dataset has no
 * more are left out.  In the current context.
 */
extern AvcSurvey *avc_survey_open(const AvcEvaluationInfo *info,
								  double match_score);

extern Oid	avc_survey_dataset(const AvcEvaluationInfo *info);

/* ---- suggest_conditions.c ---- */

/*
 * Add the conditions that at least min_frames frames satisfy, by what the
 * dataset's rows hold now.  Runs as the caller, who must be allowed to read
 * the dataset.
 */
extern void avc_survey_add_conditions(AvcSurvey *survey, Oid dataset,
									  int64 min_frames);

/* Place of a frame in the survey, -1 if it is not there. */
extern int64 avc_survey_place(const AvcSurvey *survey, int64 frame_id);

/* ---- suggest_test.c ---- */

typedef struct AvcGroupTest
{
	int64		frames;			/* of the group */
	int64		truths;
	int64		missed;
	int64		truths_elsewhere;
	int64		missed_elsewhere;
	double		log_p;			/* natural logarithm; 0 unless more is missed */
} AvcGroupTest;

/* Set up once for a universe of frames, then ask for groups in it. */
typedef struct AvcUniverse
{
	const AvcTruthCounts *counts;
	const uint64 *frames;
	int			words;
	int64		frame_count;
	int64		truths;
	int64		missed;
	double		variance;		/* of the residuals */
	double		third;			/* their third moment */
} AvcUniverse;

/* All of the frames, which stay the caller's, have a truth of these. */
extern void avc_universe_open(AvcUniverse *universe,
							  const AvcTruthCounts *counts,
							  const uint64 *frames, int words);

/* The group is what "frames" and the universe have in common. */
extern void avc_universe_test(const AvcUniverse *universe,
							  const uint64 *frames, AvcGroupTest *test);

#endif							/* AVC_EXPERIMENTS_SUGGEST_H */
