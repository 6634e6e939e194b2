/*
 * engine/frame_key.c
 *		Pictures that a device keeps, by what they show; memory for the others.
 */
#include "engine/frame_key.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static uint64_t secret[2];
static bool has_secret;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static inline uint64_t
turn(uint64_t x, int by)
{
	return x << by | x >> (64 - by);
}

static inline void
rounds(uint64_t v[4], int count)
{
	while (count-- > 0)
	{
		v[0] += v[1];
		v[2] += v[3];
		v[1] = turn(v[1], 13) ^ v[0];
		v[3] = turn(v[3], 16) ^ v[2];
		v[0] = turn(v[0], 32);
		v[2] += v[1];
		v[0] += v[3];
		v[1] = turn(v[1], 17) ^ v[2];
		v[3] = turn(v[3], 21) ^ v[0];
		v[2] = turn(v[2], 32);
	}
}

void
eng_siphash(uint64_t out[2], const uint64_t key[2], const uint8_t *data,
			size_t size)
{
	uint64_t	v[4] = {
		key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d ^ 0xee,
		key[0] ^ 0x6c7967656e657261, key[1] ^ 0x7465646279746573
	};
	uint64_t	word = 0;
	size_t		i;

	for (i = 0; i + 8 <= size; i += 8)
	{
		memcpy(&word, data + i, 8);
		v[3] ^= word;
		rounds(v, 2);
		v[0] ^= word;
	}
	word = 0;
	memcpy(&word, data + i, size - i);
	word |= (uint64_t) size << 56;
	v[3] ^= word;
	rounds(v, 2);
	v[0] ^= word;
	v[2] ^= 0xee;
	rounds(v, 4);
	out[0] = v[0] ^ v[1] ^ v[2] ^ v[3];
	v[1] ^= 0xdd;
	rounds(v, 4);
	out[1] = v[0] ^ v[1] ^ v[2] ^ v[3];
}

static void
draw_secret(void)
{
	has_secret = getrandom(secret, sizeof(secret), 0) == sizeof(secret);
}

EngFrameKey
eng_frame_key(const uint8_t *jpeg, size_t size)
{
	EngFrameKey key = {{0, 0}};

	(void) pthread_once(&once, draw_secret);
	if (has_secret)
		eng_siphash(key.word, secret, jpeg, size);
	return key;
}

/* ---- who keeps pictures ----------------------------------------------------- */

void
eng_keeper_open(EngKeeper *keeper)
{
	memset(keeper, 0, sizeof(*keeper));
	pthread_mutex_init(&keeper->lock, NULL);
}

void
eng_keeper_close(EngKeeper *keeper)
{
	pthread_mutex_destroy(&keeper->lock);
}

void
eng_keeper_set(EngKeeper *keeper, EngBackend *backend)
{
	pthread_mutex_lock(&keeper->lock);
	keeper->backend = backend;
	keeper->number++;
	pthread_mutex_unlock(&keeper->lock);
}

uint64_t
eng_keeper_number(EngKeeper *keeper)
{
	uint64_t	number;

	pthread_mutex_lock(&keeper->lock);
	number = keeper->number;
	pthread_mutex_unlock(&keeper->lock);
	return number;
}

bool
eng_keeper_hold(EngKeeper *keeper, uint64_t number, const uint8_t *jpeg,
				size_t size, EngFrameKey *key)
{
	bool		held = false;

	pthread_mutex_lock(&keeper->lock);
	if (keeper->backend != NULL && keeper->number == number)
	{
		*key = eng_frame_key(jpeg, size);
		held = eng_frame_key_is_set(key) &&
			keeper->backend->frame_hold(keeper->backend, key);
	}
	pthread_mutex_unlock(&keeper->lock);
	return held;
}

void
eng_keeper_release(EngKeeper *keeper, uint64_t number, const EngFrameKey *key)
{
	pthread_mutex_lock(&keeper->lock);
	if (keeper->backend != NULL && keeper->number == number)
		keeper->backend->frame_release(keeper->backend, key);
	pthread_mutex_unlock(&keeper->lock);
}

/* ---- memory ------------------------------------------------------------------ */

bool
eng_pixel_room(EngPixelRoom *room, size_t bytes, const EngHostMemory *memory,
			   EngStatus *status)
{
	bool		asked = memory->alloc != NULL;

	if (bytes <= room->capacity && (room->asked || !asked))
		return true;
	eng_pixel_room_free(room);
	if (asked)
	{
		room->data = memory->alloc(memory->device, bytes + 1);
		room->free = memory->free;
	}
	if (room->data == NULL)
	{
		room->data = malloc(bytes + 1);
		room->free = free;
	}
	if (room->data == NULL)
		return eng_fail(status, ENG_NO_MEMORY,
						"could not get %zu bytes for pictures", bytes);
	room->capacity = bytes;
	room->asked = asked;
	return true;
}

void
eng_pixel_room_free(EngPixelRoom *room)
{
	if (room->data != NULL)
		room->free(room->data);
	memset(room, 0, sizeof(*room));
}
