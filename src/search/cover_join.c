/*
 * search/cover_join.c
 *		Offer kept hashes to queries, each pair that may be near once or more.
 *
 * Keys and queries are filed by a piece; the queries that have the same one
 * are compared with all the keys that have a given other one.  What differs in
 * the upper bits of a piece comes last, so that the keys of a part of all
 * values stay in the cache while they are needed.
 */
#include "search/cover_join.h"

#include <string.h>

#define TILE 8192				/* keys that stay in the cache */
#define MANY 1024				/* queries that do */
#define BREATH 2000000			/* pairs between two breaths */

/* Runs whose pieces agree but for the lower bits. */
typedef struct Walk
{
	AvcCoverJoin *join;
	const AvcCoverScanner *scanner;
	const AvcCoverPiece *piece;
	int			tile_bits;
	uint32_t	from;
	uint32_t	to;
} Walk;

void
avc_cover_worked(AvcCoverJoin *join, uint64_t pairs)
{
	join->work += pairs;
	if (join->work < BREATH)
		return;
	join->work = 0;
	join->cover->breathe();
}

/* ---- a pair ---------------------------------------------------------- */

static int
fine_distance(const uint64_t *a, const uint64_t *b)
{
	int			distance = 0;
	int			i;

	for (i = 0; i < AVC_COVER_FINE_WORDS; i++)
		distance += __builtin_popcountll(a[i] ^ b[i]);
	return distance;
}

static bool
differs_in_fine(const AvcCover *cover, uint32_t a, uint32_t b)
{
	return cover->fine != NULL &&
		(cover->unknown == NULL || !(cover->unknown[a] | cover->unknown[b])) &&
		fine_distance(cover->fine + (size_t) a * AVC_COVER_FINE_WORDS,
					  cover->fine + (size_t) b * AVC_COVER_FINE_WORDS) >
		cover->fine_distance;
}

bool
avc_cover_is_near(const AvcCover *cover, uint32_t a, uint32_t b)
{
	return __builtin_popcountll(cover->hashes[a] ^ cover->hashes[b]) <=
		cover->max_distance && !differs_in_fine(cover, a, b);
}

bool
avc_cover_offer(AvcCover *cover, uint32_t id, uint32_t leader)
{
	int			distance = __builtin_popcountll(cover->hashes[id] ^
												cover->hashes[leader]);

	if (cover->leaders[id] != AVC_COVER_NOBODY &&
		(distance > cover->distances[id] ||
		 (distance == cover->distances[id] && leader >= cover->leaders[id])))
		return false;
	cover->leaders[id] = leader;
	cover->distances[id] = (uint8_t) distance;
	return true;
}

static void
offer_all(AvcCoverJoin *join, uint32_t query, uint32_t at, uint32_t mask)
{
	AvcCover   *cover = join->cover;
	uint32_t	id = join->query_ids[query];

	for (; mask != 0; mask &= mask - 1)
	{
		uint32_t	leader = join->key_ids[at + (uint32_t) __builtin_ctz(mask)];

		if (!join->is_fine && differs_in_fine(cover, id, leader))
			continue;
		if (avc_cover_offer(cover, id, leader))
			join->limits[query] = cover->distances[id];
	}
}

/* Note the pairs of which the earlier one may be kept. */
static void
note_all(AvcCoverJoin *join, uint32_t query, uint32_t at, uint32_t mask)
{
	const AvcCover *cover = join->cover;

	for (; mask != 0; mask &= mask - 1)
	{
		uint32_t	a = join->key_ids[query];
		uint32_t	b = join->key_ids[at + (uint32_t) __builtin_ctz(mask)];
		AvcCoverPair pair = {a < b ? a : b, a < b ? b : a};

		if (a == b || cover->leaders[pair.earlier] != AVC_COVER_NOBODY ||
			(!join->is_fine && differs_in_fine(cover, a, b)))
			continue;
		if (join->pair_count == join->pair_space)
		{
			join->is_full = true;
			return;
		}
		join->pairs[join->pair_count++] = pair;
	}
}

/* ---- builds of the loops --------------------------------------------- */

typedef const uint64_t *Keys_plain;
typedef const uint64_t *Keys_popcnt;

static inline __attribute__((always_inline)) const uint64_t *
load_plain(const uint64_t *keys, int blocks)
{
	(void) blocks;
	return keys;
}

static inline __attribute__((always_inline)) uint32_t
near_plain(const uint64_t *keys, int blocks, uint64_t key, uint64_t limit)
{
	uint32_t	mask = 0;
	int			i;

	for (i = 0; i < 8 * blocks; i++)
		mask |= (uint32_t) ((uint64_t) __builtin_popcountll(keys[i] ^ key) <= limit) << i;
	return mask;
}

/* Those of the keys in the mask whose fine ones are near, too. */
static inline __attribute__((always_inline)) uint32_t
near_fine_plain(uint64_t *const *keys, uint32_t at, const uint64_t *fine,
				int limit, uint32_t mask)
{
	uint32_t	left = mask;

	for (; left != 0; left &= left - 1)
	{
		int			i = __builtin_ctz(left);
		int			distance = 0;
		int			j;

		for (j = 0; j < AVC_COVER_FINE_WORDS; j++)
			distance += __builtin_popcountll(keys[j][at + i] ^ fine[j]);
		if (distance > limit)
			mask &= ~(1u << i);
	}
	return mask;
}

#define SCAN(name) name##_plain
#define SCAN_TARGET
#define SCAN_LOAD load_plain
#define SCAN_NEAR near_plain
#define SCAN_NEAR_FINE near_fine_plain
#include "search/cover_scan.h"
#undef SCAN
#undef SCAN_TARGET
#undef SCAN_LOAD
#undef SCAN_NEAR
#undef SCAN_NEAR_FINE

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#define SCAN(name) name##_popcnt
#define SCAN_TARGET __attribute__((target("popcnt")))
#define SCAN_LOAD load_plain
#define SCAN_NEAR near_plain
#define SCAN_NEAR_FINE near_fine_plain
#include "search/cover_scan.h"
#undef SCAN
#undef SCAN_TARGET
#undef SCAN_LOAD
#undef SCAN_NEAR
#undef SCAN_NEAR_FINE

#define VECTOR __attribute__((target("avx512f,avx512vpopcntdq,popcnt")))

typedef struct Keys_vector
{
	__m512i		eight[4];
} Keys_vector;

static inline __attribute__((always_inline)) VECTOR Keys_vector
load_vector(const uint64_t *keys, int blocks)
{
	Keys_vector loaded;
	int			i;

	for (i = 0; i < 4; i++)
		loaded.eight[i] = _mm512_loadu_si512(keys + (i < blocks ? 8 * i : 0));
	return loaded;
}

static inline __attribute__((always_inline)) VECTOR __m512i
far_vector(__m512i keys, __m512i key)
{
	return _mm512_popcnt_epi64(_mm512_xor_si512(keys, key));
}

static inline __attribute__((always_inline)) VECTOR uint32_t
near_vector(Keys_vector keys, int blocks, uint64_t key, uint64_t limit)
{
	__m512i		most = _mm512_set1_epi64((long long) limit);
	__m512i		wanted = _mm512_set1_epi64((long long) key);
	__m512i		far[4];
	__m512i		least;
	uint32_t	mask = 0;
	int			i;

	far[0] = least = far_vector(keys.eight[0], wanted);
	for (i = 1; i < blocks; i++)
	{
		far[i] = far_vector(keys.eight[i], wanted);
		least = _mm512_min_epu64(least, far[i]);
	}
	if (__builtin_expect(_mm512_cmple_epu64_mask(least, most) == 0, 1))
		return 0;
	for (i = 0; i < blocks; i++)
		mask |= (uint32_t) _mm512_cmple_epu64_mask(far[i], most) << 8 * i;
	return mask;
}

static inline __attribute__((always_inline)) VECTOR uint32_t
near_fine_vector(uint64_t *const *keys, uint32_t at, const uint64_t *fine,
				 int limit, uint32_t mask)
{
	__m512i		most = _mm512_set1_epi64(limit);
	uint32_t	near = 0;
	int			i;
	int			j;

	for (i = 0; i < 32; i += 8)
	{
		__m512i		far = _mm512_setzero_si512();

		if ((mask >> i & 255) == 0)
			continue;
		for (j = 0; j < AVC_COVER_FINE_WORDS; j++)
			far = _mm512_add_epi64(far, far_vector(_mm512_loadu_si512(keys[j] + at + i),
												   _mm512_set1_epi64((long long) fine[j])));
		near |= (uint32_t) _mm512_cmple_epu64_mask(far, most) << i;
	}
	return mask & near;
}

#define SCAN(name) name##_vector
#define SCAN_TARGET VECTOR
#define SCAN_LOAD load_vector
#define SCAN_NEAR near_vector
#define SCAN_NEAR_FINE near_fine_vector
#include "search/cover_scan.h"
#undef SCAN
#undef SCAN_TARGET
#undef SCAN_LOAD
#undef SCAN_NEAR
#undef SCAN_NEAR_FINE
#endif

AvcCoverScanner
avc_cover_scanner(bool is_plain)
{
	static const AvcCoverScanner plain = {pairs_plain, {2.0, 8.0}};
#if defined(__x86_64__) && defined(__GNUC__)
	static const AvcCoverScanner popcnt = {pairs_popcnt, {0.4, 2.0}};
	static const AvcCoverScanner vector = {pairs_vector, {0.05, 0.5}};

	if (is_plain)
		return plain;
	if (__builtin_cpu_supports("avx512f") &&
		__builtin_cpu_supports("avx512vpopcntdq"))
		return vector;
	if (__builtin_cpu_supports("popcnt"))
		return popcnt;
#endif
	return plain;
}

/* ---- filing ---------------------------------------------------------- */

void
avc_cover_put_query(AvcCoverJoin *join, uint32_t place, uint32_t id)
{
	const AvcCover *cover = join->cover;

	join->query_keys[place] = cover->hashes[id];
	join->query_ids[place] = id;
	join->limits[place] = cover->leaders[id] == AVC_COVER_NOBODY ?
		(uint64_t) cover->max_distance : cover->distances[id];
	if (join->is_fine)
		memcpy(join->query_fine + (size_t) place * AVC_COVER_FINE_WORDS,
			   cover->fine + (size_t) id * AVC_COVER_FINE_WORDS,
			   sizeof(uint64_t) * AVC_COVER_FINE_WORDS);
}

void
avc_cover_put_key(AvcCoverJoin *join, uint32_t place, uint32_t id)
{
	const AvcCover *cover = join->cover;
	int			i;

	join->keys[place] = cover->hashes[id];
	join->key_ids[place] = id;
	for (i = 0; join->is_fine && i < AVC_COVER_FINE_WORDS; i++)
		join->fine_keys[i][place] =
			cover->fine[(size_t) id * AVC_COVER_FINE_WORDS + i];
}

static void
put_both(AvcCoverJoin *join, uint32_t place, uint32_t id)
{
	avc_cover_put_query(join, place, id);
	avc_cover_put_key(join, place, id);
}

/* Ids of the queries that a nearer key could still be found for. */
void
avc_cover_collect(AvcCoverJoin *join)
{
	const AvcCover *cover = join->cover;
	uint32_t	i;

	join->query_count = 0;
	for (i = join->first; i < join->end; i++)
		if ((cover->leaders[i] == AVC_COVER_NOBODY || cover->distances[i] > 0) &&
			(join->part == AVC_COVER_ALL ||
			 join->crowded[i - join->first] == (join->part == AVC_COVER_CROWDED)))
			join->query_ids[join->query_count++] = i;
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

/*
 * Put the hashes "ids" in the order of their piece; starts[] are the buckets in
 * the end.
 */
static void
file_by_piece(AvcCoverJoin *join, const AvcCoverPiece *piece,
			  const uint32_t *ids, uint32_t count,
			  void (*put) (AvcCoverJoin *join, uint32_t place, uint32_t id))
{
	const AvcCover *cover = join->cover;
	uint32_t	buckets = 1u << piece->bits;
	uint32_t   *starts = join->starts;
	uint32_t	i;

	cover->breathe();
	memset(starts, 0, sizeof(uint32_t) * (buckets + 1));
	for (i = 0; i < count; i++)
		starts[avc_cover_piece(piece, avc_cover_word(cover, piece->word, ids[i])) + 1]++;
	cover->breathe();
	counts_to_starts(starts, buckets);
	for (i = 0; i < count; i++)
	{
		uint64_t	word = avc_cover_word(cover, piece->word, ids[i]);

		put(join, starts[avc_cover_piece(piece, word) + 1]++, ids[i]);
		if (i % (BREATH / 64) == 0)
			cover->breathe();
	}
}

static void
find_runs(AvcCoverJoin *join, const AvcCoverPiece *piece)
{
	uint32_t	buckets = 1u << piece->bits;
	uint32_t	i;

	join->run_count = 0;
	for (i = 0; i < buckets; i++)
		if (join->starts[i + 1] > join->starts[i])
		{
			join->run_values[join->run_count] = i;
			join->run_starts[join->run_count++] = join->starts[i];
		}
	join->run_starts[join->run_count] = join->query_count;
}

/* ---- a join ---------------------------------------------------------- */

/* Runs against the keys whose piece differs from theirs by "flip". */
static void
scan_runs(const Walk *walk, uint32_t flip)
{
	AvcCoverJoin *join = walk->join;
	uint32_t	run;

	for (run = walk->from; run < walk->to; run++)
	{
		uint32_t	bucket = join->run_values[run] ^ flip;
		uint32_t	first = join->starts[bucket];
		uint32_t	end = join->starts[bucket + 1];

		/* among themselves, two buckets meet once */
		if (first < end && (!join->is_self || bucket >= join->run_values[run]))
			walk->scanner->pairs(join, join->run_starts[run],
								 join->run_starts[run + 1], first, end);
	}
	avc_cover_worked(join, 16 * (walk->to - walk->from));
}

/* The same for what differs by up to "left" bits more, from "bit" on. */
static void
scan_flips(const Walk *walk, uint32_t flip, int bit, int left)
{
	scan_runs(walk, flip);
	if (left > 0)
		for (; bit < walk->tile_bits && !walk->join->is_full; bit++)
			scan_flips(walk, flip | 1u << bit, bit + 1, left - 1);
}

/* And for bits that lead to another tile, each of them walked through. */
static void
scan_tiles(const Walk *walk, uint32_t flip, int bit, int left)
{
	scan_flips(walk, flip, 0, left);
	if (left > 0)
		for (; bit < walk->piece->bits && !walk->join->is_full; bit++)
			scan_tiles(walk, flip | 1u << bit, bit + 1, left - 1);
}

static void
scan_piece(AvcCoverJoin *join, const AvcCoverScanner *scanner,
		   const AvcCoverPiece *piece)
{
	Walk		walk = {join, scanner, piece, piece->bits, 0, 0};

	while (walk.tile_bits > 0 &&
		   join->key_count >> (piece->bits - walk.tile_bits) > TILE)
		walk.tile_bits--;
	while (walk.to < join->run_count && !join->is_full)
	{
		uint32_t	tile = join->run_values[walk.to] >> walk.tile_bits;

		walk.from = walk.to;
		while (walk.to < join->run_count &&
			   join->run_values[walk.to] >> walk.tile_bits == tile)
			walk.to++;
		scan_tiles(&walk, 0, walk.tile_bits, piece->tolerance);
	}
}

static void
join_all(AvcCoverJoin *join, const AvcCoverScanner *scanner)
{
	uint32_t	i;

	for (i = 0; i < join->query_count; i++)
		avc_cover_put_query(join, i, join->query_ids[i]);
	for (i = 0; i < join->key_count; i++)
		avc_cover_put_key(join, i, join->ids[i]);
	if (!join->is_self)
		scanner->pairs(join, 0, join->query_count, 0, join->key_count);
	for (i = 0; join->is_self && i < join->query_count; i += MANY)
		scanner->pairs(join, i, i + MANY < join->query_count ? i + MANY :
					   join->query_count, i, join->key_count);
}

void
avc_cover_join(AvcCoverJoin *join, const AvcCoverScanner *scanner,
			   const AvcCoverPlan *plan)
{
	int			i;

	join->is_fine = plan->is_fine;
	if (plan->count == 0)
		join_all(join, scanner);
	for (i = 0; i < plan->count; i++)
	{
		const AvcCoverPiece *piece = &plan->pieces[i];

		if (piece->tolerance < 0)
			continue;
		avc_cover_collect(join);
		/* the ids of the queries lie in key_ids while they are sorted */
		memcpy(join->key_ids, join->query_ids,
			   sizeof(uint32_t) * join->query_count);
		file_by_piece(join, piece, join->key_ids, join->query_count,
					  avc_cover_put_query);
		find_runs(join, piece);
		file_by_piece(join, piece, join->ids, join->key_count,
					  avc_cover_put_key);
		scan_piece(join, scanner, piece);
	}
}

bool
avc_cover_self_join(AvcCoverJoin *join, const AvcCoverScanner *scanner,
					const AvcCoverPlan *plan)
{
	bool		has_all;
	int			i;

	join->is_fine = plan->is_fine;
	join->is_self = true;
	join->pair_count = 0;
	join->query_keys = join->keys;
	if (plan->count == 0)
		join_all(join, scanner);
	for (i = 0; i < plan->count && !join->is_full; i++)
	{
		const AvcCoverPiece *piece = &plan->pieces[i];

		if (piece->tolerance < 0)
			continue;
		file_by_piece(join, piece, join->ids, join->key_count, put_both);
		find_runs(join, piece);
		scan_piece(join, scanner, piece);
	}
	join->query_keys = join->queries;
	join->is_self = false;
	has_all = !join->is_full;
	join->is_full = false;
	return has_all;
}
