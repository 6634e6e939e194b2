/*
 * engine/nets/clip_private.h
 *		The inside of a CLIP network, for the files that make it up.
 */
#ifndef ENG_NETS_CLIP_PRIVATE_H
#define ENG_NETS_CLIP_PRIVATE_H

#include "engine/core/plan.h"
#include "engine/nets/clip.h"

#define ENG_CLIP_PLANS	12		/* kept: groups of several sizes, lengths */

typedef enum EngClipSide
{
	ENG_CLIP_IMAGE = 0,
	ENG_CLIP_TEXT
} EngClipSide;

typedef struct EngClipPlan
{
	EngPlan    *plan;
	EngClipSide side;
	uint64_t	used;			/* the larger, the later */
} EngClipPlan;

struct EngClip
{
	EngClipConfig config;
	EngBackend *backend;
	EngParameters parameters;
	EngModel	models[2][2];	/* of a side; [1]: every stage on all tokens */
	EngClipPlan plans[ENG_CLIP_PLANS];
	EngPlan    *current;		/* of the last call, or NULL */
	uint64_t	uses;
	uint8_t    *arena;			/* of activations, shared by the plans */
	size_t		arena_size;
	uint8_t    *workspace;
	size_t		workspace_size;
	size_t		memory_limit;
	EngType		precision;
	bool		keep_all;
	bool		profile;
	void	   *input;			/* for a device: a group's before it goes there */
	size_t		input_size;
	float	   *stage;			/* a stage's values as floats, or NULL */
	EngPlanRow *rows;			/* of the last explain */
};

/*
 * clip.c: the operations of one tower.  all: of every token to the end;
 * float_start: pictures' first products stay float in every precision.
 */
extern bool eng_clip_describe(EngModel *model, const EngClipConfig *config,
							  EngClipSide side, bool all, bool float_start,
							  EngStatus *status);

/* clip_run.c: tokens at which a group is run whose longest text has so many */
extern int32_t eng_clip_tokens(const EngClipConfig *config, int32_t longest);

/*
 * clip_plans.c: the plan of a group of n entries, made if there is none;
 * tokens: of texts.
 */
extern EngPlan *eng_clip_plan(EngClip *clip, EngClipSide side, int32_t n,
							  int32_t tokens, EngStatus *status);

#endif
