/*
 * engine/clip_commands.h
 *		Subcommands that do something else for CLIP than for detectors.
 */
#ifndef ENG_CLIP_COMMANDS_H
#define ENG_CLIP_COMMANDS_H

#include <stdbool.h>
#include <stdio.h>

#include "engine/nets/clip.h"
#include "engine/status.h"

#define ENG_CLIP_HELP \
"For clip_vit_b32 beside what is said of the machine, and --seed, --steps,\n" \
"--rows and --limit, where they are:\n" \
"  --options JSON   {\"quick_gelu\": false} for the exact GELU\n" \
"  --frames N       pictures in a group, 1 to 1024 (32)\n" \
"  --texts N        texts instead, so many\n" \
"  --tokens N       of a text, 1 to 77 (77)\n"

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
