/*
 * cuda/frames.c
 *		Decoded pictures that stay on the device from epoch to epoch.
 *
 * What is there is found by a key of its contents, so a picture that changed
 * is another one.  Pictures of one size share slabs, as the device's memory
 * comes in large pieces.  Who has come first stays: trainings go through all
 * frames again and again, and what was used longest ago is what comes next.
 * There is room for as long as an eighth of the device's memory is left to
 * others; AVC_GPU_FRAME_CACHE in the environment says how many MB instead, 0
 * for none.  Whoever needs the memory gets it back, but for pictures that are
 * held for a batch to come.
 *
 * The feed's thread asks and releases, the step loop does all of it: one lock.
 */
#include <pthread.h>
#include <stdlib.h>

#include "cuda/cuda.h"

#define BUCKETS		4096
#define SLAB_BYTES	((size_t) 64 << 20)
#define SLAB_PLACES	64			/* most */
#define MB			((size_t) 1 << 20)

typedef struct Slab Slab;

typedef struct Kept
{
	EngCudaFrame frame;			/* first: the caller's part */
	EngFrameKey key;
	struct Kept *next;			/* of the bucket */
	Slab	   *slab;
	int			holds;
} Kept;

struct Slab
{
	Slab	   *next;
	uint8_t    *memory;
	size_t		place;			/* bytes of one */
	int			places;
	int			holds;			/* of all its pictures */
	Kept	   *kept[SLAB_PLACES];	/* NULL: free */
};

struct EngFrames
{
	pthread_mutex_t lock;
	Kept	   *bucket[BUCKETS];
	Slab	   *slabs;
	size_t		bytes;			/* of the slabs */
	size_t		room;
	bool		wished;			/* the environment says how much */
	bool		given_up;		/* the memory was needed */
};

static Kept **
find(EngFrames *frames, const EngFrameKey *key)
{
	Kept	  **at = &frames->bucket[key->word[0] % BUCKETS];

	while (*at != NULL && ((*at)->key.word[0] != key->word[0] ||
						   (*at)->key.word[1] != key->word[1]))
		at = &(*at)->next;
	return at;
}

static void
forget(EngFrames *frames, Kept *kept)
{
	int			i;

	*find(frames, &kept->key) = kept->next;
	for (i = 0; i < kept->slab->places; i++)
		if (kept->slab->kept[i] == kept)
			kept->slab->kept[i] = NULL;
	free(kept);
}

/* ---- slabs ------------------------------------------------------------------- */

static void
free_slab(EngCuda *cuda, Slab **at)
{
	Slab	   *slab = *at;
	int			i;

	for (i = 0; i < slab->places; i++)
		if (slab->kept[i] != NULL)
			forget(cuda->frames, slab->kept[i]);
	cuda->frames->bytes -= slab->place * slab->places;
	*at = slab->next;
	eng_device_free(cuda, slab->memory);
	free(slab);
}

/*
 * Free slabs that nothing is held in until no more than most bytes are left;
 * false: none could be.
 */
static bool
shrink(EngCuda *cuda, size_t most)
{
	Slab	  **at = &cuda->frames->slabs;
	bool		any = false;

	while (*at != NULL && cuda->frames->bytes > most)
		if ((*at)->holds == 0)
		{
			free_slab(cuda, at);
			any = true;
		}
		else
			at = &(*at)->next;
	return any;
}

/* Whether so many bytes more may be taken. */
static bool
has_room(EngCuda *cuda, size_t bytes)
{
	const EngFrames *frames = cuda->frames;

	if (frames->given_up || bytes > frames->room ||
		frames->bytes > frames->room - bytes)
		return false;
	return frames->wished ||
		eng_device_left(cuda) > bytes + cuda->memory / 8;
}

static Slab *
new_slab(EngCuda *cuda, size_t place)
{
	EngFrames  *frames = cuda->frames;
	int			places = (int) (SLAB_BYTES / place);
	Slab	   *slab;

	if (places > SLAB_PLACES)
		places = SLAB_PLACES;
	if (places < 1)
		places = 1;
	if (!has_room(cuda, place * places))
		return NULL;
	slab = calloc(1, sizeof(Slab));
	if (slab == NULL)
		return NULL;
	slab->memory = eng_device_try_alloc(cuda, place * places);
	if (slab->memory == NULL)
	{
		free(slab);
		return NULL;
	}
	slab->place = place;
	slab->places = places;
	slab->next = frames->slabs;
	frames->slabs = slab;
	frames->bytes += place * places;
	return slab;
}

/* A slab of such places with a free one, which is *index; NULL: none. */
static Slab *
free_place(EngCuda *cuda, size_t place, int *index)
{
	Slab	   *slab;

	for (slab = cuda->frames->slabs; slab != NULL; slab = slab->next)
		for (*index = 0; slab->place == place && *index < slab->places;
			 ++*index)
			if (slab->kept[*index] == NULL)
				return slab;
	*index = 0;
	return new_slab(cuda, place);
}

/* ---- pictures ---------------------------------------------------------------- */

static Kept *
new_kept(EngCuda *cuda, const EngFrameKey *key, size_t size)
{
	int			index;
	Slab	   *slab = free_place(cuda, (size + 255) / 256 * 256, &index);
	Kept	   *kept = slab == NULL ? NULL : calloc(1, sizeof(Kept));

	if (kept == NULL)
		return NULL;
	kept->frame.pixels = slab->memory + slab->place * index;
	kept->key = *key;
	kept->slab = slab;
	slab->kept[index] = kept;
	*find(cuda->frames, key) = kept;
	return kept;
}

static void
hold(Kept *kept)
{
	kept->holds++;
	kept->slab->holds++;
}

static void
release(EngFrames *frames, Kept *kept)
{
	kept->slab->holds--;
	if (--kept->holds == 0 && !kept->frame.ready)
		forget(frames, kept);
}

EngCudaFrame *
eng_cuda_frame_take(EngCuda *cuda, const EngFrameKey *key, size_t size)
{
	EngFrames  *frames = cuda->frames;
	Kept	   *kept;

	if (frames == NULL || !eng_frame_key_is_set(key))
		return NULL;
	pthread_mutex_lock(&frames->lock);
	kept = *find(frames, key);
	if (kept == NULL)
		kept = new_kept(cuda, key, size);
	if (kept != NULL)
		hold(kept);
	pthread_mutex_unlock(&frames->lock);
	return kept == NULL ? NULL : &kept->frame;
}

void
eng_cuda_frame_release(EngCuda *cuda, EngCudaFrame *frame)
{
	EngFrames  *frames = cuda->frames;

	pthread_mutex_lock(&frames->lock);
	release(frames, (Kept *) frame);
	pthread_mutex_unlock(&frames->lock);
}

bool
eng_cuda_frames_give_up(EngCuda *cuda)
{
	EngFrames  *frames = cuda->frames;
	bool		any;

	if (frames == NULL)
		return false;
	pthread_mutex_lock(&frames->lock);
	any = shrink(cuda, 0);
	frames->given_up = frames->given_up || any;
	pthread_mutex_unlock(&frames->lock);
	return any;
}

/* ---- the backend's calls -------------------------------------------------------- */

static bool
frame_hold(EngBackend *backend, const EngFrameKey *key)
{
	EngCuda    *cuda = backend->state;
	EngFrames  *frames = cuda->frames;
	Kept	   *kept;
	bool		there;

	pthread_mutex_lock(&frames->lock);
	kept = *find(frames, key);
	there = kept != NULL && kept->frame.ready;
	if (there)
		hold(kept);
	pthread_mutex_unlock(&frames->lock);
	return there;
}

static void
frame_release(EngBackend *backend, const EngFrameKey *key)
{
	EngCuda    *cuda = backend->state;
	EngFrames  *frames = cuda->frames;

	pthread_mutex_lock(&frames->lock);
	release(frames, *find(frames, key));
	pthread_mutex_unlock(&frames->lock);
}

static void
frame_room(EngBackend *backend, size_t bytes)
{
	EngCuda    *cuda = backend->state;
	EngFrames  *frames = cuda->frames;

	pthread_mutex_lock(&frames->lock);
	if (!frames->wished)
		frames->room = bytes;
	(void) shrink(cuda, frames->room);
	pthread_mutex_unlock(&frames->lock);
}

static size_t
frame_bytes(EngBackend *backend)
{
	EngCuda    *cuda = backend->state;
	EngFrames  *frames = cuda->frames;
	size_t		bytes;

	pthread_mutex_lock(&frames->lock);
	bytes = frames->bytes;
	pthread_mutex_unlock(&frames->lock);
	return bytes;
}

void
eng_cuda_set_frames(EngBackend *backend)
{
	const EngCuda *cuda = backend->state;

	if (cuda->frames == NULL)
		return;
	backend->frame_hold = frame_hold;
	backend->frame_release = frame_release;
	backend->frame_room = frame_room;
	backend->frame_bytes = frame_bytes;
}

bool
eng_cuda_open_frames(EngCuda *cuda, EngStatus *status)
{
	const char *wish = getenv("AVC_GPU_FRAME_CACHE");
	unsigned long long room = wish == NULL ? 0 : strtoull(wish, NULL, 10);
	EngFrames  *frames;

	if (wish != NULL && room == 0)
		return true;
	frames = calloc(1, sizeof(EngFrames));
	if (frames == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	pthread_mutex_init(&frames->lock, NULL);
	frames->wished = wish != NULL;
	frames->room = wish == NULL || room > SIZE_MAX / MB ? SIZE_MAX :
		(size_t) room * MB;
	cuda->frames = frames;
	return true;
}

void
eng_cuda_close_frames(EngCuda *cuda)
{
	if (cuda->frames == NULL)
		return;
	while (cuda->frames->slabs != NULL)
		free_slab(cuda, &cuda->frames->slabs);
	pthread_mutex_destroy(&cuda->frames->lock);
	free(cuda->frames);
	cuda->frames = NULL;
}
