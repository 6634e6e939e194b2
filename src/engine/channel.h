/*
 * engine/channel.h
 *		Whole messages over a stream socket (the frames of protocol.h).
 */
#ifndef ENG_CHANNEL_H
#define ENG_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/io/safetensors.h"
#include "engine/protocol.h"
#include "engine/status.h"

/* A message read; the buffers are kept and used again by the next read. */
typedef struct EngMessage
{
	uint16_t	kind;
	EngBuffer	json;			/* size bytes of text, then a zero byte */
	EngBuffer	blob;
} EngMessage;

typedef enum EngReadResult
{
	ENG_READ_MESSAGE,
	ENG_READ_END,				/* the peer closed between two messages */
	ENG_READ_FAILED				/* status says why; the stream is lost */
} EngReadResult;

/*
 * Read one message, waiting for all of it.  Memory grows with the bytes that
 * arrive, not with the lengths that the header claims.  Signals do not
 * disturb it.
 */
extern EngReadResult eng_channel_read(int fd, EngMessage *message,
									  EngStatus *status);

/* Write one message, waiting until the socket has taken all of it. */
extern bool eng_channel_write(int fd, uint16_t kind, const char *json,
							  const EngBuffer *blob, EngStatus *status);

/* True if the peer has closed its end for both directions. */
extern bool eng_channel_hung_up(int fd);

extern void eng_message_free(EngMessage *message);

#endif							/* ENG_CHANNEL_H */
