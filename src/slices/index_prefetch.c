/*
 * slices/index_prefetch.c
 *		Have the pages at hand where a btree is about to be looked into.
 *
 * A thousand keys spread over a million rows are a thousand pages of the
 * index and a thousand of the heap, none of them in a cache of the processor.
 * A look-up or an insertion waits for one line of memory after the other; here
 * a group of keys goes down its pages in step, so that their waits overlap.
 * The lines that the real search will touch, those of the same binary search,
 * are fetched; pages that are not in shared buffers at all are asked for.
 *
 * Nothing here decides anything.  Leaf and heap pages are read without pin
 * and lock: what is found there may change or make way for another page at
 * any time, so each offset is held against the size of a page, and what comes
 * of it is an address to fetch and nothing else.
 */
#include "postgres.h"

#include "access/nbtree.h"
#include "catalog/pg_am.h"
#include "catalog/pg_opfamily.h"
#include "catalog/pg_type.h"
#include "port/pg_bswap.h"
#include "storage/bufmgr.h"
#include "utils/pg_locale.h"
#include "utils/rel.h"

#include "slices/index_prefetch.h"

/* float_ops, which has no name in PostgreSQL's headers */
#define FLOAT_FAMILY 1970

/* How the first column's values become numbers in the order of the index. */
typedef enum KeyKind
{
	KEY_INT2,
	KEY_INT4,
	KEY_INT8,
	KEY_FLOAT4,
	KEY_FLOAT8,
	KEY_TEXT					/* its first eight bytes */
} KeyKind;

struct AvcIndexPrefetch
{
	Relation	rel;			/* the heap, if rows will be read, too */
	Relation	index;
	KeyKind		kind;
	BlockNumber blocks;			/* of rel; none is asked for beyond */
	BlockNumber index_blocks;
	bool		has_parent;
	int64		smallest;		/* key that the parent was looked for with */
	int64		greatest;		/* key below the parent */
	BlockNumber child;			/* below it, of the last key */
	int64		child_smallest; /* keys below the child */
	int64		child_greatest;
	PGAlignedBlock parent;		/* copy of a page one level above leaves */
};

/* One search of a group. */
typedef struct Probe
{
	int64		key;
	const char *page;			/* NULL: nothing to do */
	int			low;			/* items left, as in _bt_binsrch */
	int			high;
} Probe;

static bool
find_kind(Relation index, KeyKind *kind)
{
	switch (index->rd_opcintype[0])
	{
		case INT2OID:
			*kind = KEY_INT2;
			return index->rd_opfamily[0] == INTEGER_BTREE_FAM_OID;
		case INT4OID:
			*kind = KEY_INT4;
			return index->rd_opfamily[0] == INTEGER_BTREE_FAM_OID;
		case INT8OID:
			*kind = KEY_INT8;
			return index->rd_opfamily[0] == INTEGER_BTREE_FAM_OID;
		case FLOAT4OID:
			*kind = KEY_FLOAT4;
			return index->rd_opfamily[0] == FLOAT_FAMILY;
		case FLOAT8OID:
			*kind = KEY_FLOAT8;
			return index->rd_opfamily[0] == FLOAT_FAMILY;
		case TEXTOID:
			*kind = KEY_TEXT;
			return index->rd_opfamily[0] == TEXT_BTREE_FAM_OID &&
				lc_collate_is_c(index->rd_indcollation[0]);
		default:
			return false;
	}
}

AvcIndexPrefetch *
avc_index_prefetch_begin(Relation index, Relation rel)
{
	AvcIndexPrefetch *prefetch;
	KeyKind		kind;

	if (index->rd_rel->relam != BTREE_AM_OID || !find_kind(index, &kind) ||
		(index->rd_indoption[0] & INDOPTION_DESC) != 0)
		return NULL;
	prefetch = palloc_object(AvcIndexPrefetch);
	prefetch->rel = rel;
	prefetch->index = index;
	prefetch->kind = kind;
	prefetch->blocks = rel ? RelationGetNumberOfBlocks(rel) : 0;
	prefetch->index_blocks = RelationGetNumberOfBlocks(index);
	prefetch->has_parent = false;
	return prefetch;
}

/* ---- keys ---- */

/* Bits of a float as a number in the same order. */
static int64
float_order(float8 value)
{
	int64		bits;

	memcpy(&bits, &value, sizeof(bits));
	return bits < 0 ? bits ^ PG_INT64_MAX : bits;
}

/* "room" bytes may be read at "value"; NULLs come last, so do strange values. */
static int64
key_at(KeyKind kind, const char *value, int room)
{
	uint64		prefix = 0;
	int			length;

	switch (kind)
	{
		case KEY_INT2:
			return *(const int16 *) value;
		case KEY_INT4:
			return *(const int32 *) value;
		case KEY_INT8:
			return *(const int64 *) value;
		case KEY_FLOAT4:
			return float_order(*(const float4 *) value);
		case KEY_FLOAT8:
			return float_order(*(const float8 *) value);
		case KEY_TEXT:
			if (VARATT_IS_EXTERNAL(value) || VARATT_IS_COMPRESSED(value))
				return PG_INT64_MAX;
			length = Min(VARSIZE_ANY_EXHDR(value), sizeof(prefix));
			if (VARDATA_ANY(value) + length > value + room)
				return PG_INT64_MAX;
			memcpy(&prefix, VARDATA_ANY(value), length);
			return (int64) (pg_bswap64(prefix) ^ ((uint64) 1 << 63));
	}
	return PG_INT64_MAX;
}

int64
avc_index_prefetch_key(const AvcIndexPrefetch *prefetch, Datum value,
					   bool is_null)
{
	if (prefetch == NULL || is_null)
		return PG_INT64_MAX;
	if (prefetch->kind == KEY_TEXT)
		return key_at(KEY_TEXT, DatumGetPointer(value), BLCKSZ);
	return key_at(prefetch->kind, (const char *) &value, sizeof(value));
}

/* ---- items of index pages that may be anything ---- */

static int
item_count(const char *page)
{
	int			count = PageGetMaxOffsetNumber((Page) page);

	return Min(count, MaxIndexTuplesPerPage);
}

static const ItemIdData *
item_id(const char *page, int item)
{
	return &((const PageHeaderData *) page)->pd_linp[item - 1];
}

/* The item, or NULL if it cannot be one with a key. */
static const IndexTupleData *
item_tuple(const char *page, int item)
{
	unsigned	offset = ItemIdGetOffset(item_id(page, item));

	if (offset > BLCKSZ - sizeof(IndexTupleData) - sizeof(int64) ||
		offset % MAXIMUM_ALIGNOF != 0)
		return NULL;
	return (const IndexTupleData *) (page + offset);
}

static int64
item_key(const AvcIndexPrefetch *prefetch, const char *page, int item)
{
	const IndexTupleData *tuple = item_tuple(page, item);

	if (tuple == NULL || IndexTupleHasNulls(tuple))
		return PG_INT64_MAX;
	return key_at(prefetch->kind, (const char *) (tuple + 1),
				  page + BLCKSZ - (const char *) (tuple + 1));
}

static bool
is_rightmost(const char *page)
{
	return P_RIGHTMOST((BTPageOpaque) (page + BLCKSZ -
									   MAXALIGN(sizeof(BTPageOpaqueData))));
}

static int
first_item(const char *page)
{
	return is_rightmost(page) ? P_HIKEY : P_FIRSTKEY;
}

/* ---- above the leaves ---- */

/* The last downlink whose key is not greater; the first has no key at all. */
static int
find_downlink(const AvcIndexPrefetch *prefetch, int64 key)
{
	const char *page = prefetch->parent.data;
	int			low = first_item(page);
	int			high = item_count(page);

	while (low < high)
	{
		int			middle = low + (high - low + 1) / 2;

		if (item_key(prefetch, page, middle) <= key)
			low = middle;
		else
			high = middle - 1;
	}
	return low;
}

static BlockNumber
downlink_block(const AvcIndexPrefetch *prefetch, int item)
{
	const IndexTupleData *tuple = item_tuple(prefetch->parent.data, item);

	return tuple ? ItemPointerGetBlockNumberNoCheck(&tuple->t_tid) :
		InvalidBlockNumber;
}

/* Copy the page above the key's leaf; false if the root is a leaf. */
static bool
find_parent(AvcIndexPrefetch *prefetch, int64 key)
{
	char	   *copy = prefetch->parent.data;
	Buffer		buffer;

	if (prefetch->has_parent && key >= prefetch->smallest &&
		key <= prefetch->greatest)
		return true;
	prefetch->has_parent = false;
	prefetch->child = InvalidBlockNumber;
	buffer = _bt_getroot(prefetch->index, BT_READ);
	while (BufferIsValid(buffer))
	{
		BTPageOpaque opaque = BTPageGetOpaque(BufferGetPage(buffer));
		BlockNumber below;

		if (P_ISLEAF(opaque) || P_IGNORE(opaque))
			break;
		memcpy(copy, BufferGetPage(buffer), BLCKSZ);
		if (opaque->btpo_level == 1)
		{
			prefetch->has_parent = true;
			prefetch->smallest = key;
			prefetch->greatest = is_rightmost(copy) ? PG_INT64_MAX :
				item_key(prefetch, copy, P_HIKEY);
			break;
		}
		below = downlink_block(prefetch, find_downlink(prefetch, key));
		buffer = _bt_relandgetbuf(prefetch->index, buffer, below, BT_READ);
	}
	if (BufferIsValid(buffer))
		_bt_relbuf(prefetch->index, buffer);
	return prefetch->has_parent;
}

/* The leaf of a key; *is_last if it is that of the key before. */
static BlockNumber
find_leaf(AvcIndexPrefetch *prefetch, int64 key, bool *is_last)
{
	int			item;

	if (!find_parent(prefetch, key))
		return InvalidBlockNumber;
	*is_last = prefetch->child != InvalidBlockNumber &&
		key >= prefetch->child_smallest && key < prefetch->child_greatest;
	if (*is_last)
		return prefetch->child;
	item = find_downlink(prefetch, key);
	prefetch->child = downlink_block(prefetch, item);
	prefetch->child_smallest = key;
	prefetch->child_greatest =
		item < item_count(prefetch->parent.data) ?
		item_key(prefetch, prefetch->parent.data, item + 1) :
		prefetch->greatest;
	return prefetch->child;
}

/* ---- leaves and heap, in step ---- */

/* Where a block is in shared buffers; if it is not, have it read. */
static const char *
find_page(Relation rel, BlockNumber block, BlockNumber blocks)
{
	PrefetchBufferResult found;

	if (block >= blocks)
		return NULL;
	found = PrefetchBuffer(rel, MAIN_FORKNUM, block);
	if (!BufferIsValid(found.recent_buffer) || found.recent_buffer < 0)
		return NULL;
	return BufferGetPage(found.recent_buffer);
}

static void
start_probe(AvcIndexPrefetch *prefetch, Probe *probe, int64 key)
{
	bool		is_last = false;
	BlockNumber leaf = find_leaf(prefetch, key, &is_last);

	probe->key = key;
	probe->page = NULL;
	/* what the key before it fetches will do, unless rows are wanted */
	if (is_last && prefetch->rel == NULL)
		return;
	probe->page = find_page(prefetch->index, leaf, prefetch->index_blocks);
	if (probe->page == NULL)
		return;
	__builtin_prefetch(probe->page);
	__builtin_prefetch(probe->page + BLCKSZ - 1);
}

static int
middle_of(const Probe *probe)
{
	return probe->low + (probe->high - probe->low) / 2;
}

/* One comparison of each probe; false when none is left to be made. */
static bool
halve(const AvcIndexPrefetch *prefetch, Probe *probes, int count)
{
	bool		goes_on = false;
	int			i;

	for (i = 0; i < count; i++)
	{
		if (probes[i].low < probes[i].high)
			__builtin_prefetch(item_id(probes[i].page,
									   middle_of(&probes[i])));
	}
	for (i = 0; i < count; i++)
	{
		if (probes[i].low < probes[i].high)
			__builtin_prefetch(item_tuple(probes[i].page,
										  middle_of(&probes[i])));
	}
	for (i = 0; i < count; i++)
	{
		int			middle = middle_of(&probes[i]);

		if (probes[i].low >= probes[i].high)
			continue;
		if (item_key(prefetch, probes[i].page, middle) < probes[i].key)
			probes[i].low = middle + 1;
		else
			probes[i].high = middle;
		goes_on = true;
	}
	return goes_on;
}

static void
search_leaves(const AvcIndexPrefetch *prefetch, Probe *probes, int count)
{
	int			i;

	for (i = 0; i < count; i++)
	{
		const char *page = probes[i].page;

		probes[i].low = page ? first_item(page) : 0;
		probes[i].high = page ? item_count(page) + 1 : 0;
	}
	while (halve(prefetch, probes, count));
}

/* From the item found to the heap page it points to. */
static void
follow(const AvcIndexPrefetch *prefetch, Probe *probe)
{
	const IndexTupleData *tuple = NULL;
	ItemPointerData place;

	if (probe->page && probe->low <= item_count(probe->page))
		tuple = item_tuple(probe->page, probe->low);
	probe->page = NULL;
	/* the place of a list of rows is in the list */
	if (tuple == NULL || (tuple->t_info & INDEX_ALT_TID_MASK) != 0)
		return;
	place = tuple->t_tid;
	if (!ItemPointerIsValid(&place) ||
		ItemPointerGetOffsetNumber(&place) > MaxHeapTuplesPerPage)
		return;
	probe->page = find_page(prefetch->rel, ItemPointerGetBlockNumber(&place),
							prefetch->blocks);
	probe->low = ItemPointerGetOffsetNumber(&place);
	if (probe->page == NULL)
		return;
	__builtin_prefetch(probe->page);
	__builtin_prefetch(item_id(probe->page, probe->low));
}

static void
fetch_row(const Probe *probe)
{
	if (probe->page)
		__builtin_prefetch(probe->page +
						   ItemIdGetOffset(item_id(probe->page, probe->low)) %
						   BLCKSZ);
}

void
avc_index_prefetch(AvcIndexPrefetch *prefetch, const int64 *keys, int count)
{
	Probe		probes[AVC_PREFETCH_KEYS];
	int			i;

	Assert(count <= AVC_PREFETCH_KEYS);
	if (prefetch == NULL)
		return;
	for (i = 0; i < count; i++)
		start_probe(prefetch, &probes[i], keys[i]);
	search_leaves(prefetch, probes, count);
	if (prefetch->rel == NULL)
		return;
	for (i = 0; i < count; i++)
		follow(prefetch, &probes[i]);
	for (i = 0; i < count; i++)
		fetch_row(&probes[i]);
}
