/*
 * engine/frame_key.h
 *		Pictures that a device keeps, by what they show; memory for the others.
 */
#ifndef ENG_FRAME_KEY_H
#define ENG_FRAME_KEY_H

#include <pthread.h>

#include "engine/core/backend.h"

/*
 * SipHash-2-4 with a result of 128 bits (Aumasson and Bernstein, 2012; the
 * long result is their reference code's).  secret and out: little-endian
 * words.
 */
extern void eng_siphash(uint64_t out[2], const uint64_t secret[2],
						const uint8_t *data, size_t size);

/*
 * The key of a JPEG's bytes, under a secret of this process: nobody can make
 * two files that are taken for one.  Zeroes: there is no secret to be had.
 */
extern EngFrameKey eng_frame_key(const uint8_t *jpeg, size_t size);

/*
 * Who keeps pictures, for any thread.  Each has a number: what one has held
 * is not to be released by the next.
 */
typedef struct EngKeeper
{
	pthread_mutex_t lock;
	EngBackend *backend;		/* NULL: nobody */
	uint64_t	number;
} EngKeeper;

extern void eng_keeper_open(EngKeeper *keeper);
extern void eng_keeper_close(EngKeeper *keeper);
/* Waits for a call of the one before that is under way. */
extern void eng_keeper_set(EngKeeper *keeper, EngBackend *backend);
extern uint64_t eng_keeper_number(EngKeeper *keeper);
/*
 * Whether it has the picture, which it then holds; *key is set where there is
 * one of that number.
 */
extern bool eng_keeper_hold(EngKeeper *keeper, uint64_t number,
							const uint8_t *jpeg, size_t size,
							EngFrameKey *key);
extern void eng_keeper_release(EngKeeper *keeper, uint64_t number,
							   const EngFrameKey *key);

/* Memory for the pixels of a message, used again and again. */
typedef struct EngPixelRoom
{
	uint8_t    *data;
	size_t		capacity;
	bool		asked;			/* whether it is pinned was decided */
	void		(*free) (void *memory);
} EngPixelRoom;

/*
 * At least bytes of room, from the host's memory that is given if that has
 * any; contents are not kept.
 */
extern bool eng_pixel_room(EngPixelRoom *room, size_t bytes,
						   const EngHostMemory *memory, EngStatus *status);
extern void eng_pixel_room_free(EngPixelRoom *room);

#endif
