/*
 * slices/archive.c
 *		Images of old versions.
 *
 * Row triggers on a dataset put every image that is replaced, deleted or
 * truncated away, without asking whether a version holds it: a refresh that
 * reads the old image may be running.  They do nothing while the dataset has
 * no slice.  To make that sound, the first slice of a dataset is made under a
 * lock that keeps writers out, and the triggers look at the registry with a
 * snapshot of their own.
 *
 * An archived image that no version holds is freed if in addition nobody can
 * make a version that does: no transaction that refreshed or made a slice of
 * the dataset is open (a lock on the dataset as an object, which they share
 * and freeing takes alone), and every snapshot there is already sees the image
 * replaced (the row's xmin is older than all of them).
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/procarray.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "slices/refresh.h"

PG_FUNCTION_INFO_V1(avc_archive_row);
PG_FUNCTION_INFO_V1(avc_archive_table);

#define FETCH_ROWS 1000

/* ---- triggers ---- */

/* The frame that erase_frame is deleting. */
static struct
{
	Oid			dataset;
	int64		frame_id;
}			skipped;

void
avc_archive_skip(Oid dataset, int64 frame_id)
{
	skipped.dataset = dataset;
	skipped.frame_id = frame_id;
}

static bool
is_skipped(Relation rel, HeapTuple tuple)
{
	bool		is_null;

	return RelationGetRelid(rel) == skipped.dataset &&
		DatumGetInt64(SPI_getbinval(tuple, RelationGetDescr(rel),
									SPI_fnumber(RelationGetDescr(rel),
												"frame_id"),
									&is_null)) == skipped.frame_id;
}

static bool
has_slices(Oid dataset)
{
	AvcParam	param = AVC_REGCLASS(dataset);
	bool		found;

	PushActiveSnapshot(GetLatestSnapshot());
	found = avc_spi_exec("SELECT 1 FROM _avcurate.slices WHERE dataset = $1",
						 1, &param, true, 1) > 0;
	PopActiveSnapshot();
	return found;
}

static void
archive_tuple(Relation rel, HeapTuple tuple)
{
	static const char *const names[] = {"frame_id", "image_sha256",
	"image_bytes"};
	static const Oid types[] = {INT8OID, BYTEAOID, BYTEAOID};
	AvcParam	params[4];
	int			i;

	params[0] = AVC_REGCLASS(RelationGetRelid(rel));
	for (i = 0; i < 3; i++)
	{
		int			number = SPI_fnumber(RelationGetDescr(rel), names[i]);
		AvcParam   *param = &params[i + 1];

		if (number <= 0 ||
			SPI_gettypeid(RelationGetDescr(rel), number) != types[i])
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("dataset \"%s\" has no column \"%s\" of type %s",
							RelationGetRelationName(rel), names[i],
							format_type_be(types[i]))));
		param->type = types[i];
		param->value = SPI_getbinval(tuple, RelationGetDescr(rel), number,
									 &param->is_null);
		if (param->is_null)
			return;
	}
	avc_spi_exec("INSERT INTO _avcurate.archive "
				 "VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
				 4, params, false, 0);
}

static TriggerData *
trigger_data(FunctionCallInfo fcinfo)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function was not called by a trigger")));
	return (TriggerData *) fcinfo->context;
}

Datum
avc_archive_row(PG_FUNCTION_ARGS)
{
	TriggerData *data = trigger_data(fcinfo);
	AvcRoleScope scope;

	avc_catalog_enter(&scope);
	SPI_connect();
	if (has_slices(RelationGetRelid(data->tg_relation)) &&
		!is_skipped(data->tg_relation, data->tg_trigtuple))
		archive_tuple(data->tg_relation, data->tg_trigtuple);
	SPI_finish();
	avc_catalog_leave(&scope);
	return PointerGetDatum(NULL);
}

/* Before TRUNCATE: every image that anybody may have read. */
Datum
avc_archive_table(PG_FUNCTION_ARGS)
{
	Relation	rel = trigger_data(fcinfo)->tg_relation;
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	AvcRoleScope scope;

	avc_catalog_enter(&scope);
	SPI_connect();
	if (has_slices(RelationGetRelid(rel)))
	{
		TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);

		while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
		{
			bool		must_free;
			HeapTuple	tuple = ExecFetchSlotHeapTuple(slot, false, &must_free);

			CHECK_FOR_INTERRUPTS();
			archive_tuple(rel, tuple);
			if (must_free)
				heap_freetuple(tuple);
		}
		table_endscan(scan);
	}
	SPI_finish();
	avc_catalog_leave(&scope);
	UnregisterSnapshot(snapshot);
	ExecDropSingleTupleTableSlot(slot);
	return PointerGetDatum(NULL);
}

static bool
is_enabled(Oid dataset)
{
	AvcParam	param = AVC_OID(dataset);

	return avc_spi_exec("SELECT 1 FROM pg_catalog.pg_trigger "
						"WHERE tgrelid = $1 AND tgfoid = "
						"'_avcurate.archive_row()'::regprocedure",
						1, &param, false, 1) > 0;
}

/* All five as create_triggers() makes them? */
static bool
is_complete(Oid dataset)
{
	AvcParam	param = AVC_OID(dataset);

	return avc_spi_int64("SELECT count(*) FROM pg_catalog.pg_trigger "
						 "WHERE tgrelid = $1 AND tgenabled = 'A' AND tgfoid IN "
						 "('_avcurate.archive_row()'::regprocedure, "
						 "'_avcurate.archive_table()'::regprocedure, "
						 "'_avcurate.note_deleted()'::regprocedure)",
						 1, &param, 0) >= 5;
}

/*
 * Or put back those that were dropped or disabled.  The caller has the lock
 * that this takes: the name is not another table's then.
 */
static void
create_triggers(Oid dataset)
{
	static const char *const commands[] = {
		"CREATE OR REPLACE TRIGGER avcurate_archive_update AFTER UPDATE ON %s "
		"FOR EACH ROW WHEN (OLD.image_sha256 IS DISTINCT FROM NEW.image_sha256 "
		"OR OLD.frame_id <> NEW.frame_id) "
		"EXECUTE FUNCTION _avcurate.archive_row()",
		"CREATE OR REPLACE TRIGGER avcurate_archive_delete AFTER DELETE ON %s "
		"FOR EACH ROW EXECUTE FUNCTION _avcurate.archive_row()",
		"CREATE OR REPLACE TRIGGER avcurate_archive_truncate BEFORE TRUNCATE ON %s "
		"FOR EACH STATEMENT EXECUTE FUNCTION _avcurate.archive_table()",
		"CREATE OR REPLACE TRIGGER avcurate_note_update AFTER UPDATE ON %s "
		"FOR EACH ROW WHEN (OLD.frame_id <> NEW.frame_id) "
		"EXECUTE FUNCTION _avcurate.note_deleted()",
		"CREATE OR REPLACE TRIGGER avcurate_note_delete AFTER DELETE ON %s "
		"FOR EACH ROW EXECUTE FUNCTION _avcurate.note_deleted()",
		"ALTER TABLE %s ENABLE ALWAYS TRIGGER avcurate_archive_update, "
		"ENABLE ALWAYS TRIGGER avcurate_archive_delete, "
		"ENABLE ALWAYS TRIGGER avcurate_archive_truncate, "
		"ENABLE ALWAYS TRIGGER avcurate_note_update, "
		"ENABLE ALWAYS TRIGGER avcurate_note_delete"
	};
	char	   *name = avc_relation_name(dataset);
	int			i;

	for (i = 0; i < lengthof(commands); i++)
		avc_spi_exec(psprintf(commands[i], name), 0, NULL, false, 0);
}

static bool
may_create_triggers(Oid dataset, Oid user)
{
	return pg_class_aclcheck(dataset, user, ACL_TRIGGER) == ACLCHECK_OK;
}

static void
check_first_slice(Oid dataset, Oid user)
{
	if (!is_enabled(dataset) && !may_create_triggers(dataset, user))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to make the first slice of dataset \"%s\"",
						get_rel_name(dataset)),
				 errdetail("The first slice puts triggers on the dataset that keep replaced images."),
				 errhint("The dataset's owner or a role with the TRIGGER privilege can do it.")));
}

void
avc_archive_enable(Oid dataset)
{
	Oid			user = GetUserId();
	bool		is_first;
	AvcRoleScope scope;

	avc_catalog_enter(&scope);
	SPI_connect();
	check_first_slice(dataset, user);
	is_first = !is_enabled(dataset) || !has_slices(dataset);
	if (is_first && IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("the first slice of a dataset must be made in a READ COMMITTED transaction")));
	if (is_first || (may_create_triggers(dataset, user) &&
					 !is_complete(dataset)))
	{
		LockRelationOid(dataset, ShareRowExclusiveLock);
		/* the right may be gone since, or somebody was first */
		check_first_slice(dataset, user);
		if (may_create_triggers(dataset, user) && !is_complete(dataset))
			create_triggers(dataset);
	}
	avc_archive_hold(dataset);
	SPI_finish();
	avc_catalog_leave(&scope);
}

/* ---- reading ---- */

static bool
find_image(const AvcParam *params)
{
	return avc_spi_exec("SELECT image_bytes FROM _avcurate.archive "
						"WHERE dataset = $1 AND frame_id = $2 "
						"AND image_sha256 = $3", 3, params, true, 1) > 0;
}

/*
 * What TRUNCATE empties is empty for older snapshots, too, but what it put
 * into the archive they do not see; so a newer one has the last word.  The
 * older one still keeps the image from being vacuumed away.
 */
static bool
find_image_now(const AvcParam *params)
{
	bool		found;

	PushActiveSnapshot(GetLatestSnapshot());
	found = find_image(params);
	PopActiveSnapshot();
	return found;
}

bool
avc_archive_image(Oid dataset, int64 frame_id, Datum sha256, Datum *image)
{
	AvcParam	params[3];
	MemoryContext caller = CurrentMemoryContext;
	AvcRoleScope scope;
	bool		found;
	bool		is_null;

	params[0] = AVC_REGCLASS(dataset);
	params[1] = AVC_INT8(frame_id);
	params[2] = (AvcParam) {BYTEAOID, sha256, false};
	avc_catalog_enter(&scope);
	SPI_connect();
	found = find_image(params) || find_image_now(params);
	if (found)
	{
		Datum		value = avc_spi_column(0, "image_bytes", &is_null);
		MemoryContext old = MemoryContextSwitchTo(caller);

		/* as it is: a pointer into TOAST stays one */
		*image = datumCopy(value, false, -1);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	avc_catalog_leave(&scope);
	return found;
}

/* ---- freeing ---- */

void
avc_archive_hold(Oid dataset)
{
	LockDatabaseObject(RelationRelationId, dataset, 0, ShareLock);
}

void
avc_archive_lock(Oid dataset)
{
	LockDatabaseObject(RelationRelationId, dataset, 0, ExclusiveLock);
}

/* Keep refreshes of all slices of the dataset away; false if one runs. */
static bool
lock_out_refreshes(Oid dataset)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, RelationRelationId, dataset, 0);
	return LockAcquire(&tag, ExclusiveLock, false, true) !=
		LOCKACQUIRE_NOT_AVAIL;
}

/*
 * Not at the end of the transaction: who prunes many slices would keep a
 * refresh waiting that has the lock of one of them.  Whoever refreshes from
 * here on has a snapshot that is newer than what was freed, or one that the
 * horizon knew.
 */
static void
let_refreshes_in(Oid dataset)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, RelationRelationId, dataset, 0);
	(void) LockRelease(&tag, ExclusiveLock, false);
}

/*
 * What versions of the dataset's slices hold of the frames that the archive
 * has images of, each once: (frame_id, image_sha256).
 */
static Tuplestorestate *
collect_held(Oid dataset, TupleDesc *desc)
{
	AvcParam	param = AVC_REGCLASS(dataset);
	StringInfoData sql;
	uint64		i;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT NULL::bigint AS frame_id, "
						   "NULL::bytea AS image_sha256 WHERE false");
	avc_spi_exec("SELECT slice_id FROM _avcurate.slices WHERE dataset = $1",
				 1, &param, true, 0);
	for (i = 0; i < SPI_processed; i++)
	{
		bool		is_null;
		int64		slice_id = DatumGetInt64(avc_spi_column(i, "slice_id",
															&is_null));

		if (!avc_history_has_images(slice_id))
			continue;
		appendStringInfo(&sql, " UNION SELECT h.frame_id, h.image_sha256 "
						 "FROM (SELECT DISTINCT frame_id "
						 "FROM _avcurate.archive WHERE dataset = $1) a "
						 "JOIN %s h ON h.frame_id = a.frame_id",
						 avc_history_name(slice_id));
	}
	return avc_rows_collect(sql.data, 1, &param, true, desc);
}

/*
 * A cursor over the places of the archive's rows that no version holds, as the
 * active snapshot sees it; *held is to be ended after it.  By hash: a frame
 * may have had many images, and rows of many versions, of which the planner
 * knows nothing.
 */
static Portal
find_unheld(Oid dataset, Tuplestorestate **held)
{
	AvcParam	param = AVC_REGCLASS(dataset);
	TupleDesc	desc;
	int			guc_level;
	Portal		unheld;

	*held = collect_held(dataset, &desc);
	avc_rows_register("held_images", *held, desc);
	guc_level = NewGUCNestLevel();
	(void) set_config_option("enable_nestloop", "off", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	unheld = avc_spi_cursor("SELECT a.ctid FROM _avcurate.archive a "
							"WHERE a.dataset = $1 AND NOT EXISTS "
							"(SELECT FROM held_images h "
							"WHERE h.frame_id = a.frame_id "
							"AND h.image_sha256 = a.image_sha256)",
							1, &param, true);
	AtEOXact_GUC(false, guc_level);
	return unheld;
}

static bool
has_unheld(Oid dataset)
{
	Tuplestorestate *held;
	Portal		unheld;
	bool		found;

	/* one that sees what this command has pruned */
	PushActiveSnapshot(GetLatestSnapshot());
	unheld = find_unheld(dataset, &held);
	SPI_cursor_fetch(unheld, true, 1);
	found = SPI_processed > 0;
	SPI_cursor_close(unheld);
	tuplestore_end(held);
	PopActiveSnapshot();
	return found;
}

/* Delete an archived row; false if an open snapshot may still see its image. */
static bool
free_row(Relation archive, ItemPointer tid, TransactionId horizon)
{
	HeapTupleData tuple;
	Buffer		buffer;
	bool		is_old;

	tuple.t_self = *tid;
	if (!heap_fetch(archive, GetActiveSnapshot(), &tuple, &buffer, false))
		return true;
	is_old = HeapTupleHeaderXminFrozen(tuple.t_data) ||
		TransactionIdPrecedes(HeapTupleHeaderGetRawXmin(tuple.t_data),
							  horizon);
	ReleaseBuffer(buffer);
	if (is_old)
		simple_heap_delete(archive, tid);
	return is_old;
}

/* Free the rows in SPI_tuptable; how many could not be. */
static int64
free_fetched(Relation archive, TransactionId horizon)
{
	int64		kept = 0;
	uint64		i;

	for (i = 0; i < SPI_processed; i++)
	{
		bool		is_null;
		Datum		place = avc_spi_column(i, "ctid", &is_null);

		CHECK_FOR_INTERRUPTS();
		if (!free_row(archive, (ItemPointer) DatumGetPointer(place), horizon))
			kept++;
	}
	return kept;
}

/*
 * Free what can be; how many images no version holds, but a snapshot may.
 * The histories are looked at with a new snapshot: one for the whole
 * transaction lacks what refreshes wrote that were open when it was taken.
 */
static int64
free_rows(Oid dataset)
{
	Relation	rel = table_open(dataset, AccessShareLock);
	Relation	archive;
	TransactionId horizon;
	Tuplestorestate *held;
	Portal		unheld;
	int64		kept = 0;

	archive = table_open(get_relname_relid("archive",
										   get_namespace_oid("_avcurate",
															 false)),
						 RowExclusiveLock);
	/* first the horizon, then the snapshot */
	horizon = GetOldestNonRemovableTransactionId(rel);
	PushActiveSnapshot(GetLatestSnapshot());
	unheld = find_unheld(dataset, &held);
	for (;;)
	{
		SPI_cursor_fetch(unheld, true, FETCH_ROWS);
		if (SPI_processed == 0)
			break;
		kept += free_fetched(archive, horizon);
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(unheld);
	tuplestore_end(held);
	PopActiveSnapshot();
	table_close(archive, NoLock);
	table_close(rel, AccessShareLock);
	return kept;
}

/* Has the archive any image of the dataset? */
static bool
is_archived(Oid dataset)
{
	AvcParam	param = AVC_REGCLASS(dataset);

	return avc_spi_exec("SELECT 1 FROM _avcurate.archive WHERE dataset = $1",
						1, &param, false, 1) > 0;
}

char *
avc_archive_free(Oid dataset)
{
	MemoryContext caller = CurrentMemoryContext;
	AvcRoleScope scope;
	char	   *why = NULL;
	int64		kept = 0;

	avc_catalog_enter(&scope);
	SPI_connect();
	if (!is_archived(dataset))
		kept = 0;
	else if (lock_out_refreshes(dataset))
	{
		kept = free_rows(dataset);
		let_refreshes_in(dataset);
	}
	else if (has_unheld(dataset))
		why = "A slice of the dataset is being made or refreshed.";
	SPI_finish();
	avc_catalog_leave(&scope);
	if (kept > 0)
		why = psprintf("A transaction that began before " INT64_FORMAT " of them were replaced is still open.",
					   kept);
	return why ? MemoryContextStrdup(caller, why) : NULL;
}
