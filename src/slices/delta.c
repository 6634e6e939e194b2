/*
 * slices/delta.c
 *		What a refresh changed in a view.
 *
 * Four ways lead to the same net difference.  delta_rows.c has the one that
 * looks at the dataset's changed rows alone.  Where that cannot be,
 * refresh_slice compares the view with what its definition yields, before
 * anything is written.  REFRESH CONCURRENTLY changes rows in place, so the
 * view's heap itself tells: a row seen by a snapshot from before and not by
 * one from after is gone, the other way round it came.  Pages that the
 * visibility map calls all-visible hold no change of this transaction, and
 * nobody else can have changed the view under its ExclusiveLock (which keeps
 * vacuum away too).  A plain REFRESH swaps the heap; then the newest version
 * in the history is compared with the view.
 *
 * In the three ways here rows are paired by frame_id in SQL, equal images
 * drop out, and what is left is put into two tuplestores and the digest.
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

AvcDelta *
avc_delta_create(Relation rel)
{
	AvcDelta   *delta = palloc0_object(AvcDelta);

	delta->closed = tuplestore_begin_heap(false, false, work_mem);
	delta->opened = tuplestore_begin_heap(false, false, work_mem);
	delta->closed_desc = CreateTemplateTupleDesc(2);
	TupleDescInitEntry(delta->closed_desc, 1, "frame_id", INT8OID, -1, 0);
	TupleDescInitEntry(delta->closed_desc, 2, "place", TIDOID, -1, 0);
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

void
avc_delta_count(AvcDelta *delta, bool is_added, bool is_removed)
{
	if (is_added)
		delta->added++;
	else if (is_removed)
		delta->removed++;
	else
		delta->changed++;
}

/*
 * One pair of the query's result: frame_id, old row, new row, place of old,
 * and which of the frame's new rows it is.
 */
static void
take_pair(const AvcSlice *slice, AvcDelta *delta, AvcDigester *digester,
		  HeapTuple pair, TupleDesc desc)
{
	Datum		closed[2];
	bool		closed_nulls[2];
	bool		is_added;
	bool		is_removed;
	bool		is_null;
	Datum		before = SPI_getbinval(pair, desc, 2, &is_added);
	Datum		after = SPI_getbinval(pair, desc, 3, &is_removed);
	Datum		copy = SPI_getbinval(pair, desc, 5, &is_null);

	closed[0] = SPI_getbinval(pair, desc, 1, &closed_nulls[0]);
	closed[1] = SPI_getbinval(pair, desc, 4, &closed_nulls[1]);
	if (closed_nulls[0])
		ereport(ERROR,
				(errcode(ERRCODE_NOT_NULL_VIOLATION),
				 errmsg("slice %s has a row without frame_id", slice->name)));
	if (!is_null && DatumGetInt64(copy) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_UNIQUE_VIOLATION),
				 errmsg("the definition of slice %s yields frame " INT64_FORMAT " more than once",
						slice->name, DatumGetInt64(closed[0]))));
	avc_delta_count(delta, is_added, is_removed);
	if (!is_added)
	{
		avc_digest_subtract(digester, before);
		tuplestore_putvalues(delta->closed, delta->closed_desc, closed,
							 closed_nulls);
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
 * The query that pairs rows by frame_id: old_rows yields frame_id, old_row,
 * place; new_rows frame_id, new_row, copy (counted from 1 for each frame).
 */
static char *
pair_query(const char *old_rows, const char *new_rows)
{
	return psprintf("SELECT coalesce(a.frame_id, r.frame_id), "
					"r.old_row, a.new_row, r.place, a.copy "
					"FROM (%s) r FULL JOIN (%s) a ON a.frame_id = r.frame_id "
					"WHERE r.frame_id IS NULL OR a.frame_id IS NULL "
					"OR a.copy > 1 "
					"OR r.old_row OPERATOR(pg_catalog.*<>) a.new_row "
					"ORDER BY 1", old_rows, new_rows);
}

#define OLD_ROWS "SELECT o.frame_id, ROW(o.*) AS old_row, %s AS place FROM %s o"
#define NEW_ROWS "SELECT n.frame_id, ROW(n.*) AS new_row, %s AS copy FROM %s n"
#define NO_PLACE "NULL::pg_catalog.tid"

/* Where a frame has one row at most, and where that is to be seen. */
#define ONE_COPY "1::bigint"
#define COUNTED "pg_catalog.row_number() OVER (PARTITION BY n.frame_id)"

AvcVersion *
avc_version_newest(const AvcSlice *slice)
{
	AvcVersion *newest;

	if (slice->version == 0)
		return NULL;
	newest = avc_version_find(slice, slice->version, false);
	if (newest == NULL)
		elog(ERROR, "slice %s has lost its newest version", slice->name);
	avc_version_leave_erased(newest);
	return newest;
}

/*
 * Run the pairing query and fill the delta.  SPI is connected; the current
 * user is who may run the query.
 */
static void
pair_rows(const AvcSlice *slice, const AvcVersion *newest, const char *sql,
		  AvcDelta *delta)
{
	MemoryContext context = GetMemoryChunkContext(delta);
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext,
												  "pairs of rows",
												  ALLOCSET_DEFAULT_SIZES);
	AvcDigester *digester = avc_digest_begin(newest ? newest->digest : NULL);
	Portal		portal = avc_spi_cursor(sql, 0, NULL, false);

	for (;;)
	{
		MemoryContext old;
		uint64		i;

		CHECK_FOR_INTERRUPTS();
		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		if (SPI_processed == 0)
			break;
		old = MemoryContextSwitchTo(scratch);
		avc_digest_pin(digester);
		for (i = 0; i < SPI_processed; i++)
			take_pair(slice, delta, digester, SPI_tuptable->vals[i],
					  SPI_tuptable->tupdesc);
		avc_digest_unpin(digester);
		MemoryContextSwitchTo(old);
		MemoryContextReset(scratch);
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(portal);
	delta->digest = MemoryContextStrdup(context, avc_digest_end(digester));
	delta->rows = (newest ? newest->rows : 0) + delta->added - delta->removed;
	MemoryContextDelete(scratch);
}

AvcDelta *
avc_delta_by_comparison(const AvcSlice *slice, Relation rel, bool is_repair)
{
	AvcDelta   *delta = avc_delta_create(rel);
	Tuplestorestate *held;
	AvcVersion *newest;
	AvcRoleScope scope;

	avc_catalog_enter(&scope);
	SPI_connect();
	newest = avc_version_newest(slice);
	held = avc_rows_collect(psprintf("SELECT %s FROM %s h "
									 "WHERE h.to_version IS NULL",
									 newest ?
									 avc_history_columns(slice, newest, "h") :
									 avc_column_list("h", slice->columns),
									 slice->history_name),
							0, NULL, false, NULL);
	avc_catalog_leave(&scope);

	/* as the view's: the history has other types for domains */
	avc_rows_register("held_rows", held, RelationGetDescr(rel));
	avc_role_enter(&scope, rel->rd_rel->relowner);
	pair_rows(slice, newest,
			  pair_query(psprintf(OLD_ROWS, NO_PLACE, "held_rows"),
						 psprintf(NEW_ROWS, ONE_COPY, slice->name)), delta);
	if (is_repair)
	{
		char	   *digest;

		digest = avc_digest_query(psprintf("SELECT ROW(n.*) FROM %s n",
										   slice->name),
								  0, NULL, false, &delta->rows);
		delta->digest = MemoryContextStrdup(GetMemoryChunkContext(delta),
											digest);
	}
	avc_role_leave(&scope);
	tuplestore_end(held);
	SPI_finish();
	return delta;
}

bool
avc_delta_fits_view(const AvcSlice *slice, Relation rel)
{
	AvcVersion *newest;
	AvcRoleScope scope;
	int64		rows;

	avc_catalog_enter(&scope);
	SPI_connect();
	newest = avc_version_newest(slice);
	avc_catalog_leave(&scope);

	avc_role_enter(&scope, rel->rd_rel->relowner);
	rows = avc_spi_int64(psprintf("SELECT pg_catalog.count(*) FROM %s",
								  slice->name), 0, NULL, 0);
	avc_role_leave(&scope);
	rows -= newest ? newest->rows : 0;
	SPI_finish();
	return rows == 0;
}

AvcDelta *
avc_delta_by_definition(const AvcSlice *slice, Relation rel,
						const char *definition, bool is_unique)
{
	AvcDelta   *delta = avc_delta_create(rel);
	AvcParam	param = AVC_OID(slice->relid);
	AvcVersion *newest;
	AvcRoleScope scope;
	bool		is_null;

	avc_catalog_enter(&scope);
	avc_pin_text_format();
	SPI_connect();
	newest = avc_version_newest(slice);
	/* with every name qualified, as the search_path of this scope is empty */
	if (definition == NULL)
		definition = TextDatumGetCString(avc_spi_value("SELECT rtrim("
													   "pg_catalog.pg_get_viewdef($1), ';')",
													   1, &param,
													   CurrentMemoryContext,
													   &is_null));
	avc_catalog_leave(&scope);

	avc_role_enter(&scope, rel->rd_rel->relowner);
	pair_rows(slice, newest,
			  pair_query(psprintf(OLD_ROWS, "o.ctid", slice->name),
						 psprintf(NEW_ROWS, is_unique ? ONE_COPY : COUNTED,
								  psprintf("(%s)", definition))), delta);
	avc_role_leave(&scope);
	SPI_finish();
	return delta;
}

AvcDelta *
avc_delta_by_visibility(const AvcSlice *slice, Relation rel, Snapshot before)
{
	AvcDelta   *delta = avc_delta_create(rel);
	Tuplestorestate *removed = tuplestore_begin_heap(false, false, work_mem);
	Tuplestorestate *added = tuplestore_begin_heap(false, false, work_mem);
	Snapshot	after = RegisterSnapshot(GetLatestSnapshot());
	bool		fits;
	AvcRoleScope scope;

	compare_heap(rel, before, after, removed, added);
	UnregisterSnapshot(after);

	avc_catalog_enter(&scope);
	SPI_connect();
	avc_rows_register("removed_rows", removed, delta->opened_desc);
	avc_rows_register("added_rows", added, delta->opened_desc);
	pair_rows(slice, avc_version_newest(slice),
			  pair_query(psprintf(OLD_ROWS, NO_PLACE, "removed_rows"),
						 psprintf(NEW_ROWS, ONE_COPY, "added_rows")), delta);
	fits = avc_history_fits(slice, delta, removed);
	SPI_finish();
	avc_catalog_leave(&scope);
	tuplestore_end(removed);
	tuplestore_end(added);
	if (fits)
		return delta;
	avc_delta_free(delta);
	return NULL;
}
