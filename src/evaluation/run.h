/*
 * evaluation/run.h
 *		The frames of a pinned version through a detector, and their matching.
 */
#ifndef AVC_EVALUATION_RUN_H
#define AVC_EVALUATION_RUN_H

#include "evaluation/evaluator.h"
#include "evaluation/result.h"
#include "jobs/job.h"
#include "models/checkpoint.h"

/* What is run; the strings and the model outlive the run. */
typedef struct AvcRunSource
{
	AvcJob	   *job;			/* whose rights and transactions */
	const AvcModel *model;
	int64		slice_id;
	int64		version;
	int64		max_frames;		/* 0 = all */
	double		min_score;		/* detections below it are dropped */
	const char *device;			/* resolved (models/model.h) */
	bool		is_part;		/* of a job that has said what it runs on */
	int			threads;		/* 0 = all cores */
	const char *amp;			/* "f32", "bf16", "fp16" or NULL = auto */
} AvcRunSource;

/* One frame's arrays, as avc_evaluator_add left them. */
typedef struct AvcRunFrame
{
	int64		frame_id;
	AvcImageTruth *truths;
	int			truth_count;
	AvcImageDetection *detections;
	int			detection_count;
} AvcRunFrame;

typedef struct AvcRunHooks
{
	/* within the transaction of the frame's batch; may be NULL */
	void		(*frame) (void *arg, const AvcRunFrame *frame);
	/* after each batch, outside of transactions: share of batches done */
	void		(*batch) (void *arg, double done, double images_per_s);
	void	   *arg;
} AvcRunHooks;

typedef struct AvcRun AvcRun;

/* ---- run.c ---- */

/* Open the frames; needs a transaction.  The run lives in the context. */
extern AvcRun *avc_run_open(const AvcRunSource *source,
							MemoryContext context);

/* Start an engine with these weights, which may be freed afterwards. */
extern void avc_run_load(AvcRun *run, const AvcFileImage *weights);

/*
 * All frames through the engine loaded last, which is stopped then.  Outside
 * of transactions; may be repeated after another load.
 */
extern AvcEvaluator *avc_run_pass(AvcRun *run, const AvcRunHooks *hooks);

/* Frames of the last pass; labelled ones only. */
extern int64 avc_run_frames(const AvcRun *run);

/* Frames that are left out because they have no labels. */
extern int64 avc_run_unlabelled(const AvcRun *run);

/* Classes of the model's label map, by label; they live with the run. */
extern const AvcEvaluatedClass *avc_run_classes(const AvcRun *run,
												int *count);

extern void avc_run_close(AvcRun *run);

#endif							/* AVC_EVALUATION_RUN_H */
