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
#include "search/cover_join.h"

#include <string.h>

#define RUN 256					/* hashes that are covered one by one */
#define PAIRS 4					/* of a hash, if all near ones are noted */
#define CHUNK 65536				/* hashes between two breaths */
#define CROWD_PIECES 4			/* of 16 bits: what a crowd is seen by */
#define CROWD_BITS 16
#define CROWD 2000				/* keys that agree in a piece */
#define CROWD_MORE 8			/* times as many as if they lay evenly */

/* ---- crowds ---------------------------------------------------------- */

static AvcCoverPiece
crowd_piece(int i)
{
	return (AvcCoverPiece) {0, CROWD_BITS * i, CROWD_BITS, 0};
}

/* Keys that agree with the hash in one of the pieces, or more. */
static uint64_t
count_neighbours(const AvcCoverJoin *join, uint64_t hash)
{
	uint64_t	sum = 0;
	int			i;

	for (i = 0; i < CROWD_PIECES; i++)
	{
		AvcCoverPiece piece = crowd_piece(i);

		sum += join->starts[((uint32_t) i << CROWD_BITS) + avc_cover_piece(&piece, hash)];
	}
	return sum;
}

/*
 * Mark the queries that have many neighbours among the keys; returns how many
 * have.  Hashes alone find few of those that are far from each other in the
 * fine ones.
 */
static uint32_t
mark_crowded(AvcCoverJoin *join)
{
	const AvcCover *cover = join->cover;
	uint64_t	most = CROWD + (uint64_t) CROWD_MORE * CROWD_PIECES *
	(join->key_count >> CROWD_BITS);
	uint32_t	crowded = 0;
	uint32_t	i;
	int			j;

	memset(join->starts, 0, sizeof(uint32_t) * CROWD_PIECES << CROWD_BITS);
	for (i = 0; i < join->key_count; i++)
	{
		if (i % CHUNK == 0)
			cover->breathe();
		for (j = 0; j < CROWD_PIECES; j++)
		{
			AvcCoverPiece piece = crowd_piece(j);

			join->starts[((uint32_t) j << CROWD_BITS) +
						 avc_cover_piece(&piece, cover->hashes[join->ids[i]])]++;
		}
	}
	for (i = join->first; i < join->end; i++)
	{
		uint8_t		is_crowded = count_neighbours(join, cover->hashes[i]) > most;

		if (i % CHUNK == 0)
			cover->breathe();
		join->crowded[i - join->first] = is_crowded;
		crowded += is_crowded;
	}
	return crowded;
}

/* Are there fine hashes that could tell the hashes of a crowd apart? */
static bool
may_be_crowded(const AvcCoverJoin *join)
{
	return join->cover->fine != NULL && join->cover->unknown == NULL &&
		join->key_count > CROWD;
}

/* ---- the cover ------------------------------------------------------- */

static void
join_part(AvcCoverJoin *join, const AvcCoverScanner *scanner,
		  AvcCoverPart part)
{
	AvcCoverPlan plan;

	join->part = part;
	avc_cover_collect(join);
	if (join->query_count == 0)
		return;
	plan = avc_cover_plan(join, &scanner->costs);
	avc_cover_join(join, scanner, &plan);
}

/* Offer the kept hashes of [first, middle) to those of [middle, end). */
static void
join_halves(AvcCoverJoin *join, const AvcCoverScanner *scanner,
			uint32_t first, uint32_t middle, uint32_t end)
{
	const AvcCover *cover = join->cover;
	uint32_t	crowded = 0;
	uint32_t	i;

	cover->breathe();
	join->key_count = 0;
	for (i = first; i < middle; i++)
		if (cover->leaders[i] == i)
			join->ids[join->key_count++] = i;
	if (join->key_count == 0)
		return;
	join->first = middle;
	join->end = end;
	if (may_be_crowded(join))
		crowded = mark_crowded(join);
	if (crowded == 0 || crowded == end - middle)
		join_part(join, scanner, AVC_COVER_ALL);
	else
	{
		join_part(join, scanner, AVC_COVER_SPARSE);
		join_part(join, scanner, AVC_COVER_CROWDED);
	}
}

/* A run so short that each is compared with what was kept of it before. */
static void
cover_run(AvcCoverJoin *join, const AvcCoverScanner *scanner, uint32_t first,
		  uint32_t end)
{
	AvcCover   *cover = join->cover;
	uint32_t	i;

	avc_cover_worked(join, RUN * RUN);
	join->is_fine = cover->fine != NULL && cover->unknown == NULL;
	join->key_count = 0;
	for (i = first; i < end; i++)
	{
		avc_cover_put_query(join, 0, i);
		scanner->pairs(join, 0, 1, 0, join->key_count);
		if (cover->leaders[i] != AVC_COVER_NOBODY)
			continue;
		cover->leaders[i] = i;
		cover->distances[i] = 0;
		avc_cover_put_key(join, join->key_count++, i);
	}
}

/* Pairs of "later" hashes, in chains from heads[later - first]. */
static void
chain_pairs(AvcCoverJoin *join, uint32_t *heads, uint32_t first)
{
	uint32_t	i;

	for (i = 0; i < join->pair_count; i++)
	{
		uint32_t   *head = &heads[join->pairs[i].later - first];

		join->pairs[i].later = *head;
		*head = i;
	}
}

/* Would a hash be near to several others?  By a sample of the queries. */
static bool
has_many_pairs(AvcCoverJoin *join)
{
	uint32_t	count = join->query_count;
	uint32_t	draws = count / 8 < AVC_COVER_SAMPLE ? count / 8 : AVC_COVER_SAMPLE;
	uint32_t	near = 0;
	uint32_t	i;

	for (i = 0; i < draws; i++)
		near += avc_cover_is_near(join->cover,
								  join->query_ids[avc_cover_draw(join, count)],
								  join->query_ids[avc_cover_draw(join, count)]);
	return (double) near / (draws + 1) * count / 2 > PAIRS;
}

/*
 * Cover a range by all its near pairs; false, with nothing done, where they are
 * many.
 */
static bool
cover_by_pairs(AvcCoverJoin *join, const AvcCoverScanner *scanner,
			   uint32_t first, uint32_t end)
{
	AvcCover   *cover = join->cover;
	uint32_t   *heads = join->run_values;
	AvcCoverPlan plan;
	uint32_t	open = 0;
	uint32_t	i;
	uint32_t	pair;

	join->cover->breathe();
	for (i = first; i < end; i++)
		open += cover->leaders[i] == AVC_COVER_NOBODY;
	if (open == 0)
		return true;
	join->first = first;
	join->end = end;
	join->part = AVC_COVER_ALL;
	avc_cover_collect(join);
	if (join->query_count > join->rows || open < join->query_count / 4 ||
		has_many_pairs(join))
		return false;
	join->key_count = join->query_count;
	memcpy(join->ids, join->query_ids, sizeof(uint32_t) * join->key_count);
	/* some of them, but not all: they are better taken apart */
	if (may_be_crowded(join))
	{
		uint32_t	crowded = mark_crowded(join);

		if (crowded > 0 && crowded < end - first)
			return false;
	}
	join->pair_space = PAIRS * join->key_count < join->pair_places ?
		PAIRS * join->key_count : join->pair_places;
	plan = avc_cover_plan(join, &scanner->costs);
	if (!avc_cover_self_join(join, scanner, &plan))
		return false;
	memset(heads, 255, sizeof(uint32_t) * (end - first));
	chain_pairs(join, heads, first);
	for (i = first; i < end; i++)
	{
		if (i % CHUNK == 0)
			cover->breathe();
		for (pair = heads[i - first]; pair != AVC_COVER_NOBODY;
			 pair = join->pairs[pair].later)
			if (cover->leaders[join->pairs[pair].earlier] == join->pairs[pair].earlier)
				avc_cover_offer(cover, i, join->pairs[pair].earlier);
		if (cover->leaders[i] == AVC_COVER_NOBODY)
		{
			cover->leaders[i] = i;
			cover->distances[i] = 0;
		}
	}
	return true;
}

static void
cover_range(AvcCoverJoin *join, const AvcCoverScanner *scanner,
			uint32_t first, uint32_t end)
{
	uint32_t	middle = first + (end - first) / 2;

	if (end - first <= RUN)
	{
		cover_run(join, scanner, first, end);
		return;
	}
	if (cover_by_pairs(join, scanner, first, end))
		return;
	cover_range(join, scanner, first, middle);
	join_halves(join, scanner, first, middle, end);
	cover_range(join, scanner, middle, end);
}

/*
 * Neighbours in a picture have much the same bits, and a piece of such bits
 * would tell little apart: bit i of each word goes to place 11 i mod 64.
 */
static void
spread_bits(const AvcCover *cover, uint64_t *words, size_t count)
{
	uint64_t	spread[8][256];
	size_t		i;
	int			byte;
	int			value;
	int			bit;

	memset(spread, 0, sizeof(spread));
	for (byte = 0; byte < 8; byte++)
		for (value = 0; value < 256; value++)
			for (bit = 0; bit < 8; bit++)
				if (value >> bit & 1)
					spread[byte][value] |= UINT64_C(1) << (11 * (8 * byte + bit)) % 64;
	for (i = 0; i < count; i++)
	{
		uint64_t	word = 0;

		if (i % CHUNK == 0)
			cover->breathe();
		for (byte = 0; byte < 8; byte++)
			word |= spread[byte][words[i] >> 8 * byte & 255];
		words[i] = word;
	}
}

/* ---- workspace ------------------------------------------------------- */

static size_t
rows_of_join(uint32_t count)
{
	/* a half at most, rounded up, or a run; 8 more can be read */
	return ((count < 2 * RUN ? RUN : count / 2 + 1) + 8 + 7) / 8 * 8;
}

/*
 * Deal out the workspace from "memory" on, or only count it where that is
 * NULL; returns its bytes.
 */
static size_t
deal_workspace(AvcCoverJoin *join, void *memory, uint32_t count, bool has_fine)
{
	size_t		rows = rows_of_join(count);
	size_t		fine = has_fine ? AVC_COVER_FINE_WORDS : 0;
	size_t		words = rows * (4 + 2 * fine) + AVC_COVER_SAMPLE * AVC_COVER_WORDS;
	size_t		numbers = rows * 5 + 1 + ((size_t) 1 << AVC_COVER_PIECE_BITS) + 2;
	uint64_t   *word = memory;
	int			i;

	if (memory != NULL)
	{
		uint32_t   *number = (uint32_t *) (word + words);

		join->rows = (uint32_t) rows - 8;
		join->keys = word;
		join->limits = word + rows;
		join->query_keys = join->queries = word + 2 * rows;
		/* a join of hashes with themselves has no other queries */
		join->pairs = (AvcCoverPair *) join->queries;
		join->pair_places = 2 * (uint32_t) rows;
		word += 4 * rows;
		for (i = 0; has_fine && i < AVC_COVER_FINE_WORDS; i++, word += rows)
			join->fine_keys[i] = word;
		join->query_fine = word;
		join->sample = word + rows * fine;
		join->key_ids = number;
		join->query_ids = number + rows;
		join->ids = number + 2 * rows;
		join->run_values = number + 3 * rows;
		join->run_starts = number + 4 * rows;
		join->starts = number + 5 * rows + 1;
		join->crowded = (uint8_t *) (number + numbers);
	}
	return sizeof(uint64_t) * words + sizeof(uint32_t) * numbers + rows;
}

size_t
avc_cover_workspace(uint32_t count, bool has_fine)
{
	return deal_workspace(NULL, NULL, count, has_fine);
}

/* Nobody stands for anybody yet. */
static AvcCoverJoin
start_cover(AvcCover *cover, uint32_t rows)
{
	AvcCoverJoin join = {.cover = cover, .random = 1};
	uint32_t	i;

	deal_workspace(&join, cover->workspace, rows, cover->fine != NULL);
	for (i = 0; i < cover->count; i++)
		cover->leaders[i] = AVC_COVER_NOBODY;
	memset(cover->distances, 0, cover->count);
	spread_bits(cover, cover->hashes, cover->count);
	if (cover->fine != NULL)
		spread_bits(cover, cover->fine,
					(size_t) cover->count * AVC_COVER_FINE_WORDS);
	return join;
}

void
avc_cover(AvcCover *cover)
{
	AvcCoverScanner scanner = avc_cover_scanner(cover->is_plain);
	AvcCoverJoin join = start_cover(cover, cover->count);

	cover_range(&join, &scanner, 0, cover->count);
}

/* Either side may hold nearly all. */
static uint32_t
match_rows(uint32_t count)
{
	return 2 * count + 2 * RUN;
}

size_t
avc_cover_match_workspace(uint32_t count)
{
	return avc_cover_workspace(match_rows(count), false);
}

void
avc_cover_match(AvcCover *cover, uint32_t standing)
{
	AvcCoverScanner scanner = avc_cover_scanner(cover->is_plain);
	AvcCoverJoin join = start_cover(cover, match_rows(cover->count));
	uint32_t	i;

	for (i = 0; i < standing; i++)
		cover->leaders[i] = i;
	join_halves(&join, &scanner, 0, standing, cover->count);
	for (i = standing; i < cover->count; i++)
		if (cover->leaders[i] == AVC_COVER_NOBODY)
			cover->leaders[i] = i;
}
