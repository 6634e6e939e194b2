/*
 * test/emulated/emulated.h
 *		Enough of CUDA's C++ to run kernels on the processor, for tests.
 *
 * Blocks run one after the other, and so do the threads of a block; where
 * threads meet, each is a fiber that waits for the others.  The memory of
 * the "device" cannot be touched but by kernels and copies.  This shows what
 * the kernels compute, that their threads meet alike, and that the host
 * leaves the device's memory alone.  It does not show races between threads,
 * what the compiler for the GPU makes of them, or how its functions round.
 */
#ifndef EMULATED_H
#define EMULATED_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__	inline
#define __shared__		static
#define __launch_bounds__(threads)
#define __restrict__

struct dim3
{
	unsigned	x;
	unsigned	y;
	unsigned	z;

	dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c)
	{
	}
};

struct alignas(16) uint4
{
	uint32_t	x;
	uint32_t	y;
	uint32_t	z;
	uint32_t	w;
};

static inline uint4
make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w)
{
	uint4		v = {x, y, z, w};

	return v;
}

extern dim3 threadIdx;
extern dim3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;

/* Wait for the block's other threads; both give the sum over all of them. */
extern int	emulated_meet(int value);

static inline void
__syncthreads()
{
	(void) emulated_meet(0);
}

static inline int
__syncthreads_count(int value)
{
	return emulated_meet(value != 0);
}

static inline int
__syncthreads_or(int value)
{
	return emulated_meet(value != 0) != 0;
}

/*
 * Queue a kernel whose arguments are in the function already; what no device
 * takes ends the program.
 */
extern void emulated_launch(void *stream, dim3 blocks, dim3 threads,
							bool meeting, std::function<void()> kernel);

/* A kernel and where it runs; called, it takes its arguments by value. */
template <typename... P>
struct EmulatedLaunch
{
	void		(*kernel) (P...);
	dim3		blocks;
	dim3		threads;
	void	   *stream;
	bool		meeting;

	void
	operator()(P... arguments) const
	{
		void		(*run) (P...) = kernel;

		emulated_launch(stream, blocks, threads, meeting,
						[=]() { run(arguments...); });
	}
};

template <typename... P>
static inline EmulatedLaunch<P...>
emulated_kernel(void (*kernel) (P...), dim3 blocks, dim3 threads, void *stream,
				bool meeting)
{
	return {kernel, blocks, threads, stream, meeting};
}

#define ENG_LAUNCH(kernel, blocks, threads, cuda, ...) \
	(emulated_kernel((kernel), (blocks), (threads), (cuda)->stream, \
					 false)(__VA_ARGS__))
#define ENG_LAUNCH_MEETING(kernel, blocks, threads, cuda, ...) \
	(emulated_kernel((kernel), (blocks), (threads), (cuda)->stream, \
					 true)(__VA_ARGS__))

static inline float
__uint_as_float(uint32_t bits)
{
	float		value;

	memcpy(&value, &bits, sizeof(value));
	return value;
}

static inline uint32_t
__float_as_uint(float value)
{
	uint32_t	bits;

	memcpy(&bits, &value, sizeof(bits));
	return bits;
}

static inline int
__popc(uint32_t x)
{
	return __builtin_popcount(x);
}

template <typename T>
static inline T
atomicMax(T *to, T value)
{
	T			old = *to;

	if (value > old)
		*to = value;
	return old;
}

template <typename T>
static inline T
atomicAdd(T *to, T value)
{
	T			old = *to;

	*to = old + value;
	return old;
}

template <typename T>
static inline T
atomicOr(T *to, T value)
{
	T			old = *to;

	*to = old | value;
	return old;
}

#endif
