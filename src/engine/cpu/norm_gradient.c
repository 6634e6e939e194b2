/*
 * engine/cpu/norm_gradient.c
 *		The way back through a batch norm: gradients summed, then passed on.
 */
#include <string.h>

#include "engine/core/clones.h"
#include "engine/core/ranks.h"
#include "engine/cpu/norm.h"

/* What the way back multiplies with; arrays of one element a channel. */
typedef struct Coefficients
{
	float	   *dy;				/* dx = dy * this + x * x + one */
	float	   *x;
	float	   *one;
	float	   *scale;			/* of the way forward */
	float	   *shift;
} Coefficients;

/* Whether the ReLU's mask comes from x: y is not there. */
static inline bool
masks_by_x(const EngNormArgs *a)
{
	return a->relu && a->y == NULL;
}

/*
 * dy = 0 where the ReLU gave 0; pass dy on to the added tensor; for count
 * elements from the i-th.
 */
ENG_INLINE void
hide_and_pass(const EngNormArgs *a, int64_t i, int64_t count, EngType type)
{
	void	   *dy = eng_at(a->dy, type, i);
	void	   *dadd = a->dadd == NULL ? NULL : eng_at(a->dadd, type, i);
	int64_t		c;

	if (a->relu)
	{
		const void *y = eng_at(a->y, type, i);

#pragma omp simd
		for (c = 0; c < count; c++)
			eng_store(dy, type, c, eng_load(y, type, c) > 0 ?
					  eng_load(dy, type, c) : 0);
	}
	if (dadd != NULL && a->dadd_add)
#pragma omp simd
		for (c = 0; c < count; c++)
			eng_store(dadd, type, c, eng_load(dadd, type, c) +
					  eng_load(dy, type, c));
	else if (dadd != NULL)
		memcpy(dadd, dy, eng_type_size(type) * count);
}

/*
 * dy at c, hidden where the ReLU gave 0: the expression of apply_rows.
 */
ENG_INLINE float
masked(const void *dy, const void *x, EngType type, int32_t c,
	   const float *scale, const float *shift)
{
	float		d = eng_load(dy, type, c);

	return eng_load(x, type, c) * scale[c] + shift[c] > 0 ? d : 0;
}

ENG_INLINE void
backward_sums_typed(const EngNormArgs *a, const Coefficients *k, float *sums,
					int64_t first, int64_t rows, EngType type)
{
	bool		by_x = masks_by_x(a);
	int32_t		channels = a->channels;
	int32_t		block;

	for (block = 0; block < channels; block += BLOCK)
	{
		int32_t		count = channels - block < BLOCK ? channels - block : BLOCK;
		const float *mean = a->mean + block;
		const float *scale = k->scale + block;
		const float *shift = k->shift + block;
		float		sum[BLOCK] = {0};
		float		moment[BLOCK] = {0};
		int64_t		i = first * channels + block;
		int64_t		r;
		int32_t		c;

		for (r = 0; r < rows; r++, i += channels)
		{
			const void *dy = eng_at(a->dy, type, i);
			const void *x = eng_at(a->x, type, i);

			if (by_x)
			{
#pragma omp simd
				for (c = 0; c < count; c++)
				{
					float		d = masked(dy, x, type, c, scale, shift);

					sum[c] += d;
					moment[c] += d * (eng_load(x, type, c) - mean[c]);
				}
				continue;
			}
			hide_and_pass(a, i, count, type);
#pragma omp simd
			for (c = 0; c < count; c++)
			{
				float		d = eng_load(dy, type, c);

				sum[c] += d;
				moment[c] += d * (eng_load(x, type, c) - mean[c]);
			}
		}
		for (c = 0; c < count; c++)
		{
			sums[block + c] = sum[c];
			sums[channels + block + c] = moment[c] * a->rstd[block + c];
		}
	}
}

/*
 * Hide dy where the ReLU did and pass it on; sums[0, c] = sum of dy,
 * sums[1, c] = sum of dy * (x - mean) * rstd.
 */
ENG_CLONES static void
backward_sums_f32(const EngNormArgs *a, const Coefficients *k, float *sums,
				  int64_t first, int64_t rows)
{
	backward_sums_typed(a, k, sums, first, rows, ENG_F32);
}

ENG_FOR_BF16 static void
backward_sums_bf16(const EngNormArgs *a, const Coefficients *k, float *sums,
				   int64_t first, int64_t rows)
{
	backward_sums_typed(a, k, sums, first, rows, ENG_BF16);
}

static void
backward_sums(const EngNormArgs *a, const Coefficients *k, float *sums,
			  int64_t first, int64_t rows)
{
	if (a->type == ENG_BF16)
		backward_sums_bf16(a, k, sums, first, rows);
	else
		backward_sums_f32(a, k, sums, first, rows);
}

ENG_INLINE void
backward_rows_typed(const EngNormArgs *a, const Coefficients *k,
					int64_t first, int64_t rows, EngType type)
{
	bool		by_x = masks_by_x(a);
	int32_t		channels = a->channels;
	int64_t		r;
	int32_t		c;

	for (r = first; r < first + rows; r++)
	{
		const void *dy = eng_at(a->dy, type, r * channels);
		const void *x = eng_at(a->x, type, r * channels);
		void	   *dx = eng_at(a->dx, type, r * channels);

		if (!a->batch && a->dx_add)
#pragma omp simd
			for (c = 0; c < channels; c++)
				eng_store(dx, type, c, eng_load(dx, type, c) +
						  (by_x ? masked(dy, x, type, c, k->scale, k->shift) :
						   eng_load(dy, type, c)) * k->dy[c]);
		else if (!a->batch)
#pragma omp simd
			for (c = 0; c < channels; c++)
				eng_store(dx, type, c,
						  (by_x ? masked(dy, x, type, c, k->scale, k->shift) :
						   eng_load(dy, type, c)) * k->dy[c]);
		else if (a->dx_add)
#pragma omp simd
			for (c = 0; c < channels; c++)
				eng_store(dx, type, c, eng_load(dx, type, c) +
						  ((by_x ?
							masked(dy, x, type, c, k->scale, k->shift) :
							eng_load(dy, type, c)) * k->dy[c] +
						   (eng_load(x, type, c) * k->x[c] + k->one[c])));
		else if (by_x)
#pragma omp simd
			for (c = 0; c < channels; c++)
				eng_store(dx, type, c,
						  masked(dy, x, type, c, k->scale, k->shift) *
						  k->dy[c] +
						  (eng_load(x, type, c) * k->x[c] + k->one[c]));
		else
#pragma omp simd
			for (c = 0; c < channels; c++)
				eng_store(dx, type, c, eng_load(dy, type, c) * k->dy[c] +
						  (eng_load(x, type, c) * k->x[c] + k->one[c]));
	}
}

/*
 * dx = dy * k->dy + x * k->x + k->one.
 */
ENG_CLONES static void
backward_rows_f32(const EngNormArgs *a, const Coefficients *k, int64_t first,
				  int64_t rows)
{
	backward_rows_typed(a, k, first, rows, ENG_F32);
}

ENG_FOR_BF16 static void
backward_rows_bf16(const EngNormArgs *a, const Coefficients *k, int64_t first,
				   int64_t rows)
{
	backward_rows_typed(a, k, first, rows, ENG_BF16);
}

static void
backward_rows(const EngNormArgs *a, const Coefficients *k, int64_t first,
			  int64_t rows)
{
	if (a->type == ENG_BF16)
		backward_rows_bf16(a, k, first, rows);
	else
		backward_rows_f32(a, k, first, rows);
}

static void
add_parameters(const EngNormArgs *a, double sum, double moment, int32_t c)
{
	if (a->dweight != NULL)
		a->dweight[c] += (float) moment;
	if (a->dbias != NULL)
		a->dbias[c] += (float) sum;
}

/*
 * The coefficients of dx:
 * dx = w rstd (dy - sum / n - (x - mean) rstd moment / n).
 */
static void
set_coefficients(const EngNormArgs *a, double sum, double moment,
				 double rows, const Coefficients *k, int32_t c)
{
	double		scale = (double) a->rstd[c] * a->weight[c];

	moment *= a->rstd[c];
	k->dy[c] = (float) scale;
	k->x[c] = (float) (-scale * moment / rows);
	k->one[c] = (float) (scale * (moment * a->mean[c] - sum) / rows);
}

/*
 * Parameter gradients and coefficients, or for ranks the sums that these
 * need from all.
 */
static void
finish_gradients(const EngNormArgs *a, const float *sums,
				 const Coefficients *k, bool shared)
{
	double	   *all = shared_sums(a);
	int32_t		block;

#pragma omp parallel for schedule(static)
	for (block = 0; block < a->channels; block += BLOCK)
	{
		int32_t		count = a->channels - block < BLOCK ?
			a->channels - block : BLOCK;
		double		sum[BLOCK];
		double		moment[BLOCK];
		int32_t		i;

		total_sums(sum, moment, a, sums, block, count);
		for (i = 0; i < count; i++)
		{
			add_parameters(a, sum[i], moment[i], block + i);
			if (shared)
			{
				all[block + i] = sum[i];
				all[a->channels + block + i] = moment[i];
			}
			else
				set_coefficients(a, sum[i], moment[i], (double) a->live, k,
								 block + i);
		}
	}
}

static void
share_gradients(EngBackend *backend, const EngNormArgs *a,
				const Coefficients *k)
{
	double	   *all = shared_sums(a);
	int32_t		c;

	all[2 * a->channels] = (double) a->live;
	backend->all_reduce(backend, all, 2 * a->channels + 1, ENG_SUM_F64);
	for (c = 0; c < a->channels; c++)
		set_coefficients(a, all[c], all[a->channels + c],
						 all[2 * a->channels], k, c);
}

/*
 * A frozen norm without affine gradients: one pass.
 */
ENG_CLONES static void
frozen_rows_f32(const EngNormArgs *a, int64_t first, int64_t rows)
{
	hide_and_pass(a, first * a->channels, rows * a->channels, ENG_F32);
}

ENG_FOR_BF16 static void
frozen_rows_bf16(const EngNormArgs *a, int64_t first, int64_t rows)
{
	hide_and_pass(a, first * a->channels, rows * a->channels, ENG_BF16);
}

static void
frozen_rows(const EngNormArgs *a, int64_t first, int64_t rows)
{
	if (a->type == ENG_BF16)
		frozen_rows_bf16(a, first, rows);
	else
		frozen_rows_f32(a, first, rows);
}

void
eng_cpu_norm_backward(EngBackend *backend, const EngNormArgs *a)
{
	float	   *sums = a->workspace;
	float	   *at = sums + 2 * piece_count(a->rows) * a->channels;
	Coefficients k = {at, at + a->channels, at + 2 * a->channels,
	at + 3 * a->channels, at + 4 * a->channels};
	bool		need_sums = a->batch || a->dweight != NULL || a->dbias != NULL;
	bool		shared = eng_backend_is_rank(backend) && a->batch &&
		a->dx != NULL;
	int64_t		pieces = piece_count(a->live);
	int64_t		p;

	clear_rest(a->dy, a);
	set_affine(a, k.scale, k.shift);
#pragma omp parallel for schedule(static)
	for (p = 0; p < pieces; p++)
	{
		int64_t		first = p * PIECE_ROWS;
		int64_t		rows = a->live - first < PIECE_ROWS ?
			a->live - first : PIECE_ROWS;

		if (need_sums)
			backward_sums(a, &k, sums + 2 * p * a->channels, first, rows);
		else if (!masks_by_x(a))
			frozen_rows(a, first, rows);
	}
	if (need_sums && (a->live > 0 || shared))
		finish_gradients(a, sums, &k, shared);
	else
		memcpy(k.dy, k.scale, sizeof(float) * a->channels);
	if (shared)
		share_gradients(backend, a, &k);
	if (a->dx != NULL && !a->dx_add)
		clear_rest(a->dx, a);
	if (a->dadd != NULL && !a->dadd_add)
		clear_rest(a->dadd, a);
	if (a->dx == NULL)
		return;
#pragma omp parallel for schedule(static)
	for (p = 0; p < pieces; p++)
		backward_rows(a, &k, p * PIECE_ROWS,
					  a->live - p * PIECE_ROWS < PIECE_ROWS ?
					  a->live - p * PIECE_ROWS : PIECE_ROWS);
}
