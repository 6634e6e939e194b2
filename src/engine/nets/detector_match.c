/*
 * engine/nets/detector_match.c
 *		A file of weights beside the network that it is for.
 *
 * Names are torchvision's.  Those of its v1 file of 2019 are known too, and
 * so is what wrappers (DistributedDataParallel, torch.compile, trainers) put
 * before all of them.
 */
#include "engine/nets/detector_match.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHOWN_NAMES		20		/* of each kind, in a message */
#define SHOWN_BYTES		1100	/* of each kind, in a message */
#define BODY			"backbone.body."	/* before a ResNet's own names */

static bool
starts_with(const char *text, const char *start)
{
	return strncmp(text, start, strlen(start)) == 0;
}

static bool
is_of_head(const char *name)
{
	return starts_with(name, "roi_heads.box_predictor.");
}

/*
 * Parameters that the file is not asked for.
 */
static bool
is_drawn(const EngLoadOptions *options, const char *name)
{
	return (options->new_head && is_of_head(name)) ||
		(options->backbone_only && !starts_with(name, BODY));
}

/*
 * The classifier of a ResNet, which no detector has.
 */
static bool
is_classifier(const char *name)
{
	return strcmp(name, "fc.weight") == 0 || strcmp(name, "fc.bias") == 0;
}

/*
 * Tensors of a file that are no network's: the optimizer's, and the counter
 * of a wrapper that averages models.
 */
static bool
is_beside(const char *name)
{
	return starts_with(name, ENG_OPTIMIZER_PREFIX) ||
		strcmp(name, "n_averaged") == 0;
}

/*
 * Whether every tensor of a network in the file has prefix and then more.
 */
static bool
is_prefix(const EngTensorFile *file, const char *prefix)
{
	int32_t		i;
	int32_t		count = 0;

	for (i = 0; i < file->count; i++)
	{
		if (is_beside(file->tensors[i].name))
			continue;
		if (!starts_with(file->tensors[i].name, prefix))
			return false;
		count++;
	}
	return count > 0;
}

static void
find_prefix(EngMatch *match)
{
	static const char *const known[] = {"module.", "_orig_mod.", "model."};
	int			i = 0;

	while (i < 3)
	{
		char		longer[ENG_MATCH_PREFIX + 16];

		snprintf(longer, sizeof(longer), "%s%s", match->prefix, known[i]);
		if (strlen(longer) < ENG_MATCH_PREFIX && is_prefix(match->file, longer))
		{
			strcpy(match->prefix, longer);
			i = 0;
		}
		else
			i++;
	}
}

/*
 * Name of old v1 files: without the ".0" that a later module added.
 */
static bool
old_name(char *out, size_t size, const char *name)
{
	static const char *const prefixes[] = {
		"rpn.head.conv.0.0.", "backbone.fpn.inner_blocks.",
		"backbone.fpn.layer_blocks."
	};
	int			i;

	for (i = 0; i < 3; i++)
	{
		size_t		length = strlen(prefixes[i]);

		if (strncmp(name, prefixes[i], length) != 0)
			continue;
		if (i == 0)
			snprintf(out, size, "rpn.head.conv.%s", name + length);
		else if (strlen(name) > length + 4)
			snprintf(out, size, "%s%c.%s", prefixes[i], name[length],
					 name + length + 4);
		else
			return false;
		return true;
	}
	return false;
}

static const EngFileTensor *
find_prefixed(const EngMatch *match, const char *name)
{
	char		full[ENG_MATCH_PREFIX + 128];

	snprintf(full, sizeof(full), "%s%s", match->prefix, name);
	return eng_tensor_file_find(match->file, full);
}

/*
 * The file's tensor for a parameter, under any of its names.
 */
static const EngFileTensor *
look_up(const EngMatch *match, const EngParameter *p, bool *is_old)
{
	const EngFileTensor *tensor;
	char		old[96];

	*is_old = false;
	if (match->backbone_only)
		return starts_with(p->name, BODY) ?
			find_prefixed(match, p->name + strlen(BODY)) : NULL;
	tensor = find_prefixed(match, p->name);
	if (tensor == NULL && old_name(old, sizeof(old), p->name))
	{
		tensor = find_prefixed(match, old);
		*is_old = tensor != NULL;
	}
	return tensor;
}

static const EngFileTensor *
find_tensor(EngMatch *match, const EngParameter *p)
{
	bool		is_old;
	const EngFileTensor *tensor = look_up(match, p, &is_old);

	match->old_names |= is_old;
	if (tensor != NULL)
		match->used[tensor - match->file->tensors] = true;
	return tensor;
}

bool
eng_weights_match_shape(const EngFileTensor *tensor, const EngParameter *p)
{
	return tensor->rank == p->rank &&
		memcmp(tensor->shape, p->shape, sizeof(int64_t) * p->rank) == 0;
}

/*
 * Counters of norms that are frozen here, which count nothing.
 */
static bool
is_idle_counter(const EngMatch *match, const char *name)
{
	static const char ending[] = ".num_batches_tracked";
	char		mean[128];
	const char *end = strstr(name, ending);

	if (end == NULL || strcmp(end, ending) != 0 || end - name > 100)
		return false;
	snprintf(mean, sizeof(mean), "%s%.*s.running_mean",
			 match->backbone_only ? BODY : "", (int) (end - name), name);
	return eng_parameters_find(match->parameters, mean) >= 0;
}

static void
match_file(EngMatch *match, const EngLoadOptions *options)
{
	const EngParameters *all = match->parameters;
	size_t		bare = strlen(match->prefix);
	int32_t		i;

	for (i = 0; i < all->count; i++)
	{
		const EngParameter *p = &all->list[i];
		const EngFileTensor *tensor = find_tensor(match, p);

		if (is_drawn(options, p->name) ||
			(tensor == NULL && p->layout != ENG_LAYOUT_COUNTER))
			match->missing[match->missing_count++] = p->name;
		else if (tensor != NULL && !eng_weights_match_shape(tensor, p))
			match->misshapen[match->misshapen_count++] = p;
		else
			match->found[i] = tensor;
	}
	for (i = 0; i < match->file->count; i++)
	{
		const char *name = match->file->tensors[i].name;

		if (!match->used[i] && !is_beside(name) &&
			!is_idle_counter(match, name + bare) &&
			!(match->backbone_only && is_classifier(name + bare)))
			match->unexpected[match->unexpected_count++] = name;
	}
}

/* ---- what does not fit, in words ------------------------------------ */

static void
add_text(char *out, size_t size, const char *text)
{
	size_t		used = strlen(out);

	snprintf(out + used, size - used, "%s", text);
}

static void
describe_shape(char *out, size_t size, const int64_t *shape, int32_t rank)
{
	int32_t		i;

	snprintf(out, size, "(");
	for (i = 0; i < rank; i++)
	{
		char		number[32];

		snprintf(number, sizeof(number), "%s%lld", i > 0 ? ", " : "",
				 (long long) shape[i]);
		add_text(out, size, number);
	}
	add_text(out, size, ")");
}

/*
 * One name, with both shapes if it is misshapen.
 */
static void
describe_one(const EngMatch *match, const EngParameter *misshapen,
			 const char *name, char *out, size_t size)
{
	const EngFileTensor *tensor;
	bool		is_old;
	char		theirs[ENG_FILE_MAX_RANK * 24 + 8];
	char		ours[128];

	if (misshapen == NULL)
	{
		snprintf(out, size, "%.96s", name);
		return;
	}
	tensor = look_up(match, misshapen, &is_old);
	describe_shape(theirs, sizeof(theirs), tensor->shape, tensor->rank);
	describe_shape(ours, sizeof(ours), misshapen->shape, misshapen->rank);
	snprintf(out, size, "%s is %s, not %s", misshapen->name, theirs, ours);
}

/*
 * "; COUNT WHAT: NAME, NAME and N more"; nothing for a count of 0.  Either
 * names or misshapen is given.
 */
static void
describe_kind(const EngMatch *match, const char *const *names,
			  const EngParameter *const *misshapen, int32_t count,
			  const char *what, char *out, size_t size)
{
	char		text[512];
	size_t		start = strlen(out);
	int32_t		i;

	if (count == 0)
		return;
	snprintf(text, sizeof(text), "%s%d %s: ", start > 0 ? "; " : "",
			 (int) count, what);
	add_text(out, size, text);
	for (i = 0; i < count; i++)
	{
		describe_one(match, misshapen == NULL ? NULL : misshapen[i],
					 misshapen == NULL ? names[i] : NULL, text,
					 sizeof(text));
		if (i == SHOWN_NAMES ||
			strlen(out) - start + strlen(text) > SHOWN_BYTES)
			break;
		add_text(out, size, i > 0 ? ", " : "");
		add_text(out, size, text);
	}
	if (i < count)
	{
		snprintf(text, sizeof(text), " and %d more", (int) (count - i));
		add_text(out, size, text);
	}
}

static bool
only_head_differs(const EngMatch *match)
{
	int32_t		i;

	for (i = 0; i < match->missing_count; i++)
		if (!is_of_head(match->missing[i]))
			return false;
	for (i = 0; i < match->misshapen_count; i++)
		if (!is_of_head(match->misshapen[i]->name))
			return false;
	return match->unexpected_count == 0;
}

/*
 * Whether the file has the names of a ResNet outside of a detector.
 */
static bool
is_resnet(const EngMatch *match)
{
	return find_prefixed(match, "conv1.weight") != NULL &&
		find_prefixed(match, "layer1.0.conv1.weight") != NULL;
}

static bool
report_misfit(const EngMatch *match, const EngLoadOptions *options,
			  EngStatus *status)
{
	const char *const *missing = match->missing;
	int32_t		missing_count = match->missing_count;
	char		text[3 * SHOWN_BYTES + 256] = "";

	/* what is drawn comes last and is no mistake */
	while (missing_count > 0 &&
		   is_drawn(options, missing[missing_count - 1]))
		missing_count--;
	if (!options->backbone_only && is_resnet(match))
		return eng_fail(status, ENG_BAD_FILE,
						"the weights are those of a classification network, not of a detector; import_backbone() takes them for the body and draws the rest");
	if (missing_count + match->misshapen_count + match->unexpected_count == 0)
		return true;
	describe_kind(match, missing, NULL, missing_count, "missing", text,
				  sizeof(text));
	describe_kind(match, match->unexpected, NULL, match->unexpected_count,
				  "unexpected", text, sizeof(text));
	describe_kind(match, NULL, match->misshapen, match->misshapen_count,
				  "of another shape", text, sizeof(text));
	return eng_fail(status, ENG_BAD_FILE,
					"tensors of the weights do not fit the network; %s%s",
					text, only_head_differs(match) ?
					"; only the box predictor differs: new_head draws a fresh one" :
					"");
}

bool
eng_weights_match(EngMatch *match, const EngParameters *parameters,
				  const EngTensorFile *file, const EngLoadOptions *options,
				  EngStatus *status)
{
	size_t		ours = (size_t) parameters->count + 1;
	size_t		theirs = (size_t) file->count + 1;

	memset(match, 0, sizeof(*match));
	match->parameters = parameters;
	match->file = file;
	match->backbone_only = options->backbone_only;
	match->found = calloc(ours, sizeof(*match->found));
	match->used = calloc(theirs, sizeof(*match->used));
	match->missing = calloc(ours, sizeof(*match->missing));
	match->misshapen = calloc(ours, sizeof(*match->misshapen));
	match->unexpected = calloc(theirs, sizeof(*match->unexpected));
	if (match->found == NULL || match->used == NULL ||
		match->missing == NULL || match->misshapen == NULL ||
		match->unexpected == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	find_prefix(match);
	match_file(match, options);
	return !options->strict || report_misfit(match, options, status);
}

void
eng_weights_match_free(EngMatch *match)
{
	free(match->found);
	free(match->used);
	free(match->missing);
	free(match->misshapen);
	free(match->unexpected);
}
