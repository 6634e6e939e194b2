/*
 * common/frame_stream.c
 *		Frames of engine/protocol.h over a non-blocking stream socket.
 *
 * Incoming frames are put together in a memory context of their own, which
 * is handed over with the frame.
 */
#include "postgres.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "utils/memutils.h"

#include "common/frame_stream.h"

#define FIRST_ALLOCATION	((size_t) 16 << 20)

/* A run of bytes on its way out. */
struct AvcOutgoing
{
	const char *data;
	size_t		len;
	bool		is_ours;		/* freed once it is sent */
};

void
avc_stream_init(AvcFrameStream *stream, MemoryContext context, int socket,
				AvcFrameCheck check, void *owner)
{
	memset(stream, 0, sizeof(*stream));
	stream->context = context;
	stream->socket = socket;
	stream->check = check;
	stream->owner = owner;
	dlist_init(&stream->arrived);
}

/* ---- incoming ------------------------------------------------------- */

/* A header is complete: make room for what it announces. */
static void
begin_frame(AvcFrameStream *stream)
{
	EngFrameHeader header;
	MemoryContext context;
	AvcFrame   *frame;

	stream->header_filled = 0;
	stream->problem = eng_frame_header_unpack(&header, stream->header);
	if (stream->problem == NULL)
		stream->problem = stream->check(stream->owner, &header);
	if (stream->problem != NULL)
	{
		stream->at_eof = true;
		return;
	}
	context = AllocSetContextCreate(stream->context, "avcurate frame",
									ALLOCSET_SMALL_SIZES);
	frame = MemoryContextAllocZero(context, sizeof(AvcFrame));
	frame->context = context;
	frame->kind = header.kind;
	frame->json_len = header.json_length;
	frame->blob_len = header.blob_length;
	frame->json = MemoryContextAllocHuge(context, frame->json_len + 1);
	frame->json[frame->json_len] = '\0';
	if (frame->blob_len > 0)
	{
		/* A length alone costs nothing: the rest grows as bytes arrive. */
		frame->blob_room = Min(frame->blob_len, FIRST_ALLOCATION);
		frame->blob = MemoryContextAllocHuge(context, frame->blob_room);
	}
	stream->partial = frame;
}

/* Where the next bytes go and how many at most; 0 = the frame is whole. */
static size_t
next_room(AvcFrame *frame, char **place)
{
	size_t		in_blob;

	if (frame->filled < frame->json_len)
	{
		*place = frame->json + frame->filled;
		return frame->json_len - frame->filled;
	}
	in_blob = frame->filled - frame->json_len;
	if (in_blob == frame->blob_len)
		return 0;
	if (in_blob == frame->blob_room)
	{
		frame->blob_room = Min(frame->blob_len, frame->blob_room * 2);
		frame->blob = repalloc_huge(frame->blob, frame->blob_room);
	}
	*place = frame->blob + in_blob;
	return frame->blob_room - in_blob;
}

void
avc_stream_read(AvcFrameStream *stream)
{
	while (!stream->at_eof && stream->socket >= 0)
	{
		char	   *place = (char *) stream->header + stream->header_filled;
		size_t		room = ENG_PROTOCOL_HEADER - stream->header_filled;
		ssize_t		got;

		if (stream->partial != NULL)
		{
			room = next_room(stream->partial, &place);
			if (room == 0)
			{
				dlist_push_tail(&stream->arrived, &stream->partial->node);
				stream->partial = NULL;
				continue;
			}
		}
		got = recv(stream->socket, place, room, MSG_DONTWAIT);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return;
		if (got <= 0)
			stream->at_eof = true;
		else if (stream->partial != NULL)
			stream->partial->filled += got;
		else
		{
			stream->header_filled += got;
			if (stream->header_filled == ENG_PROTOCOL_HEADER)
				begin_frame(stream);
		}
	}
}

AvcFrame *
avc_stream_next(AvcFrameStream *stream)
{
	if (dlist_is_empty(&stream->arrived))
		return NULL;
	return dlist_container(AvcFrame, node,
						   dlist_pop_head_node(&stream->arrived));
}

/* ---- outgoing ------------------------------------------------------- */

static void
add_outgoing(AvcFrameStream *stream, const void *data, size_t len,
			 bool is_ours)
{
	AvcOutgoing *piece;

	if (stream->outgoing == NULL)
	{
		stream->outgoing_room = 16;
		stream->outgoing = MemoryContextAlloc(stream->context,
											  sizeof(AvcOutgoing) * 16);
	}
	if (stream->outgoing_count == stream->outgoing_room)
	{
		stream->outgoing_room *= 2;
		stream->outgoing = repalloc(stream->outgoing, sizeof(AvcOutgoing) *
									stream->outgoing_room);
	}
	piece = &stream->outgoing[stream->outgoing_count++];
	piece->data = data;
	piece->len = len;
	piece->is_ours = is_ours;
}

void
avc_stream_put(AvcFrameStream *stream, const AvcMessage *message)
{
	const char *json = message->json != NULL ? message->json : "{}";
	EngFrameHeader header = {message->kind, (uint32_t) strlen(json), 0};
	size_t		head_len = ENG_PROTOCOL_HEADER + header.json_length;
	char	   *head;
	int			i;

	for (i = 0; i < message->part_count; i++)
		header.blob_length += message->parts[i].len;
	Assert(header.blob_length <= ENG_PROTOCOL_MAX_BLOB);
	head = MemoryContextAllocHuge(stream->context, head_len +
								  (stream->copies_parts ?
								   header.blob_length : 0));
	eng_frame_header_pack((uint8 *) head, &header);
	memcpy(head + ENG_PROTOCOL_HEADER, json, header.json_length);
	for (i = 0; i < message->part_count && stream->copies_parts; i++)
	{
		memcpy(head + head_len, message->parts[i].data,
			   message->parts[i].len);
		head_len += message->parts[i].len;
	}
	add_outgoing(stream, head, head_len, true);
	for (i = 0; i < message->part_count && !stream->copies_parts; i++)
		add_outgoing(stream, message->parts[i].data, message->parts[i].len,
					 false);
}

bool
avc_stream_write(AvcFrameStream *stream)
{
	while (stream->outgoing_done < stream->outgoing_count &&
		   !stream->at_eof && stream->socket >= 0)
	{
		AvcOutgoing *piece = &stream->outgoing[stream->outgoing_done];
		ssize_t		sent;

		sent = send(stream->socket, piece->data + stream->outgoing_offset,
					piece->len - stream->outgoing_offset,
					MSG_DONTWAIT | MSG_NOSIGNAL);
		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return false;
		if (sent < 0)
		{
			/* what it said before it left is worth reading */
			avc_stream_read(stream);
			stream->at_eof = true;
			return false;
		}
		stream->outgoing_offset += sent;
		if (stream->outgoing_offset == piece->len)
		{
			if (piece->is_ours)
				pfree(unconstify(char *, piece->data));
			stream->outgoing_done++;
			stream->outgoing_offset = 0;
		}
	}
	if (stream->outgoing_done < stream->outgoing_count)
		return false;
	stream->outgoing_done = stream->outgoing_count = 0;
	return true;
}

void
avc_stream_close(AvcFrameStream *stream)
{
	if (stream->socket >= 0)
		close(stream->socket);
	stream->socket = -1;
	stream->at_eof = true;
}
