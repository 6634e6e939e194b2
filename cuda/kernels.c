/*
 * cuda/kernels.c
 *		Running planned convolutions and linear layers.
 *
 * Gradients of weights are made in the type that is multiplied and then
 * added to the float ones: cuDNN has no plan that does both.  Weights, and
 * the bias of a convolution that adds it itself, are packed in that type once
 * a version.
 */
#include "cuda/kernels.h"

#include <stdlib.h>

/* ---- weights ------------------------------------------------------------------- */

static size_t
weight_count(const EngConvShape *s)
{
	return (size_t) s->oc * s->k * s->k * s->c;
}

/*
 * Join those that multiply the same array in the same type, or be the first.
 * Memory on the device comes with the first call.
 */
static bool
join_packed(EngKernel *kernel, EngStatus *status)
{
	const EngConvShape *s = &kernel->shape;
	size_t		bytes = weight_count(s) * eng_type_size(s->x_type);
	EngPacked  *packed = s->lasting == NULL ? NULL : kernel->cuda->packed;

	while (packed != NULL && (packed->lasting != s->lasting ||
							  packed->type != s->x_type ||
							  packed->bytes != bytes))
		packed = packed->next;
	if (packed == NULL)
	{
		packed = calloc(1, sizeof(*packed));
		if (packed == NULL)
			return eng_fail(status, ENG_NO_MEMORY, "out of memory");
		packed->lasting = s->lasting;
		packed->type = s->x_type;
		packed->bytes = bytes;
		if (s->lasting != NULL)
		{
			packed->next = kernel->cuda->packed;
			kernel->cuda->packed = packed;
		}
	}
	packed->users++;
	kernel->packed = packed;
	return true;
}

static void
leave_packed(EngKernel *kernel)
{
	EngPacked  *packed = kernel->packed;
	EngPacked **link = &kernel->cuda->packed;

	eng_device_free(kernel->cuda, kernel->bias.data);
	if (packed == NULL || --packed->users > 0)
		return;
	while (*link != NULL && *link != packed)
		link = &(*link)->next;
	if (*link != NULL)
		*link = packed->next;
	eng_device_free(kernel->cuda, packed->data);
	free(packed);
}

static const void *
pack(EngCuda *cuda, EngPacked *packed, const float *from, uint64_t version,
	 EngStatus *status)
{
	if (packed->data == NULL)
	{
		packed->data = eng_device_alloc(cuda, packed->bytes);
		packed->version = version - 1;
	}
	if (packed->data == NULL)
	{
		eng_fail(status, ENG_NO_MEMORY,
				 "out of memory on the device for weights");
		return NULL;
	}
	if (packed->version != version)
		eng_cuda_cast(cuda, packed->type, packed->data, ENG_F32, from,
					  (int64_t) (packed->bytes / eng_type_size(packed->type)),
					  false);
	packed->version = version;
	return packed->data;
}

const void *
eng_cuda_packed(EngKernel *kernel, const float *weight, uint64_t version,
				EngStatus *status)
{
	return kernel->packed == NULL ? weight :
		pack(kernel->cuda, kernel->packed, weight, version, status);
}

const void *
eng_cuda_packed_bias(EngKernel *kernel, const float *bias, uint64_t version,
					 EngStatus *status)
{
	const EngConvShape *s = &kernel->shape;

	kernel->bias.type = s->y_type;
	kernel->bias.bytes = s->oc * eng_type_size(s->y_type);
	return s->y_type == ENG_F32 ? bias :
		pack(kernel->cuda, &kernel->bias, bias, version, status);
}

/* ---- planning ------------------------------------------------------------------- */

static void
cuda_kernel_free(EngKernel *kernel)
{
	int			d;

	for (d = 0; d < 3; d++)
	{
		eng_conv_plan_free(kernel->conv[d]);
		eng_cuda_matmul_free(kernel->matmul[d]);
	}
	leave_packed(kernel);
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
	if (shape->x_type == ENG_F32 || join_packed(kernel, status))
		return kernel;
	free(kernel);
	return NULL;
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

/* A kernel's share of what it has with others, there or to come. */
static size_t
cuda_kernel_bytes(const EngKernel *kernel)
{
	return kernel->packed == NULL ? 0 :
		kernel->packed->bytes / (size_t) kernel->packed->users;
}

static const char *
cuda_kernel_text(const EngKernel *kernel)
{
	return kernel->text;
}

/* ---- running ------------------------------------------------------------------- */

/* What the plan did not do of it: y = relu(y + add + bias), each if asked. */
static void
finish_forward(EngKernel *kernel, void *y, const void *add,
			   const float *bias)
{
	const EngConvShape *s = &kernel->shape;
	const EngConvWork *done = eng_conv_plan_work(kernel->conv[ENG_CONV_FORWARD]);
	int64_t		cells = (int64_t) s->n * s->oh * s->ow;
	bool		relu = s->relu && !done->relu;

	if (done->bias)
		bias = NULL;
	if (done->sum)
		add = NULL;
	if (bias != NULL || (relu && add == NULL))
		eng_cuda_bias_relu(kernel->cuda, s->y_type, y, y, bias, cells, s->oc,
						   relu && add == NULL);
	if (add != NULL)
		eng_cuda_add_relu(kernel->cuda, s->y_type, y, s->y_type, y, add,
						  cells * s->oc);
}

static bool
cuda_conv_forward_sum(EngKernel *kernel, void *y, const void *x,
					  const void *add, const float *weight, const float *bias,
					  uint64_t version, void *workspace, EngStatus *status)
{
	EngConvPlan *plan = kernel->conv[ENG_CONV_FORWARD];
	EngConvArrays arrays = {.x = x, .y = y,
	.w = eng_cuda_packed(kernel, weight, version, status)};

	if (arrays.w == NULL)
		return false;
	if (kernel->linear)
		return eng_cuda_linear_forward(kernel, y, x, arrays.w, bias,
									   version, workspace, status);
	if (eng_conv_plan_work(plan)->bias)
	{
		arrays.bias = eng_cuda_packed_bias(kernel, bias, version, status);
		if (arrays.bias == NULL)
			return false;
	}
	if (eng_conv_plan_work(plan)->sum)
		arrays.sum = add;
	if (!eng_conv_plan_run(plan, &arrays, workspace, status))
		return false;
	finish_forward(kernel, y, add, bias);
	return true;
}

static bool
cuda_conv_forward(EngKernel *kernel, void *y, const void *x,
				  const float *weight, const float *bias, uint64_t version,
				  void *workspace, EngStatus *status)
{
	return cuda_conv_forward_sum(kernel, y, x, NULL, weight, bias, version,
								 workspace, status);
}

static bool
cuda_conv_backward_data(EngKernel *kernel, void *dx, const void *dy,
						const float *weight, uint64_t version,
						void *workspace, EngStatus *status)
{
	const EngConvShape *s = &kernel->shape;
	bool		aside = s->add_data && !kernel->add_in_place;
	void	   *to = aside ? (uint8_t *) workspace + kernel->rest : dx;
	EngConvArrays arrays = {.x = to, .y = dy,
	.w = eng_cuda_packed(kernel, weight, version, status)};

	if (arrays.w == NULL)
		return false;
	if (kernel->linear)
		return eng_cuda_linear_data(kernel, dx, dy, arrays.w, workspace,
									status);
	if (!eng_conv_plan_run(kernel->conv[ENG_CONV_DATA], &arrays, workspace,
						   status))
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
	EngConvArrays arrays = {.x = x, .w = rest, .y = dy};

	if (kernel->linear)
		return eng_cuda_linear_weight(kernel, dweight, dbias, x, dy,
									  workspace, status);
	/* one after the other on one stream: both may use the rest */
	if (dbias != NULL)
		eng_cuda_column_sums(kernel->cuda, dbias, dy, s->y_type,
							 (int64_t) s->n * s->oh * s->ow, s->oc, rest);
	if (!eng_conv_plan_run(kernel->conv[ENG_CONV_WEIGHT], &arrays, workspace,
						   status))
		return false;
	eng_cuda_cast(kernel->cuda, ENG_F32, dweight, s->x_type, rest,
				  weight_count(s), true);
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
	backend->conv_forward_sum = cuda_conv_forward_sum;
	backend->conv_backward_data = cuda_conv_backward_data;
	backend->conv_backward_weight = cuda_conv_backward_weight;
}
