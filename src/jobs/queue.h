/*
 * jobs/queue.h
 *		What the launcher needs of the queue.
 */
#ifndef AVC_JOBS_QUEUE_H
#define AVC_JOBS_QUEUE_H

#include "jobs/job.h"

/*
 * Claim the oldest pending job for this process: it is running and locked
 * when this returns.  NULL if there is none.  Runs a transaction of its own;
 * the job lives in a new context below TopMemoryContext.
 */
extern AvcJob *avc_job_claim(void);

/* The running job of that number, for a helper; NULL if it is not running. */
extern AvcJob *avc_job_join(int64 number);

/* Jobs that a new worker would find something to do for. */
extern int64 avc_job_count_waiting(void);

/* Register a worker for the queue; false when the server has no slot. */
extern bool avc_job_worker_register(bool after_commit);

/* The exported entry of the queue's workers (launcher.c). */
#define AVC_JOB_WORKER_ENTRY "avc_job_worker_main"

#endif
