/*
 * engine/nets/detector_step.c
 *		What a detector does with a batch: the input, a training step, a look.
 */
#include <inttypes.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "engine/core/mirror.h"
#include "engine/core/ranks.h"
#include "engine/nets/detector_private.h"
#include "engine/nets/group.h"
#include "engine/nets/region_ops.h"
#include "engine/optim/optimizer.h"

#define MOST_FRAMES		1024
#define MOST_BOXES		100000	/* of a frame */
#define MOST_SIDE		65500	/* of a JPEG */

/*
 * Whether the frame keeps a pixel, whatever size it may be resized to.
 */
static bool
check_size(const EngDetector *detector, const EngFrame *frame, bool train,
		   EngStatus *status)
{
	const EngDetectorConfig *c = &detector->config;
	EngSize		size = {frame->height, frame->width};
	EngResizeRule rule = eng_detector_resize(c, train);
	int32_t		i;

	if ((frame->rgb == NULL && (detector->backend->frame_hold == NULL ||
								!eng_frame_key_is_set(&frame->key))) ||
		frame->width < 1 || frame->height < 1 ||
		frame->width > MOST_SIDE || frame->height > MOST_SIDE)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"frame %" PRId64 " of %dx%d pixels cannot be used",
						frame->frame_id, frame->width, frame->height);
	for (i = train ? 0 : c->min_size_count - 1; i < c->min_size_count; i++)
	{
		EngSize		resized;

		rule.min_size = c->min_sizes[i];
		resized = eng_resize_size(size, &rule);
		if (resized.height < 1 || resized.width < 1)
			return eng_fail(status, ENG_BAD_ARGUMENT,
							"frame %" PRId64 " of %dx%d pixels would be resized to %dx%d",
							frame->frame_id, size.width, size.height,
							resized.width, resized.height);
	}
	return true;
}

bool
eng_detector_check_frame(const EngDetector *detector, const EngFrame *frame,
						 bool train, EngStatus *status)
{
	int32_t		i;

	if (!check_size(detector, frame, train, status))
		return false;
	if (train && (frame->box_count < 0 || frame->box_count > MOST_BOXES ||
				  (frame->box_count > 0 &&
				   (frame->boxes == NULL || frame->labels == NULL))))
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"frame %" PRId64 " has %d boxes", frame->frame_id,
						frame->box_count);
	for (i = 0; train && i < frame->box_count; i++)
	{
		const float *box = frame->boxes + 4 * i;

		if (frame->labels[i] < 1 ||
			frame->labels[i] >= detector->config.num_classes)
			return eng_fail(status, ENG_BAD_ARGUMENT,
							"frame %" PRId64 " has label %d, the detector has 1 to %d",
							frame->frame_id, frame->labels[i],
							detector->config.num_classes - 1);
		if (!isfinite(box[0]) || !isfinite(box[1]) || !isfinite(box[2]) ||
			!isfinite(box[3]))
			return eng_fail(status, ENG_BAD_ARGUMENT,
							"frame %" PRId64 " has a box that is not finite",
							frame->frame_id);
	}
	return true;
}

static bool
check_frames(const EngDetector *detector, const EngFrame *frames, int n,
			 bool train, EngStatus *status)
{
	int			i;

	if (n < 1 || n > MOST_FRAMES)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"a batch has 1 to %d frames, not %d", MOST_FRAMES, n);
	for (i = 0; i < n; i++)
		if (!eng_detector_check_frame(detector, &frames[i], train, status))
			return false;
	return true;
}

/*
 * torch's generator, if it draws for this detector; else NULL.
 */
static EngMt19937 *
generator(EngDetector *detector)
{
	if (detector->has_hooks && detector->hooks.mt != NULL)
		return detector->hooks.mt;
	return detector->config.sampler == ENG_SAMPLE_MT19937 ?
		&detector->mt : NULL;
}

/*
 * How a frame is resized; training may draw the short side.
 */
static EngResizeRule
resize_rule(EngDetector *detector, const EngFrame *frame,
			const EngStepInfo *info)
{
	const EngDetectorConfig *c = &detector->config;
	EngResizeRule rule = eng_detector_resize(c, info != NULL);
	EngMt19937 *mt = generator(detector);

	if (info == NULL || rule.keep)
		return rule;
	/* torch draws even if there is one size, or a fixed one */
	if (mt != NULL)
		rule.min_size = c->min_sizes[(int) (eng_mt19937_uniform(mt) *
											(float) c->min_size_count)];
	else if (c->min_size_count > 1)
		rule.min_size = c->min_sizes[eng_random_below(
			eng_random_u64(info->seed, info->step, (uint64_t) frame->position,
						   ENG_USE_SIZE, 0), c->min_size_count)];
	return rule;
}

/*
 * Sizes of the batch: each frame's, and the padded one of all.
 */
static EngSize
batch_size(EngDetector *detector, const EngFrame *frames, int n,
		   const EngStepInfo *info, EngSize *resized)
{
	EngSize		padded = {0, 0};
	int			i;

	for (i = 0; i < n; i++)
	{
		EngSize		size = {frames[i].height, frames[i].width};
		EngResizeRule rule = resize_rule(detector, &frames[i], info);

		resized[i] = eng_resize_size(size, &rule);
		if (resized[i].height > padded.height)
			padded.height = resized[i].height;
		if (resized[i].width > padded.width)
			padded.width = resized[i].width;
	}
	padded.height = eng_padded_size(padded.height,
									detector->config.size_divisible);
	padded.width = eng_padded_size(padded.width,
								   detector->config.size_divisible);
	return padded;
}

EngSize
eng_detector_padded(EngDetector *detector, const EngFrame *frames, int n,
					const EngStepInfo *info)
{
	EngSize		resized[MOST_FRAMES];

	return batch_size(detector, frames, n, info, resized);
}

static bool
fill_truth(EngRegions *r, const EngFrame *frames, EngStatus *status)
{
	int32_t		total = 0;
	float	   *boxes;
	int32_t		i;

	for (i = 0; i < r->images; i++)
		total += frames[i].box_count;
	if (!eng_regions_truth_room(r, total, status))
		return false;
	boxes = r->truth_boxes;
	for (i = 0; i < r->images; i++)
	{
		int32_t		count = frames[i].box_count;

		if (count > 0)
			memcpy(boxes, frames[i].boxes, sizeof(float) * 4 * count);
		if (frames[i].flip)
			eng_boxes_flip(boxes, boxes, count, frames[i].width);
		eng_boxes_scale(boxes, boxes, count, r->original[i], r->resized[i]);
		if (!eng_boxes_check(boxes, count, frames[i].frame_id, status))
			return false;
		r->truth[i] = (EngGroundTruth) {boxes, frames[i].labels, count};
		boxes += (size_t) count * 4;
	}
	return true;
}

static bool
fill_input(EngDetector *detector, EngKeptPlan *kept, const EngFrame *frames,
		   EngStatus *status)
{
	const EngDetectorConfig *c = &detector->config;
	EngRegions *r = kept->regions;
	EngType		type = kept->plan->tensors[kept->plan->input].type;
	void	   *batch = eng_plan_value(kept->plan, kept->plan->input);
	size_t		need = 0;
	int32_t		i;

	for (i = 0; i < r->images; i++)
	{
		size_t		size = eng_image_input_scratch_bytes(r->resized[i],
														 r->original[i]);

		if (size > need)
			need = size;
	}
	if (!eng_regions_scratch(r, need, status))
		return false;
#pragma omp parallel for schedule(static, 1)
	for (i = 0; i < r->images; i++)
	{
		EngPixels	pixels = {
			.rgb = frames[i].rgb, .size = r->original[i],
			.resized = r->resized[i], .padded = r->padded,
			.flip = frames[i].flip, .type = type
		};
		int64_t		size = (int64_t) r->padded.height * r->padded.width * 3;

		memcpy(pixels.mean, c->image_mean, sizeof(pixels.mean));
		memcpy(pixels.std, c->image_std, sizeof(pixels.std));
		eng_image_input(eng_at(batch, type, i * size), 3, &pixels,
						eng_regions_thread_scratch(r, omp_get_thread_num()));
	}
	return true;
}

static void
set_step(EngRegions *r, const EngStepInfo *info)
{
	r->seed = info->seed;
	r->step = info->step;
	r->loss_scale = info->accumulate_count > 1 ?
		1.0f / (float) info->accumulate_count : 1.0f;
}

/*
 * Plan of a rank that has no frames.
 */
static EngKeptPlan *
start_idle(EngDetector *detector, EngSize padded, const EngStepInfo *info,
		   EngStatus *status)
{
	EngKeptPlan *kept = eng_detector_plan(detector, padded, 0, true, status);

	if (kept == NULL || !eng_mirror_to_device(&detector->parameters, status))
		return NULL;
	set_step(kept->regions, info);
	return kept;
}

/*
 * Plan for the frames, with the batch, its sizes and its truth in place.
 */
static EngKeptPlan *
start_batch(EngDetector *detector, const EngShare *share,
			const EngStepInfo *info, EngStatus *status)
{
	const EngFrame *frames = share->frames;
	int			n = share->n;
	EngSize		resized[MOST_FRAMES];
	EngSize		padded;
	EngKeptPlan *kept;
	int			i;

	if (n == 0)
		return start_idle(detector, share->padded, info, status);
	padded = batch_size(detector, frames, n, info, resized);
	if (share->padded.height > 0)
		padded = share->padded;
	kept = eng_detector_plan(detector, padded, n, info != NULL, status);
	if (kept == NULL)
		return NULL;
	kept->regions->mt = generator(detector);
	memcpy(kept->regions->resized, resized, sizeof(EngSize) * n);
	for (i = 0; i < n; i++)
	{
		kept->regions->original[i] =
			(EngSize) {frames[i].height, frames[i].width};
		kept->regions->frame_id[i] = frames[i].frame_id;
		kept->regions->position[i] = (uint64_t) frames[i].position;
	}
	if (info != NULL)
		set_step(kept->regions, info);
	if (info != NULL && !fill_truth(kept->regions, frames, status))
		return NULL;
	if (!eng_mirror_to_device(&detector->parameters, status))
		return NULL;
	if (detector->backend->regions != NULL)
		return detector->backend->regions->input(kept->plan, kept->regions,
												 frames, status) ?
			kept : NULL;
	if (!fill_input(detector, kept, frames, status))
		return NULL;
	return kept;
}

static bool
not_finite(const EngStepInfo *info, const EngShare *share, const char *what,
		   EngStatus *status)
{
	const EngFrame *frames = share->batch;
	int			n = share->batch_count;
	char		ids[400] = "";
	size_t		used = 0;
	int			i;

	for (i = 0; i < n && used + 24 < sizeof(ids); i++)
		used += snprintf(ids + used, sizeof(ids) - used, "%s%" PRId64,
						 i ? ", " : "", frames[i].frame_id);
	return eng_fail(status, ENG_NUMERIC,
					"%s is not finite at step %" PRIu64 ", frames %s%s", what,
					info->step, ids, i < n ? ", ..." : "");
}

static void
set_losses(EngStepResult *result, const EngRegions *r)
{
	result->loss_classifier = r->roi_loss.classifier;
	result->loss_box_reg = r->roi_loss.box;
	result->loss_objectness = r->rpn_loss.objectness;
	result->loss_rpn_box_reg = r->rpn_loss.box;
	result->loss = result->loss_classifier + result->loss_box_reg +
		result->loss_objectness + result->loss_rpn_box_reg;
}

/*
 * Apply the gradients gathered so far.
 */
static bool
update(EngDetector *detector, const EngShare *share,
	   const EngStepInfo *info, EngStepResult *result, EngStatus *status)
{
	double		norm;

	eng_optimizer_share(detector->backend, &detector->parameters);
	if (!eng_ranks_check(detector->backend))
		return false;
	norm = eng_optimizer_norm(detector->backend, &detector->parameters);
	detector->has_gradients = false;
	result->grad_norm = (float) norm;
	if (!isfinite(norm))
		return not_finite(info, share, "gradient", status);
	if (info->no_update)
		return true;
	eng_optimizer_step(detector->backend, &detector->parameters,
					   &detector->optimizer, info->lr, detector->updates,
					   norm);
	detector->updates++;
	return true;
}

/*
 * Wait for a device and look at what it found.
 */
static bool
read_losses(EngDetector *detector, const EngShare *share,
			const EngStepInfo *info, EngStepResult *result, EngStatus *status)
{
	EngKeptPlan *kept = detector->current;

	if (!detector->backend->regions->results(kept->plan, kept->regions,
											 status))
		return false;
	set_losses(result, kept->regions);
	return isfinite(result->loss) ||
		not_finite(info, share, detector->precision == ENG_F16 ?
				   "loss, in f16, whose numbers end at 65504," : "loss",
				   status);
}

/*
 * The same on a device, which decides by itself whether it steps.
 */
static bool
update_device(EngDetector *detector, const EngShare *share,
			  const EngStepInfo *info, EngStepResult *result,
			  EngStatus *status)
{
	EngDeviceStep step = {info->lr, detector->updates, info->no_update};
	EngStepOutcome outcome;

	detector->has_gradients = false;
	eng_optimizer_share(detector->backend, &detector->parameters);
	if (!eng_optimizer_step_device(detector->backend, &detector->parameters,
								   &detector->optimizer, &step, &outcome,
								   status))
		return false;
	/* an empty last micro-batch has no losses */
	if (!result->skipped &&
		!read_losses(detector, share, info, result, status))
		return false;
	eng_detector_take_scale(detector, &outcome, result);
	if (result->overflow)
		return detector->loss_scale.scale >= ENG_LOSS_SCALE_LEAST ||
			not_finite(info, share,
					   "gradient, however small the loss scale,", status);
	result->grad_norm = (float) outcome.norm;
	if (!isfinite(outcome.norm))
		return not_finite(info, share, "gradient", status);
	if (outcome.updated && !info->no_update)
		detector->updates++;
	return true;
}

/*
 * Forward and backward.  A device goes on where losses are not finite: they
 * are looked at after the step.
 */
static bool
go_through(EngDetector *detector, EngKeptPlan *kept, const EngShare *share,
		   const EngStepInfo *info, EngStepResult *result, EngStatus *status)
{
	if (detector->backend->device)
		return eng_detector_pass(detector, kept, status);
	if (!eng_plan_forward(kept->plan, status) ||
		!eng_ranks_check(detector->backend))
		return false;
	set_losses(result, kept->regions);
	return isfinite(result->loss) ? eng_plan_backward(kept->plan, status) :
		not_finite(info, share, "loss", status);
}

/*
 * Put the frames in place.  Ranks go on only if that succeeded for all: until
 * here nothing has changed.
 */
static EngKeptPlan *
start(EngDetector *detector, const EngShare *share, const EngStepInfo *info,
	  EngStatus *status)
{
	EngKeptPlan *kept;
	uint64_t	batch = info->accumulate_count > 1 ?
		info->step * (uint64_t) info->accumulate_count +
		(uint64_t) info->accumulate_index : info->step;

	eng_mt19937_seed(&detector->mt, info->seed + batch);
	kept = start_batch(detector, share, info, status);
	return eng_ranks_agree(detector->backend, kept != NULL &&
						   eng_detector_send_scale(detector, status)) ?
		kept : NULL;
}

/*
 * The gradients of one batch that has boxes.
 */
static bool
gather(EngDetector *detector, EngKeptPlan *kept, const EngShare *share,
	   const EngStepInfo *info, EngStepResult *result, EngStatus *status)
{
	EngParameters *parameters = &detector->parameters;
	bool		ok;

	if (!detector->has_gradients)
		detector->backend->fill(detector->backend, parameters->run.gradients,
								parameters->trained);
	detector->has_gradients = true;
	ok = go_through(detector, kept, share, info, result, status);
	/* running statistics have moved, whatever comes of the step */
	eng_plan_count_batch(kept->plan);
	parameters->version++;
	eng_mirror_device_changed(parameters);
	return ok && eng_ranks_check(detector->backend);
}

/*
 * Everything after the frames are in place; kept NULL: the batch is skipped.
 */
static bool
go_on(EngDetector *detector, EngKeptPlan *kept, const EngShare *share,
	  const EngStepInfo *info, EngStepResult *result, EngStatus *status)
{
	bool		last = info->accumulate_count <= 1 ||
		info->accumulate_index == info->accumulate_count - 1;
	bool		device = detector->backend->device;

	if (kept != NULL &&
		!gather(detector, kept, share, info, result, status))
		return false;
	if (!last && kept != NULL && device &&
		!read_losses(detector, share, info, result, status))
		return false;
	if (!last || !detector->has_gradients)
		return true;
	if (device ?
		!update_device(detector, share, info, result, status) :
		!update(detector, share, info, result, status))
		return false;
	detector->parameters.version++;
	return true;
}

static bool
train_share(EngDetector *detector, const EngShare *share,
			const EngStepInfo *info, EngStepResult *result, EngStatus *status)
{
	EngKeptPlan *kept = NULL;
	int			i;

	memset(result, 0, sizeof(*result));
	detector->backend->enter(detector->backend);
	if (info->accumulate_count <= 1 || info->accumulate_index == 0)
		detector->has_gradients = false;
	for (i = 0; i < share->batch_count; i++)
		result->boxes += share->batch[i].box_count;
	result->skipped = result->boxes == 0 && !info->with_empty;
	if (!result->skipped)
	{
		kept = start(detector, share, info, status);
		if (kept == NULL)
		{
			detector->has_gradients = false;
			return false;
		}
	}
	if (go_on(detector, kept, share, info, result, status))
		return true;
	detector->has_gradients = false;
	/* what is not finite is so for all ranks */
	if (eng_backend_is_rank(detector->backend) &&
		status->code != ENG_NUMERIC)
	{
		eng_ranks_break(detector->backend->ranks);
		/* and nothing that is queued waits for the others any more */
		detector->backend->all_reduce(detector->backend, NULL, 0,
									  ENG_SUM_F32);
	}
	return false;
}

/*
 * The caller may use the frames' memory again after a failure, too.
 */
static bool
settled(EngDetector *detector, bool ok)
{
	if (detector->backend->settle != NULL)
		detector->backend->settle(detector->backend);
	return ok;
}

bool
eng_detector_train_share(EngDetector *detector, const EngShare *share,
						 const EngStepInfo *info, EngStepResult *result,
						 EngStatus *status)
{
	return settled(detector, train_share(detector, share, info, result,
										 status));
}

bool
eng_detector_train_step(EngDetector *detector, const EngFrame *frames, int n,
						const EngStepInfo *info, EngStepResult *result,
						EngStatus *status)
{
	EngShare	share = {frames, n, frames, n, {0, 0}};

	memset(result, 0, sizeof(*result));
	if (!detector->train || !detector->has_optimizer)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"this detector was not made to train");
	if (!check_frames(detector, frames, n, true, status))
		return false;
	return detector->group != NULL ?
		eng_group_train(detector->group, &share, info, result, status) :
		eng_detector_train_share(detector, &share, info, result, status);
}

bool
eng_detector_check_finite(const EngDetector *detector, EngStatus *status)
{
	const EngParameters *p = &detector->parameters;
	int32_t		i;

	if (!eng_mirror_to_host(p, status))
		return false;
	for (i = 0; i < p->count; i++)
	{
		const EngParameter *parameter = &p->list[i];
		const float *value = p->values + parameter->offset;
		float		sum = 0;
		int64_t		j;

		if (parameter->layout == ENG_LAYOUT_COUNTER)
			continue;
		/* what is not finite stays so times zero */
		for (j = 0; j < parameter->count; j++)
			sum += value[j] * 0.0f;
		if (sum != 0)
			return eng_fail(status, ENG_NUMERIC,
							"weights \"%s\" are not finite after %" PRId64 " updates",
							parameter->name, detector->updates);
	}
	return true;
}

static bool
infer_share(EngDetector *detector, const EngShare *share,
			EngDetections *out, EngStatus *status)
{
	EngKeptPlan *kept;
	int			i;

	detector->backend->enter(detector->backend);
	kept = start_batch(detector, share, NULL, status);
	if (kept == NULL || !eng_detector_pass(detector, kept, status) ||
		(detector->backend->regions != NULL &&
		 !detector->backend->regions->results(kept->plan, kept->regions,
											  status)))
		return false;
	for (i = 0; i < share->n; i++)
		out[i] = kept->regions->detections[i];
	return true;
}

bool
eng_detector_infer_share(EngDetector *detector, const EngShare *share,
						 EngDetections *out, EngStatus *status)
{
	return settled(detector, infer_share(detector, share, out, status));
}

bool
eng_detector_infer(EngDetector *detector, const EngFrame *frames, int n,
				   EngDetections *out, EngStatus *status)
{
	EngShare	share = {frames, n, frames, n, {0, 0}};

	if (!check_frames(detector, frames, n, false, status))
		return false;
	return detector->group != NULL ?
		eng_group_infer(detector->group, &share, out, status) :
		eng_detector_infer_share(detector, &share, out, status);
}
