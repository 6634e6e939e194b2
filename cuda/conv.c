/*
 * cuda/conv.c
 *		Planning the directions of a convolution.
 */
#include <stdio.h>
#include <string.h>

#include "cuda/kernels.h"

static bool
take(EngKernel *kernel, EngConvPlan *plan)
{
	if (plan == NULL)
		return false;
	kernel->conv[eng_conv_plan_work(plan)->direction] = plan;
	if (eng_conv_plan_workspace(plan) > kernel->rest)
		kernel->rest = eng_conv_plan_workspace(plan);
	return true;
}

static bool
plan_work(EngKernel *kernel, const EngConvPlace *place,
		  const EngConvWork *work, EngStatus *status)
{
	return take(kernel, eng_conv_plan(place, &kernel->shape, work, status));
}

/*
 * With as much of what follows the products in the same kernel as there is
 * one for, on the tensor cores where they can be used.  Its ReLU takes what
 * is not a number for 0, which training must see: there ReLUs are passes of
 * their own.
 */
static bool
plan_forward(EngKernel *kernel, const EngConvPlace *place, EngStatus *status)
{
	const EngConvShape *s = &kernel->shape;
	bool		bias = s->bias && !(s->relu && (s->need_data || s->need_weight));
	const EngConvWork works[3] = {
		{.direction = ENG_CONV_FORWARD, .sum = true, .bias = true,
		.relu = true},
		{.direction = ENG_CONV_FORWARD, .bias = true,
		.relu = s->relu && !s->sum},
		{.direction = ENG_CONV_FORWARD}
	};
	bool		possible[3] = {bias && s->sum, bias, true};
	EngConvPlan *found = NULL;
	int			i;

	for (i = 0; i < 3; i++)
	{
		EngStatus	own = {ENG_OK, ""};
		EngConvPlan *plan;

		if (!possible[i])
			continue;
		plan = eng_conv_plan(place, s, &works[i], found == NULL && i == 2 ?
							 status : &own);
		if (plan != NULL && (found == NULL ||
							 eng_conv_plan_tensor_cores(plan)))
		{
			eng_conv_plan_free(found);
			found = plan;
		}
		else
			eng_conv_plan_free(plan);
		if (found != NULL && (s->x_type == ENG_F32 ||
							  eng_conv_plan_tensor_cores(found)))
			break;
	}
	return take(kernel, found);
}

/*
 * The way back to x adds by itself if there is a plan for that.
 */
static bool
plan_data(EngKernel *kernel, const EngConvPlace *place, EngStatus *status)
{
	EngConvWork work = {.direction = ENG_CONV_DATA, .add = true};
	EngStatus	ignored = {ENG_OK, ""};

	kernel->add_in_place = kernel->shape.add_data &&
		plan_work(kernel, place, &work, &ignored);
	work.add = false;
	return kernel->add_in_place || plan_work(kernel, place, &work, status);
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
	EngConvWork weight = {.direction = ENG_CONV_WEIGHT};
	const EngConvShape *s = &kernel->shape;
	size_t		element = eng_type_size(s->x_type);
	size_t		rest = 0;

	if (s->x_type != s->y_type)
		return eng_fail(status, ENG_UNSUPPORTED,
						"a convolution of %dx%d gives its input's type on a GPU",
						s->k, s->k);
	if (!plan_forward(kernel, place, status) ||
		(s->need_data && !plan_data(kernel, place, status)) ||
		(s->need_weight && !plan_work(kernel, place, &weight, status)))
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
