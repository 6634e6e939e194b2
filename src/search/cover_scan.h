/*
 * search/cover_scan.h
 *		The loops over pairs, a template: cover_join.c includes it once for each
 *		kind of processor.
 *
 * SCAN(name) names a function of this build, SCAN_TARGET is its attribute.
 * SCAN_LOAD(keys, blocks) are 8 * blocks keys, SCAN_NEAR(these, blocks, key,
 * limit) a mask of those that differ from the key in "limit" bits at most, SCAN_NEAR_FINE(keys, at,
 * fine, limit, mask) leaves of a mask those whose fine keys are near, too.  Eight keys can always
 * be read.
 */

static __attribute__((noinline)) SCAN_TARGET void
SCAN(take) (AvcCoverJoin *join, uint32_t query, uint32_t at, uint32_t mask)
{
	if (join->is_fine)
		mask = SCAN_NEAR_FINE(join->fine_keys, at, join->query_fine +
							  (size_t) query * AVC_COVER_FINE_WORDS,
							  join->cover->fine_distance, mask);
	if (join->is_self)
		note_all(join, query, at, mask);
	else
		offer_all(join, query, at, mask);
}

/* Hand the near ones of up to 32 keys to the rows of the queries. */
static inline __attribute__((always_inline)) SCAN_TARGET void
SCAN(block) (AvcCoverJoin *join, uint32_t from, uint32_t to, uint32_t at,
			 uint32_t count, int blocks)
{
	const		SCAN(Keys) keys = SCAN_LOAD(join->keys + at, blocks);
	const uint64_t *query_keys = join->query_keys;
	const uint64_t *limits = join->limits;
	uint32_t	valid = count < 32 ? (1u << count) - 1 : UINT32_MAX;
	uint32_t	query;

	for (query = from; query < to; query++)
	{
		uint32_t	mask = valid & SCAN_NEAR(keys, blocks,
											 query_keys[query],
											 limits[query]);

		if (__builtin_expect(mask != 0, 0))
			SCAN(take) (join, query, at, mask);
	}
}

/* Queries [from, to) against keys. */
static SCAN_TARGET void
SCAN(pairs) (AvcCoverJoin *join, uint32_t from, uint32_t to,
			 uint32_t first_key, uint32_t last_key)
{
	uint32_t	at;

	for (; from < to; from += MANY)
	{
		uint32_t	end = to - from < MANY ? to : from + MANY;

		for (at = first_key; at < last_key && !join->is_full; at += 32)
		{
			uint32_t	count = last_key - at;

			if (count > 24)
				SCAN(block) (join, from, end, at, count, 4);
			else if (count > 16)
				SCAN(block) (join, from, end, at, count, 3);
			else if (count > 8)
				SCAN(block) (join, from, end, at, count, 2);
			else
				SCAN(block) (join, from, end, at, count, 1);
			avc_cover_worked(join, 32 * (end - from));
		}
	}
}
