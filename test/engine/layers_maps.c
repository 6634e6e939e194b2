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

/*
 * Forward and backward of a norm whose tensors are floats, in its type; y is
 * kept from the way back on demand.
 */
static void
run_norm(EngBackend *backend, Norm *norm, bool without_y)
{
	EngNormArgs a = norm->a;
	void	   *y;
	EngType		type = a.type;
	int64_t		n = norm->count;

	a.x = typed(norm->a.x, type, n);
	a.add = a.add ? typed(norm->a.add, type, n) : NULL;
	a.y = typed(norm->a.y, type, n);
	a.dy = typed(norm->a.dy, type, n);
	a.dx = typed(norm->a.dx, type, n);
	a.dadd = a.dadd ? typed(norm->a.dadd, type, n) : NULL;
	norm_forward(backend, &a);
	y = a.y;
	if (without_y)
		a.y = NULL;
	norm_backward(backend, &a);
	untyped(norm->a.y, y, type, n);
	untyped(norm->a.dy, a.dy, type, n);
	untyped(norm->a.dx, a.dx, type, n);
	if (a.dadd != NULL)
		untyped(norm->a.dadd, a.dadd, type, n);
	free((void *) a.x);
	free((void *) a.add);
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

/* Of the tensors, and of what is float in every type. */
static void
norm_distance(const Norm *a, const Norm *b, double worst[2])
{
	int32_t		c = a->a.channels;

	worst[0] = fmax(distance(a->a.y, b->a.y, a->count),
					distance(a->a.dx, b->a.dx, a->count));
	if (a->a.dadd != NULL)
		worst[0] = fmax(worst[0], distance(a->a.dadd, b->a.dadd, a->count));
	worst[1] = fmax(distance(a->a.running_mean, b->a.running_mean, c),
					distance(a->a.running_var, b->a.running_var, c));
	worst[1] = fmax(worst[1], distance(a->a.dweight, b->a.dweight, c));
	worst[1] = fmax(worst[1], distance(a->a.dbias, b->a.dbias, c));
}

/* Without y, what the ReLU hid is found from x: not a bit differs. */
static void
norm_masked_by_x(const Norm *norm, const Norm *done, EngBackend *backend,
				 const char *name)
{
	Norm		twin = norm_twin(norm);
	double		worst[2];

	run_norm(backend, &twin, true);
	norm_distance(&twin, done, worst);
	tap_ok(worst[0] == 0 && worst[1] == 0, "%s of %s: %s needs no y", name,
		   eng_type_name(norm->a.type), backend->name);
	norm_free(&twin);
}

static void
test_norm(EngNormArgs a, const char *name, bool add, bool small)
{
	Norm		norm = {.a = a, .count = a.rows * a.channels};
	Norm		left;
	Norm		right;
	int32_t		c;
	double		worst[2];

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
	run_norm(ref, &left, false);
	run_norm(cpu, &right, false);
	if (small)
		norm_gradients(&norm, &left, name);
	if (a.relu && !add)
	{
		norm_masked_by_x(&norm, &left, ref, name);
		norm_masked_by_x(&norm, &right, cpu, name);
	}
	norm_distance(&right, &left, worst);
	tap_ok(worst[0] < 2 * allowed(a.type) && worst[1] < 2e-5,
		   "%s of %s: cpu is ref (%.0e %.0e)", name, eng_type_name(a.type),
		   worst[0], worst[1]);
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
test_norm_types(EngNormArgs a, const char *name, bool add, bool small)
{
	test_norm(a, name, add, small);
	a.type = ENG_BF16;
	test_norm(a, name, add, false);
}

static void
test_norms(void)
{
	EngNormArgs a = {.rows = 40, .live = 40, .channels = 6, .batch = true};

	test_norm_types(a, "norm", false, true);
	a.relu = true;
	test_norm_types(a, "norm and ReLU", false, false);
	test_norm_types(a, "norm, sum and ReLU", true, false);
	a.dx_add = a.dadd_add = true;
	test_norm_types(a, "norm that adds", true, false);
	a.dx_add = a.dadd_add = false;
	a.live = 27;
	test_norm_types(a, "norm of live rows", false, false);
	a.relu = false;
	test_norm_types(a, "norm of live rows, gradient", false, true);
	a.batch = false;
	a.live = 40;
	test_norm_types(a, "frozen norm", false, true);
	a.relu = true;
	test_norm_types(a, "frozen norm and ReLU", false, false);
	test_norm_types(a, "frozen norm, sum and ReLU", true, false);
	a.batch = true;
	a.rows = a.live = 3001;
	a.channels = 80;
	test_norm_types(a, "norm of many rows", true, false);
	/* more than caches hold: y is written past them, in bf16 too */
	a.rows = a.live = 70001;
	a.channels = 128;
	test_norm_types(a, "norm of a large map", false, false);
}

/* ---- maps ---------------------------------------------------------------------------- */

static void
test_maxpool(int32_t h, int32_t w, bool ties, EngType type)
{
	EngPoolShape s = {2, h, w, 80, (h + 1) / 2, (w + 1) / 2, type};
	int64_t		in = (int64_t) 2 * h * w * s.c;
	int64_t		out = (int64_t) 2 * s.oh * s.ow * s.c;
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
		EngBackend *k = backends[b];
		void	   *from = typed(x, type, in);
		void	   *to = typed(y[b], type, out);
		void	   *back = typed(dy, type, out);
		void	   *down = typed(dx[b], type, in);

		k->maxpool_forward(k, to, which[b], from, &s);
		k->maxpool_backward(k, down, back, which[b], &s, false);
		k->maxpool_backward(k, down, back, which[b], &s, true);
		untyped(y[b], to, type, out);
		untyped(dx[b], down, type, in);
		free(from);
		free(back);
	}
	tap_ok(memcmp(y[0], y[1], out * sizeof(float)) == 0 &&
		   memcmp(which[0], which[1], out) == 0 &&
		   distance(dx[1], dx[0], in) < 4 * allowed(type),
		   "max-pool of %dx%d%s, %s: cpu is ref", w, h,
		   ties ? " with ties" : "", eng_type_name(type));
	if (type == ENG_F32)
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
 * What is not a number is in every window that it lies in, wherever there.
 */
static void
test_maxpool_nan(EngType type)
{
	EngPoolShape s = {1, 6, 6, 40, 3, 3, type};
	int64_t		in = 6 * 6 * 40;
	int64_t		out = 3 * 3 * 40;
	EngBackend *backends[2] = {ref, cpu};
	float	   *x = noise(in);
	float	   *y = make(out);
	uint8_t    *which = malloc(out);
	int			b;

	for (b = 0; b < 36; b++)
		x[b * 40 + b] = NAN;
	for (b = 0; b < 2; b++)
	{
		void	   *from = typed(x, type, in);
		void	   *to = typed(y, type, out);
		int64_t		wrong = 0;
		int64_t		i;

		backends[b]->maxpool_forward(backends[b], to, which, from, &s);
		untyped(y, to, type, out);
		free(from);
		for (i = 0; i < out; i++)
		{
			/* channel c has one at cell c */
			int32_t		c = (int32_t) (i % 40);
			int32_t		down = c / 6 - 2 * (int32_t) (i / 40 / 3) + 1;
			int32_t		right = c % 6 - 2 * (int32_t) (i / 40 % 3) + 1;
			bool		inside = c < 36 && down >= 0 && down < 3 &&
				right >= 0 && right < 3;

			if (isnan(y[i]) != inside ||
				(inside && which[i] != 3 * down + right))
				wrong++;
		}
		tap_ok(wrong == 0, "max-pool on %s keeps what is not a number, %s",
			   backends[b]->name, eng_type_name(type));
	}
	free(x);
	free(y);
	free(which);
}

/*
 * Both linear maps: <f(x), dy> = <x, f'(dy)>.
 */
static void
test_scaling(int32_t h, int32_t w, bool up, EngType type)
{
	EngScaleShape s = {2, h, w, 20, (h + 1) / 2, (w + 1) / 2, type};
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
		void	   *from = typed(x, type, up ? little : large);
		void	   *to = typed(y[b], type, large);
		void	   *back = typed(dy, type, up ? large : little);
		void	   *down = typed(dx[b], type, large);

		if (up)
		{
			k->upsample_add(k, to, from, &s);
			k->upsample_backward(k, down, back, &s, false);
			k->upsample_backward(k, down, back, &s, true);
		}
		else
		{
			k->subsample(k, to, from, &s);
			k->subsample_backward(k, down, back, &s, false);
			k->subsample_backward(k, down, back, &s, true);
		}
		untyped(y[b], to, type, large);
		untyped(dx[b], down, type, large);
		free(from);
		free(back);
	}
	tap_ok(distance(y[1], y[0], large) < allowed(type) &&
		   distance(dx[1], dx[0], large) < allowed(type),
		   "%s of %dx%d, %s: cpu is ref", up ? "upsampling" : "subsampling",
		   w, h, eng_type_name(type));
	if (type == ENG_F32)
		tap_ok(fabs(2 * inner(y[0], dy, up ? large : little) -
					inner(dx[0], x, up ? little : large)) < 1e-3,
			   "%s of %dx%d: gradient", up ? "upsampling" : "subsampling", w,
			   h);
	free(x);
	free(dy);
	for (b = 0; b < 2; b++)
	{
		free(y[b]);
		free(dx[b]);
	}
}

static void
test_relu(EngType type)
{
	int64_t		n = 40001;
	size_t		size = eng_type_size(type) * n;
	float	   *values[2] = {noise(n), noise(n)};
	void	   *a = typed(values[0], type, n);
	void	   *b = typed(values[1], type, n);
	void	   *left = typed(values[0], type, n);
	void	   *right = typed(values[0], type, n);

	eng_store(b, type, 5, NAN);
	ref->relu_backward(ref, type, left, b, n);
	cpu->relu_backward(cpu, type, right, b, n);
	tap_ok(memcmp(left, right, size) == 0, "ReLU backward of %s: cpu is ref",
		   eng_type_name(type));
	ref->add_relu(ref, type, left, type, a, b, n);
	cpu->add_relu(cpu, type, right, type, a, b, n);
	tap_ok(memcmp(left, right, size) == 0 &&
		   isnan(eng_load(right, type, 5)),
		   "sum and ReLU of %s: cpu is ref, NaN stays",
		   eng_type_name(type));
	free(values[0]);
	free(values[1]);
	free(a);
	free(b);
	free(left);
	free(right);
}

/* x and add of float, y rounded. */
static void
test_relu_rounded(void)
{
	int64_t		n = 40001;
	float	   *a = noise(n);
	float	   *b = noise(n);
	uint16_t   *left = calloc(n, sizeof(*left));
	uint16_t   *right = calloc(n, sizeof(*right));
	int64_t		wrong = 0;

	a[5] = NAN;
	ref->add_relu(ref, ENG_BF16, left, ENG_F32, a, b, n);
	cpu->add_relu(cpu, ENG_BF16, right, ENG_F32, a, b, n);
	for (int64_t i = 0; i < n; i++)
		wrong += i != 5 &&
			left[i] != eng_bf16_from_float(fmaxf(a[i] + b[i], 0));
	tap_ok(wrong == 0 && isnan(eng_load(left, ENG_BF16, 5)) &&
		   memcmp(left, right, n * sizeof(*left)) == 0,
		   "sum and ReLU of f32 into bf16: rounded once, cpu is ref");
	free(a);
	free(b);
	free(left);
	free(right);
}

static void
test_sums(void)
{
	int64_t		n = 40001;
	float	   *a = noise(n);
	float	   *right = copy(a, n);
	double		sums[2];

	sums[0] = ref->square_sum(ref, a, n);
	sums[1] = cpu->square_sum(cpu, a, n);
	tap_ok(fabs(sums[0] - sums[1]) < 1e-9 * sums[0],
		   "sum of squares: cpu is ref");
	cpu->fill(cpu, right, n);
	tap_ok(cpu->square_sum(cpu, right, n) == 0, "filled with zeros");
	free(a);
	free(right);
}

/*
 * Rounding to bf16: nearest, ties to even, what is not finite kept.
 */
static void
test_rounding(void)
{
	static const struct
	{
		float		from;
		float		to;
	}			cases[] = {
		{1.0f, 1.0f}, {-0.0f, -0.0f}, {0x1.01p0f, 0x1.00p0f},
		{0x1.03p0f, 0x1.04p0f}, {0x1.0101p0f, 0x1.02p0f},
		{-0x1.03p0f, -0x1.04p0f}, {0x1.ffp0f, 0x1p1f},
		{0x1p-130f, 0x1p-130f}, {0x1.ffffp127f, INFINITY},
		{INFINITY, INFINITY}, {-INFINITY, -INFINITY}
	};
	uint32_t	quiet = 0x7f800001;
	float		nan;
	bool		right = true;
	size_t		i;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		float		got = eng_bf16_to_float(eng_bf16_from_float(cases[i].from));

		right = right && memcmp(&got, &cases[i].to, sizeof(got)) == 0;
	}
	tap_ok(right, "floats are rounded to bf16, ties to even");
	memcpy(&nan, &quiet, sizeof(nan));
	tap_ok(isnan(eng_bf16_to_float(eng_bf16_from_float(nan))) &&
		   isnan(eng_bf16_to_float(eng_bf16_from_float(-NAN))),
		   "what is not a number stays so in bf16");
}

/*
 * All 65536 numbers of f16, what lies half way between neighbours, and what
 * lies just beside that.
 */
static void
test_f16(void)
{
	int			wrong = 0;
	uint32_t	half;

	for (half = 0; half < 0x7c00; half++)
	{
		float		low = half < 0x400 ? ldexpf((float) half, -24) :
			ldexpf((float) (0x400 + half % 0x400), (int) (half / 0x400) - 25);
		float		high = half + 1 < 0x400 ? ldexpf((float) (half + 1), -24) :
			ldexpf((float) (0x400 + (half + 1) % 0x400),
				   (int) ((half + 1) / 0x400) - 25);
		float		middle = (low + high) / 2;
		uint32_t	even = half % 2 == 0 ? half : half + 1;

		wrong += eng_f16_to_float((uint16_t) half) != low ||
			eng_f16_to_float((uint16_t) (half | 0x8000)) != -low ||
			eng_f16_from_float(low) != half ||
			eng_f16_from_float(-low) != (half | 0x8000) ||
			eng_f16_from_float(middle) != even ||
			eng_f16_from_float(-middle) != (even | 0x8000) ||
			eng_f16_from_float(nextafterf(middle, 0)) != half ||
			eng_f16_from_float(nextafterf(middle, INFINITY)) != half + 1;
	}
	tap_ok(wrong == 0, "floats are rounded to f16, ties to even");
	tap_ok(eng_f16_from_float(INFINITY) == 0x7c00 &&
		   eng_f16_from_float(-INFINITY) == 0xfc00 &&
		   eng_f16_from_float(1e6f) == 0x7c00 &&
		   eng_f16_to_float(0x7c00) == INFINITY &&
		   eng_f16_to_float(0xfc00) == -INFINITY &&
		   isnan(eng_f16_to_float(eng_f16_from_float(NAN))) &&
		   isnan(eng_f16_to_float(0x7c01)) && isnan(eng_f16_to_float(0xffff)),
		   "what is too large for f16 is infinite, what is not a number stays so");
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
	int			type;

	if (!open_backends())
		return tap_done();
	test_norms();
	for (type = ENG_F32; type <= ENG_BF16; type++)
	{
		test_maxpool(9, 12, false, type);
		test_maxpool(8, 7, true, type);
		test_maxpool_nan(type);
		test_scaling(8, 6, true, type);
		test_scaling(7, 5, false, type);
		test_scaling(8, 6, false, type);
		test_relu(type);
	}
	test_relu_rounded();
	test_rounding();
	test_f16();
	test_sums();
	test_update(false);
	test_update(true);
	tap_ok(eng_backend_open("gpu", 1, &status) == NULL &&
		   status.code == ENG_UNSUPPORTED, "%s", status.message);
	close_backends();
	return tap_done();
}
