/*
 * evaluation/sheet.h
 *		Contact sheets: small pictures side by side, each with its caption.
 */
#ifndef AVC_EVALUATION_SHEET_H
#define AVC_EVALUATION_SHEET_H

#include "engine/status.h"
#include "image/draw.h"

#define AVC_SHEET_SIDE 320		/* pixels of a cell's longer side */
#define AVC_SHEET_MAX_SIDE 640
#define AVC_SHEET_CELLS 100		/* at most */

/* libjpeg's objects, freed with the context that they were made in. */
typedef struct AvcSheetTools AvcSheetTools;

typedef struct AvcSheetCell
{
	EngImage	image;			/* RGB */
	const char *caption;		/* lines; what does not fit is cut off */
} AvcSheetCell;

/* What a colour stands for. */
typedef struct AvcSheetKey
{
	const char *name;
	EngColour	colour;
} AvcSheetKey;

/* The colours of a sheet, explained below its title. */
typedef struct AvcSheetLegend
{
	const AvcSheetKey *keys;
	int			count;
} AvcSheetLegend;

extern AvcSheetTools *avc_sheet_tools(void);

/* The error "could not ...: why". */
extern void avc_sheet_fail(const char *what,
						   const EngStatus *status) pg_attribute_noreturn();

/* Decode at 1/scale, RGB, into memory of the current context. */
extern EngImage avc_sheet_decode(AvcSheetTools *tools, const bytea *jpeg,
								 int scale);

/*
 * The frame small enough for a cell whose longer side is "side" pixels; *scale
 * is its size in the frame's.
 */
extern EngImage avc_sheet_shrink(AvcSheetTools *tools, const bytea *jpeg,
								 int side, float *scale);

/* The picture as a JPEG. */
extern bytea *avc_sheet_encode(AvcSheetTools *tools, const EngImage *image);

/* The cells below title and legend, about as many columns as rows. */
extern EngImage avc_sheet_compose(const AvcSheetCell *cells, int count,
								  const char *title, AvcSheetLegend legend);

#endif							/* AVC_EVALUATION_SHEET_H */
