/*
 * slices/images.c
 *		Are the images that a version means still there?
 *
 * The frames and hashes are taken from the history as the extension's owner,
 * compared with the dataset as the dataset's owner, and what is not found
 * there is looked for in the archive as the extension's owner again.
 */
#include "postgres.h"

#include "access/tupdesc.h"
#include "catalog/pg_type.h"
#include "utils/tuplestore.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "datasets/dataset.h"
#include "slices/refresh.h"

/* What the dataset has: (frame_id, image_sha256, ok); ok NULL = not there. */
static Tuplestorestate *
look_into_dataset(const AvcSlice *slice, Tuplestorestate *wanted,
				  TupleDesc wanted_desc, bool rehash, TupleDesc *desc)
{
	AvcDataset *dataset = avc_dataset_find(slice->dataset, false);
	char	   *source = avc_definition_source(slice->dataset);
	Tuplestorestate *here;
	AvcRoleScope scope;

	avc_rows_register("wanted_images", wanted, wanted_desc);
	avc_role_enter(&scope, dataset->owner);
	here = avc_rows_collect(psprintf("SELECT w.frame_id, w.image_sha256, %s "
									 "AS ok FROM wanted_images w "
									 "LEFT JOIN %s d "
									 "ON d.frame_id = w.frame_id "
									 "AND d.image_sha256 = w.image_sha256",
									 rehash ?
									 "sha256(d.image_bytes) = w.image_sha256" :
									 "CASE WHEN d.frame_id IS NOT NULL THEN true END",
									 source),
							0, NULL, true, desc);
	avc_role_leave(&scope);
	return here;
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

/* Look for the rest in the archive and count. */
static void
look_into_archive(const AvcSlice *slice, Tuplestorestate *here,
				  TupleDesc desc, bool rehash, AvcImageFaults *faults)
{
	AvcParam	param = AVC_REGCLASS(slice->dataset);

	avc_rows_register("found_images", here, desc);
	avc_spi_exec(psprintf("SELECT count(*) FILTER (WHERE ok IS NULL), "
						  "count(*) FILTER (WHERE NOT ok), "
						  "min(frame_id) FILTER (WHERE ok IS NULL), "
						  "min(frame_id) FILTER (WHERE NOT ok) FROM "
						  "(SELECT h.frame_id, coalesce(h.ok, "
						  "(SELECT %s FROM _avcurate.archive a "
						  "WHERE a.dataset = $1 AND a.frame_id = h.frame_id "
						  "AND a.image_sha256 = h.image_sha256)) AS ok "
						  "FROM found_images h) frames",
						  rehash ? "sha256(a.image_bytes) = h.image_sha256" :
						  "true"), 1, &param, true, 1);
	faults->missing = count_at(1);
	faults->changed = count_at(2);
	faults->first_missing = count_at(3);
	faults->first_changed = count_at(4);
}

void
avc_images_check(const AvcSlice *slice, int64 version, bool rehash,
				 AvcImageFaults *faults)
{
	AvcParam	param = AVC_INT8(version);
	Tuplestorestate *wanted;
	Tuplestorestate *here;
	TupleDesc	wanted_desc;
	TupleDesc	desc;
	AvcRoleScope scope;

	avc_catalog_enter(&scope);
	SPI_connect();
	wanted = avc_rows_collect(psprintf("SELECT frame_id, image_sha256 FROM %s "
									   "WHERE image_sha256 IS NOT NULL "
									   "AND from_version <= $1 "
									   "AND (to_version IS NULL "
									   "OR $1 < to_version)",
									   slice->history_name),
							  1, &param, true, &wanted_desc);
	here = look_into_dataset(slice, wanted, wanted_desc, rehash, &desc);
	tuplestore_end(wanted);
	look_into_archive(slice, here, desc, rehash, faults);
	tuplestore_end(here);
	SPI_finish();
	avc_catalog_leave(&scope);
}
