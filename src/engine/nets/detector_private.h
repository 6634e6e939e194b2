/*
 * engine/nets/detector_private.h
 *		The inside of a detector, for the files that make it up.
 */
#ifndef ENG_NETS_DETECTOR_PRIVATE_H
#define ENG_NETS_DETECTOR_PRIVATE_H

#include "engine/core/plan.h"
#include "engine/nets/detector.h"
#include "engine/nets/regions.h"

/* Whole batches and last partial ones, in training and in inference. */
#define ENG_PLANS_KEPT	4

/* Stages of a device that can be looked at together. */
#define ENG_DEVICE_STAGES	32

/* What a recorded pass relies on. */
typedef struct EngPassKey
{
	const uint8_t *arena;
	const uint8_t *workspace;
	uint64_t	moves;			/* of the regions' arrays */
	uint64_t	version;		/* of the weights; 0: any */
} EngPassKey;

typedef struct EngKeptPlan
{
	EngPlan    *plan;
	EngRegions *regions;
	uint64_t	used;			/* the larger, the later */
	bool		passed;			/* the last pass was made, with this key */
	EngPassKey	key;
	EngGraph   *graph;			/* of a pass with this key, or NULL */
} EngKeptPlan;

struct EngDetector
{
	EngDetectorConfig config;
	EngBackend *backend;
	bool		train;
	EngParameters parameters;
	EngModel	models[2];		/* inference, training */
	EngKeptPlan plans[ENG_PLANS_KEPT];
	EngKeptPlan *current;		/* of the last call, or NULL */
	uint64_t	uses;
	uint8_t    *arena;			/* of activations, shared by the plans */
	size_t		arena_size;
	uint8_t    *workspace;
	size_t		workspace_size;
	size_t		memory_limit;
	size_t		pictures;		/* bytes that the caller holds */
	EngType		precision;		/* of activations */
	float	   *stage;			/* a stage's values as floats, or NULL */
	float	   *device_stages[ENG_DEVICE_STAGES];	/* the last copies from a
													 * device */
	int			device_stage;	/* the next one to go */
	EngOptimizerConfig optimizer;
	bool		has_optimizer;
	int64_t		updates;		/* optimizer steps made */
	EngLossScale loss_scale;	/* of the next step; scale 0 but in f16 */
	bool		loss_scale_sent;	/* the device has it */
	float		gradient_scale;	/* that the gradients were made with, or 0 */
	bool		has_gradients;	/* of micro-batches not yet applied */
	EngMt19937	mt;				/* option "sampler" */
	EngDetectorHooks hooks;
	bool		has_hooks;
	bool		profile;
	bool		graphs_off;		/* a pass could not be recorded, */
	char		graphs_note[256];	/* for this reason; else "" */
	int64_t		graphs_run;
	struct EngGroup *group;		/* of several devices, of which this detector
								 * is the first; else NULL */
	EngPlanRow *rows;			/* of the last explain */
	char	   *texts;
	const char **load_names;	/* of the last load */
};

/* What one detector takes of a batch; alone all of it. */
typedef struct EngShare
{
	const EngFrame *frames;
	int			n;				/* 0: a rank that only takes part in sums */
	const EngFrame *batch;		/* of all ranks */
	int			batch_count;
	EngSize		padded;			/* of the batch; 0x0: to be found */
} EngShare;

/* detector.c: a detector on one device. */
extern EngDetector *eng_detector_create_alone(const EngDetectorConfig *config,
											  const char *backend,
											  int threads, bool train,
											  EngStatus *status);

/* detector_step.c: the padded size, and steps on shares of checked frames. */
extern EngSize eng_detector_padded(EngDetector *detector,
								   const EngFrame *frames, int n,
								   const EngStepInfo *info);
extern bool eng_detector_train_share(EngDetector *detector,
									 const EngShare *share,
									 const EngStepInfo *info,
									 EngStepResult *result,
									 EngStatus *status);
extern bool eng_detector_infer_share(EngDetector *detector,
									 const EngShare *share,
									 EngDetections *out, EngStatus *status);

/*
 * detector.c: the plan for a batch, made if there is none; n 0: that of a
 * rank without frames.
 */
extern EngKeptPlan *eng_detector_plan(EngDetector *detector, EngSize padded,
									  int32_t n, bool train,
									  EngStatus *status);
extern void eng_detector_drop_plans(EngDetector *detector);

/*
 * detector_graph.c: forward, and backward of a plan made for training, on the
 * batch that is in place.
 */
extern bool eng_detector_pass(EngDetector *detector, EngKeptPlan *kept,
							  EngStatus *status);
extern void eng_detector_drop_graph(const EngDetector *detector,
									EngKeptPlan *kept);

/* detector_scale.c: as at the start of a training */
extern void eng_detector_reset_scale(EngDetector *detector);
/* Before a batch: tell the device, where the host has changed it. */
extern bool eng_detector_send_scale(EngDetector *detector,
									EngStatus *status);
/* After a step: what the device has made of it. */
extern void eng_detector_take_scale(EngDetector *detector,
									const EngStepOutcome *outcome,
									EngStepResult *result);
/* Its tensors, of a training in f16 alone, beside the optimizer's. */
extern bool eng_detector_save_scale(const EngDetector *detector,
									EngTensorWriter *writer,
									EngStatus *status);
extern bool eng_detector_load_scale(EngDetector *detector,
									const EngTensorFile *file,
									EngStatus *status);

#endif
