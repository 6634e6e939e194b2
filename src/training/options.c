/*
 * training/options.c
 *		The options of train: recipe, defaults, checks, learning rate.
 *
 * Options are resolved when train is called and stored spelled out in the
 * job, so neither a setting that changes later nor a newer default can change
 * what a queued or resumed job does.
 */
#include "postgres.h"

#include <errno.h>
#include <math.h>

#include "common/shortest_dec.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "common/settings.h"
#include "models/model.h"
#include "training/options.h"

typedef enum OptionType
{
	OPTION_INT,
	OPTION_REAL,
	OPTION_BOOL,
	OPTION_WORD					/* one of words, or any text if NULL */
} OptionType;

typedef struct Option
{
	const char *name;
	OptionType	type;
	size_t		offset;
	double		min;
	double		max;
	const char *words;			/* "a|b|c" */
} Option;

#define AT(field) offsetof(AvcTrainOptions, field)
#define HUGE_COUNT 9007199254740992.0

static const Option known[] = {
	{"from_checkpoint", OPTION_INT, AT(from_checkpoint), 1, HUGE_COUNT, NULL},
	{"version", OPTION_INT, AT(version), 1, HUGE_COUNT, NULL},
	{"val_slice", OPTION_WORD, AT(val_slice), 0, 0, NULL},
	{"val_version", OPTION_INT, AT(val_version), 1, HUGE_COUNT, NULL},
	{"epochs", OPTION_INT, AT(epochs), 1, 1000000, NULL},
	{"max_steps", OPTION_INT, AT(max_steps), 1, 1e9, NULL},
	{"max_frames", OPTION_INT, AT(max_frames), 1, HUGE_COUNT, NULL},
	{"batch_size", OPTION_INT, AT(batch_size), 1, 1024, NULL},
	{"accumulate", OPTION_INT, AT(accumulate), 1, 1024, NULL},
	{"optimizer", OPTION_WORD, AT(optimizer), 0, 0, "sgd|adamw"},
	{"lr", OPTION_REAL, AT(lr), 0, 1000, NULL},
	{"momentum", OPTION_REAL, AT(momentum), 0, 1, NULL},
	{"weight_decay", OPTION_REAL, AT(weight_decay), 0, 1000, NULL},
	{"lr_schedule", OPTION_WORD, AT(lr_schedule), 0, 0, "step|cosine"},
	{"lr_step_size", OPTION_INT, AT(lr_step_size), 1, 1000000, NULL},
	{"lr_gamma", OPTION_REAL, AT(lr_gamma), 0, 1, NULL},
	{"warmup_steps", OPTION_INT, AT(warmup_steps), 0, 1e9, NULL},
	{"clip_norm", OPTION_REAL, AT(clip_norm), 0, 1e9, NULL},
	{"amp", OPTION_WORD, AT(amp), 0, 0, "auto|f32|bf16|fp16"},
	{"trainable_layers", OPTION_INT, AT(trainable_layers), 0, 5, NULL},
	{"freeze_norm", OPTION_BOOL, AT(freeze_norm), 0, 0, NULL},
	{"hflip", OPTION_REAL, AT(hflip), 0, 1, NULL},
	{"seed", OPTION_INT, AT(seed), 0, HUGE_COUNT, NULL},
	{"device", OPTION_WORD, AT(device), 0, 0, NULL},
	{"threads", OPTION_INT, AT(threads), 0, 1024, NULL},
	{"checkpoint_every", OPTION_INT, AT(checkpoint_every), 0, 1e9, NULL},
	{"keep_last", OPTION_INT, AT(keep_last), 1, 1000, NULL},
	{"keep_best", OPTION_BOOL, AT(keep_best), 0, 0, NULL},
	{"eval_every", OPTION_INT, AT(eval_every), 1, 1000000, NULL},
	{"early_stop", OPTION_INT, AT(early_stop), 1, 1000000, NULL}
};

#define KNOWN_COUNT lengthof(known)

/* Defaults that depend on nothing else; 0, false and NULL are not listed. */
static void
set_reference_defaults(AvcTrainOptions *options)
{
	memset(options, 0, sizeof(*options));
	options->epochs = 10;
	options->accumulate = 1;
	options->optimizer = "sgd";
	options->momentum = 0.9;
	options->weight_decay = 1e-4;
	options->lr_schedule = "step";
	options->lr_step_size = 3;
	options->lr_gamma = 0.1;
	options->clip_norm = 10;
	options->amp = "auto";
	options->trainable_layers = 3;
	options->device = avc_device;
	options->threads = avc_threads;
	options->checkpoint_every = 200;
	options->keep_last = 2;
	options->keep_best = true;
	options->eval_every = 1;
}

static void
set_small_defaults(AvcTrainOptions *options)
{
	options->batch_size = 8;
	options->optimizer = "adamw";
	options->weight_decay = 0.01;
	options->lr_schedule = "cosine";
	options->trainable_layers = 5;
	options->hflip = 0.5;
}

static void
refuse(const char *name, const char *wanted)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("option \"%s\" of train must be %s", name, wanted)));
}

static const char *
range_text(const Option *option)
{
	const char *kind = option->type == OPTION_INT ? "a whole number"
	: "a number";

	if (option->max >= 1e9)
		return psprintf("%s of at least %g", kind, option->min);
	return psprintf("%s from %g to %g", kind, option->min, option->max);
}

static bool
is_one_of(const char *word, const char *words)
{
	size_t		len = strlen(word);
	const char *from = words;

	while (from != NULL)
	{
		const char *end = strchr(from, '|');
		size_t		this_len = end != NULL ? (size_t) (end - from)
		: strlen(from);

		if (this_len == len && strncmp(from, word, len) == 0)
			return true;
		from = end != NULL ? end + 1 : NULL;
	}
	return false;
}

static void
take_number(AvcTrainOptions *options, const Option *option,
			const JsonbValue *value)
{
	char	   *place = (char *) options + option->offset;
	char	   *text;
	char	   *end;
	double		number;

	if (value->type != jbvNumeric)
		refuse(option->name, range_text(option));
	text = DatumGetCString(DirectFunctionCall1(numeric_out,
											   NumericGetDatum(value->val.numeric)));
	errno = 0;
	number = strtod(text, &end);
	if (errno != 0 || *end != '\0' ||
		!(number >= option->min && number <= option->max))
		refuse(option->name, range_text(option));
	if (option->type == OPTION_REAL)
		*(double *) place = number;
	else
	{
		if (number != floor(number))
			refuse(option->name, range_text(option));
		*(int64 *) place = (int64) number;
	}
}

static void
take_value(AvcTrainOptions *options, const Option *option,
		   const JsonbValue *value)
{
	char	   *place = (char *) options + option->offset;
	char	   *word;

	switch (option->type)
	{
		case OPTION_INT:
		case OPTION_REAL:
			take_number(options, option, value);
			break;
		case OPTION_BOOL:
			if (value->type != jbvBool)
				refuse(option->name, "true or false");
			*(bool *) place = value->val.boolean;
			break;
		case OPTION_WORD:
			if (value->type != jbvString)
				refuse(option->name, option->words != NULL ?
					   psprintf("one of %s", option->words) : "a string");
			word = pnstrdup(value->val.string.val, value->val.string.len);
			if (option->words != NULL && !is_one_of(word, option->words))
				refuse(option->name, psprintf("one of %s", option->words));
			*(char **) place = word;
			break;
	}
}

static bool
is_listed(const char *name, const char *const *list)
{
	for (; *list != NULL; list++)
		if (strcmp(name, *list) == 0)
			return true;
	return false;
}

static void
refuse_unknown(const char *name, const char *function, const char *const *more,
			   const char *const *less)
{
	StringInfoData names;
	int			i;

	initStringInfo(&names);
	for (i = 0; i < KNOWN_COUNT; i++)
		if (!is_listed(known[i].name, less))
			appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "",
							 known[i].name);
	for (; *more != NULL; more++)
		appendStringInfo(&names, ", %s", *more);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s has no option \"%s\"", function, name),
			 errhint("Known options: %s.", names.data)));
}

/* NULL if it is none. */
static const Option *
look_up(const char *name)
{
	int			i;

	for (i = 0; i < KNOWN_COUNT; i++)
		if (strcmp(name, known[i].name) == 0)
			return &known[i];
	return NULL;
}

static const Option *
find_option(const char *name)
{
	static const char *const none[] = {NULL};
	const Option *option = look_up(name);

	if (option == NULL)
		refuse_unknown(name, "train", none, none);
	return option;
}

void
avc_train_options_check_names(Jsonb *given, const char *function,
							  const char *const *more,
							  const char *const *less)
{
	JsonbIterator *iterator = JsonbIteratorInit(&given->root);
	JsonbIteratorToken token;
	JsonbValue	value;

	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		char	   *name;

		if (token != WJB_KEY)
			continue;
		name = pnstrdup(value.val.string.val, value.val.string.len);
		if (look_up(name) == NULL && !is_listed(name, more))
			refuse_unknown(name, function, more, less);
		(void) JsonbIteratorNext(&iterator, &value, true);
	}
}

/* Take what was given; is_given[i] tells which options it had. */
static void
take_given(AvcTrainOptions *options, Jsonb *given, bool *is_given)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	value;

	if (given == NULL)
		return;
	if (!JB_ROOT_IS_OBJECT(given))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options of train must be a JSON object")));
	iterator = JsonbIteratorInit(&given->root);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		const Option *option;

		if (token != WJB_KEY)
			continue;
		option = find_option(pnstrdup(value.val.string.val,
									  value.val.string.len));
		(void) JsonbIteratorNext(&iterator, &value, true);
		if (value.type == jbvNull)
			continue;
		take_value(options, option, &value);
		is_given[option - known] = true;
	}
}

static bool
was_given(const bool *is_given, const char *name)
{
	return is_given[find_option(name) - known];
}

/* Defaults that depend on other options. */
static void
set_dependent_defaults(AvcTrainOptions *options, const bool *is_given,
					   bool is_small)
{
	bool		fresh = options->from_checkpoint == 0;

	options->device = pstrdup(avc_model_device(options->device));
	if (options->batch_size == 0)
		options->batch_size =
			avc_model_is_gpu(options->device) ? 64 : 8;
	if (!was_given(is_given, "lr"))
	{
		if (is_small)
			options->lr = fresh ? 1e-3 : 5e-4;
		else
			options->lr = 0.04 * options->batch_size / 64.0;
	}
	if (!was_given(is_given, "warmup_steps") && is_small)
		options->warmup_steps = fresh ? 50 : 5;
	/* Layers that hold no learnt weights cannot stay as they are. */
	if (!was_given(is_given, "trainable_layers") && fresh)
		options->trainable_layers = 5;
}

static void
check_together(const AvcTrainOptions *options)
{
	if (options->accumulate > options->batch_size)
		refuse("accumulate", "at most batch_size");
	if (options->val_slice == NULL &&
		(options->early_stop > 0 || options->val_version > 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" of train needs option \"val_slice\"",
						options->early_stop > 0 ? "early_stop" : "val_version"),
				 errhint("Name the slice to evaluate on while training.")));
	avc_model_check_device(options->device);
}

void
avc_train_options_resolve(AvcTrainOptions *options, Jsonb *given,
						  const AvcModel *model)
{
	bool		is_given[KNOWN_COUNT] = {false};
	bool		is_small = strcmp(model->architecture, "small") == 0;

	set_reference_defaults(options);
	if (is_small)
		set_small_defaults(options);
	take_given(options, given, is_given);
	set_dependent_defaults(options, is_given, is_small);
	check_together(options);
}

Jsonb *
avc_train_options_to_jsonb(const AvcTrainOptions *options)
{
	StringInfoData json;
	int			i;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	for (i = 0; i < KNOWN_COUNT; i++)
	{
		const Option *option = &known[i];
		const char *place = (const char *) options + option->offset;

		switch (option->type)
		{
			case OPTION_INT:
				/* 0 stands for "not set" where 0 is no legal value */
				if (*(const int64 *) place < option->min)
					avc_json_add_raw(&json, option->name, "null");
				else
					avc_json_add_int(&json, option->name,
									 *(const int64 *) place);
				break;
			case OPTION_REAL:
				avc_json_add_raw(&json, option->name,
								 double_to_shortest_decimal(*(const double *) place));
				break;
			case OPTION_BOOL:
				avc_json_add_raw(&json, option->name,
								 *(const bool *) place ? "true" : "false");
				break;
			case OPTION_WORD:
				avc_json_add(&json, option->name, *(char *const *) place);
				break;
		}
	}
	appendStringInfoChar(&json, '}');
	return avc_json_to_jsonb(json.data);
}

double
avc_train_options_lr(const AvcTrainOptions *options, int64 i, int64 total,
					 int64 epoch)
{
	if (i < options->warmup_steps)
		return options->lr * (double) (i + 1) / (double) options->warmup_steps;
	if (strcmp(options->lr_schedule, "cosine") == 0)
	{
		int64		length = Max(total - options->warmup_steps, 1);
		double		done = (double) (i - options->warmup_steps) / (double) length;

		return options->lr * 0.5 * (1.0 + cos(M_PI * done));
	}
	return options->lr * pow(options->lr_gamma,
							 (double) (epoch / options->lr_step_size));
}

char *
avc_train_options_load(const AvcTrainOptions *options)
{
	bool		adamw = strcmp(options->optimizer, "adamw") == 0;
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfo(&json, ", \"optimizer\": {\"name\": \"%s\", "
					 "\"momentum\": %.17g, \"betas\": [0.9, 0.999], "
					 "\"eps\": 1e-8, \"weight_decay\": %.17g, "
					 "\"clip_norm\": %.17g, \"decay_rule\": \"%s\"}",
					 options->optimizer, options->momentum,
					 options->weight_decay, options->clip_norm,
					 adamw ? "matrices" : "all");
	appendStringInfo(&json, ", \"trainable_layers\": " INT64_FORMAT
					 ", \"freeze_norm\": %s, \"hflip\": %.17g",
					 options->trainable_layers,
					 options->freeze_norm ? "true" : "false", options->hflip);
	appendStringInfoString(&json, avc_model_precision(options->amp));
	return json.data;
}
