/*
 * engine/core/plan.h
 *		Networks: described once, planned for a shape, then run.
 *
 * A model is a flat array of operations on tensors, in order of execution.
 * A plan is a copy of it in which every shape is known, every kernel made
 * and every tensor has its place in the arena of activations.  Forward goes
 * up the array, backward goes down.
 *
 * Time, for the life of tensors: operation i of n runs forward at i and
 * backward at 2n - 1 - i.
 *
 * A value that backward reads is either kept from forward to its last use,
 * or, when its maker can make it again from what is kept anyway (a norm from
 * the convolution before it), it lives twice: in forward until its last use
 * there, and in backward from just before its first use there.
 */
#ifndef ENG_CORE_PLAN_H
#define ENG_CORE_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/core/backend.h"
#include "engine/core/parameters.h"
#include "engine/status.h"

#define ENG_OP_INPUTS	10

typedef struct EngOp EngOp;
typedef struct EngPlan EngPlan;

typedef struct EngTensor
{
	char		name[24];		/* "": no stage that anyone asks for */
	int32_t		n;
	int32_t		h;
	int32_t		w;
	int32_t		c;
	bool		per_roi;		/* n counts RoIs, of which the first are live */
	bool		requires_grad;
	bool		full;			/* float in every precision: logits, deltas */
	bool		full_in_bf16;	/* float where the plan's type is bf16 */
	EngType		type;			/* of value and gradient */
	int32_t		root;			/* the tensor whose memory this one shares */
	int32_t		first;			/* life of the value */
	int32_t		last;
	int32_t		again_first;	/* its second life; first < 0: none */
	int32_t		again_last;
	int32_t		grad_first;		/* life of the gradient; first < 0: none */
	int32_t		grad_last;
	int32_t		grad_root;		/* the tensor whose gradient's memory this
								 * one's gradient takes over */
	size_t		offset;			/* bytes into the arena */
	size_t		again_offset;
	size_t		value_offset;	/* of the life that the run is in */
	size_t		grad_offset;
	bool		grad_seen;		/* keep_all: a copy of the gradient is taken
								 * before its maker's backward hides parts */
	size_t		seen_offset;
} EngTensor;

/* One kind of operation: its shapes, forward and backward. */
typedef struct EngOpClass
{
	const char *kind;
	/* sums over ranks: those who have no frames take part, with nothing */
	bool		meets;
	/* set the shapes of the outputs */
	bool		(*shape) (EngPlan *plan, EngOp *op, EngStatus *status);
	/* make kernels; set workspace, aux_size, keeps_*, flops */
	bool		(*prepare) (EngPlan *plan, EngOp *op, EngStatus *status);
	bool		(*forward) (EngPlan *plan, EngOp *op, EngStatus *status);
	/*
	 * forward once more, from the inputs and aux, without other effects; NULL
	 * where that costs more than keeping the output
	 */
	bool		(*again) (EngPlan *plan, EngOp *op, EngStatus *status);
	/* NULL: nothing flows back through it */
	bool		(*backward) (EngPlan *plan, EngOp *op, EngStatus *status);
	/* free op->state; may be NULL */
	void		(*finish) (EngPlan *plan, EngOp *op);
} EngOpClass;

typedef struct EngNormParameters
{
	int32_t		weight;
	int32_t		bias;
	int32_t		running_mean;
	int32_t		running_var;
	int32_t		counter;		/* -1: a frozen norm */
	float		eps;
} EngNormParameters;

struct EngOp
{
	const EngOpClass *class;
	const char *name;			/* for people; owned by the registry or static */
	int32_t		input[ENG_OP_INPUTS];
	int32_t		input_count;
	int32_t		output[ENG_OP_INPUTS];
	int32_t		output_count;
	/* description */
	int32_t		k;
	int32_t		stride;
	int32_t		pad;
	int32_t		channels;		/* of the output */
	bool		relu;
	bool		sparse;			/* few rows of its gradient are not zero */
	bool		by_cell;		/* linear: a row is a cell, not an entry */
	bool		causal;			/* attention */
	int32_t		heads;
	EngActivation activation;
	int32_t		weight;			/* parameter, -1: none */
	int32_t		bias;
	EngNormParameters norm;
	/* plan */
	bool		backward_active;
	bool		want_gradient[ENG_OP_INPUTS];	/* of each input */
	bool		add_gradient[ENG_OP_INPUTS];	/* not its first writer */
	uint32_t	keeps_inputs;	/* bit i: backward reads the value of input i */
	bool		keeps_output;
	uint32_t	in_place;		/* bit i: the gradient of input i may lie where
								 * the output's does */
	int32_t		again_before;	/* made again before the backward of this
								 * operation, -1: never */
	int32_t		folded;			/* operation folded into or with, -1: none */
	EngKernel  *kernel;
	void	   *state;
	size_t		workspace;
	size_t		aux_size;		/* bytes from forward to backward */
	size_t		aux_offset;
	double		flops_forward;
	double		flops_backward;
	double		seconds_forward;
	double		seconds_backward;
};

typedef struct EngModel
{
	EngParameters *parameters;
	EngTensor  *tensors;
	int32_t		tensor_count;
	int32_t		tensor_capacity;
	EngOp	   *ops;
	int32_t		op_count;
	int32_t		op_capacity;
	int32_t		input;			/* tensor that holds the batch */
	EngStatus	status;			/* first failure while describing */
} EngModel;

typedef struct EngPlanRequest
{
	int32_t		n;
	int32_t		h;				/* padded */
	int32_t		w;
	int32_t		c;				/* channels of the input */
	bool		train;
	bool		keep_all;
	bool		freeze_norm;	/* running statistics in training */
	bool		idle;			/* of a rank without frames: only what meets is
								 * prepared and run */
	EngType		type;			/* of all tensors that need not be full */
	void	   *context;		/* for the operations of the detector */
} EngPlanRequest;

struct EngPlan
{
	EngPlanRequest request;
	EngBackend *backend;
	EngParameters *parameters;
	EngTensor  *tensors;
	int32_t		tensor_count;
	EngOp	   *ops;
	int32_t		op_count;
	int32_t		input;
	int32_t    *again;			/* operations made again, in order of time */
	int32_t		again_count;
	size_t		activations;	/* bytes of arena that it needs */
	size_t		live_peak;		/* most bytes alive at once: no arena is
								 * smaller */
	size_t		workspace;
	uint8_t    *arena;			/* set before each run */
	uint8_t    *scratch;
	int64_t		live_rois;		/* of the current run */
	const int32_t *live_entries;	/* device: where they are counted, or NULL */
	bool		profile;
};

/* ---- describe ------------------------------------------------------------ */

extern int32_t eng_model_tensor(EngModel *model, const char *name);
/* Never NULL: after a failure, a dummy that is thrown away. */
extern EngOp *eng_model_op(EngModel *model, const EngOpClass *class,
						   const char *name);
extern void eng_op_input(EngOp *op, int32_t tensor);
extern void eng_op_output(EngOp *op, int32_t tensor);
extern void eng_model_free(EngModel *model);

/* ---- plan ---------------------------------------------------------------- */

extern EngPlan *eng_plan_create(const EngModel *model, EngBackend *backend,
								const EngPlanRequest *request,
								EngStatus *status);
extern void eng_plan_free(EngPlan *plan);

/* What its kernels hold, packed weights among it. */
extern size_t eng_plan_kernel_bytes(const EngPlan *plan);

/* lives.c, placement.c: steps of eng_plan_create */
extern bool eng_plan_lives(EngPlan *plan, EngStatus *status);
extern bool eng_plan_place(EngPlan *plan, EngStatus *status);

/* traffic.c: bytes that an operation moves at least; again: in backward */
extern void eng_plan_traffic(const EngPlan *plan, const EngOp *op,
							 double *forward, double *backward);

/* ---- run ----------------------------------------------------------------- */

extern bool eng_plan_forward(EngPlan *plan, EngStatus *status);
extern bool eng_plan_backward(EngPlan *plan, EngStatus *status);
/* A batch went forward in training: the norms' counters say so. */
extern void eng_plan_count_batch(EngPlan *plan);

/* ---- for operations ------------------------------------------------------- */

static inline void *
eng_plan_value(const EngPlan *plan, int32_t tensor)
{
	const EngTensor *root = &plan->tensors[plan->tensors[tensor].root];

	return plan->arena + root->value_offset;
}

extern void *eng_plan_gradient(const EngPlan *plan, int32_t tensor);
/* keep_all: the whole gradient of a named tensor, after backward; or NULL */
extern void *eng_plan_gradient_seen(const EngPlan *plan, int32_t tensor);
extern int64_t eng_tensor_count(const EngTensor *tensor);
extern size_t eng_tensor_bytes(const EngTensor *tensor);
/* n * h * w, or less of a tensor of RoIs: the live rows come first */
extern int64_t eng_plan_live_rows(const EngPlan *plan,
								  const EngTensor *tensor);
extern int32_t eng_plan_find(const EngPlan *plan, const char *name);

static inline EngTensor *
eng_op_in(const EngPlan *plan, const EngOp *op, int32_t i)
{
	return &plan->tensors[op->input[i]];
}

static inline EngTensor *
eng_op_out(const EngPlan *plan, const EngOp *op, int32_t i)
{
	return &plan->tensors[op->output[i]];
}

static inline void *
eng_op_in_value(const EngPlan *plan, const EngOp *op, int32_t i)
{
	return eng_plan_value(plan, op->input[i]);
}

static inline void *
eng_op_out_value(const EngPlan *plan, const EngOp *op, int32_t i)
{
	return eng_plan_value(plan, op->output[i]);
}

/* Value or gradient array of a parameter; gradient NULL unless trained. */
static inline float *
eng_op_weight(const EngPlan *plan, int32_t parameter)
{
	if (parameter < 0)
		return NULL;
	return plan->parameters->run.values +
		plan->parameters->list[parameter].offset;
}

static inline float *
eng_op_weight_gradient(const EngPlan *plan, int32_t parameter)
{
	if (parameter < 0 || !plan->parameters->list[parameter].trainable ||
		plan->parameters->run.gradients == NULL)
		return NULL;
	return plan->parameters->run.gradients +
		plan->parameters->list[parameter].offset;
}

#endif
