/*
 * cuda/batch.c
 *		A batch on its way to the device: pictures, sizes, ground truth.
 */
#include <stdlib.h>
#include <string.h>

#include "cuda/arrays.h"

static void
release_pictures(EngCuda *cuda, int32_t count, EngCudaFrame **taken)
{
	int32_t		i;

	for (i = 0; i < count; i++)
		if (taken[i] != NULL)
			eng_cuda_frame_release(cuda, taken[i]);
	free(taken);
}

static size_t
picture_bytes(const EngFrame *frame)
{
	return (size_t) frame->width * frame->height * 3;
}

/* Room for the pictures that have no place of their own. */
static bool
room_for_pixels(EngCuda *cuda, EngCudaArrays *a, const EngFrame *frames,
				EngCudaFrame *const *taken, EngStatus *status)
{
	EngCudaRegions *r = &a->r;
	size_t		total = 0;
	int32_t		i;

	for (i = 0; i < r->images; i++)
		if (taken[i] == NULL)
			total += picture_bytes(&frames[i]);
	if (total <= r->pixel_room)
		return true;
	r->pixel_room = total;
	r->pixels = eng_cuda_larger_block(cuda, a, r->pixels, total, 1);
	return !a->failed || eng_cuda_no_room(r, status);
}

/*
 * The pictures on the device: those kept there as they are, the others sent.
 */
static bool
send_pictures(EngCuda *cuda, EngCudaArrays *a, const EngFrame *frames,
			  EngCudaFrame **taken, EngStatus *status)
{
	EngCudaRegions *r = &a->r;
	EngCudaImage *images = (EngCudaImage *) (a->head + a->images_at);
	uint8_t    *pixels;
	int32_t		i;

	for (i = 0; i < r->images; i++)
		taken[i] = eng_cuda_frame_take(cuda, &frames[i].key,
									   picture_bytes(&frames[i]));
	if (!room_for_pixels(cuda, a, frames, taken, status))
		return false;
	pixels = r->pixels;
	for (i = 0; i < r->images; i++)
	{
		uint8_t    *to = taken[i] != NULL ? taken[i]->pixels : pixels;

		images[i].pixels = to;
		if (taken[i] == NULL)
			pixels += picture_bytes(&frames[i]);
		else if (taken[i]->ready)
			continue;
		if (frames[i].rgb == NULL)
			return eng_fail(status, ENG_INTERNAL,
							"a frame is no longer on the device");
		if (!eng_device_send(cuda, to, frames[i].rgb,
							 picture_bytes(&frames[i]), status))
			return false;
		/* what comes after on the stream finds it there */
		if (taken[i] != NULL)
			taken[i]->ready = true;
	}
	return true;
}

static void
fill_images(EngCudaArrays *a, const EngRegions *regions,
			const EngFrame *frames)
{
	const EngCudaRegions *r = &a->r;
	EngCudaImage *images = (EngCudaImage *) (a->head + a->images_at);
	int32_t    *labels = (int32_t *) (a->head + a->labels_at);
	int32_t		truth = 0;
	int32_t		i;

	for (i = 0; i < r->images; i++)
	{
		EngCudaImage *image = &images[i];
		int32_t		count = r->train ? regions->truth[i].count : 0;

		image->resized = regions->resized[i];
		image->original = regions->original[i];
		image->position = regions->position[i];
		image->flip = frames[i].flip;
		image->truth_first = truth;
		image->truth_count = count;
		if (count > 0)
			memcpy(labels + truth, regions->truth[i].labels,
				   sizeof(int32_t) * count);
		truth += count;
	}
}

/*
 * Sizes, ground truth and numbers of the batch, in one piece.
 */
static bool
upload_head(EngCuda *cuda, EngCudaArrays *a, const EngRegions *regions,
			const EngFrame *frames, int32_t boxes, EngStatus *status)
{
	EngCudaBatch *batch = (EngCudaBatch *) a->head;

	*batch = (EngCudaBatch) {
		regions->seed, regions->step, regions->loss_scale
	};
	fill_images(a, regions, frames);
	if (boxes > 0)
		memcpy(a->head + a->boxes_at, regions->truth_boxes,
			   sizeof(float) * 4 * boxes);
	return eng_device_upload(cuda, a->r.batch, a->head, a->boxes_at +
							 sizeof(float) * 4 * boxes, status);
}

/* Room for the boxes of the batch, which are *boxes. */
static bool
room_for_truth(EngCuda *cuda, EngCudaArrays *a, EngRegions *regions,
			   int32_t *boxes, EngStatus *status)
{
	int32_t		i;

	*boxes = 0;
	for (i = 0; a->r.train && i < a->r.images; i++)
		*boxes += regions->truth[i].count;
	if (*boxes > a->r.truth_room)
	{
		eng_cuda_make_truth(cuda, a, *boxes);
		regions->moves++;
	}
	return !a->failed || eng_cuda_no_room(&a->r, status);
}

static bool
set_batch(EngPlan *plan, EngRegions *regions, const EngFrame *frames,
		  EngStatus *status)
{
	EngCuda    *cuda = plan->backend->state;
	EngCudaArrays *a = eng_cuda_arrays(regions);
	EngCudaFrame **taken = calloc(a->r.images, sizeof(*taken));
	int32_t		boxes;
	bool		ok;

	if (taken == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	ok = room_for_truth(cuda, a, regions, &boxes, status) &&
		send_pictures(cuda, a, frames, taken, status) &&
		upload_head(cuda, a, regions, frames, boxes, status);
	if (ok)
		eng_cuda_image_input(cuda, eng_plan_value(plan, plan->input),
							 plan->tensors[plan->input].type, &a->r);
	/* memory that is freed from here on is freed behind the input */
	release_pictures(cuda, a->r.images, taken);
	return ok;
}

bool
eng_cuda_input(EngPlan *plan, EngRegions *regions, const EngFrame *frames,
			   EngStatus *status)
{
	EngCudaArrays *a = eng_cuda_arrays(regions);
	size_t		before = a->bytes;
	bool		ok;

	/* from here on the draws are the device's */
	if (a->r.train && eng_regions_in_order(regions) &&
		!eng_device_upload(plan->backend->state, a->r.mt, regions->mt,
						   sizeof(EngMt19937), status))
		return false;
	ok = set_batch(plan, regions, frames, status);
	regions->bytes += a->bytes - before;
	return ok;
}
