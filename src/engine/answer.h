/*
 * engine/answer.h
 *		The JSON of answers (engine/protocol.h says what is in them).
 *
 * Every function returns NULL if memory is short.
 */
#ifndef ENG_ANSWER_H
#define ENG_ANSWER_H

#include <jansson.h>
#include <stdbool.h>

#include "engine/nets/clip.h"
#include "engine/nets/detector.h"
#include "engine/request.h"
#include "engine/status.h"

extern json_t *eng_answer_load(const EngDetector *detector,
							   const EngLoadOptions *options);
/* The same of a CLIP network; unused: tensors of the file left aside. */
extern json_t *eng_answer_load_clip(const EngClip *clip, int32_t unused);
extern json_t *eng_answer_step(const EngBatchRequest *batch,
							   const EngStepResult *result);

/* labels, scores and boxes of one frame from min_score on. */
extern json_t *eng_answer_detections(const EngDetections *detections,
									 double min_score);

/* A frame that failed alone. */
extern json_t *eng_answer_failed_frame(json_int_t frame_id, EngCode code,
									   const char *message);

/* Add wait_s and busy_s. */
extern void eng_answer_times(json_t *answer, double wait_s, double busy_s);

/* batch may blame a frame. */
extern json_t *eng_answer_error(const EngStatus *failure,
								const EngBatchRequest *batch, bool fatal);

#endif							/* ENG_ANSWER_H */
