/*
 * engine/core/parameters.h
 *		The registry of weights: names, shapes, places.
 *
 * Names, shapes and order are torch's state-dict; values lie in our layout:
 * convolutions OHWI, the first linear layer behind the RoI maps (O, H, W, C).
 * Values, gradients and optimizer slots are parallel flat arrays of one
 * order, trained tensors first, buffers (values only) behind them.
 */
#ifndef ENG_CORE_PARAMETERS_H
#define ENG_CORE_PARAMETERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/status.h"

typedef enum EngParameterLayout
{
	ENG_LAYOUT_PLAIN = 0,		/* vectors, linear layers */
	ENG_LAYOUT_CONV,			/* torch (O, I, k, k), here (O, k, k, I) */
	ENG_LAYOUT_MAP_LINEAR,		/* torch (O, C * s * s), here (O, s, s, C) */
	ENG_LAYOUT_TURNED,			/* torch (I, O), here (O, I) */
	ENG_LAYOUT_COUNTER			/* one int64, not a float */
} EngParameterLayout;

typedef enum EngInitRule
{
	ENG_INIT_CONSTANT = 0,		/* init_scale everywhere */
	ENG_INIT_NORMAL,			/* N(0, init_scale^2) */
	ENG_INIT_UNIFORM			/* U(-init_scale, init_scale) */
} EngInitRule;

typedef struct EngParameter
{
	char		name[80];
	EngParameterLayout layout;
	int32_t		rank;
	int64_t		shape[4];		/* torch's */
	int32_t		map_size;		/* s of ENG_LAYOUT_MAP_LINEAR */
	int64_t		count;			/* elements */
	int64_t		offset;			/* floats from the start of the arrays;
								 * counters: index */
	bool		is_buffer;
	bool		is_norm;		/* affine of a norm layer */
	int32_t		body_stage;		/* -1: not of the body; 0 stem .. 4 layer4 */
	bool		trainable;
	EngInitRule init;
	float		init_scale;
} EngParameter;

/* Where a backend computes. */
typedef struct EngRunArrays
{
	float	   *values;
	float	   *gradients;
	float	   *slots[2];
} EngRunArrays;

typedef struct EngParameters
{
	EngParameter *list;
	int32_t		count;
	int32_t		capacity;
	bool		laid_out;
	int64_t		trained;		/* floats of the part with gradients */
	int64_t		total;			/* floats of values */
	int32_t		counters;
	float	   *values;			/* (total) */
	float	   *gradients;		/* (trained) or NULL */
	float	   *slots[2];		/* (trained) or NULL */
	int64_t    *counter_values; /* (counters) */
	EngRunArrays run;			/* the arrays above, or those of the mirror */
	struct EngMirror *mirror;	/* copies on a device (mirror.h), or NULL */
	uint64_t	version;		/* changes whenever values change */
} EngParameters;

/*
 * Find the parameter of template's name, or add a copy of template (only
 * before layout).  Returns its index, -1 with status set if a name is used
 * for two shapes or memory ends.
 */
extern int32_t eng_parameters_add(EngParameters *parameters,
								  const EngParameter *template,
								  EngStatus *status);
extern int32_t eng_parameters_find(const EngParameters *parameters,
								   const char *name);

/* Give every tensor its place and reserve the arrays. */
extern bool eng_parameters_layout(EngParameters *parameters, bool train,
								  EngStatus *status);
/* Reserve (zeroed) or drop optimizer slots: 0, 1 or 2. */
extern bool eng_parameters_slots(EngParameters *parameters, int count,
								 EngStatus *status);
extern void eng_parameters_free(EngParameters *parameters);

/* Draw initial values; counter-based, keyed by seed, name and torch index. */
extern void eng_parameters_init(EngParameters *parameters, uint64_t seed);

/* Copy count floats between torch's layout and ours; not for counters. */
extern void eng_parameter_to_torch(const EngParameter *parameter, float *out,
								   const float *ours);
extern void eng_parameter_from_torch(const EngParameter *parameter,
									 float *ours, const float *in);

#endif
