/*
 * jobs/preloaded.c
 *		The launcher of a preloaded library: workers for jobs that nobody runs.
 *
 * Whoever queues a job starts a worker, so the launcher is for what a crash,
 * a restart or a lack of worker slots left behind.  It is connected to no
 * database.  When the server starts, and every avcurate.launcher_interval
 * from then on, it starts a worker of the queue in each database; one that
 * finds nothing to do leaves at once.  Where the server has fewer free worker
 * slots than databases, it goes on a moment later with the next database.
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

#define GO_ON_MS	1000		/* until the databases that had no turn */

/* What DROP DATABASE sets first from 15.4 on: nobody may connect any more. */
#define LIMIT_OF_INVALID	(-2)

/*
 * Databases that one may connect to and that are no templates, after one,
 * ascending.
 */
static List *
list_databases(MemoryContext context, Oid after)
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

		if (!form->datallowconn || form->datistemplate ||
			form->datconnlimit == LIMIT_OF_INVALID || form->oid <= after)
			continue;
		old = MemoryContextSwitchTo(context);
		databases = lappend_oid(databases, form->oid);
		MemoryContextSwitchTo(old);
	}
	table_endscan(scan);
	table_close(catalog, AccessShareLock);
	CommitTransactionCommand();
	list_sort(databases, list_oid_cmp);
	return databases;
}

/*
 * Start a worker in each database after the one that had the last turn.
 * False if the server has no free slot for the next one.
 */
static bool
look_everywhere(MemoryContext context, Oid *last)
{
	bool		has_slots = true;
	ListCell   *cell;

	foreach(cell, list_databases(context, *last))
	{
		has_slots = avc_worker_register_in(lfirst_oid(cell),
										   AVC_JOB_WORKER_ENTRY,
										   "avcurate job worker");
		if (!has_slots)
			break;
		*last = lfirst_oid(cell);
	}
	if (has_slots)
		*last = InvalidOid;
	MemoryContextReset(context);
	return has_slots;
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
	Oid			last = InvalidOid;

	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	for (;;)
	{
		long		pause;

		CHECK_FOR_INTERRUPTS();
		avc_worker_reload();
		pause = look_everywhere(context, &last) ?
			avc_launcher_interval * 1000L : GO_ON_MS;
		pgstat_report_activity(STATE_IDLE, NULL);
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 pause, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}
