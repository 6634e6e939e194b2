/*
 * experiments/suggest_conditions.c
 *		Conditions that filters are put together from.
 *
 *	attribute			conditions
 *	text column			= each of its frequent values (weather, scene, ...)
 *	boolean column		it, and its opposite
 *	number column		below its first quartile and its median, from its
 *						median and its third quartile on
 *	number of boxes		the same
 *	time of frame		four quarters of the day, UTC
 *	category			is there; the largest box is below its first quartile
 *						or median, or from the third quartile on
 *
 * Columns are all those of the dataset that a user or a feature added, and
 * weather, scene and timeofday.  Thresholds have three digits, so that a
 * filter can be read; frames are assigned by the threshold as it is written.
 */
#include "postgres.h"

#include <math.h>

#include "access/relation.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "common/spi.h"
#include "datasets/dataset.h"
#include "experiments/suggest.h"
#include "features/feature.h"

#define MAX_VALUES 20			/* of a text column that are looked at */
#define LONGEST_VALUE 100		/* bytes */

typedef enum ColumnKind
{
	COLUMN_TEXT,
	COLUMN_BOOL,
	COLUMN_NUMBER,
	COLUMN_INTEGER,
	COLUMN_HOUR,
	COLUMN_AREA					/* of the largest box of a category */
} ColumnKind;

typedef struct Column
{
	ColumnKind	kind;
	char	   *sql;			/* as the filter says it */
	char	   *read;			/* as it is read: float8, boolean or text */
	int			category;		/* -1 = none */
	double	   *numbers;		/* of each frame; NaN = NULL, 0 and 1 for bool */
	char	  **texts;			/* instead, of a text column; NULL = NULL */
} Column;

typedef struct Columns
{
	Column	   *list;
	int			count;
	int			space;
} Columns;

/* Columns that are no metadata, or that conditions of their own are about. */
static const char *const left_out[] = {
	"frame_id", "image_id", "split", "image_bytes", "image_sha256", "width",
	"height", "ann_categories", "ann_bboxes", "ann_occluded",
	"ann_truncated", "ann_ignored", "ann_area", AVC_MARKS_COLUMN
};

/* ---- which columns -------------------------------------------------- */

static Column *
add_column(Columns *columns, ColumnKind kind, char *sql, const char *read)
{
	Column	   *column;

	if (columns->count == columns->space)
	{
		columns->space = 2 * columns->space + 32;
		columns->list = columns->list == NULL ?
			palloc_array(Column, columns->space) :
			repalloc(columns->list, sizeof(Column) * columns->space);
	}
	column = &columns->list[columns->count++];
	memset(column, 0, sizeof(*column));
	column->kind = kind;
	column->sql = sql;
	column->read = psprintf(read, sql);
	column->category = -1;
	return column;
}

static bool
is_left_out(const char *name)
{
	int			i;

	for (i = 0; i < lengthof(left_out); i++)
		if (strcmp(name, left_out[i]) == 0)
			return true;
	return false;
}

static void
add_table_column(Columns *columns, const char *name, Oid type)
{
	char	   *sql = pstrdup(quote_identifier(name));

	switch (type)
	{
		case TEXTOID:
		case VARCHAROID:
			add_column(columns, COLUMN_TEXT, sql, "%s::pg_catalog.text");
			break;
		case BOOLOID:
			add_column(columns, COLUMN_BOOL, sql, "%s");
			break;
		case INT2OID:
		case INT4OID:
		case INT8OID:
			add_column(columns, COLUMN_INTEGER, sql,
					   "%s::pg_catalog.float8");
			break;
		case FLOAT4OID:
		case FLOAT8OID:
		case NUMERICOID:
			add_column(columns, COLUMN_NUMBER, sql, "%s::pg_catalog.float8");
			break;
		default:
			break;
	}
}

static void
find_columns(Columns *columns, const AvcSurvey *survey, Oid dataset)
{
	Relation	relation = relation_open(dataset, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(relation);
	int			i;

	for (i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);

		if (attribute->attisdropped)
			continue;
		if (strcmp(NameStr(attribute->attname), "frame_time") == 0)
			add_column(columns, COLUMN_HOUR,
					   "date_part('hour', frame_time AT TIME ZONE 'UTC')",
					   "pg_catalog.%s");
		else if (!is_left_out(NameStr(attribute->attname)))
			add_table_column(columns, NameStr(attribute->attname),
							 attribute->atttypid);
	}
	relation_close(relation, NoLock);
	add_column(columns, COLUMN_INTEGER, "cardinality(ann_categories)",
			   "pg_catalog.%s::pg_catalog.float8");
	for (i = 0; i < survey->category_count; i++)
	{
		char	   *category = quote_literal_cstr(survey->counts[i + 1].category);

		add_column(columns, COLUMN_AREA,
				   psprintf("avcurate.largest_box_area_pct(ann_categories, ann_bboxes, width, height, %s)",
							category), "%s::pg_catalog.float8")->category = i;
	}
}

/* ---- their values --------------------------------------------------- */

static char *
query_of(const Columns *columns, Oid dataset)
{
	StringInfoData sql;
	int			i;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT frame_id::pg_catalog.int8");
	for (i = 0; i < columns->count; i++)
		appendStringInfo(&sql, ", %s", columns->list[i].read);
	appendStringInfo(&sql, " FROM ONLY %s WHERE frame_id "
					 "OPERATOR(pg_catalog.=) ANY ($1)",
					 avc_dataset_find(dataset, false)->quoted_name);
	return sql.data;
}

static void
take_value(Column *column, int64 place, Datum value, bool is_null)
{
	double		number;

	if (column->kind == COLUMN_TEXT)
	{
		if (!is_null)
			column->texts[place] = TextDatumGetCString(value);
		return;
	}
	if (is_null)
		return;
	number = column->kind == COLUMN_BOOL ? DatumGetBool(value) :
		DatumGetFloat8(value);
	/* the server sorts NaN above everything */
	column->numbers[place] = isnan(number) ? INFINITY : number;
}

static void
read_values(Columns *columns, const AvcSurvey *survey, Oid dataset)
{
	AvcParam	param = avc_id_array(survey->frame_ids,
									 (int) survey->frame_count);
	MemoryContext context = CurrentMemoryContext;
	int64		room = (int64) survey->words * 64;
	int			i;
	int64		f;
	Portal		cursor;

	for (i = 0; i < columns->count; i++)
	{
		Column	   *column = &columns->list[i];

		if (column->kind == COLUMN_TEXT)
		{
			column->texts = palloc_extended(sizeof(char *) * room,
											MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
			continue;
		}
		column->numbers = palloc_extended(sizeof(double) * room,
										  MCXT_ALLOC_HUGE);
		for (f = 0; f < room; f++)
			column->numbers[f] = NAN;
	}
	SPI_connect();
	cursor = avc_spi_cursor(query_of(columns, dataset), 1, &param, true);
	for (;;)
	{
		uint64		row;
		MemoryContext old;

		CHECK_FOR_INTERRUPTS();
		SPI_cursor_fetch(cursor, true, 1000);
		if (SPI_processed == 0)
			break;
		old = MemoryContextSwitchTo(context);
		for (row = 0; row < SPI_processed; row++)
		{
			HeapTuple	tuple = SPI_tuptable->vals[row];
			TupleDesc	desc = SPI_tuptable->tupdesc;
			bool		is_null;
			int64		place;

			place = avc_survey_place(survey, DatumGetInt64(SPI_getbinval(tuple, desc, 1,
																		 &is_null)));
			for (i = 0; place >= 0 && i < columns->count; i++)
			{
				Datum		value = SPI_getbinval(tuple, desc, i + 2, &is_null);

				take_value(&columns->list[i], place, value, is_null);
			}
		}
		MemoryContextSwitchTo(old);
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(cursor);
	SPI_finish();
}

/* ---- conditions ----------------------------------------------------- */

static int64
count_frames(const uint64 *frames, int words)
{
	int64		count = 0;
	int			w;

	for (w = 0; w < words; w++)
		count += pg_popcount64(frames[w]);
	return count;
}

static uint64 *
new_set(const AvcSurvey *survey)
{
	return palloc0_array(uint64, survey->words + 1);
}

/* Keep a condition that enough frames satisfy; it has the set's memory. */
static void
add_condition(AvcSurvey *survey, const Column *column, int attribute,
			  char *sql, uint64 *frames, int64 min_frames)
{
	AvcCondition *condition;
	int			i;

	if (count_frames(frames, survey->words) < min_frames)
		return;
	/* of two ways to say the same the first will do */
	for (i = 0; i < survey->condition_count; i++)
		if (survey->conditions[i].attribute == attribute &&
			survey->conditions[i].category == column->category &&
			memcmp(survey->conditions[i].frames, frames,
				   sizeof(uint64) * survey->words) == 0)
			return;
	if (survey->condition_count == survey->condition_space)
	{
		survey->condition_space = 2 * survey->condition_space + 64;
		survey->conditions = survey->conditions == NULL ?
			palloc_array(AvcCondition, survey->condition_space) :
			repalloc(survey->conditions,
					 sizeof(AvcCondition) * survey->condition_space);
	}
	condition = &survey->conditions[survey->condition_count++];
	condition->sql = sql;
	condition->attribute = attribute;
	condition->category = column->category;
	condition->is_presence = false;
	condition->frames = frames;
}

/* Frames whose number n satisfies from <= n < to. */
static uint64 *
frames_between(const AvcSurvey *survey, const Column *column, double from,
			   double to)
{
	uint64	   *frames = new_set(survey);
	int64		f;

	for (f = 0; f < survey->frame_count; f++)
		if (column->numbers[f] >= from &&
			(column->numbers[f] < to || to == INFINITY))
			frames[f / 64] |= UINT64CONST(1) << (f % 64);
	return frames;
}

static int
compare_doubles(const void *a, const void *b)
{
	double		x = *(const double *) a;
	double		y = *(const double *) b;

	return (x > y) - (x < y);
}

/* The number as it is written, with three digits; integers whole. */
static char *
threshold_text(const Column *column, double value)
{
	if (column->kind == COLUMN_INTEGER)
		return psprintf("%.0f", ceil(value));
	return psprintf("%.3g", value);
}

static void
add_quantiles(AvcSurvey *survey, const Column *column, int attribute,
			  int64 min_frames)
{
	static const struct
	{
		double		quantile;
		bool		is_below;
		bool		is_for_area;
	} cuts[] = {
		{0.25, true, true}, {0.5, true, true}, {0.5, false, false},
		{0.75, false, true}
	};
	double	   *sorted = palloc_array(double, survey->frame_count + 1);
	int64		count = 0;
	int64		f;
	int			i;

	for (f = 0; f < survey->frame_count; f++)
		if (!isnan(column->numbers[f]))
			sorted[count++] = column->numbers[f];
	qsort(sorted, count, sizeof(double), compare_doubles);
	for (i = 0; i < lengthof(cuts) && count > 0; i++)
	{
		double		value = sorted[(int64) (cuts[i].quantile * (count - 1))];
		char	   *text = threshold_text(column, value);
		double		cut = strtod(text, NULL);

		if (!isfinite(value) ||
			(column->kind == COLUMN_AREA && !cuts[i].is_for_area))
			continue;
		add_condition(survey, column, attribute,
					  psprintf("%s %s %s", column->sql,
							   cuts[i].is_below ? "<" : ">=", text),
					  frames_between(survey, column,
									 cuts[i].is_below ? -INFINITY : cut,
									 cuts[i].is_below ? cut : INFINITY),
					  min_frames);
	}
	pfree(sorted);
}

static void
add_hours(AvcSurvey *survey, const Column *column, int attribute,
		  int64 min_frames)
{
	int			hour;

	for (hour = 0; hour < 24; hour += 6)
		add_condition(survey, column, attribute,
					  psprintf("%s BETWEEN %d AND %d", column->sql, hour,
							   hour + 5),
					  frames_between(survey, column, hour, hour + 6),
					  min_frames);
}

static void
add_booleans(AvcSurvey *survey, const Column *column, int attribute,
			 int64 min_frames)
{
	add_condition(survey, column, attribute, column->sql,
				  frames_between(survey, column, 1, 2), min_frames);
	add_condition(survey, column, attribute, psprintf("NOT %s", column->sql),
				  frames_between(survey, column, 0, 1), min_frames);
}

static int
compare_texts(const void *a, const void *b)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

static void
add_values(AvcSurvey *survey, const Column *column, int attribute,
		   int64 min_frames)
{
	char	  **sorted = palloc_array(char *, survey->frame_count + 1);
	int64		count = 0;
	int64		from;
	int64		to;
	int			added = 0;

	for (from = 0; from < survey->frame_count; from++)
		if (column->texts[from] != NULL)
			sorted[count++] = column->texts[from];
	qsort(sorted, count, sizeof(char *), compare_texts);
	for (from = 0; from < count && added < MAX_VALUES; from = to)
	{
		uint64	   *frames;
		int64		f;

		for (to = from + 1; to < count &&
			 strcmp(sorted[to], sorted[from]) == 0; to++)
			 /* nothing */ ;
		if (to - from < min_frames || strlen(sorted[from]) > LONGEST_VALUE)
			continue;
		frames = new_set(survey);
		for (f = 0; f < survey->frame_count; f++)
			if (column->texts[f] != NULL &&
				strcmp(column->texts[f], sorted[from]) == 0)
				frames[f / 64] |= UINT64CONST(1) << (f % 64);
		add_condition(survey, column, attribute,
					  psprintf("%s = %s", column->sql,
							   quote_literal_cstr(sorted[from])),
					  frames, min_frames);
		added++;
	}
	pfree(sorted);
}

/* A category is there where its largest box has an area. */
static void
add_presence(AvcSurvey *survey, const Column *column, int attribute,
			 int64 min_frames)
{
	int			before = survey->condition_count;

	add_condition(survey, column, attribute,
				  psprintf("avcurate.has_category(ann_categories, %s)",
						   quote_literal_cstr(survey->counts[column->category + 1].category)),
				  frames_between(survey, column, -INFINITY, INFINITY),
				  min_frames);
	if (survey->condition_count > before)
		survey->conditions[before].is_presence = true;
}

void
avc_survey_add_conditions(AvcSurvey *survey, Oid dataset, int64 min_frames)
{
	Columns		columns = {0};
	int			i;

	find_columns(&columns, survey, dataset);
	read_values(&columns, survey, dataset);
	for (i = 0; i < columns.count; i++)
	{
		const Column *column = &columns.list[i];

		/* a filter names one category at most: all are one attribute */
		int			attribute = column->category >= 0 ? columns.count : i;

		switch (column->kind)
		{
			case COLUMN_TEXT:
				add_values(survey, column, attribute, min_frames);
				break;
			case COLUMN_BOOL:
				add_booleans(survey, column, attribute, min_frames);
				break;
			case COLUMN_HOUR:
				add_hours(survey, column, attribute, min_frames);
				break;
			case COLUMN_AREA:
				add_presence(survey, column, attribute, min_frames);
				add_quantiles(survey, column, attribute, min_frames);
				break;
			default:
				add_quantiles(survey, column, attribute, min_frames);
				break;
		}
	}
}
