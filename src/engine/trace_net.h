/*
 * engine/trace_net.h
 *		A recorded detector: what its two files share.
 */
#ifndef ENG_TRACE_NET_H
#define ENG_TRACE_NET_H

#include "engine/nets/detector.h"
#include "engine/trace_case.h"

#define ENG_TRACE_FRAMES 16		/* most frames a case can have */

typedef struct EngTraceNet
{
	EngTraceCase *trace;
	EngDetector *detector;
	EngDetectorConfig config;
	EngFrame	frames[ENG_TRACE_FRAMES];
	EngGiven	given[ENG_TRACE_FRAMES];
	int32_t		frame_count;
	bool		draw;			/* samples are drawn, not given */
	EngMt19937	mt;				/* torch's generator, for that */
} EngTraceNet;

/* trace_stages.c: outputs of the call that the detector has just done. */

/* Maps and rows under out.PHASE.*; PHASE is "eval" or "train". */
extern bool eng_trace_put_stages(const EngTraceNet *net, const char *phase);

/* Gradients of the same, under out.grad_act.*. */
extern bool eng_trace_put_stage_gradients(const EngTraceNet *net);

/*
 * Anchors, all boxes decoded, proposals (eval false: with the limits of
 * training), under out.PHASE.*.
 */
extern bool eng_trace_put_proposals(const EngTraceNet *net, const char *phase,
									bool eval);

/* Candidates and detections of an inference with given proposals. */
extern bool eng_trace_put_detections(const EngTraceNet *net,
									 const EngDetections *detections);

/* Matches, samples and targets of a training step. */
extern bool eng_trace_put_targets(const EngTraceNet *net);

#endif
