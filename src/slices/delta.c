/*
 * slices/delta.c
 *		What a refresh changed in a view.
 *
 * Two ways lead to the same net difference.  REFRESH CONCURRENTLY and our own
 * refresh change rows in place, so the view's heap itself tells: a row seen by
 * a snapshot from before and not by one from after is gone, the other way
 * round it came.  Pages that the visibility map calls all-visible hold no
 * change of this transaction, and nobody else can have changed the view under
 * its ExclusiveLock (which keeps vacuum away too).  A plain REFRESH swaps the
 * heap; then the newest version in the history is compared with the view.
 *
 * Either way the rows are paired by frame_id in SQL, equal images drop out,
 * and what is left is put into two tuplestores and the digest.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/visibilitymap.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "slices/refresh.h"

#define FETCH_ROWS 1000

/* Put the rows of one page that only one of the snapshots sees away. */
static void
compare_page(Relation rel, Buffer buffer, Snapshot before, Snapshot after,
			 Tuplestorestate *removed, Tuplestorestate *added)
{
	HeapTuple	found[MaxHeapTuplesPerPage];
	bool		is_new[MaxHeapTuplesPerPage];
	Page		page;
	OffsetNumber offset;
	int			count = 0;
	int			i;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	for (offset = FirstOffsetNumber;
		 offset <= PageGetMaxOffsetNumber(page);
		 offset = OffsetNumberNext(offset))
	{
		ItemId		item = PageGetItemId(page, offset);
		HeapTupleData tuple;
		bool		was;
		bool		is;

		if (!ItemIdIsNormal(item))
			continue;
		tuple.t_data = (HeapTupleHeader) PageGetItem(page, item);
		tuple.t_len = ItemIdGetLength(item);
		tuple.t_tableOid = RelationGetRelid(rel);
		ItemPointerSet(&tuple.t_self, BufferGetBlockNumber(buffer), offset);
		was = HeapTupleSatisfiesVisibility(&tuple, before, buffer);
		is = HeapTupleSatisfiesVisibility(&tuple, after, buffer);
		if (was == is)
			continue;
		is_new[count] = is;
		found[count++] = heap_copytuple(&tuple);
	}
	LockBuffer(buffer, BUFFER_LOCK_UNLOCK);

	for (i = 0; i < count; i++)
	{
		tuplestore_puttuple(is_new[i] ? added : removed, found[i]);
		heap_freetuple(found[i]);
	}
}

static void
compare_heap(Relation rel, Snapshot before, Snapshot after,
			 Tuplestorestate *removed, Tuplestorestate *added)
{
	BlockNumber blocks = RelationGetNumberOfBlocks(rel);
	BufferAccessStrategy strategy = GetAccessStrategy(BAS_BULKREAD);
	Buffer		map = InvalidBuffer;
	BlockNumber block;

	for (block = 0; block < blocks; block++)
	{
		Buffer		buffer;

		CHECK_FOR_INTERRUPTS();
		if (VM_ALL_VISIBLE(rel, block, &map))
			continue;
		buffer = ReadBufferExtended(rel, MAIN_FORKNUM, block, RBM_NORMAL,
									strategy);
		compare_page(rel, buffer, before, after, removed, added);
		ReleaseBuffer(buffer);
	}
	if (BufferIsValid(map))
		ReleaseBuffer(map);
	FreeAccessStrategy(strategy);
}

static AvcDelta *
delta_create(Relation rel)
{
	AvcDelta   *delta = palloc0_object(AvcDelta);

	delta->closed = tuplestore_begin_heap(false, false, work_mem);
	delta->opened = tuplestore_begin_heap(false, false, work_mem);
	delta->closed_desc = CreateTemplateTupleDesc(1);
	TupleDescInitEntry(delta->closed_desc, 1, "frame_id", INT8OID, -1, 0);
	delta->opened_desc = CreateTupleDescCopy(RelationGetDescr(rel));
	return delta;
}

void
avc_delta_free(AvcDelta *delta)
{
	if (delta->closed)
		tuplestore_end(delta->closed);
	if (delta->opened)
		tuplestore_end(delta->opened);
	pfree(delta);
}

/* One pair of the query's result: frame_id, old row, new row. */
static void
take_pair(AvcDelta *delta, AvcDigester *digester, HeapTuple pair,
		  TupleDesc desc)
{
	bool		no_frame;
	bool		is_added;
	bool		is_removed;
	Datum		frame_id = SPI_getbinval(pair, desc, 1, &no_frame);
	Datum		before = SPI_getbinval(pair, desc, 2, &is_added);
	Datum		after = SPI_getbinval(pair, desc, 3, &is_removed);

	if (no_frame)
		ereport(ERROR,
				(errcode(ERRCODE_NOT_NULL_VIOLATION),
				 errmsg("slice has a row without frame_id")));
	if (is_added)
		delta->added++;
	else if (is_removed)
		delta->removed++;
	else
		delta->changed++;

	if (!is_added)
	{
		avc_digest_subtract(digester, before);
		tuplestore_putvalues(delta->closed, delta->closed_desc, &frame_id,
							 &no_frame);
	}
	if (!is_removed)
	{
		HeapTupleHeader header = DatumGetHeapTupleHeader(after);
		HeapTupleData tuple;

		avc_digest_add(digester, after);
		tuple.t_len = HeapTupleHeaderGetDatumLength(header);
		ItemPointerSetInvalid(&tuple.t_self);
		tuple.t_tableOid = InvalidOid;
		tuple.t_data = header;
		tuplestore_puttuple(delta->opened, &tuple);
	}
}

/*
 * Run the pairing of two row sources, given as FROM items that yield the
 * slice's columns, and fill the delta.  SPI is connected.
 */
static void
pair_rows(const AvcSlice *slice, const char *old_rows, const char *new_rows,
		  AvcDelta *delta)
{
	AvcVersion *newest = NULL;
	MemoryContext scratch;
	AvcDigester *digester;
	StringInfoData sql;
	Portal		portal;

	if (slice->version > 0)
		newest = avc_version_find(slice, slice->version, false);
	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "SELECT coalesce(a.frame_id, r.frame_id), "
					 "r.old_row, a.new_row FROM "
					 "(SELECT o.frame_id, ROW(o.*) AS old_row FROM %s o) r "
					 "FULL JOIN "
					 "(SELECT n.frame_id, ROW(n.*) AS new_row FROM %s n) a "
					 "ON a.frame_id = r.frame_id "
					 "WHERE r.frame_id IS NULL OR a.frame_id IS NULL "
					 "OR r.old_row OPERATOR(pg_catalog.*<>) a.new_row "
					 "ORDER BY 1",
					 old_rows, new_rows);
	portal = SPI_cursor_open_with_args(NULL, sql.data, 0, NULL, NULL, NULL,
									   false, CURSOR_OPT_NO_SCROLL);
	scratch = AllocSetContextCreate(CurrentMemoryContext, "pairs of rows",
									ALLOCSET_DEFAULT_SIZES);
	digester = avc_digest_begin(newest ? newest->digest : NULL);
	for (;;)
	{
		MemoryContext old;
		uint64		i;

		CHECK_FOR_INTERRUPTS();
		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		if (SPI_processed == 0)
			break;
		old = MemoryContextSwitchTo(scratch);
		for (i = 0; i < SPI_processed; i++)
			take_pair(delta, digester, SPI_tuptable->vals[i],
					  SPI_tuptable->tupdesc);
		MemoryContextSwitchTo(old);
		MemoryContextReset(scratch);
		SPI_freetuptable(SPI_tuptable);
	}
	delta->digest = avc_digest_end(digester);
	delta->rows = (newest ? newest->rows : 0) + delta->added - delta->removed;
	MemoryContextDelete(scratch);
	SPI_cursor_close(portal);
}

AvcDelta *
avc_delta_by_comparison(const AvcSlice *slice, Relation rel, bool is_repair)
{
	AvcDelta   *delta = delta_create(rel);
	MemoryContext caller = CurrentMemoryContext;
	char	   *columns = avc_column_list(NULL, slice->columns);
	AvcRoleScope scope;

	avc_catalog_enter(&scope);
	SPI_connect();
	pair_rows(slice,
			  psprintf("(SELECT %s FROM %s WHERE to_version IS NULL)",
					   columns, slice->history_name),
			  slice->name, delta);
	if (is_repair)
		delta->digest = avc_digest_query(psprintf("SELECT ROW(n.*) FROM %s n",
												  slice->name),
										 0, NULL, false, &delta->rows);
	delta->digest = MemoryContextStrdup(caller, delta->digest);
	SPI_finish();
	avc_catalog_leave(&scope);
	return delta;
}

/* Is each removed row the newest in the history, and no added row there? */
static bool
fits_history(const AvcSlice *slice)
{
	avc_spi_exec(psprintf("SELECT 1 FROM removed_rows r WHERE NOT EXISTS "
						  "(SELECT FROM %s h WHERE h.frame_id = r.frame_id "
						  "AND h.to_version IS NULL "
						  "AND ROW(%s)::record OPERATOR(pg_catalog.*=) "
						  "ROW(r.*)::record) "
						  "UNION ALL "
						  "SELECT 1 FROM added_rows a WHERE EXISTS "
						  "(SELECT FROM %s h WHERE h.frame_id = a.frame_id "
						  "AND h.to_version IS NULL) AND NOT EXISTS "
						  "(SELECT FROM removed_rows r "
						  "WHERE r.frame_id = a.frame_id)",
						  slice->history_name,
						  avc_column_list("h", slice->columns),
						  slice->history_name),
				 0, NULL, false, 1);
	return SPI_processed == 0;
}

AvcDelta *
avc_delta_by_visibility(const AvcSlice *slice, Relation rel, Snapshot before)
{
	AvcDelta   *delta = delta_create(rel);
	Tuplestorestate *removed = tuplestore_begin_heap(false, false, work_mem);
	Tuplestorestate *added = tuplestore_begin_heap(false, false, work_mem);
	MemoryContext caller = CurrentMemoryContext;
	Snapshot	after = RegisterSnapshot(GetLatestSnapshot());
	bool		fits;
	AvcRoleScope scope;

	compare_heap(rel, before, after, removed, added);
	UnregisterSnapshot(after);

	avc_catalog_enter(&scope);
	SPI_connect();
	avc_rows_register("removed_rows", removed, delta->opened_desc);
	avc_rows_register("added_rows", added, delta->opened_desc);
	fits = fits_history(slice);
	if (fits)
	{
		pair_rows(slice, "removed_rows", "added_rows", delta);
		delta->digest = MemoryContextStrdup(caller, delta->digest);
	}
	SPI_finish();
	avc_catalog_leave(&scope);
	tuplestore_end(removed);
	tuplestore_end(added);
	if (fits)
		return delta;
	avc_delta_free(delta);
	return NULL;
}
