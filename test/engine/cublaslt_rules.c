/*
 * test/engine/cublaslt_rules.c
 *		What the stand-in for cuBLASLt refuses, and what it computes.
 *
 * Linked with the stand-in itself and with a device that is one array, whose
 * stream does everything at once.
 */
#include "tap.h"

#include "cublaslt.h"

#define M	3
#define N	2
#define K	4

static _Alignas(256) float memory[4096];
static int	compute = 90;

bool
emulated_stream_run(void *stream, void (*work) (void *argument),
					void *argument, void (*release) (void *argument))
{
	(void) stream;
	work(argument);
	if (release != NULL)
		release(argument);
	return true;
}

bool
emulated_memory_holds(const void *at, size_t size)
{
	return (const uint8_t *) at >= (const uint8_t *) memory &&
		(const uint8_t *) at + size <= (const uint8_t *) (memory + 4096);
}

int
emulated_stream_device(void *stream)
{
	(void) stream;
	return 0;
}

int
emulated_device_current(void)
{
	return 0;
}

int
emulated_device_compute(void)
{
	return compute;
}

void
emulated_stop(const char *what)
{
	tap_ok(false, "%s", what);
	exit(1);
}

/* A product as it is asked for; the test changes one thing at a time. */
typedef struct Asked
{
	cublasComputeType_t compute;
	cudaDataType_t scale;
	cudaDataType_t input;
	cudaDataType_t output;
	int64_t		leading;		/* of a */
	uint64_t	inner;			/* rows of b */
	uint32_t	epilogue;
	int32_t		bias_type;
	const void *bias;
	uint32_t	promised;		/* alignment of a */
	const float *a;
	size_t		workspace;
} Asked;

static const Asked usual = {
	CUBLAS_COMPUTE_32F, CUDA_R_32F, CUDA_R_32F, CUDA_R_32F, M, K,
	CUBLASLT_EPILOGUE_RELU_BIAS, CUDA_R_32F, memory + 512, 64, memory, 4096
};

static cublasLtHandle_t handle;

static cublasStatus_t
describe(cublasLtMatmulDesc_t *description, cublasLtMatmulPreference_t *preference,
		 const Asked *asked)
{
	size_t		workspace = 1 << 20;

	if (cublasLtMatmulDescCreate(description, asked->compute, asked->scale) ||
		cublasLtMatmulPreferenceCreate(preference) ||
		cublasLtMatmulDescSetAttribute(*description,
									   CUBLASLT_MATMUL_DESC_EPILOGUE,
									   &asked->epilogue, 4) ||
		cublasLtMatmulDescSetAttribute(*description,
									   CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE,
									   &asked->bias_type, 4) ||
		cublasLtMatmulDescSetAttribute(*description,
									   CUBLASLT_MATMUL_DESC_BIAS_POINTER,
									   &asked->bias, sizeof(void *)) ||
		cublasLtMatmulPreferenceSetAttribute(
			*preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
			&asked->promised, 4))
		return CUBLAS_STATUS_INTERNAL_ERROR;
	return cublasLtMatmulPreferenceSetAttribute(
		*preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
		sizeof(workspace));
}

/* d at 1024, b at 256, workspace at 2048 */
static cublasStatus_t
ask(const Asked *asked)
{
	cublasLtMatmulDesc_t description = NULL;
	cublasLtMatmulPreference_t preference = NULL;
	cublasLtMatrixLayout_t a;
	cublasLtMatrixLayout_t b;
	cublasLtMatrixLayout_t d;
	cublasLtMatmulHeuristicResult_t found;
	cublasStatus_t code = describe(&description, &preference, asked);
	float		one = 1;
	float		zero = 0;
	int			count;

	cublasLtMatrixLayoutCreate(&a, asked->input, M, K, asked->leading);
	cublasLtMatrixLayoutCreate(&b, asked->input, asked->inner, N,
							   asked->inner);
	cublasLtMatrixLayoutCreate(&d, asked->output, M, N, M);
	if (code == CUBLAS_STATUS_SUCCESS)
		code = cublasLtMatmulAlgoGetHeuristic(handle, description, a, b, d, d,
											  preference, 1, &found, &count);
	if (code == CUBLAS_STATUS_SUCCESS)
		code = cublasLtMatmul(handle, description, &one, asked->a, a,
							  memory + 256, b, &zero, memory + 1024, d,
							  memory + 1024, d, &found.algo, memory + 2048,
							  asked->workspace, NULL);
	cublasLtMatmulDescDestroy(description);
	cublasLtMatmulPreferenceDestroy(preference);
	cublasLtMatrixLayoutDestroy(a);
	cublasLtMatrixLayoutDestroy(b);
	cublasLtMatrixLayoutDestroy(d);
	return code;
}

static void
expect(Asked asked, cublasStatus_t code, const char *what)
{
	cublasStatus_t got = ask(&asked);

	tap_ok(got == code, "%s: %s", what, cublasLtGetStatusString(got));
}

#define EXPECT(code, what, ...) \
	do \
	{ \
		Asked		asked = usual; \
		__VA_ARGS__; \
		expect(asked, CUBLAS_STATUS_##code, what); \
	} while (0)

static void
test_refusals(void)
{
	EXPECT(NOT_SUPPORTED, "scale of another type",
		   asked.scale = CUDA_R_16F);
	EXPECT(NOT_SUPPORTED, "a narrow result of floats",
		   asked.output = CUDA_R_16BF);
	EXPECT(NOT_SUPPORTED, "a float bias to a narrow result",
		   asked.input = asked.output = CUDA_R_16BF);
	EXPECT(SUCCESS, "a float bias to a float result of narrow ones",
		   asked.input = CUDA_R_16BF);
	compute = 75;
	EXPECT(NOT_SUPPORTED, "bf16 on compute capability 7.5",
		   asked.input = CUDA_R_16BF);
	compute = 90;
	EXPECT(INVALID_VALUE, "columns that overlap", asked.leading = M - 1);
	EXPECT(INVALID_VALUE, "matrices that do not fit", asked.inner = K + 1);
	EXPECT(INVALID_VALUE, "no bias", asked.bias = NULL);
	EXPECT(INVALID_VALUE, "less alignment than promised",
		   asked.a = memory + 4);
	EXPECT(SUCCESS, "as much as promised", asked.a = memory + 4,
		   asked.promised = 16);
	EXPECT(NOT_SUPPORTED, "an epilogue that is none",
		   asked.epilogue = CUBLASLT_EPILOGUE_GELU);
}

static void
test_result(void)
{
	Asked		asked = usual;
	bool		right = true;
	int			i;
	int			j;
	int			k;

	for (i = 0; i < M * K; i++)
		memory[i] = (float) (i % 5) - 2;
	for (i = 0; i < K * N; i++)
		memory[256 + i] = (float) (i % 3) - 1;
	for (i = 0; i < M; i++)
		memory[512 + i] = (float) i - 1;
	tap_ok(ask(&asked) == CUBLAS_STATUS_SUCCESS, "a product");
	for (i = 0; i < M; i++)
		for (j = 0; j < N; j++)
		{
			float		sum = memory[512 + i];

			for (k = 0; k < K; k++)
				sum += memory[i + k * M] * memory[256 + k + j * K];
			if (memory[1024 + i + j * M] != (sum > 0 ? sum : 0))
				right = false;
		}
	tap_ok(right, "with its bias and ReLU");
	asked.epilogue = CUBLASLT_EPILOGUE_BGRADA;
	tap_ok(ask(&asked) == CUBLAS_STATUS_SUCCESS &&
		   memory[512] == memory[0] + memory[3] + memory[6] + memory[9],
		   "a bias's gradient is the sum over a row, stored");
}

int
main(void)
{
	if (cublasLtCreate(&handle) != CUBLAS_STATUS_SUCCESS)
		return 1;
	test_refusals();
	test_result();
	cublasLtDestroy(handle);
	return tap_done();
}
