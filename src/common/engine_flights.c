/*
 * common/engine_flights.c
 *		The shared engine as its worker drives it: batches, answers, loss.
 *
 * Frames of one size for one network go together, up to eight, whoever asked:
 * what waits while the engine computes is the next batch.  A batch has 1, 2,
 * 4 or 8 frames, so that the engine plans few shapes.  If the engine is lost,
 * the batch it worked on has failed; whoever waits behind it is told to load
 * again and does not notice more than the delay.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "utils/memutils.h"

#include "common/engine_broker.h"
#include "common/server_jansson.h"
#include "common/settings.h"

#define STALL_MS			5000	/* at work and not one tick of the clock */
#define ABANDONED_STALL_MS	1000	/* the same when nobody waits any more */
#define MAX_WEIGHTS			64	/* names remembered; more than an engine has */

/* ---- names of weights ------------------------------------------------ */

static bool
has_weights(const AvcBroker *broker, const char *name)
{
	ListCell   *cell;

	foreach(cell, broker->weights)
		if (strcmp(lfirst(cell), name) == 0)
			return true;
	return false;
}

static void
remember_weights(AvcBroker *broker, const char *name)
{
	if (has_weights(broker, name))
		return;
	if (list_length(broker->weights) >= MAX_WEIGHTS)
	{
		pfree(linitial(broker->weights));
		broker->weights = list_delete_first(broker->weights);
	}
	broker->weights = lappend(broker->weights, pstrdup(name));
}

static void
forget_weights(AvcBroker *broker, const char *name)
{
	ListCell   *cell;

	foreach(cell, broker->weights)
		if (strcmp(lfirst(cell), name) == 0)
		{
			pfree(lfirst(cell));
			broker->weights = foreach_delete_current(broker->weights, cell);
		}
}

/* ---- loss ------------------------------------------------------------ */

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
 * The engine is gone: what it worked on has failed, a LOAD behind it waits
 * for the next engine, and a DETECT must wait for its weights.
 */
static void
drop_flights(AvcBroker *broker, const ErrorData *why)
{
	dlist_mutable_iter iter;
	int			i;
	int			j;

	for (i = broker->flight_count - 1; i >= 0; i--)
	{
		AvcFlight  *flight = &broker->flights[i];

		for (j = 0; j < flight->count; j++)
		{
			AvcBrokerRequest *request = flight->requests[j];

			if (i == 0)
				avc_broker_refuse(broker, request, "lost", why->message,
								  why->hint);
			else if (request->kind == ENG_KIND_LOAD)
				put_back(broker, request);
			else
				refuse_not_loaded(broker, request);
		}
	}
	broker->flight_count = 0;
	dlist_foreach_modify(iter, &broker->queue)
	{
		AvcBrokerRequest *request = dlist_container(AvcBrokerRequest, node,
													iter.cur);

		if (request->kind == ENG_KIND_LOAD)
			continue;
		dlist_delete(&request->node);
		broker->queued_bytes -= request->frame->blob_len;
		refuse_not_loaded(broker, request);
	}
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

/* Detections of one frame of the reply go to who asked for it. */
static const char *
answer_frame(AvcBroker *broker, AvcBrokerRequest *request, json_t *said,
			 const AvcFrame *frame, size_t *offset)
{
	json_t	   *count = json_object_get(said, "count");
	const char *code = json_string_value(json_object_get(said, "code"));
	const char *message = json_string_value(json_object_get(said, "message"));
	size_t		len;

	if (code != NULL && message != NULL)
	{
		avc_broker_refuse(broker, request, code, message, NULL);
		return NULL;
	}
	if (!json_is_integer(count) || json_integer_value(count) < 0 ||
		json_integer_value(count) > frame->blob_len / ENG_PROTOCOL_DETECTION)
		return "a count of detections cannot be";
	len = json_integer_value(count) * ENG_PROTOCOL_DETECTION;
	if (len > frame->blob_len - *offset)
		return "detections are missing";
	avc_broker_answer(broker, request, frame->blob + *offset, len);
	*offset += len;
	return NULL;
}

/*
 * Give a DETECT's answer to its requests, which become NULL one by one.
 * Returns what is wrong with it, or NULL.
 */
static const char *
answer_frames(AvcBroker *broker, AvcFlight *flight, const AvcFrame *frame,
			  json_t *json)
{
	json_t	   *frames = json_object_get(json, "frames");
	size_t		offset = 0;
	int			i;

	if (json_array_size(frames) != flight->count)
		return "it answers another number of frames";
	for (i = 0; i < flight->count; i++)
	{
		const char *problem = answer_frame(broker, flight->requests[i],
										   json_array_get(frames, i), frame,
										   &offset);

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
	return offset == frame->blob_len ? NULL : "it is too long";
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
		forget_weights(broker, flight->requests[0]->weights);
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

/* The answer to the oldest message has come. */
static void
take_answer(AvcBroker *broker, AvcFrame *frame)
{
	AvcFlight  *flight = &broker->flights[0];
	json_t	   *json = json_loadb(frame->json, frame->json_len, 0, NULL);
	const char *problem = NULL;

	broker->last_moved = GetCurrentTimestamp();
	if (json_is_true(json_object_get(json, "fatal")))
		problem = "it said that its session is over";
	else if (frame->kind == ENG_KIND_ERROR)
		refuse_flight(broker, flight, json);
	else if (flight->requests[0]->kind == ENG_KIND_LOAD)
	{
		remember_weights(broker, flight->requests[0]->weights);
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
	dlist_delete(&request->node);
	broker->queued_bytes -= request->frame->blob_len;
	flight->requests[flight->count++] = request;
}

static bool
go_together(const AvcBrokerRequest *a, const AvcBrokerRequest *b)
{
	return b->kind == ENG_KIND_DETECT && !a->is_alone && !b->is_alone &&
		a->width == b->width && a->height == b->height &&
		strcmp(a->weights, b->weights) == 0;
}

/* The oldest request of the queue and, if it is a DETECT, its like. */
static void
gather(AvcBroker *broker, AvcFlight *flight)
{
	AvcBrokerRequest *first = dlist_container(AvcBrokerRequest, node,
											  dlist_head_node(&broker->queue));
	dlist_mutable_iter iter;
	int			like = 0;
	int			wanted = 1;

	flight->count = 0;
	if (first->kind == ENG_KIND_DETECT)
	{
		dlist_foreach_modify(iter, &broker->queue)
			like += go_together(first, dlist_container(AvcBrokerRequest, node,
													   iter.cur));
		while (wanted * 2 <= Min(like, AVC_BROKER_BATCH))
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

static char *
detect_json(const AvcFlight *flight)
{
	StringInfoData json;
	int			i;

	initStringInfo(&json);
	appendStringInfo(&json, "{\"weights\": \"%s\", \"frames\": [",
					 flight->requests[0]->weights);
	for (i = 0; i < flight->count; i++)
		appendStringInfo(&json, "%s{\"frame_id\": %d, \"bytes\": %zu}",
						 i > 0 ? ", " : "", i,
						 flight->requests[i]->frame->blob_len);
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
	text = json_dumps(json, JSON_COMPACT);
	json_decref(json);
	if (text == NULL)
		elog(ERROR, "could not write a request");
	copy = pstrdup(text);
	free(text);
	return copy;
}

static void
send_flight(AvcBroker *broker)
{
	AvcFlight  *flight = &broker->flights[broker->flight_count];
	AvcBlobPart parts[AVC_BROKER_BATCH];
	AvcMessage	message = {0, NULL, parts, 0};
	char	   *json;
	int			i;

	gather(broker, flight);
	message.kind = flight->requests[0]->kind;
	message.part_count = flight->count;
	for (i = 0; i < flight->count; i++)
	{
		parts[i].data = flight->requests[i]->frame->blob;
		parts[i].len = flight->requests[i]->frame->blob_len;
	}
	json = message.kind == ENG_KIND_LOAD ?
		load_json(broker, flight->requests[0]) : detect_json(flight);
	message.json = json;
	if (broker->flight_count++ == 0)
		broker->last_moved = GetCurrentTimestamp();
	avc_engine_post(broker->engine, &message);
	pfree(json);
	broker->batches++;
}

/* Answer the oldest request if that takes no engine. */
static bool
answer_at_once(AvcBroker *broker)
{
	AvcBrokerRequest *first = dlist_container(AvcBrokerRequest, node,
											  dlist_head_node(&broker->queue));
	bool		is_load = first->kind == ENG_KIND_LOAD;

	if (has_weights(broker, first->weights) != is_load)
		return false;
	dlist_delete(&first->node);
	broker->queued_bytes -= first->frame->blob_len;
	if (is_load)
		avc_broker_answer(broker, first, NULL, 0);
	else
		refuse_not_loaded(broker, first);
	return true;
}

/*
 * Start an engine for the LOAD that is the oldest request.  If it cannot be
 * started, that is the answer.
 */
static void
start_engine(AvcBroker *broker)
{
	PG_TRY();
	{
		broker->engine = avc_engine_start();
	}
	PG_CATCH();
	{
		AvcBrokerRequest *first = dlist_container(AvcBrokerRequest, node,
												  dlist_pop_head_node(&broker->queue));
		ErrorData  *why;

		MemoryContextSwitchTo(broker->context);
		why = CopyErrorData();
		FlushErrorState();
		ereport(LOG,
				(errmsg("shared engine cannot be started: %s", why->message)));
		/* one that started and then fell silent is still there */
		avc_engine_stop_all();
		broker->queued_bytes -= first->frame->blob_len;
		avc_broker_refuse(broker, first, "unstarted", why->message, why->hint);
		FreeErrorData(why);
	}
	PG_END_TRY();
}

void
avc_flights_move(AvcBroker *broker)
{
	AvcFrame   *frame;

	PG_TRY();
	{
		while (broker->engine != NULL &&
			   (frame = avc_engine_poll(broker->engine)) != NULL)
			take_answer(broker, frame);
		while (broker->flight_count < AVC_BROKER_FLIGHTS &&
			   !dlist_is_empty(&broker->queue) && !broker->is_stale)
		{
			if (answer_at_once(broker))
				continue;
			if (broker->engine == NULL)
				start_engine(broker);
			else
				send_flight(broker);
		}
	}
	PG_CATCH();
	{
		engine_lost(broker);
	}
	PG_END_TRY();
}

/* ---- watching -------------------------------------------------------- */

/* Ticks of processor time that a process has used, 0 if it is gone. */
static uint64
read_ticks(pid_t pid)
{
	char		path[64];
	char		line[1024];
	char	   *end = NULL;
	unsigned long user = 0;
	unsigned long system = 0;
	FILE	   *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int) pid);
	file = fopen(path, "r");
	if (file == NULL)
		return 0;
	/* the name in brackets may hold anything */
	if (fgets(line, sizeof(line), file) != NULL)
		end = strrchr(line, ')');
	fclose(file);
	if (end == NULL ||
		sscanf(end + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
			   &user, &system) != 2)
		return 0;
	return (uint64) user + system;
}

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
	uint64		ticks = read_ticks(avc_engine_pid(broker->engine));
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
