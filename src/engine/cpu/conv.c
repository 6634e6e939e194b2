/*
 * engine/cpu/conv.c
 *		Convolutions: which way each direction is computed, and doing it.
 *
 * A static rule, no timing.  Forward: oneDNN on NHWC.  Backward data: with
 * stride 1 the forward kernels do it faster, on weights turned by half a turn
 * with input and output channels exchanged; else oneDNN's own, but for 1x1
 * kernels, which are a matrix product and a scattering.  Backward weight:
 * unrolled columns and a matrix product where oneDNN's kernel is poor
 * (strides, large maps), else oneDNN's own, each thread with a share of its
 * own (shares.c).  (oneDNN 2.6's backward kernels for strided 1x1 convolutions
 * read memory they never wrote when channels do not fill a vector.)
 *
 * In bf16 oneDNN's own kernels are good both ways back: data is turned only
 * where that pays for turning the weights.  Weight gradients come out in
 * float.  Strided 1x1 kernels work on every stride-th cell, gathered.  A
 * gradient of float is rounded first.  Linear layers are inner products here.
 *
 * Weights change with every step of a training, so what they are packed into
 * is part of the workspace; without a way back they are kept.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/arena.h"
#include "engine/cpu/cpu.h"

#define FLIP_TILE		16		/* transposed at a time: a cache line */
#define COLUMNS_MIN_MAP	2500	/* output cells of one image */
#define FLIP_MIN_ROWS	4000	/* output cells, in bf16 */

static bool
trains(const EngConvShape *s)
{
	return s->need_data || s->need_weight;
}

static int64_t
input_count(const EngConvShape *s)
{
	return (int64_t) s->n * s->h * s->w * s->c;
}

static int64_t
output_count(const EngConvShape *s)
{
	return (int64_t) s->n * s->oh * s->ow * s->oc;
}

/* Cells of the input that a strided 1x1 kernel reads. */
static int64_t
compact_count(const EngConvShape *s)
{
	return (int64_t) s->n * s->oh * s->ow * s->c;
}

/*
 * What the primitives of a kernel are made for.
 */
static EngDnnlShape
dnnl_shape(const EngKernel *kernel, EngDnnlWhat what)
{
	const EngConvShape *s = &kernel->shape;
	EngDnnlShape shape = {
		.what = what,
		.n = s->n, .h = s->h, .w = s->w, .c = s->c,
		.oh = s->oh, .ow = s->ow, .oc = s->oc,
		.k = s->k, .stride = s->stride, .pad = s->pad,
		.linear = kernel->linear, .source_type = s->x_type,
		.target_type = what == ENG_DNNL_FORWARD ? s->y_type : s->x_type,
		.keep = what == ENG_DNNL_FORWARD && !trains(s)
	};

	if (kernel->linear)
	{
		shape.n = s->n * s->h * s->w;
		shape.h = shape.w = shape.oh = shape.ow = 1;
	}
	if (kernel->compact && what != ENG_DNNL_FORWARD)
	{
		shape.h = s->oh;
		shape.w = s->ow;
		shape.stride = 1;
	}
	return shape;
}

/*
 * dx as a convolution of dy.
 */
static EngDnnlShape
flipped_shape(const EngKernel *kernel)
{
	const EngConvShape *s = &kernel->shape;
	EngDnnlShape shape = {
		.what = ENG_DNNL_FORWARD,
		.n = s->n, .h = s->oh, .w = s->ow, .c = s->oc,
		.oh = s->h, .ow = s->w, .oc = s->c,
		.k = s->k, .stride = 1, .pad = s->k - 1 - s->pad, .sum = s->add_data,
		.source_type = s->x_type, .target_type = s->x_type
	};

	return shape;
}

static bool
pays_to_flip(const EngKernel *kernel)
{
	const EngConvShape *s = &kernel->shape;

	if (s->x_type == ENG_F32)
		return s->stride == 1;
	return s->stride == 1 && s->k > 1 &&
		(int64_t) s->n * s->oh * s->ow >= FLIP_MIN_ROWS;
}

static size_t
weight_bytes(const EngConvShape *s)
{
	return eng_align(sizeof(float) * s->oc * s->k * s->k * s->c);
}

static size_t
input_bytes(const EngConvShape *s)
{
	return eng_align(eng_type_size(s->x_type) * input_count(s));
}

static size_t
compact_bytes(const EngConvShape *s)
{
	return eng_align(eng_type_size(s->x_type) * compact_count(s));
}

/* Of the gradient rounded to the type that is multiplied. */
static size_t
rounded_bytes(const EngConvShape *s)
{
	return s->y_type == s->x_type ? 0 :
		eng_align(eng_type_size(s->x_type) * output_count(s));
}

static void
need(EngKernel *kernel, size_t size)
{
	if (size > kernel->workspace)
		kernel->workspace = size;
}

/* The front of the workspace. */
static void *
take(void **workspace, size_t size)
{
	void	   *front = *workspace;

	*workspace = (uint8_t *) front + size;
	return front;
}

static void
conv_free(EngKernel *kernel)
{
	eng_dnnl_conv_free(kernel->forward);
	eng_dnnl_conv_free(kernel->data);
	eng_cpu_shares_free(kernel->weight);
	free(kernel);
}

static bool
plan_forward(EngKernel *kernel, EngStatus *status)
{
	EngDnnlShape shape = dnnl_shape(kernel, ENG_DNNL_FORWARD);

	shape.bias = kernel->shape.bias;
	shape.relu = kernel->shape.relu;
	shape.activation = kernel->shape.activation;
	shape.shared = kernel->shape.lasting;
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
	size_t		size = rounded_bytes(s);

	kernel->scatter = s->k == 1 && s->stride > 1;
	kernel->flip = pays_to_flip(kernel);
	if (kernel->scatter)
		size += compact_bytes(s);
	if (kernel->scatter && !kernel->compact)
	{
		need(kernel, size);
		return true;
	}
	shape = kernel->flip ? flipped_shape(kernel) :
		dnnl_shape(kernel, ENG_DNNL_DATA);
	kernel->data = eng_dnnl_conv_create(kernel->backend->state, &shape,
										status);
	if (kernel->data == NULL)
		return false;
	if (kernel->flip)
		size += weight_bytes(s);
	else if (s->add_data && !kernel->scatter)
		size += input_bytes(s);
	need(kernel, size + eng_dnnl_conv_scratch(kernel->data));
	return true;
}

static bool
plan_weight(EngKernel *kernel, EngStatus *status)
{
	const EngConvShape *s = &kernel->shape;
	EngDnnlShape shape = dnnl_shape(kernel, ENG_DNNL_WEIGHT);

	kernel->columns = s->x_type == ENG_F32 && (s->stride > 1 ||
		(s->k > 1 && (int64_t) s->oh * s->ow >= COLUMNS_MIN_MAP));
	if (kernel->columns)
	{
		need(kernel, eng_cpu_column_workspace(s, kernel->backend->threads));
		return true;
	}
	kernel->weight = eng_cpu_shares_create(kernel->backend->state, &shape,
										   kernel->backend->threads, status);
	if (kernel->weight == NULL)
		return false;
	need(kernel, rounded_bytes(s) +
		 (kernel->compact ? compact_bytes(s) : 0) +
		 eng_cpu_shares_workspace(kernel->weight));
	return true;
}

static bool
conv_forward(EngKernel *kernel, void *y, const void *x, const float *weight,
			 const float *bias, uint64_t version, void *workspace,
			 EngStatus *status)
{
	if ((trains(&kernel->shape) || kernel->forward_version != version) &&
		!eng_dnnl_conv_pack(kernel->forward, weight, version, workspace,
							status))
		return false;
	kernel->forward_version = version;
	return eng_dnnl_conv_run(kernel->forward, y, x, bias, workspace, status);
}

/*
 * out (c, o) = in (o, c) for at most FLIP_TILE rows and columns of two
 * matrices with these distances of rows.
 */
static void
transpose_tile(float *out, int64_t out_row, const float *in, int64_t in_row,
			   int32_t rows, int32_t columns)
{
	float		tile[FLIP_TILE][FLIP_TILE];
	int32_t		o;
	int32_t		c;

	for (o = 0; o < rows; o++)
		for (c = 0; c < columns; c++)
			tile[c][o] = in[o * in_row + c];
	for (c = 0; c < columns; c++)
		memcpy(out + c * out_row, tile[c], sizeof(float) * rows);
}

/*
 * out (c, k, k, oc) = weight (oc, k, k, c), turned by half a turn.
 */
static void
flip_weight(float *out, const float *weight, const EngConvShape *s)
{
	int32_t		cells = s->k * s->k;
	int64_t		out_row = (int64_t) cells * s->oc;
	int64_t		in_row = (int64_t) cells * s->c;
	int32_t		first;

#pragma omp parallel for schedule(static)
	for (first = 0; first < s->c; first += FLIP_TILE)
	{
		int32_t		columns = s->c - first < FLIP_TILE ? s->c - first :
			FLIP_TILE;
		int32_t		cell;
		int32_t		o;

		for (cell = 0; cell < cells; cell++)
			for (o = 0; o < s->oc; o += FLIP_TILE)
				transpose_tile(out + first * out_row +
							   (int64_t) cell * s->oc + o, out_row,
							   weight + o * in_row +
							   (int64_t) (cells - 1 - cell) * s->c + first,
							   in_row, s->oc - o < FLIP_TILE ? s->oc - o :
							   FLIP_TILE, columns);
	}
}

/*
 * dx from the gradients of the cells that a strided 1x1 kernel read.
 */
static void
scatter_cells(const EngConvShape *s, void *dx, const void *cells)
{
	EngType		type = s->x_type;
	int64_t		line = (int64_t) s->w * s->c;
	int64_t		row;

#pragma omp parallel for schedule(static)
	for (row = 0; row < (int64_t) s->n * s->h; row++)
	{
		int32_t		i = (int32_t) (row % s->h);
		int64_t		from = (row / s->h * s->oh + i / s->stride) * s->ow;
		void	   *out = eng_at(dx, type, row * line);
		int32_t		j;

		if (!s->add_data)
			memset(out, 0, eng_type_size(type) * line);
		if (i % s->stride != 0 || i / s->stride >= s->oh)
			continue;
		for (j = 0; j < s->ow; j++)
			eng_cpu_add_cell(eng_at(out, type, (int64_t) j * s->stride * s->c),
							 eng_at(cells, type, (from + j) * s->c), type,
							 s->c);
	}
}

/*
 * The cells that a strided 1x1 kernel reads.
 */
static void
gather_cells(const EngConvShape *s, void *cells, const void *x)
{
	EngType		type = s->x_type;
	int64_t		row;

#pragma omp parallel for schedule(static)
	for (row = 0; row < (int64_t) s->n * s->oh; row++)
	{
		int64_t		from = (row / s->oh * s->h + row % s->oh * s->stride) *
			s->w;
		int32_t		j;

		for (j = 0; j < s->ow; j++)
			memcpy(eng_at(cells, type, (row * s->ow + j) * s->c),
				   eng_at(x, type, (from + (int64_t) j * s->stride) * s->c),
				   eng_type_size(type) * s->c);
	}
}

/*
 * dy in the type that is multiplied.
 */
static const void *
rounded_gradient(const EngConvShape *s, const void *dy, void **workspace)
{
	void	   *rounded;

	if (s->y_type == s->x_type)
		return dy;
	rounded = take(workspace, rounded_bytes(s));
	eng_cpu_round(rounded, dy, output_count(s));
	return rounded;
}

/*
 * dx on turned weights.
 */
static bool
flipped_data(EngKernel *kernel, void *dx, const void *dy,
			 const float *weight, void *workspace, EngStatus *status)
{
	float	   *turned = take(&workspace, weight_bytes(&kernel->shape));

	flip_weight(turned, weight, &kernel->shape);
	return eng_dnnl_conv_pack(kernel->data, turned, 0, workspace, status) &&
		eng_dnnl_conv_run(kernel->data, dx, dy, NULL, workspace, status);
}

/*
 * dx, or the gradients of the gathered cells, by oneDNN's own kernel, which
 * cannot add.
 */
static bool
native_data(EngKernel *kernel, void *dx, const void *dy, const float *weight,
			bool add, void *workspace, EngStatus *status)
{
	const EngConvShape *s = &kernel->shape;
	void	   *out = add ? take(&workspace, input_bytes(s)) : dx;

	if (!eng_dnnl_conv_pack(kernel->data, weight, 0, workspace, status) ||
		!eng_dnnl_conv_run(kernel->data, out, dy, NULL, workspace, status))
		return false;
	if (add)
		eng_cpu_add(dx, out, s->x_type, input_count(s));
	return true;
}

static bool
conv_backward_data(EngKernel *kernel, void *dx, const void *dy,
				   const float *weight, uint64_t version, void *workspace,
				   EngStatus *status)
{
	const EngConvShape *s = &kernel->shape;
	EngGemm		gemm = {.m = (int64_t) s->n * s->oh * s->ow, .n = s->c,
						.k = s->oc};
	void	   *cells;

	(void) version;
	dy = rounded_gradient(s, dy, &workspace);
	if (!kernel->scatter)
		return kernel->flip ?
			flipped_data(kernel, dx, dy, weight, workspace, status) :
			native_data(kernel, dx, dy, weight, s->add_data, workspace,
						status);
	cells = take(&workspace, compact_bytes(s));
	if (kernel->compact ?
		!native_data(kernel, cells, dy, weight, false, workspace, status) :
		!eng_gemm(&gemm, cells, dy, weight, status))
		return false;
	scatter_cells(s, dx, cells);
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
	dy = rounded_gradient(s, dy, &workspace);
	if (kernel->compact)
	{
		void	   *cells = take(&workspace, compact_bytes(s));

		gather_cells(s, cells, x);
		x = cells;
	}
	return eng_cpu_shares_run(kernel->weight, dweight, x, dy, workspace,
							  status);
}

static const EngKernelClass conv_class = {
	conv_forward, conv_backward_data, conv_backward_weight
};

EngKernel *
eng_cpu_primitive_plan(EngBackend *backend, const EngConvShape *shape,
					   bool linear, EngStatus *status)
{
	EngKernel  *kernel = calloc(1, sizeof(EngKernel));

	if (kernel == NULL)
	{
		eng_fail(status, ENG_NO_MEMORY, "out of memory");
		return NULL;
	}
	kernel->class = &conv_class;
	kernel->backend = backend;
	kernel->shape = *shape;
	kernel->linear = linear;
	kernel->compact = shape->x_type == ENG_BF16 && shape->k == 1 &&
		shape->stride > 1;
	if (!plan_forward(kernel, status) ||
		(shape->need_data && !plan_data(kernel, status)) ||
		(shape->need_weight && !plan_weight(kernel, status)))
	{
		conv_free(kernel);
		return NULL;
	}
	snprintf(kernel->text, sizeof(kernel->text), "%s%s%s%s%s%s",
			 eng_dnnl_conv_text(kernel->forward),
			 shape->need_data ? (kernel->flip ? " flip:" : " ") : "",
			 kernel->data != NULL ? eng_dnnl_conv_text(kernel->data) :
			 kernel->scatter ? "scatter" : "",
			 kernel->compact ? " gathered" : "",
			 shape->need_weight ? (kernel->columns ? " columns" : " ") : "",
			 kernel->weight != NULL ? eng_cpu_shares_text(kernel->weight) : "");
	return kernel;
}

EngKernel *
eng_cpu_conv_plan(EngBackend *backend, const EngConvShape *shape,
				  EngStatus *status)
{
	/* few output channels waste the vector lanes of the convolutions */
	if (shape->k == 1 && shape->stride == 1 && shape->oc < 16)
		return eng_cpu_linear_plan(backend, shape, status);
	return eng_cpu_primitive_plan(backend, shape, false, status);
}
