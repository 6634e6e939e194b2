/*
 * test/engine/device_tokens.c
 *		A device's operations of transformers against ref.
 *
 * AVC_TEST_BACKEND names the device (cuda); without one there is nothing to
 * test.  Heads and channels that are no whole vectors, tokens that are no
 * whole tiles, and the sizes of CLIP.
 */
#include "device_arrays.h"

/* ---- attention --------------------------------------------------------------- */

static void
test_attention(int32_t tokens, int32_t heads, int32_t size, bool causal,
			   EngType type)
{
	EngAttentionShape s = {2, tokens, heads, size, causal, type};
	int64_t		count = (int64_t) s.n * tokens * heads * size;
	Both		qkv = noise(type, 3 * count, -1);
	Both		y = noise(type, count, -1);
	char		name[80];

	snprintf(name, sizeof(name), "attention of %d tokens, %d heads of %d%s",
			 tokens, heads, size, causal ? ", causal" : "");
	ref->attention(ref, y.host, qkv.host, &s);
	gpu->attention(gpu, y.device, qkv.device, &s);
	same(&y, name, type);
	drop(&qkv);
	drop(&y);
}

/* Products so large that only a softmax about the largest one is finite. */
static void
test_large_products(EngType type)
{
	EngAttentionShape s = {1, 70, 1, 64, true, type};
	Both		qkv = noise(type, 3 * 70 * 64, -1);
	Both		y = noise(type, 70 * 64, -1);
	int64_t		i;

	for (i = 0; i < qkv.count; i++)
		eng_store(qkv.host, type, i, 40 * eng_load(qkv.host, type, i));
	gpu->upload(gpu, qkv.device, qkv.host, bytes(&qkv), &status);
	ref->attention(ref, y.host, qkv.host, &s);
	gpu->attention(gpu, y.device, qkv.device, &s);
	same(&y, "attention with large products", type);
	drop(&qkv);
	drop(&y);
}

/* ---- layer norm ---------------------------------------------------------------- */

static void
test_layer_norm(int32_t channels, bool add, EngType type)
{
	int64_t		count = (int64_t) 7 * channels;
	Both		x = noise(ENG_F32, count, 3);
	Both		more = noise(ENG_F32, count, -1);
	Both		sum = noise(ENG_F32, count, -1);
	Both		weight = noise(ENG_F32, channels, -1);
	Both		bias = noise(ENG_F32, channels, -1);
	Both		y = noise(type, count, -1);
	EngLayerNormArgs args = {
		.rows = 7, .channels = channels, .eps = 1e-5f, .x = x.host,
		.add = add ? more.host : NULL, .sum = add ? sum.host : NULL,
		.y = y.host, .type = type, .weight = weight.host, .bias = bias.host
	};
	char		name[80];

	snprintf(name, sizeof(name), "layer norm of %d channels%s", channels,
			 add ? " and a sum" : "");
	ref->layer_norm(ref, &args);
	args.x = x.device;
	args.add = add ? more.device : NULL;
	args.sum = add ? sum.device : NULL;
	args.y = y.device;
	args.weight = weight.device;
	args.bias = bias.device;
	gpu->layer_norm(gpu, &args);
	same(&y, name, type);
	tap_ok(distance(&sum) == 0, "  its sum, to the bit");
	drop(&x);
	drop(&more);
	drop(&sum);
	drop(&weight);
	drop(&bias);
	drop(&y);
}

/* ---- into tokens, and out of them ------------------------------------------------ */

/* Nothing but one sum an element: the same bits. */
static void
test_ways(int32_t channels)
{
	EngTokens	s = {4, 6, channels};
	int64_t		count = (int64_t) 24 * channels;
	Both		x = noise(ENG_F32, count, -1);
	Both		table = noise(ENG_F32, 30 * channels, -1);
	Both		positions = noise(ENG_F32, 6 * channels, -1);
	Both		y = noise(ENG_F32, count, -1);
	Both		ids = noise(ENG_F32, 24, 0);
	int			i;

	for (i = 0; i < 24; i++)
		((float *) ids.host)[i] = (float) (i * 7 % 30);
	gpu->upload(gpu, ids.device, ids.host, bytes(&ids), &status);
	ref->join_tokens(ref, y.host, x.host, table.host, positions.host, &s);
	gpu->join_tokens(gpu, y.device, x.device, table.device, positions.device,
					 &s);
	tap_ok(distance(&y) == 0, "%d channels of patches behind a first token",
		   channels);
	ref->embed_tokens(ref, y.host, ids.host, table.host, positions.host, &s);
	gpu->embed_tokens(gpu, y.device, ids.device, table.device,
					  positions.device, &s);
	tap_ok(distance(&y) == 0, "%d channels of tokens by id", channels);
	drop(&x);
	drop(&table);
	drop(&positions);
	drop(&y);
	drop(&ids);
}

static void
test_pick(int32_t channels, EngType type)
{
	EngTokens	s = {4, 6, channels};
	Both		x = noise(type, (int64_t) 24 * channels, -1);
	Both		y = noise(type, (int64_t) 4 * channels, -1);
	Both		ids = noise(ENG_F32, 24, 0);
	float	   *id = ids.host;
	int			i;

	for (i = 0; i < 24; i++)
		id[i] = (float) (i * 7 % 23);
	/* the largest twice in one entry, first in another, last in a third */
	id[2] = id[4] = id[6] = id[17] = 49407;
	gpu->upload(gpu, ids.device, ids.host, bytes(&ids), &status);
	ref->pick_tokens(ref, type, y.host, x.host, ids.host, &s);
	gpu->pick_tokens(gpu, type, y.device, x.device, ids.device, &s);
	tap_ok(distance(&y) == 0, "%d channels of the token with the largest id, %s",
		   channels, eng_type_name(type));
	ref->pick_tokens(ref, type, y.host, x.host, NULL, &s);
	gpu->pick_tokens(gpu, type, y.device, x.device, NULL, &s);
	tap_ok(distance(&y) == 0, "and of the first token");
	drop(&x);
	drop(&y);
	drop(&ids);
}

/* ---- linear layers ----------------------------------------------------------------- */

/* y of one more kernel over b: x, weight, bias, y. */
static bool
run_linear(EngBackend *backend, EngConvShape s, const Both b[4],
		   uint64_t version)
{
	bool		device = backend->device;
	float	   *weight = device ? b[1].device : b[1].host;
	EngKernel  *kernel;
	void	   *workspace;
	size_t		size;
	bool		fine;

	s.lasting = weight;
	kernel = backend->linear_plan(backend, &s, &status);
	if (kernel == NULL)
		return false;
	size = backend->kernel_workspace(kernel) + 1;
	workspace = backend->alloc(backend, size);
	fine = backend->conv_forward(kernel, device ? b[3].device : b[3].host,
								 device ? b[0].device : b[0].host, weight,
								 device ? b[2].device : b[2].host, version,
								 workspace, &status);
	backend->free(backend, workspace, size);
	backend->kernel_free(kernel);
	return fine;
}

static void
test_activation(EngActivation activation, int32_t channels, EngType type,
				bool wide)
{
	EngConvShape s = {
		.n = 13, .h = 1, .w = 1, .c = 40, .oh = 1, .ow = 1, .oc = channels,
		.k = 1, .stride = 1, .bias = true, .x_type = type,
		.y_type = wide ? ENG_F32 : type, .activation = activation
	};
	Both		b[4] = {
		noise(type, 13 * 40, -1), noise(ENG_F32, channels * 40, -1),
		noise(ENG_F32, channels, -1),
		noise(s.y_type, 13 * channels, -1)
	};
	char		name[80];
	int			i;

	snprintf(name, sizeof(name), "linear layer to %d%s with %s", channels,
			 wide ? " floats" : "", activation == ENG_ACTIVATION_NONE ?
			 "a bias" : activation == ENG_ACTIVATION_GELU ? "GELU" :
			 "quick GELU");
	tap_ok(run_linear(ref, s, b, 1) && run_linear(gpu, s, b, 1), "%s", name);
	same(&b[3], "  its result", type);
	for (i = 0; i < 4; i++)
		drop(&b[i]);
}

/*
 * Two kernels of one array of weights, which changes between their calls:
 * each call multiplies what is there.
 */
static void
test_lasting(EngType type)
{
	EngConvShape s = {
		.n = 5, .h = 1, .w = 1, .c = 32, .oh = 1, .ow = 1, .oc = 24, .k = 1,
		.stride = 1, .bias = true, .x_type = type, .y_type = type
	};
	Both		b[4] = {
		noise(type, 5 * 32, -1), noise(ENG_F32, 24 * 32, -1),
		noise(ENG_F32, 24, -1), noise(type, 5 * 24, -1)
	};
	EngKernel  *kept;
	int			i;

	s.lasting = b[1].device;
	kept = gpu->linear_plan(gpu, &s, &status);
	tap_ok(kept != NULL, "a kernel that lasts");
	for (i = 1; i < 3; i++)
	{
		((float *) b[1].host)[7] = (float) i;
		gpu->upload(gpu, b[1].device, b[1].host, bytes(&b[1]), &status);
		tap_ok(run_linear(ref, s, b, i) && run_linear(gpu, s, b, i),
			   "another one of the same weights, version %d", i);
		same(&b[3], "  its result", type);
	}
	gpu->kernel_free(kept);
	for (i = 0; i < 4; i++)
		drop(&b[i]);
}

static void
test_type(EngType type)
{
	test_attention(1, 2, 64, true, type);
	test_attention(5, 3, 20, true, type);
	test_attention(50, 12, 64, false, type);
	test_attention(77, 8, 64, true, type);
	test_attention(96, 1, 40, true, type);
	test_attention(97, 1, 40, false, type);
	test_attention(257, 2, 33, false, type);
	test_attention(ENG_ATTENTION_TOKENS, 1, 1, true, type);
	test_attention(ENG_ATTENTION_TOKENS, 2, 64, true, type);
	test_large_products(type);
	test_layer_norm(768, true, type);
	test_layer_norm(512, false, type);
	test_layer_norm(40, false, type);
	test_layer_norm(1500, true, type);
	test_layer_norm(3, true, type);
	test_pick(40, type);
	test_pick(700, type);
	test_pick(3, type);
	test_activation(ENG_ACTIVATION_NONE, 48, type, true);
	test_activation(ENG_ACTIVATION_QUICK_GELU, 48, type, false);
	test_activation(ENG_ACTIVATION_QUICK_GELU, 13, type, false);
	test_activation(ENG_ACTIVATION_GELU, 48, type, false);
	test_activation(ENG_ACTIVATION_GELU, 13, type, true);
	test_lasting(type);
}

int
main(void)
{
	int			type;

	if (!open_both())
		return tap_done();
	for (type = ENG_F32; type <= ENG_F16; type++)
		if (type != ENG_BF16 || gpu->lacks_bf16 == NULL)
			test_type(type);
	test_ways(40);
	test_ways(7);
	close_both();
	return tap_done();
}
