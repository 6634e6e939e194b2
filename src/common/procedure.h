/*
 * common/procedure.h
 *		Procedures that commit as they go.
 */
#ifndef AVC_COMMON_PROCEDURE_H
#define AVC_COMMON_PROCEDURE_H

#include "fmgr.h"

/*
 * First call of a procedure: check that it may commit (an error with a hint
 * inside a transaction block or a function) and connect to SPI.  "name" is
 * the procedure's.  SPI_finish() is the caller's, and what it needs it keeps
 * in a context that outlives transactions.
 *
 * All its transactions are READ COMMITTED, whatever the session's default is:
 * it meets the writes of others in the middle of a batch, and an isolation
 * that ends in a serialization failure then would lose the rest of the run.
 * What a calling procedure does before its own next COMMIT is, too.
 */
extern void avc_procedure_enter(FunctionCallInfo fcinfo, const char *name);

/* Commit and start the next transaction. */
extern void avc_procedure_commit(void);

#endif
