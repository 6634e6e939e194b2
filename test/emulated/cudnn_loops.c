/*
 * test/emulated/cudnn_loops.c
 *		Convolutions as loops in float.
 *
 * Tensors are read into floats whole, and the result is rounded once.  The
 * innermost loops go along channels; a few cells of a row share what is read
 * of the weights.  Sums are made in an order that depends on sizes alone.
 * Tensor cores round floats to TF32 before they are multiplied.
 */
#include "cudnn.h"

#include <stdlib.h>
#include <string.h>

#include "engine/core/clones.h"
#include "engine/core/element.h"

#define CELLS	8

/* Sizes by short names, and the tensors in float. */
typedef struct Work
{
	int64_t		n;
	int64_t		h;
	int64_t		w;
	int64_t		c;
	int64_t		oh;
	int64_t		ow;
	int64_t		oc;
	int64_t		kh;
	int64_t		kw;
	const int64_t *stride;
	const int64_t *pad;
	float	   *x;				/* (n, h, w, c) */
	float	   *y;				/* (n, oh, ow, oc) */
	float	   *weight;			/* (oc, kh, kw, c) */
	float	   *turned;			/* (kh, kw, c, oc), forward */
} Work;

static EngType
type_of(const CudnnTensor *t)
{
	return t->type == CUDNN_DATA_FLOAT ? ENG_F32 :
		t->type == CUDNN_DATA_HALF ? ENG_F16 : ENG_BF16;
}

static int64_t
count(const CudnnTensor *t)
{
	return t->size[0] * t->size[1] * t->size[2] * t->size[3];
}

static float *
floats(int64_t number)
{
	float	   *made = calloc(number + 16, sizeof(float));

	if (made == NULL)
		abort();
	return made;
}

static float *
read_floats(const CudnnTensor *t, const void *at)
{
	float	   *made = floats(count(t));
	int64_t		i;

	for (i = 0; i < count(t); i++)
		made[i] = eng_load(at, type_of(t), i);
	return made;
}

/* To the nearest of 10 bits of mantissa, ties to even. */
static void
round_to_tf32(float *values, int64_t number)
{
	int64_t		i;

	for (i = 0; i < number; i++)
	{
		uint32_t	bits;

		memcpy(&bits, &values[i], sizeof(bits));
		if ((bits & 0x7f800000) == 0x7f800000)
			continue;			/* no number, or infinite */
		bits += 0xfff + (bits >> 13 & 1);
		bits &= ~(uint32_t) 0x1fff;
		memcpy(&values[i], &bits, sizeof(bits));
	}
}

/* y[i] += a * x[i] */
ENG_INLINE void
add_scaled(float *restrict y, float a, const float *restrict x,
		   int64_t number)
{
	int64_t		i;

	for (i = 0; i < number; i++)
		y[i] += a * x[i];
}

/* The input's cell under a tap of the kernel; NULL: beyond its border. */
ENG_INLINE float *
cell(const Work *s, int64_t n, int64_t i, int64_t j, int64_t u, int64_t v)
{
	int64_t		row = i * s->stride[0] + u - s->pad[0];
	int64_t		column = j * s->stride[1] + v - s->pad[1];

	if (row < 0 || row >= s->h || column < 0 || column >= s->w)
		return NULL;
	return s->x + ((n * s->h + row) * s->w + column) * s->c;
}

ENG_INLINE float *
result(const Work *s, int64_t n, int64_t i, int64_t j)
{
	return s->y + ((n * s->oh + i) * s->ow + j) * s->oc;
}

/* One tap of the kernel for some cells of an output row. */
typedef void (*Tap) (const Work *s, int64_t n, int64_t i, int64_t j,
					 int64_t cells, int64_t u, int64_t v);

ENG_CLONES
static void
forward_tap(const Work *s, int64_t n, int64_t i, int64_t j, int64_t cells,
			int64_t u, int64_t v)
{
	const float *weight = s->turned + (u * s->kw + v) * s->c * s->oc;
	int64_t		k;
	int64_t		c;

	for (c = 0; c < s->c; c++)
		for (k = 0; k < cells; k++)
		{
			const float *x = cell(s, n, i, j + k, u, v);

			if (x != NULL)
				add_scaled(result(s, n, i, j + k), x[c], weight + c * s->oc,
						   s->oc);
		}
}

ENG_CLONES
static void
data_tap(const Work *s, int64_t n, int64_t i, int64_t j, int64_t cells,
		 int64_t u, int64_t v)
{
	int64_t		k;
	int64_t		o;

	for (o = 0; o < s->oc; o++)
		for (k = 0; k < cells; k++)
		{
			float	   *x = cell(s, n, i, j + k, u, v);

			if (x != NULL)
				add_scaled(x, result(s, n, i, j + k)[o],
						   s->weight + ((o * s->kh + u) * s->kw + v) * s->c,
						   s->c);
		}
}

ENG_CLONES
static void
filter_tap(const Work *s, int64_t n, int64_t i, int64_t j, int64_t cells,
		   int64_t u, int64_t v)
{
	int64_t		k;
	int64_t		o;

	for (o = 0; o < s->oc; o++)
		for (k = 0; k < cells; k++)
		{
			const float *x = cell(s, n, i, j + k, u, v);

			if (x != NULL)
				add_scaled(s->weight + ((o * s->kh + u) * s->kw + v) * s->c,
						   result(s, n, i, j + k)[o], x, s->c);
		}
}

static void
all_cells(const Work *s, Tap tap)
{
	int64_t		n;
	int64_t		i;
	int64_t		j;
	int64_t		u;
	int64_t		v;

	for (n = 0; n < s->n; n++)
		for (i = 0; i < s->oh; i++)
			for (j = 0; j < s->ow; j += CELLS)
				for (u = 0; u < s->kh; u++)
					for (v = 0; v < s->kw; v++)
						tap(s, n, i, j, s->ow - j < CELLS ? s->ow - j : CELLS,
							u, v);
}

static void
turn(Work *s)
{
	int64_t		taps = s->kh * s->kw * s->c;
	int64_t		o;
	int64_t		i;

	s->turned = floats(taps * s->oc);
	for (o = 0; o < s->oc; o++)
		for (i = 0; i < taps; i++)
			s->turned[i * s->oc + o] = s->weight[o * taps + i];
}

/* ---- results ---------------------------------------------------------------- */

static void
store(const CudnnProblem *p, const CudnnTensor *t, void *at,
	  const float *values)
{
	EngType		type = type_of(t);
	int64_t		i;

	for (i = 0; i < count(t); i++)
	{
		float		value = p->alpha * values[i];

		if (p->beta != 0)
			value += p->beta * eng_load(at, type, i);
		eng_store(at, type, i, value);
	}
}

/* Sum, bias and ReLU; the library's ReLU takes what is no number for 0. */
static void
store_forward(const CudnnProblem *p, const CudnnPlaces *places,
			  const float *values)
{
	EngType		type = type_of(&p->y);
	int64_t		channels = p->y.size[1];
	int64_t		i;

	for (i = 0; i < count(&p->y); i++)
	{
		float		value = p->alpha * values[i];

		if (p->has_add)
			value += eng_load(places->add, type, i);
		if (p->has_bias)
			value += eng_load(places->bias, type, i % channels);
		if (p->relu && !(value > 0))
			value = 0;
		eng_store(places->y, type, i, value);
	}
}

void
emulated_cudnn_compute(const CudnnProblem *p, const CudnnPlaces *places,
					   bool tensor_cores)
{
	Work		s = {
		.n = p->x.size[0], .c = p->x.size[1], .h = p->x.size[2],
		.w = p->x.size[3], .oc = p->y.size[1], .oh = p->y.size[2],
		.ow = p->y.size[3], .kh = p->w.size[2], .kw = p->w.size[3],
		.stride = p->stride, .pad = p->pad
	};

	s.x = p->direction == CUDNN_DATA ? floats(count(&p->x)) :
		read_floats(&p->x, places->x);
	s.y = p->direction == CUDNN_FORWARD ? floats(count(&p->y)) :
		read_floats(&p->y, places->y);
	s.weight = p->direction == CUDNN_FILTER ? floats(count(&p->w)) :
		read_floats(&p->w, places->w);
	if (tensor_cores && p->x.type == CUDNN_DATA_FLOAT)
	{
		round_to_tf32(s.x, count(&p->x));
		round_to_tf32(s.y, count(&p->y));
		round_to_tf32(s.weight, count(&p->w));
	}
	if (p->direction == CUDNN_FORWARD)
	{
		turn(&s);
		all_cells(&s, forward_tap);
		if (p->beta != 0)
			store(p, &p->y, places->y, s.y);
		else
			store_forward(p, places, s.y);
	}
	else if (p->direction == CUDNN_DATA)
	{
		all_cells(&s, data_tap);
		store(p, &p->x, places->x, s.x);
	}
	else
	{
		all_cells(&s, filter_tap);
		store(p, &p->w, places->w, s.weight);
	}
	free(s.x);
	free(s.y);
	free(s.weight);
	free(s.turned);
}
