/*
 * engine/ref/conv.c
 *		Convolution and linear layers by their definition.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/clones.h"
#include "engine/ref/ref.h"

struct EngKernel
{
	EngConvShape shape;
};

ENG_CLONES static double
dot(const float *a, const float *b, int64_t n)
{
	double		sum = 0;
	int64_t		i;

#pragma omp simd reduction(+:sum)
	for (i = 0; i < n; i++)
		sum += (double) a[i] * b[i];
	return sum;
}

ENG_CLONES static void
add_scaled(double *sum, const float *x, double scale, int64_t n)
{
	int64_t		i;

	for (i = 0; i < n; i++)
		sum[i] += scale * x[i];
}

static EngKernel *
ref_plan(EngBackend *backend, const EngConvShape *shape, EngStatus *status)
{
	EngKernel  *kernel = calloc(1, sizeof(EngKernel));

	(void) backend;
	if (kernel == NULL)
		eng_fail(status, ENG_NO_MEMORY, "out of memory");
	else
		kernel->shape = *shape;
	return kernel;
}

static void
ref_kernel_free(EngKernel *kernel)
{
	free(kernel);
}

static size_t
ref_kernel_size(const EngKernel *kernel)
{
	(void) kernel;
	return 0;
}

static const char *
ref_kernel_text(const EngKernel *kernel)
{
	(void) kernel;
	return "loops";
}

/*
 * One output row of one image: every kernel row that meets the input.
 */
static void
forward_row(const EngConvShape *s, float *y, const float *x,
			const float *weight, const float *bias, int64_t row)
{
	int32_t		image = (int32_t) (row / s->oh);
	int32_t		top = (int32_t) (row % s->oh) * s->stride - s->pad;
	int32_t		j;
	int32_t		o;
	int32_t		u;

	for (j = 0; j < s->ow; j++)
	{
		int32_t		left = j * s->stride - s->pad;
		int32_t		v0 = left < 0 ? -left : 0;
		int32_t		v1 = left + s->k > s->w ? s->w - left : s->k;

		for (o = 0; o < s->oc; o++)
		{
			double		sum = bias != NULL ? bias[o] : 0;

			for (u = 0; u < s->k; u++)
			{
				if (top + u < 0 || top + u >= s->h || v1 <= v0)
					continue;
				sum += dot(x + (((int64_t) image * s->h + top + u) * s->w +
								left + v0) * s->c,
						   weight + (((int64_t) o * s->k + u) * s->k + v0) *
						   s->c,
						   (int64_t) (v1 - v0) * s->c);
			}
			y[(row * s->ow + j) * s->oc + o] =
				(float) (s->relu && sum < 0 ? 0 : sum);
		}
	}
}

static bool
ref_conv_forward(EngKernel *kernel, float *y, const float *x,
				 const float *weight, const float *bias, uint64_t version,
				 void *workspace, EngStatus *status)
{
	const EngConvShape *s = &kernel->shape;
	int64_t		row;

	(void) version;
	(void) workspace;
	(void) status;
#pragma omp parallel for schedule(static)
	for (row = 0; row < (int64_t) s->n * s->oh; row++)
		forward_row(s, y, x, weight, bias, row);
	return true;
}

/*
 * Gradient of one input position: every output position that read it.
 */
static void
backward_position(const EngConvShape *s, double *sum, const float *dy,
				  const float *weight, int64_t position)
{
	int32_t		image = (int32_t) (position / ((int64_t) s->h * s->w));
	int32_t		row = (int32_t) (position / s->w % s->h) + s->pad;
	int32_t		column = (int32_t) (position % s->w) + s->pad;
	int32_t		u;
	int32_t		v;
	int32_t		o;

	memset(sum, 0, sizeof(double) * s->c);
	for (u = 0; u < s->k; u++)
		for (v = 0; v < s->k; v++)
		{
			int32_t		i = row - u;
			int32_t		j = column - v;
			const float *at;

			if (i < 0 || j < 0 || i % s->stride != 0 || j % s->stride != 0)
				continue;
			i /= s->stride;
			j /= s->stride;
			if (i >= s->oh || j >= s->ow)
				continue;
			at = dy + (((int64_t) image * s->oh + i) * s->ow + j) * s->oc;
			for (o = 0; o < s->oc; o++)
				if (at[o] != 0)
					add_scaled(sum, weight + (((int64_t) o * s->k + u) *
											  s->k + v) * s->c, at[o], s->c);
		}
}

static bool
ref_conv_backward_data(EngKernel *kernel, float *dx, const float *dy,
					   const float *weight, uint64_t version,
					   void *workspace, EngStatus *status)
{
	const EngConvShape *s = &kernel->shape;
	bool		ok = true;

	(void) version;
	(void) workspace;
#pragma omp parallel
	{
		double	   *sum = malloc(sizeof(double) * s->c);
		int64_t		position;
		int32_t		c;

		if (sum == NULL)
		{
#pragma omp atomic write
			ok = false;
		}
#pragma omp for schedule(static)
		for (position = 0; position < (int64_t) s->n * s->h * s->w;
			 position++)
		{
			float	   *out = dx + position * s->c;

			if (sum == NULL)
				continue;
			backward_position(s, sum, dy, weight, position);
			for (c = 0; c < s->c; c++)
				out[c] = (float) (s->add_data ? out[c] + sum[c] : sum[c]);
		}
		free(sum);
	}
	return ok || eng_fail(status, ENG_NO_MEMORY, "out of memory");
}

/*
 * Gradient of the weights w[o, u, v, :].
 */
static void
weight_at(const EngConvShape *s, double *sum, const float *x,
		  const float *dy, int32_t o, int32_t u, int32_t v)
{
	int64_t		row;
	int32_t		j;

	memset(sum, 0, sizeof(double) * s->c);
	for (row = 0; row < (int64_t) s->n * s->oh; row++)
	{
		int32_t		image = (int32_t) (row / s->oh);
		int32_t		i = (int32_t) (row % s->oh) * s->stride - s->pad + u;

		if (i < 0 || i >= s->h)
			continue;
		for (j = 0; j < s->ow; j++)
		{
			int32_t		column = j * s->stride - s->pad + v;
			float		g = dy[(row * s->ow + j) * s->oc + o];

			if (column < 0 || column >= s->w || g == 0)
				continue;
			add_scaled(sum, x + (((int64_t) image * s->h + i) * s->w +
								 column) * s->c, g, s->c);
		}
	}
}

static bool
ref_conv_backward_weight(EngKernel *kernel, float *dweight, float *dbias,
						 const float *x, const float *dy, void *workspace,
						 EngStatus *status)
{
	const EngConvShape *s = &kernel->shape;
	int64_t		rows = (int64_t) s->n * s->oh * s->ow;
	bool		ok = true;
	int32_t		o;

	(void) workspace;
#pragma omp parallel for schedule(static)
	for (o = 0; o < s->oc; o++)
	{
		double	   *sum = malloc(sizeof(double) * s->c);
		double		total = 0;
		int32_t		c;
		int32_t		uv;
		int64_t		row;

		if (sum == NULL)
		{
#pragma omp atomic write
			ok = false;
			continue;
		}
		for (uv = 0; uv < s->k * s->k; uv++)
		{
			float	   *out = dweight + ((int64_t) o * s->k * s->k + uv) *
				s->c;

			weight_at(s, sum, x, dy, o, uv / s->k, uv % s->k);
			for (c = 0; c < s->c; c++)
				out[c] = (float) (out[c] + sum[c]);
		}
		for (row = 0; dbias != NULL && row < rows; row++)
			total += dy[row * s->oc + o];
		if (dbias != NULL)
			dbias[o] = (float) (dbias[o] + total);
		free(sum);
	}
	return ok || eng_fail(status, ENG_NO_MEMORY, "out of memory");
}

void
eng_ref_conv_operations(EngBackend *backend)
{
	backend->conv_plan = ref_plan;
	backend->linear_plan = ref_plan;
	backend->kernel_free = ref_kernel_free;
	backend->kernel_workspace = ref_kernel_size;
	backend->kernel_bytes = ref_kernel_size;
	backend->kernel_text = ref_kernel_text;
	backend->conv_forward = ref_conv_forward;
	backend->conv_backward_data = ref_conv_backward_data;
	backend->conv_backward_weight = ref_conv_backward_weight;
}
