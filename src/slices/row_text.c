/*
 * slices/row_text.c
 *		The text of a row, as PostgreSQL writes ROW(...)::text.
 *
 * Digests are over this text, so every byte of it counts.  PostgreSQL's own
 * record_out looks types up and allocates for each value; here the text of
 * the common types, and of arrays of them, goes straight into one buffer, and
 * any other value through its type's output function.
 */
#include "postgres.h"

#include <ctype.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "common/shortest_dec.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

#include "slices/row_text.h"

/* Longest text of a value of fixed length. */
#define FIXED_TEXT 32

typedef struct ColumnText
{
	bool		is_dropped;
	bool		is_varlena;
	Oid			function;		/* the type's output function */
	FmgrInfo	out;
	Oid			element;		/* output function of the elements of an
								 * array that is written here; 0 = not */
	int16		length;			/* of these elements */
	bool		by_value;
	char		align;
} ColumnText;

struct AvcRowText
{
	MemoryContext context;		/* holds all of this */
	MemoryContext scratch;		/* of one row */
	const TupleDescData *desc;	/* rows of it were the last ones */
	TupleDesc	record;			/* descriptor of records, our own copy */
	ColumnText *columns;
	Datum	   *values;			/* of a record */
	bool	   *nulls;
	StringInfoData text;
	StringInfoData array;		/* text of an array before it is quoted */
	bool		is_special[256];	/* bytes that need quotes in a row */
};

AvcRowText *
avc_row_text_begin(void)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "texts of rows",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	AvcRowText *writer = palloc0_object(AvcRowText);
	int			c;

	writer->context = context;
	writer->scratch = AllocSetContextCreate(context, "text of a row",
											ALLOCSET_DEFAULT_SIZES);
	initStringInfo(&writer->text);
	initStringInfo(&writer->array);
	for (c = 1; c < 256; c++)
		writer->is_special[c] = strchr("\"\\(),", c) != NULL || isspace(c);
	MemoryContextSwitchTo(old);
	return writer;
}

void
avc_row_text_end(AvcRowText *writer)
{
	MemoryContextDelete(writer->context);
}

/* Is a value with this output function written by append_fixed? */
static bool
is_fixed(Oid function)
{
	return function == F_INT2OUT || function == F_INT4OUT ||
		function == F_INT8OUT || function == F_FLOAT4OUT ||
		function == F_FLOAT8OUT || function == F_BOOLOUT;
}

static bool
is_text(Oid function)
{
	return function == F_TEXTOUT || function == F_VARCHAROUT ||
		function == F_BPCHAROUT;
}

/* Learn how the rows of a descriptor are written. */
static void
describe(AvcRowText *writer, TupleDesc desc)
{
	MemoryContext old = MemoryContextSwitchTo(writer->context);
	int			i;

	if (writer->columns)
		pfree(writer->columns);
	writer->columns = palloc0_array(ColumnText, desc->natts + 1);
	for (i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);
		ColumnText *column = &writer->columns[i];
		Oid			element;
		bool		is_varlena;

		column->is_dropped = attribute->attisdropped;
		if (column->is_dropped)
			continue;
		getTypeOutputInfo(attribute->atttypid, &column->function,
						  &column->is_varlena);
		fmgr_info(column->function, &column->out);
		element = get_base_element_type(attribute->atttypid);
		if (column->function != F_ARRAY_OUT || !OidIsValid(element))
			continue;
		getTypeOutputInfo(element, &column->element, &is_varlena);
		if (!is_fixed(column->element) && !is_text(column->element))
			column->element = InvalidOid;
		get_typlenbyvalalign(element, &column->length, &column->by_value,
							 &column->align);
	}
	writer->desc = desc;
	MemoryContextSwitchTo(old);
}

static void
append_fixed(StringInfo text, Oid function, Datum value)
{
	char	   *end;

	enlargeStringInfo(text, FIXED_TEXT);
	end = text->data + text->len;
	switch (function)
	{
		case F_INT2OUT:
			text->len += pg_itoa(DatumGetInt16(value), end);
			break;
		case F_INT4OUT:
			text->len += pg_ltoa(DatumGetInt32(value), end);
			break;
		case F_INT8OUT:
			text->len += pg_lltoa(DatumGetInt64(value), end);
			break;
		case F_FLOAT4OUT:
			text->len += float_to_shortest_decimal_buf(DatumGetFloat4(value),
													   end);
			break;
		case F_FLOAT8OUT:
			text->len += double_to_shortest_decimal_buf(DatumGetFloat8(value),
														end);
			break;
		case F_BOOLOUT:
			*end = DatumGetBool(value) ? 't' : 'f';
			text->len++;
			break;
		default:
			elog(ERROR, "unexpected output function %u", function);
	}
}

/* A value's text between quotes, with quotes and backslashes doubled. */
static void
append_quoted(StringInfo text, const char *value, int length, char escape)
{
	char	   *to;
	int			i;

	enlargeStringInfo(text, 2 * length + 2);
	to = text->data + text->len;
	*to++ = '"';
	for (i = 0; i < length; i++)
	{
		if (value[i] == '"' || value[i] == '\\')
			*to++ = escape ? escape : value[i];
		*to++ = value[i];
	}
	*to++ = '"';
	text->len = to - text->data;
}

/* A value's text as a field of a row. */
static void
append_field(AvcRowText *writer, const char *value, int length)
{
	int			i;

	for (i = 0; i < length; i++)
	{
		if (writer->is_special[(unsigned char) value[i]])
			break;
	}
	if (length == 0 || i < length)
		append_quoted(&writer->text, value, length, 0);
	else
		appendBinaryStringInfo(&writer->text, value, length);
}

/* A value's text as an element of an array. */
static void
append_element(StringInfo text, const char *value, int length)
{
	bool		is_quoted;
	int			i;

	is_quoted = length == 0 ||
		(length == 4 && pg_strncasecmp(value, "NULL", 4) == 0);
	for (i = 0; i < length && !is_quoted; i++)
		is_quoted = strchr("\"\\{}, \t\n\r\v\f", value[i]) != NULL;
	if (is_quoted)
		append_quoted(text, value, length, '\\');
	else
		appendBinaryStringInfo(text, value, length);
}

/* Where the writing of an array is. */
typedef struct ArrayReading
{
	ArrayType  *array;
	const ColumnText *column;
	const char *next;			/* next element */
	int			index;
} ArrayReading;

static void
append_next(StringInfo text, ArrayReading *reading)
{
	const ColumnText *column = reading->column;
	const bits8 *bitmap = ARR_NULLBITMAP(reading->array);
	int			index = reading->index++;
	Datum		value;

	if (bitmap && (bitmap[index / 8] & (1 << (index % 8))) == 0)
	{
		appendBinaryStringInfo(text, "NULL", 4);
		return;
	}
	value = fetch_att(reading->next, column->by_value, column->length);
	if (is_fixed(column->element))
		append_fixed(text, column->element, value);
	else
		append_element(text, VARDATA_ANY(DatumGetPointer(value)),
					   VARSIZE_ANY_EXHDR(DatumGetPointer(value)));
	reading->next = att_addlength_pointer(reading->next, column->length,
										  reading->next);
	reading->next = (char *) att_align_nominal(reading->next, column->align);
}

static void
append_dimension(StringInfo text, ArrayReading *reading, int dimension)
{
	int			i;

	appendStringInfoCharMacro(text, '{');
	for (i = 0; i < ARR_DIMS(reading->array)[dimension]; i++)
	{
		if (i > 0)
			appendStringInfoCharMacro(text, ',');
		if (dimension + 1 < ARR_NDIM(reading->array))
			append_dimension(text, reading, dimension + 1);
		else
			append_next(text, reading);
	}
	appendStringInfoCharMacro(text, '}');
}

/* Bounds are written where one of them does not start at 1. */
static void
append_bounds(StringInfo text, const ArrayType *array)
{
	const int  *dims = ARR_DIMS(array);
	const int  *bounds = ARR_LBOUND(array);
	int			i = 0;

	while (i < ARR_NDIM(array) && bounds[i] == 1)
		i++;
	if (i == ARR_NDIM(array))
		return;
	for (i = 0; i < ARR_NDIM(array); i++)
		appendStringInfo(text, "[%d:%d]", bounds[i],
						 bounds[i] + dims[i] - 1);
	appendStringInfoCharMacro(text, '=');
}

static void
append_array(AvcRowText *writer, const ColumnText *column, Datum value)
{
	ArrayReading reading = {DatumGetArrayTypeP(value), column};
	StringInfo	text = &writer->array;

	resetStringInfo(text);
	if (ARR_NDIM(reading.array) == 0)
		appendBinaryStringInfo(text, "{}", 2);
	else
	{
		reading.next = ARR_DATA_PTR(reading.array);
		append_bounds(text, reading.array);
		append_dimension(text, &reading, 0);
	}
	append_field(writer, text->data, text->len);
}

/* Hexadecimal digits after \x, which a row writes as "\\x...". */
static void
append_bytes(AvcRowText *writer, Datum value)
{
	struct varlena *bytes = PG_DETOAST_DATUM_PACKED(value);
	int			length = VARSIZE_ANY_EXHDR(bytes);
	StringInfo	text = &writer->text;

	enlargeStringInfo(text, 2 * length + 8);
	appendBinaryStringInfo(text, "\"\\\\x", 4);
	text->len += hex_encode(VARDATA_ANY(bytes), length,
							text->data + text->len);
	appendStringInfoCharMacro(text, '"');
}

static void
append_value(AvcRowText *writer, ColumnText *column, Datum value)
{
	if (is_fixed(column->function))
		append_fixed(&writer->text, column->function, value);
	else if (is_text(column->function))
	{
		struct varlena *text = PG_DETOAST_DATUM_PACKED(value);

		append_field(writer, VARDATA_ANY(text), VARSIZE_ANY_EXHDR(text));
	}
	else if (column->function == F_BYTEAOUT)
		append_bytes(writer, value);
	else if (OidIsValid(column->element))
		append_array(writer, column, value);
	else
	{
		char	   *text;

		if (column->is_varlena)
			value = PointerGetDatum(PG_DETOAST_DATUM(value));
		text = OutputFunctionCall(&column->out, value);
		append_field(writer, text, strlen(text));
	}
}

const char *
avc_row_text_of_values(AvcRowText *writer, TupleDesc desc,
					   const Datum *values, const bool *nulls, int *length)
{
	MemoryContext old = MemoryContextSwitchTo(writer->scratch);
	StringInfo	text = &writer->text;
	bool		is_first = true;
	int			i;

	if (writer->desc != desc)
		describe(writer, desc);
	resetStringInfo(text);
	appendStringInfoCharMacro(text, '(');
	for (i = 0; i < desc->natts; i++)
	{
		if (writer->columns[i].is_dropped)
			continue;
		if (!is_first)
			appendStringInfoCharMacro(text, ',');
		is_first = false;
		if (!nulls[i])
			append_value(writer, &writer->columns[i], values[i]);
	}
	appendStringInfoCharMacro(text, ')');
	text->data[text->len] = '\0';
	*length = text->len;
	MemoryContextSwitchTo(old);
	MemoryContextReset(writer->scratch);
	return text->data;
}

/* Make room for records of a type. */
static void
describe_record(AvcRowText *writer, Oid type, int32 typmod)
{
	MemoryContext old = MemoryContextSwitchTo(writer->context);

	if (writer->record)
	{
		FreeTupleDesc(writer->record);
		pfree(writer->values);
		pfree(writer->nulls);
	}
	writer->record = lookup_rowtype_tupdesc_copy(type, typmod);
	writer->record->tdtypeid = type;
	writer->record->tdtypmod = typmod;
	writer->values = palloc_array(Datum, writer->record->natts + 1);
	writer->nulls = palloc_array(bool, writer->record->natts + 1);
	writer->desc = NULL;
	MemoryContextSwitchTo(old);
}

const char *
avc_row_text_of_record(AvcRowText *writer, Datum record, int *length)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(record);
	Oid			type = HeapTupleHeaderGetTypeId(header);
	int32		typmod = HeapTupleHeaderGetTypMod(header);
	HeapTupleData tuple;

	if (writer->record == NULL || writer->record->tdtypeid != type ||
		writer->record->tdtypmod != typmod)
		describe_record(writer, type, typmod);
	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = header;
	heap_deform_tuple(&tuple, writer->record, writer->values, writer->nulls);
	return avc_row_text_of_values(writer, writer->record, writer->values,
								  writer->nulls, length);
}
