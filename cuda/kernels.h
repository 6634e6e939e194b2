/*
 * cuda/kernels.h
 *		Planned convolutions and linear layers: what they have in common.
 */
#ifndef ENG_CUDA_KERNELS_H
#define ENG_CUDA_KERNELS_H

#include "cuda/conv_plan.h"
#include "cuda/table.h"

#define ENG_KERNEL_TEXT	160

typedef struct EngMatmul EngMatmul; /* a product of cuBLASLt's */

/*
 * Weights in the type that is multiplied, outside the flat array: a kernel's
 * own, or of all kernels of weights that last.
 */
typedef struct EngPacked
{
	struct EngPacked *next;		/* of those that are shared */
	const float *lasting;		/* what is packed; NULL: not shared */
	EngType		type;
	size_t		bytes;
	int32_t		users;
	void	   *data;			/* on the device; NULL: not yet */
	uint64_t	version;		/* of what is there */
} EngPacked;

/*
 * A convolution by cuDNN, or a linear layer, and with it a 1x1 convolution
 * whose result has another type than its input, by cuBLASLt.  Directions
 * that are not wanted are NULL.
 *
 * Workspace: first the library's, then from `rest` on what a call needs
 * besides: a gradient before it is added, an array in another type.
 */
struct EngKernel
{
	EngConvShape shape;
	EngCuda    *cuda;
	bool		linear;
	EngConvPlan *conv[3];		/* by EngConvDirection */
	EngMatmul  *matmul[3];
	bool		add_in_place;	/* the way back to x adds by itself */
	size_t		rest;			/* offset into the workspace */
	size_t		workspace;
	EngPacked  *packed;			/* NULL: floats are multiplied as they lie */
	EngPacked	bias;			/* of a convolution that adds it itself */
	char		text[ENG_KERNEL_TEXT];
};

/* ---- kernels.c ------------------------------------------------------------- */

extern void eng_cuda_kernel_operations(EngBackend *backend);
/* weights in the type that is multiplied; NULL: out of memory */
extern const void *eng_cuda_packed(EngKernel *kernel, const float *weight,
								   uint64_t version, EngStatus *status);

/* the bias in the type of the result */
extern const void *eng_cuda_packed_bias(EngKernel *kernel, const float *bias,
										uint64_t version, EngStatus *status);

/* ---- conv.c ------------------------------------------------------------------ */

/* Plans of cuDNN's for a place; kernel's shape is set. */
extern bool eng_cuda_plan_conv(EngKernel *kernel, const EngConvPlace *place,
							   EngStatus *status);

/* ---- planner.c --------------------------------------------------------------- */

/* json: properties of a device, as cuDNN names them */
extern EngBackend *eng_cuda_open_planner(const char *json,
										 EngStatus *status);

/* ---- linear.c ---------------------------------------------------------------- */

extern bool eng_cuda_open_blas(EngCuda *cuda, EngStatus *status);
extern void eng_cuda_close_blas(EngCuda *cuda);
extern bool eng_cuda_plan_linear(EngKernel *kernel, EngStatus *status);
extern void eng_cuda_matmul_free(EngMatmul *matmul);
extern bool eng_cuda_linear_forward(EngKernel *kernel, void *y,
									const void *x, const void *weight,
									const float *bias, uint64_t version,
									void *workspace, EngStatus *status);
extern bool eng_cuda_linear_data(EngKernel *kernel, void *dx, const void *dy,
								 const void *weight, void *workspace,
								 EngStatus *status);
/* dbias may be NULL */
extern bool eng_cuda_linear_weight(EngKernel *kernel, float *dweight,
								   float *dbias, const void *x,
								   const void *dy, void *workspace,
								   EngStatus *status);

#endif
