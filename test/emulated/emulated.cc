/*
 * test/emulated/emulated.cc
 *		Threads of a block as fibers.
 */
#include "emulated.h"

#include <sys/mman.h>
#include <ucontext.h>

#include "stream.h"

#define MOST_THREADS	1024
#define STACK_SIZE		(128 * 1024)

dim3		threadIdx;
dim3		blockIdx;
dim3		blockDim;
dim3		gridDim;

struct Fiber
{
	ucontext_t	context;
	bool		done;
};

static Fiber fibers[MOST_THREADS];
static char *stacks;
static ucontext_t scheduler;
static const std::function<void()> *body;
static unsigned current;
static bool meeting_allowed;
static int	given;				/* sum of what this meeting's threads brought */
static int	received;			/* of the meeting before */

static void
fiber_main()
{
	(*body)();
	fibers[current].done = true;
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
	swapcontext(&fibers[current].context, &scheduler);
	set_thread(current);
	return received;
}

static void
start_fiber(unsigned i)
{
	Fiber	   *fiber = &fibers[i];

	getcontext(&fiber->context);
	fiber->context.uc_stack.ss_sp = stacks + (size_t) i * STACK_SIZE;
	fiber->context.uc_stack.ss_size = STACK_SIZE;
	fiber->context.uc_link = &scheduler;
	fiber->done = false;
	makecontext(&fiber->context, fiber_main, 0);
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

	for (i = 0; i < count; i++)
		start_fiber(i);
	while (ended < count)
	{
		given = 0;
		for (i = 0; i < count; i++)
		{
			current = i;
			set_thread(i);
			swapcontext(&scheduler, &fibers[i].context);
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
