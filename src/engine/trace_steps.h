/*
 * engine/trace_steps.h
 *		What the trace subcommand can run.
 */
#ifndef ENG_TRACE_STEPS_H
#define ENG_TRACE_STEPS_H

#include "engine/core/backend.h"
#include "engine/trace_case.h"
#include "image/image.h"

/* How a case is to be run. */
typedef struct EngTraceOptions
{
	const char *backend;		/* "cpu", "ref" */
	int32_t		threads;		/* 0: all processors */
	const char *frames;			/* folder that frame names are relative to */
	bool		free_running;	/* inference without recorded proposals */
	bool		draw;			/* training without recorded samples */
	EngType		precision;		/* of activations */
} EngTraceOptions;

/*
 * One recorded operation: its inputs are in.NAME.*, its outputs out.NAME.*.
 * false: status is set.
 */
typedef bool (*EngTraceStep) (EngTraceCase *trace, EngBackend *backend,
							  const char *name);

/* A number of an operation's part of the config. */
extern double eng_trace_option(const EngTraceCase *trace, const char *name,
							   const char *key, double otherwise);

/* trace_ops.c: operations between the networks; NULL if there is none. */
extern EngTraceStep eng_trace_find_op(const char *name);

/* trace_layers.c: layers, through the backend's table. */
extern EngTraceStep eng_trace_find_layer(const char *name);

/* trace_net.c: a whole detector. */
extern bool eng_trace_detector(EngTraceCase *trace,
							   const EngTraceOptions *options);

/* trace_clip.c: both towers of CLIP. */
extern bool eng_trace_clip(EngTraceCase *trace,
						   const EngTraceOptions *options);

/*
 * trace_material.c: the recorded values of a parameter, or those that the
 * formula makes of its name; NULL: status is set.
 */
extern float *eng_trace_weights(EngTraceCase *trace, const char *name,
								int64_t count);
/* Decode a frame that the case names; pixels live as long as the case. */
extern bool eng_trace_read_frame(EngTraceCase *trace, const char *folder,
								 const char *name, EngImage *image);

#endif
