/*
 * common/engine_client.h
 *		Start an engine, talk to it, and end it on every way out.
 *
 * An engine belongs to the process that started it and, when it was started
 * inside a transaction, to that (sub)transaction: if the transaction aborts
 * or the process exits, the engine is ended and reaped.  All waits answer
 * cancel, terminate and postmaster death.  Works inside and outside of a
 * transaction.
 */
#ifndef AVC_COMMON_ENGINE_CLIENT_H
#define AVC_COMMON_ENGINE_CLIENT_H

#include "lib/stringinfo.h"
#include "storage/latch.h"

#include "common/frame_stream.h"

typedef struct AvcEngine AvcEngine;

/* In a memory context of its own below the caller's; see avc_reply_free. */
typedef struct AvcReply
{
	char	   *json;			/* one object, zero-terminated */
	size_t		json_len;
	char	   *blob;			/* huge allocation, NULL when empty */
	size_t		blob_len;
	double		wait_s;			/* how long the caller slept for it */
} AvcReply;

/*
 * Start avcurate.engine_path (or avcurate-engine beside the server's
 * programs) and exchange HELLO.  Raises an error if it cannot be started or
 * speaks another protocol.
 */
extern AvcEngine *avc_engine_start(void);

/* The JSON of the engine's answer to HELLO; lives as long as the engine. */
extern const char *avc_engine_hello(const AvcEngine *engine);

/*
 * Send one message and return once the socket has taken it whole.  What
 * the engine sends meanwhile is kept for avc_engine_receive, so neither
 * side can block the other.  At most 4 requests may be unanswered.
 */
extern void avc_engine_send(AvcEngine *engine, const AvcMessage *message);

/*
 * Wait for the answer to the oldest unanswered request.  An ERROR answer is
 * raised as an error with the engine's message; the engine stays usable
 * unless it said otherwise.  Death of the engine is raised as an error that
 * tells how it ended and the last line that it wrote.
 */
extern AvcReply *avc_engine_receive(AvcEngine *engine);

/* Give a reply back before its context is reset. */
extern void avc_reply_free(AvcReply *reply);

/* Send and receive; no other request may be unanswered. */
extern AvcReply *avc_engine_call(AvcEngine *engine, const AvcMessage *message);

/* ---- for callers that sleep on several things ---- */

/* Put the engine's descriptors into a set: 2 events without data. */
extern void avc_engine_add_events(AvcEngine *engine, WaitEventSet *set);

/*
 * Queue a message, whose parts stay as they are until it is answered, and
 * send what the socket takes.
 */
extern void avc_engine_post(AvcEngine *engine, const AvcMessage *message);

/*
 * Send and receive what is possible without waiting.  Returns the answer to
 * the oldest unanswered request, be it OK or ERROR, or NULL if it is not
 * there yet.  Raises an error if the engine is gone.
 */
extern AvcFrame *avc_engine_poll(AvcEngine *engine);

/* End the engine, which did not do as it should, and raise why. */
extern void avc_engine_give_up(AvcEngine *engine, const char *why)
			pg_attribute_noreturn();

extern pid_t avc_engine_pid(const AvcEngine *engine);

/* SQL state of an ERROR frame's code. */
extern int	avc_engine_sqlstate(const char *code);

/* End the engine: BYE when it is idle, else SIGTERM, then SIGKILL; reaped. */
extern void avc_engine_stop(AvcEngine *engine);

/* End every engine of this process at once; called on errors of a worker. */
extern void avc_engine_stop_all(void);

#endif
