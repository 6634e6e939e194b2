/*
 * cuda/targets.cu
 *		Which anchors and proposals train, and towards what.
 *
 * As ops/matcher.c, sampler.c and roi_select.c: overlaps are computed by one
 * function in both passes over the boxes, as exact ties decide; samples come
 * from the same counter-based random numbers in the same order, or from
 * torch's generator, whose state comes with the batch.
 */
#include "cuda/boxes.h"

#define MOST_SAMPLED	4096	/* of an image: the options' limit */
#define EACH			8		/* elements that a thread counts at a time */

/* ---- matching ----------------------------------------------------------------- */

/* Boxes of an image that are matched with its ground truth. */
struct Matching
{
	const float *boxes;			/* (n, 4), image_step floats from the next's */
	int64_t		image_step;
	const int32_t *counts;		/* of each image, or NULL: n */
	int32_t		n;
	int32_t    *match;			/* (n), match_step from the next's */
	int32_t    *best;
	int64_t		match_step;
	EngMatchRule rule;
};

static __device__ __forceinline__ int32_t
matched_count(const Matching &m, int32_t image)
{
	return m.counts != NULL ? m.counts[image] : m.n;
}

static __global__ void
match_kernel(EngCudaRegions r, Matching m)
{
	int32_t		image = blockIdx.y;
	int32_t		i = blockIdx.x * blockDim.x + threadIdx.x;
	int32_t		first = r.image[image].truth_first;
	int32_t		count = r.image[image].truth_count;
	const float *box = m.boxes + image * m.image_step + 4 * (int64_t) i;
	float		value = 0.0f;
	int32_t		best = 0;
	int32_t		match;
	float		area;

	if (i >= matched_count(m, image))
		return;
	area = box_area(box);
	for (int32_t g = 0; g < count; g++)
	{
		const float *gt = r.truth_boxes + 4 * (int64_t) (first + g);
		float		overlap = box_overlap(box, area, gt, box_area(gt));
		uint32_t	bits = __float_as_uint(overlap);

		if (overlap > value)
		{
			value = overlap;
			best = g;
		}
		/* overlaps are not negative, so their bits order like they do */
		if (overlap > 0.0f && bits > r.truth_high[first + g])
			atomicMax(&r.truth_high[first + g], bits);
	}
	match = best;
	if (count == 0 || value < m.rule.low)
		match = ENG_MATCH_BACKGROUND;
	else if (value < m.rule.high)
		match = ENG_MATCH_IGNORED;
	m.match[image * m.match_step + i] = match;
	m.best[image * m.match_step + i] = best;
}

/* Boxes that tie for the largest overlap with some gt get their best back. */
static __global__ void
low_quality_kernel(EngCudaRegions r, Matching m)
{
	int32_t		image = blockIdx.y;
	int32_t		i = blockIdx.x * blockDim.x + threadIdx.x;
	int32_t		first = r.image[image].truth_first;
	int32_t		count = r.image[image].truth_count;
	const float *box = m.boxes + image * m.image_step + 4 * (int64_t) i;
	bool		tie = false;
	float		area;

	if (i >= matched_count(m, image))
		return;
	area = box_area(box);
	for (int32_t g = 0; g < count; g++)
	{
		const float *gt = r.truth_boxes + 4 * (int64_t) (first + g);

		tie = tie || box_overlap(box, area, gt, box_area(gt)) ==
			__uint_as_float(r.truth_high[first + g]);
	}
	if (tie)
		m.match[image * m.match_step + i] =
			m.best[image * m.match_step + i];
}

static void
match(EngCuda *cuda, const EngCudaRegions *r, const Matching *m)
{
	dim3		blocks(blocks_for(m->n, ENG_THREADS), r->images);

	if (m->n == 0)
		return;
	eng_device_zero(cuda, r->truth_high, sizeof(uint32_t) * r->truth_room);
	ENG_LAUNCH(match_kernel, blocks, ENG_THREADS, cuda, *r, *m);
	if (m->rule.allow_low_quality)
		ENG_LAUNCH(low_quality_kernel, blocks, ENG_THREADS, cuda, *r, *m);
}

/* ---- random numbers: core/random.c --------------------------------------------- */

static __device__ __forceinline__ uint64_t
mix(uint64_t z)
{
	z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
	return z ^ (z >> 31);
}

static __device__ __forceinline__ uint64_t
absorb(uint64_t state, uint64_t word)
{
	return mix(state + UINT64_C(0x9E3779B97F4A7C15) +
			   word * UINT64_C(0xD1342543DE82EF95));
}

static __device__ uint64_t
random_u64(uint64_t seed, uint64_t step, uint64_t position,
		   EngRandomUse use, uint64_t counter)
{
	uint64_t	state = mix(seed + UINT64_C(0x9E3779B97F4A7C15));

	state = absorb(state, step);
	state = absorb(state, position);
	state = absorb(state, (uint64_t) use);
	return absorb(state, counter);
}

static __device__ __forceinline__ uint32_t
twist(uint32_t high, uint32_t low)
{
	uint32_t	y = (high & UINT32_C(0x80000000)) |
		(low & UINT32_C(0x7FFFFFFF));

	return (y >> 1) ^ ((y & 1) ? UINT32_C(0x9908B0DF) : 0);
}

/* Pass over the next count numbers; afterwards next is at least 1. */
static __device__ void
mt19937_skip(EngMt19937 *mt, int32_t count)
{
	const int	words = ENG_MT19937_WORDS;

	for (; count > words - mt->next; mt->next = 0)
	{
		count -= words - mt->next;
		for (int i = 0; i < words; i++)
			mt->state[i] = mt->state[(i + ENG_MT19937_SHIFT) % words] ^
				twist(mt->state[i], mt->state[(i + 1) % words]);
	}
	mt->next += count;
}

static __device__ uint32_t
mt19937_u32(EngMt19937 *mt)
{
	uint32_t	y;

	mt19937_skip(mt, 1);
	y = mt->state[mt->next - 1];
	y ^= y >> 11;
	y ^= (y << 7) & UINT32_C(0x9D2C5680);
	y ^= (y << 15) & UINT32_C(0xEFC60000);
	return y ^ (y >> 18);
}

/* ---- sampling ------------------------------------------------------------------ */

/* Matches of an image to sample from. */
struct Sampling
{
	const int32_t *match;		/* (n), match_step from the next image's */
	int64_t		match_step;
	const int32_t *counts;		/* of each image, or NULL: n */
	int32_t		n;
	int32_t    *list;			/* (2, list_step) an image */
	int64_t		list_step;
	int32_t    *sampled;		/* (2, batch_size) an image */
	int32_t    *sampled_count;	/* (2) an image */
	EngSampleRule rule;
	EngRandomUse use;
};

/*
 * Sum of value over the threads before this one; *all: over all.  shared
 * has room for two numbers a thread.
 */
static __device__ int32_t
sum_before(int32_t value, int32_t *shared, int32_t *all)
{
	int32_t    *from = shared;
	int32_t    *to = shared + blockDim.x;
	int32_t		sum;

	__syncthreads();
	from[threadIdx.x] = value;
	__syncthreads();
	for (unsigned step = 1; step < blockDim.x; step *= 2)
	{
		int32_t    *swap = from;

		to[threadIdx.x] = from[threadIdx.x] +
			(threadIdx.x >= step ? from[threadIdx.x - step] : 0);
		__syncthreads();
		from = to;
		to = swap;
	}
	*all = from[blockDim.x - 1];
	sum = from[threadIdx.x] - value;
	__syncthreads();
	return sum;
}

static __device__ __forceinline__ bool
belongs(int32_t match, int side)
{
	return side == 0 ? match >= 0 : match == ENG_MATCH_BACKGROUND;
}

/* Indices of one side, ascending; returns how many. */
static __device__ int32_t
list_side(int32_t *list, const int32_t *match, int32_t n, int side,
		  int32_t *shared)
{
	int32_t		total = 0;

	for (int32_t first = 0; first < n; first += EACH * (int32_t) blockDim.x)
	{
		int32_t		mine = first + EACH * (int32_t) threadIdx.x;
		int32_t		count = 0;
		int32_t		place;
		int32_t		all;

		for (int32_t i = mine; i < mine + EACH && i < n; i++)
			count += belongs(match[i], side);
		place = total + sum_before(count, shared, &all);
		for (int32_t i = mine; i < mine + EACH && i < n; i++)
			if (belongs(match[i], side))
				list[place++] = i;
		total += all;
	}
	__syncthreads();
	return total;
}

/*
 * The first steps of a shuffle, whose random numbers are drawn by all
 * threads and whose swaps are made by one.
 */
static __device__ void
shuffle(int32_t *list, int32_t n, int32_t k, const EngCudaBatch *batch,
		uint64_t position, EngRandomUse use, int side, int32_t *shared)
{
	for (int32_t i = threadIdx.x; i < k; i += blockDim.x)
	{
		uint64_t	bits = random_u64(batch->seed, batch->step, position, use,
									  ((uint64_t) side << 32) + (uint64_t) i);

		shared[i] = i + (int32_t) (((bits >> 32) * (uint32_t) (n - i)) >> 32);
	}
	__syncthreads();
	for (int32_t i = 0; threadIdx.x == 0 && i < k; i++)
	{
		int32_t		t = list[i];

		list[i] = list[shared[i]];
		list[shared[i]] = t;
	}
	__syncthreads();
}

/*
 * The first k steps of torch's permutation of n, by one thread.  What it
 * draws for the others is skipped: they move nothing that is taken.
 */
static __device__ void
shuffle_as_torch(int32_t *list, int32_t n, int32_t k, EngMt19937 *mt)
{
	int32_t		draws = n > 0 ? n - 1 : 0;
	int32_t		i;

	__syncthreads();
	for (i = 0; threadIdx.x == 0 && i < k && i < draws; i++)
	{
		int32_t		j = i + (int32_t) (mt19937_u32(mt) % (uint32_t) (n - i));
		int32_t		t = list[i];

		list[i] = list[j];
		list[j] = t;
	}
	if (threadIdx.x == 0)
		mt19937_skip(mt, draws - i);
	__syncthreads();
}

/* The first k of a list, ascending, into out. */
static __device__ void
put_sorted(int32_t *out, const int32_t *list, int32_t k, uint64_t *shared)
{
	int32_t		all = power_of_two(k);

	for (int32_t i = threadIdx.x; i < all; i += blockDim.x)
		shared[i] = i < k ? (uint64_t) list[i] : UINT64_MAX;
	sort_network(shared, all);
	for (int32_t i = threadIdx.x; i < k; i += blockDim.x)
		out[i] = (int32_t) shared[i];
	__syncthreads();
}

/*
 * Sample from one image by all threads of a block.  mt: torch's generator in
 * shared memory; NULL: the counter's numbers.
 */
static __device__ void
sample_image(const EngCudaRegions &r, const Sampling &s, int32_t image,
			 EngMt19937 *mt, uint64_t *shared)
{
	const int32_t *match = s.match + image * s.match_step;
	int32_t		n = s.counts != NULL ? s.counts[image] : s.n;
	int32_t		found[2];
	int32_t		take[2];

	for (int side = 0; side < 2; side++)
		found[side] = list_side(s.list + (2 * image + side) * s.list_step,
								match, n, side, (int32_t *) shared);
	take[0] = (int32_t) (s.rule.batch_size * s.rule.positive_fraction);
	if (take[0] > found[0])
		take[0] = found[0];
	take[1] = s.rule.batch_size - take[0];
	if (take[1] > found[1])
		take[1] = found[1];
	for (int side = 0; side < 2; side++)
	{
		int32_t    *list = s.list + (2 * image + side) * s.list_step;

		if (mt != NULL)
			shuffle_as_torch(list, found[side], take[side], mt);
		else if (take[side] < found[side])
			shuffle(list, found[side], take[side], r.batch,
					r.image[image].position, s.use, side, (int32_t *) shared);
		put_sorted(s.sampled + (int64_t) (2 * image + side) *
				   s.rule.batch_size, list, take[side], shared);
		if (threadIdx.x == 0)
			s.sampled_count[2 * image + side] = take[side];
	}
}

static __global__ void __launch_bounds__(LIST_THREADS)
sample_kernel(EngCudaRegions r, Sampling s)
{
	__shared__ uint64_t shared[MOST_SAMPLED];

	sample_image(r, s, blockIdx.x, NULL, shared);
}

/* One generator for all images, which are gone through in order. */
static __global__ void __launch_bounds__(LIST_THREADS)
sample_as_torch_kernel(EngCudaRegions r, Sampling s)
{
	__shared__ uint64_t shared[MOST_SAMPLED];
	__shared__ EngMt19937 mt;

	if (threadIdx.x == 0)
		mt = *r.mt;
	for (int32_t image = 0; image < r.images; image++)
		sample_image(r, s, image, &mt, shared);
	if (threadIdx.x == 0)
		*r.mt = mt;
}

static void
sample(EngCuda *cuda, const EngCudaRegions *r, const Sampling *s,
	   bool as_torch)
{
	if (as_torch)
		ENG_LAUNCH_MEETING(sample_as_torch_kernel, 1, LIST_THREADS, cuda, *r,
						   *s);
	else
		ENG_LAUNCH_MEETING(sample_kernel, r->images, LIST_THREADS, cuda, *r,
						   *s);
}

/* ---- anchors -------------------------------------------------------------------- */

void
eng_cuda_rpn_match(EngCuda *cuda, const EngCudaRegions *r)
{
	Matching	m = {};

	m.boxes = r->anchors;
	m.n = r->pyramid.first[ENG_RPN_LEVELS];
	m.match = r->match;
	m.best = r->best;
	m.match_step = m.n;
	m.rule = r->rpn_match;
	match(cuda, r, &m);
}

void
eng_cuda_rpn_sample(EngCuda *cuda, const EngCudaRegions *r, bool as_torch)
{
	Sampling	s = {};

	s.match = r->match;
	s.n = r->pyramid.first[ENG_RPN_LEVELS];
	s.match_step = s.n;
	s.list = r->list;
	s.list_step = r->list_room;
	s.sampled = r->rpn_sampled;
	s.sampled_count = r->rpn_sampled_count;
	s.rule = r->rpn_sample;
	s.use = ENG_USE_RPN_SAMPLE;
	sample(cuda, r, &s, as_torch);
}

/* ---- RoIs ----------------------------------------------------------------------- */

/* Proposals, then the ground truth. */
static __global__ void
candidates_kernel(EngCudaRegions r)
{
	int32_t		image = blockIdx.y;
	int32_t		i = blockIdx.x * blockDim.x + threadIdx.x;
	int32_t		proposals = r.proposal_count[image];
	int32_t		all = proposals + r.image[image].truth_count;
	const float *from = i < proposals ?
		r.proposals + ((int64_t) image * r.post_top_n + i) * 4 :
		r.truth_boxes + 4 * (int64_t) (r.image[image].truth_first + i -
									   proposals);

	if (i == 0)
		r.roi_candidate_count[image] = all;
	for (int c = 0; i < all && c < 4; c++)
		r.roi_candidates[((int64_t) image * r.roi_room + i) * 4 + c] =
			from[c];
}

void
eng_cuda_roi_match(EngCuda *cuda, const EngCudaRegions *r)
{
	dim3		blocks(blocks_for(r->roi_room, ENG_THREADS), r->images);
	Matching	m = {};

	ENG_LAUNCH(candidates_kernel, blocks, ENG_THREADS, cuda, *r);
	m.boxes = r->roi_candidates;
	m.image_step = 4 * (int64_t) r->roi_room;
	m.counts = r->roi_candidate_count;
	m.n = r->roi_room;
	m.match = r->roi_match_of;
	m.best = r->best;
	m.match_step = r->roi_room;
	m.rule = r->roi_match;
	match(cuda, r, &m);
}

void
eng_cuda_roi_sample(EngCuda *cuda, const EngCudaRegions *r, bool as_torch)
{
	Sampling	s = {};

	s.match = r->roi_match_of;
	s.match_step = r->roi_room;
	s.counts = r->roi_candidate_count;
	s.n = r->roi_room;
	s.list = r->list;
	s.list_step = r->list_room;
	s.sampled = r->roi_sampled;
	s.sampled_count = r->roi_sampled_count;
	s.rule = r->roi_sample;
	s.use = ENG_USE_ROI_SAMPLE;
	sample(cuda, r, &s, as_torch);
}

/* Row `row` of all becomes candidate `index` of an image. */
static __device__ void
put_row(const EngCudaRegions &r, int32_t row, int32_t image, int32_t index)
{
	const EngCudaImage &of = r.image[image];
	const float *box = r.roi_candidates +
		((int64_t) image * r.roi_room + index) * 4;
	int32_t		match = r.roi_match_of[(int64_t) image * r.roi_room + index];
	float		none[4] = {0.0f, 0.0f, 0.0f, 0.0f};
	const float *target = none;

	/* unmatched candidates are encoded against box 0, as torchvision does */
	if (of.truth_count > 0)
		target = r.truth_boxes +
			4 * (int64_t) (of.truth_first + (match > 0 ? match : 0));
	for (int c = 0; c < 4; c++)
		r.roi_boxes[4 * (int64_t) row + c] = box[c];
	r.roi_labels[row] = match >= 0 ?
		r.truth_labels[of.truth_first + match] : 0;
	box_encode(r.roi_targets + 4 * (int64_t) row, target, box,
			   r.roi_weights);
	r.roi_image[row] = image;
	r.roi_level[row] = box_level(box);
}

static __device__ void
clear_row(const EngCudaRegions &r, int32_t row)
{
	for (int c = 0; c < 4; c++)
	{
		r.roi_boxes[4 * (int64_t) row + c] = 0.0f;
		r.roi_targets[4 * (int64_t) row + c] = 0.0f;
	}
	r.roi_labels[row] = -1;
	r.roi_image[row] = -1;
	r.roi_level[row] = 0;
}

/* Samples of the images before this one. */
static __device__ int32_t
rows_before(const int32_t *count, int32_t image)
{
	int32_t		rows = 0;

	for (int32_t i = 0; i < 2 * image; i++)
		rows += count[i];
	return rows;
}

static __global__ void
rows_kernel(EngCudaRegions r)
{
	int32_t		image = blockIdx.x;
	int32_t		batch = r.roi_sample.batch_size;
	int32_t		row = rows_before(r.roi_sampled_count, image);
	const int32_t *sampled = r.roi_sampled + (int64_t) 2 * image * batch;
	const int32_t *count = r.roi_sampled_count + 2 * image;

	/* both sides ascend, and so do the rows that they make together */
	for (int side = 0; side < 2; side++)
		for (int32_t i = threadIdx.x; i < count[side]; i += blockDim.x)
		{
			int32_t		index = sampled[side * batch + i];

			put_row(r, row + i + count_less(sampled + (1 - side) * batch,
											count[1 - side], index), image,
					index);
		}
	if (image + 1 < r.images)
		return;
	row += count[0] + count[1];
	if (threadIdx.x == 0)
		*r.live = row;
	for (row += threadIdx.x; row < r.rows; row += blockDim.x)
		clear_row(r, row);
}

void
eng_cuda_roi_rows(EngCuda *cuda, const EngCudaRegions *r)
{
	ENG_LAUNCH(rows_kernel, r->images, ENG_THREADS, cuda, *r);
}
