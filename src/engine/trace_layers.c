/*
 * engine/trace_layers.c
 *		Recorded layers, each run alone through the backend's table.
 *
 * Recorded tensors have torch's layout: maps are permuted on the way in and
 * out, and so are the weights of convolutions.
 */
#include <math.h>
#include <string.h>

#include "engine/trace_steps.h"

#define SHAPE(...) ((const int64_t[4]) {__VA_ARGS__})

/* A map in NHWC with the shape it was recorded in. */
typedef struct Map
{
	EngTraceShape shape;
	float	   *data;
	size_t		count;
} Map;

static Map
map_alloc(EngTraceCase *trace, EngTraceShape shape)
{
	Map			map;

	map.shape = shape;
	map.count = (size_t) shape.n * shape.c * shape.h * shape.w;
	map.data = eng_trace_alloc(trace, map.count * sizeof(float));
	return map;
}

/* Input NAME.PART; a tensor of rank 2 is a map of one cell. */
static Map
map_in(EngTraceCase *trace, const char *name, const char *part)
{
	const EngFileTensor *tensor = eng_trace_tensor(trace, "%s.%s", name, part);
	float	   *in = eng_trace_floats(trace, "%s.%s", name, part);
	EngTraceShape shape = {0, 0, 1, 1};
	Map			map = {{0, 0, 0, 0}, NULL, 0};

	if (in == NULL)
		return map;
	if (tensor->rank != 4 && tensor->rank != 2)
	{
		eng_fail(eng_trace_status(trace), ENG_BAD_FILE,
				 "tensor \"%s\" is no map", tensor->name);
		return map;
	}
	shape.n = (int32_t) tensor->shape[0];
	shape.c = (int32_t) tensor->shape[1];
	if (tensor->rank == 4)
	{
		shape.h = (int32_t) tensor->shape[2];
		shape.w = (int32_t) tensor->shape[3];
	}
	map = map_alloc(trace, shape);
	if (map.data != NULL)
		eng_trace_to_nhwc(map.data, in, shape);
	return map;
}

static bool
map_out(EngTraceCase *trace, const char *name, const char *part,
		const Map *map, int32_t rank)
{
	EngTraceShape s = map->shape;
	EngTraceOut out = eng_trace_out(rank, SHAPE(s.n, s.c, s.h, s.w), "%s.%s",
									name, part);
	float	   *data = eng_trace_alloc(trace, map->count * sizeof(float));

	if (data == NULL)
		return false;
	eng_trace_to_nchw(data, map->data, s, s.c);
	return eng_trace_put_floats(trace, &out, data);
}

static bool
vector_out(EngTraceCase *trace, const char *name, const char *part,
		   const float *data, int64_t n)
{
	EngTraceOut out = eng_trace_out(1, SHAPE(n), "%s.%s", name, part);

	return eng_trace_put_floats(trace, &out, data);
}

static bool
misfit(EngTraceCase *trace, const char *name)
{
	return eng_fail(eng_trace_status(trace), ENG_BAD_FILE,
					"the shapes of \"%s\" do not fit together", name);
}

/* Is b half as high and wide as a, rounded up, with the same n and c? */
static bool
is_half(const Map *a, const Map *b)
{
	return b->shape.n == a->shape.n && b->shape.c == a->shape.c &&
		b->shape.h == (a->shape.h + 1) / 2 &&
		b->shape.w == (a->shape.w + 1) / 2;
}

/* ---- convolution and linear ------------------------------------------------ */

typedef struct ConvRun
{
	EngConvShape shape;
	Map			x;
	Map			w;
	Map			y;
	Map			gy;
	Map			dx;
	Map			dw;
	float	   *bias;			/* or NULL */
	float	   *dbias;
} ConvRun;

static bool
conv_load(ConvRun *run, EngTraceCase *trace, const char *name)
{
	EngConvShape *s = &run->shape;

	memset(run, 0, sizeof(*run));
	run->x = map_in(trace, name, "x");
	run->w = map_in(trace, name, "w");
	run->gy = map_in(trace, name, "gy");
	if (run->x.data == NULL || run->w.data == NULL || run->gy.data == NULL)
		return false;
	s->n = run->x.shape.n;
	s->h = run->x.shape.h;
	s->w = run->x.shape.w;
	s->c = run->x.shape.c;
	s->oh = run->gy.shape.h;
	s->ow = run->gy.shape.w;
	s->oc = run->gy.shape.c;
	s->k = run->w.shape.h;
	s->stride = (int32_t) eng_trace_option(trace, name, "stride", 1);
	s->pad = (int32_t) eng_trace_option(trace, name, "padding", 0);
	s->bias = eng_trace_has(trace, "%s.b", name);
	s->need_data = s->need_weight = true;
	run->y = map_alloc(trace, run->gy.shape);
	run->dx = map_alloc(trace, run->x.shape);
	run->dw = map_alloc(trace, run->w.shape);
	run->dbias = eng_trace_alloc(trace, (size_t) s->oc * sizeof(float));
	if (s->bias)
		run->bias = eng_trace_floats(trace, "%s.b", name);
	if (s->k < 1 || s->stride < 1 || run->w.shape.w != s->k ||
		run->w.shape.n != s->oc || run->w.shape.c != s->c ||
		run->gy.shape.n != s->n ||
		s->oh != (s->h + 2 * s->pad - s->k) / s->stride + 1 ||
		s->ow != (s->w + 2 * s->pad - s->k) / s->stride + 1)
		return misfit(trace, name);
	if (s->bias && !eng_trace_expect(trace, s->oc, "%s.b", name))
		return false;
	return run->y.data != NULL && run->dx.data != NULL &&
		run->dw.data != NULL && run->dbias != NULL &&
		(!s->bias || run->bias != NULL);
}

static bool
conv_run(ConvRun *run, EngTraceCase *trace, EngBackend *backend,
		 EngKernel *kernel)
{
	EngStatus  *status = eng_trace_status(trace);
	void	   *work = eng_trace_alloc(trace,
									   backend->kernel_workspace(kernel));

	/* the weights never change: one version for all calls */
	return work != NULL &&
		backend->conv_forward(kernel, run->y.data, run->x.data, run->w.data,
							  run->bias, 1, work, status) &&
		backend->conv_backward_data(kernel, run->dx.data, run->gy.data,
									run->w.data, 1, work, status) &&
		backend->conv_backward_weight(kernel, run->dw.data,
									  run->bias != NULL ? run->dbias : NULL,
									  run->x.data, run->gy.data, work,
									  status);
}

static bool
conv_or_linear(EngTraceCase *trace, EngBackend *backend, const char *name,
			   bool linear)
{
	ConvRun		run;
	EngKernel  *kernel;
	int32_t		rank = linear ? 2 : 4;
	bool		done;

	if (!conv_load(&run, trace, name))
		return false;
	kernel = linear ?
		backend->linear_plan(backend, &run.shape, eng_trace_status(trace)) :
		backend->conv_plan(backend, &run.shape, eng_trace_status(trace));
	if (kernel == NULL)
		return false;
	done = conv_run(&run, trace, backend, kernel);
	backend->kernel_free(kernel);
	return done && map_out(trace, name, "y", &run.y, rank) &&
		map_out(trace, name, "g_x", &run.dx, rank) &&
		map_out(trace, name, "g_w", &run.dw, rank) &&
		(run.bias == NULL ||
		 vector_out(trace, name, "g_b", run.dbias, run.shape.oc));
}

static bool
step_conv(EngTraceCase *trace, EngBackend *backend, const char *name)
{
	return conv_or_linear(trace, backend, name, false);
}

static bool
step_linear(EngTraceCase *trace, EngBackend *backend, const char *name)
{
	return conv_or_linear(trace, backend, name, true);
}

/* ---- norm ------------------------------------------------------------------- */

static bool
step_norm(EngTraceCase *trace, EngBackend *backend, const char *name)
{
	bool		frozen = strncmp(name, "bn_frozen", 9) == 0;
	Map			x = map_in(trace, name, "x");
	Map			gy = map_in(trace, name, "gy");
	Map			y = map_alloc(trace, x.shape);
	Map			dx = map_alloc(trace, x.shape);
	int32_t		c = x.shape.c;
	float	   *room = eng_trace_alloc(trace, (size_t) c * 4 * sizeof(float));
	EngNormArgs args;

	memset(&args, 0, sizeof(args));
	args.rows = args.live = (int64_t) x.shape.n * x.shape.h * x.shape.w;
	args.channels = c;
	args.eps = (float) eng_trace_option(trace, name, "eps", 1e-5);
	args.momentum = (float) eng_trace_option(trace, name, "momentum", 0.1);
	args.x = x.data;
	args.y = y.data;
	args.weight = eng_trace_floats(trace, frozen ? "%s.weight" : "%s.w", name);
	args.bias = eng_trace_floats(trace, frozen ? "%s.bias" : "%s.b", name);
	args.running_mean = eng_trace_floats(trace, "%s.running_mean", name);
	args.running_var = eng_trace_floats(trace, "%s.running_var", name);
	args.workspace = eng_trace_alloc(trace,
									 backend->norm_workspace(backend,
															 args.rows, c));
	if (x.data == NULL || gy.data == NULL || y.data == NULL ||
		dx.data == NULL || room == NULL || args.weight == NULL ||
		args.bias == NULL || args.running_mean == NULL ||
		args.running_var == NULL || args.workspace == NULL)
		return false;
	if (gy.count != x.count ||
		!eng_trace_expect(trace, c, frozen ? "%s.weight" : "%s.w", name) ||
		!eng_trace_expect(trace, c, frozen ? "%s.bias" : "%s.b", name) ||
		!eng_trace_expect(trace, c, "%s.running_mean", name) ||
		!eng_trace_expect(trace, c, "%s.running_var", name))
		return misfit(trace, name);
	args.mean = room;
	args.rstd = room + c;
	args.batch = !frozen;
	backend->norm_forward(backend, &args);
	args.dy = gy.data;
	args.dx = dx.data;
	args.dweight = frozen ? NULL : room + 2 * c;
	args.dbias = frozen ? NULL : room + 3 * c;
	backend->norm_backward(backend, &args);
	if (!map_out(trace, name, "y", &y, 4) ||
		!map_out(trace, name, "g_x", &dx, 4))
		return false;
	return frozen ||
		(vector_out(trace, name, "g_w", args.dweight, c) &&
		 vector_out(trace, name, "g_b", args.dbias, c) &&
		 vector_out(trace, name, "running_mean", args.running_mean, c) &&
		 vector_out(trace, name, "running_var", args.running_var, c));
}

/* ---- maps -------------------------------------------------------------------- */

static bool
step_maxpool(EngTraceCase *trace, EngBackend *backend, const char *name)
{
	Map			x = map_in(trace, name, "x");
	Map			gy = map_in(trace, name, "gy");
	Map			y = map_alloc(trace, gy.shape);
	Map			dx = map_alloc(trace, x.shape);
	uint8_t    *which = eng_trace_alloc(trace, gy.count);
	EngPoolShape shape = {x.shape.n, x.shape.h, x.shape.w, x.shape.c,
	gy.shape.h, gy.shape.w};

	if (x.data == NULL || gy.data == NULL || y.data == NULL ||
		dx.data == NULL || which == NULL)
		return false;
	if (!is_half(&x, &gy))
		return misfit(trace, name);
	backend->maxpool_forward(backend, y.data, which, x.data, &shape);
	backend->maxpool_backward(backend, dx.data, gy.data, which, &shape,
							  false);
	return map_out(trace, name, "y", &y, 4) &&
		map_out(trace, name, "g_x", &dx, 4);
}

static bool
step_upsample(EngTraceCase *trace, EngBackend *backend, const char *name)
{
	Map			low = map_in(trace, name, "low");
	Map			top = map_in(trace, name, "top");
	Map			gy = map_in(trace, name, "gy");
	Map			dtop = map_alloc(trace, top.shape);
	EngScaleShape shape = {low.shape.n, low.shape.h, low.shape.w, low.shape.c,
	top.shape.h, top.shape.w};

	if (low.data == NULL || top.data == NULL || gy.data == NULL ||
		dtop.data == NULL)
		return false;
	if (!is_half(&low, &top) || gy.count != low.count)
		return misfit(trace, name);
	backend->upsample_add(backend, low.data, top.data, &shape);
	backend->upsample_backward(backend, dtop.data, gy.data, &shape, false);
	return map_out(trace, name, "y", &low, 4) &&
		map_out(trace, name, "g_low", &gy, 4) &&
		map_out(trace, name, "g_top", &dtop, 4);
}

static bool
step_subsample(EngTraceCase *trace, EngBackend *backend, const char *name)
{
	Map			x = map_in(trace, name, "x");
	Map			gy = map_in(trace, name, "gy");
	Map			y = map_alloc(trace, gy.shape);
	Map			dx = map_alloc(trace, x.shape);
	EngScaleShape shape = {x.shape.n, x.shape.h, x.shape.w, x.shape.c,
	gy.shape.h, gy.shape.w};

	if (x.data == NULL || gy.data == NULL || y.data == NULL || dx.data == NULL)
		return false;
	if (!is_half(&x, &gy))
		return misfit(trace, name);
	backend->subsample(backend, y.data, x.data, &shape);
	backend->subsample_backward(backend, dx.data, gy.data, &shape, false);
	return map_out(trace, name, "y", &y, 4) &&
		map_out(trace, name, "g_x", &dx, 4);
}

static bool
step_relu_add(EngTraceCase *trace, EngBackend *backend, const char *name)
{
	Map			a = map_in(trace, name, "a");
	Map			b = map_in(trace, name, "b");
	Map			gy = map_in(trace, name, "gy");
	Map			y = map_alloc(trace, gy.shape);

	if (a.data == NULL || b.data == NULL || gy.data == NULL || y.data == NULL)
		return false;
	if (a.count != y.count || b.count != y.count)
		return misfit(trace, name);
	backend->add_relu(backend, ENG_F32, y.data, ENG_F32, a.data, b.data,
					  (int64_t) y.count);
	backend->relu_backward(backend, ENG_F32, gy.data, y.data,
						   (int64_t) y.count);
	return map_out(trace, name, "y", &y, 4) &&
		map_out(trace, name, "g_a", &gy, 4) &&
		map_out(trace, name, "g_b", &gy, 4);
}

static bool
step_roi_align(EngTraceCase *trace, EngBackend *backend, const char *name)
{
	Map			x = map_in(trace, name, "x");
	Map			gy = map_in(trace, name, "gy");
	Map			y = map_alloc(trace, gy.shape);
	Map			dx = map_alloc(trace, x.shape);
	float	   *recorded = eng_trace_floats(trace, "%s.rois", name);
	int32_t		n = gy.shape.n;
	float	   *boxes = eng_trace_alloc(trace, (size_t) n * 16);
	int32_t    *image = eng_trace_alloc(trace, (size_t) n * 4);
	int32_t    *level = eng_trace_alloc(trace, (size_t) n * 4);
	int32_t		sampling = (int32_t) eng_trace_option(trace, name,
												  "sampling_ratio", 2);
	EngRoiMaps	maps;
	EngRois		rois = {boxes, image, level, n};

	if (x.data == NULL || gy.data == NULL || y.data == NULL ||
		dx.data == NULL || recorded == NULL || boxes == NULL ||
		image == NULL || level == NULL)
		return false;
	if (!eng_trace_expect(trace, 5 * (int64_t) n, "%s.rois", name) ||
		gy.shape.c != x.shape.c || gy.shape.h != gy.shape.w ||
		sampling < 1 || gy.shape.h * sampling > ENG_ROI_SAMPLES)
		return misfit(trace, name);
	for (int32_t i = 0; i < n; i++)
	{
		if (!(recorded[5 * i] >= 0 && recorded[5 * i] < x.shape.n))
			return misfit(trace, name);
		image[i] = (int32_t) recorded[5 * i];
		memcpy(boxes + 4 * i, recorded + 5 * i + 1, 16);
	}
	memset(&maps, 0, sizeof(maps));
	maps.map[0] = x.data;
	maps.size[0].height = x.shape.h;
	maps.size[0].width = x.shape.w;
	maps.scale[0] = (float) eng_trace_option(trace, name, "scale", 0.25);
	maps.images = x.shape.n;
	maps.channels = x.shape.c;
	maps.output = gy.shape.h;
	maps.sampling = sampling;
	maps.threads = backend->threads > 0 ? backend->threads : 1;
	backend->roi_align(backend, y.data, &maps, &rois);
	backend->roi_align_backward(backend, (void *const[4])
								{
									dx.data
								}, (const bool[4])
								{
									false
								}, gy.data, &maps, &rois, NULL);
	return map_out(trace, name, "y", &y, 4) &&
		map_out(trace, name, "g_x", &dx, 4);
}

/* ---- optimizer ---------------------------------------------------------------- */

/*
 * Nesterov's variant moves by the gradient plus the new momentum once more.
 * The table has plain momentum only, so: one update of a copy brings the
 * momentum forward, another one without momentum makes the move.
 */
static bool
nesterov_update(EngTraceCase *trace, EngBackend *backend,
				const EngUpdate *update)
{
	size_t		size = (size_t) update->count * sizeof(float);
	float	   *copy = eng_trace_alloc(trace, size);
	float	   *move = eng_trace_alloc(trace, size);
	float	   *unused = eng_trace_alloc(trace, size);
	EngUpdate	u = *update;

	if (copy == NULL || move == NULL || unused == NULL)
		return false;
	memcpy(copy, update->value, size);
	u.value = copy;
	backend->update_sgd(backend, &u);
	for (int64_t i = 0; i < update->count; i++)
		move[i] = update->gradient[i] + update->momentum * update->slot0[i];
	u = *update;
	u.gradient = move;
	u.momentum = 0.0f;
	u.slot0 = unused;
	backend->update_sgd(backend, &u);
	return true;
}

static bool
step_sgd(EngTraceCase *trace, EngBackend *backend, const char *name)
{
	const EngFileTensor *tensor = eng_trace_tensor(trace, "%s.p", name);
	bool		nesterov = eng_trace_option(trace, name, "nesterov", 0) != 0;
	EngUpdate	update;

	memset(&update, 0, sizeof(update));
	update.value = eng_trace_floats(trace, "%s.p", name);
	if (update.value == NULL)
		return false;
	update.count = tensor->count;
	update.slot0 = eng_trace_alloc(trace, (size_t) tensor->count * 4);
	update.scale = 1.0f;
	update.lr = (float) eng_trace_option(trace, name, "lr", 0.1);
	update.momentum = (float) eng_trace_option(trace, name, "momentum", 0);
	update.weight_decay = (float) eng_trace_option(trace, name,
												   "weight_decay", 0);
	for (int step = 0; step < 3; step++)
	{
		char		part[16];

		update.gradient = eng_trace_floats(trace, "%s.g%d", name, step);
		if (!eng_trace_expect(trace, update.count, "%s.g%d", name, step))
			return false;
		if (update.gradient == NULL || update.slot0 == NULL)
			return false;
		if (!nesterov)
			backend->update_sgd(backend, &update);
		else if (!nesterov_update(trace, backend, &update))
			return false;
		snprintf(part, sizeof(part), "p%d", step);
		if (!vector_out(trace, name, part, update.value, update.count))
			return false;
	}
	return true;
}

static bool
step_clip(EngTraceCase *trace, EngBackend *backend, const char *name)
{
	double		most = eng_trace_option(trace, name, "max_norm", 10);
	double		squares = 0.0;
	float	   *g[2];
	float		norm;
	float		factor;

	for (int i = 0; i < 2; i++)
	{
		g[i] = eng_trace_floats(trace, "%s.g%d", name, i);
		if (g[i] == NULL)
			return false;
		squares += backend->square_sum(backend, g[i],
									   eng_trace_tensor(trace, "%s.g%d", name,
														i)->count);
	}
	norm = (float) sqrt(squares);
	factor = (float) fmin(1.0, most / (sqrt(squares) + 1e-6));
	for (int i = 0; i < 2; i++)
	{
		const EngFileTensor *tensor = eng_trace_tensor(trace, "%s.g%d", name,
													   i);
		EngTraceOut out = eng_trace_out(tensor->rank, tensor->shape, "%s.g%d",
										name, i);

		for (int64_t k = 0; k < tensor->count; k++)
			g[i][k] *= factor;
		if (!eng_trace_put_floats(trace, &out, g[i]))
			return false;
	}
	return vector_out(trace, name, "norm", &norm, 1);
}

EngTraceStep
eng_trace_find_layer(const char *name)
{
	static const struct
	{
		const char *prefix;
		EngTraceStep step;
	}			steps[] =
	{
		{"conv", step_conv},
		{"linear", step_linear},
		{"bn_", step_norm},
		{"maxpool", step_maxpool},
		{"nearest_up2_add", step_upsample},
		{"pool_p6", step_subsample},
		{"relu_add", step_relu_add},
		{"roi_align", step_roi_align},
		{"sgd_", step_sgd},
		{"clip", step_clip}
	};

	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
		if (strncmp(name, steps[i].prefix, strlen(steps[i].prefix)) == 0)
			return steps[i].step;
	return NULL;
}
