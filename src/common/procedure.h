/*
 * common/procedure.h
 *		Procedures that commit as they go.
 */
#ifndef AVC_COMMON_PROCEDURE_H
#define AVC_COMMON_PROCEDURE_H

#include "fmgr.h"

typedef void (*AvcProcedure) (FunctionCallInfo fcinfo);

/*
 * Run the body of the procedure "name" with SPI connected and in a memory
 * context that outlives transactions; what this returns is the procedure's
 * result.  An error with a hint inside a transaction block or a function,
 * where it may not commit.
 *
 * All its transactions are READ COMMITTED, whatever the session's default is:
 * it meets the writes of others in the middle of a batch, and an isolation
 * that ends in a serialization failure then would lose the rest of the run.
 * What a calling procedure does before its own next COMMIT is, too.
 */
extern Datum avc_procedure_run(FunctionCallInfo fcinfo, const char *name,
							   AvcProcedure body);

/* Commit and start the next transaction. */
extern void avc_procedure_commit(void);

/*
 * In a PG_CATCH of the body: end the transaction that the error was raised in
 * and start the next one, in which the body can put things in order.  Returns
 * the error, in "context", to be thrown again.
 */
extern ErrorData *avc_procedure_rescue(MemoryContext context);

#endif
