/*
 * batches/frame_scan.c
 *		Look up frames of a pinned version: annotations and image.
 *
 * The history row of the version gives annotations, sizes and the image's
 * hash.  The image is the dataset's if that still has this hash, else the
 * archive's.  Nothing is detoasted here but the arrays that are asked for:
 * an image travels as its TOAST pointer.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/index.h"
#include "catalog/pg_am.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/snapmgr.h"

#include "batches/frame_scan.h"
#include "datasets/dataset.h"
#include "slices/slice.h"

/* Look-ups by frame_id in one table. */
typedef struct KeyedTable
{
	Relation	rel;
	Relation	index;
	IndexScanDesc scan;
	TupleTableSlot *slot;
	MemoryContext context;		/* what the scan allocates as it goes */
} KeyedTable;

enum HistoryColumn
{
	FRAME_ID, SHA256, WIDTH, HEIGHT, CATEGORIES, BBOXES, IGNORED, AREAS,
	FROM_VERSION, TO_VERSION, HISTORY_COLUMNS
};

static const char *const history_columns[HISTORY_COLUMNS] = {
	"frame_id", "image_sha256", "width", "height", "ann_categories",
	"ann_bboxes", "ann_ignored", "ann_area", "from_version", "to_version"
};

struct AvcFrameScan
{
	const AvcPin *pin;
	KeyedTable	history;
	KeyedTable	dataset;
	AttrNumber	columns[HISTORY_COLUMNS];	/* in the history table */
	AttrNumber	dataset_sha256;
	AttrNumber	dataset_image;
	MemoryContext archived;		/* the archive's answer for the last frame */
};

/* A plain btree whose first key is the column. */
static Oid
find_index(Relation rel, AttrNumber column)
{
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *cell;
	Oid			found = InvalidOid;

	foreach(cell, indexes)
	{
		Relation	index = index_open(lfirst_oid(cell), AccessShareLock);
		Form_pg_index form = index->rd_index;

		if (index->rd_rel->relam == BTREE_AM_OID && form->indisvalid &&
			form->indkey.values[0] == column &&
			heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred,
						   NULL))
			found = RelationGetRelid(index);
		index_close(index, AccessShareLock);
		if (OidIsValid(found))
			break;
	}
	list_free(indexes);
	return found;
}

static void
open_keyed(KeyedTable *table, const AvcPin *pin, Oid relid)
{
	AttrNumber	key;
	Oid			index;

	table->rel = try_table_open(relid, AccessShareLock);
	if (table->rel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("slice \"%s\" lost its history or its dataset",
						pin->slice_name)));
	key = get_attnum(relid, "frame_id");
	index = find_index(table->rel, key);
	if (!OidIsValid(index))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("table \"%s\" has no valid index on column \"frame_id\"",
						RelationGetRelationName(table->rel)),
				 errhint("Make one with CREATE INDEX, or REINDEX the invalid one.")));
	table->index = index_open(index, AccessShareLock);
	table->scan = index_beginscan(table->rel, table->index,
								  GetActiveSnapshot(), 1, 0);
	table->slot = table_slot_create(table->rel, NULL);
	table->context = CurrentMemoryContext;
}

static void
close_keyed(KeyedTable *table)
{
	ExecDropSingleTupleTableSlot(table->slot);
	index_endscan(table->scan);
	index_close(table->index, NoLock);
	table_close(table->rel, NoLock);
}

static void
seek_keyed(KeyedTable *table, int64 frame_id)
{
	MemoryContext old = MemoryContextSwitchTo(table->context);
	ScanKeyData key;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(frame_id));
	index_rescan(table->scan, &key, 1, NULL, 0);
	MemoryContextSwitchTo(old);
}

/*
 * The next row of the key into the slot.  An index scan keeps what it
 * allocates (its list of dead entries, for one), so it must not do so in the
 * caller's context, which may be reset from row to row.
 */
static bool
next_keyed(KeyedTable *table)
{
	MemoryContext old = MemoryContextSwitchTo(table->context);
	bool		found;

	found = index_getnext_slot(table->scan, ForwardScanDirection,
							   table->slot);
	MemoryContextSwitchTo(old);
	return found;
}

/* Values are taken as what they were made: locked, so that they stay it. */
static void
check_dataset(const AvcPin *pin)
{
	const char *column;

	LockRelationOid(pin->dataset, AccessShareLock);
	column = avc_dataset_strange_column(pin->dataset);
	if (column != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of the dataset of slice \"%s\" is missing or has another type than it was made with",
						column, pin->slice_name),
				 errhint("Give the column its type back with ALTER TABLE.")));
}

AvcFrameScan *
avc_frame_scan_open(const AvcPin *pin)
{
	AvcFrameScan *scan = palloc0(sizeof(AvcFrameScan));
	int			i;

	scan->pin = pin;
	open_keyed(&scan->history, pin, pin->history);
	check_dataset(pin);
	/* under the lock, which keeps row security from being turned on */
	avc_pin_check_images(pin);
	open_keyed(&scan->dataset, pin, pin->dataset);
	for (i = 0; i < HISTORY_COLUMNS; i++)
	{
		scan->columns[i] = get_attnum(pin->history, history_columns[i]);
		if (scan->columns[i] == InvalidAttrNumber)
			elog(ERROR, "history of slice \"%s\" has no column \"%s\"",
				 pin->slice_name, history_columns[i]);
	}
	scan->dataset_sha256 = get_attnum(pin->dataset, "image_sha256");
	scan->dataset_image = get_attnum(pin->dataset, "image_bytes");
	scan->archived = AllocSetContextCreate(CurrentMemoryContext,
										   "avcurate archived image",
										   ALLOCSET_SMALL_SIZES);
	return scan;
}

void
avc_frame_scan_close(AvcFrameScan *scan)
{
	close_keyed(&scan->dataset);
	close_keyed(&scan->history);
	MemoryContextDelete(scan->archived);
	pfree(scan);
}

/* Leave the version's row of the frame in the history slot. */
static bool
find_history(AvcFrameScan *scan, int64 frame_id)
{
	TupleTableSlot *slot = scan->history.slot;
	int64		version = scan->pin->version;

	seek_keyed(&scan->history, frame_id);
	while (next_keyed(&scan->history))
	{
		bool		is_null;
		int64		from;
		int64		to;

		from = DatumGetInt64(slot_getattr(slot, scan->columns[FROM_VERSION],
										  &is_null));
		to = DatumGetInt64(slot_getattr(slot, scan->columns[TO_VERSION],
										&is_null));
		if (from <= version && (is_null || version < to))
			return true;
	}
	return false;
}

static bool
is_same_hash(Datum a, Datum b)
{
	struct varlena *x = PG_DETOAST_DATUM_PACKED(a);
	struct varlena *y = PG_DETOAST_DATUM_PACKED(b);

	return VARSIZE_ANY_EXHDR(x) == VARSIZE_ANY_EXHDR(y) &&
		memcmp(VARDATA_ANY(x), VARDATA_ANY(y), VARSIZE_ANY_EXHDR(x)) == 0;
}

/* The image with the hash: the dataset's own, else the archived one. */
static Datum
find_image(AvcFrameScan *scan, int64 frame_id, Datum sha256)
{
	TupleTableSlot *slot = scan->dataset.slot;
	MemoryContext old;
	Datum		image;
	bool		found;

	seek_keyed(&scan->dataset, frame_id);
	if (next_keyed(&scan->dataset))
	{
		bool		is_null;
		Datum		current;

		current = slot_getattr(slot, scan->dataset_sha256, &is_null);
		if (!is_null && is_same_hash(current, sha256))
		{
			image = slot_getattr(slot, scan->dataset_image, &is_null);
			if (!is_null)
				return image;
		}
	}
	MemoryContextReset(scan->archived);
	old = MemoryContextSwitchTo(scan->archived);
	found = avc_archive_image(scan->pin->dataset, frame_id, sha256, &image);
	MemoryContextSwitchTo(old);
	if (!found)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("image of frame %lld in version %lld of slice \"%s\" is neither in the dataset nor in the archive",
						(long long) frame_id, (long long) scan->pin->version,
						scan->pin->slice_name),
				 errhint("Use a version whose frames are all there, or refresh the slice.")));
	return image;
}

static Datum
history_value(AvcFrameScan *scan, enum HistoryColumn column)
{
	bool		is_null;
	Datum		value = slot_getattr(scan->history.slot,
									 scan->columns[column], &is_null);

	return is_null ? (Datum) 0 : value;
}

void
avc_frame_scan_find(AvcFrameScan *scan, int64 frame_id, AvcFrameRow *row)
{
	Datum		sha256;

	if (!find_history(scan, frame_id))
	{
		avc_pin_ids_forget(scan->pin);
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("frame %lld was erased from version %lld of slice \"%s\" while it was read",
						(long long) frame_id, (long long) scan->pin->version,
						scan->pin->slice_name),
				 errhint("Read the version from its start again.")));
	}
	row->frame_id = frame_id;
	row->width = DatumGetInt32(history_value(scan, WIDTH));
	row->height = DatumGetInt32(history_value(scan, HEIGHT));
	row->categories = history_value(scan, CATEGORIES);
	row->bboxes = history_value(scan, BBOXES);
	row->ignored = history_value(scan, IGNORED);
	row->areas = history_value(scan, AREAS);
	row->labelled = row->categories != (Datum) 0 && row->bboxes != (Datum) 0;
	sha256 = history_value(scan, SHA256);
	if (sha256 == (Datum) 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("frame %lld in version %lld of slice \"%s\" has no image hash",
						(long long) frame_id, (long long) scan->pin->version,
						scan->pin->slice_name)));
	row->image = find_image(scan, frame_id, sha256);
}
