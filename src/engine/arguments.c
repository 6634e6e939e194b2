/*
 * engine/arguments.c
 *		Arguments of a subcommand: options by name, the rest by place.
 */
#include "engine/arguments.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static EngOption *
find(const EngOption *options, const char *name, size_t length)
{
	for (; options->name != NULL; options++)
		if (strlen(options->name) == length &&
			memcmp(options->name, name, length) == 0)
			return (EngOption *) options;
	return NULL;
}

/*
 * One argument that starts with two dashes; *next is the one after it.
 */
static bool
read_option(const char *argument, const char *next, EngOption *options,
			bool *took_next, EngStatus *status)
{
	const char *name = argument + 2;
	const char *equal = strchr(name, '=');
	EngOption  *option = find(options, name, equal != NULL ?
							  (size_t) (equal - name) : strlen(name));

	*took_next = false;
	if (option == NULL)
		return eng_fail(status, ENG_BAD_ARGUMENT, "unknown option \"%.100s\"",
						argument);
	if (option->value != NULL)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"option \"--%s\" is given twice", option->name);
	if (option->is_flag)
	{
		if (equal != NULL)
			return eng_fail(status, ENG_BAD_ARGUMENT,
							"option \"--%s\" takes no value", option->name);
		option->value = "true";
		return true;
	}
	*took_next = equal == NULL;
	option->value = equal != NULL ? equal + 1 : next;
	if (option->value == NULL)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"option \"--%s\" needs a value", option->name);
	return true;
}

bool
eng_arguments_read(EngArguments *arguments, int argc, char **argv,
				   EngOption *options, int least, int most,
				   EngStatus *status)
{
	bool		over = false;
	int			i;

	arguments->places = argv + 1;
	arguments->count = 0;
	for (i = 1; i < argc; i++)
	{
		bool		took_next;

		if (over || strncmp(argv[i], "--", 2) != 0)
			arguments->places[arguments->count++] = argv[i];
		else if (argv[i][2] == '\0')
			over = true;
		else
		{
			if (!read_option(argv[i], i + 1 < argc ? argv[i + 1] : NULL,
							 options, &took_next, status))
				return false;
			i += took_next;
		}
	}
	if (arguments->count < least)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"%s needs %d more argument%s; see --help", argv[0],
						least - arguments->count,
						least - arguments->count == 1 ? "" : "s");
	if (arguments->count > most)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"%s does not take \"%.100s\"; see --help", argv[0],
						arguments->places[most]);
	return true;
}

const char *
eng_option_value(const EngOption *options, const char *name)
{
	const EngOption *option = find(options, name, strlen(name));

	return option != NULL ? option->value : NULL;
}

bool
eng_option_integer(const EngOption *options, const char *name,
				   int64_t least, int64_t most, int64_t *out,
				   EngStatus *status)
{
	const char *text = eng_option_value(options, name);
	char	   *end;
	long long	value;

	if (text == NULL)
		return true;
	errno = 0;
	value = strtoll(text, &end, 10);
	if (end == text || *end != '\0' || errno != 0 || value < least ||
		value > most)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"option \"--%s\" must be an integer from %lld to %lld",
						name, (long long) least, (long long) most);
	*out = value;
	return true;
}

bool
eng_option_number(const EngOption *options, const char *name, double least,
				  double most, double *out, EngStatus *status)
{
	const char *text = eng_option_value(options, name);
	char	   *end;
	double		value;

	if (text == NULL)
		return true;
	value = strtod(text, &end);
	if (end == text || *end != '\0' || !(value >= least && value <= most))
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"option \"--%s\" must be a number from %g to %g",
						name, least, most);
	*out = value;
	return true;
}
