/*
 * engine/core/random.h
 *		Random numbers of two kinds.
 *
 * The counter-based ones have no state: a number is a function of what it
 * is for, so a resumed or re-partitioned training draws the same ones.
 * EngMt19937 is the generator of torch on a CPU and serves comparison with
 * torchvision only.
 */
#ifndef ENG_CORE_RANDOM_H
#define ENG_CORE_RANDOM_H

#include <stdint.h>

/*
 * What a number is for.  The values are part of what makes a training
 * reproducible: add at the end, never renumber.
 */
typedef enum EngRandomUse
{
	ENG_USE_FLIP = 1,			/* horizontal flip of a frame */
	ENG_USE_RPN_SAMPLE = 2,		/* anchors that enter the RPN losses */
	ENG_USE_ROI_SAMPLE = 3,		/* proposals that enter the RoI losses */
	ENG_USE_INIT = 4,			/* initial weights; position = hash of name */
	ENG_USE_SIZE = 5,			/* training size of a frame */
	ENG_USE_TEST = 6			/* data made by tests and benchmarks */
} EngRandomUse;

/*
 * 64 random bits.  position: place of the frame in the global batch, or
 * whatever else tells draws of one step apart; counter: 0, 1, ... for
 * several draws under one key.
 */
extern uint64_t eng_random_u64(uint64_t seed, uint64_t step,
							   uint64_t position, EngRandomUse use,
							   uint64_t counter);

/* Uniform in [0, 1), a multiple of 2^-24. */
extern float eng_random_uniform(uint64_t seed, uint64_t step,
								uint64_t position, EngRandomUse use,
								uint64_t counter);

/* Standard normal (Box-Muller in double, rounded to float). */
extern float eng_random_normal(uint64_t seed, uint64_t step,
							   uint64_t position, EngRandomUse use,
							   uint64_t counter);

/* Uniform whole number in [0, limit), limit >= 1, from 64 random bits. */
extern uint32_t eng_random_below(uint64_t bits, uint32_t limit);

/* A position for draws that belong to a name (FNV-1a, 64 bits). */
extern uint64_t eng_random_name(const char *name);

#define ENG_MT19937_WORDS	624
#define ENG_MT19937_SHIFT	397

/* The Mersenne Twister with torch's rules for seeding and use. */
typedef struct EngMt19937
{
	uint32_t	state[ENG_MT19937_WORDS];
	int32_t		next;			/* index of the next word; behind them: refill */
} EngMt19937;

extern void eng_mt19937_seed(EngMt19937 *mt, uint64_t seed);	/* low 32 bits */
extern uint32_t eng_mt19937_u32(EngMt19937 *mt);
extern float eng_mt19937_uniform(EngMt19937 *mt);	/* [0, 1), one draw */

/* torch.randperm(n) into out[n]; uses max(n - 1, 0) draws. */
extern void eng_mt19937_randperm(int32_t *out, int32_t n, EngMt19937 *mt);

#endif
