/*
 * features/marks.c
 *		The state of a row's features, kept in the row itself.
 *
 * The functions are called by the statements that backfill builds, with the
 * rights of the dataset's owner, and by the views that count.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/rel.h"

#include "datasets/dataset.h"
#include "features/marks.h"

PG_FUNCTION_INFO_V1(avc_feature_state);
PG_FUNCTION_INFO_V1(avc_feature_open);
PG_FUNCTION_INFO_V1(avc_feature_marked);
PG_FUNCTION_INFO_V1(avc_reset_features);

AvcMark
avc_mark_get(const bytea *marks, int feature_no)
{
	int			byte = feature_no / 4;
	int			mark;

	if (marks == NULL || byte >= VARSIZE_ANY_EXHDR(marks))
		return AVC_MARK_PENDING;
	mark = (((const uint8 *) VARDATA_ANY(marks))[byte] >>
			(2 * (feature_no % 4))) & 3;
	/* nobody but a user's UPDATE of the column sets both bits */
	return mark <= AVC_MARK_FAILED ? mark : AVC_MARK_PENDING;
}

bytea *
avc_mark_set(const bytea *marks, int feature_no, AvcMark mark)
{
	int			old_len = marks ? VARSIZE_ANY_EXHDR(marks) : 0;
	int			byte = feature_no / 4;
	int			len = Max(old_len, byte + 1);
	bytea	   *copy = palloc0(VARHDRSZ + len);
	uint8	   *bits = (uint8 *) VARDATA(copy);

	SET_VARSIZE(copy, VARHDRSZ + len);
	if (old_len > 0)
		memcpy(bits, VARDATA_ANY(marks), old_len);
	bits[byte] &= ~(3 << (2 * (feature_no % 4)));
	bits[byte] |= mark << (2 * (feature_no % 4));
	return copy;
}

static int
check_feature_no(int feature_no)
{
	if (feature_no < 0 || feature_no > AVC_MAX_FEATURE_NO)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("feature number %d is out of range", feature_no)));
	return feature_no;
}

/* Do all elements of an int[] have that state? */
static bool
all_are(const bytea *marks, ArrayType *numbers, AvcMark mark)
{
	const int32 *number = (const int32 *) ARR_DATA_PTR(numbers);
	int			count = ArrayGetNItems(ARR_NDIM(numbers), ARR_DIMS(numbers));
	int			i;

	for (i = 0; i < count; i++)
	{
		if (avc_mark_get(marks, check_feature_no(number[i])) != mark)
			return false;
	}
	return true;
}

static bool
has_any(const bytea *marks, ArrayType *numbers, AvcMark mark)
{
	const int32 *number = (const int32 *) ARR_DATA_PTR(numbers);
	int			count = ArrayGetNItems(ARR_NDIM(numbers), ARR_DIMS(numbers));
	int			i;

	for (i = 0; i < count; i++)
	{
		if (avc_mark_get(marks, check_feature_no(number[i])) == mark)
			return true;
	}
	return false;
}

static bytea *
marks_argument(FunctionCallInfo fcinfo)
{
	return PG_ARGISNULL(0) ? NULL : PG_GETARG_BYTEA_PP(0);
}

/* feature_state(marks, feature_no): 0 pending, 1 done, 2 failed. */
Datum
avc_feature_state(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(1))
		PG_RETURN_NULL();
	PG_RETURN_INT32(avc_mark_get(marks_argument(fcinfo),
								 check_feature_no(PG_GETARG_INT32(1))));
}

static ArrayType *
numbers_argument(FunctionCallInfo fcinfo, int argument)
{
	ArrayType  *numbers = PG_GETARG_ARRAYTYPE_P(argument);

	if (array_contains_nulls(numbers))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("feature numbers must not be NULL")));
	return numbers;
}

/*
 * feature_open(marks, feature_no, done_first, not_failed): is the feature
 * pending, are all of done_first done, and has none of not_failed failed?
 */
Datum
avc_feature_open(PG_FUNCTION_ARGS)
{
	bytea	   *marks = marks_argument(fcinfo);

	if (PG_ARGISNULL(1) || PG_ARGISNULL(2) || PG_ARGISNULL(3))
		PG_RETURN_NULL();
	PG_RETURN_BOOL(avc_mark_get(marks, check_feature_no(PG_GETARG_INT32(1))) == AVC_MARK_PENDING &&
				   all_are(marks, numbers_argument(fcinfo, 2), AVC_MARK_DONE) &&
				   !has_any(marks, numbers_argument(fcinfo, 3), AVC_MARK_FAILED));
}

/*
 * feature_marked(marks, feature_no, old_state, new_state, done_first): the
 * marks with the feature's state changed, if it is the old one and all of
 * done_first are done; else as they are.
 */
Datum
avc_feature_marked(PG_FUNCTION_ARGS)
{
	bytea	   *marks = marks_argument(fcinfo);
	int			number;
	int			state;
	int			i;

	for (i = 1; i < 5; i++)
	{
		if (PG_ARGISNULL(i))
			PG_RETURN_NULL();
	}
	number = check_feature_no(PG_GETARG_INT32(1));
	state = PG_GETARG_INT32(3);
	if (state < AVC_MARK_PENDING || state > AVC_MARK_FAILED)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("feature state %d is out of range", state)));
	if (avc_mark_get(marks, number) == PG_GETARG_INT32(2) &&
		all_are(marks, numbers_argument(fcinfo, 4), AVC_MARK_DONE))
		PG_RETURN_BYTEA_P(avc_mark_set(marks, number, state));
	if (marks == NULL)
		PG_RETURN_NULL();
	PG_RETURN_BYTEA_P(marks);
}

/* Does the UPDATE change this column?  One that is gone counts as changed. */
static bool
is_changed(TriggerData *trigger, const char *column)
{
	TupleDesc	desc = RelationGetDescr(trigger->tg_relation);
	int			number = SPI_fnumber(desc, column);
	Form_pg_attribute attribute;
	Datum		old_value,
				new_value;
	bool		old_null,
				new_null;

	if (number <= 0)
		return true;
	attribute = TupleDescAttr(desc, number - 1);
	old_value = heap_getattr(trigger->tg_trigtuple, number, desc, &old_null);
	new_value = heap_getattr(trigger->tg_newtuple, number, desc, &new_null);
	if (old_null || new_null)
		return old_null != new_null;
	/* equal TOAST pointers need no look at what they point to */
	return !datumIsEqual(old_value, new_value, attribute->attbyval,
						 attribute->attlen) &&
		!datum_image_eq(old_value, new_value, attribute->attbyval,
						attribute->attlen);
}

/* Set features back whose numbers the text lists; NULL if none changes. */
static bytea *
reset_listed(const bytea *marks, const char *numbers)
{
	bytea	   *reset = NULL;

	while (*numbers != '\0')
	{
		char	   *end;
		int			number = check_feature_no((int) strtol(numbers, &end, 10));

		if (avc_mark_get(marks, number) != AVC_MARK_PENDING)
			marks = reset = avc_mark_set(marks, number, AVC_MARK_PENDING);
		if (end == numbers)
			elog(ERROR, "\"%s\" is no list of features", numbers);
		numbers = *end == ',' ? end + 1 : end;
	}
	return reset;
}

/*
 * Row trigger of datasets with features: what reads a column that changes
 * is pending again.  The arguments are pairs of a column and the numbers of
 * the features that depend on it, directly or through others, with commas.
 */
Datum
avc_reset_features(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	TupleDesc	desc;
	HeapTuple	tuple;
	bytea	   *marks;
	Datum		value;
	bool		is_null;
	bool		is_reset = false;
	int			column;
	int			i;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_BEFORE(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		!TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("reset_features is a row trigger of datasets, before update")));
	tuple = trigger->tg_newtuple;
	desc = RelationGetDescr(trigger->tg_relation);
	column = SPI_fnumber(desc, AVC_MARKS_COLUMN);
	if (column <= 0)
		return PointerGetDatum(tuple);
	value = heap_getattr(tuple, column, desc, &is_null);
	if (is_null)
		return PointerGetDatum(tuple);
	marks = DatumGetByteaPP(value);

	for (i = 0; i + 1 < trigger->tg_trigger->tgnargs; i += 2)
	{
		bytea	   *reset;

		if (!is_changed(trigger, trigger->tg_trigger->tgargs[i]))
			continue;
		reset = reset_listed(marks, trigger->tg_trigger->tgargs[i + 1]);
		if (reset != NULL)
		{
			marks = reset;
			is_reset = true;
		}
	}
	if (is_reset)
	{
		value = PointerGetDatum(marks);
		tuple = heap_modify_tuple_by_cols(tuple, desc, 1, &column, &value,
										  &is_null);
	}
	return PointerGetDatum(tuple);
}
