/*
 * test/emulated/stream.cc
 *		The lock, streams and events.
 *
 * A stream's work is put off until somebody waits for it: what is read too
 * early, or overwritten before a copy has run, comes out wrong here, too.
 */
#include <string.h>
#include <time.h>

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "runtime.h"

#define MOST_QUEUED	10000

static std::mutex machine;
static std::condition_variable_any changed;

static std::set<Stream *> streams;
static Stream standard[EMULATED_DEVICES];

/* A point in a stream that an event stands for. */
struct Mark
{
	Stream	   *stream;
	uint64_t	upto;
	double		time;
	bool		done;
	std::shared_ptr<Capture> capture;
};

struct CUevent_st
{
	bool		timed;
	std::shared_ptr<Mark> mark; /* NULL: never recorded */
};

Locked::Locked()
{
	machine.lock();
}

Locked::~Locked()
{
	machine.unlock();
}

/* ---- running ----------------------------------------------------------------- */

/* Let others have the machine until something changed, or might have. */
static void
wait_for_change()
{
	std::vector<int> open;

	emulated_close_all(&open);
	changed.wait_for(machine, std::chrono::milliseconds(1));
	emulated_open_again(open);
}

/* The next of a stream; false: there is none that can run now. */
static bool
run_next(Stream *stream)
{
	if (stream->queue.empty() || !stream->queue.front()())
		return false;
	stream->queue.pop_front();
	stream->done++;
	return true;
}

void
emulated_run(Stream *stream, uint64_t upto)
{
	while (stream->running)
		wait_for_change();
	stream->running = true;
	emulated_memory_open(stream->device);
	while (stream->done < upto)
		if (!run_next(stream))
			wait_for_change();
	emulated_memory_close(stream->device);
	stream->running = false;
	changed.notify_all();
}

/* The same without a wait; false: not now. */
static bool
try_next(Stream *stream)
{
	bool		ran;

	if (stream->running)
		return false;
	stream->running = true;
	emulated_memory_open(stream->device);
	ran = run_next(stream);
	emulated_memory_close(stream->device);
	stream->running = false;
	changed.notify_all();
	return ran;
}

void
emulated_run_device(int device)
{
	std::vector<Stream *> own;

	for (Stream *stream : streams)
		if (stream->device == device)
			own.push_back(stream);
	for (Stream *stream : own)
		emulated_run(stream, stream->submitted);
	emulated_run(&standard[device], standard[device].submitted);
}

/* The standard stream waits for the others that do not say otherwise. */
static cudaError_t
submit_standard(Stream *stream, Work work)
{
	std::vector<Stream *> others;

	for (Stream *other : streams)
		if (other->device == stream->device && other->blocking)
			others.push_back(other);
	for (Stream *other : others)
	{
		if (other->capture != NULL)
			return emulated_break_capture(other,
										  cudaErrorStreamCaptureImplicit);
		emulated_run(other, other->submitted);
	}
	stream->queue.push_back(work);
	emulated_run(stream, ++stream->submitted);
	return cudaSuccess;
}

cudaError_t
emulated_submit(Stream *stream, Work work)
{
	if (stream->capture != NULL)
	{
		if (stream->capture->failed)
			return cudaErrorStreamCaptureInvalidated;
		stream->capture->work.push_back(work);
		stream->captured++;
		return cudaSuccess;
	}
	if (stream == &standard[stream->device])
		return submit_standard(stream, work);
	if (stream->queue.size() >= MOST_QUEUED)
		emulated_run(stream, stream->submitted);
	stream->queue.push_back(work);
	stream->submitted++;
	return cudaSuccess;
}

bool
emulated_stream_await(void *handle, bool (*done) (void *argument),
					  void *argument, void (*release) (void *argument))
{
	std::shared_ptr<void> held(argument, [=](void *a) {
		if (release != NULL)
			release(a);
	});
	Locked		locked;
	Stream	   *stream = emulated_stream((cudaStream_t) handle);
	cudaError_t code = cudaErrorInvalidResourceHandle;

	if (stream != NULL && stream->device == emulated_device_current())
		code = emulated_submit(stream, [=]() { return done(held.get()); });
	return emulated_error(code) == cudaSuccess;
}

/* Work that never waits, in the form of the other kind. */
struct Simple
{
	void		(*work) (void *argument);
	void	   *argument;
	void		(*release) (void *argument);
};

static bool
run_simple(void *argument)
{
	const Simple *simple = (const Simple *) argument;

	simple->work(simple->argument);
	return true;
}

static void
release_simple(void *argument)
{
	Simple	   *simple = (Simple *) argument;

	if (simple->release != NULL)
		simple->release(simple->argument);
	delete simple;
}

bool
emulated_stream_run(void *handle, void (*work) (void *argument),
					void *argument, void (*release) (void *argument))
{
	return emulated_stream_await(handle, run_simple,
								 new Simple{work, argument, release},
								 release_simple);
}

/* ---- streams ------------------------------------------------------------------- */

Stream *
emulated_stream(cudaStream_t handle)
{
	int			device = emulated_device_current();

	if (handle == NULL || handle == cudaStreamLegacy)
	{
		standard[device].device = device;
		return &standard[device];
	}
	return streams.count(handle) > 0 ? handle : NULL;
}

int
emulated_stream_device(void *handle)
{
	Locked		locked;
	Stream	   *stream = emulated_stream((cudaStream_t) handle);

	return stream == NULL ? -1 : stream->device;
}

cudaError_t
cudaStreamCreateWithFlags(cudaStream_t *made, unsigned int flags)
{
	Locked		locked;
	Stream	   *stream = new Stream();

	stream->device = emulated_device_current();
	stream->blocking = (flags & cudaStreamNonBlocking) == 0;
	streams.insert(stream);
	*made = stream;
	return cudaSuccess;
}

cudaError_t
cudaStreamCreate(cudaStream_t *made)
{
	return cudaStreamCreateWithFlags(made, cudaStreamDefault);
}

cudaError_t
cudaStreamDestroy(cudaStream_t stream)
{
	Locked		locked;

	if (streams.count(stream) == 0)
		return emulated_error(cudaErrorInvalidResourceHandle);
	if (stream->capture != NULL)
	{
		(void) emulated_break_capture(stream,
									  cudaErrorStreamCaptureUnsupported);
		stream->capture->streams.erase(stream);
	}
	emulated_run(stream, stream->submitted);
	streams.erase(stream);
	delete stream;
	return cudaSuccess;
}

cudaError_t
cudaStreamSynchronize(cudaStream_t handle)
{
	Locked		locked;
	Stream	   *stream = emulated_stream(handle);

	if (stream == NULL)
		return emulated_error(cudaErrorInvalidResourceHandle);
	if (stream->capture != NULL)
		return emulated_error(
			emulated_break_capture(stream,
								   cudaErrorStreamCaptureUnsupported));
	emulated_run(stream, stream->submitted);
	return cudaSuccess;
}

cudaError_t
cudaDeviceSynchronize(void)
{
	Locked		locked;
	cudaError_t code = emulated_forbidden_in_capture();

	if (code == cudaSuccess)
		emulated_run_device(emulated_device_current());
	return emulated_error(code);
}

/* Whether all of it has run; each question brings it one on. */
static bool
has_run(Stream *stream, uint64_t upto)
{
	while (stream->done < upto && try_next(stream))
		;
	return stream->done >= upto;
}

cudaError_t
cudaStreamQuery(cudaStream_t handle)
{
	Locked		locked;
	Stream	   *stream = emulated_stream(handle);

	if (stream == NULL)
		return emulated_error(cudaErrorInvalidResourceHandle);
	if (stream->capture != NULL)
		return emulated_error(
			emulated_break_capture(stream,
								   cudaErrorStreamCaptureUnsupported));
	return has_run(stream, stream->submitted) ? cudaSuccess :
		cudaErrorNotReady;
}

/* ---- events ------------------------------------------------------------------- */

static double
now_ms()
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e3 + now.tv_nsec * 1e-6;
}

cudaError_t
cudaEventCreateWithFlags(cudaEvent_t *made, unsigned int flags)
{
	*made = new CUevent_st();
	(*made)->timed = (flags & cudaEventDisableTiming) == 0;
	return cudaSuccess;
}

cudaError_t
cudaEventCreate(cudaEvent_t *made)
{
	return cudaEventCreateWithFlags(made, cudaEventDefault);
}

cudaError_t
cudaEventDestroy(cudaEvent_t event)
{
	delete event;
	return cudaSuccess;
}

cudaError_t
cudaEventRecord(cudaEvent_t event, cudaStream_t handle)
{
	Locked		locked;
	Stream	   *stream = emulated_stream(handle);
	std::shared_ptr<Mark> mark = std::make_shared<Mark>();

	if (stream == NULL || event == NULL)
		return emulated_error(cudaErrorInvalidResourceHandle);
	mark->stream = stream;
	event->mark = mark;
	if (stream->capture != NULL)
	{
		mark->capture = stream->capture;
		mark->upto = stream->captured;
		return cudaSuccess;
	}
	mark->upto = stream->submitted + 1;
	return emulated_error(emulated_submit(stream, [=]() {
		mark->time = now_ms();
		mark->done = true;
		return true;
	}));
}

/* An event of a capture draws the stream that waits for it into that. */
static cudaError_t
wait_in_capture(Stream *stream, const Mark *mark)
{
	if (mark->capture == NULL)
		return emulated_break_capture(stream, cudaErrorStreamCaptureIsolation);
	if (mark->capture->ended)
		return cudaErrorCapturedEvent;
	if (stream->capture != NULL && stream->capture != mark->capture)
		return emulated_break_capture(stream, cudaErrorStreamCaptureMerge);
	if (stream->capture == NULL)
	{
		stream->capture = mark->capture;
		stream->captured = stream->joined = 0;
		stream->capture->streams.insert(stream);
	}
	if (mark->upto >= mark->stream->joined)
		mark->stream->joined = mark->upto + 1;
	return cudaSuccess;
}

cudaError_t
cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event,
					unsigned int flags)
{
	Locked		locked;
	Stream	   *stream = emulated_stream(handle);
	std::shared_ptr<Mark> mark;

	(void) flags;
	if (stream == NULL || event == NULL)
		return emulated_error(cudaErrorInvalidResourceHandle);
	mark = event->mark;
	if (mark == NULL)
		return cudaSuccess;
	if (stream->capture != NULL || mark->capture != NULL)
		return emulated_error(wait_in_capture(stream, mark.get()));
	return emulated_error(emulated_submit(stream, [=]() {
		while (!mark->done && try_next(mark->stream))
			;
		return mark->done;
	}));
}

cudaError_t
cudaEventSynchronize(cudaEvent_t event)
{
	Locked		locked;

	if (event == NULL)
		return emulated_error(cudaErrorInvalidResourceHandle);
	if (event->mark == NULL || event->mark->done)
		return cudaSuccess;
	if (event->mark->capture != NULL)
		return emulated_error(cudaErrorCapturedEvent);
	emulated_run(event->mark->stream, event->mark->upto);
	return cudaSuccess;
}

cudaError_t
cudaEventQuery(cudaEvent_t event)
{
	Locked		locked;
	cudaError_t code = emulated_forbidden_in_capture();

	if (event == NULL)
		return emulated_error(cudaErrorInvalidResourceHandle);
	if (code != cudaSuccess)
		return emulated_error(code);
	if (event->mark == NULL || event->mark->done)
		return cudaSuccess;
	if (event->mark->capture != NULL)
		return emulated_error(cudaErrorCapturedEvent);
	return has_run(event->mark->stream, event->mark->upto) ? cudaSuccess :
		cudaErrorNotReady;
}

cudaError_t
cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end)
{
	Locked		locked;

	if (start == NULL || end == NULL || start->mark == NULL ||
		end->mark == NULL || !start->timed || !end->timed)
		return emulated_error(cudaErrorInvalidResourceHandle);
	if (!start->mark->done || !end->mark->done)
		return cudaErrorNotReady;
	*ms = (float) (end->mark->time - start->mark->time);
	return cudaSuccess;
}
