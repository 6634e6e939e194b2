/*
 * jobs/preloaded.c
 *		The launcher of a preloaded library: workers for jobs that nobody runs.
 *
 * Whoever queues a job starts a worker, so the launcher is for what a crash,
 * a restart or a lack of worker slots left behind.  It is connected to no
 * database.  When the server starts, and every avcurate.launcher_interval
 * from then on, it starts a worker of the queue in each database; one that
 * finds nothing to do leaves at once.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "common/settings.h"
#include "common/worker.h"
#include "jobs/queue.h"

extern PGDLLEXPORT void avc_launcher_main(Datum arg);

/* Databases that one may connect to and that are no templates. */
static List *
list_databases(MemoryContext context)
{
	List	   *databases = NIL;
	Relation	catalog;
	TableScanDesc scan;
	HeapTuple	tuple;

	StartTransactionCommand();
	catalog = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(catalog, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext old;

		if (!form->datallowconn || form->datistemplate)
			continue;
		old = MemoryContextSwitchTo(context);
		databases = lappend_oid(databases, form->oid);
		MemoryContextSwitchTo(old);
	}
	table_endscan(scan);
	table_close(catalog, AccessShareLock);
	CommitTransactionCommand();
	return databases;
}

static void
look_everywhere(MemoryContext context)
{
	ListCell   *cell;

	foreach(cell, list_databases(context))
		if (!avc_worker_register_in(lfirst_oid(cell), AVC_JOB_WORKER_ENTRY,
									"avcurate job worker"))
			break;
	MemoryContextReset(context);
}

/*
 * Entry of the launcher.
 */
void
avc_launcher_main(Datum arg)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext,
												  "avcurate launcher",
												  ALLOCSET_DEFAULT_SIZES);

	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		avc_worker_reload();
		look_everywhere(context);
		pgstat_report_activity(STATE_IDLE, NULL);
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 avc_launcher_interval * 1000L, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}
