/*
 * engine/embed.h
 *		Answer requests for embeddings.
 */
#ifndef ENG_EMBED_H
#define ENG_EMBED_H

#include <jansson.h>

#include "engine/feed.h"
#include "engine/request.h"
#include "engine/shelf.h"
#include "engine/status.h"

typedef struct EngEmbedRequest
{
	EngFeedItem *item;			/* EMBED_IMAGES: its pictures are squares */
	EngTextsRequest texts;		/* EMBED_TEXTS */
	EngNet	   *net;			/* CLIP */
	EngShelf   *shelf;			/* that the network is of, or NULL */
} EngEmbedRequest;

/* *json: the answer, NULL if memory is short; embeddings go to blob. */
extern bool eng_embed_images(EngEmbedRequest *request, json_t **json,
							 EngBuffer *blob, EngStatus *status);
extern bool eng_embed_texts(EngEmbedRequest *request, json_t **json,
							EngBuffer *blob, EngStatus *status);

#endif							/* ENG_EMBED_H */
