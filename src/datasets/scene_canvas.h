/*
 * datasets/scene_canvas.h
 *		The canvas of the scene renderer: flat shapes with colour, light that
 *		shines by itself, and the count of what is visible of each thing.
 *
 * Drawing happens in two ways.  Counting writes thing numbers only, to learn
 * which share of each thing is visible; painting writes colours.  Both go
 * through the same shapes, so the two cannot disagree.
 */
#ifndef AVC_DATASETS_SCENE_CANVAS_H
#define AVC_DATASETS_SCENE_CANVAS_H

#include <stdbool.h>
#include <stdint.h>

#include "image/image.h"

#define SCENE_MAX_THINGS 96
#define SCENE_NO_THING 255

typedef struct ScenePoint
{
	double		x;				/* canvas pixels, rightwards */
	double		y;				/* canvas pixels, downwards */
} ScenePoint;

/* What a shape leaves on the canvas. */
typedef struct ScenePaint
{
	float		red;			/* 0 .. 255, light and fog included */
	float		green;
	float		blue;
	float		shine;			/* 0, or how much of the colour glows */
	float		alpha;			/* 1 = opaque; less is no silhouette */
} ScenePaint;

/* What the counting pass learns of one thing. */
typedef struct SceneSilhouette
{
	double		x1;				/* extent in canvas pixels, unclipped */
	double		y1;
	double		x2;
	double		y2;
	int			total;			/* pixels of the canvas it covers by itself */
	int			covered;		/* of these, hidden by its own partner */
	int			visible;		/* of these, seen in the end */
} SceneSilhouette;

typedef struct SceneCanvas
{
	int			width;			/* canvas pixels, twice the frame's */
	int			height;
	float	   *pixels;			/* (height, width, 4): RGB, 0..255, and shine */
	uint8_t    *things;			/* (height, width): number of the thing seen */
	float	   *glow;			/* (height / 4, width / 4, 3) rounded up */
	float	   *glow_scratch;	/* as large as glow */
	bool		counting;		/* write things, not pixels */
	bool		is_measured;	/* shapes belong to the silhouette */
	int			thing;			/* what is being drawn */
	int			partner;		/* the thing it may cover for free */
	SceneSilhouette silhouettes[SCENE_MAX_THINGS];
} SceneCanvas;

extern bool avc_canvas_alloc(SceneCanvas *canvas, int width, int height);
extern void avc_canvas_free(SceneCanvas *canvas);

/* Start a counting pass, take down one thing's shapes, and sum up. */
extern void avc_canvas_count_begin(SceneCanvas *canvas);
extern void avc_canvas_thing(SceneCanvas *canvas, int thing, int partner);
extern void avc_canvas_count_end(SceneCanvas *canvas, int things);

/* Shapes.  Polygons are convex; all are clipped. */
extern void avc_canvas_polygon(SceneCanvas *canvas, const ScenePoint *points,
							   int count, ScenePaint paint);
extern void avc_canvas_ellipse(SceneCanvas *canvas, ScenePoint centre,
							   double rx, double ry, ScenePaint paint);

/* The band of an ellipse between its outline and "thickness" inwards. */
extern void avc_canvas_ring(SceneCanvas *canvas, ScenePoint centre,
							ScenePoint radius, double thickness,
							ScenePaint paint);

/* A straight limb, "from_width" and "to_width" wide at its ends. */
extern void avc_canvas_limb(SceneCanvas *canvas, ScenePoint from,
							ScenePoint to, double from_width, double to_width,
							ScenePaint paint);
extern void avc_canvas_rectangle(SceneCanvas *canvas, ScenePoint low,
								 ScenePoint high, ScenePaint paint);

/* Colours of row y from x1 up to x2 set to paint, no counting. */
extern void avc_canvas_span(SceneCanvas *canvas, int y, int x1, int x2,
							ScenePaint paint);

/* Blur what shines, sigma in canvas pixels. */
extern void avc_canvas_make_glow(SceneCanvas *canvas, double sigma);

#endif							/* AVC_DATASETS_SCENE_CANVAS_H */
