/*
 * engine/ops/sampler.c
 *		A fixed number of positives and negatives out of many.
 *
 * Negatives fill up when positives are few, but not the reverse.  Only the
 * set matters; it is returned in ascending order.
 */
#include <string.h>

#include "engine/ops/detection.h"

size_t
eng_sample_scratch_bytes(int32_t n)
{
	/* candidates and their permutation */
	return 2 * ((size_t) n + 16) * sizeof(int32_t);
}

/* Shell sort: lists are short, and it needs no room. */
static void
sort_ascending(int32_t *list, int32_t n)
{
	static const int32_t gaps[] = {301, 132, 57, 23, 10, 4, 1};

	for (int g = 0; g < 7; g++)
		for (int32_t i = gaps[g]; i < n; i++)
		{
			int32_t		v = list[i];
			int32_t		j = i;

			for (; j >= gaps[g] && list[j - gaps[g]] > v; j -= gaps[g])
				list[j] = list[j - gaps[g]];
			list[j] = v;
		}
}

/*
 * Move k of the n candidates to the front of the list: the first k steps of
 * a shuffle.  Positives and negatives draw from halves of the counter.
 */
static void
choose_counter(int32_t *list, int32_t n, int32_t k,
			   const EngSampleSource *source, uint64_t counter)
{
	if (k == n)
		return;
	for (int32_t i = 0; i < k; i++)
	{
		uint64_t	bits = eng_random_u64(source->seed, source->step,
										  source->position, source->use,
										  counter + (uint64_t) i);
		int32_t		j = i + (int32_t) eng_random_below(bits,
													   (uint32_t) (n - i));
		int32_t		t = list[i];

		list[i] = list[j];
		list[j] = t;
	}
}

/* The first k of a whole permutation, which is drawn even for k = n. */
static void
choose_mt19937(int32_t *list, int32_t n, int32_t k, EngMt19937 *mt,
			   int32_t *permutation)
{
	eng_mt19937_randperm(permutation, n, mt);
	for (int32_t i = 0; i < k; i++)
		permutation[i] = list[permutation[i]];
	memcpy(list, permutation, k * sizeof(int32_t));
}

static bool
copy_given(int32_t *out, const int32_t *given, int32_t count, int32_t n,
		   EngStatus *status)
{
	if (count > n)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"%d sampled indices were given for %d candidates",
						count, n);
	for (int32_t i = 0; i < count; i++)
		if (given[i] < 0 || given[i] >= n)
			return eng_fail(status, ENG_BAD_ARGUMENT,
							"sampled index %d is not among %d candidates",
							given[i], n);
	if (count > 0)
		memcpy(out, given, count * sizeof(int32_t));
	sort_ascending(out, count);
	return true;
}

static bool
sample_given(EngSample *sample, int32_t n, int32_t batch_size,
			 const EngSampleSource *source, EngStatus *status)
{
	if (source->positive_count < 0 || source->negative_count < 0 ||
		source->positive_count > batch_size - source->negative_count)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"%d and %d sampled indices were given, but at most %d are used",
						source->positive_count, source->negative_count,
						batch_size);
	sample->positive_count = source->positive_count;
	sample->negative_count = source->negative_count;
	return copy_given(sample->positives, source->positives,
					  source->positive_count, n, status) &&
		copy_given(sample->negatives, source->negatives,
				   source->negative_count, n, status);
}

bool
eng_sample(EngSample *sample, const int32_t *match, int32_t n,
		   const EngSampleRule *rule, const EngSampleSource *source,
		   void *scratch, EngStatus *status)
{
	int32_t    *list = scratch;
	int32_t    *spare = list + n;
	int32_t		found[2] = {0, 0};
	int32_t		take[2];
	int32_t    *out[2];

	out[0] = sample->positives;
	out[1] = sample->negatives;
	if (source->mode == ENG_SAMPLE_GIVEN)
		return sample_given(sample, n, rule->batch_size, source, status);
	for (int32_t i = 0; i < n; i++)
		found[0] += match[i] >= 0;
	for (int32_t i = 0; i < n; i++)
		found[1] += match[i] == ENG_MATCH_BACKGROUND;
	take[0] = (int32_t) (rule->batch_size * rule->positive_fraction);
	if (take[0] > found[0])
		take[0] = found[0];
	take[1] = rule->batch_size - take[0];
	if (take[1] > found[1])
		take[1] = found[1];
	for (int side = 0; side < 2; side++)
	{
		int32_t		k = 0;

		for (int32_t i = 0; i < n; i++)
			if (side == 0 ? match[i] >= 0 : match[i] == ENG_MATCH_BACKGROUND)
				list[k++] = i;
		if (source->mode == ENG_SAMPLE_MT19937)
			choose_mt19937(list, k, take[side], source->mt, spare);
		else
			choose_counter(list, k, take[side], source,
						   (uint64_t) side << 32);
		if (take[side] > 0)
			memcpy(out[side], list, take[side] * sizeof(int32_t));
		sort_ascending(out[side], take[side]);
	}
	sample->positive_count = take[0];
	sample->negative_count = take[1];
	return true;
}
