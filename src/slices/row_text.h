/*
 * slices/row_text.h
 *		The text of a row, as PostgreSQL writes ROW(...)::text.
 *
 * The settings that values depend on are the caller's business.
 */
#ifndef AVC_SLICES_ROW_TEXT_H
#define AVC_SLICES_ROW_TEXT_H

#include "access/tupdesc.h"

typedef struct AvcRowText AvcRowText;

extern AvcRowText *avc_row_text_begin(void);
extern void avc_row_text_end(AvcRowText *writer);

/*
 * The text, in the server's encoding, until the next call.  The descriptor
 * stays as it is while rows of it are written.
 */
extern const char *avc_row_text_of_values(AvcRowText *writer, TupleDesc desc,
										  const Datum *values,
										  const bool *nulls, int *length);
extern const char *avc_row_text_of_record(AvcRowText *writer, Datum record,
										  int *length);

#endif
