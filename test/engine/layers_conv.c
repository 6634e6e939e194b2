/*
 * test/engine/layers_conv.c
 *		Convolutions and linear layers: ref against differences, cpu against it.
 *
 * Gradients: for L = sum of y * g and a random direction v,
 * (L(x + e v) - L(x - e v)) / 2e must be the sum of dx * v.
 *
 * In bf16 both multiply the same rounded numbers, so that results differ by
 * their own rounding alone.
 */
#include "arrays.h"

typedef struct Conv
{
	EngConvShape s;
	int64_t		x_count;
	int64_t		y_count;
	int64_t		w_count;
	float	   *x;
	float	   *w;
	float	   *b;
	float	   *y;
	float	   *dy;
	float	   *dx;
	float	   *dw;
	float	   *db;
} Conv;

static EngKernel *
plan(EngBackend *backend, const EngConvShape *s, bool linear, void **workspace)
{
	EngStatus	status = {ENG_OK, ""};
	EngKernel  *kernel;

	backend->enter(backend);
	kernel = linear ? backend->linear_plan(backend, s, &status) :
		backend->conv_plan(backend, s, &status);
	if (kernel == NULL)
	{
		tap_note("%s", status.message);
		exit(1);
	}
	*workspace = eng_arena_alloc(backend->kernel_workspace(kernel));
	/* nothing may depend on what the workspace held before */
	memset(*workspace, 0x7f, backend->kernel_workspace(kernel));
	return kernel;
}

/*
 * Forward and both ways back; dx, dw and db start from what they hold.
 */
static void
run_conv(EngBackend *backend, Conv *c, bool linear)
{
	EngStatus	status = {ENG_OK, ""};
	void	   *workspace;
	EngKernel  *kernel = plan(backend, &c->s, linear, &workspace);
	void	   *x = typed(c->x, c->s.x_type, c->x_count);
	void	   *dx = typed(c->dx, c->s.x_type, c->x_count);
	void	   *y = typed(c->y, c->s.y_type, c->y_count);
	void	   *dy = typed(c->dy, c->s.y_type, c->y_count);
	bool		ok;

	ok = backend->conv_forward(kernel, y, x, c->w, c->s.bias ? c->b : NULL, 1,
							   workspace, &status);
	if (c->s.relu)
		backend->relu_backward(backend, c->s.y_type, dy, y, c->y_count);
	ok = ok && backend->conv_backward_weight(kernel, c->dw,
											 c->s.bias ? c->db : NULL, x, dy,
											 workspace, &status) &&
		backend->conv_backward_data(kernel, dx, dy, c->w, 1, workspace,
									&status);
	if (!ok)
		tap_note("%s", status.message);
	eng_arena_free(workspace, backend->kernel_workspace(kernel));
	backend->kernel_free(kernel);
	untyped(c->y, y, c->s.y_type, c->y_count);
	untyped(c->dx, dx, c->s.x_type, c->x_count);
	free(x);
	free(dy);
}

static double
conv_loss(Conv *c, const float *x, const float *w, const float *b, bool linear)
{
	EngStatus	status = {ENG_OK, ""};
	void	   *workspace;
	EngKernel  *kernel = plan(ref, &c->s, linear, &workspace);
	float	   *y = make(c->y_count);
	double		loss;

	(void) ref->conv_forward(kernel, y, x, w, c->s.bias ? b : NULL, 1,
							 workspace, &status);
	loss = inner(y, c->dy, c->y_count);
	eng_arena_free(workspace, ref->kernel_workspace(kernel));
	ref->kernel_free(kernel);
	free(y);
	return loss;
}

static void
conv_gradients(Conv *c, const char *name, bool linear)
{
	double		e = c->s.relu ? 1e-4 : 1e-2;
	float	   *vx = noise(c->x_count);
	float	   *vw = noise(c->w_count);
	float	   *vb = noise(c->s.oc);
	float	   *up = make(c->x_count + c->w_count);
	float	   *down = make(c->x_count + c->w_count);
	double		slope;

	shift(up, c->x, vx, e, c->x_count);
	shift(down, c->x, vx, -e, c->x_count);
	slope = (conv_loss(c, up, c->w, c->b, linear) -
			 conv_loss(c, down, c->w, c->b, linear)) / (2 * e);
	tap_ok(agrees(slope, inner(c->dx, vx, c->x_count)),
		   "%s: input gradient (%g, %g)", name, slope,
		   inner(c->dx, vx, c->x_count));
	shift(up, c->w, vw, e, c->w_count);
	shift(down, c->w, vw, -e, c->w_count);
	slope = (conv_loss(c, c->x, up, c->b, linear) -
			 conv_loss(c, c->x, down, c->b, linear)) / (2 * e);
	tap_ok(agrees(slope, inner(c->dw, vw, c->w_count)),
		   "%s: weight gradient (%g, %g)", name, slope,
		   inner(c->dw, vw, c->w_count));
	if (c->s.bias)
	{
		shift(up, c->b, vb, e, c->s.oc);
		shift(down, c->b, vb, -e, c->s.oc);
		slope = (conv_loss(c, c->x, c->w, up, linear) -
				 conv_loss(c, c->x, c->w, down, linear)) / (2 * e);
		tap_ok(agrees(slope, inner(c->db, vb, c->s.oc)),
			   "%s: bias gradient (%g, %g)", name, slope,
			   inner(c->db, vb, c->s.oc));
	}
	free(vx);
	free(vw);
	free(vb);
	free(up);
	free(down);
}

/* Keep every hundredth row of dy. */
static void
thin_out(Conv *c)
{
	int64_t		row;

	for (row = 0; row < c->y_count / c->s.oc; row++)
		if (row % 100 != 3)
			memset(c->dy + row * c->s.oc, 0, sizeof(float) * c->s.oc);
}

/* What ran once runs again to the same bits. */
static void
test_again(const Conv *first, const char *name, bool linear)
{
	Conv		c = *first;

	if (first->s.add_data)
		return;
	c.y = make(c.y_count);
	c.dx = make(c.x_count);
	c.dw = make(c.w_count);
	c.db = make(c.s.oc);
	run_conv(cpu, &c, linear);
	tap_ok(memcmp(c.y, first->y, sizeof(float) * c.y_count) == 0 &&
		   memcmp(c.dx, first->dx, sizeof(float) * c.x_count) == 0 &&
		   memcmp(c.dw, first->dw, sizeof(float) * c.w_count) == 0,
		   "%s, %s: the same bits again", name, eng_type_name(c.s.x_type));
	free(c.y);
	free(c.dx);
	free(c.dw);
	free(c.db);
}

static void
test_conv(EngConvShape s, const char *name, bool linear, bool small)
{
	Conv		c = {.s = s};
	Conv		other;
	double		d[4];

	c.s.oh = (s.h + 2 * s.pad - s.k) / s.stride + 1;
	c.s.ow = (s.w + 2 * s.pad - s.k) / s.stride + 1;
	c.s.need_data = c.s.need_weight = true;
	c.x_count = (int64_t) s.n * s.h * s.w * s.c;
	c.y_count = (int64_t) s.n * c.s.oh * c.s.ow * s.oc;
	c.w_count = (int64_t) s.oc * s.k * s.k * s.c;
	c.x = noise(c.x_count);
	c.w = noise(c.w_count);
	c.b = noise(s.oc);
	c.dy = noise(c.y_count);
	if (s.sparse)
		thin_out(&c);
	c.y = make(c.y_count);
	c.dx = make(c.x_count);
	c.dw = make(c.w_count);
	c.db = make(s.oc);
	other = c;
	other.y = make(c.y_count);
	other.dx = make(c.x_count);
	other.dw = make(c.w_count);
	other.db = make(s.oc);
	run_conv(ref, &c, linear);
	if (small)
		conv_gradients(&c, name, linear);
	run_conv(cpu, &other, linear);
	if (s.add_data)
	{
		run_conv(ref, &c, linear);
		run_conv(cpu, &other, linear);
	}
	d[0] = distance(other.y, c.y, c.y_count);
	d[1] = distance(other.dx, c.dx, c.x_count);
	d[2] = distance(other.dw, c.dw, c.w_count);
	d[3] = s.bias ? distance(other.db, c.db, s.oc) : 0;
	/* the products of a sparse gradient are of unrounded numbers */
	tap_ok(d[0] < allowed(s.y_type) && d[1] < allowed(s.x_type) &&
		   d[2] < (s.sparse ? allowed(s.x_type) : 1e-5) && d[3] < 1e-5,
		   "%s, %s to %s: cpu is ref (%.0e %.0e %.0e %.0e)", name,
		   eng_type_name(s.x_type), eng_type_name(s.y_type), d[0], d[1], d[2],
		   d[3]);
	test_again(&other, name, linear);
	free(c.x);
	free(c.w);
	free(c.b);
	free(c.dy);
	free(c.y);
	free(c.dx);
	free(c.dw);
	free(c.db);
	free(other.y);
	free(other.dx);
	free(other.dw);
	free(other.db);
}

/* In float, in bf16, and in bf16 with a result of float. */
static void
test_types(EngConvShape s, const char *name, bool linear, bool small)
{
	test_conv(s, name, linear, small);
	if (cpu->lacks_bf16 != NULL)
		return;
	s.x_type = s.y_type = ENG_BF16;
	test_conv(s, name, linear, false);
	s.y_type = ENG_F32;
	test_conv(s, name, linear, false);
}

static void
test_convs(void)
{
	EngConvShape stem = {.n = 2, .h = 20, .w = 22, .c = 3, .oc = 16, .k = 7,
						 .stride = 2, .pad = 3};
	EngConvShape plain = {.n = 2, .h = 9, .w = 11, .c = 16, .oc = 32, .k = 3,
						  .stride = 1, .pad = 1};
	EngConvShape odd = {.n = 1, .h = 7, .w = 5, .c = 5, .oc = 7, .k = 3,
						.stride = 1, .pad = 1, .bias = true};
	EngConvShape strided = {.n = 2, .h = 8, .w = 10, .c = 8, .oc = 24, .k = 3,
							.stride = 2, .pad = 1};
	EngConvShape point = {.n = 2, .h = 6, .w = 7, .c = 24, .oc = 16, .k = 1,
						  .stride = 1, .bias = true};
	EngConvShape down = {.n = 2, .h = 8, .w = 6, .c = 8, .oc = 16, .k = 1,
						 .stride = 2};
	EngConvShape thin = {.n = 2, .h = 6, .w = 7, .c = 16, .oc = 3, .k = 1,
						 .stride = 1, .bias = true};
	EngConvShape large = {.n = 1, .h = 52, .w = 50, .c = 16, .oc = 16, .k = 3,
						  .stride = 1, .pad = 1, .bias = true, .relu = true};
	EngConvShape linear = {.n = 9, .h = 1, .w = 1, .c = 50, .oc = 20, .k = 1,
						   .stride = 1, .bias = true, .relu = true};
	EngConvShape sparse = large;
	EngConvShape dense = plain;

	test_types(stem, "stem", false, true);
	test_types(plain, "3x3", false, true);
	test_types(odd, "3x3 of odd channels", false, true);
	test_types(strided, "3x3 stride 2", false, true);
	test_types(point, "1x1", false, true);
	test_types(down, "1x1 stride 2", false, true);
	test_types(thin, "1x1 to three channels", false, true);
	test_types(large, "3x3 on a large map", false, false);
	test_types(linear, "linear", true, true);
	sparse.sparse = true;
	test_types(sparse, "3x3 with a sparse gradient", false, false);
	dense.sparse = true;
	dense.n = 1;
	dense.h = dense.w = 3;
	test_types(dense, "3x3 hardly sparse", false, false);
	plain.add_data = true;
	test_types(plain, "3x3 that adds", false, false);
	strided.add_data = true;
	test_types(strided, "3x3 stride 2 that adds", false, false);
	down.add_data = true;
	test_types(down, "1x1 stride 2 that adds", false, false);
	sparse.add_data = true;
	test_types(sparse, "sparse that adds", false, false);
	/* more rows than are multiplied at a time */
	sparse.n = 3;
	sparse.h = sparse.w = 200;
	sparse.c = sparse.oc = 4;
	test_types(sparse, "sparse on large maps", false, false);
}

/*
 * Large enough for threads that share the work: by images and bands of rows,
 * by output channels, by input channels.
 */
static void
test_shares(void)
{
	EngConvShape rows = {.n = 3, .h = 41, .w = 30, .c = 16, .oc = 64, .k = 3,
						 .stride = 1, .pad = 1};
	EngConvShape strided = {.n = 1, .h = 99, .w = 104, .c = 16, .oc = 64,
							.k = 3, .stride = 2, .pad = 1};
	EngConvShape stem = {.n = 1, .h = 97, .w = 200, .c = 3, .oc = 32, .k = 7,
						 .stride = 2, .pad = 3};
	EngConvShape down = {.n = 1, .h = 80, .w = 80, .c = 64, .oc = 224, .k = 1,
						 .stride = 2};
	EngConvShape channels = {.n = 1, .h = 8, .w = 8, .c = 128, .oc = 328,
							 .k = 3, .stride = 1, .pad = 1};
	EngConvShape inputs = {.n = 41, .h = 1, .w = 1, .c = 2056, .oc = 320,
						   .k = 1, .stride = 1};
	EngConvShape outputs = {.n = 41, .h = 1, .w = 1, .c = 320, .oc = 2056,
							.k = 1, .stride = 1};

	test_types(rows, "3x3 of three images", false, false);
	test_types(strided, "3x3 stride 2 in bands", false, false);
	test_types(stem, "stem in bands", false, false);
	test_types(down, "1x1 stride 2 in bands", false, false);
	test_types(channels, "3x3 of many channels", false, false);
	test_types(inputs, "linear of many inputs", true, false);
	test_types(outputs, "linear of many outputs", true, false);
}

int
main(void)
{
	if (!open_backends())
		return tap_done();
	if (cpu->lacks_bf16 != NULL)
		tap_note("no bf16: this processor lacks %s", cpu->lacks_bf16);
	test_convs();
	test_shares();
	close_backends();
	return tap_done();
}
