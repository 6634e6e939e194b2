/*
 * jobs/queue.h
 *		What the workers of the queue share.
 */
#ifndef AVC_JOBS_QUEUE_H
#define AVC_JOBS_QUEUE_H

#include "common/catalog.h"
#include "jobs/job.h"
#include "jobs/state.h"

/*
 * A transaction of a worker's own on the catalog, connected to SPI, between
 * jobs and at their ends.
 */
extern void avc_job_access_begin(AvcRoleScope *scope);
extern void avc_job_access_end(AvcRoleScope *scope);

/*
 * Claim a pending job for this process: it is running and locked, and has a
 * place on its device, when this returns.  NULL if there is none.  Runs a transaction of its own;
 * the job lives in a new context below TopMemoryContext.
 */
extern AvcJob *avc_job_claim(void);

/*
 * Milliseconds until a worker that can claim nothing should look again; 0 if
 * a pending job is due, -1 if there is none, or none but those that a worker
 * of this database will see when its job ends.  has_slot: did this worker get
 * a slot?  Runs a transaction of its own.
 */
extern int64 avc_job_next_start(bool has_slot);

/* Between two looks for a slot or device that other databases hold. */
#define AVC_JOB_BLOCKED_LOOK_MS 2000

/* The running job of that number, for a helper; NULL if it is not running. */
extern AvcJob *avc_job_join(int64 number);

/* A job's row as those see it who cancel, resume or wait for it. */
typedef struct AvcJobRow
{
	AvcJobState state;
	Oid			role;
	int			worker_pid;		/* 0 if none */
	double		progress;		/* 0..1 */
	double		images_per_s;	/* 0 = unknown */
	char	   *error;			/* NULL if none */
	bool		is_due;			/* a pending one may be started now */
	bool		is_mine;		/* written, locked or to be cancelled by this transaction */
} AvcJobRow;

/*
 * Read a job's row, locked or as the newest snapshot sees it; false if there
 * is none.
 */
extern bool avc_job_find(int64 job, bool lock, AvcJobRow *row);

/* The same; an error if there is none or the current user has no rights on it. */
extern void avc_job_read(int64 job, bool lock, AvcJobRow *row);

/* Jobs that a new worker would find something to do for. */
extern int64 avc_job_count_waiting(void);

/* Register a worker for the queue; false when the server has no slot. */
extern bool avc_job_worker_register(bool after_commit);

/* Call the job's body, with job->context current (launcher.c). */
extern void avc_job_call_body(AvcJob *job);

/* The exported entry of the queue's workers (launcher.c). */
#define AVC_JOB_WORKER_ENTRY "avc_job_worker_main"

#endif
