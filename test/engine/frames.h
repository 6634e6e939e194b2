/*
 * test/engine/frames.h
 *		Small pictures with known boxes: bright rectangles on dark noise.
 */
#ifndef TEST_ENGINE_FRAMES_H
#define TEST_ENGINE_FRAMES_H

#include <stdlib.h>
#include <string.h>

#include "engine/core/random.h"
#include "engine/nets/detector.h"

#define FRAME_BOXES	3

static uint32_t
frame_draw(int64_t id, uint64_t counter, uint32_t limit)
{
	return eng_random_below(eng_random_u64(99, 0, (uint64_t) id, ENG_USE_TEST,
										   counter), limit);
}

/* A rectangle of one colour a class. */
static void
frame_rectangle(uint8_t *rgb, int32_t width, const float box[4], int32_t label)
{
	int32_t		x;
	int32_t		y;
	int			c;

	for (y = (int32_t) box[1]; y < (int32_t) box[3]; y++)
		for (x = (int32_t) box[0]; x < (int32_t) box[2]; x++)
			for (c = 0; c < 3; c++)
				rgb[((size_t) y * width + x) * 3 + c] =
					(uint8_t) ((label >> c & 1) ? 250 : 90);
}

/* Fill in *frame; frame_free gives its arrays back. */
static void
frame_make(EngFrame *frame, int64_t id, int32_t width, int32_t height,
		   int32_t boxes, int32_t classes)
{
	size_t		bytes = (size_t) width * height * 3;
	uint8_t    *rgb = malloc(bytes);
	float	   *list = calloc(4 * (boxes + 1), sizeof(float));
	int32_t    *labels = calloc(boxes + 1, sizeof(int32_t));
	size_t		i;
	int32_t		b;

	for (i = 0; i < bytes; i++)
		rgb[i] = (uint8_t) frame_draw(id, 1000 + i / 4, 60);
	for (b = 0; b < boxes; b++)
	{
		float	   *box = list + 4 * b;
		int32_t		w = 8 + (int32_t) frame_draw(id, 10 * b + 1, width / 3);
		int32_t		h = 8 + (int32_t) frame_draw(id, 10 * b + 2, height / 3);

		box[0] = (float) frame_draw(id, 10 * b + 3, width - w);
		box[1] = (float) frame_draw(id, 10 * b + 4, height - h);
		box[2] = box[0] + (float) w;
		box[3] = box[1] + (float) h;
		labels[b] = 1 + (int32_t) frame_draw(id, 10 * b + 5, classes - 1);
		frame_rectangle(rgb, width, box, labels[b]);
	}
	memset(frame, 0, sizeof(*frame));
	frame->rgb = rgb;
	frame->width = width;
	frame->height = height;
	frame->boxes = list;
	frame->labels = labels;
	frame->box_count = boxes;
	frame->frame_id = id;
	frame->position = id;
}

static void
frame_free(EngFrame *frame)
{
	free((void *) frame->rgb);
	free((void *) frame->boxes);
	free((void *) frame->labels);
}

#endif
