/*
 * cuda/proposals.cu
 *		From the maps of the region proposal network to proposals.
 *
 * As ops/proposals.c.  A block takes one level of one image: it finds the
 * best logits by their digits, decodes their anchors and sorts what passes;
 * then another suppresses, and the levels of an image are merged.  An
 * image's levels never overlap in either kind of suppression, as they are
 * taken apart or moved apart.
 */
#include "cuda/boxes.h"
#include "cuda/suppress.h"

#define DIGIT_BITS		11
#define DIGITS			(1 << DIGIT_BITS)
#define GROUP			32		/* digits that are added up together */
#define SUPPRESS_THREADS 512
#define AUTO_LIMIT		1000	/* torchvision's switch on a CPU */

static __device__ __forceinline__ uint64_t
logit_item(const float *logits, int32_t i)
{
	return (uint64_t) falling_key(logits[i]) << 32 | (uint32_t) i;
}

/* Digit of items below which fewer than k of them lie; *k loses those. */
struct DigitCounts
{
	uint32_t	count[DIGITS];
	uint32_t	group[DIGITS / GROUP];
	uint32_t	digit;
	uint32_t	before;
	uint32_t	same;			/* items of that digit */
};

static __device__ void
find_digit(DigitCounts *d, int32_t k)
{
	__syncthreads();
	for (int32_t g = threadIdx.x; g < DIGITS / GROUP; g += blockDim.x)
	{
		d->group[g] = 0;
		for (int32_t i = 0; i < GROUP; i++)
			d->group[g] += d->count[g * GROUP + i];
	}
	__syncthreads();
	if (threadIdx.x == 0)
	{
		uint32_t	before = 0;
		int32_t		g = 0;
		int32_t		i;

		while (before + d->group[g] < (uint32_t) k)
			before += d->group[g++];
		i = g * GROUP;
		while (before + d->count[i] < (uint32_t) k)
			before += d->count[i++];
		d->digit = (uint32_t) i;
		d->before = before;
		d->same = d->count[i];
	}
	__syncthreads();
}

/*
 * The k-th smallest of the n items of the logits, 1 <= k <= n; or what lies
 * between it and the next.
 */
static __device__ uint64_t
find_cut(DigitCounts *d, const float *logits, int32_t n, int32_t k)
{
	uint64_t	prefix = 0;
	int			done = 0;		/* bits fixed, from the top */

	while (done < 64)
	{
		int			bits = 64 - done < DIGIT_BITS ? 64 - done : DIGIT_BITS;
		int			shift = 64 - done - bits;

		for (int32_t i = threadIdx.x; i < DIGITS; i += blockDim.x)
			d->count[i] = 0;
		__syncthreads();
		for (int32_t i = threadIdx.x; i < n; i += blockDim.x)
		{
			uint64_t	item = logit_item(logits, i);

			if (done == 0 || item >> (64 - done) == prefix)
				atomicAdd(&d->count[(uint32_t) (item >> shift) &
									((1u << bits) - 1)], 1u);
		}
		find_digit(d, k);
		k -= (int32_t) d->before;
		prefix = prefix << bits | d->digit;
		done += bits;
		/* all that begin like this are wanted */
		if (d->same == (uint32_t) k)
			break;
	}
	return done == 64 ? prefix :
		prefix << (64 - done) | ((UINT64_C(1) << (64 - done)) - 1);
}

/* The best candidates of a level in order: items, by logit and anchor. */
static __device__ int32_t
select_best(uint64_t *items, const float *logits, int32_t n, int32_t most,
			uint64_t *shared)
{
	__shared__ int32_t found;
	int32_t		k = n < most ? n : most;
	uint64_t	cut = UINT64_MAX;

	if (k < n)
		cut = find_cut((DigitCounts *) shared, logits, n, k);
	if (threadIdx.x == 0)
		found = 0;
	__syncthreads();
	/* they come in any order, and are put into the one there is */
	for (int32_t i = threadIdx.x; i < n; i += blockDim.x)
	{
		uint64_t	item = logit_item(logits, i);

		if (item <= cut)
			items[atomicAdd(&found, 1)] = item;
	}
	sort_items(items, k, shared);
	return k;
}

static __global__ void __launch_bounds__(LIST_THREADS)
level_kernel(EngCudaRegions r, EngRpnMaps maps)
{
	__shared__ uint64_t shared[SHARED_ITEMS];
	__shared__ int32_t valid;
	__shared__ uint32_t high;
	int32_t		level = blockIdx.x;
	int32_t		image = blockIdx.y;
	int32_t		n = r.pyramid.first[level + 1] - r.pyramid.first[level];
	const float *logits = maps.logits[level] + (int64_t) n * image;
	const float *deltas = maps.deltas[level] + (int64_t) n * image * 4;
	const float *anchors = r.anchors + 4 * (int64_t) r.pyramid.first[level];
	int64_t		list = (int64_t) image * ENG_RPN_LEVELS + level;
	uint64_t   *items = r.items + list * r.places;
	const float one[4] = {1.0f, 1.0f, 1.0f, 1.0f};
	int32_t		k = select_best(items, logits, n, r.proposal.pre_nms_top_n,
								shared);

	if (threadIdx.x == 0)
	{
		valid = 0;
		high = 0;
	}
	__syncthreads();
	for (int32_t i = threadIdx.x; i < k; i += blockDim.x)
	{
		int64_t		anchor = (int64_t) (uint32_t) items[i];
		float		score = 1.0f / (1.0f + expf(-logits[anchor]));
		float		box[4];
		uint64_t	item = UINT64_MAX;

		box_decode(box, deltas + 4 * anchor, anchors + 4 * anchor, one,
				   r.image[image].resized);
		if (box[2] - box[0] >= r.proposal.min_size &&
			box[3] - box[1] >= r.proposal.min_size &&
			score >= r.proposal.score_threshold)
		{
			float		far = box[2] > box[3] ? box[2] : box[3];

			item = (uint64_t) falling_key(score) << 32 | (uint32_t) i;
			atomicAdd(&valid, 1);
			atomicMax(&high, __float_as_uint(far));
		}
		items[i] = item;
		for (int c = 0; c < 4; c++)
			r.boxes[(list * r.candidates + i) * 4 + c] = box[c];
		r.scores[list * r.candidates + i] = score;
	}
	sort_items(items, k, shared);
	if (threadIdx.x == 0)
	{
		r.item_count[list] = valid;
		atomicMax(&r.high[image], high);
	}
}

static __global__ void __launch_bounds__(SUPPRESS_THREADS)
suppress_kernel(EngCudaRegions r)
{
	int32_t		level = blockIdx.x;
	int32_t		image = blockIdx.y;
	int64_t		list = (int64_t) image * ENG_RPN_LEVELS + level;
	const uint64_t *items = r.items + list * r.places;
	uint64_t   *kept = r.kept + list * r.candidates;
	EngNmsKind	kind = r.proposal.nms;
	int32_t		all = 0;
	int32_t		count;
	Suppression s;

	for (int32_t l = 0; l < ENG_RPN_LEVELS; l++)
		all += r.item_count[image * ENG_RPN_LEVELS + l];
	if (kind == ENG_NMS_AUTO)
		kind = all > AUTO_LIMIT ? ENG_NMS_LOOP : ENG_NMS_OFFSET;
	s.items = items;
	s.boxes = r.boxes + list * r.candidates * 4;
	s.offset = kind == ENG_NMS_OFFSET ?
		(float) level * (__uint_as_float(r.high[image]) + 1.0f) : 0.0f;
	s.least = r.proposal_least;
	s.n = r.item_count[list];
	s.limit = r.proposal.post_nms_top_n;
	/* places first, in what then becomes the list of kept items */
	s.keep = (int32_t *) kept;
	s.kept = r.kept_boxes + list * r.candidates * 5;
	count = suppress(s);
	/* from the end, so that no place is overwritten before it is read */
	for (int32_t first = (count - 1) / (int32_t) blockDim.x *
		 (int32_t) blockDim.x; first >= 0; first -= blockDim.x)
	{
		int32_t		i = first + threadIdx.x;
		uint64_t	item = i < count ? items[s.keep[i]] : 0;

		__syncthreads();
		if (i < count)
			kept[i] = (item & ~(uint64_t) UINT32_MAX) |
				((uint32_t) item + (uint32_t) (level * r.candidates));
		__syncthreads();
	}
	if (threadIdx.x == 0)
		r.kept_count[list] = count;
}

/* Place of a level's kept boxes among all of the image. */
static __global__ void __launch_bounds__(LIST_THREADS)
merge_kernel(EngCudaRegions r)
{
	int32_t		image = blockIdx.x;
	int64_t		lists = (int64_t) image * ENG_RPN_LEVELS;
	float	   *boxes = r.proposals + (int64_t) image * r.post_top_n * 4;
	float	   *scores = r.objectness + (int64_t) image * r.post_top_n;
	int32_t		all = 0;

	for (int32_t level = 0; level < ENG_RPN_LEVELS; level++)
		all += r.kept_count[lists + level];
	if (all > r.post_top_n)
		all = r.post_top_n;
	for (int32_t level = 0; level < ENG_RPN_LEVELS; level++)
	{
		const uint64_t *kept = r.kept + (lists + level) * r.candidates;

		for (int32_t i = threadIdx.x; i < r.kept_count[lists + level];
			 i += blockDim.x)
		{
			int32_t		rank = i;
			int64_t		from = lists * r.candidates + (uint32_t) kept[i];

			for (int32_t l = 0; l < ENG_RPN_LEVELS; l++)
				if (l != level)
					rank += count_less(r.kept + (lists + l) * r.candidates,
									   r.kept_count[lists + l], kept[i]);
			if (rank >= r.post_top_n)
				continue;
			for (int c = 0; c < 4; c++)
				boxes[4 * rank + c] = r.boxes[4 * from + c];
			scores[rank] = r.scores[from];
		}
	}
	for (int32_t i = all + threadIdx.x; i < r.post_top_n; i += blockDim.x)
	{
		for (int c = 0; c < 4; c++)
			boxes[4 * i + c] = 0.0f;
		scores[i] = 0.0f;
	}
	if (threadIdx.x == 0)
		r.proposal_count[image] = all;
}

void
eng_cuda_proposals(EngCuda *cuda, const EngCudaRegions *r,
				   const EngRpnMaps *maps)
{
	dim3		levels(ENG_RPN_LEVELS, r->images);

	eng_device_zero(cuda, r->high, sizeof(uint32_t) * r->images);
	ENG_LAUNCH_MEETING(level_kernel, levels, LIST_THREADS, cuda, *r, *maps);
	ENG_LAUNCH_MEETING(suppress_kernel, levels, SUPPRESS_THREADS, cuda, *r);
	ENG_LAUNCH(merge_kernel, r->images, LIST_THREADS, cuda, *r);
}
