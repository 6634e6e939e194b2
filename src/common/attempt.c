/*
 * common/attempt.c
 *		Run a step that may fail for one row without failing the statement.
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "common/attempt.h"

/* Has the user or the server asked to stop? */
static bool
is_stop(int sqlstate)
{
	return ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_OPERATOR_INTERVENTION;
}

/* Would every other row fail, too, or has somebody asked to stop? */
static bool
is_for_statement(int sqlstate)
{
	/* one row may ask for too much, and its memory is given back */
	if (sqlstate == ERRCODE_OUT_OF_MEMORY)
		return false;
	switch (ERRCODE_TO_CATEGORY(sqlstate))
	{
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_TRANSACTION_ROLLBACK:
			return true;
		default:
			return is_stop(sqlstate);
	}
}

static bool
attempt(AvcStep step, void *arg, AvcFailure *failure,
		bool (*is_raised) (int sqlstate))
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool is_done = false;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		step(arg);
		ReleaseCurrentSubTransaction();
		is_done = true;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		/* always: left open, it would pass for a savepoint of the user */
		RollbackAndReleaseCurrentSubTransaction();
		if (is_raised(error->sqlerrcode))
			ReThrowError(error);
		failure->sqlstate = error->sqlerrcode;
		failure->message = error->message ? error->message : pstrdup("");
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return is_done;
}

bool
avc_attempt(AvcStep step, void *arg, AvcFailure *failure)
{
	return attempt(step, arg, failure, is_for_statement);
}

bool
avc_examine(AvcStep step, void *arg, AvcFailure *failure)
{
	return attempt(step, arg, failure, is_stop);
}
