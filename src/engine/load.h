/*
 * engine/load.h
 *		Make the network that a LOAD describes.
 */
#ifndef ENG_LOAD_H
#define ENG_LOAD_H

#include <jansson.h>

#include "engine/channel.h"
#include "engine/nets/net.h"
#include "engine/request.h"
#include "engine/status.h"

/*
 * *net is none before, and after a failure.  *answer: what LOAD says; NULL if
 * memory is short.
 */
extern bool eng_load_network(EngNet *net, const EngLoadRequest *request,
					 const EngMessage *message, json_t **answer,
					 EngStatus *status);

/* The limit of the memory that the backend uses, bytes; 0: none. */
extern size_t eng_load_limit(const EngLoadRequest *request,
							 const EngBackend *backend);

/* What LOAD says of a network that is there already. */
extern json_t *eng_load_answer(const EngNet *net);

#endif							/* ENG_LOAD_H */
