/*
 * slices/row_writer.h
 *		Rows into a heap and all its indexes, many at a time.
 */
#ifndef AVC_SLICES_ROW_WRITER_H
#define AVC_SLICES_ROW_WRITER_H

#include "access/htup.h"
#include "nodes/bitmapset.h"
#include "utils/relcache.h"

typedef struct AvcRowWriter AvcRowWriter;

/*
 * The relation is open and locked.  Expressions of its indexes are planned
 * here and evaluated by flush, as whoever is the current user then.
 */
extern AvcRowWriter *avc_row_writer_open(Relation rel);

/* Insert a row.  It is copied; nothing need be written before flush. */
extern void avc_row_writer_insert(AvcRowWriter *writer, HeapTuple row);

/*
 * Write a row in the place of another one.  "changed" has the columns, less
 * FirstLowInvalidHeapAttributeNumber, that differ (and 0 for the row as a
 * whole); the values of unique indexes do not.  Index entries, where the
 * change needs any, come with flush.  False if somebody else changed the row
 * at that place.
 */
extern bool avc_row_writer_update(AvcRowWriter *writer, ItemPointer place,
								  HeapTuple row, const Bitmapset *changed);

/* Columns that decide on the entries of unique indexes but "key"'s own. */
extern Bitmapset *avc_row_writer_unique_columns(AvcRowWriter *writer,
												AttrNumber key);

/*
 * Unique indexes are checked against rows that were flushed before and the
 * inserted ones, so a flush stands between updates and inserts.
 */
extern void avc_row_writer_flush(AvcRowWriter *writer);

/* Flush and forget. */
extern void avc_row_writer_close(AvcRowWriter *writer);

#endif
