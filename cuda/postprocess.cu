/*
 * cuda/postprocess.cu
 *		From the outputs of the RoI heads to detections.
 *
 * As ops/postprocess.c.  What passes is put into a list of its image and
 * class, in whatever order, and sorted there; then a block a list
 * suppresses, and the lists of an image are merged by score.
 */
#include "cuda/boxes.h"
#include "cuda/suppress.h"

#define SUPPRESS_THREADS 256
#define AUTO_LIMIT		1000	/* torchvision's switch on a CPU */

/* ---- the proposals as RoIs ------------------------------------------------------ */

static __device__ int32_t
proposals_before(const EngCudaRegions &r, int32_t image)
{
	int32_t		sum = 0;

	for (int32_t i = 0; i < image; i++)
		sum += r.proposal_count[i];
	return sum;
}

static __global__ void
pack_kernel(EngCudaRegions r)
{
	int32_t		image = blockIdx.x;
	int32_t		first = proposals_before(r, image);
	int32_t		count = r.proposal_count[image];

	for (int32_t i = threadIdx.x; i < count; i += blockDim.x)
	{
		const float *box = r.proposals +
			((int64_t) image * r.post_top_n + i) * 4;

		for (int c = 0; c < 4; c++)
			r.roi_boxes[4 * (int64_t) (first + i) + c] = box[c];
		r.roi_image[first + i] = image;
		r.roi_level[first + i] = box_level(box);
	}
	if (image + 1 < r.images)
		return;
	first += count;
	if (threadIdx.x == 0)
		*r.live = first;
	for (int32_t row = first + threadIdx.x; row < r.rows; row += blockDim.x)
	{
		for (int c = 0; c < 4; c++)
			r.roi_boxes[4 * (int64_t) row + c] = 0.0f;
		r.roi_image[row] = -1;
		r.roi_level[row] = 0;
	}
}

void
eng_cuda_pack_proposals(EngCuda *cuda, const EngCudaRegions *r)
{
	ENG_LAUNCH(pack_kernel, r->images, ENG_THREADS, cuda, *r);
}

/* ---- candidates ----------------------------------------------------------------- */

static __device__ void
put_candidate(const EngCudaRegions &r, int32_t image, int32_t c, int32_t i,
			  float score, const float *delta, const float *proposal)
{
	int64_t		list = (int64_t) image * (r.classes - 1) + c - 1;
	float		box[4];
	float		far;

	box_decode(box, delta, proposal, r.post.weights, r.image[image].resized);
	if (!(box[2] - box[0] >= r.post.min_size &&
		  box[3] - box[1] >= r.post.min_size))
		return;
	far = box[2] > box[3] ? box[2] : box[3];
	r.found[list * r.found_places + atomicAdd(&r.found_count[list], 1)] =
		(uint64_t) falling_key(score) << 32 | (uint32_t) i;
	for (int k = 0; k < 4; k++)
		r.found_boxes[(list * r.rois_per_image + i) * 4 + k] = box[k];
	r.found_scores[list * r.rois_per_image + i] = score;
	atomicMax(&r.high[image], __float_as_uint(far));
}

/* A thread has one RoI. */
static __global__ void
candidates_kernel(EngCudaRegions r, const float *logits, const float *deltas)
{
	int32_t		image = blockIdx.y;
	int32_t		i = blockIdx.x * blockDim.x + threadIdx.x;
	int64_t		row;
	const float *x;
	float		high;
	double		sum = 0.0;

	if (i >= r.proposal_count[image])
		return;
	row = proposals_before(r, image) + i;
	x = logits + row * r.classes;
	high = x[0];
	for (int32_t c = 1; c < r.classes; c++)
		high = x[c] > high ? x[c] : high;
	for (int32_t c = 0; c < r.classes; c++)
		sum += expf(x[c] - high);
	for (int32_t c = 1; c < r.classes; c++)
	{
		float		score = (float) (expf(x[c] - high) / sum);

		if (score > r.post.score_threshold)
			put_candidate(r, image, c, i, score,
						  deltas + 4 * (row * r.classes + c),
						  r.roi_boxes + 4 * row);
	}
}

/* ---- suppression ------------------------------------------------------------------ */

static __global__ void
suppress_kernel(EngCudaRegions r)
{
	__shared__ uint64_t shared[SHARED_ITEMS];
	int32_t		c = blockIdx.x;
	int32_t		image = blockIdx.y;
	int64_t		lists = (int64_t) image * (r.classes - 1);
	int64_t		list = lists + c;
	uint64_t   *items = r.found + list * r.found_places;
	EngNmsKind	kind = r.post.nms;
	int32_t		all = 0;
	int32_t		count;
	Suppression s;

	for (int32_t i = 0; kind == ENG_NMS_AUTO && i < r.classes - 1; i++)
		all += r.found_count[lists + i];
	if (kind == ENG_NMS_AUTO)
		kind = all > AUTO_LIMIT ? ENG_NMS_LOOP : ENG_NMS_OFFSET;
	s.n = r.found_count[list];
	sort_items(items, s.n, shared);
	s.items = items;
	s.boxes = r.found_boxes + list * r.rois_per_image * 4;
	s.offset = kind == ENG_NMS_OFFSET ?
		(float) (c + 1) * (__uint_as_float(r.high[image]) + 1.0f) : 0.0f;
	s.least = r.post_least;
	s.limit = r.detections;
	s.keep = r.found_keep + list * r.rois_per_image;
	s.kept = r.found_kept + list * r.rois_per_image * 5;
	count = suppress(s);
	/* kept ones move to the front, highest score first */
	for (int32_t first = 0; first < count; first += blockDim.x)
	{
		int32_t		i = first + threadIdx.x;
		uint64_t	item = i < count ? items[s.keep[i]] : 0;

		__syncthreads();
		if (i < count)
			items[i] = item;
	}
	__syncthreads();
	if (threadIdx.x == 0)
		r.found_kept_count[list] = count;
}

/* As the host orders equal scores: by RoI, then by class. */
static __device__ __forceinline__ uint64_t
order_of(uint64_t item, int32_t classes, int32_t c)
{
	return (item & ~(uint64_t) UINT32_MAX) |
		((uint32_t) item * (uint32_t) (classes - 1) + (uint32_t) c);
}

static __device__ int32_t
count_before(const uint64_t *items, int32_t n, int32_t classes, int32_t c,
			 uint64_t order)
{
	int32_t		low = 0;

	while (n > 0)
	{
		int32_t		half = n / 2;

		if (order_of(items[low + half], classes, c) < order)
		{
			low += half + 1;
			n -= half + 1;
		}
		else
			n = half;
	}
	return low;
}

static __global__ void
merge_kernel(EngCudaRegions r)
{
	int32_t		image = blockIdx.x;
	int32_t		classes = r.classes - 1;
	int64_t		lists = (int64_t) image * classes;
	EngSize		from = r.image[image].resized;
	EngSize		to = r.image[image].original;
	float		x = (float) to.width / (float) from.width;
	float		y = (float) to.height / (float) from.height;
	int32_t		all = 0;

	for (int32_t c = 0; c < classes; c++)
	{
		const uint64_t *items = r.found + (lists + c) * r.found_places;
		int32_t		count = r.found_kept_count[lists + c];

		all += count;
		for (int32_t i = threadIdx.x; i < count; i += blockDim.x)
		{
			uint64_t	order = order_of(items[i], classes, c);
			int64_t		place = (lists + c) * r.rois_per_image +
				(uint32_t) items[i];
			int64_t		rank = 0;

			for (int32_t other = 0; other < classes; other++)
				rank += count_before(r.found +
									 (lists + other) * r.found_places,
									 r.found_kept_count[lists + other],
									 classes, other, order);
			if (rank >= r.detections)
				continue;
			rank += (int64_t) image * r.detections;
			for (int k = 0; k < 4; k++)
				r.detection_boxes[4 * rank + k] =
					r.found_boxes[4 * place + k] * (k % 2 == 0 ? x : y);
			r.detection_scores[rank] = r.found_scores[place];
			r.detection_labels[rank] = c + 1;
		}
	}
	if (threadIdx.x == 0)
		r.detection_count[image] = all < r.detections ? all : r.detections;
}

void
eng_cuda_postprocess(EngCuda *cuda, const EngCudaRegions *r,
					 const float *logits, const float *deltas)
{
	int32_t		classes = r->classes - 1;
	dim3		rows(blocks_for(r->rois_per_image, 64), r->images);
	dim3		lists(classes, r->images);

	eng_device_zero(cuda, r->found_count,
					sizeof(int32_t) * r->images * classes);
	eng_device_zero(cuda, r->high, sizeof(uint32_t) * r->images);
	ENG_LAUNCH(candidates_kernel, rows, 64, cuda, *r, logits, deltas);
	ENG_LAUNCH_MEETING(suppress_kernel, lists, SUPPRESS_THREADS, cuda, *r);
	ENG_LAUNCH(merge_kernel, r->images, ENG_THREADS, cuda, *r);
}
