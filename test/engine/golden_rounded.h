/*
 * test/engine/golden_rounded.h
 *		Compare what bf16 gives with a case that was recorded in float32.
 */
#ifndef TEST_ENGINE_GOLDEN_ROUNDED_H
#define TEST_ENGINE_GOLDEN_ROUNDED_H

#include "golden_judge.h"

/* Losses of the first step: within 2 %, or 0.01. */
static void
compare_rounded_loss(Case *c, const char *name)
{
	const EngFileTensor *ours = eng_tensor_file_find(c->output, name);
	double		want = element(eng_tensor_file_find(c->golden, name), 0);
	double		error = ours == NULL ? INFINITY :
		fabs(element(ours, 0) - want) / fmax(0.02 * fabs(want), 0.01);

	verdict(c, error <= 1, name, error);
}

/*
 * Detections above 0.5 of all frames: a share must be found again with the
 * same label, nearly the same box and a score within 0.05.
 */
static void
compare_rounded_detections(Case *c, double least)
{
	static const Closeness close = {0.9, 0.05, 0.5};
	int64_t		hits = 0;
	int64_t		total = 0;
	int			i;

	for (i = 0;; i++)
	{
		char		frame[16];
		List		lists[2];
		int64_t		of;
		int			k;

		memset(lists, 0, sizeof(lists));
		snprintf(frame, sizeof(frame), ".%d", i);
		for (k = 0; k < 2; k++)
		{
			const EngTensorFile *file = k == 0 ? c->golden : c->output;

			if (!read_view(&lists[k].boxes, file, "out.eval.", "boxes", frame))
				break;
			read_view(&lists[k].scores, file, "out.eval.", "scores", frame);
			read_view(&lists[k].labels, file, "out.eval.", "labels", frame);
		}
		if (k == 2)
		{
			hits += count_found(&lists[0], &lists[1], &close, &of);
			total += of;
		}
		free_list(&lists[0]);
		free_list(&lists[1]);
		if (k < 2)
			break;
	}
	tap_note("%lld of %lld detections found again", (long long) hits,
			 (long long) total);
	verdict(c, total > 0 && hits >= least * total, "detections",
			hits > 0 ? least * total / hits : INFINITY);
}

static void
compare_rounded_case(Case *c, double least)
{
	for (int32_t i = 0; i < c->golden->count; i++)
		if (strncmp(c->golden->tensors[i].name, "out.step1.loss_", 15) == 0)
			compare_rounded_loss(c, c->golden->tensors[i].name);
	compare_rounded_detections(c, least);
}

#endif
