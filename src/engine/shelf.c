/*
 * engine/shelf.c
 *		Networks that stay loaded, each under the name of its weights.
 *
 * A network refuses plans over a limit of its own, which is set before each
 * call to what the others leave of the shelf's.
 */
#include "engine/shelf.h"

#include <string.h>

static size_t
bytes_of_others(const EngShelf *shelf, const EngNet *net)
{
	size_t		total = 0;
	int			i;

	for (i = 0; i < ENG_SHELF_PLACES; i++)
	{
		const EngNet *other = &shelf->places[i].net;

		if (!eng_net_is_none(other) && other != net)
			total += eng_net_bytes(other);
	}
	return total;
}

static void
clear_place(EngShelfPlace *place)
{
	eng_net_free(&place->net);
	memset(place, 0, sizeof(*place));
}

/*
 * Free the network that was used longest ago and is not the one to keep.
 * False: there is no other.
 */
static bool
drop_oldest(EngShelf *shelf, const EngNet *keep)
{
	EngShelfPlace *oldest = NULL;
	int			i;

	for (i = 0; i < ENG_SHELF_PLACES; i++)
	{
		EngShelfPlace *place = &shelf->places[i];

		if (!eng_net_is_none(&place->net) && &place->net != keep &&
			(oldest == NULL || place->used < oldest->used))
			oldest = place;
	}
	if (oldest != NULL)
		clear_place(oldest);
	return oldest != NULL;
}

EngNet *
eng_shelf_find(EngShelf *shelf, const char *name)
{
	int			i;

	for (i = 0; i < ENG_SHELF_PLACES; i++)
	{
		EngShelfPlace *place = &shelf->places[i];

		if (eng_net_is_none(&place->net) || strcmp(place->name, name) != 0)
			continue;
		place->used = ++shelf->uses;
		return &place->net;
	}
	return NULL;
}

static EngShelfPlace *
free_place(EngShelf *shelf)
{
	int			i;

	for (i = 0; i < ENG_SHELF_PLACES; i++)
		if (eng_net_is_none(&shelf->places[i].net))
			return &shelf->places[i];
	return NULL;
}

bool
eng_shelf_put(EngShelf *shelf, const char *name, EngNet *net,
			  EngStatus *status)
{
	size_t		bytes = eng_net_bytes(net);
	EngShelfPlace *place;

	if (shelf->limit > 0 && bytes > shelf->limit)
	{
		eng_net_free(net);
		return eng_fail(status, ENG_NO_MEMORY,
						"weights need %zu MiB, the limit is %zu MiB",
						(bytes >> 20) + 1, shelf->limit >> 20);
	}
	while (shelf->limit > 0 &&
		   bytes + bytes_of_others(shelf, net) > shelf->limit)
		drop_oldest(shelf, net);
	place = free_place(shelf);
	if (place == NULL)
	{
		drop_oldest(shelf, net);
		place = free_place(shelf);
	}
	strncpy(place->name, name, ENG_SHELF_NAME);
	place->net = *net;
	place->used = ++shelf->uses;
	memset(net, 0, sizeof(*net));
	return true;
}

bool
eng_shelf_run(EngShelf *shelf, EngNet *net, EngShelfWork work, void *context,
			  EngStatus *status)
{
	for (;;)
	{
		EngStatus	failure = {0};

		if (shelf->limit > 0)
			eng_net_set_memory_limit(net, shelf->limit -
									 bytes_of_others(shelf, net));
		if (work(net, context, &failure))
			return true;
		if (failure.code != ENG_NO_MEMORY || !drop_oldest(shelf, net))
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
