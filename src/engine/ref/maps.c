/*
 * engine/ref/maps.c
 *		Pooling, joining, sums and optimizer steps by their definition.
 */
#include <math.h>
#include <string.h>

#include "engine/ref/ref.h"

static void
ref_relu_backward(EngBackend *backend, EngType type, void *dy, const void *y,
				  int64_t count)
{
	int64_t		i;

	(void) backend;
	for (i = 0; i < count; i++)
		if (!(eng_load(y, type, i) > 0))
			eng_store(dy, type, i, 0);
}

static void
ref_add_relu(EngBackend *backend, EngType y_type, void *y, EngType type,
			 const void *x, const void *add, int64_t count)
{
	int64_t		i;

	(void) backend;
	for (i = 0; i < count; i++)
	{
		float		sum = eng_load(x, type, i) + eng_load(add, type, i);

		eng_store(y, y_type, i, sum < 0 ? 0 : sum);
	}
}

/*
 * The window of output (i, j): its first largest element, padding never.
 */
static int
best_place(const EngPoolShape *s, const void *x, int64_t out)
{
	int32_t		c = (int32_t) (out % s->c);
	int32_t		j = (int32_t) (out / s->c % s->ow);
	int32_t		i = (int32_t) (out / s->c / s->ow % s->oh);
	int64_t		image = out / s->c / s->ow / s->oh;
	float		best = 0;
	int			place = -1;
	int			p;

	for (p = 0; p < 9; p++)
	{
		int32_t		row = 2 * i - 1 + p / 3;
		int32_t		column = 2 * j - 1 + p % 3;
		float		value;

		if (row < 0 || row >= s->h || column < 0 || column >= s->w)
			continue;
		value = eng_load(x, s->type,
						 ((image * s->h + row) * s->w + column) * s->c + c);
		/* what is not a number is the largest */
		if (place < 0 || value > best || value != value)
		{
			best = value;
			place = p;
		}
	}
	return place;
}

static int64_t
place_index(const EngPoolShape *s, int64_t out, int place)
{
	int32_t		c = (int32_t) (out % s->c);
	int32_t		j = (int32_t) (out / s->c % s->ow);
	int32_t		i = (int32_t) (out / s->c / s->ow % s->oh);
	int64_t		image = out / s->c / s->ow / s->oh;

	return ((image * s->h + 2 * i - 1 + place / 3) * s->w +
			2 * j - 1 + place % 3) * s->c + c;
}

static void
ref_maxpool_forward(EngBackend *backend, void *y, uint8_t *which,
					const void *x, const EngPoolShape *s)
{
	int64_t		count = (int64_t) s->n * s->oh * s->ow * s->c;
	int64_t		i;

	(void) backend;
	for (i = 0; i < count; i++)
	{
		int			place = best_place(s, x, i);

		eng_store(y, s->type, i,
				  eng_load(x, s->type, place_index(s, i, place)));
		if (which != NULL)
			which[i] = (uint8_t) place;
	}
}

/* y[i] += x[j] */
static void
add_to(void *y, int64_t i, const void *x, int64_t j, EngType type)
{
	eng_store(y, type, i, eng_load(y, type, i) + eng_load(x, type, j));
}

static void
ref_maxpool_backward(EngBackend *backend, void *dx, const void *dy,
					 const uint8_t *which, const EngPoolShape *s, bool add)
{
	int64_t		count = (int64_t) s->n * s->oh * s->ow * s->c;
	int64_t		i;

	(void) backend;
	if (!add)
		memset(dx, 0, eng_type_size(s->type) * s->n * s->h * s->w * s->c);
	for (i = 0; i < count; i++)
		add_to(dx, place_index(s, i, which[i]), dy, i, s->type);
}

/* Index in the smaller map that cell i of the larger one belongs to. */
static int64_t
smaller_index(const EngScaleShape *s, int64_t i)
{
	int32_t		c = (int32_t) (i % s->c);
	int32_t		column = (int32_t) (i / s->c % s->w);
	int32_t		row = (int32_t) (i / s->c / s->w % s->h);
	int64_t		image = i / s->c / s->w / s->h;

	return ((image * s->oh + row / 2) * s->ow + column / 2) * s->c + c;
}

/* Its first cell in the larger map. */
static int64_t
corner_index(const EngScaleShape *s, int64_t i)
{
	int32_t		c = (int32_t) (i % s->c);
	int32_t		column = (int32_t) (i / s->c % s->ow);
	int32_t		row = (int32_t) (i / s->c / s->ow % s->oh);
	int64_t		image = i / s->c / s->ow / s->oh;

	return ((image * s->h + 2 * row) * s->w + 2 * column) * s->c + c;
}

static bool
is_corner(const EngScaleShape *s, int64_t i)
{
	return i / s->c % s->w % 2 == 0 && i / s->c / s->w % s->h % 2 == 0;
}

static void
ref_upsample_add(EngBackend *backend, void *y, const void *x,
				 const EngScaleShape *s)
{
	int64_t		count = (int64_t) s->n * s->h * s->w * s->c;
	int64_t		i;

	(void) backend;
	for (i = 0; i < count; i++)
		add_to(y, i, x, smaller_index(s, i), s->type);
}

static void
ref_upsample_backward(EngBackend *backend, void *dx, const void *dy,
					  const EngScaleShape *s, bool add)
{
	int64_t		count = (int64_t) s->n * s->oh * s->ow * s->c;
	int64_t		i;

	(void) backend;
	for (i = 0; i < count; i++)
	{
		int64_t		at = corner_index(s, i);
		int64_t		below = at + (int64_t) s->w * s->c;
		float		sum = add ? eng_load(dx, s->type, i) : 0;

		sum += eng_load(dy, s->type, at);
		sum += eng_load(dy, s->type, at + s->c);
		sum += eng_load(dy, s->type, below);
		sum += eng_load(dy, s->type, below + s->c);
		eng_store(dx, s->type, i, sum);
	}
}

static void
ref_subsample(EngBackend *backend, void *y, const void *x,
			  const EngScaleShape *s)
{
	int64_t		count = (int64_t) s->n * s->oh * s->ow * s->c;
	int64_t		i;

	(void) backend;
	for (i = 0; i < count; i++)
		eng_store(y, s->type, i, eng_load(x, s->type, corner_index(s, i)));
}

static void
ref_subsample_backward(EngBackend *backend, void *dx, const void *dy,
					   const EngScaleShape *s, bool add)
{
	int64_t		count = (int64_t) s->n * s->h * s->w * s->c;
	int64_t		i;

	(void) backend;
	for (i = 0; i < count; i++)
	{
		float		d = is_corner(s, i) ?
			eng_load(dy, s->type, smaller_index(s, i)) : 0;

		eng_store(dx, s->type, i, add ? eng_load(dx, s->type, i) + d : d);
	}
}

static void
ref_roi_align(EngBackend *backend, void *out, const EngRoiMaps *maps,
			  const EngRois *rois)
{
	(void) backend;
	eng_roi_align(out, maps, rois);
}

static void
ref_roi_align_backward(EngBackend *backend, void *const dmap[ENG_ROI_LEVELS],
					   const bool add[ENG_ROI_LEVELS], const void *dout,
					   const EngRoiMaps *maps, const EngRois *rois,
					   void *workspace)
{
	(void) backend;
	eng_roi_align_backward(dmap, add, dout, maps, rois, workspace);
}

static void
ref_fill(EngBackend *backend, float *x, int64_t count)
{
	(void) backend;
	memset(x, 0, sizeof(float) * count);
}

static double
ref_square_sum(EngBackend *backend, const float *x, int64_t count)
{
	double		sum = 0;
	int64_t		i;

	(void) backend;
	for (i = 0; i < count; i++)
		sum += (double) x[i] * x[i];
	return sum;
}

/*
 * torch's SGD: decay joins the gradient, the momentum takes the sum.
 */
static void
ref_update_sgd(EngBackend *backend, const EngUpdate *u)
{
	int64_t		i;

	(void) backend;
	for (i = 0; i < u->count; i++)
	{
		float		g = u->gradient[i] * u->scale +
			u->weight_decay * u->value[i];

		u->slot0[i] = u->momentum * u->slot0[i] + g;
		u->value[i] -= u->lr * u->slot0[i];
	}
}

/*
 * torch's AdamW: the decay stands apart from the gradient.
 */
static void
ref_update_adamw(EngBackend *backend, const EngUpdate *u)
{
	int64_t		i;

	(void) backend;
	for (i = 0; i < u->count; i++)
	{
		double		g = (double) u->gradient[i] * u->scale;
		double		m = u->beta1 * u->slot0[i] + (1 - (double) u->beta1) * g;
		double		v = u->beta2 * u->slot1[i] +
			(1 - (double) u->beta2) * g * g;
		double		value = u->value[i] *
			(1 - (double) u->lr * u->weight_decay);

		u->slot0[i] = (float) m;
		u->slot1[i] = (float) v;
		u->value[i] = (float) (value - u->lr * (m / u->correction1) /
							   (sqrt(v / u->correction2) + u->eps));
	}
}

void
eng_ref_map_operations(EngBackend *backend)
{
	backend->relu_backward = ref_relu_backward;
	backend->add_relu = ref_add_relu;
	backend->maxpool_forward = ref_maxpool_forward;
	backend->maxpool_backward = ref_maxpool_backward;
	backend->upsample_add = ref_upsample_add;
	backend->upsample_backward = ref_upsample_backward;
	backend->subsample = ref_subsample;
	backend->subsample_backward = ref_subsample_backward;
	backend->roi_align = ref_roi_align;
	backend->roi_align_backward = ref_roi_align_backward;
	backend->fill = ref_fill;
	backend->square_sum = ref_square_sum;
	backend->update_sgd = ref_update_sgd;
	backend->update_adamw = ref_update_adamw;
}
