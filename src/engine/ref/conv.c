/*
 * engine/ref/conv.c
 *		Convolution and linear layers by their definition.
 *
 * The loops are on floats.  What is narrower, and weights and gradients that
 * are multiplied with it, goes through them in copies that hold its values.
 */
#include <math.h>
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

static double
activate(const EngConvShape *s, double x)
{
	switch (s->activation)
	{
		case ENG_ACTIVATION_QUICK_GELU:
			return x / (1 + exp(-1.702 * x));
		case ENG_ACTIVATION_GELU:
			return x * 0.5 * (1 + erf(x * M_SQRT1_2));
		case ENG_ACTIVATION_NONE:
			break;
	}
	return s->relu && x < 0 ? 0 : x;
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
			y[(row * s->ow + j) * s->oc + o] = (float) activate(s, sum);
		}
	}
}

/* The three arrays of a call as floats, each with a copy to free or NULL. */
typedef struct Operands
{
	float	   *x;				/* x or dx */
	float	   *weight;
	float	   *y;				/* y or dy */
	float	   *copies[3];
} Operands;

static int64_t
input_count(const EngConvShape *s)
{
	return (int64_t) s->n * s->h * s->w * s->c;
}

static int64_t
weight_count(const EngConvShape *s)
{
	return (int64_t) s->oc * s->k * s->k * s->c;
}

static int64_t
output_count(const EngConvShape *s)
{
	return (int64_t) s->n * s->oh * s->ow * s->oc;
}

/*
 * Floats of array x of a type, rounded to what they are to be multiplied
 * `as`: x itself where nothing changes, else *copy.
 */
static float *
floats(float **copy, const void *x, EngType type, EngType as, int64_t count)
{
	int64_t		i;

	if (x == NULL || (type == ENG_F32 && as == ENG_F32))
		return (float *) x;
	*copy = malloc(sizeof(float) * count);
	for (i = 0; *copy != NULL && i < count; i++)
	{
		float		value = eng_load(x, type, i);

		eng_store(&value, as, 0, value);
		(*copy)[i] = eng_load(&value, as, 0);
	}
	return *copy;
}

static bool
take_operands(Operands *o, const EngConvShape *s, const void *x,
			  const float *weight, const void *y, EngStatus *status)
{
	memset(o, 0, sizeof(*o));
	o->x = floats(&o->copies[0], x, s->x_type, s->x_type, input_count(s));
	o->weight = floats(&o->copies[1], weight, ENG_F32, s->x_type,
					   weight_count(s));
	o->y = floats(&o->copies[2], y, s->y_type, s->x_type, output_count(s));
	if ((x == NULL || o->x != NULL) && (weight == NULL || o->weight != NULL) &&
		(y == NULL || o->y != NULL))
		return true;
	free(o->copies[0]);
	free(o->copies[1]);
	free(o->copies[2]);
	return eng_fail(status, ENG_NO_MEMORY, "out of memory");
}

/*
 * Store a result that is in a copy: out, of a type, or NULL.
 */
static void
finish_operands(Operands *o, const float *result, void *out, EngType type,
				int64_t count)
{
	int64_t		i;

	for (i = 0; out != NULL && result != out && i < count; i++)
		eng_store(out, type, i, result[i]);
	free(o->copies[0]);
	free(o->copies[1]);
	free(o->copies[2]);
}

static bool
ref_conv_forward(EngKernel *kernel, void *y, const void *x,
				 const float *weight, const float *bias, uint64_t version,
				 void *workspace, EngStatus *status)
{
	const EngConvShape *s = &kernel->shape;
	Operands	o;
	int64_t		row;

	(void) version;
	(void) workspace;
	if (!take_operands(&o, s, x, weight, y, status))
		return false;
#pragma omp parallel for schedule(static)
	for (row = 0; row < (int64_t) s->n * s->oh; row++)
		forward_row(s, o.y, o.x, o.weight, bias, row);
	finish_operands(&o, o.y, y, s->y_type, output_count(s));
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
ref_conv_backward_data(EngKernel *kernel, void *dx, const void *dy,
					   const float *weight, uint64_t version,
					   void *workspace, EngStatus *status)
{
	const EngConvShape *s = &kernel->shape;
	Operands	o;
	bool		ok = true;

	(void) version;
	(void) workspace;
	if (!take_operands(&o, s, dx, weight, dy, status))
		return false;
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
			float	   *out = o.x + position * s->c;

			if (sum == NULL)
				continue;
			backward_position(s, sum, o.y, o.weight, position);
			for (c = 0; c < s->c; c++)
				out[c] = (float) (s->add_data ? out[c] + sum[c] : sum[c]);
		}
		free(sum);
	}
	finish_operands(&o, o.x, dx, s->x_type, input_count(s));
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
						 const void *x, const void *dy, void *workspace,
						 EngStatus *status)
{
	const EngConvShape *s = &kernel->shape;
	int64_t		rows = (int64_t) s->n * s->oh * s->ow;
	Operands	operands;
	bool		ok = true;
	int32_t		o;

	(void) workspace;
	if (!take_operands(&operands, s, x, NULL, dy, status))
		return false;
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

			weight_at(s, sum, operands.x, operands.y, o, uv / s->k,
					  uv % s->k);
			for (c = 0; c < s->c; c++)
				out[c] = (float) (out[c] + sum[c]);
		}
		for (row = 0; dbias != NULL && row < rows; row++)
			total += eng_load(dy, s->y_type, row * s->oc + o);
		if (dbias != NULL)
			dbias[o] = (float) (dbias[o] + total);
		free(sum);
	}
	finish_operands(&operands, NULL, NULL, ENG_F32, 0);
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
