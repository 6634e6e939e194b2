/*
 * slices/create.c
 *		Make, adopt and give up slices; name versions.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/varlena.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "datasets/dataset.h"
#include "slices/refresh.h"

PG_FUNCTION_INFO_V1(avc_create_slice);
PG_FUNCTION_INFO_V1(avc_track_slice);
PG_FUNCTION_INFO_V1(avc_untrack_slice);
PG_FUNCTION_INFO_V1(avc_tag_slice);
PG_FUNCTION_INFO_V1(avc_untag_slice);

static void
check_not_null(FunctionCallInfo fcinfo, int number, const char *name)
{
	if (PG_ARGISNULL(number))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be NULL", name)));
}

/*
 * Whoever may read nothing of a dataset must not lock it either; which columns
 * it takes is checked when the view is filled.
 */
static void
check_readable(Oid dataset)
{
	if (pg_class_aclcheck(dataset, GetUserId(), ACL_SELECT) != ACLCHECK_OK &&
		pg_attribute_aclcheck_all(dataset, GetUserId(), ACL_SELECT,
								  ACLMASK_ANY) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, get_rel_name(dataset));
}

/* schema.name for a new view, in the schema that CREATE would choose. */
static char *
new_view_name(text *name, Oid *schema, char **bare_name)
{
	RangeVar   *range = makeRangeVarFromNameList(textToQualifiedNameList(name));

	if (range->catalogname)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a slice cannot be made in another database")));
	*schema = RangeVarGetCreationNamespace(range);
	*bare_name = range->relname;
	return quote_qualified_identifier(get_namespace_name(*schema),
									  range->relname);
}

/* Make the view as the current user, who becomes its owner. */
static void
create_view(const char *view, const char *query)
{
	int			guc_level = NewGUCNestLevel();

	(void) set_config_option("search_path", "pg_catalog, avcurate, pg_temp",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
	SPI_connect();
	/* fillfactor: room for rows that change in place at a refresh */
	avc_spi_exec(psprintf("CREATE MATERIALIZED VIEW %s USING heap "
						  "WITH (fillfactor = 90) AS %s", view, query),
				 0, NULL, false, 0);
	avc_spi_exec(psprintf("CREATE UNIQUE INDEX ON %s (frame_id)", view),
				 0, NULL, false, 0);
	SPI_finish();
	AtEOXact_GUC(false, guc_level);
}

Datum
avc_create_slice(PG_FUNCTION_ARGS)
{
	AvcDataset *dataset;
	char	   *filter;
	AvcForm		form = {0};
	char	   *view;
	char	   *bare_name;
	Snapshot	before;
	Oid			schema;
	Oid			relid;

	check_not_null(fcinfo, 0, "slice");
	check_not_null(fcinfo, 1, "dataset");
	dataset = avc_dataset_find(PG_GETARG_OID(1), false);
	check_readable(dataset->relid);
	filter = PG_ARGISNULL(2) ? "true" : text_to_cstring(PG_GETARG_TEXT_PP(2));
	form.sources = avc_definition_columns(dataset->relid,
										  PG_ARGISNULL(3) ? (Datum) 0 :
										  PG_GETARG_DATUM(3),
										  PG_ARGISNULL(3));
	form.names = form.sources;
	form.condition = avc_filter_condition(dataset->relid, filter);

	avc_archive_enable(dataset->relid);
	/* not earlier: schemas may be renamed while this waits */
	view = new_view_name(PG_GETARG_TEXT_PP(0), &schema, &bare_name);
	before = RegisterSnapshot(GetTransactionSnapshot());
	create_view(view, avc_form_query(dataset->relid, &form));
	relid = get_relname_relid(bare_name, schema);
	avc_require_owner(relid);
	(void) avc_definition_check_view(relid);
	avc_slice_register(relid, dataset->relid, filter, before);
	UnregisterSnapshot(before);
	avc_slice_note_filter(relid, dataset->relid, filter);
	PG_RETURN_OID(relid);
}

/* Tell if images of the rows just adopted are gone already. */
static void
warn_of_lost_images(const AvcSlice *slice)
{
	AvcImageFaults faults;

	if (!avc_history_has_images(slice->slice_id))
		return;
	avc_images_check(slice, slice->version, false, &faults);
	if (faults.missing > 0)
		ereport(WARNING,
				(errmsg("images of " INT64_FORMAT " rows of slice %s were replaced before it was tracked",
						faults.missing, slice->name),
				 errhint("Refresh the slice; its version 1 cannot be read by batches.")));
}

Datum
avc_track_slice(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	Oid			dataset;
	AvcSlice   *slice;

	PreventCommandIfReadOnly("track_slice()");
	avc_require_owner(relid);
	(void) avc_definition_check_view(relid);
	LockRelationOid(relid, ExclusiveLock);
	avc_require_owner(relid);
	if (avc_slice_find(relid, true) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("materialized view \"%s\" is tracked already",
						get_rel_name(relid))));
	if (!avc_definition_check_view(relid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("materialized view \"%s\" has no unique index on frame_id",
						get_rel_name(relid)),
				 errhint("CREATE UNIQUE INDEX ON %s (frame_id).",
						 avc_relation_name(relid))));
	dataset = avc_definition_dataset(relid);
	avc_archive_enable(dataset);
	avc_erase_check_view(relid, dataset);
	avc_slice_register(relid, dataset, NULL, NULL);
	slice = avc_slice_find(relid, false);
	warn_of_lost_images(slice);
	PG_RETURN_INT64(slice->version);
}

Datum
avc_untrack_slice(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	AvcSlice   *slice;
	char	   *what;

	PreventCommandIfReadOnly("untrack_slice()");
	slice = avc_slice_lock(relid, ExclusiveLock);
	if (avc_slice_is_pinned(slice->slice_id, &what))
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("versions of slice %s are pinned", slice->name),
				 errdetail("Pinned is %s.", what),
				 errhint("Remove the tags and checkpoints first, or keep the slice.")));
	avc_slice_forget(slice->slice_id);
	CommandCounterIncrement();
	if (OidIsValid(slice->dataset))
		(void) avc_archive_free(slice->dataset);
	PG_RETURN_VOID();
}

/* ---- tags ---- */

Datum
avc_tag_slice(PG_FUNCTION_ARGS)
{
	AvcSlice   *slice;
	int64		version;
	char	   *tag = text_to_cstring(PG_GETARG_TEXT_PP(2));
	AvcParam	params[4];
	AvcRoleScope scope;
	uint64		done;

	PreventCommandIfReadOnly("tag_slice()");
	slice = avc_slice_find_owned(PG_GETARG_OID(0));
	version = avc_slice_version_pin(slice, PG_GETARG_INT64(1));
	if (tag[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("tag must not be empty")));
	params[0] = AVC_INT8(slice->slice_id);
	params[1] = AVC_TEXT(tag);
	params[2] = AVC_INT8(version);
	params[3] = AVC_TEXT(GetUserNameFromId(GetUserId(), false));
	avc_catalog_enter(&scope);
	SPI_connect();
	done = avc_spi_exec("INSERT INTO _avcurate.slice_tags "
						"(slice_id, tag, version, created_by) "
						"VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
						4, params, false, 0);
	SPI_finish();
	avc_catalog_leave(&scope);
	if (done == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("slice %s has a tag \"%s\" already", slice->name,
						tag),
				 errhint("Remove it with avcurate.untag_slice first.")));
	PG_RETURN_VOID();
}

Datum
avc_untag_slice(PG_FUNCTION_ARGS)
{
	AvcSlice   *slice = avc_slice_find_owned(PG_GETARG_OID(0));
	char	   *tag = text_to_cstring(PG_GETARG_TEXT_PP(1));
	AvcParam	params[2];
	AvcRoleScope scope;
	uint64		done;

	params[0] = AVC_INT8(slice->slice_id);
	params[1] = AVC_TEXT(tag);
	avc_catalog_enter(&scope);
	SPI_connect();
	done = avc_spi_exec("DELETE FROM _avcurate.slice_tags "
						"WHERE slice_id = $1 AND tag = $2",
						2, params, false, 0);
	SPI_finish();
	avc_catalog_leave(&scope);
	if (done == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("slice %s has no tag \"%s\"", slice->name, tag)));
	PG_RETURN_VOID();
}
