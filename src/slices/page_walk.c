/*
 * slices/page_walk.c
 *		The pages of a table that may have changed, by its visibility map.
 *
 * watermark.c says why a page that the map calls all-visible, on a page of
 * the map whose LSN is the one remembered, has not changed.
 */
#include "postgres.h"

#include "access/visibilitymap.h"
#include "miscadmin.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "slices/page_walk.h"
#include "slices/recent_pages.h"

/* The visibility map has two bits a page of the table. */
#define MAP_BYTES (BLCKSZ - MAXALIGN(SizeOfPageHeaderData))
#define MAP_BLOCKS (MAP_BYTES * 4)
#define WORD_BLOCKS (sizeof(uint64) * 4)
#define ALL_VISIBLE_WORD UINT64CONST(0x5555555555555555)

#define AHEAD 16				/* pages asked for before they are visited */

typedef union MapBits
{
	uint64		words[MAP_BYTES / sizeof(uint64)];
	uint8		bytes[MAP_BYTES];
} MapBits;

typedef struct PageWalk
{
	Relation	rel;
	BufferAccessStrategy strategy;
	AvcPageVisitor visit;
	void	   *arg;
	MapBits		bits;
	BlockNumber waiting[AHEAD]; /* pages to visit, a ring */
	int			waiting_first;
	int			waiting_count;
} PageWalk;

/* ---- the visibility map ---- */

/* LSN of a page of the map, and its bits if wanted, as of one moment. */
static XLogRecPtr
read_map(Relation rel, uint32 number, MapBits *bits)
{
	Buffer		buffer = InvalidBuffer;
	XLogRecPtr	lsn;
	Page		page;

	if (OldSnapshotThresholdActive())
		return InvalidXLogRecPtr;
	/* pins the map's page if it exists and does not extend the map */
	(void) visibilitymap_get_status(rel, number * MAP_BLOCKS, &buffer);
	if (!BufferIsValid(buffer))
		return InvalidXLogRecPtr;
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	lsn = PageGetLSN(page);
	if (bits)
		memcpy(bits, PageGetContents(page), MAP_BYTES);
	UnlockReleaseBuffer(buffer);
	return lsn;
}

XLogRecPtr
avc_map_lsn(Relation rel, uint32 number)
{
	return read_map(rel, number, NULL);
}

uint32
avc_map_pages(BlockNumber blocks)
{
	return (blocks + MAP_BLOCKS - 1) / MAP_BLOCKS;
}

/* ---- the walk ---- */

static bool
visit_page(PageWalk *walk, BlockNumber block)
{
	CHECK_FOR_INTERRUPTS();
	return walk->visit(walk->arg, avc_recent_page_read(walk->rel, block,
													   walk->strategy));
}

/* Visit the pages that wait, but for the last so many. */
static bool
visit_waiting(PageWalk *walk, int remaining)
{
	while (walk->waiting_count > remaining)
	{
		BlockNumber block = walk->waiting[walk->waiting_first];

		walk->waiting_first = (walk->waiting_first + 1) % AHEAD;
		walk->waiting_count--;
		if (!visit_page(walk, block))
			return false;
	}
	return true;
}

/* Visit a page soon, when its header has come from memory. */
static bool
visit_soon(PageWalk *walk, BlockNumber block)
{
	if (!visit_waiting(walk, AHEAD - 1))
		return false;
	avc_recent_page_prefetch(walk->rel, block);
	walk->waiting[(walk->waiting_first + walk->waiting_count++) % AHEAD] =
		block;
	return true;
}

/* Pages of one page of the map; with "bits" those not all-visible. */
static bool
visit_pages(PageWalk *walk, BlockNumber from, BlockNumber to,
			const MapBits *bits)
{
	BlockNumber i = 0;

	while (from + i < to)
	{
		if (bits && i % WORD_BLOCKS == 0 &&
			(bits->words[i / WORD_BLOCKS] & ALL_VISIBLE_WORD) ==
			ALL_VISIBLE_WORD)
		{
			i += WORD_BLOCKS;
			continue;
		}
		if (!(bits && (bits->bytes[i / 4] >> (i % 4 * 2) &
					   VISIBILITYMAP_ALL_VISIBLE)) &&
			!visit_soon(walk, from + i))
			return false;
		i++;
	}
	return visit_waiting(walk, 0);
}

static bool
visit_table(PageWalk *walk, BlockNumber blocks, const XLogRecPtr *was,
			uint32 was_pages, XLogRecPtr *is)
{
	uint32		pages = avc_map_pages(blocks);
	uint32		i;

	for (i = 0; i < pages; i++)
	{
		XLogRecPtr	lsn = read_map(walk->rel, i, &walk->bits);
		bool		is_same = !XLogRecPtrIsInvalid(lsn) && i < was_pages &&
		was[i] == lsn;

		is[i] = lsn;
		CHECK_FOR_INTERRUPTS();
		if (!visit_pages(walk, i * MAP_BLOCKS,
						 Min(blocks, (i + 1) * MAP_BLOCKS),
						 is_same ? &walk->bits : NULL))
			return false;
	}
	return true;
}

bool
avc_walk_pages(Relation rel, BlockNumber blocks, const XLogRecPtr *was,
			   uint32 was_pages, XLogRecPtr *is, AvcPageVisitor visit,
			   void *arg)
{
	PageWalk   *walk = palloc(sizeof(PageWalk));
	bool		is_whole;

	walk->rel = rel;
	walk->visit = visit;
	walk->arg = arg;
	walk->waiting_first = 0;
	walk->waiting_count = 0;
	/* as PostgreSQL's own scans: a large table is not to fill the cache */
	walk->strategy = blocks > NBuffers / 4 ?
		GetAccessStrategy(BAS_BULKREAD) : NULL;
	is_whole = visit_table(walk, blocks, was, was_pages, is);
	if (walk->strategy)
		FreeAccessStrategy(walk->strategy);
	pfree(walk);
	return is_whole;
}
