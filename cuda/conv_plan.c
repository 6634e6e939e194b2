/*
 * cuda/conv_plan.c
 *		One direction of a convolution as a plan of cuDNN's.
 */
#include "cuda/conv_plan.h"

#include <cudnn_graph.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_CONFIGS	64		/* proposals looked at */
#define MOST_NOTES		16

enum
{
	ID_X = 1,
	ID_W,
	ID_Y
};

typedef cudnnBackendDescriptor_t Descriptor;

struct EngConvPlan
{
	cudnnHandle_t handle;
	Descriptor	plan;
	Descriptor	pack;			/* pointers of the last run */
	const void *pointers[3];
	void	   *workspace_at;
	int64_t		workspace;
	char		text[64];
};

/* What a plan is put together from; freed when it is made. */
typedef struct Parts
{
	Descriptor	tensor[3];
	Descriptor	convolution;
	Descriptor	operation;
	Descriptor	graph;
	Descriptor	heuristics;
	Descriptor	config[MOST_CONFIGS];
} Parts;

static bool
failed(EngStatus *status, cudnnStatus_t code, const char *what)
{
	char		reason[512] = "";

	if (code == CUDNN_STATUS_SUCCESS)
		return false;
	cudnnGetLastErrorString(reason, sizeof(reason));
	eng_fail(status, code == CUDNN_STATUS_ALLOC_FAILED ? ENG_NO_MEMORY :
			 ENG_UNSUPPORTED, "cuDNN %s: %s%s%.400s", what,
			 cudnnGetErrorString(code), reason[0] ? ": " : "", reason);
	return true;
}

static bool
create(Descriptor *descriptor, cudnnBackendDescriptorType_t type,
	   EngStatus *status)
{
	return !failed(status, cudnnBackendCreateDescriptor(type, descriptor),
				   "makes no descriptor");
}

static bool
set(Descriptor descriptor, cudnnBackendAttributeName_t name,
	cudnnBackendAttributeType_t type, int64_t count, const void *values,
	EngStatus *status)
{
	return !failed(status, cudnnBackendSetAttribute(descriptor, name, type,
													count, values),
				   "takes no attribute");
}

static bool
finalize(Descriptor descriptor, EngStatus *status)
{
	return !failed(status, cudnnBackendFinalize(descriptor),
				   "takes no description");
}

static void
destroy(Descriptor descriptor)
{
	if (descriptor != NULL)
		cudnnBackendDestroyDescriptor(descriptor);
}

static void
destroy_parts(Parts *parts)
{
	int			i;

	for (i = 0; i < MOST_CONFIGS; i++)
		destroy(parts->config[i]);
	destroy(parts->heuristics);
	destroy(parts->graph);
	destroy(parts->operation);
	destroy(parts->convolution);
	for (i = 0; i < 3; i++)
		destroy(parts->tensor[i]);
}

/* ---- description ---------------------------------------------------------- */

static cudnnDataType_t
data_type(EngType type)
{
	return type == ENG_BF16 ? CUDNN_DATA_BFLOAT16 :
		type == ENG_F16 ? CUDNN_DATA_HALF : CUDNN_DATA_FLOAT;
}

/* (n, c, h, w) whose channels lie together */
static bool
make_tensor(Descriptor *tensor, int64_t id, EngType type,
			const int64_t sizes[4], EngStatus *status)
{
	cudnnDataType_t data = data_type(type);
	int64_t		alignment = 16;
	int64_t		strides[4];

	strides[1] = 1;
	strides[3] = sizes[1];
	strides[2] = sizes[3] * strides[3];
	strides[0] = sizes[2] * strides[2];
	return create(tensor, CUDNN_BACKEND_TENSOR_DESCRIPTOR, status) &&
		set(*tensor, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1,
			&data, status) &&
		set(*tensor, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4,
			sizes, status) &&
		set(*tensor, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, strides,
			status) &&
		set(*tensor, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &id,
			status) &&
		set(*tensor, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1,
			&alignment, status) &&
		finalize(*tensor, status);
}

static bool
make_tensors(Parts *parts, const EngConvShape *s, EngStatus *status)
{
	int64_t		x[4] = {s->n, s->c, s->h, s->w};
	int64_t		w[4] = {s->oc, s->c, s->k, s->k};
	int64_t		y[4] = {s->n, s->oc, s->oh, s->ow};

	return make_tensor(&parts->tensor[0], ID_X, s->x_type, x, status) &&
		make_tensor(&parts->tensor[1], ID_W, s->x_type, w, status) &&
		make_tensor(&parts->tensor[2], ID_Y, s->x_type, y, status);
}

static bool
make_convolution(Parts *parts, const EngConvShape *s, EngStatus *status)
{
	Descriptor *c = &parts->convolution;
	cudnnDataType_t type = CUDNN_DATA_FLOAT;
	cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
	int64_t		dims = 2;
	int64_t		strides[2] = {s->stride, s->stride};
	int64_t		pads[2] = {s->pad, s->pad};
	int64_t		dilations[2] = {1, 1};

	return create(c, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, status) &&
		set(*c, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1,
			&type, status) &&
		set(*c, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE,
			1, &mode, status) &&
		set(*c, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1,
			&dims, status) &&
		set(*c, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 2,
			strides, status) &&
		set(*c, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 2,
			pads, status) &&
		set(*c, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 2,
			pads, status) &&
		set(*c, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2,
			dilations, status) &&
		finalize(*c, status);
}

/* The names of one direction's attributes. */
typedef struct Names
{
	cudnnBackendDescriptorType_t type;
	cudnnBackendAttributeName_t alpha;
	cudnnBackendAttributeName_t beta;
	cudnnBackendAttributeName_t convolution;
	cudnnBackendAttributeName_t tensor[3];	/* x, w, y */
} Names;

static const Names names[] = {
	{
		CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
		CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
		CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
		CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
		{CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
			CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
		CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y}
	},
	{
		CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
		CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
		CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA,
		CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
		{CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
			CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
		CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY}
	},
	{
		CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
		CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
		CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA,
		CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
		{CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
			CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
		CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY}
	}
};

static bool
make_graph(Parts *parts, const EngConvPlace *place,
		   EngConvDirection direction, bool add, EngStatus *status)
{
	const Names *n = &names[direction];
	float		alpha = 1;
	float		beta = add ? 1 : 0;
	int			i;

	if (!create(&parts->operation, n->type, status) ||
		!set(parts->operation, n->alpha, CUDNN_TYPE_FLOAT, 1, &alpha,
			 status) ||
		!set(parts->operation, n->beta, CUDNN_TYPE_FLOAT, 1, &beta,
			 status) ||
		!set(parts->operation, n->convolution,
			 CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &parts->convolution, status))
		return false;
	for (i = 0; i < 3; i++)
		if (!set(parts->operation, n->tensor[i],
				 CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &parts->tensor[i], status))
			return false;
	return finalize(parts->operation, status) &&
		create(&parts->graph, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR,
			   status) &&
		set(parts->graph, CUDNN_ATTR_OPERATIONGRAPH_OPS,
			CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &parts->operation, status) &&
		(place->handle == NULL ||
		 set(parts->graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE,
			 CUDNN_TYPE_HANDLE, 1, &place->handle, status)) &&
		finalize(parts->graph, status);
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
read_notes(Notes *notes, Descriptor config, bool strict)
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
	if (strict && notes->tensor_cores)
		notes->wanted = false;
	if (notes->wanted &&
		cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE,
								 CUDNN_TYPE_BEHAVIOR_NOTE, MOST_NOTES,
								 &count, behavior) == CUDNN_STATUS_SUCCESS)
		for (i = 0; i < count; i++)
			if (behavior[i] == CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION)
				notes->wanted = false;
	destroy(engine);
}

static bool
set_place(Descriptor descriptor, const EngConvPlace *place,
		  cudnnBackendAttributeName_t name, EngStatus *status)
{
	return place->properties == NULL ||
		set(descriptor, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
			&place->properties, status);
}

/* cuDNN's proposals in its order; *count of them. */
static bool
propose(Parts *parts, const EngConvPlace *place, cudnnBackendHeurMode_t mode,
		int64_t *count, EngStatus *status)
{
	int			i;

	destroy(parts->heuristics);
	parts->heuristics = NULL;
	if (!create(&parts->heuristics, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR,
				status) ||
		!set(parts->heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH,
			 CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &parts->graph, status) ||
		!set(parts->heuristics, CUDNN_ATTR_ENGINEHEUR_MODE,
			 CUDNN_TYPE_HEUR_MODE, 1, &mode, status) ||
		!set_place(parts->heuristics, place, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP,
				   status) ||
		!finalize(parts->heuristics, status))
		return false;
	for (i = 0; i < MOST_CONFIGS; i++)
	{
		/* one that was filled is not filled again */
		destroy(parts->config[i]);
		parts->config[i] = NULL;
		if (!create(&parts->config[i], CUDNN_BACKEND_ENGINECFG_DESCRIPTOR,
					status))
			return false;
	}
	*count = 0;
	return !failed(status,
				   cudnnBackendGetAttribute(parts->heuristics,
											CUDNN_ATTR_ENGINEHEUR_RESULTS,
											CUDNN_TYPE_BACKEND_DESCRIPTOR,
											MOST_CONFIGS, count,
											parts->config),
				   "proposes nothing");
}

/* A plan of one proposal; NULL where that does not work out here. */
static Descriptor
try_config(const EngConvPlace *place, Descriptor config, int64_t *workspace)
{
	Descriptor	plan = NULL;
	EngStatus	ignored = {ENG_OK, ""};
	int64_t		count = 0;

	if (create(&plan, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &ignored) &&
		set(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
			CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &config, &ignored) &&
		(place->handle == NULL ||
		 set(plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1,
			 &place->handle, &ignored)) &&
		set_place(plan, place, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP,
				  &ignored) &&
		finalize(plan, &ignored) &&
		cudnnBackendGetAttribute(plan,
								 CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
								 CUDNN_TYPE_INT64, 1, &count,
								 workspace) == CUDNN_STATUS_SUCCESS &&
		*workspace <= ENG_CONV_WORKSPACE)
		return plan;
	destroy(plan);
	return NULL;
}

static bool
choose(EngConvPlan *plan, Parts *parts, const EngConvPlace *place,
	   const EngConvShape *s, EngConvDirection direction, EngStatus *status)
{
	static const char *const words[] = {"forward", "data", "weight"};

	static const cudnnBackendHeurMode_t modes[] = {
		CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_B, CUDNN_HEUR_MODE_FALLBACK
	};
	bool		strict = s->x_type == ENG_F32;
	int64_t		seen = 0;
	int64_t		wanted = 0;
	int			m;
	int64_t		i;

	for (m = 0; m < 3; m++)
	{
		EngStatus	own = {ENG_OK, ""};
		int64_t		count;

		/* the last mode's failure is the one that counts */
		if (!propose(parts, place, modes[m], &count, m < 2 ? &own : status))
			continue;
		seen += count;
		for (i = 0; i < count; i++)
		{
			Notes		notes;

			read_notes(&notes, parts->config[i], strict);
			if (!notes.wanted)
				continue;
			wanted++;
			plan->plan = try_config(place, parts->config[i],
									&plan->workspace);
			if (plan->plan == NULL)
				continue;
			snprintf(plan->text, sizeof(plan->text), "engine %d%s",
					 (int) notes.engine,
					 notes.tensor_cores ? ", tensor cores" : "");
			return true;
		}
	}
	return eng_fail(status, ENG_UNSUPPORTED,
					"cuDNN has no deterministic plan for a convolution of %dx%dx%dx%d by %d of %dx%d, stride %d, in %s, %s: of %d proposals %d would do, and none works",
					s->n, s->h, s->w, s->c, s->oc, s->k, s->k, s->stride,
					eng_type_name(s->x_type), words[direction], (int) seen,
					(int) wanted);
}

/* ---- plans ------------------------------------------------------------------- */

bool
eng_conv_properties(void **properties, const char *json, EngStatus *status)
{
	Descriptor	d = NULL;
	bool		ok;

	ok = create(&d, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, status) &&
		set(d, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
			(int64_t) strlen(json), json, status) &&
		finalize(d, status);
	if (!ok)
	{
		destroy(d);
		d = NULL;
	}
	*properties = d;
	return ok;
}

void
eng_conv_properties_free(void *properties)
{
	destroy(properties);
}

EngConvPlan *
eng_conv_plan(const EngConvPlace *place, const EngConvShape *shape,
			  EngConvDirection direction, bool add, EngStatus *status)
{
	EngConvPlan *plan = calloc(1, sizeof(EngConvPlan));
	Parts		parts;
	bool		ok;

	if (plan == NULL)
	{
		eng_fail(status, ENG_NO_MEMORY, "out of memory");
		return NULL;
	}
	memset(&parts, 0, sizeof(parts));
	plan->handle = place->handle;
	ok = make_tensors(&parts, shape, status) &&
		make_convolution(&parts, shape, status) &&
		make_graph(&parts, place, direction, add, status) &&
		choose(plan, &parts, place, shape, direction, status);
	destroy_parts(&parts);
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
	destroy(plan->pack);
	destroy(plan->plan);
	free(plan);
}

size_t
eng_conv_plan_workspace(const EngConvPlan *plan)
{
	return (size_t) plan->workspace;
}

const char *
eng_conv_plan_text(const EngConvPlan *plan)
{
	return plan->text;
}

/* The pointers of a run; kept, as they come again. */
static bool
set_pointers(EngConvPlan *plan, const void *pointers[3], void *workspace,
			 EngStatus *status)
{
	int64_t		ids[3] = {ID_X, ID_W, ID_Y};

	if (plan->pack != NULL && plan->workspace_at == workspace &&
		memcmp(plan->pointers, pointers, sizeof(plan->pointers)) == 0)
		return true;
	destroy(plan->pack);
	plan->pack = NULL;
	memcpy(plan->pointers, pointers, sizeof(plan->pointers));
	plan->workspace_at = workspace;
	return create(&plan->pack, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR,
				  status) &&
		set(plan->pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64,
			3, ids, status) &&
		set(plan->pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS,
			CUDNN_TYPE_VOID_PTR, 3, pointers, status) &&
		set(plan->pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE,
			CUDNN_TYPE_VOID_PTR, 1, &workspace, status) &&
		finalize(plan->pack, status);
}

bool
eng_conv_plan_run(EngConvPlan *plan, const void *x, const void *w,
				  const void *y, void *workspace, EngStatus *status)
{
	const void *pointers[3] = {x, w, y};

	return set_pointers(plan, pointers, workspace, status) &&
		!failed(status, cudnnBackendExecute(plan->handle, plan->plan,
											plan->pack), "could not run");
}
