/*
 * cuda/suppress.h
 *		Suppression of boxes that overlap a better one, by one block.
 *
 * Candidates come in order.  A chunk of them is held against the boxes kept
 * so far, then among themselves; who survives is found by one thread, which
 * has nothing but bits to look at, and joins the kept ones.  The result is
 * that of taking one candidate after the other.
 */
#ifndef ENG_CUDA_SUPPRESS_H
#define ENG_CUDA_SUPPRESS_H

#include "cuda/boxes.h"

#define CHUNK			64		/* candidates taken together */

struct Suppression
{
	const uint64_t *items;		/* (n): candidate in the lower half */
	const float *boxes;			/* by candidate */
	float		offset;			/* added to coordinates */
	float		least;			/* overlap that suppresses */
	int32_t		n;
	int32_t		limit;
	int32_t    *keep;			/* out: places in items, ascending */
	float	   *kept;			/* room (limit or n, 5) */
};

/* Bits of a chunk: its candidates, and for each whom it suppresses. */
struct ChunkBits
{
	uint32_t	dead[CHUNK / 32];
	uint32_t	hides[CHUNK][CHUNK / 32];
	float		box[CHUNK][5];
	int32_t		place[CHUNK];	/* among the kept ones, -1: none */
	int32_t		kept;
};

static __device__ inline void
load_chunk(ChunkBits *b, const Suppression &s, int32_t first, int32_t size)
{
	for (int32_t i = threadIdx.x; i < CHUNK; i += blockDim.x)
	{
		for (int k = 0; k < CHUNK / 32; k++)
			b->hides[i][k] = 0;
		if (i < CHUNK / 32)
			b->dead[i] = 0;
		if (i >= size)
			continue;
		for (int c = 0; c < 4; c++)
			b->box[i][c] = s.boxes[4 * (int64_t) (uint32_t)
								   s.items[first + i] + c] + s.offset;
		b->box[i][4] = box_area(b->box[i]);
	}
	__syncthreads();
}

static __device__ inline void
compare_chunk(ChunkBits *b, const Suppression &s, int32_t size,
			  int32_t kept)
{
	int32_t		lanes = blockDim.x / CHUNK;
	int32_t		i = threadIdx.x / lanes;
	bool		dead = false;

	for (int32_t k = threadIdx.x % lanes; i < size && k < kept && !dead;
		 k += lanes)
	{
		const float *box = s.kept + 5 * (int64_t) k;

		dead = box_overlap(box, box[4], b->box[i], b->box[i][4]) >= s.least;
	}
	if (dead)
		atomicOr(&b->dead[i / 32], UINT32_C(1) << i % 32);
	for (int32_t k = threadIdx.x; k < size * size; k += blockDim.x)
	{
		int32_t		first = k / size;
		int32_t		second = k % size;

		if (first < second &&
			box_overlap(b->box[first], b->box[first][4], b->box[second],
						b->box[second][4]) >= s.least)
			atomicOr(&b->hides[first][second / 32],
					 UINT32_C(1) << second % 32);
	}
	__syncthreads();
}

/* Number of boxes kept; every thread has it. */
static __device__ inline int32_t
suppress(const Suppression &s)
{
	__shared__ ChunkBits b;
	int32_t		kept = 0;

	for (int32_t first = 0; first < s.n && kept < s.limit; first += CHUNK)
	{
		int32_t		size = s.n - first < CHUNK ? s.n - first : CHUNK;

		load_chunk(&b, s, first, size);
		compare_chunk(&b, s, size, kept);
		if (threadIdx.x == 0)
		{
			b.kept = kept;
			for (int32_t i = 0; i < size; i++)
			{
				b.place[i] = -1;
				if (b.kept == s.limit || (b.dead[i / 32] >> i % 32 & 1))
					continue;
				b.place[i] = b.kept++;
				for (int k = 0; k < CHUNK / 32; k++)
					b.dead[k] |= b.hides[i][k];
			}
		}
		__syncthreads();
		for (int32_t i = threadIdx.x; i < size; i += blockDim.x)
		{
			if (b.place[i] < 0)
				continue;
			s.keep[b.place[i]] = first + i;
			for (int c = 0; c < 5; c++)
				s.kept[5 * (int64_t) b.place[i] + c] = b.box[i][c];
		}
		kept = b.kept;
		__syncthreads();
	}
	return kept;
}

#endif
