/*
 * test/emulated/cudnn_engines.c
 *		What is proposed for a graph.
 *
 * Proposals are like the library's: better ones first, and among them what a
 * caller may not want: not repeatable, compiled at run time, too much
 * workspace, or none that works out.  One rounds floats to TF32 for the tensor
 * cores, which shows in the results of those who must not take it.  Which mode
 * of the heuristics knows the first useful one depends on the graph.
 */
#include "cudnn.h"

#include <string.h>

#define NOTE(n)		CUDNN_NUMERICAL_NOTE_ ## n

enum
{
	ATOMIC = 0,
	ROUNDING,
	COMPILED,
	FAILING,
	LARGE,
	FFT,
	CORES,
	PLAIN,
	SLOW
};

static const CudnnEngine engines[] = {
	[ATOMIC] = {60, {NOTE(TENSOR_CORE), NOTE(NONDETERMINISTIC)}, 2, false, false, false, 0},
	[ROUNDING] = {61, {NOTE(TENSOR_CORE)}, 1, false, false, true, 0},
	[COMPILED] = {62, {0}, 0, true, false, false, 0},
	[FAILING] = {63, {0}, 0, false, true, false, 0},
	[LARGE] = {64, {0}, 0, false, false, false, (int64_t) 3 << 30},
	[FFT] = {65, {NOTE(DOWN_CONVERT_INPUTS), NOTE(FFT)}, 2, false, false, false, 64},
	[CORES] = {66, {NOTE(TENSOR_CORE)}, 1, false, false, true, 40000},
	[PLAIN] = {67, {0}, 0, false, false, true, 70003},
	[SLOW] = {68, {NOTE(STRICT_NAN_PROP)}, 1, false, false, true, 0}
};

/* What a mode proposes, best first; ends with -1. */
static const int8_t for_floats[3][6] = {
	{ATOMIC, ROUNDING, COMPILED, LARGE, FAILING, -1},
	{FFT, FAILING, PLAIN, -1},
	{SLOW, -1}
};
static const int8_t for_halves[3][6] = {
	{ATOMIC, COMPILED, CORES, -1},
	{LARGE, CORES, PLAIN, -1},
	{SLOW, -1}
};
static const int8_t for_few[3][6] = {	/* channels */
	{-1},
	{ATOMIC, FAILING, -1},
	{ATOMIC, SLOW, -1}
};

static const int8_t *
proposals(const CudnnProblem *p, int mode)
{
	int			m = mode == CUDNN_HEUR_MODE_A || mode == CUDNN_HEUR_MODE_INSTANT ?
		0 : mode == CUDNN_HEUR_MODE_B ? 1 : 2;

	/* nobody adds to halves on the way back, or to gradients of weights */
	if (p->beta != 0 && (p->x.type == CUDNN_DATA_HALF ||
						 p->direction == CUDNN_FILTER))
		return for_few[0];
	/* nor is everything there for few channels */
	if (p->w.size[0] < 8 &&
		(p->has_add || (p->has_bias && p->x.type == CUDNN_DATA_HALF)))
		return for_few[0];
	if (p->w.size[0] < 8)
		return for_few[m];
	return p->x.type == CUDNN_DATA_FLOAT ? for_floats[m] : for_halves[m];
}

static CudnnContents *
new_config(CudnnContents *graph, const CudnnEngine *kind)
{
	CudnnContents *engine = emulated_cudnn_new(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
	CudnnContents *config = emulated_cudnn_new(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
	cudnnBackendBehaviorNote_t behavior = CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION;

	emulated_cudnn_keep(engine, CUDNN_ATTR_ENGINE_OPERATION_GRAPH,
						CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &graph);
	emulated_cudnn_keep(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX,
						CUDNN_TYPE_INT64, 1, &kind->index);
	emulated_cudnn_keep(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
						CUDNN_TYPE_NUMERICAL_NOTE, kind->note_count,
						kind->notes);
	emulated_cudnn_keep(engine, CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE,
						CUDNN_TYPE_BEHAVIOR_NOTE, kind->compiled_at_run_time,
						&behavior);
	engine->engine = kind;
	engine->finalized = true;
	emulated_cudnn_keep(config, CUDNN_ATTR_ENGINECFG_ENGINE,
						CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &engine);
	emulated_cudnn_release(engine);
	config->engine = kind;
	config->finalized = true;
	return config;
}

cudnnStatus_t
emulated_cudnn_propose(CudnnContents *heuristics)
{
	CudnnContents *graph =
		emulated_cudnn_find_contents(heuristics,
									 CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH);
	CudnnContents *configs[8];
	const int8_t *list;
	int			mode;
	int			count;
	int			i;

	if (emulated_cudnn_find(graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE) == NULL &&
		emulated_cudnn_find(heuristics,
							CUDNN_ATTR_ENGINEHEUR_DEVICEPROP) == NULL)
		return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM,
								   "heuristics for no device");
	memcpy(&mode, emulated_cudnn_find(heuristics,
									  CUDNN_ATTR_ENGINEHEUR_MODE)->values,
		   sizeof(mode));
	list = proposals(&graph->problem, mode);
	for (count = 0; list[count] >= 0; count++)
		configs[count] = new_config(graph, &engines[list[count]]);
	emulated_cudnn_keep(heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS,
						CUDNN_TYPE_BACKEND_DESCRIPTOR, count, configs);
	for (i = 0; i < count; i++)
		emulated_cudnn_release(configs[i]);
	return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t
emulated_cudnn_plan(CudnnContents *plan)
{
	CudnnContents *config =
		emulated_cudnn_find_contents(plan,
									 CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG);

	if (emulated_cudnn_find(plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE) == NULL &&
		emulated_cudnn_find(plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP) == NULL)
		return emulated_cudnn_fail(CUDNN_STATUS_BAD_PARAM,
								   "a plan for no device");
	if (config->engine->fails)
		return emulated_cudnn_fail(CUDNN_STATUS_NOT_SUPPORTED_SHARED_MEMORY_INSUFFICIENT,
								   "engine %d does not work here",
								   (int) config->engine->index);
	plan->engine = config->engine;
	emulated_cudnn_keep(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
						CUDNN_TYPE_INT64, 1, &config->engine->workspace);
	return CUDNN_STATUS_SUCCESS;
}
