/*
 * engine/trace.h
 *		The subcommand that runs a recorded case.
 */
#ifndef ENG_TRACE_H
#define ENG_TRACE_H

#include <stdio.h>

#include "engine/status.h"

extern const char eng_trace_help[];
extern bool eng_trace_run(int argc, char **argv, FILE *out,
						  EngStatus *status);

#endif
