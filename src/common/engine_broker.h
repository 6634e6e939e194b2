/*
 * common/engine_broker.h
 *		What the three files of the shared engine's worker have in common.
 *
 * engine_broker.c speaks with the backends and puts what they ask into a
 * queue; engine_weights.c knows who loads what; engine_flights.c makes batches
 * of the queue for the engine, which it starts, watches and ends.
 */
#ifndef AVC_COMMON_ENGINE_BROKER_H
#define AVC_COMMON_ENGINE_BROKER_H

#include "lib/ilist.h"
#include "utils/timestamp.h"

#include "common/engine_client.h"
#include "common/engine_service.h"

#define AVC_BROKER_BATCH	32	/* images or texts sent to be embedded together */
#define AVC_BROKER_DETECT	8	/* frames sent to be detected on together */
#define AVC_BROKER_FLIGHTS	2	/* one computes, one is decoded meanwhile */

/* A connection of a backend. */
typedef struct AvcBrokerClient
{
	dlist_node	node;
	MemoryContext context;
	AvcFrameStream stream;
	TimestampTz last_used;
	int			open_requests;
} AvcBrokerClient;

/* A LOAD, DETECT or EMBED_...; lives in its frame's context. */
typedef struct AvcBrokerRequest
{
	dlist_node	node;			/* while it is in the queue */
	AvcBrokerClient *client;	/* NULL: gone, nobody waits for it */
	AvcFrame   *frame;
	int64		id;				/* the client's */
	int			kind;
	char		weights[ENG_PROTOCOL_MAX_WEIGHTS + 1];
	int			width;			/* pixels, of a DETECT, else 0 */
	int			height;
	bool		is_alone;		/* a batch with others was too large */
	bool		is_ahead;		/* its client does not wait for it yet */
} AvcBrokerRequest;

/* Who was told to load a network that others wait for. */
typedef struct AvcLoader
{
	AvcBrokerClient *client;
	char		weights[ENG_PROTOCOL_MAX_WEIGHTS + 1];
	TimestampTz since;
} AvcLoader;

/* One message that the engine has not answered yet. */
typedef struct AvcFlight
{
	AvcBrokerRequest *requests[AVC_BROKER_BATCH];
	int			count;
} AvcFlight;

typedef struct AvcBroker
{
	MemoryContext context;
	char		device[AVC_SERVICE_DEVICE];
	int			listener;
	dlist_head	clients;
	int			client_count;
	dlist_head	queue;			/* AvcBrokerRequest, oldest first */
	size_t		queued_bytes;
	TimestampTz last_request;
	AvcEngine  *engine;			/* NULL: none runs */
	List	   *weights;		/* char *: names that it has loaded */
	List	   *loaders;		/* AvcLoader *, one a name */
	bool		is_stale;		/* settings changed since it was started */
	AvcFlight	flights[AVC_BROKER_FLIGHTS];	/* oldest first */
	int			flight_count;
	uint64		cpu_ticks;		/* that the engine had used at last_moved */
	TimestampTz last_moved;
	int64		requests;		/* answered, for STATUS */
	int64		batches;
	double		busy_s;			/* that engines have worked on them, seconds */
} AvcBroker;

/* ---- engine_broker.c ---- */

/* Answer a request with OK or ERROR and forget it. */
extern void avc_broker_answer(AvcBroker *broker, AvcBrokerRequest *request,
							  const void *blob, size_t blob_len);
extern void avc_broker_refuse(AvcBroker *broker, AvcBrokerRequest *request,
							  const char *code, const char *message,
							  const char *hint);

/* ---- engine_weights.c ---- */

/* Does the engine have these weights?  What it said of them. */
extern bool avc_broker_has_weights(const AvcBroker *broker, const char *name);
extern void avc_broker_remember_weights(AvcBroker *broker, const char *name);
extern void avc_broker_forget_weights(AvcBroker *broker, const char *name);

/* Who was told to load them, or NULL. */
extern AvcLoader *avc_broker_loader(const AvcBroker *broker, const char *name);

/* The sender of this request is told to load what it wants. */
extern void avc_broker_name_loader(AvcBroker *broker,
								   const AvcBrokerRequest *request);
extern void avc_broker_forget_loader(AvcBroker *broker, AvcLoader *loader);

/* Is the client one who was told to load? */
extern bool avc_broker_awaits(const AvcBroker *broker,
							  const AvcBrokerClient *client);

/* The client is gone. */
extern void avc_broker_forget_client(AvcBroker *broker,
									 const AvcBrokerClient *client);

/* Has the engine been sent a LOAD of these weights that it did not answer? */
extern bool avc_broker_has_load_in_flight(const AvcBroker *broker,
										  const char *name);

/* Will a LOAD of these weights come, or is one there? */
extern bool avc_broker_is_loading(AvcBroker *broker, const char *name);

/* ---- engine_flights.c ---- */

/* Take what the engine has answered and send it what waits. */
extern void avc_flights_move(AvcBroker *broker);

/* End an engine that does not move, or whose settings are old. */
extern void avc_flights_watch(AvcBroker *broker);

#endif
