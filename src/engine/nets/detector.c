/*
 * engine/nets/detector.c
 *		The life of a detector: making it, its plans, its memory.
 */
#include "engine/nets/detector.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/mirror.h"
#include "engine/nets/detector_private.h"
#include "engine/nets/group.h"
#include "engine/nets/nets.h"
#include "engine/nets/plan_row.h"
#include "engine/nets/region_ops.h"
#include "engine/optim/optimizer.h"

/*
 * Faster R-CNN: body, pyramid, proposals, regions.
 */
static bool
describe(EngDetector *detector, bool train, EngStatus *status)
{
	EngModel   *model = &detector->models[train];
	int32_t		maps[ENG_BODY_STAGES];
	int32_t		pyramid[ENG_RPN_LEVELS];

	model->parameters = &detector->parameters;
	model->input = eng_model_tensor(model, "batch");
	eng_resnet(model, &detector->config, !train, maps);
	eng_fpn(model, &detector->config, maps, pyramid);
	eng_rpn(model, &detector->config, pyramid, train);
	eng_roi_heads(model, &detector->config, pyramid, train);
	if (model->status.code != ENG_OK)
		return eng_fail(status, model->status.code, "%s",
						model->status.message);
	return true;
}

EngDetector *
eng_detector_create(const EngDetectorConfig *config, const char *backend,
					int threads, bool train, EngStatus *status)
{
	EngDeviceName names[ENG_MOST_DEVICES];
	int32_t		count = 1;

	if (eng_device_is_list(backend))
	{
		count = eng_backend_list(backend, names, status);
		if (count == 0)
			return NULL;
		backend = names[0];
	}
	return count > 1 ?
		eng_group_create(config, names, count, threads, train, status) :
		eng_detector_create_alone(config, backend, threads, train, status);
}

EngDetector *
eng_detector_create_alone(const EngDetectorConfig *config,
						  const char *backend, int threads, bool train,
						  EngStatus *status)
{
	EngDetector *detector;
	bool		ok;

	if (!eng_detector_config_check(config, status))
		return NULL;
	detector = calloc(1, sizeof(EngDetector));
	if (detector == NULL)
	{
		eng_fail(status, ENG_NO_MEMORY, "out of memory");
		return NULL;
	}
	detector->config = *config;
	detector->train = train;
	detector->backend = eng_backend_open(backend, threads, status);
	ok = detector->backend != NULL && describe(detector, false, status) &&
		(!train || describe(detector, true, status)) &&
		eng_parameters_layout(&detector->parameters, train, status) &&
		eng_mirror_open(&detector->parameters, detector->backend, status);
	if (ok && train)
	{
		EngOptimizerConfig optimizer;

		eng_optimizer_config_default(&optimizer);
		ok = eng_detector_set_optimizer(detector, &optimizer, status);
	}
	if (!ok)
	{
		eng_detector_free(detector);
		return NULL;
	}
	return detector;
}

static void
drop_plan(const EngDetector *detector, EngKeptPlan *kept)
{
	const EngRegionOps *regions = detector->backend == NULL ? NULL :
		detector->backend->regions;

	eng_detector_drop_graph(detector, kept);
	if (kept->regions != NULL && regions != NULL)
		regions->close(detector->backend, kept->regions);
	eng_plan_free(kept->plan);
	eng_regions_free(kept->regions);
	memset(kept, 0, sizeof(*kept));
}

void
eng_detector_drop_plans(EngDetector *detector)
{
	int			i;

	for (i = 0; i < ENG_PLANS_KEPT; i++)
		drop_plan(detector, &detector->plans[i]);
	detector->current = NULL;
}

void
eng_detector_free(EngDetector *detector)
{
	if (detector == NULL)
		return;
	eng_group_stop(detector->group);
	eng_detector_drop_plans(detector);
	eng_model_free(&detector->models[0]);
	eng_model_free(&detector->models[1]);
	eng_mirror_close(&detector->parameters);
	eng_parameters_free(&detector->parameters);
	if (detector->backend != NULL)
	{
		detector->backend->free(detector->backend, detector->arena,
								detector->arena_size);
		detector->backend->free(detector->backend, detector->workspace,
								detector->workspace_size);
		detector->backend->close(detector->backend);
	}
	eng_group_free(detector->group);
	free(detector->rows);
	free(detector->stage);
	for (int i = 0; i < ENG_DEVICE_STAGES; i++)
		free(detector->device_stages[i]);
	free(detector->texts);
	free(detector->load_names);
	free(detector);
}

bool
eng_detector_init(EngDetector *detector, uint64_t seed, EngStatus *status)
{
	detector->backend->enter(detector->backend);
	if (!eng_mirror_to_host(&detector->parameters, status))
		return false;
	eng_parameters_init(&detector->parameters, seed);
	eng_mirror_host_changed(&detector->parameters);
	eng_group_weights_changed(detector->group);
	detector->updates = 0;
	eng_detector_reset_scale(detector);
	return true;
}

static bool
set_optimizer(EngDetector *detector, const EngOptimizerConfig *config,
			  EngStatus *status)
{
	bool		same = detector->has_optimizer &&
		detector->optimizer.kind == config->kind;

	if (!detector->train)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"this detector was not made to train");
	if (!eng_optimizer_check(config, status))
		return false;
	detector->optimizer = *config;
	eng_optimizer_select(&detector->parameters, config);
	eng_detector_drop_plans(detector);
	if (same)
		return true;
	detector->has_optimizer = false;
	detector->updates = 0;
	eng_detector_reset_scale(detector);
	if (!eng_mirror_to_host(&detector->parameters, status) ||
		!eng_parameters_slots(&detector->parameters,
							  eng_optimizer_slots(config->kind), status) ||
		!eng_mirror_slots(&detector->parameters, status))
		return false;
	detector->has_optimizer = true;
	return true;
}

static bool
each_set_optimizer(EngDetector *detector, const void *config,
				   EngStatus *status)
{
	return set_optimizer(detector, config, status);
}

bool
eng_detector_set_optimizer(EngDetector *detector,
						   const EngOptimizerConfig *config,
						   EngStatus *status)
{
	eng_group_weights_changed(detector->group);
	return set_optimizer(detector, config, status) &&
		eng_group_each(detector->group, each_set_optimizer, config, status);
}

/* ---- plans ---------------------------------------------------------------- */

static bool
matches(const EngKeptPlan *kept, EngSize padded, int32_t n, bool train)
{
	const EngPlanRequest *r;

	if (kept->plan == NULL)
		return false;
	r = &kept->plan->request;
	return (r->idle ? n == 0 : r->n == n) && r->h == padded.height && r->w == padded.width &&
		r->train == train;
}

static EngKeptPlan *
least_used(EngDetector *detector)
{
	EngKeptPlan *least = &detector->plans[0];
	int			i;

	for (i = 1; i < ENG_PLANS_KEPT; i++)
		if (detector->plans[i].used < least->used)
			least = &detector->plans[i];
	return least;
}

size_t
eng_memory_total(const EngMemory *m)
{
	return m->parameters + m->gradients + m->optimizer + m->activations +
		m->workspace + m->kernels + m->boxes + m->pictures;
}

/*
 * Refuse what is over the limit, with the bytes of every part.
 */
static bool
check_memory(const EngDetector *detector, const EngMemory *m,
			 const char *what, EngStatus *status)
{
	size_t		total = eng_memory_total(m);

	if (detector->memory_limit == 0 || total <= detector->memory_limit)
		return true;
	return eng_fail(status, ENG_NO_MEMORY,
					"%s needs %zu bytes, the limit is %zu (parameters %zu, gradients %zu, optimizer %zu, activations %zu, workspace %zu, kernels %zu, boxes %zu, pictures %zu)",
					what, total, detector->memory_limit, m->parameters,
					m->gradients, m->optimizer, m->activations, m->workspace,
					m->kernels, m->boxes, m->pictures);
}

bool
eng_detector_check_memory(const EngDetector *detector, EngStatus *status)
{
	EngMemory	m;

	eng_detector_memory(detector, &m);
	return check_memory(detector, &m, "detector", status);
}

static bool
check_limit(const EngDetector *detector, const EngPlan *plan,
			EngStatus *status)
{
	EngMemory	m;
	char		what[80];

	eng_detector_memory(detector, &m);
	if (plan->activations > m.activations)
		m.activations = plan->activations;
	if (plan->workspace > m.workspace)
		m.workspace = plan->workspace;
	snprintf(what, sizeof(what), "batch of %d at %dx%d", plan->request.n,
			 plan->request.w, plan->request.h);
	if (!check_memory(detector, &m, what, status))
		return false;
	/* pictures that a device keeps have what the limit leaves */
	if (detector->backend->frame_room != NULL && detector->memory_limit > 0)
		detector->backend->frame_room(detector->backend,
									  detector->memory_limit -
									  eng_memory_total(&m));
	return true;
}

/*
 * What the boxes of one more plan may take.
 */
static EngRegionsLimits
regions_limits(const EngDetector *detector)
{
	EngRegionsLimits limits = {.threads = detector->backend->threads};
	EngMemory	m;

	if (detector->memory_limit == 0)
		return limits;
	eng_detector_memory(detector, &m);
	/* make_plan has seen to it that something is left */
	limits.most_bytes = detector->memory_limit - eng_memory_total(&m) + 1;
	return limits;
}

static bool
make_plan(EngDetector *detector, EngKeptPlan *kept, EngPlanRequest *request,
		  EngStatus *status)
{
	drop_plan(detector, kept);
	if (!eng_detector_check_memory(detector, status))
		return false;
	kept->regions = eng_regions_create(&detector->config, request,
									   regions_limits(detector), status);
	if (kept->regions == NULL)
		return false;
	request->context = kept->regions;
	kept->plan = eng_plan_create(&detector->models[request->train],
								 detector->backend, request, status);
	if (kept->plan == NULL || !check_limit(detector, kept->plan, status) ||
		(detector->backend->regions != NULL && !request->idle &&
		 !detector->backend->regions->open(kept->plan, kept->regions,
										   status)) ||
		!eng_backend_grow(detector->backend, &detector->arena,
						  &detector->arena_size, kept->plan->activations,
						  status) ||
		!eng_backend_grow(detector->backend, &detector->workspace,
						  &detector->workspace_size, kept->plan->workspace,
						  status))
	{
		drop_plan(detector, kept);
		return false;
	}
	return true;
}

EngKeptPlan *
eng_detector_plan(EngDetector *detector, EngSize padded, int32_t n,
				  bool train, EngStatus *status)
{
	EngPlanRequest request = {
		.n = n > 0 ? n : 1, .idle = n == 0, .h = padded.height, .w = padded.width, .c = 3,
		.train = train, .type = detector->precision,
		.keep_all = detector->has_hooks && detector->hooks.keep_all,
		.freeze_norm = detector->optimizer.freeze_norm
	};
	EngKeptPlan *kept = NULL;
	EngStatus	first = {ENG_OK, ""};
	int			i;

	detector->current = NULL;
	for (i = 0; i < ENG_PLANS_KEPT; i++)
		if (matches(&detector->plans[i], padded, n, train))
			kept = &detector->plans[i];
	/* pictures may have grown since the plan was made */
	if (kept != NULL && !eng_detector_check_memory(detector, &first))
		kept = NULL;
	if (kept == NULL)
	{
		memset(&first, 0, sizeof(first));
		kept = least_used(detector);
		if (!make_plan(detector, kept, &request, &first))
		{
			/* the other plans may be what leaves too little */
			eng_detector_drop_plans(detector);
			if (first.code != ENG_NO_MEMORY)
				return eng_fail(status, first.code, "%s", first.message), NULL;
			if (!make_plan(detector, kept, &request, status))
				return NULL;
		}
	}
	kept->used = ++detector->uses;
	kept->plan->arena = detector->arena;
	kept->plan->scratch = detector->workspace;
	kept->plan->profile = detector->profile;
	kept->regions->hooks = detector->has_hooks ? &detector->hooks : NULL;
	detector->current = kept;
	return kept;
}

/* ---- looking inside --------------------------------------------------------- */

static bool
set_hooks(EngDetector *detector, const void *argument, EngStatus *status)
{
	const EngDetectorHooks *hooks = argument;
	bool		kept = detector->has_hooks && detector->hooks.keep_all;
	bool		keep = hooks != NULL && hooks->keep_all;

	detector->has_hooks = hooks != NULL;
	if (hooks != NULL)
		detector->hooks = *hooks;
	(void) status;
	if (kept != keep)
		eng_detector_drop_plans(detector);
	return true;
}

void
eng_detector_set_hooks(EngDetector *detector, const EngDetectorHooks *hooks)
{
	EngStatus	ignored = {ENG_OK, ""};

	(void) set_hooks(detector, hooks, &ignored);
	(void) eng_group_each(detector->group, set_hooks, hooks, &ignored);
}

void
eng_detector_memory(const EngDetector *detector, EngMemory *memory)
{
	const EngParameters *p = &detector->parameters;
	int			i;

	memset(memory, 0, sizeof(*memory));
	memory->parameters = p->total * sizeof(float);
	if (p->gradients != NULL)
		memory->gradients = p->trained * sizeof(float);
	for (i = 0; i < 2; i++)
		if (p->slots[i] != NULL)
			memory->optimizer += p->trained * sizeof(float);
	memory->activations = detector->arena_size;
	memory->workspace = detector->workspace_size;
	memory->pictures = detector->pictures;
	if (detector->current != NULL)
		memory->alive = detector->current->plan->live_peak;
	for (i = 0; i < ENG_PLANS_KEPT; i++)
	{
		const EngPlan *plan = detector->plans[i].plan;

		if (detector->plans[i].regions != NULL)
			memory->boxes += detector->plans[i].regions->bytes;
		if (detector->plans[i].graph != NULL)
			memory->kernels +=
				detector->backend->graph_bytes(detector->plans[i].graph);
		if (plan != NULL)
			memory->kernels += eng_plan_kernel_bytes(plan);
	}
}

static bool
set_precision(EngDetector *detector, const void *argument, EngStatus *status)
{
	EngType		type = *(const EngType *) argument;

	if (!eng_backend_check_type(detector->backend, type, status))
		return false;
	if (type == detector->precision)
		return true;
	eng_detector_drop_plans(detector);
	detector->precision = type;
	eng_detector_reset_scale(detector);
	return true;
}

bool
eng_detector_set_precision(EngDetector *detector, EngType type,
						   EngStatus *status)
{
	return set_precision(detector, &type, status) &&
		eng_group_each(detector->group, set_precision, &type, status);
}

EngType
eng_detector_precision(const EngDetector *detector)
{
	return detector->precision;
}

static bool
set_memory_limit(EngDetector *detector, const void *limit, EngStatus *status)
{
	(void) status;
	detector->memory_limit = *(const size_t *) limit;
	return true;
}

void
eng_detector_set_memory_limit(EngDetector *detector, size_t limit)
{
	EngStatus	ignored = {ENG_OK, ""};

	detector->memory_limit = limit;
	(void) eng_group_each(detector->group, set_memory_limit, &limit,
						  &ignored);
}

static bool
set_pictures(EngDetector *detector, const void *bytes, EngStatus *status)
{
	(void) status;
	detector->pictures = *(const size_t *) bytes;
	return true;
}

void
eng_detector_set_pictures(EngDetector *detector, size_t bytes)
{
	EngStatus	ignored = {ENG_OK, ""};

	detector->pictures = bytes;
	(void) eng_group_each(detector->group, set_pictures, &bytes, &ignored);
}

EngBackend *
eng_detector_keeper(EngDetector *detector)
{
	/* which rank a frame goes to is not known before its batch is */
	return detector->backend->frame_hold != NULL && detector->group == NULL ?
		detector->backend : NULL;
}

const EngBackend *
eng_detector_backend(const EngDetector *detector)
{
	return detector->backend;
}

int32_t
eng_detector_threads(const EngDetector *detector)
{
	return detector->backend->threads;
}

const EngDetectorConfig *
eng_detector_config(const EngDetector *detector)
{
	return &detector->config;
}

void
eng_detector_profile(EngDetector *detector, bool on)
{
	int			i;
	int32_t		j;

	detector->profile = on;
	for (i = 0; i < ENG_PLANS_KEPT; i++)
	{
		EngPlan    *plan = detector->plans[i].plan;

		for (j = 0; on && plan != NULL && j < plan->op_count; j++)
			plan->ops[j].seconds_forward = plan->ops[j].seconds_backward = 0;
	}
}

bool
eng_detector_explain(EngDetector *detector, EngSize padded, int n, bool train,
					 const EngPlanRow **rows, int32_t *count,
					 EngStatus *status)
{
	EngKeptPlan *kept;
	int32_t		i;

	if (train && !detector->train)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"this detector was not made to train");
	detector->backend->enter(detector->backend);
	kept = eng_detector_plan(detector, padded, n, train, status);
	if (kept == NULL)
		return false;
	free(detector->rows);
	detector->rows = malloc(sizeof(EngPlanRow) * (kept->plan->op_count + 1));
	if (detector->rows == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	for (i = 0; i < kept->plan->op_count; i++)
		detector->rows[i] = eng_plan_row(kept->plan, &kept->plan->ops[i]);
	*rows = detector->rows;
	*count = kept->plan->op_count;
	return true;
}

/*
 * Values of a tensor as floats, without a loss scale (0: none): themselves,
 * or a copy that the detector keeps.  NULL: out of memory, or the device did
 * not give them.
 */
static const float *
as_floats(EngDetector *detector, const EngTensor *tensor, const void *data,
		  float loss_scale)
{
	EngBackend *backend = detector->backend;
	int64_t		count = eng_tensor_count(tensor);
	size_t		bytes = eng_tensor_bytes(tensor);
	EngStatus	status = {ENG_OK, ""};
	float	  **place = &detector->stage;
	void	   *raw;
	int64_t		i;

	if (tensor->type == ENG_F32 && !backend->device)
		return data;
	if (backend->device)
		place = &detector->device_stages[detector->device_stage++ %
										 ENG_DEVICE_STAGES];
	free(*place);
	*place = malloc(sizeof(float) * 2 * count);
	if (*place == NULL)
		return NULL;
	raw = *place + count;
	if (!backend->download(backend, raw, data, bytes, &status))
		return NULL;
	for (i = 0; i < count; i++)
		(*place)[i] = eng_load(raw, tensor->type, i) /
			(loss_scale > 0 ? loss_scale : 1);
	return *place;
}

static bool
find_stage(EngDetector *detector, const char *name, EngStage *stage,
		   bool gradient)
{
	const EngPlan *plan;
	const EngTensor *tensor;
	const void *data;
	int32_t		index;

	if (detector->current == NULL)
		return false;
	plan = detector->current->plan;
	index = eng_plan_find(plan, name);
	if (index < 0)
		return false;
	tensor = &plan->tensors[index];
	data = gradient ? eng_plan_gradient_seen(plan, index) :
		eng_plan_value(plan, index);
	if (data == NULL)
		return false;
	stage->data = as_floats(detector, tensor, data,
							gradient ? detector->gradient_scale : 0);
	stage->n = tensor->n;
	stage->h = tensor->h;
	stage->w = tensor->w;
	stage->c = tensor->c;
	stage->rows = tensor->per_roi ? (int32_t) plan->live_rois : tensor->n;
	return stage->data != NULL;
}

bool
eng_detector_stage(EngDetector *detector, const char *name,
				   EngStage *stage)
{
	return find_stage(detector, name, stage, false);
}

bool
eng_detector_stage_gradient(EngDetector *detector, const char *name,
							EngStage *stage)
{
	return find_stage(detector, name, stage, true);
}

bool
eng_detector_frame_trace(const EngDetector *detector, int32_t i,
						 EngFrameTrace *trace)
{
	const EngRegions *r;
	EngStatus	status = {ENG_OK, ""};

	if (detector->current == NULL)
		return false;
	r = detector->current->regions;
	if (detector->backend->regions != NULL &&
		!detector->backend->regions->look(detector->current->plan,
										  detector->current->regions,
										  &status))
		return false;
	if (i < 0 || i >= r->images)
		return false;
	memset(trace, 0, sizeof(*trace));
	trace->resized = r->resized[i];
	trace->padded = r->padded;
	trace->truth.boxes = r->truth[i].boxes;
	trace->truth.count = r->truth[i].count;
	trace->proposals = r->proposal_lists[i];
	if (trace->proposals.boxes == r->proposals + (size_t) i *
		r->post_top_n * 4)
		trace->objectness = r->objectness + (size_t) i * r->post_top_n;
	if (r->train)
	{
		trace->rpn_sample = r->rpn_targets[i].sample;
		trace->rpn_match = r->rpn_targets[i].match;
		trace->rois = r->selections[i];
	}
	return true;
}
