/*
 * engine/cpu/linear.c
 *		Linear layers, and 1x1 convolutions that are no more: sgemm in float.
 *
 * Weights that last are packed once, for an inner product: with few rows
 * sgemm spends more on packing them in each call than on multiplying.
 */
#include <stdio.h>
#include <stdlib.h>

#include "engine/cpu/cpu.h"

static int64_t
row_count(const EngConvShape *s)
{
	return (int64_t) s->n * s->h * s->w;
}

static bool
linear_forward(EngKernel *kernel, void *y, const void *x,
			   const float *weight, const float *bias, uint64_t version,
			   void *workspace, EngStatus *status)
{
	const EngConvShape *s = &kernel->shape;
	EngGemm		gemm = {.tb = true, .m = row_count(s), .n = s->oc, .k = s->c};

	(void) version;
	(void) workspace;
	if (!eng_gemm(&gemm, y, x, weight, status))
		return false;
	if (bias != NULL || s->relu)
		eng_cpu_bias_relu(y, bias, row_count(s), s->oc, s->relu);
	return true;
}

static bool
linear_backward_data(EngKernel *kernel, void *dx, const void *dy,
					 const float *weight, uint64_t version,
					 void *workspace, EngStatus *status)
{
	const EngConvShape *s = &kernel->shape;
	EngGemm		gemm = {.m = row_count(s), .n = s->c, .k = s->oc,
						.add = s->add_data};

	(void) version;
	(void) workspace;
	return eng_gemm(&gemm, dx, dy, weight, status);
}

static bool
linear_backward_weight(EngKernel *kernel, float *dweight, float *dbias,
					   const void *x, const void *dy, void *workspace,
					   EngStatus *status)
{
	const EngConvShape *s = &kernel->shape;
	EngGemm		gemm = {.ta = true, .m = s->oc, .n = s->c,
						.k = row_count(s), .add = true};

	(void) workspace;
	if (dbias != NULL)
		eng_cpu_column_sums(dbias, dy, s->y_type, row_count(s), s->oc);
	return eng_gemm(&gemm, dweight, dy, x, status);
}

static const EngKernelClass linear_class = {
	linear_forward, linear_backward_data, linear_backward_weight
};

EngKernel *
eng_cpu_linear_plan(EngBackend *backend, const EngConvShape *shape,
					EngStatus *status)
{
	EngKernel  *kernel;

	if (shape->x_type == ENG_BF16 || shape->lasting != NULL)
		return eng_cpu_primitive_plan(backend, shape, true, status);
	kernel = calloc(1, sizeof(EngKernel));
	if (kernel == NULL)
	{
		eng_fail(status, ENG_NO_MEMORY, "out of memory");
		return NULL;
	}
	kernel->class = &linear_class;
	kernel->backend = backend;
	kernel->shape = *shape;
	snprintf(kernel->text, sizeof(kernel->text), "gemm");
	return kernel;
}
