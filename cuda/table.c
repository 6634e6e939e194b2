/*
 * cuda/table.c
 *		The backend's table over the device's operations.
 */
#include "cuda/table.h"

static EngCuda *
cuda_of(const EngBackend *backend)
{
	return backend->state;
}

/* ---- memory ------------------------------------------------------------------ */

static void *
cuda_alloc(EngBackend *backend, size_t size)
{
	return eng_device_alloc(cuda_of(backend), size);
}

static void
cuda_free(EngBackend *backend, void *memory, size_t size)
{
	(void) size;
	eng_device_free(cuda_of(backend), memory);
}

static bool
cuda_upload(EngBackend *backend, void *to, const void *from, size_t size,
			EngStatus *status)
{
	return eng_device_upload(cuda_of(backend), to, from, size, status);
}

static bool
cuda_download(EngBackend *backend, void *to, const void *from, size_t size,
			  EngStatus *status)
{
	return eng_device_download(cuda_of(backend), to, from, size, status);
}

static void
cuda_copy(EngBackend *backend, void *to, const void *from, size_t size)
{
	eng_device_copy(cuda_of(backend), to, from, size);
}

static void
cuda_settle(EngBackend *backend)
{
	eng_device_settle(cuda_of(backend));
}

static void
cuda_fill(EngBackend *backend, float *x, int64_t count)
{
	eng_device_zero(cuda_of(backend), x, sizeof(float) * count);
}

/* ---- layers ------------------------------------------------------------------ */

static void
cuda_fold(EngBackend *backend, const EngFold *fold)
{
	eng_cuda_fold(cuda_of(backend), fold);
}

static size_t
norm_workspace(const EngBackend *backend, int64_t rows, int32_t channels)
{
	return eng_cuda_norm_workspace(rows, channels) +
		(cuda_of(backend)->ranks != NULL ? eng_cuda_norm_shared(channels) : 0);
}

static void
norm_forward(EngBackend *backend, const EngNormArgs *args)
{
	eng_cuda_norm_forward(cuda_of(backend), args);
}

static void
norm_backward(EngBackend *backend, const EngNormArgs *args)
{
	eng_cuda_norm_backward(cuda_of(backend), args);
}

static void
relu_backward(EngBackend *backend, EngType type, void *dy, const void *y,
			  int64_t count)
{
	eng_cuda_relu_backward(cuda_of(backend), type, dy, y, count);
}

static void
add_relu(EngBackend *backend, EngType y_type, void *y, EngType type,
		 const void *x, const void *add, int64_t count)
{
	eng_cuda_add_relu(cuda_of(backend), y_type, y, type, x, add, count);
}

static void
maxpool_forward(EngBackend *backend, void *y, uint8_t *which, const void *x,
				const EngPoolShape *shape)
{
	eng_cuda_maxpool_forward(cuda_of(backend), y, which, x, shape);
}

static void
maxpool_backward(EngBackend *backend, void *dx, const void *dy,
				 const uint8_t *which, const EngPoolShape *shape, bool add)
{
	eng_cuda_maxpool_backward(cuda_of(backend), dx, dy, which, shape, add);
}

static void
upsample_add(EngBackend *backend, void *y, const void *x,
			 const EngScaleShape *shape)
{
	eng_cuda_upsample_add(cuda_of(backend), y, x, shape);
}

static void
upsample_backward(EngBackend *backend, void *dx, const void *dy,
				  const EngScaleShape *shape, bool add)
{
	eng_cuda_upsample_backward(cuda_of(backend), dx, dy, shape, add);
}

static void
subsample(EngBackend *backend, void *y, const void *x,
		  const EngScaleShape *shape)
{
	eng_cuda_subsample(cuda_of(backend), y, x, shape);
}

static void
subsample_backward(EngBackend *backend, void *dx, const void *dy,
				   const EngScaleShape *shape, bool add)
{
	eng_cuda_subsample_backward(cuda_of(backend), dx, dy, shape, add);
}

static void
roi_align(EngBackend *backend, void *out, const EngRoiMaps *maps,
		  const EngRois *rois)
{
	eng_cuda_roi_align(cuda_of(backend), out, maps, rois);
}

static void
roi_align_backward(EngBackend *backend, void *const dmap[ENG_ROI_LEVELS],
				   const bool add[ENG_ROI_LEVELS], const void *dout,
				   const EngRoiMaps *maps, const EngRois *rois,
				   void *workspace)
{
	(void) workspace;
	eng_cuda_roi_align_backward(cuda_of(backend), dmap, add, dout, maps,
								rois);
}

/* ---- transformers -------------------------------------------------------------- */

static void
layer_norm(EngBackend *backend, const EngLayerNormArgs *args)
{
	eng_cuda_layer_norm(cuda_of(backend), args);
}

static void
attention(EngBackend *backend, void *y, const void *qkv,
		  const EngAttentionShape *shape)
{
	eng_cuda_attention(cuda_of(backend), y, qkv, shape);
}

static void
join_tokens(EngBackend *backend, float *y, const float *x,
			const float *first, const float *positions,
			const EngTokens *shape)
{
	eng_cuda_join_tokens(cuda_of(backend), y, x, first, positions, shape);
}

static void
embed_tokens(EngBackend *backend, float *y, const float *ids,
			 const float *table, const float *positions,
			 const EngTokens *shape)
{
	eng_cuda_embed_tokens(cuda_of(backend), y, ids, table, positions, shape);
}

static void
pick_tokens(EngBackend *backend, EngType type, void *y, const void *x,
			const float *ids, const EngTokens *shape)
{
	eng_cuda_pick_tokens(cuda_of(backend), type, y, x, ids, shape);
}

/* ---- the optimizer -------------------------------------------------------------- */

static bool
step_begin(EngBackend *backend, const EngStepControl *control,
		   EngStatus *status)
{
	EngCuda    *cuda = cuda_of(backend);
	EngCudaStep step = {
		.lr = control->lr, .clip_norm = control->clip_norm,
		.correction1 = control->correction1,
		.correction2 = control->correction2
	};

	/* the losses behind it are the device's */
	return eng_device_upload(cuda, cuda->step, &step,
							 offsetof(EngCudaStep, rpn_loss), status);
}

static void
step_norm(EngBackend *backend, const float *gradients, int64_t count)
{
	eng_cuda_step_norm(cuda_of(backend), gradients, count);
}

static bool
step_end(EngBackend *backend, EngStepOutcome *outcome, EngStatus *status)
{
	EngCuda    *cuda = cuda_of(backend);
	EngCudaStep step;

	if (!eng_device_download(cuda, &step, cuda->step, sizeof(step), status))
		return false;
	outcome->norm = step.norm;
	outcome->updated = step.go != 0;
	outcome->loss_scale = step.loss_scale;
	return true;
}

static bool
set_loss_scale(EngBackend *backend, const EngLossScale *scale,
			   EngStatus *status)
{
	EngCuda    *cuda = cuda_of(backend);

	return eng_device_upload(cuda, &cuda->step->loss_scale, scale,
							 sizeof(*scale), status);
}

static void
update_sgd(EngBackend *backend, const EngUpdate *update)
{
	eng_cuda_update_sgd(cuda_of(backend), update);
}

static void
update_adamw(EngBackend *backend, const EngUpdate *update)
{
	eng_cuda_update_adamw(cuda_of(backend), update);
}

bool
eng_cuda_open_step(EngCuda *cuda, EngStatus *status)
{
	cuda->step = eng_device_alloc(cuda, sizeof(EngCudaStep));
	cuda->sums = eng_device_alloc(cuda, sizeof(double) * ENG_CUDA_SUMS);
	if (cuda->step == NULL || cuda->sums == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory on the device");
	return true;
}

void
eng_cuda_close_step(EngCuda *cuda)
{
	eng_device_free(cuda, cuda->step);
	eng_device_free(cuda, cuda->sums);
}

void
eng_cuda_set_table(EngBackend *backend)
{
	backend->version = ENG_BACKEND_VERSION;
	backend->device = true;
	backend->takes_f16 = true;
	backend->alloc = cuda_alloc;
	backend->free = cuda_free;
	backend->upload = cuda_upload;
	backend->download = cuda_download;
	backend->copy = cuda_copy;
	backend->settle = cuda_settle;
	backend->fold = cuda_fold;
	backend->norm_workspace = norm_workspace;
	backend->norm_forward = norm_forward;
	backend->norm_backward = norm_backward;
	backend->relu_backward = relu_backward;
	backend->add_relu = add_relu;
	backend->maxpool_forward = maxpool_forward;
	backend->maxpool_backward = maxpool_backward;
	backend->upsample_add = upsample_add;
	backend->upsample_backward = upsample_backward;
	backend->subsample = subsample;
	backend->subsample_backward = subsample_backward;
	backend->roi_align = roi_align;
	backend->roi_align_backward = roi_align_backward;
	backend->fill = cuda_fill;
	backend->update_sgd = update_sgd;
	backend->update_adamw = update_adamw;
	backend->set_loss_scale = set_loss_scale;
	backend->step_begin = step_begin;
	backend->step_norm = step_norm;
	backend->step_end = step_end;
	backend->join = eng_cuda_join;
	backend->regions = &eng_cuda_region_ops;
	backend->layer_norm = layer_norm;
	backend->attention = attention;
	backend->join_tokens = join_tokens;
	backend->embed_tokens = embed_tokens;
	backend->pick_tokens = pick_tokens;
}
