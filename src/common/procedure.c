/*
 * common/procedure.c
 *		Procedures that commit as they go.
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/portal.h"

#include "common/procedure.h"

void
avc_procedure_commit(void)
{
	SPI_commit();
	if (XactIsoLevel != XACT_READ_COMMITTED)
		(void) set_config_option("transaction_isolation", "read committed",
								 PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_LOCAL, true, 0, false);
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
