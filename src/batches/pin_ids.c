/*
 * batches/pin_ids.c
 *		Read the frame ids of a pinned version, and keep them for a while.
 *
 * A loader that asks for one batch at a time would otherwise read the ids of
 * the whole version at each call.  A version never changes, so the session
 * keeps the packed lists of the versions it read last, each within work_mem.
 * An entry is good as long as the row that describes the version is the same
 * tuple: what changes a version (erasing a frame) must update that row, and a
 * number that was used again after a rollback has another row.  A transaction
 * may erase several times: that is told by how many rows it erased.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/portal.h"

#include "batches/pin.h"
#include "common/catalog.h"
#include "common/spi.h"

#define KEPT_LISTS 4
#define FETCH_ROWS 8192

typedef struct KeptList
{
	int64		slice_id;
	int64		version;
	TransactionId stamp;
	int64		erased;
	AvcFrameIds *ids;			/* NULL = free entry */
	uint64		last_use;
} KeptList;

static KeptList kept[KEPT_LISTS];
static MemoryContext kept_context;
static uint64 kept_uses;

/* Append the rows of one fetch; false once the list is long enough. */
static bool
append_rows(AvcFrameIds *ids, const AvcFrameChoice *choice, int64 *unlabelled)
{
	TupleDesc	desc = SPI_tuptable->tupdesc;
	uint64		i;

	for (i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		bool		is_null;

		if (choice->labelled_only &&
			!DatumGetBool(SPI_getbinval(row, desc, 2, &is_null)))
		{
			(*unlabelled)++;
			continue;
		}
		avc_frame_ids_append(ids, DatumGetInt64(SPI_getbinval(row, desc, 1,
															  &is_null)));
		if (choice->max_frames > 0 &&
			avc_frame_ids_count(ids) >= choice->max_frames)
			return false;
	}
	return true;
}

/* The history query of a version in frame_id order. */
static char *
ids_query(const AvcPin *pin)
{
	char	   *schema = get_namespace_name(get_rel_namespace(pin->history));
	char	   *table = get_rel_name(pin->history);

	if (schema == NULL || table == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("slice \"%s\" has no history any more",
						pin->slice_name)));
	return psprintf("SELECT frame_id, ann_categories IS NOT NULL "
					"AND ann_bboxes IS NOT NULL FROM %s "
					"WHERE from_version <= $1 "
					"AND (to_version IS NULL OR $1 < to_version) "
					"ORDER BY frame_id",
					quote_qualified_identifier(schema, table));
}

AvcFrameIds *
avc_pin_ids_read(const AvcPin *pin, const AvcFrameChoice *choice,
				 MemoryContext context, int64 *unlabelled)
{
	AvcFrameIds *ids;
	AvcRoleScope scope;
	Oid			type = INT8OID;
	Datum		value = Int64GetDatum(pin->version);
	Portal		cursor;
	bool		more = true;

	*unlabelled = 0;
	ids = avc_frame_ids_create(context, (Size) work_mem * 1024,
							   choice->across_transactions);
	SPI_connect();
	avc_catalog_enter(&scope);
	cursor = SPI_cursor_open_with_args(NULL, ids_query(pin), 1, &type, &value,
									   NULL, true, CURSOR_OPT_NO_SCROLL);
	while (more)
	{
		CHECK_FOR_INTERRUPTS();
		SPI_cursor_fetch(cursor, true, FETCH_ROWS);
		if (SPI_processed == 0)
			break;
		more = append_rows(ids, choice, unlabelled);
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(cursor);
	avc_catalog_leave(&scope);
	SPI_finish();
	return ids;
}

static bool
is_entry_of(const KeptList *entry, const AvcPin *pin)
{
	return entry->ids != NULL && entry->slice_id == pin->slice_id &&
		entry->version == pin->version;
}

static void
drop_entry(KeptList *entry)
{
	if (entry->ids)
		avc_frame_ids_free(entry->ids);
	entry->ids = NULL;
}

void
avc_pin_ids_forget(const AvcPin *pin)
{
	int			i;

	for (i = 0; i < KEPT_LISTS; i++)
		if (is_entry_of(&kept[i], pin))
			drop_entry(&kept[i]);
}

/* Keep a list, in place of the one that was used least recently. */
static void
keep_ids(const AvcPin *pin, AvcFrameIds *ids)
{
	KeptList   *oldest = &kept[0];
	int			i;

	for (i = 1; i < KEPT_LISTS && oldest->ids != NULL; i++)
		if (kept[i].ids == NULL || kept[i].last_use < oldest->last_use)
			oldest = &kept[i];
	drop_entry(oldest);
	oldest->slice_id = pin->slice_id;
	oldest->version = pin->version;
	oldest->stamp = pin->stamp;
	oldest->erased = pin->erased;
	oldest->last_use = ++kept_uses;
	oldest->ids = ids;
}

AvcFrameIds *
avc_pin_ids(const AvcPin *pin)
{
	AvcFrameChoice all = {0, false, false};
	AvcFrameIds *ids;
	int64		unlabelled;
	int			i;

	for (i = 0; i < KEPT_LISTS; i++)
	{
		if (!is_entry_of(&kept[i], pin))
			continue;
		if (TransactionIdEquals(kept[i].stamp, pin->stamp) &&
			kept[i].erased == pin->erased)
		{
			kept[i].last_use = ++kept_uses;
			return kept[i].ids;
		}
		drop_entry(&kept[i]);
	}

	/* Built where an error frees it, and moved only once it is whole. */
	ids = avc_pin_ids_read(pin, &all, CurrentMemoryContext, &unlabelled);
	if (avc_frame_ids_in_file(ids))
		return ids;
	if (kept_context == NULL)
		kept_context = AllocSetContextCreate(CacheMemoryContext,
											 "avcurate frame ids",
											 ALLOCSET_DEFAULT_SIZES);
	ids = avc_frame_ids_move(ids, kept_context);
	keep_ids(pin, ids);
	return ids;
}

void
avc_pin_ids_release(AvcFrameIds *ids)
{
	int			i;

	for (i = 0; i < KEPT_LISTS; i++)
		if (kept[i].ids == ids)
			return;
	avc_frame_ids_free(ids);
}
