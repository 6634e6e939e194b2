/*
 * experiments/suggest.c
 *		suggest_slices(): where does a detector miss more than elsewhere?
 *
 * Every conjunction of up to three conditions on different attributes, of
 * which one at most is about a category, is a candidate if enough frames
 * satisfy it and enough do not.  Without a condition on a category all truths
 * count; with one, twice: all truths, and those of the category alone, which
 * are compared with the same category elsewhere.  Which candidates there are
 * depends on the frames and not on what was missed in them, so Bonferroni's
 * correction by their number holds.
 *
 * Significant candidates are taken in the order of their p-values.  One that
 * says the same as another is dropped:
 *	- a longer conjunction must be worse within each conjunction that it makes
 *	  narrower;
 *	- and against each one taken before, it must either be worse outside of
 *	  it, or be the worse part of it.
 * These tests are the same one, corrected by the number of significant
 * candidates.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "utils/builtins.h"

#include "experiments/suggest.h"

PG_FUNCTION_INFO_V1(avc_suggest_slices);

#define MAX_LENGTH 3			/* conditions of a conjunction */
#define MAX_K 1000
#define LEVEL 0.05

/* A conjunction, and whose truths count. */
typedef struct Candidate
{
	int			conditions[MAX_LENGTH]; /* places in the survey */
	int			length;
	int			scope;			/* place in the counts: 0 = all truths */
	AvcGroupTest test;
} Candidate;

typedef struct Search
{
	const AvcSurvey *survey;
	int64		min_frames;
	int64		tried;
	Candidate  *found;			/* significant when they were tried */
	int64		found_count;
	int64		found_space;
	AvcUniverse universe;		/* of the scope */
	int			scope;
	uint64	   *sets[MAX_LENGTH];	/* frames of the conjunction's beginning */
} Search;

/* ---- sets ----------------------------------------------------------- */

static int64
intersect(uint64 *to, const uint64 *a, const uint64 *b, int words)
{
	int64		count = 0;
	int			w;

	for (w = 0; w < words; w++)
	{
		to[w] = a[w] & b[w];
		count += pg_popcount64(to[w]);
	}
	return count;
}

static int64
subtract(uint64 *to, const uint64 *a, const uint64 *b, int words)
{
	int64		count = 0;
	int			w;

	for (w = 0; w < words; w++)
	{
		to[w] = a[w] & ~b[w];
		count += pg_popcount64(to[w]);
	}
	return count;
}

static uint64 *
new_set(const AvcSurvey *survey)
{
	return palloc_array(uint64, survey->words + 1);
}

/* Frames of a conjunction without one of its conditions (-1 = with all). */
static int64
frames_of(const AvcSurvey *survey, const Candidate *candidate, int without,
		  uint64 *frames)
{
	int64		count = 0;
	int			w;
	int			i;

	memcpy(frames, survey->counts[candidate->scope].frames,
		   sizeof(uint64) * survey->words);
	for (i = 0; i < candidate->length; i++)
		if (i != without)
			intersect(frames, frames,
					  survey->conditions[candidate->conditions[i]].frames,
					  survey->words);
	for (w = 0; w < survey->words; w++)
		count += pg_popcount64(frames[w]);
	return count;
}

/* ---- search --------------------------------------------------------- */

static void
keep(Search *search, const Candidate *candidate)
{
	if (search->found_count == search->found_space)
	{
		search->found_space = 2 * search->found_space + 256;
		search->found = search->found == NULL ?
			palloc_array(Candidate, search->found_space) :
			repalloc_huge(search->found,
						  sizeof(Candidate) * search->found_space);
	}
	search->found[search->found_count++] = *candidate;
}

static void
try_candidate(Search *search, Candidate *candidate, const uint64 *frames)
{
	search->tried++;
	avc_universe_test(&search->universe, frames, &candidate->test);
	if (candidate->test.log_p + log((double) search->tried) < log(LEVEL))
		keep(search, candidate);
}

/*
 * May the condition lengthen the conjunction?  In the scope of a category
 * the condition on it comes first.
 */
static bool
can_add(const Search *search, const Candidate *candidate, int next)
{
	const AvcCondition *conditions = search->survey->conditions;
	int			category = conditions[next].category;
	int			i;

	if (search->scope > 0 &&
		(category >= 0 ? category != search->scope - 1 : candidate->length == 0))
		return false;
	for (i = 0; i < candidate->length; i++)
		if (conditions[candidate->conditions[i]].attribute ==
			conditions[next].attribute)
			return false;
	return true;
}

/* Lengthen a conjunction whose frames are given by conditions from "from". */
static void
lengthen(Search *search, Candidate *candidate, const uint64 *frames, int from)
{
	const AvcSurvey *survey = search->survey;
	int			next;

	for (next = from; next < survey->condition_count; next++)
	{
		uint64	   *set = search->sets[candidate->length];
		int64		count;

		CHECK_FOR_INTERRUPTS();
		if (!can_add(search, candidate, next))
			continue;
		count = intersect(set, frames, survey->conditions[next].frames,
						  survey->words);
		if (count < search->min_frames)
			continue;
		candidate->conditions[candidate->length++] = next;
		if (search->universe.frame_count - count >= search->min_frames)
			try_candidate(search, candidate, set);
		if (candidate->length < MAX_LENGTH)
			lengthen(search, candidate, set,
					 search->scope > 0 && candidate->length == 1 ? 0 :
					 next + 1);
		candidate->length--;
	}
}

static void
search_scope(Search *search, int scope)
{
	const AvcTruthCounts *counts = &search->survey->counts[scope];
	Candidate	candidate = {.scope = scope};

	avc_universe_open(&search->universe, counts, counts->frames,
					  search->survey->words);
	search->scope = scope;
	if (search->universe.frame_count >= 2 * search->min_frames)
		lengthen(search, &candidate, counts->frames, 0);
}

/* ---- what says the same --------------------------------------------- */

static bool
is_worse(const AvcUniverse *universe, const uint64 *frames, double level)
{
	AvcGroupTest test;

	avc_universe_test(universe, frames, &test);
	return test.log_p < level;
}

/* In the scope of its category a condition that it is there says nothing. */
static bool
says_something(const AvcSurvey *survey, const Candidate *candidate, int i)
{
	return candidate->scope == 0 ||
		!survey->conditions[candidate->conditions[i]].is_presence;
}

/* Is it worse within every conjunction that it makes narrower? */
static bool
beats_parents(const AvcSurvey *survey, const Candidate *candidate,
			  double level, uint64 *frames, uint64 *parent)
{
	AvcUniverse universe;
	int			i;

	(void) frames_of(survey, candidate, -1, frames);
	for (i = 0; candidate->length > 1 && i < candidate->length; i++)
	{
		if (!says_something(survey, candidate, i))
			continue;
		(void) frames_of(survey, candidate, i, parent);
		avc_universe_open(&universe, &survey->counts[candidate->scope],
						  parent, survey->words);
		if (!is_worse(&universe, frames, level))
			return false;
	}
	return true;
}

/*
 * Does it tell more than one that was taken: worse outside of its frames, or
 * the worse part of them?  "frames" is the candidate's.
 */
static bool
adds_to(const AvcSurvey *survey, const Candidate *candidate,
		const Candidate *taken, double level, const uint64 *frames,
		uint64 *others, uint64 *rest)
{
	const AvcTruthCounts *counts = &survey->counts[candidate->scope];
	AvcUniverse universe;

	(void) frames_of(survey, taken, -1, others);
	(void) subtract(rest, counts->frames, others, survey->words);
	avc_universe_open(&universe, counts, rest, survey->words);
	if (is_worse(&universe, frames, level))
		return true;
	(void) intersect(rest, counts->frames, others, survey->words);
	avc_universe_open(&universe, counts, rest, survey->words);
	return is_worse(&universe, frames, level);
}

static int
compare_candidates(const void *a, const void *b)
{
	const Candidate *x = a;
	const Candidate *y = b;
	int			i;

	if (x->test.log_p != y->test.log_p)
		return x->test.log_p < y->test.log_p ? -1 : 1;
	if (x->length != y->length)
		return x->length - y->length;
	if (x->scope != y->scope)
		return x->scope - y->scope;
	for (i = 0; i < x->length; i++)
		if (x->conditions[i] != y->conditions[i])
			return x->conditions[i] - y->conditions[i];
	return 0;
}

/* Those that stay, at most k, to the front; returns their number. */
static int
choose(Search *search, int k)
{
	const AvcSurvey *survey = search->survey;
	double		level = log(LEVEL) - log((double) search->tried);
	uint64	   *frames = new_set(survey);
	uint64	   *others = new_set(survey);
	uint64	   *rest = new_set(survey);
	int64		count = 0;
	int			taken = 0;
	int64		i;
	int			j;

	qsort(search->found, search->found_count, sizeof(Candidate),
		  compare_candidates);
	while (count < search->found_count &&
		   search->found[count].test.log_p < level)
		count++;
	level = log(LEVEL) - log((double) Max(count, 1));
	for (i = 0; i < count && taken < k; i++)
	{
		Candidate	candidate = search->found[i];

		CHECK_FOR_INTERRUPTS();
		if (!beats_parents(survey, &candidate, level, frames, others))
			continue;
		for (j = 0; j < taken; j++)
			if (!adds_to(survey, &candidate, &search->found[j], level,
						 frames, others, rest))
				break;
		if (j == taken)
			search->found[taken++] = candidate;
	}
	return taken;
}

/* ---- result --------------------------------------------------------- */

/* The conditions as create_slice takes them. */
static char *
filter_of(const AvcSurvey *survey, const Candidate *candidate)
{
	StringInfoData sql;
	int			i;

	initStringInfo(&sql);
	/* those of a category come last */
	for (i = 0; i < 2 * candidate->length; i++)
	{
		const AvcCondition *condition =
		&survey->conditions[candidate->conditions[i % candidate->length]];

		if ((condition->category >= 0) == (i >= candidate->length))
			appendStringInfo(&sql, "%s%s", sql.len > 0 ? " AND " : "",
							 condition->sql);
	}
	return sql.data;
}

static Datum
recall(int64 truths, int64 missed)
{
	return Float8GetDatum((double) (truths - missed) / truths);
}

static void
put_row(ReturnSetInfo *result, const Search *search,
		const Candidate *candidate)
{
	const AvcGroupTest *test = &candidate->test;
	Datum		values[7];
	bool		nulls[7] = {false};
	char	   *category = search->survey->counts[candidate->scope].category;

	values[0] = CStringGetTextDatum(filter_of(search->survey, candidate));
	values[1] = Int64GetDatum(test->frames);
	values[2] = Int64GetDatum(test->truths);
	values[3] = recall(test->truths, test->missed);
	values[4] = recall(test->truths_elsewhere, test->missed_elsewhere);
	values[5] = Float8GetDatum(exp(test->log_p +
								   log((double) search->tried)));
	nulls[6] = category == NULL;
	values[6] = nulls[6] ? (Datum) 0 : CStringGetTextDatum(category);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

static void
check_arguments(double match_score, int32 min_frames, int32 k)
{
	if (!(match_score >= 0 && match_score <= 1))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"match_score\" is %g, but must be between 0 and 1",
						match_score)));
	if (min_frames < 2)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"min_frames\" is %d, but must be at least 2",
						min_frames)));
	if (k < 1 || k > MAX_K)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"k\" is %d, but must be between 1 and %d",
						k, MAX_K)));
}

/*
 * suggest_slices(evaluation, match_score, min_frames, k): a row a slice.
 */
Datum
avc_suggest_slices(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Search		search = {0};
	AvcEvaluationInfo info;
	AvcSurvey  *survey;
	int			count;
	int			i;

	check_arguments(PG_GETARG_FLOAT4(1), PG_GETARG_INT32(2),
					PG_GETARG_INT32(3));
	InitMaterializedSRF(fcinfo, 0);
	avc_evaluation_find(&info, PG_GETARG_INT64(0));
	survey = avc_survey_open(&info, PG_GETARG_FLOAT4(1));
	search.survey = survey;
	search.min_frames = PG_GETARG_INT32(2);
	if (survey->frame_count < 2 * search.min_frames)
		return (Datum) 0;
	avc_survey_add_conditions(survey, avc_survey_dataset(&info),
							  search.min_frames);
	for (i = 0; i < MAX_LENGTH; i++)
		search.sets[i] = new_set(survey);
	for (i = 0; i <= survey->category_count; i++)
		search_scope(&search, i);
	count = choose(&search, PG_GETARG_INT32(3));
	ereport(DEBUG1,
			(errmsg_internal("tried %lld conjunctions of %d conditions",
							 (long long) search.tried,
							 survey->condition_count)));
	for (i = 0; i < count; i++)
		put_row(result, &search, &search.found[i]);
	return (Datum) 0;
}
