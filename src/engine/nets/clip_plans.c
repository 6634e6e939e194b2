/*
 * engine/nets/clip_plans.c
 *		The life of a CLIP network: making it, its plans, its memory.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/mirror.h"
#include "engine/nets/clip_private.h"
#include "engine/nets/plan_row.h"

EngClip *
eng_clip_create(const EngClipConfig *config, const char *backend, int threads,
				EngStatus *status)
{
	EngClip    *clip;
	bool		ok;
	int			side;
	int			all;

	if (!eng_clip_config_check(config, status))
		return NULL;
	clip = calloc(1, sizeof(EngClip));
	if (clip == NULL)
	{
		eng_fail(status, ENG_NO_MEMORY, "out of memory");
		return NULL;
	}
	clip->config = *config;
	clip->backend = eng_backend_open(backend, threads, status);
	ok = clip->backend != NULL;
	for (side = 0; ok && side < 2; side++)
		for (all = 0; ok && all < 2; all++)
		{
			EngModel   *model = &clip->models[side][all];

			model->parameters = &clip->parameters;
			/* a GPU multiplies floats without its tensor cores */
			ok = eng_clip_describe(model, config, side, all != 0,
								   !clip->backend->gpu, status);
		}
	if (!ok || !eng_parameters_layout(&clip->parameters, false, status) ||
		!eng_mirror_open(&clip->parameters, clip->backend, status))
	{
		eng_clip_free(clip);
		return NULL;
	}
	return clip;
}

static void
drop_plans(EngClip *clip)
{
	int			i;

	for (i = 0; i < ENG_CLIP_PLANS; i++)
		eng_plan_free(clip->plans[i].plan);
	memset(clip->plans, 0, sizeof(clip->plans));
	clip->current = NULL;
}

void
eng_clip_free(EngClip *clip)
{
	EngBackend *backend;

	if (clip == NULL)
		return;
	backend = clip->backend;
	drop_plans(clip);
	eng_model_free(&clip->models[0][0]);
	eng_model_free(&clip->models[0][1]);
	eng_model_free(&clip->models[1][0]);
	eng_model_free(&clip->models[1][1]);
	eng_mirror_close(&clip->parameters);
	eng_parameters_free(&clip->parameters);
	if (backend != NULL)
	{
		backend->free(backend, clip->arena, clip->arena_size);
		backend->free(backend, clip->workspace, clip->workspace_size);
		backend->close(backend);
	}
	free(clip->input);
	free(clip->stage);
	free(clip->rows);
	free(clip);
}

void
eng_clip_init(EngClip *clip, uint64_t seed)
{
	clip->backend->enter(clip->backend);
	eng_parameters_init(&clip->parameters, seed);
	eng_mirror_host_changed(&clip->parameters);
}

bool
eng_clip_set_precision(EngClip *clip, EngType type, EngStatus *status)
{
	if (!eng_backend_check_type(clip->backend, type, status))
		return false;
	if (type != clip->precision)
		drop_plans(clip);
	clip->precision = type;
	return true;
}

EngType
eng_clip_precision(const EngClip *clip)
{
	return clip->precision;
}

EngType
eng_clip_usual_type(const EngClip *clip)
{
	return clip->backend->gpu ? ENG_F16 : ENG_F32;
}

const EngBackend *
eng_clip_backend(const EngClip *clip)
{
	return clip->backend;
}

int32_t
eng_clip_threads(const EngClip *clip)
{
	return clip->backend->threads;
}

const EngClipConfig *
eng_clip_config(const EngClip *clip)
{
	return &clip->config;
}

/* ---- memory --------------------------------------------------------------- */

void
eng_clip_memory(const EngClip *clip, EngMemory *memory)
{
	int			i;

	memset(memory, 0, sizeof(*memory));
	memory->parameters = clip->parameters.total * sizeof(float);
	memory->activations = clip->arena_size;
	memory->workspace = clip->workspace_size;
	if (clip->current != NULL)
		memory->alive = clip->current->live_peak;
	for (i = 0; i < ENG_CLIP_PLANS; i++)
	{
		const EngPlan *plan = clip->plans[i].plan;

		if (plan != NULL)
			memory->kernels += eng_plan_kernel_bytes(plan);
	}
}

void
eng_clip_set_memory_limit(EngClip *clip, size_t limit)
{
	clip->memory_limit = limit;
}

static bool
check_memory(const EngClip *clip, const EngMemory *m, const char *what,
			 EngStatus *status)
{
	size_t		total = eng_memory_total(m);

	if (clip->memory_limit == 0 || total <= clip->memory_limit)
		return true;
	return eng_fail(status, ENG_NO_MEMORY,
					"%s needs %zu bytes, the limit is %zu (parameters %zu, activations %zu, workspace %zu, kernels %zu)",
					what, total, clip->memory_limit, m->parameters,
					m->activations, m->workspace, m->kernels);
}

bool
eng_clip_check_memory(const EngClip *clip, EngStatus *status)
{
	EngMemory	m;

	eng_clip_memory(clip, &m);
	return check_memory(clip, &m, "network", status);
}

/* With the plan among those that are kept: its kernels are counted. */
static bool
check_limit(const EngClip *clip, const EngPlan *plan, EngStatus *status)
{
	EngMemory	m;
	char		what[80];

	eng_clip_memory(clip, &m);
	if (plan->activations > m.activations)
		m.activations = plan->activations;
	if (plan->workspace > m.workspace)
		m.workspace = plan->workspace;
	snprintf(what, sizeof(what), "group of %d of %d tokens",
			 plan->request.n, plan->request.h);
	return check_memory(clip, &m, what, status);
}

/* ---- plans ------------------------------------------------------------------ */

static EngPlanRequest
request_for(const EngClip *clip, EngClipSide side, int32_t n, int32_t tokens)
{
	const EngClipConfig *c = &clip->config;
	int32_t		across = c->side / c->patch;
	EngPlanRequest request = {
		.n = n, .h = tokens, .w = 1, .c = 1, .type = clip->precision,
		.keep_all = clip->keep_all
	};

	if (side == ENG_CLIP_IMAGE)
	{
		request.h = across * across;
		request.c = 3 * c->patch * c->patch;
	}
	return request;
}

static EngClipPlan *
find_plan(EngClip *clip, EngClipSide side, const EngPlanRequest *request)
{
	int			i;

	for (i = 0; i < ENG_CLIP_PLANS; i++)
	{
		EngClipPlan *kept = &clip->plans[i];

		if (kept->plan != NULL && kept->side == side &&
			kept->plan->request.n == request->n &&
			kept->plan->request.h == request->h)
			return kept;
	}
	return NULL;
}

static EngClipPlan *
least_used(EngClip *clip)
{
	EngClipPlan *least = &clip->plans[0];
	int			i;

	for (i = 1; i < ENG_CLIP_PLANS; i++)
		if (clip->plans[i].used < least->used)
			least = &clip->plans[i];
	return least;
}

static bool
make_plan(EngClip *clip, EngClipPlan *kept, EngClipSide side,
		  const EngPlanRequest *request, EngStatus *status)
{
	eng_plan_free(kept->plan);
	kept->side = side;
	kept->plan = eng_plan_create(&clip->models[side][request->keep_all],
								 clip->backend, request, status);
	if (kept->plan != NULL && check_limit(clip, kept->plan, status) &&
		eng_backend_grow(clip->backend, &clip->arena, &clip->arena_size,
						 kept->plan->activations, status) &&
		eng_backend_grow(clip->backend, &clip->workspace,
						 &clip->workspace_size, kept->plan->workspace,
						 status))
		return true;
	eng_plan_free(kept->plan);
	memset(kept, 0, sizeof(*kept));
	return false;
}

EngPlan *
eng_clip_plan(EngClip *clip, EngClipSide side, int32_t n, int32_t tokens,
			  EngStatus *status)
{
	EngPlanRequest request = request_for(clip, side, n, tokens);
	EngClipPlan *kept = find_plan(clip, side, &request);

	clip->current = NULL;
	if (kept == NULL)
	{
		EngStatus	first = {ENG_OK, ""};

		kept = least_used(clip);
		if (!make_plan(clip, kept, side, &request, &first))
		{
			/* the other plans may be what leaves too little */
			drop_plans(clip);
			if (first.code != ENG_NO_MEMORY)
				return eng_fail(status, first.code, "%s", first.message), NULL;
			if (!make_plan(clip, kept, side, &request, status))
				return NULL;
		}
	}
	kept->used = ++clip->uses;
	kept->plan->arena = clip->arena;
	kept->plan->scratch = clip->workspace;
	kept->plan->profile = clip->profile;
	clip->current = kept->plan;
	return kept->plan;
}

/* ---- looking inside ------------------------------------------------------------ */

void
eng_clip_keep_all(EngClip *clip, bool on)
{
	if (on != clip->keep_all)
		drop_plans(clip);
	clip->keep_all = on;
}

bool
eng_clip_stage(EngClip *clip, const char *name, EngStage *stage)
{
	int32_t		index = clip->current == NULL ? -1 :
		eng_plan_find(clip->current, name);
	EngStatus	status = {ENG_OK, ""};
	const EngTensor *tensor;
	int64_t		count;
	int64_t		i;
	void	   *raw;

	if (index < 0)
		return false;
	tensor = &clip->current->tensors[index];
	count = eng_tensor_count(tensor);
	free(clip->stage);
	clip->stage = malloc(sizeof(float) * 2 * count);
	if (clip->stage == NULL)
		return false;
	raw = clip->stage + count;
	if (!clip->backend->download(clip->backend, raw,
								 eng_plan_value(clip->current, index),
								 eng_tensor_bytes(tensor), &status))
		return false;
	for (i = 0; i < count; i++)
		clip->stage[i] = eng_load(raw, tensor->type, i);
	*stage = (EngStage) {clip->stage, tensor->n, tensor->h, tensor->w,
						 tensor->c, tensor->n};
	return true;
}

void
eng_clip_profile(EngClip *clip, bool on)
{
	int			i;
	int32_t		j;

	clip->profile = on;
	for (i = 0; i < ENG_CLIP_PLANS; i++)
	{
		EngPlan    *plan = clip->plans[i].plan;

		for (j = 0; on && plan != NULL && j < plan->op_count; j++)
			plan->ops[j].seconds_forward = 0;
	}
}

bool
eng_clip_explain(EngClip *clip, int32_t n, int32_t tokens,
				 const EngPlanRow **rows, int32_t *count, EngStatus *status)
{
	EngClipSide side = tokens > 0 ? ENG_CLIP_TEXT : ENG_CLIP_IMAGE;
	EngPlan    *plan;
	int32_t		i;

	clip->backend->enter(clip->backend);
	plan = eng_clip_plan(clip, side, n,
						 eng_clip_tokens(&clip->config, tokens), status);
	if (plan == NULL)
		return false;
	free(clip->rows);
	clip->rows = malloc(sizeof(EngPlanRow) * (plan->op_count + 1));
	if (clip->rows == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	for (i = 0; i < plan->op_count; i++)
		clip->rows[i] = eng_plan_row(plan, &plan->ops[i]);
	*rows = clip->rows;
	*count = plan->op_count;
	return true;
}
