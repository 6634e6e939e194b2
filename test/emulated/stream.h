/*
 * test/emulated/stream.h
 *		What stand-ins for CUDA's libraries need of the runtime's.
 *
 * Work is queued on a stream and runs in the stream's order: when somebody
 * waits for it, at the latest, or, where the stream is being captured, at each
 * launch of the graph.  So arguments must be taken by value, and what they
 * point to must live as long as CUDA asks for.
 *
 * All devices share one lock, which is held while work runs; only then is the
 * memory of the stream's device open.  Work must not wait for another thread's:
 * what does (a collective) is asked again and again whether it is done, and
 * others have the lock in between.
 */
#ifndef EMULATED_STREAM_H
#define EMULATED_STREAM_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C"
{
#endif

/*
 * Queue work.  release(argument) comes once nothing can run it any more: after
 * it ran, or when the graph it was captured in is gone with its executables;
 * NULL: there is nothing to release.  It calls nothing of the runtime's.
 * false: no such stream, one of another device than the thread's, or whose
 * capture failed; argument is released then, too, and the thread's last error
 * says why.
 */
extern bool emulated_stream_run(void *stream, void (*work) (void *argument),
								void *argument,
								void (*release) (void *argument));

/*
 * The same for work that may have to wait: done() is called until it says
 * true, which ends this run of it; a graph's next launch begins the next.
 */
extern bool emulated_stream_await(void *stream, bool (*done) (void *argument),
								  void *argument,
								  void (*release) (void *argument));

/* End the program: what CUDA leaves undefined. */
extern void emulated_stop(const char *what);

/* Device of a stream; the calling thread's; -1: no such stream. */
extern int	emulated_stream_device(void *stream);
extern int	emulated_device_current(void);
/* Compute capability of all devices, 10 * major + minor. */
extern int	emulated_device_compute(void);

/* Whether all of it lies in one live piece of the current device's memory. */
extern bool emulated_memory_holds(const void *at, size_t size);

/* From work only: another device's memory, for copies between devices. */
extern void emulated_memory_open(int device);
extern void emulated_memory_close(int device);

#ifdef __cplusplus
}
#endif

#endif
