/*
 * common/engine_weights.c
 *		What networks the shared engine has, and who brings those it lacks.
 *
 * Weights come from the clients, and one is enough: the first that waits for
 * a network which is not there is told so and sends a LOAD, or its connection
 * ends; until then the others' requests stay in the queue.
 */
#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/memutils.h"

#include "common/engine_broker.h"

#define MAX_WEIGHTS			64	/* names remembered; more than an engine has */
#define LOADER_PATIENCE_MS	30000	/* with one who was told to load */

bool
avc_broker_has_weights(const AvcBroker *broker, const char *name)
{
	ListCell   *cell;

	foreach(cell, broker->weights)
		if (strcmp(lfirst(cell), name) == 0)
			return true;
	return false;
}

void
avc_broker_remember_weights(AvcBroker *broker, const char *name)
{
	if (avc_broker_has_weights(broker, name))
		return;
	if (list_length(broker->weights) >= MAX_WEIGHTS)
	{
		pfree(linitial(broker->weights));
		broker->weights = list_delete_first(broker->weights);
	}
	broker->weights = lappend(broker->weights, pstrdup(name));
}

void
avc_broker_forget_weights(AvcBroker *broker, const char *name)
{
	ListCell   *cell;

	foreach(cell, broker->weights)
		if (strcmp(lfirst(cell), name) == 0)
		{
			pfree(lfirst(cell));
			broker->weights = foreach_delete_current(broker->weights, cell);
		}
}

AvcLoader *
avc_broker_loader(const AvcBroker *broker, const char *name)
{
	ListCell   *cell;

	foreach(cell, broker->loaders)
		if (strcmp(((AvcLoader *) lfirst(cell))->weights, name) == 0)
			return lfirst(cell);
	return NULL;
}

void
avc_broker_forget_loader(AvcBroker *broker, AvcLoader *loader)
{
	broker->loaders = list_delete_ptr(broker->loaders, loader);
	pfree(loader);
}

bool
avc_broker_awaits(const AvcBroker *broker, const AvcBrokerClient *client)
{
	ListCell   *cell;

	foreach(cell, broker->loaders)
		if (((AvcLoader *) lfirst(cell))->client == client)
			return true;
	return false;
}

void
avc_broker_forget_client(AvcBroker *broker, const AvcBrokerClient *client)
{
	ListCell   *cell;

	foreach(cell, broker->loaders)
	{
		AvcLoader  *loader = lfirst(cell);

		if (loader->client != client)
			continue;
		broker->loaders = foreach_delete_current(broker->loaders, cell);
		pfree(loader);
	}
}

/* A LOAD of these weights that the engine has not answered. */
bool
avc_broker_has_load_in_flight(const AvcBroker *broker, const char *name)
{
	int			i;

	for (i = 0; i < broker->flight_count; i++)
	{
		const AvcBrokerRequest *request = broker->flights[i].requests[0];

		if (request->kind == ENG_KIND_LOAD &&
			strcmp(request->weights, name) == 0)
			return true;
	}
	return false;
}

static bool
has_load_queued(AvcBroker *broker, const char *name)
{
	dlist_iter	iter;

	dlist_foreach(iter, &broker->queue)
	{
		const AvcBrokerRequest *request = dlist_container(AvcBrokerRequest,
														  node, iter.cur);

		if (request->kind == ENG_KIND_LOAD &&
			strcmp(request->weights, name) == 0)
			return true;
	}
	return false;
}

/* Will somebody's LOAD of these weights come, or is one there? */
bool
avc_broker_is_loading(AvcBroker *broker, const char *name)
{
	AvcLoader  *loader = avc_broker_loader(broker, name);

	if (loader != NULL &&
		TimestampDifferenceExceeds(loader->since, GetCurrentTimestamp(),
								   LOADER_PATIENCE_MS))
	{
		avc_broker_forget_loader(broker, loader);
		loader = NULL;
	}
	return loader != NULL || avc_broker_has_load_in_flight(broker, name) ||
		has_load_queued(broker, name);
}

void
avc_broker_name_loader(AvcBroker *broker, const AvcBrokerRequest *request)
{
	AvcLoader  *loader = MemoryContextAlloc(broker->context,
											sizeof(AvcLoader));

	loader->client = request->client;
	strlcpy(loader->weights, request->weights, sizeof(loader->weights));
	loader->since = GetCurrentTimestamp();
	broker->loaders = lappend(broker->loaders, loader);
}
