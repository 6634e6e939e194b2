/*
 * evaluation/bootstrap.h
 *		Figures of several evaluations of the same frames, on draws of them.
 *
 * Paired bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap,
 * 1993, chapters 8 and 13): a draw takes as many frames as there are, with
 * replacement, the same ones for every evaluation, and each evaluation's
 * figures are computed on it.  What differs between evaluations on many
 * draws gives the interval of the difference.
 */
#ifndef AVC_EVALUATION_BOOTSTRAP_H
#define AVC_EVALUATION_BOOTSTRAP_H

#include "evaluation/result.h"

#define AVC_MAX_RESAMPLES 1000000

enum AvcFigure
{
	AVC_FIGURE_AP, AVC_FIGURE_AP50, AVC_FIGURE_RECALL50, AVC_FIGURES
};

/* One row and evaluation; NaN where there are no truths. */
typedef double AvcFigureRow[AVC_FIGURES];

typedef struct AvcBootstrap AvcBootstrap;

/*
 * Read "count" evaluations; an error unless they are of the same frames and
 * truths.  With ap50_only AVC_FIGURE_AP is not computed, which takes a tenth
 * of the time.  Everything lives in the current context.
 */
extern AvcBootstrap *avc_bootstrap_open(const AvcEvaluationInfo *infos,
										int count, bool ap50_only);

/* Row 0 is the mean over classes that have truths, the others are classes. */
extern int	avc_bootstrap_rows(const AvcBootstrap *bootstrap);

/* The class of a row, NULL for row 0. */
extern const char *avc_bootstrap_category(const AvcBootstrap *bootstrap,
										  int row);

/* figures[row * count + evaluation] of all frames. */
extern void avc_bootstrap_whole(AvcBootstrap *bootstrap,
								AvcFigureRow *figures);

/* The same of a draw: a function of seed and draw, the same everywhere. */
extern void avc_bootstrap_draw(AvcBootstrap *bootstrap, uint64 seed,
							   uint64 draw, AvcFigureRow *figures);

/*
 * The middle 95 percent of differences, which are sorted in place; NaN is
 * left out.  False if none is left.
 */
extern bool avc_bootstrap_interval(double *differences, int64 count,
								   double *low, double *high);

#endif							/* AVC_EVALUATION_BOOTSTRAP_H */
