/*
 * cuda/cuda.h
 *		Inside the backend for NVIDIA's GPUs.
 *
 * The .c files are the host's side: the table, memory, plans of cuDNN and
 * cuBLASLt, the arrays beside a plan's regions.  The .cu files hold kernels
 * and the functions that launch them, which are declared here and report
 * nothing: what goes wrong shows at the next eng_device_check().  Everything
 * runs on one stream, in the order of the calls.
 */
#ifndef ENG_CUDA_CUDA_H
#define ENG_CUDA_CUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/core/backend.h"

#ifdef __cplusplus
extern "C"
{
#endif

/* What a training step leaves on the device for the host, and for itself. */
typedef struct EngCudaStep
{
	/* from the host */
	float		lr;
	float		clip_norm;
	double		correction1;
	double		correction2;
	/* found on the way */
	float		rpn_loss[2];	/* objectness, box */
	float		roi_loss[2];	/* classifier, box */
	double		rpn_sums[3];	/* of ranks: both losses before the division, */
	double		roi_sums[3];	/* by the last */
	double		norm;			/* of the gradients without the loss scale */
	float		scale;			/* of the gradients, for the updates */
	int32_t		go;				/* losses and norm are finite */
	/* from step to step */
	EngLossScale loss_scale;
} EngCudaStep;

typedef struct EngStaging EngStaging;
typedef struct EngFrames EngFrames;

typedef struct EngCuda
{
	void	   *stream;
	int			device;
	int			compute;		/* capability: 10 * major + minor */
	size_t		memory;			/* bytes that it has */
	char		name[240];
	EngCudaStep *step;			/* on the device */
	double	   *sums;			/* ENG_CUDA_SUMS, on the device */
	void	   *properties;		/* planner.c: of a device that is not here */
	void	   *cudnn;			/* handles of the libraries */
	void	   *cublas;
	struct EngPacked *packed;	/* weights that kernels share */
	EngStaging *staging;		/* device.c */
	EngFrames  *frames;			/* frames.c; NULL: none are kept */
	struct EngCudaRanks *ranks; /* of several GPUs (collective.c), or NULL */
} EngCuda;

#define ENG_CUDA_SUMS	4096	/* partial sums of the norm of gradients */

/* ---- device.c ---------------------------------------------------------------- */

extern bool eng_cuda_open_staging(EngCuda *cuda, EngStatus *status);
extern void eng_cuda_close_staging(EngCuda *cuda);

/* zeroed; where memory is short, kept pictures make room */
extern void *eng_device_alloc(EngCuda *cuda, size_t size);
/* the same, but for what others hold */
extern void *eng_device_try_alloc(EngCuda *cuda, size_t size);
extern void eng_device_free(EngCuda *cuda, void *memory);
extern size_t eng_device_left(EngCuda *cuda);	/* bytes; 0: not known */
extern void eng_device_zero(EngCuda *cuda, void *memory, size_t size);
/* from is free again when this returns */
extern bool eng_device_upload(EngCuda *cuda, void *to, const void *from,
							  size_t size, EngStatus *status);
/* from must stay as it is until the device was waited for, or settle */
extern bool eng_device_send(EngCuda *cuda, void *to, const void *from,
							size_t size, EngStatus *status);
extern void eng_device_settle(EngCuda *cuda);
extern void eng_device_copy(EngCuda *cuda, void *to, const void *from,
							size_t size);

/* Copies to the host: waits for them, and for what came before. */
typedef struct EngFetch
{
	void	   *to;
	const void *from;
	size_t		size;
} EngFetch;

extern bool eng_device_fetch(EngCuda *cuda, const EngFetch *parts, int count,
							 EngStatus *status);
extern bool eng_device_download(EngCuda *cuda, void *to, const void *from,
								size_t size, EngStatus *status);
extern bool eng_device_check(EngCuda *cuda, EngStatus *status);

/* pinned memory of the host's: EngHostMemory */
extern void *eng_device_host_alloc(int device, size_t size);
extern void eng_device_host_free(void *memory);

/* ---- frames.c: pictures that the device keeps ---------------------------------- */

typedef struct EngCudaFrame
{
	uint8_t    *pixels;			/* on the device */
	bool		ready;			/* they are there for whoever comes next */
} EngCudaFrame;

extern bool eng_cuda_open_frames(EngCuda *cuda, EngStatus *status);
extern void eng_cuda_close_frames(EngCuda *cuda);
/*
 * The picture of a key, held until it is released.  Not ready: a place of
 * size bytes to be filled and then called ready, or lost with its release.
 * NULL: it is not there, and there is no place for it.
 */
extern EngCudaFrame *eng_cuda_frame_take(EngCuda *cuda,
										 const EngFrameKey *key, size_t size);
extern void eng_cuda_frame_release(EngCuda *cuda, EngCudaFrame *frame);
/* Free all that is not held, and keep no more; false: there was nothing. */
extern bool eng_cuda_frames_give_up(EngCuda *cuda);
/* The backend's calls. */
extern void eng_cuda_set_frames(EngBackend *backend);

/* ---- collective.c: several GPUs --------------------------------------------- */

/* EngBackend.join: the backends sum by NCCL from now on. */
extern bool eng_cuda_join(EngBackend *const *backends, int32_t world,
						  EngStatus *status);
extern void eng_cuda_leave(EngCuda *cuda);
/* x = the sum over all ranks, on the stream; nothing once a rank has failed */
extern void eng_cuda_all_reduce(EngCuda *cuda, void *x, int64_t count,
								EngSumType type);
/* Wait for the stream; false: a rank has failed, whose status says why. */
extern bool eng_cuda_wait(EngCuda *cuda, EngStatus *status);

/* ---- norm.cu ---------------------------------------------------------------- */

extern size_t eng_cuda_norm_workspace(int64_t rows, int32_t channels);
/* What ranks need behind it. */
extern size_t eng_cuda_norm_shared(int32_t channels);
extern void eng_cuda_norm_forward(EngCuda *cuda, const EngNormArgs *args);
extern void eng_cuda_norm_backward(EngCuda *cuda, const EngNormArgs *args);
/* sum[c] += sum over rows of x[r, c]; workspace as of a norm */
extern void eng_cuda_column_sums(EngCuda *cuda, float *sum, const void *x,
								 EngType type, int64_t rows,
								 int32_t channels, void *workspace);

/* ---- maps.cu ---------------------------------------------------------------- */

extern void eng_cuda_relu_backward(EngCuda *cuda, EngType type, void *dy,
								   const void *y, int64_t count);
extern void eng_cuda_add_relu(EngCuda *cuda, EngType y_type, void *y,
							  EngType type, const void *x, const void *add,
							  int64_t count);
/* y = x + bias by row, with the ReLU where asked; in place allowed */
extern void eng_cuda_bias_relu(EngCuda *cuda, EngType type, void *y,
							   const void *x, const float *bias,
							   int64_t rows, int32_t channels, bool relu);
extern void eng_cuda_maxpool_forward(EngCuda *cuda, void *y, uint8_t *which,
									 const void *x, const EngPoolShape *s);
extern void eng_cuda_maxpool_backward(EngCuda *cuda, void *dx,
									  const void *dy, const uint8_t *which,
									  const EngPoolShape *s, bool add);
extern void eng_cuda_upsample_add(EngCuda *cuda, void *y, const void *x,
								  const EngScaleShape *s);
extern void eng_cuda_upsample_backward(EngCuda *cuda, void *dx,
									   const void *dy,
									   const EngScaleShape *s, bool add);
extern void eng_cuda_subsample(EngCuda *cuda, void *y, const void *x,
							   const EngScaleShape *s);
extern void eng_cuda_subsample_backward(EngCuda *cuda, void *dx,
										const void *dy,
										const EngScaleShape *s, bool add);
/* y = (or +=) x, from one type to another */
extern void eng_cuda_cast(EngCuda *cuda, EngType y_type, void *y,
						  EngType x_type, const void *x, int64_t count,
						  bool add);
extern void eng_cuda_fold(EngCuda *cuda, const EngFold *fold);

/* ---- attention.cu ----------------------------------------------------------- */

extern void eng_cuda_attention(EngCuda *cuda, void *y, const void *qkv,
							   const EngAttentionShape *s);

/* ---- tokens.cu -------------------------------------------------------------- */

extern void eng_cuda_layer_norm(EngCuda *cuda, const EngLayerNormArgs *args);
/* y = activation(y + bias) by row; bias NULL: none */
extern void eng_cuda_bias_activation(EngCuda *cuda, EngType type, void *y,
									 const float *bias, int64_t rows,
									 int32_t channels,
									 EngActivation activation);
extern void eng_cuda_join_tokens(EngCuda *cuda, float *y, const float *x,
								 const float *first, const float *positions,
								 const EngTokens *s);
extern void eng_cuda_embed_tokens(EngCuda *cuda, float *y, const float *ids,
								  const float *table, const float *positions,
								  const EngTokens *s);
extern void eng_cuda_pick_tokens(EngCuda *cuda, EngType type, void *y,
								 const void *x, const float *ids,
								 const EngTokens *s);

/* ---- update.cu -------------------------------------------------------------- */

extern void eng_cuda_step_norm(EngCuda *cuda, const float *x, int64_t count);
extern void eng_cuda_update_sgd(EngCuda *cuda, const EngUpdate *update);
extern void eng_cuda_update_adamw(EngCuda *cuda, const EngUpdate *update);

/* ---- roi_align.cu ----------------------------------------------------------- */

extern void eng_cuda_roi_align(EngCuda *cuda, void *out,
							   const EngRoiMaps *maps, const EngRois *rois);
extern void eng_cuda_roi_align_backward(EngCuda *cuda,
										void *const dmap[ENG_ROI_LEVELS],
										const bool add[ENG_ROI_LEVELS],
										const void *dout,
										const EngRoiMaps *maps,
										const EngRois *rois);

#ifdef __cplusplus
}
#endif

#endif
