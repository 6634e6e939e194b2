/*
 * search/cover.h
 *		A greedy cover of 64-bit hashes: which are kept, who stands for whom.
 *
 * In the order given, a hash is kept if no hash kept before it is near it:
 * at most max_distance bits differ and, where there are fine hashes, at most
 * fine_distance of their 256 bits as well.  The others go to the one of the
 * least distance kept before them, the first of several.  So every hash is near the one that
 * stands for it, and no two that are kept are near each other.
 *
 * Exact, without a look at all pairs: a pair within d bits agrees, in one of
 * m pieces of the hash, up to t bits, for any t with sum(t + 1) > d.  Hashes
 * are filed by each piece and looked up under every value so close to their
 * own (multi-index hashing: Norouzi, Punjani, Fleet, CVPR 2012).  Which bits,
 * how many pieces and their t follow from what a sample says of the cost (as in
 * GPH: Qin et al., ICDE 2018); where nothing is gained, all are compared.
 * Fine hashes are filed by their own pieces where the hashes tell little apart:
 * for all, or for those that lie in a crowd of hashes.
 *
 * Plain C, so that it is tested without a server.
 */
#ifndef AVC_SEARCH_COVER_H
#define AVC_SEARCH_COVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AVC_COVER_BITS 64
#define AVC_COVER_FINE_WORDS 4

typedef struct AvcCover
{
	uint32_t	count;			/* hashes, less than 2^31 */
	int			max_distance;	/* 0 .. 64 */
	int			fine_distance;	/* 0 .. 256 */
	uint64_t   *hashes;			/* (count); their bits change places */
	uint64_t   *fine;			/* (count, 4), or NULL; so do theirs */
	const uint8_t *unknown;		/* (count) 1 = has no fine hash, which does not
								 * count then; or NULL */
	uint32_t   *leaders;		/* result (count): who stands for each, itself
								 * if it is kept */
	uint8_t    *distances;		/* result (count): to the leader */
	void	   *workspace;		/* avc_cover_workspace() bytes, aligned to 8 */
	bool		is_plain;		/* take the loops for any processor: for tests */
	void		(*breathe) (void);	/* called every few milliseconds; need not
									 * come back */
} AvcCover;

/*
 * Bytes of workspace for the hashes: about 20 for each, 52 if there are fine
 * ones, and 17 MB.
 */
extern size_t avc_cover_workspace(uint32_t count, bool has_fine);

/* Fill in leaders and distances. */
extern void avc_cover(AvcCover *cover);

/*
 * The first "standing" hashes stand for themselves; each of the others gets
 * the nearest of these, or itself where none is near.
 */
extern void avc_cover_match(AvcCover *cover, uint32_t standing);
extern size_t avc_cover_match_workspace(uint32_t count);

#endif							/* AVC_SEARCH_COVER_H */
