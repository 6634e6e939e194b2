/*
 * test/engine/random_numbers.c
 *		torch's Mersenne Twister and the counter-based numbers.
 */
#include "engine/core/random.h"
#include "tap.h"

static void
check_uniforms(void)
{
	static const float want[5] = {0.4962566f, 0.7682218f, 0.0884774f,
	0.1320305f, 0.3074228f};
	EngMt19937	mt;
	float		worst = 0.0f;

	eng_mt19937_seed(&mt, 0);
	for (int i = 0; i < 5; i++)
		worst = fmaxf(worst, fabsf(eng_mt19937_uniform(&mt) - want[i]));
	tap_ok(worst < 1e-7f, "uniform draws of seed 0 are torch's");
	/* the published 10000th output of std::mt19937 with its default seed */
	eng_mt19937_seed(&mt, 5489);
	for (int i = 0; i < 9999; i++)
		eng_mt19937_u32(&mt);
	tap_ok(eng_mt19937_u32(&mt) == UINT32_C(4123659995),
		   "10000th word of seed 5489");
}

static void
check_permutation(uint64_t seed, const int32_t *want)
{
	EngMt19937	mt;
	EngMt19937	other;
	int32_t		got[10];

	eng_mt19937_seed(&mt, seed);
	eng_mt19937_randperm(got, 10, &mt);
	tap_ok(memcmp(got, want, sizeof(got)) == 0,
		   "randperm(10) of seed %llu is torch's", (unsigned long long) seed);
	eng_mt19937_seed(&other, seed);
	for (int i = 0; i < 9; i++)
		eng_mt19937_u32(&other);
	tap_ok(eng_mt19937_u32(&mt) == eng_mt19937_u32(&other),
		   "randperm(10) uses nine draws");
}

static void
check_short_permutations(void)
{
	EngMt19937	mt;
	EngMt19937	other;
	int32_t		one = -1;

	eng_mt19937_seed(&mt, 3);
	eng_mt19937_seed(&other, 3);
	eng_mt19937_randperm(&one, 0, &mt);
	eng_mt19937_randperm(&one, 1, &mt);
	tap_ok(one == 0 && eng_mt19937_u32(&mt) == eng_mt19937_u32(&other),
		   "permutations of none and one use no draw");
}

static void
check_counter(void)
{
	uint64_t	base = eng_random_u64(1, 2, 3, ENG_USE_FLIP, 4);
	double		sum = 0.0,
				squares = 0.0;
	int			bins[16] = {0};
	int			n = 100000;
	double		chi = 0.0;

	tap_ok(base == eng_random_u64(1, 2, 3, ENG_USE_FLIP, 4),
		   "equal keys give equal numbers");
	tap_ok(base != eng_random_u64(2, 2, 3, ENG_USE_FLIP, 4) &&
		   base != eng_random_u64(1, 3, 3, ENG_USE_FLIP, 4) &&
		   base != eng_random_u64(1, 2, 4, ENG_USE_FLIP, 4) &&
		   base != eng_random_u64(1, 2, 3, ENG_USE_RPN_SAMPLE, 4) &&
		   base != eng_random_u64(1, 2, 3, ENG_USE_FLIP, 5),
		   "every part of the key counts");
	/* the value is stored behaviour: a change would break resumed trainings */
	tap_ok(eng_random_u64(0, 0, 0, ENG_USE_FLIP, 0) ==
		   UINT64_C(0xE912E310ED4F1285), "the numbers are those of earlier versions");
	for (int i = 0; i < n; i++)
	{
		float		u = eng_random_uniform(9, 1, 0, ENG_USE_TEST, i);
		float		z = eng_random_normal(9, 2, 0, ENG_USE_TEST, i);

		if (u >= 0.0f && u < 1.0f)
			bins[(int) (u * 16)]++;
		sum += z;
		squares += (double) z * z;
	}
	for (int b = 0; b < 16; b++)
		chi += pow(bins[b] - n / 16.0, 2) / (n / 16.0);
	tap_ok(chi < 37.7, "uniform numbers fill 16 bins evenly (chi2 %.1f)", chi);
	tap_ok(fabs(sum / n) < 0.015 && fabs(squares / n - 1.0) < 0.02,
		   "normal numbers have mean %.4f and variance %.4f", sum / n,
		   squares / n);
}

static void
check_below(void)
{
	bool		inside = true;

	for (uint64_t i = 0; i < 1000; i++)
		inside = inside && eng_random_below(eng_random_u64(1, 1, 1,
														   ENG_USE_TEST, i),
											7) < 7;
	tap_ok(inside && eng_random_below(UINT64_MAX, 7) == 6 &&
		   eng_random_below(0, 7) == 0 && eng_random_below(UINT64_MAX, 1) == 0,
		   "numbers below a limit stay below it");
	tap_ok(eng_random_name("a") == UINT64_C(0xAF63DC4C8601EC8C),
		   "FNV-1a of a name");
}

int
main(void)
{
	static const int32_t of_0[10] = {4, 1, 7, 5, 3, 9, 0, 8, 6, 2};
	static const int32_t of_42[10] = {2, 6, 1, 8, 4, 5, 0, 9, 3, 7};

	check_uniforms();
	check_permutation(0, of_0);
	check_permutation(42, of_42);
	check_short_permutations();
	check_counter();
	check_below();
	return tap_done();
}
