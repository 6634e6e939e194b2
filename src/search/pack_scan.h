/*
 * search/pack_scan.h
 *		The vectors of a pack that come closest to a query.
 */
#ifndef AVC_SEARCH_PACK_SCAN_H
#define AVC_SEARCH_PACK_SCAN_H

#include "search/id_set.h"
#include "search/pack.h"

typedef struct AvcFound
{
	int64		frame_id;
	uint32		slot;
	float		similarity;		/* exact, see avc_cosine */
} AvcFound;

/*
 * All slots of at least some similarity, *floor, which at least "wanted" of
 * them have, or all there are; best first, equal ones by frame_id.  Only
 * frames in "among", unless it is NULL.  Slots below the floor may be among
 * them.  The query has as many numbers as the vectors, and a direction.
 * Returns how many; *found is palloc'd.
 */
extern uint32 avc_pack_scan(const AvcPack *pack, const float *query,
							uint32 wanted, const AvcIdSet *among,
							AvcFound **found, float *floor);

#endif
