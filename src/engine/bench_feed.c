/*
 * engine/bench_feed.c
 *		How many pictures a second the processor can prepare for a network.
 *
 * What the feed does with a step's JPEGs, without a network: decode them by
 * so many threads into memory that the device reads, send them there; or see
 * by their hash that they are there already.  Pictures of the bench are noise,
 * whose JPEGs take longer than a camera's: these here are smooth with a little
 * of it, and their bytes are printed.
 */
#include "engine/bench.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/random.h"
#include "engine/feed.h"
#include "engine/frame_key.h"
#include "image/jpeg.h"

#define PICTURES	32
#define SECONDS		1.0			/* that a rate is measured for */
#define QUALITY		90
#define MOST_THREADS	64

typedef struct Feed
{
	EngSize		size;
	EngBuffer	jpeg[PICTURES];
	EngPixelRoom room;			/* all pictures */
	EngJpegDecoder *decoder[MOST_THREADS];
	int			threads;
} Feed;

static size_t
picture_bytes(const Feed *feed)
{
	return (size_t) feed->size.width * feed->size.height * 3;
}

/* Slopes, stripes and a little noise. */
static void
paint(uint8_t *rgb, EngSize size, int index)
{
	int32_t		x;
	int32_t		y;
	int			c;

	for (y = 0; y < size.height; y++)
		for (x = 0; x < size.width; x++)
			for (c = 0; c < 3; c++)
				rgb[3 * ((size_t) y * size.width + x) + c] = (uint8_t)
					(60 + 60 * y / size.height + 40 * c +
					 (x / 40 + y / 30 + index) % 5 * 12 +
					 eng_random_u64(1, 0, index, ENG_USE_TEST,
									(uint64_t) y * size.width + x) % 6);
}

static bool
make_jpegs(Feed *feed, EngStatus *status)
{
	EngJpegEncoder *encoder = eng_jpeg_encoder_create(status);
	EngImage	image = {feed->room.data, feed->size.width,
		feed->size.height, 3};
	bool		fine = encoder != NULL;
	int			i;

	for (i = 0; fine && i < PICTURES; i++)
	{
		const uint8_t *bytes;
		size_t		size = 0;

		paint(image.pixels, feed->size, i);
		fine = eng_jpeg_encode(encoder, &image, QUALITY, ENG_JPEG_420,
							   status);
		bytes = fine ? eng_jpeg_encoded(encoder, &size) : NULL;
		fine = fine && eng_buffer_reserve(&feed->jpeg[i], size, status);
		if (fine)
			memcpy(feed->jpeg[i].data, bytes, size);
		feed->jpeg[i].size = fine ? size : 0;
	}
	eng_jpeg_encoder_free(encoder);
	return fine;
}

/* All pictures once, by so many threads; false: one could not be decoded. */
static bool
decode_all(Feed *feed, int threads, EngStatus *status)
{
	bool		fine = true;
	int			i;

#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
	for (i = 0; i < PICTURES; i++)
	{
		EngStatus	why = {0};
		EngImage	image = {feed->room.data + picture_bytes(feed) * i,
			feed->size.width, feed->size.height, 3};

		if (eng_jpeg_decode(feed->decoder[omp_get_thread_num()], &image,
							feed->jpeg[i].data, feed->jpeg[i].size, 1, &why))
			continue;
#pragma omp critical (eng_bench_feed)
		{
			fine = false;
			eng_fail(status, why.code, "%s", why.message);
		}
	}
	return fine;
}

static bool
send_all(Feed *feed, EngBackend *backend, void *to, EngStatus *status)
{
	/* from pinned memory this waits, which a step does not */
	return backend->upload(backend, to, feed->room.data,
						   PICTURES * picture_bytes(feed), status);
}

static void
hash_all(const Feed *feed)
{
	volatile uint64_t sum = 0;
	int			i;

	for (i = 0; i < PICTURES; i++)
		sum += eng_frame_key(feed->jpeg[i].data,
							 feed->jpeg[i].size).word[0];
}

static bool
print_decoding(Feed *feed, FILE *out, EngStatus *status)
{
	int			threads;

	for (threads = 1; threads <= feed->threads; threads *= 2)
	{
		double		start = eng_feed_clock();
		int			rounds = 0;

		for (; eng_feed_clock() - start < SECONDS; rounds++)
			if (!decode_all(feed, threads, status))
				return false;
		fprintf(out, "feed: %.1f images/s decoded by %d thread%s\n",
				rounds * PICTURES / (eng_feed_clock() - start), threads,
				threads > 1 ? "s" : "");
	}
	return true;
}

static bool
print_sending(Feed *feed, EngBackend *backend, FILE *out, EngStatus *status)
{
	size_t		bytes = PICTURES * picture_bytes(feed);
	void	   *to = backend->alloc(backend, bytes);
	double		start = eng_feed_clock();
	double		seconds = 0;
	int			rounds = 0;
	bool		fine = to != NULL;

	for (; fine && seconds < SECONDS; rounds++)
	{
		fine = send_all(feed, backend, to, status);
		seconds = eng_feed_clock() - start;
	}
	if (to == NULL)
		eng_fail(status, ENG_NO_MEMORY, "out of memory on the device");
	backend->free(backend, to, bytes);
	if (fine)
		fprintf(out, "feed: %.1f images/s sent to the device, %.1f GB/s\n",
				rounds * PICTURES / seconds, rounds * bytes / seconds / 1e9);
	return fine;
}

static void
print_hashing(const Feed *feed, FILE *out)
{
	double		start = eng_feed_clock();
	int			rounds = 0;

	for (; eng_feed_clock() - start < SECONDS / 4; rounds++)
		hash_all(feed);
	fprintf(out, "feed: %.1f images/s by 1 thread where the device has them\n",
			rounds * PICTURES / (eng_feed_clock() - start));
}

static bool
measure(Feed *feed, EngBackend *backend, FILE *out, EngStatus *status)
{
	size_t		bytes = 0;
	int			i;

	if (!eng_pixel_room(&feed->room, PICTURES * picture_bytes(feed),
						&backend->host_memory, status) ||
		!make_jpegs(feed, status))
		return false;
	for (i = 0; i < feed->threads; i++)
	{
		feed->decoder[i] = eng_jpeg_decoder_create(status);
		if (feed->decoder[i] == NULL)
			return false;
	}
	for (i = 0; i < PICTURES; i++)
		bytes += feed->jpeg[i].size;
	fprintf(out, "feed: pictures of %dx%d, %zu KB as JPEG\n",
			feed->size.width, feed->size.height, bytes / PICTURES / 1000);
	if (!print_decoding(feed, out, status) ||
		(backend->device && !print_sending(feed, backend, out, status)))
		return false;
	print_hashing(feed, out);
	return true;
}

bool
eng_bench_feed(const EngChoice *choice, EngSize size, FILE *out,
			   EngStatus *status)
{
	EngBackend *backend = eng_backend_open(choice->device, choice->threads,
										   status);
	Feed	   *feed = calloc(1, sizeof(Feed));
	bool		fine = backend != NULL && feed != NULL;
	int			i;

	if (feed == NULL)
		eng_fail(status, ENG_NO_MEMORY, "out of memory");
	if (fine)
	{
		feed->size = size;
		feed->threads = backend->threads < MOST_THREADS ? backend->threads :
			MOST_THREADS;
		backend->enter(backend);
		fine = measure(feed, backend, out, status);
	}
	for (i = 0; feed != NULL && i < MOST_THREADS; i++)
		eng_jpeg_decoder_free(feed->decoder[i]);
	for (i = 0; feed != NULL && i < PICTURES; i++)
		eng_buffer_free(&feed->jpeg[i]);
	if (feed != NULL)
		eng_pixel_room_free(&feed->room);
	free(feed);
	if (backend != NULL)
		backend->close(backend);
	return fine;
}
