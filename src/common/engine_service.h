/*
 * common/engine_service.h
 *		The engine that all backends of a server share, one a device.
 *
 * A background worker owns it (engine_broker.c).  A backend reaches the
 * worker through a unix socket below the data directory and speaks frames of
 * engine/protocol.h with it:
 *
 *		LOAD	{"id", "weights", "architecture", "options", "num_classes"}
 *				and the file of weights.  "weights" names what is loaded; equal
 *				names are equal weights and options, whoever sends them.
 *		DETECT	{"id", "weights", "width", "height"} and one JPEG
 *				OK {"id"}, the blob holds the detections as the engine does
 *		EMBED_IMAGES	{"id", "weights"} and one JPEG
 *		EMBED_TEXTS		{"id", "weights"} and the token ids of one text
 *				OK {"id"}, the blob holds the embedding as the engine does
 *		STATUS	{"id"}
 *				OK {"id", "engine_pid", "requests", "batches", ...}
 *		ERROR	{"id", "code", "message"}: codes of the engine, and
 *				not_loaded	LOAD, then ask again
 *				lost		the engine ended while it worked on this
 *				unstarted	the engine cannot be started
 *		BYE		{}: the worker leaves; what is unanswered is to be asked of
 *				the next one
 *
 * Answers may come in another order than requests.  The first frame of a
 * connection is the worker's OK {"id": 0}: until it has come, nothing has
 * been taken.
 */
#ifndef AVC_COMMON_ENGINE_SERVICE_H
#define AVC_COMMON_ENGINE_SERVICE_H

#include "lib/stringinfo.h"

#include "common/frame_stream.h"

#define AVC_KIND_STATUS		200
#define AVC_SERVICE_TEXT	(77 * sizeof(int32))	/* bytes of a text's ids */

/*
 * Below the data directory.  Base backups and pg_checksums leave folders of
 * this prefix out.
 */
#define AVC_SERVICE_FOLDER	"pgsql_tmp_avcurate"
#define AVC_SERVICE_DEVICE	64	/* bytes of a device's name, with zero */

typedef struct AvcService AvcService;

/*
 * The shared engine of a device ("cpu", "cuda:0"); the worker is started by
 * the first request.  Lives as long as this backend.
 */
extern AvcService *avc_service(const char *device);

/*
 * Send a request and return its id; waits only while the socket is full.
 * "members" is the inside of its JSON object without "id".
 */
extern int64 avc_service_send(AvcService *service, uint16 kind,
							  const char *members, const void *blob,
							  size_t blob_len);

/*
 * The answer to a request, or NULL if it will not come because the worker
 * left: ask again.  The frame goes into the current memory context.  Errors,
 * a cancel among them, end the connection, and with it all other requests.
 */
extern AvcFrame *avc_service_receive(AvcService *service, int64 id);

/* A number that no other connection of this backend had; 0 = there is none. */
extern int64 avc_service_connection(const AvcService *service);

/* Requests that are unanswered or whose answer nobody took. */
extern int	avc_service_open_requests(const AvcService *service);

/* Forget all requests; the connection goes if any is unanswered. */
extern void avc_service_forget(AvcService *service);

/* End the connection, and with it all requests. */
extern void avc_service_close(AvcService *service);

/* Is there a worker?  Starts none. */
extern bool avc_service_is_running(const char *device);

/* ---- for the worker ---- */

/* "pgsql_tmp_avcurate/cpu.sock" and the like; the result is static. */
extern const char *avc_service_path(const char *device, const char *ending);

#endif
