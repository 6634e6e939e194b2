/*
 * training/validation.h
 *		Evaluations of a training on a slice of its own, while it runs.
 */
#ifndef AVC_TRAINING_VALIDATION_H
#define AVC_TRAINING_VALIDATION_H

#include "jobs/job.h"
#include "models/checkpoint.h"
#include "training/options.h"

typedef struct AvcValidation AvcValidation;

/*
 * For train(): check val_slice, which the options name, and pin its version
 * (val_version, set by this) against pruning in this transaction.  Returns
 * the slice's registry number.
 */
extern int64 avc_validation_pin(AvcTrainOptions *options);

/* Record the pin for as long as the job is pending or runs. */
extern void avc_validation_keep_pin(int64 job, int64 slice_id, int64 version);

/*
 * For the job: NULL if it has no val_slice.  What an earlier attempt found
 * after first_step, where this one begins, is forgotten.  Needs a
 * transaction; options and model outlive the validation.
 */
extern AvcValidation *avc_validation_open(AvcJob *job,
										  const AvcTrainOptions *options,
										  const AvcModel *model,
										  int64 first_step);

/* Is there an evaluation to be made of the weights after these steps? */
extern bool avc_validation_is_due(const AvcValidation *validation,
								  int64 steps_done, int64 per_epoch,
								  int64 total);

/*
 * Evaluate weights and record the figures; true if they are the best so far.
 * Outside of transactions.
 */
extern bool avc_validation_run(AvcValidation *validation, int64 steps_done,
							   int epoch, const AvcFileImage *weights,
							   double progress);

/* Has early_stop come? */
extern bool avc_validation_is_over(const AvcValidation *validation);

/* The step of the best weights, 0 if nothing was evaluated. */
extern int64 avc_validation_best_step(const AvcValidation *validation);

/*
 * Keep a checkpoint, stored as hidden, as that of the best weights; the one
 * kept before is deleted.  Needs a transaction.
 */
extern void avc_validation_keep(AvcValidation *validation, int64 checkpoint);

/*
 * The kept checkpoint becomes one for others to see; returns its number, 0
 * if there is none.  Needs a transaction.
 */
extern int64 avc_validation_publish(AvcValidation *validation);

#endif
