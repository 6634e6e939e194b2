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

#include "engine/nets/misfit.h"

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

/* ---- what does not fit -------------------------------------------------- */

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
	EngMisfits	misfits = {{0}};
	int32_t		i;

	if (!options->backbone_only && is_resnet(match))
		return eng_fail(status, ENG_BAD_FILE,
						"the weights are those of a classification network, not of a detector; import_backbone() takes them for the body and draws the rest");
	for (i = 0; i < match->missing_count; i++)
		/* what is drawn is no mistake */
		if (!is_drawn(options, match->missing[i]))
			eng_misfit_name(&misfits, ENG_MISFIT_MISSING, match->missing[i]);
	for (i = 0; i < match->unexpected_count; i++)
		eng_misfit_name(&misfits, ENG_MISFIT_UNEXPECTED,
						match->unexpected[i]);
	for (i = 0; i < match->misshapen_count; i++)
	{
		const EngParameter *p = match->misshapen[i];
		bool		is_old;
		const EngFileTensor *tensor = look_up(match, p, &is_old);

		eng_misfit_shape(&misfits, p->name,
						 (EngMisfitShape) {tensor->shape, tensor->rank},
						 (EngMisfitShape) {p->shape, p->rank});
	}
	return eng_misfit_report(&misfits, only_head_differs(match) ?
							 "; only the box predictor differs: new_head draws a fresh one" :
							 "", status);
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
