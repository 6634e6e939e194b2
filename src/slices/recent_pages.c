/*
 * slices/recent_pages.c
 *		Where the pages of a table were in shared buffers when this backend
 *		read them last.
 *
 * A walk that looks at the headers of thousands of pages waits for memory:
 * for the entry of the buffer table, for the descriptor, for the header.  A
 * backend that comes again asks the buffer that had the page last whether it
 * still has (ReadRecentBuffer pins it and compares its tag), and fetches the
 * lines of the pages that come next beforehand.  A place that is out of date
 * costs a look-up and nothing else.
 *
 * One table at a time, four bytes a page, kept until the backend ends or
 * walks another table.
 */
#include "postgres.h"

#include "storage/buf_internals.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "slices/recent_pages.h"

#define MOST_PAGES (16 * 1024 * 1024)	/* of 8 kB: 128 GB */

static RelFileNode node;
static Buffer *places = NULL;	/* InvalidBuffer: not known */
static BlockNumber room = 0;

void
avc_recent_pages_use(Relation rel, BlockNumber blocks)
{
	BlockNumber wanted = Min(blocks, MOST_PAGES);

	if (places != NULL && RelFileNodeEquals(node, rel->rd_node) &&
		wanted <= room)
		return;
	if (places != NULL)
		pfree(places);
	places = NULL;
	room = 0;
	/* some more, as tables grow */
	wanted = Min(wanted + wanted / 8 + 64, MOST_PAGES);
	places = MemoryContextAllocHuge(TopMemoryContext,
									wanted * sizeof(Buffer));
	memset(places, 0, wanted * sizeof(Buffer));
	node = rel->rd_node;
	room = wanted;
}

static bool
is_in_use(Relation rel, BlockNumber block)
{
	return block < room && RelFileNodeEquals(node, rel->rd_node);
}

void
avc_recent_page_prefetch(Relation rel, BlockNumber block)
{
	Buffer		place = is_in_use(rel, block) ? places[block] : InvalidBuffer;

	if (!BufferIsValid(place))
		return;
	__builtin_prefetch(GetBufferDescriptor(place - 1), 1);
	__builtin_prefetch(BufferGetBlock(place));
}

Buffer
avc_recent_page_read(Relation rel, BlockNumber block,
					 BufferAccessStrategy strategy)
{
	bool		may_know = is_in_use(rel, block);
	Buffer		buffer;

	if (may_know && BufferIsValid(places[block]) &&
		ReadRecentBuffer(rel->rd_node, MAIN_FORKNUM, block, places[block]))
		return places[block];
	buffer = ReadBufferExtended(rel, MAIN_FORKNUM, block, RBM_NORMAL,
								strategy);
	if (may_know)
		places[block] = buffer;
	return buffer;
}
