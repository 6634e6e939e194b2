/*
 * cuda/linear.c
 *		Linear layers by cuBLASLt.
 *
 * cuBLASLt's matrices go down the columns: our (rows, columns) is its
 * (columns, rows), so y = x w' is computed as y' = w x'.  Results may be
 * float where inputs are not; reductions are those without atomics.
 */
#include <cublasLt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/kernels.h"

#define WORKSPACE	((size_t) 32 << 20)

struct EngMatmul
{
	cublasLtMatmulDesc_t description;
	cublasLtMatrixLayout_t a;
	cublasLtMatrixLayout_t b;
	cublasLtMatrixLayout_t d;
	cublasLtMatmulAlgo_t algorithm;
	size_t		workspace;
	bool		add;
};

/* One product: d (m, n) = a b, (rows, leading dimension as it lies). */
typedef struct Product
{
	bool		transpose_a;
	bool		transpose_b;
	int64_t		m;
	int64_t		n;
	int64_t		k;
	EngType		input;
	EngType		output;
	bool		add;
} Product;

static bool
failed(EngStatus *status, cublasStatus_t code, const char *what)
{
	if (code == CUBLAS_STATUS_SUCCESS)
		return false;
	eng_fail(status, code == CUBLAS_STATUS_ALLOC_FAILED ? ENG_NO_MEMORY :
			 ENG_DEVICE, "cuBLASLt %s: %s", what,
			 cublasLtGetStatusString(code));
	return true;
}

static cudaDataType_t
data_type(EngType type)
{
	return type == ENG_BF16 ? CUDA_R_16BF : type == ENG_F16 ? CUDA_R_16F :
		CUDA_R_32F;
}

bool
eng_cuda_open_blas(EngCuda *cuda, EngStatus *status)
{
	cublasLtHandle_t handle;

	if (failed(status, cublasLtCreate(&handle), "does not start"))
		return false;
	cuda->cublas = handle;
	return true;
}

void
eng_cuda_close_blas(EngCuda *cuda)
{
	if (cuda->cublas != NULL)
		(void) cublasLtDestroy(cuda->cublas);
	cuda->cublas = NULL;
}

void
eng_cuda_matmul_free(EngMatmul *matmul)
{
	if (matmul == NULL)
		return;
	if (matmul->description != NULL)
		(void) cublasLtMatmulDescDestroy(matmul->description);
	if (matmul->a != NULL)
		(void) cublasLtMatrixLayoutDestroy(matmul->a);
	if (matmul->b != NULL)
		(void) cublasLtMatrixLayoutDestroy(matmul->b);
	if (matmul->d != NULL)
		(void) cublasLtMatrixLayoutDestroy(matmul->d);
	free(matmul);
}

static bool
describe(EngMatmul *m, const Product *p, EngStatus *status)
{
	cublasOperation_t transpose_a = p->transpose_a ? CUBLAS_OP_T :
		CUBLAS_OP_N;
	cublasOperation_t transpose_b = p->transpose_b ? CUBLAS_OP_T :
		CUBLAS_OP_N;
	int64_t		a_rows = p->transpose_a ? p->k : p->m;
	int64_t		b_rows = p->transpose_b ? p->n : p->k;
	cudaDataType_t input = data_type(p->input);

	return !failed(status, cublasLtMatmulDescCreate(&m->description,
													CUBLAS_COMPUTE_32F,
													CUDA_R_32F),
				   "takes no product") &&
		!failed(status, cublasLtMatmulDescSetAttribute(
					m->description, CUBLASLT_MATMUL_DESC_TRANSA, &transpose_a,
					sizeof(transpose_a)), "takes no attribute") &&
		!failed(status, cublasLtMatmulDescSetAttribute(
					m->description, CUBLASLT_MATMUL_DESC_TRANSB, &transpose_b,
					sizeof(transpose_b)), "takes no attribute") &&
		!failed(status, cublasLtMatrixLayoutCreate(
					&m->a, input, a_rows, p->transpose_a ? p->m : p->k,
					a_rows), "takes no matrix") &&
		!failed(status, cublasLtMatrixLayoutCreate(
					&m->b, input, b_rows, p->transpose_b ? p->k : p->n,
					b_rows), "takes no matrix") &&
		!failed(status, cublasLtMatrixLayoutCreate(
					&m->d, data_type(p->output), p->m, p->n, p->m),
				"takes no matrix");
}

static bool
choose(EngMatmul *m, const EngCuda *cuda, EngStatus *status)
{
	cublasLtMatmulPreference_t preference = NULL;
	cublasLtMatmulHeuristicResult_t found;
	size_t		workspace = WORKSPACE;
	uint32_t	reductions = CUBLASLT_REDUCTION_SCHEME_NONE |
		CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE |
		CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE;
	int			count = 0;
	bool		ok;

	ok = !failed(status, cublasLtMatmulPreferenceCreate(&preference),
				 "takes no preference") &&
		!failed(status, cublasLtMatmulPreferenceSetAttribute(
					preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
					&workspace, sizeof(workspace)), "takes no preference") &&
		!failed(status, cublasLtMatmulPreferenceSetAttribute(
					preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
					&reductions, sizeof(reductions)),
				"takes no preference") &&
		!failed(status, cublasLtMatmulAlgoGetHeuristic(
					cuda->cublas, m->description, m->a, m->b, m->d, m->d,
					preference, 1, &found, &count), "has no algorithm");
	if (preference != NULL)
		(void) cublasLtMatmulPreferenceDestroy(preference);
	if (!ok)
		return false;
	if (count < 1)
		return eng_fail(status, ENG_UNSUPPORTED,
						"cuBLASLt has no algorithm for a linear layer");
	m->algorithm = found.algo;
	m->workspace = found.workspaceSize;
	return true;
}

static EngMatmul *
plan_product(const EngCuda *cuda, const Product *p, EngStatus *status)
{
	EngMatmul  *m = calloc(1, sizeof(EngMatmul));

	if (m == NULL)
	{
		eng_fail(status, ENG_NO_MEMORY, "out of memory");
		return NULL;
	}
	m->add = p->add;
	if (describe(m, p, status) && choose(m, cuda, status))
		return m;
	eng_cuda_matmul_free(m);
	return NULL;
}

static bool
plan_direction(EngKernel *kernel, EngConvDirection direction,
			   const Product *p, EngStatus *status)
{
	EngMatmul  *m;

	if (kernel->cuda->properties != NULL)
		return true;
	m = plan_product(kernel->cuda, p, status);
	kernel->matmul[direction] = m;
	if (m != NULL && m->workspace > kernel->rest)
		kernel->rest = m->workspace;
	return m != NULL;
}

bool
eng_cuda_plan_linear(EngKernel *kernel, EngStatus *status)
{
	const EngConvShape *s = &kernel->shape;
	Product		forward = {.transpose_a = true, .m = s->oc, .n = s->n,
		.k = s->c, .input = s->x_type, .output = s->y_type};
	Product		data = {.m = s->c, .n = s->n, .k = s->oc,
		.input = s->x_type, .output = s->x_type, .add = s->add_data};
	Product		weight = {.transpose_b = true, .m = s->c, .n = s->oc,
		.k = s->n, .input = s->x_type, .output = ENG_F32, .add = true};
	size_t		rest = 0;

	if (!plan_direction(kernel, ENG_CONV_FORWARD, &forward, status) ||
		(s->need_data &&
		 !plan_direction(kernel, ENG_CONV_DATA, &data, status)) ||
		(s->need_weight &&
		 !plan_direction(kernel, ENG_CONV_WEIGHT, &weight, status)))
		return false;
	kernel->rest = (kernel->rest + 255) / 256 * 256;
	/* dy in the type that is multiplied, or the bias's sums */
	if (s->need_weight && s->bias)
		rest = eng_cuda_norm_workspace(s->n, s->oc);
	if (s->x_type != s->y_type &&
		eng_type_size(s->x_type) * s->n * s->oc > rest)
		rest = eng_type_size(s->x_type) * s->n * s->oc;
	kernel->workspace = kernel->rest + rest;
	snprintf(kernel->text, sizeof(kernel->text), "cuBLASLt");
	return true;
}

static bool
multiply(const EngKernel *kernel, EngConvDirection direction, void *d,
		 const void *a, const void *b, void *workspace, EngStatus *status)
{
	const EngMatmul *m = kernel->matmul[direction];
	float		one = 1;
	float		beta = m->add ? 1 : 0;

	return !failed(status,
				   cublasLtMatmul(kernel->cuda->cublas, m->description, &one,
								  a, m->a, b, m->b, &beta, d, m->d, d, m->d,
								  &m->algorithm, workspace, m->workspace,
								  kernel->cuda->stream),
				   "could not multiply");
}

/* dy in the type of the input. */
static const void *
narrow_gradient(const EngKernel *kernel, const void *dy, void *workspace)
{
	const EngConvShape *s = &kernel->shape;
	void	   *to = (uint8_t *) workspace + kernel->rest;

	if (s->x_type == s->y_type)
		return dy;
	eng_cuda_cast(kernel->cuda, s->x_type, to, s->y_type, dy,
				  (int64_t) s->n * s->oc, false);
	return to;
}

bool
eng_cuda_linear_forward(EngKernel *kernel, void *y, const void *x,
						const void *weight, const float *bias,
						void *workspace, EngStatus *status)
{
	const EngConvShape *s = &kernel->shape;

	if (!multiply(kernel, ENG_CONV_FORWARD, y, weight, x, workspace, status))
		return false;
	/* cuBLASLt's own GELU is the one by tanh */
	if (s->activation != ENG_ACTIVATION_NONE)
		eng_cuda_bias_activation(kernel->cuda, s->y_type, y, bias, s->n,
								 s->oc, s->activation);
	else if (bias != NULL || s->relu)
		eng_cuda_bias_relu(kernel->cuda, s->y_type, y, y, bias, s->n,
						   s->oc, s->relu);
	return true;
}

bool
eng_cuda_linear_data(EngKernel *kernel, void *dx, const void *dy,
					 const void *weight, void *workspace, EngStatus *status)
{
	return multiply(kernel, ENG_CONV_DATA, dx, weight,
					narrow_gradient(kernel, dy, workspace), workspace,
					status);
}

bool
eng_cuda_linear_weight(EngKernel *kernel, float *dweight, const void *x,
					   const void *dy, void *workspace, EngStatus *status)
{
	return multiply(kernel, ENG_CONV_WEIGHT, dweight, x,
					narrow_gradient(kernel, dy, workspace), workspace,
					status);
}
