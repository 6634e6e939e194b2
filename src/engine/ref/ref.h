/*
 * engine/ref/ref.h
 *		The reference backend: plain loops, sums in double.
 */
#ifndef ENG_REF_REF_H
#define ENG_REF_REF_H

#include "engine/core/backend.h"

/* conv.c */
extern void eng_ref_conv_operations(EngBackend *backend);

/* norm.c */
extern size_t eng_ref_norm_workspace(const EngBackend *backend, int64_t rows,
									 int32_t channels);
extern void eng_ref_norm_forward(EngBackend *backend,
								 const EngNormArgs *args);
extern void eng_ref_norm_backward(EngBackend *backend,
								  const EngNormArgs *args);

/* maps.c */
extern void eng_ref_map_operations(EngBackend *backend);

/* tokens.c */
extern void eng_ref_token_operations(EngBackend *backend);

#endif
