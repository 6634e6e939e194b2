/*
 * evaluation/frame_sheet.c
 *		contact_sheet() of the frames that a query found.
 *
 * Frames are read one by one, as the current user: his rights and the
 * policies on the dataset decide what is shown.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "common/spi.h"
#include "datasets/dataset.h"
#include "evaluation/sheet.h"
#include "image/draw.h"

PG_FUNCTION_INFO_V1(avc_contact_sheet_frames);

#define MAX_KEYS 24				/* of a legend */

/* Classes that are found everywhere look alike in all sheets. */
static const AvcSheetKey known_keys[] = {
	{"car", {40, 220, 60, 255}}, {"person", {255, 60, 60, 255}},
	{"rider", {255, 150, 30, 255}}, {"truck", {0, 200, 255, 255}},
	{"bus", {80, 130, 255, 255}}, {"train", {180, 110, 255, 255}},
	{"motorcycle", {255, 90, 220, 255}}, {"bicycle", {250, 230, 40, 255}},
	{"traffic light", {255, 255, 255, 255}}, {"traffic sign", {0, 235, 190, 255}}
};
static const AvcSheetKey ignored_key = {"ignored", {140, 140, 140, 255}};
static const AvcSheetKey other_key = {"others", {255, 190, 170, 255}};

/* Arguments. */
enum
{
	ARG_DATASET, ARG_FRAME_IDS, ARG_CAPTIONS, ARG_BOXES, ARG_TITLE, ARG_SIDE
};

typedef struct FrameSheet
{
	AvcSheetTools *tools;
	const AvcDataset *dataset;
	char	   *sql;			/* a frame by its number */
	SPIPlanPtr	plan;
	bool		has_boxes;
	int			side;			/* pixels */
	AvcSheetKey keys[MAX_KEYS];
	int			key_count;
} FrameSheet;

static void
refuse_argument(const char *message, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg_internal("%s", message),
			 hint == NULL ? 0 : errhint("%s", hint)));
}

/* ---- one frame ------------------------------------------------------- */

/* The colour of the boxes of that name, which enters the legend. */
static EngColour
add_key(FrameSheet *sheet, const char *name, MemoryContext keep)
{
	AvcSheetKey key = {name, other_key.colour};
	int			i;

	for (i = 0; i < sheet->key_count; i++)
		if (strcmp(sheet->keys[i].name, name) == 0)
			return sheet->keys[i].colour;
	for (i = 0; i < lengthof(known_keys); i++)
		if (strcmp(known_keys[i].name, name) == 0)
			key.colour = known_keys[i].colour;
	if (strcmp(name, ignored_key.name) == 0)
		key.colour = ignored_key.colour;
	/* the last place is for all that have none */
	if (sheet->key_count >= MAX_KEYS - 1)
		key.name = other_key.name;
	if (sheet->key_count < MAX_KEYS)
	{
		key.name = MemoryContextStrdup(keep, key.name);
		sheet->keys[sheet->key_count++] = key;
	}
	return key.colour;
}

/* Elements of an array column of the row; 0 for NULL. */
static int
read_elements(const char *column, Oid type, int width, bool by_value, char align,
			  Datum **elements, bool **nulls)
{
	bool		is_null;
	Datum		array = avc_spi_column(0, column, &is_null);
	int			count = 0;

	if (!is_null)
		deconstruct_array(DatumGetArrayTypeP(array), type, width, by_value,
						  align, elements, nulls, &count);
	return count;
}

/* Outline the labelled boxes in the colours of their categories. */
static void
draw_labels(FrameSheet *sheet, EngImage *cell, float scale, MemoryContext keep)
{
	bool		is_null;
	Datum		boxes = avc_spi_column(0, "ann_bboxes", &is_null);
	ArrayType  *array;
	Datum	   *flags;
	bool	   *no_flag;
	Datum	   *names;
	bool	   *no_name;
	const float4 *corners;
	int			flag_count = read_elements("ann_ignored", BOOLOID, 1, true,
										   TYPALIGN_CHAR, &flags, &no_flag);
	int			name_count = read_elements("ann_categories", TEXTOID, -1, false,
										   TYPALIGN_INT, &names, &no_name);
	int			count;
	int			i;

	if (is_null)
		return;
	array = DatumGetArrayTypeP(boxes);
	count = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array)) / 4;
	corners = (const float4 *) ARR_DATA_PTR(array);
	if (array_contains_nulls(array))
		return;
	for (i = 0; i < count; i++)
	{
		const char *name = i < name_count && !no_name[i] ?
		TextDatumGetCString(names[i]) : other_key.name;
		EngRectangle box = {
			corners[4 * i] * scale, corners[4 * i + 1] * scale,
			corners[4 * i + 2] * scale, corners[4 * i + 3] * scale
		};

		if (i < flag_count && !no_flag[i] && DatumGetBool(flags[i]))
			name = ignored_key.name;
		eng_draw_outline(cell, box, 1, add_key(sheet, name, keep));
	}
}

static void
tell_frame(void *argument)
{
	errcontext("frame %lld", (long long) *(int64 *) argument);
}

/* A frame as a small picture; its own context is reset by the caller. */
static EngImage
make_cell(FrameSheet *sheet, int64 frame_id, MemoryContext keep)
{
	ErrorContextCallback callback = {error_context_stack, tell_frame, &frame_id};
	MemoryContext each = CurrentMemoryContext;
	Datum		value = Int64GetDatum(frame_id);
	Datum		image;
	EngImage	cell;
	EngImage	kept;
	bool		is_null;
	float		scale;

	if (SPI_execute_plan(sheet->plan, &value, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read a frame");
	/* SPI leaves its own context current, which lives until SPI_finish */
	MemoryContextSwitchTo(each);
	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("frame %lld is not in dataset %s", (long long) frame_id,
						sheet->dataset->quoted_name)));
	error_context_stack = &callback;
	image = avc_spi_column(0, "image_bytes", &is_null);
	/* the column is NOT NULL, unless its owner has changed that */
	if (is_null)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("column \"image_bytes\" of dataset %s must not be null",
						sheet->dataset->quoted_name)));
	cell = avc_sheet_shrink(sheet->tools, DatumGetByteaPP(image), sheet->side,
							&scale);
	if (sheet->has_boxes)
		draw_labels(sheet, &cell, scale, keep);
	error_context_stack = callback.previous;
	kept = cell;
	kept.pixels = MemoryContextAlloc(keep, eng_image_bytes(&cell));
	memcpy(kept.pixels, cell.pixels, eng_image_bytes(&cell));
	return kept;
}

static AvcSheetCell *
make_cells(FrameSheet *sheet, const int64 *ids, int count)
{
	MemoryContext caller = CurrentMemoryContext;
	AvcSheetCell *cells = palloc0_array(AvcSheetCell, count);
	Oid			types[] = {INT8OID};
	MemoryContext each;
	MemoryContext spi;
	int			i;

	SPI_connect();
	sheet->plan = SPI_prepare(sheet->sql, 1, types);
	if (sheet->plan == NULL)
		elog(ERROR, "could not prepare to read frames");
	each = AllocSetContextCreate(CurrentMemoryContext, "frame of a sheet",
								 ALLOCSET_DEFAULT_SIZES);
	spi = MemoryContextSwitchTo(each);
	for (i = 0; i < count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		cells[i].image = make_cell(sheet, ids[i], caller);
		SPI_freetuptable(SPI_tuptable);
		MemoryContextReset(each);
	}
	MemoryContextSwitchTo(spi);
	SPI_finish();
	return cells;
}

/* ---- arguments ------------------------------------------------------- */

static int64 *
read_ids(ArrayType *array, int *count)
{
	Datum	   *elements;
	bool	   *nulls;
	int64	   *ids;
	int			i;

	deconstruct_array(array, INT8OID, 8, true, TYPALIGN_DOUBLE, &elements,
					  &nulls, count);
	if (*count > AVC_SHEET_CELLS)
		refuse_argument(psprintf("a contact sheet has %d frames at most, not %d",
								 AVC_SHEET_CELLS, *count),
						"Limit the query that finds them.");
	ids = palloc_array(int64, *count);
	for (i = 0; i < *count; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("frame_ids must not contain nulls")));
		ids[i] = DatumGetInt64(elements[i]);
	}
	return ids;
}

/* "frame 7", and what the caller has to say about it. */
static void
put_captions(AvcSheetCell *cells, const int64 *ids, int count,
			 ArrayType *captions)
{
	Datum	   *texts = NULL;
	bool	   *nulls = NULL;
	int			i;

	if (captions != NULL)
		deconstruct_array(captions, TEXTOID, -1, false, TYPALIGN_INT, &texts,
						  &nulls, &i);
	for (i = 0; i < count; i++)
	{
		cells[i].caption = psprintf("frame %lld", (long long) ids[i]);
		if (texts != NULL && !nulls[i])
			cells[i].caption = psprintf("%s: %s", cells[i].caption,
										TextDatumGetCString(texts[i]));
	}
}

static void
check_captions(const ArrayType *captions, int count)
{
	int			number = ArrayGetNItems(ARR_NDIM(captions), ARR_DIMS(captions));

	if (number != count)
		refuse_argument(psprintf("there are %d captions for %d frames", number,
								 count), NULL);
}

static int
read_side(FunctionCallInfo fcinfo)
{
	int32		side = PG_ARGISNULL(ARG_SIDE) ? AVC_SHEET_SIDE :
	PG_GETARG_INT32(ARG_SIDE);

	if (side < 32 || side > AVC_SHEET_MAX_SIDE)
		refuse_argument(psprintf("argument \"side\" is %d, but must be between 32 and %d",
								 side, AVC_SHEET_MAX_SIDE), NULL);
	return side;
}

/*
 * contact_sheet(dataset, frame_ids, captions, boxes, title, side) returns
 * bytea, a JPEG; NULL for no frames.
 */
Datum
avc_contact_sheet_frames(PG_FUNCTION_ARGS)
{
	FrameSheet	sheet = {NULL};
	ArrayType  *captions;
	AvcSheetCell *cells;
	EngImage	image;
	char	   *title;
	int64	   *ids;
	int			count;

	if (PG_ARGISNULL(ARG_DATASET) || PG_ARGISNULL(ARG_FRAME_IDS))
		PG_RETURN_NULL();
	ids = read_ids(PG_GETARG_ARRAYTYPE_P(ARG_FRAME_IDS), &count);
	captions = PG_ARGISNULL(ARG_CAPTIONS) ? NULL :
		PG_GETARG_ARRAYTYPE_P(ARG_CAPTIONS);
	if (captions != NULL)
		check_captions(captions, count);
	sheet.side = read_side(fcinfo);
	sheet.has_boxes = !PG_ARGISNULL(ARG_BOXES) && PG_GETARG_BOOL(ARG_BOXES);
	sheet.dataset = avc_dataset_find(PG_GETARG_OID(ARG_DATASET), false);
	if (count == 0)
		PG_RETURN_NULL();
	/* types are as they are read, whatever was done to the table */
	sheet.sql = psprintf("SELECT image_bytes::pg_catalog.bytea%s FROM %s WHERE frame_id "
						 "OPERATOR(pg_catalog.=) $1",
						 sheet.has_boxes ? ", ann_bboxes::pg_catalog.float4[], "
						 "ann_ignored::pg_catalog.bool[], ann_categories::pg_catalog.text[]" : "",
						 sheet.dataset->quoted_name);
	sheet.tools = avc_sheet_tools();
	cells = make_cells(&sheet, ids, count);
	put_captions(cells, ids, count, captions);
	title = PG_ARGISNULL(ARG_TITLE) ?
		psprintf("%s: %d frames", sheet.dataset->table_name, count) :
		text_to_cstring(PG_GETARG_TEXT_PP(ARG_TITLE));
	image = avc_sheet_compose(cells, count, title,
							  (AvcSheetLegend) {sheet.keys, sheet.key_count});
	PG_RETURN_BYTEA_P(avc_sheet_encode(sheet.tools, &image));
}
