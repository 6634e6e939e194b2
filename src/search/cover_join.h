/*
 * search/cover_join.h
 *		Joins of kept hashes with queries: what cover.c, cover_plan.c and
 *		cover_join.c have in common.
 */
#ifndef AVC_SEARCH_COVER_JOIN_H
#define AVC_SEARCH_COVER_JOIN_H

#include "search/cover.h"

#define AVC_COVER_PIECE_BITS 22 /* at most */
#define AVC_COVER_PIECES 32		/* at most */
#define AVC_COVER_SAMPLE 4096	/* pairs */
#define AVC_COVER_WORDS (1 + AVC_COVER_FINE_WORDS)
#define AVC_COVER_NOBODY UINT32_MAX

/* Bits of a hash that are filed together. */
typedef struct AvcCoverPiece
{
	int			word;			/* 0 = of the hash, from 1 of the fine hash */
	int			shift;
	int			bits;
	int			tolerance;		/* bits in which it may differ; -1: unused */
} AvcCoverPiece;

typedef struct AvcCoverPlan
{
	AvcCoverPiece pieces[AVC_COVER_PIECES];
	int			count;			/* 0 = compare all */
	bool		is_fine;		/* fine hashes lie beside the keys */
	double		cost;			/* nanoseconds, roughly */
} AvcCoverPlan;

/* What a look costs on this processor, in nanoseconds. */
typedef struct AvcCoverCosts
{
	double		compare;		/* a hash */
	double		compare_fine;	/* a fine hash beside it */
} AvcCoverCosts;

/* Which queries of a range take part. */
typedef enum AvcCoverPart
{
	AVC_COVER_ALL, AVC_COVER_SPARSE, AVC_COVER_CROWDED
} AvcCoverPart;

/* Two hashes that are near, by their ids. */
typedef struct AvcCoverPair
{
	uint32_t	earlier;
	uint32_t	later;			/* or, when they are in chains, the next pair */
} AvcCoverPair;

/*
 * Kept hashes on one side, queries on the other, or hashes among themselves;
 * arrays in the workspace.
 */
typedef struct AvcCoverJoin
{
	AvcCover   *cover;
	uint64_t   *keys;			/* kept hashes, by piece; 8 more can be read */
	uint64_t   *queries;		/* where query_keys are by themselves */
	uint64_t   *fine_keys[AVC_COVER_FINE_WORDS];	/* the same, of fine ones */
	uint32_t   *key_ids;
	uint32_t	key_count;
	uint64_t   *query_keys;		/* or those of the keys, in a join with itself */
	uint64_t   *query_fine;		/* (query_count, 4) */
	uint32_t   *query_ids;
	uint64_t   *limits;			/* of queries: what a near key may differ by */
	uint32_t	query_count;
	uint32_t   *starts;			/* of buckets of keys */
	uint32_t   *run_values;		/* queries that have the same piece ... */
	uint32_t   *run_starts;		/* ... and where they start */
	uint32_t	run_count;
	uint32_t   *ids;			/* kept hashes in their order */
	uint8_t    *crowded;		/* of hashes from "first" on */
	uint64_t   *sample;			/* (AVC_COVER_SAMPLE, 5) differences of pairs */
	uint32_t	rows;			/* a side may have */
	uint32_t	first;			/* queries are of the hashes [first, end) */
	uint32_t	end;
	AvcCoverPart part;
	bool		is_fine;		/* fine_keys and query_fine are filled in */
	bool		is_self;		/* among themselves: near pairs are kept */
	bool		is_full;		/* there are too many of them */
	AvcCoverPair *pairs;
	uint32_t	pair_places;	/* that there are */
	uint32_t	pair_space;		/* of these, that may be used */
	uint32_t	pair_count;
	uint64_t	work;			/* pairs since the last breath */
	uint64_t	random;
} AvcCoverJoin;

typedef struct AvcCoverScanner
{
	void		(*pairs) (AvcCoverJoin *join, uint32_t from, uint32_t to,
						  uint32_t first_key, uint32_t last_key);
	AvcCoverCosts costs;
} AvcCoverScanner;

static inline __attribute__((always_inline)) uint64_t
avc_cover_word(const AvcCover *cover, int word, uint32_t id)
{
	return word == 0 ? cover->hashes[id] :
		cover->fine[(size_t) id * AVC_COVER_FINE_WORDS + word - 1];
}

static inline __attribute__((always_inline)) uint32_t
avc_cover_piece(const AvcCoverPiece *piece, uint64_t word)
{
	return (uint32_t) (word >> piece->shift) & ((1u << piece->bits) - 1);
}

/* cover_plan.c */

/* A number below this one. */
extern uint32_t avc_cover_draw(AvcCoverJoin *join, uint32_t below);

/* The cheapest way to compare queries and keys as they are. */
extern AvcCoverPlan avc_cover_plan(AvcCoverJoin *join,
								   const AvcCoverCosts *costs);

/* cover_join.c */
extern bool avc_cover_is_near(const AvcCover *cover, uint32_t a, uint32_t b);
extern AvcCoverScanner avc_cover_scanner(bool is_plain);
extern void avc_cover_collect(AvcCoverJoin *join);
extern void avc_cover_join(AvcCoverJoin *join, const AvcCoverScanner *scanner,
						   const AvcCoverPlan *plan);

/*
 * Join the queries that were collected, and are in ids as well, with
 * themselves.  False if there were more near pairs than have a place.
 */
extern bool avc_cover_self_join(AvcCoverJoin *join,
								const AvcCoverScanner *scanner,
								const AvcCoverPlan *plan);

/* A query, its limit and its fine hash, in this place. */
extern void avc_cover_put_query(AvcCoverJoin *join, uint32_t place,
								uint32_t id);

/* A kept hash, likewise. */
extern void avc_cover_put_key(AvcCoverJoin *join, uint32_t place, uint32_t id);

/* Let the hash "leader" stand for the other if it is nearer than who did. */
extern bool avc_cover_offer(AvcCover *cover, uint32_t id, uint32_t leader);

/* Count pairs that were compared, and breathe in time. */
extern void avc_cover_worked(AvcCoverJoin *join, uint64_t pairs);

#endif							/* AVC_SEARCH_COVER_JOIN_H */
