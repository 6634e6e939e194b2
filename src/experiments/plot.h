/*
 * experiments/plot.h
 *		Line plots as SVG.
 */
#ifndef AVC_EXPERIMENTS_PLOT_H
#define AVC_EXPERIMENTS_PLOT_H

#include "lib/stringinfo.h"

/* A line; points whose y is not a number leave a gap. */
typedef struct AvcPlotLine
{
	const char *name;
	int			count;
	double	   *x;
	double	   *y;
	bool		has_dots;		/* mark each point */
} AvcPlotLine;

typedef struct AvcPlot
{
	const char *caption;
	const char *x_label;
	const char *y_label;
	double		x_max;			/* axes begin at 0; 0 = as the points ask */
	double		y_max;
	AvcPlotLine *lines;
	int			line_count;
} AvcPlot;

/* Append the plot as a figure; nothing if no line has two points. */
extern void avc_plot(StringInfo page, const AvcPlot *plot);

#endif							/* AVC_EXPERIMENTS_PLOT_H */
