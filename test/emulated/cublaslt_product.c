/*
 * test/emulated/cublaslt_product.c
 *		The loops of a product, in float as on the device.
 *
 * Both operands are laid out along the sum first.  A sum is made of LANES
 * parts: other roundings than those of a plain loop, as the device has.
 */
#include <stdlib.h>
#include <string.h>

#include "cublaslt.h"
#include "engine/core/clones.h"
#include "engine/core/element.h"

#define LANES	16
#define ROWS	4				/* of a that go over a row of b together */

static EngType
type_of(int type)
{
	return type == CUDA_R_16BF ? ENG_BF16 : type == CUDA_R_16F ? ENG_F16 :
		ENG_F32;
}

static float *
take(size_t count)
{
	float	   *memory = calloc(count, sizeof(float));

	if (memory == NULL)
		emulated_stop("no memory for a product");
	return memory;
}

/*
 * (lines, step) floats with what is summed lying together: element (line, i)
 * is at i + line * leading, or, across, at line + i * leading.
 */
static float *
lay_out(const void *from, const EmulatedLayout *layout, uint64_t lines,
		uint64_t k, uint64_t step, bool across)
{
	EngType		type = type_of(layout->type);
	float	   *to = take((lines + ROWS) * step);
	uint64_t	line;
	uint64_t	i;

	if (across)
		for (i = 0; i < k; i++)
			for (line = 0; line < lines; line++)
				to[line * step + i] = eng_load(from, type, (int64_t)
											   (line + i * layout->leading));
	else
		for (line = 0; line < lines; line++)
			for (i = 0; i < k; i++)
				to[line * step + i] = eng_load(from, type, (int64_t)
											   (i + line * layout->leading));
	return to;
}

/* Sums of ROWS rows of a with one of b; step is a multiple of LANES. */
ENG_CLONES static void
dots(float sums[ROWS], const float *a, const float *b, uint64_t step)
{
	float		part[ROWS][LANES] = {{0}};
	uint64_t	i;
	int			r;
	int			l;

	for (i = 0; i < step; i += LANES)
		for (r = 0; r < ROWS; r++)
			for (l = 0; l < LANES; l++)
				part[r][l] += a[r * step + i + l] * b[i + l];
	for (r = 0; r < ROWS; r++)
	{
		sums[r] = 0;
		for (l = 0; l < LANES; l++)
			sums[r] += part[r][l];
	}
}

/* Of what is not a number the ReLU makes 0: as little as max() promises. */
static float
finish(const EmulatedProduct *p, float x, uint64_t row)
{
	if (p->d.epilogue == CUBLASLT_EPILOGUE_BIAS ||
		p->d.epilogue == CUBLASLT_EPILOGUE_RELU_BIAS)
		x += eng_load(p->d.bias, type_of(p->out.type), (int64_t) row);
	if (p->d.epilogue == CUBLASLT_EPILOGUE_RELU ||
		p->d.epilogue == CUBLASLT_EPILOGUE_RELU_BIAS)
		x = x > 0 ? x : 0;
	return x;
}

/* Gradient of a bias: sums of the lines of an operand, stored. */
static void
sum_lines(const EmulatedProduct *p, const float *x, uint64_t lines,
		  uint64_t step)
{
	uint64_t	line;
	uint64_t	i;

	for (line = 0; line < lines; line++)
	{
		float		sum = 0;

		for (i = 0; i < step; i++)
			sum += x[line * step + i];
		eng_store(p->d.bias, type_of(p->out.type), (int64_t) line, sum);
	}
}

void
emulated_multiply(void *argument)
{
	const EmulatedProduct *p = argument;
	EngType		type = type_of(p->out.type);
	uint64_t	step = (p->k + LANES - 1) / LANES * LANES;
	float	   *a = lay_out(p->at_a, &p->a, p->m, p->k, step,
							p->d.transpose_a != CUBLAS_OP_T);
	float	   *b = lay_out(p->at_b, &p->b, p->n, p->k, step,
							p->d.transpose_b == CUBLAS_OP_T);
	uint64_t	i;
	uint64_t	j;
	uint64_t	r;

	/* nobody may keep something there */
	memset(p->workspace, 0xff, p->workspace_size);
	for (j = 0; j < p->n; j++)
		for (i = 0; i < p->m; i += ROWS)
		{
			float		sums[ROWS];

			dots(sums, a + i * step, b + j * step, step);
			for (r = 0; r < ROWS && i + r < p->m; r++)
			{
				int64_t		at = (int64_t) (i + r + j * p->out.leading);
				float		x = p->alpha * sums[r];

				if (p->beta != 0)
					x += p->beta * eng_load(p->at_out, type, at);
				eng_store(p->at_out, type, at, finish(p, x, i + r));
			}
		}
	if (p->d.epilogue == CUBLASLT_EPILOGUE_BGRADA)
		sum_lines(p, a, p->m, step);
	if (p->d.epilogue == CUBLASLT_EPILOGUE_BGRADB)
		sum_lines(p, b, p->n, step);
	free(a);
	free(b);
}
