/*
 * slices/typed_refresh.c
 *		REFRESH MATERIALIZED VIEW typed by anyone makes a version too.
 *
 * Two event triggers see every REFRESH without any preload.  The one at the
 * start takes the lock that the command would take, notes the view's
 * contents, and turns a plain REFRESH into REFRESH CONCURRENTLY by setting
 * the flag on the parse tree (a private copy where the original is kept), so
 * that readers are not blocked and the difference can be read off the heap.
 * The one at the end records the version.
 *
 * The command's snapshot is older than the lock.  If the command had to wait,
 * or cannot see the newest version, what it computed may lack rows that the
 * refresh before it had; then the definition is recomputed once more under a
 * new snapshot before the version is written.  With one snapshot for the
 * whole transaction that is impossible: such a refresh is a serialisation
 * error if the other one made a version, else the slice is marked.
 *
 * What is between start and end is kept on a stack.  A command that fails
 * never reaches its end: the callbacks at the end of (sub)transactions drop
 * what it left.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_event_trigger.h"
#include "commands/event_trigger.h"
#include "commands/tablecmds.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "slices/refresh.h"

PG_FUNCTION_INFO_V1(avc_refresh_starts);
PG_FUNCTION_INFO_V1(avc_refresh_ends);

/* A command under way; lives in TopTransactionContext. */
typedef struct Watch
{
	struct Watch *outer;
	const Node *statement;		/* NULL: our own, leave it alone */
	Oid			relid;
	int			nest_level;		/* of the transaction it started in */
	bool		is_concurrent;
	int			guc_level;
	MemoryContext context;		/* of the refresh */
	AvcRefresh *refresh;
} Watch;

static Watch *watches = NULL;

static void
at_subtransaction_end(SubXactEvent event, SubTransactionId mine,
					  SubTransactionId parent, void *arg)
{
	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;
	while (watches && watches->nest_level >= GetCurrentTransactionNestLevel())
		watches = watches->outer;
}

static void
at_transaction_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_COMMIT ||
		event == XACT_EVENT_PREPARE)
		watches = NULL;
}

static Watch *
watch_push(Oid relid)
{
	static bool is_registered = false;
	Watch	   *watch;

	if (!is_registered)
	{
		RegisterXactCallback(at_transaction_end, NULL);
		RegisterSubXactCallback(at_subtransaction_end, NULL);
		is_registered = true;
	}
	watch = MemoryContextAllocZero(TopTransactionContext, sizeof(Watch));
	watch->relid = relid;
	watch->nest_level = GetCurrentTransactionNestLevel();
	watch->outer = watches;
	watches = watch;
	return watch;
}

void
avc_typed_refresh_suppress(Oid relid)
{
	(void) watch_push(relid);
}

void
avc_typed_refresh_resume(Oid relid)
{
	Watch	   *watch = watches;

	if (watch == NULL || watch->relid != relid || watch->statement != NULL)
		elog(ERROR, "refreshes are not nested properly");
	watches = watch->outer;
	pfree(watch);
}

static bool
is_suppressed(Oid relid)
{
	Watch	   *watch;

	for (watch = watches; watch; watch = watch->outer)
	{
		if (watch->statement == NULL && watch->relid == relid)
			return true;
	}
	return false;
}

/*
 * Lock the view against other refreshes, ownership first; sets *has_waited.
 * InvalidOid if it is gone by then.
 */
static Oid
lock_view(const RangeVar *relation, bool *has_waited)
{
	Oid			relid;

	relid = RangeVarGetRelidExtended(relation, ExclusiveLock,
									 RVR_MISSING_OK | RVR_SKIP_LOCKED,
									 RangeVarCallbackOwnsTable, NULL);
	if (OidIsValid(relid))
		return relid;
	*has_waited = true;
	return RangeVarGetRelidExtended(relation, ExclusiveLock, RVR_MISSING_OK,
									RangeVarCallbackOwnsTable, NULL);
}

/*
 * The tracked slice that the command names, locked for it; InvalidOid if the
 * command is none of our business.
 */
static Oid
lock_tracked(RefreshMatViewStmt *statement, bool *is_concurrent,
			 bool *has_waited)
{
	Oid			relid = RangeVarGetRelid(statement->relation, NoLock, true);
	AvcSlice   *slice;

	if (!OidIsValid(relid) || is_suppressed(relid) ||
		get_rel_relkind(relid) != RELKIND_MATVIEW)
		return InvalidOid;
	slice = avc_slice_find(relid, true);
	if (slice == NULL)
		return InvalidOid;

	if (OidIsValid(slice->dataset) &&
		!ConditionalLockRelationOid(slice->dataset, AccessShareLock))
	{
		/* a TRUNCATE empties the dataset for older snapshots as well */
		*has_waited = true;
		LockRelationOid(slice->dataset, AccessShareLock);
	}
	relid = lock_view(statement->relation, has_waited);
	/* whoever held the lock may have dropped or given up the slice */
	slice = OidIsValid(relid) ? avc_slice_find(relid, true) : NULL;
	if (slice == NULL)
		return InvalidOid;
	if (statement->skipData)
	{
		/* the history needs no view, but what fills it again must be new */
		avc_watermark_forget(slice->slice_id);
		return InvalidOid;
	}
	*is_concurrent = statement->concurrent ||
		avc_refresh_can_be_concurrent(relid);
	if (!*is_concurrent)
		LockRelationOid(relid, AccessExclusiveLock);
	return relid;
}

uint64
avc_typed_refresh_watch(void)
{
	static const char *const names[] = {
		"zz_avcurate_refresh_starts", "avcurate_refresh_ends"
	};
	uint64		hash = 1;
	int			i;

	for (i = 0; i < lengthof(names); i++)
	{
		HeapTuple	tuple = SearchSysCache1(EVENTTRIGGERNAME,
											CStringGetDatum(names[i]));
		TransactionId xmin;
		char		enabled;

		if (!HeapTupleIsValid(tuple))
			return 0;
		enabled = ((Form_pg_event_trigger) GETSTRUCT(tuple))->evtenabled;
		xmin = HeapTupleHeaderGetRawXmin(tuple->t_data);
		hash = hash_bytes_extended((unsigned char *) &xmin, sizeof(xmin),
								   hash);
		hash = hash_bytes_extended((unsigned char *) &tuple->t_self,
								   sizeof(tuple->t_self), hash);
		ReleaseSysCache(tuple);
		if (enabled != TRIGGER_FIRES_ALWAYS)
			return 0;
	}
	return hash | 1;
}

static Node *
statement_of(FunctionCallInfo fcinfo)
{
	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function was not called by an event trigger")));
	return ((EventTriggerData *) fcinfo->context)->parsetree;
}

Datum
avc_refresh_starts(PG_FUNCTION_ARGS)
{
	Node	   *node = statement_of(fcinfo);
	RefreshMatViewStmt *statement = (RefreshMatViewStmt *) node;
	bool		is_concurrent = false;
	bool		has_waited = false;
	MemoryContext old;
	Watch	   *watch;
	Oid			relid;

	if (!IsA(node, RefreshMatViewStmt))
		PG_RETURN_NULL();
	relid = lock_tracked(statement, &is_concurrent, &has_waited);
	if (!OidIsValid(relid))
		PG_RETURN_NULL();

	watch = watch_push(relid);
	watch->statement = node;
	/* the trigger's own memory ends with this call */
	watch->context = AllocSetContextCreate(TopTransactionContext,
										   "refresh of a slice",
										   ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(watch->context);
	watch->is_concurrent = is_concurrent;
	watch->refresh = avc_refresh_begin(relid, is_concurrent);
	watch->refresh->is_stale = has_waited ||
		avc_refresh_is_missed(watch->refresh->slice, GetActiveSnapshot());
	/* the command computes the rows with a copy of the active snapshot */
	avc_refresh_mark(watch->refresh, GetActiveSnapshot());
	statement->concurrent = is_concurrent;
	/* the definition runs with a pinned search_path, so name the view fully */
	statement->relation->schemaname =
		get_namespace_name(get_rel_namespace(relid));
	watch->guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, avcurate, pg_temp",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
	MemoryContextSwitchTo(old);
	PG_RETURN_NULL();
}

Datum
avc_refresh_ends(PG_FUNCTION_ARGS)
{
	Node	   *node = statement_of(fcinfo);
	Watch	   *watch = watches;

	if (watch == NULL || watch->statement != node)
		PG_RETURN_NULL();
	watches = watch->outer;
	AtEOXact_GUC(false, watch->guc_level);

	if (watch->refresh->is_stale && !IsolationUsesXactSnapshot())
	{
		avc_refresh_mark(watch->refresh, NULL);
		avc_refresh_run(watch->relid, watch->is_concurrent);
		watch->refresh->is_stale = false;
	}
	avc_refresh_finish(watch->refresh);
	MemoryContextDelete(watch->context);
	pfree(watch);
	PG_RETURN_NULL();
}
