/*
 * evaluation/compare.c
 *		compare_evaluations(): is the difference more than luck?
 *
 * Paired bootstrap over frames (bootstrap.h): each figure's difference is
 * computed on each draw, and the middle 95 percent of these differences are
 * its interval.
 */
#include "postgres.h"

#include <math.h>

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "evaluation/bootstrap.h"

PG_FUNCTION_INFO_V1(avc_compare_evaluations);

static const char *const figure_names[AVC_FIGURES] = {"ap", "ap50", "recall50"};

/* One row of the result. */
static void
put_row(ReturnSetInfo *result, const char *metric, double base, double tuned,
		double *differences, int64 count)
{
	Datum		values[6];
	bool		nulls[6] = {false};
	double		low;
	double		high;

	values[0] = CStringGetTextDatum(metric);
	values[1] = Float8GetDatum(base);
	values[2] = Float8GetDatum(tuned);
	values[3] = Float8GetDatum(tuned - base);
	if (avc_bootstrap_interval(differences, count, &low, &high))
	{
		values[4] = Float8GetDatum(low);
		values[5] = Float8GetDatum(high);
	}
	else
		nulls[4] = nulls[5] = true;
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* Differences of "resamples" draws: [row * AVC_FIGURES + figure][draw]. */
static double *
draw_differences(AvcBootstrap *bootstrap, int resamples, uint64 seed)
{
	int			rows = avc_bootstrap_rows(bootstrap);
	AvcFigureRow *drawn = palloc_array(AvcFigureRow, 2 * rows);
	double	   *differences = palloc_extended(sizeof(double) * rows *
											  AVC_FIGURES * (resamples + 1),
											  MCXT_ALLOC_HUGE);
	int64		i;
	int			row;
	int			f;

	for (i = 0; i < resamples; i++)
	{
		CHECK_FOR_INTERRUPTS();
		avc_bootstrap_draw(bootstrap, seed, (uint64) i, drawn);
		for (row = 0; row < rows; row++)
			for (f = 0; f < AVC_FIGURES; f++)
				differences[((int64) row * AVC_FIGURES + f) * resamples + i] =
					drawn[2 * row + 1][f] - drawn[2 * row][f];
	}
	return differences;
}

/* Figures of the whole and their intervals, one row a figure. */
static void
compare(ReturnSetInfo *result, AvcBootstrap *bootstrap, int resamples,
		uint64 seed)
{
	int			rows = avc_bootstrap_rows(bootstrap);
	AvcFigureRow *whole = palloc_array(AvcFigureRow, 2 * rows);
	double	   *differences = draw_differences(bootstrap, resamples, seed);
	int			row;
	int			f;

	avc_bootstrap_whole(bootstrap, whole);
	for (row = 0; row < rows; row++)
		for (f = 0; f < AVC_FIGURES; f++)
		{
			const char *category = avc_bootstrap_category(bootstrap, row);
			const char *name = figure_names[f];

			if (isnan(whole[2 * row][f]))
				continue;
			if (category != NULL)
				name = psprintf("%s %s", name, category);
			put_row(result, name, whole[2 * row][f], whole[2 * row + 1][f],
					differences + ((int64) row * AVC_FIGURES + f) * resamples,
					resamples);
		}
}

Datum
avc_compare_evaluations(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	int32		resamples = PG_GETARG_INT32(2);
	AvcEvaluationInfo infos[2];

	if (resamples < 0 || resamples > AVC_MAX_RESAMPLES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"resamples\" is %d, but must be between 0 and %d",
						resamples, AVC_MAX_RESAMPLES)));
	InitMaterializedSRF(fcinfo, 0);
	avc_evaluation_find(&infos[0], PG_GETARG_INT64(0));
	avc_evaluation_find(&infos[1], PG_GETARG_INT64(1));
	compare(result, avc_bootstrap_open(infos, 2, false), resamples,
			(uint64) PG_GETARG_INT64(3));
	return (Datum) 0;
}
