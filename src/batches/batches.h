/*
 * batches/batches.h
 *		The order of a pinned version, its label maps, and the reader that
 *		workers use to fetch its batches.
 */
#ifndef AVC_BATCHES_BATCHES_H
#define AVC_BATCHES_BATCHES_H

#include "utils/palloc.h"

typedef struct AvcBatchReader AvcBatchReader;

/* What a reader is opened for.  Zero it, then fill what differs. */
typedef struct AvcBatchOptions
{
	Oid			slice;			/* the view; InvalidOid = by slice_id */
	int64		slice_id;		/* registry number, for views since dropped */
	int64		version;		/* 0 = the slice's current version */
	int32		batch_size;
	int64		seed;
	int32		epoch;
	bool		shuffle;
	int32		rank;
	int32		world_size;		/* 0 counts as 1 */
	bool		drop_last;
	const char *label_map;		/* NULL = coco */
	int64		max_frames;		/* first n frames in frame_id order; 0 = all */
	bool		labelled_only;	/* leave frames with NULL annotations out */
	bool		with_ignored;	/* ignored boxes are returned too, flagged */
} AvcBatchOptions;

/*
 * One frame of a batch.  The arrays have box_count elements; degenerate
 * boxes and categories outside the label map are left out.
 */
typedef struct AvcBatchFrame
{
	int64		position;		/* in the order of the epoch, from 0 */
	int64		frame_id;
	struct varlena *image;		/* detoasted bytea: the JPEG */
	int32		width;
	int32		height;
	bool		labelled;		/* false: annotation arrays are NULL */
	int32		box_count;
	int32	   *labels;			/* (n) class ids of the label map */
	float	   *boxes;			/* (n, 4) x1 y1 x2 y2 in pixels */
	bool	   *ignored;		/* (n) crowd or ignored class */
	double	   *areas;			/* (n) ann_area, w x h where it is NULL */
	int32	   *truth_nos;		/* (n) 1-based place in the frame's arrays */
} AvcBatchFrame;

/* ---- batches/batches.c ---- */

/* Errors with hints for what cannot be; world_size must be set. */
extern void avc_batch_options_check(const AvcBatchOptions *options);

/* Global batches of an order of "frames" frames, a multiple of world_size. */
extern int64 avc_batch_total(const AvcBatchOptions *options, int64 frames);

/* ---- batches/reader.c ---- */

/*
 * Open a reader on a pinned version as the current user, whose rights on the
 * slice and on the dataset's image_bytes are checked here and at each read.
 * The reader lives in the given context and holds the packed frame ids there;
 * it keeps no snapshot, lock or transaction between calls.  Call within a
 * transaction.  Errors: no such version, columns missing, no rights, row
 * security that the user does not bypass, unknown label map.
 */
extern AvcBatchReader *avc_batch_reader_open(const AvcBatchOptions *options,
											 MemoryContext context);

/* Start over with the order of another epoch; the frames stay the same. */
extern void avc_batch_reader_set_epoch(AvcBatchReader *reader, int32 epoch);

/* Global batches of an epoch; read those n with n % world_size = rank. */
extern int64 avc_batch_reader_count(const AvcBatchReader *reader);

/* Frames of the order, and frames left out by labelled_only. */
extern int64 avc_batch_reader_frames(const AvcBatchReader *reader);
extern int64 avc_batch_reader_unlabelled(const AvcBatchReader *reader);

/*
 * Read global batch n (from 0) within the caller's transaction.  The frames,
 * images and arrays are allocated in the given context and belong to the
 * caller.  Returns their number; the last batch may be short.  Error: an
 * image that is neither in the dataset nor in the archive.
 */
extern int avc_batch_reader_read(AvcBatchReader *reader, int64 n,
								 MemoryContext context,
								 AvcBatchFrame **frames);

extern void avc_batch_reader_close(AvcBatchReader *reader);

/* ---- batches/permutation.c ---- */

/* Round keys of the order of one (version, seed, epoch) over n frames. */
#define AVC_PERMUTATION_ROUNDS 8

typedef struct AvcPermutation
{
	uint64		count;			/* frames */
	int			half_bits;		/* width of one half of the network */
	uint64		keys[AVC_PERMUTATION_ROUNDS];
} AvcPermutation;

extern void avc_permutation_init(AvcPermutation *permutation, int64 count,
								 int64 version, int64 seed, int32 epoch);

/* The rank in frame_id order of the frame at a position, both from 0. */
extern int64 avc_permutation_at(const AvcPermutation *permutation,
								int64 position);

/* ---- batches/label_map.c ---- */

typedef struct AvcLabelMap AvcLabelMap;

/* Load a map by name into a context; error with a hint if there is none. */
extern AvcLabelMap *avc_label_map_load(const char *name,
									   MemoryContext context);

/* Class id of a category in any spelling, or 0 if the map lacks it. */
extern int32 avc_label_map_label(const AvcLabelMap *map, const char *category,
								 size_t length);

/* Category that names a class id (the first in name order), or NULL. */
extern const char *avc_label_map_category(const AvcLabelMap *map, int32 label);

/* Largest class id of the map; a detector needs one class more. */
extern int32 avc_label_map_max(const AvcLabelMap *map);

#endif							/* AVC_BATCHES_BATCHES_H */
