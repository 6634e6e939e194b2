/*
 * common/spi.h
 *		Short forms of what nearly every caller of SPI does.
 *
 * All expect SPI to be connected.  Parameters are given as one AvcParam
 * array; $1 is element 0.
 */
#ifndef AVC_COMMON_SPI_H
#define AVC_COMMON_SPI_H

#include "executor/spi.h"
#include "utils/tuplestore.h"

typedef struct AvcParam
{
	Oid			type;
	Datum		value;
	bool		is_null;
} AvcParam;

#define AVC_INT8(v)		((AvcParam) {INT8OID, Int64GetDatum(v), false})
#define AVC_INT4(v)		((AvcParam) {INT4OID, Int32GetDatum(v), false})
#define AVC_OID(v)		((AvcParam) {OIDOID, ObjectIdGetDatum(v), false})
#define AVC_REGCLASS(v) ((AvcParam) {REGCLASSOID, ObjectIdGetDatum(v), false})
#define AVC_BOOL(v)		((AvcParam) {BOOLOID, BoolGetDatum(v), false})
#define AVC_FLOAT8(v)	((AvcParam) {FLOAT8OID, Float8GetDatum(v), false})
/* a C string, or NULL for SQL NULL; palloc'd copy in the current context */
#define AVC_TEXT(s)		avc_param_text(s)
#define AVC_NULL(t)		((AvcParam) {(t), (Datum) 0, true})

/* a C string as a name */
#define AVC_NAME(s)		avc_param_name(s)

extern AvcParam avc_param_text(const char *string);
extern AvcParam avc_param_name(const char *string);

/*
 * Run one statement and return the number of rows it touched; rows of a
 * SELECT or RETURNING are in SPI_tuptable.  limit 0 means all rows.
 */
extern uint64 avc_spi_exec(const char *sql, int nparams,
						   const AvcParam *params, bool read_only, long limit);

/*
 * The same with a plan that is made once in a backend and kept: *plan is a
 * static variable of the one caller of this statement, NULL at first.  The
 * text and the types of the parameters are the same at each call, and so is
 * the scope it is called in, which is avc_catalog_enter's: what the names
 * mean, and so the plan, follows the search_path.  PostgreSQL makes the plan
 * again when a table it reads is dropped, made or altered.  The plan is
 * generic, so for look-ups by key and not for what reads a lot or little.
 */
extern uint64 avc_spi_exec_kept(SPIPlanPtr *plan, const char *sql,
								int nparams, const AvcParam *params,
								bool read_only, long limit);

/* Open a cursor on a query's rows, to be read forwards. */
extern Portal avc_spi_cursor(const char *sql, int nparams,
							 const AvcParam *params, bool read_only);

/*
 * Put all rows of the cursor into the store as they are, TOAST pointers
 * included, and close it.  Returns their number.
 */
extern uint64 avc_spi_store(Portal portal, Tuplestorestate *store);

/*
 * The first column of the first row.  *is_null is true for NULL and for no
 * row at all; the Datum is copied into "context".
 */
extern Datum avc_spi_value(const char *sql, int nparams,
						   const AvcParam *params, MemoryContext context,
						   bool *is_null);

/* The same for a bigint, "missing" when there is no row or it is NULL. */
extern int64 avc_spi_int64(const char *sql, int nparams,
						   const AvcParam *params, int64 missing);

/* Column "name" of row "row" of SPI_tuptable; an error if there is none. */
extern Datum avc_spi_column(uint64 row, const char *name, bool *is_null);

#endif
