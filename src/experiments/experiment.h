/*
 * experiments/experiment.h
 *		What the files that run an experiment share.
 *
 * A run is a set of weights that is compared: the base, or what a training on
 * a train slice or on its control, with one seed, ends with.  Slices are
 * named by their place in the argument, from 1; train 0 is the base.
 */
#ifndef AVC_EXPERIMENTS_EXPERIMENT_H
#define AVC_EXPERIMENTS_EXPERIMENT_H

#include "fmgr.h"
#include "utils/jsonb.h"

#include "slices/slice.h"

/* A slice at the version that the experiment is pinned to. */
typedef struct AvcPinnedSlice
{
	AvcSlice   *slice;
	int64		version;
} AvcPinnedSlice;

typedef struct AvcExperiment
{
	int64		id;				/* 0 until it is recorded */
	char	   *name;
	int64		base;			/* checkpoint */
	char	   *model;			/* of the base */
	AvcPinnedSlice *trains;
	int			train_count;
	AvcPinnedSlice *controls;	/* one a train slice; slice NULL until drawn */
	AvcPinnedSlice *vals;
	int			val_count;
	AvcPinnedSlice chooser;		/* option val_slice; slice NULL without it */
	int64	   *seeds;
	int			seed_count;
	bool		has_control;
	int64		max_frames;		/* to train on, 0 = all */
	int64		eval_max_frames;	/* to evaluate on, 0 = all */
	Jsonb	   *options;		/* as given */
	Jsonb	   *train_options;	/* those that train() knows */
	MemoryContext context;		/* lives as long as the call */
} AvcExperiment;

/* ---- arguments.c ---- */

/*
 * The arguments of run_experiment, checked by themselves: slices that the
 * caller may read, at their current versions, and options.  Everything is in
 * the current context.
 */
extern AvcExperiment *avc_experiment_arguments(FunctionCallInfo fcinfo);

/* Error unless the caller has the rights of the role or owns the database. */
extern void avc_experiment_check_role(const char *name, Oid role);

/* ---- record.c ---- */

/*
 * Find the experiment's row or make it; true if it was made.  Either way the
 * session holds the experiment's lock afterwards.  An error if other
 * arguments were recorded.
 */
extern bool avc_experiment_open(AvcExperiment *experiment);

/* The session gives the lock up; safe after an error. */
extern void avc_experiment_unlock(const AvcExperiment *experiment);

/* Take the lock for this transaction; false if a session holds it. */
extern bool avc_experiment_lock_here(int64 id);

/* Pin versions, draw controls, list the runs: after the row was made. */
extern void avc_experiment_plan(AvcExperiment *experiment);

/* Set the state; "running" again clears the end.  error may be NULL. */
extern void avc_experiment_set_state(const AvcExperiment *experiment,
									 const char *state, const char *error);

/* Is it in this state? */
extern bool avc_experiment_is(const AvcExperiment *experiment,
							  const char *state);

/* ---- control.c ---- */

/* Frames that a training on the slice sees: labelled, max_frames at most. */
extern int64 avc_experiment_frames(const AvcExperiment *experiment,
								   const AvcPinnedSlice *slice);

/* Error if a train slice has frames of a val slice, or of option val_slice. */
extern void avc_experiment_check_apart(const AvcExperiment *experiment);

/* Make the control of a train slice (from 0) and pin it. */
extern void avc_experiment_draw_control(AvcExperiment *experiment, int train);

/* ---- work.c ---- */

/* What there is to do, and how far it is. */
typedef struct AvcExperimentWork
{
	int			total;			/* jobs of the whole experiment */
	int			done;			/* succeeded */
	int64		open_job;		/* the oldest one that is not, 0 = none */
	char	   *doing;			/* what that one does, in words */
	double		progress;		/* of that one, 0..1 */
	double		images_per_s;	/* of that one, 0 = unknown */
} AvcExperimentWork;

/*
 * Queue what can be queued and is not, and put failed and cancelled jobs
 * back into the queue.
 */
extern void avc_experiment_queue(const AvcExperiment *experiment);

/*
 * Note the checkpoints of trainings that succeeded, queue their evaluations
 * and tell how far the whole is.  Texts are in the current context.
 */
extern void avc_experiment_advance(const AvcExperiment *experiment,
								   AvcExperimentWork *work);

/* A job that failed or was cancelled, 0 if there is none. */
extern int64 avc_experiment_broken_job(const AvcExperiment *experiment);

/* A job that still runs although it is to be cancelled, 0 if there is none. */
extern int64 avc_experiment_cancelled_job(const AvcExperiment *experiment);

/* Cancel the jobs that are not finished. */
extern void avc_experiment_cancel_jobs(const AvcExperiment *experiment);

/* ---- summary.c ---- */

/* Compute and store the summary; returns the rows worse than the base. */
extern int	avc_experiment_summarise(const AvcExperiment *experiment);

#endif							/* AVC_EXPERIMENTS_EXPERIMENT_H */
