/*
 * common/frame_stream.h
 *		Frames of engine/protocol.h over a non-blocking stream socket.
 *
 * Nothing here waits or raises an error for what the peer does: callers sleep
 * on the socket themselves and look at what came.
 */
#ifndef AVC_COMMON_FRAME_STREAM_H
#define AVC_COMMON_FRAME_STREAM_H

#include "lib/ilist.h"

#include "engine/protocol.h"

/* One piece of a message's blob; pieces are sent one after another. */
typedef struct AvcBlobPart
{
	const void *data;
	size_t		len;
} AvcBlobPart;

typedef struct AvcMessage
{
	uint16		kind;			/* ENG_KIND_* of engine/protocol.h */
	const char *json;			/* one JSON object; NULL = {} */
	const AvcBlobPart *parts;	/* NULL when there is no blob */
	int			part_count;
} AvcMessage;

/* A frame that has arrived whole. */
typedef struct AvcFrame
{
	dlist_node	node;
	MemoryContext context;		/* owns this struct, json and blob */
	int			kind;
	char	   *json;			/* zero-terminated */
	size_t		json_len;
	char	   *blob;			/* huge allocation, NULL when empty */
	size_t		blob_len;
	size_t		blob_room;
	size_t		filled;			/* bytes of json and blob so far */
} AvcFrame;

/* Looks at a good header: NULL, or why the frame is not expected. */
typedef const char *(*AvcFrameCheck) (void *owner,
									  const EngFrameHeader *header);

typedef struct AvcOutgoing AvcOutgoing;

typedef struct AvcFrameStream
{
	MemoryContext context;		/* parent of all frames */
	int			socket;			/* -1 once closed */
	bool		at_eof;			/* the peer is gone, or sent garbage */
	const char *problem;		/* which garbage, or NULL */
	AvcFrameCheck check;
	void	   *owner;			/* of check */
	uint8		header[ENG_PROTOCOL_HEADER];
	size_t		header_filled;
	AvcFrame   *partial;		/* header is complete, the rest is not */
	dlist_head	arrived;		/* AvcFrame */
	bool		copies_parts;	/* of messages; set after init */
	AvcOutgoing *outgoing;		/* what the socket has not taken yet */
	int			outgoing_count;
	int			outgoing_room;
	int			outgoing_done;
	size_t		outgoing_offset;	/* into the first that is not done */
} AvcFrameStream;

extern void avc_stream_init(AvcFrameStream *stream, MemoryContext context,
							int socket, AvcFrameCheck check, void *owner);

/* Take what has come. */
extern void avc_stream_read(AvcFrameStream *stream);

/* The oldest frame that arrived, or NULL; freed by deleting its context. */
extern AvcFrame *avc_stream_next(AvcFrameStream *stream);

/*
 * Queue a message.  Its JSON is copied; the parts must stay as they are until
 * avc_stream_write has returned true, unless the stream copies them too.
 */
extern void avc_stream_put(AvcFrameStream *stream, const AvcMessage *message);

/* Send what the socket takes; true if nothing is left to send. */
extern bool avc_stream_write(AvcFrameStream *stream);

extern void avc_stream_close(AvcFrameStream *stream);

#endif
