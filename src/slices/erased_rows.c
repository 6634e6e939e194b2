/*
 * slices/erased_rows.c
 *		What the versions of a slice lose when a frame is erased.
 *
 * A version keeps rows and digest as they were recorded.  Beside them stand
 * the number and the digest of its rows that were erased since: the rows that
 * are left, counted and digested, and these two give what was recorded.
 *
 * The rows of slice_versions are updated even where nobody looks at these
 * numbers: sessions that keep a version's frame ids know by its row whether
 * they are still right.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "common/spi.h"
#include "slices/refresh.h"

typedef struct ErasedRows
{
	Datum	   *versions;
	Datum	   *counts;
	Datum	   *digests;		/* text: of all that is erased of the version */
	int			count;
} ErasedRows;

/* Take one row of the version, of which "digest" was erased before. */
static void
add_row(ErasedRows *erased, int64 version, Datum digest, Datum row)
{
	bool		is_next = erased->count == 0 || version !=
	DatumGetInt64(erased->versions[erased->count - 1]);
	int			i = is_next ? erased->count++ : erased->count - 1;
	AvcDigester *digester;

	if (is_next)
	{
		erased->versions[i] = Int64GetDatum(version);
		erased->counts[i] = Int64GetDatum(0);
		erased->digests[i] = digest;
	}
	digester = avc_digest_begin(TextDatumGetCString(erased->digests[i]));
	avc_digest_pin(digester);
	avc_digest_add(digester, row);
	avc_digest_unpin(digester);
	erased->counts[i] = Int64GetDatum(DatumGetInt64(erased->counts[i]) + 1);
	erased->digests[i] = CStringGetTextDatum(avc_digest_end(digester));
}

/* The rows of the frame in versions that have these columns. */
static void
find_rows(const AvcSlice *slice, int64 frame_id, Datum columns,
		  ErasedRows *erased)
{
	AvcParam	params[3] = {AVC_INT8(slice->slice_id), AVC_INT8(frame_id),
	{NAMEARRAYOID, columns, false}};
	Size		room;
	uint64		i;

	avc_spi_exec(psprintf("SELECT v.version, v.erased_digest, ROW(%s) "
						  "FROM _avcurate.slice_versions v JOIN %s h "
						  "ON v.version >= h.from_version AND "
						  "(h.to_version IS NULL OR v.version < h.to_version) "
						  "WHERE v.slice_id = $1 AND h.frame_id = $2 "
						  "AND v.columns = $3 ORDER BY v.version",
						  avc_column_list("h", avc_names_from_array(columns)),
						  slice->history_name), 3, params, false, 0);
	room = (erased->count + SPI_processed + 1) * sizeof(Datum);
	erased->versions = repalloc(erased->versions, room);
	erased->counts = repalloc(erased->counts, room);
	erased->digests = repalloc(erased->digests, room);
	for (i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		is_null;

		CHECK_FOR_INTERRUPTS();
		add_row(erased, DatumGetInt64(SPI_getbinval(row, desc, 1, &is_null)),
				SPI_getbinval(row, desc, 2, &is_null),
				SPI_getbinval(row, desc, 3, &is_null));
	}
}

static AvcParam
array_of(Datum *elements, int count)
{
	return (AvcParam) {INT8ARRAYOID,
		PointerGetDatum(construct_array(elements, count, INT8OID, 8,
										FLOAT8PASSBYVAL, TYPALIGN_DOUBLE)),
		false};
}

AvcParam
avc_erased_rows_record(const AvcSlice *slice, int64 frame_id)
{
	ErasedRows	erased = {palloc_object(Datum), palloc_object(Datum),
	palloc_object(Datum), 0};
	AvcParam	params[4] = {AVC_INT8(slice->slice_id)};
	SPITupleTable *lists;
	uint64		count;
	uint64		i;

	/* the digest of a version is of the columns that it has */
	count = avc_spi_exec("SELECT DISTINCT columns "
						 "FROM _avcurate.slice_versions WHERE slice_id = $1",
						 1, params, false, 0);
	lists = SPI_tuptable;
	for (i = 0; i < count; i++)
	{
		bool		is_null;

		find_rows(slice, frame_id, SPI_getbinval(lists->vals[i],
												 lists->tupdesc, 1, &is_null),
				  &erased);
	}
	params[1] = array_of(erased.versions, erased.count);
	params[2] = array_of(erased.counts, erased.count);
	params[3] = (AvcParam) {TEXTARRAYOID,
		PointerGetDatum(construct_array(erased.digests, erased.count, TEXTOID,
										-1, false, TYPALIGN_INT)), false};
	avc_spi_exec("UPDATE _avcurate.slice_versions v "
				 "SET erased = v.erased + e.rows, erased_digest = e.digest "
				 "FROM unnest($2, $3, $4) e(version, rows, digest) "
				 "WHERE v.slice_id = $1 AND v.version = e.version",
				 4, params, false, 0);
	return params[1];
}
