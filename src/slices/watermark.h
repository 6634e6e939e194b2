/*
 * slices/watermark.h
 *		What a slice remembers of its dataset since its last refresh, and the
 *		rows that changed since.
 *
 * No table of a user carries bookkeeping for this.  A watermark is the
 * snapshot of the last refresh with what is needed to skip pages unread:
 * a row is new if its xmin was not visible to that snapshot and is to the
 * present one.  Deleted rows leave their frame_id in _avcurate.tombstones.
 * watermark.c says why each shortcut is sound.
 *
 * Course of a refresh, the locks of the view and of the dataset held:
 *
 *		old = avc_watermark_load(slice_id);
 *		new = avc_watermark_take(base, definition, NULL);
 *		why = avc_watermark_obstacle(old, new, base)
 *		if (why == NULL)
 *			avc_discover(old, new, base, visit_row, visit_deleted, arg)
 *		else
 *			recompute
 *		avc_watermark_save(slice_id, old, new, base, changed)
 *		avc_watermark_release(new)
 */
#ifndef AVC_SLICES_WATERMARK_H
#define AVC_SLICES_WATERMARK_H

#include "access/htup.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

#include "slices/evaluate.h"

typedef struct AvcWatermark AvcWatermark;

/* The stored watermark; NULL if there is none.  Palloc'd. */
extern AvcWatermark *avc_watermark_load(int64 slice_id);

/*
 * A watermark of now.  Writes nothing, so it works in recovery as well.  With
 * "used" NULL a new snapshot is taken (in REPEATABLE READ the transaction's);
 * else it is that of a command which computes the view's rows.  Either way it
 * is registered until release, and with "used" NULL it is the snapshot to read
 * the base with.
 * "base" is open and locked; the fingerprint of "definition" is kept.
 */
extern AvcWatermark *avc_watermark_take(Relation base,
										const AvcDefinition *definition,
										Snapshot used);
extern Snapshot avc_watermark_snapshot(const AvcWatermark *mark);
extern void avc_watermark_release(AvcWatermark *mark);

/*
 * Did the event triggers see every REFRESH between the two?  If not, the view
 * may hold what no version does.
 */
extern bool avc_watermark_is_watched(const AvcWatermark *old,
									 const AvcWatermark *now);

/*
 * Why what changed between the two cannot be told ("the dataset was
 * truncated or rewritten", "triggers of the dataset were changed", ...), a
 * phrase for explain_refresh; NULL if it can.  old may be NULL.
 */
extern const char *avc_watermark_obstacle(const AvcWatermark *old,
										  const AvcWatermark *now,
										  Relation base);

/*
 * Write it, unless what is stored serves as well; forget drops it.  The
 * caller holds the view's lock and avc_archive_hold, the snapshot is not
 * released yet.  Nothing is kept if the transaction itself made the dataset
 * or truncated it.
 */
extern void avc_watermark_save(int64 slice_id, const AvcWatermark *old,
							   AvcWatermark *now, Relation base,
							   bool changed);
extern void avc_watermark_forget(int64 slice_id);

/*
 * Every row of the base that is visible to "now" and may have been written
 * since "old", and every frame_id that may have been deleted since.  A row
 * that did not change may be reported, one that changed never is left out.
 * A key may be reported as deleted and as a row: then the row counts.  Keys
 * whose row is still there unchanged are not reported as deleted.
 * Either callback returns false to stop: too much changed.  The tuple is
 * valid during the call only and its page is not locked.
 */
typedef bool (*AvcRowVisitor) (void *arg, HeapTuple row);
typedef bool (*AvcKeyVisitor) (void *arg, int64 frame_id);

extern bool avc_discover(const AvcWatermark *old, AvcWatermark *now,
						 Relation base, AvcRowVisitor visit_row,
						 AvcKeyVisitor visit_deleted, void *arg);

/*
 * Delete the tombstones that no stored watermark needs, of all datasets
 * that no other transaction refreshes right now.  avc_watermark_save does it
 * when there are many.
 */
extern void avc_tombstones_prune(void);

#endif
