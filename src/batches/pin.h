/*
 * batches/pin.h
 *		A pinned version of a slice: who may read it, and its frames' ids.
 */
#ifndef AVC_BATCHES_PIN_H
#define AVC_BATCHES_PIN_H

#include "batches/frame_ids.h"

typedef struct AvcPin
{
	int64		slice_id;
	int64		version;
	Oid			slice;			/* the view; InvalidOid once it is dropped */
	Oid			dataset;
	Oid			history;		/* its history table */
	char	   *slice_name;		/* as the user would write it */
	TransactionId stamp;		/* xmin of the version's row */
	int64		erased;			/* its rows that were erased */
} AvcPin;

/* Which of the version's frames a list holds. */
typedef struct AvcFrameChoice
{
	int64		max_frames;		/* first n in frame_id order, 0 = all */
	bool		labelled_only;
	bool		across_transactions;	/* the list outlives this one */
} AvcFrameChoice;

/* ---- pin.c ---- */

/*
 * Pin a version (0 = the current one) of a tracked slice, which is given by
 * its view or, if that is InvalidOid, by its registry number.  Errors: no
 * such slice or version; columns that batches need are missing, which are
 * named.
 */
extern void avc_pin_open(AvcPin *pin, Oid slice, int64 slice_id,
						 int64 version);

/* Error unless the current user may SELECT from the slice. */
extern void avc_pin_check_slice(const AvcPin *pin);

/*
 * The same, and also the dataset's image_bytes; row security that the user
 * does not bypass is an error, because rows are read without its policies.
 */
extern void avc_pin_check_images(const AvcPin *pin);

/* ---- pin_ids.c ---- */

/*
 * Ids of the version's frames, ascending.  The list is the session's own and
 * is kept for the next call if it fits in work_mem; give it back with
 * avc_pin_ids_release.
 */
extern AvcFrameIds *avc_pin_ids(const AvcPin *pin);
extern void avc_pin_ids_release(AvcFrameIds *ids);

/* Forget what is kept of a version whose rows turned out to be others. */
extern void avc_pin_ids_forget(const AvcPin *pin);

/*
 * A list of the caller's own in a context; *unlabelled is the number of frames that labelled_only left out.
 */
extern AvcFrameIds *avc_pin_ids_read(const AvcPin *pin,
									 const AvcFrameChoice *choice,
									 MemoryContext context,
									 int64 *unlabelled);

#endif							/* AVC_BATCHES_PIN_H */
