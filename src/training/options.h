/*
 * training/options.h
 *		The options of train: recipe, defaults, checks, learning rate.
 */
#ifndef AVC_TRAINING_OPTIONS_H
#define AVC_TRAINING_OPTIONS_H

#include "utils/jsonb.h"

#include "models/checkpoint.h"

typedef struct AvcTrainOptions
{
	int64		from_checkpoint;	/* 0 = fresh weights */
	int64		version;		/* 0 = the slice's current one */
	char	   *val_slice;		/* NULL = none; qualified once pinned */
	int64		val_version;	/* 0 = its current one */
	int64		epochs;
	int64		max_steps;		/* 0 = by epochs */
	int64		max_frames;		/* 0 = all */
	int64		batch_size;		/* frames of an optimizer step */
	int64		accumulate;		/* micro-batches that a step is cut into */
	char	   *optimizer;		/* sgd, adamw */
	double		lr;
	double		momentum;
	double		weight_decay;
	char	   *lr_schedule;	/* step, cosine */
	int64		lr_step_size;	/* epochs */
	double		lr_gamma;
	int64		warmup_steps;
	double		clip_norm;		/* 0 = no clipping */
	char	   *amp;			/* auto, f32, bf16, fp16 */
	int64		trainable_layers;
	bool		freeze_norm;
	double		hflip;			/* probability */
	int64		seed;
	char	   *device;			/* resolved (models/model.h) */
	int64		threads;		/* 0 = all cores */
	int64		checkpoint_every;	/* steps, 0 = never */
	int64		keep_last;
	bool		keep_best;
	int64		eval_every;		/* epochs */
	int64		early_stop;		/* evaluations, 0 = never */
} AvcTrainOptions;

/*
 * Take the given options (NULL = none), fill in the defaults of the model's
 * preset or of the reference recipe, check everything.  An unknown option is
 * an error that lists the known ones.
 */
extern void avc_train_options_resolve(AvcTrainOptions *options, Jsonb *given,
									  const AvcModel *model);

/*
 * Error, in the name of the function, unless each member of the object is an
 * option of train() or one of "more"; the hint lists all but those in "less".
 * Both lists end with NULL.
 */
extern void avc_train_options_check_names(Jsonb *given, const char *function,
										  const char *const *more,
										  const char *const *less);

/* All options, spelled out; resolving them again gives the same. */
extern Jsonb *avc_train_options_to_jsonb(const AvcTrainOptions *options);

/*
 * Learning rate of optimizer step i (from 0) of total, in an epoch (from 0).
 */
extern double avc_train_options_lr(const AvcTrainOptions *options, int64 i,
								   int64 total, int64 epoch);

/* Members of the engine's LOAD that tell the recipe, with a leading comma. */
extern char *avc_train_options_load(const AvcTrainOptions *options);

#endif
