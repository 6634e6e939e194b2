/*
 * slices/recent_pages.h
 *		Where the pages of a table were in shared buffers when this backend
 *		read them last.
 */
#ifndef AVC_SLICES_RECENT_PAGES_H
#define AVC_SLICES_RECENT_PAGES_H

#include "storage/bufmgr.h"
#include "utils/relcache.h"

/* Use the places of that table, which has so many pages, from now on. */
extern void avc_recent_pages_use(Relation rel, BlockNumber blocks);

/* Have a page's header in the processor's cache soon, if it is known. */
extern void avc_recent_page_prefetch(Relation rel, BlockNumber block);

/* ReadBufferExtended(), faster for pages of the table in use. */
extern Buffer avc_recent_page_read(Relation rel, BlockNumber block,
								   BufferAccessStrategy strategy);

#endif
