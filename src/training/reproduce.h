/*
 * training/reproduce.h
 *		The same training once more, and whether it gave the same weights.
 */
#ifndef AVC_TRAINING_REPRODUCE_H
#define AVC_TRAINING_REPRODUCE_H

#include "common/engine_client.h"
#include "jobs/job.h"

#define AVC_REPRODUCE_KIND "reproduce"

/*
 * Compare the weights (a safetensors file) that a job of that kind ended
 * with with those of job->checkpoint, and record the result in its row.
 * Call within a transaction.
 */
extern void avc_reproduce_compare(AvcJob *job, const AvcReply *saved,
								  const char *environment);

#endif
