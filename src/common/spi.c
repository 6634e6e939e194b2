/*
 * common/spi.c
 *		Short forms of what nearly every caller of SPI does.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
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

uint64
avc_spi_exec(const char *sql, int nparams, const AvcParam *params,
			 bool read_only, long limit)
{
	Oid			types[AVC_MAX_PARAMS];
	Datum		values[AVC_MAX_PARAMS];
	char		nulls[AVC_MAX_PARAMS];
	MemoryContext context = CurrentMemoryContext;
	int			i;
	int			result;

	memset(nulls, 0, sizeof(nulls));
	if (nparams > AVC_MAX_PARAMS)
		elog(ERROR, "too many parameters: %d", nparams);
	for (i = 0; i < nparams; i++)
	{
		types[i] = params[i].type;
		values[i] = params[i].value;
		nulls[i] = params[i].is_null ? 'n' : ' ';
	}
	result = SPI_execute_with_args(sql, nparams, types, values, nulls,
								   read_only, limit);
	/* SPI leaves its own context current, which lives until SPI_finish */
	MemoryContextSwitchTo(context);
	if (result < 0)
		elog(ERROR, "could not run \"%s\": %s", sql,
			 SPI_result_code_string(result));
	return SPI_processed;
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
