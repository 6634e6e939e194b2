/*
 * search/cover.c
 *		A greedy cover of 64-bit hashes (see cover.h).
 *
 * The order is cut in halves: the first half is covered, its kept hashes are
 * joined with the second half, and then the second half is covered by itself.
 * Short runs are covered one by one.  So an index is built for many queries
 * at once and never changed, and both sides of a join are walked in the order
 * of their pieces, which the caches like.
 */
#include "search/cover.h"

#include <string.h>

#define RUN 256					/* hashes that are covered one by one */
#define MAX_PIECE_BITS 22
#define MIN_PIECES 3			/* of 22 bits at most */
#define MAX_PIECES 8
#define MAX_FLIPS 4096			/* values looked up for one piece */
#define SAMPLE 8192				/* pairs */
#define KEY_BLOCK 4096			/* keys that stay in the nearest cache */
#define BREATH 2048				/* queries between two breaths */
#define BREATH_LOOKS 100000		/* looks at keys between two */
#define NOBODY UINT32_MAX

/* Costs beside that of a look into a bucket: measured, rounded. */
#define COST_FILE 6.0			/* put a hash in its place */
#define COST_COMPARE 0.4		/* compare with a key, by popcnt */
#define COST_COMPARE_VECTOR 0.1

/* Bits of a hash that are filed together. */
typedef struct Piece
{
	int			shift;
	int			bits;
	int			tolerance;		/* bits in which it may differ; -1: unused */
} Piece;

typedef struct Plan
{
	Piece		pieces[MAX_PIECES];
	int			count;			/* 0 = compare all */
	double		cost;
} Plan;

/* Kept hashes on one side, queries on the other; arrays in the workspace. */
typedef struct Join
{
	AvcCover   *cover;
	uint64_t   *keys;			/* kept hashes, by piece; 8 more can be read */
	uint32_t   *key_ids;
	uint32_t	key_count;
	uint64_t   *query_keys;
	uint32_t   *query_ids;
	uint8_t    *limits;			/* of queries: what a near key may differ by */
	uint32_t	query_count;
	uint32_t   *starts;			/* of buckets of keys */
	uint32_t   *ids;			/* kept hashes in their order */
	uint64_t	random;
} Join;

typedef struct Scanner
{
	void		(*flipped) (Join *join, const Piece *piece, uint32_t flip);
	void		(*all) (Join *join, uint32_t from, uint32_t to,
						uint32_t first_key, uint32_t last_key);
	double		cost_compare;
} Scanner;

static inline __attribute__((always_inline)) uint32_t
piece_value(const Piece *piece, uint64_t hash)
{
	return (uint32_t) (hash >> piece->shift) & ((1u << piece->bits) - 1);
}

static int
fine_distance(const uint64_t *a, const uint64_t *b)
{
	int			distance = 0;
	int			i;

	for (i = 0; i < AVC_COVER_FINE_WORDS; i++)
		distance += __builtin_popcountll(a[i] ^ b[i]);
	return distance;
}

/* Is the key's hash the better one to stand for the query's? */
static void
offer(Join *join, uint32_t query, uint32_t at)
{
	AvcCover   *cover = join->cover;
	uint32_t	id = join->query_ids[query];
	uint32_t	leader = join->key_ids[at];
	int			distance = __builtin_popcountll(join->keys[at] ^
												join->query_keys[query]);

	if (cover->leaders[id] != NOBODY &&
		(distance > cover->distances[id] ||
		 (distance == cover->distances[id] && leader >= cover->leaders[id])))
		return;
	if (cover->fine != NULL &&
		fine_distance(cover->fine + (size_t) id * AVC_COVER_FINE_WORDS,
					  cover->fine + (size_t) leader * AVC_COVER_FINE_WORDS) >
		cover->fine_distance)
		return;
	cover->leaders[id] = leader;
	cover->distances[id] = (uint8_t) distance;
	join->limits[query] = (uint8_t) distance;
}

static __attribute__((noinline)) void
take_near(Join *join, uint32_t query, uint32_t at, uint32_t mask)
{
	for (; mask != 0; mask &= mask - 1)
		offer(join, query, at + (uint32_t) __builtin_ctz(mask));
}

/* ---- builds of the loops --------------------------------------------- */

static inline __attribute__((always_inline)) uint32_t
near_plain(const uint64_t *keys, uint64_t key, int limit)
{
	uint32_t	mask = 0;
	int			i;

	for (i = 0; i < 8; i++)
		mask |= (uint32_t) (__builtin_popcountll(keys[i] ^ key) <= limit) << i;
	return mask;
}

#define SCAN(name) name##_plain
#define SCAN_TARGET
#define SCAN_NEAR near_plain
#include "search/cover_scan.h"
#undef SCAN
#undef SCAN_TARGET
#undef SCAN_NEAR

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#define SCAN(name) name##_popcnt
#define SCAN_TARGET __attribute__((target("popcnt")))
#define SCAN_NEAR near_plain
#include "search/cover_scan.h"
#undef SCAN
#undef SCAN_TARGET
#undef SCAN_NEAR

static inline __attribute__((always_inline, target("avx512f,avx512vpopcntdq"))) uint32_t
near_vector(const uint64_t *keys, uint64_t key, int limit)
{
	__m512i		bits = _mm512_xor_si512(_mm512_loadu_si512(keys),
										_mm512_set1_epi64((long long) key));

	return _mm512_cmple_epu64_mask(_mm512_popcnt_epi64(bits),
								   _mm512_set1_epi64(limit));
}

#define SCAN(name) name##_vector
#define SCAN_TARGET __attribute__((target("avx512f,avx512vpopcntdq")))
#define SCAN_NEAR near_vector
#include "search/cover_scan.h"
#undef SCAN
#undef SCAN_TARGET
#undef SCAN_NEAR
#endif

static Scanner
choose_scanner(bool is_plain)
{
	static const Scanner plain = {flipped_plain, all_plain, COST_COMPARE};
#if defined(__x86_64__) && defined(__GNUC__)
	static const Scanner popcnt = {flipped_popcnt, all_popcnt, COST_COMPARE};
	static const Scanner vector = {flipped_vector, all_vector,
	COST_COMPARE_VECTOR};

	if (is_plain)
		return plain;
	if (__builtin_cpu_supports("avx512vpopcntdq"))
		return vector;
	if (__builtin_cpu_supports("popcnt"))
		return popcnt;
#endif
	return plain;
}

/* ---- what a join costs ----------------------------------------------- */

static uint32_t
draw(Join *join, uint32_t below)
{
	join->random = join->random * UINT64_C(6364136223846793005) +
		UINT64_C(1442695040888963407);
	return (uint32_t) ((join->random >> 32) * below >> 32);
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

/*
 * Give the pieces their tolerances, one by one where it costs least, until
 * no near pair can slip through.  "far" holds differences of sampled pairs.
 */
static void
plan_pieces(Plan *plan, int count, const uint64_t *far, int max_distance,
			double queries, double keys, double compare)
{
	static const double impossible = 1e300;
	double		share[MAX_PIECES][MAX_PIECE_BITS + 1];
	int			budget;
	int			i;
	int			j;

	memset(share, 0, sizeof(share));
	plan->count = count;
	for (i = 0; i < count; i++)
	{
		Piece	   *piece = &plan->pieces[i];

		piece->shift = AVC_COVER_BITS * i / count;
		piece->bits = AVC_COVER_BITS * (i + 1) / count - piece->shift;
		piece->tolerance = -1;
		for (j = 0; j < SAMPLE; j++)
			share[i][__builtin_popcount(piece_value(piece, far[j]))] += 1.0 / SAMPLE;
	}
	plan->cost = count * COST_FILE * (queries + keys);
	for (budget = max_distance + 1; budget > 0; budget--)
	{
		double		least = impossible;
		int			best = 0;

		for (i = 0; i < count; i++)
		{
			const Piece *piece = &plan->pieces[i];
			int			next = piece->tolerance + 1;
			double		flips = count_flips(piece->bits, next);
			double		more = flips - count_flips(piece->bits, next - 1);
			double		even = more / (1u << piece->bits);
			double		cost;

			if (next > piece->bits || flips > MAX_FLIPS)
				continue;
			/* what a sample sees none of is not free */
			cost = queries * more + queries * keys * compare *
				(share[i][next] > even ? share[i][next] : even);
			if (cost < least)
			{
				least = cost;
				best = i;
			}
		}
		if (least == impossible)
		{
			plan->cost = impossible;
			return;
		}
		plan->pieces[best].tolerance++;
		plan->cost += least;
	}
}

static Plan
plan_join(Join *join, double compare)
{
	const AvcCover *cover = join->cover;
	double		queries = join->query_count;
	double		keys = join->key_count;
	uint64_t	far[SAMPLE];
	Plan		best = {.cost = queries * keys * compare};
	int			count;
	int			i;

	if (best.cost < 32.0 * SAMPLE * MAX_PIECES)
		return best;
	for (i = 0; i < SAMPLE; i++)
		far[i] = join->query_keys[draw(join, join->query_count)] ^
			cover->hashes[join->ids[draw(join, join->key_count)]];
	for (count = MIN_PIECES; count <= MAX_PIECES; count++)
	{
		Plan		plan;

		plan_pieces(&plan, count, far, cover->max_distance, queries, keys,
					compare);
		if (plan.cost < best.cost)
			best = plan;
	}
	return best;
}

/* ---- a join ---------------------------------------------------------- */

/* Queries that a nearer key could still be found for, from these hashes. */
static void
collect_queries(Join *join, uint32_t first, uint32_t end)
{
	const AvcCover *cover = join->cover;
	uint32_t	i;

	join->query_count = 0;
	for (i = first; i < end; i++)
		if (cover->leaders[i] == NOBODY || cover->distances[i] > 0)
		{
			join->query_keys[join->query_count] = cover->hashes[i];
			join->query_ids[join->query_count++] = i;
		}
}

static void
set_limits(Join *join)
{
	const AvcCover *cover = join->cover;
	uint32_t	i;

	for (i = 0; i < join->query_count; i++)
	{
		uint32_t	id = join->query_ids[i];

		join->limits[i] = cover->leaders[id] == NOBODY ?
			(uint8_t) cover->max_distance : cover->distances[id];
	}
}

static void
place_keys(Join *join)
{
	uint32_t	i;

	for (i = 0; i < join->key_count; i++)
	{
		join->key_ids[i] = join->ids[i];
		join->keys[i] = join->cover->hashes[join->ids[i]];
	}
}

/* starts[v + 1] becomes the first place of value v, from counts in it. */
static void
counts_to_starts(uint32_t *starts, uint32_t buckets)
{
	uint32_t	sum = 0;
	uint32_t	i;

	for (i = 0; i < buckets; i++)
	{
		uint32_t	count = starts[i + 1];

		starts[i + 1] = sum;
		sum += count;
	}
}

/* Hashes "ids" in the order of their piece; starts[] as buckets in the end. */
static void
file_by_piece(const AvcCover *cover, const Piece *piece, uint32_t *starts,
			  const uint32_t *ids, uint32_t count, uint64_t *keys,
			  uint32_t *key_ids)
{
	uint32_t	buckets = 1u << piece->bits;
	uint32_t	i;

	memset(starts, 0, sizeof(uint32_t) * (buckets + 1));
	for (i = 0; i < count; i++)
		starts[piece_value(piece, cover->hashes[ids[i]]) + 1]++;
	counts_to_starts(starts, buckets);
	for (i = 0; i < count; i++)
	{
		uint64_t	hash = cover->hashes[ids[i]];
		uint32_t	place = starts[piece_value(piece, hash) + 1]++;

		keys[place] = hash;
		key_ids[place] = ids[i];
	}
}

/* Every value of the piece's bits with up to "left" more ones, once. */
static void
scan_flips(Join *join, const Scanner *scanner, const Piece *piece,
		   uint32_t flip, int from, int left)
{
	int			bit;

	join->cover->breathe();
	scanner->flipped(join, piece, flip);
	if (left > 0)
		for (bit = from; bit < piece->bits; bit++)
			scan_flips(join, scanner, piece, flip | 1u << bit, bit + 1,
					   left - 1);
}

static void
join_by_pieces(Join *join, const Scanner *scanner, const Plan *plan,
			   uint32_t first, uint32_t end)
{
	int			i;

	for (i = 0; i < plan->count; i++)
	{
		const Piece *piece = &plan->pieces[i];

		if (piece->tolerance < 0)
			continue;
		/* the ids of the queries lie in key_ids while they are sorted */
		collect_queries(join, first, end);
		memcpy(join->key_ids, join->query_ids,
			   sizeof(uint32_t) * join->query_count);
		file_by_piece(join->cover, piece, join->starts, join->key_ids,
					  join->query_count, join->query_keys, join->query_ids);
		set_limits(join);
		file_by_piece(join->cover, piece, join->starts, join->ids,
					  join->key_count, join->keys, join->key_ids);
		join->cover->breathe();
		scan_flips(join, scanner, piece, 0, 0, piece->tolerance);
	}
}

static void
join_all(Join *join, const Scanner *scanner)
{
	uint32_t	key;
	uint32_t	query;

	set_limits(join);
	place_keys(join);
	for (key = 0; key < join->key_count; key += KEY_BLOCK)
		for (query = 0; query < join->query_count; query += BREATH)
		{
			uint32_t	last_key = key + KEY_BLOCK;
			uint32_t	last = query + BREATH;

			join->cover->breathe();
			scanner->all(join, query,
						 last < join->query_count ? last : join->query_count, key,
						 last_key < join->key_count ? last_key : join->key_count);
		}
}

/* Offer the kept hashes of [first, middle) to those of [middle, end). */
static void
join_halves(Join *join, const Scanner *scanner, uint32_t first,
			uint32_t middle, uint32_t end)
{
	const AvcCover *cover = join->cover;
	Plan		plan;
	uint32_t	i;

	join->key_count = 0;
	for (i = first; i < middle; i++)
		if (cover->leaders[i] == i)
			join->ids[join->key_count++] = i;
	collect_queries(join, middle, end);
	if (join->key_count == 0 || join->query_count == 0)
		return;
	plan = plan_join(join, scanner->cost_compare);
	if (plan.count > 0)
		join_by_pieces(join, scanner, &plan, middle, end);
	else
		join_all(join, scanner);
}

/* ---- the cover ------------------------------------------------------- */

/* A run so short that each is compared with what was kept of it before. */
static void
cover_run(Join *join, const Scanner *scanner, uint32_t first, uint32_t end)
{
	AvcCover   *cover = join->cover;
	uint32_t	i;

	join->cover->breathe();
	join->key_count = 0;
	for (i = first; i < end; i++)
	{
		join->query_keys[0] = cover->hashes[i];
		join->query_ids[0] = i;
		join->query_count = 1;
		set_limits(join);
		scanner->all(join, 0, 1, 0, join->key_count);
		if (cover->leaders[i] != NOBODY)
			continue;
		cover->leaders[i] = i;
		cover->distances[i] = 0;
		join->keys[join->key_count] = cover->hashes[i];
		join->key_ids[join->key_count++] = i;
	}
}

static void
cover_range(Join *join, const Scanner *scanner, uint32_t first, uint32_t end)
{
	uint32_t	middle = first + (end - first) / 2;

	if (end - first <= RUN)
	{
		cover_run(join, scanner, first, end);
		return;
	}
	cover_range(join, scanner, first, middle);
	join_halves(join, scanner, first, middle, end);
	cover_range(join, scanner, middle, end);
}

/*
 * Neighbours in a picture have much the same bits, and a piece of such bits
 * would tell little apart: bit i goes to place 11 i mod 64.
 */
static void
spread_bits(AvcCover *cover)
{
	uint64_t	spread[8][256];
	uint32_t	i;
	int			byte;
	int			value;
	int			bit;

	memset(spread, 0, sizeof(spread));
	for (byte = 0; byte < 8; byte++)
		for (value = 0; value < 256; value++)
			for (bit = 0; bit < 8; bit++)
				if (value >> bit & 1)
					spread[byte][value] |= UINT64_C(1) << (11 * (8 * byte + bit)) % 64;
	for (i = 0; i < cover->count; i++)
	{
		uint64_t	hash = 0;

		for (byte = 0; byte < 8; byte++)
			hash |= spread[byte][cover->hashes[i] >> 8 * byte & 255];
		cover->hashes[i] = hash;
	}
}

static size_t
rows_of_join(uint32_t count)
{
	/* a half at most, rounded up, or a run; 8 more can be read */
	return (count < 2 * RUN ? RUN : count / 2 + 1) + 8;
}

size_t
avc_cover_workspace(uint32_t count)
{
	size_t		rows = (rows_of_join(count) + 7) / 8 * 8;

	return rows * (2 * sizeof(uint64_t) + 3 * sizeof(uint32_t) + 1) +
		sizeof(uint32_t) * ((1u << MAX_PIECE_BITS) + 2);
}

void
avc_cover(AvcCover *cover)
{
	size_t		rows = (rows_of_join(cover->count) + 7) / 8 * 8;
	Scanner		scanner = choose_scanner(cover->is_plain);
	Join		join = {cover};
	uint32_t	i;

	join.keys = cover->workspace;
	join.query_keys = join.keys + rows;
	join.key_ids = (uint32_t *) (join.query_keys + rows);
	join.query_ids = join.key_ids + rows;
	join.ids = join.query_ids + rows;
	join.starts = join.ids + rows;
	join.limits = (uint8_t *) (join.starts + (1u << MAX_PIECE_BITS) + 2);
	join.random = 1;
	memset(join.keys, 0, sizeof(uint64_t) * rows);
	for (i = 0; i < cover->count; i++)
		cover->leaders[i] = NOBODY;
	memset(cover->distances, 0, cover->count);
	spread_bits(cover);
	cover_range(&join, &scanner, 0, cover->count);
}
