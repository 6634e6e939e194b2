/*
 * engine/cpu/conv.c
 *		Convolutions: which way each direction is computed, and doing it.
 *
 * A static rule, no timing.  Forward: oneDNN on NHWC.  Backward data: with
 * stride 1 the forward kernels do it faster, on weights turned by half a turn
 * with input and output channels exchanged; else oneDNN's own, but for 1x1
 * kernels, which are a matrix product and a scattering.  Backward weight:
 * unrolled columns and a matrix product where oneDNN's kernel is poor
 * (strides, large maps), else oneDNN's own.  (oneDNN 2.6's backward kernels
 * for strided 1x1 convolutions read memory they never wrote when channels do
 * not fill a vector.)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/arena.h"
#include "engine/cpu/cpu.h"

#define FLIP_CHANNELS	16		/* transposed at a time: a cache line */
#define COLUMNS_MIN_MAP	2500	/* output cells of one image */

static EngDnnlShape
dnnl_shape(const EngConvShape *s, EngDnnlWhat what)
{
	EngDnnlShape shape = {
		.what = what,
		.n = s->n, .h = s->h, .w = s->w, .c = s->c,
		.oh = s->oh, .ow = s->ow, .oc = s->oc,
		.k = s->k, .stride = s->stride, .pad = s->pad
	};

	return shape;
}

/*
 * dx as a convolution of dy.
 */
static EngDnnlShape
flipped_shape(const EngConvShape *s)
{
	EngDnnlShape shape = {
		.what = ENG_DNNL_FORWARD,
		.n = s->n, .h = s->oh, .w = s->ow, .c = s->oc,
		.oh = s->h, .ow = s->w, .oc = s->c,
		.k = s->k, .stride = 1, .pad = s->k - 1 - s->pad, .sum = s->add_data
	};

	return shape;
}

static size_t
input_bytes(const EngConvShape *s)
{
	return eng_align(sizeof(float) * s->n * s->h * s->w * s->c);
}

static size_t
weight_bytes(const EngConvShape *s)
{
	return eng_align(sizeof(float) * s->oc * s->k * s->k * s->c);
}

static void
need(EngKernel *kernel, size_t size)
{
	if (size > kernel->workspace)
		kernel->workspace = size;
}

static void
conv_free(EngKernel *kernel)
{
	eng_dnnl_conv_free(kernel->forward);
	eng_dnnl_conv_free(kernel->data);
	eng_dnnl_conv_free(kernel->weight);
	free(kernel);
}

static bool
plan_forward(EngKernel *kernel, EngStatus *status)
{
	EngDnnlShape shape = dnnl_shape(&kernel->shape, ENG_DNNL_FORWARD);

	shape.bias = kernel->shape.bias;
	shape.relu = kernel->shape.relu;
	kernel->forward = eng_dnnl_conv_create(kernel->backend->state, &shape,
										   status);
	if (kernel->forward == NULL)
		return false;
	need(kernel, eng_dnnl_conv_scratch(kernel->forward));
	return true;
}

static bool
plan_data(EngKernel *kernel, EngStatus *status)
{
	const EngConvShape *s = &kernel->shape;
	EngDnnlShape shape;

	kernel->flip = s->stride == 1;
	kernel->scatter = s->k == 1 && s->stride > 1;
	if (kernel->scatter)
	{
		need(kernel, eng_align(sizeof(float) * s->n * s->oh * s->ow * s->c));
		return true;
	}
	shape = kernel->flip ? flipped_shape(s) :
		dnnl_shape(s, ENG_DNNL_DATA);
	kernel->data = eng_dnnl_conv_create(kernel->backend->state, &shape,
										status);
	if (kernel->data == NULL)
		return false;
	need(kernel, eng_dnnl_conv_scratch(kernel->data) +
		 (kernel->flip ? weight_bytes(s) : input_bytes(s)));
	return true;
}

static bool
plan_weight(EngKernel *kernel, EngStatus *status)
{
	const EngConvShape *s = &kernel->shape;
	EngDnnlShape shape = dnnl_shape(s, ENG_DNNL_WEIGHT);

	kernel->columns = s->stride > 1 ||
		(s->k > 1 && (int64_t) s->oh * s->ow >= COLUMNS_MIN_MAP);
	if (kernel->columns)
	{
		need(kernel, eng_cpu_column_workspace(s, kernel->backend->threads));
		return true;
	}
	kernel->weight = eng_dnnl_conv_create(kernel->backend->state, &shape,
										  status);
	if (kernel->weight == NULL)
		return false;
	need(kernel, eng_dnnl_conv_scratch(kernel->weight));
	return true;
}

static bool
conv_forward(EngKernel *kernel, void *y, const void *x, const float *weight,
			 const float *bias, uint64_t version, void *workspace,
			 EngStatus *status)
{
	if (kernel->forward_version != version &&
		!eng_dnnl_conv_pack(kernel->forward, weight, status))
		return false;
	kernel->forward_version = version;
	return eng_dnnl_conv_run(kernel->forward, y, x, NULL, bias, workspace,
							 status);
}

/*
 * out (c, k, k, oc) = weight (oc, k, k, c), turned by half a turn.
 */
static void
flip_weight(float *out, const float *weight, const EngConvShape *s)
{
	int32_t		cells = s->k * s->k;
	int32_t		first;

#pragma omp parallel for schedule(static)
	for (first = 0; first < s->c; first += FLIP_CHANNELS)
	{
		int32_t		last = s->c - first < FLIP_CHANNELS ? s->c :
			first + FLIP_CHANNELS;
		int32_t		cell;
		int32_t		o;
		int32_t		c;

		for (cell = 0; cell < cells; cell++)
			for (o = 0; o < s->oc; o++)
			{
				const float *in = weight +
					((int64_t) o * cells + cells - 1 - cell) * s->c;

				for (c = first; c < last; c++)
					out[((int64_t) c * cells + cell) * s->oc + o] = in[c];
			}
	}
}

/*
 * A strided 1x1 convolution back: each cell of dy to the cell it read.
 */
static bool
scatter_data(const EngConvShape *s, float *dx, const float *dy,
			 const float *weight, float *cells, EngStatus *status)
{
	EngGemm		gemm = {.m = (int64_t) s->n * s->oh * s->ow, .n = s->c,
						.k = s->oc};
	int64_t		row;

	if (!eng_gemm(&gemm, cells, dy, weight, status))
		return false;
#pragma omp parallel for schedule(static)
	for (row = 0; row < (int64_t) s->n * s->h; row++)
	{
		float	   *out = dx + row * s->w * s->c;
		int32_t		i = (int32_t) (row % s->h);
		const float *in = cells +
			(row / s->h * s->oh + i / s->stride) * s->ow * s->c;
		int32_t		j;
		int32_t		c;

		if (!s->add_data)
			memset(out, 0, sizeof(float) * s->w * s->c);
		if (i % s->stride != 0 || i / s->stride >= s->oh)
			continue;
		for (j = 0; j < s->ow; j++)
			for (c = 0; c < s->c; c++)
				out[(int64_t) j * s->stride * s->c + c] +=
					in[(int64_t) j * s->c + c];
	}
	return true;
}

static bool
conv_backward_data(EngKernel *kernel, void *dx, const void *dy,
				   const float *weight, uint64_t version, void *workspace,
				   EngStatus *status)
{
	const EngConvShape *s = &kernel->shape;
	float	   *front = workspace;
	uint8_t    *scratch = (uint8_t *) workspace +
		(kernel->flip ? weight_bytes(s) : input_bytes(s));

	if (kernel->scatter)
		return scatter_data(s, dx, dy, weight, workspace, status);
	if (kernel->data_version != version)
	{
		if (kernel->flip)
			flip_weight(front, weight, s);
		if (!eng_dnnl_conv_pack(kernel->data, kernel->flip ? front : weight,
								status))
			return false;
		kernel->data_version = version;
	}
	if (kernel->flip || !s->add_data)
		return eng_dnnl_conv_run(kernel->data, dx, dy, NULL, NULL, scratch,
								 status);
	if (!eng_dnnl_conv_run(kernel->data, front, dy, NULL, NULL, scratch,
						   status))
		return false;
	eng_cpu_add(dx, front, s->x_type, (int64_t) s->n * s->h * s->w * s->c);
	return true;
}

static bool
conv_backward_weight(EngKernel *kernel, float *dweight, float *dbias,
					 const void *x, const void *dy, void *workspace,
					 EngStatus *status)
{
	const EngConvShape *s = &kernel->shape;

	if (dbias != NULL)
		eng_cpu_column_sums(dbias, dy, s->y_type,
							(int64_t) s->n * s->oh * s->ow, s->oc);
	if (kernel->columns)
		return eng_cpu_column_weight(s, kernel->backend->threads, dweight, x,
									 dy, workspace, status);
	return eng_dnnl_conv_run(kernel->weight, dweight, x, dy, NULL, workspace,
							 status);
}

static const EngKernelClass conv_class = {
	conv_forward, conv_backward_data, conv_backward_weight
};

EngKernel *
eng_cpu_conv_plan(EngBackend *backend, const EngConvShape *shape,
				  EngStatus *status)
{
	EngKernel  *kernel;

	/* few output channels waste the vector lanes of the convolutions */
	if (shape->k == 1 && shape->stride == 1 && shape->oc < 16)
		return eng_cpu_linear_plan(backend, shape, status);
	kernel = calloc(1, sizeof(EngKernel));
	if (kernel == NULL)
	{
		eng_fail(status, ENG_NO_MEMORY, "out of memory");
		return NULL;
	}
	kernel->class = &conv_class;
	kernel->backend = backend;
	kernel->shape = *shape;
	if (!plan_forward(kernel, status) ||
		(shape->need_data && !plan_data(kernel, status)) ||
		(shape->need_weight && !plan_weight(kernel, status)))
	{
		conv_free(kernel);
		return NULL;
	}
	snprintf(kernel->text, sizeof(kernel->text), "%s%s%s%s%s",
			 eng_dnnl_conv_text(kernel->forward),
			 shape->need_data ? (kernel->flip ? " flip:" : " ") : "",
			 kernel->data != NULL ? eng_dnnl_conv_text(kernel->data) :
			 kernel->scatter ? "scatter" : "",
			 shape->need_weight ? (kernel->columns ? " columns" : " ") : "",
			 kernel->weight != NULL ? eng_dnnl_conv_text(kernel->weight) : "");
	return kernel;
}
