/*
 * engine/core/random.c
 *		Counter-based random numbers, and torch's Mersenne Twister.
 *
 * A counter-based number is the key (seed, step, position, use, counter)
 * put through the finalizer of splitmix64 (Steele, Lea and Flood, 2014) one
 * word after the other.  Every word is spread over all 64 bits before the
 * next one is added, so that neighbouring keys share nothing.
 */
#include <math.h>

#include "engine/core/random.h"

#define GOLDEN_GAMMA	UINT64_C(0x9E3779B97F4A7C15)

static inline uint64_t
mix(uint64_t z)
{
	z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
	return z ^ (z >> 31);
}

static inline uint64_t
absorb(uint64_t state, uint64_t word)
{
	return mix(state + GOLDEN_GAMMA + word * UINT64_C(0xD1342543DE82EF95));
}

uint64_t
eng_random_u64(uint64_t seed, uint64_t step, uint64_t position,
			   EngRandomUse use, uint64_t counter)
{
	uint64_t	state = mix(seed + GOLDEN_GAMMA);

	state = absorb(state, step);
	state = absorb(state, position);
	state = absorb(state, (uint64_t) use);
	return absorb(state, counter);
}

float
eng_random_uniform(uint64_t seed, uint64_t step, uint64_t position,
				   EngRandomUse use, uint64_t counter)
{
	uint64_t	bits = eng_random_u64(seed, step, position, use, counter);

	return (float) (bits >> 40) * 0x1p-24f;
}

float
eng_random_normal(uint64_t seed, uint64_t step, uint64_t position,
				  EngRandomUse use, uint64_t counter)
{
	uint64_t	bits = eng_random_u64(seed, step, position, use, counter);
	double		u,
				v;

	/* two uniforms of 32 bits each; the first one is never 0 */
	u = ((double) (bits >> 32) + 0.5) * 0x1p-32;
	v = (double) (bits & UINT64_C(0xFFFFFFFF)) * 0x1p-32;
	return (float) (sqrt(-2.0 * log(u)) * cos(6.283185307179586477 * v));
}

uint32_t
eng_random_below(uint64_t bits, uint32_t limit)
{
	/* the bias is below limit / 2^32 */
	return (uint32_t) (((bits >> 32) * limit) >> 32);
}

uint64_t
eng_random_name(const char *name)
{
	uint64_t	hash = UINT64_C(0xCBF29CE484222325);

	for (; *name != '\0'; name++)
		hash = (hash ^ (unsigned char) *name) * UINT64_C(0x100000001B3);
	return hash;
}

void
eng_mt19937_seed(EngMt19937 *mt, uint64_t seed)
{
	uint32_t   *state = mt->state;

	state[0] = (uint32_t) seed;
	for (uint32_t i = 1; i < ENG_MT19937_WORDS; i++)
		state[i] = UINT32_C(1812433253) *
			(state[i - 1] ^ (state[i - 1] >> 30)) + i;
	mt->next = ENG_MT19937_WORDS;
}

static inline uint32_t
twist(uint32_t high, uint32_t low)
{
	uint32_t	y = (high & UINT32_C(0x80000000)) |
		(low & UINT32_C(0x7FFFFFFF));

	return (y >> 1) ^ ((y & 1) ? UINT32_C(0x9908B0DF) : 0);
}

static void
refill(EngMt19937 *mt)
{
	uint32_t   *s = mt->state;

	for (int i = 0; i < ENG_MT19937_WORDS; i++)
		s[i] = s[(i + ENG_MT19937_SHIFT) % ENG_MT19937_WORDS] ^
			twist(s[i], s[(i + 1) % ENG_MT19937_WORDS]);
	mt->next = 0;
}

uint32_t
eng_mt19937_u32(EngMt19937 *mt)
{
	uint32_t	y;

	if (mt->next >= ENG_MT19937_WORDS)
		refill(mt);
	y = mt->state[mt->next++];
	y ^= y >> 11;
	y ^= (y << 7) & UINT32_C(0x9D2C5680);
	y ^= (y << 15) & UINT32_C(0xEFC60000);
	return y ^ (y >> 18);
}

float
eng_mt19937_uniform(EngMt19937 *mt)
{
	return (float) (eng_mt19937_u32(mt) & 0xFFFFFF) * 0x1p-24f;
}

void
eng_mt19937_randperm(int32_t *out, int32_t n, EngMt19937 *mt)
{
	for (int32_t i = 0; i < n; i++)
		out[i] = i;
	for (int32_t i = 0; i < n - 1; i++)
	{
		int32_t		j = i + (int32_t) (eng_mt19937_u32(mt) %
									   (uint32_t) (n - i));
		int32_t		t = out[i];

		out[i] = out[j];
		out[j] = t;
	}
}
