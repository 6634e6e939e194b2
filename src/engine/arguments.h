/*
 * engine/arguments.h
 *		Arguments of a subcommand: options by name, the rest by place.
 */
#ifndef ENG_ARGUMENTS_H
#define ENG_ARGUMENTS_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/status.h"

/* A list of these ends with one whose name is NULL. */
typedef struct EngOption
{
	const char *name;			/* without the two dashes */
	bool		is_flag;		/* takes no value; given: value is "true" */
	const char *value;			/* set when given: "--name value" or
								 * "--name=value" */
} EngOption;

typedef struct EngArguments
{
	char	  **places;			/* what is no option, in order */
	int			count;
} EngArguments;

/*
 * argv[0] is the subcommand's name.  argv is reordered: places point into it.
 * "--" ends the options.  An unknown option, one given twice or without its
 * value, or a number of places outside least..most fails (bad argument).
 */
extern bool eng_arguments_read(EngArguments *arguments, int argc,
							   char **argv, EngOption *options, int least,
							   int most, EngStatus *status);

/* The value of an option, or NULL if it was not given. */
extern const char *eng_option_value(const EngOption *options,
									const char *name);

/* *out stays as it is if the option was not given. */
extern bool eng_option_integer(const EngOption *options, const char *name,
							   int64_t least, int64_t most, int64_t *out,
							   EngStatus *status);
extern bool eng_option_number(const EngOption *options, const char *name,
							  double least, double most, double *out,
							  EngStatus *status);

#endif							/* ENG_ARGUMENTS_H */
