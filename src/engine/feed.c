/*
 * engine/feed.c
 *		A thread that receives messages and decodes their JPEGs ahead.
 *
 * The items form a ring.  The thread fills the item behind the last one, the
 * step loop works on the first; neither touches the other's, so the lock
 * covers only the counters.  An item's buffers are used again, because fresh
 * memory for pixels costs more in page faults than the decoding.
 *
 * The pictures of a message are decoded by as many threads as the network has.
 * Where both want the same processors they slow all threads of the network
 * alike; one thread alone would hold up one of them, and the others would
 * wait for that one at the end of each operation.
 */
#include "engine/feed.h"

#include <omp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "engine/nets/clip.h"
#include "image/jpeg.h"
#include "image/resize.h"

#define WATCH_INTERVAL	0.1		/* seconds between looks at the peer */
#define LOST_GRACE		0.6		/* seconds for the step loop to notice */
#define MAX_PIXEL_BYTES ((size_t) 2 << 30)	/* of one message */
#define KEPT_BLOB		((size_t) 64 << 20) /* larger blobs are freed */
#define MOST_HANDS		64

/* What a thread that decodes needs; used by one at a time. */
typedef struct Hand
{
	EngJpegDecoder *decoder;
	EngResizer *resizer;
	EngBuffer	whole;			/* pixels of a picture to be made a square */
} Hand;

struct EngFeed
{
	int			fd;
	EngFeedEnd	end;
	pthread_t	thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;		/* of the fields below */
	int			first;			/* item that the step loop works on */
	int			ready;			/* items from first on that are prepared */
	bool		stopping;
	size_t		limit;			/* of pixels, bytes; 0: none */
	size_t		most_pixels;	/* bytes of the largest message's pictures */
	int			threads;		/* that may decode, 1 to MOST_HANDS */
	EngHostMemory memory;		/* where pixels go; alloc NULL: anywhere */
	EngKeeper	keeper;			/* of pictures */
	Hand		hands[MOST_HANDS];	/* the thread's; made when first used */
	EngFeedItem items[ENG_PROTOCOL_AHEAD];
};

double
eng_feed_clock(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double) now.tv_sec + 1e-9 * (double) now.tv_nsec;
}

/*
 * Wait for a change, but no longer than the interval.  The lock is held.
 */
static void
wait_briefly(EngFeed *feed)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += (long) (WATCH_INTERVAL * 1e9);
	if (until.tv_nsec >= 1000000000L)
	{
		until.tv_sec++;
		until.tv_nsec -= 1000000000L;
	}
	pthread_cond_timedwait(&feed->changed, &feed->lock, &until);
}

/*
 * Wait until there is room for one more item (or, with until_stopped, for the
 * end), watching the peer.  Returns false when the feed is to stop.
 */
static bool
wait_for_room(EngFeed *feed, bool until_stopped)
{
	double		lost_since = 0;
	bool		go_on;

	pthread_mutex_lock(&feed->lock);
	while (!feed->stopping &&
		   (until_stopped || feed->ready == ENG_PROTOCOL_AHEAD))
	{
		double		now = eng_feed_clock();

		if (!eng_channel_hung_up(feed->fd))
			lost_since = 0;
		else if (lost_since == 0)
			lost_since = now;
		else if (now - lost_since > LOST_GRACE)
		{
			pthread_mutex_unlock(&feed->lock);
			feed->end.lost(feed->end.context);
			pthread_mutex_lock(&feed->lock);
			lost_since = now;
		}
		wait_briefly(feed);
	}
	go_on = !feed->stopping;
	pthread_mutex_unlock(&feed->lock);
	return go_on;
}

/* A picture cannot be used. */
static void
spoil(EngPicture *picture, const EngStatus *why)
{
	picture->code = why->code;
	/* what does not fit is not worth much */
	snprintf(picture->message, sizeof(picture->message), "%.199s",
			 why->message);
}

/*
 * In a batch for named weights, whose frames come from several callers, the
 * others are not to suffer from one that cannot be used.  Else the first such
 * fails the message.
 */
static bool
check_pictures(EngFeedItem *item, EngStatus *status)
{
	EngBatchRequest *batch = &item->batch;
	int32_t		i;

	for (i = 0; batch->weights[0] == '\0' && i < batch->frame_count; i++)
	{
		const EngPicture *picture = &item->pictures[i];

		if (picture->code == ENG_OK)
			continue;
		batch->has_bad_frame = true;
		batch->bad_frame = batch->frames[i].frame_id;
		return eng_fail(status, picture->code, "%s", picture->message);
	}
	return true;
}

static bool
measure_picture(EngPicture *picture, const uint8_t *jpeg, size_t bytes,
				EngStatus *status)
{
	EngJpegInfo info;

	if (!eng_jpeg_read_header(&info, jpeg, bytes, status))
		return false;
	if (info.width > ENG_JPEG_MAX_SIDE || info.height > ENG_JPEG_MAX_SIDE)
		return eng_fail(status, ENG_UNSUPPORTED,
						"picture of %d x %d pixels is too large",
						info.width, info.height);
	picture->width = info.width;
	picture->height = info.height;
	return true;
}

/* Contents are not kept. */
static bool
make_room(EngBuffer *buffer, size_t bytes, EngStatus *status)
{
	if (bytes <= buffer->capacity)
		return true;
	eng_buffer_free(buffer);
	return eng_buffer_reserve(buffer, bytes, status);
}

/*
 * Bytes that the pictures of one message may take.
 */
static size_t
pixel_limit(EngFeed *feed)
{
	size_t		limit;

	pthread_mutex_lock(&feed->lock);
	limit = feed->limit / ENG_PROTOCOL_AHEAD;
	if (feed->limit == 0 || limit > MAX_PIXEL_BYTES)
		limit = MAX_PIXEL_BYTES;
	pthread_mutex_unlock(&feed->lock);
	return limit;
}

/* Room for the pixels of a message. */
static bool
make_pixel_room(EngFeed *feed, EngFeedItem *item, size_t bytes,
				EngStatus *status)
{
	EngHostMemory memory;

	pthread_mutex_lock(&feed->lock);
	memory = feed->memory;
	pthread_mutex_unlock(&feed->lock);
	return eng_pixel_room(&item->pixels, bytes, &memory, status);
}

static void
release_pictures(EngFeed *feed, EngFeedItem *item)
{
	int32_t		count = item->batch.frame_count;
	int32_t		i;

	/* a message that could not be read may have more than there is room for */
	if (count > item->picture_capacity)
		count = item->picture_capacity;
	for (i = 0; i < count; i++)
	{
		EngPicture *picture = &item->pictures[i];

		if (picture->held)
			eng_keeper_release(&feed->keeper, item->keeper, &picture->key);
		picture->held = false;
	}
}

/*
 * Read the size of a picture; *total is where its pixels go, if it has any
 * that are to be decoded.
 */
static bool
place_picture(EngFeed *feed, EngFeedItem *item, int32_t i, size_t *total,
			  EngStatus *status)
{
	const EngFrameRequest *frame = &item->batch.frames[i];
	const uint8_t *jpeg = item->message.blob.data + frame->offset;
	EngPicture *picture = &item->pictures[i];

	if (!measure_picture(picture, jpeg, frame->bytes, status))
		return false;
	if (item->message.kind == ENG_KIND_STEP)
		picture->held = eng_keeper_hold(&feed->keeper, item->keeper, jpeg,
										frame->bytes, &picture->key);
	if (picture->held)
		return true;
	picture->offset = *total;
	*total += (size_t) picture->width * picture->height * 3;
	return true;
}

/*
 * Read the sizes of all pictures, and say where in item->pixels each goes.
 */
static bool
measure_pictures(EngFeed *feed, EngFeedItem *item, size_t limit,
				 EngStatus *status)
{
	EngBatchRequest *batch = &item->batch;
	size_t		total = 0;
	int32_t		i;

	item->keeper = eng_keeper_number(&feed->keeper);
	for (i = 0; i < batch->frame_count; i++)
	{
		EngStatus	why = {0};

		if (!place_picture(feed, item, i, &total, &why))
			spoil(&item->pictures[i], &why);
		if (total > limit)
		{
			batch->has_bad_frame = true;
			batch->bad_frame = batch->frames[i].frame_id;
			return eng_fail(status, ENG_NO_MEMORY,
							"decoded pictures need more than %zu bytes, all that one of %d messages may take",
							limit, ENG_PROTOCOL_AHEAD);
		}
	}
	return check_pictures(item, status) &&
		make_pixel_room(feed, item, total, status);
}

/* ---- decoding ------------------------------------------------------------- */

/* How one picture of a message is decoded. */
typedef bool (*Decode) (EngFeed *feed, Hand *hand, EngFeedItem *item,
						int32_t i, EngStatus *status);

/* False if there is no memory for it. */
static bool
open_hand(Hand *hand, EngStatus *status)
{
	if (hand->decoder == NULL)
		hand->decoder = eng_jpeg_decoder_create(status);
	if (hand->resizer == NULL)
		hand->resizer = eng_resizer_create();
	if (hand->resizer == NULL)
		eng_fail(status, ENG_NO_MEMORY, "could not allocate a feed");
	return hand->decoder != NULL && hand->resizer != NULL;
}

static bool
decode_whole(EngFeed *feed, Hand *hand, EngFeedItem *item, int32_t i,
			 EngStatus *status)
{
	const EngFrameRequest *frame = &item->batch.frames[i];
	EngPicture *picture = &item->pictures[i];
	EngImage	image = {item->pixels.data + picture->offset, picture->width,
		picture->height, 3};

	if (!eng_jpeg_decode(hand->decoder, &image,
						 item->message.blob.data + frame->offset,
						 frame->bytes, 1, status))
		return false;
	picture->rgb = image.pixels;
	return true;
}

/*
 * Pictures to be embedded are made squares at once: one of them needs a
 * fraction of the memory of the whole picture.
 */
static bool
decode_square(EngFeed *feed, Hand *hand, EngFeedItem *item, int32_t i,
			  EngStatus *status)
{
	const EngFrameRequest *frame = &item->batch.frames[i];
	const uint8_t *jpeg = item->message.blob.data + frame->offset;
	EngPicture *picture = &item->pictures[i];
	EngImage	square = {item->pixels.data + picture->offset, ENG_CLIP_SIDE,
		ENG_CLIP_SIDE, 3};
	EngImage	whole = {NULL, picture->width, picture->height, 3};

	if (!make_room(&hand->whole, eng_image_bytes(&whole), status))
		return false;
	whole.pixels = hand->whole.data;
	if (!eng_jpeg_decode(hand->decoder, &whole, jpeg, frame->bytes, 1,
						 status) ||
		!eng_resizer_square(hand->resizer, &square, &whole, status))
		return false;
	picture->rgb = square.pixels;
	picture->width = picture->height = ENG_CLIP_SIDE;
	return true;
}

/*
 * Decode what could be measured, several pictures at a time.
 */
static bool
decode_pictures(EngFeed *feed, EngFeedItem *item, int threads, Decode decode,
				EngStatus *status)
{
	int32_t		count = item->batch.frame_count;
	EngStatus	ignored = {0};
	int			hands = 1;
	int32_t		i;

	/* with less memory it takes longer */
	while (hands < threads && open_hand(&feed->hands[hands], &ignored))
		hands++;
#pragma omp parallel for schedule(dynamic, 1) num_threads(hands) if(hands > 1)
	for (i = 0; i < count; i++)
	{
		EngPicture *picture = &item->pictures[i];
		EngStatus	why = {0};

		if (picture->code == ENG_OK && !picture->held &&
			!decode(feed, &feed->hands[omp_get_thread_num()], item, i, &why))
			spoil(picture, &why);
	}
	return check_pictures(item, status);
}

/* Threads for a message. */
static int
count_threads(EngFeed *feed, int32_t pictures)
{
	int			threads;

	pthread_mutex_lock(&feed->lock);
	threads = feed->threads;
	pthread_mutex_unlock(&feed->lock);
	return pictures < threads ? pictures : threads;
}

/*
 * Squares of a message.  All whole pictures that are there at a time keep to
 * the limit that one of them has.
 */
static bool
prepare_squares(EngFeed *feed, EngFeedItem *item, EngStatus *status)
{
	EngImage	square = {NULL, ENG_CLIP_SIDE, ENG_CLIP_SIDE, 3};
	int32_t		count = item->batch.frame_count;
	int			threads = count_threads(feed, count);
	size_t		limit = pixel_limit(feed);
	size_t		most = 1;
	int32_t		i;

	for (i = 0; i < count; i++)
	{
		const EngFrameRequest *frame = &item->batch.frames[i];
		EngPicture *picture = &item->pictures[i];
		EngStatus	why = {0};
		size_t		need;

		picture->offset = eng_image_bytes(&square) * (size_t) i;
		if (!measure_picture(picture, item->message.blob.data + frame->offset,
							 frame->bytes, &why))
		{
			spoil(picture, &why);
			continue;
		}
		need = (size_t) picture->width * picture->height * 3;
		if (need > limit)
		{
			eng_fail(&why, ENG_NO_MEMORY,
					 "decoded picture of %d x %d pixels needs more memory than the limit leaves",
					 picture->width, picture->height);
			spoil(picture, &why);
		}
		else if (need > most)
			most = need;
	}
	if ((size_t) threads > limit / most)
		threads = (int) (limit / most);
	if (threads < 1)
		threads = 1;
	return check_pictures(item, status) &&
		make_pixel_room(feed, item, eng_image_bytes(&square) * (size_t) count,
						status) &&
		decode_pictures(feed, item, threads, decode_square, status);
}

static bool
prepare_wholes(EngFeed *feed, EngFeedItem *item, EngStatus *status)
{
	return measure_pictures(feed, item, pixel_limit(feed), status) &&
		decode_pictures(feed, item,
						count_threads(feed, item->batch.frame_count),
						decode_whole, status);
}

static bool
prepare_batch(EngFeed *feed, EngFeedItem *item, EngStatus *status)
{
	int32_t		count;

	if (!eng_batch_request_parse(&item->batch, &item->message, status))
		return false;
	count = item->batch.frame_count;
	if (count > item->picture_capacity)
	{
		free(item->pictures);
		item->picture_capacity = 0;
		item->pictures = malloc(sizeof(*item->pictures) * count);
		if (item->pictures == NULL)
			return eng_fail(status, ENG_NO_MEMORY, "could not keep %d frames",
							count);
		item->picture_capacity = count;
	}
	memset(item->pictures, 0, sizeof(*item->pictures) * count);
	if (item->message.kind == ENG_KIND_EMBED_IMAGES)
		return prepare_squares(feed, item, status);
	return prepare_wholes(feed, item, status);
}

/*
 * Fill an item from the socket.
 */
static void
fill(EngFeed *feed, EngFeedItem *item)
{
	memset(&item->status, 0, sizeof(item->status));
	eng_batch_request_free(&item->batch);
	item->result = eng_channel_read(feed->fd, &item->message, &item->status);
	if (item->result == ENG_READ_MESSAGE &&
		(item->message.kind == ENG_KIND_STEP ||
		 item->message.kind == ENG_KIND_DETECT ||
		 item->message.kind == ENG_KIND_EMBED_IMAGES))
		prepare_batch(feed, item, &item->status);
}

static void *
feed_main(void *argument)
{
	EngFeed    *feed = argument;
	bool		more = true;

	while (more && wait_for_room(feed, false))
	{
		EngFeedItem *item;

		/* only this thread raises ready, so the place stays the same */
		pthread_mutex_lock(&feed->lock);
		item = &feed->items[(feed->first + feed->ready) % ENG_PROTOCOL_AHEAD];
		pthread_mutex_unlock(&feed->lock);
		fill(feed, item);
		more = item->result == ENG_READ_MESSAGE;
		pthread_mutex_lock(&feed->lock);
		if (item->pixels.capacity > feed->most_pixels)
			feed->most_pixels = item->pixels.capacity;
		feed->ready++;
		pthread_cond_broadcast(&feed->changed);
		pthread_mutex_unlock(&feed->lock);
	}
	wait_for_room(feed, true);
	return NULL;
}

static bool
check_socket(int fd, EngStatus *status)
{
	int			type = 0;
	socklen_t	length = sizeof(type);

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) != 0 ||
		type != SOCK_STREAM)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"descriptor %d is not a stream socket", fd);
	return true;
}

/*
 * Start the thread with every signal blocked: they are the main thread's.
 */
static bool
start_thread(EngFeed *feed, EngStatus *status)
{
	sigset_t	all;
	sigset_t	old;
	int			result;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	result = pthread_create(&feed->thread, NULL, feed_main, feed);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (result != 0)
		return eng_fail(status, ENG_IO, "could not start a thread: %s",
						strerror(result));
	return true;
}

static void
feed_free(EngFeed *feed)
{
	int			i;

	for (i = 0; i < ENG_PROTOCOL_AHEAD; i++)
	{
		EngFeedItem *item = &feed->items[i];

		eng_message_free(&item->message);
		eng_batch_request_free(&item->batch);
		eng_pixel_room_free(&item->pixels);
		free(item->pictures);
	}
	for (i = 0; i < MOST_HANDS; i++)
	{
		eng_jpeg_decoder_free(feed->hands[i].decoder);
		eng_resizer_free(feed->hands[i].resizer);
		eng_buffer_free(&feed->hands[i].whole);
	}
	pthread_mutex_destroy(&feed->lock);
	eng_keeper_close(&feed->keeper);
	pthread_cond_destroy(&feed->changed);
	free(feed);
}

EngFeed *
eng_feed_start(int fd, const EngFeedEnd *end, EngStatus *status)
{
	EngFeed    *feed;
	pthread_condattr_t attributes;

	if (!check_socket(fd, status))
		return NULL;
	feed = calloc(1, sizeof(*feed));
	if (feed == NULL)
	{
		eng_fail(status, ENG_NO_MEMORY, "could not allocate a feed");
		return NULL;
	}
	feed->fd = fd;
	feed->end = *end;
	pthread_mutex_init(&feed->lock, NULL);
	eng_keeper_open(&feed->keeper);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&feed->changed, &attributes);
	pthread_condattr_destroy(&attributes);
	feed->threads = 1;
	if (!open_hand(&feed->hands[0], status) || !start_thread(feed, status))
	{
		feed_free(feed);
		return NULL;
	}
	return feed;
}

EngFeedItem *
eng_feed_next(EngFeed *feed, double *wait_s)
{
	double		start = eng_feed_clock();
	EngFeedItem *item;

	pthread_mutex_lock(&feed->lock);
	while (feed->ready == 0)
		pthread_cond_wait(&feed->changed, &feed->lock);
	item = &feed->items[feed->first];
	pthread_mutex_unlock(&feed->lock);
	*wait_s = eng_feed_clock() - start;
	return item;
}

void
eng_feed_done(EngFeed *feed)
{
	EngFeedItem *item = &feed->items[feed->first];

	release_pictures(feed, item);
	/* weights are not kept until the ring comes round again */
	if (item->message.blob.capacity > KEPT_BLOB)
		eng_buffer_free(&item->message.blob);
	pthread_mutex_lock(&feed->lock);
	feed->first = (feed->first + 1) % ENG_PROTOCOL_AHEAD;
	feed->ready--;
	pthread_cond_broadcast(&feed->changed);
	pthread_mutex_unlock(&feed->lock);
}

size_t
eng_feed_pictures(EngFeed *feed)
{
	size_t		bytes;

	pthread_mutex_lock(&feed->lock);
	bytes = feed->most_pixels * ENG_PROTOCOL_AHEAD;
	pthread_mutex_unlock(&feed->lock);
	return bytes;
}

void
eng_feed_set_limit(EngFeed *feed, size_t limit)
{
	pthread_mutex_lock(&feed->lock);
	feed->limit = limit;
	pthread_mutex_unlock(&feed->lock);
}

void
eng_feed_set_threads(EngFeed *feed, int threads)
{
	pthread_mutex_lock(&feed->lock);
	feed->threads = threads < 1 ? 1 :
		threads > MOST_HANDS ? MOST_HANDS : threads;
	pthread_mutex_unlock(&feed->lock);
}

void
eng_feed_set_memory(EngFeed *feed, const EngHostMemory *memory)
{
	pthread_mutex_lock(&feed->lock);
	feed->memory = *memory;
	pthread_mutex_unlock(&feed->lock);
}

void
eng_feed_set_keeper(EngFeed *feed, EngBackend *backend)
{
	eng_keeper_set(&feed->keeper, backend);
}

void
eng_feed_stop(EngFeed *feed)
{
	if (feed == NULL)
		return;
	pthread_mutex_lock(&feed->lock);
	feed->stopping = true;
	pthread_cond_broadcast(&feed->changed);
	pthread_mutex_unlock(&feed->lock);
	/* wakes a read that waits for the peer */
	shutdown(feed->fd, SHUT_RD);
	pthread_join(feed->thread, NULL);
	feed_free(feed);
}
