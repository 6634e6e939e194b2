/*
 * engine/channel.c
 *		Whole messages over a stream socket.
 *
 * The descriptor may be blocking or not; both are waited for by poll.
 */
#include "engine/channel.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define FIRST_CHUNK		(1 << 20)	/* bytes trusted before they arrive */

static bool
wait_for(int fd, short events)
{
	struct pollfd ready = {.fd = fd, .events = events};

	return poll(&ready, 1, -1) >= 0 || errno == EINTR;
}

/*
 * Read size bytes; *got is what arrived before the end of the stream.
 */
static bool
read_bytes(int fd, uint8_t *out, size_t size, size_t *got, EngStatus *status)
{
	*got = 0;
	while (*got < size)
	{
		ssize_t		n = read(fd, out + *got, size - *got);

		if (n > 0)
			*got += (size_t) n;
		else if (n == 0)
			return true;
		else if (errno == EAGAIN || errno == EWOULDBLOCK)
		{
			if (!wait_for(fd, POLLIN))
				return eng_fail(status, ENG_IO, "could not wait for data: %s",
								strerror(errno));
		}
		else if (errno != EINTR)
			return eng_fail(status, ENG_IO, "could not read a message: %s",
							strerror(errno));
	}
	return true;
}

/*
 * Read size bytes into the buffer, room for them and spare more bytes.
 */
static bool
read_part(int fd, EngBuffer *buffer, uint64_t size, size_t spare,
		  EngStatus *status)
{
	size_t		chunk = FIRST_CHUNK;

	buffer->size = 0;
	while (buffer->size < size)
	{
		size_t		wanted = size - buffer->size;
		size_t		got;

		if (wanted > chunk)
			wanted = chunk;
		if (!eng_buffer_reserve(buffer, wanted, status) ||
			!read_bytes(fd, buffer->data + buffer->size, wanted, &got,
						status))
			return false;
		buffer->size += got;
		if (got < wanted)
			return eng_fail(status, ENG_IO,
							"connection closed inside a message");
		chunk = buffer->size;
	}
	return eng_buffer_reserve(buffer, spare, status);
}

EngReadResult
eng_channel_read(int fd, EngMessage *message, EngStatus *status)
{
	uint8_t		bytes[ENG_PROTOCOL_HEADER];
	EngFrameHeader header;
	const char *problem;
	size_t		got;

	if (!read_bytes(fd, bytes, sizeof(bytes), &got, status))
		return ENG_READ_FAILED;
	if (got == 0)
		return ENG_READ_END;
	if (got < sizeof(bytes))
	{
		eng_fail(status, ENG_IO, "connection closed inside a message");
		return ENG_READ_FAILED;
	}
	problem = eng_frame_header_unpack(&header, bytes);
	if (problem != NULL)
	{
		eng_fail(status, ENG_BAD_FILE, "%s", problem);
		return ENG_READ_FAILED;
	}
	message->kind = header.kind;
	if (!read_part(fd, &message->json, header.json_length, 1, status) ||
		!read_part(fd, &message->blob, header.blob_length, 0, status))
		return ENG_READ_FAILED;
	message->json.data[message->json.size] = '\0';
	return ENG_READ_MESSAGE;
}

static bool
write_bytes(int fd, const void *data, size_t size, EngStatus *status)
{
	const uint8_t *at = data;

	while (size > 0)
	{
		ssize_t		n = write(fd, at, size);

		if (n >= 0)
		{
			at += n;
			size -= (size_t) n;
		}
		else if (errno == EAGAIN || errno == EWOULDBLOCK)
		{
			if (!wait_for(fd, POLLOUT))
				return eng_fail(status, ENG_IO, "could not wait to write: %s",
								strerror(errno));
		}
		else if (errno != EINTR)
			return eng_fail(status, ENG_IO, "could not write a message: %s",
							strerror(errno));
	}
	return true;
}

bool
eng_channel_write(int fd, uint16_t kind, const char *json,
				  const EngBuffer *blob, EngStatus *status)
{
	EngFrameHeader header = {.kind = kind};
	uint8_t		bytes[ENG_PROTOCOL_HEADER];
	size_t		json_length = strlen(json);

	if (json_length > ENG_PROTOCOL_MAX_JSON ||
		(blob != NULL && blob->size > ENG_PROTOCOL_MAX_BLOB))
		return eng_fail(status, ENG_UNSUPPORTED,
						"message is too long for the protocol");
	header.json_length = (uint32_t) json_length;
	header.blob_length = blob != NULL ? blob->size : 0;
	eng_frame_header_pack(bytes, &header);
	return write_bytes(fd, bytes, sizeof(bytes), status) &&
		write_bytes(fd, json, json_length, status) &&
		(blob == NULL || write_bytes(fd, blob->data, blob->size, status));
}

bool
eng_channel_hung_up(int fd)
{
	struct pollfd ready = {.fd = fd, .events = 0};

	return poll(&ready, 1, 0) > 0 &&
		(ready.revents & (POLLHUP | POLLERR | POLLNVAL)) != 0;
}

void
eng_message_free(EngMessage *message)
{
	eng_buffer_free(&message->json);
	eng_buffer_free(&message->blob);
}
