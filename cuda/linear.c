/*
 * cuda/linear.c
 *		Linear layers by cuBLASLt.
 *
 * cuBLASLt's matrices go down the columns: our (rows, columns) is its
 * (columns, rows), so y = x w' is computed as y' = w x'.  Results may be
 * float where inputs are not; reductions are those without atomics.
 *
 * What follows a product is its epilogue where cuBLASLt has one: bias and
 * ReLU of the way forward, the bias's gradient beside that of the weights.
 * Where it has none they are passes of their own, and so are activations: its
 * GELU is the one by tanh.
 */
#include <cublasLt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/kernels.h"
#include "engine/core/arena.h"

#define WORKSPACE	((size_t) 32 << 20)

struct EngMatmul
{
	cublasLtMatmulDesc_t description;
	cublasLtMatrixLayout_t a;
	cublasLtMatrixLayout_t b;
	cublasLtMatrixLayout_t d;
	cublasLtMatmulAlgo_t algorithm;
	size_t		workspace;
	uint32_t	epilogue;
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
	uint32_t	epilogue;		/* wanted */
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
set_attribute(EngMatmul *m, cublasLtMatmulDescAttributes_t name,
			  const void *value, size_t size, EngStatus *status)
{
	return !failed(status,
				   cublasLtMatmulDescSetAttribute(m->description, name, value,
												  size),
				   "takes no attribute");
}

/*
 * What follows the product.  The bias comes later: here it is a pointer as
 * aligned as all are.
 */
static bool
describe_epilogue(EngMatmul *m, const Product *p, EngStatus *status)
{
	const void *aligned = (const void *) (uintptr_t) ENG_ALIGN;
	int32_t		type = data_type(p->output);

	m->epilogue = p->epilogue;
	if (p->epilogue == CUBLASLT_EPILOGUE_DEFAULT)
		return true;
	return set_attribute(m, CUBLASLT_MATMUL_DESC_EPILOGUE, &p->epilogue,
						 sizeof(p->epilogue), status) &&
		set_attribute(m, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type,
					  sizeof(type), status) &&
		set_attribute(m, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &aligned,
					  sizeof(aligned), status);
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
		set_attribute(m, CUBLASLT_MATMUL_DESC_TRANSA, &transpose_a,
					  sizeof(transpose_a), status) &&
		set_attribute(m, CUBLASLT_MATMUL_DESC_TRANSB, &transpose_b,
					  sizeof(transpose_b), status) &&
		describe_epilogue(m, p, status) &&
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
prefer(cublasLtMatmulPreference_t preference,
	   cublasLtMatmulPreferenceAttributes_t name, const void *value,
	   size_t size, EngStatus *status)
{
	return !failed(status,
				   cublasLtMatmulPreferenceSetAttribute(preference, name,
														value, size),
				   "takes no preference");
}

static bool
set_preference(cublasLtMatmulPreference_t preference, EngStatus *status)
{
	static const cublasLtMatmulPreferenceAttributes_t alignments[4] = {
		CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
		CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
		CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
		CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES
	};
	uint64_t	workspace = WORKSPACE;
	uint32_t	reductions = CUBLASLT_REDUCTION_SCHEME_NONE |
		CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE |
		CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE;
	uint32_t	alignment = ENG_ALIGN;
	int			i;

	for (i = 0; i < 4; i++)
		if (!prefer(preference, alignments[i], &alignment, sizeof(alignment),
					status))
			return false;
	return prefer(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
				  &workspace, sizeof(workspace), status) &&
		prefer(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
			   &reductions, sizeof(reductions), status);
}

static bool
choose(EngMatmul *m, const EngCuda *cuda, EngStatus *status)
{
	cublasLtMatmulPreference_t preference = NULL;
	cublasLtMatmulHeuristicResult_t found;
	int			count = 0;
	bool		ok;

	ok = !failed(status, cublasLtMatmulPreferenceCreate(&preference),
				 "takes no preference") &&
		set_preference(preference, status) &&
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
plan_as_is(const EngCuda *cuda, const Product *p, EngStatus *status)
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

/* With the epilogue if there is an algorithm for that, else without. */
static EngMatmul *
plan_product(const EngCuda *cuda, const Product *p, EngStatus *status)
{
	Product		plain = *p;
	EngStatus	ignored = {ENG_OK, ""};
	EngMatmul  *m = NULL;

	plain.epilogue = CUBLASLT_EPILOGUE_DEFAULT;
	if (p->epilogue != CUBLASLT_EPILOGUE_DEFAULT)
		m = plan_as_is(cuda, p, &ignored);
	return m != NULL ? m : plan_as_is(cuda, &plain, status);
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

/*
 * No ReLU in training: what is not a number may come out of cuBLASLt's as 0,
 * and the loss must show it.
 */
static uint32_t
forward_epilogue(const EngConvShape *s)
{
	if (s->activation != ENG_ACTIVATION_NONE ||
		(s->relu && (s->need_data || s->need_weight)))
		return CUBLASLT_EPILOGUE_DEFAULT;
	if (s->bias)
		return s->relu ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_BIAS;
	return s->relu ? CUBLASLT_EPILOGUE_RELU : CUBLASLT_EPILOGUE_DEFAULT;
}

static bool
has_epilogue(const EngKernel *kernel, EngConvDirection direction)
{
	const EngMatmul *m = kernel->matmul[direction];

	return m != NULL && m->epilogue != CUBLASLT_EPILOGUE_DEFAULT;
}

static void
set_text(EngKernel *kernel)
{
	const EngConvShape *s = &kernel->shape;
	bool		forward = has_epilogue(kernel, ENG_CONV_FORWARD);

	snprintf(kernel->text, sizeof(kernel->text), "cuBLASLt%s%s%s",
			 !forward ? "" : !s->bias ? " with ReLU" :
			 s->relu ? " with bias and ReLU" : " with bias",
			 !has_epilogue(kernel, ENG_CONV_WEIGHT) ? "" :
			 forward ? "" : " forward",
			 has_epilogue(kernel, ENG_CONV_WEIGHT) ?
			 ", the bias's gradient with the weights'" : "");
}

/*
 * Workspace besides cuBLASLt's own: dy in the type that is multiplied, or
 * what the bias's gradient needs.
 */
static size_t
rest_size(const EngKernel *kernel)
{
	const EngConvShape *s = &kernel->shape;
	size_t		rest = 0;
	size_t		narrow = eng_type_size(s->x_type) * s->n * s->oc;

	if (has_epilogue(kernel, ENG_CONV_WEIGHT))
		rest = sizeof(float) * s->oc;
	else if (s->need_weight && s->bias)
		rest = eng_cuda_norm_workspace(s->n, s->oc);
	return s->x_type != s->y_type && narrow > rest ? narrow : rest;
}

bool
eng_cuda_plan_linear(EngKernel *kernel, EngStatus *status)
{
	const EngConvShape *s = &kernel->shape;
	Product		forward = {.transpose_a = true, .m = s->oc, .n = s->n,
		.k = s->c, .input = s->x_type, .output = s->y_type,
		.epilogue = forward_epilogue(s)};
	Product		data = {.m = s->c, .n = s->n, .k = s->oc,
		.input = s->x_type, .output = s->x_type, .add = s->add_data,
		.epilogue = CUBLASLT_EPILOGUE_DEFAULT};
	Product		weight = {.transpose_b = true, .m = s->c, .n = s->oc,
		.k = s->n, .input = s->x_type, .output = ENG_F32, .add = true,
		.epilogue = CUBLASLT_EPILOGUE_DEFAULT};

	/* of dy as it is, not of a copy that was rounded */
	if (s->bias && s->x_type == s->y_type)
		weight.epilogue = CUBLASLT_EPILOGUE_BGRADB;
	if (!plan_direction(kernel, ENG_CONV_FORWARD, &forward, status) ||
		(s->need_data &&
		 !plan_direction(kernel, ENG_CONV_DATA, &data, status)) ||
		(s->need_weight &&
		 !plan_direction(kernel, ENG_CONV_WEIGHT, &weight, status)))
		return false;
	kernel->rest = (kernel->rest + 255) / 256 * 256;
	kernel->workspace = kernel->rest + rest_size(kernel);
	set_text(kernel);
	return true;
}

/* bias: what the epilogue reads or writes, or NULL */
static bool
multiply(const EngKernel *kernel, EngConvDirection direction, void *d,
		 const void *a, const void *b, const void *bias, void *workspace,
		 EngStatus *status)
{
	EngMatmul  *m = kernel->matmul[direction];
	float		one = 1;
	float		beta = m->add ? 1 : 0;

	if (bias != NULL &&
		!set_attribute(m, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias,
					   sizeof(bias), status))
		return false;
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
						uint64_t version, void *workspace, EngStatus *status)
{
	const EngConvShape *s = &kernel->shape;
	bool		fused = has_epilogue(kernel, ENG_CONV_FORWARD);
	const void *own = NULL;

	if (s->bias != (bias != NULL))
		return eng_fail(status, ENG_INTERNAL,
						"a linear layer was planned %s a bias",
						s->bias ? "with" : "without");
	if (fused && s->bias)
	{
		own = eng_cuda_packed_bias(kernel, bias, version, status);
		if (own == NULL)
			return false;
	}
	if (!multiply(kernel, ENG_CONV_FORWARD, y, weight, x, own, workspace,
				  status))
		return false;
	if (s->activation != ENG_ACTIVATION_NONE)
		eng_cuda_bias_activation(kernel->cuda, s->y_type, y, bias, s->n,
								 s->oc, s->activation);
	else if (!fused && (bias != NULL || s->relu))
		eng_cuda_bias_relu(kernel->cuda, s->y_type, y, y, bias, s->n,
						   s->oc, s->relu);
	return true;
}

bool
eng_cuda_linear_data(EngKernel *kernel, void *dx, const void *dy,
					 const void *weight, void *workspace, EngStatus *status)
{
	return multiply(kernel, ENG_CONV_DATA, dx, weight,
					narrow_gradient(kernel, dy, workspace), NULL, workspace,
					status);
}

bool
eng_cuda_linear_weight(EngKernel *kernel, float *dweight, float *dbias,
					   const void *x, const void *dy, void *workspace,
					   EngStatus *status)
{
	const EngConvShape *s = &kernel->shape;
	void	   *rest = (uint8_t *) workspace + kernel->rest;
	bool		fused = has_epilogue(kernel, ENG_CONV_WEIGHT);

	/* one after the other on one stream: both may use the rest */
	if (dbias != NULL && !fused)
		eng_cuda_column_sums(kernel->cuda, dbias, dy, s->y_type, s->n, s->oc,
							 rest);
	if (!multiply(kernel, ENG_CONV_WEIGHT, dweight, x,
				  narrow_gradient(kernel, dy, workspace),
				  fused ? rest : NULL, workspace, status))
		return false;
	/* cuBLASLt stores what is to be added */
	if (dbias != NULL && fused)
		eng_cuda_cast(kernel->cuda, ENG_F32, dbias, ENG_F32, rest, s->oc,
					  true);
	return true;
}
