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
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "storage/bufmgr.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "slices/page_walk.h"
#include "slices/recent_pages.h"
#include "slices/watermark_state.h"

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
	TupleVisitor visit;
	void	   *arg;
	/* the rows of one page that count */
	int			count;
	HeapTupleData found[MaxHeapTuplesPerPage];
	PGAlignedBlock copies;
} Walk;

/* ---- the visibility map ---- */

static void
allocate_maps(AvcTableMark *table, BlockNumber blocks)
{
	table->map_pages = avc_map_pages(blocks);
	table->maps = palloc0_array(XLogRecPtr, table->map_pages + 1);
}

static void
note_maps(AvcTableMark *table, Relation rel)
{
	uint32		i;

	allocate_maps(table, RelationGetNumberOfBlocks(rel));
	for (i = 0; i < table->map_pages; i++)
		table->maps[i] = avc_map_lsn(rel, i);
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
visit_page(void *arg, Buffer buffer)
{
	Walk	   *walk = arg;
	Page		page = BufferGetPage(buffer);
	int			i;

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

/* Visit what may have come to the table; false if the visitor stopped it. */
static bool
walk_table(Walk *walk)
{
	BlockNumber blocks = RelationGetNumberOfBlocks(walk->rel);

	walk->cut = avc_watermark_cut(walk->old, walk->was);
	allocate_maps(walk->is, blocks);
	return avc_walk_pages(walk->rel, blocks, walk->was->maps,
						  walk->was->map_pages, walk->is->maps, visit_page,
						  walk);
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
