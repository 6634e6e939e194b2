/*
 * engine/clip_commands.h
 *		Subcommands that do something else for CLIP than for detectors.
 */
#ifndef ENG_CLIP_COMMANDS_H
#define ENG_CLIP_COMMANDS_H

#include <stdbool.h>
#include <stdio.h>

#include "engine/arguments.h"
#include "engine/nets/clip.h"
#include "engine/status.h"

#define ENG_CLIP_HELP \
"The architecture clip_vit_b32 takes what does not concern training, classes and\n" \
"sizes; its --options are {\"quick_gelu\": false} for the exact GELU, --frames are\n" \
"32 unless given, and it alone has:\n" \
"  --texts N        texts instead of pictures, so many\n" \
"  --tokens N       of a text, 1 to 77 (77)\n"

#define ENG_CLIP_OPTIONS	{"texts"}, {"tokens"}

/* Fail if one of them is given for a detector. */
extern bool eng_clip_refuse_options(const EngOption *options,
									EngStatus *status);

/* Whether an argument names an architecture of CLIP. */
extern bool eng_clip_is_named(int argc, char **argv);

extern bool eng_clip_explain_run(int argc, char **argv, FILE *out,
								 EngStatus *status);
extern bool eng_clip_bench_run(int argc, char **argv, FILE *out,
							   EngStatus *status);

/* explain.c: a plan's rows and what a network holds, printed */
extern void eng_explain_rows(FILE *out, const EngPlanRow *rows,
							 int32_t count, bool train);
extern void eng_explain_memory(FILE *out, const EngMemory *memory);

#endif							/* ENG_CLIP_COMMANDS_H */
