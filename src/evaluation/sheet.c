/*
 * evaluation/sheet.c
 *		Contact sheets: small pictures side by side, each with its caption.
 */
#include "postgres.h"

#include <math.h>

#include "utils/memutils.h"

#include "evaluation/sheet.h"
#include "image/jpeg.h"
#include "image/resize.h"

#define QUALITY 90
#define GAP 4					/* pixels between cells */
#define MAX_LINES 3				/* of a caption */
#define LINE_HEIGHT (ENG_FONT_HEIGHT + 2)
#define TITLE_HEIGHT 14
#define KEY_SIDE 8				/* of the square of a colour */

static const EngColour white = {255, 255, 255, 255};

struct AvcSheetTools
{
	EngJpegDecoder *decoder;
	EngJpegEncoder *encoder;
	MemoryContextCallback callback;
};

/* Lines of a caption that fit below its cell. */
typedef struct Caption
{
	const char *starts[MAX_LINES];
	int			lengths[MAX_LINES];
	int			count;
} Caption;

static void
free_tools(void *argument)
{
	AvcSheetTools *tools = argument;

	if (tools->decoder)
		eng_jpeg_decoder_free(tools->decoder);
	if (tools->encoder)
		eng_jpeg_encoder_free(tools->encoder);
}

void
avc_sheet_fail(const char *what, const EngStatus *status)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_EXCEPTION),
			 errmsg("could not %s: %s", what, status->message)));
}

AvcSheetTools *
avc_sheet_tools(void)
{
	AvcSheetTools *tools = palloc0_object(AvcSheetTools);
	EngStatus	status = {0};

	tools->callback.func = free_tools;
	tools->callback.arg = tools;
	MemoryContextRegisterResetCallback(CurrentMemoryContext,
									   &tools->callback);
	tools->decoder = eng_jpeg_decoder_create(&status);
	if (tools->decoder != NULL)
		tools->encoder = eng_jpeg_encoder_create(&status);
	if (tools->encoder == NULL)
		avc_sheet_fail("set up JPEG", &status);
	return tools;
}

bytea *
avc_sheet_encode(AvcSheetTools *tools, const EngImage *image)
{
	EngStatus	status = {0};
	const uint8_t *data;
	size_t		size;
	bytea	   *result;

	if (!eng_jpeg_encode(tools->encoder, image, QUALITY, ENG_JPEG_444,
						 &status))
		avc_sheet_fail("encode the picture", &status);
	data = eng_jpeg_encoded(tools->encoder, &size);
	result = palloc(VARHDRSZ + size);
	SET_VARSIZE(result, VARHDRSZ + size);
	memcpy(VARDATA(result), data, size);
	return result;
}

EngImage
avc_sheet_decode(AvcSheetTools *tools, const bytea *jpeg, int scale)
{
	EngStatus	status = {0};
	EngImage	decoded = {.channels = 3};
	EngImage	image;

	if (!eng_jpeg_decode_alloc(tools->decoder, &decoded,
							   (const uint8_t *) VARDATA_ANY(jpeg),
							   VARSIZE_ANY_EXHDR(jpeg), scale, &status))
		avc_sheet_fail("decode the frame", &status);
	image = decoded;
	image.pixels = palloc_extended(eng_image_bytes(&decoded), MCXT_ALLOC_HUGE);
	memcpy(image.pixels, decoded.pixels, eng_image_bytes(&decoded));
	return image;
}

EngImage
avc_sheet_shrink(AvcSheetTools *tools, const bytea *jpeg, int side,
				 float *scale)
{
	EngStatus	status = {0};
	EngJpegInfo info;
	EngImage	whole;
	EngImage	small = {.channels = 3};
	int			factor = 1;
	float		longer;

	if (!eng_jpeg_read_header(&info, (const uint8_t *) VARDATA_ANY(jpeg),
							  VARSIZE_ANY_EXHDR(jpeg), &status))
		avc_sheet_fail("read the frame", &status);
	longer = Max(info.width, info.height);
	while (factor < 8 && longer / (2 * factor) >= side)
		factor *= 2;
	*scale = side / longer;
	whole = avc_sheet_decode(tools, jpeg, factor);
	small.width = Max(1, (int32_t) lroundf(info.width * *scale));
	small.height = Max(1, (int32_t) lroundf(info.height * *scale));
	small.pixels = palloc(eng_image_bytes(&small));
	if (!eng_resize(&small, &whole, ENG_RESIZE_BILINEAR, &status))
		avc_sheet_fail("shrink the frame", &status);
	pfree(whole.pixels);
	return small;
}

/* ---- layout ---------------------------------------------------------- */

static void
paste(EngImage *sheet, const EngImage *cell, int x, int y)
{
	int			row;

	for (row = 0; row < cell->height; row++)
		memcpy(sheet->pixels + 3 * ((size_t) (y + row) * sheet->width + x),
			   cell->pixels + (size_t) 3 * row * cell->width,
			   (size_t) 3 * cell->width);
}

/* Break at line ends and where the width is used up. */
static Caption
break_caption(const char *text, int width)
{
	int			fits = Max(1, width / ENG_FONT_WIDTH);
	Caption		caption = {.count = 0};

	while (*text != '\0' && caption.count < MAX_LINES)
	{
		int			length = (int) Min(strcspn(text, "\n"), (size_t) fits);

		caption.starts[caption.count] = text;
		caption.lengths[caption.count++] = length;
		text += length;
		text += *text == '\n';
	}
	return caption;
}

static void
draw_caption(EngImage *sheet, const Caption *caption, int x, int y)
{
	int			i;

	for (i = 0; i < caption->count; i++)
		eng_draw_text(sheet, x, y + i * LINE_HEIGHT, 1,
					  pnstrdup(caption->starts[i], caption->lengths[i]), white);
}

/*
 * Draw the legend below the title, in lines of that many pixels; returns their
 * number.  Without a sheet it only counts them.
 */
static int
put_legend(EngImage *sheet, AvcSheetLegend legend, int width)
{
	int			lines = legend.count > 0;
	int			x = 6;
	int			i;

	for (i = 0; i < legend.count; i++)
	{
		const AvcSheetKey *key = &legend.keys[i];
		int			needs = KEY_SIDE + 3 + eng_draw_text_width(key->name, 1) + 10;

		if (x + needs > width && x > 6)
		{
			x = 6;
			lines++;
		}
		if (sheet != NULL)
		{
			int			y = 4 + lines * TITLE_HEIGHT;
			EngRectangle square = {x, y, x + KEY_SIDE, y + KEY_SIDE};

			eng_draw_filled(sheet, square, key->colour);
			eng_draw_text(sheet, x + KEY_SIDE + 3, y, 1, key->name, white);
		}
		x += needs;
	}
	return lines;
}

EngImage
avc_sheet_compose(const AvcSheetCell *cells, int count, const char *title,
				  AvcSheetLegend legend)
{
	EngImage	sheet = {.channels = 3};
	Caption    *captions = palloc_array(Caption, count);
	int			columns = (int) ceil(sqrt(count));
	int			rows = (count + columns - 1) / columns;
	int			width = 0;
	int			height = 0;
	int			lines = 1;
	int			top;
	int			i;

	for (i = 0; i < count; i++)
	{
		width = Max(width, cells[i].image.width);
		height = Max(height, cells[i].image.height);
	}
	for (i = 0; i < count; i++)
	{
		captions[i] = break_caption(cells[i].caption, width);
		lines = Max(lines, captions[i].count);
	}
	height += 3 + lines * LINE_HEIGHT;
	/* a narrow sheet would cut its title off */
	sheet.width = Max(columns * (width + GAP) + GAP,
					  eng_draw_text_width(title, 1) + 12);
	sheet.width = Min(sheet.width, ENG_JPEG_MAX_SIDE);
	top = TITLE_HEIGHT * (1 + put_legend(NULL, legend, sheet.width)) + GAP;
	sheet.height = rows * (height + GAP) + top;
	sheet.pixels = palloc_extended(eng_image_bytes(&sheet), MCXT_ALLOC_HUGE);
	memset(sheet.pixels, 32, eng_image_bytes(&sheet));
	eng_draw_text(&sheet, 6, 4, 1, title, white);
	put_legend(&sheet, legend, sheet.width);
	for (i = 0; i < count; i++)
	{
		int			x = GAP + i % columns * (width + GAP);
		int			y = top + i / columns * (height + GAP);

		paste(&sheet, &cells[i].image, x, y);
		draw_caption(&sheet, &captions[i], x, y + cells[i].image.height + 3);
	}
	return sheet;
}
