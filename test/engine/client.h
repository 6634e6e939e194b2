/*
 * test/engine/client.h
 *		The worker's side of the protocol, and pictures to send.
 */
#ifndef TEST_ENGINE_CLIENT_H
#define TEST_ENGINE_CLIENT_H

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "engine/channel.h"
#include "engine/core/random.h"
#include "image/jpeg.h"

/* A reply; json is never NULL, kind 0 means that the connection ended. */
typedef struct Reply
{
	int			kind;
	json_t	   *json;
	EngBuffer	blob;
} Reply;

static bool __attribute__((unused))
client_send(int fd, int kind, const char *json, const EngBuffer *blob)
{
	EngStatus	status = {0};

	return eng_channel_write(fd, (uint16_t) kind, json, blob, &status);
}

static Reply __attribute__((unused))
client_receive(int fd)
{
	EngMessage	message = {0};
	EngStatus	status = {0};
	Reply		reply = {0};

	if (eng_channel_read(fd, &message, &status) == ENG_READ_MESSAGE)
	{
		reply.kind = message.kind;
		reply.json = json_loadb((char *) message.json.data,
								message.json.size, 0, NULL);
		reply.blob = message.blob;
	}
	else
		eng_buffer_free(&message.blob);
	eng_buffer_free(&message.json);
	if (reply.json == NULL)
		reply.json = json_object();
	return reply;
}

static Reply __attribute__((unused))
client_call(int fd, int kind, const char *json, const EngBuffer *blob)
{
	client_send(fd, kind, json, blob);
	return client_receive(fd);
}

static void __attribute__((unused))
reply_free(Reply *reply)
{
	json_decref(reply->json);
	eng_buffer_free(&reply->blob);
}

static const char *__attribute__((unused))
reply_text(const Reply *reply, const char *key)
{
	const char *text = json_string_value(json_object_get(reply->json, key));

	return text != NULL ? text : "";
}

static double __attribute__((unused))
reply_number(const Reply *reply, const char *key)
{
	return json_number_value(json_object_get(reply->json, key));
}

/*
 * Append a JPEG of a grey gradient with noise and bright rectangles, one a
 * box; returns its length.
 */
static size_t __attribute__((unused))
append_jpeg(EngBuffer *out, int width, int height, int seed,
			const float *boxes, int count)
{
	EngStatus	status = {0};
	EngJpegEncoder *encoder = eng_jpeg_encoder_create(&status);
	EngImage	image = {NULL, width, height, 3};
	size_t		before = out->size;
	size_t		size;
	int			x;
	int			y;
	int			i;

	image.pixels = malloc(eng_image_bytes(&image));
	for (y = 0; y < height; y++)
		for (x = 0; x < width; x++)
		{
			uint8_t    *p = image.pixels + 3 * ((size_t) y * width + x);

			p[0] = p[1] = p[2] = (uint8_t)
				(40 + 60 * y / height +
				 eng_random_u64(seed, y, x, ENG_USE_TEST, 0) % 24);
			for (i = 0; i < count; i++)
				if (x >= boxes[4 * i] && x < boxes[4 * i + 2] &&
					y >= boxes[4 * i + 1] && y < boxes[4 * i + 3])
				{
					p[0] = 230;
					p[1] = (uint8_t) (60 + 90 * (i % 2));
					p[2] = 40;
				}
		}
	if (eng_jpeg_encode(encoder, &image, 90, ENG_JPEG_420, &status))
	{
		const uint8_t *bytes = eng_jpeg_encoded(encoder, &size);

		eng_buffer_append(out, bytes, size, &status);
	}
	free(image.pixels);
	eng_jpeg_encoder_free(encoder);
	return out->size - before;
}

#endif							/* TEST_ENGINE_CLIENT_H */
