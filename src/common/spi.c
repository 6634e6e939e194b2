/*
 * common/spi.c
 *		Short forms of what nearly every caller of SPI does.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/tstoreReceiver.h"
#include "tcop/dest.h"
#include "tcop/pquery.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"

#include "common/spi.h"

#define AVC_MAX_PARAMS 64

AvcParam
avc_param_text(const char *string)
{
	AvcParam	param = {TEXTOID, (Datum) 0, true};

	if (string != NULL)
	{
		param.value = CStringGetTextDatum(string);
		param.is_null = false;
	}
	return param;
}

AvcParam
avc_param_name(const char *string)
{
	/* a name has NAMEDATALEN bytes, whatever the string's length is */
	return (AvcParam) {NAMEOID,
		DirectFunctionCall1(namein, CStringGetDatum(string)), false};
}

/* Parameters as SPI takes them. */
typedef struct Bound
{
	Oid			types[AVC_MAX_PARAMS];
	Datum		values[AVC_MAX_PARAMS];
	char		nulls[AVC_MAX_PARAMS];
} Bound;

static void
bind_params(Bound *bound, int nparams, const AvcParam *params)
{
	int			i;

	if (nparams > AVC_MAX_PARAMS)
		elog(ERROR, "too many parameters: %d", nparams);
	memset(bound->nulls, 0, sizeof(bound->nulls));
	for (i = 0; i < nparams; i++)
	{
		bound->types[i] = params[i].type;
		bound->values[i] = params[i].value;
		bound->nulls[i] = params[i].is_null ? 'n' : ' ';
	}
}

/*
 * Back to the caller's context (SPI leaves its own current, which lives until
 * SPI_finish); how many rows the statement had.
 */
static uint64
end_statement(MemoryContext context, const char *sql, int result)
{
	MemoryContextSwitchTo(context);
	if (result < 0)
		elog(ERROR, "could not run \"%s\": %s", sql,
			 SPI_result_code_string(result));
	return SPI_processed;
}

uint64
avc_spi_exec(const char *sql, int nparams, const AvcParam *params,
			 bool read_only, long limit)
{
	Bound		bound;
	MemoryContext context = CurrentMemoryContext;
	int			result;

	bind_params(&bound, nparams, params);
	result = SPI_execute_with_args(sql, nparams, bound.types,
								   bound.values, bound.nulls, read_only,
								   limit);
	return end_statement(context, sql, result);
}

uint64
avc_spi_exec_kept(SPIPlanPtr *plan, const char *sql, int nparams,
				  const AvcParam *params, bool read_only, long limit)
{
	Bound		bound;
	MemoryContext context = CurrentMemoryContext;
	int			result;

	bind_params(&bound, nparams, params);
	if (*plan == NULL)
	{
		/* generic at once: trying custom plans first would only cost */
		SPIPlanPtr	made = SPI_prepare_cursor(sql, nparams, bound.types,
											  CURSOR_OPT_GENERIC_PLAN);

		if (made == NULL || SPI_keepplan(made) != 0)
			elog(ERROR, "could not prepare \"%s\": %s", sql,
				 SPI_result_code_string(SPI_result));
		*plan = made;
	}
	result = SPI_execute_plan(*plan, bound.values, bound.nulls, read_only,
							  limit);
	return end_statement(context, sql, result);
}

Portal
avc_spi_cursor(const char *sql, int nparams, const AvcParam *params,
			   bool read_only)
{
	Bound		bound;

	bind_params(&bound, nparams, params);
	return SPI_cursor_open_with_args(NULL, sql, nparams, bound.types,
									 bound.values, bound.nulls, read_only,
									 CURSOR_OPT_NO_SCROLL);
}

uint64
avc_spi_store(Portal portal, Tuplestorestate *store)
{
	DestReceiver *dest = CreateDestReceiver(DestTuplestore);
	uint64		rows;

	SetTuplestoreDestReceiverParams(dest, store, CurrentMemoryContext, false,
									NULL, NULL);
	/* what SPI_cursor_fetch does, but SPI keeps a copy of each row */
	rows = PortalRunFetch(portal, FETCH_FORWARD, FETCH_ALL, dest);
	dest->rDestroy(dest);
	SPI_cursor_close(portal);
	return rows;
}

Datum
avc_spi_value(const char *sql, int nparams, const AvcParam *params,
			  MemoryContext context, bool *is_null)
{
	TupleDesc	desc;
	Datum		value;
	int16		length;
	bool		by_value;
	MemoryContext old;

	*is_null = true;
	if (avc_spi_exec(sql, nparams, params, false, 1) == 0 ||
		SPI_tuptable == NULL)
		return (Datum) 0;
	desc = SPI_tuptable->tupdesc;
	value = SPI_getbinval(SPI_tuptable->vals[0], desc, 1, is_null);
	if (*is_null)
		return (Datum) 0;
	get_typlenbyval(TupleDescAttr(desc, 0)->atttypid, &length, &by_value);
	old = MemoryContextSwitchTo(context);
	value = datumCopy(value, by_value, length);
	MemoryContextSwitchTo(old);
	return value;
}

int64
avc_spi_int64(const char *sql, int nparams, const AvcParam *params,
			  int64 missing)
{
	bool		is_null;
	Datum		value;

	value = avc_spi_value(sql, nparams, params, CurrentMemoryContext,
						  &is_null);
	return is_null ? missing : DatumGetInt64(value);
}

Datum
avc_spi_column(uint64 row, const char *name, bool *is_null)
{
	int			number = SPI_fnumber(SPI_tuptable->tupdesc, name);

	if (number == SPI_ERROR_NOATTRIBUTE)
		elog(ERROR, "query result has no column \"%s\"", name);
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
						 number, is_null);
}
