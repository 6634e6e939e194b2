/*
 * common/engine_broker.c
 *		The background worker that owns the shared engine of a device.
 *
 * It is connected to no database and holds no snapshot: whoever asks has
 * checked the right to do so and sends the weights itself.  There is one a
 * device, which holds an flock on the device's owner file as long as it lives;
 * the kernel gives that back whatever it dies of.  The engine is its child
 * and dies with it.
 *
 * One loop serves everybody: sockets never block, and a wait ends with the
 * first thing that can be done.
 */
#include "postgres.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "common/engine_broker.h"
#include "common/server_jansson.h"
#include "common/settings.h"
#include "common/worker.h"

#define MANY_CLIENTS		400 /* connections; then the idlest makes room */
#define MAX_CLIENTS			900 /* then no more are taken */
#define MAX_QUEUED			((size_t) 256 << 20)	/* bytes, then read no more */
#define MAX_JSON			((uint32_t) 1 << 20)
#define MAX_JPEG			((uint64_t) 1 << 30)
#define BACKLOG				128
#define WATCH_MS			200 /* between looks at an engine at work */
#define OWNER_PATIENCE_MS	5000	/* with a worker that is on its way out */
#define EVENTS				64

extern PGDLLEXPORT void avc_engine_broker_main(Datum arg);

static char socket_path[MAXPGPATH];

/* ---- one owner, one socket ------------------------------------------- */

/*
 * Lock the owner file; false if another worker owns the device and stays.
 * The descriptor is kept until this process ends.
 */
static bool
become_owner(const char *device)
{
	int			fd = open(avc_service_path(device, "owner"),
						  O_RDWR | O_CREAT | O_CLOEXEC, S_IRUSR | S_IWUSR);
	int			waited;

	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m",
						avc_service_path(device, "owner"))));
	for (waited = 0; flock(fd, LOCK_EX | LOCK_NB) != 0; waited += 20)
	{
		if (waited >= OWNER_PATIENCE_MS)
			return false;
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 20, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	return true;
}

static void
remove_socket(int code, Datum arg)
{
	(void) unlink(socket_path);
}

static int
start_listening(const char *device)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int			fd = socket(AF_UNIX,
							SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	strlcpy(socket_path, avc_service_path(device, "sock"),
			sizeof(socket_path));
	strlcpy(address.sun_path, socket_path, sizeof(address.sun_path));
	/* left by a worker that was killed; its owner lock is ours now */
	(void) unlink(socket_path);
	before_shmem_exit(remove_socket, (Datum) 0);
	if (fd < 0 || bind(fd, (struct sockaddr *) &address,
					   sizeof(address)) < 0 ||
		chmod(socket_path, S_IRUSR | S_IWUSR) < 0 ||
		listen(fd, BACKLOG) < 0)
		ereport(ERROR,
				(errcode_for_socket_access(),
				 errmsg("could not listen on \"%s\": %m", socket_path)));
	return fd;
}

/* ---- clients --------------------------------------------------------- */

static const char *
check_header(void *owner, const EngFrameHeader *header)
{
	if (header->json_length > MAX_JSON)
		return "request is too long";
	switch (header->kind)
	{
		case ENG_KIND_LOAD:
			return NULL;
		case ENG_KIND_DETECT:
		case ENG_KIND_EMBED_IMAGES:
			return header->blob_length <= MAX_JPEG ? NULL : "image is too long";
		case ENG_KIND_EMBED_TEXTS:
			return header->blob_length <= AVC_SERVICE_TEXT ? NULL :
				"text is too long";
		case AVC_KIND_STATUS:
			return header->blob_length == 0 ? NULL : "request is too long";
		default:
			return "request is of an unknown kind";
	}
}

static void
send_frame(AvcBrokerClient *client, uint16 kind, const char *json,
		   const void *blob, size_t blob_len)
{
	AvcBlobPart part = {blob, blob_len};
	AvcMessage	message = {kind, json, &part, blob_len > 0 ? 1 : 0};

	avc_stream_put(&client->stream, &message);
	(void) avc_stream_write(&client->stream);
}

/* Take a connection away from the worker; its requests lose their sender. */
static void
drop_client(AvcBroker *broker, AvcBrokerClient *client)
{
	dlist_mutable_iter iter;
	int			i;
	int			j;

	dlist_foreach_modify(iter, &broker->queue)
	{
		AvcBrokerRequest *request = dlist_container(AvcBrokerRequest, node,
													iter.cur);

		if (request->client != client)
			continue;
		dlist_delete(&request->node);
		broker->queued_bytes -= request->frame->blob_len;
		MemoryContextDelete(request->frame->context);
	}
	for (i = 0; i < broker->flight_count; i++)
		for (j = 0; j < broker->flights[i].count; j++)
			if (broker->flights[i].requests[j]->client == client)
				broker->flights[i].requests[j]->client = NULL;
	avc_broker_forget_client(broker, client);
	dlist_delete(&client->node);
	broker->client_count--;
	avc_stream_close(&client->stream);
	MemoryContextDelete(client->context);
}

/* Make room for one more: the connection that was silent longest goes. */
static void
drop_idlest(AvcBroker *broker)
{
	AvcBrokerClient *idlest = NULL;
	dlist_iter	iter;

	dlist_foreach(iter, &broker->clients)
	{
		AvcBrokerClient *client = dlist_container(AvcBrokerClient, node,
												  iter.cur);

		if (client->open_requests == 0 &&
			(idlest == NULL || client->last_used < idlest->last_used))
			idlest = client;
	}
	if (idlest == NULL)
		return;
	send_frame(idlest, ENG_KIND_BYE, "{}", NULL, 0);
	drop_client(broker, idlest);
}

static void
accept_clients(AvcBroker *broker)
{
	for (;;)
	{
		AvcBrokerClient *client;
		MemoryContext context;
		int			fd;

		if (broker->client_count >= MANY_CLIENTS)
			drop_idlest(broker);
		if (broker->client_count >= MAX_CLIENTS)
			return;
		fd = accept4(broker->listener, NULL, NULL,
					 SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0)
			return;
		context = AllocSetContextCreate(broker->context, "avcurate client",
										ALLOCSET_SMALL_SIZES);
		client = MemoryContextAllocZero(context, sizeof(AvcBrokerClient));
		client->context = context;
		client->last_used = GetCurrentTimestamp();
		avc_stream_init(&client->stream, context, fd, check_header, client);
		client->stream.copies_parts = true;
		dlist_push_tail(&broker->clients, &client->node);
		broker->client_count++;
		send_frame(client, ENG_KIND_OK, "{\"id\": 0}", NULL, 0);
	}
}

/* ---- requests -------------------------------------------------------- */

static void
forget_request(AvcBroker *broker, AvcBrokerRequest *request)
{
	broker->last_request = GetCurrentTimestamp();
	if (request->client != NULL)
	{
		request->client->open_requests--;
		request->client->last_used = broker->last_request;
	}
	broker->requests++;
	MemoryContextDelete(request->frame->context);
}

void
avc_broker_answer(AvcBroker *broker, AvcBrokerRequest *request,
				  const void *blob, size_t blob_len)
{
	char		json[64];

	snprintf(json, sizeof(json), "{\"id\": " INT64_FORMAT "}", request->id);
	if (request->client != NULL)
		send_frame(request->client, ENG_KIND_OK, json, blob, blob_len);
	forget_request(broker, request);
}

void
avc_broker_refuse(AvcBroker *broker, AvcBrokerRequest *request,
				  const char *code, const char *message, const char *hint)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfo(&json, "{\"id\": " INT64_FORMAT ", \"code\": ",
					 request->id);
	escape_json(&json, code);
	appendStringInfoString(&json, ", \"message\": ");
	escape_json(&json, message);
	if (hint != NULL)
	{
		appendStringInfoString(&json, ", \"hint\": ");
		escape_json(&json, hint);
	}
	appendStringInfoChar(&json, '}');
	if (request->client != NULL)
		send_frame(request->client, ENG_KIND_ERROR, json.data, NULL, 0);
	pfree(json.data);
	forget_request(broker, request);
}

static void
answer_status(AvcBroker *broker, AvcBrokerClient *client, int64 id)
{
	char	   *json = psprintf("{\"id\": " INT64_FORMAT
								", \"worker_pid\": %d, \"engine_pid\": %d"
								", \"connections\": %d, \"networks\": %d"
								", \"requests\": " INT64_FORMAT
								", \"batches\": " INT64_FORMAT
								", \"busy_s\": %.3f}",
								id, MyProcPid,
								broker->engine ? (int) avc_engine_pid(broker->engine) : 0,
								broker->client_count,
								list_length(broker->weights),
								broker->requests, broker->batches, broker->busy_s);

	send_frame(client, ENG_KIND_OK, json, NULL, 0);
	pfree(json);
}

/* A side of an image as the client tells it. */
static int
read_side(json_t *json, const char *key)
{
	json_int_t	value = json_integer_value(json_object_get(json, key));

	return value > 0 && value <= 65535 ? (int) value : 0;
}

/* Read what a frame asks for; false if it makes no sense. */
static bool
read_request(AvcBrokerRequest *request, json_t *json)
{
	const char *weights = json_string_value(json_object_get(json, "weights"));
	json_t	   *id = json_object_get(json, "id");

	if (!json_is_integer(id))
		return false;
	request->id = json_integer_value(id);
	if (request->kind == AVC_KIND_STATUS)
		return true;
	/* it goes into the engine's JSON as it is */
	if (weights == NULL || weights[0] == '\0' ||
		strlen(weights) > ENG_PROTOCOL_MAX_WEIGHTS ||
		strspn(weights, "0123456789abcdef") != strlen(weights))
		return false;
	strlcpy(request->weights, weights, sizeof(request->weights));
	if (request->frame->blob_len == 0)
		return false;
	request->width = read_side(json, "width");
	request->height = read_side(json, "height");
	request->is_ahead = json_is_true(json_object_get(json, "ahead"));
	if (request->kind == ENG_KIND_EMBED_TEXTS)
		return request->frame->blob_len % sizeof(int32) == 0;
	return request->kind != ENG_KIND_DETECT ||
		(request->width > 0 && request->height > 0);
}

/* A frame of a client has come; false if it is garbage. */
static bool
take_frame(AvcBroker *broker, AvcBrokerClient *client, AvcFrame *frame)
{
	AvcBrokerRequest *request = MemoryContextAllocZero(frame->context,
													   sizeof(AvcBrokerRequest));
	json_t	   *json = json_loadb(frame->json, frame->json_len, 0, NULL);
	bool		is_good;

	request->client = client;
	request->frame = frame;
	request->kind = frame->kind;
	is_good = read_request(request, json);
	json_decref(json);
	if (is_good && request->kind == AVC_KIND_STATUS)
		answer_status(broker, client, request->id);
	if (!is_good || request->kind == AVC_KIND_STATUS)
	{
		MemoryContextDelete(frame->context);
		return is_good;
	}
	/* it may outlive the connection */
	MemoryContextSetParent(frame->context, broker->context);
	broker->last_request = client->last_used = GetCurrentTimestamp();
	client->open_requests++;
	broker->queued_bytes += frame->blob_len;
	dlist_push_tail(&broker->queue, &request->node);
	return true;
}

static void
serve_client(AvcBroker *broker, AvcBrokerClient *client)
{
	bool		is_good = true;
	AvcFrame   *frame;

	(void) avc_stream_write(&client->stream);
	avc_stream_read(&client->stream);
	while (is_good && (frame = avc_stream_next(&client->stream)) != NULL)
		is_good = take_frame(broker, client, frame);
	if (client->stream.problem != NULL || !is_good)
		ereport(LOG,
				(errmsg("shared engine was sent garbage: %s",
						is_good ? client->stream.problem :
						"request is malformed")));
	if (client->stream.at_eof || !is_good)
		drop_client(broker, client);
}

/* ---- the loop -------------------------------------------------------- */

static bool
is_idle(AvcBroker *broker)
{
	return broker->flight_count == 0 && dlist_is_empty(&broker->queue);
}

/* Milliseconds until something is to be done without an event. */
static long
time_to_sleep(AvcBroker *broker)
{
	TimestampTz leave_at;

	if (!is_idle(broker))
		return WATCH_MS;
	leave_at = TimestampTzPlusMilliseconds(broker->last_request,
										   avc_engine_idle_timeout * INT64CONST(1000));
	return TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
										   leave_at) + 1;
}

static void
add_client_events(AvcBroker *broker, WaitEventSet *set)
{
	bool		is_full = broker->queued_bytes > MAX_QUEUED &&
	!is_idle(broker);
	dlist_iter	iter;

	dlist_foreach(iter, &broker->clients)
	{
		AvcBrokerClient *client = dlist_container(AvcBrokerClient, node,
												  iter.cur);
		int			events = is_full && !avc_broker_awaits(broker, client) ?
			0 : WL_SOCKET_READABLE;

		if (client->stream.outgoing_count > 0)
			events |= WL_SOCKET_WRITEABLE;
		if (events != 0)
			AddWaitEventToSet(set, events, client->stream.socket, NULL,
							  client);
	}
}

/* Sleep until something happens and see to it. */
static void
wait_and_serve(AvcBroker *broker)
{
	WaitEventSet *set = CreateWaitEventSet(broker->context,
										   broker->client_count + 5);
	WaitEvent	events[EVENTS];
	bool		is_wanted = false;
	int			count;
	int			i;

	AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	if (broker->client_count < MAX_CLIENTS)
		AddWaitEventToSet(set, WL_SOCKET_READABLE, broker->listener, NULL,
						  broker);
	if (broker->engine != NULL)
		avc_engine_add_events(broker->engine, set);
	add_client_events(broker, set);
	count = WaitEventSetWait(set, time_to_sleep(broker), events, EVENTS,
							 PG_WAIT_EXTENSION);
	FreeWaitEventSet(set);
	ResetLatch(MyLatch);
	for (i = 0; i < count; i++)
	{
		if (events[i].user_data == broker)
			is_wanted = true;
		else if (events[i].user_data != NULL)
			serve_client(broker, events[i].user_data);
	}
	/* this may drop a connection, so not while one of them has an event */
	if (is_wanted)
		accept_clients(broker);
}

/* Take changed settings over; some concern the engine that runs. */
static void
reload(AvcBroker *broker)
{
	int			threads = avc_threads;
	int64		limit = avc_engine_memory_bytes();
	char	   *path = pstrdup(avc_engine_path);

	avc_worker_reload();
	if (threads != avc_threads || limit != avc_engine_memory_bytes() ||
		strcmp(path, avc_engine_path) != 0)
		broker->is_stale = true;
	pfree(path);
}

static bool
is_time_to_leave(AvcBroker *broker)
{
	return is_idle(broker) &&
		TimestampDifferenceExceeds(broker->last_request, GetCurrentTimestamp(),
								   avc_engine_idle_timeout * 1000);
}

/*
 * Nobody has asked for a while.  Who connects from now on finds no socket,
 * and who was about to is told to try again by the end of the connection.
 */
static void
leave(AvcBroker *broker)
{
	(void) unlink(socket_path);
	close(broker->listener);
	while (!dlist_is_empty(&broker->clients))
	{
		AvcBrokerClient *client = dlist_container(AvcBrokerClient, node,
												  dlist_head_node(&broker->clients));

		send_frame(client, ENG_KIND_BYE, "{}", NULL, 0);
		drop_client(broker, client);
	}
	if (broker->engine != NULL)
		avc_engine_stop(broker->engine);
}

void
avc_engine_broker_main(Datum arg)
{
	AvcBroker  *broker;

	pqsignal(SIGTERM, die);
	pqsignal(SIGINT, SIG_IGN);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);

	broker = MemoryContextAllocZero(TopMemoryContext, sizeof(AvcBroker));
	broker->context = AllocSetContextCreate(TopMemoryContext,
											"avcurate shared engine",
											ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(broker->context);
	strlcpy(broker->device, MyBgworkerEntry->bgw_extra,
			sizeof(broker->device));
	dlist_init(&broker->clients);
	dlist_init(&broker->queue);
	if (!become_owner(broker->device))
		return;
	broker->listener = start_listening(broker->device);
	broker->last_request = GetCurrentTimestamp();
	pgstat_report_activity(STATE_RUNNING, "serving networks");
	while (!is_time_to_leave(broker))
	{
		wait_and_serve(broker);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
			reload(broker);
		avc_flights_watch(broker);
		avc_flights_move(broker);
	}
	leave(broker);
}
