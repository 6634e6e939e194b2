/*
 * common/engine_service.c
 *		A backend's side of the shared engine: reach it, start it, ask it.
 *
 * A connection is kept from call to call.  Who finds no worker takes an flock
 * on the device's starter file, so that one of many registers the worker and
 * the rest wait for its socket; a starter that dies gives its flock back.
 */
#include "postgres.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "common/engine_service.h"
#include "common/server_jansson.h"

#define START_PATIENCE_MS	30000
#define START_POLL_MS		10
#define START_TRIES			3	/* workers registered by one backend */

struct AvcService
{
	AvcService *next;
	char		device[AVC_SERVICE_DEVICE];
	MemoryContext context;		/* of the connection, NULL if there is none */
	AvcFrameStream stream;
	bool		is_greeted;
	int64		next_id;		/* never used twice */
	int64		first_id;		/* of this connection */
	int			open_requests;
};

static AvcService *services = NULL;

const char *
avc_service_path(const char *device, const char *ending)
{
	static char path[MAXPGPATH];
	char	   *colon;

	snprintf(path, sizeof(path), "%s/%s.%s", AVC_SERVICE_FOLDER, device,
			 ending);
	while ((colon = strchr(path, ':')) != NULL)
		*colon = '_';
	return path;
}

AvcService *
avc_service(const char *device)
{
	AvcService *service;

	for (service = services; service != NULL; service = service->next)
		if (strcmp(service->device, device) == 0)
			return service;
	service = MemoryContextAllocZero(TopMemoryContext, sizeof(AvcService));
	strlcpy(service->device, device, sizeof(service->device));
	service->next_id = 1;
	service->stream.socket = -1;
	service->next = services;
	services = service;
	return service;
}

static void
disconnect(AvcService *service)
{
	if (service->context == NULL)
		return;
	avc_stream_close(&service->stream);
	MemoryContextDelete(service->context);
	service->context = NULL;
	service->open_requests = 0;
	ReleaseExternalFD();
}

/* ---- connect -------------------------------------------------------- */

/* The worker speaks OK, ERROR and BYE. */
static const char *
check_header(void *owner, const EngFrameHeader *header)
{
	if (header->kind != ENG_KIND_OK && header->kind != ENG_KIND_ERROR &&
		header->kind != ENG_KIND_BYE)
		return "frame is no answer";
	return NULL;
}

/*
 * A socket that is connected, or -1 if nobody listens.  *is_busy: somebody
 * does, whose queue of connections is full.
 */
static int
try_connect(const char *device, bool *is_busy)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int			fd = socket(AF_UNIX,
							SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	StaticAssertStmt(sizeof(AVC_SERVICE_FOLDER) + AVC_SERVICE_DEVICE + 8 <
					 sizeof(address.sun_path),
					 "path of a socket must fit its address");
	if (fd < 0)
		ereport(ERROR,
				(errcode_for_socket_access(),
				 errmsg("could not create a socket: %m")));
	strlcpy(address.sun_path, avc_service_path(device, "sock"),
			sizeof(address.sun_path));
	if (connect(fd, (struct sockaddr *) &address, sizeof(address)) == 0)
		return fd;
	*is_busy = errno == EAGAIN;
	close(fd);
	return -1;
}

bool
avc_service_is_running(const char *device)
{
	bool		is_busy;
	int			fd = try_connect(device, &is_busy);

	if (fd >= 0)
		close(fd);
	return fd >= 0 || is_busy;
}

static BackgroundWorkerHandle *
register_worker(const char *device)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	/* on a hot standby too */
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, "avcurate", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "avc_engine_broker_main", BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN, "avcurate shared engine (%s)",
			 device);
	strlcpy(worker.bgw_type, "avcurate shared engine", BGW_MAXLEN);
	strlcpy(worker.bgw_extra, device, BGW_EXTRALEN);
	if (!RegisterDynamicBackgroundWorker(&worker, &handle))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("could not start the shared engine: no worker slot of the server is free"),
				 errhint("Raise max_worker_processes, or try again when a job has finished.")));
	return handle;
}

static bool
has_ended(BackgroundWorkerHandle *handle)
{
	pid_t		pid;

	return GetBackgroundWorkerPid(handle, &pid) == BGWH_STOPPED;
}

/* Open the starter file and lock it; -1 if another backend starts it. */
static int
lock_starter(const char *device)
{
	const char *path = avc_service_path(device, "start");
	int			fd;

	if (mkdir(AVC_SERVICE_FOLDER, S_IRWXU) < 0 && errno != EEXIST)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create directory \"%s\": %m",
						AVC_SERVICE_FOLDER)));
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, S_IRUSR | S_IWUSR);
	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		return fd;
	close(fd);
	return -1;
}

static void
sleep_briefly(void)
{
	(void) WaitLatch(MyLatch,
					 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 START_POLL_MS, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/*
 * With the lock on the starter file: register workers until one listens.  A
 * worker leaves at once if one before it has not quite gone yet.
 */
static int
start_worker(const char *device, TimestampTz end)
{
	BackgroundWorkerHandle *handle = NULL;
	int			started = 0;
	int			fd;
	bool		is_busy;

	while ((fd = try_connect(device, &is_busy)) < 0)
	{
		if (!is_busy && (handle == NULL || has_ended(handle)) &&
			started++ < START_TRIES)
			handle = register_worker(device);
		else if (GetCurrentTimestamp() > end ||
				 (!is_busy && has_ended(handle)))
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
					 errmsg("shared engine of device \"%s\" did not start",
							device),
					 errhint("The server log may tell why.")));
		sleep_briefly();
	}
	return fd;
}

/* Connect, starting a worker if there is none and nobody else does. */
static int
connect_or_start(const char *device)
{
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												  START_PATIENCE_MS);
	volatile int fd;
	bool		is_busy;

	while ((fd = try_connect(device, &is_busy)) < 0)
	{
		int			starter = is_busy ? -1 : lock_starter(device);

		if (starter >= 0)
		{
			PG_TRY();
			{
				fd = start_worker(device, end);
			}
			PG_CATCH();
			{
				close(starter);
				PG_RE_THROW();
			}
			PG_END_TRY();
			close(starter);
			break;
		}
		if (GetCurrentTimestamp() > end)
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
					 errmsg("could not reach the shared engine of device \"%s\" in time",
							device)));
		sleep_briefly();
	}
	return fd;
}

static void
connect_service(AvcService *service)
{
	int			fd = connect_or_start(service->device);

	ReserveExternalFD();
	service->context = AllocSetContextCreate(TopMemoryContext,
											 "avcurate shared engine",
											 ALLOCSET_DEFAULT_SIZES);
	avc_stream_init(&service->stream, service->context, fd, check_header,
					service);
	service->is_greeted = false;
	service->first_id = service->next_id;
	service->open_requests = 0;
}

/* ---- frames --------------------------------------------------------- */

static int64
id_of(const AvcFrame *frame)
{
	json_t	   *json = json_loadb(frame->json, frame->json_len, 0, NULL);
	json_t	   *id = json_object_get(json, "id");
	int64		value = json_is_integer(id) ? json_integer_value(id) : -1;

	json_decref(json);
	return value;
}

/*
 * Take what has come; false if the worker is gone or leaves.  Its greeting
 * is taken out here.
 */
static bool
read_frames(AvcService *service)
{
	dlist_mutable_iter iter;

	avc_stream_read(&service->stream);
	dlist_foreach_modify(iter, &service->stream.arrived)
	{
		AvcFrame   *frame = dlist_container(AvcFrame, node, iter.cur);

		if (frame->kind == ENG_KIND_BYE)
			return false;
		if (!service->is_greeted)
		{
			service->is_greeted = true;
			dlist_delete(&frame->node);
			MemoryContextDelete(frame->context);
		}
	}
	return !service->stream.at_eof;
}

/* The frame that answers a request, if it is among those that arrived. */
static AvcFrame *
find_frame(AvcService *service, int64 id)
{
	dlist_iter	iter;

	dlist_foreach(iter, &service->stream.arrived)
	{
		AvcFrame   *frame = dlist_container(AvcFrame, node, iter.cur);

		if (frame->kind != ENG_KIND_BYE && id_of(frame) == id)
			return frame;
	}
	return NULL;
}

static void
wait_for_socket(AvcService *service, int events)
{
	(void) WaitLatchOrSocket(MyLatch,
							 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | events,
							 service->stream.socket, -1, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* Connect anew if the worker left since the last request. */
static void
ensure_connected(AvcService *service)
{
	if (service->context != NULL && service->open_requests == 0 &&
		!read_frames(service))
		disconnect(service);
	if (service->context == NULL)
		connect_service(service);
}

/* Send what is queued; false if the worker is gone. */
static bool
flush(AvcService *service)
{
	while (!avc_stream_write(&service->stream))
	{
		if (service->stream.at_eof)
			return false;
		wait_for_socket(service, WL_SOCKET_WRITEABLE | WL_SOCKET_READABLE);
		(void) read_frames(service);
	}
	return true;
}

int64
avc_service_send(AvcService *service, uint16 kind, const char *members,
				 const void *blob, size_t blob_len)
{
	AvcBlobPart part = {blob, blob_len};
	AvcMessage	message = {kind, NULL, &part, blob_len > 0 ? 1 : 0};
	int64		id;

	ensure_connected(service);
	id = service->next_id++;
	message.json = psprintf("{\"id\": " INT64_FORMAT "%s%s}", id,
							members[0] != '\0' ? ", " : "", members);
	PG_TRY();
	{
		service->open_requests++;
		avc_stream_put(&service->stream, &message);
		/* if it is gone, that is told to who asks for the answer */
		(void) flush(service);
	}
	PG_CATCH();
	{
		disconnect(service);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return id;
}

AvcFrame *
avc_service_receive(AvcService *service, int64 id)
{
	AvcFrame   *volatile frame = NULL;

	if (service->context == NULL || id < service->first_id)
		return NULL;
	PG_TRY();
	{
		bool		is_there = read_frames(service);

		while ((frame = find_frame(service, id)) == NULL && is_there)
		{
			wait_for_socket(service, WL_SOCKET_READABLE);
			is_there = read_frames(service);
		}
	}
	PG_CATCH();
	{
		disconnect(service);
		PG_RE_THROW();
	}
	PG_END_TRY();
	if (frame == NULL)
	{
		disconnect(service);
		return NULL;
	}
	service->open_requests--;
	dlist_delete(&frame->node);
	MemoryContextSetParent(frame->context, CurrentMemoryContext);
	return frame;
}

int64
avc_service_connection(const AvcService *service)
{
	return service->context != NULL ? service->first_id : 0;
}

int
avc_service_open_requests(const AvcService *service)
{
	return service->context != NULL ? service->open_requests : 0;
}

void
avc_service_close(AvcService *service)
{
	disconnect(service);
}

void
avc_service_forget(AvcService *service)
{
	if (avc_service_open_requests(service) > 0)
		disconnect(service);
}
