/*
 * engine/ops/layers.h
 *		The layers that networks are made of.
 *
 * Each function appends one operation to a model and returns the tensor that
 * it makes.  Parameters are indices into the model's registry, -1 for none.
 */
#ifndef ENG_OPS_LAYERS_H
#define ENG_OPS_LAYERS_H

#include "engine/core/plan.h"

extern const EngOpClass eng_conv_class;
extern const EngOpClass eng_norm_class;
extern const EngOpClass eng_linear_class;
extern const EngOpClass eng_maxpool_class;
extern const EngOpClass eng_subsample_class;
extern const EngOpClass eng_upsample_add_class;
extern const EngOpClass eng_layer_norm_class;
extern const EngOpClass eng_attention_class;

/* Gradients of a convolution, and of a linear layer, which is one too. */
extern bool eng_conv_backward(EngPlan *plan, EngOp *op, EngStatus *status);

typedef struct EngConvSpec
{
	const char *name;			/* of the tensor it makes */
	const char *label;			/* of the operation */
	int32_t		weight;
	int32_t		bias;
	int32_t		channels;
	int32_t		k;
	int32_t		stride;
	bool		relu;
	bool		sparse;			/* its gradient is zero but at a few cells */
	bool		full;			/* its result is float in every precision */
	bool		full_in_bf16;	/* its result is float in bf16, too */
	bool		by_cell;		/* linear: a row is a cell, not an entry */
	EngActivation activation;	/* linear: inference only */
} EngConvSpec;

/* conv.c: the tensor that a convolution or linear layer makes */
extern int32_t eng_conv_tensor(EngModel *model, const EngConvSpec *spec);

/* conv.c: padding k / 2 (the stem's 7 has 3, a 3 has 1, a 1 has 0) */
extern int32_t eng_layer_conv(EngModel *model, const EngConvSpec *spec,
							  int32_t input);

/*
 * linear.c: rows of n, features h * w * c, out (n, 1, 1, channels); by cell:
 * rows of n * h * w, out (n, h, w, channels)
 */
extern int32_t eng_layer_linear(EngModel *model, const EngConvSpec *spec,
								int32_t input);

typedef struct EngNormSpec
{
	const char *name;
	const char *label;
	EngNormParameters parameters;
	bool		relu;
	bool		full_in_bf16;	/* its result is float in bf16, too */
	int32_t		add;			/* tensor added before the ReLU, -1: none */
} EngNormSpec;

/* norm.c */
extern int32_t eng_layer_norm(EngModel *model, const EngNormSpec *spec,
							  int32_t input);

/* pool.c: 3x3 stride 2 padding 1; every second row and column */
extern int32_t eng_layer_maxpool(EngModel *model, const char *name,
								 int32_t input);
extern int32_t eng_layer_subsample(EngModel *model, const char *name,
								   int32_t input);

/* upsample.c: adds the upsampled smaller map to the larger one, in place */
extern void eng_layer_upsample_add(EngModel *model, int32_t larger,
								   int32_t smaller);

/*
 * Transformers, inference only: tokens are (n, tokens, 1, c).
 *
 * layer_norm.c: of input, or of the sum of input and add, which is *sum; add
 * < 0: none.
 */
typedef struct EngLayerNormSpec
{
	const char *name;			/* of the tensor it makes */
	const char *sum_name;
	int32_t		weight;
	int32_t		bias;
	float		eps;
	int32_t		add;
	bool		full;			/* its result is float in every precision */
} EngLayerNormSpec;

extern int32_t eng_layer_layer_norm(EngModel *model,
									const EngLayerNormSpec *spec,
									int32_t input, int32_t *sum);

/* attention.c: input (n, tokens, 1, 3 * heads * size) */
extern int32_t eng_layer_attention(EngModel *model, const char *name,
								   int32_t heads, bool causal, int32_t input);

/* tokens.c: parameter first put before the tokens of input, positions added */
extern int32_t eng_layer_join_tokens(EngModel *model, const char *name,
									 int32_t first, int32_t positions,
									 int32_t input);
/* ids (n, tokens, 1, 1); rows of parameter table, positions added */
extern int32_t eng_layer_embed_tokens(EngModel *model, const char *name,
									  int32_t table, int32_t positions,
									  int32_t ids);
/* The token with the largest id of each entry; ids -1: its first token. */
extern int32_t eng_layer_pick_tokens(EngModel *model, const char *name,
									 int32_t ids, int32_t input);

#endif
