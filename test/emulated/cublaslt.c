/*
 * test/emulated/cublaslt.c
 *		A stand-in for cuBLASLt: descriptions, choice and the checks of a product.
 *
 * What the real library documents as wrong is refused: types that do not go
 * together, matrices that do not fit, a bias of another type than the result,
 * pointers less aligned than was promised, a workspace that is too small or
 * not aligned.  What it leaves undefined (memory that is not the device's or
 * is used twice) ends the program.  The loops are in cublaslt_product.c.
 */
#include "cublaslt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC		0x746c5442	/* in what was created and not yet destroyed */
#define SCRATCH		4096		/* bytes of workspace that an algorithm takes */
#define WORKSPACE_ALIGNMENT	256

struct cublasLtContext
{
	uint32_t	magic;
	int			device;
};

typedef struct Preference
{
	size_t		workspace;
	uint32_t	reductions;
	uint32_t	alignment[4];	/* of a, b, c, d */
} Preference;

/* What an algorithm was chosen for; in cublasLtMatmulAlgo_t. */
typedef struct Algorithm
{
	uint32_t	magic;
	uint32_t	shape;			/* hash of types, sizes and epilogue */
	uint16_t	alignment[5];	/* of a, b, c, d and the bias */
	uint32_t	workspace;
} Algorithm;

_Static_assert(sizeof(Algorithm) <= sizeof(cublasLtMatmulAlgo_t),
			   "an algorithm fits");
_Static_assert(sizeof(EmulatedDescription) <=
			   sizeof(cublasLtMatmulDescOpaque_t), "a description fits");
_Static_assert(sizeof(EmulatedLayout) <= sizeof(cublasLtMatrixLayoutOpaque_t),
			   "a layout fits");
_Static_assert(sizeof(Preference) <= sizeof(cublasLtMatmulPreferenceOpaque_t),
			   "a preference fits");

/* ---- handles and descriptions ------------------------------------------------ */

const char *
cublasLtGetStatusString(cublasStatus_t status)
{
	switch (status)
	{
		case CUBLAS_STATUS_SUCCESS:
			return "CUBLAS_STATUS_SUCCESS";
		case CUBLAS_STATUS_NOT_INITIALIZED:
			return "CUBLAS_STATUS_NOT_INITIALIZED";
		case CUBLAS_STATUS_ALLOC_FAILED:
			return "CUBLAS_STATUS_ALLOC_FAILED";
		case CUBLAS_STATUS_INVALID_VALUE:
			return "CUBLAS_STATUS_INVALID_VALUE";
		case CUBLAS_STATUS_NOT_SUPPORTED:
			return "CUBLAS_STATUS_NOT_SUPPORTED";
		case CUBLAS_STATUS_EXECUTION_FAILED:
			return "CUBLAS_STATUS_EXECUTION_FAILED";
		default:
			return "unknown status";
	}
}

cublasStatus_t
cublasLtCreate(cublasLtHandle_t *handle)
{
	*handle = calloc(1, sizeof(**handle));
	if (*handle == NULL)
		return CUBLAS_STATUS_ALLOC_FAILED;
	(*handle)->magic = MAGIC;
	(*handle)->device = emulated_device_current();
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t
cublasLtDestroy(cublasLtHandle_t handle)
{
	if (handle == NULL || handle->magic != MAGIC)
		return CUBLAS_STATUS_NOT_INITIALIZED;
	handle->magic = 0;
	free(handle);
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t
cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *made,
						 cublasComputeType_t compute, cudaDataType_t scale)
{
	EmulatedDescription *d = calloc(1, sizeof(cublasLtMatmulDescOpaque_t));

	*made = (cublasLtMatmulDesc_t) d;
	if (d == NULL)
		return CUBLAS_STATUS_ALLOC_FAILED;
	d->compute = compute;
	d->scale = scale;
	d->transpose_a = d->transpose_b = CUBLAS_OP_N;
	d->epilogue = CUBLASLT_EPILOGUE_DEFAULT;
	d->bias_type = -1;
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t
cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t description)
{
	free(description);
	return CUBLAS_STATUS_SUCCESS;
}

/* Store an attribute of a known size. */
static cublasStatus_t
store(void *to, size_t wanted, const void *value, size_t size)
{
	if (value == NULL || size != wanted)
		return CUBLAS_STATUS_INVALID_VALUE;
	memcpy(to, value, size);
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t
cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t description,
							   cublasLtMatmulDescAttributes_t name,
							   const void *value, size_t size)
{
	EmulatedDescription *d = (EmulatedDescription *) description;

	if (d == NULL)
		return CUBLAS_STATUS_INVALID_VALUE;
	switch ((int) name)
	{
		case CUBLASLT_MATMUL_DESC_TRANSA:
			return store(&d->transpose_a, sizeof(int32_t), value, size);
		case CUBLASLT_MATMUL_DESC_TRANSB:
			return store(&d->transpose_b, sizeof(int32_t), value, size);
		case CUBLASLT_MATMUL_DESC_EPILOGUE:
			return store(&d->epilogue, sizeof(uint32_t), value, size);
		case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
			return store(&d->bias, sizeof(void *), value, size);
		case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
			return store(&d->bias_type, sizeof(int32_t), value, size);
	}
	return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t
cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *made, cudaDataType type,
						   uint64_t rows, uint64_t columns, int64_t leading)
{
	EmulatedLayout *layout = calloc(1, sizeof(cublasLtMatrixLayoutOpaque_t));

	*made = (cublasLtMatrixLayout_t) layout;
	if (layout == NULL)
		return CUBLAS_STATUS_ALLOC_FAILED;
	layout->type = type;
	layout->rows = rows;
	layout->columns = columns;
	layout->leading = leading;
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t
cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
	free(layout);
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t
cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *made)
{
	Preference *p = calloc(1, sizeof(cublasLtMatmulPreferenceOpaque_t));
	int			i;

	*made = (cublasLtMatmulPreference_t) p;
	if (p == NULL)
		return CUBLAS_STATUS_ALLOC_FAILED;
	p->reductions = CUBLASLT_REDUCTION_SCHEME_MASK;
	for (i = 0; i < 4; i++)
		p->alignment[i] = 256;
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t
cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
	free(preference);
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t
cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
									 cublasLtMatmulPreferenceAttributes_t name,
									 const void *value, size_t size)
{
	Preference *p = (Preference *) preference;

	if (p == NULL)
		return CUBLAS_STATUS_INVALID_VALUE;
	switch ((int) name)
	{
		case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
			return store(&p->workspace, sizeof(uint64_t), value, size);
		case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
			return store(&p->reductions, sizeof(uint32_t), value, size);
		case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
			return store(&p->alignment[0], sizeof(uint32_t), value, size);
		case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
			return store(&p->alignment[1], sizeof(uint32_t), value, size);
		case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
			return store(&p->alignment[2], sizeof(uint32_t), value, size);
		case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
			return store(&p->alignment[3], sizeof(uint32_t), value, size);
	}
	return CUBLAS_STATUS_INVALID_VALUE;
}

/* ---- what goes together --------------------------------------------------------- */

static size_t
type_size(int type)
{
	return type == CUDA_R_32F ? 4 : 2;
}

/* Types of the documented table that compute in float. */
static bool
types_go(const EmulatedProduct *p)
{
	int			input = p->a.type;

	if (p->d.compute != CUBLAS_COMPUTE_32F || p->d.scale != CUDA_R_32F ||
		p->b.type != input || p->c.type != p->out.type)
		return false;
	if (input == CUDA_R_32F)
		return p->out.type == CUDA_R_32F;
	/* no tensor cores of compute capability 7.5 multiply bf16 */
	return (input == CUDA_R_16F ||
			(input == CUDA_R_16BF && emulated_device_compute() >= 80)) &&
		(p->out.type == input || p->out.type == CUDA_R_32F);
}

static bool
epilogue_goes(const EmulatedDescription *d, int out)
{
	switch (d->epilogue)
	{
		case CUBLASLT_EPILOGUE_DEFAULT:
		case CUBLASLT_EPILOGUE_RELU:
			return true;
		case CUBLASLT_EPILOGUE_BIAS:
		case CUBLASLT_EPILOGUE_RELU_BIAS:
		case CUBLASLT_EPILOGUE_BGRADA:
		case CUBLASLT_EPILOGUE_BGRADB:
			return d->bias_type == -1 || d->bias_type == out;
	}
	return false;
}

static bool
is_op(int op)
{
	return op == CUBLAS_OP_N || op == CUBLAS_OP_T;
}

static bool
layout_is(const EmulatedLayout *l, uint64_t rows, uint64_t columns,
		  bool transposed)
{
	return l->rows == (transposed ? columns : rows) &&
		l->columns == (transposed ? rows : columns) && l->rows > 0 &&
		l->columns > 0 && l->leading >= (int64_t) l->rows;
}

static cublasStatus_t
look(EmulatedProduct *p, cublasLtMatmulDesc_t description,
	 cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
	 cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t out)
{
	if (description == NULL || a == NULL || b == NULL || c == NULL ||
		out == NULL)
		return CUBLAS_STATUS_INVALID_VALUE;
	memcpy(&p->d, description, sizeof(p->d));
	memcpy(&p->a, a, sizeof(p->a));
	memcpy(&p->b, b, sizeof(p->b));
	memcpy(&p->c, c, sizeof(p->c));
	memcpy(&p->out, out, sizeof(p->out));
	if (!is_op(p->d.transpose_a) || !is_op(p->d.transpose_b))
		return CUBLAS_STATUS_INVALID_VALUE;
	p->m = p->out.rows;
	p->n = p->out.columns;
	p->k = p->d.transpose_a == CUBLAS_OP_T ? p->a.rows : p->a.columns;
	if (!layout_is(&p->a, p->m, p->k, p->d.transpose_a == CUBLAS_OP_T) ||
		!layout_is(&p->b, p->k, p->n, p->d.transpose_b == CUBLAS_OP_T) ||
		!layout_is(&p->c, p->m, p->n, false) ||
		!layout_is(&p->out, p->m, p->n, false))
		return CUBLAS_STATUS_INVALID_VALUE;
	return types_go(p) && epilogue_goes(&p->d, p->out.type) ?
		CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

/* ---- choice --------------------------------------------------------------------- */

static uint32_t
shape_hash(const EmulatedProduct *p)
{
	const EmulatedLayout *layouts[4] = {&p->a, &p->b, &p->c, &p->out};
	uint64_t	h = (uint64_t) p->d.transpose_a * 31 + p->d.transpose_b * 7 +
		p->d.epilogue;
	int			i;

	for (i = 0; i < 4; i++)
	{
		h = (h ^ (uint64_t) layouts[i]->type) * 0x9e3779b97f4a7c15;
		h = (h ^ layouts[i]->rows) * 0x9e3779b97f4a7c15;
		h = (h ^ layouts[i]->columns) * 0x9e3779b97f4a7c15;
		h = (h ^ (uint64_t) layouts[i]->leading) * 0x9e3779b97f4a7c15;
	}
	return (uint32_t) (h >> 32);
}

/* Largest power of two up to 256 that a pointer is a multiple of. */
static uint16_t
alignment_of(const void *at)
{
	uintptr_t	bits = (uintptr_t) at | 256;

	return (uint16_t) (bits & -bits);
}

cublasStatus_t
cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle,
							   cublasLtMatmulDesc_t description,
							   cublasLtMatrixLayout_t a,
							   cublasLtMatrixLayout_t b,
							   cublasLtMatrixLayout_t c,
							   cublasLtMatrixLayout_t out,
							   cublasLtMatmulPreference_t preference,
							   int wanted,
							   cublasLtMatmulHeuristicResult_t results[],
							   int *count)
{
	const Preference *preferred = (Preference *) preference;
	EmulatedProduct p;
	Algorithm	chosen;
	cublasStatus_t code = look(&p, description, a, b, c, out);
	int			i;

	*count = 0;
	if (handle == NULL || handle->magic != MAGIC)
		return CUBLAS_STATUS_NOT_INITIALIZED;
	if (preferred == NULL || wanted < 1)
		return CUBLAS_STATUS_INVALID_VALUE;
	if (code != CUBLAS_STATUS_SUCCESS)
		return code;
	memset(&chosen, 0, sizeof(chosen));
	chosen.magic = MAGIC;
	chosen.shape = shape_hash(&p);
	for (i = 0; i < 4; i++)
		chosen.alignment[i] = (uint16_t) preferred->alignment[i];
	chosen.alignment[4] = alignment_of(p.d.bias);
	/* long sums are made in parts where there is room for them */
	if (p.k > 64 && preferred->workspace >= SCRATCH &&
		(preferred->reductions & CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE))
		chosen.workspace = SCRATCH;
	memset(results, 0, sizeof(results[0]));
	memcpy(&results[0].algo, &chosen, sizeof(chosen));
	results[0].workspaceSize = chosen.workspace;
	results[0].state = CUBLAS_STATUS_SUCCESS;
	results[0].wavesCount = 1;
	*count = 1;
	return CUBLAS_STATUS_SUCCESS;
}

/* ---- running ----------------------------------------------------------------------- */

static size_t
layout_bytes(const EmulatedLayout *l)
{
	return (((size_t) l->columns - 1) * (size_t) l->leading + l->rows) *
		type_size(l->type);
}

static size_t
bias_bytes(const EmulatedProduct *p)
{
	switch (p->d.epilogue)
	{
		case CUBLASLT_EPILOGUE_BIAS:
		case CUBLASLT_EPILOGUE_RELU_BIAS:
		case CUBLASLT_EPILOGUE_BGRADA:
			return p->m * type_size(p->out.type);
		case CUBLASLT_EPILOGUE_BGRADB:
			return p->n * type_size(p->out.type);
	}
	return 0;
}

static bool
apart(const void *a, size_t a_size, const void *b, size_t b_size)
{
	return (const uint8_t *) a + a_size <= (const uint8_t *) b ||
		(const uint8_t *) b + b_size <= (const uint8_t *) a;
}

/*
 * All memory is the device's, and nothing that is written is used for
 * something else: 0..2 are read, 3 and behind it written.
 */
static void
check_memory(const EmulatedProduct *p, const void *workspace,
			 size_t workspace_size)
{
	const struct
	{
		const void *at;
		size_t		size;
	}			part[5] = {
		{p->at_a, layout_bytes(&p->a)}, {p->at_b, layout_bytes(&p->b)},
		{p->d.bias, bias_bytes(p)}, {p->at_out, layout_bytes(&p->out)},
		{workspace, workspace_size}
	};
	int			i;
	int			j;

	for (i = 0; i < 5; i++)
	{
		if (part[i].size > 0 &&
			!emulated_memory_holds(part[i].at, part[i].size))
			emulated_stop("a product of what is not in the device's memory");
		for (j = i < 3 ? 3 : i + 1; j < 5; j++)
			if (part[i].size > 0 && part[j].size > 0 &&
				!apart(part[i].at, part[i].size, part[j].at, part[j].size))
				emulated_stop("a product's result lies over its operands");
	}
}

static cublasStatus_t
check_pointers(const EmulatedProduct *p, const Algorithm *algorithm,
			   const void *c, const void *workspace, size_t workspace_size)
{
	const void *at[5] = {p->at_a, p->at_b, c, p->at_out, p->d.bias};
	int			i;

	if (p->at_a == NULL || p->at_b == NULL || p->at_out == NULL ||
		(p->beta != 0 && c != p->at_out) ||
		(bias_bytes(p) > 0 && p->d.bias == NULL) ||
		algorithm->shape != shape_hash(p))
		return CUBLAS_STATUS_INVALID_VALUE;
	for (i = 0; i < 5; i++)
		if ((i != 2 || p->beta != 0) && (i != 4 || bias_bytes(p) > 0) &&
			alignment_of(at[i]) < algorithm->alignment[i])
			return CUBLAS_STATUS_INVALID_VALUE;
	if (workspace_size < algorithm->workspace ||
		(algorithm->workspace > 0 &&
		 (workspace == NULL ||
		  alignment_of(workspace) < WORKSPACE_ALIGNMENT)))
		return CUBLAS_STATUS_INVALID_VALUE;
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t
cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t description,
			   const void *alpha, const void *a, cublasLtMatrixLayout_t a_layout,
			   const void *b, cublasLtMatrixLayout_t b_layout,
			   const void *beta, const void *c, cublasLtMatrixLayout_t c_layout,
			   void *out, cublasLtMatrixLayout_t out_layout,
			   const cublasLtMatmulAlgo_t *algo, void *workspace,
			   size_t workspace_size, cudaStream_t stream)
{
	EmulatedProduct p;
	EmulatedProduct *kept;
	Algorithm	algorithm;
	cublasStatus_t code;

	if (handle == NULL || handle->magic != MAGIC)
		return CUBLAS_STATUS_NOT_INITIALIZED;
	if (algo == NULL || alpha == NULL || beta == NULL)
		return CUBLAS_STATUS_INVALID_VALUE;
	memcpy(&algorithm, algo, sizeof(algorithm));
	code = look(&p, description, a_layout, b_layout, c_layout, out_layout);
	if (code != CUBLAS_STATUS_SUCCESS || algorithm.magic != MAGIC)
		return code != CUBLAS_STATUS_SUCCESS ? code :
			CUBLAS_STATUS_INVALID_VALUE;
	p.alpha = *(const float *) alpha;
	p.beta = *(const float *) beta;
	p.at_a = a;
	p.at_b = b;
	p.at_out = out;
	p.workspace = workspace;
	p.workspace_size = algorithm.workspace;
	code = check_pointers(&p, &algorithm, c, workspace, workspace_size);
	if (code != CUBLAS_STATUS_SUCCESS)
		return code;
	check_memory(&p, workspace, algorithm.workspace);
	kept = malloc(sizeof(p));
	if (kept == NULL)
		return CUBLAS_STATUS_ALLOC_FAILED;
	*kept = p;
	return handle->device == emulated_stream_device(stream) &&
		emulated_stream_run(stream, emulated_multiply, kept, free) ?
		CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
