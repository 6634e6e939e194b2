/*
 * engine/shelf.c
 *		Detectors that stay loaded, each under the name of its weights.
 *
 * A detector refuses plans over a limit of its own, which is set before each
 * call to what the others leave of the shelf's.
 */
#include "engine/shelf.h"

#include <string.h>

static size_t
bytes_of(const EngDetector *detector)
{
	EngMemory	m;

	eng_detector_memory(detector, &m);
	return eng_memory_total(&m);
}

static size_t
bytes_of_others(const EngShelf *shelf, const EngDetector *detector)
{
	size_t		total = 0;
	int			i;

	for (i = 0; i < ENG_SHELF_PLACES; i++)
	{
		const EngDetector *other = shelf->places[i].detector;

		if (other != NULL && other != detector)
			total += bytes_of(other);
	}
	return total;
}

static void
clear_place(EngShelfPlace *place)
{
	eng_detector_free(place->detector);
	memset(place, 0, sizeof(*place));
}

/*
 * Free the detector that was used longest ago and is not the one to keep.
 * False: there is no other.
 */
static bool
drop_oldest(EngShelf *shelf, const EngDetector *keep)
{
	EngShelfPlace *oldest = NULL;
	int			i;

	for (i = 0; i < ENG_SHELF_PLACES; i++)
	{
		EngShelfPlace *place = &shelf->places[i];

		if (place->detector != NULL && place->detector != keep &&
			(oldest == NULL || place->used < oldest->used))
			oldest = place;
	}
	if (oldest != NULL)
		clear_place(oldest);
	return oldest != NULL;
}

EngDetector *
eng_shelf_find(EngShelf *shelf, const char *name)
{
	int			i;

	for (i = 0; i < ENG_SHELF_PLACES; i++)
	{
		EngShelfPlace *place = &shelf->places[i];

		if (place->detector == NULL || strcmp(place->name, name) != 0)
			continue;
		place->used = ++shelf->uses;
		return place->detector;
	}
	return NULL;
}

static EngShelfPlace *
free_place(EngShelf *shelf)
{
	int			i;

	for (i = 0; i < ENG_SHELF_PLACES; i++)
		if (shelf->places[i].detector == NULL)
			return &shelf->places[i];
	return NULL;
}

bool
eng_shelf_put(EngShelf *shelf, const char *name, EngDetector *detector,
			  EngStatus *status)
{
	size_t		bytes = bytes_of(detector);
	EngShelfPlace *place;

	if (shelf->limit > 0 && bytes > shelf->limit)
	{
		eng_detector_free(detector);
		return eng_fail(status, ENG_NO_MEMORY,
						"weights need %zu MiB, the limit is %zu MiB",
						(bytes >> 20) + 1, shelf->limit >> 20);
	}
	while (shelf->limit > 0 &&
		   bytes + bytes_of_others(shelf, detector) > shelf->limit)
		drop_oldest(shelf, detector);
	place = free_place(shelf);
	if (place == NULL)
	{
		drop_oldest(shelf, detector);
		place = free_place(shelf);
	}
	strncpy(place->name, name, ENG_SHELF_NAME);
	place->detector = detector;
	place->used = ++shelf->uses;
	return true;
}

bool
eng_shelf_infer(EngShelf *shelf, EngDetector *detector,
				const EngFrame *frames, int n, EngDetections *out,
				EngStatus *status)
{
	for (;;)
	{
		EngStatus	failure = {0};

		if (shelf->limit > 0)
			eng_detector_set_memory_limit(detector, shelf->limit -
										  bytes_of_others(shelf, detector));
		if (eng_detector_infer(detector, frames, n, out, &failure))
			return true;
		if (failure.code != ENG_NO_MEMORY || !drop_oldest(shelf, detector))
			return eng_fail(status, failure.code, "%s", failure.message);
	}
}

void
eng_shelf_clear(EngShelf *shelf)
{
	int			i;

	for (i = 0; i < ENG_SHELF_PLACES; i++)
		clear_place(&shelf->places[i]);
}
