/*
 * common/engine_client.c
 *		Start an engine, talk to it, and end it on every way out.
 *
 * An engine is ended by whichever comes first: an explicit stop, the end of
 * the (sub)transaction that started it, the exit of this process
 * (before_shmem_exit), or, if this process is killed, the parent-death
 * signal and the end of file on its socket.
 *
 * The socket is non-blocking and both directions move in every wait, so a
 * long message to an engine that is sending one of its own cannot deadlock.
 * Incoming frames are put together in a memory context of their own, which
 * is handed over to the caller with the reply.
 */
#include "postgres.h"

#include <errno.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "access/xact.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "common/engine_client.h"
#include "common/engine_process.h"
#include "common/server_jansson.h"
#include "engine/protocol.h"

#define FIRST_ALLOCATION	((size_t) 16 << 20)
#define STOP_GRACE_MS		2000	/* idle engine after BYE or SIGTERM */
#define ABORT_GRACE_MS		300 /* engine that we no longer wait for */

/* A frame that has arrived whole and was not asked for yet. */
typedef struct Incoming
{
	dlist_node	node;
	MemoryContext context;		/* owns this struct, json and blob */
	int			kind;
	char	   *json;
	size_t		json_len;
	char	   *blob;
	size_t		blob_len;
	size_t		blob_room;
	size_t		filled;			/* bytes of json and blob so far */
} Incoming;

struct AvcEngine
{
	dlist_node	node;
	MemoryContext context;
	AvcEngineProcess process;
	SubTransactionId subxact;	/* owner, or invalid outside transactions */
	int			unanswered;
	bool		sending;		/* a message is half sent */
	bool		at_eof;
	char	   *hello;
	uint8		header[ENG_PROTOCOL_HEADER];
	size_t		header_filled;
	Incoming   *partial;		/* header is complete, the rest is not */
	dlist_head	arrived;
};

static dlist_head engines = DLIST_STATIC_INIT(engines);
static bool callbacks_registered = false;

/* ---- start ---------------------------------------------------------- */

static void engine_end(AvcEngine *engine, bool gently);

static void
end_at_exit(int code, Datum arg)
{
	avc_engine_stop_all();
}

static void
end_with_transaction(XactEvent event, void *arg)
{
	dlist_mutable_iter iter;

	if (event != XACT_EVENT_ABORT && event != XACT_EVENT_COMMIT)
		return;
	dlist_foreach_modify(iter, &engines)
	{
		AvcEngine  *engine = dlist_container(AvcEngine, node, iter.cur);

		if (engine->subxact != InvalidSubTransactionId)
			engine_end(engine, event == XACT_EVENT_COMMIT);
	}
}

static void
end_with_subtransaction(SubXactEvent event, SubTransactionId mine,
						SubTransactionId parent, void *arg)
{
	dlist_mutable_iter iter;

	if (event != SUBXACT_EVENT_ABORT_SUB && event != SUBXACT_EVENT_COMMIT_SUB)
		return;
	dlist_foreach_modify(iter, &engines)
	{
		AvcEngine  *engine = dlist_container(AvcEngine, node, iter.cur);

		if (engine->subxact != mine)
			continue;
		if (event == SUBXACT_EVENT_COMMIT_SUB)
			engine->subxact = parent;
		else
			engine_end(engine, false);
	}
}

AvcEngine *
avc_engine_start(void)
{
	MemoryContext context;
	AvcEngine  *engine;
	AvcReply   *reply;
	AvcMessage	hello = {ENG_KIND_HELLO, "{\"protocol\": 1}", NULL, 0};

	if (!callbacks_registered)
	{
		before_shmem_exit(end_at_exit, (Datum) 0);
		RegisterXactCallback(end_with_transaction, NULL);
		RegisterSubXactCallback(end_with_subtransaction, NULL);
		callbacks_registered = true;
	}
	context = AllocSetContextCreate(CurrentMemoryContext, "avcurate engine",
									ALLOCSET_SMALL_SIZES);
	engine = MemoryContextAllocZero(context, sizeof(AvcEngine));
	engine->context = context;
	avc_engine_process_start(&engine->process);
	MemoryContextSetParent(context, TopMemoryContext);
	dlist_init(&engine->arrived);
	engine->subxact = IsTransactionState() ? GetCurrentSubTransactionId()
		: InvalidSubTransactionId;
	dlist_push_tail(&engines, &engine->node);

	reply = avc_engine_call(engine, &hello);
	engine->hello = MemoryContextStrdup(context, reply->json);
	avc_reply_free(reply);
	return engine;
}

/* ---- end ------------------------------------------------------------ */

/*
 * End the process and give its descriptors back; the struct stays.  No
 * error is raised and no interrupt served: this runs in abort and exit.
 */
static void
engine_kill(AvcEngine *engine, bool gently)
{
	if (engine->process.pid != 0)
	{
		bool		asked = false;

		if (gently && !engine->at_eof && !engine->sending &&
			engine->unanswered == 0)
		{
			uint8		header[ENG_PROTOCOL_HEADER + 2];
			EngFrameHeader bye = {ENG_KIND_BYE, 2, 0};

			eng_frame_header_pack(header, &bye);
			header[ENG_PROTOCOL_HEADER] = '{';
			header[ENG_PROTOCOL_HEADER + 1] = '}';
			asked = send(engine->process.socket, header, sizeof(header),
						 MSG_NOSIGNAL) == sizeof(header);
		}
		if (!asked || !avc_engine_process_reap(&engine->process, STOP_GRACE_MS))
		{
			(void) kill(engine->process.pid, SIGTERM);
			if (!avc_engine_process_reap(&engine->process, gently ? STOP_GRACE_MS : ABORT_GRACE_MS))
			{
				(void) kill(engine->process.pid, SIGKILL);
				(void) avc_engine_process_reap(&engine->process, 10000);
			}
		}
	}
	avc_engine_process_listen(&engine->process);
	if (engine->process.socket >= 0)
		close(engine->process.socket);
	if (engine->process.errors >= 0)
		close(engine->process.errors);
	engine->process.socket = engine->process.errors = -1;
	engine->at_eof = true;
}

static void
engine_end(AvcEngine *engine, bool gently)
{
	engine_kill(engine, gently);
	dlist_delete(&engine->node);
	MemoryContextDelete(engine->context);
}

void
avc_engine_stop(AvcEngine *engine)
{
	engine_end(engine, true);
}

void
avc_engine_stop_all(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &engines)
		engine_end(dlist_container(AvcEngine, node, iter.cur), false);
}

/* ---- failures ------------------------------------------------------- */

/*
 * Raise what an ERROR frame says.  The kinds of the protocol become SQL
 * states; the message is the engine's.
 */
static void
raise_engine_error(AvcEngine *engine, Incoming *frame)
{
	json_t	   *json = json_loadb(frame->json, frame->json_len, 0, NULL);
	const char *code = json_string_value(json_object_get(json, "code"));
	const char *text = json_string_value(json_object_get(json, "message"));
	json_t	   *frame_id = json_object_get(json, "frame_id");
	bool		fatal = json_is_true(json_object_get(json, "fatal"));
	char	   *detail = NULL;
	int			state = ERRCODE_EXTERNAL_ROUTINE_EXCEPTION;
	char	   *message;

	if (code != NULL && strcmp(code, "bad_argument") == 0)
		state = ERRCODE_INVALID_PARAMETER_VALUE;
	else if (code != NULL && strcmp(code, "bad_file") == 0)
		state = ERRCODE_DATA_EXCEPTION;
	else if (code != NULL && strcmp(code, "no_memory") == 0)
		state = ERRCODE_OUT_OF_MEMORY;
	else if (code != NULL && strcmp(code, "unsupported") == 0)
		state = ERRCODE_FEATURE_NOT_SUPPORTED;
	message = pstrdup(text != NULL ? text : "engine failed without a message");
	if (json_is_integer(frame_id))
		detail = psprintf("Frame %lld.",
						  (long long) json_integer_value(frame_id));
	json_decref(json);
	MemoryContextDelete(frame->context);
	if (fatal)
		engine_kill(engine, false);
	ereport(ERROR,
			(errcode(state), errmsg("%s", message),
			 detail ? errdetail("%s", detail) : 0));
}

static void engine_read(AvcEngine *engine);

/*
 * The engine is gone, or no longer makes sense ("problem" tells what it
 * did): end it and raise an error.  If it said why before it left, that is
 * the error.
 */
static void
engine_lost(AvcEngine *engine, const char *problem)
{
	const char *words;
	dlist_iter	iter;
	int			status;
	int			level = ERRCODE_EXTERNAL_ROUTINE_EXCEPTION;

	/* It closed its socket, so it is on its way out; let it tell how. */
	if (problem == NULL)
		(void) avc_engine_process_reap(&engine->process, 1000);
	engine->at_eof = true;
	engine_kill(engine, false);
	dlist_foreach(iter, &engine->arrived)
	{
		Incoming   *frame = dlist_container(Incoming, node, iter.cur);

		if (frame->kind == ENG_KIND_ERROR)
		{
			dlist_delete(&frame->node);
			raise_engine_error(engine, frame);
		}
	}
	words = avc_engine_process_last_line(&engine->process);
	status = engine->process.exit_status;
	if (problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("engine sent garbage: %s", problem),
				 words ? errdetail("Last line of the engine: %s", words) : 0));
	if (WIFSIGNALED(status))
		ereport(ERROR,
				(errcode(level),
				 errmsg("engine was ended by signal %d: %s", WTERMSIG(status),
						pg_strsignal(WTERMSIG(status))),
				 words ? errdetail("Last line of the engine: %s", words) : 0,
				 WTERMSIG(status) == SIGKILL ?
				 errhint("The system ends it this way when memory runs out.") : 0));
	ereport(ERROR,
			(errcode(level),
			 errmsg("engine ended with exit code %d", WEXITSTATUS(status)),
			 words ? errdetail("Last line of the engine: %s", words) : 0));
}

/* ---- incoming ------------------------------------------------------- */

/* A header is complete: make room for what it announces. */
static void
begin_frame(AvcEngine *engine)
{
	EngFrameHeader header;
	const char *problem;
	MemoryContext context;
	Incoming   *frame;

	problem = eng_frame_header_unpack(&header, engine->header);
	if (problem == NULL && header.kind != ENG_KIND_OK &&
		header.kind != ENG_KIND_ERROR)
		problem = "frame is no answer";
	if (problem == NULL && engine->unanswered == 0)
		problem = "frame answers no request";
	if (problem != NULL)
		engine_lost(engine, problem);

	context = AllocSetContextCreate(engine->context, "avcurate reply",
									ALLOCSET_SMALL_SIZES);
	frame = MemoryContextAllocZero(context, sizeof(Incoming));
	frame->context = context;
	frame->kind = header.kind;
	frame->json_len = header.json_length;
	frame->json = MemoryContextAlloc(context, frame->json_len + 1);
	frame->json[frame->json_len] = '\0';
	frame->blob_len = header.blob_length;
	if (frame->blob_len > 0)
	{
		/* A length alone costs nothing: the rest grows as bytes arrive. */
		frame->blob_room = Min(frame->blob_len, FIRST_ALLOCATION);
		frame->blob = MemoryContextAllocHuge(context, frame->blob_room);
	}
	engine->partial = frame;
	engine->header_filled = 0;
}

/* Where the next bytes go and how many at most; 0 = the frame is whole. */
static size_t
next_room(Incoming *frame, char **place)
{
	size_t		in_blob;

	if (frame->filled < frame->json_len)
	{
		*place = frame->json + frame->filled;
		return frame->json_len - frame->filled;
	}
	in_blob = frame->filled - frame->json_len;
	if (in_blob == frame->blob_len)
		return 0;
	if (in_blob == frame->blob_room)
	{
		frame->blob_room = Min(frame->blob_len, frame->blob_room * 2);
		frame->blob = repalloc_huge(frame->blob, frame->blob_room);
	}
	*place = frame->blob + in_blob;
	return frame->blob_room - in_blob;
}

/* Take whatever is there to read, without waiting. */
static void
engine_read(AvcEngine *engine)
{
	avc_engine_process_listen(&engine->process);
	while (!engine->at_eof)
	{
		char	   *place = (char *) engine->header + engine->header_filled;
		size_t		room = ENG_PROTOCOL_HEADER - engine->header_filled;
		ssize_t		got;

		if (engine->partial != NULL)
		{
			room = next_room(engine->partial, &place);
			if (room == 0)
			{
				dlist_push_tail(&engine->arrived, &engine->partial->node);
				engine->partial = NULL;
				continue;
			}
		}
		got = recv(engine->process.socket, place, room, MSG_DONTWAIT);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return;
		if (got <= 0)
		{
			engine->at_eof = true;
			return;
		}
		if (engine->partial != NULL)
			engine->partial->filled += got;
		else
		{
			engine->header_filled += got;
			if (engine->header_filled == ENG_PROTOCOL_HEADER)
				begin_frame(engine);
		}
	}
}

/*
 * Sleep until the socket is ready or there is something on stderr; cancel,
 * terminate and the like end it.
 */
static void
engine_wait(AvcEngine *engine, int events)
{
	WaitEventSet *set = CreateWaitEventSet(CurrentMemoryContext, 4);
	WaitEvent	event;

	AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	AddWaitEventToSet(set, events, engine->process.socket, NULL, NULL);
	if (engine->process.errors >= 0)
		AddWaitEventToSet(set, WL_SOCKET_READABLE, engine->process.errors,
						  NULL, NULL);
	(void) WaitEventSetWait(set, -1, &event, 1, PG_WAIT_EXTENSION);
	FreeWaitEventSet(set);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* ---- requests ------------------------------------------------------- */

static void
send_bytes(AvcEngine *engine, const void *data, size_t len)
{
	const char *from = data;

	while (len > 0)
	{
		ssize_t		sent;

		if (engine->at_eof)
			engine_lost(engine, NULL);
		sent = send(engine->process.socket, from, len, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (sent > 0)
		{
			from += sent;
			len -= sent;
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN && errno != EWOULDBLOCK)
		{
			engine_read(engine);
			engine_lost(engine, NULL);
		}
		engine_wait(engine, WL_SOCKET_WRITEABLE | WL_SOCKET_READABLE);
		engine_read(engine);
	}
}

void
avc_engine_send(AvcEngine *engine, const AvcMessage *message)
{
	const char *json = message->json != NULL ? message->json : "{}";
	size_t		json_len = strlen(json);
	uint64		blob_len = 0;
	EngFrameHeader header;
	uint8		bytes[ENG_PROTOCOL_HEADER];
	int			i;

	for (i = 0; i < message->part_count; i++)
		blob_len += message->parts[i].len;
	if (json_len > ENG_PROTOCOL_MAX_JSON || blob_len > ENG_PROTOCOL_MAX_BLOB)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("message to the engine is too long: " UINT64_FORMAT " bytes",
						blob_len + json_len),
				 errhint("Use a smaller batch_size.")));
	if (engine->unanswered >= ENG_PROTOCOL_AHEAD)
		elog(ERROR, "too many unanswered requests to the engine");
	if (engine->sending)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("connection to the engine was interrupted earlier")));
	if (engine->process.socket < 0)
		engine_lost(engine, NULL);

	header.kind = message->kind;
	header.json_length = (uint32) json_len;
	header.blob_length = blob_len;
	eng_frame_header_pack(bytes, &header);
	engine->sending = true;
	engine->unanswered++;
	send_bytes(engine, bytes, sizeof(bytes));
	send_bytes(engine, json, json_len);
	for (i = 0; i < message->part_count; i++)
		send_bytes(engine, message->parts[i].data, message->parts[i].len);
	engine->sending = false;
}

AvcReply *
avc_engine_receive(AvcEngine *engine)
{
	Incoming   *frame;
	AvcReply   *reply;
	instr_time	start;
	instr_time	now;

	if (engine->unanswered == 0)
		elog(ERROR, "no request to the engine is unanswered");
	INSTR_TIME_SET_CURRENT(start);
	if (engine->process.socket >= 0)
		engine_read(engine);
	while (dlist_is_empty(&engine->arrived))
	{
		if (engine->at_eof)
			engine_lost(engine, NULL);
		engine_wait(engine, WL_SOCKET_READABLE);
		engine_read(engine);
	}
	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, start);

	frame = dlist_container(Incoming, node,
							dlist_pop_head_node(&engine->arrived));
	engine->unanswered--;
	if (frame->kind == ENG_KIND_ERROR)
		raise_engine_error(engine, frame);
	reply = MemoryContextAllocZero(frame->context, sizeof(AvcReply));
	reply->json = frame->json;
	reply->json_len = frame->json_len;
	reply->blob = frame->blob;
	reply->blob_len = frame->blob_len;
	reply->wait_s = INSTR_TIME_GET_DOUBLE(now);
	MemoryContextSetParent(frame->context, CurrentMemoryContext);
	return reply;
}

void
avc_reply_free(AvcReply *reply)
{
	MemoryContextDelete(GetMemoryChunkContext(reply));
}

AvcReply *
avc_engine_call(AvcEngine *engine, const AvcMessage *message)
{
	if (engine->unanswered != 0)
		elog(ERROR, "another request to the engine is unanswered");
	avc_engine_send(engine, message);
	return avc_engine_receive(engine);
}

const char *
avc_engine_hello(const AvcEngine *engine)
{
	return engine->hello;
}
