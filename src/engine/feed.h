/*
 * engine/feed.h
 *		A thread that receives messages and decodes their JPEGs ahead.
 *
 * The step loop takes finished items in the order in which the messages came.
 * Up to ENG_PROTOCOL_AHEAD messages are held, the one being worked on
 * included; the rest waits in the socket.
 */
#ifndef ENG_FEED_H
#define ENG_FEED_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/channel.h"
#include "engine/frame_key.h"
#include "engine/request.h"
#include "engine/status.h"

typedef struct EngFeed EngFeed;

typedef struct EngPicture
{
	const uint8_t *rgb;			/* (height, width, 3); NULL: failed or held */
	size_t		offset;			/* of its pixels, in the item's */
	int32_t		width;
	int32_t		height;
	EngCode		code;			/* why it failed, where that is its own matter */
	char		message[200];
	EngFrameKey key;			/* where a device keeps pictures, else zeroes */
	bool		held;			/* it has this one, until eng_feed_done */
} EngPicture;

/* One message, prepared.  EMBED_IMAGES: pictures are the squares of CLIP. */
typedef struct EngFeedItem
{
	EngReadResult result;
	EngMessage	message;
	EngBatchRequest batch;		/* of a STEP, DETECT or EMBED_IMAGES */
	EngPicture *pictures;		/* (batch.frame_count) */
	EngStatus	status;			/* why reading or preparing failed */
	EngPixelRoom pixels;		/* what pictures point into */
	uint64_t	keeper;			/* which one holds the held ones */
	int32_t		picture_capacity;
} EngFeedItem;

/*
 * What the feed calls, on its own thread, when the peer has been gone for a
 * while and the step loop has not noticed because it is inside an operation.
 */
typedef struct EngFeedEnd
{
	void		(*lost) (void *context);
	void	   *context;
} EngFeedEnd;

/* fd must be a stream socket; it stays the caller's. */
extern EngFeed *eng_feed_start(int fd, const EngFeedEnd *end,
							   EngStatus *status);

/*
 * The next item, which stays valid until eng_feed_done; *wait_s is how long
 * the call waited for it.  After an item that is no ENG_READ_MESSAGE there is
 * no other.
 */
extern EngFeedItem *eng_feed_next(EngFeed *feed, double *wait_s);
extern void eng_feed_done(EngFeed *feed);

/*
 * Bytes that decoded pictures may take: of the largest message so far, as
 * often as messages are held.
 */
extern size_t eng_feed_pictures(EngFeed *feed);

/*
 * Refuse, from the next message on, those whose pictures would take more than
 * limit bytes so counted; 0: no limit.
 */
extern void eng_feed_set_limit(EngFeed *feed, size_t limit);

/* Memory that a device reads by itself for pixels from now on. */
extern void eng_feed_set_memory(EngFeed *feed, const EngHostMemory *memory);

/*
 * What keeps the pictures of STEPs, or NULL: those it has are not decoded.
 * To be called before it is closed; what it held for messages that came
 * before is not there any more.
 */
extern void eng_feed_set_keeper(EngFeed *feed, EngBackend *keeper);

/* Pictures of an item that are held. */
static inline int32_t
eng_feed_held(const EngFeedItem *item)
{
	int32_t		count = 0;
	int32_t		i;

	for (i = 0; i < item->batch.frame_count; i++)
		count += item->pictures[i].held;
	return count;
}

/* Decode with so many threads, from the next message on; 1 at the start. */
extern void eng_feed_set_threads(EngFeed *feed, int threads);

/* Stop the thread and free everything; the socket receives no more. */
extern void eng_feed_stop(EngFeed *feed);

/* Seconds of a clock that only goes forward. */
extern double eng_feed_clock(void);

#endif							/* ENG_FEED_H */
