/*
 * experiments/summary.c
 *		What an experiment shows, for each train slice and val slice.
 *
 * The figure is ap50, the mean over classes of average precision at IoU 0.5,
 * and over seeds its mean.  Intervals are those of the paired bootstrap over
 * frames (evaluation/bootstrap.h): one draw of frames serves the base, every
 * seed and every control, so what is common to them cancels out.  They tell
 * what other frames would change; how much other seeds would is seen from
 * experiment_results.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "evaluation/bootstrap.h"
#include "experiments/experiment.h"

#define RESAMPLES 1000
#define BOOTSTRAP_SEED 0

/* Row of the figures and of their differences. */
typedef struct Summary
{
	double		base;
	double		control;		/* NaN without control */
	double		tuned;
	bool		has_gain;		/* does the interval exist? */
	double		gain_low;
	double		gain_high;
	bool		has_over;
	double		over_low;
	double		over_high;
} Summary;

/* Evaluations of a pair: the base, then each seed, then each control. */
static AvcEvaluationInfo *
find_evaluations(const AvcExperiment *experiment, int train, int val,
				 int *count)
{
	AvcParam	params[] = {AVC_INT8(experiment->id), AVC_INT4(train),
	AVC_INT4(val)};
	AvcEvaluationInfo *infos;
	int64	   *jobs;
	AvcRoleScope scope;
	MemoryContext context = CurrentMemoryContext;
	uint64		i;

	avc_catalog_enter(&scope);
	SPI_connect();
	*count = (int) avc_spi_exec("SELECT job "
								"FROM _avcurate.experiment_evaluations "
								"WHERE experiment_id = $1 AND val = $3 "
								"AND train IN (0, $2) "
								"ORDER BY train > 0, control, seed",
								lengthof(params), params, false, 0);
	jobs = MemoryContextAlloc(context, sizeof(int64) * (*count + 1));
	for (i = 0; i < (uint64) *count; i++)
	{
		bool		is_null;

		jobs[i] = DatumGetInt64(avc_spi_column(i, "job", &is_null));
	}
	SPI_finish();
	avc_catalog_leave(&scope);
	if (*count != 1 + experiment->seed_count *
		(experiment->has_control ? 2 : 1))
		elog(ERROR, "experiment %lld has %d evaluations of train %d, val %d",
			 (long long) experiment->id, *count, train, val);
	infos = palloc_array(AvcEvaluationInfo, *count);
	for (i = 0; i < (uint64) *count; i++)
		avc_evaluation_find(&infos[i], jobs[i]);
	return infos;
}

static double
mean_ap50(const AvcFigureRow *figures, int from, int count)
{
	double		sum = 0;
	int			i;

	for (i = from; i < from + count; i++)
		sum += figures[i][AVC_FIGURE_AP50];
	return sum / count;			/* NaN for none */
}

/* Means over seeds: base, tuned, control. */
static void
read_means(const AvcExperiment *experiment, const AvcFigureRow *figures,
		   double means[3])
{
	int			seeds = experiment->seed_count;

	means[0] = figures[0][AVC_FIGURE_AP50];
	means[1] = mean_ap50(figures, 1, seeds);
	means[2] = experiment->has_control ?
		mean_ap50(figures, 1 + seeds, seeds) : NAN;
}

static void
summarise(const AvcExperiment *experiment, int train, int val,
		  Summary *summary)
{
	double	   *gains = palloc_array(double, RESAMPLES);
	double	   *overs = palloc_array(double, RESAMPLES);
	AvcBootstrap *bootstrap;
	AvcFigureRow *figures;
	double		means[3];
	int			count;
	AvcEvaluationInfo *infos;
	int			i;

	infos = find_evaluations(experiment, train, val, &count);
	bootstrap = avc_bootstrap_open(infos, count, true);
	figures = palloc_array(AvcFigureRow,
						   avc_bootstrap_rows(bootstrap) * count);
	avc_bootstrap_whole(bootstrap, figures);
	read_means(experiment, figures, means);
	summary->base = means[0];
	summary->tuned = means[1];
	summary->control = means[2];
	for (i = 0; i < RESAMPLES; i++)
	{
		CHECK_FOR_INTERRUPTS();
		avc_bootstrap_draw(bootstrap, BOOTSTRAP_SEED, (uint64) i, figures);
		read_means(experiment, figures, means);
		gains[i] = means[1] - means[0];
		overs[i] = means[1] - means[2];
	}
	summary->has_gain = avc_bootstrap_interval(gains, RESAMPLES,
											   &summary->gain_low,
											   &summary->gain_high);
	summary->has_over = avc_bootstrap_interval(overs, RESAMPLES,
											   &summary->over_low,
											   &summary->over_high);
}

/* What the intervals exclude. */
static const char *
verdict(const Summary *summary)
{
	if (!summary->has_gain)
		return "no truths to compare on";
	if (summary->gain_high < 0)
		return "worse than base";
	if (!(summary->gain_low > 0))
		return "no difference shown";
	if (summary->has_over && summary->over_low > 0)
		return "better than base and control";
	return "better than base";
}

static AvcParam
figure(double value, bool is_there)
{
	return is_there && !isnan(value) ? AVC_FLOAT8(value) :
		AVC_NULL(FLOAT8OID);
}

static void
store(const AvcExperiment *experiment, int train, int val,
	  const Summary *summary)
{
	AvcParam	params[] = {
		AVC_INT8(experiment->id), AVC_INT4(train), AVC_INT4(val),
		figure(summary->base, true),
		figure(summary->control, true),
		figure(summary->tuned, true),
		figure(summary->tuned - summary->base, true),
		figure(summary->gain_low, summary->has_gain),
		figure(summary->gain_high, summary->has_gain),
		figure(summary->tuned - summary->control, true),
		figure(summary->over_low, summary->has_over),
		figure(summary->over_high, summary->has_over),
		AVC_TEXT(verdict(summary))
	};
	AvcRoleScope scope;

	avc_catalog_enter(&scope);
	SPI_connect();
	avc_spi_exec("INSERT INTO _avcurate.experiment_summaries (experiment_id, "
				 "train, val, base, control, tuned, gain, gain_low, "
				 "gain_high, over_control, over_control_low, "
				 "over_control_high, verdict) VALUES ($1, $2, $3, $4, $5, "
				 "$6, $7, $8, $9, $10, $11, $12, $13)", lengthof(params),
				 params, false, 0);
	SPI_finish();
	avc_catalog_leave(&scope);
}

int
avc_experiment_summarise(const AvcExperiment *experiment)
{
	int			worse = 0;
	int			train;
	int			val;

	for (train = 1; train <= experiment->train_count; train++)
		for (val = 1; val <= experiment->val_count; val++)
		{
			MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
														  "experiment summary",
														  ALLOCSET_DEFAULT_SIZES);
			MemoryContext old = MemoryContextSwitchTo(context);
			Summary		summary;

			summarise(experiment, train, val, &summary);
			store(experiment, train, val, &summary);
			worse += summary.has_gain && summary.gain_high < 0;
			MemoryContextSwitchTo(old);
			MemoryContextDelete(context);
		}
	return worse;
}
