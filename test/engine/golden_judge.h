/*
 * test/engine/golden_judge.h
 *		Compare a file of outputs with a recorded case, tensor by tensor.
 *
 * A ReLU whose input lies within rounding of zero passes or blocks its
 * gradient, and one such flip late in a net changes single gradients by per
 * cents.  So single operations are judged to 1e-5, whole nets by the
 * relative L2 error of every tensor and by its median over tensors.
 */
#ifndef TEST_ENGINE_GOLDEN_JUDGE_H
#define TEST_ENGINE_GOLDEN_JUDGE_H

#include <jansson.h>

#include "engine/core/random.h"
#include "engine/io/file.h"
#include "tap.h"

/* Limits on gradients: of one tensor's L2 and largest error, of the median. */
typedef struct Limits
{
	double		l2;
	double		largest;
	double		median;
} Limits;

#define MOST_TENSORS 4096

/* Relative L2 errors of the gradients of one kind. */
typedef struct Group
{
	char		name[40];
	double		l2[MOST_TENSORS];
	int			count;
} Group;

typedef struct Case
{
	EngBuffer	golden_image;
	EngBuffer	output_image;
	EngTensorFile *golden;
	EngTensorFile *output;
	json_t	   *config;
	json_t	   *noise;			/* reference's own rounding, by tensor */
	json_t	   *delta_max;		/* largest change, by step and parameter */
	Limits		limits;
	bool		operations;
	Group		groups[12];
	int			group_count;
	int			compared;
	int			failed;
} Case;

/* The comparable part of a tensor: elements in float64, and their places. */
typedef struct View
{
	double	   *x;
	int64_t		count;
	int64_t		stride;			/* place of element j is j * stride */
	double		largest;		/* of the whole tensor */
	double		l2;				/* of the whole tensor; -1: not reduced */
	double		sum;
	double		elements;
} View;

static double
element(const EngFileTensor *t, int64_t i)
{
	double		d;
	float		f;
	int32_t		n;
	int64_t		w;

	switch (t->dtype)
	{
		case ENG_FILE_F64:
			memcpy(&d, t->data + 8 * i, 8);
			return d;
		case ENG_FILE_F32:
			memcpy(&f, t->data + 4 * i, 4);
			return f;
		case ENG_FILE_I32:
			memcpy(&n, t->data + 4 * i, 4);
			return n;
		case ENG_FILE_I64:
			memcpy(&w, t->data + 8 * i, 8);
			return (double) w;
		default:
			return NAN;
	}
}

static View
view_of(const EngFileTensor *t, bool reduced)
{
	View		v = {NULL, t->count, 1, 0.0, -1.0, 0.0, (double) t->count};
	int64_t		skip = 0;

	if (reduced)
	{
		skip = 5;
		v.count = t->count - 5;
		v.sum = element(t, 0);
		v.l2 = element(t, 1);
		v.largest = element(t, 2);
		v.elements = element(t, 3);
		v.stride = (int64_t) element(t, 4);
	}
	v.x = malloc(sizeof(double) * (v.count > 0 ? v.count : 1));
	for (int64_t i = 0; i < v.count; i++)
	{
		v.x[i] = element(t, i + skip);
		if (!reduced && isfinite(v.x[i]))
			v.largest = fmax(v.largest, fabs(v.x[i]));
	}
	return v;
}

static double
noise_of(const Case *c, const char *name)
{
	const json_t *n = json_object_get(c->noise, name);

	return json_is_number(n) ? json_number_value(n) : 0.0;
}

static void
verdict(Case *c, bool ok, const char *name, double worst)
{
	c->compared++;
	if (!ok)
	{
		c->failed++;
		tap_note("%s: error %.2e of what is allowed", name, worst);
	}
}

/* ---- gradients, momenta, parameters -------------------------------------------- */

/* What kind of gradient a name is of; NULL: of none. */
static const char *
gradient_kind(char *kind, size_t size, const char *name)
{
	const char *part = name + 4;

	if (strncmp(part, "grad_act.", 9) == 0)
		return strcpy(kind, "grad_act");
	if (strncmp(part, "grad.", 5) == 0)
		return strcpy(kind, "grad");
	if (strncmp(part, "step", 4) == 0 &&
		(strncmp(part + 6, "param.", 6) == 0 ||
		 strncmp(part + 6, "momentum.", 9) == 0))
	{
		const char *dot = strchr(part + 6, '.');

		snprintf(kind, size, "%.*s", (int) (dot - part), part);
		return kind;
	}
	return NULL;
}

/* Initial value of element i of a parameter, by the rule of its name. */
static double
initial_value(const Case *c, const char *name, int64_t i)
{
	const EngFileTensor *t;
	char		key[256];
	float		rule[2];
	float		value;
	uint64_t	z;
	uint64_t	gamma = UINT64_C(0x9E3779B97F4A7C15);
	uint64_t	seed = (uint64_t)
		json_integer_value(json_object_get(c->config, "seed"));

	snprintf(key, sizeof(key), "in.value.%s", name);
	t = eng_tensor_file_find(c->golden, key);
	if (t != NULL)
		return element(t, i);
	snprintf(key, sizeof(key), "in.rule.%s", name);
	t = eng_tensor_file_find(c->golden, key);
	if (t == NULL)
		return NAN;
	rule[0] = (float) element(t, 0);
	rule[1] = (float) element(t, 1);
	z = (eng_random_name(name) ^ (seed * gamma)) + ((uint64_t) i + 1) * gamma;
	z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
	z ^= z >> 31;
	value = (float) ((double) (z >> 40) / 8388608.0 - 1.0) * rule[1];
	return rule[0] != 0.0f ? rule[0] + value : value;
}

static Group *
group_of(Case *c, const char *kind)
{
	for (int i = 0; i < c->group_count; i++)
		if (strcmp(c->groups[i].name, kind) == 0)
			return &c->groups[i];
	if (c->group_count == 12)
		return &c->groups[11];
	snprintf(c->groups[c->group_count].name, 40, "%s", kind);
	return &c->groups[c->group_count++];
}

static void
compare_gradient(Case *c, const char *name, const char *kind, const View *g,
				 const View *o)
{
	const char *parameter = strstr(kind, ".param") != NULL ?
		strstr(name, "param.") + 6 : NULL;
	double		factor = strncmp(kind, "step3", 5) == 0 ? 2.0 : 1.0;
	double		scale = g->largest;
	double		rounding = 0.0;
	double		squares = 0.0,
				norm = 0.0,
				worst = 0.0;
	double		l2;
	Group	   *group = group_of(c, kind);
	bool		tight;
	bool		ok;

	if (parameter != NULL)
	{
		char		step[8];

		snprintf(step, sizeof(step), "%.5s", kind);
		scale = fmax(json_number_value(json_object_get(json_object_get(c->delta_max, step),
													   parameter)), 1e-30);
		rounding = fmax(g->largest, 1e-30) * 0x1p-22;
	}
	for (int64_t i = 0; i < g->count; i++)
	{
		double		start = parameter == NULL ? 0.0 :
			initial_value(c, parameter, i * g->stride);
		double		e = fmax(fabs(g->x[i] - o->x[i]) - rounding, 0.0);

		worst = fmax(worst, e);
		if (!isfinite(o->x[i]))
			worst = INFINITY;
		squares += e * e;
		norm += (g->x[i] - start) * (g->x[i] - start);
	}
	l2 = sqrt(squares) / fmax(fmax(sqrt(norm), 1e-3 * scale *
								   sqrt((double) (g->count > 0 ? g->count : 1))),
							  1e-30);
	tight = worst <= fmax(1e-3 * scale, 4 * noise_of(c, name));
	ok = tight || (l2 <= factor * c->limits.l2 &&
				   worst <= factor * c->limits.largest * scale);
	if (g->l2 >= 0.0 && parameter == NULL)
		ok = ok && fabs(g->l2 - o->l2) <=
			fmax(factor * c->limits.l2, 1e-3) * fmax(g->l2, 1e-30);
	if (group->count < MOST_TENSORS)
		group->l2[group->count++] = l2;
	verdict(c, ok, name, l2 / (factor * c->limits.l2));
}

static int
by_size(const void *a, const void *b)
{
	double		x = *(const double *) a;
	double		y = *(const double *) b;

	return x < y ? -1 : x > y;
}

static void
compare_medians(Case *c)
{
	for (int i = 0; i < c->group_count; i++)
	{
		Group	   *g = &c->groups[i];
		double		factor = strncmp(g->name, "step3", 5) == 0 ? 4.0 : 1.0;
		double		median;

		qsort(g->l2, g->count, sizeof(double), by_size);
		median = g->l2[g->count / 2];
		tap_note("%s: relative L2 of %d tensors, median %.1e, worst %.1e",
				 g->name, g->count, median, g->l2[g->count - 1]);
		verdict(c, median <= factor * c->limits.median, g->name,
				median / (factor * c->limits.median));
	}
}

/* ---- values ------------------------------------------------------------------------ */

/* What |difference| may be at a value x. */
static double
tolerance(const Case *c, const char *name, double x, double largest)
{
	double		n = 4 * noise_of(c, name);
	double		q;

	if (c->operations)
		return 1e-5 * largest + 1e-5 * fabs(x);
	if (strncmp(name, "out.step", 8) == 0 && strstr(name, ".loss_") != NULL)
		return fmax((name[8] == '1' ? 1e-5 : 5e-3) * fabs(x), n);
	if (strstr(name, ".grad_norm") != NULL)
		return fmax(2e-2 * fabs(x), n);
	if (strstr(name, "anchors") != NULL)
		return n;
	if (strstr(name, "decoded") != NULL)
		return fmax(fmax(1e-2, n), 1e-3 + 1e-4 * fabs(x));
	if (strstr(name, "roi_boxes") != NULL ||
		strstr(name, "scaled_boxes") != NULL)
		return fmax(1e-2, n);
	/* no recorded noise: the large cases; and after three steps */
	q = json_object_size(c->noise) == 0 ||
		strstr(name, "step3.buffer") != NULL ? 1e-3 : 1e-4;
	return fmax(q + q * fabs(x), n);
}

static void
compare_values(Case *c, const char *name, const View *g, const View *o)
{
	double		worst = 0.0;
	double		n = 4 * noise_of(c, name);

	for (int64_t i = 0; i < g->count; i++)
	{
		double		allowed = tolerance(c, name, g->x[i], g->largest);
		double		d = fabs(g->x[i] - o->x[i]);

		/* offsets from an empty box are infinite and not used */
		if (!isfinite(g->x[i]))
			continue;
		if (!(d <= allowed))
			worst = fmax(worst, isfinite(d) ? d / fmax(allowed, 1e-30) :
						 INFINITY);
	}
	if (g->l2 >= 0.0)
	{
		double		l2 = 1e-4 * fmax(g->l2, 1e-12) + n * sqrt(g->elements);
		double		sum = 1e-4 * g->l2 * sqrt(g->elements) + 1e-9;

		worst = fmax(worst, fabs(g->l2 - o->l2) > l2 ? 2.0 : 0.0);
		worst = fmax(worst, fabs(g->sum - o->sum) > sum ? 3.0 : 0.0);
	}
	verdict(c, worst == 0.0, name, worst);
}

static void
compare_integers(Case *c, const char *name, const View *g, const View *o)
{
	int64_t		wrong = 0;

	for (int64_t i = 0; i < g->count; i++)
		wrong += g->x[i] != o->x[i];
	if (wrong > 0)
		tap_note("%s: %lld of %lld whole numbers differ", name,
				 (long long) wrong, (long long) g->count);
	verdict(c, wrong == 0, name, INFINITY);
}

/* ---- lists that went through top-k or suppression --------------------------------- */

typedef struct List
{
	View		boxes;
	View		scores;			/* count 0: none */
	View		labels;
} List;

static double
overlap(const double *a, const double *b)
{
	double		w = fmin(a[2], b[2]) - fmax(a[0], b[0]);
	double		h = fmin(a[3], b[3]) - fmax(a[1], b[1]);
	double		inter = w > 0 && h > 0 ? w * h : 0.0;

	return inter / fmax((a[2] - a[0]) * (a[3] - a[1]) +
						(b[2] - b[0]) * (b[3] - b[1]) - inter, 1e-9);
}

/* When an entry is another one's: overlap above, scores within. */
typedef struct Closeness
{
	double		overlap;
	double		score;
	double		least_score;	/* entries below are not looked for */
} Closeness;

/* How many of the recorded entries ours have, one to one; *of: of how many. */
static int64_t
count_found(const List *g, const List *o, const Closeness *close, int64_t *of)
{
	int64_t		n = g->boxes.count / 4;
	int64_t		m = o->boxes.count / 4;
	char	   *used = calloc(m + 1, 1);
	int64_t		hits = 0;

	*of = 0;
	for (int64_t i = 0; i < n; i++)
	{
		double		best = close->overlap;
		int64_t		at = -1;

		if (g->scores.count > 0 && g->scores.x[i] < close->least_score)
			continue;
		(*of)++;
		for (int64_t j = 0; j < m; j++)
		{
			double		q = overlap(g->boxes.x + 4 * i, o->boxes.x + 4 * j);

			if (used[j] || q <= best ||
				(g->labels.count > 0 && g->labels.x[i] != o->labels.x[j]) ||
				(g->scores.count > 0 &&
				 fabs(g->scores.x[i] - o->scores.x[j]) > close->score))
				continue;
			best = q;
			at = j;
		}
		if (at >= 0)
		{
			used[at] = 1;
			hits++;
		}
	}
	free(used);
	return hits;
}

/* Share of the recorded entries that ours have, one to one. */
static double
found_again(const List *g, const List *o)
{
	static const Closeness close = {0.9, 1e-3, 0};
	int64_t		n = g->boxes.count / 4;
	int64_t		m = o->boxes.count / 4;
	int64_t		hits = count_found(g, o, &close, &n);

	if (n == 0)
		return m == 0 ? 1.0 : 0.0;
	return llabs(n - m) > fmax(2, 0.03 * n) ? 0.0 : (double) hits / n;
}

static bool
same_within(const View *a, const View *b, double allowed)
{
	if (a->count != b->count)
		return false;
	for (int64_t i = 0; i < a->count; i++)
		if (!(fabs(a->x[i] - b->x[i]) <= allowed))
			return false;
	return true;
}

static bool
read_view(View *view, const EngTensorFile *file, const char *prefix,
		  const char *what, const char *frame)
{
	char		name[128];
	const EngFileTensor *t;

	memset(view, 0, sizeof(*view));
	snprintf(name, sizeof(name), "%s%s%s", prefix, what, frame);
	t = eng_tensor_file_find(file, name);
	if (t != NULL)
		*view = view_of(t, false);
	return t != NULL;
}

static void
free_list(List *list)
{
	free(list->boxes.x);
	free(list->scores.x);
	free(list->labels.x);
}

/* A list is compared when its boxes come by. */
static void
compare_list(Case *c, const char *name, bool whole_list)
{
	const char *boxes = strstr(name, "proposals.") != NULL ? "proposals" :
		"boxes";
	const char *at = strstr(name, boxes);
	char		prefix[64];
	const char *frame = at + strlen(boxes);
	bool		is_proposals = boxes[0] == 'p';
	const char *scores = is_proposals ? "objectness" : "scores";
	List		g,
				o;
	double		share = 1.0;
	int64_t		count;

	memset(&g, 0, sizeof(g));
	memset(&o, 0, sizeof(o));
	snprintf(prefix, sizeof(prefix), "%.*s", (int) (at - name), name);
	read_view(&g.scores, c->golden, prefix, scores, frame);
	/* the labels of this name are those of the detections */
	if (!is_proposals)
		read_view(&g.labels, c->golden, prefix, "labels", frame);
	if (!read_view(&g.boxes, c->golden, prefix, boxes, frame) ||
		!read_view(&o.boxes, c->output, prefix, boxes, frame) ||
		read_view(&o.scores, c->output, prefix, scores, frame) !=
		(g.scores.x != NULL) ||
		(!is_proposals &&
		 read_view(&o.labels, c->output, prefix, "labels", frame) !=
		 (g.labels.x != NULL)))
		share = 0.0;
	else if (!whole_list || !same_within(&g.boxes, &o.boxes, 1e-2) ||
			 !same_within(&g.scores, &o.scores, 1e-4) ||
			 !same_within(&g.labels, &o.labels, 0.0))
		share = found_again(&g, &o);
	count = g.boxes.count / 4;
	free_list(&g);
	free_list(&o);
	if (share < 1.0)
		tap_note("%s: %.1f %% of %lld found again", name, 100 * share,
				 (long long) count);
	verdict(c, share >= 0.97, name, share > 0 ? 0.97 / share : INFINITY);
}

/* 1: boxes of a list; 2: its scores or labels, compared with the boxes. */
static int
list_part(const char *name)
{
	const char *part;

	if (strncmp(name, "out.eval.", 9) != 0 &&
		strncmp(name, "out.train.", 10) != 0)
		return 0;
	part = strchr(name + 4, '.') + 1;
	if (strncmp(part, "nms_in_", 7) == 0)
		part += 7;
	if (strncmp(part, "proposals.", 10) == 0 || strncmp(part, "boxes.", 6) == 0)
		return 1;
	return strncmp(part, "objectness.", 11) == 0 ||
		strncmp(part, "scores.", 7) == 0 ||
		strncmp(part, "labels.", 7) == 0 ? 2 : 0;
}

/* ---- a case -------------------------------------------------------------------------- */

static void
compare_tensor(Case *c, const EngFileTensor *golden)
{
	const EngFileTensor *ours = eng_tensor_file_find(c->output, golden->name);
	size_t		length = strlen(golden->name);
	bool		reduced = length > 2 &&
		strcmp(golden->name + length - 2, "#r") == 0;
	char		name[256];
	char		kind[40];
	View		g,
				o;

	snprintf(name, sizeof(name), "%.*s", (int) (reduced ? length - 2 : length),
			 golden->name);
	if (ours == NULL)
	{
		verdict(c, false, name, INFINITY);
		return;
	}
	if (!reduced && list_part(name) > 0)
	{
		if (list_part(name) == 1)
			compare_list(c, name, true);
		return;
	}
	g = view_of(golden, reduced);
	o = view_of(ours, reduced);
	if (reduced && strstr(name, ".nms_in_") != NULL)
		verdict(c, fabs(g.elements - o.elements) <= 0.01 * g.elements, name,
				INFINITY);
	else if (g.count != o.count || g.elements != o.elements)
		verdict(c, false, name, INFINITY);
	else if (golden->dtype == ENG_FILE_I32 || golden->dtype == ENG_FILE_I64)
		compare_integers(c, name, &g, &o);
	else if (!c->operations && gradient_kind(kind, sizeof(kind), name))
		compare_gradient(c, name, kind, &g, &o);
	else
		compare_values(c, name, &g, &o);
	free(g.x);
	free(o.x);
}

static json_t *
metadata_json(const EngTensorFile *file, const char *key)
{
	const char *text = eng_tensor_file_metadata(file, key);
	json_t	   *json = json_loads(text != NULL ? text : "{}", 0, NULL);

	return json != NULL ? json : json_object();
}

static bool
open_case(Case *c, const char *golden, const char *output, EngStatus *status)
{
	static const Limits sharp = {0.02, 0.1, 0.002};
	static const Limits blunt = {0.1, 0.5, 0.03};
	const char *kind;
	const json_t *arch;
	const char *norm;

	memset(c, 0, sizeof(*c));
	if (!eng_file_read(golden, (size_t) 1 << 30, &c->golden_image, status) ||
		!eng_file_read(output, (size_t) 1 << 30, &c->output_image, status))
		return false;
	c->golden = eng_tensor_file_open(c->golden_image.data,
									 c->golden_image.size, status);
	c->output = eng_tensor_file_open(c->output_image.data,
									 c->output_image.size, status);
	if (c->golden == NULL || c->output == NULL)
		return false;
	c->config = metadata_json(c->golden, "config");
	c->noise = metadata_json(c->golden, "noise");
	c->delta_max = metadata_json(c->golden, "delta_max");
	kind = eng_tensor_file_metadata(c->golden, "kind");
	c->operations = kind != NULL && strcmp(kind, "operation_golden") == 0;
	arch = json_object_get(c->config, "arch");
	norm = json_string_value(json_object_get(arch, "body_norm"));
	c->limits = blunt;
	if (norm != NULL && strcmp(norm, "frozen") == 0 &&
		strcmp(json_string_value(json_object_get(arch, "body")),
			   "resnet18") == 0)
		c->limits = sharp;
	return true;
}

static void
close_case(Case *c)
{
	eng_tensor_file_free(c->golden);
	eng_tensor_file_free(c->output);
	eng_buffer_free(&c->golden_image);
	eng_buffer_free(&c->output_image);
	json_decref(c->config);
	json_decref(c->noise);
	json_decref(c->delta_max);
}

/* Free running: only detections and proposals are compared. */
static void __attribute__((unused))
compare_case(Case *c, bool free_running)
{
	for (int32_t i = 0; i < c->golden->count; i++)
	{
		const EngFileTensor *t = c->golden->tensors + i;

		if (strncmp(t->name, "out.", 4) != 0)
			continue;
		if (!free_running)
			compare_tensor(c, t);
		else if (strncmp(t->name, "out.eval.boxes.", 15) == 0)
			compare_list(c, t->name, false);
	}
	if (!free_running)
		compare_medians(c);
}

#endif
