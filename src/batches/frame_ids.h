/*
 * batches/frame_ids.h
 *		A long ascending list of frame ids, packed, with random access.
 */
#ifndef AVC_BATCHES_FRAME_IDS_H
#define AVC_BATCHES_FRAME_IDS_H

#include "utils/palloc.h"

typedef struct AvcFrameIds AvcFrameIds;

/* ---- frame_ids.c ---- */

/*
 * An empty list in the given context.  Beyond "limit" bytes its blocks move
 * to a temporary file; "inter_xact" keeps that file across transactions.
 */
extern AvcFrameIds *avc_frame_ids_create(MemoryContext context, Size limit,
										 bool inter_xact);
extern void avc_frame_ids_free(AvcFrameIds *ids);

/* Move a list that has no file to another context, without slack. */
extern AvcFrameIds *avc_frame_ids_move(AvcFrameIds *ids,
									   MemoryContext context);

/* Add an id that is larger than all before. */
extern void avc_frame_ids_append(AvcFrameIds *ids, int64 frame_id);
extern int64 avc_frame_ids_count(const AvcFrameIds *ids);

/* Whether the list went to a file. */
extern bool avc_frame_ids_in_file(const AvcFrameIds *ids);

/* The id of rank "rank" (from 0). */
extern int64 avc_frame_ids_at(AvcFrameIds *ids, int64 rank);

#endif							/* AVC_BATCHES_FRAME_IDS_H */
