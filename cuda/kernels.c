/*
 * cuda/kernels.c
 *		Running planned convolutions and linear layers.
 *
 * Gradients of weights are made in the type that is multiplied and then
 * added to the float ones: cuDNN has no plan that does both.  Weights are
 * packed in that type once a version.
 */
#include "cuda/kernels.h"

#include <stdlib.h>

static void
cuda_kernel_free(EngKernel *kernel)
{
	int			d;

	for (d = 0; d < 3; d++)
	{
		eng_conv_plan_free(kernel->conv[d]);
		eng_cuda_matmul_free(kernel->matmul[d]);
	}
	eng_device_free(kernel->cuda, kernel->packed);
	free(kernel);
}

static EngKernel *
new_kernel(EngBackend *backend, const EngConvShape *shape, EngStatus *status)
{
	EngKernel  *kernel = calloc(1, sizeof(EngKernel));

	if (kernel == NULL)
	{
		eng_fail(status, ENG_NO_MEMORY, "out of memory");
		return NULL;
	}
	kernel->shape = *shape;
	kernel->cuda = backend->state;
	return kernel;
}

static EngKernel *
cuda_linear_plan(EngBackend *backend, const EngConvShape *shape,
				 EngStatus *status)
{
	EngKernel  *kernel = new_kernel(backend, shape, status);

	if (kernel == NULL)
		return NULL;
	kernel->linear = true;
	if (eng_cuda_plan_linear(kernel, status))
		return kernel;
	cuda_kernel_free(kernel);
	return NULL;
}

/* A 1x1 convolution as a linear layer on its cells. */
static EngKernel *
plan_cells(EngBackend *backend, const EngConvShape *shape, EngStatus *status)
{
	EngConvShape cells = *shape;

	cells.n = shape->n * shape->h * shape->w;
	cells.h = cells.w = cells.oh = cells.ow = 1;
	return cuda_linear_plan(backend, &cells, status);
}

static EngKernel *
cuda_conv_plan(EngBackend *backend, const EngConvShape *shape,
			   EngStatus *status)
{
	EngKernel  *kernel;
	EngConvPlace place = {NULL, NULL};

	if (shape->k == 1 && shape->stride == 1 &&
		shape->x_type != shape->y_type)
		return plan_cells(backend, shape, status);
	kernel = new_kernel(backend, shape, status);
	if (kernel == NULL)
		return NULL;
	place.handle = kernel->cuda->cudnn;
	place.properties = kernel->cuda->properties;
	if (eng_cuda_plan_conv(kernel, &place, status))
		return kernel;
	cuda_kernel_free(kernel);
	return NULL;
}

static size_t
cuda_kernel_workspace(const EngKernel *kernel)
{
	return kernel->workspace;
}

static size_t
weight_count(const EngKernel *kernel)
{
	const EngConvShape *s = &kernel->shape;

	return (size_t) s->oc * s->k * s->k * s->c;
}

static size_t
cuda_kernel_bytes(const EngKernel *kernel)
{
	return kernel->packed == NULL ? 0 :
		weight_count(kernel) * eng_type_size(kernel->shape.x_type);
}

static const char *
cuda_kernel_text(const EngKernel *kernel)
{
	return kernel->text;
}

/* ---- weights ------------------------------------------------------------------- */

const void *
eng_cuda_packed(EngKernel *kernel, const float *weight, uint64_t version,
				EngStatus *status)
{
	EngType		type = kernel->shape.x_type;

	if (type == ENG_F32)
		return weight;
	if (kernel->packed == NULL)
	{
		kernel->packed = eng_device_alloc(kernel->cuda, weight_count(kernel) *
										  eng_type_size(type));
		kernel->packed_version = version - 1;
	}
	if (kernel->packed == NULL)
	{
		eng_fail(status, ENG_NO_MEMORY,
				 "out of memory on the device for weights");
		return NULL;
	}
	if (kernel->packed_version != version)
		eng_cuda_cast(kernel->cuda, type, kernel->packed, ENG_F32, weight,
					  weight_count(kernel), false);
	kernel->packed_version = version;
	return kernel->packed;
}

/* ---- running ------------------------------------------------------------------- */

static bool
cuda_conv_forward(EngKernel *kernel, void *y, const void *x,
				  const float *weight, const float *bias, uint64_t version,
				  void *workspace, EngStatus *status)
{
	const EngConvShape *s = &kernel->shape;
	const void *packed = eng_cuda_packed(kernel, weight, version, status);

	if (packed == NULL)
		return false;
	if (kernel->linear)
		return eng_cuda_linear_forward(kernel, y, x, packed, bias, workspace,
									   status);
	if (!eng_conv_plan_run(kernel->conv[ENG_CONV_FORWARD], x, packed, y,
						   workspace, status))
		return false;
	if (bias != NULL || s->relu)
		eng_cuda_bias_relu(kernel->cuda, s->y_type, y, y, bias,
						   (int64_t) s->n * s->oh * s->ow, s->oc, s->relu);
	return true;
}

static bool
cuda_conv_backward_data(EngKernel *kernel, void *dx, const void *dy,
						const float *weight, uint64_t version,
						void *workspace, EngStatus *status)
{
	const EngConvShape *s = &kernel->shape;
	const void *packed = eng_cuda_packed(kernel, weight, version, status);
	bool		aside = s->add_data && !kernel->add_in_place;
	void	   *to = aside ? (uint8_t *) workspace + kernel->rest : dx;

	if (packed == NULL)
		return false;
	if (kernel->linear)
		return eng_cuda_linear_data(kernel, dx, dy, packed, workspace,
									status);
	if (!eng_conv_plan_run(kernel->conv[ENG_CONV_DATA], to, packed, dy,
						   workspace, status))
		return false;
	if (aside)
		eng_cuda_cast(kernel->cuda, s->x_type, dx, s->x_type, to,
					  (int64_t) s->n * s->h * s->w * s->c, true);
	return true;
}

static bool
cuda_conv_backward_weight(EngKernel *kernel, float *dweight, float *dbias,
						  const void *x, const void *dy, void *workspace,
						  EngStatus *status)
{
	const EngConvShape *s = &kernel->shape;
	void	   *rest = (uint8_t *) workspace + kernel->rest;

	/* one after the other on one stream: both may use the rest */
	if (dbias != NULL)
		eng_cuda_column_sums(kernel->cuda, dbias, dy, s->y_type,
							 (int64_t) s->n * s->oh * s->ow, s->oc, rest);
	if (kernel->linear)
		return eng_cuda_linear_weight(kernel, dweight, x, dy, workspace,
									  status);
	if (!eng_conv_plan_run(kernel->conv[ENG_CONV_WEIGHT], x, rest, dy,
						   workspace, status))
		return false;
	eng_cuda_cast(kernel->cuda, ENG_F32, dweight, s->x_type, rest,
				  weight_count(kernel), true);
	return true;
}

void
eng_cuda_kernel_operations(EngBackend *backend)
{
	backend->conv_plan = cuda_conv_plan;
	backend->linear_plan = cuda_linear_plan;
	backend->kernel_free = cuda_kernel_free;
	backend->kernel_workspace = cuda_kernel_workspace;
	backend->kernel_bytes = cuda_kernel_bytes;
	backend->kernel_text = cuda_kernel_text;
	backend->conv_forward = cuda_conv_forward;
	backend->conv_backward_data = cuda_conv_backward_data;
	backend->conv_backward_weight = cuda_conv_backward_weight;
}
