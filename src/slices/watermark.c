/*
 * slices/watermark.c
 *		What a slice remembers of its dataset since its last refresh.
 *
 * S is the watermark's snapshot.  A row that S did not see and a later one
 * does has an xmin that S did not see.  Freezing and rewriting keep the id
 * in the tuple, so looking at every tuple would do.  What makes it cheap:
 *
 * Page LSN.  L is the WAL position of a moment, N the next transaction id
 * read after it.  Every id from N on is given out later, so what it writes is
 * behind L; if N <= S.xmin, whatever S misses is behind L, and a page whose
 * LSN is not beyond L holds none of it.  Pairs (N, L) of earlier watermarks
 * stay true, so one that became usable serves when a long transaction keeps
 * xmin old.  If in addition nobody else holds a lock on the table that
 * writing needs, and S is taken after that was seen, L itself is sound
 * ("safe"): locks go after the transaction has ended for snapshots, so an
 * earlier writer is seen by S, and a later one writes behind L.  Not so if
 * this transaction has written, or for a snapshot from before.
 *
 * Visibility map.  Setting a bit advances the LSN of the map's page, clearing
 * one does not, and every change of a page clears its bit.  If the LSN is
 * what it was while S was in use and the bit is set, it has been set ever
 * since.  It was set by a VACUUM that could not count rows as visible to all
 * that S does not see.  With old_snapshot_threshold it could: then the map
 * is not used.
 *
 * Files.  A table made or given a new file by this very transaction may be
 * changed without WAL, and truncated within the file, until it ends: nothing
 * is remembered then.  Otherwise TRUNCATE and rewriting make a new file.  An
 * unlogged table is emptied by a crash in the same file: likewise.
 *
 * Ids.  S lists ids in progress, subtransactions too; an id from xmax on
 * is unseen.  If there were too many subtransactions, or this transaction has
 * an id below xmax and may go on writing, any id from xmin on counts as
 * unseen.  Tuples have 32 bits of an id: beyond 2^30 ids nothing can be told.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "slices/refresh.h"
#include "slices/watermark_state.h"

#define MAX_SPAN (UINT64CONST(1) << 30)

/* Pages looked into and rows found in vain that a new state is worth. */
#define MANY_PAGES 32
#define MANY_READ 256
#define MANY_HITS 256

/* Tombstones are pruned when their table has grown by this and doubled. */
#define PRUNE_PAGES 64

/* ---- taking ---- */

/* Has anybody else a lock that is needed to write? */
static bool
has_writers(Relation rel)
{
	LOCKTAG		tag;
	int			count;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, RelationGetRelid(rel));
	pfree(GetLockConflicts(&tag, ShareLock, &count));
	return count > 0;
}

static void
take_table(AvcTableMark *table, Relation rel, XLogRecPtr lsn)
{
	table->relid = RelationGetRelid(rel);
	table->node = rel->rd_node;
	if (!XLogRecPtrIsInvalid(lsn) && !has_writers(rel))
		table->safe = lsn;
}

static bool
is_lasting(Relation rel)
{
	return rel->rd_rel->relpersistence == RELPERSISTENCE_PERMANENT &&
		rel->rd_createSubid == InvalidSubTransactionId &&
		rel->rd_firstRelfilenodeSubid == InvalidSubTransactionId;
}

/* An id near "now" in full. */
static FullTransactionId
widen(FullTransactionId now, TransactionId xid)
{
	return FullTransactionIdFromU64(U64FromFullTransactionId(now) +
									(int32) (xid -
											 XidFromFullTransactionId(now)));
}

static int
compare_offsets(const void *a, const void *b)
{
	uint32		x = *(const uint32 *) a;
	uint32		y = *(const uint32 *) b;

	return x < y ? -1 : x > y;
}

static void
take_ids(AvcWatermark *mark)
{
	Snapshot	s = mark->snapshot;
	TransactionId own = GetTopTransactionIdIfAny();
	/* a copy of a snapshot with too many of them has none */
	int32		subxcnt = s->subxip ? s->subxcnt : 0;
	uint32		i;

	mark->xmin = widen(mark->next, s->xmin);
	mark->xmax = widen(mark->next, s->xmax);
	mark->is_inexact = s->suboverflowed ||
		(TransactionIdIsValid(own) && TransactionIdPrecedes(own, s->xmax));
	mark->open_count = s->xcnt + subxcnt;
	mark->open = palloc_array(uint32, mark->open_count + 1);
	for (i = 0; i < s->xcnt; i++)
		mark->open[i] = s->xip[i] - s->xmin;
	for (i = 0; i < subxcnt; i++)
		mark->open[s->xcnt + i] = s->subxip[i] - s->xmin;
	qsort(mark->open, mark->open_count, sizeof(uint32), compare_offsets);
}

AvcWatermark *
avc_watermark_take(Relation base, const AvcDefinition *definition,
				   Snapshot used)
{
	AvcWatermark *mark = palloc0_object(AvcWatermark);
	Relation	tombstones = table_open(avc_tombstones_relid(),
										AccessShareLock);

	mark->system = GetSystemIdentifier();
	mark->database = MyDatabaseId;
	mark->fingerprint = definition->fingerprint;
	mark->watch = avc_typed_refresh_watch();
	mark->is_lasting = is_lasting(base) && is_lasting(tombstones);
	/* in this order: position, next id, locks, snapshot */
	if (!RecoveryInProgress())
		mark->lsn = GetXLogInsertRecPtr();
	mark->next = ReadNextFullTransactionId();
	take_table(&mark->base, base, mark->lsn);
	take_table(&mark->tombstones, tombstones, mark->lsn);
	mark->snapshot = RegisterSnapshot(used ? used : GetTransactionSnapshot());
	if (used || IsolationUsesXactSnapshot() ||
		TransactionIdIsValid(GetTopTransactionIdIfAny()))
		mark->base.safe = mark->tombstones.safe = InvalidXLogRecPtr;
	take_ids(mark);
	if (!XLogRecPtrIsInvalid(mark->lsn))
		mark->pairs[mark->pair_count++] = (AvcXidPair)
		{
			mark->next, mark->lsn
		};
	table_close(tombstones, NoLock);
	return mark;
}

Snapshot
avc_watermark_snapshot(const AvcWatermark *mark)
{
	return mark->snapshot;
}

void
avc_watermark_release(AvcWatermark *mark)
{
	if (mark->snapshot)
		UnregisterSnapshot(mark->snapshot);
	mark->snapshot = NULL;
}

/* ---- asking ---- */

uint32
avc_watermark_span(const AvcWatermark *mark)
{
	uint64		span = U64FromFullTransactionId(ReadNextFullTransactionId()) -
	U64FromFullTransactionId(mark->xmin);

	return span > MAX_SPAN ? 0 : span;
}

bool
avc_watermark_misses(const AvcWatermark *mark, TransactionId xid, uint32 span)
{
	uint32		offset = xid - XidFromFullTransactionId(mark->xmin);

	if (offset >= span)
		return false;
	if (mark->is_inexact ||
		offset >= U64FromFullTransactionId(mark->xmax) -
		U64FromFullTransactionId(mark->xmin))
		return true;
	return mark->open_count > 0 &&
		bsearch(&offset, mark->open, mark->open_count, sizeof(uint32),
				compare_offsets) != NULL;
}

XLogRecPtr
avc_watermark_cut(const AvcWatermark *mark, const AvcTableMark *table)
{
	XLogRecPtr	cut = table->safe;
	int			i;

	for (i = 0; i < mark->pair_count; i++)
	{
		if (FullTransactionIdPrecedesOrEquals(mark->pairs[i].next, mark->xmin))
			cut = Max(cut, mark->pairs[i].lsn);
	}
	return cut;
}

static bool
is_same_table(const AvcTableMark *a, const AvcTableMark *b)
{
	return a->relid == b->relid && RelFileNodeEquals(a->node, b->node);
}

/* Does "now" miss what "old" has seen? */
static bool
is_older(const AvcWatermark *now, const AvcWatermark *old)
{
	uint32		i;

	if (FullTransactionIdPrecedes(now->xmax, old->xmax))
		return true;
	for (i = 0; i < now->open_count; i++)
	{
		FullTransactionId open =
		FullTransactionIdFromU64(U64FromFullTransactionId(now->xmin) +
								 now->open[i]);

		if (FullTransactionIdPrecedes(open, old->xmin) ||
			(FullTransactionIdPrecedes(open, old->xmax) &&
			 !avc_watermark_misses(old, XidFromFullTransactionId(open),
								   PG_UINT32_MAX)))
			return true;
	}
	return false;
}

bool
avc_watermark_is_watched(const AvcWatermark *old, const AvcWatermark *now)
{
	return now->watch != 0 && old->watch == now->watch;
}

const char *
avc_watermark_obstacle(const AvcWatermark *old, const AvcWatermark *now,
					   Relation base)
{
	if (old == NULL)
		return "no earlier refresh left a watermark";
	if (IsolationIsSerializable())
		return "the transaction is SERIALIZABLE";
	if (old->system != now->system || old->database != now->database)
		return "the watermark is of another server or database";
	if (!avc_watermark_is_watched(old, now))
		return "event triggers were changed: REFRESH may have gone unseen";
	if (!is_same_table(&old->base, &now->base))
		return "the dataset was truncated or rewritten";
	if (!is_same_table(&old->tombstones, &now->tombstones))
		return "the list of deleted frames was truncated or rewritten";
	if (old->fingerprint != now->fingerprint)
		return "the definition, a function in it or a trigger of the dataset was changed";
	if (FullTransactionIdPrecedes(now->next, old->xmax) ||
		(!XLogRecPtrIsInvalid(now->lsn) && now->lsn < old->lsn))
		return "the server went back to an earlier state";
	if (avc_watermark_span(old) == 0)
		return "too many transactions since the last refresh";
	if (is_older(now, old))
		return "the snapshot is older than that of the last refresh";
	if (old->is_inexact && !OidIsValid(avc_dataset_key(base)))
		return "the dataset has no unique index on frame_id";
	return NULL;
}

/* ---- keeping ---- */

/* Leave out the pair that is missed least: its neighbours are closest. */
static void
thin_pairs(AvcWatermark *mark)
{
	uint32		best = 1;
	uint32		i;

	for (i = 2; i + 1 < mark->pair_count; i++)
	{
		if (mark->pairs[i + 1].lsn - mark->pairs[i - 1].lsn <
			mark->pairs[best + 1].lsn - mark->pairs[best - 1].lsn)
			best = i;
	}
	mark->pair_count--;
	memmove(&mark->pairs[best], &mark->pairs[best + 1],
			sizeof(AvcXidPair) * (mark->pair_count - best));
}

/*
 * The pairs of the old watermark that are of use, and the new one: the last
 * that is usable now and those that may be later.
 */
static void
carry_pairs(const AvcWatermark *old, AvcWatermark *now)
{
	AvcXidPair	latest = now->pairs[0];
	uint32		from = 0;

	while (from + 1 < old->pair_count &&
		   FullTransactionIdPrecedesOrEquals(old->pairs[from + 1].next,
											 now->xmin))
		from++;
	now->pair_count = old->pair_count - from;
	memcpy(now->pairs, &old->pairs[from],
		   sizeof(AvcXidPair) * now->pair_count);
	/* of the same position the lower id, of the same id the later position */
	if (now->pair_count > 0 && now->pairs[now->pair_count - 1].lsn >= latest.lsn)
		return;
	if (now->pair_count > 0 &&
		FullTransactionIdEquals(now->pairs[now->pair_count - 1].next,
								latest.next))
		now->pair_count--;
	now->pairs[now->pair_count++] = latest;
	if (now->pair_count > AVC_MAX_PAIRS)
		thin_pairs(now);
}

static bool
is_same_map(const AvcTableMark *a, const AvcTableMark *b)
{
	return a->map_pages == b->map_pages &&
		memcmp(a->maps, b->maps, sizeof(XLogRecPtr) * a->map_pages) == 0;
}

/* Nothing changed: would the new state spare the next refresh much? */
static bool
is_worth_writing(const AvcWatermark *old, const AvcWatermark *now)
{
	if (!now->is_walked || now->hits >= MANY_HITS ||
		now->pages_searched >= MANY_PAGES ||
		avc_watermark_span(old) > MAX_SPAN / 2)
		return true;
	return now->pages_read >= MANY_READ &&
		(!is_same_map(&old->base, &now->base) ||
		 !is_same_map(&old->tombstones, &now->tombstones));
}

void
avc_watermark_save(int64 slice_id, const AvcWatermark *old,
				   AvcWatermark *now, Relation base, bool changed)
{
	bool		fits = avc_watermark_obstacle(old, now, base) == NULL;
	BlockNumber pages;
	bool		prune;

	if (!now->is_lasting)
	{
		avc_watermark_forget(slice_id);
		return;
	}
	if (fits && !changed && !is_worth_writing(old, now))
		return;
	if (!now->is_walked)
		avc_watermark_note_maps(now, base);
	if (fits)
		carry_pairs(old, now);
	pages = avc_tombstones_pages();
	now->pruned_at = old ? Min(old->pruned_at, pages) : 0;
	prune = pages >= PRUNE_PAGES && pages / 2 >= now->pruned_at;
	if (prune)
		now->pruned_at = pages;
	avc_watermark_write(slice_id, now);
	if (prune)
		avc_tombstones_prune();
}
