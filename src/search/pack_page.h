/*
 * search/pack_page.h
 *		A page of a dataset into its pack.
 */
#ifndef AVC_SEARCH_PACK_PAGE_H
#define AVC_SEARCH_PACK_PAGE_H

#include "access/htup_details.h"
#include "storage/bufmgr.h"

#include "search/pack_file.h"

/* A row that goes into the pack. */
typedef struct NewRow
{
	AvcPackTuple tuple;
	AvcPackKey	key;
	int8	   *codes;
	const float *vector;
	int			numbers;		/* that it has */
} NewRow;

/* A page as it was under its lock. */
typedef struct PageCopy
{
	BlockNumber block;
	XLogRecPtr	lsn;			/* Invalid = not all of it could be taken */
	OffsetNumber last;
	bool		is_wanted[MaxHeapTuplesPerPage + 1];
	TransactionId dead_after[MaxHeapTuplesPerPage + 1]; /* see is_wanted */
	PGAlignedBlock bytes;
} PageCopy;

typedef struct PackSync
{
	PackFile   *file;
	Snapshot	snapshot;
	AttrNumber	frame_id;
	MemoryContext page_context; /* reset after every page */
	BlockNumber table_blocks;
	bool		is_reading;		/* the lock is shared: nothing may be written */
	PageCopy	page;
	/* what the pack has of the page, by offset */
	uint32		had[MaxHeapTuplesPerPage + 1];
	int			new_count;
	NewRow		new_rows[MaxHeapTuplesPerPage];
} PackSync;

/*
 * Take the page down, with the block and the LSN that are in sync->page.  The
 * caller has it locked.
 */
extern void avc_pack_page_copy(PackSync *sync, Buffer buffer);

/*
 * Have the pack hold what the copy does; false if it could not be written.  A
 * copy without rows takes those of the page out.
 */
extern bool avc_pack_page_put(PackSync *sync);

#endif
