/*
 * engine/nets/detector.h
 *		A detector as its users see it: make, fill, train, ask, save.
 *
 * One detector belongs to one thread at a time; it starts OpenMP threads of
 * its own inside a call.  A plan (kernels, memory) is made when a batch of
 * new shape arrives and kept; afterwards a step allocates nothing.
 */
#ifndef ENG_NETS_DETECTOR_H
#define ENG_NETS_DETECTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/core/backend.h"
#include "engine/io/safetensors.h"
#include "engine/nets/detector_config.h"
#include "engine/ops/detection.h"
#include "engine/status.h"

typedef struct EngDetector EngDetector;

typedef struct EngFrame
{
	const uint8_t *rgb;			/* (height, width, 3); NULL: held by the key */
	int32_t		width;
	int32_t		height;
	const float *boxes;			/* (box_count, 4), pixels of the frame */
	const int32_t *labels;		/* 1 .. num_classes - 1 */
	int32_t		box_count;		/* training: 0 is legal */
	int64_t		frame_id;		/* for messages */
	int64_t		position;		/* in the global order: key of random numbers */
	bool		flip;			/* mirror pixels and boxes first */
	EngFrameKey key;			/* a device may keep the pixels under it */
} EngFrame;

/* ---- life --------------------------------------------------------------- */

/*
 * backend: name of a device (core/devices.h); threads 0: all processors.  A detector made to
 * train holds gradients and can infer too.  Weights are zero until init or
 * load.
 */
extern EngDetector *eng_detector_create(const EngDetectorConfig *config,
										const char *backend, int threads,
										bool train, EngStatus *status);
extern void eng_detector_free(EngDetector *detector);

/* Initial weights by torchvision's rules; equal seeds give equal bits. */
extern bool eng_detector_init(EngDetector *detector, uint64_t seed,
							  EngStatus *status);

typedef struct EngLoadOptions
{
	bool		strict;			/* missing, surplus or misshapen tensors are an
								 * error that names them; else the net's tensor
								 * stays as it is */
	bool		new_head;		/* roi_heads.box_predictor stays as it is,
								 * whatever the file has there */
	bool		backbone_only;	/* the file is that of a ResNet of torchvision's,
								 * which becomes the body; its classifier is
								 * left, and all else stays as it is */
	/* results; the names live as long as detector and file */
	int32_t		loaded;			/* parameters and buffers taken */
	int32_t		optimizer_loaded;	/* optimizer.* tensors taken */
	bool		old_names;		/* those of torchvision's v1 file of 2019, whose
								 * norms were trained with eps 0 */
	int32_t		new_count;		/* tensors of the net that the file lacks or
								 * that have another shape there */
	const char *const *new_names;
	int32_t		unused_count;	/* tensors of the file that the net lacks */
	const char *const *unused_names;
} EngLoadOptions;

/*
 * Take weights under torchvision's names (old v1 names too, and all of them
 * behind what wrappers put before: "module.", "_orig_mod.", "model."), and,
 * when set_optimizer has been called, the optimizer's tensors.  Numbers of
 * other types become float32, counters int64.  Nothing is taken if names or
 * shapes do not fit.  Not strict, or with new_head or backbone_only: call init
 * first, so that new tensors are fresh.
 */
extern bool eng_detector_load(EngDetector *detector,
							  const EngTensorFile *file,
							  EngLoadOptions *options, EngStatus *status);

/*
 * A safetensors file: all parameters and buffers in torch's layout; with the
 * optimizer, its tensors as optimizer.SLOT.NAME and optimizer.step, and of a
 * training in f16 optimizer.loss_scale and optimizer.loss_scale_steps.
 */
extern bool eng_detector_save(EngDetector *detector, bool with_optimizer,
							  EngBuffer *out, EngStatus *status);

/* ---- training ----------------------------------------------------------- */

typedef enum EngOptimizerKind
{
	ENG_OPTIMIZER_SGD = 0,
	ENG_OPTIMIZER_ADAMW
} EngOptimizerKind;

typedef struct EngOptimizerConfig
{
	EngOptimizerKind kind;
	float		momentum;		/* sgd: 0.9 */
	float		beta1;			/* adamw: 0.9 */
	float		beta2;			/* adamw: 0.999 */
	float		eps;			/* adamw: 1e-8 */
	float		weight_decay;
	bool		decay_matrices_only;	/* decay tensors of 2+ dimensions */
	float		clip_norm;		/* 0: no clipping */
	int32_t		trainable_layers;	/* 0..5, of the body */
	bool		freeze_norm;	/* running statistics used, kept, affine fixed */
} EngOptimizerConfig;

/* torchvision's reference recipe: sgd, 0.9, 1e-4, clip 10, 5 layers. */
extern void eng_optimizer_config_default(EngOptimizerConfig *config);

/* May be called again: state of another kind of optimizer is dropped. */
extern bool eng_detector_set_optimizer(EngDetector *detector,
									   const EngOptimizerConfig *config,
									   EngStatus *status);

typedef struct EngStepInfo
{
	uint64_t	seed;
	uint64_t	step;			/* key of random numbers */
	float		lr;
	int32_t		accumulate_index;	/* micro-batch of this step, from 0 */
	int32_t		accumulate_count;	/* 0 or 1: every call is a step; else the
									 * optimizer acts after the last one */
	bool		no_update;		/* losses and gradients only */
	bool		with_empty;		/* a batch without any box trains too, as in
								 * torchvision */
} EngStepInfo;

typedef struct EngStepResult
{
	float		loss_classifier;
	float		loss_box_reg;
	float		loss_objectness;
	float		loss_rpn_box_reg;
	float		loss;			/* their sum */
	float		grad_norm;		/* global, before clipping; 0 when not updated */
	int32_t		boxes;			/* of all frames */
	bool		skipped;		/* no frame had a box: nothing was done */
	float		loss_scale;		/* in f16, of this update; else 0 */
	bool		overflow;		/* in f16: gradients were too large for it, so
								 * that the weights stay and it is halved */
} EngStepResult;

/*
 * Forward, backward, optimizer on n frames.  A loss or a gradient that is not
 * finite fails with ENG_NUMERIC before the weights change; a gradient in f16
 * only once the loss scale is below ENG_LOSS_SCALE_LEAST.  No box at all:
 * skipped.
 */
extern bool eng_detector_train_step(EngDetector *detector,
									const EngFrame *frames, int n,
									const EngStepInfo *info,
									EngStepResult *result, EngStatus *status);

/*
 * Whether a frame, its labels and boxes can be used; the message names it.
 * The calls that work on frames check this too.
 */
extern bool eng_detector_check_frame(const EngDetector *detector,
									 const EngFrame *frame, bool train,
									 EngStatus *status);

/* ENG_NUMERIC names the first tensor that holds what is not finite. */
extern bool eng_detector_check_finite(const EngDetector *detector,
									  EngStatus *status);

/* ---- inference ---------------------------------------------------------- */

/* Arrays belong to the detector until its next call. */
typedef EngDetectionList EngDetections;

/* out[n]: detections in pixels of the frames, highest score first. */
extern bool eng_detector_infer(EngDetector *detector, const EngFrame *frames,
							   int n, EngDetections *out, EngStatus *status);

/* ---- looking inside ------------------------------------------------------ */

typedef struct EngMemory
{
	size_t		parameters;		/* bytes: values and buffers */
	size_t		gradients;
	size_t		optimizer;
	size_t		activations;	/* of the plans kept */
	size_t		alive;			/* most of them in use at once, in the plan of
								 * the last call */
	size_t		workspace;
	size_t		kernels;		/* packed weights, recorded graphs */
	size_t		boxes;			/* anchors, proposals, matches, scores */
	size_t		pictures;		/* decoded, as eng_detector_set_pictures said */
} EngMemory;

extern void eng_detector_memory(const EngDetector *detector,
								EngMemory *memory);

/* Bytes of all of them. */
extern size_t eng_memory_total(const EngMemory *memory);

/*
 * Compute in ENG_BF16 or ENG_F16, or in ENG_F32 as at first: activations and
 * what is multiplied are of that type; weights, statistics, losses and boxes
 * stay float.  Fails (unsupported) where that type cannot be multiplied.
 */
extern bool eng_detector_set_precision(EngDetector *detector, EngType type,
									   EngStatus *status);
extern EngType eng_detector_precision(const EngDetector *detector);

/* Refuse plans that need more than limit bytes in all; 0: no limit. */
extern void eng_detector_set_memory_limit(EngDetector *detector,
										  size_t limit);

/*
 * Bytes of decoded pictures that the caller holds for the detector: they
 * count in the limit from the next call on.
 */
extern void eng_detector_set_pictures(EngDetector *detector, size_t bytes);

/* Whether weights, gradients and optimizer alone are within the limit. */
extern bool eng_detector_check_memory(const EngDetector *detector,
									  EngStatus *status);
extern int32_t eng_detector_threads(const EngDetector *detector);

/*
 * Steps and inferences that a device made as one recorded graph.  *note: why
 * it makes no more of them, else "".
 */
extern int64_t eng_detector_graphs_run(const EngDetector *detector,
									   const char **note);

/*
 * What keeps pictures for it (frame_hold, frame_release); NULL: nothing does.
 */
extern EngBackend *eng_detector_keeper(EngDetector *detector);

/* What computes it. */
extern const EngBackend *eng_detector_backend(const EngDetector *detector);
extern const EngDetectorConfig *eng_detector_config(const EngDetector *detector);

/* One operation of a plan; texts live as long as the plan. */
typedef struct EngPlanRow
{
	const char *kind;			/* conv, norm, ... */
	const char *name;			/* of its weights, or what it makes */
	int32_t		output[4];		/* n, h, w, c */
	const char *kernel;			/* "forward/data/weight" as chosen */
	int32_t		k;				/* convolutions: size of the kernel, else 0 */
	int32_t		stride;
	bool		sparse;			/* few rows of its gradient are not zero: its
								 * backward multiplies only those */
	double		flops_forward;	/* multiply and add counted as two */
	double		flops_backward; /* as if no row were zero */
	double		bytes_forward;	/* moved at least */
	double		bytes_backward;
	bool		again;			/* made again in backward, not kept */
	double		seconds_forward;	/* summed while profiling */
	double		seconds_backward;
} EngPlanRow;

/* Measure each operation from now on (and set the sums to zero), or stop. */
extern void eng_detector_profile(EngDetector *detector, bool on);

/*
 * Rows of the plan for n frames of one padded size, made if it is not there.
 * *count and *rows belong to the detector until its next call.
 */
extern bool eng_detector_explain(EngDetector *detector, EngSize padded,
								 int n, bool train, const EngPlanRow **rows,
								 int32_t *count, EngStatus *status);

/* ---- for comparison with recorded runs ---------------------------------- */

/* What a frame is given instead of computing it. */
typedef struct EngGiven
{
	const float *proposals;		/* (proposal_count, 4), resized pixels */
	int32_t		proposal_count; /* < 0: computed */
	const int32_t *rpn_positives;	/* ENG_SAMPLE_GIVEN: anchors, ascending */
	const int32_t *rpn_negatives;
	int32_t		rpn_positive_count;
	int32_t		rpn_negative_count;
	const int32_t *roi_positives;	/* into proposals, then ground truth */
	const int32_t *roi_negatives;
	int32_t		roi_positive_count;
	int32_t		roi_negative_count;
} EngGiven;

typedef struct EngDetectorHooks
{
	bool		keep_all;		/* no memory is reused within a step, nothing
								 * is folded: every stage can be read after */
	EngSampleMode sample_mode;	/* of both samplers */
	EngMt19937 *mt;				/* ENG_SAMPLE_MT19937; if it is there, sizes
								 * are drawn from it in every mode */
	const EngGiven *given;		/* one a frame of the next call, or NULL */
	int32_t		given_count;
} EngDetectorHooks;

/* NULL: back to normal.  Plans are dropped when keep_all changes. */
extern void eng_detector_set_hooks(EngDetector *detector,
								   const EngDetectorHooks *hooks);

/*
 * A stage of the last call, NHWC, as float32 (linear layers: (rows, 1, 1, c)):
 * batch, c2..c5, p2..p6, rpn_logits.L, rpn_deltas.L, roi_align, box_feature,
 * class_logits, box_deltas.  rows: live rows of the RoI stages (frames after
 * one another), else n.  Data of a net in bf16 is a copy, valid until the next
 * stage is asked for; that of the last two is not.
 */
typedef struct EngStage
{
	const float *data;
	int32_t		n;
	int32_t		h;
	int32_t		w;
	int32_t		c;
	int32_t		rows;
} EngStage;

extern bool eng_detector_stage(EngDetector *detector, const char *name,
							   EngStage *stage);

/* The gradient of a stage, after a training step with keep_all. */
extern bool eng_detector_stage_gradient(EngDetector *detector,
										const char *name, EngStage *stage);

/* Detection data of frame i of the last call; pointers into the plan. */
typedef struct EngFrameTrace
{
	EngSize		resized;
	EngSize		padded;
	EngBoxes	truth;			/* resized ground truth (training) */
	EngBoxes	proposals;
	const float *objectness;	/* (proposals.count); NULL when given */
	EngSample	rpn_sample;		/* training */
	const int32_t *rpn_match;	/* (anchors), training */
	EngRoiSelection rois;		/* training */
} EngFrameTrace;

extern bool eng_detector_frame_trace(const EngDetector *detector, int32_t i,
									 EngFrameTrace *trace);

/* The parameters and buffers, in state-dict order. */
typedef struct EngParameterInfo
{
	const char *name;
	int32_t		rank;
	int64_t		shape[4];		/* torch's */
	int64_t		count;
	bool		is_buffer;		/* running statistics, counters, frozen norm */
	bool		is_counter;		/* num_batches_tracked, int64 */
	bool		is_trainable;
} EngParameterInfo;

typedef enum EngParameterPart
{
	ENG_PART_VALUE = 0,
	ENG_PART_GRADIENT,			/* of the last step, before clipping */
	ENG_PART_SLOT0,				/* momentum; adamw: mean of gradients */
	ENG_PART_SLOT1				/* adamw: mean of squares */
} EngParameterPart;

extern int32_t eng_detector_parameter_count(const EngDetector *detector);
extern void eng_detector_parameter_info(const EngDetector *detector,
										int32_t i, EngParameterInfo *info);

/* Copy out or in, count floats in torch's layout.  False: no such part. */
extern bool eng_detector_parameter_read(const EngDetector *detector,
										int32_t i, EngParameterPart part,
										float *out);
extern bool eng_detector_parameter_write(EngDetector *detector, int32_t i,
										 EngParameterPart part,
										 const float *in);

#endif
