/*
 * test/emulated/runtime.h
 *		Inside the stand-in for CUDA's runtime.
 *
 *	device.cc	which devices there are, errors
 *	device_memory.cc	memory of devices, pinned memory, copies
 *	stream.cc	the lock, streams and events
 *	graph.cc	capture and graphs
 *
 * AVC_EMULATED_DEVICES	(1) devices that the machine has
 * AVC_EMULATED_COMPUTE	(90) their compute capability, 10 * major + minor
 * AVC_EMULATED_MEMORY	(2048) memory of each, in MiB
 * AVC_EMULATED_FAIL	() calls that fail: malloc, host_alloc, capture
 */
#ifndef EMULATED_RUNTIME_H
#define EMULATED_RUNTIME_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <thread>
#include <vector>

#include "stream.h"

#define EMULATED_DEVICES	16	/* at most */

typedef std::function<bool()> Work;	/* false: not yet, ask again */
typedef struct CUstream_st Stream;

/* What is recorded between the two ends of a capture. */
struct Capture
{
	Stream	   *origin;
	cudaStreamCaptureMode mode;
	std::thread::id thread;
	std::vector<Work> work;
	std::set<Stream *> streams;
	bool		failed;
	bool		ended;
};

struct CUstream_st
{
	int			device;
	bool		blocking;		/* waits for the standard stream */
	bool		running;		/* one thread at a time */
	std::deque<Work> queue;
	uint64_t	submitted;
	uint64_t	done;
	std::shared_ptr<Capture> capture;	/* NULL: none */
	uint64_t	captured;		/* pieces of work in it */
	uint64_t	joined;			/* 1 + those that another stream waited for */
};

/* Holds the machine for a call. */
struct Locked
{
	Locked();
	~Locked();
};

/* ---- device.cc ------------------------------------------------------------ */

/* Remember an error as the thread's last one. */
extern cudaError_t emulated_error(cudaError_t code);
extern int	emulated_device_count();
extern long emulated_setting(const char *name, long usual);
extern bool emulated_fails(const char *what);

/* ---- device_memory.cc ------------------------------------------------------------ */

extern void emulated_close_all(std::vector<int> *which);
extern void emulated_open_again(const std::vector<int> &which);

/* ---- stream.cc: all with the machine held ----------------------------------- */

/* NULL is the current device's standard stream; NULL: no stream */
extern Stream *emulated_stream(cudaStream_t stream);
extern cudaError_t emulated_submit(Stream *stream, Work work);
/* Run what was submitted up to there. */
extern void emulated_run(Stream *stream, uint64_t upto);
extern void emulated_run_device(int device);

/* ---- graph.cc: with the machine held ---------------------------------------- */

/*
 * What a call may not do while a stream is captured: failure, which breaks
 * those captures off.
 */
extern cudaError_t emulated_forbidden_in_capture();
extern cudaError_t emulated_break_capture(Stream *stream, cudaError_t code);

#endif
