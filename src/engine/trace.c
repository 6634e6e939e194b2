/*
 * engine/trace.c
 *		Run a recorded case, so that our numbers can be compared with those of
 *		the program that recorded it.
 */
#include <string.h>

#include "engine/arguments.h"
#include "engine/choice.h"
#include "engine/core/devices.h"
#include "engine/trace.h"
#include "engine/trace_steps.h"

const char	eng_trace_help[] =
"Usage: avcurate-engine trace CASE.safetensors OUT.safetensors [options]\n"
"\n"
"Runs a recorded case (single operations, a whole detector or CLIP) and writes\n"
"every output that the case holds, under its name and in its form.\n"
"\n"
"  --backend NAME       cpu (default), ref or cuda\n"
"  --precision f32|bf16|f16 of activations (default f32)\n"
"  --threads N          threads, 0 for all processors (default 0)\n"
"  --frames DIR         folder that frame names of the case are relative to\n"
"  --free               inference: later stages take what earlier ones gave,\n"
"                       not what was recorded; no training\n"
"  --draw               training: samples are drawn as torch draws them from\n"
"                       the recorded seed, not taken from the case\n";

double
eng_trace_option(const EngTraceCase *trace, const char *name, const char *key,
				 double otherwise)
{
	const json_t *cases = json_object_get(eng_trace_config(trace), "cases");
	const json_t *value = json_object_get(json_object_get(cases, name), key);

	if (json_is_boolean(value))
		return json_is_true(value) ? 1.0 : 0.0;
	return json_is_number(value) ? json_number_value(value) : otherwise;
}

/* The operation that an output's name begins with; false if it has none. */
static bool
operation_name(char *name, size_t size, const char *tensor)
{
	const char *dot;

	if (strncmp(tensor, "out.", 4) != 0)
		return false;
	dot = strchr(tensor + 4, '.');
	if (dot == NULL || (size_t) (dot - tensor - 4) >= size)
		return false;
	memcpy(name, tensor + 4, dot - tensor - 4);
	name[dot - tensor - 4] = '\0';
	return true;
}

static bool
run_operations(EngTraceCase *trace, EngBackend *backend)
{
	char		last[64] = "";
	char		name[64];

	for (int32_t i = 0; eng_trace_name(trace, i) != NULL; i++)
	{
		EngTraceStep step;

		if (!operation_name(name, sizeof(name), eng_trace_name(trace, i)) ||
			strcmp(name, last) == 0)
			continue;
		strcpy(last, name);
		step = eng_trace_find_op(name);
		if (step == NULL)
			step = eng_trace_find_layer(name);
		if (step == NULL)
			return eng_fail(eng_trace_status(trace), ENG_UNSUPPORTED,
							"no operation for \"%s\"", name);
		if (!step(trace, backend, name))
			return eng_fail(eng_trace_status(trace), ENG_BAD_FILE,
							"could not run \"%s\"", name);
	}
	return true;
}

static bool
trace_operations(EngTraceCase *trace, const EngTraceOptions *options)
{
	EngBackend *backend;
	bool		done;

	backend = eng_backend_open(options->backend, options->threads,
							   eng_trace_status(trace));
	if (backend == NULL)
		return false;
	if (backend->enter != NULL)
		backend->enter(backend);
	/* they are given arrays of the host's */
	done = backend->device ?
		eng_fail(eng_trace_status(trace), ENG_UNSUPPORTED,
				 "single operations are traced on cpu and ref alone") :
		run_operations(trace, backend);
	backend->close(backend);
	return done;
}

static bool
run_case(EngTraceCase *trace, const EngTraceOptions *options)
{
	const char *kind = eng_trace_text(trace, "kind");

	if (strcmp(kind, "operation_golden") == 0 && options->precision != ENG_F32)
		return eng_fail(eng_trace_status(trace), ENG_UNSUPPORTED,
						"single operations are traced in f32 alone");
	if (strcmp(kind, "operation_golden") == 0 &&
		(options->free_running || options->draw))
		return eng_fail(eng_trace_status(trace), ENG_BAD_ARGUMENT,
						"\"--free\" and \"--draw\" are for cases of detectors");
	if (strcmp(kind, "operation_golden") == 0)
		return trace_operations(trace, options);
	if (strcmp(kind, "faster_rcnn_golden") == 0)
		return eng_trace_detector(trace, options);
	if (strcmp(kind, "clip_golden") == 0)
		return eng_trace_clip(trace, options);
	return eng_fail(eng_trace_status(trace), ENG_UNSUPPORTED,
					"cases of kind \"%s\" cannot be run", kind);
}

bool
eng_trace_run(int argc, char **argv, FILE *out, EngStatus *status)
{
	EngOption	options[] = {
		{"backend", false, NULL},
		{"precision", false, NULL},
		{"threads", false, NULL},
		{"frames", false, NULL},
		{"free", true, NULL},
		{"draw", true, NULL},
		{NULL, false, NULL}
	};
	EngArguments arguments;
	EngTraceOptions how = {.backend = "cpu"};
	EngTraceCase *trace;
	int64_t		threads = 0;
	bool		done;

	if (!eng_arguments_read(&arguments, argc, argv, options, 2, 2, status) ||
		!eng_option_integer(options, "threads", 0, 1024, &threads, status))
		return false;
	if (!eng_choice_precision(options, &how.precision, status))
		return false;
	if (eng_option_value(options, "backend") != NULL)
		how.backend = eng_option_value(options, "backend");
	if (!eng_device_is_known(how.backend))
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"backend \"%.64s\" is not known: ref, cpu and cuda are",
						how.backend);
	how.threads = (int32_t) threads;
	how.frames = eng_option_value(options, "frames");
	how.free_running = eng_option_value(options, "free") != NULL;
	how.draw = eng_option_value(options, "draw") != NULL;
	if (how.free_running && how.draw)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"options \"--free\" and \"--draw\" exclude each other");
	trace = eng_trace_case_open(arguments.places[0], status);
	if (trace == NULL)
		return false;
	done = run_case(trace, &how) &&
		eng_trace_case_write(trace, arguments.places[1]);
	eng_trace_case_close(trace);
	return done;
}
