/*
 * test/engine/layers_maps.c
 *		Norms, pooling, joins, updates: ref against differences, cpu against it.
 *
 * Gradients: for L = sum of y * g and a random direction v,
 * (L(x + e v) - L(x - e v)) / 2e must be the sum of dx * v.
 */
#include "arrays.h"

/* ---- norm ------------------------------------------------------------------------ */

typedef struct Norm
{
	EngNormArgs a;
	int64_t		count;
	float	   *dy;				/* as given: the backward pass writes to it */
} Norm;

static void
norm_forward(EngBackend *backend, EngNormArgs *a)
{
	size_t		size = backend->norm_workspace(backend, a->rows, a->channels);

	backend->enter(backend);
	a->workspace = eng_arena_alloc(size);
	memset(a->workspace, 0x7f, size);
	backend->norm_forward(backend, a);
	eng_arena_free(a->workspace, size);
}

static void
norm_backward(EngBackend *backend, EngNormArgs *a)
{
	size_t		size = backend->norm_workspace(backend, a->rows, a->channels);

	a->workspace = eng_arena_alloc(size);
	memset(a->workspace, 0x7f, size);
	backend->norm_backward(backend, a);
	eng_arena_free(a->workspace, size);
}

/* A copy with result arrays of its own. */
static Norm
norm_twin(const Norm *norm)
{
	Norm		twin = *norm;
	int32_t		c = norm->a.channels;

	twin.a.y = make(norm->count);
	twin.a.running_mean = copy(norm->a.running_mean, c);
	twin.a.running_var = copy(norm->a.running_var, c);
	twin.a.mean = make(c);
	twin.a.rstd = make(c);
	twin.a.dy = copy(norm->dy, norm->count);
	twin.a.dx = copy(norm->dy, norm->count);
	twin.a.dadd = norm->a.add ? copy(norm->dy, norm->count) : NULL;
	twin.a.dweight = make(c);
	twin.a.dbias = make(c);
	return twin;
}

static void
norm_free(Norm *norm)
{
	free(norm->a.y);
	free(norm->a.running_mean);
	free(norm->a.running_var);
	free(norm->a.mean);
	free(norm->a.rstd);
	free(norm->a.dy);
	free(norm->a.dx);
	free(norm->a.dadd);
	free(norm->a.dweight);
	free(norm->a.dbias);
}

static double
norm_loss(const Norm *norm, const float *x)
{
	Norm		twin = norm_twin(norm);
	double		loss;

	twin.a.x = x;
	norm_forward(ref, &twin.a);
	loss = inner(twin.a.y, norm->dy, norm->count);
	norm_free(&twin);
	return loss;
}

/* The loss with weight or bias moved by e along v. */
static double
norm_affine_loss(const Norm *norm, const float *v, double e, bool weight)
{
	Norm		moved = *norm;
	float	   *values = make(norm->a.channels);
	double		loss;

	shift(values, weight ? norm->a.weight : norm->a.bias, v, e,
		  norm->a.channels);
	if (weight)
		moved.a.weight = values;
	else
		moved.a.bias = values;
	loss = norm_loss(&moved, norm->a.x);
	free(values);
	return loss;
}

static void
norm_gradients(const Norm *norm, const Norm *done, const char *name)
{
	double		e = 1e-3;
	float	   *v = noise(norm->count);
	float	   *up = make(norm->count);
	float	   *down = make(norm->count);
	double		slope;

	shift(up, norm->a.x, v, e, norm->count);
	shift(down, norm->a.x, v, -e, norm->count);
	slope = (norm_loss(norm, up) - norm_loss(norm, down)) / (2 * e);
	tap_ok(agrees(slope, inner(done->a.dx, v, norm->count)),
		   "%s: input gradient (%g, %g)", name, slope,
		   inner(done->a.dx, v, norm->count));
	slope = (norm_affine_loss(norm, v, e, true) -
			 norm_affine_loss(norm, v, -e, true)) / (2 * e);
	tap_ok(agrees(slope, inner(done->a.dweight, v, norm->a.channels)),
		   "%s: weight gradient (%g, %g)", name, slope,
		   inner(done->a.dweight, v, norm->a.channels));
	slope = (norm_affine_loss(norm, v, e, false) -
			 norm_affine_loss(norm, v, -e, false)) / (2 * e);
	tap_ok(agrees(slope, inner(done->a.dbias, v, norm->a.channels)),
		   "%s: bias gradient (%g, %g)", name, slope,
		   inner(done->a.dbias, v, norm->a.channels));
	free(v);
	free(up);
	free(down);
}

static double
norm_distance(const Norm *a, const Norm *b)
{
	int32_t		c = a->a.channels;
	double		worst = distance(a->a.y, b->a.y, a->count);

	worst = fmax(worst, distance(a->a.dx, b->a.dx, a->count));
	worst = fmax(worst, distance(a->a.running_mean, b->a.running_mean, c));
	worst = fmax(worst, distance(a->a.running_var, b->a.running_var, c));
	worst = fmax(worst, distance(a->a.dweight, b->a.dweight, c));
	worst = fmax(worst, distance(a->a.dbias, b->a.dbias, c));
	if (a->a.dadd != NULL)
		worst = fmax(worst, distance(a->a.dadd, b->a.dadd, a->count));
	return worst;
}

/* Without y, what the ReLU hid is found from x: not a bit differs. */
static void
norm_masked_by_x(const Norm *norm, const Norm *done, EngBackend *backend,
				 const char *name)
{
	Norm		twin = norm_twin(norm);
	void	   *y = twin.a.y;

	norm_forward(backend, &twin.a);
	twin.a.y = NULL;
	norm_backward(backend, &twin.a);
	twin.a.y = y;
	tap_ok(norm_distance(&twin, done) == 0, "%s: %s needs no y", name,
		   backend->name);
	norm_free(&twin);
}

static void
test_norm(EngNormArgs a, const char *name, bool add, bool small)
{
	Norm		norm = {.a = a, .count = a.rows * a.channels};
	Norm		left;
	Norm		right;
	int32_t		c;
	double		worst;

	norm.a.eps = 1e-5f;
	norm.a.momentum = 0.1f;
	norm.a.x = noise(norm.count);
	norm.a.add = add ? noise(norm.count) : NULL;
	norm.a.weight = noise(a.channels);
	norm.a.bias = noise(a.channels);
	norm.a.running_mean = noise(a.channels);
	norm.a.running_var = noise(a.channels);
	for (c = 0; c < a.channels; c++)
		norm.a.running_var[c] += 1.5f;
	norm.dy = noise(norm.count);
	left = norm_twin(&norm);
	right = norm_twin(&norm);
	norm_forward(ref, &left.a);
	norm_backward(ref, &left.a);
	norm_forward(cpu, &right.a);
	norm_backward(cpu, &right.a);
	if (small)
		norm_gradients(&norm, &left, name);
	if (a.relu && !add)
	{
		norm_masked_by_x(&norm, &left, ref, name);
		norm_masked_by_x(&norm, &right, cpu, name);
	}
	worst = norm_distance(&right, &left);
	tap_ok(worst < 2e-5, "%s: cpu is ref (%.0e)", name, worst);
	norm_free(&left);
	norm_free(&right);
	free((void *) norm.a.x);
	free((void *) norm.a.add);
	free((void *) norm.a.weight);
	free((void *) norm.a.bias);
	free(norm.a.running_mean);
	free(norm.a.running_var);
	free(norm.dy);
}

static void
test_norms(void)
{
	EngNormArgs a = {.rows = 40, .live = 40, .channels = 6, .batch = true};

	test_norm(a, "norm", false, true);
	a.relu = true;
	test_norm(a, "norm and ReLU", false, false);
	test_norm(a, "norm, sum and ReLU", true, false);
	a.dx_add = a.dadd_add = true;
	test_norm(a, "norm that adds", true, false);
	a.dx_add = a.dadd_add = false;
	a.live = 27;
	test_norm(a, "norm of live rows", false, false);
	a.relu = false;
	test_norm(a, "norm of live rows, gradient", false, true);
	a.batch = false;
	a.live = 40;
	test_norm(a, "frozen norm", false, true);
	a.relu = true;
	test_norm(a, "frozen norm and ReLU", false, false);
	test_norm(a, "frozen norm, sum and ReLU", true, false);
	a.batch = true;
	a.rows = a.live = 3001;
	a.channels = 80;
	test_norm(a, "norm of many rows", true, false);
}

/* ---- maps ---------------------------------------------------------------------------- */

static void
test_maxpool(int32_t h, int32_t w, int32_t channels, bool ties)
{
	EngPoolShape s = {2, h, w, channels, (h + 1) / 2, (w + 1) / 2, ENG_F32};
	int64_t		in = (int64_t) 2 * h * w * channels;
	int64_t		out = (int64_t) 2 * s.oh * s.ow * channels;
	float	   *x = noise(in);
	float	   *dy = noise(out);
	float	   *y[2] = {make(out), make(out)};
	float	   *dx[2] = {make(in), make(in)};
	uint8_t    *which[2] = {malloc(out), malloc(out)};
	EngBackend *backends[2] = {ref, cpu};
	int64_t		i;
	int			b;

	for (i = 0; ties && i < in; i++)
		x[i] = x[i] > 0 ? 1 : 0;
	for (b = 0; b < 2; b++)
	{
		backends[b]->maxpool_forward(backends[b], y[b], which[b], x, &s);
		backends[b]->maxpool_backward(backends[b], dx[b], dy, which[b], &s,
									  false);
		backends[b]->maxpool_backward(backends[b], dx[b], dy, which[b], &s,
									  true);
	}
	tap_ok(memcmp(y[0], y[1], out * sizeof(float)) == 0 &&
		   memcmp(which[0], which[1], out) == 0 &&
		   distance(dx[1], dx[0], in) < 1e-6,
		   "max-pool of %dx%d%s: cpu is ref", w, h, ties ? " with ties" : "");
	tap_ok(fabs(2 * inner(y[0], dy, out) - inner(dx[0], x, in)) < 1e-3,
		   "max-pool of %dx%d: gradient", w, h);
	free(x);
	free(dy);
	for (b = 0; b < 2; b++)
	{
		free(y[b]);
		free(dx[b]);
		free(which[b]);
	}
}

/*
 * Both linear maps: <f(x), dy> = <x, f'(dy)>.
 */
static void
test_scaling(int32_t h, int32_t w, bool up)
{
	EngScaleShape s = {2, h, w, 20, (h + 1) / 2, (w + 1) / 2, ENG_F32};
	int64_t		large = (int64_t) 2 * h * w * 20;
	int64_t		little = (int64_t) 2 * s.oh * s.ow * 20;
	float	   *x = noise(up ? little : large);
	float	   *dy = noise(up ? large : little);
	float	   *y[2] = {make(large), make(large)};
	float	   *dx[2] = {make(large), make(large)};
	EngBackend *backends[2] = {ref, cpu};
	int			b;

	for (b = 0; b < 2; b++)
	{
		EngBackend *k = backends[b];

		if (up)
		{
			k->upsample_add(k, y[b], x, &s);
			k->upsample_backward(k, dx[b], dy, &s, false);
			k->upsample_backward(k, dx[b], dy, &s, true);
		}
		else
		{
			k->subsample(k, y[b], x, &s);
			k->subsample_backward(k, dx[b], dy, &s, false);
			k->subsample_backward(k, dx[b], dy, &s, true);
		}
	}
	tap_ok(distance(y[1], y[0], large) < 1e-6 &&
		   distance(dx[1], dx[0], large) < 1e-6,
		   "%s of %dx%d: cpu is ref", up ? "upsampling" : "subsampling", w, h);
	tap_ok(fabs(2 * inner(y[0], dy, up ? large : little) -
				inner(dx[0], x, up ? little : large)) < 1e-3,
		   "%s of %dx%d: gradient", up ? "upsampling" : "subsampling", w, h);
	free(x);
	free(dy);
	for (b = 0; b < 2; b++)
	{
		free(y[b]);
		free(dx[b]);
	}
}

static void
test_rest(void)
{
	int64_t		n = 40001;
	float	   *a = noise(n);
	float	   *b = noise(n);
	float	   *left = copy(a, n);
	float	   *right = copy(a, n);
	double		sums[2];

	ref->relu_backward(ref, ENG_F32, left, b, n);
	cpu->relu_backward(cpu, ENG_F32, right, b, n);
	tap_ok(memcmp(left, right, n * sizeof(float)) == 0,
		   "ReLU backward: cpu is ref");
	ref->add_relu(ref, ENG_F32, left, a, b, n);
	cpu->add_relu(cpu, ENG_F32, right, a, b, n);
	tap_ok(memcmp(left, right, n * sizeof(float)) == 0,
		   "sum and ReLU: cpu is ref");
	sums[0] = ref->square_sum(ref, a, n);
	sums[1] = cpu->square_sum(cpu, a, n);
	tap_ok(fabs(sums[0] - sums[1]) < 1e-9 * sums[0],
		   "sum of squares: cpu is ref");
	cpu->fill(cpu, right, n);
	tap_ok(cpu->square_sum(cpu, right, n) == 0, "filled with zeros");
	free(a);
	free(b);
	free(left);
	free(right);
}

static void
test_update(bool adamw)
{
	int64_t		n = 20003;
	float	   *value[2];
	float	   *slot[2][2];
	float	   *gradient = noise(n);
	EngBackend *backends[2] = {ref, cpu};
	EngUpdate	u = {.gradient = gradient, .count = n, .scale = 0.5f,
					 .lr = 0.01f, .weight_decay = 0.1f, .momentum = 0.9f,
					 .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f};
	int			b;
	int			step;

	value[0] = noise(n);
	value[1] = copy(value[0], n);
	for (b = 0; b < 2; b++)
	{
		slot[b][0] = make(n);
		slot[b][1] = make(n);
		for (step = 1; step <= 3; step++)
		{
			u.value = value[b];
			u.slot0 = slot[b][0];
			u.slot1 = slot[b][1];
			u.correction1 = 1 - pow(0.9, step);
			u.correction2 = 1 - pow(0.999, step);
			if (adamw)
				backends[b]->update_adamw(backends[b], &u);
			else
				backends[b]->update_sgd(backends[b], &u);
		}
	}
	tap_ok(distance(value[1], value[0], n) < 1e-6 &&
		   distance(slot[1][0], slot[0][0], n) < 1e-6 &&
		   distance(slot[1][1], slot[0][1], n) < 1e-6,
		   "three steps of %s: cpu is ref", adamw ? "adamw" : "sgd");
	for (b = 0; b < 2; b++)
	{
		free(value[b]);
		free(slot[b][0]);
		free(slot[b][1]);
	}
	free(gradient);
}

int
main(void)
{
	EngStatus	status = {ENG_OK, ""};

	if (!open_backends())
		return tap_done();
	test_norms();
	test_maxpool(9, 12, 20, false);
	test_maxpool(8, 7, 16, true);
	test_scaling(8, 6, true);
	test_scaling(7, 5, false);
	test_scaling(8, 6, false);
	test_rest();
	test_update(false);
	test_update(true);
	tap_ok(eng_backend_open("gpu", 1, &status) == NULL &&
		   status.code == ENG_UNSUPPORTED, "%s", status.message);
	close_backends();
	return tap_done();
}
