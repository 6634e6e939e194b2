/*
 * slices/refresh.h
 *		What the files of slices/ share among themselves: names and rights,
 *		history, digest, differences and the course of one refresh.
 *
 * Lock order everywhere: the dataset, the view, the registry row.
 */
#ifndef AVC_SLICES_REFRESH_H
#define AVC_SLICES_REFRESH_H

#include "access/tupdesc.h"
#include "executor/tuptable.h"
#include "lib/stringinfo.h"
#include "nodes/nodes.h"
#include "storage/lockdefs.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"
#include "utils/tuplestore.h"

#include "common/spi.h"
#include "slices/evaluate.h"
#include "slices/slice.h"
#include "slices/watermark.h"

/* Format number of digests made now; digest.c says what it stands for. */
#define AVC_DIGEST_FORMAT 1

#define AVC_DIGEST_LENGTH 32	/* hex digits */

/* ---- slice.c ---- */

/* A row of slice_versions. */
typedef struct AvcVersion
{
	int64		version;
	int64		rows;			/* when it was made */
	int64		erased;			/* of these, erased since */
	int			digest_format;
	char	   *digest;			/* when it was made */
	char	   *erased_digest;	/* of the rows erased since */
	List	   *columns;		/* char *, in the digest's order */
} AvcVersion;

/*
 * Read a version's row, with the active snapshot if read_only, else with a
 * new one.  NULL if there is none.  SPI must be connected.
 */
extern AvcVersion *avc_version_find(const AvcSlice *slice, int64 version,
									bool read_only);

/*
 * Take the erased rows out of rows and digest.  What the next version starts
 * from is what is left, and nothing of it has been erased.
 */
extern void avc_version_leave_erased(AvcVersion *version);

/* Error that says why the slice has no such version. */
extern void avc_version_missing(const AvcSlice *slice, int64 version)
			pg_attribute_noreturn();

/* Look up a slice and check that the current user owns it. */
extern AvcSlice *avc_slice_find_owned(Oid relid);

/*
 * The same, with dataset (AccessShareLock) and view locked.  Follows a slice
 * whose view is made again by alter_slice while the lock is waited for.
 */
extern AvcSlice *avc_slice_lock(Oid relid, LOCKMODE mode);

/*
 * Enter a view into the registry at version 1; it must be populated.  "used"
 * is a registered snapshot not newer than the one its rows were computed
 * with, NULL if that is not known.
 */
extern void avc_slice_register(Oid relid, Oid dataset, const char *filter,
							   Snapshot used);

/* schema.name of a relation, quoted where needed. */
extern char *avc_relation_name(Oid relid);

/* "p.a, p.b" for the columns of a list; prefix may be NULL. */
extern char *avc_column_list(const char *prefix, const List *columns);

/* Names out of a name[] value, as a list of char *, and back. */
extern List *avc_names_from_array(Datum array);
extern Datum avc_names_to_array(const List *names);

/* ---- definition.c ---- */

/* A filter as a raw parse tree; an error if it is not one expression. */
extern Node *avc_filter_parse(const char *filter);

/*
 * Have names of avcurate's functions found even if the search_path lacks it,
 * until AtEOXact_GUC of the level returned.
 */
extern int	avc_path_with_avcurate(void);

/* The condition of a filter, deparsed with every name qualified. */
extern char *avc_filter_condition(Oid dataset, const char *filter);

/* A condition over a dataset as text, with every name qualified. */
extern char *avc_condition_text(Node *condition, Oid dataset);

/* Columns that create_slice takes from a dataset, in the dataset's order. */
extern List *avc_definition_columns(Oid dataset, Datum wanted,
									bool wanted_is_null);

/*
 * The dataset as a FROM item, locked.  It is read as the extension's owner, so
 * an error if its owner made something else than a plain table of it.
 */
extern char *avc_definition_source(Oid dataset);

/* Dataset that a view's frames come from, or an error. */
extern Oid	avc_definition_dataset(Oid relid);

/*
 * Error if the view depends on a temporary function or type.  PostgreSQL allows
 * these, and drops the view with them at the end of the session, without any
 * trigger of ours.
 */
extern void avc_definition_check_lasting(Oid relid);

/* Error unless the relation can be tracked; false if frame_id has no index. */
extern bool avc_definition_check_view(Oid relid);

/* A valid, full, immediate unique index on frame_id alone, or InvalidOid. */
extern Oid	avc_definition_key_index(Relation rel);
extern bool avc_definition_has_key(Relation rel);

/* Columns needed by batches that the view lacks, comma-separated, or NULL. */
extern char *avc_definition_missing(Oid relid);

/* ---- rule.c ---- */

/* A view of the form that create_slice makes. */
typedef struct AvcForm
{
	List	   *sources;		/* char *, columns of the dataset */
	List	   *names;			/* char *, what the view calls them */
	char	   *condition;
	bool		has_children;	/* no ONLY: a view that a user made */
} AvcForm;

/* NULL if the view is of another form. */
extern AvcForm *avc_form_read(Oid relid, Oid dataset);

/* The SELECT that yields it. */
extern char *avc_form_query(Oid dataset, const AvcForm *form);

/*
 * Give the view another query that yields the same columns.  Takes
 * AccessExclusiveLock on it; the current user owns it.
 */
extern void avc_rule_replace(Oid relid, const char *sql);

/* ---- history_columns.c ---- */

/*
 * Make room in the history for the columns of a view.  A column that is there
 * is used if it has the view's type; otherwise it gets another name, in all
 * versions that have it.
 */
extern void avc_history_fit(const AvcSlice *slice, Oid relid);

/* Give a column of the history another name, in all versions that have it. */
extern void avc_history_rename(const AvcSlice *slice, const char *from,
							   const char *to);

/*
 * The columns of the slice as one of its versions has them: "h.a, h.b", with
 * a NULL of the column's type for each that the version lacks.
 */
extern char *avc_history_columns(const AvcSlice *slice,
								 const AvcVersion *version, const char *table);

/* After "version" was written: columns that came back at it hold no more. */
extern void avc_history_blank(const AvcSlice *slice, const List *columns,
							  int64 version);

/* ---- remake.c ---- */

/*
 * Drop a view and make it again with another query, under its name and with
 * all that users gave it: grants, comments, indexes, statistics, options.
 * The caller holds AccessExclusiveLock and has taken the slice out of the
 * registry.  Returns the new view, which holds no rows yet.
 */
extern Oid	avc_view_remake(Oid relid, const char *sql);

/* ---- alter.c ---- */

/* Enter the filter that the view's rule was made of. */
extern void avc_slice_note_filter(Oid relid, Oid dataset, const char *filter);

/* ---- digest.c ---- */

typedef struct AvcDigester AvcDigester;

/* Start from a stored digest; NULL = of no rows. */
extern AvcDigester *avc_digest_begin(const char *digest);

/*
 * Rows are added and subtracted between these two, which set what a row's text
 * depends on and put it back.  No user's expression may run in between.
 */
extern void avc_digest_pin(AvcDigester *digester);
extern void avc_digest_unpin(AvcDigester *digester);
extern void avc_digest_add(AvcDigester *digester, Datum row);
extern void avc_digest_subtract(AvcDigester *digester, Datum row);

/* The same for a row in a slot; its descriptor outlives the digester. */
extern void avc_digest_add_slot(AvcDigester *digester, TupleTableSlot *slot);
extern void avc_digest_subtract_slot(AvcDigester *digester,
									 TupleTableSlot *slot);

/* 32 hex digits in the caller's context. */
extern char *avc_digest_end(AvcDigester *digester);

/* Digest of the rows of two digests together, and of one's without other's. */
extern char *avc_digest_plus(const char *digest, const char *other);
extern char *avc_digest_minus(const char *digest, const char *other);

/* Digest of the row values that a query of one column yields; SPI. */
extern char *avc_digest_query(const char *sql, int count,
							  const AvcParam *params, bool read_only,
							  int64 *rows);

/* ---- delta.c ---- */

/*
 * What a refresh changed, net.  Both stores are in ascending frame_id, each
 * frame at most once: in "closed" alone it left, in "opened" alone it
 * entered, in both it changed.
 */
typedef struct AvcDelta
{
	int64		added;
	int64		removed;
	int64		changed;
	Tuplestorestate *closed;	/* (frame_id bigint, place tid): place of the
								 * row in the view, NULL if it is gone */
	Tuplestorestate *opened;	/* rows of the view */
	TupleDesc	closed_desc;
	TupleDesc	opened_desc;	/* the view's */
	int64		rows;			/* of the slice after it */
	char	   *digest;			/* of the slice's rows after it */
} AvcDelta;

/*
 * The difference between the view's rows under "before" and now, read off
 * its heap.  NULL if it does not fit the newest version in the history: then
 * somebody changed the view unseen, and only a comparison helps.
 */
extern AvcDelta *avc_delta_by_visibility(const AvcSlice *slice, Relation rel,
										 Snapshot before);

/*
 * The difference between the newest version in the history and the view.
 * With is_repair rows and digest are computed afresh instead of from those
 * of the newest version.
 */
extern AvcDelta *avc_delta_by_comparison(const AvcSlice *slice, Relation rel,
										 bool is_repair);

/*
 * The difference between the view and what its definition yields now, as its
 * owner; or what the query "definition" does, if that is not NULL.  The view
 * still holds the old rows: avc_apply writes it there.  is_unique: it is known
 * to yield no frame twice, which is an error otherwise.
 */
extern AvcDelta *avc_delta_by_definition(const AvcSlice *slice, Relation rel,
										 const char *definition,
										 bool is_unique);

/*
 * Does the view hold as many rows as the newest version?  A restore in parts
 * may have filled it anew.
 */
extern bool avc_delta_fits_view(const AvcSlice *slice, Relation rel);

/* An empty difference of the view. */
extern AvcDelta *avc_delta_create(Relation rel);
extern void avc_delta_free(AvcDelta *delta);

/* One more frame that came, went or changed. */
extern void avc_delta_count(AvcDelta *delta, bool is_added, bool is_removed);

/*
 * The newest version, with what the next one starts from: its rows and digest
 * without the rows erased since.  NULL before the first; SPI is connected.
 */
extern AvcVersion *avc_version_newest(const AvcSlice *slice);

/* ---- delta_read.c ---- */

/* The frames of a difference in order, each with its rows. */
typedef struct AvcDeltaReader
{
	/* what avc_delta_read found */
	int64		frame_id;
	bool		is_closed;
	bool		is_opened;
	ItemPointer place;			/* of the closed row; NULL = not known */
	TupleTableSlot *opened;		/* the opened row, if is_opened */
	/* private */
	const AvcDelta *delta;
	TupleTableSlot *closed;
	AttrNumber	key;
	bool		has_closed;
	bool		has_opened;
	int64		closed_id;
	int64		opened_id;
} AvcDeltaReader;

extern void avc_delta_read_begin(AvcDeltaReader *reader,
								 const AvcDelta *delta);

/* Go to the next frame; false behind the last. */
extern bool avc_delta_read(AvcDeltaReader *reader);
extern void avc_delta_read_end(AvcDeltaReader *reader);

/* ---- apply.c ---- */

/*
 * Write a difference into the view's heap and indexes.  The caller holds
 * ExclusiveLock; index expressions run as the owner.
 */
extern void avc_apply(const AvcSlice *slice, Relation rel,
					  const AvcDelta *delta);

/* ---- history.c ---- */

/* Make the history table of a new slice. */
extern void avc_history_create(int64 slice_id, Oid relid);
extern void avc_history_drop(int64 slice_id);
extern char *avc_history_name(int64 slice_id);

/*
 * Does the history say which images its rows mean?  A column of that name
 * but of a user's type does not: nothing is ever compared with it, or the
 * user's casts would run as the extension's owner.
 */
extern bool avc_history_has_images(int64 slice_id);

/* Type that values of a view's column have there: a domain's base type. */
extern Oid	avc_history_type(const FormData_pg_attribute *column,
							 int32 *typmod);

/* name type [COLLATE c] [NOT NULL] of a view's column, for DDL. */
extern void avc_history_describe_column(StringInfo sql,
										Form_pg_attribute column);

/* Give rows a name that the next statements of this SPI connection know. */
extern void avc_rows_register(const char *name, Tuplestorestate *rows,
							  TupleDesc desc);

/*
 * The rows of a query over our own tables, to be registered under a name.
 * Statements that read a user's table or view run as its owner, who may not
 * read ours: PostgreSQL evaluates functions of indexes, statistics and
 * constraints while it plans, so such a statement must never be planned with
 * more rights.  SPI is connected; *desc, unless desc is NULL, is made in the
 * current context.
 */
extern Tuplestorestate *avc_rows_collect(const char *sql, int count,
										 const AvcParam *params,
										 bool read_only, TupleDesc *desc);

/* Write a difference as the step to "version". */
extern void avc_history_apply(const AvcSlice *slice, const AvcDelta *delta,
							  int64 version);

/*
 * Are the rows that a view lost, those it changed among them, the newest of
 * their frames, and the frames that came not in the newest version?
 */
extern bool avc_history_fits(const AvcSlice *slice, const AvcDelta *delta,
							 Tuplestorestate *removed);

/* ---- erase.c ---- */

/* Error if a view still holds a frame that was erased from the dataset. */
extern void avc_erase_check_view(Oid relid, Oid dataset);

/* ---- erased_rows.c ---- */

/*
 * Note in the registry what each version loses with the rows of a frame that
 * are about to be deleted from the history.  The versions that hold it, as a
 * bigint[].  SPI is connected, as the extension's owner.
 */
extern AvcParam avc_erased_rows_record(const AvcSlice *slice,
									   int64 frame_id);

/* ---- frame_rows.c ---- */

typedef struct AvcFrameRows AvcFrameRows;

/* A whole B-tree that finds rows by frame_id, open and locked, or NULL. */
extern Relation avc_frame_index_open(Relation rel, AttrNumber frame_id,
									 LOCKMODE lock);

/*
 * Look frames up in a dataset or a view, with a snapshot that the caller
 * keeps; whether the current user may see them is not asked.
 */
extern AvcFrameRows *avc_frame_rows_begin(Relation rel, Snapshot snapshot);
extern void avc_frame_rows_seek(AvcFrameRows *rows, int64 frame_id);
extern TupleTableSlot *avc_frame_rows_next(AvcFrameRows *rows);
extern void avc_frame_rows_end(AvcFrameRows *rows);

/* ---- images.c ---- */

typedef struct AvcImageFaults
{
	int64		missing;		/* rows whose image is nowhere */
	int64		changed;		/* rows whose image has another hash */
	int64		first_missing;	/* frame_id, if there is one */
	int64		first_changed;
} AvcImageFaults;

/*
 * Are the images of a version where they should be, in the dataset or the
 * archive?  With "rehash" their bytes are read, too.  The slice has a dataset
 * and a history with images; reads with the latest snapshot.
 */
extern void avc_images_check(const AvcSlice *slice, int64 version,
							 bool rehash, AvcImageFaults *faults);

/* ---- refresh.c ---- */

typedef struct AvcRefresh
{
	AvcSlice   *slice;
	Snapshot	before;			/* registered; NULL: compare with the history */
	bool		writes_view;	/* the difference is still to be written */
	bool		is_stale;		/* the command's snapshot misses a refresh */
	const char *definition;		/* compute this and not what the view's rule
								 * says, with writes_view */
	bool		is_altered;		/* a version even if no row changed; rows and
								 * digest are computed afresh */
	const char *note;
	const char *role;			/* who refreshes */
	AvcDefinition *rule;		/* avc_refresh_mark's, as the next two */
	AvcWatermark *old;			/* what the slice remembers, or NULL */
	AvcWatermark *mark;			/* what it is to remember, or NULL */
	/* result */
	int64		version_before;
	int64		added;
	int64		removed;
	int64		changed;
	bool		is_incremental;
	const char *obstacle;		/* why it is not */
} AvcRefresh;

/*
 * Take note of the view's contents.  The caller holds AccessShareLock on the
 * dataset and the lock of the refresh to come on the view: ExclusiveLock, or
 * AccessExclusiveLock with is_concurrent false.
 */
extern AvcRefresh *avc_refresh_begin(Oid relid, bool is_concurrent);

/*
 * Take the watermark that finish will leave: of the snapshot "used", or with
 * NULL of now.  Whatever reads the dataset must use that snapshot or a newer
 * one.  Without this call no watermark is left, and the next refresh
 * recomputes.
 */
extern void avc_refresh_mark(AvcRefresh *refresh, Snapshot used);

/*
 * Does the snapshot miss a refresh of the slice, or an erasure?  Versions,
 * and watermarks that were moved without one, are looked at.
 */
extern bool avc_refresh_is_missed(const AvcSlice *slice, Snapshot snapshot);

/* Record what the refresh changed and return the version it is at now. */
extern int64 avc_refresh_finish(AvcRefresh *refresh);

/* Leave the watermark after finish, when the view's rule was replaced. */
extern void avc_refresh_remember(AvcRefresh *refresh, Snapshot used);

/* Run REFRESH as the current user, unseen by the event triggers. */
extern void avc_refresh_run(Oid relid, bool is_concurrent);

/* Can REFRESH CONCURRENTLY be used on this view by its owner? */
extern bool avc_refresh_can_be_concurrent(Oid relid);

/* ---- delta_rows.c ---- */

/*
 * The difference that the rows changed since the watermark make, with marks
 * old and new taken and no obstacle between them.  NULL if so many changed
 * that recomputing pays; the reason is the refresh's obstacle then.  With
 * is_counted_only it has no more than its counts, and nothing is written.
 */
extern AvcDelta *avc_delta_by_rows(AvcRefresh *refresh, Relation view,
								   Relation base, bool is_counted_only);

/* ---- typed_refresh.c ---- */

/*
 * While "relid" is marked, REFRESH of it is left alone by the event triggers.
 * Marks nest and vanish with the (sub)transaction.
 */
extern void avc_typed_refresh_suppress(Oid relid);
extern void avc_typed_refresh_resume(Oid relid);

/*
 * A number for the state of the event triggers that changes whenever one is
 * disabled, if only for a moment; 0 while they do not see every REFRESH.
 */
extern uint64 avc_typed_refresh_watch(void);

/* ---- archive.c ---- */

/*
 * Make sure that images of the dataset are archived from now on, and hold
 * them (avc_archive_hold).  For the first slice of a dataset this waits for
 * its writers and keeps new ones out until the transaction ends.
 */
extern void avc_archive_enable(Oid dataset);

/*
 * Keep archived images from being freed, and frames from being erased, until
 * the transaction ends.
 */
extern void avc_archive_hold(Oid dataset);

/* Wait for all who hold it, and keep others out. */
extern void avc_archive_lock(Oid dataset);

/*
 * Do not archive the image of this frame when its row is deleted; InvalidOid
 * = archive all again.  The caller sees to the latter, errors included.
 */
extern void avc_archive_skip(Oid dataset, int64 frame_id);

/*
 * Free the archived images that no version holds.  NULL, or a sentence that
 * says why some of them have to stay for now.
 */
extern char *avc_archive_free(Oid dataset);

/* ---- ddl.c ---- */

/*
 * Numbers (palloc'd int64) of the slices that a query with a column slice_id
 * names; it runs as the extension's owner.
 */
extern List *avc_slice_ids(const char *sql);

/* ---- prune.c ---- */

/* Does anything pin a version of the slice?  *what names it. */
extern bool avc_slice_is_pinned(int64 slice_id, char **what);

/* Remove history, versions and registry row. */
extern void avc_slice_forget(int64 slice_id);

#endif
