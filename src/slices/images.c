/*
 * slices/images.c
 *		Are the images that a version means still there?
 *
 * Each row's image is looked for in the dataset, past its row security, and
 * what is not found there in the archive.  The snapshot is newer than the
 * lock on the dataset: TRUNCATE empties it for older snapshots, too, but what
 * it archived they do not see.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "slices/refresh.h"

#define FETCH_ROWS 1000

typedef struct ImageSearch
{
	AvcFrameRows *rows;			/* of the dataset */
	AttrNumber	sha256;			/* columns of the dataset */
	AttrNumber	image;
	bool		rehash;
	Tuplestorestate *elsewhere; /* (frame_id, image_sha256) not found there */
	TupleDesc	desc;			/* its */
	AvcImageFaults *faults;
	MemoryContext scratch;		/* of one row's values */
} ImageSearch;

static bool
is_equal(Datum a, Datum b)
{
	return DatumGetBool(DirectFunctionCall2(byteaeq, a, b));
}

static void
count_changed(AvcImageFaults *faults, int64 frame_id)
{
	if (faults->changed == 0 || frame_id < faults->first_changed)
		faults->first_changed = frame_id;
	faults->changed++;
}

/* Is this the image of the hash?  False for no image. */
static bool
has_hash(const ImageSearch *search, Datum image, bool is_null, Datum sha256)
{
	MemoryContext old = MemoryContextSwitchTo(search->scratch);
	bool		has = !is_null &&
		is_equal(DirectFunctionCall1(sha256_bytea, image), sha256);

	MemoryContextSwitchTo(old);
	MemoryContextReset(search->scratch);
	return has;
}

/*
 * Does the dataset hold the frame with this image?  The scan keeps what it
 * allocates from row to row, in the current context.
 */
static bool
is_in_dataset(ImageSearch *search, int64 frame_id, Datum sha256)
{
	TupleTableSlot *slot;

	avc_frame_rows_seek(search->rows, frame_id);
	while ((slot = avc_frame_rows_next(search->rows)) != NULL)
	{
		bool		is_null;
		Datum		current = slot_getattr(slot, search->sha256, &is_null);
		Datum		image;

		if (is_null || !is_equal(current, sha256))
			continue;
		image = slot_getattr(slot, search->image, &is_null);
		if (search->rehash && !has_hash(search, image, is_null, sha256))
			count_changed(search->faults, frame_id);
		return true;
	}
	return false;
}

/* Look for the images of the rows in SPI_tuptable. */
static void
search_rows(ImageSearch *search)
{
	TupleDesc	desc = SPI_tuptable->tupdesc;
	uint64		i;

	for (i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		bool		is_null;
		int64		frame_id = DatumGetInt64(SPI_getbinval(row, desc, 1,
														   &is_null));

		if (!is_in_dataset(search, frame_id,
						   SPI_getbinval(row, desc, 2, &is_null)))
			tuplestore_puttuple(search->elsewhere, row);
	}
}

/* Look at the dataset for the image of every row of the version. */
static void
search_dataset(ImageSearch *search, const AvcSlice *slice, int64 version)
{
	AvcParam	param = AVC_INT8(version);
	MemoryContext context = CurrentMemoryContext;
	Portal		portal;

	search->scratch = AllocSetContextCreate(context, "images",
											ALLOCSET_DEFAULT_SIZES);
	portal = avc_spi_cursor(psprintf("SELECT frame_id, image_sha256 FROM %s "
									 "WHERE image_sha256 IS NOT NULL "
									 "AND from_version <= $1 "
									 "AND (to_version IS NULL "
									 "OR $1 < to_version)",
									 slice->history_name), 1, &param, true);
	MemoryContextSwitchTo(context);
	search->desc = CreateTupleDescCopy(portal->tupDesc);
	for (;;)
	{
		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		if (SPI_processed == 0)
			break;
		MemoryContextSwitchTo(context);
		search_rows(search);
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(portal);
	MemoryContextSwitchTo(context);
	MemoryContextDelete(search->scratch);
}

static int64
count_at(int column)
{
	bool		is_null;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[0],
									  SPI_tuptable->tupdesc, column,
									  &is_null);

	return is_null ? 0 : DatumGetInt64(value);
}

/* Look for the rest in the archive. */
static void
search_archive(ImageSearch *search, const AvcSlice *slice)
{
	AvcParam	param = AVC_REGCLASS(slice->dataset);
	AvcImageFaults *faults = search->faults;

	avc_rows_register("elsewhere", search->elsewhere, search->desc);
	avc_spi_exec(psprintf("SELECT count(*) FILTER (WHERE ok IS NULL), "
						  "count(*) FILTER (WHERE NOT ok), "
						  "min(frame_id) FILTER (WHERE ok IS NULL), "
						  "min(frame_id) FILTER (WHERE NOT ok) FROM "
						  "(SELECT h.frame_id, "
						  "(SELECT %s FROM _avcurate.archive a "
						  "WHERE a.dataset = $1 AND a.frame_id = h.frame_id "
						  "AND a.image_sha256 = h.image_sha256) AS ok "
						  "FROM elsewhere h) frames",
						  search->rehash ?
						  "sha256(a.image_bytes) = h.image_sha256" : "true"),
				 1, &param, true, 1);
	faults->missing = count_at(1);
	faults->first_missing = count_at(3);
	if (count_at(2) > 0)
	{
		if (faults->changed == 0 || count_at(4) < faults->first_changed)
			faults->first_changed = count_at(4);
		faults->changed += count_at(2);
	}
}

void
avc_images_check(const AvcSlice *slice, int64 version, bool rehash,
				 AvcImageFaults *faults)
{
	ImageSearch search = {0};
	Relation	dataset;
	AvcRoleScope scope;

	memset(faults, 0, sizeof(AvcImageFaults));
	(void) avc_definition_source(slice->dataset);
	dataset = table_open(slice->dataset, AccessShareLock);
	PushActiveSnapshot(GetLatestSnapshot());
	avc_catalog_enter(&scope);
	SPI_connect();
	search.rows = avc_frame_rows_begin(dataset, GetActiveSnapshot());
	search.sha256 = get_attnum(slice->dataset, "image_sha256");
	search.image = get_attnum(slice->dataset, "image_bytes");
	search.rehash = rehash;
	search.elsewhere = tuplestore_begin_heap(false, false, work_mem);
	search.faults = faults;
	search_dataset(&search, slice, version);
	avc_frame_rows_end(search.rows);
	search_archive(&search, slice);
	tuplestore_end(search.elsewhere);
	SPI_finish();
	avc_catalog_leave(&scope);
	PopActiveSnapshot();
	table_close(dataset, AccessShareLock);
}
