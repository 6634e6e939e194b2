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
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "common/engine_client.h"
#include "common/engine_process.h"
#include "common/server_jansson.h"
#include "common/settings.h"
#include "engine/protocol.h"

#define STOP_GRACE_MS		2000	/* idle engine after BYE or SIGTERM */
#define HELLO_PATIENCE_MS	30000
#define STALL_LOOK_MS		1000
#define ABORT_GRACE_MS		300 /* engine that we no longer wait for */

struct AvcEngine
{
	dlist_node	node;
	MemoryContext context;
	AvcEngineProcess process;
	SubTransactionId subxact;	/* owner, or invalid outside transactions */
	int			unanswered;
	bool		sending;		/* a message is half sent */
	char	   *hello;
	long		patience_ms;	/* with its silence; -1 = as long as it works */
	uint64		ticks;			/* of processor time, at the last look */
	TimestampTz last_moved;		/* when it had used some, or we began to wait */
	AvcFrameStream stream;		/* over process.socket, which it closes */
};

static dlist_head engines = DLIST_STATIC_INIT(engines);
static bool callbacks_registered = false;

/* ---- start ---------------------------------------------------------- */

static void engine_end(AvcEngine *engine, bool gently);
static const char *check_header(void *owner, const EngFrameHeader *header);

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
	avc_stream_init(&engine->stream, context, engine->process.socket,
					check_header, engine);
	engine->subxact = IsTransactionState() ? GetCurrentSubTransactionId()
		: InvalidSubTransactionId;
	dlist_push_tail(&engines, &engine->node);

	engine->patience_ms = HELLO_PATIENCE_MS;
	reply = avc_engine_call(engine, &hello);
	engine->patience_ms = -1;
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

		if (gently && !engine->stream.at_eof && !engine->sending &&
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
	avc_stream_close(&engine->stream);
	if (engine->process.errors >= 0)
		close(engine->process.errors);
	engine->process.socket = engine->process.errors = -1;
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

int
avc_engine_sqlstate(const char *code)
{
	static const struct
	{
		const char *code;
		int			state;
	}			states[] = {
		{"bad_argument", ERRCODE_INVALID_PARAMETER_VALUE},
		{"bad_file", ERRCODE_DATA_EXCEPTION},
		{"no_memory", ERRCODE_OUT_OF_MEMORY},
		{"unsupported", ERRCODE_FEATURE_NOT_SUPPORTED},
		{"device", ERRCODE_SYSTEM_ERROR}
	};
	int			i;

	for (i = 0; code != NULL && i < lengthof(states); i++)
		if (strcmp(code, states[i].code) == 0)
			return states[i].state;
	return ERRCODE_EXTERNAL_ROUTINE_EXCEPTION;
}

/*
 * Raise what an ERROR frame says.  The kinds of the protocol become SQL
 * states; the message is the engine's.
 */
static void
raise_engine_error(AvcEngine *engine, AvcFrame *frame)
{
	json_t	   *json = json_loadb(frame->json, frame->json_len, 0, NULL);
	const char *code = json_string_value(json_object_get(json, "code"));
	const char *text = json_string_value(json_object_get(json, "message"));
	json_t	   *frame_id = json_object_get(json, "frame_id");
	bool		fatal = json_is_true(json_object_get(json, "fatal"));
	bool		is_device = code != NULL && strcmp(code, "device") == 0;
	char	   *detail = NULL;
	int			state = avc_engine_sqlstate(code);
	char	   *message;

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
			 detail ? errdetail("%s", detail) : 0,
			 is_device ?
			 errhint("avcurate.doctor() tells what the engine finds; avcurate.device \"auto\" uses the CPU where a GPU cannot be used.") : 0));
}

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

	/* It closed its socket, so it is on its way out; let it tell how. */
	if (problem == NULL)
		(void) avc_engine_process_reap(&engine->process, 1000);
	engine->stream.at_eof = true;
	engine_kill(engine, false);
	dlist_foreach(iter, &engine->stream.arrived)
	{
		AvcFrame   *frame = dlist_container(AvcFrame, node, iter.cur);

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
				(errcode(ERRCODE_SYSTEM_ERROR),
				 errmsg("engine was ended by signal %d: %s", WTERMSIG(status),
						pg_strsignal(WTERMSIG(status))),
				 words ? errdetail("Last line of the engine: %s", words) : 0,
				 WTERMSIG(status) == SIGKILL ?
				 errhint("The system ends it this way when memory runs out.") : 0));
	ereport(ERROR,
			(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
			 errmsg("engine ended with exit code %d", WEXITSTATUS(status)),
			 words ? errdetail("Last line of the engine: %s", words) : 0));
}

/* ---- moving bytes --------------------------------------------------- */

/* A header has arrived: is it one of an answer that is due? */
static const char *
check_header(void *owner, const EngFrameHeader *header)
{
	AvcEngine  *engine = owner;

	if (header->kind != ENG_KIND_OK && header->kind != ENG_KIND_ERROR)
		return "frame is no answer";
	if (engine->unanswered == 0)
		return "frame answers no request";
	return NULL;
}

/* Take whatever is there to read, without waiting. */
static void
engine_read(AvcEngine *engine)
{
	avc_engine_process_listen(&engine->process);
	avc_stream_read(&engine->stream);
	if (engine->stream.problem != NULL)
		engine_lost(engine, engine->stream.problem);
}

/*
 * A second without an answer: does it work?  One that hangs is a passing
 * failure: the same work may well go through next time.
 */
static void
check_stall(AvcEngine *engine)
{
	TimestampTz now = GetCurrentTimestamp();
	uint64		ticks = avc_process_ticks(engine->process.pid);

	if (ticks != engine->ticks)
	{
		engine->ticks = ticks;
		engine->last_moved = now;
	}
	else if (avc_engine_stall_timeout > 0 &&
			 TimestampDifferenceExceeds(engine->last_moved, now,
										avc_engine_stall_timeout * 1000))
	{
		engine_kill(engine, false);
		ereport(ERROR,
				(errcode(ERRCODE_SYSTEM_ERROR),
				 errmsg("engine was ended because it did nothing for %d seconds",
						avc_engine_stall_timeout),
				 errhint("avcurate.engine_stall_timeout is how long it may.")));
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
	long		patience = engine->patience_ms >= 0 ? engine->patience_ms
	: STALL_LOOK_MS;
	WaitEvent	event;
	int			occurred;

	AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	AddWaitEventToSet(set, events, engine->process.socket, NULL, NULL);
	if (engine->process.errors >= 0)
		AddWaitEventToSet(set, WL_SOCKET_READABLE, engine->process.errors,
						  NULL, NULL);
	occurred = WaitEventSetWait(set, patience, &event, 1, PG_WAIT_EXTENSION);
	FreeWaitEventSet(set);
	if (occurred == 0 && engine->patience_ms >= 0)
		avc_engine_give_up(engine, "engine did not answer in time");
	if (occurred == 0)
		check_stall(engine);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* ---- requests ------------------------------------------------------- */

static void
check_message(AvcEngine *engine, const AvcMessage *message)
{
	uint64		length = message->json != NULL ? strlen(message->json) : 0;
	uint64		blob_len = 0;
	int			i;

	for (i = 0; i < message->part_count; i++)
		blob_len += message->parts[i].len;
	if (length > ENG_PROTOCOL_MAX_JSON || blob_len > ENG_PROTOCOL_MAX_BLOB)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("message to the engine is too long: " UINT64_FORMAT " bytes",
						blob_len + length),
				 errhint("Use a smaller batch_size.")));
	if (engine->unanswered >= ENG_PROTOCOL_AHEAD)
		elog(ERROR, "too many unanswered requests to the engine");
	if (engine->process.socket < 0)
		engine_lost(engine, NULL);
}

void
avc_engine_send(AvcEngine *engine, const AvcMessage *message)
{
	check_message(engine, message);
	if (engine->sending)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("connection to the engine was interrupted earlier")));
	engine->sending = true;
	engine->unanswered++;
	engine->last_moved = GetCurrentTimestamp();
	avc_stream_put(&engine->stream, message);
	while (!avc_stream_write(&engine->stream))
	{
		if (!engine->stream.at_eof)
			engine_wait(engine, WL_SOCKET_WRITEABLE | WL_SOCKET_READABLE);
		engine_read(engine);
		if (engine->stream.at_eof)
			engine_lost(engine, NULL);
	}
	engine->sending = false;
}

AvcReply *
avc_engine_receive(AvcEngine *engine)
{
	AvcFrame   *frame;
	AvcReply   *reply;
	instr_time	start;
	instr_time	now;

	if (engine->unanswered == 0)
		elog(ERROR, "no request to the engine is unanswered");
	INSTR_TIME_SET_CURRENT(start);
	engine->last_moved = GetCurrentTimestamp();
	if (engine->process.socket >= 0)
		engine_read(engine);
	while ((frame = avc_stream_next(&engine->stream)) == NULL)
	{
		if (engine->stream.at_eof)
			engine_lost(engine, NULL);
		engine_wait(engine, WL_SOCKET_READABLE);
		engine_read(engine);
	}
	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, start);

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

/* ---- without waiting ------------------------------------------------ */

void
avc_engine_add_events(AvcEngine *engine, WaitEventSet *set)
{
	int			events = WL_SOCKET_READABLE;

	if (engine->process.socket < 0)
		return;
	if (engine->sending)
		events |= WL_SOCKET_WRITEABLE;
	AddWaitEventToSet(set, events, engine->process.socket, NULL, NULL);
	if (engine->process.errors >= 0)
		AddWaitEventToSet(set, WL_SOCKET_READABLE, engine->process.errors,
						  NULL, NULL);
}

void
avc_engine_post(AvcEngine *engine, const AvcMessage *message)
{
	check_message(engine, message);
	engine->unanswered++;
	avc_stream_put(&engine->stream, message);
	engine->sending = !avc_stream_write(&engine->stream);
}

AvcFrame *
avc_engine_poll(AvcEngine *engine)
{
	AvcFrame   *frame;

	if (engine->sending)
		engine->sending = !avc_stream_write(&engine->stream);
	if (engine->process.socket >= 0)
		engine_read(engine);
	frame = avc_stream_next(&engine->stream);
	if (frame == NULL && engine->stream.at_eof)
		engine_lost(engine, NULL);
	if (frame != NULL)
		engine->unanswered--;
	return frame;
}

void
avc_engine_give_up(AvcEngine *engine, const char *why)
{
	engine_kill(engine, false);
	ereport(ERROR,
			(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
			 errmsg("%s", why)));
	pg_unreachable();
}

pid_t
avc_engine_pid(const AvcEngine *engine)
{
	return engine->process.pid;
}
