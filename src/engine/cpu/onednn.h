/*
 * engine/cpu/onednn.h
 *		The little of oneDNN that we use, behind its 2.x C interface.
 *
 * onednn.c is the only file that includes dnnl.h: the 3.x interface differs.
 * The number of threads is fixed when a primitive is made (OpenMP's current
 * one).  Activations are NHWC; packed weights have a layout of oneDNN's own.
 */
#ifndef ENG_CPU_ONEDNN_H
#define ENG_CPU_ONEDNN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/core/backend.h"
#include "engine/status.h"

typedef struct EngDnnl EngDnnl; /* engine and stream */
/* A convolution or inner product with its memories. */
typedef struct EngDnnlConv EngDnnlConv;

typedef enum EngDnnlWhat
{
	ENG_DNNL_FORWARD = 0,
	ENG_DNNL_DATA,
	ENG_DNNL_WEIGHT
} EngDnnlWhat;

typedef struct EngDnnlShape
{
	EngDnnlWhat what;
	int32_t		n;
	int32_t		h;
	int32_t		w;
	int32_t		c;
	int32_t		oh;
	int32_t		ow;
	int32_t		oc;
	int32_t		k;
	int32_t		stride;
	int32_t		pad;			/* before; behind it what the sizes ask for */
	int32_t		cut;			/* rows less of it above the first row */
	bool		bias;			/* forward only */
	bool		relu;
	bool		sum;			/* add to the result instead of storing */
	bool		linear;			/* an inner product: h = w = k = 1 */
	int32_t		pitch;			/* linear: from a row of plain weights to the
								 * next; 0: c */
	bool		keep;			/* packed weights stay from run to run */
	const float *shared;		/* keep: the weights, if what they are packed
								 * into may serve others of this array too */
	EngActivation activation;	/* forward only */
	bool		one_thread;		/* also inside of a parallel region */
	EngType		source_type;	/* of x or dx, and of packed weights */
	EngType		target_type;	/* of y or dy */
} EngDnnlShape;

extern EngDnnl *eng_dnnl_open(EngStatus *status);
extern void eng_dnnl_close(EngDnnl *dnnl);
/* "2.6.3", and the instruction set in use. */
extern void eng_dnnl_version(char *out, size_t size);
extern const char *eng_dnnl_isa(void);
/* Whether the processor multiplies bf16. */
extern bool eng_dnnl_has_bf16(void);

extern EngDnnlConv *eng_dnnl_conv_create(EngDnnl *dnnl,
										 const EngDnnlShape *shape,
										 EngStatus *status);
extern void eng_dnnl_conv_free(EngDnnlConv *conv);
extern size_t eng_dnnl_conv_scratch(const EngDnnlConv *conv);
/* Bytes of packed weights; of those that are shared, its part. */
extern size_t eng_dnnl_conv_packed(const EngDnnlConv *conv);
extern const char *eng_dnnl_conv_text(const EngDnnlConv *conv);

/*
 * Pack weights (oc, k, k, c) for FORWARD and DATA; unless they are kept, into
 * scratch, for the next run with it.  Shared ones are packed by the first of
 * those that call with this version.
 */
extern bool eng_dnnl_conv_pack(EngDnnlConv *conv, const float *weight,
							   uint64_t version, void *scratch,
							   EngStatus *status);

/* FORWARD: out = y, in = x, bias; DATA: out = dx, in = dy. */
extern bool eng_dnnl_conv_run(EngDnnlConv *conv, void *out, const void *in,
							  const float *bias, void *scratch,
							  EngStatus *status);

/*
 * WEIGHT: the packed gradient, in float, to scratch; where it is there; and
 * adding it to dweight (oc, k, k, c).
 */
extern bool eng_dnnl_conv_multiply(EngDnnlConv *conv, const void *x,
								   const void *dy, void *scratch,
								   EngStatus *status);
extern void *eng_dnnl_conv_gradient(const EngDnnlConv *conv, void *scratch);
extern size_t eng_dnnl_conv_gradient_size(const EngDnnlConv *conv);
extern bool eng_dnnl_conv_unpack(EngDnnlConv *conv, float *dweight,
								 void *scratch, EngStatus *status);

typedef struct EngGemm
{
	bool		ta;				/* a is stored (k, m) */
	bool		tb;				/* b is stored (n, k) */
	int64_t		m;
	int64_t		n;
	int64_t		k;
	bool		add;			/* c += instead of c = */
} EngGemm;

/* c (m, n) = a (m, k) b (k, n), all dense and row-major. */
extern bool eng_gemm(const EngGemm *gemm, float *c, const float *a,
					 const float *b, EngStatus *status);

#endif
