/*
 * cuda/losses.cu
 *		The four losses of the detector and their gradients.
 *
 * As ops/detection_loss.c: terms and sums in double.  One block adds up a
 * loss, in an order that depends on nothing but the shape; there are few
 * terms.
 */
#include "cuda/boxes.h"
#include "cuda/loss_scale.h"

#define BETA (1.0 / 9.0)		/* where smooth L1 turns from square to line */

static __device__ double
cross_entropy_logit(double x, double y)
{
	return (x > 0.0 ? x : 0.0) - x * y + log1p(exp(-fabs(x)));
}

static __device__ double
sigmoid(double x)
{
	double		e = exp(-fabs(x));

	return x >= 0.0 ? 1.0 / (1.0 + e) : e / (1.0 + e);
}

static __device__ double
smooth_l1(double d)
{
	double		a = fabs(d);

	return a < BETA ? 0.5 * a * a / BETA : a - 0.5 * BETA;
}

static __device__ double
smooth_l1_slope(double d)
{
	if (fabs(d) < BETA)
		return d / BETA;
	return d > 0.0 ? 1.0 : -1.0;
}

/* Sums of two numbers over a block's LIST_THREADS threads. */
static __device__ void
block_sums(double *a, double *b)
{
	__shared__ double shared[2][LIST_THREADS];

	shared[0][threadIdx.x] = *a;
	shared[1][threadIdx.x] = *b;
	for (int step = LIST_THREADS / 2; step > 0; step /= 2)
	{
		__syncthreads();
		if ((int) threadIdx.x >= step)
			continue;
		shared[0][threadIdx.x] += shared[0][threadIdx.x + step];
		shared[1][threadIdx.x] += shared[1][threadIdx.x + step];
	}
	__syncthreads();
	*a = shared[0][0];
	*b = shared[1][0];
}

/*
 * Two sums and what they are divided by, of all ranks: the losses.
 */
static __global__ void
shared_loss(float *loss, const double *sums)
{
	for (int i = 0; i < 2; i++)
		loss[i] = sums[2] > 0 ? (float) (sums[i] / sums[2]) : 0.0f;
}

static void
sum_over_ranks(EngCuda *cuda, float *loss, double *sums)
{
	if (cuda->ranks == NULL)
		return;
	eng_cuda_all_reduce(cuda, sums, 3, ENG_SUM_F64);
	ENG_LAUNCH(shared_loss, 1, 1, cuda, loss, sums);
}

void
eng_cuda_no_rpn_loss(EngCuda *cuda)
{
	eng_device_zero(cuda, cuda->step->rpn_sums, sizeof(double) * 3);
	sum_over_ranks(cuda, cuda->step->rpn_loss, cuda->step->rpn_sums);
}

void
eng_cuda_no_roi_loss(EngCuda *cuda)
{
	eng_device_zero(cuda, cuda->step->roi_sums, sizeof(double) * 3);
	sum_over_ranks(cuda, cuda->step->roi_loss, cuda->step->roi_sums);
}

/* ---- region proposals -------------------------------------------------------- */

/* Element of an anchor in its level's maps. */
struct AnchorPlace
{
	int32_t		level;
	int64_t		index;			/* among the anchors of all images */
};

static __device__ AnchorPlace
anchor_place(const EngPyramid &pyramid, int32_t image, int32_t anchor)
{
	AnchorPlace place;

	place.level = 0;
	while (anchor >= pyramid.first[place.level + 1])
		place.level++;
	place.index = (int64_t) image * (pyramid.first[place.level + 1] -
									 pyramid.first[place.level]) +
		anchor - pyramid.first[place.level];
	return place;
}

/* Sampled anchors of all images. */
static __device__ int32_t
all_sampled(const EngCudaRegions &r)
{
	int32_t		sum = 0;

	for (int32_t i = 0; i < 2 * r.images; i++)
		sum += r.rpn_sampled_count[i];
	return sum;
}

/* One sampled anchor; dlogits NULL: the losses alone. */
static __device__ void
add_anchor(double sum[2], const EngCudaRegions &r, const EngRpnMaps &maps,
		   const EngRpnGradients &gradients, int32_t image, int32_t anchor,
		   int side, double factor)
{
	AnchorPlace at = anchor_place(r.pyramid, image, anchor);
	double		x = maps.logits[at.level][at.index];
	double		target = side == 0 ? 1.0 : 0.0;
	const float one[4] = {1.0f, 1.0f, 1.0f, 1.0f};
	int32_t		match;
	float		encoded[4];

	sum[0] += cross_entropy_logit(x, target);
	if (gradients.logits[0] != NULL)
		gradients.logits[at.level][at.index] =
			(float) (factor * (sigmoid(x) - target));
	if (side != 0)
		return;
	match = r.match[(int64_t) image * r.pyramid.first[ENG_RPN_LEVELS] +
					anchor];
	box_encode(encoded, r.truth_boxes +
			   4 * (int64_t) (r.image[image].truth_first +
							  (match > 0 ? match : 0)),
			   r.anchors + 4 * (int64_t) anchor, one);
	for (int c = 0; c < 4; c++)
	{
		double		d = (double) maps.deltas[at.level][4 * at.index + c] -
			encoded[c];

		sum[1] += smooth_l1(d);
		if (gradients.logits[0] != NULL)
			gradients.deltas[at.level][4 * at.index + c] =
				(float) (factor * smooth_l1_slope(d));
	}
}

static __global__ void __launch_bounds__(LIST_THREADS)
rpn_kernel(EngCudaRegions r, EngRpnMaps maps, EngRpnGradients gradients,
		   EngCudaStep *step, bool ranks)
{
	bool		with_gradients = gradients.logits[0] != NULL;
	double		sampled = ranks && with_gradients ? step->rpn_sums[2] :
		(double) all_sampled(r);
	int32_t		batch = r.rpn_sample.batch_size;
	double		factor = sampled > 0 ? (double) loss_scale_of(step) *
		r.batch->loss_scale / sampled : 0.0;
	double		sum[2] = {0.0, 0.0};

	for (int32_t k = threadIdx.x; k < 2 * r.images * batch; k += LIST_THREADS)
	{
		int32_t		list = k / batch;

		if (k % batch < r.rpn_sampled_count[list])
			add_anchor(sum, r, maps, gradients, list / 2, r.rpn_sampled[k],
					   list % 2, factor);
	}
	block_sums(&sum[0], &sum[1]);
	if (threadIdx.x != 0 || with_gradients)
		return;
	for (int i = 0; i < 2; i++)
	{
		step->rpn_loss[i] = sampled > 0 ? (float) (sum[i] / sampled) : 0.0f;
		step->rpn_sums[i] = sum[i];
	}
	step->rpn_sums[2] = sampled;
}

void
eng_cuda_rpn_loss(EngCuda *cuda, const EngCudaRegions *r,
				  const EngRpnMaps *maps, const EngRpnGradients *gradients)
{
	EngRpnGradients to = {};

	for (int32_t l = 0; gradients != NULL && l < ENG_RPN_LEVELS; l++)
	{
		size_t		n = (size_t) r->images *
			(r->pyramid.first[l + 1] - r->pyramid.first[l]);

		eng_device_zero(cuda, gradients->logits[l], n * sizeof(float));
		eng_device_zero(cuda, gradients->deltas[l], 4 * n * sizeof(float));
	}
	if (gradients != NULL)
		to = *gradients;
	ENG_LAUNCH_MEETING(rpn_kernel, 1, LIST_THREADS, cuda, *r, *maps, to,
					   cuda->step, cuda->ranks != NULL);
	if (gradients == NULL)
		sum_over_ranks(cuda, cuda->step->rpn_loss, cuda->step->rpn_sums);
}

/* ---- regions of interest ------------------------------------------------------ */

struct RoiGradients
{
	float	   *logits;			/* NULL: the losses alone */
	float	   *deltas;
};

static __device__ double
row_cross_entropy(float *dlogits, const float *logits, int32_t classes,
				  int32_t label, double factor)
{
	double		high = logits[0];
	double		sum = 0.0;

	for (int32_t c = 1; c < classes; c++)
		high = logits[c] > high ? logits[c] : high;
	for (int32_t c = 0; c < classes; c++)
		sum += exp(logits[c] - high);
	for (int32_t c = 0; dlogits != NULL && c < classes; c++)
		dlogits[c] = (float) (factor * (exp(logits[c] - high) / sum -
										(c == label ? 1.0 : 0.0)));
	return log(sum) + high - logits[label];
}

static __device__ void
add_row(double sum[2], const EngCudaRegions &r, const float *logits,
		const float *deltas, const RoiGradients &to, int32_t row,
		double factor)
{
	int32_t		label = r.roi_labels[row];
	int64_t		at = (int64_t) row * r.classes;

	sum[0] += row_cross_entropy(to.logits != NULL ? to.logits + at : NULL,
								logits + at, r.classes, label, factor);
	for (int c = 0; label > 0 && c < 4; c++)
	{
		int64_t		i = 4 * (at + label) + c;
		double		d = (double) deltas[i] - r.roi_targets[4 * row + c];

		sum[1] += smooth_l1(d);
		if (to.deltas != NULL)
			to.deltas[i] = (float) (factor * smooth_l1_slope(d));
	}
}

static __global__ void __launch_bounds__(LIST_THREADS)
roi_kernel(EngCudaRegions r, const float *logits, const float *deltas,
		   RoiGradients to, EngCudaStep *step)
{
	int32_t		live = *r.live;
	double		factor = live > 0 ?
		(double) r.batch->loss_scale / live : 0.0;
	double		sum[2] = {0.0, 0.0};

	for (int32_t row = threadIdx.x; row < live; row += LIST_THREADS)
		add_row(sum, r, logits, deltas, to, row, factor);
	block_sums(&sum[0], &sum[1]);
	if (threadIdx.x != 0)
		return;
	for (int i = 0; i < 2; i++)
	{
		step->roi_loss[i] = live > 0 ? (float) (sum[i] / live) : 0.0f;
		step->roi_sums[i] = sum[i];
	}
	step->roi_sums[2] = live;
}

/* The gradients alone need no sums, and are shared out among blocks. */
static __global__ void
roi_gradient_kernel(EngCudaRegions r, const float *logits,
					const float *deltas, RoiGradients to,
					const EngCudaStep *step, bool ranks)
{
	int32_t		row = blockIdx.x * blockDim.x + threadIdx.x;
	int32_t		live = *r.live;
	double		divisor = ranks ? step->roi_sums[2] : (double) live;
	double		sum[2] = {0.0, 0.0};

	if (row < live)
		add_row(sum, r, logits, deltas, to, row,
				(double) loss_scale_of(step) * r.batch->loss_scale / divisor);
}

void
eng_cuda_roi_loss(EngCuda *cuda, const EngCudaRegions *r,
				  const float *logits, const float *deltas, float *dlogits,
				  float *ddeltas)
{
	RoiGradients to = {dlogits, ddeltas};
	size_t		cells = (size_t) r->rows * r->classes;

	if (dlogits == NULL)
	{
		ENG_LAUNCH_MEETING(roi_kernel, 1, LIST_THREADS, cuda, *r, logits,
						   deltas, to, cuda->step);
		sum_over_ranks(cuda, cuda->step->roi_loss, cuda->step->roi_sums);
		return;
	}
	eng_device_zero(cuda, dlogits, cells * sizeof(float));
	eng_device_zero(cuda, ddeltas, 4 * cells * sizeof(float));
	ENG_LAUNCH(roi_gradient_kernel, blocks_for(r->rows, 64), 64, cuda, *r,
			   logits, deltas, to, cuda->step, cuda->ranks != NULL);
}
