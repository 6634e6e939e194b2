/*
 * slices/watermark_state.h
 *		The inside of a watermark, for the files that find out what changed.
 */
#ifndef AVC_SLICES_WATERMARK_STATE_H
#define AVC_SLICES_WATERMARK_STATE_H

#include "access/transam.h"
#include "access/xlogdefs.h"
#include "storage/block.h"
#include "storage/relfilenode.h"

#include "slices/watermark.h"

#define AVC_MAX_PAIRS 32

/* Whatever has a transaction id from "next" on wrote its WAL behind "lsn". */
typedef struct AvcXidPair
{
	FullTransactionId next;
	XLogRecPtr	lsn;
} AvcXidPair;

/* One of the two tables that are walked: the dataset, the tombstones. */
typedef struct AvcTableMark
{
	Oid			relid;
	RelFileNode node;
	XLogRecPtr	safe;			/* what the snapshot does not see was written
								 * behind this; Invalid = not known */
	uint32		map_pages;
	XLogRecPtr *maps;			/* LSN of each page of the visibility map;
								 * Invalid = do not rely on it */
} AvcTableMark;

struct AvcWatermark
{
	/* stored */
	uint64		system;			/* identifier of the server */
	Oid			database;
	uint64		fingerprint;	/* of the definition */
	uint64		watch;			/* of the event triggers that see REFRESH */
	FullTransactionId next;		/* when it was taken */
	XLogRecPtr	lsn;			/* likewise; Invalid on a standby */
	FullTransactionId xmin;		/* of the snapshot */
	FullTransactionId xmax;
	bool		is_inexact;		/* any id from xmin on may be unseen */
	uint32		open_count;
	uint32	   *open;			/* ids in progress, less xmin, ascending */
	uint32		pair_count;
	AvcXidPair	pairs[AVC_MAX_PAIRS + 1];	/* ascending */
	AvcTableMark base;
	AvcTableMark tombstones;
	uint32		pruned_at;		/* pages of tombstones when last pruned */

	/* not stored */
	Snapshot	snapshot;		/* registered; NULL once released or loaded */
	bool		is_lasting;		/* not bound to this transaction's files */
	bool		is_walked;		/* the maps are filled in */
	uint64		pages_read;		/* not skipped by the visibility map */
	uint64		pages_searched; /* nor by their LSN */
	uint64		hits;			/* rows and keys that may have changed */
};

/* ---- watermark.c ---- */

/* Pages with an LSN up to this hold nothing that the snapshot misses. */
extern XLogRecPtr avc_watermark_cut(const AvcWatermark *mark,
									const AvcTableMark *table);

/*
 * How many ids there are from the snapshot's xmin to the next one that will
 * be used; 0 if so many that 32 bits of an id do not tell them apart.
 */
extern uint32 avc_watermark_span(const AvcWatermark *mark);

/* Is the id, one of that many, one that the snapshot may not have seen? */
extern bool avc_watermark_misses(const AvcWatermark *mark, TransactionId xid,
								 uint32 span);

/* ---- watermark_store.c ---- */

/* Write it into the slice's row. */
extern void avc_watermark_write(int64 slice_id, const AvcWatermark *mark);

/*
 * The watermarks stored for the slices of a dataset by now; SPI is connected
 * and the role the extension's owner.
 */
extern List *avc_watermarks_of(Oid dataset);

/* ---- discover.c ---- */

/* Remember the LSNs of the visibility map of both tables. */
extern void avc_watermark_note_maps(AvcWatermark *mark, Relation base);

/* The unique index on frame_id alone, or InvalidOid. */
extern Oid	avc_dataset_key(Relation base);

/* ---- tombstones.c ---- */

extern Oid	avc_tombstones_relid(void);
extern BlockNumber avc_tombstones_pages(void);

#endif
