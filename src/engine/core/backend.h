/*
 * engine/core/backend.h
 *		The table of operations that a backend fills in.
 *
 * All tensors are NHWC, contiguous; weights are OHWI, linear weights (out,
 * in).  Pointers to void are tensors of the type that goes with them: float,
 * or a narrower one, with which a backend computes in float all the same.
 * Weights, their gradients and statistics are always float; a kernel packs
 * weights in the type that it multiplies.  Pointers are the backend's own
 * memory (alloc).  Convolutions and linear layers are planned once for a
 * shape and then run; the other operations need no plan.  An operation that
 * can fail at run time returns bool with a status.  ops/ calls the table;
 * nothing else does.
 */
#ifndef ENG_CORE_BACKEND_H
#define ENG_CORE_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/core/devices.h"
#include "engine/core/element.h"
#include "engine/ops/detection.h"
#include "engine/status.h"

#define ENG_BACKEND_VERSION	6

typedef struct EngBackend EngBackend;
typedef struct EngKernel EngKernel; /* a planned convolution or linear layer */
typedef struct EngGraph EngGraph;	/* calls that were recorded */

/* What a linear layer of a transformer may end with. */
typedef enum EngActivation
{
	ENG_ACTIVATION_NONE = 0,
	ENG_ACTIVATION_QUICK_GELU,	/* x * sigmoid(1.702 x) */
	ENG_ACTIVATION_GELU			/* x * Phi(x), by the error function */
} EngActivation;

typedef struct EngConvShape
{
	int32_t		n;
	int32_t		h;				/* of the input */
	int32_t		w;
	int32_t		c;
	int32_t		oh;				/* (h + 2 * pad - k) / stride + 1 */
	int32_t		ow;
	int32_t		oc;
	int32_t		k;				/* square kernels */
	int32_t		stride;
	int32_t		pad;
	bool		bias;
	bool		relu;			/* forward only: after the bias */
	bool		sum;			/* forward only: conv_forward_sum will be called;
								 * with bias and relu */
	bool		need_data;		/* backward_data will be called */
	bool		need_weight;	/* backward_weight will be called */
	bool		sparse;			/* few rows of the output's gradient are not 0 */
	bool		add_data;		/* backward_data: dx += instead of dx = */
	bool		tf32;			/* floats may be rounded to TF32's 10 bits of
								 * mantissa to be multiplied */
	EngType		x_type;			/* of x and dx */
	EngType		y_type;			/* of y and dy; x_type or ENG_F32 */
	EngActivation activation;	/* linear, forward only: after the bias */
	const float *lasting;		/* linear, forward only: the weights, if they
								 * outlive the kernel; kernels of one array
								 * may share what it is packed into */
} EngConvShape;

/* A linear layer is a convolution of k = 1 on (n, 1, 1, c). */

typedef struct EngNormArgs
{
	int64_t		rows;			/* n * h * w */
	int64_t		live;			/* rows that count; the others give 0 */
	const int32_t *live_entries;	/* device: live is entry_rows times the
									 * number that is there; or NULL */
	int32_t		entry_rows;
	int32_t		channels;
	float		eps;
	float		momentum;		/* of the running statistics: 0.1 */
	EngType		type;			/* of x, add, y and their gradients */
	const void *x;				/* (rows, channels) */
	const void *add;			/* added before the ReLU, or NULL */
	void	   *y;				/* backward: NULL to find what the ReLU hid
								 * from x; not with add */
	const float *weight;		/* (channels) */
	const float *bias;
	float	   *running_mean;	/* batch statistics: updated; else read */
	float	   *running_var;
	float	   *mean;			/* (channels), forward to backward */
	float	   *rstd;			/* (channels): 1 / sqrt(var + eps) */
	bool		relu;
	bool		batch;			/* batch statistics, else running ones */
	bool		again;			/* forward: mean and rstd are there already */
	/* backward */
	void	   *dy;				/* may be overwritten where relu hides it */
	void	   *dx;				/* NULL: not wanted; may be dy */
	void	   *dadd;			/* NULL: not wanted */
	bool		dx_add;			/* add to dx instead of storing */
	bool		dadd_add;
	float	   *dweight;		/* added to; NULL: not wanted */
	float	   *dbias;
	void	   *workspace;		/* norm_workspace(rows, channels) bytes */
} EngNormArgs;

typedef struct EngPoolShape
{
	int32_t		n;
	int32_t		h;
	int32_t		w;
	int32_t		c;
	int32_t		oh;
	int32_t		ow;				/* 3x3, stride 2, padding 1 */
	EngType		type;			/* of both maps */
} EngPoolShape;

/* Upsampling by two with even targets; or every second row and column. */
typedef struct EngScaleShape
{
	int32_t		n;
	int32_t		h;				/* of the larger map */
	int32_t		w;
	int32_t		c;
	int32_t		oh;				/* of the smaller map */
	int32_t		ow;
	EngType		type;			/* of both maps */
} EngScaleShape;

typedef struct EngUpdate
{
	float	   *value;			/* (count) */
	const float *gradient;
	float	   *slot0;			/* momentum, or mean of gradients */
	float	   *slot1;			/* mean of squares */
	int64_t		count;
	float		scale;			/* of the gradient: clipping */
	float		lr;
	float		weight_decay;	/* 0: none */
	float		momentum;
	float		beta1;
	float		beta2;
	float		eps;
	double		correction1;	/* 1 - beta1^t */
	double		correction2;	/* 1 - beta2^t */
} EngUpdate;

/* A convolution's weights with the norm behind it multiplied in. */
typedef struct EngFold
{
	float	   *weight;			/* made: (oc, size) */
	float	   *bias;			/* made: (oc) */
	const float *from;			/* (oc, size) */
	const float *from_bias;		/* (oc) or NULL */
	const float *norm_weight;	/* (oc), like the rest */
	const float *norm_bias;
	const float *mean;
	const float *var;
	float		eps;
	int32_t		oc;
	int64_t		size;			/* weights of an output channel */
} EngFold;

/*
 * A step of the optimizer on a device: what it needs beside the gradients
 * goes there before, and what came of it is read back once, at the end.
 */
typedef struct EngStepControl
{
	float		lr;
	float		clip_norm;		/* 0: none */
	double		correction1;	/* of AdamW, as in EngUpdate */
	double		correction2;
} EngStepControl;

/*
 * What the losses' gradients are multiplied by in f16, so that small ones do
 * not vanish on their way back; dynamic, with the constants and rules of
 * torch's GradScaler.  Gradients that are not finite were too large for it:
 * the step changes no weights, and the scale is halved.  After so many steps
 * without that in a row it is doubled.
 */
typedef struct EngLossScale
{
	float		scale;			/* 0: gradients are not scaled */
	int32_t		good_steps;		/* in a row, since it was doubled */
} EngLossScale;

#define ENG_LOSS_SCALE_FIRST	65536.0f
#define ENG_LOSS_SCALE_STEPS	2000
/* Ours: below this it is not the scale that makes them too large. */
#define ENG_LOSS_SCALE_LEAST	0x1p-14f

typedef struct EngStepOutcome
{
	double		norm;			/* of the gradients, before clipping, unscaled */
	bool		updated;		/* losses and norm were finite: weights changed */
	EngLossScale loss_scale;	/* for the next step */
} EngStepOutcome;

/*
 * Layer norm of each row: y = (x' - mean) / sqrt(var + eps) * weight + bias,
 * x' = x + add, mean and biased variance of the row.
 */
typedef struct EngLayerNormArgs
{
	int64_t		rows;
	int32_t		channels;
	float		eps;
	const float *x;				/* (rows, channels) */
	const float *add;			/* the same, or NULL */
	float	   *sum;			/* where x' goes; NULL without add */
	void	   *y;
	EngType		type;			/* of y */
	const float *weight;		/* (channels) */
	const float *bias;
} EngLayerNormArgs;

#define ENG_ATTENTION_TOKENS	320 /* at most */
#define ENG_ATTENTION_SIZE		64

/*
 * y (n, tokens, heads, size): rows of softmax(q k' / sqrt(size)) v for each
 * entry and head; qkv (n, tokens, 3, heads, size) holds q, k and v.
 */
typedef struct EngAttentionShape
{
	int32_t		n;
	int32_t		tokens;			/* up to ENG_ATTENTION_TOKENS */
	int32_t		heads;
	int32_t		size;			/* of a head, up to ENG_ATTENTION_SIZE */
	bool		causal;			/* a token sees none behind it */
	EngType		type;			/* of qkv and y */
} EngAttentionShape;

/* Tokens of transformers, (n, tokens, channels). */
typedef struct EngTokens
{
	int32_t		n;
	int32_t		tokens;
	int32_t		channels;
} EngTokens;

typedef enum EngSumType
{
	ENG_SUM_F32 = 0,
	ENG_SUM_F64
} EngSumType;

/*
 * Memory of the host's from which a device copies without help, for any
 * thread, also after the backend is closed.  alloc gives NULL where no more of
 * it is to be had, and is NULL where there is none.
 */
typedef struct EngHostMemory
{
	void	   *(*alloc) (int device, size_t size);
	void		(*free) (void *memory);
	int			device;
} EngHostMemory;

/* What a picture shows: equal keys, equal pixels.  Zeroes: not known. */
typedef struct EngFrameKey
{
	uint64_t	word[2];
} EngFrameKey;

static inline bool
eng_frame_key_is_set(const EngFrameKey *key)
{
	return (key->word[0] | key->word[1]) != 0;
}

struct EngBackend
{
	uint32_t	version;		/* ENG_BACKEND_VERSION */
	const char *name;
	void	   *state;			/* of the backend */
	int32_t		threads;
	bool		device;			/* its memory is not the host's: nothing but
								 * this table reads or writes it */
	bool		gpu;			/* its kernels are a GPU's, though it may not be here */
	bool		takes_f16;		/* ENG_F16 can be computed, or planned */
	const char *lacks_bf16;		/* what the processor needs for it; NULL: it
								 * can */

	void		(*close) (EngBackend *backend);
	void		(*enter) (EngBackend *backend); /* before a call from outside */
	void	   *(*alloc) (EngBackend *backend, size_t size);	/* zeroed */
	void		(*free) (EngBackend *backend, void *memory, size_t size);
	/* to and from the backend's memory, and within it */
	bool		(*upload) (EngBackend *backend, void *to, const void *from,
						   size_t size, EngStatus *status);
	bool		(*download) (EngBackend *backend, void *to, const void *from,
							 size_t size, EngStatus *status);
	void		(*copy) (EngBackend *backend, void *to, const void *from,
						 size_t size);

	/*
	 * Plan a convolution.  workspace: bytes that the three calls need at
	 * most.  version tells the kernel when weights have changed, so that it
	 * packs them once.
	 */
	EngKernel  *(*conv_plan) (EngBackend *backend, const EngConvShape *shape,
							  EngStatus *status);
	EngKernel  *(*linear_plan) (EngBackend *backend,
								const EngConvShape *shape, EngStatus *status);
	void		(*kernel_free) (EngKernel *kernel);
	size_t		(*kernel_workspace) (const EngKernel *kernel);
	size_t		(*kernel_bytes) (const EngKernel *kernel);
	const char *(*kernel_text) (const EngKernel *kernel);
	bool		(*conv_forward) (EngKernel *kernel, void *y, const void *x,
								 const float *weight, const float *bias,
								 uint64_t version, void *workspace,
								 EngStatus *status);
	/*
	 * With a map of y's size and type added before the ReLU, for shapes that
	 * say so.  NULL: a backend to which that is of no use.
	 */
	bool		(*conv_forward_sum) (EngKernel *kernel, void *y,
									 const void *x, const void *add,
									 const float *weight, const float *bias,
									 uint64_t version, void *workspace,
									 EngStatus *status);
	bool		(*conv_backward_data) (EngKernel *kernel, void *dx,
									   const void *dy, const float *weight,
									   uint64_t version, void *workspace,
									   EngStatus *status);
	/* dweight and dbias (NULL: none) are added to */
	bool		(*conv_backward_weight) (EngKernel *kernel, float *dweight,
										 float *dbias, const void *x,
										 const void *dy, void *workspace,
										 EngStatus *status);

	void		(*fold) (EngBackend *backend, const EngFold *fold);

	size_t		(*norm_workspace) (const EngBackend *backend, int64_t rows,
								   int32_t channels);
	void		(*norm_forward) (EngBackend *backend, const EngNormArgs *args);
	void		(*norm_backward) (EngBackend *backend,
								  const EngNormArgs *args);

	/* dy *= (y > 0) */
	void		(*relu_backward) (EngBackend *backend, EngType type, void *dy,
								  const void *y, int64_t count);
	/*
	 * y = relu(x + add) with x and add of a type; in place allowed where y is
	 * of the same
	 */
	void		(*add_relu) (EngBackend *backend, EngType y_type, void *y,
							 EngType type, const void *x, const void *add,
							 int64_t count);

	/* which (n, oh, ow, c): place in the window, for the way back */
	void		(*maxpool_forward) (EngBackend *backend, void *y,
									uint8_t *which, const void *x,
									const EngPoolShape *shape);
	void		(*maxpool_backward) (EngBackend *backend, void *dx,
									 const void *dy, const uint8_t *which,
									 const EngPoolShape *shape, bool add);

	/* y (n, h, w, c) += nearest upsampling of x (n, oh, ow, c) */
	void		(*upsample_add) (EngBackend *backend, void *y,
								 const void *x, const EngScaleShape *shape);
	/* dx = (or +=) sums of dy over the cells that each x went to */
	void		(*upsample_backward) (EngBackend *backend, void *dx,
									  const void *dy,
									  const EngScaleShape *shape, bool add);

	/* y (n, oh, ow, c) = even rows and columns of x (n, h, w, c) */
	void		(*subsample) (EngBackend *backend, void *y, const void *x,
							  const EngScaleShape *shape);
	void		(*subsample_backward) (EngBackend *backend, void *dx,
									   const void *dy,
									   const EngScaleShape *shape, bool add);

	void		(*roi_align) (EngBackend *backend, void *out,
							  const EngRoiMaps *maps, const EngRois *rois);
	/* dmap[level] = (or, add[level], +=); eng_roi_align_workspace() bytes */
	void		(*roi_align_backward) (EngBackend *backend,
									   void *const dmap[ENG_ROI_LEVELS],
									   const bool add[ENG_ROI_LEVELS],
									   const void *dout,
									   const EngRoiMaps *maps,
									   const EngRois *rois,
									   void *workspace);

	void		(*fill) (EngBackend *backend, float *x, int64_t count);	/* 0 */
	double		(*square_sum) (EngBackend *backend, const float *x,
							   int64_t count);
	void		(*update_sgd) (EngBackend *backend, const EngUpdate *update);
	void		(*update_adamw) (EngBackend *backend,
								 const EngUpdate *update);

	/*
	 * Of a device only, for which square_sum is NULL.  step_norm finds the
	 * scale of the gradients, by which (and by lr and the corrections of the
	 * control) the updates after it go instead of by those in EngUpdate; they
	 * change nothing where a loss or the norm is not finite.  The loss scale
	 * stays on the device and follows its rules there; it is set before a
	 * first step in f16, and on return to another precision.
	 */
	bool		(*set_loss_scale) (EngBackend *backend,
								   const EngLossScale *scale,
								   EngStatus *status);
	bool		(*step_begin) (EngBackend *backend,
							   const EngStepControl *control,
							   EngStatus *status);
	void		(*step_norm) (EngBackend *backend, const float *gradients,
							  int64_t count);
	bool		(*step_end) (EngBackend *backend, EngStepOutcome *outcome,
							 EngStatus *status);

	/* operations between the networks; NULL: those of the host, in nets/ */
	const struct EngRegionOps *regions;

	/* transformers, forward only */
	void		(*layer_norm) (EngBackend *backend,
							   const EngLayerNormArgs *args);
	void		(*attention) (EngBackend *backend, void *y, const void *qkv,
							  const EngAttentionShape *shape);
	/* y = (first; x) + positions, x (n, tokens - 1, channels) */
	void		(*join_tokens) (EngBackend *backend, float *y,
								const float *x, const float *first,
								const float *positions,
								const EngTokens *shape);
	/* y = rows of table + positions; ids (n, tokens) are whole numbers */
	void		(*embed_tokens) (EngBackend *backend, float *y,
								 const float *ids, const float *table,
								 const float *positions,
								 const EngTokens *shape);
	/*
	 * y (n, channels): of each entry the token that has the largest id, the
	 * first of them; ids NULL: the first token
	 */
	void		(*pick_tokens) (EngBackend *backend, EngType type, void *y,
								const void *x, const float *ids,
								const EngTokens *shape);

	/*
	 * Ranks: backends of one process, each with a thread of its own, that
	 * train one network together (core/ranks.h).  Alone: rank 0, world 0.
	 */
	int32_t		rank;
	int32_t		world;
	struct EngRanks *ranks;		/* what they share, not owned; alone NULL */
	/* make them ranks, who have rank, world and ranks; NULL: of the host */
	bool		(*join) (EngBackend *const *backends, int32_t world,
						 EngStatus *status);
	/*
	 * x (count) = the sum of all ranks' x, the same bits on all, in the order
	 * of the other calls.  All ranks must call it alike.  Once a rank has
	 * failed it only gives up what waits for others: eng_ranks_check tells.
	 */
	void		(*all_reduce) (EngBackend *backend, void *x, int64_t count,
							   EngSumType type);

	/*
	 * Of a device that can, else NULL: the calls between begin and end are
	 * recorded instead of made, and made by one call of run as often as
	 * wanted.  Between them nothing may allocate, free, wait or copy from or
	 * to the host; addresses and numbers given to the calls stay as recorded,
	 * what lies in the device's memory may change.  end with keep false, or
	 * after a failure, gives NULL; begin, end and run say why they fail, and
	 * normal calls are possible afterwards.
	 */
	bool		(*graph_begin) (EngBackend *backend, EngStatus *status);
	EngGraph   *(*graph_end) (EngBackend *backend, bool keep,
							  EngStatus *status);
	bool		(*graph_run) (EngBackend *backend, const EngGraph *graph,
							  EngStatus *status);
	void		(*graph_free) (EngBackend *backend, EngGraph *graph);
	size_t		(*graph_bytes) (const EngGraph *graph);

	/* memory of the host's that the device reads by itself */
	EngHostMemory host_memory;
	/* of a device: wait until pictures given to regions->input were read */
	void		(*settle) (EngBackend *backend);

	/*
	 * Of a device that can, else NULL: pictures that it keeps.  hold: one of
	 * the key is there, and stays until it is released; both for any thread.
	 * room: bytes that all of them may take at most, from now on.
	 */
	bool		(*frame_hold) (EngBackend *backend, const EngFrameKey *key);
	void		(*frame_release) (EngBackend *backend,
								  const EngFrameKey *key);
	void		(*frame_room) (EngBackend *backend, size_t bytes);
	size_t		(*frame_bytes) (EngBackend *backend);

	size_t		memory;			/* of a GPU, bytes that it has; 0: not known */
	char		device_name[256];	/* of a GPU, what it is; else "" */
	char		note[512];		/* where "auto" met a GPU that could not be
								 * used, why; else "" */
};

/* eng_backend_open: plans alone, for a device whose properties are in a file */
#define ENG_PLAN_PREFIX		"plan:"

/* host.c: what backends whose memory is the host's have in common */
extern void eng_host_operations(EngBackend *backend);

/*
 * By the name of a device (devices.h); threads 0: all processors.  "auto" is
 * "cuda" where the machine has a GPU that can be used, else "cpu".
 */
extern EngBackend *eng_backend_open(const char *name, int threads,
									EngStatus *status);

/*
 * The devices of a name that eng_device_is_list; 0: status says why not.  Who
 * opens such a name gets the first.
 */
extern int	eng_backend_list(const char *name,
							 EngDeviceName devices[ENG_MOST_DEVICES],
							 EngStatus *status);

/* Precision where none is asked for: bf16 on a GPU that has it, else f16. */
extern EngType eng_backend_usual_type(const EngBackend *backend);

/* Can a network be planned in this precision?  False with a status if not. */
extern bool eng_backend_check_type(const EngBackend *backend, EngType type,
								   EngStatus *status);

/* Make an arena of *have bytes at least size; what was in it is lost. */
extern bool eng_backend_grow(EngBackend *backend, uint8_t **memory,
							 size_t *have, size_t size, EngStatus *status);

extern EngBackend *eng_backend_open_ref(int threads, EngStatus *status);
extern EngBackend *eng_backend_open_cpu(int threads, EngStatus *status);

#endif
