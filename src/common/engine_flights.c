/*
 * common/engine_flights.c
 *		The shared engine as its worker drives it: batches, answers, loss.
 *
 * Frames of one size for one network go together, up to eight, whoever asked,
 * and so do images or texts to be embedded, up to 32: what waits while the
 * engine computes is the next batch.  The size of a batch is a power of two,
 * so that the engine plans few shapes.  If the engine is lost, the batch it
 * worked on has failed; whoever waits behind it goes to the next engine and
 * does not notice more than the delay.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "utils/memutils.h"

#include "common/engine_broker.h"
#include "common/engine_process.h"
#include "common/server_jansson.h"
#include "common/settings.h"

#define STALL_MS			5000	/* at work and not one tick of the clock */
#define ABANDONED_STALL_MS	1000	/* the same when nobody waits any more */

/* ---- loss ------------------------------------------------------------ */

static void
leave_queue(AvcBroker *broker, AvcBrokerRequest *request)
{
	dlist_delete(&request->node);
	broker->queued_bytes -= request->frame->blob_len;
}

static void
put_back(AvcBroker *broker, AvcBrokerRequest *request)
{
	dlist_push_head(&broker->queue, &request->node);
	broker->queued_bytes += request->frame->blob_len;
}

static void
refuse_not_loaded(AvcBroker *broker, AvcBrokerRequest *request)
{
	avc_broker_refuse(broker, request, "not_loaded", "weights are not loaded",
					  NULL);
}

/*
 * The engine is gone: what it worked on has failed, and what is behind it
 * waits for the next engine.
 */
static void
drop_flights(AvcBroker *broker, const ErrorData *why)
{
	int			i;
	int			j;

	for (i = broker->flight_count - 1; i >= 0; i--)
	{
		AvcFlight  *flight = &broker->flights[i];

		for (j = flight->count - 1; j >= 0; j--)
		{
			if (i == 0)
				avc_broker_refuse(broker, flight->requests[j], "lost",
								  why->message, why->hint);
			else
				put_back(broker, flight->requests[j]);
		}
	}
	broker->flight_count = 0;
}

static void
end_engine(AvcBroker *broker)
{
	if (broker->engine != NULL)
		avc_engine_stop(broker->engine);
	broker->engine = NULL;
	list_free_deep(broker->weights);
	broker->weights = NIL;
	broker->is_stale = false;
}

/* In a PG_CATCH of an error that the engine's client raised. */
static void
engine_lost(AvcBroker *broker)
{
	ErrorData  *why;

	MemoryContextSwitchTo(broker->context);
	why = CopyErrorData();
	FlushErrorState();
	ereport(LOG,
			(errmsg("shared engine is lost: %s", why->message),
			 why->detail ? errdetail_internal("%s", why->detail) : 0));
	drop_flights(broker, why);
	end_engine(broker);
	FreeErrorData(why);
}

/* ---- answers --------------------------------------------------------- */

/* A reply while it is shared out. */
typedef struct Reply
{
	const AvcFrame *frame;
	json_t	   *frames;			/* what it says of each frame; NULL: of texts */
	size_t		unit;			/* bytes of a detection or an embedding */
	size_t		offset;			/* in the blob, of what is not given out yet */
} Reply;

/* Read a reply's head.  Returns what is wrong with it, or NULL. */
static const char *
open_reply(Reply *reply, const AvcFlight *flight, const AvcFrame *frame,
		   json_t *json)
{
	int			kind = flight->requests[0]->kind;
	json_int_t	dimensions = json_integer_value(json_object_get(json, "dimensions"));
	json_int_t	texts = json_integer_value(json_object_get(json, "texts"));

	reply->frame = frame;
	reply->frames = json_object_get(json, "frames");
	reply->unit = ENG_PROTOCOL_DETECTION;
	reply->offset = 0;
	if (kind != ENG_KIND_DETECT)
	{
		if (dimensions <= 0 || dimensions > 65536)
			return "its embeddings have no size that can be";
		reply->unit = dimensions * sizeof(float4);
	}
	if (kind == ENG_KIND_EMBED_TEXTS ? texts != flight->count :
		json_array_size(reply->frames) != flight->count)
		return "it answers another number of frames";
	return NULL;
}

/* What the reply says of one frame or text goes to who asked for it. */
static const char *
answer_frame(AvcBroker *broker, AvcBrokerRequest *request, json_t *said,
			 Reply *reply)
{
	json_t	   *count = json_object_get(said, "count");
	const char *code = json_string_value(json_object_get(said, "code"));
	const char *message = json_string_value(json_object_get(said, "message"));
	size_t		len = reply->unit;

	if (code != NULL && message != NULL)
	{
		avc_broker_refuse(broker, request, code, message, NULL);
		return NULL;
	}
	if (request->kind != ENG_KIND_EMBED_TEXTS)
	{
		if (!json_is_integer(count) || json_integer_value(count) < 0 ||
			json_integer_value(count) > reply->frame->blob_len / reply->unit)
			return "a count cannot be";
		len = json_integer_value(count) * reply->unit;
	}
	if (len > reply->frame->blob_len - reply->offset)
		return "numbers are missing";
	avc_broker_answer(broker, request, reply->frame->blob + reply->offset, len);
	reply->offset += len;
	return NULL;
}

/*
 * Give an answer to its requests, which become NULL one by one.  Returns what
 * is wrong with it, or NULL.
 */
static const char *
answer_frames(AvcBroker *broker, AvcFlight *flight, const AvcFrame *frame,
			  json_t *json)
{
	Reply		reply;
	const char *problem = open_reply(&reply, flight, frame, json);
	int			i;

	if (problem != NULL)
		return problem;
	for (i = 0; i < flight->count; i++)
	{
		problem = answer_frame(broker, flight->requests[i],
							   json_array_get(reply.frames, i), &reply);
		if (problem != NULL)
		{
			/* those before it have their answers */
			flight->count -= i;
			memmove(flight->requests, flight->requests + i,
					sizeof(flight->requests[0]) * flight->count);
			return problem;
		}
	}
	flight->count = 0;
	return reply.offset == frame->blob_len ? NULL : "it is too long";
}

/* The engine refused a message as a whole. */
static void
refuse_flight(AvcBroker *broker, AvcFlight *flight, json_t *json)
{
	const char *code = json_string_value(json_object_get(json, "code"));
	const char *message = json_string_value(json_object_get(json, "message"));
	bool		is_large;
	int			i;

	if (code == NULL)
		code = "internal";
	is_large = strcmp(code, "no_memory") == 0 && flight->count > 1;
	if (strcmp(code, "not_loaded") == 0)
		avc_broker_forget_weights(broker, flight->requests[0]->weights);
	for (i = flight->count - 1; i >= 0; i--)
	{
		AvcBrokerRequest *request = flight->requests[i];

		if (is_large)
		{
			request->is_alone = true;
			put_back(broker, request);
		}
		else
			avc_broker_refuse(broker, request, code,
							  message ? message : "engine failed without a message",
							  NULL);
	}
}

/* Why networks are not on a GPU although one is to be seen. */
static void
log_device_note(json_t *loaded)
{
	const char *note = json_string_value(json_object_get(loaded,
														 "device_note"));

	if (note != NULL)
		ereport(LOG,
				(errmsg("avcurate runs a network on the CPU: %s", note)));
}

/* The answer to the oldest message has come. */
static void
take_answer(AvcBroker *broker, AvcFrame *frame)
{
	AvcFlight  *flight = &broker->flights[0];
	json_t	   *json = json_loadb(frame->json, frame->json_len, 0, NULL);
	const char *problem = NULL;

	broker->last_moved = GetCurrentTimestamp();
	broker->busy_s += json_number_value(json_object_get(json, "busy_s"));
	if (json_is_true(json_object_get(json, "fatal")))
		problem = "it said that its session is over";
	else if (frame->kind == ENG_KIND_ERROR)
		refuse_flight(broker, flight, json);
	else if (flight->requests[0]->kind == ENG_KIND_LOAD)
	{
		log_device_note(json);
		avc_broker_remember_weights(broker, flight->requests[0]->weights);
		avc_broker_answer(broker, flight->requests[0], NULL, 0);
	}
	else
		problem = answer_frames(broker, flight, frame, json);
	json_decref(json);
	MemoryContextDelete(frame->context);
	if (problem != NULL)
		avc_engine_give_up(broker->engine,
						   psprintf("engine sent garbage: %s", problem));
	broker->flight_count--;
	memmove(&broker->flights[0], &broker->flights[1],
			sizeof(AvcFlight) * broker->flight_count);
}

/* ---- batches --------------------------------------------------------- */

static void
take_from_queue(AvcBroker *broker, AvcBrokerRequest *request,
				AvcFlight *flight)
{
	leave_queue(broker, request);
	flight->requests[flight->count++] = request;
}

static bool
go_together(const AvcBrokerRequest *a, const AvcBrokerRequest *b)
{
	return a->kind == b->kind && !a->is_alone && !b->is_alone &&
		a->width == b->width && a->height == b->height &&
		strcmp(a->weights, b->weights) == 0;
}

/* A request of the queue and, if it is no LOAD, its like. */
static void
gather(AvcBroker *broker, AvcBrokerRequest *first, AvcFlight *flight)
{
	dlist_mutable_iter iter;
	int			most = first->kind == ENG_KIND_DETECT ? AVC_BROKER_DETECT :
	AVC_BROKER_BATCH;
	int			like = 0;
	int			wanted = 1;

	flight->count = 0;
	if (first->kind != ENG_KIND_LOAD)
	{
		dlist_foreach_modify(iter, &broker->queue)
			like += go_together(first, dlist_container(AvcBrokerRequest, node,
													   iter.cur));
		while (wanted * 2 <= Min(like, most))
			wanted *= 2;
	}
	take_from_queue(broker, first, flight);
	dlist_foreach_modify(iter, &broker->queue)
	{
		AvcBrokerRequest *other = dlist_container(AvcBrokerRequest, node,
												  iter.cur);

		if (flight->count < wanted && go_together(first, other))
			take_from_queue(broker, other, flight);
	}
}

/* What the engine is to do with the blobs of a flight. */
static char *
ask_json(const AvcFlight *flight)
{
	bool		is_text = flight->requests[0]->kind == ENG_KIND_EMBED_TEXTS;
	StringInfoData json;
	int			i;

	initStringInfo(&json);
	appendStringInfo(&json, "{\"weights\": \"%s\", \"%s\": [",
					 flight->requests[0]->weights,
					 is_text ? "lengths" : "frames");
	for (i = 0; i < flight->count; i++)
	{
		size_t		len = flight->requests[i]->frame->blob_len;

		if (i > 0)
			appendStringInfoString(&json, ", ");
		if (is_text)
			appendStringInfo(&json, "%zu", len / sizeof(int32));
		else
			appendStringInfo(&json, "{\"frame_id\": %d, \"bytes\": %zu}", i,
							 len);
	}
	appendStringInfoString(&json, "]}");
	return json.data;
}

/* What the backend said of the network, and what the server settles. */
static char *
load_json(const AvcBroker *broker, const AvcBrokerRequest *request)
{
	json_t	   *json = json_loadb(request->frame->json,
								  request->frame->json_len, 0, NULL);
	char	   *text;
	char	   *copy;

	json_object_del(json, "id");
	json_object_set_new(json, "mode", json_string("infer"));
	json_object_set_new(json, "device", json_string(broker->device));
	json_object_set_new(json, "threads", json_integer(avc_threads));
	json_object_set_new(json, "memory_limit", json_integer(avc_engine_memory_bytes()));
	json_object_set_new(json, "device_memory_limit",
						json_integer(avc_engine_device_memory_bytes()));
	text = json_dumps(json, JSON_COMPACT);
	json_decref(json);
	if (text == NULL)
		elog(ERROR, "could not write a request");
	copy = pstrdup(text);
	free(text);
	return copy;
}

static void
send_flight(AvcBroker *broker, AvcBrokerRequest *first)
{
	AvcFlight  *flight = &broker->flights[broker->flight_count];
	AvcBlobPart parts[AVC_BROKER_BATCH];
	AvcMessage	message = {0, NULL, parts, 0};
	char	   *json;
	int			i;

	gather(broker, first, flight);
	message.kind = flight->requests[0]->kind;
	message.part_count = flight->count;
	for (i = 0; i < flight->count; i++)
	{
		parts[i].data = flight->requests[i]->frame->blob;
		parts[i].len = flight->requests[i]->frame->blob_len;
	}
	json = message.kind == ENG_KIND_LOAD ?
		load_json(broker, flight->requests[0]) : ask_json(flight);
	message.json = json;
	if (broker->flight_count++ == 0)
		broker->last_moved = GetCurrentTimestamp();
	avc_engine_post(broker->engine, &message);
	pfree(json);
	broker->batches++;
}

/* What becomes of a request of the queue now. */
typedef enum Turn
{
	TURN_OVER,					/* it is answered */
	TURN_LATER,					/* it waits for weights */
	TURN_NOW					/* the engine can have it */
} Turn;

static Turn
take_turn_of_load(AvcBroker *broker, AvcBrokerRequest *request)
{
	AvcLoader  *loader = avc_broker_loader(broker, request->weights);

	if (avc_broker_has_weights(broker, request->weights))
	{
		leave_queue(broker, request);
		avc_broker_answer(broker, request, NULL, 0);
		return TURN_OVER;
	}
	if (avc_broker_has_load_in_flight(broker, request->weights))
		return TURN_LATER;
	if (loader != NULL)
		avc_broker_forget_loader(broker, loader);
	return TURN_NOW;
}

static Turn
take_turn_of_question(AvcBroker *broker, AvcBrokerRequest *request)
{
	AvcLoader  *loader = avc_broker_loader(broker, request->weights);

	if (avc_broker_has_weights(broker, request->weights))
		return TURN_NOW;
	/* who is to load them must not wait for himself */
	if (!request->is_ahead &&
		(loader == NULL || loader->client != request->client))
	{
		if (avc_broker_is_loading(broker, request->weights))
			return TURN_LATER;
		avc_broker_name_loader(broker, request);
	}
	leave_queue(broker, request);
	refuse_not_loaded(broker, request);
	return TURN_OVER;
}

/* The oldest request that the engine can have; NULL if there is none. */
static AvcBrokerRequest *
next_request(AvcBroker *broker)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &broker->queue)
	{
		AvcBrokerRequest *request = dlist_container(AvcBrokerRequest, node,
													iter.cur);
		Turn		turn = TURN_OVER;

		if (request->client == NULL)
		{
			/* put back for nobody */
			leave_queue(broker, request);
			refuse_not_loaded(broker, request);
		}
		else if (request->kind == ENG_KIND_LOAD)
			turn = take_turn_of_load(broker, request);
		else
			turn = take_turn_of_question(broker, request);
		if (turn == TURN_NOW)
			return request;
	}
	return NULL;
}

/* Start an engine for a LOAD.  If it cannot be started, that is the answer. */
static void
start_engine(AvcBroker *broker, AvcBrokerRequest *load)
{
	PG_TRY();
	{
		broker->engine = avc_engine_start();
	}
	PG_CATCH();
	{
		ErrorData  *why;

		MemoryContextSwitchTo(broker->context);
		why = CopyErrorData();
		FlushErrorState();
		ereport(LOG,
				(errmsg("shared engine cannot be started: %s", why->message)));
		/* one that started and then fell silent is still there */
		avc_engine_stop_all();
		leave_queue(broker, load);
		avc_broker_refuse(broker, load, "unstarted", why->message, why->hint);
		FreeErrorData(why);
	}
	PG_END_TRY();
}

void
avc_flights_move(AvcBroker *broker)
{
	AvcBrokerRequest *request;
	AvcFrame   *frame;

	PG_TRY();
	{
		while (broker->engine != NULL &&
			   (frame = avc_engine_poll(broker->engine)) != NULL)
			take_answer(broker, frame);
		while (broker->flight_count < AVC_BROKER_FLIGHTS &&
			   !broker->is_stale &&
			   (request = next_request(broker)) != NULL)
		{
			if (broker->engine == NULL)
				start_engine(broker, request);
			else
				send_flight(broker, request);
		}
	}
	PG_CATCH();
	{
		engine_lost(broker);
	}
	PG_END_TRY();
}

/* ---- watching -------------------------------------------------------- */

static bool
is_abandoned(const AvcFlight *flight)
{
	int			i;

	for (i = 0; i < flight->count; i++)
		if (flight->requests[i]->client != NULL)
			return false;
	return true;
}

static void
check_movement(AvcBroker *broker)
{
	TimestampTz now = GetCurrentTimestamp();
	uint64		ticks = avc_process_ticks(avc_engine_pid(broker->engine));
	bool		is_over = is_abandoned(&broker->flights[0]);

	if (ticks != broker->cpu_ticks)
	{
		broker->cpu_ticks = ticks;
		broker->last_moved = now;
	}
	else if (TimestampDifferenceExceeds(broker->last_moved, now,
										is_over ? ABANDONED_STALL_MS : STALL_MS))
		avc_engine_give_up(broker->engine,
						   psprintf("engine was ended because it did nothing for %d seconds",
									(is_over ? ABANDONED_STALL_MS : STALL_MS) / 1000));
}

void
avc_flights_watch(AvcBroker *broker)
{
	if (broker->engine == NULL)
	{
		broker->is_stale = false;
		return;
	}
	if (broker->flight_count == 0)
	{
		if (broker->is_stale)
			end_engine(broker);
		return;
	}
	PG_TRY();
	{
		check_movement(broker);
	}
	PG_CATCH();
	{
		engine_lost(broker);
	}
	PG_END_TRY();
}
