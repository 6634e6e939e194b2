/*
 * engine/ops/box_coder.c
 *		Boxes as offsets from other boxes, and back (Girshick et al., 2014).
 */
#include <math.h>

#include "engine/ops/detection.h"

const float eng_rpn_box_weights[4] = {1.0f, 1.0f, 1.0f, 1.0f};
const float eng_roi_box_weights[4] = {10.0f, 10.0f, 5.0f, 5.0f};

/* ln(1000 / 16): one step makes a box at most 62.5 times larger */
static const float size_clamp = (float) 4.135166556742356;

void
eng_boxes_encode(float *targets, const float *gt, const float *boxes,
				 int32_t n, const float weights[4])
{
	for (int32_t i = 0; i < n; i++)
	{
		const float *b = boxes + 4 * i;
		const float *g = gt + 4 * i;
		float	   *t = targets + 4 * i;
		float		width = b[2] - b[0];
		float		height = b[3] - b[1];
		float		x = b[0] + 0.5f * width;
		float		y = b[1] + 0.5f * height;
		float		gt_width = g[2] - g[0];
		float		gt_height = g[3] - g[1];
		float		gt_x = g[0] + 0.5f * gt_width;
		float		gt_y = g[1] + 0.5f * gt_height;

		t[0] = weights[0] * (gt_x - x) / width;
		t[1] = weights[1] * (gt_y - y) / height;
		t[2] = weights[2] * logf(gt_width / width);
		t[3] = weights[3] * logf(gt_height / height);
	}
}

void
eng_boxes_decode(float *out, const float *deltas, const float *boxes,
				 int32_t n, int32_t k, const float weights[4])
{
	for (int32_t i = 0; i < n; i++)
	{
		const float *b = boxes + 4 * (size_t) i;
		float		width = b[2] - b[0];
		float		height = b[3] - b[1];
		float		x = b[0] + 0.5f * width;
		float		y = b[1] + 0.5f * height;

		for (int32_t j = 0; j < k; j++)
		{
			const float *d = deltas + 4 * ((size_t) i * k + j);
			float	   *o = out + 4 * ((size_t) i * k + j);
			float		dw = d[2] / weights[2];
			float		dh = d[3] / weights[3];
			float		cx = d[0] / weights[0] * width + x;
			float		cy = d[1] / weights[1] * height + y;
			float		w,
						h;

			w = 0.5f * (expf(dw > size_clamp ? size_clamp : dw) * width);
			h = 0.5f * (expf(dh > size_clamp ? size_clamp : dh) * height);
			o[0] = cx - w;
			o[1] = cy - h;
			o[2] = cx + w;
			o[3] = cy + h;
		}
	}
}

static inline float
clip(float value, float limit)
{
	/* a NaN stays one and is dropped as a small box later */
	if (value < 0.0f)
		return 0.0f;
	return value > limit ? limit : value;
}

void
eng_boxes_clip(float *boxes, int32_t n, EngSize image)
{
	for (int32_t i = 0; i < n; i++)
	{
		float	   *b = boxes + 4 * (size_t) i;

		b[0] = clip(b[0], (float) image.width);
		b[1] = clip(b[1], (float) image.height);
		b[2] = clip(b[2], (float) image.width);
		b[3] = clip(b[3], (float) image.height);
	}
}
