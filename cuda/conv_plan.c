/*
 * cuda/conv_plan.c
 *		A graph around a convolution as a plan of cuDNN's.
 */
#include "cuda/conv_plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_CONFIGS	64		/* proposals looked at */
#define MOST_NOTES		16

typedef cudnnBackendDescriptor_t Descriptor;

struct EngConvPlan
{
	cudnnHandle_t handle;
	Descriptor	plan;
	Descriptor	pack;			/* pointers of the last run */
	EngConvArrays arrays;
	void	   *workspace_at;
	int64_t		workspace;
	EngConvWork work;
	bool		tensor_cores;
	char		text[64];
};

/* cuDNN's proposals of one mode. */
typedef struct Proposals
{
	Descriptor	heuristics;
	Descriptor	config[MOST_CONFIGS];
	int64_t		count;
} Proposals;

static void
drop_proposals(Proposals *p)
{
	int			i;

	for (i = 0; i < MOST_CONFIGS; i++)
		eng_cudnn_destroy(p->config[i]);
	eng_cudnn_destroy(p->heuristics);
	memset(p, 0, sizeof(*p));
}

/* ---- choice ---------------------------------------------------------------- */

/* What cuDNN says of an engine. */
typedef struct Notes
{
	bool		wanted;
	bool		tensor_cores;
	int64_t		engine;
} Notes;

static void
read_notes(Notes *notes, Descriptor config, const EngConvShape *s)
{
	cudnnBackendNumericalNote_t numerical[MOST_NOTES];
	cudnnBackendBehaviorNote_t behavior[MOST_NOTES];
	Descriptor	engine = NULL;
	int64_t		count = 0;
	int64_t		i;

	memset(notes, 0, sizeof(*notes));
	if (cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINE_DESCRIPTOR,
									 &engine) != CUDNN_STATUS_SUCCESS)
		return;
	notes->wanted =
		cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE,
								 CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count,
								 &engine) == CUDNN_STATUS_SUCCESS &&
		cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX,
								 CUDNN_TYPE_INT64, 1, &count,
								 &notes->engine) == CUDNN_STATUS_SUCCESS &&
		cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
								 CUDNN_TYPE_NUMERICAL_NOTE, MOST_NOTES,
								 &count, numerical) == CUDNN_STATUS_SUCCESS;
	for (i = 0; notes->wanted && i < count; i++)
	{
		if (numerical[i] == CUDNN_NUMERICAL_NOTE_TENSOR_CORE)
			notes->tensor_cores = true;
		if (numerical[i] == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC ||
			numerical[i] == CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS ||
			numerical[i] ==
			CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION ||
			numerical[i] == CUDNN_NUMERICAL_NOTE_FFT ||
			numerical[i] == CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_6x6 ||
			numerical[i] == CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_13x13)
			notes->wanted = false;
	}
	/* on floats, tensor cores mean TF32 */
	if (notes->tensor_cores && s->x_type == ENG_F32 && !s->tf32)
		notes->wanted = false;
	if (notes->wanted &&
		cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE,
								 CUDNN_TYPE_BEHAVIOR_NOTE, MOST_NOTES,
								 &count, behavior) == CUDNN_STATUS_SUCCESS)
		for (i = 0; i < count; i++)
			if (behavior[i] == CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION)
				notes->wanted = false;
	eng_cudnn_destroy(engine);
}

static bool
set_place(Descriptor descriptor, const EngConvPlace *place,
		  cudnnBackendAttributeName_t name, EngStatus *status)
{
	return place->properties == NULL ||
		eng_cudnn_set(descriptor, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
			&place->properties, status);
}

/* What a mode proposes, best first; p is zeroed. */
static bool
propose(Proposals *p, const EngConvGraph *graph, const EngConvPlace *place,
		cudnnBackendHeurMode_t mode, EngStatus *status)
{
	int			i;

	if (!eng_cudnn_create(&p->heuristics, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR,
						  status) ||
		!eng_cudnn_set(p->heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH,
					   CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &graph->graph,
					   status) ||
		!eng_cudnn_set(p->heuristics, CUDNN_ATTR_ENGINEHEUR_MODE,
					   CUDNN_TYPE_HEUR_MODE, 1, &mode, status) ||
		!set_place(p->heuristics, place, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP,
				   status) ||
		!eng_cudnn_finalize(p->heuristics, status))
		return false;
	for (i = 0; i < MOST_CONFIGS; i++)
		if (!eng_cudnn_create(&p->config[i],
							  CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, status))
			return false;
	if (eng_cudnn_failed(status,
						 cudnnBackendGetAttribute(p->heuristics,
												  CUDNN_ATTR_ENGINEHEUR_RESULTS,
												  CUDNN_TYPE_BACKEND_DESCRIPTOR,
												  MOST_CONFIGS, &p->count,
												  p->config),
						 "proposes nothing"))
		return false;
	if (p->count > MOST_CONFIGS)
		p->count = MOST_CONFIGS;
	return true;
}

/* A plan of one proposal; NULL where that does not work out here. */
static Descriptor
try_config(const EngConvPlace *place, Descriptor config, int64_t *workspace)
{
	Descriptor	plan = NULL;
	EngStatus	ignored = {ENG_OK, ""};
	int64_t		count = 0;

	if (eng_cudnn_create(&plan, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR,
						 &ignored) &&
		eng_cudnn_set(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
					  CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &config, &ignored) &&
		(place->handle == NULL ||
		 eng_cudnn_set(plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE,
					   CUDNN_TYPE_HANDLE, 1, &place->handle, &ignored)) &&
		set_place(plan, place, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP,
				  &ignored) &&
		eng_cudnn_finalize(plan, &ignored) &&
		cudnnBackendGetAttribute(plan,
								 CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
								 CUDNN_TYPE_INT64, 1, &count,
								 workspace) == CUDNN_STATUS_SUCCESS &&
		*workspace <= ENG_CONV_WORKSPACE)
		return plan;
	eng_cudnn_destroy(plan);
	return NULL;
}

/* The first proposal that is wanted and works; *wanted are looked at. */
static bool
take_first(EngConvPlan *plan, const Proposals *p, const EngConvPlace *place,
		   const EngConvShape *s, int64_t *wanted)
{
	int64_t		i;

	for (i = 0; i < p->count; i++)
	{
		Notes		notes;

		read_notes(&notes, p->config[i], s);
		if (!notes.wanted)
			continue;
		(*wanted)++;
		plan->plan = try_config(place, p->config[i], &plan->workspace);
		if (plan->plan == NULL)
			continue;
		plan->tensor_cores = notes.tensor_cores;
		snprintf(plan->text, sizeof(plan->text), "engine %d%s%s%s%s",
				 (int) notes.engine,
				 plan->work.sum ? " with sum" : "",
				 plan->work.bias ? plan->work.sum ? ", bias" : " with bias" : "",
				 plan->work.relu ? ", ReLU" : "",
				 !notes.tensor_cores ? "" : s->x_type == ENG_F32 ?
				 ", TF32 tensor cores" : ", tensor cores");
		return true;
	}
	return false;
}

static bool
choose(EngConvPlan *plan, const EngConvGraph *graph,
	   const EngConvPlace *place, const EngConvShape *s, EngStatus *status)
{
	static const char *const words[] = {"forward", "data", "weight"};

	static const cudnnBackendHeurMode_t modes[] = {
		CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_B, CUDNN_HEUR_MODE_FALLBACK
	};
	EngStatus	refused = {ENG_OK, ""};
	int64_t		seen = 0;
	int64_t		wanted = 0;
	int			m;

	for (m = 0; m < 3; m++)
	{
		Proposals	p = {0};
		bool		found = propose(&p, graph, place, modes[m], &refused) &&
			take_first(plan, &p, place, s, &wanted);

		seen += p.count;
		drop_proposals(&p);
		if (found)
			return true;
	}
	return eng_fail(status, ENG_UNSUPPORTED,
					"cuDNN has no deterministic plan for a convolution of %dx%dx%dx%d by %d of %dx%d, stride %d, in %s, %s: of %d proposals %d would do, and none works%s%.200s",
					s->n, s->h, s->w, s->c, s->oc, s->k, s->k, s->stride,
					eng_type_name(s->x_type), words[plan->work.direction],
					(int) seen, (int) wanted,
					seen == 0 && refused.message[0] ? "; " : "",
					seen == 0 ? refused.message : "");
}

/* ---- plans ------------------------------------------------------------------- */

bool
eng_conv_properties(void **properties, const char *json, EngStatus *status)
{
	Descriptor	d = NULL;
	bool		ok;

	ok = eng_cudnn_create(&d, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, status) &&
		eng_cudnn_set(d, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION,
					  CUDNN_TYPE_CHAR, (int64_t) strlen(json), json,
					  status) &&
		eng_cudnn_finalize(d, status);
	if (!ok)
	{
		eng_cudnn_destroy(d);
		d = NULL;
	}
	*properties = d;
	return ok;
}

void
eng_conv_properties_free(void *properties)
{
	eng_cudnn_destroy(properties);
}

EngConvPlan *
eng_conv_plan(const EngConvPlace *place, const EngConvShape *shape,
			  const EngConvWork *work, EngStatus *status)
{
	EngConvPlan *plan = calloc(1, sizeof(EngConvPlan));
	EngConvGraph graph = {0};
	bool		ok;

	if (plan == NULL)
	{
		eng_fail(status, ENG_NO_MEMORY, "out of memory");
		return NULL;
	}
	plan->handle = place->handle;
	plan->work = *work;
	ok = eng_conv_graph(&graph, place, shape, work, status) &&
		choose(plan, &graph, place, shape, status);
	eng_conv_graph_free(&graph);
	if (ok)
		return plan;
	eng_conv_plan_free(plan);
	return NULL;
}

void
eng_conv_plan_free(EngConvPlan *plan)
{
	if (plan == NULL)
		return;
	eng_cudnn_destroy(plan->pack);
	eng_cudnn_destroy(plan->plan);
	free(plan);
}

size_t
eng_conv_plan_workspace(const EngConvPlan *plan)
{
	return (size_t) plan->workspace;
}

const EngConvWork *
eng_conv_plan_work(const EngConvPlan *plan)
{
	return &plan->work;
}

bool
eng_conv_plan_tensor_cores(const EngConvPlan *plan)
{
	return plan->tensor_cores;
}

const char *
eng_conv_plan_text(const EngConvPlan *plan)
{
	return plan->text;
}

/* The pointers of a run; kept, as they come again. */
static bool
set_pointers(EngConvPlan *plan, const EngConvArrays *arrays, void *workspace,
			 EngStatus *status)
{
	const void *all[ENG_CONV_TENSORS] = {arrays->x, arrays->w, arrays->y,
	arrays->sum, arrays->bias};
	const void *pointers[ENG_CONV_TENSORS];
	int64_t		ids[ENG_CONV_TENSORS];
	int			count = 0;
	int			i;

	if (plan->pack != NULL && plan->workspace_at == workspace &&
		memcmp(&plan->arrays, arrays, sizeof(*arrays)) == 0)
		return true;
	for (i = 0; i < ENG_CONV_TENSORS; i++)
		if (i < 3 || (i == 3 && plan->work.sum) || (i == 4 && plan->work.bias))
		{
			ids[count] = eng_conv_tensor_id(i);
			pointers[count++] = all[i];
		}
	eng_cudnn_destroy(plan->pack);
	plan->pack = NULL;
	plan->arrays = *arrays;
	plan->workspace_at = workspace;
	return eng_cudnn_create(&plan->pack, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR,
							status) &&
		eng_cudnn_set(plan->pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS,
					  CUDNN_TYPE_INT64, count, ids, status) &&
		eng_cudnn_set(plan->pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS,
					  CUDNN_TYPE_VOID_PTR, count, pointers, status) &&
		eng_cudnn_set(plan->pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE,
					  CUDNN_TYPE_VOID_PTR, 1, &workspace, status) &&
		eng_cudnn_finalize(plan->pack, status);
}

bool
eng_conv_plan_run(EngConvPlan *plan, const EngConvArrays *arrays,
				  void *workspace, EngStatus *status)
{
	if (!set_pointers(plan, arrays, workspace, status))
	{
		/* what is half filled is not to be taken for that of these pointers */
		eng_cudnn_destroy(plan->pack);
		plan->pack = NULL;
		return false;
	}
	return !eng_cudnn_failed(status,
							 cudnnBackendExecute(plan->handle, plan->plan,
												 plan->pack),
							 "could not run a convolution");
}
