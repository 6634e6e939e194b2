/*
 * test/emulated/graph.cc
 *		Capture of streams, and graphs.
 *
 * Streams of one capture are recorded in the order of the calls, which is one
 * of the orders that the graph allows.
 */
#include "runtime.h"

static std::set<std::shared_ptr<Capture>> captures;

struct CUgraph_st
{
	std::vector<Work> work;
};

struct CUgraphExec_st
{
	std::shared_ptr<std::vector<Work>> work;
	int			device;
};

cudaError_t
emulated_break_capture(Stream *stream, cudaError_t code)
{
	stream->capture->failed = true;
	return code;
}

cudaError_t
emulated_forbidden_in_capture()
{
	cudaError_t code = cudaSuccess;

	for (const std::shared_ptr<Capture> &capture : captures)
		if (capture->mode == cudaStreamCaptureModeGlobal ||
			(capture->mode == cudaStreamCaptureModeThreadLocal &&
			 capture->thread == std::this_thread::get_id()))
		{
			capture->failed = true;
			code = cudaErrorStreamCaptureUnsupported;
		}
	return code;
}

cudaError_t
cudaStreamBeginCapture(cudaStream_t handle, enum cudaStreamCaptureMode mode)
{
	Locked		locked;
	Stream	   *stream = emulated_stream(handle);
	std::shared_ptr<Capture> capture = std::make_shared<Capture>();

	if (stream == NULL)
		return emulated_error(cudaErrorInvalidResourceHandle);
	if (handle == NULL || handle == cudaStreamLegacy ||
		emulated_fails("capture"))
		return emulated_error(cudaErrorStreamCaptureUnsupported);
	if (stream->capture != NULL)
		return emulated_error(cudaErrorIllegalState);
	capture->origin = stream;
	capture->mode = mode;
	capture->thread = std::this_thread::get_id();
	capture->streams.insert(stream);
	stream->capture = capture;
	stream->captured = stream->joined = 0;
	captures.insert(capture);
	return cudaSuccess;
}

cudaError_t
cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t *graph)
{
	Locked		locked;
	Stream	   *stream = emulated_stream(handle);
	std::shared_ptr<Capture> capture;
	bool		joined = true;

	*graph = NULL;
	if (stream == NULL || stream->capture == NULL)
		return emulated_error(cudaErrorIllegalState);
	capture = stream->capture;
	if (capture->origin != stream)
		return emulated_error(cudaErrorStreamCaptureUnmatched);
	if (capture->mode != cudaStreamCaptureModeRelaxed &&
		capture->thread != std::this_thread::get_id())
		return emulated_error(cudaErrorStreamCaptureWrongThread);
	for (Stream *one : capture->streams)
	{
		if (one != stream && one->joined <= one->captured)
			joined = false;
		one->capture = NULL;
	}
	capture->ended = true;
	captures.erase(capture);
	if (capture->failed)
		return emulated_error(cudaErrorStreamCaptureInvalidated);
	if (!joined)
		return emulated_error(cudaErrorStreamCaptureUnjoined);
	*graph = new CUgraph_st();
	(*graph)->work.swap(capture->work);
	return cudaSuccess;
}

cudaError_t
cudaStreamIsCapturing(cudaStream_t handle,
					  enum cudaStreamCaptureStatus *status)
{
	Locked		locked;
	Stream	   *stream = emulated_stream(handle);

	if (stream == NULL)
		return emulated_error(cudaErrorInvalidResourceHandle);
	*status = stream->capture == NULL ? cudaStreamCaptureStatusNone :
		stream->capture->failed ? cudaStreamCaptureStatusInvalidated :
		cudaStreamCaptureStatusActive;
	return cudaSuccess;
}

/* How many; which they are is not told. */
cudaError_t
cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count)
{
	if (graph == NULL || nodes != NULL)
		return emulated_error(cudaErrorInvalidValue);
	*count = graph->work.size();
	return cudaSuccess;
}

cudaError_t
cudaGraphInstantiate(cudaGraphExec_t *made, cudaGraph_t graph,
					 unsigned long long flags)
{
	(void) flags;
	if (graph == NULL)
		return emulated_error(cudaErrorInvalidValue);
	*made = new CUgraphExec_st();
	(*made)->work = std::make_shared<std::vector<Work>>(graph->work);
	(*made)->device = emulated_device_current();
	return cudaSuccess;
}

cudaError_t
cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t handle)
{
	Locked		locked;

	return emulated_error(exec == NULL || emulated_stream(handle) == NULL ?
						  cudaErrorInvalidResourceHandle : cudaSuccess);
}

cudaError_t
cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t handle)
{
	Locked		locked;
	Stream	   *stream = emulated_stream(handle);
	std::shared_ptr<std::vector<Work>> work;
	size_t		at = 0;

	if (stream == NULL || exec == NULL || exec->device != stream->device)
		return emulated_error(cudaErrorInvalidResourceHandle);
	work = exec->work;
	return emulated_error(emulated_submit(stream, [=]() mutable {
		while (at < work->size())
		{
			if (!(*work)[at]())
				return false;
			at++;
		}
		at = 0;
		return true;
	}));
}

cudaError_t
cudaGraphExecDestroy(cudaGraphExec_t exec)
{
	Locked		locked;

	delete exec;
	return cudaSuccess;
}

cudaError_t
cudaGraphDestroy(cudaGraph_t graph)
{
	Locked		locked;

	delete graph;
	return cudaSuccess;
}
