/*
 * experiments/plot.c
 *		Line plots as SVG.
 *
 * Colours are those of Okabe and Ito ("Color Universal Design", 2008), which
 * colour-blind people tell apart; from the ninth line on they repeat, dashed.
 */
#include "postgres.h"

#include <math.h>

#include "experiments/page.h"
#include "experiments/plot.h"

#define WIDTH		720
#define HEIGHT		330
#define LEFT		56
#define RIGHT		150			/* names of the lines */
#define TOP			12
#define BOTTOM		42
#define TICKS		5			/* about so many on an axis */

static const char *const colours[] = {
	"#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9",
	"#000000", "#8A7F00"
};

typedef struct Frame
{
	double		x_max;
	double		y_max;
} Frame;

static double
place_x(const Frame *frame, double x)
{
	return LEFT + (WIDTH - LEFT - RIGHT) * x / frame->x_max;
}

static double
place_y(const Frame *frame, double y)
{
	return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / frame->y_max;
}

/* A round step of which about TICKS make the range. */
static double
tick_step(double range)
{
	double		raw = range / TICKS;
	double		unit = pow(10, floor(log10(raw)));
	double		factor = raw / unit;

	return unit * (factor < 1.5 ? 1 : factor < 3.5 ? 2 : factor < 7.5 ? 5 : 10);
}

static Frame
choose_frame(const AvcPlot *plot)
{
	Frame		frame = {plot->x_max, plot->y_max};
	int			i;
	int			j;

	for (i = 0; i < plot->line_count; i++)
		for (j = 0; j < plot->lines[i].count; j++)
		{
			const AvcPlotLine *line = &plot->lines[i];

			if (plot->x_max == 0)
				frame.x_max = Max(frame.x_max, line->x[j]);
			if (plot->y_max == 0 && isfinite(line->y[j]))
				frame.y_max = Max(frame.y_max, line->y[j]);
		}
	if (!(frame.x_max > 0))
		frame.x_max = 1;
	if (!(frame.y_max > 0))
		frame.y_max = 1;
	return frame;
}

static void
draw_axes(StringInfo page, const AvcPlot *plot, const Frame *frame)
{
	double		step = tick_step(frame->x_max);
	double		at;

	for (at = 0; at <= frame->x_max * 1.0001; at += step)
		appendStringInfo(page, "<path d=\"M%.1f %d V%d\" stroke=\"#ddd\"/>"
						 "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%g</text>",
						 place_x(frame, at), TOP, HEIGHT - BOTTOM,
						 place_x(frame, at), HEIGHT - BOTTOM + 16, at);
	step = tick_step(frame->y_max);
	for (at = 0; at <= frame->y_max * 1.0001; at += step)
		appendStringInfo(page, "<path d=\"M%d %.1f H%d\" stroke=\"#ddd\"/>"
						 "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%g</text>",
						 LEFT, place_y(frame, at), WIDTH - RIGHT, LEFT - 6,
						 place_y(frame, at) + 4, at);
	appendStringInfo(page, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">",
					 (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6);
	avc_page_text(page, plot->x_label);
	appendStringInfo(page, "</text><text transform=\"translate(13 %d) rotate(-90)\" text-anchor=\"middle\">",
					 (TOP + HEIGHT - BOTTOM) / 2);
	avc_page_text(page, plot->y_label);
	appendStringInfoString(page, "</text>\n");
}

static void
draw_dots(StringInfo page, const AvcPlotLine *line, const Frame *frame,
		  const char *colour)
{
	int			i;

	for (i = 0; i < line->count; i++)
		if (isfinite(line->y[i]))
			appendStringInfo(page, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"/>",
							 place_x(frame, line->x[i]),
							 place_y(frame, line->y[i]), colour);
}

static void
draw_line(StringInfo page, const AvcPlotLine *line, const Frame *frame,
		  int number)
{
	const char *colour = colours[number % lengthof(colours)];
	const char *dash = number < lengthof(colours) ? "" : " stroke-dasharray=\"5 3\"";
	int			y = TOP + 12 + 18 * number;
	bool		is_down = false;
	int			i;

	appendStringInfo(page, "<path fill=\"none\" stroke=\"%s\" stroke-width=\"1.8\"%s d=\"",
					 colour, dash);
	for (i = 0; i < line->count; i++)
	{
		if (isfinite(line->y[i]))
			appendStringInfo(page, "%c%.1f %.1f", is_down ? 'L' : 'M',
							 place_x(frame, line->x[i]),
							 place_y(frame, Min(line->y[i], frame->y_max)));
		is_down = isfinite(line->y[i]);
	}
	appendStringInfoString(page, "\"/>");
	if (line->has_dots)
		draw_dots(page, line, frame, colour);
	appendStringInfo(page, "<path d=\"M%d %d h18\" stroke=\"%s\" stroke-width=\"3\"%s/>"
					 "<text x=\"%d\" y=\"%d\">", WIDTH - RIGHT + 10, y, colour,
					 dash, WIDTH - RIGHT + 33, y + 4);
	avc_page_text(page, line->name);
	appendStringInfoString(page, "</text>\n");
}

void
avc_plot(StringInfo page, const AvcPlot *plot)
{
	Frame		frame = choose_frame(plot);
	bool		has_line = false;
	int			i;

	for (i = 0; i < plot->line_count; i++)
		has_line |= plot->lines[i].count >= 2;
	if (!has_line)
		return;
	appendStringInfoString(page, "<figure>");
	avc_page_element(page, "figcaption", plot->caption);
	appendStringInfo(page, "<svg viewBox=\"0 0 %d %d\" width=\"%d\" role=\"img\" aria-label=\"",
					 WIDTH, Max(HEIGHT, TOP + 30 + 18 * plot->line_count), WIDTH);
	avc_page_text(page, plot->caption);
	appendStringInfoString(page, "\">\n");
	draw_axes(page, plot, &frame);
	for (i = 0; i < plot->line_count; i++)
		draw_line(page, &plot->lines[i], &frame, i);
	appendStringInfoString(page, "</svg></figure>\n");
}
