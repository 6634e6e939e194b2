/*
 * common/worker.c
 *		Dynamic background workers of this library: start and first steps.
 *
 * Nothing has to be preloaded, so there is no shared memory of ours: what a
 * worker has to know travels in the registration itself.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

#include "common/worker.h"

#define RESTART_S 10			/* after a preloaded worker has failed */

/* Travels in bgw_extra. */
typedef struct WorkerStart
{
	Oid			database;
	TransactionId after;		/* wait for its end; invalid = do not wait */
} WorkerStart;

static void
describe(BackgroundWorker *worker, const char *entry, const char *name,
		 Oid database, TransactionId after)
{
	WorkerStart start;

	StaticAssertStmt(sizeof(WorkerStart) <= BGW_EXTRALEN,
					 "start of a worker must fit into bgw_extra");
	start.database = database;
	start.after = after;

	memset(worker, 0, sizeof(*worker));
	worker->bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker->bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker->bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker->bgw_library_name, "avcurate", BGW_MAXLEN);
	strlcpy(worker->bgw_function_name, entry, BGW_MAXLEN);
	strlcpy(worker->bgw_name, name, BGW_MAXLEN);
	strlcpy(worker->bgw_type, name, BGW_MAXLEN);
	memcpy(worker->bgw_extra, &start, sizeof(start));
}

bool
avc_worker_register(const char *entry, const char *name, bool after_commit)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;

	describe(&worker, entry, name, MyDatabaseId,
			 after_commit ? GetTopTransactionIdIfAny() : InvalidTransactionId);
	return RegisterDynamicBackgroundWorker(&worker, &handle);
}

bool
avc_worker_register_in(Oid database, const char *entry, const char *name)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;

	describe(&worker, entry, name, database, InvalidTransactionId);
	return RegisterDynamicBackgroundWorker(&worker, &handle);
}

void
avc_worker_preload(const char *entry, const char *name)
{
	BackgroundWorker worker;

	describe(&worker, entry, name, InvalidOid, InvalidTransactionId);
	worker.bgw_restart_time = RESTART_S;
	RegisterBackgroundWorker(&worker);
}

struct BackgroundWorkerHandle *
avc_worker_start(const char *entry, const char *name, Datum arg)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;

	describe(&worker, entry, name, MyDatabaseId, InvalidTransactionId);
	worker.bgw_main_arg = arg;
	worker.bgw_notify_pid = MyProcPid;
	return RegisterDynamicBackgroundWorker(&worker, &handle) ? handle : NULL;
}

/*
 * Settings of the database are meant for its users; a worker that queues for
 * rows or is refused to write would only fail.
 */
static void
pin_settings(void)
{
	static const char *const settings[][2] = {
		{"statement_timeout", "0"},
		{"lock_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"}
	};
	int			i;

	for (i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET,
						PGC_S_OVERRIDE);
}

bool
avc_worker_begin(void)
{
	WorkerStart start;
	bool		installed;

	memcpy(&start, MyBgworkerEntry->bgw_extra, sizeof(start));
	pqsignal(SIGTERM, die);
	pqsignal(SIGINT, StatementCancelHandler);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(start.database, InvalidOid, 0);
	pin_settings();

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	pgstat_report_activity(STATE_RUNNING, "waiting for a commit");
	if (TransactionIdIsValid(start.after) &&
		TransactionIdIsInProgress(start.after))
		XactLockTableWait(start.after, NULL, NULL, XLTW_None);
	PopActiveSnapshot();
	CommitTransactionCommand();

	StartTransactionCommand();
	installed = OidIsValid(get_extension_oid("avcurate", true));
	CommitTransactionCommand();
	pgstat_report_activity(STATE_IDLE, NULL);
	return installed;
}

void
avc_worker_reload(void)
{
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}
