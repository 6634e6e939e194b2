/*
 * slices/erase.c
 *		Remove a frame from everything that holds it.
 *
 * The row of the dataset, its archived images, the rows of all versions, the
 * views' rows, what evaluations and features wrote about it.  No version is
 * made: the versions that held the frame keep rows and digest as recorded and
 * get the number and the digest of what was erased beside them, so that they
 * can still be verified, and every refresh starts from what is left.
 *
 * Locks: the dataset against TRUNCATE and first slices; every view against
 * refreshes; then what refreshes and slices being made share until they end
 * (avc_archive_hold), so that none is under way that has read the frame.  One
 * that took its snapshot before and waits for us finds slices.erasures
 * changed, which makes that snapshot stale.
 *
 * Readers with older snapshots see the frame until they end.  Dead rows stay
 * in the files until VACUUM; nothing can be done about that from here but to
 * name the tables.  A REFRESH that waited for us may add such a row to its
 * view, as it computes with its old snapshot first.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "datasets/dataset.h"
#include "slices/refresh.h"

PG_FUNCTION_INFO_V1(avc_erase_frame);

typedef struct Erasure
{
	AvcDataset *dataset;
	int64		frame_id;
	ReturnSetInfo *result;
	StringInfoData touched;		/* the result as the inside of a JSON array */
	StringInfoData tables;		/* that may have dead rows of the frame */
	List	   *image_ids;		/* char *, what the frame was called */
	bool		is_found;
} Erasure;

/* One row of the result; version 0 = none. */
static void
touch(Erasure *erasure, const char *kind, const char *object, int64 version)
{
	Datum		values[3];
	bool		nulls[3] = {false, false, version == 0};

	values[0] = CStringGetTextDatum(kind);
	values[1] = CStringGetTextDatum(object);
	values[2] = Int64GetDatum(version);
	tuplestore_putvalues(erasure->result->setResult, erasure->result->setDesc,
						 values, nulls);

	appendStringInfo(&erasure->touched, "%s{\"kind\": \"%s\", \"object\": ",
					 erasure->touched.len > 0 ? ", " : "", kind);
	escape_json(&erasure->touched, object);
	if (version > 0)
		appendStringInfo(&erasure->touched, ", \"version\": " INT64_FORMAT,
						 version);
	appendStringInfoChar(&erasure->touched, '}');
	erasure->is_found = true;
}

static void
add_table(Erasure *erasure, const char *name)
{
	appendStringInfo(&erasure->tables, "%s%s",
					 erasure->tables.len > 0 ? ", " : "", name);
}

/* ---- locks ---- */

/*
 * Keep everything away that could write the frame somewhere: the numbers of
 * the dataset's slices, dropped ones with pinned versions included.
 */
static List *
lock_slices(Oid dataset)
{
	char	   *query = psprintf("SELECT slice_id FROM _avcurate.slices "
								 "WHERE dataset = %u ORDER BY slice::oid",
								 dataset);
	List	   *locked = NIL;
	bool		is_alone = false;
	bool		is_new = true;

	/* again while slices were made before we were alone */
	while (is_new)
	{
		ListCell   *cell;

		is_new = false;
		foreach(cell, avc_slice_ids(query))
		{
			AvcSlice   *slice = avc_slice_find_by_id(*(int64 *) lfirst(cell),
													 true);

			if (slice == NULL || !OidIsValid(slice->relid) ||
				list_member_oid(locked, slice->relid))
				continue;
			LockRelationOid(slice->relid, ExclusiveLock);
			locked = lappend_oid(locked, slice->relid);
			is_new = true;
		}
		if (!is_alone)
			avc_archive_lock(dataset);
		is_new |= !is_alone;
		is_alone = true;
	}
	return avc_slice_ids(psprintf("WITH slices AS (UPDATE _avcurate.slices "
								  "SET erasures = erasures + 1 "
								  "WHERE dataset = %u RETURNING slice_id) "
								  "SELECT slice_id FROM slices ORDER BY 1",
								  dataset));
}

/* ---- the dataset and the views ---- */

static List *
places_of(Relation rel, int64 frame_id)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	AvcFrameRows *rows = avc_frame_rows_begin(rel, snapshot);
	List	   *places = NIL;
	TupleTableSlot *slot;

	avc_frame_rows_seek(rows, frame_id);
	while ((slot = avc_frame_rows_next(rows)) != NULL)
	{
		ItemPointer place = palloc_object(ItemPointerData);

		ItemPointerCopy(&slot->tts_tid, place);
		places = lappend(places, place);
	}
	avc_frame_rows_end(rows);
	UnregisterSnapshot(snapshot);
	return places;
}

/* Remember what the frame is called, from the first column of the rows. */
static void
take_image_ids(Erasure *erasure, MemoryContext context)
{
	MemoryContext old;
	uint64		i;

	for (i = 0; i < SPI_processed; i++)
	{
		char	   *image_id = SPI_getvalue(SPI_tuptable->vals[i],
											SPI_tuptable->tupdesc, 1);

		if (image_id == NULL)
			continue;
		old = MemoryContextSwitchTo(context);
		erasure->image_ids = lappend(erasure->image_ids, pstrdup(image_id));
		MemoryContextSwitchTo(old);
	}
}

/* PostgreSQL does not say what to do about a deferred trigger or key. */
static void
hint_at_constraints(void *arg)
{
	if (geterrcode() == ERRCODE_INSUFFICIENT_PRIVILEGE)
		errhint("Triggers and foreign keys of the dataset run with its owner's rights, and none may be deferred: use SET CONSTRAINTS ALL IMMEDIATE in the same transaction.");
}

/* Delete the row as the dataset's owner, his triggers and keys included. */
static void
delete_row(Erasure *erasure)
{
	ErrorContextCallback callback = {
		.previous = error_context_stack,
		.callback = hint_at_constraints
	};
	AvcDataset *dataset = erasure->dataset;
	MemoryContext context = CurrentMemoryContext;
	AvcParam	param = AVC_INT8(erasure->frame_id);
	AvcRoleScope scope;

	avc_role_enter(&scope, dataset->owner);
	avc_archive_skip(dataset->relid, erasure->frame_id);
	error_context_stack = &callback;
	PG_TRY();
	{
		if (avc_spi_exec(psprintf("DELETE FROM ONLY %s WHERE frame_id "
								  "OPERATOR(pg_catalog.=) $1 "
								  "RETURNING image_id", dataset->quoted_name),
						 1, &param, false, 0) > 0)
			touch(erasure, "dataset", dataset->quoted_name, 0);
		take_image_ids(erasure, context);
	}
	PG_FINALLY();
	{
		avc_archive_skip(InvalidOid, 0);
	}
	PG_END_TRY();
	error_context_stack = callback.previous;
	avc_role_leave(&scope);
	CommandCounterIncrement();
}

static void
erase_row(Erasure *erasure)
{
	AvcDataset *dataset = erasure->dataset;
	Relation	rel = table_open(dataset->relid, NoLock);

	add_table(erasure, dataset->quoted_name);
	if (places_of(rel, erasure->frame_id) != NIL)
		delete_row(erasure);
	if (places_of(rel, erasure->frame_id) != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("frame " INT64_FORMAT " of dataset %s cannot be deleted",
						erasure->frame_id, dataset->quoted_name),
				 errdetail("Row security hides it from the dataset's owner, or a trigger or rule keeps it.")));
	table_close(rel, NoLock);
}

/* True if the view held it. */
static bool
erase_from_view(Erasure *erasure, AvcSlice *slice)
{
	Relation	rel = table_open(slice->relid, NoLock);
	List	   *places = NIL;
	ListCell   *cell;

	add_table(erasure, slice->name);
	if (RelationIsPopulated(rel))
		places = places_of(rel, erasure->frame_id);
	if (places != NIL)
	{
		AvcDelta   *delta = avc_delta_create(rel);

		foreach(cell, places)
		{
			Datum		values[2] = {Int64GetDatum(erasure->frame_id),
			PointerGetDatum(lfirst(cell))};
			bool		nulls[2] = {false};

			tuplestore_putvalues(delta->closed, delta->closed_desc, values,
								 nulls);
			delta->removed++;
		}
		avc_apply(slice, rel, delta);
		avc_delta_free(delta);
	}
	table_close(rel, NoLock);
	return places != NIL;
}

/* ---- versions ---- */

/* Versions that held the frame, and what was made from them. */
static void
touch_versions(Erasure *erasure, const AvcSlice *slice, AvcParam versions)
{
	AvcParam	params[3] = {AVC_INT8(slice->slice_id), versions,
	AVC_TEXT(slice->name)};
	uint64		i;

	avc_spi_exec("SELECT 'version', $3, version "
				 "FROM (SELECT unnest($2) AS version ORDER BY 1) v "
				 "UNION ALL SELECT * FROM (SELECT kind, id::text, version "
				 "FROM _avcurate.slice_pins() WHERE slice_id = $1 "
				 "AND version = ANY ($2) AND kind <> 'tag' "
				 "ORDER BY kind, slice_pins.id, version) p", 3, params,
				 false, 0);
	for (i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		is_null;

		touch(erasure, SPI_getvalue(row, desc, 1), SPI_getvalue(row, desc, 2),
			  DatumGetInt64(SPI_getbinval(row, desc, 3, &is_null)));
	}
}

static void
erase_from_slice(Erasure *erasure, AvcSlice *slice)
{
	MemoryContext context = CurrentMemoryContext;
	AvcParam	param = AVC_INT8(erasure->frame_id);
	AttrNumber	image_id = get_attnum(slice->history, "image_id");
	AvcParam	versions;
	uint64		rows;
	bool		was_held;

	was_held = OidIsValid(slice->relid) && erase_from_view(erasure, slice);
	versions = avc_erased_rows_record(slice, erasure->frame_id);
	rows = avc_spi_exec(psprintf("DELETE FROM %s WHERE frame_id = $1 "
								 "RETURNING %s", slice->history_name,
								 image_id != InvalidAttrNumber &&
								 get_atttype(slice->history, image_id) == TEXTOID ?
								 "image_id" : "NULL"),
						1, &param, false, 0);
	take_image_ids(erasure, context);
	add_table(erasure, slice->history_name);
	if (was_held || rows > 0)
		touch(erasure, "slice", slice->name, 0);
	touch_versions(erasure, slice, versions);
}

/* ---- what else names the frame ---- */

/* Run a deletion; one row of the result for each different value returned. */
static void
erase_elsewhere(Erasure *erasure, const char *kind, const char *table,
				const char *sql, int count, const AvcParam *params)
{
	uint64		i;

	avc_spi_exec(psprintf("WITH gone AS (DELETE FROM %s %s AS object) "
						  "SELECT DISTINCT object::text FROM gone ORDER BY 1",
						  table, sql), count, params, false, 0);
	for (i = 0; i < SPI_processed; i++)
		touch(erasure, kind, SPI_getvalue(SPI_tuptable->vals[i],
										  SPI_tuptable->tupdesc, 1), 0);
	if (SPI_processed > 0)
		add_table(erasure, table);
}

/*
 * Tables of higher floors are named as in prune.c.  Evaluations write their
 * matches with a lock on the version's row, which we have changed, so none
 * can follow.
 */
static void
erase_records(Erasure *erasure, List *slice_ids)
{
	const char *name = erasure->dataset->quoted_name;
	Datum	   *ids = palloc_array(Datum, list_length(slice_ids) + 1);
	Datum	   *image_ids = palloc_array(Datum,
										 list_length(erasure->image_ids) + 1);
	AvcParam	params[5];
	int			count = 0;
	ListCell   *cell;

	foreach(cell, slice_ids)
		ids[count++] = Int64GetDatum(*(int64 *) lfirst(cell));
	params[0] = AVC_REGCLASS(erasure->dataset->relid);
	params[1] = AVC_INT8(erasure->frame_id);
	params[2] = AVC_TEXT(name);
	params[3] = (AvcParam) {INT8ARRAYOID,
		PointerGetDatum(construct_array(ids, count, INT8OID, 8,
										FLOAT8PASSBYVAL, TYPALIGN_DOUBLE)),
		false};
	count = 0;
	foreach(cell, erasure->image_ids)
		image_ids[count++] = CStringGetTextDatum(lfirst(cell));
	params[4] = (AvcParam) {TEXTARRAYOID,
		PointerGetDatum(construct_array(image_ids, count, TEXTOID, -1, false,
										TYPALIGN_INT)), false};

	erase_elsewhere(erasure, "archive", "_avcurate.archive",
					"WHERE dataset = $1 AND frame_id = $2 RETURNING $3",
					3, params);
	erase_elsewhere(erasure, "matches", "_avcurate.matches",
					"WHERE frame_id = $2 AND evaluation IN "
					"(SELECT evaluation FROM _avcurate.evaluations "
					"WHERE slice_id = ANY ($4) UNION "
					"SELECT job FROM _avcurate.jobs WHERE kind = 'evaluate' "
					"AND (slice_id = ANY ($4) OR dataset = $1)) "
					"RETURNING evaluation", 4, params);
	erase_elsewhere(erasure, "feature_errors", "_avcurate.feature_errors",
					"WHERE dataset = $1 AND frame_id = $2 RETURNING feature",
					2, params);
	/* folder/NAME.jpg, labels.json#NAME.jpg, NAME */
	erase_elsewhere(erasure, "ingest_errors", "_avcurate.ingest_errors",
					"WHERE dataset = $1 AND (source = ANY ($5) OR "
					"regexp_replace(regexp_replace(source, '^.*[/#]', ''), "
					"'[.][[:alpha:]]+$', '') = ANY ($5)) RETURNING $3",
					5, params);
}

/* Views that read the dataset and are not ours to write to. */
static void
warn_of_views(Erasure *erasure)
{
	AvcParam	param = AVC_OID(erasure->dataset->relid);
	StringInfoData views;
	uint64		i;

	initStringInfo(&views);
	avc_spi_exec("WITH RECURSIVE readers(relid) AS (SELECT $1 UNION "
				 "SELECT w.ev_class FROM readers r JOIN pg_depend d "
				 "ON d.refclassid = 'pg_class'::regclass "
				 "AND d.refobjid = r.relid "
				 "AND d.classid = 'pg_rewrite'::regclass "
				 "JOIN pg_rewrite w ON w.oid = d.objid) "
				 "SELECT CASE WHEN s.slice IS NULL THEN 'untracked view' "
				 "ELSE 'slice of another dataset' END, "
				 "format('%I.%I', n.nspname, c.relname) FROM readers r "
				 "JOIN pg_class c ON c.oid = r.relid AND c.relkind = 'm' "
				 "JOIN pg_namespace n ON n.oid = c.relnamespace "
				 "LEFT JOIN _avcurate.slices s ON s.slice = c.oid "
				 "WHERE s.dataset IS DISTINCT FROM $1 ORDER BY 2",
				 1, &param, false, 0);
	for (i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		char	   *view = SPI_getvalue(row, SPI_tuptable->tupdesc, 2);

		touch(erasure, SPI_getvalue(row, SPI_tuptable->tupdesc, 1), view, 0);
		appendStringInfo(&views, "%s%s", i > 0 ? ", " : "", view);
	}
	if (SPI_processed > 0)
		ereport(WARNING,
				(errmsg("materialized views may still hold frame " INT64_FORMAT,
						erasure->frame_id),
				 errdetail("They read the dataset and are no slices of it: %s.",
						   views.data),
				 errhint("REFRESH MATERIALIZED VIEW fills them again; a slice of another dataset keeps the frame in its old versions.")));
}

/* ---- views to come ---- */

void
avc_erase_check_view(Oid relid, Oid dataset)
{
	AvcParam	param = AVC_REGCLASS(dataset);
	Relation	view = table_open(relid, AccessShareLock);
	Relation	rel = table_open(dataset, AccessShareLock);
	AvcRoleScope scope;
	uint64		i;

	avc_catalog_enter(&scope);
	SPI_connect();
	avc_spi_exec("SELECT DISTINCT frame_id FROM _avcurate.erasures "
				 "WHERE dataset = $1 ORDER BY 1", 1, &param, false, 0);
	for (i = 0; i < SPI_processed; i++)
	{
		bool		is_null;
		int64		frame_id = DatumGetInt64(avc_spi_column(i, "frame_id",
															&is_null));

		/* the number may have been given to another frame */
		if (places_of(view, frame_id) != NIL &&
			places_of(rel, frame_id) == NIL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("materialized view \"%s\" holds frame " INT64_FORMAT ", which was erased",
							RelationGetRelationName(view), frame_id),
					 errhint("REFRESH MATERIALIZED VIEW it first.")));
	}
	SPI_finish();
	avc_catalog_leave(&scope);
	table_close(rel, AccessShareLock);
	table_close(view, AccessShareLock);
}

/* ---- the whole ---- */

static void
check_found(const Erasure *erasure)
{
	AvcParam	params[2] = {AVC_REGCLASS(erasure->dataset->relid),
	AVC_INT8(erasure->frame_id)};
	bool		was_erased;

	if (erasure->is_found)
		return;
	was_erased = avc_spi_exec("SELECT 1 FROM _avcurate.erasures "
							  "WHERE dataset = $1 AND frame_id = $2",
							  2, params, false, 1) > 0;
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("neither dataset %s nor any version of its slices has frame " INT64_FORMAT,
					erasure->dataset->quoted_name, erasure->frame_id),
			 was_erased ?
			 errdetail("It was erased before; the view avcurate.erasures says when.") :
			 0));
}

static void
write_log(const Erasure *erasure, const char *reason, const char *role)
{
	AvcParam	params[6];
	char	   *touched = psprintf("[%s]", erasure->touched.data);

	params[0] = AVC_REGCLASS(erasure->dataset->relid);
	params[1] = AVC_TEXT(erasure->dataset->quoted_name);
	params[2] = AVC_INT8(erasure->frame_id);
	params[3] = AVC_TEXT(role);
	params[4] = AVC_TEXT(reason);
	params[5] = (AvcParam) {JSONBOID,
		DirectFunctionCall1(jsonb_in, CStringGetDatum(touched)), false};
	avc_spi_exec("INSERT INTO _avcurate.erasures (dataset, dataset_name, "
				 "frame_id, erased_by, reason, touched) "
				 "VALUES ($1, $2, $3, $4, $5, $6)", 6, params, false, 0);
}

static void
erase(Erasure *erasure, const char *reason)
{
	const char *role = GetUserNameFromId(GetUserId(), false);
	List	   *slice_ids;
	AvcRoleScope scope;
	ListCell   *cell;

	avc_catalog_enter(&scope);
	SPI_connect();
	slice_ids = lock_slices(erasure->dataset->relid);
	erase_row(erasure);
	foreach(cell, slice_ids)
		erase_from_slice(erasure,
						 avc_slice_find_by_id(*(int64 *) lfirst(cell), false));
	erase_records(erasure, slice_ids);
	/* values of the columns, as ANALYZE noted them */
	add_table(erasure, "pg_catalog.pg_statistic");
	check_found(erasure);
	warn_of_views(erasure);
	write_log(erasure, reason, role);
	SPI_finish();
	avc_catalog_leave(&scope);
	ereport(NOTICE,
			(errmsg("frame " INT64_FORMAT " of dataset %s is erased when this transaction commits",
					erasure->frame_id, erasure->dataset->quoted_name),
			 errdetail("Files of the tables keep dead rows until they are rewritten; WAL, backups, dumps and subscribers keep what they have."),
			 errhint("Then run, as owner of the database, VACUUM (FULL, ANALYZE) %s.",
					 erasure->tables.data)));
}

static char *
reason_argument(FunctionCallInfo fcinfo)
{
	char	   *reason = PG_ARGISNULL(2) ? "" :
	text_to_cstring(PG_GETARG_TEXT_PP(2));

	if (reason[strspn(reason, " \t\r\n")] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("reason must not be empty"),
				 errdetail("It is kept with the number of the frame in avcurate.erasures.")));
	return reason;
}

/*
 * erase_frame(dataset, frame_id, reason) returns table (object_kind, object,
 * version).
 */
Datum
avc_erase_frame(PG_FUNCTION_ARGS)
{
	Erasure		erasure = {0};
	char	   *reason;
	Oid			relid;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("dataset and frame_id must not be NULL")));
	reason = reason_argument(fcinfo);
	relid = PG_GETARG_OID(0);
	PreventCommandIfReadOnly("erase_frame()");
	PreventCommandIfParallelMode("erase_frame()");
	(void) avc_dataset_find_owned(relid);
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("erase_frame() must run in a READ COMMITTED transaction"),
				 errdetail("Another snapshot may not see everything that holds the frame.")));
	InitMaterializedSRF(fcinfo, 0);
	LockRelationOid(relid, RowExclusiveLock);
	erasure.dataset = avc_dataset_find_owned(relid);
	(void) avc_definition_source(relid);
	erasure.frame_id = PG_GETARG_INT64(1);
	erasure.result = (ReturnSetInfo *) fcinfo->resultinfo;
	initStringInfo(&erasure.touched);
	initStringInfo(&erasure.tables);
	erase(&erasure, reason);
	return (Datum) 0;
}
