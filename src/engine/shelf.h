/*
 * engine/shelf.h
 *		Networks that stay loaded, each under the name of its weights.
 *
 * All of them together keep to one memory limit: when a network needs more,
 * those that were used longest ago go first.
 */
#ifndef ENG_SHELF_H
#define ENG_SHELF_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/nets/net.h"
#include "engine/status.h"

#define ENG_SHELF_PLACES	8
#define ENG_SHELF_NAME		64	/* bytes of a name at most */

typedef struct EngShelfPlace
{
	char		name[ENG_SHELF_NAME + 1];
	EngNet		net;			/* none: the place is free */
	unsigned long used;
} EngShelfPlace;

typedef struct EngShelf
{
	EngShelfPlace places[ENG_SHELF_PLACES];
	unsigned long uses;
	size_t		limit;			/* bytes of all of them, 0 = none */
} EngShelf;

/* The network of that name, or NULL. */
extern EngNet *eng_shelf_find(EngShelf *shelf, const char *name);

/*
 * Keep the network, which becomes the shelf's, under a name that is not
 * taken.  Fails, and frees it, if its weights alone pass the limit.
 */
extern bool eng_shelf_put(EngShelf *shelf, const char *name, EngNet *net,
						  EngStatus *status);

/* What is to be done with a network, in memory that the shelf finds for it. */
typedef bool (*EngShelfWork) (EngNet *net, void *context, EngStatus *status);

/*
 * Do work with a network of the shelf; if that wants more memory than there
 * is, again without those used longest ago.
 */
extern bool eng_shelf_run(EngShelf *shelf, EngNet *net, EngShelfWork work,
						  void *context, EngStatus *status);

extern void eng_shelf_clear(EngShelf *shelf);

#endif							/* ENG_SHELF_H */
