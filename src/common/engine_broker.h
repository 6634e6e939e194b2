/*
 * common/engine_broker.h
 *		What the two files of the shared engine's worker have in common.
 *
 * engine_broker.c speaks with the backends and puts what they ask into a
 * queue; engine_flights.c makes batches of it for the engine, which it starts,
 * watches and ends.
 */
#ifndef AVC_COMMON_ENGINE_BROKER_H
#define AVC_COMMON_ENGINE_BROKER_H

#include "lib/ilist.h"
#include "utils/timestamp.h"

#include "common/engine_client.h"
#include "common/engine_service.h"

#define AVC_BROKER_BATCH	8	/* frames sent to the engine together */
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

/* A LOAD or DETECT; lives in its frame's context. */
typedef struct AvcBrokerRequest
{
	dlist_node	node;			/* while it is in the queue */
	AvcBrokerClient *client;	/* NULL: gone, nobody waits for it */
	AvcFrame   *frame;
	int64		id;				/* the client's */
	int			kind;
	char		weights[ENG_PROTOCOL_MAX_WEIGHTS + 1];
	int			width;			/* pixels, of a DETECT */
	int			height;
	bool		is_alone;		/* a batch with others was too large */
} AvcBrokerRequest;

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
	bool		is_stale;		/* settings changed since it was started */
	AvcFlight	flights[AVC_BROKER_FLIGHTS];	/* oldest first */
	int			flight_count;
	uint64		cpu_ticks;		/* that the engine had used at last_moved */
	TimestampTz last_moved;
	int64		requests;		/* answered, for STATUS */
	int64		batches;
} AvcBroker;

/* ---- engine_broker.c ---- */

/* Answer a request with OK or ERROR and forget it. */
extern void avc_broker_answer(AvcBroker *broker, AvcBrokerRequest *request,
							  const void *blob, size_t blob_len);
extern void avc_broker_refuse(AvcBroker *broker, AvcBrokerRequest *request,
							  const char *code, const char *message,
							  const char *hint);

/* ---- engine_flights.c ---- */

/* Take what the engine has answered and send it what waits. */
extern void avc_flights_move(AvcBroker *broker);

/* End an engine that does not move, or whose settings are old. */
extern void avc_flights_watch(AvcBroker *broker);

#endif
