/*
 * jobs/state.h
 *		States of a job and who is alive.
 */
#ifndef AVC_JOBS_STATE_H
#define AVC_JOBS_STATE_H

#include "storage/lock.h"

typedef enum AvcJobState
{
	AVC_JOB_PENDING,
	AVC_JOB_RUNNING,
	AVC_JOB_SUCCEEDED,
	AVC_JOB_FAILED,
	AVC_JOB_CANCELLED
} AvcJobState;

extern const char *avc_job_state_name(AvcJobState state);
extern AvcJobState avc_job_state_from_name(const char *name);

/*
 * The one place where a job's state changes.  The caller is connected to
 * SPI as the extension's owner.  It is an error if the job is not in state
 * "from" or if there is no such transition.  error is stored with FAILED.
 */
extern void avc_job_state_change(int64 job, AvcJobState from,
								 AvcJobState to, const char *error);

/*
 * Put a running job back, to be started again after "delay" milliseconds.
 * error: why it could not go on.  SPI as above.
 */
extern void avc_job_put_back(int64 job, const char *error, int64 delay);

/*
 * A worker holds the lock of the job that it runs, for its session: it is
 * gone when the worker is, whatever became of its process id.
 */
extern void avc_job_lock(int64 job);
extern void avc_job_unlock(int64 job);

/* Does a worker run this job now? */
extern bool avc_job_is_alive(int64 job);

/*
 * Slots limit the jobs that run at once in the whole cluster.  take returns
 * a slot, or -1 if all of "slots" are taken; free_count counts those left.
 */
extern int	avc_job_slot_take(int slots);
extern void avc_job_slot_release(int slot);
extern int	avc_job_slot_free_count(int slots);

/*
 * Devices limit the jobs that run on each.  take gives *slot (-1: the device
 * has no limit), which release takes back; device NULL has no limit.
 */
extern bool avc_job_device_take(const char *device, int *slot);
extern void avc_job_device_release(const char *device, int slot);
extern bool avc_job_device_is_full(const char *device);

/* One worker a database waits for retries that are not due yet. */
extern bool avc_job_retries_take(void);
extern void avc_job_retries_release(void);

#endif
