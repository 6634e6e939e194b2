/*
 * evaluation/options.c
 *		What evaluate() may be told.
 */
#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "evaluation/options.h"

static const char *const known_options[] = {
	"amp", "device", "max_frames", "min_score", "mode", "threads", "version"
};

static void
raise_unknown(const char *name)
{
	StringInfoData list;
	int			i;

	initStringInfo(&list);
	for (i = 0; i < lengthof(known_options); i++)
		appendStringInfo(&list, "%s%s", i > 0 ? ", " : "", known_options[i]);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown option \"%s\" of evaluate", name),
			 errhint("Known options: %s.", list.data)));
}

static void
raise_bad_value(const char *name, const char *wanted)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("option \"%s\" of evaluate must be %s", name, wanted)));
}

static double
number_option(const char *name, const JsonbValue *value, const char *wanted)
{
	if (value->type != jbvNumeric)
		raise_bad_value(name, wanted);
	return DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow,
											  NumericGetDatum(value->val.numeric)));
}

static int64
whole_option(const char *name, const JsonbValue *value, int64 least,
			 int64 most)
{
	const char *wanted = psprintf("a whole number from %lld",
								  (long long) least);
	double		number = number_option(name, value, wanted);

	if (!(number >= least && number <= (double) most) ||
		number != (double) (int64) number)
		raise_bad_value(name, wanted);
	return (int64) number;
}

static char *
text_option(const char *name, const JsonbValue *value)
{
	if (value->type != jbvString)
		raise_bad_value(name, "a string");
	return pnstrdup(value->val.string.val, value->val.string.len);
}

static void
read_option(AvcEvaluateOptions *options, const char *name,
			const JsonbValue *value)
{
	if (strcmp(name, "version") == 0)
		options->version = whole_option(name, value, 1,
										INT64CONST(1) << 53);
	else if (strcmp(name, "max_frames") == 0)
		options->max_frames = whole_option(name, value, 1,
										   INT64CONST(1) << 53);
	else if (strcmp(name, "threads") == 0)
		options->threads = (int) whole_option(name, value, 0, 1024);
	else if (strcmp(name, "device") == 0)
		options->device = text_option(name, value);
	else if (strcmp(name, "min_score") == 0)
	{
		options->min_score = number_option(name, value,
										   "a number from 0 up to 1");
		if (!(options->min_score >= 0 && options->min_score < 1))
			raise_bad_value(name, "a number from 0 up to 1");
	}
	else if (strcmp(name, "amp") == 0)
	{
		char	   *amp = text_option(name, value);

		if (strcmp(amp, "f32") == 0 || strcmp(amp, "bf16") == 0 ||
			strcmp(amp, "fp16") == 0)
			options->amp = amp;
		else if (strcmp(amp, "auto") != 0)
			raise_bad_value(name, "\"auto\", \"f32\", \"bf16\" or \"fp16\"");
	}
	else
	{
		char	   *mode = text_option(name, value);

		options->lancedb = strcmp(mode, "lancedb") == 0;
		if (!options->lancedb && strcmp(mode, "coco") != 0)
			raise_bad_value(name, "\"coco\" or \"lancedb\"");
	}
}

static bool
is_known(const char *name)
{
	int			i;

	for (i = 0; i < lengthof(known_options); i++)
		if (strcmp(name, known_options[i]) == 0)
			return true;
	return false;
}

void
avc_evaluate_options_read(AvcEvaluateOptions *options, Jsonb *json)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	value;
	char	   *name = NULL;

	memset(options, 0, sizeof(*options));
	options->min_score = -1;
	options->threads = -1;
	if (!JB_ROOT_IS_OBJECT(json))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options of evaluate must be a JSON object")));
	iterator = JsonbIteratorInit(&json->root);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			name = pnstrdup(value.val.string.val, value.val.string.len);
			if (!is_known(name))
				raise_unknown(name);
		}
		else if (token == WJB_VALUE && value.type != jbvNull)
			read_option(options, name, &value);
	}
	if (options->min_score < 0)
		options->min_score = options->lancedb ? 0.3 : 0.05;
}

Jsonb *
avc_evaluate_options_json(const AvcEvaluateOptions *options)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfo(&text, "{\"mode\": \"%s\", \"min_score\": %.15g",
					 options->lancedb ? "lancedb" : "coco",
					 options->min_score);
	if (options->version > 0)
		appendStringInfo(&text, ", \"version\": %lld",
						 (long long) options->version);
	if (options->max_frames > 0)
		appendStringInfo(&text, ", \"max_frames\": %lld",
						 (long long) options->max_frames);
	if (options->device != NULL)
	{
		appendStringInfoString(&text, ", \"device\": ");
		escape_json(&text, options->device);
	}
	if (options->amp != NULL)
		appendStringInfo(&text, ", \"amp\": \"%s\"", options->amp);
	if (options->threads >= 0)
		appendStringInfo(&text, ", \"threads\": %d", options->threads);
	appendStringInfoChar(&text, '}');
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
											  CStringGetDatum(text.data)));
}
