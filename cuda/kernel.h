/*
 * cuda/kernel.h
 *		What every kernel starts from: element types, vectors, launches.
 *
 * The same sources compile as C++ for the processor (test/emulated), so that
 * a machine without a GPU can test what the kernels compute.  Therefore they
 * keep to what both have: threads of a block meet at __syncthreads and its
 * counting forms, nothing goes through warps, shared arrays have fixed sizes,
 * and atomics are those whose result has no order (maxima, sums of whole
 * numbers).  A kernel whose threads meet is launched by ENG_LAUNCH_MEETING.
 * Blocks of more than ENG_THREADS threads need __launch_bounds__: else the
 * compiler may give a thread more registers than so many have.
 */
#ifndef ENG_CUDA_KERNEL_H
#define ENG_CUDA_KERNEL_H

#include <stddef.h>
#include <stdint.h>

#ifdef ENG_EMULATED
#include "emulated.h"
#else
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define ENG_LAUNCH(kernel, blocks, threads, cuda, ...) \
	((kernel)<<<(blocks), (threads), 0, \
	 (cudaStream_t) (cuda)->stream>>>(__VA_ARGS__))
#define ENG_LAUNCH_MEETING	ENG_LAUNCH
#endif

#include "cuda/cuda.h"

#define ENG_THREADS		256		/* of a block, unless a kernel says more */

/* Storage of two bytes; arithmetic is float. */
struct Bf16
{
	uint16_t	bits;
};

struct Fp16
{
	uint16_t	bits;
};

static __device__ __forceinline__ float
bits_float(uint32_t bits)
{
	return __uint_as_float(bits);
}

/* To the nearest, ties to even; what is not a number stays so. */
static __device__ __forceinline__ uint16_t
bf16_bits(float value)
{
	uint32_t	bits = __float_as_uint(value);
	uint32_t	rounded = bits + 0x7fff + (bits >> 16 & 1);

	return (uint16_t) ((value != value ? bits | 0x400000 : rounded) >> 16);
}

/* The same for f16, what is too large becomes infinite: an instruction each. */
static __device__ __forceinline__ float
fp16_float(uint16_t half)
{
#ifdef ENG_EMULATED
	return eng_f16_to_float(half);
#else
	return __half2float(__ushort_as_half(half));
#endif
}

static __device__ __forceinline__ uint16_t
fp16_bits(float value)
{
#ifdef ENG_EMULATED
	return eng_f16_from_float(value);
#else
	return __half_as_ushort(__float2half_rn(value));
#endif
}

static __device__ __forceinline__ float
get(const float *x, int64_t i)
{
	return x[i];
}

static __device__ __forceinline__ float
get(const Bf16 *x, int64_t i)
{
	return bits_float((uint32_t) x[i].bits << 16);
}

static __device__ __forceinline__ float
get(const Fp16 *x, int64_t i)
{
	return fp16_float(x[i].bits);
}

static __device__ __forceinline__ void
put(float *x, int64_t i, float value)
{
	x[i] = value;
}

static __device__ __forceinline__ void
put(Bf16 *x, int64_t i, float value)
{
	x[i].bits = bf16_bits(value);
}

static __device__ __forceinline__ void
put(Fp16 *x, int64_t i, float value)
{
	x[i].bits = fp16_bits(value);
}

/* ---- vectors: V elements from i, 16 bytes where V is the whole of them ---- */

static __device__ __forceinline__ void
unpack(float out[4], const float *, uint4 words)
{
	out[0] = bits_float(words.x);
	out[1] = bits_float(words.y);
	out[2] = bits_float(words.z);
	out[3] = bits_float(words.w);
}

static __device__ __forceinline__ void
unpack(float out[8], const Bf16 *, uint4 words)
{
	uint32_t	w[4] = {words.x, words.y, words.z, words.w};

#pragma unroll
	for (int i = 0; i < 4; i++)
	{
		out[2 * i] = bits_float(w[i] << 16);
		out[2 * i + 1] = bits_float(w[i] & 0xffff0000);
	}
}

static __device__ __forceinline__ void
unpack(float out[8], const Fp16 *, uint4 words)
{
	uint32_t	w[4] = {words.x, words.y, words.z, words.w};

#pragma unroll
	for (int i = 0; i < 4; i++)
	{
		out[2 * i] = fp16_float((uint16_t) (w[i] & 0xffff));
		out[2 * i + 1] = fp16_float((uint16_t) (w[i] >> 16));
	}
}

static __device__ __forceinline__ uint4
pack(const float *, const float in[4])
{
	return make_uint4(__float_as_uint(in[0]), __float_as_uint(in[1]),
					  __float_as_uint(in[2]), __float_as_uint(in[3]));
}

static __device__ __forceinline__ uint32_t
pair(uint16_t low, uint16_t high)
{
	return (uint32_t) high << 16 | low;
}

static __device__ __forceinline__ uint4
pack(const Bf16 *, const float in[8])
{
	return make_uint4(pair(bf16_bits(in[0]), bf16_bits(in[1])),
					  pair(bf16_bits(in[2]), bf16_bits(in[3])),
					  pair(bf16_bits(in[4]), bf16_bits(in[5])),
					  pair(bf16_bits(in[6]), bf16_bits(in[7])));
}

static __device__ __forceinline__ uint4
pack(const Fp16 *, const float in[8])
{
	return make_uint4(pair(fp16_bits(in[0]), fp16_bits(in[1])),
					  pair(fp16_bits(in[2]), fp16_bits(in[3])),
					  pair(fp16_bits(in[4]), fp16_bits(in[5])),
					  pair(fp16_bits(in[6]), fp16_bits(in[7])));
}

template <typename T, int V>
struct Vector
{
	static __device__ __forceinline__ void
	load(float out[V], const T *x, int64_t i)
	{
		unpack(out, x, *(const uint4 *) (x + i));
	}

	static __device__ __forceinline__ void
	store(T *x, int64_t i, const float in[V])
	{
		*(uint4 *) (x + i) = pack(x, in);
	}
};

template <typename T>
struct Vector<T, 1>
{
	static __device__ __forceinline__ void
	load(float out[1], const T *x, int64_t i)
	{
		out[0] = get(x, i);
	}

	static __device__ __forceinline__ void
	store(T *x, int64_t i, const float in[1])
	{
		put(x, i, in[0]);
	}
};

/* V floats, by 16 bytes where they are whole fours. */
template <int V>
static __device__ __forceinline__ void
load_floats(float out[V], const float *x, int64_t i)
{
	const int	each = V % 4 == 0 ? 4 : 1;

#pragma unroll
	for (int v = 0; v < V; v += each)
		Vector<float, each>::load(out + v, x, i + v);
}

template <int V>
static __device__ __forceinline__ void
store_floats(float *x, int64_t i, const float in[V])
{
	const int	each = V % 4 == 0 ? 4 : 1;

#pragma unroll
	for (int v = 0; v < V; v += each)
		Vector<float, each>::store(x, i + v, in + v);
}

/* Run code with T a type's C++ one; V: elements in 16 bytes. */
#define ENG_WITH_TYPE(type, ...) \
	do \
	{ \
		if ((type) == ENG_BF16) \
		{ \
			typedef Bf16 T; \
			constexpr int V = 8; \
			__VA_ARGS__ \
		} \
		else if ((type) == ENG_F16) \
		{ \
			typedef Fp16 T; \
			constexpr int V = 8; \
			__VA_ARGS__ \
		} \
		else \
		{ \
			typedef float T; \
			constexpr int V = 4; \
			__VA_ARGS__ \
		} \
	} while (0)

static inline unsigned
blocks_for(int64_t count, int64_t each)
{
	return (unsigned) ((count + each - 1) / each);
}

/* ReLU that passes what is not a number on. */
static __device__ __forceinline__ float
relu(float x)
{
	return x < 0 ? 0 : x;
}

#endif
