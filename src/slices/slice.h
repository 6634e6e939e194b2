/*
 * slices/slice.h
 *		Slices: materialized views whose contents are versioned.
 *
 * The rows of a version are read from its history table: the columns of the
 * slice and from_version bigint, to_version bigint.  Version v is the rows
 * with from_version <= v AND (to_version IS NULL OR v < to_version).  Nobody
 * but the extension's owner may read that table (avc_catalog_enter), so the
 * caller checks the right to read the slice first (avc_slice_check_readable).
 */
#ifndef AVC_SLICES_SLICE_H
#define AVC_SLICES_SLICE_H

#include "nodes/pg_list.h"

typedef struct AvcSlice
{
	int64		slice_id;
	Oid			relid;			/* InvalidOid once the view was dropped */
	Oid			dataset;		/* InvalidOid once dropped */
	Oid			history;		/* the table _avcurate.history_<slice_id> */
	char	   *name;			/* schema.view, quoted where needed */
	char	   *history_name;	/* the history table, ready for SQL */
	bool		complete;		/* has what batches need */
	bool		must_recompute; /* mark left by a refresh with an old snapshot */
	int64		erasures;		/* frames erased from it so far */
	int64		version;		/* newest version */
	List	   *columns;		/* char *, in the view's order */
} AvcSlice;

/* ---- slice.c ---- */

/*
 * Look a slice up by its view.  The result is palloc'd in the current
 * context.  NULL for a relation that is no tracked slice if missing_ok, else
 * an error.  Connects to SPI by itself; sees what a new statement would see.
 * Takes no lock: a refresh may commit a newer version right after.
 */
extern AvcSlice *avc_slice_find(Oid relid, bool missing_ok);

/* The same by registry number; finds dropped slices with pinned versions. */
extern AvcSlice *avc_slice_find_by_id(int64 slice_id, bool missing_ok);

/*
 * The version to use: the newest for 0, else "version" itself if it exists;
 * an error that says whether it was pruned or never was.
 */
extern int64 avc_slice_version_check(AvcSlice *slice, int64 version);

/*
 * The same, and pin it for the rest of the transaction: prune_slice waits
 * for the transaction's end before it looks at who needs the version.  Call
 * it where a row that pins the version is written.
 */
extern int64 avc_slice_version_pin(AvcSlice *slice, int64 version);

/* Error unless the current user has SELECT on the slice. */
extern void avc_slice_check_readable(const AvcSlice *slice);

/* Error naming the columns that batches need and the slice lacks. */
extern void avc_slice_check_complete(const AvcSlice *slice);

/* Rows of a version that are left of it: those erased do not count. */
extern int64 avc_slice_version_rows(const AvcSlice *slice, int64 version);

/*
 * Rows erased from a version.  Nothing more is erased from it until the end
 * of the transaction: for whoever writes down what it read there before.
 */
extern int64 avc_slice_version_erased(const AvcSlice *slice, int64 version);

/* ---- version_read.c ---- */

typedef struct AvcVerdict
{
	int64		version;
	int64		rows;			/* counted */
	int64		erased;			/* rows that erase_frame took, as recorded */
	char	   *digest;			/* recomputed, with that of the erased rows */
	bool		is_verified;
	char	   *detail;			/* what is wrong, or that nothing is */
} AvcVerdict;

/*
 * What verify_slice tells, for dropped slices too (avc_slice_find_by_id).
 * version 0 = the newest.  The right to ask is the caller's business.
 */
extern AvcVerdict *avc_slice_verify(AvcSlice *slice, int64 version);

/* ---- archive.c ---- */

/*
 * The archived image of a frame under its hash.  *image is a TOAST pointer
 * or an inline bytea in the current context, valid while the active snapshot
 * is, with which it is looked up.  False if there is none.
 */
extern bool avc_archive_image(Oid dataset, int64 frame_id, Datum sha256,
							  Datum *image);

#endif
