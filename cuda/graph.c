/*
 * cuda/graph.c
 *		Calls recorded into a CUDA graph.
 *
 * The stream is captured for the calling thread alone: the feed's thread may
 * allocate meanwhile.  AVC_GPU_GRAPHS=0 in the environment does without.
 */
#include <cuda_runtime_api.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/table.h"

struct EngGraph
{
	cudaGraphExec_t exec;
	size_t		bytes;			/* of the device's memory, as far as it shows */
};

static bool
failed(const EngCuda *cuda, cudaError_t code, const char *what,
	   EngStatus *status)
{
	if (code == cudaSuccess)
		return false;
	/* it is told here, and is no failure of what comes next */
	(void) cudaGetLastError();
	eng_fail(status, ENG_DEVICE, "%s could not %s: %s", cuda->name, what,
			 cudaGetErrorString(code));
	return true;
}

static bool
graph_begin(EngBackend *backend, EngStatus *status)
{
	EngCuda    *cuda = backend->state;

	return !failed(cuda, cudaStreamBeginCapture(cuda->stream,
												cudaStreamCaptureModeThreadLocal),
				   "record a pass", status);
}

/*
 * Make what was recorded ready to run.  Other programs may allocate at the
 * same time, so the bytes are an estimate.
 */
static EngGraph *
instantiate(EngCuda *cuda, cudaGraph_t recorded, EngStatus *status)
{
	EngGraph   *graph = calloc(1, sizeof(EngGraph));
	size_t		before = eng_device_left(cuda);
	size_t		after;

	if (graph == NULL)
	{
		eng_fail(status, ENG_NO_MEMORY, "out of memory");
		return NULL;
	}
	if (failed(cuda, cudaGraphInstantiate(&graph->exec, recorded, 0),
			   "make a graph of a pass", status))
	{
		free(graph);
		return NULL;
	}
	if (failed(cuda, cudaGraphUpload(graph->exec, cuda->stream),
			   "take a graph", status))
	{
		(void) cudaGraphExecDestroy(graph->exec);
		free(graph);
		return NULL;
	}
	after = eng_device_left(cuda);
	graph->bytes = before > after ? before - after : 0;
	return graph;
}

static EngGraph *
graph_end(EngBackend *backend, bool keep, EngStatus *status)
{
	EngCuda    *cuda = backend->state;
	/* a launch that was refused leaves the recording as it was */
	cudaError_t launched = cudaGetLastError();
	cudaGraph_t recorded = NULL;
	EngGraph   *graph = NULL;
	cudaError_t ended = cudaStreamEndCapture(cuda->stream, &recorded);

	if (keep && !failed(cuda, launched, "record a launch", status) &&
		!failed(cuda, ended, "record a pass", status))
		graph = instantiate(cuda, recorded, status);
	(void) cudaGetLastError();
	if (recorded != NULL)
		(void) cudaGraphDestroy(recorded);
	return graph;
}

static bool
graph_run(EngBackend *backend, const EngGraph *graph, EngStatus *status)
{
	EngCuda    *cuda = backend->state;

	return !failed(cuda, cudaGraphLaunch(graph->exec, cuda->stream),
				   "run a graph", status);
}

static void
graph_free(EngBackend *backend, EngGraph *graph)
{
	EngCuda    *cuda = backend->state;

	/* what is running is let go to its end */
	(void) cudaStreamSynchronize(cuda->stream);
	(void) cudaGraphExecDestroy(graph->exec);
	free(graph);
}

static size_t
graph_bytes(const EngGraph *graph)
{
	return graph->bytes;
}

void
eng_cuda_set_graphs(EngBackend *backend)
{
	const char *wish = getenv("AVC_GPU_GRAPHS");

	if (wish != NULL && strcmp(wish, "0") == 0)
		return;
	backend->graph_begin = graph_begin;
	backend->graph_end = graph_end;
	backend->graph_run = graph_run;
	backend->graph_free = graph_free;
	backend->graph_bytes = graph_bytes;
}
