/*
 * slices/discover.c
 *		The walk over a dataset, and over the tombstones, that finds what
 *		changed since a watermark.
 *
 * watermark.c says why pages may be skipped.  Of a page that may not, every
 * tuple's xmin is looked at, the rows that count are copied under its lock
 * and handed out without it.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/visibilitymap.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "slices/recent_pages.h"
#include "slices/watermark_state.h"

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

typedef bool (*TupleVisitor) (void *arg, HeapTuple tuple);

typedef struct Walk
{
	const AvcWatermark *old;
	AvcWatermark *now;
	const AvcTableMark *was;
	AvcTableMark *is;
	Relation	rel;
	XLogRecPtr	cut;
	uint32		span;
	BufferAccessStrategy strategy;
	TupleVisitor visit;
	void	   *arg;
	MapBits		bits;
	BlockNumber waiting[AHEAD]; /* pages to visit, a ring */
	int			waiting_first;
	int			waiting_count;
	/* the rows of one page that count */
	int			count;
	HeapTupleData found[MaxHeapTuplesPerPage];
	PGAlignedBlock copies;
} Walk;

/* ---- the visibility map ---- */

/*
 * LSN of a page of the map, and its bits if wanted, as of one moment.
 * Invalid if there is no such page or it cannot be relied on.
 */
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

static uint32
map_pages(BlockNumber blocks)
{
	return (blocks + MAP_BLOCKS - 1) / MAP_BLOCKS;
}

static void
allocate_maps(AvcTableMark *table, BlockNumber blocks)
{
	table->map_pages = map_pages(blocks);
	table->maps = palloc0_array(XLogRecPtr, table->map_pages + 1);
}

static void
note_maps(AvcTableMark *table, Relation rel)
{
	uint32		i;

	allocate_maps(table, RelationGetNumberOfBlocks(rel));
	for (i = 0; i < table->map_pages; i++)
		table->maps[i] = read_map(rel, i, NULL);
}

void
avc_watermark_note_maps(AvcWatermark *mark, Relation base)
{
	Relation	tombstones = table_open(mark->tombstones.relid,
										AccessShareLock);

	note_maps(&mark->base, base);
	note_maps(&mark->tombstones, tombstones);
	table_close(tombstones, NoLock);
}

/* ---- the walk ---- */

static void
copy_tuple(Walk *walk, const HeapTupleData *tuple, Size *used)
{
	HeapTuple	copy = &walk->found[walk->count++];

	*copy = *tuple;
	copy->t_data = (HeapTupleHeader) (walk->copies.data + *used);
	memcpy(copy->t_data, tuple->t_data, tuple->t_len);
	*used += MAXALIGN(tuple->t_len);
}

/* Keep the rows of a locked page that count. */
static void
search_page(Walk *walk, Buffer buffer, Page page)
{
	Snapshot	snapshot = walk->now->snapshot;
	OffsetNumber last = PageGetMaxOffsetNumber(page);
	OffsetNumber offset;
	Size		used = 0;

	TestForOldSnapshot(snapshot, walk->rel, page);
	for (offset = FirstOffsetNumber; offset <= last; offset++)
	{
		ItemId		item = PageGetItemId(page, offset);
		HeapTupleData tuple;

		if (!ItemIdIsNormal(item))
			continue;
		tuple.t_data = (HeapTupleHeader) PageGetItem(page, item);
		if (!avc_watermark_misses(walk->old,
								  HeapTupleHeaderGetRawXmin(tuple.t_data),
								  walk->span))
			continue;
		tuple.t_len = ItemIdGetLength(item);
		tuple.t_tableOid = RelationGetRelid(walk->rel);
		ItemPointerSet(&tuple.t_self, BufferGetBlockNumber(buffer), offset);
		if (HeapTupleSatisfiesVisibility(&tuple, snapshot, buffer))
			copy_tuple(walk, &tuple, &used);
	}
}

static bool
visit_page(Walk *walk, BlockNumber block)
{
	Buffer		buffer = avc_recent_page_read(walk->rel, block,
											  walk->strategy);
	Page		page = BufferGetPage(buffer);
	int			i;

	CHECK_FOR_INTERRUPTS();
	walk->count = 0;
	walk->now->pages_read++;
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	/* setting a hint bit changes the LSN under a share lock like ours */
	if (XLogRecPtrIsInvalid(walk->cut) ||
		BufferGetLSNAtomic(buffer) > walk->cut)
	{
		walk->now->pages_searched++;
		search_page(walk, buffer, page);
	}
	UnlockReleaseBuffer(buffer);

	for (i = 0; i < walk->count; i++)
	{
		if (!walk->visit(walk->arg, &walk->found[i]))
			return false;
	}
	return true;
}

/* Visit the pages that wait, but for the last so many. */
static bool
visit_waiting(Walk *walk, int remaining)
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
visit_soon(Walk *walk, BlockNumber block)
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
visit_pages(Walk *walk, BlockNumber from, BlockNumber to, const MapBits *bits)
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
visit_table(Walk *walk, BlockNumber blocks)
{
	uint32		i;

	for (i = 0; i < walk->is->map_pages; i++)
	{
		XLogRecPtr	lsn = read_map(walk->rel, i, &walk->bits);
		bool		is_same = !XLogRecPtrIsInvalid(lsn) &&
		i < walk->was->map_pages && walk->was->maps[i] == lsn;

		walk->is->maps[i] = lsn;
		CHECK_FOR_INTERRUPTS();
		if (!visit_pages(walk, i * MAP_BLOCKS,
						 Min(blocks, (i + 1) * MAP_BLOCKS),
						 is_same ? &walk->bits : NULL))
			return false;
	}
	return true;
}

/* Visit what may have come to the table; false if the visitor stopped it. */
static bool
walk_table(Walk *walk)
{
	BlockNumber blocks = RelationGetNumberOfBlocks(walk->rel);
	bool		is_whole;

	walk->cut = avc_watermark_cut(walk->old, walk->was);
	/* as PostgreSQL's own scans: a large table is not to fill the cache */
	walk->strategy = blocks > NBuffers / 4 ?
		GetAccessStrategy(BAS_BULKREAD) : NULL;
	allocate_maps(walk->is, blocks);
	is_whole = visit_table(walk, blocks);
	if (walk->strategy)
		FreeAccessStrategy(walk->strategy);
	return is_whole;
}

/* ---- deleted frames ---- */

Oid
avc_dataset_key(Relation base)
{
	Oid			key = RelationGetPrimaryKeyIndex(base);
	AttrNumber	frame_id = get_attnum(RelationGetRelid(base), "frame_id");
	Relation	index;
	bool		fits;

	if (!OidIsValid(key))
		return InvalidOid;
	index = index_open(key, AccessShareLock);
	fits = index->rd_index->indisvalid && index->rd_index->indnkeyatts == 1 &&
		index->rd_index->indkey.values[0] == frame_id &&
		index->rd_opcintype[0] == INT8OID;
	index_close(index, NoLock);
	return fits ? key : InvalidOid;
}

typedef struct Finder
{
	AvcWatermark *now;
	Relation	base;
	AvcRowVisitor visit_row;
	AvcKeyVisitor visit_deleted;
	void	   *arg;
	TupleDesc	tombstone;
	/* to look whether a frame is there all the same; NULL = no need */
	Relation	index;
	IndexScanDesc scan;
	TupleTableSlot *slot;
} Finder;

static void
begin_lookup(Finder *finder)
{
	finder->index = index_open(avc_dataset_key(finder->base), AccessShareLock);
	finder->scan = index_beginscan(finder->base, finder->index,
								   finder->now->snapshot, 1, 0);
	finder->slot = table_slot_create(finder->base, NULL);
}

static void
end_lookup(Finder *finder)
{
	ExecDropSingleTupleTableSlot(finder->slot);
	index_endscan(finder->scan);
	index_close(finder->index, NoLock);
}

static bool
is_there(Finder *finder, Datum frame_id)
{
	ScanKeyData key;
	bool		found;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, frame_id);
	index_rescan(finder->scan, &key, 1, NULL, 0);
	found = index_getnext_slot(finder->scan, ForwardScanDirection,
							   finder->slot);
	ExecClearTuple(finder->slot);
	return found;
}

static bool
visit_row(void *arg, HeapTuple tuple)
{
	Finder	   *finder = arg;

	finder->now->hits++;
	return finder->visit_row(finder->arg, tuple);
}

static bool
visit_tombstone(void *arg, HeapTuple tuple)
{
	Finder	   *finder = arg;
	bool		is_null;
	Oid			dataset = DatumGetObjectId(heap_getattr(tuple, 1,
														finder->tombstone,
														&is_null));
	Datum		frame_id = heap_getattr(tuple, 2, finder->tombstone, &is_null);

	if (dataset != RelationGetRelid(finder->base))
		return true;
	finder->now->hits++;
	if (finder->index && is_there(finder, frame_id))
		return true;
	return finder->visit_deleted(finder->arg, DatumGetInt64(frame_id));
}

static bool
walk_both(Walk *walk, Finder *finder, Relation tombstones)
{
	walk->rel = finder->base;
	walk->was = &walk->old->base;
	walk->is = &walk->now->base;
	walk->visit = visit_row;
	if (!walk_table(walk))
		return false;
	walk->rel = tombstones;
	walk->was = &walk->old->tombstones;
	walk->is = &walk->now->tombstones;
	walk->visit = visit_tombstone;
	return walk_table(walk);
}

bool
avc_discover(const AvcWatermark *old, AvcWatermark *now, Relation base,
			 AvcRowVisitor take_row, AvcKeyVisitor take_deleted, void *arg)
{
	Relation	tombstones = table_open(now->tombstones.relid,
										AccessShareLock);
	Walk	   *walk = palloc(sizeof(Walk));
	Finder		finder = {now, base, take_row, take_deleted, arg};

	walk->old = old;
	walk->now = now;
	walk->arg = &finder;
	walk->span = avc_watermark_span(old);
	walk->waiting_first = 0;
	walk->waiting_count = 0;
	avc_recent_pages_use(base, RelationGetNumberOfBlocks(base));
	finder.tombstone = RelationGetDescr(tombstones);
	if (old->is_inexact)
		begin_lookup(&finder);
	now->is_walked = walk_both(walk, &finder, tombstones);
	if (finder.index)
		end_lookup(&finder);
	pfree(walk);
	table_close(tombstones, NoLock);
	return now->is_walked;
}
