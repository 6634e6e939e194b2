/*
 * common/procedure.c
 *		Procedures that commit as they go.
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "tcop/pquery.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"

#include "common/procedure.h"

static void
set_isolation(void)
{
	if (XactIsoLevel != XACT_READ_COMMITTED)
		(void) set_config_option("transaction_isolation", "read committed",
								 PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_LOCAL, true, 0, false);
}

void
avc_procedure_commit(void)
{
	SPI_commit();
	set_isolation();
}

ErrorData *
avc_procedure_rescue(MemoryContext context)
{
	ErrorData  *error;

	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	FlushErrorState();
	/* what the body called may have been connected to SPI itself */
	while (!SPI_inside_nonatomic_context())
	{
		if (SPI_finish() != SPI_OK_FINISH)
			elog(ERROR, "a procedure's connection to SPI is gone");
	}
	/* and in the middle of a statement: only the CALL's snapshot may stay */
	while (ActiveSnapshotSet() &&
		   (ActivePortal == NULL ||
			GetActiveSnapshot() != ActivePortal->portalSnapshot))
		PopActiveSnapshot();
	SPI_rollback();
	set_isolation();
	MemoryContextSwitchTo(context);
	return error;
}

Datum
avc_procedure_run(FunctionCallInfo fcinfo, const char *name,
				  AvcProcedure body)
{
	MemoryContext context;
	MemoryContext old;

	if (fcinfo->context == NULL || !IsA(fcinfo->context, CallContext) ||
		castNode(CallContext, fcinfo->context)->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot run inside a transaction block", name),
				 errhint("It commits as it goes: CALL it by itself, not after BEGIN, with psql -1, in a function or in one string with other statements.")));
	SPI_connect_ext(SPI_OPT_NONATOMIC);
	/* the level can be chosen only before the first snapshot is taken */
	if (XactIsoLevel != XACT_READ_COMMITTED)
		avc_procedure_commit();
	context = AllocSetContextCreate(PortalContext, "procedure",
									ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	body(fcinfo);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	SPI_finish();
	PG_RETURN_VOID();
}
