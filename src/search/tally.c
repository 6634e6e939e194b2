/*
 * search/tally.c
 *		What is in many frames, counted in one pass.
 *
 * SQL that makes a row of each box spends its time on the rows; here a frame's
 * arrays go from the executor into counters.  Boxes that are ignored (crowds,
 * ignored classes) are counted apart, as evaluations leave them out.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "search/tally.h"

#define SLOTS (1 << 16)
#define NO_COLUMN (-1)
#define RESET_EVERY 64			/* frames */

/* Columns of the statement; NO_COLUMN where they are not read. */
typedef struct Columns
{
	int			scenes;			/* the first of three */
	int			categories;
	int			boxes;			/* the first of boxes, area, ignored, width,
								 * height */
	int			ignored;
} Columns;

typedef struct TallyReceiver
{
	DestReceiver pub;
	AvcTally   *tally;
	Columns		columns;
	MemoryContext row;			/* reset every few frames */
	int		   *present;		/* categories of the frame, in any order */
	int64	   *last_seen;		/* frame in which a category was seen last */
} TallyReceiver;

/* The annotation arrays of a frame. */
typedef struct Labels
{
	Datum	   *categories;
	bool	   *no_category;
	int			count;
	const float4 *corners;		/* (count, 4), or NULL */
	Datum	   *areas;			/* (area_count) */
	bool	   *no_area;
	int			area_count;
	Datum	   *ignored;		/* (ignored_count) */
	bool	   *no_ignored;
	int			ignored_count;
	double		frame_area;		/* pixels; 0 = not known */
} Labels;

/* ---- names ----------------------------------------------------------- */

static void
init_names(AvcNames *names)
{
	names->names = palloc_array(char *, AVC_TALLY_NAMES);
	names->slots = palloc0_array(uint16, SLOTS);
}

static int
number_of(AvcNames *names, Datum text, MemoryContext keep, int most)
{
	const struct varlena *value = (struct varlena *) DatumGetPointer(text);
	const char *start = VARDATA_ANY(value);
	Size		length = VARSIZE_ANY_EXHDR(value);
	uint32		at = hash_bytes((const unsigned char *) start, (int) length) % SLOTS;

	for (; names->slots[at] != 0; at = (at + 1) % SLOTS)
	{
		const char *name = names->names[names->slots[at] - 1];

		if (strncmp(name, start, length) == 0 && name[length] == '\0')
			return names->slots[at] - 1;
	}
	if (names->count == most)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("there are more than %d categories or values of a column",
						most),
				 errhint("Name a view in which rare ones are left out or put together.")));
	names->names[names->count] = MemoryContextAlloc(keep, length + 1);
	memcpy(names->names[names->count], start, length);
	names->names[names->count][length] = '\0';
	names->slots[at] = (uint16) ++names->count;
	return names->count - 1;
}

/* ---- a frame --------------------------------------------------------- */

static void
count_scene(TallyReceiver *receiver, const TupleTableSlot *slot,
			MemoryContext keep)
{
	AvcTally   *tally = receiver->tally;
	int			i;

	for (i = 0; i < AVC_SCENE_COLUMNS; i++)
	{
		int			column = receiver->columns.scenes + i;
		Datum		value;

		if (slot->tts_isnull[column])
		{
			tally->unknown[i]++;
			continue;
		}
		value = PointerGetDatum(PG_DETOAST_DATUM_PACKED(slot->tts_values[column]));
		tally->value_counts[i][number_of(&tally->values[i], value, keep,
											 AVC_TALLY_NAMES)]++;
	}
}

/* Elements of an array column; none for NULL. */
static int
read_array(const TupleTableSlot *slot, int column, Oid type, int width,
		   char align, Datum **elements, bool **nulls)
{
	int			count = 0;

	if (column != NO_COLUMN && !slot->tts_isnull[column])
		deconstruct_array(DatumGetArrayTypeP(slot->tts_values[column]), type,
						  width, type != TEXTOID, align, elements, nulls,
						  &count);
	return count;
}

static Labels
read_labels(const TallyReceiver *receiver, const TupleTableSlot *slot)
{
	int			boxes = receiver->columns.boxes;
	Labels		labels = {NULL};
	ArrayType  *array;

	labels.count = read_array(slot, receiver->columns.categories, TEXTOID, -1,
							  TYPALIGN_INT, &labels.categories,
							  &labels.no_category);
	labels.ignored_count = read_array(slot, receiver->columns.ignored, BOOLOID,
									  1, TYPALIGN_CHAR, &labels.ignored,
									  &labels.no_ignored);
	if (boxes == NO_COLUMN || slot->tts_isnull[boxes])
		return labels;
	array = DatumGetArrayTypeP(slot->tts_values[boxes]);
	if (!array_contains_nulls(array) &&
		ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array)) == 4 * labels.count)
		labels.corners = (const float4 *) ARR_DATA_PTR(array);
	labels.area_count = read_array(slot, boxes + 1, FLOAT4OID, 4, TYPALIGN_INT,
								   &labels.areas, &labels.no_area);
	if (!slot->tts_isnull[boxes + 2] && !slot->tts_isnull[boxes + 3])
		labels.frame_area = (double) DatumGetInt32(slot->tts_values[boxes + 2]) *
			DatumGetInt32(slot->tts_values[boxes + 3]);
	return labels;
}

static void
measure_box(AvcCategoryCount *count, const Labels *labels, int i)
{
	const float4 *box = labels->corners + 4 * i;
	double		area = (double) (box[2] - box[0]) * (box[3] - box[1]);
	double		pct = labels->frame_area > 0 ? 100 * area / labels->frame_area : 0;

	count->pct_sum += pct;
	count->pct_max = Max(count->pct_max, pct);
	if (i < labels->area_count && !labels->no_area[i])
		area = DatumGetFloat4(labels->areas[i]);
	count->sizes[area < 32 * 32 ? AVC_BOX_SMALL :
				 area < 96 * 96 ? AVC_BOX_MEDIUM : AVC_BOX_LARGE]++;
}

static void
count_labels(TallyReceiver *receiver, const Labels *labels, MemoryContext keep)
{
	AvcTally   *tally = receiver->tally;
	int			present = 0;
	int			i;
	int			j;

	for (i = 0; i < labels->count; i++)
	{
		AvcCategoryCount *count;
		int			category;

		if (labels->no_category[i])
			continue;
		category = number_of(&tally->categories, labels->categories[i], keep,
							 tally->pairs == NULL ? AVC_TALLY_NAMES : AVC_TALLY_PAIR_NAMES);
		count = &tally->counts[category];
		if (i < labels->ignored_count && !labels->no_ignored[i] &&
			DatumGetBool(labels->ignored[i]))
		{
			count->ignored++;
			continue;
		}
		count->boxes++;
		if (labels->corners != NULL)
			measure_box(count, labels, i);
		if (receiver->last_seen[category] == tally->frames)
			continue;
		receiver->last_seen[category] = tally->frames;
		receiver->present[present++] = category;
		count->frames++;
	}
	if (tally->pairs == NULL)
		return;
	for (i = 0; i < present; i++)
		for (j = 0; j < i; j++)
		{
			int			first = Min(receiver->present[i], receiver->present[j]);
			int			second = Max(receiver->present[i], receiver->present[j]);

			tally->pairs[first * AVC_TALLY_PAIR_NAMES + second]++;
		}
}

static bool
receive_frame(TupleTableSlot *slot, DestReceiver *self)
{
	TallyReceiver *receiver = (TallyReceiver *) self;
	MemoryContext keep = GetMemoryChunkContext(receiver);
	MemoryContext caller;

	slot_getallattrs(slot);
	receiver->tally->frames++;
	caller = MemoryContextSwitchTo(receiver->row);
	if (receiver->columns.scenes != NO_COLUMN)
		count_scene(receiver, slot, keep);
	if (receiver->columns.categories != NO_COLUMN &&
		!slot->tts_isnull[receiver->columns.categories])
	{
		Labels		labels = read_labels(receiver, slot);

		receiver->tally->labelled++;
		count_labels(receiver, &labels, keep);
	}
	MemoryContextSwitchTo(caller);
	if (receiver->tally->frames % RESET_EVERY == 0)
		MemoryContextReset(receiver->row);
	return true;
}

static void
start_receiver(DestReceiver *self, int operation, TupleDesc desc)
{
}

static void
end_receiver(DestReceiver *self)
{
}

/* ---- the pass -------------------------------------------------------- */

static char *
statement(const char *from, int what, Columns *columns)
{
	StringInfoData sql;
	int			next = 0;

	*columns = (Columns) {NO_COLUMN, NO_COLUMN, NO_COLUMN, NO_COLUMN};
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	if (what & AVC_TALLY_SCENES)
	{
		columns->scenes = next;
		next += AVC_SCENE_COLUMNS;
		appendStringInfoString(&sql, "weather::pg_catalog.text, timeofday::pg_catalog.text, scene::pg_catalog.text");
	}
	if (what & (AVC_TALLY_BOXES | AVC_TALLY_PAIRS))
	{
		appendStringInfo(&sql, "%sann_categories::pg_catalog.text[], ann_ignored::pg_catalog.bool[]",
						 next > 0 ? ", " : "");
		columns->categories = next++;
		columns->ignored = next++;
	}
	if (what & AVC_TALLY_BOXES)
	{
		columns->boxes = next;
		appendStringInfoString(&sql, ", ann_bboxes::pg_catalog.float4[], ann_area::pg_catalog.float4[], "
							   "width::pg_catalog.int4, height::pg_catalog.int4");
	}
	appendStringInfo(&sql, " FROM %s", from);
	return sql.data;
}

static AvcTally *
make_tally(int what)
{
	AvcTally   *tally = palloc0_object(AvcTally);
	int			i;

	for (i = 0; i < AVC_SCENE_COLUMNS; i++)
	{
		init_names(&tally->values[i]);
		tally->value_counts[i] = palloc0_array(int64, AVC_TALLY_NAMES);
	}
	init_names(&tally->categories);
	tally->counts = palloc0_array(AvcCategoryCount, AVC_TALLY_NAMES);
	if (what & AVC_TALLY_PAIRS)
		tally->pairs = palloc0_array(int64, AVC_TALLY_PAIR_NAMES * AVC_TALLY_PAIR_NAMES);
	return tally;
}

AvcTally *
avc_tally(const char *from, int64 version, int what)
{
	TallyReceiver *receiver = palloc0_object(TallyReceiver);
	ParamListInfo params = makeParamList(1);
	SPIExecuteOptions options = {
		.params = params, .read_only = true, .dest = &receiver->pub
	};
	char	   *sql = statement(from, what, &receiver->columns);

	receiver->pub = (DestReceiver) {
		receive_frame, start_receiver, end_receiver, end_receiver, DestTuplestore
	};
	receiver->tally = make_tally(what);
	receiver->present = palloc_array(int, AVC_TALLY_NAMES);
	receiver->last_seen = palloc0_array(int64, AVC_TALLY_NAMES);
	receiver->row = AllocSetContextCreate(CurrentMemoryContext,
										  "frames of a tally",
										  ALLOCSET_DEFAULT_SIZES);
	params->params[0].ptype = INT8OID;
	params->params[0].pflags = PARAM_FLAG_CONST;
	params->params[0].value = Int64GetDatum(version);
	params->params[0].isnull = false;
	SPI_connect();
	if (SPI_execute_extended(sql, &options) != SPI_OK_SELECT)
		elog(ERROR, "could not count frames");
	SPI_finish();
	MemoryContextDelete(receiver->row);
	return receiver->tally;
}
