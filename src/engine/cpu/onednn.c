/*
 * engine/cpu/onednn.c
 *		The little of oneDNN that we use, behind its 2.x C interface.
 */
#include "engine/cpu/onednn.h"

#include <dnnl.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/arena.h"

#if DNNL_VERSION_MAJOR != 2
#error "this file is written for oneDNN 2.x"
#endif

/* What several inner products read that differ in their rows alone. */
typedef struct SharedWeights
{
	struct SharedWeights *next;
	const float *weight;		/* what is packed */
	uint64_t	version;		/* 0: nothing yet */
	dnnl_memory_desc_t layout;
	void	   *data;
	size_t		size;
	int32_t		users;
} SharedWeights;

struct EngDnnl
{
	dnnl_engine_t engine;
	dnnl_stream_t stream;
	SharedWeights *shared;
};

struct EngDnnlConv
{
	EngDnnl    *dnnl;
	EngDnnlShape shape;
	dnnl_primitive_t primitive;
	dnnl_primitive_t reorder;	/* weights in, or weight gradients out */
	dnnl_memory_t source;		/* of the larger side: x or dx */
	dnnl_memory_t target;		/* y or dy */
	dnnl_memory_t weight;		/* packed */
	dnnl_memory_t plain;		/* weights (oc, k, k, c) */
	dnnl_memory_t bias;
	dnnl_memory_t scratchpad;
	void	   *packed;			/* NULL: not kept */
	SharedWeights *shared;		/* that packed belongs to, or NULL */
	size_t		packed_size;
	size_t		scratch_size;	/* of the primitive alone */
	char		text[40];
};

static bool
check(dnnl_status_t result, const char *what, EngStatus *status)
{
	if (result == dnnl_success)
		return true;
	return eng_fail(status,
					result == dnnl_out_of_memory ? ENG_NO_MEMORY : ENG_INTERNAL,
					"oneDNN could not %s (status %d)", what, (int) result);
}

EngDnnl *
eng_dnnl_open(EngStatus *status)
{
	EngDnnl    *dnnl = calloc(1, sizeof(EngDnnl));

	if (dnnl == NULL)
	{
		eng_fail(status, ENG_NO_MEMORY, "out of memory");
		return NULL;
	}
	if (!check(dnnl_engine_create(&dnnl->engine, dnnl_cpu, 0),
			   "make an engine", status) ||
		!check(dnnl_stream_create(&dnnl->stream, dnnl->engine,
								  dnnl_stream_default_flags),
			   "make a stream", status))
	{
		eng_dnnl_close(dnnl);
		return NULL;
	}
	return dnnl;
}

void
eng_dnnl_close(EngDnnl *dnnl)
{
	if (dnnl == NULL)
		return;
	if (dnnl->stream != NULL)
		dnnl_stream_destroy(dnnl->stream);
	if (dnnl->engine != NULL)
		dnnl_engine_destroy(dnnl->engine);
	free(dnnl);
}

void
eng_dnnl_version(char *out, size_t size)
{
	const dnnl_version_t *version = dnnl_version();

	snprintf(out, size, "%d.%d.%d", version->major, version->minor,
			 version->patch);
}

const char *
eng_dnnl_isa(void)
{
	static const struct
	{
		dnnl_cpu_isa_t isa;
		const char *name;
	}			names[] = {
		{dnnl_cpu_isa_sse41, "sse41"},
		{dnnl_cpu_isa_avx, "avx"},
		{dnnl_cpu_isa_avx2, "avx2"},
		{dnnl_cpu_isa_avx512_mic, "avx512_mic"},
		{dnnl_cpu_isa_avx512_mic_4ops, "avx512_mic_4ops"},
		{dnnl_cpu_isa_avx512_core, "avx512_core"},
		{dnnl_cpu_isa_avx512_core_vnni, "avx512_core_vnni"},
		{dnnl_cpu_isa_avx512_core_bf16, "avx512_core_bf16"},
		{dnnl_cpu_isa_avx512_core_amx, "avx512_core_amx"},
		{dnnl_cpu_isa_avx2_vnni, "avx2_vnni"}
	};
	dnnl_cpu_isa_t isa = dnnl_get_effective_cpu_isa();
	size_t		i;

	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (names[i].isa == isa)
			return names[i].name;
	return "other";
}

bool
eng_dnnl_has_bf16(void)
{
	dnnl_cpu_isa_t isa = dnnl_get_effective_cpu_isa();

	return isa == dnnl_cpu_isa_avx512_core_bf16 ||
		isa == dnnl_cpu_isa_avx512_core_amx;
}

typedef struct Descriptors
{
	dnnl_memory_desc_t source;
	dnnl_memory_desc_t weight;
	dnnl_memory_desc_t plain;
	dnnl_memory_desc_t bias;
	dnnl_memory_desc_t target;
	dnnl_dims_t stride;
	dnnl_dims_t before;
	dnnl_dims_t behind;
} Descriptors;

static dnnl_data_type_t
data_type(EngType type)
{
	return type == ENG_BF16 ? dnnl_bf16 : dnnl_f32;
}

/* Maps are NHWC; those of an inner product are matrices. */
static bool
describe_map(dnnl_memory_desc_t *md, const dnnl_dims_t dims, bool linear,
			 EngType type, EngStatus *status)
{
	return check(dnnl_memory_desc_init_by_tag(md, linear ? 2 : 4, dims,
											  data_type(type),
											  linear ? dnnl_nc : dnnl_nhwc),
				 "describe a tensor", status);
}

/* Weights (oc, k, k, c) in float. */
static bool
describe_plain(dnnl_memory_desc_t *md, const dnnl_dims_t dims,
			   const EngDnnlShape *s, EngStatus *status)
{
	dnnl_dims_t strides = {s->pitch, 1};

	return check(s->linear && s->pitch != 0 ?
				 dnnl_memory_desc_init_by_strides(md, 2, dims, dnnl_f32,
												  strides) :
				 dnnl_memory_desc_init_by_tag(md, s->linear ? 2 : 4, dims,
											  dnnl_f32, s->linear ? dnnl_oi :
											  dnnl_ohwi),
				 "describe weights", status);
}

static bool
describe(Descriptors *d, const EngDnnlShape *s, EngStatus *status)
{
	dnnl_dims_t source = {s->n, s->c, s->h, s->w};
	dnnl_dims_t weight = {s->oc, s->c, s->k, s->k};
	dnnl_dims_t target = {s->n, s->oc, s->oh, s->ow};
	dnnl_dims_t bias = {s->oc};
	dnnl_dim_t	down = (dnnl_dim_t) (s->oh - 1) * s->stride + s->k - s->h -
		(s->pad - s->cut);
	dnnl_dim_t	right = (dnnl_dim_t) (s->ow - 1) * s->stride + s->k - s->w -
		s->pad;

	d->stride[0] = d->stride[1] = s->stride;
	d->before[0] = s->pad - s->cut;
	d->before[1] = s->pad;
	d->behind[0] = down;
	d->behind[1] = right;
	return describe_map(&d->source, source, s->linear, s->source_type,
						status) &&
		describe_map(&d->target, target, s->linear, s->target_type,
					 status) &&
		check(dnnl_memory_desc_init_by_tag(&d->weight, s->linear ? 2 : 4,
										   weight,
										   s->what == ENG_DNNL_WEIGHT ?
										   dnnl_f32 :
										   data_type(s->source_type),
										   dnnl_format_tag_any),
			  "describe weights", status) &&
		describe_plain(&d->plain, weight, s, status) &&
		check(dnnl_memory_desc_init_by_tag(&d->bias, 1, bias, dnnl_f32,
										   dnnl_x),
			  "describe a bias", status);
}

static bool
create_attributes(dnnl_primitive_attr_t *attr, const EngDnnlShape *s,
				  EngStatus *status)
{
	dnnl_post_ops_t post = NULL;
	bool		ok;

	if (!check(dnnl_primitive_attr_create(attr), "make attributes", status))
		return false;
	if (!check(dnnl_primitive_attr_set_scratchpad_mode(*attr,
													   dnnl_scratchpad_mode_user),
			   "set attributes", status))
		return false;
	if (s->what != ENG_DNNL_FORWARD ||
		(!s->relu && !s->sum && s->activation == ENG_ACTIVATION_NONE))
		return true;
	if (!check(dnnl_post_ops_create(&post), "make post-operations", status))
		return false;
	ok = true;
	if (s->sum)
		ok = check(dnnl_post_ops_append_sum(post, 1.0f), "append a sum",
				   status);
	if (ok && s->relu)
		ok = check(dnnl_post_ops_append_eltwise(post, 1.0f,
												dnnl_eltwise_relu, 0, 0),
				   "append a ReLU", status);
	if (ok && s->activation == ENG_ACTIVATION_QUICK_GELU)
		ok = check(dnnl_post_ops_append_eltwise(post, 1.0f,
												dnnl_eltwise_swish, 1.702f,
												0),
				   "append a quick GELU", status);
	if (ok && s->activation == ENG_ACTIVATION_GELU)
		ok = check(dnnl_post_ops_append_eltwise(post, 1.0f,
												dnnl_eltwise_gelu_erf, 0, 0),
				   "append a GELU", status);
	if (ok)
		ok = check(dnnl_primitive_attr_set_post_ops(*attr, post),
				   "set post-operations", status);
	dnnl_post_ops_destroy(post);
	return ok;
}

/* What oneDNN describes an operation by. */
typedef union Operation
{
	dnnl_convolution_desc_t conv;
	dnnl_inner_product_desc_t product;
} Operation;

static dnnl_status_t
describe_operation(Operation *op, EngDnnlWhat what, dnnl_prop_kind_t kind,
				   const EngDnnlShape *s, const Descriptors *d)
{
	const dnnl_memory_desc_t *bias = s->bias ? &d->bias : NULL;

	switch (what)
	{
		case ENG_DNNL_FORWARD:
			return s->linear ?
				dnnl_inner_product_forward_desc_init(
					&op->product, kind, &d->source, &d->weight, bias,
					&d->target) :
				dnnl_convolution_forward_desc_init(
					&op->conv, kind, dnnl_convolution_direct, &d->source,
					&d->weight, bias, &d->target, d->stride, d->before,
					d->behind);
		case ENG_DNNL_DATA:
			return s->linear ?
				dnnl_inner_product_backward_data_desc_init(
					&op->product, &d->source, &d->weight, &d->target) :
				dnnl_convolution_backward_data_desc_init(
					&op->conv, dnnl_convolution_direct, &d->source,
					&d->weight, &d->target, d->stride, d->before, d->behind);
		default:
			return s->linear ?
				dnnl_inner_product_backward_weights_desc_init(
					&op->product, &d->source, &d->weight, NULL, &d->target) :
				dnnl_convolution_backward_weights_desc_init(
					&op->conv, dnnl_convolution_direct, &d->source,
					&d->weight, NULL, &d->target, d->stride, d->before,
					d->behind);
	}
}

/*
 * The other two need the forward one as a hint.  Its weights are of the type
 * of the source, whatever their gradients are.
 */
static bool
create_hint(dnnl_primitive_desc_t *hint, EngDnnl *dnnl, const EngDnnlShape *s,
			const Descriptors *d, EngStatus *status)
{
	Descriptors forward = *d;
	Operation	op;

	forward.weight.data_type = data_type(s->source_type);
	return check(describe_operation(&op, ENG_DNNL_FORWARD,
									dnnl_forward_training, s, &forward),
				 "describe an operation", status) &&
		check(dnnl_primitive_desc_create(hint, &op, NULL, dnnl->engine, NULL),
			  "choose an operation", status);
}

static bool
create_descriptor(dnnl_primitive_desc_t *pd, EngDnnl *dnnl,
				  const EngDnnlShape *s, const Descriptors *d,
				  EngStatus *status)
{
	Operation	op;
	dnnl_primitive_attr_t attr = NULL;
	dnnl_primitive_desc_t hint = NULL;
	bool		ok;

	ok = create_attributes(&attr, s, status) &&
		(s->what == ENG_DNNL_FORWARD ||
		 create_hint(&hint, dnnl, s, d, status)) &&
		check(describe_operation(&op, s->what, dnnl_forward_inference, s, d),
			  "describe an operation", status) &&
		check(dnnl_primitive_desc_create(pd, &op, attr, dnnl->engine, hint),
			  "choose an operation", status);
	if (hint != NULL)
		dnnl_primitive_desc_destroy(hint);
	if (attr != NULL)
		dnnl_primitive_attr_destroy(attr);
	return ok;
}

/*
 * weights -> packed, or packed gradients added to plain ones.
 */
static bool
create_reorder(EngDnnlConv *conv, const dnnl_memory_desc_t *plain,
			   const dnnl_memory_desc_t *packed, EngStatus *status)
{
	bool		out = conv->shape.what == ENG_DNNL_WEIGHT;
	dnnl_engine_t engine = conv->dnnl->engine;
	dnnl_primitive_desc_t pd = NULL;
	dnnl_primitive_attr_t attr = NULL;
	dnnl_post_ops_t post = NULL;
	bool		ok;

	ok = check(dnnl_primitive_attr_create(&attr), "make attributes", status);
	if (ok && out)
		ok = check(dnnl_post_ops_create(&post), "make attributes", status) &&
			check(dnnl_post_ops_append_sum(post, 1.0f), "append a sum",
				  status) &&
			check(dnnl_primitive_attr_set_post_ops(attr, post),
				  "set attributes", status);
	ok = ok &&
		check(dnnl_reorder_primitive_desc_create(&pd, out ? packed : plain,
												 engine, out ? plain : packed,
												 engine, attr),
			  "choose a reorder", status) &&
		check(dnnl_primitive_create(&conv->reorder, pd), "make a reorder",
			  status);
	if (pd != NULL)
		dnnl_primitive_desc_destroy(pd);
	if (post != NULL)
		dnnl_post_ops_destroy(post);
	if (attr != NULL)
		dnnl_primitive_attr_destroy(attr);
	return ok;
}

static bool
create_memory(dnnl_memory_t *memory, const dnnl_memory_desc_t *md,
			  EngDnnlConv *conv, void *handle, EngStatus *status)
{
	return check(dnnl_memory_create(memory, md, conv->dnnl->engine, handle),
				 "make a memory", status);
}

/*
 * Join those that read the same array packed the same way, or be the first.
 */
static bool
share(EngDnnlConv *conv, const dnnl_memory_desc_t *layout, EngStatus *status)
{
	SharedWeights *shared = conv->dnnl->shared;

	while (shared != NULL && (shared->weight != conv->shape.shared ||
							  !dnnl_memory_desc_equal(&shared->layout,
													  layout)))
		shared = shared->next;
	if (shared == NULL)
	{
		shared = calloc(1, sizeof(*shared));
		if (shared == NULL)
			return eng_fail(status, ENG_NO_MEMORY, "out of memory");
		shared->weight = conv->shape.shared;
		shared->layout = *layout;
		shared->size = conv->packed_size;
		shared->data = eng_arena_alloc(shared->size);
		if (shared->data == NULL)
		{
			free(shared);
			return eng_fail(status, ENG_NO_MEMORY, "out of memory");
		}
		shared->next = conv->dnnl->shared;
		conv->dnnl->shared = shared;
	}
	shared->users++;
	conv->shared = shared;
	conv->packed = shared->data;
	return true;
}

static void
stop_sharing(EngDnnlConv *conv)
{
	SharedWeights *shared = conv->shared;
	SharedWeights **link = &conv->dnnl->shared;

	if (--shared->users > 0)
		return;
	while (*link != shared)
		link = &(*link)->next;
	*link = shared->next;
	eng_arena_free(shared->data, shared->size);
	free(shared);
}

static bool
create_memories(EngDnnlConv *conv, const Descriptors *d,
				const_dnnl_primitive_desc_t pd, EngStatus *status)
{
	const dnnl_memory_desc_t *packed;
	const dnnl_memory_desc_t *scratch;

	packed = dnnl_primitive_desc_query_md(
		pd, conv->shape.what == ENG_DNNL_WEIGHT ? dnnl_query_diff_weights_md :
		dnnl_query_weights_md, 0);
	scratch = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
	conv->packed_size = dnnl_memory_desc_get_size(packed);
	conv->scratch_size = eng_align(dnnl_memory_desc_get_size(scratch));
	/* what is not kept has its place in the workspace, behind the scratch */
	if (conv->shape.shared != NULL)
	{
		if (!share(conv, packed, status))
			return false;
	}
	else if (conv->shape.keep)
	{
		conv->packed = eng_arena_alloc(conv->packed_size);
		if (conv->packed == NULL)
			return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	}
	return create_memory(&conv->source, &d->source, conv, DNNL_MEMORY_NONE,
						 status) &&
		create_memory(&conv->target, &d->target, conv, DNNL_MEMORY_NONE,
					  status) &&
		create_memory(&conv->plain, &d->plain, conv, DNNL_MEMORY_NONE,
					  status) &&
		create_memory(&conv->bias, &d->bias, conv, DNNL_MEMORY_NONE,
					  status) &&
		create_memory(&conv->weight, packed, conv,
					  conv->packed != NULL ? conv->packed : DNNL_MEMORY_NONE,
					  status) &&
		create_memory(&conv->scratchpad, scratch, conv, DNNL_MEMORY_NONE,
					  status) &&
		create_reorder(conv, &d->plain, packed, status);
}

EngDnnlConv *
eng_dnnl_conv_create(EngDnnl *dnnl, const EngDnnlShape *shape,
					 EngStatus *status)
{
	EngDnnlConv *conv = calloc(1, sizeof(EngDnnlConv));
	dnnl_primitive_desc_t pd = NULL;
	Descriptors d;
	const char *text = "";
	int			threads = omp_get_max_threads();
	bool		ok;

	if (conv == NULL)
	{
		eng_fail(status, ENG_NO_MEMORY, "out of memory");
		return NULL;
	}
	conv->dnnl = dnnl;
	conv->shape = *shape;
	if (shape->one_thread)
		omp_set_num_threads(1);
	ok = describe(&d, shape, status) &&
		create_descriptor(&pd, dnnl, shape, &d, status) &&
		check(dnnl_primitive_create(&conv->primitive, pd),
			  "make an operation", status);
	omp_set_num_threads(threads);
	ok = ok && create_memories(conv, &d, pd, status);
	if (ok)
		(void) dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0,
										 &text);
	snprintf(conv->text, sizeof(conv->text), "%s", text);
	if (pd != NULL)
		dnnl_primitive_desc_destroy(pd);
	if (!ok)
	{
		eng_dnnl_conv_free(conv);
		return NULL;
	}
	return conv;
}

void
eng_dnnl_conv_free(EngDnnlConv *conv)
{
	dnnl_memory_t memories[6];
	int			i;

	if (conv == NULL)
		return;
	memories[0] = conv->source;
	memories[1] = conv->target;
	memories[2] = conv->weight;
	memories[3] = conv->plain;
	memories[4] = conv->bias;
	memories[5] = conv->scratchpad;
	for (i = 0; i < 6; i++)
		if (memories[i] != NULL)
			dnnl_memory_destroy(memories[i]);
	if (conv->primitive != NULL)
		dnnl_primitive_destroy(conv->primitive);
	if (conv->reorder != NULL)
		dnnl_primitive_destroy(conv->reorder);
	if (conv->shared != NULL)
		stop_sharing(conv);
	else
		eng_arena_free(conv->packed, conv->packed_size);
	free(conv);
}

size_t
eng_dnnl_conv_scratch(const EngDnnlConv *conv)
{
	return conv->scratch_size +
		(conv->shape.keep ? 0 : eng_align(conv->packed_size));
}

size_t
eng_dnnl_conv_packed(const EngDnnlConv *conv)
{
	if (conv->shared != NULL)
		return conv->packed_size / (size_t) conv->shared->users;
	return conv->packed != NULL ? conv->packed_size : 0;
}

const char *
eng_dnnl_conv_text(const EngDnnlConv *conv)
{
	return conv->text;
}

static bool
point(dnnl_memory_t memory, const void *data, EngStatus *status)
{
	return check(dnnl_memory_set_data_handle(memory, (void *) data),
				 "use a memory", status);
}

static bool
execute(EngDnnlConv *conv, dnnl_primitive_t primitive, int count,
		const dnnl_exec_arg_t *args, EngStatus *status)
{
	return check(dnnl_primitive_execute(primitive, conv->dnnl->stream, count,
										args), "run", status) &&
		check(dnnl_stream_wait(conv->dnnl->stream), "finish", status);
}

/* Where packed weights, or their gradients, are. */
static bool
point_packed(EngDnnlConv *conv, void *scratch, EngStatus *status)
{
	return point(conv->weight, conv->shape.keep ? (uint8_t *) conv->packed :
				 (uint8_t *) scratch + conv->scratch_size, status);
}

bool
eng_dnnl_conv_pack(EngDnnlConv *conv, const float *weight, uint64_t version,
				   void *scratch, EngStatus *status)
{
	dnnl_exec_arg_t args[2] = {
		{DNNL_ARG_FROM, conv->plain}, {DNNL_ARG_TO, conv->weight}
	};

	if (conv->shared != NULL && conv->shared->version == version)
		return true;
	if (!point(conv->plain, weight, status) ||
		!point_packed(conv, scratch, status) ||
		!execute(conv, conv->reorder, 2, args, status))
		return false;
	if (conv->shared != NULL)
		conv->shared->version = version;
	return true;
}

bool
eng_dnnl_conv_multiply(EngDnnlConv *conv, const void *x, const void *dy,
					   void *scratch, EngStatus *status)
{
	dnnl_exec_arg_t args[4] = {
		{DNNL_ARG_SRC, conv->source}, {DNNL_ARG_DIFF_DST, conv->target},
		{DNNL_ARG_DIFF_WEIGHTS, conv->weight},
		{DNNL_ARG_SCRATCHPAD, conv->scratchpad}
	};

	return point(conv->source, x, status) &&
		point(conv->target, dy, status) &&
		point(conv->scratchpad, scratch, status) &&
		point_packed(conv, scratch, status) &&
		execute(conv, conv->primitive, 4, args, status);
}

void *
eng_dnnl_conv_gradient(const EngDnnlConv *conv, void *scratch)
{
	return (uint8_t *) scratch + conv->scratch_size;
}

size_t
eng_dnnl_conv_gradient_size(const EngDnnlConv *conv)
{
	return conv->packed_size;
}

bool
eng_dnnl_conv_unpack(EngDnnlConv *conv, float *dweight, void *scratch,
					 EngStatus *status)
{
	dnnl_exec_arg_t args[2] = {
		{DNNL_ARG_FROM, conv->weight}, {DNNL_ARG_TO, conv->plain}
	};

	return point_packed(conv, scratch, status) &&
		point(conv->plain, dweight, status) &&
		execute(conv, conv->reorder, 2, args, status);
}

bool
eng_dnnl_conv_run(EngDnnlConv *conv, void *out, const void *in,
				  const float *bias, void *scratch, EngStatus *status)
{
	bool		forward = conv->shape.what == ENG_DNNL_FORWARD;
	dnnl_exec_arg_t args[5] = {
		{forward ? DNNL_ARG_SRC : DNNL_ARG_DIFF_SRC, conv->source},
		{forward ? DNNL_ARG_DST : DNNL_ARG_DIFF_DST, conv->target},
		{DNNL_ARG_WEIGHTS, conv->weight},
		{DNNL_ARG_SCRATCHPAD, conv->scratchpad},
		{DNNL_ARG_BIAS, conv->bias}
	};

	return point(conv->source, forward ? in : out, status) &&
		point(conv->target, forward ? out : in, status) &&
		point(conv->scratchpad, scratch, status) &&
		point_packed(conv, scratch, status) &&
		(!conv->shape.bias || point(conv->bias, bias, status)) &&
		execute(conv, conv->primitive, conv->shape.bias ? 5 : 4, args, status);
}

bool
eng_gemm(const EngGemm *g, float *c, const float *a, const float *b,
		 EngStatus *status)
{
	return check(dnnl_sgemm(g->ta ? 'T' : 'N', g->tb ? 'T' : 'N', g->m, g->n,
							g->k, 1.0f, a, g->ta ? g->m : g->k, b,
							g->tb ? g->k : g->n, g->add ? 1.0f : 0.0f, c,
							g->n), "multiply", status);
}
