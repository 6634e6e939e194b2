/*
 * search/pack.h
 *		The vectors of a feature, packed into a file that all backends map.
 *
 * A pack holds every vector that a page of the dataset held when the page was
 * read, and the LSN of the page then.  What a snapshot sees is not its
 * business: who has found a vector looks the row up (avc_pack_row_is).
 * README says why that is exact, and where the file is.
 */
#ifndef AVC_SEARCH_PACK_H
#define AVC_SEARCH_PACK_H

#include "storage/block.h"
#include "storage/itemptr.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

/* What is read of every slot. */
typedef struct AvcPackKey
{
	int64		frame_id;
	float		scale;			/* of the codes; see cosine.h */
	float		error;			/* negative = nothing to be found here */
} AvcPackKey;

/* Where a slot's vector came from. */
typedef struct AvcPackTuple
{
	BlockNumber block;			/* Invalid = the row is gone from its page */
	uint32		next;			/* slot of the same page, or AVC_NO_SLOT */
	TransactionId xmin;
	Oid			value;			/* of the TOAST table; Invalid = inline */
	OffsetNumber offset;
	bool		is_odd;			/* not so many numbers as the others */
} AvcPackTuple;

#define AVC_NO_SLOT PG_UINT32_MAX

typedef struct AvcPack
{
	uint32		slots;			/* filled when it was opened */
	uint32		odd;			/* of these, odd ones still in their pages */
	int			numbers;		/* of a vector; 0 = there is none yet */
	const AvcPackKey *keys;
	const AvcPackTuple *tuples;
	const int8 *codes;			/* AVC_CODE_BYTES(numbers) a slot */
	const float *vectors;		/* "numbers" a slot */
} AvcPack;

/*
 * The vectors of a column of a locked table, brought up to date: every row
 * with a vector that the snapshot sees has a slot.  NULL if that cannot be;
 * *why then says why, a phrase.  Valid until the next call.  Warns if the file
 * could not be written.  The snapshot is active.
 */
extern AvcPack *avc_pack_open(Relation rel, AttrNumber column,
							  Snapshot snapshot, const char **why);

/* Is the row of a slot, the very one that was packed, seen by the snapshot? */
extern bool avc_pack_row_is(Relation rel, const AvcPackTuple *tuple,
							Snapshot snapshot);

#endif
