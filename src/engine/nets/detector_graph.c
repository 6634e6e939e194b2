/*
 * engine/nets/detector_graph.c
 *		Going through a plan, on a device from the second time on as one
 *		recorded graph.
 *
 * Launching a step's thousand kernels one by one can take longer than
 * running them.  What is recorded is the way forward and back; the input
 * before it and the optimizer behind it are a few calls that are queued while
 * the device is busy.  What changes from step to step lies in the device's
 * memory.
 *
 * The first pass of a plan is made normally: libraries load what they need,
 * kernels allocate what they pack weights into.  The second is recorded if
 * nothing has moved in between.  Training packs the weights in every pass; an
 * inference has packed them before, so its graph is good for one version.
 */
#include <stdio.h>
#include <string.h>

#include "engine/core/ranks.h"
#include "engine/nets/detector_private.h"

static EngPassKey
key_of(const EngDetector *detector, const EngKeptPlan *kept)
{
	EngPassKey	key = {
		.arena = detector->arena, .workspace = detector->workspace,
		.moves = kept->regions->moves,
		.version = kept->plan->request.train ? 0 :
			detector->parameters.version
	};

	return key;
}

static bool
equal_keys(const EngPassKey *a, const EngPassKey *b)
{
	return a->arena == b->arena && a->workspace == b->workspace &&
		a->moves == b->moves && a->version == b->version;
}

/* Whether a pass does nothing but queue work. */
static bool
can_record(const EngDetector *detector)
{
	const EngBackend *backend = detector->backend;

	/* ranks that sum through the host wait for each other */
	return backend->graph_begin != NULL &&
		(backend->world == 0 || backend->join != NULL) &&
		!detector->graphs_off && !detector->has_hooks && !detector->profile;
}

/*
 * Sums over ranks are recorded by all ranks or by none, and run alike.
 */
static bool
agreed(const EngDetector *detector, const EngKeptPlan *kept, bool wish)
{
	return kept->plan->request.train ?
		eng_ranks_agree(detector->backend, wish) : wish;
}

static bool
pass(EngPlan *plan, EngStatus *status)
{
	return eng_plan_forward(plan, status) &&
		(!plan->request.train || eng_plan_backward(plan, status));
}

void
eng_detector_drop_graph(const EngDetector *detector, EngKeptPlan *kept)
{
	if (kept->graph != NULL)
		detector->backend->graph_free(detector->backend, kept->graph);
	kept->graph = NULL;
}

/*
 * Record a pass.  Where that fails, passes are made normally from now on.
 */
static bool
record(EngDetector *detector, EngKeptPlan *kept)
{
	EngBackend *backend = detector->backend;
	EngStatus	failure = {ENG_OK, ""};

	if (backend->graph_begin(backend, &failure))
	{
		bool		keep = pass(kept->plan, &failure);

		kept->graph = backend->graph_end(backend, keep, &failure);
	}
	if (agreed(detector, kept, kept->graph != NULL))
		return true;
	eng_detector_drop_graph(detector, kept);
	eng_fail(&failure, ENG_DEVICE, "another device of the job could not");
	detector->graphs_off = true;
	snprintf(detector->graphs_note, sizeof(detector->graphs_note), "%.200s",
			 failure.message);
	/* weights may be taken to be packed that never were */
	detector->parameters.version++;
	return false;
}

/*
 * Whether there is a graph to be run, made now if need be.
 */
static bool
find_graph(EngDetector *detector, EngKeptPlan *kept, bool possible)
{
	if (agreed(detector, kept, possible && kept->graph != NULL))
		return true;
	if (!agreed(detector, kept, possible))
		return false;
	eng_detector_drop_graph(detector, kept);
	return record(detector, kept);
}

bool
eng_detector_pass(EngDetector *detector, EngKeptPlan *kept, EngStatus *status)
{
	EngPassKey	key = key_of(detector, kept);
	bool		same = kept->passed && equal_keys(&kept->key, &key);

	if (!same)
		eng_detector_drop_graph(detector, kept);
	if (find_graph(detector, kept, same && can_record(detector)))
	{
		detector->graphs_run++;
		return detector->backend->graph_run(detector->backend, kept->graph,
											status);
	}
	kept->passed = pass(kept->plan, status);
	kept->key = key_of(detector, kept);
	return kept->passed;
}

int64_t
eng_detector_graphs_run(const EngDetector *detector, const char **note)
{
	*note = detector->graphs_note;
	return detector->graphs_run;
}
