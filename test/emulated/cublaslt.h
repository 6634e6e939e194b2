/*
 * test/emulated/cublaslt.h
 *		Inside the stand-in for cuBLASLt.
 */
#ifndef EMULATED_CUBLASLT_H
#define EMULATED_CUBLASLT_H

#include <cublasLt.h>
#include <stdint.h>

#include "stream.h"

/* In place of cublasLtMatmulDescOpaque_t and cublasLtMatrixLayoutOpaque_t. */
typedef struct EmulatedDescription
{
	int32_t		compute;
	int32_t		scale;
	int32_t		transpose_a;
	int32_t		transpose_b;
	uint32_t	epilogue;
	int32_t		bias_type;		/* -1: the result's */
	void	   *bias;
} EmulatedDescription;

typedef struct EmulatedLayout
{
	int32_t		type;
	uint64_t	rows;
	uint64_t	columns;
	int64_t		leading;		/* elements from column to column */
} EmulatedLayout;

/* A product with all that it needs, by value. */
typedef struct EmulatedProduct
{
	EmulatedDescription d;
	EmulatedLayout a;
	EmulatedLayout b;
	EmulatedLayout c;
	EmulatedLayout out;
	uint64_t	m;
	uint64_t	n;
	uint64_t	k;
	float		alpha;
	float		beta;
	const void *at_a;
	const void *at_b;
	void	   *at_out;
	void	   *workspace;
	size_t		workspace_size;
} EmulatedProduct;

/* Work of a stream: an EmulatedProduct. */
extern void emulated_multiply(void *argument);

#endif
