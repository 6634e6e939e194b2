/*
 * search/cover_scan.h
 *		The loops over candidates, a template: cover.c includes it once for
 *		each kind of processor.
 *
 * SCAN(name) names a function of this build, SCAN_TARGET is its attribute and
 * SCAN_NEAR(keys, key, limit) a mask of those of 8 keys that differ from the
 * key in "limit" bits at most.  Eight keys can always be read.
 */

/* Hand the near ones of keys [from, to) to the query's row. */
static inline __attribute__((always_inline)) SCAN_TARGET void
SCAN(range) (Join *join, uint32_t query, uint32_t from, uint32_t to)
{
	uint64_t	key = join->query_keys[query];
	uint32_t	at;

	for (at = from; at < to; at += 8)
	{
		uint32_t	mask = SCAN_NEAR(join->keys + at, key,
									 join->limits[query]);

		if (to - at < 8)
			mask &= (1u << (to - at)) - 1;
		if (mask != 0)
			take_near(join, query, at, mask);
	}
}

/* Every query against the keys whose piece differs from its own by "flip". */
static SCAN_TARGET void
SCAN(flipped) (Join *join, const Piece *piece, uint32_t flip)
{
	uint64_t	looks = 0;
	uint32_t	query;

	for (query = 0; query < join->query_count; query++)
	{
		uint32_t	bucket = piece_value(piece, join->query_keys[query]) ^ flip;
		uint32_t	from = join->starts[bucket];
		uint32_t	to = join->starts[bucket + 1];

		SCAN(range) (join, query, from, to);
		/* where many hashes are equal a bucket holds many */
		looks += to - from;
		if (looks > BREATH_LOOKS)
		{
			join->cover->breathe();
			looks = 0;
		}
	}
}

/* Queries [from, to) against a run of keys. */
static SCAN_TARGET void
SCAN(all) (Join *join, uint32_t from, uint32_t to, uint32_t first_key,
		   uint32_t last_key)
{
	uint32_t	query;

	for (query = from; query < to; query++)
		SCAN(range) (join, query, first_key, last_key);
}
