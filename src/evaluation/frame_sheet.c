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

static const EngColour green = {40, 220, 60, 255};
static const EngColour grey = {170, 170, 170, 255};

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

/* Outline the labelled boxes, those that are ignored in grey. */
static void
draw_labels(EngImage *cell, float scale)
{
	bool		is_null;
	bool		is_unknown;
	Datum		boxes = avc_spi_column(0, "ann_bboxes", &is_null);
	Datum		ignored = avc_spi_column(0, "ann_ignored", &is_unknown);
	ArrayType  *array;
	Datum	   *flags = NULL;
	bool	   *nulls = NULL;
	const float4 *corners;
	int			flag_count = 0;
	int			count;
	int			i;

	if (is_null)
		return;
	array = DatumGetArrayTypeP(boxes);
	count = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array)) / 4;
	corners = (const float4 *) ARR_DATA_PTR(array);
	if (array_contains_nulls(array))
		return;
	if (!is_unknown)
		deconstruct_array(DatumGetArrayTypeP(ignored), BOOLOID, 1, true,
						  TYPALIGN_CHAR, &flags, &nulls, &flag_count);
	for (i = 0; i < count; i++)
	{
		bool		is_ignored = i < flag_count && !nulls[i] &&
		DatumGetBool(flags[i]);
		EngRectangle box = {
			corners[4 * i] * scale, corners[4 * i + 1] * scale,
			corners[4 * i + 2] * scale, corners[4 * i + 3] * scale
		};

		eng_draw_outline(cell, box, 1, is_ignored ? grey : green);
	}
}

static void
tell_frame(void *argument)
{
	errcontext("frame %lld", (long long) *(int64 *) argument);
}

/* A frame as a small picture; its own context is reset by the caller. */
static EngImage
make_cell(const FrameSheet *sheet, int64 frame_id, MemoryContext keep)
{
	ErrorContextCallback callback = {error_context_stack, tell_frame, &frame_id};
	Datum		value = Int64GetDatum(frame_id);
	Datum		image;
	EngImage	cell;
	EngImage	kept;
	bool		is_null;
	float		scale;

	if (SPI_execute_plan(sheet->plan, &value, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read a frame");
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
		draw_labels(&cell, scale);
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
						 "ann_ignored::pg_catalog.bool[]" : "",
						 sheet.dataset->quoted_name);
	sheet.tools = avc_sheet_tools();
	cells = make_cells(&sheet, ids, count);
	put_captions(cells, ids, count, captions);
	title = PG_ARGISNULL(ARG_TITLE) ?
		psprintf("%s: %d frames", sheet.dataset->table_name, count) :
		text_to_cstring(PG_GETARG_TEXT_PP(ARG_TITLE));
	image = avc_sheet_compose(cells, count, title);
	PG_RETURN_BYTEA_P(avc_sheet_encode(sheet.tools, &image));
}
