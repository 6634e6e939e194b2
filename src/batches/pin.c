/*
 * batches/pin.c
 *		A pinned version of a slice, and the right to read it.
 *
 * Rows are read by direct scans of the history, the dataset and the archive,
 * which know nothing of privileges or row security; so both are checked here
 * for the user that calls, once a call.
 */
#include "postgres.h"

#include "access/attnum.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"

#include "batches/pin.h"
#include "common/catalog.h"
#include "common/spi.h"
#include "slices/slice.h"

/* What a frame of a batch is made of, and the types that it must have. */
static const struct
{
	const char *column;
	Oid			type;
}			needed[] =
{
	{"frame_id", INT8OID},
	{"image_sha256", BYTEAOID},
	{"width", INT4OID},
	{"height", INT4OID},
	{"ann_categories", TEXTARRAYOID},
	{"ann_bboxes", FLOAT4ARRAYOID},
	{"ann_ignored", BOOLARRAYOID},
	{"ann_area", FLOAT4ARRAYOID},
};

/* The history table has the columns of all versions, with their types. */
static void
check_types(const AvcPin *pin)
{
	int			i;

	for (i = 0; i < lengthof(needed); i++)
	{
		AttrNumber	column = get_attnum(pin->history, needed[i].column);
		Oid			type;

		if (column == InvalidAttrNumber)
			elog(ERROR, "history of slice \"%s\" has no column \"%s\"",
				 pin->slice_name, needed[i].column);
		type = get_atttype(pin->history, column);
		if (type != needed[i].type)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("column \"%s\" of slice \"%s\" has type %s, but batches need %s",
							needed[i].column, pin->slice_name,
							format_type_be(type),
							format_type_be(needed[i].type))));
	}
}

/* A version older than a column has NULLs there: refuse it. */
static void
check_version_columns(const AvcPin *pin, Datum columns)
{
	Datum	   *names;
	int			count;
	int			i;
	int			j;

	deconstruct_array(DatumGetArrayTypeP(columns), NAMEOID, NAMEDATALEN,
					  false, TYPALIGN_CHAR, &names, NULL, &count);
	for (i = 0; i < lengthof(needed); i++)
	{
		for (j = 0; j < count; j++)
			if (namestrcmp(DatumGetName(names[j]), needed[i].column) == 0)
				break;
		if (j == count)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("version %lld of slice \"%s\" lacks column \"%s\", which batches need",
							(long long) pin->version, pin->slice_name,
							needed[i].column),
					 errhint("Use a version made after the column was added.")));
	}
}

/* The version's row as the caller's snapshot sees it. */
static void
read_version_row(AvcPin *pin, int64 version)
{
	AvcRoleScope scope;
	AvcParam	params[] = {AVC_INT8(pin->slice_id), AVC_INT8(version)};
	bool		is_null;
	uint64		rows;

	SPI_connect();
	avc_catalog_enter(&scope);
	rows = avc_spi_exec("SELECT version, xmin AS stamp, erased, columns "
						"FROM _avcurate.slice_versions WHERE slice_id = $1 "
						"AND ($2 = 0 OR version = $2) "
						"ORDER BY version DESC LIMIT 1", 2, params, true, 1);
	avc_catalog_leave(&scope);
	if (rows == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this statement began before the version of slice \"%s\" existed",
						pin->slice_name),
				 errhint("Repeat the statement.")));
	pin->version = DatumGetInt64(avc_spi_column(0, "version", &is_null));
	pin->stamp = DatumGetTransactionId(avc_spi_column(0, "stamp", &is_null));
	pin->erased = DatumGetInt64(avc_spi_column(0, "erased", &is_null));
	check_version_columns(pin, avc_spi_column(0, "columns", &is_null));
	SPI_finish();
}

void
avc_pin_open(AvcPin *pin, Oid relid, int64 slice_id, int64 version)
{
	AvcSlice   *slice = OidIsValid(relid) ? avc_slice_find(relid, false) :
	avc_slice_find_by_id(slice_id, false);

	avc_slice_check_complete(slice);
	if (version < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("version must be at least 1")));
	if (version > 0)
		avc_slice_version_check(slice, version);
	if (!OidIsValid(slice->dataset))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the dataset of slice \"%s\" was dropped",
						slice->name)));
	pin->slice_id = slice->slice_id;
	pin->slice = slice->relid;
	pin->dataset = slice->dataset;
	pin->history = slice->history;
	pin->slice_name = slice->name;
	check_types(pin);
	read_version_row(pin, version);
}

void
avc_pin_check_slice(const AvcPin *pin)
{
	AclResult	result;
	bool		is_dropped = false;

	if (!OidIsValid(pin->slice))
		return;
	/* A view that was dropped since leaves its pinned version behind. */
	result = pg_class_aclcheck_ext(pin->slice, GetUserId(), ACL_SELECT,
								   &is_dropped);
	if (result != ACLCHECK_OK && !is_dropped)
		aclcheck_error(result, OBJECT_MATVIEW, get_rel_name(pin->slice));
}

void
avc_pin_check_images(const AvcPin *pin)
{
	Oid			user = GetUserId();
	char	   *dataset = get_rel_name(pin->dataset);
	AttrNumber	column = get_attnum(pin->dataset, "image_bytes");

	avc_pin_check_slice(pin);
	if (dataset == NULL || column == InvalidAttrNumber)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the dataset of slice \"%s\" was dropped",
						pin->slice_name)));
	if (pg_class_aclcheck(pin->dataset, user, ACL_SELECT) != ACLCHECK_OK &&
		pg_attribute_aclcheck(pin->dataset, column, user,
							  ACL_SELECT) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for column \"image_bytes\" of dataset \"%s\"",
						dataset),
				 errhint("Grant SELECT on the dataset or on its column image_bytes.")));
	if (check_enable_rls(pin->dataset, user, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cannot read batches: row security of dataset \"%s\" applies to role \"%s\"",
						dataset, GetUserNameFromId(user, false)),
				 errdetail("Versions, archived images and batches are read without policies."),
				 errhint("Use a role that bypasses row security, or give this role a dataset of its own.")));
}
