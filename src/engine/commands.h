/*
 * engine/commands.h
 *		The subcommands of the program.
 *
 * argv[0] is the subcommand's name.  They print to out only; a failure of
 * code ENG_BAD_ARGUMENT means that the arguments were wrong.
 */
#ifndef ENG_COMMANDS_H
#define ENG_COMMANDS_H

#include <stdbool.h>
#include <stdio.h>

#include "engine/status.h"

extern const char eng_explain_help[];
extern bool eng_explain_run(int argc, char **argv, FILE *out,
							EngStatus *status);

extern const char eng_bench_help[];
extern bool eng_bench_run(int argc, char **argv, FILE *out,
						  EngStatus *status);

extern const char eng_init_help[];
extern bool eng_init_run(int argc, char **argv, FILE *out,
						 EngStatus *status);

extern const char eng_detect_help[];
extern bool eng_detect_run(int argc, char **argv, FILE *out,
						   EngStatus *status);

extern const char eng_embed_help[];
extern bool eng_embed_run(int argc, char **argv, FILE *out,
						  EngStatus *status);

extern const char eng_convert_help[];
extern bool eng_convert_run(int argc, char **argv, FILE *out,
							EngStatus *status);

extern bool eng_version_print(FILE *out, EngStatus *status);

#endif							/* ENG_COMMANDS_H */
