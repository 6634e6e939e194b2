/*
 * cuda/conv.c
 *		Planning the directions of a convolution.
 */
#include <stdio.h>
#include <string.h>

#include "cuda/kernels.h"

static bool
plan_direction(EngKernel *kernel, const EngConvPlace *place,
			   EngConvDirection direction, bool add, EngStatus *status)
{
	EngConvPlan *plan = eng_conv_plan(place, &kernel->shape, direction, add,
									  status);

	kernel->conv[direction] = plan;
	if (plan == NULL)
		return false;
	if (eng_conv_plan_workspace(plan) > kernel->rest)
		kernel->rest = eng_conv_plan_workspace(plan);
	return true;
}

/*
 * The way back to x adds by itself if there is a plan for that.
 */
static bool
plan_data(EngKernel *kernel, const EngConvPlace *place, EngStatus *status)
{
	EngStatus	ignored = {ENG_OK, ""};

	kernel->add_in_place = kernel->shape.add_data &&
		plan_direction(kernel, place, ENG_CONV_DATA, true, &ignored);
	return kernel->add_in_place ||
		plan_direction(kernel, place, ENG_CONV_DATA, false, status);
}

static size_t
larger(size_t a, size_t b)
{
	return a > b ? a : b;
}

static void
set_text(EngKernel *kernel)
{
	size_t		used = 0;
	int			d;

	kernel->text[0] = '\0';
	for (d = 0; d < 3; d++)
		if (kernel->conv[d] != NULL && used < sizeof(kernel->text))
			used += snprintf(kernel->text + used,
							 sizeof(kernel->text) - used, "%s%s",
							 used > 0 ? "/" : "",
							 eng_conv_plan_text(kernel->conv[d]));
}

bool
eng_cuda_plan_conv(EngKernel *kernel, const EngConvPlace *place,
				   EngStatus *status)
{
	const EngConvShape *s = &kernel->shape;
	size_t		element = eng_type_size(s->x_type);
	size_t		rest = 0;

	if (s->x_type != s->y_type)
		return eng_fail(status, ENG_UNSUPPORTED,
						"a convolution of %dx%d gives its input's type on a GPU",
						s->k, s->k);
	if (!plan_direction(kernel, place, ENG_CONV_FORWARD, false, status) ||
		(s->need_data && !plan_data(kernel, place, status)) ||
		(s->need_weight &&
		 !plan_direction(kernel, place, ENG_CONV_WEIGHT, false, status)))
		return false;
	kernel->rest = (kernel->rest + 255) / 256 * 256;
	if (s->need_weight)
	{
		size_t		sums = s->bias ?
			eng_cuda_norm_workspace((int64_t) s->n * s->oh * s->ow, s->oc) : 0;

		rest = larger(element * s->oc * s->k * s->k * s->c, sums);
	}
	if (s->need_data && s->add_data && !kernel->add_in_place)
		rest = larger(rest, element * s->n * s->h * s->w * s->c);
	kernel->workspace = kernel->rest + rest;
	set_text(kernel);
	return true;
}
