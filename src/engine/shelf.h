/*
 * engine/shelf.h
 *		Detectors that stay loaded, each under the name of its weights.
 *
 * All of them together keep to one memory limit: when a detector needs more,
 * those that were used longest ago go first.
 */
#ifndef ENG_SHELF_H
#define ENG_SHELF_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/nets/detector.h"
#include "engine/status.h"

#define ENG_SHELF_PLACES	8
#define ENG_SHELF_NAME		64	/* bytes of a name at most */

typedef struct EngShelfPlace
{
	char		name[ENG_SHELF_NAME + 1];
	EngDetector *detector;		/* NULL: the place is free */
	unsigned long used;
} EngShelfPlace;

typedef struct EngShelf
{
	EngShelfPlace places[ENG_SHELF_PLACES];
	unsigned long uses;
	size_t		limit;			/* bytes of all of them, 0 = none */
} EngShelf;

/* The detector of that name, or NULL. */
extern EngDetector *eng_shelf_find(EngShelf *shelf, const char *name);

/*
 * Keep the detector, which becomes the shelf's, under a name that is not
 * taken.  Fails, and frees it, if its weights alone pass the limit.
 */
extern bool eng_shelf_put(EngShelf *shelf, const char *name,
						  EngDetector *detector, EngStatus *status);

/* eng_detector_infer with a detector of the shelf. */
extern bool eng_shelf_infer(EngShelf *shelf, EngDetector *detector,
							const EngFrame *frames, int n,
							EngDetections *out, EngStatus *status);

extern void eng_shelf_clear(EngShelf *shelf);

#endif							/* ENG_SHELF_H */
