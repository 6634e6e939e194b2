/*
 * slices/watermark_store.c
 *		Watermarks as rows of _avcurate.slice_watermarks.
 *
 * The rows are read and written without SQL: a refresh that finds nothing
 * new is to cost next to nothing.  A state that is not, to the byte, what was
 * written counts as none, and so does one of another layout.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "lib/stringinfo.h"
#include "port/pg_crc32c.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "common/spi.h"
#include "slices/watermark_state.h"

/* Change it with whatever is put or with what it means. */
#define LAYOUT 2

/* ---- stored form ---- */

static void
put(StringInfo out, const void *data, Size size)
{
	appendBinaryStringInfo(out, data, size);
}

#define PUT(out, field) put(out, &(field), sizeof(field))

static void
put_table(StringInfo out, const AvcTableMark *table)
{
	PUT(out, table->relid);
	PUT(out, table->node);
	PUT(out, table->safe);
	PUT(out, table->map_pages);
	put(out, table->maps, sizeof(XLogRecPtr) * table->map_pages);
}

static bytea *
pack(const AvcWatermark *mark)
{
	StringInfoData out;
	uint32		layout = LAYOUT;
	pg_crc32c	crc = 0;
	uint32		i;

	initStringInfo(&out);
	appendStringInfoSpaces(&out, VARHDRSZ);
	PUT(&out, layout);
	PUT(&out, crc);
	PUT(&out, mark->system);
	PUT(&out, mark->database);
	PUT(&out, mark->fingerprint);
	PUT(&out, mark->watch);
	PUT(&out, mark->next);
	PUT(&out, mark->lsn);
	PUT(&out, mark->xmin);
	PUT(&out, mark->xmax);
	PUT(&out, mark->is_inexact);
	PUT(&out, mark->pruned_at);
	PUT(&out, mark->open_count);
	put(&out, mark->open, sizeof(uint32) * mark->open_count);
	PUT(&out, mark->pair_count);
	for (i = 0; i < mark->pair_count; i++)
		PUT(&out, mark->pairs[i]);
	put_table(&out, &mark->base);
	put_table(&out, &mark->tombstones);

	SET_VARSIZE(out.data, out.len);
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, out.data + VARHDRSZ, out.len - VARHDRSZ);
	FIN_CRC32C(crc);
	memcpy(out.data + VARHDRSZ + sizeof(layout), &crc, sizeof(crc));
	return (bytea *) out.data;
}

typedef struct Reader
{
	const char *next;
	Size		left;
	bool		is_bad;
} Reader;

static void
get(Reader *in, void *data, Size size)
{
	if (in->is_bad || in->left < size)
	{
		in->is_bad = true;
		memset(data, 0, size);
		return;
	}
	memcpy(data, in->next, size);
	in->next += size;
	in->left -= size;
}

#define GET(in, field) get(in, &(field), sizeof(field))

/* An array, behind its length. */
static void *
get_array(Reader *in, uint32 *count, Size size)
{
	void	   *array;

	GET(in, *count);
	if (in->is_bad || *count > in->left / size)
	{
		in->is_bad = true;
		*count = 0;
	}
	array = palloc(size * *count + 1);
	get(in, array, size * *count);
	return array;
}

static void
get_table(Reader *in, AvcTableMark *table)
{
	GET(in, table->relid);
	GET(in, table->node);
	GET(in, table->safe);
	table->maps = get_array(in, &table->map_pages, sizeof(XLogRecPtr));
}

static bool
is_ascending(const AvcWatermark *mark)
{
	uint32		i;

	for (i = 1; i < mark->open_count; i++)
	{
		if (mark->open[i] <= mark->open[i - 1])
			return false;
	}
	for (i = 1; i < mark->pair_count; i++)
	{
		if (mark->pairs[i].lsn <= mark->pairs[i - 1].lsn ||
			FullTransactionIdPrecedes(mark->pairs[i].next,
									  mark->pairs[i - 1].next))
			return false;
	}
	return FullTransactionIdPrecedesOrEquals(mark->xmin, mark->xmax);
}

static bool
is_intact(const bytea *state)
{
	Size		length = VARSIZE_ANY_EXHDR(state);
	const char *data = VARDATA_ANY(state);
	uint32		layout;
	pg_crc32c	stored;
	pg_crc32c	zero = 0;
	pg_crc32c	crc;

	if (length < sizeof(layout) + sizeof(stored))
		return false;
	memcpy(&layout, data, sizeof(layout));
	memcpy(&stored, data + sizeof(layout), sizeof(stored));
	if (layout != LAYOUT)
		return false;
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, data, sizeof(layout));
	COMP_CRC32C(crc, &zero, sizeof(zero));
	COMP_CRC32C(crc, data + sizeof(layout) + sizeof(stored),
				length - sizeof(layout) - sizeof(stored));
	FIN_CRC32C(crc);
	return EQ_CRC32C(crc, stored);
}

/* NULL unless every byte is as pack left it. */
static AvcWatermark *
unpack(const bytea *state)
{
	AvcWatermark *mark = palloc0_object(AvcWatermark);
	AvcXidPair *pairs;
	Reader		in;

	if (!is_intact(state))
		return NULL;
	in.is_bad = false;
	in.next = VARDATA_ANY(state) + sizeof(uint32) + sizeof(pg_crc32c);
	in.left = VARSIZE_ANY_EXHDR(state) - sizeof(uint32) - sizeof(pg_crc32c);
	GET(&in, mark->system);
	GET(&in, mark->database);
	GET(&in, mark->fingerprint);
	GET(&in, mark->watch);
	GET(&in, mark->next);
	GET(&in, mark->lsn);
	GET(&in, mark->xmin);
	GET(&in, mark->xmax);
	GET(&in, mark->is_inexact);
	GET(&in, mark->pruned_at);
	mark->open = get_array(&in, &mark->open_count, sizeof(uint32));
	pairs = get_array(&in, &mark->pair_count, sizeof(AvcXidPair));
	if (mark->pair_count > AVC_MAX_PAIRS)
		return NULL;
	memcpy(mark->pairs, pairs, sizeof(AvcXidPair) * mark->pair_count);
	get_table(&in, &mark->base);
	get_table(&in, &mark->tombstones);
	if (in.is_bad || in.left > 0 || !is_ascending(mark))
		return NULL;
	return mark;
}

/* ---- the table ---- */

static Relation
open_marks(LOCKMODE lock)
{
	return table_open(get_relname_relid("slice_watermarks",
										get_namespace_oid("_avcurate", false)),
					  lock);
}

/* A slice's row as a snapshot sees it, copied; NULL if there is none. */
static HeapTuple
find_row(Relation marks, int64 slice_id, Snapshot snapshot)
{
	Oid			index = RelationGetPrimaryKeyIndex(marks);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(slice_id));
	snapshot = RegisterSnapshot(snapshot);
	scan = systable_beginscan(marks, index, OidIsValid(index), snapshot, 1,
							  &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		tuple = heap_copytuple(tuple);
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	return tuple;
}

AvcWatermark *
avc_watermark_load(int64 slice_id)
{
	Relation	marks = open_marks(AccessShareLock);
	AvcWatermark *mark = NULL;
	HeapTuple	tuple;

	/* explain_refresh holds no lock that keeps a large state in TOAST */
	PushActiveSnapshot(GetLatestSnapshot());
	tuple = find_row(marks, slice_id, GetActiveSnapshot());
	if (HeapTupleIsValid(tuple))
	{
		bool		is_null;

		mark = unpack(DatumGetByteaPP(heap_getattr(tuple, 2,
												   RelationGetDescr(marks),
												   &is_null)));
	}
	PopActiveSnapshot();
	table_close(marks, AccessShareLock);
	return mark;
}

List *
avc_watermarks_of(Oid dataset)
{
	AvcParam	param = AVC_REGCLASS(dataset);
	List	   *marks = NIL;
	uint64		i;

	PushActiveSnapshot(GetLatestSnapshot());
	avc_spi_exec("SELECT w.state FROM _avcurate.slice_watermarks w "
				 "JOIN _avcurate.slices s ON s.slice_id = w.slice_id "
				 "WHERE s.dataset = $1", 1, &param, true, 0);
	for (i = 0; i < SPI_processed; i++)
	{
		bool		is_null;
		AvcWatermark *mark =
		unpack(DatumGetByteaPP(avc_spi_column(i, "state", &is_null)));

		if (mark)
			marks = lappend(marks, mark);
	}
	PopActiveSnapshot();
	return marks;
}

void
avc_watermark_write(int64 slice_id, const AvcWatermark *mark)
{
	Relation	marks = open_marks(RowExclusiveLock);
	HeapTuple	old = find_row(marks, slice_id, GetLatestSnapshot());
	bool		nulls[2] = {false};
	Datum		values[2];
	HeapTuple	tuple;

	values[0] = Int64GetDatum(slice_id);
	values[1] = PointerGetDatum(pack(mark));
	tuple = heap_form_tuple(RelationGetDescr(marks), values, nulls);
	if (HeapTupleIsValid(old))
		CatalogTupleUpdate(marks, &old->t_self, tuple);
	else
		CatalogTupleInsert(marks, tuple);
	table_close(marks, NoLock);
	CommandCounterIncrement();
}

void
avc_watermark_forget(int64 slice_id)
{
	Relation	marks = open_marks(RowExclusiveLock);
	HeapTuple	old = find_row(marks, slice_id, GetLatestSnapshot());

	if (HeapTupleIsValid(old))
	{
		CatalogTupleDelete(marks, &old->t_self);
		CommandCounterIncrement();
	}
	table_close(marks, NoLock);
}
