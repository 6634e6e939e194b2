/*
 * engine/cpu/cpu.h
 *		The backend for ordinary processors.
 */
#ifndef ENG_CPU_CPU_H
#define ENG_CPU_CPU_H

#include "engine/core/backend.h"
#include "engine/cpu/onednn.h"

typedef struct EngCpuShares EngCpuShares;

/* conv.c, linear.c: planned kernels, one table of functions each */
typedef struct EngKernelClass
{
	bool		(*forward) (EngKernel *kernel, void *y, const void *x,
							const float *weight, const float *bias,
							uint64_t version, void *workspace,
							EngStatus *status);
	bool		(*backward_data) (EngKernel *kernel, void *dx,
								  const void *dy, const float *weight,
								  uint64_t version, void *workspace,
								  EngStatus *status);
	bool		(*backward_weight) (EngKernel *kernel, float *dweight,
									float *dbias, const void *x,
									const void *dy, void *workspace,
									EngStatus *status);
} EngKernelClass;

struct EngKernel
{
	const EngKernelClass *class;
	EngBackend *backend;
	EngConvShape shape;
	EngDnnlConv *forward;
	EngDnnlConv *data;
	EngCpuShares *weight;
	uint64_t	forward_version;	/* of the packed weights */
	bool		linear;			/* inner products */
	bool		flip;			/* backward data as a forward convolution */
	bool		scatter;		/* backward data of a strided 1x1 kernel */
	bool		compact;		/* strided 1x1: both ways back on the cells that
								 * it reads */
	bool		columns;		/* backward weight by unrolled columns */
	size_t		workspace;
	char		text[120];
};

extern EngKernel *eng_cpu_conv_plan(EngBackend *backend,
									const EngConvShape *shape,
									EngStatus *status);
extern EngKernel *eng_cpu_linear_plan(EngBackend *backend,
									  const EngConvShape *shape,
									  EngStatus *status);
/* conv.c: by primitives of oneDNN; linear: a 1x1 shape of stride 1 */
extern EngKernel *eng_cpu_primitive_plan(EngBackend *backend,
										 const EngConvShape *shape,
										 bool linear, EngStatus *status);

/* columns.c: weight gradient by unrolling the input into columns */
/* columns (rows, k * k * c): the windows of rows output cells */
extern void eng_cpu_unroll(const EngConvShape *shape, void *columns,
						   const void *x, int64_t first, int64_t rows);
extern int64_t eng_cpu_column_rows(const EngConvShape *shape);
extern size_t eng_cpu_column_workspace(const EngConvShape *shape,
									   int threads);
extern bool eng_cpu_column_weight(const EngConvShape *shape, int threads,
								  float *dweight, const float *x,
								  const float *dy, void *workspace,
								  EngStatus *status);

/* shares.c: weight gradient, each thread with rows of its own */
extern EngCpuShares *eng_cpu_shares_create(EngDnnl *dnnl,
										   const EngDnnlShape *shape,
										   int threads, EngStatus *status);
extern void eng_cpu_shares_free(EngCpuShares *shares);
extern size_t eng_cpu_shares_workspace(const EngCpuShares *shares);
extern const char *eng_cpu_shares_text(const EngCpuShares *shares);
/* dweight (oc, k, k, c) += */
extern bool eng_cpu_shares_run(const EngCpuShares *shares, float *dweight,
							   const void *x, const void *dy,
							   void *workspace, EngStatus *status);

/*
 * sparse.c: both ways back when few rows of dy are not zero; *done false:
 * they are too many, nothing was written
 */
extern size_t eng_cpu_sparse_workspace(const EngConvShape *shape);
extern bool eng_cpu_sparse_weight(const EngConvShape *shape, float *dweight,
								  float *dbias, const void *x,
								  const void *dy, void *workspace,
								  bool *done, EngStatus *status);
extern bool eng_cpu_sparse_data(const EngConvShape *shape, void *dx,
								const void *dy, const float *weight,
								void *workspace, bool *done,
								EngStatus *status);

/* rows.c: work on (rows, channels) arrays, split over the threads */
extern void eng_cpu_bias_relu(float *y, const float *bias, int64_t rows,
							  int32_t channels, bool relu);
/* sum[c] += sum over rows of x[r, c]; fixed order of additions */
extern void eng_cpu_column_sums(float *sum, const void *x, EngType type,
								int64_t rows, int32_t channels);
extern void eng_cpu_add(void *y, const void *x, EngType type, int64_t count);
/* by one thread */
extern void eng_cpu_add_cell(void *y, const void *x, EngType type,
							 int64_t count);
extern void eng_cpu_round(uint16_t *y, const float *x, int64_t count);
/* by one thread */
extern void eng_cpu_widen(float *y, const void *x, EngType type,
						  int64_t count);

/* norm.c */
extern size_t eng_cpu_norm_workspace(const EngBackend *backend, int64_t rows,
									 int32_t channels);
extern void eng_cpu_norm_forward(EngBackend *backend,
								 const EngNormArgs *args);
extern void eng_cpu_norm_backward(EngBackend *backend,
								  const EngNormArgs *args);

/* maps.c, tokens.c, attention.c, update.c */
extern void eng_cpu_map_operations(EngBackend *backend);
extern void eng_cpu_token_operations(EngBackend *backend);
extern void eng_cpu_attention(EngBackend *backend, void *y, const void *qkv,
							  const EngAttentionShape *shape);
extern void eng_cpu_update_operations(EngBackend *backend);

#endif
