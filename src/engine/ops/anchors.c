/*
 * engine/ops/anchors.c
 *		Anchors of the region proposal network.
 *
 * Strides are whole numbers, padded size / map size; for the "pool" level
 * with an odd map below it this is not 64 (SSD-style half cells are not
 * added either: anchors sit on the upper left corner of their cell).  All
 * coordinates are whole numbers, so float32 holds them exactly.
 */
#include <math.h>

#include "engine/ops/detection.h"

void
eng_pyramid_set(EngPyramid *pyramid, EngSize padded,
				const EngSize map[ENG_RPN_LEVELS], const EngAnchorRule *rule)
{
	pyramid->padded = padded;
	pyramid->cell_anchors = rule->size_count * rule->ratio_count;
	pyramid->first[0] = 0;
	for (int l = 0; l < ENG_RPN_LEVELS; l++)
	{
		pyramid->map[l] = map[l];
		pyramid->stride[l].height = padded.height / map[l].height;
		pyramid->stride[l].width = padded.width / map[l].width;
		pyramid->first[l + 1] = pyramid->first[l] +
			map[l].height * map[l].width * pyramid->cell_anchors;
	}
}

void
eng_anchors_base(float *base, const EngAnchorRule *rule, int32_t level)
{
	for (int32_t r = 0; r < rule->ratio_count; r++)
	{
		float		h_ratio = sqrtf(rule->ratios[level][r]);
		float		w_ratio = 1.0f / h_ratio;

		for (int32_t s = 0; s < rule->size_count; s++)
		{
			float		w = w_ratio * rule->sizes[level][s];
			float		h = h_ratio * rule->sizes[level][s];

			/* rintf rounds halves to even, as torch does */
			base[0] = rintf(-w / 2.0f);
			base[1] = rintf(-h / 2.0f);
			base[2] = rintf(w / 2.0f);
			base[3] = rintf(h / 2.0f);
			base += 4;
		}
	}
}

void
eng_anchors(float *anchors, const EngPyramid *pyramid,
			const EngAnchorRule *rule)
{
	for (int32_t l = 0; l < ENG_RPN_LEVELS; l++)
	{
		float		base[4 * ENG_CELL_ANCHORS];

		eng_anchors_base(base, rule, l);
		for (int32_t y = 0; y < pyramid->map[l].height; y++)
			for (int32_t x = 0; x < pyramid->map[l].width; x++)
			{
				float		sy = (float) (y * pyramid->stride[l].height);
				float		sx = (float) (x * pyramid->stride[l].width);

				for (int32_t a = 0; a < pyramid->cell_anchors; a++)
				{
					*anchors++ = sx + base[4 * a];
					*anchors++ = sy + base[4 * a + 1];
					*anchors++ = sx + base[4 * a + 2];
					*anchors++ = sy + base[4 * a + 3];
				}
			}
	}
}
