/*
 * search/id_set.h
 *		A set of frame ids, as a query returns them.
 */
#ifndef AVC_SEARCH_ID_SET_H
#define AVC_SEARCH_ID_SET_H

#include "tcop/dest.h"

typedef struct AvcIdSet AvcIdSet;

/*
 * An empty set, and a destination for the rows of a query whose first column
 * is a bigint.  Lives in the current context.
 */
extern AvcIdSet *avc_id_set_make(void);
extern DestReceiver *avc_id_set_receiver(AvcIdSet *set);

/* No more ids will come. */
extern void avc_id_set_finish(AvcIdSet *set);

extern int64 avc_id_set_count(const AvcIdSet *set);
extern bool avc_id_set_has(const AvcIdSet *set, int64 id);

#endif
