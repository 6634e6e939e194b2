/*
 * common/attempt.h
 *		Run a step that may fail for one row without failing the statement.
 */
#ifndef AVC_COMMON_ATTEMPT_H
#define AVC_COMMON_ATTEMPT_H

typedef struct AvcFailure
{
	int			sqlstate;		/* as MAKE_SQLSTATE */
	char	   *message;		/* the primary message, palloc'd */
} AvcFailure;

typedef void (*AvcStep) (void *arg);

/*
 * Run step(arg) in a subtransaction, in the current memory context.  True
 * if it went through.  If it raised an error, everything that it wrote is
 * undone and *failure says why.  Errors that concern the statement and not
 * its data are raised again: cancel and shutdown, lack of resources (but
 * not of memory), deadlocks and serialization failures.  SPI must be connected.
 */
extern bool avc_attempt(AvcStep step, void *arg, AvcFailure *failure);

/*
 * The same for what is tried in order to know whether it works: nothing but
 * cancel and shutdown is raised again.
 */
extern bool avc_examine(AvcStep step, void *arg, AvcFailure *failure);

#endif
