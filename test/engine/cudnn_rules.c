/*
 * test/engine/cudnn_rules.c
 *		What the stand-in for cuDNN refuses, and what our plans say then.
 *
 * Linked with the stand-in itself and with a device that is one array, whose
 * stream does everything at once.
 */
#include "tap.h"

#include "cuda/conv_plan.h"
#include "stream.h"

#define MEMORY	(1 << 18)

static _Alignas(256) uint8_t memory[MEMORY];
static int	current;			/* device */
static int	runs;

bool
emulated_stream_run(void *stream, void (*work) (void *argument),
					void *argument, void (*release) (void *argument))
{
	(void) stream;
	runs++;
	work(argument);
	if (release != NULL)
		release(argument);
	return true;
}

bool
emulated_memory_holds(const void *at, size_t size)
{
	return (const uint8_t *) at >= memory &&
		(const uint8_t *) at + size <= memory + MEMORY;
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
	return current;
}

/* ---- descriptors ------------------------------------------------------------ */

typedef struct Setting
{
	cudnnBackendAttributeName_t name;
	cudnnBackendAttributeType_t type;
	int64_t		count;
	const void *values;
} Setting;

static const cudnnDataType_t type = CUDNN_DATA_FLOAT;
static const int64_t sizes[4] = {1, 8, 4, 4};
static const int64_t strides[4] = {128, 1, 32, 8};
static const int64_t planes[4] = {128, 16, 4, 1};
static const int64_t number = 16;
static const Setting tensor[5] = {
	{CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type},
	{CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, sizes},
	{CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, strides},
	{CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &number},
	{CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &number}
};

/* A tensor with one setting left out (-1: none) or replaced. */
static cudnnStatus_t
make(cudnnBackendDescriptor_t *made, int without, const Setting *instead)
{
	cudnnStatus_t code;
	int			i;

	(void) cudnnBackendCreateDescriptor(CUDNN_BACKEND_TENSOR_DESCRIPTOR, made);
	for (i = 0; i < 5; i++)
	{
		const Setting *s = i == without ? instead : &tensor[i];

		if (s == NULL)
			continue;
		code = cudnnBackendSetAttribute(*made, s->name, s->type, s->count,
										s->values);
		if (code != CUDNN_STATUS_SUCCESS)
			return code;
	}
	return cudnnBackendFinalize(*made);
}

static void
expect(cudnnStatus_t want, int without, const Setting *instead,
	   const char *name)
{
	cudnnBackendDescriptor_t made = NULL;
	cudnnStatus_t got = make(&made, without, instead);

	tap_ok(got == want, "%s: %d", name, (int) got);
	cudnnBackendDestroyDescriptor(made);
}

static void
test_descriptors(void)
{
	static const int64_t none[4] = {1, 8, 0, 4};
	static const int64_t three = 3;
	Setting		bad = tensor[1];
	cudnnBackendDescriptor_t made = NULL;
	int64_t		count = 0;
	int			i;

	expect(CUDNN_STATUS_SUCCESS, -1, NULL, "a tensor");
	for (i = 0; i < 5; i++)
		expect(CUDNN_STATUS_BAD_PARAM, i, NULL, "one that lacks a setting");
	bad.values = none;
	expect(CUDNN_STATUS_BAD_PARAM, 1, &bad, "one without rows");
	bad.count = 9;
	expect(CUDNN_STATUS_BAD_PARAM_OUT_OF_BOUND, 1, &bad, "nine dimensions");
	bad = tensor[2];
	bad.values = planes;
	expect(CUDNN_STATUS_NOT_SUPPORTED_LAYOUT, 2, &bad, "channels apart");
	bad = tensor[3];
	bad.type = CUDNN_TYPE_FLOAT;
	expect(CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE, 3, &bad, "an id in float");
	bad = tensor[4];
	bad.values = &three;
	expect(CUDNN_STATUS_BAD_PARAM, 4, &bad, "aligned to three");
	(void) make(&made, -1, NULL);
	tap_ok(cudnnBackendSetAttribute(made, tensor[3].name, tensor[3].type, 1,
									&number) != CUDNN_STATUS_SUCCESS &&
		   cudnnBackendFinalize(made) != CUDNN_STATUS_SUCCESS,
		   "what is finalized stays as it is");
	tap_ok(cudnnBackendGetAttribute(made, CUDNN_ATTR_ENGINEHEUR_RESULTS,
									CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count,
									&made) == CUDNN_STATUS_NOT_SUPPORTED,
		   "a tensor proposes nothing");
	cudnnBackendDestroyDescriptor(made);
}

/* ---- plans -------------------------------------------------------------------- */

/* 1x1x4x4x8 by 8 kernels of 3x3, with all that may follow. */
static const EngConvShape shape = {
	.n = 1, .h = 4, .w = 4, .c = 8, .oh = 4, .ow = 4, .oc = 8, .k = 3,
	.stride = 1, .pad = 1, .bias = true, .relu = true, .sum = true,
	.x_type = ENG_F32, .y_type = ENG_F32
};
static const EngConvWork work = {
	.direction = ENG_CONV_FORWARD, .sum = true, .bias = true, .relu = true
};

static void
refused(EngConvPlan *plan, EngConvArrays arrays, void *workspace,
		EngCode code, const char *name)
{
	EngStatus	status = {ENG_OK, ""};
	int			before = runs;

	tap_ok(!eng_conv_plan_run(plan, &arrays, workspace, &status) &&
		   status.code == code && runs == before, "%s: %s", name,
		   status.message);
}

static void
test_runs(EngConvPlan *plan)
{
	static float elsewhere[128];
	EngStatus	status = {ENG_OK, ""};
	uint8_t    *workspace = memory + MEMORY / 2;
	EngConvArrays good = {.x = memory, .w = memory + 4096,
		.y = memory + 8192, .sum = memory + 12288, .bias = memory + 16384};
	EngConvArrays bad = good;
	const float *y = good.y;
	float	   *all = (float *) memory;
	int			i;

	for (i = 0; i < 8192; i++)
		all[i] = 1;
	bad.x = memory + 4;
	refused(plan, bad, workspace, ENG_UNSUPPORTED, "an array out of line");
	bad = good;
	bad.bias = NULL;
	refused(plan, bad, workspace, ENG_UNSUPPORTED, "no bias");
	bad = good;
	bad.w = elsewhere;
	refused(plan, bad, workspace, ENG_DEVICE, "weights on the host");
	bad = good;
	bad.y = memory + MEMORY - 256;
	refused(plan, bad, workspace, ENG_DEVICE, "a result beyond the memory");
	bad = good;
	bad.y = (const uint8_t *) good.w + 16;
	refused(plan, bad, workspace, ENG_UNSUPPORTED, "a result over the weights");
	refused(plan, good, NULL, ENG_UNSUPPORTED, "no workspace");
	refused(plan, good, workspace + 64, ENG_UNSUPPORTED,
			"a workspace out of line");
	refused(plan, good, memory, ENG_UNSUPPORTED,
			"a workspace over the tensors");
	current = 1;
	refused(plan, good, workspace, ENG_UNSUPPORTED, "another device");
	current = 0;
	tap_ok(eng_conv_plan_run(plan, &good, workspace, &status),
		   "and all in place %s", status.message);
	/* 9 taps of 8 channels inside, 4 in a corner, sum and bias */
	tap_ok(y[5 * 8] == 74 && y[0] == 34, "%g inside, %g in a corner",
		   y[5 * 8], y[0]);
}

int
main(void)
{
	EngStatus	status = {ENG_OK, ""};
	EngConvShape wrong = shape;
	EngConvPlace place = {NULL, NULL};
	cudnnHandle_t handle = NULL;
	EngConvPlan *plan;

	test_descriptors();
	tap_ok(cudnnCreate(&handle) == CUDNN_STATUS_SUCCESS &&
		   cudnnSetStream(handle, NULL) == CUDNN_STATUS_SUCCESS, "a handle");
	place.handle = handle;
	wrong.oh = 5;
	plan = eng_conv_plan(&place, &wrong, &work, &status);
	tap_ok(plan == NULL && strstr(status.message, "sizes of the maps") != NULL,
		   "maps that do not fit: %s", status.message);
	plan = eng_conv_plan(&place, &shape, &work, &status);
	if (tap_ok(plan != NULL, "a plan: %s", plan == NULL ? status.message :
			   eng_conv_plan_text(plan)))
		test_runs(plan);
	eng_conv_plan_free(plan);
	(void) cudnnDestroy(handle);
	return tap_done();
}
