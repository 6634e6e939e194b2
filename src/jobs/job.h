/*
 * jobs/job.h
 *		The queue of jobs and what a job's body may call.
 *
 * A job is a row of _avcurate.jobs.  A dynamic background worker claims it
 * and calls its body, an exported function of this library named in the
 * row: void body(AvcJob *job).  The body runs outside any transaction, with
 * the job's role as the current user and job->context as the current memory
 * context; it opens short transactions with avc_job_begin/avc_job_commit.
 * An error that leaves the body fails the job with that error's message;
 * a cancel (SIGINT) ends it as cancelled.
 */
#ifndef AVC_JOBS_JOB_H
#define AVC_JOBS_JOB_H

#include "utils/jsonb.h"

typedef struct AvcJob
{
	int64		job;
	char	   *kind;			/* train, evaluate, ... */
	char	   *body;			/* exported C function */
	Oid			role;			/* whose rights it uses */
	Oid			dataset;		/* InvalidOid if none */
	int64		slice_id;		/* 0 if none */
	int64		version;		/* pinned version, 0 if none */
	char	   *model;			/* NULL if none */
	int64		checkpoint;		/* what it works on, 0 if none */
	Jsonb	   *options;		/* complete: defaults were filled in */
	char	   *device;			/* NULL if none */
	int			device_slot;	/* of the device's, -1 if it has no limit */
	int			attempt;		/* 1 at the first start */
	MemoryContext context;		/* lives as long as the job runs */
	bool		is_finished;	/* avc_job_finish was called */
	bool		is_helper;		/* this process helps the job's worker */
	int64		last_beat;		/* GetCurrentTimestamp() of the last row */
} AvcJob;

typedef void (*AvcJobBody) (AvcJob *job);

/* What is queued; everything but kind and body may be left 0. */
typedef struct AvcJobRequest
{
	const char *kind;
	const char *body;
	Oid			dataset;
	int64		slice_id;
	int64		version;
	const char *model;
	int64		checkpoint;
	Jsonb	   *options;		/* NULL = {} */
	const char *device;
	int			max_attempts;	/* 0 = 3 */
} AvcJobRequest;

/* queue.c */

/*
 * Queue a job for the current user and register a worker that starts when
 * this transaction has committed.  Returns the job's number.
 */
extern int64 avc_job_add(const AvcJobRequest *request);

/* progress.c: for bodies.  All but begin/commit open a transaction of
 * their own when none is open. */

/* Start a short transaction with an active snapshot. */
extern void avc_job_begin(AvcJob *job);

/* Commit it and return to job->context. */
extern void avc_job_commit(AvcJob *job);

/*
 * Beat the heart and record how far the job is (0..1; images_per_s < 0 =
 * unknown).  Writes at most one row a second unless fraction is 1, so it
 * may be called at every step.
 */
extern void avc_job_progress(AvcJob *job, double fraction,
							 double images_per_s);

/*
 * Something was stored that the next attempt goes on from: the starts so far
 * were not in vain.
 */
extern void avc_job_advanced(AvcJob *job);

/* One line of job_log; level is "info", "notice" or "warning". */
extern void avc_job_log(AvcJob *job, const char *level,
						const char *format,...) pg_attribute_printf(3, 4);

/* Errors out if a cancel or terminate came in. */
extern void avc_job_check_cancel(AvcJob *job);

/*
 * Mark the job succeeded.  A body calls this inside its last transaction,
 * so that its results and its state become visible together; otherwise the
 * worker does it after the body has returned.
 */
extern void avc_job_finish(AvcJob *job, int64 failed_rows);

/* One row of job_progress; fields that are NaN are stored as NULL. */
typedef struct AvcJobStep
{
	int64		step;			/* counted from 1 */
	int			epoch;
	double		lr;
	double		loss;
	double		loss_classifier;
	double		loss_box_reg;
	double		loss_objectness;
	double		loss_rpn_box_reg;
	double		grad_norm;
	double		images_per_s;
	double		engine_busy;
} AvcJobStep;

extern void avc_job_step(AvcJob *job, const AvcJobStep *step);

/* helpers.c */

/*
 * Workers that run the job's body beside the one that has claimed it, with
 * job->is_helper set.  They take slots of avcurate.max_workers, too.
 */
typedef struct AvcJobHelpers AvcJobHelpers;

/*
 * Start up to "wanted" helpers, fewer where slots lack, which the job's log
 * then says; outside a transaction.
 */
extern AvcJobHelpers *avc_job_helpers_start(AvcJob *job, int wanted);

/* Wait until all have ended by themselves. */
extern void avc_job_helpers_wait(AvcJobHelpers *helpers);

/* Terminate those that are still there; does not wait. */
extern void avc_job_helpers_stop(AvcJobHelpers *helpers);

/*
 * For a helper: is the job still running, with a worker and no cancel asked
 * for?  Needs a transaction.
 */
extern bool avc_job_is_wanted(const AvcJob *job);

#endif
