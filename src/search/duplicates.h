/*
 * search/duplicates.h
 *		Frames of a dataset that show the same: what duplicate_groups and
 *		mark_duplicates have in common.
 */
#ifndef AVC_SEARCH_DUPLICATES_H
#define AVC_SEARCH_DUPLICATES_H

#include "fmgr.h"

#include "datasets/dataset.h"
#include "search/cover.h"

/* What is compared; columns are those of the dataset. */
typedef struct AvcDuplicateQuery
{
	const AvcDataset *dataset;
	int			max_distance;
	char	   *hash;			/* a bit(64) column */
	char	   *fine;			/* a bit(256) column, or NULL */
	int			fine_distance;
	char	   *prefer;			/* who has most of it is kept, or NULL */
	bool		looks_at_images;	/* fine hashes come from there */
	bool		is_scaled;		/* and the hash is that of dhash_scaled() */
} AvcDuplicateQuery;

/* A frame as it was read. */
typedef struct AvcHashedFrame
{
	int64		frame_id;
	uint64		sha256[2];		/* its first half */
	uint64		hash;
	uint32		row;			/* in the order of reading: place of its fine
								 * hash */
	bool		has_sha256;
	bool		has_hash;		/* and a fine one, if these count */
} AvcHashedFrame;

typedef struct AvcHashedFrames
{
	AvcHashedFrame *items;		/* first to be kept first */
	uint64	   *fine;			/* (count, 4) in the order of reading, or NULL */
	uint8	   *unknown;		/* (count) likewise: 1 = there is none, which
								 * does not count then; or NULL */
	uint32		count;
	uint64		unhashed;		/* of them, without hash */
} AvcHashedFrames;

/* duplicate_query.c: the arguments of either function. */
extern AvcDuplicateQuery avc_duplicate_query(FunctionCallInfo fcinfo);

/*
 * duplicate_images.c: compute the fine hashes of the frames at these places
 * from their images, as the current user.
 */
extern void avc_hashed_frames_look(const AvcDuplicateQuery *query,
								   AvcHashedFrames *frames,
								   const uint32 *places, uint32 count);

/* duplicate_frames.c: read them as the current user; connects to SPI. */
extern AvcHashedFrames *avc_hashed_frames_read(const AvcDuplicateQuery *query);

#endif							/* AVC_SEARCH_DUPLICATES_H */
