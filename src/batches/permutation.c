/*
 * batches/permutation.c
 *		The order of a version's frames: a keyed permutation of 0 .. n-1.
 *
 * Nothing is stored.  Position p of an epoch holds the frame whose rank (from
 * 0, in frame_id order) is P(p), and P depends on n, version, seed and epoch
 * alone, so that another program can reproduce it.  All arithmetic is on
 * unsigned 64-bit integers modulo 2^64; G = 0x9E3779B97F4A7C15.
 *
 *		mix(z)	z = (z xor (z >> 30)) * 0xBF58476D1CE4E5B9
 *				z = (z xor (z >> 27)) * 0x94D049BB133111EB
 *				z =  z xor (z >> 31)
 *		key		= mix(mix(mix(version + G) + seed + G) + epoch + G)
 *				  (negative seeds count as their two's complement)
 *		key[r]	= mix(key + (r + 1) * G), r = 0 .. 7
 *		h		= smallest integer >= 1 with 4^h >= n
 *		E(x)	left = x >> h, right = the low h bits of x; for r = 0 .. 7:
 *				(left, right) = (right,
 *								 left xor (mix(right + key[r]) >> (64 - h)));
 *				result left * 2^h + right
 *		P(p)	= the first of E(p), E(E(p)), ... that is below n
 *
 * E is a Feistel network, hence a permutation of 0 .. 4^h-1; walking its
 * cycle until the value lies below n makes it one of 0 .. n-1.  As 4^h < 4n
 * for n > 1, a walk takes less than four steps on average.
 */
#include "postgres.h"

#include "fmgr.h"

#include "batches/batches.h"

#define GOLDEN UINT64CONST(0x9E3779B97F4A7C15)

PG_FUNCTION_INFO_V1(avc_permute);

static uint64
mix(uint64 z)
{
	z = (z ^ (z >> 30)) * UINT64CONST(0xBF58476D1CE4E5B9);
	z = (z ^ (z >> 27)) * UINT64CONST(0x94D049BB133111EB);
	return z ^ (z >> 31);
}

/* Prepare the order of one (version, seed, epoch) over count frames. */
void
avc_permutation_init(AvcPermutation *permutation, int64 count, int64 version,
					 int64 seed, int32 epoch)
{
	uint64		key;
	int			half;
	int			r;

	Assert(count >= 0);
	half = 1;
	while (half < 31 && (UINT64CONST(1) << (2 * half)) < (uint64) count)
		half++;
	permutation->count = (uint64) count;
	permutation->half_bits = half;

	key = mix((uint64) version + GOLDEN);
	key = mix(key + (uint64) seed + GOLDEN);
	key = mix(key + (uint64) epoch + GOLDEN);
	for (r = 0; r < AVC_PERMUTATION_ROUNDS; r++)
		permutation->keys[r] = mix(key + (uint64) (r + 1) * GOLDEN);
}

/* Rank in frame_id order of the frame at a position, 0 <= position < count. */
int64
avc_permutation_at(const AvcPermutation *permutation, int64 position)
{
	int			half = permutation->half_bits;
	uint64		mask = (UINT64CONST(1) << half) - 1;
	uint64		x = (uint64) position;

	Assert(x < permutation->count);
	do
	{
		uint64		left = x >> half;
		uint64		right = x & mask;
		int			r;

		for (r = 0; r < AVC_PERMUTATION_ROUNDS; r++)
		{
			uint64		next;

			next = left ^ (mix(right + permutation->keys[r]) >> (64 - half));
			left = right;
			right = next;
		}
		x = (left << half) | right;
	} while (x >= permutation->count);
	return (int64) x;
}

/* _avcurate.permute(frames, position, version, seed, epoch): for tests. */
Datum
avc_permute(PG_FUNCTION_ARGS)
{
	int64		count = PG_GETARG_INT64(0);
	int64		position = PG_GETARG_INT64(1);
	AvcPermutation permutation;

	if (position < 0 || position >= count)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("position must be between 0 and the number of frames less one")));
	avc_permutation_init(&permutation, count, PG_GETARG_INT64(2),
						 PG_GETARG_INT64(3), PG_GETARG_INT32(4));
	PG_RETURN_INT64(avc_permutation_at(&permutation, position));
}
