/*
 * search/cover_plan.c
 *		What a join costs, and so how it is made (see cover.h).
 */
#include "search/cover_join.h"

#include <math.h>
#include <string.h>

#define MIN_PIECES 3			/* a word: of 22 bits at most */
#define MAX_PIECES 8
#define MAX_FLIPS 4096			/* values looked up for one piece */

/* Nanoseconds, measured and rounded. */
#define COST_FILE 6.0			/* put a hash in its place */
#define COST_BUCKET 0.3			/* begin and end one */
#define COST_VISIT 6.0			/* the equal queries to a bucket */
#define COST_QUERY 0.7			/* each of them, for each block of keys */
#define COST_OFFER 10.0			/* fine hashes that lie elsewhere */
#define BLOCK 32				/* keys that are compared with at a time */
#define FEW 1e6					/* all pairs are compared sooner than planned */

typedef struct Sizes
{
	double		queries;
	double		keys;
	double		file;			/* nanoseconds to put one in its place */
	double		found;			/* and for the near ones, each time */
} Sizes;

uint32_t
avc_cover_draw(AvcCoverJoin *join, uint32_t below)
{
	join->random = join->random * UINT64_C(6364136223846793005) +
		UINT64_C(1442695040888963407);
	return (uint32_t) ((join->random >> 32) * below >> 32);
}

/* Differences of some pairs; returns the share whose hashes are near. */
static double
draw_sample(AvcCoverJoin *join)
{
	const AvcCover *cover = join->cover;
	int			words = cover->fine == NULL ? 1 : AVC_COVER_WORDS;
	uint32_t	near = 0;
	int			i;
	int			j;

	for (i = 0; i < AVC_COVER_SAMPLE; i++)
	{
		uint32_t	query = join->query_ids[avc_cover_draw(join, join->query_count)];
		uint32_t	key = join->ids[avc_cover_draw(join, join->key_count)];
		uint64_t   *difference = join->sample + AVC_COVER_WORDS * i;

		for (j = 0; j < words; j++)
			difference[j] = avc_cover_word(cover, j, query) ^
				avc_cover_word(cover, j, key);
		near += __builtin_popcountll(difference[0]) <= cover->max_distance;
	}
	return (double) near / AVC_COVER_SAMPLE;
}

/* Values that differ from one of so many bits in "tolerance" or less. */
static double
count_flips(int bits, int tolerance)
{
	double		chosen = 1;
	double		sum = 0;
	int			i;

	for (i = 0; i <= tolerance; i++)
	{
		sum += chosen;
		chosen = chosen * (bits - i) / (i + 1);
	}
	return sum;
}

/* ---- pieces ---------------------------------------------------------- */

/* Cut the words [first, end) into so many pieces each. */
static void
cut_words(AvcCoverPlan *plan, int first, int end, int each)
{
	int			word;
	int			i;

	plan->count = 0;
	for (word = first; word < end; word++)
		for (i = 0; i < each; i++)
		{
			int			shift = AVC_COVER_BITS * i / each;

			plan->pieces[plan->count++] = (AvcCoverPiece)
			{
				word, shift, AVC_COVER_BITS * (i + 1) / each - shift, -1
			};
		}
}

/* shares[i] = share of the sample that differs in i bits of the piece. */
static void
find_shares(const AvcCoverJoin *join, const AvcCoverPiece *piece, float *shares)
{
	int			i;

	memset(shares, 0, sizeof(float) * (AVC_COVER_PIECE_BITS + 1));
	for (i = 0; i < AVC_COVER_SAMPLE; i++)
		shares[__builtin_popcount(avc_cover_piece(piece, join->sample[AVC_COVER_WORDS * i + piece->word]))] +=
			1.0f / AVC_COVER_SAMPLE;
}

/* What it adds to look up values that differ in one bit more. */
static double
next_cost(const AvcCoverPiece *piece, const float *shares, const Sizes *sizes,
		  double compare)
{
	double		buckets = (double) (1u << piece->bits);
	int			next = piece->tolerance + 1;
	double		flips = count_flips(piece->bits, next);
	double		more = flips - count_flips(piece->bits, next - 1);
	double		even = more / buckets;
	double		filled = -expm1(-sizes->keys / buckets);
	double		runs = -expm1(-sizes->queries / buckets) * buckets;
	double		share;

	if (next > piece->bits || flips > MAX_FLIPS)
		return INFINITY;
	/* what a sample sees none of is not free */
	share = shares[next] > even ? shares[next] : even;
	return more * filled * (runs * COST_VISIT + sizes->queries * COST_QUERY *
							(1 + sizes->keys / buckets / BLOCK)) +
		more * runs * COST_BUCKET +
		sizes->queries * sizes->keys * share * compare;
}

/*
 * Give the pieces their tolerances, one by one where it costs least, until
 * no near pair can slip through.
 */
static void
plan_pieces(AvcCoverPlan *plan, const AvcCoverJoin *join, int max_distance,
			const Sizes *sizes, double compare)
{
	float		shares[AVC_COVER_PIECES][AVC_COVER_PIECE_BITS + 1];
	double		costs[AVC_COVER_PIECES];
	int			budget;
	int			i;

	for (i = 0; i < plan->count; i++)
	{
		find_shares(join, &plan->pieces[i], shares[i]);
		costs[i] = next_cost(&plan->pieces[i], shares[i], sizes, compare);
		/* filing, which is done once for a piece that is used */
		costs[i] += sizes->found + sizes->file * (sizes->queries + sizes->keys) +
			2 * COST_BUCKET * (1u << plan->pieces[i].bits);
	}
	for (budget = max_distance + 1; budget > 0 && isfinite(plan->cost); budget--)
	{
		int			best = 0;

		for (i = 1; i < plan->count; i++)
			if (costs[i] < costs[best])
				best = i;
		plan->cost += costs[best];
		plan->pieces[best].tolerance++;
		costs[best] = next_cost(&plan->pieces[best], shares[best], sizes,
								compare);
	}
}

/* Take the better of the plan and those by pieces of these words. */
static void
try_words(AvcCoverPlan *best, AvcCoverJoin *join, int first, int end,
		  const Sizes *sizes, double compare, bool is_fine, double fixed)
{
	int			each;

	for (each = MIN_PIECES; each <= MAX_PIECES; each++)
	{
		AvcCoverPlan plan = {.is_fine = is_fine, .cost = fixed};

		join->cover->breathe();
		cut_words(&plan, first, end, each);
		plan_pieces(&plan, join, first == 0 ? join->cover->max_distance :
					join->cover->fine_distance, sizes, compare);
		if (plan.cost < best->cost)
			*best = plan;
	}
}

AvcCoverPlan
avc_cover_plan(AvcCoverJoin *join, const AvcCoverCosts *costs)
{
	const AvcCover *cover = join->cover;
	bool		can_fine = cover->fine != NULL && cover->unknown == NULL;
	Sizes		sizes = {join->query_count, join->key_count, COST_FILE};
	double		pairs = sizes.queries * sizes.keys;
	double		passing;
	double		elsewhere = 0;
	double		beside;
	AvcCoverPlan best = {.count = 0, .is_fine = can_fine};

	best.cost = pairs * costs->compare;
	if (best.cost < FEW)
		return best;
	passing = draw_sample(join);
	if (cover->fine != NULL)
		elsewhere = pairs * passing * COST_OFFER;
	beside = costs->compare + passing * costs->compare_fine;
	best.cost = can_fine ? pairs * beside : best.cost + elsewhere;
	try_words(&best, join, 0, 1, &sizes, costs->compare, false, elsewhere);
	if (can_fine)
	{
		sizes.file *= AVC_COVER_WORDS;
		/* near hashes meet in nearly every piece of theirs */
		sizes.found = pairs * passing * costs->compare_fine;
		try_words(&best, join, 0, 1, &sizes, costs->compare, true, 0);
		sizes.found = 0;
		try_words(&best, join, 1, AVC_COVER_WORDS, &sizes, beside, true, 0);
	}
	return best;
}
