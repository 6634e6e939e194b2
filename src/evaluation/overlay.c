/*
 * evaluation/overlay.c
 *		overlay() and contact_sheet(): what a detector saw, as pictures.
 *
 * The frame is the one of the evaluation's pinned version, whatever the
 * dataset holds now, and its boxes are the stored matches.  Where boxes
 * coincide all stay visible: the truth is drawn just outside of its box, the
 * first evaluation on its own, the next ones inside.  A small frame is enlarged
 * by a whole factor first, so that boxes and scores can be told apart.  The
 * legend stands below the frame and hides nothing.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "batches/frame_scan.h"
#include "common/catalog.h"
#include "common/spi.h"
#include "evaluation/result.h"
#include "evaluation/sheet.h"
#include "image/draw.h"
#include "image/jpeg.h"
#include "image/resize.h"

#define MAX_EVALUATIONS 4
#define WIDE 960					/* pixels to which small frames are enlarged */

static const EngColour green = {40, 220, 60, 255};
static const EngColour white = {255, 255, 255, 255};
static const EngColour evaluation_colours[MAX_EVALUATIONS] = {
	{255, 40, 40, 255}, {60, 110, 255, 255}, {255, 200, 30, 255},
	{230, 60, 230, 255}
};

static const char *const match_kinds[] = {
	"true_positive", "false_positive", "missed", "ignored"
};

/* One stored box. */
typedef struct DrawnBox
{
	EngRectangle rectangle;
	char	   *text;			/* category and score; NULL for a truth */
} DrawnBox;

typedef struct DrawnBoxes
{
	DrawnBox   *items;
	int			count;
} DrawnBoxes;

PG_FUNCTION_INFO_V1(avc_overlay);
PG_FUNCTION_INFO_V1(avc_contact_sheet);

/* The JPEG of a frame as the evaluation's version has it. */
static bytea *
read_frame(const AvcEvaluationInfo *info, int64 frame_id)
{
	AvcPin		pin;
	AvcFrameScan *scan;
	AvcFrameRow row;
	bytea	   *image;

	avc_pin_open(&pin, InvalidOid, info->slice_id, info->version);
	avc_pin_check_images(&pin);
	scan = avc_frame_scan_open(&pin);
	avc_frame_scan_find(scan, frame_id, &row);
	image = (bytea *) PG_DETOAST_DATUM_COPY(row.image);
	avc_frame_scan_close(scan);
	return image;
}

/*
 * Boxes of a frame: truths, or detections from min_score on, of one kind of
 * match or of all (NULL).
 */
static DrawnBoxes
read_boxes(int64 evaluation, int64 frame_id, bool truths, double min_score,
		   const char *kind)
{
	MemoryContext caller = CurrentMemoryContext;
	AvcParam	params[] = {AVC_INT8(evaluation), AVC_INT8(frame_id),
		AVC_FLOAT8(min_score), AVC_TEXT(kind)
	};
	DrawnBoxes	boxes;
	AvcRoleScope scope;
	MemoryContext spi;
	uint64		i;

	SPI_connect();
	avc_catalog_enter(&scope);
	boxes.count = (int)
		avc_spi_exec(truths ?
					 "SELECT DISTINCT ON (truth_no) truth_box AS box, category, "
					 "NULL::real AS score FROM _avcurate.matches "
					 "WHERE evaluation = $1 AND frame_id = $2 "
					 "AND truth_box IS NOT NULL AND $3 IS NOT NULL "
					 "AND kind = coalesce($4, kind) ORDER BY truth_no" :
					 "SELECT box, category, score FROM _avcurate.matches "
					 "WHERE evaluation = $1 AND frame_id = $2 "
					 "AND box IS NOT NULL AND score >= $3::real "
					 "AND kind = coalesce($4, kind) ORDER BY score, label, "
					 "detection_no", 4, params, true, 0);
	spi = MemoryContextSwitchTo(caller);
	boxes.items = palloc0(sizeof(DrawnBox) * (boxes.count + 1));
	for (i = 0; i < (uint64) boxes.count; i++)
	{
		bool		is_null;
		ArrayType  *array = DatumGetArrayTypeP(avc_spi_column(i, "box",
															  &is_null));
		const float4 *corner = (const float4 *) ARR_DATA_PTR(array);
		EngRectangle rectangle = {corner[0], corner[1], corner[2], corner[3]};
		float4		score = DatumGetFloat4(avc_spi_column(i, "score",
														  &is_null));

		boxes.items[i].rectangle = rectangle;
		if (!is_null)
			boxes.items[i].text =
				psprintf("%s %.2f",
						 TextDatumGetCString(avc_spi_column(i, "category",
															&is_null)),
						 score);
	}
	MemoryContextSwitchTo(spi);
	avc_catalog_leave(&scope);
	SPI_finish();
	return boxes;
}

/* Outline boxes scaled by "scale" and grown by "grow" pixels. */
static void
draw_boxes(EngImage *image, const DrawnBoxes *boxes, float scale, float grow,
		   float thickness, EngColour colour)
{
	int			i;

	for (i = 0; i < boxes->count; i++)
	{
		EngRectangle box = boxes->items[i].rectangle;

		box.x1 = box.x1 * scale - grow;
		box.y1 = box.y1 * scale - grow;
		box.x2 = box.x2 * scale + grow;
		box.y2 = box.y2 * scale + grow;
		eng_draw_outline(image, box, thickness, colour);
	}
}

/* Category and score at each detection, on a line of the evaluation's own. */
static void
draw_texts(EngImage *image, const DrawnBoxes *boxes, float scale, int line,
		   EngColour colour)
{
	int			i;

	for (i = 0; i < boxes->count; i++)
	{
		EngRectangle box = boxes->items[i].rectangle;
		int			above = (int) (box.y1 * scale) -
		(line + 1) * ENG_FONT_HEIGHT;
		int			below = (int) (box.y2 * scale) +
		line * ENG_FONT_HEIGHT + 2;

		eng_draw_text(image, (int) (box.x1 * scale),
					  above >= 0 ? above : below, 1, boxes->items[i].text,
					  colour);
	}
}

static int
legend_scale(const EngImage *image)
{
	return image->width >= 960 ? 2 : 1;
}

static int
legend_line_height(const EngImage *image)
{
	return ENG_FONT_HEIGHT * legend_scale(image) + 3;
}

/* The picture with room below for a legend of some lines. */
static EngImage
add_legend(const EngImage *frame, int lines)
{
	EngImage	image = *frame;
	size_t		bytes = eng_image_bytes(frame);

	image.height += lines * legend_line_height(frame) + 4;
	image.pixels = palloc_extended(eng_image_bytes(&image), MCXT_ALLOC_HUGE);
	memcpy(image.pixels, frame->pixels, bytes);
	memset(image.pixels + bytes, 24, eng_image_bytes(&image) - bytes);
	return image;
}

/* A line of the legend: a patch of the colour and what it stands for. */
static void
draw_legend_line(EngImage *image, int top, int line, const char *text,
				 EngColour colour)
{
	int			side = ENG_FONT_HEIGHT * legend_scale(image) - 3;
	int			y = top + 3 + line * legend_line_height(image);
	EngRectangle patch = {4, y, 4 + side, y + side};

	eng_draw_filled(image, patch, colour);
	eng_draw_text(image, side + 10, y, legend_scale(image), text, white);
}

/* The frame, enlarged by the least whole factor that makes it wide. */
static EngImage
enlarge_frame(const EngImage *frame, float *scale)
{
	EngStatus	status = {0};
	EngImage	image = *frame;
	int			factor = 1;

	while (frame->width * factor < WIDE &&
		   frame->height * (factor + 1) <= ENG_JPEG_MAX_SIDE / 2)
		factor++;
	*scale = factor;
	if (factor == 1)
		return image;
	image.width *= factor;
	image.height *= factor;
	image.pixels = palloc_extended(eng_image_bytes(&image), MCXT_ALLOC_HUGE);
	if (!eng_resize(&image, frame, ENG_RESIZE_BILINEAR, &status))
		avc_sheet_fail("enlarge the frame", &status);
	return image;
}

static void
check_has_frame(const AvcEvaluationInfo *info, int64 frame_id)
{
	AvcParam	params[] = {AVC_INT8(frame_id), AVC_INT8(info->version)};
	AvcRoleScope scope;
	uint64		rows;

	SPI_connect();
	avc_catalog_enter(&scope);
	rows = avc_spi_exec(psprintf("SELECT 1 FROM _avcurate.history_%lld "
								 "WHERE frame_id = $1 AND from_version <= $2 "
								 "AND (to_version IS NULL OR $2 < to_version)",
								 (long long) info->slice_id),
						2, params, true, 1);
	avc_catalog_leave(&scope);
	SPI_finish();
	if (rows == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("frame %lld is not in the version that evaluation %lld is of",
						(long long) frame_id, (long long) info->evaluation),
				 errhint("avcurate.matches lists the frames of an evaluation.")));
}

Datum
avc_overlay(PG_FUNCTION_ARGS)
{
	int64		frame_id = PG_GETARG_INT64(0);
	ArrayType  *array = PG_GETARG_ARRAYTYPE_P(1);
	double		min_score = PG_GETARG_FLOAT4(2);
	AvcEvaluationInfo infos[MAX_EVALUATIONS];
	AvcSheetTools *tools;
	DrawnBoxes	boxes;
	Datum	   *numbers;
	bool	   *nulls;
	EngImage	frame;
	EngImage	image;
	float		scale;
	float		thickness;
	int			count;
	int			i;

	deconstruct_array(array, INT8OID, 8, true, TYPALIGN_DOUBLE, &numbers,
					  &nulls, &count);
	if (count < 1 || count > MAX_EVALUATIONS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("overlay takes 1 to %d evaluations, not %d",
						MAX_EVALUATIONS, count)));
	for (i = 0; i < count; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("evaluations must not contain nulls")));
		avc_evaluation_find(&infos[i], DatumGetInt64(numbers[i]));
		check_has_frame(&infos[i], frame_id);
	}
	tools = avc_sheet_tools();
	image = avc_sheet_decode(tools, read_frame(&infos[0], frame_id), 1);
	frame = enlarge_frame(&image, &scale);
	thickness = Max(1, frame.width / 640);
	boxes = read_boxes(infos[0].evaluation, frame_id, true, 0, NULL);
	draw_boxes(&frame, &boxes, scale, thickness, thickness, green);
	for (i = 0; i < count; i++)
	{
		EngColour	colour = evaluation_colours[i];

		boxes = read_boxes(infos[i].evaluation, frame_id, false, min_score,
						   NULL);
		draw_boxes(&frame, &boxes, scale, -i * thickness, thickness, colour);
		draw_texts(&frame, &boxes, scale, i, colour);
	}
	image = add_legend(&frame, count + 1);
	draw_legend_line(&image, frame.height, 0, "truth", green);
	for (i = 0; i < count; i++)
		draw_legend_line(&image, frame.height, i + 1,
						 psprintf("evaluation %lld: %s, checkpoint %lld",
								  (long long) infos[i].evaluation,
								  infos[i].model,
								  (long long) infos[i].checkpoint),
						 evaluation_colours[i]);
	PG_RETURN_BYTEA_P(avc_sheet_encode(tools, &image));
}

/* ---- contact sheet ------------------------------------------------------- */

typedef struct SheetFrame
{
	int64		frame_id;
	int64		matches;		/* of the kind */
} SheetFrame;

static void
check_kind(const char *kind)
{
	int			i;

	for (i = 0; i < lengthof(match_kinds); i++)
		if (strcmp(kind, match_kinds[i]) == 0)
			return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown kind of match \"%s\"", kind),
			 errhint("Kinds: true_positive, false_positive, missed, ignored.")));
}

/* The frames with the most matches of the kind. */
static SheetFrame *
choose_frames(int64 evaluation, const char *kind, int limit, int *count)
{
	MemoryContext caller = CurrentMemoryContext;
	AvcParam	params[] = {AVC_INT8(evaluation), AVC_TEXT(kind),
	AVC_INT4(limit)};
	SheetFrame *frames;
	AvcRoleScope scope;
	int			i;

	SPI_connect();
	avc_catalog_enter(&scope);
	*count = (int)
		avc_spi_exec("SELECT frame_id, pg_catalog.count(*) AS matches "
					 "FROM _avcurate.matches WHERE evaluation = $1 "
					 "AND kind = $2 AND (kind <> 'ignored' OR box IS NOT NULL) "
					 "GROUP BY frame_id ORDER BY 2 DESC, 1 LIMIT $3",
					 3, params, true, 0);
	frames = MemoryContextAlloc(caller, sizeof(SheetFrame) * (*count + 1));
	for (i = 0; i < *count; i++)
	{
		bool		is_null;

		frames[i].frame_id = DatumGetInt64(avc_spi_column(i, "frame_id",
														  &is_null));
		frames[i].matches = DatumGetInt64(avc_spi_column(i, "matches",
														 &is_null));
	}
	avc_catalog_leave(&scope);
	SPI_finish();
	return frames;
}

/* A frame with its boxes of the kind, as a small picture. */
static EngImage
make_cell(AvcSheetTools *tools, const AvcEvaluationInfo *info,
		  const char *kind, const SheetFrame *frame)
{
	DrawnBoxes	truths = read_boxes(info->evaluation, frame->frame_id, true,
									0, kind);
	DrawnBoxes	detections = read_boxes(info->evaluation, frame->frame_id,
										false, 0, kind);
	float		scale;
	EngImage	cell = avc_sheet_shrink(tools,
										read_frame(info, frame->frame_id),
										AVC_SHEET_SIDE, &scale);

	draw_boxes(&cell, &truths, scale, 1, 1, green);
	draw_boxes(&cell, &detections, scale, 0, 1, evaluation_colours[0]);
	return cell;
}

Datum
avc_contact_sheet(PG_FUNCTION_ARGS)
{
	char	   *kind = text_to_cstring(PG_GETARG_TEXT_PP(1));
	int32		limit = PG_GETARG_INT32(2);
	AvcEvaluationInfo info;
	AvcSheetTools *tools;
	SheetFrame *frames;
	AvcSheetCell *cells;
	EngImage	sheet;
	int			count;
	int			i;

	check_kind(kind);
	if (limit < 1 || limit > AVC_SHEET_CELLS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"frames\" is %d, but must be between 1 and %d",
						limit, AVC_SHEET_CELLS)));
	avc_evaluation_find(&info, PG_GETARG_INT64(0));
	frames = choose_frames(info.evaluation, kind, limit, &count);
	if (count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("evaluation %lld has no matches of kind \"%s\"",
						(long long) info.evaluation, kind)));
	tools = avc_sheet_tools();
	cells = palloc_array(AvcSheetCell, count);
	for (i = 0; i < count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		cells[i].image = make_cell(tools, &info, kind, &frames[i]);
		cells[i].caption = psprintf("frame %lld: %lld %s",
									(long long) frames[i].frame_id,
									(long long) frames[i].matches, kind);
	}
	sheet = avc_sheet_compose(cells, count,
							  psprintf("evaluation %lld, %s, checkpoint %lld: %s",
									   (long long) info.evaluation, info.model,
									   (long long) info.checkpoint, kind),
							  (AvcSheetLegend) {NULL, 0});
	PG_RETURN_BYTEA_P(avc_sheet_encode(tools, &sheet));
}
