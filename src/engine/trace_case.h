/*
 * engine/trace_case.h
 *		A recorded case: its inputs, and a place for what we make of them.
 *
 * A case is a safetensors file with tensors "in.*" and "out.*".  A tensor
 * too large to be stored is there as "NAME#r": float64 [sum, L2 norm,
 * largest magnitude, elements, stride, samples...], sample j being element
 * j * stride.  put writes ours under the same name in the same form, and
 * drops what the case does not hold.
 */
#ifndef ENG_TRACE_CASE_H
#define ENG_TRACE_CASE_H

#include <jansson.h>

#include "engine/io/safetensors.h"

typedef struct EngTraceCase EngTraceCase;

/* Read a case.  status is kept: every later failure goes there. */
extern EngTraceCase *eng_trace_case_open(const char *path, EngStatus *status);
extern void eng_trace_case_close(EngTraceCase *trace);

/* Parsed metadata "config"; "" if there is no text of that key. */
extern const json_t *eng_trace_config(const EngTraceCase *trace);
extern const char *eng_trace_text(const EngTraceCase *trace, const char *key);
extern EngStatus *eng_trace_status(const EngTraceCase *trace);

/* Zeroed memory that lives as long as the case; NULL and status if none. */
extern void *eng_trace_alloc(EngTraceCase *trace, size_t size);

/* Name of the i-th tensor of the file, in order; NULL beyond the last. */
extern const char *eng_trace_name(const EngTraceCase *trace, int32_t i);

/* Is there an input, or an output whole or reduced, of that name? */
extern bool eng_trace_has(const EngTraceCase *trace, const char *format,...)
			__attribute__((format(printf, 2, 3)));
extern bool eng_trace_wants(const EngTraceCase *trace, const char *format,...)
			__attribute__((format(printf, 2, 3)));

/* An input's header; NULL and status if it is missing. */
extern const EngFileTensor *eng_trace_tensor(const EngTraceCase *trace,
											 const char *format,...)
			__attribute__((format(printf, 2, 3)));

/* Has the input this number of elements?  If not, status says so. */
extern bool eng_trace_expect(const EngTraceCase *trace, int64_t count,
							 const char *format,...)
			__attribute__((format(printf, 3, 4)));

/* An input as floats, whole numbers or bytes; NULL and status if it fails. */
extern float *eng_trace_floats(EngTraceCase *trace, const char *format,...)
			__attribute__((format(printf, 2, 3)));
extern int32_t *eng_trace_ints(EngTraceCase *trace, const char *format,...)
			__attribute__((format(printf, 2, 3)));
extern uint8_t *eng_trace_bytes(EngTraceCase *trace, const char *format,...)
			__attribute__((format(printf, 2, 3)));

/*
 * A recorded output of rows of four floats, stored whole, to be given to
 * later stages; NULL without a failure if there is none.
 */
extern float *eng_trace_recorded(EngTraceCase *trace, int32_t *rows,
								 const char *format,...)
			__attribute__((format(printf, 3, 4)));

/* What is put out: name, type and shape. */
typedef struct EngTraceOut
{
	char		name[160];
	int32_t		rank;
	int64_t		shape[4];
} EngTraceOut;

extern EngTraceOut eng_trace_out(int32_t rank, const int64_t shape[4],
								 const char *format,...)
			__attribute__((format(printf, 3, 4)));

extern bool eng_trace_put_floats(EngTraceCase *trace, const EngTraceOut *out,
								 const float *data);
extern bool eng_trace_put_ints(EngTraceCase *trace, const EngTraceOut *out,
							   const int32_t *data);

/* Write the outputs to a file. */
extern bool eng_trace_case_write(EngTraceCase *trace, const char *path);

/* Permutations between torch's layout and ours. */
typedef struct EngTraceShape
{
	int32_t		n;
	int32_t		c;
	int32_t		h;
	int32_t		w;
} EngTraceShape;

extern void eng_trace_to_nhwc(float *out, const float *in,
							  EngTraceShape shape);

/* in has `pitch` channels, of which shape.c are taken. */
extern void eng_trace_to_nchw(float *out, const float *in,
							  EngTraceShape shape, int32_t pitch);

#endif
