/*
 * slices/index_prefetch.h
 *		Have the pages at hand where a btree is about to be looked into.
 *
 * Hints: they change nothing but the time that what follows takes.
 */
#ifndef AVC_SLICES_INDEX_PREFETCH_H
#define AVC_SLICES_INDEX_PREFETCH_H

#include "utils/relcache.h"

/* Keys that are fetched at a time. */
#define AVC_PREFETCH_KEYS 16

typedef struct AvcIndexPrefetch AvcIndexPrefetch;

/*
 * For keys of the first column of an index, with the rows in "rel" that they
 * lead to if that is not NULL.  NULL, which the functions below take, if the
 * index is of no kind that is known here.  palloc'd.
 */
extern AvcIndexPrefetch *avc_index_prefetch_begin(Relation index,
												  Relation rel);

/* A value of the column as a key; of an int8 it is the value itself. */
extern int64 avc_index_prefetch_key(const AvcIndexPrefetch *prefetch,
									Datum value, bool is_null);

/* These few keys, ascending, come next. */
extern void avc_index_prefetch(AvcIndexPrefetch *prefetch, const int64 *keys,
							   int count);

#endif
