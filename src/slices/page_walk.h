/*
 * slices/page_walk.h
 *		The pages of a table that may have changed, by its visibility map.
 */
#ifndef AVC_SLICES_PAGE_WALK_H
#define AVC_SLICES_PAGE_WALK_H

#include "access/xlogdefs.h"
#include "storage/bufmgr.h"
#include "utils/relcache.h"

/* Pages that the visibility map of so many blocks has. */
extern uint32 avc_map_pages(BlockNumber blocks);

/*
 * LSN of a page of the visibility map; Invalid if there is no such page or it
 * cannot be relied on.
 */
extern XLogRecPtr avc_map_lsn(Relation rel, uint32 number);

/* Gets the page pinned, and unpins it; returns false to stop. */
typedef bool (*AvcPageVisitor) (void *arg, Buffer buffer);

/*
 * Visit the table's pages, but for those that are unchanged for sure since
 * the LSNs "was" of "was_pages" pages of the map were taken: is[] is filled
 * with what they are now, before the pages are visited.  Returns whether
 * the visitor let it come to the end.
 */
extern bool avc_walk_pages(Relation rel, BlockNumber blocks,
						   const XLogRecPtr *was, uint32 was_pages,
						   XLogRecPtr *is, AvcPageVisitor visit, void *arg);

#endif
