/*
 * datasets/dataset.h
 *		Datasets: frames tables made by create_dataset.
 */
#ifndef AVC_DATASETS_DATASET_H
#define AVC_DATASETS_DATASET_H

#include "access/attnum.h"
#include "datatype/timestamp.h"
#include "storage/lockdefs.h"

/*
 * Bookkeeping of features, not content: slices leave it out (src/features
 * README says what is in it).
 */
#define AVC_MARKS_COLUMN "feature_marks"

typedef struct AvcDataset
{
	Oid			relid;
	Oid			owner;
	char	   *schema_name;
	char	   *table_name;
	char	   *quoted_name;	/* "schema"."table", ready for SQL */
	TimestampTz created_at;
} AvcDataset;

/*
 * Look a dataset up in the registry.  The result is palloc'd in the current
 * context.  NULL for a relation that is no dataset if missing_ok, else an
 * error that says so.  Connects to SPI by itself.
 */
extern AvcDataset *avc_dataset_find(Oid relid, bool missing_ok);

/* The same, and an error unless the current user owns the table. */
extern AvcDataset *avc_dataset_find_owned(Oid relid);

/*
 * The same, locked, as it is once the lock is there: for whoever goes on by
 * its name.
 */
extern AvcDataset *avc_dataset_lock_owned(Oid relid, LOCKMODE mode);

/*
 * Lock a dataset that was looked up earlier until the end of the transaction;
 * an error if its name leads elsewhere by now or its owner is another.
 */
extern void avc_dataset_hold(const AvcDataset *dataset, LOCKMODE mode);

/*
 * Number of a column of the dataset, or InvalidAttrNumber: slices ask for
 * what a training needs.
 */
extern AttrNumber avc_dataset_column(const AvcDataset *dataset,
									 const char *column);

/*
 * The first of the columns that our own statements and scans rely on that is
 * missing or was given another type; NULL if there is none.  Statements that
 * run with other rights than the owner's ask first: a cast that the owner
 * made for a type of his own would run with these rights.  The caller holds
 * a lock on the table.
 */
extern const char *avc_dataset_strange_column(Oid relid);

/*
 * May rows be counted for the current user, who must be allowed to read the
 * dataset?  Not where row security hides rows from him.  The counting itself
 * runs as the owner: who merely looks at a list of datasets must not run the
 * functions of policies, casts and views of their owners.
 */
extern bool avc_dataset_is_countable(const AvcDataset *dataset);

#endif
