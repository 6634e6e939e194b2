/*
 * test/engine/device_ops.c
 *		Every operation of a device's table against ref, in all types.
 *
 * AVC_TEST_BACKEND names the device (cuda); without one there is nothing to
 * test.  Sizes are odd on purpose: channels that are no whole vectors, rows
 * that are no whole blocks.
 */
#include "device_arrays.h"

/* ---- norms ------------------------------------------------------------------ */

typedef struct NormCase
{
	int64_t		rows;
	int64_t		live;
	int32_t		channels;
	bool		batch;
	bool		relu;
	bool		add;
	bool		more;			/* gradients are added to what is there */
} NormCase;

static const NormCase norm_cases[] = {
	{1000, 1000, 64, true, true, false, false},
	{777, 700, 24, true, true, true, true},
	{333, 333, 7, true, false, false, false},
	{4097, 4097, 16, true, true, true, false},
	{130, 130, 2048, true, true, false, true},
	{500, 500, 32, false, true, true, false},
	{65, 0, 8, true, true, false, false}
};

static void
norm_args(EngNormArgs *a, const NormCase *c, EngType type, Both *b,
		  bool device)
{
	void	   *at[16];
	int			i;

	for (i = 0; i < 14; i++)
		at[i] = device ? b[i].device : b[i].host;
	*a = (EngNormArgs) {
		.rows = c->rows, .live = c->live, .channels = c->channels,
		.eps = 1e-5f, .momentum = 0.1f, .type = type, .x = at[0],
		.add = c->add ? at[1] : NULL, .y = at[2], .weight = at[3],
		.bias = at[4], .running_mean = at[5], .running_var = at[6],
		.mean = at[7], .rstd = at[8], .relu = c->relu, .batch = c->batch,
		.dy = at[9], .dx = at[10], .dadd = c->add ? at[11] : NULL,
		.dx_add = c->more, .dadd_add = c->more, .dweight = at[12],
		.dbias = at[13]
	};
}

static void
test_norm(const NormCase *c, EngType type)
{
	int64_t		all = c->rows * c->channels;
	size_t		room = gpu->norm_workspace(gpu, c->rows, c->channels);
	void	   *workspace = gpu->alloc(gpu, room + 1);
	EngNormArgs a;
	Both		b[14];
	char		name[80];
	int			i;

	for (i = 0; i < 14; i++)
		b[i] = noise(i < 3 || (i > 8 && i < 12) ? type : ENG_F32,
					 i < 3 || (i > 8 && i < 12) ? all : c->channels,
					 i == 6 ? 0.5f : -1);
	norm_args(&a, c, type, b, false);
	ref->norm_forward(ref, &a);
	norm_args(&a, c, type, b, true);
	a.workspace = workspace;
	gpu->norm_forward(gpu, &a);
	snprintf(name, sizeof(name), "norm of %d rows, %d live, %d channels%s%s%s",
			 (int) c->rows, (int) c->live, c->channels,
			 c->batch ? "" : ", frozen", c->relu ? ", ReLU" : "",
			 c->add ? ", sum" : "");
	same(&b[2], name, type);
	same(&b[5], "  its running mean", ENG_F32);
	same(&b[6], "  its running variance", ENG_F32);
	norm_args(&a, c, type, b, false);
	ref->norm_backward(ref, &a);
	norm_args(&a, c, type, b, true);
	a.workspace = workspace;
	gpu->norm_backward(gpu, &a);
	same(&b[10], "  its gradient", type);
	if (c->add)
		same(&b[11], "  its sum's gradient", type);
	same(&b[12], "  its weight's gradient", type);
	same(&b[13], "  its bias's gradient", type);
	for (i = 0; i < 14; i++)
		drop(&b[i]);
	gpu->free(gpu, workspace, room + 1);
}

/* ---- maps ------------------------------------------------------------------- */

static void
test_flat(EngType type, int64_t count)
{
	Both		x = noise(type, count, -1);
	Both		y = noise(type, count, -1);
	Both		z = noise(type, count, -1);

	ref->add_relu(ref, type, z.host, type, x.host, y.host, count);
	gpu->add_relu(gpu, type, z.device, type, x.device, y.device, count);
	same(&z, "sum and ReLU", type);
	ref->relu_backward(ref, type, x.host, y.host, count);
	gpu->relu_backward(gpu, type, x.device, y.device, count);
	same(&x, "what a ReLU hid", type);
	drop(&x);
	drop(&y);
	drop(&z);
}

/* x and add of float, y rounded: sizes from 2^-30 to 2^17, to the same bits. */
static void
test_flat_rounded(EngType type, int64_t count)
{
	Both		x = noise(ENG_F32, count, -1);
	Both		y = noise(ENG_F32, count, 0);
	Both		z = noise(type, count, -1);
	int64_t		i;

	for (i = 0; i < count; i++)
	{
		((float *) x.host)[i] *= ldexpf(1, (int) (i % 47) - 30);
		((float *) y.host)[i] *= ldexpf(1, (int) (i % 47) - 30);
	}
	gpu->upload(gpu, x.device, x.host, bytes(&x), &status);
	gpu->upload(gpu, y.device, y.host, bytes(&y), &status);
	ref->add_relu(ref, type, z.host, ENG_F32, x.host, y.host, count);
	gpu->add_relu(gpu, type, z.device, ENG_F32, x.device, y.device, count);
	gpu->download(gpu, x.host, z.device, bytes(&z), &status);
	tap_ok(memcmp(x.host, z.host, bytes(&z)) == 0,
		   "sum and ReLU of f32, %s: the same bits", eng_type_name(type));
	drop(&x);
	drop(&y);
	drop(&z);
}

static void
test_pool(EngType type, int32_t channels)
{
	EngPoolShape s = {2, 13, 18, channels, 7, 9, type};
	int64_t		in = (int64_t) s.n * s.h * s.w * s.c;
	int64_t		out = (int64_t) s.n * s.oh * s.ow * s.c;
	Both		x = noise(type, in, -1);
	Both		y = noise(type, out, -1);
	Both		which = noise(ENG_F32, out, -1);

	ref->maxpool_forward(ref, y.host, which.host, x.host, &s);
	gpu->maxpool_forward(gpu, y.device, which.device, x.device, &s);
	same(&y, "max-pool", type);
	ref->maxpool_backward(ref, x.host, y.host, which.host, &s, true);
	gpu->maxpool_backward(gpu, x.device, y.device, which.device, &s, true);
	same(&x, "its gradient", type);
	drop(&x);
	drop(&y);
	drop(&which);
}

static void
test_scale(EngType type, int32_t channels)
{
	EngScaleShape s = {2, 10, 14, channels, 5, 7, type};
	Both		large = noise(type, (int64_t) s.n * s.h * s.w * s.c, -1);
	Both		small = noise(type, (int64_t) s.n * s.oh * s.ow * s.c, -1);

	ref->upsample_add(ref, large.host, small.host, &s);
	gpu->upsample_add(gpu, large.device, small.device, &s);
	same(&large, "upsampled and added", type);
	ref->upsample_backward(ref, small.host, large.host, &s, true);
	gpu->upsample_backward(gpu, small.device, large.device, &s, true);
	same(&small, "its gradient", type);
	ref->subsample_backward(ref, large.host, small.host, &s, true);
	gpu->subsample_backward(gpu, large.device, small.device, &s, true);
	same(&large, "every second cell's gradient", type);
	ref->subsample(ref, small.host, large.host, &s);
	gpu->subsample(gpu, small.device, large.device, &s);
	same(&small, "every second cell", type);
	drop(&large);
	drop(&small);
}

/* ---- RoIs ------------------------------------------------------------------- */

#define ROIS	37

static void
make_rois(Both *boxes, Both *image, Both *level)
{
	int32_t		images[ROIS];
	int32_t		levels[ROIS];
	float	   *box;
	int			i;

	*boxes = noise(ENG_F32, 4 * ROIS, 0);
	box = boxes->host;
	for (i = 0; i < ROIS; i++)
	{
		float		side = i % 3 == 0 ? 3 : i % 3 == 1 ? 40 : 110;

		/* some reach beyond the map, the last ones are padding */
		box[4 * i] *= 60;
		box[4 * i + 1] *= 45;
		box[4 * i + 2] = box[4 * i] + side * box[4 * i + 2];
		box[4 * i + 3] = box[4 * i + 1] + side * box[4 * i + 3];
		images[i] = i > 33 ? -1 : i < 18 ? 0 : 1;
		levels[i] = i % ENG_ROI_LEVELS;
	}
	gpu->upload(gpu, boxes->device, box, bytes(boxes), &status);
	*image = ints(images, ROIS);
	*level = ints(levels, ROIS);
}

static void
test_roi_align(EngType type, int32_t channels)
{
	EngRoiMaps	maps = {.type = type, .images = 2, .channels = channels,
						.output = 7, .sampling = 2, .threads = 1};
	Both		map[ENG_ROI_LEVELS];
	Both		out = noise(type, (int64_t) ROIS * 49 * channels, -1);
	Both		boxes;
	Both		image;
	Both		level;
	EngRois		rois;
	void	   *at[ENG_ROI_LEVELS];
	bool		add[ENG_ROI_LEVELS] = {true, false, true, false};
	void	   *workspace;
	int			l;

	make_rois(&boxes, &image, &level);
	for (l = 0; l < ENG_ROI_LEVELS; l++)
	{
		maps.size[l] = (EngSize) {24 >> l, 34 >> l};
		maps.scale[l] = 0.25f / (float) (1 << l);
		map[l] = noise(type, (int64_t) 2 * maps.size[l].height *
					   maps.size[l].width * channels, -1);
		maps.map[l] = at[l] = map[l].host;
	}
	rois = (EngRois) {boxes.host, image.host, level.host, ROIS};
	ref->roi_align(ref, out.host, &maps, &rois);
	workspace = calloc(1, eng_roi_align_workspace(&maps) + 1);
	ref->roi_align_backward(ref, at, add, out.host, &maps, &rois, workspace);
	free(workspace);
	for (l = 0; l < ENG_ROI_LEVELS; l++)
		maps.map[l] = at[l] = map[l].device;
	rois = (EngRois) {boxes.device, image.device, level.device, ROIS};
	gpu->roi_align(gpu, out.device, &maps, &rois);
	same(&out, "RoIAlign", type);
	gpu->roi_align_backward(gpu, at, add, out.device, &maps, &rois, NULL);
	for (l = 0; l < ENG_ROI_LEVELS; l++)
	{
		same(&map[l], "  its gradient, by level", type);
		drop(&map[l]);
	}
	drop(&out);
	drop(&boxes);
	drop(&image);
	drop(&level);
}

/* ---- products ---------------------------------------------------------------- */

typedef struct ConvCase
{
	int32_t		n;
	int32_t		h;
	int32_t		w;
	int32_t		c;
	int32_t		oc;
	int32_t		k;
	int32_t		stride;
	bool		bias;
	bool		relu;
	bool		add;
	bool		wide;			/* float result of narrow input */
	bool		linear;
	bool		forward;		/* nothing else: inference */
} ConvCase;

static const ConvCase conv_cases[] = {
	{2, 33, 30, 3, 64, 7, 2, false, false, false, false, false},
	{2, 17, 22, 64, 64, 3, 1, true, true, true, false, false},
	{1, 16, 24, 64, 128, 3, 2, false, false, false, false, false},
	{2, 15, 19, 64, 32, 1, 1, true, false, true, false, false},
	{1, 14, 20, 64, 128, 1, 2, false, false, true, false, false},
	{2, 12, 10, 64, 3, 1, 1, true, false, false, true, false},
	{2, 12, 10, 64, 12, 1, 1, true, false, true, true, false},
	{37, 1, 1, 392, 96, 1, 1, true, true, false, false, true},
	{37, 1, 1, 96, 11, 1, 1, true, false, true, true, true},
	{5, 1, 1, 700, 33, 1, 1, true, false, true, false, true},
	{64, 1, 1, 48, 40, 1, 1, false, true, false, false, true},
	{37, 1, 1, 392, 96, 1, 1, true, true, false, false, true, true},
	{9, 1, 1, 392, 96, 1, 1, true, true, false, true, true, true},
	{9, 1, 1, 64, 7, 1, 1, false, true, false, false, true, true},
	{1, 1, 1, 17, 1, 1, 1, false, false, false, true, true}
};

static EngConvShape
conv_shape(const ConvCase *c, EngType type)
{
	EngConvShape s = {
		.n = c->n, .h = c->h, .w = c->w, .c = c->c, .oc = c->oc, .k = c->k,
		.stride = c->stride, .pad = c->k / 2, .bias = c->bias,
		.relu = c->relu, .need_data = !c->forward,
		.need_weight = !c->forward,
		.add_data = c->add, .x_type = type,
		.y_type = c->wide ? ENG_F32 : type
	};

	s.oh = (s.h + 2 * s.pad - s.k) / s.stride + 1;
	s.ow = (s.w + 2 * s.pad - s.k) / s.stride + 1;
	return s;
}

static void *
room(EngBackend *backend, const EngKernel *kernel)
{
	return backend->alloc(backend, backend->kernel_workspace(kernel) + 1);
}

/* Arrays of a convolution: x, weight, bias, y, dy; dx is x, dw is weight. */
static bool
run_conv(EngBackend *backend, const EngConvShape *s, bool linear, Both b[5],
		 bool device, Both gradient[3])
{
	EngKernel  *kernel = linear ?
		backend->linear_plan(backend, s, &status) :
		backend->conv_plan(backend, s, &status);
	void	   *at[8];
	void	   *workspace;
	bool		ok;
	int			i;

	if (kernel == NULL)
		return false;
	workspace = room(backend, kernel);
	for (i = 0; i < 5; i++)
		at[i] = device ? b[i].device : b[i].host;
	for (i = 0; i < 3; i++)
		at[5 + i] = device ? gradient[i].device : gradient[i].host;
	if (device)
		tap_note("by %s", backend->kernel_text(kernel));
	ok = backend->conv_forward(kernel, at[3], at[0], at[1],
							   s->bias ? at[2] : NULL, 5, workspace,
							   &status) &&
		(!s->need_data ||
		 backend->conv_backward_data(kernel, at[5], at[4], at[1], 5,
									 workspace, &status)) &&
		(!s->need_weight ||
		 backend->conv_backward_weight(kernel, at[6], s->bias ? at[7] : NULL,
									   at[0], at[4], workspace, &status));
	backend->free(backend, workspace, backend->kernel_workspace(kernel) + 1);
	backend->kernel_free(kernel);
	return ok;
}

static void
test_conv(const ConvCase *c, EngType type)
{
	EngConvShape s = conv_shape(c, type);
	int64_t		in = (int64_t) s.n * s.h * s.w * s.c;
	int64_t		out = (int64_t) s.n * s.oh * s.ow * s.oc;
	int64_t		weights = (int64_t) s.oc * s.k * s.k * s.c;
	Both		b[5] = {
		noise(type, in, -1), noise(ENG_F32, weights, -1),
		noise(ENG_F32, s.oc, -1), noise(s.y_type, out, -1),
		noise(s.y_type, out, -1)
	};
	Both		gradient[3] = {
		noise(type, in, -1), noise(ENG_F32, weights, -1),
		noise(ENG_F32, s.oc, -1)
	};
	char		name[80];
	int			i;

	snprintf(name, sizeof(name), "%s of %dx%dx%dx%d by %d, %dx%d, stride %d",
			 c->linear ? "linear layer" : "convolution", s.n, s.h, s.w, s.c,
			 s.oc, s.k, s.k, s.stride);
	if (!run_conv(ref, &s, c->linear, b, false, gradient) ||
		!run_conv(gpu, &s, c->linear, b, true, gradient))
		tap_ok(false, "%s: %s", name, status.message);
	else
	{
		same(&b[3], name, type);
		same(&gradient[0], "  its input's gradient", type);
		same(&gradient[1], "  its weight's gradient", type);
		same(&gradient[2], "  its bias's gradient", type);
	}
	for (i = 0; i < 5; i++)
		drop(&b[i]);
	for (i = 0; i < 3; i++)
		drop(&gradient[i]);
}

/*
 * Floats that may be rounded to TF32's 10 bits: results are near, and where
 * the plan says so further off than by sums in another order alone.
 */
static void
test_conv_tf32(const ConvCase *c)
{
	EngConvShape s = conv_shape(c, ENG_F32);
	Both		x = noise(ENG_F32, (int64_t) s.n * s.h * s.w * s.c, -1);
	Both		weight = noise(ENG_F32, (int64_t) s.oc * s.k * s.k * s.c, -1);
	Both		y = noise(ENG_F32, (int64_t) s.n * s.oh * s.ow * s.oc, -1);
	EngKernel  *kernels[2];
	void	   *workspace;
	double		d;
	bool		rounded;
	bool		ok;

	s.bias = s.relu = s.add_data = s.need_data = s.need_weight = false;
	s.tf32 = true;
	kernels[0] = ref->conv_plan(ref, &s, &status);
	kernels[1] = gpu->conv_plan(gpu, &s, &status);
	if (!tap_ok(kernels[0] != NULL && kernels[1] != NULL,
				"a convolution that may be in TF32: %s", status.message))
		return;
	workspace = room(gpu, kernels[1]);
	ok = ref->conv_forward(kernels[0], y.host, x.host, weight.host, NULL, 5,
						   NULL, &status) &&
		gpu->conv_forward(kernels[1], y.device, x.device, weight.device, NULL,
						  5, workspace, &status);
	d = distance(&y);
	rounded = strstr(gpu->kernel_text(kernels[1]), "TF32") != NULL;
	tap_ok(ok && d <= (rounded ? 2e-3 : allowed(ENG_F32)) &&
		   (!rounded || d > allowed(ENG_F32)),
		   "%d channels by %dx%d to %d that may be in TF32: %.1e, by %s", s.c,
		   s.k, s.k, s.oc, d,
		   ok ? gpu->kernel_text(kernels[1]) : status.message);
	gpu->free(gpu, workspace, gpu->kernel_workspace(kernels[1]) + 1);
	gpu->kernel_free(kernels[1]);
	ref->kernel_free(kernels[0]);
	drop(&x);
	drop(&weight);
	drop(&y);
}

/*
 * Inference: bias and ReLU, and a sum before it, which the device may do in
 * the same kernel.
 */
static void
test_conv_ending(const ConvCase *c, EngType type, bool sum)
{
	EngConvShape s = conv_shape(c, type);
	int64_t		in = (int64_t) s.n * s.h * s.w * s.c;
	int64_t		out = (int64_t) s.n * s.oh * s.ow * s.oc;
	Both		x = noise(type, in, -1);
	Both		weight = noise(ENG_F32, (int64_t) s.oc * s.k * s.k * s.c, -1);
	Both		bias = noise(ENG_F32, s.oc, -1);
	Both		add = noise(type, out, -1);
	Both		y = noise(type, out, -1);
	EngKernel  *kernels[2];
	void	   *workspace;
	bool		ok;

	s.y_type = type;
	s.bias = true;
	s.need_data = s.need_weight = s.add_data = false;
	s.relu = !sum;
	kernels[0] = ref->conv_plan(ref, &s, &status);
	s.relu = true;
	s.sum = sum;
	kernels[1] = gpu->conv_plan(gpu, &s, &status);
	if (kernels[0] == NULL || kernels[1] == NULL)
	{
		tap_ok(false, "%d channels by %dx%d to %d, %sbias and ReLU, %s: %s",
			   s.c, s.k, s.k, s.oc, sum ? "sum, " : "", eng_type_name(type),
			   status.message);
		return;
	}
	workspace = room(gpu, kernels[1]);
	ok = ref->conv_forward(kernels[0], y.host, x.host, weight.host,
								 bias.host, 5, NULL, &status);
	if (sum)
		ref->add_relu(ref, type, y.host, type, y.host, add.host, out);
	ok = ok && (sum ?
				gpu->conv_forward_sum(kernels[1], y.device, x.device,
									  add.device, weight.device, bias.device,
									  5, workspace, &status) :
				gpu->conv_forward(kernels[1], y.device, x.device,
								  weight.device, bias.device, 5, workspace,
								  &status));
	tap_ok(ok, "%d channels by %dx%d to %d, %sbias and ReLU, %s: %s", s.c,
		   s.k, s.k, s.oc, sum ? "sum, " : "", eng_type_name(type),
		   ok ? gpu->kernel_text(kernels[1]) : status.message);
	same(&y, "  its result", type);
	gpu->free(gpu, workspace, gpu->kernel_workspace(kernels[1]) + 1);
	gpu->kernel_free(kernels[1]);
	ref->kernel_free(kernels[0]);
	drop(&x);
	drop(&weight);
	drop(&bias);
	drop(&add);
	drop(&y);
}

static void
test_fold(void)
{
	Both		b[8];
	EngFold		fold = {.eps = 1e-5f, .oc = 20, .size = 63};
	int			i;

	for (i = 0; i < 8; i++)
		b[i] = noise(ENG_F32, i == 0 || i == 2 ? 20 * 63 : 20, i == 7 ? 0 : -1);
	for (i = 0; i < 2; i++)
	{
		bool		device = i == 1;

		fold.weight = device ? b[0].device : b[0].host;
		fold.bias = device ? b[1].device : b[1].host;
		fold.from = device ? b[2].device : b[2].host;
		fold.from_bias = device ? b[3].device : b[3].host;
		fold.norm_weight = device ? b[4].device : b[4].host;
		fold.norm_bias = device ? b[5].device : b[5].host;
		fold.mean = device ? b[6].device : b[6].host;
		fold.var = device ? b[7].device : b[7].host;
		(device ? gpu : ref)->fold(device ? gpu : ref, &fold);
	}
	same(&b[0], "weights with a norm multiplied in", ENG_F32);
	same(&b[1], "their bias", ENG_F32);
	for (i = 0; i < 8; i++)
		drop(&b[i]);
}

/* ---- the optimizer -------------------------------------------------------------- */

static void
test_update(bool adamw, bool broken)
{
	int64_t		count = 5003;
	Both		b[4];
	EngUpdate	u = {.count = count, .lr = 0.01f, .weight_decay = 0.1f,
					 .momentum = 0.9f, .beta1 = 0.9f, .beta2 = 0.99f,
					 .eps = 1e-8f, .correction1 = 0.1, .correction2 = 0.01};
	EngStepControl control = {0.01f, 10, 0.1, 0.01};
	EngStepOutcome outcome;
	double		norm;
	float		bad = NAN;
	int			i;

	for (i = 0; i < 4; i++)
		b[i] = noise(ENG_F32, count, i == 3 ? 0 : -1);
	if (broken)
		gpu->upload(gpu, b[1].device, &bad, sizeof(bad), &status);
	norm = sqrt(ref->square_sum(ref, b[1].host, count));
	u.scale = (float) (10 / (norm + 1e-6));
	for (i = 0; i < (broken ? 0 : 1); i++)
	{
		u.value = b[0].host;
		u.gradient = b[1].host;
		u.slot0 = b[2].host;
		u.slot1 = b[3].host;
		(adamw ? ref->update_adamw : ref->update_sgd) (ref, &u);
	}
	u.value = b[0].device;
	u.gradient = b[1].device;
	u.slot0 = b[2].device;
	u.slot1 = b[3].device;
	tap_ok(gpu->step_begin(gpu, &control, &status), "a step begins");
	gpu->step_norm(gpu, u.gradient, count);
	(adamw ? gpu->update_adamw : gpu->update_sgd) (gpu, &u);
	tap_ok(gpu->step_end(gpu, &outcome, &status) &&
		   outcome.updated == !broken &&
		   (broken || fabs(outcome.norm - norm) < 1e-9 * norm),
		   "and ends%s, its norm %g", broken ? " without an update" : "",
		   outcome.norm);
	same(&b[0], adamw ? "AdamW" : "SGD", ENG_F32);
	same(&b[2], "  its first slot", ENG_F32);
	for (i = 0; i < 4; i++)
		drop(&b[i]);
}

static void
test_type(EngType type)
{
	size_t		i;

	for (i = 0; i < sizeof(norm_cases) / sizeof(norm_cases[0]); i++)
		test_norm(&norm_cases[i], type);
	test_flat(type, 1024);
	test_flat(type, 777);
	test_pool(type, 24);
	test_pool(type, 5);
	test_scale(type, 24);
	test_scale(type, 5);
	test_roi_align(type, 40);
	test_roi_align(type, 131);
	for (i = 0; i < sizeof(conv_cases) / sizeof(conv_cases[0]); i++)
	{
		test_conv(&conv_cases[i], type);
		if (!conv_cases[i].linear)
		{
			test_conv_ending(&conv_cases[i], type, false);
			test_conv_ending(&conv_cases[i], type, true);
		}
	}
}

int
main(void)
{
	int			type;
	int			i;

	if (!open_both())
		return tap_done();
	for (type = ENG_F32; type <= ENG_F16; type++)
		if (type != ENG_BF16 || gpu->lacks_bf16 == NULL)
			test_type(type);
	for (i = 0; i < 4; i++)
		test_conv_tf32(&conv_cases[i]);
	test_fold();
	test_update(false, false);
	test_update(true, false);
	test_update(true, true);
	for (type = ENG_BF16; type <= ENG_F16; type++)
		test_flat_rounded(type, 5000);
	close_both();
	return tap_done();
}
