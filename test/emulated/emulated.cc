/*
 * test/emulated/emulated.cc
 *		Threads of a block as fibers.
 */
#include "emulated.h"

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "stream.h"

#define MOST_THREADS	1024
#define STACK_SIZE		(128 * 1024)

dim3		threadIdx;
dim3		blockIdx;
dim3		blockDim;
dim3		gridDim;

/*
 * Where a fiber or the scheduler goes on.  swapcontext() asks the kernel for
 * the signal mask each time, so it only starts fibers; but the sanitizer of
 * addresses knows no jumps from stack to stack.
 */
struct Place
{
	ucontext_t	context;
	jmp_buf		jump;
	bool		started;
};

struct Fiber
{
	Place		place;
	bool		made;
	bool		done;
};

static Fiber fibers[MOST_THREADS];
static char *stacks;
static Place scheduler;
static const std::function<void()> *body;
static unsigned current;
static bool meeting_allowed;
static int	given;				/* sum of what this meeting's threads brought */
static int	received;			/* of the meeting before */

static void
go(Place *from, Place *to)
{
#ifndef __SANITIZE_ADDRESS__
	if (to->started)
	{
		if (_setjmp(from->jump) == 0)
			_longjmp(to->jump, 1);
		return;
	}
	to->started = true;
	if (_setjmp(from->jump) != 0)
		return;
#endif
	swapcontext(&from->context, &to->context);
}

/* One thread after the other, for good. */
static void
fiber_main()
{
	Fiber	   *fiber = &fibers[current];

	for (;;)
	{
		(*body)();
		fiber->done = true;
		go(&fiber->place, &scheduler);
	}
}

static void
set_thread(unsigned i)
{
	threadIdx.x = i % blockDim.x;
	threadIdx.y = i / blockDim.x % blockDim.y;
	threadIdx.z = i / blockDim.x / blockDim.y;
}

int
emulated_meet(int value)
{
	if (!meeting_allowed)
		emulated_stop("threads meet in a kernel that was launched without");
	given += value;
	go(&fibers[current].place, &scheduler);
	set_thread(current);
	return received;
}

static void
prepare_fiber(unsigned i)
{
	Fiber	   *fiber = &fibers[i];

	fiber->done = false;
	if (fiber->made)
		return;
	getcontext(&fiber->place.context);
	fiber->place.context.uc_stack.ss_sp = stacks + (size_t) i * STACK_SIZE;
	fiber->place.context.uc_stack.ss_size = STACK_SIZE;
	makecontext(&fiber->place.context, fiber_main, 0);
	fiber->made = true;
}

/*
 * Run all threads from meeting to meeting; at each, all must be there or all
 * must have ended.
 */
static void
run_meeting_block(unsigned count)
{
	unsigned	ended = 0;
	unsigned	i;

	scheduler.started = true;
	for (i = 0; i < count; i++)
		prepare_fiber(i);
	while (ended < count)
	{
		given = 0;
		for (i = 0; i < count; i++)
		{
			current = i;
			set_thread(i);
			go(&scheduler, &fibers[i].place);
			ended += fibers[i].done;
		}
		if (ended > 0 && ended < count)
			emulated_stop("some threads of a block ended where others meet");
		received = given;
	}
}

static void
run_block(unsigned count, bool meeting)
{
	if (meeting)
	{
		run_meeting_block(count);
		return;
	}
	for (unsigned i = 0; i < count; i++)
	{
		set_thread(i);
		(*body)();
	}
}

struct Launch
{
	dim3		blocks;
	dim3		threads;
	bool		meeting;
	std::function<void()> kernel;
};

static void
run_launch(void *argument)
{
	const Launch *launch = (const Launch *) argument;
	unsigned	count = launch->threads.x * launch->threads.y *
		launch->threads.z;

	if (stacks == NULL)
	{
		stacks = (char *) mmap(NULL, (size_t) MOST_THREADS * STACK_SIZE,
							   PROT_READ | PROT_WRITE,
							   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (stacks == MAP_FAILED)
			emulated_stop("no memory for stacks");
	}
	body = &launch->kernel;
	gridDim = launch->blocks;
	blockDim = launch->threads;
	meeting_allowed = launch->meeting;
	for (unsigned z = 0; z < gridDim.z; z++)
		for (unsigned y = 0; y < gridDim.y; y++)
			for (unsigned x = 0; x < gridDim.x; x++)
			{
				blockIdx = dim3(x, y, z);
				run_block(count, meeting_allowed);
			}
}

static void
release_launch(void *argument)
{
	delete (Launch *) argument;
}

void
emulated_launch(void *stream, dim3 blocks, dim3 threads, bool meeting,
				std::function<void()> kernel)
{
	uint64_t	count = (uint64_t) threads.x * threads.y * threads.z;

	if (count == 0 || count > MOST_THREADS || threads.z > 64 ||
		blocks.x == 0 || blocks.x > 2147483647u || blocks.y == 0 ||
		blocks.y > 65535 || blocks.z == 0 || blocks.z > 65535)
		emulated_stop("a launch that no device takes");
	(void) emulated_stream_run(stream, run_launch,
							   new Launch{blocks, threads, meeting, kernel},
							   release_launch);
}
