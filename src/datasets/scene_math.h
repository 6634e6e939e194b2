/*
 * datasets/scene_math.h
 *		Numbers for the scene renderer that are the same on every machine:
 *		a counter-based generator and a few functions without libm.
 */
#ifndef AVC_DATASETS_SCENE_MATH_H
#define AVC_DATASETS_SCENE_MATH_H

#include <stdbool.h>
#include <stdint.h>

/* A stream of random numbers: element n is a hash of (key, n). */
typedef struct SceneRandom
{
	uint64_t	key;
	uint64_t	counter;
} SceneRandom;

/* Finisher of splitmix64: a bijection of 64 bits that mixes them well. */
static inline uint64_t
scene_mix(uint64_t z)
{
	z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
	return z ^ (z >> 31);
}

#define SCENE_GOLDEN UINT64_C(0x9E3779B97F4A7C15)

/* The stream of one use (what is drawn) in one frame of one seed. */
static inline SceneRandom
scene_random(uint64_t seed, uint64_t frame, uint64_t use)
{
	SceneRandom random;

	random.key = scene_mix(seed * SCENE_GOLDEN + 1);
	random.key = scene_mix(random.key ^ (frame * SCENE_GOLDEN + 2));
	random.key = scene_mix(random.key ^ (use * SCENE_GOLDEN + 3));
	random.counter = 0;
	return random;
}

static inline uint64_t
scene_bits(SceneRandom *random)
{
	return scene_mix(random->key + ++random->counter * SCENE_GOLDEN);
}

/* A stream of its own for a part, so that its draws disturb nothing else. */
static inline SceneRandom
scene_branch(SceneRandom *random)
{
	SceneRandom branch = {scene_bits(random), 0};

	return branch;
}

/* Uniform in [0, 1). */
static inline double
scene_unit(SceneRandom *random)
{
	return (double) (scene_bits(random) >> 11) * (1.0 / 9007199254740992.0);
}

static inline double
scene_between(SceneRandom *random, double low, double high)
{
	return low + (high - low) * scene_unit(random);
}

static inline bool
scene_chance(SceneRandom *random, double share)
{
	return scene_unit(random) < share;
}

/* Uniform in low .. high, both included. */
static inline int
scene_integer(SceneRandom *random, int low, int high)
{
	return low + (int) (scene_unit(random) * (high - low + 1));
}

/* exp, natural logarithm, sine and cosine to about 1e-10. */
extern double avc_scene_exp(double x);
extern double avc_scene_log(double x);
extern double avc_scene_sin(double x);
extern double avc_scene_cos(double x);

/* Normal with mean 0 and deviation 1: twelve uniform numbers, summed. */
extern double avc_scene_normal(SceneRandom *random);

/* Uniform in the logarithm. */
extern double avc_scene_log_between(SceneRandom *random, double low,
									double high);

#endif							/* AVC_DATASETS_SCENE_MATH_H */
