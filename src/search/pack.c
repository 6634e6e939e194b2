/*
 * search/pack.c
 *		Bring a pack up to date with its dataset.
 *
 * A page whose LSN is the one remembered holds what it held; the others, but
 * for those that the visibility map answers for, are read again.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/xact.h"
#include "catalog/pg_am_d.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "search/pack_page.h"
#include "slices/page_walk.h"
#include "slices/recent_pages.h"

/* Advisory locks of users have 1 or 2 in this place. */
#define LOCK_KIND 4

#define FEW_SLOTS 1024			/* not worth another file */

/* ---- the walk ---- */

static bool
visit_page(void *arg, Buffer buffer)
{
	PackSync   *sync = arg;
	PackFile   *file = sync->file;
	BlockNumber block = BufferGetBlockNumber(buffer);
	bool		is_same;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	sync->page.block = block;
	sync->page.lsn = BufferGetLSNAtomic(buffer);
	is_same = block < file->header.blocks &&
		!XLogRecPtrIsInvalid(sync->page.lsn) &&
		pack_blocks(file)[block].lsn == sync->page.lsn;
	if (!is_same && !sync->is_reading)
		avc_pack_page_copy(sync, buffer);
	UnlockReleaseBuffer(buffer);
	return is_same || (!sync->is_reading && avc_pack_page_put(sync));
}

/* Rows of pages that the table has no more. */
static bool
drop_pages(PackSync *sync)
{
	PackHeader *header = &sync->file->header;

	while (header->blocks > sync->table_blocks)
	{
		sync->page.block = header->blocks - 1;
		sync->page.lsn = InvalidXLogRecPtr;
		sync->page.last = 0;
		if (!avc_pack_page_put(sync))
			return false;
		header->blocks--;
	}
	return true;
}

/* Compare with all pages; false if the pack could not be made to agree. */
static bool
walk(PackSync *sync)
{
	PackFile   *file = sync->file;
	BlockNumber blocks = sync->table_blocks;
	uint32		was_pages = file->header.map_pages;
	Size		size = sizeof(XLogRecPtr) * was_pages;
	XLogRecPtr *was = palloc(size + 1);
	XLogRecPtr *is = palloc0_array(XLogRecPtr, avc_map_pages(blocks) + 1);

	memcpy(was, file->map + file->parts.maps, size);
	avc_recent_pages_use(file->rel, blocks);
	if (!avc_walk_pages(file->rel, blocks, was, was_pages, is, visit_page,
						sync))
		return false;
	if (was_pages == avc_map_pages(blocks) && memcmp(was, is, size) == 0 &&
		file->header.blocks == blocks)
		return true;
	if (sync->is_reading)
		return false;
	file->header.map_pages = avc_map_pages(blocks);
	file->header.blocks = blocks;
	return avc_pack_put(file, file->parts.maps, is,
						sizeof(XLogRecPtr) * file->header.map_pages) &&
		avc_pack_put_header(file);
}

/* Most of the vectors have another number of numbers: begin anew with that. */
static bool
is_mostly_odd(const PackHeader *header)
{
	return header->odd_numbers > 0 &&
		header->odd > (header->slots - header->dead) / 2;
}

static bool
is_mostly_dead(const PackHeader *header)
{
	return header->dead > FEW_SLOTS && header->dead > header->slots / 2;
}

/* Is there nothing to write? */
static bool
is_current(PackSync *sync)
{
	const PackHeader *header = &sync->file->header;

	sync->table_blocks = RelationGetNumberOfBlocks(sync->file->rel);
	return header->blocks == sync->table_blocks && walk(sync) &&
		!is_mostly_odd(header) && !is_mostly_dead(header);
}

static bool
sync_file(PackSync *sync)
{
	PackFile   *file = sync->file;
	PackHeader *header = &file->header;

	sync->table_blocks = RelationGetNumberOfBlocks(file->rel);
	if (sync->table_blocks > header->block_room &&
		!avc_pack_file_remake(file, header->numbers, header->slot_room,
							  sync->table_blocks + sync->table_blocks / 4 +
							  64))
		return false;
	if (!drop_pages(sync) || !walk(sync))
		return false;
	if (is_mostly_odd(header))
		return avc_pack_file_clear(file, header->odd_numbers) && walk(sync);
	if (is_mostly_dead(header))
		return avc_pack_file_remake(file, header->numbers,
									(header->slots - header->dead) * 1.25 +
									FEW_SLOTS, header->block_room);
	return true;
}

/* ---- opening ---- */

/* Why pages of the table cannot be told to be unchanged by their LSN. */
static const char *
find_obstacle(Relation rel, Snapshot snapshot)
{
	if (rel->rd_rel->relam != HEAP_TABLE_AM_OID || !RelationNeedsWAL(rel) ||
		rel->rd_rel->relpersistence != RELPERSISTENCE_PERMANENT)
		return "the dataset is not a logged table";
	if (rel->rd_createSubid != InvalidSubTransactionId ||
		rel->rd_firstRelfilenodeSubid != InvalidSubTransactionId)
		return "the dataset was made or rewritten by this transaction";
	if (!IsMVCCSnapshot(snapshot) || OldSnapshotThresholdActive())
		return "old_snapshot_threshold is set";
	if (IsolationIsSerializable())
		return "the transaction is SERIALIZABLE";
	return NULL;
}

/* Does the pack lack rows that an older snapshot may see? */
static bool
is_too_old(const PackHeader *header, Snapshot snapshot)
{
	FullTransactionId next = ReadNextFullTransactionId();
	uint64		xmin = U64FromFullTransactionId(next) +
	(int32) (snapshot->xmin - XidFromFullTransactionId(next));

	return header->horizon >= xmin;
}

static void
set_lock(LOCKTAG *tag, Relation rel, AttrNumber column)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, RelationGetRelid(rel), column,
						 LOCK_KIND);
}

static void
fill_pack(AvcPack *pack, const PackFile *file)
{
	pack->slots = file->header.slots;
	pack->odd = file->header.odd;
	pack->numbers = file->header.numbers;
	pack->keys = pack_keys(file);
	pack->tuples = pack_tuples(file);
	pack->codes = (const int8 *) (file->map + file->parts.codes);
	pack->vectors = (const float *) (file->map + file->parts.vectors);
}

/*
 * Open the file and have it agree with the dataset.  Searches that find
 * nothing to write do that side by side; with the lock for writers all are
 * kept out.
 */
static bool
open_current(PackSync *sync, Relation rel, AttrNumber column, LOCKTAG *tag,
			 LOCKMODE *mode)
{
	PackFile   *file = sync->file;

	*mode = ShareLock;
	(void) LockAcquire(tag, *mode, false, false);
	sync->is_reading = true;
	if (avc_pack_file_open(file, rel, column, false) && is_current(sync))
		return true;
	avc_pack_file_close(file);
	(void) LockRelease(tag, *mode, false);
	*mode = ExclusiveLock;
	(void) LockAcquire(tag, *mode, false, false);
	sync->is_reading = false;
	return avc_pack_file_open(file, rel, column, true) && sync_file(sync);
}

AvcPack *
avc_pack_open(Relation rel, AttrNumber column, Snapshot snapshot,
			  const char **why)
{
	AvcPack    *pack = palloc0_object(AvcPack);
	PackFile	file;
	PackSync   *sync;
	LOCKTAG		tag;
	LOCKMODE	mode;

	*why = find_obstacle(rel, snapshot);
	if (*why)
		return NULL;
	set_lock(&tag, rel, column);
	sync = palloc(sizeof(PackSync));
	sync->file = &file;
	sync->snapshot = snapshot;
	sync->frame_id = get_attnum(RelationGetRelid(rel), "frame_id");
	sync->page_context = AllocSetContextCreate(CurrentMemoryContext,
											   "avcurate page of a pack",
											   ALLOCSET_DEFAULT_SIZES);
	if (!open_current(sync, rel, column, &tag, &mode))
		*why = "the file of packed vectors could not be written";
	else if (is_too_old(&file.header, snapshot))
		*why = "the snapshot is older than what the packed vectors hold";
	else
		fill_pack(pack, &file);
	avc_pack_file_close(&file);
	(void) LockRelease(&tag, mode, false);
	MemoryContextDelete(sync->page_context);
	pfree(sync);
	return *why ? NULL : pack;
}

bool
avc_pack_row_is(Relation rel, const AvcPackTuple *tuple, Snapshot snapshot)
{
	HeapTupleData row;
	Buffer		buffer;
	bool		is_it;

	if (!BlockNumberIsValid(tuple->block))
		return false;
	ItemPointerSet(&row.t_self, tuple->block, tuple->offset);
	if (!heap_fetch(rel, snapshot, &row, &buffer, false))
		return false;
	is_it = HeapTupleHeaderGetRawXmin(row.t_data) == tuple->xmin;
	ReleaseBuffer(buffer);
	return is_it;
}
