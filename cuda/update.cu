/*
 * cuda/update.cu
 *		The norm of the gradients and the steps of the optimizers.
 *
 * The norm stays on the device: the updates read the scale that it gives,
 * and leave the weights alone where a loss or the norm is not finite.  So
 * does the loss scale of f16 (torch.amp.GradScaler's rules): gradients that
 * several steps added up have one, as it changes at the norm alone.
 */
#include <float.h>

#include "cuda/kernel.h"
#include "cuda/loss_scale.h"

/* Sum over a block's threads; thread 0 has it. */
static __device__ double
block_sum(double sum)
{
	__shared__ double shared[ENG_THREADS];

	shared[threadIdx.x] = sum;
	__syncthreads();
	for (int step = ENG_THREADS / 2; step > 0; step /= 2)
	{
		if ((int) threadIdx.x < step)
			shared[threadIdx.x] += shared[threadIdx.x + step];
		__syncthreads();
	}
	return shared[0];
}

static __global__ void
square_sums(double *sums, const float *x, int64_t count)
{
	int64_t		i = (int64_t) blockIdx.x * blockDim.x + threadIdx.x;
	int64_t		step = (int64_t) gridDim.x * blockDim.x;
	double		sum = 0;

	/* squares of float are exact in double */
	for (; i < count; i += step)
		sum += (double) x[i] * x[i];
	sum = block_sum(sum);
	if (threadIdx.x == 0)
		sums[blockIdx.x] = sum;
}

static __device__ __forceinline__ bool
is_finite(double x)
{
	return x - x == 0;
}

static __device__ void
adapt_loss_scale(EngLossScale *s, bool finite)
{
	if (s->scale == 0)
		return;
	if (!finite)
	{
		s->scale *= 0.5f;
		s->good_steps = 0;
	}
	else if (++s->good_steps == ENG_LOSS_SCALE_STEPS)
	{
		if (s->scale <= FLT_MAX / 2)
			s->scale *= 2;
		s->good_steps = 0;
	}
}

static __global__ void
finish_norm(EngCudaStep *step, const double *sums, int32_t count)
{
	float		loss_scale = loss_scale_of(step);
	double		sum = 0;

	for (int32_t i = threadIdx.x; i < count; i += blockDim.x)
		sum += sums[i];
	sum = block_sum(sum);
	if (threadIdx.x != 0)
		return;
	step->norm = sqrt(sum) / loss_scale;
	step->scale = 1;
	if (step->clip_norm > 0 && step->norm + 1e-6 > step->clip_norm)
		step->scale = (float) (step->clip_norm / (step->norm + 1e-6));
	step->scale /= loss_scale;
	step->go = is_finite(step->norm) && is_finite(step->rpn_loss[0]) &&
		is_finite(step->rpn_loss[1]) && is_finite(step->roi_loss[0]) &&
		is_finite(step->roi_loss[1]);
	adapt_loss_scale(&step->loss_scale, is_finite(step->norm));
}

/* torch's SGD: decay joins the gradient, the momentum takes the sum */
static __global__ void
sgd_kernel(EngUpdate u, const EngCudaStep *step)
{
	int64_t		i = (int64_t) blockIdx.x * blockDim.x + threadIdx.x;
	float		g;

	if (i >= u.count || !step->go)
		return;
	g = u.gradient[i] * step->scale + u.weight_decay * u.value[i];
	u.slot0[i] = u.momentum * u.slot0[i] + g;
	u.value[i] -= step->lr * u.slot0[i];
}

/* torch's AdamW: the decay stands apart from the gradient */
static __global__ void
adamw_kernel(EngUpdate u, const EngCudaStep *step)
{
	int64_t		i = (int64_t) blockIdx.x * blockDim.x + threadIdx.x;
	float		rate = (float) (step->lr / step->correction1);
	float		root = (float) (1 / sqrt(step->correction2));
	float		keep = (float) (1 - (double) step->lr * u.weight_decay);
	float		g;
	float		m;
	float		v;

	if (i >= u.count || !step->go)
		return;
	g = u.gradient[i] * step->scale;
	m = u.slot0[i] + (1 - u.beta1) * (g - u.slot0[i]);
	v = u.beta2 * u.slot1[i] + (1 - u.beta2) * (g * g);
	u.slot0[i] = m;
	u.slot1[i] = v;
	u.value[i] = u.value[i] * keep - rate * m / (sqrtf(v) * root + u.eps);
}

void
eng_cuda_step_norm(EngCuda *cuda, const float *x, int64_t count)
{
	int64_t		blocks = (count + 4 * ENG_THREADS - 1) / (4 * ENG_THREADS);

	if (blocks > ENG_CUDA_SUMS)
		blocks = ENG_CUDA_SUMS;
	if (blocks < 1)
		blocks = 1;
	ENG_LAUNCH_MEETING(square_sums, (unsigned) blocks, ENG_THREADS, cuda,
					   cuda->sums, x, count);
	ENG_LAUNCH_MEETING(finish_norm, 1, ENG_THREADS, cuda, cuda->step,
					   cuda->sums, (int32_t) blocks);
}

void
eng_cuda_update_sgd(EngCuda *cuda, const EngUpdate *update)
{
	if (update->count > 0)
		ENG_LAUNCH(sgd_kernel, blocks_for(update->count, ENG_THREADS),
				   ENG_THREADS, cuda, *update, cuda->step);
}

void
eng_cuda_update_adamw(EngCuda *cuda, const EngUpdate *update)
{
	if (update->count > 0)
		ENG_LAUNCH(adamw_kernel, blocks_for(update->count, ENG_THREADS),
				   ENG_THREADS, cuda, *update, cuda->step);
}
